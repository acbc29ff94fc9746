from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from wsi_mitosis.core.geometry import read_px, resample
from wsi_mitosis.nets.views import VIEWS, to_input, views, zoomed
from wsi_mitosis.tables import Tta


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)


def test_input_is_divided_and_nothing_else(crops: np.ndarray) -> None:
    batch = to_input(crops, 255)
    assert batch.dtype == torch.float32
    assert batch.shape == (2, 3, 24, 24)
    assert batch[1, 2, 3, 4] == np.float32(crops[1, 3, 4, 2]) / np.float32(255)


def test_input_takes_memory_of_any_kind(crops: np.ndarray) -> None:
    turned = crops[:, ::-1, 2:20]
    locked = crops.copy()
    locked.flags.writeable = False
    assert torch.equal(to_input(turned, 255), to_input(turned.copy(), 255))
    assert torch.equal(to_input(locked, 255), to_input(crops, 255))


def test_flips_are_identity_vertical_horizontal(crops: np.ndarray) -> None:
    batch = to_input(crops, 255)
    found = list(views(batch, "flips"))
    expected = [batch, to_input(crops[:, ::-1], 255), to_input(crops[:, :, ::-1], 255)]
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_d4_is_all_eight_symmetries(crops: np.ndarray) -> None:
    batch = to_input(crops, 255)
    found = {view.numpy().tobytes() for view in map(torch.Tensor.contiguous, views(batch, "d4"))}
    square = [np.rot90(batch.numpy(), k, (2, 3)) for k in range(4)]
    expected = {np.ascontiguousarray(view).tobytes() for turn in square for view in (turn, turn[..., ::-1])}
    assert found == expected
    assert len(found) == 8


@pytest.mark.parametrize("tta", get_args(Tta))
def test_the_first_view_is_the_batch(tta: Tta, crops: np.ndarray) -> None:
    batch = to_input(crops, 255)
    found = list(views(batch, tta))
    assert len(found) == VIEWS[tta]
    assert torch.equal(found[0], batch)


def test_zoom_one_takes_the_centre_pixels(crops: np.ndarray) -> None:
    batch = to_input(crops, 255)
    assert torch.equal(zoomed(batch, 1.0, 16), batch[..., 4:20, 4:20])


@pytest.mark.parametrize("zoom", [0.75, 0.87, 1.15, 2.0])
def test_zooms_are_the_windows_that_core_resamples(zoom: float) -> None:
    """The same window as `core.geometry.resample` gives, up to its rounding to whole grey levels."""
    side = read_px(16, (zoom, 1.0))
    crops = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    start, step = (side - 16 / zoom) / 2, 1 / zoom
    expected = resample(crops[0], (start, start), (step, step), (16, 16))
    found = zoomed(to_input(crops, 1), zoom, 16)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=0.501)


def test_zooming_keeps_the_centre_in_the_centre() -> None:
    batch = torch.zeros(1, 3, 32, 32)
    batch[..., 15:17, 15:17] = 1
    for zoom in (0.5, 0.8, 1.0, 1.3):
        found = zoomed(batch, zoom, 16)
        assert torch.allclose(found, found.flip(2), atol=1e-6)
        assert torch.allclose(found, found.flip(3), atol=1e-6)
        assert found[..., 7:9, 7:9].sum() > 0.9 * found.sum() / 2
