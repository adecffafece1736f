"""``TaskGroup``: asyncio's, with tasks on every loop of the pool.

The group belongs to the loop of the task that enters it. That loop counts finished tasks, cancels
the parent and collects errors; other loops only add tasks and cancel them on request.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Never, Self, final

from .pool import current_pool
from .spawn import PoolTask, spawn

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Coroutine
    from types import TracebackType

    from .._loop.event_loop import EventLoop


@final
class TaskGroup:
    """Like ``asyncio.TaskGroup``, but its tasks run on all loops of the pool.

    All tasks have ended when the block ends. The first task that fails with anything except
    ``CancelledError`` cancels all others, on all loops, and the block; the errors are raised as one
    ``ExceptionGroup``. ``KeyboardInterrupt`` and ``SystemExit`` of a task are raised unchanged, and
    so is a ``GeneratorExit`` of the block if nothing else failed.

    Threads: one task on a loop of the pool enters and leaves the group. :meth:`create_task` may be
    called on any loop of the same pool, also by the group's own tasks; :meth:`cancel` in any
    thread.

    Raises:
        RuntimeError: entered twice, outside a task, or in a thread without a running pool.
        BaseExceptionGroup: a task or the block failed.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parent: asyncio.Task[Any] | None = None
        # Every loop of the pool may add; re-entrant, as a finalizer may do so meanwhile.
        self._lock = threading.RLock()
        # Under the lock.
        self._tasks: set[PoolTask[Any]] = set()
        self._joining = 0  # calls of `create_task` that were admitted
        self._exiting = False
        self._aborting = False
        self._cancelled_early = False  # before it was entered
        # On the group's own loop.
        self._errors: list[BaseException] = []
        self._base_error: BaseException | None = None
        self._parent_cancelled = False
        self._all_done: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        parts = [type(self).__name__]
        if count := len(self._tasks):
            parts.append(f"tasks={count}")
        if count := len(self._errors):
            parts.append(f"errors={count}")
        if self._aborting:
            parts.append("cancelling")
        elif self._loop is not None:
            parts.append("entered")
        return f"<{' '.join(parts)}>"

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError(f"{self!r} has already been entered")
        current_pool()
        self._parent = asyncio.current_task()
        if self._parent is None:
            raise RuntimeError(f"{self!r} cannot determine the parent task")
        with self._lock:
            self._loop = asyncio.get_running_loop()
            cancelled = self._cancelled_early
        if cancelled:
            self.cancel()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        del traceback
        try:
            await self._leave(exc)
            # The remaining cancellation is the one that `cancel` requested.
            return True
        finally:
            # Exceptions refer to frames, and these to the group.
            self._parent = None
            self._errors = []
            self._base_error = None
            del exc

    def create_task[T](
        self,
        coro: Coroutine[Any, Any, T],
        *,
        loop: EventLoop | None = None,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> PoolTask[T]:
        """Run a coroutine in the group. Call it on any loop of the pool, while the group is open.

        Args:
            coro: a coroutine object, not yet started.
            loop: see :func:`spawn`.
            name: the task's name.
            context: the context to run in; ``None``: a copy of the current one.

        Raises:
            TypeError: ``coro`` is not a coroutine.
            RuntimeError: the group has not been entered, has ended or is being cancelled, or as
                :func:`spawn`. The coroutine is closed.
        """
        try:
            with self._lock:
                group = self._check_open()
                self._joining += 1
        except BaseException:
            if asyncio.iscoroutine(coro):
                coro.close()
            raise
        try:
            task = spawn(coro, loop=loop, name=name, context=context)
        except BaseException:
            with self._lock:
                self._joining -= 1
            group.call_soon_threadsafe(self._look)
            raise
        try:
            with self._lock:
                self._tasks.add(task)
                self._joining -= 1
                aborting = self._aborting
            if group is asyncio.get_running_loop():
                task.add_done_callback(self._ended)
            else:
                # Notify the group's own loop, not this one.
                group.call_soon_threadsafe(task.add_done_callback, self._ended)
            if aborting:
                task.cancel()
            return task
        finally:
            del task  # its exception's traceback would refer to it through this frame

    def cancel(self) -> None:
        """Cancel the block and all tasks of the group. As ``asyncio.TaskGroup.cancel`` of 3.15.

        The block then ends without an exception, unless a task or the block failed. Called before
        the group is entered, it cancels the group on entry. Called again, or after the end of the
        group, it has no effect. Any thread.
        """
        with self._lock:
            group = self._loop
            if group is None:
                self._cancelled_early = True
                return
            if self._aborting or (self._exiting and not self._busy()):
                return
        self._abort()
        if group is asyncio._get_running_loop():
            self._cancel_parent()
        else:
            with contextlib.suppress(RuntimeError):  # closed: nobody is in the block any more
                group.call_soon_threadsafe(self._cancel_parent)

    def _check_open(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError(f"{self!r} has not been entered")
        if self._exiting and not self._busy():
            raise RuntimeError(f"{self!r} is finished")
        if self._aborting:
            raise RuntimeError(f"{self!r} is shutting down")
        return self._loop

    def _busy(self) -> bool:
        return bool(self._tasks) or self._joining > 0

    # -- on the group's own loop -------------------------------------------------------------------

    async def _leave(self, exc: BaseException | None) -> None:
        parent = self._parent
        assert parent is not None
        with self._lock:
            self._exiting = True
        if exc is not None:
            if _is_base_error(exc) and self._base_error is None:
                self._base_error = exc
            self._abort()
        cancelled = exc if isinstance(exc, asyncio.CancelledError) else None
        first = last = None
        try:
            first, last = await self._wait()
            if first is not None:
                cancelled = first
            if self._base_error is not None:
                raise self._base_error
            if self._parent_cancelled:
                # Our cancellation ends here, unless another one was requested as well.
                if parent.uncancel() == 0:
                    cancelled = None
                elif cancelled is None:
                    cancelled = last
            if cancelled is not None and not self._errors:
                raise cancelled
            if exc is not None and not isinstance(exc, asyncio.CancelledError):
                self._errors.append(exc)
            if self._errors:
                self._raise_errors(parent, exc)
        finally:
            del exc, cancelled, first, last, parent

    def _raise_errors(self, parent: asyncio.Task[Any], exc: BaseException | None) -> Never:
        try:
            if parent.cancelling():
                # The group takes the place of the `CancelledError`: the parent gets another at its
                # next `await`, with the same count of requests.
                parent.uncancel()
                parent.cancel()
            if isinstance(exc, GeneratorExit) and len(self._errors) == 1:
                # An asynchronous generator around the block is closed, and nothing failed.
                raise exc
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", self._errors) from None
        finally:
            del exc, parent

    async def _wait(self) -> tuple[asyncio.CancelledError | None, asyncio.CancelledError | None]:
        """Wait until no task is left.

        Returns:
            The cancellation of the parent that made the group abort, and the last one.
        """
        first = last = None
        try:
            while True:
                with self._lock:
                    if not self._busy():
                        return first, last
                    self._all_done = asyncio.get_running_loop().create_future()
                try:
                    await self._all_done
                except asyncio.CancelledError as error:
                    last = error
                    if not self._aborting:
                        first = error
                        self._abort()
                finally:
                    self._all_done = None
        finally:
            del first, last

    def _abort(self) -> None:
        with self._lock:
            if self._aborting:
                return
            self._aborting = True
            tasks = list(self._tasks)
        for task in tasks:
            task.cancel()

    def _cancel_parent(self) -> None:
        """Have whatever the block awaits end; :meth:`_leave` takes this back."""
        parent = self._parent
        if parent is not None and not parent.done() and not self._parent_cancelled:
            self._parent_cancelled = True
            parent.cancel()

    def _look(self) -> None:
        """Wake the parent if it waits and nothing is left."""
        with self._lock:
            done = None if self._busy() else self._all_done
        if done is not None and not done.done():
            with contextlib.suppress(asyncio.InvalidStateError):  # a Ctrl-C has just cancelled it
                done.set_result(None)

    def _ended(self, task: PoolTask[Any]) -> None:
        with self._lock:
            self._tasks.discard(task)
        self._look()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._errors.append(error)
        if _is_base_error(error) and self._base_error is None:
            self._base_error = error
        parent = self._parent
        assert self._loop is not None
        if parent is None or parent.done():
            self._loop.call_exception_handler(
                {
                    "message": f"{task!r} of {self!r} failed when its parent had ended",
                    "exception": error,
                    "future": task,
                }
            )
        elif not self._aborting and not self._parent_cancelled:
            self._abort()
            self._cancel_parent()


def _is_base_error(error: BaseException) -> bool:
    return isinstance(error, SystemExit | KeyboardInterrupt)
