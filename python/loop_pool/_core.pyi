"""The native half of `loop_pool` (`src/py/`). Programs use what `loop_pool` exports.

`python -m mypy.stubtest loop_pool` compares this file with the module.
"""

import asyncio
import contextvars
import socket
import ssl
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import CodeType
from typing import Any, Never, NoReturn, Self, final, overload

from _typeshed import FileDescriptorLike, ReadableBuffer, StrPath, WriteableBuffer
from typing_extensions import disjoint_base

from ._loop.event_loop import EventLoop
from ._loop.tls_trust import TrustGiven
from ._pool.spawn import PoolTask

__all__ = [
    "DatagramCore",
    "HTTPConnection",
    "HTTPOperation",
    "HTTPReadiness",
    "HTTPRequest",
    "HTTPServer",
    "Handle",
    "ListenerCore",
    "LoopCore",
    "PoolCore",
    "PoolTaskCore",
    "PoolTaskWait",
    "ServerCore",
    "SocketOperation",
    "StreamCore",
    "StreamRead",
    "StreamReaderCore",
    "StreamReady",
    "TLSConnection",
    "TLSSettings",
    "TLSStreamInfo",
    "TimerHandle",
    "Unrun",
    "_ThreadSafeHandle",
    "__version__",
    "_after_fork_in_child",
    "_call_as_owner",
    "_cores",
    "_current_task",
    "_end_run_at",
    "_enter",
    "_http_stream",
    "_install_datagram_methods",
    "_install_filtered_methods",
    "_install_hot_methods",
    "_install_reader_methods",
    "_install_stream_methods",
    "_install_tls_methods",
    "_install_writer_methods",
    "_is_blocked",
    "_is_owner",
    "_learn_streams",
    "_learn_task_callbacks",
    "_leave",
    "_loop_count",
    "_needs_gil",
    "_register",
    "_set_clock",
    "_set_pool_task_class",
    "_spawn",
    "_spawn_on",
    "_stack",
    "_stop_counting",
    "_tasks",
    "_tls_client_settings",
    "_tls_server_settings",
    "_tls_stream",
    "_unregister",
    "_was_cut_short",
    "_watch_clock",
]

__version__: str
"""The version of the package, from `Cargo.toml`."""

