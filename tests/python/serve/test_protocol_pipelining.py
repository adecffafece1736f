"""Several requests on one connection, and how long it stays. On each kind."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, eventually, wait_for
from .server import answer, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


async def path(scope: Any, receive: Any, send: Any) -> None:
    """Answers with its path and its body."""
    await answer(send, scope["path"].encode() + await read(receive))


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def post(target: str, body: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


# Pipelining


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with served(path) as server, server.client() as client:
        client.send(b"".join(get(f"/{number}") for number in range(50)))
        for number in range(50):
            assert client.response().body == b"/%d" % number


def test_the_first_one_may_be_the_slowest(served: Served) -> None:
    """Whether requests that wait are begun is the server's choice; the order is not."""
    go = threading.Event()
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        if scope["path"] == "/0":
            await eventually(go.is_set, "it may go on")
        await answer(send, scope["path"].encode())

    with served(app) as server, server.client() as client:
        client.send(get("/0") + get("/1") + get("/2"))
        wait_for(lambda: bool(begun), "the first one is begun")
        assert select.select([client.sock], [], [], 0.05)[0] == []
        go.set()
        assert [client.response().body for _ in range(3)] == [b"/0", b"/1", b"/2"]
    assert begun[0] == "/0"


def test_a_request_that_may_change_something_waits_for_those_before_it(served: Served) -> None:
    running = 0
    most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        body = await read(receive)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        await answer(send, scope["path"].encode() + body)

    with served(app) as server, server.client() as client:
        client.send(b"".join(post(f"/{number}", b"-%d" % number) for number in range(10)))
        for number in range(10):
            assert client.response().body == b"/%d-%d" % (number, number)
    assert most == 1


def test_bodies_between_pipelined_requests(served: Served) -> None:
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"1\r\n3\r\n0\r\n\r\n"
    with served(path) as server, server.client() as client:
        client.send(get("/a") + post("/b", b"1") + chunked + get("/d") + post("/e", b""))
        bodies = [client.response().body for _ in range(5)]
    assert bodies == [b"/a", b"/b1", b"/c3", b"/d", b"/e"]


def test_methods_without_a_body_in_the_response_between_others(served: Served) -> None:
    with served(path) as server, server.client() as client:
        client.send(get("/a") + get("/b").replace(b"GET", b"HEAD") + get("/c"))
        assert client.response().body == b"/a"
        assert client.response("HEAD").field("content-length") == "2"
        assert client.response().body == b"/c"


def test_more_requests_than_anybody_takes(served: Served) -> None:
    """Their responses come one after another, although the client reads late."""
    count = 2000

    def send() -> None:
        client.send(b"".join(get(f"/{number}") for number in range(count)))

    with served(path) as server, server.client() as client:
        sender = threading.Thread(target=send)
        sender.start()
        for number in range(count):
            assert client.response().body == b"/%d" % number
        sender.join(HANG)


def test_a_malformed_request_behind_a_good_one(served: Served) -> None:
    with served(path) as server, server.client() as client:
        client.send(get("/good"))
        assert client.response().body == b"/good"
        client.send(b"nonsense\r\n\r\n")
        assert client.response().status == 400
        assert client.is_closed()


# Keep-alive


def test_a_connection_is_kept(served: Served) -> None:
    with served(path) as server, server.client() as client:
        for number in range(20):
            client.send(get(f"/{number}"))
            response = client.response()
            assert response.body == b"/%d" % number
            assert response.all("connection") == []


def test_an_idle_connection_is_closed(served: Served) -> None:
    with served(path, timeout_keep_alive=0.1) as server, server.client() as client:
        client.send(get("/a"))
        client.response()
        began = time.monotonic()
        assert client.is_closed()
        assert time.monotonic() - began > 0.05


def test_the_time_begins_anew_after_each_request(served: Served) -> None:
    with served(path, timeout_keep_alive=0.8) as server, server.client() as client:
        for _ in range(4):
            client.send(get("/a"))
            assert client.response().status == 200
            time.sleep(0.3)
        assert client.is_closed()


def test_a_slow_application_is_not_idle(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        await answer(send)

    with served(app, timeout_keep_alive=0.1) as server, server.client() as client:
        client.send(get("/") + get("/slow"))
        assert client.response().status == 200
        assert client.response().status == 200


def test_a_client_may_ask_for_the_end(served: Served) -> None:
    with served(path) as server, server.client() as client:
        client.request("GET", "/a", ("Connection", "close"))
        response = client.response()
        assert response.body == b"/a"
        assert response.field("connection").lower() == "close"
        assert client.is_closed()


def test_an_application_may_ask_for_the_end(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"body", headers=[(b"Connection", b"Close")])

    with served(app) as server, server.client() as client:
        client.send(get("/a"))
        response = client.response()
        assert response.body == b"body"
        assert response.field("connection").lower() == "close"
        assert client.is_closed()


def test_a_client_that_asks_for_the_end_may_send_a_body(served: Served) -> None:
    with served(path) as server, server.client() as client:
        client.request("POST", "/a", ("Connection", "close"), body=b"body")
        assert client.response().body == b"/abody"
        assert client.is_closed()


def test_nothing_is_answered_behind_the_end(served: Served) -> None:
    begun = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await answer(send, scope["path"].encode())

    last = b"GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with served(app) as server, server.client() as client:
        client.send(get("/a"))
        client.response()
        client.send(last + get("/c"))
        assert client.response().body == b"/b"
        assert client.is_closed()
    assert begun == ["/a", "/b"]


@pytest.mark.parametrize("count", [1, 7])
def test_many_connections_at_once(served: Served, count: int) -> None:
    with served(path, loops=2) as server:
        clients = [server.client() for _ in range(count)]
        for round_ in range(3):
            for number, client in enumerate(clients):
                client.send(get(f"/{round_}/{number}"))
            for number, client in enumerate(clients):
                assert client.response().body == b"/%d/%d" % (round_, number)
        for client in clients:
            client.close()
