"""Wakeups of another loop's tasks that debug mode detects too late to prevent.

When a primitive or future wakes a task of another loop, it has already been set. So the wakeups are
delivered, and the error is raised afterwards: an asyncio method that wakes several tasks runs to
its end, where ``sys.monitoring`` raises the error. Monitoring starts with the first loop in debug
mode and stays on.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import sys
import threading
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .cross_loop_checks import (
    MISMATCHED,
    PRIMITIVES,
    callers,
    explain_thread,
    module_of,
    of_another_loop,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

logger = logging.getLogger("loop_pool")

_TOOLS = (3, 4)
"""The tool numbers of ``sys.monitoring`` that are set aside for nobody."""

_OPERATIONS = {
    *PRIMITIVES,
    "asyncio.futures",
    "asyncio.streams",
    "asyncio.tasks",
    "asyncio.timeouts",
}
"""Where functions may end several futures, or have more to do when they have ended one."""


class _Misuse:
    """One operation that ends futures of another loop: whom it wakes, and what is to be raised."""

    def __init__(self, error: RuntimeError, loop: Any) -> None:
        self.error = error
        self.loop = loop
        self._wakes: list[tuple[Any, Any, Any]] = []

    def add(self, callback: Any, future: Any, context: Any) -> None:
        """Note a callback of the loop that is to run."""
        self._wakes.append((callback, future, context))

    def deliver(self) -> None:
        """Let the loop run what was noted."""
        wakes, self._wakes = self._wakes, []
        for callback, future, context in wakes:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                self.loop.call_soon_threadsafe(callback, future, context=context)


class _Misuses(threading.local):
    """The operations of the calling thread that have yet to end, by their frames."""

    def __init__(self) -> None:
        self.open: dict[FrameType, _Misuse] = {}


_misuses = _Misuses()
_lock = threading.Lock()
_tool: int | None = None
"""The tool number that is ours; -1: none was free. Set once, under the lock."""
_watched: set[CodeType] = set()
"""The operations whose end is watched. Under the lock."""


def wake(
    loop: Any, callback: Callable[..., object], future: Any, context: contextvars.Context
) -> bool:
    """Deliver what a future asks for that was ended on a thread other than its loop's.

    In debug mode, called by ``call_soon(callback, future, context=context)``.

    Returns:
        Whether it is that: it is delivered, now or as soon as the method of asyncio's has ended
        that asked for it. Until then whoever is woken could change what the method works on.

    Raises:
        RuntimeError: it is that, and all that waits for the future has been told.
    """
    if not (
        asyncio_private.runs_elsewhere(loop)
        and asyncio.isfuture(future)
        and asyncio_private.future_loop(future) is loop
        and future.done()
    ):
        return False
    frame = sys._getframe().f_back
    operation = _operation(frame)
    misuse = None if operation is None else _misuses.open.get(operation)
    if misuse is not None and misuse.loop is loop:
        misuse.add(callback, future, context)
        return True
    misuse = _Misuse(_error_of(loop, frame, future, callback), loop)
    misuse.add(callback, future, context)
    if operation is None:
        for other, its_context in _other_callbacks(future, callback, context):
            misuse.add(other, future, its_context)
        misuse.deliver()
        raise misuse.error
    if operation in _misuses.open or not _watch_end(operation.f_code):
        misuse.deliver()
        reporter: Any = asyncio._get_running_loop() or loop
        report = {"message": str(misuse.error), "exception": misuse.error}
        reporter.call_exception_handler(report)
        return True
    _misuses.open[operation] = misuse
    return True


def _error_of(loop: Any, frame: FrameType | None, future: Any, callback: object) -> RuntimeError:
    try:
        base_events.BaseEventLoop._check_thread(loop)  # type: ignore[attr-defined]
    except RuntimeError as error:
        explain_thread(error, loop, frame, future, callback)
        return error.with_traceback(None)
    return RuntimeError(f"{future!r} was used in the wrong thread")  # the loop ended meanwhile


def _operation(frame: FrameType | None) -> FrameType | None:
    """The outermost function of asyncio's out of which ``frame`` was called."""
    found = None
    while frame is not None and (
        module_of(frame) in _OPERATIONS
        or (module_of(frame) == "asyncio.base_events" and _is_of_server(frame))
    ):
        found, frame = frame, frame.f_back
    return found


