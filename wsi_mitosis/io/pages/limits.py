"""How much of a report one slide may take, so that the report stays small enough to open and to send."""

from __future__ import annotations

from dataclasses import dataclass

MOST_SLIDES = 200
"""Slides with pictures: a browser shows this many without delay, and they take a few minutes to make."""
MOST_WARNINGS = 100
REGIONS_DRAWN = 100
"""Regions on an overview; `regions.csv` has the others too."""
REVIEW_SHOWN = 10
"""Figures of the review list in the report; `review.csv` has the others."""
TREND_DAYS = 8
"""Days on which slides were classified from which on the report mentions control charts."""
_PICTURE_CHARS, _MOST_SLIDE_CHARS = 7_500_000, 600_000
_CROP_CHARS = 6_500
"""A JPEG of 128 px of tissue takes 4,000 to 7,000 characters in base64."""


@dataclass(frozen=True)
class Limits:
    """The limits of one slide; with them, a report of 50 slides is under 10 MB, with maps as well.

    Attributes:
        overview_chars: Length of its overview as text.
        crops_chars: Length of all pictures in its gallery as text.
        crops: Number of pictures in its gallery.
        marks: Number of figures drawn on its overview.
        maps: Number of figures with a map of where members look.
        maps_chars: Length of all maps as text, within a quarter of what the gallery may take.
    """

    overview_chars: int
    crops_chars: int
    crops: int
    marks: int
    maps: int
    maps_chars: int

    @classmethod
    def shared(cls, slides: int) -> Limits:
        """Divide the report's limits equally among its slides."""
        half = min(_MOST_SLIDE_CHARS, _PICTURE_CHARS // max(slides, 1)) // 2
        crops = min(48, max(4, half // _CROP_CHARS))
        marks = min(5_000, max(200, 100_000 // max(slides, 1)))
        return cls(half, half, crops, marks, min(REVIEW_SHOWN, crops // 4), half // 4)
