"""Transports of the native HTTP server: requests are taken out of the bytes below Python.

The protocol of such a transport is a ``_core.HTTPConnection``, and nobody else writes to it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .. import _core
from .thread_affinity import on_loop_thread
from .transports import StreamTransport, speaks_http

if TYPE_CHECKING:
    import asyncio
    import socket

    from .._core import StreamCore


def with_http(core: StreamCore, protocol: Any, holder: Any = None) -> StreamCore:
    """Return a native half that speaks HTTP, in place of one that was not used yet.

    Args:
        core: the native half, perhaps with TLS.
        protocol: what the transport will be given.
        holder: the object that closes the descriptor, if the native half does not.
    """
    return _core._http_stream(core, protocol, holder) if speaks_http(protocol) else core


class HTTPTransport(StreamTransport):
    """A connection of the HTTP server without TLS."""

    __slots__ = ()

    @staticmethod
    def _native_half(sock: socket.socket, protocol: asyncio.BaseProtocol) -> StreamCore:
        return with_http(StreamTransport._native_half(sock, protocol), protocol, sock)

    def _opened(self) -> None:
        """Introduce the transport to its protocol. Called by the native half."""
        try:
            self._protocol.connection_made(self)
        finally:
            self._wake_waiter()

    @on_loop_thread
    def _say_end(self) -> None:
        """Say that no more is sent, behind what is."""
        # A peer that is gone is found out by reading.
        with contextlib.suppress(OSError):
            self._core.shut_write()

    def write(self, data: Any) -> None:
        """Raise ``RuntimeError``: the server writes responses."""
        raise RuntimeError(f"{self!r} belongs to the HTTP server: send messages of ASGI")
