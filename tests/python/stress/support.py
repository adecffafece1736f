"""Streams of checked frames: the server's side, which may be abused, and the clients'."""

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

from ..pool import support as pool
from ..support import HANG, Threads, eventually, receive, reset

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


def run[T](main: Callable[[], Coroutine[Any, Any, T]], loops: int = 2, **options: Any) -> T:
    """Runs `main` with a pool; a hang is a failure."""
    return pool.run(main, loops, limit=2 * HANG, **options)
