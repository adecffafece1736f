"""`examples/asgi_postgres.py`, as a user starts it, with a real server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest

from ..services import free_port, postgres
from ..support import HANG, ORACLE_ONLY, run_python
from .support import EXAMPLES

pytestmark = [
    pytest.mark.skipif(ORACLE_ONLY, reason="the examples need the package"),
    pytest.mark.skipif(
        not all(map(find_spec, ("asyncpg", "starlette", "uvicorn"))), reason="packages are missing"
    ),
]

EXAMPLE = EXAMPLES / "asgi_postgres.py"


def loaded(dsn: str, seconds: float) -> tuple[dict[str, int], int]:
    """Runs the example's load; gives the notes of each loop and of all, and the connections."""
    options = ["--dsn", dsn, "--loops", 2, "--connections", 6, "--seconds", seconds]
    done = run_python(EXAMPLE, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    rows = re.findall(r"^(\S+) +([\d,]+)$", done.stdout, re.MULTILINE)
    of_budget = re.search(r"(\d+) of 6 connections$", done.stdout, re.MULTILINE)
    assert of_budget is not None
    return {name: int(notes.replace(",", "")) for name, notes in rows}, int(of_budget[1])


@pytest.mark.timeout(5 * HANG)  # It runs the example four times.
def test_every_loop_writes_within_the_budget_of_connections() -> None:
    with postgres() as dsn:
        # The clients begin before the application has started, and count that.
        for seconds in (0.5, 10):
            rows, opened = loaded(dsn, seconds)
            if opened >= 2 and len(rows) == 3:
                break
        assert list(rows) == ["loop-pool-0", "loop-pool-1", "all"]
        assert rows.pop("all") == sum(rows.values())
        assert min(rows.values()) > 0
        assert 2 <= opened <= 6

        too_few = run_python(EXAMPLE, "--dsn", dsn, "--loops", 3, "--connections", 2)
        assert too_few.returncode == 2
        assert "2 connections are less than one for each loop" in too_few.stderr

        command = [sys.executable, str(EXAMPLE), "--dsn", dsn, "--loops", "2", "--seconds", "600"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert b"http://" in process.stdout.readline()
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=HANG)
            finally:
                process.kill()
        assert process.returncode == 130, errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "there is no database"),
        (["--dsn", f"postgresql://nobody@127.0.0.1:{free_port()}/none"], "Connect call failed"),
        (["--dsn", "x", "--seconds", "-1"], "--seconds: must be from 0 to 3600, not -1"),
        (["--dsn", "x", "--connections", "0"], "--connections: must be from 1 to 10000, not 0"),
    ],
)
def test_what_is_missing_or_wrong_is_said(options: list[str], said: str) -> None:
    done = run_python(EXAMPLE, *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert ("docker run" in done.stderr) == ("must be" not in said)
