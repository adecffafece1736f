"""Stream transports: what may be written, in which order it goes, and how writing ends."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from ..support import Recorder, connected, eventually, receive, reset, run_main, stuff, turns

WARNING = "socket.send() raised exception."


@pytest.fixture(params=[False, True], ids=["empty", "queued"])
def queued(request: pytest.FixtureRequest) -> bool:
    """Whether something waits already."""
    return request.param


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How often asyncio warned of writes that go nowhere."""
    caplog.set_level(logging.WARNING, "asyncio")
    return lambda: sum(record.getMessage() == WARNING for record in caplog.records)


# What may be written

BYTES = b"\x00some bytes\xff"


@pytest.mark.smoke
@pytest.mark.parametrize(
    "data",
    [
        BYTES,
        bytearray(BYTES),
        memoryview(BYTES),
        memoryview(bytearray(BYTES)),
        memoryview(b"_" + BYTES + b"_")[1:-1],
        type("Sub", (bytes,), {})(BYTES),
        type("Sub", (bytearray,), {})(BYTES),
        memoryview(array.array("B", BYTES)),
    ],
    ids=["bytes", "bytearray", "view", "writable view", "slice", "bytes+", "bytearray+", "array"],
)
def test_kinds_of_data(loop: asyncio.AbstractEventLoop, data: Any, queued: bool) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            expected = stuff(transport) if queued else b""
            size = transport.get_write_buffer_size()
            transport.write(data)
            assert transport.get_write_buffer_size() == (size + len(BYTES) if queued else 0)
            transport.writelines([data, data])
            expected += BYTES * 3
            assert await asyncio.to_thread(receive, far, len(expected)) == expected

    run_main(loop, main())


@pytest.mark.parametrize("code", ["H", "i", "d", "q"])
def test_a_view_of_larger_items_is_sent_whole(loop: asyncio.AbstractEventLoop, code: str) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            items = array.array(code, range(1_000))
            transport.write(memoryview(items))
            assert receive(far, len(items.tobytes())) == items.tobytes()
            transport.write(memoryview(items.tobytes()).cast(code))
            assert receive(far, len(items.tobytes())) == items.tobytes()

    run_main(loop, main())


