"""The socket and pool benchmarks: what they make of samples, and that their servers serve.

The load generator has its own tests (`cargo test --manifest-path benches/echo/Cargo.toml`). Here it
runs only where `benches/python/sockets.py` has built it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ..services import program
from ..support import HANG, ORACLE_ONLY, ROOT, LoopThread

FOLDER = ROOT / "benches" / "python"

sys.path.insert(0, str(FOLDER))
measuring = importlib.import_module("measuring")
reporting = importlib.import_module("reporting")
protocols = importlib.import_module("protocols")
under_load = importlib.import_module("under_load")
child = importlib.import_module("child")
workloads = importlib.import_module("workloads")
sockets = importlib.import_module("sockets")
pool = importlib.import_module("pool")
sys.path.remove(str(FOLDER))

MACHINE = {"python": "CPython", "system": "Linux", "processor": "some"}
NEEDS_PACKAGE = pytest.mark.skipif(ORACLE_ONLY, reason="it needs the package")


# --- rounds ---------------------------------------------------------------------------------------


class Recorder:
    """Takes samples whose numbers are known, and fails where it is told to."""

    def __init__(self, failing: Sequence[tuple[str, int]] = ()) -> None:
        self.taken: list[str] = []
        self._failing = failing

    def take(self, variant: Any, options: Any) -> dict[str, Any]:
        times = self.taken.count(variant.name)
        self.taken.append(variant.name)
        if (variant.name, times) in self._failing:
            raise measuring.SampleError("it broke")
        return {"x": float(ord(variant.name[0]) + times)}


def make_suite(take: Callable[..., Any], **more: Any) -> Any:
    names = ("a", "b", "c")
    workload = measuring.Workload(
        "some work",
        tuple(measuring.Variant(name, name, partner="a") for name in names),
        take,
        (
            measuring.Figure("x", measuring.value("x")),
            measuring.Figure("x a", measuring.value("x"), "a"),
        ),
        **more,
    )
    return measuring.Suite(
        name="test",
        summary="a test",
        workloads={"work": workload, "rare": workload},
        peers=(*names, "d"),
        find_peers=lambda names: (
            {name: {"version": "1", "gil_enabled": name == "b"} for name in names if name != "c"},
            {name: "not installed" for name in names if name == "c"},
        ),
        full=measuring.Timing(rounds=3, seconds=1.0, warmup=0.1),
        quick=measuring.Timing(rounds=1, seconds=0.5, warmup=0.1),
        more={"rare"},
        absent={"d": "cannot do it"},
    )


def measure(suite: Any, peers: Sequence[str], *arguments: str) -> Any:
    options = measuring.parse_options(suite, arguments)
    progress = measuring.Progress(1, 1.0)
    return measuring.measure(suite, "work", options, peers, progress)


def test_samples_are_interleaved_and_each_round_begins_with_another_variant() -> None:
    recorder = Recorder()
    measure(make_suite(recorder.take), ("a", "b", "c"))
    assert "".join(recorder.taken) == "abc" + "bca" + "cab"


def test_a_variant_that_fails_is_named_and_the_others_go_on() -> None:
    recorder = Recorder([("b", 1)])
    results = measure(make_suite(recorder.take), ("a", "b", "c"))
    assert results.failures == {"b": "it broke"}
    assert {name: len(taken) for name, taken in results.samples.items()} == {"a": 3, "c": 3}
    assert recorder.taken.count("b") == 2


def test_a_peer_without_a_variant_is_named_with_the_reason() -> None:
    recorder = Recorder()
    assert measure(make_suite(recorder.take), ("a", "d")).absent == {"d": "cannot do it"}
    special = make_suite(recorder.take, absent={"d": "not here"})
    assert measure(special, ("a", "d")).absent == {"d": "not here"}


def test_a_workload_takes_no_more_rounds_than_it_needs() -> None:
    recorder = Recorder()
    measure(make_suite(recorder.take, rounds=2), ("a",))
    assert recorder.taken == ["a", "a"]


# --- the command line -----------------------------------------------------------------------------


def test_a_run_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = make_suite(Recorder().take)
    file = tmp_path / "run.json"
    assert measuring.run_suite(suite, ["--json", str(file)]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["missing"] == {"c": "not installed"}
    assert [record["workload"] for record in document["results"]] == ["work"]
    assert document["results"][0]["samples"]["b"] == [{"x": 98.0}, {"x": 99.0}, {"x": 100.0}]
    assert measuring.run_suite(suite, ["--table", str(file)]) == 0
    assert capsys.readouterr().out == printed
    assert "Left out: c: not installed" in printed
    assert "With the GIL on: b." in printed
    assert "Not in it: d (cannot do it)" in printed


def test_a_run_that_measured_nothing_fails() -> None:
    everything = [(name, 0) for name in "abc"]
    assert measuring.run_suite(make_suite(Recorder(everything).take), ["--rounds", "1"]) == 1
    assert measuring.run_suite(make_suite(Recorder(everything[:1]).take), ["--rounds", "1"]) == 0


def test_an_unknown_peer_is_named_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    suite = make_suite(Recorder().take)
    assert measuring.run_suite(suite, ["--peers", "a,granian", "--json", str(file)]) == 0
    missing = json.loads(file.read_text(encoding="utf-8"))["missing"]
    assert missing == {"granian": "not a peer of this suite (known: a, b, c, d)"}


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    calls = 0

    def take(variant: Any, options: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt
        return {"x": 1.0}

    file = tmp_path / "run.json"
    arguments = ["--only", "work,rare", "--rounds", "1", "--peers", "a,b", "--json", str(file)]
    assert measuring.run_suite(make_suite(take), arguments) == 1
    records = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert [(record["workload"], len(record["samples"])) for record in records] == [("work", 2)]


def test_sigterm_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(variant: Any, options: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {"x": 1.0}

    monkeypatch.setattr(sys, "argv", ["test"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert measuring.main(make_suite(take)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [([], ["work"]), (["--all"], ["work", "rare"]), (["--only", "rare"], ["rare"])],
)
def test_the_names_of_the_workloads_are_listed(
    arguments: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert measuring.run_suite(make_suite(Recorder().take), [*arguments, "--list"]) == 0
    assert capsys.readouterr().out.split() == names


def test_quick_is_a_default_for_what_is_not_given() -> None:
    suite = make_suite(Recorder().take)
    options = measuring.parse_options(suite, ["--quick", "--seconds", "7"])
    assert (options.rounds, options.seconds, options.warmup) == (1, 7.0, 0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "wrok"], "unknown: wrok (known: work)"),
        (["--rounds", "0"], "must be more than 0, not 0"),
        (["--seconds", "-1"], "must be more than 0, not -1.0"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        measuring.parse_options(make_suite(Recorder().take), arguments)
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err


# --- tables ---------------------------------------------------------------------------------------

RESULTS = measuring.Results(
    "work", {"a": [{"x": 1.0}, {"x": 2.0}, {"x": 4.0}], "b": [{"x": 3.0}, {"x": 4.0}, {"x": 4.0}]}
)


def test_ratios_are_those_within_a_round() -> None:
    b = measuring.Variant("b", "b", partner="a")
    x = measuring.value("x")
    assert reporting.values(RESULTS, b, measuring.Figure("x", x)) == [3.0, 4.0, 4.0]
    assert reporting.values(RESULTS, b, measuring.Figure("x", x, "a")) == [3.0, 2.0, 1.0]
    assert reporting.values(RESULTS, b, measuring.Figure("x", x, measuring.PARTNER)) == [3, 2, 1]


def test_there_is_no_ratio_without_a_baseline_of_the_same_rounds() -> None:
    b = measuring.Variant("b", "b")
    x = measuring.value("x")
    assert reporting.values(RESULTS, b, measuring.Figure("x", x, "c")) == []
    fewer = dataclasses.replace(RESULTS, samples={**RESULTS.samples, "a": [{"x": 1.0}]})
    assert reporting.values(fewer, b, measuring.Figure("x", x, "a")) == []
    nothing = dataclasses.replace(RESULTS, samples={**RESULTS.samples, "a": [{"x": 0.0}] * 3})
    assert reporting.values(nothing, b, measuring.Figure("x", x, "a")) == []
    assert reporting.values(RESULTS, b, measuring.Figure("y", measuring.value("y"))) == []


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], "-"),
        ([1.0], "1.00"),
        ([2.0, 2.0, 2.0], "2.00"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "3.00 (2.00-4.00)"),
        ([12345.0, 23456.0], "17,900 (15,123-20,678)"),
    ],
)
def test_values_show_the_median_and_the_quartiles(numbers: list[float], text: str) -> None:
    assert reporting.format_values(numbers) == text


def test_a_disturbed_table_says_so() -> None:
    def lines(others: float) -> list[str]:
        sample = {"others_cpu_ns": others * 1e9, "seconds": 2.0}
        return list(reporting.format_disturbance(measuring.Results("work", {"a": [sample] * 3})))

    assert lines(0.1) == []
    assert "in 3 of 3 samples" in lines(0.5)[1]


def test_a_load_that_used_all_its_cores_is_named() -> None:
    def lines(*cores: float) -> list[str]:
        samples = [{"load_cpu_ns": used * 2e9, "seconds": 1.0, "load_threads": 2} for used in cores]
        results = measuring.Results("work", {"a": samples, "b": [{"seconds": 1.0}], "c": []})
        return list(reporting.format_load_bound(results))

    assert lines(0.5, 0.8) == []
    assert "beside a: " in lines(0.5, 0.95)[1]


def test_a_workload_that_is_not_known_is_named() -> None:
    record = {"workload": "old", "samples": {}, "failures": {}}
    document = {"machine": MACHINE, "peers": {}, "missing": {}, "rounds": 1, "seconds": 1.0}
    lines = list(
        reporting.format_document(make_suite(Recorder().take), {**document, "results": [record]})
    )
    assert lines[-1] == "`old`: not a workload of this suite"


# --- the suites -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [sockets.SUITE, pool.SUITE], ids=["sockets", "pool"])
def test_the_suites_are_consistent(suite: Any) -> None:
    for name, workload in suite.workloads.items():
        rows = [variant.name for variant in workload.variants]
        assert len(set(rows)) == len(rows), name
        assert {variant.peer for variant in workload.variants} <= set(suite.peers), name
        for figure in workload.figures:
            if figure.baseline == measuring.PARTNER:
                assert {variant.partner for variant in workload.variants} <= set(rows), name
            elif figure.baseline:
                assert figure.baseline in rows, (name, figure.title)
        for peer in suite.peers:
            if peer not in {variant.peer for variant in workload.variants}:
                assert peer in workload.absent or peer in suite.absent, (name, peer)


def test_what_a_loop_is_unable_of_is_a_workload() -> None:
    assert set(child.UNABLE) <= set(child.LOOPS)
    for reasons in child.UNABLE.values():
        assert set(reasons) <= set(workloads.WORKLOADS)


@pytest.mark.parametrize("peer", [pytest.param("loop_pool", marks=NEEDS_PACKAGE), "asyncio"])
def test_a_feature_is_tried_on_a_loop(peer: str) -> None:
    only = "tcp_server,unix_datagrams,system_exit,beside_a_blocked_task"
    command = [sys.executable, FOLDER / "features.py", "--peers", peer, "--only", only]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANG)
    header, _, *rows = done.stdout.splitlines()
    assert header == f"| | {peer} |"
    assert [row.split(" | ")[1].removesuffix(" |") for row in rows] == [*["yes"] * 3, "it waited"]


def test_only_whole_buckets_within_a_block_count() -> None:
    # Buckets of 10 that begin at 100: 0 is 100 to 110, 1 is 110 to 120, ...
    assert pool.whole_buckets([(105, 135)], 100, 10, 10) == [1, 2]
    assert pool.whole_buckets([(110, 120), (150, 171)], 100, 10, 10) == [1, 5, 6]
    assert pool.whole_buckets([(0, 115)], 100, 10, 10) == [0]
    assert pool.whole_buckets([(180, 999)], 100, 10, 10) == [8, 9]
    assert pool.whole_buckets([(111, 119)], 100, 10, 10) == []


def test_the_summary_of_strace_is_read() -> None:
    summary = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000060           1      2000         7 recvfrom
 40.00    0.000040           1      1000           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.000100           1      3000         7 total
"""
    calls = sockets.parse_strace(summary)
    assert calls == {"recvfrom": 2000, "sendto": 1000}
    note = sockets.note_syscalls([{"requests": 1000, "calls": {**calls, "futex": 9}}])
    assert note == "recvfrom 2.00, sendto 1.00"


