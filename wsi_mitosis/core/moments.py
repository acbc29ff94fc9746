"""Moments in files: text in ISO 8601 with a zone, to the second."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def now() -> str:
    """Return the present, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _with_zone(text: str) -> str:
    """Return the text of a moment; one without a zone cannot be compared with the present.

    Raises:
        ValueError: if it is no moment, or has no zone.
    """
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a zone")
    return text


Moment = Annotated[str, AfterValidator(_with_zone)]
"""The text of a moment, in a schema."""
