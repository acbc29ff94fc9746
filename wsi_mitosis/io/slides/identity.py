"""The identity of a slide: a digest of its content that does not need a full read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from wsi_mitosis.io.slides.parts import slide_parts

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = 32
BLOCK_BYTES = 64 * 1024


def slide_identity(path: Path, vendor_hash: str | None) -> str:
    """Return a digest of the slide's content.

    It is made from OpenSlide's quickhash, if there is one, and the size and SHA-256 of evenly sampled blocks
    of every part, including the first and last. Quickhash alone does not depend on all pixels.

    Args:
        path: The slide's file.
        vendor_hash: OpenSlide's quickhash-1.

    Returns:
        64 hexadecimal digits.
    """
    parts = sorted(_sampled_digest(part) for part in slide_parts(path))
    return hashlib.sha256("\n".join([vendor_hash or "", *parts]).encode()).hexdigest()


def _sampled_digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in _offsets(size):
            file.seek(offset)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _offsets(size: int) -> list[int]:
    if size <= BLOCKS * BLOCK_BYTES:
        return list(range(0, size, BLOCK_BYTES))
    return [index * (size - BLOCK_BYTES) // (BLOCKS - 1) for index in range(BLOCKS)]
