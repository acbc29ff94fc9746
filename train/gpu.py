"""Train the members of a plan on one GPU, on a machine that has no network and little room for files.

usage: python train/gpu.py pack PLAN STORE.zarr ARCHIVE.npz
       python train/gpu.py train PLAN ARCHIVE.npz FOLDER [DEVICE] [SECONDS]
       python train/gpu.py collect FOLDER OUT [TRAINING ...]
       python train/gpu.py bundle PLAN TRAINING STORE.zarr FOLDER BUNDLE

A plan is a TOML file with a table `[[training]]` for each training (see `Training`), or the name of a recipe,
whose folds are then trained. `pack` writes the central crops of a store as JPEG, the masks, and the weights
that encoders start from, in half precision, into one file: 45 MiB for AMi-Br with `lite0` and `lite2`.
`train` trains one member after the other and writes each in half precision, with its answers for the figures
that it has not seen. Several processes may share a folder: each takes what none has begun. `collect` puts
the answers of all, and the members of the trainings that are named, into few files. `bundle` makes a bundle
of a training's members, where the store is.

`train` needs torch, timm, pandas, pillow, pydantic and safetensors.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import time
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from wsi_mitosis.core.folds import slugs
from wsi_mitosis.io.training.runs import read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from wsi_mitosis.nets.batches import Figures
    from wsi_mitosis.recipes import RecipeSpec

CROP_PX = 104
"""Side of the crops that travel. What rotations need beyond is mirrored."""
QUALITY = 96
"""Quality of their JPEG, whose colour is not halved."""
FILE_BYTES = 16 * 2**20
"""Largest file that `collect` writes."""
AT_ONCE = 512
"""Figures that are classified at once."""


@dataclass(frozen=True)
class Training:
    """A table of a plan.

    Attributes:
        name: Name of its folder.
        recipe: Name of the recipe.
        seed: Seed, instead of the recipe's.
        left_out: Number of domains that each member has not seen: a member for each choice of that many.
        epochs: Epochs, if not the recipe's.
        taught_by: Trainings that leave out one domain more. Their members' answers are part of the targets: a
            figure's are those of the members that have seen neither its domain nor the domains left out here.
        teacher_share: Share of these answers in the targets.
    """

    name: str
    recipe: str
    seed: int = 0
    left_out: int = 1
    epochs: int | None = None
    taught_by: tuple[str, ...] = ()
    teacher_share: float = 0.5

    def spec(self) -> RecipeSpec:
        """Return the recipe."""
        recipe = read_recipe(self.recipe)
        epochs = self.epochs or recipe.optimiser.epochs
        optimiser = recipe.optimiser.model_copy(update={"epochs": epochs})
        selection = recipe.selection.model_copy(update={"every": epochs})
        share = {"teacher_share": self.teacher_share} if self.taught_by else {}
        return recipe.model_copy(
            update={
                "seed": self.seed,
                "optimiser": optimiser,
                "selection": selection,
                "loss": recipe.loss.model_copy(update=share),
            }
        )


def read_plan(name: str) -> list[Training]:
    """Read a plan, or make the plan of a recipe."""
    if not Path(name).is_file() or "training" not in (data := tomllib.loads(Path(name).read_text("utf-8"))):
        return [Training(read_recipe(name).name, name, read_recipe(name).seed)]
    tables: list[dict[str, Any]] = data["training"]
    return [Training(**{**table, "taught_by": tuple(table.get("taught_by", ()))}) for table in tables]


def pack(plan: str, store_folder: Path, archive: Path) -> None:
    """Write what the trainings need into one file."""
    from wsi_mitosis.io.training.encoders import packaged_weights
    from wsi_mitosis.io.training.stores import open_checked_store
    from wsi_mitosis.jobs.train import figures
    from wsi_mitosis.nets.checkpoints import load_encoder

    store = open_checked_store(store_folder)
    whole = figures(store, np.arange(len(store.samples)))
    side = min(CROP_PX, whole.images.shape[1])
    start = (whole.images.shape[1] - side) // 2
    centre = slice(start, start + side)
    files = [_jpeg(crop[centre, centre]) for crop in whole.images]
    arrays: dict[str, Any] = {
        "crops": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
        "masks": np.packbits(whole.masks[:, centre, centre], axis=-1),
        "has_mask": whole.has_mask,
        "labels": whole.labels,
        "experts": whole.experts,
        "subtypes": np.zeros((len(store.samples), 0), "f4") if whole.subtypes is None else whole.subtypes,
        "domains": store.samples["domain"].to_numpy().astype(str),
    }
    for training in read_plan(plan):
        recipe = read_recipe(training.recipe)
        name = recipe.network.timm_name
        if recipe.initial_weights == "package" and name is not None:
            weights = load_encoder(packaged_weights(name).path, recipe.network)
            arrays |= {
                f"encoder/{name}/{key}": tensor.numpy().astype("f2") for key, tensor in weights.items()
            }
    np.savez_compressed(archive, **arrays)


def train(plan: str, archive: Path, folder: Path, device: str = "cuda", seconds: str = "inf") -> None:
    """Train what nobody has begun, in the order of the plan, until the time is up."""
    started, longest = time.monotonic(), 0.0
    packed, trainings = np.load(archive), read_plan(plan)
    whole, domains = figures_of(packed), packed["domains"]
    for training in trainings:
        (folder / training.name).mkdir(parents=True, exist_ok=True)
        for left_out in itertools.combinations(sorted(set(domains)), training.left_out):
            if time.monotonic() - started + longest > float(seconds):
                return
            path = folder / training.name / f"{joined(left_out, domains)}.safetensors"
            if path.exists() or not _claimed(path.with_suffix(".claim")):
                continue
            begun = time.monotonic()
            seen = ~np.isin(domains, left_out)
            taught = _taught(training, whole, domains, left_out, folder)
            trained = _member(training, taught, seen, packed, device)
            auroc = _answers(trained, path, training, whole, np.flatnonzero(~seen), device)
            longest = max(longest, time.monotonic() - begun)
            print(f"{training.name} {path.stem} {auroc} {time.monotonic() - begun:.1f} s", flush=True)


def _member(
    training: Training, figures: Figures, seen: NDArray[np.bool_], packed: Mapping[str, Any], device: str
) -> dict[str, NDArray[np.floating]]:
    """Train a member; return its weights in half precision."""
    import torch

    from wsi_mitosis.nets.training import train as train_member

    recipe = training.spec()
    rows, unseen = np.flatnonzero(seen), np.flatnonzero(~seen)
    start = f"encoder/{recipe.network.timm_name}/"
    encoder = {
        name.removeprefix(start): torch.from_numpy(packed[name].astype("f4"))
        for name in packed
        if name.startswith(start)
    }
    epochs = train_member(
        _rows(figures, rows),
        replace(_rows(figures, unseen), taught=None),
        recipe,
        device=device,
        encoder=encoder or None,
        checkpoints=False,
    )
    for epoch in epochs:
        if epoch.number in (1, 2, recipe.optimiser.epochs):
            print(json.dumps({"epoch": epoch.number, **epoch.metrics}), flush=True)
    # safetensors writes an array in the order of its memory.
    return {name: np.ascontiguousarray(array, dtype=np.float16) for name, array in epoch.chosen.items()}


def _answers(
    weights: Mapping[str, NDArray[np.floating]],
    path: Path,
    training: Training,
    figures: Figures,
    rows: NDArray[np.intp],
    device: str,
) -> str:
    """Write a member and its answers for figures; return its AUROC on them, in words."""
    import torch
    from safetensors.numpy import save_file

    from wsi_mitosis.core.metrics import score
    from wsi_mitosis.nets.members import full_float32, load_member
    from wsi_mitosis.nets.views import network_input, to_input, views, zoomed

    recipe = training.spec()
    member = load_member(weights, recipe.network, path).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = []
    with torch.inference_mode(), full_float32():
        for some in np.array_split(rows, max(1, len(rows) // AT_ONCE)):
            cut = zoomed(to_input(figures.images[some], recipe.input.scale, device), 1, recipe.input.cut_px)
            seen = (
                view.contiguous(memory_format=torch.channels_last)
                for view in views(network_input(cut, recipe.input), "d4")
            )
            parts.append(torch.stack([member(view).softmax(1)[:, 1] for view in seen], 1).cpu().numpy())
    p_atypical = np.concatenate(parts)  # (N, 8)
    np.savez(path.with_suffix(".npz"), rows=rows, p_atypical=p_atypical)
    save_file(dict(weights), path)
    mean = p_atypical.mean(axis=1)
    return f"AUROC {score(figures.labels[rows], mean >= 0.5, mean).auroc:.3f}"


def _taught(
    training: Training, figures: Figures, domains: NDArray[Any], left_out: Sequence[str], folder: Path
) -> Figures:
    """The figures with the teachers' answers, which no figure of the domains left out has."""
    if not training.taught_by:
        return figures
    taught = np.full(len(figures), np.nan, dtype=np.float32)
    for domain in sorted(set(domains) - set(left_out)):
        name = joined({*left_out, domain}, domains)
        answers = [_waited_for(folder / teacher / f"{name}.npz") for teacher in training.taught_by]
        of_domain = [part["p_atypical"][domains[part["rows"]] == domain].mean(axis=1) for part in answers]
        taught[domains == domain] = np.mean(of_domain, axis=0)
    return replace(figures, taught=taught)


