"""A laboratory's story: classify slides, review them blind, agree, measure the ensemble, and adapt it.

    python examples/laboratory.py DATA laboratory

DATA is a folder with `patches/AMi-Br` (github.com/DeepMicroscopy/AMi-Br_Benchmark) and `labels/AMI-BR.csv`
(github.com/DeepMicroscopy/AMi-Br). Slides are made of these real figures. The three reviewers are scripts:
they know the published label of each figure and err at a stated rate.

The shipped bundles were trained on these figures. No number that this script prints is an accuracy.
`docs/how-to/laboratory.md` shows its output.
"""

from __future__ import annotations

import argparse
import json
import re
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
SLIDES, FIGURES = 6, 48
"""Number of slides, and of figures on each."""
REVIEWERS = {"ada": 0.05, "ben": 0.10, "cleo": 0.15}
"""Name of each reviewer, and the share of figures that gets the wrong label."""
UNSURE = 0.02
"""Share of the figures about which a reviewer cannot tell."""


def main(data: Path, folder: Path, model: str, recipe: str) -> None:
    truth = write_slides(data, folder / "slides")
    slides = sorted((folder / "slides").glob("*.tiff"))
    results = folder / "results"

    step(
        "Classify",
        "classify",
        *slides,
        "--detections",
        folder / "candidates.csv",
        "--out",
        results,
        "--model",
        model,
    )
    step("Make a blind page", "review", results, "--blind", "--seed", "1")
    reviews = [
        write_review(results / "review.html", folder, name, error, truth) for name, error in REVIEWERS.items()
    ]
    given = [argument for path in reviews for argument in ("--reviewed", path)]
    step("Count with three reviewers", "recount", results, *given)
    step(
        "Make the page of the consensus round",
        "review",
        results,
        "--disagreements",
        "--reviewer",
        "all three",
    )

    own = folder / "own.zarr"
    step(
        "Make a data set",
        "dataset",
        "build",
        results,
        "--source",
        "reviews",
        "--domain",
        "our laboratory",
        "--out",
        own,
    )
    step(
        "Measure",
        "evaluate",
        "--model",
        model,
        "--dataset",
        own,
        "--out",
        folder / "evaluation",
        "--allow-overlap",
    )
    step(
        "Calibrate",
        "models",
        "calibrate",
        model,
        "--dataset",
        own,
        "--out",
        folder / "calibrated",
        fails=True,
    )
    step(
        "Train further",
        "train",
        recipe,
        "--from",
        model,
        "--dataset",
        own,
        "--out",
        folder / "further",
        fails=True,
    )


def write_slides(data: Path, folder: Path) -> dict[tuple[str, float, float], str]:
    """Write slides of real figures and the candidates' file; return the published label of each figure."""
    labels = pd.read_csv(data / "labels/AMI-BR.csv")
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
    rows = -(-FIGURES // ACROSS)
    pixels = np.full((rows * PATCH_PX, ACROSS * PATCH_PX, 3), 240, dtype=np.uint8)
    for image, (x, y) in placed:
        left, top = round(x - PATCH_PX / 2), round(y - PATCH_PX / 2)
        pixels[top : top + PATCH_PX, left : left + PATCH_PX] = image
    return pixels


def write_review(
    page: Path, folder: Path, name: str, error: float, truth: dict[tuple[str, float, float], str]
) -> Path:
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
    path = folder / f"review-{name}.json"
    path.write_text(json.dumps(review, indent=1), encoding="utf-8")
    return path


def step(title: str, *command: str | Path, fails: bool = False) -> None:
    """Run the program, and show what it says.

    Args:
        title: What the step is for.
        command: The command and its arguments.
        fails: Whether the program may refuse.
    """
    arguments = [str(argument) for argument in command]
    print(f"\n{title}\n$ wsi-mitosis {' '.join(arguments)}", flush=True)
    program = Path(sys.executable).with_name("wsi-mitosis")
    subprocess.run([program, *arguments], check=not fails)  # noqa: S603


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder of crops and labels")
    parser.add_argument("folder", type=Path, help="for slides, reviews and results")
    parser.add_argument("--model", default="fast", help="a bundle  [the fast one]")
    parser.add_argument("--recipe", default="lite0", help="the recipe that it was trained by  [lite0]")
    given = parser.parse_args()
    main(given.data, given.folder, given.model, given.recipe)
