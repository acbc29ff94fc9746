"""Typical or atypical: classify mitotic figures on whole-slide images.

    from wsi_mitosis import classify_slide

    result = classify_slide("slide.svs", "candidates.csv")
    result.counts          # atypical, typical, excluded, ...
    result.figures         # a GeoDataFrame with a row per candidate
    result.assessment      # hotspots and the figures to review first
    result.to_geojson("slide.geojson")

    from wsi_mitosis import figures_of

    figures_of("results")  # a GeoDataFrame of all slides that `wsi-mitosis classify` has finished

Every error that a bad input causes is a `WsiMitosisError`. Functions are loaded when they are first used, so
that importing this package takes no time. Research use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import (
    BundleError,
    DatasetError,
    DetectionsError,
    InputError,
    MppError,
    OutputError,
    SlideError,
    SpecError,
    StagingError,
    StorageError,
    UnreadableSlideError,
    WsiMitosisError,
)
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from wsi_mitosis.core.assessments import Assessment
    from wsi_mitosis.io.detections import read_detections
    from wsi_mitosis.jobs.classify import classify_slide
    from wsi_mitosis.jobs.export import figures_of
    from wsi_mitosis.jobs.slide_result import SlideResult

__all__ = [
    "Assessment",
    "BundleError",
    "DatasetError",
    "DetectionsError",
    "InputError",
    "MppError",
    "OutputError",
    "SlideError",
    "SlideResult",
    "SpecError",
    "StagingError",
    "StorageError",
    "UnreadableSlideError",
    "WsiMitosisError",
    "__version__",
    "classify_slide",
    "figures_of",
    "read_detections",
]
_LOADED = {
    "Assessment": "wsi_mitosis.core.assessments",
    "SlideResult": "wsi_mitosis.jobs.slide_result",
    "classify_slide": "wsi_mitosis.jobs.classify",
    "figures_of": "wsi_mitosis.jobs.export",
    "read_detections": "wsi_mitosis.io.detections",
}
"""Names that are loaded on first use, and their modules."""


def __getattr__(name: str) -> object:
    if name not in _LOADED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LOADED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # so that a notebook completes also what is not loaded yet
