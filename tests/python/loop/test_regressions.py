"""Promises of one loop that were broken once: each test would have failed then."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ..support import (
    FREE_THREADED,
    HANG,
    LoopFactory,
    Threads,
    asleep_or_ended,
    check_script,
    drain,
    factory_path,
    in_thread,
    wait_for,
)
from .support import fill

if TYPE_CHECKING:
    from collections.abc import Callable

# Readers and writers


def _keep_busy(loop: asyncio.AbstractEventLoop) -> None:
    """Posts callbacks that keep one turn busy for some 20 ms, in many batches of any size."""

    def burn() -> None:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass

    for number in range(10_000):
        loop.call_soon(int if number % 500 else burn)


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_a_callback_of_a_descriptor_finds_it_ready_however_long_the_turn(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop, side: str
) -> None:
    # A callback may block in one call of `recv` or `send`: the contract is level-triggered.
    ours, theirs = pair
    found: list[bool] = []

    def on_event() -> None:
        readable, writable, _ = select.select([ours], [ours], [], 0)
        found.append(bool(readable if side == "reader" else writable))
        drain(ours) if side == "reader" else fill(ours)
        if len(found) == 1:
            # What else is queued for this readiness runs in this turn or the next.
            _keep_busy(loop)
            loop.call_soon(loop.call_soon, loop.call_soon, loop.stop)

    def begin() -> None:
        _keep_busy(loop)
        theirs.send(b"x") if side == "reader" else drain(theirs)
        _keep_busy(loop)

    if side == "reader":
        loop.add_reader(ours, on_event)
    else:
        fill(ours)
        loop.add_writer(ours, on_event)
    loop.call_soon(begin)
    loop.run_forever()
    assert found == [True]


def test_many_descriptors_that_are_ready_in_a_long_turn_are_each_served_once(
    loop: asyncio.AbstractEventLoop,
) -> None:
    pairs = [socket.socketpair() for _ in range(50)]
    served: list[int] = []

    def on_event(number: int) -> None:
        served.append(number)
        pairs[number][0].setblocking(False)
        drain(pairs[number][0])
        if len(served) == len(pairs):
            loop.call_soon(loop.call_soon, loop.stop)

    def begin() -> None:
        for _, theirs in pairs:
            theirs.send(b"x")
        _keep_busy(loop)

    for number, (ours, _) in enumerate(pairs):
        loop.add_reader(ours, on_event, number)
    loop.call_soon(begin)
    loop.run_forever()
    assert sorted(served) == list(range(len(pairs)))
    for ours, theirs in pairs:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()


# Debug mode


@pytest.mark.parametrize("how", ["call_soon", "call_soon_threadsafe", "call_later"])
@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_may_change_while_callbacks_wait(
    loop: asyncio.AbstractEventLoop, how: str, debug: bool
) -> None:
    ran: list[str] = []
    loop.set_debug(not debug)
    posts: dict[str, Callable[[], object]] = {
        "call_soon": lambda: loop.call_soon(ran.append, "run"),
        "call_soon_threadsafe": lambda: in_thread(
            lambda: loop.call_soon_threadsafe(ran.append, "run")
        ),
        "call_later": lambda: loop.call_later(0, ran.append, "run"),
    }
    posts[how]()
    loop.set_debug(debug)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == ["run"]


def test_debug_mode_may_change_while_a_coroutine_is_submitted(
    loop: asyncio.AbstractEventLoop,
) -> None:
    submitted = in_thread(lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "slept"), loop))
    loop.set_debug(True)
    assert loop.run_until_complete(asyncio.wrap_future(submitted, loop=loop)) == "slept"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("late", [False, True], ids=["from the start", "set later"])
def test_cancelling_a_posted_callback_waits_while_it_runs(
    loop: asyncio.AbstractEventLoop, debug: bool, late: bool
) -> None:
    # So that who cancels may then take away what the callback works with.
    order: list[str] = []
    running, about = threading.Event(), threading.Event()

    def callback() -> None:
        running.set()
        loop.call_soon(loop.stop)
        assert about.wait(HANG)
        # With the GIL who waits may be awake: it asks again and again.
        if FREE_THREADED:
            wait_for(lambda: asleep_or_ended(canceller), "the canceller waits")
        order.append("the callback is done")

    def cancel() -> None:
        assert running.wait(HANG)
        about.set()
        handle.cancel()
        order.append("cancel has returned")

    if debug and not late:
        loop.set_debug(True)
    handle = in_thread(lambda: loop.call_soon_threadsafe(callback))
    loop.set_debug(debug)
    canceller = threading.Thread(target=cancel)
    canceller.start()
    loop.run_forever()
    canceller.join(HANG)
    assert order == ["the callback is done", "cancel has returned"]
    assert handle.cancelled()


@pytest.mark.parametrize("debug", [False, True])
def test_a_posted_callback_and_its_cancel_race_cleanly(
    loop: asyncio.AbstractEventLoop, debug: bool
) -> None:
    handles: list[asyncio.Handle] = []
    ran: list[int] = []
    rounds = 2_000

    def cancel_all() -> None:
        for number in range(rounds):
            wait_for(lambda number=number: len(handles) > number, "a handle to cancel")
            handles[number].cancel()
        loop.call_soon_threadsafe(loop.stop)

    def post_all() -> None:
        for number in range(rounds):
            handles.append(loop.call_soon_threadsafe(ran.append, number))

    loop.set_debug(debug)
    with Threads(post_all, cancel_all):
        loop.run_forever()
    assert ran == sorted(set(ran))
    assert all(handle.cancelled() for handle in handles)


# The descriptor that signals are written to

_NO_STALE_WAKEUP = """
    import asyncio, importlib, os, signal, socket, sys, tempfile
    factory = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])

    def reach(where, add, remove):
        # In a callback of a run, or while nobody runs the loop.
        def both():
            if add:
                loop.add_signal_handler(signal.SIGUSR1, print, "unexpected")
            if remove:
                loop.remove_signal_handler(signal.SIGUSR1)
        if where == "running":
            loop.call_soon(both)
        else:
            both()
        loop.call_soon(loop.stop)
        loop.run_forever()

    loop = factory()
    for step in sys.argv[3:]:
        where, what = step.split(":")
        reach(where, "add" in what, "remove" in what)
    numbers = {sock.fileno() for sock in (loop._csock, loop._ssock)}
    loop.close()
    # Whatever uses the loop's numbers now must not get the signals' numbers written into it.
    with tempfile.TemporaryFile() as victim:
        for number in numbers:
            os.dup2(victim.fileno(), number)
            os.set_blocking(number, False)
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        signal.raise_signal(signal.SIGUSR1)
        print(os.fstat(victim.fileno()).st_size, signal.set_wakeup_fd(-1))
