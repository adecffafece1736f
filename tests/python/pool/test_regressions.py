"""Promises of the pool that were broken once: each test would have failed then."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

import pytest

import loop_pool

from ..support import HANG, asleep_or_ended, check_script, eventually, run_script, wait_for
from .support import loops, run, where

pytestmark = pytest.mark.usefixtures("clean_process")

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


class _NeverShown:
    """A callback that fails, and that no report can describe: the error ends the loop's turn."""

    def __call__(self) -> None:
        raise ValueError("in the callback")

    def __repr__(self) -> str:
        raise ZeroDivisionError("in the report")


# Whoever waits for a coroutine is told


@pytest.mark.parametrize("index", [1, 2])
def test_a_loop_goes_on_after_an_error_that_ended_its_turn(
    index: int, logged_errors: list[str]
) -> None:
    async def answer(gate: asyncio.Event) -> asyncio.AbstractEventLoop:
        await gate.wait()
        return asyncio.get_running_loop()

    async def main() -> None:
        loop = loops()[index]
        gate = asyncio.Event()
        task = loop_pool.spawn(answer(gate), loop=loop)
        for _ in range(3):
            loop.call_soon_threadsafe(_NeverShown())
            assert await loop_pool.spawn(where(), loop=loop) is loop
        loop.call_soon_threadsafe(gate.set)
        assert await task is loop
        for task in [loop_pool.spawn(where()) for _ in range(20)]:
            assert await task in loops()

    run(main, loops=3)
    assert any(f"loop-pool-{index}" in message for message in logged_errors)
    logged_errors.clear()


