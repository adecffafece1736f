"""Micro benchmarks of event loops, side by side: asyncio, uvloop, rloop, zuvloop, loop_pool.

    python benches/python/micro.py [--quick] [--only NAME]... [--loops a,b] [--json FILE]

Each loop lives in one long-lived child process (`child.py`). For every benchmark the children
take one sample after another, in rounds (A B C, B C A, ...), so that a change in the machine's load
or clock meets all of them. The first round warms up and is dropped. The table shows the median over
the rounds, the distance between the quartiles (IQR), and the median of the ratios that were
measured within the same round. A loop that is missing or fails stands in the table with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from child import LOOPS
from workloads import WORKLOADS, Sample, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDS = 9
QUICK_ROUNDS = 3
QUICK_FRACTION = 10
"""`--quick` divides the operations of a sample by this."""
ANSWER_SECONDS = 60.0
"""A child that has not answered within this time is ended and its loop's benchmark failed."""
BASELINES = ("uvloop", "zuvloop")
CHILD_FILE = Path(__file__).with_name("child.py")


class LoopError(Exception):
    """A loop could not be made, or a sample of it failed; the text says why."""


class Child:
    """One process that takes samples of one event loop."""

    def __init__(self, loop_name: str) -> None:
        """Start the process; raises `LoopError` if its loop cannot be made."""
        self.loop_name = loop_name
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD_FILE), loop_name],
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
        """One sample; raises `LoopError` if the loop fails, crashes or hangs."""
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
        return answer


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process exited with code {code}"


@dataclass
class Results:
    """All samples of one benchmark, by loop; the samples of one round have the same index."""

    workload: Workload
    operations: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def nanoseconds(self, loop_name: str, clock: str) -> list[float]:
        """Time per operation, one value a round."""
        return [s[f"{clock}_ns"] / s["operations"] for s in self.samples[loop_name]]

    def ratio(self, loop_name: str, baseline: str, clock: str) -> float | None:
        """Median over the rounds of the time against `baseline`'s in the same round."""
        if loop_name not in self.samples or baseline not in self.samples:
            return None
        own = self.nanoseconds(loop_name, clock)
        other = self.nanoseconds(baseline, clock)
        return statistics.median(a / b for a, b in zip(own, other, strict=True))


class Children:
    """The running children; a child that failed is replaced for the next benchmark."""

    def __init__(self, loop_names: Sequence[str]) -> None:
        """Start one child for each loop; `missing` has the reason of each that did not start."""
        self.running: dict[str, Child] = {}
        self.missing: dict[str, str] = {}
        for name in loop_names:
            self.start(name)

    def start(self, loop_name: str) -> None:
        """Start (or start again) the child of a loop."""
        try:
            self.running[loop_name] = Child(loop_name)
        except LoopError as failure:
            self.missing[loop_name] = str(failure)

    def replace(self, loop_name: str) -> None:
        """End the child of a loop and start another."""
        self.running.pop(loop_name).end()
        self.start(loop_name)

    def end(self) -> None:
        """End all of them."""
        for child in self.running.values():
            child.end()


def measure(children: Children, workload: Workload, operations: int, rounds: int) -> Results:
    """Take `rounds` samples of every loop, interleaved, after one round of warming up."""
    results = Results(workload, operations, failures=dict(children.missing))
    names = list(children.running)
    for name in names:
        results.samples[name] = []
    for round_number in range(rounds + 1):
        shift = round_number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            if name in results.failures:
                continue
            try:
                sample = children.running[name].take_sample(workload, operations)
            except LoopError as failure:
                results.failures[name] = str(failure)
                del results.samples[name]
                children.replace(name)
                continue
            if round_number:
                results.samples[name].append(sample)
    return results


