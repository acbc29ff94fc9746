"""What an output folder holds, in a form in which two runs can be compared: without times and costs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tests.runs import summary
from wsi_mitosis.io.results.digests import WHOLE_RUN
from wsi_mitosis.io.results.figures import read_figures, read_record
from wsi_mitosis.io.results.folder import ResultFiles
from wsi_mitosis.io.results.geojson import read_sealed_provenance
from wsi_mitosis.io.results.lock import FILE as LOCK

TIMES = ("cost", "origin")
"""Parts of a record that differ between two runs of the same work."""


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """The content of each finished slide's files; a file that is not whole fails the test."""
    folder = ResultFiles(out)
    found = {}
    for table in sorted((out / "figures").rglob("*.parquet")):
        if not table.name.startswith("."):
            slide = folder.slide_of(table)
            found[slide] = _slide(folder, slide)
    return found


def _slide(folder: ResultFiles, slide: str) -> dict[str, Any]:
    record = read_record(folder.figures_path(slide))
    assert record is not None, f"the figures table of {slide} is not whole"
    assessed = folder.assessed(record)
    assert assessed is not None, f"the assessment of {slide} is not whole"
    (drawn,) = folder.geojson_files(slide)
    assert read_sealed_provenance(drawn) is not None, f"the GeoJSON of {slide} is not whole"
    document = json.loads(drawn.read_bytes())
    return {
        "figures": read_figures(folder.figures_path(slide)),
        "record": _timeless(record.model_dump(mode="json")),
        "assessment": _timeless(assessed.model_dump(mode="json")),
        "features": document["features"],
    }


def _timeless(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _timeless(value) for name, value in data.items() if name not in TIMES}
    return data


def rows(out: Path) -> dict[str, dict[str, str]]:
    """The rows of `summary.csv` without the time that a slide took."""
    return {
        slide: {name: cell for name, cell in row.items() if name != "seconds"}
        for slide, row in summary(out).items()
    }


def assert_same(slide: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Assert that a slide's files say the same."""
    pd.testing.assert_frame_equal(one["figures"], other["figures"], obj=slide)
    for part in ("record", "assessment", "features"):
        assert one[part] == other[part], f"the {part} of {slide} differ"


def assert_finished_are_those_of(out: Path, undisturbed: Mapping[str, Mapping[str, Any]]) -> int:
    """Assert that every finished slide is as in an undisturbed run, and return how many there are."""
    found = finished(out)
    for slide, content in found.items():
        assert_same(slide, content, undisturbed[slide])
    return len(found)


def assert_whole(out: Path, undisturbed: Path) -> None:
    """Assert that a folder holds what an undisturbed run left, and nothing that is unfinished."""
    expected = finished(undisturbed)
    assert assert_finished_are_those_of(out, expected) == len(expected)
    assert rows(out) == rows(undisturbed)
    assert unfinished(out) == []
    assert {path.name for path in out.iterdir()} == {path.name for path in undisturbed.iterdir()}


def unfinished(out: Path) -> list[str]:
    """Files that are being written, or whose run has left them so."""
    return sorted(
        str(path.relative_to(out)) for path in out.rglob(".*") if path.is_file() and path.name != LOCK
    )


def assert_no_partial_file(out: Path) -> None:
    """Assert that whatever has its final name can be read to its end."""
    finished(out)
    for name in (*WHOLE_RUN, "progress.json"):
        if name.endswith(".json") and (out / name).exists():
            json.loads((out / name).read_bytes())
    if (out / "summary.csv").exists():
        summary(out)
    if (out / "report.html").exists():
        assert re.search(rb"</html>\s*\Z", (out / "report.html").read_bytes())
    for path in out.rglob("*.json"):
        if not path.name.startswith("."):
            json.loads(path.read_bytes())
