"""The program closes, or takes away, the descriptor of a transport, a listener or an operation.

Its number is then given to another descriptor, a stranger's: nothing is written to that or taken
from it, and it can be used at once, on the same loop too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, Recorder, eventually, listen, run_main, stream_sockets, turns
from .support import Datagrams, socket_with_number

type Loop = asyncio.AbstractEventLoop
type Take = Callable[[Any], None]


def close(sock: Any) -> None:
    """Closes the object."""
    sock.close()


def detach(sock: Any) -> None:
    """Takes the number away, and closes that."""
    os.close(sock.detach())


TAKING = pytest.mark.parametrize("take", [close, detach])


def _taken(sock: socket.socket, take: Take, pair: Callable[[], Any] = socket.socketpair) -> Any:
    """The program takes a socket away; returns a stranger with its number, and its peer."""
    fd = sock.fileno()
    take(sock)
    return socket_with_number(fd, pair())


def _unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(type=socket.SOCK_DGRAM)


def _udp_pair() -> tuple[socket.socket, socket.socket]:
    """Each is connected to the other, and what is sent elsewhere by name goes there."""
    first, second = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    for sock in (first, second):
        sock.bind(("127.0.0.1", 0))
    first.connect(second.getsockname())
    second.connect(first.getsockname())
    return first, second


async def _is_unharmed(loop: Loop, stranger: socket.socket, peer: socket.socket) -> None:
    """Nothing was written to the stranger, and it receives what is sent to it."""
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    receiving = asyncio.create_task(loop.sock_recv(stranger, 100))
    await turns()
    peer.send(b"for the stranger")
    assert await receiving == b"for the stranger"


@contextlib.asynccontextmanager
async def _connection(loop: Loop, kind: str) -> AsyncIterator[tuple[Any, Recorder, socket.socket]]:
    """A transport, its protocol, and the socket object that closes it."""
    near, far = stream_sockets("tcp" if kind == "server" else "unix")
    with far:
        if kind == "given":
            transport, protocol = await loop.create_connection(Recorder, sock=near)
        elif kind == "accepted":
            transport, protocol = await loop.connect_accepted_socket(Recorder, near)
        else:
            made: list[Recorder] = []

            def factory() -> Recorder:
                made.append(Recorder())
                return made[-1]

            server = await loop.create_server(factory, "127.0.0.1", 0)
            near.close()
            near = socket.create_connection(server.sockets[0].getsockname())
            far.close()
            far = near
            await eventually(lambda: bool(made and made[0].transport), "it is accepted")
            protocol = made[0]
            transport = protocol.transport
            near = transport.get_extra_info("socket")._sock
            server.close()
        with far:
            yield transport, protocol, near
            transport.abort()
            await protocol.ended()


KINDS = pytest.mark.parametrize("kind", ["given", "accepted", "server"])


@pytest.mark.smoke
@TAKING
@KINDS
def test_nothing_is_written_to_a_stranger(loop: Loop, kind: str, take: Take) -> None:
    async def main() -> None:
        async with _connection(loop, kind) as (transport, protocol, sock):
            stranger, peer = _taken(sock, take)
            with stranger, peer:
                for _ in range(3):
                    transport.write(b"of the first connection")
                with pytest.raises(BlockingIOError):
                    peer.recv(1)
                assert isinstance(await protocol.ended(), OSError)
                await _is_unharmed(loop, stranger, peer)

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
@KINDS
def test_what_is_queued_is_not_written_to_a_stranger(loop: Loop, kind: str, take: Take) -> None:
    """asyncio's keeps the number, of which it watches the stranger."""

    async def main() -> None:
        async with _connection(loop, kind) as (transport, _, sock):
            transport.write(bytes(5 << 20))
            assert transport.get_write_buffer_size() > 0
            stranger, peer = _taken(sock, take)
            with stranger, peer:
                transport.write(b"more")
                await turns()
                await _is_unharmed(loop, stranger, peer)

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
@KINDS
def test_a_stranger_may_become_a_transport_of_the_same_loop(
    loop: Loop, kind: str, take: Take
) -> None:
    """asyncio's refuses it: its number is used by a transport. Here that one ends."""

    async def main() -> None:
        async with _connection(loop, kind) as (_, protocol, sock):
            stranger, peer = _taken(sock, take)
            with peer:
                transport, second = await loop.create_connection(Recorder, sock=stranger)
                assert isinstance(await protocol.ended(), OSError)
                peer.send(b"for the stranger")
                await second.got(16)
                transport.write(b"of the stranger")
                await eventually(lambda: peer.recv(100) == b"of the stranger", "it is written")
                transport.abort()
                await second.ended()

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_what_a_program_detached_it_may_give_back(loop: Loop) -> None:
    async def main() -> None:
        async with _connection(loop, "given") as (_, protocol, sock):
            again = socket.socket(fileno=sock.detach())
            transport, second = await loop.create_connection(Recorder, sock=again)
            assert isinstance(await protocol.ended(), OSError)
            transport.abort()
            await second.ended()

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
def test_a_connection_accepted_with_the_number_is_served(loop: Loop, take: Take) -> None:
    async def main() -> None:
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        async with _connection(loop, "given") as (_, _, sock):
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, server.sockets[0].getsockname())
                take(sock)  # its number is the lowest that is free
                await eventually(lambda: bool(made and made[0].transport), "it is accepted")
                await loop.sock_sendall(client, b"data")
                await made[0].got(4)
                made[0].transport.abort()
                await made[0].ended()
        server.close()
        await server.wait_closed()

    run_main(loop, main())


