"""Which ports a pool-wide server gets: none that somebody has, unless both sides share it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

import loop_pool

from ..support import HANG

pytestmark = pytest.mark.usefixtures("clean_process")

HOST = "127.0.0.1"

type Start = Callable[..., Coroutine[Any, Any, loop_pool.Server]]


def _leave(_: Any, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _streams(*where: Any, **options: Any) -> loop_pool.Server:
    return await loop_pool.start_server(_leave, *where, **options)


async def _protocols(*where: Any, **options: Any) -> loop_pool.Server:
    return await loop_pool.create_server(asyncio.Protocol, *where, **options)


@pytest.fixture(params=[_streams, _protocols], ids=["start_server", "create_server"])
def start(request: pytest.FixtureRequest) -> Start:
    """One of the two ways to listen on every loop."""
    way: Start = request.param
    return way


def run[T](main: Coroutine[Any, Any, T], loops: int = 3) -> T:
    """Runs `main` with a pool; a hang is a failure."""
    return loop_pool.run(asyncio.wait_for(main, HANG), loops=loops)


@asynccontextmanager
async def _pool(**options: Any) -> AsyncIterator[int]:
    async with await _protocols(HOST, 0, **options) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def _plain(*, reuse_port: bool = False) -> AsyncIterator[int]:
    with socket.create_server((HOST, 0), reuse_port=reuse_port) as listener:
        yield listener.getsockname()[1]


HOLDERS: dict[str, Callable[[], Any]] = {
    "a socket": _plain,
    "a socket that shares": lambda: _plain(reuse_port=True),
    "a pool's server": _pool,
    "a pool's server that does not share": lambda: _pool(reuse_port=False),
    "a pool's server that shares": lambda: _pool(reuse_port=True),
}
SHARING = {"a socket that shares", "a pool's server that shares"}


@pytest.mark.smoke
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("options", [{}, {"reuse_port": False}], ids=str)
@pytest.mark.parametrize("loops", [1, 3])
def test_a_port_that_somebody_has_is_refused(
    start: Start, holder: str, options: dict[str, Any], loops: int
) -> None:
    async def main() -> None:
        async with HOLDERS[holder]() as port:
            with pytest.raises(OSError) as refused:
                await start(HOST, port, **options)
            assert refused.value.errno == errno.EADDRINUSE
            assert str(port) in str(refused.value)

    run(main(), loops)


# By default the sockets of several loops share their port with each other, and the kernel cannot
# tell them from others of the same user.
@pytest.mark.parametrize("holder", sorted(HOLDERS.keys() - {"a pool's server"}))
def test_a_port_is_shared_if_both_sides_say_so(start: Start, holder: str) -> None:
    async def main() -> None:
        async with HOLDERS[holder]() as port:
            if holder in SHARING:
                async with await start(HOST, port, reuse_port=True) as server:
                    assert {sock.getsockname()[1] for sock in server.sockets} == {port}
                return
            with pytest.raises(OSError) as refused:
                await start(HOST, port, reuse_port=True)
            assert refused.value.errno == errno.EADDRINUSE

    run(main())


@pytest.mark.parametrize(
    "options", [{}, {"reuse_port": False}, {"reuse_port": 0}, {"reuse_port": True}], ids=str
)
def test_every_loop_listens_and_connections_come_to_all(options: dict[str, Any]) -> None:
    served: set[int] = set()

    class Note(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            loop: Any = asyncio.get_running_loop()
            served.add(loop._pool_index)
            transport.write(b"hello")

    async def main() -> None:
        async with await loop_pool.create_server(Note, HOST, 0, **options) as server:
            assert len(server.sockets) == 3
            address = server.sockets[0].getsockname()
            assert {sock.getsockname() for sock in server.sockets} == {address}
            writers = []
            for _ in range(40):
                reader, writer = await asyncio.open_connection(*address)
                assert await reader.readexactly(5) == b"hello"
                writers.append(writer)
            for writer in writers:
                writer.close()
                await writer.wait_closed()

    run(main())
    assert served == {0, 1, 2}


@pytest.mark.parametrize("options", [{}, {"reuse_port": False}], ids=str)
def test_serving_may_begin_later(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with await _streams(HOST, 0, start_serving=False, **options) as server:
            address = server.sockets[0].getsockname()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            await server.start_serving()
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_port_is_free_again_once_the_server_is_closed(start: Start) -> None:
    async def main() -> None:
        async with await start(HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
        async with await start(HOST, port):
            pass

    run(main())


@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("where", [(HOST, None), (None, 0), (HOST, 0)], ids=str)
def test_an_address_and_a_socket_are_refused(
    start: Start, where: tuple[str | None, int | None], loops: int
) -> None:
    async def main() -> None:
        with socket.create_server((HOST, 0)) as sock:
            with pytest.raises(ValueError, match="host/port and sock can not be specified"):
                await start(*where, sock=sock)
            assert sock.fileno() >= 0

    run(main(), loops)


def test_neither_an_address_nor_a_socket_is_refused(start: Start) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="Neither host/port nor sock were specified"):
            await start()

    run(main())
