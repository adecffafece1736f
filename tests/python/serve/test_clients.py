"""Clients of others at `loop-pool serve`: curl, httpx, aiohttp, websockets, a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from ..services import program
from ..support import HANG
from .kinds import on_each_kind
from .support import Serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
    on_each_kind,
]

APPLICATION = """
    import asyncio, pathlib, sys

    PAGE = pathlib.Path(__file__).with_name("page.html")

    async def websocket(scope, receive, send):
        await receive()
        chosen = (scope["subprotocols"] or [None])[0]
        await send({"type": "websocket.accept", "subprotocol": chosen})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4000, "reason": "as you wish"})
                return
            await send({**message, "type": "websocket.send"})

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            return await websocket(scope, receive, send)
        headers = [(b"content-type", b"text/plain"), (b"x-method", scope["method"].encode())]

        async def start(status=200):
            await send({"type": "http.response.start", "status": status, "headers": headers})

        if scope["path"] == "/events":
            headers[0] = (b"content-type", b"text/event-stream")
            await start()
            for number in range(3):
                event = f"id: {number}\\ndata: event {number}\\n\\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if scope["path"] == "/streamed":
            await start()
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                more = message["more_body"]
                part = {"body": message["body"], "more_body": more}
                await send({"type": "http.response.body", **part})
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/page":
            headers[0] = (b"content-type", b"text/html")
            body = PAGE.read_bytes()
        elif scope["path"] == "/report":
            sys.stdout.write(f"report {body.decode()}\\n")
            sys.stdout.flush()
        elif scope["path"] == "/nothing":
            await start(204)
            return await send({"type": "http.response.body"})
        headers.append((b"content-length", str(len(body)).encode()))
        await start()
        await send({"type": "http.response.body", "body": body})
"""
"""Sends back bodies and messages."""

BODY = bytes(range(256)) * 4_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serve]:
    """A server of the application, which ends well."""
    options = ["--port", "0", "--loops", "2", "--lifespan", "off", "--no-access-log"]
    with Serve(tmp_path, *options, source=APPLICATION) as serve:
        yield serve
        serve.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a client; a hang is a failure."""
    asyncio.run(asyncio.wait_for(main, HANG))


# curl


def curl(server: Serve, *options: object, path: str = "/") -> bytes:
    """What curl prints."""
    command = [program("curl"), "--silent", "--show-error", "--max-time", HANG, *options]
    done = subprocess.run(
        [*map(str, command), server.where + path], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def test_curl(server: Serve, tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BODY)
    # With `Expect: 100-continue`, which curl adds to large ones, and without; with a length and in
    # chunks; in each version.
    for options in (
        ["--data-binary", f"@{file}"],
        ["--data-binary", f"@{file}", "--header", "Expect:"],
        ["--data-binary", f"@{file}", "--header", "Expect: 100-continue"],
        ["--data-binary", f"@{file}", "--http1.0"],
        ["--upload-file", file],
        ["--data-binary", f"@{file}", "--header", "Transfer-Encoding: chunked"],
    ):
        assert curl(server, *options) == BODY, options
    assert curl(server, "--data-binary", f"@{file}", path="/streamed") == BODY
    assert curl(server, "--request", "PURGE", "--include").startswith(b"HTTP/1.1 ")
    assert b"x-method: HEAD" in curl(server, "--head")
    written = ["--write-out", "%{http_code} %{num_connects}\n"]
    assert curl(server, *written, path="/nothing") == b"204 1\n"
    url = server.where
    again = [*written, "--data", "x", f"{url}/", f"{url}/", f"{url}/"]
    assert curl(server, *again) == b"x200 1\n" + b"x200 0\n" * 3


# Libraries


def test_httpx(server: Serve) -> None:
    import httpx

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 100_000):
            yield BODY[start : start + 100_000]

    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.where, timeout=HANG) as client:
            assert (await client.get("/nothing")).status_code == 204
            answers = await asyncio.gather(*(client.put("/", content=b"%d" % n) for n in range(50)))
            assert [answer.content for answer in answers] == [b"%d" % n for n in range(50)]
            assert {answer.headers["x-method"] for answer in answers} == {"PUT"}
            async with client.stream("POST", "/streamed", content=parts()) as response:
                assert response.headers["transfer-encoding"] == "chunked"
                assert b"".join([part async for part in response.aiter_bytes()]) == BODY
            async with client.stream("GET", "/events") as response:  # and it goes in the middle
                lines = response.aiter_lines()
                assert [await anext(lines) for _ in range(2)] == ["id: 0", "data: event 0"]

    run(main())


