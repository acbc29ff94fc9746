"""The networks on a GPU beside a CPU: time, memory, and what TF32 and half precision change (see gpu.sh).

usage: python tests/benchmarks/gpu.py pack STORE.zarr CROPS.npz BUNDLE...   (on any machine with the data)
       python tests/benchmarks/gpu.py forward CROPS.npz BUNDLE              (on the machine with the GPU)
       python tests/benchmarks/gpu.py classify CROPS.npz BUNDLE

`pack` writes every fourth crop of a store as JPEG, and what a CPU computes for the crops as they come out of
the JPEG: a few MiB, which travel. `forward` times the networks alone and compares them with the CPU.
`classify` classifies a slide of such crops by the command.

It needs torch with CUDA, a GPU with about 6 GiB free (more for batches of 1,024), and OpenSlide and tifffile
for the slide; neither a network, Ray nor TIAToolbox. The environment variables DEVICE (cuda) and CROPS (how
many are computed at most) change what is run. On a CPU, which tries the script, batches are 64 times smaller,
and half precision is left out.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wsi_mitosis.core.voting import tally
from wsi_mitosis.io.bundles import find_bundle, open_bundle
from wsi_mitosis.nets import eager
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.tables import Precision

DEVICE = os.environ.get("DEVICE", "cuda")
ON_GPU = DEVICE.startswith("cuda")
CROPS = int(os.environ.get("CROPS", "2048"))
EVERY, QUALITY, ROUNDS = 4, 92, 3
BATCHES = (256, 1024, 64)
SIDE_PX, TILE_PX, CANDIDATES = 8000, 400, 2000


def pack(store_folder: str, archive: str, *names: str) -> None:
    from wsi_mitosis.io.training.stores import open_store
    from wsi_mitosis.jobs.train import figures

    store = open_store(Path(store_folder))
    ensembles = {name: ensemble_of(name, "cpu") for name in names}
    side = max(ensemble.read_px for ensemble in ensembles.values())
    chosen = np.arange(0, len(store.samples), EVERY)[:CROPS]
    files = [jpeg(crop, optimize=True) for crop in centres(figures(store, chosen).images, side)]
    arrays = {"crops": np.frombuffer(b"".join(files), np.uint8), "ends": np.cumsum([len(f) for f in files])}
    crops = decoded(files)
    for name, ensemble in ensembles.items():
        arrays[f"cpu/{name}"] = predicted(ensemble, centres(crops, ensemble.read_px), 32)
    np.savez(archive, **arrays)


def ensemble_of(name: str, device: str, precision: Precision = "fp32") -> Ensemble:
    bundle = open_bundle(find_bundle(name))
    return Ensemble(bundle.manifest, bundle.read_members(), device=device, precision=precision)


def predicted(ensemble: Ensemble, crops: NDArray[np.uint8], batch: int) -> NDArray[np.float64]:
    return np.concatenate([ensemble.predict(crops[i : i + batch]) for i in range(0, len(crops), batch)])


def jpeg(crop: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=QUALITY, subsampling=0, **options)
    return file.getvalue()


def decoded(files: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def unpacked(archive: str) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]]]:
    """Return the crops, and P(atypical) of each bundle's members as a CPU computes it."""
    packed = np.load(archive)
    data, ends = packed["crops"].tobytes(), packed["ends"][:CROPS]
    crops = decoded([data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)])
    return crops, {key[4:]: packed[key][:CROPS] for key in packed.files if key.startswith("cpu/")}


