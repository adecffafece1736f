"""Many calls at once: ``gather``, ``as_completed``, ``map``, ``call``, ``broadcast``.

A coroutine becomes a :class:`PoolTask`, which is a future to asyncio, so ``gather`` and
``as_completed`` are asyncio's own from there on.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from builtins import map as _map
from collections.abc import AsyncGenerator, AsyncIterable, Generator
from typing import TYPE_CHECKING, Any, Literal, overload

from .pool import current_pool
from .spawn import PoolTask, spawn, spawn_in

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
    )
    from typing import Protocol

    from .._loop.event_loop import EventLoop

    class _Completions[T](Protocol):
        """What ``asyncio.as_completed`` returns."""

        def __iter__(self) -> Iterator[Coroutine[Any, Any, T]]: ...
        def __aiter__(self) -> AsyncIterator[asyncio.Future[T]]: ...


CALLS_PER_LOOP = 8
"""Calls of one ``map`` that are under way for each loop, if it is given no limit."""

READ_AHEAD = 2
"""What a ``map`` reads of its iterables before the first result is fetched, in limits."""


@overload
def gather[T](
    *aws: Awaitable[T], return_exceptions: Literal[False] = False
) -> asyncio.Future[list[T]]: ...
@overload
def gather[T](
    *aws: Awaitable[T], return_exceptions: bool
) -> asyncio.Future[list[T | BaseException]]: ...
def gather(*aws: Awaitable[Any], return_exceptions: bool = False) -> asyncio.Future[list[Any]]:
    """Run coroutines on all loops and collect their results in order. As ``asyncio.gather``.

    Call it from a thread of the pool, and await the returned future there.

    Args:
        aws: coroutines, which are spawned, and other awaitables, which are handled as in asyncio.
            A duplicate runs once.
        return_exceptions: whether to return exceptions as results; otherwise the first one is
            raised, and the other coroutines continue.

    Returns:
        A future of the running loop; cancelling it cancels all of ``aws``.

    Raises:
        TypeError: one of ``aws`` is not awaitable; nothing has been spawned.
        RuntimeError: as :func:`spawn`.
    """
    tasks = _spawn_each(aws)
    return asyncio.gather(*tasks, return_exceptions=return_exceptions)


def as_completed[T](
    aws: Iterable[Awaitable[T]], *, timeout: float | None = None
) -> _Completions[T]:
    """Run coroutines on all loops and yield them as they end. As ``asyncio.as_completed``.

    Call it from a thread of the pool. ``async for`` yields the futures themselves, which are tasks
    of the pool for coroutines; ``for`` yields coroutines that return the next result or raise its
    exception.

    Args:
        aws: coroutines, which are spawned, and other awaitables, as for :func:`gather`.
        timeout: seconds after which the iteration raises ``TimeoutError``.

    Raises:
        TypeError: ``aws`` is not iterable, or contains an object that is not awaitable.
        RuntimeError: as :func:`spawn`.
    """
    if inspect.isawaitable(aws):
        raise TypeError(f"expects an iterable of awaitables, not {type(aws).__name__}")
    return asyncio.as_completed(_spawn_each(tuple(aws)), timeout=timeout)


def _spawn_each(aws: tuple[Awaitable[Any], ...]) -> list[Awaitable[Any]]:
    """Replace each coroutine by a task of the pool, the same one where it is the same."""
    for each in aws:
        if not inspect.isawaitable(each):
            raise TypeError(f"a coroutine, a future or another awaitable is required, not {each!r}")
    spawned: dict[int, PoolTask[Any]] = {}
    try:
        for each in aws:
            if asyncio.iscoroutine(each) and id(each) not in spawned:
                spawned[id(each)] = spawn(each)
    except BaseException:
        for task in spawned.values():
            task.cancel()
        for each in aws:
            if asyncio.iscoroutine(each) and id(each) not in spawned:
                each.close()
        raise
    return [spawned.get(id(each), each) for each in aws]


@overload
async def call[**P, T](
    loop: EventLoop, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
@overload
async def call[**P, T](
    loop: EventLoop, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...
async def call(loop: EventLoop, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function on one loop of the pool and return its result.

    Await it in a thread of the same pool. Cancelling the awaiter cancels the call.

    Args:
        loop: the loop to call it on.
        fn: a function, called in the thread of that loop in a copy of the current context. It
            blocks the loop until it returns. An awaitable that it returns is awaited there.
        args: positional arguments for ``fn``.
        kwargs: keyword arguments for ``fn``.

    Raises:
        RuntimeError: as :func:`spawn`.
        BaseException: whatever ``fn`` raises.
    """
    return await spawn(_calling(fn, args, kwargs), loop=loop)


