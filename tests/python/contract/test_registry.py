"""Extending asyncio, rows E10 to E14: tasks of another make keep themselves visible.

With the oracle the four functions are asyncio's own; with ours, the package's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from ..support import ORACLE_ONLY, in_thread, run_main, turns

pytestmark = pytest.mark.smoke

type Loop = asyncio.AbstractEventLoop


@pytest.fixture
def api(loop: Loop) -> Any:
    """The four functions, and the two questions."""
    if type(loop).__module__.startswith("asyncio"):
        return SimpleNamespace(
            **{
                name.removeprefix("_"): getattr(asyncio, name)
                for name in (
                    "_register_task",
                    "_unregister_task",
                    "_enter_task",
                    "_leave_task",
                    "all_tasks",
                    "current_task",
                )
            }
        )
    import loop_pool

    return SimpleNamespace(
        register_task=loop_pool._register_task,
        unregister_task=loop_pool._unregister_task,
        enter_task=loop_pool._enter_task,
        leave_task=loop_pool._leave_task,
        all_tasks=loop_pool.all_tasks,
        current_task=loop_pool.current_task,
    )


class DuckTask(asyncio.Future[Any]):
    """A task that shares no code with asyncio's."""

    def __init__(self, coro: Coroutine[Any, Any, Any], loop: Loop, api: Any) -> None:
        super().__init__(loop=loop)
        self._coro = coro
        self._api = api
        loop.call_soon(self._step)
        api.register_task(self)

    def get_coro(self) -> Any:
        return self._coro

    def _step(self, waited_for: asyncio.Future[Any] | None = None) -> None:
        self._api.enter_task(self.get_loop(), self)
        try:
            if waited_for is not None and waited_for.exception() is not None:
                result = self._coro.throw(waited_for.exception())  # type: ignore[arg-type]
            else:
                result = self._coro.send(None)
        except StopIteration as stop:
            self._api.unregister_task(self)
            self.set_result(stop.value)
        except Exception as error:
            self._api.unregister_task(self)
            self.set_exception(error)
        else:
            if result is None:
                self.get_loop().call_soon(self._step)
            else:
                result._asyncio_future_blocking = False
                result.add_done_callback(self._step)
        finally:
            self._api.leave_task(self.get_loop(), self)


class Subclass(asyncio.Task[Any]):
    """A Python subclass of asyncio's task."""


def test_e10_a_task_of_another_make_is_visible_from_beginning_to_end(loop: Loop, api: Any) -> None:
    async def work() -> str:
        seen.append((api.current_task(), asyncio.current_task()))
        await asyncio.sleep(0)
        seen.append((api.current_task(), asyncio.current_task()))
        await asyncio.sleep(0.001)
        seen.append((api.current_task(), asyncio.current_task()))
        return "done"

    async def main() -> None:
        task = DuckTask(work(), loop, api)
        assert task in api.all_tasks(loop)
        assert task in asyncio.all_tasks()
        assert await task == "done"
        assert task not in api.all_tasks(loop)
        assert task not in asyncio.all_tasks()
        assert seen == [(task, task)] * 3

    seen: list[Any] = []
    run_main(loop, main())


def test_e10_a_subclass_of_task_is_visible_as_any_task(loop: Loop, api: Any) -> None:
    async def work() -> Any:
        await asyncio.sleep(0)
        return api.current_task()

    async def main() -> None:
        made = Subclass(work(), loop=loop)
        assert made in api.all_tasks(loop)
        loop.set_task_factory(lambda loop, coro, **more: Subclass(coro, loop=loop, **more))
        factored = loop.create_task(work())
        assert type(factored) is Subclass
        assert factored in api.all_tasks(loop)
        assert await made is made
        assert await factored is factored
        assert not {made, factored} & api.all_tasks(loop)

    run_main(loop, main())


def test_e11_a_registered_task_is_kept_weakly(loop: Loop, api: Any) -> None:
    class Task:
        def done(self) -> bool:
            return False

        def get_loop(self) -> Loop:
            return loop

    task: Any = Task()
    api.register_task(task)
    assert task in api.all_tasks(loop)
    reference = weakref.ref(task)
    del task
    gc.collect()
    assert reference() is None
    assert not [task for task in api.all_tasks(loop) if isinstance(task, Task)]


def test_e11_what_cannot_be_referred_to_weakly_is_refused(loop: Loop, api: Any) -> None:
    with pytest.raises(TypeError):
        api.register_task(object())


def test_e12_an_unregistered_task_is_forgotten(loop: Loop, api: Any) -> None:
    async def main() -> None:
        task = DuckTask(asyncio.sleep(0.001), loop, api)
        api.unregister_task(task)
        assert task not in api.all_tasks(loop)
        api.register_task(task)
        assert task in api.all_tasks(loop)
        await task

    run_main(loop, main())


def test_e13_entering_refuses_a_second_task(loop: Loop, api: Any) -> None:
    async def main() -> None:
        mine = asyncio.current_task()
        other: Any = DuckTask(asyncio.sleep(0), loop, api)
        with pytest.raises(RuntimeError, match="while another task"):
            api.enter_task(loop, other)
        assert api.current_task() is asyncio.current_task() is mine
        await other

    run_main(loop, main())


def test_e13_entering_refuses_a_loop_that_does_not_run_here(loop: Loop, api: Any) -> None:
    task: Any = asyncio.Future(loop=loop)
    with pytest.raises(RuntimeError):
        api.enter_task(loop, task)
    with contextlib.suppress(RuntimeError):  # asyncio: no running event loop
        assert api.current_task(loop) is None


def test_e14_leaving_refuses_a_task_that_is_not_current(loop: Loop, api: Any) -> None:
    async def main() -> None:
        mine = asyncio.current_task()
        other: Any = DuckTask(asyncio.sleep(0), loop, api)
        with pytest.raises(RuntimeError, match="leave task"):
            api.leave_task(loop, other)
        assert api.current_task() is asyncio.current_task() is mine
        await other

    run_main(loop, main())


def test_e14_between_steps_no_task_is_current(loop: Loop, api: Any) -> None:
    async def main() -> None:
        DuckTask(asyncio.sleep(0), loop, api)
        loop.call_soon(lambda: seen.append((api.current_task(), asyncio.current_task())))
        await turns()

    seen: list[Any] = []
    run_main(loop, main())
    assert seen == [(None, None)]


@pytest.mark.loop_pool_only
def test_every_thread_sees_a_task_of_another_make(loop: Loop, api: Any) -> None:
    async def work() -> Any:
        return in_thread(lambda: (api.current_task(loop), api.all_tasks(loop)))

    async def main() -> None:
        task = DuckTask(work(), loop, api)
        current, tasks = await task
        assert current is task
        assert tasks == {task, asyncio.current_task()}
        assert in_thread(lambda: api.all_tasks(loop)) == {asyncio.current_task()}

    run_main(loop, main())


@pytest.mark.skipif(ORACLE_ONLY, reason="the package's own functions")
def test_a_loop_of_another_kind_is_left_to_asyncio() -> None:
    import loop_pool

    async def main() -> None:
        loop, mine = asyncio.get_running_loop(), asyncio.current_task()
        assert loop_pool.current_task() is loop_pool.current_task(loop) is mine
        assert loop_pool.all_tasks(loop) == {mine}
        task: Any = asyncio.Future()
        loop_pool._register_task(task)
        assert task in asyncio.all_tasks()
        loop_pool._unregister_task(task)
        assert task not in asyncio.all_tasks()

    asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop)
    with pytest.raises(RuntimeError, match="no running event loop"):
        loop_pool.current_task()
