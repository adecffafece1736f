"""The workloads of `applications.py`: what is compared, with which servers, and what is told of it.

A new one is an entry of `WORKLOADS`; what is done with a server is in `application_load.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from application_load import (
    CONNECTIONS,
    DATABASE_CONNECTIONS,
    HEAVY_RATE,
    IDLE_CONNECTIONS,
    MESSAGE_BYTES,
    POST_BYTES,
    PROBE_RATE,
    RATE,
    Take,
    common,
    take_closed,
    take_fresh,
    take_fresh_probes,
    take_idle,
    take_memory,
    take_messages,
    take_mixed,
    take_paced,
    take_posted,
    take_probes,
    take_stuck,
)
from measuring import Figure, Sample


@dataclass(frozen=True)
class Workload:
    """What is compared, and the columns of its table."""

    summary: str
    app: str
    path: str
    take: Take
    figures: tuple[Figure, ...]
    variants: tuple[str, ...]
    """By the names that `make_variants` gives them."""
    rounds: int | None = None
    """If it needs no more than these."""
    uses_database: bool = False
    uses_tls: bool = False
    is_stuck: bool = False
    """Whether all loops of the application are stuck half of the time."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """More options of a peer's servers."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a peer has no variant."""


def _value(key: str, unit: float = 1) -> Callable[[Sample], float]:
    return lambda sample: sample[key] / unit


def _per_second(sample: Sample) -> float:
    return float(sample["requests"] / sample["seconds"])


def _cpu_us(sample: Sample) -> float:
    return float(sample["server_cpu_ns"] / sample["requests"] / 1e3)


def _cores(sample: Sample) -> float:
    return float(sample["server_cpu_ns"] / 1e9 / sample["seconds"])


BASELINE = "uvicorn, 1 process"
_MIB = 1024 * 1024
_THROUGHPUT = (
    Figure("requests/s", _per_second),
    Figure(f"x {BASELINE}", _per_second, BASELINE),
    Figure("CPU us/request", _cpu_us),
    Figure(f"x {BASELINE}", _cpu_us, BASELINE),
    Figure("cores in use", _cores),
    Figure("p99 us", _value("p99_us")),
)
_LATENCY = (
    Figure("p50 us", _value("p50_us")),
    Figure("p99 us", _value("p99_us")),
    Figure("p99.9 us", _value("p999_us")),
    Figure(f"p99 x {BASELINE}", _value("p99_us"), BASELINE),
    Figure("CPU us/request", _cpu_us),
)
_LIGHT_LATENCY = (
    *_LATENCY[:4],
    Figure("p99 ms of heavy ones", lambda s: s["heavy"]["p99_us"] / 1e3),
)
_MEMORY = (
    Figure("MiB at rest", _value("memory_rest", _MIB)),
    Figure(f"x {BASELINE}", _value("memory_rest"), BASELINE),
    Figure("MiB under load", _value("memory_load", _MIB)),
    Figure(f"x {BASELINE}", _value("memory_load"), BASELINE),
    Figure("processes", _value("server_processes")),
)
_IDLE = (
    Figure("bytes/connection", _value("bytes_per_connection")),
    Figure(f"x {BASELINE}", _value("bytes_per_connection"), BASELINE),
    Figure("connections", _value("connections")),
)
_POOL = ("pool-1", "pool-n", "native-1", "native-n")
_IN_THREADS = ("weft-1", "weft-n", "peregrine-1", "peregrine-n", "h2corn-1", "h2corn-n")
_WITH_ZTTP = ("pool-zttp", "uvicorn-zttp")
_OTHERS = (
    *("uvicorn-1", "uvicorn-n", "granian-1", "granian-n", "hypercorn-1", "hypercorn-n"),
    *_IN_THREADS,
)
_ONE = (*_POOL, "uvicorn-1", "granian-1", "weft-1", "peregrine-1", "h2corn-1")
_MANY = (
    *("pool-n", "native-n", "uvicorn-1", "uvicorn-n", "granian-n", "hypercorn-n"),
    *("weft-n", "peregrine-n", "h2corn-n"),
)
_WITH_TLS = (*_ONE, "uvicorn-n", "uvicorn-zttp", "granian-n", "hypercorn-1")
LOOK = (
    *(*_POOL, "uvicorn-1", "uvicorn-n", "granian-1", "granian-n", "hypercorn-n"),
    *("weft-n", "peregrine-1", "peregrine-n", "h2corn-n", *_WITH_ZTTP),
)
"""The variants that are measured where a look is all that is asked for."""

