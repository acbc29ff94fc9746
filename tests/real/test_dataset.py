"""Real data sets: the counts that they are published with, and crops bit for bit."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.dataset_files import MIDOG25_COLUMNS, built, write_csv
from wsi_mitosis.io.training.labels.amibr import read_amibr
from wsi_mitosis.io.training.labels.midog25 import read_midog25
from wsi_mitosis.io.training.stores import Store, open_store, sample_digests
from wsi_mitosis.jobs.dataset import verify
from wsi_mitosis.jobs.dataset.verify import overlap_with

AMIBR = {
    "MIDOG21 Hamamatsu XR": (105, 346),
    "MIDOG21 Hamamatsu S360": (127, 455),
    "MIDOG21 Aperio CS2": (172, 516),
    "TUPAC16 01-23": (277, 1052),
    "TUPAC16 24-48": (66, 210),
    "TUPAC16 49-73": (85, 309),
}
MIDOG25 = {  # typical, atypical, images
    "human breast cancer": (1317, 404, 135),
    "human melanoma": (879, 271, 45),
    "canine soft tissue sarcoma": (1076, 210, 98),
    "canine cutaneous mast cell tumor": (1976, 351, 50),
    "human neuroendocrine tumor": (554, 85, 48),
    "canine lung cancer": (745, 110, 44),
    "canine lymphoma": (3642, 317, 55),
}


@pytest.fixture(scope="module")
def atnorm(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("atnorm") / "atnorm.zarr"
    built("folder", real_data / "patches/AtNorM-Br", out, masks="haematoxylin")
    return open_store(out)


def test_amibr_has_its_published_counts(amibr: Store) -> None:
    samples = amibr.samples
    assert Counter(samples["label"]) == {1: 832, 0: 2888}
    counts = {
        str(domain): (int((rows == 1).sum()), int((rows == 0).sum()))
        for domain, rows in samples.groupby("domain")["label"]
    }
    assert counts == AMIBR
    assert amibr.attributes.domains == tuple(sorted(AMIBR))
    assert samples["slide"].str.startswith("MIDOG21/").sum() == 1721
    assert set(samples["experts_asked"]) == {3}
    assert ((samples["experts_atypical"] >= 2) == (samples["label"] == 1)).all()
    assert samples[["x_px0", "y_px0"]].notna().all(axis=None)


def test_amibrs_pixels_are_its_crops_and_its_labels_their_folders(amibr: Store, real_data: Path) -> None:
    rows = np.arange(0, 3720, 37)
    for row, image in zip(rows, amibr.images(rows), strict=True):
        sample = amibr.samples.iloc[row]
        folder = "Atypical" if sample["label"] else "Normal"
        crop = real_data / "patches/AMi-Br" / folder / f"{sample['source_id']}.png"
        assert np.array_equal(image, np.asarray(Image.open(crop).convert("RGB")))


def test_amibr_verifies_and_has_no_figure_twice(amibr: Store) -> None:
    found = verify(amibr.folder)
    assert (found.faults, found.notes, found.samples, found.distinct) == ((), (), 3720, 3720)


def test_atnorm_is_as_described(atnorm: Store) -> None:
    assert Counter(atnorm.samples["label"]) == {1: 128, 0: 618}
    assert set(atnorm.samples["domain"]) == {"AtNorM-Br"}
    found = verify(atnorm.folder)
    assert found.faults == ()
    assert (found.samples, found.distinct) == (746, 711)
    assert (found.duplicate_groups, found.contradictory_groups) == (27, 2)
    assert "Atypical/390.png" in found.notes[1]
    assert "Atypical/428.png" in found.notes[1]


def test_nearly_all_of_atnorms_figures_have_a_mask_at_the_centre(atnorm: Store) -> None:
    flagged = atnorm.samples["mask_flag"] != "ok"
    assert flagged.mean() < 0.1
    masks = atnorm.masks(np.flatnonzero(~flagged))
    assert masks[:, 48:80, 48:80].any(axis=(1, 2)).all()


def test_the_outside_test_set_shares_no_figure_with_amibr(amibr: Store, atnorm: Store) -> None:
    overlap = overlap_with(atnorm, amibr)
    assert (overlap.samples, overlap.slides, overlap.apart) == (0, 0, ("AtNorM-Br",))


@pytest.mark.parametrize(("source", "patch_px"), [("csv", 128), ("csv", 64), ("midog25", 128)])
def test_figures_cut_from_the_slide_are_the_published_crops(
    real_data: Path, amibr: Store, tmp_path: Path, source: str, patch_px: int
) -> None:
    labels = pd.read_csv(real_data / "labels/mosaic-094.csv")
    path = real_data / "labels/mosaic-094.csv"
    if source == "midog25":
        rows = [
            {
                "image_id": row.png,
                "filename": row.slide,
                "coordinateX": row.x,
                "coordinateY": row.y,
                "Tumor": "human breast cancer",
                "majority": row.label,
            }
            for row in labels.itertuples()
        ]
        path = write_csv(tmp_path / "midog25.csv", MIDOG25_COLUMNS, rows)
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "mosaic-094.tiff").symlink_to(real_data / "slides/mosaic-094.tiff")
    result = built(source, path, tmp_path / "s.zarr", images=slides, patch_px=patch_px)
    assert (result.samples, result.parts) == (82, 1)
    store = open_store(tmp_path / "s.zarr")
    png_at = {(row.x, row.y): row.png for row in labels.itertuples()}
    published = {path.name: path for path in (real_data / "patches/AMi-Br").rglob("*.png")}
    trim = slice(64 - patch_px // 2, 64 + patch_px // 2)
    for sample, image in zip(store.samples.itertuples(), store.images(), strict=True):
        crop = np.asarray(Image.open(published[png_at[sample.x_px0, sample.y_px0]]).convert("RGB"))
        assert np.array_equal(image, crop[trim, trim])
        assert sample.digest == sample_digests(crop[None])[0]
    overlap = overlap_with(amibr, store)
    assert (overlap.samples, overlap.by_digest, overlap.contradictory) == (82, 82, 0)
    assert "MIDOG21 Hamamatsu S360" not in overlap.apart
    assert len(overlap.apart) == 5


def placeholders(folder: Path, names: set[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_midog25s_labels_have_their_counts(real_data: Path, tmp_path: Path) -> None:
    """Its pixels are not here: what is read is the table."""
    path = real_data / "labels/MIDOG25.csv"
    with path.open() as file:
        slides = {row["filename"] for row in csv.DictReader(file)}
    listing = read_midog25(path, placeholders(tmp_path / "slides", slides))
    samples = listing.samples
    assert listing.on_slides
    assert len(samples) == 11_937
    counts = {
        str(domain): (
            int((rows["label"] == 0).sum()),
            int((rows["label"] == 1).sum()),
            rows["slide"].nunique(),
        )
        for domain, rows in samples.groupby("domain")
    }
    assert counts == MIDOG25
    assert Counter(samples["experts_asked"]) == {2: 7127, 3: 4810}
    assert samples.groupby("slide")["domain"].nunique().max() == 1


def test_amibrs_midog21_half_is_midog25s_breast_cancer(real_data: Path, tmp_path: Path) -> None:
    """The leak, by the names of slides and by places, with the same labels."""
    path = real_data / "labels/MIDOG25.csv"
    with path.open() as file:
        slides = {row["filename"] for row in csv.DictReader(file)}
    midog25 = read_midog25(path, placeholders(tmp_path / "slides", slides)).samples
    amibr = read_amibr(real_data / "labels/AMI-BR.csv", real_data / "patches/AMi-Br").samples
    place = ["slide", "x_px0", "y_px0"]
    both = amibr.merge(midog25, on=place, suffixes=("", "_midog25"))
    assert len(both) == 1721
    assert both["domain"].str.startswith("MIDOG21 ").all()
    assert set(both["domain_midog25"]) == {"human breast cancer"}
    assert (both["label"] == both["label_midog25"]).all()
    assert not set(amibr["slide"][amibr["domain"].str.startswith("TUPAC16")]) & set(midog25["slide"])
