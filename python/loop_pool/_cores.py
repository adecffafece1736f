"""How many cores this process may use: what every default in this package follows.

It is what Python was told, by ``PYTHON_CPU_COUNT`` or ``-X cpu_count``; else the least of the
process's affinity and the quotas of its cgroups.
"""

from __future__ import annotations

import math
import os
import sys

from . import _cgroup


def affinity() -> int | None:
    """Return how many cores the process is allowed on; None: the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def told() -> int | None:
    """Return the number that Python was told, as ``os.process_cpu_count()`` does; None: none."""
    # The number as the interpreter's configuration has it; below zero: it was told none.
    is_told: int = getattr(sys, "_get_cpu_count_config", lambda: -1)()
    return os.process_cpu_count() if is_told > 0 else None


def usable() -> float:
    """Return the cores that the process can keep busy: what affinity and quotas leave."""
    cores = float(affinity() or os.cpu_count() or 1)
    quota = _cgroup.cpu_quota()
    return cores if quota is None else min(cores, quota)


def count() -> int:
    """Return the number of cores to make use of: what Python was told, else :func:`usable` ones.

    A part of a core counts as one.
    """
    return told() or max(1, math.ceil(usable()))
