"""``LoopLocal``: one value per loop, created on first use and closed on its loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, Literal, final, overload

from .._loop.event_loop import EventLoop
from .grace import GRACE
from .loop_local_values import Value
from .pool import Pool, current_pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import (
        AbstractAsyncContextManager,
        AbstractContextManager,
        _AsyncGeneratorContextManager,
        _GeneratorContextManager,
    )

    from .member import _Member

logger = logging.getLogger("loop_pool")


@final
class LoopLocal[T]:
    """One value for each loop of a pool: a database pool, an HTTP client, a lock.

    It is made on first use on each loop, by one call of the factory however many tasks ask, and
    closed on its loop when the pool ends: after the loop's tasks, before its asynchronous
    generators and its executor, the last one made first. What cannot be closed is logged with the
    name of its loop. The object itself may be a module's variable, for one pool after another::

        database = loop_pool.LoopLocal(lambda: asyncpg.create_pool(dsn))

        async def handler():
            pool = await database

    Args:
        factory: called without arguments, in a copy of the context of whoever asks first. What it
            returns is the value; but an awaitable (it may be a coroutine function) is awaited, and
            a context manager entered and left at the end if it is made by ``contextlib``, or is an
            asynchronous one that cannot be ended in another way and is no lock.
        close: called with the value at the end, in the same context; an awaitable that it returns
            is awaited. ``None``: leaves the context manager that was entered, or calls the first
            of ``aclose()``, ``close()`` and ``dispose()`` that the value has.
        enter: whether what the factory returns, or what that is when awaited, is a context manager
            to be entered, where the above does not tell: ``True`` for a client that has ``close``
            and works only when it has been entered, ``False`` for one that is meant as it is.

    Threads: made in any; used on the loops of a pool, each of which sees its own value.

    Raises:
        TypeError: ``factory`` or ``close`` cannot be called, or ``enter`` is no bool.
    """

    @overload
    def __init__(
        self,
        factory: Callable[[], AbstractAsyncContextManager[T, Any] | AbstractContextManager[T, Any]],
        close: Callable[[T], object] | None = None,
        *,
        enter: Literal[True],
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], Awaitable[T]],
        close: Callable[[T], object] | None = None,
        *,
        enter: bool | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], _AsyncGeneratorContextManager[T] | _GeneratorContextManager[T]],
        close: Callable[[T], object] | None = None,
        *,
        enter: None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        close: Callable[[T], object] | None = None,
        *,
        enter: bool | None = None,
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], Any],
        close: Callable[[T], object] | None = None,
        *,
        enter: bool | None = None,
    ) -> None:
        if not callable(factory):
            raise TypeError(f"factory must be callable, got {factory!r}")
        if close is not None and not callable(close):
            raise TypeError(f"close must be callable, got {close!r}")
        if enter is not None and not isinstance(enter, bool):
            raise TypeError(f"enter must be True, False or None, got {enter!r}")
        self._factory = factory
        self._close = close
        self._enter = enter

    def __repr__(self) -> str:
        return f"<LoopLocal {getattr(self._factory, '__qualname__', repr(self._factory))}>"

    def get(self) -> T:
        """Return the value of the loop that runs in this thread, making it if need be.

        Raises:
            RuntimeError: it is not there yet and has to be awaited; or no pool runs in this thread;
                or the loop has closed its values; or the factory asks for what it is to make.
            BaseException: whatever the factory raises. The next call tries again.
        """
        member = _member()
        place = member.locals
        found = place.values.get(self)
        if found is None:
            if place.making.get(self) is not None or inspect.iscoroutinefunction(self._factory):
                _check_open(self, member)
                raise RuntimeError(f"the value of {self!r} has not been created yet: await it")
            made = self._make(member, may_wait=False)
            assert isinstance(made, Value)
            found = made
        return self._value_of(found)

    def __await__(self) -> Generator[Any, None, T]:
        """Return the value of the running loop when it is made. Raises as :meth:`get`.

        When the awaiter is cancelled, the factory goes on.
        """
        member = _member()
        found = member.locals.values.get(self)
        if found is None:
            made = member.locals.making.get(self) or self._make(member, may_wait=True)
            if made is asyncio.current_task():
                raise RuntimeError(f"the factory of {self!r} awaits its own value")
            if isinstance(made, Value):
                found = made
            else:
                found = yield from asyncio.shield(made).__await__()
        return self._value_of(found)

    def _value_of(self, value: Value) -> T:
        found: T = value.value
        return found

    def _make(self, member: _Member, *, may_wait: bool) -> Value | asyncio.Task[Value]:
        """Call the factory; return a task that finishes the value if it has to be awaited."""
        _check_open(self, member)
        place = member.locals
        if self in place.making:
            raise RuntimeError(f"the factory of {self!r} asks for its own value")
        context = contextvars.copy_context()
        value = Value(self._close, self._enter, context)
        place.making[self] = None
        try:
            made = context.run(self._factory)
            if value.make_now(made):
                place.values[self] = value
                return value
            if not may_wait:
                if asyncio.iscoroutine(made):
                    made.close()
                raise RuntimeError(
                    f"the value from the factory of {self!r} must be awaited or entered: "
                    "await the LoopLocal"
                )
            task = asyncio.create_task(self._finish(member, value, made), context=context)
            place.making[self] = task
            task.add_done_callback(lambda _: place.making.pop(self, None))
            return task
        finally:
            if place.making.get(self) is None:
                place.making.pop(self, None)

    async def _finish(self, member: _Member, value: Value, made: Any) -> Value:
        await value.make(made)
        if member.locals.closed:  # it took longer than the shutdown waits
            await value.begin_close()
        _check_open(self, member)
        member.locals.values[self] = value
        return value


def _check_open(local: LoopLocal[Any], member: _Member) -> None:
    if member.locals.closed:
        raise RuntimeError(f"{member.name} has closed its values and creates none for {local!r}")


def _member() -> _Member:
    loop = asyncio._get_running_loop()
    if isinstance(loop, EventLoop) and isinstance(loop._pool, Pool):
        return loop._pool._members[loop._pool_index]
    current_pool()  # raises
    raise AssertionError


async def close_locals(member: _Member, deadline: float | None) -> None:
    """Close the values of the running loop, the last one made first, and make no other."""
    place = member.locals
    place.closed = True
    while place.values:
        local, value = place.values.popitem()
        task = value.begin_close()
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        await asyncio.wait([task], timeout=remaining)
        if not task.done():
            logger.error("%s: the value of %r did not close in time", member.name, local)
            task.cancel()
            await asyncio.wait([task], timeout=GRACE / 50)
        elif task.cancelled():
            logger.error("%s: closing the value of %r was cancelled", member.name, local)
        elif (error := task.exception()) is not None:
            logger.error("%s: closing the value of %r failed", member.name, local, exc_info=error)
