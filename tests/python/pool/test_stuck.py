"""Stuck loops are logged while they are stuck: `stuck_after` and debug mode."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import loop_pool

from ..support import HANG, check_script, eventually, turns, wait_parked
from .stuck import (
    BEGUN,
    CULPRIT,
    ENDED,
    LIMIT,
    RARELY,
    WATCH,
    Heard,
    Records,
    native_threads,
    spawn_on,
    watchers,
)
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")


# The log


OUTER = "coroutine outer()"


@pytest.mark.smoke
def test_a_stuck_loop_is_logged_while_it_is_stuck_and_when_it_is_over(log: Records) -> None:
    async def inner() -> str:
        return log.wait(BEGUN, of=OUTER)  # Blocks its loop.

    async def outer() -> str:
        return await inner()

    async def main() -> None:
        during = await spawn_on(1, outer(), name="the culprit")
        assert during.startswith(f"loop-pool-1 {BEGUN} ")
        assert "task 'the culprit', coroutine " in during
        assert f"outer() in {__file__}\n" in during
        thread, _, coroutine = during.partition("The coroutine of its task:")
        assert "run_forever" in thread
        assert "run_forever" not in coroutine
        # The outermost call first: asyncio's coroutine, ours, and what blocks.
        order = [coroutine.index(f", in {name}\n") for name in ("outer", "inner", "wait")]
        assert order == sorted(order)
        assert "return log.wait(BEGUN, of=OUTER)  # Blocks its loop." in coroutine
        await eventually(lambda: len(log.about(ENDED, of=OUTER)) == 1, "its end is logged")
        assert log.about(ENDED, of=OUTER)[0].startswith("loop-pool-1")
        assert "task 'the culprit'" in log.about(ENDED, of=OUTER)[0]
        assert len(log.about(BEGUN, of=OUTER)) == 1

    run(main, stuck_after=LIMIT)
    assert {record.levelname for record in log.records} == {"WARNING"}
    assert {record.threadName for record in log.records} == {WATCH}


def seconds_in(message: str) -> float:
    """The length that a message names."""
    return float(message.partition(" callback for ")[2].partition(" s: ")[0])


@pytest.mark.parametrize("how", ["blocked", "busy"])
def test_its_length_is_told(log: Records, how: str) -> None:
    async def get_stuck() -> None:
        log.wait(BEGUN)
        began = time.monotonic()
        if how == "blocked":
            time.sleep(5 * LIMIT)
        else:
            while time.monotonic() < began + 5 * LIMIT:
                pass

    async def main() -> None:
        await spawn_on(1, get_stuck())
        await eventually(lambda: len(log.about(ENDED)) == 1, "its end is logged")

    before = time.monotonic()
    run(main, stuck_after=LIMIT)
    (began,), (ended,) = log.about(BEGUN), log.about(ENDED)
    assert seconds_in(began) >= LIMIT
    assert seconds_in(began) + 5 * LIMIT <= seconds_in(ended) <= time.monotonic() - before


def test_two_loops_at_once(log: Records) -> None:
    both = threading.Barrier(2)

    async def get_stuck(index: int) -> None:
        both.wait(HANG)
        log.wait(BEGUN, f"loop-pool-{1 - index}")
        log.wait(BEGUN, f"loop-pool-{index}")
        both.wait(HANG)

    async def main() -> None:
        other = spawn_on(1, get_stuck(1))
        await asyncio.create_task(get_stuck(0))
        await other
        await eventually(lambda: len(log.about(ENDED)) == 2, "both ends are logged")

    run(main, stuck_after=LIMIT)
    for name in ("loop-pool-0", "loop-pool-1"):
        assert len(log.about(BEGUN, name)) == len(log.about(ENDED, name)) == 1


def test_again_and_again(log: Records) -> None:
    async def get_stuck(times: int) -> None:
        for count in range(1, times + 1):
            log.wait(BEGUN, count=count)
            await asyncio.sleep(0)  # The next step is another callback.

    async def main() -> None:
        await spawn_on(1, get_stuck(5))
        await eventually(lambda: len(log.about(ENDED)) == 5, "every end is logged")

    run(main, stuck_after=LIMIT)
    messages = [record.getMessage() for record in log.records]
    kinds = [BEGUN if BEGUN in each else ENDED for each in messages if CULPRIT in each]
    assert kinds == [BEGUN, ENDED] * 5


def test_a_callback_without_a_task(log: Records) -> None:
    called = threading.Event()

    def plain() -> None:
        log.wait(BEGUN, of=", in plain\n")
        called.set()

    async def main() -> None:
        loop_pool.current_pool().loops[1].call_soon_threadsafe(plain)
        await eventually(called.is_set, "it was stuck")

    run(main, stuck_after=LIMIT)
    (during,) = log.about(BEGUN, of=", in plain\n")
    assert " s: no task\n" in during
    assert "The coroutine" not in during


@pytest.mark.parametrize("how", [{"loops": 1}, {"steal": False}], ids=["one-loop", "no-stealing"])
def test_a_pool_that_has_no_monitor_gets_one(log: Records, how: dict[str, Any]) -> None:
    async def main() -> None:
        index = len(loop_pool.current_pool().loops) - 1
        for count in (1, 2):
            # All loops sleep, and so does the monitor in the end.
            await asyncio.sleep(0.05)
            await spawn_on(index, get_stuck(count))
        await eventually(lambda: len(log.about(ENDED)) == 2, "the ends are logged")
        assert native_threads("loop-pool-monitor") == 1
        for record in loop_pool.current_pool().stats():
            assert (record.handoffs, record.stolen_from, record.jobs) == (0, 0, 0)

    async def get_stuck(count: int) -> None:
        log.wait(BEGUN, count=count)

    run(main, stuck_after=LIMIT, **how)


# What is no incident


def test_an_idle_loop_is_not_told_of(log: Records) -> None:
    async def main() -> None:
        heard = Heard()
        await asyncio.sleep(10 * LIMIT)
        # The oracle: it would have been told before this one.
        await spawn_on(1, get_stuck(heard))

    async def get_stuck(heard: Heard) -> None:
        assert heard.next().name == "loop-pool-1"

    run(main, stuck_after=LIMIT)
    assert log.about(BEGUN)
    # The stack of a thread that is in no callback ends in the run itself.
    assert not [each for each in log.about(BEGUN, of="") if each.rstrip().endswith("self._run()")]


def test_many_short_callbacks_are_not_told_of(log: Records) -> None:
    async def work() -> None:
        end = time.monotonic() + 1.5 * RARELY
        while time.monotonic() < end:
            begun = time.monotonic()
            while time.monotonic() < begun + 0.001:
                pass
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(work(), spawn_on(1, work()))

    run(main, stuck_after=RARELY)
    assert not log.records


def test_many_short_callbacks_in_one_turn_are_not_told_of(log: Records) -> None:
    """The loop does not leave its callbacks for longer than a callback may take."""
    over = threading.Event()
    calls = 1500

    def short() -> None:
        time.sleep(0.001)

    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]

        def post() -> None:
            for _ in range(calls):
                loop.call_soon(short)
            loop.call_soon(over.set)

        loop.call_soon_threadsafe(post)
        await eventually(over.is_set, "all have run")

    run(main, stuck_after=RARELY)
    assert not log.records


# Whether it is on


def test_off_there_is_no_thread_and_nothing_to_wait_for(log: Records) -> None:
    async def main() -> None:
        assert not watchers()
        assert native_threads("loop-pool-monitor") == 0
        await spawn_on(1, get_stuck())

    async def get_stuck() -> None:
        # Longer than what debug mode allows.
        time.sleep(0.15)

    run(main, steal=False)
    assert not log.records


def test_while_nothing_is_stuck_it_sleeps() -> None:
    async def main() -> None:
        (watcher,) = watchers()
        assert watcher.native_id is not None
        loop = loop_pool.current_pool().loops[1]
        await spawn_on(1, turns(100))
        (thread,) = (each for each in threading.enumerate() if each.name == "loop-pool-1")
        for native_id in (thread.native_id, watcher.native_id):
            assert native_id is not None
            wait_parked(native_id)
        used, polls = _clock(watcher.native_id), loop._stats()["polls"]
        await asyncio.sleep(10 * LIMIT)
        assert _clock(watcher.native_id) - used < 0.01
        assert loop._stats()["polls"] <= polls + 1

    run(main, stuck_after=RARELY)


def _clock(native_id: int) -> float:
    """The processor time of a thread, in seconds, to the nanosecond (Linux)."""
    from pathlib import Path

    return int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0]) / 1e9


def test_debug_mode_takes_each_loop_s_own_limit(log: Records) -> None:
    async def main() -> None:
        slow, patient = loop_pool.current_pool().loops
        assert slow.slow_callback_duration == 0.1
        slow.slow_callback_duration, patient.slow_callback_duration = LIMIT, 1000.0
        log.wait(BEGUN, "loop-pool-0", of="")
        # Until now it had asyncio's limit, which it may have passed as it started.
        before = log.about(BEGUN, "loop-pool-1", of="")
        await spawn_on(1, wait_for_the_other(before))
        patient.slow_callback_duration = LIMIT
        await spawn_on(1, get_stuck())

    async def wait_for_the_other(before: list[str]) -> None:
        loop_pool.current_pool().loops[0].call_soon_threadsafe(
            log.wait, BEGUN, "loop-pool-0", 2, ""
        )
        log.wait(BEGUN, "loop-pool-0", 2, of="")
        assert log.about(BEGUN, "loop-pool-1", of="") == before

    async def get_stuck() -> None:
        log.wait(BEGUN, "loop-pool-1")

    # Debug mode also logs them afterwards, by asyncio's own logger.
    run(main, debug=True)
    assert len(log.about(BEGUN, "loop-pool-1")) == 1


def test_the_environment_s_debug_mode_counts() -> None:
    source = """
        import asyncio, logging, threading, time, loop_pool
        logging.disable()  # of what may be slow, on a machine that has much else to do
        async def main():
            print([thread.name for thread in threading.enumerate()].count("loop-pool-watch"))
        loop_pool.run(main(), loops=2)
    """
    assert check_script(source, env={"PYTHONASYNCIODEBUG": "1"}) == "1\n"
    assert check_script(source, env={"PYTHONASYNCIODEBUG": ""}) == "0\n"


def test_a_loop_s_slow_callback_duration_is_a_number() -> None:
    loop = loop_pool.new_event_loop()
    try:
        for seconds in (3, 0.25, float("inf"), -1):
            loop.slow_callback_duration = seconds
            assert loop.slow_callback_duration == seconds
        with pytest.raises(TypeError):
            loop.slow_callback_duration = "long"  # type: ignore[assignment]
        assert loop.slow_callback_duration == -1
    finally:
        loop.close()


@pytest.mark.parametrize("wrong", [0, -1, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="stuck_after must be greater than zero"):
        loop_pool.Runner(stuck_after=wrong)


def test_a_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError):
        loop_pool.Runner(stuck_after="1")  # type: ignore[arg-type]


def test_a_limit_that_is_never_reached(log: Records) -> None:
    async def main() -> None:
        await spawn_on(1, get_stuck())

    async def get_stuck() -> None:
        time.sleep(5 * LIMIT)

    run(main, stuck_after=float("inf"))
    assert not log.records


@pytest.mark.parametrize("how", ["call", "broadcast", "map"])
def test_the_programs_own_function_is_named(log: Records, how: str) -> None:
    def get_stuck(_: int) -> None:
        if asyncio.get_running_loop() is loop_pool.current_pool().loops[1] or how == "map":
            log.wait(BEGUN)

    async def main() -> None:
        if how == "call":
            await loop_pool.call(loop_pool.current_pool().loops[1], get_stuck, 1)
        elif how == "broadcast":
            await loop_pool.broadcast(get_stuck, 1)
        else:
            assert [each async for each in loop_pool.map(get_stuck, [1])] == [None]
        await eventually(lambda: len(log.about(ENDED)) == 1, "its end is logged")

    run(main, stuck_after=LIMIT)
