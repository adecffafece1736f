"""Debug mode: slow callbacks, foreign threads, origins, as in asyncio."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, LoopFactory, LoopThread, check_script, factory_path, run_turn

if TYPE_CHECKING:
    import traceback
    from collections.abc import Callable


@pytest.fixture
def debug_loop(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """A loop in debug mode, for which no callback is slow."""
    loop.set_debug(True)
    loop.slow_callback_duration = 1e6
    return loop


def test_debug_mode_is_off_and_can_be_set(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True
    assert "debug=True" in repr(loop)
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize(
    ("options", "env"), [(["-X", "dev"], {}), ([], {"PYTHONASYNCIODEBUG": "1"})], ids=["dev", "env"]
)
def test_the_interpreter_s_switches_set_debug_mode(
    loop_factory: LoopFactory, options: list[str], env: dict[str, str]
) -> None:
    module, _, name = factory_path(loop_factory).partition(":")
    source = """
        import importlib, sys
        loop = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
        print(loop.get_debug())
        loop.close()
    """
    assert check_script(source, module, name, options=options, env=env) == "True\n"


# Slow callbacks


@pytest.mark.smoke
def test_slow_callbacks_are_logged(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def slow() -> None:
        """Slower than nothing."""

    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    loop.call_soon(slow)
    run_turn(loop)
    messages = _warnings(caplog)
    assert any(
        message.startswith("Executing <Handle ") and ".slow()" in message for message in messages
    ), messages
    assert all(" took " in message and message.endswith(" seconds") for message in messages)


def test_slow_timers_and_posts_are_logged(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def by_timer() -> None:
        """Slower than nothing."""

    def by_post() -> None:
        """Slower than nothing."""

    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    loop.call_at(loop.time(), by_timer)
    loop.call_soon_threadsafe(by_post)
    run_turn(loop)
    run_turn(loop)
    text = "\n".join(_warnings(caplog))
    assert "<TimerHandle " in text
    assert ".by_timer()" in text
    assert ".by_post()" in text


def test_slow_task_steps_are_logged_with_their_task(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def step() -> None:
        await asyncio.sleep(0)

    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    loop.run_until_complete(loop.create_task(step(), name="the slow one"))
    messages = [message for message in _warnings(caplog) if "the slow one" in message]
    assert len(messages) >= 2
    assert all(message.startswith("Executing <Task ") for message in messages)


def test_fast_callbacks_are_not_logged(
    debug_loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    debug_loop.call_soon(int)
    debug_loop.run_until_complete(asyncio.sleep(0.001))
    assert _warnings(caplog) == []


def test_nothing_is_logged_without_debug_mode(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.slow_callback_duration = 0.0
    loop.call_soon(int)
    loop.run_until_complete(asyncio.sleep(0))
    assert _warnings(caplog) == []


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncio" and record.levelno == logging.WARNING
    ]


# Foreign threads

UNSAFE: dict[str, Callable[[Any], object]] = {
    "call_soon": lambda loop: loop.call_soon(int),
    "call_later": lambda loop: loop.call_later(1, int),
    "call_at": lambda loop: loop.call_at(1, int),
}


@pytest.mark.smoke
@pytest.mark.parametrize("how", UNSAFE)
def test_a_foreign_thread_is_refused(debug_loop: asyncio.AbstractEventLoop, how: str) -> None:
    with LoopThread(debug_loop):
        with pytest.raises(RuntimeError, match="Non-thread-safe operation invoked on an event"):
            UNSAFE[how](debug_loop)
        debug_loop.call_soon_threadsafe(int)
    UNSAFE[how](debug_loop)


@pytest.mark.parametrize("how", UNSAFE)
def test_the_loop_s_own_thread_is_not_refused(
    debug_loop: asyncio.AbstractEventLoop, how: str
) -> None:
    async def main() -> None:
        UNSAFE[how](debug_loop)

    debug_loop.run_until_complete(main())


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_what_cannot_be_called_is_refused(
    debug_loop: asyncio.AbstractEventLoop, method: str
) -> None:
    async def coroutine_function() -> None:
        """Never called."""

    first: tuple[Any, ...] = (0,) if method in {"call_later", "call_at"} else ()
    shown = "call_at" if method == "call_later" else method
    call = getattr(debug_loop, method)
    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {shown}\(\)"):
        call(*first, coroutine_function)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {shown}\(\)"):
        call(*first, coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match=rf"a callable object was expected by {shown}\(\)"):
        call(*first, "not callable")


# Origins


def test_coroutine_origins_are_tracked_while_the_loop_runs(
    debug_loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> int:
        return sys.get_coroutine_origin_tracking_depth()

    before = sys.get_coroutine_origin_tracking_depth()
    assert debug_loop.run_until_complete(main()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_debug_mode_set_while_running_tracks_origins(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> tuple[int, int]:
        loop.set_debug(True)
        await asyncio.sleep(0)
        on = sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(False)
        await asyncio.sleep(0)
        return on, sys.get_coroutine_origin_tracking_depth()

    before = sys.get_coroutine_origin_tracking_depth()
    on, off = loop.run_until_complete(main())
    assert on > 0
    assert off == before


def test_handles_know_where_they_were_made(debug_loop: asyncio.AbstractEventLoop) -> None:
    for handle in (
        debug_loop.call_soon(int),
        debug_loop.call_soon_threadsafe(int),
        debug_loop.call_later(1, int),
        debug_loop.call_at(1, int),
    ):
        last: traceback.FrameSummary = handle._source_traceback[-1]  # type: ignore[attr-defined]
        assert last.name == "test_handles_know_where_they_were_made"
        assert f"created at {__file__}:{last.lineno}" in repr(handle)


def test_handles_made_without_debug_mode_know_nothing(loop: asyncio.AbstractEventLoop) -> None:
    handle: Any = loop.call_soon(int)
    assert handle._source_traceback is None
    assert "created at" not in repr(handle)


def test_futures_and_tasks_know_where_they_were_made(
    debug_loop: asyncio.AbstractEventLoop,
) -> None:
    async def nothing() -> None:
        """Ends at once."""

    name = "test_futures_and_tasks_know_where_they_were_made"
    future: Any = debug_loop.create_future()
    assert name in {frame.name for frame in future._source_traceback}
    task: Any = debug_loop.create_task(nothing())
    assert task._source_traceback[-1].name == name
    debug_loop.run_until_complete(task)


def test_a_callback_s_exception_is_reported_with_its_origin(
    debug_loop: asyncio.AbstractEventLoop, reported: list[dict[str, Any]]
) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    debug_loop.call_soon(fails)
    run_turn(debug_loop)
    origin = reported[0]["source_traceback"][-1].name
    assert origin == "test_a_callback_s_exception_is_reported_with_its_origin"


def test_blocking_sockets_are_refused(debug_loop: asyncio.AbstractEventLoop) -> None:
    import socket

    near, far = socket.socketpair()
    with near, far, pytest.raises(ValueError, match="must be non-blocking"):
        debug_loop.run_until_complete(debug_loop.sock_recv(near, 1))


def test_debug_mode_in_two_loops_at_once(loop_factory: LoopFactory) -> None:
    both = threading.Barrier(2, timeout=HANG)

    async def main() -> None:
        both.wait()
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))

    def run() -> None:
        asyncio.run(main(), loop_factory=loop_factory, debug=True)

    thread = threading.Thread(target=run)
    thread.start()
    run()
    thread.join(HANG)
    assert not thread.is_alive()
