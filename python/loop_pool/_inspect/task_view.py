"""Describes one task and what it awaits, in the thread of its loop.

While a callback runs there, the task is suspended and its coroutine can be read. Reading a running
coroutine from another thread crashes CPython before 3.15 (python/cpython#120321).

In: a task. Out: plain dictionaries for JSON, and which tasks await which.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .._loop import asyncio_private
from .._pool.spawn import PoolTask
from .._pool.stuck_stacks import name_of_coro, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HOPS = 4
"""How far the futures between two tasks are followed."""


class Seen(NamedTuple):
    """A task of one loop, as the registry gives it to any thread."""

    task: Any
    loop: int
    """The index of its loop."""
    created: float
    """By ``time.monotonic()``."""
    origin: str


class TaskReport(NamedTuple):
    """What there is to tell of a task. Tasks and coroutines are known by their identities."""

    outline: dict[str, Any]
    coro: int | None = None
    awaits: tuple[int, ...] = ()
    """Tasks of its own loop that it waits for."""
    remote: tuple[PoolTask[Any], ...] = ()
    """Tasks of ``spawn``, on whatever loops, that it waits for. Their own loops tell which they are
    (:func:`identify`): what they are asked here may wait for a step to end."""
    waits_for_remote: bool = False
    """Whether it waits for the first of those, and for nothing else."""
    awaited_by: tuple[int, ...] = ()
    """Tasks of its own loop that wait for it."""


def outline(
    seen: Seen,
    state: str,
    *,
    name: str | None,
    coro: str | None,
    stack: Iterable[str] = (),
) -> dict[str, Any]:
    """Return what an answer tells of a task. Any thread; nothing of the task is called."""
    return {
        "id": id(seen.task),
        "name": type(seen.task).__name__ if name is None else name,
        "loop": seen.loop,
        "state": state,
        "age": max(0.0, time.monotonic() - seen.created),
        "origin": seen.origin,
        "coro": "?" if coro is None else coro,
        "stack": list(stack),
        "awaited_by": [],
    }


def glance(seen: Seen) -> TaskReport | None:
    """Tell of a task what does not change while it runs; None if it is done.

    Any thread, but of a C task only while it is suspended: otherwise this waits for its step to
    end.
    """
    task = seen.task
    try:
        if task.done():
            return None
        coro, name = task.get_coro(), str(task.get_name())
    except Exception:  # a task of another make
        return TaskReport(outline(seen, "pending", name=None, coro=None))
    report = outline(seen, "pending", name=name, coro=name_of_coro(coro))
    return TaskReport(report, None if coro is None else id(coro))


def look(seen: Seen) -> TaskReport | None:
    """Tell all about a task; None if it is done. On the thread of its loop, in a callback."""
    report = glance(seen)
    if report is None:
        return None
    try:
        return _look_closely(seen, report)
    except Exception as error:  # a task of another make, whose methods are anybody's
        report.outline["state"] = f"pending ({error!r})"
        return report


def _look_closely(seen: Seen, report: TaskReport) -> TaskReport:
    task = seen.task
    stack = walk(task.get_coro())
    report.outline["stack"] = stack
    try:
        waiter = asyncio_private.awaited(task)
    except AttributeError:  # a task of another make, which waits in its own way
        return report
    if waiter is None or waiter.done():
        # No task runs while a callback does: the next step of this one is in the ready queue.
        report.outline["state"] = "ready"
    else:
        report.outline["state"] = f"waiting on {_describe(waiter, stack)}"
    futures = [] if waiter is None else [waiter, *(asyncio_private.gathered(waiter) or ())]
    return report._replace(
        awaits=tuple(id(each) for each in futures if _is_task(each)),
        remote=tuple(each for each in futures if isinstance(each, PoolTask)),
        waits_for_remote=isinstance(waiter, PoolTask),
        awaited_by=tuple(_awaiting_tasks(task, _HOPS)),
    )


def _is_task(future: Any) -> bool:
    return hasattr(future, "get_coro") and not isinstance(future, PoolTask)


def walk(coro: Any) -> list[str]:
    """Return the stack of a suspended coroutine, on the thread that would run it.

    Its frames are ``file:line function``, the outermost first.
    """
    stack: list[str] = []
    while coro is not None:
        frame, below = next(
            (
                (getattr(coro, frame_name), next_name)
                for frame_name, next_name in _LINKS
                if hasattr(coro, frame_name)
            ),
            (None, ""),
        )
        if frame is None:  # it is not written in Python, or has ended
            break
        code = frame.f_code
        stack.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        coro = getattr(coro, below, None)
    return shorten(stack)


_LINKS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def _describe(waiter: Any, stack: list[str]) -> str:
    """Say in a few words what a task waits for."""
    if isinstance(waiter, PoolTask):
        return f"a task {place_of(waiter)}"
    if hasattr(waiter, "get_name"):
        return f"task {waiter.get_name()!r}"
    children = asyncio_private.gathered(waiter)
    if children is not None:
        return f"gather of {len(children)}"
    where = f" in {stack[-1].rpartition(' ')[2]}" if stack else ""
    return f"{type(waiter).__name__}{where}"


def place_of(pool_task: PoolTask[Any]) -> str:
    """Say which loop a task of ``spawn`` is on. Any thread."""
    loop = pool_task.loop
    return "that no loop has begun" if loop is None else f"of {loop._name()}"


def identify(pool_task: PoolTask[Any]) -> tuple[int | None, str]:
    """Return the identity of a coroutine of ``spawn``, and its task's name. As :func:`look`."""
    coro = pool_task.get_coro()
    return None if coro is None else id(coro), pool_task.get_name()


def _awaiting_tasks(future: Any, hops: int) -> Iterator[int]:
    """The tasks that wait for a future, be it through others."""
    for awaiter in asyncio_private.awaiters(future):
        if hasattr(awaiter, "get_coro"):
            yield id(awaiter)
        elif hops:
            yield from _awaiting_tasks(awaiter, hops - 1)
