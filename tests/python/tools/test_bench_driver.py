"""`benches/python`: what the driver makes of arguments, how it runs suites and what it keeps.

Nothing is measured here. The results are made up; the suites that are run are small scripts.
"""

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support import HANG
from .benches import (
    bench,
    document,
    environment,
    folders,
    machine,
    micro,
    progress,
    server_record,
    suite_of,
    suites,
)

__all__ = ["folders"]  # a fixture


# --- choosing -------------------------------------------------------------------------------------


def test_a_choice_names_suites_and_workloads() -> None:
    assert suites.parse_choice("micro,sockets/a,sockets/b") == {"micro": [], "sockets": ["a", "b"]}
    assert suites.parse_choice("sockets/a,sockets") == {"sockets": []}
    with pytest.raises(suites.SelectionError, match=r"no such suite: macro \(known: micro"):
        suites.parse_choice("macro")
    with pytest.raises(suites.SelectionError, match="no suite is named"):
        suites.parse_choice(",")


def test_the_command_line_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bench.parse_options([]).choice) == ["micro", "sockets", "pool", "applications"]
    assert bench.parse_options(["--peers", "a,b", "--quick"]).peers == ["a", "b"]
    for arguments, said in (
        (["--only", "macro"], "no such suite: macro"),
        (["--compare", "/none.json", "/none.json"], "there is no file /none.json"),
    ):
        with pytest.raises(SystemExit) as exit_:
            bench.parse_options(arguments)
        assert exit_.value.code == 2
        assert said in capsys.readouterr().err


