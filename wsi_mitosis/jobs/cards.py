"""Model cards, made of what is known about a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsi_mitosis.io.stores import Store
    from wsi_mitosis.recipes import FoldRecord


def training_card(
    fields: Mapping[str, Any], store: Store, records: Sequence[FoldRecord], chosen: Sequence[FoldRecord]
) -> str:
    """The card of a bundle that was just trained."""
    return f"# {fields['name']}\n"
