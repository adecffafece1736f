"""What the servers of `servers.py` do with their connections, and how a loop serves them."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

HOST = "127.0.0.1"
BACKLOG = 1024
READ_SIZE = 65536
CYCLE = bytes(range(251))
"""What bulk senders repeat; the load generator checks it."""
BULK_QUEUED = 64 * 1024 * 1024
"""Bytes that a bulk connection holds in its transport at least, while its loop is not stuck."""
BULK_PIECE = CYCLE * 4096
BULK_SOCKET_BUFFER = 128 * 1024
"""What the kernel holds of a bulk connection flows on without the server; it is kept small."""
FLOOD_PIECE = CYCLE * 1024
FLOOD_TURN = 16
"""Pieces that are written in one turn of the loop at most."""
WORK_NUMBERS = 3000
"""What `work` adds up: some 100 us of Python on a processor of today."""
FILE_CYCLES = 64 * 1024
"""The length of the file for `sendfile`, in cycles: 16 MiB."""

connections: set[object] = set()
received: list[int] = [0]
"""Bytes that all `Sink`s of this process have received."""


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def work() -> int:
    """Keep the interpreter busy, as a handler does that makes an answer."""
    total = 0
    for number in range(WORK_NUMBERS):
        total += number
    return total


class WorkingEcho(Echo):
    """Sends back what it gets, after some work."""

    def data_received(self, data: bytes) -> None:
        work()
        self._transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it gets in its own buffer."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        # The transport may keep what it is given, and the buffer is filled again.
        self._transport.write(bytes(self._view[:nbytes]))


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    _transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


class Idle(asyncio.Protocol):
    """Keeps its transport, and does nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        connections.discard(self._transport)


class Bulk(asyncio.Protocol):
    """Sends without an end, with much queued in the transport at any time."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BULK_SOCKET_BUFFER)
        self._transport.set_write_buffer_limits(high=BULK_QUEUED, low=BULK_QUEUED - 1)
        self.resume_writing()

    def resume_writing(self) -> None:
        for _ in range(BULK_QUEUED // len(BULK_PIECE) + 1):
            self._transport.write(BULK_PIECE)


class Flood(asyncio.Protocol):
    """Sends without an end, as much as asyncio's flow control wants."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._paused = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def _write(self) -> None:
        for _ in range(FLOOD_TURN):
            if self._paused:
                return
            self._transport.write(FLOOD_PIECE)
        self._loop.call_soon(self._write)


class Sink(asyncio.Protocol):
    """Counts what it gets."""

    def data_received(self, data: bytes) -> None:
        received[0] += len(data)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, as asyncio's documentation does it."""
    connections.add(writer)
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        connections.discard(writer)
        writer.close()


@dataclass(frozen=True)
class Place:
    """What a server needs besides a socket."""

    folder: Path
    """For unix sockets and the file that is sent; in it are `cert.pem` and `key.pem` for TLS."""
    report: Callable[[BaseException], None]
    """Tells the parent of a failure, and ends the process."""


Listen = Callable[[socket.socket, Place], Awaitable[Any]]
"""Makes the running loop serve on a bound socket. The server is kept by who awaits it."""


def listen_with(protocol: Callable[[], asyncio.BaseProtocol]) -> Listen:
    """As `loop.create_server`, on a socket."""

    async def listen(sock: socket.socket, place: Place) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(protocol, sock=sock, backlog=BACKLOG)

    return listen


async def listen_with_streams(sock: socket.socket, place: Place) -> asyncio.Server:
    """As `asyncio.start_server`, on a socket."""
    return await asyncio.start_server(echo_stream, sock=sock, backlog=BACKLOG)


async def listen_unix(sock: socket.socket, place: Place) -> asyncio.Server:
    """As `loop.create_unix_server`, on a socket."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(Echo, sock=sock, backlog=BACKLOG)


def make_openssl_context(place: Place) -> ssl.SSLContext:
    """A server's, with the certificate of the place."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.folder / "cert.pem", place.folder / "key.pem")
    return context


def make_rustls_context(place: Place) -> ssl.SSLContext:
    """The same of `loop_pool.tls`. Raises `RuntimeError` if OpenSSL would make its connections."""
    from loop_pool import tls

    context = tls.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place.folder / "cert.pem", place.folder / "key.pem")
    if not context.native:
        raise RuntimeError(f"rustls is not used: {context.fallback_reason}")
    return context


