"""Earlier results on disk: one JSON file per slide that was classified again with another result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from wsi_mitosis.core.earlier import EarlierResult, EarlierResults
from wsi_mitosis.io.atomic import write_text

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "earlier"
"""Where the files are, inside the output folder."""


def read_earlier(path: Path, slide: str) -> EarlierResults:
    """Read a slide's earlier results; none if the file is missing, damaged or of another slide.

    A review of an earlier result is then refused, because nothing tells what its reviewer saw.
    """
    try:
        found = EarlierResults.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return EarlierResults(slide=slide)
    return found if found.slide == slide else EarlierResults(slide=slide)


def add_earlier(path: Path, slide: str, result: EarlierResult) -> None:
    """Add a result to a slide's earlier ones."""
    write_text(path, read_earlier(path, slide).followed_by(result).model_dump_json() + "\n")
