"""Connections used on other loops than their own: whole, in order, or refused and unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Recorder, Threads, eventually, receive, self_signed, turns
from .support import loops, run

pytestmark = pytest.mark.usefixtures("clean_process")

RECORDS = 60
RECORD = re.compile(rb"<(\d+):(\d+):(a*)>")


def record(caller: int, number: int) -> bytes:
    """What one caller writes: of a size that changes, now and then beyond a TLS record."""
    return b"<%d:%d:%b>" % (caller, number, b"a" * (number * 37 % 900 * (30 if number % 9 else 1)))


def check_records(data: bytes, callers: int, count: int = RECORDS) -> None:
    """Every record is there, whole, once, and behind the earlier ones of its caller."""
    place, expected = 0, [0] * callers
    while place < len(data):
        found = RECORD.match(data, place)
        assert found, f"torn at {place} of {len(data)}: {data[place : place + 40]!r}"
        caller, number = int(found[1]), int(found[2])
        assert number == expected[caller]
        assert found[0] == record(caller, number)
        expected[caller] += 1
        place = found.end()
    assert expected == [count] * callers


class Collector(asyncio.Protocol):
    """Keeps what comes; says when no more will."""

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self.data = bytearray()
        self.home = home
        self.ended = home.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: BaseException | None) -> None:
        self.home.call_soon_threadsafe(self.ended.set_result, bytes(self.data))


@contextlib.asynccontextmanager
async def link(kind: str) -> AsyncIterator[tuple[Any, Recorder, Collector]]:
    """A client's transport, its protocol, and its peer's; all on the running loop."""
    loop = asyncio.get_running_loop()
    server_tls, client_tls = self_signed() if kind == "tls" else (None, None)
    peer = Collector(loop)
    server = await loop.create_server(lambda: peer, "127.0.0.1", 0, ssl=server_tls)
    options: dict[str, Any] = {"ssl": client_tls, "server_hostname": "localhost"}
    async with server:
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), **(options if client_tls else {})
        )
        await eventually(lambda: hasattr(peer, "transport"), "it is accepted")
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await asyncio.wait_for(protocol.ended(), HANG)
            peer.transport.abort()
            await asyncio.wait_for(peer.ended, HANG)


# Writing

WAYS: dict[str, Callable[[Any, bytes], None]] = {
    "write": lambda transport, data: transport.write(data),
    "write of a bytearray": lambda transport, data: transport.write(bytearray(data)),
    "writelines": lambda transport, data: transport.writelines([data[:3], data[3:9], data[9:]]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["plain", "tls"])
@pytest.mark.parametrize("count", [2, 4])
def test_every_loop_writes_to_one_connection(kind: str, way: str, count: int) -> None:
    async def write(transport: Any, caller: int) -> None:
        for number in range(RECORDS):
            data = bytearray(record(caller, number))
            WAYS[way](transport, data)
            data[:] = bytes(len(data))  # what was written is a copy
            if number % 7 == 0:
                await asyncio.sleep(0)

    async def main() -> None:
        async with link(kind) as (transport, _, peer):
            callers = [
                loop_pool.spawn(write(transport, caller), loop=loop)
                for caller, loop in enumerate(loops())
            ]
            await asyncio.gather(*callers)
            # Behind all that was posted before.
            await loop_pool.call(loops()[1], transport.close)
            check_records(await asyncio.wait_for(peer.ended, HANG), count)

    run(main, count)


async def entered(kind: str) -> tuple[Any, Recorder, Collector, contextlib.AsyncExitStack]:
    """A link, and what ends it."""
    stack = contextlib.AsyncExitStack()
    return *await stack.enter_async_context(link(kind)), stack


def writers(transport: Any, together: threading.Barrier) -> list[Callable[[], None]]:
    """What three threads do that begin together: each writes its records."""

    def write(caller: int) -> None:
        together.wait(HANG)
        for number in range(RECORDS):
            transport.write(record(caller, number))

    return [functools.partial(write, caller) for caller in range(3)]


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_threads_write_while_the_loop_runs_and_while_it_does_not(kind: str) -> None:
    """The loop stops and goes on all the time; nobody runs it in between."""
    loop = loop_pool.new_event_loop()

    transport, _, peer, stack = loop.run_until_complete(entered(kind))
    together = threading.Barrier(4)
    wanted = sum(len(record(0, number)) for number in range(RECORDS)) * 3
    with Threads(*writers(transport, together)):
        together.wait(HANG)
        while len(peer.data) < wanted:
            loop.run_until_complete(turns(1))
    check_records(bytes(peer.data), 3)
    loop.run_until_complete(stack.aclose())
    loop.close()


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_threads_write_while_nobody_runs_the_loop(kind: str) -> None:
    loop = loop_pool.new_event_loop()
    transport, _, peer, stack = loop.run_until_complete(entered(kind))
    with Threads(*writers(transport, threading.Barrier(3))):
        pass
    transport.close()
    check_records(loop.run_until_complete(asyncio.wait_for(peer.ended, HANG)), 3)
    loop.run_until_complete(stack.aclose())
    loop.close()


def test_a_call_that_the_loop_did_not_come_to_is_made_before_the_next_one() -> None:
    """One thread writes while the loop is held up by its last callback, and when it has ended."""
    loop = loop_pool.new_event_loop()
    ours, theirs = socket.socketpair()
    written, go_on = threading.Event(), threading.Event()

    async def main() -> Any:
        return (await loop.create_connection(Recorder, sock=ours))[0]

    def last() -> None:
        loop.stop()
        go_on.set()
        assert written.wait(HANG)

    def write() -> None:
        assert go_on.wait(HANG)
        transport.write(b"first ")
        written.set()
        ended.wait(HANG)
        transport.write(b"second")

    ended = threading.Event()
    transport = loop.run_until_complete(main())
    with theirs, Threads(write):
        loop.call_soon(last)
        loop.run_forever()
        ended.set()
        theirs.settimeout(HANG)
        assert receive(theirs, 12) == b"first second"
        loop.run_until_complete(turns())
        transport.abort()
        loop.run_until_complete(turns())
    loop.close()


def test_datagrams_of_every_loop_arrive() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(HANG)
            transport, protocol = await loop.create_datagram_endpoint(
                Datagrams, remote_addr=peer.getsockname()
            )

            def send(caller: int) -> None:
                for number in range(20):
                    data = bytearray(b"%d:%d" % (caller, number))
                    transport.sendto(data)
                    data[:] = bytes(len(data))

            for caller, each in enumerate(loops()):
                await loop_pool.call(each, send, caller)
            await loop_pool.call(loops()[1], transport.close)
            await asyncio.wait_for(protocol.lost, HANG)
            sent = [b"%d:%d" % (caller, number) for caller in range(3) for number in range(20)]
            assert [peer.recv(1 << 16) for _ in sent] == sent

    run(main, 3)


class Datagrams(asyncio.DatagramProtocol):
    """Says when it is over."""

    def connection_made(self, transport: Any) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


def test_every_loop_writes_to_one_pipe() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        out, into = os.pipe()
        reader = asyncio.StreamReader()
        source, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader),
            open(out, "rb", 0),  # noqa: SIM115
        )
        sink = open(into, "wb", 0)  # noqa: SIM115
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sink)

        def write(caller: int) -> None:
            for number in range(RECORDS):
                transport.write(bytearray(record(caller, number)))

        await asyncio.gather(
            *(loop_pool.call(each, write, caller) for caller, each in enumerate(loops()))
        )
        await loop_pool.call(loops()[1], transport.write_eof)
        check_records(await asyncio.wait_for(reader.read(), HANG), 3)
        await loop_pool.call(loops()[1], source.close)
        await turns()

    run(main, 3)


# Streams


@pytest.mark.parametrize("count", [2, 4])
def test_writers_wait_on_their_own_loop_for_a_slow_reader(count: int) -> None:
    read_on = threading.Event()
    most = 0

    async def main() -> None:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        home = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.to_thread(read_on.wait, HANG)
            data = await reader.read()
            writer.close()
            home.call_soon_threadsafe(done.set_result, data)

        async def write(writer: asyncio.StreamWriter, caller: int) -> None:
            nonlocal most
            for number in range(RECORDS):
                writer.write(record(caller, number) + b"")
                writer.writelines([])
                await writer.drain()
                most = max(most, writer.transport.get_write_buffer_size())

        async with await loop_pool.start_server(serve, "127.0.0.1", 0, limit=1000) as server:
            host, port = server.sockets[0].getsockname()
            _, writer = await loop_pool.open_connection(host, port)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            writer.transport.set_write_buffer_limits(1000)
            tasks = [
                loop_pool.spawn(write(writer, caller), loop=loop)
                for caller, loop in enumerate(loops())
            ]
            await eventually(lambda: writer.transport.get_write_buffer_size() > 1000, "it is full")
            read_on.set()
            await asyncio.wait_for(asyncio.gather(*tasks), HANG)

            async def end() -> None:
                writer.close()
                await writer.wait_closed()
                assert writer.is_closing()
                with pytest.raises(ConnectionError):
                    await writer.drain()

            await asyncio.wait_for(loop_pool.call(loops()[1], end), HANG)
            check_records(await asyncio.wait_for(done, HANG), count)

    run(main, count)
    # Each has written one record more, at most, while the others waited.
    assert most <= 1000 + count * 28_000


def test_a_drain_that_is_made_here_may_be_awaited_elsewhere_and_cancelled() -> None:
    async def main() -> None:
        accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        home = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            home.call_soon_threadsafe(accepted.set_result, writer)
            await writer.wait_closed()

        async with await loop_pool.start_server(serve, "127.0.0.1", 0, limit=1000) as server:
            host, port = server.sockets[0].getsockname()
            _, writer = await loop_pool.open_connection(host, port)
            peer = await accepted
            writer.transport.set_write_buffer_limits(0)
            while not writer.transport.get_write_buffer_size():
                writer.write(bytes(1 << 20))
            task = loop_pool.spawn(writer.drain(), loop=loops()[1])
            protocol: Any = writer._protocol  # type: ignore[attr-defined]
            await eventually(
                lambda: len(protocol._drain_waiters) == 1, "it waits on the writer's loop"
            )
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not protocol._drain_waiters
            writer.transport.abort()
            await asyncio.wait_for(asyncio.wait([asyncio.ensure_future(closed(writer))]), HANG)
            peer.close()

    run(main)


async def closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def test_a_writer_upgrades_to_tls_from_another_loop() -> None:
    server_tls, client_tls = self_signed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await writer.start_tls(server_tls)
        writer.write((await reader.readline()).upper())
        writer.close()
        await closed(writer)

    async def main() -> None:
        async with await loop_pool.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await loop_pool.open_connection(host, port)

            async def upgrade() -> None:
                writer.write(b"begin\n")
                await writer.start_tls(client_tls, server_hostname="localhost")
                writer.write(b"hello\n")
                await writer.drain()

            await asyncio.wait_for(loop_pool.call(loops()[1], upgrade), HANG)
            assert await asyncio.wait_for(reader.readline(), HANG) == b"HELLO\n"
            writer.close()
            await closed(writer)

    run(main)


# Debug mode

CALLS: dict[str, Callable[[Any], object]] = {
    "write": lambda transport: transport.write(b"refused"),
    "writelines": lambda transport: transport.writelines([b"refused"]),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "pause_reading": lambda transport: transport.pause_reading(),
    "resume_reading": lambda transport: transport.resume_reading(),
    "set_protocol": lambda transport: transport.set_protocol(asyncio.Protocol()),
    "set_write_buffer_limits": lambda transport: transport.set_write_buffer_limits(0),
}
REFUSED = "Non-thread-safe operation"


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_debug_mode_refuses_and_the_connection_is_as_before(kind: str) -> None:
    calls = dict(CALLS)
    if kind == "tls":
        calls["set_read_buffer_limits"] = lambda transport: transport.set_read_buffer_limits(0)
    else:
        calls["write_eof"] = lambda transport: transport.write_eof()

    async def main() -> None:
        for name, method in calls.items():
            async with link(kind) as (transport, protocol, peer):
                marks = transport.get_write_buffer_limits()
                for place in (
                    lambda: loop_pool.call(loops()[1], method, transport),  # noqa: B023
                    lambda: asyncio.to_thread(method, transport),  # noqa: B023
                ):
                    with pytest.raises(RuntimeError, match=REFUSED):
                        await place()
                assert not transport.is_closing(), name
                assert transport.is_reading()
                assert transport.get_protocol() is protocol
                assert transport.get_write_buffer_limits() == marks
                transport.write(b"own")
                peer.transport.write(b"answer")
                await eventually(
                    lambda: peer.data == b"own" and protocol.data == b"answer",
                    f"it goes on after {name}",
                )
                # The end of `link` brings `connection_lost`.

    run(main, debug=True)


async def refuse(transport: Any, *names: str) -> None:
    """Calls methods on another loop and in a thread; each is refused, and has done nothing."""
    arguments: dict[str, Any] = {"write": (b"refused",), "sendto": (b"refused",)}
    for name in names:
        method, args = getattr(transport, name), arguments.get(name, ())
        with pytest.raises(RuntimeError, match=REFUSED):
            await loop_pool.call(loops()[1], method, *args)
        with pytest.raises(RuntimeError, match=REFUSED):
            await asyncio.to_thread(method, *args)
        assert not transport.is_closing(), name


def test_debug_mode_refuses_and_datagrams_go_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(HANG)
            transport, protocol = await loop.create_datagram_endpoint(
                Datagrams, remote_addr=peer.getsockname()
            )
            await refuse(transport, "sendto", "close", "abort", "pause_reading", "resume_reading")
            transport.sendto(b"own")
            assert peer.recv(100) == b"own"
            transport.abort()
            await asyncio.wait_for(protocol.lost, HANG)

    run(main, debug=True)


def test_debug_mode_refuses_and_pipes_go_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        out, into = os.pipe()
        source_protocol, sink_protocol = Recorder(), Recorder()
        source, _ = await loop.connect_read_pipe(
            lambda: source_protocol,
            open(out, "rb", 0),  # noqa: SIM115
        )
        sink, _ = await loop.connect_write_pipe(
            lambda: sink_protocol,
            open(into, "wb", 0),  # noqa: SIM115
        )
        await refuse(source, "close", "pause_reading", "resume_reading")
        await refuse(sink, "write", "write_eof", "close", "abort")
        sink.write(b"own")
        await source_protocol.got(3)
        sink.abort()
        await sink_protocol.ended()
        await source_protocol.ended()
        assert source_protocol.data == b"own"

    run(main, debug=True)


def test_debug_mode_refuses_what_a_writer_waits_for() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main() -> None:
        async with await loop_pool.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await loop_pool.open_connection(host, port)
            for method in (writer.drain, writer.wait_closed):
                with pytest.raises(RuntimeError, match=REFUSED):
                    await loop_pool.call(loops()[1], method)
            with pytest.raises(RuntimeError, match=REFUSED):
                await loop_pool.call(loops()[1], writer.write, b"refused")
            writer.write(b"own\n")
            await writer.drain()
            assert await reader.readline() == b"OWN\n"
            writer.close()
            await writer.wait_closed()

    run(main, debug=True)


def test_a_forgotten_writer_ends_its_connection_on_whichever_thread_it_is_dropped() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await loop_pool.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await loop_pool.open_connection(host, port)
            writer.cycle = writer  # type: ignore[attr-defined]
            del writer

            def drop() -> None:
                with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
                    gc.collect()

            await asyncio.to_thread(drop)
            assert await asyncio.wait_for(reader.read(), HANG) == b""

    run(main, debug=True)


def test_a_server_waits_for_no_connection_that_was_collected_on_another_thread() -> None:
    class Forgotten(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()
            self.cycle = transport
            made.set()

    made = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Forgotten, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), HANG) as client:
            await made.wait()
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await turns()

            def collect() -> None:
                with pytest.warns(ResourceWarning, match="unclosed transport"):
                    gc.collect()

            await asyncio.to_thread(collect)
            await asyncio.wait_for(waiting, HANG)
            assert receive(client) == b""

    run(main, debug=True)


# What else a TLS connection consists of


OPENSSL = ("_do_handshake", "_do_read", "_do_write", "_do_shutdown")
"""What of asyncio's protocol reaches OpenSSL."""


