"""`review.html` of an output folder: choose figures, cut their pictures, and write the pages."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsi_mitosis.core.assessments import expected_changes
from wsi_mitosis.core.naming import fits
from wsi_mitosis.core.page_figures import neighbours, ordered
from wsi_mitosis.core.review_files import (
    Design,
    PageSlide,
    ReviewedFigure,
    ReviewFile,
    check_reviewer,
    run_digest,
)
from wsi_mitosis.core.sampling import draw
from wsi_mitosis.errors import InputError, SlideError, WsiMitosisError, several
from wsi_mitosis.io.pages.pictures import open_classified, squares
from wsi_mitosis.io.pages.review_page import (
    CLOSE,
    CLOSE_CHARS,
    MOST_FIGURES,
    WIDE,
    WIDE_CHARS,
    Mark,
    ReviewPage,
    Shown,
    write_review_page,
)
from wsi_mitosis.io.pages.wording import Coordinates
from wsi_mitosis.io.results.digests import write_digests
from wsi_mitosis.io.results.folder import open_results
from wsi_mitosis.io.results.recounts import disagreements
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsi_mitosis.core.assessments import AssessedSlide
    from wsi_mitosis.core.states import SlideState
    from wsi_mitosis.io.results.folder import ResultFolder

STAGE = "making the review page"
PART = re.compile(r"review-\d+\.html")
"""Names of the pages after the first."""
PLACEHOLDER = "reviewer"
"""Name in the data of a page that asks for the name."""
VERDICT_WORDS = {
    "atypical": "atypical",
    "typical": "typical",
    "none": "not a mitosis",
    "unsure": "cannot tell",
}
COLUMNS = ("slide", "figure_id", "x_px0", "y_px0", "label", "p_atypical", "votes_atypical", "votes_cast")


@dataclass(frozen=True)
class ReviewResult:
    """The pages that were written.

    Attributes:
        paths: The pages, in the order of their parts.
        figures: Number of figures on all of them.
        slides: The slides that they are of.
        design: How the figures were chosen.
        errors: By slide, why it has no figures on the pages.
        size_bytes: Size of all pages.
    """

    paths: tuple[Path, ...]
    figures: int
    slides: tuple[str, ...]
    design: Design
    errors: Mapping[str, str]
    size_bytes: int

    @property
    def exit_status(self) -> int:
        """0 if every slide is on the pages, 1 if some are not."""
        return int(bool(self.errors))


def review(
    results: Path, design: Design, *, reviewer: str | None = None, globs: Sequence[str] = ()
) -> ReviewResult:
    """Write the pages in which a reviewer labels figures of a folder of results.

    Pictures are read from the slides, where `classify` found them. A slide that cannot be read, or whose
    assessment is damaged, is left out; a random sample is not drawn without it.

    Args:
        results: The output folder of `classify`.
        design: How figures are chosen and ordered.
        reviewer: Name of the reviewer; None for a page that asks for it.
        globs: Slides to show, by name or by file name; all of them if none is given.

    Raises:
        InputError: if there are no results, no slide or no figure to show, or the design contradicts itself.
        SlideError: if a slide of a sample cannot be used, or the pixels of any slide cannot be decoded.
        OutputError: if the folder cannot be written, or is in use.
    """
    if reviewer is not None:
        check_reviewer(reviewer)
    with open_results(results, STAGE) as folder:
        assessed, errors = _usable(_chosen(folder, globs), design)
        figures = _figures(folder, assessed)
        shown = _selected(folder, figures, design)
        if shown.empty:
            raise _nothing_to_show(folder, design, errors)
        paths = tuple(_Pages(folder, assessed, figures, design, reviewer).write(shown))
        return ReviewResult(
            paths=paths,
            figures=len(shown),
            slides=tuple(dict.fromkeys(sorted(shown["slide"]))),
            design=design,
            errors=errors,
            size_bytes=sum(path.stat().st_size for path in paths),
        )


# Which figures


def _chosen(folder: ResultFolder, globs: Sequence[str]) -> list[SlideState]:
    """Return the classified slides of the folder that the user names."""
    done = [state for state in folder.states().values() if state.record is not None]
    named = [state for state in done if not globs or fits(state.name, globs)]
    if not named:
        raise InputError(
            f"none of the {len(done)} classified slides is named {' or '.join(globs)}"
            if globs
            else "no slide of this folder is done",
            subject=folder.folder,
            stage=STAGE,
            remedy="summary.csv has the names" if globs else "Run `classify` first",
        )
    return named


def _usable(states: Sequence[SlideState], design: Design) -> tuple[list[AssessedSlide], dict[str, str]]:
    """Return the slides whose figures can be shown, and by name why the others cannot."""
    usable, errors = [], {}
    for state in states:
        try:
            usable.append(_readable(state))
        except WsiMitosisError as error:
            if design.selection == "sample":
                raise
            errors[state.name] = str(error)
    return usable, errors


def _readable(state: SlideState) -> AssessedSlide:
    """Return a slide's assessment, after a look whether its pixels can be read."""
    if state.assessed is None:
        raise SlideError(
            "its assessment is missing or damaged",
            subject=state.name,
            stage=STAGE,
            remedy="Run `classify` again, which keeps its labels",
        )
    identity = state.assessed.record.slide
    open_classified(identity.path, identity.digest).close()
    return state.assessed


