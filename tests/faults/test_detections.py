"""Malformed files of every format: each is refused by name, with the right kind of error."""

from __future__ import annotations

import gzip
import io
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.detection_files import write_midog, write_sliderunner, write_tiatoolbox_db
from tests.faults.readers import READERS, Reader
from wsi_mitosis.errors import BundleError, DatasetError, DetectionsError, InputError, SpecError

Content = bytes | Callable[[Path], object]
POINTS, SCORES = [(10.0, 20.0), (30.0, 40.0)], [0.5, 0.6]


def text(value: str) -> bytes:
    return value.encode()


def document(value: Any) -> bytes:
    return json.dumps(value).encode()


def features(*items: Any) -> bytes:
    return document({"type": "FeatureCollection", "features": list(items)})


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def store(*statements: str) -> Callable[[Path], object]:
    """A TIAToolbox store that was changed."""

    def write(path: Path) -> None:
        write_tiatoolbox_db(path, POINTS, SCORES)
        with closing(sqlite3.connect(path)) as database, database:
            for statement in statements:
                database.execute(statement)

    return write


def damaged_store(path: Path) -> None:
    """A store whose schema is not text."""
    write_tiatoolbox_db(path, POINTS, SCORES)
    path.write_bytes(
        path.read_bytes().replace(b"CREATE TABLE annotations", b"CREATE TABLE annot\xff\xfeions")
    )


