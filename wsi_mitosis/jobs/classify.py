"""Classify the candidates of one slide from Python."""

from __future__ import annotations

from contextlib import nullcontext
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.errors import DetectionsError, InputError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.remote import is_url
from wsi_mitosis.io.slides import find_slides
from wsi_mitosis.io.slides.staging import staged as staged_copy
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.specs import ResultOptions
from wsi_mitosis.tables import CANDIDATE_COLUMNS, Detections, SlideSource, input_name

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.tables import BackendChoice, Precision, Tta, Vote


def classify_slide(
    slide: str | os.PathLike[str],
    candidates: pd.DataFrame | Detections | str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
    mpp: float | None = None,
    classes: Sequence[str] = (),
    min_score: float | None = None,
    merge_um: float | None = None,
    vote: Vote = "all",
    tta: Tta | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    backend: BackendChoice = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    stage: str | os.PathLike[str] | None = None,
) -> SlideResult:
    """Classify the candidates of one slide, in this process. Nothing is written.

    Args:
        slide: Path of a whole-slide image; with `stage` also a URL.
        candidates: A detections file, the result of `read_detections`, or a table with `x` and `y` in level-0
            px of the slide frame, and optionally `score` and `id`.
        bundle: A bundle's folder or the name of a shipped one.
        mpp: Pixel size, um/px, of a slide that states none or an absurd one.
        classes: Which of a file's classes are candidates, or the only one; the format's default if empty.
        min_score: Candidates with a lower score are excluded.
        merge_um: Candidates nearer than this, um, are one.
        vote: `all`, or `early` to stop when the majority is certain: the labels are the same.
        tta: Views of each patch: `none`, `flips` or `d4`; the bundle's if None.
        precision: Precision of the networks: `fp32`, `fp16` on a GPU, or `bf16` on a CPU that has it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        backend: What computes the ensemble: `torch`, or `openvino` on a CPU; `auto` is `openvino` there.
        batch_size: Patches per batch; chosen by device if None.
        threads: CPU threads for reading and for the model; all that are granted if None.
        stage: Folder on a local disk that the slide is copied to, and removed from; it is not copied if None.

    Raises:
        InputError: if an option, the candidates or the bundle cannot be used.
        SlideError: if the slide cannot be read or its pixel size cannot be used.
    """
    source = _source_of(slide, staged=stage is not None)
    options = ResultOptions.parse(
        {
            "mpp": mpp,
            "classes": (classes,) if isinstance(classes, str) else tuple(classes),
            "min_score": min_score,
            "merge_um": merge_um,
        }
        | {"vote": vote, "tta": tta, "precision": precision},
        "classify_slide",
    )
    _check_positive(batch_size=batch_size, threads=threads)
    classifier = Classifier(
        open_bundle(find_bundle(bundle)),
        options,
        device=device,
        backend=backend,
        batch_size=batch_size,
        threads=threads,
    )
    detections = _detections_of(source, candidates)
    with nullcontext(source) if stage is None else staged_copy(source, Path(stage)) as local:
        result = classifier.classify(local, source.relative, detections)
    assert result is not None  # noqa: S101 - only a known key gives None
    return result


def _source_of(slide: str | os.PathLike[str], *, staged: bool) -> SlideSource:
    if not is_url(str(slide)):
        return SlideSource(Path(slide).absolute(), Path(slide).name)
    found = find_slides([str(slide)], staged=staged)
    if found.faults:
        raise InputError(next(iter(found.faults.values())))
    return found.sources[0]


def _check_positive(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and not (isinstance(value, Integral) and value >= 1):
            raise InputError(
                f"{name} is {value!r}", subject="classify_slide", remedy="Give a whole number from 1"
            )


def _detections_of(
    source: SlideSource, candidates: pd.DataFrame | Detections | str | os.PathLike[str]
) -> Detections:
    if isinstance(candidates, pd.DataFrame):
        return _detections_of_table(candidates)
    if not isinstance(candidates, Detections):
        candidates = read_detections(Path(candidates))
    return split_by_slide(candidates, [source]).parts[source]


def _detections_of_table(table: pd.DataFrame) -> Detections:
    """Return a caller's own table as detections of the slide: level-0 px, slide frame."""
    if missing := {"x", "y"} - set(table.columns):
        raise DetectionsError(
            f"the table has no column {' and '.join(map(repr, sorted(missing)))}",
            stage="reading candidates",
            remedy="It needs x and y in level-0 px of the slide frame",
        )
    names = list(table.columns)
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise DetectionsError(
            "the names of the table's columns are not texts, or not different",
            stage="reading candidates",
            remedy="Rename them",
        )
    others = {name: input_name(name) for name in table.columns if name not in CANDIDATE_COLUMNS}
    whole = table.reindex(columns=[*CANDIDATE_COLUMNS, *others]).rename(columns=others).reset_index(drop=True)
    for name in ("x", "y", "score"):
        whole[name] = _numbers(whole[name])
    whole["id"] = whole["id"].map(str, na_action="ignore")
    return Detections(whole, "px", "slide", "any", "table")


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    try:
        return pd.to_numeric(column).astype("float64")
    except (TypeError, ValueError) as error:
        raise DetectionsError(
            f"column {column.name!r} has a value that is not a number: {error}",
            stage="reading candidates",
            remedy="It needs numbers",
        ) from error
