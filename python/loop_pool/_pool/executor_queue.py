"""The queue of an executor: calls that wait for a loop of the pool.

Each loop has a worker, which is awake while its callback is posted or runs. The callback takes one
call at a time and goes to sleep when the queue is empty. A call wakes two sleeping workers, if
there are two, so that a loop that is stuck does not delay it.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import inspect
import threading
from typing import TYPE_CHECKING, Any

from .. import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .._loop.event_loop import EventLoop

_WAKE = 2
"""Workers that one call wakes."""


class _Call:
    """One call, and the future that tells of it."""

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.task: asyncio.Task[Any] | _core.PoolTaskCore[Any] | None = None
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._context = contextvars.copy_context()

    def begin(self) -> bool:
        """Make the call; return whether it has ended, as it has unless it was a coroutine's."""
        future = self.future
        if not future.set_running_or_notify_cancel():
            return True
        try:
            result = self._context.run(self._fn, *self._args, **self._kwargs)
        except BaseException as error:  # whoever asked for the result is told, as by any executor
            future.set_exception(error)
            del self
        else:
            if asyncio.iscoroutine(result):
                self.task = self._leave(result) or asyncio.create_task(
                    result, context=self._context
                )
                return False
            future.set_result(result)
        return True

    def _leave(self, coro: Coroutine[Any, Any, Any]) -> _core.PoolTaskCore[Any] | None:
        """Leave a coroutine to the loop that has the fewest, if nothing of it has run on this one.

        Whichever loop is quickest makes the most calls; it is not to keep all that live long.
        """
        if not inspect.iscoroutinefunction(self._fn):
            return None
        return _core._spawn(coro, None, self._context)

    def fail(self, error: BaseException) -> None:
        """Tell that it has not ended and never will, unless it just has."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(error)

    def finish(self, task: asyncio.Task[Any] | _core.PoolTaskCore[Any]) -> None:
        """Tell of the end of its coroutine."""
        if task.cancelled():
            # A call that runs cannot become a cancelled one.
            self.future.set_exception(concurrent.futures.CancelledError())
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class _Worker:
    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.awake = False
        self.context = contextvars.Context()  # nobody's


class CallQueue:
    """The calls of one executor. Any thread."""

    def __init__(self, loops: tuple[EventLoop, ...]) -> None:
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when no call is accepted any more and all have ended."""
        self._lock = threading.RLock()  # re-entrant, as a finalizer may submit meanwhile
        # Under the lock.
        self._workers = collections.deque(_Worker(loop) for loop in loops)
        self._queue: collections.deque[_Call] = collections.deque()
        self._running: set[_Call] = set()
        self._why_shut: str | None = None

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> concurrent.futures.Future[Any]:
        """Let a loop call ``fn``.

        Raises:
            RuntimeError: no call is accepted any more.
        """
        call = _Call(fn, args, kwargs)
        with self._lock:
            if self._why_shut is not None:
                raise RuntimeError(f"cannot schedule new futures after {self._why_shut}")
            self._queue.append(call)
            self._wake()
        return call.future

    def runs_here(self) -> bool:
        """Whether the loop that runs in this thread is one of those that make the calls."""
        here = asyncio._get_running_loop()
        return here is not None and any(worker.loop is here for worker in list(self._workers))

    def shut(self, why: str, *, cancel: bool = False) -> None:
        """Accept no further call; ``cancel``: those that have not begun."""
        with self._lock:
            if self._why_shut is None:
                self._why_shut = why
            calls = list(self._queue) if cancel else []
            if cancel:
                self._queue.clear()
        for call in calls:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        self._end_if_done()

    def end(self) -> None:
        """Accept no further call, as the pool ends, and cancel those that have not begun."""
        self.shut("the end of the pool", cancel=True)

    def abandon(self) -> None:
        """Let nobody wait for calls that no loop will end any more, as the loops have stopped."""
        with self._lock:
            calls = list(self._running)
            self._running.clear()
        for call in calls:
            call.fail(RuntimeError("the pool was closed before this call finished"))
        self._end_if_done()

    def _wake(self) -> None:
        woken = 0
        for _ in range(len(self._workers)):
            worker = self._workers[0]
            self._workers.rotate(-1)
            if worker.awake:
                continue
            # The loop of an abandoned thread is closed: its worker stays awake.
            worker.awake = True
            try:
                worker.loop.call_soon_threadsafe(self._serve, worker, context=worker.context)
            except RuntimeError:
                continue
            woken += 1
            if woken == _WAKE:
                return

    def _serve(self, worker: _Worker) -> None:
        """On a loop: make one call, and come back for the next when others have had their turn."""
        with self._lock:
            if not self._queue:
                worker.awake = False
                return
            call = self._queue.popleft()
            self._running.add(call)
        worker.loop.call_soon(self._serve, worker, context=worker.context)
        if call.begin():
            self._forget(call)
        elif call.task is not None:
            call.task.add_done_callback(lambda task: self._finish(call, task))

    def _finish(self, call: _Call, task: asyncio.Task[Any] | _core.PoolTaskCore[Any]) -> None:
        call.finish(task)
        self._forget(call)

    def _forget(self, call: _Call) -> None:
        with self._lock:
            self._running.discard(call)
        self._end_if_done()

    def _end_if_done(self) -> None:
        with self._lock:
            if self._why_shut is None or self._queue or self._running:
                return
            if self.ended.running() or self.ended.done():
                return
            self.ended.set_running_or_notify_cancel()
        self.ended.set_result(None)
