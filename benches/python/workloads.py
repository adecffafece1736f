"""What the micro benchmarks measure: one sample of one workload on one event loop.

Every sample makes a fresh loop and leaves setting up and tearing down outside of the measured part.
Timers, and what tasks wait for, have files of their own; `WORKLOADS` is the list of all.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import threading
import time
from asyncio import sleep
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sampling import (
    CALLBACKS_PER_TURN,
    LoopFactory,
    Sample,
    Stopwatch,
    Workload,
    empty,
    empty_coroutine,
)
from workloads_tasks import (
    create_await_batch,
    eager_done,
    eager_suspended,
    executor,
    executor_batch,
    future_await,
    gather,
    queue,
)
from workloads_timers import TIMER_WORKLOADS

SWITCHING_TASKS = 100
STALL_SECONDS = 2.0
"""A posted callback that has not run for this long counts as stalled (a lost wakeup)."""


async def _yield_repeatedly(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def _yield_by_global_name(times: int) -> None:
    # `asyncio` has a module `__getattr__`, which keeps the interpreter from specializing
    # `asyncio.sleep`. Two threads that look it up contend for the function's reference count
    # (x 1.06 to x 1.4 on bare coroutines, no loop at all); a global name they do not.
    for _ in range(times):
        await sleep(0)


def switch(factory: LoopFactory, operations: int) -> Sample:
    """100 tasks that do nothing but `await asyncio.sleep(0)`; an operation is one switch."""

    async def main() -> Sample:
        each = operations // SWITCHING_TASKS
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(_yield_repeatedly(each)) for _ in range(SWITCHING_TASKS)]
        with Stopwatch() as watch:
            await asyncio.gather(*tasks)
        return watch.sample(each * SWITCHING_TASKS)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def create_await(factory: LoopFactory, operations: int) -> Sample:
    """`await loop.create_task(coroutine)` of a coroutine that returns at once."""

    async def main() -> Sample:
        create_task = asyncio.get_running_loop().create_task
        with Stopwatch() as watch:
            for _ in range(operations):
                await create_task(empty_coroutine())
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def call_soon(factory: LoopFactory, operations: int) -> Sample:
    """`call_soon` of an empty function, 1000 for each turn of the loop, and their execution."""

    async def main() -> Sample:
        call = asyncio.get_running_loop().call_soon
        turns = max(operations // CALLBACKS_PER_TURN, 1)
        with Stopwatch() as watch:
            for _ in range(turns):
                for _ in itertools.repeat(None, CALLBACKS_PER_TURN):
                    call(empty)
                await asyncio.sleep(0)
        return watch.sample(turns * CALLBACKS_PER_TURN)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def call_soon_chain(factory: LoopFactory, operations: int) -> Sample:
    """Have a callback schedule itself again: one callback for each turn of the loop."""
    left = operations

    def callback() -> None:
        nonlocal left
        left -= 1
        if left:
            call(callback)
        else:
            loop.stop()

    loop = factory()
    try:
        call = loop.call_soon
        call(callback)
        with Stopwatch() as watch:
            loop.run_forever()
    finally:
        loop.close()
    return watch.sample(operations)


class _Flood:
    """Threads that post callbacks onto one loop as fast as they can, and who counts what ran."""

    def __init__(self, loop: asyncio.AbstractEventLoop, posters: int, each: int) -> None:
        self._loop = loop
        self._each = each
        self._ready = threading.Barrier(posters + 1)
        self._all_ran = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(posters)]
        self._watcher = threading.Thread(target=self._watch_over)
        self.total = posters * each
        self.ran = 0
        self.stalled = 0

    def run(self) -> Stopwatch:
        """Run the loop until all callbacks ran, or until no more of them will."""
        for thread in [*self._threads, self._watcher]:
            thread.start()
        self._loop.call_soon(self._ready.wait)
        with Stopwatch() as watch:
            self._loop.run_forever()
        self._watcher.join()
        return watch

    def _callback(self) -> None:
        self.ran += 1
        if self.ran == self.total:
            self._all_ran.set()
            self._loop.stop()

    def _post(self) -> None:
        call = self._loop.call_soon_threadsafe
        callback = self._callback
        self._ready.wait()
        for _ in itertools.repeat(None, self._each):
            call(callback)

    def _watch_over(self) -> None:
        # The loop has no timer that would wake it, so a lost wakeup shows as a stall here.
        for thread in self._threads:
            thread.join()
        self._wait_while_it_runs()
        if not self._all_ran.is_set():
            self.stalled = self.total - self.ran
            self._loop.call_soon_threadsafe(empty)
            self._wait_while_it_runs()
        if not self._all_ran.is_set():
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait_while_it_runs(self) -> None:
        before = -1
        while not self._all_ran.wait(STALL_SECONDS) and self.ran != before:
            before = self.ran


def _post_from_threads(factory: LoopFactory, operations: int, posters: int) -> Sample:
    loop = factory()
    try:
        flood = _Flood(loop, posters, operations // posters)
        watch = flood.run()
    finally:
        loop.close()
    return watch.sample(flood.total, lost=flood.total - flood.ran, stalled=flood.stalled)


def threadsafe_1(factory: LoopFactory, operations: int) -> Sample:
    """`call_soon_threadsafe` from one other thread, as fast as it can; counts what never ran."""
    return _post_from_threads(factory, operations, posters=1)


def threadsafe_4(factory: LoopFactory, operations: int) -> Sample:
    """`call_soon_threadsafe` from four other threads at once; counts what never ran."""
    return _post_from_threads(factory, operations, posters=4)


def threadsafe_wake(factory: LoopFactory, operations: int) -> Sample:
    """`call_soon_threadsafe` onto a sleeping loop, and back: each post has to wake the loop."""
    answered = threading.Semaphore(0)
    stalled = lost = 0

    def post(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal stalled, lost
        for _ in range(operations):
            loop.call_soon_threadsafe(answered.release)
            if not answered.acquire(timeout=STALL_SECONDS):
                stalled += 1
                loop.call_soon_threadsafe(empty)
                if not answered.acquire(timeout=STALL_SECONDS):
                    lost += 1
        loop.call_soon_threadsafe(loop.stop)

    loop = factory()
    try:
        poster = threading.Thread(target=post, args=(loop,))
        loop.call_soon(poster.start)
        with Stopwatch() as watch:
            loop.run_forever()
        poster.join()
    finally:
        loop.close()
    return watch.sample(operations, lost=lost, stalled=stalled)


def reader_add_remove(factory: LoopFactory, operations: int) -> Sample:
    """`add_reader` and `remove_reader` of a quiet socket; the loop turns after every pair."""

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        with near, far:
            descriptor = near.fileno()
            with Stopwatch() as watch:
                for _ in range(operations):
                    loop.add_reader(descriptor, empty)
                    loop.remove_reader(descriptor)
                    await asyncio.sleep(0)
        return watch.sample(operations)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def reader_event(factory: LoopFactory, operations: int) -> Sample:
    """Poll a readable socket and call its callback; an operation is one call of it."""

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            finished = loop.create_future()
            left = operations
            spurious = 0

            def readable() -> None:
                # Each byte is sent after the last was read: every call is an event of its own.
                nonlocal left, spurious
                try:
                    near.recv(1)
                except BlockingIOError:
                    spurious += 1
                    return
                left -= 1
                if left:
                    far.send(b"x")
                else:
                    finished.set_result(None)

            loop.add_reader(near.fileno(), readable)
            far.send(b"x")
            with Stopwatch() as watch:
                await finished
            loop.remove_reader(near.fileno())
        return watch.sample(operations, spurious=spurious)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def _switch_on_loop(factory: LoopFactory, switches: int, ready: threading.Barrier) -> Sample:
    each = switches // SWITCHING_TASKS

    async def main() -> Sample:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(_yield_by_global_name(each)) for _ in range(SWITCHING_TASKS)]
        ready.wait()
        with Stopwatch(time.thread_time_ns) as watch:
            await asyncio.gather(*tasks)
        return watch.sample(each * SWITCHING_TASKS)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def _switch_bare(switches: int, ready: threading.Barrier) -> Sample:
    """Resume coroutines in turn, with no loop and no tasks: what the machine itself allows."""
    each = switches // SWITCHING_TASKS
    coroutines = [_yield_by_global_name(each) for _ in range(SWITCHING_TASKS)]
    ready.wait()
    with Stopwatch(time.thread_time_ns) as watch:
        for _ in range(each):
            for coroutine in coroutines:
                coroutine.send(None)
    for coroutine in coroutines:
        coroutine.close()
    return watch.sample(each * SWITCHING_TASKS)


def _nanoseconds_in_threads(
    switch_tasks: Callable[[threading.Barrier], Sample], threads: int
) -> tuple[float, float]:
    """Mean wall and CPU nanoseconds per switch of threads that switch at the same time."""
    ready = threading.Barrier(threads)

    def run() -> Sample:
        try:
            return switch_tasks(ready)
        except BaseException:
            ready.abort()
            raise

    with ThreadPoolExecutor(threads) as executor:
        futures = [executor.submit(run) for _ in range(threads)]
        samples = [future.result() for future in futures]
    operations = sum(sample["operations"] for sample in samples)
    return (
        sum(sample["wall_ns"] for sample in samples) / operations,
        sum(sample["cpu_ns"] for sample in samples) / operations,
    )


def two_loops(factory: LoopFactory, operations: int) -> Sample:
    """Switching tasks on two loops in two threads; its growth against one loop in one thread."""
    on_loop = functools.partial(_switch_on_loop, factory, operations)
    bare = functools.partial(_switch_bare, operations)
    one_wall, one_cpu = _nanoseconds_in_threads(on_loop, threads=1)
    two_wall, two_cpu = _nanoseconds_in_threads(on_loop, threads=2)
    bare_one_wall, bare_one_cpu = _nanoseconds_in_threads(bare, threads=1)
    bare_two_wall, bare_two_cpu = _nanoseconds_in_threads(bare, threads=2)
    return {
        "operations": 1,
        "wall_ns": two_wall,
        "cpu_ns": two_cpu,
        "wall_growth": two_wall / one_wall,
        "cpu_growth": two_cpu / one_cpu,
        "wall_growth_bare": bare_two_wall / bare_one_wall,
        "cpu_growth_bare": bare_two_cpu / bare_one_cpu,
    }


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(switch, 200_000, "cpu"),
        Workload(create_await, 50_000, "cpu"),
        Workload(create_await_batch, 100_000, "cpu"),
        Workload(eager_done, 100_000, "cpu"),
        Workload(eager_suspended, 50_000, "cpu"),
        Workload(future_await, 50_000, "cpu"),
        Workload(queue, 20_000, "cpu"),
        Workload(gather, 50_000, "cpu"),
        Workload(call_soon, 500_000, "cpu"),
        Workload(call_soon_chain, 200_000, "cpu"),
        Workload(threadsafe_1, 100_000, "wall"),
        Workload(threadsafe_4, 200_000, "wall"),
        Workload(threadsafe_wake, 5_000, "wall"),
        *TIMER_WORKLOADS,
        Workload(reader_add_remove, 20_000, "cpu"),
        Workload(reader_event, 20_000, "cpu"),
        Workload(executor, 5_000, "wall"),
        Workload(executor_batch, 10_000, "wall"),
        Workload(two_loops, 200_000, "cpu"),
    )
}
