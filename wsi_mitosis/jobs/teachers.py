"""Targets from a bundle: a fold's member learns the P(atypical) of a teacher's members beside the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.geometry import read_px
from wsi_mitosis.errors import InputError
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.training.stores import open_checked_store
from wsi_mitosis.jobs.evaluate import member_probabilities
from wsi_mitosis.jobs.known import overlap_of
from wsi_mitosis.jobs.scale import at_scale

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_mitosis.core.folds import Fold
    from wsi_mitosis.io.training.stores import Store

STAGE = "training"


@dataclass(frozen=True)
class Teacher:
    """The members of a bundle that teach a fold.

    Attributes:
        bundle: Folder of the bundle.
        digest: Its digest.
        members: Their positions, from 0.
    """

    bundle: Path
    digest: str
    members: tuple[int, ...]


def teachers(bundle: Bundle, store: Store, folds: Sequence[Fold]) -> list[Teacher]:
    """Choose the members that teach each fold: those that know no figure which the fold must not know.

    These are the figures of the fold's test domain and, unless the fold learns from it, of its validation
    domain. Otherwise the fold would learn from their labels through the teacher.

    Args:
        bundle: The teacher.
        store: The samples of the folds, at any scale.
        folds: The folds.

    Raises:
        InputError: if there is no such member for a fold, or the crops are too coarse or too small.
    """
    overlap = overlap_of(bundle, _at_scale_of(bundle, store))
    may_know = overlap.seen[:, None] & ~overlap.own  # (N, M)
    chosen = []
    for fold in folds:
        kept_from = np.setdiff1d(np.union1d(fold.test_rows, fold.validation_rows), fold.training_rows)
        members = np.flatnonzero(~may_know[kept_from].any(axis=0))
        if not len(members):
            raise InputError(
                f"each of its members knows figures that fold {fold.name} is tested or selected on",
                subject=bundle.folder,
                stage=STAGE,
                remedy="Name a bundle with a member that was trained without these domains",
            )
        chosen.append(Teacher(bundle.folder.absolute(), bundle.digest, tuple(members.tolist())))
    return chosen


def taught(
    teacher: Teacher, store: Store, rows: NDArray[np.intp], device: str, threads: int
) -> NDArray[np.float32]:
    """Compute the mean P(atypical) of a teacher's members for samples.

    Args:
        teacher: The members.
        store: The samples, at any scale.
        rows: (N,) their rows.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Number of CPU threads that compute.

    Returns:
        (N,) P(atypical) with the views and the temperature of the bundle, both classes weighing alike. The
        temperature may have been fitted to figures of all domains, the fold's test domain among them.

    Raises:
        BundleError: if another bundle is there now.
    """
    bundle = open_bundle(teacher.bundle, teacher.digest)
    is_teacher = np.isin(np.arange(len(bundle.manifest.member)), teacher.members)
    is_sample = np.isin(np.arange(len(store.samples)), rows)
    probabilities = member_probabilities(
        bundle, _at_scale_of(bundle, store), np.outer(is_sample, is_teacher), device=device, threads=threads
    )
    means: NDArray[np.float32] = probabilities[rows][:, is_teacher].mean(axis=1, dtype=np.float32)
    return means


def _at_scale_of(bundle: Bundle, store: Store) -> Store:
    """Return the samples of a store, of whatever scale it is, at the scale of a bundle.

    Raises:
        InputError: if the crops are too coarse or too small.
    """
    manifest = bundle.manifest
    whole = open_checked_store(store.folder, store.attributes.digest)
    scaled = at_scale(whole, manifest.input, manifest.name, STAGE)
    if scaled.attributes.patch_px < (least_px := read_px(manifest.input.cut_px, manifest.ensemble.zooms)):
        raise InputError(
            f"its crops of {scaled.attributes.patch_px} px are smaller than the {least_px} px "
            f"of the teacher '{manifest.name}'",
            subject=store.folder,
            stage=STAGE,
            remedy="Build it from larger crops, or name another teacher",
        )
    return scaled
