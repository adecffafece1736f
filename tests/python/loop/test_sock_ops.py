"""The loop's socket operations: connecting, accepting, what is refused, and what ends a wait."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, eventually, listen, receive, run_main, turns
from .support import fill

type Loop = asyncio.AbstractEventLoop
type Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair(loop: Loop) -> Iterator[Pair]:
    """A non-blocking socket, and a blocking one at its far end."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(HANG)
    with near, far:
        yield near, far


ALL: dict[str, Callable[[Any, Any], Any]] = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 1),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 1),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 1)),
    "sock_sendfile": lambda loop, sock: loop.sock_sendfile(sock, io.BytesIO(b"x")),
}

# What is refused


@pytest.mark.parametrize("name", ALL)
def test_debug_mode_refuses_a_blocking_socket(loop: Loop, pair: Pair, name: str) -> None:
    loop.set_debug(True)
    pair[0].setblocking(True)
    with pytest.raises(ValueError) as seen:
        run_main(loop, ALL[name](loop, pair[0]))
    assert str(seen.value) == "the socket must be non-blocking"
    pair[0].settimeout(1)
    with pytest.raises(ValueError, match="must be non-blocking"):
        run_main(loop, ALL[name](loop, pair[0]))


@pytest.mark.parametrize("name", ALL)
def test_a_tls_socket_is_refused(loop: Loop, pair: Pair, name: str) -> None:
    context = ssl.create_default_context()
    with context.wrap_socket(
        pair[0], server_hostname="localhost", do_handshake_on_connect=False
    ) as tls:
        with pytest.raises(TypeError) as seen:
            run_main(loop, ALL[name](loop, tls))
        assert str(seen.value) == "Socket cannot be of type SSLSocket"


@pytest.mark.parametrize("name", ["sock_recv", "sock_recv_into", "sock_sendall", "sock_accept"])
def test_a_closed_socket_is_an_error(loop: Loop, name: str) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        run_main(loop, ALL[name](loop, sock))


# Nothing to do


def test_operations_on_no_bytes_do_not_wait(loop: Loop, pair: Pair) -> None:
    async def main() -> None:
        near, _ = pair
        assert await loop.sock_recv(near, 0) == b""
        assert await loop.sock_recv_into(near, bytearray()) == 0
        fill(near)
        with tempfile.TemporaryFile() as empty:
            assert await loop.sock_sendfile(near, empty) == 0

    run_main(loop, main())


def test_sending_nothing_does_not_wait(loop: Loop, pair: Pair) -> None:
    async def main() -> None:
        near, far = pair
        for nothing in (b"", bytearray(), memoryview(b"")):
            await loop.sock_sendall(near, nothing)
        await loop.sock_sendall(near, b"x")
        assert far.recv(10) == b"x"

    run_main(loop, main())


# Connecting


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
@pytest.mark.parametrize("as_text", [False, True], ids=["number", "text"])
def test_connecting_to_names_and_numbers(loop: Loop, host: str, as_text: bool) -> None:
    async def main() -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = "::1" if ":" in host else "127.0.0.1"
        with (
            socket.create_server((bound, 0), family=family) as listener,
            socket.socket(family) as client,
        ):
            client.setblocking(False)
            port = listener.getsockname()[1]
            await loop.sock_connect(client, (host, str(port) if as_text else port))
            far, name = listener.accept()
            with far:
                assert name == client.getsockname()

    run_main(loop, main())


