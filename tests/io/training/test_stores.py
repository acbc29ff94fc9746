"""Stores: what is written is what is read, whole or not at all, and its digest is of the content alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.dataset_files import random_images, samples, store
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.errors import DatasetError, OutputError
from wsi_mitosis.io.slides import open_slide
from wsi_mitosis.io.slides.patches import plan_patches, read_patch
from wsi_mitosis.io.training import stores
from wsi_mitosis.io.training.stores import (
    Store,
    content_digest,
    open_checked_store,
    open_store,
    sample_digests,
    sample_table,
    write_store,
)
from wsi_mitosis.specs import InputSpec, StoreAttributes
from wsi_mitosis.tables import SAMPLE_COLUMNS

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
COORDINATE = st.one_of(st.just(np.nan), st.floats(0, 2e5, allow_nan=False))


@st.composite
def contents(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, list[Any]]]:
    number = draw(st.integers(1, 7))
    side = draw(st.sampled_from([4, 10]))
    images = random_images(number, side, seed=draw(st.integers(0, 99)))
    masks = (images[..., 0] > 200).astype(np.uint8)
    texts = st.lists(TEXT, min_size=number, max_size=number)
    votes = st.lists(st.integers(0, 5), min_size=number, max_size=number)
    centres = st.lists(COORDINATE, min_size=number, max_size=number)
    columns = {name: draw(texts) for name in ("source_id", "slide", "domain", "mask_flag", "subtypes")}
    columns |= {name: draw(votes) for name in ("experts_atypical", "experts_asked")}
    return images, masks, {**columns, "x_px0": draw(centres), "y_px0": draw(centres)}


@given(contents())
@settings(max_examples=10)
def test_what_is_written_is_read(
    content: tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Any]],
) -> None:
    images, masks, columns = content
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder, "s.zarr"), images, masks, **columns)
        read = open_store(Path(folder, "s.zarr"))
        assert np.array_equal(read.images(), images)
        assert np.array_equal(read.masks(), masks)
    assert tuple(read.samples.columns) == SAMPLE_COLUMNS
    wanted = sample_table({**samples(len(images), **columns), "digest": sample_digests(images)})
    pd.testing.assert_frame_equal(read.samples, wanted)
    assert read.attributes.domains == tuple(sorted(set(columns["domain"])))


@pytest.mark.parametrize("rows", [[3], [4, 0, 2], [1, 1, 0, 1], []])
def test_rows_are_read_in_the_order_asked(tmp_path: Path, rows: list[int]) -> None:
    images = random_images(5)
    masks = (images[..., 1] > 99).astype(np.uint8)
    read = store(tmp_path / "s.zarr", images, masks)
    assert np.array_equal(read.images(np.array(rows, dtype=np.intp)), images[rows])
    assert np.array_equal(read.masks(np.array(rows, dtype=np.intp)), masks[rows])
    assert read.images(np.array(rows, dtype=np.intp)).shape == (len(rows), 16, 16, 3)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """90 samples, 2 in a chunk: a long run is read in several goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "CHUNK_BYTES", 2 * 3 * 8 * 8)
        return store(tmp_path_factory.mktemp("many") / "s.zarr", random_images(90, 8))


@given(st.lists(st.integers(0, 89), max_size=20) | st.permutations(range(90)))
@settings(max_examples=10)
def test_rows_of_many_chunks_are_read_in_the_order_asked(many: Store, rows: list[int]) -> None:
    assert np.array_equal(many.images(np.array(rows, dtype=np.intp)), random_images(90, 8)[rows])


# --- subtypes


def test_a_store_without_subtypes_is_one_of_the_schema_before(tmp_path: Path) -> None:
    plain = store(tmp_path / "plain.zarr", random_images(3))
    empty = store(tmp_path / "empty.zarr", random_images(3), subtypes=["", "", ""])
    assert plain.attributes.schema_ == empty.attributes.schema_ == 2
    assert plain.attributes.digest == empty.attributes.digest
    assert not (tmp_path / "empty.zarr/samples/subtypes").exists()
    assert list(plain.samples["subtypes"]) == ["", "", ""]
    assert open_checked_store(tmp_path / "plain.zarr").attributes.digest == content_digest(plain)


def test_subtypes_are_part_of_the_digest(tmp_path: Path) -> None:
    named = [
        store(tmp_path / f"{number}.zarr", random_images(2), subtypes=names)
        for number, names in enumerate((["", "NMF metaphase"], ["", "NMF anaphase"], ["NMF metaphase", ""]))
    ]
    assert {of.attributes.schema_ for of in named} == {3}
    assert len({of.attributes.digest for of in named}) == 3
    for of in named:
        assert open_checked_store(of.folder).samples["subtypes"].tolist() == of.samples["subtypes"].tolist()


