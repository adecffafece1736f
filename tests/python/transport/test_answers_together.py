"""What a protocol writes while its transport reads on is sent together: no byte is lost or late."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Recorder, connected, receive, run_main, turns

pytestmark = pytest.mark.usefixtures("clean_process")

LARGE = 160 * 1024
"""More than one read brings, and less than a unix socket holds."""


def _delivered(hook: Callable[[Any, int], None]) -> Recorder:
    """A protocol that calls `hook` with its transport and the count of deliveries so far."""
    count = 0

    def deliver(_: object) -> None:
        nonlocal count
        count += 1
        hook(protocol.transport, count)

    protocol = Recorder(data_received=deliver)
    return protocol


def _far_sends(far: socket.socket) -> None:
    far.sendall(os.urandom(1024) * (LARGE // 1024))


def test_an_echo_is_the_same_whatever_its_size(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        def echo(transport: Any, _: int) -> None:
            data = bytes(protocol.data[echoed[0] :])
            echoed[0] += len(data)
            half = len(data) // 2
            transport.write(data[:half])
            transport.write(b"")
            transport.write(bytearray(data[half : half + 100]))
            transport.write(memoryview(data)[half + 100 :])

        echoed = [0]
        protocol = _delivered(echo)
        async with connected(protocol, "tcp") as (_, _, far):
            for size in (1, 64, 96, 97, 192, 500, 3000):
                data = os.urandom(1024) * size
                sender = threading.Thread(target=far.sendall, args=(data,))
                sender.start()
                assert await asyncio.to_thread(receive, far, len(data)) == data
                sender.join(HANG)

    run_main(loop, main())


def test_what_was_written_before_an_abort_is_sent(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        def answer(transport: Any, _: int) -> None:
            transport.write(b"answer")
            if len(protocol.data) == LARGE:
                transport.abort()

        protocol = _delivered(answer)
        async with connected(protocol, "unix") as (_, _, far):
            _far_sends(far)
            await protocol.ended()
            assert (await asyncio.to_thread(receive, far)).startswith(b"answer")

    run_main(loop, main())


@pytest.mark.parametrize("end", ["close", "write_eof", "pause_reading", "raise"])
def test_whatever_follows_a_write_it_is_sent(loop: asyncio.AbstractEventLoop, end: str) -> None:
    async def main() -> None:
        def answer(transport: Any, count: int) -> None:
            if count == 1:
                transport.write(b"answer")
                if end == "raise":
                    raise ZeroDivisionError
                getattr(transport, end)()

        loop.set_exception_handler(lambda *_: None)
        async with connected(_delivered(answer), "unix") as (_, _, far):
            _far_sends(far)
            assert await asyncio.to_thread(receive, far, 6) == b"answer"

    run_main(loop, main())


def test_a_reader_that_is_slow_pauses_the_protocol(loop: asyncio.AbstractEventLoop) -> None:
    """As soon as the turn is over, and what is kept is bounded."""

    async def main() -> None:
        def answer(transport: Any, _: int) -> None:
            transport.write(b"x" * (1 << 20))
            sizes.append(transport.get_write_buffer_size())

        sizes: list[int] = []
        async with connected(_delivered(answer), "unix") as (_, protocol, far):
            _far_sends(far)
            await protocol.got(LARGE)
            await turns(2)
            assert "pause_writing" in protocol.calls
            assert max(sizes) <= 2 << 20
            expected = len(sizes) << 20
            assert len(await asyncio.to_thread(receive, far, expected)) == expected

    run_main(loop, main())


def test_what_is_written_after_close_does_not_follow_an_answer(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        def answer(transport: Any, _: int) -> None:
            transport.write(b".")
            if len(protocol.data) == LARGE:
                transport.close()
                transport.write(b"after close")

        protocol = _delivered(answer)
        async with connected(protocol, "unix") as (_, _, far):
            _far_sends(far)
            assert await protocol.ended() is None
            came = b""
            while data := far.recv(100):
                came += data
            assert set(came) == {ord(".")}

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("is_stuck_before", [False, True])
def test_a_loop_that_gets_stuck_in_between_has_its_answer_sent_by_others(
    is_stuck_before: bool,
) -> None:
    """Only who has it already can let the callback go on."""

    async def main() -> bool:
        def answer(transport: Any, count: int) -> None:
            if count == 1:
                if is_stuck_before:
                    wait_for_help()
                transport.write(b"answer")
                arrived.append(has_come.wait(HANG))

        def wait_for_help() -> None:
            deadline = time.monotonic() + HANG
            while pool.stats()[0].handoffs == handoffs and time.monotonic() < deadline:
                pass

        def peer(far: socket.socket) -> None:
            assert receive(far, 6) == b"answer"
            has_come.set()

        pool = loop_pool.current_pool()
        handoffs = pool.stats()[0].handoffs

        has_come, arrived = threading.Event(), list[bool]()
        async with connected(_delivered(answer), "unix") as (_, protocol, far):
            reader = threading.Thread(target=peer, args=(far,))
            reader.start()
            _far_sends(far)
            await protocol.got(LARGE)
            reader.join(HANG)
        return arrived == [True]

    assert loop_pool.run(main(), loops=2)
