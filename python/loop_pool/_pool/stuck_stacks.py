"""Samples what an unresponsive loop is doing, from another thread, by means of ``thread_stacks``.

In: a loop. Out: a :class:`StackSample`. Must never wait for a loop for more than a quarter of a
second.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from .._loop import task_registry
from .._loop.event_loop import EventLoop
from .thread_stacks import AT_LAST, parts_of, reader, seen_from_outside, stands_still

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .member import _Member

DEPTH = 32
"""Frames of one stack that are told; of a deeper one the first, and the last."""

_FRESH = 1.0
"""Seconds for which a look at a callback is good: each may make all threads stand still."""


class StackSample(NamedTuple):
    """What a loop is in. The stack is empty where it cannot be seen."""

    callback: int
    """Its number among those of the loop."""
    task: int | None
    """The identity of the task whose step it is in."""
    name: str | None
    """Its name, where that can be told."""
    coro: int | None
    """The identity of its coroutine."""
    coro_name: str | None
    stack: list[str]
    """Where the thread is, as ``file:line function``, from what the loop has called inwards."""


class Watcher:
    """Looks at one loop.

    Made anywhere; :meth:`prepare` is for the loop's own thread, :meth:`look` for one other.
    """

    def __init__(self, member: _Member) -> None:
        self._member = member
        self._seen: tuple[float, StackSample] | None = None
        with contextlib.suppress(ImportError):  # the first import makes all threads stand still
            reader()

    def prepare(self) -> None:
        """Put back what looks have used up. The loop's thread, each time it gets to it."""
        self._member.probes.refill()

    def callback(self) -> int:
        """Return the number of the callback that the loop is in, or was in last."""
        return self._member.loop._stats()["callbacks"]

    def fresh(self) -> StackSample | None:
        """Return what an earlier look has seen, if the loop is still in it and it is not old."""
        if self._seen is not None:
            since, sample = self._seen
            if sample.callback == self.callback() and time.monotonic() < since + _FRESH:
                return sample
        return None

    def try_out(self) -> tuple[int, bool]:
        """Return the callback that the loop is in, and whether its thread can be stopped at once.

        Takes a fifth of a second if not, or if the machine has more to do than it can.
        """
        number = self.callback()
        answered = self._member.probes.ask()
        return number, stands_still(self._member.loop, number, answered, AT_LAST)

    def look(self, number: int, *, may_stop: bool) -> StackSample | None:
        """Return what the loop is in; None if it has got on meanwhile, or to nothing.

        Args:
            number: the callback that it is in.
            may_stop: whether every thread of the pool can be stopped at once.
        """
        loop = self._member.loop
        found = _stopped(loop, number) if may_stop else self._from_outside(number)
        self._seen = None if found is None else (time.monotonic(), found)
        return found

    def _from_outside(self, number: int) -> StackSample | None:
        loop = self._member.loop
        task = task_registry.current_task(loop)
        frames = seen_from_outside(self._member.probes.native_id)
        if _core._is_blocked(loop, number) is None:
            return None
        stack = [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
        stack = _inside(stack)
        if task is None:
            return StackSample(number, None, None, None, None, stack)
        outermost = stack[0].rpartition(" ")[2] if stack else None
        return StackSample(number, id(task), None, None, outermost, stack)


def _stopped(loop: EventLoop, number: int) -> StackSample | None:
    """Look while every thread of the interpreter stands still."""
    task = task_registry.current_task(loop)
    coro, name = None, None
    if task is not None:
        with contextlib.suppress(Exception):  # a task of another make
            coro, name = parts_of(task)
    calls = _core._stack(loop, number)
    if calls is None:
        return None
    stack = [f"{code.co_filename}:{line} {code.co_qualname}" for code, line in calls]
    return StackSample(
        number,
        None if task is None else id(task),
        name,
        None if coro is None else id(coro),
        name_of_coro(coro),
        _inside(stack),
    )


def look_at(watchers: Sequence[Watcher]) -> list[StackSample | None]:
    """Return what each of some loops is in that are held up. One thread at a time.

    If one of them runs native code, which cannot be stopped, no thread is: who waited for that one
    would stand still, and the whole pool with it. All of them are then read from outside. Of a
    thread that runs Python such a reading may be torn, so that is not told.
    """
    samples = [watcher.fresh() for watcher in watchers]
    if all(sample is not None for sample in samples):
        return samples
    tried = [watcher.try_out() for watcher in watchers]
    may_stop = all(stops for _, stops in tried)
    return [
        sample
        if sample is not None
        else watcher.look(number, may_stop=may_stop)
        if may_stop or not stops or _core._is_blocked(watcher._member.loop, number)
        else None
        for sample, watcher, (number, stops) in zip(samples, watchers, tried, strict=True)
    ]


def name_of_coro(coro: Any) -> str | None:
    """Return the qualified name of a coroutine, which may be running."""
    if coro is None:
        return None
    return str(getattr(coro, "__qualname__", type(coro).__qualname__))


def _inside(stack: list[str]) -> list[str]:
    """Leave out what leads to the loop. The outermost frame comes first."""
    for index in range(len(stack), 0, -1):
        path, _, name = stack[index - 1].rpartition(" ")
        if path.rpartition(":")[0] == _RUN.co_filename and name.endswith(_RUN.co_name):
            return shorten(stack[index:])
    return shorten(stack)


_RUN = EventLoop.run_forever.__code__


def shorten(stack: Sequence[str]) -> list[str]:
    """Leave out the middle of a deep stack."""
    if len(stack) <= DEPTH:
        return list(stack)
    return [stack[0], f"... {len(stack) - DEPTH + 1} more ...", *stack[2 - DEPTH :]]
