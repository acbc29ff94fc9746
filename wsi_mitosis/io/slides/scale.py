"""Choose among a file's statements of its pixel size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_mitosis.units import Mpp

SAME_SIZE = 0.02
"""Relative. Statements that differ by less are the same size, because files round to three digits or to whole
dots per inch."""


class Statement(NamedTuple):
    """The um per level-0 px that one part of a file states, and the name of that part."""

    mpp: Mpp
    source: str


def taken_mpp(name: str, statements: Sequence[Statement]) -> tuple[Mpp | None, tuple[str, ...]]:
    """Return the size that the most specific statement gives, and a warning if another contradicts it.

    Args:
        name: The slide, for the warning.
        statements: The most specific first: OME or vendor, then the resolution tag.
    """
    if not statements:
        return None, ()
    first, *others = statements
    contradicting = [other for other in others if _differ(first.mpp, other.mpp)]
    if not contradicting:
        return first.mpp, ()
    stated = " and ".join(f"{size_text(one.mpp)} um/px ({one.source})" for one in (first, *contradicting))
    return first.mpp, (f"{name}: the file states {stated}; {size_text(first.mpp)} is used",)


def size_text(mpp: Mpp) -> str:
    """Return a pixel size as text for messages."""
    return f"{mpp.x:.4g} x {mpp.y:.4g}" if mpp.anisotropic else f"{mpp.x:.4g}"


def _differ(one: Mpp, other: Mpp) -> bool:
    return any(not abs(a - b) <= SAME_SIZE * abs(b) for a, b in zip(one, other, strict=True))
