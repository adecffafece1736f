"""ASGI applications under load, side by side: loop-pool serve and the servers beside it.

    python benches/python/applications.py [--only a,b] [--peers a,b] [--quick] [--rounds R] ...

Each sample starts a server of its own (`application_servers.py`), puts load on it as its workload
says (`application_workloads.py`) and ends it again. The samples of a workload are taken in rounds
(A B C, B C A, ...), so that a change in the machine's load or clock meets all of them. CPU time is
the kernel's, of all threads and processes of the server. A server that is missing is named above
the tables, what fails in its table, both with the reason. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import signal
import statistics
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from application_load import DATABASE_CONNECTIONS, Setting, Timing
from application_servers import PEERS, Server, Variant, database, find_peers, make_variants
from application_workloads import BASELINE, LOOK, WORKLOADS, Workload
from figures import describe_run
from machine import describe_machine
from measuring import Results, Sample, SampleError
from options import names
from progress import Progress
from reporting import format_absent, format_disturbance, values
from under_load import build_programs, make_certificate

ROUNDS = 3
SECONDS = 2.0
WARMUP_SECONDS = 1.0
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.6
QUICK_WARMUP_SECONDS = 0.3
LIMITED_CORES = 0.9
"""A load generator that uses more of its core is what limits the throughput."""
INTERRUPTED = 130
START_SECONDS = 1.5
"""A first guess at what starting and ending a server takes."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: list[str]
    peers: list[str]
    quick: bool
    rounds: int
    timing: Timing
    loops: int
    json: Path | None
    table: Path | None
    list: bool


# --- measuring ------------------------------------------------------------------------------------


def chosen_variants(name: str, peers: Collection[str], options: Options) -> list[Variant]:
    """The variants of a workload that belong to `peers`; those of a look if that is all."""
    variants = make_variants(options.loops)
    return [
        variants[short]
        for short in WORKLOADS[name].variants
        if variants[short].peer in peers and (short in LOOK or not options.quick)
    ]


def rounds_of(name: str, options: Options) -> int:
    """How many rounds are taken of a workload."""
    return min(options.rounds, WORKLOADS[name].rounds or options.rounds)


def measure(
    name: str, variants: Sequence[Variant], options: Options, progress: Progress
) -> Results:
    """Take the samples of a workload, interleaved. What fails is there, with its reason."""
    workload = WORKLOADS[name]
    absent = {peer: why for peer, why in workload.absent.items() if peer in options.peers}
    results = Results(name, {variant.name: [] for variant in variants}, absent=absent)
    rounds = rounds_of(name, options)
    with contextlib.ExitStack() as stack:
        setting = Setting(workload.path)
        if workload.uses_database and variants:
            try:
                service = stack.enter_context(database())
            except SampleError as failure:
                progress.skip(rounds * len(variants))
                return Results(name, {}, {variant.name: str(failure) for variant in variants})
            setting = replace(
                setting, environment={"BENCH_DATABASE": service.url}, beside=(service.process.pid,)
            )
        for number in range(rounds):
            for variant in rotated(variants, number):
                if variant.name in results.failures:
                    continue
                progress.begin(f"{name}, round {number + 1} of {rounds}: {variant.name}")
                try:
                    sample = take(workload, variant, options, setting)
                    results.samples[variant.name].append(sample)
                except SampleError as failure:
                    text = ". ".join([str(failure), *getattr(failure, "__notes__", [])])
                    results.failures[variant.name] = text
                    del results.samples[variant.name]
                    progress.skip(rounds - number - 1)
                progress.end()
    return results


def rotated[T](items: Sequence[T], number: int) -> list[T]:
    """The items of a round, which begins with another one than the round before."""
    shift = number % len(items) if items else 0
    return [*items[shift:], *items[:shift]]