def test_connecting_to_what_is_not_there(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        with listen() as listener:
            gone = listener.getsockname()
        for sock, address, error in (
            (socket.socket(), gone, ConnectionRefusedError),
            (socket.socket(), ("no.such.host.invalid", 1), socket.gaierror),
            (socket.socket(socket.AF_UNIX), str(tmp_path / "s"), FileNotFoundError),
        ):
            with sock:
                sock.setblocking(False)
                with pytest.raises(error):
                    await loop.sock_connect(sock, address)
                if error is ConnectionRefusedError:
                    loop.add_writer(sock, print)
                    assert loop.remove_writer(sock)

    run_main(loop, main())


def test_a_refusal_names_the_address(loop: Loop) -> None:
    async def main() -> None:
        with listen() as listener:
            gone = listener.getsockname()
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as seen:
                await loop.sock_connect(sock, gone)
            assert str(gone) in str(seen.value)

    run_main(loop, main())


def test_a_connect_that_is_given_up_leaves_nothing(loop: Loop) -> None:
    async def main() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            waiting: list[socket.socket] = []
            # The kernel answers no more once the listener's queue is full.
            for _ in range(10):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                try:
                    await asyncio.wait_for(
                        loop.sock_connect(waiting[-1], listener.getsockname()), 0.1
                    )
                except TimeoutError:
                    break
            else:
                pytest.fail("a full listener goes on answering")
            written = []
            loop.add_writer(waiting[-1], written.append, 1)
            assert loop.remove_writer(waiting[-1]) is True
            for sock in waiting:
                sock.close()
            assert written == []

    run_main(loop, main())


# Accepting


def test_a_cancelled_accept_takes_no_connection(loop: Loop) -> None:
    async def main() -> None:
        with listen() as listener:
            listener.setblocking(False)
            for _ in range(3):
                accepting = asyncio.create_task(loop.sock_accept(listener))
                await turns(2)
                accepting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await accepting
            with socket.create_connection(listener.getsockname()) as client:
                far, name = await loop.sock_accept(listener)
                with far:
                    assert name == client.getsockname()
                    assert far.gettimeout() == 0
                    assert not far.get_inheritable()

    run_main(loop, main())


def test_a_hundred_accepts_get_a_hundred_connections(loop: Loop) -> None:
    async def main() -> None:
        with listen(backlog=100) as listener:
            listener.setblocking(False)
            clients = []
            servers = []
            for number in range(100):
                accepting = asyncio.create_task(loop.sock_accept(listener))
                if number % 2:
                    await asyncio.sleep(0)
                clients.append(socket.create_connection(listener.getsockname(), HANG))
                servers.append((await accepting)[0])
            names = {server.getpeername() for server in servers}
            assert names == {client.getsockname() for client in clients}
            for sock in clients + servers:
                sock.close()

    run_main(loop, main())


# Waiting


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["recv", "sendall"])
def test_after_a_cancellation_the_descriptor_is_free(loop: Loop, pair: Pair, kind: str) -> None:
    near, far = pair

    async def main() -> None:
        fill(near)
        operation = loop.sock_recv(near, 10) if kind == "recv" else loop.sock_sendall(near, b"more")
        task = asyncio.create_task(operation)
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.remove_reader(near) is False
        assert loop.remove_writer(near) is False
        readable = asyncio.Event()
        loop.add_reader(near, readable.set)
        far.send(b"kept")
        await readable.wait()
        assert loop.remove_reader(near) is True
        assert await loop.sock_recv(near, 10) == b"kept"

    run_main(loop, main())


def test_an_operation_that_is_done_leaves_the_descriptor_free(loop: Loop, pair: Pair) -> None:
    near, far = pair

    async def main() -> None:
        receiving = asyncio.create_task(loop.sock_recv(near, 10))
        await turns(2)
        far.send(b"x")
        assert await receiving == b"x"
        await turns(2)
        assert loop.remove_reader(near) is False
        filled = fill(near)
        sending = asyncio.create_task(loop.sock_sendall(near, b"more"))
        await turns(2)
        await asyncio.to_thread(receive, far, filled + 4)
        await sending
        await turns(2)
        assert loop.remove_writer(near) is False

    run_main(loop, main())


def test_a_socket_closed_while_somebody_waits_can_be_given_up(loop: Loop) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        task = asyncio.create_task(loop.sock_recv(near, 10))
        await turns(2)
        near.close()
        far.close()
        await turns(20)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await task
        # The number is free for others.
        for _ in range(5):
            one, two = socket.socketpair()
            with one, two:
                one.setblocking(False)
                receiving = asyncio.create_task(loop.sock_recv(one, 10))
                await turns(2)
                two.send(b"x")
                assert await receiving == b"x"

    run_main(loop, main())


@pytest.mark.smoke
def test_one_socket_sends_and_receives_at_once(loop: Loop, pair: Pair) -> None:
    near, far = pair
    content = os.urandom(2 << 20)

    async def main() -> None:
        async def take() -> bytes:
            got = bytearray()
            while len(got) < len(content):
                got += await loop.sock_recv(near, 65536)
            return bytes(got)

        def answer() -> None:
            for _ in range(0, len(content), 1 << 16):
                far.sendall(receive(far, 1 << 16))

        answering = asyncio.create_task(asyncio.to_thread(answer))
        taking = asyncio.create_task(take())
        await loop.sock_sendall(near, content)
        assert await taking == content
        await answering

    run_main(loop, main())


