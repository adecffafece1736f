"""`loop_pool.sync`: waits that end otherwise: cancelled, out of time, or with their loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("loop_pool")
pytest.importorskip("aiologic")
import loop_pool
from loop_pool import sync

from ..support import HANG, Threads, eventually, wait_for
from .support import every_lock, on, run

pytestmark = pytest.mark.usefixtures("clean_process")

RACES = 300


async def hold(lock: Any) -> str:
    async with lock:
        return "had it"


# Cancelled


@every_lock
def test_one_that_is_cancelled_from_another_loop_gives_way_to_the_next(
    make: Callable[[], Any],
) -> None:
    async def main() -> None:
        lock = make()
        async with lock:
            first = on(1, hold(lock))
            await eventually(lambda: lock.waiting == 1, "the first one waits")
            second = on(2, hold(lock))
            await eventually(lambda: lock.waiting == 2, "the second one waits")
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert lock.waiting == 1
            assert not second.done()
        assert await second == "had it"
        assert await on(3, hold(lock)) == "had it"

    run(main)


@every_lock
def test_a_cancellation_that_meets_the_release_loses_nothing(make: Callable[[], Any]) -> None:
    async def main() -> None:
        lock, outcomes = make(), set[Any]()
        for number in range(RACES):
            async with lock:
                first, second = on(1, hold(lock)), on(2, hold(lock))
                await eventually(lambda: lock.waiting == 2, "both wait")
                if number % 2:
                    first.cancel()
            if not number % 2:
                first.cancel()
            outcomes.add((await asyncio.gather(first, return_exceptions=True))[0] == "had it")
            assert await second == "had it"
            assert lock.waiting == 0
        assert await on(3, hold(lock)) == "had it"
        if hasattr(lock, "value"):
            assert lock.value == 1
        assert False in outcomes

    run(main)


def test_a_cancelled_wait_for_an_event_leaves_the_others_waiting() -> None:
    async def main() -> None:
        event = sync.Event()
        first, second = on(1, event.wait()), on(2, event.wait())
        await eventually(lambda: event.waiting == 2, "both wait")
        first.cancel()
        await eventually(lambda: event.waiting == 1, "one has left")
        event.set()
        assert await second is True

    run(main)


def test_a_cancelled_wait_for_a_condition_owns_the_lock_and_passes_the_notice_on() -> None:
    async def main() -> None:
        condition, owned = sync.Condition(), list[bool]()

        async def wait(notified: list[bool]) -> None:
            async with condition:
                try:
                    notified.append(await condition.wait())
                except asyncio.CancelledError:
                    owned.append(condition.locked())
                    raise

        for number in range(RACES):
            notified = list[bool]()
            first = on(1, wait(notified))
            await eventually(lambda: condition.waiting == 1, "the first one waits")
            second = on(2, wait([]))
            await eventually(lambda: condition.waiting == 2, "the second one waits")
            if number % 2:
                first.cancel()
            async with condition:
                condition.notify()
            if not number % 2:
                first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            # Then it was notified before it was cancelled; which may have been in its last step,
            # and the task ends as cancelled all the same.
            if notified:
                async with condition:
                    condition.notify()
            await second
        assert all(owned)
        assert owned

    run(main)


def test_a_barrier_breaks_when_one_who_waits_is_cancelled() -> None:
    async def main() -> None:
        barrier = sync.Barrier(3)
        first, second = on(1, barrier.wait()), on(2, barrier.wait())
        await eventually(lambda: barrier.n_waiting == 2, "both wait")
        first.cancel()
        with pytest.raises(asyncio.BrokenBarrierError) as caught:
            await second
        assert isinstance(caught.value, threading.BrokenBarrierError)
        assert barrier.broken
        with pytest.raises(sync.BrokenBarrierError):
            await asyncio.to_thread(barrier.green_wait)
        await barrier.reset()
        places = await asyncio.gather(
            barrier.wait(), on(1, barrier.wait()), asyncio.to_thread(barrier.green_wait)
        )
        assert sorted(places) == [0, 1, 2]

    run(main)


@pytest.mark.parametrize("how", ["reset", "abort", "green_reset", "green_abort"])
def test_those_at_a_barrier_that_is_broken_or_reset_are_told(how: str) -> None:
    async def main() -> None:
        barrier = sync.Barrier(3)
        first = on(1, barrier.wait())
        second = asyncio.ensure_future(asyncio.to_thread(barrier.green_wait))
        await eventually(lambda: barrier.n_waiting == 2, "both wait")
        done = getattr(barrier, how)()
        if done is not None:
            await done
        for each in (first, second):
            with pytest.raises(sync.BrokenBarrierError):
                await each
        assert barrier.broken == how.endswith("abort")

    run(main)


# Out of time


@every_lock
def test_a_wait_may_have_a_limit(make: Callable[[], Any]) -> None:
    async def main() -> None:
        lock = make()

        async def wait() -> None:
            async with asyncio.timeout(0.01), lock:
                raise AssertionError("somebody else has it")

        async with lock:
            with pytest.raises(TimeoutError):
                await on(1, wait())
            assert not await asyncio.to_thread(lock.green_acquire, timeout=0.01)
            assert not await on(2, lock.async_acquire(timeout=0.01))
            assert lock.waiting == 0
        assert await on(1, hold(lock)) == "had it"

    run(main)


def test_other_waits_may_have_a_limit() -> None:
    async def main() -> None:
        event, condition, barrier = sync.Event(), sync.Condition(), sync.Barrier(2)
        for coroutine in (event.wait(), barrier.wait()):
            with pytest.raises(TimeoutError):
                await on(1, asyncio.wait_for(coroutine, 0.01))
        await barrier.reset()

        def green() -> None:
            assert not event.green_wait(0.01)
            with condition:
                assert not condition.green_wait(0.01)
                assert not condition.green_wait_for(lambda: False, 0.01)
            with pytest.raises(sync.BrokenBarrierError):
                barrier.green_wait(0.01)

        await asyncio.to_thread(green)
        event.set()
        await asyncio.to_thread(event.green_wait, 0)
        assert not condition.locked()

    run(main, loops=2)


# With their loop


@every_lock
@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, loop_pool.new_event_loop])
def test_a_loop_that_ends_and_closes_while_its_tasks_wait_leaves_the_others_served(
    make: Callable[[], Any], factory: Callable[[], Any]
) -> None:
    async def main() -> None:
        lock = make()

        async def leave() -> None:
            waiters = [asyncio.create_task(hold(lock)) for _ in range(3)]
            await eventually(lambda: lock.waiting == 3, "they wait")
            assert not any(waiter.done() for waiter in waiters)  # `asyncio.run` cancels them

        async with lock:
            await asyncio.to_thread(lambda: asyncio.run(leave(), loop_factory=factory))
            assert lock.waiting == 0
            others = [on(1, hold(lock)), on(2, hold(lock))]
            await eventually(lambda: lock.waiting == 2, "the others wait")
        assert await asyncio.gather(*others) == ["had it"] * 2

    run(main)


def test_an_event_that_waits_on_a_closed_loop_still_wakes_the_others() -> None:
    async def main() -> None:
        event = sync.Event()

        def abandon_wait() -> asyncio.Task[Any]:
            loop = loop_pool.new_event_loop()
            task: Any = loop.create_task(event.wait())
            task._log_destroy_pending = False
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            return task

        task = await asyncio.to_thread(abandon_wait)
        others = [on(1, event.wait()), on(2, event.wait())]
        await eventually(lambda: event.waiting == 3, "all wait")
        event.set()
        assert await asyncio.gather(*others) == [True] * 2
        assert not task.done()

    run(main)


@every_lock
def test_what_tasks_hold_when_their_pool_ends_goes_to_the_threads_that_wait(
    make: Callable[[], Any],
) -> None:
    lock = make()
    held = threading.Event()

    async def hold_for_ever() -> None:
        async with lock:
            held.set()
            await asyncio.Event().wait()

    async def main() -> None:
        on(1, hold_for_ever())
        await eventually(lambda: lock.waiting == 1, "the thread waits")

    def wait() -> None:
        assert held.wait(HANG)
        with lock:
            pass

    with Threads(wait):
        run(main, loops=2)
    wait_for(lambda: lock.waiting == 0, "nobody waits")
