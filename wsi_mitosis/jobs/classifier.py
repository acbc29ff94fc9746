"""An ensemble with its options, which classifies one slide after the other. It does not know Ray."""

from __future__ import annotations

import hashlib
import json
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wsi_mitosis.core.candidates import conversion_notes, doubtful_notes
from wsi_mitosis.core.figures import included, table_digest
from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.core.moments import now
from wsi_mitosis.core.parts import WHOLE
from wsi_mitosis.core.qupath import frame_origin
from wsi_mitosis.core.records import Origin, SlideIdentity, SlideScale
from wsi_mitosis.core.regions import check_on_slide
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.io.processors import granted_cpus, host_class
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.parts import unchanged
from wsi_mitosis.io.slides.patches import (
    WARN_ENLARGING,
    ReadingTimes,
    plan_patches,
    reading_order,
    stream_patches,
)
from wsi_mitosis.jobs.outcomes import SlideOutcome, attempt, ignore_progress
from wsi_mitosis.jobs.plan import ClassifyTask
from wsi_mitosis.jobs.predictions import PredictedSlide, Predictions, candidates_of, merged, result_of
from wsi_mitosis.jobs.sharpness import SharpnessMeter
from wsi_mitosis.version import RESULT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.detections.regions import RegionFile
    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.io.slides.patches import Batch, PatchPlan
    from wsi_mitosis.jobs.slide_result import SlideResult
    from wsi_mitosis.nets.ensembles import Ensemble
    from wsi_mitosis.specs import ResultOptions
    from wsi_mitosis.tables import Backend, BackendChoice, Detections, Precision, SlideSource

