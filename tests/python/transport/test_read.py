"""Stream transports: when what came is delivered, to whom, and into whose buffer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ..support import (
    BufferedRecorder,
    Recorder,
    connected,
    eventually,
    reset,
    run_main,
    stream_sockets,
    turns,
)


def _delivered(protocol: Any) -> int:
    return protocol.count("data_received") + protocol.count("buffer_updated")


def _at_delivery(protocol: Any, hook: Callable[[Any], None]) -> None:
    """Calls `hook` in each `data_received` or `buffer_updated`."""
    protocol.hooks["data_received"] = protocol.hooks["buffer_updated"] = hook


# Pausing


@pytest.mark.smoke
def test_pausing_stops_deliveries_and_resuming_goes_on_with_them(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    async def main() -> None:
        async with connected(recorder(), kind) as (transport, protocol, far):
            for number in range(5):
                transport.pause_reading()
                transport.pause_reading()
                assert not transport.is_reading()
                assert transport._paused  # CPython's own tests wait for it
                far.sendall(b"%d" % number)
                await turns(20)
                assert len(protocol.data) == number
                transport.resume_reading()
                transport.resume_reading()
                assert transport.is_reading()
                assert not transport._paused
                assert len(protocol.data) == number  # Later, not inside the call.
                await protocol.got(number + 1)
            assert protocol.data == b"01234"

    run_main(loop, main())


def test_pausing_within_a_delivery_is_obeyed_at_once(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    content = os.urandom(1 << 20 if recorder is Recorder else 1 << 16)

    async def main() -> None:
        async with connected(recorder(), kind) as (transport, protocol, far):
            _at_delivery(protocol, lambda _: transport.pause_reading())
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            steps = 0
            while len(protocol.data) < len(content):
                steps += 1
                await eventually(lambda: _delivered(protocol) == steps, "one delivery")  # noqa: B023
                await turns(3)
                assert _delivered(protocol) == steps
                transport.resume_reading()
            await sending
            assert protocol.data == content

    run_main(loop, main())


def test_pausing_and_resuming_within_a_delivery(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    content = os.urandom(1 << 20)

    async def main() -> None:
        def both(_: object) -> None:
            transport.pause_reading()
            before = len(protocol.data)
            transport.resume_reading()
            assert len(protocol.data) == before

        async with connected(recorder(), kind) as (transport, protocol, far):
            _at_delivery(protocol, both)
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            await protocol.got(len(content))
            await sending
            assert protocol.data == content

    run_main(loop, main())


def test_pausing_in_connection_made_keeps_everything_back(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    async def main() -> None:
        near, far = stream_sockets(kind)
        with far:
            far.sendall(b"there already")
            far.shutdown(socket.SHUT_WR)
            protocol = recorder(connection_made=lambda transport: transport.pause_reading())
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            assert not transport.is_reading()
            await turns(20)
            assert protocol.calls == ["connection_made"]
            transport.resume_reading()
            assert await protocol.ended() is None
            assert protocol.data == b"there already"

    run_main(loop, main())


def test_the_end_of_the_peer_waits_while_reading_is_paused(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    async def main() -> None:
        async with connected(recorder(), kind) as (transport, protocol, far):
            transport.pause_reading()
            far.sendall(b"last")
            far.close()
            await turns(50)
            assert protocol.calls == ["connection_made"]
            assert not transport.is_closing()
            transport.resume_reading()
            assert await protocol.ended() is None
            assert protocol.data == b"last"
            assert protocol.count("eof_received") == 1

    run_main(loop, main())


def test_an_end_seen_by_a_protocol_that_paused_comes_after_resuming(
    loop: asyncio.AbstractEventLoop, recorder: Any
) -> None:
    async def main() -> None:
        async with connected(recorder()) as (transport, protocol, far):
            _at_delivery(protocol, lambda _: transport.pause_reading())
            far.sendall(b"x")
            far.close()
            await protocol.got(1)
            await turns(50)
            assert protocol.count("eof_received") == 0
            transport.resume_reading()
            assert await protocol.ended() is None
            assert protocol.count("eof_received") == 1

    run_main(loop, main())


def test_a_paused_connection_may_be_written_to_and_closed(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.pause_reading()
            transport.write(b"hello")
            assert far.recv(5) == b"hello"
            transport.close()
            assert await protocol.ended() is None

    run_main(loop, main())


def test_a_closing_connection_neither_pauses_nor_resumes(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            far.sendall(b"unread")
            transport.pause_reading()
            transport.close()
            transport.resume_reading()
            assert not transport.is_reading()
            await protocol.ended()
            transport.pause_reading()
            transport.resume_reading()
            assert protocol.data == b""

    run_main(loop, main())


def test_a_paused_reader_leaves_the_peer_to_tcp_s_own_flow_control(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.pause_reading()
            far.setblocking(False)
            sent = 0
            full = 0
            while full < 20:  # Full, and still so after some turns.
                try:
                    sent += far.send(bytes(65536))
                    full = 0
                except BlockingIOError:
                    full += 1
                    await turns(5)
                assert sent < 64 << 20
            transport.resume_reading()
            await protocol.got(sent)
            assert len(protocol.data) == sent

    run_main(loop, main())


def test_a_reset_while_data_is_unread(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            transport.pause_reading()
            far.sendall(b"x")
            reset(far)
            await turns(20)
            transport.resume_reading()
            assert isinstance(await protocol.ended(), ConnectionResetError)
            assert protocol.data in (b"", b"x")  # The kernel may have dropped it.

    run_main(loop, main())


# The size of what is delivered


def test_deliveries_are_bytes_of_at_most_256_kib(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        seen: list[tuple[type, int]] = []
        async with connected(Recorder(), kind) as (_, protocol, far):
            _at_delivery(protocol, lambda data: seen.append((type(data), len(data))))
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, bytes(4 << 20)))
            await protocol.got(4 << 20)
            await sending
            assert {kind_ for kind_, _ in seen} == {bytes}
            assert all(size > 0 for _, size in seen)
            assert max(size for _, size in seen) <= 256 << 10

    run_main(loop, main())


def test_one_connection_does_not_starve_another(
    loop: asyncio.AbstractEventLoop, recorder: Any
) -> None:
    async def main() -> None:
        async with (
            connected(recorder()) as (_, greedy, far),
            connected(recorder()) as (_, modest, other),
        ):
            stop = asyncio.Event()

            def flood() -> None:
                while not stop.is_set():
                    far.sendall(bytes(1 << 18))

            flooding = asyncio.create_task(asyncio.to_thread(flood))
            await greedy.got(1 << 20)
            for number in range(1, 20):
                other.sendall(b"x")
                await modest.got(number)
            stop.set()
            await flooding

    run_main(loop, main())


# Protocols with a buffer of their own


@pytest.mark.parametrize("size", [1, 7, 4_096, 1 << 20])
def test_a_buffer_of_any_size_is_filled(
    loop: asyncio.AbstractEventLoop, kind: str, size: int
) -> None:
    content = os.urandom(min(size * 300, 2 << 20))

    async def main() -> None:
        async with connected(BufferedRecorder(size), kind) as (_, protocol, far):
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            await protocol.got(len(content))
            await sending
            assert protocol.data == content
            far.close()
            await protocol.ended()

    run_main(loop, main())


def test_each_buffer_is_filled_from_its_beginning_and_only_as_far_as_told(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        lent: list[bytearray] = []
        got = bytearray()

        def lend(_: int) -> memoryview:
            lent.append(bytearray(b"." * 10))
            return memoryview(lent[-1])

        def take(count: int) -> None:
            assert 0 < count <= 10
            assert lent[-1][count:] == b"." * (10 - count)
            got.extend(lent[-1][:count])

        protocol = BufferedRecorder(get_buffer=lend, buffer_updated=take)
        async with connected(protocol) as (_, _, far):
            for size in (3, 10, 25, 1):
                far.sendall(bytes(range(65, 65 + size)))
                expected = len(got) + size
                await eventually(lambda: len(got) == expected, "all has come")  # noqa: B023
            assert got[-1:] == b"A"
            # A buffer that was asked for may stay empty; none is filled twice.
            for before, call in itertools.pairwise(protocol.calls):
                assert call != "buffer_updated" or before == "get_buffer"

    run_main(loop, main())


def test_the_size_hint_is_a_number_that_may_be_ignored(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        hints: list[int] = []
        async with connected(BufferedRecorder(get_buffer=hints.append)) as (_, protocol, far):
            far.sendall(b"x")
            await protocol.got(1)
            assert all(isinstance(hint, int) for hint in hints)

    run_main(loop, main())


def test_a_buffer_is_let_go_after_each_read(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(BufferedRecorder(10)) as (transport, protocol, far):

            def grow(count: int) -> None:
                protocol.buffer += b"grown"  # BufferError if it were still held.

            protocol.hooks["buffer_updated"] = grow
            for number in range(1, 10):
                far.sendall(b"x")
                await protocol.got(number)
            transport.close()
            await protocol.ended()
            protocol.buffer.clear()

    run_main(loop, main())


def test_a_read_whose_buffer_was_lent_goes_on_though_the_protocol_pauses_meanwhile(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        got = bytearray()
        buffer = bytearray(4)

        def lend(_: int) -> bytearray:
            transport.pause_reading()  # its only buffer is in use from now on
            return buffer

        def take(count: int) -> None:
            got.extend(buffer[:count])
            transport.resume_reading()

        protocol = BufferedRecorder(get_buffer=lend, buffer_updated=take)
        async with connected(protocol) as (transport, _, far):
            far.sendall(b"0123456789")
            await eventually(lambda: len(got) == 10, "all has come")
            assert got == b"0123456789"

    run_main(loop, main())


@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated", "data_received"])
def test_a_connection_may_be_ended_within_any_delivery(
    loop: asyncio.AbstractEventLoop, method: str, how: str
) -> None:
    async def main() -> None:
        make: Any = Recorder if method == "data_received" else BufferedRecorder
        async with connected(make()) as (transport, protocol, far):
            protocol.hooks[method] = lambda _: getattr(transport, how)()
            far.sendall(bytes(100_000))
            assert await protocol.ended() is None
            assert protocol.count(method) == 1

    run_main(loop, main())


# Another protocol in mid-stream


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder], ids=["plain", "buffered"])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder], ids=["plain", "buffered"])
@pytest.mark.parametrize("where", ["between", "paused", "within"])
def test_another_protocol_gets_what_comes_from_then_on(
    loop: asyncio.AbstractEventLoop, first: Any, second: Any, where: str
) -> None:
    content = os.urandom(1 << 20)

    async def main() -> None:
        later = second()
        async with connected(first()) as (transport, protocol, far):
            if where == "within":
                _at_delivery(protocol, lambda _: transport.set_protocol(later))
            if where == "paused":
                transport.pause_reading()
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            if where != "paused":
                await protocol.got(1)
            transport.set_protocol(later)
            assert transport.get_protocol() is later
            early = len(protocol.data)
            if where == "paused":
                assert early == 0
                await turns(10)
                transport.resume_reading()
            await later.got(len(content) - early)
            await sending
            assert bytes(protocol.data + later.data) == content
            if where == "within":
                assert _delivered(protocol) == 1
            assert later.count("connection_made") == 0
            far.close()
            await later.ended()
            assert later.calls[-2:] == ["eof_received", "connection_lost"]
            assert protocol.count("connection_lost") == 0
            protocol.connection_lost(None)

    run_main(loop, main())


def test_protocols_may_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    content = os.urandom(1 << 20)

    async def main() -> None:
        async with connected(Recorder()) as (transport, plain, far):
            got = bytearray()
            buffered = BufferedRecorder(30_000)

            def swap(of: Any, other: Any) -> Callable[[Any], None]:
                def swapped(_: object) -> None:
                    got.extend(of.data)
                    of.data.clear()
                    transport.set_protocol(other)

                return swapped

            _at_delivery(plain, swap(plain, buffered))
            _at_delivery(buffered, swap(buffered, plain))
            sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
            await eventually(lambda: len(got) == len(content), "all has come")
            await sending
            assert got == content
            assert plain.calls.count("data_received") > 1
            transport.set_protocol(plain)

    run_main(loop, main())


def test_a_protocol_set_while_closing_is_told_of_the_end(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        later = Recorder()
        async with connected(Recorder()) as (transport, protocol, _):
            transport.close()
            transport.set_protocol(later)
            await later.ended()
            assert later.calls == ["connection_lost"]
            assert protocol.calls == ["connection_made"]
            protocol.connection_lost(None)

    run_main(loop, main())


# How much at once


def test_a_sender_without_an_end_leaves_turns_to_others(loop: asyncio.AbstractEventLoop) -> None:
    """However fast data come, callbacks that are ready run after 2 MiB at most."""
    most = 2 * 1024 * 1024

    async def main() -> None:
        async with connected(Recorder(), "unix") as (_, protocol, far):
            far.setblocking(False)
            since, longest, total = 0, 0, 0

            def fill() -> None:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        far.send(bytes(64 * 1024))

            def count(data: bytes) -> None:
                nonlocal since, longest, total
                since += len(data)
                total += len(data)
                longest = max(longest, since)
                fill()

            def tick() -> None:
                nonlocal since
                since = 0
                if total < 20 * most:
                    loop.call_soon(tick)
                else:
                    done.set_result(None)

            done = loop.create_future()
            protocol.hooks["data_received"] = count
            fill()
            loop.call_soon(tick)
            await done
            protocol.hooks.clear()
            assert 0 < longest <= most

    run_main(loop, main())
