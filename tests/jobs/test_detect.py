"""Candidates on slides by a stub in KongNet's place: where, how often, and what a run leaves."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.detector_files import MODEL, spotted_slide, stub_network
from tests.runs import Silent
from tests.slide_files import leica_slide, missing_tiles, transparent_slide
from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.detections import find_files
from wsi_mitosis.jobs import detect
from wsi_mitosis.jobs.detect import DetectResult
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.slide_detector import SlideCandidates, SlideDetector, detect_task
from wsi_mitosis.nets import detector
from wsi_mitosis.specs import DetectSpec
from wsi_mitosis.tables import SlideSource
from wsi_mitosis.workers.slides import detect_batch

SIZE_UM = (460.0, 300.0)
SPOTS = (
    *((60.0, 60.0, 0.6), (80.3, 60.2, 0.9), (100.0, 200.0, 0.75)),
    *((224.0, 30.0, 0.8), (223.8, 60.0, 0.8), (224.3, 90.0, 0.8), (230.0, 120.0, 0.8)),  # a seam: 224 um
    *((100.0, 224.0, 0.8), (224.0, 224.0, 0.85), (229.9, 250.0, 0.7)),  # the other, and where they cross
    *((1.0, 100.0, 0.8), (459.0, 299.0, 0.9), (300.0, 0.6, 0.7), (458.5, 1.5, 0.65)),  # the slide's border
)
"""x, y in um, and a probability; the nearest two are 20 um apart."""
TOLERANCE_PX = 0.75
"""Of the network's px: half a px from a spot's centre to its px's, more where 8 bits make two px equal."""


@pytest.fixture(autouse=True)
def a_stub_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)


def spec(slides: list[Path], out: Path, **options: Any) -> DetectSpec:
    placement = {"workers": 0, "device": "cpu"}
    data = {"slides": [str(s) for s in slides], "out": str(out), "placement": placement, **options}
    return DetectSpec.parse(data, "test")


def run(slides: list[Path], out: Path, **options: Any) -> DetectResult:
    return detect_batch(spec(slides, out, **options), Silent())


def rows(out: Path) -> list[dict[str, str]]:
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def found(path: Path, **options: Any) -> SlideCandidates:
    searched = SlideDetector(MODEL, spec([path], Path("no.csv"), **options), threads=1)
    result = searched.detect(SlideSource(path, path.name), path.name)
    assert result is not None
    return result


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.25), (0.23, 0.23), (0.25, 0.4)])
def test_each_figure_is_found_once_where_it_is(tmp_path: Path, mpp: tuple[float, float]) -> None:
    result = found(spotted_slide(tmp_path / "a.tiff", SIZE_UM, SPOTS, mpp))
    table = result.candidates
    assert len(table) == len(SPOTS) == result.record.counts.candidates
    at_um = table[["x", "y"]].to_numpy() * mpp
    for x, y, dark in SPOTS:
        nearest = np.abs(at_um - (x, y)).max(axis=1).argmin()
        assert np.abs(at_um[nearest] - (x, y)).max() <= TOLERANCE_PX * 0.5, (x, y)
        # of the network's px the darkest covers some of the spot's slope
        assert table["score"][nearest] == pytest.approx(1 - (1 - dark) * 235 / 255, abs=0.04)
    assert table["score"].between(0, 1).all()
    assert table["id"].is_unique
    assert list(table["y"]) == sorted(table["y"])


def test_the_flank_that_another_tile_sees_of_a_figure_is_no_figure(tmp_path: Path) -> None:
    """The second tile begins at 208 um: there it sees a slope, too far from the top to be merged with it."""
    slide = spotted_slide(tmp_path / "a.tiff", (300, 100), [(194, 50, 0.9)], (0.5, 0.5), sigma_um=15.0)
    table = found(slide).candidates
    assert len(table) == 1
    assert table["x"][0] == pytest.approx(194 / 0.5, abs=2)


def test_min_score_is_the_peaks_probability(tmp_path: Path) -> None:
    slide = spotted_slide(tmp_path / "a.tiff", (100, 80), [(30, 30, 0.5), (70, 40, 0.9)])
    assert len(found(slide).candidates) == 2
    assert len(found(slide, min_score=0.8).candidates) == 1
    assert found(slide, min_score=0.99).candidates.empty


