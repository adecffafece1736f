"""The values of :class:`LoopLocal` on one loop: existing ones, pending ones, and their closing.

Everything here runs in the thread of the loop that owns the values, without locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable


_ENDS = ("aclose", "close", "dispose")
"""The methods that end a value; the first one that it has is called."""

_SYNCHRONIZES = ("acquire", "n_waiting")
"""What locks, semaphores, limiters and barriers have: to enter one is to wait for it."""


class _Way(enum.Enum):
    """How what a factory returned becomes the value."""

    AS_IT_IS = enum.auto()
    AWAIT = enum.auto()
    ENTER = enum.auto()
    ENTER_ASYNC = enum.auto()


def _way(made: object, enter: bool | None, *, guess: bool) -> _Way:
    """Tell how ``made`` becomes the value.

    Args:
        made: what the factory returned, or what that was when awaited.
        enter: as the program says; None: it says nothing.
        guess: whether to enter any asynchronous context manager that can be ended in no other way.

    Raises:
        TypeError: the program says that it is to be entered, and it cannot be.
    """
    kind = type(made)
    enters_async = hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__")
    enters = hasattr(kind, "__enter__") and hasattr(kind, "__exit__")
    if enter is None:
        # A context manager made by contextlib is useless unless it is entered.
        enters_async_by_itself = isinstance(made, contextlib.AsyncContextDecorator)
        enters = enters and isinstance(made, contextlib.ContextDecorator)
    if enter is not False and enters_async and (enter or enters_async_by_itself):
        return _Way.ENTER_ASYNC
    if enter is not False and enters:
        return _Way.ENTER
    if inspect.isawaitable(made):
        return _Way.AWAIT
    if enter:
        raise TypeError(f"{made!r} is not a context manager and cannot be entered")
    if enter is None and guess and enters_async and not _has_any(made, _ENDS + _SYNCHRONIZES):
        return _Way.ENTER_ASYNC
    return _Way.AS_IT_IS


def _has_any(value: object, names: tuple[str, ...]) -> bool:
    return any(getattr(value, name, None) is not None for name in names)


class Value:
    """What a factory made, how to close it, and the context in which both are done."""

    def __init__(
        self,
        close: Callable[[Any], Any] | None,
        enter: bool | None,
        context: contextvars.Context,
    ) -> None:
        self.value: Any = None
        self._close = close
        self._enter = enter
        self._context = context
        self._leave: Callable[..., Any] | None = None

    def make_now(self, made: Any) -> bool:
        """Make the value of what the factory returned; False if that takes an ``await``."""
        way = _way(made, self._enter, guess=self._close is None)
        if way in {_Way.AWAIT, _Way.ENTER_ASYNC}:
            return False
        self._context.run(self._take, made, way)
        return True

    async def make(self, made: Any) -> None:
        """As :meth:`make_now`, in a task that has the context."""
        way = _way(made, self._enter, guess=self._close is None)
        if way is _Way.AWAIT:
            made = await made
            # A coroutine that returns a client may already have done what entering it would do.
            way = _way(made, self._enter, guess=False)
            if way is _Way.AWAIT and self._enter:
                raise TypeError(f"{made!r} is not a context manager and cannot be entered")
        if way is _Way.ENTER_ASYNC:
            self.value = await type(made).__aenter__(made)
            self._leave = functools.partial(type(made).__aexit__, made)
        else:
            self._take(made, way)

    def _take(self, made: Any, way: _Way) -> None:
        if way is _Way.ENTER:
            self.value = type(made).__enter__(made)
            self._leave = functools.partial(type(made).__exit__, made)
        else:
            self.value = made

    def begin_close(self) -> asyncio.Task[None]:
        """Close the value, in a task, whatever the program's task factory does."""
        loop = asyncio.get_running_loop()
        return asyncio.Task(self._end(), loop=loop, context=self._context)

    async def _end(self) -> None:
        done = None
        if self._close is not None:
            done = self._close(self.value)
        elif self._leave is not None:
            done = self._leave(None, None, None)
        else:
            ends = (getattr(self.value, name, None) for name in _ENDS)
            if end := next((end for end in ends if callable(end)), None):
                done = end()
        if inspect.isawaitable(done):
            await done


class Locals:
    """The values of one loop, by their :class:`LoopLocal`."""

    def __init__(self) -> None:
        self.values: dict[object, Value] = {}
        """In the order in which they were finished."""
        self.making: dict[object, asyncio.Task[Any] | None] = {}
        """The task that awaits it; None while the factory itself runs."""
        self.closed = False
