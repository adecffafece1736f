"""Two TLS ends on the running loop, and a wire between them that changes what goes over it.

The ends are transports of the loop over real sockets. The wire has their other halves. It carries
on piece by piece, and each piece only when the one before it was read, so that where the bytes are
cut does not depend on time. Neither does the end of an exchange that goes no further: if nothing is
on its way and nobody has anything to read, the wire breaks off.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..support import stream_sockets

CLEAN = (ssl.SSLError, ConnectionError)
"""What a program may get that has no good connection."""

QUIET_TURNS = 25
"""So many turns of the loop in which nothing moves: nothing will."""

type Change = Callable[[int, bytes], Iterator[bytes | None]]
"""Gets a position and the bytes from there on; yields what is carried on, `None` for an end."""


def whole(position: int, data: bytes) -> Iterator[bytes]:
    """Carries on what comes, as it comes."""
    yield data


def cut(size: int, offset: int = 0) -> Change:
    """Cuts at every position that leaves `offset` when it is divided by `size`."""

    def change(position: int, data: bytes) -> Iterator[bytes]:
        while data:
            count = size - (position - offset) % size
            yield data[:count]
            position, data = position + count, data[count:]

    return change


def cut_once(at: int) -> Change:
    """Cuts at one position."""

    def change(position: int, data: bytes) -> Iterator[bytes]:
        count = at - position
        if 0 < count < len(data):
            yield data[:count]
            data = data[count:]
        yield data

    return change


def broken_off(at: int) -> Change:
    """Ends at a position."""

    def change(position: int, data: bytes) -> Iterator[bytes | None]:
        count = at - position
        if count > 0:
            yield data[:count]
        if count <= len(data):
            yield None

    return change


def flipped(at: int, bit: int) -> Change:
    """Flips a bit of the byte at a position."""

    def change(position: int, data: bytes) -> Iterator[bytes]:
        if position <= at < position + len(data):
            changed = bytearray(data)
            changed[at - position] ^= 1 << bit
            data = bytes(changed)
        yield data

    return change


def has_something(fd: int) -> bool:
    """Whether a descriptor has bytes or an end that nobody has read; not if it is closed."""
    if fd < 0:
        return False
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    wanted = select.POLLIN | select.POLLHUP | select.POLLERR
    return any(events & wanted for _, events in poll.poll(0))


class Direction:
    """What goes from one end to the other."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, receiver: int, change: Change
    ) -> None:
        self._source, self._sink, self._receiver, self._change = source, sink, receiver, change
        self._is_over = False
        self.came = bytearray()
        """All that the sender has sent, as it was before the change."""

    def is_moving(self) -> bool:
        """Whether something is on its way, or has arrived and was not read."""
        on_its_way = not self._is_over and has_something(self._source.fileno())
        return on_its_way or has_something(self._receiver)

    def end(self) -> None:
        """Tells the receiver that nothing more comes."""
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)

    async def carry(self) -> None:
        """Carries on until the sender ends, the change says so, or the receiver is gone."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._source, 65536):
                position = len(self.came)
                self.came += data
                for piece in self._change(position, data):
                    if piece is None:
                        return
                    await loop.sock_sendall(self._sink, piece)
                    while has_something(self._receiver):  # noqa: ASYNC110 -- a turn of the loop
                        await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            self._is_over = True
            self.end()


class End(asyncio.Protocol):
    """One end. It counts on nothing but that it is told of the end."""

    def __init__(self, says: tuple[bytes, ...]) -> None:
        self._says = says
        self._transport: Any = None
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        for piece in self._says:
            transport.write(piece)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self._says:
            self._transport.write(data)
        elif len(self.data) == sum(map(len, self._says)):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@dataclass
class Ended:
    """How an end came to its end."""

    data: bytes
    error: BaseException | None


@dataclass
class Exchange:
    """What became of a question that the server sends back."""

    question: bytes
    server: Ended
    client: Ended
    to_server: bytes
    """What the client has sent over the wire, before it was changed."""
    to_client: bytes

    def faults(self) -> list[str]:
        """What is missing to a good end: both have all data, and no error."""
        return [
            f"{name}: {len(end.data)} of {len(self.question)} bytes, {end.error!r}"
            for name, end in (("server", self.server), ("client", self.client))
            if end.data != self.question or end.error is not None
        ]

    def check(self) -> None:
        """Asserts that no end got data that were not sent, nor an error of another kind."""
        for end in (self.server, self.client):
            assert self.question.startswith(end.data)
            assert end.error is None or isinstance(end.error, CLEAN), repr(end.error)


async def _ended(connecting: Awaitable[object], end: End) -> Ended:
    try:
        await connecting
    except CLEAN as error:
        return Ended(bytes(end.data), error)
    error = await end.lost
    return Ended(bytes(end.data), error)


async def exchange(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    question: tuple[bytes, ...],
    to_server: Change = whole,
    to_client: Change = whole,
) -> Exchange:
    """Connects two ends over a wire; the client asks, the server echoes, the client closes."""
    loop = asyncio.get_running_loop()
    client_near, client_far = stream_sockets("unix")
    server_near, server_far = stream_sockets("unix")
    for far in (client_far, server_far):
        far.setblocking(False)
    there = Direction(client_far, server_far, server_near.fileno(), to_server)
    back = Direction(server_far, client_far, client_near.fileno(), to_client)
    server, client = End(()), End(question)

    async def break_off() -> None:
        quiet = 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = 0 if there.is_moving() or back.is_moving() else quiet + 1
        there.end()
        back.end()

    with client_far, server_far:
        carrying = [asyncio.create_task(each) for each in (there.carry(), back.carry())]
        watching = asyncio.create_task(break_off())
        accepting = loop.connect_accepted_socket(lambda: server, server_near, ssl=server_context)
        connecting = loop.create_connection(
            lambda: client, sock=client_near, ssl=client_context, server_hostname="localhost"
        )
        ends = await asyncio.gather(_ended(accepting, server), _ended(connecting, client))
        watching.cancel()
        # Both ends are closed: so both directions come to their end.
        await asyncio.gather(*carrying)
        await asyncio.gather(watching, return_exceptions=True)
    return Exchange(b"".join(question), *ends, bytes(there.came), bytes(back.came))