def cut(write: Callable[[Path], object], share: float) -> Callable[[Path], object]:
    def cut_off(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return cut_off


def sliderunner(path: Path) -> None:
    write_sliderunner(path, "a.tiff", POINTS)


def midog(**changes: Any) -> Callable[[Path], object]:
    """MIDOG's JSON whose first annotation was changed."""

    def write(path: Path) -> None:
        write_midog(path, "a.tiff", POINTS, SCORES)
        read = json.loads(path.read_text())
        read["annotations"][0] |= changes
        path.write_bytes(document(read))

    return write


POINT = {"type": "Point", "coordinates": [10, 20]}
BOX = [0, 0, 10, 10]
WORD = "not a number"
CSV = "slide,x,y\na.tiff,1,2\n"

DETECTIONS: dict[str, tuple[str, Content, str]] = {
    "empty": ("d.csv", b"", "the file is empty"),
    "only blanks": ("d.csv", b" \n\t\n", "the file is empty"),
    "binary": ("d.csv", bytes(range(256)) * 4, "neither text nor a database nor Parquet"),
    "a picture": ("d.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64), "neither text nor"),
    "no coordinates": ("d.csv", b"slide,a,b\na.tiff,1,2\n", "no column"),
    "a word for a number": ("d.csv", b"slide,x,y\na.tiff,1,here\n", "'here'"),
    "a row too long": ("d.csv", b"slide,x,y\na.tiff,1,2,3\nb.tiff,4,5\n", "row 1 has 4 fields"),
    "a cell of 200,000 characters": ("d.csv", text('slide,x,y\n"' + "a" * 200_000), "cannot be read"),
    "a header of 200,000 characters": ("d.csv", text('"' + "a," * 100_000), "no column"),
    "an open quotation mark": ("d.csv", text('slide,x,y\n"a.tiff,1,2\n'), "none of its 1 rows"),
    "zero bytes in a table": ("d.csv", text("slide,x,y\na\0.tiff,1,2\n"), "neither text nor"),
    "UTF-16 cut in half": ("d.csv", CSV.encode("utf-16")[:-1], "neither text nor"),
    "a bomb of column names": ("d.csv", text(",".join(["x"] * 5000) + "\n"), "x"),
    "gzip, damaged": ("d.csv.gz", gzip.compress(CSV.encode())[:-9] + b"\0" * 9, "damaged gzip"),
    "gzip, cut off": ("d.csv.gz", gzip.compress(CSV.encode())[:-12], "damaged gzip"),
    "gzip of a database": ("d.gz", gzip.compress(b"SQLite format 3\0" + bytes(99)), "a compressed SQLite"),
    "gzip of nothing": ("d.geojson.gz", gzip.compress(b""), "the file is empty"),
    "Parquet, only its name": ("d.parquet", b"PAR1", "damaged Parquet"),
    "Parquet, cut off": ("d.parquet", parquet({"x": [1.0], "y": [2.0]})[:-20], "damaged Parquet"),
    "Parquet, damaged": ("d.parquet", b"PAR1" + b"\xff" * 200 + b"PAR1", "damaged Parquet"),
    "Parquet, text that is not UTF-8": (
        "d.parquet",
        replaced(
            parquet({"slide": ["abcdef"], "x": [1.0], "y": [2.0]}, compression="none"), b"abcdef", b"\xff" * 6
        ),
        "damaged Parquet",
    ),
    "Parquet, no coordinates": ("d.parquet", parquet({"slide": ["a"]}), "no column"),
    "Parquet, words": ("d.parquet", parquet({"slide": ["a"], "x": ["here"], "y": ["1"]}), "'here'"),
    "JSON, cut off": ("d.json", b'{"type": "FeatureCollection", "features": [', "not valid JSON"),
    "JSON of something else": ("d.json", b'{"name": "x"}', "JSON of no known format"),
    "JSON, a list of numbers": ("d.json", b"[1, 2]", "a JSON list of other things"),
    "JSON, nested 100,000 deep": ("d.json", b"[" * 100_000, "nested too deeply"),
    "JSON, objects nested 100,000 deep": ("d.json", b'{"a":' * 100_000, "nested too deeply"),
    "JSON, a number of 5,000 digits": (
        "d.json",
        b'[{"geometry": ' + b"9" * 5000 + b"}]",
        "thousands of digits",
    ),
    "JSON, half a surrogate pair": ("d.json", features(feature(POINT, name="\ud800")), "surrogate"),
    "GeoJSON, features are a number": (
        "d.json",
        b'{"type": "FeatureCollection", "features": 5}',
        "not a list",
    ),
    "GeoJSON, a feature is a number": ("d.json", features(5), "feature 1 is 5"),
    "GeoJSON, no geometry": ("d.json", features(feature(None)), "none of its 1 objects"),
    "GeoJSON, words as coordinates": (
        "d.json",
        features(feature({"type": "Point", "coordinates": ["a", "b"]})),
        "none of its 1 objects",
    ),
    "GeoJSON, geometry of no kind": ("d.json", features(feature({"type": "Cube"})), "none of its 1 objects"),
    "GeoJSON, a score is a word": ("d.json", features(feature(POINT, score="high")), WORD),
    "GeoJSON, a score of 400 digits": ("d.json", features(feature(POINT, score=10**400)), WORD),
    "TIAToolbox, cut off": ("d.db", cut(store(), 0.6), "damaged SQLite"),
    "TIAToolbox, schema is not text": ("d.db", damaged_store, "SQLite"),
    "TIAToolbox, properties nested deeply": (
        "d.db",
        store("UPDATE annotations SET properties = '" + "[" * 100_000 + "'"),
        "nested too deeply",
    ),
    "TIAToolbox, properties are a list": (
        "d.db",
        store("UPDATE annotations SET properties = '[]'"),
        "JSON object",
    ),
    "TIAToolbox, centres are words": ("d.db", store("UPDATE annotations SET cx = 'here'"), WORD),
    "TIAToolbox, annotations are a view": (
        "d.db",
        store(
            "ALTER TABLE annotations RENAME TO others",
            "CREATE VIEW annotations AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i AS id, i AS key, i AS cx, i AS cy, '{}' AS properties FROM n",
        ),
        "no known format",
    ),
    "SlideRunner, cut off": ("d.sqlite", cut(sliderunner, 0.5), "damaged SQLite"),
    "a database of something else": ("d.db", store("DROP TABLE annotations"), "no known format"),
    "MIDOG, a box of three": ("d.json", midog(bbox=[1, 2, 3]), "not four numbers"),
    "MIDOG, a box of words": ("d.json", midog(bbox=list("abcd")), WORD),
    "MIDOG, a box of 400 digits": ("d.json", midog(bbox=[0, 0, 10**400, 1]), WORD),
    "MIDOG, a box that ends before it begins": ("d.json", midog(bbox=[9, 9, 1, 1]), "ends before it begins"),
    "MIDOG, an unknown image": ("d.json", midog(image_id=99), "does not explain"),
    "MIDOG, an unknown class": ("d.json", midog(category_id=[]), "does not explain"),
    "MIDOG's guide, too few scores": (
        "d.json",
        document({"boxes": [BOX], "scores": []}),
        "1 boxes, but 0 scores",
    ),
    "MIDOG's guide, boxes are an object": ("d.json", document({"boxes": {}}), "not a list"),
    "Grand Challenge, two numbers too few": (
        "d.json",
        document({"points": [{"point": [1]}]}),
        "not [x, y, z]",
    ),
    "Grand Challenge, words": ("d.json", document({"points": [{"point": ["a", "b", 0]}]}), WORD),
    "Grand Challenge, no shapes": ("d.json", document({"points": [{"line": []}]}), "has none of point"),
}


@pytest.mark.parametrize("case", DETECTIONS)
def test_a_malformed_detections_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    from wsi_mitosis.io.detections import read_detections

    name, content, cause = DETECTIONS[case]
    refused(tmp_path / name, content, read_detections, DetectionsError, cause)


OTHERS: dict[str, tuple[str, str, Content, type[InputError], str]] = {
    "regions, a table": ("regions", "a.geojson", text(CSV), DetectionsError, "not GeoJSON"),
    "regions, only points": (
        *("regions", "a.geojson", features(feature(POINT)), DetectionsError),
        "none of its objects is a region: feature 1 (point)",
    ),
    "regions, rings of words": (
        "regions",
        "a.geojson",
        features(feature({"type": "Polygon", "coordinates": [["a", "b"]]})),
        DetectionsError,
        "no region can be made of feature 1 (its coordinates are not all finite numbers)",
    ),
    "a review that is a table": ("reviews", "a.geojson", text(CSV), DetectionsError, "not GeoJSON"),
    "a review, cut off": ("reviews", "a.geojson", b'[{"geometry": ', DetectionsError, "not valid JSON"),
    "a slide list without slides": (
        "slide-lists",
        "l.csv",
        b"a,b\n1,2\n",
        InputError,
        "has a header with 'slide'",
    ),
    "a slide list that is no text": ("slide-lists", "l.csv", bytes(range(256)) * 4, InputError, "not text"),
    "a slide list with a cell of 200,000 characters": (
        "slide-lists",
        "l.csv",
        text('slide\n"' + "a" * 200_000),
        InputError,
        "cannot be read",
    ),
    "a pipeline that is no TOML": ("pipelines", "p.toml", b"a = ", SpecError, "not valid TOML"),
    "a pipeline that is not UTF-8": ("pipelines", "p.toml", b"a = '\xff'", SpecError, "UTF-8"),
    "a pipeline nested deeply": (
        "pipelines",
        "p.toml",
        b"a = " + b"[" * 99_999,
        SpecError,
        "nested too deeply",
    ),
    "a pipeline with a long number": (
        "pipelines",
        "p.toml",
        b"a = " + b"9" * 5000,
        SpecError,
        "not valid TOML",
    ),
    "a pipeline with a typing error": ("pipelines", "p.toml", b"modle = 'x'", SpecError, "modle"),
    "a recipe that is not UTF-8": ("recipes", "r.toml", b"\xff\xfe", SpecError, "UTF-8"),
    "a manifest that is no TOML": ("bundles", "manifest.toml", b"[", BundleError, "cannot be read"),
    "a manifest that is not UTF-8": ("bundles", "manifest.toml", b"a = '\xff'", BundleError, "UTF-8"),
    "a manifest without keys": ("bundles", "manifest.toml", b"", BundleError, "missing"),
    "labels that are no text": ("labels", "any.csv", bytes(range(256)) * 4, DatasetError, "not text"),
    "labels with a short row": (
        "labels",
        "any.csv",
        b"slide,x,y,label\ns.tiff,1\n",
        DatasetError,
        "2 cells below a header of 4",
    ),
    "labels with a long header": ("labels", "any.csv", text('"' + "a" * 200_000), DatasetError, "any.csv"),
    "a fold's record that is not UTF-8": ("folds", "fold.json", b"\xff\xfe{", SpecError, "UTF-8"),
    "a fold's record nested deeply": ("folds", "fold.json", b"[" * 99_999, SpecError, "not valid JSON"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_malformed_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    reader, name, content, kind, cause = OTHERS[case]
    refused(tmp_path / name, content, READERS[reader].read, kind, cause)


def refused(
    path: Path, content: Content, read: Callable[[Path], object], kind: type[Exception], cause: str
) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(kind) as error:
        read(path)
    assert type(error.value) is kind
    message = str(error.value)
    assert path.name in message
    assert cause in message
    assert len(message) < 2000


RESULTS: dict[str, tuple[str, str, bytes, str]] = {
    "a summary that is no text": ("results", "summary.csv", b"\xff\xfe\0", "is not a summary"),
    "a recount's digest is a list": (
        "recounts",
        "agreement.json",
        b'{"summary_sha256": []}',
        "edited or damaged",
    ),
    "a recount's agreement nested deeply": ("recounts", "agreement.json", b"[" * 99_999, "edited or damaged"),
    "a project's ids are words": (
        "projects",
        "project.qpproj",
        b'{"images": [{"entryID": "one"}]}',
        "QuPath could not read",
    ),
    "a project's metadata is a list": (
        "projects",
        "project.qpproj",
        b'{"images": [{"entryID": 1, "metadata": [1]}]}',
        "QuPath could not read",
    ),
    "a project's last id is an object": (
        "projects",
        "project.qpproj",
        b'{"images": [], "lastID": {}}',
        "QuPath could not read",
    ),
    "a project nested deeply": ("projects", "project.qpproj", b"[" * 99_999, "QuPath could not read"),
    "a class without a name": (
        "projects",
        "classes.json",
        b'{"pathClasses": [{"name": {}}]}',
        "QuPath could not read",
    ),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_damaged_file_of_an_earlier_run_is_refused_by_name(tmp_path: Path, case: str) -> None:
    name, file, content, cause = RESULTS[case]
    reader = READERS[name]
    path = next(path for path in reader.write(tmp_path) if path.name == file)
    path.write_bytes(content)
    assert_refused_by_name(reader, path, cause, named="summary.csv" if name == "recounts" else None)


STACKS = {
    "an unknown colour space": (
        b"\x06\x01\x03\x00\x01\x00\x00\x00\x02\x00",
        b"\x06\x01\x03\x00\x01\x00\x00\x00\x63\x00",
    ),
    "pages of other sizes": (
        b"\x00\x01\x04\x00\x01\x00\x00\x00\x20\x00",
        b"\x00\x01\x04\x00\x01\x00\x00\x00\x21\x00",
    ),
}


@pytest.mark.parametrize("case", STACKS)
def test_a_damaged_stack_is_refused_by_name(tmp_path: Path, case: str) -> None:
    old, new = STACKS[case]
    path = READERS["stacks"].write(tmp_path)[0]
    data = path.read_bytes()
    kinds = (old, new), (old.replace(b"\x04\x00", b"\x03\x00", 1), new.replace(b"\x04\x00", b"\x03\x00", 1))
    old, new = next(pair for pair in kinds if pair[0] in data)
    path.write_bytes(data.replace(old, new, 1))
    assert_refused_by_name(READERS["stacks"], path, "page")


def test_a_damaged_chunk_of_a_store_is_refused_by_name(tmp_path: Path) -> None:
    """Its header states a negative size, of which the codec raises SystemError."""
    paths = READERS["stores"].write(tmp_path)
    path = next(path for path in paths if "images" in path.parts and "c" in path.parts)
    data = bytearray(path.read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    assert_refused_by_name(READERS["stores"], path, "damaged", named="s.zarr")


def assert_refused_by_name(reader: Reader, path: Path, cause: str, named: str | None = None) -> None:
    with pytest.raises(InputError) as error:
        reader.read(path)
    assert (named or path.name) in str(error.value)
    assert cause in str(error.value)


def test_numbers_of_any_length_in_names_are_ordered_as_numbers() -> None:
    from wsi_mitosis.io.training.labels.common import natural_key

    names = ["2.png", "10.png", f"{'9' * 5000}.png", f"1{'0' * 5000}.png"]
    shuffled = [names[at] for at in (3, 1, 0, 2)]
    assert sorted(shuffled, key=natural_key) == names


def test_a_label_table_may_name_slides_by_any_number() -> None:
    from wsi_mitosis.errors import DatasetError
    from wsi_mitosis.io.training.labels.amibr import domain_of
    from wsi_mitosis.io.training.labels.midog25 import slide_of

    number = "1" * 5000
    assert slide_of(f"{number}.tiff") == f"MIDOG25/{number}.tiff"
    with pytest.raises(DatasetError, match="is no slide of MIDOG21"):
        domain_of("MIDOG21", f"{number}.tiff", "row 1")


def test_a_figures_table_that_is_damaged_behind_its_digest_is_refused_by_name(tmp_path: Path) -> None:
    from wsi_mitosis.errors import SlideError
    from wsi_mitosis.io.results.figures import read_figures

    path = READERS["results"].write(tmp_path)[-1]
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(SlideError, match=rf"{path.name}: reading results: its figures table cannot be read"):
        read_figures(path)


@pytest.mark.parametrize("name", ["/dev/zero", "../../etc/passwd", "a\0b", "zero"])
def test_a_digest_of_a_file_elsewhere_is_not_computed(tmp_path: Path, name: str) -> None:
    """`/dev/zero` has no end."""
    from wsi_mitosis.jobs.verify import verify

    [path, *_] = READERS["runs"].write(tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    path.write_bytes(document({"schema": 1, "files": {name: "0" * 64}}))
    found = {finding.file: finding.verdict for finding in verify(tmp_path).findings}
    assert found.get(name) == ("missing" if name == "zero" else None)


@pytest.mark.parametrize("depth", [900, 20_000])
@pytest.mark.parametrize("file", ["run.json", "states", "assessments", "geojson", "digests.json"])
def test_a_result_that_is_nested_deeply_counts_as_damaged(tmp_path: Path, file: str, depth: int) -> None:
    from wsi_mitosis.io.results.folder import ResultFiles
    from wsi_mitosis.io.results.lock import FILE as LOCK

    READERS["runs"].write(tmp_path)
    [path] = [tmp_path / file] if "." in file else list((tmp_path / file).glob("a.tiff*"))
    path.write_bytes(b'{"a":' * depth + b"1" + b"}" * depth + b"\n")
    READERS["runs"].read(path)
    (tmp_path / LOCK).unlink()
    READERS["results"].read(path)
    read = ResultFiles(tmp_path)
    [record] = [record for record in read.records().values() if record.name == "a.tiff"]
    assert (read.assessed(record) is None) == (file == "assessments")
    assert (not read.histories()) == (file == "states")


def test_a_named_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    from wsi_mitosis.io.detections import read_detections

    os.mkfifo(tmp_path / "d.csv")
    with pytest.raises(DetectionsError, match=r"d\.csv.*not a regular file"):
        read_detections(tmp_path / "d.csv")


def test_a_challenge_input_outside_its_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "input"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.tiff").write_bytes(b"II*\0")
    path = READERS["challenge"].write(inside)[0]
    for place in ("../elsewhere", str(tmp_path / "elsewhere"), "a" * 5000, "a\0b"):
        entries = json.loads(path.read_text())
        entries[0]["socket"]["relative_path"] = place
        path.write_text(json.dumps(entries))
        with pytest.raises(InputError, match="names a folder"):
            READERS["challenge"].read(path)
