"""Tasks that start at once: in the order of asyncio's, and known whichever way they were made."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ..support import HANG, ORACLE_ONLY, Threads, eventually, in_thread, run_main, turns

pytestmark = pytest.mark.smoke

type Loop = asyncio.AbstractEventLoop
type Make = Callable[[Loop, Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Subclass(asyncio.Task[Any]):
    """A Python subclass of asyncio's task."""


def _by_factory(factory: Any) -> Make:
    def make(loop: Loop, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        loop.set_task_factory(factory)
        try:
            return loop.create_task(coro)
        finally:
            loop.set_task_factory(None)

    return make


def _by_argument(loop: Loop, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return loop.create_task(coro, eager_start=True)


WAYS: dict[str, Make] = {
    "argument": _by_argument,
    "hand": lambda loop, coro: asyncio.Task(coro, loop=loop, eager_start=True),
    "subclass": lambda loop, coro: Subclass(coro, loop=loop, eager_start=True),
    "factory": _by_factory(asyncio.eager_task_factory),
    "own factory": _by_factory(asyncio.create_eager_task_factory(Subclass)),
}
ways = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS.keys())
inner_ways = pytest.mark.parametrize("make_inner", WAYS.values(), ids=WAYS.keys())


def _questions(loop: Loop) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`current_task` and `all_tasks`: asyncio's for its own loop, the package's for ours."""
    if type(loop).__module__.startswith("asyncio"):
        return asyncio.current_task, asyncio.all_tasks
    import loop_pool

    return loop_pool.current_task, loop_pool.all_tasks


@ways
@inner_ways
def test_the_current_task_is_asyncios_in_every_step(
    loop: Loop, make: Make, make_inner: Make
) -> None:
    current, all_tasks = _questions(loop)
    outer_tasks: list[Any] = []

    def look() -> Any:
        assert current() is current(loop) is asyncio.current_task()
        assert current() in all_tasks(loop)
        return current()

    async def inner() -> Any:
        seen = [look()]
        assert outer_tasks[0] in all_tasks(loop)
        await asyncio.sleep(0)
        return [*seen, look()]

    async def outer() -> Any:
        outer_tasks.append(look())
        task = make_inner(loop, inner())
        seen = [look()]
        assert await task == [task, task]
        return [*seen, look()]

    async def main() -> None:
        mine = look()
        task = make(loop, outer())
        assert look() is mine
        assert outer_tasks == [task]
        assert await task == [task, task]
        assert look() is mine

    run_main(loop, main())


@pytest.mark.parametrize("factory", [None, asyncio.eager_task_factory], ids=["none", "eager"])
@pytest.mark.parametrize("inner", [{}, {"eager_start": True}, {"eager_start": False}], ids=str)
def test_a_task_made_inside_a_constructor_is_one_of_its_own(
    loop: Loop, factory: Any, inner: dict[str, Any]
) -> None:
    current, _ = _questions(loop)
    log: list[str] = []
    keep: list[asyncio.Task[Any]] = []

    async def note(what: str) -> None:
        assert current() is asyncio.current_task()
        log.append(f"{what} runs")

    class Name:
        def __str__(self) -> str:
            keep.append(loop.create_task(note("inner"), **inner))
            log.append("inner made")
            assert current() is asyncio.current_task()
            return "outer"

    async def main() -> None:
        loop.set_task_factory(factory)
        name: Any = Name()
        keep.append(loop.create_task(note("outer"), name=name, eager_start=True))
        log.append("outer made")
        loop.set_task_factory(None)
        await asyncio.gather(*keep)
        assert keep[1].get_name() == "outer"

    run_main(loop, main())
    at_once = inner.get("eager_start", factory is not None)
    assert log == (
        ["inner runs", "inner made", "outer runs", "outer made"]
        if at_once
        else ["inner made", "outer runs", "outer made", "inner runs"]
    )


def test_a_constructor_that_fails_leaves_nothing_behind(loop: Loop) -> None:
    current, all_tasks = _questions(loop)

    class Bad:
        def __str__(self) -> str:
            raise KeyError("name")

    async def nothing() -> None: ...

    async def main() -> None:
        # That the task which was not made is destroyed.
        loop.set_exception_handler(lambda *_: None)
        mine, name = current(), Bad()
        coro = nothing()
        with pytest.raises(KeyError):
            loop.create_task(coro, name=name, eager_start=True)  # type: ignore[arg-type]
        gc.collect()
        coro.close()
        with pytest.raises(TypeError):
            loop.create_task(42, eager_start=True)  # type: ignore[arg-type]
        assert current() is asyncio.current_task() is mine
        assert all_tasks(loop) == {mine}
        assert await loop.create_task(asyncio.sleep(0, 42), eager_start=True) == 42

    run_main(loop, main())


def test_the_programs_own_factory_is_asked_for_eager_tasks_as_well(loop: Loop) -> None:
    asked: list[dict[str, Any]] = []

    def factory(loop: Loop, coro: Any, **options: Any) -> Any:
        asked.append(options)
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        loop.set_task_factory(factory)
        task = loop.create_task(asyncio.sleep(0), eager_start=True)
        loop.set_task_factory(None)
        await task

    run_main(loop, main())
    assert asked == [{"eager_start": True}]


@ways
def test_an_eager_task_that_waits_is_among_all_tasks(loop: Loop, make: Make) -> None:
    if make in {WAYS["hand"], WAYS["subclass"]} and not type(loop).__module__.startswith("asyncio"):
        pytest.skip("a task class that is called by the program, and never asks the loop")
    _, all_tasks = _questions(loop)

    async def main() -> None:
        future = loop.create_future()
        task = make(loop, _wait_for(future))
        assert task in all_tasks(loop)
        future.set_result(None)
        await task
        assert task not in all_tasks(loop)

    run_main(loop, main())


async def _wait_for(future: asyncio.Future[None]) -> None:
    await future


def test_entering_and_leaving_by_asyncios_own_functions(loop: Loop) -> None:
    current, _ = _questions(loop)

    async def main() -> None:
        mine: Any = current()
        other: Any = asyncio.Future(loop=loop)
        asyncio._leave_task(loop, mine)
        assert current() is current(loop) is asyncio.current_task() is None
        asyncio._enter_task(loop, other)
        assert current() is current(loop) is asyncio.current_task() is other
        asyncio._leave_task(loop, other)
        before = asyncio.tasks._swap_current_task(loop, other)  # type: ignore[attr-defined]
        assert before is None
        assert current() is asyncio.current_task() is other
        asyncio.tasks._swap_current_task(loop, mine)  # type: ignore[attr-defined]
        assert current() is asyncio.current_task() is mine

    run_main(loop, main())


@pytest.mark.skipif(ORACLE_ONLY, reason="the package's own functions")
def test_entering_another_task_while_a_step_has_left_its_own() -> None:
    import loop_pool

    loop = loop_pool.new_event_loop()

    def seen() -> list[Any]:
        return [
            loop_pool.current_task(),
            asyncio.current_task(),
            in_thread(lambda: loop_pool.current_task(loop)),
        ]

    async def main() -> None:
        mine: Any = loop_pool.current_task()
        other: Any = asyncio.Future(loop=loop)
        asyncio._leave_task(loop, mine)
        loop_pool._enter_task(loop, other)
        assert seen() == [other] * 3
        loop_pool._leave_task(loop, other)
        asyncio._enter_task(loop, mine)
        assert seen() == [mine] * 3

    run_main(loop, main())
    loop.close()


@pytest.mark.skipif(ORACLE_ONLY, reason="asyncio's loop has no such threads")
@pytest.mark.parametrize("way", ["create_task", "Task", "eager", "factory"])
def test_other_threads_make_tasks_while_the_loop_starts_some_at_once(way: str) -> None:
    import loop_pool

    loop = loop_pool.new_event_loop()
    ran: list[int] = []

    async def foreign(number: int) -> None:
        ran.append(number)

    def make(first: int) -> list[Any]:
        kept: list[Any] = []
        for number in range(first, first + 300):
            coro = foreign(number)
            if way == "Task":
                kept.append(asyncio.Task(coro, loop=loop))
            elif way == "eager":
                kept.append(loop.create_task(coro, eager_start=True))
            else:
                kept.append(loop.create_task(coro))
        return kept

    async def own(box: list[bool]) -> None:
        box.append(asyncio.current_task() is loop_pool.current_task())

    async def main() -> None:
        if way == "factory":
            loop.set_task_factory(asyncio.eager_task_factory)
        begun = threading.Barrier(3)
        kept: list[Any] = []

        def thread(first: int) -> None:
            begun.wait(HANG)
            kept.extend(make(first))

        with Threads(lambda: thread(0), lambda: thread(300)):
            begun.wait(HANG)
            for _ in range(600):
                box: list[bool] = []
                loop.create_task(own(box), eager_start=True)
                assert box == [True]
        await eventually(lambda: len(ran) == 600, "the tasks of the other threads run")
        await turns()
        assert all(task.done() for task in kept)
        loop.set_task_factory(None)

    run_main(loop, main())
    assert sorted(ran) == list(range(600))
    loop.close()


@pytest.mark.skipif(ORACLE_ONLY, reason="the package's own functions")
def test_a_loop_that_is_read_as_its_last_step_ends_keeps_nothing() -> None:
    """What a reader may be looking at is put aside: it is dropped as the run ends, or collected."""
    import loop_pool

    class Result:
        loop: Any

    loops: list[weakref.ref[Any]] = []
    results: list[weakref.ref[Any]] = []
    shown: list[Any] = [None]
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            loop = shown[0]
            if loop is not None:
                loop_pool.current_task(loop)
            del loop

    async def last_step(loop: Any) -> Result:
        result = Result()
        result.loop = loop
        results.append(weakref.ref(result))
        loop.stop()
        return result

    with Threads(read, read):
        try:
            for _ in range(300):
                loop = shown[0] = loop_pool.new_event_loop()
                task = loop.create_task(last_step(loop))
                loop.run_forever()
                shown[0] = None
                loops.append(weakref.ref(loop))
                loop.close()
                del loop, task
        finally:
            over.set()
    gc.collect()
    assert not [loop for each in loops if (loop := each()) is not None]
    assert not [result for each in results if (result := each()) is not None]
