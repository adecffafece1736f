"""Responses out of files that an application has open. On each kind that sends any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from .files import LARGE, client_of, content_of, start

if TYPE_CHECKING:
    from pathlib import Path

    from .files import Served


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file is."""
    return tmp_path / "file"


def zerocopy(file: Any, **rest: Any) -> dict[str, Any]:
    return {"type": "http.response.zerocopysend", "file": file, **rest}


def test_parts_of_open_files(sending: Served, transport: Any, path: Path) -> None:
    content = content_of(LARGE)
    path.write_bytes(content)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.zerocopysend" in scope["extensions"]
        with path.open("rb") as file:
            await send(start())
            # From where it is, and where that has led.
            file.seek(8)
            await send(zerocopy(file, count=LARGE - 100, more_body=True))
            await send({"type": "http.response.body", "body": b"between", "more_body": True})
            await send(zerocopy(file, count=1000, more_body=True))
            assert file.tell() == LARGE
            # From elsewhere, which leaves it where it is.
            await send(zerocopy(file.fileno(), offset=4, count=4, more_body=True))
            await send(zerocopy(file, offset=LARGE - 4))

    options, trusting = transport
    with sending(app, **options) as server, client_of(server, trusting) as client:
        for _ in range(2):
            client.request()
            response = client.response()
            parts = [content[8 : LARGE - 92], b"between", content[LARGE - 92 :]]
            assert response.body == b"".join([*parts, content[4:8], content[-4:]])
        client.request("HEAD")
        assert client.response("HEAD").body == b""


def test_a_part_of_an_open_file_is_a_whole_body(sending: Served, path: Path) -> None:
    path.write_bytes(content_of(LARGE))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with path.open("rb", buffering=0) as file:
            await send(start(status=206))
            await send(zerocopy(file, offset=4, count=8))

    with sending(app) as server:
        response = server.get()
        assert response.status == 206
        assert response.field("content-length") == "8"
        assert response.body == content_of(12)[4:]


def test_what_is_no_open_file(sending: Served, path: Path) -> None:
    path.write_bytes(b"content")
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reads, writes = os.pipe()
        await send(start())
        with path.open("rb") as file:
            for message in (
                zerocopy(reads),
                zerocopy(file, offset=-1),
                zerocopy(file, count=-1),
                zerocopy(object()),
            ):
                try:
                    await send(message)
                except Exception as error:
                    errors.append(error)
        os.close(reads)
        os.close(writes)
        await send({"type": "http.response.body", "body": b"none"})

    with sending(app) as server:
        assert server.get().body == b"none"
    assert [type(error) for error in errors] == [OSError, ValueError, ValueError, AttributeError]
