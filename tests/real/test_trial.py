"""The members of the default bundle, which come from a trial on a GPU, give what was recorded there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.io.bundles import DEFAULT_BUNDLE, find_bundle, open_bundle
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.nets.ensembles import Ensemble

FIGURES = 24
DOMAINS = (
    "MIDOG21 Aperio CS2",
    "MIDOG21 Hamamatsu S360",
    "MIDOG21 Hamamatsu XR",
    "TUPAC16 01-23",
    "TUPAC16 24-48",
    "TUPAC16 49-73",
)
"""In the order of the trial."""
VIEWS = (0, 1, 5)
"""The crop and its two flips among the eight symmetries that were recorded."""


def travelled(crop: np.ndarray) -> np.ndarray:
    """The crop as it was sent to the GPU: its central 104 px as JPEG of quality 96 with whole colour."""
    file = io.BytesIO()
    Image.fromarray(cut_centres(crop[None], 104, "trial")[0]).save(file, "JPEG", quality=96, subsampling=0)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_member_gives_what_the_trial_recorded(real_data: Path, amibr: Store, domain: str) -> None:
    bundle = open_bundle(find_bundle(DEFAULT_BUNDLE))
    at = [member.test_domain for member in bundle.manifest.member].index(domain)
    member = bundle.manifest.member[at]
    assert member.training is not None
    assert member.training.recipe.startswith("lite2 ")
    alone = bundle.manifest.model_copy(update={"member": (member,), "calibration": None})
    ensemble = Ensemble(alone, bundle.read_members()[at : at + 1], device="cpu")

    recorded = np.load(real_data / "gpu/predictions2.npz")
    run = f"l2_80_160_all5.{DOMAINS.index(domain)}"
    rows = recorded[f"{run}/rows_test"]
    taken = np.linspace(0, len(rows) - 1, FIGURES).astype(int)
    crops = np.stack([travelled(crop) for crop in amibr.images(np.sort(rows[taken]))])
    found = ensemble.predict(cut_centres(crops, alone.input.cut_px, "trial"))[:, 0]
    np.testing.assert_allclose(found, recorded[f"{run}/raw_test"][taken][:, VIEWS].mean(1), atol=0.01)
