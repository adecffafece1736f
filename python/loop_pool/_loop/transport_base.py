"""The base classes of all transports: asyncio's classes on native halves.

What happens once per connection is here; per-message methods (``write``, ``pause_reading``, ...)
are native and added to the classes in their modules. Slots hold every Python reference, so that the
garbage collector sees them.

Threads: a transport belongs to its loop's thread; see ``thread_affinity`` for calls from others.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import warnings
from asyncio import constants
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .thread_affinity import elsewhere, on_loop_thread

if TYPE_CHECKING:
    from .._core import DatagramCore, StreamCore
    from .loop_base import LoopBase

logger = logging.getLogger("asyncio")

SLOTS = (
    "__dict__",
    "__weakref__",
    "_context",
    "_core",
    "_protocol",
    "_server",
)
"""The same for all classes, after those of asyncio's ``_FlowControlMixin`` (``_loop`` is one of
them), as the native half finds them by their place."""


if TYPE_CHECKING:
    _Parent = asyncio.Transport
else:
    _Parent = object


class Base(_Parent):
    """What a transport does at its beginning and its end, whatever it is made of."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _read_error = "Fatal read error on socket transport"

    # What few connections need at a time stands in their `__dict__`, made when it is needed.
    _sock: Any = None
    _waiter: asyncio.Future[None] | None = None

    if TYPE_CHECKING:
        _context: contextvars.Context
        _core: StreamCore | DatagramCore
        _extra: dict[str, Any] | None
        _loop: LoopBase
        _protocol: Any
        _server: Any

    def _begin(  # noqa: PLR0917
        self,
        loop: LoopBase,
        sock: Any,
        protocol: Any,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
        server: Any,
        context: contextvars.Context | None,
        core: StreamCore | DatagramCore,
    ) -> None:
        self._extra = extra
        self._loop = loop
        if sock is not None:
            self._sock = sock
        self._server = server
        if waiter is not None:
            self._waiter = waiter
        self._context = contextvars.copy_context() if context is None else context
        self._core = core
        self._set_protocol(protocol)
        # As asyncio, who makes the transport hears of a protocol that is none.
        protocol.connection_made  # noqa: B018

    def _join(self) -> None:
        """Register with the loop, last of all: from then on it has turns."""
        server, self._server = self._server, None
        if server is not None:
            asyncio_private.attach(server, self)
        try:
            self._core.register(self._loop, self)
        except BaseException:
            if server is not None:
                asyncio_private.detach(server, self)
            raise
        self._server = server

    def _wake_waiter(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            asyncio_private.set_result_unless_cancelled(waiter, None)

    # -- asyncio.BaseTransport -------------------------------------------------------------------

    @on_loop_thread
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the transport another protocol. As ``asyncio.BaseTransport.set_protocol``."""
        self._set_protocol(protocol)

    def _set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    @property
    def _fd(self) -> int:
        return self._core.fd

    def get_protocol(self) -> Any:
        """Return the protocol, or ``None`` once the connection is lost. Any thread."""
        return self._protocol

    @on_loop_thread
    def close(self) -> None:
        """Close when everything queued is written. As ``asyncio.BaseTransport.close``."""
        if self._core.close(self._loop):
            self._lose_soon(None)

    # -- errors and the end: the native half says what comes next (`src/transport/ending.rs`) ------

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        try:
            if not isinstance(exc, OSError):
                self._report(exc, message)
            elif self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        finally:
            # Whatever the exception handler lets through: nothing more would be heard of it.
            self._force_close(exc)

    def _report(self, exc: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    @on_loop_thread
    def _force_close(self, exc: BaseException | None) -> None:
        if self._core.abort():
            self._lose_soon(exc)

    def _lose_soon(self, exc: BaseException | None) -> None:
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)
        # The program may close the descriptor itself, and its number may be another's at once.
        self._core.leave(self._loop)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        self._remember_names()
        self._core.finish(self._loop)
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(exc)
        finally:
            try:
                self._close_descriptor()
            finally:
                self._protocol = None
                server, self._server = self._server, None
                if server is not None:
                    asyncio_private.detach(server, self)

    def _remember_names(self) -> None:
        """Note what cannot be asked of a closed descriptor."""

    def _close_descriptor(self) -> None:
        sock = self._sock
        if sock is not None:
            self._sock = None
            sock.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        core = getattr(self, "_core", None)
        if core is None or self._is_closed():
            return
        try:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        finally:
            # Whatever becomes of the warning: the descriptor's number is to be free.
            core.retire(self._loop)
            self._close_descriptor()
            server, loop = self._server, self._loop
            if server is None:
                pass
            elif loop.is_running() and not _core._is_owner(loop):
                # A finalizer runs on any thread, and whoever waits for the server does not.
                loop.call_soon_threadsafe(asyncio_private.detach_gone, server)
            else:
                asyncio_private.detach(server, self)

    def _is_closed(self) -> bool:
        return self._sock is None

    def _kept(self, strongly: bool) -> None:
        """Let the server do as the loop, which now keeps the transport strongly, or weakly."""
        server = self._server
        if server is not None:
            asyncio_private.keep_client(server, self, strongly)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def _paused(self) -> bool:
        """As of asyncio's own transports: there are programs that wait for it to be set."""
        return self._core.paused

    def _read_end(self) -> None:
        """Tell the protocol that nothing more will come, and close if it does not object."""
        try:
            keep_open = self._context.run(self._protocol.eof_received)
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    # -- threads, messages -----------------------------------------------------------------------

    _elsewhere = elsewhere

    def _log(self, message: str) -> None:
        logger.debug(message, self)

    def _log_end(self) -> None:
        logger.debug("%r received EOF", self)

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)
        if core is None:
            return f"<{type(self).__name__} uninitialised>"
        info = [type(self).__name__]
        is_closed = self._is_closed()
        if is_closed:
            info.append("closed")
        elif core.closing:
            info.append("closing")
        info.append(f"fd={core.fd}")
        if not (is_closed or self._loop.is_closed()):
            info.extend(self._describe())
        return f"<{' '.join(info)}>"

    def _describe(self) -> list[str]:
        return [f"read={'polling' if self._core.reading else 'idle'}"]