def test_a_lost_column_of_subtypes_is_named(tmp_path: Path) -> None:
    shutil.rmtree(
        store(tmp_path / "s.zarr", random_images(2), subtypes=["a", ""]).folder / "samples/subtypes/c"
    )
    with pytest.raises(DatasetError, match="'subtypes'"):
        open_store(tmp_path / "s.zarr")


# --- the digest


def test_the_digest_is_over_images_masks_and_rows_in_order(tmp_path: Path) -> None:
    """Written out by hand: whoever trains keys results by it, so it must never come out otherwise."""
    images = random_images(2, 4)
    masks = np.ones((2, 4, 4), np.uint8)
    read = store(
        tmp_path / "s.zarr",
        images,
        masks,
        source_id=["é", "b"],
        slide=["", "M/1.tiff"],
        x_px0=[np.nan, 10.5],
        y_px0=[np.nan, 7.0],
        experts_atypical=[0, 2],
        experts_asked=[0, 3],
        mask_flag=["ok", "ok"],
    )
    own = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    wanted = hashlib.sha256(b"samples of 4 px\n")
    wanted.update(images[0].tobytes() + masks[0].tobytes())
    wanted.update(f'["\\u00e9","","d",0,"folder",0,0,null,null,"ok","{own[0]}"]\n'.encode())
    wanted.update(images[1].tobytes() + masks[1].tobytes())
    wanted.update(f'["b","M/1.tiff","d",1,"folder",2,3,10.5,7.0,"ok","{own[1]}"]\n'.encode())
    assert read.attributes.digest == wanted.hexdigest()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.sampled_from([1, 4, 1 << 20]))
@settings(max_examples=8)
def test_blocks_and_files_leave_the_digest_as_it_is(sizes: list[int], shard_bytes: int) -> None:
    images = random_images(sum(sizes), 8)
    table = sample_table(samples(len(images)))
    fields = {
        "name": "t",
        "patch_px": 8,
        "mpp": None,
        "licence": "",
        "source": "csv",
        "mask_provider": "none",
        "mask_provider_version": "",
    }

    def blocks() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        start = 0
        for size in sizes:
            yield images[start : start + size], np.zeros((size, 8, 8), np.uint8)
            start += size

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole = store(Path(folder, "whole.zarr"), images)
        patch.setattr(stores, "CHUNK_BYTES", 200)
        patch.setattr(stores, "SHARD_BYTES", 200 * shard_bytes)
        cut = write_store(Path(folder, "cut.zarr"), fields, table, blocks())
        assert np.array_equal(cut.images(), images)
    assert cut.attributes.digest == whole.attributes.digest


@pytest.mark.parametrize(
    "change",
    [
        {"label": [1, 0, 0]},
        {"x_px0": [1.0, np.nan, np.nan]},
        {"domain": ["d", "e", "d"]},
        {"slide": ["a", "", ""]},
    ],
)
def test_another_row_is_another_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    images = random_images(3)
    given = {"label": [0, 0, 0]}
    first = store(tmp_path / "a.zarr", images, **given)
    assert (
        store(tmp_path / "b.zarr", images, **{**given, **change}).attributes.digest != first.attributes.digest
    )


def test_another_pixel_or_mask_is_another_digest(tmp_path: Path) -> None:
    images = random_images(3, 80)
    masks = np.zeros((3, 80, 80), np.uint8)
    digests = {store(tmp_path / "a.zarr", images, masks).attributes.digest}
    masks[2, 0, 0] = 1
    digests.add(store(tmp_path / "b.zarr", images, masks).attributes.digest)
    images[2, 0, 0, 0] ^= 1  # outside of what its own digest is of
    digests.add(store(tmp_path / "c.zarr", images, masks).attributes.digest)
    assert len(digests) == 3


def test_licence_and_name_leave_the_digest_as_it_is(tmp_path: Path) -> None:
    first = store(tmp_path / "a.zarr", random_images(3))
    other = store(tmp_path / "b.zarr", random_images(3), fields={"licence": "MIT", "name": "other"})
    assert other.attributes.digest == first.attributes.digest
    assert other.attributes.licence == "MIT"


@pytest.mark.parametrize("side", [64, 96, 128, 130])
def test_a_figure_has_one_digest_in_crops_of_all_sizes(side: int) -> None:
    large = random_images(1, 200)
    centre = large[:, 100 - 32 : 100 + 32, 100 - 32 : 100 + 32]
    start = 100 - side // 2
    cut = large[:, start : start + side, start : start + side]
    assert sample_digests(cut) == [hashlib.sha256(centre.tobytes()).hexdigest()]


def test_a_small_crop_is_digested_whole() -> None:
    images = random_images(2, 40)
    assert sample_digests(images) == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


# --- the format


