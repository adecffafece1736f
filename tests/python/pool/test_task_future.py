"""A `PoolTask` is a future of whichever loop asks: asyncio's own helpers take it as it is."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import answer, fail, for_ever, loops, run

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def debug(request: pytest.FixtureRequest) -> bool:
    """Whether the loops are in debug mode, in which other code makes and runs handles."""
    return bool(request.param)


def test_asyncio_calls_it_a_future(debug: bool) -> None:
    async def main() -> None:
        task = loop_pool.spawn(answer(1), loop=loops()[1])
        assert asyncio.isfuture(task)
        assert asyncio.ensure_future(task) is task
        assert await task == 1

    run(main, 3, debug=debug)


def test_wait_takes_them_from_every_loop(debug: bool) -> None:
    async def main() -> None:
        endless = loop_pool.spawn(for_ever(), loop=loops()[1])
        tasks: set[Any] = {
            loop_pool.spawn(answer(number), loop=loop) for number, loop in enumerate(loops())
        }
        assert await asyncio.wait(tasks) == (tasks, set())
        done, pending = await asyncio.wait(tasks | {endless}, timeout=0.01)
        assert (done, pending) == (tasks, {endless})
        first, _ = await asyncio.wait(
            {endless, loop_pool.spawn(answer(3), loop=loops()[2])},
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [task.result() for task in first] == [3]
        endless.cancel()

    run(main, 3, debug=debug)


def test_gather_collects_results_errors_and_cancellations(debug: bool) -> None:
    async def main() -> None:
        cancelled = loop_pool.spawn(for_ever(), loop=loops()[1])
        cancelled.cancel("enough")
        results = await asyncio.gather(
            loop_pool.spawn(answer("one"), loop=loops()[0]),
            loop_pool.spawn(fail("two"), loop=loops()[1]),
            cancelled,
            return_exceptions=True,
        )
        assert results[0] == "one"
        assert isinstance(results[1], ZeroDivisionError)
        assert isinstance(results[2], asyncio.CancelledError)
        assert results[2].args == ("enough",)
        with pytest.raises(ZeroDivisionError, match="three"):
            await asyncio.gather(
                loop_pool.spawn(fail("three"), loop=loops()[2]),
                loop_pool.spawn(answer(1), loop=loops()[0]),
            )

    run(main, 3, debug=debug)


@pytest.mark.parametrize("wait", [0, 1, 3])
def test_a_gathering_is_cancelled_with_all_that_it_gathers(debug: bool, wait: int) -> None:
    async def main() -> None:
        tasks = [loop_pool.spawn(for_ever(), loop=loop) for loop in loops()]
        tasks.append(loop_pool.spawn(answer(1, steps=0), loop=loops()[0]))

        async def gather() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)

        gathering = asyncio.create_task(gather())
        await answer(None, wait + 1)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        assert all(task.cancelled() for task in tasks[:-1])

    run(main, 3, debug=debug)


def test_a_shield_keeps_it(debug: bool) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def wait() -> str:
            await go.wait()
            return "unharmed"

        task = loop_pool.spawn(wait(), loop=loops()[0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        go.set()
        assert await asyncio.shield(task) == "unharmed"

    run(main, 3, debug=debug)


def test_as_completed_yields_them(debug: bool) -> None:
    async def main() -> None:
        tasks = [loop_pool.spawn(answer(number), loop=loops()[number]) for number in range(3)]
        found = [await each for each in asyncio.as_completed(tasks)]
        assert sorted(found) == [0, 1, 2]

    run(main, 3, debug=debug)


def test_a_callback_runs_on_the_loop_that_added_it(debug: bool) -> None:
    async def main() -> None:
        go = asyncio.Event()
        called: list[tuple[Any, str, bool]] = []

        async def watch(task: loop_pool.PoolTask[None], mood: str) -> None:
            MOOD.set(mood)
            here = asyncio.get_running_loop()
            task.add_done_callback(
                lambda ended: called.append((ended, MOOD.get(), asyncio.get_running_loop() is here))
            )

        task = loop_pool.spawn(_wait(go), loop=loops()[0])
        for index, loop in enumerate(loops()):
            await loop_pool.spawn(watch(task, f"mood {index}"), loop=loop)
        go.set()
        await eventually(lambda: len(called) == 3, "all are called")
        assert sorted(mood for _, mood, _ in called) == ["mood 0", "mood 1", "mood 2"]
        assert all(ended is task and on_its_loop for ended, _, on_its_loop in called)
        # Too late is in time.
        await loop_pool.spawn(watch(task, "late"), loop=loops()[2])
        await eventually(lambda: len(called) == 4, "the late one is called")
        assert called[-1] == (task, "late", True)

    run(main, 3, debug=debug)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def test_a_callback_is_given_its_context(debug: bool) -> None:
    async def main() -> None:
        context = contextvars.copy_context()
        context.run(MOOD.set, "its own")
        moods: list[str] = []
        task = loop_pool.spawn(answer(1), loop=loops()[1])
        task.add_done_callback(lambda _: moods.append(MOOD.get()), context=context)
        await task
        await eventually(lambda: moods == ["its own"], "it is called")

    run(main, 3, debug=debug)


def test_a_callback_is_taken_back() -> None:
    class Equal:
        def __init__(self) -> None:
            self.calls = 0

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, _: object) -> None:
            self.calls += 1

    async def main() -> None:
        go = asyncio.Event()
        task = loop_pool.spawn(_wait(go), loop=loops()[0])
        kept: list[object] = []
        callbacks = [Equal(), Equal()]
        for callback in (*callbacks, kept.append):
            task.add_done_callback(callback)
        assert task.remove_done_callback(Equal()) == 2
        assert task.remove_done_callback(Equal()) == 0
        go.set()
        await task
        await eventually(lambda: kept == [task], "the other one is called")
        assert [callback.calls for callback in callbacks] == [0, 0]

    run(main, 3)


def test_a_callback_that_raises_goes_to_the_handler_of_its_loop(logged_errors: list[str]) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("in a callback")

    async def main() -> None:
        task = loop_pool.spawn(answer(1), loop=loops()[1])
        task.add_done_callback(fail)
        assert await task == 1
        await eventually(lambda: bool(logged_errors), "the report")
        # Added where no loop runs, it has no loop's handler.
        await asyncio.to_thread(task.add_done_callback, fail)
        await eventually(lambda: len(logged_errors) == 2, "the second report")

    run(main, 3)
    assert "Exception in callback" in logged_errors[0]
    assert "Exception in done callback" in logged_errors[1]
    logged_errors.clear()


def test_another_kind_of_loop_awaits_it() -> None:
    async def main() -> None:
        go = asyncio.Event()
        task = loop_pool.spawn(_wait(go), loop=loops()[0])
        begun = threading.Event()

        async def wait() -> str:
            begun.set()
            await task
            return type(asyncio.get_running_loop()).__name__

        waiting = asyncio.create_task(asyncio.to_thread(asyncio.run, wait()))
        await asyncio.to_thread(begun.wait, HANG)
        go.set()
        assert "Selector" in await waiting

    run(main, 3)


def test_a_python_task_awaits_it() -> None:
    async def main() -> None:
        task = loop_pool.spawn(answer("result"), loop=loops()[1])
        python_task = asyncio.tasks._PyTask(_await(task), loop=asyncio.get_running_loop())  # type: ignore[attr-defined]
        assert await python_task == "result"

    run(main, 3)


async def _await[T](task: loop_pool.PoolTask[T]) -> T:
    return await task


def test_results_of_every_kind_come_through_await() -> None:
    values = [None, 0, (), (1, 2), StopIteration("value"), ZeroDivisionError("value")]

    async def main() -> None:
        for value in values:
            for steps in (0, 1):
                task = loop_pool.spawn(answer(value, steps), loop=loops()[1])
                assert await task is value
                assert await task is value

    run(main, 3)


def test_a_report_waits_until_the_task_has_left_its_context() -> None:
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        inside, leave = threading.Event(), threading.Event()
        context = contextvars.copy_context()

        def stay(_: object) -> None:
            inside.set()
            leave.wait(HANG)

        async def fail() -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().set_exception_handler(
                lambda _, report: reported.append(report)
            )
            # Runs in the task's context when the pool's task has been told of its end.
            task.add_done_callback(stay, context=context)
            raise ZeroDivisionError

        task = loop_pool.spawn(fail(), loop=loops()[1], context=context)
        await asyncio.to_thread(inside.wait, HANG)
        await eventually(task.done, "it has ended")
        del task
        gc.collect()
        leave.set()
        await eventually(lambda: bool(reported), "the report")

    run(main, 3)
    assert len(reported) == 1
    assert reported[0]["message"] == "PoolTask exception was never retrieved"
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


def test_nobody_else_makes_one() -> None:
    with pytest.raises(TypeError, match=r"made by loop_pool\.spawn"):
        loop_pool.PoolTask()


def test_one_that_refers_to_itself_is_collected() -> None:
    async def main() -> weakref.ref[Any]:
        async def answer() -> tuple[Any]:
            return (holder[0],)

        holder: list[Any] = []
        holder.append(loop_pool.spawn(answer(), loop=loops()[0]))
        assert (await holder[0])[0] is holder[0]
        return weakref.ref(holder[0])

    found = run(main, 3)
    gc.collect()
    assert found() is None


def test_its_traceback_does_not_grow_with_each_awaiter() -> None:
    async def main() -> None:
        task = loop_pool.spawn(fail("once"), loop=loops()[1])
        lengths = set()
        for _ in range(5):
            with pytest.raises(ZeroDivisionError) as seen:
                await task
            lengths.add(len(seen.traceback))
        assert len(lengths) == 1

    run(main, 3)
