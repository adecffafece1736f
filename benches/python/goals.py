"""The speed that the design asks for, beside what was measured: each a ratio within one round.

A goal is one line of `GOALS`. `format_goals` makes the table of `docs/benchmarks.md` from the
results alone, so that no figure of it was written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from figures import (
    BYTES,
    CPU,
    MEMORY,
    P99,
    Document,
    Metric,
    Record,
    format_spread,
    ratios,
    spread_of,
    time_metric,
)

OWN = "loop_pool"

Choose = Callable[[Record], Metric]


@dataclass(frozen=True)
class Goal:
    """A ratio of two variants of a workload, and how high (or how low) it may be."""

    work: str
    place: str
    """`suite/workload`."""
    choose: Choose
    """The figure, of a record."""
    bound: float
    against: str
    """The variant that is the measure."""
    own: str = OWN
    at_least: bool = False

    @property
    def to_reach(self) -> str:
        """The bound in words."""
        return f"{'>=' if self.at_least else '<='} {self.bound:.2f} x {self.against}"

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within the bound, at the precision of two digits that is shown."""
        shown = round(ratio, 2)
        return shown >= self.bound if self.at_least else shown <= self.bound


def _time(record: Record) -> Metric:
    return time_metric(record)


def _always(metric: Metric) -> Choose:
    return lambda _: metric


_cpu = _always(CPU)

GOALS: tuple[Goal, ...] = (
    Goal("task switch, `sleep(0)`, 100 tasks", "micro/switch", _time, 0.65, "uvloop"),
    Goal("", "micro/switch", _time, 0.80, "zuvloop"),
    Goal("`create_task` + await", "micro/create_await", _time, 0.80, "uvloop"),
    Goal("", "micro/create_await", _time, 1.00, "zuvloop"),
    Goal("`call_soon`", "micro/call_soon_chain", _time, 0.22, "uvloop"),
    Goal("", "micro/call_soon_chain", _time, 0.80, "zuvloop"),
    Goal("`call_soon_threadsafe`, 1 thread", "micro/threadsafe_1", _time, 0.67, "uvloop"),
    Goal("the same, 4 threads", "micro/threadsafe_4", _time, 0.67, "uvloop"),
    Goal("echo, Protocol: CPU per request", "sockets/echo-protocol", _cpu, 1.06, "bare"),
    Goal("echo, asyncio streams: CPU per request", "sockets/echo-streams", _cpu, 0.88, "uvloop"),
    Goal(
        "echo, streams of `loop_pool.start_server`: CPU per request",
        "sockets/echo-streams",
        _cpu,
        0.70,
        "uvloop",
        own="loop_pool, own",
    ),
    Goal("echo under TLS: CPU per request", "sockets/echo-tls", _cpu, 0.50, "uvloop"),
    Goal("TLS handshakes: CPU per connection", "sockets/handshakes", _cpu, 0.50, "uvloop"),
    Goal(
        "memory of an idle connection, slope from 4,000 to 16,000",
        "sockets/idle-memory",
        _always(MEMORY),
        0.50,
        "uvloop",
    ),
    Goal(
        "1 -> 2 loops: CPU per request",
        "pool/pool-scaling",
        _cpu,
        1.03,
        "loop_pool, 1",
        own="loop_pool, 2",
    ),
    Goal(
        "the same with some 0.1 ms of Python for each",
        "pool/pool-work",
        _cpu,
        1.03,
        "loop_pool, 1",
        own="loop_pool, 2",
    ),
    Goal(
        "one loop stuck 50 ms in every 100: p99 of an open connection beside it",
        "pool/stuck",
        _always(P99),
        0.10,
        "uvloop, 2 threads",
        own="loop_pool, 2 loops",
    ),
    Goal(
        "the same: p99 of a new connection",
        "pool/stuck-fresh",
        _always(P99),
        0.10,
        "uvloop, 2 threads",
        own="loop_pool, 2 loops",
    ),
    Goal(
        "bytes that leave the transports of a stuck loop",
        "pool/stuck-bytes",
        _always(BYTES),
        0.80,
        "loop_pool, not stuck",
        own="loop_pool, stuck",
        at_least=True,
    ),
    Goal(
        "`steal=True` on balanced load: CPU per request",
        "pool/steal",
        _cpu,
        1.02,
        "loop_pool, steal=False",
        own="loop_pool, steal=True",
    ),
)


def find_record(documents: dict[str, Document], place: str) -> Record | None:
    """The record of `suite/workload`; None if it was not measured."""
    suite, _, workload = place.partition("/")
    results: Sequence[Record] = documents.get(suite, {}).get("results", ())
    return next((each for each in results if each["workload"] == workload), None)


def measure(goal: Goal, documents: dict[str, Document]) -> list[float]:
    """The ratio of each round; empty if one side was not measured."""
    record = find_record(documents, goal.place)
    if record is None:
        return []
    metric = goal.choose(record)
    samples: dict[str, list[dict[str, Any]]] = record["samples"]
    own, against = (metric.values(samples.get(name, [])) for name in (goal.own, goal.against))
    return ratios(own, against) if own else []


def format_goals(documents: dict[str, Document]) -> Iterator[str]:
    """Yield the table of goals as Markdown, line by line."""
    yield "| work | to reach | measured (quartiles) | |"
    yield "|---|---|---:|---|"
    for goal in GOALS:
        measured = measure(goal, documents)
        if measured:
            spread = spread_of(measured)
            verdict = "met" if goal.holds(spread.median) else "**missed**"
            told = f"{format_spread(spread)} | {verdict}"
        else:
            told = "- | not measured"
        place = f" (`{goal.place}`)" if goal.work else ""
        yield f"| {goal.work}{place} | {goal.to_reach} | {told} |"
