"""WebSockets: frames and messages, of all sizes, compressed or not. On each kind."""

from __future__ import annotations

import asyncio
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, eventually, wait_for
from .websocket import (
    ACCEPT_IT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Messages,
    after_connect,
    connect,
    opened,
    packed,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1_000_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_messages_of_all_sizes(served: Served, messages: Messages, opcode: int, size: int) -> None:
    payload = ("ä" * size).encode()[:size] if opcode == BINARY else b"x" * size
    with served(messages) as server, opened(server) as websocket:
        sender = threading.Thread(target=websocket.send, args=(opcode, payload))
        sender.start()
        expected = payload.decode() if opcode == TEXT else payload
        assert websocket.message() == expected
        sender.join(HANG)
    (message, _) = messages.seen[0], messages.disconnect()
    key = "text" if opcode == TEXT else "bytes"
    assert message[key] == expected
    assert message.get("bytes" if opcode == TEXT else "text") is None


def test_text_is_unicode(served: Served, messages: Messages) -> None:
    text = "ä€\U0001f600\0"
    with served(messages) as server, opened(server) as websocket:
        websocket.text(text)
        assert websocket.message() == text


def test_fragments_are_one_message(served: Served, messages: Messages) -> None:
    data = "ä€\U0001f600".encode()
    with served(messages) as server, opened(server) as websocket:
        websocket.send(TEXT, data[:1], fin=False)  # in the middle of a character
        websocket.send(PING, b"between")
        assert websocket.frame() == Frame(PONG, b"between")
        websocket.send(CONTINUATION, data[1:4], fin=False)
        websocket.send(CONTINUATION, b"", fin=False)
        websocket.send(CONTINUATION, data[4:])
        assert websocket.message() == data.decode()
        websocket.send(BINARY, b"\xff", fin=False)
        websocket.send(CONTINUATION, b"\xfe")
        assert websocket.message() == b"\xff\xfe"


def test_frames_byte_by_byte(served: Served, messages: Messages) -> None:
    with served(messages) as server, opened(server) as websocket:
        for byte in packed(TEXT, b"some text") + packed(BINARY, bytes(200)):
            websocket.client.send(bytes([byte]))
        assert websocket.message() == "some text"
        assert websocket.message() == bytes(200)


def test_many_messages_in_one_write(served: Served, messages: Messages) -> None:
    count = 500
    with served(messages) as server, opened(server) as websocket:
        data = b"".join(packed(TEXT, b"%d" % number) for number in range(count))
        sender = threading.Thread(target=websocket.client.send, args=(data,))
        sender.start()
        assert [websocket.message() for _ in range(count)] == [str(n) for n in range(count)]
        sender.join(HANG)


def test_pings_are_answered_by_the_server(served: Served, messages: Messages) -> None:
    with served(messages) as server, opened(server) as websocket:
        for payload in (b"", b"one", b"x" * 125):
            websocket.send(PING, payload)
            assert websocket.frame() == Frame(PONG, payload)
        websocket.send(PONG, b"nobody asked")
        websocket.text("still there")
        assert websocket.message() == "still there"
    assert [text_of(message) for message in messages.seen[:-1]] == ["still there"]


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ({"text": "text"}, Frame(TEXT, b"text")),
        ({"bytes": b"\xff"}, Frame(BINARY, b"\xff")),
        ({"text": "text", "bytes": None}, Frame(TEXT, b"text")),
        ({"text": None, "bytes": b"\xff"}, Frame(BINARY, b"\xff")),
        ({"text": ""}, Frame(TEXT, b"")),
        ({"bytes": b""}, Frame(BINARY, b"")),
    ],
)
def test_what_an_application_may_send(
    served: Served, message: dict[str, Any], frame: Frame
) -> None:
    app = after_connect(ACCEPT_IT, {"type": "websocket.send", **message})
    with served(app) as server, opened(server) as websocket:
        assert websocket.frame() == frame


# What breaks the protocol


def fails(served: Served, code: int, *frames: bytes, **options: Any) -> dict[str, Any]:
    """The server closes with the code; returns what the application is told."""
    messages = Messages()
    with served(messages, **options) as server, opened(server) as websocket:
        websocket.client.send(b"".join(frames))
        frame = websocket.frame()
        assert (frame.opcode, frame.code) == (CLOSE, code)
        websocket.client.rest()
        disconnect = messages.disconnect()
    assert [message["type"] for message in messages.seen] == ["websocket.disconnect"]
    return disconnect


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1002, [packed(TEXT, b"x", masked=False)]),
        (1002, [packed(3, b"x")]),
        (1002, [packed(11, b"x")]),
        (1002, [packed(TEXT, b"x", rsv=1)]),
        (1002, [packed(CONTINUATION, b"x")]),
        (1002, [packed(TEXT, b"x", fin=False), packed(TEXT, b"y")]),
        (1002, [packed(PING, b"x", fin=False)]),
        (1002, [packed(PING, b"x" * 126)]),
        (1002, [packed(CLOSE, b"x")]),
        (1002, [packed(CLOSE, (999).to_bytes(2))]),
        (1002, [packed(CLOSE, (1005).to_bytes(2))]),
        (1007, [packed(TEXT, b"\xff")]),
        (1007, [packed(TEXT, b"\xc3", fin=False), packed(CONTINUATION, b"x")]),
    ],
)
def test_what_is_no_frame(served: Served, code: int, frames: list[bytes]) -> None:
    fails(served, code, *frames)


