"""The end of a pool: everything on every loop is ended, waited for, reported and released."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, run_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

pytestmark = pytest.mark.usefixtures("clean_process")

LOOPS = 3


def on_every_loop(make: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Runs a pool whose `main` ends once `make()` has begun to wait on each loop."""

    async def main() -> None:
        # Callbacks of one loop run in order: what was spawned before has run to its first wait.
        for loop in loop_pool.current_pool().loops:
            loop_pool.spawn(make(), loop=loop)
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)

    loop_pool.run(main(), loops=LOOPS)


async def _name() -> str:
    return threading.current_thread().name


# Tasks


@pytest.mark.smoke
def test_tasks_left_on_every_loop_are_cancelled_and_awaited() -> None:
    ended: list[asyncio.AbstractEventLoop] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append(asyncio.get_running_loop())
            raise

    on_every_loop(wait)
    assert len(set(ended)) == LOOPS


def test_asyncio_s_own_tasks_are_ended_too() -> None:
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            ended.append(name)

    kept: list[asyncio.Task[None]] = []

    async def start() -> None:
        kept.append(asyncio.create_task(wait(await _name())))
        await asyncio.sleep(0)

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            await loop_pool.spawn(start(), loop=loop)

    loop_pool.run(main(), loops=LOOPS)
    assert len(ended) == LOOPS
    assert all(task.cancelled() for task in kept)


def test_tasks_begun_while_others_end_are_ended_too() -> None:
    ended: list[int] = []

    async def chain(left: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            if left:
                kept.append(asyncio.create_task(chain(left - 1)))
                await asyncio.sleep(0)
            ended.append(left)

    kept: list[asyncio.Task[None]] = []
    on_every_loop(lambda: chain(3))
    assert sorted(ended) == sorted([0, 1, 2, 3] * LOOPS)


def test_exceptions_of_tasks_that_are_ended_are_reported(logged_errors: list[str]) -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    on_every_loop(fails)
    reports = [
        message for message in logged_errors if "during" in message and "shutdown" in message
    ]
    assert len(reports) == LOOPS
    logged_errors.clear()


def test_exceptions_of_tasks_reach_their_loop_s_handler() -> None:
    reported: list[tuple[object, object]] = []

    async def fails() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reported.append((loop, type(context.get("exception"))))
        )
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    on_every_loop(fails)
    by_loop = {loop for loop, kind in reported if kind is ZeroDivisionError}
    assert len(by_loop) == LOOPS


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_the_end_is_the_same_when_main_fails(kind: type[BaseException]) -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(await _name())

    async def main() -> None:
        for loop in loop_pool.current_pool().loops[1:]:
            loop_pool.spawn(wait(), loop=loop)
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)
        raise kind

    with pytest.raises(kind):
        loop_pool.run(main(), loops=LOOPS)
    assert sorted(ended) == ["loop-pool-1", "loop-pool-2"]


def test_work_accepted_just_before_the_end_is_ended_or_runs() -> None:
    ran: list[str] = []

    async def late() -> None:
        ran.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            ran.append("ended")

    async def main() -> None:
        for _ in range(100):
            for loop in loop_pool.current_pool().loops:
                loop_pool.spawn(late(), loop=loop)

    loop_pool.run(main(), loops=LOOPS)
    assert ran.count("started") == ran.count("ended")


def test_new_work_is_refused_while_the_pool_ends() -> None:
    refused: list[str] = []

    async def wait(pool: loop_pool.Pool) -> None:
        coroutine = asyncio.sleep(0)
        try:
            await asyncio.Event().wait()
        finally:
            try:
                loop_pool.spawn(coroutine)
            except RuntimeError as exc:
                refused.append(str(exc))
            coroutine.close()

    async def main() -> None:
        pool = loop_pool.current_pool()
        for loop in pool.loops:
            loop_pool.spawn(wait(pool), loop=loop)
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)

    loop_pool.run(main(), loops=LOOPS)
    assert len(refused) == LOOPS


# Generators, executors, threads, descriptors


@pytest.mark.smoke
def test_asynchronous_generators_of_every_loop_are_closed() -> None:
    closed: set[str] = set()
    kept: list[AsyncIterator[int]] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.add(await _name())

    async def begin() -> None:
        kept.append(numbers())
        assert await anext(kept[-1]) == 1

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            await loop_pool.spawn(begin(), loop=loop)

    loop_pool.run(main(), loops=LOOPS)
    names = {threading.current_thread().name, "loop-pool-1", "loop-pool-2"}
    assert closed == names


def test_executors_of_every_loop_are_shut_down() -> None:
    async def use() -> None:
        await asyncio.to_thread(int)

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            await loop_pool.spawn(use(), loop=loop)
        assert threading.active_count() >= before + 2 * LOOPS - 1

    before = threading.active_count()
    loop_pool.run(main(), loops=LOOPS)
    assert threading.active_count() == before


