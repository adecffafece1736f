"""Files that servers send: clients with TLS or without, and messages."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from loop_pool._serve import files

from .server import Client

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .server import Server

    type Served = Callable[..., Server]

LARGE = 3 * files.PIECE + 12345
"""Bytes of a file that is not read at once."""

OFTEN = 100
"""As many times as a file has to be that no buffers of sockets take."""


@contextlib.contextmanager
def client_of(server: Server, trusting: ssl.SSLContext | None) -> Iterator[Client]:
    """A connection, with TLS if there is something to trust."""
    plain = server.client()
    if trusting is None:
        with plain:
            yield plain
        return
    plain.file.close()
    with Client(trusting.wrap_socket(plain.sock, server_hostname="localhost")) as client:
        yield client


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def by_path(path: Path) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": str(path)}


def length_of(content: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(content)


def content_of(size: int) -> bytes:
    """Bytes in which each place can be told from others."""
    return b"".join(number.to_bytes(4) for number in range(size // 4 + 1))[:size]
