"""The concurrency limit of ``loop_pool.serve``: one number for all loops.

uvicorn's protocols would compare it with the connections of their own loop, and reject requests
before their path is known. So their limit is turned off and enforced here, in front of the
application and behind the health paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, final

from uvicorn.protocols.http.flow_control import service_unavailable

from .._pool.spawn import spawn

if TYPE_CHECKING:
    from .._loop.event_loop import EventLoop
    from .http_server import App, HTTPServer

logger = logging.getLogger("uvicorn.error")

TURNS = 8
"""Turns in which a loop has seen, and handled, that a client has gone."""

TURNS_TIMEOUT = 0.05
"""Seconds after which a loop that has not had its turns is stuck; what it has counts."""


@final
class ConcurrencyLimit:
    """Counts connections and requests of every loop. Any thread.

    Args:
        limit: requests are answered while there are fewer connections, and fewer requests, than
            this; ``None``: always.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._servers: dict[EventLoop, HTTPServer] = {}
        self._looks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        """What loops have begun, each for all of its requests that wait for it."""

    def count(self, loop: EventLoop, http: HTTPServer) -> None:
        """Count what one loop has, from now on."""
        self._servers[loop] = http

    def around(self, app: App) -> App:
        """Return the application with the limit before it."""
        if self._limit is None:
            return app

        async def limited(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and await self._is_still_reached():
                logger.warning("Exceeded concurrency limit.")
                await service_unavailable(scope, receive, send)
            else:
                await app(scope, receive, send)

        return limited

    async def _is_still_reached(self) -> bool:
        """Whether it is reached, once every loop has looked which of its clients have gone."""
        loop = asyncio.get_running_loop()
        # The look that is under way began before this request: only the next one serves for sure.
        for _ in range(2):
            if not self._is_reached():
                return False
            look = self._looks.get(loop)
            is_new = look is None or look.done()
            if look is None or is_new:
                look = self._looks[loop] = loop.create_task(self._let_all_look())
            await asyncio.shield(look)
            if is_new:
                break
        return self._is_reached()

    async def _let_all_look(self) -> None:
        looking: list[Any] = []
        for loop in self._servers:
            # A loop that has ended has no connections.
            with contextlib.suppress(RuntimeError):
                looking.append(spawn(_have_turns(), loop=loop))
        if looking:
            await asyncio.wait(looking, timeout=TURNS_TIMEOUT)

    def _is_reached(self) -> bool:
        """Whether a request is one too many, which is among those that are counted."""
        limit = self._limit or 0
        # Loops that check at the same time see each other's requests, so none admits one too many.
        return (
            sum(len(http.connections) for http in self._servers.values()) >= limit
            or sum(len(http.tasks) for http in self._servers.values()) > limit
        )


async def _have_turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
