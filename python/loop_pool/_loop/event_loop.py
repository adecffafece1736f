"""One event loop: the native core under asyncio's own ``SelectorEventLoop``.

This module overrides asyncio's private interface, with ``sendfile``; ``asyncio_private`` borrows
the little that transports need besides. What it uses, and where a new Python version has to be
compared first:

==========================================  ======================================================
private name                                use here
==========================================  ======================================================
``events.Handle`` and its slots             ``call_soon`` makes real ones; the native half finds
                                            the slots by trial (``src/py/asyncio/state.rs``)
``events.TimerHandle``,                     bases of the native handles
``events._ThreadSafeHandle``
``_add_reader``, ``_add_writer``,           overridden: they register with our reactor
``_remove_reader``, ``_remove_writer``
``_selector``                               a stand-in that answers ``get_key``; a program may wrap
                                            its ``select``
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
``_ensure_resolved``,                       called by ``sock_connect`` and its like, as asyncio's do
``base_events._check_ssl_socket``,
``base_events._HAS_IPv6``
``_sock_sendfile_native_impl``,             overridden in ``sendfile``: what waits, what lends a
``_sendfile_native``,                       descriptor, and what writes a file in pieces
``_sendfile_fallback``
``_make_socket_transport``,                 overridden: native transports and listeners, or
``_make_ssl_transport``,                    asyncio's own for sockets whose class is not plain;
``_start_serving``, ``_stop_serving``       TLS is in ``tls``, which lists what it uses
``_make_datagram_transport``,               overridden: native too, but for sockets that are not
``_make_read_pipe_transport``,              plain or of another family
``_make_write_pipe_transport``
``_handle_signal``                          overridden: other loops may handle it too (``signals``)
``_current_handle``, ``_task_factory``,     read and set as ``BaseEventLoop`` does
``_signal_handlers``, ``_csock``
``base_events._format_handle``,             debug and error messages
``format_helpers._format_callback_source``
``TaskStepMethWrapper``, ``task_wakeup``    recognised by a sample (``_learn_task_callbacks``)
of ``_asyncio``
==========================================  ======================================================
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import selectors
import socket
import sys
import threading
import warnings
import weakref
from asyncio import base_events, constants, events, format_helpers
from typing import TYPE_CHECKING, Any

from .. import _core
from .._core import SocketOperation as _SocketOperation
from . import asyncio_private, cross_loop_checks, signals
from .datagrams import DatagramTransport
from .descriptors import evict
from .listeners import Listener
from .pipes import ReadPipeTransport, WritePipeTransport
from .sendfile import SendsFiles
from .tls import SSLProtocol, start_tls
from .transports import StreamTransport

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator, Sequence

    from .._pool.pool import Pool
    from .signals import PoolSignals


_TESTED = (3, 15)
if sys.version_info[:2] > _TESTED:
    warnings.warn(
        f"loop_pool {_core.__version__} has not been tested on Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}: it builds on private parts of asyncio",
        RuntimeWarning,
        stacklevel=3,
    )


class _ReactorSelector:
    """Stands where ``BaseSelectorEventLoop`` keeps its selector: the reactor waits instead.

    It answers what asyncio asks of a selector outside the run loop: what a descriptor is
    registered for (``repr`` of a transport).
    """

    def __init__(self, core: _core.LoopCore) -> None:
        self._core = weakref.ref(core)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As ``selectors.BaseSelector.get_key``.

        Raises:
            KeyError: nothing waits for ``fileobj``.
        """
        core = self._core()
        sides = None if core is None else core._registered(fileobj)
        if sides is None:
            raise KeyError(f"{fileobj!r} is not registered")
        reader, writer = sides
        events = (selectors.EVENT_READ if reader is not None else 0) | (
            selectors.EVENT_WRITE if writer is not None else 0
        )
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return selectors.SelectorKey(fileobj, fd, events, (reader, writer))

    def select(self, timeout: float | None = None) -> list[Any]:
        """Say how long the turn is to wait. Called by what a program has put in its place."""
        core = self._core()
        if core is not None:
            vars(core)["_asked"] = timeout
        return []

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        core = getattr(self, "_core", lambda: None)()
        if name == "select" and isinstance(core, EventLoop):
            core._look_at_clock()

    def close(self) -> None:
        """Do nothing: the core closes the reactor."""


