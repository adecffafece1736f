"""Reads the stack of another thread without delaying a third one.

Stacks and running tasks can only be read while all threads are paused
(``src/py/event_loop/stack.rs``), and pausing waits for threads that run native code attached. So a
thread first proves that it can be paused (:class:`Probes`); otherwise its stack is read from
outside (:func:`seen_from_outside`). Must never, for an unresponsive loop: read the frames of its
running thread, call a method of its C task (even ``done`` waits for the step), or pause threads
before each has proved that it can be paused.
"""

from __future__ import annotations

import gc
import itertools
import linecache
import logging
import os
import sys
import threading
import traceback
from collections.abc import Coroutine, Generator
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from .. import _core

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from .._loop.event_loop import EventLoop

logger = logging.getLogger("loop_pool")

type Stack = tuple[traceback.FrameSummary, ...]

SOON = 0.02
"""Seconds in which a thread answers that runs Python."""

AT_LAST = 0.2
"""The same on a machine that has more to do than it can."""


class _Probe:
    """An object whose finalizer tells that its thread can be interrupted."""

    __slots__ = ("_answered",)

    def __init__(self, answered: threading.Event) -> None:
        self._answered = answered

    def __del__(self) -> None:
        self._answered.set()


class Probes:
    """By which another thread finds out whether this one can be interrupted at once.

    A free-threaded interpreter lets an object be finalized by the thread that made it, wherever the
    last reference goes: as soon as that thread runs Python again. So a thread that has finalized
    one does not run native code, or did not just now. Made by the thread concerned.
    """

    def __init__(self) -> None:
        self.native_id = threading.get_native_id()
        self._stock: list[tuple[_Probe, threading.Event]] = []
        self.refill()

    def refill(self) -> None:
        """Put back what was used. The thread concerned."""
        while len(self._stock) < 4:
            answered = threading.Event()
            self._stock.append((_Probe(answered), answered))

    def ask(self) -> threading.Event:
        """Return what is set when the thread answers. The reporting thread."""
        try:
            probe, answered = self._stock.pop()
        except IndexError:
            return threading.Event()
        del probe
        return answered


def stands_still(loop: EventLoop, callback: int, answered: threading.Event, wait: float) -> bool:
    """Return whether a loop that is inside a callback can be made to stand still at once."""
    blocked = _core._is_blocked(loop, callback)
    if blocked is not False:
        return bool(blocked)
    # It may block while we wait.
    return sys._is_gil_enabled() or answered.wait(wait) or bool(_core._is_blocked(loop, callback))


def reader() -> Any:
    """Return what reads stacks from outside. The first call makes all threads stand still.

    Raises:
        ImportError: this Python has none.
    """
    import _remote_debugging  # type: ignore[import-not-found]

    return _remote_debugging.RemoteUnwinder


def seen_from_outside(native_id: int) -> Stack:
    """Return the stack of a thread as the interpreter's own sampling profiler reads it.

    It reads memory by the kernel, so it stops nobody, and what it misreads is an error, no crash.
    While the thread runs native code its frames do not change.
    """
    try:
        found = reader()(os.getpid(), all_threads=True).get_stack_trace()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logger.warning("cannot read the stack of a thread that runs native code: %r", error)
        return ()
    # Python 3.15 groups the threads by interpreter, and tells columns.
    threads = [thread for group in found for thread in getattr(group, "threads", (group,))]
    frames = next((each.frame_info for each in threads if each.thread_id == native_id), ())
    return summary(
        (
            frame.filename,
            getattr(frame, "location", frame).lineno,
            frame.funcname.rpartition(".")[2],
        )
        for frame in reversed(frames)
    )


def summary(calls: Iterable[tuple[str, int, str]]) -> Stack:
    """Return calls (file, line, name) as ``traceback`` shows them, with their source lines."""
    calls = list(calls)
    for path in {path for path, _, _ in calls}:
        linecache.checkcache(path)
    return tuple(traceback.FrameSummary(*call) for call in calls)


def parts_of(task: asyncio.Task[Any]) -> tuple[object, str | None]:
    """Return the coroutine and the name of a task that runs, as far as they can be told.

    The C task's own methods would wait for its lock, which is held as long as its step goes on
    uninterrupted.
    """
    if not isinstance(task.get_coro, BuiltinMethodType):
        return task.get_coro(), task.get_name()
    held = gc.get_referents(task)  # which makes all threads stand still
    is_coro = (isinstance(each, Coroutine | Generator) for each in held)
    coro, name = next(itertools.compress(itertools.pairwise(held), is_coro), (None, None))
    if isinstance(name, int):  # as long as nobody has asked for it
        name = f"Task-{name}"
    return coro, name if isinstance(name, str) else None
