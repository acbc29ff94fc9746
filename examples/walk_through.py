"""The tutorial in one script: a slide, its candidates, the run, a review, and pictures of the results.

    python examples/walk_through.py walk-through

uses the H&E image that TIAToolbox ships, as `wsi-mitosis demo` does. The pictures of `docs/tutorial.md` show
drawn tissue. This makes them again:

    python examples/walk_through.py walk-through --drawn --pictures docs/pictures

The pictures of pages need Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import openslide
import pandas as pd
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from wsi_mitosis.core.nuclei import darkest_nuclei
from wsi_mitosis.io.slides.demo import he_image, write_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

MPP = 0.25
CANDIDATES = 40
CLASSIFY = (
    "wsi-mitosis classify walk-through/slide.tiff --detections walk-through/candidates.csv "
    "--out walk-through/results --merge-um 8 --hotspot-area 0.02 --qupath-project"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REPORT_PX = (1240, 1900)
SLIDE_BOX = (0, 400, 1240, 1400)
"""The part of the report's picture with the first slide, without its gallery."""
REVIEW_PX = (1200, 760)
REVIEW_BOX = (0, 0, *REVIEW_PX)
COLOURS_OF_PAGES = 128
"""Colours of a picture of a page, so that it stays small."""
COLOURS = {"atypical": (220, 20, 60), "typical": (0, 114, 178), "hotspot": (255, 140, 0)}
FIGURE_UM = 12.5
CROP_UM = 32
CROP_PX = 128
STRIP = 6
"""Crops in a row of the strip."""


def main(folder: Path, pictures: Path, model: str | None, *, drawn: bool) -> None:
    image = drawn_tissue() if drawn else he_image()
    write_slide(folder / "slide.tiff", image, MPP)
    nuclei = darkest_nuclei(image, MPP, CANDIDATES)  # a detector's output in real life
    table = pd.DataFrame(nuclei.round(2), columns=["x", "y", "score"])
    table.insert(0, "slide", "slide.tiff")
    table.to_csv(folder / "candidates.csv", index=False)

    command = [part.replace("walk-through", str(folder)) for part in CLASSIFY.split()]
    wsi_mitosis(*command[1:], *(["--model", model] if model else []))

    figures = geopandas.read_parquet(folder / "results/figures/slide.tiff.parquet")
    figures = figures[figures["label"].notna()].sort_values("p_atypical", ascending=False)
    geojson = json.loads((folder / "results/geojson/slide.tiff.geojson").read_text(encoding="utf-8"))
    pictures.mkdir(parents=True, exist_ok=True)
    with openslide.OpenSlide(folder / "slide.tiff") as slide:
        overview(slide, figures, geojson["features"]).save(pictures / "overview.jpg", quality=85)
        strip(slide, figures).save(pictures / "strip.jpg", quality=90)
    report = folder / "results/report.html"
    picture_of(report, pictures / "report.png", REPORT_PX, SLIDE_BOX)

    wsi_mitosis("review", folder / "results", "--reviewer", "anna")
    picture_of(folder / "results/review.html", pictures / "review.png", REVIEW_PX, REVIEW_BOX)

    review(geojson, folder / "reviewed" / "slide.tiff.geojson")
    wsi_mitosis("recount", folder / "results", "--reviewed", folder / "reviewed")
    wsi_mitosis("report", folder / "results")
    picture_of(report, pictures / "reviewed.png", REPORT_PX, SLIDE_BOX)
    print(f"Pictures in {pictures}; in QuPath open {folder / 'results/qupath/project.qpproj'}")


def wsi_mitosis(*arguments: str | Path) -> None:
    """Run the program."""
    subprocess.run([Path(sys.executable).with_name("wsi-mitosis"), *arguments], check=True)  # noqa: S603


def review(geojson: dict[str, Any], path: Path) -> None:
    """Write what a pathologist would export: the first figure has the other class, the second is deleted."""
    first, _, *others = geojson["features"]
    first["properties"]["classification"] = {"name": "Mitosis: Typical"}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [first, *others]}), encoding="utf-8")


