"""Estimates for all figures from the reviews of a random sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsi_mitosis.core.estimation import (
    LEAST_LABELS,
    MOST_UNDECIDED,
    Estimates,
    estimate_all,
    estimate_slides,
)
from wsi_mitosis.core.sampling import COLUMNS, draw
from wsi_mitosis.errors import InputError, listed, several
from wsi_mitosis.tables import ALL_SLIDES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsi_mitosis.core.estimation import Estimate
    from wsi_mitosis.core.review_files import ReviewFile

    Names = set[tuple[str, str]]

STAGE = "estimating from the sample"
AGAIN = "Draw and review a new sample with `wsi-mitosis review --sample`"
SHOWN = {
    "atypical_fraction": "atypical fraction",
    "atypical": "atypical figures",
    "mitoses": "mitotic figures",
}
"""The quantities in words."""


@dataclass(frozen=True)
class SampleEstimates:
    """What the reviews of a sample say of all figures.

    Attributes:
        rows: The rows of `reviewed/estimates.csv`, by ESTIMATE_COLUMNS: all slides, then each slide with
            enough labels.
        lines: The estimates for all slides, and which slides have none, for the terminal.
        warnings: What the user should know.
    """

    rows: tuple[dict[str, Any], ...]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def estimate(
    figures_by_slide: Mapping[str, pd.DataFrame],
    files: Sequence[ReviewFile],
    consensus: Iterable[Mapping[str, Any]],
) -> SampleEstimates | None:
    """Estimate the numbers of all figures that a sample was drawn from.

    The sample is drawn again from the results, by the size, the seed and the slides that the files state.

    Args:
        figures_by_slide: The figures tables of the folder (FIGURE_COLUMNS) by slide; a row without a label is
            not a figure.
        files: The files of all reviewers. Those that are not of a sample are ignored.
        consensus: Rows with `slide`, `figure_id` and `consensus`, as of CONSENSUS_COLUMNS.

    Returns:
        The estimates; None if no file is of a sample.

    Raises:
        InputError: if the files are of different samples, the sample cannot be drawn again from these
            results, or too few of its figures have labels.
    """
    sampled = [file for file in files if file.design.selection == "sample"]
    if not sampled:
        return None
    table = _drawn_again(figures_by_slide, sampled)
    drawn = table[table["drawn"]]
    warnings = _check_figures(sampled, set(zip(drawn["slide"], drawn["figure_id"], strict=True)))
    verdicts = {(row["slide"], row["figure_id"]): row["consensus"] for row in consensus}
    whole, slides = estimate_all(table, verdicts), estimate_slides(table, verdicts)
    labels = {ALL_SLIDES: table["label"], **dict(iter(table.groupby("slide")["label"]))}
    found = {ALL_SLIDES: whole, **slides}
    return SampleEstimates(
        rows=tuple(row for name, one in found.items() for row in _rows(name, one, labels[name])),
        lines=(*_lines(whole), *_without_estimates(slides)),
        warnings=(*warnings, *_on_undecided(whole)),
    )


# The sample


def _drawn_again(figures_by_slide: Mapping[str, pd.DataFrame], files: Sequence[ReviewFile]) -> pd.DataFrame:
    """Draw the sample of the files again, as `core.sampling.draw` does."""
    first = files[0]
    for file in files:
        if _sample_of(file) != _sample_of(first):
            raise InputError(
                f"the files of {listed([first.reviewer, file.reviewer])} are of different samples",
                subject="review",
                stage=STAGE,
                remedy="Recount the files of one sample alone",
            )
    slides = [slide.slide for slide in first.slides]
    if lost := [slide for slide in slides if slide not in figures_by_slide]:
        raise InputError(
            "the sample was drawn from this slide too, and it has no result",
            subject=lost[0],
            stage=STAGE,
            remedy=f"Run `classify` for it again. If its result was removed on purpose: {AGAIN}",
        )
    assert first.design.sample is not None  # noqa: S101 - the schema holds it
    return draw(_figures(figures_by_slide, slides), first.design.sample, first.design.seed)


def _figures(figures_by_slide: Mapping[str, pd.DataFrame], slides: Sequence[str]) -> pd.DataFrame:
    """Return the figures of some slides, as `core.sampling.draw` takes them."""
    tables = [figures_by_slide[slide].assign(slide=slide)[list(COLUMNS)] for slide in slides]
    labelled = [table[table["label"].notna()] for table in tables]
    return pd.concat([table for table in labelled if len(table)] or labelled[:1])


def _sample_of(file: ReviewFile) -> tuple[int | None, int, str]:
    """Return size and seed of a file's sample, and the digest of the results that it was drawn from."""
    return file.design.sample, file.design.seed, file.run