def test_glass_never_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("glass was looked at")

    monkeypatch.setattr(SlideDetector, "_ready", unwanted)
    assert found(spotted_slide(tmp_path / "a.tiff", (100, 80), [])).candidates.empty


def holed_slide(path: Path, holes: list[tuple[float, float, float, float]]) -> Path:
    """A slide of 300 x 200 um at 0.25 um/px with a figure near each end, transparent in some boxes in um."""
    plain = tifffile.imread(spotted_slide(path, (300, 200), [(30, 100, 0.9), (270, 100, 0.9)]))
    alpha = np.full(plain.shape[:2], 255, np.uint8)
    for left, top, right, bottom in holes:
        alpha[round(top * 4) : round(bottom * 4), round(left * 4) : round(right * 4)] = 0
    return transparent_slide(path, np.dstack([plain, alpha]))


EVERYWHERE = (0, 0, 300, 200)


def test_a_slide_without_pixels_is_not_one_without_figures(tmp_path: Path) -> None:
    slides = [
        holed_slide(tmp_path / "a.tiff", [EVERYWHERE]),
        holed_slide(tmp_path / "b.tiff", []),
        spotted_slide(tmp_path / "c.tiff", (300, 200), []),
    ]
    result = run(slides, tmp_path / "dets.csv")
    assert result.statuses == {"a.tiff": "failed", "b.tiff": "done", "c.tiff": "done"}
    assert result.candidates == {"b.tiff": 2, "c.tiff": 0}
    assert "a.tiff: searching: it has no pixels" in result.errors["a.tiff"]
    assert result.warnings == []


@pytest.mark.parametrize("width_um", [100, 230, 300])
def test_a_slide_is_empty_however_little_of_it_its_last_tiles_show(tmp_path: Path, width_um: int) -> None:
    """At 230 um the second column of tiles shows 6 um of the slide, which is no tenth of a tile."""
    image = np.full((200 * 4, width_um * 4, 4), (90, 40, 90, 0), np.uint8)
    how = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tiff", image, tile=(128, 128), photometric="rgb", metadata=None, **how)
    assert "no pixels" in run([tmp_path / "a.tiff"], tmp_path / "dets.csv").errors["a.tiff"]


@pytest.mark.parametrize(
    ("holes", "tiles", "figures"),
    [
        ([(0, 0, 150, 200)], "1 of 2", 1),
        ([(250, 0, 300, 200)], "1 of 2", 1),
        ([(100, 90, 110, 100), (240, 60, 300, 140)], "2 of 2", 1),
        ([(0, 0, 299, 200)], "2 of 2", 0),
        ([(10, 80, 50, 120)], "1 of 2", 1),
    ],
)
def test_tiles_that_lack_pixels_are_counted_in_a_warning(
    tmp_path: Path, holes: list[tuple[float, float, float, float]], tiles: str, figures: int
) -> None:
    slide, out = holed_slide(tmp_path / "a.tiff", holes), tmp_path / "dets.csv"
    result = run([slide], out)
    assert (result.exit_status, result.candidates) == (0, {"a.tiff": figures})
    assert [warning.partition(" tiles")[0] for warning in result.warnings] == [f"a.tiff: {tiles}"]
    assert run([slide], out).warnings == result.warnings


def test_a_transparent_rim_of_a_pixel_is_not_worth_a_warning(tmp_path: Path) -> None:
    slide = holed_slide(tmp_path / "a.tiff", [(0, 0, 300, 0.25), (0, 0, 0.25, 200)])
    assert found(slide).record.warnings == ()


def test_segments_that_are_not_stored_are_counted_too(tmp_path: Path) -> None:
    missing_tiles(tmp_path / "a.tiff", np.full((300, 400, 3), 235, np.uint8), "tiled")
    (warning,) = found(tmp_path / "a.tiff").record.warnings
    assert warning.startswith("a.tiff: 1 of 1 tiles lack pixels")


@pytest.mark.parametrize(("dark", "warned"), [(0.9, False), (0.0, True)])
def test_holes_between_scanned_areas_are_no_news_unless_only_glass_is_around_them(
    tmp_path: Path, dark: float, warned: bool
) -> None:
    area = tifffile.imread(spotted_slide(tmp_path / "area.tiff", (100, 80), [(50, 40, dark)]))
    slide = leica_slide(tmp_path / "a.scn", area, (0, 0), (3000, 2000))
    record = found(slide).record
    assert record.counts.candidates == (0 if warned else 1)
    assert any("tiles lack pixels" in warning for warning in record.warnings) == warned


