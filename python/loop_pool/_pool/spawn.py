"""Coroutines on any loop of the pool, awaitable from any loop.

The loop that runs a coroutine creates an ordinary ``asyncio.Task`` for it, in its own thread,
because a C task that ends in another thread than its creator pauses all threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, final

from .. import _core
from .pool import current_pool

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Coroutine

    from .._loop.event_loop import EventLoop
    from .pool import Pool

logger = logging.getLogger("loop_pool")


@final
class PoolTask[T](_core.PoolTaskCore[T]):
    """A coroutine that runs on a loop of the pool. Created by :func:`spawn`.

    Any number of coroutines on any loops may await it. A thread without a running loop waits with
    :meth:`result`. To ``asyncio`` it is a future of the calling loop, so ``asyncio.wait``,
    ``asyncio.gather``, ``asyncio.shield`` and similar functions accept it. As with
    ``asyncio.Task``, cancelling a coroutine that awaits it cancels it, and an exception that is
    never retrieved is reported to its loop's exception handler.

    Every method may be called from any thread.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if self.cancelled():
            state = "cancelled"
        elif self.done():
            state = "done"
        else:
            state = "pending"
        loop = self.loop
        where = "" if loop is None else f" on {loop._name()}"
        return f"<PoolTask {state} name={self.get_name()!r}{where}>"

    # -- called by the native half -----------------------------------------------------------------

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end in a thread that runs no loop."""
        if asyncio._get_running_loop() is not None:
            raise asyncio.InvalidStateError(f"{self!r} is not done: await it")
        ended = threading.Event()

        def end(_: object) -> None:
            ended.set()

        self.add_done_callback(end)
        try:
            if not ended.wait(timeout):
                raise TimeoutError(f"{self!r} was not done after {timeout} s")
        finally:
            self.remove_done_callback(end)

    def _report_unfetched(self, exception: BaseException) -> None:
        context = {
            "message": f"{type(self).__name__} exception was never retrieved",
            "exception": exception,
            "future": self,
        }
        loop = self.loop
        if loop is None:
            logger.error("%s: %r", context["message"], self, exc_info=exception)
            return
        if loop is not asyncio._get_running_loop():
            # Its handler runs in the task's context, which its own thread may not have left yet.
            with contextlib.suppress(RuntimeError):  # closed: nobody is in the context any more
                loop.call_soon_threadsafe(loop.call_exception_handler, context)
                return
        loop.call_exception_handler(context)

    def _report_callback(self, callback: object, exception: BaseException) -> None:
        logger.error("Exception in done callback %r of %r", callback, self, exc_info=exception)


_core._set_pool_task_class(PoolTask)


def spawn_in[T](
    pool: Pool,
    coro: Coroutine[Any, Any, T],
    *,
    loop: asyncio.AbstractEventLoop,
    name: str | None = None,
    context: contextvars.Context | None = None,
    closing: bool = False,
) -> PoolTask[T]:
    """As :func:`spawn`, on a loop of a given pool.

    ``closing``: also while the pool refuses new work; and past the program's task factory.
    """
    try:
        member = pool._member_of(loop)
        return _core._spawn_on(member.loop, coro, name, context, closing)
    except BaseException:
        _close(coro)
        raise


def error_of(task: asyncio.Future[Any] | PoolTask[Any]) -> BaseException | None:
    """Return the exception of a finished task; a ``CancelledError`` if it was cancelled."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _close(coro: object) -> None:
    if asyncio.iscoroutine(coro):
        coro.close()


def spawn[T](
    coro: Coroutine[Any, Any, T],
    *,
    loop: EventLoop | None = None,
    name: str | None = None,
    context: contextvars.Context | None = None,
) -> PoolTask[T]:
    """Run a coroutine on a loop of the current pool. Call it from a thread of the pool.

    Args:
        coro: a coroutine object, not yet started.
        loop: the loop to run it on; ``None``: the loop with the fewest coroutines, or another one
            if that loop is blocked. Once started, the coroutine stays on its loop.
        name: the task's name, as for ``asyncio.create_task``.
        context: the context to run in; ``None``: a copy of the current one.

    Raises:
        TypeError: ``coro`` is not a coroutine.
        RuntimeError: no pool runs in this thread, ``loop`` does not belong to this pool, or the
            pool is shutting down. The coroutine is closed.
    """
    try:
        if loop is None:
            task: PoolTask[T] | None = _core._spawn(coro, name, context)
            if task is not None:
                return task
        pool = current_pool()
    except BaseException:
        _close(coro)
        raise
    # Without a run queue the running loop starts the coroutine itself.
    here = asyncio.get_running_loop() if loop is None else loop
    return spawn_in(pool, coro, loop=here, name=name, context=context)
