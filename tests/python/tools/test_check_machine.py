"""`tools/check_machine.py`: each thing that may be missing is named, with the way to get it.

The script runs as a person runs it, with a PATH that holds made-up programs only.
"""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .support import TOOLS, load

SCRIPT = TOOLS / "check_machine.py"
YOUNG = 'echo "$(basename "$0") 99.0.0 (0123456789 2099-01-01)"'
WHOLE_MACHINE = {
    "cargo": YOUNG,
    "rustc": YOUNG,
    "cc": "exit 0",
    "cargo-fmt": YOUNG,
    "cargo-clippy": YOUNG,
}


def load_script() -> ModuleType:
    """The script as a module."""
    (module,) = load("check_machine")
    return module


def check(
    folder: Path, programs: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs the script where the PATH holds `programs` (name and shell script) and no others."""
    path = folder / "bin"
    path.mkdir()
    # What the made-up programs themselves use.
    (path / "basename").symlink_to("/usr/bin/basename")
    for name, script in programs.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (path / name).chmod(0o755)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={"PATH": str(path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("--lint",)])
def test_a_whole_machine_passes_quietly(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    answer = check(tmp_path, WHOLE_MACHINE, *arguments)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("program", "script", "missing", "remedy"),
    [
        ("cargo", None, "missing: cargo", "rustup"),
        ("rustc", None, "missing: rustc", "rustup"),
        ("cargo", 'echo "cargo 1.66.0 (d65d197ad 2022-11-15)"', "or later (here:", "rustup update"),
        ("cc", None, "missing: a working C compiler", "apt-get install gcc libc6-dev"),
        ("cc", "echo cannot find crti.o; exit 1", "cannot find crti.o", "libc6-dev"),
        ("cargo-clippy", None, "missing: clippy", "rustup component add clippy"),
        ("cargo-fmt", None, "missing: rustfmt", "rustup component add rustfmt"),
        (
            "cargo",
            f'if [ "$1" = fetch ]; then echo "no route to host"; exit 101; fi; {YOUNG}',
            "no route to host",
            "needs the network",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    tmp_path: Path, program: str, script: str | None, missing: str, remedy: str
) -> None:
    programs = {name: other for name, other in WHOLE_MACHINE.items() if name != program}
    if script is not None:
        programs[program] = script
    answer = check(tmp_path, programs, "--lint")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert missing in answer.stderr
    assert remedy in answer.stderr
    assert answer.stderr.count("missing:") == 1


def test_everything_that_is_missing_is_listed_at_once(tmp_path: Path) -> None:
    answer = check(tmp_path, {})
    assert answer.returncode == 1
    assert [line for line in answer.stderr.splitlines() if line.startswith("missing:")] == [
        "missing: cargo ([Errno 2] No such file or directory: 'cargo')",
        "missing: rustc ([Errno 2] No such file or directory: 'rustc')",
        "missing: a working C compiler, `cc` ([Errno 2] No such file or directory: 'cc')",
    ]


def test_a_build_does_not_ask_for_what_only_the_lints_need(tmp_path: Path) -> None:
    programs = {name: WHOLE_MACHINE[name] for name in ("cargo", "rustc", "cc")}
    assert check(tmp_path, programs).returncode == 0


def test_versions_are_compared_as_numbers() -> None:
    module = load_script()
    assert module.numbers("rustc 1.100.0 (abc 2030-01-01)") > module.numbers("1.88")
    assert module.numbers("1.88.0") >= module.numbers("1.88")
    assert module.numbers("no version") == ()


def test_the_required_rust_is_the_one_of_the_manifest() -> None:
    module = load_script()
    assert module.required_rust('[package]\nedition = "2024"\nrust-version = "1.88"\n') == "1.88"
    with pytest.raises(ValueError, match="rust-version"):
        module.required_rust("[package]\n")
