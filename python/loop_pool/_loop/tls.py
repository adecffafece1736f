"""TLS on the native transports: asyncio's protocol, with a native fast path for each message.

``sslproto.SSLProtocol`` makes all decisions. While the connection is in its ordinary state (the
handshake is finished, neither side is paused, nothing waits to be encrypted), native code decrypts
received data for the protocol and encrypts written data (``src/py/tls/tls_methods.rs``). Otherwise
asyncio's own methods run, on the same attributes.

Compare these names of asyncio and ``ssl`` first for a new Python version:

==========================================  ======================================================
private name                                use here
==========================================  ======================================================
``SSLProtocol._state``,                     slots, as the native half reads them: what decides
``_app_protocol``,                          whether the short way may be taken, and what it takes
``_app_protocol_is_buffer``,                place on
``_app_reading_paused``,
``_app_writing_paused``, ``_incoming``,
``_incoming_high_water``, ``_outgoing``,
``_outgoing_high_water``,
``_ssl_reading_paused``,
``_ssl_writing_paused``, ``_transport``,
``_write_buffer_size``
``_set_app_protocol``,                      overridden: a TLS protocol over another is given bytes
``_get_app_transport``,                     overridden: it makes a transport of ours
``_app_transport``,
``_app_transport_created``
``_resume_reading``                         overridden: it resumes the transport below as well
``_do_read__copied``,                       overridden: they ask OpenSSL for no more than there is
``_do_read__buffered``,
``_app_protocol_get_buffer``,
``_app_protocol_buffer_updated``,
``_get_read_buffer_size``
``_set_state``,                             overridden: as asyncio's, in fewer steps where a
``_set_read_buffer_limits``,                handshake is made
``_set_write_buffer_limits``,
``_incoming_low_water``,
``_outgoing_low_water``,
``_process_outgoing``
``_do_read``, ``_do_write``,                called by them, or by the native half, as asyncio's own
``_do_handshake``, ``_write_backlog``,      methods call them
``_control_ssl_reading``,
``_call_eof_received``,
``_start_shutdown``, ``_fatal_error``
``_do_shutdown``,                           on the loop's thread alone, as all that reaches OpenSSL
``_force_close`` of the transport
``_on_handshake_complete``                  overridden: see there
``_wakeup_waiter``                          called when ``connection_made`` ends the program
``_SSLProtocolTransport`` and               base of what a program sees; its ``write`` is native
its ``_ssl_protocol``, ``_closed``
``SSLObject._sslobj``                       OpenSSL's side of it, without a Python frame between
``_sslobj``, ``_loop`` of ``SSLProtocol``   the ``SSLObject`` and the loop; the latter in a slot, as
                                            the native half asks it who calls
``BaseTransport._start_tls_compatible``,    ``start_tls``, which is asyncio's but for the class of
``StreamReaderProtocol._stream_reader``,    the protocol
``StreamReader._buffer``, ``_paused``,
``_protocol_paused`` of transports
==========================================  ======================================================

Threads: a connection belongs to the thread of its loop, as in asyncio. OpenSSL's objects are not
thread-safe, so every method that uses them first checks the calling thread, as the methods of the
transports do (``thread_affinity``).
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from asyncio import constants, sslproto
from typing import TYPE_CHECKING, Any

from .. import _core
from .thread_affinity import as_bytes, elsewhere, on_loop_thread

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = 16 * 1024
"""The most bytes of content that a TLS record carries, and so the most that one read can bring."""

_SSLProtocol: Any = sslproto.SSLProtocol
"""asyncio's own, of whose private names the type checker knows nothing."""
_AGAIN = sslproto.SSLAgainErrors
_UNWRAPPED = sslproto.SSLProtocolState.UNWRAPPED
_DO_HANDSHAKE = sslproto.SSLProtocolState.DO_HANDSHAKE
_WRAPPED = sslproto.SSLProtocolState.WRAPPED
_FLUSHING = sslproto.SSLProtocolState.FLUSHING
_SHUTDOWN = sslproto.SSLProtocolState.SHUTDOWN
_READ_MARKS = sslproto.add_flowcontrol_defaults(
    None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ
)
_WRITE_MARKS = sslproto.add_flowcontrol_defaults(
    None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE
)
"""The marks of flow control of a connection whose program sets none, as (high, low), in bytes."""


