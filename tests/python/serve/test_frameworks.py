"""Applications of real frameworks under load, while their process is replaced: nothing is lost."""

from __future__ import annotations

import asyncio
import collections
import itertools
from typing import TYPE_CHECKING

import pytest

from ..services import free_port
from ..support import HANG
from .kinds import on_each_kind
from .support import Serve

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    # Two processes begin in it, and each takes its time on a slow machine.
    pytest.mark.timeout(6 * HANG),
]

REQUESTS = 300
"""So many are answered before the replacement begins, and again after it has ended."""
CLIENTS = 16
FRESH = 10
"""Each of so many requests comes on a connection of its own."""

APPLICATIONS = {
    "fastapi": """
        import os
        from contextlib import asynccontextmanager
        from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

        @asynccontextmanager
        async def lifespan(app):
            yield {"pid": os.getpid()}

        app = FastAPI(lifespan=lifespan)

        @app.get("/items/{number}")
        async def item(number: int, request: Request):
            return {"number": number, "pid": request.state.pid}

        @app.websocket("/socket")
        async def socket(socket: WebSocket):
            await socket.accept()
            try:
                while True:
                    await socket.send_text((await socket.receive_text()).upper())
            except WebSocketDisconnect:
                pass
    """,
    "starlette": """
        import os
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route, WebSocketRoute

        @asynccontextmanager
        async def lifespan(app):
            yield {"pid": os.getpid()}

        async def item(request):
            number = int(request.path_params["number"])
            return JSONResponse({"number": number, "pid": request.state.pid})

        async def socket(socket):
            await socket.accept()
            async for text in socket.iter_text():
                await socket.send_text(text.upper())

        routes = [Route("/items/{number}", item), WebSocketRoute("/socket", socket)]
        app = Starlette(routes=routes, lifespan=lifespan)
    """,
    "quart": """
        import os
        from quart import Quart, websocket

        app = Quart(__name__)

        @app.get("/items/<int:number>")
        async def item(number):
            return {"number": number, "pid": os.getpid()}

        @app.websocket("/socket")
        async def socket():
            while True:
                await websocket.send((await websocket.receive()).upper())
    """,
    "raw": """
        import json, os

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                while True:
                    kind = (await receive())["type"]
                    await send({"type": f"{kind}.complete"})
                    if kind == "lifespan.shutdown":
                        return
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"].upper()})
                return
            number = int(scope["path"].rpartition("/")[2])
            body = json.dumps({"number": number, "pid": os.getpid()}).encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
    """,
}


@on_each_kind
@pytest.mark.parametrize("framework", APPLICATIONS)
def test_no_request_is_lost_while_the_process_is_replaced(framework: str, tmp_path: Path) -> None:
    import httpx

    if framework in {"fastapi", "starlette", "quart"}:
        pytest.importorskip(framework)
    port = free_port()
    options = ["--port", str(port), "--loops", "2", "--reuse-port", "--no-access-log"]
    source = APPLICATIONS[framework]
    old = Serve(tmp_path, *options, source=source)
    new = Serve(tmp_path, *options, source=source)
    answered: collections.Counter[int] = collections.Counter()
    lost: list[str] = []
    numbers = itertools.count()
    milestones: dict[int, asyncio.Event] = {}
    begun: list[Serve] = []

    async def ask(client: httpx.AsyncClient, enough: asyncio.Event) -> None:
        while not enough.is_set():
            number = next(numbers)
            fresh = {"connection": "close"} if number % FRESH == 0 else {}
            try:
                answer = await client.get(f"/items/{number}", headers=fresh)
                assert answer.status_code == 200
                told = answer.json()
                assert told["number"] == number
                answered[told["pid"]] += 1
            except Exception as error:
                lost.append(f"{number}: {error!r}")
            if reached := milestones.get(answered.total() + len(lost)):
                reached.set()

    async def until_answered(more: int) -> None:
        reached = milestones[answered.total() + len(lost) + more] = asyncio.Event()
        await reached.wait()

    def replace() -> None:
        new.__enter__()
        begun.append(new)
        old.tell()
        assert old.ended() == 0

    async def main() -> None:
        base = f"http://127.0.0.1:{port}"
        enough = asyncio.Event()
        async with (
            httpx.AsyncClient(base_url=base, timeout=HANG, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(CLIENTS):
                group.create_task(ask(client, enough))
            await until_answered(REQUESTS)
            await asyncio.to_thread(replace)
            await until_answered(REQUESTS)
            enough.set()

    with old:
        try:
            asyncio.run(main())
            assert not lost
            assert answered.keys() == {old.process.pid, new.process.pid}
            assert answered.total() == next(numbers)
            assert "ERROR" not in old.log
            _socket(port)
            new.stop()
        finally:
            for server in begun:
                server.kill()


def _socket(port: int) -> None:
    """Lets a WebSocket speak."""
    from websockets.asyncio.client import connect

    async def main() -> None:
        async with connect(f"ws://127.0.0.1:{port}/socket", proxy=None) as client:
            for text in ("quiet", "x" * 100_000):
                await client.send(text)
                assert await client.recv() == text.upper()

    asyncio.run(asyncio.wait_for(main(), HANG))
