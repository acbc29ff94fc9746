"""The networks on a GPU: time, memory, and what half precision and CUDA graphs change, on a machine without
a network (see gpu.sh).

usage: python tests/benchmarks/gpu.py pack STORE.zarr CROPS.npz BUNDLE...
       python tests/benchmarks/gpu.py forward CROPS.npz FOLDER BUNDLE...
       python tests/benchmarks/gpu.py compile CROPS.npz FOLDER BUNDLE
       python tests/benchmarks/gpu.py classify CROPS.npz FOLDER BUNDLE

`pack` writes every fourth crop of a store as JPEG, with the labels, and what a CPU computes for the crops as
they come out of the JPEG: a few MiB, which travel. The others print their tables as they go and write them to
FOLDER as JSON. What fails is printed, and the rest goes on. `classify` needs a slide reader as well.

The environment variables DEVICE (cuda), LIMIT (seconds after which nothing new is begun) and CROPS (how many
a round computes at most) change what is run.
"""

from __future__ import annotations

import copy
import functools
import gc
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from wsi_mitosis.core.voting import tally
from wsi_mitosis.io.bundles import Bundle, find_bundle, open_bundle
from wsi_mitosis.nets import members
from wsi_mitosis.nets.graphs import FixedBatches
from wsi_mitosis.nets.members import ATYPICAL, Ensemble

DEVICE = os.environ.get("DEVICE", "cuda")
ON_GPU = DEVICE.startswith("cuda")
STARTED = perf_counter()
LIMIT = float(os.environ.get("LIMIT", "60"))
CROPS = int(os.environ.get("CROPS", "2048"))
EVERY, QUALITY = 4, 92
ROUNDS, ROUND_SECONDS = 3, 0.3
SIDE_PX, CANDIDATES = 8000, 2000
TILE_PX = 400


def left() -> float:
    """Seconds in which something new may be begun."""
    return LIMIT - (perf_counter() - STARTED)


def say(*words: object) -> None:
    print(*words, flush=True)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Print what fails, and go on."""
    try:
        yield
    except Exception:  # noqa: BLE001  # each of the others is wanted all the same
        say(f"FAILED: {what}\n{traceback.format_exc(limit=-4)}")
        if ON_GPU:
            torch.cuda.empty_cache()


# -- what travels


def pack(store_folder: str, archive: str, *names: str) -> None:
    from wsi_mitosis.io.training.stores import open_store
    from wsi_mitosis.jobs.train import figures

    store = open_store(Path(store_folder))
    bundles = [open_bundle(find_bundle(name)) for name in names]
    ensembles = {b.manifest.name: Ensemble(b.manifest, b.read_members(), device="cpu") for b in bundles}
    side = max(ensemble.read_px for ensemble in ensembles.values())
    whole = figures(store, np.arange(0, len(store.samples), EVERY))
    files = [_jpeg(crop, optimize=True) for crop in centres(whole.images, side)]
    crops = _decoded(files)
    arrays: dict[str, Any] = {
        "crops": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
        "labels": whole.labels,
    }
    for name, ensemble in ensembles.items():
        started = perf_counter()
        parts = np.array_split(centres(crops, ensemble.read_px), max(1, len(crops) // 32))
        arrays[f"cpu/{name}"] = np.concatenate([ensemble.predict(part) for part in parts])
        say(f"{name}: {len(crops)} crops, {perf_counter() - started:.0f} s")
    np.savez(archive, **arrays)


def _jpeg(crop: NDArray[np.uint8], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=QUALITY, subsampling=0, **options)
    return file.getvalue()


def _decoded(files: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def centres(crops: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    first = (crops.shape[1] - side) // 2
    return np.ascontiguousarray(crops[:, first : first + side, first : first + side])


class Packed(NamedTuple):
    """Real figures, and P(atypical) of each member of a bundle as a CPU computes it."""

    crops: NDArray[np.uint8]
    cpu: dict[str, NDArray[np.float64]]

    @classmethod
    def read(cls, archive: str) -> Packed:
        packed = np.load(archive)
        data, ends = packed["crops"].tobytes(), packed["ends"]
        files = [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        names = [name for name in packed.files if name.startswith("cpu/")]
        return cls(_decoded(files), {name.removeprefix("cpu/"): packed[name] for name in names})

    def first(self, number: int) -> Packed:
        """The first figures; fewer only where a CPU tries the script."""
        return Packed(self.crops[:number], {name: cpu[:number] for name, cpu in self.cpu.items()})


# -- the ways to compute


class InRows(Ensemble):
    """Channels before pixels in memory, as torch has them by default."""

    def _seen(self, batch: Tensor) -> Iterator[Tensor]:
        for view in super()._seen(batch):
            yield view.contiguous()


class WithoutAutocast(nn.Module):
    """A member in half precision for vmap, which autocast does not reach into."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = member.backbone.encoder, member.head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images.half()).last.float())
        return logits


