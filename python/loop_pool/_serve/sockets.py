"""Where ``loop_pool.serve`` listens: sockets, paths, and notifications to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._pool.server import Server

logger = logging.getLogger("uvicorn.error")


LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a unix socket may have."""

SO_ATTACH_FILTER = 26

_NO_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),
)
"""A program of the kernel's socket filter."""


class Place(NamedTuple):
    """An address; or a path; or a descriptor."""

    host: str
    port: int
    uds: str | None
    fd: int | None
    reuse_port: bool


def bound(place: Place, backlog: int) -> socket.socket:
    """Return one bound socket for the place.

    Raises:
        OSError: it cannot be bound, or the descriptor is no socket.
    """
    if place.fd is not None:
        return _socket_of(place.fd)
    if place.uds is None:
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        address = (place.host, place.port)
        return socket.create_server(
            address, family=family, backlog=backlog, reuse_port=place.reuse_port
        )
    return _bound_to_path(place.uds, backlog)


def _bound_to_path(path: str, backlog: int) -> socket.socket:
    """Return a socket that listens at a path.

    One that is there already is replaced in one step, so that nobody is refused meanwhile.
    """
    mode = 0o666
    name = path
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(path)
        if stat.S_ISSOCK(there.st_mode):
            mode = stat.S_IMODE(there.st_mode)
            name = f"{path}.{os.getpid()}"
            if len(os.fsencode(name)) > LONGEST_PATH:
                os.unlink(path)
                name = path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if name != path:
            with contextlib.suppress(FileNotFoundError):  # of a process that was killed
                os.unlink(name)
        sock.bind(name)
        os.chmod(name, mode)
        sock.listen(backlog)
        if name != path:
            os.replace(name, path)
    except OSError as error:
        sock.close()
        number = error.errno or errno.ENAMETOOLONG  # which comes without a number
        raise OSError(number, f"cannot bind {path!r}: {error.strerror or error}") from None
    return sock


def _socket_of(fd: int) -> socket.socket:
    try:
        copy = os.dup(fd)
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
    except OverflowError:  # beyond what the kernel counts to
        raise OSError(errno.EBADF, f"fd {fd} is not a socket: {os.strerror(errno.EBADF)}") from None
    except OSError as error:
        raise OSError(error.errno, f"fd {fd} is not a socket: {error.strerror}") from None


async def check_that_nobody_listens(place: Place) -> None:
    """Make sure that nobody else has the address, although several sockets of ours will share it.

    Raises:
        OSError: somebody has.
    """
    if place.port == 0:
        return
    infos = await asyncio.get_running_loop().getaddrinfo(
        place.host or None, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    continue  # what is wrong is better told by the one that binds it in earnest
                raise OSError(
                    error.errno,
                    f"error while attempting to bind on address {address!r}: address already in "
                    "use (reuse_port=True shares it)",
                ) from None


def kept_open(sockets: Iterable[Any]) -> list[socket.socket]:
    """Return a second descriptor for each listener, as far as there are any left."""
    kept: list[socket.socket] = []
    try:
        for sock in sockets:
            kept.append(sock.dup())
    except OSError as error:
        logger.error("Connections in the accept queue may be lost while shutting down: %s", error)
    return kept


def let_nobody_in(listener: socket.socket) -> None:
    """Keep new connections out of a listener's queue; those that are in it stay.

    So no connection can come between the last look at the queue and the end of the listener, which
    resets what it finds there. Whoever comes later is refused, at a port after a second or so,
    unless another process listens there too.
    """
    with contextlib.suppress(OSError):
        if listener.family == socket.AF_UNIX:
            listener.shutdown(socket.SHUT_RDWR)
        elif sys.platform == "linux":
            # The kernel drops what would begin a connection; handshakes that have begun go on.
            program = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
            buffer = ctypes.create_string_buffer(program, len(program))
            fprog = struct.pack("HP", len(_NO_SYN), ctypes.addressof(buffer))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)


def emptied(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait in a listener's queue."""
    taken: list[socket.socket] = []
    listener.setblocking(False)
    while True:
        try:
            taken.append(listener.accept()[0])
        except ConnectionAbortedError:
            continue
        except BlockingIOError:
            return taken
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is none that listens any more
                logger.error("Connections were lost while shutting down: %s", error)
            return taken


def close(listener: socket.socket) -> None:
    """Close a listener. It listens no more then, although a stuck loop has a descriptor of it."""
    with listener, contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def identity(place: Place) -> tuple[int, int, int] | None:
    """Return what tells our socket at the path from another one that takes its place.

    In a forked child it is the parent's.
    """
    if place.uds is None:
        return None
    there = os.stat(place.uds)
    return there.st_dev, there.st_ino, os.getpid()


def remove_path(place: Place, ours: tuple[int, int, int] | None) -> None:
    """Remove the path, unless another server has put its own socket there."""
    if ours is not None:
        with contextlib.suppress(FileNotFoundError):
            if identity(place) == ours:
                os.unlink(str(place.uds))


def address(place: Place, server: Server, scheme: str) -> str:
    """Return where the server listens, for a person."""
    if place.uds is not None:
        return f"unix socket {place.uds}"
    name = server.sockets[0].getsockname()
    if place.fd is not None:
        return f"socket {name}"
    host = place.host or "0.0.0.0"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{name[1]}"


def notify(state: str) -> None:
    """Tell systemd, if it has asked to be told (``Type=notify``). As ``sd_notify``."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return
    path = f"\0{where[1:]}" if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), path)
    except OSError as error:
        logger.warning("cannot send %s to %s: %s", state, where, error)
