"""The two paths that ``loop_pool.serve`` answers itself: readiness and liveness."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, final
from urllib.parse import unquote

from .._pool.pool import current_pool
from .._pool.spawn import spawn_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

type App = Callable[[Any, Any, Any], Awaitable[None]]


@final
class Health:
    """What is asked of the server, besides what it serves. Read and set from any thread.

    Args:
        readiness: the path that says 200 while the server takes requests, 503 otherwise.
        liveness: the path that says 200 if every loop answers, and otherwise 503 and which do not.
        timeout: seconds that a loop has for its answer.
    """

    def __init__(self, readiness: str | None, liveness: str | None, timeout: float) -> None:
        # A client may escape what it sends; what is compared is not escaped.
        self._answers = {
            unquote(path): answer
            for path, answer in ((readiness, self._is_ready), (liveness, self._is_alive))
            if path is not None
        }
        self._timeout = timeout
        self.ready = False

    def around(self, app: App) -> App:
        """Return the application with the two paths before it."""
        answers = self._answers
        if not answers:
            return app

        async def checked(scope: Any, receive: Any, send: Any) -> None:
            answer = answers.get(_path_of(scope)) if scope["type"] == "http" else None
            if answer is None:
                await app(scope, receive, send)
                return
            status, text = await answer()
            body = text.encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
            ]
            start = {"type": "http.response.start", "status": status, "headers": headers}
            await send(start)
            await send({"type": "http.response.body", "body": body})

        return checked

    async def _is_ready(self) -> tuple[int, str]:
        return (200, "ready\n") if self.ready else (503, "not ready\n")

    async def _is_alive(self) -> tuple[int, str]:
        pool = current_pool()
        asked = {
            spawn_in(pool, _answer(), loop=member.loop): member.name for member in pool._members
        }
        _, silent = await asyncio.wait(asked, timeout=self._timeout)  # type: ignore[type-var]
        for task in silent:
            task.cancel()
        if not silent:
            return 200, "alive\n"
        names = ", ".join(sorted(asked[task] for task in silent))
        return 503, f"no response within {self._timeout:g} s from {names}\n"


def _path_of(scope: Any) -> str:
    """Return the path as the client has sent it: uvicorn puts the root path before that."""
    path: str = scope["path"]
    return path.removeprefix(scope["root_path"])


async def _answer() -> None:
    """Nothing: that it has run is the answer."""
