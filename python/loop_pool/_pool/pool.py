"""The pool: N threads, each with its own loop.

Loop 0 runs in the thread that called ``run``, the others in threads named ``loop-pool-1`` and so
on. They start one after another, because many threads that start at once can deadlock in the
interpreter (python/cpython#157666).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, final

from .. import _core
from .._loop.event_loop import EventLoop
from .._loop.signals import PoolSignals
from . import grace
from .member import _Member
from .stuck import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .executor_queue import CallQueue
    from .stuck import StuckLoop

_forked_from_pool = False


class LoopStats(NamedTuple):
    """Figures of one loop. Counts begin when the loop is created."""

    name: str
    """``loop-pool-0`` and so on; also the name of its thread, except for loop 0."""
    ready: int
    """Ready callbacks at the start of the last turn."""
    timers: int
    """Pending timers at the start of the last turn."""
    descriptors: int
    """Watched descriptors, including the loop's own self-pipe."""
    callbacks: int
    """Callbacks and task steps run."""
    turns: int
    """Turns begun."""
    polls: int
    """Polls of the kernel."""
    busy: float
    """Seconds spent outside the kernel's wait."""
    idle: float
    """Seconds spent in the kernel's wait."""
    jobs: int
    """Socket jobs, its own or of other loops, that its thread took from a deque and ran."""
    stolen_from: int
    """Jobs of its transports that other threads ran, while it was busy or stuck."""
    stolen_by: int
    """Jobs of other loops' transports that its thread ran."""
    handoffs: int
    """Times that it was stuck in a callback and the monitor took over its sockets."""
    wakes: int
    """Times that another thread woke its thread through the kernel."""
    spawned: int
    """Coroutines spawned without a loop and started here."""
    spawned_stolen: int
    """Spawned coroutines taken over from other loops."""
    bytes_in: int
    """Bytes read by its native transports."""
    bytes_out: int
    """Bytes written by its native transports."""
    transports: int
    """Open native transports."""
    read_ahead: int
    """Bytes that other threads have read for it and that are not yet delivered."""
    tasks: int
    """Suspended tasks in the registry, including dead ones not yet swept."""
    tasks_swept: int
    """Dead tasks removed from the registry."""


