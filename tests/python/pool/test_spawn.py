"""`loop_pool.spawn`: a coroutine on any loop, its result for any loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import sys
import threading
import traceback
import weakref
from contextlib import suppress
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import for_ever, loops, run, where

pytestmark = pytest.mark.usefixtures("clean_process")

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


async def _fails() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("on another loop")


# Where it runs


@pytest.mark.smoke
def test_a_coroutine_runs_on_the_loop_it_is_given() -> None:
    async def main() -> None:
        for loop in loops():
            task = loop_pool.spawn(where(), loop=loop)
            assert isinstance(task, loop_pool.PoolTask)
            assert task.loop is loop
            assert await task is loop

    run(main, 3)


def test_without_a_loop_it_runs_on_one_of_the_pool() -> None:
    async def main() -> None:
        tasks = [loop_pool.spawn(where()) for _ in range(100)]
        for task in tasks:
            assert await task is task.loop
            assert task.loop in loops()

    run(main, 3)


def test_the_task_is_asyncio_s_and_made_on_its_own_thread() -> None:
    async def look() -> None:
        task = asyncio.current_task()
        assert type(task) is asyncio.Task
        assert task.get_loop() is asyncio.get_running_loop()
        assert task in asyncio.all_tasks()
        assert threading.current_thread().name == "loop-pool-1"

    async def main() -> None:
        await loop_pool.spawn(look(), loop=loops()[1])

    run(main, 3)


def test_the_task_dies_on_its_own_loop_s_thread() -> None:
    # One that dies on another thread stops every thread of the interpreter.
    died_in: list[str] = []
    watches: list[weakref.ref[Any]] = []

    def died(_: object) -> None:
        died_in.append(threading.current_thread().name)

    async def watch() -> None:
        watches.append(weakref.ref(asyncio.current_task(), died))

    async def main() -> None:
        for _ in range(20):
            task = loop_pool.spawn(watch(), loop=loops()[1], name="watched")
            await task
            await loop_pool.spawn(asyncio.sleep(0), loop=loops()[1])
            assert task.get_name() == "watched"
            assert died_in.pop() == "loop-pool-1"

    run(main, 3)


def test_it_starts_though_nobody_awaits_it() -> None:
    async def main() -> None:
        started = threading.Event()

        async def start() -> None:
            started.set()

        loop_pool.spawn(start(), loop=loops()[1])
        await asyncio.to_thread(started.wait, HANG)
        assert started.is_set()

    run(main, 3)


def test_coroutines_of_one_spawner_start_in_order() -> None:
    order: list[int] = []

    async def start(number: int) -> None:
        order.append(number)

    async def main() -> None:
        tasks = [loop_pool.spawn(start(number), loop=loops()[1]) for number in range(500)]
        for task in tasks:
            await task

    run(main, 3)
    assert order == list(range(500))


@pytest.mark.smoke
def test_thousands_from_every_loop_to_every_loop_all_return() -> None:
    each = 1_000

    async def double(number: int) -> int:
        return 2 * number

    async def scatter() -> int:
        tasks = [
            loop_pool.spawn(double(number), loop=loop) for number in range(each) for loop in loops()
        ]
        return sum([await task for task in tasks])

    async def main() -> list[int]:
        spawners = [loop_pool.spawn(scatter(), loop=loop) for loop in loops()]
        return [await task for task in spawners]

    assert run(main, 3) == [3 * each * (each - 1)] * 3


# Results and exceptions


@pytest.mark.smoke
def test_a_result_is_awaited_from_a_third_loop() -> None:
    async def wait_for(task: loop_pool.PoolTask[asyncio.AbstractEventLoop]) -> tuple[Any, Any]:
        return asyncio.get_running_loop(), await task

    async def main() -> None:
        _, second, third = loops()
        task = loop_pool.spawn(where(), loop=second)
        assert await loop_pool.spawn(wait_for(task), loop=third) == (third, second)
        assert await task is second

    run(main, 3)


def test_many_may_await_one_task_from_every_loop() -> None:
    async def wait_for(task: loop_pool.PoolTask[str]) -> str:
        return await task

    async def main() -> None:
        go = asyncio.Event()

        async def answer() -> str:
            await go.wait()
            return "answer"

        task = loop_pool.spawn(answer(), loop=loops()[0])
        waiters = [loop_pool.spawn(wait_for(task), loop=loop) for loop in loops() * 5]
        go.set()
        assert [await waiter for waiter in waiters] == ["answer"] * 15

    run(main, 3)


@pytest.mark.smoke
def test_exceptions_cross_loops() -> None:
    async def main() -> None:
        for loop in loops():
            task = loop_pool.spawn(_fails(), loop=loop)
            with pytest.raises(ZeroDivisionError, match="on another loop") as seen:
                await task
            assert "_fails" in {frame.name for frame in traceback.extract_tb(seen.tb)}
            assert task.done()
            assert not task.cancelled()
            assert task.exception() is seen.value
            with pytest.raises(ZeroDivisionError):
                task.result()

    run(main, 3)


def test_an_exception_that_nobody_fetches_is_reported(logged_errors: list[str]) -> None:
    async def main() -> None:
        task = loop_pool.spawn(_fails(), loop=loops()[1])
        await eventually(task.done, "the task is done")
        del task
        gc.collect()
        await eventually(lambda: bool(logged_errors), "the report")

    run(main, 3)
    assert "never retrieved" in logged_errors[0]
    logged_errors.clear()


def test_asyncio_s_helpers_take_pool_tasks() -> None:
    async def main() -> None:
        tasks = [loop_pool.spawn(where(), loop=loop) for loop in loops()]
        assert await asyncio.gather(*tasks) == list(loops())
        async with asyncio.timeout(HANG):
            assert await loop_pool.spawn(where(), loop=loops()[1]) is loops()[1]
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(_await(loop_pool.spawn(where(), loop=loops()[2])))
        assert inner.result() is loops()[2]
        endless = loop_pool.spawn(for_ever(), loop=loops()[1])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endless, 0.001)
        assert endless.cancelled()

    run(main, 3)


async def _await[T](task: loop_pool.PoolTask[T]) -> T:
    return await task


# From threads that run no loop


def test_a_thread_may_wait_for_the_result() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def answer() -> str:
            await go.wait()
            return "answer"

        task = loop_pool.spawn(answer(), loop=loops()[0])
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(task.result, 0.001)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(task.exception, timeout=0)
        waiting = asyncio.create_task(asyncio.to_thread(task.result, timeout=HANG))
        go.set()
        assert await waiting == "answer"
        assert await asyncio.to_thread(task.exception) is None
        assert task.result() == "answer"

    run(main, 3)


def test_a_thread_gets_the_exception_and_the_cancellation() -> None:
    async def main() -> None:
        failing = loop_pool.spawn(_fails(), loop=loops()[1])
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(failing.result, HANG)
        assert isinstance(await asyncio.to_thread(failing.exception, HANG), ZeroDivisionError)
        cancelled = loop_pool.spawn(for_ever(), loop=loops()[1])
        assert await asyncio.to_thread(cancelled.cancel)
        seen: list[type[BaseException]] = []

        def wait() -> None:
            try:
                cancelled.result(HANG)
            except BaseException as exc:
                seen.append(type(exc))

        await asyncio.to_thread(wait)
        assert seen == [asyncio.CancelledError]

    run(main, 3)


def test_waiting_in_a_loop_s_own_thread_is_refused() -> None:
    async def main() -> None:
        task = loop_pool.spawn(for_ever(), loop=loops()[1])
        for wait in (task.result, task.exception):
            with pytest.raises(asyncio.InvalidStateError):
                wait()
        task.cancel()

    run(main, 3)


# Cancellation


@pytest.mark.smoke
def test_a_task_is_cancelled_from_another_loop() -> None:
    seen: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            await asyncio.sleep(0)
            seen.append(str(exc))
            raise

    async def cancel(task: loop_pool.PoolTask[None]) -> bool:
        return task.cancel("enough")

    async def main() -> None:
        task = loop_pool.spawn(clean_up(), loop=loops()[1])
        assert not task.done()
        await loop_pool.spawn(asyncio.sleep(0), loop=loops()[1])
        assert await loop_pool.spawn(cancel(task), loop=loops()[2]) is True
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert task.done()
        assert task.cancel() is False
        with pytest.raises(asyncio.CancelledError):
            task.result()

    run(main, 3)
    assert seen == ["enough"]


def test_a_task_cancelled_before_it_starts_never_runs() -> None:
    ran: list[str] = []

    async def body() -> None:
        ran.append("body")

    async def main() -> None:
        task = loop_pool.spawn(body(), loop=loops()[0])
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main, 3)
    assert ran == []


def test_a_task_may_refuse_its_cancellation() -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "stayed"

    async def main() -> None:
        task = loop_pool.spawn(stubborn(), loop=loops()[1])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops()[1])
        assert task.cancel()
        assert await task == "stayed"
        assert not task.cancelled()

    run(main, 3)


def test_cancelling_who_awaits_cancels_what_is_awaited() -> None:
    async def main() -> None:
        task = loop_pool.spawn(for_ever(), loop=loops()[1])
        waiter = asyncio.create_task(_await(task))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert task.cancelled()

    run(main, 3)


def test_a_shielded_pool_task_survives_who_awaits_it() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def answer() -> str:
            await go.wait()
            return "answer"

        task = loop_pool.spawn(answer(), loop=loops()[0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(_await(task)), 0.001)
        go.set()
        assert await task == "answer"

    run(main, 3)


def test_cancelling_a_finished_task_changes_nothing() -> None:
    async def main() -> None:
        task = loop_pool.spawn(where(), loop=loops()[1])
        assert await task is loops()[1]
        assert task.cancel() is False
        assert task.result() is loops()[1]

    run(main, 3)


def test_cancels_of_every_loop_race_with_the_end() -> None:
    async def cancel(task: loop_pool.PoolTask[Any]) -> bool:
        return task.cancel()

    async def main() -> None:
        for _ in range(200):
            task = loop_pool.spawn(where(), loop=loops()[1])
            cancels = [loop_pool.spawn(cancel(task), loop=loop) for loop in loops()]
            for each in cancels:
                await each
            try:
                assert await task is loops()[1]
            except asyncio.CancelledError:
                assert task.cancelled()

    run(main, 3)


# Name, context, repr


def test_a_task_has_the_name_it_is_given() -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def main() -> None:
        named = loop_pool.spawn(name(), loop=loops()[1], name="the name")
        assert named.get_name() == "the name"
        assert "the name" in repr(named)
        assert await named == "the name"
        unnamed = loop_pool.spawn(name(), loop=loops()[1])
        assert await unnamed == unnamed.get_name()
        assert unnamed.get_name()

    run(main, 3)


def test_a_name_that_nobody_asked_for_is_asyncio_s_when_the_task_has_ended() -> None:
    async def ends() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        tasks = [loop_pool.spawn(ends(), loop=loop) for loop in loops() for _ in range(3)]
        tasks.append(loop_pool.spawn(ends()))
        for task in tasks:
            await task
        names = [task.get_name() for task in tasks]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"Task-\d+", name) for name in names)
        assert [task.get_name() for task in tasks] == names
        assert names[0] in repr(tasks[0])
        tasks[0].set_name("another")
        assert tasks[0].get_name() == "another"

    run(main, 2)


def test_a_coroutine_runs_in_a_copy_of_the_spawner_s_context() -> None:
    async def change() -> str:
        before = MOOD.get()
        MOOD.set("changed")
        return before

    async def main() -> None:
        MOOD.set("the spawner's")
        assert await loop_pool.spawn(change(), loop=loops()[1]) == "the spawner's"
        assert MOOD.get() == "the spawner's"
        given = contextvars.copy_context()
        given.run(MOOD.set, "given")
        assert await loop_pool.spawn(change(), loop=loops()[1], context=given) == "given"
        assert given[MOOD] == "changed"

    run(main, 3)


def test_tasks_of_several_loops_may_share_a_context() -> None:
    """A thread can be in a context, or another one: a step that comes meanwhile is not lost."""
    inside, leave = threading.Event(), threading.Event()

    async def stay() -> str:
        MOOD.set("calm")
        inside.set()
        assert leave.wait(HANG)
        return MOOD.get()

    async def come() -> str:
        before = MOOD.get()
        await asyncio.sleep(0)
        return before

    async def main() -> list[str]:
        context = contextvars.copy_context()
        _, one, other = loops()
        first = loop_pool.spawn(stay(), loop=one, context=context)
        await asyncio.to_thread(inside.wait, HANG)
        second = loop_pool.spawn(come(), loop=other, context=context)
        await loop_pool.spawn(where(), loop=other)  # By then the other loop has tried to begin it.
        leave.set()
        return [await first, await second]

    assert run(main, 3) == ["calm", "calm"]


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="tasks take no such context any more")
def test_a_runtime_error_of_a_context_of_the_program_s_own_kind_is_told() -> None:
    """It is none of the interpreter's, which says that another thread is in the context."""

    class Refuses:
        def run(self, *_: object) -> None:
            raise RuntimeError("not now")

    async def main() -> None:
        loop, told = asyncio.get_running_loop(), list[str]()
        # The whole method: the program's handler would be called in the callback's context.
        loop.call_exception_handler = lambda info: told.append(str(info["exception"]))  # type: ignore[method-assign]
        coro, context = where(), Refuses()
        task = loop.create_task(coro, context=context)  # type: ignore[arg-type]
        await eventually(lambda: told, "the error is told")
        assert told == ["not now"]
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro.close()

    run(main, 2)
