"""Runs the suites of benchmarks one after another, and makes plots and tables of their results.

    make bench [BENCH=micro,sockets/stuck] [PEERS=uvloop,loop_pool] [QUICK=1]
    make bench-report
    python benches/python/bench.py --compare OLD.json NEW.json

A full run of a suite writes its raw results to `benches/results/SUITE.json`. A quick one, or one of
some workloads or peers, writes to `target/bench`, with its tables and plots beside it, and never
replaces the others. A suite that fails is named with its reason, and the rest goes on.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import differs, format_comparison
from environment import read_reasons
from figures import Document
from machine import DISTURBED_CORES, Neighbours, Used
from progress import clear, format_left, say
from report import write_report, write_verdicts
from suites import (
    SUITES,
    Choice,
    Plan,
    SelectionError,
    SuiteError,
    make_plan,
    parse_choice,
    run_plan,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benches" / "results"
TRIALS = ROOT / "target" / "bench"
PAGE = ROOT / "docs" / "benchmarks-tables.md"
VERDICTS = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"

QUIET_SECONDS = 20.0
QUICK_QUIET_SECONDS = 3.0
"""So long a suite waits for a machine that does nothing else."""
QUIET_STEP = 1.0
DISTURBED_SHARE = 0.1
"""A suite of which more samples were disturbed says so."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    choice: Choice
    peers: list[str]
    quick: bool
    list: bool
    report: bool
    compare: tuple[Path, Path] | None


# --- one suite ------------------------------------------------------------------------------------


def wait_for_quiet(seconds: float) -> Used:
    """Wait until nothing else uses the machine, at most `seconds`; returns what last did."""
    deadline = time.monotonic() + seconds
    while True:
        neighbours = Neighbours()
        time.sleep(QUIET_STEP)
        used = neighbours.cores()
        if sum(used) <= DISTURBED_CORES or time.monotonic() + QUIET_STEP > deadline:
            return used


def count_disturbed(document: Document) -> tuple[int, int]:
    """How many samples were disturbed by other programs, of how many that tell."""
    others = [
        sample["others_cpu_ns"] / 1e9 / sample["seconds"]
        for record in document["results"]
        for samples in record["samples"].values()
        for sample in samples
        if sample.get("others_cpu_ns") is not None and sample.get("seconds")
    ]
    return sum(cores > DISTURBED_CORES for cores in others), len(others)


def describe_package() -> str:
    """Where the loop_pool that is measured lies."""
    spec = importlib.util.find_spec("loop_pool")
    if spec is None or spec.origin is None:
        return "not installed"
    folder = Path(spec.origin).parent
    if folder.is_relative_to(sys.prefix):
        return "wheel"
    return f"not of this environment: {os.path.relpath(folder, ROOT)}"


