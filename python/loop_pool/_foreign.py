"""What debug mode adds where an object of asyncio is used on a loop that is not its own.

asyncio's primitives, futures and tasks serve one loop. Used on another one they raise a
``RuntimeError`` that names one object and no loop. There are three such errors, and for each a
place in which a loop in debug mode sees it before the program does:

- "is bound to a different event loop", raised by one function of asyncio's. Its calls are watched
  by ``sys.monitoring``, and the error is raised from there, with more to say. asyncio itself
  stays as it is, and on any other loop, or without debug mode, so does the error. The watch begins
  with the first loop in debug mode and stays.
- "attached to a different loop", which the C task is about to throw into its coroutine: the step
  that will do so holds the exception, and the loop runs the step.
- "Non-thread-safe operation invoked on an event loop other than the current one", raised by our own
  loop, when a primitive wakes a task of another loop.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from . import _core, _private

if TYPE_CHECKING:
    from types import CodeType, FrameType

logger = logging.getLogger("loop_pool")

_TOOLS = (3, 4)
"""The tool numbers of ``sys.monitoring`` that are set aside for nobody."""

_REPLACEMENTS: dict[type, str] = {
    asyncio.Barrier: "Barrier",
    asyncio.BoundedSemaphore: "BoundedSemaphore",
    asyncio.Condition: "Condition",
    asyncio.Event: "Event",
    asyncio.LifoQueue: "LifoQueue",
    asyncio.Lock: "Lock",
    asyncio.PriorityQueue: "PriorityQueue",
    asyncio.Queue: "Queue",
    asyncio.Semaphore: "Semaphore",
}
"""What of ``loop_pool.sync`` stands for a class of asyncio."""

_ASYNCIO = {"asyncio.locks", "asyncio.mixins", "asyncio.queues"}
"""Where the methods of asyncio's primitives are."""

_ATTACHED = "attached to a different loop"

_lock = threading.Lock()
_watching = False  # under the lock


def watch() -> None:
    """Begin to watch for primitives that are bound to another loop. Any thread, any often."""
    global _watching
    with _lock:
        if _watching:
            return
        _watching = True
        for tool in _TOOLS:
            if sys.monitoring.get_tool(tool) is None:
                break
        else:
            logger.info("sys.monitoring is used up: errors of asyncio's primitives stay terse")
            return
        calls = sys.monitoring.events.CALL
        sys.monitoring.use_tool_id(tool, "loop_pool")
        sys.monitoring.register_callback(tool, calls, _on_call)
        sys.monitoring.set_local_events(tool, _private.get_loop_code, calls)


def _on_call(code: CodeType, offset: int, called: object, message: object) -> None:
    """Raise asyncio's error with more to say, when it is about to be made. Any thread."""
    if called is not RuntimeError:
        return
    here = asyncio._get_running_loop()
    if not isinstance(here, _core.LoopCore) or not here.get_debug():
        return
    frame = sys._getframe(1)
    inner = frame.f_locals["self"]
    outer = _primitive(frame) or inner
    owner = name_of(_private.loop_of(inner))
    part = "" if outer is inner else f" (it is a part of {outer!r})"
    raise RuntimeError(
        f"{message}{part}: it belongs to {owner} and was used on {name_of(here)}. {_help(outer)}"
    )


def explain_step(step: Any) -> None:
    """Complete the error that a task's step is about to throw into the coroutine, if it does.

    Args:
        step: what the C task gave ``call_soon``.
    """
    for error in gc.get_referents(step):
        if type(error) is RuntimeError and str(error).endswith(_ATTACHED):
            task = step.__self__
            future = _awaited(task.get_coro())
            owner = "another loop" if future is None else name_of(future.get_loop())
            error.args = (
                f"{error}: the future belongs to {owner}, the task runs on "
                f"{name_of(task.get_loop())}. asyncio's futures and tasks serve one loop each; "
                "a task of loop_pool.spawn may be awaited on every loop, and loop_pool.sync has "
                "events, queues and locks for all (pip install 'loop_pool[sync]')",
            )


def explain_thread(error: RuntimeError, loop: asyncio.AbstractEventLoop, frame: Any) -> None:
    """Complete the error of a call that did not come from the loop's thread.

    Nothing is added if it did not come from a primitive of asyncio's.

    Args:
        error: the error.
        loop: the loop that was called.
        frame: the frame that called it.
    """
    primitive = _primitive(frame)
    if primitive is not None:
        here = asyncio._get_running_loop()
        where = (
            f"in the thread {threading.current_thread().name}"
            if here is None
            else f"on {name_of(here)}"
        )
        error.args = (
            f"{error}: {primitive!r} has a task of {name_of(loop)} waiting and was used {where}. "
            f"{_help(primitive)}",
        )


def name_of(loop: Any) -> str:
    """What a message calls a loop: ``loop-pool-0`` and so on if it is of a pool."""
    if not isinstance(loop, _core.LoopCore):
        return repr(loop)
    name: str = loop._name()  # type: ignore[attr-defined]
    return name


def _help(primitive: object) -> str:
    for cls in type(primitive).__mro__:
        if cls in _REPLACEMENTS:
            return (
                "asyncio's primitives serve one loop each; "
                f"loop_pool.sync.{_REPLACEMENTS[cls]} serves every loop and thread "
                "(pip install 'loop_pool[sync]')"
            )
    return "asyncio's primitives serve one loop each: make one for each loop"


def _primitive(frame: FrameType | None) -> object:
    """The primitive that the program called, out of whose methods ``frame`` was called."""
    found = None
    while frame is not None and frame.f_globals.get("__name__") in _ASYNCIO:
        found = frame.f_locals.get("self", found)
        frame = frame.f_back
    return found


def _awaited(coroutine: Any) -> asyncio.Future[Any] | None:
    """The future that a suspended coroutine waits for."""
    deeper: Any = coroutine
    while deeper is not None:
        deeper, last = _waits_for(deeper), deeper
    return next(filter(asyncio.isfuture, gc.get_referents(last)), None)


def _waits_for(suspended: Any) -> Any:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(suspended, name):
            return getattr(suspended, name)
    # A step of an asynchronous generator does not show which generator that is.
    return next(filter(inspect.isasyncgen, gc.get_referents(suspended)), None)
