"""Each callback runs in a context of its own, a copy of the one that it was scheduled in."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import operator
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import loop_pool

from ..support import in_thread, run_turn

IN_A_ROW = 12
"""More than those that get a copy each before the native half makes one for several."""

variable = contextvars.ContextVar[Any]("variable", default="unset")

MAKE: dict[str, Callable[..., asyncio.Handle]] = {
    "call_soon": lambda loop, *args: loop.call_soon(*args),
    "call_soon_threadsafe": lambda loop, *args: loop.call_soon_threadsafe(*args),
    "posted": lambda loop, *args: in_thread(
        partial(contextvars.copy_context().run, loop.call_soon_threadsafe, *args)
    ),
    "call_later": lambda loop, *args: loop.call_later(0, *args),
}
makers = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
type Make = Callable[..., asyncio.Handle]

befores = pytest.mark.parametrize("before", ["unset", "mine"], ids=["no variables", "variables"])
"""What the variable is before anything is scheduled."""


class Value:
    """A value that can be looked for."""


def begin(before: str) -> None:
    """Give the variable its value."""
    if before != "unset":
        variable.set(before)


def run_in(loop: asyncio.AbstractEventLoop, schedule: Callable[[], object]) -> None:
    """Call a function in a context without variables, and then what it schedules."""
    loop.call_soon(schedule, context=contextvars.Context())
    for _ in range(3):
        run_turn(loop)


@pytest.mark.smoke
@makers
@befores
def test_what_a_callback_sets_is_seen_by_none_of_the_others(
    loop: asyncio.AbstractEventLoop, make: Make, before: str
) -> None:
    seen: list[object] = []

    def callback(number: int) -> None:
        seen.append(variable.get())
        if number % 3 == 1:
            variable.set(number)

    def schedule() -> None:
        begin(before)
        for number in range(IN_A_ROW):
            make(loop, callback, number)

    run_in(loop, schedule)
    assert seen == [before] * IN_A_ROW
    assert variable.get() == "unset"


@pytest.mark.smoke
def test_a_callback_sees_what_was_set_when_it_was_scheduled(
    loop: asyncio.AbstractEventLoop,
) -> None:
    seen: list[object] = []

    def schedule() -> None:
        for value in ["first", "second", "second", "first"]:
            variable.set(value)
            for _ in range(IN_A_ROW):
                loop.call_soon(lambda: seen.append(variable.get()))
        variable.set("late")

    run_in(loop, schedule)
    assert seen == [
        value for value in ["first", "second", "second", "first"] for _ in range(IN_A_ROW)
    ]


def test_a_chain_of_callbacks_hands_on_what_each_has_set(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def callback(number: int) -> None:
        seen.append(variable.get())
        if number == 2 * IN_A_ROW:
            loop.stop()
            return
        if number > IN_A_ROW:
            variable.set(number)
        loop.call_soon(callback, number + 1)
        variable.set("after it was scheduled")

    loop.call_soon(callback, 0)
    loop.run_forever()
    assert seen == ["unset"] * (IN_A_ROW + 2) + list(range(IN_A_ROW + 1, 2 * IN_A_ROW))


def test_a_callback_that_is_run_once_more_has_its_context(loop: asyncio.AbstractEventLoop) -> None:
    handles: list[Any] = []

    def schedule() -> None:
        handles.extend(make(loop, variable.set, "set") for make in MAKE.values())
        for handle in handles:
            handle._run()

    run_in(loop, schedule)
    assert [handle.get_context()[variable] for handle in handles] == ["set"] * len(MAKE)
    assert variable not in contextvars.Context()


def test_a_token_is_of_no_use_to_another_callback(loop: asyncio.AbstractEventLoop) -> None:
    value, tokens, refused = object(), list[contextvars.Token[Any]](), list[str]()

    def keep() -> None:
        tokens.append(variable.set(value))  # it is that already

    def reset() -> None:
        try:
            variable.reset(tokens[0])
        except ValueError as error:
            refused.append(str(error))

    def schedule() -> None:
        variable.set(value)
        for number in range(IN_A_ROW):
            loop.call_soon(reset if number == IN_A_ROW - 1 else keep)

    run_in(loop, schedule)
    assert "different Context" in refused[0]


@makers
@befores
def test_handles_that_are_kept_show_contexts_of_their_own(
    loop: asyncio.AbstractEventLoop, make: Make, before: str
) -> None:
    handles: list[asyncio.Handle] = []
    seen: list[object] = []

    def callback(number: int) -> None:
        seen.append(variable.get())
        variable.set(number)

    def schedule() -> None:
        begin(before)
        handles.extend(make(loop, callback, number) for number in range(IN_A_ROW))
        handles[-2].get_context().run(variable.set, "given")

    run_in(loop, schedule)
    contexts = [handle.get_context() for handle in handles]
    assert seen == [before] * (IN_A_ROW - 2) + ["given", before]
    assert [context[variable] for context in contexts] == list(range(IN_A_ROW))
    attributes = [handle._context for handle in handles]  # type: ignore[attr-defined]
    assert all(map(operator.is_, attributes, contexts, strict=True))


@makers
def test_a_context_that_was_asked_for_is_the_one_that_the_callback_runs_in(
    loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    contexts: list[contextvars.Context] = []

    def schedule() -> None:
        for number in range(IN_A_ROW):
            handle = make(loop, variable.set, number)
            if number == IN_A_ROW - 1:
                contexts.append(handle.get_context())

    run_in(loop, schedule)
    assert contexts[0][variable] == IN_A_ROW - 1


@makers
def test_a_handle_s_context_may_be_replaced_and_removed(
    loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    handle: Any = make(loop, list)
    context = contextvars.Context()
    handle._context = context
    assert handle.get_context() is context
    del handle._context
    with pytest.raises(AttributeError, match="_context"):
        handle.get_context()
    handle._context = context
    run_turn(loop)


@makers
@befores
def test_the_exception_handler_runs_in_the_context_of_the_callback(
    loop: asyncio.AbstractEventLoop, make: Make, before: str
) -> None:
    seen: list[object] = []
    after: list[object] = []

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append((variable.get(), context["handle"].get_context()[variable]))
        variable.set("by the handler")

    def fails(number: int) -> None:
        after.append(variable.get())
        variable.set(number)
        raise ZeroDivisionError

    def schedule() -> None:
        begin(before)
        for number in range(IN_A_ROW):
            make(loop, fails, number)

    loop.set_exception_handler(handler)
    run_in(loop, schedule)
    assert seen == [(number, number) for number in range(IN_A_ROW)]
    assert after == [before] * IN_A_ROW


def test_callbacks_from_many_contexts_in_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[int, object]] = []

    async def schedules(number: int) -> None:
        variable.set(number)
        for _ in range(IN_A_ROW):
            loop.call_soon(lambda: seen.append((number, variable.get())))
            if number % 2:
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(schedules, range(8)))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert len(seen) == 8 * IN_A_ROW
    assert all(number == value for number, value in seen)


def test_a_value_does_not_outlive_the_callbacks(loop: asyncio.AbstractEventLoop) -> None:
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)

    def schedule(value: Value) -> None:
        variable.set(value)
        for _ in range(IN_A_ROW):
            loop.call_soon(list)

    async def main() -> None:
        await asyncio.sleep(0.01)

    loop.call_soon(schedule, value)
    del value
    loop.run_until_complete(main())
    gc.collect()
    assert gone() is None


def test_a_pending_callback_keeps_its_value_alive(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def schedule() -> None:
        variable.set(["a value"])
        for _ in range(IN_A_ROW):
            loop.call_soon(lambda: seen.append(variable.get()))
        loop.stop()

    loop.call_soon(schedule)
    loop.run_forever()
    gc.collect()
    run_turn(loop)
    assert seen == [["a value"]] * IN_A_ROW


def is_free_threaded() -> bool:
    """Whether this interpreter runs without the GIL."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.mark.loop_pool_only
