"""``run`` and ``Runner``: asyncio's, with a pool around them.

How a pool ends, in phases that each finish on every loop before the next begins:

1. refuse new work;
2. cancel the tasks of every loop, wait for them, report their exceptions;
3. close what :class:`LoopLocal` made on every loop;
4. shut down the asynchronous generators of every loop;
5. shut down the default executor of every loop;
6. stop the other threads, and close loop 0;
7. join the threads, each having closed its own loop.

With the first, calls of :func:`submit` and :class:`PoolExecutor` that no loop has begun are
cancelled.

Phases 2 to 7 share one deadline. What has not ended by then is named in the log, with its loop and
the stack of a thread that is stuck (an executor by asyncio's ``RuntimeWarning`` as well). A second
later at most all is over: what is left runs on in threads that nobody waits for.

Other threads may post for ever. Until a loop ends they are served as ever, in their order; its run
ends in the middle of a turn when the time is up, and from then on they get ``RuntimeError``. What
they had posted and the loop did not get to is counted in the log, and dropped in a thread of its
own, as there may be more of it than can be dropped in time. Nor is it looked at by an automatic
collection from the deadline until the pool has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, final

from .. import _core
from .._inspect import server
from .._loop.event_loop import EventLoop
from .._loop.task_registry import all_tasks
from .collector import Pause
from .gil import warn_if_serial
from .loop_local import close_locals
from .pool import ENOUGH, GRACE, Pool, _open_pools
from .spawn import spawn_in
from .stuck import where

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Collection, Coroutine, Iterable
    from types import TracebackType

    from .pool import _Member

    type _Phase = Callable[[_Member, float | None], Coroutine[Any, Any, None]]

logger = logging.getLogger("loop_pool")

LATE = 0.7
"""The part of the grace after which loops are stopped in the middle of a turn."""

REPORTING = GRACE / 10
"""Seconds beyond the deadline in which a loop tells of its tasks."""

SHOWN = 20
"""Tasks of one loop that are named: to show one takes a while, and there may be any number."""

FOR_EVER = threading.TIMEOUT_MAX / 4
"""Seconds that no clock comes to the end of: such a deadline is none."""

LATE_ROUNDS = 8
"""Times that tasks are cancelled after the deadline, which others may start as fast."""

SHUTDOWN_TIMEOUT = 30.0
"""Seconds that a pool takes to end before it says what does not."""


@final
class Runner:
    """As ``asyncio.Runner``, with a pool of loops that lives from first use to :meth:`close`.

    Args:
        loops: how many loops in all; ``None``: one for each core that this process may use.
        debug: asyncio's debug mode for every loop; ``None``: as the environment says.
        shutdown_timeout: seconds that the end of the pool may take before it says which task on
            which loop did not end, and leaves it; ``None``: wait for ever.
        steal: whether idle loops do the socket work that a busy or stuck loop does not get to; off,
            each loop does its own alone.
        stuck_after: seconds after which a loop that is still inside one callback is called stuck:
            it is logged at once, by ``loop_pool``, with its task and stack, and once more when it
            is over. Not below two milliseconds in effect. ``None``: in debug mode the
            ``slow_callback_duration`` of each loop, and otherwise never. See also
            :meth:`Pool.on_stuck`.
        inspect: whether ``loop-pool ps`` and ``top`` may look at this pool, which are processes of
            the same user or of root: it answers them on a unix socket in a folder that is closed to
            others. ``None``: if the environment variable ``LOOP_POOL_INSPECT`` is 1; if the socket
            cannot be made then, the pool goes on without, and its log says why.

    Raises:
        ValueError: ``loops`` is below 1 or above 4096, ``shutdown_timeout`` is negative, or
            ``stuck_after`` is not above zero.
        TypeError: ``loops`` is not an integer.

    Threads: made, used and closed in one thread, which runs loop 0.
    """

    def __init__(
        self,
        *,
        loops: int | None = None,
        debug: bool | None = None,
        shutdown_timeout: float | None = SHUTDOWN_TIMEOUT,
        steal: bool = True,
        stuck_after: float | None = None,
        inspect: bool | None = None,
    ) -> None:
        if shutdown_timeout is not None and not shutdown_timeout >= 0:
            raise ValueError(f"shutdown_timeout must not be negative, got {shutdown_timeout}")
        if stuck_after is not None and not stuck_after > 0:
            raise ValueError(f"stuck_after must be above zero, got {stuck_after}")
        self._loops = _core._loop_count(loops)
        self._debug = debug
        self._steal = steal
        self._stuck_after = stuck_after
        self._inspect = inspect
        self._inspector: server.Inspector | None = None
        self._shutdown_timeout = shutdown_timeout
        self._runner = asyncio.Runner(debug=debug, loop_factory=EventLoop)
        self._pool: Pool | None = None
        self._closed = False

    def __enter__(self) -> Runner:
        self._start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get_loop(self) -> EventLoop:
        """Return loop 0, starting the pool if need be."""
        return self._start()._members[0].loop

    def get_pool(self) -> Pool:
        """Return the pool, starting it if need be."""
        return self._start()

    def run[T](
        self, coro: Coroutine[Any, Any, T], *, context: contextvars.Context | None = None
    ) -> T:
        """Run a coroutine on loop 0 and return its result. As ``asyncio.Runner.run``.

        The first Ctrl-C cancels it, the second raises ``KeyboardInterrupt`` at once.

        Raises:
            RuntimeError: called in a running loop, or after ``close``.
            TypeError: ``coro`` is not awaitable.
        """
        _check_not_running("Runner.run()")
        _check_awaitable(coro)
        self._start()._begin_run()
        return self._runner.run(coro, context=context)

    def close(self) -> None:
        """End the pool, in the phases that the module describes. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        pool = self._pool
        if pool is None:
            self._runner.close()
            return
        timeout = self._shutdown_timeout
        if timeout is not None and timeout > FOR_EVER:
            timeout = None
        deadline = None if timeout is None else time.monotonic() + timeout
        pool._refuse()
        works = pool._take_works()
        for work in works:
            work.end()
        stuck: set[_Member] = set()
        late = None if deadline is None else deadline + LATE * GRACE
        pause = Pause()
        if late is not None and timeout is not None:
            # Other threads may post faster than a loop gets on, and its turns take ever longer.
            for member in pool._members:
                _core._end_run_at(member.loop, min(int(late * 1e9), 1 << 63))
                # By whichever loop gets to it.
                with contextlib.suppress(RuntimeError):
                    member.loop.call_soon_threadsafe(member.loop.call_later, timeout, pause.begin)
        try:
            _run_to_its_end(pool, deadline, stuck, late, pause)
        finally:
            try:
                pool._stop()
                pool._signals.clear()
                pool._members[0].end()
                _close(pool._members[0].loop)
            finally:
                try:
                    self._leave(pool._join(deadline, stuck), deadline)
                finally:
                    for work in works:
                        work.abandon()
                    _open_pools.discard(pool)
                    if self._inspector is not None:
                        self._inspector.stop()
                    pause.end()

    def _leave(self, left: list[_Member], deadline: float | None) -> None:
        """Say what did not end: the threads of ``left``, and what the loops did not get to."""
        assert self._pool is not None
        enough = math.inf if deadline is None else deadline + ENOUGH * GRACE
        looks_until = min(time.monotonic() + GRACE / 4, enough)
        for n, member in enumerate(left):
            # A look may take a while, and there may be many loops.
            late = n > 0 and time.monotonic() > looks_until
            seen = "it is inside a callback, too" if late else self._pool._watch.where(member)
            logger.error("%s did not stop: %s", member.name, seen)
            member.end(stuck=True)
        for member in self._pool._members:
            loop = member.loop
            if loop._unrun:
                logger.error("%s: %d callbacks have not run", member.name, loop._unrun)
            if loop._dropped is not None and deadline is not None:
                loop._dropped.wait(max(0.0, enough - time.monotonic()))

    def _start(self) -> Pool:
        if self._closed:
            raise RuntimeError("Runner is closed")
        if self._pool is None:
            loop = self._runner.get_loop()
            assert isinstance(loop, EventLoop)
            pool = Pool(self._loops, self._debug, self._steal, self._stuck_after)
            try:
                warn_if_serial(self._loops)
                pool._open(loop)
                try:
                    self._inspector = server.start(pool, self._inspect)
                except BaseException:
                    pool._stop()
                    pool._join(None)
                    raise
            except BaseException:
                self._closed = True
                self._runner.close()
                raise
            _open_pools.add(pool)
            self._pool = pool
        return self._pool


