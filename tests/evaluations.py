"""Stores and bundles whose figures are known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.io.bundles import Bundle, write_bundle
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.training.stores import Store, sample_table, write_store
from wsi_mitosis.nets import ensembles
from wsi_mitosis.specs import BundleManifest

SIDE = 40
"""Of the crops, px; the bundles read 32."""
FIELDS: dict[str, Any] = {
    "name": "known",
    "version": "3",
    "licence": "MIT",
    "intended_use": "Tests",
    "trained": True,
    "input": {"patch_px": 32, "mpp": 0.25, "mpp_tolerance": 0.1, "pad_value": 0, "scale": 255.0},
    "network": {"backbone": "preact-resnet50", "width": 2, "head": "gap-fc3"},
    "ensemble": {"vote": "majority", "threshold": 0.5, "tta": "none", "zooms": [1.0]},
    "training": {
        "dataset_digest": "0" * 64,
        "dataset_licence": "MIT",
        "mask_provider": "none",
        "recipe": "tests",
        "seed": 0,
        "code_version": "0",
    },
}


class KnownEnsemble:
    """Takes the place of `nets.ensembles.Ensemble`: member i's P(atypical) is channel i of the centre pixel.

    With a single view it is that of the pixel to its right instead.
    """

    asked: list[tuple[str, int]]
    """Member and the number (the crop's first pixel) of each crop that was asked about."""

    def __init__(
        self,
        manifest: BundleManifest,
        states: list[Any],
        *,
        device: str,
        tta: str | None,
        threads: int,
        backend: str,
        files: object,
    ) -> None:
        assert threads == granted_cpus()
        assert (len(states), len(manifest.member), device) == (1, 1, "cpu")
        assert (backend in {"torch", "openvino"}, files is not None) == (True, True)
        self.tta, self.read_px = tta, manifest.input.patch_px
        self._file, self._temperature = manifest.member[0].file, manifest.temperature
        self._extra = tta != "none" or len(manifest.ensemble.zooms) > 1

    def predict(self, crops: np.ndarray) -> np.ndarray:
        assert crops.shape[1:] == (32, 32, 3)
        member = int(self._file.removesuffix(".safetensors")[-1])
        self.asked += [(self._file, int(crop[0, 0, 0])) for crop in crops]
        return calibrated(crops[:, 16, 16 if self._extra else 17, [member]] / 100, self._temperature)


def calibration(temperature: float, fitted_on: str = "domains left out") -> dict[str, Any]:
    """The table of a bundle that was calibrated."""
    return {
        "temperature": temperature,
        "fitted_on": fitted_on,
        "figures": 9,
        "atypical": 4,
        "figures_sha256": "0" * 64,
        "dataset_digest": "d",
    }


def crop(number: int, extra: tuple[float, ...], single: tuple[float, ...] | None = None) -> np.ndarray:
    """A crop that a KnownEnsemble of up to three members answers so; `number` makes it one of its own."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[4, 4] = number  # the first pixel of the centre that is cut out
    image[20, 20, : len(extra)] = np.rint(np.multiply(extra, 100))
    image[20, 21, : len(extra)] = np.rint(np.multiply(single or extra, 100))
    return image


def store(
    folder: Path,
    rows: list[tuple[str, str, int, np.ndarray]],
    mpp: float | None = None,
    votes: list[tuple[int, int]] | None = None,
) -> Store:
    """A store of (domain, slide, label, crop), sorted by domain.

    `votes` are of the sorted rows: the experts who say atypical, and all who said something.
    """
    rows = sorted(rows, key=lambda row: row[:2])
    votes = votes or [(0, 0)] * len(rows)
    images = np.stack([image for *_, image in rows])
    columns = {
        "source_id": [f"sample {number}" for number in range(len(rows))],
        "slide": [slide for _, slide, _, _ in rows],
        "domain": [domain for domain, *_ in rows],
        "label": [label for _, _, label, _ in rows],
        "label_source": ["csv"] * len(rows),
        "experts_atypical": [atypical for atypical, _ in votes],
        "experts_asked": [asked for _, asked in votes],
        "x_px0": [np.nan] * len(rows),
        "y_px0": [np.nan] * len(rows),
        "mask_flag": ["none"] * len(rows),
    }
    fields = {
        "name": folder.stem,
        "patch_px": images.shape[1],
        "mpp": mpp,
        "licence": "CC0",
        "source": "csv",
        "mask_provider": "none",
        "mask_provider_version": "",
    }
    return write_store(
        folder, fields, sample_table(columns), [(images, np.zeros(images.shape[:3], np.uint8))]
    )


def bundle(
    folder: Path,
    test_domains: tuple[str | None, ...],
    samples: list[str] | None = None,
    *,
    states: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> Bundle:
    """A trained bundle with a member per test domain, trained on `samples` ("<digest> <domain>")."""
    members = [
        {} if domain is None else {"test_domain": domain, "validation_balanced_accuracy": 0.8 + index / 10}
        for index, domain in enumerate(test_domains)
    ]
    states = states or [{"w": np.full(2, float(index))} for index in range(len(members))]
    return write_bundle(folder, {**FIELDS, **fields, "member": members}, states, "", samples=samples or [])


def recorded(samples: Any) -> list[str]:
    """Lines of a bundle that was trained on a store's samples."""
    return [f"{digest} {domain}" for digest, domain in zip(samples["digest"], samples["domain"], strict=True)]


def known_members(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Let every ensemble be a `KnownEnsemble`; the list gets each member and its number of crops."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(KnownEnsemble, "asked", asked, raising=False)
    monkeypatch.setattr(ensembles, "Ensemble", KnownEnsemble)
    return asked
