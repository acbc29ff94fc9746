"""Classify the candidates of one slide: the library's front door. It knows no Ray."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from wsi_mitosis.core.candidates import conversion_notes, doubtful_notes, prepare_candidates
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.summary import Counts, count
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import DetectionsError, UnreadableSlideError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, Bundle, find_bundle, open_bundle
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.patches import WARN_ENLARGING, ReadingTimes, plan_patches, stream_patches
from wsi_mitosis.specs import ResultOptions
from wsi_mitosis.tables import CANDIDATE_COLUMNS, FIGURE_COLUMNS, Detections, SlideSource, input_name
from wsi_mitosis.version import RESULT_VERSION, __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.io.slides.patches import Batch, PatchPlan
    from wsi_mitosis.nets.members import Ensemble
    from wsi_mitosis.units import Bounds, Mpp

CPU_BATCH = 32
GPU_BATCH = 256
"""Patches per batch: on a CPU what its caches hold, on a GPU what keeps it busy at a few GB."""


@dataclass(frozen=True)
class SlideResult:
    """One slide, classified.

    Attributes:
        slide: The slide's name.
        path: The file that was read.
        figures: A row per candidate in input order: FIGURE_COLUMNS without `geometry`, then the input's
            other columns. Coordinates are level-0 px in the slide frame.
        counts: What was counted.
        size_px0: (width, height) of level 0, px.
        mpp: um per level-0 px.
        mpp_source: Who says so: `slide`, `given` or `list`.
        bounds: The slide's bounds, level-0 px, slide frame; None where it reports none.
        identity: Digest of the slide's content.
        key: Digest of everything that this result depends on.
        bundle: Name of the ensemble.
        bundle_digest: Its digest.
        trained: Whether its labels mean anything.
        warnings: What the user should know about this result.
        seconds: Time by stage: `opening`, `candidates`, `loading` the model, `waiting` for patches, `model`,
            `total`; `reading` is summed over the reading threads, beside the others.
    """

    slide: str
    path: Path
    figures: pd.DataFrame
    counts: Counts
    size_px0: tuple[int, int]
    mpp: Mpp
    mpp_source: str
    bounds: Bounds | None
    identity: str
    key: str
    bundle: str
    bundle_digest: str
    trained: bool
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    program: str = __version__


def classify_slide(
    slide: str | os.PathLike[str],
    candidates: pd.DataFrame | Detections | str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] = DEFAULT_BUNDLE,
    device: str = "auto",
    **options: Any,
) -> SlideResult:
    """Classify the candidates of one slide, in this process.

    Args:
        slide: Path of a whole-slide image.
        candidates: A detections file, what `read_detections` gives, or a table with `x` and `y` in level-0 px
            of the slide frame and perhaps `score` and `id`.
        bundle: A bundle's folder or the name of a shipped one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        options: Fields of `ResultOptions`: `mpp`, `classes`, `min_score`, `merge_um`, `vote`, `tta`.

    Returns:
        The result; nothing is written.

    Raises:
        InputError: where an option, the candidates or the bundle cannot be used.
        SlideError: where the slide cannot be read or its pixel size not be used.
    """
    source = SlideSource(Path(slide).absolute(), Path(slide).name)
    classifier = Classifier(
        open_bundle(find_bundle(bundle)), ResultOptions.parse(options, "classify_slide"), device=device
    )
    result = classifier.classify(source, source.relative, _detections_of(source, candidates))
    assert result is not None  # noqa: S101 - only a known key gives None
    return result


class Classifier:
    """An ensemble with its options, ready for one slide after the other.

    The networks are built when the first patch needs them.

    Args:
        bundle: A checked bundle.
        options: What changes a result.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: Patches per batch; by device where None.
        threads: CPU threads for reading and for the model; all granted ones where None.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: ResultOptions,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        from wsi_mitosis.nets.members import resolve_device

        self.bundle, self.options = bundle, options
        self.threads = threads or len(os.sched_getaffinity(0))
        self.device = resolve_device(device)
        self.batch_size = batch_size or (GPU_BATCH if self.device.startswith("cuda") else CPU_BATCH)
        self._ensemble: Ensemble | None = None

    def classify(
        self,
        source: SlideSource,
        name: str,
        detections: Detections,
        *,
        known_key: str | None = None,
        on_patches: Callable[[int], None] | None = None,
    ) -> SlideResult | None:
        """Classify one slide's candidates.

        Args:
            source: The slide.
            name: What the slide is called in the result.
            detections: Its candidates.
            known_key: The key of a result that exists already.
            on_patches: Told how many more patches were classified.

        Returns:
            The result, or None where the one that exists is of the same key.

        Raises:
            InputError: where the candidates cannot be used.
            SlideError: where the slide cannot be read or its pixel size not be used.
        """
        started = perf_counter()
        with open_slide(source.path, given_mpp=self.options.mpp, list_mpp=source.mpp) as slide:
            opened = perf_counter()
            candidates = self._candidates(name, slide, detections)
            key = self._key(slide, candidates)
            if key == known_key:
                return None
            spec = self.bundle.manifest.input
            plan = plan_patches(
                name,
                slide.levels,
                slide.mpp,
                spec,
                read_px(spec.patch_px, self.bundle.manifest.ensemble.zooms),
            )
            prepared = perf_counter()
            figures, seconds = self._figures(slide, plan, candidates, on_patches)
        figures.insert(0, "slide", name)
        return SlideResult(
            slide=name,
            path=source.path,
            figures=figures,
            counts=count(figures),
            size_px0=slide.size_px0,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            bounds=slide.bounds,
            identity=slide.identity,
            key=key,
            bundle=self.bundle.manifest.name,
            bundle_digest=self.bundle.digest,
            trained=self.bundle.manifest.trained,
            warnings=(
                *slide.warnings,
                *_conversion_notes(name, slide, detections),
                *doubtful_notes(
                    detections,
                    candidates,
                    name=name,
                    size_px0=slide.size_px0,
                    classes=self.options.classes,
                ),
                *enlarging_warning(name, plan),
                *_blank_warning(name, figures),
            ),
            seconds={
                "opening": opened - started,
                "candidates": prepared - opened,
                **seconds,
                "total": perf_counter() - started,
            },
        )

    def _candidates(self, name: str, slide: Slide, detections: Detections) -> pd.DataFrame:
        return prepare_candidates(
            detections,
            size_px0=slide.size_px0,
            mpp=slide.mpp,
            mpp_stated=slide.stated_mpp is not None,
            bounds=slide.bounds,
            classes=self.options.classes,
            min_score=self.options.min_score,
            merge_um=self.options.merge_um,
            name=name,
        )

    def _key(self, slide: Slide, candidates: pd.DataFrame) -> str:
        """Digest of all that the result depends on: whatever changes one must stand here."""
        parts = {
            "slide": slide.identity,
            "mpp": [*slide.mpp, slide.mpp_source],
            "reader": slide.backend.name,
            "candidates": _table_digest(candidates),
            "bundle": self.bundle.digest,
            "vote": self.options.vote,
            "tta": self.options.tta or self.bundle.manifest.ensemble.tta,
            "device": self.device.partition(":")[0],
            "precision": "float32",
            "algorithm": RESULT_VERSION,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _figures(
        self,
        slide: Slide,
        plan: PatchPlan,
        candidates: pd.DataFrame,
        on_patches: Callable[[int], None] | None,
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """The candidates with their votes, and seconds by stage."""
        asked = candidates["excluded_reason"].isna().to_numpy()
        xy = candidates.loc[asked, ["x_px0", "y_px0"]].to_numpy(np.float64)
        probabilities = np.full((len(xy), len(self.bundle.manifest.member)), np.nan)
        blank = np.zeros(len(xy), np.bool_)
        times, loading, model = ReadingTimes(), 0.0, 0.0
        if len(xy):
            started = perf_counter()
            ensemble = self._ready()
            loading = perf_counter() - started
            patches = stream_patches(
                slide, plan, xy[:, 0], xy[:, 1], batch_size=self.batch_size, threads=self.threads, times=times
            )
            for batch in map(_RowsWithPixels.of, patches):
                blank[batch.blank] = True
                if not len(batch.rows):
                    continue
                started = perf_counter()
                probabilities[batch.rows] = ensemble.predict(batch.pixels)
                model += perf_counter() - started
                if on_patches is not None:
                    on_patches(len(batch.rows))
            if blank.all():
                raise _all_blank(slide.path.name, len(xy))
        candidates, asked = _without(candidates, asked, blank)
        figures = _voted(candidates, asked, probabilities[~blank], self.bundle.manifest.ensemble.threshold)
        figures.insert(1, "figure_id", _ids(slide.identity, figures, asked))
        seconds = {"loading": loading, "waiting": times.waiting, "model": model, "reading": times.reading}
        return figures, seconds

    def _ready(self) -> Ensemble:
        if self._ensemble is None:
            from wsi_mitosis.nets.members import Ensemble

            self._ensemble = Ensemble(
                self.bundle.manifest,
                self.bundle.read_members(),
                device=self.device,
                tta=self.options.tta,
                vote=self.options.vote,
                threads=self.threads,
            )
        return self._ensemble


def _detections_of(
    source: SlideSource, candidates: pd.DataFrame | Detections | str | os.PathLike[str]
) -> Detections:
    if isinstance(candidates, pd.DataFrame):
        return _detections_of_table(candidates)
    if not isinstance(candidates, Detections):
        candidates = read_detections(Path(candidates))
    return split_by_slide(candidates, [source]).parts[source]


def _detections_of_table(table: pd.DataFrame) -> Detections:
    """A caller's own table: level-0 px, slide frame, every row this slide's."""
    if missing := {"x", "y"} - set(table.columns):
        raise DetectionsError(
            f"the table has no column {' and '.join(map(repr, sorted(missing)))}",
            stage="reading candidates",
            remedy="It needs x and y in level-0 px of the slide frame",
        )
    others = {name: input_name(name) for name in table.columns if name not in CANDIDATE_COLUMNS}
    whole = table.reindex(columns=[*CANDIDATE_COLUMNS, *others]).rename(columns=others).reset_index(drop=True)
    whole["id"] = whole["id"].map(str, na_action="ignore")
    return Detections(whole, "px", "slide", "any", "table")


class _RowsWithPixels(NamedTuple):
    """The patches of a batch that are classified, and the rows of its blank ones."""

    rows: NDArray[np.intp]
    pixels: NDArray[np.uint8]
    blank: NDArray[np.intp]

    @classmethod
    def of(cls, batch: Batch) -> _RowsWithPixels:
        """Part a batch; one without blank patches is not copied."""
        if not batch.blank.any():
            return cls(batch.rows, batch.pixels, batch.rows[:0])
        return cls(batch.rows[~batch.blank], batch.pixels[~batch.blank], batch.rows[batch.blank])


def _without(
    candidates: pd.DataFrame, asked: NDArray[np.bool_], blank: NDArray[np.bool_]
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Exclude the candidates that lie where the slide has no pixels.

    Args:
        candidates: N candidates.
        asked: (N,) bool, which are not excluded so far.
        blank: Of these, which have no pixels.

    Returns:
        The candidates with their reasons, and which are not excluded now.
    """
    if not blank.any():
        return candidates, asked
    rows = np.flatnonzero(asked)[blank]
    reasons = candidates["excluded_reason"].copy()
    reasons.iloc[rows] = "blank"
    left = asked.copy()
    left[rows] = False
    return candidates.assign(excluded_reason=reasons), left


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
    """What to say of candidates that lie where the slide has no pixels."""
    if not (number := int((figures["excluded_reason"] == "blank").sum())):
        return ()
    have = "1 candidate has" if number == 1 else f"{number} candidates have"
    return (f"{name}: {have} no label, because the slide has no pixels there (reason blank)",)


def _voted(
    candidates: pd.DataFrame,
    asked: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any],
    threshold: float,
) -> pd.DataFrame:
    """The candidates' table with the columns of the vote between ours and the input's."""
    votes = tally(probabilities, threshold)
    rows = candidates.index[asked]
    voted = pd.DataFrame(
        {
            "p_atypical": pd.Series(votes.p_atypical, rows, dtype="float64"),
            "votes_atypical": pd.Series(votes.votes_atypical, rows, dtype="Int16"),
            "votes_cast": pd.Series(votes.votes_cast, rows, dtype="Int16"),
            "label": pd.Series(np.where(votes.is_atypical, "atypical", "typical"), rows, dtype="str"),
        },
        index=candidates.index,
    )
    figures = pd.concat([candidates, voted], axis=1)
    ours = [name for name in FIGURE_COLUMNS if name in figures.columns]
    return figures[[*ours, *(name for name in figures.columns if name not in FIGURE_COLUMNS)]]


def _ids(identity: str, figures: pd.DataFrame, asked: np.ndarray[Any, Any]) -> pd.Series[Any]:
    drawn = figures.loc[asked]
    ids = figure_ids(identity, drawn["x_px0"].to_numpy(), drawn["y_px0"].to_numpy())
    return pd.Series(ids, drawn.index, dtype="str").reindex(figures.index)


def _conversion_notes(name: str, slide: Slide, detections: Detections) -> tuple[str, ...]:
    return conversion_notes(
        detections,
        name=name,
        size_px0=slide.size_px0,
        mpp=slide.mpp,
        stated_mpp=slide.stated_mpp,
        bounds=slide.bounds,
    )


def _table_digest(table: pd.DataFrame) -> str:
    """Digest of a table's column names and content, in row order."""
    plain = table.apply(lambda column: column if column.dtype.kind in "fiub" else column.astype(str))
    rows = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return hashlib.sha256("\n".join(table.columns).encode() + rows.tobytes()).hexdigest()


def enlarging_warning(name: str, plan: PatchPlan) -> tuple[str, ...]:
    """What to say of a slide that is coarser than the model wants; nothing of a little."""
    if plan.enlarging <= WARN_ENLARGING:
        return ()
    return (
        f"{name}: its pixels are enlarged {plan.enlarging:.2f} times to the model's scale; "
        "details that the scanner did not record are missing",
    )


def checked_bundle(model: str | None) -> Bundle:
    """The bundle that a run asks for, its files checked.

    Raises:
        BundleError: where it is missing, malformed or altered.
    """
    return open_bundle(find_bundle(model or DEFAULT_BUNDLE))