def test_failed_requests_fail_a_sample() -> None:
    good = {"requests": 1, "errors": 0}
    assert under_load.check_load(good) is good
    with pytest.raises(measuring.SampleError, match="2 requests failed; first: closed"):
        under_load.check_load({"requests": 5, "errors": 2, "first_error": "closed"})
    with pytest.raises(measuring.SampleError, match="no request was answered"):
        under_load.check_load({"requests": 0, "errors": 0})


# --- servers --------------------------------------------------------------------------------------


@pytest.fixture
def options() -> Any:
    return measuring.parse_options(sockets.SUITE, ["--seconds", "0.2", "--warmup", "0.05"])


@pytest.fixture
def connect() -> Iterator[Callable[[Any], socket.socket]]:
    opened: list[socket.socket] = []

    def connect(server: Any) -> socket.socket:
        address = server.hello
        kind = socket.SOCK_DGRAM if address.get("udp") else socket.SOCK_STREAM
        family = socket.AF_UNIX if "unix" in address else socket.AF_INET
        sock = socket.socket(family, kind)
        opened.append(sock)
        sock.settimeout(HANG)
        sock.connect(address.get("unix") or ("127.0.0.1", address["port"]))
        if "tls" in address:
            context = ssl.create_default_context(cafile=address["tls"])
            sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
            opened.append(sock)
        return sock

    yield connect
    for sock in opened:
        sock.close()


