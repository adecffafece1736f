"""The object that a loop exposes as its selector."""

from __future__ import annotations

import selectors
import weakref
from typing import TYPE_CHECKING, Any

from .loop_base import LoopBase

if TYPE_CHECKING:
    from .. import _core


class ReactorSelector:
    """Stands where ``BaseSelectorEventLoop`` keeps its selector: the reactor waits instead.

    It answers what asyncio asks of a selector outside the run loop: what a descriptor is
    registered for (``repr`` of a transport).
    """

    def __init__(self, core: _core.LoopCore) -> None:
        self._core = weakref.ref(core)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As ``selectors.BaseSelector.get_key``.

        Raises:
            KeyError: nothing waits for ``fileobj``.
        """
        core = self._core()
        sides = None if core is None else core._registered(fileobj)
        if sides is None:
            raise KeyError(f"{fileobj!r} is not registered")
        reader, writer = sides
        events = (selectors.EVENT_READ if reader is not None else 0) | (
            selectors.EVENT_WRITE if writer is not None else 0
        )
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, (reader, writer))

    def select(self, timeout: float | None = None) -> list[Any]:
        """Say how long the turn is to wait. Called by what a program has put in its place."""
        core = self._core()
        if core is not None:
            vars(core)["_asked"] = timeout
        return []

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        core = getattr(self, "_core", lambda: None)()
        if name == "select" and isinstance(core, LoopBase):
            core._look_at_clock()

    def close(self) -> None:
        """Do nothing: the core closes the reactor."""