class SSLTransport(sslproto._SSLProtocolTransport):
    """What a program sees of a TLS connection. Made by the loop's methods, as asyncio's are."""

    __slots__ = ("_ssl_protocol",)

    _closed = True
    """Until a protocol has it: so that one which was never used is not said to be left open."""

    if TYPE_CHECKING:
        _ssl_protocol: SSLProtocol

    _write_otherwise = sslproto._SSLProtocolTransport.write
    _elsewhere = elsewhere


class SSLProtocol(_SSLProtocol):  # type: ignore[misc]
    """asyncio's TLS protocol, which a native transport gives bytes and no buffer to fill.

    A transport of another make takes it for the ``asyncio.BufferedProtocol`` that it is. Its buffer
    is made when one asks for it: 256 KiB that most connections never need.
    """

    if TYPE_CHECKING:
        _app_transport: Any
        _app_transport_created: bool
        _openssl: Any
        _state: Any
        max_size: int
    else:
        __slots__ = (
            "_app_protocol",
            "_app_protocol_buffer_updated",
            "_app_protocol_get_buffer",
            "_app_protocol_is_buffer",
            "_app_reading_paused",
            "_app_writing_paused",
            "_incoming",
            "_incoming_high_water",
            "_loop",
            "_openssl",
            "_outgoing",
            "_outgoing_high_water",
            "_ssl_reading_paused",
            "_ssl_writing_paused",
            "_state",
            "_transport",
            "_write_buffer_size",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The size of the buffer that asyncio makes at once; `get_buffer` makes it larger.
        self.max_size = 0
        super().__init__(*args, **kwargs)
        del self.max_size
        sslobj = self._sslobj
        # A class of the program's own (`SSLContext.sslobject_class`) may do more than OpenSSL.
        plain: Any = sslobj if type(sslobj) is ssl.SSLObject else None
        self._openssl = None if plain is None else plain._sslobj

    @property
    def app_transport(self) -> SSLTransport:
        """What the program sees; before the connection is lost."""
        transport: SSLTransport = self._app_transport
        return transport

    def _set_app_protocol(self, app_protocol: Any) -> None:
        super()._set_app_protocol(app_protocol)
        if isinstance(app_protocol, SSLProtocol):
            self._app_protocol_is_buffer = False

    def _get_app_transport(self) -> Any:
        if self._app_transport is None and not self._app_transport_created:
            self._app_transport = SSLTransport(self._loop, self)
            self._app_transport_created = True
        return super()._get_app_transport()

    # -- what each handshake does, in fewer steps -------------------------------------------------

    def _set_state(self, new_state: Any) -> None:
        if (
            new_state is _UNWRAPPED
            or (new_state is _WRAPPED and self._state is _DO_HANDSHAKE)
            or (new_state is _DO_HANDSHAKE and self._state is _UNWRAPPED)
            or (new_state is _FLUSHING and self._state is _WRAPPED)
            or (new_state is _SHUTDOWN and self._state is _FLUSHING)
        ):
            self._state = new_state
        else:
            super()._set_state(new_state)

    def _set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None and low is None:
            self._incoming_high_water, self._incoming_low_water = _READ_MARKS
        else:
            super()._set_read_buffer_limits(high, low)

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None and low is None:
            self._outgoing_high_water, self._outgoing_low_water = _WRITE_MARKS
        else:
            super()._set_write_buffer_limits(high, low)

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        try:
            super()._on_handshake_complete(handshake_exc)
        except SystemExit, KeyboardInterrupt:
            if self._state is _WRAPPED:  # `connection_made` raised it: the connection goes on
                self._wakeup_waiter()
                self._loop.call_soon(self._do_read)
            raise
        finally:
            # Its traceback leads to this frame, and so it would be in a cycle.
            del handshake_exc

    # -- for the native half ---------------------------------------------------------------------

    _process_outgoing_otherwise = _SSLProtocol._process_outgoing
    _elsewhere = elsewhere

    def _receive(self, data: bytes) -> None:
        """Take encrypted bytes while something is unusual."""
        self._incoming.write(data)
        if self._state is _DO_HANDSHAKE:
            self._do_handshake()
        else:
            # As if the transport had put them where asyncio's method looks for them.
            self.buffer_updated(0)

    def _settle(self) -> None:
        """Do what ``_do_read`` does when the protocol has what came."""
        if self._write_backlog:
            self._do_write()
        else:
            self._process_outgoing()
        self._control_ssl_reading()

    def _read_again(self) -> None:
        """Let others have a turn, then go on: there may be more than the buffer took."""
        self._loop.call_soon(self._do_read)

    def _end(self) -> None:
        """Tell the protocol that the peer has closed, and close."""
        try:
            self._call_eof_received()
        finally:
            self._start_shutdown()

    def _fail(self, exc: BaseException) -> None:
        """End the connection by an error, unless it is one that ends the program."""
        try:
            raise exc
        except Exception as error:
            self._fatal_error(error, "Fatal error on SSL protocol")

    # -- reading ---------------------------------------------------------------------------------

    def _resume_reading(self) -> None:
        # What comes right behind a handshake is delivered before `start_tls` returns: a protocol
        # that pauses then still calls the transport below, and resumes here, on the one it got.
        super()._resume_reading()
        self._resume_transport()

    def _resume_transport(self) -> None:
        """Let the transport below read, unless enough waits to be decrypted."""
        if self._transport is not None and not self._ssl_reading_paused:
            self._transport.resume_reading()

    def _has_more(self) -> bool:
        """Whether there is something to decrypt, or to take of what was decrypted.

        To be told so by an exception costs as much as a record. OpenSSL reads no further than the
        record at hand, so nothing is hidden in it.
        """
        if self._incoming.pending or self._sslobj.pending():
            return True
        # rustls decrypts all that it is given, and so it may have come to the peer's end.
        has_more = getattr(self._openssl, "has_more", None)
        return has_more is not None and bool(has_more())

    def _do_read__copied(self) -> None:
        if self._openssl is None:
            super()._do_read__copied()
            return
        chunks: list[bytes] = []
        ended = False
        try:
            while not ended and self._has_more():
                chunk = self._sslobj.read(RECORD)
                if chunk:
                    chunks.append(chunk)
                else:
                    ended = True
        except _AGAIN:
            pass
        if chunks:
            self._app_protocol.data_received(b"".join(chunks))
        if ended:
            self._end()

    def _do_read__buffered(self) -> None:
        if self._openssl is None:
            super()._do_read__buffered()
            return
        if not self._has_more():
            return
        lent = self._app_protocol_get_buffer(self._get_read_buffer_size())
        offset = 0
        ended = False
        with memoryview(lent) as buffer:
            wanted = len(buffer)
            if not wanted:
                raise RuntimeError("get_buffer() returned an empty buffer")
            try:
                while offset < wanted and not ended and self._has_more():
                    count = self._sslobj.read(wanted - offset, buffer[offset:])
                    offset += count
                    ended = not count
            except _AGAIN:
                pass
        if offset == wanted:
            self._read_again()
        if offset:
            self._app_protocol_buffer_updated(offset)
        if ended:
            self._end()


_OF_TRANSPORTS = (
    "_force_close",
    "abort",
    "close",
    "pause_reading",
    "resume_reading",
    "set_protocol",
    "set_read_buffer_limits",
    "set_write_buffer_limits",
)
_OF_PROTOCOLS = (
    "buffer_updated",
    "connection_lost",
    "connection_made",
    "eof_received",
    "pause_writing",
    "resume_writing",
)
"""The methods by which a program, and the transport below, change a connection."""
_OF_OPENSSL = (
    "_do_handshake",
    "_do_read",
    "_do_read__buffered",
    "_do_read__copied",
    "_do_shutdown",
    "_do_write",
    "_receive",
)
"""The methods that reach OpenSSL's memory, whoever calls them. None is given an exception: a frame
of ours that keeps its arguments would keep that in a cycle."""


def _inherited(cls: type, name: str) -> Callable[..., Any]:
    """Return a method that calls asyncio's of that name, whichever that is at the time."""

    @functools.wraps(getattr(cls, name))
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), name)(*args, **kwargs)

    return method