def receive(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := sock.recv(count - len(received))):
        received += data
    return received


@pytest.mark.parametrize(
    "kind", ["protocol", "buffered", "streams", "sock", "udp", "unix", "tls", "pool"]
)
def test_a_server_echoes(kind: str, connect: Callable[[Any], socket.socket]) -> None:
    if kind == "tls":
        program("openssl")
    arguments = ("--loops", "2") if kind == "pool" else ()
    with under_load.Server("asyncio", "asyncio", kind, arguments).start() as server:
        assert server.hello["version"] == sys.version.split()[0]
        sock = connect(server)
        sock.sendall(b"some bytes")
        assert receive(sock, 10) == b"some bytes"


@NEEDS_PACKAGE
@pytest.mark.parametrize("kind", ["protocol", "pool-streams"])
def test_a_server_in_a_pool_echoes(kind: str, connect: Callable[[Any], socket.socket]) -> None:
    with under_load.on_loops("loop_pool, 2", kind, 2).start() as server:
        sock = connect(server)
        sock.sendall(b"some bytes")
        assert receive(sock, 10) == b"some bytes"


@NEEDS_PACKAGE
@pytest.mark.parametrize("kind", ["tls-flood", "rustls-flood"])
def test_a_bulk_server_repeats_the_cycle_under_tls(
    kind: str, connect: Callable[[Any], socket.socket]
) -> None:
    program("openssl")
    count = len(protocols.CYCLE) * 10_000 + 100
    with under_load.Server("loop_pool", "loop_pool", kind).start() as server:
        sock = connect(server)
        assert receive(sock, count) == (protocols.CYCLE * 10_001)[:count]


