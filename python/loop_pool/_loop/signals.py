"""Signal handlers of a loop in the main thread, and of the other loops of a pool.

The interpreter runs and sets signal handlers in the main thread only. For a loop of a pool in
another thread, loop 0 catches the signal, if it runs in the main thread, and each loop that has a
handler calls it in its own thread.

Compare these names of asyncio first for a new Python version:
``_handle_signal``, which it overrides, and ``_signal_handlers`` and ``_csock``, which it reads.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import threading
from asyncio import events
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    _Loop = asyncio.SelectorEventLoop
else:
    _Loop = object


CATCH_TIMEOUT = 1.0
"""Seconds that another loop waits for loop 0 to catch a signal; it does so later if it is stuck."""


class PoolSignals:
    """The handlers of the loops of a pool that are not in the main thread. Any thread.

    Args:
        loop_at: returns the loop of an index.
    """

    def __init__(self, loop_at: Callable[[int], HandlesSignals]) -> None:
        self._loop_at = loop_at
        # Made in the thread that runs loop 0.
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        # Re-entrant, as a finalizer may remove a handler.
        self._lock = threading.RLock()
        # For each signal, the handler of each loop that has one. Under the lock.
        self._handlers: dict[int, dict[int, events.Handle]] = {}

    def __contains__(self, sig: int) -> bool:
        return sig in self._handlers

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def add(
        self,
        loop: HandlesSignals,
        sig: int,
        callback: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        """Let a loop's handler be called; return when the signal is caught.

        Raises:
            TypeError: it is no signal, or no callback.
            ValueError: there is no such signal.
            RuntimeError: the loop is closed, or the signal cannot be caught, or not by this pool.
        """
        if inspect.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check(sig)
        if loop.is_closed():
            raise RuntimeError("Event loop is closed")
        if sig in {signal.SIGKILL, signal.SIGSTOP}:
            raise RuntimeError(f"sig {sig} cannot be caught")
        if not self._in_main_thread:
            raise RuntimeError(
                f"{loop!r} cannot have signal handlers: they require loop 0 of the pool to run in "
                "the main thread"
            )
        handle = events.Handle(callback, args, loop, None)
        with self._lock:
            self._handlers.setdefault(sig, {})[loop._pool_index] = handle
        self._on_loop_0(sig)

    def remove(self, loop: HandlesSignals, sig: int) -> bool:
        """Forget a loop's handler; say whether there was one."""
        _check(sig)
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
                self._loop_at(index).call_soon_threadsafe(_call, handle)

    def clear(self) -> None:
        """Forget all handlers, at the end of the pool, in the thread of loop 0."""
        with self._lock:
            signals = list(self._handlers)
            self._handlers.clear()
        for sig in signals:
            self.catch(sig)
        if signals:  # for whose sake the loop went on watching
            self._loop_at(0)._unwatch_signals()

    def catch(self, sig: int) -> None:
        """Catch a signal that a loop has a handler for, and none other. In the main thread."""
        ours = signal.getsignal(sig) is _caught
        if sig in self._handlers:
            if not ours:
                signal.signal(sig, _caught)
                signal.siginterrupt(sig, False)
        elif ours and not self._loop_at(0)._handles(sig):
            signal.signal(
                sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
            )

    def _on_loop_0(self, sig: int) -> None:
        if threading.current_thread() is threading.main_thread():
            self.catch(sig)
            return
        loop = self._loop_at(0)
        caught = threading.Event()

        def catch() -> None:
            try:
                self.catch(sig)
            finally:
                caught.set()

        with contextlib.suppress(RuntimeError):  # it is closed: what it had caught is let go
            loop.call_soon_threadsafe(catch)
            if loop.is_running():
                caught.wait(CATCH_TIMEOUT)


class HandlesSignals(_Loop):
    """What a loop does for signals."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _pool_signals: PoolSignals | None = None
    """The handlers of the loops of its pool."""

    if TYPE_CHECKING:
        _pool_index: int

        # Parts of BaseEventLoop that typeshed leaves out.
        _csock: socket.socket
        _signal_handlers: dict[int, events.Handle]

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
        if removed and self._pool_signals is not None:
            self._pool_signals.catch(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._watch_signals()
        return removed

    def _handle_signal(self, sig: int) -> None:
        super()._handle_signal(sig)  # type: ignore[misc]
        if self._pool_signals is not None:
            self._pool_signals.call(sig)

    def _handles(self, sig: int) -> bool:
        return sig in self._signal_handlers

    def _signals_of_others(self) -> PoolSignals | None:
        """Return where the handlers of a loop are that is not loop 0 of its pool."""
        return None if self._pool_signals is None or self._pool_index == 0 else self._pool_signals

    def _watch_signals(self) -> None:
        watch(self._csock.fileno())

    def _unwatch_signals(self) -> None:
        # With handlers left, the loop keeps watching, as asyncio's does.
        if not self._signal_handlers and not self._pool_signals:
            unwatch(self._csock.fileno())


def watch(fd: int) -> None:
    """Let any signal end a loop's wait: its Python handler runs in this thread, which may sleep.

    Without it, a signal that arrives between the interpreter's last look at its flags and the
    kernel's wait would go unnoticed until something else happens. Not outside of the main thread,
    and not when somebody else watches already.
    """
    if threading.current_thread() is threading.main_thread():
        _restore(signal.set_wakeup_fd(fd, warn_on_full_buffer=False))


def unwatch(fd: int) -> None:
    """End what :func:`watch` has begun."""
    if threading.current_thread() is threading.main_thread():
        previous = signal.set_wakeup_fd(-1)
        if previous != fd:
            _restore(previous)


def _restore(fd: int) -> None:
    """Give the wakeup descriptor back to whoever had set it: they rely on it, and wake us."""
    if fd != -1:
        with contextlib.suppress(OSError, ValueError):  # they have closed it meanwhile
            signal.set_wakeup_fd(fd)


def _check(sig: int) -> None:
    """Refuse what asyncio refuses."""
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _caught(_number: int, _frame: object) -> None:
    """Nothing: the signal's number goes to the loop by the wakeup descriptor."""


def _call(handle: events.Handle) -> None:
    if not handle.cancelled():
        handle._run()