@pytest.mark.smoke
def test_nothing_is_left_after_many_runs() -> None:
    async def main() -> None:
        async with await loop_pool.start_server(_hang_up, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    for _ in range(20):
        loop_pool.run(main(), loops=LOOPS)


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_every_loop_is_closed() -> None:
    async def main() -> tuple[loop_pool.EventLoop, ...]:
        return loop_pool.current_pool().loops

    for loop in loop_pool.run(main(), loops=LOOPS):
        assert loop.is_closed()
        assert not loop.is_running()


def test_timers_and_readers_left_behind_do_not_hold_the_end_up() -> None:
    async def leave() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(10_000, print)

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            await loop_pool.spawn(leave(), loop=loop)

    loop_pool.run(main(), loops=LOOPS)


def test_results_awaited_at_the_end_arrive() -> None:
    results: list[str] = []

    async def answer() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "answered late"
        return "not reached"

    async def wait(task: loop_pool.PoolTask[str]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            results.append(await task)

    async def main() -> None:
        loops = loop_pool.current_pool().loops
        task = loop_pool.spawn(answer(), loop=loops[1])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops[1])
        loop_pool.spawn(wait(task), loop=loops[2])
        await loop_pool.spawn(asyncio.sleep(0), loop=loops[2])

    loop_pool.run(main(), loops=LOOPS)
    assert results == ["answered late"]


# The deadline


def test_a_task_that_does_not_end_is_named_with_its_loop() -> None:
    done = run_script(
        """
        import asyncio, logging, loop_pool, sys
        logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
        async def stubborn():
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    print("refused", flush=True)
        async def main():
            loop = loop_pool.current_pool().loops[1]
            loop_pool.spawn(stubborn(), loop=loop, name="the stubborn one")
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)
            return 5
        with loop_pool.Runner(loops=3, shutdown_timeout=0.2) as runner:
            print(runner.run(main()))
        print("ended")
        """
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "5" in lines
    assert "refused" in lines
    assert "ended" in lines
    reports = [line for line in lines if line.startswith("loop_pool ERROR")]
    assert any("loop-pool-1" in line and "the stubborn one" in line for line in reports), lines


def test_a_thread_that_does_not_end_is_named() -> None:
    done = run_script(
        """
        import asyncio, logging, loop_pool, sys, threading
        loop_pool._pool.grace.GRACE = 0.2  # each phase waits so long
        logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
        stuck = threading.Event()
        async def block():
            stuck.set()
            threading.Event().wait()
        async def main():
            loop_pool.spawn(block(), loop=loop_pool.current_pool().loops[1], name="the stuck one")
            await asyncio.to_thread(stuck.wait)
        with loop_pool.Runner(loops=2, shutdown_timeout=0.2) as runner:
            runner.run(main())
        print("ended")
        """
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "ended" in lines
    reports = [line for line in lines if line.startswith("loop_pool ERROR")]
    assert any("loop-pool-1" in line for line in reports), lines


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_negative_deadline_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="shutdown_timeout"):
        loop_pool.Runner(loops=1, shutdown_timeout=timeout)


def test_without_a_deadline_the_pool_waits_for_its_tasks() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append("slow")

    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]
        loop_pool.spawn(slow(), loop=loop)
        await loop_pool.spawn(asyncio.sleep(0), loop=loop)

    with loop_pool.Runner(loops=2, shutdown_timeout=None) as runner:
        runner.run(asyncio.wait_for(main(), HANG))
    assert ended == ["slow"]


def test_a_cancelled_task_may_clean_up_with_tasks_of_its_own() -> None:
    cleaned: list[str] = []

    async def clean(what: str) -> None:
        await asyncio.sleep(0.01)
        cleaned.append(what)

    async def work(where: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.gather(clean(f"{where} a"), clean(f"{where} b"))

    async def orphan() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("orphan")

    async def leave_an_orphan() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            orphans.append(asyncio.ensure_future(orphan()))
            await asyncio.sleep(0)

    orphans: list[asyncio.Future[None]] = []

    async def main() -> None:
        here, there = loop_pool.current_pool().loops
        tasks = [
            loop_pool.spawn(work("here"), loop=here),
            loop_pool.spawn(work("there"), loop=there),
            loop_pool.spawn(leave_an_orphan(), loop=there),
        ]
        for loop in (here, there):  # what was posted before has begun when this has run
            await loop_pool.spawn(asyncio.sleep(0), loop=loop)
        assert not any(task.done() for task in tasks)

    loop_pool.run(main(), loops=2)
    assert sorted(cleaned) == ["here a", "here b", "orphan", "there a", "there b"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_main_that_ends_as_a_callback_ends_the_program(kind: type[BaseException]) -> None:
    """What is called at the end of `main` is on its way then, and stops the next run."""

    def end_program() -> None:
        raise kind

    async def main() -> None:
        asyncio.get_running_loop().call_soon(end_program)

    with pytest.raises(kind):
        loop_pool.run(main(), loops=2)
