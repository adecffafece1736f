"""The examples run as a user starts them, and the load test finds every kind of wrong reply."""

from __future__ import annotations

import functools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ..support import ORACLE_ONLY, run_python
from .support import EXAMPLES

pytestmark = pytest.mark.skipif(ORACLE_ONLY, reason="the examples need the package")

LOAD_TEST = EXAMPLES / "load_test.py"
CLIENT = EXAMPLES / "load_test_client.py"
LIMIT_SECONDS = 60
run = functools.partial(run_python, timeout=LIMIT_SECONDS)
SHORT = ("--loops", "2", "--connections", "8", "--seconds", "1", "--size", "512")

Corruption = Callable[[bytes], bytes]


@pytest.fixture
def client_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give `load_test_client` as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import load_test_client

    return load_test_client


@pytest.fixture
def load_test_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give `load_test` as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import load_test

    return load_test


def test_load_test_serves_on_each_loop_and_prints_the_table() -> None:
    result = run(LOAD_TEST, *SHORT)
    assert result.returncode == 0, result.stdout + result.stderr
    row = re.compile(r"^(\S+) +([\d,]+) +([\d,]+) +(\d+\.\d\d) +(\d+\.\d|-)$", re.MULTILINE)
    rows = {
        name: (int(connections), int(requests.replace(",", "")))
        for name, connections, requests, _, _ in row.findall(result.stdout)
    }
    assert list(rows) == ["loop-pool-0", "loop-pool-1", "all"], result.stdout
    connections, requests = rows.pop("all")
    assert connections == 8
    assert requests > 0
    assert (connections, requests) == tuple(map(sum, zip(*rows.values(), strict=True)))
    assert re.search(r"^requests/s +[\d,]+ ", result.stdout, re.MULTILINE)
    assert re.search(
        r"p50 [\d.]+ ms  p99 [\d.]+ ms  p99\.9 [\d.]+ ms$", result.stdout, re.MULTILINE
    )
    assert f"{requests:,} replies: every byte was right" in result.stdout


def test_load_test_fails_when_the_server_sends_a_wrong_byte() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import load_test

class WrongWriter:
    def __init__(self, writer):
        self.writer = writer
        self.replies = 0

    def write(self, data):
        self.replies += 1
        if self.replies == 3:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.writer.write(data)

    def __getattr__(self, name):
        return getattr(self.writer, name)

serve = load_test.EchoServer.serve
load_test.EchoServer.serve = lambda self, reader, writer: serve(self, reader, WrongWriter(writer))
sys.exit(load_test.main(sys.argv[1:]))
"""
    result = run("-c", code, *SHORT)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "every byte was right" not in result.stdout
    assert "FAILED" in result.stderr
    for connection in range(8):
        expected = rf"connection {connection}, request 2: byte 527 of 528 is 0x\w\w instead of 0x"
        assert re.search(expected, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loops", "0"], "--loops: must be from 1 to 256, not 0"),
        (["--loops", "two"], "--loops: 'two' is not a whole number"),
        (["--connections", "-1"], "--connections: must be from 1 to 10000, not -1"),
        (["--seconds", "0"], "--seconds: must be over 0 and at most 3600 seconds, not 0"),
        (["--seconds", "nan"], "--seconds: must be over 0 and at most 3600 seconds, not nan"),
        (["--size", "0"], "--size: must be from 1 to 1048576, not 0"),
        (["--size", "1048576", "--connections", "9999"], "more than 256 MiB under way"),
    ],
)
def test_load_test_names_a_bad_option(options: list[str], message: str) -> None:
    result = run(LOAD_TEST, *options)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_load_test_ends_at_ctrl_c() -> None:
    with subprocess.Popen(
        [sys.executable, str(LOAD_TEST), "--loops", "2", "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "2 loops" in process.stdout.readline()
            assert "connections" in process.stdout.readline()  # the client drives the server
            process.send_signal(signal.SIGINT)
            # Standard error ends only when the client process, which has it too, has ended.
            _, errors = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors == "interrupted\n"


@contextmanager
def echo_server(corrupt: Corruption) -> Iterator[int]:
    """Serve connections one after another, passing what is echoed through `corrupt`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # the listener is shut down, or the client has gone
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        while data := connection.recv(1 << 20):
                            connection.sendall(corrupt(data))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def run_client(corrupt: Corruption) -> tuple[int, dict[str, Any]]:
    """Run the client with one connection; gives its exit code and its report."""
    with echo_server(corrupt) as port:
        result = run(CLIENT, "--port", port, "--connections", 1, "--seconds", 0.2, "--size", 4)
    report: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, report