@pytest.mark.parametrize("state", ["handshake", "open", "closed"])
def test_any_method_of_a_tls_connection_from_many_threads_at_once(state: str) -> None:
    """No method of it may harm memory, in whichever state; `connection_lost` comes once."""

    def use(transport: Any, below: Any, together: threading.Barrier) -> Callable[[], None]:
        tls = transport._ssl_protocol
        methods: list[Callable[[], object]] = [
            lambda: transport.write(b"x" * 20_000),
            lambda: transport.writelines([b"x", bytearray(b"y" * 20_000)]),
            lambda: tls.data_received(b""),
            lambda: tls.buffer_updated(0),
            tls._process_outgoing,
            *(getattr(tls, name) for name in OPENSSL),
            transport.pause_reading,
            transport.resume_reading,
            lambda: transport.set_write_buffer_limits(0),
            lambda: transport.set_read_buffer_limits(1 << 20),
            transport.get_write_buffer_size,
            transport.get_read_buffer_size,
            transport.is_closing,
            lambda: transport.get_extra_info("ssl_object"),
            lambda: repr(below),
        ]

        def each() -> None:
            together.wait(HANG)
            for _ in range(10):
                for method in methods:
                    # A connection that is closed twice knows no protocol any more, as asyncio's.
                    with contextlib.suppress(AttributeError):
                        method()
            for method in (transport.close, transport.abort):
                method()

        return each

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # what posted calls of a closed one raise
        server_tls, client_tls = self_signed()
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            protocol = Recorder()
            waiter: Any = loop.create_future()
            transport = loop._make_ssl_transport(  # type: ignore[attr-defined]
                ours, protocol, client_tls, waiter, server_hostname="localhost"
            )
            below = None
            if state == "handshake":
                await turns()
            else:
                peer = asyncio.create_task(
                    loop.connect_accepted_socket(Recorder, theirs, ssl=server_tls)
                )
                await asyncio.wait_for(waiter, HANG)
                await peer
                below = transport._ssl_protocol._transport
            if state == "closed":
                transport.close()
            together = threading.Barrier(4)

            def work() -> None:
                with Threads(*(use(transport, below, together) for _ in range(4))):
                    pass

            await asyncio.to_thread(work)
            if state == "handshake":
                await asyncio.wait_for(asyncio.wait([waiter]), HANG)
            else:
                await asyncio.wait_for(protocol.ended(), HANG)
                assert protocol.count("connection_lost") == 1
            await turns()

    run(main)
