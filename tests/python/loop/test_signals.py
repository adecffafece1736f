"""Signals: handlers on the loop, and signals that find the loop asleep in its poll."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from ..support import (
    LoopFactory,
    Threads,
    check_script,
    factory_path,
    in_thread,
    kill_when_parked,
    run_turn,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WHO = contextvars.ContextVar[str]("WHO", default="nobody")


@pytest.fixture(autouse=True)
def _signals_unchanged() -> Iterator[None]:
    watched = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT]
    before = [signal.getsignal(each) for each in watched]
    yield
    assert [signal.getsignal(each) for each in watched] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.smoke
def test_a_signal_calls_its_handler_on_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def handler(*args: object) -> None:
        seen.append((args, asyncio.get_running_loop()))
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, "a", 1)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert seen == [(("a", 1), loop)]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_handler_runs_in_the_context_of_its_making(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def handler() -> None:
        seen.append(WHO.get())
        loop.stop()

    context = contextvars.copy_context()
    context.run(WHO.set, "maker")
    context.run(loop.add_signal_handler, signal.SIGUSR1, handler)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert seen == ["maker"]


def test_a_later_handler_takes_the_place_of_the_first(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def handler(name: str) -> None:
        seen.append(name)
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, "first")
    loop.add_signal_handler(signal.SIGUSR1, handler, "second")
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert seen == ["second"]


def test_each_signal_has_its_own_handler(loop: asyncio.AbstractEventLoop) -> None:
    seen: set[str] = set()

    def handler(name: str) -> None:
        seen.add(name)
        if len(seen) == 2:
            loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, "one")
    loop.add_signal_handler(signal.SIGUSR2, handler, "two")
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)
    loop.run_forever()
    assert seen == {"one", "two"}


def test_closing_the_loop_removes_its_handlers(loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_refused_off_the_main_thread(loop: asyncio.AbstractEventLoop) -> None:
    def attempt() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            loop.add_signal_handler(signal.SIGUSR1, print)

    in_thread(attempt)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_uncatchable_signals_are_refused(loop: asyncio.AbstractEventLoop, number: int) -> None:
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(number, print)
    assert loop.remove_signal_handler(number) is False


@pytest.mark.parametrize("number", [0, -1, signal.NSIG, 100000])
def test_numbers_that_are_no_signal_are_refused(
    loop: asyncio.AbstractEventLoop, number: int
) -> None:
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(number, print)


def test_a_coroutine_function_is_no_handler(loop: asyncio.AbstractEventLoop) -> None:
    async def handler() -> None:
        """Never called."""

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, handler)


def test_a_handler_that_raises_is_reported(
    loop: asyncio.AbstractEventLoop, reported: list[dict[str, object]]
) -> None:
    def fails() -> None:
        loop.stop()
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, fails)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


@pytest.mark.smoke
def test_a_signal_wakes_a_parked_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    with kill_when_parked(signal.SIGUSR1):
        loop.run_forever()


def test_a_python_handler_runs_while_the_loop_is_parked(loop: asyncio.AbstractEventLoop) -> None:
    def handler(*_: object) -> None:
        ran.append(threading.current_thread())
        loop.call_soon_threadsafe(loop.stop)

    ran: list[threading.Thread] = []
    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with kill_when_parked(signal.SIGUSR1):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert ran == [threading.main_thread()]


def test_a_handler_s_exception_leaves_the_parked_loop(loop: asyncio.AbstractEventLoop) -> None:
    def handler(*_: object) -> None:
        raise ZeroDivisionError("from the handler")

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with (
            kill_when_parked(signal.SIGUSR1),
            pytest.raises(ZeroDivisionError, match="from the handler"),
        ):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    run_turn(loop)


@pytest.mark.smoke
def test_an_interrupt_of_a_parked_loop_raises(loop: asyncio.AbstractEventLoop) -> None:
    with kill_when_parked(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    run_turn(loop)


def test_an_interrupt_cancels_the_main_task_of_a_runner(loop_factory: LoopFactory) -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with (
        asyncio.Runner(loop_factory=loop_factory) as runner,
        kill_when_parked(signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        runner.run(main())
    assert seen == ["cancelled"]


def test_a_second_interrupt_raises_at_once(loop_factory: LoopFactory) -> None:
    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=loop_factory) as runner,
        kill_when_parked(signal.SIGINT),
        pytest.raises(KeyboardInterrupt),
    ):
        runner.run(main())


def test_an_interrupt_ends_a_program(loop_factory: LoopFactory) -> None:
    module, _, name = factory_path(loop_factory).partition(":")
    assert (
        check_script(
            """
            import asyncio, importlib, os, signal, sys
            async def main():
                asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
                try:
                    await asyncio.Event().wait()
                finally:
                    print("cleaned up")
            factory = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
            try:
                asyncio.run(main(), loop_factory=factory)
            except KeyboardInterrupt:
                print("interrupted")
            """,
            module,
            name,
        )
        == "cleaned up\ninterrupted\n"
    )


def test_signals_do_not_cut_timers_short(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    fired = threading.Event()

    def received(count: int) -> bool:
        return len(seen) == count

    def fire() -> None:
        fired.set()
        loop.stop()

    def kill() -> None:
        sent = 0
        while not fired.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            sent += 1
            wait_for(functools.partial(received, sent), "the signal's handler")

    previous = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        due = loop.time() + 0.1
        loop.call_at(due, fire)
        with Threads(kill):
            loop.run_forever()
            assert loop.time() >= due
    finally:
        signal.signal(signal.SIGUSR1, previous)
