#!/usr/bin/env python3
"""Runs the Rust tests of the layers that call no system under Miri, if this machine has it.

    python3 tools/sanitize.py

It needs the nightly toolchain: `rustup component add miri rust-src --toolchain nightly`. Without it
a line says what is left out, and why; that is no failure. The exit status is that of the tests.
Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIRI = ("cargo", "+nightly", "miri")
TESTS = ("event_loop::current", "event_loop::inbox", "pool::detector", "reactor::slots")
FLAGS = "-Zmiri-many-seeds=0..4 -Zmiri-disable-isolation"
"""Each test under four interleavings."""


def why_not() -> str:
    """What keeps Miri from running; empty if nothing does."""
    try:
        asked = subprocess.run([*MIRI, "--version"], check=False, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return asked.stderr.strip() if asked.returncode else ""


def main() -> int:
    """Run it."""
    if reason := why_not():
        print(f"left out: Miri ({reason})")
        return 0
    command = [*MIRI, "test", "--no-default-features", "--lib", "--", *TESTS]
    environment = {**os.environ, "MIRIFLAGS": FLAGS, "CARGO_TARGET_DIR": "target/miri"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