def test_a_message_that_is_too_large(served: Served) -> None:
    assert fails(served, 1009, packed(BINARY, bytes(1001)), ws_max_size=1000)["code"] == 1009
    parts = [packed(BINARY, bytes(400), fin=False)]
    parts += [packed(CONTINUATION, bytes(400), fin=False)] * 2
    assert fails(served, 1009, *parts, ws_max_size=1000)["code"] == 1009


def test_a_message_as_large_as_may_be(served: Served, messages: Messages) -> None:
    with served(messages, ws_max_size=1000) as server, opened(server) as websocket:
        for _ in range(2):
            websocket.send(BINARY, bytes(1000))
            assert websocket.message() == bytes(1000)
        websocket.send(BINARY, bytes(600), fin=False)
        websocket.send(CONTINUATION, bytes(400))
        assert websocket.message() == bytes(1000)


# Compression

OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")


def deflated(data: bytes) -> bytes:
    """A compressed message, without a context, in a window that any server takes."""
    compressor = zlib.compressobj(wbits=-9)
    packed_data = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return packed_data.removesuffix(b"\0\0\xff\xff")


def test_compression_if_the_client_offers_it(served: Served, messages: Messages) -> None:
    text = "hello " * 1000
    offer = (OFFER[0], f"{OFFER[1]}; server_no_context_takeover")
    with served(messages) as server:
        websocket, response = connect(server, "/", offer)
        with websocket:
            agreed = response.field("sec-websocket-extensions")
            assert agreed.startswith("permessage-deflate")
            for _ in range(3):
                websocket.send(TEXT, deflated(text.encode()), rsv=4)
                frame = websocket.frame()
                assert frame.compressed
                assert len(frame.payload) < len(text) // 10
                inflated = zlib.decompressobj(wbits=-15).decompress(frame.payload + b"\0\0\xff\xff")
                assert inflated.decode() == text
            websocket.text("not compressed")
            assert websocket.message() == "not compressed"
    assert [text_of(message) for message in messages.seen[:3]] == [text] * 3


def test_no_compression_if_the_client_does_not_offer_it(served: Served, messages: Messages) -> None:
    with served(messages) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.all("sec-websocket-extensions") == []
            websocket.text("hello " * 1000)
            assert not websocket.frame().compressed


def test_no_compression_if_it_is_switched_off(served: Served, messages: Messages) -> None:
    with served(messages, ws_per_message_deflate=False) as server:
        websocket, response = connect(server, "/", OFFER)
        with websocket:
            assert response.all("sec-websocket-extensions") == []
            websocket.text("hello")
            assert not websocket.frame().compressed


def test_a_compressed_message_counts_as_large_as_it_is(served: Served) -> None:
    """So that a small one cannot fill the memory."""
    messages = Messages()
    with served(messages, ws_max_size=1000) as server:
        with opened(server, "/", OFFER) as websocket:
            websocket.send(BINARY, deflated(bytes(1_000_000)), rsv=4)
            assert websocket.frame().code == 1009
        assert messages.disconnect()["code"] == 1009


def test_what_does_not_inflate(served: Served) -> None:
    messages = Messages()
    with served(messages) as server, opened(server, "/", OFFER) as websocket:
        websocket.send(BINARY, b"\xff\xff\xff\xff", rsv=4)
        frame = websocket.frame()
        assert frame.opcode == CLOSE
        assert frame.code in {1002, 1007}


# Pings of the server


def test_the_server_pings(served: Served, messages: Messages) -> None:
    options = {"ws_ping_interval": 0.05, "ws_ping_timeout": HANG}
    with served(messages, **options) as server, opened(server) as websocket:
        for _ in range(3):
            ping = websocket.frame()
            assert ping.opcode == PING
            websocket.send(PONG, ping.payload)
        websocket.text("still there")
        while (frame := websocket.frame()).opcode == PING:
            websocket.send(PONG, frame.payload)
        assert frame == Frame(TEXT, b"still there")


def test_a_client_that_does_not_answer_is_closed(served: Served, messages: Messages) -> None:
    options = {"ws_ping_interval": 0.05, "ws_ping_timeout": 0.1}
    with served(messages, **options) as server, opened(server) as websocket:
        assert websocket.frame().opcode == PING
        frame = websocket.frame()
        while frame.opcode == PING:
            frame = websocket.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1011)
        assert websocket.client.is_closed()
        assert messages.disconnect()["type"] == "websocket.disconnect"


