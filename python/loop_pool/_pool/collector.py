"""Suspends automatic garbage collections while a late pool shuts down.

A collection pauses every thread and examines every object. If other threads post continuously there
are millions, and one collection takes longer than the shutdown may.
"""

from __future__ import annotations

import gc
import threading
from typing import final

_lock = threading.Lock()
_pauses: set[Pause] = set()
_was_enabled = False


@final
class Pause:
    """Puts collections off from ``begin`` to ``end``, each of which counts once. Any thread."""

    def __init__(self) -> None:
        self._over = False

    def begin(self) -> None:
        """Put automatic collections off, unless this pause is over."""
        global _was_enabled
        with _lock:
            if self._over or self in _pauses:
                return
            if not _pauses:
                _was_enabled = gc.isenabled()
                gc.disable()
            _pauses.add(self)

    def end(self) -> None:
        """Have collections as before the first pause that is not over."""
        with _lock:
            self._over = True
            if self not in _pauses:
                return
            _pauses.discard(self)
            if not _pauses and _was_enabled:
                gc.enable()
