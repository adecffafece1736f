"""The private parts of asyncio that transports, listeners and streams use.

``event_loop`` lists those that the event loop overrides and calls. Compare both lists first for a
new Python version.

==========================================  ======================================================
private name                                use here
==========================================  ======================================================
``transports._FlowControlMixin``            base of transports that are written to: ``sendfile``
                                            asks for it
``_protocol_paused`` of transports          whether writing is paused, for ``sendfile``
``base_events._set_nodelay``                TCP sockets send small messages at once
``futures._set_result_unless_cancelled``    wakes whoever waits for a connection
``futures._get_loop``                       the loop of a future of any make
``constants._SendfileMode``                 how a transport takes part in ``sendfile``
``Server._attach``, ``Server._detach``,     a server knows its open connections
``_waiters``
``Server._clients``                         a set of ours: see ``_Clients``
``_check_thread``                           debug mode refuses calls from another thread
``mixins._LoopBoundMixin._get_loop``,       the function that finds a primitive on another loop than
and the ``_loop`` of a primitive            its own; and which that is
the names ``RuntimeError`` in ``mixins``    what makes their errors for the wrong loop, before the
and ``ValueError`` in ``tasks``             builtin of that name: see ``cross_loop_checks``
``tasks._wait``                             in debug mode: looked at as it begins
``BaseEventLoop._thread_id``                which thread runs a loop
``_unix_server_sockets``,                   of a loop, in a forked child
``_close_self_pipe``, ``_make_self_pipe``
``Task._fut_waiter``,                       what a task waits for, and who waits for a future: for
``Future._asyncio_awaited_by``,             ``loop-pool ps``, on the thread of the task's loop
``_GatheringFuture._children``
``StreamReaderProtocol._stream_reader``     done natively: a stream's data are given to its reader
and ``_stream_reader_wr``;                  without a Python frame, if the two classes are as known
``StreamReader._wakeup_waiter``,            (``streams_are_known``,
``_buffer``, ``_eof``, ``_limit``,          ``src/py/asyncio/stream_feed.rs``)
``_paused``, ``_transport``, ``_waiter``
``StreamReader._limit``, ``_eof``,          set and read by asyncio's own code, which our readers
``_paused``, ``_exception``, ``_loop``,     inherit as far as it is not native; ``loop.start_tls``
``_transport``, ``_waiter``, ``_buffer``,   moves ``_buffer``
``_wait_for_data``, ``_source_traceback``
``StreamWriter._transport``,                likewise, of our writers
``_protocol``, ``_reader``, ``_loop``
``StreamReaderProtocol._stream_reader``,    likewise, of their protocols; ``connection_made`` is
``_stream_reader_wr``, ``_strong_reader``,  ours, as asyncio's would make a writer of asyncio's;
``_client_connected_cb``, ``_over_ssl``,    ``__init__``, ``connection_lost`` too, as asyncio's make
``_connection_lost``, ``_paused``,          a future and a deque that few connections need
``_closed``, ``_task``, ``_transport``,
``_drain_waiters``, ``_drain_helper``,
``_reject_connection``,
``FlowControlMixin``
==========================================  ======================================================
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import base_events, constants, futures, mixins, streams, tasks, transports
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

FlowControlMixin = transports._FlowControlMixin
StreamFlowControl = streams.FlowControlMixin
SendfileMode = constants._SendfileMode
get_loop_code = mixins._LoopBoundMixin._get_loop.__code__  # type: ignore[attr-defined]
ensure_future_code = tasks.ensure_future.__code__
wait_code = tasks._wait.__code__  # type: ignore[attr-defined]
set_nodelay = base_events._set_nodelay  # type: ignore[attr-defined]
set_result_unless_cancelled = futures._set_result_unless_cancelled  # type: ignore[attr-defined]


def is_writing_paused(transport: Any) -> bool:
    """Whether a transport has told its protocol to pause writing."""
    return bool(transport._protocol_paused)


def attach(server: Any, transport: asyncio.BaseTransport) -> None:
    """Let a server know an open connection."""
    server._attach(transport)


def detach(server: Any, transport: asyncio.BaseTransport) -> None:
    """Let a server forget a connection, and end its wait if it was the last one."""
    if getattr(server, "_waiters", ()) is None:
        # It was ended once: a finalizer is late.
        server._clients.discard(transport)
    else:
        server._detach(transport)


def detach_gone(server: Any) -> None:
    """End the wait of a server that had a connection which is no object any more."""
    server._detach(server)


class _Clients(set[Any]):
    """The open connections of a server: strongly, but for those that its loop keeps weakly.

    Weak references to all, as asyncio has them, are a tenth of what an idle connection takes.
    """

    _weakly: weakref.WeakSet[Any] | None = None

    def keep(self, transport: asyncio.BaseTransport, strongly: bool) -> None:
        """Keep one strongly, or weakly."""
        if strongly:
            if self._weakly is not None:
                self._weakly.discard(transport)
            super().add(transport)
        else:
            if self._weakly is None:
                self._weakly = weakref.WeakSet()
            self._weakly.add(transport)
            super().discard(transport)

    def discard(self, transport: object) -> None:
        """Forget one."""
        super().discard(transport)
        if self._weakly is not None:
            self._weakly.discard(transport)

    def everyone(self) -> set[Any]:
        """Return all, in a set of their own."""
        return set(self) | set(self._weakly or ())

    def copy(self) -> set[Any]:
        """Return all as the server closes and aborts them."""
        return {getattr(each, "_for_server", each) for each in self.everyone()}

    def __len__(self) -> int:
        return super().__len__() + len(self._weakly or ())

    def __bool__(self) -> bool:
        return len(self) > 0


def keep_clients(server: Any) -> None:
    """Let a server that has no connection yet keep them in a set of ours."""
    if not server._clients:
        server._clients = _Clients()


def keep_client(server: Any, transport: asyncio.BaseTransport, strongly: bool) -> None:
    """Let a server keep a connection strongly, or weakly."""
    clients = server._clients
    if isinstance(clients, _Clients):
        clients.keep(transport, strongly)


def let_clients_go(server: Any) -> None:
    """Undo ``keep_clients`` when the loop closes, which keeps its connections no more.

    Nor do they keep the server, which may listen: no end of theirs will come to it any more.
    """
    clients = server._clients
    clients = clients.everyone() if isinstance(clients, _Clients) else clients.copy()
    server._clients = weakref.WeakSet(clients)
    for client in clients:
        client._server = None


def check_thread(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse to go on in a thread that does not run ``loop``.

    Raises:
        RuntimeError: it does not.
    """
    loop._check_thread()  # type: ignore[attr-defined]


