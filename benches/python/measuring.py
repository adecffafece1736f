"""What the suites share: processes that answer, interleaved rounds, the command line, the results.

A suite is a script with a table of `Workload`s and the line `sys.exit(main(SUITE))`. Each
workload has variants, which are the rows of its table; a sample of each is taken in every round
(A B C, B C A, ...), so that a change in the machine's load or clock meets all of them. A peer that
is missing, a variant that fails and a peer that has no part in a workload are named with the
reason, and the rest goes on. `reporting.py` makes the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from machine import describe_machine
from progress import Progress

Sample = dict[str, Any]
"""What was measured of one variant in one round, by name."""

ANSWER_SECONDS = 30.0
"""A process that has not answered so long after it should have is ended."""
EXIT_SECONDS = 3.0
"""A process whose standard input has ended is killed after so long."""


class SampleError(Exception):
    """A process could not be started, or a sample of it failed; the text says why."""


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A child that answers with lines of JSON, and ends when its standard input does."""

    def __init__(
        self,
        command: Sequence[str | Path],
        seconds: float = 0.0,
        *,
        wait: bool = True,
        cores: Collection[int] = (),
    ) -> None:
        """Start it, and read its first answer into `hello`, which takes `seconds` if all is well.

        Without `wait`, `hello` is empty, and the first answer is left to `read_answer`. `cores`:
        those that it may use; all if none is named. Raises `SampleError` if the process fails.
        """
        self.cores = frozenset(cores)
        try:
            with _on_cores(self.cores):
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
                )
        except OSError as error:
            raise SampleError(f"{command[0]} cannot be started: {error}") from error
        self.pid = self._process.pid
        self.hello: dict[str, Any] = {}
        self._unread = b""
        try:
            if wait:
                self.hello = self.read_answer(seconds + ANSWER_SECONDS)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then the missing answer says why
            self._process.stdin.write(request.encode() + b"\n")
        return self.read_answer(ANSWER_SECONDS)

    def read_answer(self, seconds: float) -> dict[str, Any]:
        """Return the next line; raises `SampleError` if none comes or it tells of an error."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(deadline - time.monotonic(), 0.0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise SampleError(f"no answer within {seconds:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise SampleError(_describe_exit(self._process.wait()))
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SampleError(answer["error"].rstrip(": "))
        return answer

    def find_failure(self) -> str | None:
        """What it said unasked of a failure, or how it ended; `None` if it runs well."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], 0.0)[0] and not self._unread:
            return None
        try:
            answer = self.read_answer(0.0)
        except SampleError as failure:
            return str(failure)
        return f"an answer that nobody asked for: {answer}"

    def end(self) -> None:
        """Let it end, or end it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started in this context may use these cores only; all if there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process exited with code {code}"


# --- workloads ------------------------------------------------------------------------------------

PARTNER = "*"
"""As the baseline of a figure: each variant's own partner."""


@dataclass(frozen=True)
class Variant:
    """What is measured: one row of a workload's table."""

    name: str
    peer: str
    """Without this peer the variant is left out."""
    partner: str = field(default="", kw_only=True)
    """The variant that it is compared with where a figure's baseline is `PARTNER`."""


@dataclass(frozen=True)
class Figure:
    """One column of a table."""

    title: str
    of: Callable[[Sample], float]
    """Raises `KeyError` for a sample without the number."""
    baseline: str = ""
    """The variant whose value in the same round it is divided by; empty: it is shown as it is."""


@dataclass(frozen=True)
class Workload[V: Variant]:
    """What is compared, and the columns of its table."""

    summary: str
    variants: tuple[V, ...]
    take: Callable[[V, Options], Sample]
    """Takes one sample; raises `SampleError` if that fails."""
    figures: tuple[Figure, ...]
    note: Callable[[Sequence[Sample]], str] | None = None
    """The text of a last column."""
    rounds: int | None = None
    """If it needs no more than these."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a peer has no variant here, where the suite's own reason does not fit."""


def value(key: str) -> Callable[[Sample], float]:
    """A figure that a sample holds as it is."""
    return lambda sample: float(sample[key])


@dataclass(frozen=True)
class Timing:
    """How long is measured."""

    rounds: int
    seconds: float
    """Of one sample."""
    warmup: float
    """Seconds before it."""


type Peers = dict[str, dict[str, Any]]
"""By name: `version`, `gil_enabled`."""


