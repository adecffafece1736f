"""After how many turns of a busy loop a descriptor that is ready has its callback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support import Recorder, run_main

type Loop = asyncio.AbstractEventLoop
type Sent = Callable[[], object]
type Seen = Callable[[], int]

TURNS = 4


@asynccontextmanager
async def a_transport(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    near, far = socket.socketpair()
    with far:
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, sock=near
        )
        yield lambda: far.send(b"x"), lambda: len(protocol.data)
        transport.abort()
        await protocol.ended()


@asynccontextmanager
async def two_streams(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    _, other = await asyncio.open_connection(sock=far)
    yield lambda: other.write(b"x"), lambda: len(reader._buffer)  # type: ignore[attr-defined]
    for one in (writer, other):
        one.close()
        await one.wait_closed()


@asynccontextmanager
async def a_reader(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    came = bytearray()
    with near, far:
        near.setblocking(False)
        loop.add_reader(near, lambda: came.extend(near.recv(100)))
        yield lambda: far.send(b"x"), lambda: len(came)
        loop.remove_reader(near)


@asynccontextmanager
async def a_pipe(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0) as near, os.fdopen(write, "wb", 0) as far:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
        yield lambda: far.write(b"x"), lambda: len(protocol.data)
        transport.close()
        await protocol.ended()


class Datagrams(asyncio.DatagramProtocol):
    """Counts what comes."""

    count = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.count += 1


@asynccontextmanager
async def a_datagram(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    with far:
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            Datagrams, sock=near
        )
        yield lambda: far.send(b"x"), lambda: protocol.count
        transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def a_listener(path: Path) -> AsyncIterator[tuple[Sent, Seen]]:
    made: list[asyncio.Protocol] = []
    clients: list[socket.socket] = []

    def factory() -> asyncio.Protocol:
        made.append(asyncio.Protocol())
        return made[-1]

    def connect() -> None:
        client = socket.socket(socket.AF_UNIX)
        clients.append(client)
        client.connect(str(path / "socket"))

    server = await asyncio.get_running_loop().create_unix_server(factory, path / "socket")
    yield connect, lambda: len(made)
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()


KINDS = [a_transport, two_streams, a_reader, a_pipe, a_datagram, a_listener]


@pytest.mark.smoke
@pytest.mark.parametrize("pending", [False, True], ids=["", "with a timer"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ready_is_seen_within_few_turns(
    loop: Loop, tmp_path: Path, kind: Any, pending: bool
) -> None:
    async def main() -> None:
        timer = loop.call_later(3600, int) if pending else None
        async with kind(tmp_path) as (send, seen):
            for sent in range(1, 31):
                # At another moment since the last poll each time, and once after a sleep.
                await asyncio.sleep(0.001 if sent == 15 else 0)
                for _ in range(sent):
                    await asyncio.sleep(0)
                send()
                count = 0
                while seen() < sent:
                    await asyncio.sleep(0)
                    count += 1
                assert count <= TURNS
        if timer is not None:
            timer.cancel()

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_loop_that_only_computes_does_not_ask_in_vain(loop: Loop) -> None:
    """With a connection open, or without: a turn costs more if it asks the kernel."""

    async def polls_in(turns: int) -> int:
        stats: Any = loop
        before = stats._stats()["polls"]
        for _ in range(turns):
            await asyncio.sleep(0)
        return int(stats._stats()["polls"] - before)

    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            # The first of these ask in each third turn, for what may come soon.
            await polls_in(2000)
            assert await polls_in(3000) < 500
            transport.abort()
            await protocol.ended()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("tasks", [0, 5, 600])
def test_a_sleep_asks_the_kernel_once(loop: Loop, tasks: int) -> None:
    """However many tasks wait; those that may have died are looked for in portions."""
    stats: Any = loop
    sleeps = 50

    async def main() -> None:
        waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in range(tasks)]
        await asyncio.sleep(0.01)
        before = stats._stats()["polls"]
        for _ in range(sleeps):
            await asyncio.sleep(0.001)
        # A timer may fire a moment before the clock is there, and the loop then sleeps again.
        assert stats._stats()["polls"] - before <= sleeps * 1.2 + 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run_main(loop, main())
