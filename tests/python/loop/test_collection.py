"""Nothing keeps what it no longer needs: cycles through handles, timers, readers and loops."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import weakref
from collections.abc import Callable

import pytest

from ..support import LoopFactory, run_turn, shut_down


class Holder:
    """Keeps the handle of a callback to itself, as applications do."""

    def __init__(self) -> None:
        self.handle: object = None
        self.loop: object = None

    def callback(self, *_: object) -> None:
        """What is scheduled."""


type Schedule = Callable[[asyncio.AbstractEventLoop, Holder], asyncio.Handle]

SCHEDULE: dict[str, Schedule] = {
    "call_soon": lambda loop, holder: loop.call_soon(holder.callback),
    "call_soon with arguments": lambda loop, holder: loop.call_soon(holder.callback, holder, 1),
    "call_soon_threadsafe": lambda loop, holder: loop.call_soon_threadsafe(holder.callback),
    "call_later": lambda loop, holder: loop.call_later(0, holder.callback),
    "call_at": lambda loop, holder: loop.call_at(loop.time(), holder.callback, holder),
}
schedules = pytest.mark.parametrize("schedule", SCHEDULE.values(), ids=SCHEDULE.keys())


def _schedule(loop: asyncio.AbstractEventLoop, schedule: Schedule) -> weakref.ref[Holder]:
    """Schedules a callback of a holder that only its own cycle and the loop keep."""
    holder = Holder()
    holder.handle = schedule(loop, holder)
    return weakref.ref(holder)


def _collected(*references: weakref.ref[Holder]) -> bool:
    gc.collect()
    return all(reference() is None for reference in references)


@pytest.mark.smoke
@schedules
def test_an_object_that_keeps_its_handle_is_collected(
    loop: asyncio.AbstractEventLoop, schedule: Schedule
) -> None:
    reference = _schedule(loop, schedule)
    assert not _collected(reference), "pending: the loop keeps it"
    run_turn(loop)
    run_turn(loop)
    assert _collected(reference)


@schedules
def test_an_object_that_keeps_its_cancelled_handle_is_collected(
    loop: asyncio.AbstractEventLoop, schedule: Schedule
) -> None:
    reference = _schedule(loop, schedule)
    holder = reference()
    assert holder is not None
    assert isinstance(holder.handle, asyncio.Handle)
    holder.handle.cancel()
    del holder
    assert _collected(reference)


@schedules
def test_pending_callbacks_are_released_when_the_loop_closes(
    loop_factory: LoopFactory, schedule: Schedule
) -> None:
    loop = loop_factory()
    reference = _schedule(loop, schedule)
    loop.close()
    assert _collected(reference)
    del loop


@schedules
def test_a_loop_dropped_with_pending_callbacks_is_collected(
    loop_factory: LoopFactory, schedule: Schedule
) -> None:
    loop = loop_factory()
    reference = _schedule(loop, schedule)
    holder = reference()
    assert holder is not None
    holder.loop = loop
    gone = weakref.ref(loop)
    del loop, holder
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert reference() is None
    assert gone() is None


def test_a_far_timer_dies_with_its_loop(loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    reference = _schedule(loop, lambda loop, holder: loop.call_later(1e6, holder.callback))
    run_turn(loop)
    assert not _collected(reference)
    loop.close()
    assert _collected(reference)


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_removed_descriptor_s_callback_is_collected(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    add = loop.add_reader if kind == "reader" else loop.add_writer
    remove = loop.remove_reader if kind == "reader" else loop.remove_writer
    near, far = socket.socketpair()
    with near, far:
        holder = Holder()
        add(near, holder.callback, holder)
        reference = weakref.ref(holder)
        del holder
        assert not _collected(reference), "registered: the loop keeps it"
        far.send(b"x")
        run_turn(loop)
        assert remove(near)
        assert _collected(reference)


def test_a_replaced_reader_is_collected(loop: asyncio.AbstractEventLoop) -> None:
    near, far = socket.socketpair()
    with near, far:
        first, second = Holder(), Holder()
        loop.add_reader(near, first.callback)
        loop.add_reader(near, second.callback)
        reference = weakref.ref(first)
        del first
        assert _collected(reference)
        loop.remove_reader(near)


def test_a_registered_reader_is_released_when_the_loop_closes(loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    near, far = socket.socketpair()
    with near, far:
        holder = Holder()
        holder.loop = loop
        loop.add_reader(near, holder.callback)
        reference = weakref.ref(holder)
        loop.close()
        del holder, loop
        assert _collected(reference)


@pytest.mark.smoke
def test_a_closed_loop_is_collected(loop_factory: LoopFactory) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.sleep(0.0001) for _ in range(3)))

    loop = loop_factory()
    loop.run_until_complete(main())
    shut_down(loop)
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


def test_a_closed_loop_that_keeps_itself_is_collected(loop_factory: LoopFactory) -> None:
    gone = _closed_with_cycles(loop_factory())
    gc.collect()
    assert gone() is None


def _closed_with_cycles(
    loop: asyncio.AbstractEventLoop,
) -> weakref.ref[asyncio.AbstractEventLoop]:
    loop.set_exception_handler(lambda *_: loop.stop())
    loop.set_task_factory(lambda _, coro, **more: asyncio.Task(coro, loop=loop, **more))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return weakref.ref(loop)


def test_a_finished_task_and_its_result_are_released(loop: asyncio.AbstractEventLoop) -> None:
    async def make() -> Holder:
        await asyncio.sleep(0)
        return Holder()

    async def main() -> weakref.ref[Holder]:
        return weakref.ref(await asyncio.create_task(make()))

    assert _collected(loop.run_until_complete(main()))


def test_a_callback_s_exception_is_released(
    loop: asyncio.AbstractEventLoop,
) -> None:
    def fails() -> None:
        holder = Holder()
        references.append(weakref.ref(holder))
        raise ZeroDivisionError

    references: list[weakref.ref[Holder]] = []
    loop.set_exception_handler(lambda *_: None)
    loop.call_soon(fails)
    run_turn(loop)
    assert _collected(*references)


@schedules
def test_running_a_callback_costs_its_arguments_no_reference(
    loop: asyncio.AbstractEventLoop, schedule: Schedule
) -> None:
    holder = Holder()

    def cycle() -> None:
        for _ in range(10):
            schedule(loop, holder)
            schedule(loop, holder).cancel()
        run_turn(loop)
        run_turn(loop)
        gc.collect()

    cycle()
    before = sys.getrefcount(holder)
    cycle()
    assert sys.getrefcount(holder) == before