def test_sendall_sends_what_the_buffer_held(loop: Loop, pair: Pair) -> None:
    near, far = pair

    async def main() -> None:
        for data in (b"bytes", bytearray(b"array"), memoryview(b"view")):
            await loop.sock_sendall(near, data)
            assert far.recv(10) == bytes(data)
        content = bytearray(os.urandom(4 << 20))
        sending = asyncio.create_task(loop.sock_sendall(near, content))
        await turns(2)
        with pytest.raises(BufferError):
            content.clear()
        assert await asyncio.to_thread(receive, far, len(content)) == content
        await sending
        await turns(1)
        content.clear()

    run_main(loop, main())


# Datagrams


def test_datagrams_wait_for_room_and_for_each_other(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        kind = (socket.AF_UNIX, socket.SOCK_DGRAM)
        with socket.socket(*kind) as near, socket.socket(*kind) as far:
            far.bind(str(tmp_path / "far"))
            far.settimeout(HANG)
            near.setblocking(False)
            full = False
            sent = 0
            while not full:
                sending = asyncio.create_task(
                    loop.sock_sendto(near, b"%d" % sent, str(tmp_path / "far"))
                )
                await turns(3)
                full = not sending.done()
                sent += 1
            got = [await asyncio.to_thread(far.recv, 100) for _ in range(sent)]
            assert got == [b"%d" % number for number in range(sent)]
            assert await sending == len(got[-1])

    run_main(loop, main())


def test_recvfrom_into_takes_no_more_than_it_is_told(loop: Loop) -> None:
    async def main() -> None:
        with (
            socket.socket(type=socket.SOCK_DGRAM) as near,
            socket.socket(type=socket.SOCK_DGRAM) as far,
        ):
            for sock in (near, far):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            for early in (True, False):
                for nbytes, expected in ((0, b"01234567"), (3, b"012"), (8, b"01234567")):
                    buffer = bytearray(b"." * 8)
                    if early:
                        far.sendto(b"0123456789", near.getsockname())
                    receiving = asyncio.create_task(loop.sock_recvfrom_into(near, buffer, nbytes))
                    await turns(2)
                    if not early:
                        far.sendto(b"0123456789", near.getsockname())
                    assert await receiving == (len(expected), far.getsockname())
                    assert buffer == expected.ljust(8, b".")
            far.sendto(b"", near.getsockname())
            assert await loop.sock_recvfrom(near, 10) == (b"", far.getsockname())

    run_main(loop, main())


# Files


@pytest.mark.parametrize("native", [True, False], ids=["native", "fallback"])
def test_a_file_s_position_is_where_sending_ended(loop: Loop, pair: Pair, native: bool) -> None:
    near, far = pair
    content = os.urandom(1 << 20)

    async def main() -> None:
        with tempfile.TemporaryFile() as real:
            real.write(content)
            real.flush()
            file: Any = real if native else io.BytesIO(content)
            for offset, count in ((0, 10), (7, None), (100, 1 << 19)):
                expected = content[offset:] if count is None else content[offset : offset + count]
                receiving = asyncio.create_task(asyncio.to_thread(receive, far, len(expected)))
                sent = await loop.sock_sendfile(near, file, offset, count, fallback=not native)
                assert sent == len(expected)
                assert file.tell() == offset + sent
                assert await receiving == expected

    run_main(loop, main())


def test_files_that_cannot_be_sent_are_refused(loop: Loop, pair: Pair, tmp_path: Path) -> None:
    near, far = pair

    async def main() -> None:
        memory = io.BytesIO(b"content")
        for options in ({"offset": -1}, {"count": 0}, {"count": -1}):
            with pytest.raises(ValueError, match="must be a"):
                await loop.sock_sendfile(near, memory, **options)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sock_sendfile(near, memory, fallback=False)
        with (tmp_path / "text").open("w+") as text:
            with pytest.raises(ValueError, match="binary mode"):
                await loop.sock_sendfile(near, text)  # type: ignore[arg-type]
        with socket.socket(type=socket.SOCK_DGRAM) as datagram:
            datagram.setblocking(False)
            with pytest.raises(ValueError, match="only SOCK_STREAM"):
                await loop.sock_sendfile(datagram, memory)
        await loop.sock_sendfile(near, memory)
        assert far.recv(100) == b"content"
        await eventually(lambda: loop.remove_writer(near) is False, "nothing is left")

    run_main(loop, main())
