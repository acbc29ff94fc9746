"""How the report writes values, places and parameters."""

from __future__ import annotations

from wsi_mitosis.io.pages.wording import Coordinates, area, interval, moment, number, parameters, percent
from wsi_mitosis.units import Mpp


def test_values_have_their_unit_and_a_missing_value_is_a_dash() -> None:
    assert (percent(0.2073), percent(0), percent(None)) == ("20.7 %", "0.0 %", "–")
    assert (interval(0.134, 0.307), interval(None, 0.3)) == ("13.4 to 30.7 %", "–")
    assert (number(12345), number(0.257, 2), number(None)) == ("12,345", "0.26", "–")
    assert (area(0.5), area(None)) == ("0.5 mm²", "–")
    assert moment("2026-01-02T03:04:05+01:00") == "2026-01-02 02:04 UTC"


def test_parameters_do_not_have_folders_that_may_identify_a_patient() -> None:
    run = {
        "parameters": {
            "input": {"slides": ["/p/Doe"], "detections": "/p/Doe/d.csv", "columns": {"x": "A"}},
            "result": {"min_score": None, "classes": ["a", "b"], "tta": "flips"},
            "output": {"folder": "/p/Doe/out", "regions": "/p/Doe/r", "overwrite": False},
            "placement": {"address": "head:6379"},
        }
    }
    texts = dict(parameters(run))
    assert not any("/p/" in value or "Doe" in value for value in texts.values())
    assert texts == {
        "input.detections": "d.csv",
        "input.columns": "x=A",
        "result.min_score": "–",
        "result.classes": "a, b",
        "result.tta": "flips",
        "output.regions": "r",
        "output.overwrite": "no",
    }
    assert list(parameters({})) == []


def test_places_are_in_the_frame_that_qupath_shows() -> None:
    bounds = (1000, 2000, 500, 500)
    cropped = Coordinates.of("qupath", bounds, Mpp(0.25, 0.5))
    assert (cropped.px(1100.4, 2200), cropped.um(1100, 2200)) == ("100, 200", "25.0, 100.0")
    assert "1000, 2000 px larger" in cropped.frame_text
    whole = Coordinates.of("slide", bounds, Mpp(0.25, 0.5))
    assert whole.px(1100.4, 2200) == "1100, 2200"
    assert "--no-crop" in whole.frame_text
    assert Coordinates.of("qupath", None, Mpp(1, 1)).px(5, 6) == "5, 6"