@pytest.fixture
def three(tmp_path: Path) -> tuple[list[Path], Path]:
    """A slide with two figures, an unreadable one, and one without a figure."""
    two = spotted_slide(tmp_path / "a.tiff", (100, 80), [(30, 30, 0.5), (70, 40, 0.9)])
    bad = tmp_path / "b.tiff"
    bad.write_bytes(b"no slide")
    return [
        two,
        bad,
        spotted_slide(tmp_path / "c.tiff", (90, 80), [(40, 40, 0.2)]),
    ], tmp_path / "out/dets.csv"


def test_a_failed_slide_is_not_one_without_candidates(three: tuple[list[Path], Path]) -> None:
    slides, out = three
    result = run(slides, out)
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    assert result.candidates == {"a.tiff": 2, "c.tiff": 0}
    assert [(row["slide"], float(row["x"]), float(row["y"])) for row in rows(out)] == [
        ("a.tiff", pytest.approx(120, abs=2), pytest.approx(120, abs=2)),
        ("a.tiff", pytest.approx(280, abs=2), pytest.approx(160, abs=2)),
    ]
    assert list(rows(out)[0]) == ["slide", "x", "y", "score", "id"]
    parts = out.with_name("dets.csv.parts")
    assert sorted(path.name for path in parts.glob("*.parquet")) == ["a.tiff.parquet", "c.tiff.parquet"]
    told = json.loads((parts / "run.json").read_text())
    assert {s["slide"]: s["status"] for s in told["slides"]} == result.statuses
    assert told["weights_sha256"] == MODEL.sha256
    assert sorted(path.name for path in out.parent.iterdir()) == ["dets.csv", "dets.csv.parts"]


def test_fail_fast_stops_there(three: tuple[list[Path], Path]) -> None:
    slides, out = three
    result = run(slides, out, fail_fast=True)
    assert list(result.statuses.values()).count("failed") == 1
    assert result.exit_status == 1


