"""TLS over transports: `ssl=` and `start_tls`, with asyncio's protocol between."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import pytest

from ..support import (
    HANG,
    Recorder,
    eventually,
    read_out,
    receive,
    reset,
    run_main,
    self_signed,
    stream_sockets,
    turns,
)

type Loop = asyncio.AbstractEventLoop


class Tls:
    """A TLS server of one loop, and the protocols that it made."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.server_context, self.client_context = self_signed()
        self.protocols: list[Recorder] = []
        self.server: Any = None

    def factory(self) -> Recorder:
        self.protocols.append(Recorder(**self.hooks))
        return self.protocols[-1]

    async def __aenter__(self) -> Tls:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            self.factory, "127.0.0.1", 0, ssl=self.server_context
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    @property
    def address(self) -> tuple[str, int]:
        return self.server.sockets[0].getsockname()

    async def connect(self, protocol: Recorder) -> Any:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: protocol, *self.address, ssl=self.client_context, server_hostname="localhost"
        )
        await eventually(lambda: bool(self.protocols) and bool(self.protocols[-1].calls), "shaken")
        return transport

    def raw(self) -> ssl.SSLSocket:
        """A blocking client."""
        sock = socket.create_connection(self.address, HANG)
        return self.client_context.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.smoke
def test_what_a_tls_transport_is_and_tells(loop: Loop) -> None:
    async def main() -> None:
        async with Tls() as tls:
            client = Recorder()
            transport = await tls.connect(client)
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_protocol() is client
            assert transport.is_reading()
            assert not transport.is_closing()
            assert transport.can_write_eof() is False
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            info = transport.get_extra_info
            assert info("peername") == tls.address
            assert info("sockname") == info("socket").getsockname()
            assert info("sslcontext") is tls.client_context
            assert isinstance(info("ssl_object"), ssl.SSLObject)
            assert info("peercert")["subject"]
            assert len(info("cipher")) == 3
            assert info("compression") is None
            assert info("nothing", 7) == 7
            server = tls.protocols[0].transport
            assert server.get_extra_info("peername") == info("sockname")
            assert server.get_extra_info("sslcontext") is tls.server_context
            transport.close()
            assert transport.is_closing()
            assert await client.ended() is None
            await tls.protocols[0].ended()

    run_main(loop, main())


def test_eight_megabytes_both_ways_at_once(loop: Loop) -> None:
    content = os.urandom(8 << 20)

    async def main() -> None:
        async with Tls() as tls:
            client = Recorder()
            transport = await tls.connect(client)
            server = tls.protocols[0]
            for start in range(0, len(content), 300_000):
                transport.write(content[start : start + 300_000])
                server.transport.writelines([content[start : start + 300_000][::-1]])
            await server.got(len(content))
            await client.got(len(content))
            assert server.data == content
            assert len(client.data) == len(content)
            transport.close()
            await client.ended()
            await server.ended()

    run_main(loop, main())


def test_flow_control_over_tls(loop: Loop) -> None:
    async def main() -> None:
        async with Tls() as tls:
            client = Recorder()
            transport = await tls.connect(client)
            server = tls.protocols[0]
            server.transport.pause_reading()
            transport.set_write_buffer_limits(1_000, 10)
            assert transport.get_write_buffer_limits() == (10, 1_000)
            written = 0
            while not client.count("pause_writing"):
                transport.write(bytes(1 << 20))
                written += 1 << 20
                await turns(3)
                assert written < 256 << 20
            assert transport.get_write_buffer_size() > 1_000
            assert server.data == b""
            server.transport.resume_reading()
            await server.got(written)
            await eventually(lambda: client.count("resume_writing") == 1, "it is resumed")
            transport.close()
            await client.ended()
            await server.ended()

    run_main(loop, main())


def test_a_blocking_client_of_a_tls_server(loop: Loop) -> None:
    async def main() -> None:
        async with Tls() as tls:
            tls.hooks["data_received"] = lambda data: tls.protocols[0].transport.write(data.upper())

            def ask() -> bytes:
                with tls.raw() as sock:
                    sock.sendall(b"question")
                    return receive(sock, 8)

            assert await asyncio.to_thread(ask) == b"QUESTION"
            await tls.protocols[0].ended()

    run_main(loop, main())


def test_what_is_written_before_close_arrives(loop: Loop) -> None:
    async def main() -> None:
        async with Tls() as tls:

            def take() -> int:
                with tls.raw() as sock:
                    return len(receive(sock))

            taking = asyncio.create_task(asyncio.to_thread(take))
            await eventually(lambda: bool(tls.protocols) and bool(tls.protocols[0].calls), "made")
            transport = tls.protocols[0].transport
            transport.write(bytes(4 << 20))
            transport.close()
            assert await taking == 4 << 20
            await tls.protocols[0].ended()

    run_main(loop, main())


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_an_abrupt_end(loop: Loop, how: str) -> None:
    async def main() -> None:
        async with Tls() as tls:
            client = Recorder()
            near = socket.create_connection(tls.address, HANG)
            transport, _ = await loop.create_connection(
                lambda: client, sock=near, ssl=tls.client_context, server_hostname="localhost"
            )
            await eventually(lambda: bool(tls.protocols[0].calls), "shaken")
            if how == "abort":
                transport.abort()
                assert await client.ended() is None
            else:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                transport.abort()
                await client.ended()
                assert isinstance(await tls.protocols[0].ended(), ConnectionResetError)
            await tls.protocols[0].ended()

    run_main(loop, main())


# Bad peers cost themselves only


