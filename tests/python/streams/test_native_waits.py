"""Reads that wait, driven by hand: what a task or another thread can do to them at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool
from loop_pool._loop import streams

from ..support import HANG, turns

pytestmark = pytest.mark.usefixtures("clean_process")

both = pytest.mark.parametrize(
    "reader_class", [streams.StreamReader, asyncio.StreamReader], ids=["native", "asyncio"]
)


def run(main: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
    """Runs `main` on a loop of ours; a hang is a failure."""
    with asyncio.Runner(loop_factory=loop_pool.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(*arguments), HANG))


class Pausable(asyncio.Transport):
    """Calls a function when it is to resume."""

    def __init__(self, resumed: Callable[[], object]) -> None:
        super().__init__()
        self.resume_reading = resumed  # type: ignore[method-assign, assignment]

    def pause_reading(self) -> None:
        pass


def end_of(operation: Any) -> Any:
    """What an operation returns at its next step."""
    with pytest.raises(StopIteration) as stop:
        operation.send(None)
    return stop.value.value


def test_who_was_woken_leaves_the_place_of_who_waits_by_now() -> None:
    async def main() -> None:
        reader = streams.StreamReader()
        first = asyncio.create_task(reader.read(10))
        await turns(3)
        reader.feed_data(b"abc")
        assert await reader.read(10) == b"abc"
        second = reader.read(10)
        second.send(None)
        with pytest.raises(RuntimeError, match="already waiting"):
            await first
        assert not second.done()
        reader.feed_data(b"def")
        assert second.done()
        assert end_of(second) == b"def"

    run(main)


def test_what_comes_as_a_read_begins_to_wait_is_seen() -> None:
    async def main() -> None:
        reader = streams.StreamReader(limit=10)
        reader.set_transport(Pausable(lambda: reader.feed_data(b"y" * 20)))
        reader.feed_data(b"x" * 30)
        assert await reader.readexactly(50) == b"x" * 30 + b"y" * 20
        reader = streams.StreamReader(limit=10)
        reader.set_transport(Pausable(reader.feed_eof))
        reader.feed_data(b"x" * 30)
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(50)

    run(main)


def test_an_error_that_comes_between_two_waits_is_raised() -> None:
    async def main() -> None:
        reader = streams.StreamReader()
        waiting = asyncio.create_task(reader.readexactly(5))
        await turns(3)
        reader.feed_data(b"abc")
        reader.set_exception(ConnectionResetError("gone"))
        with pytest.raises(ConnectionResetError, match="gone"):
            await waiting
        assert bytes(reader._buffer) == b"abc"

    run(main)


@both
def test_an_operation_is_not_entered_twice(reader_class: Any) -> None:
    async def main() -> None:
        errors: list[str] = []

        def enter_again() -> None:
            for step in (lambda: operation.send(None), operation.close):
                with pytest.raises(ValueError, match="coroutine already executing") as error:
                    step()
                errors.append(str(error.value))

        reader = reader_class(limit=1)
        reader.set_transport(Pausable(enter_again))
        reader.feed_data(b"xyz")
        operation = reader.readexactly(5)
        operation.send(None)
        assert len(errors) == 2
        operation.close()

    run(main)


@both
def test_a_wait_is_a_future_to_whom_it_is_yielded(reader_class: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: list[Any] = []
        reader = reader_class()
        operation = reader.readline()
        wait = operation.send(None)
        assert asyncio.isfuture(wait)
        assert wait._asyncio_future_blocking is True
        assert wait.get_loop() is loop
        assert not wait.done()
        assert not wait.cancelled()
        for ask, text in ((wait.result, "Result is not set"), (wait.exception, "Exception is not")):
            with pytest.raises(asyncio.InvalidStateError, match=text):
                ask()
        for callback in (called.append, print, called.append):
            wait.add_done_callback(callback)
        assert wait.remove_done_callback(print) == 1
        reader.feed_data(b"line\n")
        assert wait.done()
        assert wait.result() is None
        assert wait.exception() is None
        assert not wait.cancel()
        with pytest.raises(asyncio.InvalidStateError):
            wait.set_result(None)
        assert called == []
        # It is told to whoever asks too late as well.
        wait.add_done_callback(called.append)
        await turns(3)
        assert called == [wait] * 3
        assert end_of(operation) == b"line\n"

    run(main)


@both
def test_a_wait_that_is_cancelled_or_fails_says_so(reader_class: Any) -> None:
    async def main() -> None:
        reader = reader_class()
        called: list[Any] = []
        operation = reader.read(1)
        wait = operation.send(None)
        wait.add_done_callback(called.append)
        assert wait.cancel("why")
        assert wait.cancelled()
        assert wait.done()
        for ask in (wait.result, wait.exception):
            with pytest.raises(asyncio.CancelledError, match="why"):
                ask()
        await turns(3)
        assert called == [wait]
        with pytest.raises(asyncio.CancelledError):
            operation.send(None)
        operation = reader.read(1)
        wait = operation.send(None)
        with pytest.raises(TypeError):
            wait.set_exception(1)
        wait.set_exception(ZeroDivisionError("so"))
        assert isinstance(wait.exception(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError, match="so"):
            operation.send(None)
        operation = reader.read(1)
        reader.feed_data(b"x")
        assert end_of(operation) == b"x"

    run(main)


@both
def test_a_loop_that_is_closed_takes_no_wakeup(reader_class: Any) -> None:
    async def main() -> Any:
        reader = reader_class()
        operation = reader.read(1)
        operation.send(None).add_done_callback(print)
        return reader, operation

    loop = loop_pool.new_event_loop()
    reader, operation = loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        reader.feed_data(b"x")
    operation.close()


@both
def test_a_subclass_may_feed_by_a_method_of_its_own(reader_class: Any) -> None:
    class Upper(reader_class):  # type: ignore[misc]
        def feed_data(self, data: bytes) -> None:
            super().feed_data(data.upper())

    async def main() -> None:
        reader = Upper()
        protocol = streams.StreamProtocol(reader, loop=asyncio.get_running_loop())
        protocol.data_received(b"abc")
        assert await reader.read(3) == b"ABC"

    run(main)


class _Compares:
    """Calls a function when it is compared."""

    def __init__(self, function: Callable[[], bool]) -> None:
        self._function = function

    def __eq__(self, _: object) -> bool:
        return self._function()

    __hash__ = None  # type: ignore[assignment]


def _raises() -> bool:
    raise KeyError("__eq__")


@both
@pytest.mark.parametrize("count", [1, 3])
def test_a_comparison_that_raises_loses_no_callback(reader_class: Any, count: int) -> None:
    async def main() -> None:
        called: list[Any] = []
        reader = reader_class()
        task = asyncio.create_task(reader.read(5))
        await turns(3)
        wait: Any = task._fut_waiter  # type: ignore[attr-defined]
        for _ in range(count - 1):
            wait.add_done_callback(called.append)
        with pytest.raises(KeyError):
            wait.remove_done_callback(_Compares(_raises))
        reader.feed_data(b"hello")
        assert await task == b"hello"
        assert called == [wait] * (count - 1)

    run(main)


@both
def test_what_a_comparison_adds_or_ends_stays_so(reader_class: Any) -> None:
    async def main() -> None:
        called: list[str] = []
        reader = reader_class()
        operation = reader.read(5)
        wait = operation.send(None)

        def added(_: object) -> None:
            called.append("added")

        def compares() -> bool:
            answers.append(not answers)
            if answers[-1]:
                wait.add_done_callback(added)
            return answers[-1]

        answers: list[bool] = []
        wait.add_done_callback(lambda _: called.append("removed"))
        assert wait.remove_done_callback(_Compares(compares)) == 1
        wait.add_done_callback(lambda _: called.append("last"))
        wait.remove_done_callback(_Compares(lambda: bool(reader.feed_data(b"hello"))))
        await turns(3)
        assert called == ["added", "last"]
        assert end_of(operation) == b"hello"

    run(main)


class Source(asyncio.Transport):
    """A transport in memory, which feeds its reader as soon as it may."""

    def __init__(self, reader: asyncio.StreamReader, chunk: bytes, count: int) -> None:
        super().__init__()
        self.reader, self.chunk, self.left = reader, chunk, count
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.reader.feed_data(self.chunk)
        if not self.left and not self.paused:
            self.reader.feed_eof()


@pytest.mark.parametrize("way", ["read", "readexactly", "lines"])
def test_however_many_chunks_are_there_at_once_they_are_read(way: str) -> None:
    """Each look at the reader finds the next chunk: no stack grows with them."""
    count, chunk = 100_000, b"x" * 49 + b"\n"

    async def main() -> bytes:
        limit = {"read": 10, "readexactly": 10, "lines": len(chunk)}[way]
        reader = streams.StreamReader(limit, asyncio.get_running_loop())
        reader.set_transport(Source(reader, chunk, count))
        reader.feed_data(chunk * 3)
        match way:
            case "read":
                return await reader.read()
            case "readexactly":
                return await reader.readexactly(len(chunk) * 3)
            case _:
                return b"".join([line async for line in reader])

    read = asyncio.run(asyncio.wait_for(main(), HANG), loop_factory=loop_pool.new_event_loop)
    assert read == chunk * (3 if way == "readexactly" else count + 3)
