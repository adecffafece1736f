"""`loop_pool.sync`: primitives that four loops and threads share. Locks, events and their like."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("loop_pool")
pytest.importorskip("aiologic")
from loop_pool import sync

from ..support import eventually
from .support import LOOPS, Inside, every_lock, everywhere, on, run, takes_turns

pytestmark = [pytest.mark.usefixtures("clean_process"), takes_turns]

ROUNDS = 60


def free(lock: Any) -> bool:
    """Whether a thread could acquire it now."""
    if lock.green_acquire(blocking=False):
        getattr(lock, "green_release", lock.release)()
        return True
    return False


class Counter:
    """A number that is lost count of when two add to it at once."""

    def __init__(self) -> None:
        self.value = 0

    async def add(self) -> None:
        seen = self.value
        await asyncio.sleep(0)
        self.value = seen + 1

    def green_add(self) -> None:
        seen = self.value
        time.sleep(0)
        self.value = seen + 1


# One at a time


def test_without_a_lock_the_counter_loses_some() -> None:
    """So the next tests can fail."""

    async def main() -> None:
        counter = Counter()

        async def work(_: int) -> None:
            for _ in range(ROUNDS):
                await counter.add()

        await everywhere(work, lambda _: None)
        assert counter.value < LOOPS * 2 * ROUNDS

    run(main)


@every_lock
def test_one_is_in_at_a_time(make: Callable[[], Any]) -> None:
    async def main() -> None:
        lock, counter = make(), Counter()

        async def work(_: int) -> None:
            for _ in range(ROUNDS):
                async with lock:
                    await counter.add()

        def green(_: int) -> None:
            for _ in range(ROUNDS):
                with lock:
                    counter.green_add()

        await everywhere(work, green)
        assert counter.value == (LOOPS * 2 + 2) * ROUNDS
        assert free(lock)

    run(main)


@pytest.mark.parametrize("make", [sync.Lock, sync.RLock], ids=["Lock", "RLock"])
def test_one_is_inside_a_condition_at_a_time(make: Callable[[], Any]) -> None:
    async def main() -> None:
        condition, counter = sync.Condition(make()), Counter()

        async def work(_: int) -> None:
            for _ in range(ROUNDS):
                async with condition:
                    await counter.add()
                    condition.notify_all()

        def green(_: int) -> None:
            for _ in range(ROUNDS):
                with condition:
                    counter.green_add()
                    condition.notify()

        await everywhere(work, green)
        assert counter.value == (LOOPS * 2 + 2) * ROUNDS
        assert not condition.locked()

    run(main)


@every_lock
def test_a_plain_loop_of_asyncio_s_takes_part(make: Callable[[], Any]) -> None:
    lock, counter = make(), Counter()

    async def work() -> None:
        for _ in range(ROUNDS):
            async with lock:
                await counter.add()

    async def main() -> None:
        def plain() -> None:
            asyncio.run(work(), loop_factory=asyncio.SelectorEventLoop)

        await asyncio.gather(work(), asyncio.to_thread(plain))

    run(main, loops=1)
    assert counter.value == 2 * ROUNDS


@pytest.mark.parametrize(
    "make",
    [sync.Semaphore, sync.BoundedSemaphore, sync.CapacityLimiter],
    ids=lambda cls: cls.__name__,
)
def test_as_many_are_in_as_there_are_permits_and_no_more(make: Callable[[int], Any]) -> None:
    async def main() -> None:
        limit, inside = make(3), Inside()

        async def work(_: int) -> None:
            for _ in range(ROUNDS):
                async with limit:
                    with inside:
                        await asyncio.sleep(0)

        def green(_: int) -> None:
            for _ in range(ROUNDS):
                with limit, inside:
                    time.sleep(0)

        await everywhere(work, green)
        assert inside.most <= 3

    run(main)


@pytest.mark.parametrize("make", [sync.Semaphore, sync.BoundedSemaphore, sync.CapacityLimiter])
def test_as_many_get_in_as_there_are_permits(make: Callable[[int], Any]) -> None:
    async def main() -> None:
        limit, inside, barrier = make(3), Inside(), sync.Barrier(3)

        async def meet() -> None:
            async with limit:
                with inside:
                    await barrier.wait()

        await asyncio.gather(*(on(index, meet()) for index in range(3)))
        assert inside.most == 3

    run(main)


async def _in_and_out(lock: Any) -> None:
    async with lock:
        pass


# Whose it is


@pytest.mark.parametrize("make", [sync.Lock, lambda: sync.CapacityLimiter(1)])
def test_who_has_it_cannot_have_it_twice_and_nobody_else_gives_it_back(make: Any) -> None:
    async def main() -> None:
        lock = make()

        async def release() -> None:
            lock.release()

        async with lock:
            with pytest.raises(RuntimeError, match="already holding"):
                await lock.acquire()
            with pytest.raises(RuntimeError, match="not holding"):
                await on(1, release())
            with pytest.raises(RuntimeError, match="not holding"):
                await asyncio.to_thread(lock.green_release)
        with pytest.raises(RuntimeError):
            lock.release()

    run(main, loops=2)


def test_an_rlock_is_its_task_s_until_it_is_released_as_often() -> None:
    async def main() -> None:
        lock = sync.RLock()
        async with lock, lock:
            await lock.acquire()
            assert not await on(1, lock.async_acquire(blocking=False))
            lock.release()
            assert not await asyncio.to_thread(free, lock)
        assert await asyncio.to_thread(free, lock)

    run(main, loops=2)


def test_a_bounded_semaphore_takes_no_more_than_it_gave() -> None:
    async def main() -> None:
        semaphore = sync.BoundedSemaphore(2)
        async with semaphore:
            await on(1, _in_and_out(semaphore))
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()
        assert semaphore.value == 2

    run(main, loops=2)


# Order


@every_lock
def test_those_who_wait_are_served_in_the_order_in_which_they_came(make: Callable[[], Any]) -> None:
    async def main() -> None:
        lock, served = make(), list[int]()

        async def work(number: int) -> None:
            async with lock:
                served.append(number)

        def green(number: int) -> None:
            with lock:
                served.append(number)

        waiters: list[Any] = []
        async with lock:
            for number in range(12):
                if number % 4 == 3:
                    waiters.append(asyncio.ensure_future(asyncio.to_thread(green, number)))
                else:
                    waiters.append(on(number % LOOPS, work(number)))
                await eventually(lambda: lock.waiting == len(waiters), "the next one waits")
            assert served == []
        await asyncio.gather(*waiters)
        assert served == list(range(12))

    run(main)


# No wakeup is lost


def test_events_wake_to_and_fro_for_thousands_of_rounds() -> None:
    async def main() -> None:
        ping, pong, rounds = sync.Event(), sync.Event(), 3000

        async def answer() -> None:
            for _ in range(rounds):
                await ping.wait()
                ping.clear()
                pong.set()

        other = on(1, answer())
        for _ in range(rounds):
            ping.set()
            await pong.wait()
            pong.clear()
        await other

    run(main, loops=2)


def test_an_event_wakes_all_on_every_loop_and_thread() -> None:
    async def main() -> None:
        event = sync.Event()
        for _ in range(ROUNDS):
            woken = asyncio.ensure_future(
                everywhere(lambda _: event.wait(), lambda _: event.green_wait(), threads=1)
            )
            await eventually(lambda: event.waiting == LOOPS * 2 + 1, "all wait")
            event.set()
            event.clear()  # those who waited go on all the same
            await woken

    run(main)


def test_a_barrier_holds_all_back_round_after_round() -> None:
    async def main() -> None:
        parties = LOOPS * 2 + 2
        barrier, rounds, lock = sync.Barrier(parties), 200, threading.Lock()
        arrived = [0] * rounds
        places: list[list[int]] = [[] for _ in range(rounds)]

        def arrive(number: int) -> None:
            with lock:
                arrived[number] += 1

        async def work(_: int) -> None:
            for number in range(rounds):
                arrive(number)
                place = await barrier.wait()
                assert arrived[number] == parties
                places[number].append(place)

        def green(_: int) -> None:
            for number in range(rounds):
                arrive(number)
                place = barrier.green_wait()
                assert arrived[number] == parties
                places[number].append(place)

        await everywhere(work, green)
        assert all(sorted(each) == list(range(parties)) for each in places)

    run(main)


def test_a_condition_passes_every_item_on() -> None:
    async def main() -> None:
        lock = sync.Lock()
        changed, room = sync.Condition(lock), sync.Condition(lock)
        items, taken = list[int](), list[int]()
        each = 200

        async def produce(number: int) -> None:
            for item in range(each):
                async with room:
                    await room.wait_for(lambda: len(items) < 4)
                    items.append(number * each + item)
                    changed.notify()

        async def consume(_: int) -> None:
            for _ in range(each):
                async with changed:
                    while not items:
                        await changed.wait()
                    taken.append(items.pop(0))
                    room.notify()

        def green_produce(number: int) -> None:
            for item in range(each):
                with room:
                    assert room.green_wait_for(lambda: len(items) < 4)
                    items.append(number * each + item)
                    changed.notify()

        def green_consume(_: int) -> None:
            for _ in range(each):
                with changed:
                    while not items:
                        assert changed.green_wait()
                    taken.append(items.pop(0))
                    room.notify()

        await everywhere(
            lambda number: (produce if number % 2 else consume)(number),
            lambda number: (green_produce if number % 2 else green_consume)(number),
        )
        numbers = [number for number in range(LOOPS * 2 + 2) if number % 2]
        made = [number * each + item for number in numbers for item in range(each)]
        assert sorted(taken) == sorted(made)

    run(main)


def test_a_condition_s_predicate_is_called_by_who_waits() -> None:
    async def main() -> None:
        condition, callers = sync.Condition(), list[Any]()

        def look() -> bool:
            callers.append(asyncio.current_task())
            return len(callers) > 1

        async def wait() -> bool:
            async with condition:
                assert await condition.wait_for(look)
            return callers == [asyncio.current_task()] * 2

        waiter = on(1, wait())
        await eventually(lambda: condition.waiting == 1, "it waits")
        async with condition:
            condition.notify()
        assert await waiter

    run(main, loops=2)


def test_a_condition_wants_its_lock_to_be_held() -> None:
    async def main() -> None:
        condition = sync.Condition()
        for wrong in (condition.notify, condition.notify_all, condition.release):
            with pytest.raises(RuntimeError):
                wrong()
        with pytest.raises(RuntimeError):
            await condition.wait()
        with pytest.raises(RuntimeError):
            await condition.wait_for(lambda: True)
        await condition.acquire()
        condition.notify(0)
        assert condition.locked()
        condition.release()

    run(main, loops=1)
