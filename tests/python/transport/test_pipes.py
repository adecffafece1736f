"""Pipe transports, over everything that has two ends, and the pipes of processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import socket
import sys
import tty
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import Recorder, eventually, run_main, turns
from .support import give, pipe

type Loop = asyncio.AbstractEventLoop

WARNING = "pipe closed by peer or os.write(pipe, data) raised exception."


@pytest.fixture(params=["pipe", "fifo", "socketpair", "pty"])
def ends(request: pytest.FixtureRequest, loop: Loop, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The reading and the writing end, as unbuffered files or sockets."""
    if request.param == "pipe":
        reading, writing = os.pipe()
    elif request.param == "fifo":
        os.mkfifo(tmp_path / "fifo")
        reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(tmp_path / "fifo", os.O_WRONLY)
    elif request.param == "pty":
        reading, writing = os.openpty()
        tty.setraw(writing)
    else:
        near, far = socket.socketpair()
        yield near, far
        near.close()
        far.close()
        return
    with open(reading, "rb", 0) as near_file, open(writing, "wb", 0) as far_file:
        yield near_file, far_file


@contextlib.asynccontextmanager
async def reader(pipe: Any, protocol: Recorder | None = None) -> AsyncIterator[Any]:
    """A reading transport and its protocol."""
    made = protocol or Recorder()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: made, pipe)
    try:
        yield transport, made
    finally:
        transport.close()
        await made.ended()


@contextlib.asynccontextmanager
async def writer(pipe: Any, protocol: Recorder | None = None) -> AsyncIterator[Any]:
    """A writing transport and its protocol."""
    made = protocol or Recorder()
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: made, pipe)
    try:
        yield transport, made
    finally:
        if not transport.is_closing():  # asyncio's would be lost twice.
            transport.abort()
        await made.ended()


def _stuff(transport: Any) -> bytes:
    written = bytearray()
    while not transport.get_write_buffer_size():
        transport.write(b"0123456789abcdef" * 512)
        written += b"0123456789abcdef" * 512
    return bytes(written)


def _take(pipe: Any, count: int) -> bytes:
    got = bytearray()
    os.set_blocking(pipe.fileno(), True)
    while len(got) < count:
        got += os.read(pipe.fileno(), count - len(got))
    return bytes(got)


# What they are


@pytest.mark.smoke
def test_what_they_are_and_tell(loop: Loop, ends: tuple[Any, Any]) -> None:
    async def main() -> None:
        near, far = ends
        async with reader(near) as (reading, first), writer(far) as (writing, second):
            assert isinstance(reading, asyncio.ReadTransport)
            assert isinstance(writing, asyncio.WriteTransport)
            for transport, protocol, pipe in ((reading, first, near), (writing, second, far)):
                assert transport.get_protocol() is protocol
                assert transport.get_extra_info("pipe") is pipe
                assert transport.get_extra_info("nothing", 7) == 7
                assert not transport.is_closing()
                assert not os.get_blocking(pipe.fileno())
                assert f"fd={pipe.fileno()}" in repr(transport)
                assert protocol.calls == ["connection_made"]
            assert reading.is_reading()
            assert writing.can_write_eof()
            assert writing.get_write_buffer_size() == 0
            assert writing.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            writing.write(b"bytes")
            writing.write(bytearray(b"array"))
            writing.write(memoryview(b"view"))
            writing.writelines([b"li", bytearray(b"ne"), memoryview(b"s")])
            writing.write(b"")
            expected = b"bytesarrayviewlines"
            await first.got(len(expected))
            assert first.data == expected
        for pipe in ends:
            assert pipe.fileno() == -1 if isinstance(pipe, socket.socket) else pipe.closed

    run_main(loop, main())


@pytest.mark.parametrize("data", ["text", None, 7])
def test_anything_but_bytes_is_refused(loop: Loop, data: Any) -> None:
    async def main() -> None:
        near, far = pipe()
        async with reader(near) as (_, protocol), writer(far) as (writing, _):
            with pytest.raises((TypeError, AssertionError)):  # asyncio asserts it.
                writing.write(data)
            writing.write(b"fine")
            await protocol.got(4)

    run_main(loop, main())


def test_a_file_is_refused(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "file").open("w+b", 0) as file:
            with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
                await loop.connect_read_pipe(Recorder, file)
            with pytest.raises(ValueError, match="Pipe transport is only for pipes, sockets and"):
                await loop.connect_write_pipe(Recorder, file)
            assert not file.closed

    run_main(loop, main())


# Reading


