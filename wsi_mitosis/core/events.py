"""The events of a run: one description per kind of line in `log.jsonl`.

The schemas are closed. `docs/reference/log.md` is made from them, and tests check the lines of real runs
against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AwareDatetime, Field, model_validator

from wsi_mitosis.core.sharpness import Verdict
from wsi_mitosis.errors import SpecError
from wsi_mitosis.schema import Spec

SlideName = Annotated[str, Field(description="Name of the slide in the output folder.")]
Reason = Annotated[
    str, Field(alias="error", description="What went wrong, and what to do about it, on one line.")
]
Details = Annotated[
    str | None,
    Field(description="Traceback of an error that no input explains; null or absent otherwise."),
]


class Event(Spec):
    """What every line has."""

    time: AwareDatetime = Field(description="When it happened, ISO 8601 in UTC, to the millisecond.")
    event: str = Field(description="The kind of the event, the heading of a section below.")


class Start(Event):
    """A run holds the folder and starts."""

    event: Literal["start"]
    program: str = Field(description="Version of wsi-mitosis.")
    slides: int = Field(ge=0, description="Number of slides of the run.")
    bundle: str | None = Field(None, description="Name of the ensemble (`classify`).")
    model: str | None = Field(None, description="Name of the detector (`detect`).")


class Warned(Event):
    """Something that the user should know; the run goes on."""

    event: Literal["warning"]
    message: str = Field(description="What was found, in a sentence.")
    slide: SlideName | None = Field(None)


class Done(Event):
    """A slide is done, and its files are on disk."""

    event: Literal["done"]
    slide: SlideName
    kept: bool = Field(description="Whether the results of an earlier run were up to date and were kept.")
    seconds: float = Field(ge=0, description="Time that the slide took in this run, s.")
    stages: dict[str, float] = Field(
        description="Time by stage, s. `copying` is the wait for the slide's copy (`--stage`). `reading` is "
        "summed over the threads that read patches, and each stage over the parts of a large slide."
    )
    peak_rss_mb: float | None = Field(
        None,
        description="Largest resident memory so far of the process that did it, in units of 2^20 bytes. If "
        "several did parts of it, that of the largest.",
    )
    candidates: int = Field(ge=0, description="Candidates of the slide.")
    classified: int | None = Field(None, ge=0, description="Figures: atypical and typical (`classify`).")
    atypical: int | None = Field(None, ge=0, description="Atypical figures (`classify`).")
    typical: int | None = Field(None, ge=0, description="Typical figures (`classify`).")
    excluded: int | None = Field(None, ge=0, description="Candidates without a label (`classify`).")
    mean_agreement: float | None = Field(
        None, ge=0, le=1, description="Mean share of the votes for the label; null without figures."
    )
    sharpness: float | None = Field(
        None, ge=0, description="Median sharpness of the figures; null for too few of them (`classify`)."
    )
    sharpness_verdict: Verdict | None = Field(
        None, description="How it compares with the bundle's limit; absent for a bundle without one."
    )


class Waiting(Event):
    """A slide is left for a later run, because it is not complete yet."""

    event: Literal["waiting"]
    slide: SlideName
    reason: str = Field(description="What the slide waits for.")


class Failed(Event):
    """A slide, or a file of the whole run, failed. A line has either `slide` or `file`."""

    event: Literal["failed"]
    slide: SlideName | None = Field(None)
    file: str | None = Field(None, description="Name of a file of the whole run, such as `report.html`.")
    error_: Reason
    details: Details = None
    failures: int | None = Field(
        None, ge=1, description="Number of runs, one after the other, in which the slide failed."
    )

    @model_validator(mode="after")
    def _concerns_one_thing(self) -> Self:
        if (self.slide is None) == (self.file is None):
            raise ValueError("a failure is either that of a slide or that of a file")
        return self


class SetAside(Event):
    """A slide failed in so many runs that later runs leave it out, until `--retry` or until it changes."""

    event: Literal["set_aside"]
    slide: SlideName
    error_: Reason
    details: Details = None
    failures: int | None = Field(
        None, ge=1, description="Number of runs, one after the other, in which the slide failed."
    )


class Reported(Event):
    """The report is written."""

    event: Literal["report"]
    seconds: float = Field(ge=0, description="Time that the report took, s.")
    size_bytes: int = Field(ge=0, description="Size of `report.html`, bytes.")


class End(Event):
    """The run ends. A run without this line was killed, or its machine went down."""

    event: Literal["end"]
    exit_status: int = Field(description="Exit status of the command.")
    seconds: float | None = Field(None, ge=0, description="Time that the run took, s.")
    statuses: dict[str, int] | None = Field(None, description="Number of slides of the run by status.")


EVENTS: tuple[type[Event], ...] = (
    Start,
    Warned,
    Waiting,
    Done,
    Failed,
    SetAside,
    Reported,
    End,
)
"""All kinds, in the order in which a run may write them."""


def name_of(kind: type[Event]) -> str:
    """Return the value of `event` in lines of a kind."""
    return str(get_args(kind.model_fields["event"].annotation)[0])


def parse_event(data: dict[str, Any], subject: object = "log.jsonl") -> Event:
    """Check one line of a log against the schema of its kind.

    Args:
        data: The parsed line.
        subject: What the line is, for messages.

    Raises:
        SpecError: if the kind is unknown, or a key is unknown, missing or impossible.
    """
    kinds = {name_of(kind): kind for kind in EVENTS}
    name = data.get("event")
    if name not in kinds:
        raise SpecError(
            f"unknown event {name!r} (known: {', '.join(kinds)})",
            subject=subject,
            stage="checking events",
            remedy="Read it with the version of wsi-mitosis that wrote it",
        )
    return kinds[name].parse(data, subject)