def centres(crops: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    first = (crops.shape[1] - side) // 2
    return np.ascontiguousarray(crops[:, first : first + side, first : first + side])


@contextmanager
def tf32() -> Iterator[None]:
    """Float32 products with 10 bits of each factor, on tensor cores."""
    torch.set_float32_matmul_precision("high")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield
    torch.set_float32_matmul_precision("highest")


WAYS: dict[str, tuple[Precision, Callable[[], Any]]] = {
    "fp32": ("fp32", eager.full_float32),
    **({"fp16": ("fp16", eager.full_float32)} if ON_GPU else {}),
    "TF32": ("fp32", tf32),
}


def forward(archive: str, name: str) -> None:
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if ON_GPU else DEVICE}", flush=True)
    crops, cpu = unpacked(archive)
    threshold = open_bundle(find_bundle(name)).manifest.ensemble.threshold
    ensembles = {precision: ensemble_of(name, DEVICE, precision) for precision, _ in WAYS.values()}
    crops = centres(crops, ensembles["fp32"].read_px)
    print(f"{name}, {len(crops)} real figures; against the CPU: largest difference of P, votes, labels")
    for batch in BATCHES if ON_GPU else [size // 64 for size in BATCHES]:
        usual = 0.0
        for way, (precision, settings) in WAYS.items():
            found, rates = timed(ensembles[precision], settings, crops, batch)
            usual = usual or median(rates)
            rounds = f"{' '.join(f'{rate:.0f}' for rate in rates)} crops/s, {median(rates) / usual:.2f} times"
            against = differences(found, cpu[name], threshold)
            print(f"{batch:5d}  {way}  {rounds}, {against}", flush=True)
        if ON_GPU:
            print(f"GPU memory reserved: {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB", flush=True)


def timed(
    ensemble: Ensemble, settings: Callable[[], Any], crops: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float64], list[float]]:
    """Return what is computed for the crops, and the crops/s of each round, all of full batches."""
    usual, eager.full_float32 = eager.full_float32, settings
    try:
        found = predicted(ensemble, crops, batch)
        many = crops[np.arange(-(-len(crops) // batch) * batch) % len(crops)]
        rates = []
        for _ in range(ROUNDS):
            started = perf_counter()
            predicted(ensemble, many, batch)
            rates.append(len(many) / (perf_counter() - started))
    finally:
        eager.full_float32 = usual
    return found, rates


def differences(found: NDArray[np.float64], other: NDArray[np.float64], threshold: float) -> str:
    votes = (found >= threshold) != (other >= threshold)
    labels = tally(found, threshold).is_atypical != tally(other, threshold).is_atypical
    return f"{np.abs(found - other).max():.1e} {votes.sum()}/{votes.size} {labels.sum()}"


def classify(archive: str, name: str) -> None:
    """Classify a slide of real figures by the command, in this process."""
    import pandas as pd

    from wsi_mitosis.cli import main
    from wsi_mitosis.jobs import ledger

    ledger.LIBRARIES = ("numpy", "pandas", "torch")  # such a machine need not have Ray and TIAToolbox
    crops, _ = unpacked(archive)
    labels = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cells = mosaic(place / "a.tiff", crops)
        chosen = np.random.default_rng(0).permutation(len(cells))[: CANDIDATES if ON_GPU else CROPS]
        pd.DataFrame(cells[chosen], columns=["x", "y"]).to_csv(place / "a.csv", index=False)
        for precision in dict.fromkeys(precision for precision, _ in WAYS.values()):
            out, started = place / precision, perf_counter()
            inputs = f"classify {place}/a.tiff --detections {place}/a.csv --out {out}"
            options = f"--model {name} --device {DEVICE} --precision {precision} --workers 0 -q"
            with suppress(SystemExit):  # a failure is printed
                main([*inputs.split(), *options.split()])
            taken = perf_counter() - started
            lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            stages = next(line["stages"] for line in lines if line["event"] == "done")
            shown = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())
            labels[precision] = pd.read_parquet(out / "figures")["label"].to_numpy()
            differ = (labels[precision] != labels["fp32"]).sum()
            against = "" if precision == "fp32" else f", {differ} labels differ from fp32"
            print(f"{precision}: {taken:.1f} s ({shown}), {len(chosen)} candidates{against}", flush=True)


def mosaic(path: Path, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Write a slide of JPEG tiles full of figures; return their centres, (N, 2) x and y in level-0 px."""
    import tifffile

    side, across = crops.shape[1], TILE_PX // crops.shape[1]
    generator = np.random.default_rng(0)

    def tiles() -> Iterator[bytes]:
        for _ in range((SIDE_PX // TILE_PX) ** 2):
            shown = crops[generator.integers(0, len(crops), across * across)]
            grid = shown.reshape(across, across, side, side, 3).swapaxes(1, 2)
            tile = np.full((TILE_PX, TILE_PX, 3), 240, np.uint8)
            tile[: across * side, : across * side] = grid.reshape(across * side, across * side, 3)
            yield jpeg(tile, keep_rgb=True)

    # tifffile takes compressed tiles as they are, but would need another package to call them JPEG
    tifffile.imwrite(
        path, tiles(), shape=(SIDE_PX, SIDE_PX, 3), dtype=np.uint8, tile=(TILE_PX,) * 2, photometric="rgb",
        compression="adobe_deflate", resolution=(40_000, 40_000), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION.JPEG.value)
    starts = np.arange(0, SIDE_PX, TILE_PX)
    along = (starts[:, None] + (np.arange(across) + 0.5) * side).ravel()
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {"pack": pack, "forward": forward, "classify": classify}
    if len(sys.argv) < 4 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]](*sys.argv[2:])
