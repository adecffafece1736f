"""Transports that nobody keeps: a loop keeps those that it could bring something, and no others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ..support import HANG, Recorder, eventually, run_main, stream_sockets, stuff, turns
from .support import socket_with_number

type Loop = asyncio.AbstractEventLoop

pytestmark = pytest.mark.smoke


@contextlib.contextmanager
def abandoned() -> Iterator[None]:
    """Checks that a transport is collected at the end, which an open one warns of.

    Its protocol keeps it, so nothing but the collector finds it, and here: warnings are counted by
    context, and the loop would have another one. Its socket may be found first, and warn as well.
    """
    gc.disable()
    try:
        yield
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            gc.collect()
    finally:
        gc.enable()
    assert any("unclosed transport" in str(each.message) for each in found), found


def pause(transport: Any) -> None:
    """As a protocol's `connection_made`."""
    transport.pause_reading()


async def connect(sock: socket.socket) -> Any:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Recorder, sock=sock)
    await turns()
    return transport


def test_a_paused_connection_that_nobody_keeps_is_closed(loop: Loop) -> None:
    async def main() -> None:
        async def abandon() -> None:
            transport = await connect(near)
            transport.pause_reading()

        with abandoned():
            await abandon()
            await turns()
        assert far.recv(1) == b""

    near, far = stream_sockets("tcp")
    with far:
        run_main(loop, main())


def test_a_connection_paused_by_its_protocol_at_once_is_closed_too(loop: Loop) -> None:
    async def main() -> None:
        with abandoned():
            await loop.create_connection(lambda: Recorder(connection_made=pause), sock=near)
            await turns()
        assert far.recv(1) == b""

    near, far = stream_sockets("tcp")
    with far:
        run_main(loop, main())


def test_a_reading_connection_is_kept(loop: Loop) -> None:
    async def main() -> None:
        async def abandon() -> weakref.ref[Any]:
            transport = await connect(near)
            transport.pause_reading()
            await turns()
            transport.resume_reading()
            return weakref.ref(transport)

        reference = await abandon()
        for _ in range(3):
            gc.collect()
            await turns()
        transport = reference()
        assert transport is not None
        transport.close()
        await turns()

    near, far = stream_sockets("tcp")
    with far:
        run_main(loop, main())


def test_a_paused_connection_is_kept_until_all_is_written(loop: Loop) -> None:
    async def main() -> None:
        async def abandon() -> tuple[weakref.ref[Any], bytes]:
            transport = await connect(near)
            transport.pause_reading()
            await turns()
            return weakref.ref(transport), stuff(transport)

        with abandoned():
            reference, written = await abandon()
            gc.collect()
            await turns()
            assert reference() is not None
            received = bytearray()
            far.setblocking(False)
            while len(received) < len(written):
                received += await asyncio.wait_for(loop.sock_recv(far, 1 << 20), HANG)
            assert received == written
            await turns()
        assert far.recv(1) == b""

    near, far = stream_sockets("tcp")
    with far:
        run_main(loop, main())


def test_an_abandoned_connection_to_a_server_is_closed_and_no_longer_waited_for(
    loop: Loop,
) -> None:
    async def main() -> None:
        seen = []

        def made(transport: Any) -> None:
            transport.pause_reading()
            seen.append(True)

        server = await loop.create_server(lambda: Recorder(connection_made=made), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address, HANG) as client:
            with abandoned():
                await eventually(lambda: bool(seen), "a connection")
                await turns()
                server.close()
            await asyncio.wait_for(server.wait_closed(), HANG)
            assert client.recv(1) == b""

    run_main(loop, main())


def test_a_server_closes_connections_that_are_paused_and_others(loop: Loop) -> None:
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    async def main() -> None:
        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address), socket.create_connection(address):
            await eventually(lambda: all(p.calls for p in protocols) and len(protocols) == 2, "2")
            paused, resumed = protocols
            for protocol in protocols:
                protocol.transport.pause_reading()
            await turns()
            resumed.transport.resume_reading()
            await turns()
            server.close()
            server.close_clients()
            await asyncio.wait_for(server.wait_closed(), HANG)
            assert await paused.ended() is None
            assert await resumed.ended() is None

    run_main(loop, main())


def test_a_paused_datagram_endpoint_that_nobody_keeps_is_closed(loop: Loop) -> None:
    class Kept(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

    async def main() -> None:
        async def abandon() -> None:
            transport, _ = await loop.create_datagram_endpoint(Kept, local_addr=("127.0.0.1", 0))
            await turns()
            transport.pause_reading()  # type: ignore[attr-defined]

        with abandoned():
            await abandon()
            await turns()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_with_warnings_as_errors_its_number_is_free_all_the_same(loop: Loop, kind: str) -> None:
    """asyncio's leaves the rest of its finalizer out."""

    async def main() -> None:
        async def abandon() -> None:
            transport = await connect(near)
            transport.pause_reading()

        fd = near.fileno()
        await abandon()
        await turns()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gc.collect()
        with contextlib.ExitStack() as stack:
            sock, other = socket_with_number(fd)
            stack.enter_context(other)
            (await connect(sock)).close()
            await turns()

    near, far = stream_sockets(kind)
    raised: list[Any] = []
    previous, sys.unraisablehook = sys.unraisablehook, lambda each: raised.append(each.exc_type)
    gc.disable()
    try:
        with far:
            run_main(loop, main())
    finally:
        gc.enable()
        sys.unraisablehook = previous
    assert ResourceWarning in raised
