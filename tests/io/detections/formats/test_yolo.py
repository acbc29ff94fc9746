"""YOLO's text files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import run, slides_in, summary
from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.core.matching import split_by_slide
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.io.results.figures import read_figures
from wsi_mitosis.tables import Detections, SlideSource
from wsi_mitosis.units import Mpp

SIZE = (1000, 400)
TEXT = """\
0 0.5 0.25 0.02 0.05 0.9
1 0.1 0.2 0.02 0.05 0.5
0 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4
0 0.2 0.2 0.5 0.2 0.2 0.5
0 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4 0.75
"""
YAML = "path: ../data\ntrain: images\nnc: 2\nnames:\n  0: mitotic figure\n  1: hard negative\n"
CLASSES = "mitotic figure\nhard negative\n"


def read(tmp_path: Path, text: str | bytes, **options) -> Detections:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_detections(path, **options)


def prepared(detections: Detections, **options):
    given_options = {"size_px0": SIZE, "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    return prepare_candidates(detections, **{**given_options, **options})


def test_every_kind_worked_by_hand(tmp_path: Path) -> None:
    # On 1000 x 400 px: the box at (500, 100); the four corners around (300, 120); the triangle's mean of its
    # corners, (0.3, 0.3), at (300, 120); and the corners again, with a confidence.
    (tmp_path / "data.yaml").write_text(YAML)
    found = read(tmp_path, TEXT)
    assert (found.format, found.units, found.frame) == ("yolo", "fraction", "slide")
    table = prepared(found)
    expected = [[500, 100], [100, 80], [300, 120], [300, 120], [300, 120]]
    assert table[["x_px0", "y_px0"]].to_numpy() == pytest.approx(np.array(expected))
    assert table.excluded_reason.tolist() == [None, "class", "duplicate", "duplicate", None]
    assert table.detector_score.tolist() == pytest.approx([0.9, 0.5, np.nan, np.nan, 0.75], nan_ok=True)
    assert table.detector_class.tolist() == [
        "mitotic figure",
        "hard negative",
        *["mitotic figure"] * 3,
    ]


@pytest.mark.parametrize(
    "names",
    [
        {"classes.txt": CLASSES},
        {"data.yaml": YAML},
        {"data.yaml": "names: ['mitotic figure', \"hard negative\"]\n"},
        {"data.yaml": "names: {0: mitotic figure, 1: hard negative}  # two\n"},
        {"data.yaml": "names:\n- mitotic figure\n- hard negative\n"},
        {"data.yaml": YAML, "classes.txt": CLASSES.replace("\n", "\r\n")},
        {"data.yaml": "nc: 2\n", "classes.txt": CLASSES},
        {"data.yaml": "names:\n", "classes.txt": CLASSES},
    ],
)
def test_names_of_classes_are_those_beside_the_file(tmp_path: Path, names: dict[str, str]) -> None:
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    found = read(tmp_path, "0 0.5 0.25 0.02 0.05\n1 0.1 0.2 0.02 0.05\n")
    assert found.table.detector_class.tolist() == ["mitotic figure", "hard negative"]
    assert prepared(found).excluded_reason.tolist() == [None, "class"]


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("data.yaml", "names: [a", "it is not YAML"),
        ("data.yaml", "[" * 5000, "it is not YAML"),
        ("data.yaml", "- a\n", "it is not an object"),
        ("data.yaml", "names: mitosis\n", "'names' is neither a list"),
        ("data.yaml", "names: [[a], b]\n", "'names' is neither a list"),
        ("data.yaml", "names: {zero: a}\n", "'names' is neither a list"),
        ("data.yaml", "kpt_shape: [17, 3]\nnames: [a]\n", "its objects are poses"),
        ("classes.txt", "\x80", "it is not text in UTF-8"),
        ("classes.txt", "a\n" * 70_000, "the file has more than 128 KiB"),
    ],
)
def test_names_that_cannot_be_read_are_refused(tmp_path: Path, name: str, text: str, cause: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DetectionsError, match="the names of the classes cannot be read") as caught:
        read(tmp_path, TEXT)
    assert cause in caught.value.cause
    assert caught.value.subject == str(tmp_path / name)


def test_names_that_lack_a_class_or_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("mitotic figure\n")
    with pytest.raises(DetectionsError, match=r"class 1 has no name in data\.yaml or classes\.txt beside it"):
        read(tmp_path, TEXT)
    (tmp_path / "data.yaml").write_text("names: [look-alike]\n")
    with pytest.raises(DetectionsError, match=r"'data\.yaml' and 'classes\.txt' beside it name the"):
        read(tmp_path, TEXT)


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n", "1 0.5 0.5 0.1 0.1\n"])
def test_without_names_several_classes_need_the_option(tmp_path: Path, text: str) -> None:
    # A file whose only class is 1 is of a detector with a class 0 too.
    source = SlideSource(Path("/s/a.tiff"), "a.tiff")
    found = split_by_slide(read(tmp_path, text), [source]).parts[source]
    with pytest.raises(DetectionsError, match=r"the classes '0', '1' do not say .* with --class"):
        prepared(found)
    assert prepared(found, classes=["1"]).excluded_reason.tolist()[-1] is None
    assert prepared(read(tmp_path, "0 0.5 0.5 0.1 0.1\n")).excluded_reason.tolist() == [None]


def test_a_run_reads_a_folder_of_labels(tmp_path: Path, small_bundle: Path) -> None:
    slides = slides_in(tmp_path / "slides", ["a.tiff", "b.tiff"])
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "classes.txt").write_text(CLASSES)
    (labels / "a.txt").write_text("0 0.5 0.5 0.1 0.1 0.9\n1 0.25 0.5 0.1 0.1 0.8\n")
    result = run(slides, labels, tmp_path / "out", small_bundle)
    assert result.statuses == {"a.tiff": "done", "b.tiff": "no_detections"}
    assert summary(tmp_path / "out")["a.tiff"]["candidates"] == "2"
    figures = read_figures(tmp_path / "out/figures/a.tiff.parquet")
    assert figures.excluded_reason.fillna("").tolist() == ["", "class"]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("0 0.5 0.5 0.1", "line 2 has 3 numbers after the class"),
        ("0", "line 2 has 0 numbers after the class"),
        ("mitosis 0.5 0.5 0.1 0.1", "line 2: the class is 'mitosis', not a whole number"),
        ("0.5 0.5 0.5 0.1 0.1", "line 2: the class is '0.5', not a whole number"),
        ("99999 0.5 0.5 0.1 0.1", "line 2: the class is '99999', not a whole number"),
        ("0 0.5 half 0.1 0.1", "line 2: 'half' is not a number"),
        ("0 0.5 nan 0.1 0.1", "line 2: 'nan' is not a number"),
        ("0 0,5 0,5 0,1 0,1", "line 2: '0,5' is not a number"),
        ("0 120 80 20 20", "line 2: 120 is no share of the image's width or height, from 0 to 1"),
        ("0 0.5 0.5 0.1 1.005", "line 2: 1.005 is no share"),
        ("0 -0.1 0.5 0.1 0.1", "line 2: -0.1 is no share"),
        ("0 0.5 0.5 0.1 0.1 17", "line 2: the confidence 17 is not within 0 to 1"),
        ("0 0.5 0.5 0.1 0.1 0.9 1", "line 2 may be a triangle, or a box with a confidence and the number"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.3 2 0.4 0.5 1", "line 2 may be a pose"),
        ("0 0.2 0.2 0.4 0.2 0.4 1.2", "line 2: 1.2 is no share"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, line: str, cause: str) -> None:
    with pytest.raises(DetectionsError) as caught:
        read(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    assert caught.value.cause.startswith(cause)


def test_an_outline_may_pass_the_edge_a_little(tmp_path: Path) -> None:
    found = read(tmp_path, "0 -0.005 0 1.005 0 1.005 1 -0.005 1\n")
    assert found.table[["x", "y"]].to_numpy() == pytest.approx(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(
    "text",
    [
        "0,0.5,0.5,0.1,0.1\n",
        "0\t0.5\t0.5\t0.1\t0.1\n",
        "0;0.5;0.5;0.1;0.1\n",
        "0.5 0.5 0.1 0.1\n",
        "0 0.5 0.5\n",
        "x y w h\n0.5 0.5 0.1 0.1\n",
    ],
)
def test_other_numbers_without_a_header_stay_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DetectionsError, match=r"a\.txt") as caught:
        read(tmp_path, text)
    assert "line" not in caught.value.cause
    with pytest.raises(DetectionsError, match="not yolo: it looks like csv"):
        read(tmp_path, text, format="yolo")


def test_a_table_stays_a_table(tmp_path: Path) -> None:
    assert read(tmp_path, "x,y\n5,6\n").format == "csv"
    with pytest.raises(DetectionsError, match="the file is empty"):
        read(tmp_path, "\n")


def test_encodings_and_compression(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(CLASSES)
    expected = read(tmp_path, TEXT).table
    for data in (TEXT.encode("utf-8-sig"), TEXT.encode("utf-16"), gzip.compress(TEXT.encode())):
        assert read(tmp_path, data).table.equals(expected)
    blanks = "\n" + TEXT.replace("\n", " \r\n\r\n").replace(" ", "  ")
    assert read(tmp_path, blanks).table.equals(expected)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=8,
    )
)
def test_boxes_are_read_as_they_are_written(
    tmp_path_factory, boxes: list[tuple[float, float, float]]
) -> None:
    lines = [f"0 {x!r} {y!r} 0.01 0.02 {score!r}" for x, y, score in boxes]
    found = read(tmp_path_factory.mktemp("yolo"), "\n".join(lines))
    assert found.table[["x", "y", "score"]].to_numpy().tolist() == [list(box) for box in boxes]