class Stacked(Ensemble):
    """Members of one network as one network whose convolutions have groups."""

    def _classify(self, pixels: Tensor) -> Tensor:
        seen = self._seen(members.from_bytes(pixels, self._manifest.input.scale))
        shares = []
        for images in seen:
            logits = torch.func.vmap(self.call, in_dims=(0, None))(self.parameters, images)
            shares.append(logits.double().softmax(dim=2)[:, :, ATYPICAL])
        return torch.stack(shares).mean(dim=0).T

    def stack(self) -> None:
        plain = [WithoutAutocast(member) for member in self._members]
        parameters, buffers = torch.func.stack_module_state(plain)
        self.parameters = {**parameters, **buffers}
        skeleton = copy.deepcopy(plain[0])
        self.call = lambda state, images: torch.func.functional_call(skeleton, state, (images,))


@contextmanager
def tf32() -> Iterator[None]:
    """Float32 products with 10 bits of each factor, on tensor cores."""
    torch.set_float32_matmul_precision("high")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield
    torch.set_float32_matmul_precision("highest")


@contextmanager
def autotuned() -> Iterator[None]:
    """Cudnn tries its algorithms and takes the fastest, which can be another one in each process."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
        yield


class Way(NamedTuple):
    """A way to compute."""

    name: str
    precision: str = "fp32"
    graphs: bool = False
    together: bool = False
    whole: bool = False
    kind: type[Ensemble] = Ensemble
    settings: Callable[[], Any] = members.full_float32


USUAL = (
    Way("fp32"),
    Way("fp32, graphs", graphs=True),
    Way("fp32, TF32", settings=tf32),
    Way("bf16", "bf16"),
    Way("fp16", "fp16"),
    Way("bf16, graphs", "bf16", graphs=True),
    Way("fp16, graphs", "fp16", graphs=True),
    Way("fp16, graphs, streams", "fp16", graphs=True, together=True),
    Way("fp16, graphs, streams, copies overlapped", "fp16", graphs=True, together=True, whole=True),
)
FEW = (USUAL[0], USUAL[1], USUAL[4], USUAL[6], USUAL[7])
TRIALS = (
    USUAL[0],
    USUAL[6],
    USUAL[7],
    Way("fp32, graphs, streams", graphs=True, together=True),
    Way("fp32, graphs, rows", graphs=True, kind=InRows),
    Way("fp16, graphs, rows", "fp16", graphs=True, kind=InRows),
    Way("fp16, graphs, stacked", "fp16", graphs=True, kind=Stacked),
    Way("fp32, autotuned", settings=autotuned),
    Way("fp16, graphs, autotuned", "fp16", graphs=True, settings=autotuned),
)


class Runner:
    """One way with one batch size, ready to be timed."""

    def __init__(self, way: Way, base: Ensemble, batch: int) -> None:
        self.way, self.batch, self.number = way, batch, batch
        self.seconds: list[float] = []
        self.found: NDArray[np.float64] | None = None
        one = copy.copy(base)
        one.__class__ = way.kind
        if way.kind is not Ensemble:
            one._members = copy.deepcopy(base._members)
        if isinstance(one, InRows):
            for member in one._members:
                member.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if isinstance(one, Stacked):
            one.stack()
        if way.together and ON_GPU:
            one._streams = [torch.cuda.Stream() for _ in one._members]
        if way.graphs:
            options: dict[str, Any] = {"device": DEVICE, "crop_px": one.read_px, "members": len(one._members)}
            one._replayed = FixedBatches(one._classify, sizes=(batch,), **options)
        self.ensemble = one

    def predict(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        usual, members.full_float32 = members.full_float32, self.way.settings
        try:
            step = len(crops) if self.way.whole else self.batch
            parts = [self.ensemble.predict(crops[i : i + step]) for i in range(0, len(crops), step)]
        finally:
            members.full_float32 = usual
        return np.concatenate(parts)

    def time(self, crops: NDArray[np.uint8]) -> None:
        many = crops[np.arange(self.number) % len(crops)]
        started = perf_counter()
        self.predict(many)
        self.seconds.append(perf_counter() - started)

    def warm(self, crops: NDArray[np.uint8]) -> None:
        """Compute all crops, which are compared, and then find out how many a round can have."""
        self.found = self.predict(crops)
        self.time(crops)
        rate = self.number / self.seconds.pop()
        most = int(min(CROPS, rate * ROUND_SECONDS))
        self.number = max(1, most // self.batch) * self.batch


def forward(archive: str, folder: str, *names: str) -> None:
    say_machine()
    packed = Packed.read(archive)
    if not ON_GPU:
        packed = packed.first(CROPS)
    rows: list[dict[str, Any]] = []
    groups = []
    for name in names:
        bundle = open_bundle(find_bundle(name))
        say(f"{name}: read at {perf_counter() - STARTED:.0f} s")
        bases: dict[str, Ensemble] = {}
        later = name != names[0]
        groups += [(3 * later, bundle, bases, 256, USUAL)]
        groups += [(1, bundle, bases, 256, TRIALS)] * (len(bundle.manifest.networks) == 1)
        groups += [(2 + 2 * later, bundle, bases, 64, FEW), (2 + 2 * later, bundle, bases, 1024, FEW)]
    groups.sort(key=lambda group: group[0])
    for index, group in enumerate(groups):
        _, bundle, bases, batch, ways = group
        batch = batch if ON_GPU else max(2, batch // 64)
        with guarded(f"{bundle.manifest.name}, {batch}"):
            rows += compare(packed, bundle, bases, batch, ways)
            (Path(folder) / "forward.json").write_text(json.dumps(rows, indent=1))
            if not index:
                profile(packed, bundle, bases, batch)


def compare(
    packed: Packed, bundle: Bundle, bases: dict[str, Ensemble], batch: int, ways: Sequence[Way]
) -> list[dict[str, Any]]:
    """Time the ways in turn; compare what they compute with float32, one crop after the other."""
    runners: list[Runner] = []
    name = bundle.manifest.name
    for way in ways:
        if left() < 5:
            say(f"no time for: {name}, {batch}, {way.name}")
            continue
        with guarded(f"{name}, {batch}, {way.name}"):
            if way.precision not in bases:
                states = bundle.read_members()
                bases[way.precision] = Ensemble(
                    bundle.manifest, states, device=DEVICE, precision=way.precision
                )
            runner = Runner(way, bases[way.precision], batch)
            crops = centres(packed.crops, runner.ensemble.read_px)
            runner.warm(crops)
            runners.append(runner)
    for _ in range(ROUNDS):
        for runner in runners:
            if left() > 1 or not runner.seconds:
                runner.time(crops)
    if not runners:
        return []
    say(
        f"\n{name}, batches of {batch}, {len(packed.crops)} real figures, at {perf_counter() - STARTED:.0f} s"
    )
    say(f"{'':42s} crops/s  times   rounds (crops/s)          dP fp32  votes labels   dP CPU  votes labels")
    whole = runners[0].found
    rows = [row(runner, runners[0], whole, packed.cpu.get(name), bundle) for runner in runners]
    if ON_GPU:
        say(f"GPU memory reserved: {torch.cuda.memory_reserved() / 2**30:.1f} GiB")
        del runner
        runners.clear()
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def row(
    runner: Runner,
    usual: Runner,
    whole: NDArray[np.float64],
    cpu: NDArray[np.float64] | None,
    bundle: Bundle,
) -> dict[str, Any]:
    rates = [runner.number / seconds for seconds in runner.seconds]
    rate, before = median(rates), usual.number / median(usual.seconds)
    threshold = bundle.manifest.ensemble.threshold

    def against(other: NDArray[np.float64] | None) -> tuple[float, int, int]:
        if other is None:
            return float("nan"), -1, -1
        votes = (runner.found >= threshold) != (other >= threshold)
        labels = tally(runner.found, threshold).is_atypical != tally(other, threshold).is_atypical
        return float(np.abs(runner.found - other).max()), int(votes.sum()), int(labels.sum())

    on_fp32, on_cpu = against(whole), against(cpu)
    shown = " ".join(f"{one:.0f}" for one in rates)
    differences = "  ".join(f"{d:8.1e} {v:5d} {n:5d}" for d, v, n in (on_fp32, on_cpu))
    say(f"{runner.way.name:42s} {rate:7.0f} {rate / before:5.2f}   {shown:24s} {differences}")
    return {
        "bundle": bundle.manifest.name,
        "batch": runner.batch,
        "way": runner.way.name,
        "crops_per_second": rates,
        "figures": len(whole),
        "against_fp32": on_fp32,
        "against_cpu": on_cpu,
    }


def profile(packed: Packed, bundle: Bundle, bases: dict[str, Ensemble], batch: int) -> None:
    """Print which kernels take the time of one batch."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * ON_GPU]
    for precision in ("fp32", "fp16"):
        if left() < 12 or precision not in bases:
            return
        crops = centres(packed.crops, bases[precision].read_px)[:batch]
        started = perf_counter()
        with profiled(activities=activities) as found:
            bases[precision].predict(crops)
        taken = perf_counter() - started
        wanted = DeviceType.CUDA if ON_GPU else DeviceType.CPU
        events = [event for event in found.key_averages() if event.device_type == wanted]
        part = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
        times = {event.key: getattr(event, part) for event in events}
        kernels = {event.key: event.count for event in events}
        total = sum(times.values())
        say(f"\n{bundle.manifest.name}, {precision}, a batch of {batch}: {taken * 1e3:.0f} ms when profiled,")
        say(f"of which kernels {total / 1e3:.1f} ms; the longest, ms, launches:")
        for key in sorted(times, key=lambda key: times[key], reverse=True)[:12]:
            say(f"{times[key] / 1e3:8.2f} {kernels[key]:6d}  {key[:110]}")


