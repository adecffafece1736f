"""Datagram transports: UDP and unix sockets, for ``create_datagram_endpoint``.

``sendto`` is native. An address that is not numeric goes to the socket's own ``sendto``, which
resolves it or raises.
"""

from __future__ import annotations

import asyncio
import collections
import socket
from asyncio import trsock
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .transport_base import SLOTS, Writing

if TYPE_CHECKING:
    from .._core import DatagramCore
    from .loop_base import LoopBase

_FATAL = "Fatal write error on datagram transport"

_RETRY_DELAY = 0.001
"""Seconds until a full unix socket is tried again: the kernel does not tell when it has room,
unless the own socket is connected to it. asyncio's loop does not sleep meanwhile: the kernel wakes
it after each datagram that was refused."""


class DatagramTransport(Writing, asyncio_private.FlowControlMixin, asyncio.DatagramTransport):
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
        loop: LoopBase,
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
        core = _core.DatagramCore(sock.fileno(), sock.family, connected, address or None, sock)
        self._begin(loop, sock, protocol, waiter, extra, None, None, core)
        self._join()

    def _check_address(self, address: Any) -> None:
        """Refuse an address that is not the transport's own, in the words of asyncio."""
        if address != self._address:
            raise ValueError(f"Invalid address: must be None or {self._address}")

    def _send_failed(self, exc: OSError) -> None:
        self._protocol.error_received(exc)

    # -- what the native half does not send ------------------------------------------------------

    def _send_itself(self, data: bytes, address: Any) -> None:
        """Send a datagram by the socket's own method, or queue it."""
        core = self._core
        if self._address:
            address = self._address
        full = False
        if not core.queued:
            try:
                sent = self._sock.sendto(data, socket.MSG_DONTWAIT, address)
            except BlockingIOError, InterruptedError:
                full = True
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            except SystemExit, KeyboardInterrupt:
                raise
            except BaseException as exc:
                self._fatal_error(exc, _FATAL)
                return
            else:
                core.count_sent(self._loop, sent)
                return
        if self._addresses is None:
            self._addresses = collections.deque()
        self._addresses.append(address)
        core.enqueue(self, data, full)

    def _send_next(self) -> OSError | None:
        """Send the first of those that were queued.

        Returns:
            What the protocol is to be told by ``error_received``.
        """
        core, addresses = self._core, self._addresses
        data = core.next_own()
        if data is None or not addresses:
            self._fatal_error(RuntimeError("a queued datagram has lost its address"), _FATAL)
            return None
        failure: BaseException | None = None
        try:
            sent = self._sock.sendto(data, socket.MSG_DONTWAIT, addresses[0])
            core.count_sent(self._loop, sent)
        except BlockingIOError, InterruptedError:
            try:
                core.blocked(self._loop)
            except OSError as exc:
                failure = exc
            else:
                return None
        except SystemExit, KeyboardInterrupt:
            raise
        except BaseException as exc:
            failure = exc
        addresses.popleft()
        core.pop_own()
        if failure is None or isinstance(failure, OSError):
            return failure
        self._fatal_error(failure, _FATAL)
        return None

    def _retry_later(self) -> None:
        """Try again in a moment, as the kernel will not say when."""
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY_DELAY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._core.retry(self._loop, self)


_core._install_datagram_methods(DatagramTransport)