def picture_of(page: Path, picture: Path, window_px: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """Save a picture of a part of a page, if a browser is installed."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print(f"{picture} needs Chromium, which is not installed")
        return
    options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]
    size = ",".join(map(str, window_px))
    command = [
        browser,
        *options,
        f"--window-size={size}",
        f"--screenshot={picture}",
        page.absolute().as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the browser of this machine
    with Image.open(picture) as image:
        image.convert("RGB").crop(box).quantize(COLOURS_OF_PAGES).save(picture, optimize=True)


def overview(
    slide: openslide.OpenSlide, figures: pd.DataFrame, features: list[dict[str, Any]]
) -> Image.Image:
    """The slide, its figures in their colours, and the hotspot."""
    picture = slide.get_thumbnail((1000, 1000)).convert("RGB")
    scale = picture.width / slide.dimensions[0]
    draw = ImageDraw.Draw(picture)
    for (
        feature
    ) in features:  # QuPath's objects; this slide has no bounds, so they lie in the slide's own frame
        if feature["properties"]["classification"]["name"] == "Hotspot":
            ring = [(x * scale, y * scale) for x, y in feature["geometry"]["coordinates"][0]]
            draw.line(ring, fill=COLOURS["hotspot"], width=4)
    radius = FIGURE_UM / 2 / MPP * scale
    for figure in figures.to_dict("records"):
        x, y = figure["x_px0"] * scale, figure["y_px0"] * scale
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), outline=COLOURS[figure["label"]], width=3
        )
    return picture


def strip(slide: openslide.OpenSlide, figures: pd.DataFrame) -> Image.Image:
    """The figures nearest to atypical above, nearest to typical below, each 32 um wide."""
    side, edge, caption = CROP_PX + 8, 4, 16
    sheet = Image.new("RGB", (STRIP * side, 2 * (side + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    half = CROP_UM / MPP / 2
    for row, chosen in enumerate((figures.head(STRIP), figures.tail(STRIP))):
        for column, figure in enumerate(chosen.to_dict("records")):
            corner = (round(figure["x_px0"] - half), round(figure["y_px0"] - half))
            crop = slide.read_region(corner, 0, (round(2 * half), round(2 * half))).convert("RGB")
            left, top = column * side, row * (side + caption)
            draw.rectangle((left, top, left + side - 1, top + side - 1), fill=COLOURS[figure["label"]])
            sheet.paste(crop.resize((CROP_PX, CROP_PX)), (left + edge, top + edge))
            votes = f"{figure['votes_atypical']:.0f}/{figure['votes_cast']:.0f}"
            told = f"{figure['label']} {figure['p_atypical']:.2f}, {votes}"
            draw.text((left + edge, top + side + 2), told, fill="black")
    return sheet


def drawn_tissue(width: int = 1600, height: int = 1200, seed: int = 0) -> NDArray[np.uint8]:
    """Something like H&E without anyone's tissue: (height, width, 3) uint8 RGB.

    Pink ground, pale purple nuclei, and dark figures: plates, pairs of plates, and a few in three parts.
    """
    random = np.random.default_rng(seed)
    ground = gaussian_filter(random.normal(size=(height, width)), 12)
    ground /= np.abs(ground).max()
    nuclei, figures = (Image.new("L", (width, height)) for _ in range(2))
    draw = ImageDraw.Draw(nuclei)
    for x, y, r in random.uniform((0, 0, 10), (width, height, 18), (900, 3)):
        draw.ellipse((x - r, y - 0.8 * r, x + r, y + 0.8 * r), fill=int(random.uniform(90, 160)))
    draw = ImageDraw.Draw(figures)
    for x, y in random.uniform((60, 60), (width - 60, height - 60), (36, 2)):
        turn, parts = random.uniform(0, np.pi), random.choice([1, 1, 2, 2, 3])
        for part in range(parts):
            angle = turn + part * 2 * np.pi / parts
            away = 0 if parts == 1 else 9
            cx, cy = x + away * np.cos(angle), y + away * np.sin(angle)
            across = np.array([-np.sin(angle), np.cos(angle)]) * random.uniform(9, 14)
            draw.line((cx - across[0], cy - across[1], cx + across[0], cy + across[1]), fill=255, width=8)
    pale = gaussian_filter(np.asarray(nuclei, dtype=np.float64), 1.5)[..., None] / 255
    dark = gaussian_filter(np.asarray(figures, dtype=np.float64), 1.2)[..., None] / 255
    pixels = np.array([236.0, 182, 208]) + 14 * ground[..., None]
    pixels = pixels * (1 - pale) + np.array([104.0, 74, 150]) * pale
    pixels = pixels * (1 - dark) + np.array([44.0, 28, 84]) * dark
    pixels += random.normal(scale=3, size=pixels.shape)
    tissue: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)
    return tissue


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for the slide, its candidates and the results")
    parser.add_argument("--drawn", action="store_true", help="draw the tissue")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures  [FOLDER/pictures]")
    parser.add_argument("--model", help="a bundle  [the shipped default]")
    given = parser.parse_args()
    main(given.folder, given.pictures or given.folder / "pictures", given.model, drawn=given.drawn)
