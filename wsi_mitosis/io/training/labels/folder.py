"""Crops in folders that are called as their labels, such as `Atypical` and `Normal`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError, listed
from wsi_mitosis.io.training.labels.common import IMAGE_ENDINGS, STAGE, Listing, listing, natural_key, unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

LABEL_OF_FOLDER = {
    **dict.fromkeys(("atypical", "amf", "amfs"), 1),
    **dict.fromkeys(("normal", "typical", "nmf", "nmfs", "tmf", "tmfs"), 0),
}
LEFT_BY_SYSTEMS = ("desktop.ini", "thumbs.db")
"""Files that Windows leaves in folders of images."""
FIGURE = re.compile(r"\s+(mitos[ie]s|mitotic figures?|figures?|mf|mfs)$")
"""What may follow in a folder's name: "Atypical mitoses", "normal_mitotic_figures"."""


def read_folder(folder: Path, domain: str | None) -> Listing:
    """Read crops whose folder is their label. A sample is called `<folder>/<file>`.

    Upper and lower case, blanks, hyphens and underscores in the folders' names are alike. Whatever is not
    read is named in the notes.

    Args:
        folder: The folder above those of the classes.
        domain: The domain of all crops; the folder's name if None.

    Raises:
        DatasetError: if a class has no crops.
    """
    if not folder.is_dir():
        remedy = "Name a folder that has the folders Atypical and Normal"
        raise DatasetError("no such folder", subject=folder, stage=STAGE, remedy=remedy)
    inside = sorted(path for path in folder.iterdir() if not _is_hidden(path))
    labels = {path: label for path in inside if path.is_dir() and (label := _label(path.name)) is not None}
    images = {path: _images(path) for path in labels}
    notes = tuple(_left_out(inside, labels.keys()))
    if {labels[path] for path, files in images.items() if files} != {0, 1}:
        raise DatasetError(
            "; ".join(
                ("wants a folder 'Atypical' and a folder 'Normal' or 'Typical', with crops in both", *notes)
            ),
            subject=folder,
            stage=STAGE,
            remedy="Name the folder above the two",
        )
    files = [path for of_class in images.values() for path in of_class]
    columns = {
        **unknown(len(files)),
        "source_id": [f"{path.parent.name}/{path.name}" for path in files],
        "domain": [domain or folder.resolve().name] * len(files),
        "label": [labels[path.parent] for path in files],
        "label_source": ["folder"] * len(files),
    }
    return listing(columns, files, on_slides=False, notes=notes)


def _label(name: str) -> int | None:
    """Return the label that a folder's name means; None if it means none."""
    words = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    return LABEL_OF_FOLDER.get(FIGURE.sub("", words))


def _images(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".") and path.is_file()


def _left_out(inside: Sequence[Path], classes: Collection[Path]) -> Iterator[str]:
    """Yield notes on folders and files that are not read, and that may be meant to be."""
    if loose := [path.name for path in inside if _is_image(path)]:
        yield f"not read: {_counted(len(loose), 'loose image')} ({_some(loose)})"
    for folder in (path for path in inside if path.is_dir() and path not in classes):
        yield f"not read: folder '{folder.name}' with {_images_below(folder)}; its name is no label's"
    for folder in sorted(classes):
        others = [path for path in folder.iterdir() if not _is_image(path) and not _is_hidden(path)]
        if files := [path.name for path in others if path.is_file()]:
            number = _counted(len(files), "file")
            yield f"not read: {number} of another kind in '{folder.name}' ({_some(files)})"
        for below in sorted(path for path in others if path.is_dir()):
            yield f"not read: folder '{folder.name}/{below.name}' with {_images_below(below)}"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS


def _images_below(folder: Path) -> str:
    return _counted(sum(map(_is_image, folder.rglob("*"))), "image")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _some(names: Sequence[str]) -> str:
    ordered: list[str] = sorted(names, key=natural_key)
    return listed(ordered)
