"""Servers on one loop under load, side by side: bare mio, tokio, tonio, and the asyncio loops.

    python benches/python/sockets.py [--only a,b] [--peers a,b] [--quick] [--json FILE] ...

Each sample starts a server of its own (`servers.py`, `tonio_server.py`, or a program of
`benches/echo`), puts the load generator of `benches/echo` on it and ends it again. Linux only.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from child import LOOPS
from measuring import (
    ANSWER_SECONDS,
    Figure,
    Options,
    Process,
    Sample,
    SampleError,
    Suite,
    Timing,
    Workload,
    main,
    value,
)
from under_load import (
    ABSENT,
    CONNECTIONS,
    PEERS,
    Server,
    build_programs,
    cores_in_use,
    cpu_per_request,
    find_peers,
    on_each_loop,
    on_loops,
    requests_per_second,
    run_load,
    start_load,
    take_load,
)

FEW, MANY = 1, 1000
"""Connections, beside the usual `CONNECTIONS`."""
BULK_CONNECTIONS = 4
BIG_CONNECTIONS = 8
"""Of requests of 1 MiB, which fill more than the buffers of the sockets."""
IDLE_CONNECTIONS = (4_000, 10_000, 16_000)
IDLE_TLS_CONNECTIONS = (1_000, 2_500, 4_000)
"""Fewer, as each has a handshake."""
SPARE_DESCRIPTORS = 200
SIZES = {"64b": 64, "1k": 1024, "64k": 64 * 1024, "1m": 1024 * 1024}
KINDS = ("protocol", "buffered", "streams", "sock", "unix", "tls")
"""Kinds of echo servers that `--all` measures with every size and number of connections."""


# --- samples: what is done with the server of a variant -------------------------------------------


def take_flood(variant: Server, options: Options) -> Sample:
    """Bytes that the server sends unasked."""
    with variant.start() as server:
        sample = run_load(server, options, "--bulk", "--connections", BULK_CONNECTIONS)
    del sample["buckets"]
    if not sample["bytes"]:
        raise SampleError("nothing was sent in the measured time")
    return sample


def take_sink(variant: Server, options: Options) -> Sample:
    """Bytes that the server receives; all that were sent have to reach it."""
    with variant.start() as server:
        sample = run_load(server, options, "--bulk-send", "--connections", BULK_CONNECTIONS)
        _wait_until(server, "received", sample["total"])
    del sample["buckets"]
    return sample


def _wait_until(server: Process, name: str, expected: int) -> None:
    """Ask until a number of the server is the expected one; raises `SampleError` if it is not."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while (known := server.ask(name)[name]) != expected:
        if time.monotonic() > deadline:
            raise SampleError(f"{name}: the server knows of {known}, not {expected}")
        time.sleep(0.02)


