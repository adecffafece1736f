"""Stream transports: what waits to be written, and who is told to wait with it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from ..support import Recorder, connected, eventually, receive, reset, run_main, stuff, turns

# The marks


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (16_384, 65_536)),
        ({"high": 100}, (25, 100)),
        ({"high": 101}, (25, 101)),
        ({"high": 3}, (0, 3)),
        ({"low": 100}, (100, 400)),
        ({"high": 0}, (0, 0)),
        ({"low": 0}, (0, 0)),
        ({"high": 0, "low": 0}, (0, 0)),
        ({"high": 7, "low": 7}, (7, 7)),
        ({"high": 7, "low": 0}, (0, 7)),
        ({"high": 1 << 40}, (1 << 38, 1 << 40)),
    ],
    ids=str,
)
def test_the_marks(
    loop: asyncio.AbstractEventLoop, limits: dict[str, int], expected: tuple[int, int]
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, _):
            transport.set_write_buffer_limits(1_000, 10)
            transport.set_write_buffer_limits(**limits)
            assert transport.get_write_buffer_limits() == expected

    run_main(loop, main())


@pytest.mark.parametrize(
    ("high", "low"), [(1, 2), (-1, None), (None, -1), (0, 1), (10, -1), (-2, -1)], ids=str
)
def test_marks_that_make_no_sense_are_refused_and_change_nothing(
    loop: asyncio.AbstractEventLoop, high: int | None, low: int | None
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, _):
            transport.set_write_buffer_limits(1_000, 10)
            with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
                transport.set_write_buffer_limits(high, low)
            assert transport.get_write_buffer_limits() == (10, 1_000)

    run_main(loop, main())


def test_the_marks_are_positional_high_then_low(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, _):
            transport.set_write_buffer_limits(30, 20)
            assert transport.get_write_buffer_limits() == (20, 30)

    run_main(loop, main())


# Pausing and resuming


@pytest.mark.smoke
def test_a_protocol_is_paused_above_the_high_mark_and_resumed_at_the_low_one(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.set_write_buffer_limits(1 << 30)
            queued = stuff(transport)
            size = transport.get_write_buffer_size()
            transport.set_write_buffer_limits(size + 10, 5)
            transport.write(bytes(10))
            assert transport.get_write_buffer_size() == size + 10
            assert protocol.count("pause_writing") == 0  # At the mark is not above it.
            transport.write(b"x")
            assert protocol.count("pause_writing") == 1  # At once, inside write().
            transport.write(b"y")
            assert protocol.count("pause_writing") == 1
            assert protocol.count("resume_writing") == 0
            expected = queued + bytes(10) + b"xy"
            assert await asyncio.to_thread(receive, far, len(expected)) == expected
            await eventually(lambda: protocol.count("resume_writing") == 1, "it is resumed")
            assert transport.get_write_buffer_size() <= 5
            await turns()
            assert protocol.calls[-2:] == ["pause_writing", "resume_writing"]

    run_main(loop, main())


def test_each_crossing_is_told_once(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            for number in range(1, 6):
                transport.set_write_buffer_limits(0)
                queued = stuff(transport)
                assert protocol.count("pause_writing") == number
                assert await asyncio.to_thread(receive, far, len(queued)) == queued
                await eventually(
                    lambda: protocol.count("resume_writing") == number,  # noqa: B023
                    "it is resumed",
                )
            assert protocol.calls == ["connection_made"] + ["pause_writing", "resume_writing"] * 5

    run_main(loop, main())


def test_writes_that_are_sent_at_once_pause_nobody(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.set_write_buffer_limits(0)
            for _ in range(100):
                transport.write(b"x" * 100)
                assert receive(far, 100) == b"x" * 100
            assert protocol.calls == ["connection_made"]

    run_main(loop, main())


def test_lowering_the_marks_below_what_waits_pauses_at_once(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, _):
            transport.set_write_buffer_limits(1 << 30)
            stuff(transport)
            size = transport.get_write_buffer_size()
            transport.set_write_buffer_limits(size)
            assert protocol.count("pause_writing") == 0
            transport.set_write_buffer_limits(size - 1)
            assert protocol.count("pause_writing") == 1
            transport.set_write_buffer_limits(size - 2)
            assert protocol.count("pause_writing") == 1

    run_main(loop, main())


def test_raising_the_marks_resumes_when_more_is_written_and_not_before(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            transport.set_write_buffer_limits(0)
            queued = stuff(transport)
            transport.write(bytes(1 << 20))
            transport.set_write_buffer_limits(1 << 31, 1 << 30)
            await turns(50)
            assert protocol.count("resume_writing") == 0
            receiving = asyncio.create_task(
                asyncio.to_thread(receive, far, len(queued) + (1 << 20))
            )
            await eventually(lambda: protocol.count("resume_writing") == 1, "it is resumed")
            assert len(await receiving) == len(queued) + (1 << 20)

    run_main(loop, main())


def test_a_protocol_may_write_in_resume_writing(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        rounds = 3
        expected = bytearray()

        def resume() -> None:
            if protocol.count("resume_writing") < rounds:
                expected.extend(stuff(protocol.transport))

        protocol = Recorder(resume_writing=resume)
        async with connected(protocol) as (transport, _, far):
            transport.set_write_buffer_limits(0)
            expected.extend(stuff(transport))
            got = bytearray()
            while protocol.count("resume_writing") < rounds or len(got) < len(expected):
                got += await asyncio.to_thread(far.recv, 1 << 20)
            assert got == expected
            assert protocol.calls == ["connection_made"] + ["pause_writing", "resume_writing"] * 3

    run_main(loop, main())


def test_a_protocol_may_close_in_pause_writing(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            protocol.hooks["pause_writing"] = transport.close
            transport.set_write_buffer_limits(0)
            queued = stuff(transport)
            assert await asyncio.to_thread(receive, far) == queued
            assert await protocol.ended() is None
            assert protocol.count("pause_writing") == 1

    run_main(loop, main())


def test_a_protocol_may_abort_in_pause_writing(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, _):
            protocol.hooks["pause_writing"] = transport.abort
            transport.set_write_buffer_limits(0)
            written = bytes(1 << 20)
            while not protocol.count("pause_writing"):
                transport.write(written)
            transport.write(written)
            assert await protocol.ended() is None
            assert transport.get_write_buffer_size() == 0
            assert protocol.count("resume_writing") == 0

    run_main(loop, main())


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_a_paused_protocol_is_not_resumed_by_the_end(
    loop: asyncio.AbstractEventLoop, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            transport.set_write_buffer_limits(0)
            stuff(transport)
            if how == "abort":
                transport.abort()
            else:
                reset(far)
            await protocol.ended()
            assert protocol.calls[-2:] == ["pause_writing", "connection_lost"]

    run_main(loop, main())


def test_the_protocol_of_the_moment_is_resumed(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        second = Recorder()
        async with connected(Recorder()) as (transport, first, far):
            transport.set_write_buffer_limits(0)
            queued = stuff(transport)
            transport.set_protocol(second)
            await asyncio.to_thread(receive, far, len(queued))
            await eventually(lambda: second.count("resume_writing") == 1, "it is resumed")
            assert first.calls == ["connection_made", "pause_writing"]
            assert second.calls == ["resume_writing"]
            transport.set_protocol(first)

    run_main(loop, main())


# Much data


@pytest.mark.parametrize("chunk", [8 << 20, 1 << 20, 10_000], ids=["8M", "1M", "10k"])
def test_eight_megabytes_reach_a_slow_reader_in_order(
    loop: asyncio.AbstractEventLoop, kind: str, chunk: int
) -> None:
    content = os.urandom(8 << 20)

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            for start in range(0, len(content), chunk):
                transport.write(content[start : start + chunk])
            assert 0 < transport.get_write_buffer_size() <= len(content)
            transport.close()
            got = bytearray()
            while data := await asyncio.to_thread(far.recv, 1_000_003):
                got += data
            assert got == content
            assert await protocol.ended() is None

    run_main(loop, main())


def test_both_directions_at_once(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    content = os.urandom(4 << 20)
    back = content[::-1]

    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.write(content)
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, back))
            assert await asyncio.to_thread(receive, far, len(content)) == content
            await sending
            await protocol.got(len(back))
            assert protocol.data == back

    run_main(loop, main())


def test_the_size_falls_as_the_peer_reads(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            queued = stuff(transport)
            transport.write(bytes(4 << 20))
            total = len(queued) + (4 << 20)
            sizes = [transport.get_write_buffer_size()]
            received = 0
            while received < total:
                received += len(await asyncio.to_thread(far.recv, 1 << 20))
                sizes.append(transport.get_write_buffer_size())
            await eventually(lambda: transport.get_write_buffer_size() == 0, "all is written")
            assert sizes == sorted(sizes, reverse=True)
            assert sizes[0] >= 4 << 20

    run_main(loop, main())


def test_streams_wait_in_drain(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        ended = loop.create_future()
        written = 0

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            for _ in range(100):
                writer.write(bytes(1 << 17))
                written += 1 << 17
                await writer.drain()
                assert writer.transport.get_write_buffer_size() <= 1 << 16
            writer.close()
            await writer.wait_closed()
            ended.set_result(None)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                assert len(await asyncio.to_thread(receive, client)) == 100 << 17
                await ended

    run_main(loop, main())


# A peer that does not read costs itself


def test_a_peer_that_does_not_read_holds_nobody_up(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with (
            connected(Recorder()) as (stuck, deaf, _),
            connected(Recorder()) as (transport, protocol, far),
        ):
            stuff(stuck)
            stuck.write(bytes(1 << 20))
            size = stuck.get_write_buffer_size()
            for number in range(1, 50):
                far.send(b"x")
                await protocol.got(number)
                transport.write(b"y")
                assert far.recv(1) == b"y"
            assert stuck.get_write_buffer_size() == size
            assert "connection_lost" not in deaf.calls

    run_main(loop, main())


def test_a_waiting_write_does_not_keep_the_loop_busy(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, _):
            stuff(transport)
            await turns(100)
            before = os.times()
            done: Any = loop.create_future()
            loop.call_later(0.3, done.set_result, None)
            await done
            after = os.times()
            assert (after.user + after.system) - (before.user + before.system) < 0.2

    run_main(loop, main())
