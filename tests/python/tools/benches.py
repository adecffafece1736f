"""What the tests of `benches/python` share: its modules, and made-up results and suites."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ..support import ROOT

BENCHES = ROOT / "benches" / "python"

# The scripts know each other by names that other modules may have too: they are taken back.
_before = set(sys.modules)
sys.path.insert(0, str(BENCHES))
bench, compare, environment, figures, goals, losses, machine, micro, micro_tables, plots = (
    importlib.import_module(name)
    for name in (
        "bench",
        "compare",
        "environment",
        "figures",
        "goals",
        "losses",
        "machine",
        "micro",
        "micro_tables",
        "plots",
    )
)
progress, report, suites, svg = (
    importlib.import_module(name) for name in ("progress", "report", "suites", "svg")
)
sys.path.remove(str(BENCHES))
for _name in set(sys.modules) - _before:
    if str(BENCHES) in str(getattr(sys.modules[_name], "__file__", "")):
        del sys.modules[_name]


def micro_record(name: str, **nanoseconds: Sequence[float]) -> dict[str, Any]:
    """A workload of `micro.py`: peer -> time of an operation in each round."""
    samples = {
        peer: [{"operations": 10, "cpu_ns": 10 * each, "wall_ns": 1} for each in values]
        for peer, values in nanoseconds.items()
    }
    return {"workload": name, "summary": "", "clock": "cpu", "samples": samples, "failures": {}}


def server_record(name: str, samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A workload of a suite of servers."""
    return {"workload": name, "summary": "", "samples": samples, "failures": {}}


def document(*records: dict[str, Any], rounds: int = 3, **more: Any) -> dict[str, Any]:
    """What a suite writes."""
    return {
        "machine": {"python": "CPython", "system": "Linux", "processor": "X, 4 cores", "load": ""},
        "peers": {
            peer: {"version": "1.0", "gil_enabled": False} for peer in ("uvloop", "loop_pool")
        },
        "missing": {},
        "rounds": rounds,
        "results": list(records),
        **more,
    }


def server_sample(cpu: float) -> dict[str, Any]:
    latencies = {"p50_us": 10.0 * cpu, "p99_us": 100.0 * cpu, "p999_us": 1000.0 * cpu}
    memory = {"bytes_per_connection": 600.0 * cpu, "proportional_bytes": 4e7 * cpu}
    return {"server_cpu_ns": cpu * 1e6, "requests": 1000, "seconds": 2.0, **latencies, **memory}


def all_documents() -> dict[str, dict[str, Any]]:
    """Something for every plot."""

    def samples(names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        return {
            name: [server_sample(index + each / 10) for each in (9, 10, 11)]
            for index, name in enumerate(names)
        }

    counted = [f"{loop}, {count}" for loop in ("loop_pool", "uvloop") for count in (1, 2, 4)]
    loops = ["loop_pool", "uvloop", "asyncio & <others>"]
    return {
        "micro": document(micro_record("switch", uvloop=[4, 5, 6], loop_pool=[2, 2, 3])),
        "sockets": document(
            server_record("echo-protocol", samples(loops)),
            server_record("idle-memory", samples(loops)),
        ),
        "pool": document(
            server_record("pool-scaling", samples(counted)),
            server_record("stuck", samples(loops)),
            server_record("memory", samples(counted)),
        ),
        "applications": document(server_record("json", samples(["loop_pool, 2 loops", "uvicorn"]))),
    }


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules of the benchmark of applications."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(BENCHES), *sys.path])
    load = importlib.import_module
    yield SimpleNamespace(
        main=load("applications"),
        servers=load("application_servers"),
        workloads=load("application_workloads"),
        loads=load("application_load"),
        common=load("bench_common"),
        load=load,
    )
    for name in set(sys.modules) - known:
        if str(BENCHES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


SCRIPT = """
import json, sys, time
if "--list" in sys.argv:
    if "--peers" in sys.argv and sys.argv[sys.argv.index("--peers") + 1] not in ("uvloop", "own"):
        print("usage", "unknown peer", sep="\\n", file=sys.stderr)
        sys.exit(2)
    print("one", "two", sep="\\n")
    sys.exit()
BODY
"""


def suite_of(folder: Path, body: str) -> Any:
    """A suite that is a script with two workloads and two peers."""
    (folder / "made.py").write_text(SCRIPT.replace("BODY", body), encoding="utf-8")

    class Made(suites.Suite):
        @property
        def script(self) -> Path:
            return folder / "made.py"

    return Made("micro", 8, 1)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Results and trials of a driver that knows one suite and waits for no quiet machine."""
    results, trials = tmp_path / "results", tmp_path / "trials"
    results.mkdir()
    monkeypatch.setattr(bench, "RESULTS", results)
    monkeypatch.setattr(bench, "TRIALS", trials)
    monkeypatch.setattr(bench, "QUIET_STEP", 0.01)
    monkeypatch.setattr(bench, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(bench, "QUICK_QUIET_SECONDS", 0.0)
    run = document(micro_record("one", uvloop=[2, 2, 2], loop_pool=[1, 1, 1]))
    run["missing"] = {"talyn": "ImportError"}
    body = f"""
if "--table" in sys.argv:
    print("| the table |")
elif "--json" in sys.argv:
    open(sys.argv[sys.argv.index("--json") + 1], "w").write({json.dumps(run)!r})
    print("| the table |")
"""
    known = {"micro": suite_of(tmp_path, body)}
    for module in (bench, report, suites):
        monkeypatch.setattr(module, "SUITES", known)
    return results, trials
