"""Who closes a descriptor, and what happens to a transport whose descriptor the program closes.

The native half of an accepted connection owns its descriptor until the socket object is requested.
Any other descriptor is closed by an object that the program may hold as well. If the program closes
or detaches it, the transport's calls fail with ``EBADF``, as in asyncio; when its number is reused,
the transport ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from asyncio import trsock
from typing import TYPE_CHECKING, Any

from .. import _core

if TYPE_CHECKING:
    from .._core import StreamCore
    from .loop_base import LoopBase
    from .transport_base import Writing

    _Transport = Writing
else:
    _Transport = object


_descriptors = threading.RLock()
"""Held while a descriptor passes from a native half to a socket object, or is taken to be closed:
any thread may ask for the socket at any time. Re-entrant, as a finalizer may close one then."""


_KEPT = frozenset(("socket", "sockname", "peername"))
"""What ``get_extra_info`` knows."""


class KeepsDescriptor(_Transport):
    """What a stream transport does with its descriptor."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        _core: StreamCore

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``socket``, ``sockname`` or ``peername``. As asyncio's transports. Any thread."""
        extra = self._extra
        if extra is None:
            if name not in _KEPT:
                return default
            extra = self._make_extra()
        return extra.get(name, default)

    def _make_extra(self) -> dict[str, Any]:
        """Make what an accepted connection is seldom asked for: its names and its socket."""
        with _descriptors:
            if self._extra is None:
                self._extra = self._ask_descriptor()
            return self._extra

    def _ask_descriptor(self) -> dict[str, Any]:
        core = self._core
        own, peer = core.names()
        extra = {"sockname": own, "peername": peer}
        if core.owns_descriptor:
            sock = socket.socket(fileno=core.fd)
            core.give_descriptor(sock)
            sock.setblocking(False)
            self._sock = sock
        else:
            sock = socket.socket()
            sock.close()
        extra["socket"] = trsock.TransportSocket(sock)
        return extra

    def _remember_names(self) -> None:
        self._core.remember_names()

    def _is_closed(self) -> bool:
        return self._sock is None and not self._core.owns_descriptor

    def _close_descriptor(self) -> None:
        with _descriptors:
            sock, self._sock = self._sock, None
            fd = self._core.take_descriptor()
        # To close it may take as long as the peer likes (`SO_LINGER`): detached, and under no lock.
        if fd != -1:
            with contextlib.suppress(OSError):
                os.close(fd)
        if sock is not None:
            sock.close()


def evict(loop: LoopBase, fd: int) -> bool:
    """End what uses a number that is not its descriptor's any more, so that another may have it.

    Returns:
        Whether there was such a transport or listener.
    """
    found = loop._transport_at(fd)
    if isinstance(found, _core.ListenerCore):
        if found.holds:
            return False
        found.stop(loop)
        return True
    if not isinstance(found, asyncio.BaseTransport) or found._core.holds:  # type: ignore[attr-defined]
        return False
    found._fatal_error(OSError(errno.EBADF, os.strerror(errno.EBADF)))  # type: ignore[attr-defined]
    return True
