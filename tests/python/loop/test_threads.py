"""A loop and the threads around it: no wakeup lost, no order lost, nothing corrupted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import (
    HANG,
    LoopFactory,
    LoopThread,
    Threads,
    in_thread,
    shut_down,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _nothing() -> None:
    """What is posted when only the posting matters."""


@pytest.fixture
def two_loops(
    loop_factory: LoopFactory, logged_errors: list[str], no_descriptor_leak: None
) -> Iterator[tuple[LoopThread, LoopThread]]:
    """Two loops, each running in a thread of its own."""
    with ExitStack() as stack:
        loops = loop_factory(), loop_factory()
        for loop in loops:
            stack.callback(shut_down, loop)
        first, second = (stack.enter_context(LoopThread(loop)) for loop in loops)
        yield first, second


@pytest.mark.smoke
def test_a_post_wakes_a_parked_loop(loop: asyncio.AbstractEventLoop) -> None:
    with LoopThread(loop) as thread:
        for _ in range(20):
            thread.wait_parked()
            ran = threading.Event()
            loop.call_soon_threadsafe(ran.set)
            assert ran.wait(HANG)


def test_a_post_wakes_a_loop_that_waits_for_a_timer(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(10_000, print)
    with LoopThread(loop) as thread:
        thread.wait_parked()
        ran = threading.Event()
        loop.call_soon_threadsafe(ran.set)
        assert ran.wait(HANG)


def test_posts_before_the_run_are_kept(loop: asyncio.AbstractEventLoop) -> None:
    order: list[int] = []
    in_thread(lambda: [loop.call_soon_threadsafe(order.append, n) for n in range(1000)])
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    assert order == list(range(1000))


def test_a_post_runs_in_the_poster_s_context(loop: asyncio.AbstractEventLoop) -> None:
    variable = contextvars.ContextVar[str]("variable", default="none")
    seen = concurrent.futures.Future[str]()

    def post() -> None:
        variable.set("the poster's")
        loop.call_soon_threadsafe(lambda: seen.set_result(variable.get()))

    with LoopThread(loop):
        in_thread(post)
        assert seen.result(HANG) == "the poster's"


def test_two_loops_that_wake_each_other_lose_no_wakeup(
    two_loops: tuple[LoopThread, LoopThread],
) -> None:
    rounds = 3_000
    loops = [thread.loop for thread in two_loops]
    finished = threading.Event()

    def bounce(left: int) -> None:
        if left:
            loops[left % 2].call_soon_threadsafe(bounce, left - 1)
        else:
            finished.set()

    bounce(rounds)
    assert finished.wait(HANG)


@pytest.mark.smoke
@pytest.mark.timeout(180)
def test_posts_of_four_threads_onto_two_loops_all_arrive_in_order(
    two_loops: tuple[LoopThread, LoopThread],
) -> None:
    # 200,000 posts. Some wait until they have run, so that the loops park again and again.
    posters, per_loop, burst = 4, 25_000, 500
    received: list[list[list[int]]] = [[[] for _ in range(posters)] for _ in two_loops]

    def post(poster: int) -> None:
        for number in range(per_loop):
            for index, thread in enumerate(two_loops):
                append = received[index][poster].append
                thread.loop.call_soon_threadsafe(append, number)
                if number % burst == burst - 1:
                    _round_trip(thread.loop)

    with Threads(*(functools.partial(post, poster) for poster in range(posters))):
        pass
    for index, thread in enumerate(two_loops):
        _round_trip(thread.loop)
        for poster in range(posters):
            assert received[index][poster] == list(range(per_loop))


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_ten_million_posts_all_arrive(two_loops: tuple[LoopThread, LoopThread]) -> None:
    posters, per_loop, burst = 4, 1_250_000, 1000
    counts = [[0] * posters for _ in two_loops]

    def arrive(index: int, poster: int) -> None:
        counts[index][poster] += 1

    def post(poster: int) -> None:
        for number in range(per_loop):
            for index, thread in enumerate(two_loops):
                thread.loop.call_soon_threadsafe(arrive, index, poster)
                if number % burst == burst - 1:
                    _round_trip(thread.loop)

    threads = [threading.Thread(target=post, args=(poster,)) for poster in range(posters)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for thread in two_loops:
        _round_trip(thread.loop)
    assert counts == [[per_loop] * posters] * 2


def test_posts_while_the_loop_closes_are_taken_or_refused(loop_factory: LoopFactory) -> None:
    def post(loop: asyncio.AbstractEventLoop, started: threading.Barrier) -> None:
        started.wait(HANG)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            while True:
                loop.call_soon_threadsafe(int)

    for _ in range(20):
        loop = loop_factory()
        started = threading.Barrier(3)
        target = functools.partial(post, loop, started)
        with Threads(target, target):
            started.wait(HANG)
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def test_handles_posted_by_one_thread_may_be_cancelled_by_another(
    loop: asyncio.AbstractEventLoop,
) -> None:
    count = 5_000
    ran: set[int] = set()
    handles: list[asyncio.Handle] = []
    posted = threading.Semaphore(0)
    kept = set(range(0, count, 2))

    def post() -> None:
        for number in range(count):
            handles.append(loop.call_soon_threadsafe(ran.add, number))
            posted.release()

    def cancel() -> None:
        for number in range(count):
            assert posted.acquire(timeout=HANG)
            if number not in kept:
                handles[number].cancel()
                assert handles[number].cancelled()

    with LoopThread(loop):
        with Threads(post, cancel):
            pass
        _round_trip(loop)
    assert ran >= kept


def test_a_loop_destroys_what_was_posted_to_it_while_the_poster_is_away() -> None:
    loop = loop_pool.new_event_loop()
    posted, may_end = threading.Event(), threading.Event()
    handles: list[weakref.ref[asyncio.Handle]] = []

    def post() -> None:
        handles.append(weakref.ref(loop.call_soon_threadsafe(_nothing)))
        posted.set()
        assert may_end.wait(HANG)

    with contextlib.closing(loop), Threads(post):
        assert posted.wait(HANG)
        try:
            loop.run_until_complete(asyncio.sleep(0))
            assert handles[0]() is None
        finally:
            may_end.set()


@pytest.mark.smoke
def test_coroutines_submitted_by_many_threads_all_return(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    def submit() -> None:
        for number in range(20):
            future = asyncio.run_coroutine_threadsafe(double(number), loop)
            assert future.result(HANG) == 2 * number

    with LoopThread(loop), Threads(*[submit] * 4):
        pass


def test_a_submitted_coroutine_is_cancelled_from_its_thread(
    loop: asyncio.AbstractEventLoop,
) -> None:
    started, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with LoopThread(loop):
        future = asyncio.run_coroutine_threadsafe(wait(), loop)
        assert started.wait(HANG)
        assert future.cancel()
        assert ended.wait(HANG)


def test_results_of_worker_threads_come_back(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        results = await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(200)))
        assert results == [2**n for n in range(200)]

    loop.run_until_complete(main())


def test_tasks_are_seen_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    async def start() -> asyncio.Task[bool]:
        return asyncio.create_task(asyncio.Event().wait(), name="waits")

    with LoopThread(loop) as thread:
        task = thread.run(start())
        assert asyncio.all_tasks(loop) >= {task}
        loop.call_soon_threadsafe(task.cancel)


def test_loops_in_many_threads_do_not_disturb_each_other(loop_factory: LoopFactory) -> None:
    async def switch(count: int) -> int:
        for _ in range(count):
            await asyncio.sleep(0)
        return count

    async def main() -> int:
        loop = asyncio.get_running_loop()
        counts = await asyncio.gather(*(switch(100) for _ in range(20)))
        assert asyncio.get_running_loop() is loop
        return sum(counts)

    def run() -> None:
        for _ in range(5):
            assert asyncio.run(main(), loop_factory=loop_factory) == 2000

    with Threads(*[run] * 4):
        pass


def test_a_loop_may_run_in_one_thread_after_another(loop: asyncio.AbstractEventLoop) -> None:
    async def where() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    def run() -> None:
        assert loop.run_until_complete(where()) == threading.get_ident()

    for _ in range(3):
        in_thread(run)
        run()


# From a foreign thread without `threadsafe`: asyncio promises nothing here

FOREIGN: dict[str, Callable[[Any, Callable[[], object]], object]] = {
    "call_soon": lambda loop, callback: loop.call_soon(callback),
    "call_later": lambda loop, callback: loop.call_later(0.001, callback),
    "call_at": lambda loop, callback: loop.call_at(loop.time(), callback),
}


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("how", FOREIGN)
def test_a_foreign_thread_s_callback_wakes_a_parked_loop(
    loop: asyncio.AbstractEventLoop, how: str
) -> None:
    loop.call_later(10_000, print)
    with LoopThread(loop) as thread:
        for _ in range(10):
            thread.wait_parked()
            ran = threading.Event()
            FOREIGN[how](loop, ran.set)
            assert ran.wait(HANG)


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("how", FOREIGN)
def test_callbacks_of_foreign_threads_all_run(loop: asyncio.AbstractEventLoop, how: str) -> None:
    threads, each = 4, 2_000
    ran = [0]
    finished = threading.Event()

    def count() -> None:  # On the loop's thread alone.
        ran[0] += 1
        if ran[0] == threads * each:
            finished.set()

    def call() -> None:
        for _ in range(each):
            FOREIGN[how](loop, count)

    with LoopThread(loop):
        with Threads(*[call] * threads):
            pass
        assert finished.wait(HANG)


@pytest.mark.loop_pool_only
def test_timers_of_foreign_threads_may_be_cancelled_by_others(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ran: list[int] = []

    def make_and_cancel() -> None:
        for number in range(2_000):
            handle = loop.call_later(0.001 * (number % 3), ran.append, number)
            handle.cancel()
            assert handle.cancelled()

    with LoopThread(loop), Threads(*[make_and_cancel] * 4):
        pass


def _round_trip(loop: asyncio.AbstractEventLoop) -> None:
    """Returns once everything this thread posted to the loop before has run."""
    done = threading.Event()
    loop.call_soon_threadsafe(done.set)
    assert done.wait(HANG), "a lost wakeup"
