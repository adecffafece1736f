"""Content over TLS: it arrives as it was written, however its records are cut, merged or sized."""

from __future__ import annotations

import array
import asyncio
import ctypes
import os
import random
import socket
import ssl
import sys
from asyncio import sslproto
from typing import Any

import pytest

import loop_pool

from ..support import (
    BufferedRecorder,
    Recorder,
    eventually,
    run_main,
    self_signed,
    stream_sockets,
    turns,
)
from .support import shaken

type Loop = asyncio.AbstractEventLoop

RECORD = 16 * 1024


def echoing() -> Recorder:
    protocol = Recorder()

    def received(data: bytes) -> None:
        protocol.transport.write(data)

    protocol.hooks["data_received"] = received
    return protocol


def recording_in_buffer(size: int) -> BufferedRecorder:
    protocol = BufferedRecorder(size)
    # asyncio's own code reads on in slices of the buffer, which have to be views.
    protocol.hooks["get_buffer"] = lambda _: memoryview(protocol.buffer)
    return protocol


def echoing_from_buffer(size: int = 1000) -> BufferedRecorder:
    protocol = recording_in_buffer(size)

    def updated(count: int) -> None:
        protocol.transport.write(bytes(protocol.buffer[:count]))

    protocol.hooks["buffer_updated"] = updated
    return protocol


@pytest.mark.loop_pool_only
def test_a_buffer_that_is_no_view_is_filled_too(loop: Loop) -> None:
    """asyncio reads on into a copy of it."""

    async def main() -> None:
        async with shaken(lambda: BufferedRecorder(1000)) as (_, protocol, peer):
            content = os.urandom(3000)
            await peer.send(peer.seal(*(content[at : at + 300] for at in range(0, 3000, 300))))
            await protocol.got(3000)
            assert protocol.data == content

    run_main(loop, main())


@pytest.mark.smoke
@pytest.mark.parametrize("make", [echoing, echoing_from_buffer])
def test_an_echo_of_any_sizes_cut_anywhere(loop: Loop, make: Any) -> None:
    chance = random.Random(7)
    sizes = [chance.choice((1, 2, 100, 1024, 16_384, 16_385, 40_000)) for _ in range(24)]

    async def main() -> None:
        async with shaken(make) as (_, protocol, peer):
            whole = bytearray()
            for count in (1, 3):
                for start in range(0, len(sizes), count):
                    pieces = [os.urandom(size) for size in sizes[start : start + count]]
                    content = b"".join(pieces)
                    await peer.send_cut(peer.seal(*pieces), chance)
                    assert await peer.read(len(content)) == content
                    whole += content
            assert protocol.data == whole

    run_main(loop, main())


def test_an_echo_over_streams(loop: Loop) -> None:
    chance = random.Random(8)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        server_context, client_context = self_signed()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            for _ in range(40):
                content = os.urandom(chance.choice((1, 1024, 16_384, 100_000)))
                writer.write(content)
                assert await reader.readexactly(len(content)) == content
            writer.close()
            await writer.wait_closed()

    run_main(loop, main())


