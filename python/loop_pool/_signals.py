"""Signal handlers: those of a loop in the main thread, and those of a pool's other loops.

The interpreter runs signal handlers in the main thread alone, and lets nobody else set them. A loop
of a pool that lives in another thread has loop 0 catch the signal, if that lives in the main
thread, and each loop that has a handler for it calls its own, on its own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import threading
from asyncio import events
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ._event_loop import EventLoop
    from ._pool import Pool

    _Loop = asyncio.SelectorEventLoop
else:
    _Loop = object

PATIENCE = 1.0
"""Seconds that another loop waits for loop 0 to catch a signal; it does so later if it is stuck."""


class PoolSignals:
    """The handlers of the loops of a pool that are not in the main thread. Any thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Re-entrant, as a finalizer may remove a handler.
        self._lock = threading.RLock()
        # For each signal, the handler of each loop that has one. Under the lock.
        self._handlers: dict[int, dict[int, events.Handle]] = {}

    def __contains__(self, sig: int) -> bool:
        return sig in self._handlers

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def add(self, loop: EventLoop, sig: int, handle: events.Handle) -> None:
        """Let a loop's handler be called; return when the signal is caught.

        Raises:
            RuntimeError: the signal cannot be caught, or not by this pool.
        """
        if sig in {signal.SIGKILL, signal.SIGSTOP}:
            raise RuntimeError(f"sig {sig} cannot be caught")
        main = threading.main_thread().ident
        running: int | None = getattr(self._loop_0(), "_thread_id")  # noqa: B009  # not in typeshed
        if running not in {None, main}:
            raise RuntimeError(
                f"{loop!r} can have no signal handlers: signals are caught in the main thread, and "
                "loop 0 of its pool runs in another one"
            )
        with self._lock:
            self._handlers.setdefault(sig, {})[loop._pool_index] = handle
        self._on_loop_0(sig)

    def remove(self, loop: EventLoop, sig: int) -> bool:
        """Forget a loop's handler; say whether there was one."""
        with self._lock:
            handlers = self._handlers.get(sig, {})
            handle = handlers.pop(loop._pool_index, None)
            if not handlers:
                self._handlers.pop(sig, None)
        if handle is None:
            return False
        self._on_loop_0(sig)
        return True

    def call(self, sig: int) -> None:
        """Have every loop's handler called. On loop 0."""
        with self._lock:
            handlers = list(self._handlers.get(sig, {}).items())
        for index, handle in handlers:
            with contextlib.suppress(RuntimeError):  # its loop has closed meanwhile
                self._pool._members[index].loop.call_soon_threadsafe(_call, handle)

    def clear(self) -> None:
        """Forget all handlers, at the end of the pool, in the thread of loop 0."""
        with self._lock:
            signals = list(self._handlers)
            self._handlers.clear()
        for sig in signals:
            self.catch(sig)

    def catch(self, sig: int) -> None:
        """Catch a signal that a loop has a handler for, and none other. In the main thread."""
        ours = signal.getsignal(sig) is _caught
        if sig in self._handlers:
            if not ours:
                signal.signal(sig, _caught)
                signal.siginterrupt(sig, False)
        elif ours and sig not in self._loop_0()._signal_handlers:
            signal.signal(
                sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
            )

    def _loop_0(self) -> EventLoop:
        return self._pool._members[0].loop

    def _on_loop_0(self, sig: int) -> None:
        if threading.current_thread() is threading.main_thread():
            self.catch(sig)
            return
        loop = self._loop_0()
        caught = threading.Event()

        def catch() -> None:
            try:
                self.catch(sig)
            finally:
                caught.set()

        with contextlib.suppress(RuntimeError):  # it is closed: what it had caught is let go
            loop.call_soon_threadsafe(catch)
            if loop.is_running():
                caught.wait(PATIENCE)


class HandlesSignals(_Loop):
    """What a loop does about signals."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        _csock: socket.socket
        _signal_handlers: dict[int, events.Handle]
        _pool: Pool | None
        _pool_index: int

        def _check_signal(self, sig: int) -> None: ...
        def _check_closed(self) -> None: ...

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
        signals = self._signals_of_others()
        if signals is None:
            super().add_signal_handler(sig, callback, *args)
            return
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        handle = events.Handle(callback, args, self, None)
        signals.add(self, sig, handle)  # type: ignore[arg-type]

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove a handler; say whether there was one. As ``asyncio.loop``'s method."""
        signals = self._signals_of_others()
        if signals is not None:
            self._check_signal(sig)
            return signals.remove(self, sig)  # type: ignore[arg-type]
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

    def _signals_of_others(self) -> PoolSignals | None:
        """Return where the handlers of a loop are that is not loop 0 of its pool."""
        if self._pool is None or self._pool_index == 0:
            return None
        return self._pool._signals

    def _watch_signals(self) -> None:
        """Let any signal end the wait: its Python handler runs in this thread, which may sleep.

        Without it, a signal that arrives between the interpreter's last look at its flags and the
        kernel's wait would go unnoticed until something else happens. Not outside of the main
        thread, and not when somebody else watches already.
        """
        if threading.current_thread() is threading.main_thread():
            _restore_wakeup_fd(
                signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
            )

    def _unwatch_signals(self) -> None:
        # With handlers of its own left, the loop keeps watching, as asyncio's does.
        if threading.current_thread() is not threading.main_thread() or self._signal_handlers:
            return
        if self._pool is not None and self._pool._signals:
            return
        ours = self._csock.fileno()
        previous = signal.set_wakeup_fd(-1)
        if previous != ours:
            _restore_wakeup_fd(previous)


def _restore_wakeup_fd(fd: int) -> None:
    """Give the wakeup descriptor back to whoever had set it: they rely on it, and wake us."""
    if fd != -1:
        with contextlib.suppress(OSError, ValueError):  # they have closed it meanwhile
            signal.set_wakeup_fd(fd)


def _caught(_number: int, _frame: object) -> None:
    """Nothing: the signal's number goes to the loop by the wakeup descriptor."""


def _call(handle: events.Handle) -> None:
    if not handle._cancelled:
        handle._run()