def test_a_loop_that_cannot_go_on_leaves_nobody_waiting() -> None:
    printed = run_script(
        """
        import asyncio, logging, loop_pool, sys, threading
        logging.disable(logging.CRITICAL)
        threading.excepthook = lambda args: None

        class Fatal:
            def __call__(self):
                asyncio.get_running_loop().call_soon(self)
                raise ValueError
            def __repr__(self):
                raise ZeroDivisionError

        async def outcome(awaitable):
            try:
                return await awaitable
            except BaseException as error:
                return type(error).__name__

        async def where():
            await asyncio.sleep(0)
            return asyncio.get_running_loop()

        async def main():
            first, second, third = loop_pool.current_pool().loops
            def wait():
                return loop_pool.spawn(asyncio.Event().wait(), loop=second)
            tasks = [wait() for _ in range(5)]
            waiting = [
                asyncio.create_task(outcome(tasks[0])),
                asyncio.create_task(outcome(asyncio.wait_for(tasks[1], 1000))),
                asyncio.create_task(asyncio.to_thread(tasks[2].exception)),
                loop_pool.spawn(outcome(tasks[3]), loop=third),
            ]
            abandoned = asyncio.create_task(outcome(tasks[4]))
            await loop_pool.spawn(asyncio.sleep(0), loop=second)
            second.call_soon_threadsafe(Fatal())
            for each in waiting:
                result = await each
                print(result if isinstance(result, str) else type(result).__name__)
            abandoned.cancel()
            print(await outcome(abandoned) in ("CancelledError", "RuntimeError"))
            print([task.done() for task in tasks], [task.cancel() for task in tasks])
            for _ in range(30):
                assert await loop_pool.spawn(where()) in (first, third)
            print(await outcome(loop_pool.spawn(where(), loop=third)) is third)
            try:
                loop_pool.spawn(where(), loop=second)
            except RuntimeError:
                print("refused")

        loop_pool.run(main(), loops=3)
        print("ended", threading.active_count())
        """
    )
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.splitlines() == [
        *["RuntimeError"] * 4,
        "True",
        f"{[True] * 5} {[False] * 5}",
        "True",
        "refused",
        "ended 1",
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_a_task_factory_that_raises_reaches_whoever_awaits(
    index: int, logged_errors: list[str]
) -> None:
    def refuse(loop: asyncio.AbstractEventLoop, coro: Any, **_: Any) -> Any:
        raise ZeroDivisionError("no task")

    async def main() -> None:
        loop = loops()[index]
        coroutine = where()
        loop.set_task_factory(refuse)
        task = loop_pool.spawn(coroutine, loop=loop)
        try:
            # `wait_for` and its like make no task of their own.
            with pytest.raises(ZeroDivisionError, match="no task"):
                await task
        finally:
            loop.set_task_factory(None)
        assert task.done()
        assert not task.cancelled()
        # Closed, not lost: nothing says that it was never awaited.
        assert coroutine.cr_frame is None
        assert await loop_pool.spawn(where(), loop=loop) is loop

    run(main)
    logged_errors.clear()


async def _await[T](task: loop_pool.PoolTask[T]) -> T:
    return await task


# Exceptions of tasks


async def _fail(gate: asyncio.Event) -> None:
    await gate.wait()
    raise ZeroDivisionError


async def _fail_before_a_waiting_thread(method: str) -> weakref.ref[Any]:
    """A task that a thread waited for by `method`, and that nobody has any longer."""
    gate = asyncio.Event()
    tasks = [loop_pool.spawn(_fail(gate), loop=loops()[1])]
    gone = weakref.ref(tasks[0])
    got: list[type[BaseException]] = []
    about = threading.Event()

    def wait() -> None:
        about.set()
        try:
            # No frame of the traceback keeps the task.
            got.append(type(getattr(tasks.pop(), method)(HANG)))
        except ZeroDivisionError:
            got.append(ZeroDivisionError)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert about.wait(HANG)
    wait_for(lambda: asleep_or_ended(waiter), "the thread waits")
    loops()[1].call_soon_threadsafe(gate.set)
    await asyncio.to_thread(waiter.join, HANG)
    assert got == [ZeroDivisionError]
    return gone


async def _fail_before_an_awaiter(kind: str) -> weakref.ref[Any]:
    """A task that was awaited, and that nobody has any longer."""
    gate = asyncio.Event()
    tasks = [loop_pool.spawn(_fail(gate), loop=loops()[1])]
    gone = weakref.ref(tasks[0])
    loops()[1].call_soon_threadsafe(gate.set)
    if kind == "done":
        await eventually(tasks[0].done, "the task is done")
    with suppress(ZeroDivisionError):
        await tasks.pop()
    return gone


@pytest.mark.parametrize("method", ["result", "exception"])
def test_an_exception_that_a_waiting_thread_got_was_retrieved(method: str) -> None:
    async def main() -> None:
        gone = await _fail_before_a_waiting_thread(method)

        def freed() -> bool:
            gc.collect()
            return gone() is None

        await eventually(freed, "the task is freed")

    # `clean_process` asserts that nothing was reported.
    run(main)


@pytest.mark.parametrize("method", ["result", "exception"])
def test_a_failed_task_that_a_thread_waited_for_is_freed_without_the_collector(
    method: str, no_collection: None
) -> None:
    async def main() -> None:
        gone = await _fail_before_a_waiting_thread(method)
        await eventually(lambda: gone() is None, "the task is freed")

    run(main)


@pytest.mark.parametrize("kind", ["pending", "done"])
def test_a_failed_task_that_was_awaited_is_freed_without_the_collector(
    kind: str, no_collection: None
) -> None:
    async def main() -> None:
        gone = await _fail_before_an_awaiter(kind)
        await eventually(lambda: gone() is None, "the task is freed")

    run(main)


# Contexts


@pytest.mark.parametrize("index", [0, 1])
def test_a_coroutine_runs_in_the_context_it_is_given_even_an_empty_one(index: int) -> None:
    async def change() -> str:
        before = MOOD.get()
        MOOD.set("the coroutine's")
        return before

    async def main() -> None:
        MOOD.set("the spawner's")
        # As `asyncio.create_task` does.
        empty = contextvars.Context()
        assert await asyncio.create_task(change(), context=empty) == "none"
        assert empty[MOOD] == "the coroutine's"
        empty = contextvars.Context()
        assert await loop_pool.spawn(change(), loop=loops()[index], context=empty) == "none"
        assert empty[MOOD] == "the coroutine's"
        assert MOOD.get() == "the spawner's"

    run(main)


# A pool that cannot start


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_thread_that_cannot_start_is_the_error_and_the_others_are_joined(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == f"loop-pool-{number}":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    main = where()
    with pytest.raises(RuntimeError, match="can't start new thread") as seen:
        loop_pool.run(main, loops=4)
    main.close()
    assert seen.value.__context__ is None
    # The process may run another pool.
    monkeypatch.undo()
    loop = run(where)
    assert loop.is_closed()


@pytest.mark.parametrize("begun", [False, True], ids=["before it starts", "after it started"])
@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_of_a_pool_that_starts_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, number: int, begun: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if begun or thread.name != f"loop-pool-{number}":
            start(thread)
        if thread.name == f"loop-pool-{number}":
            # Where `start` waits for the new thread.
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    main = where()
    # `clean_process` asserts that no thread is left.
    with pytest.raises(KeyboardInterrupt):
        loop_pool.run(main, loops=4)
    main.close()


def test_an_interrupt_while_a_thread_makes_its_loop_ends_that_thread() -> None:
    printed = check_script(
        """
        import asyncio, faulthandler, loop_pool, os, signal, threading

        faulthandler.dump_traceback_later(50, exit=True)
        interrupted, joined = threading.Event(), threading.Event()

        def interrupt(*_):
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        init, join = loop_pool.EventLoop.__init__, threading.Thread.join

        def slow_init(self, *args):
            if threading.current_thread() is not threading.main_thread():
                # Again, until it finds the main thread asleep.
                while not interrupted.wait(0.01):
                    os.kill(os.getpid(), signal.SIGINT)
                # The loop is there no sooner than the pool waits for its thread, or gave it up.
                joined.wait()
            init(self, *args)

        def note_join(self, timeout=None):
            joined.set()
            join(self, timeout)

        loop_pool.EventLoop.__init__ = slow_init
        threading.Thread.join = note_join
        main = asyncio.sleep(0)
        try:
            loop_pool.run(main, loops=2)
        except KeyboardInterrupt as error:
            print("interrupted", error.__context__)
        finally:
            main.close()
            joined.set()
        print(threading.active_count())
        """
    )
    assert printed == "interrupted None\n1\n"


# The end of a pool


_DEADLINE = """
    import asyncio, logging, loop_pool, sys, threading
    loop_pool._pool.grace.GRACE = 0.8
    logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
    release = threading.Event()
    kept = []

    async def generate():
        try:
            yield 1
        finally:
            await asyncio.Event().wait()

    async def leave_generator():
        kept.append(generate())
        await anext(kept[-1])

    async def leave_job():
        loop, started = asyncio.get_running_loop(), asyncio.Event()
        def job():
            loop.call_soon_threadsafe(started.set)
            release.wait()
        loop.run_in_executor(None, job)
        await started.wait()

    async def main():
        leave = {"generator": leave_generator, "job": leave_job}[sys.argv[1]]
        await loop_pool.spawn(leave(), loop=loop_pool.current_pool().loops[int(sys.argv[2])])

    loop_pool.run(main(), loops=3, shutdown_timeout=0.1)
    print("ended", [each.name for each in threading.enumerate() if "loop" in each.name], flush=True)
    release.set()
"""


@pytest.mark.parametrize("what", ["generator", "job"])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("warnings", ["error", "ignore"])
def test_a_loop_that_misses_the_deadline_of_the_end_holds_nobody_up(
    what: str, index: int, warnings: str
) -> None:
    # Neither of them ends by itself: without the deadline it would never be over.
    done = run_script(_DEADLINE, what, str(index), options=["-W", warnings])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "ended []" in lines
    accused = {word for line in lines for word in line.split() if word.startswith("loop-pool-")}
    assert accused <= {f"loop-pool-{index}:"}, lines


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_while_the_pool_ends_leaves_nothing_unfinished(
    index: int, kind: type[BaseException], logged_errors: list[str]
) -> None:
    ended: list[str] = []

    async def clean_up(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            ended.append(name)

    async def leave() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise kind(7)

    async def main() -> None:
        for number, loop in enumerate(loops()):
            loop_pool.spawn(clean_up(f"first of {number}"), loop=loop)
            if number == index:
                loop_pool.spawn(leave(), loop=loop)
            loop_pool.spawn(clean_up(f"second of {number}"), loop=loop)
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)

    with suppress(kind):
        run(main, loops=3)
    assert sorted(ended) == sorted(
        f"{which} of {number}" for which in ("first", "second") for number in range(3)
    )
    _only_the_exit_is_reported(logged_errors)


def _only_the_exit_is_reported(logged_errors: list[str]) -> None:
    gc.collect()
    for message in logged_errors:
        assert message.startswith(
            ("unhandled exception during loop_pool.run() shutdown", "PoolTask exception was never")
        )
    logged_errors.clear()


def test_generators_and_executors_end_after_an_exit_while_the_pool_ends(
    logged_errors: list[str],
) -> None:
    ended: list[str] = []
    kept: list[Any] = []

    async def generate() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(threading.current_thread().name)

    async def leave() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise SystemExit(7)

    async def use() -> None:
        kept.append(generate())
        await anext(kept[-1])
        await asyncio.to_thread(int)

    async def main() -> None:
        for loop in loops():
            await loop_pool.spawn(use(), loop=loop)
        loop_pool.spawn(leave(), loop=loops()[0])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops()[0])

    # `clean_process` asserts that the threads of the executors have ended.
    with pytest.raises(SystemExit):
        run(main, loops=3)
    names = {threading.current_thread().name, "loop-pool-1", "loop-pool-2"}
    assert set(ended) == names
    _only_the_exit_is_reported(logged_errors)


def test_an_exit_in_the_turn_of_the_stop_does_not_undo_it() -> None:
    async def main() -> None:
        loop = loops()[1]
        stop = loop.stop

        def stop_and_exit() -> None:
            # As a callback that runs right after it in the same turn.
            stop()
            raise SystemExit(7)

        loop.stop = stop_and_exit  # type: ignore[method-assign]

    # `clean_process` asserts that no thread is left and none was reported as stuck.
    with suppress(SystemExit):
        run(main, shutdown_timeout=1.0)


# Spawning where Python may run at any time


def test_a_signal_handler_may_spawn_while_its_thread_does() -> None:
    printed = check_script(
        """
        import asyncio, faulthandler, loop_pool, signal

        faulthandler.dump_traceback_later(50, exit=True)
        spawned = []

        async def answer(text):
            return text

        async def main():
            loop = asyncio.get_running_loop()
            signal.signal(
                signal.SIGUSR1,
                lambda *_: spawned.append(loop_pool.spawn(answer("handler's"), loop=loop)),
            )

            class Name:
                def __str__(self):
                    # In the midst of `spawn`.
                    signal.raise_signal(signal.SIGUSR1)
                    return "interrupted"

            print(await loop_pool.spawn(answer("main's"), loop=loop, name=Name()))
            print(await spawned[0])

        loop_pool.run(main(), loops=2)
        """
    )
    assert printed == "main's\nhandler's\n"


def test_an_exit_on_another_loop_ends_every_run_of_a_runner() -> None:
    async def leave() -> None:
        sys.exit(3)

    left: list[loop_pool.PoolTask[None]] = []

    async def main() -> None:
        left.append(loop_pool.spawn(leave(), loop=loops()[1]))
        await asyncio.Event().wait()

    with loop_pool.Runner(loops=2) as runner:
        for _ in range(2):
            with pytest.raises(SystemExit) as exit_:
                runner.run(main())
            assert exit_.value.code == 3
            assert left.pop().exception(HANG) is exit_.value


def test_a_loop_that_sleeps_counts_as_idle_whatever_it_did_before() -> None:
    async def burst() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(500)))

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main() -> None:
        await loop_pool.spawn(burst(), loop=loops()[1])
        # Loop 0 is inside this very callback; the other one takes it as soon as it sleeps.
        while await loop_pool.spawn(where()) is not loops()[1]:
            pass

    run(main)


def test_a_thread_that_begins_after_its_pool_was_given_up_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        if not thread.name.startswith("loop-pool-"):
            return start(thread)
        late.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    runner = loop_pool.Runner(loops=2)
    with pytest.raises(KeyboardInterrupt):
        runner.get_pool()
    (thread,) = late
    start(thread)
    thread.join(HANG)
    assert not thread.is_alive()
