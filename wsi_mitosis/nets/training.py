"""The training of one member.

`train` yields a checkpoint after every epoch. The randomness of an epoch is seeded by the recipe's seed and
the number of the epoch alone. On a CPU, a training that continues from a checkpoint therefore ends with the
same weights as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from wsi_mitosis.core.metrics import score
from wsi_mitosis.core.voting import ATYPICAL
from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.batches import Batches, Figures, moved, whole_crops
from wsi_mitosis.nets.decoders import TrainedNetwork
from wsi_mitosis.nets.devices import resolve_device
from wsi_mitosis.nets.losses import Losses, balanced_weights, compute_losses
from wsi_mitosis.nets.members import Member, load_weights, member_state
from wsi_mitosis.nets.optimisers import build_optimiser
from wsi_mitosis.nets.steps import Precision, Trainer, autocast, scaled, total_loss
from wsi_mitosis.nets.views import zoomed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from wsi_mitosis.recipes import RecipeSpec

PROBE, PROBES = 8, 5
"""Samples per step, and steps with each precision, in the measurement of the time of bf16."""
BF16_PAYS = 0.8
"""Share of the time of fp32 below which bf16 is used. A smaller gain is noise."""
HOPELESS = 1.5
"""Multiple of the time of fp32 above which the measurement ends: the CPU emulates bf16."""


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    Attributes:
        number: Number of the epoch, from 1.
        metrics: Values by name: `learning_rate`, `seconds`, mean losses as `training_<name>`, and the result
            of `validate` if the epoch was validated.
        precision: Precision of the steps.
        device: Device of the steps.
        chosen_epoch: The epoch whose weights would be chosen if the training ended here.
        chosen: These weights, arrays by name: the member alone, without decoders.
        checkpoint: Everything that `train` needs to continue from here; empty if `train` was to make none.
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
    member: Mapping[str, NDArray[np.floating]] | None = None,
    checkpoint: bytes | None = None,
    checkpoints: bool = True,
) -> Iterator[Epoch]:
    """Train one member.

    Args:
        training: The figures to learn from. The class weights are computed from these alone.
        validation: The figures on which the epoch is selected.
        recipe: The training recipe.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        encoder: Initial weights of the encoder, by name and of its shapes, if the recipe starts from them.
        member: Initial weights of the whole member, as a bundle stores them, if the recipe starts from a
            bundle. The statistics of batch norm then stay as they are.
        checkpoint: The checkpoint of an earlier epoch of the same training, to continue from.
        checkpoints: Whether each epoch has a checkpoint, which takes time and three times the weights' bytes.

    Yields:
        Each epoch when it is finished.

    Raises:
        InputError: If there are fewer samples than a batch, the initial weights do not fit the recipe, or the
            device does not exist.
        FloatingPointError: If the loss is not a finite number.
    """
    _check(training, recipe, encoder, member)
    device = resolve_device(device)
    state = _start(training, recipe, device, encoder, member)
    weights = balanced_weights(torch.from_numpy(training.labels)).to(device)
    if checkpoint is None:
        state.precision = choose_precision(state.network, recipe, training, device)
    else:
        state.restore(checkpoint)
    trainer = Trainer(state.network, state.optimiser, recipe, weights, state.precision, device)
    processes = 0 if device == "cpu" else torch.get_num_threads()
    batches = Batches(training, recipe, state.epoch + 1, processes)
    epochs = recipe.optimiser.epochs
    for epoch in range(state.epoch + 1, epochs + 1):
        started = perf_counter()
        metrics = _train_epoch(state, epoch, batches, recipe, trainer, device)
        if epoch % recipe.selection.every == 0 or epoch == epochs:
            metrics |= validate(state.network, validation, recipe, weights, device)
        metrics["seconds"] = perf_counter() - started
        state.select(epoch, metrics, recipe)
        saved = state.checkpoint() if checkpoints else b""
        yield Epoch(epoch, metrics, state.precision, device, state.best_epoch, state.chosen, saved)


def is_checkpoint(content: bytes) -> bool:
    """Return whether a checkpoint is whole: it is not if its file was cut, as when a disk was full."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch and zipfile raise many kinds
        return False
    return True