class Writing(Base):
    """What a transport does that can be written to."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _empty_waiter: asyncio.Future[None] | None = None
    _lost_writes = 1
    """Calls that found the connection gone; the one that lost it is the first."""
    _lost_write_warning = "socket.send() raised exception."
    _write_error = "Fatal write error on socket transport"

    def abort(self) -> None:
        """Close at once; what is queued is lost. As ``asyncio.WriteTransport.abort``."""
        self._force_close(None)

    def _write_failed(self, exc: BaseException) -> None:
        self._fatal_error(exc, self._write_error)
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)

    def _drained(self) -> None:
        """Go on when everything queued is written."""
        waiter = self._empty_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._core.drained():
            self._context.run(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            super()._call_connection_lost(exc)
        finally:
            waiter = self._empty_waiter
            if waiter is not None and not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _lost_write(self) -> None:
        """Warn of writes to a connection that is gone, once they become many, as asyncio does."""
        if self._lost_writes >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning(self._lost_write_warning)
        self._lost_writes += 1

    @property
    def _protocol_paused(self) -> bool:
        return self._core.protocol_paused

    @property
    def _low_water(self) -> int:
        return self._core.limits[0]

    @property
    def _high_water(self) -> int:
        return self._core.limits[1]

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high), in bytes. Any thread."""
        return self._core.limits

    @on_loop_thread
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of flow control. As ``asyncio.WriteTransport``'s method.

        Raises:
            ValueError: unless ``high >= low >= 0``.
        """
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        if self._core.set_limits(int(min(low, sys.maxsize)), int(min(high, sys.maxsize))):
            self._pause_protocol()

    def _pause_protocol(self) -> None:
        self._core.protocol_paused = True
        self._tell_protocol("pause_writing")

    def _resume_protocol(self) -> None:
        self._core.protocol_paused = False
        self._context.run(self._tell_protocol, "resume_writing")

    def _tell_protocol(self, method: str) -> None:
        try:
            getattr(self._protocol, method)()
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            self._report(exc, f"protocol.{method}() failed")

    def _describe(self) -> list[str]:
        state = "polling" if self._core.queued else "idle"
        return [*super()._describe(), f"write=<{state}, bufsize={self.get_write_buffer_size()}>"]
