"""Assessments on disk: one JSON file per slide, from which every number beside the counts is written.

A file states the SHA-256 of its own content. A file that was edited or damaged is computed again from the
figures table; its numbers are never used.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from wsi_mitosis.core.assessments import AssessedSlide
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.limits import parse_json

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256"
"""Member of the file that holds the SHA-256 of the others."""


def write_assessment(path: Path, assessed: AssessedSlide) -> None:
    """Write an assessment file."""
    content = assessed.model_dump(mode="json", by_alias=True)
    document = {**content, DIGEST: _digest(content)}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_assessment(path: Path) -> AssessedSlide | None:
    """Read an assessment file; None if it is missing, damaged, edited or of another schema."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop(DIGEST, None) != _digest(content):
            return None
        return AssessedSlide.model_validate(content)
    except (OSError, ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
