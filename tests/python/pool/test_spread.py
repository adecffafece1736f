"""Coroutines of `spawn` are spread over the loops, those that live long as well as short ones."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import loops, run, where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

pytestmark = pytest.mark.usefixtures("clean_process")


class Gate:
    """Holds those who come until there are `count` of them, each on its own loop."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._missing = count
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.where = Counter[asyncio.AbstractEventLoop]()

    def note(self) -> None:
        """Counts one that lives as long, but is no part of what the gate waits for."""
        with self._lock:
            self.where[asyncio.get_running_loop()] += 1

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self.where[loop] += 1
            self._missing -= 1
            self._waiting.append((loop, future))
            opened = [] if self._missing else self._waiting
        for each, waiting in opened:
            each.call_soon_threadsafe(waiting.set_result, None)
        await future


async def by_spawn(gate: Gate, count: int) -> None:
    """One after another, from one task."""
    for task in [loop_pool.spawn(gate.wait()) for _ in range(count)]:
        await task


async def by_group(gate: Gate, count: int) -> None:
    """In a group."""
    async with loop_pool.TaskGroup() as group:
        for _ in range(count):
            group.create_task(gate.wait())


async def by_gather(gate: Gate, count: int) -> None:
    """All at once."""
    await loop_pool.gather(*(gate.wait() for _ in range(count)))


async def by_map(gate: Gate, count: int) -> None:
    """As many calls at a time."""
    async for _ in loop_pool.map(lambda _: gate.wait(), range(count), limit=count):
        pass


async def by_submit(gate: Gate, count: int) -> None:
    """As an executor's calls."""
    calls = [loop_pool.submit(gate.wait) for _ in range(count)]
    await asyncio.gather(*[asyncio.wrap_future(call) for call in calls])


async def out_of_callbacks[T](make: Callable[[], Coroutine[Any, Any, T]], count: int) -> list[T]:
    """Spawns each out of a callback that has the next one called; returns the results."""
    tasks: list[loop_pool.PoolTask[T]] = []
    loop, spawned = asyncio.get_running_loop(), asyncio.Event()

    def spawn(left: int) -> None:
        if not left:
            spawned.set()
            return
        tasks.append(loop_pool.spawn(make()))
        loop.call_soon(spawn, left - 1)

    spawn(count)
    await spawned.wait()
    return [await task for task in tasks]


async def by_callbacks(gate: Gate, count: int) -> None:
    """Each out of a callback that has the next one called."""
    await out_of_callbacks(gate.wait, count)


