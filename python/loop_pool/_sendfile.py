"""``loop.sendfile`` over a native transport, which lends its descriptor for the time.

``sock_sendfile`` waits for the descriptor as for any socket's. It ends with the transport: a closed
descriptor would never become ready, and its number may be another's at once.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Iterator

    from ._core import StreamCore
    from ._transports import Writing

    _Loop = asyncio.SelectorEventLoop
    _Transport = Writing
else:
    _Loop = _Transport = object


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
            self._start_sendfile(fut, sock, fileno, offset, count, blocksize)


def _closed() -> ConnectionAbortedError:
    return ConnectionAbortedError(errno.ECONNABORTED, "Connection is closed")
