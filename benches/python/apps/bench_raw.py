"""An ASGI application without a framework.

It has `/plain`, `/large`, `/json`, `/db`, `/heavy`, `/state`, `/where`, `/stick` and `/ready`, and
`/echo` and a WebSocket on `/ws`, which send back what they get.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import bench_common as common

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        await _respond(scope["path"], receive, send)


def make() -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application, for servers that ask for a factory."""
    return app


async def _respond(path: str, receive: Receive, send: Send) -> None:
    kind, status = b"application/json", 200
    if path == "/plain":
        body, kind = common.PLAIN, b"text/plain"
    elif path == "/large":
        body, kind = common.LARGE, b"text/plain"
    elif path == "/echo":
        body, kind = await _read(receive), b"application/octet-stream"
    elif path == "/json":
        body = json.dumps(common.MESSAGE).encode()
    elif path == "/db":
        body = json.dumps(await common.query()).encode()
    elif path == "/heavy":
        body = json.dumps(common.work_heavily()).encode()
    elif path == "/state":
        body = json.dumps(common.state()).encode()
    elif path == "/where":
        body, kind = common.where().encode(), b"text/plain"
    elif path == "/stick":
        common.be_stuck()
        body, kind = b"stuck", b"text/plain"
    elif path == "/ready":
        body, kind = b"ready", b"text/plain"
    else:
        body, kind, status = b"not found", b"text/plain", 404
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive) -> bytes:
    """The body of a request."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    common.note_start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
