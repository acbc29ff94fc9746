"""A laboratory's story: classify slides, review them blind, agree, measure the ensemble, and adapt it.

    python examples/laboratory.py DATA laboratory

DATA is a folder with `patches/AMi-Br` (github.com/DeepMicroscopy/AMi-Br_Benchmark) and `labels/AMI-BR.csv`
(github.com/DeepMicroscopy/AMi-Br). Slides are made of these real figures. The three reviewers are scripts:
they know the published label of each figure and err at a stated rate.

The figures are of one scanner, and the ensemble is the member of `amibr-lite2` that was trained without it.
Its threshold was chosen on other scanners. `docs/how-to/laboratory.md` shows the output.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from wsi_mitosis.io.slides.demo import write_slide

MPP = 0.25
PATCH_PX = 128
ACROSS = 8
"""Patches in a row of a slide."""
DOMAIN, LAST_SLIDE = "TUPAC16 01-23", 23
"""The slides of one scanner, which are numbered, and the last of them."""
SLIDES, FIGURES = 10, 24
"""Number of slides, and of figures on each."""
REVIEWERS = {"ada": 0.05, "ben": 0.10, "cleo": 0.15}
"""Name of each reviewer, and the share of figures that gets the wrong label."""
UNSURE = 0.02
"""Share of the figures about which a reviewer cannot tell."""


BEFORE = (
    (
        "Take the member that has not seen the scanner",
        f'models combine amibr-lite2 --test-domain "{DOMAIN}" --out unseen',
    ),
    ("Classify", "classify slides --detections candidates.csv --out results --model unseen"),
    ("Make a blind page", "review results --blind --seed 1"),
)
AFTER = (
    (
        "Count with three reviewers",
        f"recount results {' '.join(f'--reviewed review-{name}.json' for name in REVIEWERS)}",
    ),
    ("Make the page of the consensus round", 'review results --disagreements --reviewer "all three"'),
    ("Make a data set", 'dataset build results --source reviews --domain "our scanner" --out own.zarr'),
    ("Measure", "evaluate --model unseen --dataset own.zarr --out evaluation"),
    ("Calibrate", "models calibrate unseen --dataset own.zarr --out calibrated"),
    ("Train further", "train lite2 --from unseen --dataset own.zarr --out further"),
)
"""What is done before and after the three reviews: a title and a command each."""


def main(data: Path, folder: Path) -> None:
    truth = write_slides(data, folder / "slides")
    for title, command in BEFORE:
        step(title, command, folder)
    for name, error in REVIEWERS.items():
        write_review(folder / "results/review.html", folder / f"review-{name}.json", name, error, truth)
    for title, command in AFTER:
        step(title, command, folder)


def write_slides(data: Path, folder: Path) -> dict[tuple[str, float, float], str]:
    """Write slides of real figures and the candidates' file; return the published label of each figure."""
    labels = pd.read_csv(data / "labels/AMI-BR.csv")
    labels = labels[labels["dataset"] == "TUPAC16"]
    labels = labels[labels["slide"].str[:2].astype(int) <= LAST_SLIDE]
    chosen = labels.groupby("slide").filter(lambda slide: len(slide) >= FIGURES)
    truth, rows = {}, []
    for slide, figures in list(chosen.groupby("slide"))[:SLIDES]:
        name = f"{Path(str(slide)).stem}.tiff"
        placed = list(zip(figures.head(FIGURES).itertuples(), places(), strict=True))
        write_slide(folder / name, canvas([(crop(data, figure), place) for figure, place in placed]), MPP)
        for figure, (x, y) in placed:
            truth[name, x, y] = "atypical" if figure.majority_atypical else "typical"
            rows.append((name, x, y))
    table = pd.DataFrame(rows, columns=["slide", "x", "y"])
    table.to_csv(folder.parent / "candidates.csv", index=False)
    return truth


def places() -> list[tuple[float, float]]:
    """Return the centres of a slide's patches, px."""
    half = PATCH_PX / 2
    return [(n % ACROSS * PATCH_PX + half, n // ACROSS * PATCH_PX + half) for n in range(FIGURES)]


def crop(data: Path, figure: Any) -> np.ndarray:
    """Return the published crop of a figure."""
    label = "Atypical" if figure.majority_atypical else "Normal"
    path = data / "patches/AMi-Br" / label / f"{figure.dataset}_{figure.uid}.png"
    return np.asarray(Image.open(path).convert("RGB"))


def canvas(placed: list[tuple[np.ndarray, tuple[float, float]]]) -> np.ndarray:
    """Return the slide's pixels, on which each crop lies around its place."""
    rows = -(-len(placed) // ACROSS)
    pixels = np.full((rows * PATCH_PX, ACROSS * PATCH_PX, 3), 240, dtype=np.uint8)
    for image, (x, y) in placed:
        left, top = round(x - PATCH_PX / 2), round(y - PATCH_PX / 2)
        pixels[top : top + PATCH_PX, left : left + PATCH_PX] = image
    return pixels


def write_review(
    page: Path, path: Path, name: str, error: float, truth: dict[tuple[str, float, float], str]
) -> None:
    """Write the file that the page would save for a reviewer who errs at a rate."""
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise SystemExit(f"{page} is no review page")
    review = json.loads(found[1])["file"] | {"reviewer": name}
    random = np.random.default_rng(list(name.encode()))
    other = {"atypical": "typical", "typical": "atypical"}
    for figure in review["figures"]:
        label = truth[figure["slide"], figure["x_px0"], figure["y_px0"]]
        draw = random.uniform()
        figure["label"] = "unsure" if draw < UNSURE else other[label] if draw < UNSURE + error else label
        figure |= {"at": "2026-01-02T03:04:05+00:00", "seconds": 1.0}
    path.write_text(json.dumps(review, indent=1), encoding="utf-8")


def step(title: str, command: str, folder: Path) -> None:
    """Run the program in the folder, and show what it says."""
    print(f"\n{title}\n$ wsi-mitosis {command}", flush=True)
    program = Path(sys.executable).absolute().with_name("wsi-mitosis")
    subprocess.run([program, *shlex.split(command)], check=True, cwd=folder)  # noqa: S603


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder of crops and labels")
    parser.add_argument("folder", type=Path, help="for slides, reviews and results")
    given = parser.parse_args()
    main(given.data, given.folder)