def compiled(archive: str, folder: str, name: str) -> None:
    """Time torch.compile on the members of one network, which share what is compiled."""
    packed = Packed.read(archive)
    bundle = open_bundle(find_bundle(name))
    batch = 256 if ON_GPU else 4
    packed = packed if ON_GPU else packed.first(CROPS)
    base = Ensemble(bundle.manifest, bundle.read_members(), device=DEVICE, precision="fp16")
    crops = centres(packed.crops, base.read_px)
    started = perf_counter()
    skeleton = copy.deepcopy(base._members[0])

    @functools.partial(torch.compile, dynamic=False)
    def call(state: dict[str, Tensor], images: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(skeleton, state, (images,))
        return found

    states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in base._members]
    usual = Runner(Way("fp16, graphs", "fp16", graphs=True), base, batch)
    base._members = [functools.partial(call, state) for state in states]
    runners = [usual, Runner(Way("fp16, compiled, graphs", "fp16", graphs=True), base, batch)]
    for runner in runners:
        runner.warm(crops)
        say(f"{runner.way.name}: ready at {perf_counter() - started:.0f} s")
    for _ in range(ROUNDS):
        for runner in runners:
            runner.time(crops)
    rows = [row(runner, usual, usual.found, packed.cpu.get(name), bundle) for runner in runners]
    (Path(folder) / "compile.json").write_text(json.dumps(rows, indent=1))


