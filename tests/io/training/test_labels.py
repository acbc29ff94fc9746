"""Labels of all sources: domains, slides, votes and order, and errors that name what to mend."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataset_files import (
    AMIBR_COLUMNS,
    MIDOG25_COLUMNS,
    amibr_row,
    crop,
    crops_folder,
    midog25_row,
    write_csv,
)
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.errors import DatasetError, InputError
from wsi_mitosis.io.training.labels import Listing
from wsi_mitosis.io.training.labels.amibr import domain_of, read_amibr
from wsi_mitosis.io.training.labels.common import natural_key
from wsi_mitosis.io.training.labels.folder import read_folder
from wsi_mitosis.io.training.labels.midog25 import read_midog25, slide_of
from wsi_mitosis.io.training.labels.table import read_table


def names(listing: Listing) -> list[str]:
    return list(listing.samples["source_id"])


@given(st.lists(st.text(st.sampled_from("ab019._"), max_size=6), max_size=8))
def test_natural_order_is_by_numbers_and_tells_all_names_apart(texts: list[str]) -> None:
    keys = [natural_key(text) for text in texts]
    assert len(set(map(str, keys))) == len(set(texts))
    assert sorted(keys) == [natural_key(text) for text in sorted(texts, key=natural_key)]


def test_natural_order() -> None:
    shuffled = ["10.png", "2.png", "1.png", "MIDOG21_100", "MIDOG21_20", "a", "02.png"]
    ordered = ["1.png", "02.png", "2.png", "10.png", "MIDOG21_20", "MIDOG21_100", "a"]
    assert sorted(shuffled, key=natural_key) == ordered


# --- AMi-Br


@pytest.mark.parametrize(
    ("dataset", "slide", "domain"),
    [
        ("MIDOG21", "001.tiff", "MIDOG21 Hamamatsu XR"),
        ("MIDOG21", "050.tiff", "MIDOG21 Hamamatsu XR"),
        ("MIDOG21", "051.tiff", "MIDOG21 Hamamatsu S360"),
        ("MIDOG21", "100.tiff", "MIDOG21 Hamamatsu S360"),
        ("MIDOG21", "101.tiff", "MIDOG21 Aperio CS2"),
        ("MIDOG21", "150.tiff", "MIDOG21 Aperio CS2"),
        ("TUPAC16", "01_stitched1.tif", "TUPAC16 01-23"),
        ("TUPAC16", "23_stitched3.tif", "TUPAC16 01-23"),
        ("TUPAC16", "24.tif", "TUPAC16 24-48"),
        ("TUPAC16", "48.tif", "TUPAC16 24-48"),
        ("TUPAC16", "49.tif", "TUPAC16 49-73"),
        ("TUPAC16", "73.tif", "TUPAC16 49-73"),
    ],
)
def test_a_slides_number_is_its_domain(dataset: str, slide: str, domain: str) -> None:
    assert domain_of(dataset, slide, "row") == domain


@pytest.mark.parametrize(
    ("dataset", "slide"),
    [("MIDOG21", "151.tiff"), ("TUPAC16", "74.tif"), ("TUPAC16", "x.tif"), ("MIDOG22", "1")],
)
def test_a_slide_of_no_domain_is_named(dataset: str, slide: str) -> None:
    with pytest.raises(DatasetError, match=rf"AMI-BR\.csv: row 7: .*'{slide}' is no slide of {dataset}"):
        domain_of(dataset, slide, "AMI-BR.csv: row 7")


@pytest.fixture
def amibr(tmp_path: Path) -> Path:
    rows = [
        amibr_row("TUPAC16", "24.tif", 12, "nna", 300, 41),
        amibr_row("MIDOG21", "002.tiff", 100, "aan", 4422, 216),
        amibr_row("MIDOG21", "002.tiff", 20, "aaa", 17, 9, "AMF segregation", " AMF other"),
    ]
    for name in ("MIDOG21_100", "TUPAC16_12", "MIDOG21_20", "MIDOG21_999"):
        crop(tmp_path / "crops" / ("Atypical" if "MIDOG" in name else "Normal") / f"{name}.png")
    return write_csv(tmp_path / "AMI-BR.csv", AMIBR_COLUMNS, rows)


def test_amibr_is_read(amibr: Path) -> None:
    listing = read_amibr(amibr, amibr.parent / "crops")
    samples = listing.samples
    assert names(listing) == ["MIDOG21_20", "MIDOG21_100", "TUPAC16_12"]
    assert [path.name for path in listing.files] == ["MIDOG21_20.png", "MIDOG21_100.png", "TUPAC16_12.png"]
    assert list(samples["slide"]) == ["MIDOG21/002.tiff", "MIDOG21/002.tiff", "TUPAC16/24.tif"]
    assert list(samples["label"]) == [1, 1, 0]
    assert list(samples["experts_atypical"]) == [3, 2, 1]
    assert set(samples["experts_asked"]) == {3}
    assert list(samples["subtypes"]) == ["AMF segregation; AMF other", "", ""]
    assert set(samples["label_source"]) == {"majority"}
    assert samples[["x_px0", "y_px0"]].to_numpy().tolist() == [[17, 9], [4422, 216], [300, 41]]
    assert not listing.on_slides


def test_missing_crops_are_counted_and_named(amibr: Path) -> None:
    for name in ("MIDOG21_20", "TUPAC16_12"):
        next((amibr.parent / "crops").rglob(f"{name}.png")).unlink()
    told = r"no image for 2 of the labels: 'TUPAC16_12.png', 'MIDOG21_20.png'.*--images"
    with pytest.raises(DatasetError, match=told):
        read_amibr(amibr, amibr.parent / "crops")


def test_one_name_in_two_folders_is_ambiguous(amibr: Path) -> None:
    crop(amibr.parent / "crops/copy/MIDOG21_20.png")
    with pytest.raises(DatasetError, match=r"two images of one name: 'MIDOG21_20\.png'"):
        read_amibr(amibr, amibr.parent / "crops")


def test_another_table_is_not_amibrs(tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", ("slide", "x", "y"), [{"slide": "a", "x": 1, "y": 2}])
    with pytest.raises(DatasetError, match=r"other\.csv: .*no column dataset, uid, expert1_atypical.*AMi-Br"):
        read_amibr(tmp_path / "other.csv", tmp_path)


# --- MIDOG 2025

MIDOG25_ROWS = [
    midog25_row(11, "201.tiff", "canine lung cancer", ("NMF", "NMF", ""), "NMF", 300, 200),
    midog25_row(2, "150.tiff", "human breast cancer", ("AMF", "NMF", "AMF"), "AMF", 90, 70),
    midog25_row(3, "201.tiff", "canine lung cancer", ("NMF", "AMF", "NMF"), "AMF", 41, 40),
]
"""The last majority is not what the experts say: the set has it so, and it is trusted."""


@pytest.fixture
def midog25(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "midog25.csv", MIDOG25_COLUMNS, MIDOG25_ROWS)


def test_midog25_with_crops(midog25: Path, tmp_path: Path) -> None:
    for number in (2, 3, 11):
        crop(tmp_path / f"crops/{number}.png")
    listing = read_midog25(midog25, tmp_path / "crops")
    samples = listing.samples
    assert names(listing) == ["3.png", "11.png", "2.png"]
    assert [path.name for path in listing.files] == ["3.png", "11.png", "2.png"]
    assert list(samples["domain"]) == ["canine lung cancer", "canine lung cancer", "human breast cancer"]
    assert list(samples["slide"]) == ["MIDOG25/201.tiff", "MIDOG25/201.tiff", "MIDOG21/150.tiff"]
    assert list(samples["label"]) == [1, 0, 1]
    assert list(samples["experts_atypical"]) == [1, 0, 2]
    assert list(samples["experts_asked"]) == [3, 2, 3]
    assert not listing.on_slides


def test_midog25_with_slides(midog25: Path, tmp_path: Path) -> None:
    for name in ("150.tiff", "201.tiff"):
        crop(tmp_path / "slides" / name)
    listing = read_midog25(midog25, tmp_path / "slides")
    assert listing.on_slides
    assert [path.name for path in listing.files] == ["201.tiff", "201.tiff", "150.tiff"]


def test_midog25_with_neither(midog25: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DatasetError, match=r"neither crops .'11\.png' and 2 more. nor slides .'150\.tiff' and 1 more."
    ):
        read_midog25(midog25, tmp_path / "empty")
    crop(tmp_path / "some/3.png")
    with pytest.raises(DatasetError, match=r"no image for 2 of the labels: '11\.png', '2\.png'"):
        read_midog25(midog25, tmp_path / "some")


@pytest.mark.parametrize(
    ("filename", "slide"),
    [("150.tiff", "MIDOG21/150.tiff"), ("151.tiff", "MIDOG25/151.tiff"), ("x.tiff", "MIDOG25/x.tiff")],
)
def test_a_slide_of_midog21_is_called_as_in_amibr(filename: str, slide: str) -> None:
    assert slide_of(filename) == slide


# --- folders


@pytest.mark.parametrize("typical", ["Normal", "normal", "Typical", "TYPICAL"])
def test_a_folders_crops_in_natural_order(tmp_path: Path, typical: str) -> None:
    for name in ("10.png", "9.jpg", "1.tif"):
        crop(tmp_path / "cases" / "ATYPICAL" / name)
    crop(tmp_path / "cases" / typical / "1.png")
    (tmp_path / "cases" / typical / "Thumbs.db").write_bytes(b"")
    (tmp_path / "cases" / typical / ".hidden.png").write_bytes(b"")
    listing = read_folder(tmp_path / "cases", None)
    assert names(listing) == ["ATYPICAL/1.tif", "ATYPICAL/9.jpg", "ATYPICAL/10.png", f"{typical}/1.png"]
    assert list(listing.samples["label"]) == [1, 1, 1, 0]
    assert set(listing.samples["domain"]) == {"cases"}
    assert set(listing.samples["slide"]) == {""}
    assert listing.samples["x_px0"].isna().all()
    assert set(listing.samples["experts_asked"]) == {0}


def test_a_folders_domain_can_be_named(tmp_path: Path) -> None:
    assert set(read_folder(crops_folder(tmp_path), "TCGA").samples["domain"]) == {"TCGA"}


@pytest.mark.parametrize(
    ("atypical", "typical"),
    [
        ("AMF", "NMF"),
        ("amf", "typical_mitoses"),
        ("Atypical Mitotic Figures", "Normal-mitosis"),
        ("aMFs", "TMF"),
    ],
)
def test_folders_in_usual_spellings_are_read(tmp_path: Path, atypical: str, typical: str) -> None:
    crops_folder(tmp_path, atypical=2, typical=3)
    (tmp_path / "Atypical").rename(tmp_path / atypical)
    (tmp_path / "Normal").rename(tmp_path / typical)
    listing = read_folder(tmp_path, None)
    assert listing.samples["label"].tolist().count(1) == 2
    assert {
        path.parent.name for path, label in zip(listing.files, listing.samples["label"], strict=True) if label
    } == {atypical}
    assert listing.notes == ()


def test_what_a_folder_has_beside_its_crops_is_named(tmp_path: Path) -> None:
    crops_folder(tmp_path, atypical=2, typical=3)
    crop(tmp_path / "loose.png")
    for number in range(4):
        crop(tmp_path / "Atypical (2)" / f"{number}.png")
    crop(tmp_path / "Normal" / "centre B" / "1.png")
    (tmp_path / "Atypical" / "5.svs").write_bytes(b"")
    (tmp_path / "Atypical" / "Thumbs.db").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"")
    crop(tmp_path / "Atypical" / "7.png").rename(tmp_path / "Atypical" / "7.JFIF")
    listing = read_folder(tmp_path, None)
    assert len(listing.samples) == 6
    assert listing.notes == (
        "not read: 1 loose image ('loose.png')",
        "not read: folder 'Atypical (2)' with 4 images; its name is no label's",
        "not read: 1 file of another kind in 'Atypical' ('5.svs')",
        "not read: folder 'Normal/centre B' with 1 image",
    )


def test_a_folder_needs_both_classes(tmp_path: Path) -> None:
    crop(tmp_path / "Atypical/1.png")
    (tmp_path / "Normal").mkdir()
    with pytest.raises(DatasetError, match="wants a folder 'Atypical' and a folder 'Normal' or 'Typical'"):
        read_folder(tmp_path, None)
    with pytest.raises(DatasetError, match="no such folder"):
        read_folder(tmp_path / "nowhere", None)


# --- tables


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for name in ("a.tiff", "deep/b.tiff"):
        (tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
        tiff_slide(tmp_path / "slides" / name, textured(64, 64))
    return tmp_path / "slides"


def table(folder: Path, text: str, domain: str | None = None) -> Listing:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, folder / "slides", domain)


def test_a_table_is_read(slides: Path, tmp_path: Path) -> None:
    listing = table(tmp_path, "slide,x,y,label\nb,10,20.5,AMF\na.tiff,1,2,NMF\n")
    assert names(listing) == ["a.tiff:1:2", "deep/b.tiff:10:20.5"]
    assert list(listing.samples["slide"]) == ["a.tiff", "deep/b.tiff"]
    assert list(listing.samples["label"]) == [0, 1]
    assert set(listing.samples["domain"]) == {"labels"}
    assert set(listing.samples["label_source"]) == {"csv"}
    assert listing.samples[["x_px0", "y_px0"]].to_numpy().tolist() == [[1, 2], [10, 20.5]]
    assert listing.on_slides


def test_a_table_may_name_subtypes(slides: Path, tmp_path: Path) -> None:
    text = "slide,x,y,label,Subtypes\na,1,2,NMF,metaphase;  ring shape ;\nb,3,4,AMF,\n"
    assert list(table(tmp_path, text).samples["subtypes"]) == ["metaphase; ring shape", ""]
    assert set(table(tmp_path, "slide,x,y,label\na,1,2,NMF\n").samples["subtypes"]) == {""}


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize(("x", "y"), [("2.438", "1.196"), ("2,438", "1,196")])
def test_numbers_that_may_be_two_are_refused(
    slides: Path, tmp_path: Path, separator: str, x: str, y: str
) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text(
        "\n".join(separator.join(row) for row in (["slide", "x", "y", "label"], ["a", x, y, "AMF"]))
    )
    with pytest.raises(DatasetError, match=r"row 1: 'x' is '2.438', which may be .*Write numbers with a"):
        read_table(csv, slides, None)
    csv.write_text(csv.read_text().replace(y, "1.196,5" if "." in y else "1,196.5"))
    assert read_table(csv, slides, None).samples["x_px0"].tolist() == [2438]


@pytest.mark.parametrize("names", [("width", "height"), ("w", "h")])
def test_boxes_are_read_as_candidates_are(slides: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    """Corners, since the boxes would otherwise reach beyond the slide."""
    header = f"slide,x,y,{','.join(names)},label"
    centres = table(tmp_path, f"{header}\na,0,4,20,10,AMF\na,40,30,20,10,NMF\n").samples
    assert centres[["x_px0", "y_px0"]].to_numpy().tolist() == [[10, 9], [50, 35]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "slide,x,y,label\na,0.5,0.25,AMF\na,0.125,0.75,NMF",
            "all coordinates lie within 0 to 1 px, as shares",
        ),
        (
            "slide,x,y,label,class\na,5,5,AMF,AMF\na,9,9,NMF,atypical",
            r"row 2: .*'class' contradicts 'label' in 1 of 2",
        ),
        ("slide,x,y,label,x\na,5,5,AMF,6", "two columns are called 'x'"),
        ("slide,x,y,label,label\na,5,5,AMF,NMF", "two columns are called 'label'"),
    ],
)
def test_what_would_be_read_otherwise_is_refused(slides: Path, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        table(tmp_path, text)


def test_a_class_that_says_nothing_of_the_label_does_not_contradict_it(slides: Path, tmp_path: Path) -> None:
    text = "slide,x,y,label,class,type\na,5,5,AMF,Tumor,\na,9,9,NMF,NMF,mitosis\n"
    assert table(tmp_path, text).samples["label"].tolist() == [1, 0]


def test_aliases_separators_and_decimal_commas(slides: Path, tmp_path: Path) -> None:
    text = "\ufeffImage;Centre X;centre_y;Class;Domain;uid;note\r\na;1,5;2;Atypical;lung;f1;x\r\n\r\n"
    listing = table(tmp_path, text)
    assert names(listing) == ["f1"]
    assert listing.samples.loc[0, ["domain", "label", "x_px0"]].tolist() == ["lung", 1, 1.5]


@pytest.mark.parametrize(
    ("text", "label"),
    [("AMF", 1), ("atypical", 1), ("1", 1), ("True", 1), ("nmf", 0), ("Typical", 0), ("normal", 0), ("0", 0)],
)
def test_labels_that_are_known(slides: Path, tmp_path: Path, text: str, label: int) -> None:
    assert list(table(tmp_path, f"slide,x,y,label\na,1,2, {text} \n").samples["label"]) == [label]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a,1,2,AMF\na,1,2,maybe", r"labels\.csv: row 2: .*'label' is 'maybe', not a label.*amf, atypical"),
        ("a,1,2,", r"row 1: .*'label' is empty"),
        ("a,here,2,AMF", r"row 1: .*'x' is 'here', not a number"),
        ("a,1,inf,AMF", r"row 1: .*'y' is 'inf', not a number"),
        ('a,"1,5",2,AMF', r"row 1: .*'x' is '1,5', not a number"),
        (",1,2,AMF", r"row 1: .*'slide' is empty"),
        ("a,1,2", r"row 1: .*3 cells below a header of 4"),
        ("c,1,2,AMF\na,1,2,AMF", r"no image for 1 of the labels: 'c'"),
        ("", r"labels\.csv: .*holds no rows"),
    ],
)
def test_a_bad_row_is_named(slides: Path, tmp_path: Path, rows: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        table(tmp_path, f"slide,x,y,label\n{rows}\n")


@pytest.mark.parametrize("x", ["x_um", "Centroid X µm", "x_mm", "Centroid X px"])
def test_coordinates_in_other_units_or_frames_are_not_taken_for_px(
    slides: Path, tmp_path: Path, x: str
) -> None:
    with pytest.raises(DatasetError, match=r"no column for x, label; there are slide, .*\(x: x, coordinatex"):
        table(tmp_path, f"slide,{x},y\na,1,2\n")


def test_a_domain_is_given_once(slides: Path, tmp_path: Path) -> None:
    text = "slide,x,y,label,domain\na,1,2,AMF,lung\n"
    with pytest.raises(DatasetError, match="--domain would overrule"):
        table(tmp_path, text, "breast")
    assert set(table(tmp_path, text.replace("domain", "remark"), "breast").samples["domain"]) == {"breast"}


def test_a_name_of_two_slides_is_refused(slides: Path, tmp_path: Path) -> None:
    tiff_slide(slides / "b.tiff", textured(64, 64))
    with pytest.raises(InputError, match="'somewhere/b' fits 2 of the slides"):
        table(tmp_path, "slide,x,y,label\nsomewhere/b,1,2,AMF\n")


def test_a_slide_that_cannot_be_opened_is_refused_where_it_is_named(slides: Path, tmp_path: Path) -> None:
    os.mkfifo(slides / "pipe.tiff")
    table(tmp_path, "slide,x,y,label\na,1,2,AMF\n")
    with pytest.raises(DatasetError, match=r"pipe\.tiff: finding slides: a named pipe"):
        table(tmp_path, "slide,x,y,label\na,1,2,AMF\npipe,1,2,AMF\n")


@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_the_order_of_a_tables_rows_decides_nothing(order: random.Random) -> None:
    rows = [
        f"{s},{x},{y},{label}" for s in ("a", "b") for x in (9, 10) for y in (1, 2) for label in ("AMF", "0")
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("slides/a.tiff", "slides/b.tiff"):
            crop(Path(folder, name))
        first = table(Path(folder), "\n".join(["slide,x,y,label", *rows]))
        order.shuffle(rows)
        other = table(Path(folder), "\n".join(["slide,x,y,label", *rows]))
    assert first.samples.equals(other.samples)
    assert np.array_equal(first.samples["x_px0"][:4], [9, 9, 9, 9])
    assert first.files == other.files
