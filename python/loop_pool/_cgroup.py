"""The CPU time that Linux's cgroups grant this process, as containers and services are limited.

In: the files of ``/proc`` and of the mounted cgroups, of version 1 and 2. Out: a number of cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCESS = Path("/proc/self")
"""Where Linux describes this process."""


class _Mount(NamedTuple):
    """A hierarchy of groups where it can be read."""

    root: str
    """The group that is seen at the mount point."""
    point: Path
    controllers: set[str]
    """What it controls; in version 2 the files of a group say so."""


def cpu_quota() -> float | None:
    """Return the CPU time that cgroups grant this process, in cores. Any thread.

    It is the least of what its own group and those above have as their quota, as far up as they can
    be seen from within a container. ``None``: none of them has one, or there are no cgroups.
    """
    try:
        groups = (PROCESS / "cgroup").read_text()
        mounts = (PROCESS / "mountinfo").read_text()
    except OSError:  # not Linux, or no /proc
        return None
    quotas: list[float] = []
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            quotas += _quotas(group, _find(mounts, "cgroup2"), _read_v2)
        elif "cpu" in controllers.split(","):
            quotas += _quotas(group, _find(mounts, "cgroup", "cpu"), _read_v1)
    return min(quotas, default=None)


def _find(mounts: str, kind: str, controller: str | None = None) -> _Mount | None:
    """Find a hierarchy among lines like ``36 25 0:30 ROOT POINT ... - KIND SOURCE OPTIONS``."""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] != kind:
            continue
        root, point = before.split()[3:5]
        mount = _Mount(root, Path(point), set(after.split()[-1].split(",")))
        if controller is None or controller in mount.controllers:
            return mount
    return None


def _quotas(
    group: str, mount: _Mount | None, read: Callable[[Path], float | None]
) -> Iterator[float]:
    """Yield the quotas of a group and of those above it."""
    if mount is None:
        return
    below = Path(group)
    folder = mount.point
    # What lies above the root of a container's own hierarchy begins with "/..".
    if below.is_relative_to(mount.root) and ".." not in below.parts:
        folder /= below.relative_to(mount.root)
    for each in (folder, *folder.parents):
        try:
            quota = read(each)
        except FileNotFoundError:  # the uppermost group has none
            quota = None
        if quota is not None:
            yield quota
        if each == mount.point:
            return


def _read_v2(group: Path) -> float | None:
    quota, period = (group / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _read_v1(group: Path) -> float | None:
    quota = int((group / "cpu.cfs_quota_us").read_text())
    period = int((group / "cpu.cfs_period_us").read_text())
    return None if quota < 0 else quota / period
