"""asyncio's own streams over our transports: fed natively, a reader behaves as by asyncio's code.

Each test runs with asyncio's own classes, whose data go a short way, and with subclasses of them,
whose data go by `data_received`: they are the oracle, and so is asyncio's loop.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
from asyncio import StreamReader, StreamReaderProtocol
from typing import Any

import pytest

from ..support import HANG, eventually, run_main, turns
from .support import CLASSES, streaming

_FATAL = "Fatal error: protocol.data_received() call failed."


@pytest.fixture(params=CLASSES.values(), ids=CLASSES.keys())
def classes(request: pytest.FixtureRequest) -> tuple[type, type]:
    """The classes of the protocol and of the reader."""
    return request.param


# What comes


@pytest.mark.smoke
def test_what_comes_in_random_pieces_is_read_whole(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    chance = random.Random(7)
    content = chance.randbytes(400_000)

    async def send(sock: socket.socket) -> None:
        sock.setblocking(False)
        at = 0
        while at < len(content):
            size = chance.choice([1, 10, 1000, 30_000, 100_000])
            await asyncio.get_running_loop().sock_sendall(sock, content[at : at + size])
            at += size
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        sock.shutdown(socket.SHUT_WR)

    async def main() -> None:
        async with streaming(classes, limit=5000) as stream:
            sending = asyncio.create_task(send(stream.far))
            read = bytearray()
            while not stream.reader.at_eof():
                way = chance.randrange(3)
                try:
                    if way == 0:
                        read += await stream.reader.read(chance.choice([1, 100, 20_000]))
                    elif way == 1:
                        read += await stream.reader.readexactly(chance.choice([1, 100, 20_000]))
                    else:
                        read += await stream.reader.readuntil(b"\n")
                except asyncio.IncompleteReadError as error:
                    read += error.partial
            assert read == content
            await sending

    run_main(loop, main())


def test_a_cancelled_wait_loses_nothing(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            for number in range(5):
                waiting = asyncio.create_task(stream.reader.read(100))
                await turns(2)
                waiting.cancel()
                stream.far.sendall(b"%d" % number)
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await stream.reader.read(100) == b"%d" % number

    run_main(loop, main())


def test_a_waiter_that_was_cancelled_is_taken_and_not_woken(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            waiter = stream.reader._waiter = asyncio.get_running_loop().create_future()
            waiter.cancel()
            stream.far.sendall(b"some")
            await stream.got(4)
            assert stream.reader._waiter is None
            assert waiter.cancelled()
            assert await stream.reader.read(100) == b"some"

    run_main(loop, main())


def test_a_waiter_that_is_done_ends_the_connection(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type], reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            waiter = stream.reader._waiter = asyncio.get_running_loop().create_future()
            waiter.set_result(None)
            stream.far.sendall(b"some")
            await eventually(lambda: bool(reported), "a report")
            assert [context["message"] for context in reported] == [_FATAL]
            assert isinstance(reported[0]["exception"], asyncio.InvalidStateError)
            assert reported[0]["protocol"] is stream.protocol
            assert stream.reader._buffer == b"some"
            await eventually(lambda: stream.reader.exception() is not None, "the end")

    run_main(loop, main())


def test_a_waiter_of_another_class_is_woken(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    class Waiter(asyncio.Future[None]):
        woken_by = ""

        def set_result(self, result: None) -> None:
            self.woken_by += sys._getframe(1).f_code.co_name
            super().set_result(result)

    async def main() -> None:
        async with streaming(classes) as stream:
            waiter = stream.reader._waiter = Waiter()
            stream.far.sendall(b"some")
            await asyncio.wait_for(waiter, HANG)
            assert (waiter.woken_by, stream.reader._waiter) == ("_wakeup_waiter", None)
            assert stream.reader._buffer == b"some"

    run_main(loop, main())


def test_data_after_the_end_was_fed_end_the_connection(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type], reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            stream.reader.feed_eof()
            stream.far.sendall(b"some")
            await eventually(lambda: bool(reported), "a report")
            assert [context["message"] for context in reported] == [_FATAL]
            assert isinstance(reported[0]["exception"], AssertionError)
            assert not stream.reader._buffer

    run_main(loop, main())


def test_the_end_and_an_error_reach_the_reader(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            stream.far.sendall(b"some")
            stream.far.shutdown(socket.SHUT_WR)
            assert await stream.reader.read() == b"some"
            assert stream.reader.at_eof()
        async with streaming(classes) as stream:
            stream.reader.set_exception(KeyError("mine"))
            stream.far.sendall(b"some")
            await stream.got(4)
            with pytest.raises(KeyError):
                await stream.reader.read(10)

    run_main(loop, main())


# Limits


def test_reading_pauses_above_twice_the_limit_and_goes_on(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes, limit=1000) as stream:
            stream.far.sendall(b"a" * 1000)
            await stream.got(1000)
            stream.far.sendall(b"b" * 1000)
            await stream.got(2000)
            assert stream.transport.is_reading()
            stream.far.sendall(b"c")
            await stream.got(2001)
            assert not stream.transport.is_reading()
            stream.far.sendall(b"d" * 5000)
            await turns(20)
            assert len(stream.reader._buffer) == 2001
            assert await stream.reader.readexactly(1001) == b"a" * 1000 + b"b"
            assert stream.transport.is_reading()
            assert await stream.reader.readexactly(6000) == b"b" * 999 + b"c" + b"d" * 5000

    run_main(loop, main())


def test_a_reader_whose_transport_cannot_pause_keeps_all(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    class NoPause:
        calls = 0

        def pause_reading(self) -> None:
            self.calls += 1
            raise NotImplementedError

    async def main() -> None:
        async with streaming(classes, limit=10) as stream:
            stream.reader._transport = no_pause = NoPause()
            for count in range(1, 4):
                stream.far.sendall(b"x" * 100)
                await stream.got(100 * count)
            assert no_pause.calls == 1
            assert stream.reader._transport is None
            assert stream.transport.is_reading()

    run_main(loop, main())


@pytest.mark.parametrize("limit", [1 << 62, 1 << 70, 1000.5])
def test_an_odd_limit_is_taken_as_by_asyncio(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type], limit: Any
) -> None:
    async def main() -> None:
        async with streaming(classes, limit=limit) as stream:
            stream.far.sendall(b"x" * 500)
            assert await stream.reader.readexactly(500) == b"x" * 500

    run_main(loop, main())


# What is not as the classes make it


def test_a_reader_that_is_gone_gets_nothing(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            stream.far.sendall(b"some")
            await stream.got(4)
            del stream.reader
            gc.collect()
            assert stream.protocol._stream_reader is None
            stream.far.sendall(b"more")
            await turns(20)
            assert not stream.transport.is_closing()

    run_main(loop, main())


@pytest.mark.parametrize(
    ("where", "name"),
    [("protocol", "data_received"), ("reader", "feed_data"), ("reader", "_wakeup_waiter")],
)
def test_a_method_replaced_on_the_instance_is_called(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type], where: str, name: str
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            stream.far.sendall(b"1")
            await stream.got(1)
            target = getattr(stream, where)
            original, calls = getattr(target, name), []

            def spy(*args: Any) -> None:
                calls.append(args)
                original(*args)

            setattr(target, name, spy)
            stream.far.sendall(b"2")
            await stream.got(2)
            assert len(calls) == 1
            delattr(target, name)
            stream.far.sendall(b"3")
            await stream.got(3)
            assert len(calls) == 1
            assert await stream.reader.read(10) == b"123"

    run_main(loop, main())


def test_methods_of_subclasses_are_called(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[str] = []

    class Reader(StreamReader):
        def feed_data(self, data: bytes) -> None:
            calls.append("feed_data")
            super().feed_data(data)

    class Protocol(StreamReaderProtocol):
        def data_received(self, data: bytes) -> None:
            calls.append("data_received")
            super().data_received(data)

    async def main() -> None:
        for classes in ((StreamReaderProtocol, Reader), (Protocol, StreamReader)):
            async with streaming(classes) as stream:
                stream.far.sendall(b"some")
                await stream.got(4)
        assert calls == ["feed_data", "data_received"]

    run_main(loop, main())


def test_a_program_may_look_into_the_dict_or_replace_it(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            for number, change in enumerate(
                [
                    lambda: vars(stream.reader),
                    lambda: vars(stream.protocol),
                    lambda: setattr(stream.reader, "__dict__", dict(vars(stream.reader))),
                    lambda: setattr(stream.protocol, "__dict__", dict(vars(stream.protocol))),
                ]
            ):
                change()
                reading = asyncio.create_task(stream.reader.read(10))
                await turns(2)
                stream.far.sendall(b"%d" % number)
                assert await reading == b"%d" % number

    run_main(loop, main())


def test_a_buffer_of_another_class_is_extended(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type]
) -> None:
    class Buffer(bytearray):
        pieces = 0

        def extend(self, data: Any) -> None:
            self.pieces += 1
            super().extend(data)

    async def main() -> None:
        async with streaming(classes) as stream:
            buffer = stream.reader._buffer = Buffer()
            stream.far.sendall(b"some")
            await stream.got(4)
            assert buffer.pieces == 1

    run_main(loop, main())


def test_a_buffer_that_is_lent_out_ends_the_connection(
    loop: asyncio.AbstractEventLoop, classes: tuple[type, type], reported: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with streaming(classes) as stream:
            with memoryview(stream.reader._buffer):
                stream.far.sendall(b"some")
                await eventually(lambda: bool(reported), "a report")
            assert [context["message"] for context in reported] == [_FATAL]
            assert isinstance(reported[0]["exception"], BufferError)

    run_main(loop, main())
