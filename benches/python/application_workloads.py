"""The workloads of `applications.py`: what is done with a server, and what is told of it.

The load is `http-load` of `benches/echo`, which checks every response. That the application's
answer is the right one is checked before, here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from application_servers import APPS_FOLDER, Server
from measuring import Figure, Sample, SampleError
from under_load import TARGET_FOLDER

sys.path.append(str(APPS_FOLDER))

import bench_common as common

HTTP_LOAD = TARGET_FOLDER / "release" / "http-load"

ANSWER_SECONDS = 30.0
"""A load that has not answered so long after it should have is ended."""

CONNECTIONS = 64
RATE = 500
"""Requests a second in all, in an open loop: a rate that every server holds on one core."""
HEAVY_RATE = 8
"""Heavy requests a second beside the light ones: 0.4 of a core at `bench_common.HEAVY_SECONDS`."""
HEAVY_CONNECTIONS = 8
DATABASE_CONNECTIONS = 16
"""Of each server in all; they are divided among its loops or processes."""
MESSAGE_BYTES = 256
REST_SECONDS = 0.5
"""Before the memory of a server at rest is read."""
MEMORY_READINGS = 5
"""Under load, over the measured time; the largest counts."""


@dataclass(frozen=True)
class Timing:
    """How long is measured, and how long the load runs before that; seconds."""

    seconds: float
    warmup: float


# --- load -----------------------------------------------------------------------------------------


class Load:
    """A running load generator; leaving the `with` block ends it."""

    def __init__(self, server: Server, timing: Timing, *arguments: object) -> None:
        """Start it."""
        self._limit = timing.seconds + timing.warmup + ANSWER_SECONDS
        duration = ("--seconds", timing.seconds, "--warmup", timing.warmup)
        command = [HTTP_LOAD, "--port", server.port, *duration, *arguments]
        self._process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> Sample:
        """What it measured; raises `SampleError` if it failed or any request of it did."""
        try:
            answer, complaint = self._process.communicate(timeout=self._limit)
        except subprocess.TimeoutExpired as error:
            raise SampleError(f"the load has not ended after {self._limit:.0f} s") from error
        if self._process.returncode:
            raise SampleError(complaint.strip() or f"exit code {self._process.returncode}")
        sample: Sample = json.loads(answer)
        if sample["errors"]:
            raise SampleError(f"{sample['errors']} requests failed; first: {sample['first_error']}")
        if not sample["requests"]:
            raise SampleError("no request was answered")
        return sample


def expected_body(server: Server, path: str) -> str:
    """What a path answers, once it is known to be right; raises `SampleError` if it is not."""
    body = server.fetch(path)
    right: object = BODIES[path]
    given: object = body if isinstance(right, str) else json.loads(body)
    if given != right:
        raise SampleError(f"{path}: {body[:80]!r} is not what the application answers")
    return body


BODIES: dict[str, object] = {
    "/plain": common.PLAIN.decode(),
    "/json": common.MESSAGE,
    "/heavy": {"heavy": True},
    "/db": {"id": common.ROW, "name": f"item {common.ROW}", "price": common.ROW * 0.25},
}


# --- samples: what is done with a server ----------------------------------------------------------

Take = Callable[[Server, Timing, "Setting"], Sample]


@dataclass(frozen=True)
class Setting:
    """What the samples of a workload share."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[int, ...] = ()
    """Processes that take part but are not the server."""


def take_closed(server: Server, timing: Timing, setting: Setting) -> Sample:
    """One request at a time on each connection."""
    return _measure(server, timing, setting)


