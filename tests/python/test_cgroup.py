"""The CPU time that cgroups of either version grant, by made-up groups in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("loop_pool")
from loop_pool import _cgroup, _core, _cores

type Cgroups = Callable[..., float | None]


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroups:
    """Gives the quota by made-up groups and mounts (`{top}`: a folder), and files below it."""

    def quota(groups: str, mounts: str, files: dict[str, str]) -> float | None:
        top = tmp_path / "groups"
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(content + "\n")
        for name, content in (("cgroup", groups), ("mountinfo", mounts)):
            (tmp_path / name).write_text(content.format(top=top) + "\n")
        monkeypatch.setattr(_cgroup, "PROCESS", tmp_path)
        return _cgroup.cpu_quota()

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


def test_without_proc_there_is_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroup, "PROCESS", tmp_path / "absent")
    assert _cgroup.cpu_quota() is None


@pytest.mark.parametrize(("quota", "loops"), [(100_000, 1), (150_000, 2), (900_000, 8), (-1, 8)])
def test_a_quota_above_the_process_s_own_group_bounds_the_default_number_of_loops(
    cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch, quota: int, loops: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(_cores, "told", lambda: None)
    cgroups("1:cpu:/a/b", V1, {**v1(quota, "cpu/a"), **v1(-1, "cpu/a/b")})
    assert _cores.count() == _core._loop_count(None) == loops
    # What Python was told counts before everything else.
    monkeypatch.setattr(_cores, "told", lambda: 5)
    assert _core._loop_count(None) == 5
