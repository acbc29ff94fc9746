"""Earlier results on disk: one JSON file per slide that was classified again with another result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
from wsi_mitosis.io.results.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "earlier"
"""Where the files are, inside the output folder."""


def read_earlier(path: Path) -> EarlierResults | None:
    """Read a slide's earlier results; None if the file is missing, damaged or edited.

    A review of an earlier result is then refused, because nothing tells what its reviewer saw.
    """
    try:
        return EarlierResults.model_validate(read_sealed(path))
    except ValidationError:
        return None


def add_earlier(path: Path, slide: str, result: EarlierResult) -> None:
    """Add a result to a slide's earlier ones."""
    earlier = read_earlier(path) or EarlierResults(slide=slide)
    write_sealed(path, earlier.followed_by(result).model_dump(mode="json"))
