"""Runs whose slides are copied first: from a drive, a server of HTTP and a bucket of S3."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.detector_files import MODEL, spotted_slide, stub_network
from tests.faults.runs import events, in_hand, night, wait_until
from tests.runs import Silent, candidates_csv, files_in, run, slides_in, spec, summary
from tests.stores import WebStore, s3_store, web_store
from wsi_mitosis import classify_slide
from wsi_mitosis.io.pipelines import read_pipeline
from wsi_mitosis.io.slides.staging import PREFIX
from wsi_mitosis.jobs.detect import DetectResult
from wsi_mitosis.jobs.outcomes import SlideOutcome
from wsi_mitosis.jobs.pipeline import plan_run
from wsi_mitosis.jobs.plan import SlideTask
from wsi_mitosis.jobs.slide_detector import SlideDetector
from wsi_mitosis.jobs.staging import build_staging, close_staging, expect_slides, staged_task
from wsi_mitosis.nets import detector
from wsi_mitosis.specs import ClassifySpec, DetectSpec
from wsi_mitosis.tables import SlideSource
from wsi_mitosis.workers.slides import classify_batch, detect_batch

NAMES = ["a.tiff", "b.tiff", "c.tiff"]
QUICK = {"report": False}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides, and their candidates in `d.csv`."""
    folder = tmp_path_factory.mktemp("drive")
    slides_in(folder / "slides", NAMES)
    candidates_csv(folder / "d.csv", NAMES)
    return folder