# -- a whole run


def classify(archive: str, folder: str, name: str) -> None:
    """Classify a slide of real figures by the command, in this process: as it is, and in half precision."""
    import pandas as pd

    from wsi_mitosis.jobs import ledger

    ledger.LIBRARIES = ("numpy", "pandas", "torch")  # Ray and TIAToolbox are not on such a machine
    place = Path(tempfile.mkdtemp())
    packed = Packed.read(archive)
    cells = mosaic(place / "mosaic.tiff", packed.crops)
    number = CANDIDATES if ON_GPU else 20
    chosen = cells[np.random.default_rng(0).permutation(len(cells))[:number]]
    pd.DataFrame(chosen, columns=["x", "y"]).to_csv(place / "mosaic.csv", index=False)
    say(f"slide written at {perf_counter() - STARTED:.0f} s")
    usual, labels = members.Ensemble, {}
    ways: dict[str, dict[str, Any]] = {
        "fp32": {},
        "fp32, graphs": {"graphs": True},
        "fp16, graphs, streams": {"precision": "fp16", "graphs": True, "together": True},
    }
    rows = []
    for way, options in ways.items():
        if left() < 5:
            say(f"no time for: {way}")
            continue
        with guarded(way):
            members.Ensemble = functools.partial(usual, **options)  # type: ignore[assignment,misc]
            out = place / "out"
            started = perf_counter()
            status = command(place, out, name)
            taken = perf_counter() - started
            lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            stages = [line for line in lines if line["event"] == "done"][-1]["stages"]
            figures = pd.read_parquet(next((out / "figures").glob("*.parquet")))
            labels[way] = figures["label"].to_numpy()
            differ = int((labels[way] != labels["fp32"]).sum())
            shown = {stage: round(seconds, 2) for stage, seconds in stages.items()}
            say(
                f"{way}: status {status}, {number} candidates, {taken:.1f} s, {shown}, {differ} labels differ"
            )
            rows.append({"way": way, "seconds": taken, "stages": stages, "labels_differ": differ})
            (Path(folder) / "classify.json").write_text(json.dumps(rows, indent=1))
    members.Ensemble = usual  # type: ignore[misc]
    shutil.rmtree(place)


