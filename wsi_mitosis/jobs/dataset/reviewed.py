"""The figures of reviewed slides as labelled samples, where `classify` has read them.

No reviewer's name, note or time goes into a sample: only how many reviewers said what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.core.blinding import BLIND, NOT_BLIND
from wsi_mitosis.core.review_files import PageSlide, run_digest
from wsi_mitosis.errors import DatasetError, SlideError, UnreadableSlideError, listed, several
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.pages.pictures import open_classified
from wsi_mitosis.io.results.folder import ResultFiles, check_results
from wsi_mitosis.io.results.recounts import FOLDER, read_consensus, read_recount, read_verdicts
from wsi_mitosis.io.training.labels.common import listing
from wsi_mitosis.specs import ReviewsSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd

    from wsi_mitosis.core.records import SlideRecord
    from wsi_mitosis.io.results.recounts import Recounted
    from wsi_mitosis.io.training.labels import Listing
    from wsi_mitosis.specs import DatasetSpec

STAGE = "reading reviews"
LABELS = {"typical": 0, "atypical": 1}
LEFT_OUT = {
    "none": "no mitotic figure by the majority",
    "tie": "without a majority",
    "unsure": "of which no reviewer could tell",
}
"""Why a figure is no sample, by its consensus."""


@dataclass(frozen=True)
class _Reviewed:
    """A reviewed slide whose pixels can be cut.

    Attributes:
        record: Its record.
        domain: Domain of its figures.
    """

    record: SlideRecord
    domain: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.record.slide.path)


def reviewed_listing(spec: DatasetSpec) -> Listing:
    """List the figures that reviewers agree to be atypical or typical, and the slides that they are on.

    Args:
        spec: A build of reviews, whose path is a folder of results.

    Raises:
        InputError: if the folder has no results or no recount, if nothing was decided, or if a slide is gone,
            was changed, states no scanner while no domain is given, or was recounted before its last result.
    """
    results = Path(spec.path).absolute()
    check_results(results, STAGE)
    consensus, verdicts = read_consensus(results), read_verdicts(results)
    decided = consensus[consensus["consensus"].isin(list(LABELS))].reset_index(drop=True)
    if decided.empty:
        raise DatasetError(
            "no figure has a majority for atypical or typical",
            subject=results / FOLDER,
            stage=STAGE,
            remedy="Review figures, and run `wsi-mitosis recount` with the reviews",
        )
    folder = ResultFiles(results)
    records = folder.records()
    slides = _slides(folder, records, sorted(decided["slide"].unique()), spec.domain)
    blind = decided["blind"].tolist()
    left_out = {name: int((consensus["consensus"] == name).sum()) for name in LEFT_OUT}
    columns = {
        "source_id": decided["figure_id"].tolist(),
        "slide": decided["slide"].tolist(),
        "domain": [slides[name].domain for name in decided["slide"]],
        "label": [LABELS[name] for name in decided["consensus"]],
        "label_source": [BLIND if one else NOT_BLIND for one in blind],
        "experts_atypical": decided["atypical"].tolist(),
        "experts_asked": (decided["atypical"] + decided["typical"]).tolist(),
        "x_px0": decided["x_px0"].tolist(),
        "y_px0": decided["y_px0"].tolist(),
    }
    files = [slides[name].path for name in decided["slide"]]
    found = listing(columns, files, on_slides=True, notes=tuple(_notes(decided, left_out)))
    return replace(
        found,
        identities={one.path: one.record.slide.digest for one in slides.values()},
        mpp={one.path: one.record.scale.mpp.mean for one in slides.values()},
        reviews=ReviewsSpec(
            run=run_digest(map(PageSlide.of, records.values())),
            consensus_sha256=file_sha256(results / FOLDER / "consensus.csv"),
            reviewers=verdicts["reviewer"].nunique(),
            slides=len(slides),
            blind=sum(blind),
            **left_out,
        ),
    )


def _slides(
    folder: ResultFiles, records: Mapping[str, SlideRecord], names: Iterable[str], domain: str | None
) -> dict[str, _Reviewed]:
    """Check all slides before the first is refused, so that the message has all of them.

    Raises:
        DatasetError: if one cannot be used.
    """
    recounted = read_recount(folder.folder)
    slides, faults = {}, []
    for name in names:
        try:
            record = _current(folder, records.get(name), recounted.get(name), name)
            slides[name] = _Reviewed(record, _domain(record, domain))
        except SlideError as error:
            faults.append(str(error))
    if faults:
        raise DatasetError(
            f"{several(len(faults), 'reviewed slide')} cannot be used: {listed(faults)}",
            subject=folder.folder,
            stage=STAGE,
            remedy="Do as each message says, or recount without the reviews of these slides",
        )
    return slides


def _current(
    folder: ResultFiles, record: SlideRecord | None, recounted: Recounted | None, name: str
) -> SlideRecord:
    """Return the record of a slide whose recount is of its last result."""
    if record is None:
        raise SlideError(
            "it has no result, so that it is not known which slide was reviewed",
            subject=name,
            stage=STAGE,
            remedy="Run `classify` with its candidates, and `recount`",
        )
    assessed = folder.assessed(record)
    if assessed is None or recounted is None or assessed.key != recounted.assessment_key:
        raise SlideError(
            "its recount is of another result than the one that is there now",
            subject=name,
            stage=STAGE,
            remedy="Run `recount` again",
        )
    if record.scale.mpp.anisotropic:
        x, y = record.scale.mpp
        raise SlideError(
            f"its pixels are not square ({x:g} x {y:g} um), so that they cannot be stored as they are",
            subject=name,
            stage=STAGE,
            remedy="Leave the slide out",
        )
    return record


def _domain(record: SlideRecord, given: str | None) -> str:
    """Return the domain of a slide, which is opened to check that it is the one that was classified."""
    try:
        with open_classified(record.slide.path, record.slide.digest) as slide:
            domain = given or slide.scanner
    except UnreadableSlideError as error:
        remedy = f"{error.remedy}. Put the slide back, or classify it where it is now and recount"
        raise SlideError(error.cause, subject=record.name, stage=STAGE, remedy=remedy) from error
    if domain is None:
        raise SlideError(
            "it states no scanner, which would be the domain of its figures",
            subject=record.name,
            stage=STAGE,
            remedy="Name a domain with --domain",
        )
    return domain


def _notes(decided: pd.DataFrame, left_out: Mapping[str, int]) -> Iterator[str]:
    if number := sum(left_out.values()):
        reasons = ", ".join(f"{left_out[name]} {why}" for name, why in LEFT_OUT.items() if left_out[name])
        yield f"{several(number, 'reviewed figure')} left out: {reasons}"
    if seen := int((~decided["blind"]).sum()):
        yield (
            f"{seen} of {len(decided)} labels are not blind: reviewers saw the machine's label before they "
            f"decided. Their `label_source` is '{NOT_BLIND}', that of the others '{BLIND}'"
        )
