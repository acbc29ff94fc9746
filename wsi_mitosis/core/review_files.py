"""`review-<reviewer>.json`: what a reviewer decided about the figures of a page that `review` made.

The page writes the file, and `recount` reads it. It has no label of the ensemble, so that a blind reviewer
can pass it on. Which figures were drawn into a sample follows from the design, and can be drawn again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from wsi_mitosis.core.moments import Moment
from wsi_mitosis.errors import DetectionsError, InputError
from wsi_mitosis.schema import Spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsi_mitosis.core.records import SlideRecord

Verdict = Literal["atypical", "typical", "none", "unsure"]
"""What a reviewer can say of a figure: atypical or typical, no mitotic figure, or that it cannot be told."""
Order = Literal["rank", "random", "slide"]
"""The order of a page: by how much a correction could change, in random order, or by slide and place."""
Selection = Literal["all", "sample", "disagreements"]
"""Which figures a page shows: all (or the first of the order), a random sample, or those on which reviewers
disagree."""
NAME = r"^[\p{L}\p{N}][\p{L}\p{N}_ .,@+-]{0,63}$"
"""The names that a reviewer can have: letters, digits and a few signs. They are a part of file names."""
Name = Annotated[str, StringConstraints(pattern=NAME)]
MOST_NOTE = 500
"""Characters of a note."""


class Design(Spec):
    """How the figures of a page were chosen and ordered.

    Attributes:
        selection: Which figures.
        order: In which order.
        blind: Whether the page has no label, vote or probability of the ensemble.
        seed: Of everything random.
        most: How many figures at most, the first of the order; None for all.
        sample: Size of the sample; None unless figures were sampled.
    """

    selection: Selection = "all"
    order: Order = "rank"
    blind: bool = False
    seed: NonNegativeInt = 0
    most: PositiveInt | None = None
    sample: PositiveInt | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.selection == "sample") != (self.sample is not None):
            raise ValueError("a sample has a size, and nothing else has")
        if self.blind and self.order == "rank":
            raise ValueError("the order by rank shows which labels are doubtful, so it is not blind")
        return self

    @property
    def decides(self) -> bool:
        """Whether a verdict on the page decides what its figure is, in place of a vote."""
        return self.selection == "disagreements"


class PageSlide(Spec):
    """A slide of a page.

    Attributes:
        slide: Its name in the output folder.
        digest: Digest of its content.
        key: Key of the result whose figures are shown.
        bundle: Name of the bundle that classified it.
        bundle_digest: Its digest.
    """

    slide: str
    digest: str
    key: str
    bundle: str
    bundle_digest: str

    @classmethod
    def of(cls, record: SlideRecord) -> PageSlide:
        """Describe a slide by its record."""
        return cls(
            slide=record.name,
            digest=record.slide.digest,
            key=record.key,
            bundle=record.model.name,
            bundle_digest=record.model.digest,
        )


class ReviewedFigure(Spec):
    """A figure of a page, and what its reviewer said.

    Attributes:
        slide: Name of its slide.
        figure_id: Its id, as in the other outputs.
        x_px0, y_px0: Its centre, level-0 px, slide frame.
        label: The verdict; None if the reviewer said nothing.
        note: What the reviewer wrote, or "".
        seconds: How long the figure was on the screen until its last verdict, s; None without one.
        at: When the last verdict was given; None without one.
    """

    slide: str
    figure_id: str
    x_px0: float
    y_px0: float
    label: Verdict | None = None
    note: Annotated[str, StringConstraints(max_length=MOST_NOTE)] = ""
    seconds: NonNegativeFloat | None = None
    at: Moment | None = None


class ReviewFile(Spec):
    """A reviewer's file.

    Attributes:
        schema_: Version of this schema.
        is_: What the file is.
        program: Version of the program that made the page.
        use: The notice that every output carries.
        run: Digest of the page's slides and results, by `run_digest`.
        reviewer: Name of the reviewer.
        design: How the figures were chosen.
        part: Number of this page, from 1, and the number of pages that share the figures.
        slides: The slides of all parts.
        figures: The figures of this page, in its order.
    """

    error = DetectionsError

    schema_: Literal[1] = Field(1, alias="schema")
    is_: Literal["wsi-mitosis review"] = Field("wsi-mitosis review", alias="is")
    program: str
    use: str = "research use only"
    run: str
    reviewer: Name
    design: Design
    part: tuple[PositiveInt, PositiveInt] = (1, 1)
    slides: tuple[PageSlide, ...]
    figures: tuple[ReviewedFigure, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [slide.slide for slide in self.slides]
        if len(set(names)) < len(names):
            raise ValueError("a slide is listed twice")
        if strange := {figure.slide for figure in self.figures} - set(names):
            raise ValueError(f"figures of a slide that is not listed: {min(strange)}")
        ids = [(figure.slide, figure.figure_id) for figure in self.figures]
        if len(set(ids)) < len(ids):
            raise ValueError("a figure is listed twice")
        if self.run != run_digest(self.slides):
            raise ValueError("the digest of the run is not that of the slides")
        return self

    @property
    def decided(self) -> tuple[ReviewedFigure, ...]:
        """The figures with a verdict."""
        return tuple(figure for figure in self.figures if figure.label is not None)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, as the file holds it."""
        return self.model_dump(mode="json", by_alias=True)


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a reviewer."""
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


def check_reviewer(name: str) -> None:
    """Check the name of a reviewer.

    Raises:
        InputError: if it cannot be one.
    """
    if not is_name(name):
        raise InputError(
            f"'{name}' cannot be the name of a reviewer",
            subject="--reviewer",
            remedy="Use at most 64 letters, digits, spaces and . , @ + - _, and begin with a letter or digit",
        )


def run_digest(slides: Iterable[PageSlide]) -> str:
    """Return the SHA-256 that identifies the results of these slides, whatever page shows them."""
    lines = sorted([slide.slide, slide.digest, slide.key] for slide in slides)
    return hashlib.sha256(json.dumps(lines, ensure_ascii=False).encode()).hexdigest()
