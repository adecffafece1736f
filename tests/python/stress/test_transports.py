"""Order and wholeness of bytes on pools: checked streams, rude peers, stuck loops, the collector.

The clients are blocking sockets in threads, so that they owe the loops nothing. A stream is made of
frames: length, number and checksum of what follows. The server checks each and sends it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually, receive, reset
from .support import ECHO, Book, Parser, collecting, frame, run, run_clients

pytestmark = pytest.mark.usefixtures("clean_process")


async def _get_stuck(seconds: float, until: threading.Event) -> None:
    while not until.is_set():
        time.sleep(seconds)
        await asyncio.sleep(0.02)


def open_transports() -> int:
    """The native transports that are open now."""
    return sum(record.transports for record in loop_pool.current_pool().stats())


async def _traffic(count: int, seed: int = 0) -> None:
    """Serves that many clients, and asserts that nothing of them is left."""
    book = Book(seed)
    async with await loop_pool.create_server(book.factory, "127.0.0.1", 0) as server:
        await asyncio.to_thread(run_clients, server.sockets[0].getsockname(), count)
        await eventually(lambda: len(book.made) == count, "each client had its protocol")
        await book.all_lost()


CONFIGURATIONS = [(1, True), (2, True), (8, True), (1, False), (2, False)]
configurations = pytest.mark.parametrize(
    ("loops", "steal"),
    CONFIGURATIONS,
    ids=[f"{loops}{'' if steal else '-no-stealing'}" for loops, steal in CONFIGURATIONS],
)


@pytest.mark.smoke
@configurations
def test_hundreds_of_connections_stay_whole(loops: int, steal: bool) -> None:
    run(lambda: _traffic(300), loops, steal=steal)


@pytest.mark.stress
@pytest.mark.timeout(600)
@configurations
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_connections_stay_whole(loops: int, steal: bool, seed: int) -> None:
    async def main() -> None:
        for part in range(5):
            await _traffic(1_000, seed * 10_000 + part * 1_000)

    run(main, loops, steal=steal)


@pytest.mark.parametrize("loops", [1, 2, 8])
def test_the_collector_disturbs_nobody(loops: int) -> None:
    with collecting():
        run(lambda: _traffic(40), loops)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("loops", [1, 2, 8])
def test_the_collector_disturbs_nobody_for_long(loops: int) -> None:
    with collecting():
        run(lambda: _traffic(2_000), loops)


@pytest.mark.parametrize("steal", [True, False], ids=["", "no-stealing"])
@pytest.mark.parametrize("loops", [2, 8])
def test_a_loop_that_is_stuck_again_and_again_loses_nothing(loops: int, steal: bool) -> None:
    async def main() -> None:
        over = threading.Event()
        victim = loop_pool.current_pool().loops[1]
        stuck = loop_pool.spawn(_get_stuck(0.2, over), loop=victim)
        try:
            await _traffic(60)
        finally:
            over.set()
        await stuck

    run(main, loops, steal=steal)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_loops_that_are_stuck_by_turns_lose_nothing_while_garbage_is_collected() -> None:
    async def main() -> None:
        over = threading.Event()
        pool = loop_pool.current_pool()
        stuck = [
            loop_pool.spawn(_get_stuck(0.05 * number, over), loop=loop)
            for number, loop in enumerate(pool.loops[1:], 1)
        ]
        try:
            await _traffic(1_000)
        finally:
            over.set()
        for each in stuck:
            await each

    with collecting():
        run(main, 4)


@pytest.mark.parametrize("loops", [1, 2])
def test_a_flood_into_a_reader_that_pauses_is_whole(loops: int) -> None:
    """Few connections, much data: the read-ahead and TCP's flow control between them."""
    sizes = {1: 10_000, 4_000: 1_000, 250_000: 32}

    def flood(address: Any, size: int, count: int) -> None:
        contents = [ECHO + bytes([number % 251]) * size for number in range(count)]
        with socket.create_connection(address, HANG) as sock:

            def send() -> None:
                for number, content in enumerate(contents):
                    sock.sendall(frame(number, content))
                sock.shutdown(socket.SHUT_WR)

            with Threads(send):
                parser = Parser()
                got: list[bytes] = []
                while data := sock.recv(65536):
                    got += parser.feed(data)
            assert got == contents

    async def main() -> None:
        book = Book()
        async with await loop_pool.create_server(book.factory, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            await asyncio.gather(
                *(asyncio.to_thread(flood, address, *each) for each in sizes.items())
            )
            await book.all_lost()

    run(main, loops)


def test_nothing_is_open_at_the_end() -> None:
    async def main() -> None:
        before = open_transports()
        book = Book()
        async with await loop_pool.create_server(book.factory, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            clients = [socket.create_connection(address, HANG) for _ in range(50)]
            for client in clients:
                client.sendall(frame(0, ECHO))
            await eventually(lambda: sum(each.parser.expected for each in book.made) == 50, "sent")
            await eventually(lambda: open_transports() == before + 50, "they are counted")
            for number, client in enumerate(clients):
                (reset if number % 2 else socket.socket.close)(client)
            await book.all_lost()
            await eventually(lambda: open_transports() == before, "none is left")

    run(main, 3)


@pytest.mark.parametrize("loops", [1, 3])
def test_connections_that_are_open_when_the_pool_ends_cost_nothing(loops: int) -> None:
    clients: list[socket.socket] = []

    async def main() -> None:
        book = Book()
        server = await loop_pool.create_server(book.factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for number in range(30):
            clients.append(socket.create_connection(address, HANG))
            clients[-1].sendall(frame(0, ECHO) + bytes(number % 10))
        await eventually(lambda: sum(each.parser.expected for each in book.made) == 30, "all talk")
        server.close()
        server.close_clients()
        await server.wait_closed()
        await book.all_lost()

    run(main, loops)
    for client in clients:
        with client:
            with contextlib.suppress(ConnectionResetError):
                receive(client)
