"""What the tests of transports share: pipes and datagram sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from ..support import HANG


def pipe() -> tuple[Any, Any]:
    """The reading and the writing end of a pipe."""
    reader, writer = os.pipe()
    return open(reader, "rb", 0), open(writer, "wb", 0)


def give(end: Any, data: bytes) -> None:
    """Writes all of it, and waits for room."""
    view = memoryview(data)
    while view:
        view = view[os.write(end.fileno(), view) :]


def bound(family: int = socket.AF_INET, name: Any = None) -> socket.socket:
    """A datagram socket, blocking with a deadline; without a name on a free loopback port."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(HANG)
    sock.bind(name or ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return sock


def socket_with_number(
    fd: int, pair: tuple[socket.socket, socket.socket] | None = None
) -> tuple[socket.socket, socket.socket]:
    """Two connected non-blocking sockets, of which the first has a number that was free."""
    first, second = pair or socket.socketpair()
    if second.fileno() == fd:
        first, second = second, first
    if first.fileno() != fd:
        with first:
            first = socket.socket(fileno=os.dup2(first.fileno(), fd, inheritable=False))
    for sock in (first, second):
        sock.setblocking(False)
    return first, second


class Datagrams(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data: bytes, _: Any) -> None:
        self.data.append(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