def _is_of_server(frame: FrameType) -> bool:
    return frame.f_code.co_qualname.startswith("Server.")


def _other_callbacks(future: Any, callback: object, context: object) -> list[tuple[Any, Any]]:
    """The callbacks of a C future that it will not come to when its first one raises."""
    others = getattr(future, "_callbacks", None)
    if others is not None:
        return list(others)
    # If somebody has taken back the one that was added first, the C code has them in a list that
    # nothing else refers to.
    for pair in gc.get_referrers(callback):
        if _is_entry(pair) and pair[0] is callback and pair[1] is context:
            for held in gc.get_referrers(pair):
                if type(held) is list and len(held) > 1 and all(map(_is_entry, held)):
                    return held[1:]
    return []


def _is_entry(value: object) -> bool:
    """Whether it is what a C future keeps of a callback."""
    return (
        type(value) is tuple
        and len(value) == 2
        and callable(value[0])
        and type(value[1]) is contextvars.Context
    )


def watch() -> None:
    """Begin to watch functions of asyncio's for debug mode. Any thread, any often."""
    global _tool
    with _lock:
        if _tool is not None:
            return
        for tool in _TOOLS:
            if sys.monitoring.get_tool(tool) is None:
                break
        else:
            _tool = -1
            logger.info(
                "sys.monitoring has no free tool ID: some errors are logged instead of raised"
            )
            return
        events = sys.monitoring.events
        sys.monitoring.use_tool_id(tool, "loop_pool")
        for event, callback in (
            (events.PY_START, _on_start),
            (events.PY_YIELD, _on_yield),
            (events.PY_RETURN, _on_return),
            (events.PY_UNWIND, _on_unwind),
        ):
            sys.monitoring.register_callback(tool, event, callback)
        sys.monitoring.set_local_events(tool, asyncio_private.wait_code, events.PY_START)
        _tool = tool


def _watch_end(code: CodeType) -> bool:
    """Watch how calls of a function end, from one on that is under way; whether it can be."""
    with _lock:
        if _tool is None or _tool < 0:
            return False
        if code not in _watched:
            events = sys.monitoring.events
            wanted = events.PY_RETURN | events.PY_YIELD
            if code is asyncio_private.wait_code:
                wanted |= events.PY_START
            sys.monitoring.set_local_events(_tool, code, wanted)
            # This one there is for all functions together. It costs nothing until one is unwound.
            sys.monitoring.set_events(_tool, events.PY_UNWIND)
            _watched.add(code)
    return True


def _on_start(code: CodeType, offset: int) -> None:
    """Refuse to wait for futures of another loop: ``asyncio.wait`` would be woken from there."""
    here = asyncio._get_running_loop()
    if code is not asyncio_private.wait_code or not isinstance(here, _core.LoopCore):
        return
    if here.get_debug():
        frame = sys._getframe(1)
        for future in frame.f_locals["fs"]:
            if asyncio_private.future_loop(future) not in {here, None}:
                text = of_another_loop(future, callers(frame))
                raise RuntimeError(f"{MISMATCHED} than the one that waits for it: {text}")


def _on_yield(code: CodeType, offset: int, value: object) -> None:
    if _misuses.open:
        misuse = _misuses.open.get(sys._getframe(1))
        if misuse is not None:
            misuse.deliver()


def _on_return(code: CodeType, offset: int, value: object) -> None:
    if _misuses.open:
        misuse = _misuses.open.pop(sys._getframe(1), None)
        if misuse is not None:
            misuse.deliver()
            raise misuse.error


def _on_unwind(code: CodeType, offset: int, exception: BaseException) -> None:
    if _misuses.open:
        misuse = _misuses.open.pop(sys._getframe(1), None)
        if misuse is not None:
            misuse.deliver()
            exception.add_note(str(misuse.error))
