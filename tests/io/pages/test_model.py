"""The rows, reviews and bundles of a report, from the tables on disk."""

from __future__ import annotations

import pytest

from wsi_mitosis.io.pages.model import Reviewed, Row, bundles_of

ROW = {
    "slide": "a.svs",
    "status": "done",
    "classified": "82",
    "atypical": "17",
    "atypical_fraction": "0.2073",
    "atypical_to_typical": "",
    "hotspot_mitoses_per_mm2": "28.0",
    "bundle": "nano",
    "bundle_digest": "d" * 64,
    "trained": "true",
}


def test_a_row_takes_the_numbers_of_a_csv_or_of_a_record() -> None:
    row = Row.of(ROW, "slide-1")
    assert (row.slide, row.status, row.trained, row.section) == ("a.svs", "done", True, "slide-1")
    assert row.numbers["classified"] == 82
    assert row.numbers["atypical_to_typical"] is None
    assert row.numbers["hotspot_area_mm2"] is None
    assert "bundle" not in row.numbers
    assert Row.of(ROW | {"classified": 82, "trained": "false"}).trained is False
    failed = Row.of({"slide": "b", "status": "failed", "trained": "", "error": "no such file"})
    assert (failed.trained, failed.error, failed.numbers["classified"]) == (True, "no such file", None)


def test_bundles_are_counted_and_untrained_ones_come_first() -> None:
    rows = [ROW, ROW, ROW | {"bundle": "zzz", "trained": "false"}, {"slide": "b", "status": "failed"}]
    assert [(b.name, b.trained, b.slides) for b in bundles_of(rows)] == [("zzz", False, 1), ("nano", True, 2)]


@pytest.mark.parametrize(
    ("changes", "is_current"),
    [({}, True), ({"machine_atypical": "16"}, False), ({"machine_bundle_digest": "e" * 64}, False)],
)
def test_a_review_is_current_if_it_is_of_the_same_result(changes: dict[str, str], is_current: bool) -> None:
    names = ("candidates", "classified", "atypical", "mean_agreement", "bundle_digest")
    machine = {f"machine_{name}": ROW.get(name, "") for name in names}
    counts = {"classified": "80", "relabelled": "1", "removed": "2", "added": "0"}
    reviewed = Reviewed.of(ROW, {**ROW, **machine, **counts, **changes})
    assert reviewed.is_current == is_current
    assert reviewed.numbers["classified"] == 80
    assert dict(reviewed.changes) == {"relabelled": 1, "removed": 2, "added": 0}
