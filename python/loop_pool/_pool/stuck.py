"""Reports loops that are stuck in a callback, while they are stuck.

The monitor, a native thread without Python, detects them (``src/pool/detector.rs``). The thread
``loop-pool-watch`` waits for its reports, detached from the interpreter. It then reads the task and
the Python stack (``src/py/event_loop/stack.rs``), logs them, and calls the callbacks of
``Pool.on_stuck``. A pool without reports enabled has no such thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from .._loop import event_loop
from .._loop.task_registry import current_task
from .thread_stacks import (
    AT_LAST,
    SOON,
    Stack,
    parts_of,
    reader,
    seen_from_outside,
    stands_still,
    summary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._loop.event_loop import EventLoop
    from .member import PoolParts, _Member

logger = logging.getLogger("loop_pool")


class StuckLoop(NamedTuple):
    """A loop that is or was in one callback for too long: see ``Pool.on_stuck``.

    A plain record; any thread may read it.
    """

    loop: EventLoop
    """The loop."""
    name: str
    """``loop-pool-0`` and so on, as in ``LoopStats``."""
    task: asyncio.Task[Any] | None
    """The task whose step it is in; ``None``: a callback without a task, or it has just ended."""
    task_name: str | None
    """Its name; ``None`` if the callback is in native code that cannot be interrupted. The task's
    methods wait for that code, so do not call them from ``on_stuck``."""
    seconds: float
    """How long it has been in the callback; at the end, the total. Accurate to one sample of the
    monitor, which samples once per millisecond."""
    stack: Stack
    """The stack of its thread when it was found stuck, outermost call first, in the format of
    ``traceback.format_list``. Empty if the callback ended before the stack could be read, or if it
    is in native code and this Python cannot read stacks from outside (such a stack may lack outer
    calls). Also empty while another loop of the pool is in native code that cannot be interrupted,
    because reading the stack would have to wait for it."""
    task_stack: Stack
    """The part of ``stack`` from the task's coroutine inwards; empty without a task."""
    ended: bool
    """Whether the callback has ended. All fields except ``seconds`` are those of the beginning."""


class Watch:
    """What tells of the stuck loops of one pool. Any thread, but for ``start``.

    Args:
        pool: the pool.
        stuck_after: seconds that a callback may take; ``None``: each loop's
            ``slow_callback_duration``, logged in debug mode only.
    """

    def __init__(self, pool: PoolParts, stuck_after: float | None) -> None:
        self._pool = pool
        self._stuck_after = stuck_after
        # Guards what follows. Re-entrant, as a signal handler or a finalizer may unregister.
        # Nothing foreign is called under it.
        self._lock = threading.RLock()
        self._callbacks: dict[object, Callable[[StuckLoop], object]] = {}
        self._logs = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        # The reporting thread's own.
        self._begun: dict[int, StuckLoop] = {}

    def start(self) -> None:
        """Begin to log, if the program has asked for it or is in debug mode. Loop 0's thread.

        Raises:
            OSError, RuntimeError: the process is out of descriptors or threads.
        """
        debug = any(member.loop.get_debug() for member in self._pool._members)
        if self._stuck_after is not None or debug:
            with self._lock:
                self._logs = True
                self._need_thread()

    def on_stuck(self, callback: Callable[[StuckLoop], object]) -> Callable[[], None]:
        """See ``Pool.on_stuck``."""
        if not callable(callback):
            raise TypeError(f"a callable object was expected by on_stuck(), got {callback!r}")
        token = object()

        def unregister() -> None:
            with self._lock:
                gone = self._callbacks.pop(token, None)
                if not (self._callbacks or self._logs or self._stopped):
                    self._pool._core.unwatch()
            del gone  # which may call its finalizer

        with self._lock:
            if self._stopped:
                raise RuntimeError(f"{self._pool!r} is closed")
            self._need_thread()
            self._callbacks[token] = callback
        return unregister

    def _need_thread(self) -> None:
        """Have the monitor tell and a thread listen. Under the lock."""
        self._pool._core.watch(self._stuck_after)
        if self._thread is None:
            with contextlib.suppress(ImportError):  # which is said when it is needed
                reader()
            # Set first: a signal handler may register meanwhile, and must not start another.
            self._thread = threading.Thread(target=self._main, name="loop-pool-watch", daemon=True)
            try:
                self._thread.start()
            except Exception:
                self._thread = None
                raise

    def refuse(self) -> None:
        """Take no further callbacks: the monitor is about to end."""
        with self._lock:
            self._stopped = True

    def join(self, deadline: float | None) -> None:
        """Wait for the thread, which ends when the monitor has, until ``deadline``."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            logger.error("%s did not stop: it is inside a callback of on_stuck", thread.name)

    def where(self, member: _Member) -> str:
        """Return what a loop's thread is in, in words. Any thread, while no other reports."""
        incident = self._look(member, member.loop._stats()["callbacks"], 0.0)
        if member.loop.is_closed():
            return "it is still closing"
        if incident.task is None and not incident.stack:
            return "its stack could not be read"
        return f"it is still inside a callback of {_describe(incident)}\n{_stack_of(incident)}"

    # -- the reporting thread --------------------------------------------------------------------

    def _main(self) -> None:
        while incidents := self._pool._core.wait_incidents():
            for index, callback, seconds, ended in incidents:
                try:
                    self._report(index, callback, seconds, ended)
                except Exception:
                    logger.exception("cannot report a stuck loop")

    def _report(self, index: int, callback: int, seconds: float, ended: bool) -> None:
        member = self._pool._members[index]
        if ended:
            begun = self._begun.pop(index, None)
            if begun is None:  # its beginning could not be reported
                return
            incident = copy.replace(begun, seconds=seconds, ended=True)
        else:
            incident = self._look(member, callback, seconds)
            self._begun[index] = incident
            with contextlib.suppress(RuntimeError):  # the loop has closed
                member.loop.call_soon_threadsafe(member.probes.refill)
        if self._stuck_after is not None or member.loop.get_debug():
            _log(incident)
        with self._lock:
            callbacks = tuple(self._callbacks.values())
        for each in callbacks:
            try:
                each(incident)
            except BaseException:
                logger.exception("Exception in on_stuck callback %r", each)

    def _look(self, member: _Member, callback: int, seconds: float) -> StuckLoop:
        loop = member.loop
        task = current_task(loop)
        name, inner = None, 0
        stack: Stack = ()
        seen: Stack = ()
        answered = member.probes.ask()
        stands = stands_still(loop, callback, answered, SOON)
        if not stands:
            # Its thread may run native code attached: waiting for it would delay other threads.
            seen = seen_from_outside(member.probes.native_id)
            if _core._is_blocked(loop, callback) is None:
                seen = ()  # It may be another callback's.
            stands = stands_still(loop, callback, answered, AT_LAST)
        others = (each for each in self._pool._members if each is not member)
        if stands and _nobody_holds_up(others):
            coro, name = (None, None) if task is None else parts_of(task)
            calls = _core._stack(loop, callback) or []
            stack = summary((code.co_filename, line, code.co_name) for code, line in calls)
            codes = [code for code, _ in calls]
            code = getattr(coro, "cr_code", None)
            inner = codes.index(code) if code in codes else len(codes)
        if not stack:
            stack, name = seen, None
            inner = len(stack) if task is None else _end_of_loop(stack)
        if not stack and _core._is_blocked(loop, callback) is None:
            task = None  # It may be another callback's.
        return StuckLoop(
            loop=loop,
            name=member.name,
            task=task,
            task_name=name,
            seconds=seconds,
            stack=stack,
            task_stack=stack[inner:],
            ended=False,
        )


