"""Responses out of files, by paths. On each kind that sends any."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool
from loop_pool._serve import files

from ..support import HANG, eventually, wait_for
from .files import (
    LARGE,
    OFTEN,
    by_path,
    client_of,
    content_of,
    length_of,
    start,
)
from .server import answer

if TYPE_CHECKING:
    from pathlib import Path

    from .files import Served


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file is."""
    return tmp_path / "file"


@pytest.mark.parametrize("size", [0, 1, files.SMALL, files.SMALL + 1, LARGE])
@pytest.mark.parametrize("with_length", [True, False])
def test_files_of_all_sizes(
    sending: Served, transport: Any, path: Path, size: int, with_length: bool
) -> None:
    content = content_of(size)
    path.write_bytes(content)
    headers = [length_of(content)] if with_length else []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        await send(start(*headers))
        await send(by_path(path))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        for method in ("GET", "HEAD", "GET"):
            client.request(method)
            response = client.response(method)
            assert response.field("content-length") == str(size)
            assert response.body == (content if method == "GET" else b"")


def test_a_file_in_chunks_if_the_application_says_so(
    sending: Served, transport: Any, path: Path
) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"transfer-encoding", b"chunked")))
        await send(by_path(path))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        for _ in range(2):
            client.request()
            response = client.response()
            assert response.field("transfer-encoding") == "chunked"
            assert response.body == content


def test_a_client_of_an_old_version(sending: Served, transport: Any, path: Path) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(by_path(path))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.response().body == content


def test_without_tls_the_kernel_sends_a_large_file(
    sending: Served, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)
    monkeypatch.setattr(files, "_read", None)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(by_path(path))

    with sending(app) as server, server.client() as client:
        for _ in range(2):
            client.request()
            assert client.response().body == content


def test_a_file_that_the_kernel_does_not_send(
    sending: Served, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)

    async def refused(loop: Any, *args: Any, **kwargs: Any) -> int:
        raise asyncio.SendfileNotAvailableError("not this one")

    monkeypatch.setattr(loop_pool.EventLoop, "sendfile", refused)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_chunked = scope["path"] == "/chunked"
        await send(start(*[(b"transfer-encoding", b"chunked")] * is_chunked))
        await send(by_path(path))

    with sending(app) as server, server.client() as client:
        for target in ("/", "/chunked", "/"):
            client.request("GET", target)
            assert client.response().body == content


def test_the_file_response_of_starlette(served: Served, path: Path) -> None:
    starlette = pytest.importorskip("starlette.responses")
    content = content_of(LARGE)
    path.write_bytes(content)
    with served(starlette.FileResponse(path)) as server, server.client() as client:
        for method in ("GET", "HEAD", "GET"):
            client.request(method)
            response = client.response(method)
            assert response.field("content-length") == str(LARGE)
            assert response.body == (content if method == "GET" else b"")
        client.request("GET", "/", ("Range", "bytes=4-11"))
        response = client.response()
        assert (response.status, response.body) == (206, content[4:12])
    # Those end by themselves, after their loop.
    wait_for(lambda: not any("AnyIO" in thread.name for thread in threading.enumerate()), "it ends")


# What is wrong


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_what_cannot_be_sent_is_an_error_before_the_head(
    sending: Served, path: Path, kind: str
) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    errors: list[OSError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"4")))
        try:
            await send(by_path(path))
        except OSError as error:
            errors.append(error)
            if scope["path"] == "/raise":
                raise
            await send({"type": "http.response.body", "body": b"none"})

    with sending(app) as server:
        assert server.get("/").body == b"none"
        assert server.get("/raise").status == 500
    wanted = {"nothing": FileNotFoundError, "a folder": IsADirectoryError, "a pipe": OSError}[kind]
    assert [type(error) for error in errors] == [wanted, wanted]
    assert all(str(path) in str(error) for error in errors)


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_length_that_is_not_the_files(sending: Served, path: Path, size: int, more: int) -> None:
    path.write_bytes(content_of(size))
    errors: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"%d" % (size + more))))
        try:
            await send(by_path(path))
        except RuntimeError as error:
            errors.append(str(error))
        await send({"type": "http.response.body", "body": bytes(size + more)})

    with sending(app) as server:
        assert server.get().body == bytes(size + more)
    (said,) = errors
    assert ("longer" if more < 0 else "shorter") in said


