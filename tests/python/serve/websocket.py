"""A WebSocket's client that shows each frame, and sends any; applications for it."""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ..support import HANG

if TYPE_CHECKING:
    from .server import App, Client, Response, Server

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

KEY = base64.b64encode(b"sixteen bytes ok").decode()

ACCEPT = base64.b64encode(
    hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
).decode()
"""What a server answers to the key."""

MASK = b"\x12\x34\xab\xff"


class Frame(NamedTuple):
    """A frame of the server's."""

    opcode: int
    payload: bytes
    fin: bool = True
    compressed: bool = False

    @property
    def code(self) -> int | None:
        """The code of a close."""
        return int.from_bytes(self.payload[:2]) if self.payload else None


def packed(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """A frame of the client's."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size = len(payload)
    bit = masked << 7
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    repeated = (MASK * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload) ^ int.from_bytes(repeated)
    return head + MASK + mixed.to_bytes(size)


class WebSocket:
    """A connection of a WebSocket. A context manager that closes it without a word."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()

    def ask(self, target: str = "/", *fields: tuple[str, str]) -> None:
        """Sends the handshake."""
        handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        handshake += [("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13")]
        self.client.request("GET", target, *handshake, *fields)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        """Sends a frame."""
        self.client.send(packed(opcode, payload, fin=fin, rsv=rsv))

    def text(self, text: str) -> None:
        """Sends a message."""
        self.send(TEXT, text.encode())

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Sends a close."""
        self.send(CLOSE, code.to_bytes(2) + reason.encode())

    def frame(self) -> Frame:
        """Reads a frame."""
        head = self._read(2)
        assert not head[1] & 0x80, "a server does not mask"
        size = head[1] & 0x7F
        if size == 126:
            size = int.from_bytes(self._read(2))
        elif size == 127:
            size = int.from_bytes(self._read(8))
        return Frame(head[0] & 15, self._read(size), bool(head[0] & 0x80), bool(head[0] & 0x40))

    def message(self) -> str | bytes:
        """Reads a message, whole, and inflated if it is compressed without a context."""
        first = frame = self.frame()
        assert first.opcode in {TEXT, BINARY}, first
        payload = frame.payload
        while not frame.fin:
            frame = self.frame()
            assert frame.opcode == CONTINUATION
            payload += frame.payload
        if first.compressed:
            payload = zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff")
        return payload.decode() if first.opcode == TEXT else payload

    def closed(self) -> int | None:
        """Reads the server's close, answers it, and waits for its end; returns the code."""
        frame = self.frame()
        assert frame.opcode == CLOSE, frame
        self.send(CLOSE, frame.payload[:2])
        assert self.client.is_closed()
        return frame.code

    def _read(self, size: int) -> bytes:
        data = self.client.file.read(size)
        assert len(data) == size, f"the connection ended after {data!r}"
        return data


def connect(
    server: Server, target: str = "/", *fields: tuple[str, str]
) -> tuple[WebSocket, Response]:
    """A new WebSocket, and the response to its handshake."""
    websocket = WebSocket(server.client())
    websocket.ask(target, *fields)
    return websocket, websocket.client.head()


def opened(server: Server, target: str = "/", *fields: tuple[str, str]) -> WebSocket:
    """A new WebSocket that is accepted."""
    websocket, response = connect(server, target, *fields)
    assert response.status == 101, response
    return websocket


# Applications

CONNECT = {"type": "websocket.connect"}
ACCEPT_IT = {"type": "websocket.accept"}


class Messages:
    """Accepts a WebSocket, keeps what it receives, and sends messages back."""

    def __init__(self, **accept: Any) -> None:
        self._accept = {**ACCEPT_IT, **accept}
        self.scopes: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.ended = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        assert await receive() == CONNECT
        await send(self._accept)
        while (message := await receive())["type"] == "websocket.receive":
            self.seen.append(message)
            await send({**message, "type": "websocket.send"})
        self.seen.append(message)
        self.ended.set()

    def disconnect(self) -> dict[str, Any]:
        """What it was told at its end."""
        assert self.ended.wait(HANG)
        return self.seen[-1]


def after_connect(*sends: dict[str, Any]) -> App:
    """An application that sends these messages to who connects."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        for message in sends:
            await send(message)

    return app


def text_of(message: dict[str, Any]) -> str | None:
    """The text of a message, of which the key `bytes` may be there too."""
    assert message.get("bytes") is None
    text: str | None = message.get("text")
    return text
