"""`loop-pool doctor`: each fact, each obstacle, and the exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support import FREE_THREADED, HANG, run_python

loop_pool = pytest.importorskip("loop_pool")
from loop_pool import _cli  # noqa: E402
from loop_pool._cli import doctor as _doctor  # noqa: E402

free_threaded = pytest.mark.skipif(not FREE_THREADED, reason="this interpreter always has a GIL")

SWITCHES_GIL_ON = """
import importlib.machinery, importlib.util, sys
name, path = "_testmultiphase_null_slots", importlib.util.find_spec("_testmultiphase").origin
loader = importlib.machinery.ExtensionFileLoader(name, path)
spec = importlib.util.spec_from_file_location(name, path, loader=loader)
sys.modules[name] = importlib.util.module_from_spec(spec)
"""
"""A module that imports one of CPython's own tests, which does not say that it needs no GIL."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, from which programs import."""
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHON_GIL", "PYTHON_CPU_COUNT", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four cores."""
    monkeypatch.setattr(_doctor, "_examine_cores", lambda: _doctor.Cores(4, 4, 4, None, 4.0))


def doctor(
    *arguments: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [*options, "-m", "loop_pool", "doctor", *arguments]
    return run_python(*command, env={**os.environ, **(env or {})}, **more)


def facts(*arguments: str, **more: Any) -> dict[str, Any]:
    """What `--json` says; the exit code must go with it."""
    done = doctor("--json", *arguments, **more)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if report["parallel"] else 1), done.stderr
    assert report["parallel"] is not bool(report["obstacles"])
    return report


def report(**changes: Any) -> _doctor.Report:
    """A deployment in which all is well, but for the changes."""
    well = _doctor.Report(
        python=_doctor.Python("3.14.9", True, "/bin/python"),
        gil=_doctor.Gil(False, None, None, None),
        imported=None,
        cores=_doctor.Cores(8, 8, 8, None, 8.0),
        descriptors=_doctor.Descriptors(1_024, None),
        loop_pool=_doctor.Package("1.2.3", "/_core.so", 8),
    )
    return dataclasses.replace(well, **changes)


def text(of: _doctor.Report) -> str:
    """The report for a person."""
    return "\n".join(f"{label} {fact}" for label, fact in _doctor.describe(of))


# Facts


