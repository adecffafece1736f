"""Promises of datagram transports that were broken once, each held against asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ..support import HANG, eventually, run_main

type Loop = asyncio.AbstractEventLoop

NAMES = ["far", "fär"]
"""Of sockets: to the first one loop_pool sends by itself, to the second by the socket's method."""


class RecordingProtocol(asyncio.DatagramProtocol):
    """Notes what it is told. `hooks`: what to do then, by the method's name."""

    def __init__(self, **hooks: Callable[[], None]) -> None:
        self.hooks = hooks
        self.calls: list[str] = []
        self.lost = asyncio.get_running_loop().create_future()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.hooks.get(name, lambda: None)()

    def pause_writing(self) -> None:
        self._call("pause_writing")

    def resume_writing(self) -> None:
        self._call("resume_writing")

    def error_received(self, exc: Exception) -> None:
        self._call("error_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self._call("connection_lost")


class Far:
    """A transport that is not connected, and the unix socket that it sends to."""

    def __init__(self, folder: str, name: str) -> None:
        self.address = f"{folder}/{name}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.socket.setblocking(False)
        self.sent: list[bytes] = []

    async def connect(self, **hooks: Callable[[], None]) -> None:
        self.transport, self.protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: RecordingProtocol(**hooks),
            local_addr=f"{os.path.dirname(self.address)}/near",
            family=socket.AF_UNIX,
        )
        self.transport.set_write_buffer_limits(high=0)

    def send(self) -> None:
        self.sent.append(b"%d" % len(self.sent))
        self.transport.sendto(self.sent[-1], self.address)

    def stuff(self) -> None:
        """Sends until a datagram has to wait."""
        while not self.transport.get_write_buffer_size():
            self.send()
            assert len(self.sent) < 100_000

    def receive(self) -> list[bytes]:
        """Takes what has come."""
        got = []
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(self.socket.recv(100))
        return got

    def go(self) -> None:
        """Goes away, so that no datagram can be sent to it."""
        self.socket.close()
        os.unlink(self.address)


