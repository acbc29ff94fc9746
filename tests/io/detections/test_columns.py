"""What the columns of a table mean: centres and boxes, units, classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.candidates import prepare_candidates
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io.detections import read_detections
from wsi_mitosis.tables import Detections
from wsi_mitosis.units import Mpp

CORNERS = [
    ("x", "y"),
    ("left", "top"),
    ("xmin", "ymin"),
    ("X Min", "Y-Min"),
    ("x1", "y1"),
    ("bbox_x", "bbox_y"),
]
SIZES = [("width", "height"), ("w", "h"), ("W", "H"), ("box_width", "box_height"), ("bbox_w", "bbox_h")]
ENDS = [("x2", "y2"), ("xmax", "ymax"), ("right", "bottom")]
CENTRES = [("cx", "cy"), ("x_center", "y_center"), ("centroid_x", "centroid_y"), ("Centre X", "Centre Y")]


def read(folder: Path, text: str, **options) -> Detections:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_detections(path, **options)


def xy(detections: Detections) -> list[list[float]]:
    return detections.table[["x", "y"]].to_numpy().tolist()


def reasons(detections: Detections, **options) -> list[str | None]:
    given_options = {"size_px0": (640, 640), "mpp": Mpp(0.25, 0.25), "mpp_stated": True, "bounds": None}
    return prepare_candidates(detections, **{**given_options, **options})["excluded_reason"].tolist()


# --- boxes


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("size", SIZES)
def test_corner_and_size_are_a_box_and_never_a_centre(
    tmp_path: Path, corner: tuple[str, str], size: tuple[str, str]
) -> None:
    detections = read(tmp_path, f"slide,{','.join((*corner, *size))}\na,100,200,50,40\na,8,9,0,0\n")
    assert xy(detections) == [[125, 220], [8, 9]]
    assert detections.table["extent"].tolist() == [50, 0]
    assert "corner of boxes" in detections.notes[0]


@pytest.mark.parametrize("names", [(*centre, *size) for centre in CENTRES for size in SIZES])
def test_names_that_say_centre_are_the_centre(tmp_path: Path, names: tuple[str, ...]) -> None:
    detections = read(tmp_path, f"{','.join(names)}\n100,200,50,40\n")
    assert (xy(detections), detections.notes) == ([[100, 200]], ())


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("end", ENDS)
def test_two_corners_are_a_box(tmp_path: Path, corner: tuple[str, str], end: tuple[str, str]) -> None:
    detections = read(tmp_path, f"{','.join((*corner, *end))}\n100,200,150,240\n")
    assert xy(detections) == [[125, 220]]


@given(st.lists(st.tuples(*[st.floats(0, 1e5)] * 2, *[st.floats(0, 500)] * 2), min_size=1, max_size=5))
def test_a_box_has_one_centre_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, boxes: list
) -> None:
    folder = tmp_path_factory.mktemp("boxes")
    x, y, width, height = np.array(boxes).T
    ways = {
        "x,y,width,height": (x, y, width, height),
        "left,top,right,bottom": (x, y, x + width, y + height),
        "cx,cy": (x + width / 2, y + height / 2),
        "x1,y1,x2,y2,x,y": (x, y, x + width, y + height, x, y),
    }
    for header, columns in ways.items():
        rows = "\n".join(",".join(map(repr, map(float, row))) for row in zip(*columns, strict=True))
        detections = read(folder, f"{header}\n{rows}\n", units="px")
        # 1e-9 px: one rounding of numbers up to 1e5
        np.testing.assert_allclose(
            detections.table[["x", "y"]], np.stack([x + width / 2, y + height / 2], axis=1), atol=1e-9
        )


def test_what_the_user_names_wins(tmp_path: Path) -> None:
    text = "x,y,width,height\n100,200,50,40\n"
    assert xy(read(tmp_path, text, columns={"x": "x", "y": "y"})) == [[100, 200]]
    named = {"x1": "a", "y1": "b", "width": "c", "height": "d"}
    assert xy(read(tmp_path, "x,y,a,b,c,d\n1,2,100,200,50,40\n", columns=named)) == [[125, 220]]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x,y,width,height\n100,200,50,40\n9,9,-5,4\n", "row 2: the box has a negative width or height"),
        ("x,y,x1,y1\n100,200,50,40\n", "'x' and 'y', beside 'x1' and 'y1', may be a centre or a corner"),
        (
            "x1,y1,x2,y2\n438,196,50,40\n",
            r"row 1: the box \[438.0, 196.0, 50.0, 40.0\] ends before it begins",
        ),
        ("x1,y1,x2,y2,x,y\n10,20,30,60,1,2\n", r"row 1: the point \('x', 'y'\) is not in the box"),
        ("left,top,width\n1,2,3\n", "no columns for x and y"),
    ],
)
def test_boxes_that_may_mean_something_else_are_refused(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as caught:
        read(tmp_path, text)
    assert "--columns" in str(caught.value.remedy) or "[x, y, width, height]" in str(caught.value.remedy)


def test_imagejs_results_are_centres_in_their_boxes(tmp_path: Path) -> None:
    head = " ,Area,Mean,X,Y,BX,BY,Width,Height"
    assert xy(read(tmp_path, f"{head}\n1,2000,88,438.25,196.5,413.25,176.5,50,40\n")) == [[438.25, 196.5]]


def test_corners_that_are_numbered_from_0(tmp_path: Path) -> None:
    assert xy(read(tmp_path, "x0,y0,x1,y1\n100,200,150,240\n")) == [[125, 220]]
    assert xy(read(tmp_path, "x0,y0,x1,y1,width,height\n100,200,150,240,50,40\n")) == [[125, 220]]
    assert xy(read(tmp_path, "x0,y0,w,h\n100,200,50,40\n")) == [[125, 220]]


def test_the_size_of_the_image_is_no_box(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="row 1: all boxes are at least 60000 wide or high"):
        read(tmp_path, "x,y,width,height\n2438,1196,60000,50000\n5,7,60000,50000\n")


def test_sizes_that_are_all_missing_leave_a_point(tmp_path: Path) -> None:
    assert xy(read(tmp_path, "x,y,width,height\n100,200,,\n30,40,,\n")) == [[100, 200], [30, 40]]


# --- rows


def test_rows_with_a_field_more_than_the_header_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="every row has 4 fields, the header has 3"):
        read(tmp_path, "x,y,score\n1,438.25,196.5,\n2,8,9,\n")


@pytest.mark.parametrize("row", ['"a.tiff,438.25,196.5"', "a.tiff;438;196", "a.tiff", "a.tiff,,"])
def test_a_table_of_which_no_row_has_coordinates_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(DetectionsError, match="none of its 2 rows has coordinates"):
        read(tmp_path, f"slide,x,y\n{row}\n{row}\n")


# --- units


@pytest.mark.parametrize(
    ("x", "y", "units", "factor"),
    [
        ("x [µm]", "y [µm]", "um", 1),
        ("X (um)", "Y (um)", "um", 1),
        ("x_microns", "y_microns", "um", 1),
        ("left_mm", "top_mm", "mm", 1),
        ("x [px]", "y [px]", "px", 1),
        ("x_pixels", "y_pixels", "px", 1),
        ("x (%)", "y (%)", "fraction", 0.01),
        ("x_percent", "y_percent", "fraction", 0.01),
        ("xUm", "yUm", "um", 1),
        ("xCenter", "yCenter", "px", 1),
        ("x/µm", "y/µm", "um", 1),
        ("x in µm", "y in µm", "um", 1),
        ("x%", "y%", "fraction", 0.01),
        ("x_norm", "y_norm", "fraction", 1),
        ("x_center_rel", "y_center_rel", "fraction", 1),
        ("x fraction", "y fraction", "fraction", 1),
    ],
)
def test_units_in_the_names_of_columns(tmp_path: Path, x: str, y: str, units: str, factor: float) -> None:
    size = ",width_mm,height_mm" if x.startswith("left") else ""
    detections = read(tmp_path, f"{x},{y}{size}\n4,8{',0,0' if size else ''}\n")
    assert (detections.units, xy(detections)) == (units, [[4 * factor, 8 * factor]])


def test_the_unit_of_a_column_that_the_user_names_is_read_too(tmp_path: Path) -> None:
    detections = read(tmp_path, "pos_x_um,pos_y_um\n4,8\n", columns={"x": "pos_x_um", "y": "pos_y_um"})
    assert detections.units == "um"


def test_boxes_of_two_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="'left_um' is in um, 'width' in px"):
        read(tmp_path, "left_um,top_um,width,height\n4,8,1,1\n")


@pytest.mark.parametrize("rows", ["0.5,0.25\n", "0.5,0.25\n0.75,0.125\n,\n", "0,0\n", "1,1\n"])
@pytest.mark.parametrize("header", ["x,y", "x_um,y_um"])
def test_shares_of_an_image_are_refused_with_the_option_that_says_so(
    tmp_path: Path, rows: str, header: str
) -> None:
    with pytest.raises(DetectionsError, match=r"within 0 to 1 (px|um).*--units fraction"):
        read(tmp_path, f"{header}\n{rows}")
    assert len(read(tmp_path, f"{header}\n{rows}", units="px").table)


@pytest.mark.parametrize("stray", ["1.02,0.5", "-0.01,0.5", "438,196"])
def test_a_stray_point_does_not_hide_shares(tmp_path: Path, stray: str) -> None:
    with pytest.raises(DetectionsError, match="--units fraction"):
        read(tmp_path, f"x,y\n0.5,0.25\n0.75,0.5\n{stray}\n")


def test_shares_of_one_slide_are_found_beside_pixels_of_another(tmp_path: Path) -> None:
    rows = "a,0.5,0.25\na,0.75,0.5\n" + "b,438,196\n" * 9
    with pytest.raises(DetectionsError, match="--units fraction"):
        read(tmp_path, f"slide,x,y\n{rows}")


def test_whole_numbers_near_the_corner_beside_others_are_pixels(tmp_path: Path) -> None:
    assert len(read(tmp_path, "slide,x,y\na,0,0\nb,1,1\nc,0,1\nd,438,196\n").table) == 4


def test_shares_under_a_header_of_percent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DetectionsError, match="the header says percent, and the coordinates lie within 0"):
        read(tmp_path, "x (%),y (%)\n0.5,0.25\n0.75,0.5\n")


def test_half_of_the_coordinates_beyond_one_are_enough_for_pixels(tmp_path: Path) -> None:
    assert xy(read(tmp_path, "x,y\n0.5,0.25\n0.5,1.5\n")) == [[0.5, 0.25], [0.5, 1.5]]
    assert read(tmp_path, "x_mm,y_mm\n0.5,0.25\n").units == "mm"


@pytest.mark.parametrize("header", ["x_nm,y_nm", "X [nm],Y [nm]", "x_nanometers,y_nanometers"])
def test_nanometres_in_the_header_are_read(tmp_path: Path, header: str) -> None:
    detections = read(tmp_path, f"{header}\n2500,5000\n")
    assert (detections.units, xy(detections)) == ("nm", [[2500.0, 5000.0]])


def test_shares_become_pixels_of_the_slide(tmp_path: Path) -> None:
    text = "x,y,width,height\n0.5,0.25,0.1,0.2\n"
    detections = read(tmp_path, text, units="fraction")
    found = prepare_candidates(
        detections, size_px0=(1000, 400), mpp=Mpp(0.25, 0.25), mpp_stated=True, bounds=None
    )
    assert found[["x_px0", "y_px0"]].to_numpy() == pytest.approx(np.array([[550, 140]]))


# --- classes


@pytest.mark.parametrize("column", ["class", "Label", "category", "type", "category_name", "Classification"])
@pytest.mark.parametrize("name", ["hard negative look-alike", "Non-mitotic", "imposter"])
def test_look_alikes_in_a_column_of_classes_are_excluded(tmp_path: Path, column: str, name: str) -> None:
    detections = read(tmp_path, f"x,y,{column}\n10,20,mitotic figure\n30,40,{name}\n50,60,\n")
    assert reasons(detections) == [None, "class", None]
    assert reasons(detections, classes=[name]) == ["class", None, "class"]


def test_a_look_alike_in_any_column_of_classes_is_one(tmp_path: Path) -> None:
    rows = [
        "x,y,class,label,type",
        "1,20,cell,mitosis,a",
        "30,4,cell,imposter,a",
        "5,6,cell,none,non-mitotic",
    ]
    detections = read(tmp_path, "\n".join(rows))
    assert detections.table["detector_class"].tolist() == ["cell", "imposter", "non-mitotic"]
    assert reasons(detections) == [None, "class", "class"]
    assert detections.table["input_label"].tolist() == ["mitosis", "imposter", "none"]


@pytest.mark.parametrize("values", [("1", "2"), ("0", "1"), ("yes", "no"), ("TRUE", "FALSE")])
def test_classes_that_do_not_say_what_they_are_are_refused(tmp_path: Path, values: tuple[str, str]) -> None:
    detections = read(tmp_path, f"x,y,class\n10,20,{values[0]}\n30,40,{values[1]}\n")
    with pytest.raises(DetectionsError, match=r"do not say which of them are mitotic.*--class"):
        reasons(detections)
    assert reasons(detections, classes=[values[0]]) == [None, "class"]


def test_one_number_for_all_is_one_class(tmp_path: Path) -> None:
    assert reasons(read(tmp_path, "x,y,label\n10,20,1\n30,40,1\n")) == [None, None]


def test_a_column_that_numbers_the_rows_is_no_class(tmp_path: Path) -> None:
    rows = "\n".join(f"{10 * n},20,{n}" for n in range(1, 6))
    detections = read(tmp_path, f"x,y,label\n{rows}\n")
    assert detections.table["detector_class"].isna().all()
    assert detections.table["input_label"].tolist() == [1, 2, 3, 4, 5]
    assert reasons(detections) == [None] * 5


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("is_mitosis", ("1", "0")),
        ("mitotic_figure", ("true", "false")),
        ("hard_negative", ("no", "yes")),
        ("ClassName", ("mitotic figure", "hard negative look-alike")),
        ("cellType", ("mitosis", "imposter")),
        ("comment", ("clear", "not a mitosis")),
        ("mitosis_class", ("TP", "FP")),
    ],
)
def test_other_columns_that_say_what_is_a_figure(tmp_path: Path, column: str, values: tuple) -> None:
    detections = read(tmp_path, f"x,y,{column}\n10,20,{values[0]}\n30,40,{values[1]}\n")
    assert reasons(detections) == [None, "class"]


def test_a_state_of_the_patient_excludes_no_figure(tmp_path: Path) -> None:
    detections = read(tmp_path, "x,y,HER2\n10,20,negative\n30,40,negative\n")
    assert reasons(detections) == [None, None]
