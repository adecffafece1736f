"""Micro benchmarks side by side: the loops of `child.py`, and tonio.

    python benches/python/micro.py [--quick] [--only a,b] [--peers a,b] [--rounds R] [--json FILE]
    python benches/python/micro.py --table FILE

In every round each peer gets a new process (`child.py`), so that what differs from process to
process is in the spread. For each workload the processes take one sample after another, beginning
with another one in each round, so that a change in the machine's load or clock meets all of them;
a smaller sample before it warms up and is dropped. The table shows the median over the rounds and,
of the ratios that were measured within the same round, the median and the quartiles. A peer that is
missing or fails is named with its reason.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from child import PEERS
from figures import Document
from machine import describe_machine
from micro_tables import format_document
from options import names
from progress import Progress, clear
from sampling import Sample, Workload
from workloads import WORKLOADS

ROUNDS = 9
SLOW_ROUNDS = 3
"""Of a workload that prepares for longer than it measures."""
QUICK_ROUNDS = 3
QUICK_FRACTION = 10
"""`--quick` divides the operations of a sample by this."""
WARMUP_FRACTION = 10
"""The sample that warms up has so much fewer operations."""
SAMPLE_SECONDS = 0.2
"""A first guess at what a sample takes."""
ANSWER_SECONDS = 10.0
"""A child that has not answered within this time is ended and its peer's benchmark failed: a sample
of most takes a tenth of it, and a third at most."""
CHILD_FILE = Path(__file__).with_name("child.py")


class LoopError(Exception):
    """A peer could not be started, or a sample of it failed; the text says why."""


class UnableError(Exception):
    """A peer has nothing that a workload could measure; the text says so."""


class Child:
    """One process that takes samples of one peer."""

    def __init__(self, peer: str) -> None:
        """Start the process; raises `LoopError` if its loop cannot be made."""
        self.peer = peer
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD_FILE), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        try:
            hello = self._read_answer()
        except LoopError:
            self.end()
            raise
        self.version: str = hello["version"]
        self.gil_enabled: bool = hello["gil_enabled"]

    def take_sample(self, workload: Workload, operations: int) -> Sample:
        """One sample; raises `LoopError` if the peer fails, crashes or hangs, and `UnableError` if
        it has nothing equal.
        """
        request = {"workload": workload.name, "operations": operations}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then the missing answer says why
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        sample: Sample = self._read_answer()["sample"]
        return sample

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
                raise LoopError(f"no answer within {ANSWER_SECONDS:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise LoopError(_describe_exit(self._process.wait()))
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoopError(answer["error"])
        if "unable" in answer:
            raise UnableError(answer["unable"])
        return answer


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process exited with code {code}"


@dataclass
class Results:
    """All samples of one workload, by peer; the samples of one round have the same index."""

    workload: Workload
    operations: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def fail(self, peer: str, reason: str) -> None:
        """A peer without a sample of every round has no result."""
        self.failures[peer] = reason
        self.samples.pop(peer, None)


class Children:
    """The processes of one round; one that failed is replaced for the next workload."""

    def __init__(self, peers: Sequence[str]) -> None:
        """Start one for each peer; `missing` has the reason of each that did not start."""
        self.running: dict[str, Child] = {}
        self.missing: dict[str, str] = {}
        for peer in peers:
            self.start(peer)

    def start(self, peer: str) -> None:
        """Start (or start again) the process of a peer."""
        try:
            self.running[peer] = Child(peer)
        except LoopError as failure:
            self.missing[peer] = str(failure)

    def replace(self, peer: str) -> None:
        """End the process of a peer and start another."""
        self.running.pop(peer).end()
        self.start(peer)

    def end(self) -> None:
        """End all of them."""
        for child in self.running.values():
            child.end()


def rounds_of(workload: Workload, rounds: int) -> int:
    """How many of the rounds have a sample of a workload."""
    return min(rounds, SLOW_ROUNDS) if workload.slow else rounds


def take_round(
    children: Children, all_results: Sequence[Results], number: int, rounds: int, show: Progress
) -> None:
    """Take a sample of every workload and peer that has not failed; rounds count from 0."""
    for results in all_results:
        workload = results.workload
        if number >= rounds_of(workload, rounds):
            continue
        names = list(results.samples)
        shift = number % len(names) if names else 0
        for peer in names[shift:] + names[:shift]:
            show.begin(f"round {number + 1} of {rounds}: {workload.name}, {peer}")
            try:
                if peer not in children.running:
                    raise LoopError(children.missing[peer])
                child = children.running[peer]
                if not workload.slow:  # such a one warms up while it prepares
                    child.take_sample(workload, max(results.operations // WARMUP_FRACTION, 1))
                results.samples[peer].append(child.take_sample(workload, results.operations))
            except (LoopError, UnableError) as failure:
                results.fail(peer, str(failure))
                if isinstance(failure, LoopError) and peer in children.running:
                    children.replace(peer)
                show.skip(rounds_of(workload, rounds) - number - 1)
            show.end()


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: list[str]
    peers: list[str]
    rounds: int
    quick: bool
    json: Path | None
    table: Path | None
    list: bool


def measure(options: Options) -> Document:
    """Measure all that is asked for; what an interrupted round took is dropped."""
    machine = describe_machine()
    first = Children(options.peers)
    peers = {
        peer: {"version": child.version, "gil_enabled": child.gil_enabled}
        for peer, child in first.running.items()
    }
    missing = dict(first.missing)
    all_results = [
        Results(
            WORKLOADS[name],
            WORKLOADS[name].operations // (QUICK_FRACTION if options.quick else 1),
            {peer: [] for peer in peers},
            dict(missing),
        )
        for name in options.only
    ]
    samples = sum(rounds_of(results.workload, options.rounds) for results in all_results)
    show = Progress(samples * len(peers), SAMPLE_SECONDS)
    children = first
    taken = 0
    try:
        for number in range(options.rounds):
            if number:
                children = Children(list(peers))
            take_round(children, all_results, number, options.rounds, show)
            children.end()
            taken = number + 1
    except KeyboardInterrupt:
        print(f"interrupted: {taken} of {options.rounds} rounds are whole", file=sys.stderr)
    finally:
        children.end()
        clear()
    return {
        "machine": machine,
        "peers": peers,
        "missing": missing,
        "rounds": taken,
        "results": [_result_record(results, taken) for results in all_results],
    }


def _result_record(results: Results, rounds: int) -> dict[str, Any]:
    return {
        "workload": results.workload.name,
        "summary": results.workload.summary,
        "clock": results.workload.clock,
        "operations": results.operations,
        "samples": {peer: samples[:rounds] for peer, samples in results.samples.items()},
        "failures": results.failures,
    }


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=names(list(WORKLOADS)), help="comma-separated workloads")
    parser.add_argument(
        "--peers", type=names(PEERS), default=PEERS, help="comma-separated; default: all"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="small samples, few rounds: a look")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--table", type=Path, help="measure nothing: print the table of this file")
    parser.add_argument("--list", action="store_true", help="measure nothing: name the workloads")
    parsed = vars(parser.parse_args(arguments))
    everything = [
        name for name, workload in WORKLOADS.items() if not (parsed["quick"] and workload.slow)
    ]
    parsed["only"] = parsed["only"] or everything
    parsed["rounds"] = parsed["rounds"] or (QUICK_ROUNDS if parsed["quick"] else ROUNDS)
    return Options(**parsed)


def main() -> int:
    """Run the benchmarks; the exit code is 0 unless nothing could be measured."""
    options = parse_options()
    if options.list:
        print("\n".join(options.only))
        return 0
    if options.table:
        document = json.loads(options.table.read_text(encoding="utf-8"))
    else:
        document = measure(options)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(format_document(document)))
    return 0 if any(any(record["samples"].values()) for record in document["results"]) else 1


if __name__ == "__main__":
    sys.exit(main())
