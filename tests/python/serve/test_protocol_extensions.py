"""Extensions of ASGI: what a scope says is there works. On each kind that has any."""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ..support import certificate, eventually
from .server import Client, answer
from .websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def with_extension(scope: Any, send: Any, name: str) -> bool:
    """Answers 501 if the server does not have it."""
    if name in scope.get("extensions", {}):
        return True
    await answer(send, b"", 501)
    return False


def test_trailers(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.trailers"):
            await send({**start(200, (b"trailer", b"x-a, x-b")), "trailers": True})
            await send(body(b"body"))
            for name, more in ((b"x-a", True), (b"x-b", False)):
                message = {"type": "http.response.trailers", "headers": [(name, b"value")]}
                await send({**message, "more_trailers": more})

    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request("GET", "/", ("TE", "trailers"))
            response = client.response()
            if response.status == 501:
                pytest.skip("it does not have it")
            assert response.body == b"body"
            assert response.trailers == [("x-a", "value"), ("x-b", "value")]


def test_early_hints(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.early_hint"):
            links = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
            await send({"type": "http.response.early_hint", "links": links})
            await answer(send, b"body")

    with served(app) as server, server.client() as client:
        client.request()
        hint = client.response()
        if hint.status == 501:
            pytest.skip("it does not have it")
        assert hint.status == 103
        assert hint.all("link") == ["</a.css>; rel=preload", "</b.js>; rel=preload"]
        assert client.response().body == b"body"


def test_early_hints_have_no_place_elsewhere(served: Served) -> None:
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["http_version"] == "1.0":
            assert "http.response.early_hint" not in scope["extensions"]
        elif await with_extension(scope, send, "http.response.early_hint"):
            hint = {"type": "http.response.early_hint", "links": [b"</a>\r\nx: y"]}
            for message, kind in (
                (hint, RuntimeError),
                ({**hint, "links": ["text"]}, TypeError),
                ({**hint, "links": []}, None),
            ):
                with pytest.raises(kind) if kind else contextlib.nullcontext():
                    await send(message)
            await send(start(200, (b"content-length", b"4")))
            with pytest.raises(RuntimeError) as caught:
                await send({**hint, "links": []})
            said.append(str(caught.value))
            await send(body(b"body"))
        if scope["http_version"] == "1.0":
            await answer(send, b"old")

    with served(app) as server, server.client() as client:
        client.request()
        response = client.response()
        if response.status == 501:
            pytest.skip("it does not have it")
        assert response.status == 103
        assert response.fields == []
        assert client.response().body == b"body"
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().body == b"old"
    assert said == [
        "Expected ASGI message 'http.response.body', but got 'http.response.early_hint'."
    ]


def test_early_hints_of_pipelined_requests(served: Served) -> None:
    hinted = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await with_extension(scope, send, "http.response.early_hint"):
            if scope["path"] == "/first":
                await eventually(hinted.is_set, "the other one has sent a hint")
            links = [scope["raw_path"]]
            await send({"type": "http.response.early_hint", "links": links})
            hinted.set()
            await answer(send, scope["raw_path"])

    with served(app) as server, server.client() as client:
        targets = ["/first", "/second"]
        for target in targets:
            client.request("GET", target)
        for target in targets:
            hint = client.response()
            if hint.status == 501:
                pytest.skip("it does not have it")
            assert (hint.status, hint.field("link")) == (103, target)
            assert client.response().body == target.encode()


# TLS


def secured(server: Server, trusting: ssl.SSLContext) -> Client:
    """A connection with TLS."""
    plain = server.client()
    sock = trusting.wrap_socket(plain.sock, server_hostname="localhost")
    plain.file.close()
    return Client(sock)


class Extensions:
    """An application that keeps what it is told of TLS."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope.get("extensions", {}).get("tls"))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        if self.seen[-1] is not None:
            self.seen[-1]["mine"] = True
        await answer(send, b"")

    def told(self) -> Any:
        """What it was told last."""
        if self.seen[-1] is None:
            pytest.skip("it does not have it")
        self.seen[-1].pop("mine", None)
        return self.seen[-1]


SUITES = {
    cipher["name"]: cipher["id"] & 0xFFFF for cipher in ssl.create_default_context().get_ciphers()
}
"""The numbers of IANA, by OpenSSL's names."""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(served: Served, version: ssl.TLSVersion) -> None:
    path = certificate("keycert.pem")
    trusting = ssl.create_default_context(cafile=path)
    trusting.maximum_version = version
    app = Extensions()
    with served(app, ssl_certfile=str(path)) as server, secured(server, trusting) as client:
        sock: Any = client.sock
        for _ in range(2):
            client.request()
            client.response()
        own = ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True))
        assert app.told() == {
            "server_cert": own,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": int(version),
            "cipher_suite": SUITES[sock.cipher()[0]],
        }
        with WebSocket(secured(server, trusting)) as websocket:
            websocket.ask()
            assert websocket.client.head().status == 101
            assert app.told()["tls_version"] == int(version)


def test_no_tls(served: Served) -> None:
    app = Extensions()
    with served(app) as server:
        server.get()
    assert app.seen == [None]


def test_the_certificate_of_a_client(served: Served) -> None:
    path = certificate("keycert.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    app = Extensions()
    options = {"ssl_certfile": str(path), "ssl_cert_reqs": ssl.CERT_OPTIONAL}
    with served(app, **options, ssl_ca_certs=str(path)) as server:
        with secured(server, context) as client:
            client.request()
            client.response()
            assert app.told()["client_cert_chain"] == []
        context.load_cert_chain(path)
        with secured(server, context) as client:
            client.request()
            client.response()
            told = app.told()
    # Both sides have the same one.
    assert told["client_cert_chain"] == [told["server_cert"]]
    assert told["client_cert_name"] == (
        "CN=localhost,O=Python Software Foundation,L=Castle Anthrax,C=XY"
    )
    assert told["client_cert_error"] is None


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ((), ""),
        (((("countryName", "XY"),), (("commonName", "a"),)), "CN=a,C=XY"),
        (((("userId", "b"), ("commonName", "a")),), "UID=b+CN=a"),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
        (((("commonName", '#a,"b";<c>+\\d '),),), r"CN=\#a\,\"b\"\;\<c\>\+\\d\ "),
        (((("commonName", " a"),),), r"CN=\ a"),
        (((("commonName", ""),),), "CN="),
    ],
)
def test_a_name_in_one_line(subject: Any, text: str) -> None:
    from loop_pool._serve.tls_extension import name

    assert name(subject) == text
