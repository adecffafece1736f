"""The runner of CPython's asyncio tests: what it must notice, on made-up test files.

The loop is asyncio's own, so these tests say nothing about ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support import HANG, ORACLE_ONLY, wait_for
from .runner.supervisor import EventReader

RUNNER = Path(__file__).with_name("suite.py")

HEAD = """
    import asyncio, os, subprocess, sys, threading, time, unittest

    class T(unittest.TestCase):
        def test_a_makes_a_loop(self):
            asyncio.new_event_loop().close()
"""

Suite = Callable[..., subprocess.CompletedProcess[str]]


def prepare(folder: Path, body: str, head: str, exclusions: str) -> list[str]:
    """Write the package `made_up` with the one file `test_made_up`; the command that runs it."""
    package = folder / "made_up"
    package.mkdir()
    (package / "__init__.py").touch()
    source = textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    ")
    (package / "test_made_up.py").write_text(source, encoding="utf-8")
    listed = folder / "exclusions.toml"
    listed.write_text(exclusions, encoding="utf-8")
    command = [sys.executable, str(RUNNER), "--package", "made_up", "--exclusions", str(listed)]
    return [*command, "--loop", "asyncio:SelectorEventLoop"]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Runs the runner on a made-up test file and returns what it said.

    `body` is appended to `head`, inside the class `T`.
    """

    def run(
        body: str, *options: str, exclusions: str = "", head: str = HEAD
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prepare(tmp_path, body, head, exclusions), *options],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def excluded(*tests: str, kind: str = "private") -> str:
    """The text of a file of exclusions that names `tests`."""
    names = ", ".join(f'"test_made_up.{test}"' for test in tests)
    return f'[[exclusion]]\ntests = [{names}]\nreason = "made up"\nkind = "{kind}"\n'


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of the runner's output."""
    return done.stdout.splitlines()[-1]


def test_passing_file_exits_0_and_closes_with_the_totals(suite: Suite) -> None:
    done = suite("@unittest.skip('why')\ndef test_b(self): pass")
    assert (done.returncode, last_line(done)) == (0, "1 passed, 0 failed, 1 skipped"), done.stdout


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("def test_b(self): self.fail('wrong')", "FAILED: test_made_up.T.test_b"),
        ("def test_b(self): 1 / 0", "ERROR: test_made_up.T.test_b"),
        ("def test_b(self):\n    with self.subTest(i=3): 1 / 0", "ERROR: test_made_up.T.test_b"),
        (
            "@unittest.expectedFailure\ndef test_b(self): pass",
            "UNEXPECTED SUCCESS: test_made_up.T.test_b",
        ),
        ("@classmethod\ndef tearDownClass(cls): 1 / 0", "tearDownClass (test_made_up.T)"),
    ],
)
def test_failure_exits_1_and_is_named(suite: Suite, body: str, title: str) -> None:
    done = suite(body)
    assert done.returncode == 1
    assert title in done.stdout
    assert last_line(done) == "1 passed, 1 failed, 0 skipped"


def test_file_that_cannot_be_imported_exits_1(suite: Suite) -> None:
    done = suite("", head="import no_such_module\n")
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stdout


def test_crash_is_named_and_the_rest_still_runs(suite: Suite) -> None:
    done = suite("def test_b(self): os.abort()\ndef test_c(self): pass")
    assert done.returncode == 1
    assert "CRASHED: test_made_up.T.test_b" in done.stdout
    assert last_line(done) == "2 passed, 1 failed, 0 skipped"