"""


@pytest.mark.parametrize(
    "steps",
    [
        ["idle:add", "running:remove"],
        ["running:add", "running:remove"],
        ["running:add+remove"],
        ["idle:add", "running:remove", "idle:"],
        ["idle:add", "running:", "idle:remove"],
        ["running:add"],
        ["idle:"],
    ],
    ids=" then ".join,
)
def test_a_closed_loop_gets_no_signals_written_to_its_old_descriptors(
    loop_factory: LoopFactory, steps: list[str]
) -> None:
    module, _, name = factory_path(loop_factory).partition(":")
    assert check_script(_NO_STALE_WAKEUP, module, name, *steps) == "handled\n0 -1\n"


_WAKEUP_OF_ANOTHER = """
    import asyncio, importlib, signal, socket, sys
    factory = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    first, second = socket.socketpair()
    second.setblocking(False)
    theirs = second.fileno()
    loop = factory()

    def handler():
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.remove_signal_handler(signal.SIGUSR1)

    steps = {
        "set": lambda: signal.set_wakeup_fd(theirs),
        "close": second.close,
        "handler": handler,
        "run": lambda: None,
    }
    for step in sys.argv[3:]:
        when, _, what = step.rpartition("-")
        if when == "running":
            loop.call_soon(steps[what])
        else:
            steps[what]()
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    left = signal.set_wakeup_fd(-1)
    print({-1: "none", theirs: "theirs"}.get(left, "stale"))
    first.close()
    second.close()
"""


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (["set", "run"], ["theirs"]),
        (["running-set", "run"], ["theirs"]),
        # A handler takes its place, as asyncio's does; but it leaves nothing behind.
        (["set", "running-handler", "run"], ["none"]),
        # One that its owner has closed wakes nobody, and is no reason to fail.
        (["set", "close", "run"], ["theirs", "none"]),
        (["set", "running-close", "run"], ["theirs", "none"]),
        (["running-set", "running-close", "run"], ["theirs", "none"]),
    ],
    ids=[
        "set before the run",
        "set during the run",
        "replaced by a handler",
        "closed before the run",
        "closed during the run",
        "set and closed during the run",
    ],
)
def test_a_wakeup_descriptor_of_somebody_else_is_theirs(
    loop_factory: LoopFactory, steps: list[str], left: list[str]
) -> None:
    module, _, name = factory_path(loop_factory).partition(":")
    assert check_script(_WAKEUP_OF_ANOTHER, module, name, *steps).strip() in left


# Timers


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("sign", [1, -1], ids=["nan", "negative nan"])
@pytest.mark.parametrize("how", ["call_at", "call_later"])
def test_a_deadline_that_is_no_number_of_either_sign_holds_no_timer_up(
    loop: asyncio.AbstractEventLoop, sign: int, how: str
) -> None:
    # `inf - inf` is a negative one on some machines.
    order: list[int] = []
    never = math.copysign(math.nan, sign)
    assert math.copysign(1, never) == sign
    handles = []
    for number in range(20):
        handles.append(getattr(loop, how)(never, order.append, -1))
        loop.call_later(number / 10_000, order.append, number)
    for handle in handles[::2]:
        handle.cancel()
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert order == list(range(20))
    for handle in handles[1::2]:
        handle.cancel()
