"""JSON files that state the SHA-256 of their own content, so that an edit or damage is noticed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.limits import parse_json

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256"
"""Member of the file that holds the SHA-256 of the others."""


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write plain data and its digest."""
    document = {**content, DIGEST: _digest(content)}
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read plain data; None if the file is missing, damaged or edited."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        is_whole = isinstance(content, dict) and content.pop(DIGEST, None) == _digest(content)
    except (OSError, ValueError, RecursionError):
        return None
    return content if is_whole else None


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
