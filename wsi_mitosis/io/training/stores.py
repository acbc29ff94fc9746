"""Stores: labelled figures with their masks, as a Zarr v3 group.

The group holds `images` (N, P, P, 3) and `masks` (N, P, P), both uint8 and sharded, and in `samples/` one
array per column of tables.SAMPLE_COLUMNS, without `subtypes` if no figure has any. Text is kept as UTF-8 in
(N, length) uint8, filled up with zeros: Zarr's specification has no text of its own yet.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from wsi_mitosis.core.geometry import resample
from wsi_mitosis.errors import UNWRITABLE, DatasetError, OutputError
from wsi_mitosis.io.installing import upgrade_program
from wsi_mitosis.io.limits import MOST_BYTES, MOST_ROWS
from wsi_mitosis.specs import StoreAttributes
from wsi_mitosis.tables import SAMPLE_COLUMNS
from wsi_mitosis.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray

    Pixels = tuple[NDArray[np.uint8], NDArray[np.uint8]]

SCHEMA = 3
"""In schema 1 a store's digest did not include its um/px. In schema 2 there are no subtypes: it is still
written for figures without any, so that their digests stay as they are."""
WITHOUT_SUBTYPES = 2
HALF_COVERED = 128
"""A resampled pixel is of a figure if half of it is, of 255."""
DIGEST_PX = 64
"""Side of what identifies a figure: inside any published crop, so that crops of all sizes compare."""
CHUNK_BYTES = 1 << 20
SHARD_BYTES = 32 << 20
"""A chunk is what one random sample costs to read, a shard is a file."""
CHUNKS_AT_ONCE = 32
SHAPE_OF_PIXELS = 3
"""Dimensions of masks; images have one more, columns have fewer."""
INTEGERS = ("label", "experts_atypical", "experts_asked")
FLOATS = ("x_px0", "y_px0")
SAMPLES_AT_ONCE = 256
"""Samples whose pixels are in memory while a content is compared with its digest."""
BUILD_AGAIN = "Build the store again, or take it from its source again"


@dataclass(frozen=True)
class Store:
    """A store that was opened.

    Attributes:
        folder: Where it lies.
        attributes: What it says of itself.
        samples: (N,) rows of tables.SAMPLE_COLUMNS, sorted by domain, slide and source_id.
        step: Stored pixels per pixel of `images` and `masks`; 1 if they are given as they are stored.
    """

    folder: Path
    attributes: StoreAttributes
    samples: pd.DataFrame
    step: float = 1.0

    def at(self, mpp: float) -> Store:
        """Return the same samples at a coarser scale, resampled as the patches of slides are.

        Crops become smaller by the same factor. The digests of the store and of its samples are those of the
        pixels as they are stored.

        Args:
            mpp: um/px; at least the store's own, which must be known.

        Raises:
            ValueError: if the store's um/px is not known, or is coarser.
        """
        own = self.attributes.mpp
        if own is None or own > mpp:
            raise ValueError(f"a store at {own} um/px has no samples at {mpp} um/px")
        side = int(self.attributes.patch_px * own / mpp) // 2 * 2
        attributes = self.attributes.model_copy(update={"mpp": mpp, "patch_px": side})
        return replace(self, attributes=attributes, step=self.step * mpp / own)

    def images(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """Images of some samples.

        Args:
            rows: (n,) indices into the samples, in any order, also repeated; all if None.

        Returns:
            (n, P, P, 3) uint8 RGB, rows of pixels top to bottom.

        Raises:
            DatasetError: if the file is damaged.
        """
        stored = self._read("images", rows)
        return stored if self.step == 1 else self._resampled(stored)

    def masks(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """Masks of some samples, (n, P, P) uint8: 1 on the figure; all 0 if it has none.

        Arguments and errors as for `images`.
        """
        stored = self._read("masks", rows)
        if self.step == 1:
            return stored
        shares = self._resampled(np.repeat(stored[..., None] * np.uint8(255), 3, axis=3))[..., 0]
        return (shares >= HALF_COVERED).astype(np.uint8)

    def _resampled(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resample (n, P, P, 3) pixels as they are stored, around their centres."""
        side = self.attributes.patch_px
        start = stored.shape[1] / 2 - side * self.step / 2
        resampled = [resample(crop, (start, start), (self.step,) * 2, (side, side)) for crop in stored]
        return np.stack(resampled) if resampled else np.empty((0, side, side, 3), np.uint8)

    def _read(self, name: str, rows: NDArray[np.intp] | None) -> NDArray[np.uint8]:
        with _damage_named(self.folder, f"reading {name}"):
            array = _group(self.folder)[name]
            if rows is None:
                return np.asarray(array[:], dtype=np.uint8)  # type: ignore[index]
            return _rows(cast("zarr.Array[Any]", array), np.asarray(rows, dtype=np.intp))


