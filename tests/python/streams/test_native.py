"""Native readers and writers, each promise held against asyncio's own classes."""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool
from loop_pool._loop import streams

from ..support import HANG, turns

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

CLASSES = {
    "asyncio": (asyncio.StreamReader, asyncio.StreamReaderProtocol, asyncio.StreamWriter),
    "native": (streams.StreamReader, streams.StreamProtocol, streams.StreamWriter),
}
LOOPS: dict[str, Any] = {
    "loop_pool": loop_pool.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


@pytest.fixture(params=[("native", "loop_pool"), ("native", "asyncio"), ("asyncio", "loop_pool")])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs `main(reader class, ...)`: asyncio's classes say what is right."""
    classes, loop = request.param

    def run_main(main: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> Any:
        given = CLASSES[classes][: len(inspect.signature(main).parameters)]
        with asyncio.Runner(loop_factory=LOOPS[loop], **options) as runner:
            return runner.run(asyncio.wait_for(main(*given), HANG))

    return run_main


class Transport(asyncio.Transport):
    """Notes what a reader asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.closing = False

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: Any) -> None:
        self.calls.append(f"write {bytes(data)!r}")

    def close(self) -> None:
        self.closing = True


async def outcome(awaitable: Any) -> tuple[str, Any]:
    """What comes of an operation, to be compared."""
    try:
        return "returned", await awaitable
    except asyncio.IncompleteReadError as error:
        return str(error), (error.partial, error.expected)
    except asyncio.LimitOverrunError as error:
        return str(error), error.consumed
    except Exception as error:
        return f"{type(error).__name__}: {error}", type(error.__context__)


# --- what is read ----------------------------------------------------------------------


def script(seed: int) -> tuple[int, list[bytes], list[tuple[str, tuple[Any, ...]]]]:
    """A limit, data cut at random, and what is asked of the reader."""
    pick = random.Random(seed)
    data = b"".join(
        pick.choice([b"a", b"bc", b"\n", b"\r\n", b"--", b"END", b"x" * pick.randrange(40)])
        for _ in range(pick.randrange(1, 120))
    )
    cuts = sorted(pick.randrange(len(data) + 1) for _ in range(pick.randrange(30)))
    chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    asked: list[tuple[str, tuple[Any, ...]]] = [
        ("read", (pick.choice([0, 1, 3, 50, 10**30]),)),
        ("readexactly", (pick.randrange(30),)),
        ("readexactly", (-1,)),
        ("readline", ()),
        ("readuntil", (b"END",)),
        ("readuntil", (bytearray(b"--"),)),
        ("readuntil", ((b"\r\n", b"\n", b"END"),)),
        ("readuntil", ((),)),
        ("readuntil", (b"",)),
        ("readuntil", ((b"a", b""),)),
        ("readuntil", ()),
    ]
    wanted = [pick.choice(asked) for _ in range(60)]
    wanted.append(("read", ()))
    return pick.choice([5, 20, 2**16]), chunks, wanted


async def play(reader_class: Any, seed: int) -> list[Any]:
    """Feed and read at the same time; return all that came of it, pauses included."""
    limit, chunks, wanted = script(seed)
    reader = reader_class(limit=limit, loop=asyncio.get_running_loop())
    transport = Transport()
    reader.set_transport(transport)
    pick = random.Random(seed)

    async def feed() -> None:
        for chunk in chunks:
            for _ in range(pick.randrange(3)):
                await asyncio.sleep(0)
            kind = pick.choice([bytes, bytearray, memoryview])
            reader.feed_data(kind(chunk))
        reader.feed_eof()

    feeding = asyncio.create_task(feed())
    results: list[Any] = []
    for method, arguments in wanted:
        results.append((method, await outcome(getattr(reader, method)(*arguments))))
        results.append((bytes(reader._buffer), reader.at_eof(), tuple(transport.calls)))
    await feeding
    return results


@pytest.mark.smoke
@pytest.mark.parametrize("block", range(10))
def test_random_bytes_are_read_as_asyncio_reads_them(block: int) -> None:
    async def main() -> None:
        for seed in range(block * 20, block * 20 + 20):
            expected = await play(asyncio.StreamReader, seed)
            assert await play(streams.StreamReader, seed) == expected, seed

    with asyncio.Runner(loop_factory=loop_pool.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), HANG))


def test_lines_are_iterated(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        asyncio.get_running_loop().call_soon(reader.feed_data, b"a\nb\n")
        asyncio.get_running_loop().call_soon(reader.feed_data, b"\nlast")
        asyncio.get_running_loop().call_soon(reader.feed_eof)
        assert [line async for line in reader] == [b"a\n", b"b\n", b"\n", b"last"]

    run(main)


def test_a_chunk_that_is_wanted_whole_is_not_copied() -> None:
    async def main() -> None:
        reader = streams.StreamReader(loop=asyncio.get_running_loop())
        chunk = b"x" * 1000
        for read in (reader.read, reader.readexactly):
            reader.feed_data(chunk)
            assert await read(1000) is chunk

    asyncio.run(main())


def test_a_line_beyond_the_limit_leaves_what_comes_after_it(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class(limit=4)
        reader.feed_data(b"too long\nok\n")
        with pytest.raises(ValueError, match="chunk is longer than limit") as error:
            await reader.readline()
        assert isinstance(error.value.__context__, asyncio.LimitOverrunError)
        assert await reader.readline() == b"ok\n"
        reader.feed_data(b"no separator here")
        with pytest.raises(ValueError, match="chunk exceed the limit"):
            await reader.readline()
        reader.feed_data(b"ok\n")
        assert await reader.readline() == b"ok\n"

    run(main)


# --- the reader's end ----------------------------------------------------------------------


def test_an_exception_reaches_who_waits_and_who_comes_after(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        waiting = asyncio.create_task(reader.readexactly(3))
        await turns(3)
        error = ConnectionResetError("gone")
        reader.set_exception(error)
        with pytest.raises(ConnectionResetError, match="gone"):
            await waiting
        assert reader.exception() is error
        for read in (reader.read, reader.readline, reader.readuntil):
            with pytest.raises(ConnectionResetError):
                await read()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

    run(main)


def test_nothing_is_fed_after_the_end(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        reader.feed_data(b"last")
        reader.feed_eof()
        assert not reader.at_eof()
        with pytest.raises(AssertionError, match="feed_data after feed_eof"):
            reader.feed_data(b"more")
        assert await reader.read() == b"last"
        assert reader.at_eof()
        assert await reader.read(10) == b""

    run(main)


# --- waiting ----------------------------------------------------------------------


def test_a_second_who_waits_is_refused(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        for read, name in (
            (reader.readline, "readuntil"),
            (lambda: reader.readexactly(1), "readexactly"),
            (lambda: reader.read(1), "read"),
        ):
            first = asyncio.create_task(reader.readline())
            await turns(3)
            with pytest.raises(RuntimeError, match=rf"^{name}\(\) called while another coroutine"):
                await read()
            reader.feed_data(b"for the first\n")
            assert await first == b"for the first\n"

    run(main)


@pytest.mark.smoke
def test_a_cancellation_between_feed_and_resume_takes_nothing(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        for read in (reader.readline, lambda: reader.read(5), lambda: reader.readexactly(3)):
            task = asyncio.create_task(read())
            await turns(3)
            reader.feed_data(b"abc\n")
            task.cancel("no more")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await reader.read(100) == b"abc\n"

    run(main)


def test_a_cancelled_wait_makes_room_for_the_next(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        task = asyncio.create_task(reader.readline())
        await turns(3)
        task.cancel("enough")
        # Fed before the task has heard of it.
        reader.feed_data(b"a line\n")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert await reader.readline() == b"a line\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await reader.readline()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.001)
        asyncio.get_running_loop().call_soon(reader.feed_data, b"b\n")
        assert await asyncio.wait_for(reader.readline(), HANG) == b"b\n"

    run(main)


def test_who_has_been_woken_does_not_take_the_place_of_who_waits() -> None:
    """Another reader may have taken the data meanwhile, and wait for more."""

    async def main() -> None:
        reader = streams.StreamReader()
        first = asyncio.create_task(reader.read(10))
        await turns(3)
        reader.feed_data(b"abc")
        assert await reader.read(10) == b"abc"
        second = asyncio.create_task(reader.read(10))
        await turns(3)
        # The one that was woken found nothing and waits again; the other was refused.
        with pytest.raises(RuntimeError, match="already waiting"):
            await second
        reader.feed_data(b"def")
        assert await first == b"def"

    asyncio.run(main(), loop_factory=loop_pool.new_event_loop)


def test_an_operation_does_nothing_before_it_is_awaited(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        reader.feed_data(b"abc\n")
        operation = reader.readline()
        assert asyncio.iscoroutine(operation)
        assert isinstance(operation, collections.abc.Coroutine)
        assert not asyncio.isfuture(operation)
        assert inspect.isawaitable(operation)
        assert operation.__qualname__ == "StreamReader.readline"
        assert bytes(reader._buffer) == b"abc\n"
        operation.close()
        operation.close()
        assert bytes(reader._buffer) == b"abc\n"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await operation

    run(main)


def test_an_operation_is_driven_by_hand_like_a_coroutine(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        reader.feed_data(b"abc\n")
        operation = reader.readline()
        with pytest.raises(TypeError, match="can't send non-None value"):
            operation.send(1)
        with pytest.raises(StopIteration) as stop:
            operation.send(None)
        assert stop.value.value == b"abc\n"
        waiting = reader.read(1)
        assert asyncio.isfuture(waiting.send(None))
        with pytest.raises(ZeroDivisionError, match="thrown"):
            waiting.throw(ZeroDivisionError("thrown"))
        thrown = reader.read(1)
        with pytest.raises(KeyError):
            thrown.throw(KeyError)
        # Both have left the reader.
        again = asyncio.create_task(reader.read(1))
        await turns(3)
        reader.feed_data(b"x")
        assert await again == b"x"
        unready = reader.read(1)
        unready.send(None)
        with pytest.raises(RuntimeError, match="await wasn't used with future"):
            unready.send(None)

    run(main)


def test_gather_shield_and_tasks_take_operations(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        readers = [reader_class() for _ in range(3)]
        loop = asyncio.get_running_loop()
        for number, reader in enumerate(readers):
            loop.call_soon(reader.feed_data, b"%d\n" % number)
        lines = await asyncio.gather(*(reader.readline() for reader in readers))
        assert lines == [b"0\n", b"1\n", b"2\n"]
        loop.call_soon(readers[0].feed_data, b"again\n")
        assert await asyncio.shield(readers[0].readline()) == b"again\n"
        async with asyncio.TaskGroup() as group:
            task = group.create_task(readers[1].readline())
            await turns(3)
            assert "StreamReader.readline" in repr(task)
            readers[1].feed_data(b"and again\n")
        assert task.result() == b"and again\n"

    run(main)


def test_an_operation_that_nobody_awaited_is_named(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        with pytest.warns(RuntimeWarning, match=r"'StreamReader.readline' was never awaited"):
            reader.readline().__repr__()

    run(main)


def test_tasks_in_python_are_woken_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        loop = asyncio.get_running_loop()
        task = asyncio.tasks._PyTask(reader.readline(), loop=loop)  # type: ignore[attr-defined]
        await turns(3)
        reader.feed_data(b"line\n")
        assert await task == b"line\n"
        task = asyncio.tasks._PyTask(reader.readline(), loop=loop)  # type: ignore[attr-defined]
        await turns(3)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task

    run(main)


def test_a_reader_of_another_loop_is_refused(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        other = asyncio.SelectorEventLoop()
        try:
            reader = reader_class(loop=other)
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await reader.read(1)
        finally:
            other.close()

    run(main)


def test_debug_mode(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader = reader_class()
        task = asyncio.create_task(reader.readline())
        await turns(3)
        reader.feed_data(b"line\n")
        assert await task == b"line\n"
        assert reader._source_traceback

    run(main, debug=True)


# --- flow control ----------------------------------------------------------------------


def test_the_transport_pauses_above_twice_the_limit_and_resumes_at_it(run: Any) -> None:
    async def main(reader_class: Any) -> None:
        reader, transport = reader_class(limit=10), Transport()
        reader.set_transport(transport)
        reader.feed_data(b"x" * 20)
        assert transport.calls == []
        reader.feed_data(b"x")
        assert transport.calls == ["pause"]
        assert await reader.read(10) == b"x" * 10
        assert transport.calls == ["pause"]
        assert await reader.read(1) == b"x"
        assert transport.calls == ["pause", "resume"]
        reader.feed_data(b"y" * 30)
        assert transport.calls == ["pause", "resume", "pause"]
        # What needs more than the limit resumes the transport, or it would wait for ever.
        task = asyncio.create_task(reader.readexactly(50))
        await turns(3)
        assert transport.calls == ["pause", "resume", "pause", "resume"]
        reader.feed_data(b"z" * 10)
        assert await task == b"x" * 10 + b"y" * 30 + b"z" * 10

    run(main)


def test_a_transport_that_cannot_pause_is_not_asked_again(run: Any) -> None:
    class Unpausable(Transport):
        def pause_reading(self) -> None:
            super().pause_reading()
            raise NotImplementedError

    async def main(reader_class: Any) -> None:
        reader, transport = reader_class(limit=1), Unpausable()
        reader.set_transport(transport)
        for _ in range(3):
            reader.feed_data(b"xyz")
        assert transport.calls == ["pause"]
        assert await reader.read(100) == b"xyz" * 3

    run(main)


# --- the writer ----------------------------------------------------------------------


def test_drain_waits_while_the_protocol_is_paused(run: Any) -> None:
    async def main(reader_class: Any, protocol_class: Any, writer_class: Any) -> None:
        loop = asyncio.get_running_loop()
        reader, transport = reader_class(), Transport()
        protocol = protocol_class(reader, loop=loop)
        protocol.connection_made(transport)
        writer = writer_class(transport, protocol, reader, loop)
        writer.write(data=b"named")
        writer.write(bytearray(b"other"))
        assert transport.calls == ["write b'named'", "write b'other'"]
        ready = writer.drain()
        assert asyncio.iscoroutine(ready)
        assert await ready is None
        assert await asyncio.wait_for(writer.drain(), HANG) is None
        assert await asyncio.create_task(writer.drain()) is None
        assert await asyncio.gather(writer.drain(), writer.drain()) == [None, None]
        protocol.pause_writing()
        task = asyncio.create_task(writer.drain())
        await turns(3)
        assert not task.done()
        protocol.resume_writing()
        assert await task is None
        protocol.connection_lost(None)
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            await writer.drain()
        reader.set_exception(ZeroDivisionError("of the reader"))
        with pytest.raises(ZeroDivisionError, match="of the reader"):
            await writer.drain()
        writer.close()

    run(main)


def test_several_may_drain_at_once_and_again(run: Any) -> None:
    async def main(reader_class: Any, protocol_class: Any, writer_class: Any) -> None:
        loop = asyncio.get_running_loop()
        reader, transport = reader_class(), Transport()
        protocol = protocol_class(reader, loop=loop)
        protocol.connection_made(transport)
        writer = writer_class(transport, protocol, reader, loop)
        for _ in range(2):
            protocol.pause_writing()
            tasks = [asyncio.create_task(writer.drain()) for _ in range(3)]
            await turns(3)
            tasks[1].cancel()
            await turns(3)
            assert [task.done() for task in tasks] == [False, True, False]
            protocol.resume_writing()
            assert await asyncio.gather(tasks[0], tasks[2]) == [None, None]
        protocol.pause_writing()
        tasks = [asyncio.create_task(writer.drain()) for _ in range(2)]
        await turns(3)
        protocol.connection_lost(ZeroDivisionError("why"))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in ended] == ["why", "why"]
        writer.close()
        # Or the collector may free what has the exception before the protocol, which retrieves it.
        with pytest.raises(ZeroDivisionError, match="why"):
            await writer.wait_closed()

    run(main)


@pytest.mark.parametrize("error", [None, ZeroDivisionError("why")], ids=["well", "error"])
@pytest.mark.parametrize("before", [True, False])
def test_whoever_asks_hears_how_a_connection_ended(
    run: Any, error: Exception | None, before: bool
) -> None:
    async def main(reader_class: Any, protocol_class: Any, writer_class: Any) -> None:
        loop = asyncio.get_running_loop()
        reader, transport = reader_class(), Transport()
        protocol = protocol_class(reader, loop=loop)
        protocol.connection_made(transport)
        writer = writer_class(transport, protocol, reader, loop)
        waiting = [asyncio.create_task(writer.wait_closed())] if before else []
        await turns(3)
        assert not any(task.done() for task in waiting)
        protocol.connection_lost(error)
        waiting += [asyncio.create_task(writer.wait_closed()) for _ in range(2)]
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert ended is error
        writer.close()

    run(main)


def test_drain_of_a_closing_transport_lets_the_loop_turn(run: Any) -> None:
    async def main(reader_class: Any, protocol_class: Any, writer_class: Any) -> None:
        loop = asyncio.get_running_loop()
        reader, transport = reader_class(), Transport()
        protocol = protocol_class(reader, loop=loop)
        protocol.connection_made(transport)
        writer = writer_class(transport, protocol, reader, loop)
        writer.close()
        loop.call_soon(protocol.connection_lost, None)
        with pytest.raises(ConnectionResetError):
            await writer.drain()

    run(main)


def test_a_writer_of_other_parts_drains(run: Any) -> None:
    """Without a reader, over a protocol or with a reader of another make."""

    async def main(reader_class: Any, protocol_class: Any, writer_class: Any) -> None:
        loop = asyncio.get_running_loop()
        for make_reader in (lambda: None, asyncio.StreamReader, reader_class):
            for protocol_type in (asyncio.StreamReaderProtocol, protocol_class):
                reader, transport = make_reader(), Transport()
                protocol = protocol_type(reader, loop=loop)
                protocol.connection_made(transport)
                writer = writer_class(transport, protocol, reader, loop)
                protocol.data_received(b"x")
                assert await writer.drain() is None
                assert (reader is None) or bytes(reader._buffer)
                writer.close()

    run(main)
