"""The access log: gunicorn's atoms, and whose lines are written when."""

from __future__ import annotations

import logging
import os
import re
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from loop_pool._serve.access_log import AccessFormat, Exchange
from loop_pool._serve.plan import OptionError

from .kinds import on_each_kind
from .server import answer, read
from .support import Client, Serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .server import Server

pytestmark = pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there")


# The format


def exchange(**scope: Any) -> Exchange:
    """A request that is answered."""
    made = Exchange(
        {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"c=%20d",
            "client": ("10.0.0.7", 4711),
            "headers": [
                (b"referer", b"http://example.org/"),
                (b"user-agent", b"browser/1"),
                (b"authorization", b"Basic am9lOnNlY3JldDpzZWNyZXQ="),
                (b"x-twice", b"one"),
                (b"x-twice", b"two"),
                (b"x-odd", b'say "\\\n\xe4'),
            ],
            **scope,
        }
    )
    headers = [(b"Content-Type", b"text/plain")]
    made.take({"type": "http.response.start", "status": 201, "headers": headers})
    made.take({"type": "http.response.body", "body": b"12345", "more_body": True})
    made.take({"type": "http.response.body", "body": b"678"})
    return made


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("no atom", "no atom"),
        ("%%(h)s 100%%", "%(h)s 100%"),
        ("<%(h)s>", "<10.0.0.7>"),
        ("%(l)s", "-"),
        ("%(u)s", "joe"),
        ("%(r)s", "POST /a%20b?c=%20d HTTP/1.1"),
        ("%(m)s %(U)s %(q)s %(H)s", "POST /a b c=%20d HTTP/1.1"),
        ("%(s)s", "201"),
        ("%(b)s %(B)s", "8 8"),
        ("%(f)s %(a)s", "http://example.org/ browser/1"),
        ("%({x-twice}i)s %({X-Twice}i)s", "one, two one, two"),
        ("%({x-odd}i)s", r"say \"\\\n\xe4"),
        ("%({content-type}o)s", "text/plain"),
        ("%({no}i)s %({no}o)s", "- -"),
    ],
)
def test_atoms(text: str, line: str) -> None:
    assert AccessFormat(text).line(exchange()) == line


def test_the_process() -> None:
    assert AccessFormat("%(p)s").line(exchange()) == f"<{os.getpid()}>"


@pytest.mark.parametrize(
    ("zone", "hours", "offset"),
    [("UTC0", "13:55", "+0000"), ("AAA-5:30", "19:25", "+0530"), ("BBB4", "09:55", "-0400")],
)
def test_the_time_is_local_and_its_month_english(
    monkeypatch: pytest.MonkeyPatch, zone: str, hours: str, offset: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    made = exchange()
    made.began = 1791986136.9
    line = AccessFormat("%(t)s").line(made)
    monkeypatch.undo()
    time.tzset()
    assert line == f"[14/Oct/2026:{hours}:36 {offset}]"


def test_durations() -> None:
    made = exchange()
    made._counter -= 2.5
    parts = AccessFormat("%(T)s %(L)s %(M)s %(D)s").line(made).split()
    assert parts[0] == "2"
    assert re.fullmatch(r"2\.\d{6}", parts[1])
    assert 2500 <= int(parts[2]) < 30_000
    assert 2_500_000 <= int(parts[3]) < 30_000_000


def test_what_there_is_not_is_a_dash() -> None:
    made = exchange(client=None, headers=[], query_string=b"")
    made.status, made.length = None, 0
    text = "%(h)s|%(u)s|%(r)s|%(q)s|%(s)s|%(b)s|%(B)s|%(f)s|%(a)s"
    assert AccessFormat(text).line(made) == "-|-|POST /a%20b HTTP/1.1||-|-|0|-|-"


@pytest.mark.parametrize(
    "credentials",
    [b"Basic", b"Basic !", b"Basic /w==", b"Bearer am9lOng=", b"Basic Ong="],
)
def test_credentials_without_a_name(credentials: bytes) -> None:
    made = exchange(headers=[(b"authorization", credentials)])
    assert AccessFormat("%(u)s").line(made) == "-"


def test_a_name_cannot_end_a_line() -> None:
    made = exchange(headers=[(b"authorization", b"basic YVxuCiI6eA==")])  # a\n<newline>":x
    assert AccessFormat("%(u)s").line(made) == r"a\\n\n\""


def test_the_response_to_head_has_no_body() -> None:
    assert AccessFormat("%(b)s").line(exchange(method="HEAD")) == "-"


@pytest.mark.parametrize(
    "text", ["%(x)s", "%(h)d", "%h", "100%", "%({a}x)s", "%({}i)s", "%({a}e)s", "%()s"]
)
def test_an_atom_that_does_not_exist(text: str) -> None:
    with pytest.raises(OptionError, match=r"access_log_format has no atom at '[%]"):
        AccessFormat(f"%(h)s {text}")


# What is written when


async def app(scope: Any, receive: Any, send: Any) -> None:
    match scope["path"]:
        case "/raise":
            raise ZeroDivisionError
        case "/begin-and-raise":
            await send({"type": "http.response.start", "status": 202})
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
            raise ZeroDivisionError
        case "/nothing":
            return
        case _:
            await answer(send, await read(receive), 203)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/echo", "POST /echo 203 4"),
        ("/raise", "POST /raise 500 -"),
        ("/begin-and-raise", "POST /begin-and-raise 202 4"),
        ("/nothing", "POST /nothing 500 -"),
        ("/ready", "POST /ready 200 6"),
    ],
)
def test_each_request_has_one_line(
    served: Callable[..., Server],
    http: str,
    caplog: pytest.LogCaptureFixture,
    path: str,
    line: str,
) -> None:
    caplog.set_level(logging.INFO)
    text = "%(m)s %(U)s %(s)s %(b)s"
    with (
        served(app, access_log_format=text, readiness_path="/ready") as server,
        server.client() as client,
    ):
        client.request("POST", path, ("connection", "close"), body=b"body")
        client.rest()
    # That one is answered below Python, where no log is.
    is_logged = (http, path) != ("native", "/ready")
    assert lines(caplog) == [line] * is_logged


