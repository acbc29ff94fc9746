"""Crops of a store at the um/px that a network needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.specs import InputSpec


def at_scale(store: Store, wanted: InputSpec, reader: str, stage: str) -> Store:
    """Return a store whose crops have the scale that a network needs.

    As on slides, pixels within the tolerance are used as they are, and finer ones are resampled. Crops that
    are too coarse are refused: training on enlarged crops would teach a network what slides do not show.

    Args:
        store: Labelled crops. Those without a um/px are taken as they are.
        wanted: What the network needs.
        reader: Name of the bundle or recipe, for the message.
        stage: What is being done, for the message.

    Raises:
        InputError: if the crops are too coarse, or too small at that scale.
    """
    mpp = store.attributes.mpp
    if mpp is None or abs(mpp / wanted.mpp - 1) <= wanted.mpp_tolerance:
        return store
    if mpp > wanted.mpp:
        raise InputError(
            f"its crops have {mpp:g} um/px, but '{reader}' needs {wanted.mpp:g} um/px",
            subject=store.folder,
            stage=stage,
            remedy="Build the dataset from slides that were scanned as finely",
        )
    scaled = store.at(wanted.mpp)
    if scaled.attributes.patch_px < wanted.cut_px:
        raise InputError(
            f"its crops of {store.attributes.patch_px} px at {mpp:g} um/px have only "
            f"{scaled.attributes.patch_px} px at the {wanted.mpp:g} um/px of '{reader}', which needs "
            f"{wanted.cut_px} px",
            subject=store.folder,
            stage=stage,
            remedy="Build the dataset again with a larger --patch-px",
        )
    return scaled
