"""Real figures on a DICOM slide: the mosaic, written as a whole-slide series."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.dicom_files import complaints, dicom_slide
from tests.runs import run
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.slides import open_slide

MPP = 0.23


@pytest.fixture(scope="module")
def mosaic(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with open_slide(real_data / "slides/mosaic-094.tiff") as slide:
        image = slide.window(0, 0, 0, *slide.size_px0, 255).pixels
    return dicom_slide(tmp_path_factory.mktemp("dicom") / "mosaic", image, MPP, levels=3)


def test_the_mosaics_figures_as_dicom_annotations(
    real_data: Path, mosaic: Path, tmp_path: Path, small_bundle: Path
) -> None:
    """Same figures, labels and probabilities as on the TIFF, and each point on its own real figure."""
    table = pd.read_csv(real_data / "labels/mosaic-094.csv")
    table.to_csv(tmp_path / "tiff.csv", index=False)
    table.assign(slide=mosaic.name).to_csv(tmp_path / "dicom.csv", index=False)
    tiff, dicom = tmp_path / "tiff", tmp_path / "dicom"
    run([real_data / "slides/mosaic-094.tiff"], tmp_path / "tiff.csv", tiff, small_bundle)
    assert run([mosaic], tmp_path / "dicom.csv", dicom, small_bundle, output={"dicom": True}).exit_status == 0
    same = ["x_px0", "y_px0", "label", "votes_atypical", "p_atypical"]
    figures = read_figures(dicom / f"figures/{mosaic.name}.parquet")
    pd.testing.assert_frame_equal(
        figures[same], read_figures(tiff / "figures/mosaic-094.tiff.parquet")[same], rtol=1e-6
    )
    path = dicom / f"dicom/{mosaic.name}.dcm"
    assert complaints(path) == []
    groups = highdicom.ann.annread(path).AnnotationGroupSequence
    assert sum(group.number_of_annotations for group in groups) == 82
    crops = {(row.x, row.y): row.png for row in table.itertuples()}
    with open_slide(mosaic) as slide:
        for group in groups:
            label = group.AnnotationGroupLabel.removeprefix("Untrained: ").lower()
            points = np.concatenate(group.get_graphic_data("2D"))
            of_label = figures.loc[figures["label"] == label, ["x_px0", "y_px0"]]
            np.testing.assert_array_equal(points, of_label)
            for x, y in points.astype(int):
                pixels = slide.window(0, x - 64, y - 64, 128, 128, 255).pixels
                np.testing.assert_array_equal(pixels, crop(real_data, crops[x, y]))


def crop(data: Path, name: str) -> np.ndarray:
    kinds = (data / "patches/AMi-Br" / kind / name for kind in ("Atypical", "Normal"))
    return np.asarray(Image.open(next(path for path in kinds if path.exists())).convert("RGB"))


def test_the_mosaic_as_dicom_is_valid(mosaic: Path) -> None:
    for path in sorted(mosaic.parent.iterdir()):
        assert complaints(path) == []
