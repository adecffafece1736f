"""What a file of raw results says in figures: one value a round, for each workload and variant.

Tables, plots and comparisons are made from these, and from nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
"""What a suite writes: `machine`, `peers`, `missing`, `rounds`, `results`."""
Record = dict[str, Any]
"""One of `results`: `workload`, `summary`, `samples` (variant -> a sample a round), `failures`."""
Sample = dict[str, Any]

BASELINES = ("uvloop", "asyncio")
"""Where a workload has several variants they are compared with the first whose name begins so."""


@dataclass(frozen=True)
class Spread:
    """The median of some values, their quartiles, and their range."""

    median: float
    lower: float
    upper: float
    least: float
    most: float
    count: int


def spread_of(values: Sequence[float]) -> Spread:
    """Raises `ValueError` if there are none."""
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper, min(values), max(values), len(values))


def format_number(value: float) -> str:
    """Three digits that count, with thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def format_spread(spread: Spread) -> str:
    """The median and, in brackets, the quartiles."""
    median = format_number(spread.median)
    if spread.least == spread.most:
        return median
    return f"{median} ({format_number(spread.lower)}-{format_number(spread.upper)})"


@dataclass(frozen=True)
class Metric:
    """One kind of figure: how it follows from a sample."""

    name: str
    unit: str
    needs: tuple[str, ...]
    """What a sample has to have."""
    of: Callable[[Sample], float]

    def values(self, samples: Sequence[Sample]) -> list[float]:
        """One value a round; empty if a sample does not tell."""
        if not all(sample.get(key) is not None for sample in samples for key in self.needs):
            return []
        try:
            return [float(self.of(sample)) for sample in samples]
        except ZeroDivisionError:
            return []


CPU = Metric(
    "CPU per request",
    "us",
    ("server_cpu_ns", "requests"),
    lambda sample: sample["server_cpu_ns"] / sample["requests"] / 1e3,
)
RATE = Metric(
    "throughput",
    "requests/s",
    ("requests", "seconds"),
    lambda sample: sample["requests"] / sample["seconds"],
)
CORES = Metric(
    "cores in use",
    "cores",
    ("server_cpu_ns", "seconds"),
    lambda sample: sample["server_cpu_ns"] / 1e9 / sample["seconds"],
)
P50 = Metric("median latency", "us", ("p50_us",), lambda sample: sample["p50_us"])
P99 = Metric("p99 latency", "us", ("p99_us",), lambda sample: sample["p99_us"])
P999 = Metric("p99.9 latency", "us", ("p999_us",), lambda sample: sample["p999_us"])
MEMORY = Metric(
    "memory per connection",
    "bytes",
    ("bytes_per_connection",),
    lambda sample: sample["bytes_per_connection"],
)
BYTES = Metric(
    "bytes per second",
    "bytes/s",
    ("bytes", "seconds"),
    lambda sample: sample.get("bytes_per_second", sample["bytes"] / sample["seconds"]),
)
CPU_OF_BYTES = Metric(
    "CPU per MiB",
    "us",
    ("server_cpu_ns", "bytes"),
    lambda sample: sample["server_cpu_ns"] / 1e3 / (sample["bytes"] / 2**20),
)
MEMORY_REST = Metric(
    "memory at rest", "MiB", ("memory_rest",), lambda sample: sample["memory_rest"] / 2**20
)
MEMORY_LOAD = Metric(
    "memory under load", "MiB", ("memory_load",), lambda sample: sample["memory_load"] / 2**20
)
MEMORY_SHARE = Metric(
    "memory of all processes",
    "MB",
    ("proportional_bytes",),
    lambda sample: sample["proportional_bytes"] / 1e6,
)
SPAWNED = Metric(
    "coroutines per second",
    "1/s",
    ("coroutines", "wall_ns"),
    lambda sample: sample["coroutines"] / sample["wall_ns"] * 1e9,
)
CPU_OF_SPAWNED = Metric(
    "CPU per coroutine",
    "ns",
    ("coroutines", "cpu_ns"),
    lambda sample: sample["cpu_ns"] / sample["coroutines"],
)
SYSTEM_CALLS = Metric(
    "system calls per request",
    "1",
    ("calls", "requests"),
    lambda sample: sum(sample["calls"].values()) / sample["requests"],
)
METRICS = (
    *(CPU, RATE, P50, P99, BYTES, CPU_OF_BYTES, SYSTEM_CALLS, SPAWNED, CPU_OF_SPAWNED),
    *(MEMORY, MEMORY_REST, MEMORY_LOAD, MEMORY_SHARE),
)
"""Those that are looked for in every sample of a server."""