def _waited_for(path: Path) -> Mapping[str, Any]:
    """Open what another process may be writing."""
    while not path.with_suffix(".safetensors").exists():  # which is written last
        time.sleep(0.2)
    found: Mapping[str, Any] = np.load(path)
    return found


def _claimed(path: Path) -> bool:
    """Whether this process is the first to take a member."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def collect(folder: Path, out: Path, *names: str) -> None:
    """Write the answers of all trainings, and the members of some, into few files."""
    from safetensors.numpy import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    answers = {}
    for path in sorted(folder.glob("*/*.npz")):
        found = np.load(path)
        answers[f"{path.parent.name}/{path.stem}/rows"] = found["rows"].astype("i4")
        answers[f"{path.parent.name}/{path.stem}/p_atypical"] = found["p_atypical"].astype("f4")
    np.savez_compressed(out / "answers.npz", **answers)
    waiting: dict[str, NDArray[Any]] = {}
    files = itertools.count()
    for name in names:
        for path in sorted((folder / name).glob("*.safetensors")):
            member = {f"{name}/{path.stem}/{key}": array for key, array in load_file(path).items()}
            if waiting and _bytes(waiting) + _bytes(member) > 0.98 * FILE_BYTES:
                save_file(waiting, out / f"members-{next(files)}.safetensors")
                waiting = {}
            waiting |= member
    if waiting:
        save_file(waiting, out / f"members-{next(files)}.safetensors")


def members_of(folder: Path, training: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the collected members of a training, weights by name, by what they have not seen."""
    from safetensors.numpy import load_file

    members: dict[str, dict[str, NDArray[Any]]] = {}
    for path in sorted(folder.glob("members-*.safetensors")):
        for key, array in load_file(path).items():
            name, left_out, weights = key.split("/", 2)
            if name == training:
                members.setdefault(left_out, {})[weights] = array
    return members


