"""The classes of `_core` for `http="native"`, played by uvicorn's protocol.

They keep the contract that `_serve/native_http.py` is written for, so that what is around the
server in Rust is tested by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from loop_pool._serve.uvicorn_http import UvicornHTTP


class Protocol(H11Protocol):
    """An `HTTPConnection`."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def had_request(self) -> bool:
        """Whether there was any."""
        return self.cycle is not None

    def unfinished(self) -> list[str]:
        """What is under way."""
        if self.is_idle:
            return []
        return [f"{self.cycle.scope['method']} {self.cycle.scope['path']}"]


class HTTPServer:
    """As the contract has it. `made` are all of them."""

    made: list[HTTPServer]

    def __init__(
        self,
        loop: Any,
        app: Any,
        proxied_app: Any,
        state: dict[str, Any],
        *,
        root_path: str,
        http: dict[str, Any],
    ) -> None:
        assert loop is asyncio.get_running_loop()
        self.http = http
        self.app = app
        self.state = state

        async def by_headers(scope: Any, receive: Any, send: Any) -> None:
            is_proxied = any(name.startswith(b"x-forwarded-") for name, _ in scope["headers"])
            if http["access_log"] is not None:
                http["access_log"](scope, 200)
            await (proxied_app if is_proxied else app)(scope, receive, send)

        config = uvicorn.Config(
            by_headers,
            http=Protocol,
            interface="asgi3",
            root_path=root_path,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=http["keep_alive"],
        )
        config.load()
        self.uvicorn = UvicornHTTP(config, by_headers, access_log=False)
        self.uvicorn.start(state)
        self.made.append(self)

    requests = property(lambda self: self.uvicorn.requests)
    connections = property(lambda self: list(self.uvicorn.connections))
    tasks = property(lambda self: self.uvicorn.tasks)

    def answer_at(self, listener: Any) -> None:
        """Leaves readiness to the application."""

    def leave(self) -> None:
        """Every response closes its connection."""
        self.uvicorn.leave()


def make_connection(server: HTTPServer) -> asyncio.Protocol:
    """`HTTPConnection(server)`."""
    return server.uvicorn.make_protocol()