def command(place: Path, out: Path, name: str) -> object:
    from wsi_mitosis.cli import main

    arguments = ["classify", str(place / "mosaic.tiff"), "--detections", str(place / "mosaic.csv")]
    options = ["--out", str(out), "--overwrite", "-q", "--workers", "0", "--device", DEVICE, "--model", name]
    try:
        return main([*arguments, *options], standalone_mode=False)
    except SystemExit as stopped:
        return stopped.code


def mosaic(path: Path, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Write a slide of JPEG tiles full of figures; return their centres, (N, 2) x and y in level-0 px."""
    import tifffile

    side = crops.shape[1]
    across = TILE_PX // side
    generator = np.random.default_rng(0)

    def tiles() -> Iterator[bytes]:
        for _ in range((SIDE_PX // TILE_PX) ** 2):
            shown = crops[generator.integers(0, len(crops), across * across)]
            grid = shown.reshape(across, across, side, side, 3).swapaxes(1, 2)
            tile = np.full((TILE_PX, TILE_PX, 3), 240, np.uint8)
            tile[: across * side, : across * side] = grid.reshape(across * side, across * side, 3)
            yield _jpeg(tile, keep_rgb=True)

    # tifffile takes compressed tiles as they are, but would need another package to call them JPEG
    tifffile.imwrite(
        path, tiles(), shape=(SIDE_PX, SIDE_PX, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX),
        compression="adobe_deflate", photometric="rgb", resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION.JPEG.value)
    inside = (np.arange(across) + 0.5) * side
    starts = np.arange(0, SIDE_PX, TILE_PX)
    along = (starts[:, None] + inside).ravel()
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def say_machine() -> None:
    say(f"torch {torch.__version__}, numpy {np.__version__}, {len(os.sched_getaffinity(0))} CPUs, {DEVICE}")
    if ON_GPU:
        free, total = torch.cuda.mem_get_info()
        say(f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free,")
        say(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")


VERBS: dict[str, Callable[..., None]] = {
    "pack": pack,
    "forward": forward,
    "compile": compiled,
    "classify": classify,
}


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in VERBS:
        sys.exit(__doc__)
    VERBS[sys.argv[1]](*sys.argv[2:])
