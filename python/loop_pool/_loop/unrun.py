"""The callbacks that a loop has not run when its pool's time is up, which may be very many."""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .. import _core


def drop_aside(unrun: _core.Unrun) -> threading.Event:
    """Drop callbacks in a thread that nobody has to wait for; return what is set when it has."""
    dropped = threading.Event()

    def drop() -> None:
        unrun.drop()
        dropped.set()

    try:
        # `threading.Thread.start` would wait until the thread runs, which may be long.
        _thread.start_new_thread(drop, ())
    except RuntimeError:  # out of threads, or the interpreter is ending
        dropped.set()
    return dropped