for _class, _names in ((SSLTransport, _OF_TRANSPORTS), (SSLProtocol, _OF_PROTOCOLS)):
    for _name in _names:
        setattr(_class, _name, on_loop_thread(_inherited(_class, _name)))
for _name in _OF_OPENSSL:
    _own = vars(SSLProtocol).get(_name) or _inherited(SSLProtocol, _name)
    setattr(SSLProtocol, _name, on_loop_thread(_own))
_writelines: Any = on_loop_thread(_inherited(SSLTransport, "writelines"), as_bytes)
SSLTransport.writelines = _writelines  # type: ignore[method-assign]


async def start_tls(
    self: asyncio.AbstractEventLoop,
    transport: Any,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> asyncio.Transport:
    """Upgrade a connection to TLS; return the transport to use from then on.

    As ``asyncio.loop.start_tls``. On the loop's thread.

    Raises:
        TypeError: ``sslcontext`` is no ``ssl.SSLContext``, or the transport cannot be upgraded.
        ssl.SSLError, OSError: the handshake failed.
    """
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(
            f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
        )
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter: asyncio.Future[None] = self.create_future()
    tls = SSLProtocol(
        self,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        call_connection_made=False,
    )
    # So that nothing comes before `connection_made`.
    transport.pause_reading()
    if server_side and isinstance(protocol, asyncio.StreamReaderProtocol):
        # What came after the plain text that the program has read belongs to the handshake.
        reader = getattr(protocol, "_stream_reader", None)
        if reader is not None and reader._buffer:
            tls._incoming.write(reader._buffer)
            reader._buffer.clear()
            # It has room again, and the transport resumes in any case.
            reader._paused = False
    transport.set_protocol(tls)
    if getattr(transport, "_protocol_paused", False):
        # The transport will say `resume_writing` to the TLS protocol, which passes it on.
        tls._ssl_writing_paused = tls._app_writing_paused = True
    made = self.call_soon(tls.connection_made, transport)
    resumed = self.call_soon(tls._resume_transport)
    try:
        await waiter
    except BaseException:
        transport.close()
        made.cancel()
        resumed.cancel()
        # Its exception would keep this frame, and so the protocol, in a cycle.
        del waiter
        raise
    return tls.app_transport


def is_ending(transport: Any) -> bool:
    """Whether a transport of TLS drops what is written to it, because the peer has sent its end."""
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    return protocol is not None and protocol._state is not _WRAPPED


_core._install_tls_methods(SSLProtocol, SSLTransport, _WRAPPED, _AGAIN, RECORD)


def unsent(transport: Any) -> int:
    """Return the number of bytes that the peer has not been sent. Loop's thread.

    A transport for TLS counts only what is not encrypted yet, and lets go of its protocol when it
    is closed twice: then nothing is known, which is 0.
    """
    tls = getattr(transport, "_ssl_protocol", transport)
    if tls is None:
        return 0
    size: int = transport.get_write_buffer_size()
    if tls is not transport and tls._transport is not None:
        size += tls._outgoing.pending + tls._transport.get_write_buffer_size()
    return size