def take_memory(
    variant: Server, options: Options, counts: Sequence[int] = IDLE_CONNECTIONS
) -> Sample:
    """Resident memory with no connections, and with more and more idle ones."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = most - SPARE_DESCRIPTORS
    few, middle, many = (min(count, limit * count // counts[-1]) for count in counts)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(variant.start())
        resident = [_resident_bytes(server, 0, options)]
        for before, count in ((0, few), (few, middle), (middle, many)):
            stack.enter_context(start_load(server, 0, "--idle", count - before))
            resident.append(_resident_bytes(server, count, options))
    return {
        "few": few,
        "middle": middle,
        "many": many,
        "resident_none": resident[0],
        "resident_few": resident[1],
        "resident_middle": resident[2],
        "resident_many": resident[3],
        "bytes_per_connection": (resident[3] - resident[1]) / (many - few),
        "bytes_of_each": (resident[2] - resident[0]) / middle,
    }


def _resident_bytes(server: Process, connections: int, options: Options) -> int:
    """Resident memory once the server knows of all connections and has come to rest."""
    _wait_until(server, "connections", connections)
    time.sleep(options.warmup / 2)
    for line in Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SampleError("the kernel does not tell the resident memory")


def take_syscalls(variant: Server, options: Options, connections: int = CONNECTIONS) -> Sample:
    """System calls per request, counted by strace; connecting and closing fall under it too."""
    strace = shutil.which("strace")
    if strace is None:
        raise SampleError("strace is not installed")
    with variant.start() as server, tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary")
        tracer = subprocess.Popen(
            [strace, "-f", "-c", "-o", summary, "-p", str(server.pid)], stderr=subprocess.PIPE
        )
        assert tracer.stderr is not None
        with tracer.stderr:
            said = tracer.stderr.readline().decode().strip()
            if "attached" not in said:
                tracer.wait()
                raise SampleError(said)
            arguments = ("--warmup", 0, "--seconds", options.seconds, "--connections", connections)
            try:
                with start_load(server, options.seconds, *arguments) as load:
                    requests = load.hello["requests"]
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.stderr.read()
                tracer.wait()
        if not requests:
            raise SampleError("no request was answered in the measured time")
        return {"requests": requests, "calls": parse_strace(summary.read_text(encoding="utf-8"))}


def parse_strace(summary: str) -> dict[str, int]:
    """Calls by name, out of what `strace -c` writes."""
    calls: dict[str, int] = {}
    for line in summary.splitlines():
        match line.split():
            case [share, _, _, count, *_, name] if name != "total" and share[0].isdigit():
                calls[name] = int(count)
    return calls


# --- figures --------------------------------------------------------------------------------------


def _cpu_per_byte(sample: Sample) -> float:
    return float(sample["server_cpu_ns"] / sample["bytes"])


def _bytes_per_second(sample: Sample) -> float:
    return float(sample["bytes"] / sample["seconds"])


def note_syscalls(samples: Sequence[Sample]) -> str:
    """Calls per request by name, without those of which there are few."""
    requests = sum(sample["requests"] for sample in samples)
    calls: Counter[str] = Counter()
    for sample in samples:
        calls.update(sample["calls"])
    return ", ".join(
        f"{name} {count / requests:.2f}"
        for name, count in calls.most_common()
        if count >= requests / 100
    )


_AGAINST_UVLOOP = (
    Figure("CPU x uvloop", cpu_per_request, "uvloop"),
    Figure("requests/s x uvloop", requests_per_second, "uvloop"),
    Figure("p99 x uvloop", value("p99_us"), "uvloop"),
    Figure("cores in use", cores_in_use),
)
_AGAINST_BARE = (Figure("CPU x bare", cpu_per_request, "bare"), *_AGAINST_UVLOOP)


def _bulk(baseline: str) -> tuple[Figure, ...]:
    return (
        Figure(f"CPU per byte x {baseline}", _cpu_per_byte, baseline),
        Figure(f"bytes/s x {baseline}", _bytes_per_second, baseline),
        Figure("MB/s", lambda sample: _bytes_per_second(sample) / 1e6),
        Figure("cores in use", cores_in_use),
    )


def _memory(counts: Sequence[int]) -> tuple[Figure, ...]:
    few, middle, many = counts
    return (
        Figure("memory x uvloop", value("bytes_per_connection"), "uvloop"),
        Figure(f"bytes each, {few:,} to {many:,}", value("bytes_per_connection")),
        Figure(f"bytes each of {middle:,}", value("bytes_of_each")),
        Figure("connections", value("many")),
    )


_SYSCALLS = (Figure("all", lambda sample: sum(sample["calls"].values()) / sample["requests"]),)


# --- workloads ------------------------------------------------------------------------------------

_BARE = Server("bare", "bare", "protocol")
_BARE_OF = {"unix": (Server("bare", "bare", "unix"),), "tls": ()}
"""The bare servers of kinds to which that for TCP does not compare."""


def _on_each_loop_under_tls(does: str) -> tuple[Server, ...]:
    """Servers under TLS: loop_pool also with a context of its own, all others with OpenSSL."""
    own = Server("loop_pool, rustls", "loop_pool", f"rustls{does}")
    return on_each_loop(f"tls{does}", own)


_UNDER_STRACE = (
    _BARE,
    Server("tokio", "tokio", "protocol"),
    *(Server(f"{loop}, protocol", loop, "protocol") for loop in reversed(LOOPS)),
    *(Server(f"{loop}, streams", loop, "streams") for loop in reversed(LOOPS)),
)


def _echo(
    summary: str, kind: str, *first: Server, size: int = 1024, connections: int = CONNECTIONS
) -> Workload[Server]:
    """An echo server of each peer, in a closed loop."""
    arguments = ("--connections", connections, "--size", size)
    return Workload(
        summary,
        on_each_loop(kind, *first),
        functools.partial(take_load, arguments=arguments),
        _AGAINST_BARE if any(server.peer == "bare" for server in first) else _AGAINST_UVLOOP,
    )


def _churn(summary: str, variants: tuple[Server, ...], *more: str) -> Workload[Server]:
    """A connection for each request, in a closed loop."""
    return Workload(
        summary,
        variants,
        functools.partial(
            take_load, arguments=("--fresh", "--connections", CONNECTIONS, "--size", 64, *more)
        ),
        _AGAINST_BARE if _BARE in variants else _AGAINST_UVLOOP,
    )


_USUAL: dict[str, Workload[Server]] = {
    "echo-protocol": _echo(
        "asyncio.Protocol, 64 connections, 1 KiB: server CPU per request (tokio: one thread, and "
        "a multi-thread runtime with one worker; tonio: one thread)",
        "protocol",
        _BARE,
        Server("tokio", "tokio", "protocol"),
        on_loops("tokio, multi_thread", "protocol", 1),
        on_loops("tonio, own API", "protocol", 1),
    ),
    "echo-64b": _echo("likewise, 64 B", "protocol", _BARE, size=64),
    "echo-64k": _echo("likewise, 64 KiB", "protocol", _BARE, size=65536),
    "echo-1m": _echo(
        f"likewise, 1 MiB on {BIG_CONNECTIONS} connections",
        "protocol",
        _BARE,
        size=1 << 20,
        connections=BIG_CONNECTIONS,
    ),
    "echo-one": _echo("likewise, 1 KiB on one connection", "protocol", _BARE, connections=FEW),
    "echo-1000": _echo("likewise, 1 KiB on 1,000 connections", "protocol", _BARE, connections=MANY),
    "echo-buffered": _echo(
        "asyncio.BufferedProtocol, 64 connections, 1 KiB: server CPU per request",
        "buffered",
        _BARE,
    ),
    "echo-streams": _echo(
        "asyncio streams (loop_pool, own: the native streams of loop_pool.start_server), "
        "64 connections, 1 KiB: server CPU per request",
        "streams",
        on_loops("loop_pool, own", "pool-streams", 1, "--alone"),
    ),
    "echo-sock": _echo(
        "loop.sock_recv and sock_sendall, 64 connections, 1 KiB: server CPU per request", "sock"
    ),
    "echo-udp": _echo(
        "asyncio.DatagramProtocol, 64 clients, datagrams of 1 KiB: server CPU per request",
        "udp",
        Server("bare", "bare", "udp"),
    ),
    "echo-unix": _echo(
        "asyncio.Protocol on a unix socket, 64 connections, 1 KiB: server CPU per request",
        "unix",
        *_BARE_OF["unix"],
    ),
    "echo-tls": Workload(
        "asyncio.Protocol under TLS, 64 connections, 1 KiB (loop_pool, rustls: with a context of "
        "loop_pool.tls; all others: ssl.SSLContext): server CPU per request",
        _on_each_loop_under_tls(""),
        functools.partial(take_load, arguments=("--connections", CONNECTIONS, "--size", 1024)),
        _AGAINST_UVLOOP,
    ),
    "churn": _churn(
        "connect, one request of 64 B, close, 64 at any time: server CPU per connection",
        on_each_loop("protocol", _BARE),
    ),
    "handshakes": _churn(
        "likewise under TLS 1.3, with a full handshake (ECDSA, P-256; no session is resumed)",
        _on_each_loop_under_tls(""),
    ),
    "handshakes-resumed": _churn(
        "likewise, and each connection resumes the session of one before it by a ticket",
        _on_each_loop_under_tls(""),
        "--resume",
    ),
    "bulk-send": Workload(
        f"a server that sends without an end on {BULK_CONNECTIONS} connections: CPU per byte",
        on_each_loop("flood"),
        take_flood,
        _bulk("uvloop"),
    ),
    "bulk-receive": Workload(
        f"a server that receives without an end on {BULK_CONNECTIONS} connections: CPU per byte",
        on_each_loop("sink"),
        take_sink,
        _bulk("uvloop"),
    ),
    "bulk-send-tls": Workload(
        f"as bulk-send, under TLS 1.3, on {BULK_CONNECTIONS} connections: CPU per byte",
        _on_each_loop_under_tls("-flood"),
        take_flood,
        _bulk("uvloop"),
    ),
    "bulk-receive-tls": Workload(
        f"as bulk-receive, under TLS 1.3, on {BULK_CONNECTIONS} connections: CPU per byte",
        _on_each_loop_under_tls("-sink"),
        take_sink,
        _bulk("uvloop"),
    ),
    "sendfile": Workload(
        f"loop.sendfile of a file of 16 MiB, again and again, on {BULK_CONNECTIONS} connections: "
        "CPU per byte",
        on_each_loop("sendfile"),
        take_flood,
        _bulk("asyncio"),
    ),
    "idle-memory": Workload(
        "resident memory per idle connection, Protocol (streams: a handler that waits for a read): "
        "from 4,000 to 16,000 connections, and of 10,000 of them (or of as many as RLIMIT_NOFILE "
        "permits, in proportion)",
        on_each_loop(
            "idle",
            on_loops("loop_pool, own streams", "pool-streams", 1, "--alone"),
            Server("uvloop, streams", "uvloop", "streams"),
        ),
        take_memory,
        _memory(IDLE_CONNECTIONS),
        rounds=2,
    ),
    "idle-memory-tls": Workload(
        "likewise under TLS 1.3, asyncio.Protocol, after the handshake: from "
        f"{IDLE_TLS_CONNECTIONS[0]:,} to {IDLE_TLS_CONNECTIONS[2]:,} connections, and of "
        f"{IDLE_TLS_CONNECTIONS[1]:,} of them",
        _on_each_loop_under_tls("-idle"),
        functools.partial(take_memory, counts=IDLE_TLS_CONNECTIONS),
        _memory(IDLE_TLS_CONNECTIONS),
        rounds=2,
    ),
    "syscalls": Workload(
        f"system calls per request under strace, {CONNECTIONS} connections, 1 KiB",
        _UNDER_STRACE,
        take_syscalls,
        _SYSCALLS,
        note_syscalls,
        rounds=1,
    ),
    "syscalls-one": Workload(
        "likewise, one connection: no system call serves several requests",
        _UNDER_STRACE,
        functools.partial(take_syscalls, connections=1),
        _SYSCALLS,
        note_syscalls,
        rounds=1,
    ),
}

_MORE = {
    f"{kind}-{name}-{connections}": _echo(
        f"{kind}, {connections} connection(s), {size} B: server CPU per request",
        kind,
        *_BARE_OF.get(kind, (_BARE,)),
        size=size,
        connections=connections,
    )
    for kind in KINDS
    for name, size in SIZES.items()
    for connections in (FEW, CONNECTIONS, MANY)
}

SUITE = Suite(
    name="sockets",
    summary=(__doc__ or "").partition("\n")[0],
    workloads={**_USUAL, **_MORE},
    peers=PEERS,
    find_peers=find_peers,
    full=Timing(rounds=4, seconds=1.2, warmup=0.3),
    quick=Timing(rounds=1, seconds=0.4, warmup=0.2),
    prepare=build_programs,
    more=frozenset(_MORE),
    absent=ABSENT,
)

if __name__ == "__main__":
    sys.exit(main(SUITE))
