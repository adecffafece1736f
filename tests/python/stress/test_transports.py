"""Order and wholeness of bytes on pools: checked streams, rude peers, stuck loops, the collector.

The clients are blocking sockets in threads, so that they owe the loops nothing. A stream is made of
frames: length, number and checksum of what follows. The server checks each and sends it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually, receive, reset

pytestmark = pytest.mark.usefixtures("clean_process")

HEADER = struct.Struct(">III")
ECHO, CLOSE, ABORT = b"e", b"c", b"a"
"""What the first byte of a frame's content asks of the server."""


def frame(number: int, content: bytes) -> bytes:
    """One frame, as it goes over the wire."""
    return HEADER.pack(len(content), number, zlib.crc32(content)) + content


class Parser:
    """Checks a stream of frames and cuts it."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.expected = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The contents of the frames that are complete."""
        self.buffer += data
        while len(self.buffer) >= HEADER.size:
            length, number, checksum = HEADER.unpack_from(self.buffer)
            end = HEADER.size + length
            if len(self.buffer) < end:
                return
            content = bytes(self.buffer[HEADER.size : end])
            del self.buffer[:end]
            assert number == self.expected, f"frame {number} in the place of {self.expected}"
            assert zlib.crc32(content) == checksum, f"frame {number} is not what was sent"
            self.expected += 1
            yield content


class Book:
    """What the protocols of a server have to say; any of their threads writes it."""

    def __init__(self, seed: int = 0, pausing: bool = True) -> None:
        self.seed = seed
        self.pausing = pausing
        self.made: list[Echo] = []
        self.complaints: list[str] = []

    def factory(self) -> Echo:
        """A new protocol."""
        return Echo(self)

    async def all_lost(self) -> None:
        """Returns once every connection has ended, and nobody complained."""
        await eventually(lambda: all(each.lost for each in self.made), "all connections end")
        assert self.complaints == []
        assert {each.lost for each in self.made} <= {1}


