"""The interface that parts of a loop may use: the base class of :class:`EventLoop`.

Transports, listeners and streams belong to a loop that creates them. This module declares the
native half and the shared attributes, so that they need not import the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _core

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable

    _Parent = asyncio.SelectorEventLoop
else:
    _Parent = object  # `EventLoop` has it behind the parts that override it


class LoopBase(_core.LoopCore, _Parent):
    """The native half of a loop, and what its parts share with it."""

    _pool: object | None = None
    """The pool that the loop belongs to, of which this room knows no more."""
    _pool_index: int
    """Its place among the loops of that pool."""
    _pool_name: str | None = None
    """What logs call it there: ``loop-pool-0`` and so on."""
    _unrun: int = 0
    """Callbacks that it did not get to before its pool's time was up."""
    _dropped: threading.Event | None = None
    """Set when another thread has dropped those."""
    _done_future: asyncio.Future[None] | None = None
    """A future that is done, by which native streams wake their tasks."""

    if TYPE_CHECKING:
        _borrowing: threading.RLock
        """Held by a thread that uses the loop's objects while nobody runs it."""
        _make_ssl_transport: Callable[..., asyncio.Transport]
        _own_make_ssl_transport: Callable[..., asyncio.Transport]

        def _look_at_clock(self) -> None: ...

    def _name(self) -> str:
        """What logs call it: ``loop-pool-0`` and so on."""
        return repr(self) if self._pool_name is None else self._pool_name
