"""Handles are asyncio's as far as anyone can see."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ..support import LoopFactory, LoopThread, in_thread, run_turn


class Thing:
    """Something that can be watched dying."""


def a_callback(*_: object) -> None:
    """What handles are made of."""


MAKE: dict[str, Callable[..., asyncio.Handle]] = {
    "call_soon": lambda loop, *args, **more: loop.call_soon(*args, **more),
    "call_soon_threadsafe": lambda loop, *args, **more: loop.call_soon_threadsafe(*args, **more),
    "call_later": lambda loop, *args, **more: loop.call_later(0, *args, **more),
    "call_at": lambda loop, *args, **more: loop.call_at(loop.time(), *args, **more),
}
makers = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
type Make = Callable[..., asyncio.Handle]


@pytest.mark.smoke
@makers
def test_handles_are_asyncio_s(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    handle = make(loop, a_callback)
    timed = make in {MAKE["call_later"], MAKE["call_at"]}
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) is timed
    assert hasattr(handle, "when") is timed


@makers
def test_cancel_is_idempotent_and_seen(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    handle = make(loop, a_callback)
    assert handle.cancelled() is False
    assert handle.cancel() is None  # type: ignore[func-returns-value]
    assert handle.cancelled() is True
    handle.cancel()
    assert handle.cancelled() is True


@makers
def test_cancel_after_the_run_changes_nothing(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    ran: list[int] = []
    handle = make(loop, ran.append, 1)
    run_turn(loop)
    run_turn(loop)
    assert ran == [1]
    assert handle.cancelled() is False
    handle.cancel()
    assert handle.cancelled() is True
    run_turn(loop)
    assert ran == [1]


@makers
def test_cancel_after_the_loop_has_closed(loop_factory: LoopFactory, make: Make) -> None:
    loop = loop_factory()
    handle = make(loop, a_callback)
    loop.close()
    handle.cancel()
    assert handle.cancelled()
    assert "cancelled" in repr(handle)


@pytest.mark.smoke
@makers
def test_cancel_releases_callback_and_arguments_at_once(
    loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    class Callable_:
        def __call__(self, *_: object) -> None:
            """Never called."""

    callback, argument = Callable_(), Thing()
    gone = weakref.ref(callback), weakref.ref(argument)
    handle = make(loop, callback, argument)
    del callback, argument
    gc.collect()
    assert all(each() is not None for each in gone)
    handle.cancel()
    assert [each() for each in gone] == [None, None]


def test_cancelled_far_timers_are_not_kept_by_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    things = [Thing() for _ in range(1_000)]
    gone = [weakref.ref(thing) for thing in things]
    handles = [loop.call_later(1e6, a_callback, thing) for thing in things]
    del things
    for handle in handles:
        handle.cancel()
    del handle
    assert all(each() is None for each in gone)


@pytest.mark.loop_pool_only
def test_a_cancelled_timer_s_handle_is_released_at_once(loop: asyncio.AbstractEventLoop) -> None:
    handle = loop.call_later(1e6, a_callback)
    loop.call_later(1, a_callback)
    gone = weakref.ref(handle)
    handle.cancel()
    del handle
    gc.collect()
    assert gone() is None


@makers
def test_cancel_from_another_thread(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    ran: list[str] = []
    handle = make(loop, ran.append, "cancelled")
    in_thread(handle.cancel)
    assert handle.cancelled()
    run_turn(loop)
    run_turn(loop)
    assert ran == []


def test_a_far_timer_cancelled_from_another_thread_while_the_loop_runs(
    loop: asyncio.AbstractEventLoop,
) -> None:
    handles = [loop.call_later(1000 + number, a_callback) for number in range(100)]
    with LoopThread(loop) as thread:
        thread.wait_parked()
        for handle in handles:
            handle.cancel()
        thread.run(asyncio.sleep(0.001))
    assert all(handle.cancelled() for handle in handles)


@makers
def test_handles_keep_their_context(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    context = contextvars.copy_context()
    assert make(loop, a_callback, context=context).get_context() is context
    variable = contextvars.ContextVar[int]("variable")

    def inside() -> int:
        variable.set(5)
        return make(loop, a_callback).get_context()[variable]

    assert contextvars.copy_context().run(inside) == 5


@makers
def test_handles_can_be_referred_to_weakly_and_die(
    loop: asyncio.AbstractEventLoop, make: Make
) -> None:
    handle = make(loop, a_callback)
    gone = weakref.ref(handle)
    assert gone() is handle
    run_turn(loop)
    run_turn(loop)
    del handle
    gc.collect()
    assert gone() is None


def test_a_posted_handle_runs_and_dies_though_it_is_referred_to_weakly(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ran: list[int] = []
    gone = in_thread(lambda: weakref.ref(loop.call_soon_threadsafe(ran.append, 1)))
    assert gone() is not None
    run_turn(loop)
    run_turn(loop)
    gc.collect()
    assert ran == [1]
    assert gone() is None


def test_a_posted_callback_that_raises_is_reported_with_its_handle(
    loop: asyncio.AbstractEventLoop,
) -> None:
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))

    def fails(number: int) -> None:
        raise ZeroDivisionError(number)

    in_thread(lambda: loop.call_soon_threadsafe(fails, 3) and None)
    run_turn(loop)
    run_turn(loop)
    (report,) = reports
    assert isinstance(report["exception"], ZeroDivisionError)
    assert "fails() at" in repr(report["handle"])


def test_plain_handles_compare_by_identity(loop: asyncio.AbstractEventLoop) -> None:
    first, second = loop.call_soon(a_callback), loop.call_soon(a_callback)
    assert first == first  # noqa: PLR0124
    assert first != second
    assert len({first, second, first}) == 2
    with pytest.raises(TypeError):
        first < second  # type: ignore[operator]  # noqa: B015


# repr


def test_the_repr_of_a_handle(loop: asyncio.AbstractEventLoop) -> None:
    place = f"at {__file__}:{a_callback.__code__.co_firstlineno}"
    handle = loop.call_soon(a_callback, "secret")
    assert repr(handle) == f"<Handle a_callback() {place}>"
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"


def test_the_repr_of_a_timer(loop: asyncio.AbstractEventLoop) -> None:
    place = f"at {__file__}:{a_callback.__code__.co_firstlineno}"
    handle = loop.call_at(1234.5, a_callback, "secret")
    assert repr(handle) == f"<TimerHandle when=1234.5 a_callback() {place}>"
    handle.cancel()
    assert repr(handle) == "<TimerHandle cancelled when=1234.5>"


def test_the_repr_in_debug_mode(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_debug(True)
    place = f"at {__file__}:{a_callback.__code__.co_firstlineno}"
    handle = loop.call_soon(a_callback, "shown", 1)
    assert repr(handle).startswith(f"<Handle a_callback('shown', 1) {place} created at {__file__}:")
    timer = loop.call_at(1234.5, a_callback, "shown")
    assert repr(timer).startswith(
        f"<TimerHandle when=1234.5 a_callback('shown') {place} created at {__file__}:"
    )
    before = repr(handle)
    handle.cancel()
    assert repr(handle) == before.replace("<Handle ", "<Handle cancelled ")


def test_the_repr_of_a_threadsafe_handle_names_its_callback(
    loop: asyncio.AbstractEventLoop,
) -> None:
    handle = loop.call_soon_threadsafe(a_callback)
    assert "Handle a_callback() at " in repr(handle)


@pytest.mark.parametrize(
    "callback", [print, [].append, "x".join, Thing], ids=["function", "method", "slot", "class"]
)
def test_the_repr_of_callbacks_that_are_no_functions(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., Any]
) -> None:
    handle = loop.call_soon(callback)
    assert repr(handle).startswith("<Handle ")
    assert callback.__qualname__ in repr(handle)
    handle.cancel()


@makers
def test_the_repr_after_the_run(loop: asyncio.AbstractEventLoop, make: Make) -> None:
    handle = make(loop, a_callback)
    run_turn(loop)
    run_turn(loop)
    assert "Handle" in repr(handle)
    assert "cancelled" not in repr(handle)


# Comparison of timers


def test_timers_are_ordered_by_their_time(loop: asyncio.AbstractEventLoop) -> None:
    early = loop.call_at(1000, a_callback)
    late = loop.call_at(2000.5, a_callback)
    assert (early.when(), late.when()) == (1000, 2000.5)
    assert early < late
    assert early <= late
    assert late > early
    assert late >= early
    assert early != late
    assert not early > late
    assert not early >= late
    assert sorted([late, early]) == [early, late]


def test_equal_timers(loop: asyncio.AbstractEventLoop) -> None:
    first = loop.call_at(1000, a_callback, 1)
    same = loop.call_at(1000, a_callback, 1)
    other = loop.call_at(1000, a_callback, 2)
    assert first == same
    assert first <= same
    assert first >= same
    assert not first < same
    assert hash(first) == hash(same)
    assert first != other
    assert not first <= other
    same.cancel()
    assert first != same


def test_timers_do_not_compare_with_other_things(loop: asyncio.AbstractEventLoop) -> None:
    timer, handle = loop.call_at(1000, a_callback), loop.call_soon(a_callback)
    assert timer != handle
    assert timer != 1000
    for other in (handle, 1000, None):
        for compare in (timer.__lt__, timer.__le__, timer.__gt__, timer.__ge__, timer.__eq__):
            assert compare(other) is NotImplemented  # type: ignore[operator,arg-type,unused-ignore]
    with pytest.raises(TypeError):
        timer < 1000  # type: ignore[operator]  # noqa: B015


def test_our_timers_compare_with_asyncio_s(loop: asyncio.AbstractEventLoop) -> None:
    ours = loop.call_at(1000, a_callback)
    theirs = asyncio.TimerHandle(2000, a_callback, (), loop)
    assert ours < theirs
    assert theirs > ours
    assert ours != theirs
    assert asyncio.TimerHandle(1000, a_callback, (), loop) == ours


# Handles made by others


def test_a_handle_made_directly_can_be_queued(loop: Any) -> None:
    ran: list[int] = []
    handle = asyncio.Handle(ran.append, (1,), loop)
    cancelled = asyncio.Handle(ran.append, (2,), loop)
    cancelled.cancel()
    loop._add_callback(handle)
    loop._add_callback(cancelled)
    run_turn(loop)
    assert ran == [1]


def test_a_subclass_s_handle_s_own_run_is_called(loop: Any) -> None:
    ran: list[str] = []

    class CustomHandle(asyncio.Handle):
        def _run(self) -> None:
            ran.append("mine")

    loop._add_callback(CustomHandle(a_callback, (), loop))
    run_turn(loop)
    assert ran == ["mine"]


def test_a_timer_made_directly_can_be_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    timer = asyncio.TimerHandle(1000, a_callback, (), loop)
    timer.cancel()
    assert timer.cancelled()


# What a handle holds


@pytest.mark.smoke
@pytest.mark.parametrize("debug", [False, True])
@makers
def test_a_handle_lets_go_of_all_that_its_slots_hold(
    loop: asyncio.AbstractEventLoop, make: Make, debug: bool
) -> None:
    loop.set_debug(debug)
    handle = make(loop, a_callback)
    held = [weakref.ref(handle._lock)] if hasattr(handle, "_lock") else []
    run_turn(loop)
    slots = [slot for kind in type(handle).__mro__ for slot in getattr(kind, "__slots__", ())]
    assert {"_callback", "_args", "_context", "_loop", "_repr"} <= set(slots)
    for slot in slots:
        if slot != "__weakref__":
            thing = Thing()
            held.append(weakref.ref(thing))
            setattr(handle, slot, thing)
            del thing
    del handle
    gc.collect()
    assert [reference() for reference in held] == [None] * len(held)
