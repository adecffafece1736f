"""What the tests of `loop_pool.sync` share: work on every loop of a pool and in threads at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool
from loop_pool import sync

from ..pool.support import run as run_pool
from ..support import HANG

LOOPS = 4

LOCKS: dict[str, Callable[[], Any]] = {
    "Lock": sync.Lock,
    "RLock": sync.RLock,
    "Semaphore": sync.Semaphore,
    "BoundedSemaphore": sync.BoundedSemaphore,
    "CapacityLimiter": lambda: sync.CapacityLimiter(1),
}
"""All that lets one in at a time."""

every_lock = pytest.mark.parametrize("make", LOCKS.values(), ids=LOCKS)


takes_turns = pytest.mark.timeout(5 * HANG)
"""For tests whose threads take turns some thousand times: each waits for a processor, which others
may have."""


def run[T](main: Callable[[], Coroutine[Any, Any, T]], loops: int = LOOPS) -> T:
    """Runs `main` with a pool; a hang is a failure."""
    return run_pool(main, loops, limit=4 * HANG)


def on[T](index: int, coroutine: Coroutine[Any, Any, T]) -> loop_pool.PoolTask[T]:
    """Runs a coroutine on a loop of the pool."""
    return loop_pool.spawn(coroutine, loop=loop_pool.current_pool().loops[index])


async def everywhere(
    work: Callable[[int], Coroutine[Any, Any, object]],
    green: Callable[[int], object],
    *,
    tasks: int = 2,
    threads: int = 2,
) -> None:
    """Runs `work` in several tasks on each loop, and `green` in threads; waits for all.

    Each is given a number of its own, from 0 on.
    """
    many = LOOPS * tasks
    await asyncio.gather(
        *(on(number % LOOPS, work(number)) for number in range(many)),
        *(asyncio.to_thread(green, many + number) for number in range(threads)),
    )


class Inside:
    """Counts how many are inside of something at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1
