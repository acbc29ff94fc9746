"""Stacks of crops, and the input and output of track 2 of the MIDOG 2025 challenge."""

from __future__ import annotations

import json
import logging
import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_mitosis.errors import InputError, OutputError
from wsi_mitosis.io.atomic import write_text
from wsi_mitosis.io.limits import MOST_STACK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffFile

IN_SOCKET = "stacked-histopathology-roi-cropouts"
OUT_FILE = "multiple-mitotic-figure-classification.json"
"""The challenge's sockets (MIDOG 2025 track 2; DeepMicroscopy/MIDOG25_T2_reference_docker)."""
TIFF_ENDINGS = (".tif", ".tiff")
_ENABLING = threading.Lock()
"""Held while tifffile's logger is enabled, so that two threads give it back as it was."""


def read_stack(path: Path) -> NDArray[np.uint8]:
    """Read a TIFF whose pages are crops.

    Args:
        path: A TIFF of one or more pages, each RGB, 8 bits a channel, all of one size, square.

    Returns:
        (N, P, P, 3) uint8 RGB, in page order.

    Raises:
        InputError: if the file cannot be read or its pages are something else.
    """
    from tifffile import TiffFile

    try:
        with _complaints() as complaints, TiffFile(path) as tiff:
            pages = list(tiff.pages)
            if fault := _fault(pages) or _missing_pages(tiff):
                raise _stack_error(path, fault)
            crops = np.stack([_channels_last(page) for page in pages])
            if complaints:
                raise _stack_error(path, f"is damaged or cut short: tifffile says: {complaints[0]}")
            return crops
    except InputError:
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds
        raise _stack_error(path, f"cannot be read: {error}") from error


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile says of damage in this thread. It reads what is left of a file that was cut.

    It says so also where the program around has disabled its logger, or all of them.
    """
    found: list[str] = []
    logger, thread = logging.getLogger("tifffile"), threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                found.append(" ".join(record.getMessage().split()))

    collector = Collector(logging.ERROR)
    with _ENABLING:
        before = logger.disabled, logger.level, logging.root.manager.disable
        logger.disabled = False
        logger.setLevel(min(before[1], logging.ERROR))
        logging.disable(min(before[2], logging.ERROR - 1))
        logger.addHandler(collector)
        try:
            yield found
        finally:
            logger.removeHandler(collector)
            logger.disabled = before[0]
            logger.setLevel(before[1])
            logging.disable(before[2])


def _missing_pages(tiff: TiffFile) -> str | None:
    """Compare the pages in a file's directory with those that its description states.

    ImageJ, OME and tifffile state in a description how many images there are. Virtual stacks and files of
    tifffile's mode `truncate` have one page in the directory and all images behind it.
    """
    of_one = 3 * tiff.pages.first.imagewidth**2
    stated = [(series.kind, math.prod(series.shape) // of_one) for series in tiff.series]
    numbers = {" and ".join(dict.fromkeys(kind for kind, _ in stated)): sum(number for _, number in stated)}
    if tiff.imagej_metadata:
        numbers["imagej"] = int(tiff.imagej_metadata.get("images", 1))
    pages = "1 page" if len(tiff.pages) == 1 else f"{len(tiff.pages)} pages"
    for kind, number in numbers.items():
        if number != len(tiff.pages):
            return f"lists {pages}, but its description ({kind}) states {number} images"
    return None


def _fault(pages: Sequence[Any]) -> str | None:
    """The fault of a TIFF's pages; None if they are crops."""
    for number, page in enumerate(pages, start=1):
        # tifffile converts YCbCr to RGB only if it is compressed as JPEG.
        coded = _name(page.photometric) == "YCBCR" and _name(page.compression) == "JPEG"
        if page.samplesperpixel != 3 or not (_name(page.photometric) == "RGB" or coded):
            kind = f"{_name(page.photometric)} with {page.samplesperpixel} samples a pixel"
            return f"page {number} of {len(pages)} is {kind}, not RGB"
        if (turned := page.tags.valueof("Orientation", 1)) != 1:
            return f"page {number} of {len(pages)} is to be turned when it is shown (Orientation {turned:d})"
        if page.dtype != np.uint8:
            return f"page {number} of {len(pages)} has {page.dtype} values, not 8 bits a channel"
        size, first = (page.imagewidth, page.imagelength), (pages[0].imagewidth, pages[0].imagelength)
        if size != first or size[0] != size[1]:
            wanted = "square" if number == 1 else f"{first[0]} x {first[1]} px like the first"
            return f"page {number} of {len(pages)} is {size[0]} x {size[1]} px, not {wanted}"
    if not pages:
        return "has no pages"
    if len(pages) * 3 * pages[0].imagewidth ** 2 > MOST_STACK_BYTES:
        return f"has pages of more than {MOST_STACK_BYTES >> 30} GiB in all; split it"
    return None


