"""Every figure in which a peer did better than loop_pool, from the results alone.

A variant of loop_pool is compared with those variants of a peer that have as many loops. A peer
did better where three quarters of the ratios within the rounds are more than `TOLERANCE` on its
side. Servers without Python (`LIMITS`) are the limit, no peers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compare import TOLERANCE
from figures import (
    CPU,
    CPU_OF_BYTES,
    CPU_OF_SPAWNED,
    MEMORY,
    MEMORY_LOAD,
    MEMORY_SHARE,
    P99,
    Document,
    Metric,
    Record,
    format_spread,
    ratios,
    spread_of,
    time_metric,
)
from plots import split_count

OWN = "loop_pool"
LIMITS = {"bare", "tokio"}
LATENCIES = {
    *("pool-rate", "stuck", "stuck-fresh", "skew", "latency", "mixed"),
    *("plaintext-rate", "stuck-requests", "readiness", "readiness-new"),
}
"""Workloads at a fixed rate, where latency is what counts."""
COSTS: tuple[Metric, ...] = (
    *(CPU, CPU_OF_BYTES, CPU_OF_SPAWNED),
    *(MEMORY, MEMORY_LOAD, MEMORY_SHARE),
)


def costs_of(record: Record) -> tuple[Metric, ...]:
    """What is looked at in a record: the less, the better."""
    if "clock" in record:
        return (time_metric(record),)
    return (*COSTS, P99) if record["workload"] in LATENCIES else COSTS


def _peer_of(variant: str) -> str:
    return variant.partition(",")[0]


def _is_peer(variant: str) -> bool:
    return _peer_of(variant) not in LIMITS | {OWN}


def losses_of(record: Record) -> Iterator[tuple[str, str, Metric, list[float]]]:
    """Yield the variant of loop_pool, the peer's, the figure, and the ratios of the rounds."""
    samples: dict[str, Sequence[dict[str, object]]] = record["samples"]
    for own in filter(lambda name: _peer_of(name) == OWN, samples):
        for peer in filter(_is_peer, samples):
            if split_count(own)[1] != split_count(peer)[1]:
                continue
            for metric in costs_of(record):
                compared = ratios(metric.values(samples[own]), metric.values(samples[peer]))
                if compared and spread_of(compared).lower > 1 + TOLERANCE:
                    yield own, peer, metric, compared


def format_losses(documents: dict[str, Document]) -> Iterator[str]:
    """Yield the table of lost figures as Markdown, line by line."""
    yield "| workload | figure | loop_pool | x peer (quartiles) |"
    yield "|---|---|---|---|"
    for suite, document in documents.items():
        for record in document["results"]:
            found: dict[tuple[str, str], list[str]] = {}
            for own, peer, metric, compared in losses_of(record):
                told = f"{format_spread(spread_of(compared))} x {peer}"
                found.setdefault((metric.name, own), []).append(told)
            for (name, own), told_of in found.items():
                place = f"`{suite}/{record['workload']}`"
                yield f"| {place} | {name} | {own} | {'; '.join(told_of)} |"
