"""Slides: find them, open them, and read their pixels in a stated frame."""

from wsi_mitosis.io.slides.finding import SLIDE_ENDINGS, FoundSlides, find_slides
from wsi_mitosis.io.slides.opening import identify, open_native, open_slide
from wsi_mitosis.io.slides.slide import Level, MppSource, Slide

__all__ = [
    "SLIDE_ENDINGS",
    "FoundSlides",
    "Level",
    "MppSource",
    "Slide",
    "find_slides",
    "identify",
    "open_native",
    "open_slide",
]
