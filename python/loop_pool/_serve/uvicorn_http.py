"""uvicorn's protocols (httptools, h11, zttp, or the program's own) as the HTTP server of a loop."""

from __future__ import annotations

import asyncio
import copy
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, final

from uvicorn.server import ServerState

from .._loop.tls import unsent

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    from .http_server import App


@final
class UvicornHTTP:
    """As ``HTTPServer`` says.

    Args:
        config: loaded; it takes a copy.
        app: what the protocols call.
        access_log: whether the protocols write lines of the access log.
    """

    def __init__(self, config: uvicorn.Config, app: App, *, access_log: bool) -> None:
        self._config = copy.copy(config)
        self._config.loaded_app = app
        # It is the process's (`limit`), and not that of each loop's protocols.
        self._config.limit_concurrency = None
        self._access_log = access_log
        self._state = ServerState()
        self._app_state: dict[str, Any] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._leaving: list[tuple[bytes, bytes]] = []

    @property
    def requests(self) -> int:
        return self._state.total_requests

    @property
    def connections(self) -> set[Any]:
        return self._state.connections

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        return self._state.tasks

    def start(self, state: dict[str, Any]) -> None:
        self._app_state = state
        self._set_headers()

    def make_protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self._config.http_protocol_class
        protocol = make(config=self._config, server_state=self._state, app_state=self._app_state)
        if not self._access_log and hasattr(protocol, "access_log"):
            protocol.access_log = False
        return protocol

    def leave(self) -> None:
        self._leaving = [(b"connection", b"close")]
        self._set_headers()

    def stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()

    def answer_at(self, listener: Any) -> None:
        """Leave that to the application: Python parses the requests."""

    def is_idle(self, connection: Any) -> bool:
        # An HTTP protocol keeps its latest request as `cycle`; a WebSocket's has none.
        if not hasattr(connection, "cycle"):
            return False
        return connection.cycle is None or connection.cycle.response_complete

    def had_request(self, connection: Any) -> bool:
        return getattr(connection, "cycle", None) is not None

    def shut_down(self, connection: Any) -> None:
        connection.shutdown()

    def unfinished(self, connection: Any) -> list[str]:
        transport = connection.transport
        is_http = hasattr(connection, "cycle")
        done = self.is_idle(connection) or (not is_http and transport.is_closing())
        if done and not unsent(transport):
            return []
        # The protocol's own scope may be that of the next request, and not complete.
        cycle = getattr(connection, "cycle", None)
        scope = getattr(connection if cycle is None else cycle, "scope", None)
        if scope is None:
            return [f"a connection from {connection.client}"]
        what = f"{scope.get('method', 'WebSocket')} {scope['path']}"
        return [f"{what} from {scope.get('client')}"]

    def _set_headers(self) -> None:
        """Set what every response bears: the date, each second; the server's name."""
        date = formatdate(time.time(), usegmt=True).encode()
        dated = [(b"date", date)] if self._config.date_header else []
        headers = dated + self._config.encoded_headers + self._leaving
        self._state.default_headers = headers
        self.stop()
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(1 - time.time() % 1, self._set_headers)
