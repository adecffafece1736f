"""The example of the metrics, started as a user starts it and scraped as Prometheus does."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ..support import HANG, run_python, wait_for
from .support import EXAMPLES

loop_pool = pytest.importorskip("loop_pool")
pytest.importorskip("prometheus_client")
from prometheus_client.openmetrics import parser as openmetrics  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

EXAMPLE = EXAMPLES / "metrics.py"

Samples = dict[str, dict[str, float]]
"""Name of the sample -> loop -> value."""


class Server:
    """The running example."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"2 loops: http://127\.0\.0\.1:(\d+)/metrics\n", said)
        assert found, said or process.communicate(timeout=HANG)
        self.port = int(found[1])

    def ask(
        self, path: str = "/metrics", method: str = "GET", accept: str = "*/*"
    ) -> tuple[int, str, str]:
        """Sends a request; gives status, content type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        try:
            connection.request(method, path, headers={"Accept": accept})
            response = connection.getresponse()
            body = response.read().decode()
            return response.status, response.headers["Content-Type"], body
        finally:
            connection.close()

    def scrape(self) -> Samples:
        """Scrapes in Prometheus' own text format."""
        status, kind, body = self.ask()
        assert status == 200
        assert kind.startswith("text/plain; version=")
        return by_name(text_string_to_metric_families(body))


def by_name(families: Iterator[object]) -> Samples:
    """The samples that belong to a loop."""
    samples: Samples = {}
    for family in families:
        for sample in family.samples:  # type: ignore[attr-defined]
            samples.setdefault(sample.name, {})[sample.labels["loop"]] = sample.value
    return samples


@pytest.fixture
def server() -> Iterator[Server]:
    """The example on two loops and any port; it must end at Ctrl-C, quietly."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--loops", "2", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Server(process)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=HANG)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_each_loop_is_scraped_and_its_counters_grow(server: Server) -> None:
    first = server.scrape()
    for name in ("loop_pool_callbacks_total", "loop_pool_ready", "loop_pool_busy_seconds_total"):
        assert set(first[name]) == {"loop-pool-0", "loop-pool-1"}, name
    last = first
    worked: set[str] = set()

    def each_has_worked() -> bool:
        nonlocal last
        samples = server.scrape()
        for loop, callbacks in samples["loop_pool_callbacks_total"].items():
            assert callbacks >= last["loop_pool_callbacks_total"][loop]
            blocks = samples["example_blocks_total"].get(loop, 0)
            grown = blocks > first["example_blocks_total"].get(loop, 0)
            if grown and samples["loop_pool_timers"][loop]:  # the one that ends its rest
                worked.add(loop)
        last = samples
        return worked == set(first["loop_pool_ready"])

    wait_for(each_has_worked, "each loop hashes and rests")


def test_openmetrics_is_sent_to_whom_it_accepts(server: Server) -> None:
    status, kind, body = server.ask(accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    samples = by_name(openmetrics.text_string_to_metric_families(body))
    assert set(samples["loop_pool_turns_total"]) == {"loop-pool-0", "loop-pool-1"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405)],
)
def test_other_requests_are_refused(server: Server, method: str, path: str, status: int) -> None:
    assert server.ask(path, method)[0] == status


def test_a_client_that_sends_garbage_or_goes_costs_only_itself(server: Server) -> None:
    for garbage in (b"", b"\x00\xff\r\n", b"G" * 200_000, b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), HANG) as connection:
            with contextlib.suppress(OSError):  # the server has gone meanwhile
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1_024)
    assert server.scrape()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_python(EXAMPLE, "--loops", "1", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: cannot listen on 127.0.0.1 port {port}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "65536"], "--port: must be from 0 to 65535, not 65536"),
        (["--loops", "0"], "--loops: must be from 1 to 256, not 0"),
    ],
)
def test_a_bad_option_is_named(options: list[str], said: str) -> None:
    done = run_python(EXAMPLE, *options)
    assert done.returncode == 2
    assert said in done.stderr
