"""The training of one member, from the first epoch to the last; it reads from top to bottom.

After every epoch `train` gives a checkpoint. An epoch's randomness is seeded by the recipe's seed and the
epoch's number alone, so that a training that goes on from a checkpoint ends, on a CPU, as one that was never
broken.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.core.metrics import score
from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.augment import Crops, augment
from wsi_mitosis.nets.decoders import TrainedNetwork
from wsi_mitosis.nets.losses import Losses, Targets, balanced_weights, compute_losses
from wsi_mitosis.nets.members import ATYPICAL, Member, member_state, resolve_device
from wsi_mitosis.nets.optimisers import build_optimiser
from wsi_mitosis.nets.views import to_input, zoomed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.recipes import RecipeSpec

Precision = Literal["fp32", "bf16"]
WHITE = 255
PROBE, PROBES = 8, 5
"""Samples a step, and steps each, in the measurement of what bf16 costs."""
BF16_PAYS = 0.8
"""Of the time of fp32: less gain is noise."""
HOPELESS = 1.5
"""Of the time of fp32: a CPU that emulates bf16."""


@dataclass(frozen=True)
class Figures:
    """Labelled figures in memory.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, whole crops with the figure in the centre.
        masks: (N, S, S) uint8, 1 on the figure.
        has_mask: (N,) bool.
        labels: (N,) int64, 0 typical, 1 atypical.
        experts: (N,) float32, share of the experts who said atypical; the label where there were none.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    has_mask: NDArray[np.bool_]
    labels: NDArray[np.int64]
    experts: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of figures."""
        return len(self.labels)


@dataclass(frozen=True)
class Epoch:
    """What stands after an epoch.

    Attributes:
        number: From 1.
        metrics: Numbers by name: `learning_rate`, `seconds`, losses as `training_<name>`, and in an epoch
            that looks at the validation domain what `validate` gives.
        precision: What the steps were computed in.
        device: Where.
        chosen_epoch: Whose weights would be taken if it ended here.
        chosen: Those weights, arrays by name: the member alone, without decoders.
        checkpoint: All that `train` needs to go on from here, as bytes.
    """

    number: int
    metrics: dict[str, float]
    precision: Precision
    device: str
    chosen_epoch: int
    chosen: dict[str, NDArray[np.float32]]
    checkpoint: bytes


def train(
    training: Figures,
    validation: Figures,
    recipe: RecipeSpec,
    *,
    device: str = "auto",
    encoder: Mapping[str, Tensor] | None = None,
    checkpoint: bytes | None = None,
) -> Iterator[Epoch]:
    """Train one member.

    Args:
        training: What it learns from; the class weights are of these alone.
        validation: What the epoch is selected on.
        recipe: How.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        encoder: Initial weights of the encoder, of a recipe that wants them.
        checkpoint: Of an earlier epoch of the same training, to go on from.

    Yields:
        Each epoch when it is through.

    Raises:
        InputError: where there are fewer samples than a batch, initial weights are missing or not wanted, or
            the device does not exist.
        FloatingPointError: where the loss is no number any more.
    """
    _check(training, recipe, encoder)
    device = resolve_device(device)
    network = build_network(recipe, encoder).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(network, recipe.optimiser)
    steps = len(training) // recipe.optimiser.batch
    schedule = _schedule(optimiser, recipe, steps * recipe.optimiser.epochs)
    weights = balanced_weights(torch.from_numpy(training.labels)).to(device)
    saved = _read(checkpoint)
    if saved is None:
        precision = choose_precision(network, recipe, training, device)
        done, best, best_epoch, chosen = 0, float("inf"), 0, member_state(network.member)
    else:
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        precision, done = saved["precision"], saved["epoch"]
        best, best_epoch = saved["best"], saved["best_epoch"]
        chosen = {name: tensor.numpy() for name, tensor in saved["chosen"].items()}

    for epoch in range(done + 1, recipe.optimiser.epochs + 1):
        started, totals = perf_counter(), np.zeros(4)
        with _seeded(recipe.seed, epoch, device) as generator:
            network.train()
            order = torch.randperm(len(training), generator=generator).numpy()
            for step in range(steps):
                rows = order[step * recipe.optimiser.batch : (step + 1) * recipe.optimiser.batch]
                crops, targets = _batch(training, rows, recipe, device)  # (B, 3, S, S), (B, S, S)
                crops = augment(crops, recipe.augmentation, recipe.input.patch_px, generator)
                targets = targets._replace(masks=crops.masks.long())  # (B, P, P)
                with _autocast(device, precision):
                    outputs = network(_scaled(crops.images, recipe))
                losses = compute_losses(outputs, targets, weights, recipe.loss.dice)  # fp32
                total = _total(losses, recipe)
                optimiser.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                totals += [float(loss.detach()) for loss in (total, *losses)]
        if not np.isfinite(totals).all():
            raise FloatingPointError(f"epoch {epoch}: the training loss is no number any more")
        metrics = {"learning_rate": float(schedule.get_last_lr()[0]), **_named("training", totals / steps)}
        if epoch % recipe.selection.every == 0 or epoch == recipe.optimiser.epochs:
            metrics |= validate(network, validation, recipe, weights, device)
        metrics["seconds"] = perf_counter() - started
        if recipe.selection.epoch == "last" or metrics.get("validation_total", float("inf")) < best:
            best, best_epoch = metrics.get("validation_total", best), epoch
            chosen = member_state(network.member)
        state = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "chosen": {name: torch.from_numpy(array) for name, array in chosen.items()},
            "precision": precision,
            "epoch": epoch,
            "best": best,
            "best_epoch": best_epoch,
        }
        yield Epoch(epoch, metrics, precision, device, best_epoch, chosen, _written(state))


def build_network(recipe: RecipeSpec, encoder: Mapping[str, Tensor] | None = None) -> TrainedNetwork:
    """The network of a recipe before its first step; the same seed gives the same weights.

    Where no initial weights are given: convolutions after He et al. 2015 (normal, fan out), and the last one
    of each residual unit zero, so that a unit starts as the identity (as the zero gamma of Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", section 5.1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        member = Member(recipe.network.width, recipe.dropout)
        network = TrainedNetwork(member, recipe.decoders.channels if recipe.decoders else None)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for name, parameter in network.named_parameters():
            if name.endswith("conv3.weight"):
                nn.init.zeros_(parameter)
    if encoder is not None:
        member.backbone.load_state_dict(encoder, strict=False)  # all but batch norm's counters
    return network


def validate(
    network: TrainedNetwork, figures: Figures, recipe: RecipeSpec, class_weights: Tensor, device: str
) -> dict[str, float]:
    """Losses and scores on figures as they are, fp32, one view.

    Returns:
        `validation_total`, `validation_classification`, `validation_mask`, `validation_pixels`,
        `validation_balanced_accuracy` and `validation_auroc`.
    """
    network.eval()
    totals, probabilities = np.zeros(4), []
    with torch.inference_mode():
        for start in range(0, len(figures), recipe.optimiser.batch):
            rows = np.arange(start, min(start + recipe.optimiser.batch, len(figures)))
            crops, targets = _batch(figures, rows, recipe, device)
            patch_px = recipe.input.patch_px
            targets = targets._replace(masks=zoomed(crops.masks[:, None], 1, patch_px)[:, 0].long())
            outputs = network(_scaled(zoomed(crops.images, 1, patch_px), recipe))
            losses = compute_losses(outputs, targets, class_weights, recipe.loss.dice)
            totals += len(rows) * np.array([float(loss) for loss in (_total(losses, recipe), *losses)])
            probabilities.append(outputs.logits.double().softmax(dim=1)[:, ATYPICAL].cpu().numpy())
    p_atypical = np.concatenate(probabilities)
    scores = score(figures.labels, p_atypical >= recipe.ensemble.threshold, p_atypical)
    measured = {"balanced_accuracy": scores.balanced_accuracy, "auroc": scores.auroc}
    return _named("validation", totals / len(figures)) | {
        f"validation_{name}": float("nan") if value is None else value for name, value in measured.items()
    }


def choose_precision(network: TrainedNetwork, recipe: RecipeSpec, figures: Figures, device: str) -> Precision:
    """What to compute the steps in.

    Args:
        network: Left as it is.
        recipe: Its `precision`; `auto` is decided here.
        figures: Some of them are used for a measurement on a CPU.
        device: A GPU takes bf16 where it has it.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    rows = np.arange(min(PROBE, len(figures)))
    crops, _ = _batch(figures, rows, recipe, device)
    images = _scaled(zoomed(crops.images, 1, recipe.input.patch_px), recipe)
    trial = copy.deepcopy(network).train()
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(PROBES):  # in turn: the machine may have other work
        for precision, taken in seconds.items():
            taken.append(_step_seconds(trial, images, precision))
        if min(seconds["bf16"]) > HOPELESS * min(seconds["fp32"]):
            break
    return "bf16" if min(seconds["bf16"]) < BF16_PAYS * min(seconds["fp32"]) else "fp32"


def _step_seconds(network: TrainedNetwork, images: Tensor, precision: Precision) -> float:
    started = perf_counter()
    with torch.random.fork_rng(devices=[]), _autocast("cpu", precision):
        outputs = network(images)
    torch.stack([part.float().sum() for part in outputs if part is not None]).sum().backward()  # type: ignore[no-untyped-call]
    return perf_counter() - started


def _check(training: Figures, recipe: RecipeSpec, encoder: Mapping[str, Tensor] | None) -> None:
    if len(training) < recipe.optimiser.batch:
        raise InputError(
            f"{len(training)} training samples are fewer than a batch of {recipe.optimiser.batch}",
            subject=recipe.name,
            stage="training",
            remedy="Lower the recipe's optimiser.batch, or train on more figures",
        )
    if (encoder is not None) != (recipe.initial_weights == "given"):
        raise InputError(
            "the recipe starts from given weights, and none are given"
            if encoder is None
            else "the recipe starts from random weights, and others are given",
            subject=recipe.name,
            stage="training",
            remedy="--encoder-weights names them; the recipe's initial_weights says whether they are wanted",
        )


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: RecipeSpec, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.optimiser.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)
    total = steps + 1  # it is asked once more after the last step
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.optimiser.learning_rate,
        total_steps=total,
        pct_start=max(recipe.optimiser.warm_up, 2 / total),  # it divides by a warm-up of one step less one
        cycle_momentum=False,
    )


def _batch(
    figures: Figures, rows: NDArray[np.intp], recipe: RecipeSpec, device: str
) -> tuple[Crops, Targets]:
    """Whole crops, images in 0..1, and their targets; the masks are those of the whole crops."""
    images = to_input(figures.images[rows], WHITE, device)
    masks = torch.from_numpy(figures.masks[rows]).to(device)
    labels = torch.from_numpy(figures.labels[rows]).to(device)
    experts = torch.from_numpy(figures.experts[rows]).to(device)
    share = recipe.loss.experts_share
    has_mask = torch.from_numpy(figures.has_mask[rows]).to(device)
    return Crops(images, masks), Targets(labels, (1 - share) * labels + share * experts, masks, has_mask)


def _scaled(images: Tensor, recipe: RecipeSpec) -> Tensor:
    """From 0..1 to what the network sees, channels-last."""
    scaled = images if recipe.input.scale == WHITE else images * (WHITE / recipe.input.scale)
    return scaled.contiguous(memory_format=torch.channels_last)


def _total(losses: Losses, recipe: RecipeSpec) -> Tensor:
    weights = recipe.loss.classification, recipe.loss.mask, recipe.loss.pixels
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def _named(side: str, totals: NDArray[np.float64]) -> dict[str, float]:
    names = ("total", *Losses._fields)
    return {f"{side}_{name}": float(value) for name, value in zip(names, totals, strict=True)}


def _autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def _seeded(seed: int, epoch: int, device: str) -> Iterator[torch.Generator]:
    """A generator for one epoch; torch's own (dropout) is seeded too, and as it was after it."""
    drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(drawn)
        yield torch.Generator().manual_seed(drawn)


def _written(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _read(checkpoint: bytes | None) -> dict[str, Any] | None:
    """On the CPU: what loads it puts each tensor where its own are, and Adam keeps its step counts there."""
    if checkpoint is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    return state
