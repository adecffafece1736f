"""`loop_pool.start_server`: asyncio's streams server, with a listener on every loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import loop_pool

from ..support import HANG, echo, eventually, listen, self_signed
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")

LOOPS = 3


async def _ask(address: Any, question: bytes, **more: Any) -> bytes:
    """Sends everything while it reads everything, up to the end of both."""
    reader, writer = await asyncio.open_connection(*address[:2], **more)

    async def send() -> None:
        writer.write(question)
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        answer = await reader.readexactly(len(question))
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.smoke
def test_every_loop_has_a_listener_on_one_address() -> None:
    async def main() -> None:
        async with await loop_pool.start_server(echo, "127.0.0.1", 0) as server:
            assert len(server.sockets) == LOOPS
            assert len({sock.getsockname() for sock in server.sockets}) == 1
            assert len({sock.fileno() for sock in server.sockets}) == LOOPS
            assert await _ask(server.sockets[0].getsockname(), b"hello") == b"hello"

    run(main, LOOPS)


def test_clients_on_every_loop_get_their_own_bytes() -> None:
    async def client(address: Any) -> None:
        questions = [os.urandom(50_000) for _ in range(10)]
        answers = await asyncio.gather(*(_ask(address, question) for question in questions))
        assert answers == questions

    async def main() -> None:
        async with await loop_pool.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            loops = loop_pool.current_pool().loops
            clients = [loop_pool.spawn(client(address), loop=loop) for loop in loops]
            for each in clients:
                await each

    run(main, LOOPS)


@pytest.mark.smoke
def test_every_loop_accepts() -> None:
    async def main() -> None:
        accepted: set[asyncio.AbstractEventLoop] = set()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.add(asyncio.get_running_loop())
            writer.close()
            await writer.wait_closed()

        async with await loop_pool.start_server(accept, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            connections = 0
            while len(accepted) < LOOPS:
                connections += 1
                assert connections < 2_000, "the kernel hashes connections over all listeners"
                reader, writer = await asyncio.open_connection(*address)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
            assert accepted == set(loop_pool.current_pool().loops)

    run(main, LOOPS)


def test_a_loop_that_was_stuck_before_it_listened_gets_its_share() -> None:
    """What holds a loop up while a program starts, as imports do, is no sign of what it serves."""

    async def where(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(repr(asyncio.get_running_loop()).encode() + b"\n")
        await reader.read()
        writer.close()

    def ask(address: tuple[str, int]) -> list[bytes]:
        with contextlib.ExitStack() as opened:
            clients = [
                opened.enter_context(socket.create_connection(address, HANG))
                for _ in range(4 * LOOPS)
            ]
            return [client.makefile("rb").readline() for client in clients]

    async def main() -> None:
        here = asyncio.get_running_loop()
        pool = loop_pool.current_pool()
        while pool.stats()[0].handoffs == 0:  # until the monitor has seen it stuck
            time.sleep(0.1)
            await asyncio.sleep(0)
        async with await loop_pool.start_server(where, "127.0.0.1", 0) as server:
            # From a thread: a loop that opens them is busy with that, which does count.
            answers = await asyncio.to_thread(ask, server.sockets[0].getsockname())
        assert answers.count(repr(here).encode() + b"\n") >= LOOPS

    run(main, LOOPS)


async def _open_idle(opened: contextlib.AsyncExitStack, count: int) -> None:
    """Opens connections of the program's own on this loop, through which nothing passes."""
    loop = asyncio.get_running_loop()
    silent = opened.enter_context(contextlib.closing(listen()))
    accepting = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    opened.callback(accepting.close_clients)
    opened.callback(accepting.close)
    for _ in range(count):
        near, far = socket.socketpair()
        opened.callback(far.close)
        to = [sock.getsockname() for sock in (silent, *accepting.sockets)]
        for transport, _ in (
            *[await loop.create_connection(asyncio.Protocol, *address) for address in to],
            await loop.create_connection(asyncio.Protocol, sock=near),
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            ),
        ):
            opened.callback(transport.abort)