@disjoint_base
class LoopCore:
    """The native half of an event loop. Use `loop_pool.EventLoop`.

    `call_soon`, `call_soon_threadsafe`, `call_at`, `call_later`, `create_future`, `create_task`,
    `get_debug`, `time`, `add_reader`, `add_writer`, `remove_reader` and `remove_writer` are added
    to the subclass by `_install_hot_methods`, with asyncio's own signatures.

    Args:
        args: ignored, so that a subclass may pass its own arguments.
        kwargs: likewise.

    Raises:
        OSError: the process is out of descriptors.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _run(self) -> None:
        """Run turns in the calling thread, which owns the loop meanwhile, until it is stopped.

        Raises:
            RuntimeError: the loop runs already, or is closed.
            SystemExit: a callback raised it; the other callbacks stay queued.
            KeyboardInterrupt: likewise, or a signal handler did.
        """

    def _push_handle(self, handle: events.Handle) -> None:
        """Append a handle to the ready queue; from another thread, post it. Any thread."""

    def _write_to_self(self) -> None:
        """End the loop's present wait. Any thread."""

    def _add_reader[*Ts](
        self,
        fd: FileDescriptorLike,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> events.Handle:
        """As `BaseSelectorEventLoop._add_reader`. Any thread.

        Watches `fd` level-triggered; an earlier callback is replaced and cancelled.

        Args:
            fd: a descriptor, or an object with `fileno()`.
            callback: called with `args`.
            args: for the callback.
            context: what it runs in; None: a copy of the current one. (asyncio: since 3.15.)

        Returns:
            The handle that runs each time `fd` is readable.

        Raises:
            RuntimeError: the loop is closed.
            ValueError: `fd` is no descriptor and has no usable `fileno()`.
            OSError: the kernel refuses; `PermissionError` for a regular file.
        """

    def _add_writer[*Ts](
        self,
        fd: FileDescriptorLike,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> events.Handle:
        """As `BaseSelectorEventLoop._add_writer`; otherwise as `_add_reader`. Any thread."""

    def _remove_reader(self, fd: FileDescriptorLike) -> bool:
        """As `BaseSelectorEventLoop._remove_reader`. Any thread.

        Returns:
            Whether there was a callback, which is cancelled now. False on a closed loop.

        Raises:
            ValueError: `fd` is no descriptor, nor an object that was registered before it closed.
            OSError: the kernel refuses.
        """

    def _remove_writer(self, fd: FileDescriptorLike) -> bool:
        """As `BaseSelectorEventLoop._remove_writer`; otherwise as `_remove_reader`. Any thread."""

    def _registered(
        self, fd: FileDescriptorLike
    ) -> list[events.Handle | SocketOperation | None] | None:
        """Return the handles and operations that wait for `fd`, as `[reader, writer]`. Any thread.

        Returns:
            None if nothing waits for it.

        Raises:
            ValueError: `fd` is no descriptor.
        """

    def _start_read(
        self, sock: socket.socket, method: str, argument: Any, second: Any = None, /
    ) -> Any:
        """Call `sock.method(argument)`, or with both arguments, for a method that reads.

        Returns:
            What it returns; a `SocketOperation` to await if it would block. That calls again each
            time `sock` is readable; another reader of the descriptor is replaced and cancelled.

        Raises:
            RuntimeError: a transport uses the descriptor, or the loop is closed.
            Exception: what the method raises.
        """

    def _start_write(
        self, sock: socket.socket, method: str, argument: Any, second: Any = None, /
    ) -> Any:
        """As `_start_read`, for a method that writes."""

    def _start_send_all(self, sock: socket.socket, data: Any, /) -> SocketOperation | None:
        """Send bytes; otherwise as `_start_write`.

        Returns:
            None if all was sent; otherwise what sends the rest, to await.
        """

    def _start_connect(self, sock: socket.socket, address: Any, /) -> SocketOperation | None:
        """Connect to an address that is resolved; otherwise as `_start_write`.

        Returns:
            None if it is connected; otherwise what waits until it is, to await.
        """

    def _start_accept(self, sock: socket.socket, /) -> Any:
        """Accept a connection; otherwise as `_start_read`.

        Returns:
            `(connection, address)`, or a `SocketOperation` to await.
        """

    def _start_sendfile(
        self,
        future: asyncio.Future[int],
        sock: socket.socket,
        file: int,
        offset: int,
        count: int | None,
        block: int,
        /,
    ) -> None:
        """Begin to send a file with `os.sendfile`, as asyncio's `_sock_sendfile_native_impl`.

        Args:
            future: gets the number of bytes sent, or the exception. Cancelling it ends the work.
            sock: where to.
            file: the file's descriptor. Its position is set to the end of what was sent.
            offset: where to begin, in bytes.
            count: how many bytes; None: all there are.
            block: how many bytes at a time if there is no `count`.

        Raises:
            RuntimeError: a transport uses the descriptor, or the loop is closed.
            OverflowError: a number does not fit into 64 bits.
        """

    def _close_core(self) -> Unrun | None:
        """Drop every callback and give the descriptors back. Of a loop that does not run.

        Returns:
            The callbacks, for the caller to drop, if its run had to end before it got to them.

        Raises:
            RuntimeError: the loop is running.
        """

    def _refuse_spawned(self) -> None:
        """Let no further task of `spawn` in but those of the shutdown. Any thread."""

    def _shut_spawned(self) -> list[PoolTask[Any]]:
        """Let nobody in any more, and return the tasks of `spawn` that have not ended."""

    def _cancel_unstarted(self) -> None:
        """Cancel what `_spawn` left to all loops and waits on this one. On its thread."""

    def _spawned(self) -> list[asyncio.Task[Any]]:
        """Return the asyncio tasks of `spawn` that have begun here and not ended. Any thread."""

    def _join(self, pool: PoolCore, index: int) -> None:
        """Take a place among the loops that do each other's socket work. Before the loop runs.

        Raises:
            RuntimeError: the loop runs, or the place is taken.
        """

    def _transport_at(self, fd: int) -> object | None:
        """Return the native transport or `ListenerCore` on a descriptor. Any thread."""

    def _stats(self) -> dict[str, int]:
        """Return the loop's counters and gauges, for `Pool.stats`. Any thread; stops nobody.

        Returns:
            The fields of `LoopStats` by name, but `busy_ns` and `idle_ns` in nanoseconds for `busy`
            and `idle`, and without `name`.
        """

    def _queues(self) -> tuple[list[Any], list[events.TimerHandle]]:
        """Return copies of the ready queue, in its order, and of the pending timers, in none.

        The first holds an `asyncio.Handle` for each callback, and for a C task's step or wakeup,
        which has no handle, what the task passed to `call_soon`; a `SocketOperation` stands for
        itself. Both are empty while another
        thread runs the loop. Any thread.
        """

    @property
    def _debug(self) -> bool:
        """As `BaseEventLoop._debug`. Takes any object, for its truth."""

    @_debug.setter
    def _debug(self, enabled: object) -> None: ...
    slow_callback_duration: float
    """As `BaseEventLoop.slow_callback_duration`, in seconds. Any thread.

    Raises:
        TypeError: it is set to what is no real number.
    """

    @property
    def _stopping(self) -> bool:
        """As `BaseEventLoop._stopping`. Setting it wakes a loop that sleeps. Any thread."""

    @_stopping.setter
    def _stopping(self, stopping: bool) -> None: ...
    @property
    def _closed(self) -> bool:
        """As `BaseEventLoop._closed`."""

    @_closed.setter
    def _closed(self, closed: bool) -> None: ...
    @property
    def _has_task_factory(self) -> Never:
        """Whether `create_task` has to call `_task_factory`. Can only be set."""

    @_has_task_factory.setter
    def _has_task_factory(self, has: bool) -> None: ...
    @property
    def _eager(self) -> Never:
        """Whether `create_task` starts tasks at once. Can only be set."""

    @_eager.setter
    def _eager(self, eager: bool) -> None: ...

@final
class Unrun:
    """Callbacks of a closed loop that nobody runs any more."""

    def __len__(self) -> int:
        """Return how many they are. Any thread."""

    def drop(self) -> None:
        """Drop them. Any thread."""

@final
class PoolCore:
    """The shared part of a pool. Use `loop_pool.Pool`.

    Args:
        loops: how many loops it has; 0 is taken for 1.
        steal: whether they do each other's socket work.

    Raises:
        OverflowError: `loops` is negative or above 2**32 - 1.
        TypeError: `loops` is not an integer.
    """

    def __new__(cls, loops: int, *, steal: bool) -> Self: ...
    def start_monitor(self) -> None:
        """Start the thread that works for stuck loops, if the loops work for each other.

        Raises:
            OSError: the process is out of descriptors or threads.
        """

    def stop_monitor(self) -> None:
        """End that thread and wait for it; nothing if there is none. Any thread.

        What it has told before is still handed out by `wait_incidents`.
        """

    def watch(self, limit: float | None) -> None:
        """Have that thread, started if need be, tell of callbacks that take too long. Any thread.

        Not once `stop_monitor` was called.

        Args:
            limit: seconds that a callback may take; None: its loop's `slow_callback_duration`.

        Raises:
            OSError: the process is out of descriptors or threads.
        """

    def unwatch(self) -> None:
        """Have it tell no more, but for the end of what it has told. Any thread."""

    def wait_incidents(self) -> list[tuple[int, int, float, bool]]:
        """Wait, detached, until something is told. One thread, after `watch`.

        Returns:
            What was told, oldest first: the loop's index, the callback's number on that loop, for
            how many seconds it has been under way, and whether it has ended. Nothing: the pool has
            ended.
        """

    def new_server(self) -> ServerCore:
        """Return what the listeners of one server of the pool share. Any thread.

        Raises:
            ValueError: the pool has one loop only, so that there is nothing to place.
        """

    def forked(self) -> bool:
        """Whether this process is a fork of the one that made the pool. Any thread."""

@final
class ServerCore:
    """What the listeners of one pool-wide server share. Use `loop_pool.create_server`."""

    def add(self, index: int, token: int) -> None:
        """Let connections be placed on a loop, whose listener has this token. Any thread."""

    def remove(self, index: int) -> None:
        """Place no further connections on a loop. Any thread."""

@final
class ListenerCore:
    """A listening socket of one loop. Use `loop_pool.EventLoop`.

    Args:
        fd: a listening, non-blocking socket that stays open until `stop`.
        half: kept weakly. On the loop's thread, its `_connected` is called with the native half of
            each connection, and `_failed` with the exception when accepting failed, which then
            rests until `resume`.
        server: with one, each connection goes to the least loaded loop that listens for it.
        holder: the object that closes the socket.
    """

    def __new__(
        cls,
        fd: int,
        half: object,
        server: ServerCore | None = None,
        holder: object = None,
    ) -> Self: ...
    @property
    def holds(self) -> bool:
        """Whether the number still stands for the socket: the program has not closed it."""

    def start(self, loop_: LoopCore) -> None:
        """Begin to accept. Loop's thread.

        Raises:
            RuntimeError: the loop is closed, or the descriptor used by another transport.
            OSError: the kernel refuses to watch the socket.
        """

    @property
    def token(self) -> int:
        """Under which it is registered with its loop; 0: not."""

    def retire(self) -> None:
        """Accept no more, on whichever thread. Any thread."""

    def hand_over(self, loop_: LoopCore) -> None:
        """Hand over what was placed here before. After `retire`, on the loop's thread."""

    def stop(self, loop_: LoopCore) -> None:
        """Stop accepting for good, after which the socket may be closed. Any thread."""

    def pause(self) -> None:
        """Accept nothing until `resume`. Before `start`."""

    def resume(self, loop_: LoopCore) -> None:
        """Accept again, after a failure, or for the first time after `pause`. Any thread."""

@final
class StreamCore:
    """The native half of a stream transport. Use `loop_pool.EventLoop`.

    Args:
        fd: a non-blocking descriptor that stays open until `retire`.
        socket: whether it is used as a socket, and not as a pipe.
        reads: whether data may come from it.
        watches: if not, whether it becomes readable when whoever reads what is written is gone.
        holder: the object that closes the descriptor.
    """

    def __new__(
        cls,
        fd: int,
        socket: bool,
        reads: bool,
        watches: bool = False,
        holder: object = None,
    ) -> Self: ...
    @property
    def holds(self) -> bool:
        """Whether the number still stands for the descriptor: the program has not closed it."""

    @property
    def fd(self) -> int:
        """The descriptor's number."""

    @property
    def owns_descriptor(self) -> bool:
        """Whether the descriptor is kept open by this object."""

    @property
    def closing(self) -> bool:
        """Whether the transport is closing or closed."""

    @property
    def lost(self) -> bool:
        """Whether `connection_lost` is on its way, or was called."""

    @property
    def reading(self) -> bool:
        """Whether it reads what comes."""

    @property
    def paused(self) -> bool:
        """Whether reading is paused by the program."""

    @property
    def queued(self) -> bool:
        """Whether data wait to be written."""

    @property
    def write_eof(self) -> bool:
        """Whether the write side was shut, or is to be."""

    @property
    def protocol_paused(self) -> bool:
        """Whether the protocol was told to pause writing."""

    @protocol_paused.setter
    def protocol_paused(self, value: bool) -> None: ...
    @property
    def limits(self) -> tuple[int, int]:
        """The marks of flow control as (low, high), in bytes."""

    def set_limits(self, low: int, high: int) -> bool:
        """Set the marks. Return whether the protocol is to pause writing now."""

    def set_kind(self, buffered: bool, streams: bool) -> None:
        """Say what the protocol is: a `BufferedProtocol`, or exactly a `StreamReaderProtocol`."""

    def set_http(self) -> None:
        """Say that the protocol is an `HTTPConnection`. Of a half that `_http_stream` made."""

    def set_empty_waiter(self, waits: bool) -> None:
        """Say whether somebody waits for the queue to be empty, so that nobody may write."""

    def names(self) -> tuple[Any, Any]:
        """Return the addresses (own, peer's) of an accepted connection, as sockets give them."""

    def remember_names(self) -> None:
        """Note the addresses of an accepted connection before its descriptor is closed."""

    def give_descriptor(self, sock: object) -> None:
        """Give the descriptor away, to a socket object that closes it."""

    def take_descriptor(self) -> int:
        """Give the descriptor away, to a caller that closes it; -1: it is not kept open here."""

    def close_descriptor(self) -> None:
        """Close the descriptor, if it is kept open by this object."""

    def register(self, loop_: LoopCore, transport: object) -> bool:
        """Register the transport with its loop's reactor; it begins in the next turn.

        Returns:
            Whether the reactor watches it: there are devices that it cannot watch.

        Raises:
            RuntimeError: the loop is closed, or the descriptor used by another transport.
            OSError: the kernel refuses to watch the descriptor.
        """

    def retire(self, loop_: LoopCore) -> None:
        """End all work on the descriptor, after which it may be closed. Any thread."""

    def leave(self, loop_: LoopCore) -> None:
        """Take the transport from its loop, of which nothing is to be brought any more."""

    def suspend(self, loop_: LoopCore) -> None:
        """Give up the registration for a while."""

    def unsuspend(self, loop_: LoopCore) -> None:
        """Undo `suspend`.

        Raises:
            OSError: the kernel refuses to watch the descriptor.
        """

    def close(self, loop_: LoopCore) -> bool:
        """Begin an orderly end: read no more, or of a pipe's write end, write no more.

        Returns:
            Whether `connection_lost` is to be scheduled now.
        """

    def abort(self) -> bool:
        """End the connection at once; what is queued is forgotten.

        Returns:
            Whether `connection_lost` is to be scheduled now.
        """

    @property
    def ahead(self) -> int:
        """Bytes that were read and not delivered. Any thread."""

    @property
    def introduced(self) -> bool:
        """Whether the protocol knows of the connection, as far as TLS decides that. Any thread."""

    @property
    def peer_closed(self) -> bool:
        """Of one with TLS: whether the peer has said that it sends no more."""

    def drained(self) -> bool:
        """Go on when everything queued is written.

        Returns:
            Whether `connection_lost` is to be called now.
        """

    def finish(self, loop_: LoopCore) -> None:
        """As `retire`, when `connection_lost` is called."""

    def shut_write(self) -> None:
        """Shut the write side down once everything is written; once, and unless it is closing.

        Raises:
            OSError: it was shut now, and the peer is gone.
        """

@final
class DatagramCore:
    """The native half of a datagram transport. Use `loop_pool.EventLoop`.

    Args:
        fd: a non-blocking datagram socket that stays open until `retire`.
        family: `AF_INET`, `AF_INET6` or `AF_UNIX`.
        connected: whether it is connected.
        address: the transport's own address, if it has one.
        holder: the object that closes the socket.

    Raises:
        ValueError: another family.
    """

    def __new__(
        cls, fd: int, family: int, connected: bool, address: Any = None, holder: object = None
    ) -> Self: ...
    @property
    def holds(self) -> bool:
        """Whether the number still stands for the socket: the program has not closed it."""

    @property
    def fd(self) -> int:
        """The descriptor's number."""

    @property
    def closing(self) -> bool:
        """Whether the transport is closing or closed."""

    @property
    def lost(self) -> bool:
        """Whether `connection_lost` is on its way, or was called."""

    @property
    def reading(self) -> bool:
        """Whether it receives what comes."""

    @property
    def paused(self) -> bool:
        """Whether reading is paused by the program."""

    @property
    def queued(self) -> bool:
        """Whether datagrams wait to be sent."""

    @property
    def protocol_paused(self) -> bool:
        """Whether the protocol was told to pause writing."""

    @protocol_paused.setter
    def protocol_paused(self, value: bool) -> None: ...
    @property
    def limits(self) -> tuple[int, int]:
        """The marks of flow control as (low, high), in bytes."""

    def set_limits(self, low: int, high: int) -> bool:
        """Set the marks. Return whether the protocol is to pause writing now."""

    def register(self, loop_: LoopCore, transport: object) -> bool:
        """Register the transport with its loop's reactor; it begins in the next turn.

        Raises:
            RuntimeError: the loop is closed, or the descriptor used by another transport.
            OSError: the kernel refuses to watch the socket.
        """

    def retire(self, loop_: LoopCore) -> None:
        """End all work on the socket, after which it may be closed. Any thread."""

    def leave(self, loop_: LoopCore) -> None:
        """Take the transport from its loop, of which nothing is to be brought any more."""

    def close(self, _loop: LoopCore) -> bool:
        """Begin an orderly end: receive no more.

        Returns:
            Whether `connection_lost` is to be scheduled now.
        """

    def abort(self) -> bool:
        """End all work at once; what is queued is forgotten.

        Returns:
            Whether `connection_lost` is to be scheduled now.
        """

    def drained(self) -> bool:
        """Go on when everything queued is sent.

        Returns:
            Whether `connection_lost` is to be called now.
        """

    def finish(self, loop_: LoopCore) -> None:
        """As `retire`, when `connection_lost` is called."""

    def enqueue(self, transport: object, data: bytes, full: bool) -> None:
        """Queue a datagram that the Python half sends itself when `_send_next` is called.

        Args:
            transport: the Python half.
            data: the datagram.
            full: whether the kernel had no room for it.
        """

    @staticmethod
    def count_sent(loop_: LoopCore, count: int) -> None:
        """Count bytes that the Python half has sent itself."""

    def next_own(self) -> bytes | None:
        """Return the next datagram to send, if the Python half sends it itself."""

    def pop_own(self) -> None:
        """Take that datagram from the queue."""

    def blocked(self, loop_: LoopCore) -> None:
        """Note that the kernel was full when the Python half sent the next datagram itself.

        Raises:
            OSError: the kernel refuses to watch the socket.
        """

    def retry(self, loop_: LoopCore, transport: object) -> None:
        """Let what found the kernel full be tried again."""

@disjoint_base
class PoolTaskCore[T]:
    """A coroutine that runs on a loop of the pool. Use `loop_pool.PoolTask`.

    Every method may be called from any thread.

    Raises:
        TypeError: it is called: `loop_pool.spawn` makes tasks.
    """

    def __new__(cls) -> Self: ...
    @classmethod
    def __class_getitem__(cls, key: Any) -> Any:
        """As of a generic class."""

    @property
    def loop(self) -> EventLoop | None:
        """The loop that the coroutine runs on; None until it has begun, if none was asked for."""

    @property
    def _asyncio_future_blocking(self) -> bool:
        """As asyncio asks whether something is a future: True at all times."""

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, _blocking: bool) -> None: ...
    @property
    def _cancel_message(self) -> Any:
        """The message of a task that was cancelled, as `asyncio.gather` asks for it."""

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the end, from any loop; return the result, or raise as `result`.

        When the coroutine that awaits it is cancelled, so is the task.
        """

    def done(self) -> bool:
        """Whether it has a result, an exception, or was cancelled."""

    def cancelled(self) -> bool:
        """Whether it ended by cancellation."""

    def cancel(self, msg: object = None) -> bool:
        """Ask the coroutine to stop, as `asyncio.Task.cancel`.

        Returns:
            False if it is done already.
        """

    def result(self, timeout: float | None = None) -> T:
        """Return the coroutine's result; a thread that runs no loop waits for it.

        Args:
            timeout: seconds to wait; None: without limit.

        Raises:
            asyncio.InvalidStateError: it is not done, and waiting here would stop a loop.
            TimeoutError: it was not done in time.
            asyncio.CancelledError: it was cancelled.
            BaseException: whatever the coroutine raised.
        """

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the coroutine's exception, or None. Waits and raises as `result`."""

    def add_done_callback(
        self, fn: Callable[[Self], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Call `fn(self)` when it is done, as `asyncio.Future.add_done_callback`.

        It is called by the loop that runs in the calling thread. Added in a thread that runs none,
        it is called in the thread that ends the task, or at once if it is done; it should be short
        then, and what it raises is logged, as with `concurrent.futures.Future`.

        Args:
            fn: called with the task alone.
            context: the context to call it in; None: a copy of the current one.
        """

    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Take back what `add_done_callback` was given, and return how often that was."""

    def get_name(self) -> str:
        """Return the task's name. One is made up if none was given."""

    def set_name(self, value: object) -> None:
        """Give it another name, as `asyncio.Task.set_name`."""

    def get_coro(self) -> Coroutine[Any, Any, T] | None:
        """Return the coroutine; None when it has ended."""

    def get_context(self) -> contextvars.Context:
        """Return the context that it runs in."""

    def get_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that runs in this thread, on which the task may be awaited.

        In a thread that runs none: `loop`.
        """

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        """Make the error of a cancelled task, as `asyncio.gather` asks for it."""

    def _abandon(self, exception: BaseException) -> None:
        """End it by an exception, as its loop has ended. Nothing if it is done."""

@final
class PoolTaskWait:
    """What `await` of a `PoolTask` drives. Made by it."""

    def __iter__(self) -> Self:
        """Return itself."""

    def __next__(self) -> Any:
        """Yield the task once, unless it is done, and then stop with its result.

        Raises:
            StopIteration: with the result.
            BaseException: whatever the coroutine raised.
        """

@final
class SocketOperation:
    """A `loop.sock_*` call that waits for its socket. Made by `LoopCore`; to be awaited once.

    It stands among the readers or writers of its loop until it is done, is replaced there, or the
    coroutine that awaits it is cancelled or closed.
    """

    def __await__(self) -> Generator[Any, None, Any]:
        """Return itself: it is its own iterator."""

    def __iter__(self) -> Generator[Any, None, Any]:
        """Return itself."""

    def __next__(self) -> Any:
        """Yield what its future yields to the task, and then stop with the result.

        Raises:
            StopIteration: with the result.
            Exception: what the socket's method raised.
        """

    def send(self, _value: object) -> Any:
        """As a generator's; the value is ignored."""

    def throw(self, *exception: Any) -> Any:
        """End the wait by an exception, as a generator's."""

    def close(self) -> None:
        """End the wait. Any thread."""

    def __call__(self, _future: object) -> None:
        """End the wait, as a callback of the future."""

    def cancel(self) -> None:
        """Do not run again; the future stays pending. As `asyncio.Handle.cancel`. Any thread."""

    def cancelled(self) -> bool:
        """Whether it will not run again. Any thread."""

@disjoint_base
class StreamReaderCore:
    """The native half of a stream reader: the buffer. Use `loop_pool.start_server`.

    `read`, `readexactly`, `readuntil`, `readline`, `__anext__`, `feed_data` and `at_eof` are added
    to the subclass by `_install_reader_methods`, with asyncio's own signatures.

    Args:
        args: ignored, so that a subclass may pass its own arguments.
        kwargs: likewise.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    @property
    def _limit(self) -> int:
        """The limit, in bytes: the transport is paused above twice as many. Any thread."""

    @_limit.setter
    def _limit(self, limit: int) -> None: ...
    @property
    def _eof(self) -> bool:
        """Whether nothing more will come. Any thread."""

    @_eof.setter
    def _eof(self, eof: bool) -> None: ...
    @property
    def _paused(self) -> bool:
        """Whether the reader has paused its transport. Any thread."""

    @_paused.setter
    def _paused(self, paused: bool) -> None: ...
    def _copy_buffer(self) -> bytes:
        """Return what has been received and not been read. Any thread."""

    def _clear_buffer(self) -> None:
        """Forget what has been received and not been read. Any thread."""

@final
class StreamRead:
    """A `read` of a native stream reader or its like: a coroutine, to be awaited once.

    While it waits it is a future of the reader's loop, to the task that awaits it.
    """

    @property
    def __name__(self) -> str:
        """The method that made it."""

    @property
    def __qualname__(self) -> str:
        """The method that made it, with its class."""

    def __repr__(self) -> str:
        """As a coroutine's."""

    def __await__(self) -> Self:
        """Return itself: it is its own iterator.

        Raises:
            RuntimeError: it is being awaited already.
        """

    def __next__(self) -> Self:
        """Go on: stop with what was read, or yield itself, to be woken.

        Raises:
            StopIteration: with what was read.
            RuntimeError: another one waits already, or it is over.
            Exception: as asyncio's method of that name.
        """

    def send(self, value: None) -> Self:
        """As a coroutine's."""

    def throw(self, *exception: Any) -> Never:
        """End it by an exception, as a coroutine's."""

    def close(self) -> None:
        """End it, as a coroutine's."""

    @property
    def _asyncio_future_blocking(self) -> bool | None:
        """As a future's; `None` while it does not wait, and is no future."""

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, blocking: bool) -> None: ...
    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the reader's loop. Any thread."""

    def done(self) -> bool:
        """Whether it does not wait. Any thread."""

    def cancelled(self) -> bool:
        """Whether its wait was cancelled. Any thread."""

    def result(self) -> None:
        """Return None, or raise what its wait has ended with. Any thread.

        Raises:
            asyncio.InvalidStateError: it waits.
        """

    def exception(self) -> BaseException | None:
        """Return the exception that its wait has ended with. Any thread.

        Raises:
            asyncio.InvalidStateError: it waits.
        """

    def cancel(self, msg: Any = None) -> bool:
        """End the wait by a `CancelledError`; say whether there was one. Any thread."""

    def set_result(self, result: object) -> None:
        """End the wait. Any thread.

        Raises:
            asyncio.InvalidStateError: it does not wait.
        """

    def set_exception(self, exception: BaseException | type[BaseException]) -> None:
        """End the wait by an exception. Any thread.

        Raises:
            asyncio.InvalidStateError: it does not wait.
        """

    def add_done_callback(
        self, fn: Callable[[Self], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Call `fn` when the wait ends, on the loop. Any thread."""

    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Undo `add_done_callback`; return how many were removed. Any thread."""

@final
class StreamReady:
    """What `drain` returns when there is nothing to wait for: a coroutine that ends at once.

    It may be awaited any number of times, by any thread.
    """

    @property
    def __name__(self) -> str:
        """`drain`."""

    @property
    def __qualname__(self) -> str:
        """`StreamWriter.drain`."""

    def __repr__(self) -> str:
        """As a coroutine's."""

    def __await__(self) -> Self:
        """Return itself: it is its own iterator."""

    def __next__(self) -> None:
        """End at once."""

    def send(self, _value: object) -> Never:
        """End at once, as a coroutine's."""

    def throw(self, *exception: Any) -> Never:
        """Raise the exception, as a coroutine's."""

    def close(self) -> None:
        """Do nothing, as a coroutine's that has ended."""

@final
class Handle(asyncio.Handle):
    """What `call_soon` returns. It gets a context of its own when somebody asks for it."""

    _context: contextvars.Context

@final
class TimerHandle(asyncio.TimerHandle):
    """What `call_later` and `call_at` return. Any thread may cancel it."""

    _context: contextvars.Context
    def cancel(self) -> None:
        """Cancel the call and free its place in the loop at once."""

@final
class _ThreadSafeHandle(asyncio.Handle):
    """What `call_soon_threadsafe` returns. Its lock is held while the callback runs.

    Its base is `asyncio.events._ThreadSafeHandle`, which typeshed leaves out.
    """

    _context: contextvars.Context
    def cancel(self) -> None:
        """Cancel the call; wait for it if it runs in another thread."""

    def cancelled(self) -> bool:
        """Whether it was cancelled; wait for a run elsewhere."""

    def _run(self) -> None:
        """Run the callback under the lock, as `asyncio.Handle._run`. Loop's thread."""

def _cores(process: StrPath = ..., /) -> tuple[int | None, float | None, float, int]:
    """Return the cores that this process may use. Any thread.

    They are those that its affinity allows (None: the system does not say); those that its cgroups
    grant (None: no limit), by the files of `process`; what both leave; and the number to use, which
    is what Python was told (``PYTHON_CPU_COUNT``, ``-X cpu_count``), else what is left, rounded up.
    """

def _loop_count(loops: int | None, /) -> int:
    """Return the number of loops for what was asked; None: the cores this process may use.

    Raises:
        ValueError: below 1 or above 4096.
        TypeError: not an integer.
    """

def _needs_gil(module: object, /) -> bool:
    """Whether this is an extension module whose slots do not say that it can do without the GIL.

    False for anything else, and for an extension module whose slots cannot be read.
    """

def _learn_streams(
    protocol: type[asyncio.StreamReaderProtocol],
    reader: type[asyncio.StreamReader],
    future: type[asyncio.Future[Any]],
    /,
) -> bool:
    """Learn how instances of asyncio's classes keep their attributes, to give data to readers.

    Args:
        protocol: asyncio's class.
        reader: its readers.
        future: what `create_future` makes.

    Returns:
        Whether it is known; if not, or the second time, data go by way of `data_received` as ever.
    """

def _learn_task_callbacks(
    step: object,
    wakeup: object,
    task: object,
    name: str,
    done: object,
    failing: object,
    error: object,
) -> bool:
    """Teach every loop to recognise by a sample what the C task passes to `call_soon`.

    Args:
        step: what a new task passed.
        wakeup: what it passed when the future that it awaited was done.
        task: that task.
        name: its name, an object that nothing else in it refers to.
        done: its method of that name.
        failing: a step that is to throw an exception into its coroutine.
        error: that exception.

    Returns:
        Whether they were the C task's; others are not learnt.
    """

def _stop_counting(*objects: object) -> int:
    """Make objects immortal which every loop uses and which live as long as the process.

    Call it from the thread that made them: only its own objects are changed. With a GIL it does
    nothing.

    Returns:
        How many of them are immortal now.
    """

def _tasks(loop_: LoopCore, /) -> list[tuple[Any, int, bool]]:
    """Return the tasks of a loop. Any thread.

    Each is (task, nanoseconds of the clock when it was made, whether it registered itself). Some
    may be done, and one may be there twice.
    """

def _watch_clock(kind: type, last: type, /) -> int:
    """Watch a loop's class and its bases up to `last`; return how often one has changed.

    Any thread.
    """

def _set_clock(loop_: LoopCore, changes: int, time: bool, call_at: bool, select: bool, /) -> None:
    """Say what of a loop's clock is the program's, as found after `_watch_clock` said `changes`.

    Any thread.
    """

def _current_task(loop_: LoopCore, /) -> Any:
    """Return the task that a loop is running, or None. Any thread."""

def _set_pool_task_class(class_: type[PoolTaskCore[Any]], /) -> None:
    """Make the class known whose instances `_spawn_on` makes. Once, at import."""

def _spawn[T](
    coro: Coroutine[Any, Any, T], name: object, context: contextvars.Context | None, /
) -> PoolTask[T] | None:
    """Leave a coroutine to the loop of the pool that has the least to do. On a loop's thread.

    Args:
        coro: a coroutine object, not yet started. It is left as it is if this fails.
        name: the task's name, or None.
        context: the context to run it in; None: a copy of the current one.

    Returns:
        None if no loop of an open pool runs in this thread, or it cannot do it now.

    Raises:
        TypeError: `coro` is no coroutine.
    """

def _spawn_on[T](
    loop_: LoopCore,
    coro: Coroutine[Any, Any, T],
    name: object,
    context: contextvars.Context | None,
    closing: bool,
    /,
) -> PoolTask[T]:
    """Give a coroutine to a loop, which begins it in its own thread. Any thread.

    Args:
        loop_: the loop.
        coro: a coroutine object, not yet started. It is left as it is if this fails.
        name: the task's name, or None.
        context: the context to run it in; None: a copy of the current one.
        closing: also while the loop takes on nothing but what its shutdown needs; and as a plain
            `asyncio.Task`, whatever task factory the program has set.

    Raises:
        TypeError: `coro` is no coroutine.
        RuntimeError: the loop takes on no new work.
    """

def _end_run_at(loop_: LoopCore, at_ns: int) -> None:
    """Let a run of a loop end from a time on, in the middle of a turn if need be. Any thread.

    Args:
        loop_: which loop.
        at_ns: nanoseconds, on the clock ``time.monotonic_ns``.
    """

def _was_cut_short(loop_: LoopCore) -> bool:
    """Return whether ``_end_run_at`` ended a run before all had run that was ready. Any thread."""

def _is_blocked(loop_: LoopCore, callback: int) -> bool | None:
    """Return whether the thread of a loop waits in the kernel, rather than runs.

    None if the loop is not inside its callback of that number any more. Any thread.
    """

def _stack(loop_: LoopCore, callback: int) -> list[tuple[CodeType, int]] | None:
    """Return the calls that a loop is in, the outermost first, with the lines being run.

    None if it is not inside its callback of that number any more. Every thread stands still
    while they are read, as soon as each can be interrupted: native code that is attached cannot.
    Any thread.
    """

def _register(loop_: LoopCore, task: object, /) -> None:
    """Add a task that keeps itself visible to the registry, weakly. Any thread.

    Raises:
        TypeError: nothing can refer to the task weakly.
    """

def _unregister(loop_: LoopCore, task: object, /) -> None:
    """Take a task out of the registry. Any thread."""

def _enter(loop_: LoopCore, task: object, /) -> None:
    """Show a task as its loop's current one. On the thread that runs the loop.

    Raises:
        RuntimeError: another task is, or another thread runs the loop.
    """

def _leave(loop_: LoopCore, task: object, /) -> None:
    """Undo `_enter`. On the thread that runs the loop.

    Raises:
        RuntimeError: the task is not the current one, or another thread runs the loop.
    """

def _install_hot_methods(class_: type[LoopCore], /) -> None:
    """Add `call_soon`, `call_at`, `create_task` and their like to a subclass of `LoopCore`.

    Raises:
        TypeError: it is no subclass of `LoopCore`.
    """

def _install_stream_methods(class_: type, /, *, reads: bool, writes: bool) -> None:
    """Add `write`, `pause_reading`, `is_closing` and their like to a transport class.

    Raises:
        ImportError: its slots are not where those of the other transport classes are.
    """

def _install_filtered_methods(class_: type, /) -> None:
    """Add `write` and `_shut` to a class of transports all of which have TLS.

    Raises:
        ImportError: its slots are not where those of the other transport classes are.
    """

def _after_fork_in_child(loop_: LoopCore, renew: bool, /) -> None:
    """Leave a loop's reactor, transports and listeners to the parent process.

    In a forked child, before anything else. With `renew` the loop gets a reactor of its own.

    Raises:
        OSError: the process is out of descriptors; the loop cannot be used.
    """

def _is_owner(loop_: LoopCore, /) -> bool:
    """Whether the calling thread runs the loop, or has borrowed it. Any thread."""

def _call_as_owner(loop_: LoopCore, function: Callable[[], object], /) -> bool:
    """Call a function as the owner of a loop that nobody runs. Return whether it was called.

    Raises:
        BaseException: whatever it raises.
    """

@final
class TLSSettings:
    """What all connections of a native TLS context share. Made by `loop_pool.tls.SSLContext`.

    It never changes, and may be used by all threads.
    """

def _tls_server_settings(
    certificate: tuple[bytes, bytes],
    by_name: Sequence[tuple[str, tuple[bytes, bytes]]],
    alpn: Sequence[bytes],
    versions: tuple[bool, bool],
    tickets: int,
    key_log: str | None,
    trust: TrustGiven | None,
    is_required: bool,
) -> TLSSettings | str:
    """Make the settings of a server's connections, or say why rustls cannot have them. Any thread.

    Certificates are pairs of a chain and its key, as the contents of PEM files; `versions` says
    whether TLS 1.2 and 1.3 are enabled; a client of TLS 1.3 gets so many `tickets`; 0: no session
    is resumed. Clients are verified by `trust`, if they have a certificate; `is_required` says
    whether they have to have one.

    Raises:
        OSError: the key log cannot be opened.
    """

def _tls_client_settings(
    certificate: tuple[bytes, bytes] | None,
    alpn: Sequence[bytes],
    versions: tuple[bool, bool],
    key_log: str | None,
    remembers_sessions: bool,
    trust: TrustGiven | None,
    checks_name: bool,
) -> TLSSettings | str:
    """Make the settings of a client's connections. As `_tls_server_settings`.

    Servers are verified by `trust`; `checks_name` says whether their names are, too.
    """

@final
class TLSConnection:
    """A TLS connection over two `ssl.MemoryBIO`s, with the methods of `_ssl._SSLSocket`.

    What `ssl.SSLObject` calls OpenSSL by, answered by rustls. Its methods raise what OpenSSL's
    raise: `ssl.SSLWantReadError` if more of the peer is needed, `ssl.SSLError` and its subclasses.

    As an `ssl.SSLObject`, it is for one thread at a time.
    """

    @staticmethod
    def open(
        settings: TLSSettings,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        context: ssl.SSLContext,
        server_hostname: str | None,
        owner: ssl.SSLObject | None,
        suppresses_eof: bool,
    ) -> TLSConnection | None:
        """Make one of the side that the settings are for.

        Returns `None` for a client whose `server_hostname` is neither a name of DNS nor an address.
        With `suppresses_eof` the end of the stream counts as the peer's word that it sends no more.
        """

    @property
    def context(self) -> ssl.SSLContext:
        """The context that made it."""

    @property
    def owner(self) -> ssl.SSLObject | None:
        """The `ssl.SSLObject` that uses it, as long as that exists."""

    @property
    def server_hostname(self) -> str | None:
        """The name of the server, as a client asks for it."""

    @property
    def server_side(self) -> bool:
        """Whether it is the end of a server."""

    @property
    def session(self) -> None:
        """`None`: the settings of clients keep their sessions."""

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session."""

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the name of the cipher, the version, and the bits of the key."""

    def compression(self) -> None:
        """Return `None`: nothing is compressed."""

    def do_handshake(self) -> None:
        """Go on with the handshake; return when it is finished."""

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        """Return `None`: TLS 1.3 has no "tls-unique", and rustls does not give that of TLS 1.2.

        Raises:
            ValueError: another type is asked for.
        """

    def get_unverified_chain(self) -> list[Any] | None:
        """Return the peer's certificates, with the methods of `_ssl.Certificate`."""

    def get_verified_chain(self) -> list[Any] | None:
        """Return those from the peer's own to a trusted one; if nothing is verified, the peer's."""

    def getpeercert(self, binary_form: bool = False, /) -> dict[str, Any] | bytes | None:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert`."""

    def has_more(self) -> bool:
        """Whether a read brings something without more of the peer's, if only the end."""

    def pending(self) -> int:
        """Return the number of decrypted bytes that were not read yet."""

    @overload
    def read(self, size: int, buffer: None = None, /) -> bytes:
        """Return up to `size` bytes, or none if the peer sends no more."""

    @overload
    def read(self, size: int, buffer: WriteableBuffer, /) -> int:
        """As above, into a buffer; return their number."""

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides agreed on."""

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """Return what a server chose: rustls does not say what else a client has offered."""

    def shutdown(self) -> None:
        """Say that nothing more will be sent; return when the peer has said so."""

    def verify_client_post_handshake(self) -> NoReturn:
        """Raise `NotImplementedError`: rustls has no authentication after the handshake."""

    def version(self) -> str | None:
        """Return the version of TLS, such as "TLSv1.3"."""

    def write(self, data: ReadableBuffer) -> int:
        """Encrypt data; return the number of bytes."""

def _tls_stream(
    core: StreamCore,
    settings: TLSSettings,
    server_hostname: str | None,
    holder: object = None,
) -> StreamCore | None:
    """Make the native half of a transport with TLS, in place of one that was not registered.

    `None` for a client whose `server_hostname` is neither a name of DNS nor an address. `holder` is
    the object that closes the descriptor, if `core` does not.

    Raises:
        ssl.SSLError: no connection can be made with these settings.
    """

@final
class TLSStreamInfo:
    """What stands for `_ssl._SSLSocket` under the `ssl_object` of a TLS transport.

    It tells of the connection, which its transport reads and writes: any thread. The methods that
    would do so themselves raise `ValueError`.
    """

    def __new__(
        cls,
        core: StreamCore,
        settings: TLSSettings,
        context: ssl.SSLContext,
        server_hostname: str | None,
    ) -> Self: ...
    @property
    def cipher_suite(self) -> int | None:
        """The number of the cipher suite in IANA's register; `None` before the handshake ends."""

    @property
    def context(self) -> ssl.SSLContext:
        """The context that made the connection."""

    @property
    def own_certificate(self) -> bytes | None:
        """A server's certificate in DER; `None` if clients get one by the name they ask for."""

    @property
    def owner(self) -> None:
        """`None`: it has no `ssl.SSLObject` that uses it."""

    @property
    def server_hostname(self) -> str | None:
        """The name of the server, as a client asks for it."""

    @property
    def server_side(self) -> bool:
        """Whether it is the end of a server."""

    @property
    def session(self) -> None:
        """`None`: the settings of clients keep their sessions."""

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session."""

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the name of the cipher, the version, and the bits of the key."""

    def compression(self) -> None:
        """Return `None`: nothing is compressed."""

    def do_handshake(self) -> NoReturn:
        """Raise `ValueError`: the transport does."""

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        """As `TLSConnection`'s.

        Raises:
            ValueError: another type is asked for.
        """

    def get_unverified_chain(self) -> list[Any] | None:
        """Return the peer's certificates, with the methods of `_ssl.Certificate`."""

    def get_verified_chain(self) -> list[Any] | None:
        """Return those from the peer's own to a trusted one; if nothing is verified, the peer's."""

    def getpeercert(self, binary_form: bool = False, /) -> dict[str, Any] | bytes | None:
        """Return the peer's certificate, as `ssl.SSLSocket.getpeercert`."""

    def pending(self) -> int:
        """Return 0: nothing is kept from the transport."""

    def read(self, *_args: object) -> NoReturn:
        """Raise `ValueError`: the transport does."""

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides agreed on."""

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """Return what a server chose: rustls does not say what else a client has offered."""

    def shutdown(self) -> NoReturn:
        """Raise `ValueError`: the transport does."""

    def verify_client_post_handshake(self) -> NoReturn:
        """Raise `NotImplementedError`: rustls has no authentication after the handshake."""

    def version(self) -> str | None:
        """Return the version of TLS, such as "TLSv1.3"."""

    def write(self, *_args: object) -> NoReturn:
        """Raise `ValueError`: the transport does."""

def _install_tls_methods(
    protocol: type,
    transport: type,
    wrapped: object,
    again: tuple[type[BaseException], ...],
    record: int,
    /,
) -> None:
    """Add `data_received` to the class of TLS protocols, `write` to that of their transports.

    `wrapped` is the state of a protocol whose handshake is over, `again` what OpenSSL raises to be
    given more, `record` the bytes of content of the largest record.

    Raises:
        ImportError: an attribute that they read is no slot.
    """

def _install_datagram_methods(class_: type, /) -> None:
    """Add `sendto`, `pause_reading`, `is_closing` and their like to a transport class.

    Raises:
        ImportError: its slots are not where those of the other transport classes are.
    """

def _install_reader_methods(class_: type[StreamReaderCore], /) -> None:
    """Add `read`, `readline`, `feed_data` and their like to the class of stream readers.

    Raises:
        TypeError: it is no subclass of `StreamReaderCore`.
        ImportError: it has not the slots `_exception`, `_loop`, `_transport`, `_waiter`, `_woken`.
    """

def _install_writer_methods(writer: type, protocol: type, transport: type, /) -> None:
    """Add `write` and `drain` to the class of writers, `data_received` to that of protocols.

    Args:
        writer: has the slots `_protocol`, `_reader` and `_transport`.
        protocol: has the slots `_connection_lost`, `_paused` and `_stream_reader_wr`.
        transport: the class of native stream transports, which are called without a look-up.

    Raises:
        ImportError: a slot is missing.
    """

@final
class HTTPReadiness:
    """A path that is answered without Python: whether a server takes requests. Any thread.

    It is answered also while every loop is stuck: 200 and `ready`, or 503 and `not ready`.

    Args:
        path: as it stands in requests. The server is not ready yet.
    """

    def __new__(cls, path: bytes) -> Self: ...
    def set(self, is_ready: bool) -> None:
        """Say whether the server takes requests."""

@final
class HTTPServer:
    """An ASGI application served on one loop. Use `loop_pool.serve`.

    Made and used on its loop's thread.

    Args:
        loop_: the loop.
        app: the application.
        proxied_app: called instead for a request that has fields `x-forwarded-*`.
        state: of the lifespan; each request gets a copy.
        root_path: as in ASGI; it is put before each path.
        http: options by name; what is missing or `None` is as usual. `error_log`, called with a
            message and an exception or `None`, and `as_coroutine`, which makes a coroutine of an
            awaitable, are required. Bounds: `max_head`, `max_fields`, `max_message`, `max_queue`.
            Seconds: `keep_alive`, if it is missing for ever; 0 for ever: `request_timeout`,
            `ping_interval`, `ping_timeout`.
            Responses: `headers`, `server`, `date`. WebSockets: `websocket`, `deflate`. Others:
            `access_log` and `websocket_log`, called with the scope and the status of each response,
            to a request or to a handshake; `asgi_version`, which scopes say; `peers`, the
            servers of the same application by loop, which answer requests of a stuck one;
            `readiness`, an `HTTPReadiness`; `send_file`, which makes a coroutine of an
            `HTTPRequest` and a message that names a file; `describe_tls`, which makes a dict of a
            transport for the extension `tls`. Without these two there are no such extensions.

    Raises:
        TypeError: an option is missing that is required, or has another type.
        OverflowError: a bound is negative or too large.
    """

    def __new__(
        cls,
        loop_: LoopCore,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        proxied_app: Callable[[Any, Any, Any], Awaitable[None]],
        state: dict[str, Any],
        *,
        root_path: str,
        http: dict[str, Any],
    ) -> Self: ...
    @property
    def requests(self) -> int:
        """How many requests were answered. Any thread."""

    @property
    def connections(self) -> list[HTTPConnection]:
        """The open connections."""

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks of requests that run on this loop and have not ended; the set itself."""

    def answer_at(self, listener: ListenerCore) -> None:
        """Answer for readiness on connections that are accepted while no loop gets to them.

        At a listener without TLS, once for each. Any thread.
        """

    def leave(self) -> None:
        """Close each connection with its next response, from now on."""

@final
class HTTPConnection:
    """The protocol of one connection of an `HTTPServer`. Its methods belong to the loop's thread.

    The transport's native half has to be one that `_http_stream` made.

    Args:
        server: what it belongs to.
    """

    def __new__(cls, server: HTTPServer) -> Self: ...
    @property
    def transport(self) -> Any:
        """The transport; `None` before `connection_made` and after `connection_lost`."""

    @property
    def client(self) -> tuple[Any, Any] | None:
        """The client's address, `(host, port)`, if it has one."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, and no WebSocket. Any thread."""

    @property
    def had_request(self) -> bool:
        """Whether a request has come. Any thread."""

    def shutdown(self) -> None:
        """Close it now if it is idle, otherwise once its requests are answered.

        A WebSocket is closed with code 1012.
        """

    def unfinished(self) -> list[str]:
        """Return what is under way: `"GET /path"`, or `"WebSocket /path"`."""

    def connection_made(self, transport: Any) -> None:
        """As `asyncio.Protocol`."""

    def connection_lost(self, exc: BaseException | None, /) -> None:
        """As `asyncio.Protocol`; whoever awaits `receive` or `send` goes on."""

    def eof_received(self) -> bool:
        """As `asyncio.Protocol`: the transport stays open for responses that are under way."""

    def pause_writing(self) -> None:
        """As `asyncio.Protocol`."""

    def resume_writing(self) -> None:
        """As `asyncio.Protocol`."""

    def data_received(self, _data: object) -> Never:
        """Raise `RuntimeError`: the transport's filter takes what comes."""

    def _news(self) -> None:
        """Begin the requests that the transport's filter has parsed. Called by the transport."""

    def _timed_out(self) -> None:
        """Close it if it was idle for too long. Called by a timer."""

    def _request_timed_out(self) -> None:
        """Answer with 408 if a request did not come in time. Called by a timer."""

    def _give_up(self) -> None:
        """Close it although the client may go on sending. Called by a timer."""

@final
class HTTPRequest:
    """What an application is called for: one request, or a WebSocket. Made by `HTTPConnection`."""

    def receive(self) -> HTTPOperation:
        """Return what to await for the client's next message, as ASGI's `receive`. Any loop."""

    def send(self, message: Any) -> Awaitable[None]:
        """Send a message to the client, as ASGI's `send`. Any loop.

        It is sent by this call; awaiting the result waits while too much is queued. Files are sent
        while the result is awaited, a coroutine of `send_file`.

        Raises:
            RuntimeError: a message of this type is not expected now, or the response is not valid.
            TypeError: the message has a value of another type.
            ValueError: `http.response.start` has no status, or the code of a `websocket.close` may
                not be sent.
            ConnectionResetError: the client of the WebSocket has disconnected.
        """

    @property
    def _is_gone(self) -> bool:
        """Whether nothing more can be sent to the client."""

    def _begin_file(self, length: int, more: bool) -> bool | None:
        """Begin a part of the body that is `length` bytes of a file, and send the head.

        Returns:
            Whether the part is to be sent: a response to `HEAD` has no body. `None`: the client is
            gone.

        Raises:
            RuntimeError: the response is not valid, and nothing was sent.
        """

    def _lend(self, length: int) -> Any:
        """Return the transport, which is to send these bytes next; `None`: `_piece` has to.

        Raises:
            RuntimeError: there are more than the body may have.
        """

    def _piece(self, piece: bytes) -> HTTPOperation:
        """Send a piece of the part, as `send`."""

    def _end_file(self, more: bool) -> HTTPOperation:
        """End the part; `more`: others follow. As `send`."""

    def _lose(self) -> None:
        """Note that the client is gone, as a file could not be sent to it."""

    def _later(self, seconds: float, method: str) -> None:
        """Set a timer of a WebSocket, for another loop."""

    def _pong_due(self) -> None:
        """Close a WebSocket whose client has not answered a ping."""

    def _shut_down(self) -> None:
        """End a WebSocket, as the server does."""

    def _ping(self) -> None:
        """Ping the client of a WebSocket. Called by a timer, which it sets again."""

    def _give_up(self) -> None:
        """Close the connection of a WebSocket whose client did not answer a close."""

    def _ended(self, task: Any) -> None:
        """Answer what the application did not. Called when its task has ended."""

@final
class HTTPOperation:
    """What `receive` and `send` of an `HTTPRequest` return: a coroutine, to be awaited once."""

    def __await__(self) -> Self:
        """Return itself: it is its own iterator."""

    def __iter__(self) -> Self:
        """Return itself."""

    def __next__(self) -> Any:
        """Go on: stop with the message or `None`, or yield a future of the running loop.

        Raises:
            StopIteration: with the result.
            RuntimeError: it has to wait, and no loop runs here.
        """

    def send(self, _value: object) -> Any:
        """As a coroutine's; the value is ignored."""

    def throw(self, kind: Any, value: Any = None, traceback: Any = None, /) -> Never:
        """End the wait by an exception, as a coroutine's."""

    def close(self) -> None:
        """End the wait, as a coroutine's."""

def _http_stream(core: StreamCore, connection: HTTPConnection, holder: object = None) -> StreamCore:
    """Make the native half of a transport with HTTP, in place of one that was not registered.

    Its bytes pass the TLS that `core` has, if it has any. `holder` is the object that closes the
    descriptor, if `core` does not.
    """
