"""Stream transports: TCP and unix connections."""

from __future__ import annotations

import asyncio
import functools
from asyncio import trsock
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .descriptors import KeepsDescriptor
from .sendfile import Lender
from .thread_affinity import as_bytes, on_loop_thread
from .tls import SSLProtocol
from .transport_base import SLOTS, Writing

if TYPE_CHECKING:
    import contextvars
    import socket

    from .._core import StreamCore
    from .loop_base import LoopBase


HTTPConnection: type[Any] | None = getattr(_core, "HTTPConnection", None)
"""The protocols of the native HTTP server; ``None``: the native module was built without it."""


def speaks_http(protocol: Any) -> bool:
    """Return whether the transport of this protocol takes requests out of its bytes."""
    return HTTPConnection is not None and type(protocol) is HTTPConnection


class StreamTransport(KeepsDescriptor, Lender, Writing, asyncio_private.FlowControlMixin):
    """A TCP or unix stream connection. Made by the loop's methods, as asyncio's transports are."""

    __slots__ = SLOTS

    _start_tls_compatible = True
    _sendfile_compatible = asyncio_private.SendfileMode.TRY_NATIVE

    max_size = 256 * 1024

    if TYPE_CHECKING:
        _core: StreamCore

    def __init__(  # noqa: PLR0917 - as asyncio's
        self,
        loop: LoopBase,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        core = self._native_half(sock, protocol)
        self._begin_on_socket(loop, sock, protocol, waiter, extra, server, context, core)

    @staticmethod
    def _native_half(sock: socket.socket, protocol: asyncio.BaseProtocol) -> StreamCore:
        """Return the native half of a transport of this socket."""
        return _core.StreamCore(sock.fileno(), True, True, holder=sock)

    def _begin_on_socket(  # noqa: PLR0917
        self,
        loop: LoopBase,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
        server: Any,
        context: contextvars.Context | None,
        core: StreamCore,
    ) -> None:
        extra = {} if extra is None else extra
        extra["socket"] = trsock.TransportSocket(sock)
        for name, ask in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
            if name not in extra:
                try:
                    extra[name] = ask()
                except OSError:
                    extra[name] = None
        self._begin(loop, sock, protocol, waiter, extra, server, context, core)
        asyncio_private.set_nodelay(sock)
        self._join()

    @classmethod
    def _accepted(
        cls,
        loop: LoopBase,
        core: StreamCore,
        protocol: asyncio.BaseProtocol,
        server: Any,
        context: contextvars.Context,
    ) -> StreamTransport:
        """Return the transport of an accepted connection, whose socket object nobody needs yet."""
        self = cls.__new__(cls)
        self._begin(loop, None, protocol, None, None, server, context, core)
        self._join()
        return self

    def _set_protocol(self, protocol: Any) -> None:
        super()._set_protocol(protocol)
        if speaks_http(protocol):
            self._core.set_http()
            return
        self._core.set_kind(
            isinstance(protocol, asyncio.BufferedProtocol)
            and not isinstance(protocol, SSLProtocol),
            type(protocol) is asyncio.StreamReaderProtocol,
        )

    # -- writing ---------------------------------------------------------------------------------

    @functools.partial(on_loop_thread, prepare=as_bytes)
    def writelines(self, list_of_data: Any) -> None:
        """Write several buffers. As ``asyncio.WriteTransport.writelines``."""
        if self._core.write_eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        if not list_of_data:
            return
        if self._core.lost:
            self._lost_write()
            return
        self.write(b"".join([memoryview(data) for data in list_of_data if data]))

    @on_loop_thread
    def write_eof(self) -> None:
        """Tell the peer that nothing more will be written, once everything queued is.

        As ``asyncio.WriteTransport.write_eof``.
        """
        self._core.shut_write()

    def can_write_eof(self) -> bool:
        """Return ``True``."""
        return True


_core._install_stream_methods(StreamTransport, reads=True, writes=True)
if asyncio_private.streams_are_known():
    _core._learn_streams(asyncio.StreamReaderProtocol, asyncio.StreamReader, asyncio.Future)
