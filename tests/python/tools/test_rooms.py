"""The rooms of `tests/python`: who imports whom, how one runs alone, and how long each took."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .. import room_times
from ..support import HANG, ROOT, run_python

TESTS = ROOT / "tests" / "python"
ROOMS = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and list(path.glob("*.py")))


def test_every_test_is_in_a_room_and_each_room_says_what_it_is_for() -> None:
    assert not list(TESTS.glob("test_*.py"))
    for room in ROOMS:
        module = ast.parse((TESTS / room / "__init__.py").read_text())
        assert ast.get_docstring(module), room


def test_no_test_module_is_imported_and_none_asks_for_the_folder_on_the_path() -> None:
    """What two share is in a support module. `inspect` on the path would be everybody's."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = [*(node.module or "").split("."), *(each.name for each in node.names)]
                assert not [part for part in parts if part.startswith("test_")], path
    assert str(TESTS) not in sys.path


def report(nodeid: str, seconds: float, when: str = "call") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=nodeid,
        location=("", None, ""),
        keywords={},
        outcome="passed",
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        duration=seconds,
    )


def test_the_time_of_a_room_is_that_of_all_its_tests_and_fixtures() -> None:
    reports = [
        report("tests/python/tls/test_data.py::test_a", 1.0, "setup"),
        report("tests/python/tls/test_data.py::test_a", 2.0),
        report("tests/python/tls/test_ends.py::test_b[x/y::z]", 0.25, "teardown"),
        report("tests/python/pool/test_run.py::test_c", 4.0),
        report("elsewhere/test_d.py::test_d", 8.0),
    ]
    assert room_times.by_room(reports, ROOT) == {"pool": (4.0, 1), "tls": (3.25, 2)}


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_a_run_tells_the_time_of_each_room(tmp_path: Path, options: list[str]) -> None:
    notes = tmp_path / "notes"
    this = "tests/python/tools/test_rooms.py"
    # One test of this file, in a run of its own.
    done = run_python(
        *("-m", "pytest", "-p", "no:cacheprovider", *options, this, "-k", "fixtures"),
        cwd=ROOT,
        env={**os.environ, room_times.NOTES: str(notes)},
        timeout=2 * HANG,
    )
    assert done.returncode == 0, done.stdout
    (line,) = notes.read_text().splitlines()
    assert re.fullmatch(r" +\d+\.\d s  tools \(1 tests\)", line)
    assert line in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("room", "paths"),
    [
        ("", "tests/python"),
        ("serve", "tests/python/serve"),
        ("tests/python/serve", "tests/python/serve"),
        ("serve/test_ends.py pool", "tests/python/serve/test_ends.py tests/python/pool"),
    ],
)
def test_make_takes_a_room_or_a_path(room: str, paths: str) -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    made = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "build", "test-python", f"ROOM={room}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=True,
    )
    assert f'-m pytest {paths} -m "not stress"' in made.stdout
