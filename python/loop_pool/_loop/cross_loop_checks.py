"""Errors for asyncio objects that are used on another loop than their own.

asyncio's error names neither loop. On a loop of a pool it gets a note that names the object, both
loops and the alternatives; on a loop in debug mode its message does. Successful calls have no
overhead. Two of the errors are created by asyncio functions that look the class up in their module,
where a function of ours replaces it; "attached to a different loop" reaches ``call_soon`` with the
step that will raise it; the loop itself raises "Non-thread-safe operation invoked" in debug mode.
If that comes too late to prevent a wakeup, see ``cross_loop_wakeups``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

logger = logging.getLogger("loop_pool")

_REPLACEMENTS: dict[type, str] = {
    asyncio.Barrier: "sync.Barrier",
    asyncio.BoundedSemaphore: "sync.BoundedSemaphore",
    asyncio.Condition: "sync.Condition",
    asyncio.Event: "sync.Event",
    asyncio.LifoQueue: "sync.LifoQueue",
    asyncio.Lock: "sync.Lock",
    asyncio.PriorityQueue: "sync.PriorityQueue",
    asyncio.Queue: "sync.Queue",
    asyncio.Semaphore: "sync.Semaphore",
    asyncio.TaskGroup: "TaskGroup",
}
"""What of ``loop_pool`` stands for a class of asyncio."""

PRIMITIVES = {"asyncio.locks", "asyncio.mixins", "asyncio.queues", "asyncio.taskgroups"}
"""Where the methods of asyncio's primitives are."""

_ATTACHED = "attached to a different loop"
MISMATCHED = "The future belongs to a different loop"

_CLIENTS = (
    "A client, connection or connection pool works on the loop that made it: keep one for each "
    "loop in a loop_pool.LoopLocal, or use it through its own loop with "
    "`await loop_pool.call(loop, function, ...)`"
)

_FUTURES = (
    "asyncio's futures and tasks serve one loop each; a task of loop_pool.spawn may be awaited on "
    "every loop, and loop_pool.sync has events, queues and locks for all "
    f"(pip install 'loop_pool[sync]'). {_CLIENTS}"
)


# -- what is said -------------------------------------------------------------------------------


def name_of(loop: Any) -> str:
    """What a message calls a loop: ``loop-pool-0`` and so on if it is of a pool."""
    if not isinstance(loop, _core.LoopCore):
        return repr(loop)
    name: str = loop._name()  # type: ignore[attr-defined]
    return name


def _tells(loop: Any) -> bool:
    """Whether errors on a loop are explained."""
    if not isinstance(loop, _core.LoopCore):
        return False
    return loop.get_debug() or loop._pool is not None  # type: ignore[attr-defined]


def _say(error: Exception, loop: Any, text: str) -> None:
    """Complete an error on ``loop``."""
    if loop.get_debug():
        error.args = (f"{error}: {text}",)
    else:
        error.add_note(text)


def _help(primitive: object) -> str:
    for cls in type(primitive).__mro__:
        replacement = _REPLACEMENTS.get(cls)
        if replacement is not None:
            extra = " (pip install 'loop_pool[sync]')" if "." in replacement else ""
            return (
                "asyncio's primitives serve one loop each; "
                f"loop_pool.{replacement} serves every loop and thread{extra}. {_CLIENTS}"
            )
    return f"asyncio's primitives serve one loop each: make one for each loop. {_CLIENTS}"


def _here() -> str:
    """Where the calling thread is, for a message."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return f"in the thread {threading.current_thread().name}"
    return f"on {name_of(loop)}"


def module_of(frame: FrameType) -> str:
    """The module whose code a frame runs."""
    return str(frame.f_globals.get("__name__"))


def _primitive(frame: FrameType | None) -> object:
    """The primitive that the program called, out of whose methods ``frame`` was called."""
    found = None
    while frame is not None and module_of(frame) in PRIMITIVES:
        found = frame.f_locals.get("self", found)
        frame = frame.f_back
    return found


def _by_way_of(frames: Iterator[FrameType]) -> str:
    """A sentence on whose methods led to an error: the program's objects, the nearest first."""
    users: list[object] = []
    for frame in frames:
        user = frame.f_locals.get("self")
        package = type(user).__module__.partition(".")[0]
        if user is None or package in {"asyncio", "loop_pool"} or any(user is it for it in users):
            continue
        users.append(user)
    if not users:
        return ""
    return f" It was used by {', by '.join(object.__repr__(user) for user in users[:3])}."


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and its callers, as far as the loop."""
    loops = {"asyncio.events", "loop_pool._loop.event_loop"}
    while frame is not None and module_of(frame) not in loops:
        yield frame
        frame = frame.f_back


def _suspended(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, the innermost first."""
    frames: list[FrameType] = []
    while coroutine is not None:
        for name in ("cr_frame", "gi_frame", "ag_frame"):
            frame = getattr(coroutine, name, None)
            if frame is not None:
                frames.append(frame)
        coroutine = _waits_for(coroutine)
    return reversed(frames)