async def by_tree(gate: Gate, count: int) -> None:
    """Each spawns two, until there are enough."""
    if count == 1:
        await gate.wait()
    else:
        gate.note()
        await loop_pool.gather(by_tree(gate, count // 2), by_tree(gate, count - count // 2))


WAYS = [by_spawn, by_group, by_gather, by_map, by_submit, by_callbacks, by_tree]


@pytest.mark.parametrize("nested", [False, True], ids=["in main", "in a spawned task"])
@pytest.mark.parametrize("spread", WAYS)
@pytest.mark.parametrize("number", [2, 3, 8])
def test_no_loop_has_much_more_than_its_share(
    number: int, spread: Callable[[Gate, int], Awaitable[None]], nested: bool
) -> None:
    # Of many, so that the few which one loop begins for another that is held up are no great share.
    each = 50
    gate = Gate(each * number)

    async def main() -> None:
        work = spread(gate, each * number)
        await (loop_pool.spawn(work) if nested else work)  # type: ignore[arg-type]
        parts = [gate.where[loop] for loop in loops()]
        share = gate.where.total() / number
        taken = [stats.spawned_stolen for stats in loop_pool.current_pool().stats()]
        assert max(parts) <= 1.3 * share, (parts, taken)
        # One loop may have been held up, by the spawner if by nobody else.
        assert sorted(parts)[1] >= 0.5 * share, (parts, taken)

    run(main, number)


@pytest.mark.parametrize("number", [2, 3, 8])
def test_no_loop_has_much_more_than_its_share_of_bursts_one_after_another(number: int) -> None:
    """The pool knows by then how short they are."""

    async def main() -> None:
        most = []
        for _ in range(15):
            taken = Counter(await loop_pool.gather(*(where() for _ in range(100 * number))))
            most.append(max(taken.values()))
        # In some the maker is held up for so long that others take all that it has.
        assert sorted(most)[len(most) // 2] <= 130, most

    run(main, number)


@pytest.mark.parametrize("number", [2, 3, 8])
def test_what_ends_at_once_is_spread_as_well(number: int) -> None:
    """Each out of a callback, when the spawner's own loop is done with the one before."""

    async def running_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main() -> None:
        where = Counter(await out_of_callbacks(running_loop, 100 * number))
        assert max(where.values()) <= 130, where

    run(main, number)


@pytest.mark.smoke
def test_what_a_loop_has_already_counts() -> None:
    async def main() -> None:
        here, *others = loops()
        before = Gate(40)
        waiting = [loop_pool.spawn(before.wait(), loop=others[0]) for _ in range(39)]
        await eventually(lambda: before.where[others[0]] == 39, "they have begun")
        gate = Gate(60)
        tasks = [loop_pool.spawn(gate.wait()) for _ in range(60)]
        for task in tasks:
            await task
        assert gate.where[others[0]] == 0
        assert 24 <= gate.where[here] <= 36
        await before.wait()
        # They have ended, and count no more.
        for task in waiting:
            await task
        gate = Gate(60)
        for task in [loop_pool.spawn(gate.wait()) for _ in range(60)]:
            await task
        assert gate.where[others[0]] >= 8

    run(main, 3)


def test_what_waits_on_a_loop_that_is_held_up_begins_elsewhere(count: int) -> None:
    """Though the others have as many to look after."""

    async def main() -> None:
        gate = Gate(10 * count)
        begun = threading.Event()

        async def begin(number: int) -> None:
            if number == 10 * count - 2:
                begun.set()
            await gate.wait()

        tasks = [loop_pool.spawn(begin(number)) for number in range(10 * count - 1)]
        if count > 1:
            # Inside a callback of loop 0, which begins nothing meanwhile.
            assert begun.wait(HANG)
        await gate.wait()
        for task in tasks:
            await task

    run(main, count)


@pytest.mark.parametrize("steal", [True, False])
def test_one_that_computes_holds_up_nothing_that_waits_behind_it(steal: bool) -> None:
    async def main() -> None:
        free = threading.Event()
        ended = [threading.Event() for _ in range(9)]

        async def compute() -> None:
            assert free.wait(HANG)

        async def end(event: threading.Event) -> None:
            event.set()

        # On the same loop as some of the others, wherever that is.
        first = loop_pool.spawn(compute())
        others = [loop_pool.spawn(end(event)) for event in ended]
        for event in ended:
            await asyncio.to_thread(event.wait, HANG)
            assert event.is_set()
        free.set()
        for task in [first, *others]:
            await task

    run(main, 2, steal=steal)


def test_what_is_left_when_a_run_ends_begins_on_the_other_loops() -> None:
    """Nobody runs loop 0 then."""
    begun = [threading.Event() for _ in range(20)]

    async def begin(event: threading.Event) -> None:
        event.set()

    async def main() -> None:
        for event in begun:
            loop_pool.spawn(begin(event))

    async def nothing() -> None:
        pass

    with loop_pool.Runner(loops=2) as runner:
        runner.run(main())
        assert all(event.wait(HANG) for event in begun)
        runner.run(nothing())


@pytest.mark.smoke
def test_one_that_is_awaited_at_once_costs_no_wake() -> None:
    """In a pool that is idle otherwise."""

    async def main() -> None:
        pool = loop_pool.current_pool()
        costs = []
        for _ in range(20):
            await asyncio.sleep(0.002)  # the others sleep
            before = sum(stats.wakes for stats in pool.stats())
            for _ in range(10):
                await loop_pool.spawn(asyncio.sleep(0))
            costs.append(sum(stats.wakes for stats in pool.stats()) - before)
        # Unless this thread is kept from it for so long that another takes it.
        assert min(costs) == 0, costs

    run(main, 3)


def test_one_that_the_spawner_does_not_come_to_begins_elsewhere() -> None:
    async def main() -> None:
        begun = threading.Event()

        async def begin() -> None:
            begun.set()

        task = loop_pool.spawn(begin())
        assert begun.wait(HANG)  # holds this loop up
        await task

    run(main, 2)
