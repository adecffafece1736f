"""Locks, events and queues that all loops and threads of a process share.

asyncio's primitives work on one loop. These have the same names, methods and usage, so it is enough
to change the imports: ``sync.Lock()`` instead of ``asyncio.Lock()``. They wait in coroutines of any
loop and, through the ``green_`` methods or a plain ``with``, in threads.

They are built on `aiologic <https://aiologic.readthedocs.io>`_ and
`culsans <https://culsans.readthedocs.io>`_ (``pip install 'loop_pool[sync]'``). This module adds
asyncio's names, arguments and exceptions.

For every class:

- Methods may be called from any thread, with or without a running loop. Coroutine methods are
  awaited in a task of an asyncio loop, in a pool or not.
- Methods whose names begin with ``green_``, and a plain ``with``, are for threads: they block the
  thread. In a loop's thread they block the loop, and waiting there for a task of the same loop is a
  deadlock.
- Waiters are served in FIFO order, whether they wait in coroutines or threads.
- A coroutine that is cancelled while it waits loses nothing for the others: what it was about to
  receive goes to the next waiter.
- Times are in seconds; ``timeout=None`` means no limit. Coroutine methods have no ``timeout``,
  except the inherited ``async_acquire``: use ``asyncio.timeout``.
- A loop may shut down while others use the object: ``loop_pool.run`` and ``asyncio.run`` cancel its
  tasks, which release what they hold and give up their places. If a loop is closed with suspended
  tasks instead, these keep their places, and whatever they receive is lost.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Literal, Self

try:
    import aiologic
    import culsans
except ImportError as error:
    raise ImportError(
        f"{error.name} is not installed: pip install 'loop_pool[sync]'",
        name=error.name,
    ) from error

from ._queues import LifoQueue, PriorityQueue, Queue

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "CapacityLimiter",
    "Condition",
    "Event",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "RLock",
    "Semaphore",
]

QueueEmpty = culsans.QueueEmpty
QueueFull = culsans.QueueFull
QueueShutDown = culsans.QueueShutDown


class Lock(aiologic.Lock):
    """A mutual exclusion lock. Like ``asyncio.Lock``; with a plain ``with``, ``threading.Lock``.

    Unlike asyncio's it has an owner, a task or a thread: only the owner may release it, and
    acquiring it again raises ``RuntimeError`` instead of causing a deadlock.

    For threads: ``with lock``, ``green_acquire(*, blocking=True, timeout=None)``, which returns
    whether it was acquired, and ``green_release()``. Any thread.
    """

    __slots__ = ()

    async def acquire(self) -> Literal[True]:
        """Wait until the lock is free, and own it. As ``asyncio.Lock.acquire``.

        Raises:
            RuntimeError: the current task owns it already.
        """
        await self.async_acquire()
        return True

    def release(self) -> None:
        """Pass it to the longest waiter. As ``asyncio.Lock.release``; for tasks.

        Raises:
            RuntimeError: the current task does not own it.
        """
        self.async_release()


class RLock(aiologic.RLock):
    """A lock that its owner may acquire again. Not in asyncio; like ``threading.RLock``.

    The owner is a task or a thread. It must release the lock as often as it acquired it.

    For threads: ``with lock``, ``green_acquire(count=1, *, blocking=True, timeout=None)``, which
    returns whether it was acquired, and ``green_release(count=1)``. Any thread.
    """

    __slots__ = ()

    async def acquire(self) -> Literal[True]:
        """Wait until the lock is free or owned by the current task, and acquire it once more."""
        await self.async_acquire()
        return True

    def release(self) -> None:
        """Release it once; the last release passes it to the longest waiter. For tasks.

        Raises:
            RuntimeError: the current task does not own it.
        """
        self.async_release()


class Semaphore(aiologic.Semaphore):
    """A number of permits. As ``asyncio.Semaphore``.

    For threads: ``with semaphore``, and ``green_acquire(*, blocking=True, timeout=None)``, which
    returns whether it was acquired. ``release(count=1)`` is the same for tasks and threads, and
    may be called by any of them. Any thread.

    Args:
        value: the initial number of permits.

    Raises:
        ValueError: ``value`` is negative.
    """

    __slots__ = ()

    def __new__(cls, value: int = 1) -> Self:  # noqa: D102 - told by the class
        return super().__new__(cls, value)

    async def acquire(self) -> Literal[True]:
        """Wait for a permit, and take it. As ``asyncio.Semaphore.acquire``."""
        await self.async_acquire()
        return True

    def locked(self) -> bool:
        """Whether no permit is available now."""
        return self.value == 0


class BoundedSemaphore(aiologic.BoundedSemaphore):
    """A semaphore with a maximum number of permits. As ``asyncio.BoundedSemaphore``.

    Otherwise as :class:`Semaphore`; ``value`` is also the limit. Any thread.
    """

    __slots__ = ()

    def __new__(cls, value: int = 1) -> Self:  # noqa: D102 - told by the class
        return super().__new__(cls, value)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.max_value,)

    def __copy__(self) -> Self:
        return type(self)(self.max_value)

    async def acquire(self) -> Literal[True]:
        """Wait for a permit, and take it. As ``asyncio.BoundedSemaphore.acquire``."""
        await self.async_acquire()
        return True

    def locked(self) -> bool:
        """Whether no permit is available now."""
        return self.value == 0

    def release(self, count: int = 1) -> None:
        """Return permits. As ``asyncio.BoundedSemaphore.release``.

        Raises:
            ValueError: there would be more than the initial number.
        """
        try:
            super().release(count)
        except RuntimeError:
            raise ValueError("BoundedSemaphore released too many times") from None


class CapacityLimiter(aiologic.CapacityLimiter):
    """A semaphore that tracks its borrowers. Not in asyncio; like ``anyio.CapacityLimiter``.

    A task or thread borrows at most one token, and returns only its own. ``total_tokens``,
    ``borrowed_tokens``, ``available_tokens`` and ``borrowers`` show the current state.

    For threads: ``with limiter``, ``green_acquire(*, blocking=True, timeout=None)``, which returns
    whether it was acquired, and ``green_release()``. Any thread.

    Args:
        total_tokens: the number of tokens.

    Raises:
        ValueError: ``total_tokens`` is negative.
    """

    __slots__ = ()

    def __new__(cls, total_tokens: int) -> Self:  # noqa: D102 - told by the class
        return super().__new__(cls, total_tokens)

    async def acquire(self) -> None:
        """Wait for a token, and borrow it.

        Raises:
            RuntimeError: the current task has one already.
        """
        await self.async_acquire()

    def release(self) -> None:
        """Return the current task's token. For tasks.

        Raises:
            RuntimeError: the current task has none.
        """
        self.async_release()


class Event:
    """A flag that others wait for. As ``asyncio.Event``, and for threads ``threading.Event``.

    ``set()`` wakes all current waiters, even if ``clear()`` follows immediately. Built on
    ``aiologic.REvent``. Any thread.
    """

    __slots__ = ("__weakref__", "_event")

    def __init__(self) -> None:
        self._event = aiologic.REvent()

    def __repr__(self) -> str:
        state = "set" if self.is_set() else f"unset, waiting={self.waiting}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x} [{state}]>"

    @property
    def waiting(self) -> int:
        """The number of waiting tasks and threads."""
        return self._event.waiting

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def set(self) -> None:
        """Set it, and wake all waiters, on their own loops and threads."""
        self._event.set()

    def clear(self) -> None:
        """Unset it."""
        self._event.clear()

    async def wait(self) -> Literal[True]:
        """Wait until it is set. As ``asyncio.Event.wait``."""
        await self._event
        return True

    def green_wait(self, timeout: float | None = None) -> bool:
        """Block the thread until it is set; return whether it is. As ``threading.Event.wait``."""
        return self._event.wait(timeout)


class Condition:
    """A lock with a queue of waiters for a change. As ``asyncio.Condition``.

    For threads: ``with condition``, :meth:`green_wait` and :meth:`green_wait_for`; ``notify`` and
    ``notify_all`` are the same for both. Built on ``aiologic.Condition``. Any thread.

    Args:
        lock: a :class:`Lock` or :class:`RLock`, which other conditions may share; ``None``: a
            :class:`Lock` of its own.

    Raises:
        TypeError: ``lock`` is another object.
    """

    __slots__ = ("__weakref__", "_condition", "_lock")

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        if lock is None:
            lock = Lock()
        elif not isinstance(lock, Lock | RLock):
            raise TypeError(f"a Lock or RLock of loop_pool.sync was expected, got {lock!r}")
        self._lock = lock
        self._condition = aiologic.Condition(lock)

    def __repr__(self) -> str:
        state = f"{'locked' if self.locked() else 'unlocked'}, waiting={self.waiting}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x} [{state}]>"

    async def __aenter__(self) -> None:
        await self._lock.async_acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.async_release()

    def __enter__(self) -> None:
        self._lock.green_acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.green_release()

    @property
    def waiting(self) -> int:
        """The number of tasks and threads that wait to be notified."""
        return self._condition.waiting

    def locked(self) -> bool:
        """Whether the lock is held."""
        return self._lock.locked()

    async def acquire(self) -> Literal[True]:
        """Acquire the lock, in a task."""
        return await self._lock.acquire()

    def release(self) -> None:
        """Release the lock, in a task.

        Raises:
            RuntimeError: the current task does not own it.
        """
        self._lock.release()

    async def wait(self) -> Literal[True]:
        """Release the lock, wait to be notified, acquire it again. As ``asyncio.Condition.wait``.

        Raises:
            RuntimeError: the current task does not own the lock.
        """
        await self._condition
        return True

    async def wait_for[T](self, predicate: Callable[[], T]) -> T:
        """Wait until ``predicate()`` is true; return its value. As ``asyncio.Condition.wait_for``.

        ``predicate`` is called in the current task, which then owns the lock.

        Raises:
            RuntimeError: the current task does not own the lock.
        """
        return await self._condition.for_(predicate, delegate=False)

    def green_wait(self, timeout: float | None = None) -> bool:
        """As :meth:`wait`, blocking a thread; return whether it was notified in time.

        Raises:
            RuntimeError: the current thread does not own the lock.
        """
        return self._condition.wait(timeout)

    def green_wait_for[T](self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """As :meth:`wait_for`, blocking a thread; returns a false value after the timeout.

        Raises:
            RuntimeError: the current thread does not own the lock.
        """
        return self._condition.wait_for(predicate, timeout, delegate=False)

    def notify(self, n: int = 1) -> None:
        """Wake ``n`` waiters, longest waiting first. As ``asyncio.Condition.notify``.

        Raises:
            RuntimeError: the lock is not held.
        """
        self._check_locked()
        if n > 0:
            self._condition.notify(n)

    def notify_all(self) -> None:
        """Wake all waiters. As ``asyncio.Condition.notify_all``.

        Raises:
            RuntimeError: the lock is not held.
        """
        self._check_locked()
        self._condition.notify_all()

    def _check_locked(self) -> None:
        if not self._lock.locked():
            raise RuntimeError("cannot notify on un-acquired lock")


class BrokenBarrierError(
    aiologic.BrokenBarrierError, asyncio.BrokenBarrierError, threading.BrokenBarrierError
):
    """A barrier is broken, or was reset while a task or thread waited."""


class Barrier:
    """A point where a number of tasks and threads wait for each other. As ``asyncio.Barrier``.

    Unlike asyncio's it breaks, like ``threading.Barrier``, when a waiter is cancelled or times
    out: the other waiters get :exc:`BrokenBarrierError`. It can be used again after
    :meth:`reset`. Built on ``aiologic.RBarrier``. Any thread.

    Args:
        parties: the number of tasks and threads to wait for.

    Raises:
        ValueError: ``parties`` is less than one.
    """

    __slots__ = ("__weakref__", "_barrier")

    def __init__(self, parties: int) -> None:
        if parties < 1:
            raise ValueError("parties must be >= 1")
        self._barrier = aiologic.RBarrier(parties)

    def __repr__(self) -> str:
        state = "broken" if self.broken else f"waiting={self.n_waiting}/{self.parties}"
        return f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x} [{state}]>"

    async def __aenter__(self) -> int:
        return await self.wait()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    @property
    def parties(self) -> int:
        """The number of tasks and threads to wait for."""
        return self._barrier.parties

    @property
    def n_waiting(self) -> int:
        """The number of waiting tasks and threads."""
        return self._barrier.waiting

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken, until it is reset."""
        return self._barrier.broken

    async def wait(self) -> int:
        """Wait until all have arrived; return a number from 0 to ``parties - 1``, unique to each.

        Raises:
            BrokenBarrierError: the barrier is broken, or was broken or reset meanwhile.
        """
        try:
            return await self._barrier
        except aiologic.BrokenBarrierError:
            raise _broken(self) from None

    def green_wait(self, timeout: float | None = None) -> int:
        """As :meth:`wait`, blocking a thread. A timeout breaks the barrier."""
        try:
            return self._barrier.wait(timeout)
        except aiologic.BrokenBarrierError:
            raise _broken(self) from None

    async def reset(self) -> None:
        """Reset the barrier to its empty state; waiters get :exc:`BrokenBarrierError`."""
        self._barrier.reset()

    async def abort(self) -> None:
        """Break the barrier; present and future waiters get :exc:`BrokenBarrierError`."""
        self._barrier.abort()

    def green_reset(self) -> None:
        """As :meth:`reset`, for threads and callbacks."""
        self._barrier.reset()

    def green_abort(self) -> None:
        """As :meth:`abort`, for threads and callbacks."""
        self._barrier.abort()


def _broken(barrier: Barrier) -> BrokenBarrierError:
    return BrokenBarrierError(f"{barrier!r} was broken or reset")
