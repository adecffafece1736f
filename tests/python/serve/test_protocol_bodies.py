"""Bodies of requests as an application receives them, and the end of a client. On each kind."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, eventually, wait_for
from .server import answer, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Client, Server

    type Served = Callable[..., Server]

DISCONNECT = {"type": "http.disconnect"}


class Messages:
    """An application that receives up to the end of the body, and keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            self.seen.append(await receive())
            if not self.seen[-1].get("more_body", False):
                break
        if self.seen[-1]["type"] == "http.request":
            await answer(send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body."""
    await answer(send, await read(receive))


# Bodies


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_no_body_is_an_empty_message(served: Served, request_head: bytes) -> None:
    messages = Messages()
    with served(messages) as server, server.client() as client:
        client.send(request_head)
        assert client.response().status == 200
    assert messages.seen == [{"type": "http.request", "body": b"", "more_body": False}]


def test_a_body_that_comes_with_its_head(served: Served) -> None:
    messages = Messages()
    with served(messages) as server, server.client() as client:
        client.request("POST", body=b"\0body\xff")
        client.response()
    assert b"".join(message["body"] for message in messages.seen) == b"\0body\xff"
    assert {type(message["body"]) for message in messages.seen} == {bytes}


def test_a_body_in_pieces(served: Served) -> None:
    """Each piece is received as soon as it is there."""
    messages = Messages()
    with served(messages) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        received = 0
        for piece in (b"abc", b"def", b"ghi"):
            client.send(piece)
            received += len(piece)
            wait_for(
                lambda: sum(len(message["body"]) for message in messages.seen) == received,  # noqa: B023
                "the piece is received",
            )
        assert client.response().status == 200
    assert b"".join(message["body"] for message in messages.seen) == b"abcdefghi"
    assert not messages.seen[-1]["more_body"]
    assert all(message["more_body"] for message in messages.seen[:-1])


def test_chunks(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        for _ in range(2):
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            client.send(b"4\r\nbody\r\nA;x=y\r\n1234567890\r\n00")
            client.send(b"1\r\n!\r\n0\r\n\r\n")
            assert client.response().body == b"body1234567890!"


def test_chunks_with_trailers(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        for _ in range(2):
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: Chunked\r\n\r\n")
            client.send(b"4\r\nbody\r\n0\r\nx-checksum: 5\r\nx-more: 6\r\n\r\n")
            assert client.response().body == b"body"


def test_an_empty_body_in_chunks(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        assert client.response().body == b""


def test_what_is_no_chunk_ends_the_connection(served: Served) -> None:
    messages = Messages()
    with served(messages) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        client.send(b"4\r\nbody\r\nnonsense\r\n")
        assert b"200 OK" not in client.rest()
        # An application that is told that the client is gone.
        wait_for(lambda: messages.seen[-1:] == [DISCONNECT], "it is told")
        assert server.get().status == 200


@pytest.mark.parametrize("size", [65535, 65536, 65537, 3_000_000])
def test_large_bodies(served: Served, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with served(echo) as server, server.client() as client:
        sender = threading.Thread(target=client.request, args=("POST", "/"), kwargs={"body": body})
        sender.start()
        assert client.response().body == body
        sender.join(HANG)


def test_a_response_before_the_body_has_come(served: Served) -> None:
    """What comes of the body after that is no request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())

    with served(app) as server, server.client() as client:
        client.send(b"POST /one HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\nGET /bad")
        assert client.response().body == b"/one"
        client.send(b" HTTP/1.1\r\nhost: x\r\n\r\n".ljust(32))
        client.request("GET", "/two")
        assert client.response().body == b"/two"


