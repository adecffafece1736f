"""What the tests of asyncio's own streams share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio import StreamReader, StreamReaderProtocol
from collections.abc import AsyncIterator
from typing import Any

from ..support import eventually, stream_sockets, turns


class OtherReader(StreamReader):
    """As asyncio's."""


class OtherProtocol(StreamReaderProtocol):
    """As asyncio's."""


CLASSES: dict[str, tuple[type, type]] = {
    "own": (StreamReaderProtocol, StreamReader),
    "other-reader": (StreamReaderProtocol, OtherReader),
    "other-protocol": (OtherProtocol, StreamReader),
}
"""Protocols and readers: asyncio's own, which go a short way, and others, which do not."""


class Stream:
    """One end of a connection as a reader, and a blocking socket at the other."""

    def __init__(self, reader: Any, protocol: Any, transport: Any, far: socket.socket) -> None:
        self.reader = reader
        self.protocol = protocol
        self.transport = transport
        self.far = far

    async def got(self, count: int) -> None:
        """Returns once that many bytes wait to be read."""
        await eventually(lambda: len(self.reader._buffer) >= count, f"{count} bytes")


@contextlib.asynccontextmanager
async def streaming(classes: tuple[type, type], limit: int = 1 << 16) -> AsyncIterator[Stream]:
    """A connection whose near end is a reader; aborted at the end if it is still open."""
    loop = asyncio.get_running_loop()
    near, far = stream_sockets("tcp")
    with far:
        # Nobody else keeps the reader.
        stream = Stream(classes[1](limit=limit, loop=loop), None, None, far)
        stream.transport, stream.protocol = await loop.create_connection(
            lambda: classes[0](stream.reader, loop=loop), sock=near
        )
        try:
            yield stream
        finally:
            stream.transport.abort()
            await turns()
