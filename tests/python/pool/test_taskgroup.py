"""`loop_pool.TaskGroup`: asyncio's task group over every loop of the pool."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import fail, for_ever, loops, run, where

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


class Endless:
    """Coroutines that begin, wait for ever, and note that they were cancelled."""

    def __init__(self) -> None:
        self.begun: list[asyncio.AbstractEventLoop] = []
        self.cancelled: list[asyncio.AbstractEventLoop] = []

    async def run(self) -> None:
        here = asyncio.get_running_loop()
        self.begun.append(here)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(here)
            raise

    async def all_begun(self, number: int) -> None:
        await eventually(lambda: len(self.begun) == number, "all have begun")


def test_its_tasks_have_ended_when_it_has(count: int) -> None:
    async def main() -> None:
        async with loop_pool.TaskGroup() as group:
            placed = [group.create_task(where(), loop=loop) for loop in loops()]
            free = [group.create_task(where()) for _ in range(50)]
        assert [task.result() for task in placed] == list(loops())
        assert {task.result() for task in free} <= set(loops())

    run(main, count)


def test_names_and_contexts_reach_the_tasks(count: int) -> None:
    async def look() -> tuple[str, str]:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name(), MOOD.get()

    async def main() -> None:
        MOOD.set("outer")
        own = contextvars.copy_context()
        own.run(MOOD.set, "own")
        async with loop_pool.TaskGroup() as group:
            first = group.create_task(look(), name="first", loop=loops()[-1])
            second = group.create_task(look(), name="second", context=own)
        assert first.result() == ("first", "outer")
        assert second.result() == ("second", "own")

    run(main, count)


def test_one_that_fails_cancels_the_others_on_every_loop(count: int) -> None:
    async def main() -> None:
        endless = Endless()
        block_ended = False
        with pytest.raises(ExceptionGroup) as raised:
            async with loop_pool.TaskGroup() as group:
                for loop in loops():
                    group.create_task(endless.run(), loop=loop)
                await endless.all_begun(count)
                group.create_task(fail("the cause"), loop=loops()[-1])
                await for_ever()
                block_ended = True
        assert not block_ended
        assert [repr(error) for error in raised.value.exceptions] == [
            "ZeroDivisionError('the cause')"
        ]
        assert set(endless.cancelled) == set(loops())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing of the cancellation is left

    run(main, count)


def test_all_that_fail_are_in_the_group(count: int) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            async with loop_pool.TaskGroup() as group:
                for loop in loops():
                    group.create_task(fail_when_cancelled(), loop=loop)
                await asyncio.gather(*(loop_pool.call(loop, where) for loop in loops()))
                raise KeyError("of the block")
        kinds = sorted(type(error).__name__ for error in raised.value.exceptions)
        assert kinds == sorted(["KeyError", *["ValueError"] * count])

    run(main, count)


def test_a_cancelled_task_is_no_error(count: int) -> None:
    async def main() -> None:
        async with loop_pool.TaskGroup() as group:
            task = group.create_task(for_ever(), loop=loops()[-1])
            other = group.create_task(where(), loop=loops()[0])
            task.cancel()
        assert task.cancelled()
        assert other.result() is loops()[0]

    run(main, count)


@pytest.mark.parametrize("in_block", [True, False], ids=["in the block", "at its end"])
def test_the_parent_s_cancellation_goes_to_every_task(count: int, in_block: bool) -> None:
    async def main() -> None:
        endless = Endless()

        async def parent() -> None:
            async with loop_pool.TaskGroup() as group:
                for loop in loops():
                    group.create_task(endless.run(), loop=loop)
                if in_block:
                    await for_ever()

        task = asyncio.create_task(parent())
        await endless.all_begun(count)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert set(endless.cancelled) == set(loops())

    run(main, count)


def test_a_timeout_ends_it(count: int) -> None:
    async def main() -> None:
        endless = Endless()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), loop_pool.TaskGroup() as group:
                for loop in loops():
                    group.create_task(endless.run(), loop=loop)
                await endless.all_begun(count)
        assert len(endless.cancelled) == count

    run(main, count)


def test_an_error_and_a_cancellation_give_the_error_and_then_the_cancellation(count: int) -> None:
    async def main() -> None:
        async def parent() -> str:
            try:
                async with loop_pool.TaskGroup() as group:
                    group.create_task(fail(), loop=loops()[-1])
                    try:
                        await for_ever()
                    finally:
                        task = asyncio.current_task()
                        assert task is not None
                        task.cancel()  # somebody else's, besides the group's own
            except* ZeroDivisionError:
                pass
            await asyncio.sleep(0)
            return "not cancelled"

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(parent())

    run(main, count)


def test_a_cancellation_while_it_ends_by_an_error_comes_after_the_error(count: int) -> None:
    async def main() -> None:
        cleaning, go = threading.Event(), threading.Event()

        async def clean_up() -> None:
            try:
                await for_ever()
            finally:
                cleaning.set()
                await eventually(go.is_set, "it may end")

        async def parent() -> str:
            try:
                async with loop_pool.TaskGroup() as group:
                    group.create_task(clean_up(), loop=loops()[-1])
                    await loop_pool.call(loops()[-1], asyncio.sleep, 0)
                    group.create_task(fail(), loop=loops()[0])
            except* ZeroDivisionError:
                pass
            await asyncio.sleep(0)
            return "not cancelled"

        task = asyncio.create_task(parent())
        await eventually(cleaning.is_set, "it ends")
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the group has had it
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1

    run(main, count)


def test_tasks_add_tasks_from_their_own_loops(count: int) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def grow(depth: int) -> None:
            seen.append(depth)
            if depth:
                for loop in loops():
                    group.create_task(grow(depth - 1), loop=loop)

        async with loop_pool.TaskGroup() as group:
            group.create_task(grow(2), loop=loops()[-1])
        assert sorted(seen) == [0] * count**2 + [1] * count + [2]

    run(main, count)


def test_a_task_added_from_another_loop_that_fails_fails_the_group(count: int) -> None:
    async def main() -> None:
        async def add() -> None:
            group.create_task(fail("added"), loop=loops()[0])
            await for_ever()

        with pytest.raises(ExceptionGroup) as raised:
            async with loop_pool.TaskGroup() as group:
                group.create_task(add(), loop=loops()[-1])
        assert [str(error) for error in raised.value.exceptions] == ["added"]

    run(main, count)


def test_the_loop_that_added_a_task_need_not_hear_of_its_end() -> None:
    async def main() -> None:
        endless = Endless()
        go = threading.Event()

        async def add_and_block() -> None:
            await endless.all_begun(1)
            group.create_task(fail("added"), loop=loops()[1])
            go.wait(HANG)

        async def unblock() -> None:
            await eventually(lambda: bool(endless.cancelled), "the sibling is cancelled")
            assert not go.is_set()
            go.set()

        unblocking = asyncio.create_task(unblock())
        with pytest.raises(ExceptionGroup) as raised:
            async with loop_pool.TaskGroup() as group:
                group.create_task(endless.run(), loop=loops()[1])
                group.create_task(add_and_block(), loop=loops()[2])
        await unblocking
        assert [str(error) for error in raised.value.exceptions] == ["added"]

    run(main, 3)


def test_many_tasks_from_every_loop_are_all_waited_for(count: int) -> None:
    each = 200

    async def main() -> None:
        done: list[None] = []

        async def end() -> None:
            await asyncio.sleep(0)
            done.append(None)

        async def add() -> None:
            for _ in range(each):
                group.create_task(end())
                await asyncio.sleep(0)

        async with loop_pool.TaskGroup() as group:
            for loop in loops():
                group.create_task(add(), loop=loop)
        assert len(done) == each * count

    run(main, count)


def test_groups_nest_across_loops(count: int) -> None:
    async def main() -> None:
        endless = Endless()

        async def inner() -> None:
            async with loop_pool.TaskGroup() as group:
                group.create_task(endless.run(), loop=loops()[0])
                group.create_task(endless.run(), loop=loops()[-1])

        with pytest.raises(ExceptionGroup) as raised:
            async with loop_pool.TaskGroup() as outer:
                for loop in loops():
                    outer.create_task(inner(), loop=loop)
                await endless.all_begun(2 * count)
                outer.create_task(fail())
        assert raised.group_contains(ZeroDivisionError, depth=1)
        assert len(endless.cancelled) == 2 * count

    run(main, count)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_raised_as_it_is(count: int, kind: type[BaseException]) -> None:
    async def main() -> None:
        with pytest.raises(kind):
            async with loop_pool.TaskGroup():
                raise kind

    run(main, count)


def test_a_group_that_is_not_open_closes_the_coroutine(count: int) -> None:
    async def main() -> None:
        group = loop_pool.TaskGroup()
        with pytest.raises(RuntimeError, match="has not been entered"):
            group.create_task(where())
        async with group:
            with pytest.raises(RuntimeError, match="already been entered"):
                await group.__aenter__()
        with pytest.raises(RuntimeError, match="is finished"):
            group.create_task(where())
        with pytest.raises(ExceptionGroup):
            async with loop_pool.TaskGroup() as other:
                other.create_task(fail(), loop=loops()[-1])
                try:
                    await for_ever()
                finally:
                    with pytest.raises(RuntimeError, match="is shutting down"):
                        other.create_task(where())
        assert "shutting" not in repr(group)

    run(main, count)
    gc.collect()  # a coroutine that was not closed warns, which is an error


def test_what_is_no_coroutine_leaves_the_group_open(count: int) -> None:
    async def main() -> None:
        async with loop_pool.TaskGroup() as group:
            with pytest.raises(TypeError):
                group.create_task(where)  # type: ignore[arg-type]
            task = group.create_task(where())
        assert task.done()

    run(main, count)


def test_outside_of_a_pool_it_says_so() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="no running loop_pool in this thread"):
            async with loop_pool.TaskGroup():
                pass

    asyncio.run(main())


def test_it_is_not_kept_by_its_exceptions(count: int) -> None:
    async def main() -> weakref.ref[Any]:
        group = loop_pool.TaskGroup()
        with pytest.raises(ExceptionGroup):
            async with group:
                group.create_task(fail(), loop=loops()[-1])
        return weakref.ref(group)

    found = run(main, count)
    gc.collect()
    assert found() is None


def test_a_stuck_loop_does_not_keep_the_others_from_being_cancelled() -> None:
    async def main() -> None:
        endless = Endless()
        blocked, go = threading.Event(), threading.Event()

        async def block() -> None:
            blocked.set()
            go.wait(HANG)

        async def parent() -> None:
            async with loop_pool.TaskGroup() as group:
                group.create_task(endless.run(), loop=loops()[1])
                await endless.all_begun(1)
                group.create_task(block(), loop=loops()[2])
                await eventually(blocked.is_set, "a loop is stuck")
                group.create_task(fail(), loop=loops()[0])

        task = asyncio.create_task(parent())
        await eventually(lambda: endless.cancelled == [loops()[1]], "the sibling is cancelled")
        assert not task.done()
        go.set()
        with pytest.raises(ExceptionGroup):
            await task

    run(main, 3)
