"""Promises of our transports where asyncio's own lose bytes or fail with an internal error."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest

from ..support import HANG, Recorder, connected, eventually, receive, run_main, stuff, turns

pytestmark = pytest.mark.loop_pool_only

type Loop = asyncio.AbstractEventLoop


@pytest.mark.parametrize("how", ["write", "writelines"])
@pytest.mark.parametrize("code", ["H", "i", "d"])
def test_a_view_of_larger_items_that_waits_is_counted_and_sent_in_bytes(
    loop: Loop, code: str, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            before = stuff(transport)
            size = transport.get_write_buffer_size()
            items = array.array(code, range(1_000))
            expected = items.tobytes()
            if how == "write":
                transport.write(memoryview(items))
            else:
                transport.writelines([memoryview(items)])
            assert transport.get_write_buffer_size() == size + len(expected)
            transport.write(b"after")
            total = len(before) + len(expected) + 5
            got = await asyncio.to_thread(receive, far, total)
            assert got == before + expected + b"after"

    run_main(loop, main())


def test_a_large_view_of_larger_items_is_sent_whole(loop: Loop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            content = os.urandom(8 << 20)
            transport.write(memoryview(content).cast("q"))
            assert 0 < transport.get_write_buffer_size() < len(content)
            assert await asyncio.to_thread(receive, far, len(content)) == content

    run_main(loop, main())


@pytest.mark.parametrize("how", ["write", "writelines"])
def test_a_view_of_several_dimensions_is_sent_in_its_order(loop: Loop, how: str) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            view = memoryview(bytes(range(100))).cast("B", [10, 10])
            if how == "write":
                transport.write(view)
            else:
                transport.writelines([view])
            assert receive(far, 100) == bytes(range(100))

    run_main(loop, main())


@pytest.mark.parametrize("how", ["write", "writelines"])
def test_a_bytearray_that_waits_cannot_lose_what_was_written(loop: Loop, how: str) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            before = stuff(transport)
            data = bytearray(b"a" * 1_000)
            if how == "write":
                transport.write(data)
            else:
                transport.writelines([data])
            with contextlib.suppress(BufferError):  # It is held, or it was copied.
                data.clear()
            transport.write(b"after")
            got = await asyncio.to_thread(receive, far, len(before) + 1_005)
            assert got == before + b"a" * 1_000 + b"after"

    run_main(loop, main())


def test_a_server_out_of_descriptors_is_silent_for_a_second(loop: Loop) -> None:
    """See `test_server.py`: one report for each attempt, and one attempt a second."""
    reports: list[float] = []
    loop.set_exception_handler(lambda *_: reports.append(loop.time()))

    async def main() -> None:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        protocol = Recorder()
        async with await loop.create_server(lambda: protocol, "127.0.0.1", 0) as server:
            with socket.socket() as client:
                client.setblocking(False)
                free = os.dup(0)
                os.close(free)
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                    await loop.sock_connect(client, server.sockets[0].getsockname())
                    await eventually(lambda: len(reports) == 2, "it tries again")
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                await eventually(lambda: bool(protocol.calls), "it goes on")
            await protocol.ended()

    run_main(loop, main())
    assert len(reports) == 2
    assert reports[1] - reports[0] >= 0.9


# Ends after ends


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_a_failing_factory_closes_the_connection_at_once(
    loop: Loop, reported: list[dict[str, Any]], debug: bool
) -> None:
    """asyncio leaves the socket to the garbage collector."""

    async def main() -> None:
        loop.set_debug(debug)

        def factory() -> Recorder:
            raise ZeroDivisionError

        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
                assert await asyncio.to_thread(client.recv, 1) == b""

    run_main(loop, main())
    assert len(reported) <= 1


# Threads


def test_an_end_refused_in_debug_mode_has_not_begun(loop: Loop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            for method in ("close", "abort"):
                loop.set_debug(True)
                with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                    await asyncio.to_thread(getattr(transport, method))
                loop.set_debug(False)
                assert not transport.is_closing()
            far.sendall(b"x")
            await protocol.got(1)

    run_main(loop, main())


def test_abort_after_close_of_a_write_pipe_is_one_end(loop: Loop, logged_errors: list[str]) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        with open(reading, "rb", 0), open(writing, "wb", 0) as pipe:
            transport, protocol = await loop.connect_write_pipe(Recorder, pipe)
            transport.close()
            transport.abort()
            assert await protocol.ended() is None

    run_main(loop, main())
    assert not logged_errors


class _Endpoint(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.calls: list[object] = []

    def error_received(self, exc: Exception) -> None:
        self.calls.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(exc)


def test_a_closed_endpoint_that_is_aborted_ends_once_and_drops_what_is_sent(
    loop: Loop, logged_errors: list[str]
) -> None:
    async def main() -> None:
        transport, protocol = await loop.create_datagram_endpoint(
            _Endpoint, local_addr=("127.0.0.1", 0)
        )
        own = transport.get_extra_info("sockname")
        transport.sendto(b"to itself", own)
        transport.close()
        transport.abort()
        await eventually(lambda: bool(protocol.calls), "the end")
        transport.sendto(b"dropped", own)
        await turns()
        assert protocol.calls == [None]

    run_main(loop, main())
    assert not logged_errors