def take_fresh(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Likewise, with a connection of its own for each request."""
    return _measure(server, timing, setting, "--fresh")


def take_paced(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Requests at a fixed rate, whatever becomes of them."""
    return _measure(server, timing, setting, "--rate", RATE)


def take_messages(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Messages over WebSockets, one at a time on each."""
    arguments = ("--path", setting.path, "--websocket", MESSAGE_BYTES, "--server", server.pid)
    with Load(server, timing, "--connections", CONNECTIONS, *arguments) as load:
        return load.result()


def take_mixed(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Light requests at a fixed rate, while others come that hold up their loops.

    The light ones' connections are opened before, so that no server places them by where it is
    held up at that moment: what is compared is what open connections wait.
    """
    body = expected_body(server, "/heavy")
    arguments = ("--path", "/heavy", "--expect", body, "--connections", HEAVY_CONNECTIONS)
    # They begin in the warm-up of the light ones, and end after them.
    longer = Timing(timing.seconds + timing.warmup, 0.0)
    with _start(server, timing, setting, "--rate", RATE) as light:
        time.sleep(timing.warmup / 2)
        with Load(server, longer, *arguments, "--rate", HEAVY_RATE) as heavy:
            sample = light.result()
            return {**sample, "heavy": heavy.result()}


def take_memory(server: Server, timing: Timing, setting: Setting) -> Sample:
    """Allocated bytes at rest, and the most of some readings under load."""
    time.sleep(REST_SECONDS)
    rest = server.memory()
    with _start(server, timing, setting) as load:
        time.sleep(timing.warmup)
        readings = []
        for _ in range(MEMORY_READINGS):
            time.sleep(timing.seconds / (MEMORY_READINGS + 1))
            readings.append(server.memory())
        sample = load.result()
    return {**sample, "memory_rest": rest, "memory_load": max(readings)}


def _measure(server: Server, timing: Timing, setting: Setting, *arguments: object) -> Sample:
    with _start(server, timing, setting, *arguments) as load:
        return load.result()


def _start(server: Server, timing: Timing, setting: Setting, *arguments: object) -> Load:
    body = expected_body(server, setting.path)
    beside = [part for pid in setting.beside for part in ("--beside", pid)]
    given: tuple[object, ...] = ("--path", setting.path, "--expect", body, *beside)
    given += ("--server", server.pid)
    if server.certificate is not None:
        given += ("--tls", server.certificate / "cert.pem")
    return Load(server, timing, "--connections", CONNECTIONS, *given, *arguments)


# --- workloads ------------------------------------------------------------------------------------


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
_NATIVE = ("weft-1", "weft-n", "peregrine-1", "peregrine-n", "h2corn-1", "h2corn-n")
_WITH_ZTTP = ("pool-zttp", "uvicorn-zttp")
_ALL = (
    "pool-1",
    "pool-n",
    "uvicorn-pool",
    "uvicorn-1",
    "uvicorn-n",
    "granian-1",
    "granian-n",
    "hypercorn-1",
    "hypercorn-n",
    *_NATIVE,
)
_WITH_TLS = (
    *("pool-1", "pool-n", "uvicorn-1", "uvicorn-n", "granian-1", "granian-n"),
    *("hypercorn-1", "weft-1", "h2corn-1"),
)
_WITH_FACTORY = ("pool-1", "pool-n", "pool-factory", *_ALL[3:])
_WITHOUT_OURS_IN_UVICORN = ("pool-1", "pool-n", *_ALL[3:])
LOOK = (
    *("pool-1", "pool-n", "uvicorn-1", "uvicorn-n", "granian-n", "hypercorn-n"),
    *("weft-n", "peregrine-n", "h2corn-n", *_WITH_ZTTP),
)
"""The variants that are measured where a look is all that is asked for."""
_MANY = (
    *("pool-n", "uvicorn-1", "uvicorn-n", "granian-n", "hypercorn-n"),
    *("weft-n", "peregrine-n", "h2corn-n"),
)

WORKLOADS = {
    "json": Workload(
        f"ASGI without a framework, a small JSON object, {CONNECTIONS} connections",
        "bench_raw",
        "/json",
        take_closed,
        _THROUGHPUT,
        (*_ALL, *_WITH_ZTTP, "granian-runtime"),
    ),
    "plaintext": Workload(
        f"ASGI without a framework, 13 bytes of text, {CONNECTIONS} connections",
        "bench_raw",
        "/plain",
        take_closed,
        _THROUGHPUT,
        (
            *("pool-1", "pool-n", "uvicorn-1", "uvicorn-n", "granian-1", "granian-n"),
            *(*_NATIVE, *_WITH_ZTTP),
        ),
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
        _WITH_FACTORY,
    ),
    "latency": Workload(
        f"FastAPI, a small JSON object, {RATE} requests a second on {CONNECTIONS} connections: "
        "latency from the time at which a request should have begun",
        "bench_fastapi",
        "/json",
        take_paced,
        _LATENCY,
        _WITHOUT_OURS_IN_UVICORN,
    ),
    "database": Workload(
        f"FastAPI, a row of PostgreSQL by its key with asyncpg, {DATABASE_CONNECTIONS} "
        f"connections to it in all, {CONNECTIONS} connections",
        "bench_fastapi",
        "/db",
        take_closed,
        _THROUGHPUT,
        ("pool-1", "pool-n", "pool-factory", *_MANY[1:]),
        uses_database=True,
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
    ),
    "websocket": Workload(
        f"ASGI without a framework, a WebSocket that sends back {MESSAGE_BYTES} bytes, "
        f"{CONNECTIONS} connections",
        "bench_raw",
        "/ws",
        take_messages,
        _THROUGHPUT,
        _WITHOUT_OURS_IN_UVICORN,
    ),
    "memory": Workload(
        "FastAPI: memory that all processes of a server have allocated, without the files that "
        f"they map; at rest, and with requests on {CONNECTIONS} connections",
        "bench_fastapi",
        "/json",
        take_memory,
        _MEMORY,
        _WITHOUT_OURS_IN_UVICORN,
        rounds=1,
    ),
}