def describe_commit() -> str:
    """The commit of the checkout, and whether it was changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout
            for words in (
                ("rev-parse", "--short", "HEAD"),
                ("status", "--porcelain", "--", "src", "python", "benches", "Cargo.lock"),
            )
        )
    except OSError, subprocess.CalledProcessError:
        return "unknown"
    # The results of the suites before this one are no change of what is measured.
    changed = [line for line in changes.splitlines() if "benches/results/" not in line]
    return commit.strip() + (", with changes" if changed else "")


def annotate(document: Document, plan: Plan, run: dict[str, Any], reasons: dict[str, str]) -> None:
    """Add to a document how it was measured, and why its peers are missing.

    `run` has `began`, `seconds`, `load_before`, `others_before`, `others_cores` and `stolen_cores`.
    """
    for peer, reason in document["missing"].items():
        if peer in reasons:
            document["missing"][peer] = f"it could not be installed: {reasons[peer]} ({reason})"
    disturbed, told = count_disturbed(document)
    # Where samples tell, servers that outlive their sample do not count as other programs.
    noisy = (
        disturbed > DISTURBED_SHARE * told if told else run["others_cores"] > DISTURBED_CORES
    ) or run["stolen_cores"] > DISTURBED_CORES
    document["run"] = {
        "suite": plan.suite.name,
        "quick": plan.quick,
        "partial": plan.partial,
        **run,
        "samples": f"{disturbed} of {told} samples were disturbed" if told else "",
        "disturbed": noisy,
    }


def measured_anything(document: Document) -> bool:
    """Whether there is a sample in it."""
    return any(any(record["samples"].values()) for record in document["results"])


def run_suite(plan: Plan, show: Callable[[str, float], None]) -> Path:
    """Run a suite and write its results; returns their file. Raises `SuiteError` if it fails."""
    name = plan.suite.name
    TRIALS.mkdir(parents=True, exist_ok=True)
    raw = TRIALS / f"{name}.raw.json"
    raw.unlink(missing_ok=True)
    tables = TRIALS / f"{name}.md"
    show("waiting for a quiet machine", plan.seconds)
    before = wait_for_quiet(QUICK_QUIET_SECONDS if plan.quick else QUIET_SECONDS)
    load = os.getloadavg()[0]
    if sum(before) > DISTURBED_CORES:
        note(f"{name}: other programs use {sum(before):.2f} of a core")
    began, neighbours = time.monotonic(), Neighbours()
    date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    # Now: what is changed while it runs is not measured.
    commit, package = describe_commit(), describe_package()
    run_plan(plan, raw, tables, show, note)
    used = neighbours.cores()
    document: Document = json.loads(raw.read_text(encoding="utf-8"))
    if not measured_anything(document):
        raise SuiteError(f"nothing was measured; see {tables}")
    run = {
        "began": date,
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit,
        "package": package,
        "load_before": round(load, 2),
        "others_before": round(sum(before), 3),
        "others_cores": round(used.others, 3),
        "stolen_cores": round(used.stolen, 3),
    }
    annotate(document, plan, run, read_reasons())
    file = (TRIALS if plan.partial else RESULTS) / f"{name}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    raw.unlink()
    clear()
    print(f"\n## {name}\n\n{tables.read_text(encoding='utf-8').strip()}\n\n-> {file}", flush=True)
    if document["run"]["disturbed"]:
        note(f"{name}: DISTURBED by other programs; do not quote it")
    return file


def note(text: str) -> None:
    """A line on standard error that stays."""
    clear()
    print(text, file=sys.stderr, flush=True)


# --- all of them ----------------------------------------------------------------------------------


def make_plans(options: Options) -> tuple[list[Plan], dict[str, str]]:
    """What to run, and why suites are left out. Raises `SelectionError` for what is not there."""
    plans, left_out = [], {}
    unknown: list[set[str]] = []
    for name, only in options.choice.items():
        try:
            plan, strangers = make_plan(SUITES[name], only, options.peers, quick=options.quick)
        except SuiteError as failure:
            left_out[name] = str(failure)
            unknown.append(set(options.peers))
            continue
        plans.append(plan)
        unknown.append(set(strangers))
        for peer in strangers:
            note(f"{name}: it has no peer {peer}")
    if options.peers and (nowhere := set.intersection(*unknown)):
        raise SelectionError(f"no chosen suite knows a peer {', '.join(sorted(nowhere))}")
    return plans, left_out


def run_all(options: Options) -> int:
    """Run what is chosen; the exit code is 0 if every suite measured something."""
    plans, failed = make_plans(options)
    for name, reason in failed.items():
        note(f"{name}: left out: {reason}")
    total = sum(plan.seconds for plan in plans)
    package = describe_package()
    note(f"{len(plans)} suites; {format_left(total)}; loop_pool: {package}")
    written: list[Path] = []
    try:
        for index, plan in enumerate(plans):
            later = sum(each.seconds for each in plans[index + 1 :])
            place = f"[{index + 1}/{len(plans)} {plan.suite.name}]"

            def show(text: str, left: float, place: str = place, later: float = later) -> None:
                ending = f"; all: {format_left(left + later)}" if later else ""
                say(f"{place} {text}, {format_left(left)}{ending}")

            try:
                written.append(run_suite(plan, show))
            except SuiteError as failure:
                failed[plan.suite.name] = str(failure)
                note(f"{plan.suite.name}: failed: {failure}")
    except KeyboardInterrupt:
        note("interrupted: the suite that was under way has no results")
        return 130
    finally:
        clear()
    if any(file.parent == TRIALS for file in written):
        try:
            print("\n".join(write_report(TRIALS, TRIALS / "report.md", TRIALS, "")))
        except SuiteError as failure:
            note(f"no report of the trials: {failure}")
    if any(file.parent == RESULTS for file in written):
        print("`make bench-report` makes the plots and tables of benches/results")
    for name, reason in failed.items():
        print(f"{name}: no results: {reason}", file=sys.stderr)
    return 1 if failed else 0


def compare_files(old: Path, new: Path) -> int:
    """Print the comparison of two runs; the exit code is 1 if they differ."""
    first, second = (json.loads(file.read_text(encoding="utf-8")) for file in (old, new))
    print("\n".join(format_comparison(first, second)))
    return 1 if differs(first, second) else 0


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        default=",".join(SUITES),
        help="comma-separated suites, or SUITE/WORKLOAD; default: %(default)s",
    )
    parser.add_argument("--peers", default="", help="comma-separated; default: all")
    parser.add_argument("--quick", action="store_true", help="a look; goes to target/bench")
    parser.add_argument("--list", action="store_true", help="name suites and workloads")
    parser.add_argument("--report", action="store_true", help="make plots and tables; no run")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="do two results agree"
    )
    parsed = parser.parse_args(arguments)
    try:
        choice = parse_choice(parsed.only)
    except SelectionError as error:
        parser.error(f"--only: {error}")
    for file in parsed.compare or ():
        if not file.is_file():
            parser.error(f"--compare: there is no file {file}")
    return Options(
        choice,
        [peer for peer in parsed.peers.split(",") if peer],
        parsed.quick,
        parsed.list,
        parsed.report,
        tuple(parsed.compare) if parsed.compare else None,
    )


def list_suites(options: Options) -> None:
    """Print what can be chosen."""
    for name in options.choice:
        try:
            for workload in SUITES[name].workloads():
                print(f"{name}/{workload}")
        except SuiteError as failure:
            note(f"{name}: {failure}")


def main() -> int:
    """Do what the command line says."""
    options = parse_options()
    try:
        if options.list:
            list_suites(options)
            return 0
        if options.compare is not None:
            return compare_files(*options.compare)
        if options.report:
            print("\n".join(write_report(RESULTS, PAGE, IMAGES, "images/")))
            print(write_verdicts(RESULTS, VERDICTS))
            return 0
        return run_all(options)
    except SelectionError as error:
        print(error, file=sys.stderr)
        return 2
    except SuiteError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
