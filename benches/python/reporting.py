"""The Markdown tables of a suite, made from the document that it writes as JSON.

A table shows the median over the rounds and the quartiles. A figure with a baseline is a ratio of
two samples of the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from figures import describe_gil, describe_run
from machine import DISTURBED_CORES
from measuring import PARTNER, Figure, Results, Suite, Variant, Workload

LOAD_BOUND_CORES = 0.9
"""What each thread of the load generator may use of a core before the table says so."""


def values(results: Results, variant: Variant, figure: Figure) -> list[float]:
    """A figure of a variant, one value a round; empty without a result or a baseline."""
    try:
        own = [figure.of(sample) for sample in results.samples.get(variant.name, [])]
        if not figure.baseline:
            return own
        baseline = variant.partner if figure.baseline == PARTNER else figure.baseline
        base = [figure.of(sample) for sample in results.samples.get(baseline, [])]
    except KeyError:  # a sample that does not hold this number
        return []
    if len(own) != len(base) or not all(base):
        return []
    return [a / b for a, b in zip(own, base, strict=True)]


def format_number(number: float) -> str:
    """Two digits after the point, none for a thousand and more."""
    return f"{number:.2f}" if abs(number) < 1000 else f"{number:,.0f}"


def format_values(numbers: Sequence[float]) -> str:
    """The median and, in brackets, the quartiles."""
    if not numbers:
        return "-"
    middle = format_number(statistics.median(numbers))
    if len(numbers) < 2 or min(numbers) == max(numbers):
        return middle
    lower, _, upper = statistics.quantiles(numbers, n=4, method="inclusive")
    return f"{middle} ({format_number(lower)}-{format_number(upper)})"


def format_results(workload: Workload[Any], results: Results) -> Iterator[str]:
    """Yield the Markdown table of one workload, line by line."""
    titles = [figure.title for figure in workload.figures]
    if workload.note:
        titles.append("by name")
    yield ""
    yield f"`{results.name}`: {workload.summary}"
    yield ""
    yield f"| | {' | '.join(titles)} |"
    yield "|---|" + "---:|" * len(workload.figures) + ("---|" if workload.note else "")
    for variant in workload.variants:
        samples = results.samples.get(variant.name)
        if not samples:
            continue
        cells = [format_values(values(results, variant, figure)) for figure in workload.figures]
        if workload.note:
            cells.append(workload.note(samples))
        yield f"| {variant.name} | {' | '.join(cells)} |"
    for name, reason in results.failures.items():
        yield f"| {name} | no result: {reason} |" + " |" * (len(titles) - 1)
    yield from format_absent(results)
    yield from format_disturbance(results)
    yield from format_load_bound(results)


def format_absent(results: Results) -> Iterator[str]:
    """Yield which peers have no part in it, and why."""
    if results.absent:
        yield ""
        by_reason: dict[str, list[str]] = {}
        for peer, reason in results.absent.items():
            by_reason.setdefault(reason, []).append(peer)
        yield "Not in it: " + "; ".join(
            f"{', '.join(peers)} ({reason})" for reason, peers in by_reason.items()
        )


def format_disturbance(results: Results) -> Iterator[str]:
    """Yield a warning if other processes used the machine."""
    others = [
        sample["others_cpu_ns"] / 1e9 / sample["seconds"]
        for samples in results.samples.values()
        for sample in samples
        if "others_cpu_ns" in sample
    ]
    if others and max(others) > DISTURBED_CORES:
        disturbed = sum(cores > DISTURBED_CORES for cores in others)
        yield ""
        yield (
            f"DISTURBED: in {disturbed} of {len(others)} samples other processes used more than "
            f"{DISTURBED_CORES} of a core ({max(others):.2f} at most). Measure again on a quiet "
            "machine."
        )


def format_load_bound(results: Results) -> Iterator[str]:
    """Yield a warning if the load generator had no core left to ask for more."""
    bound = {
        name: max(
            sample["load_cpu_ns"] / 1e9 / sample["seconds"] / sample["load_threads"]
            for sample in samples
        )
        for name, samples in results.samples.items()
        if samples and all("load_cpu_ns" in sample for sample in samples)
    }
    names = [name for name, cores in bound.items() if cores > LOAD_BOUND_CORES]
    if names:
        yield ""
        yield (
            f"The load generator used more than {LOAD_BOUND_CORES} of its cores beside "
            f"{', '.join(names)}: their throughput may be its own."
        )


def format_document(suite: Suite, document: dict[str, Any]) -> Iterator[str]:
    """Yield all tables of a run, with the machine above them, line by line."""
    how = (
        f"{document['rounds']} interleaved round(s) of {document['seconds']:g} s; medians of "
        "the ratios within a round, and their quartiles."
    )
    yield from describe_run(document, how)
    yield from describe_gil(document)
    for record in document["results"]:
        name = record["workload"]
        if name not in suite.workloads:
            yield ""
            yield f"`{name}`: not a workload of this suite"
            continue
        results = Results(name, record["samples"], record["failures"], record.get("absent", {}))
        yield from format_results(suite.workloads[name], results)
