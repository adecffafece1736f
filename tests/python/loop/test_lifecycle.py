"""How a loop runs, stops and closes."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from ..support import (
    HANG,
    LoopFactory,
    LoopThread,
    assert_descriptors,
    eventually,
    in_thread,
    open_descriptors,
    run_turn,
    shut_down,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

# Running and stopping


@pytest.mark.smoke
def test_a_loop_stopped_before_it_runs_runs_one_turn(loop: asyncio.AbstractEventLoop) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")
        loop.call_soon(order.append, "third")

    loop.call_soon(first)
    loop.call_soon(order.append, "second")
    loop.stop()
    loop.run_forever()
    assert order == ["first", "second"]
    run_turn(loop)
    assert order == ["first", "second", "third"]


def test_callbacks_behind_stop_in_the_same_turn_run(loop: asyncio.AbstractEventLoop) -> None:
    order: list[str] = []

    def stop() -> None:
        loop.stop()
        loop.call_soon(order.append, "next run")

    loop.call_soon(stop)
    loop.call_soon(order.append, "same turn")
    loop.run_forever()
    assert order == ["same turn"]
    run_turn(loop)
    assert order == ["same turn", "next run"]


def test_stop_is_forgotten_when_the_run_ends(loop: asyncio.AbstractEventLoop) -> None:
    loop.stop()
    loop.stop()
    loop.run_forever()
    ran: list[int] = []
    loop.call_soon(loop.call_soon, loop.call_soon, ran.append, 1)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_a_loop_runs_again_and_again(loop: asyncio.AbstractEventLoop) -> None:
    for number in range(20):
        assert loop.run_until_complete(asyncio.sleep(0, number)) == number
        run_turn(loop)


@pytest.mark.smoke
def test_is_running_and_the_running_loop(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        assert loop.is_running()
        assert asyncio.get_running_loop() is loop
        assert "running=True" in repr(loop)

    assert not loop.is_running()
    assert "running=False closed=False debug=False" in repr(loop)
    loop.run_until_complete(main())
    assert not loop.is_running()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_is_running_is_seen_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    with LoopThread(loop):
        assert loop.is_running()
    assert not loop.is_running()


# run_until_complete


def test_run_until_complete_takes_awaitables(loop: asyncio.AbstractEventLoop) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return asyncio.sleep(0, "awaited").__await__()

    future = loop.create_future()
    loop.call_soon(future.set_result, "future")
    assert loop.run_until_complete(future) == "future"
    assert loop.run_until_complete(Awaitable()) == "awaited"
    assert loop.run_until_complete(loop.create_task(asyncio.sleep(0, "task"))) == "task"


def test_run_until_complete_raises_what_the_coroutine_raises(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("told")

    with pytest.raises(ZeroDivisionError, match="told"):
        loop.run_until_complete(fails())
    assert loop.run_until_complete(asyncio.sleep(0, "well")) == "well"


def test_run_until_complete_says_when_the_loop_was_stopped(
    loop: asyncio.AbstractEventLoop,
) -> None:
    loop.call_soon(loop.stop)
    task = loop.create_task(asyncio.sleep(10_000))
    with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_run_until_complete_refuses_what_it_cannot_await(loop: Any) -> None:
    for nothing in (1, None, print):
        with pytest.raises(TypeError):
            loop.run_until_complete(nothing)


def test_run_until_complete_refuses_another_loop_s_future(
    loop: asyncio.AbstractEventLoop, loop_factory: LoopFactory
) -> None:
    other = loop_factory()
    with pytest.raises(ValueError, match="future belongs to a different loop"):
        loop.run_until_complete(other.create_future())
    other.close()


# Two runs at once


@pytest.mark.parametrize("how", ["run_forever", "run_until_complete"])
def test_a_run_within_its_own_run_is_refused(loop: asyncio.AbstractEventLoop, how: str) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            _run(loop, how)

    loop.run_until_complete(main())


@pytest.mark.parametrize("how", ["run_forever", "run_until_complete"])
def test_a_run_within_another_loop_s_run_is_refused(
    loop: asyncio.AbstractEventLoop, loop_factory: LoopFactory, how: str
) -> None:
    other = loop_factory()

    async def main() -> None:
        with pytest.raises(
            RuntimeError, match="Cannot run the event loop while another loop is running"
        ):
            _run(other, how)

    loop.run_until_complete(main())
    other.close()


@pytest.mark.smoke
@pytest.mark.parametrize("how", ["run_forever", "run_until_complete"])
def test_a_run_from_a_second_thread_is_refused(loop: asyncio.AbstractEventLoop, how: str) -> None:
    with LoopThread(loop) as thread:
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            _run(loop, how)
        assert thread.run(asyncio.sleep(0, "goes on")) == "goes on"


@pytest.mark.loop_pool_only
def test_of_many_threads_one_runs_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(4, timeout=HANG)
    refused = threading.Semaphore(0)

    def run() -> None:
        start.wait()
        try:
            loop.run_forever()
        except RuntimeError as exc:
            outcomes.append(str(exc))
            refused.release()
        else:
            outcomes.append("ran")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for _ in range(3):
        assert refused.acquire(timeout=HANG)
    loop.call_soon_threadsafe(loop.stop)
    for each in threads:
        each.join(HANG)
    assert sorted(outcomes) == ["This event loop is already running"] * 3 + ["ran"]


def _run(loop: asyncio.AbstractEventLoop, how: str) -> None:
    if how == "run_forever":
        loop.run_forever()
    else:
        loop.run_until_complete(loop.create_future())


# Closing


@pytest.mark.loop_pool_only
def test_closing_a_loop_makes_no_handles_of_what_it_drops(loop: Any) -> None:
    """asyncio clears its two queues, which are views here: there may be very much in them."""

    class Asked(type(loop)):  # type: ignore[misc]
        views = 0

        def _queues(self) -> Any:
            Asked.views += 1
            return super()._queues()

    other = Asked()
    other.call_soon(int)
    other.call_later(1000, int)
    assert len(other._ready) == len(other._scheduled) == 1
    Asked.views = 0
    other.close()
    assert not other._ready
    assert not other._scheduled
    assert Asked.views == 0


def test_a_running_loop_cannot_be_closed(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_closed()
    with LoopThread(loop):
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()


def test_closing_twice_is_closing_once(loop: asyncio.AbstractEventLoop) -> None:
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()
    assert "closed=True" in repr(loop)
    loop.close()
    assert loop.is_closed()


@pytest.mark.smoke
def test_closing_gives_the_descriptors_back(loop_factory: LoopFactory) -> None:
    async def main() -> None:
        async with await asyncio.start_server(_ignore, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await asyncio.to_thread(int)

    before = open_descriptors()
    for _ in range(5):
        loop = loop_factory()
        loop.run_until_complete(main())
        shut_down(loop)
        del loop
        assert_descriptors(before)


def test_a_loop_that_never_ran_gives_its_descriptors_back(loop_factory: LoopFactory) -> None:
    before = open_descriptors()
    loops = [loop_factory() for _ in range(20)]
    assert len(open_descriptors()) > len(before)
    for loop in loops:
        loop.close()
    assert_descriptors(before)


def test_an_unclosed_loop_warns_and_gives_its_descriptors_back(loop_factory: LoopFactory) -> None:
    before = open_descriptors()
    loop = loop_factory()
    text = repr(loop)
    with pytest.warns(ResourceWarning) as caught:  # noqa: PT031 - either may be what drops it.
        del loop
        gc.collect()
    assert [str(each.message) for each in caught] == [f"unclosed event loop {text}"]
    assert_descriptors(before)


def _ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _nothing() -> None:
    """Ends at once."""


def _await(make: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[Any], object]:
    """Drives a coroutine of a closed loop by hand, to its first wait."""

    def drive(loop: Any) -> object:
        coroutine = make(loop)
        try:
            return coroutine.send(None)
        finally:
            coroutine.close()

    return drive


def _create_task(loop: Any) -> object:
    coroutine = _nothing()
    try:
        return loop.create_task(coroutine)
    finally:
        coroutine.close()


def _run_nothing(loop: Any) -> object:
    coroutine = _nothing()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        coroutine.close()


ON_CLOSED: dict[str, Callable[[Any], object]] = {
    "add_reader": lambda loop: loop.add_reader(0, print),
    "add_writer": lambda loop: loop.add_writer(0, print),
    "add_signal_handler": lambda loop: loop.add_signal_handler(10, print),
    "call_at": lambda loop: loop.call_at(0, print),
    "call_exception_handler": lambda loop: loop.call_exception_handler({"message": "x"}),
    "call_later": lambda loop: loop.call_later(0, print),
    "call_soon": lambda loop: loop.call_soon(print),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(print),
    "create_future": lambda loop: loop.create_future().done(),
    "create_task": _create_task,
    "get_debug": lambda loop: loop.get_debug(),
    "get_exception_handler": lambda loop: loop.get_exception_handler() is None,
    "get_task_factory": lambda loop: loop.get_task_factory(),
    "is_closed": lambda loop: loop.is_closed(),
    "is_running": lambda loop: loop.is_running(),
    "remove_reader": lambda loop: loop.remove_reader(0),
    "remove_writer": lambda loop: loop.remove_writer(0),
    "remove_signal_handler": lambda loop: loop.remove_signal_handler(10),
    "run_forever": lambda loop: loop.run_forever(),
    "run_in_executor": lambda loop: loop.run_in_executor(None, int),
    "run_until_complete": _run_nothing,
    "set_debug": lambda loop: loop.set_debug(False),
    "set_task_factory": lambda loop: loop.set_task_factory(None),
    "sock_accept": _await(lambda loop: loop.sock_accept(None)),
    "stop": lambda loop: loop.stop(),
    "time": lambda loop: loop.time() > 0,
    "getaddrinfo": _await(lambda loop: loop.getaddrinfo("localhost", 1)),
    "shutdown_asyncgens": _await(lambda loop: loop.shutdown_asyncgens()),
    "shutdown_default_executor": _await(lambda loop: loop.shutdown_default_executor()),
}


def _outcome(call: Callable[[Any], object], loop: object) -> tuple[object, str]:
    try:
        return "returned", repr(call(loop))
    except BaseException as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize("method", ON_CLOSED)
def test_a_closed_loop_s_methods_do_what_asyncio_s_do(
    loop_factory: LoopFactory, logged_errors: list[str], method: str
) -> None:
    ours, oracle = loop_factory(), asyncio.SelectorEventLoop()
    for loop in (ours, oracle):
        loop.set_exception_handler(lambda *_: None)
        loop.close()
    assert _outcome(ON_CLOSED[method], ours) == _outcome(ON_CLOSED[method], oracle)


# Asynchronous generators and executors


def test_asynchronous_generators_are_closed(loop: asyncio.AbstractEventLoop) -> None:
    closed: list[str] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    async def main() -> None:
        await anext(generators[0])
        async for _ in numbers("dropped"):
            break
        gc.collect()
        await eventually(lambda: bool(closed), "the generator is closed")
        assert closed == ["dropped"]

    generators = [numbers("kept")]
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == ["dropped", "kept"]


def test_a_generator_dropped_in_another_thread_is_closed_on_the_loop(
    loop: asyncio.AbstractEventLoop,
) -> None:
    closed_in: list[int] = []
    generators: list[AsyncIterator[int]] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed_in.append(threading.get_ident())

    def drop() -> None:
        generators.clear()
        gc.collect()

    async def main() -> None:
        generators.append(numbers())
        await anext(generators[0])
        await asyncio.to_thread(drop)
        await eventually(lambda: bool(closed_in), "the generator is closed")

    loop.run_until_complete(asyncio.wait_for(main(), HANG))
    assert closed_in == [threading.get_ident()]


def test_a_generator_begun_after_the_shutdown_warns(loop: asyncio.AbstractEventLoop) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def main() -> None:
        await loop.shutdown_asyncgens()
        generator = numbers()
        with pytest.warns(ResourceWarning, match="was scheduled after"):
            await anext(generator)
        await generator.aclose()  # type: ignore[attr-defined]

    loop.run_until_complete(main())


def test_the_generator_hooks_of_the_thread_are_put_back(loop: asyncio.AbstractEventLoop) -> None:
    import sys

    def hook(_: object) -> None:
        """Only compared."""

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=hook, finalizer=hook)
    try:
        run_turn(loop)
        assert sys.get_asyncgen_hooks() == (hook, hook)
    finally:
        sys.set_asyncgen_hooks(*before)


def test_the_default_executor_is_shut_down(loop: asyncio.AbstractEventLoop) -> None:
    before = threading.active_count()
    assert loop.run_until_complete(asyncio.to_thread(int, "5")) == 5
    loop.run_until_complete(loop.shutdown_default_executor())
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)


def test_a_task_pending_at_the_close_is_dropped_with_a_message(
    loop_factory: LoopFactory, logged_errors: list[str]
) -> None:
    loop = loop_factory()
    task = loop.create_task(_nothing(), name="pending")
    gone = weakref.ref(task)
    loop.close()
    with pytest.warns(RuntimeWarning, match="never awaited"):  # noqa: PT031 - as above.
        del task, loop
        gc.collect()
    assert gone() is None
    (message,) = logged_errors
    assert message.startswith("Task was destroyed but it is pending!")
    logged_errors.clear()


def test_closing_in_another_thread_is_allowed(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))
    in_thread(loop.close)
    assert loop.is_closed()
