"""EXACT's annotations: its JSON, its text, and what is not an object in the image."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.detection_files import write_json
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Bounds, Mpp

BOX = {"x1": 140, "y1": 200, "x2": 190, "y2": 230}
"""Its middle is (165, 215)."""
TEXT = 'a.tiff|mitotic figure|{"x1": 140,"y1": 200,"x2": 190,"y2": 230,}|\n'


def kind(name: str = "mitotic figure", vector_type: int = 1) -> dict[str, Any]:
    return {"id": 3, "name": name, "vector_type": vector_type, "closed": True, "color_code": "#CC4444"}


def image(name: str = "a.tiff", **others: Any) -> dict[str, Any]:
    return {"id": 7, "name": name, **others}


def annotation(vector: Any = BOX, **others: Any) -> dict[str, Any]:
    item = {"id": 12, "vector": vector, "deleted": False, "annotation_type": kind(), "image": image()}
    return {**item, "unique_identifier": "4f1c", **others}


def page(*items: Any, **others: Any) -> dict[str, Any]:
    return {"count": len(items), "next": None, "previous": None, "results": list(items), **others}


def examples(folder: Path) -> list[Path]:
    """Valid files, for the fuzzing of readers."""
    polygon = {"x1": 10, "y1": 20, "x2": 60, "y2": 25, "x3": 30, "y3": 90}
    items = [annotation(), annotation(polygon, annotation_type=kind("imposter", 5)), annotation(None)]
    (folder / "export.txt").write_text(f"\n{TEXT}a.tiff|hard negative|{{}}|\na.tiff|x|not in image\n")
    return [write_json(folder / "page.json", page(*items)), folder / "export.txt"]


def read(tmp_path: Path, content: Any, **options: Any) -> Detections:
    return read_detections(write_json(tmp_path / "d.json", content), **options)


def read_text(tmp_path: Path, text: str) -> Detections:
    (tmp_path / "d.txt").write_text(text)
    return read_detections(tmp_path / "d.txt")


def reasons(detections: Detections, **options: Any) -> list[str | None]:
    size = {"size_px0": (320, 320), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    return prepare_candidates(detections, **{**size, **options})["excluded_reason"].tolist()


@pytest.mark.parametrize(
    "content", [page(annotation()), [annotation()], {"annotations": [annotation()], "now": 1700000000}]
)
def test_an_annotation_worked_by_hand(tmp_path: Path, content: Any) -> None:
    detections = read(tmp_path, content)
    assert (detections.format, detections.units, detections.frame) == ("exact", "px", "slide")
    row = detections.table.iloc[0]
    assert row[["slide", "x", "y", "extent", "id", "detector_class"]].tolist() == [
        *("a.tiff", 165, 215, 50, "4f1c", "mitotic figure")
    ]
    assert reasons(detections) == [None]


def test_the_exported_text(tmp_path: Path) -> None:
    text = f'\n{TEXT}b|c.tiff|hard negative|{{"x1": 1.5,"y1": 2,"x2": 3.5,"y2": 8,"x3": 0,"y3": 4,}}|\n'
    detections = read_text(tmp_path, text)
    assert (detections.format, detections.units) == ("exact", "px")
    assert detections.table["slide"].tolist() == ["a.tiff", "b|c.tiff"]
    assert detections.table[["x", "y"]].to_numpy().tolist() == [[165, 215], [1.75, 5]]
    assert detections.table["detector_class"].tolist() == ["mitotic figure", "hard negative"]
    assert detections.notes == ("d.txt: classes: 'mitotic figure' (1), 'hard negative' (1)",)


def test_places_are_counted_from_the_corner_of_the_whole_slide(tmp_path: Path) -> None:
    # as exact/util/slide_server.py shows slides, without limit_bounds
    table = prepare_candidates(
        read(tmp_path, [annotation()]),
        size_px0=(9000, 9000),
        mpp=Mpp(0.25, 0.25),
        mpp_stated=True,
        bounds=Bounds(700, 300, 5000, 5000),
    )
    assert table[["x_px0", "y_px0"]].to_numpy().tolist() == [[165, 215]]


def test_look_alikes_deleted_ones_and_other_classes(tmp_path: Path) -> None:
    names = ("mitotic figure", "non-mitotic cell", "lymphocyte")
    items = [annotation(annotation_type=kind(name), image=image()) for name in names]
    items = [{**item, "vector": {**BOX, "x2": 190 + at}} for at, item in enumerate(items)]
    detections = read(tmp_path, [*items, annotation({**BOX, "x2": 199}, deleted=True)])
    assert reasons(detections) == [None, "class", "class"]
    assert reasons(detections, classes=["lymphocyte"]) == ["class", "class", None]


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (annotation(None), "objects that are not in the image"),
        (annotation({}), "objects that are not in the image"),
        (annotation(annotation_type=kind(vector_type=3)), "lines"),
        (annotation(annotation_type=kind(vector_type=4)), "lines"),
        (annotation(annotation_type=kind(vector_type=7)), "labels of whole images"),
    ],
)
def test_what_is_no_object_in_the_image_is_no_candidate(tmp_path: Path, item: Any, why: str) -> None:
    detections = read(tmp_path, [annotation(), item])
    assert reasons(detections) == [None, "not_finite"]
    assert detections.notes[0] == f"d.json: no candidates: '{why}'"


def test_annotations_in_text_that_are_not_in_the_image(tmp_path: Path) -> None:
    detections = read_text(tmp_path, f"{TEXT}a.tiff|mitotic figure|not in image\n")
    assert reasons(detections) == [None, "not_finite"]


def test_numbered_types_need_a_choice(tmp_path: Path) -> None:
    detections = read(
        tmp_path, [annotation(annotation_type=3), annotation({"x1": 9, "y1": 9}, annotation_type=5)]
    )
    with pytest.raises(DetectionsError, match="the classes '3', '5' do not say which of them are mitotic"):
        reasons(detections)
    assert reasons(detections, classes=["5"]) == ["class", None]


def test_one_numbered_image_is_the_only_slide(tmp_path: Path) -> None:
    detections = read(tmp_path, [annotation(image=7), annotation({"x1": 9, "y1": 9}, image=7)])
    slide = SlideSource(Path("/s/a.tiff"), "a.tiff")
    assert len(split_by_slide(detections, [slide]).parts[slide].table) == 2


@pytest.mark.parametrize("images", [(7, 8), (7, image("b.tiff")), (None, image("b.tiff"))])
def test_several_images_need_names(tmp_path: Path, images: tuple) -> None:
    with pytest.raises(DetectionsError, match="2 images, of which these have no name") as caught:
        read(tmp_path, [annotation(image=one) for one in images])
    assert "expand=image,annotation_type" in str(caught.value.remedy)


def test_one_page_of_several_is_refused(tmp_path: Path) -> None:
    content = page(annotation(), count=120, next="https://exact.example/api/v1/?limit=1&offset=1")
    with pytest.raises(DetectionsError, match="one page of several: it has 1 of 120 annotations"):
        read(tmp_path, content)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    detections = read(tmp_path, [annotation(image=image(width=1280, height=1280))])
    with pytest.raises(
        DetectionsError, match="of an image of 1280 x 1280 px, and the slide has 320 x 320 px"
    ):
        reasons(detections)
    assert reasons(read(tmp_path, [annotation(image=image(width=320, height=320))])) == [None]


def test_a_compressed_file_and_one_without_annotations(tmp_path: Path) -> None:
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert len(read_detections(tmp_path / "d.txt.gz").table) == 1
    empty = read(tmp_path, page())
    assert (empty.format, len(empty.table)) == ("exact", 0)


@pytest.mark.parametrize(
    ("vector", "shown"),
    [
        ({"x1": 1, "y1": "b"}, "{'x1': 1, 'y1': 'b'}"),
        ({"x1": 1, "y1": 2, "x2": 3}, "{'x1': 1, 'y1': 2, 'x2': 3}"),
        ({"x1": 1, "y1": 2, "z1": 3}, "{'x1': 1, 'y1': 2, 'z1': 3}"),
        ({"x1": float("nan"), "y1": 2}, "{'x1': nan, 'y1': 2}"),
        ([1, 2], r"\[1, 2\]"),
        ("x1", "'x1'"),
    ],
)
def test_vectors_that_make_no_sense(tmp_path: Path, vector: Any, shown: str) -> None:
    with pytest.raises(DetectionsError, match=f"annotation 2: its vector is {shown}, not x1, y1"):
        read(tmp_path, [annotation(), annotation(vector)])


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("Total: 4", "line 2 is 'Total: 4', not image"),
        ('a.tiff|m|{"x1": 1,"y1": b,}|', "line 2: its vector is"),
        ('a.tiff|m|{"x1": 1,"x2": 2,}|', "line 2: its vector is"),
        ('a.tiff|m|{"x1": 1;"y1": 2}|', "line 2: its vector is"),
        ('a.tiff|m|{"x1": nan,"y1": 2}|', "line 2: its vector is"),
    ],
)
def test_lines_that_make_no_sense(tmp_path: Path, line: str, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause):
        read_text(tmp_path, f"{TEXT}{line}\n")


def test_a_list_with_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="not every one of 'results' is an object"):
        read(tmp_path, [annotation(), 3])
