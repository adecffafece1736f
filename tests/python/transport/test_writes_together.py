"""What is written often in one callback is sent together: no byte is lost, late or out of order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Recorder, connected, eventually, receive, run_main, turns

pytestmark = pytest.mark.usefixtures("clean_process")

PIECES = [b"one ", b"two ", b"three ", b"four ", b"five"]
"""More than are sent at once."""
ALL = b"".join(PIECES)


def _write(transport: Any) -> None:
    for piece in PIECES:
        transport.write(piece)


async def _in_a_callback(call: Callable[[], object]) -> None:
    """Calls it in a callback of the running loop, and waits until that has ended."""
    called = asyncio.Event()

    def callback() -> None:
        called.set()
        call()

    asyncio.get_running_loop().call_soon(callback)
    await called.wait()


def test_the_first_writes_of_a_callback_are_sent_at_once(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):

            def write() -> None:
                for piece in PIECES[:2]:
                    transport.write(piece)
                    received.append(receive(far, len(piece)))

            for _ in range(3):
                received: list[bytes] = []
                await _in_a_callback(write)
                assert received == PIECES[:2]

    run_main(loop, main())


def test_what_is_written_in_one_callback_comes_whole_and_in_order(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):

            def write() -> None:
                _write(transport)
                transport.write(b"")
                transport.write(bytearray(b"."))
                transport.write(memoryview(b"abc")[1:])
                transport.writelines([b"1", b"2"])

            await _in_a_callback(write)
            assert await asyncio.to_thread(receive, far, len(ALL) + 5) == ALL + b".bc12"

    run_main(loop, main())


def test_the_size_of_the_buffer_is_what_the_kernel_did_not_take(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):

            def write() -> None:
                _write(transport)
                sizes.append(transport.get_write_buffer_size())
                received.append(receive(far, len(ALL)))

            sizes, received = list[int](), list[bytes]()
            await _in_a_callback(write)
            assert (sizes, received) == ([0], [ALL])

    run_main(loop, main())


def test_every_transport_that_was_written_to_sends(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with (
            connected(Recorder()) as (first, _, far_first),
            connected(Recorder()) as (second, _, far_second),
        ):

            def write() -> None:
                for piece in PIECES:
                    first.write(piece)
                    second.write(piece)

            await _in_a_callback(write)
            for far in (far_first, far_second):
                assert await asyncio.to_thread(receive, far, len(ALL)) == ALL

    run_main(loop, main())


def _raise(_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "end",
    [
        lambda transport: transport.close(),
        lambda transport: transport.write_eof(),
        lambda transport: transport.abort(),
        lambda transport: transport.pause_reading(),
        lambda transport: transport.set_protocol(Recorder()),
        lambda transport: transport.set_write_buffer_limits(0),
        _raise,
    ],
    ids=["close", "write_eof", "abort", "pause_reading", "set_protocol", "limits", "raise"],
)
def test_whatever_follows_in_the_callback_it_is_sent(
    loop: asyncio.AbstractEventLoop, end: Callable[[Any], object]
) -> None:
    async def main() -> None:
        loop.set_exception_handler(lambda *_: None)
        near, far = socket.socketpair()
        with far:
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            await _in_a_callback(lambda: (_write(transport), end(transport)))
            assert await asyncio.to_thread(receive, far, len(ALL)) == ALL
            transport.abort()
            await turns()

    run_main(loop, main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_end_comes_once_after_what_was_written(
    loop: asyncio.AbstractEventLoop, end: str, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            await _in_a_callback(lambda: (_write(transport), getattr(transport, end)()))
            await protocol.ended()
            assert await asyncio.to_thread(receive, far) == ALL
            assert protocol.calls == ["connection_made", "connection_lost"]

    run_main(loop, main())


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_what_was_written_before_the_program_ends_is_sent(
    loop: asyncio.AbstractEventLoop, ending: type[BaseException]
) -> None:
    async def main() -> None:
        def write() -> None:
            _write(transport)
            raise ending

        near, far = socket.socketpair()
        transport, _ = await loop.create_connection(Recorder, sock=near)
        fars.append(far)
        transports.append(transport)
        loop.call_soon(write)
        await asyncio.sleep(HANG)

    fars, transports = list[socket.socket](), list[Any]()
    with pytest.raises(ending):
        run_main(loop, main())
    with fars[0] as far:
        assert receive(far, len(ALL)) == ALL
        transports[0].abort()


def test_what_is_written_while_the_loop_does_not_run_is_sent_at_once(
    loop: asyncio.AbstractEventLoop,
) -> None:
    near, far = socket.socketpair()
    with far:
        transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=near))
        _write(transport)
        assert receive(far, len(ALL)) == ALL
        transport.close()
        loop.run_until_complete(turns())


def test_a_reader_that_is_slow_pauses_a_writer_within_its_callback(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    """However small the pieces, and however many there would be."""

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):

            def write() -> None:
                piece = os.urandom(1000)
                while "pause_writing" not in protocol.calls:
                    transport.write(piece)
                    written.extend(piece)
                assert transport.get_write_buffer_size() <= 2 << 20

            written = bytearray()
            await _in_a_callback(write)
            assert await asyncio.to_thread(receive, far, len(written)) == written
            await eventually(lambda: "resume_writing" in protocol.calls, "it is resumed")

    run_main(loop, main())


def test_what_drain_lets_pass_is_not_above_the_mark(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for _ in range(300):
                    writer.write(bytes(30_000))
                    await writer.drain()
                    sizes.append(writer.transport.get_write_buffer_size())
            finally:
                writer.close()

        sizes = list[int]()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert len(await reader.read(-1)) == 300 * 30_000
            writer.close()
        assert len(sizes) == 300
        assert max(sizes) <= 1 << 16

    run_main(loop, main())


def test_a_file_comes_after_what_was_written(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file")

    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            with path.open("rb") as file:
                _write(transport)
                assert await loop.sendfile(transport, file) == 4
            _write(transport)
            expected = ALL + b"file" + ALL
            assert await asyncio.to_thread(receive, far, len(expected)) == expected

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_forked_child_sends_nothing_of_it_again() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder()) as (transport, _, far):

            def write() -> None:
                _write(transport)
                child = os.fork()
                if not child:
                    # Once this callback has ended, in which it would have been sent.
                    signal.alarm(int(HANG))
                    loop.call_soon(os._exit, 0)
                    return
                assert os.waitpid(child, 0)[1] == 0

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process
                await _in_a_callback(write)
            _write(transport)
            assert await asyncio.to_thread(receive, far, 2 * len(ALL)) == ALL + ALL
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(1)

    asyncio.run(main(), loop_factory=loop_pool.new_event_loop)


@pytest.mark.loop_pool_only
def test_a_loop_that_gets_stuck_before_has_it_sent_by_others() -> None:
    async def main() -> bool:
        def write() -> None:
            _write(transport)
            arrived.append(has_come.wait(HANG))

        def peer() -> None:
            if receive(far, len(ALL)) == ALL:
                has_come.set()

        has_come, arrived = threading.Event(), list[bool]()
        async with connected(Recorder()) as (transport, _, far):
            reader = threading.Thread(target=peer)
            reader.start()
            await _in_a_callback(write)
            reader.join(HANG)
        return arrived == [True]

    assert loop_pool.run(main(), loops=2)
