"""The addresses of datagrams: what a protocol gets, and what `sendto` takes, is the socket's."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG, eventually, run_main
from .support import bound

type Loop = asyncio.AbstractEventLoop


class Receiver(asyncio.DatagramProtocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.senders: list[Any] = []
        self.errors: list[Exception] = []
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.senders.append(addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def _endpoint(**options: Any) -> tuple[Any, Receiver]:
    return await asyncio.get_running_loop().create_datagram_endpoint(Receiver, **options)


HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.mark.smoke
@pytest.mark.parametrize(("family", "host"), HOSTS, ids=["v4", "v6"])
def test_every_way_to_write_an_address_that_the_socket_takes(
    loop: Loop, family: int, host: str
) -> None:
    async def main() -> None:
        with bound(family, (host, 0)) as far:
            port = far.getsockname()[1]
            transport, protocol = await _endpoint(local_addr=(host, 0))
            ways: list[Any] = [(host, port), far.getsockname(), (host.encode(), port)]
            if family == socket.AF_INET:
                ways += [("localhost", port), ("", port), ("127.1", port), (host, True + port - 1)]
            else:
                ways += [(host, port, 0), (host, port, 0, 0), ("0:0::1", port)]
            for number, address in enumerate(ways):
                transport.sendto(b"%d" % number, address)
                data, name = far.recvfrom(10)
                assert data == b"%d" % number
                assert name == transport.get_extra_info("sockname")
            far.sendto(b"x", name)
            await eventually(lambda: bool(protocol.senders), "a datagram")
            (sender,) = protocol.senders
            assert sender == far.getsockname()
            assert [type(part) for part in sender] == [type(part) for part in far.getsockname()]
            assert protocol.errors == []
            transport.close()
            await protocol.lost

    run_main(loop, main())


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("127.0.0.1", -1), OverflowError),
        (("127.0.0.1", 70_000), OverflowError),
        (("127.0.0.1", "1"), TypeError),
        (("127.0.0.1",), TypeError),
        (["127.0.0.1", 1], TypeError),
        ("127.0.0.1", TypeError),
    ],
)
def test_what_is_no_address_is_the_end(
    loop: Loop, reported: list[dict[str, Any]], address: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        transport, protocol = await _endpoint(local_addr=("127.0.0.1", 0))
        transport.sendto(b"x", address)
        assert type(await protocol.lost) is error
        assert [each["message"] for each in reported] == ["Fatal write error on datagram transport"]

    run_main(loop, main())


def test_an_unknown_host_is_an_error_and_no_end(loop: Loop) -> None:
    async def main() -> None:
        transport, protocol = await _endpoint(local_addr=("127.0.0.1", 0))
        transport.sendto(b"x", ("no.such.host.invalid", 1))
        assert [type(each) for each in protocol.errors] == [socket.gaierror]
        transport.close()
        assert await protocol.lost is None

    run_main(loop, main())


def test_a_sender_behind_a_mapped_address(loop: Loop) -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        transport, protocol = await _endpoint(sock=sock)
        with bound(socket.AF_INET, ("127.0.0.1", 0)) as far:
            far.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
            await eventually(lambda: bool(protocol.senders), "a datagram")
            assert protocol.senders == [("::ffff:127.0.0.1", far.getsockname()[1], 0, 0)]
            transport.sendto(b"y", protocol.senders[0])
            assert far.recv(10) == b"y"
        transport.close()
        await protocol.lost

    run_main(loop, main())


def test_names_of_unix_sockets(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        near = str(tmp_path / "near")
        transport, protocol = await _endpoint(local_addr=near, family=socket.AF_UNIX)
        names: list[Any] = [str(tmp_path / "plain"), os.fsencode(tmp_path / "bytes"), None]
        names += [str(tmp_path / "\xe9"), os.fsencode(tmp_path / "x") + b"\xff"]
        if os.uname().sysname == "Linux":
            names.append(f"\0loop_pool.{os.getpid()}")
        for name in names:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
                far.settimeout(HANG)
                if name is not None:
                    far.bind(name)
                far.sendto(b"x", near)
                await eventually(lambda: bool(protocol.senders), "a datagram")
                sender = protocol.senders.pop()
                if name is None:
                    assert sender is None
                    continue
                assert sender == far.getsockname()
                for address in (sender, name, os.fsencode(name)):
                    transport.sendto(b"y", address)
                    assert far.recvfrom(10) == (b"y", near)
        assert protocol.errors == []
        for wrong in (str(tmp_path / "none"), "x" * 200):
            transport.sendto(b"z", wrong)
        kinds = [(type(each), str(each)) for each in protocol.errors]
        assert kinds == [
            (FileNotFoundError, "[Errno 2] No such file or directory"),
            (OSError, "AF_UNIX path too long"),
        ]
        transport.close()
        await protocol.lost

    run_main(loop, main())


def test_names_wait_in_their_place_among_numbers(loop: Loop, tmp_path: Path) -> None:
    """The queue is that of a peer to which the socket is not connected, which is full."""

    async def main() -> None:
        near, there = str(tmp_path / "near"), str(tmp_path / "far")
        with bound(socket.AF_UNIX, there) as far:
            transport, protocol = await _endpoint(local_addr=near, family=socket.AF_UNIX)
            sent: list[bytes] = []
            # One that only the socket itself can read, and two that are plain.
            ways = (Path(there).as_posix(), os.fsencode(there), _Text(there))
            while transport.get_write_buffer_size() < 200:
                for way in ways:
                    sent.append(b"%d" % len(sent))
                    transport.sendto(sent[-1], way)
            got = [await asyncio.to_thread(far.recv, 10) for _ in sent]
            assert got == sent
            await eventually(lambda: not transport.get_write_buffer_size(), "all is sent")
            assert protocol.errors == []
            transport.close()
            assert await protocol.lost is None

    run_main(loop, main())


class _Text(str):
    """Text of a class of its own."""

    __slots__ = ()


def test_room_that_others_make_is_found(loop: Loop, tmp_path: Path) -> None:
    """The kernel does not tell a socket which is not connected when another's queue has room."""

    async def main() -> None:
        near, there = str(tmp_path / "near"), str(tmp_path / "far")
        with (
            bound(socket.AF_UNIX, there) as far,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        ):
            other.setblocking(False)
            filled = 0
            with pytest.raises(BlockingIOError):
                while True:
                    other.sendto(b"other", there)
                    filled += 1
            transport, protocol = await _endpoint(local_addr=near, family=socket.AF_UNIX)
            transport.sendto(b"mine", there)
            assert transport.get_write_buffer_size() == len(b"mine") + 8
            for _ in range(filled):
                assert far.recv(10) == b"other"
            assert await asyncio.to_thread(far.recv, 10) == b"mine"
            await eventually(lambda: not transport.get_write_buffer_size(), "it is sent")
            transport.close()
            await protocol.lost

    run_main(loop, main())
