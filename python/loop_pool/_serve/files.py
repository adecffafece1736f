"""Responses out of files, for the HTTP server in Rust: ASGI's messages that name one.

``http.response.pathsend`` and ``http.response.zerocopysend``. A small file is read at once, and is
a body like any other. A larger one is sent by the kernel, if the transport of the connection can do
that here and now: there is no TLS, its loop is the one that runs, and no other response has to
leave first. Otherwise it is read in pieces. Files are opened and read by the threads of the loop's
executor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .._core import HTTPRequest

PATHSEND = "http.response.pathsend"
NAMES_A_FILE = (PATHSEND, "http.response.zerocopysend")

SMALL = 64 * 1024
"""Bytes of a file that is read at once, with its opening."""

PIECE = 128 * 1024
"""Bytes that are read at once of others."""


class _Part(NamedTuple):
    """Bytes of a file."""

    file: Any
    """What has a ``fileno()``."""
    start: int
    length: int
    name: object
    """For errors."""


async def send_file(request: HTTPRequest, message: Any) -> None:
    """Send the part of a body that a message names.

    Raises:
        OSError: the file cannot be opened or read.
        RuntimeError: the response is not valid, or the file became shorter meanwhile.
        ValueError, TypeError: the message is not one of ASGI.
    """
    if message["type"] != PATHSEND:
        await _send_given(request, message)
        return
    loop, path = asyncio.get_running_loop(), os.fspath(message["path"])
    opening = loop.run_in_executor(None, _opened, path)
    try:
        file, size, content = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise
    if content is not None:
        await request.send({"type": "http.response.body", "body": content})
        return
    try:
        await _send(request, _Part(file, 0, size, path), more=False)
    finally:
        file.close()


def _opened(path: Any) -> tuple[io.FileIO, int, bytes | None]:
    """Open a file; return it with its size, or closed and with its content if that is small."""
    # Nobody is waited for who might open the other end of a pipe.
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    try:
        size = _size(file.fileno(), path)
        if size > SMALL:
            return file, size, None
        content = _read(file.fileno(), 0, size)
        file.close()
    except BaseException:
        file.close()
        raise
    return file, size, content


def _close(opening: asyncio.Future[tuple[io.FileIO, int, bytes | None]]) -> None:
    """Close a file that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


def _size(descriptor: int, name: object) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", name)
    return status.st_size


async def _send_given(request: HTTPRequest, message: Any) -> None:
    """Send bytes of a file that the application has opened."""
    part, position = _part_of(message)
    more = bool(message.get("more_body", False))
    if part.length <= SMALL:
        loop, descriptor = asyncio.get_running_loop(), part.file.fileno()
        content = await loop.run_in_executor(None, _read, descriptor, part.start, part.length)
        if len(content) < part.length:
            raise _shorter(part)
        await request.send({"type": "http.response.body", "body": content, "more_body": more})
    else:
        await _send(request, part, more=more)
    # Without an offset it is as for whoever reads a file.
    is_read = message.get("offset") is None
    _go_to(message["file"], part.start + part.length if is_read else position)


def _part_of(message: Any) -> tuple[_Part, int]:
    """Return what a message with an open file names, and where in the file that is now."""
    file = message["file"]
    descriptor: int = file if isinstance(file, int) else file.fileno()
    offset, count = message.get("offset"), message.get("count")
    for name, value in (("offset", offset), ("count", count)):
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    size = _size(descriptor, file)
    position = file.tell() if hasattr(file, "tell") else os.lseek(descriptor, 0, os.SEEK_CUR)
    start = position if offset is None else offset
    left = max(size - start, 0)
    length = left if count is None else min(left, count)
    return _Part(_Descriptor(descriptor), start, length, file), position


def length_of(message: Any) -> int:
    """Return how many bytes a message that names a file is to send. Before it is sent."""
    try:
        if message["type"] == PATHSEND:
            return os.stat(message["path"]).st_size
        return _part_of(message)[0].length
    except OSError, ValueError, TypeError, LookupError, AttributeError:
        return 0  # nothing is sent


class _Descriptor:
    """A file that ``loop.sendfile`` takes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def _go_to(file: Any, position: int) -> None:
    if hasattr(file, "seek"):
        file.seek(position)
    else:
        descriptor: int = file if isinstance(file, int) else file.fileno()
        os.lseek(descriptor, position, os.SEEK_SET)


async def _send(request: HTTPRequest, part: _Part, *, more: bool) -> None:
    goes = request._begin_file(part.length, more)
    if goes is None:
        return
    if goes and part.length:
        sent = 0
        transport = request._lend(part.length)
        if transport is not None:
            with contextlib.suppress(asyncio.SendfileNotAvailableError):
                sent = await _lend(request, transport, part)
        await _send_pieces(request, part, sent)
    if not request._is_gone:
        await request._end_file(more)


async def _lend(request: HTTPRequest, transport: Any, part: _Part) -> int:
    """Let the kernel send a part; return how many bytes it has sent.

    Raises:
        asyncio.SendfileNotAvailableError: it cannot, and has sent nothing.
    """
    loop = asyncio.get_running_loop()
    try:
        if not transport.is_closing():
            return await loop.sendfile(
                transport, part.file, part.start, part.length, fallback=False
            )
    except OSError as error:
        if not (transport.is_closing() or isinstance(error, (ConnectionError, TimeoutError))):
            raise
        transport.abort()
    # The application hears of it by `receive`.
    request._lose()
    return 0


async def _send_pieces(request: HTTPRequest, part: _Part, sent: int) -> None:
    """Send a part from its byte ``sent`` on."""
    loop, descriptor = asyncio.get_running_loop(), part.file.fileno()
    while sent < part.length and not request._is_gone:
        size = min(PIECE, part.length - sent)
        piece = await loop.run_in_executor(None, _read, descriptor, part.start + sent, size)
        if not piece:
            raise _shorter(part)
        await request._piece(piece)
        sent += len(piece)


def _shorter(part: _Part) -> RuntimeError:
    return RuntimeError(f"{part.name!r} became shorter while it was sent")


def _read(descriptor: int, offset: int, size: int) -> bytes:
    """Read so many bytes, or all that there are."""
    pieces = []
    while size and (piece := os.pread(descriptor, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
