"""The micro benchmarks that tonio's own interface has an equal of, on one thread of its runtime.

tonio is no asyncio event loop: it has tasks, events and channels, but neither callbacks nor futures
nor readers. What is not here it cannot do, or not in a way that would be the same measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from sampling import TASKS_PER_BATCH, Sample, Stopwatch, empty, empty_coroutine

SWITCHING_TASKS = 100
Main = Callable[[], Coroutine[Any, Any, Sample]]


def switch(operations: int) -> Main:
    """100 tasks that do nothing but `await yield_now()`."""
    import tonio.colored as tonio

    each = operations // SWITCHING_TASKS

    async def yield_repeatedly() -> None:
        for _ in range(each):
            await tonio.yield_now()

    async def main() -> Sample:
        with Stopwatch() as watch:
            await tonio.spawn(*[yield_repeatedly() for _ in range(SWITCHING_TASKS)])
        return watch.sample(each * SWITCHING_TASKS)

    return main


def create_await(operations: int) -> Main:
    """`await spawn(coroutine)`."""
    import tonio.colored as tonio

    async def main() -> Sample:
        with Stopwatch() as watch:
            for _ in range(operations):
                await tonio.spawn(empty_coroutine())
        return watch.sample(operations)

    return main


def create_await_batch(operations: int) -> Main:
    """100 times `spawn(coroutine)`, then they are awaited."""
    import tonio.colored as tonio

    async def main() -> Sample:
        batches = max(operations // TASKS_PER_BATCH, 1)
        with Stopwatch() as watch:
            for _ in range(batches):
                tasks = [tonio.spawn(empty_coroutine()) for _ in range(TASKS_PER_BATCH)]
                for task in tasks:
                    await task
        return watch.sample(batches * TASKS_PER_BATCH)

    return main


def queue(operations: int) -> Main:
    """An item through a channel of size 1."""
    import tonio.colored as tonio
    from tonio.colored.sync import channel

    async def main() -> Sample:
        sender, receiver = channel.channel(1)

        async def produce() -> None:
            for _ in range(operations):
                await sender.send(None)

        with Stopwatch() as watch:
            producer = tonio.spawn(produce())
            for _ in range(operations):
                await receiver.receive()
            await producer
        return watch.sample(operations)

    return main


def gather(operations: int) -> Main:
    """`await spawn(*coroutines)` of 100 that yield once."""
    import tonio.colored as tonio

    async def yield_once() -> None:
        await tonio.yield_now()

    async def main() -> Sample:
        batches = max(operations // TASKS_PER_BATCH, 1)
        with Stopwatch() as watch:
            for _ in range(batches):
                await tonio.spawn(*[yield_once() for _ in range(TASKS_PER_BATCH)])
        return watch.sample(batches * TASKS_PER_BATCH)

    return main


def executor(operations: int) -> Main:
    """`await spawn_blocking(function)`."""
    import tonio.colored as tonio

    async def main() -> Sample:
        await tonio.spawn_blocking(empty)
        with Stopwatch() as watch:
            for _ in range(operations):
                await tonio.spawn_blocking(empty)
        return watch.sample(operations)

    return main


MAINS = {
    main.__name__: main
    for main in (switch, create_await, create_await_batch, queue, gather, executor)
}
"""Name of a workload -> its main coroutine function, for a number of operations."""


class Runner:
    """tonio's runtime, of which a process has one."""

    def __init__(self) -> None:
        """Raises `ImportError` if tonio is not there."""
        import tonio.colored as tonio

        self._runtime = tonio.runtime(threads=1)

    def take_sample(self, workload: str, operations: int) -> Sample:
        """One sample; raises `NotImplementedError` if tonio has no equal of the workload."""
        if workload not in MAINS:
            raise NotImplementedError("tonio's own interface has no equal operation")
        sample: Sample = self._runtime.run_until_complete(MAINS[workload](operations)())
        return sample
