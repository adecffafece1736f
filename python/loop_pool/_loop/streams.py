"""asyncio's streams with native code for each message.

The classes inherit from asyncio's, which run once per connection. ``_core`` adds native methods for
each message: the reader's ``read`` family and ``feed_data``, the protocol's ``data_received``, the
writer's ``write`` and ``drain``. A stream belongs to its loop's thread. A writer used on another
loop passes its calls to its own loop (``thread_affinity``); a reader used there is memory-safe, but
otherwise undefined, as in asyncio.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import sys
import warnings
import weakref
from asyncio import format_helpers
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private
from .event_loop import EventLoop
from .thread_affinity import await_on_loop
from .transports import StreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

# What an idle connection costs is mostly the objects of this module. So all that each has is in
# slots, and is set through another name than `self`: for every name that a class sets on `self`,
# CPython reserves room in each instance, beside the slots.

LIMIT = 2**16
"""Bytes that a reader keeps before it may pause its transport, if nothing else is said."""


def _done_future(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
    """Return the future by which tasks of a native loop are woken; ``None`` for other loops.

    Each loop has its own, so that no two threads touch the same.
    """
    if type(loop) is not EventLoop:
        return None
    future = loop._done_future
    if future is None:
        future = loop._done_future = asyncio.Future(loop=loop)
        future.set_result(None)
    return future


class _Buffer(bytearray):
    """A copy of what a reader has, which forgets it there too when it is cleared.

    ``loop.start_tls`` moves what has come before the handshake in this way.
    """

    __slots__ = ("_reader",)

    _reader: StreamReader

    def clear(self) -> None:
        """Forget all of it, in the reader too."""
        self._reader._clear_buffer()
        super().clear()


class StreamReader(_core.StreamReaderCore, asyncio.StreamReader):
    """An ``asyncio.StreamReader`` whose buffer is native."""

    __slots__ = ("_exception", "_loop", "_transport", "_waiter", "_woken")

    if TYPE_CHECKING:
        _exception: BaseException | None
        _loop: asyncio.AbstractEventLoop
        _source_traceback: Any
        _transport: Any
        _waiter: asyncio.Future[None] | None
        _woken: asyncio.Future[None] | None

    def __init__(self, limit: int = LIMIT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        if loop is None:
            loop = asyncio.get_event_loop()
        this = self
        this._limit = int(min(limit, sys.maxsize))
        this._loop = loop
        this._exception = None
        this._transport = None
        this._waiter = None
        this._woken = _done_future(loop)
        if loop.get_debug():
            this._source_traceback = format_helpers.extract_stack(sys._getframe(1))

    @property
    def _buffer(self) -> _Buffer:
        copy = _Buffer(self._copy_buffer())
        copy._reader = self
        return copy


class StreamWriter(asyncio.StreamWriter):
    """An ``asyncio.StreamWriter`` whose ``write`` and ``drain`` are native."""

    __slots__ = ("_loop", "_protocol", "_reader", "_transport")

    if TYPE_CHECKING:
        _loop: asyncio.AbstractEventLoop
        _protocol: Any
        _reader: asyncio.StreamReader | None
        _transport: Any

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        reader: asyncio.StreamReader | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        assert reader is None or isinstance(reader, asyncio.StreamReader)
        this = self
        this._transport = transport
        this._protocol = protocol
        this._reader = reader
        this._loop = loop

    async def _drain_later(self) -> None:
        """What ``drain`` returns when there is something to wait for, or to raise."""
        await self._on_its_loop(super().drain)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed. As ``asyncio.StreamWriter.wait_closed``."""
        await self._on_its_loop(super().wait_closed)

    async def start_tls(self, *args: Any, **kwds: Any) -> None:
        """Upgrade the connection to TLS. As ``asyncio.StreamWriter.start_tls``."""
        await self._on_its_loop(super().start_tls, *args, **kwds)

    def _on_its_loop(
        self, method: Callable[..., Coroutine[Any, Any, None]], *args: Any, **kwds: Any
    ) -> Coroutine[Any, Any, None]:
        loop = self._loop
        if not isinstance(loop, EventLoop) or _core._is_owner(loop):
            return method(*args, **kwds)
        if loop.get_debug():
            asyncio_private.check_thread(loop)
        return await_on_loop(loop, functools.partial(method, *args, **kwds))

    def __del__(self, warnings: Any = warnings) -> None:
        transport = getattr(self, "_transport", None)
        if transport is None:
            return
        loop = self._loop
        if isinstance(loop, EventLoop) and loop.is_running() and not _core._is_owner(loop):
            # Nobody chose the thread that has dropped it: that is no misuse, in debug mode either.
            if not transport.is_closing():
                loop.call_soon_threadsafe(transport.close)
                warnings.warn(f"unclosed {self!r}", ResourceWarning)
            return
        super().__del__(warnings)


