"""The stack of a loop's thread is read by another while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import loop_pool
from loop_pool import _core

from ..support import HANG, eventually, shut_down, wait_parked
from .stuck import BEGUN, ENDED, LIMIT, Records, spawn_on
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")


def number_of(loop: loop_pool.EventLoop) -> int:
    """The number of the callback that a loop is in."""
    numbers = (n for n in range(1, 10_000) if _core._stack(loop, n) is not None)
    return next(numbers)


def test_a_stack_is_of_one_callback_only() -> None:
    async def main() -> None:
        loop, other = loop_pool.current_pool().loops[1], asyncio.get_running_loop()
        entered, leave = threading.Event(), threading.Event()

        def inner() -> None:
            entered.set()
            assert leave.wait(HANG)

        def outer() -> None:
            inner()

        loop.call_soon_threadsafe(outer)
        assert await asyncio.to_thread(entered.wait, HANG)
        number = number_of(loop)
        calls = _core._stack(loop, number)
        assert calls is not None
        codes = [code for code, _ in calls]
        at = codes.index(outer.__code__)
        assert codes[at + 1] is inner.__code__
        assert [calls[at][1], calls[at + 1][1]] == [
            outer.__code__.co_firstlineno + 1,
            inner.__code__.co_firstlineno + 2,
        ]
        assert _core._stack(loop, number - 1) is _core._stack(loop, number + 1) is None
        leave.set()
        await eventually(lambda: _core._stack(loop, number) is None, "it has ended")
        # The calling thread's own.
        own = _core._stack(other, number_of(other))
        assert own is not None
        assert own[-1][0].co_name == "main"

    run(main, steal=False)


def test_a_loop_that_does_not_run_has_no_stack() -> None:
    loop = loop_pool.new_event_loop()
    try:
        number = loop.run_until_complete(asyncio.to_thread(number_of_sleeper, loop))
        assert number == 0
        assert all(_core._stack(loop, n) is None for n in range(100))
    finally:
        shut_down(loop)


def number_of_sleeper(loop: loop_pool.EventLoop) -> int:
    """How many callbacks a loop that waits for this is in."""
    wait_parked(threading.main_thread().native_id or 0)
    return sum(_core._stack(loop, n) is not None for n in range(100))


@pytest.mark.parametrize("name", [None, "the culprit"])
def test_python_that_never_waits_is_logged_while_it_runs(log: Records, name: str | None) -> None:
    async def get_stuck() -> str | None:
        end = time.monotonic() + HANG
        while not log.about(BEGUN):
            assert time.monotonic() < end, "it is logged when it has ended"
        task = asyncio.current_task()
        return task and task.get_name()

    async def main() -> str:
        result: str = await spawn_on(1, get_stuck(), name=name)
        return result

    shown = run(main, stuck_after=LIMIT)
    (during,) = log.about(BEGUN)
    assert f" s: task {shown!r}, coroutine get_stuck() in {__file__}\n" in during
    assert ", in get_stuck\n" in during


@pytest.mark.skipif(sys._is_gil_enabled(), reason="native code keeps the GIL")
def test_native_code_that_cannot_be_interrupted_holds_up_nobody(log: Records) -> None:
    done: set[int] = set()

    def match() -> bool:
        # One call of native code, some seconds long unless `done` is filled.
        return any(map(done.__contains__, itertools.repeat(1, 200_000_000)))

    async def get_stuck() -> bool:
        return match()

    async def main() -> None:
        stuck = spawn_on(1, get_stuck(), name="the culprit")
        await eventually(lambda: bool(log.about(BEGUN)), "it is logged")
        done.add(1)
        assert await stuck, "it was logged when it had ended"

    gc.disable()  # It would wait for the native code, and all others for it.
    try:
        run(main, stuck_after=LIMIT)
    finally:
        gc.enable()
    (during,) = log.about(BEGUN)
    assert " s: a task, coroutine get_stuck() in " in during, "its name is behind a lock"
    coroutine = during.partition("The coroutine of its task:")[2]
    assert coroutine.index(", in get_stuck\n") < coroutine.index(", in match\n")
    assert len(log.about(ENDED)) == 1


@pytest.mark.skipif(sys._is_gil_enabled(), reason="native code keeps the GIL")
def test_a_stuck_loop_is_told_of_while_another_cannot_be_interrupted(log: Records) -> None:
    """To see the stack of the one, the reporter would have to wait for the other."""
    done: set[int] = set()

    unseen = "Its stack could not be read."

    async def get_stuck_in_native_code() -> bool:
        return any(map(done.__contains__, itertools.repeat(1, 200_000_000)))

    async def get_stuck() -> None:
        while not done:
            pass

    async def main() -> None:
        native = spawn_on(1, get_stuck_in_native_code())
        await eventually(lambda: bool(log.about(BEGUN, "loop-pool-1")), "the one is logged")
        stuck = spawn_on(2, get_stuck())
        await eventually(
            lambda: bool(log.about(BEGUN, "loop-pool-2", unseen)), "the other is logged"
        )
        done.add(1)
        assert await native, "it was logged when the native code had ended"
        await stuck

    gc.disable()  # It would wait for the native code, and all others for it.
    try:
        run(main, stuck_after=LIMIT, loops=3)
    finally:
        gc.enable()
    during = log.about(BEGUN, "loop-pool-2", unseen)[0]  # The rest: it took long to end, too.
    assert during.endswith(f" s: a task\n{unseen}")


@pytest.mark.stress
def test_stacks_of_a_thread_are_whole_while_it_goes_on() -> None:
    def fall(depth: int) -> int:
        return depth if depth == 0 else fall(depth - 1)

    def generate(depth: int) -> Iterator[int]:
        yield depth
        if depth:
            yield from generate(depth - 1)

    async def descend(depth: int) -> int:
        return depth if depth == 0 else await descend(depth - 1)

    def burn(stop: threading.Event) -> None:
        while not stop.is_set():
            fall(30)
            sum(generate(20))
            with contextlib.suppress(StopIteration):
                descend(20).send(None)
            with contextlib.suppress(RecursionError):
                fall(5000)

    own = {code: code.co_name for code in (each.__code__ for each in (fall, generate, descend))}

    def read(loop: loop_pool.EventLoop, number: int) -> int:
        seen = set()
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            calls = _core._stack(loop, number)
            assert calls is not None
            codes = [code for code, _ in calls]
            inner = codes[codes.index(burn.__code__) + 1 :]
            # Each is reached from `burn` alone, and calls itself alone.
            assert len(set(inner)) <= 1
            seen.update(own[code] for code in inner if code in own)
        return len(seen)

    async def main() -> None:
        loop, stop = loop_pool.current_pool().loops[1], threading.Event()
        loop.call_soon_threadsafe(burn, stop)
        await eventually(lambda: any(_core._stack(loop, n) for n in range(1000)), "it is inside")
        number = number_of(loop)
        try:
            readers = [asyncio.to_thread(read, loop, number) for _ in range(3)]
            assert await asyncio.gather(*readers) == [3, 3, 3]
        finally:
            stop.set()

    loop_pool.run(main(), loops=2)


@pytest.mark.stress
def test_stacks_of_a_thread_that_calls_and_returns(log: Records) -> None:
    """The stack is taken while its thread goes on."""

    def fall(depth: int) -> int:
        return depth if depth == 0 else fall(depth - 1)

    def burn() -> None:
        end = time.monotonic() + 0.004
        while time.monotonic() < end:
            fall(50)
            sum(number for number in range(50))
            with contextlib.suppress(KeyError):
                raise KeyError

    async def work() -> None:
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            burn()
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(work(), spawn_on(1, work()))

    loop_pool.run(main(), loops=2, stuck_after=0.001)
    assert len(log.about(BEGUN, of="")) > 1000
    assert sys._is_gil_enabled() or len(log.about(ENDED, of="")) == len(log.about(BEGUN, of=""))
