#!/usr/bin/env python3
"""Says what this machine lacks for building loop_pool, and how to get it.

    python3 tools/check_machine.py           # the tools and the crates of a build
    python3 tools/check_machine.py --lint    # and those of `make lint`

Quiet with exit status 0 when nothing is missing; otherwise everything that is missing is listed on
stderr and the status is 1. Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
INSTALL_RUST = "Install the current stable Rust by rustup (https://rustup.rs), or `rustup update`."


class Problem(NamedTuple):
    """Something that is missing, and what a person may do about it."""

    missing: str
    remedy: str


def output_of(command: Sequence[str], given: str = "") -> tuple[bool, str]:
    """Whether `command` exists and succeeds on the input `given`, and what it said."""
    try:
        answer = subprocess.run(
            list(command),
            cwd=ROOT,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        return False, str(error)
    return answer.returncode == 0, answer.stdout.strip()


def numbers(version: str) -> tuple[int, ...]:
    """The version in `version`, comparable: "cargo 1.88.0 (873a06493 2025-05-10)" is (1, 88, 0)."""
    found = re.search(r"\d+(?:\.\d+)+", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def required_rust(manifest: str) -> str:
    """The `rust-version` of a Cargo.toml, read without a TOML parser (Python 3.9 has none)."""
    found = re.search(r'^rust-version\s*=\s*"([\d.]+)"', manifest, re.MULTILINE)
    if found is None:
        raise ValueError("Cargo.toml names no rust-version")
    return found.group(1)


def rust_problems() -> Iterator[Problem]:
    """Cargo and rustc: there, and young enough for Cargo.toml."""
    required = required_rust((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    for program in ("cargo", "rustc"):
        there, said = output_of([program, "--version"])
        if not there:
            yield Problem(f"{program} ({said})", INSTALL_RUST)
        elif numbers(said) < numbers(required):
            yield Problem(f"{program} {required} or later (here: {said})", INSTALL_RUST)


def linker_problems() -> Iterator[Problem]:
    """A C compiler that can link a program: rustc links by it, and some crates hold C code."""
    there, said = output_of(["cc", "-x", "c", "-", "-o", "/dev/null"], "int main(void){return 0;}")
    if not there:
        yield Problem(
            f"a working C compiler, `cc` ({said})",
            "Debian and Ubuntu: apt-get install gcc libc6-dev; macOS: xcode-select --install",
        )


def crate_problems() -> Iterator[Problem]:
    """The crates of Cargo.lock: here already, or to be fetched."""
    there, said = output_of(["cargo", "fetch"])
    if not there:
        yield Problem(
            f"the crates of Cargo.lock; cargo says:\n{said}",
            "A first build needs the network: the registries of Rust's and Python's packages, or "
            "mirrors of them that cargo, pip and uv are configured for.",
        )


def lint_problems() -> Iterator[Problem]:
    """The parts of Rust that only `make lint` and `make format` need."""
    for program, component in (("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")):
        there, said = output_of([program, "--version"])
        if not there:
            yield Problem(f"{component} ({said})", f"rustup component add {component}")


def problems(*, lint: bool) -> list[Problem]:
    """Everything that is missing; the crates are looked for only once the tools are there."""
    found = [*rust_problems(), *linker_problems()]
    if lint:
        found += lint_problems()
    return found or list(crate_problems())


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lint", action="store_true", help="also what `make lint` needs")
    options = parser.parse_args(arguments)
    found = problems(lint=options.lint)
    for problem in found:
        print(f"missing: {problem.missing}\n    {problem.remedy}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
