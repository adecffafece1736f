"""`loop.sock_*`: what waits, what ends the wait, and what is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import socket
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ..support import (
    HANG,
    LoopFactory,
    LoopThread,
    closed_socket,
    eventually,
    listen,
    run_main,
    run_turn,
)
from .support import fill

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

type Pair = tuple[socket.socket, socket.socket]
type Wait = Coroutine[Any, Any, object]


def _drain(sock: socket.socket, size: int) -> None:
    while size:
        size -= len(sock.recv(size))


def _waiting(loop: Any, sock: socket.socket) -> int:
    """The events that are waited for on a socket: 1 reading, 2 writing."""
    try:
        return loop._selector.get_key(sock.fileno()).events
    except KeyError:
        return 0


READ, WRITE = 1, 2

READING: dict[str, Callable[[Any, socket.socket], Wait]] = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 100),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(100)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 100),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100)),
}
WRITING: dict[str, Callable[[Any, socket.socket], Wait]] = {
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"more"),
}
WAITING = {**READING, **WRITING}
reading = pytest.mark.parametrize("start", READING.values(), ids=READING.keys())
waiting = pytest.mark.parametrize("start", WAITING.values(), ids=WAITING.keys())
type Start = Callable[[Any, socket.socket], Wait]


# What they are, and what they take


@pytest.mark.parametrize(
    "name", [*WAITING, "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile"]
)
def test_the_methods_are_coroutine_functions(loop: asyncio.AbstractEventLoop, name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(loop, name))


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 4096, 65536, 65537, 1_000_000])
def test_sock_recv_returns_what_there_is(
    pair: Pair, loop: asyncio.AbstractEventLoop, size: int
) -> None:
    near, far = pair

    async def main() -> None:
        for early in (True, False):
            receiving = asyncio.create_task(loop.sock_recv(near, size))
            if not early:
                await asyncio.sleep(0)
            far.send(b"0123456789")
            assert await receiving == b"0123456789"[:size]
            assert not _waiting(loop, near)
            _drain(near, max(0, 10 - size))
        far.close()
        assert await loop.sock_recv(near, size) == b""

    run_main(loop, main())


@pytest.mark.parametrize("size", [0, 1, 10, 65536, 65537])
def test_sock_recv_into_fills_the_buffer(
    pair: Pair, loop: asyncio.AbstractEventLoop, size: int
) -> None:
    near, far = pair
    buffer = bytearray(size)

    async def main() -> None:
        receiving = asyncio.create_task(loop.sock_recv_into(near, memoryview(buffer)))
        await asyncio.sleep(0)
        far.send(b"0123456789")
        count = await receiving
        assert count == min(size, 10)
        assert buffer[:count] == b"0123456789"[:count]

    run_main(loop, main())
    buffer.append(1)  # Nobody holds on to it.


BAD: dict[str, Callable[[Any, socket.socket], Wait]] = {
    "a negative size": lambda loop, sock: loop.sock_recv(sock, -1),
    "a size of text": lambda loop, sock: loop.sock_recv(sock, "1"),
    "an enormous size": lambda loop, sock: loop.sock_recv(sock, 1 << 70),
    "no buffer": lambda loop, sock: loop.sock_recv_into(sock, 5),
    "a buffer that cannot be written": lambda loop, sock: loop.sock_recv_into(sock, b"12345"),
    "a buffer in steps": lambda loop, sock: loop.sock_recv_into(
        sock, memoryview(bytearray(9))[::2]
    ),
    "text": lambda loop, sock: loop.sock_sendall(sock, "text"),
    "no socket": lambda loop, _: loop.sock_recv(1, 1),
    "no socket to accept on": lambda loop, _: loop.sock_accept(1),
    "no address": lambda loop, sock: loop.sock_connect(sock, 1),
    "no listener": lambda loop, sock: loop.sock_accept(sock),
    "a closed socket": lambda loop, _: loop.sock_recv(closed_socket(), 1),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_fail_as_in_asyncio(
    pair: Pair, loop: asyncio.AbstractEventLoop, case: str
) -> None:
    def outcome(of: asyncio.AbstractEventLoop) -> tuple[type, str]:
        with pytest.raises(Exception) as seen:
            of.run_until_complete(asyncio.wait_for(BAD[case](of, pair[0]), HANG))
        return seen.type, str(seen.value)

    oracle = asyncio.SelectorEventLoop()
    try:
        assert outcome(loop) == outcome(oracle)
    finally:
        oracle.close()
    assert not _waiting(loop, pair[0])


def test_a_tls_socket_is_refused(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    import ssl

    context = ssl.create_default_context()
    with context.wrap_socket(
        pair[0], server_hostname="localhost", do_handshake_on_connect=False
    ) as tls:
        for start in WAITING.values():
            with pytest.raises(TypeError, match="SSLSocket"):
                run_main(loop, start(loop, tls))


def test_a_reset_is_an_error(loop: asyncio.AbstractEventLoop) -> None:
    import struct

    async def main() -> None:
        with listen() as listener:
            listener.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, listener.getsockname())
                server, _ = await accepting
                with server:
                    assert server.gettimeout() == 0
                    receiving = asyncio.create_task(loop.sock_recv(client, 10))
                    await asyncio.sleep(0)
                    linger = struct.pack("ii", 1, 0)
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    server.close()
                    with pytest.raises(ConnectionResetError) as caught:
                        await receiving
                    assert str(caught.value) == "[Errno 104] Connection reset by peer"
                    assert not _waiting(loop, client)

    run_main(loop, main())


def test_a_socket_with_a_timeout_waits_by_itself(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, _ = pair
    near.settimeout(0.001)
    for start in READING.values():
        with pytest.raises(TimeoutError):
            run_main(loop, start(loop, near))
    assert not _waiting(loop, near)


def test_all_is_sent_however_slowly_it_is_read(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair
    data = bytearray(range(256)) * 8192

    async def main() -> bytes:
        sending = asyncio.create_task(loop.sock_sendall(near, data))
        got = b""
        while len(got) < len(data):
            got += await loop.sock_recv(far, 30_001)
        await sending
        assert not _waiting(loop, near)
        return got

    assert run_main(loop, main()) == data
    data.append(1)  # Nobody holds on to it.


# What ends the wait


@waiting
def test_a_cancelled_operation_leaves_nothing(
    pair: Pair, loop: asyncio.AbstractEventLoop, start: Start
) -> None:
    near, far = pair
    filled = fill(near)
    before = len(far.recv(1))
    expected = WRITE if start in WRITING.values() else READ

    async def main() -> None:
        task = asyncio.ensure_future(start(loop, near))
        await asyncio.sleep(0)
        assert _waiting(loop, near) == expected
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not _waiting(loop, near)
        # What comes now is nobody's yet.
        far.send(b"kept")
        assert await loop.sock_recv(near, 10) == b"kept"

    run_main(loop, main())
    _drain(far, filled - before)
    with pytest.raises(BlockingIOError):
        far.recv(1)


@pytest.mark.loop_pool_only
@waiting
def test_a_closed_coroutine_leaves_nothing(
    pair: Pair, loop: asyncio.AbstractEventLoop, start: Start
) -> None:
    """asyncio's stay registered, and take the data that comes."""
    near, far = pair
    fill(near)
    coroutine = start(loop, near)
    coroutine.send(None)
    assert _waiting(loop, near)
    coroutine.close()
    assert not _waiting(loop, near)
    far.send(b"kept")
    run_turn(loop)
    assert near.recv(10) == b"kept"


