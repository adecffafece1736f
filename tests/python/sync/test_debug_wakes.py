"""In debug mode whoever waits is woken from the wrong loop or thread too, and the misuse told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import loop_pool

from ..support import HANG

pytestmark = pytest.mark.usefixtures("clean_process")

WAITERS = 3

type Make = Callable[[], Any]
type Wait = Callable[[Any], Awaitable[object]]
type End = Callable[[Any], object]


def taken(make: Callable[[], Any]) -> Any:
    """A lock or semaphore that somebody has."""
    lock = make()
    if isinstance(lock, asyncio.Semaphore):
        lock._value = 0
    else:
        lock._locked = True
    return lock


def full() -> asyncio.Queue[int]:
    queue = asyncio.Queue[int](1)
    queue.put_nowait(0)
    return queue


def unfinished() -> asyncio.Queue[int]:
    queue = asyncio.Queue[int]()
    queue.put_nowait(0)
    return queue


async def notified(condition: asyncio.Condition) -> None:
    async with condition:
        await condition.wait()


async def notify(condition: asyncio.Condition) -> None:
    async with condition:
        condition.notify_all()


async def shutdown_tells(queue: asyncio.Queue[int], wait: Awaitable[object]) -> None:
    with contextlib.suppress(asyncio.QueueShutDown):
        await wait


async def failing(future: Awaitable[object]) -> None:
    with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
        await future


async def broken(barrier: asyncio.Barrier) -> None:
    with contextlib.suppress(asyncio.BrokenBarrierError):
        await barrier.wait()


def future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def waited_twice(future: asyncio.Future[Any]) -> None:
    """Leaves nothing of its first wait, so that the future's first callback is not its oldest."""
    await asyncio.wait([future], timeout=0)
    await asyncio.wait([future])


