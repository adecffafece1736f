"""``run_in_executor`` by the default executor, without a future between the call and its result.

asyncio makes a ``concurrent.futures.Future`` for each call, and two callbacks that keep it and
asyncio's own future alike: a third to a half of what such a call takes. Here the entry in the
executor's queue is the call itself, which posts its result to the loop. Threads, queue and end are
the executor's.

Any other executor than a plain ``ThreadPoolExecutor``, one whose ``submit`` the program has
replaced, and debug mode go asyncio's way.

Compare these names first for a new Python version:

==========================================  ======================================================
private name                                use here
==========================================  ======================================================
``BaseEventLoop._default_executor``,        the executor, unless the loop has ended it
``_check_default_executor``
``ThreadPoolExecutor._shutdown_lock``,      what ``submit`` does, but for the future that it makes
``_broken``, ``_shutdown``,
``_work_queue``, ``_adjust_thread_count``;
``thread._global_shutdown_lock`` and
``thread._shutdown``
``run`` and ``future`` of ``_WorkItem``     what the executor asks of an entry of its queue
``futures._convert_future_exc``             asyncio's exceptions in place of the executor's
==========================================  ======================================================
"""

from __future__ import annotations

import asyncio
import logging
import types
from asyncio import events, futures
from concurrent.futures import Executor, ThreadPoolExecutor, thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    _Loop = asyncio.SelectorEventLoop
else:
    _Loop = object

_log = logging.getLogger("concurrent.futures")
_submit = ThreadPoolExecutor.submit
_in_asyncio_terms = futures._convert_future_exc  # type: ignore[attr-defined]
_IS_KNOWN = type(_submit) is types.FunctionType and {
    "_adjust_thread_count",
    "_broken",
    "_global_shutdown_lock",
    "_shutdown",
    "_shutdown_lock",
    "_work_queue",
}.issubset(_submit.__code__.co_names)
"""Whether it is the one that is done alike here: no wrapper, and no other version's."""


class _Call:
    """A call in the queue of a thread pool. To the pool it is an entry, and the entry's future."""

    __slots__ = ("_args", "_func", "_future", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._loop = loop
        self._func = func
        self._args = args
        self._future: asyncio.Future[Any] = loop.create_future()

    def run(self, context: object) -> None:
        """Make the call, unless it was cancelled. In a thread of the executor's."""
        if self._future.cancelled():
            return
        func, args = self._func, self._args
        # The loop has this until it takes the result; the arguments are not to live so long.
        del self._func, self._args
        try:
            result = func(*args)
        except BaseException as exc:
            del func, args
            self._post(self._fail, _in_asyncio_terms(exc))
            del self  # the exception keeps this frame
        else:
            del func, args
            self._post(self._succeed, result)

    @property
    def future(self) -> _Call:
        """What the executor cancels, or ends with an error, if it drops the entry."""
        return self

    def cancel(self) -> None:
        """Cancel a call that the executor drops. Any thread."""
        if events._get_running_loop() is self._loop:
            self._future.cancel()
        else:
            self._post(self._future.cancel)

    def set_exception(self, exc: BaseException) -> None:
        """End a call that the executor drops as it is broken. Any thread."""
        self._post(self._fail, exc)

    def _post(self, function: Callable[..., Any], *args: Any) -> None:
        """Have the loop call a function; nothing if it is closed. An error would end the thread."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except Exception:
            if not self._loop.is_closed():
                # As `concurrent.futures` says of a callback of a future that raises.
                _log.exception("exception calling callback for %r", self._future)

    def _succeed(self, result: object) -> None:
        if not self._future.cancelled():
            self._future.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        if not self._future.cancelled():
            self._future.set_exception(exc)


def _put(
    executor: Any,
    loop: asyncio.AbstractEventLoop,
    func: Callable[..., Any],
    args: tuple[Any, ...],
) -> asyncio.Future[Any] | None:
    """Do as ``ThreadPoolExecutor.submit`` does; ``None``, and nothing, if it would refuse."""
    with executor._shutdown_lock, thread._global_shutdown_lock:
        if executor._broken or executor._shutdown or thread._shutdown:
            return None
        call = _Call(loop, func, args)
        executor._work_queue.put(call)
        executor._adjust_thread_count()
        return call._future


class CallsExecutor(_Loop):
    """How a loop has functions called in threads."""

    if not TYPE_CHECKING:
        __slots__ = ()

    if TYPE_CHECKING:
        # Parts of BaseEventLoop that typeshed leaves out, and of the native half.
        _debug: bool
        _default_executor: Executor | None

        def _check_default_executor(self) -> None: ...

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call a function in a thread; return a future. As ``asyncio.loop.run_in_executor``."""
        default = self._default_executor
        if (
            executor is None
            and _IS_KNOWN
            and type(default) is ThreadPoolExecutor
            and type(default).submit is _submit
            and "submit" not in vars(default)
            and not self._debug
            and not self.is_closed()
        ):
            self._check_default_executor()
            future = _put(default, self, func, args)
            if future is not None:
                return future
        return super().run_in_executor(executor, func, *args)

    def _threads_of_executor(self) -> list[threading.Thread]:
        """Return those of the default executor, as far as it shows them."""
        return list(getattr(self._default_executor, "_threads", ()))

    def _forget_default_executor(self) -> None:
        """Leave an executor that did not end in time to itself; closing does not wait for it."""
        self._default_executor = None