@pytest.mark.parametrize("what", ["garbage", "silence and end", "reset", "half a record"])
def test_a_peer_that_speaks_no_tls_costs_itself(
    loop: Loop, reported: list[dict[str, Any]], what: str
) -> None:
    async def main() -> None:
        async with Tls() as tls:
            good = Recorder()
            transport = await tls.connect(good)
            for _ in range(3):
                bad = socket.create_connection(tls.address, HANG)
                if what == "garbage":
                    bad.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
                elif what == "half a record":
                    bad.sendall(b"\x16\x03\x01\x02\x00\x01")
                if what == "reset":
                    reset(bad)
                else:
                    bad.shutdown(socket.SHUT_WR)
                    await asyncio.to_thread(read_out, bad)
                    bad.close()
            await eventually(lambda: len(tls.protocols) == 4, "all were accepted")
            transport.write(b"x")
            await tls.protocols[0].got(1)
            assert not any(each.calls for each in tls.protocols[1:])
            transport.close()
            await good.ended()
            await tls.protocols[0].ended()

    run_main(loop, main())
    for context in reported:
        assert "exception" not in context or isinstance(context["exception"], OSError)


def test_a_peer_that_never_shakes_hands_is_given_up(loop: Loop) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        _, client_context = self_signed()
        with far:
            with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
                await loop.create_connection(
                    Recorder,
                    sock=near,
                    ssl=client_context,
                    server_hostname="localhost",
                    ssl_handshake_timeout=0.05,
                )
            await turns()
            assert near.fileno() == -1
            await asyncio.to_thread(read_out, far)

    run_main(loop, main())


def test_a_handshake_that_is_cancelled_closes_the_socket(loop: Loop) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        _, client_context = self_signed()
        with far:
            task = asyncio.create_task(
                loop.create_connection(
                    Recorder, sock=near, ssl=client_context, server_hostname="localhost"
                )
            )
            assert await asyncio.to_thread(far.recv, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: near.fileno() == -1, "the socket is closed")

    run_main(loop, main())


def test_a_failing_protocol_over_tls(loop: Loop, reported: list[dict[str, Any]]) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with Tls(data_received=fails) as tls:
            client = Recorder()
            transport = await tls.connect(client)
            transport.write(b"x")
            assert isinstance(await tls.protocols[0].ended(), ZeroDivisionError)
            await client.ended()

    run_main(loop, main())
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


# start_tls


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_start_tls_over_transports(loop: Loop, kind: str) -> None:
    async def main() -> None:
        server_context, client_context = self_signed()
        near, far = stream_sockets(kind)
        one, two = Recorder(), Recorder()
        client, _ = await loop.create_connection(lambda: one, sock=near)
        server, _ = await loop.connect_accepted_socket(lambda: two, far)
        client.write(b"in the clear")
        await two.got(12)
        upgraded = await asyncio.gather(
            loop.start_tls(client, one, client_context, server_hostname="localhost"),
            loop.start_tls(server, two, server_context, server_side=True),
        )
        content = os.urandom(1 << 20)
        upgraded[0].write(content)
        upgraded[1].write(content)
        await two.got(12 + len(content))
        await one.got(len(content))
        assert two.data == b"in the clear" + content
        assert one.data == content
        assert one.count("connection_made") == two.count("connection_made") == 1
        assert client.get_protocol() is not one
        assert upgraded[0].get_extra_info("cipher")
        upgraded[0].close()
        await one.ended()
        await two.ended()

    run_main(loop, main())


def test_start_tls_loses_nothing_that_came_before_it(loop: Loop) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_context, client_context = self_signed()
    near, far = stream_sockets("tcp")

    def blocking(step: Any) -> Any:
        while True:
            try:
                result = step()
                far.sendall(outgoing.read())
                return result
            except ssl.SSLWantReadError:
                far.sendall(outgoing.read())
                incoming.write(far.recv(65536))

    async def main() -> None:
        protocol = Recorder(data_received=lambda _: transport.pause_reading())
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, near)
        far.sendall(b"S")
        await protocol.got(1)
        client = client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        far.sendall(outgoing.read())  # The hello is there long before the upgrade.
        protocol.hooks.clear()
        shaking = asyncio.create_task(asyncio.to_thread(blocking, client.do_handshake))
        upgraded = await loop.start_tls(transport, protocol, server_context, server_side=True)
        await shaking
        client.write(b"question")
        far.sendall(outgoing.read())
        await protocol.got(9)
        assert protocol.data == b"Squestion"
        upgraded.write(b"answer")
        assert await asyncio.to_thread(blocking, lambda: client.read(6)) == b"answer"
        upgraded.abort()
        await protocol.ended()

    with far:
        run_main(loop, main())


def test_start_tls_refuses_what_it_cannot_upgrade(loop: Loop) -> None:
    async def main() -> None:
        _, context = self_signed()
        near, far = stream_sockets("tcp")
        with far:
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            with pytest.raises(TypeError, match="sslcontext is expected"):
                await loop.start_tls(transport, protocol, None)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="is not supported by start_tls"):
                await loop.start_tls(asyncio.Transport(), protocol, context)
            transport.close()
            await protocol.ended()

    run_main(loop, main())


# Files


def test_a_file_over_tls_falls_back(loop: Loop, tmp_path: Any) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "content").write_bytes(content)

    async def main() -> None:
        async with Tls() as tls:
            client = Recorder()
            transport = await tls.connect(client)
            with (tmp_path / "content").open("rb") as file:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await loop.sendfile(transport, file, fallback=False)
                assert await loop.sendfile(transport, file, 10) == len(content) - 10
            await tls.protocols[0].got(len(content) - 10)
            assert tls.protocols[0].data == content[10:]
            transport.close()
            await client.ended()
            await tls.protocols[0].ended()

    run_main(loop, main())