def _figures(folder: ResultFolder, assessed: Sequence[AssessedSlide]) -> pd.DataFrame:
    """Return COLUMNS and `expected_change` of the slides' figures."""
    tables = []
    for one in assessed:
        table = folder.figures(one.record.name)
        table = table[table["label"].notna()].reset_index(drop=True)
        changes = expected_changes(table, one.assessment, one.record.scale)
        tables.append(table.assign(slide=one.record.name)[list(COLUMNS)].assign(expected_change=changes))
    empty = pd.DataFrame(columns=[*COLUMNS, "expected_change"])
    return pd.concat(tables, ignore_index=True) if tables else empty


def _selected(folder: ResultFolder, figures: pd.DataFrame, design: Design) -> pd.DataFrame:
    """Return the figures to show, in their order, with `said`: what reviewers said of each."""
    figures = figures.assign(said="")
    if design.sample is not None:
        drawn = draw(figures, design.sample, design.seed)
        figures = figures[_ids(figures).isin(_ids(drawn[drawn["drawn"]]))]
    if design.selection == "disagreements":
        figures = _disputed(folder, figures)
    return ordered(figures, design.order, design.seed).head(design.most or len(figures))


def _ids(table: pd.DataFrame) -> pd.MultiIndex:
    """Return what identifies figures: two slides of one content have figures of the same ids."""
    return pd.MultiIndex.from_frame(table[["slide", "figure_id"]])


def _disputed(folder: ResultFolder, figures: pd.DataFrame) -> pd.DataFrame:
    """Return the figures on which reviewers disagree, and how many gave each verdict."""
    table = disagreements(folder.folder)
    said = [
        ", ".join(f"{row[name]} {words}" for name, words in VERDICT_WORDS.items() if row[name])
        for row in table.to_dict("records")
    ]
    votes = dict(zip(_ids(table), said, strict=True))
    found = figures[_ids(figures).isin(list(votes))]
    return found.assign(said=[votes[figure] for figure in _ids(found)])


def _nothing_to_show(folder: ResultFolder, design: Design, errors: Mapping[str, str]) -> InputError:
    if errors:
        return InputError(
            f"no slide can be used: {next(iter(errors.values()))}",
            subject=folder.folder,
            stage=STAGE,
            remedy="Put the slides where `classify` found them, or run `classify` again",
        )
    cause = "the reviewers agree on all figures" if design.selection == "disagreements" else "no figures"
    remedy = "There is nothing to review" if design.selection == "disagreements" else "Name other slides"
    return InputError(cause, subject=folder.folder, stage=STAGE, remedy=remedy)


# The pages


