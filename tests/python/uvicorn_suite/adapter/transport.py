"""The client's end of a connection to a native server, with the face of the mocks of transports."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import time
from typing import Any, Protocol

from .server import HANG, support

SIOCOUTQ = 0x5411
"""Asks how many bytes the peer has not acknowledged (Linux)."""


class Server(Protocol):
    """What is at the other end."""

    @property
    def is_open(self) -> bool:
        """Whether the server still reads from the connection."""

    def settle(self) -> None:
        """Return when the server's loop has handled all that was sent, and sleeps."""

    def unread(self) -> int:
        """Bytes that the server has not taken out of its socket."""


class Transport:
    """The client's end, with the face of the tests' mocks of transports."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._closed = False
        self._has_sent_close = False
        self._sock: socket.socket | None = None

    def begin(self, sock: socket.socket, server: Server) -> None:
        """Be a connection."""
        sock.setblocking(False)
        self._sock = sock
        self._server = server

    def send(self, data: bytes) -> None:
        """Send, and read meanwhile. What a closed connection does not take is lost."""
        # A masked frame with a code, which is what the tests' client sends.
        self._has_sent_close |= b"\x88\x82" in data
        deadline = time.monotonic() + HANG
        while data and self._sock is not None and time.monotonic() < deadline:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                # The server may have stopped to read, which is not for us to judge.
                self._read()
                if self._server.unread():
                    return
            except OSError:
                return

    def send_eof(self) -> None:
        """Send nothing more."""
        assert self._sock is not None
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Close it."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def wait_until_acknowledged(self) -> None:
        """Return when all has arrived, or the server has stopped to read."""
        support.wait_for(
            lambda: (
                self._sock is None
                or _ioctl(self._sock.fileno(), SIOCOUTQ) == 0
                or self._server.unread() > 0
            ),
            "what was sent arrives",
        )

    @property
    def buffer(self) -> bytes:
        """What the server has sent."""
        self._server.settle()
        self._read()
        return bytes(self._data)

    def clear_buffer(self) -> None:
        """Forget what has come."""
        assert self.buffer is not None
        self._data.clear()

    @property
    def closed(self) -> bool:
        """Whether the server has ended the connection.

        A WebSocket's server says at once that nothing comes behind its close, and reads on.
        """
        is_websocket = self.buffer.startswith(b"HTTP/1.1 101 ")
        if is_websocket and self._closed and self._has_sent_close:
            # Now it is the client's turn, and the server's end comes with it (RFC 6455, 7.1.1).
            self.send_eof()
            self._server.settle()
        return self._closed and not (is_websocket and self._server.is_open)

    def is_closing(self) -> bool:
        """The same."""
        return self.closed

    @property
    def reading_paused(self) -> bool:
        """Whether the server leaves what was sent in its socket."""
        self._server.settle()
        return self._server.unread() > 0

    @property
    def read_paused(self) -> bool:
        """The same."""
        return self.reading_paused

    def _read(self) -> None:
        while self._sock is not None and not self._closed:
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            self._data += data
            self._closed = not data


def unread_of(sock: Any) -> int:
    """Bytes that have come for a socket, and that nobody has taken."""
    return _ioctl(sock.fileno(), termios.FIONREAD)


def _ioctl(fd: int, request: int) -> int:
    answer = fcntl.ioctl(fd, request, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
