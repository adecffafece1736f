"""`PoolExecutor` and `submit`: the contract of `concurrent.futures` over the loops of a pool."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, check_script, eventually, wait_for
from .support import answer, for_ever, run

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


@pytest.fixture
def executor(count: int) -> Iterator[loop_pool.PoolExecutor]:
    """One with a pool of its own."""
    with loop_pool.PoolExecutor(count) as executor:
        yield executor


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError("in a coroutine")


# Calls


def test_it_is_an_executor_to_everybody(executor: loop_pool.PoolExecutor, count: int) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
    assert executor._max_workers == count


def test_functions_and_coroutine_functions_give_results(executor: loop_pool.PoolExecutor) -> None:
    assert executor.submit(pow, 2, exp=5).result(HANG) == 32
    assert executor.submit(answer, "value").result(HANG) == "value"
    futures = [executor.submit(pow, n, 2) for n in range(500)]
    assert [future.result(HANG) for future in futures] == [n * n for n in range(500)]


def test_they_run_on_the_loops(executor: loop_pool.PoolExecutor, count: int) -> None:
    futures = [executor.submit(asyncio.get_running_loop) for _ in range(50)]
    loops = {future.result(HANG) for future in futures}
    assert len(loops) <= count
    assert all(isinstance(loop, loop_pool.EventLoop) for loop in loops)


def test_functions_run_at_the_same_time(executor: loop_pool.PoolExecutor, count: int) -> None:
    meeting = threading.Barrier(count)
    futures = [executor.submit(meeting.wait, HANG) for _ in range(count)]
    assert sorted(future.result(HANG) for future in futures) == list(range(count))


def test_coroutines_of_one_loop_run_beside_each_other(executor: loop_pool.PoolExecutor) -> None:
    begun: list[None] = []

    async def meet() -> int:
        begun.append(None)
        await eventually(lambda: len(begun) == 20, "all have begun")
        return 1

    assert sum(future.result(HANG) for future in [executor.submit(meet) for _ in range(20)]) == 20


@pytest.mark.parametrize("kind", [ZeroDivisionError, StopIteration, SystemExit, KeyboardInterrupt])
def test_exceptions_are_the_future_s(
    executor: loop_pool.PoolExecutor, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind("in a call")

    assert isinstance(executor.submit(fail).exception(HANG), kind)
    assert isinstance(executor.submit(_fail).exception(HANG), ZeroDivisionError)
    assert executor.submit(int, "7").result(HANG) == 7


def test_calls_run_in_the_context_of_who_submitted_them(executor: loop_pool.PoolExecutor) -> None:
    async def look() -> str:
        return MOOD.get()

    def submit() -> tuple[str, str]:
        MOOD.set("submitted")
        return executor.submit(MOOD.get).result(HANG), executor.submit(look).result(HANG)

    assert contextvars.copy_context().run(submit) == ("submitted", "submitted")
    assert executor.submit(MOOD.get).result(HANG) == "none"


def test_map_keeps_the_order_and_has_a_timeout(executor: loop_pool.PoolExecutor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    assert list(executor.map(answer, range(10))) == list(range(10))
    go = threading.Event()
    with pytest.raises(TimeoutError):
        list(executor.map(go.wait, [HANG], timeout=0.01))
    go.set()


def test_wait_and_as_completed_take_its_futures(executor: loop_pool.PoolExecutor) -> None:
    futures = [executor.submit(answer, number) for number in range(10)]
    done, pending = concurrent.futures.wait(futures, HANG)
    assert (done, pending) == (set(futures), set())
    found = concurrent.futures.as_completed(futures, HANG)
    assert sorted(future.result() for future in found) == list(range(10))


def test_what_has_not_begun_can_be_cancelled(executor: loop_pool.PoolExecutor, count: int) -> None:
    with _Blocked(executor, count):
        future = executor.submit(int)
        assert not future.running()
        assert future.cancel()
        other = executor.submit(int, "1")
    assert other.result(HANG) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


class _Blocked:
    """All loops of an executor are inside a call until the block ends."""

    def __init__(self, executor: loop_pool.PoolExecutor, count: int) -> None:
        self._go = threading.Event()
        inside = threading.Semaphore(0)

        def block() -> None:
            inside.release()
            self._go.wait(HANG)

        self.futures = [executor.submit(block) for _ in range(count)]
        for _ in range(count):
            assert inside.acquire(timeout=HANG)

    def __enter__(self) -> _Blocked:
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()


def test_a_call_that_has_begun_cannot_be_cancelled(executor: loop_pool.PoolExecutor) -> None:
    go = threading.Event()

    async def wait() -> int:
        await eventually(go.is_set, "it may end")
        return 1

    for call in (lambda: go.wait(HANG), wait):
        go.clear()
        future = executor.submit(call)
        wait_for(future.running, "it has begun")
        assert not future.cancel()
        go.set()
        assert future.result(HANG) == 1


def test_many_threads_may_submit(executor: loop_pool.PoolExecutor) -> None:
    futures: list[list[concurrent.futures.Future[int]]] = [[] for _ in range(8)]

    def submit(mine: list[concurrent.futures.Future[int]]) -> Callable[[], None]:
        return lambda: mine.extend(executor.submit(pow, n, 2) for n in range(200))

    with Threads(*(submit(mine) for mine in futures)):
        pass
    assert [[f.result(HANG) for f in mine] for mine in futures] == [[n * n for n in range(200)]] * 8


def test_a_loop_that_is_stuck_otherwise_holds_up_no_call() -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        go = threading.Event()
        stuck = threading.Event()

        def block() -> None:
            stuck.set()
            go.wait(HANG)

        pool.loops[1].call_soon_threadsafe(block)
        await asyncio.to_thread(stuck.wait, HANG)
        for _ in range(10):
            assert await asyncio.wrap_future(loop_pool.submit(int, "3")) == 3
        go.set()

    run(main, 3)


# The end


def test_shutdown_refuses_and_waits(count: int) -> None:
    executor = loop_pool.PoolExecutor(count)
    futures = [executor.submit(answer, n) for n in range(100)]
    futures += [executor.submit(int, n) for n in range(100)]
    late = executor.submit(asyncio.sleep, 0.05, "late")
    executor.shutdown()
    assert late.result(0) == "late"
    assert [future.result(0) for future in futures] == [*range(100), *range(100)]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)
    executor.shutdown()


def test_shutdown_without_waiting_ends_what_was_accepted(count: int) -> None:
    executor = loop_pool.PoolExecutor(count)
    with _Blocked(executor, count):
        future = executor.submit(answer, 1)
        executor.shutdown(wait=False)
        assert not future.done()
    assert future.result(HANG) == 1
    executor.shutdown()


def test_shutdown_cancels_what_has_not_begun(count: int) -> None:
    executor = loop_pool.PoolExecutor(count)
    with _Blocked(executor, count) as blocked:
        futures = [executor.submit(int) for _ in range(10)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        done, _ = concurrent.futures.wait(futures, HANG)
        assert len(done) == 10
    executor.shutdown()
    assert all(future.exception(HANG) is None for future in blocked.futures)


def test_one_that_is_dropped_ends_its_pool(count: int) -> None:
    before = set(threading.enumerate())
    executor = loop_pool.PoolExecutor(count)
    found = weakref.ref(executor)
    future = executor.submit(answer, 1)
    del executor
    gc.collect()
    assert found() is None
    assert future.result(HANG) == 1
    wait_for(lambda: set(threading.enumerate()) == before, "its threads end")


def test_the_exit_of_the_interpreter_waits_for_what_was_accepted() -> None:
    source = """
        import asyncio, loop_pool

        async def work():
            await asyncio.sleep(0.05)
            print("worked", flush=True)

        executor = loop_pool.PoolExecutor(2)
        executor.submit(work)
        print("end of the program", flush=True)
    """
    assert check_script(source).split("\n") == ["end of the program", "worked", ""]


def test_bad_arguments_are_refused() -> None:
    for loops in (0, -1, 5000):
        with pytest.raises(ValueError):
            loop_pool.PoolExecutor(loops)
    with pytest.raises(TypeError):
        loop_pool.PoolExecutor("2")  # type: ignore[arg-type]

    async def main() -> None:
        with pytest.raises(ValueError, match="either `loops` or `pool`"):
            loop_pool.PoolExecutor(2, pool=loop_pool.current_pool())

    run(main, 1)


# With a pool that runs


def test_made_on_a_loop_it_uses_the_pool_that_runs_there(count: int) -> None:
    async def main() -> None:
        pool = loop_pool.current_pool()
        async with loop_pool.PoolExecutor() as executor:
            here = await asyncio.wrap_future(executor.submit(asyncio.get_running_loop))
            assert here in pool.loops
            late = executor.submit(answer, 1)
        assert late.done()
        assert pool.loops
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)

    run(main, count)


def test_it_serves_as_a_default_executor(count: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(loop_pool.PoolExecutor())
        found = await asyncio.to_thread(asyncio.get_running_loop)
        assert found in loop_pool.current_pool().loops
        assert await loop.run_in_executor(None, pow, 2, 5) == 32

    run(main, count)


def test_it_serves_as_the_default_executor_of_another_kind_of_loop(count: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(loop_pool.PoolExecutor(count))
        found = await asyncio.to_thread(asyncio.get_running_loop)
        assert isinstance(found, loop_pool.EventLoop)

    asyncio.run(main())


def test_waiting_for_itself_is_refused(count: int) -> None:
    async def main() -> None:
        executor = loop_pool.PoolExecutor()
        endless = executor.submit(for_ever)
        with pytest.raises(RuntimeError, match="use `async with`, or wait=False"):
            executor.shutdown()
        assert not endless.done()

    run(main, count)


def test_the_end_of_the_pool_ends_calls_and_cancels_those_not_begun(count: int) -> None:
    futures: dict[str, Any] = {}

    async def main() -> None:
        executor = loop_pool.PoolExecutor()
        futures["begun"] = executor.submit(for_ever)
        await eventually(futures["begun"].running, "it has begun")
        # As this loop does not turn between the two, one loop alone begins neither.
        futures["late"] = loop_pool.submit(for_ever)
        futures["executor"] = executor

    run(main, count)
    for name in ("begun", "late"):
        with pytest.raises(concurrent.futures.CancelledError):
            futures[name].result(HANG)
    with pytest.raises(RuntimeError, match="after the end of the pool"):
        futures["executor"].submit(int)


def test_submit_finds_the_pool_from_any_thread(count: int) -> None:
    async def main() -> None:
        loops = loop_pool.current_pool().loops

        def elsewhere() -> asyncio.AbstractEventLoop:
            return loop_pool.submit(asyncio.get_running_loop).result(HANG)

        assert await asyncio.to_thread(elsewhere) in loops
        assert await asyncio.wrap_future(loop_pool.submit(answer, 1)) == 1

    run(main, count)
    with pytest.raises(RuntimeError, match="no running loop_pool"):
        loop_pool.submit(int)


def test_submit_does_not_guess_between_pools() -> None:
    with loop_pool.PoolExecutor(1), loop_pool.PoolExecutor(1):
        with pytest.raises(RuntimeError, match="2 pools run in this process"):
            loop_pool.submit(int)
