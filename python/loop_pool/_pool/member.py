"""One loop of a pool and its thread: start, run, end.

The pool imports this module. :class:`PoolParts` declares what a member needs from the pool.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from .. import _core
from .._loop.event_loop import EventLoop
from .loop_local_values import Locals
from .thread_stacks import Probes

if TYPE_CHECKING:
    import asyncio

    from .._loop.signals import PoolSignals

logger = logging.getLogger("loop_pool")

_TURNS_IN_VAIN = 100
"""Failed turns in a row after which a loop is given up."""


class PoolParts(Protocol):
    """What the loops of a pool, and whoever watches them, ask of it."""

    _core: _core.PoolCore
    _members: list[_Member]
    _signals: PoolSignals
    _shutdown: asyncio.Task[None] | None
    """The task that ends the pool."""

    def _interrupt(self, error: BaseException) -> None: ...


class _Member:
    """One loop of a pool, and the thread that runs it."""

    def __init__(self, pool: PoolParts, index: int) -> None:
        self.pool = pool
        self.index = index
        self.name = f"loop-pool-{index}"
        self.loop: EventLoop
        self.thread: threading.Thread | None = None
        self.probes: Probes
        self.locals = Locals()
        # Held while something is posted to the loop, and to refuse posts from then on: what was
        # posted before is seen by the shutdown that follows. Re-entrant, as a signal handler or a
        # finalizer may post while this thread does.
        self.admission_lock = threading.RLock()
        self.accepting = False
        self.ended = False
        # Tasks that did not end in time, which have been named or counted in the log.
        self.named: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._stopping = False
        self._started = threading.Event()
        self._failure: BaseException | None = None

    def adopt(self, loop: EventLoop) -> None:
        loop._pool = self.pool
        loop._pool_index = self.index
        loop._pool_name = self.name
        loop._pool_signals = self.pool._signals
        loop._join(self.pool._core, self.index)
        self.probes = Probes()
        with self.admission_lock:
            self.loop = loop
            self.accepting = not self._stopping

    def start(self, debug: bool | None) -> None:
        self.thread = threading.Thread(
            target=self._main, args=(debug,), name=self.name, daemon=True
        )
        self.thread.start()
        self._started.wait()
        if self._failure is not None:
            self.thread.join()
            raise self._failure

    def _main(self, debug: bool | None) -> None:
        if self._stopping:  # the one who started us was interrupted
            return
        try:
            loop = EventLoop()
            try:
                if debug is not None:
                    loop.set_debug(debug)
                self.adopt(loop)
                loop.call_soon(self._started.set)
                self._run(loop)
            finally:
                self.end()
                loop.close()
        except BaseException as error:
            if self._started.is_set():
                raise
            self._failure = error
            self._started.set()

    def _run(self, loop: EventLoop) -> None:
        """Run until the pool stops the loop, whatever its callbacks do.

        ``SystemExit`` and ``KeyboardInterrupt`` end ``main`` on loop 0, where the caller of ``run``
        sees them; the loop they came from goes on, so that the pool can end in good order. So it
        does after an error out of an exception handler, unless it never gets further.
        """
        in_vain = 0
        # A turn may both stop the loop and fail. When the pool's time is up the run ends by itself.
        while not (self._stopping or _core._was_cut_short(loop)):
            turns = loop._stats()["turns"]
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                self.pool._interrupt(error)
            except Exception:
                logger.critical(
                    "%s: an exception ended a turn of the loop", self.name, exc_info=True
                )
                in_vain = in_vain + 1 if loop._stats()["turns"] <= turns + 1 else 0
                if in_vain == _TURNS_IN_VAIN:
                    raise

    def end(self, *, stuck: bool = False) -> None:
        """Accept no further work, and let nobody wait for what will not be done any more.

        On the loop's thread; any other may do so for one that is ``stuck`` in a callback.
        """
        with self.admission_lock:
            self.accepting = False
            self.ended = True
        loop = getattr(self, "loop", None)
        for task in [] if loop is None else loop._shut_spawned():
            # Formatting a task inside its step would wait for the step.
            what = "the task" if stuck else repr(task)
            task._abandon(RuntimeError(f"{self.name} ended before {what} was done"))

    def stop(self) -> None:
        """End the thread, from any other, however far it has come."""
        with self.admission_lock:
            self._stopping = True
            loop = getattr(self, "loop", None)
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
