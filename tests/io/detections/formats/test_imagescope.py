"""ImageScope's XML, as the viewer writes it."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.detection_files import write_text
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Mpp


def region(
    kind: object,
    corners: Sequence[tuple[object, object]],
    number: int = 1,
    *,
    text: str = "",
    negative: str = "0",
) -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    return (
        f'<Region Id="{number}" Type="{kind}" Zoom="1" Selected="0" ImageFocus="-1" Length="9" Area="9" '
        f'Text="{text}" NegativeROA="{negative}" InputRegionId="0" Analyze="1" DisplayId="{number}">'
        f"<Attributes/><Vertices>{vertices}</Vertices></Region>"
    )


def layer(*regions: str, name: str = "", attribute: str = "Description", value: str = "") -> str:
    return (
        f'<Annotation Id="1" Name="{name}" ReadOnly="0" Incremental="0" Type="4" LineColor="65280">'
        f'<Attributes><Attribute Name="{attribute}" Id="0" Value="{value}"/></Attributes>'
        '<Regions><RegionAttributeHeaders><AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/>'
        f"</RegionAttributeHeaders>{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def document(*layers: str) -> str:
    return f'<Annotations MicronsPerPixel="0.252">{"".join(layers)}</Annotations>'


TRIANGLE = [(10, 10), (40, 10), (10, 70), (10, 10)]
"""Its centroid is the mean of its corners: (60 / 3, 90 / 3) = (20, 30)."""
TEXT = document(
    layer(
        region(0, TRIANGLE, 1),
        region(1, [(100, 50), (120.5, 50), (120.5, 60), (100, 60)], 2),
        region(2, [(200, 100), (240, 160)], 3),
        region(0, [(90, 90), (95, 90), (95, 95)], 4, negative="1"),
        region(3, [(300, 300), (350, 350)], 5),
        region(4, [(1, 1), (2, 2)], 6),
        name="mitosis",
    ),
    layer(region(2, [(0, 0), (10, 20)], 7), name="non-mitotic"),
)


def examples(folder: Path) -> list[Path]:
    return write_text(folder, TEXT, ".xml")


def read(tmp_path: Path, text: str | bytes, **options) -> Detections:
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_detections(path, **options)


def reasons(detections: Detections, **options) -> list[str | None]:
    found = prepare_candidates(
        detections, size_px0=(9000, 9000), mpp=Mpp(0.25, 0.25), mpp_stated=True, bounds=None, **options
    )
    return found.excluded_reason.tolist()


def test_every_type_worked_by_hand(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert (found.format, found.units, found.frame) == ("imagescope", "px", "slide")
    used = found.table.dropna(subset=["x"])
    assert used[["x", "y"]].to_numpy().tolist() == [[20, 30], [110.25, 55], [220, 130], [5, 10]]
    assert used.extent.tolist() == [60, 20.5, 60, 20]
    assert found.table.id.tolist() == list("1234567")
    assert used.detector_class.tolist() == [*["mitosis"] * 3, "non-mitotic"]
    assert reasons(found) == [None, None, None, *["not_finite"] * 3, "class"]
    assert found.notes == (
        "a.xml: no candidates: region 4 '4' (it is a negative area, which is cut out of others); "
        "region 5 '5' (it is an arrow, whose tip is beside what it points to); "
        "region 6 '6' (its type is '4', which is not known)",
    )


@pytest.mark.parametrize("negative", ["1", "-1", "true"])
def test_what_is_not_plainly_positive_is_negative(tmp_path: Path, negative: str) -> None:
    text = document(layer(region(0, TRIANGLE), region(0, TRIANGLE, 2, negative=negative)))
    assert reasons(read(tmp_path, text)) == [None, "not_finite"]


@pytest.mark.parametrize(
    "layers",
    [
        [layer(region(2, [(0, 0), (8, 8)], text="imposter"))],
        [layer(region(2, [(0, 0), (8, 8)]), attribute="hard negative")],
        [layer(region(2, [(0, 0), (8, 8)]), value="not mitotic")],
        [layer(region(2, [(0, 0), (8, 8)], text="look-alike"), name="mitosis")],
        [
            layer(
                region(2, [(0, 0), (8, 8)]).replace(
                    "<Attributes/>", '<Attributes><Attribute Name="a" Value="FP"/></Attributes>'
                )
            )
        ],
    ],
)
def test_every_place_may_name_a_look_alike(tmp_path: Path, layers: list[str]) -> None:
    text = document(layer(region(2, [(50, 50), (60, 60)]), name="mitosis"), *layers)
    assert reasons(read(tmp_path, text)) == [None, "class"]


def test_a_description_without_a_value_is_no_class_and_a_named_attribute_is(tmp_path: Path) -> None:
    text = document(layer(region(0, TRIANGLE)), layer(region(0, TRIANGLE), attribute="tumour"))
    assert read(tmp_path, text).table.detector_class.tolist() == [None, "tumour"]


def test_layers_without_meaning_are_candidates_but_not_areas_over_50_um(tmp_path: Path) -> None:
    text = document(layer(region(2, [(0, 0), (200, 10)], 1), region(1, [(0, 0), (201, 10)], 2)))
    found = read(tmp_path, text)  # 200 px are 50 um at 0.25 um/px
    assert reasons(found) == [None, "class"]
    assert reasons(read(tmp_path, text.replace('Name=""', 'Name="Layer"')), classes=["layer"]) == [None, None]


def test_regions_without_a_type_are_outlines(tmp_path: Path) -> None:
    found = read(tmp_path, document(layer(region(0, TRIANGLE).replace(' Type="0"', ""))))
    assert found.table[["x", "y"]].to_numpy().tolist() == [[20, 30]]


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ([], "its geometry is empty"),
        ([(1, 1), (5, 5)], "it is a line"),
        ([(1, "nan"), (5, 5), (9, 1)], "its coordinates are not all finite numbers"),
        ([(1, "inf"), (5, 5), (9, 1)], "its coordinates are not all finite numbers"),
        ([(1, 1e13), (5, 5), (9, 1)], "its coordinates are far too large"),
    ],
)
def test_outlines_that_are_not_used_are_named(
    tmp_path: Path, corners: list[tuple[object, object]], reason: str
) -> None:
    found = read(tmp_path, document(layer(region(0, TRIANGLE), region(0, corners, 2))))
    assert f"region 2 '2' ({reason}" in found.notes[0]
    with pytest.raises(DetectionsError, match="none of its 1 objects is a point or an area: region 1"):
        read(tmp_path, document(layer(region(0, corners))))


def test_a_box_with_one_number_that_is_not_finite_is_not_used(tmp_path: Path) -> None:
    for corners in ([("nan", 0), (8, 8)], [(0, 0), (8, "nan")]):
        found = read(tmp_path, document(layer(region(0, TRIANGLE), region(2, corners, 2))))
        assert reasons(found) == [None, "not_finite"]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('X="40"', 'X="far"', "region 1: the x is 'far', not a number"),
        ('X="40" ', "", "region 1: a corner has no x"),
        ('Y="70"', 'Y=""', "region 1: a corner has no y"),
        ('X="120.5"', 'X="120,5"', "coordinates are written with a comma"),
    ],
)
def test_corners_that_are_refused(tmp_path: Path, old: str, new: str, cause: str) -> None:
    with pytest.raises(DetectionsError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert caught.value.cause.startswith(cause)


def test_files_without_regions_have_no_candidates(tmp_path: Path) -> None:
    for text in (document(), document(layer(), layer()), "<Annotations/>"):
        found = read(tmp_path, text)
        assert (found.format, len(found.table)) == ("imagescope", 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_compression_and_namespaces(tmp_path: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n{TEXT}'
    expected = read(tmp_path, TEXT).table
    assert read(tmp_path, text.encode(encoding)).table.equals(expected)
    assert read(tmp_path, gzip.compress(text.encode(encoding))).table.equals(expected)
    spaced = TEXT.replace("<Annotations ", '<Annotations xmlns="urn:aperio" ')
    assert read(tmp_path, spaced).table.equals(expected)


def test_entities_are_refused(tmp_path: Path) -> None:
    bomb = f"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>{TEXT}"
    with pytest.raises(DetectionsError, match="the XML has a document type with entities"):
        read(tmp_path, bomb)
