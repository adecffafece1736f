#!/usr/bin/env python3
"""Runs the Rust tests of the layers that call no system under Miri, if this machine has it.

    python3 tools/sanitize.py

It needs the nightly toolchain: `rustup component add miri rust-src --toolchain nightly`. Without it
a line says what is left out, and why; that is no failure. The exit status is 1 if a test failed.
Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Tool(NamedTuple):
    """A way to run the tests."""

    component: str
    """Of the nightly toolchain, without which it cannot run."""
    command: Sequence[str]
    environment: Mapping[str, str]


TOOLS = {
    # The layers that call no system, each test under four interleavings.
    "miri": Tool(
        "miri",
        (
            *("cargo", "+nightly", "miri", "test", "--no-default-features", "--lib", "--"),
            *("event_loop::current", "event_loop::inbox", "pool::detector", "reactor::slots"),
        ),
        {
            "MIRIFLAGS": "-Zmiri-many-seeds=0..4 -Zmiri-disable-isolation",
            "CARGO_TARGET_DIR": "target/miri",
        },
    ),
}


def missing_for(tool: Tool) -> str:
    """What this machine lacks for a tool; empty if nothing."""
    try:
        listed = subprocess.run(
            ["rustup", "component", "list", "--toolchain", "nightly", "--installed"],
            check=False,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "rustup"
    if listed.returncode:
        return "the nightly toolchain"
    names = [line.strip() for line in listed.stdout.splitlines()]
    return "" if any(name.startswith(tool.component) for name in names) else tool.component


def main(arguments: Sequence[str]) -> int:
    """Run what can be run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", nargs="?", choices=list(TOOLS), help="default: all")
    chosen = parser.parse_args(arguments).tool
    failed = []
    for name in [chosen] if chosen else TOOLS:
        tool = TOOLS[name]
        if lack := missing_for(tool):
            print(f"left out: {name}, for want of {lack}", flush=True)
            continue
        print(f"{name}: {' '.join(tool.command)}", flush=True)
        environment = {**os.environ, **tool.environment}
        if subprocess.run(tool.command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