@pytest.mark.skipif(not is_free_threaded(), reason="contexts are shared without the GIL only")
@makers
@befores
def test_a_burst_is_one_object_a_call_to_the_collector(
    loop: asyncio.AbstractEventLoop, make: Make, before: str
) -> None:
    if make is MAKE["posted"] or (before != "unset" and make is not MAKE["call_soon"]):
        pytest.skip("it makes a thread for each, or shares contexts without variables only")
    calls, counts = 500, list[int]()

    def schedule() -> None:
        begin(before)
        objects = len(gc.get_objects())
        for _ in range(calls):
            make(loop, list)
        counts.append(len(gc.get_objects()) - objects)

    with contextlib.ExitStack() as stack:
        gc.disable()
        stack.callback(gc.enable)
        run_in(loop, schedule)
    assert calls <= counts[0] < calls * 1.1


def test_what_a_displaced_writer_sets_stays_its_own(loop: asyncio.AbstractEventLoop) -> None:
    """Its descriptor is closed and used again before it runs, so that its registration is gone."""
    seen: list[object] = []
    kept: list[socket.socket] = []

    def write() -> None:
        seen.append(variable.get("unset"))
        variable.set("set by a writer")

    def start() -> None:
        near, far = socket.socketpair()
        far.send(b"y")
        number = near.fileno()

        def read() -> None:
            near.close()
            kept.extend(socket.socketpair())
            kept.append(far)
            for sock in kept[:2]:
                if sock.fileno() == number:
                    loop.add_reader(number, list)
            loop.call_soon(loop.stop)

        loop.add_writer(number, write)
        loop.add_reader(near, read)

    for _ in range(2):
        contextvars.Context().run(start)
        loop.run_forever()
        for sock in kept:
            # The number was another socket's when asyncio registered it.
            with contextlib.suppress(OSError):
                loop.remove_reader(sock.fileno())
            with contextlib.suppress(OSError):
                loop.remove_writer(sock.fileno())
            sock.close()
        kept.clear()
    assert set(seen) <= {"unset"}


