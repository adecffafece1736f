"""What an application sends, as it arrives at the client. On each kind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG, wait_for
from .server import answer, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import App, Server

    type Served = Callable[..., Server]


def sends(*messages: dict[str, Any]) -> App:
    """An application that sends these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


LENGTH_4 = (b"content-length", b"4")


# Framing


def test_a_length_that_is_given(served: Served) -> None:
    app = sends(start(200, LENGTH_4), body(b"bo", more=True), body(b"dy"))
    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request()
            response = client.response()
            assert response.body == b"body"
            assert response.all("content-length") == ["4"]
            assert response.all("transfer-encoding") == []


def test_no_length_means_chunks(served: Served) -> None:
    parts = [b"one", b"", b"two", b"x" * 70_000]
    app = sends(start(), *(body(part, more=True) for part in parts), body())
    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request()
            response = client.response()
            assert response.body == b"".join(parts)
            assert response.all("transfer-encoding") == ["chunked"]
            assert response.all("content-length") == []


def test_each_part_is_sent_at_once(served: Served) -> None:
    go = asyncio.Semaphore(0)
    loops = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await send(start())
        for number in range(3):
            await send(body(b"%d" % number, more=True))
            await go.acquire()
        await send(body())

    with served(app) as server, server.client() as client:
        client.request()
        client.head()
        for number in range(3):
            assert client.chunk() == b"%d" % number
            loops[0].call_soon_threadsafe(go.release)
        assert client.chunk() == b""


def test_an_application_may_chunk_by_name(served: Served) -> None:
    """`transfer-encoding: chunked` of an application's own is the server's to do."""
    app = sends(start(200, (b"transfer-encoding", b"chunked")), body(b"body"))
    with served(app) as server, server.client() as client:
        client.request()
        assert client.response().body == b"body"


def test_chunks_by_name_count_for_more_than_a_length(served: Served, http: str) -> None:
    """Programs give both: of a response that they pass on, for example."""
    app = sends(start(200, (b"transfer-encoding", b"chunked"), LENGTH_4), body(b"body"))
    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request()
            head = client.head()
            assert (head.status, head.all("transfer-encoding")) == (200, ["chunked"])
            assert head.all("content-length") == (["4"] if http == "httptools" else [])
            assert [*iter(client.chunk, b"")] == [b"body"]
            assert client.section() == []


def test_nothing_but_a_start_and_an_end(served: Served) -> None:
    messages = [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}]
    with served(sends(*messages)) as server, server.client() as client:
        for _ in range(2):
            client.request()
            assert client.response().body == b""


@pytest.mark.parametrize("headers", [[], [LENGTH_4]], ids=["chunks", "length"])
def test_head_has_the_headers_and_no_body(served: Served, headers: Any) -> None:
    app = sends(start(200, (b"x-a", b"b"), *headers), body(b"body"))
    with served(app) as server, server.client() as client:
        for _ in range(2):
            client.request("HEAD")
            response = client.response("HEAD")
            assert response.field("x-a") == "b"
            # Who has all of the body may say how long it is.
            assert response.all("content-length") in (["4"] * len(headers), ["4"])
        client.request("GET")
        assert client.response().body == b"body"


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(served: Served, status: int) -> None:
    with served(sends(start(status), body())) as server, server.client() as client:
        for _ in range(2):
            client.request()
            response = client.response()
            assert response.status == status
            assert response.all("transfer-encoding") == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, "OK"), (418, "I'm a Teapot"), (503, "Service Unavailable"), (299, None), (599, None)],
)
def test_statuses(served: Served, status: int, reason: str | None) -> None:
    with served(sends(start(status, LENGTH_4), body(b"body"))) as server:
        response = server.get()
    assert (response.status, response.version) == (status, "HTTP/1.1")
    assert reason is None or response.reason.lower() == reason.lower()
    assert response.body == b"body"


def test_headers_stay_in_order(served: Served) -> None:
    headers = [
        (b"set-cookie", b"a=1"),
        (b"x-a", b"\xe4\t;"),
        (b"set-cookie", b"b=2"),
        (b"x-b", b""),
    ]
    with served(sends(start(200, *headers, LENGTH_4), body(b"body"))) as server:
        response = server.get()
    given = {name.decode() for name, _ in headers}
    assert [field for field in response.fields if field[0] in given] == [
        (name.decode(), value.decode("latin-1")) for name, value in headers
    ]


