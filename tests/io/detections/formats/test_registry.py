"""All formats together: one list, one reading of each file, and how XML is opened."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tests.detection_files import write_json
from tests.io.detections.test_detections import DIALECTS
from wsi_mitosis.errors import DetectionsError
from wsi_mitosis.io import limits
from wsi_mitosis.io.detections import content, read_detections
from wsi_mitosis.io.detections.content import chosen_format, open_document
from wsi_mitosis.io.detections.formats import ENDINGS, FORMATS, REGISTRY, Document, Fit
from wsi_mitosis.io.detections.formats.format import Kind
from wsi_mitosis.tables import DetectionFormat

TESTS = Path(__file__).parent
MODULES = {path.stem for path in Path(content.__file__).with_name("formats").glob("*.py")}


def test_the_option_offers_the_formats_that_are_registered() -> None:
    assert get_args(DetectionFormat) == ("auto", *FORMATS)
    assert len(set(FORMATS)) == len(FORMATS)


def test_a_format_is_a_module_and_a_test() -> None:
    modules = {name.replace("-", "_") for name in FORMATS}
    assert modules | {"__init__", "format"} == MODULES
    tested = {path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py")}
    assert modules <= tested | {name.replace("-", "_") for name, *_ in DIALECTS.values()}


@pytest.mark.parametrize("item", REGISTRY, ids=FORMATS)
def test_what_a_format_states_of_itself(item) -> None:
    assert item.about.endswith(".")
    assert item.kinds
    assert set(item.kinds) <= set(get_args(Kind))
    assert all(ending.startswith(".") and ending == ending.lower() for ending in item.endings)


def test_an_ending_that_ends_in_another_one_precedes_it() -> None:
    for at, ending in enumerate(ENDINGS):
        assert not any(later.endswith(ending) for later in ENDINGS[at + 1 :])


ODD = [
    *(
        [],
        [None],
        [[]],
        [{}],
        [{"geometry": None}],
        {},
        {"type": None},
        {"features": None, "type": "Feature"},
    ),
    *({"annotations": None, "images": None}, {"boxes": None}, {"points": None}, ["a"], [1.5]),
]


@pytest.mark.parametrize("item", REGISTRY, ids=FORMATS)
@pytest.mark.parametrize("data", ODD, ids=str)
def test_recognition_accepts_any_json(item, data: object) -> None:
    assert item.fit(Document(Path("a.json"), "json", data)) in Fit


def test_a_document_of_another_kind_never_fits() -> None:
    for item in REGISTRY:
        for kind in set(get_args(Kind)) - set(item.kinds):
            assert item.fit(Document(Path("a"), kind, None)) is Fit.NO


def test_two_formats_that_are_equally_likely_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(tmp_path / "a.json", {"boxes": [[0, 0, 2, 4]]})
    (guide,) = (item for item in REGISTRY if item.name == "midog-guide")
    rival = replace(guide, name="sliderunner", fits=lambda _: Fit.LIKELY)
    monkeypatch.setattr(content, "REGISTRY", (rival, guide))
    with pytest.raises(DetectionsError, match="it may be sliderunner or midog-guide") as caught:
        read_detections(path)
    assert caught.value.remedy == "Pass --format sliderunner or --format midog-guide"
    assert len(read_detections(path, format="midog-guide").table) == 1
    monkeypatch.setattr(content, "REGISTRY", (replace(rival, fits=lambda _: Fit.POSSIBLE), guide))
    assert chosen_format("auto", open_document(path)) is guide


XML = '<?xml version="1.0" encoding="{}"?>\n<Notes name="Gewebe-Ü"/>\n'


@pytest.mark.parametrize(
    ("stated", "written"),
    [
        ("utf-8", "utf-8"),
        ("utf-8", "utf-8-sig"),
        ("iso-8859-1", "iso-8859-1"),
        ("windows-1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16", "utf-8"),
        ("utf-16", "utf-8-sig"),
    ],
)
@pytest.mark.parametrize("before", ["", "\n "])
def test_xml_is_opened_in_its_encoding(tmp_path: Path, stated: str, written: str, before: str) -> None:
    text = XML.format(stated) if not before else before + XML.format(stated).partition("\n")[2]
    if before and written not in {"utf-8", "utf-8-sig", "utf-16"}:
        return  # without a declaration, XML is in Unicode
    (tmp_path / "a.xml").write_bytes(gzip.compress(text.encode(written)))
    document = open_document(tmp_path / "a.xml")
    assert (document.kind, document.data.tag, document.data.get("name")) == ("xml", "Notes", "Gewebe-Ü")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("<Notes/>", "XML of no known format, with the root element 'Notes'"),
        ("<Notes>", "not valid XML: no element found"),
        ("<a><b></a>", "not valid XML: mismatched tag"),
        ("<?xml version='1.0' encoding='gb18030'?><a>", "not valid XML"),
        ("<!DOCTYPE html><html/>", "the XML has a document type with entities"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "the XML has a document type with entities"),
        ("<a>" * 300 + "</a>" * 300, "the XML has more than 200 nested elements"),
    ],
)
def test_xml_that_is_refused(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DetectionsError) as caught:
        read_detections(tmp_path / "a.xml")
    assert caught.value.cause.startswith(cause)
    assert caught.value.subject == str(tmp_path / "a.xml")


def test_xml_that_is_too_large() -> None:
    with pytest.raises(limits.LimitError, match="the XML has more than 0 MiB"):
        limits.parse_xml("<a/>", most=3)