class EventLoop(_core.LoopCore, SendsFiles, asyncio.SelectorEventLoop):
    """An asyncio event loop on a native reactor.

    It *is* an ``asyncio.BaseEventLoop``: whatever is not mentioned here is CPython's own code.
    ``call_soon``, ``call_soon_threadsafe``, ``call_later``, ``call_at``, ``time``,
    ``create_future`` and ``create_task`` are native.

    Args:
        selector: accepted so that the class can stand in for ``asyncio.SelectorEventLoop``; it is
            closed at once and never asked: the loop waits on its own reactor.

    Threads: as asyncio's loops, it belongs to the thread that runs it. ``call_soon_threadsafe``
    may be called from any thread; ``call_soon``, ``call_later``, ``call_at``, ``add_reader`` and
    ``add_writer`` from a foreign thread raise ``RuntimeError`` in debug mode where asyncio's do,
    and otherwise work and wake the loop.
    """

    _pool: Pool | None = None
    """The pool that the loop belongs to."""
    _pool_index: int
    """Its place among the loops of that pool."""
    _unrun: int = 0
    """Callbacks that it did not get to before its pool's time was up."""
    _dropped: threading.Event | None = None
    """Set when another thread has dropped those."""
    _done_future: asyncio.Future[None] | None = None
    """A future that is done, by which native streams wake their tasks."""

    if TYPE_CHECKING:
        # Parts of BaseEventLoop that typeshed leaves out.
        _csock: socket.socket
        _signal_handlers: dict[int, events.Handle]
        _current_handle: events.Handle | None

        def _run_forever_setup(self) -> None: ...
        def _run_forever_cleanup(self) -> None: ...
        async def _ensure_resolved(
            self, address: Any, **arguments: Any
        ) -> Sequence[tuple[Any, ...]]: ...

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.close()
        self._begin_lending()
        # Held by a thread that uses the loop's objects while nobody runs it.
        self._borrowing = threading.RLock()
        self._listeners: dict[socket.socket, Listener] = {}
        self._servers: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(_ReactorSelector(self))  # type: ignore[arg-type]
        key = id(self)
        _open_loops[key] = weakref.ref(self, lambda _: _open_loops.pop(key, None))

    def _name(self) -> str:
        """What logs call it: ``loop-pool-0`` and so on."""
        return repr(self) if self._pool is None else self._pool._members[self._pool_index].name

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
            and (type(selector) is not _ReactorSelector or "select" in vars(selector)),
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
                self._dropped = _drop_aside(unrun)

    # -- debug mode ------------------------------------------------------------------------------

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode on or off. As ``asyncio.loop.set_debug``."""
        super().set_debug(enabled)
        if enabled:
            cross_loop_checks.watch()

    def _check_thread(self) -> None:
        try:
            super()._check_thread()  # type: ignore[misc]
        except RuntimeError as error:
            cross_loop_checks.explain_thread(error, self, sys._getframe(1))
            raise

    # -- signals ---------------------------------------------------------------------------------

    def add_signal_handler[*Ts](
        self, sig: int, callback: Callable[[*Ts], object], *args: *Ts
    ) -> None:
        """Have a handler called when a signal comes. As ``asyncio.loop``'s method.

        On a loop of a pool that is not in the main thread, loop 0 catches the signal, and every
        loop that has a handler for it calls its own, on its own thread.

        Raises:
            RuntimeError: the signal cannot be caught; or the loop is in another thread than the
                main one, and no loop of a pool whose loop 0 is there.
        """
        if (signals := self._signals_of_others()) is None:
            super().add_signal_handler(sig, callback, *args)
        else:
            signals.add(self, sig, callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler; say whether there was one. As ``asyncio.loop``'s method."""
        if (signals := self._signals_of_others()) is not None:
            return signals.remove(self, sig)
        removed = super().remove_signal_handler(sig)
        if removed and self._pool is not None:
            self._pool._signals.catch(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._watch_signals()
        return removed

    def _handle_signal(self, sig: int) -> None:
        super()._handle_signal(sig)  # type: ignore[misc]
        if self._pool is not None:
            self._pool._signals.call(sig)

    def _handles(self, sig: int) -> bool:
        return sig in self._signal_handlers

    def _signals_of_others(self) -> PoolSignals | None:
        """Return where the handlers of a loop are that is not loop 0 of its pool."""
        if self._pool is None or self._pool_index == 0:
            return None
        return self._pool._signals

    def _watch_signals(self) -> None:
        signals.watch(self._csock.fileno())

    def _unwatch_signals(self) -> None:
        # With handlers left, the loop keeps watching, as asyncio's does.
        if not self._signal_handlers and not (self._pool is not None and self._pool._signals):
            signals.unwatch(self._csock.fileno())

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
        if not _is_plain(sock):
            options = {} if context is None else {"context": context}
            return super()._make_socket_transport(  # type: ignore[misc, no-any-return]
                sock, protocol, waiter, extra=extra, server=server, **options
            )
        return StreamTransport(self, sock, protocol, waiter, extra, server, context)

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
        ssl_protocol = SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
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
            sock.family in _DATAGRAM_FAMILIES
            and sock.type == socket.SOCK_DGRAM
            and _is_plain(sock, _PLAIN_DATAGRAM)
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
        if not _is_plain(sock):
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

    def _threads_of_executor(self) -> list[threading.Thread]:
        """Return those of the default executor, as far as it shows them."""
        return list(getattr(self._default_executor, "_threads", ()))

    def _forget_default_executor(self) -> None:
        """Leave an executor that did not end in time to itself; closing does not wait for it."""
        self._default_executor = None

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

    # -- sockets ---------------------------------------------------------------------------------
    #
    # Each tries at once. What would block, the core puts among the readers or writers of the loop,
    # and the coroutine awaits that. It forgets it in the end: an exception's traceback would keep
    # the operation, its buffer, and in a cycle the exception itself. In debug mode, which checks
    # more, asyncio's own code runs.

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive at most ``n`` bytes; ``b""`` at the end. As ``asyncio.loop.sock_recv``."""
        if self._debug:
            return await super().sock_recv(sock, n)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recv", n)
        try:
            got: bytes = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into ``buf``; return how much. As ``asyncio.loop.sock_recv_into``."""
        if self._debug:
            return await super().sock_recv_into(sock, buf)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recv_into", buf)
        try:
            got: int = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram; return it and its sender. As ``asyncio.loop.sock_recvfrom``."""
        if self._debug:
            return await super().sock_recvfrom(sock, bufsize)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recvfrom", bufsize)
        try:
            got: tuple[bytes, Any] = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Any, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into ``buf``; return its size and its sender.

        As ``asyncio.loop.sock_recvfrom_into``.
        """
        if self._debug:
            return await super().sock_recvfrom_into(sock, buf, nbytes)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_read(sock, "recvfrom_into", buf, nbytes or len(buf))
        try:
            got: tuple[int, Any] = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return got

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of ``data``. As ``asyncio.loop.sock_sendall``."""
        if self._debug:
            await super().sock_sendall(sock, data)
            return
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        rest = self._start_send_all(sock, data)
        try:
            if rest is not None:
                await rest
        finally:
            del rest

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send a datagram; return how much was sent. As ``asyncio.loop.sock_sendto``."""
        if self._debug:
            return await super().sock_sendto(sock, data, address)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_write(sock, "sendto", data, address)
        try:
            sent: int = await now if type(now) is _SocketOperation else now
        finally:
            del now
        return sent

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect, after resolving ``address``. As ``asyncio.loop.sock_connect``."""
        if self._debug:
            await super().sock_connect(sock, address)
            return
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if sock.family == socket.AF_INET or (
            base_events._HAS_IPv6 and sock.family == socket.AF_INET6  # type: ignore[attr-defined]
        ):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            _, _, _, _, address = resolved[0]
        attempt = self._start_connect(sock, address)
        try:
            if attempt is not None:
                await attempt
        finally:
            del attempt

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return it and its address. As ``asyncio.loop.sock_accept``."""
        if self._debug:
            return await super().sock_accept(sock)
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        now = self._start_accept(sock)
        try:
            accepted: tuple[socket.socket, Any] = (
                await now if type(now) is _SocketOperation else now
            )
        finally:
            del now
        return accepted

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


def _drop_aside(unrun: _core.Unrun) -> threading.Event:
    """Drop callbacks in a thread that nobody has to wait for; return what is set when it has."""
    dropped = threading.Event()

    def drop() -> None:
        unrun.drop()
        dropped.set()

    try:
        # `threading.Thread.start` would wait until the thread runs, which may be long.
        _thread.start_new_thread(drop, ())
    except RuntimeError:  # out of threads, or the interpreter is ending
        dropped.set()
    return dropped


_Socket = socket.socket
_PLAIN = ("recv", "recv_into", "send", "sendmsg", "close", "fileno", "getpeername")
_PLAIN_DATAGRAM = ("recvfrom", "send", "sendto", "close", "fileno", "getpeername", "getsockname")
_DATAGRAM_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def _is_plain(sock: object, names: tuple[str, ...] = _PLAIN) -> bool:
    """Whether a socket is the kernel's and no more: its class changes none of its methods."""
    kind = type(sock)
    return kind is _Socket or (
        issubclass(kind, _Socket)
        and all(getattr(kind, name) is getattr(_Socket, name) for name in names)
    )


def new_event_loop() -> EventLoop:
    """Return a new :class:`EventLoop`, without a pool.

    For ``asyncio.run(main(), loop_factory=loop_pool.new_event_loop)``, uvicorn's
    ``--loop loop_pool:new_event_loop``, anyio's and pytest-asyncio's loop factories.

    Raises:
        OSError: the process is out of descriptors.
    """
    return EventLoop()


def _learn_task_callbacks() -> None:
    """Show the core what the C ``Task`` passes to ``call_soon``, by running one on a fake loop.

    If a Python version changes it, tasks are run through handles like any callback: slower, and
    right.
    """

    class Recorder:
        """As much of a loop as a task needs."""

        def __init__(self) -> None:
            self.posted: list[tuple[Callable[..., object], tuple[object, ...]]] = []

        def call_soon(
            self,
            callback: Callable[..., object],
            *args: object,
            context: contextvars.Context | None = None,
        ) -> None:
            self.posted.append((callback, args))

        def get_debug(self) -> bool:
            return False

    class NoFuture:
        def __await__(self) -> Generator[Any]:
            yield 0

    async def wait_for(future: asyncio.Future[None]) -> None:
        await future

    async def fail() -> None:
        await NoFuture()

    recorder: Any = Recorder()
    running = events._get_running_loop()
    current = asyncio.current_task(running) if running is not None else None
    if current is not None:
        asyncio._leave_task(running, current)  # type: ignore[arg-type]
    events._set_running_loop(recorder)
    try:
        future: asyncio.Future[None] = asyncio.Future(loop=recorder)
        future_iterator = type(future.__await__())
        task = asyncio.Task(wait_for(future), loop=recorder)
        (step, _) = recorder.posted.pop()
        step()
        future.set_result(None)
        (wakeup, args) = recorder.posted.pop()
        wakeup(*args)
        task.result()
        failed = asyncio.Task(fail(), loop=recorder)
        recorder.posted.pop()[0]()
        (failing, _) = recorder.posted.pop()
        failing()
        error = failed.exception()
    finally:
        events._set_running_loop(running)
        if current is not None:
            asyncio._enter_task(running, current)  # type: ignore[arg-type]
    _core._learn_task_callbacks(step, wakeup, task, task.done, failing, error)
    _core._stop_counting(asyncio.Task, asyncio.Future, type(step), future_iterator)


_MAX_DESCRIPTOR = 2**31 - 1
"""The kernel's interface has no greater number."""

_CLOCK = frozenset({"time", "call_at", "_selector", "__class__"})
"""What a virtual clock replaces on a loop."""

_core._install_hot_methods(EventLoop)
_time, _call_at = EventLoop.time, EventLoop.call_at
_learn_task_callbacks()