def test_a_store_is_zarr_3_of_the_core_types_alone(tmp_path: Path) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3), subtypes=["a", "", "b"]).folder
    group = zarr.open_group(folder, mode="r")
    arrays = {name: group[name] for name in ["images", "masks", *(f"samples/{c}" for c in SAMPLE_COLUMNS)]}
    for name, array in arrays.items():
        described = json.loads((folder / name / "zarr.json").read_text())
        assert described["zarr_format"] == 3, name
        assert described["data_type"] in {"uint8", "int64", "float64"}, name
        assert array.shape[0] == 3
    sharding = [codec["name"] for codec in json.loads((folder / "images/zarr.json").read_text())["codecs"]]
    assert sharding == ["sharding_indexed"]
    fields = {field.alias or name for name, field in StoreAttributes.model_fields.items()}
    assert set(group.attrs) == fields - {"reviews"}, "which earlier versions do not know"


def alter(folder: Path, **attributes: object) -> None:
    path = folder / "zarr.json"
    described = json.loads(path.read_text())
    described["attributes"] |= attributes
    described["attributes"] = {k: v for k, v in described["attributes"].items() if v != "REMOVED"}
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"colour": "green"}, "unknown key 'colour'"),
        ({"licence": "REMOVED"}, "'licence'"),
        ({"digest": "abc"}, "'digest'"),
        ({"mask_provider": "by hand"}, "'mask_provider'"),
        ({"schema": 4}, "schema 4 is newer than the 3 that this version supports.*pip install --upgrade"),
        ({"patch_px": 17}, r"'images' is \(3, 16, 16, 3\) uint8, not \(3, 17, 17, 3\)"),
    ],
)
def test_attributes_are_a_closed_schema(tmp_path: Path, attributes: dict[str, object], told: str) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3)).folder
    alter(folder, **attributes)
    with pytest.raises(DatasetError, match=told) as caught:
        open_store(folder)
    assert str(folder) in str(caught.value)


def test_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such store.*dataset build"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"a folder without zarr.json"):
        open_store(tmp_path)


@pytest.mark.parametrize("name", ["images", "masks", "samples/label", "samples/digest"])
def test_a_lost_file_is_no_block_of_zeros(tmp_path: Path, name: str) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3)).folder
    next(path for path in (folder / name / "c").rglob("*") if path.is_file()).unlink()  # its folders stay
    with pytest.raises(DatasetError, match=f"files of '{name.split('/')[-1]}' are not there, or empty"):
        open_store(folder)


def test_a_lost_column_or_array_is_named(tmp_path: Path) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3)).folder
    (folder / "samples/slide/zarr.json").unlink()
    with pytest.raises(DatasetError, match=r"damaged: .*slide"):
        open_store(folder)


def test_a_damaged_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    read = store(tmp_path / "s.zarr", random_images(3))
    path = next(path for path in (read.folder / "images/c").rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[: len(content) - 4] = bytes(len(content) - 4)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"s\.zarr: reading images: damaged: .*Build the store again"):
        read.images()
    assert read.masks().shape == (3, 16, 16)


def test_the_scale_is_part_of_the_digest_and_a_store_of_before_is_still_whole(tmp_path: Path) -> None:
    images = random_images(3)
    crops, slides, finer = (
        store(tmp_path / str(mpp), images, fields={"mpp": mpp}).attributes.digest
        for mpp in (None, 0.25, 0.125)
    )
    assert len({crops, slides, finer}) == 3
    old = tmp_path / "0.25"
    alter(old, schema=1, digest=crops)  # as the first schema had it
    assert open_checked_store(old).attributes.mpp == 0.25
    alter(old, schema=2)
    with pytest.raises(DatasetError, match=r"its content does not have the digest that it states.*Build"):
        open_checked_store(old)


def test_a_store_in_another_ones_place_is_not_taken_for_it(tmp_path: Path) -> None:
    first = store(tmp_path / "s.zarr", random_images(3))
    assert open_checked_store(first.folder, first.attributes.digest).attributes == first.attributes
    shutil.rmtree(first.folder)
    store(first.folder, random_images(3, seed=1))
    with pytest.raises(DatasetError, match=r"it was replaced meanwhile: its digest is \w{12}, and was"):
        open_checked_store(first.folder, first.attributes.digest)


