"""Records and assessments of slides, for tests that write a folder of results without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from wsi_mitosis.core.assessments import AssessedSlide, assess, assessment_key
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideIdentity, SlideRecord, SlideScale
from wsi_mitosis.core.regions import Region
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.specs import AssessmentOptions
from wsi_mitosis.units import Bounds, Mpp

NO_HOTSPOTS = AssessmentOptions(hotspot_area=0)


def slide_record(
    name: str = "a.svs",
    *,
    path: str | None = None,
    identity: str = "i" * 64,
    size_px0: tuple[int, int] = (1400, 1000),
    mpp: tuple[float, float] = (0.25, 0.25),
    bounds: tuple[int, int, int, int] | None = None,
    bundle: str = "nano µ",
    bundle_digest: str = "d" * 64,
    trained: bool = True,
    counts: Counts | None = None,
    seconds: float = 1.5,
    **others: Any,
) -> SlideRecord:
    """A record whose parts are as given; `others` are fields of the record itself."""
    return SlideRecord(
        slide=SlideIdentity(name=name, path=path or f"/data/{name}", digest=identity),
        scale=SlideScale(
            size_px0=size_px0,
            mpp=Mpp(*mpp),
            mpp_source="slide",
            bounds=None if bounds is None else Bounds(*bounds),
        ),
        model=ModelIdentity(name=bundle, digest=bundle_digest, trained=trained),
        counts=Counts(candidates=0) if counts is None else counts,
        cost=Cost(seconds=seconds),
        **{"key": "k" * 64, "program": "0.1.0"} | others,
    )


def assessed_slide(
    record: SlideRecord,
    figures: pd.DataFrame,
    options: AssessmentOptions = NO_HOTSPOTS,
    regions: Sequence[Region] | None = None,
) -> AssessedSlide:
    """The assessment of a slide's figures, as a run makes it."""
    return AssessedSlide(
        use=record.model.use,
        key=assessment_key(record.key, options, regions),
        record=record,
        options=options,
        assessment=assess(figures, record.scale, options, regions),
    )
