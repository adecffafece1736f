"""The limit of concurrency of ``loop_pool.serve``: one number for all loops.

uvicorn's protocols would each compare it with what their own loop has, and refuse before anybody
can look at the path. So they are told of no limit, and it is kept here, in front of the application
and behind what the server answers itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

from uvicorn.protocols.http.flow_control import service_unavailable

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from ._health import App

logger = logging.getLogger("uvicorn.error")


@final
class ConcurrencyLimit:
    """Counts connections and requests of every loop. Any thread.

    Args:
        limit: requests are answered while there are fewer connections, and fewer requests, than
            this; ``None``: always.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._states: list[ServerState] = []

    def count(self, state: ServerState) -> None:
        """Count what one loop has, from now on."""
        self._states.append(state)

    def around(self, app: App) -> App:
        """Return the application with the limit before it."""
        if self._limit is None:
            return app

        async def limited(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and self._is_reached():
                logger.warning("Exceeded concurrency limit.")
                await service_unavailable(scope, receive, send)
            else:
                await app(scope, receive, send)

        return limited

    def _is_reached(self) -> bool:
        """Whether a request is one too many, which is among those that are counted."""
        limit = self._limit or 0
        # Loops that are asked at the same time see each other's: none lets one more in.
        return (
            sum(len(state.connections) for state in self._states) >= limit
            or sum(len(state.tasks) for state in self._states) > limit
        )
