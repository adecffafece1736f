"""Coroutines on any loop of the pool, awaited from any loop.

The task itself is an ordinary ``asyncio.Task``, made by the loop it runs on, in that loop's own
thread (a C task that ended in another thread than the one that made it would stop the world).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
from typing import TYPE_CHECKING, Any, final

from ._pool import current_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from ._event_loop import EventLoop
    from ._pool import Pool, _Member


@final
class PoolTask[T]:
    """A coroutine that runs on a loop of the pool. Made by :func:`spawn`.

    Any number of coroutines on any loops may await it; threads that run no loop may wait in
    :meth:`result`. As with ``asyncio.Task``, cancelling a coroutine that awaits it cancels it, and
    an exception that nobody fetched is reported to its loop's exception handler.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        member: _Member,
        coro: Coroutine[Any, Any, T],
        name: str | None,
        context: contextvars.Context,
    ) -> None:
        self._member = member
        self._coro: Coroutine[Any, Any, T] | None = coro
        self._name = name
        self._context = context
        self._task: asyncio.Task[T] | None = None
        self._outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._cancel_message: tuple[object] | None = None
        self._unfetched: BaseException | None = None

    def __repr__(self) -> str:
        if self.cancelled():
            state = "cancelled"
        elif self.done():
            state = "done"
        else:
            state = "pending"
        return f"<PoolTask {state} name={self.get_name()!r} on {self._member.name}>"

    # -- on the task's own loop ------------------------------------------------------------------

    def _start(self) -> None:
        coro = self._coro
        self._coro = None
        if coro is None:
            return
        try:
            task = self._member.loop.create_task(coro, name=self._name, context=self._context)
        except BaseException as error:  # a task factory's
            coro.close()
            self._fail(error)
            raise
        self._task = task
        if self._cancel_message is not None:
            task.cancel(*self._cancel_message)
        if task.done():  # an eager one
            self._settle(task)
        else:
            task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Task[T]) -> None:
        # A task that died in another thread than its own would stop them all: let it go here.
        self._name = task.get_name()
        self._task = None
        self._member.tasks.discard(self)
        if self._outcome.done():  # it was given up
            return
        if task.cancelled():
            self._outcome.cancel()
            self._outcome.set_running_or_notify_cancel()
            return
        exception = task.exception()
        if exception is None:
            self._outcome.set_result(task.result())
        else:
            self._fail(exception)

    def _fail(self, exception: BaseException) -> None:
        self._member.tasks.discard(self)
        self._unfetched = exception
        self._outcome.set_exception(exception)

    def _cancel_here(self) -> None:
        if self._task is not None and self._cancel_message is not None:
            self._task.cancel(*self._cancel_message)

    def _abandon(self, message: str) -> None:
        """Give up a coroutine whose loop has ended: whoever waits for it is told."""
        coro = self._coro
        self._coro = None
        if coro is not None:
            coro.close()
        self._member.tasks.discard(self)
        if not self._outcome.done():
            self._outcome.set_exception(RuntimeError(message))

    # -- from any thread -------------------------------------------------------------------------

    @property
    def loop(self) -> EventLoop:
        """The loop that the coroutine runs on."""
        return self._member.loop

    def get_name(self) -> str:
        """Return the task's name; ``""`` before it has started, if none was given."""
        task = self._task
        return (self._name or "") if task is None else task.get_name()

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled."""
        return self._outcome.done()

    def cancelled(self) -> bool:
        """Whether it ended by cancellation."""
        return self._outcome.cancelled()

    def cancel(self, msg: object = None) -> bool:
        """Ask the coroutine to stop, as ``asyncio.Task.cancel``.

        Returns:
            False if it is already done.
        """
        if self.done():
            return False
        self._cancel_message = (msg,)
        try:
            self.loop.call_soon_threadsafe(self._cancel_here)
        except RuntimeError:  # its loop has closed meanwhile, and with it the task
            return False
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return the coroutine's result, waiting for it in a thread that runs no loop.

        Args:
            timeout: seconds to wait; ``None``: without limit.

        Raises:
            asyncio.InvalidStateError: it is not done, and waiting here would stop a loop.
            TimeoutError: it was not done in time.
            asyncio.CancelledError: it was cancelled.
            BaseException: whatever the coroutine raised.
        """
        exception = self.exception(timeout)
        if exception is None:
            return self._outcome.result()
        try:
            raise exception
        finally:
            # The exception's traceback holds this frame: break the cycle.
            del exception, self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the coroutine's exception, or None. Waits and raises as :meth:`result`."""
        if not self.done() and asyncio._get_running_loop() is not None:
            raise asyncio.InvalidStateError(f"{self!r} is not done: await it")
        try:
            exception = self._outcome.exception(timeout)
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        self._unfetched = None
        return exception

    def add_done_callback(self, fn: Callable[[PoolTask[T]], object]) -> None:
        """Call ``fn(self)`` when it is done: on its own loop, or at once if it is done already.

        An exception in ``fn`` is logged.
        """
        self._outcome.add_done_callback(lambda _: fn(self))

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done():
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            self._outcome.add_done_callback(functools.partial(wake, loop, waiter))
            try:
                yield from waiter
            except asyncio.CancelledError as cancelled:
                if self.cancel(*cancelled.args):
                    # As with a task, the awaiter goes on when the awaited one has ended.
                    waiter = loop.create_future()
                    self._outcome.add_done_callback(functools.partial(wake, loop, waiter))
                    yield from waiter
                    if self.cancelled():
                        raise
                else:
                    raise
        try:
            return self.result()
        finally:
            # As in `result`.
            del self

    def __del__(self) -> None:
        if getattr(self, "_unfetched", None) is None:
            return
        self.loop.call_exception_handler(
            {
                "message": f"{type(self).__name__} exception was never retrieved",
                "exception": self._unfetched,
                "future": self,
            }
        )


def wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None], _: object) -> None:
    """Resolve a future of ``loop``, from any thread. A closed loop has nobody left who waits."""
    try:
        loop.call_soon_threadsafe(_resolve, waiter)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def spawn_in[T](
    pool: Pool,
    coro: Coroutine[Any, Any, T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    name: str | None = None,
    context: contextvars.Context | None = None,
    closing: bool = False,
) -> PoolTask[T]:
    """As :func:`spawn`, in a given pool. ``closing``: also while the pool refuses new work."""
    if not asyncio.iscoroutine(coro):
        raise TypeError(f"a coroutine was expected, got {coro!r}")
    try:
        member = pool._place() if loop is None else pool._member_of(loop)
        task = PoolTask(
            member, coro, name, contextvars.copy_context() if context is None else context
        )
        with member.door:
            if not (member.accepting or closing):
                raise RuntimeError(f"{member.name} accepts no new work: the pool is closing")
            if member.ended:
                raise RuntimeError(f"{member.name} has ended")
            member.tasks.add(task)
            try:
                member.loop.call_soon_threadsafe(task._start)
            except BaseException:
                member.tasks.discard(task)
                raise
    except BaseException:
        coro.close()
        raise
    return task


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
        loop: the loop to run it on; ``None``: in turn, the less loaded of two.
        name: the task's name, as for ``asyncio.create_task``.
        context: the context to run in; ``None``: a copy of the current one.

    Raises:
        TypeError: ``coro`` is not a coroutine.
        RuntimeError: no pool runs in this thread, ``loop`` is not of this pool, or the pool is
            closing. The coroutine is closed, not lost.
    """
    try:
        pool = current_pool()
    except RuntimeError:
        if asyncio.iscoroutine(coro):
            coro.close()
        raise
    return spawn_in(pool, coro, loop=loop, name=name, context=context)