async def in_a_group(future: asyncio.Future[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(failing(asyncio.shield(future)))


async def first_completed(future: asyncio.Future[Any]) -> None:
    async for each in asyncio.as_completed([future]):
        await each


def succeed(future: asyncio.Future[Any]) -> None:
    future.set_result(1)


WAYS: dict[str, tuple[Make, Wait, End, str]] = {
    "Event.set": (asyncio.Event, asyncio.Event.wait, asyncio.Event.set, "sync.Event"),
    "Queue.task_done": (unfinished, asyncio.Queue.join, asyncio.Queue.task_done, "sync.Queue"),
    "Queue.shutdown, empty": (
        asyncio.Queue,
        lambda queue: shutdown_tells(queue, queue.get()),
        asyncio.Queue.shutdown,
        "sync.Queue",
    ),
    "Queue.shutdown, full": (
        full,
        lambda queue: shutdown_tells(queue, queue.put(1)),
        asyncio.Queue.shutdown,
        "sync.Queue",
    ),
    "Barrier.abort": (lambda: asyncio.Barrier(9), broken, asyncio.Barrier.abort, "sync.Barrier"),
    "Barrier.reset": (lambda: asyncio.Barrier(9), broken, asyncio.Barrier.reset, "sync.Barrier"),
    "Barrier.wait": (
        lambda: asyncio.Barrier(WAITERS + 1),
        asyncio.Barrier.wait,
        asyncio.Barrier.wait,
        "sync.Barrier",
    ),
    "Condition.notify_all": (asyncio.Condition, notified, notify, "sync.Condition"),
    "set_result": (future, failing, succeed, "LoopLocal"),
    "set_exception": (
        future,
        failing,
        lambda future: future.set_exception(ZeroDivisionError()),
        "LoopLocal",
    ),
    "cancel": (future, failing, asyncio.Future.cancel, "LoopLocal"),
    "shield": (future, asyncio.shield, succeed, "LoopLocal"),
    "wait": (future, lambda future: asyncio.wait([future]), succeed, "LoopLocal"),
    "wait, twice": (future, waited_twice, succeed, "LoopLocal"),
    "wait_for": (future, lambda future: asyncio.wait_for(future, HANG), succeed, "LoopLocal"),
    "gather": (future, asyncio.gather, succeed, "LoopLocal"),
    "as_completed": (future, first_completed, succeed, "LoopLocal"),
    "TaskGroup": (future, in_a_group, succeed, "LoopLocal"),
}
"""What is made and waited for on one loop, and ended from elsewhere; what the error speaks of."""

ONE_AT_A_TIME: dict[str, tuple[Make, Wait, End, str]] = {
    "Lock.release": (
        lambda: taken(asyncio.Lock),
        asyncio.Lock.acquire,
        asyncio.Lock.release,
        "sync.Lock",
    ),
    "Semaphore.release": (
        lambda: taken(asyncio.Semaphore),
        asyncio.Semaphore.acquire,
        asyncio.Semaphore.release,
        "sync.Semaphore",
    ),
    "BoundedSemaphore.release": (
        lambda: taken(asyncio.BoundedSemaphore),
        asyncio.BoundedSemaphore.acquire,
        asyncio.BoundedSemaphore.release,
        "sync.BoundedSemaphore",
    ),
    "Queue.put_nowait": (
        asyncio.Queue,
        asyncio.Queue.get,
        lambda queue: queue.put_nowait(1),
        "sync.Queue",
    ),
    "Queue.get_nowait": (full, lambda queue: queue.put(1), asyncio.Queue.get_nowait, "sync.Queue"),
    "Queue.get": (full, lambda queue: queue.put(1), asyncio.Queue.get, "sync.Queue"),
    "feed_data": (
        asyncio.StreamReader,
        lambda reader: reader.readline(),
        lambda reader: reader.feed_data(b"x\n"),
        "LoopLocal",
    ),
    "feed_eof": (
        asyncio.StreamReader,
        lambda reader: reader.read(),
        asyncio.StreamReader.feed_eof,
        "LoopLocal",
    ),
    "StreamReader.set_exception": (
        asyncio.StreamReader,
        lambda reader: failing(reader.read()),
        lambda reader: reader.set_exception(ZeroDivisionError()),
        "LoopLocal",
    ),
}
"""Likewise, of what ends one wait for each call."""


async def wait(wait: Wait, thing: Any) -> None:
    await wait(thing)


async def in_a_thread(function: Callable[[], object]) -> None:
    """Runs a function in a thread that has no loop."""
    told: list[BaseException] = []

    def work() -> None:
        try:
            result = function()
            if isinstance(result, Coroutine):
                with contextlib.suppress(StopIteration):
                    result.send(None)
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=work, name="a worker")
    thread.start()
    thread.join()
    if told:
        raise told[0]


def told(
    make: Make, wait_for: Wait, end: End, *, waiters: int, here: int, there: int | None
) -> list[str]:
    """What a program hears that ends from `there` what waits on loop `here`. Nothing may hang."""
    heard: list[str] = []

    def note(error: BaseException | None) -> None:
        if error is not None:
            heard.append("\n".join([str(error), *getattr(error, "__notes__", [])]))

    async def end_it(thing: Any) -> None:
        try:
            if there is None:
                await in_a_thread(lambda: end(thing))
            else:
                result = end(thing)
                if isinstance(result, Coroutine):
                    await result
        except RuntimeError as error:
            note(error)

    async def main() -> None:
        loops = loop_pool.current_pool().loops

        async def handle() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: note(context.get("exception")))

        await loop_pool.broadcast(handle)

        async def made() -> tuple[Any, list[asyncio.Task[None]]]:
            thing = make()
            tasks = [asyncio.create_task(wait(wait_for, thing)) for _ in range(waiters)]
            for _ in range(5):
                await asyncio.sleep(0)
            return thing, tasks

        async def ended(tasks: list[asyncio.Task[None]]) -> None:
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait_for(task, HANG)

        thing, tasks = await loop_pool.call(loops[here], made)
        other = loops[1 - here if there is None else there]
        await loop_pool.spawn(end_it(thing), loop=other)
        await loop_pool.call(loops[here], ended, tasks)

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=True)
    return heard


FROM = pytest.mark.parametrize(
    ("here", "there"), [(0, 1), (1, 0), (0, None)], ids=["0 from 1", "1 from 0", "0 from a thread"]
)


def check(heard: list[str], here: int, there: int | None, speaks_of: str) -> None:
    assert heard
    where = "in the thread a worker" if there is None else f"on loop-pool-{there}"
    for each in heard:
        assert "Non-thread-safe operation invoked on an event loop other than" in each
        assert f"loop-pool-{here} " in each
        assert where in each
        assert f"loop_pool.{speaks_of}" in each
        assert "loop_pool.LoopLocal" in each
        assert "loop_pool.call(loop" in each


@FROM
@pytest.mark.parametrize("way", WAYS)
def test_all_who_wait_are_woken_and_the_misuse_is_told(
    way: str, here: int, there: int | None
) -> None:
    make, wait_for, end, speaks_of = WAYS[way]
    if there is None and way in {"Barrier.abort", "Barrier.reset", "Condition.notify_all"}:
        pytest.skip("takes a lock that has no waiters: that works in a thread too")
    heard = told(make, wait_for, end, waiters=WAITERS, here=here, there=there)
    check(heard, here, there, speaks_of)


@FROM
@pytest.mark.parametrize("way", ONE_AT_A_TIME)
def test_the_one_who_is_next_is_woken_and_the_misuse_is_told(
    way: str, here: int, there: int | None
) -> None:
    make, wait_for, end, speaks_of = ONE_AT_A_TIME[way]
    heard = told(make, wait_for, end, waiters=1, here=here, there=there)
    check(heard, here, there, speaks_of)
