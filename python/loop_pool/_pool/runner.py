"""``run`` and ``Runner``: asyncio's, with a pool.

For the order of shutdown see ``shutdown``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, final

from .. import _core
from .._loop.event_loop import EventLoop
from . import grace
from .collector import Pause
from .gil import warn_if_serial
from .pool import Pool, _open_pools
from .shutdown import close, run_to_its_end

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from .member import _Member

logger = logging.getLogger("loop_pool")

FOR_EVER = threading.TIMEOUT_MAX / 4
"""Seconds that no clock comes to the end of: such a deadline is none."""

SHUTDOWN_TIMEOUT = 30.0
"""Seconds that a pool takes to end before it says what does not."""


class Inspector(Protocol):
    """The inspection server of one pool, for ``loop-pool ps`` and ``top``."""

    def stop(self) -> None:
        """Stop answering."""


def inspect_by(start: Callable[[Pool, bool | None], Inspector | None]) -> None:
    """Let every pool that begins from then on be inspected; ``_inspect.switch`` does.

    Args:
        start: called with the pool and with what its caller chose, as for :class:`Runner`. Returns
            None if nobody is to look at the pool.
    """
    global _start_inspector
    _start_inspector = start


_start_inspector: Callable[[Pool, bool | None], Inspector | None]


@final
class Runner:
    """Like ``asyncio.Runner``, with a pool of loops that exists from first use to :meth:`close`.

    Args:
        loops: the total number of loops; ``None``: one per core that this process may use.
        debug: asyncio's debug mode for every loop; ``None``: as the environment says.
        shutdown_timeout: seconds for the shutdown of the pool. Tasks that have not ended by then
            are logged with their loop and abandoned. ``None``: no limit.
        steal: whether idle loops do socket work of busy and stuck loops.
        stuck_after: seconds after which a loop that is still in one callback counts as stuck. It is
            logged to ``loop_pool`` at once, with its task and stack, and again when the callback
            ends. The effective minimum is two milliseconds. ``None``: the
            ``slow_callback_duration`` of each loop in debug mode, otherwise never. See also
            :meth:`Pool.on_stuck`.
        inspect: whether ``loop-pool ps`` and ``top`` of the same user or root may inspect the pool,
            through a unix socket in a private directory. ``None``: if the environment variable
            ``LOOP_POOL_INSPECT`` is 1; if the socket cannot be created then, this is logged and
            the pool runs without it.

    Raises:
        ValueError: ``loops`` is below 1 or above 4096, ``shutdown_timeout`` is negative, or
            ``stuck_after`` is not greater than zero.
        TypeError: ``loops`` is not an integer.

    Threads: created, used and closed in one thread, which runs loop 0.
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
            raise ValueError(f"stuck_after must be greater than zero, got {stuck_after}")
        self._loops = _core._loop_count(loops)
        self._debug = debug
        self._steal = steal
        self._stuck_after = stuck_after
        self._inspect = inspect
        self._inspector: Inspector | None = None
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
        """Return loop 0; start the pool if necessary."""
        return self._start()._members[0].loop

    def get_pool(self) -> Pool:
        """Return the pool; start it if necessary."""
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
        """Shut the pool down, in the phases of ``shutdown``. A second call has no effect."""
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
        call_queues = pool._take_call_queues()
        for call_queue in call_queues:
            call_queue.end()
        stuck: set[_Member] = set()
        late = None if deadline is None else deadline + grace.LATE * grace.GRACE
        pause = Pause()
        if late is not None and timeout is not None:
            # Other threads may post faster than a loop runs callbacks, so its turns become longer.
            for member in pool._members:
                _core._end_run_at(member.loop, min(int(late * 1e9), 1 << 63))
                # The first loop that runs it wins.
                with contextlib.suppress(RuntimeError):
                    member.loop.call_soon_threadsafe(member.loop.call_later, timeout, pause.begin)
        try:
            run_to_its_end(pool, deadline, stuck, late, pause)
        finally:
            try:
                pool._stop()
                pool._signals.clear()
                pool._members[0].end()
                close(pool._members[0].loop)
            finally:
                try:
                    self._leave(pool._join(deadline, stuck), deadline)
                finally:
                    for call_queue in call_queues:
                        call_queue.abandon()
                    _open_pools.discard(pool)
                    if self._inspector is not None:
                        self._inspector.stop()
                    pause.end()

    def _leave(self, left: list[_Member], deadline: float | None) -> None:
        """Say what did not end: the threads of ``left``, and what the loops did not get to."""
        assert self._pool is not None
        enough = math.inf if deadline is None else deadline + grace.ENOUGH * grace.GRACE
        looks_until = min(time.monotonic() + grace.GRACE / 4, enough)
        for n, member in enumerate(left):
            # A look may take a while, and there may be many loops.
            late = n > 0 and time.monotonic() > looks_until
            seen = "it is inside a callback, too" if late else self._pool._watch.where(member)
            logger.error("%s did not stop: %s", member.name, seen)
            member.end(stuck=True)
        for member in self._pool._members:
            loop = member.loop
            if loop._unrun:
                logger.error("%s: %d callbacks were not run", member.name, loop._unrun)
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
                    self._inspector = _start_inspector(pool, self._inspect)
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

    ``main`` runs on loop 0, in the calling thread. At the end the tasks of every loop are cancelled
    and awaited, its :class:`LoopLocal` values are closed, and its asynchronous generators and
    executor are shut down.

    Args:
        main: a coroutine.
        loops: the total number of loops; ``None``: one per core that this process may use.
        debug: asyncio's debug mode for every loop; ``None``: as the environment says.
        shutdown_timeout: see :class:`Runner`.
        steal: see :class:`Runner`.
        stuck_after: see :class:`Runner`.
        inspect: see :class:`Runner`.

    Raises:
        RuntimeError: called in a running loop.
        TypeError: ``main`` is not awaitable, or ``loops`` not an integer.
        ValueError: ``loops`` is below 1 or above 4096, or ``stuck_after`` not greater than zero.
        OSError: ``inspect`` is true and its socket cannot be created.
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
