"""Small files that unpack to more than a machine holds are refused by name, with a remedy, before they do."""

from __future__ import annotations

import gzip
import json
import resource
import sqlite3
import subprocess
import sys
import textwrap
import tracemalloc
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests import dataset_files
from tests.detection_files import write_tiatoolbox_db
from tests.dicom_files import dicom_slide
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.errors import BundleError, DatasetError, DetectionsError, InputError, UnreadableSlideError
from wsi_mitosis.io import limits
from wsi_mitosis.io.detections import content, read_detections, sqlite
from wsi_mitosis.io.slides import find_slides, open_slide
from wsi_mitosis.io.slides.tiff import read_tiff

MEMORY = 3 << 30


def refused(path: Path, cause: str) -> None:
    with pytest.raises(DetectionsError, match=cause) as error:
        read_detections(path)
    assert path.name in str(error.value)
    assert error.value.remedy


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """2 MB of zeros that are 2.1 GB, read with 1 GB to spare."""
    member = gzip.compress(b'{"type": "FeatureCollection", "features": [' + b" " * (64 << 20), 9)
    (tmp_path / "bomb.geojson.gz").write_bytes(member * 34)
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from wsi_mitosis.errors import DetectionsError
        from wsi_mitosis.io.detections import read_detections
        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
        try:
            read_detections(Path(sys.argv[1]))
        except DetectionsError as error:
            print(error)
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "bomb.geojson.gz"), str(MEMORY + (1 << 30))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "bomb.geojson.gz: reading detections: it unpacks to more than 2 GiB" in done.stdout, done.stderr
    assert resource.RLIM_INFINITY  # the limit is of the child alone


def test_gzip_is_unpacked_member_by_member() -> None:
    data = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 100
    assert limits.decompress_gzip(data) == b"one two"
    assert limits.decompress_gzip(data, most=7) == b"one two"
    with pytest.raises(limits.LimitError):
        limits.decompress_gzip(data, most=6)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text("slide,x,y\n" + "a.tiff,1,2\n" * 100)
    assert len(read_detections(tmp_path / "d.csv").table) == 100
    monkeypatch.setattr(content, "read_bytes", partial(limits.read_bytes, most=1000))
    refused(tmp_path / "d.csv", "the file has more than 0 MiB")


def test_a_large_file_is_refused_by_its_size_and_not_read(tmp_path: Path) -> None:
    """A sparse file, which needs no room on the disk."""
    with (tmp_path / "d.csv").open("wb") as file:
        file.truncate(limits.MOST_BYTES + 1)
    refused(tmp_path / "d.csv", "more than 2 GiB")


def test_too_many_rows_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").write_text("slide,x,y\n" + "a.tiff,1,2\n" * 100)
    monkeypatch.setattr(limits, "MOST_ROWS", 50)
    refused(tmp_path / "d.csv", "more than 50 rows")


def test_too_many_rows_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiatoolbox_db(tmp_path / "d.db", [(1.0, 2.0)] * 20, [0.5] * 20)
    assert len(read_detections(tmp_path / "d.db").table) == 20
    monkeypatch.setattr(limits, "MOST_ROWS", 10)
    refused(tmp_path / "d.db", "more than 10 rows")


def test_a_database_does_not_compute_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiatoolbox_db(tmp_path / "d.db", [(1.0, 2.0)] * 2000, [0.5] * 2000)
    monkeypatch.setattr(limits, "MOST_DATABASE_STEPS", 100)
    monkeypatch.setattr(sqlite, "_STEPS_AT_ONCE", 10)
    refused(tmp_path / "d.db", "interrupted")


def test_a_database_runs_no_function_with_side_effects(tmp_path: Path) -> None:
    path = write_tiatoolbox_db(tmp_path / "d.db", [(1.0, 2.0)], [0.5])
    with sqlite._opened(path) as database:
        assert database.execute("PRAGMA trusted_schema").fetchone() == (0,)
        assert database.execute("PRAGMA query_only").fetchone() == (1,)
        for statement in (
            "ATTACH ':memory:' AS other",
            "SELECT load_extension('/tmp/x')",
            "DELETE FROM annotations",
        ):
            with pytest.raises(sqlite3.OperationalError):
                database.execute(statement)


