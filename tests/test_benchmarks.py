"""The benchmarks' arithmetic and work. No time is tested."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.bench import Bench
from tests.benchmarks.night import Costs, Night, simulate
from tests.benchmarks.pairs import Comparison, Curve, VoidError, paired, write
from tests.benchmarks.peers.readers import READERS
from tests.benchmarks.work import CODECS, candidates, labels, needed_tiles, write_slide

SIZE_PX = (2_000, 1_500)


def test_ratios_are_of_one_round_and_every_second_round_is_reversed() -> None:
    order: list[str] = []
    times = {"ours": iter([1.0, 2.0, 4.0]), "theirs": iter([3.0, 4.0, 20.0])}

    def way(name: str) -> float:
        order.append(name)
        return next(times[name])

    ways = {name: lambda name=name: way(name) for name in times}
    result = paired("Work", ways, work=(2, "crop"), rounds=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert result.ratios("theirs") == [3.0, 2.0, 5.0]
    assert result.rows()[1][:5] == ("theirs", "4.00", "2.00 s", "3.00", "2.00 to 5.00")


def test_a_way_that_did_other_work_has_no_ratio_and_is_not_run_again() -> None:
    calls = []

    def other() -> float:
        calls.append(1)
        raise VoidError("3 of 5 labels differ")

    result = paired("Work", {"ours": lambda: 1.0, "theirs": other}, work=(5, "figure"), rounds=2)
    assert calls == [1]
    assert result.rows()[1][:3] == ("theirs", "void", "3 of 5 labels differ")
    with pytest.raises(VoidError):
        paired("Work", {"theirs": other}, work=(5, "figure"), rounds=1)


def test_results_are_written_as_table_json_and_plot(tmp_path: Path) -> None:
    write(Comparison("A", (1, "crop"), "x", {"x": [1.0], "y": [2.0]}, {}), tmp_path, "a")
    write(Curve("B", "slides", "s", {"x": {1: 1.0, 10: 9.0}}), tmp_path, "b")
    assert "| y | 2.00 | 2.00 s | 2.00 | one round |  |" in (tmp_path / "a.md").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["seconds"] == {"x": [1.0], "y": [2.0]}
    assert {"a.png", "b.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("clustered", [True, False])
def test_fewer_candidates_are_the_first_of_more(clustered: bool) -> None:
    many = candidates(200, clustered=clustered, size_px=SIZE_PX)
    assert candidates(20, clustered=clustered, size_px=SIZE_PX).equals(many.head(20))
    assert not many.duplicated().any()


@pytest.mark.parametrize("codec", CODECS)
def test_readers_give_the_same_crops_of_a_slide_with_texture_where_candidates_are(
    tmp_path: Path, codec: str
) -> None:
    table = candidates(6, clustered=False, size_px=SIZE_PX)
    path = write_slide(tmp_path, "slide", table, codec=codec, size_px=SIZE_PX)
    points = table.to_numpy() - 40
    first, *others = (
        READERS[name](str(path), points, 80, 1)
        for name in ("openslide", "wsi-mitosis", "tifffile and imagecodecs")
    )
    assert first.std(axis=(1, 2, 3)).min() > 5
    for other in others:
        np.testing.assert_array_equal(first, other)
    row, column = next(
        (row, column) for row in range(5) for column in range(7) if (row, column) not in needed_tiles(table)
    )
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == SIZE_PX
        assert slide.level_count == 4
        blank = slide.read_region((column * 256, row * 256), 0, (256, 256)).convert("RGB")
    assert np.asarray(blank).min() > 250


def test_labels_are_ordered_by_place() -> None:
    assert labels([5, 1, 1], [0, 2, 0], [True, False, True]).tolist() == [True, True, False]


def test_a_quick_benchmark_runs(tmp_path: Path) -> None:
    BENCHMARKS["hotspot"](Bench(tmp_path, tmp_path / "results", quick=True, readers_python=tmp_path))
    assert len(json.loads((tmp_path / "results/hotspot.json").read_text())["values"]) == 4


NOTHING = Costs(opening=0, reading=0, stored_bytes=0, model=0, writing=0)


@pytest.mark.parametrize(
    ("costs", "seconds", "limit"),
    [
        (replace(NOTHING, model=0.01), 20 * 100 * 0.01 / 4, "GPUs"),
        (replace(NOTHING, reading=0.01), 20 * 100 * 0.01 / 4 / 2, "reading threads"),
        (replace(NOTHING, stored_bytes=1e6), 20 * 100 * 1e6 / 1e8, "storage"),
        (replace(NOTHING, writing=3.0), 20 * 3.0, "writing"),
        # an opening cannot overlap with anything of its worker
        (replace(NOTHING, opening=1.0, model=0.01), 20 * (1.0 + 100 * 0.01) / 4, "GPUs"),
    ],
)
def test_a_simulated_night_takes_what_limits_it(costs: Costs, seconds: float, limit: str) -> None:
    """20 slides of 100 candidates, 4 GPUs with 2 reading threads each, 100 MB/s."""
    done = simulate(Night([100] * 20, gpus=4, threads=2, storage=1e8, costs=costs, batch=10))
    assert done.ends[-1] == pytest.approx(seconds)
    assert done.limit == limit
    assert len(done.ends) == 20


def test_a_simulated_worker_reads_ahead_of_its_model() -> None:
    """One slide of five batches: the first is read, and then the slower of reading and model decides."""
    costs = replace(NOTHING, reading=0.01, model=0.02, writing=0.5)
    done = simulate(Night([50], gpus=1, threads=1, storage=1e8, costs=costs, batch=10))
    assert done.ends == [pytest.approx(0.1 + 50 * 0.02 + 0.5)]
    slow = simulate(Night([50], gpus=1, threads=1, storage=1e8, costs=replace(costs, reading=0.04), batch=10))
    assert slow.ends == [pytest.approx(50 * 0.04 + 10 * 0.02 + 0.5)]


def test_simulated_workers_that_share_a_gpu_open_slides_while_it_computes() -> None:
    costs = replace(NOTHING, opening=1.0, model=0.01)
    night = Night([100] * 20, gpus=1, threads=2, storage=1e8, costs=costs, batch=10)
    assert simulate(night).ends[-1] == pytest.approx(20 * 2.0)
    assert 1.0 + 20 * 1.0 <= simulate(replace(night, sharing=2)).ends[-1] < 30.0