@final
class Pool:
    """The loops of one ``run``. Created by :class:`Runner`; returned by :func:`current_pool`."""

    def __init__(
        self, loops: int, debug: bool | None, steal: bool, stuck_after: float | None
    ) -> None:
        self._core = _core.PoolCore(loops, steal=steal)
        self._debug = debug
        self._members = [_Member(self, index) for index in range(loops)]
        self._loops: tuple[EventLoop, ...] = ()
        self._watch = Watch(self, stuck_after)
        self._signals = PoolSignals(lambda index: self._members[index].loop)
        self._interrupted = False
        self._shutdown: asyncio.Task[None] | None = None  # the task that ends the pool
        # Under the lock: the call queues of executors; None when the pool refuses them.
        # Re-entrant, because a finalizer may end an executor meanwhile.
        self._call_queues_lock = threading.RLock()
        self._call_queues: dict[object, CallQueue] | None = {}

    def __repr__(self) -> str:
        state = "open" if self._members[0].accepting else "closed"
        return f"<Pool loops={len(self._members)} {state}>"

    @property
    def loops(self) -> tuple[EventLoop, ...]:
        """The loops, loop 0 first. Any thread.

        Raises:
            RuntimeError: the pool is closed, or belongs to the parent of this process.
        """
        self._check_open()
        return self._loops

    def stats(self) -> list[LoopStats]:
        """Return the figures of each loop. Any thread; no loop is paused.

        Raises:
            RuntimeError: the pool is closed, or belongs to the parent of this process.
        """
        self._check_open()
        return [_stats_of(member) for member in self._members]

    def on_stuck(self, callback: Callable[[StuckLoop], object]) -> Callable[[], None]:
        """Call ``callback`` when a loop gets stuck in a callback, and when the loop leaves it.

        A loop is stuck if it has been in one callback for longer than ``stuck_after`` of
        :func:`run`, or without it for longer than its own ``slow_callback_duration``. A thread that
        only waits for a CPU is not stuck; neither is a loop that sleeps or runs many short
        callbacks.

        Args:
            callback: called with a :class:`StuckLoop` as soon as the loop is found stuck, and with
                another one, whose ``ended`` is true, when the loop has left its callback. There is
                no second call for a loop that is still stuck when the pool shuts down. It is called
                in the thread ``loop-pool-watch``, for one incident at a time, so it should be
                short: later incidents wait. It may post to a loop with
                ``call_soon_threadsafe``. Its exceptions are logged.

        Returns:
            A function that unregisters it, from any thread; a call in progress is completed.

        Raises:
            RuntimeError: the pool is closed, or belongs to the parent of this process.
            TypeError: ``callback`` is not callable.
            OSError: the process is out of descriptors.

        Any thread may register.
        """
        self._check_open()
        return self._watch.on_stuck(callback)

    # -- for Runner ------------------------------------------------------------------------------

    def _open(self, loop: EventLoop) -> None:
        """Adopt loop 0 and start the other threads, one after another."""
        self._members[0].adopt(loop)
        if len(self._members) > 1:
            # Every loop looks up `asyncio.sleep` and others. The module has a `__getattr__`, so
            # the interpreter cannot avoid counting references to what it finds there.
            shared = (getattr(asyncio, name) for name in asyncio.__all__)
            _core._stop_counting(
                *(thing for thing in shared if isinstance(thing, type) or inspect.isroutine(thing))
            )
        try:
            for member in self._members[1:]:
                member.start(self._debug)
            self._loops = tuple(member.loop for member in self._members)
            self._core.start_monitor()
            self._watch.start()
        except BaseException:
            self._stop()
            self._join(None)
            raise

    def _interrupt(self, error: BaseException) -> None:
        """Let ``error``, raised on another loop, end ``run`` as if it were raised on loop 0.

        Only the first does, and none while the pool is ending anyway.
        """

        def propagate() -> None:
            raise error

        if self._interrupted or not self._members[0].accepting:
            return
        self._interrupted = True
        self._members[0].loop.call_soon_threadsafe(propagate)

    def _add_call_queue(self, key: object, make: Callable[[], CallQueue]) -> CallQueue:
        """Return the call queue of an executor, which the shutdown of the pool ends. Any thread.

        Raises:
            RuntimeError: the pool is closing.
        """
        with self._call_queues_lock:
            if self._call_queues is not None:
                call_queue = self._call_queues.get(key)
                if call_queue is None:
                    call_queue = self._call_queues[key] = make()
                return call_queue
        raise RuntimeError(f"{self!r} is closed")

    def _drop_call_queue(self, key: object) -> None:
        with self._call_queues_lock:
            if self._call_queues is not None:
                self._call_queues.pop(key, None)

    def _take_call_queues(self) -> list[CallQueue]:
        """Refuse new call queues from then on, and return the existing ones."""
        with self._call_queues_lock:
            call_queues, self._call_queues = self._call_queues, None
        return list((call_queues or {}).values())

    def _begin_run(self) -> None:
        """Let an error on another loop end the ``run`` that begins, as it did an earlier one."""
        self._interrupted = False

    def _refuse(self) -> None:
        """Admit no further work. Work admitted before is seen by the shutdown that follows."""
        for member in self._members:
            with member.admission_lock:
                member.accepting = False
                loop = getattr(member, "loop", None)
            if loop is not None:
                loop._refuse_spawned()

    def _stop(self) -> None:
        """Have the threads end, without waiting for them."""
        self._refuse()
        for member in self._members:
            # A thread that is about to start is included: it ends without running the loop.
            if member.thread is not None:
                with contextlib.suppress(RuntimeError):  # its loop has closed meanwhile
                    member.stop()

    def _join(self, deadline: float | None, given_up: Collection[_Member] = ()) -> list[_Member]:
        """Wait for threads that were told to end; return the members whose did not in time.

        Those that were given up are hardly waited for: it may be that they only had much to run.
        """
        threads = [(member, member.thread) for member in self._members if member.thread is not None]
        soon = deadline
        if deadline is not None:
            # If others have used up the deadline, a healthy thread still has time to end.
            enough = deadline + grace.ENOUGH * grace.GRACE
            deadline = max(deadline, min(time.monotonic() + grace.GRACE / 2, enough))
            soon = min(time.monotonic() + grace.GRACE / 20, enough)
        stuck = []
        for member, thread in threads:
            if thread.is_alive():
                until = soon if member in given_up else deadline
                thread.join(None if until is None else max(0.0, until - time.monotonic()))
            if thread.is_alive():
                stuck.append(member)
        self._watch.refuse()
        self._core.stop_monitor()
        self._watch.join(
            None if deadline is None else max(deadline, time.monotonic() + grace.GRACE / 10)
        )
        return stuck

    # -- checks ----------------------------------------------------------------------------------

    def _check_process(self) -> None:
        if self._core.forked():
            raise RuntimeError(_FORKED)

    def _check_open(self) -> None:
        self._check_process()
        if not self._members[0].accepting:
            raise RuntimeError(f"{self!r} is closed")

    def _member_of(self, loop: asyncio.AbstractEventLoop) -> _Member:
        if isinstance(loop, EventLoop) and loop._pool is self:
            return self._members[loop._pool_index]
        raise RuntimeError(f"{loop!r} does not belong to {self!r}")


_FORKED = (
    "this process is a fork of one that runs a loop_pool: the pool's threads and loops exist only "
    "in the parent; start a pool of its own with loop_pool.run"
)


def _stats_of(member: _Member) -> LoopStats:
    seen = member.loop._stats()
    busy, idle = seen.pop("busy_ns") / 1e9, seen.pop("idle_ns") / 1e9
    return LoopStats(name=member.name, busy=busy, idle=idle, **seen)


def current_pool() -> Pool:
    """Return the pool whose loop runs in this thread.

    Raises:
        RuntimeError: there is none: the thread belongs to no pool (such as an executor's thread),
            the pool is closed, or this process is a fork of the pool's process.
    """
    loop = asyncio._get_running_loop()
    pool = loop._pool if isinstance(loop, EventLoop) else None
    if not isinstance(pool, Pool):
        if _forked_from_pool:
            raise RuntimeError(_FORKED)
        where = threading.current_thread().name
        raise RuntimeError(
            f"no running loop_pool in this thread ({where}): call this from a coroutine or "
            "callback on one of the pool's loops"
        )
    pool._check_open()
    return pool


def _note_fork() -> None:
    global _forked_from_pool
    _forked_from_pool = _forked_from_pool or bool(_open_pools)


_open_pools: set[Pool] = set()
os.register_at_fork(after_in_child=_note_fork)