@dataclass(frozen=True)
class Suite:
    """A script of benchmarks."""

    name: str
    summary: str
    workloads: Mapping[str, Workload[Any]]
    peers: tuple[str, ...]
    find_peers: Callable[[Sequence[str]], tuple[Peers, dict[str, str]]]
    """What those of the peers are that can be started, and why the others cannot."""
    full: Timing
    quick: Timing
    prepare: Callable[[], None] = lambda: None
    """Builds what the suite needs; raises `SampleError` if that fails."""
    more: Collection[str] = ()
    """Workloads that are left out unless `--all` or `--only` names them."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a peer has no variant in some workload."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: list[str]
    peers: list[str]
    rounds: int
    seconds: float
    warmup: float
    quick: bool
    json: Path | None
    table: Path | None
    list: bool


# --- the command line -----------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _more_than_zero[T: (int, float)](kind: type[T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        number = kind(text)
        if number <= 0:
            raise argparse.ArgumentTypeError(f"must be more than 0, not {number}")
        return number

    return parse


def parse_options(suite: Suite, arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=suite.summary)
    full, quick = suite.full, suite.quick
    positive, positive_int = _more_than_zero(float), _more_than_zero(int)
    parser.add_argument("--only", type=_names, help="workloads, comma-separated; see --list")
    parser.add_argument("--all", action="store_true", help="every workload that --list --all names")
    parser.add_argument(
        "--peers", type=_names, help=f"comma-separated; default: {','.join(suite.peers)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a look: {quick.rounds} round(s) of {quick.seconds:g} s",
    )
    parser.add_argument("--rounds", type=positive_int, help=f"default: {full.rounds}")
    parser.add_argument(
        "--seconds", type=positive, help=f"measured of each sample; default: {full.seconds:g}"
    )
    parser.add_argument(
        "--warmup", type=positive, help=f"seconds before it; default: {full.warmup:g}"
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--table", type=Path, help="measure nothing: print the tables of this file")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads")
    given = parser.parse_args(arguments)
    usual = [name for name in suite.workloads if given.all or name not in suite.more]
    unknown = [name for name in given.only or () if name not in suite.workloads]
    if unknown:
        parser.error(f"--only: unknown: {', '.join(unknown)} (known: {', '.join(usual)})")
    timing = quick if given.quick else full
    return Options(
        only=given.only or usual,
        peers=given.peers or list(suite.peers),
        rounds=given.rounds or timing.rounds,
        seconds=given.seconds or timing.seconds,
        warmup=given.warmup or timing.warmup,
        quick=given.quick,
        json=given.json,
        table=given.table,
        list=given.list,
    )


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Results:
    """All samples of one workload, by variant; the samples of one round have the same index."""

    name: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a variant has no samples."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a peer has no variant."""


def rounds_of(workload: Workload[Any], options: Options) -> int:
    """How many rounds are taken of a workload."""
    return min(options.rounds, workload.rounds or options.rounds)


def measure(
    suite: Suite, name: str, options: Options, peers: Collection[str], progress: Progress
) -> Results:
    """Take the samples of a workload's variants whose peers are there, interleaved."""
    workload = suite.workloads[name]
    rounds = rounds_of(workload, options)
    chosen = [variant for variant in workload.variants if variant.peer in peers]
    results = Results(name, {variant.name: [] for variant in chosen})
    part = {variant.peer for variant in workload.variants}
    for peer in peers:
        if peer not in part:
            reason = workload.absent.get(peer) or suite.absent.get(peer, "has no part in this")
            results.absent[peer] = reason
    for number in range(rounds):
        shift = number % len(chosen) if chosen else 0
        for variant in chosen[shift:] + chosen[:shift]:
            if variant.name in results.failures:
                continue
            progress.begin(f"{name}, round {number + 1} of {rounds}: {variant.name}")
            try:
                results.samples[variant.name].append(workload.take(variant, options))
            except SampleError as failure:
                results.failures[variant.name] = str(failure)
                del results.samples[variant.name]
                progress.skip(rounds - number - 1)
            progress.end()
    return results


def _choose_peers(suite: Suite, names: Sequence[str]) -> tuple[Peers, dict[str, str]]:
    known = [name for name in names if name in suite.peers]
    found, missing = suite.find_peers(known)
    for name in names:
        if name not in suite.peers:
            missing[name] = f"not a peer of this suite (known: {', '.join(suite.peers)})"
    return found, missing


def make_document(
    suite: Suite,
    options: Options,
    peers: Peers,
    missing: Mapping[str, str],
    all_results: Sequence[Results],
) -> dict[str, Any]:
    """What `--json` writes, without the machine."""
    return {
        "suite": suite.name,
        "peers": peers,
        "missing": missing,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "warmup": options.warmup,
        "results": [
            {
                "workload": results.name,
                "summary": suite.workloads[results.name].summary,
                "samples": results.samples,
                "failures": results.failures,
                "absent": results.absent,
            }
            for results in all_results
        ],
    }


def main(suite: Suite) -> int:
    """The main function of a suite's script. SIGTERM ends it as SIGINT does: it cleans up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_suite(suite)


def run_suite(suite: Suite, arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code: 0 if anything was measured."""
    from reporting import format_document

    options = parse_options(suite, arguments)
    if options.list:
        print("\n".join(options.only))
        return 0
    if options.table:
        earlier = json.loads(options.table.read_text(encoding="utf-8"))
        print("\n".join(format_document(suite, earlier)))
        return 0
    machine = describe_machine()
    try:
        suite.prepare()
    except SampleError as failure:
        print(failure, file=sys.stderr)
        return 1
    peers, missing = _choose_peers(suite, options.peers)
    count = sum(
        rounds_of(suite.workloads[name], options)
        * sum(variant.peer in peers for variant in suite.workloads[name].variants)
        for name in options.only
    )
    progress = Progress(count, options.seconds + options.warmup + 0.5)
    all_results: list[Results] = []
    interrupted = False
    document: dict[str, Any] = {}
    for name in options.only:
        try:
            all_results.append(measure(suite, name, options, peers, progress))
        except KeyboardInterrupt:
            interrupted = True
        document = {
            "machine": machine,
            **make_document(suite, options, peers, missing, all_results),
        }
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        if interrupted:
            break
    progress.clear()
    if interrupted:
        print("interrupted: nothing is kept of the workload that was under way", file=sys.stderr)
    print("\n".join(format_document(suite, document)))
    measured = any(any(results.samples.values()) for results in all_results)
    return 0 if measured and not interrupted else 1
