"""What the ensemble gave for a slide or for its parts, and the result that it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.figures import figures_table
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideRecord
from wsi_mitosis.core.summary import count
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.jobs.sharpness import sharpness_of, sharpness_warning
from wsi_mitosis.jobs.slide_result import SlideResult
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.core.records import Origin, SlideIdentity, SlideScale
    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.jobs.plan import ClassifyTask
    from wsi_mitosis.specs import ResultOptions
    from wsi_mitosis.tables import Detections


class Predictions(NamedTuple):
    """What the ensemble gave for M candidates of a slide.

    Attributes:
        rows: (M,) which of the slide's included candidates they are.
        probabilities: (M, members) P(atypical); NaN for a member that did not vote and for a blank patch.
        blank: (M,) which patches have no pixels.
        sharpness: (M,) how sharp they are; NaN for those that were not measured.
        seconds: Time by stage.
    """

    rows: NDArray[np.intp]
    probabilities: NDArray[np.float64]
    blank: NDArray[np.bool_]
    sharpness: NDArray[np.float64]
    seconds: dict[str, float]


@dataclass(frozen=True)
class PredictedSlide:
    """A slide, of which all candidates or a part of them are classified.

    Attributes:
        slide: Which slide it is.
        scale: Its coordinate system.
        states_mpp: Whether it states a usable pixel size itself.
        objective_power: The magnification of level 0 that it states; None if it states none.
        key: Digest of everything that its result depends on.
        warnings: What the user should know about the slide and its candidates.
        origin: How and when the predictions were made.
        predictions: The predictions.
        centre_offset_um: As for `prepare_candidates`.
    """

    slide: SlideIdentity
    scale: SlideScale
    states_mpp: bool
    objective_power: float | None
    key: str
    warnings: tuple[str, ...]
    origin: Origin
    predictions: Predictions
    centre_offset_um: tuple[float, float] | None = None


def candidates_of(
    detections: Detections,
    scale: SlideScale,
    options: ResultOptions,
    *,
    states_mpp: bool,
    objective_power: float | None,
    name: str,
    centre_offset_um: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Return a slide's candidates; see `prepare_candidates`."""
    return prepare_candidates(
        detections,
        size_px0=scale.size_px0,
        mpp=scale.mpp,
        mpp_stated=states_mpp,
        bounds=scale.bounds,
        objective_power=objective_power,
        classes=options.classes,
        min_score=options.min_score,
        merge_um=options.merge_um,
        name=name,
        centre_offset_um=centre_offset_um,
    )


def merged(parts: Sequence[PredictedSlide]) -> PredictedSlide:
    """Return the whole slide from all of its parts, in any order of them.

    Raises:
        UnreadableSlideError: if the slide was not the same for all of them.
    """
    if len({part.key for part in parts}) > 1:
        raise differing(parts[0].slide.name)
    last = max(parts, key=lambda part: part.origin.made)
    return replace(last, predictions=_joined([part.predictions for part in parts]))


def differing(name: str) -> UnreadableSlideError:
    """Return the error of a slide that was not the same for all of its parts."""
    return UnreadableSlideError(
        "its parts are not of the same slide: its files changed while they were read, or workers have "
        "different files, libraries or devices",
        subject=name,
        stage="merging parts",
        remedy="Run again when the slide is complete; check that all nodes of a cluster are alike",
    )


def _joined(parts: Sequence[Predictions]) -> Predictions:
    """Return all predictions in the order of the candidates."""
    rows, probabilities, blank, sharpness = (
        np.concatenate([part[field] for part in parts]) for field in range(4)
    )
    order = np.argsort(rows)
    seconds = {stage: sum(part.seconds[stage] for part in parts) for stage in parts[0].seconds}
    return Predictions(rows[order], probabilities[order], blank[order], sharpness[order], seconds)


def result_of_parts(
    task: ClassifyTask,
    parts: Sequence[PredictedSlide],
    bundle: Bundle,
    options: ResultOptions,
    started: float,
) -> SlideResult:
    """Make the result of a slide from its parts; it is that of the slide as a whole.

    Args:
        task: The slide.
        parts: All of its parts, in any order.
        bundle: The ensemble.
        options: What changes a result.
        started: As for `result_of`.

    Raises:
        UnreadableSlideError: if the slide was not the same for all parts, or has no pixels in any patch.
    """
    whole = merged(parts)
    candidates = candidates_of(
        task.detections,
        whole.scale,
        options,
        states_mpp=whole.states_mpp,
        objective_power=whole.objective_power,
        name=task.name,
        centre_offset_um=whole.centre_offset_um,
    )
    return result_of(whole, candidates, bundle, started)


def result_of(
    predicted: PredictedSlide, candidates: pd.DataFrame, bundle: Bundle, started: float
) -> SlideResult:
    """Make the result of a slide.

    Args:
        predicted: The whole slide.
        candidates: Its candidates, from `candidates_of`.
        bundle: The ensemble.
        started: When the slide was opened, as by `perf_counter`.

    Raises:
        UnreadableSlideError: if none of the patches has pixels.
    """
    manifest, predictions, name = bundle.manifest, predicted.predictions, predicted.slide.name
    if len(predictions.rows) and predictions.blank.all():
        raise _all_blank(name, len(predictions.rows))
    figures = figures_table(
        candidates,
        predictions.blank,
        predictions.probabilities,
        slide=name,
        identity=predicted.slide.digest,
        threshold=manifest.ensemble.threshold,
    )
    sharpness = sharpness_of(predictions.sharpness, manifest)
    record = SlideRecord(
        slide=predicted.slide,
        scale=predicted.scale,
        model=ModelIdentity(name=manifest.name, digest=bundle.digest, trained=manifest.trained),
        counts=count(figures),
        cost=Cost(seconds=perf_counter() - started, stages=predictions.seconds),
        key=predicted.key,
        program=__version__,
        warnings=(
            *predicted.warnings,
            *_blank_warning(name, figures),
            *sharpness_warning(name, manifest.name, sharpness),
        ),
        sharpness=sharpness,
        origin=predicted.origin,
    )
    return SlideResult(record, figures)


def _all_blank(name: str, number: int) -> UnreadableSlideError:
    return UnreadableSlideError(
        f"all {number} candidates lie where the slide has no pixels: they are transparent (alpha 0) or not "
        "stored (sparse)",
        subject=name,
        stage="reading patches",
        remedy="Export the slide again without its alpha channel, or with all its pixels; or check that the "
        "detections are of this slide",
    )


def _blank_warning(name: str, figures: pd.DataFrame) -> tuple[str, ...]:
    """Return a warning about candidates that lie where the slide has no pixels."""
    if not (number := int((figures["excluded_reason"] == "blank").sum())):
        return ()
    have = "1 candidate has" if number == 1 else f"{number} candidates have"
    return (f"{name}: {have} no label, because the slide has no pixels there (reason blank)",)
