"""Signatures of figures, by which the same figure is recognised in pixels that are not quite the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.fft import dctn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SIGHT_PX = 64
"""Side of what is compared, in the centre of a crop: inside any published crop."""
CELLS, FREQUENCIES = 16, 12
"""The centre is averaged over CELLS x CELLS squares. Of their cosine transform, the lowest FREQUENCIES on
each axis are used."""
BITS = FREQUENCIES**2 - 1
MOST_DIFFERENT = 28
"""Bits in which signatures of one figure may differ.

Any two of the 3,720 figures of AMi-Br differ in 32 bits or more, and those of AtNorM-Br from them in 34. Of
600 figures, each differs from itself in up to 6 bits after JPEG of quality 90, in 10 of quality 50, and in 26
when it is shifted by a pixel along an axis; when it is shifted along both, 95 % differ in 28 or fewer. Turned
or mirrored figures are not recognised.
"""
AT_ONCE = 512


def signatures(crops: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the signatures of figures: which frequencies are above their median, as in perceptual hashes.

    Args:
        crops: (N, P, P, 3) uint8 RGB with the figure in the centre, P at least SIGHT_PX.

    Returns:
        (N, BITS) bool.
    """
    start = crops.shape[1] // 2 - SIGHT_PX // 2
    centre = crops[:, start : start + SIGHT_PX, start : start + SIGHT_PX].astype(np.float32).mean(axis=3)
    cell = SIGHT_PX // CELLS
    cells = centre.reshape(len(centre), CELLS, cell, CELLS, cell).mean(axis=(2, 4))
    frequencies = dctn(cells, axes=(1, 2))[:, :FREQUENCIES, :FREQUENCIES].reshape(len(cells), -1)[:, 1:]
    return np.asarray(frequencies > np.median(frequencies, axis=1, keepdims=True))


def as_text(signature: NDArray[np.bool_]) -> str:
    """Return a (BITS,) signature as hexadecimal digits."""
    return np.packbits(signature).tobytes().hex()


def from_texts(texts: Iterable[str]) -> NDArray[np.bool_]:
    """Return the signatures of `as_text`, (N, BITS) bool.

    Raises:
        ValueError: if a text is none.
    """
    rows = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in texts]
    bits = np.unpackbits(np.stack(rows), axis=1) if rows else np.zeros((0, BITS), np.uint8)
    return bits[:, :BITS].astype(np.bool_)


def nearest(found: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Find the known signature that is most like each one.

    Args:
        found: (N, BITS) bool.
        known: (M, BITS) bool.

    Returns:
        (N,) the row of the known one; -1 if all differ in more than MOST_DIFFERENT bits.
    """
    rows = np.full(len(found), -1, np.intp)
    if not len(known):
        return rows
    theirs = known.astype(np.float32)
    for start in range(0, len(found), AT_ONCE):
        ours = found[start : start + AT_ONCE].astype(np.float32)
        differ = ours.sum(axis=1)[:, None] + theirs.sum(axis=1) - 2 * ours @ theirs.T
        best = differ.argmin(axis=1)
        is_like = differ[np.arange(len(ours)), best] <= MOST_DIFFERENT
        rows[start : start + AT_ONCE] = np.where(is_like, best, -1)
    return rows
