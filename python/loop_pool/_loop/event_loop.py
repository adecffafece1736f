"""One event loop: the native core with asyncio's ``SelectorEventLoop``.

This module, ``signals``, ``socket_ops``, ``sendfile`` and ``executor_calls`` override asyncio's
private interface; ``asyncio_private`` has the parts that transports need. Compare these names first
for a new Python version:

==========================================  ======================================================
private name                                use here
==========================================  ======================================================
``events.Handle`` and its slots             ``call_soon`` creates real ones; the native half locates
                                            the slots at import (``src/py/asyncio/state.rs``)
``events.TimerHandle``,                     bases of the native handles
``events._ThreadSafeHandle``
``_add_reader``, ``_add_writer``,           overridden: they register with our reactor
``_remove_reader``, ``_remove_writer``
``_selector``                               an object with ``get_key`` only; a program may wrap its
                                            ``select``
``_add_callback``, ``_call_soon``,          overridden: they feed our ready queue
``_write_to_self``
``_ready``, ``_scheduled``                  overridden: snapshots, for tools that read them
``_debug``, ``_stopping``, ``_closed``      overridden: native properties
``_run_forever_setup``,                     called around the native run loop
``_run_forever_cleanup``
``_check_thread``, ``_check_callback``      called by the native half in debug mode; the first is
                                            overridden, for its message
``_ensure_fd_no_transport``,                called, and looked at, before a socket is waited for
``_transports``
``_sock_sendfile_native_impl``,             overridden in ``sendfile``: what waits, what lends a
``_sendfile_native``,                       descriptor, and what writes a file in pieces
``_sendfile_fallback``
``_make_socket_transport``,                 overridden: native transports and listeners, or
``_make_ssl_transport``,                    asyncio's own for sockets whose class is not plain;
``_start_serving``, ``_stop_serving``       TLS is in ``tls``, which lists what it uses
``_make_datagram_transport``,               overridden: native too, but for sockets that are not
``_make_read_pipe_transport``,              plain or of another family
``_make_write_pipe_transport``
``_current_handle``, ``_task_factory``      read and set as ``BaseEventLoop`` does
``base_events._format_handle``,             debug and error messages
``format_helpers._format_callback_source``
``TaskStepMethWrapper``, ``task_wakeup``    recognised by a sample (``task_callbacks``)
of ``_asyncio``
==========================================  ======================================================
"""

from __future__ import annotations

import asyncio
import collections
import socket
import sys
import threading
import warnings
import weakref
from asyncio import base_events, constants, events, format_helpers
from typing import TYPE_CHECKING, Any

from .. import _core
from . import asyncio_private, cross_loop_checks, cross_loop_wakeups
from .datagrams import DatagramTransport
from .descriptors import evict
from .executor_calls import CallsExecutor
from .http_transport import HTTPTransport
from .listeners import Listener
from .loop_base import LoopBase
from .pipes import ReadPipeTransport, WritePipeTransport
from .plain_sockets import DATAGRAM_FAMILIES, PLAIN_DATAGRAM, is_plain
from .reactor_selector import ReactorSelector
from .sendfile import SendsFiles
from .signals import HandlesSignals
from .socket_ops import SocketOps
from .task_callbacks import learn_task_callbacks
from .tls import SSLProtocol, start_tls
from .tls_transport import make_native
from .transports import StreamTransport, speaks_http
from .unrun import drop_aside

if TYPE_CHECKING:
    import contextvars
    import selectors
    from collections.abc import Callable


_TESTED = (3, 15)
if sys.version_info[:2] > _TESTED:
    warnings.warn(
        f"loop_pool {_core.__version__} has not been tested on Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}: it relies on private parts of asyncio",
        RuntimeWarning,
        stacklevel=3,
    )