def test_a_file_that_becomes_shorter_ends_the_connection(
    sending: Served, transport: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = LARGE * OFTEN
    cut = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        sending = asyncio.ensure_future(send(by_path(path)))
        await eventually(cut.is_set, "the file is shorter")
        await sending

    with path.open("wb") as file:
        file.truncate(size)
    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        client.request()
        assert client.head().field("content-length") == str(size)
        assert client.file.read(LARGE) == bytes(LARGE)
        os.truncate(path, LARGE)
        cut.set()
        with contextlib.suppress(OSError):
            assert len(client.rest()) < size - LARGE
        path.write_bytes(b"other")
        with client_of(server, trusting) as other:
            other.request()
            assert other.response().body == b"other"
    assert "became shorter while it was sent" in caplog.text


def test_another_message_while_a_file_is_sent(sending: Served, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE * OFTEN)
    said = ""
    refused = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal said
        await send(start())
        sending = asyncio.ensure_future(send(by_path(path)))
        while not said:
            await asyncio.sleep(0.01)
            try:
                await send({"type": "http.response.trailers", "headers": []})
            except RuntimeError as error:
                said = str(error) if "while a file" in str(error) else ""
        refused.set()
        await sending

    with sending(app) as server, server.client() as client:
        client.request()
        assert refused.wait(HANG)
        assert len(client.response().body) == LARGE * OFTEN
    assert said == ("Unexpected ASGI message 'http.response.trailers', while a file is being sent.")


# Clients


def test_send_waits_for_a_slow_client(sending: Served, transport: Any, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE * OFTEN)
    stalled = threading.Event()
    sent = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        sending = asyncio.ensure_future(send(by_path(path)))
        _, waits = await asyncio.wait({sending}, timeout=0.5)
        if waits:
            stalled.set()
        await sending
        sent.set()

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        client.request()
        assert stalled.wait(HANG), "it sends what nobody takes"
        assert not sent.is_set()
        assert len(client.response().body) == LARGE * OFTEN
        assert sent.wait(HANG)


@pytest.mark.parametrize("by_reset", [True, False])
def test_a_client_that_leaves_in_the_middle(
    sending: Served, transport: Any, path: Path, by_reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE * OFTEN)
    told: list[str] = []
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/small":
            await answer(send, b"small")
            return
        await receive()
        await send(start())
        await send(by_path(path))
        told.append((await receive())["type"])
        ended.set()

    options, trusting = transport
    with sending(app, **options) as server:
        with client_of(server, trusting) as client:
            client.request()
            assert client.file.read(LARGE)
            if by_reset and trusting is None:
                client.reset()
        assert ended.wait(HANG)
        with client_of(server, trusting) as client:
            client.request("GET", "/small")
            assert client.response().body == b"small"
    assert told == ["http.disconnect"]
    assert "ERROR" not in {record.levelname for record in caplog.records}, caplog.text


def test_a_request_that_is_cancelled_in_the_middle(
    sending: Served, transport: Any, path: Path
) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE * OFTEN)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/small":
            await answer(send, b"small")
            return
        await send(start())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await send(by_path(path))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        client.request()
        client.head()
        with contextlib.suppress(OSError):
            assert len(client.rest()) < LARGE * OFTEN
        with client_of(server, trusting) as other:
            other.request("GET", "/small")
            assert other.response().body == b"small"


# Other requests


def test_requests_behind_a_file(sending: Served, transport: Any, path: Path) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/file":
            await answer(send, scope["path"].encode())
            return
        await send(start())
        await send(by_path(path))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        targets = ["/a", "/file", "/b", "/file", "/file", "/c"] * 3
        ask = "".join(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n" for target in targets)
        client.send(ask.encode())
        for target in targets:
            wanted = content if target == "/file" else target.encode()
            assert client.response().body == wanted
        client.request("POST", "/file", body=b"abc")
        assert client.response().body == content


def test_a_file_behind_a_request_that_is_slow(sending: Served, transport: Any, path: Path) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)
    opened = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await eventually(opened.is_set, "the other one has begun")
            await answer(send, b"slow")
            return
        await send(start())
        sending = asyncio.ensure_future(send(by_path(path)))
        await asyncio.wait({sending}, timeout=0.3)
        assert not sending.done(), "much of it waits here"
        opened.set()
        await sending

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        client.send(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.response().body == b"slow"
        assert client.response().body == content


def test_a_file_sent_from_another_loop(
    sending: Served, transport: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)
    # Only the transport's own loop may do it.
    monkeypatch.setattr(loop_pool.EventLoop, "sendfile", None)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def send_it() -> None:
            await send(by_path(path))

        here = asyncio.get_running_loop()
        (other,) = [loop for loop in loop_pool.current_pool().loops if loop is not here]
        await send(start())
        await loop_pool.spawn(send_it(), loop=other)

    options, trusting = transport
    with sending(app, loops=2, **options) as server, client_of(server, trusting) as client:
        for _ in range(2):
            client.request()
            assert client.response().body == content
