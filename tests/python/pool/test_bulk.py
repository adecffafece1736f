"""`gather`, `as_completed`, `call` and `broadcast` over every loop of the pool."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import answer, fail, for_ever, loops, run, where

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


# gather


def test_gather_gives_results_in_order(count: int) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        task = asyncio.create_task(answer("task"))
        coroutines = [answer(number) for number in range(100)]
        results = await loop_pool.gather(*coroutines, future, task)
        assert results == [*range(100), "future", "task"]
        assert await loop_pool.gather() == []

    run(main, count)


def test_gather_runs_its_coroutines_on_several_loops() -> None:
    async def main() -> None:
        meeting = threading.Barrier(2)

        async def meet() -> asyncio.AbstractEventLoop:
            meeting.wait(HANG)
            return asyncio.get_running_loop()

        # This loop is left to one of them, as it waits.
        first, second = await loop_pool.gather(meet(), meet())
        assert first is not second

    run(main, 2)


def test_gather_raises_the_first_exception_and_leaves_the_others(count: int) -> None:
    async def main() -> None:
        go, gone = threading.Event(), threading.Event()

        async def other() -> None:
            await eventually(go.is_set, "it may go on")
            gone.set()

        with pytest.raises(ZeroDivisionError, match="first"):
            await loop_pool.gather(other(), fail("first"))
        go.set()
        await eventually(gone.is_set, "the other goes on")
        results = await loop_pool.gather(fail("kept"), answer(1), return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError)
        assert results[1] == 1

    run(main, count)


def test_a_coroutine_that_is_given_twice_runs_once(count: int) -> None:
    async def main() -> None:
        calls: list[int] = []

        async def note() -> int:
            calls.append(1)
            return len(calls)

        coroutine = note()
        assert await loop_pool.gather(coroutine, coroutine) == [1, 1]
        assert calls == [1]

    run(main, count)


def test_cancelling_gather_cancels_what_it_gathers(count: int) -> None:
    async def main() -> None:
        begun: list[None] = []
        cancelled: list[None] = []

        async def endless() -> None:
            begun.append(None)
            try:
                await for_ever()
            except asyncio.CancelledError:
                cancelled.append(None)
                raise

        gathering = loop_pool.gather(*(endless() for _ in range(10)))
        await eventually(lambda: len(begun) == 10, "all have begun")
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        await eventually(lambda: len(cancelled) == 10, "all are cancelled")

    run(main, count)


@pytest.mark.parametrize("bulk", [loop_pool.gather, lambda *aws: loop_pool.as_completed(aws)])
def test_a_pool_that_ends_takes_none_of_them(bulk: Callable[..., Any], count: int) -> None:
    coroutines = [answer(1), answer(2), answer(3)]

    async def cleans_up() -> None:
        try:
            await for_ever()
        finally:
            with pytest.raises(RuntimeError, match=r"closed|closing"):
                bulk(*coroutines)
            refused.append(True)

    refused: list[bool] = []

    async def main() -> None:
        loop_pool.spawn(cleans_up(), loop=loops()[0])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops()[0])

    run(main, count)
    assert refused == [True]
    # Closed, not lost: nothing says that they were never awaited.
    assert [coroutine.cr_frame for coroutine in coroutines] == [None] * 3


def test_what_is_no_awaitable_spawns_nothing(count: int) -> None:
    async def main() -> None:
        coroutine = answer(1)
        for bulk in (loop_pool.gather, lambda *aws: loop_pool.as_completed(aws)):
            with pytest.raises(TypeError, match="awaitable is required, not 7"):
                bulk(coroutine, 7)
        assert await coroutine == 1  # nobody else has begun it

    run(main, count)


# as_completed


def test_as_completed_yields_in_the_order_of_the_ends(count: int) -> None:
    async def main() -> None:
        go = threading.Event()

        async def late() -> str:
            await eventually(go.is_set, "it may end")
            return "late"

        found = []
        async for task in loop_pool.as_completed([late(), answer("early")]):
            assert isinstance(task, loop_pool.PoolTask)
            found.append(await task)
            go.set()
        assert found == ["early", "late"]

    run(main, count)


def test_as_completed_yields_coroutines_to_a_plain_loop(count: int) -> None:
    async def main() -> None:
        found = [await each for each in loop_pool.as_completed(answer(n) for n in range(20))]
        assert sorted(found) == list(range(20))
        for failed in loop_pool.as_completed([fail("found")]):
            with pytest.raises(ZeroDivisionError, match="found"):
                await failed

    run(main, count)


def test_as_completed_has_a_timeout(count: int) -> None:
    async def main() -> None:
        task = loop_pool.spawn(for_ever())
        with pytest.raises(TimeoutError):
            async for _ in loop_pool.as_completed([task], timeout=0.01):
                pass
        assert not task.done()
        with pytest.raises(TypeError, match="iterable of awaitables"):
            loop_pool.as_completed(task)  # type: ignore[arg-type]
        task.cancel()

    run(main, count)


# call and broadcast


def test_call_runs_on_the_loop_it_names(count: int) -> None:
    def place(number: int, *, name: str) -> tuple[Any, int, str, str]:
        return asyncio.get_running_loop(), number, name, MOOD.get()

    async def main() -> None:
        MOOD.set("asked")
        for loop in loops():
            assert await loop_pool.call(loop, where) is loop
            assert await loop_pool.call(loop, place, 1, name="n") == (loop, 1, "n", "asked")
            with pytest.raises(ZeroDivisionError, match="there"):
                await loop_pool.call(loop, fail, "there")

    run(main, count)


def test_cancelling_who_calls_cancels_the_call(count: int) -> None:
    async def main() -> None:
        begun, cancelled = threading.Event(), threading.Event()

        async def endless() -> None:
            begun.set()
            try:
                await for_ever()
            finally:
                cancelled.set()

        caller = asyncio.create_task(loop_pool.call(loops()[-1], endless))
        await eventually(begun.is_set, "the call has begun")
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert cancelled.is_set()

    run(main, count)


def test_a_call_on_a_loop_of_no_pool_is_refused(count: int) -> None:
    async def main() -> None:
        stranger = loop_pool.new_event_loop()
        with pytest.raises(RuntimeError, match="does not belong to"):
            await loop_pool.call(stranger, where)
        stranger.close()

    run(main, count)


def test_broadcast_gives_a_result_of_each_loop_in_their_order(count: int) -> None:
    async def main() -> None:
        assert await loop_pool.broadcast(where) == list(loops())
        assert await loop_pool.broadcast(asyncio.get_running_loop) == list(loops())
        assert await loop_pool.broadcast(answer, "value") == ["value"] * count

    run(main, count)


def test_broadcast_raises_all_that_was_raised_and_lets_the_others_end(count: int) -> None:
    async def main() -> None:
        ended: list[object] = []
        failing = {loops()[0], loops()[-1]}

        async def some() -> None:
            here = asyncio.get_running_loop()
            await asyncio.sleep(0)
            if here in failing:
                raise ZeroDivisionError
            ended.append(here)

        with pytest.raises(ExceptionGroup) as raised:
            await loop_pool.broadcast(some)
        notes = [error.__notes__ for error in raised.value.exceptions]
        assert notes == [[f"on loop-pool-{n}"] for n in sorted({0, count - 1})]
        assert set(ended) == set(loops()) - failing

    run(main, count)


def test_broadcast_that_is_cancelled_cancels_its_calls(count: int) -> None:
    async def main() -> None:
        begun: list[None] = []
        cancelled: list[None] = []

        async def endless() -> None:
            begun.append(None)
            try:
                await for_ever()
            finally:
                cancelled.append(None)

        task = asyncio.create_task(loop_pool.broadcast(endless))
        await eventually(lambda: len(begun) == count, "all have begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(cancelled) == count

    run(main, count)


# Outside of a pool


def test_outside_of_a_pool_each_says_so() -> None:
    async def main() -> None:
        coroutine = answer(1)
        for use in (
            lambda: loop_pool.gather(coroutine),
            lambda: loop_pool.map(answer, [1]),
            lambda: loop_pool.map(answer, [1], limit=1),
        ):
            with pytest.raises(RuntimeError, match="no running loop_pool in this thread"):
                use()
        with pytest.raises(RuntimeError, match="no running loop_pool in this thread"):
            await loop_pool.broadcast(answer, 1)

    asyncio.run(main())


def test_a_call_is_listed_by_the_name_of_its_function() -> None:
    async def named(seen: list[str]) -> None:
        task: Any = asyncio.current_task()
        seen.append(task.get_coro().__qualname__)

    async def main() -> None:
        seen: list[str] = []
        await loop_pool.call(loop_pool.current_pool().loops[1], named, seen)
        assert seen == [named.__qualname__]
        # What has no name is called as it is.
        assert await loop_pool.call(loop_pool.current_pool().loops[1], functools.partial(int, "7"))

    loop_pool.run(main(), loops=2)
