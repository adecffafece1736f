"""Pipe transports: one end each, for ``connect_read_pipe`` and ``connect_write_pipe``.

Subprocesses use them. The native half is that of a stream, with ``read`` and ``write``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .descriptors import evict
from .transport_base import SLOTS, Base, Writing, logger

if TYPE_CHECKING:
    from .._core import StreamCore
    from .loop_base import LoopBase


class _Pipe(Base):
    """What both ends have in common."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _duplicate = -1
    """A second descriptor, for when the loop already waits for the pipe's own."""

    if TYPE_CHECKING:
        _core: StreamCore

    def _open(  # noqa: PLR0917 - as asyncio's
        self,
        loop: LoopBase,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
        reads: bool,
        watches: bool,
    ) -> None:
        fd = pipe.fileno()
        os.set_blocking(fd, False)
        holder = pipe
        evict(loop, fd)
        if loop._transport_at(fd) is not None or loop._registered(fd) is not None:
            holder = None
            # One terminal may be given for both directions: the reactor knows each by its number.
            fd = self._duplicate = os.dup(fd)
        extra = {} if extra is None else extra
        extra["pipe"] = pipe
        core = _core.StreamCore(fd, False, reads, watches, holder)
        self._begin(loop, pipe, protocol, waiter, extra, None, None, core)
        self._join()

    def _close_descriptor(self) -> None:
        try:
            super()._close_descriptor()
        finally:
            if self._duplicate != -1:
                fd, self._duplicate = self._duplicate, -1
                os.close(fd)

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)
        if core is None:
            return f"<{type(self).__name__} uninitialised>"
        info = [type(self).__name__]
        if self._is_closed():
            info.append("closed")
        elif core.closing:
            info.append("closing")
        info.append(f"fd={core.fd}")
        if self._is_closed():
            info.append("closed")
        elif self._loop.is_closed():
            info.append("open")
        else:
            info.extend(self._describe())
        return f"<{' '.join(info)}>"


class _ReadTransport(asyncio.ReadTransport):
    """Has its slots where all transports have theirs."""

    __slots__ = asyncio_private.FlowControlMixin.__slots__


class ReadPipeTransport(_Pipe, _ReadTransport):
    """The end of a pipe that is read. Made by ``connect_read_pipe``.

    Raises:
        ValueError: it is neither a pipe, nor a socket, nor a character device.
    """

    __slots__ = SLOTS

    _read_error = "Fatal read error on pipe transport"

    max_size = 256 * 1024

    def __init__(
        self,
        loop: LoopBase,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        mode = os.fstat(pipe.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError("Pipe transport is for pipes/sockets only.")
        self._open(loop, pipe, protocol, waiter, extra, True, False)

    def _join(self) -> None:
        if not self._core.register(self._loop, self):
            # A device such as /dev/null, of which nothing can be waited for. As in asyncio, the
            # protocol gets its transport, and the exception handler the error.
            self._loop.call_soon(self._add_reader)

    def _add_reader(self) -> None:
        if self.is_reading():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _log_end(self) -> None:
        logger.info("%r was closed by peer", self)

    def _read_end(self) -> None:
        loses_soon = self._core.close(self._loop)
        self._loop.call_soon(self._protocol.eof_received, context=self._context)
        if loses_soon:
            self._lose_soon(None)

    def _fatal_error(
        self, exc: BaseException, message: str = "Fatal error on pipe transport"
    ) -> None:
        try:
            if not (isinstance(exc, OSError) and exc.errno == errno.EIO):
                self._report(exc, message)
            elif self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        finally:
            self._force_close(exc)

    def _describe(self) -> list[str]:
        return ["polling" if self._core.reading else "idle"]


class WritePipeTransport(_Pipe, Writing, asyncio_private.FlowControlMixin):
    """The end of a pipe that is written. Made by ``connect_write_pipe``.

    Raises:
        ValueError: it is neither a pipe, nor a socket, nor a character device.
    """

    __slots__ = SLOTS

    _lost_writes = 0
    _lost_write_warning = "pipe closed by peer or os.write(pipe, data) raised exception."
    _write_error = "Fatal write error on pipe transport"

    def __init__(
        self,
        loop: LoopBase,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        status = os.fstat(pipe.fileno())
        is_pipe, is_socket = stat.S_ISFIFO(status.st_mode), stat.S_ISSOCK(status.st_mode)
        if not (is_pipe or is_socket or stat.S_ISCHR(status.st_mode)):
            raise ValueError("Pipe transport is only for pipes, sockets and character devices")
        watches = is_socket or (is_pipe and _tells_of_its_reader(status))
        self._open(loop, pipe, protocol, waiter, extra, False, watches)

    def write_eof(self) -> None:
        """Close when everything queued is written. As ``asyncio.WriteTransport.write_eof``."""
        self.close()

    def can_write_eof(self) -> bool:
        """Return ``True``."""
        return True

    def _peer_gone(self) -> None:
        """Close because nobody reads any more."""
        if self._core.lost:
            return
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self._force_close(BrokenPipeError() if self._core.queued else None)

    def _write_failed(self, exc: BaseException) -> None:
        self._lost_writes += 1
        super()._write_failed(exc)

    def _describe(self) -> list[str]:
        state = "polling" if self._core.queued else "idle"
        return [state, f"bufsize={self.get_write_buffer_size()}"]


def _tells_of_its_reader(status: os.stat_result) -> bool:
    """Whether the kernel reports, at a pipe's write end, that its reader is gone. As asyncio."""
    if sys.platform.startswith("aix"):
        return False
    is_named = status.st_nlink > 0
    return not (is_named and sys.platform in {"darwin", "ios", "tvos", "watchos", "sunos5"})


_core._install_stream_methods(ReadPipeTransport, reads=True, writes=False)
_core._install_stream_methods(WritePipeTransport, reads=False, writes=True)
