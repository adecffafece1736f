"""The speed that the design asks for, beside what was measured.

Each is a ratio within one round, or a time.
A goal is one line of `GOALS`. `format_goals` makes the table of `docs/benchmarks.md` from the
results alone, so that no figure of it was written by hand.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from figures import (
    BYTES,
    CPU,
    CPU_OF_BYTES,
    CPU_OF_SPAWNED,
    MEMORY,
    P99,
    RATE,
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


_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Goal:
    """A ratio of two variants of a workload, or a time, and how high (or how low) it may be."""

    work: str
    place: str
    """`suite/workload`."""
    choose: Choose
    """The figure, of a record."""
    bound: float
    against: str
    """The variant that is the measure; empty: the bound is the figure itself."""
    own: str = OWN
    relation: str = "<="
    """Of the figure to the bound: one of `_RELATIONS`."""
    unit: str = ""
    """Of a bound that is the figure itself."""

    @property
    def to_reach(self) -> str:
        """The bound in words."""
        if not self.against:
            return f"{self.relation} {self.bound:g} {self.unit}"
        return f"{self.relation} {self.bound:.2f} x {self.against}"

    def holds(self, measured: float) -> bool:
        """Whether a figure is within the bound, at the precision of two digits that is shown."""
        return _RELATIONS[self.relation](round(measured, 2), self.bound)


def _time(record: Record) -> Metric:
    return time_metric(record)


def _always(metric: Metric) -> Choose:
    return lambda _: metric


_cpu = _always(CPU)

_LOOPS = ("uvloop", "zuvloop", "rloop")


def _than_each(
    work: str,
    place: str,
    choose: Choose,
    bound: float,
    peers: Sequence[str],
    *,
    own: str = OWN,
    relation: str = "<=",
) -> Iterator[Goal]:
    """Goals against several peers: the best of them is the measure."""
    for count, peer in enumerate(peers):
        yield Goal("" if count else work, place, choose, bound, peer, own=own, relation=relation)


_NATIVE, _NATIVE_ON_2 = "loop_pool, 1 loop, native", "loop_pool, 2 loops, native"
_GRANIAN = "granian, 1 thread"
_HTTP_SERVERS = (
    *("peregrine, 1 thread", _GRANIAN, "weft, 1 thread", "h2corn, 1 thread"),
    *("uvicorn, 1 process", "uvicorn with zttp, 1 process"),
)
_P99_MS = Metric("p99 latency", "ms", ("p99_us",), lambda sample: sample["p99_us"] / 1e3)


def _native_http() -> Iterator[Goal]:
    """Goals of `loop-pool serve --http native`."""
    hello = "`--http native`, 13 bytes: CPU per request"
    yield Goal(hello, "applications/plaintext", _cpu, 0.75, "peregrine, 1 thread", own=_NATIVE)
    yield Goal("", "applications/plaintext", _cpu, 0.40, _GRANIAN, own=_NATIVE)
    yield Goal(
        "the same at 500 requests a second, 1 -> 2 loops",
        "applications/plaintext-rate",
        _cpu,
        1.10,
        _NATIVE,
        own=_NATIVE_ON_2,
    )
    for workload, what in (
        ("get-10k", "GET of 10 KiB"),
        ("post-10k", "POST of 10 KiB that come back"),
        ("json-fastapi", "FastAPI"),
        ("websocket", "WebSocket messages"),
    ):
        work = f"`--http native`, {what}: CPU per request"
        place = f"applications/{workload}"
        yield from _than_each(work, place, _cpu, 1.0, _HTTP_SERVERS, own=_NATIVE, relation="<")
    for workload, what, bound in (
        ("https", "HTTPS on kept connections: CPU per request", 0.50),
        ("https-new", "HTTPS: CPU per new connection", 1.00),
    ):
        work = f"`--http native`, {what}"
        yield Goal(work, f"applications/{workload}", _cpu, bound, _GRANIAN, own=_NATIVE)
    for workload, what in (
        ("stuck-requests", "one of 2 loops stuck 50 ms in every 100: p99 of its connections"),
        ("readiness", "all loops stuck 50 ms in every 100: p99 of the readiness path"),
    ):
        work = f"`--http native`, {what}"
        place = f"applications/{workload}"
        yield Goal(work, place, _always(_P99_MS), 5, "", own=_NATIVE_ON_2, unit="ms")
    yield Goal(
        "`--http native`: memory of an idle connection",
        "applications/idle-connections",
        _always(MEMORY),
        0.50,
        "uvicorn, 1 process",
        own=_NATIVE,
    )


GOALS: tuple[Goal, ...] = (
    Goal("task switch, `sleep(0)`, 100 tasks", "micro/switch", _time, 0.60, "uvloop"),
    Goal("`create_task` + await", "micro/create_await", _time, 0.40, "uvloop"),
    Goal("", "micro/create_await", _time, 1.00, "zuvloop"),
    Goal("`call_soon`", "micro/call_soon_chain", _time, 0.20, "uvloop"),
    Goal("", "micro/call_soon_chain", _time, 0.70, "zuvloop"),
    Goal("`call_soon_threadsafe`, 1 thread", "micro/threadsafe_1", _time, 0.50, "uvloop"),
    Goal("the same, 4 threads", "micro/threadsafe_4", _time, 0.50, "uvloop"),
    Goal("a descriptor's callback", "micro/reader_event", _time, 1.00, "rloop"),
    Goal("a queue's put and get", "micro/queue", _time, 1.50, "tonio"),
    Goal("`gather`", "micro/gather", _time, 1.50, "tonio"),
    Goal("`run_in_executor`", "micro/executor", _time, 1.50, "tonio"),
    Goal("spawn and await", "pool/spawn", _always(CPU_OF_SPAWNED), 1.50, "tonio"),
    Goal("the same with some work", "pool/spawn-work", _always(CPU_OF_SPAWNED), 1.50, "tonio"),
    Goal("echo, Protocol: CPU per request", "sockets/echo-protocol", _cpu, 1.04, "bare"),
    Goal("", "sockets/echo-protocol", _cpu, 1.00, "zuvloop"),
    *_than_each("echo of 1 MiB: CPU per request", "sockets/echo-1m", _cpu, 0.95, _LOOPS),
    *_than_each(
        "bulk sending: CPU per MiB", "sockets/bulk-send", _always(CPU_OF_BYTES), 0.95, _LOOPS
    ),
    Goal("echo by `loop.sock_*`: CPU per request", "sockets/echo-sock", _cpu, 1.00, "rloop"),
    Goal("echo, asyncio streams: CPU per request", "sockets/echo-streams", _cpu, 0.78, "uvloop"),
    Goal(
        "echo, streams of `loop_pool.start_server`: CPU per request",
        "sockets/echo-streams",
        _cpu,
        0.62,
        "uvloop",
        own="loop_pool, own",
    ),
    Goal(
        "echo under TLS, `loop_pool.tls`: CPU per request",
        "sockets/echo-tls",
        _cpu,
        0.50,
        "uvloop",
        own="loop_pool, rustls",
    ),
    Goal(
        "TLS handshakes, `loop_pool.tls`: CPU per connection",
        "sockets/handshakes",
        _cpu,
        0.50,
        "uvloop",
        own="loop_pool, rustls",
    ),
    Goal(
        "the same, resumed by a ticket",
        "sockets/handshakes-resumed",
        _cpu,
        0.40,
        "uvloop",
        own="loop_pool, rustls",
    ),
    *(
        Goal(
            f"{what} in bulk under TLS, `loop_pool.tls`: CPU per MiB",
            f"sockets/{workload}",
            _always(CPU_OF_BYTES),
            0.60,
            "uvloop",
            own="loop_pool, rustls",
        )
        for what, workload in (
            ("sending", "bulk-send-tls"),
            ("receiving", "bulk-receive-tls"),
        )
    ),
    Goal(
        "memory of an idle connection under TLS, `loop_pool.tls`, slope from 1,000 to 4,000",
        "sockets/idle-memory-tls",
        _always(MEMORY),
        0.40,
        "uvloop",
        own="loop_pool, rustls",
    ),
    *(
        Goal(
            f"`loop-pool serve` over HTTPS: CPU per {what}",
            f"applications/{workload}",
            _cpu,
            1.00,
            _GRANIAN,
            own="loop_pool, 1 loop",
        )
        for what, workload in (("request", "https"), ("new connection", "https-new"))
    ),
    *_native_http(),
    Goal(
        "memory of an idle connection, Protocol, slope from 4,000 to 16,000",
        "sockets/idle-memory",
        _always(MEMORY),
        0.35,
        "uvloop",
    ),
    Goal(
        "the same, streams of `loop_pool.start_server`",
        "sockets/idle-memory",
        _always(MEMORY),
        0.40,
        "uvloop, streams",
        own="loop_pool, own streams",
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
    *(
        goal
        for loops in (1, 2)
        for goal in _than_each(
            f"the same, {loops} loop(s) and as many threads of a peer",
            "pool/pool-work",
            _cpu,
            1.00,
            [f"uvloop, {loops}", f"zuvloop, {loops}"],
            own=f"loop_pool, {loops}",
        )
    ),
    *_than_each(
        "at a fixed rate, 2 loops: CPU per request",
        "pool/pool-rate",
        _cpu,
        1.00,
        ["uvloop, 2", "zuvloop, 2"],
        own="loop_pool, 2",
    ),
    *(
        goal
        for workload, what in (("stuck", "an open connection"), ("stuck-fresh", "a new connection"))
        for goal in (
            Goal(
                f"one loop stuck 50 ms in every 100: p99 of {what} beside it",
                f"pool/{workload}",
                _always(P99),
                0.10 if workload == "stuck-fresh" else 0.03,
                "uvloop, 2 threads",
                own="loop_pool, 2 loops",
            ),
            Goal(
                "its CPU per request",
                f"pool/{workload}",
                _cpu,
                1.15,
                "uvloop, 2 threads",
                own="loop_pool, 2 loops",
            ),
        )
    ),
    Goal(
        "bytes that leave the transports of a stuck loop",
        "pool/stuck-bytes",
        _always(BYTES),
        0.80,
        "loop_pool, not stuck",
        own="loop_pool, stuck",
        relation=">=",
    ),
    Goal(
        "`steal=True` on balanced load: CPU per request",
        "pool/steal",
        _cpu,
        1.02,
        "loop_pool, steal=False",
        own="loop_pool, steal=True",
    ),
    Goal(
        "TLS handshakes a second of a program on one loop, with the thread of a second one",
        "pool/handshakes-helped",
        _always(RATE),
        1.50,
        "loop_pool, 1",
        own="loop_pool, 2",
        relation=">=",
    ),
)


def find_record(documents: dict[str, Document], place: str) -> Record | None:
    """The record of `suite/workload`; None if it was not measured."""
    suite, _, workload = place.partition("/")
    results: Sequence[Record] = documents.get(suite, {}).get("results", ())
    return next((each for each in results if each["workload"] == workload), None)


def measure(goal: Goal, documents: dict[str, Document]) -> list[float]:
    """The figure of each round, or the ratio; empty if one side was not measured."""
    record = find_record(documents, goal.place)
    if record is None:
        return []
    metric = goal.choose(record)
    samples: dict[str, list[dict[str, Any]]] = record["samples"]
    if not goal.against:
        return metric.values(samples.get(goal.own, []))
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
            told = f"{format_spread(spread)}{goal.unit and ' '}{goal.unit} | {verdict}"
        else:
            told = "- | not measured"
        place = f" (`{goal.place}`)" if goal.work else ""
        yield f"| {goal.work}{place} | {goal.to_reach} | {told} |"
