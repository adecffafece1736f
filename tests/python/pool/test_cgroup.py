"""How many cores the process may use, by made-up cgroups of either version, and by the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("loop_pool")
from loop_pool import _core

from ..support import run_python

type Cgroups = Callable[..., float | None]


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    """Gives the quota by made-up groups and mounts (`{top}`: a folder), and files below it."""

    def quota(groups: str, mounts: str, files: dict[str, str]) -> float | None:
        top = tmp_path / "groups"
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(content + "\n")
        for name, content in (("cgroup", groups), ("mountinfo", mounts)):
            (tmp_path / name).write_text(content.format(top=top) + "\n")
        return _core._cores(tmp_path)[1]

    return quota


V2 = "22 1 0:5 / /proc rw - proc proc rw\n30 25 0:26 / {top} rw,nosuid - cgroup2 cgroup2 rw"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / {top}/memory rw - cgroup cgroup rw,memory\n"
    "33 31 0:30 / {top}/cpu rw - cgroup cgroup rw,cpuacct,cpu"
)


def v1(quota: int, folder: str = "cpu") -> dict[str, str]:
    """The files of a group of version 1."""
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        pytest.param("0::/a", V2, {"a/cpu.max": "150000 100000"}, 1.5, id="own"),
        pytest.param(
            "0::/a",
            V2,
            {"a/cpu.max": "150000 100000", "../cpu.max": "1 100000"},
            1.5,
            id="not beyond the mount",
        ),
        pytest.param("0::/a", V2, {"a/cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param("0::/a", V2, {}, None, id="no controller"),
        pytest.param(
            "0::/a/b",
            V2,
            {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"},
            0.5,
            id="a group above",
        ),
        pytest.param("0::/", V2, {"cpu.max": "25000 50000"}, 0.5, id="in a container"),
        pytest.param(
            "0::/../b",
            V2,
            {"cpu.max": "100000 50000", "../b/cpu.max": "1 100000"},
            2.0,
            id="above what a container sees",
        ),
        pytest.param(
            "0::/docker/1/in",
            V2.replace("0:26 /", "0:26 /docker/1"),
            {"in/cpu.max": "300000 100000"},
            3.0,
            id="below the root of the mount",
        ),
        pytest.param("1:cpu,cpuacct:/", V1, v1(250_000), 2.5, id="version 1"),
        pytest.param("1:cpu,cpuacct:/", V1, v1(-1), None, id="version 1, no limit"),
        pytest.param(
            "2:memory:/m\n1:cpu:/a/b",
            V1,
            {**v1(-1), **v1(300_000, "cpu/a"), **v1(600_000, "cpu/a/b")},
            3.0,
            id="version 1, a group above",
        ),
        pytest.param("3:cpuset:/\n0::/", V1, v1(100_000), None, id="version 1, another controller"),
        pytest.param(
            "1:cpu:/\n0::/a",
            f"{V1}\n{V2}",
            {**v1(200_000), "a/cpu.max": "100000 100000"},
            1.0,
            id="both",
        ),
        pytest.param("0::/a", "22 1 0:5 / /proc rw - proc proc rw", {}, None, id="not mounted"),
    ],
)
def test_the_least_quota_of_the_groups_counts(
    cgroups: Cgroups, groups: str, mounts: str, files: dict[str, str], expected: float | None
) -> None:
    assert cgroups(groups, mounts, files) == expected


@pytest.mark.parametrize("limit", ["", "max", "no number", "100000", "100000 0", "-1 100000"])
def test_what_is_no_limit_is_ignored(cgroups: Cgroups, limit: str) -> None:
    assert cgroups("nonsense\n0::/a", f"nonsense\n{V2}", {"a/cpu.max": limit}) is None


def test_without_proc_there_is_no_quota(tmp_path: Path) -> None:
    assert _core._cores(tmp_path / "absent")[1] is None


ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "usable", "count"),
    [
        (50_000, 0.5, 1),
        (ALLOWED * 100_000 - 50_000, ALLOWED - 0.5, ALLOWED),
        (ALLOWED * 200_000, ALLOWED, ALLOWED),
        (-1, ALLOWED, ALLOWED),
    ],
)
def test_a_quota_above_the_process_s_own_group_bounds_the_number_of_cores(
    cgroups: Cgroups, tmp_path: Path, quota: int, usable: float, count: int
) -> None:
    cgroups("1:cpu:/a/b", V1, {**v1(quota, "cpu/a"), **v1(-1, "cpu/a/b")})
    granted = None if quota < 0 else quota / 100_000
    assert _core._cores(tmp_path) == (ALLOWED, granted, usable, count)


PROGRAM = """
import os, sys
import loop_pool
from loop_pool import _core

async def main():
    return len(loop_pool.current_pool().loops)

*_, usable, count = _core._cores()
print(usable, count, _core._loop_count(None), loop_pool.run(main()))
"""


def printed(*options: str, **environment: str) -> list[float]:
    """What a program that is started like that says: usable cores, their number, loops."""
    told = {"PYTHON_CPU_COUNT": None, **environment}
    env = {name: value for name, value in (os.environ | told).items() if value is not None}
    process = run_python(*options, "-c", PROGRAM, env=env, check=True)
    return [float(each) for each in process.stdout.split()]


@pytest.mark.parametrize("cores", [1, 3])
def test_what_python_is_told_counts_for_all_and_hides_nothing(cores: int) -> None:
    *_, usable, count = _core._cores()
    assert printed("-X", "cpu_count=default") == [usable, *[count] * 3]
    assert printed(PYTHON_CPU_COUNT=str(cores)) == [usable, *[cores] * 3]
    assert printed("-X", f"cpu_count={cores}", PYTHON_CPU_COUNT="5") == [usable, *[cores] * 3]


def test_affinity_is_asked_for_each_time() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert _core._cores()[0] == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert _core._cores()[0] == len(allowed)