def listen_with_tls(
    protocol: Callable[[], asyncio.BaseProtocol], make_context: Callable[[Place], ssl.SSLContext]
) -> Listen:
    """As `loop.create_server` with a certificate, on a socket."""

    async def listen(sock: socket.socket, place: Place) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        context = make_context(place)
        return await loop.create_server(protocol, sock=sock, backlog=BACKLOG, ssl=context)

    return listen


async def listen_datagrams(sock: socket.socket, place: Place) -> object:
    """As `loop.create_datagram_endpoint`, on a socket."""
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(DatagramEcho, sock=sock)


async def listen_with_sock(sock: socket.socket, place: Place) -> asyncio.Task[None]:
    """A task for each connection, over `loop.sock_*`."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def echo(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client:
            while data := await loop.sock_recv(client, READ_SIZE):
                await loop.sock_sendall(client, data)

    def end(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        error = task.exception()
        if error is not None and not isinstance(error, ConnectionError):
            place.report(error)

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(sock)
            task = loop.create_task(echo(client))
            tasks.add(task)
            task.add_done_callback(end)

    task = loop.create_task(accept())
    task.add_done_callback(end)
    return task


async def listen_with_files(sock: socket.socket, place: Place) -> asyncio.Server:
    """Sends a file again and again by `loop.sendfile`, without the fallback that reads it."""
    path = place.folder / f"{os.getpid()}.data"
    path.write_bytes(CYCLE * FILE_CYCLES)
    file = path.open("rb", buffering=0)
    path.unlink()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        # `sendfile` moves the position of its file, so each connection has its own.
        with open(f"/proc/self/fd/{file.fileno()}", "rb", buffering=0) as own:
            try:
                while not writer.transport.is_closing():
                    await loop.sendfile(writer.transport, own, fallback=False)
            except ConnectionError:
                writer.close()
            except Exception as error:
                place.report(error)

    return await asyncio.start_server(send, sock=sock, backlog=BACKLOG)


UNDER_TLS: dict[str, Listen] = {
    "tls": listen_with_tls(Echo, make_openssl_context),
    "tls-idle": listen_with_tls(Idle, make_openssl_context),
    "tls-flood": listen_with_tls(Flood, make_openssl_context),
    "tls-sink": listen_with_tls(Sink, make_openssl_context),
    "rustls": listen_with_tls(Echo, make_rustls_context),
    "rustls-idle": listen_with_tls(Idle, make_rustls_context),
    "rustls-flood": listen_with_tls(Flood, make_rustls_context),
    "rustls-sink": listen_with_tls(Sink, make_rustls_context),
}
"""Kinds of servers that need a certificate: with `ssl.SSLContext`, and one of `loop_pool.tls`."""
ON_ONE_LOOP: dict[str, Listen] = {
    "protocol": listen_with(Echo),
    "work": listen_with(WorkingEcho),
    "buffered": listen_with(BufferedEcho),
    "streams": listen_with_streams,
    "sock": listen_with_sock,
    "udp": listen_datagrams,
    "unix": listen_unix,
    **UNDER_TLS,
    "idle": listen_with(Idle),
    "bulk": listen_with(Bulk),
    "flood": listen_with(Flood),
    "sink": listen_with(Sink),
    "sendfile": listen_with_files,
}
"""Kinds of servers that listen on one loop. With several loops, it is the last one (`bulk`, whose
loop is the one that is stuck) or the first one (all others, which know nothing of the rest)."""
ON_EVERY_LOOP = {"pool": "protocol", "pool-work": "work", "pool-streams": "streams"}
"""Kinds of servers that listen on every loop, and what each loop does."""


def bind(
    kind: str, folder: Path, *, reuse_port: bool = False, port: int = 0
) -> tuple[socket.socket, dict[str, Any]]:
    """Return a socket for a kind of server, bound to `port` (0: a free one), and its address.

    It listens, unless it is for datagrams: talyn's `create_server` leaves that out.
    """
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        path = str(folder / f"{os.getpid()}.sock")
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(BACKLOG)
        return sock, {"unix": path}
    sock = socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    if kind != "udp":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind((HOST, port))
    address: dict[str, Any] = {"port": sock.getsockname()[1]}
    if kind == "udp":
        address["udp"] = True
    else:
        sock.listen(BACKLOG)
    if kind in UNDER_TLS:
        address["tls"] = str(folder / "cert.pem")
    return sock, address
