"""The CPUs and the memory of this process."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_QUOTA = frozenset({"max", "-1"})
"""How cgroup v2 and v1 write that a group has no quota of its own."""
WITHOUT_CGROUPS = "0::/\n1:cpu:/\n"


def granted_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may use: the smallest of all limits, at least 1.

    The limits are the affinity mask (sched_getaffinity(2)), Slurm's grant (`SLURM_CPUS_PER_TASK`, sbatch(1)),
    and the CPU quotas of the process's cgroup and of each cgroup above it, whose quotas limit it as well
    (kernel.org: admin-guide/cgroup-v2, "CPU Interface Files"; scheduler/sched-bwc, "Hierarchical
    considerations"). A fraction of a CPU is rounded down.

    Args:
        root: The root of the file system, which holds `proc` and `sys`.
    """
    limits: list[float] = [_affine_cpus()]
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(int(slurm))
    limits += (quota for folder in _cgroups(root) if (quota := _quota_cpus(folder)) is not None)
    return max(1, int(min(limits)))


def _affine_cpus() -> int:
    """Return the CPUs that the affinity mask permits; where the system has no such mask, as on macOS, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_mb() -> float:
    """Return the most memory that this process has had, MiB.

    getrusage(2) counts in KiB on Linux and in bytes on macOS. Windows does not have it; there psutil reads
    the peak working set.
    """
    try:
        import resource
    except ImportError:
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those above it, of v2 and of v1's CPU controller.

    `/proc/self/cgroup` has lines `number:controllers:path`; version 2 has no controllers (cgroups(7)). In a
    container the path can be the host's, which does not exist here: the root of the mounted file system is
    the container's own group then, and it is always among the folders.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _memberships(root):
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            yield mounted / ("cpu" if controllers else "") / group


def _memberships(root: Path) -> list[str]:
    try:
        text = (root / "proc/self/cgroup").read_text()
    except OSError:
        text = WITHOUT_CGROUPS
    return text.splitlines()


def _quota_cpus(folder: Path) -> float | None:
    """Return a cgroup's quota in CPUs; None if it has none, or if its files cannot be read."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return None if quota in NO_QUOTA else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def host_class() -> str:
    """Return the kind of this machine, such as `Linux x86_64, 16 CPUs`, without its name."""
    return f"{platform.system()} {platform.machine()}, {granted_cpus()} CPUs"
