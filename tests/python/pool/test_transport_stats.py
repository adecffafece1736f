"""What `Pool.stats` says of transports, and what goes on while a loop is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually, receive, stream_sockets, stuff, turns
from .support import run

pytestmark = pytest.mark.usefixtures("clean_process")

BOUND = 256 << 10
"""How much of one transport is read ahead at most, in bytes."""

QUIET = 0.4
"""Seconds in which nothing more happens where nothing can: the stuck loop is on its own."""

COUNTS = ["jobs", "stolen_from", "stolen_by", "handoffs", "wakes", "bytes_in", "bytes_out"]
GAUGES = ["transports", "read_ahead"]


def stats(index: int = 1) -> Any:
    """The record of one loop."""
    return loop_pool.current_pool().stats()[index]


def total(field: str) -> int:
    """The sum of a field over all loops."""
    return sum(getattr(record, field) for record in loop_pool.current_pool().stats())


class Keeper(asyncio.Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.transport: Any = None
        self.lost = threading.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@contextlib.asynccontextmanager
async def connection(index: int = 1) -> AsyncIterator[tuple[Keeper, socket.socket]]:
    """A connection that lives on one of the loops, and its blocking far end."""

    async def connect() -> Keeper:
        _, protocol = await asyncio.get_running_loop().create_connection(Keeper, sock=near)
        return protocol

    async def end(protocol: Keeper) -> None:
        protocol.transport.abort()

    near, far = stream_sockets("tcp")
    loop = loop_pool.current_pool().loops[index]
    with far:
        protocol = await loop_pool.spawn(connect(), loop=loop)
        try:
            yield protocol, far
        finally:
            await loop_pool.spawn(end(protocol), loop=loop)
            await eventually(protocol.lost.is_set, "the connection is lost")


@contextlib.asynccontextmanager
async def stuck(index: int = 1) -> AsyncIterator[None]:
    """One of the loops is inside one callback until the block ends."""
    entered, leave = threading.Event(), threading.Event()

    async def get_stuck() -> None:
        entered.set()
        assert leave.wait(HANG)

    task = loop_pool.spawn(get_stuck(), loop=loop_pool.current_pool().loops[index])
    try:
        await eventually(entered.is_set, "the loop is stuck")
        yield
    finally:
        leave.set()
        await task


async def _write_much(protocol: Keeper, size: int) -> bytes:
    written = stuff(protocol.transport)
    more = os.urandom(size)
    protocol.transport.write(more)
    return written + more


def _parked(index: int = 1) -> Callable[[], bool]:
    """A question whose answer is yes once a loop counts no more turns."""
    last = -1

    def still() -> bool:
        nonlocal last
        before, last = last, stats(index).turns
        return before == last

    return still


# The numbers


@pytest.mark.smoke
def test_a_record_has_the_new_numbers() -> None:
    async def main() -> None:
        for record in loop_pool.current_pool().stats():
            for field in COUNTS + GAUGES:
                number = getattr(record, field)
                assert isinstance(number, int), field
                assert number >= 0, field
            assert set(COUNTS + GAUGES) < set(record._fields)

    run(main)


@pytest.mark.parametrize("steal", [True, False], ids=["", "no-stealing"])
def test_bytes_are_counted_on_the_connection_s_loop(steal: bool) -> None:
    async def main() -> None:
        before, here = stats(), stats(0)
        async with connection() as (protocol, far):
            far.sendall(bytes(100_000))
            await eventually(lambda: len(protocol.data) == 100_000, "it has come")

            async def answer() -> None:
                protocol.transport.write(bytes(300_000))
                protocol.transport.writelines([bytes(5), bytes(6)])

            await loop_pool.spawn(answer(), loop=loop_pool.current_pool().loops[1])
            await asyncio.to_thread(receive, far, 300_011)
            await eventually(lambda: stats().bytes_out == before.bytes_out + 300_011, "counted")
            assert stats().bytes_in == before.bytes_in + 100_000
            assert (stats(0).bytes_in, stats(0).bytes_out) == (here.bytes_in, here.bytes_out)

    run(main, steal=steal)


def test_transports_are_a_gauge() -> None:
    async def main() -> None:
        before = stats().transports
        async with connection(), connection() as (_, far):
            assert stats().transports == before + 2
            assert stats(0).transports == 0
            far.close()
            await eventually(lambda: stats().transports == before + 1, "one has ended")
        await eventually(lambda: stats().transports == before, "both have ended")

    run(main)


def test_counts_never_fall_and_gauges_return() -> None:
    async def main() -> None:
        last = {field: total(field) for field in COUNTS}
        for _ in range(20):
            async with connection() as (protocol, far):
                far.sendall(bytes(50_000))
                await eventually(lambda: len(protocol.data) == 50_000, "it has come")
                for field in COUNTS:
                    now = total(field)
                    assert now >= last[field], field
                    last[field] = now
        await eventually(lambda: total("transports") == total("read_ahead") == 0, "all is over")

    run(main, loops=3)


def test_a_parked_loop_is_woken_through_the_kernel_and_a_running_one_is_not() -> None:
    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]
        await eventually(_parked(), "it parks")
        before = stats().wakes
        await loop_pool.spawn(turns(1), loop=loop)
        await eventually(lambda: stats().wakes > before, "it was woken")
        await eventually(_parked(), "it parks again")
        before = stats().wakes
        await loop_pool.spawn(turns(1_000), loop=loop)
        assert stats().wakes <= before + 2

    run(main)


# A stuck loop


@pytest.mark.smoke
def test_what_a_stuck_loop_has_queued_keeps_flowing() -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            written = await loop_pool.spawn(
                _write_much(protocol, 8 << 20), loop=loop_pool.current_pool().loops[1]
            )
            before = loop_pool.current_pool().stats()
            async with stuck():
                assert await asyncio.to_thread(receive, far, len(written)) == written
                after = stats()
                assert after.bytes_out >= before[1].bytes_out + (8 << 20) - (1 << 20)
                assert after.stolen_from > before[1].stolen_from
                assert after.handoffs > before[1].handoffs
                # The others are those of threads that have no loop.
                assert total("stolen_by") <= total("stolen_from")
            await eventually(
                lambda: protocol.transport.get_write_buffer_size() == 0, "nothing waits"
            )

    run(main)


def test_a_stuck_loop_s_protocol_is_resumed_when_it_is_free() -> None:
    calls: list[tuple[str, int]] = []

    class Paused(Keeper):
        def pause_writing(self) -> None:
            calls.append(("pause_writing", threading.get_ident()))

        def resume_writing(self) -> None:
            calls.append(("resume_writing", threading.get_ident()))

    async def main() -> None:
        async def connect() -> Any:
            _, protocol = await asyncio.get_running_loop().create_connection(Paused, sock=near)
            return protocol, await _write_much(protocol, 1 << 20), threading.get_ident()

        async def end() -> None:
            protocol.transport.abort()

        loop = loop_pool.current_pool().loops[1]
        near, far = stream_sockets("tcp")
        with far:
            protocol, written, thread = await loop_pool.spawn(connect(), loop=loop)
            async with stuck():
                await asyncio.to_thread(receive, far, len(written))
                assert calls == [("pause_writing", thread)]
            await eventually(lambda: len(calls) == 2, "it is resumed")
            assert calls[1] == ("resume_writing", thread)
            await loop_pool.spawn(end(), loop=loop)
            await eventually(protocol.lost.is_set, "it ends")

    run(main)


def test_a_protocol_that_aborts_in_data_received_is_not_resumed_after_it() -> None:
    calls: list[str] = []

    class Aborting(Keeper):
        def data_received(self, data: bytes) -> None:
            calls.append("abort")
            self.transport.abort()

        def resume_writing(self) -> None:
            calls.append("resume_writing")

        def connection_lost(self, exc: Exception | None) -> None:
            calls.append("connection_lost")
            super().connection_lost(exc)

    async def main() -> None:
        async def connect() -> Any:
            _, protocol = await asyncio.get_running_loop().create_connection(Aborting, sock=near)
            return protocol, await _write_much(protocol, 1 << 20)

        loop = loop_pool.current_pool().loops[1]
        near, far = stream_sockets("tcp")
        with far:
            protocol, written = await loop_pool.spawn(connect(), loop=loop)
            async with stuck():
                await asyncio.to_thread(receive, far, len(written))
                far.sendall(b"data")
                await eventually(lambda: stats().read_ahead == 4, "they are read ahead")
            await eventually(protocol.lost.is_set, "it ends")
        assert calls == ["abort", "connection_lost"]

    run(main)


def test_a_stuck_loop_s_reads_go_on_up_to_a_bound() -> None:
    content = os.urandom(8 << 20)

    async def main() -> None:
        async with connection() as (protocol, far):
            async with stuck():
                sending = asyncio.create_task(asyncio.to_thread(far.sendall, content))
                await eventually(lambda: stats().read_ahead > 0, "something is read ahead")
                seen = [stats().read_ahead]
                # It stays within the bound however long it lasts.
                for _ in range(200):
                    await asyncio.sleep(0.001)
                    seen.append(stats().read_ahead)
                assert max(seen) <= BOUND
                assert stats().stolen_from > 0
                assert protocol.data == b""
            await eventually(lambda: len(protocol.data) == len(content), "all is delivered")
            await sending
            assert protocol.data == content
            await eventually(lambda: stats().read_ahead == 0, "nothing is left")

    run(main)


def test_the_bound_is_each_transport_s_own() -> None:
    async def main() -> None:
        async with connection() as (one, far), connection() as (two, other):
            async with stuck():
                for sock in (far, other):
                    sock.sendall(bytes(100_000))
                await eventually(lambda: stats().read_ahead == 200_000, "both are read ahead")
            await eventually(lambda: len(one.data) == len(two.data) == 100_000, "delivered")
            await eventually(lambda: stats().read_ahead == 0, "nothing is left")

    run(main)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_the_end_of_a_stuck_loop_s_peer_comes_after_its_data(how: str) -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            async with stuck():
                far.sendall(bytes(100_000))
                await eventually(lambda: stats().read_ahead == 100_000, "it is read ahead")
                if how == "reset":
                    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                far.close()
                await asyncio.sleep(0.05)
                assert not protocol.lost.is_set()
            await eventually(protocol.lost.is_set, "it is lost")
            # What was read before a reset is delivered, as on a loop that was not stuck.
            assert len(protocol.data) == 100_000

    run(main)


def test_a_paused_transport_of_a_stuck_loop_delivers_nothing_until_it_is_resumed() -> None:
    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]

        async def call(name: str) -> None:
            getattr(protocol.transport, name)()

        async with connection() as (protocol, far):
            await loop_pool.spawn(call("pause_reading"), loop=loop)
            async with stuck():
                far.sendall(bytes(100_000))
                await asyncio.sleep(0.05)
            await loop_pool.spawn(turns(20), loop=loop)
            assert protocol.data == b""
            assert stats().read_ahead <= BOUND
            await loop_pool.spawn(call("resume_reading"), loop=loop)
            await eventually(lambda: len(protocol.data) == 100_000, "it is delivered")

    run(main)


def test_what_was_read_ahead_and_never_wanted_is_dropped_by_abort() -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            async with stuck():
                far.sendall(bytes(100_000))
                await eventually(lambda: stats().read_ahead == 100_000, "it is read ahead")
                protocol.transport.abort()  # Posted: the loop is another thread's.
            await eventually(protocol.lost.is_set, "it is lost")
            await eventually(lambda: stats().read_ahead == 0, "nothing is left")
            assert stats().transports == 0

    run(main)


class Greeter(asyncio.Protocol):
    """Says on which loop it is."""

    def connection_made(self, transport: Any) -> None:
        loops = loop_pool.current_pool().loops
        transport.write(b"%d" % loops.index(asyncio.get_running_loop()))  # type: ignore[arg-type]
        transport.close()


def _greetings(address: Any, count: int, timeout: float) -> list[bytes | None]:
    """What each of so many connections is told within so many seconds; None: nothing."""
    clients = [socket.create_connection(address, HANG) for _ in range(count)]
    answers: dict[socket.socket, bytes | None] = dict.fromkeys(clients)
    waiting = set(clients)
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], timeout)
        if not ready:
            break
        for client in ready:
            answers[client] = client.recv(1)
            waiting.discard(client)
    for client in clients:
        client.close()
    return list(answers.values())


def test_a_pool_s_listeners_go_on_accepting_onto_the_other_loops() -> None:
    async def main() -> None:
        async with await loop_pool.create_server(Greeter, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            before = stats().handoffs
            async with stuck():
                # A loop that is stuck for a moment only may still be given connections.
                await eventually(lambda: stats().handoffs > before, "it is known to be stuck")
                await asyncio.sleep(0.1)
                answers = await asyncio.to_thread(_greetings, address, 60, HANG)
                assert set(answers) <= {b"0", b"2"}
                assert len(answers) == 60

    run(main, loops=3)


def test_others_write_to_a_stuck_loop_s_transport_without_waiting_for_it() -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            async with stuck():
                protocol.transport.write(b"posted")
                protocol.transport.writelines([b", ", b"too"])
            assert await asyncio.to_thread(receive, far, 11) == b"posted, too"

    run(main)


# Without stealing


def test_without_stealing_a_stuck_loop_s_writes_wait() -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            written = await loop_pool.spawn(
                _write_much(protocol, 8 << 20), loop=loop_pool.current_pool().loops[1]
            )
            got = bytearray()

            def take_what_comes() -> None:
                far.settimeout(QUIET)
                with contextlib.suppress(TimeoutError):
                    while len(got) < len(written):
                        got.extend(far.recv(1 << 20))

            async with stuck():
                await asyncio.to_thread(take_what_comes)
                assert len(got) < len(written)
            far.settimeout(HANG)
            got += await asyncio.to_thread(receive, far, len(written) - len(got))
            assert got == written
            _nothing_was_stolen()

    run(main, steal=False)


def test_without_stealing_a_stuck_loop_reads_nothing() -> None:
    async def main() -> None:
        async with connection() as (protocol, far):
            async with stuck():
                far.sendall(bytes(100_000))
                await asyncio.sleep(QUIET)
                assert stats().read_ahead == 0
                assert stats().bytes_in == 0
            await eventually(lambda: len(protocol.data) == 100_000, "it is delivered")
            _nothing_was_stolen()

    run(main, steal=False)


def test_without_stealing_a_stuck_loop_s_listener_accepts_nothing() -> None:
    async def main() -> None:
        async with await loop_pool.create_server(Greeter, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            async with stuck():
                answers = await asyncio.to_thread(_greetings, address, 60, QUIET)
                assert None in answers  # The kernel gives each listener its share.
                assert b"1" not in answers
            await eventually(lambda: total("transports") == 0, "all have ended")
            _nothing_was_stolen()

    run(main, loops=3, steal=False)


def _nothing_was_stolen() -> None:
    for record in loop_pool.current_pool().stats():
        assert (record.stolen_from, record.stolen_by, record.handoffs) == (0, 0, 0)
