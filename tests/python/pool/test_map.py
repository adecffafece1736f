"""`loop_pool.map`: calls on every loop of the pool, their results in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
)
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import eventually, turns
from .support import answer, for_ever, loops, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]


class Gauge:
    """How many calls are under way, and how many there were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.ended = 0

    async def through(self, value: Any, steps: int = 3) -> Any:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            return value
        finally:
            with self._lock:
                self.now -= 1
                self.ended += 1


async def _numbers(end: int) -> AsyncIterator[int]:
    for number in range(end):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("limit", [1, 3, None])
def test_map_gives_results_in_the_order_of_the_items(count: int, limit: int | None) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def work(number: int) -> int:
            return int(await gauge.through(number * 2, steps=number % 5))

        results = [result async for result in loop_pool.map(work, range(200), limit=limit)]
        assert results == list(range(0, 400, 2))
        assert gauge.most <= (limit or 8 * count)

    run(main, count)


def test_map_has_as_many_calls_under_way_as_it_may(count: int) -> None:
    async def main() -> None:
        begun: list[int] = []

        async def meet(number: int) -> int:
            begun.append(number)
            await eventually(lambda: len(begun) >= 5, "five are under way at once")
            return number

        assert [n async for n in loop_pool.map(meet, range(5), limit=5)] == list(range(5))

    run(main, count)


def test_map_takes_asynchronous_and_plain_iterables_to_the_shortest(count: int) -> None:
    def add(one: int, other: int) -> tuple[int, bool]:
        return one + other, asyncio.get_running_loop() in loops()

    async def main() -> None:
        results = [r async for r in loop_pool.map(add, _numbers(10), range(100, 200))]
        assert results == [(100 + 2 * n, True) for n in range(10)]
        assert [r async for r in loop_pool.map(add, [], _numbers(3))] == []

    run(main, count)


def test_map_reads_no_further_ahead_than_it_says(count: int) -> None:
    async def main() -> None:
        read: list[int] = []

        def items() -> Iterator[int]:
            for number in range(1000):
                read.append(number)
                yield number

        results = loop_pool.map(answer, items(), limit=3)
        assert not read
        async for result in results:
            for _ in range(5):  # it reads as far as it may
                await loop_pool.broadcast(asyncio.sleep, 0)
            # Those before it, and two times the limit.
            assert len(read) <= result + 1 + 2 * 3
            if result == 50:
                break
        await results.aclose()
        assert len(read) < 60

    run(main, count)


def test_a_slow_source_does_not_hold_back_what_is_done(count: int) -> None:
    async def main() -> None:
        async def items() -> AsyncIterator[int]:
            yield 1
            await for_ever()

        results = loop_pool.map(answer, items())
        assert await anext(results) == 1
        await results.aclose()

    run(main, count)


def test_closing_a_map_cancels_what_is_under_way_and_waits_for_it(count: int) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def work(number: int) -> int:
            return int(await gauge.through(number, steps=0 if number == 0 else 1_000_000_000))

        results = loop_pool.map(work, range(100), limit=4)
        assert await anext(results) == 0
        await eventually(lambda: gauge.now == 4, "all that may be are under way")
        await results.aclose()
        assert gauge.now == 0
        assert gauge.ended == 5

    run(main, count)


def test_a_map_that_was_left_early_is_closed_by_its_loop(count: int) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def work(number: int) -> int:
            return int(await gauge.through(number, steps=0 if number == 0 else 1_000_000_000))

        async for _ in loop_pool.map(work, range(100), limit=4):
            # A call that has not begun ends without a trace: one has to be under way.
            await eventually(lambda: gauge.now > 0, "a second call has begun")
            break
        gc.collect()
        await eventually(lambda: gauge.ended > 1 and gauge.now == 0, "it is closed")

    run(main, count)


