"""The suites of benchmarks: which there are, what of them is chosen, and running one of them.

A suite is a script beside this file with the options `--only`, `--peers`, `--quick`, `--json`,
`--table` and `--list`. Its progress goes to standard error (`progress.py` reads it), its tables to
standard output.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from progress import parse_left

HERE = Path(__file__).parent
LIST_SECONDS = 30.0
END_SECONDS = 20.0
"""A suite that is interrupted has so long to end its servers."""
OVERDUE = 3.0
"""A suite that takes so many times its budget, and `OVERDUE_SECONDS` more, is ended."""
OVERDUE_SECONDS = 300.0


class SuiteError(Exception):
    """A suite cannot be run, or has failed; the text says why."""


class SelectionError(Exception):
    """What was asked for is not there; the text names it."""


@dataclass(frozen=True)
class Suite:
    """A script, and how long it takes."""

    name: str
    minutes: float
    quick_minutes: float

    @property
    def script(self) -> Path:
        """Its file."""
        return HERE / f"{self.name}.py"

    def workloads(self, *options: str) -> list[str]:
        """Names of its workloads under these options; raises `SuiteError` if it does not say."""
        if not self.script.exists():
            raise SuiteError(f"there is no {self.script.name}")
        try:
            done = subprocess.run(
                [sys.executable, self.script, "--list", *options],
                check=False,
                capture_output=True,
                text=True,
                timeout=LIST_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise SuiteError(f"{self.script.name} --list does not end") from None
        if done.returncode:
            raise SuiteError(_last_line(done.stderr) or f"exit code {done.returncode}")
        return done.stdout.split()

    def knows(self, peer: str) -> bool:
        """Whether it can measure a peer of this name."""
        try:
            self.workloads("--peers", peer)
        except SuiteError:
            return False
        return True


SUITES = {
    suite.name: suite
    for suite in (
        Suite("micro", 14, 2),
        Suite("sockets", 28, 5.5),
        Suite("pool", 16, 2.5),
        Suite("applications", 48, 8),
    )
}


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else ""


Choice = dict[str, list[str]]
"""Suite -> names of workloads; empty: all of them."""


def parse_choice(text: str) -> Choice:
    """`micro,sockets/stuck` -> what is chosen; raises `SelectionError` for an unknown suite."""
    choice: Choice = {}
    whole = set()
    for part in filter(None, text.split(",")):
        name, _, workload = part.partition("/")
        if name not in SUITES:
            raise SelectionError(f"no such suite: {name} (known: {', '.join(SUITES)})")
        names = choice.setdefault(name, [])
        if workload and workload not in names:
            names.append(workload)
        if not workload:
            whole.add(name)
    if not choice:
        raise SelectionError(f"no suite is named in {text!r} (known: {', '.join(SUITES)})")
    return {name: [] if name in whole else names for name, names in choice.items()}


@dataclass(frozen=True)
class Plan:
    """What is run of one suite."""

    suite: Suite
    only: tuple[str, ...]
    """Workloads; empty: all."""
    peers: tuple[str, ...]
    """Empty: all."""
    quick: bool
    share: float
    """Of the workloads of the suite."""

    @property
    def seconds(self) -> float:
        """How long it will take, before anything is known of this machine."""
        minutes = self.suite.quick_minutes if self.quick else self.suite.minutes
        return 60 * minutes * self.share

    @property
    def partial(self) -> bool:
        """Whether its results are less than the suite's."""
        return self.quick or bool(self.only) or bool(self.peers)

    def command(self, json_file: Path) -> list[str | Path]:
        """What is run."""
        command: list[str | Path] = [sys.executable, self.suite.script, "--json", json_file]
        if self.only:
            command += ["--only", ",".join(self.only)]
        if self.peers:
            command += ["--peers", ",".join(self.peers)]
        return [*command, "--quick"] if self.quick else command


def make_plan(
    suite: Suite, only: Sequence[str], peers: Sequence[str], *, quick: bool
) -> tuple[Plan, list[str]]:
    """Choose workloads and peers of a suite. Gives also the peers that it does not know.

    Raises `SelectionError` for an unknown workload, and `SuiteError` if the suite cannot be run.
    """
    workloads = suite.workloads()
    unknown = [name for name in only if name not in workloads]
    if unknown:
        raise SelectionError(
            f"{suite.name} has no workload {', '.join(unknown)} (known: {', '.join(workloads)})"
        )
    known = [peer for peer in peers if suite.knows(peer)]
    if peers and not known:
        raise SuiteError(f"it knows none of the peers {', '.join(peers)}")
    share = len(only) / len(workloads) if only else 1.0
    plan = Plan(suite, tuple(only), tuple(known), quick, share)
    return plan, [peer for peer in peers if peer not in known]


def run_plan(
    plan: Plan,
    json_file: Path,
    tables_file: Path,
    show: Callable[[str, float], None],
    note: Callable[[str], None],
) -> None:
    """Run a suite until it ends. What it prints goes to `tables_file`.

    `show` gets each line of progress and the seconds left, `note` any other line of its standard
    error. Raises `SuiteError` if the suite fails or does not end, and `KeyboardInterrupt` after it
    was ended if that came meanwhile.
    """
    limit = OVERDUE * plan.seconds + OVERDUE_SECONDS
    said = ""
    with tables_file.open("w", encoding="utf-8") as tables:
        # In a group of its own: an interrupt of the terminal goes to the suite by `_stop` alone,
        # and what it has started can be ended with it.
        process = subprocess.Popen(
            plan.command(json_file),
            stdout=tables,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        overdue = threading.Event()

        def end_overdue() -> None:
            overdue.set()
            _stop(process)

        timer = threading.Timer(limit, end_overdue)
        timer.daemon = True
        timer.start()
        assert process.stderr is not None
        try:
            with process.stderr:
                for line in process.stderr:
                    stripped = line.rstrip()
                    left = parse_left(stripped)
                    if left is not None:
                        show(*left)
                    elif stripped:
                        said = stripped
                        note(stripped)
            process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            timer.cancel()
    if overdue.is_set():
        raise SuiteError(f"it did not end within {limit / 60:.0f} min")
    if process.returncode:
        raise SuiteError(f"exit code {process.returncode}" + (f": {said}" if said else ""))


def _stop(process: subprocess.Popen[str]) -> None:
    """Let a suite end its servers; whatever is then left of it is killed."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
