"""A real input of the MIDOG 2025 track-2 challenge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.io.slides.stacks import IN_SOCKET, read_stack
from wsi_mitosis.jobs.predict import predict_challenge


@pytest.fixture(scope="module")
def stack(real_data: Path) -> Path:
    return real_data / "patches" / "midog25_t2_stack_5.tiff"


def test_it_has_sixteen_crops(stack: Path) -> None:
    crops = read_stack(stack)
    assert crops.shape == (16, 128, 128, 3)
    assert crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 16


def test_the_container_answers_it(stack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "input" / "images" / IN_SOCKET
    folder.mkdir(parents=True)
    (folder / "0f2c.tiff").write_bytes(stack.read_bytes())
    listing = [
        {"socket": {"slug": IN_SOCKET, "relative_path": f"images/{IN_SOCKET}"}, "image": {"name": stack.name}}
    ]
    (tmp_path / "input" / "inputs.json").write_text(json.dumps(listing))
    bundle = open_bundle(find_bundle(DEFAULT_BUNDLE))
    _, written = predict_challenge(tmp_path / "input", tmp_path / "output", bundle, device="cpu")
    predictions = json.loads(written.read_text())
    assert len(predictions) == 16
    assert {prediction["class"] for prediction in predictions} <= {"atypical", "normal"}
    assert all(0 <= prediction["confidence"] <= 1 for prediction in predictions)
    assert len({prediction["confidence"] for prediction in predictions}) == 16, "no two crops are alike"