def run[T](
    main: Coroutine[Any, Any, T],
    *,
    loops: int | None = None,
    debug: bool | None = None,
    shutdown_timeout: float | None = SHUTDOWN_TIMEOUT,
    steal: bool = True,
    stuck_after: float | None = None,
    inspect: bool | None = None,
) -> T:
    """Run ``main`` with a pool of loops, and return its result. As ``asyncio.run``.

    ``main`` runs on loop 0, in the calling thread. At the end every loop's tasks are cancelled and
    awaited, its values of :class:`LoopLocal` closed, and its asynchronous generators and executor
    shut down.

    Args:
        main: a coroutine.
        loops: how many loops in all; ``None``: one for each core that this process may use.
        debug: asyncio's debug mode for every loop; ``None``: as the environment says.
        shutdown_timeout: see :class:`Runner`.
        steal: see :class:`Runner`.
        stuck_after: see :class:`Runner`.
        inspect: see :class:`Runner`.

    Raises:
        RuntimeError: called in a running loop.
        TypeError: ``main`` is not awaitable, or ``loops`` not an integer.
        ValueError: ``loops`` is below 1 or above 4096, or ``stuck_after`` not above zero.
        OSError: ``inspect`` is true and the socket for it cannot be made.
    """
    _check_not_running("loop_pool.run()")
    _check_awaitable(main)
    with Runner(
        loops=loops,
        debug=debug,
        shutdown_timeout=shutdown_timeout,
        steal=steal,
        stuck_after=stuck_after,
        inspect=inspect,
    ) as runner:
        return runner.run(main)


