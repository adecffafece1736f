"""The timers of the micro benchmarks: set and cancelled, and fired, while others are pending."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from sampling import CALLBACKS_PER_TURN, LoopFactory, Sample, Stopwatch, Workload, empty

PENDING = {"_10": 10, "_10k": 10_000, "": 100_000, "_1m": 1_000_000}
"""End of a workload's name -> timers that are pending all the time."""
SLOW_PENDING = 1_000_000
"""To set so many takes longer than what is measured."""


def _add_pending_timers(loop: asyncio.AbstractEventLoop, count: int) -> list[asyncio.TimerHandle]:
    """`count` timers that are due long after the sample, in no order."""
    delays = random.Random(1)
    return [loop.call_later(delays.uniform(600, 1200), empty) for _ in range(count)]


def _cancel(factory: LoopFactory, operations: int, count: int) -> Sample:
    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        pending = _add_pending_timers(loop, count)
        await asyncio.sleep(0)
        numbers = random.Random(2)
        delays = [numbers.uniform(600, 1200) for _ in range(CALLBACKS_PER_TURN)]
        turns = max(operations // CALLBACKS_PER_TURN, 1)
        with Stopwatch() as watch:
            for _ in range(turns):
                for delay in delays:
                    loop.call_later(delay, empty).cancel()
                await asyncio.sleep(0)
        for timer in pending:
            timer.cancel()
        return watch.sample(turns * CALLBACKS_PER_TURN)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def _fire(factory: LoopFactory, operations: int, count: int) -> Sample:
    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        pending = _add_pending_timers(loop, count)
        await asyncio.sleep(0)
        numbers = random.Random(2)
        delays = [numbers.uniform(0.001, 0.010) for _ in range(operations)]
        finished = loop.create_future()
        left = operations

        def fire() -> None:
            nonlocal left
            left -= 1
            if not left:
                finished.set_result(None)

        with Stopwatch() as watch:
            for delay in delays:
                loop.call_later(delay, fire)
            await finished
        for timer in pending:
            timer.cancel()
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def _named(
    name: str, summary: str, body: Callable[[LoopFactory, int, int], Sample], count: int
) -> Callable[[LoopFactory, int], Sample]:
    def take(factory: LoopFactory, operations: int) -> Sample:
        return body(factory, operations, count)

    take.__name__ = name
    others = f"{count:,} others are pending."
    take.__doc__ = f"{summary} while {others}"
    return take


_CANCEL = "`call_later` and `cancel` of the same timer"
_FIRE = "`call_later` (1 to 10 ms) and the timer's firing"

TIMER_WORKLOADS = [
    Workload(
        _named(f"{name}{end}", summary, body, count), operations, "cpu", slow=count >= SLOW_PENDING
    )
    for name, summary, body, operations in (
        ("timers_cancel", _CANCEL, _cancel, 50_000),
        ("timers_fire", _FIRE, _fire, 20_000),
    )
    for end, count in PENDING.items()
]
