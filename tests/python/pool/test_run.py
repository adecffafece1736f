"""`loop_pool.run` and `loop_pool.Runner`: asyncio's rules, with a pool around them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from typing import Any

import pytest

import loop_pool

from ..support import HANG, check_script, in_thread, kill_when_parked, run_python, wait_parked

pytestmark = pytest.mark.usefixtures("clean_process")

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


async def _nothing() -> None:
    """Ends at once."""


async def _five() -> int:
    await asyncio.sleep(0)
    return 5


# Results


@pytest.mark.smoke
@pytest.mark.parametrize("loops", [1, 2, 4])
def test_run_returns_what_main_returns(loops: int) -> None:
    assert loop_pool.run(_five(), loops=loops) == 5


@pytest.mark.smoke
@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_run_raises_what_main_raises(kind: type[BaseException]) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        raise kind(7)

    with pytest.raises(kind) as seen:
        loop_pool.run(main(), loops=2)
    assert seen.value.args == (7,)


def test_run_raises_cancelled_error_when_main_cancels_itself() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        loop_pool.run(main(), loops=2)


def test_run_takes_any_awaitable() -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return _five().__await__()

    assert loop_pool.run(Awaitable(), loops=1) == 5  # type: ignore[arg-type]


# Loops and threads


@pytest.mark.smoke
def test_each_loop_has_a_thread_of_its_own_and_loop_0_the_caller_s() -> None:
    async def where() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        return asyncio.get_running_loop(), threading.current_thread()

    async def main() -> None:
        pool = loop_pool.current_pool()
        assert len(pool.loops) == 3
        assert pool.loops[0] is asyncio.get_running_loop()
        assert threading.current_thread() is caller
        seen = [await loop_pool.spawn(where(), loop=loop) for loop in pool.loops]
        assert [loop for loop, _ in seen] == list(pool.loops)
        assert seen[0][1] is caller
        assert [thread.name for _, thread in seen[1:]] == ["loop-pool-1", "loop-pool-2"]
        assert [record.name for record in pool.stats()] == [f"loop-pool-{n}" for n in range(3)]

    caller = threading.current_thread()
    loop_pool.run(main(), loops=3)


def test_the_pool_s_loops_are_ours() -> None:
    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            assert type(loop) is loop_pool.EventLoop
            assert loop.is_running()

    loop_pool.run(main(), loops=2)


def test_by_default_there_is_a_loop_for_each_core() -> None:
    async def main() -> int:
        return len(loop_pool.current_pool().loops)

    assert 1 <= loop_pool.run(main()) <= (os.process_cpu_count() or 1)
    assert loop_pool.run(main(), loops=None) == loop_pool.run(main())


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_number_of_cores_that_python_is_told_counts(how: str, cores: int) -> None:
    program = """
import os, loop_pool

async def main():
    print(len(loop_pool.current_pool().loops), os.process_cpu_count())

