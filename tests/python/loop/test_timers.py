"""`call_soon`, `call_later`, `call_at`: what runs, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import fractions
import random
import socket
import threading
from typing import Any

import pytest

from ..support import LoopFactory, run_turn


@pytest.mark.smoke
def test_callbacks_run_in_the_order_of_their_calls(loop: asyncio.AbstractEventLoop) -> None:
    order: list[int] = []
    for number in range(5_000):
        if number % 3:
            loop.call_soon(order.append, number)
        else:
            loop.call_soon_threadsafe(order.append, number)
    run_turn(loop)
    assert order == list(range(5_000))


def test_callbacks_get_their_arguments(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[object, ...]] = []

    def callback(*args: object) -> None:
        seen.append(args)

    given: list[tuple[object, ...]] = [(), (1,), (1, None), ((), [], {}), tuple(range(20))]
    for args in given:
        loop.call_soon(callback, *args)
    run_turn(loop)
    for args in given:
        loop.call_at(loop.time(), callback, *args)
        run_turn(loop)
    assert seen == given * 2


def test_a_callback_s_callbacks_run_in_the_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")
        loop.call_soon(order.append, "third")

    loop.call_soon(first)
    loop.call_soon(order.append, "second")
    run_turn(loop)
    assert order == ["first", "second"]
    run_turn(loop)
    assert order == ["first", "second", "third"]


@pytest.mark.smoke
def test_timers_run_in_the_order_of_their_deadlines(loop: asyncio.AbstractEventLoop) -> None:
    numbers = list(range(300))
    random.Random(4).shuffle(numbers)
    order: list[int] = []
    start = loop.time()
    for number in numbers:
        loop.call_at(start + number * 1e-4, order.append, number)
    loop.call_at(start + 0.04, loop.stop)
    loop.run_forever()
    assert order == sorted(numbers)


@pytest.mark.loop_pool_only
def test_timers_of_one_deadline_run_in_the_order_of_their_calls(
    loop: asyncio.AbstractEventLoop,
) -> None:
    order: list[int] = []
    due = loop.time() + 0.001
    for number in range(500):
        loop.call_at(due, order.append, number)
    loop.call_at(due, loop.stop)
    loop.run_forever()
    assert order == list(range(500))


def test_each_of_many_equal_timers_runs_once(loop: asyncio.AbstractEventLoop) -> None:
    order: list[int] = []
    due = loop.time() + 0.001
    for number in range(500):
        loop.call_at(due, order.append, number)
    loop.call_at(due + 0.001, loop.stop)
    loop.run_forever()
    assert sorted(order) == list(range(500))


def test_a_timer_is_not_early(loop: asyncio.AbstractEventLoop) -> None:
    late: list[float] = []
    resolution = 1e-6

    def fire(due: float) -> None:
        late.append(loop.time() - due)

    for step in range(50):
        due = loop.time() + step * 0.0003
        loop.call_at(due, fire, due)
    loop.call_later(0.03, loop.stop)
    loop.run_forever()
    assert len(late) == 50
    assert min(late) > -resolution


@pytest.mark.parametrize("delay", [0, 0.0, -1, -0.5, -1e9, float("-inf"), False])
def test_a_delay_that_has_passed_runs_in_the_next_turn(
    loop: asyncio.AbstractEventLoop, delay: float
) -> None:
    ran: list[str] = []
    loop.call_later(delay, ran.append, "ran")
    assert ran == []
    run_turn(loop)
    run_turn(loop)
    assert ran == ["ran"]


@pytest.mark.parametrize(
    "delay", [1e9, 10**12, float("inf"), 86_400 * 365], ids=["1e9", "10**12", "inf", "a year"]
)
def test_a_far_deadline_neither_runs_nor_disturbs(
    loop: asyncio.AbstractEventLoop, delay: float
) -> None:
    ran: list[str] = []
    handle = loop.call_later(delay, ran.append, "far")
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == []
    assert handle.when() > loop.time()
    handle.cancel()


@pytest.mark.loop_pool_only
def test_a_deadline_that_is_no_number_never_comes_and_stops_no_other(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ran: list[str] = []
    handle = loop.call_later(float("nan"), ran.append, "never")
    now = loop.time()  # Between two calls may pass more than what lies between the deadlines.
    for delay in (0.002, 0.001, 0.003):
        loop.call_at(now + delay, ran.append, str(delay))
    loop.call_at(now + 0.004, loop.stop)
    loop.run_forever()
    assert ran == ["0.001", "0.002", "0.003"]
    handle.cancel()
    assert handle.cancelled()


@pytest.mark.parametrize("text", ["1", b"1", [], object()], ids=["str", "bytes", "list", "object"])
def test_a_delay_must_be_a_number(loop: asyncio.AbstractEventLoop, text: Any) -> None:
    with pytest.raises(TypeError):
        loop.call_later(text, print)


def test_no_delay_and_no_deadline_is_refused(loop: Any) -> None:
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)


@pytest.mark.parametrize("number", [1, True, fractions.Fraction(1, 1000)], ids=["int", "bool", "f"])
def test_numbers_of_other_kinds_are_delays(loop: asyncio.AbstractEventLoop, number: Any) -> None:
    before = loop.time()
    handle = loop.call_later(number, print)
    assert before + number <= handle.when() <= loop.time() + number
    handle.cancel()


def test_when_is_what_was_given(loop: asyncio.AbstractEventLoop) -> None:
    when = loop.time() + 100.125
    assert loop.call_at(when, print).when() == when
    before = loop.time()
    assert before + 100 <= loop.call_later(100, print).when() <= loop.time() + 100


def test_a_deadline_may_be_an_integer(loop: asyncio.AbstractEventLoop) -> None:
    ran: list[str] = []
    handle = loop.call_at(0, ran.append, "long past")
    assert handle.when() == 0
    run_turn(loop)
    run_turn(loop)
    assert ran == ["long past"]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_a_closed_loop_refuses(loop_factory: LoopFactory, method: str) -> None:
    loop = loop_factory()
    loop.close()
    arguments: tuple[Any, ...] = (0, print) if method in {"call_later", "call_at"} else (print,)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        getattr(loop, method)(*arguments)


def test_what_cannot_be_called_fails_when_it_is_due(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    loop.call_soon("not callable")  # type: ignore[arg-type]
    loop.call_later(0, 5)  # type: ignore[arg-type]
    run_turn(loop)
    run_turn(loop)
    assert [type(context["exception"]) for context in reported] == [TypeError, TypeError]


def test_a_timer_made_by_a_timer_runs(loop: asyncio.AbstractEventLoop) -> None:
    order: list[int] = []

    def again(left: int) -> None:
        order.append(left)
        if left:
            loop.call_later(0, again, left - 1)
        else:
            loop.stop()

    loop.call_later(0, again, 100)
    loop.run_forever()
    assert order == list(range(100, -1, -1))


def test_a_timer_that_renews_itself_starves_nobody(loop: asyncio.AbstractEventLoop) -> None:
    def renew() -> None:
        loop.call_later(0, renew)
        loop.call_soon(int)

    def finish(name: str) -> None:
        finished.add(name)
        if len(finished) == 3:
            loop.stop()

    finished: set[str] = set()
    for _ in range(2):
        loop.call_soon(renew)
    loop.call_later(0.005, finish, "timer")
    thread = threading.Timer(0.001, loop.call_soon_threadsafe, [finish, "post"])
    thread.start()
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, finish, "reader")
        far.send(b"x")
        loop.run_forever()
        loop.remove_reader(near)
    thread.join()


def test_busy_callbacks_do_not_starve_timers(loop: asyncio.AbstractEventLoop) -> None:
    def busy() -> None:
        loop.call_soon(busy)

    loop.call_soon(busy)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()


def test_a_callback_may_cancel_timers_that_are_due(loop: asyncio.AbstractEventLoop) -> None:
    ran: list[str] = []
    due = loop.time()

    def cancel() -> None:
        for each in handles:
            each.cancel()

    loop.call_at(due - 1, cancel)
    handles = [loop.call_at(due, ran.append, "cancelled") for _ in range(10)]
    run_turn(loop)
    run_turn(loop)
    assert ran == []


def test_a_hundred_thousand_cancelled_timers_leave_the_others(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ran: list[int] = []
    for number in range(100_000):
        handle = loop.call_later(0.001 + number, ran.append, -1)
        if number % 10_000 == 0:
            loop.call_later(0, ran.append, number)
        handle.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert ran == list(range(0, 100_000, 10_000))


def test_the_heap_agrees_with_a_model(loop: asyncio.AbstractEventLoop) -> None:
    chance = random.Random(7)
    start = loop.time() + 0.005
    expected: dict[int, float] = {}
    handles: dict[int, asyncio.TimerHandle] = {}
    order: list[int] = []
    for number in range(2_000):
        when = start + chance.random() * 0.02
        handles[number] = loop.call_at(when, order.append, number)
        expected[number] = when
        if chance.random() < 0.4:
            victim = chance.choice(list(handles))
            handles.pop(victim).cancel()
            del expected[victim]
    loop.call_at(start + 0.03, loop.stop)
    loop.run_forever()
    assert order == sorted(expected, key=expected.__getitem__)


def test_timeouts_and_sleeps_end(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        assert await asyncio.sleep(0.001, "slept") == "slept"
        done, pending = await asyncio.wait(
            [asyncio.create_task(asyncio.sleep(delay)) for delay in (0.001, 10_000)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert (len(done), len(pending)) == (1, 1)
        pending.pop().cancel()

    loop.run_until_complete(main())


def test_no_timer_fires_early(loop: asyncio.AbstractEventLoop) -> None:
    late_by: list[float] = []
    delays = [0.0, 0.0001, 0.0009, 0.001, 0.0015, 0.005, 0.01, 0.011, 0.02]

    def fire(when: float) -> None:
        late_by.append(loop.time() - when)
        if len(late_by) == len(delays):
            loop.stop()

    for delay in delays:
        when = loop.time() + delay
        loop.call_at(when, fire, when)
    loop.run_forever()
    # As in asyncio, a deadline within the clock's resolution counts as due.
    assert min(late_by) >= -1e-9
