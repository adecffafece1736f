"""The CPU time that Linux's cgroups grant this process, as containers and services are limited."""

from __future__ import annotations

from .. import _core


def cpu_quota() -> float | None:
    """Return the CPU time that cgroups grant this process, in cores. Any thread.

    It is the least of what its own group and those above have as their quota, as far up as they can
    be seen from within a container. ``None``: none of them has one, or there are no cgroups.
    """
    return _core._cores()[1]
