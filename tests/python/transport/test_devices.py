"""Pipe transports over what is no pipe: terminals, sockets, devices with nothing to wait for."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import tty
from pathlib import Path
from typing import Any

import pytest

from ..support import eventually, run_main

type Loop = asyncio.AbstractEventLoop


class End(asyncio.Protocol):
    """Keeps a protocol's calls in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.calls.append("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.calls.append("eof_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


def test_one_terminal_for_both_directions(loop: Loop, reported: list[dict[str, Any]]) -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        with open(master, "r+b", buffering=0) as terminal:
            reader, reads = await loop.connect_read_pipe(End, terminal)
            writer, writes = await loop.connect_write_pipe(End, terminal)
            writer.write(b"out")
            assert os.read(slave, 10) == b"out"
            os.write(slave, b"in")
            await eventually(lambda: reads.data == b"in", "it is read")
            os.close(slave)
            # Linux reports the end of a terminal as an I/O error, which is told to nobody else.
            await reads.lost
            assert reader.is_closing()
            assert not writer.is_closing()
            writer.close()
            assert await writes.lost is None
            assert reported == []

    run_main(loop, main())


@pytest.mark.parametrize("how", ["data", "half", "close"])
@pytest.mark.parametrize("queued", [False, True], ids=["idle", "queued"])
def test_a_socket_that_is_written_closes_when_its_peer_says_anything(
    loop: Loop, how: str, queued: bool
) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            transport, protocol = await loop.connect_write_pipe(End, near)
            while queued and not transport.get_write_buffer_size():
                transport.write(bytes(65_536))
            if how == "data":
                far.send(b"x")
            elif how == "half":
                far.shutdown(socket.SHUT_WR)
            else:
                far.close()
            error = await protocol.lost
            assert error is None or (queued and type(error) is BrokenPipeError)
            assert (error is None) is not queued
            assert protocol.calls == ["connection_made", "connection_lost"]
            assert near.fileno() == -1

    run_main(loop, main())


def test_what_goes_nowhere_is_written(loop: Loop, reported: list[dict[str, Any]]) -> None:
    async def main() -> None:
        with open("/dev/null", "wb", buffering=0) as device:
            transport, protocol = await loop.connect_write_pipe(End, device)
            transport.write(bytes(1_000_000))
            assert transport.get_write_buffer_size() == 0
            transport.close()
            assert await protocol.lost is None
            assert device.closed
            assert reported == []

    run_main(loop, main())


def test_what_cannot_be_waited_for_is_an_error_in_the_loop(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        with open("/dev/null", "rb", buffering=0) as device:
            transport, protocol = await loop.connect_read_pipe(End, device)
            await eventually(lambda: bool(reported), "it is reported")
            (context,) = reported
            assert context["message"].startswith("Exception in callback ")
            assert isinstance(context["exception"], PermissionError)
            assert protocol.calls == ["connection_made"]
            transport.close()
            assert await protocol.lost is None

    run_main(loop, main())


def test_a_file_is_refused_and_stays_open(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        with open(tmp_path / "file", "w+b") as file:
            with pytest.raises(ValueError, match=r"Pipe transport is for pipes/sockets only\."):
                await loop.connect_read_pipe(End, file)
            with pytest.raises(ValueError, match="only for pipes, sockets and character devices"):
                await loop.connect_write_pipe(End, file)
            assert not file.closed

    run_main(loop, main())


def test_what_the_two_ends_can_do(loop: Loop) -> None:
    async def main() -> None:
        read, write = os.pipe()
        reader, reads = await loop.connect_read_pipe(End, os.fdopen(read, "rb", buffering=0))
        writer, writes = await loop.connect_write_pipe(End, os.fdopen(write, "wb", buffering=0))
        assert isinstance(reader, asyncio.ReadTransport)
        assert not isinstance(reader, asyncio.WriteTransport)
        assert not hasattr(reader, "abort")
        assert not hasattr(reader, "write")
        assert isinstance(writer, asyncio.WriteTransport)
        assert repr(reader).endswith(f"PipeTransport fd={read} polling>")
        assert repr(writer).endswith(f"PipeTransport fd={write} idle bufsize=0>")
        with pytest.raises(AssertionError, match="'text'"):
            writer.write("text")  # type: ignore[arg-type]
        writer.close()
        assert repr(writer).endswith(f"PipeTransport closing fd={write} idle bufsize=0>")
        await writes.lost
        await reads.lost
        assert reads.calls == ["connection_made", "eof_received", "connection_lost"]
        assert repr(reader).endswith(f"PipeTransport closed fd={read} closed>")

    run_main(loop, main())