def _interquartile_range(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return upper - lower


def format_results(results: Results, clock: str | None) -> Iterator[str]:
    """Yield the table of one benchmark, line by line."""
    workload = results.workload
    shown = clock or workload.clock
    yield ""
    yield f"{workload.name}: {workload.summary}"
    yield (
        f"  {'loop':<10} {shown + ' ns':>10} {'IQR':>8} {'other ns':>10}"
        + "".join(f" {'x ' + name:>10}" for name in BASELINES)
        + "  notes"
    )
    other = "wall" if shown == "cpu" else "cpu"
    for name, samples in results.samples.items():
        times = results.nanoseconds(name, shown)
        ratios = (results.ratio(name, baseline, shown) for baseline in BASELINES)
        yield (
            f"  {name:<10} {statistics.median(times):>10.1f} {_interquartile_range(times):>8.1f}"
            f" {statistics.median(results.nanoseconds(name, other)):>10.1f}"
            + "".join(f" {'-' if ratio is None else f'{ratio:.2f}':>10}" for ratio in ratios)
            + f"  {_notes(samples, shown)}".rstrip()
        )
    for name, reason in results.failures.items():
        yield f"  {name:<10} no result: {reason}"


def _notes(samples: Sequence[Sample], clock: str) -> str:
    first = samples[0]
    notes = []
    if "lost" in first:
        times = [sample["wall_ns"] / sample["operations"] for sample in samples]
        posted, lost, stalled = (
            sum(int(sample[key]) for sample in samples) for key in ("operations", "lost", "stalled")
        )
        notes.append(f"{1e3 / statistics.median(times):.2f} M/s;")
        notes.append(f"of {posted:,} posted {lost:,} lost, {stalled:,} stalled")
    if any(sample.get("spurious") for sample in samples):
        count = sum(int(sample["spurious"]) for sample in samples)
        notes.append(f"{count:,} calls with nothing to read")
    growth = f"{clock}_growth"
    if growth in first:
        for text, key in (("1 -> 2 loops:", growth), ("(bare coroutines:", f"{growth}_bare")):
            values = [sample[key] for sample in samples]
            spread = _interquartile_range(values)
            notes.append(f"{text} x {statistics.median(values):.3f} IQR {spread:.3f}")
        notes[-1] += ")"
    return " ".join(notes)


def describe_machine() -> dict[str, str]:
    """Say what the numbers depend on besides the loops."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "python": f"{platform.python_implementation()} {sys.version.split(' (')[0]}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "processor": f"{model}, {os.cpu_count()} cores",
        "load": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
    }


def _result_record(results: Results) -> dict[str, Any]:
    return {
        "workload": results.workload.name,
        "summary": results.workload.summary,
        "clock": results.workload.clock,
        "operations": results.operations,
        "samples": results.samples,
        "failures": results.failures,
    }


def _loop_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in LOOPS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no such loop: {', '.join(unknown)} (known: {', '.join(LOOPS)})"
        )
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: list[str]
    loops: list[str]
    rounds: int
    quick: bool
    clock: str | None
    json: Path | None


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=list(WORKLOADS), help="this benchmark (repeatable)"
    )
    parser.add_argument(
        "--loops", type=_loop_names, default=list(LOOPS), help="comma-separated; default: all"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="small samples, few rounds: a look")
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), help="show this clock; default: each benchmark's own"
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parsed = vars(parser.parse_args(arguments))
    parsed["only"] = parsed["only"] or list(WORKLOADS)
    parsed["rounds"] = parsed["rounds"] or (QUICK_ROUNDS if parsed["quick"] else ROUNDS)
    return Options(**parsed)


def main() -> int:
    """Run the benchmarks; the exit code is 0 if every loop that was found gave every result."""
    options = parse_options()
    machine = describe_machine()
    for key, value in machine.items():
        print(f"{key + ':':<11} {value}")
    children = Children(options.loops)
    versions = {
        name: {"version": child.version, "gil_enabled": child.gil_enabled}
        for name, child in children.running.items()
    }
    for name, child in children.running.items():
        gil = "GIL on" if child.gil_enabled else "GIL off"
        print(f"{name + ':':<11} {child.version}, {gil}")
    missing = dict(children.missing)
    for name, reason in missing.items():
        print(f"{name + ':':<11} left out: {reason}")
    print(f"{'rounds:':<11} {options.rounds}, interleaved; median and IQR; garbage collector off")
    all_results: list[Results] = []
    try:
        for name in options.only:
            workload = WORKLOADS[name]
            operations = workload.operations // (QUICK_FRACTION if options.quick else 1)
            all_results.append(measure(children, workload, operations, options.rounds))
            print("\n".join(format_results(all_results[-1], options.clock)), flush=True)
    finally:
        children.end()
    if options.json:
        document = {
            "machine": machine,
            "loops": versions,
            "missing": missing,
            "rounds": options.rounds,
            "results": [_result_record(results) for results in all_results],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    failed = any(set(results.failures) - set(missing) for results in all_results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
