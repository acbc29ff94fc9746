"""CPUs granted by affinity, Slurm and cgroups, on faked file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsi_mitosis.io.processors import granted_cpus


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 CPUs, without a scheduler."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def v2(root: Path, membership: str, quotas: dict[str, str]) -> Path:
    """A cgroup v2 file system; `quotas` has `cpu.max` by group, with "" for the root."""
    write(root / "proc/self/cgroup", f"0::{membership}\n")
    for group, quota in quotas.items():
        write(root / "sys/fs/cgroup" / group / "cpu.max", f"{quota}\n")
    return root


def v1(root: Path, membership: str, quotas: dict[str, int]) -> Path:
    """A cgroup v1 file system, with quotas in us per 100 ms."""
    lines = f"12:memory:/elsewhere\n4:cpuacct,cpu:{membership}\n1:name=systemd:/x\n0::/y\n"
    write(root / "proc/self/cgroup", lines)
    for group, quota in quotas.items():
        write(root / "sys/fs/cgroup/cpu" / group / "cpu.cfs_quota_us", f"{quota}\n")
        write(root / "sys/fs/cgroup/cpu" / group / "cpu.cfs_period_us", "100000\n")
    return root


def test_without_limits_all_cpus_of_the_affinity_mask(tmp_path: Path) -> None:
    assert granted_cpus(tmp_path) == 32
    assert granted_cpus(v2(tmp_path, "/", {"": "max 100000"})) == 32


@pytest.mark.parametrize(("quota", "cpus"), [("650000 100000", 6), ("50000 100000", 1), ("300000 50000", 6)])
def test_a_quota_is_rounded_down_to_at_least_one(tmp_path: Path, quota: str, cpus: int) -> None:
    assert granted_cpus(v2(tmp_path, "/", {"": quota})) == cpus


def test_the_quota_counts_if_the_membership_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert granted_cpus(tmp_path) == 2


@pytest.mark.parametrize(
    "quotas",
    [
        {"a/b/c": "300000 100000"},
        {"a/b/c": "max 100000", "a/b": "300000 100000"},
        {"a/b/c": "700000 100000", "a": "300000 100000", "": "900000 100000"},
    ],
    ids=["own", "parent", "least of all"],
)
def test_a_nested_group_is_limited_by_every_group_above_it(tmp_path: Path, quotas: dict[str, str]) -> None:
    assert granted_cpus(v2(tmp_path, "/a/b/c", {"other": "100000 100000", **quotas})) == 3


def test_a_path_of_the_host_does_not_hide_the_containers_own_group(tmp_path: Path) -> None:
    assert granted_cpus(v2(tmp_path, "/docker/0123", {"": "400000 100000"})) == 4


def test_version_1_groups_are_nested_too(tmp_path: Path) -> None:
    assert granted_cpus(v1(tmp_path, "/job", {"": -1, "job": 400000})) == 4
    assert granted_cpus(v1(tmp_path, "/job/step", {"": 500000, "job": 200000, "job/step": -1})) == 2


@pytest.mark.parametrize("content", ["", "max", "a b", "100000 0", "1 2 3"])
def test_a_file_that_makes_no_sense_is_no_limit(tmp_path: Path, content: str) -> None:
    assert granted_cpus(v2(tmp_path, "/", {"": content})) == 32


def test_slurms_grant_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert granted_cpus(v2(tmp_path, "/", {"": "400000 100000"})) == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "all")
    assert granted_cpus(tmp_path) == 4
