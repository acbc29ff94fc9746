"""`--vote early` beside `--vote all`, on real figures."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from PIL import Image

from tests.benchmarks.bench import Bench
from tests.benchmarks.pairs import Facts, VoidError
from tests.benchmarks.work import data
from wsi_mitosis.core.geometry import cut_centres
from wsi_mitosis.core.voting import tally
from wsi_mitosis.io.bundles import find_bundle, open_bundle
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.jobs.classifier import CPU_BATCH, EARLY_BATCH
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.tables import Vote


def main(bench: Bench) -> None:
    folder = data("patches", "AMi-Br")
    if folder is None:
        print("not measured, because WSI_MITOSIS_DATA is not set or lacks patches/AMi-Br")
        return
    paths = sorted(folder.glob("*/*.png"))
    chosen = np.random.default_rng(0).permutation(len(paths))[: bench.size(256, 4)]
    crops = np.stack([np.asarray(Image.open(paths[row]).convert("RGB")) for row in chosen])
    for model in ("amibr-lite2", "amibr-lite0", "amibr-nano"):
        _compare(bench, model, crops)


def _compare(bench: Bench, model: str, crops: np.ndarray) -> None:
    bundle = open_bundle(find_bundle(model))
    states, threshold = bundle.read_members(), bundle.manifest.ensemble.threshold
    votes: tuple[Vote, ...] = ("early", "all")
    ensembles = {
        vote: Ensemble(bundle.manifest, states, device="cpu", backend="auto", vote=vote, files=user_files())
        for vote in votes
    }
    labels: dict[str, np.ndarray] = {}
    asked: dict[str, str] = {}

    def way(vote: Vote) -> float:
        ensemble = ensembles[vote]
        cut = np.ascontiguousarray(cut_centres(crops, ensemble.read_px, model))
        started = perf_counter()
        at_once = EARLY_BATCH if vote == "early" else CPU_BATCH
        found = [ensemble.predict(cut[first : first + at_once]) for first in range(0, len(cut), at_once)]
        seconds = perf_counter() - started
        probabilities = np.concatenate(found)
        labels[vote] = tally(probabilities, threshold).is_atypical
        asked[f"--vote {vote}"] = f"{np.isfinite(probabilities).mean():.1%}"
        if len({labels.tobytes() for labels in labels.values()}) > 1:
            raise VoidError("the labels differ")
        return seconds

    ways = {f"--vote {vote}": lambda vote=vote: way(vote) for vote in votes}
    result = bench.compare(
        f"{model}: real figures of AMi-Br", ways, work=(len(crops), "figure"), rounds=(3, 1)
    )
    bench.write(result, f"voting-{model}")
    bench.write(Facts(f"{model}: share of the members that are asked", asked), f"voting-{model}-asked")
