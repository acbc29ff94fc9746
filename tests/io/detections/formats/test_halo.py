"""HALO's `.annotations`, as the viewer writes them."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.detection_files import write_text
from tests.io.detections.formats import test_imagescope
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Mpp


def region(
    kind: str, corners: Sequence[tuple[object, object]], *, negative: str = "0", comment: str = ""
) -> str:
    vertices = "".join(f'<V X="{x}" Y="{y}" />' for x, y in corners)
    body = f'<Comment Author="a" Body="{comment}" CreatedTime="2024-03-20T17:02:03Z" />' if comment else ""
    return (
        f'<Region Type="{kind}" HasEndcaps="0" NegativeROA="{negative}"><Vertices>{vertices}</Vertices>'
        f"<Comments>{body}</Comments></Region>"
    )


def layer(*regions: str, name: str = "Layer 1") -> str:
    return (
        f'<Annotation LineColor="5634047" Name="{name}" Visible="True"><Regions>{"".join(regions)}</Regions>'
        "</Annotation>"
    )


def document(*layers: str) -> str:
    return f"<Annotations>{''.join(layers)}</Annotations>"


TRIANGLE = [(10, 10), (40, 10), (10, 70), (10, 10)]
"""Its centroid is the mean of its corners: (60 / 3, 90 / 3) = (20, 30)."""
TEXT = document(
    layer(
        region("Polygon", TRIANGLE),
        region("Rectangle", [(100, 50), (120, 60)]),
        region("Ellipse", [(200, 100), (240, 160)]),
        region("Pin", [(7, 9)]),
        region("Ruler", [(0, 0), (90, 90)]),
        region("Polygon", [(90, 90), (95, 90), (95, 95)], negative="1"),
        region("Cloud", [(1, 1), (2, 2), (3, 5)]),
        name="mitosis",
    ),
    layer(region("Pin", [(30, 40)]), name="Non-mitotic"),
)


def examples(folder: Path) -> list[Path]:
    return write_text(folder, TEXT, ".annotations")


def read(tmp_path: Path, text: str | bytes, **options) -> Detections:
    path = tmp_path / "a.annotations"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_detections(path, **options)


def reasons(detections: Detections) -> list[str | None]:
    found = prepare_candidates(
        detections, size_px0=(9000, 9000), mpp=Mpp(0.25, 0.25), mpp_stated=True, bounds=None
    )
    return found.excluded_reason.tolist()


def test_every_type_worked_by_hand(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert (found.format, found.units, found.frame) == ("halo", "px", "slide")
    used = found.table.dropna(subset=["x"])
    assert used[["x", "y"]].to_numpy().tolist() == [[20, 30], [110, 55], [220, 130], [7, 9], [30, 40]]
    assert used.extent.tolist()[:3] == [60, 20, 60]
    assert used.extent.isna().tolist()[3:] == [True, True]
    assert reasons(found) == [None, None, None, None, *["not_finite"] * 3, "class"]
    assert found.notes == (
        "a.annotations: no candidates: region 5 (it is a line, which is neither a place nor an area); "
        "region 6 (it is a negative area, which is cut out of others); "
        "region 7 (its type is 'Cloud', which is none of Pin, Rectangle, Ellipse, Polygon)",
    )


def test_a_rectangle_with_more_corners_is_an_outline(tmp_path: Path) -> None:
    turned = [(10, 0), (20, 10), (10, 20), (0, 10), (10, 0)]
    found = read(tmp_path, document(layer(region("Rectangle", turned), region("Ellipse", TRIANGLE))))
    assert found.table[["x", "y"]].to_numpy().tolist() == [[10, 10], [20, 30]]


def test_a_comment_may_say_that_it_is_a_look_alike(tmp_path: Path) -> None:
    pins = [region("Pin", [(at, at)], comment=text) for at, text in ((5, "sharp"), (9, "not a mitosis"))]
    found = read(tmp_path, document(layer(*pins, name="mitosis")))
    assert reasons(found) == [None, "class"]
    assert found.table["comments"].tolist() == ["sharp", "not a mitosis"]


def test_layers_without_meaning_are_candidates_but_not_areas_over_50_um(tmp_path: Path) -> None:
    boxes = [region("Rectangle", [(0, 0), (side, 10)]) for side in (200, 201)]
    assert reasons(read(tmp_path, document(layer(*boxes)))) == [None, "class"]


@pytest.mark.parametrize("ending", ["annotations", "xml"])
def test_halo_and_imagescope_are_told_apart_by_content(tmp_path: Path, ending: str) -> None:
    for text, name in (
        (TEXT, "halo"),
        (test_imagescope.TEXT, "imagescope"),
        (TEXT.replace(' Visible="True"', ""), "halo"),
        (document(layer()), "halo"),
        (test_imagescope.document(test_imagescope.layer()), "imagescope"),
        (document(), "imagescope"),
    ):
        path = tmp_path / f"a.{ending}"
        path.write_text(text)
        assert read_detections(path).format == name


def test_a_file_that_mixes_both_is_refused(tmp_path: Path) -> None:
    mixed = TEXT.replace("<V X", "<Vertex X", 1)
    with pytest.raises(DetectionsError, match="it may be imagescope or halo"):
        read(tmp_path, mixed)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('X="40"', 'X="far"', "region 1: the x is 'far', not a number"),
        ('X="40" ', "", "region 1: a corner has no x"),
        ('Y="9"', 'Y=""', "region 4: a corner has no y"),
    ],
)
def test_corners_that_are_refused(tmp_path: Path, old: str, new: str, cause: str) -> None:
    with pytest.raises(DetectionsError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert caught.value.cause == cause


def test_regions_without_corners_are_named(tmp_path: Path) -> None:
    found = read(tmp_path, document(layer(region("Pin", [(1, 2)]), region("Pin", []), region("Polygon", []))))
    assert found.notes == ("a.annotations: no candidates: regions 2, 3 (its geometry is empty)",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_compression_and_namespaces(tmp_path: Path, encoding: str) -> None:
    expected = read(tmp_path, TEXT).table
    assert read(tmp_path, TEXT.encode(encoding)).table.equals(expected)
    assert read(tmp_path, gzip.compress(TEXT.encode(encoding))).table.equals(expected)
    spaced = TEXT.replace("<Annotations>", '<Annotations xmlns="urn:halo">')
    assert read(tmp_path, spaced).table.equals(expected)


def test_entities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="the XML has a document type with entities"):
        read(tmp_path, f"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>{TEXT}")
