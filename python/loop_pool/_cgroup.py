"""The CPU quota of this process's cgroups, under the name that existing scripts import."""

from __future__ import annotations

from . import _core


def cpu_quota() -> float | None:
    """Return the least quota of this process's cgroup and those above it, in cores. Any thread.

    ``None``: none of them has one, or there are no cgroups.
    """
    return _core._cores()[1]
