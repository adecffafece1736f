"""Cancelling a task of the pool in each of its phases, from each side.

As in asyncio: a `cancel()` that says True is delivered, into the coroutine if that has another step
before it, and as its end if the step under way was the last one; one of what is done says False.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually
from .support import loops, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

pytestmark = pytest.mark.usefixtures("clean_process")

SIDES = ["own loop", "other loop", "other thread"]


class Step:
    """A step of a coroutine that lasts until the test lets it end."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._go = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self._go.wait(HANG)
        return "result"

    def end(self) -> None:
        self._go.set()

    async def begun(self) -> None:
        await eventually(self.entered.is_set, "the step begins")


async def last(step: Step) -> str:
    """A coroutine of one step."""
    return step()


async def after_one(step: Step) -> str:
    """A coroutine whose second step is its last."""
    await asyncio.sleep(0)
    return step()


async def cancel_from(side: str, task: loop_pool.PoolTask[Any], *args: object) -> bool:
    """Cancels a task of loop 1, whose thread is free if the side is its own."""

    async def cancel() -> bool:
        return task.cancel(*args)

    if side == "own loop":
        return await loop_pool.spawn(cancel(), loop=loops()[1])
    if side == "other loop":
        return await loop_pool.spawn(cancel(), loop=loops()[2])
    said: list[bool] = []
    with Threads(lambda: said.append(task.cancel(*args))):
        pass
    return said[0]


# The phases


@pytest.mark.parametrize("side", SIDES[1:])
@pytest.mark.parametrize("given", [True, False], ids=["given a loop", "left to all"])
def test_one_that_waits_to_begin_never_begins(side: str, given: bool) -> None:
    ran: list[str] = []

    async def body() -> None:
        ran.append("body")

    async def main() -> None:
        steps = [Step() for _ in loops()[1:]]
        busy = [
            loop_pool.spawn(last(step), loop=loop)
            for step, loop in zip(steps, loops()[1:], strict=True)
        ]
        for step in steps:
            await step.begun()
        if side == "other loop" and given:  # which has to be free for it
            steps[1].end()
            await busy[1]
        # Loop 1 is busy. What is left to all waits on loop 0, which runs this, as all others are.
        task = loop_pool.spawn(body(), loop=loops()[1] if given else None)
        if side == "other loop" and not given:
            assert task.cancel("enough")
        else:
            assert await cancel_from(side, task, "enough")
        for step in steps:
            step.end()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("enough",)
        assert task.cancelled()
        await asyncio.gather(*busy)

    run(main, loops=3)
    assert ran == []


@pytest.mark.parametrize("side", SIDES[1:])
def test_one_that_waits_on_a_loop_that_is_held_up_ends_at_once(side: str) -> None:
    async def main() -> None:
        step = Step()
        busy = loop_pool.spawn(last(step), loop=loops()[1])
        try:
            await step.begun()
            task = loop_pool.spawn(asyncio.sleep(0), loop=loops()[1])
            assert await cancel_from(side, task, "enough")
            await asyncio.wait([task], timeout=HANG)
            assert task.cancelled()
            assert not task.cancel()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await loop_pool.call(loops()[1], int)
        finally:
            step.end()
        await busy
        assert await loop_pool.call(loops()[1], int) == 0  # it passes over them

    run(main, loops=3)


@pytest.mark.smoke
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("side", SIDES[1:])
@pytest.mark.parametrize("work", [last, after_one])
def test_one_in_its_last_step_is_cancelled(
    work: Callable[[Step], Coroutine[Any, Any, str]], side: str, debug: bool
) -> None:
    async def main() -> None:
        step = Step()
        task = loop_pool.spawn(work(step), loop=loops()[1])
        await step.begun()
        assert await cancel_from(side, task, "first")
        assert await cancel_from(side, task, "enough")
        assert not task.done()
        step.end()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("enough",)
        assert task.cancelled()
        assert not task.cancel()

    run(main, loops=3, debug=debug)


@pytest.mark.parametrize("side", SIDES[1:])
def test_a_step_that_raises_ends_with_what_it_raised(side: str) -> None:
    async def fails(step: Step) -> None:
        raise ZeroDivisionError(step())

    async def main() -> None:
        step = Step()
        task = loop_pool.spawn(fails(step), loop=loops()[1])
        await step.begun()
        assert await cancel_from(side, task)
        step.end()
        with pytest.raises(ZeroDivisionError):
            await task

    run(main, loops=3)


