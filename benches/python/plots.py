"""Which plots are made of which workloads.

A plot takes its workloads from wherever among the documents they are; one whose workloads nobody
measured is not made, and `make_plots` says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import svg
from figures import (
    CPU,
    MEMORY,
    MEMORY_SHARE,
    P50,
    P99,
    P999,
    RATE,
    Document,
    Metric,
    Record,
    baseline_of,
    format_number,
    ratios,
    spread_of,
    time_metric,
)

STYLES = {
    "uvloop, processes": "c2",
    "loop_pool": "own",
    "loop-pool": "own",
    "uvloop": "c1",
    "uvicorn": "c1",
    "zuvloop": "c2",
    "granian": "c2",
    "rloop": "c3",
    "hypercorn": "c3",
    "asyncio": "c4",
    "tonio": "c5",
    "mt_asyncio": "c6",
    "tokio": "c7",
    "talyn": "c7",
    "weft": "c5",
    "peregrine": "c6",
    "h2corn": "c4",
}
"""Peer, or how the name of a variant begins -> class of `svg.py`. All others are `OTHER`."""
OTHER = "c7"

ECHO = re.compile(r"echo-(protocol|buffered|streams|udp|tls)$")
SCALING = re.compile(r"pool-scaling$")
SCALING_WORK = re.compile(r"pool-work$")
SCALING_RATE = re.compile(r"pool-rate$")
HEADLINE = ("loop_pool", "uvloop", "asyncio", "mt_asyncio", "tonio", "tokio")
"""The servers of the headline; the tables have all."""
MEMORY_OF_LOOPS = re.compile(r"memory$")
STUCK = re.compile(r"stuck(-fresh)?$")
MEMORY_OF_CONNECTIONS = re.compile(r"idle-memory$")
APPLICATIONS = re.compile(r"(json|json-fastapi|database|websocket)$")


class Found(NamedTuple):
    """A workload and the document that it is of."""

    document: Document
    record: Record


Documents = dict[str, Document]
"""Suite -> what it wrote."""


def find(documents: Documents, name: re.Pattern[str]) -> list[Found]:
    """All workloads whose name matches from its start, if anything was measured of them."""
    return [
        Found(document, record)
        for document in documents.values()
        for record in document["results"]
        if name.match(record["workload"]) and any(record["samples"].values())
    ]


def style_of(variant: str) -> str:
    """The class of a variant, by the peer that its name begins with."""
    for peer, style in STYLES.items():
        if variant == peer or re.match(rf"{peer}\W", variant):
            return style
    return OTHER


def split_count(variant: str) -> tuple[str, int]:
    """`uvloop, 2 threads` -> (`uvloop, threads`, 2); without a number it is 1."""
    match = re.search(r", (\d+)\b ?(.*)", variant)
    if match is None:
        return variant, 1
    kind = re.sub(r"s$", "", match[2])
    return variant[: match.start()] + (f", {kind}s" if kind else ""), int(match[1])


def point_of(x: float, values: Sequence[float]) -> svg.Point:
    """The median and the quartiles of some rounds."""
    spread = spread_of(values)
    return svg.Point(x, spread.median, spread.lower, spread.upper)


def describe(found: Sequence[Found]) -> str:
    """Below the title: the machine, and what a mark means."""
    document = found[0].document
    disturbed = any(each.document.get("run", {}).get("disturbed") for each in found)
    rounds = max(len(samples) for each in found for samples in each.record["samples"].values())
    taken = f"median and quartiles of {rounds} interleaved rounds" if rounds > 1 else "one round"
    machine = f"{document['machine']['processor']}; {taken}"
    return f"DISTURBED by other programs; {machine}" if disturbed else machine


def _loops_title(record: Record, document: Document) -> str:
    """Name of the x axis, with a warning where load and server share cores."""
    match = re.search(r"(\d+) cores", document["machine"]["processor"])
    most = max(split_count(variant)[1] for variant in record["samples"])
    if match is None or most < int(match[1]):
        return "loops"
    return f"loops ({match[1]} cores, of which the load takes its part)"


def scaling_lines(record: Record, metric: Metric, factor: float = 1.0) -> list[svg.Line]:
    """A line for each server of the headline, over its number of loops."""
    points: dict[str, list[svg.Point]] = {}
    for variant, samples in record["samples"].items():
        name, count = split_count(variant)
        values = metric.values(samples)
        if values and name.partition(",")[0] in HEADLINE:
            points.setdefault(name, []).append(point_of(count, [v * factor for v in values]))
    return [svg.Line(name, style_of(name), tuple(these)) for name, these in points.items()]


def plot_pool(documents: Documents) -> str | None:
    """The headline: throughput, CPU per request, and p99 at a fixed rate over the loops."""
    scaling = find(documents, SCALING)
    if not scaling:
        return None
    document, record = scaling[0]
    shown = scaling[:1]
    panels: list[tuple[str, bool, list[svg.Line]]] = []
    if working := find(documents, SCALING_WORK):
        shown.append(working[0])
        panels.append(("requests/s, with work", False, scaling_lines(working[0].record, RATE)))
    panels += [
        ("requests/s, echo", False, scaling_lines(record, RATE)),
        ("CPU per echo, us", False, scaling_lines(record, CPU)),
    ]
    if fixed := find(documents, SCALING_RATE):
        shown.append(fixed[0])
        lines = scaling_lines(fixed[0].record, P99, 1e-3)
        panels.append(("p99, fixed rate, ms", True, lines))
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return None
    return svg.line_plot(
        "One server on several loops", describe(shown), panels, _loops_title(record, document)
    )


def bars(found: Found, metric: Metric, unit: str, factor: float = 1.0) -> list[svg.Bar]:
    """A bar for each variant, least first, with its ratio to the baseline in words.

    What is 0 has no place on a logarithmic axis, and is none of these figures: it is left out.
    """
    rows = []
    base_name = baseline_of(found.record)
    base = metric.values(found.record["samples"].get(base_name, [])) if base_name else []
    for variant, samples in found.record["samples"].items():
        values = metric.values(samples) if samples else []
        if not values or min(values) <= 0:
            continue
        point = point_of(0.0, [value * factor for value in values])
        shown = f"{format_number(point.median)} {unit}"
        compared = ratios(values, base)
        if variant != base_name and compared:
            shown += f" ({format_number(spread_of(compared).median)} x)"
        rows.append(svg.Bar(variant, style_of(variant), point, shown))
    return sorted(rows, key=lambda bar: bar.point.median)


def _groups(
    found: Sequence[Found], metric: Metric, unit: str, factor: float = 1.0
) -> list[tuple[str, list[svg.Bar]]]:
    groups = [(each.record["workload"], bars(each, metric, unit, factor)) for each in found]
    return [(name, rows) for name, rows in groups if rows]


def plot_echo(documents: Documents) -> str | None:
    """CPU per request of the echo servers."""
    found = find(documents, ECHO)
    groups = _groups(found, CPU, "us")
    if not groups:
        return None
    return svg.bar_plot(
        "Echo servers: CPU per request",
        describe(found),
        groups,
        "us of CPU time per request, all threads of the server (in brackets: x uvloop)",
    )


def plot_micro(documents: Documents) -> str | None:
    """The micro benchmarks as ratios to uvloop."""
    document = documents.get("micro")
    rows = []
    for record in document["results"] if document else ():
        metric = time_metric(record)
        base = metric.values(record["samples"].get("uvloop", []))
        dots = []
        for peer, samples in record["samples"].items():
            compared = ratios(metric.values(samples), base) if samples else []
            if peer != "uvloop" and compared and min(compared) > 0:
                dots.append((peer, style_of(peer), point_of(0.0, compared)))
        if dots:
            rows.append((record["workload"], dots))
    if not rows:
        return None
    assert document is not None
    return svg.dot_plot(
        "Single operations against uvloop",
        describe([Found(document, record) for record in document["results"]]),
        rows,
        "time of one operation, x uvloop, logarithmic (left of 1 is faster)",
    )


def plot_stuck(documents: Documents) -> str | None:
    """Latency beside a loop that is stuck, by percentile."""
    found = find(documents, STUCK)
    groups = []
    for each in found:
        for metric in (P50, P99, P999):
            if rows := bars(each, metric, "ms", 1e-3):
                title = f"{each.record['workload']}: {metric.name}"
                groups.append((title, rows))
    if not groups:
        return None
    return svg.bar_plot(
        "One of the loops is blocked for 50 ms in every 100",
        describe(found),
        groups,
        "latency from the intended time of sending, ms, logarithmic (in brackets: x uvloop)",
        logarithmic=True,
    )


def plot_memory(documents: Documents) -> str | None:
    """Memory of an idle connection."""
    found = find(documents, MEMORY_OF_CONNECTIONS)
    groups = _groups(found, MEMORY, "KB", 1e-3)
    if not groups:
        return None
    groups = [("" if len(groups) == 1 else name, rows) for name, rows in groups]
    return svg.bar_plot(
        "Resident memory of an idle connection",
        describe(found),
        groups,
        "KB per connection (in brackets: x uvloop)",
    )


def plot_pool_memory(documents: Documents) -> str | None:
    """Memory of one process with N loops, and of N processes."""
    for found in find(documents, MEMORY_OF_LOOPS):
        if lines := scaling_lines(found.record, MEMORY_SHARE):
            panels = [("memory of all processes, MB (shared pages counted once)", False, lines)]
            title = "One process with N loops, or N processes"
            return svg.line_plot(title, describe([found]), panels, "loops")
    return None


def plot_applications(documents: Documents) -> str | None:
    """CPU per request of the applications."""
    document = documents.get("applications")
    if document is None:
        return None
    found = find({"applications": document}, APPLICATIONS)
    groups = _groups(found, CPU, "us")
    if not groups:
        return None
    compared = f" (in brackets: x {baseline_of(found[0].record)})"
    return svg.bar_plot(
        "Applications: CPU per request",
        describe(found),
        groups,
        "us of CPU time per request, all processes of the server" + compared,
    )


PLOTS: dict[str, Callable[[Documents], str | None]] = {
    "bench-pool": plot_pool,
    "bench-echo": plot_echo,
    "bench-micro": plot_micro,
    "bench-stuck": plot_stuck,
    "bench-memory": plot_memory,
    "bench-pool-memory": plot_pool_memory,
    "bench-applications": plot_applications,
}
"""Name of the file, without its end -> what makes it; None if nothing was measured for it."""


def describe_plot(name: str) -> str:
    """What a plot shows, in words."""
    return (PLOTS[name].__doc__ or name).strip().rstrip(".")


def make_plots(documents: Documents) -> Iterator[tuple[str, str | None]]:
    """Yield each plot's name and its SVG text; None if nothing was measured for it."""
    for name, plot in PLOTS.items():
        yield name, plot(documents)
