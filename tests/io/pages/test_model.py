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


@pytest.mark.parametrize("is_current", [True, False])
@pytest.mark.parametrize(
    ("unseen", "shown"),
    [({"unseen": "3"}, {"unseen": 3}), ({"unseen": "0"}, {}), ({"unseen": ""}, {}), ({}, {})],
)
def test_a_review_has_its_numbers_and_its_changes(
    unseen: dict[str, str], shown: dict[str, int], is_current: bool
) -> None:
    counts = {"classified": "80", "relabelled": "1", "removed": "2", "added": "0"}
    reviewed = Reviewed.of({**ROW, **counts, **unseen}, is_current=is_current)
    assert reviewed.is_current == is_current
    assert reviewed.numbers["classified"] == 80
    assert dict(reviewed.changes) == {"relabelled": 1, "removed": 2, "added": 0, **shown}
