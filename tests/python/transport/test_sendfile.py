"""`loop.sendfile`: a file between what was written before it and after it."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support import (
    HANG,
    Recorder,
    connected,
    eventually,
    read_out,
    receive,
    reset,
    run_main,
    stuff,
    turns,
)
from ..tls.support import shaken
from .support import socket_with_number

SIZE = 8 << 20


@pytest.fixture(scope="module")
def content() -> bytes:
    """What is in the file."""
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[Any]:
    """A file of 8 MiB, its position at 5."""
    path = tmp_path / "content"
    path.write_bytes(content)
    with path.open("rb") as opened:
        opened.seek(5)
        yield opened


@pytest.mark.smoke
@pytest.mark.parametrize(
    "part",
    [(0, None), (1_000_001, None), (7, 10), (100, SIZE), (5, 2**64), (SIZE + 5, None)],
    ids=str,
)
def test_a_part_of_a_file(
    loop: asyncio.AbstractEventLoop,
    kind: str,
    file: Any,
    content: bytes,
    part: tuple[int, int | None],
) -> None:
    offset, count = part
    expected = content[offset:] if count is None else content[offset : offset + count]

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            receiving = asyncio.create_task(asyncio.to_thread(receive, far))
            sent = await loop.sendfile(transport, file, offset, count)
            assert sent == len(expected)
            if sent:
                assert file.tell() == offset + sent
            assert transport.get_write_buffer_size() == 0
            transport.close()
            assert await receiving == expected
            assert await protocol.ended() is None

    run_main(loop, main())


def test_it_comes_after_what_waits_and_before_what_is_written_then(
    loop: asyncio.AbstractEventLoop, kind: str, file: Any, content: bytes
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            before = stuff(transport) + bytes(1 << 20)
            transport.write(bytes(1 << 20))
            receiving = asyncio.create_task(asyncio.to_thread(receive, far))
            assert await loop.sendfile(transport, file) == SIZE
            transport.write(b"after")
            transport.close()
            assert await receiving == before + content + b"after"

    run_main(loop, main())


def test_nothing_may_be_written_meanwhile(
    loop: asyncio.AbstractEventLoop, file: Any, content: bytes
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                transport.write(b"x")
            with pytest.raises(RuntimeError, match="unable to writelines; sendfile is in progress"):
                transport.writelines([b"x"])
            assert await asyncio.to_thread(receive, far, SIZE) == content
            await sending
            transport.write(b"x")
            assert far.recv(1) == b"x"

    run_main(loop, main())


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
def test_nothing_is_read_meanwhile_and_then_as_before(
    loop: asyncio.AbstractEventLoop, file: Any, paused: bool
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            if paused:
                transport.pause_reading()
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await asyncio.sleep(0)
            assert not transport.is_reading()
            far.sendall(b"x")
            await asyncio.to_thread(receive, far, SIZE)
            await sending
            assert transport.is_reading() is not paused
            transport.resume_reading()
            await protocol.got(1)

    run_main(loop, main())


def test_a_file_that_is_none_falls_back(loop: asyncio.AbstractEventLoop, content: bytes) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            before = stuff(transport)
            receiving = asyncio.create_task(asyncio.to_thread(receive, far, len(before) + SIZE - 3))
            memory = io.BytesIO(content)
            assert await loop.sendfile(transport, memory, 3) == SIZE - 3
            assert memory.tell() == SIZE
            received = await receiving
            # asyncio's transport keeps a view of the buffer that its own fallback fills again.
            if type(loop).__module__.startswith("asyncio"):
                received = received[: len(before)] + content[3:]
            assert received == before + content[3:]
            assert transport.get_protocol() is protocol
            assert transport.is_reading()
            far.sendall(b"x")
            await protocol.got(1)
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(transport, memory, fallback=False)
            transport.write(b"still of use")
            assert await asyncio.to_thread(receive, far, 12) == b"still of use"

    run_main(loop, main())


def test_an_empty_file(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "empty").touch()
        async with connected(Recorder()) as (transport, protocol, far):
            with (tmp_path / "empty").open("rb") as empty:
                assert await loop.sendfile(transport, empty) == 0
            transport.close()
            assert await protocol.ended() is None
            assert receive(far) == b""

    run_main(loop, main())


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_goes_away_is_an_error(
    loop: asyncio.AbstractEventLoop, file: Any, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await asyncio.to_thread(receive, far, 100_000)
            if how == "reset":
                reset(far)
            else:
                far.close()
            with pytest.raises(ConnectionError):
                await sending
            assert not transport.is_closing() or await protocol.ended() is not None

    run_main(loop, main())


def test_a_sendfile_that_is_cancelled_leaves_a_transport_that_works(
    loop: asyncio.AbstractEventLoop, file: Any, content: bytes
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await asyncio.to_thread(receive, far, 10)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert transport.is_reading()
            transport.write(b"after")
            transport.close()
            got = await asyncio.to_thread(receive, far)
            assert got.endswith(b"after")
            assert content[10:].startswith(got[:-5])
            assert await protocol.ended() is None

    run_main(loop, main())


def test_what_cannot_be_sent_is_refused(
    loop: asyncio.AbstractEventLoop, file: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            for offset, count, kind in (
                (-1, None, ValueError),
                (0, 0, ValueError),
                (0, -1, ValueError),
                ("0", None, TypeError),
                (0, "1", TypeError),
            ):
                with pytest.raises(kind, match="must be a"):
                    await loop.sendfile(transport, file, offset, count)
            with (tmp_path / "text").open("w+") as text:
                with pytest.raises(ValueError, match="binary mode"):
                    await loop.sendfile(transport, text)
            transport.write(b"still of use")
            assert receive(far, 12) == b"still of use"
            assert transport.is_reading()
            transport.close()
            with pytest.raises(RuntimeError, match="Transport is closing"):
                await loop.sendfile(transport, file)
            await protocol.ended()

    run_main(loop, main())


def test_two_files_one_after_the_other(
    loop: asyncio.AbstractEventLoop, kind: str, file: Any, content: bytes
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            receiving = asyncio.create_task(asyncio.to_thread(read_out, far))
            for _ in range(2):
                assert await loop.sendfile(transport, file) == SIZE
            transport.close()
            assert await receiving == content * 2

    run_main(loop, main())


def test_the_descriptor_is_the_transport_s_again_afterwards(
    loop: asyncio.AbstractEventLoop, file: Any
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            receiving = asyncio.create_task(asyncio.to_thread(receive, far, 1_000))
            await loop.sendfile(transport, file, 0, 1_000)
            await receiving
            fd = transport.get_extra_info("socket").fileno()
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_writer(fd, print)
            await eventually(transport.is_reading, "it reads")

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_one_cancelled_before_it_begins_leaves_a_transport_that_works(
    loop: asyncio.AbstractEventLoop, kind: str, file: Any, debug: bool
) -> None:
    """asyncio: gh-157025."""

    async def main() -> None:
        loop.set_debug(debug)
        async with connected(Recorder(), kind) as (transport, protocol, far):
            before = stuff(transport) + bytes(1 << 20)
            transport.write(bytes(1 << 20))
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert transport.is_reading()
            transport.write(b"after")
            assert await asyncio.to_thread(receive, far, len(before) + 5) == before + b"after"
            far.sendall(b"x")
            await protocol.got(1)

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_second_one_meanwhile_is_refused_and_harms_nothing(
    loop: asyncio.AbstractEventLoop, file: Any, content: bytes
) -> None:
    """asyncio's leaves the transport paused."""

    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            with pytest.raises(RuntimeError, match="Empty waiter is already set"):
                await loop.sendfile(transport, file)
            assert await asyncio.to_thread(receive, far, SIZE) == content
            assert await sending == SIZE
            assert transport.is_reading()

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("waits", [False, True], ids=["sending", "waiting"])
def test_it_ends_with_its_transport(  # noqa: PLR0917
    loop: asyncio.AbstractEventLoop, kind: str, file: Any, how: str, waits: bool, debug: bool
) -> None:
    """asyncio's goes on waiting for the closed descriptor."""

    async def main() -> None:
        loop.set_debug(debug)
        async with connected(Recorder(), kind) as (transport, protocol, far):
            if waits:
                stuff(transport)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            assert not sending.done()
            getattr(transport, how)()
            if waits:
                await asyncio.to_thread(read_out, far)
            with pytest.raises(ConnectionError):
                await sending
            assert await protocol.ended() is None

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_once_its_transport_has_ended_it_touches_no_successor(
    loop: asyncio.AbstractEventLoop, file: Any, debug: bool
) -> None:
    """Neither its end nor its cancellation undoes the registration of who has the number next."""

    async def main() -> None:
        loop.set_debug(debug)
        async with connected(Recorder()) as (transport, protocol, _):
            fd = transport.get_extra_info("socket").fileno()
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            transport.abort()
            await protocol.ended()
            near, far = socket_with_number(fd)
            with far:
                successor, heir = await loop.create_connection(Recorder, sock=near)
                sending.cancel()
                await asyncio.wait([sending])
                far.sendall(b"for the successor")
                await heir.got(17)
                successor.abort()
                await heir.ended()

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_fallback_cancelled_as_its_transport_ends_passes_the_end_on(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """asyncio's raises `InvalidStateError`, and the protocol never hears of the end."""

    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, _):
            sending = asyncio.create_task(loop.sendfile(transport, io.BytesIO(bytes(SIZE))))
            await eventually(lambda: transport._protocol_paused, "a pause")
            transport.abort()
            sending.cancel()
            assert await protocol.ended() is None
            with pytest.raises(asyncio.CancelledError):
                await sending

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_fallback_over_tls_whose_peer_has_ended_has_not_sent_the_file(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """asyncio's drops the rest, and says that all was sent."""
    noticed = threading.Event()

    class File:
        """The peer sends its end between the first piece and the second."""

        pieces = 0

        def __init__(self, far: socket.socket) -> None:
            self.far = far

        def readinto(self, _: memoryview) -> int:
            self.pieces += 1
            if self.pieces == 2:
                self.far.shutdown(socket.SHUT_WR)
                assert noticed.wait(HANG)
            return 10 if self.pieces < 4 else 0

    async def main() -> None:
        async with shaken(Recorder) as (transport, _, peer):
            file: Any = File(peer.sock)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            tls = transport._ssl_protocol
            await eventually(lambda: tls._state.name != "WRAPPED", "the end of the peer")
            noticed.set()
            with pytest.raises(ConnectionError):
                await sending
            assert file.pieces == 2

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_a_cancelled_fallback_leaves_the_flow_control_as_it_is(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """asyncio's tells the protocol to resume what it was never told to pause."""

    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            sending = asyncio.create_task(loop.sendfile(transport, io.BytesIO(bytes(SIZE))))
            await eventually(lambda: transport._protocol_paused, "a pause")
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert protocol.count("pause_writing") == 1
            reading = asyncio.create_task(asyncio.to_thread(read_out, far))
            await eventually(lambda: protocol.count("resume_writing") == 1, "a resumption")
            transport.close()
            await protocol.ended()
            await reading

    run_main(loop, main())
