"""The end of a pool whose deadline is missed: `run` returns, says what did not end, and the
interpreter ends as well."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any, ClassVar

import pytest

import loop_pool
from loop_pool._pool import grace, shutdown
from loop_pool._pool import runner as pool_runner
from loop_pool._pool.collector import Pause

from ..support import HANG, run_script
from .support import loops

pytestmark = pytest.mark.usefixtures("clean_process")

STUCK = """
    import asyncio, logging, socket, sys, threading, time
    import loop_pool

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    begun = threading.Semaphore(0)

    def compute():
        while True:
            [object() for _ in range(10)]

    def wait_for_a_lock():
        threading.Event().wait()

    def sleep():
        time.sleep(1000)

    def receive():
        ours, theirs = socket.socketpair()
        ours.recv(1)

    async def stick(how):
        begun.release()
        globals()[how]()
"""


@pytest.mark.parametrize("how", ["compute", "wait_for_a_lock", "sleep", "receive"])
def test_the_end_leaves_a_loop_that_is_stuck_behind(how: str) -> None:
    done = run_script(
        STUCK
        + f"""
    async def main():
        for loop in loop_pool.current_pool().loops[1:]:
            loop_pool.spawn(stick({how!r}), loop=loop)
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)
        return "result"

    print(loop_pool.run(main(), loops=3, shutdown_timeout=0.1))
    """
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr
    lines = done.stdout.splitlines()
    assert "result" in lines
    for name in ("loop-pool-1", "loop-pool-2"):
        assert f"ERROR {name}: cancelling its tasks did not end in time" in lines
        assert any(line.startswith(f"ERROR {name} did not stop: ") for line in lines)
    assert any(line.endswith(f", in {how}") for line in lines), "no stack tells where it is"


def test_a_task_that_loop_0_has_made_for_another_loop_does_not_hold_it_up() -> None:
    done = run_script(
        STUCK
        + """
    async def main():
        task = asyncio.Task(stick("compute"), loop=loop_pool.current_pool().loops[1])
        await asyncio.to_thread(begun.acquire)
        return task

    task = loop_pool.run(main(), loops=2, shutdown_timeout=0.1)
    print("ended")
    """
    )
    assert done.returncode == 0, done.stderr
    assert "ended" in done.stdout.splitlines()


def test_who_waits_for_a_task_of_a_loop_that_was_left_behind_is_told(
    logged_errors: list[str],
) -> None:
    release, begun, waited = threading.Event(), threading.Event(), []

    async def stick() -> None:
        begun.set()
        release.wait()

    async def main() -> None:
        task = loop_pool.spawn(stick(), loop=loops()[1])

        def wait() -> None:
            try:
                task.result(HANG)
            except BaseException as error:
                waited.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        threads.append(thread)
        await asyncio.to_thread(begun.wait)

    threads: list[threading.Thread] = []
    try:
        loop_pool.run(main(), loops=2, shutdown_timeout=0.01)
        threads[0].join(HANG)
        (error,) = waited
        assert isinstance(error, RuntimeError)
        assert "loop-pool-1 ended before" in str(error)
        assert all(message.startswith("loop-pool-1") for message in logged_errors)
        logged_errors.clear()
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name == "loop-pool-1":
                thread.join(HANG)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.filterwarnings("ignore:The executor did not finish:RuntimeWarning")
def test_an_executor_s_job_that_does_not_end_is_left_behind_and_shown(
    logged_errors: list[str], index: int
) -> None:
    release = threading.Event()

    def the_job(begun: asyncio.Event) -> None:
        begun_loop.call_soon_threadsafe(begun.set)
        release.wait()

    async def leave() -> None:
        nonlocal begun_loop
        begun_loop = asyncio.get_running_loop()
        begun = asyncio.Event()
        begun_loop.run_in_executor(None, the_job, begun)
        await begun.wait()

    async def main() -> None:
        await loop_pool.call(loops()[index], leave)

    begun_loop: asyncio.AbstractEventLoop
    try:
        loop_pool.run(main(), loops=2, shutdown_timeout=0.01)
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and thread.name.startswith(
                ("asyncio_", "Thread-")
            ):
                thread.join(HANG)
    (told,) = (text for text in logged_errors if ": executor thread " in text)
    assert told.startswith(f"loop-pool-{index}: executor thread asyncio_0 did not end in time: ")
    assert "in the_job\n" in told
    gc.collect()  # on a busy machine the phase itself may be left, which asyncio reports
    logged_errors.clear()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("what", ["quick", "waiting"])
def test_threads_that_go_on_posting_do_not_keep_it(index: int, what: str) -> None:
    done = run_script(
        f"""
        import asyncio, logging, sys, threading, time
        import loop_pool

        async def quick(): pass
        async def waiting(): await asyncio.Event().wait()

        def post(loop):
            while True:
                coro = {what}()
                try:
                    asyncio.run_coroutine_threadsafe(coro, loop)
                except RuntimeError:
                    coro.close()
                    return
                begun.set()
                if {what} is waiting:
                    time.sleep(0.0005)

        async def main():
            loop = loop_pool.current_pool().loops[{index}]
            threading.Thread(target=post, args=(loop,), daemon=True).start()
            await asyncio.to_thread(begun.wait)

        logging.disable()
        begun = threading.Event()
        loop_pool.run(main(), loops=2, shutdown_timeout=0.1)
        print("ended", flush=True)
        __import__("os")._exit(0)  # tasks that are left have nobody to tell
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"


