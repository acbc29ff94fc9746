"""A recipe and a data set that train in seconds."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.dataset_files import built, figure, write_csv
from tests.evaluations import bundle
from tests.slide_files import tiff_slide
from wsi_mitosis.io.bundles import Bundle
from wsi_mitosis.io.training.runs import read_recipe
from wsi_mitosis.io.training.stores import Store, open_store
from wsi_mitosis.jobs.train import FoldProgress, TrainResult
from wsi_mitosis.recipes import RecipeSpec
from wsi_mitosis.specs import TrainSpec
from wsi_mitosis.workers.folds import train_ensemble

PATCH_PX = 32
CROP_PX = 48
DOMAINS = ("alpha", "beta", "gamma")
NAMED = ("", "metaphase; anaphase", "ring; ring")
"""Subtypes of a slide's figures, in turn."""


def tiny_recipe(**sections: Any) -> RecipeSpec:
    """`nano` at width 2 on 32 px for two epochs; `sections` are merged into its own."""
    data = read_recipe("nano").model_dump()
    data |= {"name": "tiny", "precision": "fp32", "network": {**data["network"], "width": 2}}
    data["input"] |= {"patch_px": PATCH_PX}
    data["decoders"] = {"channels": (8, 4, 2)}
    data["optimiser"] |= {"batch": 8, "epochs": 2}
    data["selection"] |= {"every": 1}
    for name, changes in sections.items():
        data[name] = {**data[name], **changes} if isinstance(changes, dict) else changes
    return RecipeSpec.parse(data, "test")


def write_recipe(path: Path, recipe: RecipeSpec) -> Path:
    """The recipe as a TOML file."""

    def value(of: Any) -> str:
        if isinstance(of, list):
            return f"[{', '.join(map(value, of))}]"
        return {True: "true", False: "false"}.get(of, repr(of)) if isinstance(of, bool) else repr(of)

    data = recipe.model_dump(mode="json", exclude_none=True)
    lines = [f"{name} = {value(of)}" for name, of in data.items() if not isinstance(of, dict)]
    for section, table in data.items():
        if isinstance(table, dict):
            lines += [f"[{section}]", *(f"{name} = {value(of)}" for name, of in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def labelled_slides(folder: Path, per_slide: int = 8, *, subtypes: bool = False) -> Path:
    """Two slides for each of three domains, and `labels.csv`: atypical figures are two blobs, typical one.

    With `subtypes`, two experts name each figure but the first of a slide.
    """
    folder.mkdir(parents=True)
    rows = []
    for number, domain in enumerate(DOMAINS):
        for copy in range(2):
            seed = 10 * number + copy
            slide, centres = slide_of_figures(per_slide, seed)
            name = f"{domain}-{copy}.tiff"
            tiff_slide(folder / name, slide)
            rows += [
                {"slide": name, "x": x, "y": y, "label": "AMF" if i % 2 else "NMF", "domain": domain}
                | ({"subtypes": NAMED[i % 3]} if subtypes else {})
                for i, (x, y) in enumerate(centres)
            ]
    columns = ("slide", "x", "y", "label", "domain", *(["subtypes"] if subtypes else []))
    return write_csv(folder / "labels.csv", columns, rows)


def slide_of_figures(number: int, seed: int) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """Figures in a row, every second one with a hole, and their centres (x, y), level-0 px."""
    crops = [figure(CROP_PX, 100 * seed + i).copy() for i in range(number)]
    middle = CROP_PX // 2
    for crop in crops[1::2]:
        crop[middle - 3 : middle + 3, :] = (225, 175, 205)
    row = np.concatenate(crops, axis=1)
    padded = np.pad(row, ((16, 16), (0, 0), (0, 0)), mode="edge")
    return padded, [(CROP_PX * i + middle, 16 + middle) for i in range(number)]


def tiny_store(folder: Path, masks: str = "haematoxylin", *, subtypes: bool = False) -> Store:
    """A store cut from generated slides, 48 figures in three domains."""
    labels = labelled_slides(folder / "slides", subtypes=subtypes)
    built("csv", labels, folder / "store.zarr", masks=masks, patch_px=CROP_PX)
    return open_store(folder / "store.zarr")


def tiny_bundle(folder: Path, members: int = 3, samples: list[str] | None = None, **fields: Any) -> Bundle:
    """A bundle of members of `tiny_recipe`, one per domain, that is called trained."""
    from wsi_mitosis.nets.members import member_state
    from wsi_mitosis.nets.training import build_network

    recipe = tiny_recipe()
    states = [
        member_state(build_network(recipe.model_copy(update={"seed": seed})).member)
        for seed in range(members)
    ]
    domains = tuple((*DOMAINS, *[None] * members)[:members])
    given = {"input": recipe.input.model_dump(), "network": recipe.network.model_dump(), **fields}
    return bundle(folder, domains, samples or [f"{'f' * 64} alpha"], states=states, **given)


@contextmanager
def with_torch() -> Iterator[None]:
    """Compute with torch what would be compiled: networks that are used once are ready sooner."""
    from wsi_mitosis.nets import compiled

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled, "resolve_backend", lambda *_: "torch")
        yield


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[FoldProgress] = []
        self.warnings: list[str] = []
        self.plans: list[Any] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def planned(self, plan: Any) -> None:
        self.plans.append(plan)

    def progress(self, progress: FoldProgress) -> None:
        self.told.append(progress)


def train_spec(recipe: Path | str, store: Store, out: Path, **options: Any) -> TrainSpec:
    data = {"placement": {"workers": 0, "device": "cpu", "cpus_per_worker": 1}, **options}
    return TrainSpec.parse(
        {"recipe": str(recipe), "dataset": str(store.folder), "out": str(out), **data}, "test"
    )


def trained(recipe: Path | str, store: Store, out: Path, **options: Any) -> tuple[TrainResult, Silent]:
    silent = Silent()
    return train_ensemble(train_spec(recipe, store, out, **options), silent), silent


def metrics_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
