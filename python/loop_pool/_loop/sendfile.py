"""``loop.sendfile`` on a native transport, which lends its descriptor meanwhile.

``sock_sendfile`` waits for the descriptor like for any socket's. It ends with the transport: a
closed descriptor never becomes ready, and its number may be reused immediately.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
from typing import TYPE_CHECKING, Any

from .asyncio_private import FlowControlMixin, is_writing_paused
from .tls import is_ending

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from .._core import StreamCore
    from .transport_base import Writing

    _Loop = asyncio.SelectorEventLoop
    _Transport = Writing
else:
    _Loop = _Transport = object


_PIECE = 16 * 1024
"""How much of a file that cannot be sent by the kernel is read at once, in bytes."""
_LONGEST = sys.maxsize // 2 + 1
"""The most that the kernel is asked to send at once, in bytes."""


class Lender(_Transport):
    """What a stream transport does for ``sendfile``. Loop's thread."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _sending: asyncio.Future[int] | None = None
    """Of a ``sendfile`` that uses the descriptor."""

    if TYPE_CHECKING:
        _core: StreamCore

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        waiter = self._empty_waiter = self._loop.create_future()
        self._core.set_empty_waiter(True)
        if not self._core.queued:
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._core.set_empty_waiter(False)
        self._empty_waiter = None

    def _lose_soon(self, exc: BaseException | None) -> None:
        sending, self._sending = self._sending, None
        if sending is not None and not sending.done():
            if self._core.holds:
                self._loop._remove_writer(self._fd)
            sending.set_exception(_closed() if exc is None else exc)
        super()._lose_soon(exc)


class _InPieces(asyncio.Protocol):
    """A transport's protocol while a file is written to it piece by piece.

    asyncio's passes on neither an end that comes in the turn of a cancellation, whose future is
    done, nor to whoever is protocol afterwards that writing is paused.
    """

    def __init__(self, transport: Any) -> None:
        if not isinstance(transport, FlowControlMixin):
            raise TypeError(f"sendfile: {transport!r} does not say when writing is paused")
        self._transport: Any = transport
        self._protocol: Any = transport.get_protocol()
        self._was_reading = self._transport.is_reading()
        self._was_paused = is_writing_paused(transport)
        self._lost = False
        self._room: asyncio.Future[None] | None = None
        if self._was_paused:
            self.pause_writing()
        self._transport.pause_reading()
        self._transport.set_protocol(self)

    async def drain(self) -> None:
        if self._transport.is_closing() or is_ending(self._transport):
            raise ConnectionError("Connection closed by peer")
        if self._room is not None:
            await self._room

    def restore(self) -> None:
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        is_paused = is_writing_paused(self._transport)
        if self._lost or is_paused == self._was_paused:
            return
        if is_paused:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = True
        room = self._room
        if room is not None and not room.done():
            room.set_exception(
                ConnectionError("Connection is closed by peer") if exc is None else exc
            )
            room.exception()  # nobody may be waiting just now
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")


class SendsFiles(_Loop):
    """What a loop does for ``sendfile`` over transports of its own."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        _debug: bool

        def _start_sendfile(self, *args: Any) -> None: ...

    def _begin_lending(self) -> None:
        self._lent: dict[int, Lender] = {}
        """Transports by the descriptors that are lent."""

    async def _sendfile_native(
        self, transp: asyncio.Transport, file: Any, offset: int, count: int | None
    ) -> int:
        if not isinstance(transp, Lender):
            sent: int = await super()._sendfile_native(  # type: ignore[misc]
                transp, file, offset, count
            )
            return sent
        empty = transp._make_empty_waiter()
        resume_reading = transp.is_reading()
        try:
            transp.pause_reading()
            await empty
            with self._lend_descriptor(transp) as sock:
                return await self.sock_sendfile(sock, file, offset, count, fallback=False)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    async def _sendfile_fallback(
        self, transp: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """As asyncio's, with another protocol."""
        seeks = hasattr(file, "seek")
        if seeks:
            file.seek(offset)
        buffer = memoryview(bytearray(min(count or _PIECE, _PIECE)))
        sent = 0
        protocol = _InPieces(transp)
        try:
            while not count or sent < count:
                piece = buffer[: count - sent] if count else buffer
                read = await self.run_in_executor(None, file.readinto, piece)
                if not read:
                    break
                transp.write(piece[:read])
                await protocol.drain()
                sent += read
        finally:
            if sent and seeks:
                file.seek(offset + sent)
            protocol.restore()
        return sent

    @contextlib.contextmanager
    def _lend_descriptor(self, transport: Lender) -> Iterator[socket.socket]:
        """Let an operation on the socket itself watch a transport's descriptor meanwhile.

        Raises:
            ConnectionAbortedError: the transport was closed.
        """
        fd = transport._fd
        transport.get_extra_info("socket")  # an accepted connection makes it when it is asked
        if transport._core.lost or transport._sock is None:
            raise _closed()
        self._lent[fd] = transport
        transport._core.suspend(self)  # type: ignore[arg-type]
        try:
            yield transport._sock
        finally:
            transport._sending = None
            if self._lent.get(fd) is transport:
                del self._lent[fd]
            transport._core.unsuspend(self)  # type: ignore[arg-type]

    def _sock_sendfile_native_impl(
        self, fut: asyncio.Future[int], registered_fd: int | None, *rest: Any
    ) -> None:
        sock, fileno, offset, count, blocksize, _total_sent = rest
        lender = self._lent.get(sock.fileno())
        if lender is not None and lender._sock is sock:
            lender._sending = fut
        if self._debug or registered_fd is not None:  # asyncio's own code waits for the socket
            super()._sock_sendfile_native_impl(fut, registered_fd, *rest)  # type: ignore[misc]
        else:
            # As asyncio. No file is longer, so the number says all that is there.
            count, blocksize = count and min(count, _LONGEST), min(blocksize, _LONGEST)
            self._start_sendfile(fut, sock, fileno, offset, count, blocksize)


def _closed() -> ConnectionAbortedError:
    return ConnectionAbortedError(errno.ECONNABORTED, "Connection is closed")
