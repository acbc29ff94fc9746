"""Assessments on disk: one JSON file per slide, from which every number beside the counts is written.

A file that was edited or damaged is computed again from the figures table; its numbers are never used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.core.assessments import AssessedSlide
from wsi_mitosis.io.results.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from pathlib import Path


def write_assessment(path: Path, assessed: AssessedSlide) -> None:
    """Write an assessment file."""
    write_sealed(path, assessed.model_dump(mode="json", by_alias=True))


def read_assessment(path: Path) -> AssessedSlide | None:
    """Read an assessment file; None if it is missing, damaged, edited or of another schema."""
    try:
        return AssessedSlide.model_validate(read_sealed(path))
    except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None
