"""Placement: how many workers there are, and what each of them gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_mitosis.specs import PlacementOptions

CPUS_PER_WORKER = 4
"""Without a GPU, one worker's reading threads and model keep about this many cores busy."""
ROUNDING = 1e-6
"""Three workers fit on a GPU of which each gets 0.3333333."""


@dataclass(frozen=True)
class Placement:
    """The number of Ray workers, and the CPUs and GPUs that each of them gets."""

    workers: int
    cpus: int
    gpus: float


def stays_here(options: PlacementOptions, tasks: int) -> bool:
    """Return whether the work is done in this process: on request, or for a single task."""
    requests_ray = options.address is not None or options.gpus_per_worker is not None
    return options.workers == 0 or (options.workers is None and tasks <= 1 and not requests_ray)


def place(options: PlacementOptions, tasks: int | None, cpus: int, gpus: float) -> Placement:
    """Divide the granted CPUs and GPUs among workers.

    Args:
        options: The user's options.
        tasks: Number of tasks; None if there may be any number.
        cpus: CPUs granted.
        gpus: GPUs granted.

    Returns:
        One worker per GPU, or as many as fit if the user chose each one's share of a GPU, else one per
        `CPUS_PER_WORKER`; at least one and never more than tasks. The CPUs and GPUs are shared out evenly
        among them.

    Raises:
        InputError: if a worker needs more than is granted.
    """
    workers = options.workers
    if workers is None:
        on_gpus = int(gpus / (options.gpus_per_worker or 1) + ROUNDING)
        workers = on_gpus or cpus // (options.cpus_per_worker or CPUS_PER_WORKER)
    workers = max(1, workers if tasks is None else min(tasks, workers))
    placement = Placement(
        workers, options.cpus_per_worker or max(1, cpus // workers), _gpu_share(options, workers, gpus)
    )
    if placement.cpus > cpus or placement.gpus > gpus:
        raise InputError(
            f"each worker needs {placement.cpus} CPUs and {placement.gpus:g} GPUs; "
            f"there are {cpus} CPUs and {gpus:g} GPUs",
            stage="placing workers",
            remedy="Lower --cpus-per-worker or --gpus-per-worker",
        )
    return placement


def _gpu_share(options: PlacementOptions, workers: int, gpus: float) -> float:
    if options.gpus_per_worker is not None:
        return options.gpus_per_worker
    return 0.0 if options.device == "cpu" else min(1.0, gpus / workers)


def fit_nodes(placement: Placement, options: PlacementOptions, node_cpus: Sequence[int]) -> Placement:
    """Lower each worker's CPUs to those of the smallest node, because a worker runs on one node.

    Args:
        placement: The division of the whole cluster.
        options: The user's options; a share that the user chose is kept.
        node_cpus: CPUs of each node that is alive.
    """
    if options.cpus_per_worker is not None:
        return placement
    return replace(placement, cpus=min(placement.cpus, *(cpus for cpus in node_cpus if cpus)))
