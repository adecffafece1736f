#!/usr/bin/env python3
"""Fails when a micro-benchmark executes more instructions than its baseline allows.

    python3 tools/bench_check.py                     # compare with the stored baseline
    python3 tools/bench_check.py --only timers       # the workloads whose names contain this
    python3 tools/bench_check.py --update            # store what is counted as the new baseline
    python3 tools/bench_check.py --baseline FILE     # another baseline than the stored one

Each workload of benches/rust/src/bin/counts.rs runs once under callgrind. A workload that grew by
more than the limit (3 %) is shown with the functions that grew. The exit status is 0 if none did,
1 if one did or is missing on one side, 2 if nothing could be counted or compared.

Instructions are those of one compiler and one target. A baseline is kept for each target; with
another compiler, libc or valgrind than the baseline's, the comparison is made all the same, and a
warning says so before and after it: a new compiler that makes the program slower is news as well.
To judge a change apart from the compiler, count the unchanged sources by `--update --baseline FILE`
and the changed ones by `--baseline FILE`.

Needs cargo, addr2line (binutils) and valgrind, which is installed by apt if this is root. Runs on
any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import callgrind
import services
from callgrind import Cost, Counts

ROOT = Path(__file__).resolve().parent.parent
BASELINES = ROOT / "benches" / "baseline"
TARGET_DIR = ROOT / "target" / "bench-rust"
MEASURED = "counts::measured"
"""The function of the program within which callgrind counts."""

LIMIT = 3.0
"""Percent by which a workload may grow."""

SHOWN = 6
"""Functions shown of a workload that grew."""

NOTEWORTHY = 0.005
"""The part of its workload's instructions that a function has to have to be kept in a baseline."""

Counted = Mapping[str, Counts]
"""Counts by the name of the workload."""


class CheckError(Exception):
    """Nothing can be counted or compared; the message says why."""


class Baseline(NamedTuple):
    """What was counted, and by what it was made."""

    made_by: Mapping[str, str]
    workloads: Counted


# --- baselines ----------------------------------------------------------------------------------


def to_json(baseline: Baseline) -> str:
    """The text of a baseline's file; it leaves out the functions that cost next to nothing."""

    def entry(counts: Counts) -> dict[str, object]:
        kept = {
            name: list(cost)
            for name, cost in sorted(
                counts.functions.items(), key=lambda item: (-item[1].own, item)
            )
            if cost.own and max(cost) >= counts.total * NOTEWORTHY
        }
        return {"total": counts.total, "functions": kept}

    workloads = {name: entry(counts) for name, counts in sorted(baseline.workloads.items())}
    text = json.dumps({"made_by": baseline.made_by, "workloads": workloads}, indent=1)
    # A function with its two numbers in one line.
    head, *parts = text.split("[\n")
    for part in parts:
        numbers, _, rest = part.partition("]")
        head += f"[{', '.join(number.strip() for number in numbers.split(','))}]{rest}"
    return head + "\n"