def test_records_that_come_together_are_received_together(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (_, protocol, peer):
            pieces = [bytes([number]) * 100 for number in range(20)]
            await peer.send(peer.seal(*pieces))
            await protocol.got(2000)
            assert protocol.data == b"".join(pieces)
            assert protocol.count("data_received") == 1

    run_main(loop, main())


@pytest.mark.parametrize("size", [1, 100, RECORD - 1, RECORD, RECORD + 1])
def test_a_buffer_smaller_or_larger_than_a_record(loop: Loop, size: int) -> None:
    content = os.urandom(RECORD if size > 1 else 50)

    async def main() -> None:
        async with shaken(lambda: echoing_from_buffer(size)) as (_, protocol, peer):
            await peer.send(peer.seal(content, content))
            assert await peer.read(2 * len(content)) == 2 * content
            assert protocol.data == 2 * content
            assert protocol.count("buffer_updated") >= 2 * len(content) // size

    run_main(loop, main())


def test_half_a_record_is_nothing_yet(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (_, protocol, peer):
            records = peer.seal(b"question")
            await peer.send(records[:-1])
            await turns()
            assert protocol.calls == ["connection_made"]
            await peer.send(records[-1:])
            await protocol.got(8)
            assert protocol.data == b"question"

    run_main(loop, main())


@pytest.mark.parametrize("make", [Recorder, lambda: recording_in_buffer(10)])
def test_a_pause_holds_back_what_comes(loop: Loop, make: Any) -> None:
    async def main() -> None:
        async with shaken(make) as (transport, protocol, peer):
            transport.pause_reading()
            assert not transport.is_reading()
            for _ in range(5):
                await peer.send(peer.seal(b"x"))
                await turns()
            assert protocol.data == b""
            transport.resume_reading()
            await protocol.got(5)
            assert transport.is_reading()
            protocol.hooks["data_received"] = lambda _: transport.pause_reading()
            protocol.hooks["buffer_updated"] = lambda _: transport.pause_reading()
            await peer.send(peer.seal(b"y"))
            await protocol.got(6)
            await peer.send(peer.seal(b"z"))
            await turns()
            assert protocol.data == b"xxxxxy"
            transport.resume_reading()
            await protocol.got(7)

    run_main(loop, main())


def test_whoever_pauses_makes_the_peer_wait(loop: Loop, contexts: Any) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            transport.pause_reading()
            written = 0
            piece = bytes(1 << 20)

            async def flood() -> None:
                nonlocal written
                for _ in range(64):
                    await peer.send(peer.seal(piece))
                    written += len(piece)

            task = asyncio.create_task(flood())
            # Half of what it would write fits nowhere: it has to wait before its end.
            if contexts is ssl:
                is_full = lambda: transport.get_read_buffer_size() >= 256 * 1024  # noqa: E731
                await eventually(is_full, "it is full")
            await turns(200)
            assert transport.get_read_buffer_size() < 1 << 20
            assert not task.done()
            transport.resume_reading()
            await task
            await protocol.got(written)

    run_main(loop, main())


@pytest.mark.parametrize(
    "data",
    [b"bytes", bytearray(b"array"), memoryview(b"a view"), memoryview(b"every second")[::2]],
    ids=["bytes", "bytearray", "view", "gaps"],
)
def test_what_can_be_written(
    loop: Loop, contexts: Any, data: Any, reported: list[dict[str, Any]]
) -> None:
    is_native = contexts is not ssl and isinstance(loop, loop_pool.EventLoop)

    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            transport.write(b"")
            transport.write(data)
            if isinstance(data, memoryview) and not data.contiguous and not is_native:
                assert isinstance(await protocol.ended(), BufferError)
                return
            transport.write(data=b" and more")
            transport.writelines([b", in", bytearray(b" lines")])
            expected = bytes(data) + b" and more, in lines"
            assert await peer.read(len(expected)) == expected
            assert transport.get_write_buffer_size() == 0

    run_main(loop, main())


def test_items_larger_than_a_byte_are_written_whole(loop: Loop) -> None:
    data = array.array("i", range(1000))

    async def main() -> None:
        async with shaken(Recorder) as (transport, _, peer):
            transport.write(memoryview(data))
            transport.write(b".")
            assert await peer.read(len(data) * data.itemsize + 1) == data.tobytes() + b"."

    run_main(loop, main())


def test_what_cannot_be_written(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, _, peer):
            with pytest.raises(TypeError, match="expecting a bytes-like instance, got str"):
                transport.write("text")
            with pytest.raises(TypeError, match=r"write\(\) missing 1 required"):
                transport.write()
            with pytest.raises(TypeError, match=r"write\(\) takes 2 positional"):
                transport.write(b"a", b"b")
            with pytest.raises(TypeError, match="unexpected keyword argument 'date'"):
                transport.write(date=b"a")
            transport.write(b"fine")
            assert await peer.read(4) == b"fine"

    run_main(loop, main())


@pytest.mark.usefixtures("by_openssl")
def test_marks_at_zero_pause_and_resume_as_in_asyncio(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=0)
            for _ in range(4):
                transport.write(b"x")
            assert await peer.read(4) == b"xxxx"
            assert protocol.calls[:4] == [
                "connection_made",
                "pause_writing",
                "resume_writing",
                "pause_writing",
            ]

    run_main(loop, main())


@pytest.mark.parametrize("to_buffer", [True, False])
def test_a_protocol_is_replaced(loop: Loop, to_buffer: bool) -> None:
    async def main() -> None:
        make: Any = Recorder if to_buffer else BufferedRecorder
        other: Any = BufferedRecorder if to_buffer else Recorder
        async with shaken(make) as (transport, protocol, peer):
            await peer.send(peer.seal(b"one"))
            await protocol.got(3)
            second = other()
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            await peer.send(peer.seal(b"two"))
            await second.got(3)
            transport.set_protocol(protocol)
            await peer.send(peer.seal(b"three"))
            await protocol.got(8)
            assert (protocol.data, second.data) == (b"onethree", b"two")

    run_main(loop, main())


class Hesitant(ssl.SSLObject):
    """It wants something to be read before it writes for the first time."""

    hesitates = True

    def write(self, data: Any) -> int:
        if self.hesitates:
            self.hesitates = False
            raise ssl.SSLWantReadError
        return super().write(data)


def test_a_class_of_the_program_s_own_is_asked(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder, sslobject_class=Hesitant) as (transport, protocol, peer):
            transport.write(b"answer")
            assert transport.get_write_buffer_size() == 6
            await peer.send(peer.seal(b"question"))
            assert await peer.read(6) == b"answer"
            assert protocol.data == b"question"
            assert transport.get_write_buffer_size() == 0

    run_main(loop, main())


def test_tls_over_tls(loop: Loop) -> None:
    content = os.urandom(300_000)

    async def main() -> None:
        server_context, client_context = self_signed()
        near, far = stream_sockets("tcp")
        one, two = Recorder(), Recorder()
        (client, _), (server, _) = await asyncio.gather(
            loop.create_connection(
                lambda: one, sock=near, ssl=client_context, server_hostname="localhost"
            ),
            loop.connect_accepted_socket(lambda: two, far, ssl=server_context),
        )
        client, server = await asyncio.gather(
            loop.start_tls(client, one, client_context, server_hostname="localhost"),
            loop.start_tls(server, two, server_context, server_side=True),
        )
        assert client is not None
        assert server is not None
        client.write(content)
        server.write(content[::-1])
        await two.got(len(content))
        await one.got(len(content))
        assert two.data == content
        assert one.data == content[::-1]
        client.close()
        await one.ended()
        await two.ended()

    run_main(loop, main())


class OwnSocket(socket.socket):
    """A socket whose class changes what transports use, so that ours do not take it."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        return super().recv_into(*args, **kwargs)


def test_over_a_transport_of_asyncio_s(loop: Loop) -> None:
    content = os.urandom(300_000)

    def own(sock: socket.socket) -> socket.socket:
        return OwnSocket(fileno=sock.detach())

    async def main() -> None:
        async with shaken(echoing, wrap=own) as (_, protocol, peer):
            sent = asyncio.create_task(peer.send(peer.seal(content)))
            assert await peer.read(len(content)) == content
            await sent
            assert protocol.data == content

    run_main(loop, main())


@pytest.mark.usefixtures("by_openssl")
def test_the_identity_of_the_transport(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, _):
            assert isinstance(transport, sslproto._SSLProtocolTransport)
            assert protocol.transport is transport
            tls = transport._ssl_protocol
            assert isinstance(tls, sslproto.SSLProtocol)
            assert isinstance(tls, asyncio.BufferedProtocol)
            assert tls.max_size == 256 * 1024
            assert tls._transport.get_protocol() is tls

    run_main(loop, main())


@pytest.mark.loop_pool_only
@pytest.mark.usefixtures("by_openssl")
@pytest.mark.parametrize("make", [echoing, lambda: echoing_from_buffer(200_000)])
def test_the_ordinary_case_runs_nothing_of_asyncio_s(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """No method of the protocol for a message, and no buffer for a connection."""
    names = ("_write_appdata", "_do_write", "_do_read", "_control_ssl_reading", "buffer_updated")

    async def main() -> None:
        async with shaken(make) as (transport, protocol, peer):
            await peer.send(peer.seal(b"the client's last word of the handshake"))
            await protocol.got(39)

            def unexpected(*_: object) -> None:
                raise AssertionError

            with monkeypatch.context() as patch:
                for name in names:
                    patch.setattr(sslproto.SSLProtocol, name, unexpected)
                for size in (1, 100, 16_384, 100_000):
                    await peer.send_cut(peer.seal(bytes(size)), random.Random(size))
                    await protocol.got(size)
                    protocol.data.clear()
            assert len(transport._ssl_protocol._ssl_buffer) == 0

    run_main(loop, main())


@pytest.mark.parametrize("size", [1, 100, RECORD - 1, RECORD, RECORD + 1, 100_000])
def test_what_comes_is_given_as_bytes_objects_like_any_others(loop: Loop, size: int) -> None:
    async def main() -> None:
        given: list[bytes] = []
        recorder = Recorder(data_received=given.append)
        async with shaken(lambda: recorder) as (_, protocol, peer):
            data = os.urandom(size)
            for _ in range(5):
                await peer.send(peer.seal(data, b"", data))
                await peer.send(peer.seal(b""))
            await eventually(lambda: len(protocol.data) == 10 * size, "all has come")
        assert b"".join(given) == 10 * data
        for each in (*given, b""):
            assert type(each) is bytes
            assert sys.getsizeof(each) == sys.getsizeof(b"") + len(each)
            # C code may rely on a zero behind the content.
            end = id(each) + bytes.__basicsize__ - 1 + len(each)
            assert ctypes.string_at(end, 1) == b"\0"

    run_main(loop, main())
