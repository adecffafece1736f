"""The registry: every loop's tasks and its current one, from any thread, at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually, in_thread
from .support import run

OF_LATE = 0.25
"""Seconds for which readers and loops run against each other."""


WINDOW = 50
"""Looks of a task at itself in one step: long enough for a reader's own look to fall into it."""


def everything() -> tuple[Any, set[Any]]:
    """What this thread sees of loop 0, which is the one that waits for it."""
    (loop,) = [loop for loop in loop_pool._loop.event_loop.open_loops() if loop.is_running()]
    return loop_pool.current_task(loop), loop_pool.all_tasks()


# The current task


@pytest.mark.smoke
@pytest.mark.parametrize("debug", [False, True])
def test_the_current_task_is_seen_at_every_kind_of_step(debug: bool) -> None:
    async def work(how: str) -> list[bool]:
        def look() -> bool:
            mine = asyncio.current_task()
            return loop_pool.current_task() is mine is everything()[0]

        seen = [look()]  # the first step
        if how == "bare yield":
            await asyncio.sleep(0)
        elif how == "wakeup":
            await asyncio.sleep(0.001)
        elif how == "exception":
            failing = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(failing.set_exception, ValueError())
            with contextlib.suppress(ValueError):
                await failing
        elif how == "cancellation":
            mine = asyncio.current_task()
            assert mine is not None
            asyncio.get_running_loop().call_soon(mine.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(HANG)
        elif how == "nested run":
            with pytest.raises(RuntimeError), contextlib.closing(work("")) as coroutine:
                asyncio.get_running_loop().run_until_complete(coroutine)
        return [*seen, look()]

    async def main() -> None:
        for how in ["bare yield", "wakeup", "exception", "cancellation", "nested run"]:
            assert await asyncio.create_task(work(how)) == [True, True], how

    run(main, loops=1, debug=debug)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("factory", [False, True])
def test_a_task_that_starts_at_once_is_current_meanwhile(factory: bool, debug: bool) -> None:
    async def inner() -> tuple[Any, Any]:
        seen = (asyncio.current_task(), everything()[0])
        await asyncio.sleep(0)
        assert seen == (asyncio.current_task(), loop_pool.current_task())
        return seen

    async def outer() -> Any:
        task = asyncio.create_task(inner(), **more)
        assert not task.done()
        assert loop_pool.current_task() is asyncio.current_task() is everything()[0]
        assert task in loop_pool.all_tasks()
        return task, await task

    async def main() -> None:
        mine = asyncio.current_task()
        if factory:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        outside = asyncio.create_task(outer(), name="outer", **more)
        assert outside.get_name() == "outer"
        assert loop_pool.current_task() is mine
        task, seen = await outside
        assert seen == (task, task)

    more: dict[str, Any] = {} if factory else {"eager_start": True}
    run(main, loops=1, debug=debug)


def test_a_task_that_starts_and_ends_at_once_is_done_when_it_is_made() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("at once")

    async def main() -> None:
        task = asyncio.create_task(answer(), eager_start=True)
        assert (task.done(), task.result()) == (True, 42)
        failed = asyncio.create_task(fail(), eager_start=True)
        assert str(failed.exception()) == "at once"
        later = asyncio.create_task(answer(), eager_start=False)
        assert not later.done()
        assert await later == 42

    run(main, loops=1)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_starts_at_once_and_ends_the_program_leaves_the_current_one(
    error: type[BaseException],
) -> None:
    async def end() -> None:
        raise error

    async def main() -> None:
        mine = asyncio.current_task()
        with pytest.raises(error):
            asyncio.create_task(end(), eager_start=True)
        assert loop_pool.current_task() is asyncio.current_task() is mine

    run(main, loops=1)


def test_outside_of_tasks_there_is_none() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[Any] = []
        loop.call_soon(lambda: seen.append((loop_pool.current_task(), everything()[0])))
        await asyncio.sleep(0.001)
        assert seen == [(None, None)]

    run(main, loops=1)
    loop = loop_pool.new_event_loop()
    assert loop_pool.current_task(loop) is None
    loop.close()
    assert loop_pool.current_task(loop) is None


# All tasks


@pytest.mark.smoke
def test_tasks_of_every_loop_are_seen_in_every_state() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        loops = loop_pool.current_pool().loops
        mine = asyncio.current_task()
        unstarted = asyncio.create_task(wait())
        assert loop_pool.all_tasks() >= {mine, unstarted}
        assert loop_pool.all_tasks(loops[0]) == {mine, unstarted}
        await asyncio.sleep(0)
        assert loop_pool.all_tasks(loops[0]) == {mine, unstarted}, "suspended"
        spawned = loop_pool.spawn(wait(), loop=loops[1], name="far")
        await eventually(lambda: len(loop_pool.all_tasks(loops[1])) == 1, "it is seen")
        (far,) = loop_pool.all_tasks(loops[1])
        assert far.get_name() == "far"
        assert in_thread(loop_pool.all_tasks) == {mine, unstarted, far}
        records = {record.task: record for record in loop_pool._loop.task_registry.tasks()}
        assert records[far].origin == "spawn"
        assert records[unstarted].origin == "create_task"
        assert records[far].loop is loops[1]
        now = time.monotonic()
        assert all(now - HANG < record.created <= now for record in records.values())
        unstarted.cancel()
        spawned.cancel()
        await asyncio.wait([unstarted])
        assert loop_pool.all_tasks(loops[0]) == {mine}
        await eventually(lambda: not loop_pool.all_tasks(loops[1]), "it has ended")

    run(main)


def test_more_tasks_than_are_shown_unstarted_are_seen() -> None:
    async def main() -> None:
        mine = asyncio.current_task()
        many = [asyncio.create_task(asyncio.sleep(0)) for _ in range(5_000)]
        assert loop_pool.all_tasks() == {mine, *many}
        await asyncio.sleep(0)
        assert loop_pool.all_tasks() == {mine, *many}
        await asyncio.wait(many)
        assert loop_pool.all_tasks() == {mine}

    run(main, loops=1)


def test_a_task_made_on_another_thread_is_seen() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        task = await asyncio.to_thread(lambda: asyncio.Task(seen.wait(), loop=loop))
        assert task in loop_pool.all_tasks(loop)
        seen.set()
        await task
        assert task not in loop_pool.all_tasks(loop)

    run(main, loops=1)


def test_tasks_are_kept_weakly_and_the_dead_leave_nothing_behind() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        async def burst() -> None:
            await asyncio.wait([asyncio.create_task(asyncio.sleep(0)) for _ in range(3_000)])

        await burst()
        gc.collect()
        assert loop._stats()["tasks"] < 3_100
        for _ in range(3_100):
            await asyncio.sleep(0)
        # Before it sleeps the loop looks at all.
        await eventually(lambda: loop._stats()["tasks"] <= 2, "dead tasks are forgotten")
        assert loop._stats()["tasks_swept"] >= 3_000

    run(main, loops=1)


def test_a_steady_stream_of_tasks_does_not_fill_the_registry() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        kept = [asyncio.create_task(asyncio.Event().wait()) for _ in range(100)]
        for _ in range(5_000):
            await asyncio.create_task(asyncio.sleep(0))
            assert loop._stats()["tasks"] <= 300
        for task in kept:
            assert task in loop_pool.all_tasks()
            task.cancel()

    run(main, loops=1)


def test_a_closed_loop_has_no_tasks() -> None:
    loop = loop_pool.new_event_loop()
    task = loop.create_task(asyncio.sleep(HANG))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert loop_pool.all_tasks(loop) == {task}
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    assert loop_pool.all_tasks(loop) == set()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_loop_that_closes_shows_none_of_the_tasks_that_never_began(
    logged_errors: list[str],
) -> None:
    loop = loop_pool.new_event_loop()

    def make() -> None:
        for _ in range(5):
            loop.create_task(asyncio.sleep(HANG))
        loop.stop()

    loop.call_soon(make)
    loop.run_forever()
    assert len(loop_pool.all_tasks(loop)) == 5
    loop.close()
    gc.collect()
    assert loop_pool.all_tasks(loop) == set()
    logged_errors[:] = [text for text in logged_errors if "destroyed but it is pending" not in text]


# Readers against loops


class Journal:
    """What one loop's tasks write down themselves."""

    def __init__(self) -> None:
        self.count = 0
        self.current: Any = None

    def __enter__(self) -> None:
        self.current = asyncio.current_task()
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count += 1


def _fight(loops: int, readers: int, seconds: float) -> dict[str, int]:
    """Reads all slots and all tasks while the loops create, switch, cancel and drop tasks."""
    journals = [Journal() for _ in range(loops)]
    seen = {"current": 0, "sure": 0, "tasks": 0}
    over = threading.Event()

    async def step(journal: Journal, steps: int) -> None:
        for _ in range(steps):
            with journal:
                for _ in range(WINDOW):
                    assert loop_pool.current_task() is asyncio.current_task()
            await asyncio.sleep(0)

    async def churn(index: int) -> None:
        journal, chance = journals[index], random.Random(index)
        while not over.is_set():
            tasks = [asyncio.create_task(step(journal, chance.randrange(4))) for _ in range(10)]
            dropped = asyncio.create_task(step(journal, 1))
            del dropped
            eager = asyncio.create_task(step(journal, 2), eager_start=True)
            await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.wait([*tasks, eager])
            with journal:
                pass

    def read(pool_loops: tuple[Any, ...], anchors: set[Any], ended: Any) -> None:
        while not over.is_set():
            for loop, journal in zip(pool_loops, journals, strict=True):
                before = journal.count
                expected = journal.current
                current = loop_pool.current_task(loop)
                after = journal.count
                if current is not None:
                    assert isinstance(current, asyncio.Task)
                    assert current.get_loop() is loop
                    seen["current"] += 1
                if before == after and before % 2:
                    assert current is expected, (current, expected)
                    seen["sure"] += 1
            tasks = loop_pool.all_tasks()
            assert anchors <= tasks
            assert ended not in tasks
            seen["tasks"] += 1

    async def main() -> None:
        pool_loops = loop_pool.current_pool().loops

        async def stay() -> Any:
            anchors.add(asyncio.current_task())
            await asyncio.Event().wait()

        anchors: set[Any] = set()
        ended = asyncio.create_task(asyncio.sleep(0))
        await ended
        stays = [loop_pool.spawn(stay(), loop=loop) for loop in pool_loops]
        await eventually(lambda: len(anchors) == loops, "the anchors")
        churns = [loop_pool.spawn(churn(n), loop=loop) for n, loop in enumerate(pool_loops)]
        reading = [lambda: read(pool_loops, set(anchors), ended)] * readers
        with Threads(*reading, lambda: [gc.collect() for _ in iter(over.is_set, True)]):
            await asyncio.sleep(seconds)
            over.set()
            for churned in churns:
                await churned
        for stayed in stays:
            stayed.cancel()

    run(main, loops=loops)
    return seen


def test_readers_and_loops_do_not_disturb_each_other() -> None:
    seen = _fight(loops=3, readers=2, seconds=OF_LATE)
    assert seen["tasks"] > 0
    assert seen["current"] > 0


@pytest.mark.stress
@pytest.mark.timeout(120)
def test_readers_and_loops_do_not_disturb_each_other_for_long() -> None:
    seen = _fight(loops=8, readers=4, seconds=20)
    assert seen["sure"] > 100


def test_a_task_inside_a_long_step_keeps_nobody_waiting() -> None:
    leave = threading.Event()

    async def stay() -> None:
        # A step that waits would let go of its task.
        until = time.monotonic() + HANG
        while not leave.is_set() and time.monotonic() < until:
            pass

    async def main() -> None:
        pool = loop_pool.current_pool()
        inside = loop_pool.spawn(stay(), loop=pool.loops[1], name="inside")
        try:
            await eventually(
                lambda: loop_pool.current_task(pool.loops[1]) is not None, "the step runs"
            )
            began = time.monotonic()
            found = loop_pool.all_tasks(pool.loops[1])
            assert time.monotonic() - began < HANG / 2
            assert loop_pool.current_task(pool.loops[1]) in found
        finally:
            leave.set()
        await inside

    run(main, loops=2)