def test_aiohttp(server: Serve) -> None:
    from aiohttp import ClientSession, WSCloseCode, WSMsgType

    async def main() -> None:
        async with ClientSession(server.where) as session:
            async with session.post("/", data=BODY) as response:
                assert await response.read() == BODY
            async with session.post("/streamed", data=BODY, chunked=True) as response:
                assert await response.read() == BODY
            for compress in (0, 15):
                async with session.ws_connect("/ws", compress=compress) as socket:
                    assert bool(socket.compress) == bool(compress)
                    await socket.send_str("text " * 1_000)
                    assert await socket.receive_str() == "text " * 1_000
                    await socket.send_bytes(BODY)
                    assert await socket.receive_bytes() == BODY
                    await socket.ping()
                    await socket.close(code=WSCloseCode.GOING_AWAY)
                    assert socket.close_code == WSCloseCode.GOING_AWAY
                async with session.ws_connect("/ws", compress=compress) as socket:
                    await socket.send_str("close")
                    message = await socket.receive()
                    assert message.type is WSMsgType.CLOSE
                    assert (message.data, message.extra) == (4000, "as you wish")

    run(main())


def test_websockets(server: Serve) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosedError

    url = f"{server.where.replace('http:', 'ws:')}/ws"

    async def main() -> None:
        compressions: list[str | None] = [None, "deflate"]
        for compression in compressions:
            more: dict[str, Any] = {"compression": compression, "subprotocols": ["one", "two"]}
            async with connect(url, **more) as socket:
                assert socket.subprotocol == "one"
                extensions = [extension.name for extension in socket.protocol.extensions]
                assert extensions == (["permessage-deflate"] if compression else [])
                for message in ("", "text", b"bytes", "ä" * 200_000, BODY):
                    await socket.send(message)
                    assert await socket.recv() == message
                await socket.send([b"in ", b"", b"parts"])
                assert await socket.recv() == b"in parts"
                assert await (await socket.ping()) > 0
            assert socket.close_code == 1000
            async with connect(url, **more) as socket:
                await socket.send("close")
                with pytest.raises(ConnectionClosedError) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "as you wish")

        async def converse(number: int) -> None:
            async with connect(url) as socket:
                for message in (f"{number} {n}" for n in range(20)):
                    await socket.send(message)
                    assert await socket.recv() == message

        await asyncio.gather(*map(converse, range(50)))

    run(main())


# A browser

PAGE = """
<!doctype html>
<title>of the server</title>
<script>
const seen = {};
const size = 300000;

async function fetches() {
    const answers = await Promise.all(
        [...Array(30).keys()].map(n => fetch("/", {method: "POST", body: `${n}`}))
    );
    seen.fetch = (await Promise.all(answers.map(answer => answer.text()))).join(" ");
    const body = "x".repeat(size);
    const reader = (await fetch("/streamed", {method: "POST", body})).body.getReader();
    seen.streamed = 0;
    for (let part; !(part = await reader.read()).done;) seen.streamed += part.value.length;
    seen.nothing = (await fetch("/nothing")).status;
}

function socket() {
    return new Promise(resolve => {
        const socket = new WebSocket(`ws${location.origin.slice(4)}/ws`, ["chat"]);
        const sent = ["text", "\\u00e4".repeat(size), new Uint8Array(size), "close"];
        seen.messages = [];
        socket.binaryType = "arraybuffer";
        socket.onopen = () => socket.send(sent.shift());
        socket.onmessage = ({data}) => {
            seen.messages.push(data.length ?? data.byteLength);
            socket.send(sent.shift());
        };
        socket.onclose = ({code, reason, wasClean}) => {
            seen.socket = [socket.protocol, socket.extensions, code, reason, wasClean];
            resolve();
        };
    });
}

function events() {
    return new Promise(resolve => {
        const source = new EventSource("/events");
        seen.events = [];
        source.onmessage = ({data, lastEventId}) => {
            seen.events.push([lastEventId, data]);
            if (seen.events.length < 3) return;
            source.close();
            resolve();
        };
    });
}

Promise.all([fetches(), socket(), events()])
    .catch(error => seen.error = `${error}`)
    .then(() => fetch("/report", {method: "POST", body: JSON.stringify(seen)}));
</script>
"""


@contextlib.contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    """A browser that shows a page, of which it trusts every certificate."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--no-first-run", "--disable-background-networking", "--ignore-certificate-errors"]
    # Otherwise it ends with the page.
    options += ["--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [program("chromium-headless-shell"), *options, url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(HANG)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_browser(tmp_path: Path, tls: list[str], scheme: str, each_http: str) -> None:
    program("chromium-headless-shell")
    (tmp_path / "page.html").write_text(PAGE)
    options = ["--port", "0", "--loops", "2", "--lifespan", "off", "--no-access-log"]
    options += ["--timeout-drain", "0", *(tls if scheme == "https" else [])]
    with Serve(tmp_path, *options, source=APPLICATION) as server:
        with browser(f"{server.where}/page", tmp_path / "profile"):
            seen = json.loads(server.said(r"report (.+)\n")[1])
        server.stop()
    assert "error" not in seen, seen
    assert seen["fetch"] == " ".join(map(str, range(30)))
    assert (seen["streamed"], seen["nothing"]) == (300_000, 204)
    assert seen["messages"] == [4, 300_000, 300_000]
    protocol, extensions, *close = seen["socket"]
    assert protocol == "chat"
    assert extensions.startswith("permessage-deflate")
    assert close == [4000, "as you wish", True]
    assert seen["events"] == [[str(number), f"event {number}"] for number in range(3)]
