"""Servers of each kind, of one loop and of a pool, that are left to their end by nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..support import HANG, receive, self_signed


class Says(asyncio.Protocol):
    """Says something, and leaves."""

    def __init__(self, leaves: bool) -> None:
        self.leaves = leaves

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        if self.leaves:
            transport.close()


class Factory:
    """Makes protocols."""

    def __init__(self, *, leaves: bool = True) -> None:
        self.leaves = leaves

    def __call__(self) -> Says:
        return Says(self.leaves)


class Handler:
    """The same with streams."""

    def __init__(self, *, leaves: bool = True) -> None:
        self.leaves = leaves

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        if self.leaves:
            writer.close()


async def start_plain(made: Any, path: Path) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)


async def start_tls(made: Any, path: Path) -> asyncio.Server:
    context, _ = self_signed()
    loop = asyncio.get_running_loop()
    return await loop.create_server(made, "127.0.0.1", 0, ssl=context)


async def start_unix(made: Any, path: Path) -> asyncio.Server:
    return await asyncio.get_running_loop().create_unix_server(made, path / "socket")


async def start_streams(made: Any, path: Path) -> asyncio.Server:
    return await asyncio.start_server(made, "127.0.0.1", 0)


async def start_native_streams(made: Any, path: Path) -> asyncio.Server:
    from loop_pool._loop import streams

    return await streams.listen(made, "127.0.0.1", 0)


async def start_pool(made: Any, path: Path) -> Any:
    import loop_pool

    return await loop_pool.create_server(made, "127.0.0.1", 0)


async def start_pool_streams(made: Any, path: Path) -> Any:
    import loop_pool

    return await loop_pool.start_server(made, "127.0.0.1", 0)


type Start = Callable[[Any, Path], Any]


KINDS: list[tuple[Start, type[Factory | Handler]]] = [
    (start_plain, Factory),
    (start_tls, Factory),
    (start_unix, Factory),
    (start_streams, Handler),
]


OURS: list[tuple[Start, type[Factory | Handler]]] = [(start_native_streams, Handler)]


POOLS: list[tuple[Start, type[Factory | Handler]]] = [
    (start_pool, Factory),
    (start_pool_streams, Handler),
]


def names(kinds: list[tuple[Start, Any]]) -> list[str]:
    return [start.__name__ for start, _ in kinds]


def listens(family: int, address: Any) -> bool:
    with socket.socket(family) as client:
        client.settimeout(HANG)
        return client.connect_ex(address) == 0


async def leave_open(
    start: Start, made: Any, path: Path, clients: list[socket.socket]
) -> tuple[int, Any]:
    """Start a server, let the clients connect to it, and leave all as it is."""
    server = await start(made, path)
    first = server.sockets[0]
    for client in clients:
        client.settimeout(HANG)
        client.connect(first.getsockname())
        if start is not start_tls:
            assert await asyncio.to_thread(receive, client, 5) == b"hello"
    return first.family, first.getsockname()


def ends_with_its_loop(run: Any, path: Path, start: Start, kind: Any, *, connects: bool) -> None:
    family = socket.AF_UNIX if start is start_unix else socket.AF_INET
    with socket.socket(family) as client:
        clients = [client] if connects else []
        where = run(leave_open(start, kind(leaves=False), path, clients))
        assert not listens(*where)
