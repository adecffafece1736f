"""Programs are told of stuck loops: `Pool.on_stuck`; and how the telling ends."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import loop_pool
from loop_pool import StuckLoop

from ..support import HANG, check_script, in_thread, run_script
from .stuck import (
    BEGUN,
    CULPRIT,
    ENDED,
    LIMIT,
    WATCH,
    Heard,
    Records,
    is_about,
    spawn_on,
    watchers,
)
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.mark.smoke
def test_a_program_is_told_of_both_ends(log: Records) -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        for loop in pool.loops:
            loop.slow_callback_duration = LIMIT
        assert not watchers()
        heard = Heard()
        assert len(watchers()) == 1
        task, begun = await spawn_on(1, get_stuck(heard), name="the culprit")
        assert isinstance(begun, tuple)
        assert (begun.loop, begun.name, begun.task) == (pool.loops[1], "loop-pool-1", task)
        assert begun.seconds >= LIMIT
        assert begun.ended is False
        assert [frame.name for frame in begun.task_stack[:2]] == ["get_stuck", "next"]
        assert begun.stack[-len(begun.task_stack) :] == begun.task_stack
        assert "_main" in {frame.name for frame in begun.stack}
        ended = await asyncio.to_thread(heard.next)
        assert ended == begun._replace(seconds=ended.seconds, ended=True)
        assert ended.seconds >= begun.seconds

    async def get_stuck(heard: Heard) -> tuple[Any, StuckLoop]:
        return asyncio.current_task(), heard.next()

    run(main)
    assert not log.records, "nobody has asked for a log"


def test_it_is_called_in_a_thread_of_the_pool_s_own() -> None:
    threads: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()

    def note(incident: StuckLoop) -> None:
        here = threading.current_thread()
        if is_about(incident):
            threads.put((here.name, here.daemon))

    async def main() -> None:
        loop_pool.current_pool().on_stuck(note)
        await spawn_on(1, get_stuck())

    async def get_stuck() -> None:
        assert threads.get(timeout=HANG) == (WATCH, True)

    run(main, stuck_after=LIMIT)
    assert threads.get_nowait() == (WATCH, True)
    assert threads.empty()


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_exception_in_it_is_logged_and_harms_nothing(
    log: Records, logged_errors: list[str], error: type[BaseException]
) -> None:
    def fail(incident: StuckLoop) -> None:
        if is_about(incident):
            raise error("on purpose")

    async def main() -> None:
        loop_pool.current_pool().on_stuck(fail)
        heard = Heard()
        for _ in range(2):
            await spawn_on(1, get_stuck(heard))
            assert (await asyncio.to_thread(heard.next)).ended

    async def get_stuck(heard: Heard) -> None:
        assert not heard.next().ended

    run(main, stuck_after=LIMIT)
    failures = [record for record in log.records if record.levelname == "ERROR"]
    assert len(failures) == 4
    for record in failures:
        assert "fail" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[0] is error
    logged_errors.clear()


def test_unregistering() -> None:
    async def main() -> None:
        first, second = Heard(), Heard()
        await spawn_on(1, get_stuck(first))
        assert not second.next().ended
        assert first.next().ended
        assert second.next().ended
        first.unregister()
        first.unregister()
        await spawn_on(1, get_stuck(second))
        assert second.next().ended
        assert first.incidents.empty()

    async def get_stuck(heard: Heard) -> None:
        assert not heard.next().ended

    run(main, stuck_after=LIMIT)


def test_the_same_callback_twice_is_called_twice() -> None:
    async def main() -> None:
        heard = Heard()
        again = loop_pool.current_pool().on_stuck(heard.note)
        await spawn_on(1, get_stuck(heard, 2))
        assert heard.next().ended
        assert heard.next().ended
        again()
        await spawn_on(1, get_stuck(heard, 1))
        assert heard.next().ended
        assert heard.incidents.empty()

    async def get_stuck(heard: Heard, times: int) -> None:
        for _ in range(times):
            assert not heard.next().ended

    run(main, stuck_after=LIMIT)


def test_when_the_last_is_gone_nothing_is_told_until_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[StuckLoop] = []
    report = loop_pool._pool.stuck.Watch._report

    def note(self: Any, index: int, callback: int, seconds: float, ended: bool) -> None:
        before = self._begun.get(index)
        report(self, index, callback, seconds, ended)
        incident = before if ended else self._begun.get(index)
        if incident is not None and is_about(incident):
            reported.append(incident)

    monkeypatch.setattr(loop_pool._pool.stuck.Watch, "_report", note)

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            loop.slow_callback_duration = LIMIT
        Heard().unregister()
        await spawn_on(1, get_stuck(None))
        assert not reported
        heard = Heard()
        await spawn_on(1, get_stuck(heard))
        assert (await asyncio.to_thread(heard.next)).ended

    async def get_stuck(heard: Heard | None) -> None:
        if heard is None:
            time.sleep(5 * LIMIT)
        else:
            assert not heard.next().ended

    run(main, steal=False)
    assert len(reported) == 2


def test_it_may_unregister_itself_and_post_to_loops() -> None:
    async def main() -> None:
        pool, told = loop_pool.current_pool(), asyncio.get_running_loop().create_future()
        leave, calls = threading.Event(), []

        def once(incident: StuckLoop) -> None:
            if not is_about(incident):
                return
            calls.append(incident)
            unregister()
            pool.loops[0].call_soon_threadsafe(told.set_result, incident.name)
            leave.set()

        async def get_stuck() -> None:
            assert leave.wait(HANG)

        unregister = pool.on_stuck(once)
        await spawn_on(1, get_stuck())
        assert await told == "loop-pool-1"
        # What comes after the next beginning comes after the first one's end.
        heard = Heard("wait_for_beginning")
        await spawn_on(1, wait_for_beginning(heard))
        assert len(calls) == 1

    async def wait_for_beginning(heard: Heard) -> None:
        while heard.next().ended:
            pass

    run(main, stuck_after=LIMIT)


def test_any_thread_may_register() -> None:
    async def main() -> None:
        pool, heard = loop_pool.current_pool(), queue.SimpleQueue[StuckLoop]()
        await asyncio.to_thread(pool.on_stuck, lambda it: is_about(it) and heard.put(it))
        await spawn_on(1, asyncio.to_thread(pool.on_stuck, lambda _: None))
        assert len(watchers()) == 1

        async def get_stuck() -> None:
            assert not heard.get(timeout=HANG).ended

        await spawn_on(1, get_stuck())

    run(main, stuck_after=LIMIT)


def test_what_cannot_be_called_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"callable object was expected .* got 'print'"):
            loop_pool.current_pool().on_stuck("print")  # type: ignore[arg-type]
        assert not watchers()

    run(main)


def test_a_pool_that_has_closed_refuses() -> None:
    async def main() -> Any:
        return loop_pool.current_pool()

    pool = run(main)
    with pytest.raises(RuntimeError, match="is closed"):
        pool.on_stuck(print)


def test_a_forked_child_is_refused_and_leaves_the_parent_alone() -> None:
    source = """
        import asyncio, logging, loop_pool, os, warnings
        logging.disable()
        warnings.simplefilter("ignore", DeprecationWarning)
        def child(pool, unregister):
            unregister()
            try:
                pool.on_stuck(print)
            except RuntimeError as error:
                return "fork" in str(error)
        async def get_stuck(told):
            told.wait()
        async def main():
            import threading
            pool, told = loop_pool.current_pool(), threading.Event()
            unregister = pool.on_stuck(lambda incident: told.set())
            if not (pid := os.fork()):
                os._exit(0 if child(pool, unregister) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            await loop_pool.spawn(get_stuck(told), loop=pool.loops[1])
            print("told")
        loop_pool.run(main(), loops=2, stuck_after=0.02)
    """
    assert check_script(source) == "told\n"


def test_what_is_registered_is_forgotten_with_the_pool() -> None:
    import gc
    import weakref

    class Callback:
        def __call__(self, incident: StuckLoop) -> None:
            """Do nothing."""

    async def main() -> weakref.ref[Callback]:
        callback = Callback()
        loop_pool.current_pool().on_stuck(callback)
        return weakref.ref(callback)

    reference = run(main)
    gc.collect()
    assert reference() is None


# The end


def test_a_loop_that_is_stuck_as_the_pool_begins_to_end(log: Records) -> None:
    leave = threading.Event()

    async def get_stuck() -> None:
        assert leave.wait(HANG)

    async def main() -> None:
        spawn_on(1, get_stuck())
        await asyncio.to_thread(log.wait, BEGUN)
        # Nobody leads the loop out before the pool waits for it.
        asyncio.get_running_loop().call_soon(waiter.start)

    waiter = threading.Thread(target=lambda: (time.sleep(2 * LIMIT), leave.set()))
    run(main, stuck_after=LIMIT)
    waiter.join()
    assert len(log.about(BEGUN)) == len(log.about(ENDED)) == 1


def test_a_loop_that_outlasts_the_pool_has_no_end() -> None:
    source = """
        import asyncio, logging, loop_pool, sys, threading
        loop_pool._pool.grace.GRACE = 0.2  # each phase waits so long
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        entered = threading.Event()
        async def get_stuck():
            threading.Event().wait()
        def note(incident):
            if [frame.name for frame in incident.task_stack[:1]] == ["get_stuck"]:
                print("told", incident.name, incident.ended)
                entered.set()
        async def main():
            pool = loop_pool.current_pool()
            pool.on_stuck(note)
            loop_pool.spawn(get_stuck(), loop=pool.loops[1])
            await asyncio.to_thread(entered.wait)
        loop_pool.run(main(), loops=2, stuck_after=0.02, shutdown_timeout=0.01)
        print([thread.name for thread in threading.enumerate() if "watch" in thread.name])
    """
    done = run_script(source)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("told")] == ["told loop-pool-1 False"]
    assert sum(BEGUN in line and CULPRIT in line for line in lines) == 1
    assert not any(ENDED in line and CULPRIT in line for line in lines)
    assert any("ERROR loop-pool-1 did not stop" in line for line in lines)
    assert lines[-1] == "[]"


def test_a_reporting_thread_that_does_not_end_is_named(
    log: Records, logged_errors: list[str]
) -> None:
    leave, entered = threading.Event(), threading.Event()

    def hang(_: StuckLoop) -> None:
        entered.set()
        assert leave.wait(HANG)

    async def get_stuck() -> None:
        assert entered.wait(HANG)

    async def main() -> None:
        loop_pool.current_pool().on_stuck(hang)
        await spawn_on(1, get_stuck())

    run(main, stuck_after=LIMIT, shutdown_timeout=0.01)
    (watcher,) = watchers()
    leave.set()
    watcher.join(HANG)
    assert logged_errors == [f"{WATCH} did not stop: it is inside a callback of on_stuck"]
    logged_errors.clear()


def test_a_runner_tells_in_every_run(log: Records) -> None:
    async def get_stuck(count: int) -> None:
        log.wait(BEGUN, count=count)

    with loop_pool.Runner(loops=1, stuck_after=LIMIT) as runner:
        for count in (1, 2):
            runner.run(get_stuck(count))
            # Between two runs no loop is in a callback.
            log.wait(ENDED, count=count)
        assert len(watchers()) == 1
    assert not watchers()


def test_pools_side_by_side_tell_of_their_own(log: Records) -> None:
    first = threading.Event()

    def other() -> None:
        async def main() -> None:
            heard = Heard()
            await spawn_on(1, get_stuck(heard, first.set))

        run(main, stuck_after=LIMIT)

    async def get_stuck(heard: Heard, then: Callable[[], None]) -> None:
        assert heard.next().loop is asyncio.get_running_loop()
        then()

    async def main() -> None:
        heard = Heard()
        await asyncio.to_thread(in_thread, other)
        assert first.is_set()
        await spawn_on(1, get_stuck(heard, lambda: None))

    run(main, stuck_after=LIMIT)
