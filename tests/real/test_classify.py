"""The main job on real slides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.detection_files import write_all
from tests.runs import run, summary
from wsi_mitosis import classify_slide
from wsi_mitosis.core.nuclei import darkest_nuclei
from wsi_mitosis.io.bundles import open_bundle
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.jobs.predict import predict_crops
from wsi_mitosis.nets.ensembles import Ensemble

CMU = "slides/CMU-1-Small-Region.svs"
CMU_MPP = 0.499


def test_candidates_of_every_format_give_the_same_figures_on_cmu(
    real_data: Path, tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    """Dark nuclei of the real slide, written in every format."""
    with open_slide(real_data / CMU) as slide:
        nuclei = darkest_nuclei(slide.window(0, 0, 0, 1200, 1200, 255).pixels, CMU_MPP, 12)
    xy = [(float(x), float(y)) for x, y in nuclei[:, :2].round(2)]
    scores = [round(0.9 - 0.01 * index, 3) for index in range(len(xy))]
    assert len(xy) == 12
    found = {}
    files = write_all(tmp_path / "dets", "CMU-1-Small-Region.svs", xy, scores, (CMU_MPP, CMU_MPP))
    for name, path in files.items():
        out = tmp_path / "out" / name
        assert run([real_data / CMU], path, out, small_bundle).exit_status == 0
        assert_geojson_ok(out / "geojson/CMU-1-Small-Region.svs.geojson")
        figures = read_figures(out / "figures/CMU-1-Small-Region.svs.parquet")
        # um and mm come back as px with the rounding of a float64; half a pixel would show in p_atypical
        found[name] = figures[["figure_id", "label"]].assign(p=figures["p_atypical"].round(6)).values.tolist()
    first = found.pop("csv")
    assert len(found) >= 10
    for name, figures in found.items():
        assert figures == first, name


@pytest.mark.parametrize("patch_px", [128, 64])
def test_a_figure_on_the_slide_is_the_same_as_its_crop(
    real_data: Path, tmp_path: Path, patch_px: int
) -> None:
    """p_atypical from the mosaic equals that of `predict` on the published PNGs to 1e-6."""
    bundle = write_untrained(tmp_path / "b", patch_px=patch_px, name="b", members=2)
    result = classify_slide(
        real_data / "slides/mosaic-094.tiff",
        real_data / "labels/mosaic-094.csv",
        bundle=bundle.folder,
        device="cpu",
    )
    figures = result.figures[result.figures["label"].notna()]
    assert len(figures) == 82
    crops = np.stack([np.asarray(Image.open(png(real_data, name)).convert("RGB")) for name in figures["png"]])
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    votes = predict_crops(crops, ensemble, bundle)
    np.testing.assert_allclose(figures["p_atypical"], votes.p_atypical, atol=1e-6, rtol=0)
    assert (figures["label"] == "atypical").tolist() == votes.is_atypical.tolist()


def test_the_mosaics_hotspot_is_the_best_of_all_windows(
    real_data: Path, tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    """0.5 mm^2 on 82 real figures, against every pair of figures as a window's corner."""
    asked = {"hotspot_area": 0.5, "hotspots": 2}
    labels = real_data / "labels/mosaic-094.csv"
    run([real_data / "slides/mosaic-094.tiff"], labels, tmp_path, small_bundle, output=asked)
    row = summary(tmp_path)["mosaic-094.tiff"]
    figures = read_figures(tmp_path / "figures/mosaic-094.tiff.parquet")
    x, y, atypical = figures["x_px0"], figures["y_px0"], figures["label"] == "atypical"
    with open_slide(real_data / "slides/mosaic-094.tiff") as slide:
        size, mpp = slide.size_px0, slide.mpp
    best = (0, 0)
    for proportion in (4 / 3, 3 / 4):
        width, height = (0.5e6 * proportion) ** 0.5 / mpp.x, (0.5e6 / proportion) ** 0.5 / mpp.y
        for left in {*x[x <= size[0] - width], size[0] - width}:
            for top in {*y[y <= size[1] - height], size[1] - height}:
                inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
                best = max(best, (int(inside.sum()), int(atypical[inside].sum())))
    assert (int(row["hotspot_mitoses"]), int(row["hotspot_atypical"])) == best
    assert float(row["hotspot_mitoses_per_mm2"]) == best[0] / 0.5
    path = tmp_path / "geojson/mosaic-094.tiff.geojson"
    assert_geojson_ok(path)
    drawn = [f["properties"] for f in json.loads(path.read_text())["features"] if f["properties"].get("name")]
    assert [spot["name"] for spot in drawn] == ["Hotspot 1", "Hotspot 2"]
    counts = [spot["measurements"]["Machine mitosis count"] for spot in drawn]
    assert best[0] == counts[0] >= counts[1] > 0


def png(data: Path, name: str) -> Path:
    return next(
        path for kind in ("Atypical", "Normal") if (path := data / "patches/AMi-Br" / kind / name).exists()
    )


def test_one_bad_slide_among_real_ones(
    real_data: Path, tmp_path: Path, small_bundle: Path, assert_geojson_ok: Callable[[Path], None]
) -> None:
    """The whole folder: four open and are done, three fail alone, each with its own reason."""
    names = [path.name for path in sorted((real_data / "slides").iterdir())]
    rows = [f"{name},{x},{y}" for name in names for x, y in ((200, 150), (640.5, 480.25))]
    (tmp_path / "d.csv").write_text("\n".join(["slide,x,y", *rows]))
    result = run([real_data / "slides"], tmp_path / "d.csv", tmp_path / "out", small_bundle)
    assert result.exit_status == 1
    table = summary(tmp_path / "out")
    done = {"CMU-1-Small-Region.svs", "OS-1-detail.ome.tif", "mosaic-094.tiff", "test3-DAPI-2-387.ndpi"}
    assert {name for name, row in table.items() if row["status"] == "done"} == done
    for name in done:
        assert_geojson_ok(tmp_path / "out/geojson" / f"{name}.geojson")
        assert table[name]["classified"] == "2"
    reasons = {name: row["error"] for name, row in table.items() if row["status"] == "failed"}
    assert "28.969" in reasons["ezwsi_camelyon.dcm"]
    assert "--mpp" in reasons["ezwsi_camelyon.dcm"]
    assert "352.778" in reasons["osp_boxes.tiff"]
    assert "cannot" in reasons["pathml_small_dicom.dcm"] or "Couldn't" in reasons["pathml_small_dicom.dcm"]
    assert len(reasons) == 3


def test_an_absurd_pixel_size_is_replaced_by_a_given_one(
    real_data: Path, tmp_path: Path, small_bundle: Path
) -> None:
    (tmp_path / "d.csv").write_text("slide,x,y\nosp_boxes.tiff,100,100\n")
    slide = real_data / "slides/osp_boxes.tiff"
    result = run([slide], tmp_path / "d.csv", tmp_path / "out", small_bundle, result={"mpp": 0.25})
    assert result.exit_status == 0
    assert summary(tmp_path / "out")["osp_boxes.tiff"]["mpp_source"] == "given"


def test_a_slide_coarser_than_the_bundle_is_enlarged_with_a_warning(
    real_data: Path, small_bundle: Path
) -> None:
    table = pd.DataFrame({"x": [500.0], "y": [600.0]})
    result = classify_slide(real_data / CMU, table, bundle=small_bundle, device="cpu")
    assert any("enlarged 2.00 times" in warning for warning in result.warnings)
    assert open_bundle(small_bundle).digest == result.record.model.digest
