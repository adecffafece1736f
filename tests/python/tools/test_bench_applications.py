"""The benchmark of applications: what it starts, what it makes of samples, and what fails in it.

No load is put on anything here, and the only server is one of these tests.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ..support import HANG
from .benches import BENCHES, modules

__all__ = ["modules"]  # a fixture

if sys.platform != "linux":
    pytest.skip("the benchmark needs Linux", allow_module_level=True)


def sample(**changes: Any) -> dict[str, Any]:
    """What the load and a server tell of a run."""
    return {
        "seconds": 2.0,
        "requests": 1000,
        "server_cpu_ns": 1_000_000_000,
        "load_cpu_ns": 0,
        "others_cpu_ns": 0,
        "p50_us": 100.0,
        "p99_us": 200.0,
        "p999_us": 300.0,
        "gil_enabled": False,
        "loop": "a.Loop",
        **changes,
    }


@pytest.fixture
def scripted(modules: SimpleNamespace, tmp_path: Path) -> Any:
    """Makes a server of some lines of Python, which get the port as `port`."""

    def make(code: str, starts: int = 1) -> Any:
        script = tmp_path / "scripted.py"
        script.write_text(f"import os, sys, time\nport = int(sys.argv[1])\n{code}\n")

        class Scripted(modules.servers.Variant):
            def command(self, app: str, port: int, certificate: Path | None = None) -> list[str]:
                return [sys.executable, str(script), str(port)]

        return modules.servers.Server(Scripted("scripted", "none", (), starts), "none")

    return make


LISTEN = """
import http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/right" else 404)
        self.end_headers()
        self.wfile.write(b"{}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
open(os.environ["BENCH_STARTS"], "a").write("start\\n")
"""


# What it starts.


def test_every_workload_names_variants_that_there_are(modules: SimpleNamespace) -> None:
    variants = modules.servers.make_variants(4)
    for workload in modules.workloads.WORKLOADS.values():
        assert set(workload.variants) <= set(variants)
        names = [variants[short].name for short in workload.variants]
        assert modules.workloads.BASELINE in names
        assert "loop_pool, 4 loops" in names
    assert {variant.peer for variant in variants.values()} == set(modules.servers.PEERS)
    assert len({variant.name for variant in variants.values()}) == len(variants)


def test_every_peer_has_a_part_in_a_workload_or_a_reason(modules: SimpleNamespace) -> None:
    variants = modules.servers.make_variants(2)
    for name, workload in modules.workloads.WORKLOADS.items():
        part = {variants[short].peer for short in workload.variants}
        assert part | set(workload.absent) == set(modules.servers.PEERS), name
        assert not part & set(workload.absent), name
        assert "loop_pool, 2 loops, native" in {variants[each].name for each in workload.variants}


def test_the_server_in_rust_has_to_be_what_answers(modules: SimpleNamespace, scripted: Any) -> None:
    variants = modules.servers.make_variants(2)
    for short in ("native-1", "native-n"):
        command = variants[short].command("bench_raw", 1)
        assert command[command.index("--http") + 1] == "native"
    with scripted(LISTEN + "time.sleep(60)") as server:
        said = server.variant
        server.variant = replace(said, signature="BaseHTTP")
        with pytest.raises(modules.servers.SampleError, match=r"answered by 'BaseHTTP/.*', not by"):
            server.fetch("/right")
        server.variant = said
        assert server.fetch("/right") == "{}"


def test_a_workload_adds_options_of_its_own(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorded:
        def __init__(self, variant: Any, app: str, environment: dict[str, str], *_: Any) -> None:
            started.append((variant.command(app, 1), environment.get("BENCH_STUCK")))
            raise modules.servers.SampleError("enough")

    started: list[tuple[list[str], str | None]] = []
    main = modules.main
    monkeypatch.setattr(main, "Server", Recorded)
    for name in ("readiness", "plaintext"):
        workload = modules.workloads.WORKLOADS[name]
        for short in ("native-n", "granian-n"):
            variant = main.make_variants(2)[short]
            with pytest.raises(modules.servers.SampleError, match="enough"):
                main.take(workload, variant, main.parse_options([]), modules.loads.Setting("/x"))
    assert [stuck for _, stuck in started] == ["1", "1", None, None]
    assert ["--readiness-path" in command for command, _ in started] == [True, False, False, False]
    assert started[0][0][-1] == "bench_raw:app"


def test_the_large_servers_get_the_number_of_loops(modules: SimpleNamespace) -> None:
    variants = modules.servers.make_variants(7)
    for short in (
        *("pool-n", "pool-factory", "uvicorn-n", "granian-n", "hypercorn-n"),
        *("weft-n", "peregrine-n", "h2corn-n"),
    ):
        command = variants[short].command("bench_raw", 1234)
        assert command[:2] == [sys.executable, "-m"]
        assert "7" in command
        assert variants[short].starts == 7
        assert any("1234" in part for part in command)
        assert command[-1] == f"bench_raw:{'make' if short == 'pool-factory' else 'app'}"


def test_a_peer_that_is_not_installed_is_left_out_with_its_reason(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.servers, "PEERS", {"nowhere": ("no-such-package",)})
    found, missing = modules.servers.find_peers(["nowhere"])
    assert found == {}
    assert missing == {"nowhere": "no-such-package is not installed"}


def test_a_peer_tells_the_versions_of_all_its_packages(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.servers, "PEERS", {"one": ("pytest",), "two": ("pytest", "pluggy")})
    found, _ = modules.servers.find_peers(["one", "two"])
    version = pytest.__version__
    assert found["one"]["version"] == version
    assert found["two"]["version"] == f"{version} (pluggy {importlib.metadata.version('pluggy')})"


def test_zttp_is_measured_below_both_servers(modules: SimpleNamespace) -> None:
    variants = modules.servers.make_variants(2)
    for short, module in (("pool-zttp", "loop_pool"), ("uvicorn-zttp", "uvicorn")):
        command = variants[short].command("bench_raw", 1)
        assert command[2] == module
        assert command[command.index("--http") + 1] == "zttp"


def test_a_server_over_https_gets_a_certificate(modules: SimpleNamespace) -> None:
    variants = modules.servers.make_variants(2)
    over_tls = [each for each in modules.workloads.WORKLOADS.values() if each.uses_tls]
    assert over_tls
    for short in {short for workload in over_tls for short in workload.variants}:
        command = variants[short].command("bench_raw", 1, Path("/folder"))
        certificate, key = (command.index(f"/folder/{name}.pem") for name in ("cert", "key"))
        assert command[certificate - 1].startswith("--")
        assert command[key - 1].startswith("--")
        assert command[-1] == "bench_raw:app"
        assert "/folder/cert.pem" not in variants[short].command("bench_raw", 1)
    stranger = modules.servers.Variant("a stranger", "stranger", ())
    with pytest.raises(modules.servers.SampleError, match="HTTPS is not measured of it"):
        stranger.command("bench_raw", 1, Path("/folder"))


def test_a_server_is_ready_once_it_has_started_everywhere(
    modules: SimpleNamespace, scripted: Any
) -> None:
    again = 'time.sleep(0.2)\nopen(os.environ["BENCH_STARTS"], "a").write("start\\n")\n'
    with scripted(LISTEN + again + "time.sleep(60)", starts=2) as server:
        assert server._count_starts() == 2
        assert server.fetch("/right") == "{}"
        with pytest.raises(modules.servers.SampleError, match="/wrong: 404"):
            server.fetch("/wrong")
        assert server.memory() > 1_000_000


def test_a_server_that_ends_says_why(modules: SimpleNamespace, scripted: Any) -> None:
    with pytest.raises(
        modules.servers.SampleError, match="it exited with code 1: ValueError: no such thing"
    ):
        with scripted("raise ValueError('no such thing')"):
            pass


def test_no_process_of_a_server_is_left_behind(modules: SimpleNamespace, scripted: Any) -> None:
    child = "import subprocess\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)"
    with scripted(LISTEN + child) as server:
        deadline = time.monotonic() + HANG
        while len(members := modules.servers.family(server.pid)) < 2:
            assert time.monotonic() < deadline
    for pid in members:
        # Nothing is left, or what waits for its parent to notice.
        state = Path(f"/proc/{pid}/stat")
        deadline = time.monotonic() + HANG
        while state.exists() and " Z " not in state.read_text():
            assert time.monotonic() < deadline


def test_memory_is_what_no_file_stands_behind(modules: SimpleNamespace) -> None:
    rollup = "00400000-7fff ---p 0 00:00 0  [rollup]\nRss: 900 kB\nPss: 800 kB\nPss_Anon: 30 kB\n"
    assert modules.servers.parse_rollup(rollup + "Pss_File: 768 kB\nPss_Shmem: 2 kB\n") == 32768
    with pytest.raises(modules.servers.SampleError, match="does not tell Pss_Shmem"):
        modules.servers.parse_rollup(rollup)


# What it measures.


def test_each_round_begins_with_another_one(modules: SimpleNamespace) -> None:
    rounds = [modules.main.rotated("abc", number) for number in range(4)]
    assert ["".join(each) for each in rounds] == ["abc", "bca", "cab", "abc"]
    assert modules.main.rotated([], 1) == []


def test_what_fails_is_named_and_the_rest_goes_on(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(workload: Any, variant: Any, options: Any, setting: Any) -> dict[str, Any]:
        if variant.peer == "granian":
            raise modules.servers.SampleError("it broke | there")
        return sample()

    main = modules.main
    monkeypatch.setattr(main, "take", take)
    options = main.parse_options(["--rounds", "2", "--only", "mixed", "--loops", "3"])
    variants = main.chosen_variants("mixed", list(modules.servers.PEERS), options)
    results = main.measure("mixed", variants, options, main.Progress(10, 1.0))
    assert results.failures == {"granian, 3 threads": "it broke | there"}
    assert [len(samples) for samples in results.samples.values()] == [2] * (len(variants) - 1)
    assert "mixed, round 2 of 2: uvicorn, 1 process; " in capsys.readouterr().err


def test_a_missing_database_is_the_reason_of_all_its_variants(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.servers.services, "where", lambda _: None)
    main = modules.main
    options = main.parse_options(["--quick"])
    variants = main.chosen_variants("database", ["loop_pool"], options)
    results = main.measure("database", variants, options, main.Progress(2, 1.0))
    assert results.samples == {}
    assert set(results.failures) == {
        f"loop_pool, {loops}{kind}"
        for loops in ("1 loop", f"{options.loops} loops")
        for kind in ("", ", native")
    }
    assert set(results.failures.values()) == {"postgres is not installed (make services)"}


def test_a_database_connection_budget_is_the_same_for_all(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorded:
        def __init__(self, variant: Any, app: str, environment: dict[str, str], *_: Any) -> None:
            budgets[variant.name] = variant.starts * int(environment["BENCH_DATABASE_CONNECTIONS"])
            raise modules.servers.SampleError("enough")

    budgets: dict[str, int] = {}
    main = modules.main
    monkeypatch.setattr(main, "Server", Recorded)
    monkeypatch.setattr(modules.servers, "database", None)
    workload = modules.workloads.WORKLOADS["database"]
    for variant in main.make_variants(4).values():
        with pytest.raises(modules.servers.SampleError, match="enough"):
            main.take(workload, variant, main.parse_options([]), modules.loads.Setting("/db"))
    assert set(budgets.values()) == {modules.loads.DATABASE_CONNECTIONS}


# What it tells.


@pytest.mark.parametrize(
    ("number", "text"),
    [(12345.6, "12,346"), (123.45, "123"), (12.345, "12.3"), (0.012345, "0.0123"), (0, "0")],
)
def test_numbers_have_three_digits_that_count(
    modules: SimpleNamespace, number: float, text: str
) -> None:
    assert modules.main.format_number(number) == text


def test_the_tables_hold_medians_ratios_and_reasons(modules: SimpleNamespace) -> None:
    document = {
        "machine": {"python": "CPython", "system": "Linux", "processor": "x"},
        "peers": {"uvicorn": {"version": "1.0", "gil_enabled": True}},
        "missing": {"granian": "granian is not installed"},
        "rounds": 3,
        "seconds": 2.0,
        "loops": 2,
        "results": [
            {
                "workload": "json",
                "summary": "",
                "samples": {
                    "uvicorn, 1 process": [sample(), sample(), sample()],
                    "loop_pool, 2 loops": [
                        sample(requests=count, gil_enabled=True) for count in (3000, 2000, 2500)
                    ],
                },
                "failures": {"hypercorn, 2 processes": "it broke | there"},
                "absent": {"weft": "has no such thing", "zttp": "has no such thing"},
            }
        ],
    }
    lines = list(modules.main.format_document(document))
    assert "Left out: granian: granian is not installed" in lines
    rows = {line.split(" | ")[0]: line for line in lines}
    assert (
        "| 1,250 (1,000-1,500) | 2.50 (2.00-3.00) | 400 (333-500) " in rows["| loop_pool, 2 loops"]
    )
    assert "no result: it broke / there" in rows["| hypercorn, 2 processes"]
    assert "Not in it: weft, zttp (has no such thing)" in lines
    assert "With the GIL on: loop_pool, 2 loops." in lines
    assert not any("DISTURBED" in line or "LIMITED" in line for line in lines)
    document["results"][0]["samples"]["uvicorn, 1 process"][0]["others_cpu_ns"] = 1_000_000_000
    document["results"][0]["samples"]["uvicorn, 1 process"][1]["load_cpu_ns"] = 1_900_000_000
    text = "\n".join(modules.main.format_document(document))
    assert "DISTURBED: in 1 of 6" in text
    assert "LIMITED: in 1 of 6" in text


def test_the_state_of_the_samples_is_told_of_their_peer(modules: SimpleNamespace) -> None:
    main = modules.main
    peers = {"uvicorn": {"gil_enabled": False, "loops": []}}
    samples = [sample(), sample(gil_enabled=True)]
    main.note_states(peers, main.Results("json", {"uvicorn, 1 process": samples}), 2)
    assert peers == {"uvicorn": {"gil_enabled": True, "loops": ["a.Loop"]}}


# The command line.


def test_quick_is_shorter_and_gives_way_to_what_is_said(modules: SimpleNamespace) -> None:
    full, quick = modules.main.parse_options([]), modules.main.parse_options(["--quick"])
    assert full.rounds > quick.rounds
    assert full.timing.seconds > quick.timing.seconds
    several = modules.main.parse_options(["--quick", "--rounds", "4", "--seconds", "9"])
    assert (several.rounds, several.timing.seconds) == (4, 9.0)
    for name in modules.workloads.WORKLOADS:
        chosen = modules.main.chosen_variants(name, ["loop_pool", "uvicorn"], quick)
        assert {variant.peer for variant in chosen} == {"loop_pool", "uvicorn"}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only", "nothing"],
        ["--peers", "nobody"],
        ["--rounds", "0"],
        ["--seconds", "nan"],
        ["--loops", "1"],
    ],
)
def test_a_wrong_option_is_named(
    modules: SimpleNamespace, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    with pytest.raises(SystemExit):
        modules.main.parse_options(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_list_names_the_workloads() -> None:
    command = [sys.executable, str(BENCHES / "applications.py"), "--list"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=HANG)
    assert "database" in done.stdout.splitlines()