def test_what_the_program_opened_by_itself_and_does_nothing_is_no_load() -> None:
    async def where(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = asyncio.get_running_loop()
        writer.write(b"%d\n" % loop_pool.current_pool().loops.index(here))
        await reader.read()
        writer.close()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as opened:
            await _open_idle(opened, 10)
            server = await opened.enter_async_context(
                await loop_pool.start_server(where, "127.0.0.1", 0)
            )
            answers = []
            for _ in range(8 * LOOPS):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                opened.callback(writer.close)
                answers.append(await reader.readline())
        assert answers.count(b"0\n") >= 4

    run(main, LOOPS)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_closed_server_serves_what_was_accepted_for_a_loop_that_is_stuck(tls: bool) -> None:
    """Another thread accepts for it, before it gets to close its own listener."""
    server_context, client_context = self_signed() if tls else (None, None)

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def main() -> None:
        held, released = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            assert released.wait(HANG)

        last = loop_pool.current_pool().loops[-1]
        server = await loop_pool.start_server(hello, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        holding = asyncio.ensure_future(loop_pool.call(last, hold))
        try:
            await asyncio.to_thread(held.wait, HANG)
            for loop in loop_pool.current_pool().loops[1:-1]:
                await loop_pool.call(loop, lambda: None)
            server.close()
            await eventually(lambda: len(_backlogs(address[1])) == 1, "the others have closed")
            clients = [socket.create_connection(address, HANG) for _ in range(5)]
            await eventually(lambda: _backlogs(address[1]) == [0], "all are accepted")
        finally:
            released.set()
        await holding
        for client in clients:
            reader, writer = await asyncio.open_connection(
                sock=client, ssl=client_context, server_hostname="localhost" if tls else None
            )
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()
        await server.wait_closed()

    run(main, LOOPS)


def _backlogs(port: int) -> list[int]:
    """How many connections wait in the queue of each listener on the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
    return [int(row[4].split(":")[1], 16) for row in listening]


def test_the_callback_may_be_a_plain_function() -> None:
    async def main() -> None:
        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"plain")
            writer.close()

        async with await loop_pool.start_server(accept, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"plain"
            writer.close()
            await writer.wait_closed()

    run(main, LOOPS)


def test_a_closed_server_listens_no_more() -> None:
    async def main() -> None:
        server = await loop_pool.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        assert await _ask(address, b"open") == b"open"
        server.close()
        await server.wait_closed()
        assert server.sockets == ()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        server.close()
        await server.wait_closed()

    run(main, LOOPS)


def test_a_server_is_closed_from_another_loop() -> None:
    async def close(server: loop_pool.Server) -> None:
        server.close()
        await server.wait_closed()

    async def main() -> None:
        server = await loop_pool.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await loop_pool.spawn(close(server), loop=loop_pool.current_pool().loops[1])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    run(main, LOOPS)


def test_wait_closed_waits_for_open_connections() -> None:
    async def main() -> None:
        order: list[str] = []
        entered, leave = asyncio.Event(), asyncio.Event()
        here = asyncio.get_running_loop()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            here.call_soon_threadsafe(entered.set)
            await reader.read()
            order.append("connection ended")
            writer.close()
            await writer.wait_closed()

        server = await loop_pool.start_server(hold, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await entered.wait()
        server.close()

        async def wait() -> None:
            await server.wait_closed()
            order.append("wait_closed returned")

        waiting = asyncio.create_task(wait())
        here.call_soon(leave.set)
        await leave.wait()
        assert order == []
        writer.close()
        await writer.wait_closed()
        await waiting
        assert order == ["connection ended", "wait_closed returned"]

    run(main, LOOPS)


def test_a_given_socket_is_shared_by_all_loops() -> None:
    async def main() -> None:
        with listen() as sock:
            async with await loop_pool.start_server(echo, sock=sock) as server:
                assert {each.getsockname() for each in server.sockets} == {sock.getsockname()}
                for _ in range(10):
                    assert await _ask(sock.getsockname(), b"shared") == b"shared"

    run(main, LOOPS)


def test_a_server_over_tls() -> None:
    server_context, client_context = self_signed()

    async def echo_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await loop_pool.start_server(echo_line, "127.0.0.1", 0, ssl=server_context)
        async with server:
            address = server.sockets[0].getsockname()
            for _ in range(10):
                more = {"ssl": client_context, "server_hostname": "localhost"}
                assert await _ask(address, b"secret\n", **more) == b"secret\n"

    run(main, LOOPS)


def test_options_reach_every_loop_s_streams() -> None:
    async def main() -> None:
        errors: list[str] = []

        async def read_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readline()
            except ValueError as exc:
                errors.append(str(exc))
            writer.close()
            await writer.wait_closed()

        async with await loop_pool.start_server(read_line, "127.0.0.1", 0, limit=16) as server:
            address = server.sockets[0].getsockname()
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"longer than sixteen bytes\n")
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
        assert len(errors) == 20

    run(main, LOOPS)


def test_an_address_in_use_is_an_error_and_leaves_nothing() -> None:
    async def main() -> None:
        with listen() as taken:
            with pytest.raises(OSError, match="in use"):
                await loop_pool.start_server(echo, *taken.getsockname())
        with pytest.raises(socket.gaierror):
            await loop_pool.start_server(echo, "no.such.host.invalid", 0)

    run(main, LOOPS)


def test_a_callback_that_raises_costs_one_connection(logged_errors: list[str]) -> None:
    async def main() -> None:
        async def fails(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            raise ZeroDivisionError

        async with await loop_pool.start_server(fails, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            for _ in range(5):
                reader, writer = await asyncio.open_connection(*address)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()

    run(main, LOOPS)
    assert len(logged_errors) == 5
    assert all("client_connected_cb" in message for message in logged_errors)
    logged_errors.clear()


def test_outside_a_pool_no_server_is_started() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="pool"):
            await loop_pool.start_server(echo, "127.0.0.1", 0)

    asyncio.run(main(), loop_factory=loop_pool.new_event_loop)


def test_protocols_live_on_the_loop_that_accepted() -> None:
    made_on: list[asyncio.AbstractEventLoop] = []

    class Echo(asyncio.Protocol):
        def __init__(self) -> None:
            self.home = asyncio.get_running_loop()
            made_on.append(self.home)

        def connection_made(self, transport: Any) -> None:
            assert asyncio.get_running_loop() is self.home
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert asyncio.get_running_loop() is self.home
            self.transport.write(data)

        def eof_received(self) -> None:
            assert asyncio.get_running_loop() is self.home

    async def main() -> None:
        pool = loop_pool.current_pool()
        async with await loop_pool.create_server(Echo, "127.0.0.1", 0) as server:
            assert len(server.sockets) == LOOPS
            address = server.sockets[0].getsockname()
            while set(made_on) != set(pool.loops):
                question = os.urandom(1000)
                assert await _ask(address, question) == question

    run(main, LOOPS)