@overload
async def broadcast[**P, T](
    fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> list[T]: ...
@overload
async def broadcast[**P, T](
    fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> list[T]: ...
async def broadcast(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> list[Any]:
    """Call a function on every loop of the pool concurrently.

    Await it in a thread of the pool. A failed call does not affect the others. Cancelling the
    awaiter cancels the calls.

    Args:
        fn: see :func:`call`.
        args: positional arguments for ``fn``.
        kwargs: keyword arguments for ``fn``.

    Returns:
        The results, in the order of ``pool.loops``.

    Raises:
        BaseExceptionGroup: the exceptions of the calls, raised when all calls have ended. Each has
            a note that names its loop.
        asyncio.CancelledError: a call was cancelled, and none failed.
        RuntimeError: as :func:`spawn`.
    """
    pool = current_pool()
    tasks: list[PoolTask[Any]] = []
    try:
        for loop in pool.loops:
            tasks.append(spawn_in(pool, _calling(fn, args, kwargs), loop=loop))
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    await asyncio.gather(*tasks, return_exceptions=True)
    errors = []
    for task, loop in zip(tasks, pool.loops, strict=True):
        if not task.cancelled() and (error := task.exception()) is not None:
            error.add_note(f"on {loop._name()}")
            errors.append(error)
    try:
        if errors:
            raise BaseExceptionGroup("unhandled errors in broadcast()", errors)
        return [task.result() for task in tasks]
    finally:
        del errors, tasks


def _calling(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Coroutine[Any, Any, Any]:
    """Return a coroutine that calls a function, and is called as that is, for who lists tasks."""
    coro = _call(fn, args, kwargs)
    for name in ("__name__", "__qualname__"):
        known = getattr(fn, name, None)
        if isinstance(known, str):
            setattr(coro, name, known)
    return coro


async def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = fn(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


@overload
def map[T](  # noqa: A001
    fn: Callable[..., Awaitable[T]],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    limit: int | None = None,
) -> AsyncGenerator[T]: ...
@overload
def map[T](  # noqa: A001
    fn: Callable[..., T],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    limit: int | None = None,
) -> AsyncGenerator[T]: ...
def map(  # noqa: A001
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any] | AsyncIterable[Any],
    limit: int | None = None,
) -> AsyncGenerator[Any]:
    """Call a function for each item, on all loops, and yield the results in the items' order.

    Call it from a thread of the pool. No call starts before the first result is requested::

        async for page in loop_pool.map(fetch, urls, limit=20):
            ...

    Closing the iterator (``aclose()``; the loop does this if the iteration ends early) cancels the
    running calls, waits for them, and closes the generators among the iterables. The first
    exception of a call or an iterable is raised at its position among the results and closes the
    iterator; exceptions of other calls are then dropped, as in ``gather``.

    Args:
        fn: see :func:`call`; it runs on any loop.
        iterables: the arguments, until the shortest iterable is exhausted. They are read on the
            iterating loop, at most two times ``limit`` items ahead.
        limit: the maximum number of concurrent calls; ``None``: eight per loop.

    Raises:
        TypeError: no iterable was given, an argument is not iterable, or ``limit`` is not an
            integer.
        ValueError: ``limit`` is below 1.
        RuntimeError: no pool runs in this thread.
    """
    if limit is None:
        limit = CALLS_PER_LOOP * len(current_pool().loops)
    elif not isinstance(limit, int):
        raise TypeError(f"limit must be an integer, got {limit!r}")
    elif limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not iterables:
        raise TypeError("map() must have at least one iterable")
    current_pool()
    return _results(fn, tuple(_map(_asynchronous, iterables)), limit)


def _asynchronous(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        return aiter(items)
    return _Each(iter(items))


class _Each:
    """A plain iterator, asynchronously."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __aiter__(self) -> _Each:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        # Anything else that can be closed, such as a file, belongs to the program.
        if isinstance(self._items, Generator):
            self._items.close()


class _Feed:
    """Reads the items and begins the calls, beside the one who fetches the results."""

    def __init__(
        self, fn: Callable[..., Any], sources: tuple[AsyncIterator[Any], ...], limit: int
    ) -> None:
        self._fn = fn
        self._is_async = inspect.iscoroutinefunction(fn)
        self._sources = sources
        self._under_way = asyncio.Semaphore(limit)
        self._ahead = asyncio.Semaphore(READ_AHEAD * limit)
        self._tasks: asyncio.Queue[PoolTask[Any]] = asyncio.Queue()
        self._pending: set[PoolTask[Any]] = set()
        self._unseen: set[PoolTask[Any]] = set()  # which nobody has fetched from here
        self._closing = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                await self._ahead.acquire()
                await self._under_way.acquire()
                try:
                    args = tuple([await anext(source) for source in self._sources])
                except StopAsyncIteration:
                    return
                if self._closing:  # an iterable has swallowed the cancellation
                    return
                task = spawn(self._begin(args))
                self._pending.add(task)
                self._unseen.add(task)
                task.add_done_callback(self._ended)
                self._tasks.put_nowait(task)
        finally:
            self._tasks.shutdown()

    def _begin(self, args: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        if self._is_async:
            coro: Coroutine[Any, Any, Any] = self._fn(*args)
            return coro
        return _calling(self._fn, args, {})

    def _ended(self, task: PoolTask[Any]) -> None:
        self._pending.discard(task)
        self._under_way.release()

    async def next(self) -> PoolTask[Any] | None:
        """Return the next call; None after the last, or raise what an iterable raised."""
        try:
            task = await self._tasks.get()
        except asyncio.QueueShutDown:
            await self._task
            return None
        self._ahead.release()
        self._unseen.discard(task)
        return task

    async def close(self) -> None:
        """Cancel what is under way, wait for it, however often that is cancelled, and close."""
        cancelled = None
        self._closing = True
        self._task.cancel()
        while waited := {*self._pending, *(() if self._task.done() else (self._task,))}:
            for task in self._pending:
                task.cancel()
            try:
                await asyncio.wait(waited)
            except asyncio.CancelledError as error:
                cancelled = error
        async with contextlib.AsyncExitStack() as closing:
            for source in self._sources:
                if isinstance(source, AsyncGenerator | _Each):
                    closing.push_async_callback(source.aclose)
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled  # it refers to this frame

    def drop_errors(self) -> None:
        """Let nobody hear of the exceptions of calls whose results nobody has fetched."""
        for task in self._unseen:
            if task.done() and not task.cancelled():
                task.exception()


async def _results(
    fn: Callable[..., Any], sources: tuple[AsyncIterator[Any], ...], limit: int
) -> AsyncGenerator[Any]:
    feed = _Feed(fn, sources, limit)
    has_failed = False
    try:
        while (task := await feed.next()) is not None:
            try:
                result = await task
            except BaseException:
                has_failed = True
                raise
            yield result
    except GeneratorExit, asyncio.CancelledError:
        raise
    except BaseException:
        has_failed = True
        raise
    finally:
        task = result = None  # its exception's traceback refers to this frame
        try:
            await feed.close()
        finally:
            if has_failed:
                feed.drop_errors()
