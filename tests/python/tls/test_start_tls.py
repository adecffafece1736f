"""`start_tls` in the middle of a stream: what flow control was asked for before it and in it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import pytest

import loop_pool
from loop_pool._loop import streams

from ..support import Recorder, connected, eventually, run_main, self_signed, stuff
from .support import Peer

type Loop = asyncio.AbstractEventLoop

pytestmark = pytest.mark.loop_pool_only
"""asyncio's own loop loses the resumption as well."""

LIMIT = 1000
CONTENT = os.urandom(10 * LIMIT)
"""More than a reader of that limit takes before it pauses its transport."""
REST = b"the rest"


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server and a client whose server speaks last in the handshake."""
    server, client = self_signed()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    return server, client


@pytest.mark.smoke
@pytest.mark.parametrize("start", [asyncio.start_server, streams.listen])
def test_a_server_s_reader_gets_what_comes_right_behind_the_handshake(
    loop: Loop, start: Any
) -> None:
    server_context, client_context = self_signed()

    async def main() -> None:
        read: asyncio.Future[bytes] = loop.create_future()

        async def serve(reader: Any, writer: Any) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            await writer.start_tls(server_context)
            read.set_result(await reader.readexactly(len(CONTENT) + len(REST)))
            writer.transport.abort()

        server = await start(serve, "127.0.0.1", 0, limit=LIMIT)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            peer = Peer(sock, client_context)
            await peer.send(b"STARTTLS\n")
            await peer.shake_and_send(CONTENT)
            await peer.send(peer.seal(REST))
            assert await read == CONTENT + REST
        server.close()
        await server.wait_closed()

    run_main(loop, main())


@pytest.mark.parametrize("connect", [asyncio.open_connection, loop_pool.open_connection])
def test_a_client_s_reader_gets_what_comes_right_behind_the_handshake(
    loop: Loop, connect: Any
) -> None:
    server_context, client_context = contexts()

    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            reader, writer = await connect(sock=near, limit=LIMIT)
            peer = Peer(far, server_context, server_side=True)
            shaking = asyncio.create_task(peer.shake_and_send(CONTENT))
            await writer.start_tls(client_context, server_hostname="localhost")
            await shaking
            await peer.send(peer.seal(REST))
            assert await reader.readexactly(len(CONTENT) + len(REST)) == CONTENT + REST
            writer.transport.abort()

    run_main(loop, main())


@pytest.mark.parametrize("start", [asyncio.start_server, streams.listen])
def test_a_reader_that_was_paused_before_it_is_fed_after_it(loop: Loop, start: Any) -> None:
    """The client's first flight is there before the upgrade, and more than it has room for."""
    server_context, client_context = self_signed()

    async def main() -> None:
        read: asyncio.Future[bytes] = loop.create_future()

        async def serve(reader: Any, writer: Any) -> None:
            await eventually(lambda: reader._paused, "the reader is full")
            assert await reader.readline() == b"STARTTLS\n"
            assert reader._paused
            await writer.start_tls(server_context)
            read.set_result(await reader.readexactly(len(CONTENT) + len(REST)))
            writer.transport.abort()

        server = await start(serve, "127.0.0.1", 0, limit=100)
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            peer = Peer(sock, client_context)
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            await peer.send(b"STARTTLS\n" + peer.outgoing.read())
            await peer.shake_and_send(CONTENT)
            await peer.send(peer.seal(REST))
            assert await read == CONTENT + REST
        server.close()
        await server.wait_closed()

    run_main(loop, main())


@pytest.mark.parametrize("delay", [0, 3])
def test_a_protocol_pauses_the_old_transport_and_resumes_the_new_one(
    loop: Loop, delay: int
) -> None:
    """It knows no other when the first data come. `delay`: turns until it hears of the new one."""
    server_context, client_context = self_signed()

    async def upgrade(old: Any, protocol: Recorder) -> Any:
        new = await loop.start_tls(old, protocol, server_context, server_side=True)
        for _ in range(delay):
            await asyncio.sleep(0)
        return new

    async def main() -> None:
        protocol = Recorder(data_received=lambda _: protocol.transport.pause_reading())
        async with connected(protocol) as (old, _, far):
            peer = Peer(far, client_context)
            shaking = asyncio.create_task(peer.shake_and_send(CONTENT))
            protocol.transport = await upgrade(old, protocol)
            await shaking
            await protocol.got(len(CONTENT))
            protocol.hooks.clear()
            protocol.transport.resume_reading()
            await peer.send(peer.seal(REST))
            await protocol.got(len(CONTENT) + len(REST))
            assert protocol.data == CONTENT + REST

    run_main(loop, main())


def test_what_waits_to_be_decrypted_keeps_the_transport_paused(loop: Loop) -> None:
    """A program's `resume_reading` does not lift the bound on what has come and was not taken."""
    server_context, client_context = self_signed()

    async def main() -> None:
        protocol = Recorder()
        async with connected(protocol) as (old, _, far):
            peer = Peer(far, client_context)
            shaking = asyncio.create_task(peer.shake_and_send(b"begin"))
            new = await loop.start_tls(old, protocol, server_context, server_side=True)
            await shaking
            await protocol.got(5)
            new.pause_reading()
            tls = old.get_protocol()
            piece = os.urandom(1 << 16)
            sent = 0
            while old.is_reading():
                await peer.send(peer.seal(piece))
                sent += len(piece)
                await asyncio.sleep(0)
            assert tls._ssl_reading_paused
            tls._resume_transport()
            assert not old.is_reading()
            new.resume_reading()
            await protocol.got(5 + sent)
            assert old.is_reading()

    run_main(loop, main())


def test_a_writer_that_had_to_wait_before_it_goes_on_after_it(loop: Loop) -> None:
    server_context, client_context = self_signed()

    async def main() -> None:
        protocol = Recorder()
        async with connected(protocol) as (old, _, far):
            old.set_write_buffer_limits(high=0)
            before = stuff(old)
            assert protocol.calls[-1] == "pause_writing"
            upgrading = asyncio.create_task(
                loop.start_tls(old, protocol, server_context, server_side=True)
            )
            await asyncio.sleep(0)
            peer = Peer(far, client_context)
            received = bytearray()
            while len(received) < len(before):
                received += await loop.sock_recv(far, min(65536, len(before) - len(received)))
            assert received == before
            shaking = asyncio.create_task(peer.shake_and_send(b"question"))
            new = await upgrading
            await shaking
            await protocol.got(8)
            assert protocol.count("pause_writing") == protocol.count("resume_writing") == 1
            new.write(b"answer")
            assert await peer.read(6) == b"answer"

    run_main(loop, main())
