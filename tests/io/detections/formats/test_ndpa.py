"""NDP.view2's `.ndpa`: nm from the middle of the glass."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.detection_files import write_text
from tests.runs import run, summary
from tests.slide_files import ndpi_slide, textured, tiff_slide
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import find_files, read_detections
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Mpp


def view(annotation: str, title: str = "mitosis", *, number: int = 1, details: str = "") -> str:
    return (
        f'<ndpviewstate id="{number}"><title>{title}</title><details>{details}</details>'
        "<coordformat>nanometers</coordformat><lens>40</lens><x>1334342</x><y>2423208</y><z>0</z>"
        f"<showtitle>0</showtitle><showhistogram>0</showhistogram>{annotation}</ndpviewstate>"
    )


def freehand(corners: Sequence[tuple[object, object]], *, closed: str = "1") -> str:
    places = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in corners)
    return (
        '<annotation type="freehand" displayname="AnnotateFreehand" color="#000000">'
        f"<measuretype>0</measuretype><closed>{closed}</closed><pointlist>{places}</pointlist></annotation>"
    )


def circle(x: object, y: object, radius: object) -> str:
    return (
        '<annotation type="circle" displayname="AnnotateCircle" color="#ffffff">'
        f"<x>{x}</x><y>{y}</y><radius>{radius}</radius><measuretype>0</measuretype></annotation>"
    )


def pin(x: object, y: object) -> str:
    return (
        '<annotation type="pin" displayname="AnnotatePin" color="#ff0000">'
        f"<x>{x}</x><y>{y}</y><icon>pinred</icon></annotation>"
    )


MEASURE = '<annotation type="linearmeasure"><x1>0</x1><y1>0</y1><x2>9</x2><y2>9</y2></annotation>'


def document(*views: str) -> str:
    declaration = '<?xml version="1.0" encoding="utf-8" standalone="yes"?>'
    return f"{declaration}\n<annotations>{''.join(views)}</annotations>"


OFFSET_NM = (1_500_000, -800_000)
"""From the middle of the glass to the middle of the image."""
TEXT = document(
    view(circle(1_510_000, -805_000, 5000), number=1),
    view(pin(1_490_000, -790_000), number=2),
    view(freehand([(1_500_000, -800_000), (1_503_000, -800_000), (1_500_000, -797_000)]), number=3),
    view(pin(1_480_000, -800_000), "Non-mitotic", number=4),
    view(MEASURE, "ruler", number=5),
    view(freehand([(0, 0), (9, 9), (9, 0)], closed="0"), "line", number=6),
    view("", "bookmark", number=7),
)
BY_HAND = [(390.0, 230.0), (310.0, 290.0), (354.0, 254.0)]
"""On an image of 700 x 500 px at 0.25 um/px. The circle lies 10 um right of and 5 um above its middle: 40 and
20 px from (350, 250). The pin lies 10 um left and 10 um below. The centroid of the triangle lies 1 um right
and 1 um below."""


def examples(folder: Path) -> list[Path]:
    return write_text(folder, TEXT, ".ndpa")


def read(tmp_path: Path, text: str | bytes, **options) -> Detections:
    path = tmp_path / "a.ndpi.ndpa"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_detections(path, **options)


def placed(detections: Detections, **options):
    given = {"size_px0": (700, 500), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    offset_um = (OFFSET_NM[0] / 1000, OFFSET_NM[1] / 1000)
    return prepare_candidates(detections, **{**given, "centre_offset_um": offset_um, **options})


def test_every_type_worked_by_hand(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    assert (found.format, found.units, found.frame) == ("ndpa", "nm", "slide-centre")
    prepared = placed(found)
    assert prepared[["x_px0", "y_px0"]].to_numpy()[:3] == pytest.approx(np.array(BY_HAND))
    assert prepared.excluded_reason.tolist() == [None, None, None, "class", *["not_finite"] * 3]
    assert found.table.extent.tolist()[0::2][:2] == [10_000, 3000]
    assert found.table.id.tolist() == list("1234567")
    assert found.table.detector_class.tolist()[:4] == [*["mitosis"] * 3, "Non-mitotic"]
    assert found.notes == (
        "a.ndpi.ndpa: no candidates: annotations 5, 6 (it is a line, which is neither a place nor an area); "
        "annotation 7 '7' (it is a view without an annotation)",
    )


def test_the_folder_of_annotations_beside_ndpi_slides(tmp_path: Path) -> None:
    for name in ("a.ndpi.ndpa", "b.ndpa", "c.ndpi.ndpa.gz"):
        (tmp_path / name).touch()
    slides = [SlideSource(Path(f"/s/{name}.ndpi"), f"{name}.ndpi") for name in "abc"]
    found = find_files(tmp_path, slides).of_slide
    assert [path.name for paths in found.values() for path in paths] == [
        "a.ndpi.ndpa",
        "b.ndpa",
        "c.ndpi.ndpa.gz",
    ]


def test_a_run_places_figures_by_where_the_slide_lies_on_the_glass(
    tmp_path: Path, small_bundle: Path
) -> None:
    slides = [
        ndpi_slide(tmp_path / "in/a.ndpi", textured(700, 500), OFFSET_NM),
        tiff_slide(tmp_path / "in/b.tiff", textured(700, 500)),
    ]
    for slide in slides:
        slide.with_name(f"{slide.name}.ndpa").write_text(TEXT)
    result = run(slides, tmp_path / "in", tmp_path / "out", small_bundle)
    figures = read_figures(tmp_path / "out/figures/a.ndpi.parquet")
    included = figures[figures.excluded_reason.isna()]
    assert included[["x_px0", "y_px0"]].to_numpy() == pytest.approx(np.array(BY_HAND))
    assert result.statuses == {"a.ndpi": "done", "b.tiff": "failed"}
    assert "does not state where on the glass its image is" in summary(tmp_path / "out")["b.tiff"]["error"]


def test_the_pixel_size_that_is_used_places_them(tmp_path: Path) -> None:
    with open_slide(ndpi_slide(tmp_path / "a.ndpi", textured(700, 500), OFFSET_NM), list_mpp=0.5) as slide:
        found = placed(
            read(tmp_path, TEXT),
            size_px0=slide.size_px0,
            mpp=slide.mpp,
            centre_offset_um=slide.centre_offset_um,
        )
    assert found[["x_px0", "y_px0"]].to_numpy()[0] == pytest.approx([350 + 20, 250 - 10])


def test_titles_and_details_may_name_look_alikes(tmp_path: Path) -> None:
    text = document(
        view(pin(1_500_000, -800_000)),
        view(pin(1_501_000, -800_000), "imposter"),
        view(pin(1_502_000, -800_000), details="not a mitosis"),
        view(pin(1_503_000, -800_000), "", details="hard negative"),
        view(pin(1_504_000, -800_000), details="near necrosis"),
    )
    assert placed(read(tmp_path, text)).excluded_reason.tolist() == [None, "class", "class", "class", None]


def test_details_are_the_class_of_annotations_without_a_title(tmp_path: Path) -> None:
    text = document(view(pin(1, 2), " ", details="AMF"), view(pin(3, 4), "NMF", details="sure"))
    assert read(tmp_path, text).table.detector_class.tolist() == ["AMF", "NMF"]


def test_titles_without_meaning_are_candidates_but_not_areas_over_50_um(tmp_path: Path) -> None:
    text = document(
        view(circle(1_500_000, -800_000, 25_000), "1a"), view(circle(1_500_000, -800_000, 25_001), "")
    )
    assert placed(read(tmp_path, text)).excluded_reason.tolist() == [None, "class"]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("nanometers", "pixels", "view 1: its coordinates are in 'pixels', not in 'nanometers'"),
        ("<coordformat>nanometers</coordformat>", "", "view 1: its coordinates are in '', not in"),
        ("<x>1510000</x>", "<x>wide</x>", "annotation 1: the x is 'wide', not a number"),
        ("<x>1510000</x>", "<x/>", "annotation 1: a corner has no x"),
        ("<y>-805000</y>", "", "annotation 1: a corner has no y"),
        ("<radius>5000</radius>", "<radius>big</radius>", "annotation 1: the radius is 'big', not a number"),
        ("<y>-797000</y>", "", "annotation 3: a corner has no y"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, old: str, new: str, cause: str) -> None:
    assert old in TEXT
    with pytest.raises(DetectionsError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert caught.value.cause.startswith(cause)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (freehand([]), "its geometry is empty"),
        (freehand([(0, 0), (5, 5)]), "it is a line"),
        (circle(1, 2, "nan"), "its coordinates are not all finite numbers"),
        (circle(1, 2, 3).replace("<radius>3</radius>", ""), "its coordinates are not all finite numbers"),
        ('<annotation type="pointer"><x>1</x></annotation>', "it is an arrow"),
        ('<annotation type="area"/>', "its type is 'area', which is none of freehand, circle, pin"),
        ("<annotation/>", "its type is 'none', which is none of"),
    ],
)
def test_annotations_that_are_not_used_are_named(tmp_path: Path, annotation: str, reason: str) -> None:
    found = read(tmp_path, document(view(pin(1, 2)), view(annotation, number=2)))
    assert f"annotation 2 '2' ({reason}" in found.notes[0]


def test_a_view_may_have_several_annotations_and_a_file_none(tmp_path: Path) -> None:
    assert read(tmp_path, document(view(pin(1, 2) + pin(3, 4)))).table.x.tolist() == [1, 3]
    assert read(tmp_path, document()).table.empty
    with pytest.raises(DetectionsError, match="XML of no known format, with the root element 'annotations'"):
        read(tmp_path, "<annotations><image/></annotations>")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_compression_and_namespaces(tmp_path: Path, encoding: str) -> None:
    expected = read(tmp_path, TEXT).table
    text = TEXT.replace("utf-8", encoding.removesuffix("-sig"))
    assert read(tmp_path, text.encode(encoding)).table.equals(expected)
    assert read(tmp_path, gzip.compress(text.encode(encoding))).table.equals(expected)
    spaced = TEXT.replace("<annotations>", '<annotations xmlns="urn:ndp">')
    assert read(tmp_path, spaced).table.equals(expected)


def test_entities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="the XML has a document type with entities"):
        read(tmp_path, f"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>{document(view(pin(1, 2)))}")