def runs_elsewhere(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether another thread than the calling one runs ``loop``."""
    thread: int | None = loop._thread_id  # type: ignore[attr-defined]
    return thread is not None and thread != threading.get_ident()


def make_errors_by(
    runtime_error: Callable[..., RuntimeError], value_error: Callable[..., ValueError]
) -> None:
    """Let functions make the errors of primitives and futures on the wrong loop.

    asyncio's functions look the classes up among the names of their modules first. Both modules
    only call them; a version of Python that was not compared may do more.
    """
    if sys.version_info < (3, 16):
        mixins.RuntimeError = runtime_error  # type: ignore[attr-defined]
        tasks.ValueError = value_error  # type: ignore[attr-defined]


def future_loop(future: Any) -> asyncio.AbstractEventLoop | None:
    """The loop of a future, of whichever make; ``None``: it does not say."""
    try:
        loop: asyncio.AbstractEventLoop | None = futures._get_loop(future)  # type: ignore[attr-defined]
    except AttributeError:
        return None
    return loop


def forget_unix_sockets(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop remove no path of a unix socket on which it listens."""
    loop._unix_server_sockets.clear()  # type: ignore[attr-defined]


def make_new_self_pipe(loop: asyncio.AbstractEventLoop) -> None:
    """Give a loop another pair of sockets by which signals wake it."""
    loop._close_self_pipe()  # type: ignore[attr-defined]
    loop._make_self_pipe()  # type: ignore[attr-defined]


def reader_of(protocol: asyncio.StreamReaderProtocol) -> Any:
    """The reader that a protocol feeds, which it keeps weakly; ``None`` if it has gone."""
    return protocol._stream_reader  # type: ignore[attr-defined]


def loop_of(primitive: Any) -> asyncio.AbstractEventLoop | None:
    """The loop that a primitive of asyncio's is bound to; ``None``: not yet to any."""
    loop: asyncio.AbstractEventLoop | None = primitive._loop
    return loop


def awaited(task: Any) -> Any:
    """Return the future that a task waits for, or None. On the thread of the task's loop.

    Raises:
        AttributeError: it is a task of another make, which does not tell.
    """
    return task._fut_waiter


def awaiters(future: Any) -> frozenset[Any]:
    """Return the futures and tasks that wait for one. On the thread of the future's loop."""
    try:
        return future._asyncio_awaited_by or frozenset()
    except AttributeError:
        return frozenset()


def gathered(future: Any) -> list[Any] | None:
    """Return the futures that ``asyncio.gather`` waits for, if this is its future."""
    try:
        return list(future._children)
    except AttributeError:
        return None


_FEEDING = (
    ("StreamReaderProtocol", "data_received", "_stream_reader feed_data"),
    ("StreamReaderProtocol", "_stream_reader", "_stream_reader_wr"),
    (
        "StreamReader",
        "feed_data",
        "_eof _buffer extend _wakeup_waiter _transport _paused len _limit pause_reading"
        " NotImplementedError",
    ),
    ("StreamReader", "_wakeup_waiter", "_waiter cancelled set_result"),
)
"""The functions that give data to a reader: class, name, and the names in their code, in order."""


def streams_are_known() -> bool:
    """Whether asyncio's streams take data as those versions do with which our way was compared.

    If not, or if a program has replaced one of the functions, they are called as ever.
    """
    if sys.version_info >= (3, 16):
        return False
    for owner, name, names in _FEEDING:
        function = vars(getattr(asyncio, owner)).get(name)
        code = getattr(getattr(function, "fget", function), "__code__", None)
        if code is None or code.co_filename != streams.__file__:
            return False
        if code.co_names != tuple(names.split()):
            return False
    return True