def test_a_value_of_a_database_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.db"
    write_tiatoolbox_db(path, [(1.0, 2.0)], [0.5])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE annotations SET properties = zeroblob(200000)")
    monkeypatch.setattr(limits, "MOST_VALUE_BYTES", 100_000)
    refused(path, "too big")


def parquet(path: Path, columns: dict[str, pa.Array]) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


def test_a_parquet_bomb_of_one_text_is_not_unpacked(tmp_path: Path) -> None:
    """7 kB that are a text of 1 MB in each of a million rows, 1 TB."""
    rows = 1_000_000
    word = pa.array(["k" * 1_000_000]).dictionary_encode().take(pa.array(np.zeros(rows, np.int32)))
    path = parquet(
        tmp_path / "d.parquet", {"x": pa.array(np.ones(rows)), "y": pa.array(np.ones(rows)), "t": word}
    )
    assert path.stat().st_size < 20_000
    refused(path, "a column has more than 2 GiB unpacked")


def test_too_many_rows_and_cells_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "d.parquet", {name: pa.array(np.arange(100.0)) for name in "xy"})
    assert len(read_detections(path).table) == 100
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MOST_CELLS", 150)
        refused(path, "more than 150 cells")
    monkeypatch.setattr(limits, "MOST_ROWS", 50)
    refused(path, "more than 50 rows")


def test_lists_in_parquet_are_left_out_and_named(tmp_path: Path) -> None:
    lists = pa.array([[1] * 10, None], pa.list_(pa.int8()))
    path = parquet(tmp_path / "d.parquet", {"x": pa.array([1.5, 2.5]), "y": pa.array([3.5, 4.5]), "l": lists})
    read = read_detections(path)
    assert read.notes == ("d.parquet: columns of lists are left out: 'l'",)
    assert read.table["x"].tolist() == [1.5, 2.5]
    assert "l" not in read.table


def ome(path: Path, xml: str) -> Path:
    image = textured(64, 64)
    tifffile.imwrite(path, image, photometric="rgb", description=xml.encode(), metadata=None)
    return path


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "document_type", [ENTITIES, EXTERNAL, '<!DOCTYPE x SYSTEM "http://example.com/x.dtd">']
)
def test_xml_with_entities_is_refused(tmp_path: Path, document_type: str) -> None:
    xml = f'<?xml version="1.0"?>{document_type}<OME><Image><Pixels SizeX="64" SizeY="64"/></Image></OME>'
    path = ome(tmp_path / "a.ome.tif", xml)
    with pytest.raises(UnreadableSlideError, match=r"a\.ome\.tif: opening: its OME-XML has a document type"):
        open_slide(path, given_mpp=0.25)


def test_xml_that_is_nested_deeply_is_refused(tmp_path: Path) -> None:
    depth = 100_000
    path = ome(tmp_path / "a.ome.tif", "<OME>" + "<a>" * depth + "</a>" * depth + "</OME>")
    with pytest.raises(UnreadableSlideError, match=f"more than {limits.MOST_XML_DEPTH} nested elements"):
        read_tiff(path)


def test_a_tile_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """A tile of 60,000 x 60,000 px, stated in the tags of a file of some kB."""
    path = tiff_slide(tmp_path / "a.tiff", textured(64, 64))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tiff.pages[0].tags[tag].overwrite(60_000)
    with pytest.raises(
        UnreadableSlideError, match=r"a\.tiff: .*tiles of 60000 x 60000 px unpack to more than 2 GiB"
    ):
        open_slide(path)


def test_a_slide_that_is_larger_than_glass_is_refused(tmp_path: Path) -> None:
    path = tiff_slide(tmp_path / "a.tiff", textured(64, 64))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(limits.MOST_SIDE_PX + 1)
    with pytest.raises(UnreadableSlideError, match=r"a\.tiff: .*5000001 x 64 px"):
        open_slide(path)


