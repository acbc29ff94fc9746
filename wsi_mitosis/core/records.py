"""The record of one slide: what it is, its scale, its model, what was counted, and what that cost.

`classify` and `detect` write the same record, into the metadata of a slide's table.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from wsi_mitosis.core.qupath import frame_origin, frame_size
from wsi_mitosis.core.sharpness import SlideSharpness
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.schema import Spec
from wsi_mitosis.units import Bounds, Frame, Mpp


class SlideIdentity(Spec):
    """Which slide a record is about.

    Attributes:
        name: Its name in the output folder.
        path: Absolute path of its file.
        digest: Digest of its content.
        scanner: Its scanner, as its file states it; None if it states none, or in a record of a version that
            did not look.
    """

    name: str
    path: str
    digest: str
    scanner: str | None = None


class SlideScale(Spec):
    """The slide's coordinate system.

    Attributes:
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px along x and y.
        mpp_source: Where the pixel size comes from: `slide`, `given` or `list`.
        bounds: The slide's bounds, level-0 px, slide frame; None if it has none.
    """

    size_px0: tuple[int, int]
    mpp: Mpp
    mpp_source: str
    bounds: Bounds | None = None

    def origin_px0(self, frame: Frame) -> tuple[int, int]:
        """Return (x, y) of a frame's origin, level-0 px, slide frame."""
        return frame_origin(frame, self.bounds)

    def image_px(self, frame: Frame) -> tuple[int, int]:
        """Return (width, height) of the image in a frame, px: the whole slide, or QuPath's crop of it."""
        return frame_size(frame, self.size_px0, self.bounds)


class ModelIdentity(Spec):
    """The ensemble or the detector that a result comes from.

    Attributes:
        name: Name of the bundle or the detector.
        digest: Digest of the bundle, or SHA-256 of the detector's weights.
        trained: False if the weights are random, so that the results mean nothing.
        min_score: Probability above which a detector's peak is a candidate; None for an ensemble.
    """

    name: str
    digest: str
    trained: bool = True
    min_score: float | None = None

    @property
    def is_detector(self) -> bool:
        """Whether it finds candidates, in place of classifying them."""
        return self.min_score is not None

    @property
    def use(self) -> str:
        """The notice that every output carries."""
        return "research use only" if self.trained else "untrained: the labels mean nothing"


class Cost(Spec):
    """What a result cost.

    Attributes:
        seconds: Time from opening the slide to its result.
        stages: Seconds by stage; `reading` is summed over the reading threads, beside the others. If workers
            did parts of the slide at the same time, all stages are summed over the parts.
    """

    seconds: float
    stages: dict[str, float] = Field(default_factory=dict)


class Origin(Spec):
    """How and when a result was made.

    Attributes:
        made: When, ISO 8601.
        host: Kind of the machine, without its name.
        device: `cpu` or `cuda`.
        backend: What computed the networks; None in a record of a version that did not state it.
        options: The options that change a result.
    """

    made: str
    host: str
    device: str
    backend: str | None = None
    options: dict[str, Any]


class SlideRecord(Spec):
    """What a slide's table says about itself.

    Attributes:
        schema_: Version of this schema.
        key: Digest of everything that the result depends on.
        program: Version of wsi-mitosis that computed it.
        warnings: What the user should know about this slide's result.
        origin: How and when it was made; None in a record of a version that did not state it.
        sharpness: How sharp its figures are; None if the bundle has no limit to compare them with.
    """

    schema_: Literal[2] = Field(2, alias="schema")
    slide: SlideIdentity
    scale: SlideScale
    model: ModelIdentity
    counts: Counts
    cost: Cost
    key: str
    program: str
    warnings: tuple[str, ...] = ()
    origin: Origin | None = None
    sharpness: SlideSharpness | None = None

    @property
    def name(self) -> str:
        """The slide's name in the output folder."""
        return self.slide.name

    @property
    def logged_counts(self) -> dict[str, float | int | None]:
        """The counts that a log states: a detector only finds candidates."""
        return self.counts.model_dump(include={"candidates"} if self.model.is_detector else None)

    @property
    def logged_sharpness(self) -> dict[str, float | str | None]:
        """The sharpness that a log states; nothing if there is no limit for it."""
        if self.sharpness is None:
            return {}
        return {"sharpness": self.sharpness.value, "sharpness_verdict": self.sharpness.verdict}

    @property
    def text(self) -> str:
        """The counts in a few words."""
        if self.model.is_detector:
            return f"{self.counts.candidates} candidate" + ("" if self.counts.candidates == 1 else "s")
        counts = self.counts
        return f"{counts.atypical} atypical, {counts.typical} typical, {counts.excluded} excluded"

    @classmethod
    def from_json(cls, text: str | bytes) -> SlideRecord:
        """Parse a record, also one of schema 1, which had no version and no parts.

        Raises:
            ValueError: if the text is not a record of a known schema.
        """
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("a record is not nested deeply") from error
        if not isinstance(data, dict):
            raise ValueError("a record is a JSON object")
        return cls.model_validate(data if "schema" in data else _from_schema_1(data))

    def to_json(self) -> str:
        """Return the record as JSON, which `from_json` reads."""
        return self.model_dump_json(by_alias=True)


def _from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    """Sort the fields of a flat record into the parts of schema 2.

    Raises:
        ValueError: if a field is missing.
    """
    try:
        counts = data["counts"] if "counts" in data else {"candidates": data["candidates"]}
        return {
            "slide": {"name": data["slide"], "path": data["source"], "digest": data["identity"]},
            "scale": {
                **{name: data[name] for name in ("size_px0", "mpp", "mpp_source")},
                "bounds": data.get("bounds"),
            },
            "model": _model_from_schema_1(data),
            "counts": {name: counts[name] for name in Counts.model_fields if name in counts},
            "cost": {"seconds": data["seconds"]},
            **{name: data[name] for name in ("key", "program", "warnings")},
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record of schema 1: {error!r}") from error


def _model_from_schema_1(data: dict[str, Any]) -> dict[str, Any]:
    if "bundle" in data:
        return {"name": data["bundle"], "digest": data["bundle_digest"], "trained": data["trained"]}
    return {"name": data["model"], "digest": data["weights_sha256"], "min_score": data["min_score"]}
