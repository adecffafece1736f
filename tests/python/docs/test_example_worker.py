"""The example of the worker, started as a user starts it."""

from __future__ import annotations

import re

import pytest

from .. import services
from ..support import run_python
from .support import EXAMPLES

pytest.importorskip("loop_pool")
pytest.importorskip("taskiq")
pytest.importorskip("taskiq_nats")

EXAMPLE = EXAMPLES / "worker.py"


def tasks(output: str) -> dict[tuple[str, str], int]:
    """Process and loop -> tasks."""
    rows = re.findall(r"^process (\d+)  (loop-pool-\d+)  ([\d,]+) tasks$", output, re.MULTILINE)
    return {(process, loop): int(count) for process, loop, count in rows}


def test_in_memory() -> None:
    done = run_python(EXAMPLE, "--loops", "2", "--tasks", "100")
    assert (done.returncode, done.stderr) == (0, "")
    found = tasks(done.stdout)
    assert {loop for _, loop in found} == {"loop-pool-0", "loop-pool-1"}
    assert sum(found.values()) == 100
    assert done.stdout.endswith("100 results: each was right\n")


def test_over_nats() -> None:
    with services.nats() as url:
        done = run_python(EXAMPLE, "--loops", "2", "--tasks", "100", "--nats", url)
    assert (done.returncode, done.stderr) == (0, "")
    found = tasks(done.stdout)
    assert {loop for _, loop in found} <= {"loop-pool-0", "loop-pool-1"}
    assert sum(found.values()) == 100


def test_a_server_that_is_not_there_is_named() -> None:
    url = f"nats://127.0.0.1:{services.free_port()}"
    done = run_python(EXAMPLE, "--nats", url)
    assert done.returncode == 1
    assert done.stderr.startswith(f"FAILED: {url}: NoServersError: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "0"], "--tasks: must be from 1 to 100000, not 0"),
        (["--loops", "0"], "--loops: must be from 1 to 256, not 0"),
    ],
)
def test_a_bad_option_is_named(options: list[str], message: str) -> None:
    done = run_python(EXAMPLE, *options)
    assert done.returncode == 2
    assert message in done.stderr