def _queues_what_comes_before_an_error(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `writelines` is that of asyncio's own loop since Python 3.15."""
    return isinstance(loop, asyncio.SelectorEventLoop) and sys.version_info >= (3, 15)


@pytest.mark.parametrize("data", ["text", None, 7, [b"x"], object(), array.array("B", b"x")])
def test_anything_else_is_a_type_error(
    loop: asyncio.AbstractEventLoop, data: Any, queued: bool
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            expected = stuff(transport) if queued else b""
            with pytest.raises(TypeError) as seen:
                transport.write(data)
            assert str(seen.value) == (
                "data argument must be a bytes, bytearray, or memoryview object, not "
                f"{type(data).__name__!r}"
            )
            for bad in ("text", 7):
                if _queues_what_comes_before_an_error(loop):
                    break
                with pytest.raises(TypeError):
                    transport.writelines([b"never sent", bad])
            transport.write(b"fine")
            expected += b"fine"
            assert await asyncio.to_thread(receive, far, len(expected)) == expected
            assert "connection_lost" not in protocol.calls
            transport.close()
            await protocol.ended()
            with pytest.raises(TypeError):
                transport.write(data)

    run_main(loop, main())


def test_a_bytearray_may_be_reused_once_it_is_sent(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            data = bytearray(b"first")
            transport.write(data)
            data[:] = b"later and longer"
            transport.writelines([data, data])
            data.clear()
            assert receive(far, 37) == b"first" + b"later and longer" * 2

    run_main(loop, main())


@pytest.mark.parametrize("how", ["write", "writelines"])
def test_a_bytearray_that_changes_while_it_waits_costs_no_byte_of_the_others(
    loop: asyncio.AbstractEventLoop, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            before = stuff(transport)
            data = bytearray(b"a" * 1_000)
            if how == "write":
                transport.write(data)
            else:
                transport.writelines([data])
            transport.write(b"after")
            data[:] = b"b" * 1_000  # Which of them is sent is not promised.
            total = len(before) + 1_000 + 5
            got = await asyncio.to_thread(receive, far, total)
            assert got[: len(before)] == before
            assert set(got[len(before) : -5]) <= set(b"ab")
            assert got[-5:] == b"after"

    run_main(loop, main())


# Many at once


@pytest.mark.smoke
@pytest.mark.parametrize("make", [list, tuple, iter, lambda items: (each for each in items)])
def test_writelines_takes_any_iterable(
    loop: asyncio.AbstractEventLoop, make: Callable[[Any], Iterable[bytes]], queued: bool
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            expected = stuff(transport) if queued else b""
            items: list[Any] = [b"a", b"", bytearray(b"b"), memoryview(b"cd"), bytearray()]
            transport.writelines(make(items))
            transport.writelines(make([]))
            transport.writelines(make([b"", bytearray(), memoryview(b"")]))
            transport.writelines([])
            expected += b"abcd"
            assert await asyncio.to_thread(receive, far, len(expected)) == expected
            await eventually(lambda: not transport.get_write_buffer_size(), "all is sent")

    run_main(loop, main())


def test_a_generator_that_fails_has_written_nothing(loop: asyncio.AbstractEventLoop) -> None:
    if _queues_what_comes_before_an_error(loop):
        pytest.skip("asyncio's own loop has written a part")

    def items() -> Iterable[bytes]:
        yield b"never sent"
        raise ZeroDivisionError

    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            with pytest.raises(ZeroDivisionError):
                transport.writelines(items())
            assert transport.get_write_buffer_size() == 0
            transport.write(b"sent")
            transport.close()
            assert await asyncio.to_thread(receive, far) == b"sent"

    run_main(loop, main())


@pytest.mark.parametrize("count", [1, 3, 1_023, 1_024, 1_025, 5_000])
def test_writelines_of_many_pieces(loop: asyncio.AbstractEventLoop, count: int, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            pieces = [b"%d," % number * 50 for number in range(count)]
            transport.writelines(pieces)
            assert await asyncio.to_thread(receive, far, len(b"".join(pieces))) == b"".join(pieces)

    run_main(loop, main())


def test_writes_of_all_sizes_stay_in_order(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    sizes = [1, 100, 70_000, 3, 300_000, 1, 1, 65_536, 2_000_000, 5]

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            expected = b""
            for number, size in enumerate(sizes):
                data = bytes([65 + number]) * size
                expected += data * 2
                transport.write(data)
                transport.writelines([data[: size // 2], data[size // 2 :]])
            assert await asyncio.to_thread(receive, far, len(expected)) == expected

    run_main(loop, main())


def test_writing_more_while_the_queue_drains(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            expected = bytearray(stuff(transport))
            got = bytearray()
            for number in range(200):
                data = b"%05d" % number * (number * 20 + 1)
                transport.write(data)
                expected += data
                got += await asyncio.to_thread(far.recv, 30_000)
            got += await asyncio.to_thread(receive, far, len(expected) - len(got))
            assert got == expected

    run_main(loop, main())


def test_data_received_may_write_what_it_got(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    content = os.urandom(3 << 20)

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            protocol.hooks["data_received"] = transport.write
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            assert await asyncio.to_thread(receive, far, len(content)) == content
            await sending

    run_main(loop, main())


# The end of writing


@pytest.mark.smoke
def test_write_eof_comes_after_what_is_queued(
    loop: asyncio.AbstractEventLoop, kind: str, queued: bool
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            expected = stuff(transport) if queued else b""
            transport.write_eof()
            transport.write_eof()
            assert not transport.is_closing()
            assert transport.is_reading()
            assert await asyncio.to_thread(receive, far) == expected
            far.sendall(b"the answer")
            await protocol.got(10)
            assert protocol.data == b"the answer"
            far.close()
            assert await protocol.ended() is None

    run_main(loop, main())


def test_nothing_may_be_written_after_write_eof(
    loop: asyncio.AbstractEventLoop, queued: bool
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            expected = stuff(transport) if queued else b""
            transport.write_eof()
            for data in (b"x", b""):
                with pytest.raises(RuntimeError) as seen:
                    transport.write(data)
                assert str(seen.value) == "Cannot call write() after write_eof()"
            for items in ([b"x"], []):
                with pytest.raises(RuntimeError) as seen:
                    transport.writelines(items)
                assert str(seen.value) == "Cannot call writelines() after write_eof()"
            with pytest.raises(TypeError):
                transport.write("text")
            assert await asyncio.to_thread(receive, far) == expected
            transport.close()
            await protocol.ended()
            with pytest.raises(RuntimeError):
                transport.write(b"x")

    run_main(loop, main())


def test_write_eof_after_close_does_nothing(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            expected = stuff(transport)
            transport.close()
            transport.write_eof()
            assert await asyncio.to_thread(receive, far) == expected
            assert await protocol.ended() is None

    run_main(loop, main())


def test_eof_received_that_returns_true_keeps_writing_open(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(eof_received=lambda: True), kind) as (
            transport,
            protocol,
            far,
        ):
            far.sendall(b"question")
            far.shutdown(socket.SHUT_WR)
            await eventually(lambda: protocol.count("eof_received") == 1, "the end is seen")
            assert protocol.data == b"question"
            assert not transport.is_closing()
            expected = stuff(transport) + b"more"
            transport.write(b"more")
            await turns(20)
            assert protocol.count("eof_received") == 1
            transport.close()
            assert await asyncio.to_thread(receive, far) == expected
            assert await protocol.ended() is None

    run_main(loop, main())


def test_both_may_half_close_and_nobody_is_told_of_an_end(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder(eof_received=lambda: True)) as (transport, protocol, far):
            transport.write_eof()
            far.shutdown(socket.SHUT_WR)
            await eventually(lambda: protocol.count("eof_received") == 1, "the end is seen")
            await turns(20)
            assert "connection_lost" not in protocol.calls
            transport.close()
            assert await protocol.ended() is None

    run_main(loop, main())


def test_eof_received_that_returns_nothing_flushes_before_it_closes(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            expected = stuff(transport)
            far.shutdown(socket.SHUT_WR)
            await eventually(transport.is_closing, "the end is seen")
            assert "connection_lost" not in protocol.calls
            assert await asyncio.to_thread(receive, far) == expected
            assert await protocol.ended() is None

    run_main(loop, main())


def test_close_flushes_and_abort_drops(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with (
            connected(Recorder(), kind) as (closed, _, far),
            connected(Recorder(), kind) as (aborted, _, other),
        ):
            expected = stuff(closed)
            dropped = stuff(aborted)
            closed.close()
            aborted.abort()
            assert closed.get_write_buffer_size() > 0
            assert aborted.get_write_buffer_size() == 0
            assert await asyncio.to_thread(receive, far) == expected
            got = await asyncio.to_thread(receive, other)
            assert len(got) < len(dropped)
            assert dropped.startswith(got)

    run_main(loop, main())


def test_abort_after_close_drops_what_is_still_queued(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            dropped = stuff(transport)
            transport.close()
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert await protocol.ended() is None
            assert len(receive(far)) < len(dropped)

    run_main(loop, main())


def test_what_is_written_after_close_while_data_waits_is_sent_too(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            expected = stuff(transport)
            transport.close()
            transport.write(b"one more")
            transport.writelines([b" and", b" another"])
            assert await asyncio.to_thread(receive, far) == expected + b"one more and another"
            assert await protocol.ended() is None

    run_main(loop, main())


# Writing into the void


@pytest.mark.parametrize("how", ["close", "abort", "reset"])
@pytest.mark.parametrize("method", ["write", "writelines"])
def test_writes_after_the_end_are_dropped_and_from_the_fifth_on_warned_of(
    loop: asyncio.AbstractEventLoop, warnings_logged: Callable[[], int], how: str, method: str
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            if how == "reset":
                reset(far)
                await protocol.ended()
            else:
                getattr(transport, how)()
            data: Any = [b"x"] if method == "writelines" else b"x"
            empty: Any = [] if method == "writelines" else b""
            for number in range(1, 9):
                assert getattr(transport, method)(data) is None
                assert warnings_logged() == max(0, number - 4)
                getattr(transport, method)(empty)
                assert warnings_logged() == max(0, number - 4)
            await protocol.ended()
            getattr(transport, method)(data)
            assert warnings_logged() == 5
            assert transport.get_write_buffer_size() == 0

    run_main(loop, main())
