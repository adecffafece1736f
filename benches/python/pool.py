"""Programs on several cores: loop_pool, threads with a loop each, mt_asyncio, tonio, tokio.

    python benches/python/pool.py [--only a,b] [--peers a,b] [--quick] [--json FILE] ...

The loops of most peers know nothing of each other: they run in threads, and their servers share a
port by `SO_REUSEPORT`. mt_asyncio has one loop, and so many threads that run its callbacks. How a
sample is taken is said in `sockets.py`. Linux only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import (
    PARTNER,
    Figure,
    Options,
    Process,
    Sample,
    SampleError,
    Suite,
    Timing,
    Variant,
    Workload,
    main,
    value,
)
from protocols import WORK_NUMBERS
from under_load import (
    ABSENT,
    CONNECTIONS,
    CORES,
    HERE,
    LOAD_THREADS,
    PEERS,
    Server,
    build_programs,
    check_load,
    cores_in_use,
    cpu_per_request,
    find_peers,
    on_loops,
    requests_per_second,
    run_load,
    start_load,
    take_load,
)

STEPS = tuple(count for count in (1, 2, 4, 8, 16) if count <= CORES)
"""Numbers of loops."""
MOST = max(2, STEPS[-1])
SCALING_ROUNDS = 3 if len(STEPS) > 3 else None
SCALING_CONNECTIONS = max(CONNECTIONS, 32 * STEPS[-1])
RATE_OF_A_LOOP = 10_000
"""Requests a second for each loop, in the open loop."""
STUCK_SECONDS = 0.05
STUCK_RATE = 700
"""Requests a second in all, beside a stuck loop. Each of 64 connections gets one every 91 ms, so
that none keeps step with the blocks."""
FRESH_RATE = 200
"""Connections a second, beside a stuck loop."""
BULK_CONNECTIONS = 4
LIGHT_RATE = 2_000
"""Requests a second in all, on 64 connections beside a heavy one."""
HEAVY_SIZE = 1 << 20
HEAVY_SECONDS = 1.0
"""So much longer the heavy client goes on, so that it is there until the light ones end."""
WORK = 400
"""Numbers that a coroutine of `spawn-work` adds up."""
FANOUT_FILE = HERE / "fanout.py"
MEMORY_LOOPS = (1, 2, 4, 8)


# --- samples --------------------------------------------------------------------------------------


def take_rate(variant: Server, options: Options) -> Sample:
    """An open loop, at a rate in proportion to the number of loops."""
    rate = RATE_OF_A_LOOP * loops_of(variant)
    arguments = ("--connections", SCALING_CONNECTIONS, "--threads", LOAD_THREADS, "--rate", rate)
    return {**take_load(variant, options, arguments), "rate": rate}


def loops_of(variant: Variant) -> int:
    """The number in the name of a variant: `uvloop, 4`."""
    return int(variant.name.rpartition(", ")[2])


def take_skewed(variant: Server, options: Options) -> Sample:
    """Light clients at a fixed rate, beside one that sends as much as it can."""
    seconds = options.warmup + options.seconds + HEAVY_SECONDS
    heavy_load = ("--connections", 1, "--size", HEAVY_SIZE, "--warmup", 0, "--seconds", seconds)
    with (
        variant.start() as server,
        start_load(server, 0, *heavy_load, "--pid", server.pid, wait=False) as heavy,
    ):
        light = ("--connections", CONNECTIONS, "--rate", LIGHT_RATE)
        sample = run_load(server, options, *light)
        told = check_load(heavy.read_answer(seconds))
    heavy_bytes = told["requests"] * HEAVY_SIZE / told["seconds"]
    # The light clients' generator takes the heavy one for a stranger.
    known = told["load_cpu_ns"] * sample["seconds"] / told["seconds"]
    others = max(0, round(sample["others_cpu_ns"] - known))
    return {**sample, "others_cpu_ns": others, "heavy_bytes_per_second": heavy_bytes}


def take_bulk(variant: Server, options: Options) -> Sample:
    """Bytes per second that arrive while the server's loop is stuck; at any time if it never is."""
    with variant.start() as server:
        load = run_load(server, options, "--bulk", "--connections", BULK_CONNECTIONS)
        times = server.ask("stuck")["stuck"]
    start, bucket, buckets = load["start_ns"], load["bucket_ns"], load.pop("buckets")
    arrived, covered = load["bytes"], load["seconds"]
    if "--stuck" in variant.arguments:
        within = whole_buckets(times, start, bucket, len(buckets))
        arrived, covered = sum(buckets[i] for i in within), len(within) * bucket / 1e9
        if not within:
            raise SampleError("the loop was never stuck in the measured time")
    return {**load, "bytes_per_second": arrived / covered, "covered_seconds": covered}