class Echo(asyncio.Protocol):
    """Checks what it gets, sends it back, and pauses now and then."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.home = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.parser = Parser()
        self.random = random.Random(book.seed + len(book.made))
        self.paused = False
        self.lost = 0
        self.transport: Any = None
        book.made.append(self)

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.book.complaints.append(what)

    def _here(self, call: str) -> None:
        self._check(threading.get_ident() == self.thread, f"{call} on a foreign thread")
        self._check(asyncio.get_running_loop() is self.home, f"{call} on a foreign loop")
        self._check(not self.lost, f"{call} after connection_lost")

    def connection_made(self, transport: Any) -> None:
        self._here("connection_made")
        self._check(self.transport is None, "connection_made twice")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._here("data_received")
        self._check(not self.paused, "data_received while paused")
        self._check(self.transport is not None, "data_received before connection_made")
        try:
            contents = list(self.parser.feed(data))
        except AssertionError as exc:
            self._check(False, str(exc))
            self.transport.abort()
            return
        first = self.parser.expected - len(contents)
        for number, content in enumerate(contents, first):
            answer = frame(number, content)
            if number % 3:
                self.transport.write(answer)
            else:
                self.transport.writelines([answer[:5], b"", memoryview(answer)[5:]])
            if content[:1] == CLOSE:
                self.transport.close()
            elif content[:1] == ABORT:
                self.transport.abort()
        pausing = self.book.pausing and not self.transport.is_closing()
        if pausing and self.random.random() < 0.1:
            self.paused = True
            self.transport.pause_reading()
            if self.random.random() < 0.5:
                self.home.call_soon(self._resume)
            else:
                self.home.call_later(self.random.random() / 500, self._resume)

    def _resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        self._here("eof_received")
        self._check(not self.paused, "eof_received while paused")
        self._check(not self.parser.buffer or not self.lost, "half a frame")
        self.home.call_soon(self.transport.close)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._here("connection_lost")
        self.lost += 1


class Client:
    """One connection of a blocking client; what it does follows from its number."""

    KINDS = ("whole", "half-close", "slow", "close", "abort", "reset")

    def __init__(self, address: Any, number: int) -> None:
        self.address = address
        self.random = random.Random(number)
        self.kind = self.KINDS[number % len(self.KINDS)]
        self.sent = 0
        self.parser = Parser()

    def run(self) -> None:
        """Does it all; raises if what comes back is not what was sent."""
        with socket.create_connection(self.address, HANG) as sock:
            for _ in range(self.random.randrange(1, 6)):
                contents = [self._content(ECHO) for _ in range(self.random.randrange(1, 12))]
                self._send(sock, contents)
                if self.kind == "reset" and self.random.random() < 0.3:
                    break
                self._expect(sock, contents)
            if self.kind == "reset":
                reset(sock)
            elif self.kind == "half-close":
                contents = [self._content(ECHO) for _ in range(5)]
                self._send(sock, contents)
                sock.shutdown(socket.SHUT_WR)
                self._expect(sock, contents)
                assert sock.recv(1) == b""
            elif self.kind == "close":
                last = self._content(CLOSE)
                self._send(sock, [last])
                self._expect(sock, [last])
                assert sock.recv(1) == b""
            elif self.kind == "abort":
                self._send(sock, [self._content(ABORT)])
                with contextlib.suppress(ConnectionResetError):
                    receive(sock)

    def _content(self, kind: bytes) -> bytes:
        size = self.random.choice([0, 1, 100, 1_000, 5_000, 60_000])
        return kind + self.random.randbytes(size)

    def _send(self, sock: socket.socket, contents: list[bytes]) -> None:
        data = b"".join(frame(self.sent + n, content) for n, content in enumerate(contents))
        self.sent += len(contents)
        start = 0
        while start < len(data):
            size = self.random.choice([7, 1_000, 50_000, 1 << 20])
            sock.sendall(data[start : start + size])
            start += size

    def _expect(self, sock: socket.socket, contents: list[bytes]) -> None:
        got: list[bytes] = []
        while len(got) < len(contents):
            data = sock.recv(self.random.randrange(1, 3_000) if self.kind == "slow" else 65536)
            assert data, "the server ended early"
            got += self.parser.feed(data)
            if self.kind == "slow" and self.random.random() < 0.05:
                time.sleep(0.001)
        assert got == contents


def run_clients(address: Any, count: int, workers: int = 16) -> None:
    """Runs that many clients, some at a time; raises what the first of them raised."""

    def work(worker: int) -> Callable[[], None]:
        def each() -> None:
            for number in range(worker, count, workers):
                Client(address, number).run()

        return each

    with Threads(*(work(worker) for worker in range(workers))):
        pass


@contextlib.contextmanager
def collecting(really: bool = True) -> Iterator[None]:
    """A thread that collects garbage all the time."""
    stop = threading.Event()

    def collect() -> None:
        # With no pause at all, CPython 3.14 may let nobody else run for seconds.
        while not stop.wait(0.001):
            gc.collect()

    with Threads(*([collect] if really else [])):
        try:
            yield
        finally:
            stop.set()


async def _get_stuck(seconds: float, until: threading.Event) -> None:
    while not until.is_set():
        time.sleep(seconds)
        await asyncio.sleep(0.02)


def open_transports() -> int:
    """The native transports that are open now."""
    return sum(record.transports for record in loop_pool.current_pool().stats())


def run[T](main: Callable[[], Coroutine[Any, Any, T]], loops: int, steal: bool = True) -> T:
    """Runs `main` with a pool; a hang is a failure."""
    more: dict[str, Any] = {} if steal else {"steal": False}
    return loop_pool.run(asyncio.wait_for(main(), 2 * HANG), loops=loops, **more)


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
    run(lambda: _traffic(300), loops, steal)


@pytest.mark.stress
@pytest.mark.timeout(600)
@configurations
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_connections_stay_whole(loops: int, steal: bool, seed: int) -> None:
    async def main() -> None:
        for part in range(5):
            await _traffic(1_000, seed * 10_000 + part * 1_000)

    run(main, loops, steal)


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

    run(main, loops, steal)


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
