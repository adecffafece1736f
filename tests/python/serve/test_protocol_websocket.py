"""WebSockets: handshakes, what an application is told of them, and refusals. On each kind."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from ..support import wait_for
from .server import answer
from .websocket import ACCEPT, ACCEPT_IT, KEY, Messages, WebSocket, connect, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


# The handshake


def test_the_whole_scope(served: Served, messages: Messages) -> None:
    fields = [("X-Twice", "one"), ("x-twice", "two")]
    fields += [("Sec-WebSocket-Protocol", "a, b"), ("Sec-WebSocket-Protocol", "c")]
    with served(messages) as server, opened(server, "/a%20b/c?d=%20e", *fields) as websocket:
        address = websocket.client.sock.getsockname()
        (scope,) = messages.scopes
        asgi = scope.pop("asgi")
        assert asgi["version"] == "3.0"
        assert asgi["spec_version"] >= "2.3"
        assert "websocket.http.response" in scope.pop("extensions")
        assert scope.pop("state", {}) == {}
        headers = [(name, value) for name, value in scope.pop("headers")]
        assert scope == {
            "type": "websocket",
            "http_version": "1.1",
            "server": ("127.0.0.1", server.port),
            "client": address,
            "scheme": "ws",
            "root_path": "",
            "path": "/a b/c",
            "raw_path": b"/a%20b/c",
            "query_string": b"d=%20e",
            "subprotocols": ["a", "b", "c"],
        }
        assert {(b"host", b"example.org"), (b"sec-websocket-key", KEY.encode())} <= {*headers}
        assert [value for name, value in headers if name == b"x-twice"] == [b"one", b"two"]
        assert all(name == name.lower() for name, _ in headers)


def test_the_response_to_the_handshake(served: Served, messages: Messages) -> None:
    with served(messages) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.status == 101
            assert response.field("sec-websocket-accept") == ACCEPT
            assert response.field("upgrade").lower() == "websocket"
            assert response.field("connection").lower() == "upgrade"
            assert response.all("sec-websocket-protocol") == []
            assert response.all("content-length") == []
            assert response.all("transfer-encoding") == []


def test_headers_and_subprotocol_of_the_application(served: Served) -> None:
    headers = [(b"x-a", b"one"), (b"x-b", b"two")]
    app = Messages(subprotocol="b", headers=headers)
    with served(app) as server:
        websocket, response = connect(server, "/", ("Sec-WebSocket-Protocol", "a, b"))
        with websocket:
            assert response.field("sec-websocket-protocol") == "b"
            assert (response.field("x-a"), response.field("x-b")) == ("one", "two")


@pytest.mark.parametrize(("given", "sent"), [("other", ["other"]), ("", [])])
def test_a_subprotocol_that_was_not_offered_is_the_clients_to_refuse(
    served: Served, given: str, sent: list[str]
) -> None:
    with served(Messages(subprotocol=given)) as server:
        websocket, response = connect(server, "/", ("Sec-WebSocket-Protocol", "a, b"))
        with websocket:
            assert response.status == 101
            assert response.all("sec-websocket-protocol") == sent


def test_date_server_and_other_headers_of_the_server(served: Served, messages: Messages) -> None:
    with served(messages, headers=[("server", "mine"), ("x-a", "1")]) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.field("server") == "mine"
            assert response.field("x-a") == "1"
            assert response.field("date").endswith(" GMT")
    with served(messages, server_header=False, date_header=False) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.all("server") == response.all("date") == []


def test_the_root_path(served: Served, messages: Messages) -> None:
    with served(messages, root_path="/app") as server, opened(server, "/ws%2F"):
        (scope,) = messages.scopes
        paths = (scope["root_path"], scope["path"], scope["raw_path"])
        assert paths == ("/app", "/app/ws/", b"/app/ws%2F")


def test_headers_of_proxies(served: Served, messages: Messages) -> None:
    fields = [("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-Proto", "https")]
    with served(messages) as server, opened(server, "/", *fields):
        (scope,) = messages.scopes
        assert (scope["client"][0], scope["scheme"]) == ("10.1.2.3", "wss")


def test_the_state_of_the_lifespan(served: Served) -> None:
    messages = Messages()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await messages(scope, receive, send)
            return
        await receive()
        scope["state"]["name"] = "value"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    with served(app, lifespan="on") as server:
        for _ in range(2):
            with opened(server):
                assert messages.scopes[-1]["state"] == {"name": "value"}
                messages.scopes[-1]["state"]["name"] = "changed"


@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"), {400, 426}),
        (("Sec-WebSocket-Version: 13", "X: y"), {400, 426}),
        ((f"Sec-WebSocket-Key: {KEY}", "X: y"), {400}),
        ((f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Key: short"), {400}),
    ],
)
def test_a_handshake_that_is_none(
    served: Served, messages: Messages, change: tuple[str, str], statuses: set[int]
) -> None:
    head = (
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert change[0] in head
    with served(messages) as server, server.client() as client:
        client.send(head.replace(*change).encode())
        assert client.response().status in statuses
    assert messages.scopes == []


def test_names_in_the_handshake_in_any_case(served: Served, messages: Messages) -> None:
    head = (
        "GET / HTTP/1.1\r\nhost: x\r\nUPGRADE: WebSocket\r\ncONNECTION: keep-alive, UPgrade\r\n"
        f"SEC-WEBSOCKET-KEY: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
    )
    with served(messages) as server, server.client() as client:
        client.send(head.encode())
        assert client.head().status == 101


def test_a_websocket_behind_a_request_on_its_connection(served: Served) -> None:
    messages = Messages()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, b"body")
        else:
            await messages(scope, receive, send)

    with served(app) as server, WebSocket(server.client()) as websocket:
        websocket.client.request()
        assert websocket.client.response().body == b"body"
        websocket.ask()
        assert websocket.client.head().status == 101
        websocket.text("hello")
        assert websocket.message() == "hello"


# Refusals


def test_a_close_before_the_accept_is_a_403(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        seen.append(await receive())

    caplog.set_level(logging.INFO)
    with served(app) as server:
        websocket, response = connect(server, "/ws?a=b")
        with websocket:
            assert response.status == 403
            assert response.all("sec-websocket-accept") == []
            address = "{}:{}".format(*websocket.client.sock.getsockname())
        wait_for(lambda: bool(seen), "it is told")
    assert seen[0]["type"] == "websocket.disconnect"
    assert seen[0]["code"] == 1006
    assert f'{address} - "WebSocket /ws?a=b" 403' in caplog.text


@pytest.mark.parametrize(
    "options", [{}, {"access_log": False}, {"access_log_format": "LINE"}], ids=["", "none", "own"]
)
def test_the_line_of_an_accepted_one(
    served: Served, messages: Messages, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    with served(messages, **options) as server:
        with opened(server, "/ws?a=b") as websocket:
            address = "{}:{}".format(*websocket.client.sock.getsockname())
        server.get("/plain", connection="close")
    has_lines = not options
    assert ('"GET /plain HTTP/1.1"' in caplog.text) == has_lines
    assert f'{address} - "WebSocket /ws?a=b" [accepted]' in caplog.text


def test_a_response_instead_of_the_accept(served: Served) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/plain"), (b"x-a", b"b"), (b"content-length", b"7")]
        start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"good", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"bye"})
        seen.append(await receive())

    with served(app) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.status == 401
            assert response.field("x-a") == "b"
            assert websocket.client.file.read(7) == b"goodbye"
            assert websocket.client.is_closed()
        wait_for(lambda: bool(seen), "it is told")
    assert seen[0]["type"] == "websocket.disconnect"


@pytest.mark.parametrize("kind", ["raise", "return"])
def test_no_answer_is_a_500(served: Served, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if kind == "raise":
            raise ZeroDivisionError

    with served(app) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.status == 500
    said = "Exception in ASGI application" if kind == "raise" else "without completing handshake"
    assert said in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send", "text": "too early"},
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "nonsense"},
    ],
    ids=lambda message: message["type"],
)
def test_another_message_before_the_accept_is_an_error(served: Served, message: Any) -> None:
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send(message)
        except Exception as error:
            raised.append(error)
            raise

    with served(app) as server:
        websocket, response = connect(server)
        with websocket:
            assert response.status == 500
    assert isinstance(raised[0], RuntimeError)
    assert message["type"] in str(raised[0])


@pytest.mark.parametrize("kind", ["websocket.accept", "http.response.body", "nonsense"])
def test_another_message_after_the_accept_is_an_error(served: Served, kind: str) -> None:
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        try:
            await send({"type": kind})
        except Exception as error:
            raised.append(error)
            raise

    with served(app) as server, opened(server) as websocket:
        websocket.client.rest()
    assert isinstance(raised[0], RuntimeError)
    assert kind in str(raised[0])
