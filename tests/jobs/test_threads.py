"""Models compute on the CPUs that are granted, which can be fewer than those of the affinity mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tifffile

from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.jobs import classifier, evaluate, predict, slide_detector
from wsi_mitosis.jobs.classifier import Classifier
from wsi_mitosis.jobs.slide_detector import SlideDetector
from wsi_mitosis.nets import eager, ensembles
from wsi_mitosis.nets.compiled import CompiledMembers
from wsi_mitosis.nets.detector import DetectorModel
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.specs import DetectSpec, ResultOptions
from wsi_mitosis.tables import Backend

GRANTED = 7
"""More than a laptop has, so that it cannot be any other number."""


@pytest.fixture(autouse=True)
def granted(monkeypatch: pytest.MonkeyPatch) -> None:
    for job in (classifier, slide_detector, evaluate, predict):
        monkeypatch.setattr(job, "granted_cpus", lambda: GRANTED)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The numbers of threads that torch and OpenVINO were set to."""
    numbers: list[int | None] = []

    def compiled(manifest: Any, states: Any, sight: Any, threads: int, *more: Any) -> CompiledMembers:
        numbers.append(threads)
        return CompiledMembers(manifest, states, sight, threads, *more)

    @contextmanager
    def note(number: int | None) -> Iterator[None]:
        numbers.append(number)
        yield

    monkeypatch.setattr(eager, "cpu_threads", note)
    monkeypatch.setattr(ensembles, "CompiledMembers", compiled)
    return numbers


def test_a_classifier_takes_the_granted_cpus(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    assert Classifier(bundle, ResultOptions(), device="cpu").threads == GRANTED
    assert Classifier(bundle, ResultOptions(), device="cpu", threads=2).threads == 2


def test_a_detector_takes_the_granted_cpus() -> None:
    model = DetectorModel("stub", Path("none.pth"), "0" * 64, 512, 0.5, 21, 0.4)
    spec = DetectSpec.parse({"slides": ["a"], "out": "b", "placement": {"device": "cpu"}}, "test")
    assert SlideDetector(model, spec).threads == GRANTED


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_predictions_take_the_granted_cpus(
    small_bundle: Path, tmp_path: Path, used: list[int | None], backend: Backend
) -> None:
    tifffile.imwrite(tmp_path / "s.tiff", stained_noise(4, 32, seed=1), photometric="rgb")
    predict.predict_stack(tmp_path / "s.tiff", open_bundle(small_bundle), device="cpu", backend=backend)
    assert used == [GRANTED]
