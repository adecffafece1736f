"""A forked child does nothing that its parent could notice, whatever it does with its copies."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Recorder, check_script, connected, eventually, shut_down, turns

pytestmark = pytest.mark.usefixtures("clean_process")

EXIT = 3
"""How a child of `SystemExit` ends."""


@pytest.fixture(autouse=True)
def _may_fork() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process
        yield


def in_a_child(action: Callable[[], object]) -> None:
    """Does something in a forked child, and waits until it has ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(int(HANG))
            warnings.simplefilter("ignore")
            action()
            gc.collect()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def run[T](main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` on a loop without a pool; a hang is a failure."""
    factory = loop_pool.new_event_loop
    return asyncio.run(asyncio.wait_for(main(), HANG), loop_factory=factory)


async def check(transport: Any, protocol: Recorder, far: socket.socket) -> None:
    """Both directions of a connection carry what is sent, and nothing else."""
    had = len(protocol.data)
    await asyncio.to_thread(far.sendall, b"to the parent")
    await protocol.got(had + 13)
    assert protocol.data[had:] == b"to the parent"
    transport.write(b"of the parent")
    assert await asyncio.to_thread(far.recv, 100) == b"of the parent"
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    far.setblocking(True)


# Transports

ACTIONS: dict[str, Callable[[Any], object]] = {
    "nothing": lambda transport: None,
    "finalizer": lambda transport: transport.__del__(),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "write": lambda transport: transport.write(b"of the child"),
    "writelines": lambda transport: transport.writelines([b"of the ", b"child"]),
    "write_eof": lambda transport: transport.write_eof(),
    "write and close": lambda transport: (transport.write(b"a child"), transport.close()),
    "resume": lambda transport: (transport.pause_reading(), transport.resume_reading()),
    "pause": lambda transport: transport.pause_reading(),
}


@pytest.mark.smoke
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_connection_goes_on_whatever_a_child_does_to_it(action: str, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            await turns()
            in_a_child(lambda: ACTIONS[action](transport))
            await check(transport, protocol, far)

    run(main)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_child_that_runs_the_loop_reads_and_writes_nothing(action: str) -> None:
    """It ends its copies in turns of its own, while there is something to read and to write."""

    async def main() -> tuple[Any, Any, Any, int]:
        near, far = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, sock=near
        )
        await turns()
        queued = 0
        while not transport.get_write_buffer_size():
            transport.write(bytes(50_000))
            queued += 50_000
        return transport, protocol, far, queued

    loop = loop_pool.new_event_loop()
    transport, protocol, far, queued = loop.run_until_complete(main())
    far.sendall(b"to the parent")

    def child() -> None:
        ACTIONS[action](transport)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert protocol.data == b""
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    in_a_child(child)

    async def rest() -> None:
        await protocol.got(13)
        assert protocol.data == b"to the parent"
        read = asyncio.to_thread(lambda: receive(far, queued))
        assert await read == queued
        await check(transport, protocol, far)
        transport.abort()
        await protocol.ended()

    loop.run_until_complete(asyncio.wait_for(rest(), HANG))
    shut_down(loop)
    far.close()


def receive(sock: socket.socket, count: int) -> int:
    got = 0
    while got < count:
        got += len(sock.recv(1 << 16))
    return got


def test_a_child_hears_the_end_of_a_copy_that_it_closes() -> None:
    async def main() -> tuple[Any, Recorder, socket.socket]:
        near, far = socket.socketpair()
        make = asyncio.get_running_loop().create_connection(Recorder, sock=near)
        return (*(await make), far)

    loop = loop_pool.new_event_loop()
    transport, protocol, far = loop.run_until_complete(main())

    def child() -> None:
        transport.close()
        loop.run_until_complete(protocol.ended())

    in_a_child(child)
    loop.run_until_complete(check(transport, protocol, far))
    transport.abort()
    loop.run_until_complete(protocol.ended())
    shut_down(loop)
    far.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.append(data)


@pytest.mark.parametrize("action", ["nothing", "finalizer", "close", "abort", "sendto"])
def test_a_datagram_socket_goes_on(action: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", 0)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
            far.bind(("127.0.0.1", 0))
            far.settimeout(HANG)
            await turns()

            def child() -> None:
                if action == "sendto":
                    transport.sendto(b"of the child", far.getsockname())
                else:
                    ACTIONS[action](transport)

            in_a_child(child)
            far.sendto(b"to the parent", transport.get_extra_info("sockname"))
            await eventually(lambda: protocol.got == [b"to the parent"], "the datagram comes")
            transport.sendto(b"of the parent", far.getsockname())
            assert far.recv(100) == b"of the parent"
        transport.close()
        await turns()

    run(main)


@pytest.mark.parametrize("action", ["nothing", "finalizer", "close", "abort"])
def test_pipes_go_on(action: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends = os.pipe()
        reads, protocol = await loop.connect_read_pipe(Recorder, os.fdopen(ends[0], "rb", 0))
        writes, other = await loop.connect_write_pipe(Recorder, os.fdopen(ends[1], "wb", 0))
        await turns()

        def child() -> None:
            for transport in (reads, writes):
                if hasattr(transport, action if action != "finalizer" else "__del__"):
                    ACTIONS[action](transport)

        in_a_child(child)
        writes.write(b"by the pipe")
        await protocol.got(11)
        assert protocol.data == b"by the pipe"
        writes.close()
        await other.ended()
        await protocol.ended()

    run(main)


# Servers, readers, the loop itself


@asynccontextmanager
async def serving(path: Path | None) -> AsyncIterator[tuple[Any, Callable[[], socket.socket]]]:
    """A server, and what connects to it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    def connect() -> socket.socket:
        if path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            return sock
        return socket.create_connection(server.sockets[0].getsockname(), HANG)

    if path is not None:
        server = await asyncio.start_unix_server(echo, path)
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server, connect


def ask(connect: Callable[[], socket.socket]) -> bytes:
    with connect() as sock:
        sock.settimeout(HANG)
        sock.sendall(b"hello\n")
        return sock.recv(100)


@pytest.mark.smoke
@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("action", ["nothing", "close", "abort_clients"])
def test_a_server_goes_on(action: str, unix: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "socket" if unix else None) as (server, connect):
            for _ in range(2):
                in_a_child(
                    {
                        "nothing": lambda: None,
                        "close": server.close,
                        "abort_clients": server.abort_clients,
                    }[action]
                )
                assert await asyncio.to_thread(ask, connect) == b"hello\n"

    run(main)


@pytest.mark.parametrize("unix", [False, True])
def test_a_child_may_close_its_loop(unix: bool, tmp_path: Path) -> None:
    loop = loop_pool.new_event_loop()
    served = serving(tmp_path / "socket" if unix else None)
    _, connect = loop.run_until_complete(served.__aenter__())
    ours, far = socket.socketpair()
    heard: list[bytes] = []
    loop.add_reader(ours, lambda: heard.append(ours.recv(100)))

    def child() -> None:
        loop.remove_reader(ours)
        loop.close()

    in_a_child(child)
    far.send(b"x")
    loop.run_until_complete(eventually(lambda: heard == [b"x"], "the reader is called"))
    answer = loop.run_until_complete(asyncio.to_thread(ask, connect))
    assert answer == b"hello\n"
    loop.remove_reader(ours)
    loop.run_until_complete(served.__aexit__(None, None, None))
    shut_down(loop)
    ours.close()
    far.close()


def test_a_child_may_run_the_loop_of_its_parent_which_stays_the_parent_s() -> None:
    """As programs do that make one loop for all their processes: each has its own descriptors."""
    loop = loop_pool.new_event_loop()
    ours, far = socket.socketpair()
    heard: list[bytes] = []
    loop.add_reader(ours, lambda: heard.append(ours.recv(100)))

    async def work() -> str:
        """Timers, sockets, threads and signals."""
        done = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await done
        loop.remove_signal_handler(signal.SIGUSR1)
        near, other = socket.socketpair()
        near.setblocking(False)
        other.send(b"y")
        got = await loop.sock_recv(near, 10)
        near.close()
        other.close()
        await asyncio.sleep(0.001)
        return await asyncio.to_thread(got.decode)

    def child() -> None:
        far.send(b"x")
        assert loop.run_until_complete(asyncio.wait_for(work(), HANG)) == "y"
        assert heard == [], "it is the parent's to read"
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    in_a_child(child)
    loop.run_until_complete(eventually(lambda: heard == [b"x"], "the parent reads"))
    assert loop.run_until_complete(asyncio.wait_for(work(), HANG)) == "y"
    loop.remove_reader(ours)
    shut_down(loop)
    ours.close()
    far.close()


# How a child ends


@pytest.mark.parametrize("how", ["os._exit", "exec", "multiprocessing"])
@pytest.mark.parametrize("pool", [False, True])
def test_a_child_may_end_in_any_way_out_of_a_callback(pool: bool, how: str, tmp_path: Path) -> None:
    source = f"""
        import asyncio, multiprocessing, os, signal, socket, sys, warnings
        import loop_pool
        warnings.simplefilter("ignore")

        async def echo(reader, writer):
            try:
                while line := await reader.readline():
                    writer.write(line)
            except asyncio.CancelledError:
                writer.write(b"of the child")
                writer.close()
                raise

        def nothing():
            pass

        async def main(how, path):
            serve = loop_pool.start_server if {pool} else asyncio.start_server
            server = await serve(echo, "127.0.0.1", 0)
            unix = await asyncio.start_unix_server(echo, path)
            address = server.sockets[0].getsockname()
            clients = [await asyncio.open_connection(*address) for _ in range(4)]
            clients.append(await asyncio.open_unix_connection(path))

            async def check():
                for reader, writer in clients:
                    writer.write(b"line\\n")
                    assert await reader.readline() == b"line\\n"
            await check()
            if how == "multiprocessing":
                process = multiprocessing.get_context("fork").Process(target=nothing)
                process.start()
                await asyncio.to_thread(process.join)
                assert process.exitcode == 0
            else:
                child = os.fork()
                if not child:
                    signal.alarm({int(HANG) - 5})
                    if how == "exec":
                        os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit({EXIT})"])
                    os._exit({EXIT})
                _, status = await asyncio.to_thread(os.waitpid, child, 0)
                assert os.waitstatus_to_exitcode(status) == {EXIT}, status
            await check()
            clients.append(await asyncio.open_connection(*address))
            clients.append(await asyncio.open_unix_connection(path))
            await check()
            for _, writer in clients:
                writer.close()
            for each in (server, unix):
                each.close()
            print("well")

        how, path = sys.argv[1:]
        if {pool}:
            loop_pool.run(main(how, path), loops=3, shutdown_timeout=10)
        else:
            asyncio.run(main(how, path), loop_factory=loop_pool.new_event_loop)
    """
    assert check_script(source, how, str(tmp_path / "socket")) == "well\n"


def test_a_child_may_end_as_any_process_while_nobody_runs_the_loop(tmp_path: Path) -> None:
    """All that it has is finalized."""
    source = """
        import asyncio, os, socket, sys, warnings
        import loop_pool
        warnings.simplefilter("ignore")

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        loop = loop_pool.new_event_loop()
        path = sys.argv[1]
        kept = [
            loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0)),
            loop.run_until_complete(loop.create_unix_server(Echo, path)),
        ]

        async def connect():
            address = kept[0].sockets[0].getsockname()
            unix = await asyncio.open_unix_connection(path)
            return [await asyncio.open_connection(*address), unix]

        async def check(clients):
            for reader, writer in clients:
                writer.write(b"line\\n")
                assert await reader.readline() == b"line\\n"

        clients = loop.run_until_complete(connect())
        loop.run_until_complete(check(clients))
        child = os.fork()
        if not child:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        clients += loop.run_until_complete(connect())
        loop.run_until_complete(check(clients))
        for _, writer in clients:
            writer.close()
        for server in kept:
            server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        print("well")
    """
    assert check_script(source, str(tmp_path / "socket")) == "well\n"
