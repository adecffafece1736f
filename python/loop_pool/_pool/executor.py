"""``PoolExecutor`` and ``submit``: the loops of a pool as the workers of an executor."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
import weakref
from typing import TYPE_CHECKING, Any, Self, final, overload

from .._loop.event_loop import EventLoop
from .executor_queue import CallQueue
from .pool import Pool, _open_pools, current_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType


@final
class PoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A ``concurrent.futures`` executor whose workers are the loops of a pool.

    A plain function runs in the thread of a loop and blocks that loop, with all its tasks and
    connections, until it returns. A coroutine function runs as a task; the future receives its
    result. Both run in a copy of the submitter's context, on the first loop that is free.

    Otherwise it behaves like ``ThreadPoolExecutor``, of which it is an instance: ``map``, ``with``,
    ``loop.run_in_executor``, ``loop.set_default_executor``.

    Args:
        loops: the number of loops of its own pool; ``None``: one per core.
        pool: the pool to use. It outlives the executor, and cancels unstarted calls when it shuts
            down. If ``pool`` and ``loops`` are ``None``: the pool that runs in this thread, if
            any. Otherwise the executor has its own pool, in its own threads, until it is shut
            down.

    Threads: any thread may use it. ``with`` and ``shutdown(wait=True)`` block the calling thread:
    use ``async with`` on a loop of its pool.

    Raises:
        ValueError: ``loops`` is below 1 or above 4096, or given with ``pool``.
        TypeError: ``loops`` is not an integer.
        RuntimeError: the pool is closed.
    """

    def __init__(self, loops: int | None = None, *, pool: Pool | None = None) -> None:
        if pool is not None and loops is not None:
            raise ValueError("give either `loops` or `pool`, not both")
        if pool is None and loops is None:
            here = asyncio._get_running_loop()
            pool = current_pool() if isinstance(here, EventLoop) and here._pool else None
        self._owned = None if pool is not None else _OwnPool(loops)
        shared = self._owned.pool if self._owned is not None else pool
        assert shared is not None
        super().__init__(max_workers=len(shared.loops))
        self._pool = shared
        self._key = object()
        self._calls = shared._add_call_queue(self._key, lambda: CallQueue(shared.loops))
        self._calls.ended.add_done_callback(_Dropper(shared, self._key))
        self._collected = weakref.finalize(self, self._calls.shut, "its executor was collected")
        self._collected.atexit = False
        if self._owned is not None:
            self._owned.end_after(self._calls)

    @overload
    def submit[**P, T](
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]: ...
    @overload
    def submit[**P, T](
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]: ...
    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Call ``fn`` on a loop of the pool. Any thread.

        Returns:
            A future for its result, or for the result of the coroutine that it returns. A call that
            has started cannot be cancelled.

        Raises:
            RuntimeError: the executor was shut down, the pool has ended, or this process is a fork
                of the pool's process.
        """
        self._pool._check_process()
        return self._calls.submit(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no further calls. As ``concurrent.futures.Executor.shutdown``. Any thread.

        In a forked child it has no effect: the calls belong to the parent.

        Args:
            wait: whether to return only when all calls, and the executor's own pool, have ended.
            cancel_futures: whether to cancel calls that have not started.

        Raises:
            RuntimeError: it would wait in the thread of a loop that has to run the calls.
        """
        if self._pool._core.forked():
            return
        self._calls.shut("shutdown", cancel=cancel_futures)
        if not wait:
            return
        if self._calls.runs_here() and not self._calls.ended.done():
            raise RuntimeError(
                f"shutdown(wait=True) of {self!r} would block a loop that has to run its calls: "
                "use `async with`, or wait=False"
            )
        self._calls.ended.result()
        if self._owned is not None:
            self._owned.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._calls.ended))
        if self._owned is not None:
            await asyncio.shield(asyncio.wrap_future(self._owned.ended))


class _Dropper:
    """Lets a pool forget the work of an executor that has ended."""

    def __init__(self, pool: Pool, key: object) -> None:
        self._pool, self._key = pool, key

    def __call__(self, _: object) -> None:
        self._pool._drop_call_queue(self._key)


class _OwnPool:
    """A pool in a thread of its own, which ends with the work of its executor."""

    def __init__(self, loops: int | None) -> None:
        from .runner import Runner  # which imports what this module is imported by

        self._runner = Runner  # kept for `_main`
        self._loops = loops
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()
        self._begun: concurrent.futures.Future[Pool] = concurrent.futures.Future()
        self._calls: concurrent.futures.Future[CallQueue] = concurrent.futures.Future()
        # A daemon thread: the interpreter joins others before the exit hook that ends this one.
        self._thread = threading.Thread(target=self._main, name="loop-pool-executor", daemon=True)
        self._thread.start()
        self.pool = self._begun.result()

    def end_after(self, call_queue: CallQueue) -> None:
        """Let the pool end when the work has, and at the exit of the interpreter at the latest."""
        atexit.register(self._exit)
        self._calls.set_result(call_queue)

    def join(self) -> None:
        """Wait for the end of the pool."""
        self.ended.result()
        self._thread.join()

    def _exit(self) -> None:
        if self.pool._core.forked():
            return  # the thread is the parent's
        self._calls.result().shut("the exit of the interpreter")
        self.join()

    def _main(self) -> None:
        try:
            with self._runner(loops=self._loops) as runner:
                self._begun.set_result(runner.get_pool())
                runner.run(self._wait())
        except BaseException as error:
            if self._begun.done():
                raise
            self._begun.set_exception(error)
        finally:
            atexit.unregister(self._exit)
            self.ended.set_result(None)

    async def _wait(self) -> None:
        call_queue = await asyncio.wrap_future(self._calls)
        await asyncio.shield(asyncio.wrap_future(call_queue.ended))


_SHARED = object()
"""The work of ``submit`` in each pool."""


@overload
def submit[**P, T](
    fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> concurrent.futures.Future[T]: ...
@overload
def submit[**P, T](
    fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> concurrent.futures.Future[T]: ...
def submit(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
    """Call ``fn`` on a loop of the pool, like ``PoolExecutor(pool=...).submit``.

    Any thread may call it. On a loop it uses the loop's pool; in any other thread, such as one of
    ``asyncio.to_thread``, the only pool of the process. Unstarted calls are cancelled when the pool
    shuts down.

    Returns:
        A future for threads to wait on; on a loop, await ``asyncio.wrap_future`` of it.

    Raises:
        RuntimeError: there is no such pool, there are several, or it has ended.
    """
    pool = _the_pool()
    return pool._add_call_queue(_SHARED, lambda: CallQueue(pool.loops)).submit(fn, args, kwargs)


def _the_pool() -> Pool:
    if asyncio._get_running_loop() is None:
        pools = list(_open_pools)
        if len(pools) > 1:
            raise RuntimeError(
                f"{len(pools)} pools run in this process: use PoolExecutor(pool=...).submit"
            )
        if pools:
            return pools[0]
    return current_pool()
