"""Native streams on servers, on several loops and in several threads."""

from __future__ import annotations

import asyncio
import asyncio.trsock
import collections
import concurrent.futures
import contextlib
import gc
import random
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool
from loop_pool._loop import streams

from ..support import HANG, eventually, self_signed, turns

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


def serve[T](
    main: Callable[[Any], Coroutine[Any, Any, T]], handler: Any, loops: int = 1, **options: Any
) -> T:
    """Runs `main(address)` beside a native server."""

    async def body() -> T:
        server = await loop_pool.start_server(handler, "127.0.0.1", 0, **options)
        async with server:
            return await main(server.sockets[0].getsockname())

    return loop_pool.run(asyncio.wait_for(body(), HANG), loops=loops)


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.smoke
def test_a_server_and_its_clients_have_asyncio_s_streams(count: int) -> None:
    seen: list[tuple[Any, Any]] = []

    async def handler(reader: Any, writer: Any) -> None:
        seen.append((type(reader), type(writer)))
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert isinstance(writer.transport.get_protocol(), asyncio.StreamReaderProtocol)
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        await echo_lines(reader, writer)

    async def client(address: Any, number: int) -> None:
        pick = random.Random(number)
        reader, writer = await loop_pool.open_connection(*address)
        for _ in range(20):
            line = pick.randbytes(pick.randrange(20_000)).replace(b"\n", b"") + b"\n"
            for start in range(0, len(line), 7_000):
                writer.write(line[start : start + 7_000])
                await writer.drain()
            assert await reader.readline() == line
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def main(address: Any) -> None:
        async with loop_pool.TaskGroup() as group:
            for number in range(12):
                group.create_task(client(address, number))

    serve(main, handler, count)
    assert seen == [(streams.StreamReader, streams.StreamWriter)] * 12


def test_a_plain_function_serves_too() -> None:
    held: list[Any] = []

    def handler(reader: Any, writer: Any) -> None:
        held.append(reader)
        writer.writelines([b"hello", b" ", b"you"])
        writer.close()

    async def main(address: Any) -> bytes:
        reader, writer = await loop_pool.open_connection(*address)
        try:
            return await reader.read()
        finally:
            writer.close()

    assert serve(main, handler) == b"hello you"


@pytest.mark.parametrize("coroutine", [False, True])
def test_what_a_handler_raises_is_reported_and_closes_the_connection(
    coroutine: bool, logged_errors: list[str]
) -> None:
    def fails(reader: Any, writer: Any) -> None:
        raise ZeroDivisionError("in the handler")

    async def fails_later(reader: Any, writer: Any) -> None:
        await reader.readline()
        raise ZeroDivisionError("in the handler")

    async def main(address: Any) -> bytes:
        reader, writer = await loop_pool.open_connection(*address)
        writer.write(b"go\n")
        try:
            return await reader.read()
        finally:
            writer.close()

    assert serve(main, fails_later if coroutine else fails) == b""
    assert [message.splitlines()[0] for message in logged_errors] == [
        "Unhandled exception in client_connected_cb"
    ]
    logged_errors.clear()


