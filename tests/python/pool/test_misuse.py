"""The pool used where it cannot be used: a clear error, nothing lost, nothing stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import loop_pool

from ..support import HANG, check_script, in_thread
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")


async def _nothing() -> None:
    """Ends at once."""


# No pool here. A coroutine that is refused must not warn that it was never awaited.


@pytest.mark.smoke
def test_outside_a_pool_everything_says_so() -> None:
    with pytest.raises(RuntimeError, match="pool"):
        loop_pool.current_pool()
    with pytest.raises(RuntimeError, match="pool"):
        loop_pool.spawn(_nothing())


def test_a_single_loop_has_no_pool() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="pool"):
            loop_pool.current_pool()
        with pytest.raises(RuntimeError, match="pool"):
            loop_pool.spawn(_nothing())

    asyncio.run(main(), loop_factory=loop_pool.new_event_loop)


def test_a_thread_of_no_pool_is_refused() -> None:
    def attempt() -> None:
        with pytest.raises(RuntimeError, match="pool"):
            loop_pool.current_pool()
        with pytest.raises(RuntimeError, match="pool"):
            loop_pool.spawn(_nothing())

    async def main() -> None:
        await asyncio.to_thread(attempt)

    run(main)


def test_another_loop_s_run_in_a_pool_s_thread_has_no_pool() -> None:
    async def inner() -> None:
        with pytest.raises(RuntimeError, match="pool"):
            loop_pool.current_pool()

    async def main() -> None:
        await asyncio.to_thread(lambda: asyncio.run(inner()))

    run(main)


# Wrong arguments


@pytest.mark.parametrize("what", [_nothing, 1, None, print], ids=["function", "1", "None", "print"])
def test_what_is_no_coroutine_is_refused(what: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError):
            loop_pool.spawn(what)

    run(main)


def test_a_future_is_no_coroutine() -> None:
    async def main() -> None:
        future: Any = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError):
            loop_pool.spawn(future)

    run(main)


@pytest.mark.smoke
def test_a_loop_of_no_pool_or_of_another_is_refused() -> None:
    async def main() -> None:
        others: list[Any] = [loop_pool.new_event_loop(), asyncio.SelectorEventLoop(), foreign]
        for other in others:
            with pytest.raises(RuntimeError, match="does not belong"):
                loop_pool.spawn(_nothing(), loop=other)
        others[0].close()
        others[1].close()

    with loop_pool.Runner(loops=2) as outer:
        foreign = outer.get_pool().loops[1]
        in_thread(lambda: run(main))


def test_what_is_no_loop_is_refused() -> None:
    async def main() -> None:
        not_a_loop: Any = "loop-pool-1"
        with pytest.raises((RuntimeError, TypeError)):
            loop_pool.spawn(_nothing(), loop=not_a_loop)

    run(main)


# After the end


@pytest.mark.smoke
def test_a_closed_pool_says_so() -> None:
    async def main() -> tuple[loop_pool.Pool, tuple[loop_pool.EventLoop, ...]]:
        pool = loop_pool.current_pool()
        return pool, pool.loops

    pool, loops = run(main)
    assert "closed" in repr(pool)
    with pytest.raises(RuntimeError, match="closed"):
        _ = pool.loops
    with pytest.raises(RuntimeError, match="closed"):
        pool.stats()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loops[1].call_soon_threadsafe(print)


def test_a_loop_of_a_closed_pool_is_refused_by_the_next() -> None:
    async def first() -> loop_pool.EventLoop:
        return loop_pool.current_pool().loops[1]

    async def second() -> None:
        with pytest.raises(RuntimeError, match="does not belong"):
            loop_pool.spawn(_nothing(), loop=old)

    old = run(first)
    run(second)


def test_a_pool_task_outlives_its_pool() -> None:
    async def five() -> int:
        return 5

    async def main() -> tuple[loop_pool.PoolTask[int], loop_pool.PoolTask[Any]]:
        loop = loop_pool.current_pool().loops[1]
        done = loop_pool.spawn(five(), loop=loop)
        assert await done == 5
        return done, loop_pool.spawn(asyncio.Event().wait(), loop=loop)

    done, cancelled = run(main)
    assert done.result() == 5
    assert cancelled.cancelled()
    assert cancelled.cancel() is False


def test_a_pool_s_loop_cannot_be_run_or_closed_by_hand() -> None:
    async def main() -> None:
        other = loop_pool.current_pool().loops[1]
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            other.close()
        with pytest.raises(RuntimeError, match="already running"):
            await asyncio.to_thread(other.run_forever)
        assert await loop_pool.spawn(asyncio.sleep(0, "goes on"), loop=other) == "goes on"

    run(main)


# After a fork


def test_a_forked_child_is_told_that_the_pool_is_its_parent_s() -> None:
    printed = check_script(
        """
        import asyncio, os, sys, warnings
        import loop_pool
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process
        def attempt(what):
            try:
                what()
            except RuntimeError as exc:
                return "fork" in str(exc)
            return False
        async def nothing():
            pass
        async def main():
            pool = loop_pool.current_pool()
            pid = os.fork()
            if pid == 0:
                told = [
                    attempt(loop_pool.current_pool),
                    attempt(lambda: loop_pool.spawn(nothing())),
                    attempt(lambda: loop_pool.spawn(nothing(), loop=None)),
                    attempt(lambda: pool.loops),
                    attempt(pool.stats),
                ]
                os._exit(0 if all(told) else 1)
            _, status = await asyncio.to_thread(os.waitpid, pid, 0)
            print(os.waitstatus_to_exitcode(status))
            alive = loop_pool.spawn(asyncio.sleep(0, "alive"), loop=pool.loops[1])
            print(await alive)
        loop_pool.run(main(), loops=2)
        """
    )
    assert printed == "0\nalive\n"


@pytest.mark.parametrize(
    "begin",
    [
        "kept = loop_pool.PoolExecutor(2); kept.submit(int).result()",
        "kept = loop_pool.Runner(loops=3); kept.run(asyncio.sleep(0))",
    ],
    ids=["PoolExecutor", "Runner"],
)
@pytest.mark.parametrize("end", ["", "kept.shutdown()", "kept.__exit__(None, None, None)"])
def test_a_forked_child_ends_without_the_pool_s_threads(begin: str, end: str) -> None:
    if "Runner" in begin and end:
        pytest.skip("a runner ends its loops")
    printed = check_script(
        f"""
        import asyncio, os, signal, sys, warnings
        import loop_pool
        warnings.simplefilter("ignore")
        {begin}
        child = os.fork()
        if not child:
            signal.alarm({int(HANG) - 5})
            if isinstance(kept, loop_pool.PoolExecutor):
                try:
                    kept.submit(int)
                except RuntimeError as error:
                    assert "fork" in str(error)
            {end or "pass"}
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if isinstance(kept, loop_pool.PoolExecutor):
            assert kept.submit(int).result() == 0
            kept.shutdown()
        else:
            kept.run(asyncio.sleep(0))
            kept.close()
        """
    )
    assert printed == "3\n"


def test_a_child_forked_after_the_end_may_run_a_pool_of_its_own() -> None:
    printed = check_script(
        """
        import asyncio, os, loop_pool
        async def main():
            loops = loop_pool.current_pool().loops
            return await loop_pool.spawn(asyncio.sleep(0, 7), loop=loops[1])
        assert loop_pool.run(main(), loops=2) == 7
        pid = os.fork()
        if pid == 0:
            os._exit(loop_pool.run(main(), loops=2))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status))
        """
    )
    assert printed == "7\n"


# At the interpreter's end


def test_a_runner_that_is_never_closed_does_not_hang_the_interpreter() -> None:
    check_script(
        """
        import asyncio, warnings
        import loop_pool
        warnings.simplefilter("ignore", ResourceWarning)
        runner = loop_pool.Runner(loops=3)
        print(runner.run(asyncio.sleep(0, "ran")))
        """,
        options=["-W", "ignore::ResourceWarning"],
    )
