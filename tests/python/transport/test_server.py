"""Servers and clients of stream transports: how connections are made, and how servers end."""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import trsock
from pathlib import Path
from typing import Any

import pytest

from ..support import (
    HANG,
    LoopFactory,
    Recorder,
    check_script,
    eventually,
    factory_path,
    listen,
    receive,
    run_main,
    stream_sockets,
    stuff,
    turns,
)

type Loop = asyncio.AbstractEventLoop


class Made:
    """A protocol factory that keeps what it made."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.protocols: list[Recorder] = []

    def __call__(self) -> Recorder:
        self.protocols.append(Recorder(**self.hooks))
        return self.protocols[-1]

    async def connected(self, count: int) -> None:
        """Returns once that many connections were made."""
        await eventually(
            lambda: sum(bool(each.calls) for each in self.protocols) == count, f"{count} connected"
        )

    async def ended(self) -> None:
        for protocol in self.protocols:
            await protocol.ended()


def _connect(server: asyncio.Server) -> socket.socket:
    address = server.sockets[0].getsockname()
    if isinstance(address, tuple):
        return socket.create_connection(address[:2], HANG)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(HANG)
    sock.connect(address)
    return sock


# Servers


@pytest.mark.smoke
def test_what_a_server_tells(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        async with await loop.create_server(made, "127.0.0.1", 0) as server:
            assert server.is_serving()
            assert server.get_loop() is loop
            (sock,) = server.sockets
            assert isinstance(sock, trsock.TransportSocket)
            with _connect(server) as client:
                await made.connected(1)
                transport = made.protocols[0].transport
                assert isinstance(transport, asyncio.Transport)
                assert transport.get_extra_info("peername") == client.getsockname()
                assert transport.get_extra_info("sockname") == client.getpeername()
                own = transport.get_extra_info("socket")
                assert isinstance(own, trsock.TransportSocket)
                assert own is transport.get_extra_info("socket")
                assert own.getsockname() == client.getpeername()
                assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert not own.get_inheritable()
                assert not os.get_blocking(own.fileno())
            await made.ended()
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
            assert transport.get_extra_info("socket").fileno() == -1
        assert not server.is_serving()
        assert server.sockets == ()

    run_main(loop, main())


def test_extra_info_of_an_accepted_connection_that_is_asked_for_late(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        async with await loop.create_server(made, "127.0.0.1", 0) as server:
            with _connect(server) as client:
                await made.connected(1)
                name = client.getsockname()
            await made.ended()
            transport = made.protocols[0].transport
            assert transport.get_extra_info("peername") == name
            assert transport.get_extra_info("sockname") == server.sockets[0].getsockname()
            assert transport.get_extra_info("socket").fileno() == -1
            assert transport.get_extra_info("nothing", 7) == 7

    run_main(loop, main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None, ["127.0.0.1", "::1"]])
def test_hosts_to_listen_on(loop: Loop, host: Any) -> None:
    async def main() -> None:
        made = Made()
        async with await loop.create_server(made, host, 0) as server:
            for number, sock in enumerate(server.sockets, 1):
                with socket.socket(sock.family) as client:
                    name = sock.getsockname()
                    client.connect(("::1" if ":" in name[0] else "127.0.0.1", name[1]))
                    client.sendall(b"x")
                    await made.connected(number)
            await made.ended()
            assert all(protocol.data == b"x" for protocol in made.protocols)
            if isinstance(host, list):
                assert len(server.sockets) == 2

    run_main(loop, main())


@pytest.mark.parametrize(
    ("option", "name"),
    [("keep_alive", socket.SO_KEEPALIVE), ("reuse_port", socket.SO_REUSEPORT)],
)
def test_options_of_listeners(loop: Loop, option: str, name: int) -> None:
    async def main() -> None:
        for wanted in (True, False):
            options: Any = {option: wanted}
            async with await loop.create_server(Made(), "127.0.0.1", 0, **options) as server:
                got = server.sockets[0].getsockopt(socket.SOL_SOCKET, name)
                assert bool(got) is wanted

    run_main(loop, main())


def test_a_server_that_has_not_started_refuses_and_then_serves(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        server = await loop.create_server(made, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            _connect(server)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        with _connect(server):
            await made.connected(1)
        await made.ended()
        server.close()
        await server.wait_closed()

    run_main(loop, main())


def test_a_hundred_clients_at_once_with_a_small_backlog(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        async with await loop.create_server(made, "127.0.0.1", 0, backlog=100) as server:
            clients = [_connect(server) for _ in range(100)]
            await made.connected(100)
            for number, client in enumerate(clients):
                with client:
                    client.sendall(b"%d" % number)
            await made.ended()
        assert sorted(int(each.data) for each in made.protocols) == list(range(100))

    run_main(loop, main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_clients_are_closed_or_aborted(loop: Loop, how: str) -> None:
    async def main() -> None:
        made = Made()
        server = await loop.create_server(made, "127.0.0.1", 0)
        clients = [_connect(server) for _ in range(10)]
        await made.connected(10)
        queued = stuff(made.protocols[0].transport)
        getattr(server, how)()
        assert all(each.transport.is_closing() for each in made.protocols)
        assert server.is_serving()
        server.close()
        waiting = asyncio.create_task(server.wait_closed())
        await turns(20)
        peer = made.protocols[0].transport.get_extra_info("peername")
        assert waiting.done() is (how == "abort_clients")
        for client in clients:
            with client:
                if client.getsockname() != peer:
                    assert receive(client) == b""
                else:
                    got = await asyncio.to_thread(receive, client)
                    assert (got == queued) is (how == "close_clients")
        await waiting
        await made.ended()

    run_main(loop, main())


def test_wait_closed_waits_until_every_connection_is_lost(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        server = await loop.create_server(made, "127.0.0.1", 0)
        clients = [_connect(server) for _ in range(3)]
        await made.connected(3)
        waiting = [asyncio.create_task(server.wait_closed()) for _ in range(2)]
        await turns()
        server.close()
        for client in clients:
            await turns(20)
            assert not any(each.done() for each in waiting)
            client.close()
            await eventually(
                lambda: len([1 for each in made.protocols if each.lost.done()]) > 0, "one is lost"
            )
        await asyncio.gather(*waiting)
        assert all(each.count("connection_lost") == 1 for each in made.protocols)
        await server.wait_closed()
        await made.ended()

    run_main(loop, main())


def test_wait_closed_waits_for_the_close_too(loop: Loop) -> None:
    async def main() -> None:
        server = await loop.create_server(Made(), "127.0.0.1", 0)
        waiting = asyncio.create_task(server.wait_closed())
        await turns(20)
        assert not waiting.done()
        server.close()
        server.close()
        await waiting

    run_main(loop, main())


def test_open_connections_go_on_after_their_server_closed(loop: Loop) -> None:
    async def main() -> None:
        made = Made()
        server = await loop.create_server(made, "127.0.0.1", 0)
        with _connect(server) as client:
            await made.connected(1)
            server.close()
            for number in range(1, 5):
                client.sendall(b"x")
                await made.protocols[0].got(number)
                made.protocols[0].transport.write(b"y")
                assert client.recv(1) == b"y"
        await server.wait_closed()
        await made.ended()

    run_main(loop, main())


def test_a_server_may_be_closed_by_one_of_its_connections(loop: Loop) -> None:
    async def main() -> None:
        made = Made(connection_made=lambda _: server.close())
        server = await loop.create_server(made, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with _connect(server):
            await made.connected(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        await server.wait_closed()
        await made.ended()

    run_main(loop, main())


@pytest.mark.parametrize("backlog", [0, 100])
def test_a_server_out_of_descriptors_says_so_and_goes_on(
    loop_factory: LoopFactory, backlog: int
) -> None:
    printed = check_script(
        """
        import asyncio, importlib, os, resource, socket, sys
        module, _, name = sys.argv[1].partition(":")
        backlog = int(sys.argv[2])
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        contexts = []

        class Hello(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"hello")
                transport.close()

        async def main():
            loop = asyncio.get_running_loop()
            failed = asyncio.Event()
            def handler(_, context):
                if not contexts:
                    failed.at = loop.time()
                contexts.append(context)
                failed.set()
            loop.set_exception_handler(handler)
            server = await loop.create_server(Hello, "127.0.0.1", 0, backlog=backlog)
            with socket.socket() as client:
                client.setblocking(False)
                free = os.dup(0)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                await loop.sock_connect(client, server.sockets[0].getsockname())
                await failed.wait()
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                assert server.is_serving()
                assert await loop.sock_recv(client, 5) == b"hello"
                assert loop.time() - failed.at >= 0.9, loop.time() - failed.at
            for context in contexts:
                assert context["message"] == "socket.accept() out of system resource"
                assert isinstance(context["exception"], OSError)
                assert isinstance(context["socket"], asyncio.trsock.TransportSocket)
                assert context["socket"].fileno() == server.sockets[0].fileno()
            server.close()
            await server.wait_closed()

        asyncio.run(main(), loop_factory=getattr(importlib.import_module(module), name))
        print(len(contexts))
        """,
        factory_path(loop_factory),
        str(backlog),
    )
    # asyncio tries, and reports, once more than the backlog is long, and again in other turns.
    if loop_factory is asyncio.SelectorEventLoop:
        assert int(printed) > backlog
    else:
        assert int(printed) == 1


# Unix servers


def test_a_unix_server(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        made = Made()
        path = tmp_path / "s"
        async with await loop.create_unix_server(made, path) as server:
            assert path.is_socket()
            with _connect(server) as client:
                client.sendall(b"x")
                await made.connected(1)
                await made.protocols[0].got(1)
                transport = made.protocols[0].transport
                assert transport.get_extra_info("sockname") == str(path)
                assert transport.get_extra_info("peername") == ""
                assert transport.get_extra_info("socket").family == socket.AF_UNIX
            await made.ended()
        assert not path.exists()

    run_main(loop, main())


def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        made = Made()
        server = await loop.create_unix_server(made, str(path), cleanup_socket=False)
        with _connect(server):
            await made.connected(1)
        await made.ended()
        server.close()
        await server.wait_closed()
        assert path.exists()
        path.unlink()
        path.write_text("precious")
        with pytest.raises(OSError, match="is already in use"):
            await loop.create_unix_server(made, str(path))
        assert path.read_text() == "precious"

    run_main(loop, main())


def test_a_unix_client(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            transport, protocol = await loop.create_unix_connection(Recorder, path)
            far, _ = listener.accept()
            with far:
                transport.write(b"hello")
                assert far.recv(5) == b"hello"
            await protocol.ended()
            near, far = socket.socketpair()
            with far:
                transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
                far.sendall(b"x")
                await protocol.got(1)
                transport.close()
                await protocol.ended()

    run_main(loop, main())


# Clients


@pytest.mark.smoke
def test_a_client_s_address(loop: Loop) -> None:
    async def main() -> None:
        with listen() as listener:
            for local in (None, ("127.0.0.1", 0), ("127.0.0.2", 0)):
                transport, protocol = await loop.create_connection(
                    Recorder, *listener.getsockname(), local_addr=local
                )
                far, name = listener.accept()
                with far:
                    assert transport.get_extra_info("sockname") == name
                    assert name[0] == (local[0] if local else "127.0.0.1")
                    sock = transport.get_extra_info("socket")
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await protocol.ended()
            with pytest.raises(OSError, match="error while attempting to bind"):
                await loop.create_connection(
                    Recorder, *listener.getsockname(), local_addr=listener.getsockname()
                )

    run_main(loop, main())


def test_a_given_socket_belongs_to_the_transport(loop: Loop) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        with far:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            assert near.gettimeout() == 0
            assert transport.get_extra_info("socket").fileno() == near.fileno()
            transport.close()
            await protocol.ended()
            assert near.fileno() == -1

    run_main(loop, main())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"host": "127.0.0.1", "port": 1, "sock": True},
        {"sock": True, "server_hostname": "x"},
        {"sock": True, "ssl_handshake_timeout": 1},
        {"sock": "datagram"},
    ],
    ids=["nothing", "both", "name", "timeout", "datagram"],
)
def test_arguments_of_a_client_that_make_no_sense(loop: Loop, options: dict[str, Any]) -> None:
    async def main() -> None:
        given = dict(options)
        kind = socket.SOCK_DGRAM if given.get("sock") == "datagram" else socket.SOCK_STREAM
        with socket.socket(type=kind) as sock:
            if "sock" in given:
                given["sock"] = sock
            with pytest.raises(ValueError):
                await loop.create_connection(Recorder, **given)

    run_main(loop, main())


def test_an_accepted_socket_is_made_a_transport(loop: Loop) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        with far:
            transport, protocol = await loop.connect_accepted_socket(Recorder, near)
            assert transport.get_extra_info("peername") == far.getsockname()
            far.sendall(b"x")
            await protocol.got(1)
            transport.write(b"y")
            assert far.recv(1) == b"y"
            far.close()
            await protocol.ended()
        with socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.connect_accepted_socket(Recorder, datagram)

    run_main(loop, main())


def test_a_socket_that_is_not_connected_is_lost_at_once(loop: Loop) -> None:
    async def main() -> None:
        transport, protocol = await loop.create_connection(Recorder, sock=socket.socket())
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
        error = await protocol.ended()
        assert error is None or isinstance(error, OSError)

    run_main(loop, main())
