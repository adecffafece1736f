"""Runs uvicorn's own tests of what it serves, with the server in Rust in place of its protocols.

    python tests/python/uvicorn_suite/suite.py FOLDER               # all
    python tests/python/uvicorn_suite/suite.py FOLDER -k keepalive  # with options of pytest
    python tests/python/uvicorn_suite/suite.py FOLDER --check-exclusions

`FOLDER` is what `tools/uvicorn_tests.py` prints. The tests run as they are. `adapter` gives them a
server and protocols of ours: they speak to `http="native"` over sockets, those too that were
written for a protocol object with a mock of a transport. Tests that ask for no server are left out,
and so are those in `exclusions.toml`.
The last line is `N passed, N failed, N skipped` (excluded tests count as skipped).

Exit status: 0 when all passed; 1 on any failure, test that made no native server, or stale
exclusion; 2 when there is nothing to run, or no proper file of exclusions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

FILES = (
    "protocols/test_http.py",
    "protocols/test_websocket.py",
    "middleware/test_logging.py",
    "middleware/test_proxy_headers.py",
    "test_default_headers.py",
    "test_server.py",
    "test_ssl.py",
)
"""Those that speak to a server or to a protocol, in the order in which they run."""

CONFIGURATION = """
[pytest]
addopts = --strict-markers -p adapter.plugin -p no:asyncio -p no:loop_pool
faulthandler_timeout = 60
timeout = 120
filterwarnings =
    error
    ignore:The pytest_plugin_registered hook:UserWarning
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; the exit status as the head of this file says."""
    parser = argparse.ArgumentParser(description="Run uvicorn's own tests on http='native'.")
    parser.add_argument("folder", type=Path, help="what tools/uvicorn_tests.py has printed")
    parser.add_argument("--exclusions", type=Path, default=HERE / "exclusions.toml", metavar="FILE")
    parser.add_argument(
        "--check-exclusions",
        action="store_true",
        help="run the excluded tests alone: one that passes is stale",
    )
    options, more = parser.parse_known_args(argv)
    files = [file for file in FILES if (options.folder / "tests" / file).is_file()]
    if not files:
        print(f"no tests of uvicorn in {options.folder}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        ini, results = Path(scratch, "pytest.ini"), Path(scratch, "results.json")
        ini.write_text(CONFIGURATION, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-c", str(ini), "--rootdir", str(options.folder)]
        command += [f"--native-exclusions={options.exclusions}", f"--native-results={results}"]
        if options.check_exclusions:
            command.append("--native-check-exclusions")
        command += [*more, *(f"tests/{file}" for file in files)]
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        status = subprocess.run(
            command, cwd=options.folder, env=environment, check=False
        ).returncode
        if not results.is_file():
            return 2
        counts = json.loads(results.read_text(encoding="utf-8"))
    print("\n{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    if status not in (0, 1):
        return 2
    # Excluded tests are to fail.
    return 1 if counts["failed"] or (status and not options.check_exclusions) else 0


if __name__ == "__main__":
    sys.exit(main())
