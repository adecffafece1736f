"""Transports in the hands of foreign threads: no crash, no torn data, no second end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, eventually, receive
from .support import Book, collecting, run, run_clients

pytestmark = pytest.mark.usefixtures("clean_process")


class Sink(asyncio.Protocol):
    """Counts what becomes of a connection."""

    made: list[Sink]

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.transport: Any = None
        self.calls: list[str] = []
        self.received = 0
        self.made.append(self)

    def _called(self, name: str) -> None:
        here = threading.get_ident() == self.thread
        self.calls.append(name if here else f"{name} on a foreign thread")

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("connection_made")

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def eof_received(self) -> None:
        self._called("eof_received")

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._called("connection_lost")

    @property
    def lost(self) -> bool:
        return "connection_lost" in self.calls


def sinks() -> type[Sink]:
    """A protocol class with a list of its own."""
    return type("Sink", (Sink,), {"made": []})


def _call_anything(rng: random.Random, transport: Any, protocol: Any) -> None:
    """Calls a method that leaves the bytes of a connection alone."""
    method = rng.choice(
        [
            lambda: (transport.pause_reading(), transport.resume_reading()),
            lambda: transport.get_extra_info(rng.choice(["socket", "peername", "sockname", "no"])),
            transport.get_write_buffer_size,
            transport.get_write_buffer_limits,
            lambda: transport.set_write_buffer_limits(rng.choice([0, 1, 1_000, 1 << 20])),
            transport.is_closing,
            transport.is_reading,
            transport.can_write_eof,
            transport.get_protocol,
            lambda: transport.set_protocol(protocol),
            lambda: repr(transport),
            lambda: transport.write(b""),
            lambda: transport.writelines([]),
        ]
    )
    method()


@contextlib.contextmanager
def meddling(book: Book, threads: int, seconds_seed: int = 0) -> Iterator[list[int]]:
    """Threads that call every harmless method of the open connections, over and over."""
    stop = threading.Event()
    calls = [0] * threads

    def meddle(number: int) -> Callable[[], None]:
        def each() -> None:
            rng = random.Random(seconds_seed + number)
            while not stop.wait(0.0005):
                live = [each for each in book.made if not each.lost and each.transport]
                for protocol in live:
                    _call_anything(rng, protocol.transport, protocol)
                    calls[number] += 1

        return each

    with Threads(*(meddle(number) for number in range(threads))):
        try:
            yield calls
        finally:
            stop.set()


async def _traffic_with_meddlers(count: int, seed: int = 0) -> None:
    book = Book(seed, pausing=False)  # Its own pauses would be undone by those of the meddlers.
    async with await loop_pool.create_server(book.factory, "127.0.0.1", 0) as server:
        with meddling(book, 2, seed) as calls:
            await asyncio.to_thread(run_clients, server.sockets[0].getsockname(), count, 8)
            await book.all_lost()
        assert sum(calls) > 0


@pytest.mark.parametrize("loops", [1, 2, 8])
def test_harmless_calls_of_foreign_threads_leave_the_streams_whole(loops: int) -> None:
    run(lambda: _traffic_with_meddlers(60), loops)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("loops", [1, 2, 8])
def test_harmless_calls_of_foreign_threads_for_long(loops: int) -> None:
    async def main() -> None:
        for seed in range(5):
            await _traffic_with_meddlers(300, seed * 1_000)

    with collecting():
        run(main, loops)


# Writing

RECORD = struct.Struct(">III")


@pytest.mark.parametrize("collect", [False, True], ids=["", "collecting"])
@pytest.mark.parametrize("slow", [False, True], ids=["", "slow"])
def test_what_foreign_threads_write_arrives_whole_and_in_each_one_s_order(
    slow: bool, collect: bool
) -> None:
    writers, count = 4, 300

    def write(transport: Any, writer: int) -> Callable[[], None]:
        def each() -> None:
            rng = random.Random(writer)
            for number in range(count):
                body = bytes([writer]) * rng.choice([1, 100, 5_000, 40_000 if slow else 2_000])
                record = RECORD.pack(writer, number, len(body)) + body
                if number % 2:
                    transport.write(record)
                else:
                    transport.writelines([record[:7], record[7:12], record[12:]])

        return each

    def read(client: socket.socket) -> None:
        expected = [0] * writers
        for _ in range(writers * count):
            writer, number, size = RECORD.unpack(receive(client, RECORD.size))
            assert number == expected[writer]
            expected[writer] += 1
            assert receive(client, size) == bytes([writer]) * size

    async def main() -> None:
        made = sinks()
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
                await eventually(lambda: bool(made.made) and bool(made.made[0].calls), "made")
                transport = made.made[0].transport

                def work() -> None:
                    targets = [write(transport, number) for number in range(writers)]
                    with Threads(*targets, lambda: read(client)):
                        pass

                await asyncio.to_thread(work)
            await eventually(lambda: made.made[0].lost, "it ends")

    with collecting(collect):
        run(main)


def test_a_parked_loop_sends_what_a_foreign_thread_writes() -> None:
    async def main() -> None:
        made = sinks()
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()

            def ask_many() -> None:
                for number in range(20):
                    with socket.create_connection(address, HANG) as client:
                        while len(made.made) <= number or not made.made[number].calls:
                            pass
                        transport = made.made[number].transport
                        transport.write(b"%03d" % number)
                        assert receive(client, 3) == b"%03d" % number
                        transport.write_eof()
                        assert receive(client) == b""
                        client.sendall(b"x")

            await asyncio.to_thread(ask_many)
            await eventually(lambda: all(each.lost for each in made.made), "all end")
            assert [each.received for each in made.made] == [1] * 20

    run(main, 3)


# Ending


@pytest.mark.parametrize("collect", [False, True], ids=["", "collecting"])
def test_connections_that_many_threads_end_at_once_end_once(collect: bool) -> None:
    rounds, enders = 15 if collect else 40, 4

    def end(transport: Any, rng: random.Random, barrier: threading.Barrier) -> None:
        methods = [
            transport.close,
            transport.abort,
            transport.pause_reading,
            transport.resume_reading,
            lambda: transport.write(b"x" * 100_000),
            lambda: transport.get_extra_info("socket"),
        ]
        rng.shuffle(methods)
        barrier.wait(HANG)
        for method in methods:
            method()

    async def main() -> None:
        made = sinks()
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            for number in range(rounds):
                with socket.create_connection(address, HANG) as client:
                    await eventually(
                        lambda: len(made.made) == number + 1 and bool(made.made[-1].calls),  # noqa: B023
                        "it is connected",
                    )
                    transport = made.made[-1].transport
                    barrier = threading.Barrier(enders + 1)

                    def talk(barrier: threading.Barrier, client: socket.socket) -> None:
                        barrier.wait(HANG)
                        with contextlib.suppress(OSError):
                            client.sendall(bytes(50_000))

                    def work(number: int, transport: Any, barrier: Any, client: Any) -> None:
                        enders_ = [
                            lambda seed=seed: end(
                                transport, random.Random(number * 10 + seed), barrier
                            )
                            for seed in range(enders)
                        ]
                        with Threads(*enders_, lambda: talk(barrier, client)):
                            pass

                    await asyncio.to_thread(work, number, transport, barrier, client)
                    await eventually(lambda: made.made[-1].lost, "it is lost")
        await asyncio.sleep(0)
        for protocol in made.made:
            assert protocol.calls.count("connection_lost") == 1, protocol.calls
            assert protocol.calls[-1] == "connection_lost", protocol.calls
            assert not any("foreign" in call for call in protocol.calls)

    with collecting(collect):
        run(main)


def test_many_threads_may_ask_for_the_socket_at_once() -> None:
    """An accepted connection has no socket object until somebody asks."""
    rounds, threads = 30, 8
    # The threads live through all rounds: to start as many is what takes long beside other work.
    barrier = threading.Barrier(threads + 1)
    made = sinks()
    answers: list[Any] = []

    def ask() -> None:
        for _ in range(rounds):
            barrier.wait(HANG)
            transport = made.made[-1].transport
            answers.append(transport.get_extra_info("socket"))
            answers.append(transport.get_extra_info("peername"))
            barrier.wait(HANG)

    async def main() -> None:
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            for number in range(rounds):
                with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
                    await eventually(
                        lambda: len(made.made) == number + 1 and bool(made.made[-1].calls),  # noqa: B023
                        "it is connected",
                    )
                    for _ in ("they ask", "they have asked"):
                        await asyncio.to_thread(barrier.wait, HANG)
                    assert len(answers) == 2 * threads
                    socks = {id(each) for each in answers if not isinstance(each, tuple)}
                    assert len(socks) == 1
                    names = {each for each in answers if isinstance(each, tuple)}
                    assert names == {client.getsockname()}
                    answers.clear()
                await eventually(lambda: made.made[-1].lost, "it is lost")

    with Threads(*(ask for _ in range(threads))):
        run(main)


def test_the_socket_may_be_asked_for_while_the_connection_ends() -> None:
    async def main() -> None:
        made = sinks()
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                for protocol in made.made[-20:]:
                    if protocol.transport is not None:
                        sock = protocol.transport.get_extra_info("socket")
                        assert sock is not None
                        assert isinstance(repr(protocol.transport), str)

        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()

            def come_and_go() -> None:
                try:
                    for _ in range(300):
                        socket.create_connection(address, HANG).close()
                finally:
                    stop.set()

            def work() -> None:
                with Threads(ask, ask, come_and_go):
                    pass

            await asyncio.to_thread(work)
            await eventually(
                lambda: len(made.made) == 300 and all(each.lost for each in made.made), "all end"
            )

    run(main)


# Debug mode


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.parametrize("method", ["close", "abort"])
def test_debug_mode_refuses_an_end_by_a_foreign_thread(method: str) -> None:
    async def main() -> None:
        made = sinks()
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
                await eventually(lambda: bool(made.made) and bool(made.made[0].calls), "made")
                protocol = made.made[0]
                with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                    await asyncio.to_thread(getattr(protocol.transport, method))
                # Refused means that nothing has happened.
                assert not protocol.transport.is_closing()
                client.sendall(b"x")
                await eventually(lambda: protocol.received == 1, "it goes on")
            await eventually(lambda: protocol.lost, "it ends")

    run(main, debug=True)


def test_debug_mode_answers_harmless_questions_of_a_foreign_thread() -> None:
    async def main() -> None:
        made = sinks()
        async with await loop_pool.create_server(made, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
                await eventually(lambda: bool(made.made) and bool(made.made[0].calls), "made")
                transport = made.made[0].transport

                def ask() -> None:
                    assert transport.get_extra_info("peername") == client.getsockname()
                    assert transport.get_extra_info("socket").fileno() >= 0
                    assert transport.get_write_buffer_size() == 0
                    assert transport.get_write_buffer_limits()[1] == 1 << 16
                    assert transport.is_closing() is False
                    assert transport.is_reading() is True
                    assert transport.get_protocol() is made.made[0]
                    assert "fd=" in repr(transport)

                await asyncio.to_thread(ask)
            await eventually(lambda: made.made[0].lost, "it ends")

    run(main, debug=True)
