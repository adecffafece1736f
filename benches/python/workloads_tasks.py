"""What tasks are made as and wait for, in the micro benchmarks: tasks in batches, eager
tasks, futures, queues, `gather` and executors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sampling import (
    TASKS_PER_BATCH,
    LoopFactory,
    Sample,
    Stopwatch,
    empty,
    empty_coroutine,
    suspended_once,
)


def _in_batches(
    factory: LoopFactory,
    operations: int,
    coroutine: Callable[[], Coroutine[Any, Any, None]],
    task_factory: Any = None,
) -> Sample:
    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        if task_factory is not None:
            loop.set_task_factory(task_factory)
        create_task = loop.create_task
        batches = max(operations // TASKS_PER_BATCH, 1)
        with Stopwatch() as watch:
            for _ in range(batches):
                tasks = [create_task(coroutine()) for _ in range(TASKS_PER_BATCH)]
                for task in tasks:
                    await task
        return watch.sample(batches * TASKS_PER_BATCH)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def create_await_batch(factory: LoopFactory, operations: int) -> Sample:
    """As `create_await`, but 100 tasks are created before the first of them is awaited."""
    return _in_batches(factory, operations, empty_coroutine)


def eager_done(factory: LoopFactory, operations: int) -> Sample:
    """As `create_await_batch`, by `asyncio.eager_task_factory`: the tasks end as they are made."""
    return _in_batches(factory, operations, empty_coroutine, asyncio.eager_task_factory)


def eager_suspended(factory: LoopFactory, operations: int) -> Sample:
    """As `eager_done`, of a coroutine that is suspended once, by `sleep(0)`."""
    return _in_batches(factory, operations, suspended_once, asyncio.eager_task_factory)


def future_await(factory: LoopFactory, operations: int) -> Sample:
    """`create_future`, its `set_result` in the next turn of the loop, and `await` of it."""

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        with Stopwatch() as watch:
            for _ in range(operations):
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def queue(factory: LoopFactory, operations: int) -> Sample:
    """An item through an `asyncio.Queue(1)`, from one task to another: each waits for the other."""

    async def main() -> Sample:
        items: asyncio.Queue[None] = asyncio.Queue(1)

        async def produce() -> None:
            for _ in range(operations):
                await items.put(None)

        with Stopwatch() as watch:
            producer = asyncio.get_running_loop().create_task(produce())
            for _ in range(operations):
                await items.get()
            await producer
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def gather(factory: LoopFactory, operations: int) -> Sample:
    """`asyncio.gather` of 100 coroutines that are suspended once; an operation is one of them."""

    async def main() -> Sample:
        batches = max(operations // TASKS_PER_BATCH, 1)
        with Stopwatch() as watch:
            for _ in range(batches):
                await asyncio.gather(*[suspended_once() for _ in range(TASKS_PER_BATCH)])
        return watch.sample(batches * TASKS_PER_BATCH)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def executor(factory: LoopFactory, operations: int) -> Sample:
    """`run_in_executor` of an empty function by the default executor, awaited one by one."""

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, empty)  # makes the executor and its first thread
        with Stopwatch() as watch:
            for _ in range(operations):
                await loop.run_in_executor(None, empty)
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def executor_batch(factory: LoopFactory, operations: int) -> Sample:
    """As `executor`, 100 at a time, awaited by `gather`."""

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        batches = max(operations // TASKS_PER_BATCH, 1)

        async def run_batch() -> None:
            calls = [loop.run_in_executor(None, empty) for _ in range(TASKS_PER_BATCH)]
            await asyncio.gather(*calls)

        await run_batch()
        with Stopwatch() as watch:
            for _ in range(batches):
                await run_batch()
        return watch.sample(batches * TASKS_PER_BATCH)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())
