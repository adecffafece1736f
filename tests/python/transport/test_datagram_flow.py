"""Datagram transports whose socket is full: unix datagrams, whose queue is short."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ..support import HANG, eventually, run_main, turns

type Loop = asyncio.AbstractEventLoop


class Sender(asyncio.DatagramProtocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")

    def error_received(self, exc: Exception) -> None:
        self.calls.append(type(exc).__name__)

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def sender() -> AsyncIterator[tuple[Any, Sender, socket.socket]]:
    """A transport and the socket at its far end."""
    protocol = Sender()
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
    ):
        far.bind(f"{folder}/far")
        far.settimeout(HANG)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: protocol, remote_addr=f"{folder}/far", family=socket.AF_UNIX
        )
        try:
            yield transport, protocol, far
        finally:
            if not protocol.lost.done():  # asyncio's does not take it after a flushing close.
                transport.abort()
            await asyncio.shield(protocol.lost)
            await turns()
            assert protocol.calls.count("connection_lost") == 1


def _stuff(transport: Any, size: int = 10) -> list[bytes]:
    """Sends numbered datagrams until one has to wait; returns them all."""
    sent: list[bytes] = []
    while not transport.get_write_buffer_size():
        sent.append(b"%d" % len(sent) + b"." * size)
        transport.sendto(sent[-1])
        assert len(sent) < 100_000
    return sent


def test_what_finds_no_room_waits_in_order(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, far):
            sent = _stuff(transport)
            assert transport.get_write_buffer_size() == len(sent[-1]) + 8  # As asyncio counts.
            for data in (b"", b"one", b"", bytearray(b"two"), memoryview(b"three")):
                transport.sendto(data)
                sent.append(bytes(data))
            assert transport.get_write_buffer_size() == sum(len(data) + 8 for data in sent[-6:])
            got = [await asyncio.to_thread(far.recv, 1_000) for _ in sent]
            assert got == sent
            await eventually(lambda: transport.get_write_buffer_size() == 0, "all is sent")
            assert protocol.calls == []

    run_main(loop, main())


def test_a_bytearray_that_waits_may_be_reused(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, _, far):
            sent = _stuff(transport)
            data = bytearray(b"before")
            transport.sendto(data)
            data[:] = b"changed since"
            data.clear()
            got = [await asyncio.to_thread(far.recv, 1_000) for _ in range(len(sent) + 1)]
            assert got == [*sent, b"before"]

    run_main(loop, main())


@pytest.mark.smoke
def test_a_protocol_is_paused_and_resumed_once_for_each_crossing(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, far):
            transport.set_write_buffer_limits(100, 20)
            assert transport.get_write_buffer_limits() == (20, 100)
            for number in range(1, 4):
                sent = _stuff(transport)
                while protocol.calls.count("pause_writing") < number:
                    assert transport.get_write_buffer_size() <= 100
                    transport.sendto(b"more......")
                    sent.append(b"more......")
                assert transport.get_write_buffer_size() > 100
                transport.sendto(b"yet more")
                sent.append(b"yet more")
                assert protocol.calls.count("pause_writing") == number
                got = [await asyncio.to_thread(far.recv, 1_000) for _ in sent]
                assert got == sent
                await eventually(
                    lambda: protocol.calls.count("resume_writing") == number,  # noqa: B023
                    "it is resumed",
                )
            assert protocol.calls == ["pause_writing", "resume_writing"] * 3

    run_main(loop, main())


def test_empty_datagrams_that_wait_are_counted(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, _):
            _stuff(transport)
            transport.set_write_buffer_limits(200)
            for _ in range(100):
                transport.sendto(b"")
            assert transport.get_write_buffer_size() >= 800
            assert protocol.calls == ["pause_writing"]

    run_main(loop, main())


def test_close_sends_what_waits(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, far):
            sent = _stuff(transport)
            transport.close()
            assert transport.is_closing()
            await turns(20)
            assert protocol.calls == []
            got = [await asyncio.to_thread(far.recv, 1_000) for _ in sent]
            assert got == sent
            assert await asyncio.shield(protocol.lost) is None

    run_main(loop, main())


def test_abort_drops_what_waits(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, far):
            sent = _stuff(transport)
            transport.abort()
            assert await asyncio.shield(protocol.lost) is None
            far.setblocking(False)
            got = []
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while data := far.recv(1_000):
                    got.append(data)
            assert got == sent[: len(got)]
            assert len(got) < len(sent)

    run_main(loop, main())


def test_a_peer_that_goes_away_while_datagrams_wait(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (transport, protocol, far):
            sent = _stuff(transport)
            for _ in range(3):
                transport.sendto(b"x")
            far.close()
            await eventually(lambda: transport.get_write_buffer_size() == 0, "nothing waits")
            errors = [name for name in protocol.calls if name.endswith("Error")]
            assert 1 <= len(errors) <= len(sent) + 4
            assert "connection_lost" not in protocol.calls

    run_main(loop, main())


def test_a_waiting_datagram_does_not_hold_others_up(loop: Loop) -> None:
    async def main() -> None:
        async with sender() as (full, _, _), sender() as (free, _, far):
            _stuff(full)
            for number in range(20):
                free.sendto(b"%d" % number)
                assert far.recv(10) == b"%d" % number
                await turns(2)

    run_main(loop, main())