def test_client_accepts_an_honest_server() -> None:
    code, report = run_client(lambda data: data)
    assert code == 0
    assert report["failures"] == []
    assert report["replies"] > 0
    assert report["payload_bytes"] == 4 * report["replies"]


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda data: bytes([data[0] ^ 128]) + data[1:], "byte 0 of 20 is 0x80 instead of 0x00"),
        (lambda data: data[:7] + b"\x01" + data[8:], "byte 7 of 20 is 0x01 instead of 0x00"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "byte 19 of 20 is 0x"),
    ],
)
def test_client_finds_a_wrong_byte(corrupt: Corruption, message: str) -> None:
    code, report = run_client(corrupt)
    assert code == 1
    assert report["failure_count"] == 2  # and that no request was answered
    assert message in report["failures"][0]


def test_client_finds_a_surplus_byte() -> None:
    code, report = run_client(lambda data: data + b"\x00")
    assert code == 1
    assert report["failures"]


def test_client_says_that_it_cannot_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run(CLIENT, "--port", port, "--seconds", 0.2)
    assert result.returncode == 1
    assert f"cannot connect to 127.0.0.1 port {port}" in result.stderr


def test_requests_differ_and_can_be_made_again(client_module: Any) -> None:
    requests = client_module.Requests(size=64, seed=7)
    header = client_module.HEADER.size
    payloads = {
        requests.make(connection, sequence)[header:]
        for connection in range(20)
        for sequence in range(20)
    }
    assert len(payloads) == 400
    assert requests.make(3, 4) == client_module.Requests(size=64, seed=7).make(3, 4)
    assert requests.make(3, 4) != client_module.Requests(size=64, seed=8).make(3, 4)


@pytest.mark.parametrize(
    ("reply", "difference"),
    [
        (b"abcd", None),
        (b"abXd", "byte 2 of 4 is 0x58 instead of 0x63"),
        (b"abc", "3 bytes instead of 4"),
        (b"abcde", "5 bytes instead of 4"),
        (b"", "0 bytes instead of 4"),
    ],
)
def test_difference_is_named(client_module: Any, reply: bytes, difference: str | None) -> None:
    assert client_module.describe_difference(b"abcd", reply) == difference


def test_percentile_is_the_nearest_rank(client_module: Any) -> None:
    counts = Counter(range(1, 1001))
    assert client_module.percentile(counts, 0.5) == 500
    assert client_module.percentile(counts, 0.99) == 990
    assert client_module.percentile(counts, 0.999) == 999
    assert client_module.percentile(Counter({7: 1}), 0.999) == 7


def test_server_and_client_must_agree(load_test_module: Any) -> None:
    counts = [load_test_module.LoopCounts(1, 10), load_test_module.LoopCounts(1, 5)]
    report = load_test_module.Report(2, 15, 15, 1.0, 0.1, {"p50": 1}, 0, [])
    assert load_test_module.find_problems(report, counts, 2) == []
    counts[1].requests += 1
    assert load_test_module.find_problems(report, counts, 2) == [
        "16 requests served, but 15 replies received"
    ]
    counts[1].requests -= 1
    counts[0].broken = 1
    assert load_test_module.find_problems(report, counts, 3) == [
        "2 connections accepted instead of 3",
        "1 connections broken on the server's side",
    ]
