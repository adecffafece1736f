"""Extensions of ASGI: what a scope says is there works. On each kind that has any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .server import answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .server import Server

    type Served = Callable[..., Server]


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def with_extension(scope: Any, send: Any, name: str) -> bool:
    """Answers 501 if the server does not have it."""
    if name in scope.get("extensions", {}):
        return True
    await answer(send, b"", 501)
    return False


def test_a_file_by_its_path(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.pathsend"):
            length = b"%d" % path.stat().st_size
            await send(start(200, (b"content-length", length)))
            await send({"type": "http.response.pathsend", "path": str(path)})

    with served(app) as server, server.client() as client:
        for method in ("GET", "GET", "HEAD", "GET"):
            client.request(method)
            response = client.response(method)
            if response.status == 501:
                pytest.skip("it does not have it")
            assert response.field("content-length") == str(path.stat().st_size)
            assert response.body == (path.read_bytes() if method == "GET" else b"")


def test_trailers(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.trailers"):
            await send({**start(200, (b"trailer", b"x-a, x-b")), "trailers": True})
            await send(body(b"body"))
            for name, more in ((b"x-a", True), (b"x-b", False)):
                message = {"type": "http.response.trailers", "headers": [(name, b"value")]}
                await send({**message, "more_trailers": more})

    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request("GET", "/", ("TE", "trailers"))
            response = client.response()
            if response.status == 501:
                pytest.skip("it does not have it")
            assert response.body == b"body"
            assert response.trailers == [("x-a", "value"), ("x-b", "value")]


def test_early_hints(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.early_hint"):
            links = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
            await send({"type": "http.response.early_hint", "links": links})
            await answer(send, b"body")

    with served(app) as server, server.client() as client:
        client.request()
        hint = client.response()
        if hint.status == 501:
            pytest.skip("it does not have it")
        assert hint.status == 103
        assert hint.all("link") == ["</a.css>; rel=preload", "</b.js>; rel=preload"]
        assert client.response().body == b"body"
