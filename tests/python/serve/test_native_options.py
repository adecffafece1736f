"""`http="native"`: what is around the server in Rust, with one that is played."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from loop_pool import _core

from ..support import certificate, eventually, self_signed, wait_for
from .server import Server, answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .native_fake import HTTPServer

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[HTTPServer]:
    """The servers that are made in place of those in Rust."""
    from . import native_fake

    made: list[HTTPServer] = []
    monkeypatch.setattr(native_fake.HTTPServer, "made", made, raising=False)
    monkeypatch.setattr(_core, "HTTPServer", native_fake.HTTPServer, raising=False)
    monkeypatch.setattr(_core, "HTTPConnection", native_fake.make_connection, raising=False)
    return made


async def tell_client(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it is told of the client."""
    await answer(send, f"{scope['client'][0]} {scope['scheme']} {scope['path']}".encode())


@contextlib.contextmanager
def native(app: Any = tell_client, **options: Any) -> Iterator[Server]:
    with Server(app, http="native", **options) as server:
        yield server


def test_each_loop_has_a_server(made: list[HTTPServer]) -> None:
    with native(loops=2) as server:
        assert server.get("/a").body == b"127.0.0.1 http /a"
        assert len(made) == 2


def test_the_default_settings(made: list[HTTPServer]) -> None:
    with native():
        (server,) = made
    functions = ("access_log", "websocket_log", "error_log")
    for name in (*functions, "as_coroutine", "send_file", "describe_tls"):
        assert callable(server.http.pop(name))
    assert server.http.pop("peers") == {}, "it has ended"
    assert server.http.pop("readiness") is None
    assert server.http == {
        "max_head": 65536,
        "max_fields": 128,
        "websocket": True,
        "max_message": 16 * 1024 * 1024,
        "max_queue": 32,
        "ping_interval": 20.0,
        "ping_timeout": 20.0,
        "deflate": True,
        "server": "loop-pool",
        "date": True,
        "headers": [],
        "keep_alive": 5.0,
        "request_timeout": None,
        "asgi_version": "3.0",
    }


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"h1_max_header_size": 2000}, {"max_head": 2000}),
        ({"h11_max_incomplete_event_size": 3000}, {"max_head": 3000}),
        ({"ws": "none"}, {"websocket": False}),
        ({"ws_max_size": 9, "ws_max_queue": 2}, {"max_message": 9, "max_queue": 2}),
        (
            {"ws_ping_interval": 1.0, "ws_ping_timeout": None},
            {"ping_interval": 1.0, "ping_timeout": None},
        ),
        ({"ws_per_message_deflate": False}, {"deflate": False}),
        ({"server_header": False, "date_header": False}, {"server": None, "date": False}),
        (
            {"headers": [("Server", "mine"), ("X-Name", "value")]},
            {"server": None, "headers": [(b"server", b"mine"), (b"x-name", b"value")]},
        ),
        ({"timeout_keep_alive": 7}, {"keep_alive": 7.0}),
        ({"request_timeout": 2.5}, {"request_timeout": 2.5}),
        ({"access_log_format": "%(s)s"}, {"access_log": None}),
        ({"interface": "asgi2"}, {"asgi_version": "2.0"}),
    ],
)
def test_settings(
    made: list[HTTPServer], options: dict[str, Any], settings: dict[str, Any]
) -> None:
    with native(**options):
        (server,) = made
    assert {name: server.http[name] for name in settings} == settings


def test_only_a_request_with_such_headers_goes_through_the_middleware_for_proxies(
    made: list[HTTPServer],
) -> None:
    headers = {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "https"}
    with native() as server:
        assert made[-1].app is tell_client
        assert server.get("/").body == b"127.0.0.1 http /"
        assert server.get("/", **headers).body == b"10.1.2.3 https /"
    with native(proxy_headers=False) as server:
        assert server.get("/", **headers).body == b"127.0.0.1 http /"
    with native(forwarded_allow_ips="10.0.0.1") as server:
        assert server.get("/", **headers).body == b"127.0.0.1 http /"


