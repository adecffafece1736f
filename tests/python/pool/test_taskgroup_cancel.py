"""`loop_pool.TaskGroup.cancel`, and a `GeneratorExit` of the block: as asyncio's of Python 3.15.

On such a Python, asyncio's own group is the oracle.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually, turns
from .support import loops, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

GROUPS: list[Any] = [loop_pool.TaskGroup]
if hasattr(asyncio.TaskGroup, "cancel"):
    GROUPS.append(asyncio.TaskGroup)

either = pytest.mark.parametrize("group_type", GROUPS, ids=lambda group: group.__module__)


class Endless:
    """Coroutines that wait for ever."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def all_begun(self, count: int) -> None:
        await eventually(lambda: self.begun == count, "all have begun")


async def _fail() -> None:
    raise ZeroDivisionError


def _level() -> int:
    me = asyncio.current_task()
    assert me is not None
    return me.cancelling()


@either
def test_the_block_and_the_tasks_are_cancelled_and_nothing_is_raised(group_type: Any) -> None:
    async def main() -> None:
        endless = Endless()
        went_on = False
        async with group_type() as group:
            tasks = [group.create_task(endless()) for _ in range(3)]
            await endless.all_begun(3)
            group.cancel()
            group.cancel()
            await asyncio.sleep(0)
            went_on = True
        assert not went_on
        assert all(task.cancelled() for task in tasks)
        assert _level() == 0
        await asyncio.sleep(0)

    run(main)


@either
def test_a_task_of_the_group_ends_it(group_type: Any) -> None:
    async def main() -> None:
        endless = Endless()

        async def wins() -> None:
            await endless.all_begun(3)
            won.append("won")
            group.cancel()

        won: list[str] = []
        async with group_type() as group:
            tasks = [group.create_task(endless()) for _ in range(3)]
            group.create_task(wins())
        assert won == ["won"]
        assert all(task.cancelled() for task in tasks)
        assert _level() == 0

    run(main)


@either
def test_one_that_is_cancelled_before_it_is_entered_ends_at_once(group_type: Any) -> None:
    async def main() -> None:
        group = group_type()
        group.cancel()
        seen = []
        async with group:
            seen.append("entered")
            with pytest.raises(RuntimeError, match="is shutting down"):
                group.create_task(_fail())
            await asyncio.sleep(0)
            seen.append("went on")
        assert seen == ["entered"]
        assert _level() == 0
        await asyncio.sleep(0)

    run(main)


@either
def test_a_block_without_an_await_ends_as_well(group_type: Any) -> None:
    async def main() -> None:
        async with group_type() as group:
            group.cancel()
        assert _level() == 0
        await asyncio.sleep(0)

    run(main)


@either
def test_after_its_end_it_does_nothing(group_type: Any) -> None:
    async def main() -> None:
        async with group_type() as group:
            pass
        group.cancel()
        await asyncio.sleep(0)
        assert _level() == 0

    run(main)


@either
def test_errors_are_raised_all_the_same(group_type: Any) -> None:
    async def cancels_and_fails(group: Any) -> None:
        group.cancel()
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with group_type() as group:
                group.cancel()
                raise LookupError
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        with pytest.raises(ExceptionGroup) as caught:
            async with group_type() as group:
                group.create_task(cancels_and_fails(group))
                await asyncio.Event().wait()
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert _level() == 0

    run(main)


@either
def test_a_cancellation_from_outside_is_kept(group_type: Any) -> None:
    async def main() -> None:
        begun, cleans, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def child() -> None:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                cleans.set()
                await go.wait()

        async def body() -> None:
            async with group_type() as group:
                group.create_task(child())
                await begun.wait()
                group.cancel()

        task = asyncio.create_task(body())
        await cleans.wait()
        await turns()
        task.cancel("outside")
        go.set()
        with pytest.raises(asyncio.CancelledError, match="outside"):
            await task

    run(main, 1)


@pytest.mark.parametrize("side", ["other loop", "other thread"])
def test_it_is_cancelled_from_elsewhere(side: str) -> None:
    async def main() -> None:
        endless = Endless()
        begun = asyncio.Event()
        groups: list[loop_pool.TaskGroup] = []

        async def body() -> int:
            async with loop_pool.TaskGroup() as group:
                groups.append(group)
                for loop in loops():
                    group.create_task(endless(), loop=loop)
                begun.set()
                await asyncio.Event().wait()
            await turns()
            return _level()

        async def cancel() -> None:
            groups[0].cancel()

        task = asyncio.create_task(body())
        await begun.wait()
        if side == "other loop":
            await loop_pool.spawn(cancel(), loop=loops()[1])
        else:
            with Threads(groups[0].cancel):
                pass
        assert await asyncio.wait_for(task, HANG) == 0
        # Also of a group that has ended.
        await loop_pool.spawn(cancel(), loop=loops()[1])
        await turns()

    run(main)


def test_cancels_of_every_loop_race_with_the_end() -> None:
    async def cancel(group: loop_pool.TaskGroup) -> None:
        group.cancel()

    async def main() -> None:
        for _ in range(100):
            async with loop_pool.TaskGroup() as group:
                cancels = [loop_pool.spawn(cancel(group), loop=loop) for loop in loops()]
                await asyncio.sleep(0)
            for each in cancels:
                await each
            await asyncio.sleep(0)
            assert _level() == 0

    run(main, 3)


# GeneratorExit


@either
def test_a_generator_around_the_block_closes(group_type: Any) -> None:
    async def main() -> None:
        endless = Endless()
        tasks: list[Any] = []

        async def numbers() -> AsyncIterator[int]:
            async with group_type() as group:
                tasks.append(group.create_task(endless()))
                await endless.all_begun(1)
                yield 1

        generator: Any = numbers()
        assert await anext(generator) == 1
        await generator.aclose()
        assert tasks[0].cancelled()

    run(main)


async def _exits() -> None:
    raise GeneratorExit


async def _alone(make: Callable[[], Any]) -> None:
    async with make() as group:
        group.create_task(_exits())


async def _beside_an_error(make: Callable[[], Any]) -> None:
    async def numbers() -> AsyncIterator[int]:
        async with make() as group:
            task = group.create_task(_fail())
            while not task.done():
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    break
            yield 1

    generator: Any = numbers()
    await anext(generator)
    await generator.aclose()


@either
@pytest.mark.parametrize(
    ("way", "kinds"),
    [(_alone, {GeneratorExit}), (_beside_an_error, {GeneratorExit, ZeroDivisionError})],
)
def test_others_are_in_the_group_of_exceptions(group_type: Any, way: Any, kinds: Any) -> None:
    async def main() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await way(group_type)
        assert {type(error) for error in caught.value.exceptions} == kinds

    run(main)
