"""Promises of transports and listeners that were broken once, each held against asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..support import HANG, LoopFactory, check_script, drain, eventually, run_main

type Pair = tuple[asyncio.Transport, Any, socket.socket]


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """Closes at the end what a test puts into it."""
    with contextlib.ExitStack() as stack:
        yield stack


class Recorder(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")


class Buffered(asyncio.BufferedProtocol):
    """Asks `lend` for its buffers."""

    def __init__(self, lend: Callable[[Buffered], bytearray]) -> None:
        self.lend = lend
        self.told: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.lend(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


async def connect(factory: Callable[[], Any], sockets: contextlib.ExitStack) -> Pair:
    """Returns a transport, its protocol, and the socket at the other end."""
    near, far = socket.socketpair()
    sockets.enter_context(far)
    near.setblocking(False)
    far.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=near)
    return transport, protocol, far


# Reading


def _raise(_: Buffered) -> bytearray:
    raise ZeroDivisionError


def _lend_nothing(_: Buffered) -> bytearray:
    return bytearray()


def _abort(protocol: Buffered) -> bytearray:
    protocol.transport.abort()
    return bytearray(1)


@pytest.mark.parametrize(
    ("lend", "error"),
    [(_raise, ZeroDivisionError), (_lend_nothing, RuntimeError), (_abort, type(None))],
)
def test_a_connection_that_ends_while_its_protocol_is_asked_for_a_buffer(
    loop: asyncio.AbstractEventLoop,
    reported: list[dict[str, Any]],
    sockets: contextlib.ExitStack,
    lend: Callable[[Buffered], bytearray],
    error: type,
) -> None:
    # It waited for ever, for its own claim to read.
    async def main() -> None:
        _, protocol, far = await connect(lambda: Buffered(lend), sockets)
        protocol.buffer_updated = lambda _: None
        far.send(b"x")
        await eventually(lambda: bool(protocol.told), "the connection ends")
        assert [type(exc) for exc in protocol.told] == [error]

    run_main(loop, main())
    assert len(reported) == (error is not type(None))


# Writing


@pytest.mark.parametrize("closes", [False, True])
def test_a_write_that_empties_the_queue_is_noticed(
    loop: asyncio.AbstractEventLoop, sockets: contextlib.ExitStack, closes: bool
) -> None:
    # The protocol was not told to resume, and a closing connection never ended.
    async def main() -> None:
        transport, protocol, far = await connect(Recorder, sockets)
        transport.set_write_buffer_limits(high=1000)
        while "pause" not in protocol.told:
            transport.write(bytes(100_000))
        await asyncio.sleep(0.01)
        if closes:
            transport.close()

        def make_room() -> None:
            drain(far)
            time.sleep(0.001)  # long enough for the loop to ask the kernel
            loop.call_soon(transport.write, b"x")

        loop.call_soon(make_room)
        await asyncio.sleep(0.01)
        expected = ["made", "pause", "resume", *(["lost"] if closes else [])]

        def is_told() -> bool:
            if not far._closed:  # type: ignore[attr-defined]
                drain(far)
            return protocol.told == expected

        await eventually(is_told, "the protocol is told")
        transport.abort()
        await asyncio.sleep(0)

    run_main(loop, main())


def test_connection_lost_that_raises_after_a_flush_is_reported(
    loop: asyncio.AbstractEventLoop,
    reported: list[dict[str, Any]],
    sockets: contextlib.ExitStack,
) -> None:
    # It ended `run_forever`.
    class Failing(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ZeroDivisionError

    async def main() -> None:
        transport, protocol, far = await connect(Failing, sockets)
        while not transport.get_write_buffer_size():
            transport.write(bytes(100_000))
        transport.close()

        def is_lost() -> bool:
            drain(far)
            return "lost" in protocol.told

        await eventually(is_lost, "the connection ends")

    run_main(loop, main())
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_sendfile_over_an_accepted_connection_that_nobody_asked_for_its_socket(
    loop: asyncio.AbstractEventLoop, sockets: contextlib.ExitStack
) -> None:
    file = sockets.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    file.write(b"x" * 10_000)
    file.seek(0)

    class Sender(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.task = loop.create_task(self.send(transport))

        async def send(self, transport: asyncio.Transport) -> None:
            sent.append(await loop.sendfile(transport, file))
            transport.close()

    async def main() -> None:
        async with await loop.create_server(Sender, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b"x" * 10_000
            writer.close()
            await writer.wait_closed()

    sent: list[int] = []
    run_main(loop, main())
    assert sent == [10_000]


@pytest.mark.parametrize("high", [1.5, 2**80])
def test_any_number_is_a_mark(
    loop: asyncio.AbstractEventLoop, sockets: contextlib.ExitStack, high: Any
) -> None:
    async def main() -> None:
        transport, protocol, _ = await connect(Recorder, sockets)
        transport.set_write_buffer_limits(high=high, low=0)
        assert protocol.told == ["made"]
        transport.abort()
        await asyncio.sleep(0)

    run_main(loop, main())


# The beginning and the end


def test_a_connection_aborted_at_once_is_made_and_lost(
    loop: asyncio.AbstractEventLoop, sockets: contextlib.ExitStack
) -> None:
    # It was lost without having been made.
    async def main() -> None:
        near, far = socket.socketpair()
        sockets.enter_context(far)
        near.setblocking(False)
        protocol = Recorder()
        loop._make_socket_transport(near, protocol).abort()  # type: ignore[attr-defined]
        await eventually(lambda: "lost" in protocol.told, "the connection ends")
        assert protocol.told == ["made", "lost"]

    run_main(loop, main())


def test_connections_that_come_to_a_server_closed_meanwhile_leave_nothing(
    sockets: contextlib.ExitStack, no_descriptor_leak: None
) -> None:
    # They stayed with the loop on a descriptor that was closed, and read from its next owner.
    # (asyncio's own server keeps them open until they are collected.)
    import loop_pool

    protocols: list[Recorder] = []

    def factory() -> Recorder:
        server.close()
        protocols.append(Recorder())
        return protocols[-1]

    async def main() -> None:
        nonlocal server
        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for client in [socket.create_connection(address) for _ in range(3)]:
            client.setblocking(False)
            with client, contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(client, 1) == b""
        assert protocols
        assert not any(protocol.told for protocol in protocols)
        assert loop._stats()["transports"] == 0

    server: Any = None
    loop = loop_pool.new_event_loop()
    run_main(loop, main())
    loop.close()


def test_a_loop_closes_its_connections_though_their_server_is_kept(
    loop_factory: LoopFactory,
) -> None:
    # The server kept them.
    loop = loop_factory()
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        for _ in range(10):
            loop.run_until_complete(asyncio.sleep(0.001))
        client.settimeout(HANG)

        def close() -> None:
            loop.close()
            gc.collect()

        with pytest.warns(ResourceWarning):
            close()
        assert client.recv(1) == b""
    server.close()


def test_a_closed_loop_keeps_no_listener() -> None:
    import loop_pool

    loop = loop_pool.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
    core = loop._listeners[server.sockets[0]._sock]._core
    loop.close()
    assert not loop._listeners
    assert core.token == 0
    server.close()


# Threads and pools


def test_threads_that_ask_for_a_socket_at_once_get_the_same() -> None:
    # Each got one of its own, and the first that was dropped closed the connection's descriptor.
    check_script(
        """
        import asyncio, concurrent.futures, contextlib, os, socket, threading
        import loop_pool

        async def main():
            made = asyncio.Queue()

            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    made.put_nowait(transport)

            loop = asyncio.get_running_loop()
            async with await loop.create_server(Protocol, "127.0.0.1", 0) as server:
                address = server.sockets[0].getsockname()
                with contextlib.ExitStack() as stack:
                    transports = []
                    for _ in range(100):
                        stack.enter_context(socket.create_connection(address))
                        transports.append(await made.get())
                    together = threading.Barrier(3)

                    def ask():
                        together.wait()
                        return [transport.get_extra_info("socket") for transport in transports]

                    with concurrent.futures.ThreadPoolExecutor(3) as executor:
                        asked = [executor.submit(ask) for _ in range(3)]
                    for transport, *found in zip(transports, *(each.result() for each in asked)):
                        assert len({id(sock._sock) for sock in found}) == 1
                    del asked, found
                    for transport in transports:
                        os.fstat(transport._fd)
                        transport.abort()

        asyncio.run(main(), loop_factory=loop_pool.new_event_loop)
        """
    )


def test_a_server_made_by_a_connection_of_a_pool_s_server_is_its_own() -> None:
    # It took the other one's connections, and gave its own away.
    check_script(
        """
        import asyncio
        import loop_pool

        inner = []

        async def say_inner(reader, writer):
            writer.write(b"inner")
            writer.close()

        async def say_outer(reader, writer):
            if not inner:
                inner.append(await asyncio.start_server(say_inner, "127.0.0.1", 0))
            writer.write(b"outer")
            writer.close()

        async def ask(address):
            reader, writer = await asyncio.open_connection(*address)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

        async def main():
            async with await loop_pool.start_server(say_outer, "127.0.0.1", 0) as server:
                outer = server.sockets[0].getsockname()
                assert [await ask(outer) for _ in range(8)] == [b"outer"] * 8
                address = inner[0].sockets[0].getsockname()
                assert [await ask(address) for _ in range(8)] == [b"inner"] * 8
                loop = inner[0].get_loop()
                await loop_pool.spawn(close(), loop=loop)

        async def close():
            inner[0].close()
            await inner[0].wait_closed()

        loop_pool.run(main(), loops=3)
        """
    )
