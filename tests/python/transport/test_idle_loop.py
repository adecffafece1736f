"""Threads that use a transport while nobody runs its loop, or while it begins or ends to run."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ..support import HANG, Recorder, Threads, in_thread, receive, run_main, stream_sockets

type Loop = asyncio.AbstractEventLoop

pytestmark = pytest.mark.loop_pool_only
"""asyncio's transports belong to one thread, and tear what two write."""

THREADS, RECORDS, SIZE = 4, 5, 70_000


def record(writer: int, number: int) -> bytes:
    """One write of a thread, more than the kernel takes in one piece once some are queued."""
    head = b"%d:%d:" % (writer, number)
    return head + bytes([97 + writer]) * (SIZE - len(head))


def assert_whole(data: bytes, writers: int = THREADS) -> None:
    """Each record is there once, in one piece, and those of a thread in its order."""
    pieces = [data[start : start + SIZE] for start in range(0, len(data), SIZE)]
    for writer in range(writers):
        mine = [piece for piece in pieces if piece.startswith(b"%d:" % writer)]
        assert mine == [record(writer, number) for number in range(RECORDS)]
    assert len(pieces) == writers * RECORDS


@contextmanager
def unrun(loop: Loop, kind: str) -> Iterator[tuple[Any, socket.socket]]:
    """A stream transport whose loop has run, and does not; and its peer."""
    near, far = stream_sockets(kind)

    async def connect() -> tuple[Any, Recorder]:
        return await loop.create_connection(Recorder, sock=near)

    transport, protocol = run_main(loop, connect())
    with far:
        yield transport, far
        transport.abort()
        run_main(loop, asyncio.sleep(0))
        assert protocol.calls[-1] == "connection_lost"


async def received(far: socket.socket, count: int) -> bytes:
    return await asyncio.to_thread(receive, far, count)


@pytest.mark.smoke
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("method", ["write", "writelines"])
def test_writes_of_threads_arrive_whole_and_in_their_order(
    loop: Loop, kind: str, method: str
) -> None:
    with unrun(loop, kind) as (transport, far):
        together = threading.Barrier(THREADS)

        def write(writer: int) -> None:
            together.wait(HANG)
            for number in range(RECORDS):
                piece = record(writer, number)
                if method == "write":
                    transport.write(piece)
                else:
                    transport.writelines([piece[:9], piece[9:]])

        with Threads(*(lambda writer=writer: write(writer) for writer in range(THREADS))):
            pass
        assert_whole(run_main(loop, received(far, THREADS * RECORDS * SIZE)))


@pytest.mark.parametrize("runs_in", ["the thread that ran it", "another thread"])
def test_writes_arrive_whole_while_the_loop_begins_and_ends_to_run(
    loop: Loop, runs_in: str
) -> None:
    """The last writer is the thread that ran the loop before, which acts at once when it may."""
    with unrun(loop, "unix") as (transport, far):
        together = threading.Barrier(THREADS)

        def write(writer: int) -> None:
            together.wait(HANG)
            for number in range(RECORDS):
                transport.write(record(writer, number))

        def run_again_and_again() -> None:
            together.wait(HANG)
            for _ in range(200):
                loop.run_until_complete(asyncio.sleep(0))

        writers = THREADS - 1
        others = [lambda writer=writer: write(writer) for writer in range(writers - 1)]
        if runs_in == "another thread":
            with Threads(*others, run_again_and_again):
                write(writers - 1)
        else:
            with Threads(*others, lambda: write(writers - 1)):
                run_again_and_again()
        assert_whole(run_main(loop, received(far, writers * RECORDS * SIZE)), writers)


def test_what_a_thread_posted_comes_before_what_it_does_next(loop: Loop) -> None:
    """The loop ends to run with the post still waiting; then nobody runs it."""
    with unrun(loop, "tcp") as (transport, far):
        inside, posted = threading.Event(), threading.Event()

        def callback() -> None:
            loop.stop()
            inside.set()
            assert posted.wait(HANG)

        def write() -> None:
            assert inside.wait(HANG)
            transport.write(b"first ")
            posted.set()
            ended.wait(HANG)
            transport.write(b"second")
            transport.close()

        ended = threading.Event()
        loop.call_soon(callback)
        with Threads(write):
            loop.run_forever()
            ended.set()
        assert run_main(loop, received(far, 100)) == b"first second"


def test_a_thread_s_write_is_sent_though_the_loop_never_runs_again(loop: Loop) -> None:
    with unrun(loop, "tcp") as (transport, far):
        in_thread(lambda: transport.write(b"sent"))
        assert receive(far, 4) == b"sent"


def test_threads_that_write_too_much_pause_the_protocol_once(loop: Loop) -> None:
    with unrun(loop, "unix") as (transport, far):
        protocol = transport.get_protocol()
        transport.set_write_buffer_limits(high=1)
        together = threading.Barrier(THREADS)

        def write(writer: int) -> None:
            together.wait(HANG)
            for number in range(RECORDS):
                transport.write(record(writer, number))

        with Threads(*(lambda writer=writer: write(writer) for writer in range(THREADS))):
            pass
        run_main(loop, received(far, THREADS * RECORDS * SIZE))
        run_main(loop, asyncio.sleep(0))
        assert protocol.count("pause_writing") == protocol.count("resume_writing") == 1


def test_datagrams_of_threads_arrive_once_and_in_their_order(loop: Loop) -> None:
    far = socket.socket(type=socket.SOCK_DGRAM)
    far.bind(("127.0.0.1", 0))
    far.settimeout(HANG)

    async def connect() -> Any:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=far.getsockname()
        )
        return transport

    def take() -> list[bytes]:
        return [far.recv(1000) for _ in range(THREADS * 20)]

    with far:
        transport = run_main(loop, connect())
        together = threading.Barrier(THREADS)

        def send(writer: int) -> None:
            together.wait(HANG)
            for number in range(20):
                transport.sendto(b"%d:%d" % (writer, number))

        with Threads(*(lambda writer=writer: send(writer) for writer in range(THREADS))):
            pass
        came = run_main(loop, asyncio.to_thread(take))
        for writer in range(THREADS):
            mine = [one for one in came if one.startswith(b"%d:" % writer)]
            assert mine == [b"%d:%d" % (writer, number) for number in range(20)]
        transport.close()
        run_main(loop, asyncio.sleep(0))
