"""The parent's side of one test file: starts the child process, watches it, ends it.

A test that hangs or crashes costs its process, not the rest of its file: the result of that test is
noted and a fresh process goes on with the tests that are left. When a child has to be killed, every
process that came from it is killed too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .model import ChildSpec, FileReport, Outcome, TestResult

POLL_SECONDS = 0.05
LOG_LINES = 80

interrupted = threading.Event()
"""Set when the run is to end: every `run_file`, in whatever thread, kills its child and returns."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for a test (and for import, exit) and for a file; hangs and crashes per file."""

    test: float = 60.0
    file: float = 300.0
    hangs: int = 3
    crashes: int = 20


class EventReader:
    """Reads the whole lines that the child has added to its file of events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Events that came since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # the child is writing it; read on from its beginning the next time
                self._offset += len(line)
                yield parsed(line)


def parsed(line: bytes) -> dict[str, Any]:
    """The event in `line`. A test that writes to descriptors it does not own may have spoilt it."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    return {"event": "problem", "text": f"not an event, written by something else: {line!r}"}


@dataclasses.dataclass(slots=True)
class Attempt:
    """What one child process has told so far; `stage` says what it is doing."""

    report: FileReport
    stage: str = "import"
    running: str = ""
    ended: bool = False
    loops: int = 0
    last_event: float = dataclasses.field(default_factory=time.monotonic)

    def take(self, event: dict[str, Any]) -> None:
        """Enter one event of the child."""
        self.last_event = time.monotonic()
        report = self.report
        match event:
            case {"event": "ready", "tests": tests}:
                report.known = frozenset(tests)
                self.stage = "set-up"
            case {"event": "start", "test": name}:
                self.stage, self.running = name, name
            case {"event": "stop", "test": name, "outcome": outcome, **rest}:
                result = TestResult(name, Outcome(outcome), **_result_fields(rest))
                report.add(result)
                self._count_loops(result.loops)
                self.stage, self.running = f"what follows {name}", ""
            case {"event": "skip", "reason": reason}:
                report.skip_reason = reason
            case {"event": "problem", "text": text}:
                report.problems.append(text)
            case {"event": "end", "loops": loops, "foreign": foreign}:
                self._count_loops(loops - self.loops)  # those made outside of tests
                report.foreign_loops += foreign
                self.stage, self.ended = "exit", True

    def _count_loops(self, number: int) -> None:
        self.loops += number
        self.report.loops += number


def run_file(spec: ChildSpec, script: Path, limits: Limits) -> FileReport:
    """Run one test file to its end, in as many child processes as it takes.

    `spec.events` is filled in here. `script` is called as `script --child SPEC`.
    """
    report = FileReport(spec.module.removeprefix(spec.prefix))
    started = time.monotonic()
    while not interrupted.is_set():
        left = started + limits.file - time.monotonic()
        if left <= 0:
            report.problems.append(f"did not end within {limits.file:g} s")
            break
        spec = dataclasses.replace(spec, done=tuple(report.results))
        if _run_child(spec, script, limits, left, report):
            break
        hangs, crashes = report.count(Outcome.HUNG), report.count(Outcome.CRASHED)
        if hangs >= limits.hangs or crashes >= limits.crashes:
            report.problems.append(f"given up after {hangs} hangs and {crashes} crashes")
            break
    report.excluded = tuple(
        name for name in spec.exclude if name in report.known and name not in report.results
    )
    report.seconds = time.monotonic() - started
    return report


def _run_child(
    spec: ChildSpec, script: Path, limits: Limits, file_left: float, report: FileReport
) -> bool:
    """Run one child; true when nothing of the file is left to run."""
    # A short name: paths of unix sockets in it must stay below 108 characters.
    with tempfile.TemporaryDirectory(prefix="cps", ignore_cleanup_errors=True) as folder:
        work = Path(folder, "w")
        work.mkdir()
        events, log, spec_file = (Path(folder, name) for name in ("events", "log", "spec"))
        spec = dataclasses.replace(spec, events=str(events))
        spec_file.write_text(json.dumps(dataclasses.asdict(spec)), encoding="utf-8")
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-W", "default", "-bb", str(script), "--child", str(spec_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=work,
                env={**os.environ, "TMPDIR": str(work)},
                start_new_session=True,
            )
            attempt = Attempt(report)
            try:
                hung = _watch(child, attempt, EventReader(events), limits.test, file_left)
            finally:
                kill_family(child)
        return _judge(attempt, child.returncode, hung, _tail(log))


def _watch(
    child: subprocess.Popen[bytes],
    attempt: Attempt,
    reader: EventReader,
    test_limit: float,
    file_left: float,
) -> str:
    """Wait for the child's end; a text that says which limit it passed, or nothing.

    When it returns after `interrupted` was set, the child is still to be killed.
    """
    deadline = time.monotonic() + file_left
    hung = ""
    while not hung:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_SECONDS)
        for event in reader.read():
            attempt.take(event)
        if child.returncode is not None or interrupted.is_set():
            return ""
        if time.monotonic() - attempt.last_event > test_limit:
            hung = f"no end within {test_limit:g} s"
        elif time.monotonic() > deadline:
            hung = "the time for the file was over"
    family = descendants(child.pid)
    # First the Python stacks of all threads, then the native one of the main thread.
    for number in (signal.SIGUSR1, signal.SIGABRT):
        child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
            break
    kill_family(child, family)
    return hung


def _judge(attempt: Attempt, status: int | None, hung: str, log: str) -> bool:
    """Note how the child ended; true when nothing of the file is left to run."""
    report = attempt.report
    if not hung and attempt.ended and status == 0:
        return True
    why = hung or f"the process ended with status {status}"
    if attempt.running:
        outcome = Outcome.HUNG if hung else Outcome.CRASHED
        report.add(TestResult(attempt.running, outcome, f"{why}\n{log}"))
        return False
    report.problems.append(f"{why} in {attempt.stage}\n{log}")
    return True


def kill_family(child: subprocess.Popen[bytes], family: Sequence[int] = ()) -> None:
    """Kill `child`, its process group, and `family`: descendants, found while it was alive."""
    family = family or (descendants(child.pid) if child.poll() is None else ())
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for pid in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def descendants(pid: int) -> list[int]:
    """Ids of the processes below `pid`, in whatever session they are (empty without /proc)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _result_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("detail", "seconds", "loops")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])