@pytest.mark.parametrize("interval", [None, 0.0])
def test_no_pings(served: Served, messages: Messages, interval: float | None) -> None:
    options = {"ws_ping_interval": interval, "ws_ping_timeout": 0.01}
    with served(messages, **options) as server, opened(server) as websocket:
        websocket.client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            websocket.client.sock.recv(1)


# Back-pressure


def test_send_waits_for_a_slow_client(served: Served) -> None:
    piece, count = bytes(1024 * 1024), 64
    stalled = threading.Event()
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await receive()
        await send(ACCEPT_IT)
        for _ in range(count):
            sending = asyncio.ensure_future(send({"type": "websocket.send", "bytes": piece}))
            _, waits = await asyncio.wait({sending}, timeout=0.3)
            if waits:
                stalled.set()
            await sending
            sent += 1

    with served(app, ws_per_message_deflate=False) as server, opened(server) as websocket:
        assert stalled.wait(HANG), "it sends what nobody takes"
        assert sent < count
        for _ in range(count):
            assert websocket.message() == piece


def test_messages_for_a_slow_application_stay_in_the_kernel(served: Served) -> None:
    piece, count = packed(BINARY, bytes(1024 * 1024)), 64
    go = threading.Event()
    received = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        await receive()
        await send(ACCEPT_IT)
        await eventually(go.is_set, "it may receive")
        while (await receive())["type"] == "websocket.receive":
            received += 1

    with served(app, ws_ping_interval=None) as server, opened(server) as websocket:
        sock = websocket.client.sock
        sock.settimeout(0.3)
        sent = 0
        try:
            while sent < len(piece) * count:
                sent += sock.send(piece[sent % len(piece) :])
        except TimeoutError:
            pass
        assert sent < len(piece) * count, "the server takes what nobody receives"
        sock.settimeout(HANG)
        go.set()
        websocket.client.send(piece[sent % len(piece) :])
        websocket.close()
        websocket.client.rest()
    assert received == sent // len(piece) + 1


@pytest.mark.parametrize("size", [4, 100_000])
def test_whatever_comes_at_once_waits_for_a_slow_application(served: Served, size: int) -> None:
    """More messages than may wait, compressed, with pings between them and a close behind."""
    count = 100
    payloads = [number.to_bytes(4) * (size // 4) for number in range(count)]
    answered = threading.Event()
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        for number in range(count + 1):
            if number == 2 * count // 3:
                await eventually(answered.is_set, "the ping before is answered")
            seen.append(await receive())

    frames = [packed(BINARY, deflated(payload), rsv=4) for payload in payloads]
    frames.insert(count // 2, packed(PING, b"ping"))
    with served(app, ws_ping_interval=None) as server:
        offer = ("Sec-WebSocket-Extensions", "permessage-deflate")
        with opened(server, "/", offer) as websocket:
            websocket.client.send(b"".join([*frames, packed(CLOSE, (1000).to_bytes(2))]))
            assert websocket.frame() == Frame(PONG, b"ping")
            answered.set()
            assert websocket.closed() == 1000
    assert [message.get("bytes") for message in seen[:-1]] == payloads
    assert seen[-1]["type"] == "websocket.disconnect"
    assert seen[-1]["code"] == 1000


# Other loops


def test_a_broadcast_over_two_loops(served: Served) -> None:
    """Each client gets all messages of a sender whole and in order, from whichever loop."""
    sends: set[Any] = set()
    count, each = 6, 50

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        sends.add(send)
        while (message := await receive())["type"] == "websocket.receive":
            for other in [*sends]:
                await other({"type": "websocket.send", "text": message["text"]})
        sends.discard(send)

    with served(app, loops=2, ws_per_message_deflate=False) as server:
        websockets = [opened(server) for _ in range(count)]
        wait_for(lambda: len(sends) == count, "all are there")
        for number in range(each):
            for sender, websocket in enumerate(websockets):
                websocket.text(f"{sender} {number} " + "x" * 500)
        for websocket in websockets:
            got: dict[str, list[int]] = {}
            for _ in range(count * each):
                message = websocket.message()
                assert isinstance(message, str)
                sender_text, number_text, filling = message.split()
                assert filling == "x" * 500
                got.setdefault(sender_text, []).append(int(number_text))
            assert got == {str(sender): [*range(each)] for sender in range(count)}
        for websocket in websockets:
            websocket.client.close()


def test_receive_on_another_loop(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        here = asyncio.get_running_loop()
        other = next(loop for loop in loop_pool.current_pool().loops if loop is not here)
        await loop_pool.spawn(Messages()(scope, receive, send), loop=other)

    with served(app, loops=2) as server, opened(server) as websocket:
        for number in range(50):
            websocket.text(str(number))
            assert websocket.message() == str(number)
        websocket.close()
        assert websocket.frame().code == 1000