@contextlib.asynccontextmanager
async def full(name: str, **hooks: Callable[[], None]) -> AsyncIterator[Far]:
    """A transport with a datagram that waits; it is closed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        far = Far(folder, name)
        with far.socket:
            await far.connect(**hooks)
            far.stuff()
            yield far
            if not far.protocol.lost.done():
                far.transport.abort()
            await asyncio.wait_for(asyncio.shield(far.protocol.lost), HANG)


def _fail() -> None:
    raise ZeroDivisionError


def _interrupt() -> None:
    raise KeyboardInterrupt


# What a protocol raises


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("closes", [False, True])
def test_an_exception_over_a_queued_datagram_ends_neither_flow_control_nor_close(
    loop: Loop, reported: list[dict[str, Any]], name: str, closes: bool
) -> None:
    async def main() -> None:
        async with full(name, error_received=_fail) as far:
            far.go()
            if closes:
                far.transport.close()
                await asyncio.wait_for(asyncio.shield(far.protocol.lost), HANG)
            calls = ["pause_writing", "error_received", "resume_writing"]
            await eventually(lambda: far.protocol.calls[:3] == calls, "it goes on")
            assert far.protocol.calls[3:] == ["connection_lost"] * closes

    run_main(loop, main())
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
    assert "handle" in reported[0]  # as an exception of any other callback


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["error_received", "resume_writing"])
def test_an_interrupt_does_not_lose_the_end_of_a_closing_transport(
    loop: Loop, name: str, method: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        far = Far(folder, name)
        with far.socket:
            loop.run_until_complete(far.connect(**{method: _interrupt}))
            far.stuff()
            far.transport.close()
            if method == "error_received":
                far.go()
            else:
                far.receive()
            lost = far.protocol.lost
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(asyncio.wait_for(asyncio.shield(lost), HANG))
            loop.run_until_complete(asyncio.wait_for(asyncio.shield(lost), HANG))
            assert far.protocol.calls[-1] == "connection_lost"
            assert far.protocol.calls.count("resume_writing") == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_by_pause_writing_holds_nothing_up(loop: Loop, name: str) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            far = Far(folder, name)
            with far.socket:
                await far.connect(pause_writing=_interrupt)
                with pytest.raises(KeyboardInterrupt):
                    far.stuff()
                assert far.transport.get_write_buffer_size() > 0
                got: list[bytes] = []

                def all_came() -> bool:
                    got.extend(far.receive())
                    return len(got) == len(far.sent)

                await eventually(all_came, "what waited is sent")
                assert got == far.sent
                await eventually(
                    lambda: far.protocol.calls == ["pause_writing", "resume_writing"], "it goes on"
                )
                far.transport.abort()
                await far.protocol.lost

    run_main(loop, main())


@pytest.mark.loop_pool_only
def test_the_report_of_a_missing_method_names_it(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    class Bare:
        def connection_made(self, transport: Any) -> None:
            pass

        def connection_lost(self, exc: Exception | None) -> None:
            pass

    async def main() -> None:
        transport, _ = await loop.create_datagram_endpoint(  # type: ignore[type-var]
            Bare, local_addr=("127.0.0.1", 0)
        )
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await eventually(lambda: bool(reported), "it is reported")
        transport.close()

    run_main(loop, main())
    (context,) = reported
    assert isinstance(context["exception"], AttributeError)
    assert "datagram_received" in context["message"]


# Waiting


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("name", NAMES)
def test_waiting_for_room_that_the_kernel_does_not_tell_of_costs_little(
    loop: Loop, name: str
) -> None:
    # The kernel reports room after each datagram that it refuses: the loop never slept.
    async def main() -> None:
        async with full(name) as far:
            for _ in range(3):
                far.send()
            began = time.process_time()
            await asyncio.sleep(0.4)
            assert time.process_time() - began < 0.2
            got: list[bytes] = []

            def all_came() -> bool:
                got.extend(far.receive())
                return len(got) == len(far.sent)

            await eventually(all_came, "what waited is sent")
            assert got == far.sent

    run_main(loop, main())


# The end


def test_the_number_of_a_closed_transport_is_free_at_once(loop: Loop) -> None:
    async def main() -> None:
        read, write = os.pipe()
        pipe = os.fdopen(read, "rb", buffering=0)
        closed, _ = await loop.connect_read_pipe(asyncio.Protocol, pipe)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            closed.close()
            pipe.close()
            sock = socket.socket(fileno=os.dup2(other.fileno(), read))
        transport, protocol = await loop.create_datagram_endpoint(RecordingProtocol, sock=sock)
        came = loop.create_future()
        protocol.datagram_received = lambda data, _: came.set_result(data)  # type: ignore[method-assign]
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        assert await came == b"x"
        assert closed.get_protocol() is None
        transport.close()
        await protocol.lost
        os.close(write)

    run_main(loop, main())


def test_the_end_of_a_transport_leaves_a_reader_of_its_number_alone(loop: Loop) -> None:
    async def main() -> None:
        read, write = os.pipe()
        pipe = os.fdopen(read, "rb", buffering=0)
        closed, _ = await loop.connect_read_pipe(asyncio.Protocol, pipe)
        near, far = socket.socketpair()
        with near, far:
            closed.close()
            pipe.close()
            os.dup2(near.fileno(), read)
            came = asyncio.Event()
            loop.add_reader(read, came.set)
            await eventually(lambda: closed.get_protocol() is None, "the transport ends")
            far.send(b"x")
            await came.wait()
            assert loop.remove_reader(read)
        os.close(read)
        os.close(write)

    run_main(loop, main())


def test_the_representation_of_a_closed_transport_ends_with_its_number(loop: Loop) -> None:
    async def main() -> None:
        transport, protocol = await loop.create_datagram_endpoint(
            RecordingProtocol, local_addr=("127.0.0.1", 0)
        )
        transport.close()
        assert re.search(r" closing fd=\d+ read=idle write=<idle, bufsize=0>>$", repr(transport))
        await protocol.lost
        await asyncio.sleep(0)
        assert re.fullmatch(r"<\w+ closed fd=\d+>", repr(transport))

    run_main(loop, main())


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing 1 required positional argument: 'data'"),
        ((), {"addr": None}, "missing 1 required positional argument: 'data'"),
        ((b"", None, 1), {}, "takes from 2 to 3 positional arguments but 4 were given"),
        ((b"",), {"data": b""}, "got multiple values for argument 'data'"),
        ((b"",), {"to": None}, "got an unexpected keyword argument 'to'"),
    ],
)
def test_wrong_arguments_are_refused_in_python_s_words(
    loop: Loop, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    async def main() -> None:
        transport, protocol = await loop.create_datagram_endpoint(
            RecordingProtocol, local_addr=("127.0.0.1", 0)
        )
        with pytest.raises(TypeError, match=rf"^\w+Transport\.sendto\(\) {re.escape(text)}$"):
            transport.sendto(*args, **kwargs)
        transport.close()
        await protocol.lost

    run_main(loop, main())
