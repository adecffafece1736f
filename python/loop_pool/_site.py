"""One loop's share of ``loop_pool.serve``: the application's lifespan there, and its connections.

A site is made, used and ended on its loop. Nothing of it is shared with the others but what the
application itself shares: each has uvicorn's configuration as a copy, its own protocols' state, and
its own lifespan.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, final

from uvicorn.server import ServerState

from ._event_loop import EventLoop
from ._foreign import name_of

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator

    import uvicorn

logger = logging.getLogger("uvicorn.error")

LOOK = 0.02
"""Seconds between two looks at what has not ended yet, while the server shuts down."""

CANCELLED_IN = 1.0
"""Seconds that a cancelled request has to end in."""

_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("loop_pool_quiet", default=False)
"""Whether uvicorn's usual messages are kept back, as another loop tells the same."""


def only_news(record: logging.LogRecord) -> bool:
    """Drop, as a filter of uvicorn's log, what every loop would repeat."""
    return record.levelno > logging.INFO or not _quiet.get()


@final
class Site:
    """What one loop serves.

    Args:
        config: loaded; the site takes a copy.
        share: the number of loops that divide the limits among themselves.
        quiet: whether the lifespan keeps its usual messages to itself.
    """

    def __init__(self, config: uvicorn.Config, share: int, *, quiet: bool) -> None:
        self.config = copy.copy(config)
        if config.limit_concurrency is not None:
            self.config.limit_concurrency = -(-config.limit_concurrency // share)
        self.loop = _running_loop()
        self.name = name_of(self.loop)
        self._state = ServerState()
        self._lifespan: Any = config.lifespan_class(self.config)
        self._clock: asyncio.TimerHandle | None = None
        self._leaving: list[tuple[bytes, bytes]] = []
        self._quiet = quiet
        self._hurried = False
        self._taking: set[asyncio.Task[Any]] = set()

    @property
    def requests(self) -> int:
        """How many requests were answered. From any thread."""
        return self._state.total_requests

    async def start(self) -> bool:
        """Begin the application's lifespan; return whether it began."""
        _quiet.set(self._quiet)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            return False
        self._set_headers()
        return True

    def make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self._state, app_state=self._lifespan.state)

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
        self._leaving = [(b"connection", b"close")]
        self._set_headers()
        for connection in self._connections():
            if not _is_idle(connection):
                connection.shutdown()
        # A connection in its TLS handshake is none of uvicorn's yet, but the listener's.
        closed = None if listening is None else self.loop.create_task(listening.wait_closed())

        def ended() -> bool:
            there = self._state.connections or self._taking
            return not there and (closed is None or closed.done())

        patience = min(time.monotonic() + idle, deadline)
        # uvicorn's sets tell nobody when they are empty.
        while not ended() and not self._hurried and time.monotonic() < patience:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        for connection in self._connections():
            connection.shutdown()
        while not (ended() and not self._state.tasks) and not self._hurried:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(LOOK)
        left = [*self._unfinished()]
        await self._cancel()
        if closed is not None:
            closed.cancel()
        return left

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._hurried = True

    async def stop(self) -> None:
        """End the application's lifespan."""
        if self._clock is not None:
            self._clock.cancel()
        _quiet.set(self._quiet)
        await self._lifespan.shutdown()

    def _set_headers(self) -> None:
        """Set what every answer bears: the date, each second; the server's name."""
        date = formatdate(time.time(), usegmt=True).encode()
        dated = [(b"date", date)] if self.config.date_header else []
        headers = dated + self.config.encoded_headers + self._leaving
        self._state.default_headers = headers
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(1 - time.time() % 1, self._set_headers)

    async def _cancel(self) -> None:
        tasks = [*self._state.tasks, *self._taking]
        for task in tasks:
            task.cancel(msg="Task cancelled, timeout graceful shutdown exceeded")
        if tasks:
            await asyncio.wait(tasks, timeout=CANCELLED_IN)
        for connection in self._connections():
            connection.transport.abort()

    def _connections(self) -> list[Any]:
        return list(self._state.connections)

    def _unfinished(self) -> Iterator[str]:
        for connection in self._connections():
            scope = getattr(connection, "scope", None)
            if _is_idle(connection) or scope is None:
                yield f"{self.name}: a connection from {connection.client}"
                continue
            what = f"{scope.get('method', 'WebSocket')} {scope['path']}"
            yield f"{self.name}: {what} from {scope.get('client')}"
        if not self._state.connections:
            for task in self._state.tasks:
                yield f"{self.name}: {task!r}"


def _is_idle(connection: Any) -> bool:
    """Whether an HTTP connection waits for a request; uvicorn's protocols keep it as ``cycle``."""
    if not hasattr(connection, "cycle"):
        return False
    return connection.cycle is None or connection.cycle.response_complete


def _running_loop() -> EventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, EventLoop)
    return loop
