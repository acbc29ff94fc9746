"""How QuPath is told to open real slides."""

from __future__ import annotations

import json
from pathlib import Path

from wsi_mitosis.io.results.project import BIO_FORMATS, OPENSLIDE, project_path, write_project


def test_each_slide_gets_the_provider_that_opens_it(real_data: Path, tmp_path: Path) -> None:
    slides = {path.name: path for path in (real_data / "slides").iterdir() if path.is_file()}
    assert write_project(tmp_path, slides, "qupath", [True]) == ("pathml_small_dicom.dcm",)
    images = json.loads(project_path(tmp_path).read_text(encoding="utf-8"))["images"]
    providers = {image["imageName"]: image["serverBuilder"]["providerClassName"] for image in images}
    assert providers.pop("OS-1-detail.ome.tif") == BIO_FORMATS
    assert {"CMU-1-Small-Region.svs", "test3-DAPI-2-387.ndpi", "ezwsi_camelyon.dcm"} < providers.keys()
    assert set(providers.values()) == {OPENSLIDE}
