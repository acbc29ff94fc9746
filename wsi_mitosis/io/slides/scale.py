"""Which of a file's statements about its pixel size is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_mitosis.units import Mpp

SAME_SIZE = 0.02
"""Relative: statements that differ by less are roundings of one size (files round to three digits or to whole
dots per inch)."""


class Statement(NamedTuple):
    """What one part of a file states: um per level-0 px, and which part it is."""

    mpp: Mpp
    source: str


def taken_mpp(name: str, statements: Sequence[Statement]) -> tuple[Mpp | None, tuple[str, ...]]:
    """The size that the most specific statement gives, and a warning where another contradicts it.

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
    told = " and ".join(f"{size_text(one.mpp)} um/px ({one.source})" for one in (first, *contradicting))
    return first.mpp, (f"{name}: the file states {told}; {size_text(first.mpp)} is used",)


def size_text(mpp: Mpp) -> str:
    """A pixel size as messages give it."""
    return f"{mpp.x:.4g} x {mpp.y:.4g}" if mpp.anisotropic else f"{mpp.x:.4g}"


def _differ(one: Mpp, other: Mpp) -> bool:
    return any(not abs(a - b) <= SAME_SIZE * abs(b) for a, b in zip(one, other, strict=True))