def test_a_client_that_is_gone_leaves_no_status(
    served: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    caplog.set_level(logging.INFO)
    with served(waiting, access_log_format="%(s)s") as server:
        with server.client() as client:
            client.request()
        server.stop()
    assert lines(caplog) == ["-"]


def test_the_address_is_the_one_that_a_trusted_proxy_tells(
    served: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served(app, access_log_format="%(h)s") as server:
        server.get("/", **{"X-Forwarded-For": "10.9.8.7"})
    assert lines(caplog) == ["10.9.8.7"]


def test_a_line_is_there_before_the_work_that_comes_after_the_response(
    served: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    there: list[list[str]] = []

    async def working(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        there.append(lines(caplog))

    caplog.set_level(logging.INFO)
    with served(working, access_log_format="%(s)s") as server:
        server.get()
    assert there == [["200"]]
    assert lines(caplog) == ["200"]


def test_the_length_of_files(
    served: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if "http.response.pathsend" not in scope.get("extensions", {}):
            await answer(send, b"", 501)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": str(path)})
            return
        with path.open("rb") as file:
            message = {"type": "http.response.zerocopysend", "file": file}
            await send({**message, "count": 3, "more_body": True})
            await send({**message, "count": 4, "more_body": True})
            await send({**message, "offset": 8})

    caplog.set_level(logging.INFO)
    with served(app, access_log_format="%(U)s %(B)s") as server, server.client() as client:
        for method, target in (("GET", "/path"), ("HEAD", "/path"), ("GET", "/open")):
            client.request(method, target)
            if client.response(method).status == 501:
                pytest.skip("it sends no files")
    assert lines(caplog) == ["/path 10", "/path 0", "/open 9"]


@on_each_kind
def test_the_command_writes_the_lines_as_they_are(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--access-log-format", "%(h)s %(r)s %(s)s"]
    with Serve(tmp_path, *options) as server:
        with Client(server.port) as client:
            client.ask("/state?x")
            client.answer()
        assert "\n127.0.0.1 GET /state?x HTTP/1.1 200\n" in server.stop()


@on_each_kind
def test_no_access_log_means_none(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "1", "--access-log-format", "LINE", "--no-access-log"]
    with Serve(tmp_path, *options) as server:
        with Client(server.port) as client:
            client.ask("/")
            client.answer()
        assert "LINE" not in server.stop()
