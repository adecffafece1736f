"""What the numbers depend on besides the peers: the machine, and what else runs on it."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

DISTURBED_CORES = 0.1
"""What processes that have no part in a measurement may use of the machine."""


def describe_machine() -> dict[str, str]:
    """Name interpreter, system, processor and load."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "python": f"{platform.python_implementation()} {sys.version.split(' (')[0]}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "processor": f"{model}, {os.cpu_count()} cores",
        "load": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
    }


class Used(NamedTuple):
    """CPU seconds, or, divided by the time, cores."""

    others: float
    """By processes that are neither this one nor its children."""
    stolen: float
    """By other guests, while this machine wanted to run (the kernel's `steal`)."""


class Neighbours:
    """What others use of the machine from when this is made: `cores` says it (Linux; else 0)."""

    def __init__(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._before = _read_used()

    def cores(self) -> Used:
        """Cores used by others up to here. Children count as ours once they were waited for."""
        seconds = time.monotonic() - self._began
        after = _read_used()
        return Used(
            *(max(new - old, 0.0) / seconds for new, old in zip(after, self._before, strict=True))
        )


def _read_used() -> Used:
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except FileNotFoundError:
        return Used(0.0, 0.0)
    busy, stolen = parse_stat(line, os.sysconf("SC_CLK_TCK"))
    own = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return Used(busy - own, stolen)


def parse_stat(line: str, ticks: int) -> Used:
    """CPU seconds of all processes, and stolen ones, from the first line of `/proc/stat`."""
    user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
    return Used((user + nice + system + irq + softirq) / ticks, steal / ticks)