def test_a_deflated_dicom_file_is_not_unpacked(tmp_path: Path) -> None:
    """A header whose 200 MB of zeros need 200 kB."""
    slide = dicom_slide(tmp_path / "series", textured(64, 64), levels=1)
    header = pydicom.dcmread(slide)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.PixelData = bytes(200 << 20)
    header["PixelData"].VR = "OB"
    header.NumberOfFrames = 1
    header.save_as(slide, enforce_file_format=True)
    assert slide.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert find_slides([str(slide)]).usable
        with pytest.raises(
            UnreadableSlideError, match=r"\.dcm: opening: the DICOM file is compressed as a whole"
        ):
            open_slide(slide)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_a_dicom_file_that_is_nested_deeply_is_refused(tmp_path: Path) -> None:
    slide = dicom_slide(tmp_path / "series", textured(64, 64), levels=1)
    start = b"\x40\x00\x55\x05SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    data = slide.read_bytes()
    at = data.index(b"\x08\x00\x16\x00UI")
    slide.write_bytes(data[:at] + start * 5000 + data[at:])
    find_slides([str(slide)])
    with pytest.raises(UnreadableSlideError, match=slide.name):
        open_slide(slide)


@pytest.mark.parametrize("array", ["samples/label", "samples/domain", "images"])
def test_a_store_that_states_a_huge_array_is_refused(tmp_path: Path, array: str) -> None:
    from wsi_mitosis.io.training.stores import open_store

    dataset_files.store(tmp_path / "s.zarr", dataset_files.random_images(4))
    path = tmp_path / "s.zarr" / array / "zarr.json"
    stated = json.loads(path.read_text())
    stated["shape"][0] = 10**12
    path.write_text(json.dumps(stated))
    (tmp_path / "s.zarr" / "zarr.json").write_text(without_consolidated(tmp_path / "s.zarr" / "zarr.json"))
    with pytest.raises(DatasetError, match=r"s\.zarr: opening a store: damaged: .*states the size"):
        open_store(tmp_path / "s.zarr")


def without_consolidated(path: Path) -> str:
    stated = json.loads(path.read_text())
    stated.pop("consolidated_metadata", None)
    return json.dumps(stated)


def test_a_stack_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsi_mitosis.io.slides import stacks

    tifffile.imwrite(tmp_path / "s.tiff", np.zeros((3, 32, 32, 3), np.uint8), photometric="rgb")
    assert stacks.read_stack(tmp_path / "s.tiff").shape == (3, 32, 32, 3)
    monkeypatch.setattr(stacks, "MOST_STACK_BYTES", 3 * 32 * 32 * 3 - 1)
    with pytest.raises(InputError, match=r"s\.tiff.*split it"):
        stacks.read_stack(tmp_path / "s.tiff")


def test_a_crop_that_is_too_large_is_refused(tmp_path: Path) -> None:
    from wsi_mitosis.io.training.crops import crops_side

    side = limits.MOST_CROP_SIDE_PX + 1
    Image.new("1", (side, side)).save(tmp_path / "big.png")
    with pytest.raises(DatasetError, match=r"larger than 4096 px: .*big\.png"):
        crops_side([tmp_path / "big.png"], 16)


def test_a_manifest_that_is_too_large_is_refused(tmp_path: Path) -> None:
    from wsi_mitosis.io.bundles import open_bundle

    (tmp_path / "manifest.toml").write_text("#" * (limits.MOST_SETTINGS_BYTES + 1))
    with pytest.raises(BundleError, match=r"manifest\.toml.*more than 16 MiB"):
        open_bundle(tmp_path)


def test_a_slide_list_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.tiff\n" * (limits.MOST_SETTINGS_BYTES // 7 + 1))
    with pytest.raises(InputError, match=r"list\.txt.*more than 16 MiB"):
        find_slides([str(tmp_path / "list.txt")])


def test_a_table_of_two_million_rows_is_read(tmp_path: Path) -> None:
    """A site-wide table is far below the limits."""
    rows = 2_000_000
    line = b"a.tiff,12345.25,23456.75,0.875\n"
    (tmp_path / "d.csv").write_bytes(b"slide,x,y,score\n" + line * rows)
    table = read_detections(tmp_path / "d.csv").table
    assert len(table) == rows
    assert table[["x", "y", "score"]].drop_duplicates().to_numpy().tolist() == [[12345.25, 23456.75, 0.875]]
