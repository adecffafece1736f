"""The paths that ``loop_pool.serve`` answers itself: readiness, liveness, metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, final
from urllib.parse import unquote

from .. import _core
from .._pool.pool import current_pool
from .._pool.spawn import spawn_in
from ..metrics.prometheus import exposition

if TYPE_CHECKING:
    from .http_server import App


class Paths(NamedTuple):
    """Which paths they are, if they are answered at all."""

    readiness: str | None = None
    """200 while the server takes requests, 503 otherwise."""
    liveness: str | None = None
    """200 if every loop answers, otherwise 503 and which do not."""
    liveness_timeout: float = 5.0
    """Seconds that a loop has for its answer."""
    metrics: str | None = None
    """The metrics of the pool, for Prometheus."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@final
class Health:
    """What is asked of the server, besides what it serves. Read and set from any thread.

    Args:
        paths: which are answered.
    """

    def __init__(self, paths: Paths) -> None:
        # A client may escape what it sends; what is compared is not escaped.
        self._answers = {
            unquote(path): answer
            for path, answer in (
                (paths.readiness, self._is_ready),
                (paths.liveness, self._is_alive),
                (paths.metrics, self._metrics),
            )
            if path is not None
        }
        self._timeout = paths.liveness_timeout
        self._readiness_path = paths.readiness
        self._is_up = False
        self._native: Any = None

    @property
    def ready(self) -> bool:
        """Whether the server takes requests."""
        return self._is_up

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._is_up = ready
        if self._native is not None:
            self._native.set(ready)

    def native_readiness(self) -> Any:
        """Return what lets the server in Rust answer for readiness; ``None``: it is not asked.

        It answers also while every loop is stuck.
        """
        if self._readiness_path is not None and self._native is None:
            self._native = _core.HTTPReadiness(self._readiness_path.encode())
            self._native.set(self._is_up)
        return self._native

    def around(self, app: App) -> App:
        """Return the application with these paths before it."""
        answers = self._answers
        if not answers:
            return app

        async def checked(scope: Any, receive: Any, send: Any) -> None:
            answer = answers.get(_path_of(scope)) if scope["type"] == "http" else None
            if answer is None:
                await app(scope, receive, send)
                return
            status, body, content_type = await answer()
            headers = [
                (b"content-type", content_type.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
            ]
            start = {"type": "http.response.start", "status": status, "headers": headers}
            await send(start)
            await send({"type": "http.response.body", "body": body})

        return checked

    async def _is_ready(self) -> _Answer:
        return _Answer(200, b"ready\n") if self.ready else _Answer(503, b"not ready\n")

    async def _metrics(self) -> _Answer:
        content_type, body = exposition(current_pool())
        return _Answer(200, body, content_type)

    async def _is_alive(self) -> _Answer:
        pool = current_pool()
        asked = {
            spawn_in(pool, _answer(), loop=member.loop): member.name for member in pool._members
        }
        _, silent = await asyncio.wait(asked, timeout=self._timeout)  # type: ignore[type-var]
        for task in silent:
            task.cancel()
        if not silent:
            return _Answer(200, b"alive\n")
        names = ", ".join(sorted(asked[task] for task in silent))
        text = f"no response within {self._timeout:g} s from {names}\n"
        return _Answer(503, text.encode())


def _path_of(scope: Any) -> str:
    """Return the path as the client has sent it: uvicorn puts the root path before that."""
    path: str = scope["path"]
    return path.removeprefix(scope["root_path"])


async def _answer() -> None:
    """Nothing: that it has run is the answer."""
