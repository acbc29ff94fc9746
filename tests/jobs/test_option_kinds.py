"""Each option is of exactly one kind, and changing it computes again exactly what its kind says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.dicom_files import dicom_slide
from tests.jobs.test_assessments import regions_file
from tests.runs import candidates_csv, run, slides_in
from tests.slide_files import leica_slide, textured, tiff_of_resolution
from wsi_mitosis.core.assessments import assessment_key
from wsi_mitosis.io.results.figures import read_record
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.schema import KINDS, Kind, options_of
from wsi_mitosis.specs import AssessmentOptions, ClassifySpec

OPTIONS = {field.name: field for field in options_of(ClassifySpec)}
AFRESH = {"folder", "overwrite"}
"""Options that compute everything again by their purpose; the results are the same."""
XY = ((100.0, 100.0), (102.0, 101.0), (120.0, 90.0), (80.0, 110.0))
OURS = {"hotspot_area": 0.005, "report": False}
"""An area, mm^2, that fits the small slides; and no report, which takes time."""


class Case(NamedTuple):
    """An option's two values, and the run whose other options they are used with.

    Attributes:
        before, after: Its value, a path being relative to the folder of inputs; None for no value.
        slide: The slide.
        detections: Its candidates.
        others: Further options of both runs, by table.
    """

    before: Any
    after: Any
    slide: str = "a.tiff"
    detections: str = "d.csv"
    others: Mapping[str, dict[str, Any]] = MappingProxyType({})


CASES = {
    "slides": Case(["a.tiff"], ["a.tiff", "b.tiff"]),
    "detections": Case("d.csv", "moved.csv"),
    "format": Case("geojson", "tiatoolbox", detections="d.json"),
    "columns": Case({}, {"x": "left"}),
    "decimal": Case("point", "comma", detections="points.csv"),
    "units": Case(None, "um"),
    "frame": Case("slide", "qupath", slide="s.scn", detections="s.csv"),
    "recursive": Case(False, True),
    "model": Case("bundle", "other-bundle"),
    "classes": Case([], ["mitotic figure"]),
    "min_score": Case(None, 0.515),
    "merge_um": Case(None, 2.0),
    "mpp": Case(0.25, 0.3, slide="unscaled.tiff", detections="unscaled.csv"),
    "vote": Case("all", "early"),
    "tta": Case(None, "flips"),
    "precision": Case("fp32", "fp16", others={"placement": {"device": "cuda"}}),
    "folder": Case("out", "another"),
    "objects": Case("detections", "annotations"),
    "geojson_frame": Case("qupath", "slide", slide="s.scn", detections="s.csv"),
    "hotspot_area": Case(0.005, 0.004),
    "hotspot_aspect": Case("4:3", "1:1"),
    "hotspots": Case(1, 2),
    "regions": Case(None, "regions.geojson"),
    "dicom": Case(False, True, slide="series", detections="series.csv"),
    "report": Case(True, False),
    "qupath_project": Case(False, True),
    "tiatoolbox": Case(False, True),
    "overwrite": Case(False, True),
    "fail_fast": Case(False, True),
    "steal_lock": Case(False, True),
    "workers": Case(0, 1),
    "gpus_per_worker": Case(None, 0, others={"placement": {"workers": None}}),
    "cpus_per_worker": Case(None, 1),
    "address": Case(None, "local", others={"placement": {"workers": None}}),
    "device": Case("cpu", "cuda"),
    "backend": Case("torch", "openvino"),
    "batch_size": Case(None, 2),
    "metrics": Case(None, "metrics.prom"),
    "notify": Case(None, "touch notified"),
    "until": Case(None, "06:30"),
    "timezone": Case(None, "Europe/Rome"),
    "settle_seconds": Case(0.0, 0.001),
    "tries": Case(3, 1),
    "stall_seconds": Case(900.0, 600.0),
    "max_failures": Case(3, 1),
    "retry": Case(False, True),
    "stage": Case(None, "scratch"),
    "stage_gib": Case(None, 1.0, others={"staging": {"stage": "scratch"}}),
}
ON_RAY = {"gpus_per_worker", "address"}
"""Options beside `workers` whose cases start a Ray of their own, which takes long."""
PRODUCTS_BY_PATH = {"metrics": "metrics.prom", "notify": "notified"}
"""Options whose product lies where their value says."""
PATHS = {"slides", "detections", "model", "regions", "folder", "stage"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of each sort, tables of candidates, regions, two bundles."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "scratch").mkdir()
    slides_in(folder, ["a.tiff", "b.tiff"])
    leica_slide(folder / "s.scn", textured(600, 500), (300, 160), (1200, 900))
    tiff_of_resolution(folder / "unscaled.tiff", textured(600, 500), None)
    series = dicom_slide(folder / "series", textured(600, 500), levels=1)
    classes = ("mitotic figure", "mitotic figure", "other", "mitotic figure")
    rows = [
        f"a.tiff,{x},{y},{0.5 + i / 100},{x + 50},{c}"
        for i, ((x, y), c) in enumerate(zip(XY, classes, strict=True))
    ]
    (folder / "d.csv").write_text("\n".join(["slide,x,y,score,left,class", *rows]) + "\n")
    candidates_csv(folder / "moved.csv", ["a.tiff"], [*XY[:3], (81.0, 110.0)])
    candidates_csv(folder / "s.csv", ["s.scn"], [(x + 400, y + 200) for x, y in XY])
    candidates_csv(folder / "unscaled.csv", ["unscaled.tiff"], XY)
    candidates_csv(folder / "series.csv", [series.name], XY)
    texts = [f"a.tiff;{x:.0f};{y:.0f};1.{i}25" for i, (x, y) in enumerate(XY)]
    (folder / "points.csv").write_text("\n".join(["slide;x;y;score", *texts]) + "\n")
    features = [_feature(x, y, "Mitosis*" if n else "Mitosis") for n, (x, y) in enumerate(XY)]
    (folder / "d.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    regions_file(folder / "regions.geojson", (0, 0, 110, 400))
    for name, width in (("bundle", 4), ("other-bundle", 2)):
        write_untrained(folder / name, name=name, patch_px=32, width=width, members=3, tta="none")
    return folder


def _feature(x: float, y: float, name: str) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [x, y]}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {"classification": {"name": name, "color": [1, 2, 3]}},
    }


Runner = Callable[[Path, Any], None]


@pytest.fixture
def runner(inputs: Path, gpu_by_name: None) -> Callable[[str], Runner]:
    """Runs a case with one of its values into a folder."""

    def for_option(name: str) -> Runner:
        case = CASES[name]

        def run_with(out: Path, value: Any) -> None:
            sections: dict[str, dict[str, Any]] = {"output": dict(OURS)}
            for table, options in case.others.items():
                sections.setdefault(table, {}).update(options)
            if name in PATHS and value is not None:
                value = [str(inputs / v) for v in value] if name == "slides" else str(inputs / value)
            if name in PRODUCTS_BY_PATH and value is not None:
                value = str(value).replace(PRODUCTS_BY_PATH[name], str(out / PRODUCTS_BY_PATH[name]))
            if OPTIONS[name].table:
                sections.setdefault(OPTIONS[name].table, {})[name] = value
            if "stage" in case.others.get("staging", {}):
                sections["staging"]["stage"] = str(inputs / "scratch")
            if name == "folder":
                sections["output"]["folder"] = str(out)
            bundle = Path(value) if name == "model" else inputs / "bundle"
            result = run([inputs / case.slide], inputs / case.detections, out, bundle, **sections)
            assert result.exit_status == 0, result.errors

        return run_with

    return for_option


PARTS = {"result": "figures", "assessment": "assessments", "drawing": "geojson"}
"""Folder of what each kind computes again, in the order in which one follows from the other."""
PRODUCTS = ("report.html", "qupath/project.qpproj", "dicom", "exports/tiatoolbox", *PRODUCTS_BY_PATH.values())


def written(out: Path, slide: str) -> dict[str, object]:
    """What was written for a slide and when, by kind; `product` are the files that exist beside them."""
    files = {kind: sorted((out / part).rglob(f"{slide}*")) for kind, part in PARTS.items()}
    found: dict[str, object] = {
        kind: [(path.name, path.stat().st_mtime_ns) for path in paths] for kind, paths in files.items()
    }
    assert all(found.values())
    return found | {"product": [name for name in PRODUCTS if (out / name).exists()]}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.faults if name in ON_RAY else ()) for name in OPTIONS],
)
def test_an_option_computes_again_what_its_kind_says(
    name: str, runner: Callable[[str], Runner], inputs: Path, tmp_path: Path
) -> None:
    case, kind = CASES[name], OPTIONS[name].option.changes
    slide = case.slide if case.slide != "series" else next((inputs / "series").iterdir()).name
    runner(name)(tmp_path / "out", case.before)
    before, key = written(tmp_path / "out", slide), key_of(tmp_path / "out", slide)
    after_out = tmp_path / (case.after if name == "folder" else "out")
    runner(name)(after_out, case.after)
    after = written(after_out, slide)
    assert (key_of(after_out, slide) != key) == (kind == "result")
    if name not in AFRESH:
        changed = next((part for part in after if after[part] != before[part]), "run")
        assert changed == kind


def key_of(out: Path, slide: str) -> str:
    record = read_record(out / "figures" / f"{slide}.parquet")
    assert record is not None
    return record.key


def test_every_option_has_a_case_and_one_kind() -> None:
    assert set(CASES) == set(OPTIONS)
    assert {field.option.changes for field in OPTIONS.values()} == set(KINDS)


def test_the_frame_moves_regions_that_were_drawn_in_it(inputs: Path, tmp_path: Path) -> None:
    """`geojson_frame` draws; where regions are placed by it, they are other regions, which are assessed."""
    drawn = regions_file(tmp_path / "regions.geojson", (0, 0, 400, 400))  # on the slide in both frames
    regions = {"regions": str(drawn)} | OURS
    arguments = ([inputs / "s.scn"], inputs / "s.csv", tmp_path / "out", inputs / "bundle")
    run(*arguments, output=regions)
    before = written(tmp_path / "out", "s.scn")
    run(*arguments, output=regions | {"geojson_frame": "slide"})
    after = written(tmp_path / "out", "s.scn")
    assert after["result"] == before["result"]
    assert after["assessment"] != before["assessment"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_a_kind_are_plain_data_in_a_stable_order(kind: Kind) -> None:
    data = {"input": {"slides": ["a.svs"], "detections": "d.csv"}, "output": {"hotspots": 3}}
    spec = ClassifySpec.parse(data, "test")
    values = spec.changing(kind)
    assert list(values) == [
        name for name, field in OPTIONS.items() if field.option.changes == kind and not field.option.known_by
    ]
    assert json.loads(json.dumps(values)) == values
    if kind == "assessment":
        assert values == {"hotspot_area": 2.0, "hotspot_aspect": "4:3", "hotspots": 3}
        assert spec.output.changing(kind) == values


def test_an_assessment_depends_on_the_options_of_its_kind() -> None:
    """By their values, except those that a key knows in another way."""
    mine = [field for field in OPTIONS.values() if field.option.changes == "assessment"]
    values = {field.name: field.default for field in mine if not field.option.known_by}
    assert AssessmentOptions().model_dump() == values
    assert assessment_key("r", AssessmentOptions(), None) != assessment_key("r", AssessmentOptions(), [])