def test_a_handler_that_is_cancelled_closes_the_connection_without_a_word() -> None:
    async def handler(reader: Any, writer: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await reader.readline()

    async def main(address: Any) -> bytes:
        reader, writer = await loop_pool.open_connection(*address)
        try:
            return await reader.read()
        finally:
            writer.close()

    assert serve(main, handler) == b""


def test_tls_from_the_beginning_and_in_mid_stream() -> None:
    server_context, client_context = self_signed()

    async def upgrade(reader: Any, writer: Any) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        await echo_lines(reader, writer)

    async def talk(reader: Any, writer: Any) -> None:
        assert writer.get_extra_info("sslcontext") is not None
        writer.write(b"secret\n" * 1000)
        await writer.drain()
        for _ in range(1000):
            assert await reader.readline() == b"secret\n"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def at_once(address: Any) -> None:
        await talk(
            *await loop_pool.open_connection(
                *address, ssl=client_context, server_hostname="localhost"
            )
        )

    async def later(address: Any) -> None:
        reader, writer = await loop_pool.open_connection(*address)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        await talk(reader, writer)

    serve(at_once, echo_lines, ssl=server_context)
    serve(later, upgrade)


def test_flow_control_holds_a_fast_sender_back() -> None:
    """A server that does not read yet takes what the buffers hold; then it gets every byte."""
    go = threading.Event()
    size = 16 * 1024 * 1024

    async def handler(reader: Any, writer: Any) -> None:
        await eventually(lambda: reader._paused, "the reader pauses its transport")
        assert len(reader._buffer) <= 2 * 1000 + 256 * 1024
        go.set()
        total = 0
        while data := await reader.read(100_000):
            total += len(data)
        writer.write(b"%d" % total)
        writer.close()

    async def main(address: Any) -> bytes:
        reader, writer = await loop_pool.open_connection(*address)
        writer.write(bytes(size))
        await writer.drain()
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()

    assert serve(main, handler, limit=1000) == b"%d" % size
    assert go.is_set()


def test_an_idle_connection_has_only_what_it_needs() -> None:
    """No socket object, no future, no deque: they would be most of what it costs."""

    def costly() -> Counter[type]:
        kinds = (asyncio.Future, asyncio.trsock.TransportSocket, collections.deque)
        return Counter(type(thing) for thing in gc.get_objects() if type(thing) in kinds)

    served: list[Any] = []

    async def handler(reader: Any, writer: Any) -> None:
        served.append(None)
        await reader.read(1)
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        writer.close()
        await writer.wait_closed()

    async def main(address: Any) -> None:
        before = costly()
        clients = [socket.create_connection(address) for _ in range(20)]
        await eventually(lambda: len(served) == 20, "all are served")
        await turns()
        more = costly() - before
        for client in clients:
            client.close()
        assert all(count < 10 for count in more.values()), more

    serve(main, handler)


def test_nothing_is_left_of_a_connection_that_has_ended(count: int) -> None:
    left: list[weakref.ref[Any]] = []

    async def handler(reader: Any, writer: Any) -> None:
        left.extend([weakref.ref(reader), weakref.ref(writer)])
        await echo_lines(reader, writer)

    async def main(address: Any) -> None:
        for _ in range(10):
            reader, writer = await loop_pool.open_connection(*address)
            left.extend([weakref.ref(reader), weakref.ref(writer)])
            writer.write(b"x\n")
            assert await reader.readline() == b"x\n"
            writer.close()
            await writer.wait_closed()
        del reader, writer

        def gone() -> bool:
            gc.collect()
            return all(reference() is None for reference in left)

        await eventually(gone, "everything is collected")
        assert len(left) == 40

    serve(main, handler, count)


def test_a_task_that_waits_for_ever_is_collected_with_its_reader() -> None:
    async def main() -> list[weakref.ref[Any]]:
        reader = streams.StreamReader()
        task = asyncio.create_task(reader.readline())
        await turns(3)
        return [weakref.ref(reader), weakref.ref(task)]

    loop = loop_pool.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    left = loop.run_until_complete(main())
    gc.collect()
    assert [reference() for reference in left] == [None, None]
    loop.close()


def test_data_for_a_reader_that_nobody_has_is_dropped() -> None:
    async def main() -> None:
        reader: Any = streams.StreamReader()
        protocol = streams.StreamProtocol(reader, loop=asyncio.get_running_loop())
        protocol.data_received(b"kept")
        assert bytes(reader._buffer) == b"kept"
        del reader
        gc.collect()
        protocol.data_received(b"dropped")
        protocol.eof_received()

    asyncio.run(main(), loop_factory=loop_pool.new_event_loop)


def test_a_writer_that_is_forgotten_warns_and_closes() -> None:
    async def main(address: Any) -> None:
        reader, writer = await loop_pool.open_connection(*address)
        with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
            del writer
        assert await reader.read() == b""

    serve(main, echo_lines)


# --- other threads ----------------------------------------------------------------------


def test_bytes_that_another_thread_feeds_arrive_in_order() -> None:
    lines = [b"%d\n" % number for number in range(5_000)]

    async def main() -> None:
        reader = streams.StreamReader(limit=2**30)

        def feed() -> None:
            for line in lines:
                reader.feed_data(line)
            asyncio.run_coroutine_threadsafe(end(), loop)

        async def end() -> None:
            reader.feed_eof()

        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=feed)
        thread.start()
        try:
            assert [line async for line in reader] == lines
        finally:
            thread.join()

    asyncio.run(asyncio.wait_for(main(), HANG), loop_factory=loop_pool.new_event_loop)


def test_threads_that_misuse_one_reader_lose_no_byte() -> None:
    """Several feed, several take what is there: each byte is taken once, and nothing crashes."""
    workers, rounds = 4, 3_000
    taken: list[bytes] = []
    start = threading.Barrier(2 * workers)
    loop = loop_pool.new_event_loop()
    reader = streams.StreamReader(limit=2**30, loop=loop)
    unfed = workers

    def feed(number: int) -> None:
        nonlocal unfed
        start.wait()
        for _ in range(rounds):
            reader.feed_data(bytes([number]) * 3)
        with lock:
            unfed -= 1

    def take() -> None:
        start.wait()
        while not done():
            operation = reader.read(5)
            try:
                operation.send(None)
            except StopIteration as stop:
                with lock:
                    taken.append(stop.value)
            except RuntimeError:
                pass  # another one waits
            finally:
                operation.close()
            repr(reader), reader.at_eof(), reader._buffer

    def done() -> bool:
        return unfed == 0 and not reader._buffer

    lock = threading.Lock()
    threads = [threading.Thread(target=feed, args=(number,)) for number in range(workers)]
    threads += [threading.Thread(target=take) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = b"".join(taken)
    for number in range(workers):
        assert everything.count(number) == 3 * rounds
    loop.close()


def test_one_operation_is_driven_by_one_thread_at_a_time() -> None:
    loop = loop_pool.new_event_loop()
    operations: list[Any] = []
    for _ in range(200):
        reader = streams.StreamReader(loop=loop)
        reader.feed_data(b"x")
        operations.append(reader.read(1))
    together = threading.Barrier(4)

    def drive() -> list[str]:
        ends = []
        together.wait(HANG)
        for operation in operations:
            try:
                operation.send(None)
            except BaseException as error:
                ends.append(type(error).__name__)
        return ends

    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        driven = [each.result(HANG) for each in [executor.submit(drive) for _ in range(4)]]
    for ends in zip(*driven, strict=True):
        assert ends.count("StopIteration") == 1
        assert set(ends) <= {"StopIteration", "RuntimeError", "ValueError"}
    loop.close()
