"""A folder of slides: partial failure, resume, names, frames, what stands afterwards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.detection_files import write_all
from tests.runs import CANDIDATES, SLIDE_PX, Silent, candidates_csv, files_in, run, slides_in, spec, summary
from tests.slide_files import leica_slide, textured, tiff_slide
from wsi_mitosis.errors import DetectionsError, InputError, OutputError
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.results.folder import ResultFolder
from wsi_mitosis.jobs import batch, inputs
from wsi_mitosis.jobs.classifier import Classifier, classify_task
from wsi_mitosis.tables import SUMMARY_COLUMNS


@pytest.fixture
def three(tmp_path: Path) -> tuple[list[Path], Path, Path]:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff", "c.tiff"])
    return slides, candidates_csv(tmp_path / "dets.csv", ["a.tiff", "b.tiff", "c.tiff"]), tmp_path / "out"


@pytest.fixture
def no_inference(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the slides whose patches were classified although none should be."""
    asked: list[str] = []
    original = Classifier._predict

    def spied(self: Classifier, slide, *arguments):  # type: ignore[no-untyped-def]
        asked.append(slide.path.name)
        return original(self, slide, *arguments)

    monkeypatch.setattr(Classifier, "_predict", spied)
    return asked


def test_a_precision_that_the_bundle_was_not_compared_in_is_refused_before_anything_is_written(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    with pytest.raises(InputError, match=r"--precision bf16: .*Use --precision fp32"):
        run(slides, detections, out, small_bundle, result={"precision": "bf16"})
    assert not out.exists()


def test_every_slide_gets_its_files_and_its_row(
    three: tuple[list[Path], Path, Path], small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    slides, detections, out = three
    result = run(slides, detections, out, small_bundle)

    assert result.exit_status == 0
    assert sorted(result.statuses.items()) == [("a.tiff", "done"), ("b.tiff", "done"), ("c.tiff", "done")]
    rows = summary(out)
    assert list(rows) == ["a.tiff", "b.tiff", "c.tiff"]
    assert tuple(rows["a.tiff"]) == SUMMARY_COLUMNS
    for name in rows:
        figures = read_figures(out / "figures" / f"{name}.parquet")
        counted = figures["label"].value_counts()
        assert int(rows[name]["atypical"]) == counted.get("atypical", 0)
        assert int(rows[name]["typical"]) == counted.get("typical", 0)
        assert int(rows[name]["classified"]) == len(CANDIDATES)
        assert rows[name]["bundle_digest"] == result.bundle_digest
        assert rows[name]["trained"] == "false"
        geojson = out / "geojson" / f"{name}.geojson"
        assert_geojson_ok(geojson)
        document = json.loads(geojson.read_text())
        assert document["wsi_mitosis"]["bundle_digest"] == result.bundle_digest
        assert [f["id"] for f in document["features"]] == list(figures["figure_id"])
    told = json.loads((out / "run.json").read_text())
    assert told["exit_status"] == 0
    assert told["trained"] is False
    assert {s["slide"]: s["status"] for s in told["slides"]} == dict.fromkeys(rows, "done")
    assert all(s["identity"] for s in told["slides"])
    assert any("labels mean nothing" in warning for warning in told["warnings"])


def test_votes_and_probabilities_agree_with_each_other(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    figures = read_figures(out / "figures" / "a.tiff.parquet")
    assert (figures["votes_cast"] == 3).all()
    majority = np.where(figures["votes_atypical"] > figures["votes_cast"] / 2, "atypical", "typical")
    assert list(figures["label"]) == list(majority)
    assert figures["p_atypical"].between(0, 1).all()


def test_early_votes_give_the_same_labels(
    three: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    run(slides, detections, tmp_path / "early", small_bundle, result={"vote": "early"})
    every = read_figures(out / "figures" / "a.tiff.parquet")
    early = read_figures(tmp_path / "early" / "figures" / "a.tiff.parquet")
    assert list(every["label"]) == list(early["label"])
    assert early["votes_cast"].between(2, 3).all()


def test_one_bad_slide_leaves_the_others_alone(
    three: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = three
    whole = run(slides, detections, tmp_path / "whole", small_bundle)
    slides[1].write_bytes(slides[1].read_bytes()[:2000])
    result = run(slides, detections, out, small_bundle)

    assert whole.exit_status == 0
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    row = summary(out)["b.tiff"]
    assert row["status"] == "failed"
    assert "b.tiff" in row["error"]
    assert row["classified"] == ""
    good = {
        name: content
        for name, content in files_in(tmp_path / "whole").items()
        if "geojson" in name and "b.tiff" not in name
    }
    assert {name: content for name, content in files_in(out).items() if "geojson" in name} == good


def test_an_unexpected_error_fails_its_slide_and_keeps_the_traceback(
    three: tuple[list[Path], Path, Path], small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, detections, out = three
    original = Classifier._predict

    def broken(self: Classifier, slide, *arguments):  # type: ignore[no-untyped-def]
        if slide.path.name == "b.tiff":
            raise ZeroDivisionError("a bug of ours")
        return original(self, slide, *arguments)

    monkeypatch.setattr(Classifier, "_predict", broken)
    result = run(slides, detections, out, small_bundle)
    assert result.exit_status == 1
    assert "ZeroDivisionError" in result.errors["b.tiff"]
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert any("Traceback" in (event.get("details") or "") for event in events)


def test_a_second_run_keeps_what_is_done(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str]
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*.*")
        if path.parent.name in {"figures", "geojson"}
    }
    no_inference.clear()

    result = run(slides, detections, out, small_bundle)

    assert no_inference == []
    assert result.exit_status == 0
    assert result.kept == {"a.tiff", "b.tiff", "c.tiff"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(row["status"] == "done" for row in summary(out).values())


def test_only_what_changed_is_computed_again(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str], tmp_path: Path
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)

    no_inference.clear()
    detections.write_text(detections.read_text() + "b.tiff,50,60,0.9\n")
    run(slides, detections, out, small_bundle)
    assert no_inference == ["b.tiff"]

    no_inference.clear()
    image = textured(*SLIDE_PX, seed=2)
    image[250, 300] ^= 1
    tiff_slide(slides[2], image)
    run(slides, detections, out, small_bundle)
    assert no_inference == ["c.tiff"]

    no_inference.clear()
    run(slides, detections, out, small_bundle, result={"tta": "flips"})
    assert sorted(no_inference) == ["a.tiff", "b.tiff", "c.tiff"]


def test_overwrite_computes_everything_again(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str]
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    no_inference.clear()
    run(slides, detections, out, small_bundle, output={"overwrite": True})
    assert sorted(no_inference) == ["a.tiff", "b.tiff", "c.tiff"]


def test_another_way_of_drawing_needs_no_inference(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str]
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    ids = [f["id"] for f in json.loads((out / "geojson/a.tiff.geojson").read_text())["features"]]
    no_inference.clear()

    run(slides, detections, out, small_bundle, output={"objects": "annotations"})

    assert no_inference == []
    features = json.loads((out / "geojson/a.tiff.geojson").read_text())["features"]
    assert {f["properties"]["objectType"] for f in features} == {"annotation"}
    assert [f["id"] for f in features] == ids


def test_a_lost_or_outdated_geojson_is_drawn_again(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str]
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    right = files_in(out)
    no_inference.clear()
    (out / "geojson/a.tiff.geojson").unlink()
    shutil.copy(out / "geojson/c.tiff.geojson", out / "geojson/b.tiff.geojson")
    run(slides, detections, out, small_bundle)
    assert no_inference == []
    assert files_in(out) == right


def test_an_interrupted_run_goes_on_where_it_was(
    three: tuple[list[Path], Path, Path], small_bundle: Path, no_inference: list[str], tmp_path: Path
) -> None:
    slides, detections, out = three

    def interrupted(tasks, bundle, options, reporter) -> Iterator[batch.SlideOutcome[batch.SlideResult]]:  # type: ignore[no-untyped-def]
        classifier = Classifier(bundle, options.result, device="cpu")
        yield classify_task(tasks[0], classifier, partial(reporter.patches, tasks[0].name))
        raise KeyboardInterrupt

    result = batch.run_batch(spec(slides, detections, out, small_bundle), interrupted, Silent())
    assert result.exit_status == 130
    assert sorted(row["status"] for row in summary(out).values()) == ["done", "pending", "pending"]
    assert json.loads((out / "run.json").read_text())["exit_status"] == 130

    no_inference.clear()
    again = run(slides, detections, out, small_bundle)
    assert again.exit_status == 0
    assert len(no_inference) == 2
    run(slides, detections, tmp_path / "unbroken", small_bundle)
    geojson = {name: content for name, content in files_in(out).items() if "geojson" in name}
    assert geojson == {n: c for n, c in files_in(tmp_path / "unbroken").items() if "geojson" in n}


def test_fail_fast_leaves_the_rest_pending(three: tuple[list[Path], Path, Path], small_bundle: Path) -> None:
    slides, detections, out = three
    # the largest task is first: give the broken slide more candidates
    detections.write_text(detections.read_text() + "b.tiff,50,60,0.9\n")
    slides[1].write_bytes(b"II*\0 no slide")
    result = run(slides, detections, out, small_bundle, output={"fail_fast": True})
    assert result.exit_status == 1
    assert result.statuses == {"a.tiff": "pending", "b.tiff": "failed", "c.tiff": "pending"}
    assert result.warnings[-1] == "Stopped after b.tiff failed (--fail-fast)."


def test_largest_slides_go_first(three: tuple[list[Path], Path, Path], small_bundle: Path) -> None:
    slides, detections, out = three
    detections.write_text(detections.read_text() + "c.tiff,50,60,0.9\nc.tiff,70,60,0.9\nb.tiff,70,60,0.9\n")
    order: list[str] = []

    def seen(tasks, bundle, options, reporter) -> Iterator[batch.SlideOutcome[batch.SlideResult]]:  # type: ignore[no-untyped-def]
        order.extend(task.name for task in tasks)
        yield from ()

    batch.run_batch(spec(slides, detections, out, small_bundle), seen, Silent())
    assert order == ["c.tiff", "b.tiff", "a.tiff"]


def test_a_slide_without_detections_is_not_opened_and_not_a_failure(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    slides[1].write_bytes(b"no slide at all")
    candidates_csv(detections, ["a.tiff", "c.tiff"])
    result = run(slides, detections, out, small_bundle)
    assert result.exit_status == 0
    assert summary(out)["b.tiff"]["status"] == "no_detections"


def test_a_second_run_adds_to_the_folder(three: tuple[list[Path], Path, Path], small_bundle: Path) -> None:
    slides, detections, out = three
    slides[1].write_bytes(b"no slide at all")
    run(slides[:2], detections, out, small_bundle)
    result = run(slides[2:], detections, out, small_bundle)
    assert list(result.statuses) == ["c.tiff"]
    assert {name: row["status"] for name, row in summary(out).items()} == {
        "a.tiff": "done",
        "b.tiff": "failed",
        "c.tiff": "done",
    }


def test_excluded_candidates_keep_their_rows_with_the_reason(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    detections = tmp_path / "d.csv"
    detections.write_text(
        "x,y,score,note\n100,100,.9,first\n100.001,100,.8,same\nnan,5,.9,\n-3,5,.9,\n9999,5,.9,\n50,50,.1,weak\n"
    )
    run(slides, detections, tmp_path / "out", small_bundle, result={"min_score": 0.5})
    figures = read_figures(tmp_path / "out/figures/a.tiff.parquet")
    reasons = [None if pd.isna(r) else r for r in figures["excluded_reason"]]
    assert reasons == [None, "duplicate", "not_finite", "outside", "outside", "score"]
    assert figures["note"].tolist()[:2] == ["first", "same"]
    assert figures["figure_id"].notna().tolist() == [True] + [False] * 5
    row = summary(tmp_path / "out")["a.tiff"]
    assert (row["candidates"], row["classified"], row["excluded"]) == ("6", "1", "5")


def test_no_candidate_left_is_done_with_empty_ratios(
    tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    candidates_csv(tmp_path / "d.csv", ["a.tiff"], [(5.0, 10.0)])
    result = run(slides, tmp_path / "d.csv", tmp_path / "out", small_bundle, result={"min_score": 0.9})
    row = summary(tmp_path / "out")["a.tiff"]
    assert result.exit_status == 0
    assert (row["status"], row["classified"], row["atypical_fraction"], row["mean_agreement"]) == (
        "done",
        "0",
        "",
        "",
    )
    assert_geojson_ok(tmp_path / "out/geojson/a.tiff.geojson")


def test_candidates_of_every_format_give_the_same_figures(
    tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    scores = [0.5 + 0.01 * i for i in range(len(CANDIDATES))]
    places = {}
    for name, path in write_all(tmp_path / "dets", "a.tiff", CANDIDATES, scores, (0.25, 0.25)).items():
        out = tmp_path / "out" / name
        run(slides, path, out, small_bundle)
        assert_geojson_ok(out / "geojson/a.tiff.geojson")
        figures = read_figures(out / "figures/a.tiff.parquet")
        places[name] = figures[["figure_id", "p_atypical", "label"]].round({"p_atypical": 12}).values.tolist()
    first = places.pop("csv")
    assert len(first) == len(CANDIDATES)
    for name, found in places.items():
        assert found == first, name


def test_both_frames_of_a_slide_with_bounds(
    tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    """Bounds at (1000, 2000): QuPath's origin is there, the tables' is not."""
    image = textured(700, 500)
    slide = leica_slide(tmp_path / "s.scn", image, (1000, 2000), (3000, 4000))
    xy = [(1100.0, 2100.0), (1350.25, 2222.5)]
    files = write_all(tmp_path / "dets", "s.scn", xy, [0.9, 0.8], (0.25, 0.25), bounds=(1000, 2000))
    tables = {}
    for name, path in files.items():
        out = tmp_path / "out" / name
        assert run([slide], path, out, small_bundle).exit_status == 0
        geojson = out / "geojson/s.scn.geojson"
        assert_geojson_ok(geojson)
        ring = np.array(json.loads(geojson.read_text())["features"][0]["geometry"]["coordinates"][0])
        centre = (ring.min(axis=0) + ring.max(axis=0)) / 2
        assert centre == pytest.approx([100.0, 100.0], abs=0.01), name  # rounded to 0.01 px in the file
        figures = read_figures(out / "figures/s.scn.parquet")
        assert figures[["x_px0", "y_px0"]].to_numpy() == pytest.approx(np.array(xy), abs=1e-6), name
        tables[name] = figures["p_atypical"].round(12).tolist()
    assert len(set(map(tuple, tables.values()))) == 1

    out = tmp_path / "out" / "csv"
    run([slide], files["csv"], out, small_bundle, output={"geojson_frame": "slide"})
    ring = json.loads((out / "geojson/s.scn.geojson").read_text())["features"][0]["geometry"]["coordinates"][
        0
    ]
    assert ring[0][0] > 1000


def test_slides_of_the_same_name_keep_their_folders(tmp_path: Path, small_bundle: Path) -> None:
    one, two = tmp_path / "in/one/s.tiff", tmp_path / "in/two/s.tiff"
    for seed, path in enumerate((one, two)):
        path.parent.mkdir(parents=True)
        tiff_slide(path, textured(*SLIDE_PX, seed=seed))
    detections = candidates_csv(tmp_path / "d.csv", ["one/s.tiff", "two/s.tiff"])
    out = tmp_path / "out"

    assert run([one, two], detections, out, small_bundle).exit_status == 0
    assert set(summary(out)) == {"one/s.tiff", "two/s.tiff"}
    assert (out / "geojson/one/s.tiff.geojson").exists()
    assert (out / "figures/two/s.tiff.parquet").exists()
    assessment = out / "assessments/one/s.tiff.json"
    whole = assessment.read_bytes()
    assessment.write_bytes(whole.replace(b'"rank": 1', b'"rank": 9'))
    result = run([one, two], detections, out, small_bundle)
    assert result.kept == {"one/s.tiff", "two/s.tiff"}
    assert assessment.read_bytes() == whole


def test_a_written_name_does_not_change_when_a_namesake_comes(tmp_path: Path, small_bundle: Path) -> None:
    one, two = tmp_path / "in/one/s.tiff", tmp_path / "in/two/s.tiff"
    for seed, path in enumerate((one, two)):
        path.parent.mkdir(parents=True)
        tiff_slide(path, textured(*SLIDE_PX, seed=seed))
    out = tmp_path / "out"
    run([one], candidates_csv(tmp_path / "1.csv", ["s.tiff"]), out, small_bundle)
    both = candidates_csv(tmp_path / "2.csv", ["one/s.tiff", "two/s.tiff"])
    result = run([tmp_path / "in"], both, out, small_bundle, input={"recursive": True})
    assert set(summary(out)) == {"s.tiff", "two/s.tiff"}
    assert result.kept == {"s.tiff"}


def test_a_folder_of_detections(tmp_path: Path, small_bundle: Path) -> None:
    """One file each; a bad one and a doubled one fail their slides alone."""
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff", "c.tiff", "d.tiff"])
    folder = tmp_path / "dets"
    folder.mkdir()
    candidates_csv(folder / "a_detections.csv", ["a.tiff"])
    (folder / "b.csv").write_text("nothing,here\n1,2\n")
    candidates_csv(folder / "c.csv", ["c.tiff"])
    candidates_csv(folder / "c.tiff.csv", ["c.tiff"])
    result = run(slides, folder, tmp_path / "out", small_bundle)
    assert result.exit_status == 1
    assert result.statuses == {
        "a.tiff": "done",
        "b.tiff": "failed",
        "c.tiff": "failed",
        "d.tiff": "no_detections",
    }
    assert "b.csv" in result.errors["b.tiff"]
    assert "2 files fit this slide" in result.errors["c.tiff"]


def test_rows_for_other_slides_are_counted_and_told(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    result = run(slides[:1], detections, out, small_bundle)
    assert any("10 rows for 2 slides that were not given" in warning for warning in result.warnings)


def test_the_frame_taken_is_told(three: tuple[list[Path], Path, Path], small_bundle: Path) -> None:
    slides, detections, out = three
    result = run(slides, detections, out, small_bundle)
    assert any("frame slide" in warning for warning in result.warnings)
    assert json.loads((out / "run.json").read_text())["detections"][0]["frame"] == "slide"


def test_a_given_mpp_is_marked_in_the_result(tmp_path: Path, small_bundle: Path) -> None:
    slide = tiff_slide(tmp_path / "a.tiff", textured(*SLIDE_PX), mpp=100.0)
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    assert run([slide], detections, tmp_path / "refused", small_bundle).exit_status == 1
    assert run([slide], detections, tmp_path / "out", small_bundle, result={"mpp": 0.25}).exit_status == 0
    row = summary(tmp_path / "out")["a.tiff"]
    assert (row["mpp_um"], row["mpp_source"]) == ("0.25", "given")


def test_a_listed_mpp_replaces_a_stated_one_and_is_told(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path, ["a.tiff"])
    (tmp_path / "list.csv").write_text("slide,mpp\na.tiff,0.2425\n")
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff"])
    result = run([tmp_path / "list.csv"], detections, tmp_path / "out", small_bundle)
    row = summary(tmp_path / "out")["a.tiff"]
    assert (row["mpp_um"], row["mpp_source"]) == ("0.2425", "list")
    assert any("0.2425" in w and "0.25" in w for w in result.warnings)


def test_nothing_is_started_when_the_input_is_unusable(
    three: tuple[list[Path], Path, Path], small_bundle: Path, tmp_path: Path
) -> None:
    slides, detections, out = three
    with pytest.raises(DetectionsError, match="no such file"):
        run(slides, tmp_path / "absent.csv", out, small_bundle)
    with pytest.raises(DetectionsError, match="no row fits"):
        run(slides, candidates_csv(tmp_path / "other.csv", ["x.tiff"]), out, small_bundle)
    with pytest.raises(InputError, match="no slides"):
        run([_empty(tmp_path / "empty")], detections, out, small_bundle)
    with pytest.raises(InputError):
        run(slides, detections, out, tmp_path / "no-bundle")
    assert not out.exists()


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_folder_held_by_another_run_is_refused(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    with ResultFolder(out), pytest.raises(OutputError, match="another run holds"):
        run(slides, detections, out, small_bundle)


def test_a_moved_slide_keeps_its_name_and_its_result(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "before", ["s.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["s.tiff"])
    run([tmp_path / "before"], detections, tmp_path / "out", small_bundle)
    (tmp_path / "before").rename(tmp_path / "after")
    result = run([tmp_path / "after"], detections, tmp_path / "out", small_bundle)
    assert result.kept == {"s.tiff"}


def test_another_slide_does_not_take_the_place_of_one_that_is_gone(
    tmp_path: Path, small_bundle: Path
) -> None:
    slides_in(tmp_path / "monday", ["s.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["s.tiff"])
    run([tmp_path / "monday"], detections, tmp_path / "out", small_bundle)
    first = files_in(tmp_path / "out")
    shutil.rmtree(tmp_path / "monday")
    (tmp_path / "tuesday").mkdir()
    tiff_slide(tmp_path / "tuesday/s.tiff", textured(*SLIDE_PX, seed=9))
    run([tmp_path / "tuesday"], detections, tmp_path / "out", small_bundle)
    assert set(summary(tmp_path / "out")) == {"s.tiff", "tuesday/s.tiff"}
    assert first.items() <= files_in(tmp_path / "out").items()


def test_a_slide_that_fails_this_time_is_failed_although_its_earlier_result_stands(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    figures = (out / "figures/b.tiff.parquet").read_bytes()
    slides[1].write_bytes(b"the disk went away")
    assert run(slides, detections, out, small_bundle).exit_status == 1
    row = summary(out)["b.tiff"]
    assert (row["status"], row["classified"]) == ("failed", "")
    assert (out / "figures/b.tiff.parquet").read_bytes() == figures


def test_a_result_that_cannot_be_written_fails_its_slide_alone(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    (out / "figures/b.tiff.parquet").mkdir(parents=True)  # in the way of the table
    result = run(slides, detections, out, small_bundle)
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    assert "writing results" in summary(out)["b.tiff"]["error"]
    assert [path.name for path in out.rglob(".*") if "lock" not in path.name] == []


def test_a_folder_of_detections_is_told_in_one_line(tmp_path: Path, small_bundle: Path) -> None:
    names = ["a.tiff", "b.tiff", "c.tiff"]
    slides = slides_in(tmp_path / "slides", names)
    (tmp_path / "dets").mkdir()
    for name in names:
        candidates_csv(tmp_path / "dets" / f"{name}.csv", [name])
    result = run(slides, tmp_path / "dets", tmp_path / "out", small_bundle)
    assert [w for w in result.warnings if "read as" in w] == [
        "3 of the detections files read as csv, px, frame slide"
    ]


def test_one_bad_entry_of_each_kind_leaves_the_others_alone(tmp_path: Path, small_bundle: Path) -> None:
    folder = tmp_path / "slides"
    slides_in(folder, ["a.tiff", "b.tiff"])
    os.mkfifo(folder / "pipe.tiff")
    os.mkfifo(folder / "pipe.dcm")
    (folder / "gone.svs").symlink_to("nowhere.svs")
    (folder / "loop.svs").symlink_to("loop.svs")
    (folder / "empty.svs").touch()
    (folder / "folder.svs").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.tiff")).write_bytes(b"x")
    bad = {"pipe.tiff", "pipe.dcm", "gone.svs", "loop.svs", "empty.svs", "folder.svs", "M\\xfcller.tiff"}
    detections = candidates_csv(tmp_path / "d.csv", ["a.tiff", "b.tiff", "pipe.tiff", "gone.svs"])
    out = tmp_path / "out"

    for _ in range(2):  # the second time their names are in the folder's summary
        result = run([folder], detections, out, small_bundle, output={"qupath_project": True, "dicom": False})
        assert result.exit_status == 1
        assert {name for name, status in result.statuses.items() if status == "failed"} == bad
        assert {name for name, status in result.statuses.items() if status == "done"} == {"a.tiff", "b.tiff"}
        rows = summary(out)
        assert {name for name, row in rows.items() if row["status"] == "failed"} == bad
        assert all(name in rows[name]["error"] for name in bad)
        told = json.loads((out / "run.json").read_text(encoding="utf-8"))
        assert {slide["slide"] for slide in told["slides"] if slide["error"]} == bad
        assert any(
            "pipe.tiff" in line for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        )
        project = json.loads((out / "qupath" / "project.qpproj").read_text(encoding="utf-8"))
        assert {image["imageName"] for image in project["images"]} == {"a.tiff", "b.tiff"}
        (note,) = (warning for warning in result.warnings if "QuPath project" in warning)
        assert note.endswith("and 4 more")
        assert result.report is not None


def test_a_done_slide_that_has_become_a_pipe_is_not_waited_for(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    run(slides, detections, out, small_bundle)
    slides[1].unlink()
    os.mkfifo(slides[1])
    result = run(slides, detections, out, small_bundle, output={"qupath_project": True})
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}
    assert "not in the QuPath project, because they cannot be opened: 'b.tiff'" in result.warnings


def test_fail_fast_stops_before_the_first_slide_where_an_entry_is_bad(
    three: tuple[list[Path], Path, Path], small_bundle: Path
) -> None:
    slides, detections, out = three
    slides[1].unlink()
    result = run(slides, detections, out, small_bundle, output={"fail_fast": True})
    assert result.statuses == {"a.tiff": "pending", "b.tiff": "failed", "c.tiff": "pending"}
    assert result.exit_status == 1
    assert "Stopped after b.tiff failed (--fail-fast)." in result.warnings


def test_a_slide_that_vanishes_after_it_was_found_fails_alone(
    three: tuple[list[Path], Path, Path], small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, detections, out = three
    read = inputs.read_detections

    def slow(*arguments, **options):  # type: ignore[no-untyped-def]
        slides[1].unlink()
        return read(*arguments, **options)

    monkeypatch.setattr(inputs, "read_detections", slow)
    result = run(slides, detections, out, small_bundle)
    assert result.statuses == {"a.tiff": "done", "b.tiff": "failed", "c.tiff": "done"}


def test_a_name_too_long_for_our_endings_is_done_under_a_short_one(
    tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    names = ["a" * 245 + ".tiff", "a" * 244 + "b.tiff", "\u00e9" * 122 + ".tiff"]
    slides = slides_in(tmp_path / "slides", names)
    detections, out = candidates_csv(tmp_path / "d.csv", names), tmp_path / "out"
    result = run([tmp_path / "slides"], detections, out, small_bundle)
    assert set(result.statuses.values()) == {"done"}
    assert all(name.endswith(".tiff") for name in result.statuses)
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))["slides"]
    assert {Path(slide["path"]) for slide in told} == set(slides)
    for name in result.statuses:
        assert_geojson_ok(out / "geojson" / f"{name}.geojson")
        assert len(read_figures(out / "figures" / f"{name}.parquet")) == len(CANDIDATES)
    assert run([tmp_path / "slides"], detections, out, small_bundle).kept == set(result.statuses)


@pytest.mark.parametrize(
    "name", ["a,b.tiff", 'a"b.tiff', "a\nb.tiff", "a'b;c.tiff", "100%25.tiff", "a\\b.tiff"]
)
def test_odd_names_round_trip(tmp_path: Path, small_bundle: Path, name: str) -> None:
    slides_in(tmp_path / "slides", [name])
    (tmp_path / "d.csv").write_text('slide,x,y\n"{}",100,100\n'.format(name.replace('"', '""')))
    out = tmp_path / "out"
    result = run([tmp_path / "slides"], tmp_path / "d.csv", out, small_bundle)
    assert result.statuses == {name: "done"}
    assert list(summary(out)) == [name]
    assert [slide["slide"] for slide in json.loads((out / "run.json").read_text())["slides"]] == [name]


def test_a_name_that_fits_two_slides_fails_these_and_no_other(tmp_path: Path, small_bundle: Path) -> None:
    slides_in(tmp_path / "slides", ["a.tif", "a.tiff", "b.tiff"])
    detections = candidates_csv(tmp_path / "d.csv", ["a", "b"])
    result = run([tmp_path / "slides"], detections, tmp_path / "out", small_bundle)
    assert result.statuses == {"a.tif": "failed", "a.tiff": "failed", "b.tiff": "done"}
    assert result.exit_status == 1
    for name in ("a.tif", "a.tiff"):
        assert "the name 'a' fits 2 of the slides: 'a.tif', 'a.tiff'" in result.errors[name]
    assert not any("not given" in warning for warning in result.warnings)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_slide_beside_candidates_of_nearly_its_name_fails_alone(
    tmp_path: Path, small_bundle: Path, *, as_folder: bool
) -> None:
    slides_in(tmp_path / "slides", ["a.tiff", "b.tiff", "c.tiff"])
    if as_folder:
        detections = tmp_path / "dets"
        detections.mkdir()
        for name in ("a_HE.csv", "b.csv"):
            (detections / name).write_text("x,y\n100,100\n")
    else:
        detections = candidates_csv(tmp_path / "d.csv", ["a_HE.svs", "b.tiff"])
    result = run([tmp_path / "slides"], detections, tmp_path / "out", small_bundle)
    assert result.statuses == {"a.tiff": "failed", "b.tiff": "done", "c.tiff": "no_detections"}
    assert "a_HE" in result.errors["a.tiff"]
    assert "a.tiff" in result.errors["a.tiff"]


def test_a_slide_keeps_its_figures_whichever_of_its_names_the_table_uses(
    tmp_path: Path, small_bundle: Path, no_inference: list[str]
) -> None:
    slide, other = slides_in(tmp_path / "slides", ["b.tiff", "q.tiff"])
    link = tmp_path / "a_link.tiff"
    link.symlink_to(slide)
    for order in ([slide, link, other], [link, other, slide]):
        for name in ("a_link.tiff", "b.tiff"):
            detections = candidates_csv(tmp_path / "d.csv", [name, "q"])
            result = run(order, detections, tmp_path / "out", small_bundle)
            assert result.statuses == {"b.tiff": "done", "q.tiff": "done"}
    assert sorted(no_inference) == ["b.tiff", "q.tiff"]


def test_rows_that_no_slide_has_are_told_with_three_names_at_most(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    strangers = [f"s{number}.svs" for number in range(30)]
    rows = ["slide,x,y", "a.tiff,100,100", ",5,5", *(f"{name},1,1" for name in strangers)]
    (tmp_path / "d.csv").write_text("\n".join(rows) + "\n")
    warnings = run(slides, tmp_path / "d.csv", tmp_path / "out", small_bundle).warnings
    assert "d.csv: 1 row without the name of a slide, which is not used" in warnings
    (note,) = (warning for warning in warnings if "not given" in warning)
    assert (
        note == "d.csv: 30 rows for 30 slides that were not given: 's0.svs', 's1.svs', 's2.svs' and 27 more"
    )
    (tmp_path / "d.csv").write_text("\n".join(rows[:3]) + "\n")
    warnings = run(slides, tmp_path / "d.csv", tmp_path / "out", small_bundle).warnings
    assert not any("not given" in warning for warning in warnings)


def test_a_note_of_a_missing_hotspot_names_its_slide(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path, ["a.tiff"])
    result = run(slides, candidates_csv(tmp_path / "d.csv", ["a.tiff"]), tmp_path / "out", small_bundle)
    assert any(warning.startswith("a.tiff: no hotspot: ") for warning in result.warnings)
