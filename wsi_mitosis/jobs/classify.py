"""Classify the candidates of one slide: the library's front door. It knows no Ray."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from wsi_mitosis.core.assessments import Assessment, AssessmentOptions, assess
from wsi_mitosis.core.candidates import conversion_notes, doubtful_notes, prepare_candidates
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.core.qupath import figure_ids
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideIdentity, SlideRecord, SlideScale
from wsi_mitosis.core.summary import count
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import DetectionsError, UnreadableSlideError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, Bundle, find_bundle, open_bundle
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.results.geojson import write_slide_geojson
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.patches import WARN_ENLARGING, ReadingTimes, plan_patches, stream_patches
from wsi_mitosis.specs import ResultOptions
from wsi_mitosis.tables import CANDIDATE_COLUMNS, FIGURE_COLUMNS, Detections, SlideSource, input_name
from wsi_mitosis.version import RESULT_VERSION, __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import geopandas
    from numpy.typing import NDArray

    from wsi_mitosis.core.qupath import ObjectType
    from wsi_mitosis.core.regions import Region
    from wsi_mitosis.core.summary import Counts
    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.io.slides.patches import Batch, PatchPlan
    from wsi_mitosis.nets.members import Ensemble
    from wsi_mitosis.tables import Tta, Vote
    from wsi_mitosis.units import Frame

CPU_BATCH = 32
GPU_BATCH = 256
"""Patches per batch: on a CPU what its caches hold, on a GPU what keeps it busy at a few GB."""


@dataclass(frozen=True, repr=False)
class SlideResult:
    """One slide, classified.

    Attributes:
        record: Identity, scale, model, counts and cost of the result.
        table: A row per candidate in input order: FIGURE_COLUMNS without `geometry`, then the input's other
            columns. Coordinates are level-0 px in the slide frame.
    """

    record: SlideRecord
    table: pd.DataFrame

    @property
    def counts(self) -> Counts:
        """What was counted."""
        return self.record.counts

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about this result."""
        return self.record.warnings

    @cached_property
    def figures(self) -> geopandas.GeoDataFrame:
        """The table with a point per candidate: level-0 px, slide frame, no CRS; None without coordinates."""
        import geopandas

        x, y = self.table["x_px0"], self.table["y_px0"]
        points = geopandas.GeoSeries.from_xy(x, y).where(x.notna() & y.notna())
        table = self.table.copy()
        table.insert(FIGURE_COLUMNS.index("geometry"), "geometry", points)
        return geopandas.GeoDataFrame(table, geometry="geometry")

    @cached_property
    def assessment(self) -> Assessment:
        """Hotspot of 2 mm^2 and review list; `assess` looks for other hotspots, or inside regions."""
        return self.assess()

    def assess(
        self,
        *,
        hotspot_area_mm2: float = 2.0,
        hotspot_aspect: tuple[float, float] = (4, 3),
        hotspots: int = 1,
        regions: Sequence[Region] | None = None,
    ) -> Assessment:
        """Look for hotspots and list the figures to review first.

        Args:
            hotspot_area_mm2: Area of a hotspot, mm^2; 0 for no hotspots.
            hotspot_aspect: Proportion of its sides; the window turned by 90 degrees is tried as well.
            hotspots: How many hotspots at most.
            regions: Level-0 px, slide frame; hotspots then count only the figures inside.
        """
        options = AssessmentOptions(
            hotspot_area_mm2=hotspot_area_mm2, hotspot_aspect=hotspot_aspect, hotspots=hotspots
        )
        return assess(self.table, self.record.scale, options, regions)

    def to_geojson(
        self,
        path: str | os.PathLike[str],
        *,
        objects: ObjectType = "detection",
        frame: Frame = "qupath",
        assessment: Assessment | None = None,
    ) -> Path:
        """Write the figures and hotspots as GeoJSON that QuPath loads.

        Args:
            path: The file, ending in `.geojson`; `.gz` is added to it above 20,000 figures.
            objects: What figures are in QuPath: `detection` is fast, `annotation` can be edited.
            frame: Frame of the coordinates: `qupath` starts at the corner of the slide's bounds.
            assessment: Whose hotspots are drawn; `self.assessment` if it is None.

        Returns:
            The file written.
        """
        stem = Path(path).with_name(Path(path).name.removesuffix(".gz").removesuffix(".geojson"))
        assessment = self.assessment if assessment is None else assessment
        return write_slide_geojson(stem, self.table, assessment, self.record, objects=objects, frame=frame)

    def __repr__(self) -> str:
        model = self.record.model
        untrained = "" if model.trained else ", UNTRAINED"
        return f"<SlideResult {self.record.name}: {self.record.text}; bundle {model.name}{untrained}>"


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
    device: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
) -> SlideResult:
    """Classify the candidates of one slide, in this process. Nothing is written.

    Args:
        slide: Path of a whole-slide image.
        candidates: A detections file, the result of `read_detections`, or a table with `x` and `y` in level-0
            px of the slide frame, and optionally `score` and `id`.
        bundle: A bundle's folder or the name of a shipped one.
        mpp: Pixel size, um/px, of a slide that states none or an absurd one.
        classes: Which of a file's classes are candidates; the format's default if empty.
        min_score: Candidates with a lower score are excluded.
        merge_um: Candidates nearer than this, um, are one.
        vote: `all`, or `early` to stop when the majority is certain: the labels are the same.
        tta: Views of each patch: `none`, `flips` or `d4`; the bundle's if None.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: Patches per batch; chosen by device if None.
        threads: CPU threads for reading and for the model; all that are granted if None.

    Raises:
        InputError: if an option, the candidates or the bundle cannot be used.
        SlideError: if the slide cannot be read or its pixel size cannot be used.
    """
    source = SlideSource(Path(slide).absolute(), Path(slide).name)
    options = ResultOptions.parse(
        {"mpp": mpp, "classes": tuple(classes), "min_score": min_score, "merge_um": merge_um}
        | {"vote": vote, "tta": tta},
        "classify_slide",
    )
    classifier = Classifier(
        open_bundle(find_bundle(bundle)), options, device=device, batch_size=batch_size, threads=threads
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
            plan = self._plan(name, slide)
            prepared = perf_counter()
            figures, seconds = self._figures(slide, plan, candidates, on_patches)
        figures.insert(0, "slide", name)
        stages = {"opening": opened - started, "candidates": prepared - opened, **seconds}
        warnings = (
            *slide.warnings,
            *_conversion_notes(name, slide, detections),
            *self._doubts(name, slide, detections, candidates),
            *enlarging_warning(name, plan),
            *_blank_warning(name, figures),
        )
        record = SlideRecord(
            slide=SlideIdentity(name=name, path=str(source.path), digest=slide.identity),
            scale=SlideScale(
                size_px0=slide.size_px0, mpp=slide.mpp, mpp_source=slide.mpp_source, bounds=slide.bounds
            ),
            model=self._model(),
            counts=count(figures),
            cost=Cost(seconds=perf_counter() - started, stages=stages),
            key=key,
            program=__version__,
            warnings=warnings,
        )
        return SlideResult(record, figures)

    def _model(self) -> ModelIdentity:
        manifest = self.bundle.manifest
        return ModelIdentity(name=manifest.name, digest=self.bundle.digest, trained=manifest.trained)

    def _plan(self, name: str, slide: Slide) -> PatchPlan:
        spec, zooms = self.bundle.manifest.input, self.bundle.manifest.ensemble.zooms
        return plan_patches(name, slide.levels, slide.mpp, spec, read_px(spec.patch_px, zooms))

    def _doubts(
        self, name: str, slide: Slide, detections: Detections, candidates: pd.DataFrame
    ) -> tuple[str, ...]:
        classes = self.options.classes
        return doubtful_notes(detections, candidates, name=name, size_px0=slide.size_px0, classes=classes)

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
