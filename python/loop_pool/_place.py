"""Where ``loop_pool.serve`` listens: sockets, paths, and what a service manager is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._server import Server

logger = logging.getLogger("uvicorn.error")


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
    mode = 0o666
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(place.uds)
        if stat.S_ISSOCK(there.st_mode):
            mode = stat.S_IMODE(there.st_mode)
            os.unlink(place.uds)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(place.uds)
        os.chmod(place.uds, mode)
    except OSError as error:
        sock.close()
        number = error.errno or errno.ENAMETOOLONG  # which comes without a number
        raise OSError(number, f"cannot bind {place.uds!r}: {error.strerror or error}") from None
    return sock


def _socket_of(fd: int) -> socket.socket:
    try:
        copy = os.dup(fd)
        try:
            return socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
    except OSError as error:
        raise OSError(error.errno, f"fd {fd} is no socket: {error.strerror}") from None


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
        logger.error("What waits in the queue may be lost while shutting down: %s", error)
    return kept


def emptied(listener: socket.socket) -> Iterator[socket.socket]:
    """Close a listener; give the connections that waited in its queue.

    It listens no more then, although a loop that is stuck still has a descriptor of it.
    """
    taken: list[socket.socket] = []
    with listener:
        listener.setblocking(False)
        while True:
            try:
                taken.append(listener.accept()[0])
            except ConnectionAbortedError:
                continue
            except BlockingIOError:
                break
            except OSError as error:
                logger.error("Connections were lost while shutting down: %s", error)
                break
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    yield from taken


def identity(place: Place) -> tuple[int, int] | None:
    """Return what tells our socket at the path from another one that takes its place."""
    if place.uds is None:
        return None
    there = os.stat(place.uds)
    return there.st_dev, there.st_ino


def remove_path(place: Place, ours: tuple[int, int] | None) -> None:
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
        logger.warning("cannot tell %s to %s: %s", state, where, error)
