"""What the tests of the examples share."""

from __future__ import annotations

import subprocess
import sys

from ..support import HANG, ROOT

EXAMPLES = ROOT / "examples"


def run(*command: object, limit: float = HANG) -> subprocess.CompletedProcess[str]:
    """Runs a program, with the interpreter of these tests, to its end."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
