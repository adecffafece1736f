"""TLS transports without asyncio's ``sslproto``: the bytes of a native transport pass rustls.

For the contexts of ``loop_pool.tls`` that are native (``tls_context``). The handshake, encryption
and decryption are below Python, in whichever thread works on the transport; here is what happens
once per connection, and at its end. What a protocol sees is what it sees of asyncio's TLS
transports: it is introduced when the handshake is finished, and never hears of a connection whose
handshake failed.

Compare these names of ``ssl`` first for a new Python version:

==========================  ======================================================================
private name                use here
==========================  ======================================================================
``SSLObject._sslobj``       set: what the transport's ``ssl_object`` asks, natively answered
``_encode_hostname``,       as ``SSLContext.wrap_bio`` makes of a server's name what OpenSSL is
``_wrap_bio``               given; a class with its own is left to OpenSSL
==========================  ======================================================================
"""

from __future__ import annotations

import errno
import ssl
import time
import warnings
import weakref
from asyncio import constants, sslproto
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .http_transport import with_http
from .plain_sockets import is_plain
from .thread_affinity import on_loop_thread
from .tls_context import SSLContext, own_connections
from .transport_base import logger
from .transports import StreamTransport

if TYPE_CHECKING:
    import asyncio
    import contextvars
    import socket
    from collections.abc import Callable

    from .._core import StreamCore, TLSSettings
    from .loop_base import LoopBase

