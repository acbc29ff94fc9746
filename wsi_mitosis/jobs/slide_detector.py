"""A detector with its options, which searches one slide after the other. It does not know Ray."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsi_mitosis.core.qupath import COORDINATE_DECIMALS, figure_ids
from wsi_mitosis.core.records import Cost, ModelIdentity, SlideIdentity, SlideRecord, SlideScale
from wsi_mitosis.core.summary import Counts
from wsi_mitosis.core.tiles import Tiling, may_hold_figures, merged
from wsi_mitosis.errors import UnreadableSlideError
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.parts import unchanged
from wsi_mitosis.io.slides.patches import plan_patches, stream_patches
from wsi_mitosis.jobs.classifier import enlarging_warning, origin_of
from wsi_mitosis.jobs.outcomes import SlideOutcome, attempt, ignore_progress
from wsi_mitosis.specs import InputSpec
from wsi_mitosis.version import DETECTION_VERSION, __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsi_mitosis.io.slides import Slide
    from wsi_mitosis.io.slides.patches import Batch, PatchPlan
    from wsi_mitosis.jobs.plan import SlideTask
    from wsi_mitosis.nets.detector import Detector, DetectorModel
    from wsi_mitosis.specs import DetectSpec
    from wsi_mitosis.tables import SlideSource

CPU_BATCH = 1
GPU_BATCH = 16
"""Tiles per batch. One tile takes seconds and about 1 GB on a CPU; 16 are as much work as 256 patches."""
MARGIN_PX = 32
"""Margin of a tile of 512 px at 0.5 um/px: 16 um, so that a figure at a seam is whole in both tiles."""
GLASS = 255
"""Grey level outside the slide, as TIAToolbox pads."""
MOST_LACKING = 0.01
"""Share of a tile that may be missing without a warning, if it is not in the middle: a square of 26 um."""
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class SlideCandidates:
    """The candidates of one slide.

    Attributes:
        record: Identity, scale, model, counts and cost of the result.
        candidates: `x`, `y` (level-0 px, slide frame), `score` (0..1), `id`; sorted by y, then x.
    """

    record: SlideRecord
    candidates: pd.DataFrame


class SlideDetector:
    """A detector with its options, ready for one slide after the other.

    The network is loaded when the first tile needs it.

    Args:
        model: A checked detector.
        spec: The run's options.
        threads: CPU threads for reading and for the model; all that are granted if None.
    """

    def __init__(self, model: DetectorModel, spec: DetectSpec, *, threads: int | None = None) -> None:
        from wsi_mitosis.nets.devices import resolve_device

        self.model, self.mpp = model, spec.mpp
        self.min_score = model.threshold if spec.min_score is None else spec.min_score
        self.threads = threads or granted_cpus()
        self.device = resolve_device(spec.placement.device)
        on_gpu = self.device.startswith("cuda")
        self.batch_size = spec.placement.batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
        self._detector: Detector | None = None

    def detect(
        self,
        source: SlideSource,
        name: str,
        *,
        known_key: str | None = None,
        on_tiles: Callable[[int], None] | None = None,
        batch_divisor: int = 1,
    ) -> SlideCandidates | None:
        """Search one slide.

        Args:
            source: The slide.
            name: Its name in the result.
            known_key: Key of a result that exists already.
            on_tiles: Called with the number of tiles that were searched since the last call. It is
                called with 0 when the slide is open and when the weights are read.
            batch_divisor: Batches are smaller by this factor.

        Returns:
            The result; None if the existing one has the same key.

        Raises:
            InputError: if the weights cannot be read any more.
            SlideError: if the slide cannot be read or its pixel size cannot be used.
        """
        started = perf_counter()
        with (
            unchanged(source.path),
            open_slide(source.path, given_mpp=self.mpp, list_mpp=source.mpp) as slide,
        ):
            key = self._key(slide)
            if key == known_key:
                return None
            plan = plan_patches(name, slide.levels, slide.mpp, self._input(), self.model.tile_px)
            found, gaps = self._search(name, slide, plan, on_tiles or ignore_progress, batch_divisor)
        found[:, :2] = found[:, :2].round(COORDINATE_DECIMALS)
        table = pd.DataFrame(found, columns=["x", "y", "score"]).round({"score": SCORE_DECIMALS})
        record = SlideRecord(
            slide=SlideIdentity(name=name, path=source.place, digest=slide.identity, scanner=slide.scanner),
            scale=SlideScale(size_px0=slide.size_px0, mpp=slide.mpp, mpp_source=slide.mpp_source),
            model=ModelIdentity(name=self.model.name, digest=self.model.sha256, min_score=self.min_score),
            counts=Counts(candidates=len(table)),
            cost=Cost(seconds=perf_counter() - started),
            key=key,
            program=__version__,
            warnings=(*slide.warnings, *enlarging_warning(name, plan), *gaps),
            origin=origin_of(self.device, "torch", {"min_score": self.min_score, "mpp": self.mpp}),
        )
        return SlideCandidates(record, table.assign(id=figure_ids(slide.identity, table["x"], table["y"])))

    def has_result(self, task: SlideTask) -> bool:
        """Return whether a slide's result on disk is up to date; nothing is searched.

        Raises:
            SlideError: as `key`.
        """
        if task.known_key is None or task.source.remote is not None:
            return task.was_made_with(self.device, "torch")
        return self.key(task.source) == task.known_key

    def key(self, source: SlideSource) -> str:
        """Return the key of the result that a slide would have; nothing is searched.

        Raises:
            SlideError: if the slide cannot be read or its pixel size cannot be used.
        """
        with open_slide(source.path, given_mpp=self.mpp, list_mpp=source.mpp) as slide:
            return self._key(slide)

    def _input(self) -> InputSpec:
        """Return the detector's input. It has no tolerance: at another scale, figures would be shifted."""
        return InputSpec(
            patch_px=self.model.tile_px, mpp=self.model.mpp, mpp_tolerance=0, pad_value=GLASS, scale=1
        )

    def _key(self, slide: Slide) -> str:
        """Return the digest of everything that the result depends on."""
        parts = {
            "slide": slide.identity,
            "mpp": [*slide.mpp, slide.mpp_source],
            "reader": slide.backend.name,
            "model": self.model.name,
            "weights": self.model.sha256,
            "min_score": self.min_score,
            "device": self.device.partition(":")[0],
            "precision": "float32",
            "algorithm": DETECTION_VERSION,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _search(
        self, name: str, slide: Slide, plan: PatchPlan, on_tiles: Callable[[int], None], batch_divisor: int
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Search the tiles of a slide.

        Returns:
            (N, 3) x, y in level-0 px of the slide frame, and probability; and warnings about missing pixels.

        Raises:
            UnreadableSlideError: if the slide has no pixels at all.
        """
        distance_px = self.model.min_distance_px
        tiling = Tiling(
            size_px0=slide.size_px0,
            scale=(plan.step[0] * plan.downsample, plan.step[1] * plan.downsample),
            tile_px=plan.size_px,
            margin_px=MARGIN_PX,
            sight_px=distance_px + 1,
        )
        centres = tiling.centres()
        found, tally = [np.empty((0, 3))], _Tally()
        on_tiles(0)
        batch_size = max(1, self.batch_size // batch_divisor)
        tiles = stream_patches(
            slide, plan, centres[:, 0], centres[:, 1], batch_size=batch_size, threads=self.threads
        )
        for batch in tiles:
            searched = may_hold_figures(batch.pixels)
            tally.count(batch, searched)
            if searched.any():
                detector = self._ready()
                on_tiles(0)
                peaks = detector.peaks(batch.pixels[searched], self.min_score)
                rows = batch.rows[searched]
                found += [tiling.placed(centres[row], seen) for row, seen in zip(rows, peaks, strict=True)]
            on_tiles(len(batch.rows))
        gaps = tally.warning(name, ordinary=slide.scanned_in_areas)
        return merged(np.concatenate(found), slide.mpp, distance_px * self.model.mpp), gaps

    def _ready(self) -> Detector:
        if self._detector is None:
            from wsi_mitosis.nets.detector import Detector

            self._detector = Detector(self.model, self.device, threads=self.threads)
        return self._detector


def detect_task(
    task: SlideTask, detector: SlideDetector, on_tiles: Callable[[int], None]
) -> SlideOutcome[SlideCandidates]:
    """Search one slide."""
    return attempt(
        task.name,
        lambda: detector.detect(
            task.source,
            task.name,
            known_key=task.known_key,
            on_tiles=on_tiles,
            batch_divisor=task.batch_divisor,
        ),
    )


@dataclass
class _Tally:
    """Counts the tiles of a slide: how many were searched, and how many lack pixels."""

    tiles: int = 0
    searched: int = 0
    lacking: int = 0
    empty: int = 0

    def count(self, batch: Batch, searched: NDArray[np.bool_]) -> None:
        """Add a batch of tiles, `searched` those that are more than glass."""
        self.tiles += len(batch.rows)
        self.searched += int(searched.sum())
        self.lacking += int((batch.blank | (batch.lacking > MOST_LACKING)).sum())
        self.empty += int((batch.lacking == 1).sum())

    def warning(self, name: str, *, ordinary: bool) -> tuple[str, ...]:
        """Return a warning about tiles without pixels.

        Holes between scanned areas are ordinary in some formats. There, they are only reported if nothing but
        glass is around them.

        Raises:
            UnreadableSlideError: if no tile has any pixels.
        """
        if self.empty == self.tiles:
            raise UnreadableSlideError(
                "it has no pixels: all of them are transparent (alpha 0) or not stored (sparse)",
                subject=name,
                stage="searching",
                remedy="Export the slide again without its alpha channel, or with all its pixels",
            )
        if not self.lacking or (ordinary and self.searched):
            return ()
        return (
            f"{name}: {self.lacking} of {self.tiles} tiles lack pixels (transparent or not stored), so "
            "figures there cannot be found. Export the slide again with all its pixels if tissue is missing",
        )
