"""The files of a recount, in the folder `reviewed` of the output folder."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.csv_files import read_rows, write_rows
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.limits import parse_json
from wsi_mitosis.tables import CHANGE_COLUMNS, CONSENSUS, REGION_COLUMNS, SUMMARY_COLUMNS, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsi_mitosis.tables import Column, ColumnKind

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


def read_verdicts(results: Path) -> pd.DataFrame:
    """Read `reviewed/verdicts.csv`, the columns VERDICTS with their types: text as str, flags as bool.

    Raises:
        OutputError: if there is none, or it was edited or damaged.
    """
    return _read_sealed(results, "verdicts", VERDICTS)


def read_consensus(results: Path) -> pd.DataFrame:
    """Read `reviewed/consensus.csv`, as `read_verdicts`; `label_machine` of an added figure is None.

    Raises:
        OutputError: if there is none, or it was edited or damaged.
    """
    import pandas as pd

    table = _read_sealed(results, "consensus", CONSENSUS)
    machine = pd.Series([text or None for text in table["label_machine"]], dtype=object)
    return table.assign(label_machine=machine)


def _read_sealed(results: Path, name: str, columns: Sequence[Column]) -> pd.DataFrame:
    """Read a table of `reviewed/` whose SHA-256 `agreement.json` states."""
    import pandas as pd

    path = results / FOLDER / f"{name}.csv"
    try:
        stated = parse_json((results / FOLDER / "agreement.json").read_bytes())
        if stated[f"{name}_sha256"] == file_sha256(path):
            rows = read_rows(path)
            return pd.DataFrame({c.name: _typed([row[c.name] for row in rows], c.kind) for c in columns})
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        pass  # the message is the same
    raise OutputError(
        "there is no whole recount with this table, or it was edited or damaged",
        subject=path,
        stage="reading the recount",
        remedy="Run `wsi-mitosis recount` with the reviews first",
    )


def _typed(texts: list[str], kind: ColumnKind) -> pd.Series[Any]:
    import pandas as pd

    if kind == "flag":
        return pd.Series([text == "true" for text in texts], dtype="bool")
    if kind == "integer":
        return pd.Series([int(text) for text in texts], dtype="int64")
    if kind == "number":
        return pd.Series([float(text) if text else float("nan") for text in texts], dtype="float64")
    return pd.Series(texts, dtype=object)


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