def test_cancelling_who_iterates_cancels_the_calls(count: int) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def work(number: int) -> int:
            return int(await gauge.through(number, steps=1_000_000_000))

        async def iterate() -> None:
            async for _ in loop_pool.map(work, range(100), limit=4):
                pass

        task = asyncio.create_task(iterate())
        await eventually(lambda: gauge.now == 4, "all that may be are under way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gauge.now == 0

    run(main, count)


def test_an_exception_of_a_call_comes_in_its_place(count: int) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def work(number: int) -> int:
            if number == 3:
                raise ZeroDivisionError("third")
            return int(await gauge.through(number, steps=0 if number < 3 else 1_000_000_000))

        results = loop_pool.map(work, range(100), limit=4)
        assert [await anext(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError, match="third"):
            await anext(results)
        assert gauge.now == 0
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main, count)


@pytest.mark.parametrize("kind", [ZeroDivisionError, asyncio.QueueShutDown])
def test_any_exception_of_a_call_is_raised(count: int, kind: type[Exception]) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            raise kind

        with pytest.raises(kind):
            await anext(loop_pool.map(work, [1]))

    run(main, count)


def test_an_exception_of_an_iterable_comes_after_the_results_before_it(count: int) -> None:
    async def main() -> None:
        def items() -> Iterator[int]:
            yield 1
            raise ZeroDivisionError("of the source")

        results = loop_pool.map(answer, items())
        assert await anext(results) == 1
        with pytest.raises(ZeroDivisionError, match="of the source"):
            await anext(results)

    run(main, count)


def test_map_refuses_what_makes_no_sense(count: int) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
            loop_pool.map(answer, [1], limit=0)
        with pytest.raises(TypeError, match=r"limit must be an integer, got 1\.5"):
            loop_pool.map(answer, [1], limit=1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="at least one iterable"):
            loop_pool.map(answer)
        with pytest.raises(TypeError, match="not iterable"):
            loop_pool.map(answer, 7)  # type: ignore[arg-type]

    run(main, count)


# What it reads from


class Source:
    """Generators that note where they were closed."""

    def __init__(self) -> None:
        self.closed: list[asyncio.AbstractEventLoop] = []

    async def of_async(self, count: int = 1000) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            self.closed.append(asyncio.get_running_loop())

    def of_sync(self, count: int = 1000) -> Iterator[int]:
        try:
            yield from range(count)
        finally:
            self.closed.append(asyncio.get_running_loop())

    def of_class(self, count: int = 1000) -> AsyncIterable[int]:
        class Pages:
            def __aiter__(_) -> AsyncIterator[int]:
                return self.of_async(count)

        return Pages()


KINDS = [Source.of_async, Source.of_sync, Source.of_class]


async def _leave(results: AsyncGenerator[Any]) -> None:
    await anext(results)
    await results.aclose()


async def _fail(results: AsyncGenerator[Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        async for _ in results:
            pass


async def _cancel(results: AsyncGenerator[Any]) -> None:
    async def iterate() -> None:
        async for _ in results:
            begun.set()

    begun = asyncio.Event()
    task = asyncio.create_task(iterate())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _exhaust(results: AsyncGenerator[Any]) -> None:
    async for _ in results:
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [_leave, _fail, _cancel, _exhaust])
def test_the_generators_that_it_reads_are_closed_with_it(
    end: Callable[[AsyncGenerator[Any]], Coroutine[Any, Any, None]],
    kind: Callable[..., Any],
    no_collection: None,
) -> None:
    async def work(number: int, _: int) -> int:
        await asyncio.sleep(0)
        return 1 // (7 - number) if end is _fail else number

    async def main() -> None:
        source = Source()
        # Held here, so that nothing but the map closes it.
        long, short = kind(source), kind(source, 50 if end is _exhaust else 1000)
        results = loop_pool.map(work, long, short)
        await end(results)
        assert source.closed == [asyncio.get_running_loop()] * 2
        del long, short

    run(main)


def test_what_is_no_generator_is_the_program_s_to_close(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("1\n2\n3\n")

    async def main() -> None:
        with path.open() as lines:
            results = loop_pool.map(int, lines, limit=1)
            assert await anext(results) == 1
            await results.aclose()
            assert not lines.closed

    run(main)


def test_it_waits_for_its_calls_however_often_that_is_cancelled() -> None:
    async def main() -> None:
        under_way, cleans, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        ended: list[str] = []

        async def work(_: int) -> None:
            under_way.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleans.set()
                while not go.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await go.wait()
                ended.append("cleaned up")

        async def iterate() -> None:
            async for _ in loop_pool.map(work, source.of_async(1)):
                pass

        source = Source()
        task = asyncio.create_task(iterate())
        await under_way.wait()
        task.cancel()
        await cleans.wait()
        for _ in range(3):
            task.cancel()
            await turns()
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["cleaned up"]
        assert len(source.closed) == 1

    run(main, 1)


def test_it_closes_though_an_iterable_swallows_the_cancellation(count: int) -> None:
    async def main() -> None:
        waits, swallowed, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def items() -> AsyncIterator[int]:
            try:
                yield 0
                try:
                    waits.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed.set()
                while True:
                    yield 1
            finally:
                closed.set()

        results = loop_pool.map(answer, items(), limit=1)
        assert await anext(results) == 0
        await waits.wait()
        await results.aclose()
        assert swallowed.is_set()
        assert closed.is_set()

    run(main, count)


# The exceptions that nobody asks for


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_after_one_exception_those_of_the_others_are_not_reported(steps: int, count: int) -> None:
    """`clean_process` sees what is reported, as `asyncio.gather` reports nothing."""

    async def work(number: int) -> int:
        for _ in range(steps * number):
            await asyncio.sleep(0)
        raise ZeroDivisionError(number)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="0"):
            async for _ in loop_pool.map(work, range(50), limit=10):
                pass
        gc.collect()
        await loop_pool.broadcast(asyncio.sleep, 0)

    run(main, count)
    gc.collect()


def test_a_call_that_was_cancelled_counts_as_one(count: int) -> None:
    async def work(number: int) -> int:
        if number:
            raise ZeroDivisionError(number)
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            async for _ in loop_pool.map(work, range(5)):
                pass
        gc.collect()
        await loop_pool.broadcast(asyncio.sleep, 0)

    run(main, count)
    gc.collect()


def test_an_exception_of_the_source_counts_as_one() -> None:
    async def work(number: int) -> int:
        raise ZeroDivisionError(number)

    async def items() -> AsyncIterator[int]:
        yield 0
        raise LookupError

    async def main() -> None:
        results = loop_pool.map(work, items())
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        gc.collect()

    run(main)
    gc.collect()


def test_what_failed_in_a_map_that_was_left_is_reported(logged_errors: list[str]) -> None:
    async def work(number: int) -> int:
        if number:
            failed.append(number)
            raise ZeroDivisionError(number)
        await eventually(lambda: len(failed) == 3, "the others have failed")
        return number

    failed: list[int] = []

    async def main() -> None:
        results = loop_pool.map(work, range(4))
        assert await anext(results) == 0
        await results.aclose()

    run(main)
    gc.collect()
    first_lines = [message.partition("\n")[0] for message in logged_errors]
    assert first_lines == ["PoolTask exception was never retrieved"] * 3
    logged_errors.clear()
