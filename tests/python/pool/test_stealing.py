"""Coroutines that have not begun go to whichever loop gets to them first; begun, they stay."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections import Counter
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import run

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


@pytest.fixture(params=[True, False], ids=["steal", "no steal"])
def steal(request: pytest.FixtureRequest) -> bool:
    """Whether the loops do each other's socket work, which coroutines do not depend on."""
    return bool(request.param)


def test_a_loop_that_is_stuck_holds_nothing_up(steal: bool) -> None:
    async def main() -> None:
        begun = [threading.Event() for _ in range(10)]

        async def begin(event: threading.Event) -> str:
            event.set()
            return threading.current_thread().name

        tasks = [loop_pool.spawn(begin(event)) for event in begun]
        # Inside a callback of loop 0, which begins nothing meanwhile.
        assert all(event.wait(HANG) for event in begun)
        assert {await task for task in tasks} == {"loop-pool-1"}

    run(main, steal=steal)


def test_what_a_stuck_loop_has_taken_over_is_taken_on() -> None:
    async def main() -> None:
        free = threading.Event()
        begun = [threading.Event() for _ in range(32)]

        async def begin(event: threading.Event) -> None:
            # Whoever begins the first one is stuck in it until the others have begun.
            event.set()
            if event is begun[0]:
                free.wait(HANG)

        tasks = [loop_pool.spawn(begin(event)) for event in begun]
        assert all(event.wait(HANG) for event in begun)
        free.set()
        for task in tasks:
            await task

    run(main, loops=3)


def test_each_begins_once(count: int, steal: bool) -> None:
    each = 2_000
    begun = Counter[tuple[int, int]]()

    async def note(spawner: int, number: int) -> int:
        begun[spawner, number] += 1
        if number % 3 == 0:
            await asyncio.sleep(0)
        return number

    async def scatter(spawner: int) -> int:
        tasks = []
        for number in range(each):
            tasks.append(loop_pool.spawn(note(spawner, number)))
            if number % 100 == 0:
                await asyncio.sleep(0)
        return sum(await asyncio.gather(*tasks))

    async def main() -> list[loop_pool.LoopStats]:
        pool = loop_pool.current_pool()
        spawners = [
            loop_pool.spawn(scatter(index), loop=loop) for index, loop in enumerate(pool.loops)
        ]
        for spawner in spawners:
            assert await spawner == each * (each - 1) // 2
        return pool.stats()

    stats = run(main, count, steal=steal)
    assert len(begun) == count * each
    assert set(begun.values()) == {1}
    assert sum(loop.spawned for loop in stats) == count * each
    assert count > 1 or stats[0].spawned_stolen == 0


def test_one_loop_begins_them_in_their_order() -> None:
    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async def main() -> None:
        await asyncio.gather(*[loop_pool.spawn(note(number)) for number in range(500)])

    run(main, loops=1)
    assert order == list(range(500))


def test_a_coroutine_stays_where_it_began(count: int) -> None:
    async def wander() -> set[int]:
        seen = set()
        for _ in range(20):
            seen.add(threading.get_ident())
            await asyncio.sleep(0)
        return seen

    async def main() -> None:
        for seen in await asyncio.gather(*[loop_pool.spawn(wander()) for _ in range(100)]):
            assert len(seen) == 1

    run(main, count)


def test_name_and_context_go_with_it(count: int) -> None:
    async def look() -> tuple[str, str]:
        task = asyncio.current_task()
        assert task is not None
        mood = MOOD.get()
        MOOD.set("changed there")
        return task.get_name(), mood

    async def main() -> None:
        MOOD.set("the spawner's")
        tasks = [loop_pool.spawn(look(), name=f"task {number}") for number in range(50)]
        MOOD.set("later")
        for number, task in enumerate(tasks):
            assert await task == (f"task {number}", "the spawner's")
        own = contextvars.copy_context()
        own.run(MOOD.set, "its own")
        assert (await loop_pool.spawn(look(), context=own))[1] == "its own"
        assert own[MOOD] == "changed there"
        assert MOOD.get() == "later"

    run(main, count)


def test_one_that_is_cancelled_at_once_never_begins() -> None:
    ran: list[int] = []

    async def note(number: int) -> None:
        ran.append(number)

    async def main() -> None:
        tasks = [loop_pool.spawn(note(number)) for number in range(10)]
        assert all(task.cancel("not wanted") for task in tasks[::2])
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in ended] == [asyncio.CancelledError, type(None)] * 5
        assert ended[0].args == ("not wanted",)

    run(main, loops=1)
    assert ran == [1, 3, 5, 7, 9]


def test_the_end_of_the_pool_cancels_what_has_not_begun(
    count: int, recwarn: pytest.WarningsRecorder
) -> None:
    tasks: list[loop_pool.PoolTask[None]] = []
    ended: list[loop_pool.PoolTask[None]] = []

    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        for _ in range(1_000):
            task = loop_pool.spawn(wait())
            tasks.append(task)

    run(main, count)
    for task in tasks:
        assert task.cancelled()
        task.add_done_callback(ended.append)
    assert ended == tasks
    gc.collect()
    assert not recwarn.list


def test_while_the_pool_ends_nothing_is_left_to_all(count: int) -> None:
    refused: list[str] = []
    begun: list[None] = []

    async def late() -> None:
        begun.append(None)
        try:
            await asyncio.Event().wait()
        finally:
            try:
                loop_pool.spawn(asyncio.sleep(0))
            except RuntimeError as error:
                refused.append(str(error))

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            loop_pool.spawn(late(), loop=loop)
        await eventually(lambda: len(begun) == count, "they have begun")

    run(main, count)
    assert len(refused) == count
    assert all("closed" in error for error in refused)


def test_what_is_no_coroutine_is_refused_and_what_has_no_name_is_closed() -> None:
    class Nameless:
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(TypeError, match="a coroutine was expected, got 7"):
            loop_pool.spawn(7)  # type: ignore[arg-type]
        coro = asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            loop_pool.spawn(coro, name=Nameless())  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coro

    run(main)


def test_a_failing_task_factory_fails_the_task_alone() -> None:
    def fail(loop: object, coro: object, **_: object) -> Any:
        raise ZeroDivisionError("no tasks today")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(fail)
        task = loop_pool.spawn(asyncio.sleep(0), loop=loop)
        with pytest.raises(ZeroDivisionError, match="no tasks today"):
            await task
        loop.set_task_factory(None)
        assert await loop_pool.spawn(asyncio.sleep(0, "result")) == "result"

    run(main)


def test_loops_with_eager_tasks_begin_them_as_well(count: int) -> None:
    async def answer(number: int) -> int:
        if number % 2:
            await asyncio.sleep(0)
        return number

    async def main() -> None:
        async def be_eager() -> None:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        for loop in loop_pool.current_pool().loops:
            await loop_pool.spawn(be_eager(), loop=loop)
        tasks = [loop_pool.spawn(answer(number)) for number in range(200)]
        assert await asyncio.gather(*tasks) == list(range(200))

    run(main, count)