def test_a_task_cancels_itself_in_its_last_step_as_in_asyncio() -> None:
    async def cancels_itself(me: list[Any]) -> str:
        await asyncio.sleep(0)
        assert me[0].cancel("myself")
        return "result"

    async def ends(spawn: Callable[..., Any]) -> BaseException | None:
        me: list[Any] = []
        task = spawn(cancels_itself(me))
        me.append(task)
        try:
            await task
        except asyncio.CancelledError as error:
            return error
        return None

    async def main() -> tuple[BaseException | None, BaseException | None]:
        here = loops()[0]
        return await ends(asyncio.create_task), await ends(
            lambda coro: loop_pool.spawn(coro, loop=here)
        )

    oracle, ours = run(main)
    assert isinstance(ours, asyncio.CancelledError)
    assert oracle is not None
    assert ours.args == oracle.args == ("myself",)


@pytest.mark.smoke
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("side", SIDES[1:])
@pytest.mark.parametrize("pause", ["bare yield", "future that is done", "future that is not"])
def test_a_step_that_begins_later_begins_with_the_cancellation(
    pause: str, side: str, debug: bool
) -> None:
    """Whatever waits in the queue of the loop, the cancellation is before it."""
    seen: list[object] = []

    async def work(step: Step) -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if pause == "future that is done":
            # The wakeup is in the queue while the callback behind it lasts.
            loop.call_soon(future.set_result, None)
            loop.call_soon(step)
        else:
            step()
        try:
            await (asyncio.sleep(0) if pause == "bare yield" else future)
        except asyncio.CancelledError as error:
            me = asyncio.current_task()
            assert me is not None
            seen.extend([*error.args, me.cancelling()])
            raise
        seen.append("went on")
        return "result"

    async def main() -> None:
        step = Step()
        task = loop_pool.spawn(work(step), loop=loops()[1])
        await step.begun()
        assert await cancel_from(side, task, "enough")
        step.end()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main, loops=3, debug=debug)
    assert seen == ["enough", 1]


@pytest.mark.parametrize("side", SIDES)
def test_one_that_is_suspended_gets_each_request(side: str) -> None:
    counts: list[int] = []

    async def work() -> str:
        me = asyncio.current_task()
        assert me is not None
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
            counts.append(me.cancelling())
        return "stayed"

    async def main() -> None:
        task = loop_pool.spawn(work(), loop=loops()[1])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops()[1])
        for wanted in (1, 2):
            assert await cancel_from(side, task)
            await eventually(lambda wanted=wanted: len(counts) >= wanted, "it is cancelled")
        assert await task == "stayed"
        assert not task.cancelled()
        assert not await cancel_from(side, task)

    run(main, loops=3)
    assert counts == [1, 2]


@pytest.mark.parametrize("spawned", [True, False], ids=["spawn", "asyncio"])
def test_the_first_who_asks_gets_what_was_raised(spawned: bool) -> None:
    class Stopped(asyncio.CancelledError):
        pass

    waits = threading.Event()

    async def where_it_waits() -> None:
        waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise Stopped("enough", 1) from error

    def start(coro: Coroutine[Any, Any, None]) -> Any:
        return loop_pool.spawn(coro, loop=loops()[1]) if spawned else asyncio.create_task(coro)

    async def main() -> None:
        task = start(where_it_waits())
        await eventually(waits.is_set, "it waits")
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0):
                await task
        cause = caught.value.__cause__
        assert isinstance(cause, Stopped)
        assert cause.args == ("enough", 1)
        frames = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
        assert frames[-1] == "where_it_waits"
        assert task.cancelled()
        # It refers to frames, so it is not kept for others.
        with pytest.raises(asyncio.CancelledError) as again:
            await task
        assert type(again.value) is asyncio.CancelledError

    run(main, loops=2)


@pytest.mark.parametrize("side", SIDES[1:])
def test_requests_during_one_step_are_counted(side: str) -> None:
    counts: list[int] = []

    async def work(step: Step) -> str:
        step()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        me = asyncio.current_task()
        assert me is not None
        counts.append(me.cancelling())
        return "stayed"

    async def main() -> None:
        step = Step()
        task = loop_pool.spawn(work(step), loop=loops()[1])
        await step.begun()
        for _ in range(3):
            assert await cancel_from(side, task)
        step.end()
        assert await task == "stayed"

    run(main, loops=3)
    assert counts == [3]


@pytest.mark.parametrize("side", SIDES)
def test_one_that_is_done_says_no(side: str) -> None:
    async def main() -> None:
        step = Step()
        step.end()
        task = loop_pool.spawn(last(step), loop=loops()[1])
        assert await task == "result"
        assert not await cancel_from(side, task)
        assert await task == "result"

    run(main, loops=3)


def _python_task(loop: Any, coro: Any, **options: Any) -> Any:
    return asyncio.tasks._PyTask(coro, loop=loop, **options)  # type: ignore[attr-defined]


