"""WebSockets: who closes them, and what the other side is told. On each kind."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ..support import HANG, eventually, wait_for
from .websocket import (
    ACCEPT_IT,
    CLOSE,
    CONNECT,
    Frame,
    Messages,
    WebSocket,
    after_connect,
    opened,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import Server

    type Served = Callable[..., Server]


# The client closes


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "going"), (3000, "ä"), (4999, "x" * 100)]
)
def test_the_code_of_the_client(served: Served, messages: Messages, code: int, reason: str) -> None:
    with served(messages) as server, opened(server) as websocket:
        websocket.close(code, reason)
        frame = websocket.frame()
        assert (frame.opcode, frame.code) == (CLOSE, code)
        assert websocket.client.is_closed()
        message = messages.disconnect()
    assert message["type"] == "websocket.disconnect"
    assert message["code"] == code
    assert (message.get("reason") or "") == reason


def test_a_close_without_a_code(served: Served, messages: Messages) -> None:
    with served(messages) as server, opened(server) as websocket:
        websocket.send(CLOSE)
        assert websocket.frame().opcode == CLOSE
        assert websocket.client.is_closed()
    assert messages.disconnect()["code"] == 1005


def test_messages_before_a_close_are_received(served: Served) -> None:
    go = threading.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        await eventually(go.is_set, "it may receive")
        while True:
            seen.append(await receive())
            if seen[-1]["type"] == "websocket.disconnect":
                break

    with served(app) as server, opened(server) as websocket:
        for number in range(3):
            websocket.text(str(number))
        websocket.close(1001)
        go.set()
        assert websocket.frame().code == 1001
        wait_for(lambda: len(seen) == 4, "all are received")
    assert [text_of(message) for message in seen[:3]] == ["0", "1", "2"]
    assert seen[3]["code"] == 1001


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_without_a_word(served: Served, messages: Messages, how: str) -> None:
    with served(messages) as server:
        websocket = opened(server)
        websocket.text("hello")
        websocket.message()
        getattr(websocket.client, how)()
        message = messages.disconnect()
    # RFC 6455 calls it 1006; uvicorn says 1005, as of a close without a code.
    assert message["type"] == "websocket.disconnect"
    assert message["code"] in {1005, 1006}


def test_send_after_the_client_has_closed(served: Served) -> None:
    """ASGI 2.4: `OSError`; and an application that lets it pass is not in error."""
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        message = await receive()
        assert message["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except BaseException as error:
            raised.append(error)
            raise
        raised.append(None)

    with served(app) as server:
        with opened(server) as websocket:
            websocket.close()
            websocket.client.rest()
        wait_for(lambda: bool(raised), "it is told")
    assert isinstance(raised[0], OSError)


def test_a_client_that_has_gone_is_no_error_of_the_application(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
                await asyncio.sleep(0)
        finally:
            ended.set()

    with served(app) as server:
        with opened(server) as websocket:
            websocket.frame()
        assert ended.wait(HANG)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_client_that_goes_before_it_is_accepted(served: Served) -> None:
    seen: list[Any] = []
    begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        begun.set()
        seen.append(await receive())

    with served(app) as server:
        with WebSocket(server.client()) as websocket:
            websocket.ask()
            assert begun.wait(HANG)
        wait_for(lambda: bool(seen), "it is told")
    assert seen[0]["type"] == "websocket.disconnect"
    assert seen[0]["code"] == 1006


# The application closes


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({}, 1000, b""),
        ({"code": 1001, "reason": "going"}, 1001, b"going"),
        ({"code": 4000, "reason": None}, 4000, b""),
        ({"code": 3000, "reason": ""}, 3000, b""),
    ],
)
def test_the_code_of_the_application(
    served: Served, message: dict[str, Any], code: int, reason: bytes
) -> None:
    app = after_connect(ACCEPT_IT, {"type": "websocket.close", **message})
    with served(app) as server, opened(server) as websocket:
        frame = websocket.frame()
        assert frame == Frame(CLOSE, code.to_bytes(2) + reason)
        websocket.send(CLOSE, frame.payload)
        assert websocket.client.is_closed()


def test_messages_before_the_close_of_the_application_are_sent(served: Served) -> None:
    sends = [{"type": "websocket.send", "text": str(number)} for number in range(100)]
    app = after_connect(ACCEPT_IT, *sends, {"type": "websocket.close"})
    with served(app) as server, opened(server) as websocket:
        assert [websocket.message() for _ in range(100)] == [str(n) for n in range(100)]
        assert websocket.closed() == 1000


def test_after_its_own_close_an_application_receives_the_disconnect(served: Served) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        await send({"type": "websocket.close", "code": 4001})
        seen.append(await receive())

    with served(app) as server:
        with opened(server) as websocket:
            assert websocket.closed() == 4001
        wait_for(lambda: bool(seen), "it is told")
    assert seen[0]["type"] == "websocket.disconnect"


@pytest.mark.parametrize(
    "message", [{"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}]
)
def test_nothing_may_be_sent_after_the_close(served: Served, message: Any) -> None:
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        await send({"type": "websocket.close"})
        try:
            await send(message)
        except Exception as error:
            raised.append(error)

    with served(app) as server, opened(server) as websocket:
        assert websocket.frame().code == 1000
        wait_for(lambda: bool(raised), "it is refused")
    assert isinstance(raised[0], RuntimeError)
    assert message["type"] in str(raised[0])


def test_the_end_of_the_server_does_not_wait_long_for_the_answer_to_a_close(served: Served) -> None:
    """A client has 10 s to answer a close of the application, but not from a server that ends."""
    with served(after_connect(ACCEPT_IT, {"type": "websocket.close"})) as server:
        with opened(server) as websocket:
            assert websocket.frame().code == 1000
            begun = time.monotonic()
            server.stop()
            server.ended()
            assert time.monotonic() - begun < 5


def test_who_returns_without_a_close(served: Served) -> None:
    """The connection ends; uvicorn sends no close, RFC 6455 would have one."""
    with served(after_connect(ACCEPT_IT)) as server, opened(server) as websocket:
        assert websocket.client.rest()[:1] in {b"", b"\x88"}


def test_an_exception_after_the_accept_ends_it(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT_IT)
        raise ZeroDivisionError("of the application")

    with served(app) as server, opened(server) as websocket:
        rest = websocket.client.rest()
        # uvicorn sends no close. A kind that sends one says 1011.
        assert rest == b"" or rest[2:4] == (1011).to_bytes(2)
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.getMessage() == "Exception in ASGI application\n"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "of the application"


def test_a_value_is_an_error(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> int:
        await receive()
        await send(ACCEPT_IT)
        return 123

    with served(app) as server, opened(server) as websocket:
        websocket.client.rest()
    assert "ASGI callable should return None, but returned '123'." in caplog.text
