"""Datasets from end to end: building in parts, showing, verifying."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.dataset_files import (
    AMIBR_COLUMNS,
    MIDOG25_COLUMNS,
    Told,
    amibr_row,
    built,
    crop,
    crops_folder,
    figure,
    midog25_row,
    random_images,
    spec,
    store,
    write_csv,
)
from tests.slide_files import aperio_slide, textured, tiff_of_resolution, tiff_slide
from wsi_mitosis.core.masks import FigureMask, Haematoxylin
from wsi_mitosis.errors import DatasetError, OutputError
from wsi_mitosis.io.results.lock import FolderLock
from wsi_mitosis.io.training.stores import open_store, sample_digests
from wsi_mitosis.jobs.dataset import Part, PartOutcome, Reporter, build, draw, parts, run_part, show, verify
from wsi_mitosis.specs import DatasetSpec
from wsi_mitosis.workers import datasets
from wsi_mitosis.workers.datasets import build_dataset

SMALL = {"patch_px": 32}


def in_parts_of(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CROPS_PER_PART", number)


# --- crops


def test_crops_are_stored_as_they_are(tmp_path: Path) -> None:
    folder = crops_folder(tmp_path / "TCGA")
    result = built("folder", folder, tmp_path / "out.zarr", licence="CC0", **SMALL)
    store = open_store(tmp_path / "out.zarr")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert store.attributes == result.attributes
    assert (result.samples, result.atypical, result.flags) == (8, 3, {"none": 8})
    assert store.attributes.patch_px == 32
    assert store.attributes.mpp is None
    assert store.attributes.licence == "CC0"
    assert (store.attributes.mask_provider, store.attributes.mask_provider_version) == ("none", "")
    for name, image in zip(store.samples["source_id"], store.images(), strict=True):
        assert np.array_equal(image, np.asarray(Image.open(folder / name))), name
    assert not store.masks().any()


def test_large_crops_are_kept_whole(tmp_path: Path) -> None:
    built("folder", crops_folder(tmp_path / "in", side_px=50), tmp_path / "out.zarr", **SMALL)
    assert open_store(tmp_path / "out.zarr").images().shape == (8, 50, 50, 3)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_opaque_crops_and_those_with_a_palette_become_rgb(tmp_path: Path, mode: str) -> None:
    folder = crops_folder(tmp_path / "in")
    other = Image.open(folder / "Normal/1.png").convert(mode)
    other.save(folder / "Normal/1.png")
    built("folder", folder, tmp_path / "out.zarr", **SMALL)
    store = open_store(tmp_path / "out.zarr")
    row = list(store.samples["source_id"]).index("Normal/1.png")
    assert np.array_equal(store.images()[row], np.asarray(other.convert("RGB")))


def test_crops_of_other_sizes_are_refused_by_name(tmp_path: Path) -> None:
    folder = crops_folder(tmp_path / "in")
    crop(folder / "Normal/odd.png", 40)
    Image.new("RGB", (32, 34)).save(folder / "Atypical/oblong.png")
    told = r"2 of the crops no squares of the others' size, 32 px: 'Atypical/oblong\.png \(32 x 34\)', 'Norm"
    with pytest.raises(DatasetError, match=told):
        built("folder", folder, tmp_path / "out.zarr", **SMALL)
    for path in folder.glob("*/*.png"):
        Image.new("RGB", (32, 34)).save(path)
    with pytest.raises(DatasetError, match=r"10 of the crops no squares"):
        built("folder", folder, tmp_path / "out.zarr", **SMALL)
    with pytest.raises(DatasetError, match=r"10 of the crops smaller than 128 px.* and 7 more.*--patch-px"):
        built("folder", folder, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_all_images_that_cannot_be_read_are_told_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(3, monkeypatch)
    folder = crops_folder(tmp_path / "in")
    (folder / "Atypical/2.png").write_bytes(b"no image")
    with pytest.raises(
        DatasetError, match=r"1 of the images cannot be used: 'Atypical/2\.png: no image'.*Copy them again"
    ):
        built("folder", folder, tmp_path / "out.zarr", **SMALL)
    crop(folder / "Atypical/2.png", seed=1)
    for name in ("Atypical/1.png", "Normal/5.png"):  # in two parts; their headers are right
        path = folder / name
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        DatasetError,
        match=r"2 of the images cannot be used: 'Atypical/1\.png: .*', 'Normal/5\.png: .*Copy them again",
    ):
        built("folder", folder, tmp_path / "out.zarr", **SMALL)
    assert not (tmp_path / "out.zarr").exists()
    crop(folder / "Atypical/1.png", seed=0)
    crop(folder / "Normal/5.png", seed=1004)
    mended = built("folder", folder, tmp_path / "out.zarr", **SMALL)
    assert mended.kept_parts == 1
    whole = built("folder", crops_folder(tmp_path / "fresh/in"), tmp_path / "fresh.zarr", **SMALL)
    assert mended.attributes.digest == whole.attributes.digest


# --- slides

CENTRES = ((100.0, 90.0), (41.5, 60.49), (3.0, 4.0), (199.0, 149.0))


def slides_table(folder: Path, image: NDArray[np.uint8]) -> Path:
    """`s.tiff`, without a pixel size, and figures on it, in another order than a slide is read in."""
    folder.mkdir(parents=True, exist_ok=True)
    tiff_of_resolution(folder / "s.tiff", image, None)
    labels = ("AMF", "NMF", "NMF", "AMF")
    rows = [
        f"s.tiff,{x},{y},{label},f{i}" for i, ((x, y), label) in enumerate(zip(CENTRES, labels, strict=True))
    ]
    path = folder / "labels.csv"
    path.write_text("\n".join(["slide,x,y,label,id", *rows]) + "\n")
    return path


def test_crops_are_cut_at_level_0_and_black_outside(tmp_path: Path) -> None:
    image = textured(200, 150)
    built("csv", slides_table(tmp_path, image), tmp_path / "out.zarr", **SMALL)
    store = open_store(tmp_path / "out.zarr")
    assert store.attributes.mpp is None
    canvas = np.zeros((150 + 64, 200 + 64, 3), np.uint8)
    canvas[32:-32, 32:-32] = image
    for sample, cut in zip(store.samples.itertuples(), store.images(), strict=True):
        left, top = (int(np.floor(c + 0.5)) - 16 + 32 for c in (sample.x_px0, sample.y_px0))
        assert np.array_equal(cut, canvas[top : top + 32, left : left + 32]), sample.source_id


def test_a_figure_has_one_digest_as_a_crop_and_on_its_slide(tmp_path: Path) -> None:
    image = textured(300, 300)
    tiff_slide(tmp_path / "s.tiff", image, mpp=0.23)
    rows = "slide,x,y,label\ns,150,150,AMF\n"
    (tmp_path / "t.csv").write_text(rows)
    small = built("csv", tmp_path / "t.csv", tmp_path / "small.zarr", patch_px=64)
    large = built("csv", tmp_path / "t.csv", tmp_path / "large.zarr", patch_px=128)
    published = image[150 - 64 : 150 + 64, 150 - 64 : 150 + 64]
    digests = {open_store(result.folder).samples.loc[0, "digest"] for result in (small, large)}
    assert digests == set(sample_digests(published[None]))
    assert large.attributes.mpp == pytest.approx(0.23, rel=1e-3)


def test_the_pixel_size_is_that_of_all_slides(tmp_path: Path) -> None:
    labels = two_slides(tmp_path, "0.2505")
    assert built("csv", labels, tmp_path / "o.zarr", **SMALL).attributes.mpp == pytest.approx(0.25025)


def test_slides_of_different_pixel_sizes_are_no_store(tmp_path: Path) -> None:
    labels = two_slides(tmp_path, "0.5")
    told = r"different um/px: a\.tiff has 0\.25, b\.svs has 0\.5. Build a store of the slides of each scale"
    with pytest.raises(DatasetError, match=told):
        built("csv", labels, tmp_path / "o.zarr", **SMALL)
    assert not (tmp_path / "o.zarr").exists()


def test_a_slide_without_a_pixel_size_is_named(tmp_path: Path) -> None:
    labels, told = two_slides(tmp_path, None), Told()
    result = build_dataset(spec("csv", labels, tmp_path / "o.zarr", **SMALL), told)
    assert result.attributes.mpp is None
    assert told.warnings == [
        "1 of 2 slides state no um/px ('b.svs'), so that the store states none; the others have 0.25"
    ]


def test_what_looks_like_a_mistake_is_told_or_refused(tmp_path: Path) -> None:
    """A slide under two names, of two domains that are spelt alike, with both labels for one figure."""
    for name in ("a.tiff", "b.tiff"):
        tiff_slide(tmp_path / name, textured(64, 64))
    text = "slide,x,y,label,domain\na,20,20,0,lung\nb,20,20,1,Lung\nb,40,40,0,Lung\n"
    (tmp_path / "t.csv").write_text(text)
    told = Told()
    build_dataset(spec("csv", tmp_path / "t.csv", tmp_path / "o.zarr", **SMALL), told)
    assert told.warnings == [
        "2 slides have the same content: 'a.tiff', 'b.tiff'",
        "2 domains that are spelt alike count as different ones: 'Lung', 'lung'",
        "1 figure is there with both labels, one of which is wrong: 'b.tiff:20:20 = a.tiff:20:20'",
    ]
    with pytest.raises(
        DatasetError, match=r"s\.zarr: checking labels: 2 slides .*; 2 domains .*; 1 figure .*"
    ):
        built("csv", tmp_path / "t.csv", tmp_path / "s.zarr", strict=True, **SMALL)
    assert not (tmp_path / "s.zarr").exists()


def two_slides(folder: Path, second_mpp: str | None) -> Path:
    """`a.tiff` of 0.25 um/px and `b.svs` with a figure each, and their labels."""
    tiff_slide(folder / "a.tiff", textured(64, 64))
    aperio_slide(folder / "b.svs", textured(64, 64, seed=1), second_mpp)
    (folder / "t.csv").write_text("slide,x,y,label\na,20,20,0\nb,20,20,1\n")
    return folder / "t.csv"


def test_a_figure_outside_its_slide_is_named(tmp_path: Path) -> None:
    tiff_slide(tmp_path / "a.tiff", textured(64, 64))
    (tmp_path / "t.csv").write_text("slide,x,y,label\na,64,20,0\na,5,-1,0\na,5,63.9,0\n")
    told = (
        r"2 of the images cannot be used: 'a\.tiff: figure at \(5, -1\) lies outside .*64 px', '.*\(64, 20\)"
    )
    with pytest.raises(DatasetError, match=told):
        built("csv", tmp_path / "t.csv", tmp_path / "o.zarr", **SMALL)


def test_a_broken_slide_is_named_and_the_others_parts_are_kept(tmp_path: Path) -> None:
    tiff_slide(tmp_path / "a.tiff", textured(64, 64))
    (tmp_path / "b.tiff").write_bytes(b"broken")
    (tmp_path / "t.csv").write_text("slide,x,y,label\na,20,20,0\nb,20,20,1\n")
    with pytest.raises(DatasetError, match=r"1 of the images cannot be used: 'b\.tiff: opening: "):
        built("csv", tmp_path / "t.csv", tmp_path / "o.zarr", **SMALL)
    tiff_slide(tmp_path / "b.tiff", textured(64, 64, seed=1))
    result = built("csv", tmp_path / "t.csv", tmp_path / "o.zarr", **SMALL)
    assert (result.parts, result.kept_parts) == (2, 1)


# --- parts


SCRIPT = """
import os, signal, sys
from tests.dataset_files import Told, spec
from wsi_mitosis.jobs.dataset import build, parts, run_part
parts.CROPS_PER_PART = 3
def killed(all_parts, spec, reporter):
    for number, part in enumerate(all_parts):
        outcome = run_part(part, 1)
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield outcome
build(spec("folder", sys.argv[1], sys.argv[2], patch_px=32, masks="haematoxylin"), killed, Told())
"""


def content_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(3, monkeypatch)
    folder, out = crops_folder(tmp_path / "in", 5, 8), tmp_path / "killed" / "s.zarr"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", SCRIPT, folder, out], env=environment)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    options = {"masks": "haematoxylin", **SMALL}
    resumed = built("folder", folder, out, **options)
    assert (resumed.parts, resumed.kept_parts) == (5, 3)
    whole = built("folder", folder, tmp_path / "whole" / "s.zarr", **options)
    assert whole.kept_parts == 0
    assert content_of(out) == content_of(whole.folder)
    assert [path.name for path in out.parent.iterdir()] == ["s.zarr"]


def stopping(after: int) -> object:
    """An executor that is interrupted after so many parts."""

    def execute(
        all_parts: Sequence[Part], _spec: DatasetSpec, _reporter: Reporter
    ) -> Generator[PartOutcome, None, None]:
        yield from (run_part(part, 1) for part in all_parts[:after])
        raise KeyboardInterrupt

    return execute


@pytest.mark.parametrize("change", ["image", "masks", "version", "nothing"])
def test_a_part_is_kept_only_where_nothing_that_decides_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    in_parts_of(4, monkeypatch)
    folder, out = crops_folder(tmp_path / "in"), tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build(spec("folder", folder, out, masks="haematoxylin", **SMALL), stopping(1), Told())
    if change == "image":
        crop(folder / "Atypical/1.png", seed=77)
    if change == "version":
        monkeypatch.setattr(Haematoxylin, "version", "another")
    masks = "none" if change == "masks" else "haematoxylin"
    resumed = built("folder", folder, out, masks=masks, **SMALL)
    assert resumed.kept_parts == (1 if change == "nothing" else 0)
    fresh = built("folder", folder, tmp_path / "fresh.zarr", masks=masks, **SMALL)
    assert resumed.attributes.digest == fresh.attributes.digest


@pytest.mark.parametrize("damage", ["emptied", "cut", "changed"])
def test_a_damaged_part_is_built_again(tmp_path: Path, damage: str) -> None:
    folder, out = crops_folder(tmp_path / "in"), tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build(spec("folder", folder, out, **SMALL), stopping(1), Told())
    (part,) = (tmp_path / ".s.zarr.parts").glob("*.npz")
    content = part.read_bytes()
    changed = content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]
    part.write_bytes({"emptied": b"", "cut": content[: len(content) // 2], "changed": changed}[damage])
    result = built("folder", folder, out, **SMALL)
    assert result.kept_parts == 0
    assert result.attributes.digest == built("folder", folder, tmp_path / "t.zarr", **SMALL).attributes.digest


def test_another_centre_on_a_slide_is_another_part(tmp_path: Path) -> None:
    path, out = slides_table(tmp_path, textured(200, 150)), tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build(spec("csv", path, out, **SMALL), stopping(1), Told())
    path.write_text(path.read_text().replace("100.0,90.0", "101.0,90.0"))
    assert built("csv", path, out, **SMALL).kept_parts == 0


def test_labels_may_change_without_the_parts(tmp_path: Path) -> None:
    path, out = slides_table(tmp_path, textured(200, 150)), tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build(spec("csv", path, out, **SMALL), stopping(1), Told())
    path.write_text(path.read_text().replace("AMF", "NMF"))
    result = built("csv", path, out, **SMALL)
    assert (result.kept_parts, result.atypical) == (1, 0)


def test_workers_of_ray_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(3, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder = crops_folder(tmp_path / "in")
    here = built("folder", folder, tmp_path / "here.zarr", masks="haematoxylin", **SMALL)
    placement = {"workers": 2, "cpus_per_worker": 1}
    there = built(
        "folder", folder, tmp_path / "there.zarr", masks="haematoxylin", placement=placement, **SMALL
    )
    assert there.attributes.digest == here.attributes.digest
    assert there.flags == here.flags


def dying(part: Part, threads: int, _emit: object) -> PartOutcome:
    """Its process ends under the second part, as it would when memory runs out."""
    if part.index == 1:
        os._exit(1)
    return run_part(part, threads)


def dying_once(part: Part, threads: int, emit: object) -> PartOutcome:
    marker = part.folder.parent / f"died-{part.index}"
    if marker.exists():
        return run_part(part, threads)
    marker.touch()
    return dying(part, threads, emit)


@pytest.mark.faults
def test_a_part_whose_worker_dies_once_is_made_by_a_new_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(3, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(datasets, "_do_part", dying_once)
    placement, reporter = {"workers": 1, "cpus_per_worker": 1}, Told()
    options = spec("folder", crops_folder(tmp_path / "in"), tmp_path / "s.zarr", placement=placement, **SMALL)
    assert (build_dataset(options, reporter).samples, (tmp_path / "died-1").exists()) == (8, True)
    (warning,) = reporter.warnings
    assert warning.startswith("Normal/1.png: its worker died (")


@pytest.mark.faults
def test_a_dead_worker_fails_the_build_and_the_other_parts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(3, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    folder = crops_folder(tmp_path / "in")
    placement = {"workers": 1, "cpus_per_worker": 1}
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_do_part", dying)
        with pytest.raises(
            DatasetError, match=r"1 of the images .*: 'Normal/1\.png: its worker died .+ It was tried 3 times"
        ):
            built("folder", folder, tmp_path / "s.zarr", placement=placement, **SMALL)
    assert built("folder", folder, tmp_path / "s.zarr", **SMALL).kept_parts == 2


def test_one_build_at_a_time_writes_a_store(tmp_path: Path) -> None:
    folder = crops_folder(tmp_path / "in")
    (tmp_path / ".s.zarr.parts").mkdir()
    other = FolderLock(tmp_path / ".s.zarr.parts")
    other.acquire()
    with pytest.raises(OutputError, match=r"s\.zarr: .*another run holds this folder: process \d+ on .*Wait"):
        built("folder", folder, tmp_path / "s.zarr", **SMALL)
    other.release()
    built("folder", folder, tmp_path / "s.zarr", **SMALL)


def test_a_store_that_is_there_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = crops_folder(tmp_path / "in")
    first = built("folder", folder, tmp_path / "s.zarr", **SMALL)
    told = Told()
    with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
        build_dataset(spec("folder", folder, tmp_path / "s.zarr", **SMALL), told)
    assert told.outcomes == []
    crop(folder / "Normal/6.png", seed=5)
    second = built("folder", folder, tmp_path / "s.zarr", overwrite=True, **SMALL)
    assert second.samples == first.samples + 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"masks": "nuclick"}, "--nuclick-weights"),
        ({"nuclick_weights": "w.pth"}, "--nuclick-weights"),
        ({"source": "amibr", "domain": "x"}, "has its own domains"),
        ({"images": "x"}, "a folder's crops are in it"),
        ({"patch_px": 31}, "multiple of 2"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_no_option_is_ignored(options: dict[str, object], told: str) -> None:
    with pytest.raises(Exception, match=told):
        DatasetSpec.parse({"source": "folder", "path": "p", "out": "o", **options}, "test")


# --- masks


def test_masks_are_the_providers(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "in" / ("Atypical" if number % 2 else "Normal") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(figure(64, number)).save(path)
    result = built("folder", tmp_path / "in", tmp_path / "s.zarr", masks="haematoxylin", patch_px=64)
    assert result.attributes.mask_provider_version == Haematoxylin().version
    store = open_store(tmp_path / "s.zarr")
    wanted = Haematoxylin().segment(store.images(), [np.empty((0, 2))] * 4)
    assert list(store.samples["mask_flag"]) == [flag for _, flag in wanted]
    assert list(store.samples["mask_flag"]) == ["ok"] * 4
    assert np.array_equal(store.masks(), np.stack([mask for mask, _ in wanted]))
    assert store.masks()[:, 32, 32].all()


class Asking:
    """A provider that keeps what it is asked."""

    name, version = "haematoxylin", "asking"

    def __init__(self) -> None:
        self.others: list[list[list[float]]] = []

    def segment(self, crops: NDArray[np.uint8], others: Sequence[NDArray[np.float64]]) -> list[FigureMask]:
        self.others += [other.tolist() for other in others]
        return [FigureMask(np.zeros(crops.shape[1:3], np.uint8), "empty")] * len(crops)


@pytest.mark.parametrize("source", ["csv", "amibr"])
def test_other_figures_in_the_window_are_told_to_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """By hand: windows of 32 px around (100, 100), (110, 95.5), (116, 100), (100.2, 100), (300, 100)."""
    provider = Asking()
    monkeypatch.setattr(parts, "_provider", lambda _: provider)
    centres = ((100, 100), (110, 95.5), (116, 100), (100.2, 100), (300, 100))
    if source == "csv":
        tiff_slide(tmp_path / "24.tif", textured(400, 200))
        rows = [f"24.tif,{x},{y},0,{i}" for i, (x, y) in enumerate(centres)]
        path = tmp_path / "t.csv"
        path.write_text("\n".join(["slide,x,y,label,id", *rows]))
    else:
        rows = [amibr_row("TUPAC16", "24.tif", i, "nnn", x, y) for i, (x, y) in enumerate(centres)]
        rows.append(amibr_row("TUPAC16", "25.tif", 9, "nnn", 101, 100))  # another slide
        path = write_csv(tmp_path / "t.csv", AMIBR_COLUMNS, rows)
        for row in rows:
            crop(tmp_path / f"TUPAC16_{row['uid']}.png")
    result = built(source, path, tmp_path / "s.zarr", masks="haematoxylin", **SMALL)
    corner = 84.0  # of (100, 100) and of (100.2, 100)
    assert provider.others[:5] == [
        [[110 - corner, 95.5 - corner]],  # (116, 100) is outside: pixels 84 to 115
        [[100 - 94, 100 - 80.0], [116 - 94, 100 - 80.0], [pytest.approx(100.2 - 94), 100 - 80.0]],
        [[100 - 100, 100 - 84.0], [110 - 100, 95.5 - 84.0], [pytest.approx(100.2 - 100), 100 - 84.0]],
        [[110 - corner, 95.5 - corner]],
        [],
    ]
    assert provider.others[5:] == ([] if source == "csv" else [[]])
    assert result.flags == {"empty": len(provider.others)}


# --- show


def test_contents_are_counted_by_domain(tmp_path: Path) -> None:
    images = random_images(6)
    masks = np.zeros((6, 16, 16), np.uint8)
    masks[:2] = 1
    store(
        tmp_path / "s.zarr",
        images,
        masks,
        domain=["a", "a", "a", "b", "b", "b"],
        label=[1, 0, 0, 1, 1, 0],
        slide=["s/1", "s/1", "s/2", "", "", ""],
        mask_flag=["ok", "ok", "border", "empty", "border", "border"],
    )
    contents = show(tmp_path / "s.zarr")
    first, second = contents.domains
    assert (first.domain, first.atypical, first.typical, first.slides) == ("a", 1, 2, 2)
    assert (first.masks, first.without_mask) == (2, {"border": 1})
    assert (second.domain, second.atypical, second.typical, second.slides) == ("b", 2, 1, 0)
    assert (second.masks, second.without_mask) == (0, {"border": 2, "empty": 1})
    total = contents.total
    assert (total.atypical, total.typical, total.slides, total.masks) == (3, 3, 2, 2)
    assert total.without_mask == {"border": 3, "empty": 1}


def test_a_sheet_shows_figures_and_the_outlines_of_their_masks(tmp_path: Path) -> None:
    images = np.full((9, 32, 32, 3), (180, 120, 160), np.uint8)
    masks = np.zeros((9, 32, 32), np.uint8)
    masks[0, 12:20, 10:22] = 1
    flags = ["ok"] + ["border"] * 8
    store(
        tmp_path / "s.zarr", images, masks, mask_flag=flags, label=[1] + [0] * 8, domain=["a"] * 5 + ["b"] * 4
    )
    assert draw(tmp_path / "s.zarr", tmp_path / "sheet.png") == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    green = np.argwhere((sheet == (40, 255, 60)).all(axis=2))
    height, width = np.ptp(green, axis=0) + 1
    # 12 x 8 of 32 px, drawn at 160, and a line around it
    assert (abs(width - 62) <= 2, abs(height - 42) <= 2) == (True, True)
    assert len(green) <= 2 * (62 + 42)  # a line, and the figure stays visible
    tissue = (abs(sheet.astype(int) - (180, 120, 160)) <= 2).all(axis=2)
    # one atypical and four typical crops in a, none and four in b; each less its frame and the line
    assert tissue.sum() == pytest.approx(9 * 160 * 160, rel=0.05)
    draw(tmp_path / "s.zarr", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_a_sheet_of_very_many_domains_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    store(tmp_path / "s.zarr", random_images(43, 8), domain=[f"d{i:02}" for i in range(43)])
    assert draw(tmp_path / "s.zarr", tmp_path / "sheet.png") == 3


# --- verify


def test_a_good_store_has_no_faults(tmp_path: Path) -> None:
    built("folder", crops_folder(tmp_path / "in"), tmp_path / "s.zarr", masks="haematoxylin", **SMALL)
    found = verify(tmp_path / "s.zarr")
    assert (found.faults, found.notes, found.exit_status) == ((), (), 0)
    assert (found.samples, found.distinct, found.duplicate_groups) == (8, 8, 0)


def test_a_damaged_chunk_is_found(tmp_path: Path) -> None:
    folder = store(tmp_path / "s.zarr", random_images(30, 64)).folder
    path = next(path for path in (folder / "images/c").rglob("*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    found = verify(folder)
    assert found.exit_status == 1
    assert "images do not fit their digest" in found.faults[0] or "damaged" in found.faults[0]


def test_a_chunk_that_does_not_decode_is_found(tmp_path: Path) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3)).folder
    path = next(path for path in (folder / "masks/c").rglob("*") if path.is_file())
    path.write_bytes(b"\0" * 30)
    assert any("samples 0 to 2: reading masks: damaged" in fault for fault in verify(folder).faults)


def replaced(folder: Path, name: str, row: int, value: object) -> None:
    import zarr

    zarr.open_group(folder, mode="r+")[name][row] = value


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("images", 7, "1 images do not fit their digest: 's1'"),
        ("masks", 1, "1 masks do not fit their flag: 's1'"),
        ("masks", 2, "1 masks have other values than 0 and 1: 's1'"),
        ("samples/label", 0, "the digest of its content is not the one that it states"),
        ("samples/label", 2, "1 samples have impossible labels or votes: 's1'"),
        ("samples/experts_atypical", 1, "1 samples have impossible labels or votes: 's1'"),
        ("samples/x_px0", 3.0, "the digest of its content is not the one that it states"),
        ("samples/source_id", [ord("a"), 0], "not in the order of domain, slide and source_id"),
        ("samples/domain", [ord("e")], "states the domains 'd' and has 'd', 'e'"),
    ],
)
def test_what_was_altered_is_found(tmp_path: Path, name: str, value: object, told: str) -> None:
    folder = store(tmp_path / "s.zarr", random_images(3), label=[1, 1, 1]).folder
    replaced(folder, name, 1, value)
    assert any(told in fault for fault in verify(folder).faults), verify(folder).faults


def test_a_slide_in_two_domains_is_wrong(tmp_path: Path) -> None:
    slides = ["", "x/1", "x/1", "", "x/1"]  # an unknown slide is no slide
    store(tmp_path / "s.zarr", random_images(5), domain=["a", "a", "a", "b", "b"], slide=slides)
    found = verify(tmp_path / "s.zarr")
    assert found.faults == ("slide x/1 is in 2 domains: 'a', 'b'",)
    assert found.exit_status == 1


def test_duplicates_and_contradictory_labels_are_told(tmp_path: Path) -> None:
    images = random_images(7)[[0, 1, 0, 3, 1, 5, 6]]
    x = [np.nan] * 5 + [10.2, 9.9]
    store(
        tmp_path / "s.zarr",
        images,
        label=[1, 0, 0, 0, 0, 1, 0],
        x_px0=x,
        y_px0=x,
        slide=["", "", "", "", "", "z", "z"],
    )
    found = verify(tmp_path / "s.zarr")
    assert found.faults == ()
    assert (found.samples, found.distinct) == (7, 5)
    assert (found.duplicate_groups, found.contradictory_groups) == (3, 2)
    assert "'s0 = s2', 's1 = s4', 's5 = s6'" in found.notes[0]
    assert "more than once: 3; distinct ones: 4;" in found.notes[0]
    assert "with both labels, one of which is wrong: 2;" in found.notes[1]
    assert "'s0 = s2', 's5 = s6'" in found.notes[1]


# --- overlap


def test_amibrs_half_in_midog25_is_told_and_what_remains_a_test(tmp_path: Path) -> None:
    """The leak: MIDOG25 has AMi-Br's MIDOG21 figures; here with other pixels, so only the place tells."""
    centres = {1: ("002.tiff", 40, 50), 2: ("120.tiff", 60, 70)}
    amibr = [
        *(amibr_row("MIDOG21", slide, uid, "aan", x, y) for uid, (slide, x, y) in centres.items()),
        amibr_row("TUPAC16", "01_stitched1.tif", 3, "nnn", 40, 50),
    ]
    midog25 = [
        *(
            midog25_row(
                uid, slide, "human breast cancer", ("AMF", "AMF", ""), "AMF" if uid == 1 else "NMF", x, y
            )
            for uid, (slide, x, y) in centres.items()
        ),
        midog25_row(9, "201.tiff", "canine lung cancer", ("NMF", "NMF", ""), "NMF", 40, 50),
    ]
    for row in amibr:
        crop(tmp_path / f"a/{row['dataset']}_{row['uid']}.png", seed=row["uid"])
    for number, row in enumerate(midog25):
        crop(tmp_path / "m" / row["image_id"], seed=100 + number)
    built(
        "amibr",
        write_csv(tmp_path / "a.csv", AMIBR_COLUMNS, amibr),
        tmp_path / "a.zarr",
        images=tmp_path / "a",
        **SMALL,
    )
    built(
        "midog25",
        write_csv(tmp_path / "m.csv", MIDOG25_COLUMNS, midog25),
        tmp_path / "m.zarr",
        images=tmp_path / "m",
        **SMALL,
    )
    found = verify(tmp_path / "a.zarr", tmp_path / "m.zarr")
    overlap = found.overlap
    assert overlap is not None
    assert (overlap.samples, overlap.by_digest, overlap.by_place, overlap.slides) == (2, 0, 2, 2)
    assert overlap.contradictory == 1
    assert overlap.apart == ("TUPAC16 01-23",)
    assert overlap.domains == {"MIDOG21 Aperio CS2": 1, "MIDOG21 Hamamatsu XR": 1, "TUPAC16 01-23": 0}
    assert found.exit_status == 0
    assert "for a model trained on m.zarr, only these domains are a test: TUPAC16 01-23" in found.notes


def test_overlap_by_image_and_by_slide(tmp_path: Path) -> None:
    images = random_images(5)
    mine = store(
        tmp_path / "mine.zarr",
        images[:3],
        domain=["a", "b", "c"],
        slide=["", "x/1", "x/2"],
    )
    theirs = store(tmp_path / "theirs.zarr", images[[0, 4]], slide=["", "x/2"], label=[0, 0])
    overlap = verify(mine.folder, theirs.folder).overlap
    assert overlap is not None
    assert (overlap.samples, overlap.by_digest, overlap.by_place, overlap.slides) == (1, 1, 0, 1)
    assert overlap.apart == ("b",)  # a shares a figure, c a slide
    assert overlap.contradictory == 0
    apart = store(tmp_path / "apart.zarr", random_images(2, seed=9))
    found = verify(mine.folder, apart.folder)
    assert found.notes == ("no figure and no slide is in apart.zarr as well",)
    assert json.dumps(found.overlap.domains) == '{"a": 0, "b": 0, "c": 0}'
    same = verify(mine.folder, mine.folder)
    assert "no whole domain is a test" in same.notes[-1]