@pytest.mark.parametrize("kind", ["flood", "sendfile", "bulk"])
def test_a_bulk_server_repeats_the_cycle(
    kind: str, connect: Callable[[Any], socket.socket]
) -> None:
    count = len(protocols.CYCLE) * 10_000 + 100
    with under_load.Server("asyncio", "asyncio", kind).start() as server:
        received = receive(connect(server), count)
    assert received == (protocols.CYCLE * 10_001)[:count]


def test_a_sink_counts_what_it_receives(connect: Callable[[Any], socket.socket]) -> None:
    with under_load.Server("asyncio", "asyncio", "sink").start() as server:
        sock = connect(server)
        sock.sendall(bytes(100_000))
        sock.close()
        sockets._wait_until(server, "received", 100_000)
        assert server.ask("connections") == {"connections": 0}


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(measuring.SampleError, match="pool needs --loops"):
        under_load.Server("asyncio", "asyncio", "pool").start()


def test_a_server_that_fails_later_says_why(connect: Callable[[Any], socket.socket]) -> None:
    pytest.importorskip("uvloop")
    # uvloop has no sendfile, which shows with the first connection.
    with under_load.Server("uvloop", "uvloop", "sendfile").start() as server:
        assert server.find_failure() is None
        assert receive(connect(server), 1) == b""
        assert server.find_failure() == "NotImplementedError"


