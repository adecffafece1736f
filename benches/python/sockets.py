"""Servers under load, side by side: bare mio, asyncio, uvloop, rloop, zuvloop, loop_pool.

    python benches/python/sockets.py [--only a,b] [--peers a,b] [--rounds R] [--seconds S] ...

Each sample starts a server of its own (`servers.py`, or `bare-echo` of `benches/echo`), puts the
load generator of `benches/echo` on it and ends it again. The samples of a workload are taken in
rounds (A B C, B C A, ...), so that a change in the machine's load or clock meets all of them. The
tables show ratios that were measured within the same round: their median, and their quartiles in
brackets. A loop that is missing is named above the tables, what fails in its table, both with the
reason. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from child import LOOPS
from machine import describe_machine

Sample = dict[str, Any]
"""What one run of the load gave (`load` of `benches/echo` says it), or what was made of it."""

ROUNDS = 5
SECONDS = 3.0
WARMUP_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""A server or a load that has not answered so long after it should have is ended."""

CONNECTIONS = 64
BULK_CONNECTIONS = 4
STUCK_SECONDS = 0.05
STUCK_RATE = 700
"""Requests a second in all, beside a stuck loop. Each of 64 connections gets one every 91 ms, so
that none keeps step with the blocks."""
FRESH_RATE = 200
"""Connections a second, beside a stuck loop."""
IDLE_CONNECTIONS = (4_000, 16_000)
SPARE_DESCRIPTORS = 200
DISTURBED_CORES = 0.1
"""What processes that have no part in it may use of the machine before the table says so."""

HERE = Path(__file__).parent
SERVERS_FILE = HERE / "servers.py"
ECHO_PACKAGE = HERE.parent / "echo"
TARGET_FOLDER = HERE.parents[1] / "target" / "echo"
BARE_ECHO = TARGET_FOLDER / "release" / "bare-echo"
LOAD = TARGET_FOLDER / "release" / "load"