loop_pool.run(main())
"""
    told = ["-X", f"cpu_count={cores}"] if how == "option" else []
    environment = {} if how == "option" else {"PYTHON_CPU_COUNT": str(cores)}
    printed = run_python(*told, "-c", program, env=os.environ | environment, check=True).stdout
    assert printed.split() == [str(cores)] * 2


def test_a_pool_runs_in_any_thread() -> None:
    async def main() -> threading.Thread:
        return threading.current_thread()

    thread = in_thread(lambda: (loop_pool.run(main(), loops=2), threading.current_thread()))
    assert thread[0] is thread[1]


def test_two_pools_at_once_keep_apart() -> None:
    both = threading.Barrier(2, timeout=HANG)

    async def main() -> loop_pool.Pool:
        pool = loop_pool.current_pool()
        await asyncio.to_thread(both.wait)
        for loop in pool.loops:
            assert await loop_pool.spawn(_pool(), loop=loop) is pool
        await asyncio.to_thread(both.wait)
        return pool

    other: list[loop_pool.Pool] = []
    thread = threading.Thread(target=lambda: other.append(loop_pool.run(main(), loops=2)))
    thread.start()
    mine = loop_pool.run(main(), loops=2)
    thread.join(HANG)
    assert other[0] is not mine


async def _pool() -> loop_pool.Pool:
    return loop_pool.current_pool()


@pytest.mark.parametrize("debug", [True, False])
def test_debug_is_set_on_every_loop(debug: bool) -> None:
    async def main() -> list[bool]:
        return [loop.get_debug() for loop in loop_pool.current_pool().loops]

    assert loop_pool.run(main(), loops=2, debug=debug) == [debug, debug]


# Arguments


@pytest.mark.parametrize("loops", [0, -1, -(10**30), 10**30])
def test_a_count_that_makes_no_sense_is_refused(loops: int) -> None:
    coroutine = _nothing()
    with pytest.raises(ValueError, match="loops"):
        loop_pool.run(coroutine, loops=loops)
    coroutine.close()
    with pytest.raises(ValueError, match="loops"):
        loop_pool.Runner(loops=loops)


@pytest.mark.parametrize("loops", [1.5, "2", [2], 2.0], ids=repr)
def test_a_count_that_is_no_integer_is_refused(loops: Any) -> None:
    coroutine = _nothing()
    with pytest.raises(TypeError, match="loops"):
        loop_pool.run(coroutine, loops=loops)
    coroutine.close()


@pytest.mark.smoke
@pytest.mark.parametrize("main", [_nothing, 1, None, "main"], ids=["function", "1", "None", "str"])
def test_what_is_no_coroutine_is_refused(main: Any) -> None:
    with pytest.raises(TypeError):
        loop_pool.run(main, loops=2)
    with loop_pool.Runner(loops=2) as runner, pytest.raises(TypeError):
        runner.run(main)


@pytest.mark.smoke
@pytest.mark.parametrize("outer", [asyncio.run, loop_pool.run], ids=["asyncio", "loop_pool"])
def test_a_run_within_a_run_is_refused(outer: Any) -> None:
    async def main() -> None:
        coroutine = _nothing()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            loop_pool.run(coroutine, loops=1)
        runner = loop_pool.Runner(loops=1)
        with pytest.raises(RuntimeError, match="running"):
            runner.run(coroutine)
        runner.close()
        coroutine.close()

    outer(main())


# Runner


def test_a_runner_runs_more_than_once_on_the_same_loops() -> None:
    async def main() -> tuple[loop_pool.Pool, tuple[loop_pool.EventLoop, ...]]:
        pool = loop_pool.current_pool()
        return pool, pool.loops

    with loop_pool.Runner(loops=2) as runner:
        first, second = runner.run(main()), runner.run(main())
        assert first == second
        assert first[0] is runner.get_pool()
        assert first[1][0] is runner.get_loop()


def test_other_loops_go_on_between_two_runs() -> None:
    async def count() -> None:
        while True:
            counted[0] += 1
            if counted[0] == 100:
                reached.set()
            await asyncio.sleep(0)

    async def main() -> None:
        loop_pool.spawn(count(), loop=loop_pool.current_pool().loops[1])

    counted, reached = [0], threading.Event()
    with loop_pool.Runner(loops=2) as runner:
        runner.run(main())
        assert reached.wait(HANG)


def test_a_runner_is_usable_after_main_has_failed() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with loop_pool.Runner(loops=2) as runner:
        with pytest.raises(ZeroDivisionError):
            runner.run(fails())
        assert runner.run(_five()) == 5


def test_a_closed_runner_refuses() -> None:
    runner = loop_pool.Runner(loops=2)
    assert runner.run(_five()) == 5
    loop = runner.get_loop()
    runner.close()
    runner.close()
    assert loop.is_closed()
    coroutine = _nothing()
    for use in (lambda: runner.run(coroutine), runner.get_loop, runner.get_pool):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    coroutine.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.__enter__()


def test_a_runner_never_used_closes() -> None:
    loop_pool.Runner(loops=2).close()
    with loop_pool.Runner(loops=2):
        pass


def test_a_runner_s_context_lives_as_long_as_the_runner() -> None:
    async def set_mood(mood: str) -> None:
        MOOD.set(mood)

    async def get_mood() -> str:
        return MOOD.get()

    with loop_pool.Runner(loops=2) as runner:
        runner.run(set_mood("good"))
        assert runner.run(get_mood()) == "good"
        other = contextvars.copy_context()
        runner.run(set_mood("bad"), context=other)
        assert other[MOOD] == "bad"
        assert runner.run(get_mood(), context=other) == "bad"
        assert runner.run(get_mood()) == "good"
    assert MOOD.get() == "none"


# Interruptions


@pytest.mark.smoke
def test_the_first_interrupt_cancels_main() -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    with kill_when_parked(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        loop_pool.run(main(), loops=2)
    assert seen == ["cancelled", "cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_interrupt_raises_at_once() -> None:
    seen: list[str] = []

    async def main() -> None:
        me = threading.get_native_id()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            second = threading.Thread(target=interrupt_again, args=(me,))
            second.start()
            threads.append(second)
            await asyncio.Event().wait()

    def interrupt_again(native_id: int) -> None:
        wait_parked(native_id)
        os.kill(os.getpid(), signal.SIGINT)

    threads: list[threading.Thread] = []
    with kill_when_parked(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        loop_pool.run(main(), loops=2)
    threads[0].join(HANG)
    assert seen == ["cancelled"]


def test_main_may_swallow_the_interrupt() -> None:
    async def main() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "swallowed"
        return "not reached"

    with kill_when_parked(signal.SIGINT):
        assert loop_pool.run(main(), loops=2) == "swallowed"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_on_another_loop_ends_the_run(
    kind: type[BaseException], logged_errors: list[str]
) -> None:
    async def leave() -> None:
        raise kind(9)

    async def main() -> None:
        loop_pool.spawn(leave(), loop=loop_pool.current_pool().loops[1])
        await asyncio.Event().wait()

    with pytest.raises(kind) as seen:
        loop_pool.run(main(), loops=2)
    assert seen.value.args == (9,)
    logged_errors.clear()  # asyncio, too, reports that nobody fetched the task's exception.


def test_an_interrupted_program_ends() -> None:
    printed = check_script(
        """
        import asyncio, loop_pool, os, signal, threading
        begun = threading.Event()
        async def worker():
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                print("worker ended")
        async def main():
            started = loop_pool.spawn(worker(), loop=loop_pool.current_pool().loops[1])
            await asyncio.to_thread(begun.wait)
            os.kill(os.getpid(), signal.SIGINT)
            await started
        try:
            loop_pool.run(main(), loops=2)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert printed == "worker ended\ninterrupted\n"


@pytest.mark.smoke
def test_a_program_leaves_the_gil_off() -> None:
    printed = check_script(
        """
        import sys, sysconfig
        import loop_pool
        async def main():
            return sys._is_gil_enabled()
        on = loop_pool.run(main(), loops=2)
        print(on == (not sysconfig.get_config_var("Py_GIL_DISABLED")))
        """
    )
    assert printed == "True\n"
