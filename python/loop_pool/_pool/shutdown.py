"""Shuts a pool down, in phases that end on every loop before the next begins.

The phases: refuse new work and cancel unstarted executor calls; cancel and await tasks; close
``LoopLocal`` values; close asynchronous generators; shut down default executors; stop the threads
and close loop 0; join the threads. From the second on they share one deadline. Whatever has not
ended by then is logged and abandoned, at most a second later. Until its loop ends, other threads
may post; callbacks that did not run are counted in the log and dropped in a separate thread.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from .. import _core
from .._loop.task_registry import all_tasks
from . import grace
from .loop_local import close_locals
from .spawn import spawn_in
from .stuck import where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable

    from .._loop.event_loop import EventLoop
    from .collector import Pause
    from .member import _Member
    from .pool import Pool

    type _Phase = Callable[[_Member, float | None], Coroutine[Any, Any, None]]

logger = logging.getLogger("loop_pool")

SHOWN = 20
"""Tasks of one loop that are named: to show one takes a while, and there may be any number."""

LATE_ROUNDS = 8
"""Times that tasks are cancelled after the deadline, which others may start as fast."""


def run_to_its_end(
    pool: Pool, deadline: float | None, stuck: set[_Member], late: float | None, pause: Pause
) -> None:
    """Run the shutdown although a task that it cancels may raise ``SystemExit`` out of the loop.

    Raises:
        SystemExit, KeyboardInterrupt: the first one that came meanwhile. A second
            ``KeyboardInterrupt`` is the user's wish not to wait.
    """
    loop = pool._members[0].loop
    # Bypass the program's task factory, which could return anything.
    ours = _quietly(_shut_down, pool, deadline, stuck)
    task = asyncio.Task(ours, loop=loop)
    first: BaseException | None = None
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and isinstance(first, KeyboardInterrupt):
                raise
            first = first or error
        except RuntimeError:
            # The loop was stopped, perhaps by a done callback left over from the run before.
            if task.done() or loop.is_closed() or loop.is_running():
                raise
            if late is not None and time.monotonic() >= late:
                pause.begin()
                logger.error(
                    "loop-pool-0 still had callbacks to run at the deadline and was stopped"
                )
                _name_some(pool._members[0])
                if inspect.getcoroutinestate(ours) == inspect.CORO_CREATED:
                    ours.close()
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                break
    if first is not None:
        raise first


async def _shut_down(pool: Pool, deadline: float | None, stuck: set[_Member]) -> None:
    """Phases 2 to 5, on loop 0; ``stuck`` gets the loops that are inside a callback."""
    pool._shutdown = asyncio.current_task()
    executors = {member: member.loop._threads_of_executor() for member in pool._members}
    # It keeps the deadline, so a loop that does not respond is inside a callback.
    stuck |= await _on_every_loop(pool, _cancel_tasks, deadline, stuck, stuck)
    late: set[_Member] = set()
    close = close_locals if stuck else _close_all
    for phase in (close, _shut_down_asyncgens, _shut_down_executor):
        late |= await _on_every_loop(pool, phase, deadline, stuck, late)
    for member, threads in executors.items():
        for thread in threads:
            if thread.is_alive():
                enough = (
                    deadline is not None and time.monotonic() > deadline + grace.LATE * grace.GRACE
                )
                logger.error(
                    "%s: executor thread %s did not end in time: %s",
                    member.name,
                    thread.name,
                    "it is still inside a job" if enough else where(thread),
                )


async def _on_every_loop(
    pool: Pool, phase: _Phase, deadline: float | None, stuck: set[_Member], late: set[_Member]
) -> set[_Member]:
    """Run a phase on every loop that is not stuck; return those that did not end it in time.

    Beyond the deadline a loop has a part of the grace, which is small if it has been late before:
    so one that is costs about one wait, and those that are only slow are not taken for it.
    """
    running: dict[asyncio.Future[None], _Member] = {}
    limits: dict[asyncio.Future[None], float] = {}
    for member in pool._members:
        if member in stuck:
            continue
        own = limit = deadline
        if deadline is not None:
            part = (0.05 if member in late else 0.4) * grace.GRACE
            limit = max(deadline, time.monotonic()) + part + grace.GRACE / 20
            # The first phase leaves it to the others, which may have nothing else to end by.
            own = deadline if phase is _cancel_tasks else limit - grace.GRACE / 20
        try:
            task: Any = spawn_in(pool, _quietly(phase, member, own), loop=member.loop, closing=True)
        except RuntimeError:  # its thread ended by an error of its own, which has been logged
            continue
        running[task] = member
        if limit is not None:
            limits[task] = limit
    await _wait_each(running, limits)
    pending = {task for task in running if not task.done()}
    for task in pending:
        logger.error("%s: %s did not end in time", running[task].name, _NAMES[phase])
        task.cancel()
    if pending:
        await asyncio.wait(
            pending, timeout=grace.GRACE / 20
        )  # so that a loop that can ends its part
    for task, member in running.items():
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: %s failed", member.name, _NAMES[phase], exc_info=error)
    return {running[task] for task in pending}


async def _wait_each(
    running: Iterable[asyncio.Future[None]], limits: dict[asyncio.Future[None], float]
) -> None:
    """Wait for each future until its limit, or without one until it is done."""
    left = set(running)
    while left:
        now = time.monotonic()
        left = {task for task in left if not task.done() and limits.get(task, math.inf) > now}
        until = min((limits[task] for task in left if task in limits), default=None)
        if left:
            timeout = None if until is None else until - now
            await asyncio.wait(left, timeout=timeout)


async def _cancel_tasks(member: _Member, deadline: float | None) -> None:
    """Cancel and await the tasks of the running loop, in rounds."""
    member.loop._cancel_unstarted()
    # asyncio's `all_tasks` would wait for a step of another loop's task that never ends.
    await _cancel(member, deadline, lambda: all_tasks(member.loop))


async def _close_all(member: _Member, deadline: float | None) -> None:
    """Close the values, and cancel before that what tasks there are that only asyncio knows of.

    Not while another loop is stuck, as asyncio might ask the task that it is in.
    """
    await _cancel(member, deadline, asyncio.all_tasks)
    await close_locals(member, deadline)


async def _cancel(
    member: _Member, deadline: float | None, find: Callable[[], set[asyncio.Task[Any]]]
) -> None:
    """Cancel and await tasks, in rounds.

    A task that is cancelled may start others to clean up with, and await them: those are left in
    peace, as ``asyncio.run`` leaves them. Whatever is there when it has ended is the next round.
    """
    ours = {asyncio.current_task(), member.pool._shutdown}
    late = 0
    while tasks := find() - ours:
        for task in tasks:
            task.cancel()
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, pending = await asyncio.wait(tasks, timeout=remaining)
        _report(member, done, deadline)
        _name(member, [task for task in pending if task not in member.named])
        member.named.update(pending)
        late += remaining == 0
        if not pending and late == LATE_ROUNDS:
            logger.error("%s: another thread keeps starting tasks", member.name)
        if pending or late == LATE_ROUNDS:
            return


def _report(member: _Member, done: Collection[asyncio.Task[Any]], deadline: float | None) -> None:
    """Have the loop's handler told of the exceptions of tasks, while there is time."""
    failed = [task for task in done if not task.cancelled() and task.exception() is not None]
    enough = math.inf if deadline is None else deadline + grace.REPORTING
    for n, task in enumerate(failed):
        # The program's exception handler may take long.
        if time.monotonic() > enough:
            logger.error(
                "%s: exceptions of %d more tasks are not reported", member.name, len(failed) - n
            )
            break
        member.loop.call_exception_handler(
            {
                "message": "unhandled exception during loop_pool.run() shutdown",
                "exception": task.exception(),
                "task": task,
            }
        )


