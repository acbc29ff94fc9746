"""COCO's data sets and results, and how their boxes differ from MIDOG's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.detection_files import write_json
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Mpp

CATEGORIES = [
    {"id": 1, "name": "mitotic figure", "supercategory": "cell"},
    {"id": 2, "name": "hard negative"},
    {"id": 3, "name": "lymphocyte"},
]
BOX = [140, 200, 50, 30]
"""Its middle is (165, 215)."""


def annotation(bbox: Any = BOX, **others: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 1, "bbox": bbox, **others}


def dataset(*annotations: dict[str, Any], **others: Any) -> dict[str, Any]:
    images = [{"id": 7, "file_name": "a.tiff", "width": 320, "height": 320}]
    return {"images": images, "annotations": list(annotations), "categories": CATEGORIES, **others}


def result(bbox: Any = BOX, **others: Any) -> dict[str, Any]:
    return {"image_id": "a.tiff", "category_id": 1, "bbox": bbox, "score": 0.75, **others}


def examples(folder: Path) -> list[Path]:
    """Valid files, for the fuzzing of readers."""
    data = dataset(annotation(area=1500, iscrowd=0, score=0.5), annotation([10, 20, 50, 60], area=3000))
    return [
        write_json(folder / "dataset.json", data),
        write_json(folder / "results.json", [result(category_id="mitosis"), result([2, 2, 4, 4])]),
    ]


def read(tmp_path: Path, document: Any, **options: Any) -> Detections:
    return read_detections(write_json(tmp_path / "d.json", document), **options)


def excluded(detections: Detections, **options: Any) -> list[str | None]:
    size = {"size_px0": (320, 320), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    return prepare_candidates(detections, **size, **options)["excluded_reason"].tolist()


def test_the_middle_of_a_corner_and_a_size(tmp_path: Path) -> None:
    detections = read(tmp_path, dataset(annotation(area=1500, score=0.5)))
    assert (detections.format, detections.units, detections.frame) == ("coco", "px", "slide")
    row = detections.table.iloc[0]
    assert row[["slide", "x", "y", "extent", "score", "id", "detector_class"]].tolist() == [
        *("a.tiff", 165, 215, 50, 0.5, "1", "mitotic figure")
    ]
    assert detections.image_sizes == {"a.tiff": (320, 320)}


def test_look_alikes_and_other_cells_are_no_candidates(tmp_path: Path) -> None:
    boxes = [[140 + 10 * at, 200, 50, 30] for at in range(3)]
    data = dataset(*(annotation(box, category_id=at + 1) for at, box in enumerate(boxes)))
    detections = read(tmp_path, data)
    assert excluded(detections) == [None, "class", "class"]
    assert excluded(detections, classes=["Lymphocyte"]) == ["class", "class", None]


def test_categories_of_other_cells_need_a_choice(tmp_path: Path) -> None:
    detections = read(tmp_path, dataset(annotation(category_id=3)))
    with pytest.raises(DetectionsError, match="none of the file's classes is named after mitotic figures"):
        excluded(detections)


def test_results_name_their_slides(tmp_path: Path) -> None:
    table = read(tmp_path, [result(), result([1, 2, 4, 8], image_id="sub/b.tiff", score=None)]).table
    assert table["slide"].tolist() == ["a.tiff", "sub/b.tiff"]
    assert table[["x", "y"]].to_numpy().tolist() == [[165, 215], [3, 6]]
    assert table["score"].tolist()[0] == 0.75
    assert table["detector_class"].tolist() == ["1", "1"]


def test_results_of_one_numbered_image_are_of_the_only_slide(tmp_path: Path) -> None:
    detections = read(tmp_path, [result(image_id=42), result([1, 2, 4, 8], image_id=42)])
    assert detections.table["slide"].tolist() == [None, None]
    slides = [SlideSource(Path(f"/s/{name}"), name) for name in ("a.tiff", "42.tiff")]
    assert len(split_by_slide(detections, slides[:1]).parts[slides[0]].table) == 2
    with pytest.raises(DetectionsError):
        split_by_slide(detections, slides)


@pytest.mark.parametrize("others", [(1, 2), (1, "a.tiff"), (1, None)])
def test_results_of_several_numbered_images_are_refused(tmp_path: Path, others: tuple) -> None:
    with pytest.raises(
        DetectionsError, match="the results are of 2 images, and image_id names no slide: '1'"
    ):
        read(tmp_path, [result(image_id=image) for image in others])


def test_results_without_names_of_categories_need_a_choice(tmp_path: Path) -> None:
    one = read(tmp_path, [result()])
    with pytest.raises(
        DetectionsError, match="none of the file's classes is named after mitotic figures: '1'"
    ):
        excluded(one)
    assert excluded(one, classes=["1"]) == [None]


def test_several_images_in_a_file(tmp_path: Path) -> None:
    images = [{"id": at, "file_name": name} for at, name in enumerate(("a.tiff", "b.tiff", "c.tiff"))]
    data = dataset(annotation(image_id=0), annotation([300, 9, 4, 4], image_id=2), images=images)
    detections = read(tmp_path, data)
    slides = [SlideSource(Path(f"/s/{name}"), name) for name in ("a.tiff", "b.tiff")]
    split = split_by_slide(detections, slides)
    assert split.parts[slides[0]].table["x"].tolist() == [165]
    assert split.unmatched_names == ("c.tiff",)


def test_an_image_of_another_level_is_refused(tmp_path: Path) -> None:
    detections = read(tmp_path, dataset(annotation()))
    place = {"mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None, "name": "a.tiff"}
    with pytest.raises(
        DetectionsError, match="of an image of 320 x 320 px, and the slide has 1280 x 1280 px"
    ):
        prepare_candidates(detections, size_px0=(1280, 1280), **place)
    as_stated = read(tmp_path, dataset(annotation()), units="px")
    assert len(prepare_candidates(as_stated, size_px0=(1280, 1280), **place)) == 1


@pytest.mark.parametrize("name", ["d.json", "d.json.gz"])
@pytest.mark.parametrize("document", [dataset(annotation()), [result()]])
def test_compressed_files(tmp_path: Path, name: str, document: Any) -> None:
    data = json.dumps(document).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_detections(tmp_path / name).table["x"].tolist() == [165]


# COCO or MIDOG

BOTH = [10, 20, 50, 60]
"""COCO's middle is (35, 50), MIDOG's (30, 40)."""


@pytest.mark.parametrize(
    ("annotations", "format_name", "middle"),
    [
        ([annotation(BOTH, area=3000)], "coco", [35, 50]),
        ([annotation(BOTH, area=1600)], "midog", [30, 40]),
        ([annotation(BOTH, labels=[1, 1])], "midog", [30, 40]),
        ([annotation(BOTH), annotation([30, 20, 29, 60])], "coco", [35, 50]),
        ([annotation(BOTH), annotation([20, 70, 60, 69])], "coco", [35, 50]),
        (
            [annotation(BOTH), annotation([1, 1020, 40, 1060]), annotation([1001, 1, 1050, 9])],
            "midog",
            [30, 40],
        ),
        (
            [annotation(BOTH, area=3000), annotation([1, 1, 2000, 2000]), annotation([2, 2, 2000, 2000])],
            "coco",
            [35, 50],
        ),
        ([annotation([0, 0, 50, 60])], "midog", [25, 30]),
    ],
)
def test_what_decides_between_coco_and_midog(
    tmp_path: Path, annotations: list, format_name: str, middle: list[float]
) -> None:
    detections = read(tmp_path, dataset(*annotations))
    assert detections.format == format_name
    assert detections.table[["x", "y"]].iloc[0].tolist() == middle
    other = {"coco": "midog", "midog": "coco"}[format_name]
    with pytest.raises(DetectionsError, match=f"not {other}: it looks like {format_name}"):
        read(tmp_path, dataset(*annotations), format=other)


def test_what_nothing_decides_is_refused_by_both_names(tmp_path: Path) -> None:
    undecided = dataset(annotation(BOTH, area=777, iscrowd=0), annotation([11, 20, 51, 60], area=None))
    with pytest.raises(DetectionsError, match="it may be midog or coco") as caught:
        read(tmp_path, undecided)
    assert caught.value.remedy == "Pass --format midog or --format coco"
    assert read(tmp_path, undecided, format="coco").table["x"].tolist() == [35, 36.5]
    assert read(tmp_path, undecided, format="midog").table["x"].tolist() == [30, 31]


def test_what_contradicts_itself_is_refused_unless_the_user_decides(tmp_path: Path) -> None:
    regions = [annotation([at, at, 3000, 3000]) for at in range(2)]
    mixed = dataset(annotation([400, 300, 50, 60]), *regions)
    with pytest.raises(DetectionsError, match=r"annotation 1: the box .* ends before it begins"):
        read(tmp_path, mixed)
    assert read(tmp_path, mixed, format="coco").table["x"].tolist() == [425, 1500, 1501]


@pytest.mark.parametrize("document", [dataset(), []])
def test_nothing_found_is_no_candidate_in_either_format(tmp_path: Path, document: Any) -> None:
    assert read(tmp_path, document).table.empty
    detections = read(tmp_path, document, format="coco")
    assert (detections.format, len(detections.table)) == ("coco", 0)


def read_or_refuse(folder: Path, document: Any) -> tuple[Detections | None, str]:
    try:
        return read(folder, document), ""
    except DetectionsError as error:
        return None, str(error)


@settings(max_examples=100, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)), min_size=1, max_size=6),
    side=st.integers(10, 200),
    keys=st.sampled_from([{}, {"area": True}, {"labels": [1]}]),
)
def test_a_box_is_never_read_as_the_other_format(
    tmp_path_factory: pytest.TempPathFactory, places: list, side: int, keys: dict
) -> None:
    """Either reading is right, or nothing is read."""
    folder = tmp_path_factory.mktemp("boxes")
    forms = {"coco": lambda x, y: [x, y, side, side], "midog": lambda x, y: [x, y, x + side, y + side]}
    for name, form in forms.items():
        stated = {"area": side**2} if "area" in keys else keys if name == "midog" else {}
        data = dataset(*(annotation(form(x, y), **stated) for x, y in places))
        detections, refusal = read_or_refuse(folder, data)
        if detections is None:
            assert "it may be midog or coco" in refusal
            assert not stated
            continue
        middles = [[x + side / 2, y + side / 2] for x, y in places]
        assert detections.table[["x", "y"]].to_numpy().tolist() == middles


# Files that make no sense


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        (dataset(annotation(image_id=9)), "annotation 1 has image_id 9, which the file does not explain"),
        (dataset(annotation(category_id=None)), "annotation 1 has category_id None, which the file does not"),
        (dataset(annotation([140, 200, -50, 30])), "annotation 1: the box .* has a negative side"),
        (dataset(annotation(), annotation([1, 2, 3])), r"entry 2: the box is \[1, 2, 3\], not four numbers"),
        (dataset(annotation(), annotation([1, 2, 3, "x"])), "entry 2: the box is 'x', not a number"),
        (dataset(annotation(), annotation(score="high")), "entry 2: the score is 'high', not a number"),
        (dataset(annotation(), categories=None), "'categories' is not a list"),
        (dataset(annotation(), images=[{"id": 7, "file_name": x} for x in "ab"]), "id 7 is both 'a' and 'b'"),
        (dataset(annotation(), categories=[{"id": 1, "name": x} for x in "ab"]), "id 1 is both 'a' and 'b'"),
        (dataset(annotation(), images=[{"id": 7, "file_name": "a", "width": "w"}]), "the width is 'w'"),
        (
            dataset(
                annotation(),
                images=[{"id": at, "file_name": "a", "width": at, "height": 9} for at in (7, 8)],
            ),
            "two images are called 'a', and their sizes differ",
        ),
        ([result(), 3], "not every one of 'results' is an object"),
        ([result(None)], "none of its 1 annotations has coordinates"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, document: Any, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as caught:
        read(tmp_path, document)
    assert caught.value.subject == str(tmp_path / "d.json")


def test_a_missing_box_and_a_box_that_is_not_finite_are_rows_without_coordinates(tmp_path: Path) -> None:
    boxes = [BOX, None, [1, 2, float("nan"), 4], [float("inf"), 2, 3, 4]]
    data = dataset(*(annotation(box, id=at) for at, box in enumerate(boxes)))
    assert excluded(read(tmp_path, data)) == [None, "not_finite", "not_finite", "not_finite"]


def test_a_crowd_is_no_candidate(tmp_path: Path) -> None:
    detections = read(tmp_path, dataset(annotation(), annotation([150, 9, 99, 99], iscrowd=1)))
    assert excluded(detections) == [None, "not_finite"]
    assert detections.notes == ("d.json: no candidates: 1 crowds (iscrowd 1)",)


def test_one_id_twice_is_two_candidates(tmp_path: Path) -> None:
    assert excluded(read(tmp_path, dataset(annotation(), annotation([240, 9, 50, 30])))) == [None, None]
