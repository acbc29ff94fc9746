"""ASAP's XML, as its XmlRepository writes it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.detection_files import write_text
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Mpp


def annotation(
    kind: str, corners: Sequence[tuple[object, object]], group: str = "mitosis", name: str = "A"
) -> str:
    """An annotation, its corners numbered from 0."""
    places = "".join(f'<Coordinate Order="{at}" X="{x}" Y="{y}" />' for at, (x, y) in enumerate(corners))
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{places}</Coordinates></Annotation>"
    )


def document(*annotations: str, groups: str = "") -> str:
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n'
        f"<Annotations>{''.join(annotations)}</Annotations>\n"
        f"<AnnotationGroups>{groups}</AnnotationGroups>\n</ASAP_Annotations>\n"
    )


TRAPEZIUM = [(0, 0), (90, 0), (90, 10), (0, 20)]
"""Its sides are 20 and 10 high, 90 apart: its centroid is 90 * (20 + 2 * 10) / (3 * 30) = 40 from the left,
and (20**2 + 20 * 10 + 10**2) / (3 * 30) = 70/9 from the top."""
TEXT = document(
    annotation("Dot", [(12.5, 20.25)], name="Annotation 0"),
    annotation("PointSet", [(100, 40), (55.5, 90.75)], name="Annotation 1"),
    annotation("Polygon", TRAPEZIUM, name="Annotation 2"),
    annotation("Rectangle", [(200, 100), (240, 100), (240, 140), (200, 140)], "non-mitotic"),
    annotation("Spline", [(5, 5), (9, 5), (7, 9)], "None"),
    annotation("Measurement", [(0, 0), (50, 50)], "None", name="ruler"),
    groups='<Group Name="mitosis" PartOfGroup="None" Color="#F4FA58"><Attributes /></Group>',
)


def examples(folder: Path) -> list[Path]:
    return write_text(folder, TEXT, ".xml")


def read(tmp_path: Path, text: str | bytes, **options) -> Detections:
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_detections(path, **options)


def prepared(detections: Detections):
    return prepare_candidates(
        detections, size_px0=(9000, 9000), mpp=Mpp(0.25, 0.25), mpp_stated=True, bounds=None
    )


def test_every_type_worked_by_hand(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert (found.format, found.units, found.frame) == ("asap", "px", "slide")
    assert found.table.x.tolist()[:-1] == pytest.approx([12.5, 100, 55.5, 40, 220, 7])
    assert found.table.y.tolist()[:-1] == pytest.approx([20.25, 40, 90.75, 70 / 9, 120, 19 / 3])
    assert found.table.extent.tolist()[3:6] == [90, 40, 4]
    assert found.table.extent.isna().tolist()[:3] == [True] * 3
    assert found.table.detector_class.tolist() == [*["mitosis"] * 4, "non-mitotic", None, None]
    assert found.notes == (
        "a.xml: no candidates: annotation 6 (it is a line, which is neither a place nor an area)",
    )
    reasons = prepared(found).excluded_reason.tolist()
    assert reasons == [None, None, None, None, "class", None, "not_finite"]


def test_the_order_is_obeyed_and_not_the_place_in_the_file(tmp_path: Path) -> None:
    places = [(0, TRAPEZIUM[0]), (2, TRAPEZIUM[2]), (1, TRAPEZIUM[1]), (3, TRAPEZIUM[3])]
    scrambled = "".join(f'<Coordinate Order="{at}" X="{x}" Y="{y}"/>' for at, (x, y) in places)
    text = document(f'<Annotation Type="Polygon"><Coordinates>{scrambled}</Coordinates></Annotation>')
    assert read(tmp_path, text).table.x.tolist() == pytest.approx([40])
    crossing = read(tmp_path, text.replace(' Order="0"', ""))  # an order that is incomplete says nothing
    assert crossing.table.x.tolist() != pytest.approx([40])


@pytest.mark.parametrize(
    "group", ["Non-mitotic", "hard negative look-alike", "imposter", "mitosis-like", "FP"]
)
def test_groups_that_mean_look_alikes_are_excluded(tmp_path: Path, group: str) -> None:
    text = document(annotation("Dot", [(10, 20)]), annotation("Dot", [(30, 40)], group))
    assert prepared(read(tmp_path, text)).excluded_reason.tolist() == [None, "class"]


def test_a_look_alike_may_be_named_by_the_group_above_or_the_annotation(tmp_path: Path) -> None:
    groups = '<Group Name="b" PartOfGroup="not mitotic"/><Group Name="a" PartOfGroup="None"/>'
    text = document(
        annotation("Dot", [(10, 20)], "a"),
        annotation("Dot", [(30, 40)], "b"),
        annotation("Dot", [(50, 60)], "a", name="imposter"),
        groups=groups,
    )
    assert prepared(read(tmp_path, text)).excluded_reason.tolist() == [None, "class", "class"]


def test_objects_of_groups_without_meaning_are_candidates_but_not_areas_over_50_um(tmp_path: Path) -> None:
    # 200 px are 50 um at 0.25 um/px, and 201 px are more.
    def square(side: int) -> list[tuple[int, int]]:
        return [(0, 0), (side, 0), (side, side), (0, side)]

    text = document(
        annotation("Rectangle", square(200), "Group 1"), annotation("Rectangle", square(201), "_0")
    )
    assert prepared(read(tmp_path, text)).excluded_reason.tolist() == [None, "class"]


@pytest.mark.parametrize(
    ("text", "expected"), [("12,5", 12.5), ("1234,56", 1234.56), ("7", 7.0), ("1,2345e+03", 1234.5)]
)
def test_decimal_commas_are_read(tmp_path: Path, text: str, expected: float) -> None:
    found = read(tmp_path, document(annotation("Dot", [(text, "20,25")])))
    assert found.table[["x", "y"]].to_numpy().tolist() == [[pytest.approx(expected), 20.25]]


@pytest.mark.parametrize(
    ("x", "y", "cause"),
    [
        ("2,238", "4", "the comma of '2,238' may be a decimal sign, or separate thousands"),
        ("2,238", "4,125", "the comma of '2,238' may be"),
        ("12,5", "4.5", "coordinates are written with a comma ('12,5') and with a point ('4.5')"),
        ("1,234,567", "4,5", "annotation 1: the x is '1,234,567', not a number"),
        ("1,234.5", "4", "coordinates are written with a comma ('1,234.5') and with a point ('1,234.5')"),
        ("left", "4", "annotation 1: the x is 'left', not a number"),
        ("1_0", "4", "annotation 1: the x is '1_0', not a number"),
        ("", "4", "annotation 1: a corner has no x"),
    ],
)
def test_coordinates_that_are_refused(tmp_path: Path, x: str, y: str, cause: str) -> None:
    with pytest.raises(DetectionsError) as caught:
        read(tmp_path, document(annotation("Dot", [(x, y)])))
    assert caught.value.cause.startswith(cause)


@pytest.mark.parametrize("order", ["first", "1.5", "9" * 5000, ""])
def test_an_order_that_is_no_number_is_refused(tmp_path: Path, order: str) -> None:
    text = document(annotation("Polygon", TRAPEZIUM)).replace('Order="1"', f'Order="{order}"')
    with pytest.raises(DetectionsError, match=r"annotation 1: the order is .*, not a whole number"):
        read(tmp_path, text)


def test_a_coordinate_without_y_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="annotation 1: a corner has no y"):
        read(tmp_path, document(annotation("Dot", [(1, 2)])).replace(' Y="2"', ""))


def test_objects_that_are_not_used_are_named(tmp_path: Path) -> None:
    text = document(
        annotation("Dot", [(10, 20)]),
        annotation("Polygon", []),
        annotation("Polygon", [(1, 1), (5, 5), (1, 1)]),
        annotation("Polygon", [("nan", 1), (5, 5), (1, 5)]),
        annotation("Arrow", [(1, 1)]),
        annotation("Polygon", [(3, 4)]),
    )
    found = read(tmp_path, text)
    assert found.table.x.tolist()[::5] == [10, 3]  # one corner is a place
    assert all(map(math.isnan, found.table.x[1:5]))
    (note,) = found.notes
    assert "annotation 2 (its geometry is empty)" in note
    assert "annotation 3 (it is a line" in note
    assert "annotation 4 (its coordinates are not all finite numbers)" in note
    assert "annotation 5 (its type is 'Arrow', which is none of Dot," in note


def test_a_file_without_usable_objects_is_refused_and_an_empty_one_has_none(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="none of its 1 objects is a point or an area: annotation 1"):
        read(tmp_path, document(annotation("Measurement", [(0, 0), (5, 5)])))
    assert read(tmp_path, document()).table.empty
    assert read(tmp_path, "<ASAP_Annotations/>").table.empty


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_compression_and_namespaces(tmp_path: Path, encoding: str) -> None:
    data = TEXT.encode(encoding)
    expected = read(tmp_path, TEXT).table
    assert read(tmp_path, data).table.equals(expected)
    assert read(tmp_path, gzip.compress(data)).table.equals(expected)
    spaced = TEXT.replace("<ASAP_Annotations>", '<ASAP_Annotations xmlns="urn:asap">')
    assert read(tmp_path, spaced).table.equals(expected)


def test_entities_are_refused(tmp_path: Path) -> None:
    for entity in ("'1'", "SYSTEM 'file:///etc/passwd'"):
        bomb = TEXT.replace("<ASAP", f"<!DOCTYPE a [<!ENTITY b {entity}>]><ASAP", 1)
        with pytest.raises(DetectionsError, match="the XML has a document type with entities"):
            read(tmp_path, bomb)


@given(
    st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 400_000)), min_size=1, max_size=8, unique=True)
)
def test_a_set_of_points_is_read_as_it_is_written(tmp_path_factory, steps: list[tuple[int, int]]) -> None:
    places = [(x / 4 + 2, y / 4 + 2) for x, y in steps]
    found = read(tmp_path_factory.mktemp("asap"), document(annotation("PointSet", places)))
    assert found.table[["x", "y"]].to_numpy().tolist() == [list(place) for place in places]
