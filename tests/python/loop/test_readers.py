"""`add_reader` and `add_writer`: what they take, when they call, what they refuse."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import tempfile
import threading
import weakref
from typing import Any

import pytest

from ..support import HANG, LoopThread, Threads, drain, run_turn
from .support import fill

type Pair = tuple[socket.socket, socket.socket]


class WithFileno:
    """Anything with a `fileno` method will do."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def _as(kind: str, sock: socket.socket) -> int | socket.socket | WithFileno:
    if kind == "int":
        return sock.fileno()
    return sock if kind == "socket" else WithFileno(sock.fileno())


@pytest.mark.smoke
@pytest.mark.parametrize("given", ["int", "socket", "object"])
def test_a_reader_is_called_while_there_is_something_to_read(
    pair: Pair, loop: asyncio.AbstractEventLoop, given: str
) -> None:
    near, far = pair
    target = _as(given, near)
    seen: list[bytes] = []

    def read(limit: int) -> None:
        seen.append(near.recv(limit))
        if len(seen) == 3:
            loop.stop()

    loop.add_reader(target, read, 2)
    far.send(b"abcdef")
    loop.run_forever()
    assert seen == [b"ab", b"cd", b"ef"]
    assert loop.remove_reader(target) is True
    assert loop.remove_reader(target) is False


@pytest.mark.parametrize("given", ["int", "socket", "object"])
def test_a_writer_is_called_while_there_is_room(
    pair: Pair, loop: asyncio.AbstractEventLoop, given: str
) -> None:
    near, _ = pair
    target = _as(given, near)
    calls: list[str] = []

    def write(what: str) -> None:
        calls.append(what)
        if len(calls) == 3:
            loop.stop()

    loop.add_writer(target, write, "room")
    loop.run_forever()
    assert calls == ["room"] * 3
    assert loop.remove_writer(target) is True
    assert loop.remove_writer(target) is False


