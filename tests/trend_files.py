"""Folders of results over many nights, written by the program's own writers without a model or a slide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from tests.records import slide_record
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.records import Origin, SlideIdentity
from wsi_mitosis.core.sharpness import SlideSharpness
from wsi_mitosis.core.summary import count
from wsi_mitosis.io.results.figures import write_figures

FIRST_NIGHT = datetime(2026, 1, 1, 22, tzinfo=UTC)
MEMBERS = 5


@dataclass(frozen=True)
class Night:
    """A slide to write: when it was classified, and what was found."""

    name: str
    made: datetime | None
    figures: int = 40
    atypical: int = 8
    excluded: int = 4
    disagreeing: int = 10
    scanner: str | None = "Aperio SS1"
    folder: str = "/slides/one"
    digest: str = "d" * 64
    sharpness: float | None = 1.0


def figures_of(slide: Night, seed: int = 0) -> pd.DataFrame:
    """Figures, of which the first are atypical, then excluded candidates."""
    generator = np.random.default_rng(seed)
    row = np.arange(slide.figures + slide.excluded)
    x = generator.uniform(0, 1000, len(row)).round(2)
    is_figure, is_atypical = row < slide.figures, row < slide.atypical
    against = (is_figure & (row >= slide.figures - slide.disagreeing)).astype(int)
    votes = np.where(is_atypical, MEMBERS - against, against)
    probability = np.clip(votes / MEMBERS + generator.normal(0, 0.02, len(row)), 0, 1)
    ids = pd.Series(figure_ids(slide.name, x, x), dtype=object)
    return pd.DataFrame(
        {
            "slide": slide.name,
            "candidate_id": [f"c{n}" for n in row],
            "figure_id": ids.where(is_figure, None),
            "x_px0": x,
            "y_px0": x,
            "detector_score": 0.9,
            "p_atypical": np.where(is_figure, probability, np.nan),
            "votes_atypical": pd.Series(votes, dtype="Int16").where(is_figure),
            "votes_cast": pd.Series(MEMBERS, row, dtype="Int16").where(is_figure),
            "label": np.where(is_figure, np.where(is_atypical, "atypical", "typical"), None),
            "excluded_reason": np.where(is_figure, None, "score"),
        }
    )


def write_nights(folder: Path, slides: Iterable[Night]) -> Path:
    """Write a figures table for each slide, which is all that control charts read."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for number, slide in enumerate(slides):
        figures = figures_of(slide, number)
        record = slide_record(
            slide.name, bundle_digest=slide.digest, counts=count(figures), key=f"{number:064}"
        )
        place = SlideIdentity(
            name=slide.name,
            path=f"{slide.folder}/{slide.name}",
            digest=f"{slide.name}{number}",
            scanner=slide.scanner,
        )
        made = None if slide.made is None else slide.made.isoformat(timespec="seconds")
        origin = None if made is None else Origin(made=made, host="x86_64", device="cpu", options={})
        sharp = SlideSharpness(value=slide.sharpness, lowest=0.5)
        record = record.model_copy(update={"slide": place, "origin": origin, "sharpness": sharp})
        write_figures(folder / "figures" / f"{slide.name}.parquet", record, figures)
    return folder


def made_at(slide: int, per_night: int = 1) -> datetime:
    """Return when a slide is classified, if so many are in a night."""
    return FIRST_NIGHT + timedelta(days=slide // per_night, minutes=20 * (slide % per_night))


def laboratory(
    slides: int,
    *,
    per_night: int = 1,
    shift_at: int | None = None,
    seed: int = 0,
    scanners: Sequence[str | None] = ("Aperio SS1",),
    prefix: str = "s",
) -> list[Night]:
    """Slides as tumours vary: skewed counts, and atypical fractions around 20 % that differ.

    Args:
        slides: How many.
        per_night: How many of them in a night.
        shift_at: The slide from which on the atypical fraction is twice as high.
        seed: Of the random numbers.
        scanners: Each slide is of one of them, in turn.
        prefix: Start of their names.
    """
    generator = np.random.default_rng(seed)
    found = []
    for index in range(slides):
        figures = 20 + int(generator.negative_binomial(2, 2 / (2 + 60)))
        share = generator.beta(40, 160) * (2 if shift_at is not None and index >= shift_at else 1)
        found.append(
            Night(
                f"{prefix}{index:04}.svs",
                made_at(index, per_night),
                figures=figures,
                atypical=int(generator.binomial(figures, min(share, 1.0))),
                excluded=int(generator.binomial(figures, 0.1)),
                disagreeing=int(generator.binomial(figures, 0.3)),
                scanner=scanners[index % len(scanners)],
                sharpness=float(generator.normal(1.0, 0.15)),
            )
        )
    return found
