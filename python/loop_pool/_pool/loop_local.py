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
    """One value per loop of a pool: a database pool, an HTTP client, a lock.

    The value is created on first use on each loop, by a single call of the factory even if several
    tasks ask for it. It is closed on its loop when the pool shuts down: after the loop's tasks,
    before its asynchronous generators and its executor, in reverse order of creation. Errors while
    closing are logged with the name of the loop. A ``LoopLocal`` may be a module variable and used
    by several pools in succession::

        database = loop_pool.LoopLocal(lambda: asyncpg.create_pool(dsn))

        async def handler():
            pool = await database

    Args:
        factory: called without arguments, in a copy of the context of the first caller. Its result
            is the value, with two exceptions: an awaitable is awaited (so it may be a coroutine
            function), and a context manager is entered, and exited at shutdown, if ``contextlib``
            made it, or if it is asynchronous, is not a lock and has no closing method.
        close: called with the value at shutdown, in the same context; an awaitable result is
            awaited. ``None``: exit the context manager that was entered, or call the first of
            ``aclose()``, ``close()`` and ``dispose()`` that the value has.
        enter: overrides whether the result of the factory is entered as a context manager: ``True``
            for a client that has ``close`` but must be entered, ``False`` to use the object itself.

    Threads: created in any thread; used on the loops of a pool, each of which sees its own value.

    Raises:
        TypeError: ``factory`` or ``close`` is not callable, or ``enter`` is not a bool.
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
        """Return the value of the loop that runs in this thread; create it if necessary.

        Raises:
            RuntimeError: the value must be created by awaiting; or no pool runs in this thread; or
                the loop has closed its values; or the factory asks for its own value.
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