def _nobody_holds_up(members: Iterable[_Member]) -> bool:
    """Return whether every loop's thread can be made to stand still at once, or does.

    Takes a fifth of a second if one cannot. What was used up is put back by the loops.
    """
    asked = [(member, member.loop._stats()["callbacks"], member.probes.ask()) for member in members]
    try:
        return all(
            _core._is_blocked(member.loop, number) is None
            or stands_still(member.loop, number, answered, AT_LAST)
            for member, number, answered in asked
        )
    finally:
        for member, _, _ in asked:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                member.loop.call_soon_threadsafe(member.probes.refill)


_PACKAGE = Path(__file__).parents[1]


def _end_of_loop(stack: Stack) -> int:
    """Return where what the loop has called begins: after the loop, and debug mode's handle."""
    ours = (event_loop.__file__, asyncio.events.__file__)
    return next((i for i in range(len(stack), 0, -1) if stack[i - 1].filename in ours), 0)


def _log(incident: StuckLoop) -> None:
    if incident.ended:
        logger.warning(
            "%s was inside one callback for %.3f s: %s",
            incident.name,
            incident.seconds,
            _describe(incident),
        )
        return
    logger.warning(
        "%s has been inside one callback for %.3f s: %s\n%s",
        incident.name,
        incident.seconds,
        _describe(incident),
        _stack_of(incident),
    )


def _stack_of(incident: StuckLoop) -> str:
    outer = incident.stack[: len(incident.stack) - len(incident.task_stack)]
    lines = (
        ["Its thread (most recent call last):\n", *traceback.format_list(outer)] if outer else []
    )
    if incident.task_stack:
        lines += ["The coroutine of its task:\n", *traceback.format_list(incident.task_stack)]
    return "".join(lines).rstrip() if lines else "Its stack could not be read."


def where(thread: threading.Thread) -> str:
    """Return what a thread is in that belongs to no loop, as its stack. Any other thread."""
    stack = () if thread.native_id is None else seen_from_outside(thread.native_id)
    lines = ["it is in (most recent call last):\n", *traceback.format_list(stack)]
    return "".join(lines).rstrip() if stack else "its stack could not be read"


def _describe(incident: StuckLoop) -> str:
    if incident.task is None:
        return "no task" if incident.stack else "it has just ended"
    name = "a task" if incident.task_name is None else f"task {incident.task_name!r}"
    if not incident.task_stack:
        return name
    # Where the program's own code begins: internal coroutines, such as that of `call`, precede it.
    program = (each for each in incident.task_stack if _PACKAGE not in Path(each.filename).parents)
    first = next(program, incident.task_stack[0])
    return f"{name}, coroutine {first.name}() in {first.filename}"
