"""A TCP server with a listener on every loop of the pool."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Self, final

from .._loop import streams
from .._loop.event_loop import EventLoop
from .._loop.listeners import Listener, pool_server
from .pool import current_pool
from .spawn import spawn_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from types import TracebackType

    from .. import _core
    from .member import _Member
    from .pool import Pool


@final
class Server:
    """The listeners of a pool-wide server, one set per loop. As ``asyncio.Server``.

    Made by :func:`start_server` and :func:`create_server`.

    Its methods may be called from any thread of the pool.
    """

    def __init__(
        self,
        pool: Pool,
        servers: list[tuple[_Member, asyncio.Server]],
        shared: _core.ServerCore | None,
    ) -> None:
        self._pool = pool
        self._shared = shared
        self._servers = servers
        self._forever: asyncio.Future[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<loop_pool.Server loops={len(self._servers)} sockets={self.sockets!r}>"

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets of all loops, as read-only ``asyncio.trsock.TransportSocket``."""
        return tuple(sock for _, server in self._servers for sock in server.sockets)

    def is_serving(self) -> bool:
        """Whether any loop accepts connections."""
        return any(server.is_serving() for _, server in self._servers)

    def close(self) -> None:
        """Stop listening on every loop; open connections continue. Returns before this is done.

        Every accepted connection is served, even if another loop accepted it.
        """
        self._closed = True
        self._everywhere(_leave)
        forever = self._forever
        if forever is not None:
            loop = forever.get_loop()
            if loop is asyncio._get_running_loop():
                forever.cancel()
            else:
                loop.call_soon_threadsafe(forever.cancel)

    def close_clients(self) -> None:
        """Close the open connections of every loop. Returns before this is done."""
        self._everywhere(asyncio.Server.close_clients)

    def abort_clients(self) -> None:
        """Abort the open connections of every loop. Returns before this is done."""
        self._everywhere(asyncio.Server.abort_clients)

    async def start_serving(self) -> None:
        """Start to accept on every loop, after ``start_serving=False``."""
        with _sharing(self._shared):
            await self._on_each(_start_unless_closed)
        self._resume()

    async def serve_forever(self) -> None:
        """Serve until cancelled or closed. As ``asyncio.Server.serve_forever``.

        Raises:
            asyncio.CancelledError: always, at the end: the caller was cancelled or ``close`` was
                called. The connections of every loop have been closed.
            RuntimeError: another call is serving it, or it is closed.
        """
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        forever = self._forever = asyncio.get_running_loop().create_future()
        try:
            await self.start_serving()
            await forever
        except asyncio.CancelledError:
            try:
                self.close()
                self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    async def wait_closed(self) -> None:
        """Wait until every loop has stopped listening and its connections have ended."""
        await self._on_each(lambda server: server.wait_closed())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    def _resume(self) -> None:
        """Accept on every loop: each has joined, so that each gets its share of what waits."""
        for _, server in self._servers:
            for listener in _listeners_of(server):
                listener.resume()

    def _everywhere(self, method: Callable[[asyncio.Server], object]) -> None:
        here = asyncio._get_running_loop()
        for member, server in self._servers:
            if member.loop is here:
                method(server)
            elif not member.loop.is_closed():
                member.loop.call_soon_threadsafe(method, server)

    def _retire(self, loop: EventLoop) -> None:
        """Accept nothing more for a loop that may be stuck, before it closes its listeners."""
        for member, server in self._servers:
            if member.loop is loop:
                for listener in _listeners_of(server):
                    listener.retire()

    async def _on_each(
        self, method: Callable[[asyncio.Server], Coroutine[Any, Any, object]]
    ) -> None:
        tasks = [
            spawn_in(self._pool, method(server), loop=member.loop, closing=True)
            for member, server in self._servers
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _leave(server: asyncio.Server) -> None:
    """Close the listeners of the loop that runs here."""
    Listener.leave(_listeners_of(server))
    server.close()


def _listeners_of(server: asyncio.Server) -> list[Listener]:
    loop = server.get_loop()
    assert isinstance(loop, EventLoop)
    found = (loop._listeners.get(sock._sock) for sock in server.sockets)  # type: ignore[attr-defined]
    return [listener for listener in found if listener is not None]


async def _start_unless_closed(server: asyncio.Server) -> None:
    if server.sockets:
        await server.start_serving()


async def start_server(
    client_connected_cb: Callable[
        [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None
    ],
    host: str | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    **kwargs: Any,
) -> Server:
    """Listen for TCP connections on every loop of the current pool. As ``asyncio.start_server``.

    Each connection goes to the less loaded of two loops (by open connections, ready callbacks and
    recent stuck time), whichever loop accepted it;
    ``client_connected_cb(reader, writer)`` runs there. Reader and writer are instances of asyncio's
    classes with native parts, and belong to that loop's thread; ``docs/compatibility.md`` lists the
    differences. Each loop has its own listening sockets on the same addresses (``SO_REUSEPORT``);
    while it is stuck, others accept for it. Call it from a coroutine on a loop of the pool.

    Args:
        client_connected_cb: a function or coroutine function, called for each connection.
        host: as for ``asyncio.start_server``.
        port: likewise; 0 selects a free port, the same for every loop.
        sock: a bound socket, which the server then owns; the other loops listen on duplicates.
        kwargs: as for ``asyncio.start_server`` (``limit``, ``ssl``, ``backlog``, ...). With
            ``reuse_port=False`` the loops share one socket, so that the address is exclusive; by
            default another program of the same user may share it by setting ``SO_REUSEPORT``.

    Raises:
        RuntimeError: no pool runs in this thread.
        ValueError: both an address and ``sock`` were given, or neither.
        OSError: the address cannot be bound; ``EADDRINUSE``: it is in use, unless both sides set
            ``reuse_port=True``. Listeners that were already created are closed.
    """

    def make(**where: Any) -> Coroutine[Any, Any, asyncio.Server]:
        return streams.listen(client_connected_cb, **where)

    return await _listen_on_every_loop(make, host, port, sock, kwargs)


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    **kwargs: Any,
) -> Server:
    """Listen for TCP connections on every loop of the current pool. As ``loop.create_server``.

    It is :func:`start_server` with protocols: ``protocol_factory()`` and the protocol's callbacks
    run on the loop that the connection was placed on. Call it from a coroutine on a loop of the
    pool.

    Args:
        protocol_factory: called without arguments for each connection, on any loop.
        host: as for ``asyncio.loop.create_server``.
        port: likewise; 0 selects a free port, the same for every loop.
        sock: a bound socket, which the server then owns; the other loops listen on duplicates.
        kwargs: as for ``asyncio.loop.create_server`` (``ssl``, ``backlog``, ...); ``reuse_port`` as
            for :func:`start_server`.

    Raises:
        RuntimeError: no pool runs in this thread.
        ValueError: both an address and ``sock`` were given, or neither.
        OSError: the address cannot be bound; ``EADDRINUSE``: it is in use, unless both sides set
            ``reuse_port=True``. Listeners that were already created are closed.
    """

    def make(**where: Any) -> Coroutine[Any, Any, asyncio.Server]:
        return asyncio.get_running_loop().create_server(protocol_factory, **where)

    return await _listen_on_every_loop(make, host, port, sock, kwargs)


async def _listen_on_every_loop(
    make: Callable[..., Coroutine[Any, Any, asyncio.Server]],
    host: str | Sequence[str] | None,
    port: int | None,
    sock: socket.socket | None,
    options: dict[str, Any],
) -> Server:
    """Let ``make`` listen loop by loop: the first one resolves the names and picks the ports."""
    if sock is not None and (host is not None or port is not None):
        raise ValueError("host/port and sock can not be specified at the same time")
    pool = current_pool()
    members = pool._members
    shared = pool._core.new_server() if len(members) > 1 else None
    # The program's choice: share the address, keep it exclusive, or the default.
    reuse_port = options.get("reuse_port")
    again = _bind_again if reuse_port or reuse_port is None else _share
    servers: list[tuple[_Member, asyncio.Server]] = []
    bound: list[socket.socket] = []

    async def listen_first(member: _Member) -> asyncio.Server:
        if reuse_port is not None or len(members) == 1:
            server = await make(host=host, port=port, **options)
            servers.append((member, server))
            return server
        # Bound exclusively first, which fails if the address is in use, even by a sharing socket.
        # The other loops' sockets may join it afterwards.
        starts = options.get("start_serving", True)
        server = await make(host=host, port=port, **{**options, "start_serving": False})
        servers.append((member, server))
        for one in server.sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if starts:
            await server.start_serving()
        return server

    async def listen(member: _Member) -> None:
        sources = (
            [sock.dup() if servers else sock]
            if sock is not None
            else [again(like) for like in bound]
        )
        if not sources:
            server = await listen_first(member)
            bound.extend(server.sockets)
            return
        try:
            while sources:
                server = await make(sock=sources[0], **_without_binding(options))
                sources.pop(0)
                servers.append((member, server))
        finally:
            for source in sources:
                source.close()

    try:
        with _sharing(shared):
            for member in members:
                await spawn_in(pool, listen(member), loop=member.loop)
    except BaseException:
        Server(pool, servers, shared).close()
        raise
    server = Server(pool, servers, shared)
    server._resume()
    return server


@contextlib.contextmanager
def _sharing(shared: _core.ServerCore | None) -> Iterator[None]:
    """Let listeners that are made in this context place their connections together."""
    token = pool_server.set(shared)
    try:
        yield
    finally:
        pool_server.reset(token)


def _without_binding(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that concern a socket which is already bound."""
    binding = {"family", "flags", "reuse_address", "reuse_port"}
    return {name: value for name, value in options.items() if name not in binding}


def _share(like: Any) -> socket.socket:
    """Return a duplicate of a socket."""
    duplicate: socket.socket = like.dup()
    return duplicate


def _bind_again(like: socket.socket) -> socket.socket:
    """Return a new socket bound to the address of another one, to share it with."""
    again = socket.socket(like.family, like.type, like.proto)
    try:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if like.family == socket.AF_INET6:
            again.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        again.setblocking(False)
        again.bind(like.getsockname())
    except BaseException:
        again.close()
        raise
    return again