@pytest.mark.smoke
def test_reading_pauses_and_resumes(loop: Loop, ends: tuple[Any, Any]) -> None:
    async def main() -> None:
        near, far = ends
        async with reader(near) as (reading, protocol):
            for number in range(1, 4):
                reading.pause_reading()
                reading.pause_reading()
                assert not reading.is_reading()
                give(far, b"x")
                await turns(20)
                assert len(protocol.data) == number - 1
                reading.resume_reading()
                reading.resume_reading()
                assert reading.is_reading()
                await protocol.got(number)
            protocol.hooks["data_received"] = lambda _: reading.pause_reading()
            give(far, b"y")
            await protocol.got(4)
            give(far, b"z")
            await turns(20)
            assert len(protocol.data) == 4

    run_main(loop, main())


@pytest.mark.parametrize("keep", [None, True])
def test_the_end_of_the_writer(loop: Loop, ends: tuple[Any, Any], keep: Any) -> None:
    async def main() -> None:
        near, far = ends
        terminal = os.isatty(near.fileno())
        async with reader(near, Recorder(eof_received=lambda: keep)) as (reading, protocol):
            give(far, b"last words")
            await protocol.got(10)
            far.close()
            error = await protocol.ended()
            if terminal:  # Without its other end it is an error.
                assert isinstance(error, OSError)
                assert protocol.count("eof_received") == 0
            else:
                assert error is None
                assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
            assert protocol.data == b"last words"
            assert reading.is_closing()
            assert not reading.is_reading()

    run_main(loop, main())


def test_the_end_waits_while_reading_is_paused(loop: Loop) -> None:
    async def main() -> None:
        near, far = pipe()
        async with reader(near) as (reading, protocol):
            reading.pause_reading()
            give(far, b"last")
            far.close()
            await turns(50)
            assert protocol.calls == ["connection_made"]
            reading.resume_reading()
            assert await protocol.ended() is None
            assert protocol.data == b"last"

    run_main(loop, main())