def _awaited(coroutine: Any) -> asyncio.Future[Any] | None:
    """The future that a suspended coroutine waits for."""
    deeper: Any = coroutine
    while deeper is not None:
        if asyncio.isfuture(deeper):
            return deeper  # a native stream's operation is both
        deeper, last = _waits_for(deeper), deeper
    return next(filter(asyncio.isfuture, gc.get_referents(last)), None)


def _waits_for(suspended: Any) -> Any:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(suspended, name):
            return getattr(suspended, name)
    # A step of an asynchronous generator does not show which generator that is.
    return next(filter(inspect.isasyncgen, gc.get_referents(suspended)), None)


# -- errors that are raised in time --------------------------------------------------------------


def _bound_error(*args: object) -> RuntimeError:
    """Make the error of a primitive that is bound to another loop."""
    error = RuntimeError(*args)
    here = asyncio._get_running_loop()
    frame = sys._getframe(1)
    if frame.f_code is asyncio_private.get_loop_code and _tells(here):
        with contextlib.suppress(Exception):  # the program's error matters more
            inner = frame.f_locals["self"]
            outer = _primitive(frame) or inner
            owner = name_of(asyncio_private.loop_of(inner))
            part = "" if outer is inner else f"it is a part of {outer!r}; "
            users = _by_way_of(callers(frame))
            text = f"{part}it belongs to {owner} and was used on {name_of(here)}.{users}"
            _say(error, here, f"{text} {_help(outer)}")
    return error


def _mismatch_error(*args: object) -> ValueError:
    """Make the error of a future that was given to a function of another loop."""
    error = ValueError(*args)
    here = asyncio._get_running_loop()
    frame = sys._getframe(1)
    if frame.f_code is asyncio_private.ensure_future_code and _tells(here):
        with contextlib.suppress(Exception):
            future = frame.f_locals["coro_or_future"]
            _say(error, here, of_another_loop(future, callers(frame)))
    return error


asyncio_private.make_errors_by(_bound_error, _mismatch_error)


def of_another_loop(future: Any, frames: Iterator[FrameType]) -> str:
    """What there is to say of a future that was used on another loop than its own."""
    owner, here = name_of(future.get_loop()), name_of(asyncio._get_running_loop())
    return f"{future!r} belongs to {owner} and was used on {here}.{_by_way_of(frames)} {_FUTURES}"


def explain_step(step: Any) -> None:
    """Complete the error that a task's step is about to throw into the coroutine, if it does.

    Args:
        step: what the C task gave ``call_soon``.
    """
    for error in gc.get_referents(step):
        if type(error) is RuntimeError and str(error).endswith(_ATTACHED):
            task = step.__self__
            loop = task.get_loop()
            if not _tells(loop):
                return
            coroutine = task.get_coro()
            future = _awaited(coroutine)
            if future is not None and future._asyncio_future_blocking:
                # As asyncio leaves it, who awaits it next, on its own loop too, is told nonsense.
                future._asyncio_future_blocking = False
            owner = "another loop" if future is None else name_of(future.get_loop())
            users = _by_way_of(_suspended(coroutine))
            text = f"the future belongs to {owner}, the task runs on {name_of(loop)}.{users}"
            _say(error, loop, f"{text} {_FUTURES}")


def explain_thread(
    error: RuntimeError,
    loop: asyncio.AbstractEventLoop,
    frame: Any,
    future: Any = None,
    callback: object = None,
) -> None:
    """Complete the error of a call that did not come from the loop's thread.

    Args:
        error: the error.
        loop: the loop that was called.
        frame: the frame that called it.
        future: the future that called it, if one did.
        callback: what is to be called with the future.
    """
    owner, users = name_of(loop), _by_way_of(callers(frame))
    primitive = _primitive(frame)
    if primitive is not None:
        state = f"has a task of {owner} waiting"
        if isinstance(primitive, asyncio.TaskGroup):
            state = f"belongs to {owner}"
        says = f"{primitive!r} {state} and was used {_here()}."
        error.args = (f"{error}: {says}{users} {_help(primitive)}",)
    elif future is not None:
        says = f"{future!r} belongs to {owner} and was used {_here()}."
        # A task is cancelled through what it waits for; what the program knows is the task.
        waiting = getattr(callback, "__self__", None)
        task = f" {waiting!r} waits for it." if isinstance(waiting, asyncio.Task) else ""
        error.args = (f"{error}: {says}{task}{users} {_FUTURES}",)
    else:
        error.add_note(
            f"the loop is {owner}, the call came {_here()}.{users} From another thread use "
            f"call_soon_threadsafe. {_CLIENTS}"
        )
