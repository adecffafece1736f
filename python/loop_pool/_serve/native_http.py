"""The HTTP server in Rust as the HTTP server of a loop: ``http="native"``.

It parses and frames below Python. The application is called for what it has to answer, with
``receive`` and ``send`` that may be awaited on every loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, final

from .. import _core
from .._loop.tls import unsent
from .._loop.tls_context import SSLContext, own_connections
from .access_log import log_websocket, uvicorn_log
from .files import send_file
from .tls_extension import described

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable

    import uvicorn

    from .http_server import App
    from .plan import HTTPOptions

logger = logging.getLogger("uvicorn.error")

MAX_HEAD = 64 * 1024
"""Bytes of a request's head, unless an option says another number."""

MAX_FIELDS = 128
"""Header fields of a request."""

SERVER = "loop-pool"
"""The header ``server`` of the responses."""


@final
class NativeHTTP:
    """As ``HTTPServer`` says.

    Args:
        config: loaded.
        app: called for a request without ``x-forwarded-*`` headers.
        proxied_app: called for one that has any.
        options: what uvicorn's configuration does not have.
        peers: loop -> the native server on it; one for all loops of a pool. A loop that is free
            answers requests of one that is not.
        readiness: what ``Health.native_readiness`` returns.
    """

    def __init__(  # noqa: PLR0917
        self,
        config: uvicorn.Config,
        app: App,
        proxied_app: App,
        options: HTTPOptions,
        peers: dict[Any, Any] | None = None,
        readiness: Any = None,
    ) -> None:
        self._config = config
        self._app = app
        self._proxied_app = proxied_app
        self._options = options
        self._peers = {} if peers is None else peers
        self._readiness = readiness
        self._server: Any = None
        self._make: Any = None

    @property
    def requests(self) -> int:
        return 0 if self._server is None else self._server.requests

    @property
    def connections(self) -> list[Any]:
        return [] if self._server is None else self._server.connections

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        return set() if self._server is None else self._server.tasks

    def start(self, state: dict[str, Any]) -> None:
        make_server, self._make = classes()
        loop = asyncio.get_running_loop()
        self._server = make_server(
            loop,
            self._app,
            self._proxied_app,
            state,
            root_path=self._config.root_path,
            http=self._settings(),
        )
        self._peers[loop] = self._server

    def make_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self._make(self._server)
        return protocol

    def leave(self) -> None:
        self._server.leave()

    def stop(self) -> None:
        """Take no requests of other loops any more; the server ends with its connections."""
        self._peers.pop(asyncio.get_running_loop(), None)

    def answer_at(self, listener: Any) -> None:
        self._server.answer_at(listener)

    def is_idle(self, connection: Any) -> bool:
        is_idle: bool = connection.is_idle
        return is_idle

    def had_request(self, connection: Any) -> bool:
        had_request: bool = connection.had_request
        return had_request

    def shut_down(self, connection: Any) -> None:
        connection.shutdown()

    def unfinished(self, connection: Any) -> list[str]:
        under_way: list[str] = connection.unfinished()
        if not under_way and unsent(connection.transport):
            under_way = ["a connection"]
        return [f"{what} from {connection.client}" for what in under_way]

    def _settings(self) -> dict[str, Any]:
        config, options = self._config, self._options
        headers = [
            (name.lower().encode("latin1"), value.encode("latin1"))
            for name, value in config.headers
        ]
        has_server = any(name == b"server" for name, _ in headers)
        logs = config.access_log and options.access_log_format is None
        max_head = options.h1_max_header_size or config.h11_max_incomplete_event_size
        return {
            "max_head": max_head or MAX_HEAD,
            "max_fields": MAX_FIELDS,
            "websocket": config.ws != "none",
            "max_message": sys.maxsize if config.ws_max_size is None else config.ws_max_size,
            "max_queue": config.ws_max_queue,
            "ping_interval": config.ws_ping_interval,
            "ping_timeout": config.ws_ping_timeout,
            "deflate": config.ws_per_message_deflate,
            "server": SERVER if config.server_header and not has_server else None,
            "date": config.date_header,
            "headers": headers,
            "keep_alive": float(config.timeout_keep_alive),
            "request_timeout": options.request_timeout,
            "access_log": uvicorn_log() if logs else None,
            "websocket_log": log_websocket,
            "asgi_version": config.asgi_version,
            "peers": self._peers,
            "readiness": self._readiness,
            "send_file": send_file,
            "describe_tls": described,
            "error_log": _log_error,
            "as_coroutine": _as_coroutine,
        }


def _log_error(message: str, error: BaseException | None) -> None:
    logger.error(message, exc_info=error)


async def _as_coroutine(made: Awaitable[None]) -> None:
    """Await what an application returned instead of a coroutine."""
    return await made


def classes() -> tuple[Any, Any]:
    """Return the classes of the server and of its connections.

    Raises:
        ImportError: this build of the package has none.
    """
    core: Any = _core
    try:
        return core.HTTPServer, core.HTTPConnection
    except AttributeError:
        raise ImportError("http 'native' is not available in this build of loop_pool") from None


def why_not(context: ssl.SSLContext | None) -> str | None:
    """Return why it cannot serve with this context for TLS; ``None``: it can."""
    if context is None:
        return None
    if not isinstance(context, SSLContext):
        return "the context is an ssl.SSLContext, not one of loop_pool.tls"
    return context.fallback_reason or own_connections(context)