def _check_not_running(what: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{what} cannot be called from a running event loop")


def _check_awaitable(main: object) -> None:
    if not inspect.isawaitable(main):
        hint = " (call it: pass main(), not main)" if inspect.iscoroutinefunction(main) else ""
        raise TypeError(f"a coroutine was expected, got {main!r}{hint}")


def _run_to_its_end(
    pool: Pool, deadline: float | None, stuck: set[_Member], late: float | None, pause: Pause
) -> None:
    """Run the shutdown although a task that it cancels may raise ``SystemExit`` out of the loop.

    Raises:
        SystemExit, KeyboardInterrupt: the first one that came meanwhile. A second
            ``KeyboardInterrupt`` is the user's wish not to wait.
    """
    loop = pool._members[0].loop
    # Past the program's task factory, which could make anything of it.
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
            # The loop was stopped, perhaps by what the run before has left: a callback of its end.
            if task.done() or loop.is_closed() or loop.is_running():
                raise
            if late is not None and time.monotonic() >= late:
                pause.begin()
                logger.error("loop-pool-0 has more to run than it gets to, and was stopped")
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
    # It keeps the deadline, so who is silent is inside a callback.
    stuck |= await _on_every_loop(pool, _cancel_tasks, deadline, stuck, stuck)
    late: set[_Member] = set()
    close = close_locals if stuck else _close_all
    for phase in (close, _shut_down_asyncgens, _shut_down_executor):
        late |= await _on_every_loop(pool, phase, deadline, stuck, late)
    for member, threads in executors.items():
        for thread in threads:
            if thread.is_alive():
                enough = deadline is not None and time.monotonic() > deadline + LATE * GRACE
                logger.error(
                    "%s: %s of its executor did not end in time: %s",
                    member.name,
                    thread.name,
                    "it is inside a job, too" if enough else where(thread),
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
            part = (0.05 if member in late else 0.4) * GRACE
            limit = max(deadline, time.monotonic()) + part + GRACE / 20
            # The first phase leaves it to the others, which may have nothing else to end by.
            own = deadline if phase is _cancel_tasks else limit - GRACE / 20
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
        await asyncio.wait(pending, timeout=GRACE / 20)  # so that a loop that can ends its part
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
    member.loop._cancel_errands()
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
            logger.error("%s: tasks are still being started, by another thread", member.name)
        if pending or late == LATE_ROUNDS:
            return


def _report(member: _Member, done: Collection[asyncio.Task[Any]], deadline: float | None) -> None:
    """Have the loop's handler told of the exceptions of tasks, while there is time."""
    failed = [task for task in done if not task.cancelled() and task.exception() is not None]
    enough = math.inf if deadline is None else deadline + REPORTING
    for n, task in enumerate(failed):
        # What a program's handler does may take a while.
        if time.monotonic() > enough:
            logger.error("%s: exceptions of %d tasks are not told", member.name, len(failed) - n)
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
    enough = time.monotonic() + REPORTING
    shown = 0
    for task in itertools.islice(pending, SHOWN):
        # So may what its coroutine's `repr`, or a handler of the log, does.
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
        logger.error("%s: nor did up to %d others", member.name, len(known) - SHOWN)


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


def _close(loop: EventLoop) -> None:
    """Close loop 0, which has nothing left to wait for.

    ``asyncio.Runner.close`` would look for tasks that are left, and to ask one whether it is done
    waits for its step, on whichever loop that is; then it would wait five minutes for the executor.
    """
    loop._forget_default_executor()
    loop.close()