def test_a_process_that_dies_is_named() -> None:
    dying = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    with pytest.raises(measuring.SampleError, match="ended by SIGKILL"):
        measuring.Process(dying)
    with pytest.raises(measuring.SampleError, match="exited with code 3"):
        measuring.Process([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(measuring.SampleError, match="/no/such/program cannot be started"):
        measuring.Process(["/no/such/program"])


def test_a_process_may_use_the_cores_that_it_is_given() -> None:
    mine = os.sched_getaffinity(0)
    program = (
        "import json, os, sys; "
        "print(json.dumps({'cores': sorted(os.sched_getaffinity(0))}), flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with measuring.Process(command, cores=[max(mine)]) as process:
        assert process.hello["cores"] == [max(mine)]
    with measuring.Process(command) as process:
        assert process.hello["cores"] == sorted(mine)
    assert os.sched_getaffinity(0) == mine


def test_a_pinned_server_has_cores_of_its_own_where_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_load, "CORE_NUMBERS", (0, 2, 4))
    monkeypatch.setattr(under_load, "CORES", 3)
    servers = [
        under_load.on_loops("uvloop, n", "protocol", loops, pinned=True) for loops in (1, 2, 3)
    ]
    assert [server.cores for server in servers] == [(0,), (0, 2), ()]
    assert under_load.on_loops("uvloop, 1", "protocol", 1).cores == ()


@pytest.mark.parametrize("peer", ["asyncio", pytest.param("loop_pool", marks=NEEDS_PACKAGE)])
def test_coroutines_are_handed_out(peer: str, options: Any) -> None:
    short = dataclasses.replace(options, seconds=0.05, warmup=0.01)
    sample = pool.take_fanout(measuring.Variant(peer, peer), short, work=10)
    assert sample["coroutines"] >= 500
    assert min(sample["wall_ns"], sample["cpu_ns"]) > 0


def test_memory_is_that_of_all_processes(options: Any) -> None:
    short = dataclasses.replace(options, warmup=0.01)

    def take(what: str, count: int) -> Any:
        arguments = () if what == "processes" else ("--loops", str(count))
        kind = "protocol" if what == "processes" else "pool"
        variant = under_load.Server(f"asyncio, {what}, {count}", "asyncio", kind, arguments)
        return pool.take_memory_of(variant, short)

    threads, processes = take("threads", 2), take("processes", 2)
    assert (threads["processes"], processes["processes"]) == (1, 2)
    assert 1_000_000 < threads["proportional_bytes"] < processes["proportional_bytes"]


# --- with the load generator ----------------------------------------------------------------------


@pytest.fixture
def programs() -> None:
    load = under_load.PROGRAMS / "load"
    sources = [*(FOLDER.parent / "echo").rglob("*.rs"), FOLDER.parent / "echo" / "Cargo.lock"]
    if not load.exists() or load.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        pytest.skip("sockets.py has not built the load generator from these sources")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("echo-protocol", "requests"),
        ("echo-udp", "requests"),
        ("bulk-receive", "total"),
        ("bulk-receive-tls", "total"),
        ("bulk-send-tls", "bytes"),
    ],
)
def test_a_sample_is_taken(name: str, number: str, options: Any) -> None:
    workload = sockets.SUITE.workloads[name]
    variant = next(each for each in workload.variants if each.name == "asyncio")
    sample = workload.take(variant, options)
    assert sample[number] > 100
    assert sample["server_cpu_ns"] > 0
    assert 0.1 < sample["seconds"] < HANG