@pytest.mark.smoke
def test_the_facts_are_those_of_the_interpreter_and_the_process(folder: Path) -> None:
    told = facts()
    assert told["python"] == {
        "version": platform.python_version(),
        "free_threaded": FREE_THREADED,
        "executable": sys.executable,
    }
    assert told["gil"]["enabled"] is not FREE_THREADED
    assert told["imported"] is None
    assert told["cores"]["machine"] == os.cpu_count()
    assert told["cores"]["affinity"] == len(os.sched_getaffinity(0))
    assert told["cores"]["process_cpu_count"] == os.process_cpu_count()
    assert told["cores"]["quota"] == loop_pool._core._cores()[1]
    soft, hard = (
        None if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    assert told["descriptors"] == {"soft": soft, "hard": hard}
    assert told["loop_pool"] == {
        "version": loop_pool.__version__,
        "extension": loop_pool._core.__file__,
        "default_loops": loop_pool._core._loop_count(None),
    }


def test_each_fact_stands_in_the_text() -> None:
    told = text(
        report(
            gil=_doctor.Gil(False, "0", "0", None),
            cores=_doctor.Cores(16, 12, 10, 2.5, 2.5),
            descriptors=_doctor.Descriptors(20_000, 1_048_576),
        )
    ).splitlines()
    assert told == [
        "Python 3.14.9, free-threaded build",
        " /bin/python",
        "GIL off",
        "PYTHON_GIL 0",
        "-X gil 0",
        "import no module given: the effect of a program's imports on the GIL was not checked",
        "cores 2.5 usable",
        " in the machine: 16",
        " by affinity: 12",
        " by cgroup: 2.5",
        " os.process_cpu_count(): 10",
        "open files soft limit: 20,000",
        " hard limit: 1,048,576",
        "loop_pool 1.2.3",
        " /_core.so",
        " loops by default: 8",
        "parallel yes: Python can run on 2.5 cores at once",
    ]


def test_what_is_not_known_or_not_set_is_said_so() -> None:
    told = text(report(cores=_doctor.Cores(None, None, None, None, 8.0)))
    for line in (
        "PYTHON_GIL not set",
        "-X gil not given",
        "in the machine: unknown",
        "by affinity: unknown",
        "by cgroup: no quota",
        "os.process_cpu_count(): unknown",
        "hard limit: none",
    ):
        assert line in told


@pytest.mark.usefixtures("four_cores", "folder")
def test_the_text_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    code = _cli.main(["doctor"])
    told = capsys.readouterr().out
    assert f"Python        {platform.python_version()}, " in told
    if FREE_THREADED:
        assert told.endswith("parallel      yes: Python can run on 4 cores at once\n")
        assert code == 0
    else:
        assert told.endswith("parallel      no: this Python was built with the GIL\n")
        assert code == 1


# Exit codes and obstacles


@pytest.mark.smoke
@pytest.mark.usefixtures("four_cores", "folder")
def test_the_exit_code_says_whether_python_runs_in_parallel() -> None:
    assert _cli.main(["doctor"]) == (0 if FREE_THREADED else 1)


def test_nothing_is_in_the_way_of_a_deployment_in_which_all_is_well() -> None:
    assert report().obstacles() == []


@pytest.mark.parametrize(
    ("changes", "obstacles"),
    [
        (
            {"python": _doctor.Python("3.14.9", False, "/bin/python")},
            ["this Python was built with the GIL"],
        ),
        (
            {"gil": _doctor.Gil(True, "1", None, "it was asked for")},
            ["the GIL is on: it was asked for"],
        ),
        (
            {"imported": _doctor.Import("a.b", True, "c", [])},
            ["the import of a.b switches the GIL on, for c"],
        ),
        (
            {"imported": _doctor.Import("a.b", True, None, [])},
            ["the import of a.b switches the GIL on"],
        ),
        ({"imported": _doctor.Import("a.b", False, None, ["c"])}, []),
        ({"cores": _doctor.Cores(8, 1, 8, None, 1.0)}, ["this process may use one core only"]),
        ({"cores": _doctor.Cores(8, 8, 8, 0.5, 0.5)}, ["this process may use one core only"]),
        ({"cores": _doctor.Cores(8, 8, 8, 1.5, 1.5)}, []),
        (
            {
                "gil": _doctor.Gil(True, None, None, "why"),
                "cores": _doctor.Cores(1, 1, 1, None, 1.0),
            },
            ["the GIL is on: why", "this process may use one core only"],
        ),
    ],
)
def test_what_is_in_the_way_is_named(changes: dict[str, Any], obstacles: list[str]) -> None:
    examined = report(**changes)
    assert examined.obstacles() == obstacles
    verdict = text(examined).partition("parallel ")[2].splitlines()
    if obstacles:
        assert verdict == [f"no: {obstacles[0]}", *(f" and: {each}" for each in obstacles[1:])]
    else:
        assert verdict[0].startswith("yes: ")


@pytest.mark.smoke
@free_threaded
@pytest.mark.parametrize(
    ("how", "environment", "option"),
    [
        ({"env": {"PYTHON_GIL": "1"}}, "1", None),
        ({"options": ("-X", "gil=1")}, None, "1"),
    ],
)
def test_a_gil_that_was_asked_for_is_found(
    folder: Path, how: dict[str, Any], environment: str | None, option: str | None
) -> None:
    (folder / "innocent.py").touch()
    for module in ([], ["innocent"]):
        told = facts(*module, **how)
        why = "it was requested by -X gil=1 or PYTHON_GIL=1"
        assert told["gil"] == {
            "enabled": True,
            "environment": environment,
            "option": option,
            "why": why,
        }
        assert f"the GIL is on: {why}" in told["obstacles"]
    assert told["imported"]["gil_enabled"], "the import is looked at under the same option"


# The module


@pytest.mark.smoke
@free_threaded
def test_an_extension_that_switches_the_gil_on_is_named(folder: Path) -> None:
    package = folder / "app"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(SWITCHES_GIL_ON)
    done = doctor("app.main", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert done.stderr == "", "CPython's own warning is in the answer"
    assert told["imported"] == {
        "module": "app.main",
        "gil_enabled": True,
        "switched_on_by": "_testmultiphase_null_slots",
        "undeclared": [],
    }
    assert not told["gil"]["enabled"], "it was imported in a process of its own"
    assert (
        "the import of app.main switches the GIL on, for _testmultiphase_null_slots"
        in told["obstacles"]
    )
    done = doctor("app.main")
    assert "app.main: the GIL is on afterwards\n" in done.stdout
    assert "switched on by the extension module _testmultiphase_null_slots\n" in done.stdout


@free_threaded
@pytest.mark.parametrize("option", ["error", "ignore"])
def test_warning_filters_do_not_hide_who_it_was(folder: Path, option: str) -> None:
    (folder / "app.py").write_text(SWITCHES_GIL_ON)
    told = facts("app", env={"PYTHONWARNINGS": option})
    assert told["imported"]["switched_on_by"] == "_testmultiphase_null_slots"


@free_threaded
def test_a_forbidden_gil_stays_off(folder: Path) -> None:
    (folder / "app.py").write_text(SWITCHES_GIL_ON)
    told = facts("app", options=("-X", "gil=0"))
    assert told["gil"]["option"] == "0"
    assert told["imported"]["gil_enabled"] is False
    assert told["imported"]["switched_on_by"] is None


def test_modules_that_do_not_say_that_they_need_no_gil_are_listed(folder: Path) -> None:
    """As `_gil` finds them, whose tests make such modules."""
    source = "import loop_pool._cli.doctor as d; d.modules_that_need_the_gil = lambda: ['a', 'b.c']"
    (folder / "app.py").write_text(source)
    assert facts("app")["imported"]["undeclared"] == ["a", "b.c"]
    assert "do not declare support for running without the GIL: a, b.c\n" in doctor("app").stdout


@pytest.mark.smoke
def test_a_module_that_needs_no_gil_is_no_obstacle(folder: Path) -> None:
    (folder / "app.py").write_text("import json, sqlite3, ssl")
    imported = facts("app")["imported"]
    assert imported["gil_enabled"] is not FREE_THREADED
    assert imported["switched_on_by"] is None


def test_what_a_module_prints_is_not_the_answer(folder: Path) -> None:
    (folder / "app.py").write_text("import os\nprint('one')\nos.write(1, b'two')")
    done = doctor("app", "--json")
    assert json.loads(done.stdout)["imported"]["module"] == "app"
    assert sorted(done.stderr.split()) == ["one", "two"]


@pytest.mark.parametrize(
    "source",
    [
        "import threading; threading.Thread(target=threading.Event().wait).start()",
        "import atexit, threading; atexit.register(threading.Event().wait)",
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.stdout.close()",
        "import os; os.close(1)",
    ],
)
def test_whatever_a_module_leaves_behind_there_is_an_answer(folder: Path, source: str) -> None:
    (folder / "app.py").write_text(source)
    done = doctor("app", "--json")
    assert json.loads(done.stdout)["imported"]["module"] == "app"
    assert done.stderr == ""


def fails(*arguments: str) -> str:
    """What is said of a module that cannot be imported: on standard error, with exit code 2."""
    done = doctor(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.module", "json.no_such"])
def test_an_absent_module_is_named(folder: Path, name: str) -> None:
    said = fails(name)
    assert said.startswith(f"loop-pool doctor: cannot import {name}: ModuleNotFoundError: ")
    assert len(said.splitlines()) == 1, "no traceback"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_a_module_that_fails_is_shown_with_its_traceback(
    folder: Path, source: str, reason: str
) -> None:
    file = folder / "app.py"
    file.write_text(source)
    said = fails("app", "--json")
    assert f'File "{file}", line 1' in said
    assert "doctor.py" not in said
    last = said.partition("loop-pool doctor: ")[2]
    assert last.startswith("cannot import app: ")
    assert reason in last


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os._exit(0)", "exit code 0"),
        ("raise KeyboardInterrupt", "exit code 130"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
    ],
)
def test_a_module_that_ends_the_process_is_told_of(folder: Path, source: str, how: str) -> None:
    (folder / "app.py").write_text(source)
    assert fails("app") == f"loop-pool doctor: the import of app ended the process: {how}\n"


@pytest.mark.parametrize("name", ["", "a-b", "app:main", "../app", "app.", ".app", "a; b", "1"])
def test_what_is_no_module_s_name_is_refused(name: str) -> None:
    assert f"argument module: {name!r} is not a module name" in fails(name)


def test_ctrl_c_ends_an_import_that_takes_too_long(folder: Path) -> None:
    (folder / "app.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('importing', file=sys.stderr, flush=True)\n"
        "signal.pause()\n"
    )
    source = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from loop_pool._cli import main; sys.exit(main(['doctor', 'app']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "importing\n"
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            printed, errors = process.communicate(timeout=HANG)
        finally:
            process.kill()
    assert (process.returncode, printed, errors) == (130, "", "")


# The machine


def test_affinity_leaves_fewer_cores(folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    told = facts(preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    assert told["cores"]["affinity"] == 1
    assert told["cores"]["usable"] <= 1
    assert told["cores"]["machine"] == os.cpu_count()
    assert told["loop_pool"]["default_loops"] == 1
    assert "this process may use one core only" in told["obstacles"]


def test_the_number_that_python_was_told_is_shown_beside_the_true_one(folder: Path) -> None:
    told = facts(env={"PYTHON_CPU_COUNT": "77"})
    assert told["cores"]["process_cpu_count"] == 77
    assert told["cores"]["affinity"] == len(os.sched_getaffinity(0))


def test_the_limit_of_descriptors_is_shown(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))

    assert facts(preexec_fn=limit)["descriptors"] == {"soft": 64, "hard": 128}


def test_descriptors_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, infinite))
    assert _doctor.examine().descriptors == _doctor.Descriptors(1_024, None)