@TAKING
@pytest.mark.parametrize("named", [False, True], ids=["connected", "named"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["inet", "unix"])
def test_no_datagram_is_sent_to_a_stranger(
    loop: Loop, tmp_path: Path, family: int, named: bool, take: Take
) -> None:
    async def main() -> None:
        near, far = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        far.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "far"))
        near.setblocking(False)
        far.setblocking(False)
        if not named:
            near.connect(far.getsockname())
        with far:
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
            await turns()
            pair = _udp_pair if family == socket.AF_INET else _unix_pair
            stranger, peer = _taken(near, take, pair)
            with stranger, peer:
                for _ in range(3):
                    transport.sendto(b"of the first", far.getsockname() if named else None)
                await turns()
                assert protocol.errors
                await turns()
                for sock in (peer, far):
                    with pytest.raises(BlockingIOError):
                        sock.recv(1)
                peer.send(b"for the stranger")
                await turns()
                assert stranger.recv(100) == b"for the stranger"
                transport.abort()
                await turns()
            assert protocol.data == []

    run_main(loop, main())


def _reading(fd: int) -> Any:
    return open(fd, "rb", 0)


def _buffered(fd: int) -> Any:
    return open(fd, "rb")


def _of_socket(fd: int) -> Any:
    return socket.socket(fileno=fd)


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("wrap", [_reading, _buffered, _of_socket])
def test_nothing_is_read_from_a_stranger_by_a_pipe(
    loop: Loop, reported: list[dict[str, Any]], wrap: Callable[[int], Any]
) -> None:
    """asyncio's goes by the number."""

    async def main() -> None:
        first, second = socket.socketpair()
        with second:
            pipe = wrap(first.detach())
            fd = pipe.fileno()
            transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
            second.send(b"data")
            await protocol.got(4)
            transport.pause_reading()
            second.send(b"data")
            await asyncio.sleep(0.001)  # the loop waits, and so hears of it
            pipe.close()
            stranger, peer = socket_with_number(fd)
            with stranger, peer:
                peer.send(b"for the stranger")
                transport.resume_reading()
                assert isinstance(await protocol.ended(), OSError)
                assert stranger.recv(100) == b"for the stranger"
                assert bytes(protocol.data) == b"data"
                assert len(reported) == 1  # as any error of a pipe

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
def test_nothing_is_written_to_a_stranger_by_a_pipe(
    loop: Loop, reported: list[dict[str, Any]], buffering: int
) -> None:
    """asyncio's goes by the number."""

    async def main() -> None:
        reader, writer = os.pipe()
        with open(reader, "rb", 0), open(writer, "wb", buffering) as pipe:
            transport, protocol = await loop.connect_write_pipe(Recorder, pipe)
            await turns()
            pipe.close()
            stranger, peer = socket_with_number(writer)
            with stranger, peer:
                transport.write(b"of the pipe")
                assert isinstance(await protocol.ended(), OSError)
                await _is_unharmed(loop, stranger, peer)
                assert len(reported) <= 1

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
def test_nobody_is_accepted_from_a_stranger(
    loop: Loop, reported: list[dict[str, Any]], take: Take
) -> None:
    async def main() -> None:
        listener = listen()
        fd = listener.fileno()
        made: list[Any] = []
        server = await loop.create_server(
            lambda: Recorder(connection_made=made.append), sock=listener
        )
        await turns()
        take(listener)
        other = listen()
        if other.fileno() != fd:
            with other:
                other = socket.socket(fileno=os.dup2(other.fileno(), fd, inheritable=False))
        other.setblocking(False)
        with other:
            accepting = asyncio.create_task(loop.sock_accept(other))
            await turns()
            with socket.create_connection(other.getsockname()):
                accepted, _ = await accepting
                accepted.close()
            second = await loop.create_server(Recorder, sock=other)
            second.close()
            await second.wait_closed()
        server.close()
        await server.wait_closed()
        assert made == []
        assert reported == []

    run_main(loop, main())