_NO_PARSER = {"zttp": "is measured with requests one after the other, see json"}
_NO_TIME = {"hypercorn": "takes several times as much for a request, see json"}
_KEEP = ("--timeout-keep-alive", "600")
_PLENTY = str(2 * IDLE_CONNECTIONS)
_IDLE_OPTIONS = {
    "loop_pool": _KEEP,
    "uvicorn": _KEEP,
    "granian": ("--http1-header-read-timeout", "60000", "--backpressure", _PLENTY),
    "hypercorn": ("--keep-alive", "600"),
    "weft": ("--keep-alive", "600", "--max-connections", _PLENTY),
    "peregrine": ("--keep-alive", "600000", "--max-connections", _PLENTY),
    "h2corn": _KEEP,
}
"""So that no server closes a connection that is measured, nor refuses one."""
_READY_OPTIONS = {
    "loop_pool": ("--readiness-path", "/ready"),
    "weft": ("--health-check-path", "/ready"),
    "peregrine": ("--health-check-path", "/ready"),
}
"""The servers that have such a path; of the others the application answers."""

WORKLOADS = {
    "json": Workload(
        f"ASGI without a framework, a small JSON object, {CONNECTIONS} connections",
        "bench_raw",
        "/json",
        take_closed,
        _THROUGHPUT,
        (*_POOL, "uvicorn-pool", *_OTHERS, *_WITH_ZTTP, "granian-runtime"),
    ),
    "plaintext": Workload(
        f"ASGI without a framework, 13 bytes of text, {CONNECTIONS} connections",
        "bench_raw",
        "/plain",
        take_closed,
        _THROUGHPUT,
        (*_POOL, "uvicorn-1", "uvicorn-n", "granian-1", "granian-n", *_IN_THREADS, *_WITH_ZTTP),
        absent=_NO_TIME,
    ),
    "plaintext-rate": Workload(
        f"likewise, {RATE} requests a second: a light load, beside which a server waits",
        "bench_raw",
        "/plain",
        take_paced,
        _LATENCY,
        (
            *(*_POOL, "uvicorn-1", "uvicorn-n", "granian-1", "granian-n"),
            *("peregrine-1", "peregrine-n"),
        ),
        absent={
            **dict.fromkeys(("hypercorn", "weft", "h2corn"), "is measured at this rate in latency"),
            **_NO_PARSER,
        },
    ),
    "get-10k": Workload(
        f"ASGI without a framework, 10 KiB of text, {CONNECTIONS} connections",
        "bench_raw",
        "/large",
        take_closed,
        _THROUGHPUT,
        (*_ONE, *_WITH_ZTTP),
        absent=_NO_TIME,
    ),
    "post-10k": Workload(
        f"ASGI without a framework, POST of {POST_BYTES // 1024} KiB that come back, "
        f"{CONNECTIONS} connections",
        "bench_raw",
        "/echo",
        take_posted,
        _THROUGHPUT,
        (*_ONE, *_WITH_ZTTP),
        absent=_NO_TIME,
    ),
    "https": Workload(
        f"as json, over TLS 1.3 (ECDSA, P-256), {CONNECTIONS} connections that are kept",
        "bench_raw",
        "/json",
        take_closed,
        _THROUGHPUT,
        _WITH_TLS,
        uses_tls=True,
    ),
    "https-new": Workload(
        "likewise, with a connection for each request and a full handshake on it, "
        f"{CONNECTIONS} at any time",
        "bench_raw",
        "/json",
        take_fresh,
        _THROUGHPUT,
        _WITH_TLS,
        uses_tls=True,
    ),
    "json-fastapi": Workload(
        f"FastAPI, a small JSON object, {CONNECTIONS} connections",
        "bench_fastapi",
        "/json",
        take_closed,
        _THROUGHPUT,
        (*_POOL, "pool-factory", *_OTHERS, "uvicorn-zttp"),
    ),
    "latency": Workload(
        f"FastAPI, a small JSON object, {RATE} requests a second on {CONNECTIONS} connections: "
        "latency from the time at which a request should have begun",
        "bench_fastapi",
        "/json",
        take_paced,
        _LATENCY,
        (*_POOL, *_OTHERS),
        absent=_NO_PARSER,
    ),
    "database": Workload(
        f"FastAPI, a row of PostgreSQL by its key with asyncpg, {DATABASE_CONNECTIONS} "
        f"connections to it in all, {CONNECTIONS} connections",
        "bench_fastapi",
        "/db",
        take_closed,
        _THROUGHPUT,
        (*_POOL, "pool-factory", *_MANY[2:]),
        uses_database=True,
        absent=_NO_PARSER,
    ),
    "mixed": Workload(
        f"ASGI without a framework: {RATE} light requests a second on {CONNECTIONS} connections, "
        f"while {HEAVY_RATE} a second come that take {common.HEAVY_SECONDS * 1e3:.0f} ms of "
        "processor time: latency of the light ones",
        "bench_raw",
        "/json",
        take_mixed,
        _LIGHT_LATENCY,
        _MANY,
        absent=_NO_PARSER,
    ),
    "stuck-requests": Workload(
        f"ASGI without a framework: {RATE} requests a second on {CONNECTIONS} connections of one "
        f"loop, which is stuck {common.STUCK_SECONDS * 1e3:.0f} ms in every "
        f"{common.STUCK_PERIOD * 1e3:.0f}, beside others that are not: latency from the time at "
        "which a request should have begun",
        "bench_raw",
        "/plain",
        take_stuck,
        _LATENCY,
        _MANY[:-1],
        absent={**_NO_PARSER, "h2corn": "any loop answers a request, whatever its connection"},
    ),
    "readiness": Workload(
        f"ASGI without a framework, all loops stuck {common.STUCK_SECONDS * 1e3:.0f} ms in every "
        f"{common.STUCK_PERIOD * 1e3:.0f}, at the same time: latency of {PROBE_RATE} requests a "
        "second that ask whether the server is ready, on open connections",
        "bench_raw",
        "/ready",
        take_probes,
        _LATENCY,
        _MANY,
        is_stuck=True,
        options=_READY_OPTIONS,
        absent=_NO_PARSER,
    ),
    "readiness-new": Workload(
        "likewise, each with a connection of its own",
        "bench_raw",
        "/ready",
        take_fresh_probes,
        _LATENCY,
        _MANY,
        is_stuck=True,
        options=_READY_OPTIONS,
        absent=_NO_PARSER,
    ),
    "websocket": Workload(
        f"ASGI without a framework, a WebSocket that sends back {MESSAGE_BYTES} bytes, "
        f"{CONNECTIONS} connections",
        "bench_raw",
        "/ws",
        take_messages,
        _THROUGHPUT,
        (*_POOL, *_OTHERS, "uvicorn-zttp"),
    ),
    "memory": Workload(
        "FastAPI: memory that all processes of a server have allocated, without the files that "
        f"they map; at rest, and with requests on {CONNECTIONS} connections",
        "bench_fastapi",
        "/json",
        take_memory,
        _MEMORY,
        (*_POOL, *_OTHERS),
        rounds=1,
        absent=_NO_PARSER,
    ),
    "idle-connections": Workload(
        f"ASGI without a framework: memory of an idle connection that has had a response, of "
        f"{IDLE_CONNECTIONS:,} (or of as many as RLIMIT_NOFILE permits)",
        "bench_raw",
        "/plain",
        take_idle,
        _IDLE,
        (*_ONE, "hypercorn-1"),
        rounds=2,
        options=_IDLE_OPTIONS,
        absent=_NO_PARSER,
    ),
}
