"""Decides which sockets get native transports: plain kernel sockets only."""

from __future__ import annotations

import socket

_Socket = socket.socket
_PLAIN = ("recv", "recv_into", "send", "sendmsg", "close", "fileno", "getpeername")
PLAIN_DATAGRAM = ("recvfrom", "send", "sendto", "close", "fileno", "getpeername", "getsockname")
DATAGRAM_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def is_plain(sock: object, names: tuple[str, ...] = _PLAIN) -> bool:
    """Whether a socket is the kernel's and no more: its class changes none of its methods."""
    kind = type(sock)
    return kind is _Socket or (
        issubclass(kind, _Socket)
        and all(getattr(kind, name) is getattr(_Socket, name) for name in names)
    )