class SampleError(Exception):
    """A server could not be started, or a sample of it failed; the text says why."""


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A child that answers with lines of JSON, and ends when its standard input does."""

    def __init__(self, command: list[str | Path], seconds: float = 0.0) -> None:
        """Start it, and read its first answer into `hello`, which takes `seconds` if all is well.

        Raises `SampleError` if the process fails.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._process.pid
        self._unread = b""
        try:
            self.hello = self.read_answer(seconds + ANSWER_SECONDS)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then the missing answer says why
            self._process.stdin.write(request.encode() + b"\n")
        return self.read_answer(ANSWER_SECONDS)

    def read_answer(self, seconds: float) -> dict[str, Any]:
        """Return the next line; raises `SampleError` if none comes or it tells of an error."""
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise SampleError(f"no answer within {seconds:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise SampleError(_describe_exit(self._process.wait()))
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SampleError(answer["error"])
        return answer

    def end(self) -> None:
        """Let it end, or end it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_SECONDS / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process exited with code {code}"


@dataclass(frozen=True)
class Variant:
    """One server of a workload: one row of its table."""

    name: str
    kind: str = ""
    """As for `servers.py`; empty: the bare server."""
    loop: str = ""
    arguments: tuple[str, ...] = ()
    partner: str = ""
    """The variant of the same loop that it is compared with, where a workload does that."""

    def start(self) -> Process:
        """Start the server; raises `SampleError` if that fails."""
        if not self.kind:
            return Process([BARE_ECHO])
        return Process([sys.executable, SERVERS_FILE, self.kind, self.loop, *self.arguments])


@dataclass(frozen=True)
class Options:
    """The command line."""

    only: list[str]
    peers: list[str]
    rounds: int
    seconds: float
    warmup: float
    json: Path | None
    table: Path | None


def run_load(server: Process, options: Options, *arguments: object) -> Sample:
    """Put load on a server for the measured time; raises `SampleError` if any request fails."""
    timing = ("--seconds", options.seconds, "--warmup", options.warmup, "--pid", server.pid)
    with start_load(server, options, *timing, *arguments) as load:
        sample = load.hello
    if sample.get("errors"):
        raise SampleError(f"{sample['errors']} requests failed; first: {sample['first_error']}")
    return sample


def start_load(server: Process, options: Options, *arguments: object) -> Process:
    """Start the load generator; its answer may take as long as it is told to measure."""
    command: list[str | Path] = [LOAD, "--port", str(server.hello["port"]), *map(str, arguments)]
    return Process(command, options.warmup + options.seconds)


# --- samples: what is done with the server of a variant -------------------------------------------

Take = Callable[[Variant, Options], Sample]


def take_echo(variant: Variant, options: Options) -> Sample:
    """64 connections, 1 KiB, one request at a time on each."""
    with variant.start() as server:
        return run_load(server, options, "--connections", CONNECTIONS)


def take_kept(variant: Variant, options: Options) -> Sample:
    """64 connections at a fixed rate: what they wait for a loop that is stuck."""
    with variant.start() as server:
        return run_load(server, options, "--connections", CONNECTIONS, "--rate", STUCK_RATE)


def take_fresh(variant: Variant, options: Options) -> Sample:
    """A connection for each request, at a fixed rate."""
    with variant.start() as server:
        return run_load(server, options, "--fresh", "--rate", FRESH_RATE)


def take_bulk(variant: Variant, options: Options) -> Sample:
    """Bytes per second that arrive while the server's loop is stuck; at any time if it never is."""
    with variant.start() as server:
        load = run_load(server, options, "--bulk", "--connections", BULK_CONNECTIONS)
        times = server.ask("stuck")["stuck"]
    start, bucket, buckets = load["start_ns"], load["bucket_ns"], load.pop("buckets")
    arrived, covered = load["bytes"], load["seconds"]
    if "--stuck" in variant.arguments:
        within = _whole_buckets(times, start, bucket, len(buckets))
        arrived, covered = sum(buckets[i] for i in within), len(within) * bucket / 1e9
        if not within:
            raise SampleError("the loop was never stuck in the measured time")
    return {**load, "bytes_per_second": arrived / covered, "covered_seconds": covered}


def _whole_buckets(
    times: Sequence[tuple[int, int]], start: int, bucket: int, count: int
) -> list[int]:
    """Which buckets lie wholly within one of `times`."""
    return [
        index
        for begin, end in times
        for index in range(-((start - begin) // bucket), (end - start) // bucket)
        if 0 <= index < count
    ]


def take_memory(variant: Variant, options: Options) -> Sample:
    """Resident memory per idle connection, from few connections to many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(IDLE_CONNECTIONS[1], most - SPARE_DESCRIPTORS)
    few = min(IDLE_CONNECTIONS[0], many // 4)
    with variant.start() as server, start_load(server, options, "--idle", few):
        before = _resident_bytes(server, few, options)
        with start_load(server, options, "--idle", many - few):
            after = _resident_bytes(server, many, options)
    return {
        "few": few,
        "many": many,
        "resident_few": before,
        "resident_many": after,
        "bytes_per_connection": (after - before) / (many - few),
    }


def _resident_bytes(server: Process, connections: int, options: Options) -> int:
    """Resident memory once the server knows of all connections and has come to rest."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while (known := server.ask("connections")["connections"]) != connections:
        if time.monotonic() > deadline:
            raise SampleError(f"the server knows of {known} of {connections} connections")
        time.sleep(0.05)
    time.sleep(options.warmup / 2)
    for line in Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SampleError("the kernel does not tell the resident memory")


def take_syscalls(variant: Variant, options: Options, connections: int = CONNECTIONS) -> Sample:
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
                with start_load(server, options, *arguments) as load:
                    requests = load.hello["requests"]
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.stderr.read()
                tracer.wait()
        return {"requests": requests, "calls": _parse_strace(summary.read_text(encoding="utf-8"))}


def _parse_strace(summary: str) -> dict[str, int]:
    calls: dict[str, int] = {}
    for line in summary.splitlines():
        match line.split():
            case [share, _, _, count, *_, name] if name != "total" and share[0].isdigit():
                calls[name] = int(count)
    return calls


# --- workloads ------------------------------------------------------------------------------------

PARTNER = "*"
"""As the baseline of a figure: each variant's own partner."""


@dataclass(frozen=True)
class Figure:
    """One column of a table."""

    title: str
    of: Callable[[Sample], float]
    baseline: str = ""
    """The variant whose value in the same round it is divided by; empty: it is shown as it is."""


def _cpu_per_request(sample: Sample) -> float:
    return float(sample["server_cpu_ns"] / sample["requests"])


def _requests_per_second(sample: Sample) -> float:
    return float(sample["requests"] / sample["seconds"])


def _cores(sample: Sample) -> float:
    return float(sample["server_cpu_ns"] / 1e9 / sample["seconds"])


def _value(key: str) -> Callable[[Sample], float]:
    return lambda sample: float(sample[key])


def _note_syscalls(samples: Sequence[Sample]) -> str:
    requests = sum(sample["requests"] for sample in samples)
    calls: Counter[str] = Counter()
    for sample in samples:
        calls.update(sample["calls"])
    return ", ".join(
        f"{name} {count / requests:.2f}"
        for name, count in calls.most_common()
        if count >= requests / 100
    )


@dataclass(frozen=True)
class Workload:
    """What is compared, and the columns of its table."""

    summary: str
    variants: tuple[Variant, ...]
    take: Take
    figures: tuple[Figure, ...]
    note: Callable[[Sequence[Sample]], str] | None = None
    rounds: int | None = None
    """If it needs no more than these."""


def _on_each_loop(kind: str, first: tuple[Variant, ...] = ()) -> tuple[Variant, ...]:
    return first + tuple(Variant(loop, kind, loop) for loop in reversed(LOOPS))


def _pool(name: str, kind: str, loops: int, *arguments: str, partner: str = "") -> Variant:
    """A server on several loops. `name` begins with the loop's."""
    loop = name.partition(",")[0]
    return Variant(name, kind, loop, ("--loops", str(loops), *arguments), partner)


_CPU_AGAINST_BARE = Figure("CPU x bare", _cpu_per_request, "bare")
_CPU_AGAINST_UVLOOP = Figure("CPU x uvloop", _cpu_per_request, "uvloop")
_CPU_AGAINST_PARTNER = Figure("CPU x one loop", _cpu_per_request, PARTNER)
_RATE_AGAINST_UVLOOP = Figure("requests/s x uvloop", _requests_per_second, "uvloop")
_CORES = Figure("cores in use", _cores)
_STUCK = ("--stuck", str(STUCK_SECONDS))
_UVLOOP_THREADS = "uvloop, 2 threads"
_BESIDE_STUCK = tuple(
    _pool(f"{loop}, 2 {'loops' if loop == 'loop_pool' else 'threads'}", "pool", 2, *_STUCK)
    for loop in ("loop_pool", "zuvloop", "uvloop", "asyncio")
)
_LATENCY = (
    Figure("p50 x uvloop", _value("p50_us"), _UVLOOP_THREADS),
    Figure("p99 x uvloop", _value("p99_us"), _UVLOOP_THREADS),
)
_UNDER_STRACE = (
    Variant("bare"),
    *(Variant(f"{loop}, protocol", "protocol", loop) for loop in reversed(LOOPS)),
    *(Variant(f"{loop}, streams", "streams", loop) for loop in reversed(LOOPS)),
)
_SYSCALLS = (Figure("all", lambda sample: sum(sample["calls"].values()) / sample["requests"]),)

WORKLOADS = {
    "echo-protocol": Workload(
        "asyncio.Protocol, 64 connections, 1 KiB: server CPU per request",
        _on_each_loop("protocol", (Variant("bare"),)),
        take_echo,
        (_CPU_AGAINST_BARE, _CPU_AGAINST_UVLOOP, _RATE_AGAINST_UVLOOP, _CORES),
    ),
    "echo-buffered": Workload(
        "asyncio.BufferedProtocol, 64 connections, 1 KiB: server CPU per request",
        _on_each_loop("buffered", (Variant("bare"),)),
        take_echo,
        (_CPU_AGAINST_BARE, _CPU_AGAINST_UVLOOP, _RATE_AGAINST_UVLOOP, _CORES),
    ),
    "echo-streams": Workload(
        "asyncio streams (loop_pool's own: loop_pool.start_server), 64 connections, 1 KiB: "
        "server CPU per request",
        _on_each_loop("streams", (_pool("loop_pool, own", "pool-streams", 1),)),
        take_echo,
        (_CPU_AGAINST_UVLOOP, _RATE_AGAINST_UVLOOP, _CORES),
    ),
    "pool-scaling": Workload(
        "a server on 1 and on 2 loops (peers: threads, SO_REUSEPORT), Protocol: "
        "server CPU per request",
        tuple(
            _pool(f"{loop}, {count}", "pool", count, partner=f"{loop}, 1")
            for loop in ("loop_pool", "uvloop", "asyncio")
            for count in (1, 2)
        ),
        take_echo,
        (
            _CPU_AGAINST_PARTNER,
            Figure("requests/s x one loop", _requests_per_second, PARTNER),
            _CORES,
        ),
    ),
    "steal": Workload(
        "loop_pool on 2 loops that are equally busy, Protocol: what stealing costs",
        (
            _pool("loop_pool, steal=True", "pool", 2, partner="loop_pool, steal=False"),
            _pool(
                "loop_pool, steal=False", "pool", 2, "--no-steal", partner="loop_pool, steal=False"
            ),
        ),
        take_echo,
        (
            Figure("CPU x steal=False", _cpu_per_request, PARTNER),
            Figure("requests/s x steal=False", _requests_per_second, PARTNER),
            Figure("p99 x steal=False", _value("p99_us"), PARTNER),
            _CORES,
        ),
    ),
    "stuck": Workload(
        "a server on 2 loops, one of them stuck 50 ms in every 100: latency of requests on "
        f"{CONNECTIONS} open connections, {STUCK_RATE} a second",
        _BESIDE_STUCK,
        take_kept,
        (*_LATENCY, Figure("connections with a request over 10 ms", _value("slow_connections"))),
    ),
    "stuck-fresh": Workload(
        "likewise, with a new connection for each request, "
        f"{FRESH_RATE} a second: latency from connecting to the response",
        _BESIDE_STUCK,
        take_fresh,
        _LATENCY,
    ),
    "stuck-bytes": Workload(
        f"{BULK_CONNECTIONS} connections with 64 MiB and more queued in their transports, on the "
        "second of 2 loops, which is stuck 50 ms in every 100: bytes a second that arrive while "
        "it is stuck",
        tuple(
            _pool(name, "bulk", 2, *stuck, partner=f"{loop}, not stuck")
            for loop in ("loop_pool", "zuvloop", "uvloop", "asyncio")
            for name, stuck in ((f"{loop}, stuck", _STUCK), (f"{loop}, not stuck", ()))
        ),
        take_bulk,
        (Figure("bytes/s x not stuck", _value("bytes_per_second"), PARTNER), _CORES),
    ),
    "helpers": Workload(
        "loop_pool, a plain loop.create_server on loop 0, and loops with nothing to do beside it "
        "(useful with a core for each, and one for the load)",
        tuple(
            _pool(f"loop_pool, {count}", "protocol", count, partner="loop_pool, 1")
            for count in (1, 2, 4, 8)
        ),
        take_echo,
        (
            Figure("requests/s x one loop", _requests_per_second, PARTNER),
            _CPU_AGAINST_PARTNER,
            _CORES,
        ),
    ),
    "idle-memory": Workload(
        "resident memory per idle connection, Protocol, from 4,000 to 16,000 connections "
        "(or as many as RLIMIT_NOFILE permits, and a fourth of them)",
        _on_each_loop("idle"),
        take_memory,
        (
            Figure("memory x uvloop", _value("bytes_per_connection"), "uvloop"),
            Figure("connections", _value("many")),
        ),
    ),
    "syscalls": Workload(
        f"system calls per request under strace, {CONNECTIONS} connections, 1 KiB",
        _UNDER_STRACE,
        take_syscalls,
        _SYSCALLS,
        _note_syscalls,
        rounds=1,
    ),
    "syscalls-one": Workload(
        "likewise, one connection: no system call serves several requests",
        _UNDER_STRACE,
        functools.partial(take_syscalls, connections=1),
        _SYSCALLS,
        _note_syscalls,
        rounds=1,
    ),
}


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Results:
    """All samples of one workload, by variant; the samples of one round have the same index."""

    name: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Progress:
    """Says on standard error what is measured, and how long all of it will still take."""

    def __init__(self, samples: int, seconds: float) -> None:
        """`seconds`: a first guess at what a sample takes."""
        self._left = samples
        self._seconds = [seconds]

    def begin(self, text: str) -> None:
        """Another sample begins."""
        minutes = self._left * statistics.fmean(self._seconds) / 60
        self._say(f"{text}; {minutes:.0f} min left" if minutes >= 1 else f"{text}; < 1 min left")
        self._since = time.monotonic()

    def end(self) -> None:
        """It has ended."""
        self._left -= 1
        self._seconds.append(time.monotonic() - self._since)

    def skip(self, samples: int) -> None:
        """So many will not be taken."""
        self._left -= samples

    def _say(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave the line to others."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")


def rounds_of(workload: Workload, options: Options) -> int:
    """How many rounds are taken of a workload."""
    return min(options.rounds, workload.rounds or options.rounds)


def measure(name: str, options: Options, peers: Collection[str], progress: Progress) -> Results:
    """Take the samples of a workload, interleaved, of the bare server and those of `peers`."""
    workload = WORKLOADS[name]
    results = Results(name)
    rounds = rounds_of(workload, options)
    chosen = [variant for variant in workload.variants if variant.loop in ("", *peers)]
    results.samples = {variant.name: [] for variant in chosen}
    for number in range(rounds):
        shift = number % len(chosen) if chosen else 0
        for variant in chosen[shift:] + chosen[:shift]:
            if variant.name in results.failures:
                continue
            progress.begin(f"{name}, round {number + 1} of {rounds}: {variant.name}")
            try:
                results.samples[variant.name].append(workload.take(variant, options))
            except SampleError as failure:
                results.failures[variant.name] = str(failure)
                del results.samples[variant.name]
                progress.skip(rounds - number - 1)
            progress.end()
    return results


# --- tables ---------------------------------------------------------------------------------------


def values(results: Results, variant: Variant, figure: Figure) -> list[float]:
    """A figure of a variant, one value a round; empty without a result or a baseline."""
    own = [figure.of(sample) for sample in results.samples.get(variant.name, [])]
    if not figure.baseline:
        return own
    baseline = variant.partner if figure.baseline == PARTNER else figure.baseline
    base = [figure.of(sample) for sample in results.samples.get(baseline, [])]
    if len(own) != len(base) or not all(base):
        return []
    return [a / b for a, b in zip(own, base, strict=True)]


def format_values(numbers: Sequence[float]) -> str:
    """The median and, in brackets, the quartiles."""
    if not numbers:
        return "-"
    median = statistics.median(numbers)
    middle = f"{median:.2f}" if median < 1000 else f"{median:,.0f}"
    if len(numbers) < 2 or min(numbers) == max(numbers):
        return middle
    lower, _, upper = statistics.quantiles(numbers, n=4, method="inclusive")
    return f"{middle} ({lower:.2f}-{upper:.2f})"


def format_results(results: Results) -> Iterator[str]:
    """Yield the Markdown table of one workload, line by line."""
    workload = WORKLOADS[results.name]
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


def format_document(document: dict[str, Any]) -> Iterator[str]:
    """Yield all tables of a run, with the machine above them, line by line."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {peer['version']}" for name, peer in document["peers"].items())
    yield (
        f"{machine['python']}, {machine['system']}, {machine['processor']}; {versions}; "
        f"{document['rounds']} interleaved rounds of {document['seconds']:g} s; medians of "
        "the ratios within a round, and their quartiles."
    )
    for name, reason in document["missing"].items():
        yield f"Left out: {name}: {reason}"
    with_gil = [name for name, peer in document["peers"].items() if peer["gil_enabled"]]
    if with_gil:
        yield f"With the GIL on: {', '.join(with_gil)}."
    for record in document["results"]:
        yield from format_results(
            Results(record["workload"], record["samples"], record["failures"])
        )


# --- the command ----------------------------------------------------------------------------------


def build_programs() -> None:
    """Build the load generator and the bare server; raises `SampleError` if that fails."""
    manifest = ECHO_PACKAGE / "Cargo.toml"
    where = ("--manifest-path", manifest, "--target-dir", TARGET_FOLDER)
    try:
        subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", *where], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SampleError(f"benches/echo cannot be built: {error}") from error


def find_peers(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Start a server on each loop. Returns what those are that can, and why the others cannot."""
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            with Variant(name, "protocol", name).start() as server:
                found[name] = {key: server.hello[key] for key in ("version", "gil_enabled")}
        except SampleError as failure:
            missing[name] = str(failure)
    return found, missing


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)} (known: {', '.join(known)})"
            )
        return names

    return parse


