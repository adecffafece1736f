"""The processes that a run of the tests has started: none may outlive it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "LOOP_POOL_TESTS_RUN"
"""The environment variable that they inherit, with the id of the process that runs the tests."""

END_SECONDS = 10.0
"""What has been told to end has so long for it."""


def mark() -> None:
    """Makes whatever is started from now on recognisable."""
    os.environ[MARK] = str(os.getpid())


def left_behind() -> dict[int, str]:
    """The processes of this run that are still there: id -> command line (Linux)."""
    wanted = f"{MARK}={os.getpid()}".encode()
    found = {}
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and wanted in environment.read_bytes().split(b"\0"):
                command = environment.with_name("cmdline").read_bytes()
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def end_what_is_left() -> dict[int, str]:
    """Waits until all have ended, and kills those that do not. Returns those."""
    deadline = time.monotonic() + END_SECONDS
    while (found := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found
