"""Typical or atypical: classify mitotic figures on whole-slide images.

`classify_slide` is the front door; it is loaded when it is first asked for, so that importing this package
stays light. Research use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from wsi_mitosis.jobs.classify import SlideResult, classify_slide

__all__ = ["SlideResult", "__version__", "classify_slide"]


def __getattr__(name: str) -> object:
    if name in {"SlideResult", "classify_slide"}:
        from wsi_mitosis.jobs import classify

        return getattr(classify, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