def whole_buckets(
    times: Sequence[tuple[int, int]], start: int, bucket: int, count: int
) -> list[int]:
    """Which buckets lie wholly within one of `times`."""
    return [
        index
        for begin, end in times
        for index in range(-((start - begin) // bucket), (end - start) // bucket)
        if 0 <= index < count
    ]


def take_fanout(variant: Variant, options: Options, work: int) -> Sample:
    """Coroutines that one loop hands to all."""
    command = (sys.executable, FANOUT_FILE, variant.peer, "--loops", str(MOST))
    timing = ("--seconds", str(options.seconds), "--warmup", str(options.warmup))
    seconds = options.seconds + options.warmup
    with Process([*command, "--work", str(work), *timing], seconds) as process:
        return process.hello


def take_memory(variant: Server, options: Options, processes: bool) -> Sample:
    """Memory of a server on N loops, in one process or in a process for each loop."""
    loops = loops_of(variant)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(variant.start()) for _ in range(loops if processes else 1)]
        time.sleep(options.warmup)
        sizes = [_proportional_bytes(server.pid) for server in servers]
    return {"processes": len(servers), "loops": loops, "proportional_bytes": sum(sizes)}


def _proportional_bytes(pid: int) -> int:
    """Memory of a process, of what it shares with others its share (PSS)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError as error:
        raise SampleError(f"the memory of the process cannot be read: {error}") from error
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SampleError("the kernel does not tell the proportional memory")


def take_memory_of(variant: Server, options: Options) -> Sample:
    """As `take_memory`; the variant's name says which."""
    return take_memory(variant, options, processes="processes" in variant.name)


# --- workloads ------------------------------------------------------------------------------------


def _coroutines_per_second(sample: Sample) -> float:
    return float(sample["coroutines"] / sample["wall_ns"] * 1e9)


def _cpu_per_coroutine(sample: Sample) -> float:
    return float(sample["cpu_ns"] / sample["coroutines"])


_CPU_AGAINST_PARTNER = Figure("CPU x one loop", cpu_per_request, PARTNER)
_RATE_AGAINST_PARTNER = Figure("requests/s x one loop", requests_per_second, PARTNER)
_CORES = Figure("cores in use", cores_in_use)
_STUCK = ("--stuck", str(STUCK_SECONDS))
_THREADS_OF_UVLOOP = "uvloop, 2 threads"
_LATENCY = (
    Figure("p50 x uvloop", value("p50_us"), _THREADS_OF_UVLOOP),
    Figure("p99 x uvloop", value("p99_us"), _THREADS_OF_UVLOOP),
    Figure("p99, us", value("p99_us")),
)
_ON_TWO = ("loop_pool", "mt_asyncio", "zuvloop", "uvloop", "asyncio")
_LOOPS = ("loop_pool", "zuvloop", "rloop", "uvloop", "asyncio")
_SCALING = tuple(
    on_loops(f"{peer}, {count}", "pool", count, partner=f"{peer}, 1")
    for peer in ("tokio", "tonio", "mt_asyncio", *_LOOPS)
    for count in STEPS
)
_SCALING_WORK = tuple(
    on_loops(
        f"{peer}, {count}",
        "pool-work",
        count,
        *(("work",) if peer == "tonio" else ()),
        partner=f"{peer}, 1",
    )
    for peer in ("tonio", "mt_asyncio", *_LOOPS)
    for count in STEPS
)
_NO_PYTHON = "its handlers are not Python"
_NO_BLOCKING = "its handlers are not Python: nothing in them blocks a thread"
_NOT_WRITTEN = "a server that blocks a thread is not written for it"
_NO_STUCK = {"tokio": _NO_BLOCKING, "tonio": _NOT_WRITTEN}
_OF_LOOP_POOL = "compares loop_pool with itself"
_ALONE = dict.fromkeys(PEERS, _OF_LOOP_POOL)


def _on_two(kind: str, *arguments: str) -> tuple[Server, ...]:
    return tuple(
        on_loops(f"{loop}, 2 {'loops' if loop == 'loop_pool' else 'threads'}", kind, 2, *arguments)
        for loop in _ON_TWO
    )


def _fanout(summary: str, work: int) -> Workload[Variant]:
    return Workload(
        summary,
        tuple(Variant(peer, peer) for peer in ("loop_pool", "tonio", "mt_asyncio", *_LOOPS[1:])),
        functools.partial(take_fanout, work=work),
        (
            Figure("coroutines/s x uvloop", _coroutines_per_second, "uvloop"),
            Figure("CPU each x uvloop", _cpu_per_coroutine, "uvloop"),
            Figure("CPU each, ns", _cpu_per_coroutine),
            Figure("cores in use", lambda sample: float(sample["cpu_ns"] / sample["wall_ns"])),
        ),
        absent={"tokio": "its tasks are not Python", "bare": "has no tasks"},
    )


def _memory_variants() -> tuple[Server, ...]:
    return tuple(
        Server(
            f"{peer}, {what}, {count}",
            peer,
            "pool" if what != "processes" else "protocol",
            ("--imports", *(("--loops", str(count)) if what != "processes" else ())),
            partner=f"uvloop, processes, {count}",
        )
        for peer, what in (
            ("loop_pool", "loops"),
            ("mt_asyncio", "threads"),
            ("uvloop", "threads"),
            ("uvloop", "processes"),
            ("asyncio", "processes"),
        )
        for count in MEMORY_LOOPS
    )


WORKLOADS: dict[str, Workload[Server] | Workload[Variant]] = {
    "pool-scaling": Workload(
        f"an echo server on 1 to {STEPS[-1]} loops (peers: threads), Protocol, "
        f"{SCALING_CONNECTIONS} connections, 1 KiB, closed loop: throughput and server CPU per "
        "request (useful with a core for each loop, and more for the load)",
        _SCALING,
        functools.partial(
            take_load,
            arguments=("--connections", SCALING_CONNECTIONS, "--threads", LOAD_THREADS),
        ),
        (
            _CPU_AGAINST_PARTNER,
            _RATE_AGAINST_PARTNER,
            Figure("requests/s", requests_per_second),
            Figure("CPU, ns", cpu_per_request),
            _CORES,
        ),
        rounds=SCALING_ROUNDS,
    ),
    "pool-work": Workload(
        f"likewise, with {WORK_NUMBERS} numbers added up in Python before each answer: the load is "
        "light beside that, so that N cores are enough for N loops",
        _SCALING_WORK,
        functools.partial(take_load, arguments=("--connections", SCALING_CONNECTIONS)),
        (
            _RATE_AGAINST_PARTNER,
            _CPU_AGAINST_PARTNER,
            Figure("requests/s", requests_per_second),
            Figure("p99 x one loop", value("p99_us"), PARTNER),
            _CORES,
        ),
        rounds=SCALING_ROUNDS,
        absent={"tokio": _NO_PYTHON},
    ),
    "pool-rate": Workload(
        f"as pool-scaling at a fixed rate, {RATE_OF_A_LOOP:,} requests a second for each loop: "
        "latency from the time at which a request should have begun",
        tuple(dataclasses.replace(server, pinned=True) for server in _SCALING),
        take_rate,
        (
            Figure("p50, us", value("p50_us")),
            Figure("p99, us", value("p99_us")),
            Figure("p99.9, us", value("p999_us")),
            Figure("p99 x one loop", value("p99_us"), PARTNER),
            _CORES,
        ),
        rounds=SCALING_ROUNDS,
    ),
    "steal": Workload(
        "loop_pool on 2 loops that are equally busy, Protocol: what stealing costs",
        (
            on_loops("loop_pool, steal=True", "pool", 2, partner="loop_pool, steal=False"),
            on_loops(
                "loop_pool, steal=False", "pool", 2, "--no-steal", partner="loop_pool, steal=False"
            ),
        ),
        functools.partial(take_load, arguments=("--connections", CONNECTIONS)),
        (
            Figure("CPU x steal=False", cpu_per_request, PARTNER),
            Figure("requests/s x steal=False", requests_per_second, PARTNER),
            Figure("p99 x steal=False", value("p99_us"), PARTNER),
            _CORES,
        ),
        absent=_ALONE,
    ),
    "stuck": Workload(
        "a server on 2 loops, one of them stuck 50 ms in every 100: latency of requests on "
        f"{CONNECTIONS} open connections, {STUCK_RATE} a second",
        _on_two("pool", *_STUCK),
        functools.partial(
            take_load, arguments=("--connections", CONNECTIONS, "--rate", STUCK_RATE)
        ),
        (*_LATENCY, Figure("connections with a request over 10 ms", value("slow_connections"))),
        absent=_NO_STUCK,
    ),
    "stuck-fresh": Workload(
        "likewise, with a new connection for each request, "
        f"{FRESH_RATE} a second: latency from connecting to the response",
        _on_two("pool", *_STUCK),
        functools.partial(take_load, arguments=("--fresh", "--rate", FRESH_RATE)),
        _LATENCY,
        absent=_NO_STUCK,
    ),
    "stuck-bytes": Workload(
        f"{BULK_CONNECTIONS} connections with 64 MiB and more queued in their transports, on the "
        "second of 2 loops, which is stuck 50 ms in every 100: bytes a second that arrive while "
        "it is stuck",
        tuple(
            on_loops(name, "bulk", 2, *stuck, partner=f"{loop}, not stuck")
            for loop in _ON_TWO
            for name, stuck in ((f"{loop}, stuck", _STUCK), (f"{loop}, not stuck", ()))
        ),
        take_bulk,
        (Figure("bytes/s x not stuck", value("bytes_per_second"), PARTNER), _CORES),
        absent=_NO_STUCK,
    ),
    "skew": Workload(
        "a server on 2 loops, one client that sends 1 MiB again and again and 64 that send 1 KiB, "
        f"{LIGHT_RATE:,} a second in all: latency of these",
        (
            *_on_two("pool"),
            on_loops("tonio, 2 threads", "protocol", 2),
            on_loops("tokio, 2 threads", "protocol", 2),
        ),
        take_skewed,
        (
            *_LATENCY,
            Figure(
                "heavy client, MB/s", lambda sample: float(sample["heavy_bytes_per_second"]) / 1e6
            ),
            _CORES,
        ),
    ),
    "spawn": _fanout(
        f"coroutines that loop 0 hands to {MOST} loops and whose results it awaits, with hardly "
        "any work in them (peers: run_coroutine_threadsafe on threads, in turn; tonio: its spawn; "
        "mt_asyncio: its gather)",
        0,
    ),
    "spawn-work": _fanout(f"likewise, each adds up {WORK} numbers", WORK),
    "helpers": Workload(
        "loop_pool, a plain loop.create_server on loop 0, and loops with nothing to do beside it "
        "(useful with a core for each, and one for the load)",
        tuple(
            on_loops(f"loop_pool, {count}", "protocol", count, partner="loop_pool, 1")
            for count in (1, 2, 4, 8)
        ),
        functools.partial(take_load, arguments=("--connections", CONNECTIONS)),
        (_RATE_AGAINST_PARTNER, _CPU_AGAINST_PARTNER, _CORES),
        absent=_ALONE,
    ),
    "handshakes-helped": Workload(
        "loop_pool.tls, a plain loop.create_server on loop 0 that does nothing but full handshakes "
        "(TLS 1.3, ECDSA, P-256), and loops with nothing to do beside it (useful with a core for "
        "each, and one for the load)",
        tuple(
            on_loops(f"loop_pool, {count}", "rustls", count, partner="loop_pool, 1")
            for count in (1, 2, 4)
        ),
        functools.partial(
            take_load, arguments=("--fresh", "--connections", CONNECTIONS, "--size", 64)
        ),
        (_RATE_AGAINST_PARTNER, _CPU_AGAINST_PARTNER, _CORES),
        absent=_ALONE,
    ),
    "memory": Workload(
        "memory of an idle server with some modules of the standard library: one process with N "
        "loops, or N processes with a loop each (proportional set size, added up)",
        _memory_variants(),
        take_memory_of,
        (
            Figure("MB", lambda sample: float(sample["proportional_bytes"]) / 1e6),
            Figure("x uvloop in processes", value("proportional_bytes"), PARTNER),
        ),
        rounds=2,
        absent={"tokio": "not Python", "tonio": "a server with --imports is not written for it"},
    ),
}

SUITE = Suite(
    name="pool",
    summary=(__doc__ or "").partition("\n")[0],
    workloads=WORKLOADS,
    peers=PEERS,
    find_peers=find_peers,
    full=Timing(rounds=4, seconds=1.4, warmup=0.3),
    quick=Timing(rounds=1, seconds=0.5, warmup=0.2),
    prepare=build_programs,
    absent={
        **ABSENT,
        "bare": "runs on one core",
        **dict.fromkeys(
            ("rloop", "zuvloop", "talyn"), "would be threads as well, as of uvloop and asyncio"
        ),
    },
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