def take(workload: Workload, variant: Variant, options: Options, setting: Setting) -> Sample:
    """Take one sample of a variant; raises `SampleError` if that fails."""
    budget = max(1, DATABASE_CONNECTIONS // variant.starts)
    environment = {**setting.environment, "BENCH_DATABASE_CONNECTIONS": str(budget)}
    if workload.is_stuck:
        environment["BENCH_STUCK"] = "1"
    more = workload.options.get(variant.peer, ())
    variant = replace(variant, arguments=(*variant.arguments, *more))
    certificate = make_certificate() if workload.uses_tls else None
    with Server(variant, workload.app, environment, certificate) as server:
        sample = workload.take(server, options.timing, setting)
        # Behind the load: by then, all is imported that the application needs.
        return {**sample, **server.fetch_state()}


def note_states(peers: dict[str, dict[str, Any]], results: Results, loops: int) -> None:
    """Add to the description of the peers what their samples tell of the GIL and the loops."""
    owners = {variant.name: variant.peer for variant in make_variants(loops).values()}
    for name, samples in results.samples.items():
        peer = peers[owners[name]]
        for sample in samples:
            peer["gil_enabled"] |= sample["gil_enabled"]
            if sample["loop"] not in peer["loops"]:
                peer["loops"].append(sample["loop"])


# --- tables ---------------------------------------------------------------------------------------


def format_number(number: float) -> str:
    """Three significant digits, with all that stand before the point."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"


def format_cell(numbers: Sequence[float]) -> str:
    """The median and, in brackets, the least and the most."""
    if not numbers:
        return "-"
    middle = format_number(statistics.median(numbers))
    if len(numbers) < 2 or min(numbers) == max(numbers):
        return middle
    return f"{middle} ({format_number(min(numbers))}-{format_number(max(numbers))})"


def format_results(results: Results, loops: int) -> Iterator[str]:
    """Yield the Markdown table of one workload, line by line."""
    workload = WORKLOADS[results.name]
    variants = make_variants(loops)
    yield ""
    yield f"`{results.name}`: {workload.summary}"
    yield ""
    yield f"| | {' | '.join(figure.title for figure in workload.figures)} |"
    yield "|---|" + "---:|" * len(workload.figures)
    for short in workload.variants:
        variant = variants[short]
        if not results.samples.get(variant.name):
            continue
        cells = [format_cell(values(results, variant, figure)) for figure in workload.figures]
        yield f"| {variant.name} | {' | '.join(cells)} |"
    for name, reason in results.failures.items():
        text = " ".join(reason.replace("|", "/").split())
        yield f"| {name} | no result: {text} |" + " |" * (len(workload.figures) - 1)
    yield from format_absent(results)
    taken = [sample for samples in results.samples.values() for sample in samples]
    with_gil = [name for name, of in results.samples.items() if any(s["gil_enabled"] for s in of)]
    if with_gil:
        yield ""
        yield f"With the GIL on: {', '.join(with_gil)}."
    busy = [
        sample["load_cpu_ns"] / 1e9 / sample["seconds"]
        for sample in taken
        if "load_cpu_ns" in sample
    ]
    if busy and max(busy) > LIMITED_CORES:
        limited = sum(cores > LIMITED_CORES for cores in busy)
        yield ""
        yield (
            f"LIMITED: in {limited} of {len(busy)} samples the load generator, which has one "
            f"thread, used more than {LIMITED_CORES} of a core. Those servers can do more requests "
            "a second than it tells; CPU per request holds."
        )
    yield from format_disturbance(results)


def format_document(document: dict[str, Any]) -> Iterator[str]:
    """Yield all tables of a run, with the machine above them, line by line."""
    how = (
        f"{document['rounds']} interleaved rounds of {document['seconds']:g} s; medians, least and "
        "most; ratios are taken within a round."
    )
    yield from describe_run(document, how)
    for record in document["results"]:
        results = Results(
            record["workload"], record["samples"], record["failures"], record.get("absent", {})
        )
        yield from format_results(results, document["loops"])


# --- the command ----------------------------------------------------------------------------------


def _more_than_zero[T: (int, float)](kind: type[T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be more than 0, not {value}")
        return value

    return parse


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known, peers = list(WORKLOADS), list(PEERS)
    parser.add_argument(
        "--only", type=names(known), default=known, help=f"comma-separated: {', '.join(known)}"
    )
    parser.add_argument(
        "--peers", type=names(peers), default=peers, help=f"default: {','.join(peers)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a look: one short round of fewer variants"
    )
    parser.add_argument(
        "--rounds",
        type=_more_than_zero(int),
        help=f"default: {ROUNDS}; with --quick {QUICK_ROUNDS}",
    )
    parser.add_argument(
        "--seconds",
        type=_more_than_zero(float),
        help=f"measured of each sample; default: {SECONDS:g}; with --quick {QUICK_SECONDS:g}",
    )
    parser.add_argument(
        "--warmup",
        type=_more_than_zero(float),
        help=f"before it; default: {WARMUP_SECONDS:g}; with --quick {QUICK_WARMUP_SECONDS:g}",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--loops",
        type=_more_than_zero(int),
        default=max(2, cores // 2),
        help="of the larger servers: loops, threads or processes; default: half of the cores, the "
        "load and the database have the others, but at least 2",
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--table", type=Path, help="measure nothing: print the tables of this file")
    parser.add_argument("--list", action="store_true", help="measure nothing: print the workloads")
    given = parser.parse_args(arguments)
    if given.loops < 2:
        parser.error("argument --loops: must be 2 or more")
    quick = given.quick
    return Options(
        only=given.only,
        peers=given.peers,
        quick=quick,
        rounds=given.rounds or (QUICK_ROUNDS if quick else ROUNDS),
        timing=Timing(
            given.seconds or (QUICK_SECONDS if quick else SECONDS),
            given.warmup or (QUICK_WARMUP_SECONDS if quick else WARMUP_SECONDS),
        ),
        loops=given.loops,
        json=given.json,
        table=given.table,
        list=given.list,
    )


def run(options: Options) -> dict[str, Any]:
    """Measure; returns the document. What fails is in it, with its reason.

    Raises `SampleError` if the load generator cannot be built.
    """
    machine = describe_machine()
    # The servers inherit it: some of the workloads have more connections than the usual limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    build_programs()
    peers, missing = find_peers(options.peers)
    variants = {name: chosen_variants(name, peers, options) for name in options.only}
    count = sum(rounds_of(name, options) * len(of) for name, of in variants.items())
    timing = options.timing
    progress = Progress(count, timing.seconds + timing.warmup + START_SECONDS)
    records = []
    try:
        for name in options.only:
            results = measure(name, variants[name], options, progress)
            note_states(peers, results, options.loops)
            records.append(
                {
                    "workload": name,
                    "summary": WORKLOADS[name].summary,
                    "baseline": BASELINE,
                    "samples": results.samples,
                    "failures": results.failures,
                    "absent": results.absent,
                }
            )
    except KeyboardInterrupt:
        print("interrupted: nothing is kept of the workload that was under way", file=sys.stderr)
    progress.clear()
    return {
        "machine": machine,
        "peers": peers,
        "missing": missing,
        "rounds": options.rounds,
        "seconds": timing.seconds,
        "loops": options.loops,
        "results": records,
    }


def main() -> int:
    """Run the benchmarks.

    The exit code is 0, unless nothing could be measured (1) or it was interrupted (130).
    """
    options = parse_options()
    if options.list:
        print("\n".join(WORKLOADS))
        return 0
    if options.table:
        document = json.loads(options.table.read_text(encoding="utf-8"))
        print("\n".join(format_document(document)))
        return 0
    # So that the servers are ended then, too, and what was measured is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        document = run(options)
    except SampleError as failure:
        print(failure, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(format_document(document)))
    if len(document["results"]) < len(options.only):
        return INTERRUPTED
    return 0 if any(record["samples"] for record in document["results"]) else 1


if __name__ == "__main__":
    sys.exit(main())
