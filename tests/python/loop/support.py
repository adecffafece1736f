"""What the tests of one loop share."""

from __future__ import annotations

import contextlib
import socket


def fill(sock: socket.socket) -> int:
    """Sends through a non-blocking socket until it takes no more; returns how much."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    return sent
