"""Small data sets that the suite generates, in the layouts in which real ones are published."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.slide_files import textured
from wsi_mitosis.io.training.stores import Store, sample_table, write_store
from wsi_mitosis.jobs.dataset import BuildResult, PartOutcome
from wsi_mitosis.specs import DatasetSpec
from wsi_mitosis.workers.datasets import build_dataset

AMIBR_COLUMNS = (
    *("", "slide", "dataset", "uid", "x", "y", "expert1_label", "expert2_label"),
    *("expert1_atypical", "expert2_atypical", "expert3_atypical", "majority_atypical"),
)
MIDOG25_COLUMNS = (
    *("image_id", "filename", "coordinateX", "coordinateY", "Tumor", "Scanner", "Origin", "Species"),
    *("expert1", "expert2", "expert3", "majority"),
)


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[PartOutcome] = []
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def start(self, parts: int, samples: int) -> None:
        self.planned = parts, samples

    def finished(self, outcome: PartOutcome) -> None:
        self.outcomes.append(outcome)


def spec(source: str, path: Path, out: Path, **options: Any) -> DatasetSpec:
    """A build in this process without masks."""
    data = {"masks": "none", "placement": {"workers": 0}, **options}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in data.items()}
    return DatasetSpec.parse({"source": source, "path": str(path), "out": str(out), **given}, "test")


def built(source: str, path: Path, out: Path, **options: Any) -> BuildResult:
    return build_dataset(spec(source, path, out, **options), Told())


def figure(side_px: int, seed: int) -> NDArray[np.uint8]:
    """(P, P, 3) uint8: pale stroma with a dark figure in the middle, which a haematoxylin mask finds."""
    generator = np.random.default_rng(seed)
    stroma = np.array([225, 175, 205]) + generator.integers(-6, 6, (side_px, side_px, 3))
    image = Image.fromarray(stroma.astype(np.uint8))
    half_width, half_height = generator.integers(7, 11, 2)
    centre = side_px // 2
    corners = (centre - half_width, centre - half_height, centre + half_width, centre + half_height)
    ImageDraw.Draw(image).ellipse(corners, fill=(60, 25, 110))
    return np.asarray(image)


def crop(path: Path, side_px: int = 32, seed: int = 0) -> Path:
    """A crop like no other, losslessly kept where its type allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(textured(side_px, side_px, seed)).save(path)
    return path


def crops_folder(folder: Path, atypical: int = 3, typical: int = 5, side_px: int = 32) -> Path:
    """`Atypical/1.png` ... and `Normal/1.png` ..., no two alike."""
    for number in range(atypical):
        crop(folder / "Atypical" / f"{number + 1}.png", side_px, seed=number)
    for number in range(typical):
        crop(folder / "Normal" / f"{number + 1}.png", side_px, seed=1000 + number)
    return folder


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def amibr_row(
    dataset: str, slide: str, uid: int, votes: str = "nnn", x: float = 9, y: float = 9, *subtypes: str
) -> dict[str, Any]:
    """A row of AMI-BR.csv; `votes`: a or n for each of three experts, `subtypes`: names by two of them."""
    experts = {f"expert{i}_atypical": str(vote == "a") for i, vote in enumerate(votes, start=1)}
    majority = str(votes.count("a") > 1)
    return {
        "slide": slide,
        "dataset": dataset,
        "uid": uid,
        "x": x,
        "y": y,
        **{f"expert{i}_label": name for i, name in enumerate(subtypes, start=1)},
        **experts,
        "majority_atypical": majority,
    }


def midog25_row(
    number: int,
    filename: str,
    tumor: str,
    experts: Sequence[str],
    majority: str,
    x: float = 40,
    y: float = 40,
) -> dict[str, Any]:
    return {
        "image_id": f"{number}.png",
        "filename": filename,
        "coordinateX": x,
        "coordinateY": y,
        "Tumor": tumor,
        **dict(zip(("expert1", "expert2", "expert3"), experts, strict=True)),
        "majority": majority,
    }


def samples(number: int, **columns: Any) -> dict[str, Any]:
    """Columns of that many samples, each of which may be replaced."""
    return {
        "source_id": [f"s{i}" for i in range(number)],
        "slide": [""] * number,
        "domain": ["d"] * number,
        "label": [i % 2 for i in range(number)],
        "label_source": ["folder"] * number,
        "experts_atypical": [0] * number,
        "experts_asked": [0] * number,
        "x_px0": [np.nan] * number,
        "y_px0": [np.nan] * number,
        "subtypes": [""] * number,
        "mask_flag": ["none"] * number,
        **columns,
    }


def store(
    folder: Path,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None = None,
    fields: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Store:
    """A store of images as they are; `columns` as for `samples`, `fields` replace attributes."""
    masks = np.zeros(images.shape[:3], np.uint8) if masks is None else masks
    given = {
        "name": "test",
        "patch_px": images.shape[1],
        "mpp": None,
        "licence": "CC0",
        "source": "folder",
        "mask_provider": "none",
        "mask_provider_version": "",
        **(fields or {}),
    }
    return write_store(folder, given, sample_table(samples(len(images), **columns)), [(images, masks)])


def random_images(number: int, side_px: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    """(N, P, P, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (number, side_px, side_px, 3), dtype=np.uint8)