_LIMITS = sslproto.add_flowcontrol_defaults(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
"""The marks of flow control of a connection whose program sets none, as (high, low), in bytes."""
_ANSWERED = frozenset(("cipher", "compression", "peercert", "ssl_object"))
"""What ``get_extra_info`` knows once the handshake is finished."""


class TLSParameters:
    """What a TLS transport is made with: of a server, the same for all its connections."""

    __slots__ = (
        "context",
        "handshake_timeout",
        "server_hostname",
        "server_side",
        "shutdown_timeout",
    )

    def __init__(
        self,
        context: SSLContext,
        server_side: bool,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
    ) -> None:
        """Check the time-outs, in seconds, as asyncio does.

        Raises:
            ValueError: one is not positive.
        """
        for name, timeout in (
            ("ssl_handshake_timeout", handshake_timeout),
            ("ssl_shutdown_timeout", shutdown_timeout),
        ):
            if timeout is not None and timeout <= 0:
                raise ValueError(f"{name} should be a positive number, got {timeout}")
        self.context = context
        self.server_side = server_side
        self.server_hostname = None if server_side else server_hostname
        self.handshake_timeout = (
            constants.SSL_HANDSHAKE_TIMEOUT if handshake_timeout is None else handshake_timeout
        )
        self.shutdown_timeout = (
            constants.SSL_SHUTDOWN_TIMEOUT if shutdown_timeout is None else shutdown_timeout
        )

    def secure(self, core: StreamCore, holder: Any = None) -> tuple[StreamCore, TLSSettings] | None:
        """Return a native half whose bytes pass rustls, in place of one that was not used yet.

        And the settings that the connection is made with.

        Args:
            core: the native half.
            holder: the object that closes the descriptor, if the native half does not.

        Returns:
            ``None`` if OpenSSL has to make this connection.
        """
        context, hostname = self.context, self.server_hostname
        if own_connections(context) is not None:
            return None
        settings = context._settings_for(self.server_side)
        if isinstance(settings, str):
            return None
        if hostname is not None:
            # What is wrong with a name, OpenSSL says.
            if not hostname or hostname[0] == "." or hostname[-1] == ".":
                return None
            kind: Any = type(context)
            hostname = kind._encode_hostname(context, hostname)
        secured = _core._tls_stream(core, settings, hostname, holder)
        return None if secured is None else (secured, settings)


class TLSTransport(StreamTransport):
    """A TLS connection. Made by the loop's methods, as asyncio's transports are."""

    __slots__ = ("_parameters", "_settings", "_timer")

    _sendfile_compatible = asyncio_private.SendfileMode.FALLBACK
    _lost_write_warning = "SSL connection is closed"
    _read_error = "Fatal error on SSL protocol"

    # Of few connections at a time, or at their end.
    _began = 0.0
    _has_peer_ended = False
    _knows_end = False
    _read_limits = sslproto.add_flowcontrol_defaults(
        None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ
    )

    _shut: Callable[[], bool | None]
    _parameters: TLSParameters
    _settings: TLSSettings
    _timer: asyncio.TimerHandle | None
    """Of the handshake, or of the peer's word that it sends no more."""

    def __init__(  # noqa: PLR0917 - as `StreamTransport`'s
        self,
        loop: LoopBase,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        secured: tuple[StreamCore, TLSSettings],
        parameters: TLSParameters,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        core = self._take(secured, parameters)
        self._begin_on_socket(loop, sock, protocol, waiter, extra, server, context, core)
        self._begin_handshake()

    @classmethod
    def _accepted_securely(  # noqa: PLR0917
        cls,
        loop: LoopBase,
        secured: tuple[StreamCore, TLSSettings],
        protocol: asyncio.BaseProtocol,
        server: Any,
        context: contextvars.Context,
        parameters: TLSParameters,
    ) -> None:
        """Make the transport of an accepted connection, whose handshake begins."""
        self = cls.__new__(cls)
        core = self._take(secured, parameters)
        self._begin(loop, None, protocol, None, None, server, context, core)
        self._join()
        self._begin_handshake()

    def _take(
        self, secured: tuple[StreamCore, TLSSettings], parameters: TLSParameters
    ) -> StreamCore:
        self._timer = None
        self._parameters = parameters
        core, self._settings = secured
        return core

    def _begin_handshake(self) -> None:
        high, low = _LIMITS
        self._core.set_limits(low, high)
        if self._loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self._began = time.monotonic()
        self._set_timer(self._parameters.handshake_timeout, TLSTransport._handshake_timed_out)

    def _set_timer(self, timeout: float, call: Callable[[TLSTransport], None]) -> None:
        # Weakly: whoever closes the loop frees the transport with it.
        self._timer = self._loop.call_later(timeout, _call, weakref.ref(self), call)

    def _handshake_timed_out(self) -> None:
        timeout = self._parameters.handshake_timeout
        self._fatal_error(
            ConnectionAbortedError(
                f"SSL handshake is taking longer than {timeout} seconds: aborting the connection"
            )
        )

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # -- for the native half ---------------------------------------------------------------------

    def _opened(self) -> None:
        """Introduce the transport to its protocol: the handshake is finished."""
        self._cancel_timer()
        if self._began:
            took = (time.monotonic() - self._began) * 1e3
            logger.debug("%r: SSL handshake took %.1f ms", self, took)
        try:
            self._protocol.connection_made(self)
        except SystemExit, KeyboardInterrupt:  # the connection goes on
            self._wake_waiter()
            raise
        # Of any other exception whoever waits hears when the connection is lost.
        self._wake_waiter()

    def _read_end(self) -> None:
        if not self._core.introduced:
            self._fatal_error(_reset())
            return
        self._has_peer_ended = True
        is_shut = self._core.closing
        try:
            self._tell_end()
        finally:
            if is_shut:
                self._end()
            else:
                self.close()

    def _tell_end(self) -> None:
        """Tell the protocol that the peer sends no more; once."""
        if self._knows_end or self._core.lost:
            return
        try:
            keep_open = self._context.run(self._protocol.eof_received)
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Error calling eof_received()")
        else:
            if keep_open:
                logger.warning("returning true from eof_received() has no effect when using ssl")
        self._knows_end = True

    def _log_end(self) -> None:
        missing = "" if self._core.peer_closed else " without a close_notify"
        logger.debug("%r received EOF%s", self, missing)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if not self._core.introduced:
            message = "SSL handshake failed"
            if isinstance(exc, ssl.CertificateError):
                message = "SSL handshake failed on verifying the certificate"
            elif isinstance(exc, ssl.SSLEOFError):
                exc = _reset()
        elif message.startswith("Fatal error: protocol."):
            message = self._read_error
        super()._fatal_error(exc, message)

    # -- the end ---------------------------------------------------------------------------------

    @on_loop_thread
    def close(self) -> None:
        """Close when everything is written, and the peer has said that it sends no more.

        As asyncio's TLS transports: what the peer still sends is dropped, and it is waited for no
        longer than ``ssl_shutdown_timeout``.
        """
        if not self._core.introduced:
            self._force_close(None)
            return
        is_peer_closed = self._shut()
        if is_peer_closed is None:
            return
        if is_peer_closed or self._has_peer_ended:
            self._end()
        else:
            self._limit_shutdown()

    def _end(self) -> None:
        if self._core.close(self._loop):
            self._lose_soon(None)
        else:
            # A peer that does not read what is queued is not waited for for ever.
            self._limit_shutdown()

    @property
    def _for_server(self) -> _Client:
        return _Client(self)

    @on_loop_thread
    def _end_at_once(self) -> None:
        """Close when everything is written, without waiting for the peer's word."""
        if self._core.introduced:
            self._shut()
            self._end()
        else:
            self._force_close(None)

    def _limit_shutdown(self) -> None:
        if self._timer is None and not self._core.lost:
            timeout = self._parameters.shutdown_timeout
            self._set_timer(timeout, TLSTransport._shutdown_timed_out)

    def _shutdown_timed_out(self) -> None:
        self._force_close(TimeoutError("SSL shutdown timed out"))

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_timer()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(_reset() if exc is None else exc)
        if not self._core.introduced:
            self._give_up(exc, is_accepted=waiter is None)
        super()._call_connection_lost(exc)

    def _give_up(self, exc: BaseException | None, is_accepted: bool) -> None:
        """Let the protocol never hear of the connection."""
        protocol, self._protocol = self._protocol, None
        if is_accepted and exc is not None and self._loop.get_debug():
            self._loop.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                    "transport": self,
                    "protocol": protocol,
                }
            )

    def __del__(self, _warn: Any = warnings.warn) -> None:
        core = getattr(self, "_core", None)
        if core is not None and not core.introduced:
            # The loop was closed before the handshake was finished: nobody could have closed it.
            super().__del__(_say_nothing)
        else:
            super().__del__(_warn)

    # -- asyncio.Transport -----------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio's TLS transports tell, or what the socket does. Any thread.

        Of TLS: ``sslcontext``, and after the handshake ``ssl_object``, ``peercert``, ``cipher``
        and ``compression``.
        """
        if name == "sslcontext":
            return self._parameters.context
        if name not in _ANSWERED or not self._core.introduced:
            return super().get_extra_info(name, default)
        connection = self._ssl_object
        if name == "ssl_object":
            return connection
        return connection.getpeercert() if name == "peercert" else getattr(connection, name)()

    @property
    def _ssl_object(self) -> ssl.SSLObject:
        found = self.__dict__.get("_made_ssl_object")
        if found is None:
            parameters = self._parameters
            made: Any = ssl.SSLObject.__new__(ssl.SSLObject)
            made._sslobj = _core.TLSStreamInfo(
                self._core, self._settings, parameters.context, parameters.server_hostname
            )
            found = self.__dict__.setdefault("_made_ssl_object", made)
        connection: ssl.SSLObject = found
        return connection

    def can_write_eof(self) -> bool:
        """Return ``False``: asyncio's TLS has no half-closed connections."""
        return False

    def write_eof(self) -> None:
        """Raise ``NotImplementedError``, as asyncio's TLS transports do."""
        raise NotImplementedError

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks that :meth:`get_read_buffer_limits` returns, in bytes.

        Whatever they are: of what a protocol that has paused does not want yet, no more than some
        hundred kilobytes are decrypted, and the rest is left to the peer.

        Raises:
            ValueError: unless ``high >= low >= 0``.
        """
        self._read_limits = sslproto.add_flowcontrol_defaults(
            high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ
        )

    def get_read_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high), in bytes."""
        high, low = self._read_limits
        return low, high

    def get_read_buffer_size(self) -> int:
        """Return how many bytes are decrypted that the protocol has not been given. Any thread."""
        return self._core.ahead


