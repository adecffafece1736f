"""`Pool.stats`: what each loop has done and has to do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

import loop_pool

from ..support import eventually, turns, wait_parked
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.mark.smoke
def test_there_is_a_record_for_each_loop() -> None:
    async def main() -> None:
        records = loop_pool.current_pool().stats()
        assert [record.name for record in records] == ["loop-pool-0", "loop-pool-1", "loop-pool-2"]
        for record in records:
            counts = [record.ready, record.timers, record.descriptors]
            counts += [record.callbacks, record.turns, record.polls]
            assert all(isinstance(count, int) and count >= 0 for count in counts)
            assert isinstance(record.busy, float)
            assert isinstance(record.idle, float)

    run(main, loops=3)


def test_work_is_counted_on_the_loop_that_does_it() -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        _, before = pool.stats()
        await loop_pool.spawn(turns(1_000), loop=pool.loops[1])
        await eventually(
            lambda: pool.stats()[1].callbacks >= before.callbacks + 1_000, "the steps are counted"
        )
        assert pool.stats()[1].turns > before.turns

    run(main)


async def native_id() -> int:
    """The thread's number for the kernel."""
    return threading.get_native_id()


def test_an_idle_loop_counts_nothing() -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        thread = await loop_pool.spawn(native_id(), loop=pool.loops[1])
        settled = pool.stats()[1]

        def still() -> bool:
            nonlocal settled
            wait_parked(thread)
            before, settled = settled, pool.stats()[1]
            return before.turns == settled.turns and settled.ready == 0

        await eventually(still, "the loop parks")
        await turns(1_000)
        assert pool.stats()[1].callbacks == settled.callbacks
        assert pool.stats()[1].turns == settled.turns

    run(main)


def test_counts_never_fall() -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        task = loop_pool.spawn(turns(2_000), loop=pool.loops[1])
        before = pool.stats()
        while not task.done():
            await asyncio.sleep(0)
            after = pool.stats()
            for old, new in zip(before, after, strict=True):
                assert new.callbacks >= old.callbacks
                assert new.turns >= old.turns
                assert new.polls >= old.polls
                assert new.busy >= old.busy
                assert new.idle >= old.idle
            before = after

    run(main)


def test_timers_and_descriptors_are_gauges() -> None:
    handles: list[asyncio.Handle] = []
    near, far = socket.socketpair()

    async def add() -> None:
        loop = asyncio.get_running_loop()
        handles.extend(loop.call_later(10_000, print) for _ in range(10))
        loop.add_reader(near, print)

    async def remove() -> None:
        for handle in handles:
            handle.cancel()
        asyncio.get_running_loop().remove_reader(near)

    async def main() -> None:
        pool = loop_pool.current_pool()
        before = pool.stats()[1]
        await loop_pool.spawn(add(), loop=pool.loops[1])
        await eventually(
            lambda: (
                pool.stats()[1].timers >= before.timers + 10
                and pool.stats()[1].descriptors == before.descriptors + 1
            ),
            "they are counted",
        )
        await loop_pool.spawn(remove(), loop=pool.loops[1])
        await loop_pool.spawn(turns(2), loop=pool.loops[1])
        await eventually(
            lambda: (
                pool.stats()[1].timers == before.timers
                and pool.stats()[1].descriptors == before.descriptors
            ),
            "they are counted no more",
        )

    with near, far:
        run(main)


def test_busy_and_idle_time_add_up() -> None:
    async def work() -> None:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass

    async def main() -> None:
        pool = loop_pool.current_pool()
        before, start = pool.stats()[1], time.monotonic()
        await loop_pool.spawn(work(), loop=pool.loops[1])
        await loop_pool.spawn(asyncio.sleep(0.05), loop=pool.loops[1])
        await loop_pool.spawn(turns(2), loop=pool.loops[1])
        await eventually(lambda: pool.stats()[1].idle > before.idle + 0.01, "idle time")
        after, end = pool.stats()[1], time.monotonic()
        assert after.busy - before.busy > 0.04
        # Time parked is counted when it ends, so that which began before may be in it.
        assert after.busy - before.busy < end - start + 1e-3

    run(main)


def test_stats_are_read_from_any_thread() -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        records = await asyncio.to_thread(pool.stats)
        assert len(records) == 2
        assert len(await loop_pool.spawn(_stats(), loop=pool.loops[1])) == 2

    run(main)


async def _stats() -> list[Any]:
    return list(loop_pool.current_pool().stats())
