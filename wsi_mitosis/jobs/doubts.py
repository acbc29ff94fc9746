"""Warn of what looks like a mistake in labelled figures, or refuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


def tell_doubts(found: Iterable[str], store: Path, *, strict: bool, warn: Callable[[str], None]) -> None:
    """Warn of what `core.doubts` found in a store, or refuse the store.

    Args:
        found: A sentence for each.
        store: The store, for the message.
        strict: Refuse it.
        warn: Takes each sentence otherwise.

    Raises:
        DatasetError: if something was found and `strict` is set.
    """
    sentences = list(found)
    if sentences and strict:
        raise DatasetError(
            "; ".join(sentences),
            subject=store,
            stage="checking labels",
            remedy="Correct the labels, or leave out --strict to be warned only",
        )
    for sentence in sentences:
        warn(sentence)