@pytest.mark.parametrize("make", [tuple, iter], ids=["tuple", "iterator"])
def test_headers_may_be_any_iterable(served: Served, make: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = make([(b"x-a", b"b"), LENGTH_4])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(body(b"body"))

    with served(app) as server:
        assert server.get().field("x-a") == "b"


def test_names_of_headers_in_any_case(served: Served) -> None:
    app = sends(start(200, (b"Content-LENGTH", b"4"), (b"X-Mixed", b"Case")), body(b"body"))
    with served(app) as server:
        response = server.get()
    assert (response.body, response.field("x-mixed")) == (b"body", "Case")


# Messages that cannot be


class Sends:
    """An application that sends messages, and keeps what `send` raises."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = messages
        self.raised: list[Exception] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for message in self._messages:
            try:
                await send(message)
            except Exception as error:
                self.raised.append(error)
                raise


@pytest.mark.parametrize(
    "value", [b"x\r\ncookie: smuggled=1", b"x\ncookie: smuggled=1", b"x\0", b"\r"]
)
def test_a_header_cannot_smuggle_another(served: Served, value: bytes) -> None:
    app = Sends(start(200, (b"x-a", value), LENGTH_4), body(b"body"))
    with served(app) as server, server.client() as client:
        client.request()
        assert b"smuggled" not in client.rest()
    assert len(app.raised) == 1


@pytest.mark.parametrize("name", [b"x a", b"x:", b"x\r\n", b"x\0"])
def test_a_name_of_a_header_that_is_none(served: Served, name: bytes) -> None:
    app = Sends(start(200, (name, b"value"), LENGTH_4), body(b"body"))
    with served(app) as server, server.client() as client:
        client.request()
        assert b"value" not in client.rest()
    assert len(app.raised) == 1


@pytest.mark.parametrize(
    "parts", [[b"too long"], [b"bod", b"yy"], [b"bod"], [b"b", b"o"], [b""]], ids=repr
)
def test_a_body_of_another_length_ends_the_connection(served: Served, parts: list[bytes]) -> None:
    *first, last = parts
    app = Sends(start(200, LENGTH_4), *(body(part, more=True) for part in first), body(last))
    with served(app) as server, server.client() as client:
        client.request()
        head = client.head()
        if head.status == 500:
            assert not first, "something of the response was sent before"
        else:
            assert head.field("content-length") == "4"
        assert len(client.rest()) <= int(head.field("content-length"))
    assert len(app.raised) == 1


def test_a_second_start_ends_the_connection(served: Served) -> None:
    app = Sends(start(200), start(201))
    with served(app) as server, server.client() as client:
        client.request()
        assert b" 201 " not in client.rest()
    assert "http.response.start" in str(app.raised[0])


def test_a_body_before_the_start_is_an_error(served: Served) -> None:
    app = Sends(body(b"body"))
    with served(app) as server:
        response = server.get()
    assert (response.status, response.body) == (500, b"Internal Server Error")
    assert isinstance(app.raised[0], RuntimeError)
    assert "http.response.body" in str(app.raised[0])


@pytest.mark.parametrize("kind", ["http.response.nonsense", "websocket.send", "http.request"])
def test_a_message_of_an_unknown_type_is_an_error(served: Served, kind: str) -> None:
    app = Sends({"type": kind})
    with served(app) as server:
        assert server.get().status == 500
    assert isinstance(app.raised[0], RuntimeError)
    assert kind in str(app.raised[0])


def test_a_message_after_the_end_is_an_error(served: Served) -> None:
    app = Sends(start(200, LENGTH_4), body(b"body"), body(b"more"))
    with served(app) as server, server.client() as client:
        client.request()
        assert client.response().body == b"body"
        assert client.is_closed()
    assert isinstance(app.raised[0], RuntimeError)
    assert "http.response.body" in str(app.raised[0])


# How an application ends


def test_an_exception_before_the_start_is_a_500(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("of the application")

    with served(app) as server, server.client() as client:
        client.request()
        response = client.response()
        assert client.is_closed()
    assert (response.status, response.body) == (500, b"Internal Server Error")
    assert response.field("connection").lower() == "close"
    assert response.field("content-type") == "text/plain; charset=utf-8"
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.name == "uvicorn.error"
    assert record.getMessage() == "Exception in ASGI application\n"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "of the application"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_what_ends_other_programs_is_a_500_and_the_server_goes_on(
    served: Served,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
    waits: bool,
    debug: bool,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if waits:
            await asyncio.sleep(0)
        raise error("of the application")

    with served(app, debug=debug) as server:
        for _ in range(2):
            with server.client() as client:
                client.request()
                assert client.response().status == 500
        gc.collect()
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in records] == ["Exception in ASGI application\n"] * 2
    assert all(record.exc_info and record.exc_info[0] is error for record in records)


def test_tasks_may_be_of_a_class_of_the_programs(served: Served) -> None:
    made: list[Any] = []

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        tasks: Any = asyncio.tasks
        made.append(tasks._PyTask(coro, loop=loop, **options))
        return made[-1]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        if scope["path"] != "/now":
            await asyncio.sleep(0)
        if scope["path"] == "/raise":
            raise SystemExit
        await answer(send)

    with served(app) as server:
        statuses = [server.get(path).status for path in ("/", "/now", "/later", "/raise", "/later")]
    assert statuses == [200, 200, 200, 500, 200]
    assert len(made) >= 4


@pytest.mark.parametrize("headers", [[], [LENGTH_4]], ids=["chunks", "length"])
def test_an_exception_after_the_start_ends_the_connection(served: Served, headers: Any) -> None:
    """So the client sees that something is missing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, *headers))
        await send(body(b"bo", more=True))
        raise ZeroDivisionError

    with served(app) as server, server.client() as client:
        client.request()
        assert client.head().status == 200
        rest = client.rest()
    assert rest == b"bo" if headers else rest in {b"2\r\nbo\r\n", b"2\r\nbo"}


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_no_response_is_a_500(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with served(sends()) as server, server.client() as client:
        client.request()
        assert client.response().status == 500
        assert client.is_closed()
    assert errors(caplog) == ["ASGI callable returned without starting response."]


def test_half_a_response_ends_the_connection(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served(sends(start(), body(b"body", more=True))) as server, server.client() as client:
        client.request()
        assert client.head().status == 200
        assert client.chunk() == b"body"
        assert client.is_closed()
    assert errors(caplog) == ["ASGI callable returned without completing response."]


def test_a_value_is_an_error(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> int:
        await answer(send, b"body")
        return 123

    with served(app) as server, server.client() as client:
        client.request()
        assert client.response().body == b"body"
        assert client.is_closed()
    assert errors(caplog) == ["ASGI callable should return None, but returned '123'."]


def test_an_application_may_go_on_after_its_response(served: Served) -> None:
    """As background tasks do; the connection goes on meanwhile."""
    go = threading.Event()
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/first":
            while not go.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            ended.set()

    with served(app) as server, server.client() as client:
        for path in ("/first", "/second"):
            client.request("GET", path)
            assert client.response().body == path.encode()
        assert not ended.is_set()
        go.set()
        assert ended.wait(HANG)


def test_an_application_may_be_an_object_or_a_function_of_two_steps(served: Served) -> None:
    class Object:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await answer(send, b"object")

    def two_steps(scope: Any) -> Any:
        async def instance(receive: Any, send: Any) -> None:
            await answer(send, f"asgi {scope['asgi']['version']}".encode())

        return instance

    for app, said in ((Object(), b"object"), (two_steps, b"asgi 2.0")):
        with served(app) as server:
            assert server.get().body == said


# Back-pressure


def test_send_waits_for_a_slow_client(served: Served) -> None:
    piece, count = bytes(1024 * 1024), 64
    stalled = threading.Event()
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(start(200, (b"content-length", b"%d" % (len(piece) * count))))
        for number in range(count):
            sending = asyncio.ensure_future(send(body(piece, more=number < count - 1)))
            # Never, unless it waits for the client, which reads nothing until then.
            _, waits = await asyncio.wait({sending}, timeout=0.3)
            if waits:
                stalled.set()
            await sending
            sent += 1

    with served(app) as server, server.client() as client:
        client.request()
        assert stalled.wait(HANG), "it sends what nobody takes"
        assert sent < count
        assert client.response().body == piece * count
        wait_for(lambda: sent == count, "it has sent all")


def test_a_client_that_goes_ends_the_wait_of_send(served: Served) -> None:
    ended: list[Any] = []
    waits = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read(receive)
        await send(start())
        try:
            while not ended:
                sending = asyncio.ensure_future(send(body(bytes(1024 * 1024), more=True)))
                if (await asyncio.wait({sending}, timeout=0.3))[1]:
                    waits.set()
                await sending
                if waits.is_set():
                    assert await receive() == {"type": "http.disconnect"}
                    ended.append(None)
        except OSError as error:  # as ASGI 2.4 has it
            ended.append(error)

    with served(app) as server:
        with server.client() as client:
            client.request()
            assert waits.wait(HANG)
        wait_for(lambda: bool(ended), "it goes on")


# Other loops


def test_parts_sent_from_another_loop_stay_in_order(served: Served) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        here = asyncio.get_running_loop()
        other = next(loop for loop in loop_pool.current_pool().loops if loop is not here)

        async def parts() -> None:
            for number in range(200):
                await send(body(b"%d " % number, more=True))

        await send(start())
        await loop_pool.spawn(parts(), loop=other)
        await send(body(b"end"))

    with served(app, loops=2) as server, server.client() as client:
        for _ in range(2):
            client.request()
            assert client.response().body.split() == [*(b"%d" % n for n in range(200)), b"end"]
