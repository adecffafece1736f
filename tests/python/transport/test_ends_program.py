"""`SystemExit` and `KeyboardInterrupt` out of a protocol's callback end the run, no connection.

A program may run the loop on: an interactive shell, a test runner. What comes then is delivered,
and the connection is lost in the end, once, whichever callback raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from ..support import (
    HANG,
    BufferedRecorder,
    Recorder,
    eventually,
    self_signed,
    stream_sockets,
    turns,
)
from ..tls.support import Peer

pytestmark = pytest.mark.usefixtures("clean_process")

type Loop = asyncio.AbstractEventLoop

errors = pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])


class Once:
    """A hook that raises the first time."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error: type[BaseException] | None = error

    def __call__(self, *_: object) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def drive(loop: Loop, main: Coroutine[Any, Any, None]) -> int:
    """Runs to the end, on after every error that ends the run; returns how many there were."""
    task = loop.create_task(asyncio.wait_for(main, HANG))
    raised = 0
    while True:
        try:
            loop.run_until_complete(task)
        except SystemExit, KeyboardInterrupt:
            assert not task.done()
            raised += 1
        else:
            return raised


@errors
@pytest.mark.parametrize(
    ("make", "callback"),
    [
        (Recorder, "connection_made"),
        (Recorder, "data_received"),
        (Recorder, "eof_received"),
        (Recorder, "connection_lost"),
        (BufferedRecorder, "get_buffer"),
        (BufferedRecorder, "buffer_updated"),
        (BufferedRecorder, "eof_received"),
        (BufferedRecorder, "connection_lost"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["with-the-data", "later"])
def test_a_stream_goes_on_and_is_lost(
    loop: Loop, make: Any, callback: str, error: type[BaseException], at_once: bool
) -> None:
    async def main() -> None:
        near, far = stream_sockets("tcp")
        protocol = make(**{callback: Once(error)})
        with far:
            await loop.create_connection(lambda: protocol, sock=near)
            far.sendall(b"hello")
            if not at_once:
                await eventually(lambda: protocol.data == b"hello", "the data")
            far.shutdown(socket.SHUT_WR)
            assert await protocol.ended() is None
        assert protocol.data == b"hello"

    assert drive(loop, main()) == 1


@errors
@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
def test_what_is_queued_is_written(
    loop: Loop, callback: str, error: type[BaseException], logged_errors: list[str]
) -> None:
    data = os.urandom(1 << 20) * 8

    def read(far: socket.socket) -> bytes:
        read = bytearray()
        while chunk := far.recv(1 << 16):
            read += chunk
        return bytes(read)

    async def main() -> None:
        near, far = stream_sockets("tcp")
        protocol = Recorder(**{callback: Once(error)})
        with far:
            transport, _ = await loop.create_connection(lambda: protocol, sock=near)
            with contextlib.suppress(error):
                transport.write(data)
            reading = loop.run_in_executor(None, read, far)
            await eventually(lambda: protocol.count("resume_writing") > 0, "room")
            transport.write(b"end")
            transport.close()
            assert await reading == data + b"end"
            assert await protocol.ended() is None

    assert drive(loop, main()) == (callback == "resume_writing")
    if type(loop).__module__.startswith("asyncio"):
        logged_errors.clear()  # of a transport that is still watched with nothing to write


@errors
@pytest.mark.parametrize(
    "callback", ["connection_made", "data_received", "eof_received", "connection_lost"]
)
def test_a_pipe_that_is_read_goes_on_and_is_lost(
    loop: Loop, callback: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        read, write = os.pipe()
        protocol = Recorder(**{callback: Once(error)})
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(read, "rb", 0))
        os.write(write, b"hello")
        await eventually(lambda: protocol.data == b"hello", "the data")
        os.close(write)
        assert await protocol.ended() is None

    assert drive(loop, main()) == 1


@errors
@pytest.mark.parametrize("callback", ["connection_made", "connection_lost"])
def test_a_pipe_that_is_written_is_lost(
    loop: Loop, callback: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        read, write = os.pipe()
        protocol = Recorder(**{callback: Once(error)})
        transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(write, "wb", 0))
        transport.write(b"hello")
        transport.close()
        assert await protocol.ended() is None
        assert os.read(read, 100) == b"hello"
        os.close(read)

    assert drive(loop, main()) == 1


class _Datagrams(Recorder, asyncio.DatagramProtocol):
    """Keeps what comes."""

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.data += data
        self._called("datagram_received", data, address)

    def error_received(self, exc: Exception) -> None:
        self._called("error_received", exc)


@errors
@pytest.mark.parametrize(
    "callback", ["connection_made", "datagram_received", "error_received", "connection_lost"]
)
def test_datagrams_go_on_and_the_transport_is_lost(
    loop: Loop, callback: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            protocol = _Datagrams(**{callback: Once(error)})
            transport, _ = await loop.create_datagram_endpoint(
                lambda: protocol, remote_addr=peer.getsockname()
            )
            for data in (b"1", b"2", b"3"):
                peer.sendto(data, transport.get_extra_info("sockname"))
            await eventually(lambda: protocol.data == b"123", "the datagrams")
        # Nobody is there any more: the kernel says so at the next call.
        transport.sendto(b"lost")
        await eventually(lambda: protocol.count("error_received") > 0, "the refusal")
        transport.close()
        assert await protocol.ended() is None

    assert drive(loop, main()) == 1


@errors
@pytest.mark.parametrize(
    ("make", "callback"),
    [
        (Recorder, "connection_made"),
        (Recorder, "data_received"),
        (Recorder, "eof_received"),
        (Recorder, "connection_lost"),
        (BufferedRecorder, "get_buffer"),
        (BufferedRecorder, "buffer_updated"),
    ],
)
def test_a_tls_connection_is_lost(
    loop: Loop, make: Any, callback: str, error: type[BaseException]
) -> None:
    if callback == "connection_made" and type(loop).__module__.startswith("asyncio"):
        pytest.skip("asyncio leaves whoever waits for the connection waiting")

    async def main() -> None:
        server_context, client_context = self_signed()
        near, far = stream_sockets("tcp")
        peer = Peer(far, client_context)
        protocol = make(**{callback: Once(error)})
        with far:
            await asyncio.gather(
                loop.connect_accepted_socket(lambda: protocol, near, ssl=server_context),
                peer.step(peer.tls.do_handshake),
            )
            await peer.send(peer.seal(b"hello"))
            await eventually(lambda: bool(protocol.calls[1:]), "a call")
            await turns()
            await peer.send(peer.close_notify())
            far.shutdown(socket.SHUT_WR)
            await protocol.ended()

    assert drive(loop, main()) == 1


@errors
def test_an_end_of_tls_is_answered_all_the_same(loop: Loop, error: type[BaseException]) -> None:
    if type(loop).__module__.startswith("asyncio"):
        pytest.skip("asyncio answers when the peer has closed the connection below")

    async def main() -> None:
        server_context, client_context = self_signed()
        near, far = stream_sockets("tcp")
        peer = Peer(far, client_context)
        protocol = Recorder(eof_received=Once(error))
        with far:
            await asyncio.gather(
                loop.connect_accepted_socket(lambda: protocol, near, ssl=server_context),
                peer.step(peer.tls.do_handshake),
            )
            await peer.send(peer.close_notify())
            await peer.read_end()
            await protocol.ended()

    assert drive(loop, main()) == 1


@errors
def test_an_exception_handler_that_ends_the_run_ends_the_connection_all_the_same(
    loop: Loop, error: type[BaseException]
) -> None:
    if type(loop).__module__.startswith("asyncio"):
        pytest.skip("asyncio leaves such a connection as it is, until something comes")

    def fails(_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        near, far = stream_sockets("tcp")
        protocol = Recorder(data_received=fails)
        handled = Once(error)
        loop.set_exception_handler(handled)
        with far:
            await loop.create_connection(lambda: protocol, sock=near)
            far.sendall(b"hello")
            assert type(await protocol.ended()) is ZeroDivisionError

    assert drive(loop, main()) == 1