POSTING = """
    import asyncio, collections, logging, sys, threading, time
    import loop_pool

    THREADS, TIMEOUT, GRACE = 3, 0.3, 1.0
    logging.disable()
    posts = collections.Counter()
    late = collections.Counter()
    ends_at = None
    posting = threading.Semaphore(0)

    def note():
        if ends_at is not None and time.monotonic() > ends_at:
            late[threading.current_thread().name] += 1

    async def quick():
        note()

    async def waiting():
        note()
        await asyncio.sleep(1000)

    def run(coro_function, loop):
        coro = coro_function()
        try:
            asyncio.run_coroutine_threadsafe(coro, loop)
        except RuntimeError:
            coro.close()
            raise

    ways = {
        "quick": lambda loop: run(quick, loop),
        "waiting": lambda loop: run(waiting, loop),
        "call": lambda loop: loop.call_soon_threadsafe(note),
    }

    def post(way, loop, number):
        while True:
            try:
                way(loop)
            except RuntimeError:
                return
            posts[number] += 1
            if posts[number] == 1000:
                posting.release()

    def begin(way, loop):
        threads = [threading.Thread(target=post, args=(way, loop, n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in threads:
            posting.acquire()
        return threads

    close = loop_pool.Runner.close

    def closes(runner):
        global ends_at, worked
        worked, ends_at = time.thread_time(), time.monotonic() + TIMEOUT + GRACE
        close(runner)

    loop_pool.Runner.close = closes

    def ended():
        took = time.thread_time() - worked
        assert took < TIMEOUT + GRACE, f"the thread that ends the pool has worked for {took} s"
        for thread in threads:
            thread.join()  # each is refused
        # The collector may have stopped its thread between its look at the clock and the call.
        assert max(late.values(), default=0) <= 1, f"it ran more, with its time up: {late}"
        print("ended", flush=True)
        __import__("os")._exit(0)  # tasks that are left have nobody to tell
"""


@pytest.mark.timeout(5 * HANG)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("way", ["quick", "waiting", "call"])
@pytest.mark.parametrize("form", ["run", "runner"])
def test_threads_that_post_without_a_pause_do_not_keep_it(way: str, index: int, form: str) -> None:
    forms = {
        "run": f"""
    async def main():
        global threads
        loop = loop_pool.current_pool().loops[{index}]
        threads = begin(ways["{way}"], loop)  # nothing else runs here meanwhile

    loop_pool.run(main(), loops=2, shutdown_timeout=TIMEOUT)
    ended()
""",
        # Nobody runs loop 0.
        "runner": f"""
    with loop_pool.Runner(loops=2, shutdown_timeout=TIMEOUT) as runner:
        threads = begin(ways["{way}"], runner.get_pool().loops[{index}])
    ended()
""",
    }
    # It keeps four threads busy, which takes long where others do as well.
    done = run_script(POSTING + forms[form], options=("-W", "ignore"), timeout=4 * HANG)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"


class Counted:
    """An object that says which threads dropped its like."""

    dropped: ClassVar[list[int]] = []

    def __call__(self) -> None:
        """Nothing."""

    def __del__(self) -> None:
        self.dropped.append(threading.get_ident())