def _name(tag: Any) -> str:
    """The name of a tag's value; its number if TIFF has no such value."""
    return str(getattr(tag, "name", tag))


def _channels_last(page: Any) -> NDArray[np.uint8]:
    pixels = page.asarray()
    separate = _name(page.planarconfig) == "SEPARATE"
    return np.asarray(np.moveaxis(pixels, 0, -1) if separate else pixels, dtype=np.uint8)


def _stack_error(path: Path, cause: str) -> InputError:
    remedy = (
        "Give a whole TIFF whose directory lists each page: square RGB crops of one size, 8 bits a channel, "
        "upright, without alpha"
    )
    return InputError(cause, subject=path, stage="reading crops", remedy=remedy)


def challenge_stack(input_dir: Path) -> Path:
    """Return the only stack among a challenge container's inputs.

    `inputs.json` is a list with an object per input, whose `socket` (older: `interface`) has the `slug` and
    the `relative_path` of a folder with one image.

    Args:
        input_dir: `/input` of the container.

    Raises:
        InputError: if the input is not described, or the folder does not hold exactly one TIFF.
    """
    listing = input_dir / "inputs.json"
    try:
        inputs = json.loads(listing.read_text(encoding="utf-8"))
        sockets = [entry.get("socket") or entry["interface"] for entry in inputs]
        folders = [str(socket["relative_path"]) for socket in sockets if socket["slug"] == IN_SOCKET]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        cause = f"is no list of inputs: {type(error).__name__}: {error}"
        raise _challenge_error(listing, cause) from error
    if len(folders) != 1:
        raise _challenge_error(listing, f"names '{IN_SOCKET}' {len(folders)} times, not once")
    folder = input_dir / folders[0]
    try:
        is_inside = folder.resolve().is_relative_to(input_dir.resolve())
        found = sorted(folder.glob("*"))
    except (OSError, ValueError) as error:  # a name that no file can have
        raise _challenge_error(listing, f"names a folder that cannot be read: {error}") from error
    if not is_inside:
        raise _challenge_error(listing, f"names a folder outside {input_dir}: {folders[0]}")
    stacks = [path for path in found if path.suffix.lower() in TIFF_ENDINGS]
    if len(stacks) != 1:
        raise _challenge_error(folder, f"holds {len(stacks)} TIFF files, not one")
    return stacks[0]


def _challenge_error(subject: Path, cause: str) -> InputError:
    remedy = f"Provide inputs.json and images/{IN_SOCKET}/<one TIFF>, as Grand Challenge mounts them"
    return InputError(cause, subject=subject, stage="reading the challenge's input", remedy=remedy)


def write_predictions(
    path: Path, predictions: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]
) -> Path:
    """Write predictions, and a file of their provenance.

    The provenance is written first, so that predictions never exist without it.

    Args:
        path: Path of the predictions' JSON file.
        predictions: In page order.
        provenance: Program, bundle and settings.

    Returns:
        Path of the provenance, `<stem>.provenance.json`.

    Raises:
        OutputError: if the folder cannot be written.
    """
    beside = path.with_name(f"{path.stem}.provenance.json")
    try:
        write_text(beside, json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")
        write_text(path, json.dumps(predictions, indent=2) + "\n")
    except OSError as error:
        cause, remedy = f"cannot be written: {error.strerror}", "Choose a folder that you may write to"
        raise OutputError(cause, subject=path, stage="writing predictions", remedy=remedy) from error
    return beside
