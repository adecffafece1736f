"""The values of :class:`LoopLocal` on one loop: who has one, who makes one, how they close.

Everything here happens in the thread of the loop whose values they are; nothing is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable


class Value:
    """What a factory made, how to close it, and the context in which both are done."""

    def __init__(self, close: Callable[[Any], Any] | None, context: contextvars.Context) -> None:
        self.value: Any = None
        self._close = close
        self._context = context
        self._manager: contextlib.AbstractAsyncContextManager[Any] | None = None

    async def finish(self, made: Any) -> None:
        """Make the value of what the factory returned, if that is to be awaited or entered."""
        if inspect.isawaitable(made):
            made = await made
        if is_manager(made):
            self.value = await made.__aenter__()
            self._manager = made
        else:
            self.value = made

    def begin_close(self) -> asyncio.Task[None]:
        """Close the value, in a task, whatever the program's task factory does."""
        loop = asyncio.get_running_loop()
        return asyncio.Task(self._end(), loop=loop, context=self._context)

    async def _end(self) -> None:
        if self._close is not None:
            done = self._close(self.value)
        elif self._manager is not None:
            done = self._manager.__aexit__(None, None, None)
        else:
            close = getattr(self.value, "aclose", None) or getattr(self.value, "close", None)
            done = close() if callable(close) else None
        if inspect.isawaitable(done):
            await done


def is_manager(made: object) -> bool:
    """Whether a factory returned what only entering makes a value of.

    That is what ``contextlib.asynccontextmanager`` makes. A lock is an asynchronous context manager
    too, and is meant as it is.
    """
    return isinstance(made, contextlib.AsyncContextDecorator) and isinstance(
        made, contextlib.AbstractAsyncContextManager
    )


class Locals:
    """The values of one loop, by their :class:`LoopLocal`."""

    def __init__(self) -> None:
        self.values: dict[object, Value] = {}
        """In the order in which they were finished."""
        self.making: dict[object, asyncio.Task[Any] | None] = {}
        """The task that awaits it; None while the factory itself runs."""
        self.closed = False
