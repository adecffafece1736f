"""Promises of pipe and stream transports that were broken once, each held against asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import pty
import re
import socket
import tty
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..support import HANG, Recorder, connected, eventually, run_main, turns

type Loop = asyncio.AbstractEventLoop


@pytest.fixture
def pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """The two ends of a pipe, to be read and to be written."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as near, open(write, "wb", buffering=0) as far:
        yield near, far


def _interrupt() -> None:
    raise KeyboardInterrupt


# Writing


def test_a_pipe_s_protocol_goes_on_when_all_is_written(
    loop: Loop, pipe: tuple[io.FileIO, io.FileIO]
) -> None:
    async def main() -> None:
        near, far = pipe
        queued: list[int] = []
        protocol = Recorder(resume_writing=lambda: queued.append(transport.get_write_buffer_size()))
        transport, _ = await loop.connect_write_pipe(lambda: protocol, far)
        transport.set_write_buffer_limits(high=50_000, low=40_000)
        transport.write(bytes(131_072))
        assert protocol.calls[-1] == "pause_writing"
        os.set_blocking(near.fileno(), False)
        left = 131_072

        def all_came() -> bool:
            nonlocal left
            left -= len(near.read(8_192) or b"")
            return left == 0

        await eventually(all_came, "all is written")
        await eventually(lambda: bool(queued), "it goes on")
        assert queued == [0]
        transport.close()
        await protocol.ended()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_an_interrupt_by_resume_writing_does_not_lose_the_end(loop: Loop, kind: str) -> None:
    async def connect() -> tuple[Any, Recorder, Callable[[], object], contextlib.ExitStack]:
        stack = contextlib.ExitStack()
        protocol = Recorder(resume_writing=_interrupt)
        if kind == "pipe":
            read, write = os.pipe()
            os.set_blocking(read, False)
            near = stack.enter_context(os.fdopen(read, "rb", buffering=0))
            far = os.fdopen(write, "wb", buffering=0)
            transport, _ = await loop.connect_write_pipe(lambda: protocol, far)
            return transport, protocol, lambda: near.read(1 << 20), stack
        own, peer = socket.socketpair()
        stack.enter_context(peer)
        peer.setblocking(False)
        stream, _ = await loop.create_connection(lambda: protocol, sock=own)
        return stream, protocol, lambda: peer.recv(1 << 20), stack

    transport, protocol, take, stack = loop.run_until_complete(connect())
    with stack:
        transport.write(bytes(1 << 20))
        transport.close()

        def drain() -> None:
            if protocol.lost.done():
                return
            with contextlib.suppress(BlockingIOError):
                while take():
                    pass
            loop.call_later(0.001, drain)

        loop.call_soon(drain)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait_for(asyncio.shield(protocol.lost), HANG))
        loop.run_until_complete(asyncio.wait_for(asyncio.shield(protocol.lost), HANG))
        assert protocol.calls[-2:] == ["resume_writing", "connection_lost"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_written_may_be_named(
    loop: Loop, pipe: tuple[io.FileIO, io.FileIO], kind: str
) -> None:
    async def check(transport: Any) -> None:
        transport.write(data=b"named")
        for args, kwargs, text in (
            ((), {}, "missing 1 required positional argument: 'data'"),
            ((b"", b""), {}, "takes 2 positional arguments but 3 were given"),
            ((b"",), {"data": b""}, "got multiple values for argument 'data'"),
            ((), {"bytes": b""}, "got an unexpected keyword argument 'bytes'"),
        ):
            with pytest.raises(TypeError, match=rf"Transport\.write\(\) {re.escape(text)}$"):
                transport.write(*args, **kwargs)

    async def main() -> None:
        if kind == "socket":
            async with connected(Recorder()) as (transport, _, peer):
                await check(transport)
                assert peer.recv(100) == b"named"
            return
        near, far = pipe
        protocol = Recorder()
        transport, _ = await loop.connect_write_pipe(lambda: protocol, far)
        await check(transport)
        assert near.read(100) == b"named"
        transport.close()
        await protocol.ended()

    run_main(loop, main())


# The end


@pytest.mark.loop_pool_only
def test_the_end_is_complete_though_the_pipe_does_not_close_well(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    class Stubborn(io.FileIO):
        def close(self) -> None:
            fresh = not self.closed
            super().close()
            if fresh:
                raise ZeroDivisionError

    async def main() -> None:
        master, slave = pty.openpty()
        tty.setraw(slave)
        try:
            # The second transport on one descriptor has a duplicate, which is closed as well.
            terminal = Stubborn(master, "r+b")
            writes, reads = Recorder(), Recorder()
            writer, _ = await loop.connect_write_pipe(lambda: writes, terminal)
            reader, _ = await loop.connect_read_pipe(lambda: reads, terminal)
            reader.close()
            await eventually(lambda: bool(reported), "it is reported")
            assert reader.get_protocol() is None
            writer.close()
            await writes.ended()
        finally:
            os.close(slave)

    run_main(loop, main())
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


def test_the_representation_of_a_closed_connection_ends_with_its_number(loop: Loop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, _):
            pass
        assert re.fullmatch(r"<\w+ closed fd=\d+>", repr(transport))

    run_main(loop, main())


# What cannot be waited for


def test_the_report_of_a_device_that_cannot_be_watched(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        protocol = Recorder()
        with open("/dev/null", "rb", buffering=0) as device:
            transport, _ = await loop.connect_read_pipe(lambda: protocol, device)
            await eventually(lambda: bool(reported), "it is reported")
            assert re.search(r"PipeTransport\._add_reader\(.*\)$", reported[0]["message"])
            assert re.search(r" fd=\d+ idle>$", repr(transport))
            transport.pause_reading()
            assert not transport.is_reading()
            with pytest.raises(PermissionError):
                transport.resume_reading()
            assert transport.is_reading()
            transport.close()
            await protocol.ended()
        assert len(reported) == 1

    run_main(loop, main())


def test_a_device_that_is_not_read_needs_no_watching(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        protocol = Recorder(connection_made=lambda transport: transport.pause_reading())
        with open("/dev/null", "rb", buffering=0) as device:
            transport, _ = await loop.connect_read_pipe(lambda: protocol, device)
            await turns()
            transport.close()
            await protocol.ended()
        assert reported == []

    run_main(loop, main())


# What is logged in debug mode


@pytest.fixture
def debug_log(loop: Loop) -> Iterator[list[str]]:
    """The messages of asyncio's logger as they were when it got them, of a loop in debug mode."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    messages: list[str] = []
    loop.set_debug(True)
    loop.slow_callback_duration = HANG
    logger, handler = logging.getLogger("asyncio"), Handler()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_an_end_is_logged_of_what_still_reads(
    loop: Loop, pipe: tuple[io.FileIO, io.FileIO], debug_log: list[str]
) -> None:
    async def main() -> None:
        near, far = pipe
        protocol = Recorder()
        await loop.connect_read_pipe(lambda: protocol, near)
        far.close()
        await protocol.ended()
        async with connected(Recorder()) as (_, stream, peer):
            peer.close()
            await stream.ended()

    run_main(loop, main())
    assert any(re.search(r" fd=\d+ polling> was closed by peer$", text) for text in debug_log)
    assert any(re.search(r" read=polling .*> received EOF$", text) for text in debug_log)


def test_a_failed_write_is_logged_of_an_empty_queue(loop: Loop, debug_log: list[str]) -> None:
    async def main() -> None:
        async with connected(Recorder(), "unix") as (transport, protocol, peer):
            transport.pause_reading()
            transport.write(bytes(1 << 22))
            assert transport.get_write_buffer_size() > 0
            peer.close()
            await protocol.ended()
            assert isinstance(protocol.error, OSError)

    run_main(loop, main())
    (text,) = (text for text in debug_log if "Fatal write error" in text)
    assert "bufsize=0" in text
