"""``run_in_executor`` and ``to_thread``, by whichever way a call goes to its thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 30.0
"""It only ends a failed test."""


class _Gate:
    """A call that waits in its thread until the test lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(LIMIT)
        return "through"


@contextlib.contextmanager
def _one_thread(loop: asyncio.AbstractEventLoop, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """Give the loop a default executor of one thread."""
    with ThreadPoolExecutor(1, **options) as executor:
        loop.set_default_executor(executor)
        yield executor


def _add(*numbers: int) -> int:
    return sum(numbers)


@pytest.mark.smoke
def test_what_a_function_returns_or_raises_comes_to_who_awaits(
    loop: asyncio.AbstractEventLoop,
) -> None:
    error = LookupError("no such thing")

    def fail() -> None:
        raise error

    async def main() -> None:
        here = threading.get_ident()
        for _ in range(3):
            assert await loop.run_in_executor(None, _add, 1, 2, 3) == 6
            assert await loop.run_in_executor(None, threading.get_ident) != here
            with pytest.raises(LookupError) as caught:
                await loop.run_in_executor(None, fail)
            assert caught.value is error
        assert sorted(await asyncio.gather(*[asyncio.to_thread(_add, n) for n in range(50)])) == [
            *range(50)
        ]

    loop.run_until_complete(main())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_what_is_no_exception_comes_too(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind("from the thread")

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        with pytest.raises(kind):
            await loop.run_in_executor(None, fail)
        # The thread goes on.
        assert await loop.run_in_executor(None, _add, 1) == 1

    with _one_thread(loop):
        loop.run_until_complete(main())


def test_the_executors_exceptions_become_asyncios(loop: asyncio.AbstractEventLoop) -> None:
    def fail() -> None:
        raise concurrent.futures.InvalidStateError("of what it called")

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        with pytest.raises(asyncio.InvalidStateError, match="of what it called"):
            await loop.run_in_executor(None, fail)

    loop.run_until_complete(main())


def test_a_call_that_is_cancelled_before_its_turn_is_never_made(
    loop: asyncio.AbstractEventLoop,
) -> None:
    gate, calls = _Gate(), []

    async def main() -> None:
        first = loop.run_in_executor(None, gate)
        second = loop.run_in_executor(None, calls.append, 2)
        third = loop.run_in_executor(None, calls.append, 3)
        assert second.cancel()
        await asyncio.sleep(0)
        gate.go.set()
        assert await first == "through"
        await third
        assert second.cancelled()

    with _one_thread(loop):
        loop.run_until_complete(main())
    assert calls == [3]


def test_a_call_that_is_cancelled_in_its_turn_ends_unheard(loop: asyncio.AbstractEventLoop) -> None:
    gate = _Gate()

    async def main() -> None:
        call = loop.run_in_executor(None, gate)
        assert gate.begun.wait(LIMIT)
        assert call.cancel()
        gate.go.set()
        assert await loop.run_in_executor(None, _add, 1) == 1
        assert call.cancelled()

    with _one_thread(loop):
        loop.run_until_complete(main())


def test_what_an_executor_drops_as_it_ends_is_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    gate = _Gate()

    async def main(executor: ThreadPoolExecutor) -> None:
        first = loop.run_in_executor(None, gate)
        rest = [loop.run_in_executor(None, _add, n) for n in range(2)]
        assert gate.begun.wait(LIMIT)
        executor.shutdown(wait=False, cancel_futures=True)
        assert (
            await asyncio.gather(*rest, return_exceptions=True)
            == [_Like(asyncio.CancelledError)] * 2
        )
        gate.go.set()
        assert await first == "through"
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            await loop.run_in_executor(None, _add)

    with _one_thread(loop) as executor:
        loop.run_until_complete(main(executor))


def test_another_thread_may_end_the_executor(loop: asyncio.AbstractEventLoop) -> None:
    gate = _Gate()

    async def main(executor: ThreadPoolExecutor) -> None:
        first = loop.run_in_executor(None, gate)
        second = loop.run_in_executor(None, _add)

        def end() -> None:
            executor.shutdown(wait=False, cancel_futures=True)

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(asyncio.CancelledError):
            await second
        thread.join()
        gate.go.set()
        await first

    with _one_thread(loop) as executor:
        loop.run_until_complete(main(executor))


def test_a_thread_that_cannot_begin_fails_what_waits_and_what_comes(
    loop: asyncio.AbstractEventLoop,
) -> None:
    go = threading.Event()

    def fail() -> None:
        assert go.wait(LIMIT)
        raise ValueError("no database")

    async def main() -> None:
        waiting = [loop.run_in_executor(None, _add, n) for n in range(2)]
        go.set()
        for call in waiting:
            with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
                await call
        with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
            await loop.run_in_executor(None, _add)

    with _one_thread(loop, initializer=fail):
        loop.run_until_complete(main())


def test_a_result_for_a_loop_that_has_closed_is_dropped(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    gate, calls = _Gate(), []
    executor = ThreadPoolExecutor(1)

    async def main() -> None:
        loop.set_default_executor(executor)
        loop.run_in_executor(None, gate)
        loop.run_in_executor(None, calls.append, 2)

    loop.run_until_complete(main())
    loop.close()
    gate.go.set()
    executor.shutdown()
    # The thread has not ended by what it could not tell.
    assert calls == [2]
    assert caplog.records == []


def test_a_program_s_own_submit_is_called(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    submit = ThreadPoolExecutor.submit

    def noted(name: str) -> Callable[..., Any]:
        def call(self: ThreadPoolExecutor, /, *args: Any, **kwargs: Any) -> Any:
            names.append(name)
            return submit(self, *args, **kwargs)

        return call

    class Own(ThreadPoolExecutor):
        submit = noted("subclass")

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        with Own(1) as own:
            assert await loop.run_in_executor(own, _add, 1) == 1
            loop.set_default_executor(own)
            assert await loop.run_in_executor(None, _add, 2) == 2
        with ThreadPoolExecutor(1) as plain:
            loop.set_default_executor(plain)
            own_submit = noted("instance").__get__(plain)
            monkeypatch.setattr(plain, "submit", own_submit)
            assert await loop.run_in_executor(None, _add, 3) == 3
            monkeypatch.delattr(plain, "submit")
            monkeypatch.setattr(ThreadPoolExecutor, "submit", noted("class"))
            assert await loop.run_in_executor(None, _add, 4) == 4
            monkeypatch.undo()

    loop.run_until_complete(main())
    assert names == ["subclass", "subclass", "instance", "class"]


def test_it_runs_in_a_context_of_the_thread_and_to_thread_in_the_caller_s(
    loop: asyncio.AbstractEventLoop,
) -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        variable.set("the caller's")
        assert await loop.run_in_executor(None, variable.get) == "nobody's"
        assert await asyncio.to_thread(variable.get) == "the caller's"

    with _one_thread(loop):
        loop.run_until_complete(main())


def test_after_the_executor_s_end_nothing_is_called(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        await loop.run_in_executor(None, _add)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, _add)

    loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(None, _add)


def test_in_debug_mode_a_coroutine_function_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    async def coroutine() -> None: ...

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.run_in_executor(None, coroutine)  # type: ignore[arg-type]

    loop.set_debug(True)
    loop.run_until_complete(main())


class _Kept(Exception):
    """An exception that can be observed weakly."""


def test_nothing_of_a_call_outlives_it(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[weakref.ref[Any]] = []

    def made() -> _Kept:
        error = _Kept()
        seen.append(weakref.ref(error))
        return error

    def work() -> None:
        raise made()

    async def call() -> None:
        with contextlib.suppress(_Kept):
            await loop.run_in_executor(None, work)

    async def main() -> None:
        await loop.run_in_executor(None, _add)
        for _ in range(5):
            await call()
        # The thread may hold the last call until the next one.
        await loop.run_in_executor(None, _add)
        await asyncio.sleep(0)
        assert [one() for one in seen] == [None] * 5

    gc.disable()
    try:
        with _one_thread(loop):
            loop.run_until_complete(main())
    finally:
        gc.enable()


class _Like:
    """Equals each instance of a class."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self._kind)

    def __hash__(self) -> int:
        return hash(self._kind)


def test_the_arguments_go_when_the_call_has_ended(loop: asyncio.AbstractEventLoop) -> None:
    """Not when the loop takes the result, which may be much later."""

    class Argument:
        pass

    with _one_thread(loop) as executor:
        loop.run_until_complete(loop.run_in_executor(None, _add))
        argument = Argument()
        gone = weakref.ref(argument)
        future = loop.run_in_executor(None, lambda _: None, argument)
        del argument
        # A second call has ended in the one thread: so has the first, which the loop has not seen.
        executor.submit(int).result(LIMIT)
        gc.collect()
        assert gone() is None
        loop.run_until_complete(future)


def test_a_result_that_cannot_be_posted_does_not_end_the_thread(
    loop: asyncio.AbstractEventLoop,
) -> None:
    class Refusing(type(loop)):  # type: ignore[misc]
        refuses = False

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            if self.refuses:
                self.refuses = False
                raise MemoryError
            return super().call_soon_threadsafe(*args, **kwargs)

    refusing = Refusing()
    with contextlib.closing(refusing), _one_thread(refusing) as executor:
        refusing.run_until_complete(refusing.run_in_executor(None, _add))
        refusing.refuses = True
        refusing.run_in_executor(None, _add, 1)
        executor.submit(int).result(LIMIT)
        assert refusing.run_until_complete(refusing.run_in_executor(None, _add, 2, 3)) == 5
