"""What the workloads of the micro benchmarks are made of: the stopwatch, a sample, a workload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Sample = dict[str, float]
"""`operations`, `wall_ns` and `cpu_ns` (for all operations), and what else a workload counts."""

CALLBACKS_PER_TURN = 1000
TASKS_PER_BATCH = 100


class Stopwatch:
    """Wall time and CPU time of a stretch, in nanoseconds.

    `clock` is `time.process_time_ns` (work that an implementation gives to threads of its own
    counts too) or `time.thread_time_ns` (when other loops run in the same process).
    """

    wall_ns: int
    cpu_ns: int

    def __init__(self, clock: Callable[[], int] = time.process_time_ns) -> None:
        """`clock` is read when the stretch begins and when it ends."""
        self._clock = clock

    def __enter__(self) -> Self:
        """Begin the stretch."""
        self._wall = time.perf_counter_ns()
        self._cpu = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        """End the stretch."""
        cpu = self._clock()
        self.wall_ns = time.perf_counter_ns() - self._wall
        self.cpu_ns = cpu - self._cpu

    def sample(self, operations: int, **counted: float) -> Sample:
        """Return the measured stretch as a sample of `operations` operations."""
        times = {"operations": operations, "wall_ns": self.wall_ns, "cpu_ns": self.cpu_ns}
        return {**times, **counted}


def empty() -> None:
    """Do nothing: the callback of which only the calling is measured."""


async def empty_coroutine() -> None:
    """Do nothing: the coroutine of which only the task is measured."""


async def suspended_once() -> None:
    """Let the loop turn once."""
    await asyncio.sleep(0)


@dataclass(frozen=True)
class Workload:
    """One benchmark: what takes a sample, its size, and the clock its table shows."""

    take: Callable[[LoopFactory, int], Sample]
    operations: int
    clock: str
    """`cpu` for work on one thread (other programs do not disturb it much), else `wall`."""
    slow: bool = False
    """It prepares so much that a quick run leaves it out, and any other takes few rounds."""

    @property
    def name(self) -> str:
        """Name on the command line and in the results."""
        return self.take.__name__

    @property
    def summary(self) -> str:
        """One line that says what an operation is."""
        return (self.take.__doc__ or "").strip()