@pytest.mark.parametrize("factory", [asyncio.eager_task_factory, _python_task])
@pytest.mark.parametrize("work", [last, after_one])
def test_a_task_factory_changes_nothing(
    work: Callable[[Step], Coroutine[Any, Any, str]], factory: Any
) -> None:
    async def main() -> None:
        await loop_pool.call(loops()[1], lambda: loops()[1].set_task_factory(factory))
        step = Step()
        task = loop_pool.spawn(work(step), loop=loops()[1])
        await step.begun()
        assert task.cancel("enough")
        step.end()
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        await loop_pool.call(loops()[1], lambda: loops()[1].set_task_factory(None))

    run(main)


# Who cancels for the program


async def by_timeout(make: Callable[[], Awaitable[Any]], step: Step) -> None:
    """Awaits it in a timeout that comes during the step."""
    me = asyncio.current_task()
    assert me is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout:

            async def expire() -> None:
                await step.begun()
                timeout.reschedule(0)
                await eventually(lambda: me.cancelling() == 1, "the timeout comes")
                step.end()

            expiring = asyncio.create_task(expire())
            await make()
    await expiring
    assert me.cancelling() == 0


def _there() -> loop_pool.EventLoop:
    return loops()[1]


async def _in_a_group(step: Step) -> None:
    async with loop_pool.TaskGroup() as group:
        group.create_task(last(step), loop=_there())


async def _nested(step: Step) -> str:
    async def outer() -> str:
        return await loop_pool.spawn(last(step), loop=loops()[2])

    return await loop_pool.spawn(outer(), loop=_there())


async def _waited_for(step: Step) -> str:
    return await asyncio.wait_for(loop_pool.spawn(last(step), loop=_there()), HANG)


WAYS: dict[str, Callable[[Step], Awaitable[Any]]] = {
    "spawn": lambda step: loop_pool.spawn(last(step), loop=_there()),
    "call": lambda step: loop_pool.call(_there(), step),
    "gather": lambda step: loop_pool.gather(loop_pool.spawn(last(step), loop=_there())),
    "group": _in_a_group,
    "nested": _nested,
    "wait_for": _waited_for,
}


@pytest.mark.smoke
@pytest.mark.parametrize("way", WAYS)
def test_a_timeout_that_comes_in_the_last_step_is_raised(way: str) -> None:
    async def main() -> None:
        step = Step()
        await by_timeout(lambda: WAYS[way](step), step)

    run(main, loops=3)


def test_a_group_that_fails_cancels_one_in_its_last_step() -> None:
    async def main() -> None:
        step = Step()

        async def fails() -> None:
            await step.begun()
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:
            async with loop_pool.TaskGroup() as group:
                task = group.create_task(last(step), loop=loops()[1])
                group.create_task(fails(), loop=loops()[0]).add_done_callback(
                    # Behind the group's own, which has cancelled the other.
                    lambda _: step.end()
                )
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert task.cancelled()

    run(main)


def test_a_map_that_is_closed_cancels_a_call_in_its_last_step() -> None:
    ended: list[str] = []

    async def main() -> None:
        step = Step()

        async def work(number: int) -> str:
            return step() if number else "first"

        results = loop_pool.map(lambda number: loop_pool.call(loops()[1], work, number), range(2))
        assert await anext(results) == "first"
        await step.begun()
        close = asyncio.create_task(results.aclose())
        await asyncio.sleep(0)
        step.end()
        await close
        ended.append("closed")

    run(main)
    assert ended == ["closed"]


@pytest.mark.smoke
@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_in_the_last_step_ends_the_run(way: str) -> None:
    went_on: list[str] = []

    async def main() -> None:
        step = Step()

        async def interrupt() -> None:
            await step.begun()
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
            step.end()

        interrupting = asyncio.create_task(interrupt())
        await WAYS[way](step)
        went_on.append("main")
        await interrupting

    with pytest.raises(KeyboardInterrupt):
        loop_pool.run(main(), loops=3)
    assert went_on == []


def test_ctrl_c_inside_the_last_step_on_loop_0_ends_the_run() -> None:
    went_on: list[str] = []

    async def work() -> str:
        signal.raise_signal(signal.SIGINT)
        return "result"

    async def main() -> None:
        await loop_pool.spawn(work(), loop=loops()[0])
        went_on.append("main")

    with pytest.raises(KeyboardInterrupt):
        loop_pool.run(main(), loops=2)
    assert went_on == []


def test_a_task_that_was_told_yes_never_has_a_result() -> None:
    """The end of the task and the requests of several threads race."""

    async def short() -> str:
        return "result"

    async def cancel(task: loop_pool.PoolTask[str]) -> bool:
        return task.cancel()

    async def main() -> None:
        for _ in range(300):
            task = loop_pool.spawn(short(), loop=loops()[1])
            cancels = [loop_pool.spawn(cancel(task), loop=loop) for loop in loops()]
            said = [await each for each in cancels]
            try:
                assert await task == "result"
            except asyncio.CancelledError:
                assert any(said)
            else:
                assert not any(said)

    run(main, loops=3)