def test_an_interrupted_run_goes_on(three: tuple[list[Path], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    slides, out = three

    def interrupted(tasks, model, options, reporter) -> Iterator[SlideOutcome[SlideCandidates]]:  # type: ignore[no-untyped-def]
        yield detect_task(
            tasks[0], SlideDetector(model, options, threads=1), partial(reporter.patches, tasks[0].name)
        )
        raise KeyboardInterrupt

    cut = detect.run_detection(spec([slides[0], slides[2]], out), interrupted, Silent())
    assert cut.exit_status == 130
    assert sorted(cut.statuses.values()) == ["done", "pending"]
    assert {row["slide"] for row in rows(out)} == {name for name, s in cut.statuses.items() if s == "done"}
    out.unlink()  # as a kill would have left it, and half a table beside
    out.with_name("dets.csv.parts").joinpath(".1-c.tiff.parquet").write_bytes(b"PAR1")
    out.with_name("dets.csv.parts").joinpath("a.parquet").write_bytes(b"PAR1")
    whole = run([slides[0], slides[2]], out)
    assert (whole.exit_status, len(whole.kept)) == (0, 1)
    content = out.read_bytes()
    monkeypatch.setattr(SlideDetector, "_search", lambda *_: pytest.fail("computed again"))
    assert len(run([slides[0], slides[2]], out).kept) == 2
    assert out.read_bytes() == content


@pytest.mark.parametrize("change", ["overwrite", "min_score", "weights", "mpp", "pixels"])
def test_what_changes_a_result_is_computed_again(
    three: tuple[list[Path], Path], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (slide, _, _), out = three
    run([slide], out)
    options: dict[str, Any] = {"overwrite": {"overwrite": True}, "min_score": {"min_score": 0.8}}.get(
        change, {}
    )
    slides = [slide]
    if change == "weights":
        other = detector.DetectorModel(**{**vars(MODEL), "sha256": "1" * 64})
        monkeypatch.setattr(detector, "find_detector", lambda *_: other)
    if change == "mpp":
        slides = [slide.with_name("list.csv")]
        slides[0].write_text("slide,mpp\na.tiff,0.26\n")
    if change == "pixels":
        spotted_slide(slide, (100, 80), [(30, 30, 0.5)])
    result = run(slides, out, **options)
    assert (result.exit_status, result.kept) == (0, set())
    assert len(rows(out)) == (1 if change in {"min_score", "pixels"} else 2)


def test_a_second_run_adds_and_says_where_it_mixes(three: tuple[list[Path], Path]) -> None:
    (slide, _, other), out = three
    assert not any("mixes" in warning for warning in run([slide], out).warnings)
    spotted_slide(other, (90, 80), [(40, 40, 0.95)])
    result = run([other], out, min_score=0.8)
    assert any("dets.csv mixes candidates of 2" in warning for warning in result.warnings)
    assert [row["slide"] for row in rows(out)] == ["a.tiff", "a.tiff", "c.tiff"]


def test_a_pixel_size_is_never_guessed(tmp_path: Path) -> None:
    slide = spotted_slide(tmp_path / "a.tiff", (100, 80), [(30, 30, 0.8)], stated=False)
    out = tmp_path / "dets.csv"
    refused = run([slide], out)
    assert refused.exit_status == 1
    assert "states no pixel size" in refused.errors["a.tiff"]
    assert "--mpp" in refused.errors["a.tiff"]
    assert rows(out) == []
    assert run([slide], out, mpp=0.25).exit_status == 0
    assert len(rows(out)) == 1


def test_a_slide_that_fails_later_leaves_the_csv(three: tuple[list[Path], Path]) -> None:
    (slide, _, other), out = three
    run([slide, other], out)
    slide.write_bytes(b"broken")
    assert run([slide, other], out).exit_status == 1
    assert rows(out) == []


def test_slides_of_one_file_name_are_told_apart_also_when_one_comes_later(tmp_path: Path) -> None:
    first = spotted_slide(tmp_path / "s/one/x.tiff", (60, 50), [(20, 20, 0.8)])
    out = tmp_path / "dets.csv"
    run([first], out)
    assert [row["slide"] for row in rows(out)] == ["x.tiff"]
    second = spotted_slide(tmp_path / "s/two/x.tiff", (60, 50), [(40, 30, 0.8)])
    assert len(run([first, second], out).kept) == 1
    assert [row["slide"] for row in rows(out)] == ["one/x.tiff", "two/x.tiff"]


def test_one_writer_at_a_time_and_no_folder_for_a_file(
    three: tuple[list[Path], Path], tmp_path: Path
) -> None:
    slides, out = three
    with detect.CandidateFolder(out), pytest.raises(OutputError, match="another run holds"):
        run(slides, out)
    with pytest.raises(OutputError, match="is a folder"):
        run(slides, tmp_path)


def test_no_slides_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        run([tmp_path / "nothing"], tmp_path / "dets.csv")


def test_one_bad_entry_of_each_kind_leaves_the_others_alone(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    spotted_slide(folder / "a.tiff", (100, 80), [(30, 30, 0.8)])
    os.mkfifo(folder / "pipe.dcm")
    (folder / "gone.svs").symlink_to("nowhere.svs")
    (folder / "folder.svs").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.tiff")).write_bytes(b"x")
    result = run([folder, tmp_path / "lost.svs"], tmp_path / "dets.csv")
    bad = {"pipe.dcm", "gone.svs", "folder.svs", "M\\xfcller.tiff", "lost.svs"}
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done"} | dict.fromkeys(bad, "failed")
    assert all(name in result.errors[name] for name in bad)
    told = json.loads((tmp_path / "dets.csv.parts/run.json").read_text(encoding="utf-8"))
    assert {slide["slide"] for slide in told["slides"] if slide["error"]} == bad


def test_a_name_too_long_for_its_table_is_whole_in_the_csv(tmp_path: Path) -> None:
    name = "a" * 245 + ".tiff"
    slide = spotted_slide(tmp_path / name, (100, 80), [(30, 30, 0.8)])
    out = tmp_path / "dets.csv"
    assert run([slide], out).exit_status == 0
    assert [row["slide"] for row in rows(out)] == [name]
    (part,) = (tmp_path / "dets.csv.parts").glob("*.parquet")
    source = SlideSource(slide, name)
    assert find_files(part.parent, [source]).of_slide == {source: [part]}