class EventLoop(
    LoopBase, HandlesSignals, SocketOps, SendsFiles, CallsExecutor, asyncio.SelectorEventLoop
):
    """An asyncio event loop on a native reactor.

    It *is* an ``asyncio.BaseEventLoop``: everything not listed here is CPython's own code.
    ``call_soon``, ``call_soon_threadsafe``, ``call_later``, ``call_at``, ``time``,
    ``create_future`` and ``create_task`` are native.

    Args:
        selector: accepted for compatibility with ``asyncio.SelectorEventLoop``; it is closed and
            ignored, because the loop waits on its own reactor.

    Threads: like asyncio's loops, it belongs to the thread that runs it. ``call_soon_threadsafe``
    may be called from any thread. ``call_soon``, ``call_later``, ``call_at``, ``add_reader`` and
    ``add_writer`` from a foreign thread raise ``RuntimeError`` in debug mode where asyncio's do;
    otherwise they work and wake the loop.
    """

    if TYPE_CHECKING:
        # Parts of BaseEventLoop that typeshed leaves out.
        _current_handle: events.Handle | None

        def _run_forever_setup(self) -> None: ...
        def _run_forever_cleanup(self) -> None: ...

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.close()
        self._begin_lending()
        # Held by a thread that uses the loop's objects while nobody runs it.
        self._borrowing = threading.RLock()
        self._listeners: dict[socket.socket, Listener] = {}
        self._servers: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(ReactorSelector(self))  # type: ignore[arg-type]
        key = id(self)
        _open_loops[key] = weakref.ref(self, lambda _: _open_loops.pop(key, None))

    # -- a clock of the program's ----------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _CLOCK:
            self._look_at_clock()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in _CLOCK:
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        """Note whether the clock is the program's: then its turns ask for the time."""
        own, kind = vars(self), type(self)
        changes = _core._watch_clock(kind, EventLoop)
        _core._set_clock(
            self,
            changes,
            "time" in own or kind.time is not _time,
            "call_at" in own or kind.call_at is not _call_at,
            (selector := own.get("_selector")) is not None
            and (type(selector) is not ReactorSelector or "select" in vars(selector)),
        )

    def _time_of_base(self) -> float:
        """Return what asyncio's class says, of which the program has replaced something."""
        return super().time()

    def _select(self, timeout: float | None) -> float | None:
        """Call a selector that the program has wrapped; return how long it wants to wait."""
        own = vars(self)
        own["_asked"] = 0.0
        self._selector.select(timeout)  # type: ignore[attr-defined]
        asked: float | None = own["_asked"]
        return asked

    def __repr__(self) -> str:
        """Say which loop it is, as asyncio does not."""
        pool = self._pool
        if pool is None:
            which = f"at {id(self):#x}"
        else:
            which = f"index={self._pool_index} pool={id(pool):#x}"
        return (
            f"<{type(self).__name__} {which} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # -- running ---------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until ``stop()`` is called. As ``asyncio.loop.run_forever``."""
        self._look_at_clock()
        self._run_forever_setup()
        try:
            with self._borrowing:  # nobody begins any more: it says that it runs
                self._watch_signals()
            try:
                self._run()
            finally:
                self._unwatch_signals()
        finally:
            self._run_forever_cleanup()

    def close(self) -> None:
        """Close the loop; its descriptors and callbacks are released at once.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        for listener in self._listeners.values():
            listener.stop()
        self._listeners.clear()
        for server in self._servers:
            asyncio_private.let_clients_go(server)
        try:
            super().close()
        finally:
            with self._borrowing:
                unrun = self._close_core()
            _open_loops.pop(id(self), None)
            if unrun is not None:
                self._unrun = len(unrun) if _core._was_cut_short(self) else 0
                self._dropped = drop_aside(unrun)

    # -- debug mode ------------------------------------------------------------------------------

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode on or off. As ``asyncio.loop.set_debug``."""
        super().set_debug(enabled)
        if enabled:
            cross_loop_wakeups.watch()

    def _check_thread(self) -> None:
        try:
            super()._check_thread()  # type: ignore[misc]
        except RuntimeError as error:
            cross_loop_checks.explain_thread(error, self, sys._getframe(1))
            raise

    # -- transports ------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        self._ensure_fd_no_transport(sock)
        if not is_plain(sock):
            options = {} if context is None else {"context": context}
            return super()._make_socket_transport(  # type: ignore[misc, no-any-return]
                sock, protocol, waiter, extra=extra, server=server, **options
            )
        kind = HTTPTransport if speaks_http(protocol) else StreamTransport
        return kind(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        side, timeouts = (
            (server_side, server_hostname),
            (ssl_handshake_timeout, ssl_shutdown_timeout),
        )
        more = (waiter, extra, server, context)
        self._ensure_fd_no_transport(rawsock)
        native = make_native(self, rawsock, protocol, sslcontext, side, timeouts, *more)
        if native is not None:
            return native
        ssl_protocol = SSLProtocol(self, protocol, sslcontext, waiter, *side, True, *timeouts)
        self._make_socket_transport(
            rawsock, ssl_protocol, extra=extra, server=server, context=context
        )
        return ssl_protocol.app_transport

    _own_make_ssl_transport = staticmethod(_make_ssl_transport)
    """What a subclass may have overridden: then a server asks it, as asyncio's do."""

    start_tls = start_tls

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        self._ensure_fd_no_transport(sock)
        if not (
            sock.family in DATAGRAM_FAMILIES
            and sock.type == socket.SOCK_DGRAM
            and is_plain(sock, PLAIN_DATAGRAM)
        ):
            return super()._make_datagram_transport(  # type: ignore[misc, no-any-return]
                sock, protocol, address, waiter, extra
            )
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.ReadTransport:
        return ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.WriteTransport:
        return WritePipeTransport(self, pipe, protocol, waiter, extra)

    def _start_serving(  # noqa: PLR0917 - as asyncio's
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        if not is_plain(sock):
            options = {} if context is None else {"context": context}
            super()._start_serving(  # type: ignore[misc]
                protocol_factory, sock, sslcontext, server, backlog, *timeouts, **options
            )
            return
        listener = Listener(self, sock, protocol_factory, sslcontext, server, timeouts, context)
        if server is not None:
            asyncio_private.keep_clients(server)
            self._servers.add(server)
        listener.start()
        self._listeners[sock] = listener

    def _stop_serving(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock, None)
        if listener is not None:
            listener.stop()
        if sock.fileno() != -1:  # the program has not closed it
            super()._stop_serving(sock)  # type: ignore[misc]

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        super()._ensure_fd_no_transport(fd)  # type: ignore[misc]
        fileno = fd if isinstance(fd, int) else int(fd.fileno())
        if fileno > _MAX_DESCRIPTOR or self._evict(fileno):
            return
        transport = self._transport_at(fileno)
        if (
            isinstance(transport, asyncio.BaseTransport)
            and not transport.is_closing()
            and fileno not in self._lent
        ):
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    _evict = evict

    # -- asyncio's own ways into the ready queue -------------------------------------------------

    def _add_callback(self, handle: events.Handle) -> None:
        if not handle._cancelled:
            self._push_handle(handle)

    def _call_soon(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._push_handle(handle)
        return handle

    @property
    def _ready(self) -> collections.deque[events.Handle]:
        # asyncio's `close` clears what it gets, of which there may be very much.
        return collections.deque(() if self.is_closed() else self._queues()[0])

    @_ready.setter
    def _ready(self, value: object) -> None:
        """Ignore what ``BaseEventLoop.__init__`` sets."""

    @property
    def _scheduled(self) -> list[events.TimerHandle]:
        return [] if self.is_closed() else self._queues()[1]

    @_scheduled.setter
    def _scheduled(self, value: object) -> None:
        """Ignore what ``BaseEventLoop.__init__`` sets."""

    def set_task_factory(self, factory: Any) -> None:
        """Set the factory that ``create_task`` uses. As ``asyncio.loop.set_task_factory``."""
        super().set_task_factory(factory)
        self._has_task_factory = factory is not None
        self._eager = factory is asyncio.eager_task_factory

    def _report_native_exception(self, what: object, exception: BaseException) -> None:
        """Hand an exception of a transport's callback to the exception handler."""
        self.call_exception_handler(
            {"message": f"Exception in callback of {what!r}", "exception": exception}
        )

    def _report_slow(self, what: object, took: float) -> None:
        if took >= self.slow_callback_duration:
            base_events.logger.warning(  # type: ignore[attr-defined]
                "Executing %r took %.3f seconds", what, took
            )

    # -- called by the native run loop -----------------------------------------------------------

    def _run_handle_in_debug_mode(self, handle: events.Handle) -> None:
        """Run a handle as ``BaseEventLoop._run_once`` does in debug mode: timed and named."""
        if handle._cancelled:
            return
        try:
            self._current_handle = handle
            began = self.time()
            handle._run()
            took = self.time() - began
            if took >= self.slow_callback_duration:
                base_events.logger.warning(  # type: ignore[attr-defined]
                    "Executing %s took %.3f seconds",
                    base_events._format_handle(handle),  # type: ignore[attr-defined]
                    took,
                )
        finally:
            self._current_handle = None
            # An exception that a task keeps holds this frame: break the cycle through its handle.
            del handle

    def _report_callback_exception(
        self,
        handle: events.Handle,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        exception: BaseException,
    ) -> None:
        """Hand a callback's exception to the exception handler, as ``Handle._run`` does."""
        source = format_helpers._format_callback_source(callback, args, debug=self.get_debug())
        context: dict[str, Any] = {
            "message": f"Exception in callback {source}",
            "exception": exception,
            "handle": handle,
        }
        if handle._source_traceback:  # type: ignore[attr-defined]
            context["source_traceback"] = handle._source_traceback  # type: ignore[attr-defined]
        self.call_exception_handler(context)


_open_loops: dict[int, weakref.ref[EventLoop]] = {}
"""Every loop that was made and not closed, by its identity. Any thread adds and removes."""


def open_loops() -> list[EventLoop]:
    """Return every loop of the process that is not closed. Any thread."""
    loops = (reference() for reference in list(_open_loops.values()))
    return [loop for loop in loops if loop is not None and not loop.is_closed()]


def new_event_loop() -> EventLoop:
    """Return a new :class:`EventLoop`, without a pool.

    For ``asyncio.run(main(), loop_factory=loop_pool.new_event_loop)``, uvicorn's
    ``--loop loop_pool:new_event_loop``, anyio's and pytest-asyncio's loop factories.

    Raises:
        OSError: the process is out of descriptors.
    """
    return EventLoop()


_MAX_DESCRIPTOR = 2**31 - 1
"""The kernel's interface has no greater number."""

_CLOCK = frozenset({"time", "call_at", "_selector", "__class__"})
"""What a virtual clock replaces on a loop."""

_core._install_hot_methods(EventLoop)
_time, _call_at = EventLoop.time, EventLoop.call_at
learn_task_callbacks()