@dataclass(frozen=True)
class _Pages:
    """Writes the pages of some figures.

    Attributes:
        folder: The output folder.
        assessed: The slides.
        figures: All figures of the slides.
        design: How those that are shown were chosen.
        reviewer: Name of the reviewer; None for a page that asks for it.
    """

    folder: ResultFolder
    assessed: Sequence[AssessedSlide]
    figures: pd.DataFrame
    design: Design
    reviewer: str | None

    def write(self, shown: pd.DataFrame) -> Iterator[Path]:
        """Write the pages of these figures, and remove pages of an earlier call that are not replaced."""
        number = math.ceil(len(shown) / MOST_FIGURES)
        names = [page_name(part) for part in range(1, number + 1)]
        for part, name in enumerate(names, start=1):
            rows = shown.iloc[(part - 1) * MOST_FIGURES : part * MOST_FIGURES]
            path = self.folder.folder / name
            write_review_page(path, self._page(rows, (part, number)))
            yield path
        pages = (path for path in self.folder.folder.glob("review-*.html") if PART.fullmatch(path.name))
        stale = [path for path in pages if path.name not in names]
        for path in stale:
            path.unlink()
        write_digests(self.folder.folder, [*names, *(path.name for path in stale)])

    def _page(self, rows: pd.DataFrame, part: tuple[int, int]) -> ReviewPage:
        slides = tuple(PageSlide.of(one.record) for one in self.assessed)
        names = ("slide", "figure_id", "x_px0", "y_px0")
        figures = [dict(zip(names, row, strict=True)) for row in rows[list(names)].to_numpy(object).tolist()]
        return ReviewPage(
            title=self.folder.folder.resolve().name,
            file=ReviewFile(
                program=f"wsi-mitosis {__version__}",
                run=run_digest(slides),
                reviewer=self.reviewer or PLACEHOLDER,
                design=self.design,
                part=part,
                slides=slides,
                figures=tuple(ReviewedFigure(**figure) for figure in figures),
            ),
            asks_name=self.reviewer is None,
            shown=self._shown(rows),
        )

    def _shown(self, rows: pd.DataFrame) -> list[Shown]:
        """Return what the page shows of each figure. Each slide is read once."""
        by_id = {
            shown_id: one
            for assessed in self.assessed
            for shown_id, one in self._of_slide(assessed, rows[rows["slide"] == assessed.record.name])
        }
        return [by_id[figure] for figure in zip(rows["slide"], rows["figure_id"], strict=True)]

    def _of_slide(
        self, assessed: AssessedSlide, rows: pd.DataFrame
    ) -> Iterator[tuple[tuple[str, str], Shown]]:
        if rows.empty:
            return
        record = assessed.record
        name, mpp = record.name, record.scale.mpp
        x, y = (rows[axis].to_numpy(np.float64) for axis in ("x_px0", "y_px0"))
        with open_classified(record.slide.path, record.slide.digest) as slide:
            close = squares(slide, mpp, x, y, CLOSE, CLOSE_CHARS)
            wide = squares(slide, mpp, x, y, WIDE, WIDE_CHARS)
        places = Coordinates.of(self.folder.drawn_frame(name), record.scale.bounds, mpp)
        marks = self._marks(assessed, rows)
        for number, row in enumerate(rows.to_dict("records")):
            yield (
                (name, row["figure_id"]),
                Shown(
                    close=close[number],
                    wide=wide[number],
                    marks=marks[number],
                    says=self._says(row),
                    place=f"{places.px(row['x_px0'], row['y_px0'])} px",
                ),
            )

    def _marks(self, assessed: AssessedSlide, rows: pd.DataFrame) -> list[list[Mark]]:
        """Return the other figures of the slide around each of these."""
        mpp = assessed.record.scale.mpp
        whole = self.figures[self.figures["slide"] == assessed.record.name].reset_index(drop=True)
        x, y = (whole[axis].to_numpy(np.float64) for axis in ("x_px0", "y_px0"))
        labels = [None] * len(whole) if self.design.blind else whole["label"].tolist()
        places = pd.Index(whole["figure_id"]).get_indexer(pd.Index(rows["figure_id"]))
        found = neighbours(x, y, places, mpp=mpp, side_um=WIDE.side_um)

        def mark(of: int, other: int) -> Mark:
            return Mark((x[other] - x[of]) * mpp.x, (y[other] - y[of]) * mpp.y, labels[other])

        return [
            [mark(of, other) for other in others.tolist()]
            for of, others in zip(places.tolist(), found, strict=True)
        ]

    def _says(self, row: Mapping[Hashable, Any]) -> tuple[tuple[str, str], ...]:
        """Return what the ensemble and earlier reviewers say of a figure; nothing in a blind page."""
        if self.design.blind:
            return ()
        machine = (
            f"{row['label']}, {row['votes_atypical']} of {several(row['votes_cast'], 'vote')} "
            f"for atypical, P(atypical) {row['p_atypical']:.2f}"
        )
        said = [("Reviewers", str(row["said"]))] if row["said"] else []
        return (("Ensemble", machine), *said)


def page_name(part: int) -> str:
    """Return the file name of a part, from 1."""
    return "review.html" if part == 1 else f"review-{part}.html"
