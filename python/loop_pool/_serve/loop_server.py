"""The part of ``loop_pool.serve`` on one loop: the application's lifespan and its connections.

A :class:`LoopServer` is created, used and stopped on its loop. It shares nothing with the others
except the application: it has its own lifespan, and its own HTTP server (``http_server``), which
makes the connections' protocols. What is here holds for every kind of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import time
from typing import TYPE_CHECKING, Any, final

from .._loop.cross_loop_checks import name_of
from .._loop.event_loop import EventLoop
from .._loop.tls import unsent
from .affinity import usable_on_every_loop

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    import uvicorn

    from .http_server import HTTPServer

logger = logging.getLogger("uvicorn.error")

LOOK = 0.02
"""Seconds between two looks at what has not ended yet, while the server shuts down."""

ARRIVED = 0.25
"""Seconds that a new connection has, at least, to show the request that it was opened for."""

TLS_TIMEOUT = 1.0
"""Seconds that a client has, at least, to end its TLS handshake, or to say goodbye in TLS."""

CANCELLED_IN = 1.0
"""Seconds that a cancelled request has to end in."""

_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("loop_pool_quiet", default=False)
"""Whether uvicorn's usual messages are kept back, as another loop tells the same."""


def only_news(record: logging.LogRecord) -> bool:
    """Drop, as a filter of uvicorn's log, what every loop would repeat."""
    return record.levelno > logging.INFO or not _quiet.get()


@final
class LoopServer:
    """What one loop serves.

    Args:
        config: loaded.
        http: of this loop; not started.
        quiet: whether the lifespan keeps its usual messages to itself.
    """

    def __init__(self, config: uvicorn.Config, http: HTTPServer, *, quiet: bool) -> None:
        self.config = config
        self.http = http
        self.loop = _running_loop()
        self.name = name_of(self.loop)
        self.error: BaseException | None = None
        """What the application raised in its lifespan."""
        observed = copy.copy(self.config)
        observed.loaded_app = usable_on_every_loop(self._observed)
        self._lifespan: Any = config.lifespan_class(observed)
        self._quiet = quiet
        self._stopped = False
        self._forced = False
        self._taking: set[asyncio.Task[Any]] = set()

    @property
    def requests(self) -> int:
        """How many requests were answered. From any thread."""
        return self.http.requests

    async def start(self) -> bool:
        """Begin the application's lifespan; return whether it began."""
        _quiet.set(self._quiet)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            return False
        self.http.start(self._lifespan.state)
        return True

    def make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return self.http.make_protocol()

    def take(self, conn: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve a connection that has been accepted already."""
        task = self.loop.create_task(self._take(conn, context))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _take(self, conn: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            await self.loop.connect_accepted_socket(self.make_protocol, conn, ssl=context)
        except OSError as error:  # the client has gone, or failed at TLS
            logger.info("A connection was lost while shutting down: %s", error)

    async def drain(
        self,
        listening: asyncio.AbstractServer | None,
        idle: float,
        deadline: float,
    ) -> list[str]:
        """End the connections: those that wait for a request last.

        Each answer says that the connection closes. One that waits for its next request may send
        one more for ``idle`` seconds. What has not ended by the deadline is cancelled.

        Args:
            listening: the loop's listeners, which have been closed.
            idle: seconds.
            deadline: on the clock ``time.monotonic``.

        Returns:
            What had to be cancelled, in words.
        """
        self.http.leave()
        # During its TLS handshake a connection belongs to the listener, not yet to the HTTP server.
        closed = None if listening is None else self.loop.create_task(listening.wait_closed())
        seen: dict[Any, float] = {}
        ending: set[Any] = set()
        begun = served = time.monotonic()
        # Nothing tells that the last of them has ended, so they are polled.
        while not self._forced:
            now = time.monotonic()
            late = now >= deadline
            for connection in self._connections():
                waited = now - seen.setdefault(connection, now)
                if connection in ending or connection.transport.is_closing():
                    continue
                if late or self._may_end(connection, waited, idle):
                    ending.add(connection)
                    self.http.shut_down(connection)
            there = self.http.connections or self.http.tasks or self._taking
            if not there and (closed is None or closed.done()):
                break
            if not all(_has_all(connection) for connection in self._connections()):
                served = now
            elif now - served >= TLS_TIMEOUT and now - begun >= idle:
                # Only clients that have not completed their part of TLS remain.
                if listening is not None:
                    listening.close_clients()
                for task in self._taking:
                    task.cancel()
            await asyncio.sleep(LOOK)
            if late:
                break
        left = [*self._unfinished()]
        await self._cancel()
        if closed is not None:
            closed.cancel()
        return left

    def force(self) -> None:
        """Wait for nothing any more."""
        self._forced = True

    async def stop(self) -> None:
        """End the application's lifespan."""
        self.http.stop()
        _quiet.set(self._quiet)
        had_one = self.error is None
        await self._lifespan.shutdown()
        self._stopped = True
        if had_one and self.error is not None and self.config.lifespan == "auto":
            # uvicorn would only say that there seems to be no lifespan.
            logger.error("%s: exception in 'lifespan' protocol", self.name, exc_info=self.error)

    async def _observed(self, scope: Any, receive: Any, send: Any) -> None:
        """Be the application, for its lifespan; keep what it raises, which uvicorn does not."""
        try:
            await self.config.loaded_app(scope, receive, send)
        except BaseException as error:
            self.error = error
            # It has said that all is done, and what it does after that is cancelled with the pool.
            if not (self._stopped and isinstance(error, asyncio.CancelledError)):
                raise

    async def _cancel(self) -> None:
        tasks = [*self.http.tasks, *self._taking]
        for task in tasks:
            task.cancel(msg="Task cancelled, timeout graceful shutdown exceeded")
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED_IN)
        for connection in self._connections():
            connection.transport.abort()

    def _connections(self) -> list[Any]:
        return list(self.http.connections)

    def _unfinished(self) -> Iterator[str]:
        """Name what is under way: not what waits for a request, or for the end of TLS."""
        named = False
        for connection in self._connections():
            for what in self.http.unfinished(connection):
                named = True
                yield f"{self.name}: {what}"
        if not named:
            for task in self.http.tasks:
                yield f"{self.name}: {task!r}"

    def _may_end(self, connection: Any, waited: float, idle: float) -> bool:
        """Whether to shut down a connection, which was first seen ``waited`` seconds ago."""
        if not self.http.is_idle(connection):
            return True
        return waited >= (idle if self.http.had_request(connection) else max(idle, ARRIVED))


def _has_all(connection: Any) -> bool:
    """Whether a connection is closing and its client has been sent all that was for it."""
    transport = connection.transport
    return transport.is_closing() and not unsent(transport)


def _running_loop() -> EventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, EventLoop)
    return loop
