"""The files of a recount, in the folder `reviewed` of the output folder."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.csv_files import read_rows, write_rows
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.tables import CHANGE_COLUMNS, REGION_COLUMNS, SUMMARY_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FOLDER = "reviewed"
"""Where a recount is written, inside the folder of results."""
DIGEST = "summary_sha256"
"""Member of `agreement.json`: the SHA-256 of `summary.csv`, from which the report takes its numbers."""
ASSESSMENT_KEY = "assessment_key"
"""Member of each slide in `agreement.json`: the key of the assessment that was reviewed, which covers the
slide's result, its figures, its regions and the options."""
BESIDE = ("reviewed", "relabelled", "removed", "added", "unseen")
"""What a recount's summary says of a slide beside its numbers: whether there is a review, its changes, and
how many figures the reviewer did not see."""
RECOUNT_COLUMNS = (
    *SUMMARY_COLUMNS,
    *(f"machine_{name}" for name in SUMMARY_COLUMNS if name != "slide"),
    *BESIDE,
)
REGION_COUNTS = ("mitoses", "atypical", "typical", "mitoses_per_mm2")
"""What a review changes of a region."""
RECOUNT_REGION_COLUMNS = (*REGION_COLUMNS, *(f"machine_{name}" for name in REGION_COUNTS), "reviewed")


class Recounted(NamedTuple):
    """A reviewed slide of a recount.

    Attributes:
        row: Its row of `summary.csv`.
        assessment_key: Key of the assessment that was reviewed; None if an earlier version did not state it.
    """

    row: dict[str, str]
    assessment_key: str | None


def read_recount(results: Path) -> dict[str, Recounted]:
    """Return the reviewed slides of a folder of results; empty without a complete recount.

    Raises:
        OutputError: if the recount was edited or damaged. One of an earlier version states no digest.
    """
    agreement, summary = results / FOLDER / "agreement.json", results / FOLDER / "summary.csv"
    if not agreement.is_file() or not summary.is_file():
        return {}
    try:
        stated = json.loads(agreement.read_text(encoding="utf-8"))
        if stated.get(DIGEST) in (None, file_sha256(summary)):  # it may be a list
            keys = {name: one.get(ASSESSMENT_KEY) for name, one in stated.get("slides", {}).items()}
            rows = [row for row in read_rows(summary) if row["reviewed"] == "true"]
            return {row["slide"]: Recounted(row, keys.get(row["slide"])) for row in rows}
    except (OSError, ValueError, AttributeError, KeyError, RecursionError, csv.Error):
        pass  # the message is the same
    raise OutputError(
        "the recount was edited or damaged, and is not used",
        subject=summary,
        stage="reading the recount",
        remedy="Run `wsi-mitosis recount` again",
    )


def write_recount(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    changes: Iterable[Mapping[str, Any]],
    regions: Sequence[Mapping[str, Any]],
    agreement: Mapping[str, Any],
) -> None:
    """Write the tables, and `agreement.json` last: if it exists, all files are of one recount.

    Args:
        folder: Created if it does not exist.
        rows: By RECOUNT_COLUMNS; a column that a row lacks is an empty cell.
        changes: By CHANGE_COLUMNS.
        regions: By RECOUNT_REGION_COLUMNS; without any there is no `regions.csv`.
        agreement: Plain data.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        (folder / "agreement.json").unlink(missing_ok=True)
        write_rows(folder / "summary.csv", RECOUNT_COLUMNS, rows)
        write_rows(folder / "changes.csv", CHANGE_COLUMNS, changes)
        if regions:
            write_rows(folder / "regions.csv", RECOUNT_REGION_COLUMNS, regions)
        else:
            (folder / "regions.csv").unlink(missing_ok=True)
        stated = {**agreement, DIGEST: file_sha256(folder / "summary.csv")}
        text = json.dumps(stated, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "agreement.json", f"{text}\n")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=folder,
            stage="writing the recount",
            remedy="Make the folder of results writable",
        ) from error