@reading
def test_a_future_that_is_cancelled_takes_no_data(
    pair: Pair, loop: asyncio.AbstractEventLoop, start: Start
) -> None:
    """And the level that nobody waits for is not reported for ever."""
    near, far = pair
    coroutine = start(loop, near)
    future = coroutine.send(None)
    assert isinstance(future, asyncio.Future)
    far.send(b"kept")
    future.cancel()
    run_turn(loop)
    run_turn(loop)
    assert not _waiting(loop, near)
    assert near.recv(10) == b"kept"
    with pytest.raises(asyncio.CancelledError):
        coroutine.send(None)


def test_a_second_sock_recv_takes_the_place_of_the_first(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair

    async def main() -> None:
        first = asyncio.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        second = asyncio.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        far.send(b"one")
        assert await second == b"one"
        assert not first.done()
        assert not _waiting(loop, near)
        third = asyncio.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert _waiting(loop, near) == READ
        far.send(b"two")
        assert await third == b"two"

    run_main(loop, main())


@pytest.mark.parametrize("how", ["add_reader", "remove_reader"])
def test_a_reader_of_the_program_s_own_takes_its_place(
    pair: Pair, loop: asyncio.AbstractEventLoop, how: str
) -> None:
    near, far = pair
    called = asyncio.Event()

    async def main() -> None:
        receiving = asyncio.create_task(loop.sock_recv(near, 10))
        await asyncio.sleep(0)
        if how == "add_reader":
            loop.add_reader(near, called.set)
            far.send(b"x")
            await called.wait()
            assert near.recv(10) == b"x"
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving
            assert _waiting(loop, near) == READ
            assert loop.remove_reader(near)
        else:
            assert loop.remove_reader(near)
            assert not loop.remove_reader(near)
            far.send(b"x")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not receiving.done()
            assert near.recv(10) == b"x"
            receiving.cancel()
            with suppress(asyncio.CancelledError):
                await receiving
        assert not _waiting(loop, near)

    run_main(loop, main())


def test_the_two_directions_are_independent(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair
    seen: list[bytes] = []

    async def main() -> None:
        filled = fill(near)
        loop.add_reader(near, lambda: seen.append(near.recv(10)))
        for end in ("cancel", "finish"):
            sending = asyncio.create_task(loop.sock_sendall(near, b"more"))
            await asyncio.sleep(0)
            assert _waiting(loop, near) == READ | WRITE
            far.send(b"x")
            await eventually(lambda: bool(seen), "the reader runs")
            seen.clear()
            if end == "cancel":
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
            else:
                _drain(far, filled)
                await sending
                assert await loop.sock_recv(far, 10) == b"more"
            assert _waiting(loop, near) == READ
        assert loop.remove_reader(near)

    run_main(loop, main())


def test_a_removal_by_the_object_that_was_closed_while_it_sent(
    loop: asyncio.AbstractEventLoop,
) -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with far:
        loop.add_reader(near, print)

        async def main() -> None:
            fill(near)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_sendall(near, b"more"), 0.001)

        run_main(loop, main())
        near.close()
        if type(loop).__module__.startswith("loop_pool"):
            assert loop.remove_reader(near)


def test_a_descriptor_of_a_transport_is_refused(
    pair: Pair, loop: asyncio.AbstractEventLoop
) -> None:
    near, far = pair

    async def main() -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        for start in READING.values():
            with pytest.raises(RuntimeError, match="is used by transport"):
                await start(loop, near)
        far.send(b"x")
        transport.abort()
        await asyncio.sleep(0)

    run_main(loop, main())


def test_an_operation_that_is_cancelled_as_a_handle_is_removed(pair: Pair, loop: Any) -> None:
    near, far = pair
    coroutine = loop.sock_recv(near, 10)
    coroutine.send(None)
    reader, writer = loop._selector.get_key(near.fileno()).data
    assert writer is None
    assert not reader.cancelled()
    reader.cancel()
    assert reader.cancelled()
    far.send(b"x")
    run_turn(loop)
    run_turn(loop)
    assert not _waiting(loop, near)
    assert near.recv(10) == b"x"
    coroutine.close()


# Sockets of other kinds


class Scripted(socket.socket):
    """A socket whose `recv` does what it is told, and then what sockets do."""

    script: list[BaseException | None]

    def recv(self, *arguments: int) -> bytes:
        """Raises what comes next in the script."""
        if self.script and (what := self.script.pop(0)) is not None:
            raise what
        return super().recv(*arguments)


@pytest.fixture
def scripted(pair: Pair) -> Iterator[Scripted]:
    with Scripted(fileno=pair[0].detach()) as sock:
        sock.setblocking(False)
        yield sock


def test_a_subclass_s_method_is_called_in_its_context(
    pair: Pair, scripted: Scripted, loop: asyncio.AbstractEventLoop
) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    class Error(Exception):
        def __init__(self) -> None:
            seen.append(variable.get())

    async def main() -> None:
        variable.set("inside")
        scripted.script = [InterruptedError(), BlockingIOError(), None]
        receiving = asyncio.create_task(loop.sock_recv(scripted, 10))
        await asyncio.sleep(0)
        seen.append(variable.get())
        pair[1].send(b"x")
        assert await receiving == b"x"
        assert not _waiting(loop, scripted)
        scripted.script = [BlockingIOError(), Error()]
        pair[1].send(b"x")
        with pytest.raises(Error):
            await loop.sock_recv(scripted, 10)
        assert not _waiting(loop, scripted)

    run_main(loop, main())
    assert seen == ["inside", "inside"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_wish_to_exit_passes_through_the_loop(
    pair: Pair,
    scripted: Scripted,
    loop: asyncio.AbstractEventLoop,
    kind: type[BaseException],
) -> None:
    scripted.script = [BlockingIOError(), kind("now")]
    pair[1].send(b"x")
    task = loop.create_task(loop.sock_recv(scripted, 10))
    with pytest.raises(kind, match="now"):
        run_main(loop, asyncio.wait([task]))
    assert _waiting(loop, scripted) == READ
    assert loop.run_until_complete(task) == b"x"
    assert not _waiting(loop, scripted)


def test_a_method_that_was_replaced_is_called(
    pair: Pair, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "recv", lambda *_: b"replaced", raising=False)
    assert run_main(loop, loop.sock_recv(pair[0], 10)) == b"replaced"


def test_a_cancelled_sendfile_leaves_nothing(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, far = pair
    with tempfile.TemporaryFile() as file:
        file.write(bytes(3_000_000))
        file.flush()

        async def main() -> None:
            sending = asyncio.create_task(loop.sock_sendfile(near, file, 5))
            await eventually(lambda: _waiting(loop, near) == WRITE, "it waits")
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert not _waiting(loop, near)
            far.close()
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sock_sendfile(near, file, 5, fallback=False)

        run_main(loop, main())


@pytest.mark.parametrize("count", [None, 1_000_000])
def test_a_file_is_sent_piece_by_piece(
    pair: Pair, loop: asyncio.AbstractEventLoop, count: int | None
) -> None:
    near, far = pair
    with tempfile.TemporaryFile() as file:
        content = bytes(range(250)) * 12_000
        file.write(content)
        file.flush()
        expected = content[7:] if count is None else content[7 : 7 + count]

        async def main() -> None:
            sending = asyncio.create_task(loop.sock_sendfile(near, file, 7, count))
            got = b""
            while len(got) < len(expected):
                got += await loop.sock_recv(far, 65536)
            assert await sending == len(expected)
            assert got == expected
            assert not _waiting(loop, near)

        run_main(loop, main())
        assert file.tell() == 7 + len(expected)


# Threads, and what is left in memory


@reading
def test_an_operation_begun_on_another_thread_wakes_the_loop(
    pair: Pair, loop: asyncio.AbstractEventLoop, start: Start
) -> None:
    """Not that asyncio allows it; but nothing may crash or be lost."""
    near, far = pair
    done = threading.Event()
    with LoopThread(loop) as running:
        running.wait_parked()
        coroutine = start(loop, near)
        future = coroutine.send(None)
        loop.call_soon_threadsafe(future.add_done_callback, lambda _: done.set())
        far.send(b"x")
        assert done.wait(HANG)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert not _waiting(loop, near)


def test_a_loop_dropped_with_a_pending_operation_is_collected(
    pair: Pair, loop_factory: LoopFactory
) -> None:
    loop = loop_factory()
    near, _ = pair
    fill(near)
    for start in (READING["sock_recv_into"], WRITING["sock_sendall"]):
        task = loop.create_task(start(loop, near))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    run_turn(loop)
    assert _waiting(loop, near) == READ | WRITE
    loop_gone, task_gone = weakref.ref(loop), weakref.ref(task)
    del loop, task
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert loop_gone() is None
    assert task_gone() is None


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_an_exception_keeps_neither_the_buffer_nor_the_future(
    pair: Pair, loop: asyncio.AbstractEventLoop, end: str
) -> None:
    """asyncio's keeps the buffer by a frame of its callback, if the operation failed."""
    near, far = pair
    fill(near)
    data = bytearray(b"more")
    keepers: list[type] = []

    async def main() -> None:
        sending = loop.sock_sendall(near, data)
        task = asyncio.create_task(sending)
        await asyncio.sleep(0)
        if end == "cancelled":
            task.cancel()
        else:
            far.close()
        await asyncio.wait([task])
        try:
            task.result()
        except (asyncio.CancelledError, OSError) as caught:
            data.clear()  # Refused while anybody has a view of it.
            del task
            keepers.extend(type(each) for each in gc.get_referrers(caught))

    run_main(loop, main())
    assert asyncio.Future not in keepers


def test_cancelled_operations_leak_nothing(pair: Pair, loop: asyncio.AbstractEventLoop) -> None:
    near, _ = pair
    rounds = 2_000
    buffer = bytearray(10)

    async def cancelled(wait: Wait) -> None:
        task = asyncio.ensure_future(wait)
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def main(rounds: int) -> None:
        for _ in range(rounds):
            await cancelled(loop.sock_recv(near, 10))
            await cancelled(loop.sock_recv_into(near, buffer))

    run_main(loop, main(rounds // 10))
    gc.collect()
    objects, blocks = len(gc.get_objects()), sys.getallocatedblocks()
    references = sys.getrefcount(near)
    run_main(loop, main(rounds * 5))  # 20,000 operations
    gc.collect()
    assert len(gc.get_objects()) < objects + 100
    assert sys.getallocatedblocks() < blocks + 1_000
    assert sys.getrefcount(near) == references
    assert not _waiting(loop, near)