@NEEDS_PACKAGE
@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("kind", ["tls", "rustls"])
def test_sessions_are_resumed_where_they_have_to_be(kind: str, options: Any) -> None:
    program("openssl")
    variant = under_load.Server("loop_pool", "loop_pool", kind)
    arguments = ("--fresh", "--connections", 4, "--size", 64)
    sample = under_load.take_load(variant, options, (*arguments, "--resume"))
    assert sample["requests"] > 10


@pytest.mark.usefixtures("programs")
def test_a_session_that_is_not_resumed_fails_the_sample(options: Any) -> None:
    program("openssl")
    folder = under_load.make_certificate()
    context = protocols.make_openssl_context(protocols.Place(folder, lambda _: None))
    context.num_tickets = 0
    with LoopThread(asyncio.new_event_loop()) as thread:
        serving = asyncio.start_server(protocols.echo_stream, "127.0.0.1", 0, ssl=context)
        server = thread.run(serving)
        address = {"port": server.sockets[0].getsockname()[1], "tls": str(folder / "cert.pem")}
        process = SimpleNamespace(
            hello=address, pid=os.getpid(), cores=(), find_failure=lambda: None
        )
        arguments = ("--fresh", "--connections", 4, "--size", 64, "--resume")
        with pytest.raises(measuring.SampleError, match="a session was not resumed"):
            under_load.run_load(process, options, *arguments)
        thread.loop.call_soon_threadsafe(server.close)
        thread.run(server.wait_closed())
    thread.loop.close()


@pytest.mark.usefixtures("programs")
def test_idle_connections_under_tls_have_shaken_hands(options: Any) -> None:
    program("openssl")
    short = dataclasses.replace(options, warmup=0.01)
    variant = under_load.Server("asyncio", "asyncio", "tls-idle")
    sample = sockets.take_memory(variant, short, counts=(20, 40, 60))
    assert (sample["few"], sample["many"]) == (20, 60)
    assert sample["resident_many"] > sample["resident_none"]


@pytest.mark.usefixtures("programs")
def test_the_open_loop_begins_every_request(options: Any) -> None:
    variant = under_load.on_loops("asyncio, 2 threads", "pool", 2)
    arguments = ("--connections", 4, "--threads", 2, "--rate", 500)
    assert under_load.take_load(variant, options, arguments)["requests"] == 100


@pytest.mark.usefixtures("programs")
def test_a_server_that_breaks_under_load_fails_the_sample(options: Any) -> None:
    variant = under_load.Server("asyncio", "asyncio", "flood")  # it sends what nobody asked for
    with pytest.raises(measuring.SampleError, match=r"requests failed; first: .*bytes"):
        under_load.take_load(variant, options, ("--connections", 1))