def test_requests_get_the_state_of_the_lifespan(made: list[HTTPServer]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await answer(send, scope["state"]["name"])
            return
        scope["state"]["name"] = b"of the lifespan"
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    with native(app, lifespan="on", root_path="/root") as server:
        assert server.get("/").body == b"of the lifespan"


def test_the_paths_of_the_server_itself(made: list[HTTPServer]) -> None:
    with native(readiness_path="/ready", limit_concurrency=1) as server:
        assert server.get("/ready").body == b"ready\n"
        assert server.get("/").status == 503


def test_uvicorns_lines_in_the_access_log(
    made: list[HTTPServer], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), native() as server, server.client() as client:
        port = client.sock.getsockname()[1]
        client.request("GET", "/a%20b?c=d")
        client.response()
        log = made[0].http["websocket_log"]
        scope = {"type": "websocket", "client": ("10.0.0.1", 5), "path": "/ws", "query_string": b""}
        log(scope, 101)
        log(scope, 403)
    lines = [record.getMessage() for record in caplog.records]
    assert f'127.0.0.1:{port} - "GET /a%20b?c=d HTTP/1.1" 200' in lines
    assert '10.0.0.1:5 - "WebSocket /ws" [accepted]' in lines
    assert '10.0.0.1:5 - "WebSocket /ws" 403' in lines


def test_an_end_in_good_order(made: list[HTTPServer]) -> None:
    """An idle connection is closed, one with a request when that is answered."""
    begun = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            begun.set()
            await eventually(lambda: not server.is_ready, "it ends")
        await answer(send, b"waited")

    with native(app) as server, server.client() as idle, server.client() as busy:
        idle.request()
        assert idle.response().body == b"waited"
        busy.request("GET", "/wait")
        wait_for(begun.is_set, "it has begun")
        server.stop()
        assert idle.is_closed()
        assert busy.response().body == b"waited"
        assert busy.is_closed()


def test_what_does_not_end_is_named_and_cancelled(
    made: list[HTTPServer], caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()

    with native(app, timeout_graceful_shutdown=0.1) as server, server.client() as client:
        client.request("GET", "/report")
        wait_for(begun.is_set, "it has begun")
        server.stop()
        server.ended()
        assert cancelled.is_set()
    assert "Cancelled, timeout graceful shutdown exceeded: loop-pool-0: GET /report" in caplog.text


def test_a_limit_of_requests_counts_them(made: list[HTTPServer]) -> None:
    with native(limit_max_requests=3, limit_max_requests_jitter=0) as server:
        for _ in range(3):
            server.get()
        server.ended()


def test_openssl_serves_with_uvicorns_protocols_and_says_so_once(
    made: list[HTTPServer], caplog: pytest.LogCaptureFixture
) -> None:
    context, trusting = self_signed()
    with native(ssl=context, loops=2) as server, server.client() as client:
        with trusting.wrap_socket(client.sock, server_hostname="localhost") as sock:
            sock.sendall(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            received = b"".join(iter(lambda: sock.recv(1000), b""))
        assert received.endswith(b"127.0.0.1 https /a")
    assert made == []
    assert caplog.text.count("Serving with uvicorn's protocols, not natively: the context is") == 1


def test_a_context_of_ours_that_needs_openssl(
    made: list[HTTPServer], caplog: pytest.LogCaptureFixture
) -> None:
    keycert = str(certificate("keycert.pem"))
    with native(ssl_certfile=keycert, ssl_ciphers="AES128-SHA"):
        assert made == []
    assert caplog.text.count("Serving with uvicorn's protocols, not natively: ") == 1


def test_a_build_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_core, "HTTPServer", raising=False)
    with (
        pytest.raises(ImportError, match="http 'native' is not available in this build"),
        native(),
    ):
        pass