def test_a_value_goes_though_another_thread_has_read_a_context(
    loop: asyncio.AbstractEventLoop,
) -> None:
    handles: list[asyncio.Handle] = []
    value = Value()
    gone = weakref.ref(value)

    def schedule(value: Value) -> None:
        variable.set(value)
        handles.extend(loop.call_soon(list) for _ in range(IN_A_ROW))
        loop.call_soon(read_elsewhere, context=contextvars.Context())

    def read_elsewhere() -> None:
        def read() -> None:
            handles.pop().get_context()

        thread = threading.Thread(target=read)
        contextvars.Context().run(thread.start)
        thread.join()
        handles.clear()

    loop.call_soon(schedule, value, context=contextvars.Context())
    del value
    contextvars.Context().run(loop.run_until_complete, asyncio.sleep(0.01))
    contextvars.Context().run(loop.run_until_complete, asyncio.sleep(0.01))
    gc.collect()
    assert gone() is None


def test_a_loop_goes_that_is_in_what_its_callbacks_share() -> None:
    """A finalizer schedules callbacks when the run has ended."""

    class Scheduling:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop

        def __del__(self) -> None:
            for _ in range(IN_A_ROW):
                self.loop.call_soon(list)

    def start(loop: asyncio.AbstractEventLoop, value: Value) -> None:
        value.loop = loop  # type: ignore[attr-defined]
        variable.set(value)
        loop.call_soon(schedule, loop, context=contextvars.Context())
        loop.run_forever()
        loop.close()

    def schedule(loop: asyncio.AbstractEventLoop) -> None:
        variable.set(Scheduling(loop))
        for _ in range(IN_A_ROW):
            loop.call_soon(list)
        loop.call_soon(loop.stop)

    value = Value()
    gone = weakref.ref(value)
    contextvars.Context().run(start, loop_pool.new_event_loop(), value)
    del value
    for _ in range(3):
        gc.collect()
    assert gone() is None
