"""What an application is told of a request, and what a server answers by itself. On each kind."""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import logging
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool.tls

from .. import support
from ..support import self_signed
from .kinds import SERVERS
from .server import Client, answer, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .server import Server

    type Served = Callable[..., Server]


class Scopes:
    """An application that keeps the scopes of its requests."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        await answer(send)


@pytest.fixture
def scopes() -> Scopes:
    """An application that keeps the scopes of its requests."""
    return Scopes()


# The scope


def test_the_whole_scope(served: Served, scopes: Scopes) -> None:
    with served(scopes) as server, server.client() as client:
        address = client.sock.getsockname()
        fields = [("X-Twice", "one"), ("Accept", "*/*"), ("x-TWICE", "  two"), ("Empty", "")]
        client.request("GET", "/a%20b/c?d=%20e&f", *fields)
        assert client.response().status == 200
        (scope,) = scopes.seen
        asgi = scope.pop("asgi")
        assert asgi["version"] == "3.0"
        assert re.fullmatch(r"2\.[3-9]", asgi["spec_version"])
        assert isinstance(scope.pop("extensions", {}), dict)
        assert scope.pop("state", {}) == {}
        assert scope == {
            "type": "http",
            "http_version": "1.1",
            "server": ("127.0.0.1", server.port),
            "client": address,
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": "/a b/c",
            "raw_path": b"/a%20b/c",
            "query_string": b"d=%20e&f",
            "headers": [
                (b"host", b"example.org"),
                (b"x-twice", b"one"),
                (b"accept", b"*/*"),
                (b"x-twice", b"two"),
                (b"empty", b""),
            ],
        }


def test_an_application_of_asgi_2_is_called_as_one(served: Served) -> None:
    versions: list[str] = []

    def app(scope: Any) -> Any:
        versions.append(scope["asgi"]["version"])

        async def instance(receive: Any, send: Any) -> None:
            await answer(send)

        return instance

    with served(app) as server:
        assert server.get().status == 200
    assert versions == ["2.0"]


def test_a_unix_socket_has_no_client(served: Served, scopes: Scopes, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with served(scopes, listener=listener) as server:
        assert server.get().status == 200
    (scope,) = scopes.seen
    assert scope["server"] == (path, None)
    assert scope["client"] is None


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", b""),
        ("/a/../b/./c", "/a/../b/./c", b""),
        ("//a//b", "//a//b", b""),
        ("/one%2Ftwo", "/one/two", b""),
        ("/%C3%A4%E2%82%AC", "/ä€", b""),
        ("/%ff%fe", "/\ufffd\ufffd", b""),
        ("/%zz%", "/%zz%", b""),
        ("/a+b;c=d", "/a+b;c=d", b""),
        ("/?", "/", b""),
        ("/?a=b?c&%C3%A4/", "/", b"a=b?c&%C3%A4/"),
        ("/" + "x" * 4000, "/" + "x" * 4000, b""),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_targets(served: Served, scopes: Scopes, target: str, path: str, query: bytes) -> None:
    with served(scopes) as server:
        assert server.get(target).status == 200
    (scope,) = scopes.seen
    assert scope["path"] == path
    assert scope["raw_path"] == target.partition("?")[0].encode()
    assert scope["query_string"] == query


def test_the_root_path_is_before_the_path(served: Served, scopes: Scopes) -> None:
    with served(scopes, root_path="/app") as server:
        server.get("/one%2Ftwo")
    (scope,) = scopes.seen
    assert scope["root_path"] == "/app"
    assert scope["path"] == "/app/one/two"
    assert scope["raw_path"] == b"/app/one%2Ftwo"


def test_a_query_of_raw_bytes_is_refused_or_passed_on(served: Served, scopes: Scopes) -> None:
    with served(scopes) as server, server.client() as client:
        client.send(b"GET /?q=\xe4\xff HTTP/1.1\r\nhost: x\r\n\r\n")
        status = client.response().status
    assert status in {200, 400}
    assert [scope["query_string"] for scope in scopes.seen] == [b"q=\xe4\xff"] * (status == 200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods(served: Served, scopes: Scopes, method: str) -> None:
    with served(scopes) as server, server.client() as client:
        client.request(method)
        assert client.response(method).status == 200
    assert scopes.seen[0]["method"] == method


def test_bytes_of_header_values_arrive_as_they_are(served: Served, scopes: Scopes) -> None:
    with served(scopes) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\nodd: \xe4\xff \t\"'\r\n\r\n")
        assert client.response().status == 200
    assert dict(scopes.seen[0]["headers"])[b"odd"] == b"\xe4\xff \t\"'"


def test_http_1_0(served: Served, scopes: Scopes) -> None:
    with served(scopes) as server, server.client() as client:
        client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert client.response().status == 200
        assert client.is_closed()
    (scope,) = scopes.seen
    assert (scope["http_version"], scope["path"], scope["headers"]) == ("1.0", "/old", [])


def test_each_request_has_a_copy_of_the_state(served: Served) -> None:
    states = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"].update(number=1, shared=[])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            states.append(scope["state"])
            await send({"type": "lifespan.shutdown.complete"})
        else:
            states.append({**scope["state"], "shared": [*scope["state"]["shared"]]})
            scope["state"]["number"] = 2
            scope["state"]["shared"].append("more")
            await answer(send)

    with served(app, lifespan="on") as server, server.client() as client:
        for _ in range(2):
            client.request()
            client.response()
    assert states == [
        {"number": 1, "shared": []},
        {"number": 1, "shared": ["more"]},
        {"number": 1, "shared": ["more", "more"]},
    ]


def test_each_request_is_a_task_with_a_context_of_its_own(served: Served) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    tasks = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task in asyncio.all_tasks()
        tasks.append(task)
        seen.append(variable.get())
        variable.set("set")
        await asyncio.sleep(0)
        assert variable.get() == "set"
        await answer(send)

    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request()
            assert client.response().status == 200
    assert seen == ["unset", "unset"]
    assert tasks[0] is not tasks[1]


def test_a_request_may_come_byte_by_byte(served: Served, scopes: Scopes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await read(receive) + scope["raw_path"])

    with served(app) as server, server.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b"POST /path HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
        for _ in range(2):
            for number in range(len(request)):
                client.send(request[number : number + 1])
            assert client.response().body == b"body/path"


# TLS


@pytest.fixture(params=["rustls", "OpenSSL"])
def tls_contexts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Contexts for a server and its client."""
    if request.param == "rustls":
        monkeypatch.setattr(support, "contexts", loop_pool.tls)
    return self_signed()


