"""The real HTTP packages on our loop, unchanged."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, factory_path

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from ..support import LoopFactory

pytestmark = pytest.mark.usefixtures("clean_process")


def _run[T](main: Coroutine[Any, Any, T], loop_factory: LoopFactory) -> T:
    return asyncio.run(asyncio.wait_for(main, HANG), loop_factory=loop_factory)


# uvicorn

APPLICATION = """
    import asyncio, sys

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        module, _, _ = type(asyncio.get_running_loop()).__module__.partition(".")
        answer = f"{module} {sys._is_gil_enabled()} ".encode() + body
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
"""


class Uvicorn:
    """A uvicorn process that serves `APPLICATION`, and what it has logged."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "application.py").write_text(textwrap.dedent(APPLICATION))
        command = [sys.executable, "-m", "uvicorn", "application:app", "--port", "0"]
        command += ["--app-dir", str(folder), "--no-access-log", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError("".join(self.log))

    def stop(self) -> str:
        """Ends it as a service manager does; returns its log."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=HANG)
        return "".join(self.log) + rest


@pytest.fixture
def uvicorn(loop_factory: LoopFactory, tmp_path: Path, http: str) -> Iterator[Uvicorn]:
    """A running server, on the loop that is tested."""
    server = Uvicorn(tmp_path, "--loop", factory_path(loop_factory), "--http", http)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_uvicorn_serves_an_application(
    uvicorn: Uvicorn, loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    import httpx

    module, _, _ = factory_path(loop_factory).partition(":")
    expected = f"{module} {sys._is_gil_enabled()} "

    async def main() -> None:
        async with httpx.AsyncClient(base_url=uvicorn.url) as client:
            first = await client.get("/")
            assert (first.status_code, first.text) == (200, expected)
            body = "x" * 200_000
            answers = await asyncio.gather(
                *(client.post("/", content=f"{n} {body}") for n in range(20))
            )
            assert [answer.text for answer in answers] == [
                f"{expected}{n} {body}" for n in range(20)
            ]

    _run(main(), loop_factory)
    log = uvicorn.stop()
    assert "Application shutdown complete" in log
    assert "Finished server process" in log
    assert "Traceback" not in log


# aiohttp


def test_aiohttp_talks_to_itself(loop_factory: LoopFactory) -> None:
    from aiohttp import ClientSession, WSMsgType, web

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def echo_socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            assert message.type is WSMsgType.TEXT
            await response.send_str(message.data.upper())
        return response

    async def main() -> None:
        application = web.Application()
        application.add_routes([web.post("/echo", echo), web.get("/socket", echo_socket)])
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with ClientSession(f"http://{host}:{port}") as session:

            async def ask(number: int) -> bytes:
                async with session.post("/echo", data=b"%d" % number * 10_000) as response:
                    assert response.status == 200
                    return await response.read()

            answers = await asyncio.gather(*map(ask, range(20)))
            assert answers == [b"%d" % number * 10_000 for number in range(20)]
            async with session.ws_connect("/socket") as socket:
                await socket.send_str("quiet")
                assert await socket.receive_str() == "QUIET"
        await runner.cleanup()

    _run(main(), loop_factory)


# websockets


def test_websockets_talk_to_each_other(loop_factory: LoopFactory) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()[:2]
            async with connect(f"ws://{host}:{port}") as client:
                for message in ("text", b"bytes", "x" * 200_000):
                    await client.send(message)
                    assert await client.recv() == message

    _run(main(), loop_factory)


# httpx


def test_httpx_asks_a_streams_server(loop_factory: LoopFactory) -> None:
    import httpx

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            async with httpx.AsyncClient() as client:
                responses = await asyncio.gather(
                    *(client.get(f"http://{host}:{port}/{n}") for n in range(10))
                )
        assert [response.text for response in responses] == ["hello"] * 10

    _run(main(), loop_factory)
