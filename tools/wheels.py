#!/usr/bin/env python3
"""Builds a wheel of loop_pool for each supported Python, and tries it in an environment of its own.

    python3 tools/wheels.py --maturin .venv/bin/maturin            # all, into `dist`
    python3 tools/wheels.py --maturin .venv/bin/maturin 3.14t      # one of them

A trial installs the wheel and what the tests need into a fresh environment, makes sure that it is
the wheel that is imported, and runs the tests marked `smoke` against it.

Exit status: 0 if every wheel passed, 1 otherwise. Runs on any python3 from 3.9 on, with the
standard library alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from assemble import FREEZE_CORE

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
VERSIONS = tuple(str(version) for version in FREEZE_CORE)

IS_THE_WHEEL = """
import pathlib, sys, loop_pool
assert pathlib.Path(loop_pool.__file__).is_relative_to(sys.prefix), loop_pool.__file__
loop_pool.new_event_loop().close()
"""


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the checkout.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    print("+", *command, flush=True)
    subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}, check=True
    )


def answer(*command: str) -> str:
    """Return the last line that one of our tools prints: the path that it was asked for."""
    found = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return found.stdout.splitlines()[-1]


def build(version: str, maturin: Path, python: str) -> Path:
    """Build the wheel for `python` and return its path."""
    tag = "cp{}-cp{}".format(version.rstrip("t").replace(".", ""), version.replace(".", ""))
    for stale in DIST.glob(f"*-{tag}-*.whl"):
        stale.unlink()
    # pyo3 is compiled for one Python at a time: each has its own folder, shared with `make build`.
    run(
        maturin,
        *("build", "--release", "--locked", "--quiet", "--interpreter", python, "--out", DIST),
        CARGO_TARGET_DIR=str(ROOT / "target" / f"python-{version}"),
    )
    (wheel,) = DIST.glob(f"*-{tag}-*.whl")
    return wheel


def try_out(wheel: Path, uv: str, python: str) -> None:
    """Install the wheel into an environment of `python` and run the smoke tests against it."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "bin" / "python"
        run(uv, "venv", "--quiet", "--clear", "--python", python, folder)
        tests = ROOT / "pyproject.toml"
        run(uv, "pip", "install", "--quiet", "--python", own, f"--group={tests}:test", wheel)
        run(own, "-c", IS_THE_WHEEL)
        run(own, "-m", "pytest", "-q", "-m", "smoke", "--dist=worksteal", "-n2", "tests/python")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and try the wheels; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--maturin", type=Path, required=True, help="the program that builds")
    parser.add_argument("version", nargs="*", help="the Pythons (default: all that are supported)")
    options = parser.parse_args(arguments)
    for unknown in set(options.version) - set(VERSIONS):
        parser.error(f"no wheel is made for Python {unknown}; there are {', '.join(VERSIONS)}")
    DIST.mkdir(exist_ok=True)
    uv = answer("tools/interpreter.py", "--uv")
    failed = []
    for version in options.version or VERSIONS:
        try:
            python = answer("tools/interpreter.py", version)
            wheel = build(version, ROOT / options.maturin, python)
            try_out(wheel, uv, python)
        except subprocess.CalledProcessError as error:
            print(f"Python {version}: {error}", file=sys.stderr)
            failed.append(version)
    if failed:
        print(f"Wheels that could not be made, or failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    for wheel in sorted(DIST.glob("*.whl")):
        print(wheel.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
