"""Signal handlers on the loops of a pool that are not in the main thread."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import eventually, in_thread
from .support import loops, run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture(autouse=True)
def _signals_unchanged() -> Iterator[None]:
    yield
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def send(number: int = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)


def on_loop_1(function: Any) -> Any:
    """Runs a coroutine function on loop 1, from `main` on loop 0."""

    @functools.wraps(function)
    def test() -> None:
        async def main() -> None:
            await loop_pool.call(loops()[1], function)

        run(main)

    return test


@pytest.mark.smoke
@on_loop_1
async def test_a_handler_catches_at_once_and_runs_on_its_loop() -> None:
    loop, seen = asyncio.get_running_loop(), asyncio.Queue[object]()

    def handler(*args: object) -> None:
        seen.put_nowait((args, asyncio.get_running_loop(), threading.current_thread()))

    loop.add_signal_handler(signal.SIGUSR1, handler, 1, "a")
    for _ in range(3):
        send()
        assert await seen.get() == ((1, "a"), loop, threading.current_thread())
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_each_loop_has_its_own() -> None:
    seen: list[str] = []

    async def add() -> None:
        name = threading.current_thread().name
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, seen.append, name)

    async def remove() -> bool:
        return asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    async def expect(*names: str) -> None:
        seen.clear()
        send()
        await eventually(lambda: len(seen) >= len(names), f"{names} were not called")
        assert sorted(seen) == sorted(names)

    async def main() -> None:
        zero, one, two = loops()
        names = ["MainThread", "loop-pool-1", "loop-pool-2"]
        await loop_pool.call(one, add)
        await expect(names[1])
        await loop_pool.call(zero, add)
        await loop_pool.call(two, add)
        await expect(*names)
        assert await loop_pool.call(zero, remove)
        await expect(*names[1:])
        await loop_pool.call(zero, add)
        assert await loop_pool.call(one, remove)
        assert await loop_pool.call(two, remove)
        await expect(names[0])
        assert await loop_pool.call(zero, remove)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main, 3)


@on_loop_1
async def test_a_later_handler_takes_the_place_of_the_first() -> None:
    loop, seen = asyncio.get_running_loop(), asyncio.Queue[str]()
    loop.add_signal_handler(signal.SIGINT, seen.put_nowait, "first")
    loop.add_signal_handler(signal.SIGINT, seen.put_nowait, "second")
    send(signal.SIGINT)
    assert await seen.get() == "second"
    assert seen.empty()
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@on_loop_1
async def test_what_is_left_is_let_go_at_the_end_of_the_pool() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)


@on_loop_1
async def test_a_handler_that_raises_is_told_to_its_loop() -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.put_nowait(context))
    loop.add_signal_handler(signal.SIGUSR1, divmod, 1, 0)
    send()
    assert isinstance((await told.get())["exception"], ZeroDivisionError)
    loop.remove_signal_handler(signal.SIGUSR1)


@on_loop_1
async def test_what_cannot_be_handled_is_refused_as_in_the_main_thread() -> None:
    loop: Any = asyncio.get_running_loop()

    async def coroutine() -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    with pytest.raises(TypeError, match="sig must be an int"):
        loop.add_signal_handler("SIGUSR1", print)
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(10_000, print)
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(signal.SIGKILL, print)


def test_a_pool_outside_of_the_main_thread_says_that_it_catches_none() -> None:
    async def add() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="loop 0 of the pool to run in the main thread"):
            loop.add_signal_handler(signal.SIGUSR1, print)

    async def main() -> None:
        await loop_pool.call(loops()[1], add)

    in_thread(lambda: run(main))
