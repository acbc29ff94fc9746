"""The files of a recount, in the folder `reviewed` of the output folder."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.csv_files import read_rows, write_frame, write_rows
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.tables import (
    CHANGE_COLUMNS,
    CONSENSUS,
    CONSENSUS_COLUMNS,
    ESTIMATE_COLUMNS,
    REGION_COLUMNS,
    SUMMARY_COLUMNS,
    VERDICT_COLUMNS,
    VERDICTS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.tables import Column

FOLDER = "reviewed"
"""Where a recount is written, inside the folder of results."""
DIGEST = "summary_sha256"
"""Member of `agreement.json`: the SHA-256 of `summary.csv`, from which the report takes its numbers."""
VERDICTS_FILE, CONSENSUS_FILE, ESTIMATES_FILE = "verdicts.csv", "consensus.csv", "estimates.csv"
DIGESTS = {VERDICTS_FILE: "verdicts_sha256", CONSENSUS_FILE: "consensus_sha256"}
"""Members of `agreement.json`: the SHA-256 of the tables that others read again."""
ASSESSMENT_KEY = "assessment_key"
"""Member of each slide in `agreement.json`: the key of the assessment that was reviewed, which covers the
slide's result, its figures, its regions and the options."""
BESIDE = ("reviewed", "relabelled", "removed", "added", "unseen", "undecided")
"""What a recount's summary says of a slide beside its numbers: whether there is a review, its changes, and
how many figures no reviewer saw, or none could decide about."""
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
    """Return what each reviewer said, as the last recount of a folder of results wrote it.

    Returns:
        VERDICT_COLUMNS: text as str, numbers as float64 (NaN for an empty cell), flags as bool.

    Raises:
        OutputError: if there is no recount, or the table was edited or damaged.
    """
    return _read_table(results, VERDICTS_FILE, VERDICTS)


def read_consensus(results: Path) -> pd.DataFrame:
    """Return the consensus of the reviewers, as the last recount of a folder of results wrote it.

    Returns:
        CONSENSUS_COLUMNS: text as str (`label_machine` is None for an added figure), numbers as float64,
        integers as int64, flags as bool.

    Raises:
        OutputError: if there is no recount, or the table was edited or damaged.
    """
    table = _read_table(results, CONSENSUS_FILE, CONSENSUS)
    labels = [label or None for label in table["label_machine"]]
    return table.assign(label_machine=pd.Series(labels, table.index, dtype=object))


def disagreements(results: Path) -> pd.DataFrame:
    """Return the figures on which reviewers disagree: ties, and those that not all who decided call the same.

    Returns:
        CONSENSUS_COLUMNS, as `read_consensus`. Added figures that others could have added are among them.

    Raises:
        OutputError: as `read_consensus`.
    """
    table = read_consensus(results)
    labels = (table[["atypical", "typical", "none"]] > 0).sum(axis=1)
    return table[(table["consensus"] == "tie") | (labels > 1)].reset_index(drop=True)


def _read_table(results: Path, name: str, columns: Sequence[Column]) -> pd.DataFrame:
    path, agreement = results / FOLDER / name, results / FOLDER / "agreement.json"
    stage = "reading the recount"
    if not agreement.is_file():
        raise OutputError(
            "this folder has no recount",
            subject=results,
            stage=stage,
            remedy="Run `wsi-mitosis recount` first",
        )
    try:
        stated = json.loads(agreement.read_text(encoding="utf-8"))
        if stated.get(DIGESTS[name]) == file_sha256(path):  # it may be a list
            rows = read_rows(path)
            return pd.DataFrame({one.name: _cells(one, [row[one.name] for row in rows]) for one in columns})
    except (OSError, ValueError, AttributeError, KeyError, RecursionError, csv.Error):
        pass  # the message is the same
    raise OutputError(
        "the recount is of an earlier version, or was edited or damaged, and is not used",
        subject=path,
        stage=stage,
        remedy="Run `wsi-mitosis recount` again",
    )


def _cells(column: Column, texts: Sequence[str]) -> pd.Series[Any]:
    """Return the values of a column from its cells."""
    if column.kind == "text":
        return pd.Series(texts, dtype=object)
    if column.kind == "flag":
        return pd.Series([text == "true" for text in texts], dtype=bool)
    if column.kind == "integer":
        return pd.Series([int(text) for text in texts], dtype=np.int64)
    return pd.Series([float(text) if text else np.nan for text in texts], dtype=np.float64)


class RecountTables(NamedTuple):
    """The tables of a recount.

    Attributes:
        rows: By RECOUNT_COLUMNS; a column that a row lacks is an empty cell.
        changes: By CHANGE_COLUMNS.
        regions: By RECOUNT_REGION_COLUMNS; without any there is no `regions.csv`.
        verdicts: VERDICT_COLUMNS.
        consensus: CONSENSUS_COLUMNS.
        estimates: By ESTIMATE_COLUMNS; without any there is no `estimates.csv`.
    """

    rows: Iterable[Mapping[str, Any]]
    changes: Iterable[Mapping[str, Any]]
    regions: Sequence[Mapping[str, Any]]
    verdicts: pd.DataFrame
    consensus: pd.DataFrame
    estimates: Sequence[Mapping[str, Any]] = ()


def write_recount(folder: Path, tables: RecountTables, agreement: Mapping[str, Any]) -> None:
    """Write the tables, and `agreement.json` last: if it exists, all files are of one recount.

    Args:
        folder: Created if it does not exist.
        tables: What is written as CSV.
        agreement: Plain data.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        (folder / "agreement.json").unlink(missing_ok=True)
        write_rows(folder / "summary.csv", RECOUNT_COLUMNS, tables.rows)
        write_rows(folder / "changes.csv", CHANGE_COLUMNS, tables.changes)
        if tables.regions:
            write_rows(folder / "regions.csv", RECOUNT_REGION_COLUMNS, tables.regions)
        else:
            (folder / "regions.csv").unlink(missing_ok=True)
        if tables.estimates:
            write_rows(folder / ESTIMATES_FILE, ESTIMATE_COLUMNS, tables.estimates)
        else:
            (folder / ESTIMATES_FILE).unlink(missing_ok=True)
        _write_table(folder / VERDICTS_FILE, tables.verdicts, VERDICT_COLUMNS)
        _write_table(folder / CONSENSUS_FILE, tables.consensus, CONSENSUS_COLUMNS)
        digests = {member: file_sha256(folder / name) for name, member in DIGESTS.items()}
        stated = {**agreement, DIGEST: file_sha256(folder / "summary.csv"), **digests}
        text = json.dumps(stated, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "agreement.json", f"{text}\n")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=folder,
            stage="writing the recount",
            remedy="Make the folder of results writable",
        ) from error


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Write a table with its columns in order and flags as `true` and `false`."""
    flags = {"blind": [str(bool(value)).lower() for value in table["blind"]]}
    write_frame(path, table.assign(**flags)[[*columns]])
