"""Where other loops went wrong: callbacks, exceptions, contexts, task factories.

Each test stands for a defect that one of the peers was seen to have.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, LoopThread, run_turn

if TYPE_CHECKING:
    from collections.abc import Coroutine

SHADE = contextvars.ContextVar[str]("SHADE", default="none")


# Cancelled callbacks


@pytest.mark.smoke
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_cancelled_callback_does_not_run(loop: asyncio.AbstractEventLoop, count: int) -> None:
    ran: list[tuple[int, ...]] = []

    def callback(*args: int) -> None:
        ran.append(args)

    kept = loop.call_soon(callback, *range(count))
    handle = loop.call_soon(callback, *range(10, 10 + count))
    timer = loop.call_later(0, callback, *range(20, 20 + count))
    threadsafe = loop.call_soon_threadsafe(callback, *range(30, 30 + count))
    for each in (handle, timer, threadsafe):
        assert not each.cancelled()
        each.cancel()
        assert each.cancelled()
    run_turn(loop)
    run_turn(loop)
    assert ran == [tuple(range(count))]
    assert not kept.cancelled()


def test_a_callback_cancelled_by_one_of_its_own_turn_does_not_run(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ran: list[str] = []
    handles: list[asyncio.Handle] = []

    def cancel() -> None:
        handles[0].cancel()

    loop.call_soon(cancel)
    handles.append(loop.call_soon(ran.append, "victim"))
    loop.call_soon(ran.append, "bystander")
    run_turn(loop)
    assert ran == ["bystander"]


def test_a_callback_may_cancel_its_own_handle(loop: asyncio.AbstractEventLoop) -> None:
    ran: list[object] = []

    def callback(argument: object) -> None:
        handle.cancel()
        ran.append(argument)

    handle = loop.call_soon(callback, "argument")
    run_turn(loop)
    assert ran == ["argument"]
    assert handle.cancelled()


# Exceptions from callbacks


@pytest.mark.smoke
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_soon_threadsafe", "reader"])
def test_exits_from_callbacks_end_the_run(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException], how: str
) -> None:
    ran: list[str] = []

    def leave() -> None:
        ran.append("leave")
        raise kind(3)

    near, far = socket.socketpair()
    with near, far:
        if how == "call_soon":
            loop.call_soon(leave)
        elif how == "call_later":
            loop.call_later(0, leave)
        elif how == "call_soon_threadsafe":
            loop.call_soon_threadsafe(leave)
        else:
            far.send(b"x")
            loop.add_reader(near, leave)
        with pytest.raises(kind) as seen:
            loop.run_forever()
        loop.remove_reader(near)
    assert seen.value.args == (3,)
    assert not loop.is_running()
    run_turn(loop)
    assert ran == ["leave"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_from_tasks_end_the_run(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise kind(4)

    with pytest.raises(kind) as seen:
        loop.run_until_complete(leave())
    assert seen.value.args == (4,)
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0, "runs again")) == "runs again"


def test_callbacks_behind_an_exit_run_in_the_next_run(loop: asyncio.AbstractEventLoop) -> None:
    ran: list[int] = []

    def leave() -> None:
        raise SystemExit

    loop.call_soon(ran.append, 1)
    loop.call_soon(leave)
    loop.call_soon(ran.append, 2)
    loop.call_soon(ran.append, 3)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert ran == [1]
    run_turn(loop)
    assert ran == [1, 2, 3]


@pytest.mark.smoke
def test_an_exception_in_a_callback_is_reported_and_survived(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    ran: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError("told")

    handle = loop.call_soon(fails)
    loop.call_soon(ran.append, "next")
    run_turn(loop)
    assert ran == ["next"]
    (context,) = reported
    assert str(context["exception"]) == "told"
    assert context["message"].startswith("Exception in callback ")
    assert "fails" in context["message"]
    assert context["handle"] is handle


def test_cancelled_error_from_a_callback_is_reported_too(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    def fails() -> None:
        raise asyncio.CancelledError

    loop.call_soon(fails)
    run_turn(loop)
    assert isinstance(reported[0]["exception"], asyncio.CancelledError)


def test_the_default_handler_logs(
    loop: asyncio.AbstractEventLoop, logged_errors: list[str]
) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    loop.call_soon(fails)
    run_turn(loop)
    (message,) = logged_errors
    assert message.startswith("Exception in callback ")
    assert "handle: <Handle" in message
    logged_errors.clear()


def test_a_handler_may_replace_itself_while_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def second(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append(f"second {context['exception']}")

    def first(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        assert loop.get_exception_handler() is first
        loop.set_exception_handler(second)
        seen.append(f"first {context['exception']}")

    def fails(text: str) -> None:
        raise ZeroDivisionError(text)

    loop.set_exception_handler(first)
    loop.call_soon(fails, "a")
    loop.call_soon(fails, "b")
    run_turn(loop)
    assert seen == ["first a", "second b"]
    assert loop.get_exception_handler() is second
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


def test_a_handler_that_raises_is_itself_reported(
    loop: asyncio.AbstractEventLoop, logged_errors: list[str]
) -> None:
    def handler(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
        raise ZeroDivisionError

    loop.set_exception_handler(handler)
    loop.call_exception_handler({"message": "first"})
    (message,) = logged_errors
    assert "Unhandled error in exception handler" in message
    logged_errors.clear()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_from_the_handler_end_the_run(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    def handler(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
        raise kind

    def fails() -> None:
        raise ZeroDivisionError

    loop.set_exception_handler(handler)
    loop.call_soon(fails)
    with pytest.raises(kind):
        loop.run_forever()


# Protocols that fail


class Failing(asyncio.Protocol):
    """Raises at the event that its name says; keeps what became of the connection."""

    def __init__(self, at: str, lost: asyncio.Future[Exception | None]) -> None:
        self.at = at
        self.lost = lost

    def data_received(self, data: bytes) -> None:
        if self.at == "data_received":
            raise ZeroDivisionError("in data_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def test_a_protocol_that_raises_in_data_received_loses_its_connection(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        lost = loop.create_future()
        server = await loop.create_server(lambda: Failing("data_received", lost), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            assert str(await lost) == "in data_received"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), HANG))
    (context,) = reported
    assert "data_received" in context["message"]
    assert str(context["exception"]) == "in data_received"
    assert isinstance(context["protocol"], Failing)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio drops that socket unclosed.
def test_a_protocol_factory_that_raises_costs_one_connection(
    loop: asyncio.AbstractEventLoop, logged_errors: list[str]
) -> None:
    async def main() -> None:
        lost = loop.create_future()
        made: list[asyncio.Protocol] = []

        def factory() -> asyncio.Protocol:
            made.append(Failing("never", lost))
            if len(made) == 1:
                raise ZeroDivisionError("in the factory")
            return made[-1]

        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            assert await _read_to_end(reader) == b""
            writer.close()
            _, second = await asyncio.open_connection(*address)
            second.close()
            assert await lost is None
        assert len(made) == 2

    loop.run_until_complete(asyncio.wait_for(main(), HANG))
    # asyncio says so in debug mode only; nothing is swallowed here.
    assert all("Error on transport creation" in message for message in logged_errors)
    assert isinstance(loop, asyncio.SelectorEventLoop)
    if type(loop) is not asyncio.SelectorEventLoop:
        assert len(logged_errors) == 1
    logged_errors.clear()


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


# Context variables


@pytest.mark.smoke
def test_callbacks_run_in_the_context_they_were_made_in(loop: asyncio.AbstractEventLoop) -> None:
    seen: dict[str, str] = {}

    def see(name: str) -> None:
        seen[name] = SHADE.get()

    def schedule(shade: str) -> None:
        SHADE.set(shade)
        loop.call_soon(see, f"soon {shade}")
        loop.call_later(0, see, f"later {shade}")
        loop.call_at(loop.time(), see, f"at {shade}")
        loop.call_soon_threadsafe(see, f"threadsafe {shade}")
        far.send(b"x")
        loop.add_reader(near, see, "reader dark")

    near, far = socket.socketpair()
    with near, far:
        for shade in ("light", "dark"):
            contextvars.copy_context().run(schedule, shade)
        given = contextvars.copy_context()
        given.run(SHADE.set, "given")
        loop.call_soon(see, "soon given", context=given)
        loop.call_later(0, see, "later given", context=given)
        loop.call_soon_threadsafe(see, "threadsafe given", context=given)
        for _ in range(3):
            run_turn(loop)
        loop.remove_reader(near)
    assert len(seen) == 12
    assert all(shade == name.split()[1] for name, shade in seen.items()), seen
    assert SHADE.get() == "none"


def test_what_a_callback_sets_stays_in_its_context(loop: asyncio.AbstractEventLoop) -> None:
    context = contextvars.copy_context()
    loop.call_soon(SHADE.set, "inside", context=context)
    run_turn(loop)
    assert context[SHADE] == "inside"
    assert SHADE.get() == "none"


def test_a_protocol_s_callbacks_share_the_context_of_its_making(
    loop: asyncio.AbstractEventLoop,
) -> None:
    class Watcher(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            seen.append(SHADE.get())

        def data_received(self, data: bytes) -> None:
            seen.append(SHADE.get())

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(SHADE.get())

    async def main() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        SHADE.set("of the making")
        await loop.create_connection(Watcher, sock=near)
        SHADE.set("later")
        with far:
            far.send(b"x")
        assert await lost == "of the making"
        assert seen == ["of the making"] * 2

    seen: list[str] = []
    lost = loop.create_future()
    loop.run_until_complete(asyncio.wait_for(main(), HANG))


def test_an_exception_handler_runs_in_the_context_of_the_callback(
    loop: asyncio.AbstractEventLoop,
) -> None:
    seen: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    loop.set_exception_handler(lambda _, __: seen.append(SHADE.get()))
    context = contextvars.copy_context()
    context.run(SHADE.set, "of the callback")
    loop.call_soon(fails, context=context)
    run_turn(loop)
    assert seen == ["of the callback"]


# Eager tasks


def test_an_eager_task_factory_starts_tasks_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def at_once() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def waits() -> str:
        await asyncio.sleep(0)
        return await at_once()

    async def main() -> None:
        me = asyncio.current_task()
        done = asyncio.create_task(at_once(), name="done")
        assert done.done()
        assert asyncio.current_task() is me
        pending = asyncio.create_task(waits(), name="pending")
        assert not pending.done()
        assert (done.result(), await pending) == ("done", "pending")

    loop.set_task_factory(asyncio.eager_task_factory)
    loop.run_until_complete(main())


def test_eager_start_starts_one_task_at_once(loop: asyncio.AbstractEventLoop) -> None:
    started: list[str] = []

    async def task(name: str) -> None:
        started.append(name)

    async def main() -> None:
        eager = loop.create_task(task("eager"), eager_start=True)
        assert eager.done()
        lazy = loop.create_task(task("lazy"))
        assert started == ["eager"]
        await lazy

    loop.run_until_complete(main())


# The clock


@pytest.mark.smoke
def test_the_loop_s_time_is_the_monotonic_clock(loop: asyncio.AbstractEventLoop) -> None:
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()
    assert isinstance(now, float)


def test_the_current_task_is_the_one_that_runs(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[str, object]] = []

    def see(where: str) -> None:
        seen.append((where, asyncio.current_task(loop)))

    async def child() -> None:
        see("first step")
        await asyncio.sleep(0)
        see("second step")

    async def main() -> None:
        task = asyncio.create_task(child())
        loop.call_soon(see, "callback")
        await task
        assert seen == [("first step", task), ("callback", None), ("second step", task)]

    loop.run_until_complete(main())


def test_a_future_is_resolved_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    async def main(future: asyncio.Future[int]) -> int:
        return await future

    def waiting(coroutine: Coroutine[Any, Any, int]) -> int:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(HANG)

    future = loop.create_future()
    with LoopThread(loop) as thread:
        thread.wait_parked()
        loop.call_soon_threadsafe(future.set_result, 7)
        assert waiting(main(future)) == 7
