"""asyncio's own I/O on our reactor: sockets, pipes, files, processes, TLS."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from ..support import echo, eventually, in_thread, listen, run_main, self_signed

if TYPE_CHECKING:
    from pathlib import Path


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: bytes
) -> bytes:
    """Sends everything while it reads everything, up to the end of both."""

    async def send() -> None:
        writer.write(question)
        await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


# Sockets


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_streams_over_tcp(loop: asyncio.AbstractEventLoop, size: int) -> None:
    async def main() -> None:
        question = os.urandom(size)
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            clients = [await asyncio.open_connection(*address) for _ in range(5)]
            answers = await asyncio.gather(*(_ask(*client, question) for client in clients))
            assert all(answer == question for answer in answers)

    run_main(loop, main())


def test_streams_over_unix_sockets(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "s")
        async with await asyncio.start_unix_server(echo, path):
            reader, writer = await asyncio.open_unix_connection(path)
            assert await _ask(reader, writer, b"over unix") == b"over unix"

    run_main(loop, main())


def test_datagrams_over_unix_sockets(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.set_result(data)

    async def main() -> None:
        path = str(tmp_path / "d")
        receiver, _ = await loop.create_datagram_endpoint(
            Receiver, local_addr=path, family=socket.AF_UNIX
        )
        sender, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=path, family=socket.AF_UNIX
        )
        sender.sendto(b"one datagram")
        assert await received == b"one datagram"
        sender.close()
        receiver.close()
        await asyncio.sleep(0)

    received = loop.create_future()
    run_main(loop, main())


def test_datagrams_over_udp(loop: asyncio.AbstractEventLoop) -> None:
    class Echo(asyncio.DatagramProtocol):
        transport: asyncio.DatagramTransport

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data.upper(), addr)

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.append(data)

    def arrived(count: int) -> bool:
        return len(received) == count

    async def main() -> None:
        server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        client, _ = await loop.create_datagram_endpoint(
            Client, remote_addr=server.get_extra_info("sockname")
        )
        for number in range(20):
            client.sendto(b"datagram %d" % number)
            await eventually(functools.partial(arrived, number + 1), "the answer")
        client.close()
        server.close()
        await asyncio.sleep(0)
        assert received == [b"DATAGRAM %d" % number for number in range(20)]

    received: list[bytes] = []
    run_main(loop, main())


@pytest.mark.smoke
def test_the_sock_methods(loop: asyncio.AbstractEventLoop) -> None:
    async def serve(listener: socket.socket) -> None:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            while data := await loop.sock_recv(connection, 65536):
                await loop.sock_sendall(connection, data)

    async def main() -> None:
        with listen() as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            server = asyncio.create_task(serve(listener))
            await loop.sock_connect(client, listener.getsockname())
            question = os.urandom(500_000)
            sending = asyncio.create_task(loop.sock_sendall(client, question))
            answer, buffer = bytearray(), bytearray(65536)
            while len(answer) < len(question):
                count = await loop.sock_recv_into(client, buffer)
                assert count
                answer += buffer[:count]
            await sending
            client.shutdown(socket.SHUT_WR)
            await server
            assert answer == question

    run_main(loop, main())


def test_the_sock_methods_for_datagrams(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with (
            socket.socket(type=socket.SOCK_DGRAM) as one,
            socket.socket(type=socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recvfrom(two, 100))
            await asyncio.sleep(0)
            await loop.sock_sendto(one, b"hello", two.getsockname())
            assert await receiving == (b"hello", one.getsockname())
            buffer = bytearray(10)
            await loop.sock_sendto(two, b"back", one.getsockname())
            assert await loop.sock_recvfrom_into(one, buffer) == (4, two.getsockname())
            assert buffer[:4] == b"back"

    run_main(loop, main())


def test_a_cancelled_sock_recv_takes_no_data(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(loop.sock_recv(near, 10), 0.001)
            far.send(b"kept")
            assert await loop.sock_recv(near, 10) == b"kept"

    run_main(loop, main())


def test_a_refused_connection_raises(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with listen() as listener:
            address = listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, address)

    run_main(loop, main())


def test_happy_eyeballs_find_the_address_that_answers(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(
                "localhost", port, happy_eyeballs_delay=0.01
            )
            assert await _ask(reader, writer, b"found") == b"found"

    run_main(loop, main())


# Files


@pytest.mark.parametrize("how", ["sock_sendfile", "sendfile"])
def test_files_are_sent(loop: asyncio.AbstractEventLoop, how: str) -> None:
    content = os.urandom(300_000)

    async def main() -> bytes:
        got = bytearray()
        ended = loop.create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.extend(await reader.read())
            writer.close()
            await writer.wait_closed()
            ended.set_result(None)

        async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            with tempfile.TemporaryFile() as file:
                file.write(content)
                file.seek(0)
                if how == "sendfile":
                    _, writer = await asyncio.open_connection(*address)
                    assert await loop.sendfile(writer.transport, file, 7) == len(content) - 7
                    writer.close()
                    await writer.wait_closed()
                else:
                    with socket.socket() as sock:
                        sock.setblocking(False)
                        await loop.sock_connect(sock, address)
                        assert await loop.sock_sendfile(sock, file, 7) == len(content) - 7
            await ended
        return bytes(got)

    assert run_main(loop, main()) == content[7:]


# Pipes


def test_pipes_carry_much(loop: asyncio.AbstractEventLoop) -> None:
    content = os.urandom(500_000)

    async def main() -> bytes:
        source, sink = os.pipe()
        reader = asyncio.StreamReader()
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0)
        )
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(sink, "wb", 0))
        writing.write(content)
        writing.close()
        try:
            return await reader.read()
        finally:
            reading.close()

    assert run_main(loop, main()) == content


@pytest.mark.parametrize(("queued", "kind"), [(0, type(None)), (500_000, BrokenPipeError)])
def test_a_pipe_whose_reader_has_gone_is_lost(
    loop: asyncio.AbstractEventLoop, queued: int, kind: type
) -> None:
    class Writer(asyncio.BaseProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(exc)

    async def main() -> None:
        source, sink = os.pipe()
        writing, _ = await loop.connect_write_pipe(Writer, os.fdopen(sink, "wb", 0))
        writing.write(bytes(queued))
        os.close(source)
        assert isinstance(await lost, kind)

    lost = loop.create_future()
    run_main(loop, main())


# Processes

SHOUT = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('done')"


async def _shout() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SHOUT, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert await process.communicate(b"quiet") == (b"QUIET", b"done")
    assert process.returncode == 0


@pytest.mark.smoke
def test_processes_from_the_main_thread(loop: asyncio.AbstractEventLoop) -> None:
    run_main(loop, _shout())


def test_processes_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    in_thread(lambda: run_main(loop, _shout()))


def test_shells(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell(
            "echo out; exit 3", stdout=asyncio.subprocess.PIPE
        )
        assert (await process.communicate())[0] == b"out\n"
        assert process.returncode == 3

    run_main(loop, main())


def test_processes_are_killed_and_reaped(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        return process.pid

    pid = run_main(loop, main())
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_many_processes_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def one(code: int) -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
        return await process.wait()

    async def main() -> None:
        assert await asyncio.gather(*map(one, range(20))) == list(range(20))

    run_main(loop, main())


def test_a_program_that_is_not_there_raises(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program")

    run_main(loop, main())


# TLS


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_streams_over_tls(loop: asyncio.AbstractEventLoop, size: int) -> None:
    server_context, client_context = self_signed()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(size))
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            question = os.urandom(size)
            writer.write(question)
            assert await reader.readexactly(size) == question
            assert writer.get_extra_info("cipher")
            writer.close()
            await writer.wait_closed()

    run_main(loop, main())


def test_start_tls_upgrades_a_connection(loop: asyncio.AbstractEventLoop) -> None:
    server_context, client_context = self_signed()

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(upgrade, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context, server_hostname="localhost")
            writer.write(b"secret\n")
            assert await reader.readline() == b"SECRET\n"
            writer.close()
            await writer.wait_closed()

    run_main(loop, main())


def test_an_untrusted_certificate_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    import ssl

    server_context, _ = self_signed()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        async with server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(
                    *server.sockets[0].getsockname(),
                    ssl=ssl.create_default_context(),
                    server_hostname="localhost",
                )

    run_main(loop, main())