def test_the_micro_suite_says_its_workloads_and_its_peers() -> None:
    names = micro.parse_options(["--list"]).only
    assert {"switch", "timers_cancel_1m", "queue"} < set(names)
    quick = micro.parse_options(["--quick"])
    assert set(names) - set(quick.only) == {"timers_cancel_1m", "timers_fire_1m"}
    assert quick.rounds == micro.QUICK_ROUNDS
    assert micro.parse_options(["--only", "switch,queue"]).only == ["switch", "queue"]
    for wrong in (["--only", "none"], ["--peers", "none"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            micro.parse_options(wrong)


def test_a_plan_has_what_was_chosen_and_knows_its_time(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "")
    plan, strangers = suites.make_plan(suite, ["two"], ["uvloop", "other"], quick=False)
    assert strangers == ["other"]
    assert plan.seconds == 8 * 60 / 2
    assert plan.partial
    assert plan.command(Path("out"))[2:] == [
        *("--json", Path("out"), "--only", "two", "--peers", "uvloop")
    ]
    whole, _ = suites.make_plan(suite, [], [], quick=False)
    assert not whole.partial
    quick, _ = suites.make_plan(suite, [], [], quick=True)
    assert (quick.partial, quick.seconds) == (True, 60)
    assert "--quick" in quick.command(Path("out"))
    with pytest.raises(suites.SelectionError, match="no workload three"):
        suites.make_plan(suite, ["three"], [], quick=False)
    with pytest.raises(suites.SuiteError, match="none of the peers other"):
        suites.make_plan(suite, [], ["other"], quick=False)


def test_a_suite_that_is_not_there_says_so() -> None:
    with pytest.raises(suites.SuiteError, match=r"there is no absent\.py"):
        suites.Suite("absent", 1, 1).workloads()


# --- running --------------------------------------------------------------------------------------


def run_made(folder: Path, body: str) -> tuple[list[tuple[str, float]], list[str]]:
    """Run a made suite; returns its progress and its other words."""
    plan, _ = suites.make_plan(suite_of(folder, body), [], [], quick=True)
    shown: list[tuple[str, float]] = []
    noted: list[str] = []
    suites.run_plan(
        plan,
        folder / "out.json",
        folder / "out.md",
        lambda text, left: shown.append((text, left)),
        noted.append,
    )
    return shown, noted


def test_progress_is_told_from_other_words(tmp_path: Path) -> None:
    body = """
print("one, round 1; 3 min left", file=sys.stderr)
print("a warning", file=sys.stderr)
print("one, round 2; < 1 min left", file=sys.stderr)
print("| table |")
"""
    shown, noted = run_made(tmp_path, body)
    assert shown == [("one, round 1", 180.0), ("one, round 2", 30.0)]
    assert noted == ["a warning"]
    assert (tmp_path / "out.md").read_text(encoding="utf-8") == "| table |\n"


def test_what_progress_writes_the_driver_reads(capsys: pytest.CaptureFixture[str]) -> None:
    for seconds, read in ((130.0, 120.0), (20.0, 30.0)):
        progress.say(f"text; {progress.format_left(seconds)}")
        line = capsys.readouterr().err.strip()
        assert progress.parse_left(line) == ("text", read)
    assert progress.parse_left("3 min left over") is None


def test_a_suite_that_fails_gives_its_last_words(tmp_path: Path) -> None:
    body = 'sys.exit("no way\\nout of it")'
    with pytest.raises(suites.SuiteError, match="exit code 1: out of it"):
        run_made(tmp_path, body)


def test_a_suite_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit is made of the budget (0 here) and of this.
    monkeypatch.setattr(suites, "OVERDUE", 0.0)
    monkeypatch.setattr(suites, "OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(suites, "END_SECONDS", HANG)
    with pytest.raises(suites.SuiteError, match="did not end"):
        run_made(tmp_path, f"time.sleep({2 * HANG})")


def options_of(**changed: Any) -> Any:
    given = {"choice": {"micro": []}, "peers": [], "quick": False}
    return bench.Options(**{**given, "list": False, "report": False, "compare": None, **changed})


def test_only_a_full_run_replaces_published_results(folders: tuple[Path, Path]) -> None:
    results, trials = folders
    for changed in ({"quick": True}, {"peers": ["uvloop"]}, {"choice": {"micro": ["one"]}}):
        assert bench.run_all(options_of(**changed)) == 0
        assert not list(results.iterdir())
        (trials / "micro.json").unlink()
        assert "| the table |" in (trials / "report.md").read_text(encoding="utf-8")
        (trials / "report.md").unlink()
    assert bench.run_all(options_of()) == 0
    assert [file.name for file in results.iterdir()] == ["micro.json"]


def test_a_document_says_how_it_was_measured(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "read_reasons", lambda: {"talyn": "no wheel"})
    assert bench.run_all(options_of()) == 0
    written = json.loads((folders[0] / "micro.json").read_text(encoding="utf-8"))
    assert written["missing"]["talyn"] == "it could not be installed: no wheel (ImportError)"
    assert {"began", "seconds", "commit", "package", "others_cores", "disturbed"} < set(
        written["run"]
    )


def test_a_suite_that_fails_does_not_stop_the_others(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"absent": suites.Suite("absent", 1, 1), **bench.SUITES}
    monkeypatch.setattr(bench, "SUITES", known)
    assert bench.run_all(options_of(choice={"absent": [], "micro": []})) == 1
    assert (folders[0] / "micro.json").exists()
    assert "absent: no results: there is no absent.py" in capsys.readouterr().err


def test_a_peer_that_no_suite_knows_is_an_error(folders: tuple[Path, Path]) -> None:
    with pytest.raises(suites.SelectionError, match="knows a peer nobody"):
        bench.run_all(options_of(peers=["uvloop", "nobody"]))


@pytest.mark.parametrize(
    ("samples", "others", "stolen", "disturbed"),
    [
        ([], 0.05, 0.0, False),
        ([], 0.2, 0.0, True),
        ([], 0.0, 0.2, True),
        ([0.0] * 9 + [0.5], 1.5, 0.0, False),  # one of ten; servers that outlive their samples
        ([0.0] * 8 + [0.5] * 2, 0.0, 0.0, True),
    ],
)
def test_a_run_says_whether_it_was_disturbed(
    samples: list[float], others: float, stolen: float, *, disturbed: bool
) -> None:
    taken = [{"others_cpu_ns": each * 2e9, "seconds": 2.0} for each in samples]
    run = document(server_record("w", {"loop_pool": taken}))
    plan = suites.Plan(suites.SUITES["micro"], (), (), quick=False, share=1.0)
    bench.annotate(run, plan, {"others_cores": others, "stolen_cores": stolen}, {})
    assert run["run"]["disturbed"] is disturbed


def test_the_kernel_s_ticks_are_told_apart() -> None:
    used = machine.parse_stat("cpu  100 200 300 4000 5000 600 700 800 0 0", 100)
    assert used == (19.0, 8.0)


# --- the environment ------------------------------------------------------------------------------


def test_the_name_of_a_package_is_what_a_requirement_begins_with() -> None:
    assert environment.package_name("uvicorn[standard]>=0.38") == "uvicorn"
    assert environment.package_name("zuvloop") == "zuvloop"
    with pytest.raises(ValueError, match="no package is named"):
        environment.package_name(">=1")


def test_peers_that_cannot_be_installed_are_noted_and_the_others_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[dependency-groups]\nbench = ["good>=1", "bad", "weft-server"]\n')
    uv = tmp_path / "uv"
    uv.write_text(
        "#!/bin/sh\n"
        f'for last; do :; done; echo "$last" >> {tmp_path}/asked\n'
        'if [ "$last" = bad ] || [ "$last" = weft-server ]; then\n'
        '  printf "  \\303\\227 No solution:\\n  \\342\\225\\260 no wheel\\n" >&2; exit 1\n'
        "fi\n"
    )
    uv.chmod(0o755)
    monkeypatch.setattr(environment, "PROJECT_FILE", project)
    monkeypatch.setattr(environment, "reasons_file", lambda: tmp_path / "reasons.json")
    assert environment.read_reasons() == {}
    monkeypatch.setattr(sys, "argv", ["environment.py", str(uv)])
    assert environment.main() == 0
    assert (tmp_path / "asked").read_text(encoding="utf-8").split() == [
        *("good>=1", "bad", "weft-server")
    ]
    # By the name that the peer has in the results.
    assert environment.read_reasons() == dict.fromkeys(("bad", "weft"), "No solution: no wheel")


@pytest.mark.skipif(sys.platform != "linux", reason="talyn needs Linux")
def test_talyn_gets_an_empty_libpython_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    project = tmp_path / "pyproject.toml"
    project.write_text('[dependency-groups]\nbench = ["talyn>=0.10"]\n')
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(environment, "PROJECT_FILE", project)
    monkeypatch.setattr(environment, "reasons_file", lambda: tmp_path / "reasons.json")
    monkeypatch.setattr(environment, "install", lambda uv, requirement: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["environment.py", "uv"])
    with monkeypatch.context() as shared:
        shared.setattr(environment, "has_libpython", lambda: True)
        assert environment.main() == 0
    assert not environment.libpython_stub().exists()
    monkeypatch.setattr(environment, "has_libpython", lambda: False)
    assert environment.main() == 0
    assert environment.read_reasons() == {}
    ctypes.CDLL(str(environment.libpython_stub()))
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert environment.main() == 0
    assert "no stand-in for libpython" in environment.read_reasons()["talyn"]
