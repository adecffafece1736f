"""Listening sockets, and the creation of transports for accepted connections."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import socket
from asyncio import constants, trsock
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .http_transport import HTTPTransport, with_http
from .tls import SSLProtocol
from .tls_context import SSLContext
from .tls_transport import TLSParameters, TLSTransport
from .transport_base import logger
from .transports import StreamTransport, speaks_http

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .loop_base import LoopBase

pool_server: contextvars.ContextVar[_core.ServerCore | None] = contextvars.ContextVar(
    "pool_server", default=None
)
"""What the listeners made in this context share: they are those of one pool-wide server."""

responder: contextvars.ContextVar[Callable[[_core.ListenerCore], None] | None] = (
    contextvars.ContextVar("responder", default=None)
)
"""Called with each listener made in this context that has no TLS: it lets requests be answered
which no loop gets to."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """One listening socket of one loop, which keeps it for as long as it listens."""

    def __init__(  # noqa: PLR0917
        self,
        loop: LoopBase,
        sock: socket.socket,
        protocol_factory: Callable[[], Any],
        sslcontext: Any,
        server: Any,
        timeouts: tuple[float | None, float | None],
        context: contextvars.Context | None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._protocol_factory = protocol_factory
        self._sslcontext = sslcontext
        self._server = server
        self._timeouts = timeouts
        self._context = contextvars.copy_context() if context is None else context
        self._makes_tls = type(loop)._make_ssl_transport is loop._own_make_ssl_transport
        self._parameters: TLSParameters | None = None
        if isinstance(sslcontext, SSLContext):
            sslcontext._prepare()
            if self._makes_tls:
                self._parameters = TLSParameters(sslcontext, True, None, *timeouts)
        self._leaving = False
        self._shared = pool_server.get()
        if self._shared is not None:
            # What a connection listens on is no part of the server that accepted it.
            self._context.run(pool_server.set, None)
        # On Linux an accepted connection inherits it: one system call less for each.
        asyncio_private.set_nodelay(sock)
        self._core = _core.ListenerCore(sock.fileno(), self, self._shared, sock)
        if (answer_at := responder.get()) is not None:
            self._context.run(responder.set, None)
            if sslcontext is None:
                answer_at(self._core)

    def start(self) -> None:
        """Begin to accept; one of a pool-wide server does so when it is resumed."""
        if self._shared is not None:
            # Whoever came first would take all that waits to be accepted.
            self._core.pause()
        self._core.start(self._loop)
        if self._shared is not None:
            self._shared.add(self._loop._pool_index, self._core.token)

    def resume(self) -> None:
        """Begin to accept, as one of a pool-wide server. Any thread."""
        self._core.resume(self._loop)

    def stop(self) -> None:
        """Stop accepting for good. The socket stays open."""
        if self._shared is not None:
            self._shared.remove(self._loop._pool_index)
        self._core.stop(self._loop)

    def retire(self) -> None:
        """Accept nothing more, on whichever thread. Any thread."""
        self._core.retire()

    @staticmethod
    def leave(listeners: Sequence[Listener]) -> None:
        """Accept nothing more, and introduce every connection that was accepted for the loop.

        Called for all listeners of a server on one loop, on its thread, before the server is
        closed: a connection that another thread accepted and placed here is not lost with it.
        """
        for listener in listeners:
            listener._core.retire()
        for listener in listeners:
            if listener._shared is not None:
                listener._shared.remove(listener._loop._pool_index)
        for listener in listeners:
            listener._leaving = True
            listener._core.hand_over(listener._loop)

    def _connected(self, core: _core.StreamCore) -> None:
        """Introduce a new connection to a new protocol, on the loop's thread."""
        loop = self._loop
        context = self._context.copy()
        if loop.get_debug():
            own, peer = core.names()
            logger.debug(
                "%r got a new connection from %r on %r: fd=%d", self._server, peer, own, core.fd
            )
        protocol = None
        try:
            parameters = self._parameters
            secured = None if parameters is None else parameters.secure(core)
            if secured is not None:
                core, _ = secured
            elif self._sslcontext is not None:
                context.run(self._begin_tls, core)
                return
            protocol = context.run(self._protocol_factory)
            core = with_http(core, protocol)
            if secured is None or parameters is None:
                kind = HTTPTransport if speaks_http(protocol) else StreamTransport
                kind._accepted(loop, core, protocol, self._server, context)
            else:
                TLSTransport._accepted_securely(
                    loop, (core, secured[1]), protocol, self._server, context, parameters
                )
        except SystemExit, KeyboardInterrupt:
            core.retire(loop)
            core.close_descriptor()
            raise
        except BaseException as exc:
            core.retire(loop)
            core.close_descriptor()
            report: dict[str, Any] = {
                "message": "Error on transport creation for incoming connection",
                "exception": exc,
            }
            if protocol is not None:
                report["protocol"] = protocol
            loop.call_exception_handler(report)

    def _begin_tls(self, core: _core.StreamCore) -> None:
        """Let a task wait for the handshake: it ends with the program's other tasks."""
        handshake = self._handshake(core)
        if self._leaving:
            # The server takes no transports once it is closed: this one has to be there at once.
            asyncio.Task(handshake, loop=self._loop, eager_start=True)
        else:
            self._loop.create_task(handshake)

    async def _handshake(self, core: _core.StreamCore) -> None:
        """Make a TLS connection of an accepted one, as asyncio's ``_accept_connection2``."""
        loop = self._loop
        report: dict[str, Any] = {}
        try:
            try:
                protocol = report["protocol"] = self._protocol_factory()
                waiter: asyncio.Future[None] = loop.create_future()
                transport = report["transport"] = self._tls_transport(core, protocol, waiter)
            except BaseException:
                core.retire(loop)
                core.close_descriptor()
                raise
            # Whatever becomes of the handshake, the listener may end meanwhile.
            del self
            try:
                await waiter
            except BaseException:
                transport.close()
                # Its exception would keep this frame, and so the protocol, in a cycle.
                del waiter
                raise
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            if loop.get_debug():
                message = "Error on transport creation for incoming connection"
                loop.call_exception_handler({"message": message, "exception": exc, **report})

    def _tls_transport(
        self, core: _core.StreamCore, protocol: Any, waiter: asyncio.Future[None]
    ) -> asyncio.Transport:
        """Return what a protocol sees of an accepted connection, whose handshake begins."""
        loop = self._loop
        handshake_timeout, shutdown_timeout = self._timeouts
        if not self._makes_tls:
            # A subclass of the loop's class makes it, of a socket.
            _, peer = core.names()
            return loop._make_ssl_transport(
                _socket_of(core),
                protocol,
                self._sslcontext,
                waiter,
                server_side=True,
                extra={"peername": peer},
                server=self._server,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
            )
        tls = SSLProtocol(
            loop,
            protocol,
            self._sslcontext,
            waiter,
            server_side=True,
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )
        context = contextvars.copy_context()
        StreamTransport._accepted(loop, core, tls, self._server, context)
        return tls.app_transport

    def _failed(self, exc: OSError) -> None:
        """Report that nothing could be accepted, and try again in a second, as asyncio does."""
        loop = self._loop
        message = (
            "socket.accept() out of system resource"
            if exc.errno in _EXHAUSTED
            else "socket.accept() failed"
        )
        if self._core.holds:
            loop.call_later(constants.ACCEPT_RETRY_DELAY, self._core.resume, loop)
        else:
            self.stop()  # the program closed it
        loop.call_exception_handler(
            {"message": message, "exception": exc, "socket": trsock.TransportSocket(self._sock)}
        )


def _socket_of(core: _core.StreamCore) -> socket.socket:
    """Return the socket object of an accepted connection, which closes it from then on.

    Another listener of the same server, of another family, may have accepted it.
    """
    sock = socket.socket(fileno=core.fd)
    core.give_descriptor(sock)
    sock.setblocking(False)
    return sock
