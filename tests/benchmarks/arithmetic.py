"""The networks alone, above the time of their arithmetic at the CPU's best rate of matrix products."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.bench import Bench
from tests.benchmarks.pairs import Facts, Way
from tests.benchmarks.peers.common import BundleModel
from tests.benchmarks.work import FULL_WIDTH, bundle_folder
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.compiled_files import user_files
from wsi_mitosis.io.processors import granted_cpus
from wsi_mitosis.nets.compiled import openvino
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.untrained import stained_noise

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
"""How OpenVINO computes the members in fp32."""
PRODUCT = 2048
"""Side of the square matrices whose product gives the rate."""
TRIES = 5
CROPS = {"amibr-lite2": 32, "amibr-lite0": 64, "amibr-nano": 32, FULL_WIDTH: 4}
ROUNDS = 3


def main(bench: Bench) -> None:
    sizes = {"untrained-tiny": 2} if bench.quick else CROPS
    for name, number in sizes.items():
        _compare(bench, open_bundle(bundle_folder(name, bench.folder)), number)


def _compare(bench: Bench, bundle: Bundle, number: int) -> None:
    name, threads = bundle.manifest.name, granted_cpus()
    states = bundle.read_members()
    ours = Ensemble(
        bundle.manifest, states, device="cpu", backend="openvino", threads=threads, files=user_files()
    )
    ours_torch = Ensemble(bundle.manifest, states, device="cpu", backend="torch", threads=threads)
    peer = BundleModel(bundle.folder).eval()
    crops = stained_noise(number, ours.read_px)
    flops = number * _flops(peer, crops[:1])
    rates = {way: rate() for way, rate in RATES.items()}
    ways: dict[str, Way] = {
        "the arithmetic at the best rate": lambda: flops / max(rate() for rate in RATES.values()),
        "OpenVINO": partial(_seconds, ours.predict, crops),
        "torch, as --backend torch": partial(_seconds, ours_torch.predict, crops),
        "torch, as the peers": partial(_seconds, partial(_classify, peer), crops),
    }
    for way in ways.values():
        way()  # allocates, and fills caches
    facts = {f"{way}, GFLOP/s": f"{rate / 1e9:.0f}" for way, rate in rates.items()}
    facts["GFLOP of a figure, all members and views"] = f"{flops / number / 1e9:.2f}"
    bench.write(Facts(f"{name}: arithmetic in float32, {threads} threads", facts), f"arithmetic-{name}-floor")
    result = bench.compare(f"{name}: the networks alone", ways, work=(number, "figure"), rounds=(ROUNDS, 1))
    bench.write(result, f"arithmetic-{name}")


def _seconds(classify: Any, crops: np.ndarray) -> float:
    started = perf_counter()
    classify(crops)
    return perf_counter() - started


def _classify(model: BundleModel, crops: np.ndarray) -> None:
    with torch.inference_mode():
        model(torch.from_numpy(crops))


def _flops(model: BundleModel, crop: np.ndarray) -> int:
    """Return the floating point operations for a crop: two for each product of a convolution or a matrix."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.from_numpy(crop))
    return int(counter.get_total_flops())


def _rate_of_torch() -> float:
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    return _best(lambda: left @ right)


def _rate_of_openvino() -> float:
    library = openvino()
    left = library.opset13.parameter([PRODUCT, PRODUCT], np.float32)
    right = library.opset13.constant(np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32))
    model = library.Model([library.opset13.matmul(left, right, False, False)], [left])
    request = library.Core().compile_model(model, "CPU", FLOAT32).create_infer_request()
    value = np.random.default_rng(1).random((PRODUCT, PRODUCT), np.float32)
    return _best(lambda: request.infer({0: value}, share_inputs=True))


def _best(product: Any) -> float:
    """Return the operations per second of the fastest product."""
    product()
    return 2 * PRODUCT**3 / min(_seconds(lambda _: product(), value) for value in [np.empty(0)] * TRIES)


RATES = {"a product of matrices by torch": _rate_of_torch, "by OpenVINO": _rate_of_openvino}