def test_hang_is_named_with_its_stack_and_its_processes_are_killed(
    suite: Suite, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    body = f"""
        def test_b(self):
            child = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
            )
            with open({str(pid_file)!r}, "w") as file:
                file.write(str(child.pid))
            self.never_returns()

        def never_returns(self):
            threading.Event().wait()

        def test_c(self):
            pass
    """
    done = suite(body, "--test-timeout", "2")
    assert done.returncode == 1
    assert "HUNG: test_made_up.T.test_b" in done.stdout
    assert re.search(r"line \d+ in never_returns", done.stdout)
    assert last_line(done) == "2 passed, 1 failed, 0 skipped"
    assert_gone(int(pid_file.read_text()))


def test_file_full_of_hangs_is_given_up(suite: Suite) -> None:
    """Were every test given its time, a broken loop would cost hours."""
    body = "\n".join(f"def test_b{i}(self): threading.Event().wait()" for i in range(6))
    done = suite(body, "--test-timeout", "2")
    assert done.returncode == 1
    assert "given up after 3 hangs" in done.stdout


def test_hang_at_exit_is_reported(suite: Suite) -> None:
    body = "def test_b(self): threading.Thread(target=threading.Event().wait).start()"
    done = suite(body, "--test-timeout", "2")
    assert done.returncode == 1
    assert "no end within 2 s in exit" in done.stdout


def test_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    body = f"""
        def test_b(self):
            with open({str(fifo)!r}, "w") as file:
                file.write(str(os.getpid()))
            threading.Event().wait()
    """
    runner = subprocess.Popen(
        prepare(tmp_path, body, HEAD, ""),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with runner:
        try:
            pid = int(fifo.read_text())  # waits for the test
            runner.terminate()
            _, said = runner.communicate(timeout=HANG)
        finally:
            runner.kill()
    assert (runner.returncode, said) == (130, "interrupted\n")
    assert_gone(pid)


def test_file_that_takes_too_long_is_ended(suite: Suite) -> None:
    done = suite("def test_b(self): time.sleep(600)", "--file-timeout", "2")
    assert done.returncode == 1
    assert "did not end within 2 s" in done.stdout


def test_unraisable_exception_is_a_failure(suite: Suite) -> None:
    body = """
        def test_b(self):
            class Broken:
                def __del__(self): 1 / 0
            Broken()
    """
    done = suite(body)
    assert done.returncode == 1
    assert "unraisable exception, test_made_up.T.test_b" in done.stdout


def test_excluded_test_does_not_run_and_counts_as_skipped(suite: Suite) -> None:
    done = suite("def test_b(self): os.abort()", exclusions=excluded("T.test_b"))
    assert (done.returncode, last_line(done)) == (0, "1 passed, 0 failed, 1 skipped"), done.stdout


def test_exclusion_of_no_test_is_stale(suite: Suite) -> None:
    done = suite("def test_b(self): pass", exclusions=excluded("T.test_gone"))
    assert done.returncode == 1
    assert "test_made_up.T.test_gone: no such test" in done.stdout


def test_exclusion_of_a_passing_test_is_stale_when_checked(suite: Suite) -> None:
    body = "def test_b(self): pass\ndef test_c(self): 1 / 0"
    done = suite(body, "--check-exclusions", exclusions=excluded("T.test_b", "T.test_c"))
    assert done.returncode == 1
    assert "test_made_up.T.test_b: passes" in done.stdout
    assert "T.test_c" not in done.stdout
    assert last_line(done) == "1 passed, 1 failed, 2 skipped"


def test_environment_is_believed_only_when_asyncio_fails_too(suite: Suite) -> None:
    """`test_b` fails on any loop; `test_c` only where the loop under test is not asyncio's."""
    body = """
        def test_b(self):
            self.fail()
        def test_c(self):
            self.assertIs(asyncio.SelectorEventLoop, asyncio.unix_events._UnixSelectorEventLoop)
    """
    head = HEAD.replace("class T", "class L(asyncio.SelectorEventLoop): pass\n\n    class T")
    done = suite(
        body,
        "--check-exclusions",
        "--loop=made_up.test_made_up:L",
        head=head,
        exclusions=excluded("T.test_b", "T.test_c", kind="environment"),
    )
    assert done.returncode == 1
    assert "test_made_up.T.test_c: passes with asyncio's own loop" in done.stdout
    assert "T.test_b" not in done.stdout


def test_exclusion_without_a_reason_is_refused(suite: Suite) -> None:
    done = suite("", exclusions='[[exclusion]]\ntests = ["test_made_up.T.test_b"]\n')
    assert done.returncode == 2
    assert "without a reason" in done.stderr


def test_file_without_a_loop_is_reported_unless_listed(suite: Suite) -> None:
    head = "import unittest\n\nclass T(unittest.TestCase):\n"
    done = suite("def test_b(self): pass", head=head)
    assert done.returncode == 1
    assert "no loop of ours was made" in done.stdout


def test_listed_file_without_a_loop_passes(suite: Suite) -> None:
    head = "import unittest\n\nclass T(unittest.TestCase):\n"
    listed = '[[no_loop]]\nfiles = ["test_made_up"]\nreason = "made up"\n'
    assert suite("def test_b(self): pass", head=head, exclusions=listed).returncode == 0


def test_loop_that_is_not_ours_is_counted_apart(suite: Suite) -> None:
    head = HEAD.replace("class T", "class L(asyncio.SelectorEventLoop): pass\n\n    class T")
    body = "def test_b(self): asyncio.unix_events._UnixSelectorEventLoop().close()"
    done = suite(body, "--loop=made_up.test_made_up:L", head=head)
    assert done.returncode == 0, done.stdout
    assert "(1 loops not ours)" in done.stdout


@pytest.mark.skipif(ORACLE_ONLY, reason="it needs the package")
@pytest.mark.parametrize(
    ("option", "module"), [((), "asyncio"), (("--native-streams",), "loop_pool")]
)
def test_our_streams_stand_in_asyncio_if_asked_for(
    suite: Suite, option: tuple[str, ...], module: str
) -> None:
    body = f"""
        def test_b(self):
            for place in (asyncio, asyncio.streams):
                for name in ("StreamReader", "StreamWriter", "StreamReaderProtocol"):
                    found = getattr(place, name).__module__.partition(".")[0]
                    self.assertEqual(found, {module!r})
    """
    done = suite(body, *option)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(ORACLE_ONLY, reason="it needs the package")
@pytest.mark.parametrize(("option", "module"), [((), "ssl"), (("--native-tls",), "loop_pool")])
def test_asyncio_s_tests_are_given_our_contexts_if_asked_for(
    suite: Suite, option: tuple[str, ...], module: str
) -> None:
    body = f"""
        def test_b(self):
            from test.test_asyncio import utils
            found = utils.ssl.SSLContext.__module__.partition(".")[0]
            self.assertEqual(found, {module!r})
    """
    head = HEAD.replace("class T", "from test.test_asyncio import utils\n\n    class T")
    done = suite(body, *option, head=head)
    assert done.returncode == 0, done.stdout


def test_selection_runs_only_what_it_names(suite: Suite) -> None:
    body = "def test_b(self): pass\ndef test_c(self): self.fail()"
    done = suite(body, "test_made_up.T.test_b")
    assert (done.returncode, last_line(done)) == (0, "1 passed, 0 failed, 0 skipped"), done.stdout


def test_selection_of_nothing_exits_2(suite: Suite) -> None:
    assert suite("", "test_elsewhere").returncode == 2


def test_missing_loop_exits_2_and_says_so(suite: Suite) -> None:
    done = suite("", "--loop", "no_such_module:Loop")
    assert done.returncode == 2
    assert "cannot load the loop no_such_module:Loop" in done.stderr


def test_events_are_read_whole_even_while_they_are_being_written(tmp_path: Path) -> None:
    path = tmp_path / "events"
    reader = EventReader(path)
    assert list(reader.read()) == []
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"event": "start"}\n{"event": ')
        stream.flush()
        assert list(reader.read()) == [{"event": "start"}]
        stream.write('"stop"}\n\0garbage\n')
        stream.flush()
        stop, garbage = reader.read()
    assert stop == {"event": "stop"}
    assert garbage["event"] == "problem"


def assert_gone(pid: int) -> None:
    """Wait until the process `pid`, which was killed, is gone or waits for its parent."""

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        except FileNotFoundError:
            return True
        return state.split()[0] == "Z"

    wait_for(gone, f"the end of process {pid}")
