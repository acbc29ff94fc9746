"""How many workers there are, and what each of them gets."""

from __future__ import annotations

import pytest

from wsi_mitosis.errors import InputError
from wsi_mitosis.specs import PlacementOptions
from wsi_mitosis.workers.placement import Placement, fit_nodes, place, stays_here


def placed(tasks: int, cpus: int, gpus: float, **options: object) -> Placement:
    return place(PlacementOptions.parse(options, "test"), tasks, cpus, gpus)


def test_a_single_task_needs_no_ray() -> None:
    assert stays_here(PlacementOptions(), 1)
    assert not stays_here(PlacementOptions(), 2)
    assert not stays_here(PlacementOptions(address="auto"), 1)
    assert not stays_here(PlacementOptions(workers=1), 1)
    assert stays_here(PlacementOptions(workers=0), 99)


@pytest.mark.parametrize("options", [{"address": "auto"}, {"gpus_per_worker": 1.0}])
def test_no_option_is_ignored_without_ray(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="0 workers is this process"):
        PlacementOptions.parse({"workers": 0, **options}, "test")


def test_one_worker_per_gpu() -> None:
    assert placed(10, 16, 2) == Placement(2, 8, 1.0)


def test_without_gpus_one_worker_per_four_cpus() -> None:
    assert placed(10, 16, 0) == Placement(4, 4, 0.0)
    assert placed(10, 2, 0) == Placement(1, 2, 0.0)


def test_never_more_workers_than_tasks() -> None:
    assert placed(3, 64, 8).workers == 3
    assert placed(2, 64, 0, workers=9).workers == 2


def test_gpus_may_be_shared() -> None:
    assert placed(10, 16, 1, workers=4) == Placement(4, 4, 0.25)
    assert placed(10, 16, 1, gpus_per_worker=0.5) == Placement(2, 8, 0.5)
    assert placed(99, 16, 2, gpus_per_worker=0.1).workers == 20
    assert placed(99, 16, 1, gpus_per_worker=1 / 3).workers == 3


def test_workers_that_need_several_gpus_are_as_many_as_fit() -> None:
    assert placed(10, 16, 5, gpus_per_worker=2.0) == Placement(2, 8, 2.0)


def test_no_gpu_is_taken_on_request_of_the_cpu() -> None:
    assert placed(10, 16, 2, device="cpu").gpus == 0.0


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(InputError, match="--cpus-per-worker"):
        placed(10, 4, 0, cpus_per_worker=8)
    with pytest.raises(InputError, match="--gpus-per-worker"):
        placed(10, 4, 1, gpus_per_worker=2.0)


def test_a_worker_fits_on_the_smallest_node_that_has_cpus() -> None:
    assert fit_nodes(Placement(2, 8, 0.5), PlacementOptions(), [12, 4, 0]) == Placement(2, 4, 0.5)
    assert fit_nodes(Placement(2, 2, 0.0), PlacementOptions(), [12, 4]) == Placement(2, 2, 0.0)
    assert fit_nodes(Placement(2, 8, 0.0), PlacementOptions(cpus_per_worker=8), [4]).cpus == 8