CPU_BATCH = 32
GPU_BATCH = 256
"""Patches per batch: what the caches of a CPU hold, and what keeps a GPU busy with a few GB."""
EARLY_BATCH = 128
"""Patches per batch on a CPU for `--vote early`, of which few are left for the last members."""
PRECISIONS: dict[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Names of the precisions in a key."""

STAGES = ("loading", "waiting", "model", "reading")
"""Stages of a prediction: loading the model, waiting for patches, the model's own time, and reading, which is
summed over the reading threads, beside the others."""


class Classifier:
    """An ensemble with its options, ready for one slide after the other.

    The networks are built when the first patch needs them.

    Args:
        bundle: A checked bundle.
        options: What changes a result.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        backend: `auto`, `torch` or `openvino`.
        batch_size: Patches per batch; chosen by device if None.
        threads: CPU threads for reading and for the model; all that are granted if None.

    Raises:
        InputError: If the device does not exist, the precision or the backend is not for it, or the bundle
            or the views were not compared in the precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: ResultOptions,
        *,
        device: str = "auto",
        backend: BackendChoice = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        from wsi_mitosis.nets.compiled import resolve_backend
        from wsi_mitosis.nets.devices import check_precision, resolve_device

        self.bundle, self.options = bundle, options
        self.threads = threads or granted_cpus()
        self.device = resolve_device(device)
        check_precision(options.precision, self.device)
        check_compared(bundle, options)
        self.backend = resolve_backend(backend, self.device, options.precision)
        on_cpu = EARLY_BATCH if options.vote == "early" else CPU_BATCH
        self.batch_size = batch_size or (GPU_BATCH if self.device.startswith("cuda") else on_cpu)
        self._ensemble: Ensemble | None = None

    def classify(
        self,
        source: SlideSource,
        name: str,
        detections: Detections,
        *,
        known_key: str | None = None,
        on_patches: Callable[[int], None] | None = None,
        batch_divisor: int = 1,
        regions: RegionFile | None = None,
    ) -> SlideResult | None:
        """Classify the candidates of one slide.

        Args:
            source: The slide.
            name: Its name in the result.
            detections: Its candidates.
            known_key: Key of a result that exists already.
            on_patches: Called with the number of patches that were classified since the last call. It is
                called with 0 when the slide is open and when the weights of a member are read.
            batch_divisor: Batches are smaller by this factor. No label depends on it.
            regions: Its regions, of which a part must lie on the slide. No label depends on them.

        Returns:
            The result; None if the existing one has the same key.

        Raises:
            InputError: if the candidates or the regions cannot be used.
            SlideError: if the slide cannot be read or its pixel size cannot be used.
        """
        started = perf_counter()
        task = ClassifyTask(
            source, name, known_key, "check", detections, batch_divisor=batch_divisor, regions=regions
        )
        if (found := self._predicted(task, on_patches or ignore_progress)) is None:
            return None
        predicted, candidates = found
        return result_of(merged([predicted]), candidates, self.bundle, started)

    def predict_part(self, task: ClassifyTask, on_patches: Callable[[int], None]) -> PredictedSlide | None:
        """Classify a part of the candidates of one slide, of which `result_of_parts` makes the result.

        Args:
            task: The part.
            on_patches: As for `classify`.

        Returns:
            The predictions; None if the existing result of the slide has the same key.

        Raises:
            InputError: as `classify`.
            SlideError: as `classify`.
        """
        found = self._predicted(task, on_patches)
        return None if found is None else found[0]

    def _predicted(
        self, task: ClassifyTask, on_patches: Callable[[int], None]
    ) -> tuple[PredictedSlide, pd.DataFrame] | None:
        """Return the predictions for a part of a slide, and all of the slide's candidates."""
        source, name, detections = task.source, task.name, task.detections
        started = perf_counter()
        with (
            unchanged(source.path),
            open_slide(source.path, given_mpp=self.options.mpp, list_mpp=source.mpp) as slide,
        ):
            opened = perf_counter()
            _check_regions(name, slide, task.regions)
            candidates = self._candidates(name, slide, detections)
            key = self._key(slide, candidates)
            if key == task.known_key:
                return None
            plan = self._plan(name, slide)
            prepared = perf_counter()
            predictions = self._predict(slide, plan, candidates, task, on_patches)
        stages = {"opening": opened - started, "candidates": prepared - opened, **predictions.seconds}
        predicted = PredictedSlide(
            slide=SlideIdentity(name=name, path=source.place, digest=slide.identity, scanner=slide.scanner),
            scale=_scale(slide),
            states_mpp=slide.stated_mpp is not None,
            objective_power=slide.backend.objective_power,
            key=key,
            warnings=(
                *slide.warnings,
                *self._notes(name, slide, detections, candidates),
                *enlarging_warning(name, plan),
            ),
            origin=origin_of(self.device, self.backend, self.options.model_dump(mode="json")),
            predictions=predictions._replace(seconds=stages),
            centre_offset_um=slide.centre_offset_um,
        )
        return predicted, candidates

    def has_result(self, task: ClassifyTask) -> bool:
        """Return whether a slide's result on disk is up to date. No patch is read.

        Raises:
            InputError: if the candidates or the regions cannot be used.
            SlideError: if the slide cannot be read or its pixel size cannot be used.
        """
        source, name = task.source, task.name
        if task.known_key is None or source.remote is not None:
            return task.was_made_with(self.device, self.backend)
        with open_slide(source.path, given_mpp=self.options.mpp, list_mpp=source.mpp) as slide:
            _check_regions(name, slide, task.regions)
            return self._key(slide, self._candidates(name, slide, task.detections)) == task.known_key

    def _candidates(self, name: str, slide: Slide, detections: Detections) -> pd.DataFrame:
        return candidates_of(
            detections,
            _scale(slide),
            self.options,
            states_mpp=slide.stated_mpp is not None,
            objective_power=slide.backend.objective_power,
            name=name,
            centre_offset_um=slide.centre_offset_um,
        )

    def _key(self, slide: Slide, candidates: pd.DataFrame) -> str:
        """Return the digest of everything that the result depends on; see `key_parts`."""
        return hashlib.sha256(
            json.dumps(self.key_parts(slide, candidates), sort_keys=True).encode()
        ).hexdigest()

    def key_parts(self, slide: Slide, candidates: pd.DataFrame) -> dict[str, object]:
        """Return everything that a result depends on, as plain data.

        An option that changes a result is here by its value, or as the part that its description names
        (`Option.known_by`).
        """
        return {
            "slide": slide.identity,
            "mpp": [*slide.mpp, slide.mpp_source],
            "reader": slide.backend.name,
            "candidates": table_digest(candidates),
            "bundle": self.bundle.digest,
            **self.options.changing("result"),
            "tta": self.options.tta or self.bundle.manifest.ensemble.tta,
            "device": self.device.partition(":")[0],
            "backend": self.backend,
            "precision": PRECISIONS[self.options.precision],
            "algorithm": RESULT_VERSION,
        }

    def _plan(self, name: str, slide: Slide) -> PatchPlan:
        spec, zooms = self.bundle.manifest.input, self.bundle.manifest.ensemble.zooms
        return plan_patches(name, slide.levels, slide.mpp, spec, read_px(spec.cut_px, zooms))

    def _predict(
        self,
        slide: Slide,
        plan: PatchPlan,
        candidates: pd.DataFrame,
        task: ClassifyTask,
        on_patches: Callable[[int], None],
    ) -> Predictions:
        """Read the patches of the task's included candidates and run the ensemble on them."""
        x, y = candidates.loc[included(candidates), ["x_px0", "y_px0"]].to_numpy(np.float64).T
        rows = task.part.rows(reading_order(plan, x, y), self.batch_size)
        probabilities = np.full((len(rows), len(self.bundle.manifest.member)), np.nan)
        blank = np.zeros(len(rows), np.bool_)
        meter = SharpnessMeter(self.bundle.manifest, x, y, rows)
        if not len(rows):
            return Predictions(rows, probabilities, blank, meter.values, dict.fromkeys(STAGES, 0.0))
        started, times, model = perf_counter(), ReadingTimes(), 0.0
        on_patches(0)
        ensemble = self._ready(lambda: on_patches(0))
        loading = perf_counter() - started
        batch_size = max(1, self.batch_size // task.batch_divisor)
        patches = stream_patches(
            slide, plan, x[rows], y[rows], batch_size=batch_size, threads=self.threads, times=times
        )
        for batch in map(_RowsWithPixels.of, patches):
            blank[batch.blank] = True
            if not len(batch.rows):
                continue
            started = perf_counter()
            probabilities[batch.rows] = ensemble.predict(batch.pixels)
            model += perf_counter() - started
            meter.add(batch.rows, batch.pixels)
            on_patches(len(batch.rows))
        seconds = zip(STAGES, (loading, times.waiting, model, times.reading), strict=True)
        return Predictions(rows, probabilities, blank, meter.values, dict(seconds))

    def _notes(
        self, name: str, slide: Slide, detections: Detections, candidates: pd.DataFrame
    ) -> tuple[str, ...]:
        """Return notes on how the candidates were placed, and on what looks like a mistake."""
        size, classes = slide.size_px0, self.options.classes
        return (
            *conversion_notes(
                detections,
                name=name,
                size_px0=size,
                mpp=slide.mpp,
                stated_mpp=slide.stated_mpp,
                bounds=slide.bounds,
                objective_power=slide.backend.objective_power,
            ),
            *doubtful_notes(detections, candidates, name=name, size_px0=size, classes=classes),
        )

    def _ready(self, on_member: Callable[[], None]) -> Ensemble:
        if self._ensemble is None:
            from wsi_mitosis.nets.ensembles import Ensemble

            self._ensemble = Ensemble(
                self.bundle.manifest,
                self.bundle.read_members(on_member),
                device=self.device,
                tta=self.options.tta,
                vote=self.options.vote,
                threads=self.threads,
                precision=self.options.precision,
                backend=self.backend,
                files=user_files(),
            )
        return self._ensemble


def classify_task(
    task: ClassifyTask, classifier: Classifier, on_patches: Callable[[int], None]
) -> SlideOutcome[SlideResult] | SlideOutcome[PredictedSlide]:
    """Classify one slide, or a part of it."""
    if task.part != WHOLE:
        return attempt(task.name, lambda: classifier.predict_part(task, on_patches))
    return attempt(
        task.name,
        lambda: classifier.classify(
            task.source,
            task.name,
            task.detections,
            known_key=task.known_key,
            on_patches=on_patches,
            batch_divisor=task.batch_divisor,
            regions=task.regions,
        ),
    )


def check_compared(bundle: Bundle, options: ResultOptions) -> None:
    """Refuse bfloat16 where its labels were not compared with those in float32.

    Raises:
        InputError: if the bundle, or the requested views, were not compared.
    """
    manifest = bundle.manifest
    if options.precision != "bf16":
        return
    if manifest.bfloat16 is None:
        cause = f"'{manifest.name}' was not compared in it with fp32, or too many labels change"
        remedy = "Use --precision fp32, or a bundle whose manifest has a table [bfloat16]"
    elif options.tta not in (None, manifest.ensemble.tta):
        cause = f"'{manifest.name}' was compared in it with --tta {manifest.ensemble.tta} alone"
        remedy = "Use --precision fp32, or leave out --tta"
    else:
        return
    raise InputError(cause, subject="--precision bf16", remedy=remedy)


def _check_regions(name: str, slide: Slide, regions: RegionFile | None) -> None:
    if regions is None:
        return
    frame, bounds = regions.frame, slide.bounds
    placed = regions.placed(frame_origin(frame, bounds))
    check_on_slide(placed, size_px0=slide.size_px0, bounds=bounds, frame=frame, name=name)


def _scale(slide: Slide) -> SlideScale:
    return SlideScale(
        size_px0=slide.size_px0, mpp=slide.mpp, mpp_source=slide.mpp_source, bounds=slide.bounds
    )


class _RowsWithPixels(NamedTuple):
    """The patches of a batch that have pixels, and the rows of those that do not."""

    rows: NDArray[np.intp]
    pixels: NDArray[np.uint8]
    blank: NDArray[np.intp]

    @classmethod
    def of(cls, batch: Batch) -> _RowsWithPixels:
        """Split a batch; it is not copied if it has no blank patch."""
        if not batch.blank.any():
            return cls(batch.rows, batch.pixels, batch.rows[:0])
        return cls(batch.rows[~batch.blank], batch.pixels[~batch.blank], batch.rows[batch.blank])


def enlarging_warning(name: str, plan: PatchPlan) -> tuple[str, ...]:
    """Return a warning about a slide that is much coarser than the model's input."""
    if plan.enlarging <= WARN_ENLARGING:
        return ()
    return (
        f"{name}: its pixels are enlarged {plan.enlarging:.2f} times to the model's scale; "
        "details that the scanner did not record are missing",
    )


def origin_of(device: str, backend: Backend, options: dict[str, object]) -> Origin:
    """Return the origin of a result that is made now."""
    kind = device.partition(":")[0]
    return Origin(made=now(), host=host_class(), device=kind, backend=backend, options=options)


def checked_bundle(model: str | None) -> Bundle:
    """Open the bundle of a run and check its files; the shipped default if `model` is None.

    Raises:
        BundleError: if it is missing, malformed or altered.
    """
    return open_bundle(find_bundle(model or DEFAULT_BUNDLE))