def test_https(served: Served, scopes: Scopes, tls_contexts: Any) -> None:
    context, trusting = tls_contexts
    with served(scopes, ssl=context) as server:
        plain = server.client()
        sock = trusting.wrap_socket(plain.sock, server_hostname="localhost")
        plain.file.close()
        with Client(sock) as client:
            for _ in range(2):
                client.request("GET", "/secret")
                assert client.response().status == 200
    assert [scope["scheme"] for scope in scopes.seen] == ["https", "https"]
    assert scopes.seen[0]["client"][0] == "127.0.0.1"


# Proxies


@pytest.mark.parametrize(
    ("trusted", "fields", "expected"),
    [
        (None, {"X-Forwarded-For": "10.1.2.3"}, ("10.1.2.3", "http")),
        (None, {"X-Forwarded-For": "10.9.9.9, 10.1.2.3"}, ("10.1.2.3", "http")),
        (None, {"X-Forwarded-For": "10.1.2.3, 127.0.0.1"}, ("10.1.2.3", "http")),
        (None, {"X-Forwarded-Proto": "https"}, ("127.0.0.1", "https")),
        (None, {"X-Forwarded-Proto": "nonsense"}, ("127.0.0.1", "http")),
        ("*", {"X-Forwarded-For": "10.9.9.9, 10.1.2.3"}, ("10.9.9.9", "http")),
        ("127.0.0.0/8", {"X-Forwarded-For": "10.1.2.3"}, ("10.1.2.3", "http")),
        (["10.0.0.1", "127.0.0.1"], {"X-Forwarded-For": "10.1.2.3"}, ("10.1.2.3", "http")),
        ("10.0.0.1", {"X-Forwarded-For": "10.1.2.3"}, ("127.0.0.1", "http")),
        ("10.0.0.1", {"X-Forwarded-Proto": "https"}, ("127.0.0.1", "http")),
    ],
)
def test_headers_of_proxies(
    served: Served, scopes: Scopes, trusted: Any, fields: Any, expected: tuple[str, str]
) -> None:
    options = {} if trusted is None else {"forwarded_allow_ips": trusted}
    with served(scopes, **options) as server:
        assert server.get("/", **fields).status == 200
    (scope,) = scopes.seen
    assert (scope["client"][0], scope["scheme"]) == expected


def test_headers_of_proxies_may_be_ignored(served: Served, scopes: Scopes) -> None:
    with served(scopes, proxy_headers=False) as server:
        server.get("/", **{"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Proto": "https"})
    (scope,) = scopes.seen
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")
    assert (b"x-forwarded-for", b"10.1.2.3") in scope["headers"]


# Headers that the server adds


def test_date_and_server(served: Served, scopes: Scopes, http: str) -> None:
    with served(scopes) as server:
        response = server.get()
    assert response.field("server") == SERVERS.get(http, "uvicorn")
    date = email.utils.parsedate_to_datetime(response.field("date"))
    assert abs(date.timestamp() - time.time()) < 60
    assert response.field("date").endswith(" GMT")


def test_neither_date_nor_server(served: Served, scopes: Scopes) -> None:
    with served(scopes, server_header=False, date_header=False) as server:
        response = server.get()
    assert response.all("server") == []
    assert response.all("date") == []