def test_a_run_whose_time_is_up_ends_after_one_callback_and_another_thread_drops_the_rest(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
) -> None:
    monkeypatch.setattr(grace, "LATE", 0.0)
    monkeypatch.setattr(Counted, "dropped", [])
    ran: list[int] = []

    def fill(loop: loop_pool.EventLoop) -> None:
        for number in range(500):
            loop.call_soon_threadsafe(ran.append, number)
            loop.call_soon_threadsafe(Counted())

    with loop_pool.Runner(loops=1, shutdown_timeout=0) as runner:
        poster = threading.Thread(target=fill, args=(runner.get_loop(),))
        poster.start()
        poster.join()
        loop = runner.get_loop()
    assert len(ran) <= 1
    assert loop._dropped is not None
    assert loop._dropped.wait(HANG)
    assert len(Counted.dropped) == 500
    assert threading.get_ident() not in Counted.dropped
    assert "loop-pool-0 still had callbacks to run at the deadline and was stopped" in logged_errors
    (told,) = (text for text in logged_errors if text.endswith(" callbacks were not run"))
    assert int(told.split()[1]) >= 999
    logged_errors.clear()


class Asked(asyncio.Task[None]):
    """A task that counts how often its like is asked whether it is done."""

    times = 0

    def done(self) -> bool:
        Asked.times += 1
        return super().done()


def test_a_run_whose_time_is_up_looks_at_a_few_of_its_tasks(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
) -> None:
    monkeypatch.setattr(grace, "LATE", 0.0)
    monkeypatch.setattr(grace, "REPORTING", HANG)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept.extend(Asked(asyncio.sleep(1000), loop=loop) for _ in range(1000))
        await asyncio.sleep(0)

    kept: list[Asked] = []
    with loop_pool.Runner(loops=1, shutdown_timeout=0) as runner:
        runner.run(main())
        for _ in range(1000):
            runner.get_loop().call_soon(int)  # more than a run does with its time up
        Asked.times = 0
    for task in kept:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert Asked.times <= 2 * shutdown.SHOWN
    named = [text for text in logged_errors if "this task did not end in time: " in text]
    assert len(named) == shutdown.SHOWN
    (others,) = (text for text in logged_errors if text.startswith("loop-pool-0: up to "))
    assert int(others.split()[3]) >= 1000 - shutdown.SHOWN
    logged_errors.clear()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether collections begin by themselves: noted when a runner leaves what did not end."""
    leave = pool_runner.Runner._leave
    seen: list[bool] = []

    def leaves(*args: Any) -> None:
        seen.append(gc.isenabled())
        leave(*args)

    monkeypatch.setattr(pool_runner.Runner, "_leave", leaves)
    return seen


def test_no_collection_begins_by_itself_from_the_deadline_until_the_end(
    seen: list[bool], logged_errors: list[str]
) -> None:
    def until_they_are_put_off() -> None:
        """Loop 0 gets to nothing else meanwhile."""
        seen.append(gc.isenabled())
        until = time.monotonic() + HANG
        while gc.isenabled() and time.monotonic() < until:
            time.sleep(0.001)
        seen.append(gc.isenabled())

    with loop_pool.Runner(loops=2, shutdown_timeout=0.01) as runner:
        runner.get_loop().call_soon(until_they_are_put_off)
    assert seen == [True, False, False]
    assert gc.isenabled()
    logged_errors.clear()


def test_nor_from_when_the_only_loop_is_stopped(
    monkeypatch: pytest.MonkeyPatch, seen: list[bool], logged_errors: list[str]
) -> None:
    monkeypatch.setattr(grace, "LATE", 0.0)
    with loop_pool.Runner(loops=1, shutdown_timeout=0) as runner:
        for _ in range(1000):
            runner.get_loop().call_soon(int)
    assert seen == [False]
    assert gc.isenabled()
    logged_errors.clear()


def test_collections_are_as_before_when_the_last_that_puts_them_off_is_over() -> None:
    one, other, late = Pause(), Pause(), Pause()
    late.end()
    late.begin()
    assert gc.isenabled()
    for pause in (one, other, one):
        pause.begin()
        assert not gc.isenabled()
    one.end()
    assert not gc.isenabled()
    other.end()
    other.end()
    assert gc.isenabled()
    gc.disable()
    try:
        third = Pause()
        third.begin()
        third.end()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_loop_that_the_program_stops_while_the_pool_ends_goes_on() -> None:
    ended: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def main() -> None:
        kept.append(asyncio.create_task(clean_up()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    before = time.monotonic()
    loop_pool.run(main(), loops=2)
    assert ended == ["cleaned up"]
    assert time.monotonic() - before < HANG