def test_a_finer_store_is_resampled_as_a_slide_is(tmp_path: Path) -> None:
    """Crops of 40 px at 0.125 um/px, and the patches that a bundle at 0.25 reads from the same slide."""
    pixels = textured(200, 160)
    slide = tiff_slide(tmp_path / "a.tiff", pixels, mpp=0.125)
    centres = np.array([[60, 70], [101, 80], [130, 61]])
    crops = np.stack([pixels[y - 20 : y + 20, x - 20 : x + 20] for x, y in centres])
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[:, 10:30, 16:24] = 1
    coarse = store(tmp_path / "s.zarr", crops, masks, fields={"mpp": 0.125}).at(0.25)
    assert (coarse.attributes.mpp, coarse.attributes.patch_px) == (0.25, 20)
    with open_slide(slide) as opened:
        spec = InputSpec(patch_px=20, mpp=0.25, mpp_tolerance=0.1, pad_value=0, scale=255)
        plan = plan_patches("a", opened.levels, opened.mpp, spec, 20)
        expected = np.stack([read_patch(opened, plan, float(x), float(y)) for x, y in centres])
    np.testing.assert_array_equal(coarse.images(np.array([2, 0])), expected[[2, 0]])
    assert coarse.masks()[0].nonzero()[0].tolist() == sorted([*range(5, 15)] * 4)
    assert set(coarse.masks()[0].nonzero()[1]) == {8, 9, 10, 11}
    with pytest.raises(ValueError, match="no samples at"):
        coarse.at(0.125)


# --- every single file


def faults_of(path: Path, other: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways in which a file is lost or replaced; `other` is the same file of another store."""
    content = path.read_bytes()
    yield "removed", path.unlink
    yield "emptied", lambda: path.write_bytes(b"")
    yield "cut", lambda: path.write_bytes(content[: len(content) // 2])
    yield "of another store", lambda: shutil.copy(other, path)


def test_every_file_that_is_lost_cut_or_anothers_is_noticed(tmp_path: Path) -> None:
    columns = {"slide": ["a", "a", "b"], "x_px0": [1.0, 2.0, 3.0], "y_px0": [4.0, 5.0, 6.0]}
    whole = store(tmp_path / "s.zarr", random_images(3), **columns).folder
    others = {
        "slide": ["c", "d", "d"], "x_px0": [7.0, 8.0, 9.0], "y_px0": [1.0, 1.0, 1.0], "domain": ["e"] * 3,
        "source_id": ["t0", "t1", "t2"], "label": [1, 0, 1], "label_source": ["csv"] * 3,
        "experts_atypical": [1] * 3, "experts_asked": [3] * 3, "mask_flag": ["ok"] * 3,
    }  # fmt: skip
    masks = np.ones((3, 16, 16), np.uint8)
    another = store(tmp_path / "t.zarr", random_images(3, seed=1), masks, **others).folder
    store_of = open_store(whole)
    digest, samples_of, images_of = store_of.attributes.digest, store_of.samples, store_of.images()
    tried, refused = list[str](), dict[str, str]()
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        name = path.relative_to(whole)
        for fault, spoil in faults_of(path, another / name):
            content = path.read_bytes()
            spoil()
            if not path.exists() or path.read_bytes() != content:
                tried.append(f"{name} {fault}")
                try:
                    left = open_checked_store(whole, digest)
                except DatasetError as error:
                    refused[tried[-1]] = str(error)
                else:
                    assert left.samples.equals(samples_of)
                    assert (left.images() == images_of).all()
            path.write_bytes(content)
    # what the group of columns states of itself is not used
    assert set(tried) - refused.keys() == {
        f"samples/zarr.json {fault}" for fault in ("removed", "emptied", "cut")
    }
    assert len(tried) > 70
    assert all("s.zarr: " in message for message in refused.values())


# --- whole or not at all


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        yield random_images(2), np.zeros((2, 16, 16), np.uint8)
        raise RuntimeError("on the way")

    fields = store(tmp_path / "there.zarr", random_images(3)).attributes.model_dump(
        exclude={"schema_", "domains", "digest", "code_version"}
    )
    before = open_store(tmp_path / "there.zarr").attributes.digest
    for name in ("new.zarr", "there.zarr"):
        with pytest.raises(RuntimeError, match="on the way"):
            write_store(tmp_path / name, fields, sample_table(samples(4)), failing(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["there.zarr"]
    assert open_store(tmp_path / "there.zarr").attributes.digest == before


def test_a_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    first = store(tmp_path / "s.zarr", random_images(3))
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        store(tmp_path / "s.zarr", random_images(4))
    fields = first.attributes.model_dump(exclude={"schema_", "domains", "digest", "code_version"})
    pixels = [(random_images(4), np.zeros((4, 16, 16), np.uint8))]
    write_store(tmp_path / "s.zarr", fields, sample_table(samples(4)), pixels, overwrite=True)
    assert len(open_store(tmp_path / "s.zarr").samples) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_what_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no store, so --overwrite leaves it alone"):
        stores.check_free(tmp_path / "thesis", overwrite=True)
    stores.check_free(tmp_path / "free", overwrite=False)


def test_a_killed_writers_rest_is_no_hindrance(tmp_path: Path) -> None:
    rest = tmp_path / ".s.zarr.writing" / "new"
    rest.mkdir(parents=True)
    (rest / "zarr.json").write_text("{}")
    store(tmp_path / "s.zarr", random_images(3))
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
