"""Coroutines that one loop hands to several: `python fanout.py PEER --loops N --work W ...`.

It prints one line of JSON: how many coroutines ran to their end in the measured time, and the wall
and CPU time, in nanoseconds. Each coroutine gives way once and then adds up `--work` numbers. They
are handed out in batches; a batch ends when all of its results are there, and they are checked.
The loops wait for each other only at the ends of batches.

    loop_pool       loop_pool.spawn
    tonio           tonio.colored.spawn
    mt_asyncio      asyncio.gather, of which it has its own
    other loops     a loop in each of N threads, asyncio.run_coroutine_threadsafe in turn
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from child import LOOPS, MT_ASYNCIO, describe_error, load_factory

BATCH = 500

RunBatch = Callable[[int], Awaitable[list[int]]]
"""Runs so many coroutines and returns their results."""


def add_up(work: int) -> int:
    """Keep a core busy, without a word to other threads."""
    total = 0
    for number in range(work):
        total += number & 1
    return total


async def measure(run_batch: RunBatch, options: argparse.Namespace) -> dict[str, Any]:
    """Run batches for the warm-up and for the measured time."""
    expected = add_up(options.work)
    sample: dict[str, Any] = {}
    for seconds in (options.warmup, options.seconds):
        coroutines = 0
        began, cpu_began = time.perf_counter_ns(), time.process_time_ns()
        while time.perf_counter_ns() - began < seconds * 1e9:
            results = await run_batch(BATCH)
            if results != [expected] * BATCH:
                raise ValueError(f"wrong results: {set(results)}, not {expected}")
            coroutines += BATCH
        sample = {
            "coroutines": coroutines,
            "wall_ns": time.perf_counter_ns() - began,
            "cpu_ns": time.process_time_ns() - cpu_began,
        }
    return sample


def run_in_pool(options: argparse.Namespace) -> dict[str, Any]:
    """Over `loop_pool.spawn`."""
    import loop_pool

    async def unit() -> int:
        await asyncio.sleep(0)
        return add_up(options.work)

    async def run_batch(count: int) -> list[int]:
        tasks = [loop_pool.spawn(unit()) for _ in range(count)]
        return [await task for task in tasks]

    return loop_pool.run(measure(run_batch, options), loops=options.loops)


def run_in_tonio(options: argparse.Namespace) -> dict[str, Any]:
    """Over `tonio.colored.spawn`."""
    from tonio import colored

    async def unit() -> int:
        await colored.yield_now()
        return add_up(options.work)

    async def run_batch(count: int) -> list[int]:
        return list(await colored.spawn(*[unit() for _ in range(count)]))

    sample: dict[str, Any] = colored.run(measure(run_batch, options), threads=options.loops)
    return sample


def run_on_workers(options: argparse.Namespace) -> dict[str, Any]:
    """On the one loop of mt_asyncio, whose tasks run on all of its threads."""
    factory, _ = load_factory(MT_ASYNCIO, options.loops)

    async def unit() -> int:
        await asyncio.sleep(0)
        return add_up(options.work)

    async def run_batch(count: int) -> list[int]:
        return list(await asyncio.gather(*[unit() for _ in range(count)]))

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measure(run_batch, options))


def run_in_threads(options: argparse.Namespace) -> dict[str, Any]:
    """Over `asyncio.run_coroutine_threadsafe`; the loop that hands out takes its share too."""
    factory, _ = load_factory(options.peer)
    loops: list[asyncio.AbstractEventLoop] = []

    async def unit() -> int:
        await asyncio.sleep(0)
        return add_up(options.work)

    async def run_batch(count: int) -> list[int]:
        futures: list[asyncio.Future[int]] = []
        for number in range(count):
            loop = loops[number % len(loops)]
            if number % len(loops) == 0:
                futures.append(asyncio.ensure_future(unit()))
            else:
                there = asyncio.run_coroutine_threadsafe(unit(), loop)
                futures.append(asyncio.wrap_future(there))
        return await asyncio.gather(*futures)

    def serve(started: threading.Event) -> None:
        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            started.set()
            await asyncio.get_running_loop().create_future()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    async def main() -> dict[str, Any]:
        loops.append(asyncio.get_running_loop())
        # One after another: python/cpython#157666.
        for _ in range(options.loops - 1):
            started = threading.Event()
            threading.Thread(target=serve, args=(started,), daemon=True).start()
            started.wait()
        return await measure(run_batch, options)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def main() -> None:
    """Measure, and end the process, whatever its other threads do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=[*LOOPS, "tonio"])
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--work", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.3)
    options = parser.parse_args()
    special = {"loop_pool": run_in_pool, "tonio": run_in_tonio, MT_ASYNCIO: run_on_workers}
    try:
        sample = special.get(options.peer, run_in_threads)(options)
    except Exception as error:
        sample = {"error": describe_error(error)}
    answers.write(json.dumps(sample) + "\n")
    answers.flush()
    os._exit(0)


# Whatever a loop or its packages print must not come between the answers.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")

if __name__ == "__main__":
    os.dup2(2, 1)
    main()
