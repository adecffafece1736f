"""Datagrams as transports: UDP and unix sockets, as ``create_datagram_endpoint`` makes them.

``sendto`` is native. An address that is not written in numbers goes to the socket's own ``sendto``,
which resolves it, or says what is wrong with it.
"""

from __future__ import annotations

import asyncio
import collections
import socket
from asyncio import trsock
from typing import TYPE_CHECKING, Any

from . import _core, _private
from ._transports import SLOTS, Writing

if TYPE_CHECKING:
    from ._core import DatagramCore
    from ._event_loop import EventLoop

_FATAL = "Fatal write error on datagram transport"

_RETRY_DELAY = 0.001
"""Seconds until a full unix socket of another process is tried again: the kernel does not tell when
it has room, unless the own socket is connected to it. asyncio tries at every turn of its loop."""


class DatagramTransport(Writing, _private.FlowControlMixin, asyncio.DatagramTransport):
    """A datagram socket. Made by ``create_datagram_endpoint``, as asyncio's transports are."""

    __slots__ = SLOTS

    max_size = 256 * 1024

    # What few sockets need stands in their `__dict__`, made when it is needed.
    _address: Any = None
    _addresses: collections.deque[Any] | None = None
    """Of the queued datagrams that are sent here, in their order."""
    _retry: asyncio.TimerHandle | None = None

    if TYPE_CHECKING:
        _core: DatagramCore

    def __init__(  # noqa: PLR0917 - as asyncio's
        self,
        loop: EventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        extra = {} if extra is None else extra
        extra["socket"] = trsock.TransportSocket(sock)
        try:
            extra["sockname"] = sock.getsockname()
        except OSError:
            extra["sockname"] = None
        if "peername" not in extra:
            try:
                extra["peername"] = sock.getpeername()
            except OSError:
                extra["peername"] = None
        if address:
            self._address = address
        connected = bool(extra["peername"])
        core = _core.DatagramCore(sock.fileno(), sock.family, connected, address or None)
        self._begin(loop, sock, protocol, waiter, extra, None, None, core)
        self._join()

    def _check_address(self, address: Any) -> None:
        """Refuse an address that is not the transport's own, in the words of asyncio."""
        if address != self._address:
            raise ValueError(f"Invalid address: must be None or {self._address}")

    def _send_failed(self, exc: OSError) -> None:
        self._protocol.error_received(exc)

    # -- what the native half does not send ------------------------------------------------------

    def _send_itself(self, data: Any, address: Any) -> None:
        """Send a datagram by the socket's own method, or queue it."""
        core = self._core
        if self._address:
            address = self._address
        blocked = False
        if not core.queued:
            try:
                self._sock.sendto(data, address)
            except BlockingIOError, InterruptedError:
                blocked = True
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            except SystemExit, KeyboardInterrupt:
                raise
            except BaseException as exc:
                self._fatal_error(exc, _FATAL)
                return
            else:
                return
        if self._addresses is None:
            self._addresses = collections.deque()
        self._addresses.append(address)
        core.enqueue(self, bytes(data))
        if blocked:
            core.blocked(self._loop)
            if self._sock.family == socket.AF_UNIX:
                self._retry_later()

    def _send_next(self) -> None:
        """Send the first of those that were queued."""
        core, addresses = self._core, self._addresses
        data = core.next_own()
        if data is None or not addresses:
            return
        error: BaseException | None = None
        try:
            self._sock.sendto(data, addresses[0])
        except BlockingIOError, InterruptedError:
            core.blocked(self._loop)
            return
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            error = exc
        addresses.popleft()
        core.pop_own()
        if isinstance(error, OSError):
            self._context.run(self._protocol.error_received, error)
        elif error is not None:
            self._fatal_error(error, _FATAL)

    def _retry_later(self) -> None:
        """Try again in a moment, as the kernel will not say when."""
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY_DELAY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._core.retry(self._loop, self)


_core._install_datagram_methods(DatagramTransport)
