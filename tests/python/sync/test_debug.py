"""In debug mode an asyncio object on a second loop is told with both loops and what to use."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import loop_pool

from ..support import HANG, check_script, eventually, turns

pytestmark = pytest.mark.usefixtures("clean_process")

BOUND = "is bound to a different event loop"
ATTACHED = "attached to a different loop"
FOREIGN = "Non-thread-safe operation invoked on an event loop other than the current one"


def run[T](main: Callable[[], Coroutine[Any, Any, T]], debug: bool = True) -> T:
    """Runs `main` on a pool of three loops; a hang is a failure."""
    return loop_pool.run(asyncio.wait_for(main(), HANG), loops=3, debug=debug)


async def error_on(index: int, coroutine: Coroutine[Any, Any, object]) -> str:
    """What a coroutine fails with on a loop of the pool; the coroutine catches it itself."""

    async def catch() -> str:
        with pytest.raises(RuntimeError) as caught:
            await coroutine
        return str(caught.value)

    return await loop_pool.spawn(catch(), loop=loop_pool.current_pool().loops[index])


type Use = Callable[[Any], Coroutine[Any, Any, object]]


def exhausted_lock() -> asyncio.Lock:
    lock = asyncio.Lock()
    lock._locked = True
    return lock


WAITS: list[tuple[str, Callable[[], Any], Use]] = [
    ("Lock", exhausted_lock, lambda lock: lock.acquire()),
    ("Semaphore", lambda: asyncio.Semaphore(0), lambda semaphore: semaphore.acquire()),
    ("BoundedSemaphore", lambda: asyncio.BoundedSemaphore(0), lambda sem: sem.acquire()),
    ("Event", asyncio.Event, lambda event: event.wait()),
    ("Queue", asyncio.Queue, lambda queue: queue.get()),
    ("LifoQueue", asyncio.LifoQueue, lambda queue: queue.get()),
    ("PriorityQueue", asyncio.PriorityQueue, lambda queue: queue.get()),
]


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "make", "wait"), WAITS, ids=[name for name, _, _ in WAITS])
def test_a_primitive_on_a_second_loop_is_named_with_both_loops(
    name: str, make: Callable[[], Any], wait: Use
) -> None:
    async def main() -> None:
        thing = make()
        loops = loop_pool.current_pool().loops
        first = loop_pool.spawn(wait(thing), loop=loops[1])
        await eventually(lambda: thing._loop is loops[1], "the primitive is bound")
        message = await error_on(2, wait(thing))
        assert re.match(rf"<.*{name} .*> {BOUND}: ", message)
        assert "it belongs to loop-pool-1 and was used on loop-pool-2." in message
        assert f" loop_pool.sync.{name} serves" in message
        assert "pip install 'loop_pool[sync]'" in message
        first.cancel()

    run(main)


async def at(barrier: asyncio.Barrier) -> None:
    async with barrier:
        raise AssertionError("nobody else comes")


async def notified(condition: asyncio.Condition) -> None:
    async with condition:
        await condition.wait()


@pytest.mark.parametrize(
    ("make", "use", "name"),
    [(lambda: asyncio.Barrier(3), at, "Barrier"), (asyncio.Condition, notified, "Condition")],
    ids=["Barrier", "Condition"],
)
def test_of_what_is_made_of_others_the_program_s_own_object_is_named(
    make: Callable[[], Any], use: Use, name: str
) -> None:
    async def main() -> None:
        thing = make()
        condition = thing._cond if name == "Barrier" else thing
        loops = loop_pool.current_pool().loops
        first = loop_pool.spawn(use(thing), loop=loops[1])
        await eventually(lambda: len(condition._waiters) == 1, "the first one waits")
        message = await error_on(2, use(thing))
        assert "it belongs to loop-pool-1 and was used on loop-pool-2." in message
        assert repr(thing)[:30] in message
        assert f"loop_pool.sync.{name} serves" in message
        first.cancel()

    run(main)


def test_a_class_of_one_s_own_is_told_what_its_base_is_replaced_by() -> None:
    class CustomEvent(asyncio.Event):
        pass

    async def main() -> None:
        mine = CustomEvent()
        first = loop_pool.spawn(mine.wait(), loop=loop_pool.current_pool().loops[1])
        await eventually(lambda: mine._loop is not None, "the primitive is bound")
        assert "loop_pool.sync.Event serves" in await error_on(2, mine.wait())
        first.cancel()

    run(main)


def test_without_debug_mode_the_error_is_asyncio_s_own() -> None:
    async def main() -> None:
        event = asyncio.Event()
        first = loop_pool.spawn(event.wait(), loop=loop_pool.current_pool().loops[1])
        await eventually(lambda: event._loop is not None, "the primitive is bound")
        assert (await error_on(2, event.wait())).endswith(BOUND)
        first.cancel()

        future = asyncio.get_running_loop().create_future()
        assert (await error_on(1, wait_for(future))).endswith(ATTACHED)

    run(lambda: asyncio.sleep(0))  # a pool in debug mode before
    run(main, debug=False)


def test_asyncio_s_own_loops_say_what_they_always_say() -> None:
    """Also in debug mode, and while a pool in debug mode runs."""

    async def theirs() -> str:
        event = asyncio.Event()
        event._loop = object()  # type: ignore[assignment]
        with pytest.raises(RuntimeError) as caught:
            await event.wait()
        return str(caught.value)

    async def main() -> None:
        message = await asyncio.to_thread(
            lambda: asyncio.run(theirs(), debug=True, loop_factory=asyncio.SelectorEventLoop)
        )
        assert message.endswith(BOUND)

    run(main)


def test_a_single_loop_in_debug_mode_says_it_too() -> None:
    event = asyncio.Event()

    async def wait() -> None:
        async with asyncio.timeout(0):
            await event.wait()

    factory = loop_pool.new_event_loop
    with pytest.raises(TimeoutError):
        asyncio.run(wait(), loop_factory=factory)
    with pytest.raises(RuntimeError, match=r"it belongs to <EventLoop .*closed=True.*> and was"):
        asyncio.run(wait(), loop_factory=factory, debug=True)


# Futures and tasks


async def wait_for(future: asyncio.Future[Any]) -> None:
    await future


async def values(future: asyncio.Future[Any]) -> AsyncIterator[None]:
    yield await future


async def wait_in_a_generator(future: asyncio.Future[Any]) -> None:
    async for _ in values(future):
        pass


@pytest.mark.smoke
@pytest.mark.parametrize("wait", [wait_for, wait_in_a_generator])
def test_a_future_of_another_loop_is_named_with_both(wait: Use) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        message = await error_on(2, wait(future))
        assert re.match(rf"Task <.*> got Future <.*> {ATTACHED}: ", message)
        assert "the future belongs to loop-pool-0, the task runs on loop-pool-2." in message
        assert "loop_pool.spawn" in message

    run(main)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("wait", [wait_for, wait_in_a_generator])
def test_a_future_that_was_refused_to_one_is_as_before_to_the_next(wait: Use, debug: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        for index in (1, 2, 1):
            assert ATTACHED in await error_on(index, wait(future))
        loop.call_soon(future.set_result, "result")
        assert await future == "result"

    run(main, debug)


def test_an_eager_task_is_told_as_well() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()

        async def begin() -> None:
            await asyncio.create_task(wait_for(future), eager_start=True)

        assert "the task runs on loop-pool-1." in await error_on(1, begin())

    run(main)


def test_an_error_of_that_text_that_is_not_asyncio_s_stays_as_it_is() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        failed = loop.create_future()
        failed.set_exception(RuntimeError(ATTACHED))
        with pytest.raises(RuntimeError) as caught:
            await failed
        assert str(caught.value) == ATTACHED

    run(main)


# Wakes from another thread


def waiter_of(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """What a task would leave in a primitive; the task itself would wait for ever afterwards."""
    waiter = loop.create_future()
    waiter.add_done_callback(print)
    return waiter


def test_a_wake_on_another_loop_names_the_primitive() -> None:
    async def main() -> None:
        event = asyncio.Event()
        event._waiters.append(waiter_of(loop_pool.current_pool().loops[1]))

        async def set_it() -> None:
            event.set()

        message = await error_on(2, set_it())
        assert message.startswith(f"{FOREIGN}: <asyncio.locks.Event ")
        assert "has a task of loop-pool-1 waiting and was used on loop-pool-2." in message
        assert "loop_pool.sync.Event serves" in message

    run(main)


def test_a_task_that_is_cancelled_from_another_loop_is_named() -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.Event().wait(), name="the task")
        await turns()

        async def cancel() -> None:
            task.cancel()

        message = await error_on(1, cancel())
        assert message.startswith(f"{FOREIGN}: <Future cancelled")
        assert "belongs to loop-pool-0 and was used on loop-pool-1. <Task " in message
        assert "name='the task'" in message
        assert "waits for it." in message
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_a_wake_in_a_thread_without_a_loop_names_the_thread() -> None:
    async def main() -> None:
        queue = asyncio.Queue[int]()
        queue._getters.append(waiter_of(asyncio.get_running_loop()))
        messages = []

        def put() -> None:
            with pytest.raises(RuntimeError) as caught:
                queue.put_nowait(1)
            messages.append(str(caught.value))

        thread = threading.Thread(target=put, name="a worker")
        thread.start()
        thread.join()
        assert "waiting and was used in the thread a worker." in messages[0]
        assert "loop_pool.sync.Queue serves" in messages[0]

    run(main)


def test_a_call_from_elsewhere_without_a_primitive_is_as_in_asyncio() -> None:
    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]

        with pytest.raises(RuntimeError) as caught:
            loop.call_soon(print)
        assert str(caught.value) == FOREIGN

    run(main)


# How it is seen


def test_it_does_without_where_other_tools_watch() -> None:
    """Profilers may have taken both free numbers of ``sys.monitoring``: then it is logged."""
    source = """
        import asyncio, logging, sys, loop_pool
        logging.disable(logging.WARNING)  # that a callback took long, where others work as well
        for tool in (3, 4):
            sys.monitoring.use_tool_id(tool, "a profiler")

        async def main():
            told = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
            event = asyncio.Event()

            there = loop_pool.current_pool().loops[1]

            async def begin():
                task = asyncio.create_task(event.wait())
                await asyncio.sleep(0)
                return task

            async def join(task):
                await task

            task = await loop_pool.call(there, begin)
            event.set()
            await loop_pool.call(there, join, task)
            print(told[0].partition(":")[0])

        loop_pool.run(main(), loops=2, debug=True)
    """
    assert check_script(source) == f"{FOREIGN}\n"


def test_one_number_is_taken_by_all_loops_together() -> None:
    source = """
        import sys, threading, loop_pool
        sys.monitoring.use_tool_id(3, "a profiler")

        def make():
            start.wait()
            loop = loop_pool.new_event_loop()
            loop.set_debug(True)
            loop.close()

        start = threading.Barrier(4)
        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(sys.monitoring.get_tool(3), sys.monitoring.get_tool(4))
    """
    assert check_script(source) == "a profiler loop_pool\n"


def test_nothing_is_watched_without_debug_mode() -> None:
    source = """
        import asyncio, sys, loop_pool
        loop_pool.run(asyncio.sleep(0), loops=2)
        print(*(sys.monitoring.get_tool(tool) for tool in range(6)))
    """
    assert check_script(source) == "None " * 5 + "None\n"