def test_headers_of_all_responses(served: Served, scopes: Scopes) -> None:
    headers = [("Server", "mine"), ("X-A", "1"), ("x-a", "2")]
    with served(scopes, headers=headers) as server:
        response = server.get()
    assert response.field("server") == "mine"
    assert response.all("x-a") == ["1", "2"]


# What the server answers by itself


@pytest.mark.parametrize(
    "request_head",
    [
        b"G?T / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /?x=y z HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTX/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nsp ace: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n: no name\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nhost: x\r\nnul: \0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
    ],
)
def test_what_is_no_request(served: Served, scopes: Scopes, request_head: bytes) -> None:
    with served(scopes) as server, server.client() as client:
        client.send(request_head)
        response = client.response()
        assert response.status == 400
        assert response.field("connection") == "close"
        assert client.is_closed()
        assert server.get("/after").status == 200
    assert [scope["path"] for scope in scopes.seen] == ["/after"]


def test_a_head_that_is_too_large(served: Served, scopes: Scopes, http: str) -> None:
    if http not in {"native", "h11"}:
        pytest.skip("it takes heads of any size")
    with served(scopes, h1_max_header_size=8000) as server:
        assert server.get("/", large="x" * 7000).status == 200
        with server.client() as client:
            # h11 takes a larger one that comes at once.
            client.send(b"GET / HTTP/1.1\r\nhost: x\r\nlarge: " + b"x" * 9000)
            assert client.response().status in {400, 431}
            assert client.is_closed()
    assert len(scopes.seen) == 1


@pytest.mark.parametrize(
    "part",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 9\r\nhost: x\r\n\r\nbo",
    ],
)
def test_a_client_that_takes_too_long(served: Served, http: str, part: bytes) -> None:
    if http != "native":
        pytest.skip("it waits for ever")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with served(app, request_timeout=0.1) as server, server.client() as client:
        client.send(part)
        response = client.response()
        assert response.status == 408
        assert response.field("connection").lower() == "close"
        assert client.is_closed()


def test_an_upgrade_to_what_the_server_does_not_speak_is_passed_over(
    served: Served, scopes: Scopes
) -> None:
    with served(scopes) as server, server.client() as client:
        client.request("GET", "/", ("Connection", "Upgrade"), ("Upgrade", "h2c"))
        assert client.response().status == 200
    assert dict(scopes.seen[0]["headers"])[b"upgrade"] == b"h2c"


def test_without_websockets_their_handshake_is_a_request(served: Served, scopes: Scopes) -> None:
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    fields += [("Sec-WebSocket-Key", "A" * 22 + "=="), ("Sec-WebSocket-Version", "13")]
    with served(scopes, ws="none") as server, server.client() as client:
        client.request("GET", "/", *fields)
        assert client.response().status == 200
    assert scopes.seen[0]["type"] == "http"


def test_the_limit_of_concurrency(served: Served, scopes: Scopes) -> None:
    with served(scopes, limit_concurrency=2) as server:
        with server.client() as client:
            client.request()
            assert client.response().status == 200
            refusal = server.get()
            assert refusal.status == 503
            assert refusal.body == b"Service Unavailable"
            assert refusal.field("connection") == "close"
        assert len(scopes.seen) == 1


def test_a_server_ends_after_so_many_requests(served: Served, scopes: Scopes) -> None:
    with served(scopes, limit_max_requests=3) as server:
        with server.client() as client:
            for _ in range(2):
                client.request()
                assert client.response().status == 200
        assert server.is_ready
        server.get()
        server.ended()


def test_a_random_number_is_added_to_the_limit_of_requests(
    served: Served, scopes: Scopes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randint", lambda low, high: high)
    with served(scopes, limit_max_requests=1, limit_max_requests_jitter=2) as server:
        for _ in range(3):
            assert server.get().status == 200
        server.ended()
    assert len(scopes.seen) == 3


# The access log


def test_lines_of_the_access_log(
    served: Served, http: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/raise":
            raise ZeroDivisionError
        await answer(send, status=203)

    caplog.set_level(logging.INFO)
    with served(app, readiness_path="/ready") as server, server.client() as client:
        address = "{}:{}".format(*client.sock.getsockname())
        for method, target in (
            ("GET", "/a%20b?c=%20d"),
            ("HEAD", "/"),
            ("GET", "/ready"),
            ("POST", "/raise"),
        ):
            client.request(method, target)
            client.response(method)
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    ready = f'{address} - "GET /ready HTTP/1.1" 200'
    expected = [
        f'{address} - "GET /a%20b?c=%20d HTTP/1.1" 203',
        f'{address} - "HEAD / HTTP/1.1" 203',
        ready,
        f'{address} - "POST /raise HTTP/1.1" 500',
    ]
    if http == "native":
        expected.remove(ready)  # answered below Python, where no log is
    assert lines == expected