def _more_than_zero[T: (int, float)](kind: type[T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be more than 0, not {value}")
        return value

    return parse


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = list(WORKLOADS)
    parser.add_argument(
        "--only", type=_names(known), default=known, help=f"comma-separated: {', '.join(known)}"
    )
    parser.add_argument(
        "--peers", type=_names(list(LOOPS)), default=list(LOOPS), help="loops; default: all"
    )
    parser.add_argument(
        "--rounds", type=_more_than_zero(int), default=ROUNDS, help=f"default: {ROUNDS}"
    )
    parser.add_argument(
        "--seconds",
        type=_more_than_zero(float),
        default=SECONDS,
        help=f"measured of each sample; default: {SECONDS:g}",
    )
    parser.add_argument(
        "--warmup",
        type=_more_than_zero(float),
        default=WARMUP_SECONDS,
        help=f"seconds before it; default: {WARMUP_SECONDS:g}",
    )
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--table", type=Path, help="measure nothing: print the tables of this file")
    return Options(**vars(parser.parse_args(arguments)))


def main() -> int:
    """Run the benchmarks; the exit code is 0 if every loop that was found gave every result."""
    options = parse_options()
    if options.table:
        document = json.loads(options.table.read_text(encoding="utf-8"))
        print("\n".join(format_document(document)))
        return 0
    machine = describe_machine()
    try:
        build_programs()
    except SampleError as failure:
        print(failure, file=sys.stderr)
        return 1
    peers, missing = find_peers(options.peers)
    count = sum(
        rounds_of(WORKLOADS[name], options)
        * sum(variant.loop in ("", *peers) for variant in WORKLOADS[name].variants)
        for name in options.only
    )
    progress = Progress(count, options.seconds + options.warmup + 0.5)
    all_results: list[Results] = []
    try:
        for name in options.only:
            all_results.append(measure(name, options, peers, progress))
    except KeyboardInterrupt:
        print("interrupted: nothing is kept of the workload that was under way", file=sys.stderr)
    progress.clear()
    document = {
        "machine": machine,
        "peers": peers,
        "missing": missing,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "results": [
            {
                "workload": results.name,
                "summary": WORKLOADS[results.name].summary,
                "samples": results.samples,
                "failures": results.failures,
            }
            for results in all_results
        ],
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(format_document(document)))
    failed = any(results.failures for results in all_results)
    return 1 if failed or len(all_results) < len(options.only) else 0


if __name__ == "__main__":
    sys.exit(main())
