"""Odd labels, crops, stores and stacks, through the command line: refused, or named.

`docs/never-guessed.md` shows the messages; here they are provoked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from tests.cli.test_never_guessed import DOCUMENTATION
from tests.dataset_files import AMIBR_COLUMNS, amibr_row, crop, crops_folder, write_csv
from tests.slide_files import textured, tiff_slide
from wsi_mitosis.cli import main

TABLE = "slide,x,y,label,domain\na.tiff,20,20,AMF,lung\nb.tiff,40,40,NMF,skin\n"


def slides(folder: Path, mpps: tuple[float, float] = (0.25, 0.25), text: str = TABLE) -> list[str]:
    """Two slides and `l.csv`; the command that builds a store of them."""
    for seed, (name, mpp) in enumerate(zip(("a.tiff", "b.tiff"), mpps, strict=True)):
        tiff_slide(folder / name, textured(64, 64, seed=seed), mpp=mpp)
    (folder / "l.csv").write_text(text)
    return build("csv", "l.csv", folder)


def build(source: str, path: str, folder: Path) -> list[str]:
    options = ["--masks", "none", "--patch-px", "16", "--workers", "0", "--out", str(folder / "s.zarr")]
    return ["dataset", "build", str(folder / path), "--source", source, *options]


def spelt(folder: Path) -> list[str]:
    return slides(folder, text=TABLE + "b.tiff,10,40,NMF,Lung \n")


def copied(folder: Path) -> list[str]:
    command = slides(folder)
    shutil.copy(folder / "a.tiff", folder / "b.tiff")
    return command


def against(folder: Path) -> list[str]:
    crop(folder / "MIDOG21_1.png", seed=1)
    row = amibr_row("MIDOG21", "001.tiff", 1, "nnn")
    write_csv(folder / "l.csv", AMIBR_COLUMNS, [row | {"majority_atypical": "True"}])
    return build("amibr", "l.csv", folder)


def beside(folder: Path) -> list[str]:
    crops_folder(folder / "f", 2, 2)
    crop(folder / "f/Atypical (2)/1.png", seed=9)
    return build("folder", "f", folder)


def both_labels(folder: Path) -> list[str]:
    crops_folder(folder / "f", 2, 2)
    shutil.copy(folder / "f/Atypical/1.png", folder / "f/Normal/7.png")
    return build("folder", "f", folder)


def deep(folder: Path) -> list[str]:
    crops_folder(folder / "f", 2, 2)
    Image.fromarray(textured(32, 32)[..., 0].astype(np.uint16) * 257).save(folder / "f/Normal/1.png")
    return build("folder", "f", folder)


def lost(folder: Path) -> list[str]:
    CliRunner().invoke(main, slides(folder))
    next(path for path in (folder / "s.zarr/images/c").rglob("*") if path.is_file()).unlink()
    return ["evaluate", "--model", "amibr-lite0", "--dataset", str(folder / "s.zarr")]


def swapped(folder: Path) -> list[str]:
    CliRunner().invoke(main, slides(folder))
    labels = next(path for path in (folder / "s.zarr/samples/label/c").rglob("*") if path.is_file())
    votes = next(path for path in (folder / "s.zarr/samples/experts_asked/c").rglob("*") if path.is_file())
    shutil.copy(votes, labels)
    return ["evaluate", "--model", "amibr-lite0", "--dataset", str(folder / "s.zarr")]


def cut(folder: Path) -> list[str]:
    tifffile.imwrite(folder / "s.tif", np.zeros((4, 96, 96, 3), np.uint8), photometric="rgb")
    content = (folder / "s.tif").read_bytes()
    (folder / "s.tif").write_bytes(content[: len(content) // 2])
    return ["predict", str(folder / "s.tif"), "--model", "untrained-tiny", "--out", str(folder / "p.json")]


CASES: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "a class against the label": (
        lambda folder: slides(folder, text="slide,x,y,label,class\na.tiff,9,9,AMF,NMF\nb.tiff,9,9,NMF,NMF\n"),
        2,
        "l.csv: row 1: reading labels: column 'class' contradicts 'label' in 1 of 2 rows: 'label' is 'AMF' "
        "here, and 'class' is 'NMF'",
    ),
    "two columns of one name": (
        lambda folder: slides(folder, text="slide,x,y,label,x\na.tiff,9,9,AMF,5\nb.tiff,9,9,NMF,5\n"),
        2,
        "l.csv: reading labels: two columns are called 'x'",
    ),
    "shares of a slide": (
        lambda folder: slides(folder, text="slide,x,y,label\na.tiff,0.5,0.5,AMF\nb.tiff,0.25,0.5,NMF\n"),
        2,
        "l.csv: reading labels: all coordinates lie within 0 to 1 px, as shares of an image do",
    ),
    "two scales": (
        lambda folder: slides(folder, (0.25, 0.5)),
        2,
        "building a dataset: its slides have different um/px: a.tiff has 0.25, b.tiff has 0.5",
    ),
    "two spellings": (
        spelt,
        0,
        "2 domains that are spelt alike count as different ones: 'Lung', 'lung'",
    ),
    "a slide twice": (copied, 0, "2 slides have the same content: 'a.tiff', 'b.tiff'"),
    "a label against the experts": (
        against,
        0,
        "1 sample labelled atypical, of which most experts say typical: 'MIDOG21_1'",
    ),
    "a figure with both labels": (
        both_labels,
        0,
        "1 figure is there with both labels, one of which is wrong: 'Atypical/1.png = Normal/7.png'",
    ),
    "a folder of another name": (
        beside,
        0,
        "not read: folder 'Atypical (2)' with 1 image; its name is no label's",
    ),
    "16 bits": (
        deep,
        2,
        "reading images: 1 of the images cannot be used: 'Normal/1.png: has 16 or more bits a channel, "
        "not 8'",
    ),
    "a lost file": (
        lost,
        2,
        "s.zarr: opening a store: 1 of the 1 files of 'images' are not there, or empty",
    ),
    "a column of other values": (
        swapped,
        2,
        "s.zarr: checking a store: damaged: its content does not have the digest that it states",
    ),
    "a stack that was cut": (
        cut,
        2,
        "s.tif: reading crops: lists 1 page, but its description (shaped) states 4 images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_odd_data_are_refused_or_named(tmp_path: Path, case: str) -> None:
    make, status, message = CASES[case]
    result = CliRunner().invoke(main, make(tmp_path))
    told = " ".join(result.output.replace(f"{tmp_path}/", "").split())
    assert message in told
    assert result.exit_code == status


def test_the_documentation_shows_these_messages() -> None:
    text = " ".join(DOCUMENTATION.read_text(encoding="utf-8").split())
    assert [message for _, _, message in CASES.values() if message not in text] == []