def time_metric(record: Record) -> Metric:
    """The time of one operation of a micro benchmark, by the clock that the record names."""
    clock = f"{record.get('clock', 'wall')}_ns"
    return Metric(
        "time per operation",
        "ns",
        ("operations", clock),
        lambda sample: sample[clock] / sample["operations"],
    )


def metrics_of(record: Record) -> tuple[Metric, ...]:
    """What can be looked for in the samples of a record."""
    return (time_metric(record), *METRICS) if "clock" in record else METRICS


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value by the one of the same round; empty if a round is missing or a base is 0."""
    if len(own) != len(base) or not all(base):
        return []
    return [a / b for a, b in zip(own, base, strict=True)]


def baseline_of(record: Record) -> str | None:
    """The variant that the others are compared with; None if there are no two.

    It is the one that the record names, or one of the peers in `BASELINES`, or the first.
    """
    variants: list[str] = [name for name, samples in record["samples"].items() if samples]
    if len(variants) < 2:
        return None
    if record.get("baseline") in variants:
        return str(record["baseline"])
    for peer in BASELINES:
        for name in variants:
            if name.partition(",")[0] == peer:
                return name
    return variants[0]


@dataclass(frozen=True)
class Series:
    """One figure of one variant of a workload, in each round."""

    workload: str
    variant: str
    metric: str
    unit: str
    values: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What the same figure of another run has too."""
        return self.workload, self.variant, self.metric


def absolute_series(document: Document) -> Iterator[Series]:
    """Yield every figure of a document, as it was measured."""
    for record in document["results"]:
        for variant, samples in record["samples"].items():
            for metric in metrics_of(record) if samples else ():
                if values := metric.values(samples):
                    yield Series(
                        record["workload"], variant, metric.name, metric.unit, tuple(values)
                    )


def relative_series(document: Document) -> Iterator[Series]:
    """Yield every figure of a document as the ratio to the baseline's in the same round.

    Where nothing else was measured beside it, a figure is given as it is.
    """
    absolute = list(absolute_series(document))
    by_key = {each.key: each for each in absolute}
    baselines = {record["workload"]: baseline_of(record) for record in document["results"]}
    for each in absolute:
        name = baselines[each.workload]
        if name is None:
            yield each
        elif each.variant != name:
            base = by_key.get((each.workload, name, each.metric))
            values = ratios(each.values, base.values) if base else []
            if values:
                yield Series(each.workload, each.variant, each.metric, f"x {name}", tuple(values))
            else:
                yield each


def peers_of(document: Document) -> dict[str, dict[str, Any]]:
    """Peer -> `version` and `gil_enabled`. Results of `micro.py` may call peers `loops`."""
    peers: dict[str, dict[str, Any]] = document["peers" if "peers" in document else "loops"]
    return peers


def describe_run(document: Document, how: str, unsaid: Collection[str] = ()) -> Iterator[str]:
    """Yield what stands above the tables of a run: the machine, the versions, how it was measured.

    Then who was left out. `unsaid`: peers that have Python's own version.
    """
    machine = document["machine"]
    versions = ", ".join(
        f"{name} {peer['version']}"
        for name, peer in peers_of(document).items()
        if name not in unsaid
    )
    yield f"{machine['python']}, {machine['system']}, {machine['processor']}; {versions}; {how}"
    for name, reason in document["missing"].items():
        yield f"Left out: {name}: {reason}"


def describe_gil(document: Document) -> Iterator[str]:
    """Yield which peers switch the GIL on, if any does."""
    with_gil = [name for name, peer in peers_of(document).items() if peer.get("gil_enabled")]
    if with_gil:
        yield f"With the GIL on: {', '.join(with_gil)}."
