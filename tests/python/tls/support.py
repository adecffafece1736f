"""What the tests of TLS share: a peer that decides what its records are, and when they come."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ..support import HANG, BufferedRecorder, Recorder, self_signed, stream_sockets, turns


class Peer:
    """The far end of a connection, by hand: to encrypt and to send are two steps."""

    def __init__(self, sock: Any, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    async def step[T](self, call: Callable[[], T]) -> T:
        """Repeats a call of OpenSSL's until it has what it needs, and sends what it says."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                data = await asyncio.wait_for(loop.sock_recv(self.sock, 65536), HANG)
                if not data:
                    raise EOFError from None
                self.incoming.write(data)
            finally:
                if self.outgoing.pending and call == self.tls.do_handshake:
                    await loop.sock_sendall(self.sock, self.outgoing.read())

    async def shake_and_send(self, content: bytes) -> None:
        """Shakes hands, and sends the last of it and some content at once."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read())
                self.incoming.write(await asyncio.wait_for(loop.sock_recv(self.sock, 65536), HANG))
        await self.send(self.seal(content))

    def seal(self, *pieces: bytes) -> bytes:
        """The records of some pieces of content, for each its own."""
        for piece in pieces:
            self.tls.write(piece)
        return self.outgoing.read()

    def close_notify(self) -> bytes:
        """The record that says that nothing more will come."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    async def send(self, records: bytes) -> None:
        """Sends records as they are."""
        await asyncio.get_running_loop().sock_sendall(self.sock, records)

    async def send_cut(self, records: bytes, chance: random.Random) -> None:
        """Sends records in pieces which have nothing to do with where one ends."""
        while records:
            size = chance.choice((1, 100, 3_000, 40_000, 40_000))
            await self.send(records[:size])
            records = records[size:]
            await turns(2)

    async def read(self, count: int) -> bytes:
        """Reads so much content."""
        data = bytearray()
        while len(data) < count:
            left = count - len(data)
            chunk = await self.step(lambda left=left: self.tls.read(left))
            if not chunk:
                break
            data += chunk
        return bytes(data)

    async def read_end(self) -> bytes:
        """Reads until the other end has said that nothing more will come, or is gone."""
        data = bytearray()
        try:
            while chunk := await self.step(lambda: self.tls.read(65536)):
                data += chunk
        except EOFError, ConnectionResetError, ssl.SSLZeroReturnError:
            pass
        return bytes(data)


@asynccontextmanager
async def shaken[P: (Recorder, BufferedRecorder)](
    make: Callable[[], P],
    *,
    sslobject_class: type[ssl.SSLObject] | None = None,
    wrap: Callable[[Any], Any] = lambda sock: sock,
    **options: Any,
) -> AsyncIterator[tuple[Any, P, Peer]]:
    """A server's TLS transport of the running loop, its protocol, and the peer."""
    loop = asyncio.get_running_loop()
    server_context, client_context = self_signed()
    if sslobject_class is not None:
        server_context.sslobject_class = sslobject_class
    near, far = stream_sockets("tcp")
    peer = Peer(far, client_context)
    with far:
        (transport, protocol), _ = await asyncio.gather(
            loop.connect_accepted_socket(make, wrap(near), ssl=server_context, **options),
            peer.step(peer.tls.do_handshake),
        )
        try:
            yield transport, protocol, peer
        finally:
            if not protocol.lost.done():
                transport.abort()
            await protocol.ended()