def test_a_full_socket_calls_no_writer_until_it_drains(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair
    fill(near)
    calls: list[str] = []
    loop.add_writer(near, calls.append, "room")
    for _ in range(3):
        run_turn(loop)
    assert calls == []
    drain(far)
    loop.add_writer(near, loop.stop)
    loop.run_forever()
    loop.remove_writer(near)
    assert calls == []


def test_reader_and_writer_of_one_descriptor_are_independent(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair
    calls: list[str] = []
    loop.add_reader(near, calls.append, "read")
    loop.add_writer(near, calls.append, "write")
    run_turn(loop)
    run_turn(loop)
    assert set(calls) == {"write"}
    loop.remove_writer(near)
    far.send(b"x")
    calls.clear()
    run_turn(loop)
    run_turn(loop)
    assert set(calls) == {"read"}
    assert loop.remove_writer(near) is False
    assert loop.remove_reader(near) is True


def test_a_second_reader_takes_the_place_of_the_first(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair
    calls: list[str] = []
    loop.add_reader(near, calls.append, "first")
    loop.add_reader(near, calls.append, "second")
    far.send(b"x")
    run_turn(loop)
    run_turn(loop)
    loop.remove_reader(near)
    assert set(calls) == {"second"}


def test_a_reader_removed_in_the_turn_of_its_event_is_not_called(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls: list[int] = []
    pairs = [socket.socketpair() for _ in range(2)]

    def only_one(me: int) -> None:
        calls.append(me)
        for near, _ in pairs:
            loop.remove_reader(near)

    for number, (near, far) in enumerate(pairs):
        loop.add_reader(near, only_one, number)
        far.send(b"x")
    for _ in range(3):
        run_turn(loop)
    assert len(calls) == 1
    for near, far in pairs:
        near.close()
        far.close()


def test_the_end_of_the_peer_calls_the_reader(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair
    loop.add_reader(near, loop.stop)
    far.close()
    loop.run_forever()
    assert near.recv(1) == b""
    loop.remove_reader(near)


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_regular_file_is_refused(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    add = loop.add_reader if kind == "reader" else loop.add_writer
    remove = loop.remove_reader if kind == "reader" else loop.remove_writer
    with tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            add(file, print)
        assert remove(file) is False
    run_turn(loop)


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_arguments_may_be_named_and_missing_ones_are_refused(
    pair: Pair, loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    near, _ = pair
    add: Any = getattr(loop, f"add_{kind}")
    remove: Any = getattr(loop, f"remove_{kind}")
    assert add(fd=near.fileno(), callback=print) is None
    assert remove(fd=near) is True
    for arguments in [(), (near.fileno(),)]:
        with pytest.raises(TypeError, match=f"add_{kind}.*missing"):
            add(*arguments)
    with pytest.raises(TypeError, match="unexpected keyword"):
        add(near.fileno(), print, argument=1)
    with pytest.raises(TypeError, match=f"remove_{kind}.*missing"):
        remove()
    with pytest.raises(TypeError, match=f"remove_{kind}.*positional"):
        remove(near.fileno(), 2)
    assert remove(near.fileno()) is False


@pytest.mark.parametrize("wrong", [-1, "1", 1.0, None])
def test_what_is_no_descriptor_is_refused(loop: asyncio.AbstractEventLoop, wrong: Any) -> None:
    for call in (loop.remove_reader, loop.remove_writer):
        with pytest.raises(ValueError, match="Invalid"):
            call(wrong)
    for add in (loop.add_reader, loop.add_writer):
        with pytest.raises(ValueError, match="Invalid"):
            add(wrong, print)


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_callback_that_is_removed_or_replaced_is_cancelled_and_released(
    pair: Pair, loop: Any, kind: str
) -> None:
    near, _ = pair
    add, remove = getattr(loop, f"_add_{kind}"), getattr(loop, f"remove_{kind}")
    first, second = WithFileno(1), WithFileno(2)
    gone = [weakref.ref(first), weakref.ref(second)]
    handles = [add(near.fileno(), print, first), add(near.fileno(), print, second)]
    assert [handle.cancelled() for handle in handles] == [True, False]
    assert remove(near.fileno()) is True
    assert handles[1].cancelled()
    del first, second
    assert [thing() for thing in gone] == [None, None]


def test_a_closed_descriptor_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    near, far = socket.socketpair()
    descriptor = near.fileno()
    near.close()
    far.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(descriptor, print)
    with pytest.raises(ValueError, match="Invalid file"):
        loop.add_reader(near, print)


@pytest.mark.parametrize("method", ["add_reader", "remove_reader", "add_writer", "remove_writer"])
def test_a_transport_s_descriptor_is_refused(
    pair: Pair, loop: asyncio.AbstractEventLoop, method: str
) -> None:
    near, _ = pair

    async def main() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        arguments = (print,) if method.startswith("add") else ()
        for target in (near, near.fileno()):
            with pytest.raises(RuntimeError, match="is used by transport"):
                getattr(loop, method)(target, *arguments)
        transport.close()
        await asyncio.sleep(0)

    loop.run_until_complete(main())


def test_a_descriptor_may_be_closed_and_its_number_used_again(
    loop: asyncio.AbstractEventLoop,
) -> None:
    for _ in range(3):
        near, far = socket.socketpair()
        number = near.fileno()
        loop.add_reader(near, loop.stop)
        far.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(number) is True
        near.close()
        far.close()


def test_one_pipe_end_of_each_kind(loop: asyncio.AbstractEventLoop) -> None:
    source, sink = os.pipe()
    os.set_blocking(source, False)
    try:
        loop.add_writer(sink, lambda: (os.write(sink, b"x"), loop.remove_writer(sink)))
        loop.add_reader(source, loop.stop)
        loop.run_forever()
        assert os.read(source, 10) == b"x"
        assert loop.remove_reader(source) is True
    finally:
        os.close(source)
        os.close(sink)


def test_many_descriptors_are_all_served(loop: asyncio.AbstractEventLoop) -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    called: set[int] = set()

    def read(number: int) -> None:
        pairs[number][0].recv(1)
        called.add(number)
        if len(called) == len(pairs):
            loop.stop()

    for number, (near, far) in enumerate(pairs):
        loop.add_reader(near, read, number)
        far.send(b"x")
    loop.run_forever()
    for near, far in pairs:
        assert loop.remove_reader(near)
        near.close()
        far.close()


def test_ready_callbacks_do_not_starve_readers(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair

    def busy() -> None:
        loop.call_soon(busy)

    loop.add_reader(near, loop.stop)
    loop.call_soon(busy)
    far.send(b"x")
    loop.run_forever()
    loop.remove_reader(near)


def test_a_reader_that_raises_stays(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair
    reported: list[object] = []

    def report(_: object, context: dict[str, object]) -> None:
        reported.append(context["exception"])
        if len(reported) == 2:
            loop.stop()

    def fails() -> None:
        raise ZeroDivisionError

    loop.set_exception_handler(report)
    loop.add_reader(near, fails)
    far.send(b"x")
    loop.run_forever()
    assert [type(each) for each in reported] == [ZeroDivisionError] * 2
    loop.remove_reader(near)


# From another thread: asyncio promises nothing here


@pytest.mark.loop_pool_only
def test_a_reader_added_by_another_thread_is_served_by_a_parked_loop(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair
    future: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        future.set_result(near.recv(1))
        loop.remove_reader(near)

    with LoopThread(loop) as thread:
        thread.wait_parked()
        loop.add_reader(near, read)
        far.send(b"x")
        assert thread.run(_await(future)) == b"x"


@pytest.mark.loop_pool_only
@pytest.mark.smoke
def test_readers_of_other_threads_and_the_collector_do_not_stop_each_other(
    loop: asyncio.AbstractEventLoop,
) -> None:
    rounds, adders = 15, 3
    collections = threading.Semaphore(0)

    def collect() -> None:
        # One for each round: collections without a pause starve whoever wants to attach.
        for _ in range(rounds * adders):
            assert collections.acquire(timeout=HANG)
            gc.collect()

    def add_and_remove() -> None:
        for _ in range(rounds):
            near, far = socket.socketpair()
            called = threading.Event()
            with near, far:
                collections.release()
                loop.add_reader(near, called.set)
                far.send(b"x")
                assert called.wait(HANG)
                assert loop.remove_reader(near) is True

    with LoopThread(loop), Threads(collect, *[add_and_remove] * adders):
        pass


async def _await[T](future: asyncio.Future[T]) -> T:
    return await future
