"""The end of a server: what its connections get, and what its log says. On each kind."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, eventually, wait_for
from .server import answer, read
from .websocket import CLOSE, WebSocket, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


class Held:
    """An application whose requests wait until they may go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = threading.Event()
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            self.begun.append(scope["path"])
            self.seen.append(await receive())
            return
        body = await read(receive)
        self.begun.append(scope["path"])
        if scope["path"].startswith("/held"):
            await eventually(self.go.is_set, "it may go on")
        await answer(send, scope["path"].encode() + body)


@pytest.fixture
def held() -> Held:
    """An application whose requests wait until they may go on."""
    return Held()


def test_idle_connections_are_closed(served: Served, held: Held) -> None:
    with served(held) as server, server.client() as used, server.client() as unused:
        used.request()
        used.response()
        server.stop()
        assert used.is_closed()
        assert unused.is_closed()
        server.ended()


def test_a_request_that_has_begun_is_answered(served: Served, held: Held) -> None:
    with served(held) as server, server.client() as client:
        client.request("GET", "/held")
        wait_for(lambda: held.begun == ["/held"], "it has begun")
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        held.go.set()
        assert client.response().body == b"/held"
        assert client.is_closed()
        server.ended()


def test_a_response_that_has_begun_ends_whole(served: Served) -> None:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await eventually(go.is_set, "it may go on")
        await send({"type": "http.response.body", "body": b"two"})

    with served(app) as server, server.client() as client:
        client.request()
        client.head()
        assert client.chunk() == b"one"
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        go.set()
        assert (client.chunk(), client.chunk(), client.section()) == (b"two", b"", [])
        assert client.is_closed()


def test_a_body_that_is_coming_is_received(served: Served, held: Held) -> None:
    with served(held) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf")
        server.get("/other")  # so that the head has been seen
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        client.send(b"half")
        assert client.response().body == b"/halfhalf"
        assert client.is_closed()


def test_a_kept_connection_may_send_one_more_request(served: Served, held: Held) -> None:
    with served(held, timeout_drain=5.0) as server, server.client() as client:
        client.request("GET", "/one")
        client.response()
        with server.client() as busy:
            busy.request("GET", "/held")
            wait_for(lambda: "/held" in held.begun, "it has begun")
            server.stop()
            wait_for(lambda: not server.is_ready, "the server ends")
            held.go.set()
            # What is answered in the drain says that it is the last, so the drain has begun.
            assert busy.response().body == b"/held"
            assert busy.is_closed()
        client.request("GET", "/two")
        response = client.response()
        assert response.body == b"/two"
        assert response.field("connection").lower() == "close"
        assert client.is_closed()
        server.ended()


def test_pipelined_requests_behind_one_that_is_held(served: Served, held: Held) -> None:
    """The one that has begun is answered; then the connection ends."""
    with served(held) as server, server.client() as client:
        client.request("GET", "/held")
        wait_for(lambda: held.begun == ["/held"], "it has begun")
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        client.request("GET", "/behind")
        held.go.set()
        assert client.response().body == b"/held"
        client.rest()
        server.ended()


def test_websockets_are_closed_with_1012(served: Served, held: Held) -> None:
    with served(held) as server, opened(server, "/ws") as websocket:
        wait_for(lambda: held.begun == ["/ws"], "it has begun")
        server.stop()
        frame = websocket.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1012)
        websocket.client.rest()
        server.ended()
    (message,) = held.seen
    assert message["type"] == "websocket.disconnect"
    assert message["code"] == 1012


def test_a_websocket_that_is_not_accepted_yet(served: Served) -> None:
    begun = threading.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        seen.append(await receive())

    with served(app) as server, WebSocket(server.client()) as websocket:
        websocket.ask()
        assert begun.wait(HANG)
        server.stop()
        assert websocket.client.head().status in {500, 503}
        server.ended()
    assert seen[0]["type"] == "websocket.disconnect"


def test_what_does_not_end_is_cancelled_and_named(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[str] = []
    cancelled: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        begun.append(scope["path"])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    with served(app, timeout_graceful_shutdown=0.2) as server:
        with server.client() as client, opened(server, "/ws") as websocket:
            client.request("GET", "/report")
            wait_for(lambda: len(begun) == 2, "both have begun")
            port = client.sock.getsockname()[1]
            server.stop()
            server.ended()
            assert b"200 OK" not in client.rest()
            websocket.client.rest()
    assert sorted(cancelled) == ["/report", "/ws"]
    line = "Cancelled, timeout graceful shutdown exceeded: loop-pool-0: "
    assert f"{line}GET /report from ('127.0.0.1', {port})" in caplog.text


def test_the_lifespan_ends_after_the_connections(served: Served) -> None:
    order: list[str] = []
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            order.append("request")
            await eventually(go.is_set, "it may go on")
            await answer(send)
            order.append("response")
            return
        for step in ("startup", "shutdown"):
            await receive()
            order.append(step)
            await send({"type": f"lifespan.{step}.complete"})

    with served(app, lifespan="on") as server, server.client() as client:
        client.request()
        wait_for(lambda: "request" in order, "it has begun")
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        go.set()
        assert client.response().status == 200
        server.ended()
    assert order == ["startup", "request", "response", "shutdown"]


def test_readiness_is_503_while_it_ends(served: Served, held: Held) -> None:
    options = {"readiness_path": "/ready", "shutdown_delay": 0.5}
    with served(held, **options) as server, server.client() as client:
        assert server.get("/ready").status == 200
        client.request("GET", "/ready")
        assert client.response().status == 200
        server.stop()
        wait_for(lambda: not server.is_ready, "the server ends")
        client.request("GET", "/ready")
        response = client.response()
        assert (response.status, response.body) == (503, b"not ready\n")
        client.request("GET", "/other")
        assert client.response().body == b"/other"


def test_all_of_many_requests_are_answered(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await answer(send, scope["path"].encode())

    with served(app, loops=2) as server:
        clients = [server.client() for _ in range(20)]
        for number, client in enumerate(clients):
            client.request("GET", f"/{number}")
        server.stop()
        for number, client in enumerate(clients):
            assert client.response().body == b"/%d" % number
            assert client.is_closed()
            client.close()