def _rows(array: zarr.Array[Any], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Some rows of an array, read a run of whole chunks at a time.

    Zarr's own index of many rows took thirty times as long and ten times their memory (3.1.6, 2,450 rows).
    """
    result = np.empty((len(rows), *array.shape[1:]), dtype=np.uint8)
    size = array.chunks[0]
    wanted = np.unique(rows // size)
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if len(wanted) else ():
        for first in range(int(run[0]), int(run[-1]) + 1, CHUNKS_AT_ONCE):
            start, end = first * size, min(first + CHUNKS_AT_ONCE, int(run[-1]) + 1) * size
            inside = np.flatnonzero((rows >= start) & (rows < end))
            result[inside] = np.asarray(array[start:end])[rows[inside] - start]
    return result


def sample_digests(images: NDArray[np.uint8]) -> list[str]:
    """Return the digest by which a figure is recognised at every crop size.

    Args:
        images: (n, P, P, 3) uint8 RGB with the figure in the centre.

    Returns:
        SHA-256 in hex of each image's central DIGEST_PX x DIGEST_PX px in C order, of all of a smaller one.
    """
    size = min(DIGEST_PX, images.shape[1])
    start = images.shape[1] // 2 - size // 2
    centres = images[:, start : start + size, start : start + size]
    return [hashlib.sha256(centre.tobytes()).hexdigest() for centre in centres]


class StoreDigest:
    """The digest of a store's content, whatever the layout of its files: fed with samples in their order.

    Args:
        patch_px: Side of the crops.
        mpp: um/px; None if it is not known.
        subtypes: Whether the store has subtypes.
    """

    def __init__(self, patch_px: int, mpp: float | None = None, *, subtypes: bool = False) -> None:
        self._columns = _columns(subtypes=subtypes)
        scale = "" if mpp is None else f" at {mpp!r} um/px"
        self._hash = hashlib.sha256(f"samples of {patch_px} px{scale}\n".encode())

    @classmethod
    def of(cls, attributes: StoreAttributes) -> StoreDigest:
        """Begin the digest of a store as its schema has it."""
        mpp = attributes.mpp if attributes.schema_ > 1 else None
        return cls(attributes.patch_px, mpp, subtypes=attributes.schema_ > WITHOUT_SUBTYPES)

    def add(self, samples: pd.DataFrame, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> None:
        """Feed the next samples.

        Args:
            samples: (n,) rows of tables.SAMPLE_COLUMNS.
            images: (n, P, P, 3) uint8.
            masks: (n, P, P) uint8.
        """
        for image, mask, row in zip(images, masks, _row_texts(samples[self._columns]), strict=True):
            self._hash.update(image.tobytes())
            self._hash.update(mask.tobytes())
            self._hash.update(row)

    def hexdigest(self) -> str:
        """SHA-256 of all that was fed, in hex."""
        return self._hash.hexdigest()


def _row_texts(samples: pd.DataFrame) -> Iterator[bytes]:
    """Each sample as one line of JSON: values in the order of the columns, null for NaN."""
    for row in samples.itertuples(index=False):
        values = [None if isinstance(value, float) and math.isnan(value) else value for value in row]
        yield (json.dumps(values, separators=(",", ":")) + "\n").encode()


def _columns(*, subtypes: bool) -> list[str]:
    """The columns of a store with or without subtypes, in the order of SAMPLE_COLUMNS."""
    return [name for name in SAMPLE_COLUMNS if subtypes or name != "subtypes"]


def sample_table(rows: Mapping[str, Any]) -> pd.DataFrame:
    """Columns as a table with the types of tables.SAMPLE_COLUMNS; those not given are left out."""
    types = {name: _dtype(name) for name in SAMPLE_COLUMNS}
    return pd.DataFrame(
        {name: pd.Series(rows[name], dtype=types[name]) for name in SAMPLE_COLUMNS if name in rows}
    )


def _dtype(column: str) -> str:
    return "int64" if column in INTEGERS else "float64" if column in FLOATS else "str"


def open_store(folder: Path) -> Store:
    """Open a store; its images and masks are read when they are used.

    Raises:
        DatasetError: if there is none, or one that is incomplete, malformed or of a newer schema.
    """
    if not (folder / "zarr.json").is_file():
        raise DatasetError(
            "no such store" if not folder.exists() else "a folder without zarr.json",
            subject=folder,
            stage="opening a store",
            remedy="Name a folder that `wsi-mitosis dataset build` wrote",
        )
    with _damage_named(folder, "opening a store"):
        group = _group(folder)
        attributes = _attributes(group.attrs.asdict(), folder)
        names = _columns(subtypes=attributes.schema_ > WITHOUT_SUBTYPES)
        columns = {name: _column(group, name) for name in names}
        number = len(columns["label"])
        samples = sample_table({"subtypes": [""] * number, **columns})
        _check_arrays(group, names, number, attributes.patch_px, folder)
    return Store(folder, attributes, samples)


def open_checked_store(folder: Path, digest: str | None = None) -> Store:
    """Open a store, and compare its content with the digest that it states.

    All of it is read. The 3,720 crops of AMi-Br, 128 px, take 0.9 s of processor time.

    Args:
        folder: The store.
        digest: The digest that it must have, as of a store whose folds are being trained; any if None.

    Raises:
        DatasetError: as `open_store`, or if the content is not what the store states, or another store is
            there now.
    """
    store = open_store(folder)
    if digest is not None and digest != store.attributes.digest:
        raise DatasetError(
            f"it was replaced meanwhile: its digest is {store.attributes.digest[:12]}, and was {digest[:12]}",
            subject=folder,
            stage="checking a store",
            remedy="Put the store back, or run again to use the new one from the start",
        )
    if content_digest(store) != store.attributes.digest:
        raise DatasetError(
            "damaged: its content does not have the digest that it states",
            subject=folder,
            stage="checking a store",
            remedy=f"{BUILD_AGAIN}; `wsi-mitosis dataset verify` tells which samples are affected",
        )
    return store


def content_digest(store: Store) -> str:
    """Compute the digest of a store's content, all of which is read.

    Raises:
        DatasetError: if a file is damaged.
    """
    digest = StoreDigest.of(store.attributes)
    for start in range(0, len(store.samples), SAMPLES_AT_ONCE):
        rows = np.arange(start, min(start + SAMPLES_AT_ONCE, len(store.samples)))
        digest.add(store.samples.iloc[rows], store.images(rows), store.masks(rows))
    return digest.hexdigest()


def write_store(
    folder: Path,
    fields: Mapping[str, Any],
    samples: pd.DataFrame,
    pixels: Iterable[Pixels],
    *,
    overwrite: bool = False,
) -> Store:
    """Write a store: all of it or nothing.

    Args:
        folder: Where it goes.
        fields: The attributes, without `schema`, `domains`, `digest` and `code_version`, which are added.
        samples: (N,) rows of SAMPLE_COLUMNS without `digest`, which is added, in the store's order.
        pixels: Images (n, P, P, 3) uint8 and masks (n, P, P) uint8 of the samples in order, in blocks of any
            size; iterated once.
        overwrite: Replace an existing store.

    Returns:
        The store as read back from disk.

    Raises:
        OutputError: if something is there already, or the folder cannot be written.
    """
    check_free(folder, overwrite=overwrite)
    try:
        temporary = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", subject=folder, stage="writing a store", remedy=UNWRITABLE
        ) from error
    try:
        _write_group(temporary / "new", fields, samples, pixels)
        open_store(temporary / "new")
        if folder.exists():
            folder.replace(temporary / "old")
        (temporary / "new").replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(folder)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Whether a store may be written to `folder`.

    Raises:
        OutputError: if something is there that is not to be replaced, or that is no store.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputError(
            "exists already",
            subject=folder,
            stage="writing a store",
            remedy="Choose another --out, or give --overwrite",
        )
    if not (folder / "zarr.json").is_file():
        raise OutputError(
            "is there and is no store, so --overwrite leaves it alone",
            subject=folder,
            stage="writing a store",
            remedy="Choose another --out",
        )


def _write_group(
    folder: Path, fields: Mapping[str, Any], samples: pd.DataFrame, pixels: Iterable[Pixels]
) -> None:
    import zarr

    group = zarr.open_group(folder, mode="w-", zarr_format=3)
    patch_px = int(fields["patch_px"])
    shape = (len(samples), patch_px, patch_px)
    arrays = _pixel_array(group, "images", (*shape, 3)), _pixel_array(group, "masks", shape)
    named = "subtypes" in samples and bool(samples["subtypes"].ne("").any())
    digest, digests = StoreDigest(patch_px, fields["mpp"], subtypes=named), list[str]()
    for images, masks in _in_blocks(pixels, cast("tuple[int, ...]", arrays[0].shards)[0]):
        place = slice(len(digests), len(digests) + len(images))
        arrays[0][place], arrays[1][place] = images, masks
        digests += sample_digests(images)
        digest.add(samples.iloc[place].assign(digest=digests[place]), images, masks)
    table = sample_table({**samples, "digest": digests})
    for name in _columns(subtypes=named):
        _write_column(group, name, table[name])
    attributes = {
        "schema": SCHEMA if named else WITHOUT_SUBTYPES,
        **fields,
        "domains": sorted(table["domain"].unique()),
        "digest": digest.hexdigest(),
        "code_version": __version__,
    }
    group.attrs.put(StoreAttributes.parse(attributes, folder).as_data())


def _in_blocks(pixels: Iterable[Pixels], size: int) -> Iterator[Pixels]:
    """The same samples in blocks of `size`, so that each shard is written once."""
    waiting: list[Pixels] = []
    for pair in pixels:
        waiting.append(pair)
        if sum(len(images) for images, _ in waiting) >= size:
            images, masks = _joined(waiting)
            whole = len(images) // size * size
            for start in range(0, whole, size):
                yield images[start : start + size], masks[start : start + size]
            waiting = [(images[whole:], masks[whole:])]
    if sum(len(images) for images, _ in waiting):
        yield _joined(waiting)


def _joined(blocks: list[Pixels]) -> Pixels:
    return np.concatenate([images for images, _ in blocks]), np.concatenate([masks for _, masks in blocks])


def _pixel_array(group: zarr.Group, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    per_chunk = max(1, CHUNK_BYTES // math.prod(shape[1:3]) // 3)  # the same samples in both arrays' chunks
    per_shard = per_chunk * max(1, min(SHARD_BYTES // CHUNK_BYTES, math.ceil(shape[0] / per_chunk)))
    return group.create_array(
        name,
        shape=shape,
        dtype="uint8",
        chunks=(per_chunk, *shape[1:]),
        shards=(per_shard, *shape[1:]),
        compressors=_compressor(),
        config={"write_empty_chunks": True},  # so that a shard that is not there is known to be lost
    )


def _compressor() -> Any:
    from zarr.codecs import BloscCodec

    return BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=1)


def _write_column(group: zarr.Group, name: str, values: pd.Series[Any]) -> None:
    if _dtype(name) == "str":
        encoded = [text.encode() for text in values]
        width = max(1, *map(len, encoded))
        data = np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), np.uint8)
        data = data.reshape(len(encoded), width)
    else:
        data = values.to_numpy()
    group.create_array(
        f"samples/{name}",
        data=data,
        chunks=data.shape,
        compressors=_compressor(),
        config={"write_empty_chunks": True},
    )


def _column(group: zarr.Group, name: str) -> Any:
    array = cast("zarr.Array[Any]", group[f"samples/{name}"])
    _check_size(array)
    data = np.asarray(array[:])
    if _dtype(name) != "str":
        return data
    return [row.tobytes().rstrip(b"\0").decode() for row in data]


def _check_size(array: zarr.Array[Any]) -> None:
    """Refuse an array that states more than can be read. Its metadata need hardly any bytes for that.

    Raises:
        ValueError: if it has too many samples, or is too large as a column or as one chunk.
    """
    at_once = array.nbytes if array.ndim < SHAPE_OF_PIXELS else math.prod(array.chunks) * array.dtype.itemsize
    if array.shape[0] > MOST_ROWS or at_once > MOST_BYTES:
        raise ValueError(f"'{array.basename}' states the size {array.shape} in chunks of {array.chunks}")


def _group(folder: Path) -> zarr.Group:
    import zarr

    return zarr.open_group(folder, mode="r", zarr_format=3)


def _attributes(data: dict[str, Any], folder: Path) -> StoreAttributes:
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise DatasetError(
            f"its schema {schema} is newer than the {SCHEMA} that this version supports",
            subject=folder,
            stage="opening a store",
            remedy=upgrade_program(),
        )
    return StoreAttributes.parse(data, folder)


def _check_arrays(
    group: zarr.Group, columns: Sequence[str], number: int, patch_px: int, folder: Path
) -> None:
    """Whether the arrays are of the shape that the samples ask for, and all of their files are there.

    Zarr reads a file that is not there as zeros.
    """
    shape = (number, patch_px, patch_px)
    for name, wanted in (("images", (*shape, 3)), ("masks", shape)):
        array = cast("zarr.Array[Any]", group[name])
        _check_size(array)
        if array.shape != wanted or array.dtype != np.uint8:
            raise _malformed(f"'{name}' is {array.shape} {array.dtype}, not {wanted} uint8", folder)
        _check_files(folder / name, math.ceil(number / (array.shards or array.chunks)[0]), array.ndim, folder)
    for column in columns:
        dimensions = cast("zarr.Array[Any]", group[f"samples/{column}"]).ndim
        _check_files(folder / "samples" / column, 1, dimensions, folder)


def _check_files(array: Path, number: int, dimensions: int, folder: Path) -> None:
    # Only an array's first axis is cut. The name of a file in Zarr v3 core, "default" chunk key encoding:
    # c/<i>/0/0 for three axes.
    names = [Path("c", str(i), *["0"] * (dimensions - 1)) for i in range(number)]
    lost = [name for name in names if not (array / name).is_file() or not (array / name).stat().st_size]
    if lost:
        cause = f"{len(lost)} of the {number} files of '{array.name}' are not there, or empty"
        raise _malformed(cause, folder)


def _malformed(cause: str, folder: Path) -> DatasetError:
    return DatasetError(cause, subject=folder, stage="opening a store", remedy=BUILD_AGAIN)


@contextmanager
def _damage_named(folder: Path, stage: str) -> Iterator[None]:
    """Errors of damaged files as ours: what Zarr, its codecs and the file system raise."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # Zarr and its codecs raise many kinds, also ArithmeticError and SystemError
        raise DatasetError(
            f"damaged: {type(error).__name__}: {error}", subject=folder, stage=stage, remedy=BUILD_AGAIN
        ) from error