@pytest.fixture(scope="module")
def expected(drive: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that copies nothing writes for QuPath."""
    out = tmp_path_factory.mktemp("unstaged")
    run([drive / "slides"], drive / "d.csv", out, small_bundle, output=QUICK)
    return geojson_in(out)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A local disk, on which no run leaves anything."""
    (tmp_path / "disk").mkdir()
    yield tmp_path / "disk"
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.fixture
def web(drive: Path) -> Iterator[WebStore]:
    with web_store(drive) as store:
        yield store


def geojson_in(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_in(out).items() if name.startswith("geojson")}


def staged(disk: Path, **more: Any) -> dict[str, Any]:
    return {"staging": {"stage": str(disk)} | more, "output": dict(QUICK)}


def test_slides_of_a_drive_give_the_same_bytes_and_are_known_again_unstaged(
    drive: Path, disk: Path, small_bundle: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    arguments = ([drive / "slides"], drive / "d.csv", tmp_path / "out", small_bundle)
    assert run(*arguments, **staged(disk)).exit_status == 0
    assert geojson_in(tmp_path / "out") == expected
    assert run(*arguments, output=QUICK).kept == set(NAMES)
    assert run(*arguments, **staged(disk)).kept == set(NAMES)


def test_slides_of_a_web_server_give_the_same_bytes_and_are_fetched_once(
    drive: Path, disk: Path, small_bundle: Path, tmp_path: Path, expected: dict[str, bytes], web: WebStore
) -> None:
    web.login = "me:secret1"
    place = web.url.replace("//", "//me:secret1@")
    urls = [f"{place}/slides/{name}?signature=secret2" for name in NAMES]
    arguments = (urls, drive / "d.csv", tmp_path / "out", small_bundle)
    reporter = Silent()
    result = classify_batch(spec(*arguments, **staged(disk)), reporter)
    assert result.exit_status == 0, result.errors
    assert geojson_in(tmp_path / "out") == expected
    assert all(
        event["stages"]["copying"] > 0 for event in events(tmp_path / "out") if event["event"] == "done"
    )
    again = run(*arguments, **staged(disk))
    assert again.kept == set(NAMES)
    assert [web.gets(f"slides/{name}") for name in NAMES] == [1, 1, 1]
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not [path.name for path, content in written.items() if b"secret" in content]
    stated = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [slide["path"] for slide in stated["slides"]] == [f"{web.url}/slides/{name}" for name in NAMES]
    assert "secret" not in f"{reporter.messages} {again.as_data()}"


def test_a_slide_that_changes_at_its_url_is_processed_again(
    disk: Path, small_bundle: Path, tmp_path: Path
) -> None:
    slides_in(tmp_path / "web", NAMES[:2])
    candidates = candidates_csv(tmp_path / "d.csv", NAMES[:2])
    with web_store(tmp_path / "web") as web:
        arguments = ([f"{web.url}/{name}" for name in NAMES[:2]], candidates, tmp_path / "out", small_bundle)
        run(*arguments, **staged(disk))
        (tmp_path / "web" / "b.tiff").write_bytes(b"no slide")
        plan = {slide.slide: slide.action for slide in plan_run(spec(*arguments, **staged(disk))).slides}
        again = run(*arguments, **staged(disk))
    assert plan == {"a.tiff": "keep", "b.tiff": "classify"}
    assert (again.kept, again.statuses["b.tiff"]) == ({"a.tiff"}, "failed")


def test_slides_of_a_bucket_give_the_same_bytes(
    drive: Path, disk: Path, small_bundle: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with s3_store([drive / "slides" / name for name in NAMES], "bucket"):
        urls = [f"s3://bucket/slides/{name}" for name in (*NAMES, "none.tiff")]
        result = run(urls, drive / "d.csv", tmp_path / "out", small_bundle, **staged(disk))
        kept = run(urls, drive / "d.csv", tmp_path / "out", small_bundle, **staged(disk)).kept
    assert geojson_in(tmp_path / "out") == expected
    assert kept == set(NAMES)
    assert (result.exit_status, list(result.errors)) == (1, ["none.tiff"])
    assert "no such file in the store" in result.errors["none.tiff"]


def test_a_store_that_fails_once_is_asked_again(
    drive: Path,
    disk: Path,
    small_bundle: Path,
    tmp_path: Path,
    web: WebStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from wsi_mitosis.workers import pool

    monkeypatch.setattr(pool, "PAUSE_SECONDS", 0.0)
    web.sent = 0.5
    web.on_get = lambda _: setattr(web, "sent", 1.0)
    result = run(
        [f"{web.url}/slides/a.tiff"], drive / "d.csv", tmp_path / "out", small_bundle, **staged(disk)
    )
    assert (result.exit_status, web.gets("a.tiff")) == (0, 2)
    assert any("It is tried again (attempt 2 of 3)" in warning for warning in result.warnings)


def test_a_slide_that_does_not_fit_fails_and_the_others_go_on(
    drive: Path, disk: Path, small_bundle: Path, tmp_path: Path
) -> None:
    sizes = {path.name: path.stat().st_size for path in (drive / "slides").iterdir()}
    slides = [drive / "slides" / "a.tiff", tmp_path / "c.tiff"]
    slides[1].write_bytes((drive / "slides" / "c.tiff").read_bytes() + bytes(10_000))
    bound = (sizes["a.tiff"] + 5_000) / (1 << 30)
    arguments = (slides, drive / "d.csv", tmp_path / "out", small_bundle)
    result = run(*arguments, **staged(disk, stage_gib=bound))
    assert (result.statuses["a.tiff"], result.statuses["c.tiff"]) == ("done", "failed")
    assert "Raise --stage-gib" in summary(tmp_path / "out")["c.tiff"]["error"]


def test_what_a_killed_run_has_left_is_removed_by_the_next(small_bundle: Path, tmp_path: Path) -> None:
    tonight, disk, out = night(tmp_path, small_bundle), tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    (disk / "mine.txt").write_text("keep")
    process = tonight.start(out, "--stage", str(disk), "--workers", "0", "--no-report")
    wait_until(lambda: in_hand(out) == ["d.tiff"] and bool(list(disk.rglob("d.tiff"))), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(disk.glob(f"{PREFIX}*/*/*.tiff"))) >= 1
    slides = [tmp_path / "slides" / name for name in ("a.tiff", "b.tiff", "c.tiff")]
    assert run(slides, tmp_path / "d.csv", out, small_bundle, **staged(disk)).exit_status == 0
    assert [path.name for path in disk.iterdir()] == ["mine.txt"]


def test_a_search_finds_the_same_candidates_at_urls_and_does_not_fetch_them_again(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "_loaded", stub_network)
    monkeypatch.setattr(detector, "find_detector", lambda *_: MODEL)
    spotted_slide(tmp_path / "web" / "a.tiff", (100, 80), [(30, 30, 0.9), (70, 40, 0.9)])

    def search(slide: str, out: str, **more: Any) -> DetectResult:
        data = {"slides": [slide], "out": str(tmp_path / out), "placement": {"workers": 0, "device": "cpu"}}
        return detect_batch(DetectSpec.parse(data | more, "test"), Silent())

    with web_store(tmp_path / "web") as web:
        search(str(tmp_path / "web" / "a.tiff"), "here.csv")
        for kept in (set(), {"a.tiff"}):
            found = search(f"{web.url}/a.tiff?secret", "there.csv", staging={"stage": str(disk)})
            assert (found.exit_status, found.kept, found.candidates) == (0, kept, {"a.tiff": 2})
        assert web.gets("a.tiff") == 1
    assert (tmp_path / "there.csv").read_text() == (tmp_path / "here.csv").read_text()
    assert "secret" not in (tmp_path / "there.csv.parts" / "run.json").read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_is_gone_when_its_slide_has_ended(
    fails: bool, drive: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SlideSource(drive / "slides" / "a.tiff", "a.tiff")
    task = SlideTask(source, "a.tiff", None, "new")

    def do(of: SlideTask, model: object, on_event: object) -> SlideOutcome[str]:
        assert of.source.path.is_relative_to(disk)
        return SlideOutcome(
            of.name, "failed" if fails else "done", of.source.path.read_text(errors="replace")
        )

    staging = build_staging(lambda _: SlideDetector.__new__(SlideDetector), disk, None, 1)
    monkeypatch.setattr(SlideDetector, "has_result", lambda *_: False)
    expect_slides([task], staging)
    assert staged_task(do, task, staging, lambda _: None).status == ("failed" if fails else "done")
    assert not list(disk.rglob("a.tiff"))
    close_staging(staging)


def test_one_slide_of_a_url_from_python(
    drive: Path, disk: Path, small_bundle: Path, web: WebStore, expected: dict[str, bytes], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"bundle": small_bundle, "device": "cpu"}
    here = classify_slide(drive / "slides" / "a.tiff", drive / "d.csv", **options)
    there = classify_slide(f"{web.url}/slides/a.tiff", drive / "d.csv", stage=disk, **options)
    assert there.record.key == here.record.key
    assert there.record.slide.path == f"{web.url}/slides/a.tiff"
    assert there.figures.equals(here.figures)


def test_a_pipeline_names_urls_and_a_folder_for_their_copies(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        '[input]\nslides = ["s3://b/a.svs", "slides"]\ndetections = "d.csv"\n'
        '[staging]\nstage = "scratch"\nstage_gib = 2\n'
    )
    pipeline: ClassifySpec = read_pipeline(str(tmp_path / "p.toml"))
    assert pipeline.input.slides == ("s3://b/a.svs", str(tmp_path / "slides"))
    assert (pipeline.staging.stage, pipeline.staging.stage_gib) == (str(tmp_path / "scratch"), 2.0)