@dataclass
class _State:
    """Everything that changes during a training, and goes into its checkpoints.

    Attributes:
        epoch: Number of epochs that are finished.
        best: The lowest total loss on the validation domain so far.
        best_epoch: The epoch whose weights are `chosen`.
        chosen: Weights of the member without decoders, arrays by name.
    """

    network: TrainedNetwork
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    chosen: dict[str, NDArray[np.float32]]
    precision: Precision = "fp32"
    epoch: int = 0
    best: float = float("inf")
    best_epoch: int = 0

    def select(self, epoch: int, metrics: Mapping[str, float], recipe: RecipeSpec) -> None:
        """Choose the weights of the epoch that has just finished, if the recipe selects them."""
        self.epoch = epoch
        if recipe.selection.epoch == "last" or metrics.get("validation_total", float("inf")) < self.best:
            self.best, self.best_epoch = metrics.get("validation_total", self.best), epoch
            self.chosen = member_state(self.network.member)

    def checkpoint(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "chosen": {name: torch.from_numpy(array) for name, array in self.chosen.items()},
                "precision": self.precision,
                "epoch": self.epoch,
                "best": self.best,
                "best_epoch": self.best_epoch,
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        # On the CPU: each state moves its tensors to its own device, and Adam keeps its step counts there.
        saved: dict[str, Any] = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"] = group["lr"].to(group["params"][0].device)
        self.schedule.load_state_dict(saved["schedule"])
        self.chosen = {name: tensor.numpy() for name, tensor in saved["chosen"].items()}
        self.precision, self.epoch = saved["precision"], saved["epoch"]
        self.best, self.best_epoch = saved["best"], saved["best_epoch"]


def _start(
    training: Figures,
    recipe: RecipeSpec,
    device: str,
    encoder: Mapping[str, Tensor] | None,
    member: Mapping[str, NDArray[np.floating]] | None,
) -> _State:
    known = training.subtypes
    built = build_network(recipe, encoder, subtypes=0 if known is None else known.shape[1])
    if member is not None:
        load_weights(built.member, member)
    network = built.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(network, recipe.optimiser)
    steps = len(training) // recipe.optimiser.batch
    schedule = _schedule(optimiser, recipe, steps * recipe.optimiser.epochs)
    return _State(network, optimiser, schedule, member_state(network.member))


def _train_epoch(
    state: _State, epoch: int, batches: Batches, recipe: RecipeSpec, trainer: Trainer, device: str
) -> dict[str, float]:
    """Train for one epoch; return its `learning_rate` and mean losses, `training_<name>`."""
    state.network.train()
    if recipe.initial_weights == "bundle":
        _keep_statistics(state.network)
    with _seeded(recipe.seed, epoch, device):
        for batch in batches.epoch():
            trainer.step(batch)
            state.schedule.step()
    losses = trainer.mean_losses()
    if not np.isfinite(losses).all():
        raise FloatingPointError(f"epoch {epoch}: the training loss is not a finite number")
    learning_rate = float(state.schedule.get_last_lr()[0])
    return {"learning_rate": learning_rate, **_named("training", losses)}


def _keep_statistics(network: nn.Module) -> None:
    """Let batch norm use its statistics as it does outside training, and not change them.

    Those of a few batches of one laboratory would replace what thousands of figures gave. Source: Keras's
    guide "Transfer learning & fine-tuning" (keras.io/guides/transfer_learning), which keeps batch norm in
    inference mode during fine-tuning.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def build_network(
    recipe: RecipeSpec, encoder: Mapping[str, Tensor] | None = None, *, subtypes: int = 0
) -> TrainedNetwork:
    """Build the network of a recipe. The same seed gives the same weights.

    Without initial weights, convolutions start after He et al. 2015 (normal, fan out). The last convolution
    of each residual unit is zero, so that a unit starts as the identity (like the zero gamma of Goyal et al.
    2017, "Accurate, Large Minibatch SGD", section 5.1).

    Args:
        recipe: The training recipe.
        encoder: Initial weights of the encoder by name, without batch norm's counters.
        subtypes: Number of subtypes that figures have, for a recipe that learns them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        member = Member(recipe.network, recipe.dropout, recipe.drop_path)
        channels = recipe.decoders.channels if recipe.decoders else None
        learnt = subtypes if recipe.loss.subtypes else 0
        network = TrainedNetwork(
            member, channels, recipe.input.cut_px, subtypes=learnt, dropout=recipe.dropout
        )
        own = recipe.network.timm_name is None  # timm has started its own encoder
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and (own or not name.startswith("member.backbone.")):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for name, parameter in network.named_parameters():
            if own and name.endswith("conv3.weight"):
                nn.init.zeros_(parameter)
    if encoder is not None:
        backbone = cast("nn.Module", member.backbone)
        backbone.load_state_dict(encoder, strict=False)  # all but batch norm's counters
    return network


def validate(
    network: TrainedNetwork, figures: Figures, recipe: RecipeSpec, class_weights: Tensor, device: str
) -> dict[str, float]:
    """Compute losses and scores on the figures without augmentation, in fp32, with one view.

    `class_weights` has the shape (2,): typical, atypical.

    Returns:
        `validation_total`, `validation_classification`, `validation_mask`, `validation_pixels`,
        `validation_subtypes`, `validation_balanced_accuracy` and `validation_auroc`.
    """
    network.eval()
    totals, probabilities = np.zeros(1 + len(Losses._fields)), []
    with torch.inference_mode():
        for start in range(0, len(figures), recipe.optimiser.batch):
            rows = np.arange(start, min(start + recipe.optimiser.batch, len(figures)))
            images, targets = moved(whole_crops(figures, rows, recipe), device)
            cut_px = recipe.input.cut_px
            targets = targets._replace(masks=zoomed(targets.masks[:, None], 1, cut_px)[:, 0].long())
            outputs = network(scaled(zoomed(images, 1, cut_px), recipe))
            losses = compute_losses(outputs, targets, class_weights, recipe.loss.dice)
            totals += len(rows) * np.array([float(loss) for loss in (total_loss(losses, recipe), *losses)])
            probabilities.append(outputs.logits.double().softmax(dim=1)[:, ATYPICAL].cpu().numpy())
    p_atypical = np.concatenate(probabilities)
    scores = score(figures.labels, p_atypical >= recipe.ensemble.threshold, p_atypical)
    measured = {"balanced_accuracy": scores.balanced_accuracy, "auroc": scores.auroc}
    return _named("validation", totals / len(figures)) | {
        f"validation_{name}": float("nan") if value is None else value for name, value in measured.items()
    }


def choose_precision(network: TrainedNetwork, recipe: RecipeSpec, figures: Figures, device: str) -> Precision:
    """Choose the precision of the steps: the recipe's, or for `auto` the faster one.

    Args:
        network: The network; it is not changed.
        recipe: The training recipe.
        figures: A CPU measures the time of a few steps on some of them.
        device: A GPU uses bf16 if it supports it.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    rows = np.arange(min(PROBE, len(figures)))
    images = scaled(zoomed(whole_crops(figures, rows, recipe).images, 1, recipe.input.cut_px), recipe)
    trial = copy.deepcopy(network).train()
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(PROBES):  # in turn, because other programs may use the CPU as well
        for precision, taken in seconds.items():
            taken.append(_step_seconds(trial, images, precision))
        if min(seconds["bf16"]) > HOPELESS * min(seconds["fp32"]):
            break
    return "bf16" if min(seconds["bf16"]) < BF16_PAYS * min(seconds["fp32"]) else "fp32"


def _step_seconds(network: TrainedNetwork, images: Tensor, precision: Precision) -> float:
    started = perf_counter()
    with torch.random.fork_rng(devices=[]), autocast("cpu", precision):
        outputs = network(images)
    torch.stack([part.float().sum() for part in outputs if part is not None]).sum().backward()  # type: ignore[no-untyped-call]
    return perf_counter() - started


def _check(
    training: Figures,
    recipe: RecipeSpec,
    encoder: Mapping[str, Tensor] | None,
    member: Mapping[str, NDArray[np.floating]] | None,
) -> None:
    if len(training) < recipe.optimiser.batch:
        raise InputError(
            f"{len(training)} training samples are fewer than a batch of {recipe.optimiser.batch}",
            subject=recipe.name,
            stage="training",
            remedy="Lower optimiser.batch in the recipe, or train on more figures",
        )
    if (training.taught is None) == (recipe.loss.teacher_share > 0):
        raise InputError(
            f"the recipe has a teacher_share of {recipe.loss.teacher_share:g}, "
            f"and there is {'no' if training.taught is None else 'a'} teacher",
            subject=recipe.name,
            stage="training",
            remedy="Pass --teacher if, and only if, the recipe has a teacher_share above 0",
        )
    if recipe.loss.subtypes and training.subtypes is None:
        raise InputError(
            "the recipe learns subtypes, and no figure has any",
            subject=recipe.name,
            stage="training",
            remedy="Train on a dataset with subtypes, such as AMi-Br, or set subtypes to 0",
        )
    if (member is None) == (recipe.initial_weights == "bundle"):
        raise InputError(
            "a recipe starts from a bundle's member if, and only if, there is one",
            subject=recipe.name,
            stage="training",
            remedy="Pass --from, and leave out initial_weights = 'bundle'",
        )
    if (encoder is None) != (recipe.initial_weights in {"random", "bundle"}):
        raise InputError(
            f"the recipe starts from {recipe.initial_weights} weights, but there are none"
            if encoder is None
            else "the recipe starts from random weights, but weights were given",
            subject=recipe.name,
            stage="training",
            remedy="Pass --encoder-weights if, and only if, the recipe has initial_weights = 'given'",
        )


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: RecipeSpec, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.optimiser.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)
    total = steps + 1  # the schedule is stepped once more after the last step
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[float(group["lr"]) for group in optimiser.param_groups],
        total_steps=total,
        pct_start=max(
            recipe.optimiser.warm_up, 2 / total
        ),  # OneCycleLR divides by the warm-up steps less one
        cycle_momentum=False,
    )


def _named(side: str, totals: NDArray[np.float64]) -> dict[str, float]:
    names = ("total", *Losses._fields)
    return {f"{side}_{name}": float(value) for name, value in zip(names, totals, strict=True)}


@contextlib.contextmanager
def _seeded(seed: int, epoch: int, device: str) -> Iterator[None]:
    """Seed torch's own generator, for dropout, for one epoch. It is restored at the end."""
    drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(drawn)
        yield