def from_json(text: str) -> Baseline:
    """The reverse of `to_json`.

    Raises:
        CheckError: The text is no baseline.
    """
    try:
        data = json.loads(text)
        workloads = {
            str(name): Counts(
                int(entry["total"]),
                {str(of): Cost(*map(int, cost)) for of, cost in entry["functions"].items()},
            )
            for name, entry in data["workloads"].items()
        }
        made_by = {str(name): str(value) for name, value in data["made_by"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckError(f"this is no baseline: {error!r}") from error
    return Baseline(made_by, workloads)


# --- comparing ----------------------------------------------------------------------------------


def percent(before: int, after: int) -> float:
    """By how much something grew."""
    if before == 0:
        return 0.0 if after == 0 else float("inf")
    return (after - before) * 100 / before


class Growth(NamedTuple):
    """What became of one workload; None on the side where it is missing."""

    name: str
    before: Counts | None
    after: Counts | None

    def percent(self) -> float:
        """By how much it grew; endlessly if a side is missing."""
        if self.before is None or self.after is None:
            return float("inf")
        return percent(self.before.total, self.after.total)

    def functions(self) -> list[tuple[str, Cost, Cost]]:
        """The functions that grew by more than they have to have to be kept, the worst first."""
        if self.before is None or self.after is None:
            return []
        nothing = Cost(0, 0)
        before, least = self.before.functions, self.after.total * NOTEWORTHY
        grown = [
            (name, before.get(name, nothing), cost)
            for name, cost in self.after.functions.items()
            if cost.own - before.get(name, nothing).own > least
        ]
        return sorted(grown, key=lambda row: row[1].own - row[2].own)


def compare(before: Counted, after: Counted) -> list[Growth]:
    """What became of each workload, in the order in which they ran; missing ones last."""
    names = [*after, *(name for name in before if name not in after)]
    return [Growth(name, before.get(name), after.get(name)) for name in names]


def lines_of(growth: Growth, limit: float) -> Iterator[str]:
    """What a person is told of one workload."""
    if growth.before is None:
        yield f"{growth.name:<34} is not in the baseline: store it by --update"
        return
    if growth.after is None:
        yield f"{growth.name:<34} is in the baseline alone: store a new one by --update"
        return
    grew = growth.percent()
    before, after = growth.before.total, growth.after.total
    mark = "  GREW" if grew > limit else "  shrank" if grew < -limit else ""
    yield f"{growth.name:<34} {before:>11,} -> {after:>11,} {grew:>+8.2f} %{mark}"
    if grew <= limit:
        return
    functions = growth.functions()
    if functions:
        yield f"    {'own':>11} -> {'':>11} {'':>9}  {'with callees':>26}"
    for name, old, new in functions[:SHOWN]:
        own = f"{percent(old.own, new.own):+.1f} %" if old.own else "new"
        yield (
            f"    {old.own:>11,} -> {new.own:>11,} {own:>9}  "
            f"{old.inclusive:>11,} -> {new.inclusive:>11,}  {name}"
        )
    if len(functions) > SHOWN:
        yield f"    and {len(functions) - SHOWN} more"
    if not functions:
        yield "    no single function grew by much"


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What made the two sides, as far as it differs."""
    return [
        f"{name}: {before.get(name, 'unknown')} in the baseline, {value} here"
        for name, value in after.items()
        if before.get(name) != value
    ]


def report(before: Baseline, after: Baseline, limit: float) -> tuple[list[str], bool]:
    """What a person is told of a comparison, and whether all is well."""
    growths = compare(before.workloads, after.workloads)
    grown = [growth.name for growth in growths if growth.percent() > limit]
    shrunk = [growth.name for growth in growths if growth.percent() < -limit]
    foreign = differences(before.made_by, after.made_by)
    lines = [f"warning: {difference}" for difference in foreign]
    for growth in growths:
        lines += lines_of(growth, limit)
    if grown:
        lines.append(f"{len(grown)} of {len(growths)} workloads grew by more than {limit:g} %")
        if foreign:
            lines.append(
                "It may be the compiler and not the sources: count the unchanged sources by "
                "--update --baseline FILE, and compare the changed ones by --baseline FILE."
            )
    else:
        lines.append(f"none of {len(growths)} workloads grew by more than {limit:g} %")
    if shrunk:
        lines.append(f"{len(shrunk)} shrank as much: --update keeps it so")
    return lines, not grown


# --- counting -----------------------------------------------------------------------------------


def output_of(command: Sequence[str]) -> str:
    """What a program says.

    Raises:
        CheckError: It is not there, or it failed; the message has what it said.
    """
    try:
        done = subprocess.run(
            list(command),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CheckError(str(error)) from error
    if done.returncode != 0:
        raise CheckError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def compiler() -> dict[str, str]:
    """The `rustc -vV` of the one that cargo uses, as far as names have values."""
    said = output_of([os.environ.get("RUSTC", "rustc"), "-vV"])
    lines = (line.partition(": ") for line in said.splitlines())
    return {name: value for name, colon, value in lines if colon}


def made_by(rustc: Mapping[str, str], valgrind: str) -> dict[str, str]:
    """What decides, besides the sources, how many instructions there are."""
    return {
        "rustc": f"{rustc.get('release', '?')} (LLVM {rustc.get('LLVM version', '?')})",
        "target": rustc["host"],
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "valgrind": output_of([valgrind, "--version"]).strip().replace("valgrind-", ""),
        "RUSTFLAGS": os.environ.get("RUSTFLAGS", ""),
    }


def build() -> Path:
    """Build the program that is counted, and return its path."""
    command = ["cargo", "build", "--release", "--bin", "counts"]
    manifest = ROOT / "benches" / "rust" / "Cargo.toml"
    output_of([*command, "--manifest-path", str(manifest), "--target-dir", str(TARGET_DIR)])
    return TARGET_DIR / "release" / "counts"


def count_one(valgrind: str, program: Path, sources: callgrind.Sources, name: str) -> Counts:
    """Run one workload under callgrind.

    Raises:
        CheckError: It failed, or nothing was counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        options = [f"--toggle-collect={MEASURED}", f"--callgrind-out-file={out}"]
        output_of([valgrind, *callgrind.OPTIONS, *options, str(program), name])
        try:
            counts = callgrind.read(out, program, sources)
        except (OSError, callgrind.MalformedError) as error:
            raise CheckError(f"{name}: {error}") from error
    if counts.total == 0:
        raise CheckError(f"{name}: callgrind saw no function that is called {MEASURED}")
    return counts


def count_all(valgrind: str, only: str, jobs: int) -> dict[str, Counts]:
    """Count every workload whose name contains `only`.

    Raises:
        CheckError: There is none, or one failed.
    """
    program = build()
    names = [name for name in output_of([str(program)]).split() if only in name]
    if not names:
        raise CheckError(f"no workload's name contains {only!r}")
    count = partial(count_one, valgrind, program, callgrind.Sources(ROOT))
    with ThreadPoolExecutor(jobs) as threads:
        return dict(zip(names, threads.map(count, names)))


# --- the command line ---------------------------------------------------------------------------


def check(options: argparse.Namespace) -> int:
    """Count, and compare or store; returns the exit status."""
    if services.where("valgrind") is None and services.provide({"valgrind": "valgrind"}):
        return 2
    valgrind = services.where("valgrind") or "valgrind"
    rustc = compiler()
    path: Path = options.baseline or BASELINES / f"{rustc['host']}.json"
    before = None
    if not options.update:
        if not path.exists():
            raise CheckError(f"there is no baseline {path}: make one of sound sources by --update")
        before = from_json(path.read_text(encoding="utf-8"))
    after = Baseline(made_by(rustc, valgrind), count_all(valgrind, options.only, options.jobs))
    if before is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(after), encoding="utf-8")
        print(f"{len(after.workloads)} workloads are stored in {path}")
        return 0
    compared = {name: old for name, old in before.workloads.items() if options.only in name}
    lines, well = report(before._replace(workloads=compared), after, options.limit)
    print("\n".join(lines))
    return 0 if well else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the options say; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="store a new baseline")
    parser.add_argument("--baseline", type=Path, help="its file (default: the target's)")
    parser.add_argument("--only", default="", help="a part of the workloads' names")
    parser.add_argument("--limit", type=float, default=LIMIT, help="percent (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workloads at a time")
    options = parser.parse_args(arguments)
    if options.update and options.only:
        parser.error("a baseline has all workloads: --update without --only")
    if options.jobs < 1:
        parser.error("--jobs: at least 1")
    try:
        return check(options)
    except CheckError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