class _Client:
    """A TLS transport as its server closes it: as asyncio's, which closes what is below TLS."""

    __slots__ = ("abort", "close")

    def __init__(self, transport: TLSTransport) -> None:
        self.abort = transport.abort
        self.close = transport._end_at_once


def make_native(  # noqa: PLR0917
    loop: LoopBase,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    sslcontext: Any,
    side: tuple[bool, str | None],
    timeouts: tuple[float | None, float | None],
    waiter: asyncio.Future[None] | None,
    extra: dict[str, Any] | None,
    server: Any,
    context: contextvars.Context | None,
) -> TLSTransport | None:
    """Return the transport of a socket, if rustls can make its connection.

    ``side``: whether it is a server's, and the name of the server; ``timeouts``: of the handshake
    and the shutdown, in seconds. The others are those of the loop's ``_make_ssl_transport``.
    """
    if not (isinstance(sslcontext, SSLContext) and is_plain(sock)):
        return None
    parameters = TLSParameters(sslcontext, *side, *timeouts)
    secured = parameters.secure(_core.StreamCore(sock.fileno(), True, True, holder=sock), sock)
    if secured is None:
        return None
    secured = with_http(secured[0], protocol, sock), secured[1]
    return TLSTransport(loop, sock, protocol, secured, parameters, waiter, extra, server, context)


def _call(ref: weakref.ref[TLSTransport], call: Callable[[TLSTransport], None]) -> None:
    transport = ref()
    if transport is not None:
        call(transport)


def _say_nothing(*_: object, **__: object) -> None:
    pass


def _reset() -> ConnectionResetError:
    text = "the connection ended during the TLS handshake"
    return ConnectionResetError(errno.ECONNRESET, text)


_core._install_filtered_methods(TLSTransport)
