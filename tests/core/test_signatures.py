"""The same figure is recognised in other pixels, and no other figure is taken for it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_mitosis.core.signatures import BITS, MOST_DIFFERENT, as_text, from_texts, nearest, signatures
from wsi_mitosis.nets.untrained import stained_noise

CROPS = stained_noise(40, 80, seed=3)
KNOWN = signatures(CROPS)


def jpeg(crop: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("change", ["none", "JPEG", "a smaller crop", "a larger one", "a pixel further"])
def test_a_figure_is_known_in_another_crop(change: str) -> None:
    changed = {
        "none": CROPS,
        "JPEG": np.stack([jpeg(crop) for crop in CROPS]),
        "a smaller crop": CROPS[:, 8:-8, 8:-8],
        "a larger one": np.pad(CROPS, ((0, 0), (10, 10), (10, 10), (0, 0)), mode="reflect"),
        "a pixel further": np.roll(CROPS, 1, axis=2),
    }[change]
    found = nearest(signatures(changed), KNOWN)
    assert found.tolist() == list(range(len(CROPS)))


def test_other_figures_are_not_known() -> None:
    assert (nearest(signatures(stained_noise(300, 64, seed=4)), KNOWN) == -1).all()
    assert nearest(KNOWN, KNOWN[:0]).tolist() == [-1] * len(CROPS)
    assert nearest(KNOWN[:0], KNOWN).tolist() == []


@given(st.lists(st.integers(0, BITS - 1), unique=True, max_size=60))
def test_so_many_bits_may_differ(flipped: list[int]) -> None:
    changed = KNOWN[:1].copy()
    changed[0, flipped] ^= True
    assert nearest(changed, KNOWN[:1]).tolist() == [0 if len(flipped) <= MOST_DIFFERENT else -1]


def test_a_signature_is_its_text() -> None:
    texts = [as_text(signature) for signature in KNOWN]
    np.testing.assert_array_equal(from_texts(texts), KNOWN)
    assert from_texts([]).shape == (0, BITS)
    with pytest.raises(ValueError, match="hex"):
        from_texts(["no hexadecimal digits"])
