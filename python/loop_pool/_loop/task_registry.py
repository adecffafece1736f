"""The tasks of every loop, readable from any thread without pausing one.

The C task never calls asyncio's registration functions, so the run loop itself records the current
task of each loop, and finds tasks when they schedule their steps. Custom task classes register
through the four functions here, which also call asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from .event_loop import EventLoop, open_loops

if TYPE_CHECKING:
    from collections.abc import Iterator


class TaskRecord(NamedTuple):
    """A task that is not done."""

    task: asyncio.Task[Any]
    loop: EventLoop
    created: float
    """When it was made, by ``time.monotonic()``; exact to the length of a turn."""
    origin: str
    """``spawn``, ``registered`` if it registered itself, else ``create_task``."""


def tasks(loop: EventLoop | None = None) -> list[TaskRecord]:
    """Return the records of the tasks of one loop, or of all, oldest first.

    Any thread; no loop is paused.
    """
    records = {}
    for each in open_loops() if loop is None else (loop,):
        spawned = _spawned(each)
        for task, created_ns, foreign in _not_done(each):
            origin = "registered" if foreign else "create_task"
            origin = "spawn" if id(task) in spawned else origin
            records[id(task)] = TaskRecord(task, each, created_ns / 1e9, origin)
    return sorted(records.values(), key=lambda record: record.created)


def _not_done(loop: EventLoop) -> Iterator[tuple[asyncio.Task[Any], int, bool]]:
    running = _core._current_task(loop)
    # A task that is inside a step keeps whoever asks it waiting until the step ends.
    return (it for it in _core._tasks(loop) if it[0] is running or not it[0].done())


def _spawned(loop: EventLoop) -> set[int]:
    return set() if loop._pool is None else {id(task) for task in loop._spawned()}


def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
    """Return the unfinished tasks of one loop, or of every open loop of this package.

    Like ``asyncio.all_tasks``, which it calls for other kinds of loop, but it works in any thread
    and without a loop. No loop is paused. A task that is created or ends meanwhile may or may not
    be included. A task that the program creates by calling a task class with ``eager_start=True``
    may be missing while it is suspended.

    Args:
        loop: the loop; None: all loops, of every pool in the process and without a pool.
    """
    if loop is not None and not isinstance(loop, EventLoop):
        return asyncio.all_tasks(loop)
    loops = open_loops() if loop is None else (loop,)
    return {task for each in loops for task, _, _ in _not_done(each)}


def current_task(loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Task[Any] | None:
    """Return the task that a loop is running, or None.

    Like ``asyncio.current_task``, which it calls for other kinds of loop, but it works in any
    thread. The task was the current one at some moment between call and return.

    Args:
        loop: the loop; None: the one that runs in this thread.

    Raises:
        RuntimeError: ``loop`` is None and no loop runs in this thread.
    """
    # Of the loop that runs here asyncio knows it best: a program may start, enter and leave tasks
    # by asyncio's functions alone.
    if loop is None or loop is asyncio._get_running_loop() or not isinstance(loop, EventLoop):
        return asyncio.current_task(loop)
    task: asyncio.Task[Any] | None = _core._current_task(loop)
    return task


def _register_task(task: Any) -> None:
    """Make a task visible that is not asyncio's own. Call it from the task's constructor.

    As ``asyncio._register_task``, which it calls. Any thread; the task is kept weakly.

    Raises:
        TypeError: nothing can refer to the task weakly.
    """
    asyncio._register_task(task)
    loop = _loop_of(task)
    if loop is not None:
        _core._register(loop, task)


def _unregister_task(task: Any) -> None:
    """Forget a task that is about to end.

    As ``asyncio._unregister_task``, which it calls. Any thread.
    """
    asyncio._unregister_task(task)
    loop = _loop_of(task)
    if loop is not None:
        _core._unregister(loop, task)


def _enter_task(loop: asyncio.AbstractEventLoop, task: Any) -> None:
    """Make ``task`` the current one, just before a step of it.

    As ``asyncio._enter_task``, which it calls. On the thread that runs ``loop``.

    Raises:
        RuntimeError: another task is the current one, or the loop does not run in this thread.
    """
    asyncio._enter_task(loop, task)
    if isinstance(loop, EventLoop):
        try:
            _core._enter(loop, task)
        except BaseException:
            asyncio._leave_task(loop, task)
            raise


def _leave_task(loop: asyncio.AbstractEventLoop, task: Any) -> None:
    """Undo ``_enter_task``, just after the step.

    As ``asyncio._leave_task``, which it calls. On the thread that runs ``loop``.

    Raises:
        RuntimeError: ``task`` is not the current one, or the loop does not run in this thread.
    """
    asyncio._leave_task(loop, task)
    if isinstance(loop, EventLoop):
        _core._leave(loop, task)


def _loop_of(task: Any) -> EventLoop | None:
    """Return the loop of a task of whatever make, if it is one of ours."""
    loop = None
    with contextlib.suppress(AttributeError):
        loop = task.get_loop()
    if loop is None:
        loop = getattr(task, "_loop", None)
    return loop if isinstance(loop, EventLoop) else None
