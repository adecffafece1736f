"""`loop_pool.sync`: queues between four loops and threads."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("loop_pool")
pytest.importorskip("culsans")
import loop_pool
from loop_pool import sync

from ..support import eventually
from .support import LOOPS, everywhere, on, run, takes_turns

pytestmark = [pytest.mark.usefixtures("clean_process"), takes_turns]

KINDS = [sync.Queue, sync.LifoQueue, sync.PriorityQueue]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])


def in_order(items: list[tuple[int, int]]) -> bool:
    """Whether the items of each producer come in the order in which it put them."""
    last: dict[int, int] = {}
    for producer, number in items:
        if number <= last.get(producer, -1):
            return False
        last[producer] = number
    return True


def test_every_item_arrives_once_and_each_producer_s_in_order() -> None:
    async def main() -> None:
        items: sync.Queue[tuple[int, int]] = sync.Queue(8)
        each, taken, sizes = 300, dict[int, list[tuple[int, int]]](), set[int]()

        async def produce(producer: int) -> None:
            for number in range(each):
                await items.put((producer, number))
                sizes.add(items.qsize())

        async def consume(consumer: int) -> None:
            mine = taken.setdefault(consumer, [])
            for _ in range(each):
                mine.append(await items.get())
                items.task_done()

        def green_produce(producer: int) -> None:
            for number in range(each):
                items.green_put((producer, number))
                sizes.add(items.qsize())

        def green_consume(consumer: int) -> None:
            mine = taken.setdefault(consumer, [])
            for _ in range(each):
                mine.append(items.green_get())
                items.task_done()

        # Two tasks on each loop, one of each kind.
        await everywhere(
            lambda number: (produce if number < LOOPS else consume)(number),
            lambda number: (green_produce if number % 2 else green_consume)(number),
        )
        await items.join()
        producers = [*range(LOOPS), LOOPS * 2 + 1]
        arrived = sorted(item for mine in taken.values() for item in mine)
        assert arrived == [(producer, number) for producer in producers for number in range(each)]
        assert all(map(in_order, taken.values()))
        assert max(sizes) <= 8

    run(main)


def test_one_consumer_sees_each_producer_s_order() -> None:
    async def main() -> None:
        items: sync.Queue[tuple[int, int]] = sync.Queue()
        each = 500

        async def produce(producer: int) -> None:
            for number in range(each):
                await items.put((producer, number))
                if number % 16 == 0:
                    await asyncio.sleep(0)

        def green_produce(producer: int) -> None:
            for number in range(each):
                items.green_put((producer, number))

        async def consume() -> list[tuple[int, int]]:
            return [await items.get() for _ in range((LOOPS * 2 + 2) * each)]

        consumer = on(3, consume())
        await everywhere(produce, green_produce)
        taken = await consumer
        assert in_order(taken)
        assert len(set(taken)) == len(taken)

    run(main)


def test_kinds_differ_in_their_order() -> None:
    async def main() -> None:
        for kind, wanted in zip(KINDS, ([2, 1, 3], [3, 1, 2], [1, 2, 3]), strict=True):
            items = kind[int]()
            assert isinstance(items, sync.Queue)
            for item in (2, 1, 3):
                await items.put(item)
            assert [await on(1, items.get()) for _ in range(3)] == wanted

    run(main, loops=2)


@every_kind
def test_those_who_wait_for_items_or_room_are_woken(kind: Callable[[int], Any]) -> None:
    async def main() -> None:
        items = kind(1)
        for _ in range(200):
            getter = on(1, items.get())
            await eventually(lambda: items.getting == 1, "it waits for an item")
            await asyncio.to_thread(items.green_put, 1)
            assert await getter == 1
            items.put_nowait(2)
            putter = on(2, items.put(3))
            await eventually(lambda: items.putting == 1, "it waits for room")
            assert await asyncio.to_thread(items.green_get) == 2
            await putter
            assert items.get_nowait() == 3

    run(main)


def test_a_cancellation_that_meets_an_item_does_not_lose_it() -> None:
    """On the getter's loop. From another one it may come while the item is being returned."""

    async def main() -> None:
        there = loop_pool.current_pool().loops[1]
        items: sync.Queue[int] = sync.Queue()
        cancelled = 0
        for number in range(300):
            getter = on(1, items.get())
            await eventually(lambda: items.getting == 1, "it waits")
            if number % 2:
                there.call_soon_threadsafe(getter.cancel)
            items.put_nowait(number)
            there.call_soon_threadsafe(getter.cancel)
            (got,) = await asyncio.gather(getter, return_exceptions=True)
            if isinstance(got, asyncio.CancelledError):
                cancelled += 1
                got = items.get_nowait()
            assert got == number
            assert items.empty()
        assert cancelled

    run(main, loops=2)


def test_errors_are_those_of_both_modules() -> None:
    items: sync.Queue[int] = sync.Queue(1)
    for error in (asyncio.QueueEmpty, queue.Empty, sync.QueueEmpty):
        with pytest.raises(error):
            items.get_nowait()
        with pytest.raises(error):
            items.green_get(timeout=0.01)
    items.put_nowait(1)
    for error in (asyncio.QueueFull, queue.Full, sync.QueueFull):
        with pytest.raises(error):
            items.put_nowait(2)
        with pytest.raises(error):
            items.green_put(2, timeout=0.01)
    items.task_done()
    with pytest.raises(ValueError):
        items.task_done()
    items.shutdown()
    for error in (asyncio.QueueShutDown, queue.ShutDown, sync.QueueShutDown):
        with pytest.raises(error):
            items.put_nowait(2)


@every_kind
def test_a_shutdown_tells_all_who_wait_for_items(kind: Callable[[], Any]) -> None:
    async def main() -> None:
        items = kind()
        waiting = [*(on(index, items.get()) for index in range(LOOPS))]
        green = asyncio.ensure_future(asyncio.to_thread(items.green_get))
        await eventually(lambda: items.getting == LOOPS + 1, "all wait")
        items.shutdown()
        for each in (*waiting, green):
            with pytest.raises(asyncio.QueueShutDown):
                await each

    run(main)


@every_kind
@pytest.mark.parametrize("immediate", [False, True])
def test_after_a_shutdown_what_is_in_comes_out_unless_it_is_immediate(
    kind: Callable[[int], Any], immediate: bool
) -> None:
    async def main() -> None:
        items = kind(1)
        items.put_nowait(7)
        putters = [
            on(1, items.put(8)),
            asyncio.ensure_future(asyncio.to_thread(items.green_put, 9)),
        ]
        joiner = on(2, items.join())
        await eventually(lambda: items.putting == 2, "both wait for room")
        items.shutdown(immediate)
        for each in putters:
            with pytest.raises(asyncio.QueueShutDown):
                await each
        if not immediate:
            assert not joiner.done()
            assert await on(3, items.get()) == 7
            items.task_done()
        await joiner
        with pytest.raises(asyncio.QueueShutDown):
            await on(3, items.get())

    run(main)
