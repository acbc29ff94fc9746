"""AnnData and SpatialData, written and read by their own libraries, which `make exports` installs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export_files import DIGEST, MPP, PLACES, exported
from tests.slide_files import tiff_slide
from wsi_mitosis.errors import SlideError, SpecError
from wsi_mitosis.io.results.exports import FORMATS, Export

pytestmark = pytest.mark.filterwarnings("ignore")  # their imports warn about their own dependencies
IDS = exported().figures["figure_id"].tolist()


def needs(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"make exports installs {', '.join(missing)}")


def annotated(path: Path, *exports: Export) -> Any:
    import anndata

    FORMATS["anndata"].write(path, exports)
    return anndata.read_h5ad(path)


def spatial(path: Path, export: Export) -> Any:
    from spatialdata import read_zarr

    FORMATS["spatialdata"].write(path, [export])
    return read_zarr(path)


@pytest.mark.parametrize("to", ["anndata", "spatialdata"])
def test_a_missing_library_is_named_with_every_way_to_install_it(
    to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SpecError) as raised:
        FORMATS[to].check_installed(to)
    for words in (
        f"--to {to}: ",
        "not installed: ",
        "pip install ",
        "anndata",
        "--no-index",
    ):
        assert words in str(raised.value)


# --- AnnData


@needs("anndata")
def test_anndata_has_a_row_per_figure_of_every_slide(tmp_path: Path) -> None:
    read = annotated(tmp_path / "f.h5ad", exported(), exported(PLACES[1:2], "b.svs", trained=False))
    assert read.shape == (4, 0)
    np.testing.assert_array_equal(read.obsm["spatial"], [*PLACES, PLACES[1]])
    assert read.obsm["spatial_um"][1].tolist() == [250.5 * 0.25, 300.25 * 0.5]
    obs = read.obs
    assert obs["slide"].tolist() == ["a.svs"] * 3 + ["b.svs"]
    assert obs["figure_id"].tolist()[:3] == IDS
    assert obs["label"].tolist() == ["atypical", "typical", "atypical", "atypical"]
    assert obs["class"].tolist()[2:] == ["Mitosis: Atypical", "Untrained: Atypical"]
    assert obs["votes_atypical"].tolist() == [5, 1, 3, 5]
    assert obs["p_atypical"].tolist()[:3] == [0.9, 0.25, 0.48]
    assert obs["detector_score"].isna().tolist() == [False, True, False, False]
    assert obs["trained"].tolist() == [True, True, True, False]
    assert obs["bundle_digest"].tolist() == [DIGEST] * 4
    assert read.obs_names.is_unique


@needs("anndata")
def test_anndata_says_what_the_labels_are_and_lists_every_slide(tmp_path: Path) -> None:
    read = annotated(tmp_path / "f.h5ad", exported(), exported((), "b.svs", trained=False))
    assert read.uns["wsi_mitosis"]["use"] == "research use only; untrained: the labels mean nothing"
    slides = read.uns["slides"]
    assert slides.index.tolist() == ["a.svs", "b.svs"]
    assert slides["trained"].tolist() == [True, False]
    assert slides["bundle"].tolist() == ["nano", "nano"]
    assert slides.loc["a.svs", ["mpp_x_um", "mpp_y_um"]].tolist() == list(MPP)


@needs("anndata")
def test_anndata_of_slides_without_figures_is_empty(tmp_path: Path) -> None:
    read = annotated(tmp_path / "f.h5ad", exported((), spots=()))
    assert read.n_obs == 0
    assert read.uns["slides"].index.tolist() == ["a.svs"]


# --- SpatialData


@needs("spatialdata")
def test_spatialdata_has_circles_in_pixels_and_a_scale_to_um(tmp_path: Path) -> None:
    from spatialdata.transformations import get_transformation

    figures = spatial(tmp_path / "a.zarr", exported()).shapes["figures"]
    assert [(point.x, point.y) for point in figures.geometry] == list(PLACES)
    assert figures.index.tolist() == IDS
    # 12.5 um across, and a pixel of 0.375 um in the mean
    np.testing.assert_allclose(figures["radius"], 6.25 / 0.375)
    ways = get_transformation(figures, get_all=True)
    assert set(ways) == {"global", "micrometers"}
    to_um = ways["micrometers"].to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(to_um, np.diag([*MPP, 1]))
    to_px = ways["global"].to_affine_matrix(("x", "y"), ("x", "y"))
    np.testing.assert_array_equal(to_px, np.eye(3))


@needs("spatialdata")
def test_spatialdata_transforms_the_figures_to_um(tmp_path: Path) -> None:
    from spatialdata import transform

    data = spatial(tmp_path / "a.zarr", exported(mpp=(0.5, 0.5)))
    moved = transform(data.shapes["figures"], to_coordinate_system="micrometers")
    assert [(point.x, point.y) for point in moved.geometry] == [(x / 2, y / 2) for x, y in PLACES]
    np.testing.assert_allclose(moved["radius"], 6.25)


@needs("spatialdata")
def test_the_table_annotates_the_figures_by_their_ids(tmp_path: Path) -> None:
    from spatialdata import join_spatialelement_table

    data = spatial(tmp_path / "a.zarr", exported())
    elements, table = join_spatialelement_table(
        sdata=data, spatial_element_names="figures", table_name="figures_table", how="inner"
    )
    assert elements["figures"].index.tolist() == IDS
    assert table.obs["label"].tolist() == ["atypical", "typical", "atypical"]
    assert table.uns["wsi_mitosis"]["use"] == "research use only"
    assert data.attrs["wsi_mitosis"]["bundle_digest"] == DIGEST
    assert data.attrs["wsi_mitosis"]["trained"] is True


@needs("spatialdata")
def test_hotspots_are_rectangles_with_their_counts(tmp_path: Path) -> None:
    (spot,) = spatial(tmp_path / "a.zarr", exported()).shapes["hotspots"].itertuples()
    assert spot.geometry.bounds == (10, 20, 410, 320)
    assert (spot.mitoses, spot.atypical, spot.area_mm2) == (2, 1, 0.015)


@needs("spatialdata")
def test_a_slide_without_figures_is_a_store_with_its_attributes(tmp_path: Path) -> None:
    data = spatial(tmp_path / "a.zarr", exported((), spots=(), trained=False))
    assert list(data.gen_elements()) == []
    assert data.attrs["wsi_mitosis"]["use"].endswith("untrained: the labels mean nothing")


@needs("spatialdata")
def test_a_store_replaces_an_earlier_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    spatial(tmp_path / "a.zarr", exported())
    data = spatial(tmp_path / "a.zarr", exported(PLACES[:1], spots=()))
    assert len(data.shapes["figures"]) == 1
    assert set(data.shapes) == {"figures"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@needs("spatialdata")
def test_a_store_with_an_analysis_in_it_is_not_replaced(tmp_path: Path) -> None:
    data = spatial(tmp_path / "a.zarr", exported())
    data.shapes["tissues"] = data.shapes["figures"]
    data.write_element("tissues")
    with pytest.raises(SlideError, match=r"^a\.svs: exporting: a\.zarr .* shapes/tissues\. Move it"):
        spatial(tmp_path / "a.zarr", exported())
    assert (tmp_path / "a.zarr/shapes/tissues").is_dir()


@needs("spatialdata")
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_store_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zarr"
    if kind == "folder":
        path.mkdir()
        (path / "mine.txt").touch()
    elif kind == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SlideError, match="no SpatialData store"):
        spatial(path, exported())
    assert path.exists() or path.is_symlink()


@needs("spatialdata", "wsidata")
def test_wsidata_opens_the_store_beside_its_slide(tmp_path: Path) -> None:
    """As LazySlide does. The dark pixel under a figure is found by the figure's own coordinates."""
    from wsidata import open_wsi

    image = np.full((1000, 1400, 3), 230, np.uint8)
    image[300, 250] = (10, 20, 30)
    slide = tiff_slide(tmp_path / "a.tiff", image)
    FORMATS["spatialdata"].write(tmp_path / "s/a.tiff.zarr", [exported(name="a.tiff")])
    opened = open_wsi(slide, store=str(tmp_path / "s/a.tiff.zarr"))
    point = opened.shapes["figures"].loc[IDS[1]].geometry
    pixel = opened.read_region(int(point.x), int(point.y), 1, 1)
    np.testing.assert_allclose(pixel[0, 0, :3], (10, 20, 30), atol=3)  # JPEG, if the slide is one
    assert opened.tables["figures_table"].obs["slide"].tolist() == ["a.tiff"] * 3


@needs("spatialdata")
def test_no_path_is_in_a_store(tmp_path: Path) -> None:
    FORMATS["spatialdata"].write(tmp_path / "a.zarr", [exported(path="/secret/folder/a.svs")])
    texts = [path.read_text() for path in (tmp_path / "a.zarr").rglob("zarr.json")]
    assert texts
    assert all("secret" not in text for text in texts)
    assert json.loads((tmp_path / "a.zarr/zarr.json").read_text())