def _name(member: _Member, pending: Collection[asyncio.Task[Any]]) -> None:
    """Name tasks that did not end in time, and count the others."""
    enough = time.monotonic() + grace.REPORTING
    shown = 0
    for task in itertools.islice(pending, SHOWN):
        # The `repr` of a coroutine or a log handler may take long.
        if shown and time.monotonic() > enough:
            break
        logger.error("%s: this task did not end in time: %r", member.name, task)
        shown += 1
    if len(pending) > shown:
        logger.error("%s: %d more tasks did not end in time", member.name, len(pending) - shown)


def _name_some(member: _Member) -> None:
    """Name tasks of a loop that does not run; there may be more than can be looked at in time."""
    known = [task for task, _, _ in _core._tasks(member.loop)]
    theirs = (
        task
        for task in known
        if not task.done()
        and getattr(task, "_log_destroy_pending", True)
        and task not in member.named
    )
    shown = list(itertools.islice(theirs, SHOWN))
    _name(member, shown)
    if len(shown) == SHOWN:
        logger.error(
            "%s: up to %d other tasks did not end in time", member.name, len(known) - SHOWN
        )


async def _quietly(part: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Await a part of the shutdown, which may be left as it is when time is up."""
    task: Any = asyncio.current_task()
    task._log_destroy_pending = False
    await part(*args)


async def _shut_down_asyncgens(member: _Member, deadline: float | None) -> None:
    await member.loop.shutdown_asyncgens()


async def _shut_down_executor(member: _Member, deadline: float | None) -> None:
    remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        await member.loop.shutdown_default_executor(remaining)
    finally:
        member.loop._forget_default_executor()


_NAMES: dict[_Phase, str] = {
    _cancel_tasks: "cancelling its tasks",
    _close_all: "closing its values of LoopLocal",
    close_locals: "closing its values of LoopLocal",
    _shut_down_asyncgens: "closing its asynchronous generators",
    _shut_down_executor: "shutting down its executor",
}


def close(loop: EventLoop) -> None:
    """Close loop 0, which has nothing left to wait for.

    ``asyncio.Runner.close`` would look for tasks that are left, and to ask one whether it is done
    waits for its step, on whichever loop that is; then it would wait five minutes for the executor.
    """
    loop._forget_default_executor()
    loop.close()
