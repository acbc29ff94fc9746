"""A detector's candidates: one table per slide, which makes a run resumable, and one CSV made of them all.

The tables stand in `<out>.parts/`. A slide's table carries the key of its result: where it stands, the slide
is done, with or without candidates. Each reads like any detections file, so that the folder is one too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from wsi_mitosis.errors import OutputError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.results.folder import METADATA_KEY
from wsi_mitosis.io.results.held import HeldFolder
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = {
    "slide": pa.string(),
    "x": pa.float64(),
    "y": pa.float64(),
    "score": pa.float64(),
    "id": pa.string(),
}


class CandidateRecord(Spec):
    """What a table of candidates says about itself, in its metadata.

    Attributes:
        slide: Name in the folder.
        source: Absolute path of the slide.
        key: Digest of everything that the result depends on.
        identity: Digest of the slide's content.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_source: Who says so: `slide`, `given` or `list`.
        model, weights_sha256: The detector.
        min_score: Probability above which a peak is a candidate.
        program: Version of wsi-mitosis.
        candidates: How many.
        seconds: Time the slide took.
        warnings: What the user should know about this slide's result.
    """

    slide: str
    source: str
    key: str
    identity: str
    size_px0: tuple[int, int]
    mpp: tuple[float, float]
    mpp_source: str
    model: str
    weights_sha256: str
    min_score: float
    program: str
    candidates: int
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The slide's numbers."""
        return {"candidates": self.candidates}

    @property
    def told(self) -> str:
        """The numbers in a few words."""
        return f"{self.candidates} candidate" + ("" if self.candidates == 1 else "s")


class CandidateFolder(HeldFolder):
    """The folder beside `out` that holds its parts. Use it as a context manager.

    Args:
        out: The CSV.

    Raises:
        OutputError: where the folder cannot be written, or another run holds it, or `out` is a folder.
    """

    def __init__(self, out: Path) -> None:
        if out.is_dir():
            raise OutputError("is a folder", subject=out, remedy="Name a .csv file by --out")
        super().__init__(out.with_name(f"{out.name}.parts"))
        self.out = out

    def path(self, slide: str) -> Path:
        """The table of a slide, whether it exists or not."""
        return self.folder / f"{slide}.parquet"

    def records(self) -> dict[str, CandidateRecord]:
        """What stands in the folder, by slide name; read from the tables' metadata alone."""
        tables = sorted(self.folder.rglob("*.parquet"))
        found = (_read_record(path) for path in tables if not path.name.startswith("."))
        return {record.slide: record for record in found if record is not None}

    def write_slide(self, record: CandidateRecord, candidates: pd.DataFrame) -> None:
        """Write a slide's table.

        Args:
            record: Of the slide.
            candidates: `x`, `y` (level-0 px, slide frame), `score`, `id`.
        """
        table = pa.Table.from_pandas(
            candidates.assign(slide=record.slide)[list(COLUMNS)], pa.schema(COLUMNS), preserve_index=False
        )
        with replacing(self.path(record.slide)) as temporary:
            metadata = {METADATA_KEY: record.model_dump_json().encode()}
            pq.write_table(table.replace_schema_metadata(metadata), temporary)

    def write_csv(self, names: Mapping[str, str]) -> None:
        """Write the CSV, sorted by slide, then y, then x.

        Args:
            names: What each slide of the folder that counts is called in it, by its name in the folder.
        """
        parts = [
            pq.read_table(self.path(slide)).to_pandas().assign(slide=name)
            for slide, name in sorted(names.items(), key=lambda item: item[1])
        ]
        whole = pd.concat(parts) if parts else pd.DataFrame(columns=list(COLUMNS))
        write_text(self.out, whole.to_csv(index=False, lineterminator="\n"))


def _read_record(path: Path) -> CandidateRecord | None:
    """None where the file is no whole table of ours, or of a version that recorded other things."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return CandidateRecord.model_validate_json(metadata[METADATA_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, ValidationError):
        return None