def test_a_failing_reader_is_reported_and_goes_on(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError("as planned")

    async def main() -> None:
        near, far = pipe()
        with far:
            async with reader(near, Recorder(data_received=fails)) as (_, protocol):
                for number in range(1, 3):
                    give(far, b"x")
                    await protocol.got(number)
                await turns()
                assert "connection_lost" not in protocol.calls

    run_main(loop, main())
    assert [each["message"].split("(")[0][:21] for each in reported] == [
        "Exception in callback"
    ] * 2


def test_another_reader_in_mid_stream(loop: Loop) -> None:
    async def main() -> None:
        near, far = pipe()
        with far:
            async with reader(near) as (reading, first):
                second = Recorder()
                reading.set_protocol(second)
                assert reading.get_protocol() is second
                give(far, b"x")
                await second.got(1)
                assert first.data == b""
                reading.set_protocol(first)

    run_main(loop, main())


# Writing


def test_much_is_written_through_flow_control(loop: Loop, ends: tuple[Any, Any]) -> None:
    async def main() -> None:
        near, far = ends
        async with reader(near) as (reading, first), writer(far) as (writing, second):
            writing.set_write_buffer_limits(1_000, 10)
            assert writing.get_write_buffer_limits() == (10, 1_000)
            reading.pause_reading()
            expected = _stuff(writing)
            while not second.count("pause_writing"):
                writing.write(b"more" * 100)
                expected += b"more" * 100
            assert writing.get_write_buffer_size() > 1_000
            reading.resume_reading()
            await first.got(len(expected))
            assert first.data == expected
            await eventually(lambda: second.count("resume_writing") == 1, "it is resumed")
            assert second.count("pause_writing") == 1
            assert writing.get_write_buffer_size() == 0

    run_main(loop, main())


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_the_end_of_writing_flushes(loop: Loop, how: str) -> None:
    async def main() -> None:
        near, far = pipe()
        async with reader(near) as (reading, first), writer(far) as (writing, second):
            reading.pause_reading()
            expected = _stuff(writing)
            getattr(writing, how)()
            assert writing.is_closing()
            await turns(20)
            assert "connection_lost" not in second.calls
            reading.resume_reading()
            assert await first.ended() is None
            assert first.data == expected
            assert await second.ended() is None

    run_main(loop, main())


def test_abort_drops_what_is_queued(loop: Loop, ends: tuple[Any, Any]) -> None:
    async def main() -> None:
        near, far = ends
        async with writer(far) as (writing, protocol):
            _stuff(writing)
            writing.abort()
            assert writing.get_write_buffer_size() == 0
            assert writing.is_closing()
            assert await protocol.ended() is None
        near.close()

    run_main(loop, main())


@pytest.mark.parametrize("queued", [False, True], ids=["idle", "queued"])
def test_the_end_of_the_reader_ends_the_writer(loop: Loop, queued: bool) -> None:
    for kind in ("pipe", "socketpair"):
        near, far = pipe() if kind == "pipe" else socket.socketpair()

        async def main(near: Any, far: Any) -> None:
            async with writer(far) as (writing, protocol):
                if queued:
                    _stuff(writing)
                near.close()
                error = await protocol.ended()
                assert isinstance(error, BrokenPipeError if queued else type(None))
                assert writing.is_closing()

        run_main(loop, main(near, far))


def test_a_write_error_ends_the_writer_with_it(loop: Loop) -> None:
    async def main() -> None:
        near, far = pipe()
        async with writer(far) as (writing, protocol):
            near.close()
            writing.write(b"x")
            assert isinstance(await protocol.ended(), BrokenPipeError)

    run_main(loop, main())


def test_writes_after_the_end_are_dropped_and_warned_of(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        near, far = pipe()
        async with writer(far) as (writing, _):
            writing.close()
            for _ in range(8):
                writing.write(b"x")
        with near:
            assert near.read(10) == b""

    caplog.set_level(logging.WARNING, "asyncio")
    run_main(loop, main())
    said = [record.getMessage() for record in caplog.records]
    assert said == [WARNING] * 3  # From the sixth on: closing is no failed write.


def test_a_paused_reader_that_nobody_keeps_is_collected_with_a_warning(loop: Loop) -> None:
    async def connect() -> weakref.ref[Any]:
        transport, _ = await loop.connect_read_pipe(Recorder, near)
        transport.pause_reading()
        return weakref.ref(transport)

    near, far = pipe()
    reference = run_main(loop, connect())
    run_main(loop, turns())
    with far, pytest.warns(ResourceWarning, match="unclosed transport"):
        gc.collect()
    gc.collect()  # what was warned of was kept by the warning
    assert reference() is None


# Processes


class Process(asyncio.SubprocessProtocol):
    """Keeps what a process says, by descriptor."""

    def __init__(self) -> None:
        self.said = {1: bytearray(), 2: bytearray()}
        self.calls: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.said[fd] += data

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.calls.append(f"pipe {fd} lost")

    def process_exited(self) -> None:
        self.calls.append("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


ECHO = """
import sys
while data := sys.stdin.buffer.read1(50_000):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
print("done", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.smoke
def test_a_process_echoes_a_megabyte(loop: Loop) -> None:
    content = os.urandom(1 << 20)

    async def main() -> None:
        transport, protocol = await loop.subprocess_exec(Process, sys.executable, "-c", ECHO)
        stdin: Any = transport.get_pipe_transport(0)
        stdout: Any = transport.get_pipe_transport(1)
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(stdout, asyncio.ReadTransport)
        stdin.write(content)
        assert stdin.get_write_buffer_size() > 0
        stdin.close()
        await protocol.lost
        assert protocol.said == {1: content, 2: b"done\n"}
        assert transport.get_returncode() == 3
        assert protocol.calls[-1] == "connection_lost"
        assert sorted(protocol.calls[:-1]) == [
            "exited",
            "pipe 0 lost",
            "pipe 1 lost",
            "pipe 2 lost",
        ]
        transport.close()

    run_main(loop, main())


def test_a_process_that_is_closed_is_killed(loop: Loop) -> None:
    async def main() -> None:
        transport, protocol = await loop.subprocess_exec(Process, sys.executable, "-c", ECHO)
        stdin: Any = transport.get_pipe_transport(0)
        stdin.write(b"x")
        await eventually(lambda: protocol.said[1] == b"x", "it runs")
        transport.close()
        assert await protocol.lost is None
        assert transport.get_returncode() == -signal.SIGKILL

    run_main(loop, main())


def test_a_process_that_reads_nothing_breaks_the_pipe_when_it_ends(loop: Loop) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "read line; echo $line", stdin=-1, stdout=-1
        )
        assert process.stdin is not None
        process.stdin.write(b"one\n" + bytes(4 << 20))
        assert process.stdout is not None
        assert await process.stdout.read() == b"one\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await process.stdin.drain()
            await process.stdin.wait_closed()
        assert await process.wait() == 0

    run_main(loop, main())


def test_the_representation(loop: Loop) -> None:
    async def main() -> None:
        near, far = pipe()
        async with reader(near) as (reading, _), writer(far) as (writing, _):
            await turns()
            assert re.fullmatch(r"<\w+ fd=\d+ polling>", repr(reading))
            reading.pause_reading()
            assert re.fullmatch(r"<\w+ fd=\d+ idle>", repr(reading))
            assert re.fullmatch(r"<\w+ fd=\d+ idle bufsize=0>", repr(writing))
            _stuff(writing)
            size = writing.get_write_buffer_size()
            assert re.fullmatch(rf"<\w+ fd=\d+ polling bufsize={size}>", repr(writing))
            writing.close()
            assert " closing fd=" in repr(writing)
            reading.resume_reading()
        assert re.search(r"closed fd=\d+", repr(reading))

    run_main(loop, main())
