"""A bundle knows the figures that it was trained on, whatever their crops, and says what it cannot know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.dataset_files import store
from wsi_mitosis.errors import BundleError
from wsi_mitosis.io.bundles import Bundle, open_bundle, write_bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.jobs.known import overlap_of, sample_lines
from wsi_mitosis.nets.untrained import stained_noise

CROPS = stained_noise(12, 80, seed=5)
DOMAINS = ["a"] * 6 + ["b"] * 6


def trained_on(folder: Path, lines: list[str]) -> Bundle:
    """A bundle of two members that lists these samples."""
    untrained = write_untrained(folder / "untrained", name="u", patch_px=32, members=2)
    fields = untrained.manifest.model_dump(by_alias=True, exclude={"schema_", "schema", "member", "training"})
    training = {
        "dataset_digest": "0" * 64,
        "dataset_licence": "CC0",
        "mask_provider": "none",
        "recipe": "r",
        "seed": 0,
        "code_version": "0",
    }
    members = [{"test_domain": "a"}, {"test_domain": "b"}]
    fields |= {"trained": True, "training": training, "member": members}
    states = untrained.read_members()
    return write_bundle(folder / "b", fields, states, "", samples=lines)


def test_figures_without_slides_are_known_by_their_looks(tmp_path: Path) -> None:
    """Central crops of the same figures, and others between them."""
    bundle = trained_on(tmp_path, sample_lines(store(tmp_path / "s.zarr", CROPS, domain=DOMAINS)))
    others = stained_noise(12, 64, seed=6)
    mixed = np.stack([crop for pair in zip(CROPS[:, 8:-8, 8:-8], others, strict=True) for crop in pair])
    domains = [name for name in DOMAINS for _ in range(2)]
    overlap = overlap_of(bundle, store(tmp_path / "t.zarr", mixed, domain=domains))
    assert overlap.seen.tolist() == [True, False] * 12
    # the domain in which the bundle has a figure decides which member has not seen it
    renamed = store(tmp_path / "u.zarr", mixed, domain=["elsewhere"] * 24)
    assert overlap_of(bundle, renamed).own[::2].tolist() == [[True, False]] * 6 + [[False, True]] * 6


def test_what_a_bundle_cannot_know_is_said_beside_its_scores(tmp_path: Path) -> None:
    with_looks = trained_on(tmp_path, sample_lines(store(tmp_path / "s.zarr", CROPS, domain=DOMAINS)))
    new = store(tmp_path / "t.zarr", stained_noise(12, 64, seed=6), domain=DOMAINS)
    notes = evaluate(with_looks, new, device="cpu").report.notes
    assert notes[0] == "Samples that are turned or mirrored copies of its figures would count as unseen."
    small = store(tmp_path / "small.zarr", stained_noise(12, 48, seed=6), domain=DOMAINS)
    notes = evaluate(with_looks, small, device="cpu").report.notes
    assert notes[0].startswith(
        "The places of 12 of these 12 samples are not known, so that they are compared"
    )


def test_a_look_that_is_none_is_named(tmp_path: Path) -> None:
    lines = [*sample_lines(store(tmp_path / "s.zarr", CROPS, domain=DOMAINS)), "~what a"]
    bundle = open_bundle(trained_on(tmp_path, lines).folder)
    with pytest.raises(BundleError, match="its list of samples is malformed"):
        overlap_of(bundle, store(tmp_path / "t.zarr", CROPS, domain=DOMAINS))
