"""Descriptors that somebody else holds too: a child that inherited one, a duplicate.

Any holder may make the open file blocking. The loop goes on all the same. (asyncio's loop waits in
what it writes, and in what it tries at once.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import (
    HANG,
    BufferedRecorder,
    Recorder,
    connected,
    eventually,
    listen,
    receive,
    run_main,
    stream_sockets,
    turns,
)
from .support import Datagrams, give, pipe

type Loop = asyncio.AbstractEventLoop

READ_SIZE = 96 * 1024
"""As much as is read of a stream at once."""

BIG = 3 << 20


@contextlib.contextmanager
def made_blocking(*holders: Any) -> Iterator[None]:
    """Makes each descriptor, or that of each object, blocking by a duplicate."""
    twins = [os.dup(each if isinstance(each, int) else each.fileno()) for each in holders]
    try:
        for twin in twins:
            os.set_blocking(twin, True)
        yield
    finally:
        for twin in twins:
            os.close(twin)


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("size", [1, 1000, READ_SIZE, 3 * READ_SIZE])
def test_a_connection_reads_what_comes_and_does_not_wait(
    loop: Loop, kind: str, make: Callable[[], Any], size: int
) -> None:
    async def main() -> None:
        async with connected(make(), kind) as (transport, protocol, far):
            with made_blocking(transport.get_extra_info("socket")):
                for count in range(1, 4):
                    await asyncio.to_thread(far.sendall, bytes(size))
                    await protocol.got(count * size)
                    await turns()

    run_main(loop, main())


def terminal() -> tuple[Any, Any]:
    """A terminal that changes nothing, as read and as written."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    return open(slave, "rb", 0), open(master, "wb", 0)


def sockets() -> tuple[Any, Any]:
    """Two unix sockets."""
    return socket.socketpair()


@pytest.fixture(params=[pipe, terminal, sockets], ids=lambda make: make.__name__)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """What is read, and what is written."""
    reader, writer = request.param()
    with reader, writer:
        yield reader, writer


