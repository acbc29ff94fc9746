"""Candidates of a detector: one table per slide, which makes a run resumable, and one CSV of all of them.

The tables are in `<out>.parts/`. The table of a slide carries the key of its result: if it exists, the slide
is done, with or without candidates. Each table reads like any detections file, so the folder is one too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.csv_files import write_frame
from wsi_mitosis.io.results.figures import read_record, write_sealed
from wsi_mitosis.io.results.held import HeldFolder, RunFolder
from wsi_mitosis.io.results.places import refuse_links

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wsi_mitosis.core.records import SlideRecord

COLUMNS = {
    "slide": pa.string(),
    "x": pa.float64(),
    "y": pa.float64(),
    "score": pa.float64(),
    "id": pa.string(),
}


def parts_folder(out: Path) -> Path:
    """Return the folder of the tables whose candidates are in the CSV `out`."""
    return out.with_name(f"{out.name}.parts")


class CandidateFiles(RunFolder):
    """The files of a search for candidates. Reading them needs no lock and changes nothing."""

    states_name = ".states"  # hidden, because the folder is one of detections files as well

    def path(self, slide: str) -> Path:
        """Return the path of a slide's table, whether it exists or not."""
        return self.folder / f"{slide}.parquet"

    def records(self) -> dict[str, SlideRecord]:
        """Return the records of the finished slides by name, from the metadata of their tables.

        A table in another place than that of the slide that it names is ignored.
        """
        tables = sorted(self.folder.rglob("*.parquet"))
        found = ((path, read_record(path)) for path in tables if not path.name.startswith("."))
        return {r.name: r for path, r in found if r is not None and self.path(r.name) == path}


class CandidateFolder(CandidateFiles, HeldFolder):
    """The folder beside `out` that holds its parts. Use it as a context manager.

    Args:
        out: The CSV.
        steal: Take the folder over from a run of which it cannot be known whether it lives.

    Raises:
        OutputError: if the folder cannot be written, or another run holds it, or `out` is a folder.
    """

    def __init__(self, out: Path, *, steal: bool = False) -> None:
        if out.is_dir():
            raise OutputError("is a folder", subject=out, remedy="Name a .csv file by --out")
        refuse_links(parts_folder(out))
        HeldFolder.__init__(self, parts_folder(out), steal=steal)
        self.out = out

    def write_slide(self, record: SlideRecord, candidates: pd.DataFrame) -> None:
        """Write a slide's table.

        Args:
            record: Of the slide.
            candidates: `x`, `y` (level-0 px, slide frame), `score`, `id`.
        """
        table = pa.Table.from_pandas(
            candidates.assign(slide=record.name)[list(COLUMNS)], pa.schema(COLUMNS), preserve_index=False
        )
        write_sealed(self.path(record.name), record, table)

    def write_csv(self, names: Mapping[str, str]) -> None:
        """Write the CSV, sorted by slide, then y, then x.

        Args:
            names: Name in the CSV of each slide to include, by its name in the folder.
        """
        parts = [
            pq.read_table(self.path(slide)).to_pandas().assign(slide=name)
            for slide, name in sorted(names.items(), key=lambda item: item[1])
        ]
        whole = pd.concat(parts) if parts else pd.DataFrame(columns=list(COLUMNS))
        write_frame(self.out, whole)
