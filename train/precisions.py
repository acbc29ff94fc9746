"""How many labels of a bundle change where a CPU computes in bfloat16, and whether it may be offered.

    python train/precisions.py BUNDLE STORE.zarr...

prints the comparison with float32. If at most 1 of 200 labels changes, and AUROC by less than .002,
`[bfloat16]` in the bundle's manifest says so, and `classify --precision bf16` accepts the bundle. The time of
both is measured in turns, batch by batch, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.metrics import score
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import WsiMitosisError
from wsi_mitosis.io.bundles import find_bundle, open_bundle, write_table
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.io.training.stores import open_checked_store
from wsi_mitosis.jobs.calibrate import figures_sha256
from wsi_mitosis.jobs.scale import at_scale
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.specs import Bfloat16Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wsi_mitosis.io.bundles import Bundle
    from wsi_mitosis.io.training.stores import Store
    from wsi_mitosis.tables import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
AT_ONCE = 128


def main() -> None:
    """Compare a bundle's labels in both precisions."""
    parser = argparse.ArgumentParser(description="Compare a bundle's labels in bfloat16 with float32.")
    parser.add_argument("bundle")
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE.zarr")
    arguments = parser.parse_args()
    try:
        bundle = open_bundle(find_bundle(arguments.bundle))
        stores = [open_checked_store(path) for path in arguments.stores]
        found = compare(bundle, stores)
        written = write_table(bundle, "bfloat16", found)
    except WsiMitosisError as error:
        raise SystemExit(f"precisions.py: {error}") from error
    print(f"{written.folder}: digest {written.digest}")


def compare(bundle: Bundle, stores: list[Store]) -> Bfloat16Spec:
    """Classify all samples in both precisions, and print how they differ.

    Raises:
        InputError: If the samples cannot be used, this CPU does not compute in bfloat16, or too much changes.
    """
    manifest, states = bundle.manifest, bundle.read_members()
    ensembles = {
        precision: Ensemble(
            manifest,
            states,
            device="cpu",
            threads=granted_cpus(),
            precision=precision,
            backend="openvino",
            files=user_files(),
        )
        for precision in PRECISIONS
    }
    scaled = [at_scale(store, manifest.input, manifest.name, "comparing precisions") for store in stores]
    parts: dict[Precision, list[NDArray[np.float64]]] = {precision: [] for precision in PRECISIONS}
    seconds = dict.fromkeys(PRECISIONS, 0.0)
    for crops in _crops(scaled, ensembles["fp32"].read_px, manifest.name):
        for precision, ensemble in ensembles.items():
            started = perf_counter()
            parts[precision].append(ensemble.predict(crops))
            seconds[precision] += perf_counter() - started
    whole, half = (np.concatenate(parts[precision]) for precision in PRECISIONS)
    threshold = manifest.ensemble.threshold
    labels = np.concatenate([store.samples["label"].to_numpy(np.int64) for store in stores])
    digests = [digest for store in stores for digest in store.samples["digest"]]
    votes = [tally(found, threshold) for found in (whole, half)]
    scores = [score(labels, vote.is_atypical, vote.p_atypical) for vote in votes]
    changed = int((votes[0].is_atypical != votes[1].is_atypical).sum())
    print(
        f"{len(labels)} figures: {changed} labels ({changed / len(labels):.2%}) and "
        f"{((whole >= threshold) != (half >= threshold)).sum()} of {whole.size} votes change; "
        f"P(atypical) of a member by {np.abs(whole - half).max():.3f} at most"
    )
    for precision, one in zip(PRECISIONS, scores, strict=True):
        print(
            f"{precision}: {1000 * seconds[precision] / len(labels):.0f} ms a figure, "
            f"balanced accuracy {one.balanced_accuracy:.4f}, AUROC {one.auroc:.4f}"
        )
    fields = {
        "figures": len(labels),
        "changed": changed,
        "auroc": scores[1].auroc,
        "auroc_float32": scores[0].auroc,
        "figures_sha256": figures_sha256(digests),
    }
    return Bfloat16Spec.parse(fields, "[bfloat16]")


def _crops(stores: list[Store], side_px: int, name: str) -> Iterator[NDArray[np.uint8]]:
    for store in stores:
        for start in range(0, len(store.samples), AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, len(store.samples)))
            yield cut_centres(store.images(rows), side_px, name)


if __name__ == "__main__":
    main()
