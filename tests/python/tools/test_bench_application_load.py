"""What the benchmark of applications serves, and the load that it puts on a server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .benches import modules

__all__ = ["modules"]  # a fixture

if sys.platform != "linux":
    pytest.skip("the benchmark needs Linux", allow_module_level=True)


# What they serve.


def call(app: Any, path: str, *parts: bytes) -> str:
    """The body of an application's response to a request with a body of these parts."""
    sent: list[dict[str, Any]] = []

    async def main() -> None:
        left = list(parts) or [b""]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path}
        scope |= {"headers": [], "query_string": b"", "root_path": ""}
        await app(scope, receive, send)

    asyncio.run(main())
    assert sent[0]["status"] == 200
    body = b"".join(message.get("body", b"") for message in sent)
    length = dict(sent[0]["headers"])[b"content-length"]
    assert int(length) == len(body)
    return body.decode()


@pytest.mark.parametrize("name", ["bench_raw", "bench_fastapi"])
def test_both_applications_answer_what_is_expected(modules: SimpleNamespace, name: str) -> None:
    app = modules.load(name).make()
    for path in ("/plain", "/json", "/heavy"):
        server = SimpleNamespace(fetch=functools.partial(call, app))
        assert modules.loads.expected_body(server, path)
    state = json.loads(call(app, "/state"))
    assert state == {
        "gil_enabled": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "loop": "asyncio.unix_events._UnixSelectorEventLoop",
    }


def test_the_application_without_a_framework_has_more(modules: SimpleNamespace) -> None:
    app = modules.load("bench_raw").app
    server = SimpleNamespace(fetch=functools.partial(call, app))
    assert len(modules.loads.expected_body(server, "/large")) == 10 * 1024
    assert call(app, "/echo", b"a body", b" in", b" parts") == "a body in parts"
    assert call(app, "/ready") == "ready"
    assert call(app, "/where") == f"{os.getpid()} {threading.get_native_id()}"


def test_a_loop_that_sticks_does_so_at_the_same_time_as_all_others(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept = [1000.43], []
    common = modules.common

    def sleep(seconds: float) -> None:
        slept.append((round(now[0], 3), round(seconds, 3)))
        now[0] += seconds

    class Loop:
        def call_soon(self, callback: Any) -> None:
            callback()

        def call_later(self, delay: float, callback: Any) -> None:
            if len(slept) < 3:
                now[0] += delay + 0.01
                callback()

    monkeypatch.setattr(common, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(
        common, "asyncio", SimpleNamespace(get_running_loop=Loop, AbstractEventLoop=None)
    )
    common.be_stuck()
    # Each ends in the middle of a period, however late it began.
    assert slept == [(1000.43, 0.02), (1000.51, 0.04), (1000.61, 0.04)]


# What it measures.


def test_a_wrong_answer_is_no_result(modules: SimpleNamespace) -> None:
    server = SimpleNamespace(fetch=lambda path: json.dumps({"message": "bye"}))
    with pytest.raises(modules.servers.SampleError, match=r"/json: .*bye.* is not what the app"):
        modules.loads.expected_body(server, "/json")
    body = json.dumps(modules.common.MESSAGE)
    server = SimpleNamespace(fetch=lambda path: body)
    assert modules.loads.expected_body(server, "/json") == body


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"requests": 1, "errors": 2, "first_error": "not a 200"}, "2 requests failed; .*not a 2"),
        ({"requests": 0, "errors": 0}, "no request was answered"),
    ],
)
def test_a_load_with_a_failed_request_is_no_result(
    modules: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answer: dict[str, Any],
    says: str,
) -> None:
    program = tmp_path / "load"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(modules.loads, "HTTP_LOAD", program)
    timing = modules.loads.Timing(0.1, 0.1)
    with modules.loads.Load(SimpleNamespace(port=1), timing) as load:
        with pytest.raises(modules.servers.SampleError, match=says):
            load.result()


def test_an_idle_connection_costs_what_many_take_more_than_few(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = modules.loads
    held: list[int] = []

    @contextlib.contextmanager
    def hold(server: Any, setting: Any, count: int) -> Iterator[None]:
        held.append(count)
        yield
        held.remove(count)

    monkeypatch.setattr(loads, "_hold", hold)
    monkeypatch.setattr(loads, "REST_SECONDS", 0.0)
    monkeypatch.setattr(loads, "count_established", lambda port: sum(held) - gone)
    monkeypatch.setattr(
        loads,
        "resource",
        SimpleNamespace(getrlimit=lambda _: (0, 2500), RLIMIT_NOFILE=None),
    )
    # As if the first ones had needed a megabyte once.
    server = SimpleNamespace(port=1, memory=lambda: 1_000_000 + 700 * sum(held))
    gone = 0
    timing, setting = loads.Timing(0.1, 0.0), loads.Setting("/plain")
    assert loads.take_idle(server, timing, setting) == {
        "connections": 2000,
        "few": 100,
        "bytes_per_connection": 700.0,
    }
    gone = 3
    with pytest.raises(modules.servers.SampleError, match="3 of 2000 idle connections are gone"):
        loads.take_idle(server, timing, setting)


def test_connections_are_counted_where_they_end(modules: SimpleNamespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert modules.loads.count_established(port) == 0
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert modules.loads.count_established(port) == 1