class _Served:
    """What is called when the task that serves a connection has ended."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, protocol: StreamProtocol, transport: Any) -> None:
        self._protocol = protocol
        self._transport = transport

    def __call__(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._transport.close()
            return
        exc = task.exception()
        if exc is not None:
            self._protocol._report(exc, self._transport)


class StreamProtocol(asyncio.StreamReaderProtocol):
    """An ``asyncio.StreamReaderProtocol`` which feeds its reader natively.

    What few connections need, or need late, is made when it is needed: an idle connection has none.
    """

    __slots__ = (
        "_client_connected_cb",
        "_connection_lost",
        "_loop",
        "_paused",
        "_stream_reader_wr",
        "_strong_reader",
        "_task",
        "_transport",
    )

    _close_waiter: asyncio.Future[None] | None = None
    _drain_waiters: Any = ()
    _ended_by: BaseException | None = None
    _over_ssl = False
    _reject_connection = False

    if TYPE_CHECKING:
        _client_connected_cb: Callable[[Any, Any], Any] | None
        _connection_lost: bool
        _loop: asyncio.AbstractEventLoop
        _paused: bool
        _source_traceback: Any
        _stream_reader_wr: weakref.ref[StreamReader] | None
        _strong_reader: Any
        _task: asyncio.Task[Any] | None
        _transport: Any

    def __init__(
        self,
        stream_reader: StreamReader | None,
        client_connected_cb: Callable[[Any, Any], Any] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        this = self
        this._loop = asyncio.get_event_loop() if loop is None else loop
        this._paused = False
        this._connection_lost = False
        this._stream_reader_wr = None if stream_reader is None else weakref.ref(stream_reader)
        if stream_reader is not None and stream_reader._source_traceback is not None:
            this._source_traceback = stream_reader._source_traceback
        this._client_connected_cb = client_connected_cb
        # Until the connection is made.
        this._strong_reader = None if client_connected_cb is None else stream_reader
        this._task = None
        this._transport = None

    @property
    def _closed(self) -> asyncio.Future[None]:
        this = self
        waiter = this._close_waiter
        if waiter is None:
            waiter = this._close_waiter = this._loop.create_future()
            if this._connection_lost:
                this._settle(waiter)
        return waiter

    def _settle(self, waiter: asyncio.Future[None]) -> None:
        """Tell how the connection has ended; nobody needs to ask."""
        if waiter.done():
            return
        if self._ended_by is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(self._ended_by)
            waiter.exception()

    def connection_made(self, transport: Any) -> None:
        """Introduce the reader to the transport, and call whoever serves the connection."""
        this = self
        this._transport = transport
        reader: StreamReader | None = asyncio_private.reader_of(self)
        if reader is not None:
            reader.set_transport(transport)
        if transport.get_extra_info("sslcontext") is not None:
            this._over_ssl = True
        serve = self._client_connected_cb
        if serve is None:
            return
        assert reader is not None
        writer = StreamWriter(transport, self, reader, self._loop)
        try:
            served = serve(reader, writer)
        except Exception as exc:
            self._report(exc, transport)
            this._strong_reader = None
            return
        if asyncio.iscoroutine(served):
            task = this._task = self._loop.create_task(served)
            # This runs in the transport's context already: no copy is needed.
            context = getattr(transport, "_context", None)
            task.add_done_callback(_Served(self, transport), context=context)
        this._strong_reader = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the reader, and whoever waits for the end or to write."""
        reader: StreamReader | None = asyncio_private.reader_of(self)
        if reader is not None:
            if exc is None:
                reader.feed_eof()
            else:
                reader.set_exception(exc)  # type: ignore[arg-type]
        this = self
        if exc is not None:
            this._ended_by = exc
        if self._close_waiter is not None:
            self._settle(self._close_waiter)
        asyncio_private.StreamFlowControl.connection_lost(self, exc)  # type: ignore[arg-type]
        this._stream_reader_wr = None
        this._task = None
        this._transport = None

    async def _drain_helper(self) -> None:
        this = self
        if not this._drain_waiters:
            this._drain_waiters = collections.deque()
        try:
            await super()._drain_helper()  # type: ignore[misc]
        finally:
            if not self._drain_waiters:
                del self._drain_waiters

    def __del__(self) -> None:
        """Nothing is left to ask, as it is in asyncio's."""

    def _report(self, exc: BaseException, transport: Any) -> None:
        self._loop.call_exception_handler(
            {
                "message": "Unhandled exception in client_connected_cb",
                "exception": exc,
                "transport": transport,
            }
        )
        transport.close()


_core._install_reader_methods(StreamReader)
_core._install_writer_methods(StreamWriter, StreamProtocol, StreamTransport)
# Every loop makes them at each message.
_core._stop_counting(StreamReader, StreamWriter, _core.StreamRead, _core.StreamReady)


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    limit: int = LIMIT,
    **kwds: Any,
) -> tuple[StreamReader, StreamWriter]:
    """Connect, and return a native reader and writer. As ``asyncio.open_connection``.

    Call it from a coroutine on any loop, in a pool or not: the streams belong to its thread.

    Args:
        host: as for ``asyncio.open_connection``.
        port: likewise.
        limit: bytes that the reader buffers before it pauses the transport, and the most that
            ``readline`` and ``readuntil`` return without the separator.
        kwds: as for ``loop.create_connection`` (``ssl``, ``sock``, ``local_addr``, ...).

    Raises:
        OSError: the connection cannot be established.
    """
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit, loop)
    protocol = StreamProtocol(reader, loop=loop)
    where: Any = (host, port)
    transport, _ = await loop.create_connection(lambda: protocol, *where, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def listen(
    client_connected_cb: Callable[
        [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None
    ],
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Listen on the running loop alone, with native streams. As ``asyncio.start_server``."""
    loop = asyncio.get_running_loop()

    def factory() -> StreamProtocol:
        return StreamProtocol(StreamReader(limit, loop), client_connected_cb, loop)

    return await loop.create_server(factory, host, port, **kwds)