def _take(end: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += os.read(end.fileno(), count - len(data))
    return bytes(data)


@pytest.mark.smoke
@pytest.mark.parametrize("size", [5, 20_000])
def test_a_pipe_reads_what_comes_and_does_not_wait(
    loop: Loop, ends: tuple[Any, Any], size: int
) -> None:
    async def main() -> None:
        reader, writer = ends
        transport, protocol = await loop.connect_read_pipe(Recorder, reader)
        with made_blocking(reader):
            for count in range(1, 4):
                await asyncio.to_thread(give, writer, bytes(size))
                await protocol.got(count * size)
                await turns()
        assert "eof_received" not in protocol.calls
        transport.close()
        await protocol.ended()

    run_main(loop, main())


@pytest.mark.smoke
@pytest.mark.loop_pool_only
def test_a_pipe_writes_what_there_is_room_for_and_does_not_wait(
    loop: Loop, ends: tuple[Any, Any]
) -> None:
    async def main() -> None:
        reader, writer = ends
        data = os.urandom(1000) * 300
        transport, protocol = await loop.connect_write_pipe(Recorder, writer)
        with made_blocking(writer):
            transport.write(data)
            await turns()
            assert transport.get_write_buffer_size() > 0
            assert await asyncio.to_thread(_take, reader, len(data)) == data
            await eventually(lambda: transport.get_write_buffer_size() == 0, "all is written")
        transport.close()
        await protocol.ended()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_connection_writes_what_there_is_room_for_and_does_not_wait(
    loop: Loop, kind: str
) -> None:
    async def main() -> None:
        data = os.urandom(1024) * (BIG // 1024)
        async with connected(Recorder(), kind) as (transport, _, far):
            with made_blocking(transport.get_extra_info("socket")):
                transport.write(data)
                transport.writelines([data, data])
                await turns()
                assert transport.get_write_buffer_size() > 0
                assert await asyncio.to_thread(receive, far, 3 * BIG) == data * 3

    run_main(loop, main())


def _datagram_sockets(family: int) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair(family, socket.SOCK_DGRAM)
    near, far = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (near, far):
        sock.bind(("127.0.0.1", 0))
    near.connect(far.getsockname())
    far.connect(near.getsockname())
    return near, far


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["inet", "unix"])
def test_an_endpoint_receives_what_comes_and_does_not_wait(loop: Loop, family: int) -> None:
    async def main() -> None:
        near, far = _datagram_sockets(family)
        with far:
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
            with made_blocking(near):
                for number in range(3):
                    far.send(b"%d" % number)
                    await eventually(lambda: len(protocol.data) > number, "it comes")  # noqa: B023
                    await turns()
            transport.close()
            await turns()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("named", [False, True], ids=["connected", "named"])
def test_an_endpoint_sends_what_there_is_room_for_and_does_not_wait(
    loop: Loop, tmp_path: Path, named: bool
) -> None:
    async def main() -> None:
        name = str(tmp_path / "socket")
        near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        far.bind(name)
        far.settimeout(HANG)
        if not named:
            near.connect(name)
        near.setblocking(False)
        with far:
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
            with made_blocking(near):
                for number in range(1000):
                    transport.sendto(b"%d" % number, name if named else None)
                assert transport.get_write_buffer_size() > 0
                for number in range(1000):
                    assert await asyncio.to_thread(far.recv, 10) == b"%d" % number
            assert protocol.errors == []
            transport.close()
            await turns()

    run_main(loop, main())


@pytest.mark.smoke
@pytest.mark.loop_pool_only
def test_a_server_accepts_who_comes_and_does_not_wait(loop: Loop) -> None:
    async def main() -> None:
        made: list[Any] = []
        listener = listen()
        server = await loop.create_server(
            lambda: Recorder(connection_made=made.append), sock=listener
        )
        address = listener.getsockname()
        with made_blocking(listener):
            for count in range(1, 4):
                with socket.create_connection(address, HANG):
                    await eventually(lambda: len(made) >= count, "it is accepted")  # noqa: B023
                    await turns()
        for transport in made:
            transport.abort()
        server.close()
        await server.wait_closed()

    run_main(loop, main())


RECEIVING: dict[str, Callable[[Loop, socket.socket], Any]] = {
    "recv": lambda loop, sock: loop.sock_recv(sock, 100),
    "recv much": lambda loop, sock: loop.sock_recv(sock, 1 << 20),
    "recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(100)),
    "recv_into much": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1 << 20)),
    "recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 100),
    "recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100)),
    "recvfrom_into some": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100), 50),
}


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("operation", RECEIVING.values(), ids=RECEIVING)
def test_an_operation_that_receives_does_not_wait(
    loop: Loop, operation: Callable[[Loop, socket.socket], Any]
) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            with made_blocking(near):
                waiting = asyncio.create_task(operation(loop, near))
                await turns()
                far.send(b"data")
                got = await waiting
        got = got[0] if isinstance(got, tuple) else got
        assert got in (b"data", 4)

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_operations_that_send_do_not_wait(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        data = os.urandom(1024) * (BIG // 1024)
        near, far = stream_sockets("unix")
        with near, far:
            near.setblocking(False)
            with made_blocking(near):
                sending = asyncio.create_task(loop.sock_sendall(near, data))
                await turns()
                assert not sending.done()
                assert await asyncio.to_thread(receive, far, BIG) == data
                await sending
                (tmp_path / "file").write_bytes(data)
                with (tmp_path / "file").open("rb") as file:
                    sending = asyncio.create_task(loop.sock_sendfile(near, file, 0, None))
                    await turns()
                    assert not sending.done()
                    assert await asyncio.to_thread(receive, far, BIG) == data
                    assert await sending == BIG
                    assert file.tell() == BIG
        kind = (socket.AF_UNIX, socket.SOCK_DGRAM)
        with socket.socket(*kind) as near, socket.socket(*kind) as far:
            near.setblocking(False)
            far.bind(str(tmp_path / "socket"))
            far.settimeout(HANG)
            with made_blocking(near):
                sent = 0
                while sent == 0 or sending.done():
                    send = loop.sock_sendto(near, b"x", str(tmp_path / "socket"))
                    sending = asyncio.create_task(send)
                    await turns(3)
                    sent += 1
                for _ in range(sent):
                    assert await asyncio.to_thread(far.recv, 1) == b"x"
                assert await sending == 1

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_accept_and_connect_do_not_wait(loop: Loop) -> None:
    async def main() -> None:
        with listen(backlog=0) as listener, socket.socket() as near:
            listener.setblocking(False)
            near.setblocking(False)
            with made_blocking(listener, near):
                accepting = asyncio.create_task(loop.sock_accept(listener))
                await turns()
                await loop.sock_connect(near, listener.getsockname())
                far, _ = await accepting
                far.close()
            # Whom nobody answers.
            with socket.socket() as full, socket.socket() as late:
                full.connect(listener.getsockname())
                late.setblocking(False)
                with made_blocking(late):
                    connecting = asyncio.create_task(
                        loop.sock_connect(late, listener.getsockname())
                    )
                    await turns()
                    connecting.cancel()
                    await asyncio.wait([connecting])

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_sendfile_does_not_wait(loop: Loop, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        data = os.urandom(1024) * (BIG // 1024)
        (tmp_path / "file").write_bytes(data)
        async with connected(Recorder(), kind) as (transport, _, far):
            with (tmp_path / "file").open("rb") as file:
                with made_blocking(transport.get_extra_info("socket")):
                    sending = asyncio.create_task(loop.sendfile(transport, file))
                    await turns()
                    assert not sending.done()
                    assert await asyncio.to_thread(receive, far, BIG) == data
                    assert await sending == BIG

    run_main(loop, main())


@pytest.mark.smoke
@pytest.mark.parametrize("blocking", [False, True], ids=["", "blocking"])
def test_a_terminal_that_reads_nothing_has_not_ended(loop: Loop, blocking: bool) -> None:
    """With `VMIN` and `VTIME` 0 a read of 0 bytes says that nothing is there."""

    async def main() -> None:
        reader, writer = terminal()
        with reader, writer:
            settings = termios.tcgetattr(reader)
            settings[6][termios.VMIN] = settings[6][termios.VTIME] = 0
            termios.tcsetattr(reader, termios.TCSANOW, settings)
            _, protocol = await loop.connect_read_pipe(Recorder, reader)
            with made_blocking(*[reader] * blocking):
                for count in range(1, 4):
                    writer.write(b"data")
                    await protocol.got(4 * count)
                    await turns()
            assert "eof_received" not in protocol.calls
            writer.close()
            await protocol.ended()

    run_main(loop, main())


def test_the_end_that_a_terminal_is_told_is_one(loop: Loop) -> None:
    async def main() -> None:
        master, slave = pty.openpty()  # lines, and control characters
        with open(slave, "rb", 0) as reader, open(master, "wb", 0) as writer:
            _, protocol = await loop.connect_read_pipe(Recorder, reader)
            writer.write(b"a line\n")
            await protocol.got(7)
            writer.write(b"\x04")
            await protocol.ended()
            assert bytes(protocol.data) == b"a line\n"
            assert protocol.count("eof_received") == 1

    run_main(loop, main())
