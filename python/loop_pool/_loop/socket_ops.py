"""``loop.sock_*``: asyncio's operations on a socket of the program.

Each tries immediately. If it would block, the core adds it to the readers or writers of the loop,
and the coroutine awaits it. The coroutine drops it at the end, because a traceback would keep the
operation, its buffer and the exception alive. In debug mode asyncio's own code runs.

Compare these names of asyncio first for a new Python version:
``_ensure_resolved``, ``base_events._check_ssl_socket`` and ``base_events._HAS_IPv6``, called by
``sock_connect`` and its like, as asyncio's do.
"""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from .._core import SocketOperation as _SocketOperation

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    _Loop = asyncio.SelectorEventLoop
else:
    _Loop = object


class SocketOps(_Loop):
    """What a loop does for a socket that no transport has."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        # Parts of the native half.
        _debug: bool

        def _start_read(self, *args: Any) -> Any: ...
        def _start_write(self, *args: Any) -> Any: ...
        def _start_send_all(self, *args: Any) -> Any: ...
        def _start_connect(self, *args: Any) -> Any: ...
        def _start_accept(self, *args: Any) -> Any: ...

        # A part of BaseEventLoop that typeshed leaves out.
        async def _ensure_resolved(
            self, address: Any, **arguments: Any
        ) -> Sequence[tuple[Any, ...]]: ...

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive at most ``n`` bytes; ``b""`` at the end. As ``asyncio.loop.sock_recv``."""
        if self._debug:
            return await super().sock_recv(sock, n)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recv", n)
        try:
            got: bytes = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into ``buf``; return how much. As ``asyncio.loop.sock_recv_into``."""
        if self._debug:
            return await super().sock_recv_into(sock, buf)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recv_into", buf)
        try:
            got: int = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram; return it and its sender. As ``asyncio.loop.sock_recvfrom``."""
        if self._debug:
            return await super().sock_recvfrom(sock, bufsize)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recvfrom", bufsize)
        try:
            got: tuple[bytes, Any] = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Any, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into ``buf``; return its size and its sender.

        As ``asyncio.loop.sock_recvfrom_into``.
        """
        if self._debug:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recvfrom_into", buf, nbytes or len(buf))
        try:
            got: tuple[int, Any] = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of ``data``. As ``asyncio.loop.sock_sendall``."""
        if self._debug:
            await super().sock_sendall(sock, data)
            return
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        rest = self._start_send_all(sock, data)
        try:
            if rest is not None:
                await rest
        finally:
            del rest

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send a datagram; return how much was sent. As ``asyncio.loop.sock_sendto``."""
        if self._debug:
            return await super().sock_sendto(sock, data, address)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_write(sock, "sendto", data, address)
        try:
            sent: int = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return sent

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect, after resolving ``address``. As ``asyncio.loop.sock_connect``."""
        if self._debug:
            await super().sock_connect(sock, address)
            return
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if sock.family == socket.AF_INET or (
            base_events._HAS_IPv6 and sock.family == socket.AF_INET6  # type: ignore[attr-defined]
        ):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            _, _, _, _, address = resolved[0]
        attempt = self._start_connect(sock, address)
        try:
            if attempt is not None:
                await attempt
        finally:
            del attempt

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return it and its address. As ``asyncio.loop.sock_accept``."""
        if self._debug:
            return await super().sock_accept(sock)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_accept(sock)
        try:
            accepted: tuple[socket.socket, Any] = (
                await now if type(now) is _SocketOperation else now
            )
        finally:
            del now
        return accepted
