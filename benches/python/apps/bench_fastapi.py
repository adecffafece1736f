"""As `bench_raw`, in FastAPI, as one writes it there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import bench_common as common
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse


@contextlib.asynccontextmanager
async def _live(_: FastAPI) -> AsyncIterator[None]:
    common.note_start()
    yield


def make() -> FastAPI:
    """The application; each loop has one of its own where a server asks for a factory."""
    app = FastAPI(lifespan=_live)

    @app.get("/plain", response_class=PlainTextResponse)
    async def plain() -> str:
        return common.PLAIN.decode()

    @app.get("/json")
    async def message() -> dict[str, Any]:
        return common.MESSAGE

    @app.get("/db")
    async def row() -> dict[str, Any]:
        return await common.query()

    @app.get("/heavy")
    async def heavy() -> dict[str, Any]:
        return common.work_heavily()

    @app.get("/state")
    async def state() -> dict[str, Any]:
        return common.state()

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await websocket.send_bytes(await websocket.receive_bytes())

    return app


app = make()