def bundle(plan: str, name: str, store_folder: Path, folder: Path, out: Path) -> None:
    """Make a bundle of the collected members of a training that leaves out one domain each."""
    from wsi_mitosis.io.training.stores import open_checked_store
    from wsi_mitosis.jobs.train import bundle_of_states

    training = next(training for training in read_plan(plan) if training.name == name)
    recipe, store = training.spec(), open_checked_store(store_folder)
    members = members_of(folder, name)
    domains = sorted(set(store.samples["domain"]))
    states = {domain: members[joined([domain], domains)] for domain in domains}
    origin = f"Trained by `{recipe.name}` on a GPU, by `train/gpu.py`."
    bundle_of_states(out, recipe, store, states, licence=store.attributes.licence, origin=origin)


def figures_of(packed: Mapping[str, NDArray[Any]]) -> Figures:
    """Return the figures of an archive."""
    from wsi_mitosis.nets.batches import Figures

    files, ends = packed["crops"].tobytes(), packed["ends"]
    parts = [files[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    crops = np.stack([np.asarray(Image.open(io.BytesIO(part))) for part in parts])
    masks = np.unpackbits(packed["masks"], axis=-1)[..., : crops.shape[2]]
    subtypes = packed["subtypes"] if packed["subtypes"].shape[1] else None
    columns = packed["has_mask"], packed["labels"], packed["experts"]
    return Figures(crops, masks, *columns, subtypes=subtypes)


def joined(left_out: Iterable[str], domains: Iterable[str]) -> str:
    """Return the name of the member that has not seen some of the domains."""
    every = sorted(set(domains))
    names = dict(zip(every, slugs(every), strict=True))
    return "+".join(names[domain] for domain in sorted(left_out))


def _bytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _jpeg(crop: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _rows(figures: Figures, rows: NDArray[np.intp]) -> Figures:
    parts = {part.name: getattr(figures, part.name) for part in fields(figures)}
    return replace(figures, **{name: part[rows] for name, part in parts.items() if part is not None})


def main(verb: str, *words: str) -> None:
    """Do what the command line says."""
    verbs = {"pack": pack, "train": train, "collect": collect, "bundle": bundle}
    strings = {"pack": 1, "train": 1, "collect": 0, "bundle": 2}
    if verb not in verbs:
        sys.exit(__doc__)
    paths = 2 if verb in ("train", "collect") else len(words)
    first = strings[verb]
    arguments = [Path(word) if first <= number < first + paths else word for number, word in enumerate(words)]
    verbs[verb](*arguments)  # type: ignore[operator]


if __name__ == "__main__":
    main(*sys.argv[1:])
