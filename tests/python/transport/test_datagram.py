"""Datagram transports: addresses, boundaries, errors, and what waits for room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from asyncio import trsock
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, eventually, run_main, turns
from .support import bound

type Loop = asyncio.AbstractEventLoop

WARNING = "socket.send() raised exception."


class Recorder(asyncio.DatagramProtocol):
    """Keeps a protocol's calls in order."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.calls: list[str] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()

    def _called(self, name: str, *args: Any) -> None:
        self.calls.append(name)
        if name in self.hooks:
            self.hooks[name](*args)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("connection_made", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.datagrams.append((data, addr))
        self._called("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._called("error_received", exc)

    def pause_writing(self) -> None:
        self._called("pause_writing")

    def resume_writing(self) -> None:
        self._called("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)
        self._called("connection_lost", exc)

    async def got(self, count: int) -> None:
        await eventually(lambda: len(self.datagrams) >= count, f"{count} datagrams")

    async def ended(self) -> Any:
        error = await asyncio.wait_for(asyncio.shield(self.lost), HANG)
        await turns()
        assert self.calls.count("connection_lost") == 1
        assert self.calls[-1] == "connection_lost"
        assert self.calls[0] == "connection_made"
        return error


@contextlib.asynccontextmanager
async def endpoint(
    protocol: Recorder | None = None, **options: Any
) -> AsyncIterator[tuple[Any, Recorder]]:
    """A datagram transport and its protocol; at the end it is aborted if it is still open."""
    loop = asyncio.get_running_loop()
    made = protocol or Recorder()
    transport, _ = await loop.create_datagram_endpoint(lambda: made, **options)
    try:
        yield transport, made
    finally:
        transport.abort()
        await made.ended()


LOCAL = ("127.0.0.1", 0)


# What it is


@pytest.mark.smoke
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
@pytest.mark.parametrize("connected", [False, True], ids=["bound", "connected"])
def test_what_an_endpoint_is_and_tells(loop: Loop, family: int, connected: bool) -> None:
    async def main() -> None:
        with bound(family) as far:
            host, port = far.getsockname()[:2]
            where: Any = {"remote_addr": (host, port)} if connected else {"local_addr": (host, 0)}
            async with endpoint(**where) as (transport, protocol):
                assert isinstance(transport, asyncio.DatagramTransport)
                assert transport.get_protocol() is protocol
                assert protocol.calls == ["connection_made"]
                assert not transport.is_closing()
                assert transport.get_write_buffer_size() == 0
                assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
                sock = transport.get_extra_info("socket")
                assert isinstance(sock, trsock.TransportSocket)
                assert (sock.family, sock.type) == (family, socket.SOCK_DGRAM)
                own = transport.get_extra_info("sockname")
                assert own == sock.getsockname()
                peer = transport.get_extra_info("peername")
                assert peer == (far.getsockname() if connected else None)
                assert transport.get_extra_info("nothing", 7) == 7
                transport.sendto(b"hello", None if connected else far.getsockname())
                data, name = far.recvfrom(100)
                assert data == b"hello"
                far.sendto(b"back", name)
                await protocol.got(1)
                assert protocol.datagrams == [(b"back", far.getsockname())]
                transport.close()
                assert await protocol.ended() is None
                assert transport.get_extra_info("sockname") == own
                assert sock.fileno() == -1

    run_main(loop, main())


@pytest.mark.parametrize(
    "data", [b"bytes", bytearray(b"array"), memoryview(b"view"), b"", bytearray(), memoryview(b"")]
)
def test_kinds_of_data(loop: Loop, data: Any) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(remote_addr=far.getsockname()) as (transport, _):
                transport.sendto(data)
                transport.sendto(data, far.getsockname())
                assert [far.recv(100), far.recv(100)] == [bytes(data)] * 2
            async with endpoint(local_addr=LOCAL) as (transport, _):
                transport.sendto(data, far.getsockname())
                assert far.recv(100) == bytes(data)

    run_main(loop, main())


@pytest.mark.parametrize("data", ["text", None, 7, [b"x"]])
def test_anything_else_is_a_type_error(loop: Loop, data: Any) -> None:
    async def main() -> None:
        async with endpoint(local_addr=LOCAL) as (transport, protocol):
            with pytest.raises(TypeError) as seen:
                transport.sendto(data, LOCAL)
            assert str(seen.value) == (
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
            assert protocol.calls == ["connection_made"]

    run_main(loop, main())


@pytest.mark.smoke
def test_datagrams_keep_their_boundaries_and_their_order(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(local_addr=LOCAL) as (transport, protocol):
                name = transport.get_extra_info("sockname")
                sent = [b"%d" % number * (number % 7) for number in range(50)]
                for number, data in enumerate(sent, 1):
                    far.sendto(data, name)
                    if number % 10 == 0:
                        await protocol.got(number)
                assert [data for data, _ in protocol.datagrams] == sent
                assert {address for _, address in protocol.datagrams} == {far.getsockname()}

    run_main(loop, main())


def test_a_large_datagram_is_not_cut(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(local_addr=LOCAL) as (transport, protocol):
                far.sendto(bytes(65_507), transport.get_extra_info("sockname"))
                await protocol.got(1)
                assert protocol.datagrams[0][0] == bytes(65_507)
                transport.sendto(bytes(65_507), far.getsockname())
                assert len(far.recv(70_000)) == 65_507

    run_main(loop, main())


# Addresses


def test_a_connected_endpoint_sends_to_its_peer_only(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far, bound() as other:
            peer = far.getsockname()
            async with endpoint(remote_addr=peer) as (transport, protocol):
                with pytest.raises(ValueError) as seen:
                    transport.sendto(b"x", other.getsockname())
                assert str(seen.value) == f"Invalid address: must be None or {peer}"
                transport.sendto(b"fine", peer)
                assert far.recv(10) == b"fine"
                other.sendto(b"stranger", transport.get_extra_info("sockname"))
                far.sendto(b"friend", transport.get_extra_info("sockname"))
                await protocol.got(1)
                assert protocol.datagrams == [(b"friend", peer)]

    run_main(loop, main())


def test_broadcasting_endpoints_are_not_connected(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far, bound() as other:
            peer = far.getsockname()
            async with endpoint(remote_addr=peer, allow_broadcast=True) as (transport, protocol):
                sock = transport.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
                assert transport.get_extra_info("peername") is None
                transport.sendto(b"x")
                data, name = far.recvfrom(10)
                assert data == b"x"
                with pytest.raises(ValueError, match="Invalid address: must be None or"):
                    transport.sendto(b"x", other.getsockname())
                other.sendto(b"anybody", ("127.0.0.1", name[1]))
                await protocol.got(1)

    run_main(loop, main())


def test_an_address_is_needed_where_there_is_no_peer(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with endpoint(local_addr=LOCAL) as (transport, protocol):
            transport.sendto(b"x")
            assert isinstance(await protocol.ended(), TypeError)
            (context,) = reported
            assert context["message"] == "Fatal write error on datagram transport"
            assert context["transport"] is transport
            assert context["protocol"] is protocol

    run_main(loop, main())


def test_a_given_socket(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            sock = bound()
            async with endpoint(sock=sock) as (transport, _):
                assert transport.get_extra_info("sockname") == sock.getsockname()
                transport.sendto(b"x", far.getsockname())
                assert far.recv(10) == b"x"
            assert sock.fileno() == -1
            sock = bound()
            sock.connect(far.getsockname())
            async with endpoint(sock=sock) as (transport, _):
                transport.sendto(b"y")
                assert far.recv(10) == b"y"
        with socket.socket() as stream:
            with pytest.raises(ValueError, match="A datagram socket was expected"):
                await loop.create_datagram_endpoint(Recorder, sock=stream)
        with bound() as sock:
            with pytest.raises(ValueError, match=r"can not be used .* \(local_addr="):
                await loop.create_datagram_endpoint(Recorder, sock=sock, local_addr=LOCAL)

    run_main(loop, main())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"local_addr": "127.0.0.1"}, TypeError),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)}, ValueError),
        ({"local_addr": b"path", "family": socket.AF_UNIX}, TypeError),
        ({"local_addr": ("no.such.host.invalid", 0)}, socket.gaierror),
    ],
    ids=["nothing", "text", "families", "bytes", "unknown"],
)
def test_addresses_that_make_no_sense(loop: Loop, options: Any, error: type[Exception]) -> None:
    async def main() -> None:
        with pytest.raises(error):
            await loop.create_datagram_endpoint(Recorder, **options)

    run_main(loop, main())


def test_two_endpoints_share_a_port(loop: Loop) -> None:
    async def main() -> None:
        async with endpoint(local_addr=LOCAL, reuse_port=True) as (first, _):
            name = first.get_extra_info("sockname")
            async with endpoint(local_addr=name, reuse_port=True) as (second, _):
                assert second.get_extra_info("sockname") == name
                sock = second.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            with pytest.raises(OSError, match="in use"):
                await loop.create_datagram_endpoint(Recorder, local_addr=name)

    run_main(loop, main())


def test_unix_datagrams_between_names(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        paths = [str(tmp_path / name) for name in "ab"]
        unix: Any = {"family": socket.AF_UNIX}
        async with (
            endpoint(local_addr=paths[0], **unix) as (one, first),
            endpoint(local_addr=paths[1], remote_addr=paths[0], **unix) as (two, second),
        ):
            assert two.get_extra_info("peername") == paths[0]
            two.sendto(b"x")
            await first.got(1)
            assert first.datagrams == [(b"x", paths[1])]
            one.sendto(b"", paths[1])
            await second.got(1)
            assert second.datagrams == [(b"", paths[0])]

    run_main(loop, main())


# Errors


def test_a_refused_datagram_is_an_error_and_no_end(loop: Loop) -> None:
    async def main() -> None:
        with bound() as gone:
            peer = gone.getsockname()
        async with endpoint(remote_addr=peer) as (transport, protocol):
            transport.sendto(b"x")
            await eventually(lambda: bool(protocol.errors), "it is refused")
            assert all(isinstance(each, ConnectionRefusedError) for each in protocol.errors)
            with socket.socket(type=socket.SOCK_DGRAM) as back:
                back.bind(peer)
                back.settimeout(HANG)
                transport.sendto(b"again")
                transport.sendto(b"again")
                assert back.recv(10) == b"again"
                back.sendto(b"answer", transport.get_extra_info("sockname"))
                await protocol.got(1)
            assert "connection_lost" not in protocol.calls

    run_main(loop, main())


def test_a_datagram_that_is_too_long_is_an_error_and_no_end(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(remote_addr=far.getsockname()) as (transport, protocol):
                transport.sendto(bytes(70_000))
                (error,) = protocol.errors  # At once, inside sendto().
                assert isinstance(error, OSError)
                assert transport.get_write_buffer_size() == 0
                transport.sendto(b"short")
                assert far.recv(10) == b"short"

    run_main(loop, main())


@pytest.mark.parametrize("method", ["datagram_received", "error_received"])
def test_a_failing_protocol_is_reported_and_the_endpoint_goes_on(
    loop: Loop, reported: list[dict[str, Any]], method: str
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("as planned")

    async def main() -> None:
        with bound() as gone:
            peer = gone.getsockname()
        where: Any = {"remote_addr": peer} if method == "error_received" else {"local_addr": LOCAL}
        async with endpoint(Recorder(**{method: fails}), **where) as (transport, protocol):
            with socket.socket(type=socket.SOCK_DGRAM) as far:
                if method == "error_received":
                    transport.sendto(b"x")
                    await eventually(lambda: bool(protocol.errors), "it is refused")
                    far.bind(peer)
                for number in range(1, 3):
                    far.sendto(b"x", transport.get_extra_info("sockname"))
                    await protocol.got(number)
            await turns()
            assert "connection_lost" not in protocol.calls
            assert len(reported) == (1 if method == "error_received" else 2)
            assert all(each["message"].startswith("Exception in callback") for each in reported)

    run_main(loop, main())


# The end


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_end_comes_later_and_once(loop: Loop, how: str) -> None:
    async def main() -> None:
        async with endpoint(local_addr=LOCAL) as (transport, protocol):
            getattr(transport, how)()
            assert transport.is_closing()
            assert protocol.calls == ["connection_made"]
            transport.close()
            transport.abort()
            assert await protocol.ended() is None

    run_main(loop, main())


def test_nothing_is_delivered_after_close(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(local_addr=LOCAL) as (transport, protocol):
                protocol.hooks["datagram_received"] = lambda *_: transport.close()
                for _ in range(3):
                    far.sendto(b"x", transport.get_extra_info("sockname"))
                await protocol.ended()
                assert len(protocol.datagrams) == 1

    run_main(loop, main())


def test_sendto_of_a_connected_endpoint_after_the_end_is_dropped_and_warned_of(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(remote_addr=far.getsockname()) as (transport, protocol):
                transport.close()
                for number in range(1, 8):
                    transport.sendto(b"x")
                    said = sum(each.getMessage() == WARNING for each in caplog.records)
                    assert said == max(0, number - 4)
                await protocol.ended()
                transport.sendto(b"x")
                with pytest.raises(ValueError, match="Invalid address"):
                    transport.sendto(b"x", LOCAL)
                far.setblocking(False)
                with pytest.raises(BlockingIOError):
                    far.recv(10)

    caplog.set_level(logging.WARNING, "asyncio")
    run_main(loop, main())


def test_another_protocol_in_mid_stream(loop: Loop) -> None:
    async def main() -> None:
        with bound() as far:
            async with endpoint(local_addr=LOCAL) as (transport, first):
                second = Recorder()
                transport.set_protocol(second)
                assert transport.get_protocol() is second
                far.sendto(b"x", transport.get_extra_info("sockname"))
                await second.got(1)
                assert first.datagrams == []
                transport.set_protocol(first)

    run_main(loop, main())
