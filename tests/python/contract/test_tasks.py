"""Extending asyncio, rows E6 to E9: futures and tasks on a third-party loop."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from ..support import LoopFactory, class_of, run_main

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def _returns[T](future: asyncio.Future[T]) -> T:
    return await future


@pytest.mark.smoke
def test_e6_the_loop_s_factories_make_futures_and_tasks(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        future = loop.create_future()
        assert future.get_loop() is loop
        task = loop.create_task(_returns(future))
        other = asyncio.create_task(_returns(future), name="other")
        assert task.get_loop() is other.get_loop() is loop
        assert other.get_name() == "other"
        assert asyncio.ensure_future(task) is task
        assert asyncio.all_tasks() == {task, other, asyncio.current_task()}
        future.set_result(3)
        assert sum(await asyncio.gather(task, other)) == 6

    loop.run_until_complete(main())


def test_e6_a_subclass_may_replace_the_factories(loop_factory: LoopFactory) -> None:
    base: Any = class_of(loop_factory)

    class MyFuture(asyncio.Future[Any]):
        pass

    class CustomLoop(base):
        def create_future(self) -> MyFuture:
            return MyFuture(loop=self)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        assert type(future) is MyFuture
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        assert await future == 1

    asyncio.run(main(), loop_factory=CustomLoop)


def test_e7_futures_and_tasks_are_the_built_in_ones(loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()
    task = loop.create_task(_returns(future))
    assert type(future) is asyncio.Future
    assert type(task) is asyncio.Task
    future.set_result(None)
    loop.run_until_complete(task)


@pytest.mark.smoke
def test_e7_each_future_is_one_of_its_own_wherever_it_is_made(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """While the loop runs, before and after it, and on another thread."""

    async def main() -> list[asyncio.Future[Any]]:
        made = [loop.create_future() for _ in range(3)]
        return [*made, await asyncio.to_thread(loop.create_future)]

    before = loop.create_future()
    futures = [before, *loop.run_until_complete(main()), loop.create_future()]
    for number, future in enumerate(futures):
        assert type(future) is asyncio.Future
        assert future.get_loop() is loop
        future.set_result(number)
    assert [future.result() for future in futures] == list(range(6))


@pytest.mark.smoke
def test_e7_a_future_class_put_in_the_place_of_asyncio_s_is_used(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MyFuture(asyncio.Future[Any]):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.kwargs = kwargs
            kwargs.clear()

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("asyncio.futures.Future", MyFuture)
            assert type(loop.create_future()) is type(loop.create_future()) is MyFuture
        future = loop.create_future()
        assert type(future) is asyncio.Future
        assert future.get_loop() is loop

    loop.run_until_complete(main())


@pytest.mark.parametrize("debug", [False, True])
def test_e7_futures_ask_a_subclass_for_debug_mode(loop_factory: LoopFactory, debug: bool) -> None:
    base: Any = class_of(loop_factory)
    asked: list[bool] = []

    class CustomLoop(base):
        def get_debug(self) -> bool:
            asked.append(debug)
            return debug

    async def main() -> None:
        asked.clear()
        future: Any = asyncio.get_running_loop().create_future()
        assert asked == [debug]
        assert bool(future._source_traceback) is debug

    asyncio.run(main(), loop_factory=CustomLoop)


def test_e8_a_future_made_directly_works_on_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    order: list[object] = []

    async def main() -> None:
        here = asyncio.Future[str]()
        assert here.get_loop() is loop
        here.add_done_callback(order.append)
        here.set_result("done")
        order.append("set")
        assert await here == "done"
        await asyncio.sleep(0)
        assert order == ["set", here]
        assert await given == 1

    given = asyncio.Future[int](loop=loop)
    loop.call_soon(given.set_result, 1)
    loop.run_until_complete(main())
    with pytest.raises(TypeError):
        asyncio.Future(loop)  # type: ignore[call-arg]


def test_e8_a_future_delivers_exceptions_and_cancellation(loop: asyncio.AbstractEventLoop) -> None:
    failing = asyncio.Future[None](loop=loop)
    loop.call_soon(failing.set_exception, ZeroDivisionError("told"))
    with pytest.raises(ZeroDivisionError, match="told"):
        loop.run_until_complete(failing)
    cancelled = asyncio.Future[None](loop=loop)
    loop.call_soon(cancelled.cancel, "because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        loop.run_until_complete(cancelled)


COLOUR = contextvars.ContextVar[str]("COLOUR", default="none")


async def _colour() -> tuple[str, str]:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name(), COLOUR.get()


def _painted() -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(COLOUR.set, "blue")
    return context


def test_e9_every_argument_of_task_is_honoured(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        context = _painted()
        task = asyncio.Task(_colour(), loop=loop, name="painted", context=context)
        assert task.get_context() is context
        assert await task == ("painted", "blue")
        eager = asyncio.Task(_colour(), loop=loop, name="eager", context=context, eager_start=True)
        assert eager.done()
        assert eager.result() == ("eager", "blue")

    loop.run_until_complete(main())


@pytest.mark.parametrize("through", ["loop", "asyncio", "group"])
def test_e9_create_task_passes_every_argument(
    loop: asyncio.AbstractEventLoop, through: str
) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            create: Any = {
                "loop": loop.create_task,
                "asyncio": asyncio.create_task,
                "group": group.create_task,
            }[through]
            assert await create(_colour(), name="painted", context=_painted()) == (
                "painted",
                "blue",
            )
            eager = create(_colour(), name="eager", eager_start=True)
            assert eager.done()
            late = create(_colour(), name="late", eager_start=False)
            assert not late.done()
            assert await late == ("late", "none")

    loop.run_until_complete(main())


@pytest.mark.parametrize(
    "given",
    [{}, {"name": "n"}, {"eager_start": False}, {"context": _painted(), "name": None}],
    ids=["nothing", "name", "eager_start", "context"],
)
def test_e9_a_task_factory_gets_what_was_given_and_no_more(
    loop: asyncio.AbstractEventLoop, given: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        seen.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    loop.run_until_complete(loop.create_task(_colour(), **given))
    assert seen == [given]


def test_e9_no_argument_beyond_task_s_own_is_taken(loop: asyncio.AbstractEventLoop) -> None:
    coroutine = _colour()
    with pytest.raises(TypeError):
        loop.create_task(coroutine, colour="red")  # type: ignore[call-arg]
    coroutine.close()
    assert not asyncio.all_tasks(loop)


class _OneOfTheProgram:
    """A future by its methods, which wakes its task with something else."""

    _asyncio_future_blocking = False

    def __init__(self, loop: asyncio.AbstractEventLoop, woken_with: object) -> None:
        self._loop = loop
        self._woken_with = woken_with

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wakeup: Any, *, context: Any = None) -> None:
        self._loop.call_soon(wakeup, self._woken_with, context=context)

    def cancel(self, msg: object = None) -> bool:
        return False

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self


@pytest.mark.parametrize("woken_with", [None, 42, "text", object()], ids=["none", "int", "s", "o"])
def test_a_task_that_is_woken_with_what_is_no_future_hears_of_it(
    loop: asyncio.AbstractEventLoop, woken_with: object
) -> None:
    async def main() -> None:
        with pytest.raises(AttributeError, match="has no attribute 'result'"):
            await _OneOfTheProgram(loop, woken_with)

    run_main(loop, main())
