"""Stream transports: contexts, representation, collection, and who else may use the descriptor."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import re
import socket
import weakref
from typing import Any

import pytest

from ..support import (
    HANG,
    LoopFactory,
    Recorder,
    connected,
    eventually,
    in_thread,
    listen,
    receive,
    run_main,
    shut_down,
    stream_sockets,
    stuff,
    turns,
)

SHADE: contextvars.ContextVar[str] = contextvars.ContextVar("shade", default="none")

# Contexts


@pytest.mark.smoke
def test_every_callback_sees_the_context_of_the_making(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        seen: dict[str, str] = {}

        def see(name: str) -> Any:
            def look(*_: object) -> None:
                seen[name] = SHADE.get()

            return look

        names = ["connection_made", "data_received", "eof_received", "connection_lost"]
        SHADE.set("of the making")
        async with connected(Recorder(**{name: see(name) for name in names})) as (
            _,
            protocol,
            far,
        ):
            SHADE.set("later")
            far.sendall(b"x")
            await protocol.got(1)
            far.close()
            await protocol.ended()
        assert seen == dict.fromkeys(names, "of the making")
        assert SHADE.get() == "later"

    run_main(loop, main())


def test_what_data_received_sets_is_there_the_next_time_and_nowhere_else(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        seen: list[str] = []

        def look(_: object) -> None:
            seen.append(SHADE.get())
            SHADE.set("of the connection")

        async with connected(Recorder(data_received=look)) as (_, protocol, far):
            for number in range(1, 4):
                far.sendall(b"x")
                await protocol.got(number)
        assert seen == ["none", "of the connection", "of the connection"]
        assert SHADE.get() == "none"

    run_main(loop, main())


def test_connections_of_a_server_share_no_context(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        seen: list[str] = []
        protocols: list[Recorder] = []

        def look(_: object) -> None:
            seen.append(SHADE.get())
            SHADE.set("of one connection")

        def factory() -> Recorder:
            seen.append(SHADE.get())
            SHADE.set("of a factory")
            protocols.append(Recorder(data_received=look))
            return protocols[-1]

        SHADE.set("of the server")
        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            SHADE.set("later")
            for _ in range(3):
                with socket.create_connection(server.sockets[0].getsockname()) as client:
                    client.sendall(b"x")
                    await eventually(
                        lambda: bool(protocols) and bool(protocols[-1].data), "it has come"
                    )
                await protocols[-1].ended()
                protocols.clear()
        assert seen[::2] == ["of the server"] * 3
        assert set(seen[1::2]) <= {"of the server", "of a factory"}
        assert SHADE.get() == "later"

    run_main(loop, main())


def test_pause_writing_runs_in_the_context_of_the_writer(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        seen: list[str] = []
        protocol = Recorder(pause_writing=lambda: seen.append(SHADE.get()))
        async with connected(protocol) as (transport, _, _):
            SHADE.set("of the writer")
            transport.set_write_buffer_limits(0)
            stuff(transport)
        assert seen == ["of the writer"]

    run_main(loop, main())


# How it looks


def test_the_representation(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            fd = transport.get_extra_info("socket").fileno()
            await turns()
            idle = f" fd={fd} read=polling write=<idle, bufsize=0>>"
            assert re.match(r"<\w+ fd=", repr(transport))
            assert repr(transport).endswith(idle)
            transport.pause_reading()
            assert f" fd={fd} read=idle write=<idle, bufsize=0>>" in repr(transport)
            transport.resume_reading()
            queued = stuff(transport)
            size = transport.get_write_buffer_size()
            assert f" fd={fd} read=polling write=<polling, bufsize={size}>>" in repr(transport)
            transport.close()
            assert f" closing fd={fd} read=idle write=<polling, bufsize=" in repr(transport)
            await asyncio.to_thread(receive, far, len(queued))
            await protocol.ended()
            assert re.fullmatch(rf"<\w+ closed fd={fd}.*>", repr(transport))

    run_main(loop, main())


# Collection


def test_a_transport_that_is_watched_is_not_collected(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        with far:
            protocol: Recorder | None = Recorder()
            assert protocol is not None
            await loop.create_connection(lambda: protocol, sock=near)
            lost, reference = protocol.lost, weakref.ref(protocol)
            protocol = None
            gc.collect()
            assert reference() is not None
            far.close()
            await lost
            await turns()
            gc.collect()
            assert reference() is None

    run_main(loop, main())


def test_a_closed_transport_is_collected_quietly(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> list[weakref.ref[Any]]:
        references: list[weakref.ref[Any]] = []
        for how in ("close", "abort", "eof"):
            async with connected(Recorder()) as (transport, protocol, far):
                references += [weakref.ref(transport), weakref.ref(protocol)]
                if how == "eof":
                    far.close()
                else:
                    getattr(transport, how)()
                await protocol.ended()
        return references

    references = run_main(loop, main())
    run_main(loop, turns())
    gc.collect()
    assert [reference() for reference in references] == [None] * 6


def test_a_closed_transport_needs_no_collector(loop: asyncio.AbstractEventLoop) -> None:
    class Plain(asyncio.Protocol):
        def connection_lost(self, exc: BaseException | None) -> None:
            lost.set_result(None)

    async def main() -> weakref.ref[Any]:
        near, far = stream_sockets("tcp")
        with far:
            transport, _ = await loop.create_connection(Plain, sock=near)
            reference = weakref.ref(transport)
            transport.write(b"x")
            transport.close()
            await lost
            return reference

    lost = loop.create_future()
    gc.disable()
    try:
        reference = run_main(loop, main())
        run_main(loop, turns())
        assert reference() is None
    finally:
        gc.enable()


def test_an_open_transport_of_a_closed_loop_is_collected_with_a_warning(
    loop_factory: LoopFactory,
) -> None:
    def leave_open() -> socket.socket:
        async def connect() -> socket.socket:
            near, far = stream_sockets("tcp")
            await loop.create_connection(Recorder, sock=near)
            return far

        loop = loop_factory()
        far = run_main(loop, connect())
        shut_down(loop)
        return far

    with leave_open() as far:
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            gc.collect()
        assert far.recv(1) == b""


# The descriptor


@pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into", "sock_sendall", "sock_accept"])
def test_socket_operations_on_a_transport_s_socket_are_refused(
    loop: asyncio.AbstractEventLoop, method: str
) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        with far:
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            argument: dict[str, Any] = {
                "sock_recv": 10,
                "sock_recv_into": bytearray(10),
                "sock_sendall": bytes(64 << 20),
            }
            if method == "sock_accept":
                with pytest.raises(OSError, match="Invalid argument"):
                    await loop.sock_accept(near)
            else:
                with pytest.raises(RuntimeError, match="is used by transport"):
                    await getattr(loop, method)(near, argument[method])
            transport.abort()
            await protocol.ended()

    run_main(loop, main())


def test_the_descriptor_may_be_watched_once_its_transport_closes(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            fd = transport.get_extra_info("socket").fileno()
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(fd, print)
            transport.close()
            assert loop.remove_reader(fd) is False
            assert loop.remove_writer(fd) is False
            await protocol.ended()
            assert receive(far) == b""

    run_main(loop, main())


def test_a_descriptor_s_number_may_be_used_by_the_next_transport(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        numbers = set()
        for number in range(50):
            async with connected(Recorder()) as (transport, protocol, far):
                numbers.add(transport.get_extra_info("socket").fileno())
                if number % 2:
                    stuff(transport)
                far.sendall(b"x")
                await protocol.got(1)
                if number % 3:
                    transport.abort()
                else:
                    transport.pause_reading()
                await turns(1)
        assert len(numbers) < 10

    run_main(loop, main())


# Threads


# What becomes of it is not promised: of asyncio's it is half an end.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.parametrize("method", ["close", "abort"])
def test_debug_mode_refuses_an_end_by_another_thread(
    loop: asyncio.AbstractEventLoop, method: str
) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        with far:
            transport, _ = await loop.create_connection(Recorder, sock=near)
            loop.set_debug(True)
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await asyncio.to_thread(getattr(transport, method))
            loop.set_debug(False)
            transport.abort()
            await turns()

    run_main(loop, main())
    gc.collect()


def test_a_loop_takes_connections_of_a_listener_made_in_another_thread(
    loop: asyncio.AbstractEventLoop,
) -> None:
    def client(address: Any) -> bytes:
        with socket.create_connection(address, HANG) as sock:
            sock.sendall(b"from a thread")
            return receive(sock)

    async def main() -> None:
        listener = in_thread(listen)
        protocol = Recorder()
        async with await loop.create_server(lambda: protocol, sock=listener):
            protocol.hooks["data_received"] = lambda data: protocol.transport.write(data.upper())
            asking = asyncio.create_task(asyncio.to_thread(client, listener.getsockname()))
            await protocol.got(13)
            protocol.transport.close()
            assert await asking == b"FROM A THREAD"
            await protocol.ended()

    run_main(loop, main())
