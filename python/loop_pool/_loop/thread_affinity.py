"""Calls of a loop's objects from another thread than the loop's.

Each method that changes a transport first checks whether the calling thread owns the loop. If not,
:func:`hand_on` rejects the call in debug mode, posts it to a running loop behind earlier calls for
the same object, or, while the loop is not running, executes it here with the loop borrowed.
Coroutines use :func:`await_on_loop`. So one thread at a time accesses an object, and the calls of
each thread take effect in order, even if the loop stops and continues in between.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from typing import TYPE_CHECKING, Any, cast

from .. import _core
from . import asyncio_private
from .loop_base import LoopBase

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    type Calls = collections.deque[Callable[[], object]]

BORROW_TIMEOUT = 1.0
"""Seconds to wait for another thread that has borrowed the loop. It has it for one call, unless
that waits for this thread (a finalizer may end a transport of any loop): then ours is posted."""


def on_loop_thread[F: Callable[..., Any]](
    method: F, prepare: Callable[..., tuple[Any, ...]] | None = None
) -> F:
    """Let a method that changes an object of a loop run in the thread that owns the loop alone.

    Args:
        method: of an object with a ``_loop``. What it returns, its loop's thread alone is told.
        prepare: turns the arguments into those that are kept until it runs.
    """

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _core._is_owner(self._loop):
            return method(self, *args, **kwargs)
        if prepare is not None:
            args = prepare(*args, **kwargs)
            kwargs = {}
        hand_on(self, functools.partial(method, self, *args, **kwargs))
        return None

    return cast("F", checked)


def as_bytes(list_of_data: Any) -> tuple[list[bytes]]:
    """What ``writelines`` is given, as bytes that nobody changes meanwhile."""
    return ([bytes(memoryview(data)) for data in list_of_data],)


def elsewhere(self: Any, name: str, *args: object) -> None:
    """Make a call of one of an object's methods that may not be made as things are. Any thread.

    Raises:
        RuntimeError: in debug mode, from another thread than the loop's.
    """
    hand_on(self, functools.partial(getattr(self, name), *args))


def hand_on(owned: Any, call: Callable[[], object]) -> None:
    """Make a call on an object of a loop which the calling thread does not own, or post it."""
    loop: LoopBase = owned._loop
    if loop.get_debug():
        asyncio_private.check_thread(loop)
    # Of one object, so that those of one thread keep their order whoever makes them.
    calls: Calls = owned.__dict__.setdefault("_calls", collections.deque())
    if not loop.is_running() and loop._borrowing.acquire(timeout=BORROW_TIMEOUT):
        try:
            # Whoever begins to run the loop says so, and then waits for the lock.
            if not loop.is_running() and _core._call_as_owner(
                loop, lambda: _call_all(owned, calls, call)
            ):
                return
        finally:
            loop._borrowing.release()
    calls.append(call)
    try:
        loop.call_soon_threadsafe(_call_next, owned, calls)
    except RuntimeError:  # it was closed meanwhile
        calls.remove(call)
        raise


def _call_all(owned: Any, calls: Calls, last: Callable[[], object]) -> None:
    """Make the calls that were posted and that the loop did not come to; then the last one."""
    while calls:
        _call_next(owned, calls)
    last()


def _call_next(owned: Any, calls: Calls) -> None:
    """Make the first of the calls that were posted, unless that was done already."""
    try:
        call = calls.popleft()
    except IndexError:
        return
    try:
        call()
    except SystemExit, KeyboardInterrupt:
        raise
    except BaseException as exc:
        owned._loop.call_exception_handler(
            {
                "message": f"Exception in {_name_of(call)}, called from another thread",
                "exception": exc,
                "transport": owned,
            }
        )


def _name_of(call: Any) -> str:
    method = getattr(call, "func", call)
    return getattr(method, "__qualname__", None) or repr(method)


async def await_on_loop[T](
    loop: asyncio.AbstractEventLoop, function: Callable[..., Coroutine[Any, Any, T]], *args: Any
) -> T:
    """Call a coroutine function on the loop that it belongs to; return what it returns there.

    A cancellation goes to that loop as well. Await it on any loop.

    Raises:
        RuntimeError: the loop ended before the function did.
        BaseException: whatever the function raises.
    """
    coro = function(*args)
    if not isinstance(loop, LoopBase) or loop._pool is None:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, loop))
    try:
        # Whoever cleans up while the pool ends may still do so.
        task = _core._spawn_on(loop, coro, None, None, True)
    except BaseException:
        coro.close()
        raise
    return await task