def _check_figures(files: Sequence[ReviewFile], drawn: Names) -> list[str]:
    """Refuse files whose figures are not those of the sample, and warn of parts that are missing."""
    listed_figures: Names = set()
    for file in files:
        mine = {(figure.slide, figure.figure_id) for figure in file.figures}
        if strange := sorted(mine - drawn):
            raise _changed(strange, file.reviewer)
        listed_figures |= mine
    lacking = sorted(drawn - listed_figures)
    if not lacking:
        return []
    missing = _missing_parts(files)
    if not missing:
        raise _changed(lacking, files[0].reviewer)
    return [f"{several(len(lacking), 'figure')} of the sample are on {missing}, which was not given"]


def _missing_parts(files: Sequence[ReviewFile]) -> str:
    """Return the parts of the sample's page that no file is of, in words; empty if there are all."""
    of = max(file.part[1] for file in files)
    given = {file.part[0] for file in files if file.part[1] == of}
    missing = [str(part) for part in range(1, of + 1) if part not in given]
    return f"part {', '.join(missing)} of {of}" if missing else ""


def _changed(figures: Sequence[tuple[str, str]], reviewer: str) -> InputError:
    """Return the error for figures that are in the file or in the sample, and not in both."""
    slide, figure = figures[0]
    return InputError(
        f"the sample that {reviewer} reviewed is not the one that these results give: "
        f"figures that differ: {len(figures)}, the first is {figure}",
        subject=slide,
        stage=STAGE,
        remedy=f"The slides were classified again after the page was made. {AGAIN}, or restore the results",
    )


# What is written


def _rows(slide: str, found: Estimates, labels: pd.Series[Any]) -> list[dict[str, Any]]:
    atypical = int((labels == "atypical").sum())
    machine = {"atypical_fraction": atypical / len(labels), "atypical": atypical, "mitoses": len(labels)}
    counts = {name: getattr(found, name) for name in ("labels", "drawn", "undecided", "missing", "figures")}
    return [
        {
            "slide": slide,
            "quantity": one.quantity,
            "method": one.method,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "width": one.width,
            "machine": machine[one.quantity],
            **counts,
        }
        for one in found.each
    ]


def _lines(whole: Estimates) -> list[str]:
    """The estimates for all slides in words."""
    head = f"From {several(whole.labels, 'label')}, for {several(whole.figures, 'figure')} of {ALL_SLIDES}:"
    return [head, *(f"  {_in_words(one)}" for one in whole.each)]


def _in_words(one: Estimate) -> str:
    name = f"{SHOWN[one.quantity]} ({one.method})"
    if one.value is None:
        return f"{name}: undefined, because no figure of the sample is a mitotic figure"
    digits = 3 if one.quantity == "atypical_fraction" else 0
    return f"{name}: {one.value:.{digits}f} (95 % interval {one.low:.{digits}f} to {one.high:.{digits}f})"


def _without_estimates(slides: Mapping[str, Estimates]) -> list[str]:
    names = [name for name, one in slides.items() if not one.each]
    if not names:
        return []
    why = f"fewer than {LEAST_LABELS} labels, or more than {MOST_UNDECIDED:.0%} of their sample without one"
    return [f"Slides without an estimate of their own ({why}): {listed(names)}"]


def _on_undecided(whole: Estimates) -> list[str]:
    number = whole.undecided + whole.missing
    if not number:
        return []
    which = f"({whole.undecided} undecided, {whole.missing} missing)"
    return [
        f"{several(number, 'figure')} of the sample's {whole.drawn} have no label {which}. The estimates "
        "take them to be like the other figures of their strata, and the intervals do not cover that"
    ]
