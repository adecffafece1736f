"""The command `loop-pool` itself: what it takes, what it says, and its exit codes."""

from __future__ import annotations

import subprocess
import tomllib
from importlib import metadata

import pytest

from ..support import ROOT, run_python

loop_pool = pytest.importorskip("loop_pool")
from loop_pool import _cli  # noqa: E402

COMMANDS = [module.__name__.rpartition(".")[2] for module in _cli._SUBCOMMANDS]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m loop_pool`."""
    return run_python("-W", "error", "-m", "loop_pool", *arguments)


@pytest.mark.smoke
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(option: str) -> None:
    done = command(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: loop-pool ")
    for name in COMMANDS:
        assert f"\n    {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_of_its_own(name: str) -> None:
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    # uvicorn's options come with their own parser.
    assert done.stdout.lower().startswith(f"usage: loop-pool {name} ")


@pytest.mark.smoke
def test_the_version_is_the_package_s() -> None:
    done = command("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"loop_pool {loop_pool.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: command"),
        (["no-such-command"], "invalid choice: 'no-such-command'"),
        (["doctor", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["doctor", "one", "two"], "unrecognized arguments: two"),
    ],
)
def test_what_is_typed_wrong_is_named(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: loop-pool ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli.doctor, "run", interrupted)
    assert _cli.main(["doctor"]) == 130


def test_the_distribution_installs_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = metadata.EntryPoint("loop-pool", project["scripts"]["loop-pool"], "console_scripts")
    assert script.load() is _cli.main