# Readers, writers, operations


@TAKING
@pytest.mark.loop_pool_only
def test_a_reader_of_a_socket_that_is_gone_does_not_deafen_a_stranger(
    loop: Loop, take: Take
) -> None:
    """asyncio's takes its registration for the stranger's."""

    async def main() -> None:
        called: list[str] = []
        near, far = socket.socketpair()
        with far:
            near.setblocking(False)
            loop.add_reader(near, called.append, "reader")
            loop.add_writer(near, called.append, "writer")
            await eventually(lambda: "writer" in called, "it is writable")
            loop.remove_writer(near)
            called.clear()
            stranger, peer = _taken(near, take)
            with stranger, peer:
                await _is_unharmed(loop, stranger, peer)
                loop.add_writer(stranger, called.append, "stranger")
                peer.send(b"x")
                await eventually(lambda: "stranger" in called, "it is writable")
                loop.remove_writer(stranger)
                assert "reader" not in called
                with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
                    loop.remove_reader(near)

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
@pytest.mark.parametrize("as_transport", [False, True], ids=["operation", "transport"])
def test_an_operation_on_a_socket_that_is_gone_harms_no_stranger(
    loop: Loop, take: Take, as_transport: bool
) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            near.setblocking(False)
            waiting = asyncio.create_task(loop.sock_recv(near, 10))
            await turns()
            stranger, peer = _taken(near, take)
            with peer:
                if as_transport:
                    transport, second = await loop.create_connection(Recorder, sock=stranger)
                    await turns()
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    peer.send(b"for the stranger")
                    await second.got(16)
                    transport.abort()
                    await second.ended()
                else:
                    with stranger:
                        await _is_unharmed(loop, stranger, peer)
                        with pytest.raises(OSError, match="Bad file descriptor"):
                            await waiting

    run_main(loop, main())


@TAKING
@pytest.mark.loop_pool_only
@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_a_socket_that_is_gone_in_mid_sendfile(
    loop: Loop, tmp_path: Path, take: Take, how: str
) -> None:
    async def main() -> None:
        (tmp_path / "file").write_bytes(bytes(8 << 20))
        async with _connection(loop, "given") as (transport, protocol, sock):
            with (tmp_path / "file").open("rb") as file:
                sending = asyncio.create_task(loop.sendfile(transport, file))
                await turns()
                stranger, peer = _taken(sock, take)
                with stranger, peer:
                    if how == "cancelled":
                        sending.cancel()
                        await asyncio.wait([sending])
                        await turns()
                    await _is_unharmed(loop, stranger, peer)
                    assert isinstance(await protocol.ended(), OSError)
                    if how == "left":
                        with pytest.raises(OSError, match="Bad file descriptor"):
                            await sending

    run_main(loop, main())


# Closing


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("asked", [False, True], ids=["", "asked for its socket"])
def test_a_close_that_lingers_holds_nobody_else_up(loop: Loop, asked: bool) -> None:
    """`SO_LINGER`: `close` waits for the peer; meanwhile others run, and may ask for sockets."""
    made: list[Any] = []
    with listen() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, int(HANG)))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        address = listener.getsockname()
        closed, others = threading.Event(), threading.Event()

        async def main() -> None:
            server = await loop.create_server(
                lambda: Recorder(connection_made=made.append), sock=listener
            )
            await eventually(lambda: len(made) == 2, "both are accepted")
            server.close()
            if asked:
                made[0].get_extra_info("socket")
            made[0].write(bytes(3_000_000))
            loop.call_soon(others.set)
            made[0].abort()
            await made[0].get_protocol().ended()
            closed.set()
            made[1].abort()

        def act() -> None:
            assert others.wait(HANG)
            # As long as the first client takes nothing, the loop is in `close`.
            for _ in range(50):
                made[1].get_extra_info("socket")
                made[1].get_extra_info("peername")
                sum(range(1000))
            assert not closed.is_set()
            while first.recv(1 << 20):
                pass

        with socket.socket() as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            first.settimeout(HANG)
            first.connect(address)
            with socket.create_connection(address, HANG):
                thread = threading.Thread(target=act)
                thread.start()
                run_main(loop, main())
                thread.join(HANG)
                assert not thread.is_alive()