def test_bodies_of_requests_after_each_other(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        for number in range(20):
            client.request("POST", body=b"%d" % number)
            assert client.response().body == b"%d" % number


def test_the_body_of_get_is_received(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        client.request("GET", body=b"of get")
        assert client.response().body == b"of get"


# Expect: 100-continue
#
# uvicorn sends 100 when the application receives. RFC 9110 (10.1.1) lets a server send it as soon
# as it has the head, so a kind may; it may not be sent to a client that does not ask for it.


def test_continue_is_sent_before_the_body_is_awaited(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
        interim = client.response()
        assert (interim.status, interim.reason, interim.body) == (100, "Continue", b"")
        client.send(b"body")
        response = client.response()
        assert (response.status, response.body) == (200, b"body")
        client.request("POST", body=b"again")
        assert client.response().body == b"again"


def test_no_continue_if_the_client_does_not_ask(served: Served) -> None:
    with served(echo) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
        client.send(b"body")
        assert client.head().status == 200


def test_a_refusal_instead_of_continue(served: Served) -> None:
    """The final response comes, whether 100 has come before it or not."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"too large", 413, [(b"connection", b"close")])

    with served(app) as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
        response = client.response()
        while response.status == 100:
            response = client.response()
        assert (response.status, response.body) == (413, b"too large")
        assert client.is_closed()


# The end of a client


def test_after_the_response_there_is_only_the_disconnect(served: Served) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await read(receive))
        seen.append(await receive())
        seen.append(await receive())

    with served(app) as server, server.client() as client:
        client.request("POST", body=b"body")
        client.response()
        wait_for(lambda: len(seen) == 2, "both are received")
    assert seen == [DISCONNECT, DISCONNECT]


def wait_for_disconnect(served: Served, leave: Callable[[Client], None], body: bytes) -> None:
    """What waits is told that the client has left, and what asks again once more."""
    seen: list[Any] = []
    waits = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message["type"] == "http.request" and message["body"]:
            message = await receive()
            waits.set()
        waits.set()
        seen.append(await receive())
        seen.append(await receive())

    with served(app) as server:
        with server.client() as client:
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body))
            client.send(body)
            assert waits.wait(HANG) or not body
            leave(client)
        wait_for(lambda: len(seen) == 2, "both are received")
    assert seen == [DISCONNECT, DISCONNECT]


def test_who_waits_is_told_that_the_client_has_gone(served: Served) -> None:
    wait_for_disconnect(served, lambda client: client.close(), b"")


def test_who_waits_is_told_that_the_client_has_reset(served: Served) -> None:
    wait_for_disconnect(served, lambda client: client.reset(), b"")


def test_a_client_that_goes_in_the_middle_of_its_body(served: Served) -> None:
    messages = Messages()
    with served(messages) as server:
        with server.client() as client:
            client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
            wait_for(lambda: bool(messages.seen), "a part is received")
        wait_for(lambda: messages.seen[-1] == DISCONNECT, "it is told")
    parts = messages.seen[:-1]
    assert b"".join(part["body"] for part in parts) == b"abc"
    assert all(part["more_body"] for part in parts)


def test_what_is_sent_to_who_has_gone_is_lost(served: Served) -> None:
    """`send` returns or raises `OSError` (ASGI 2.4), and the application goes on."""
    ended: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while await receive() != DISCONNECT:
            pass
        try:
            await answer(send, b"x" * 1000)
            ended.append(None)
        except OSError as error:
            ended.append(error)

    with served(app) as server:
        with server.client() as client:
            client.request()
        wait_for(lambda: bool(ended), "it goes on")
    assert ended[0] is None or isinstance(ended[0], OSError)


def test_a_request_whose_client_goes_is_not_cancelled(served: Served) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        while await receive() != DISCONNECT:
            pass
        for _ in range(20):
            await asyncio.sleep(0)
        ended.append("by itself")

    begun = threading.Event()
    with served(app) as server:
        with server.client() as client:
            client.request()
            assert begun.wait(HANG)
        wait_for(lambda: bool(ended), "it ends")
    assert ended == ["by itself"]


# Back-pressure


def test_the_bytes_for_a_slow_application_stay_in_the_kernel(served: Served) -> None:
    """So the client cannot send more than the kernel and one buffer hold."""
    size = 64 * 1024 * 1024
    go = threading.Event()
    digest = hashlib.sha256()
    received = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        await eventually(go.is_set, "it may begin")
        while True:
            message = await receive()
            digest.update(message["body"])
            received += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, digest.hexdigest().encode())

    piece = bytes(range(256)) * 256
    expected = hashlib.sha256()
    with served(app) as server, server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        sent = 0
        # Until nothing can be sent for a while, which is never if the server takes it all.
        client.sock.settimeout(0.3)
        try:
            while sent < size:
                count = client.sock.send(piece[sent % len(piece) :])
                expected.update(piece[sent % len(piece) :][:count])
                sent += count
        except TimeoutError:
            pass
        assert sent < size, "the server takes what nobody receives"
        client.sock.settimeout(HANG)
        go.set()
        while sent < size:
            part = piece[sent % len(piece) :]
            client.send(part)
            expected.update(part)
            sent += len(part)
        assert client.response().body.decode() == expected.hexdigest()
    assert received == size


# Other loops


def test_a_body_may_be_received_on_another_loop(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        here = asyncio.get_running_loop()
        other = next(loop for loop in loop_pool.current_pool().loops if loop is not here)
        body = await loop_pool.spawn(read(receive), loop=other)
        await loop_pool.spawn(answer(send, body), loop=other)

    body = bytes(range(256)) * 1000
    with served(app, loops=2) as server, server.client() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        for _ in range(3):
            client.request("POST", body=body)
            assert client.response().body == body
