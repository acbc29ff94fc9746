"""A slide's row of the summary, and what a record says of itself."""

from __future__ import annotations

import json

import pytest

from wsi_mitosis.core.assessments import AssessedSlide, Assessment
from wsi_mitosis.core.hotspots import Hotspot
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideIdentity, SlideRecord, SlideScale
from wsi_mitosis.core.sharpness import SlideSharpness
from wsi_mitosis.core.states import SlideState
from wsi_mitosis.core.summary import Counts, wilson
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.tables import SUMMARY, SUMMARY_COLUMNS
from wsi_mitosis.units import Bounds, Mpp

RECORD = SlideRecord(
    slide=SlideIdentity(name="a.svs", path="/data/a.svs", digest="i" * 64),
    scale=SlideScale(
        size_px0=(1400, 1000), mpp=Mpp(0.25, 0.251), mpp_source="given", bounds=Bounds(300, 160, 1000, 800)
    ),
    model=ModelIdentity(name="nano µ", digest="d" * 64, trained=False),
    counts=Counts(candidates=4, classified=3, atypical=1, typical=2, excluded=1, mean_agreement=0.8),
    cost=Cost(seconds=1.23456, stages={"model": 1.0}),
    key="k" * 64,
    program="1.0",
    warnings=("a warning",),
    sharpness=SlideSharpness(value=0.31, lowest=0.2),
)


def state(*hotspots: Hotspot, reason: str | None = None) -> SlideState:
    assessed = AssessedSlide(
        use=RECORD.model.use,
        key="a" * 64,
        record=RECORD,
        options=AssessmentOptions(),
        assessment=Assessment(hotspots=hotspots, hotspot_reason=reason),
    )
    return SlideState("a.svs", "done", RECORD, assessed)


def test_a_done_slide_fills_every_column() -> None:
    row = state(Hotspot(10.5, 20.0, 100.0, 50.0, 0.5, 3, 1)).row()
    low, high = wilson(1, 3) or (None, None)
    assert row == {
        "slide": "a.svs",
        "status": "done",
        "candidates": 4,
        "classified": 3,
        "atypical": 1,
        "typical": 2,
        "excluded": 1,
        "atypical_fraction": 1 / 3,
        "atypical_fraction_low": low,
        "atypical_fraction_high": high,
        "atypical_to_typical": 0.5,
        "mean_agreement": 0.8,
        "sharpness": 0.31,
        "sharpness_verdict": "not low",
        "mpp_um": 0.2505,
        "mpp_source": "given",
        "hotspot_area_mm2": 0.5,
        "hotspot_mitoses": 3,
        "hotspot_atypical": 1,
        "hotspot_mitoses_per_mm2": 6.0,
        "hotspot_x_px0": 10.5,
        "hotspot_y_px0": 20.0,
        "bundle": "nano µ",
        "bundle_digest": "d" * 64,
        "trained": "false",
        "seconds": 1.235,
        "error": "",
    }
    assert tuple(row) == SUMMARY_COLUMNS
    kinds = {"text": str, "integer": int, "number": float, "flag": str}
    for column in SUMMARY:
        assert isinstance(row[column.name], kinds[column.kind]), column


@pytest.mark.parametrize("found", [state(reason="too small"), SlideState("a.svs", "done", RECORD)])
def test_without_a_hotspot_or_an_assessment_its_columns_are_empty(found: SlideState) -> None:
    row = found.row()
    assert {value for name, value in row.items() if name.startswith("hotspot_")} == {None}
    assert row["classified"] == 3
    assert found.no_hotspot == (None if found.assessed is None else "too small")


def test_a_slide_that_is_not_done_has_its_status_and_its_error_alone() -> None:
    row = SlideState("a.svs", "failed", error="a.svs: broken").row()
    assert {name: value for name, value in row.items() if value not in (None, "")} == {
        "slide": "a.svs",
        "status": "failed",
        "error": "a.svs: broken",
    }


def test_a_record_comes_back_from_json() -> None:
    assert SlideRecord.from_json(RECORD.to_json()) == RECORD
    detector = RECORD.model_copy(update={"model": ModelIdentity(name="k", digest="w", min_score=0.9)})
    assert SlideRecord.from_json(detector.to_json().encode()) == detector


CLASSIFIED = {
    "slide": "a.svs",
    "source": "/data/a.svs",
    "key": "k",
    "identity": "i",
    "size_px0": [1400, 1000],
    "mpp": [0.25, 0.251],
    "mpp_source": "slide",
    "bounds": [300, 160, 1000, 800],
    "bundle": "nano",
    "bundle_digest": "d",
    "trained": False,
    "program": "0.1.0",
    "counts": {"candidates": 3, "classified": 2, "atypical": 1, "typical": 1, "excluded": 1}
    | {"atypical_fraction": 0.5, "atypical_fraction_low": 0.1, "atypical_fraction_high": 0.9}
    | {"atypical_to_typical": 1.0, "mean_agreement": 0.9},
    "seconds": 1.5,
    "warnings": ["a warning"],
}
SEARCHED = {
    **{name: CLASSIFIED[name] for name in ("slide", "source", "key", "identity", "size_px0", "mpp")},
    **{name: CLASSIFIED[name] for name in ("mpp_source", "program", "seconds", "warnings")},
    "model": "KongNet",
    "weights_sha256": "w",
    "min_score": 0.99,
    "candidates": 7,
}


def test_a_record_of_the_version_before_is_taken_up() -> None:
    record = SlideRecord.from_json(json.dumps(CLASSIFIED))
    assert (record.name, record.slide.path, record.slide.digest, record.key) == (
        "a.svs",
        "/data/a.svs",
        "i",
        "k",
    )
    assert record.scale == SlideScale(
        size_px0=(1400, 1000), mpp=Mpp(0.25, 0.251), mpp_source="slide", bounds=Bounds(300, 160, 1000, 800)
    )
    assert record.model == ModelIdentity(name="nano", digest="d", trained=False)
    assert record.counts == Counts(
        candidates=3, classified=2, atypical=1, typical=1, excluded=1, mean_agreement=0.9
    )
    assert (record.cost.seconds, record.warnings) == (1.5, ("a warning",))


def test_a_detectors_record_of_the_version_before_is_taken_up() -> None:
    record = SlideRecord.from_json(json.dumps(SEARCHED))
    assert record.model == ModelIdentity(name="KongNet", digest="w", min_score=0.99)
    assert record.counts == Counts(candidates=7)
    assert record.text == "7 candidates"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"schema": 3}'),
        *(
            json.dumps({k: v for k, v in CLASSIFIED.items() if k != name})
            for name in ("key", "mpp", "counts")
        ),
        json.dumps(CLASSIFIED | {"mpp": "wide"}),
        RECORD.to_json().replace('"schema":2', '"schema":3'),
        RECORD.to_json().replace('"key"', '"mood"'),
    ],
)
def test_another_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        SlideRecord.from_json(text)
