"""The folder in which folds are trained: finished folds, checkpoints, and curves.

::

    plan.csv
    <fold>/checkpoint-<key>.pt      while it trains
           metrics.csv              a row per epoch
           events.out.tfevents.*    the same for TensorBoard
           member.safetensors       the member without decoders, float16, as it would be taken now
           curves.png, fold.json    when it is done; the record is written last
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsi_mitosis.errors import UNWRITABLE, OutputError, SpecError
from wsi_mitosis.io.atomic import replacing, write_text
from wsi_mitosis.io.bundles import pack_weights
from wsi_mitosis.io.csv_files import read_rows, write_frame
from wsi_mitosis.io.digests import file_sha256
from wsi_mitosis.io.pipelines import read_settings
from wsi_mitosis.io.shipped import names, shipped
from wsi_mitosis.recipes import FoldRecord, RecipeSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

MEMBER, RECORD, METRICS, CURVES, PLAN = (
    "member.safetensors",
    "fold.json",
    "metrics.csv",
    "curves.png",
    "plan.csv",
)


def read_recipe(recipe: str) -> RecipeSpec:
    """Read a recipe.

    Args:
        recipe: A TOML file, or the bare name of a shipped one.

    Raises:
        SpecError: if there is no such recipe, or its keys are not those of `RecipeSpec`.
    """
    path = Path(recipe)
    if not path.is_file():
        path = shipped("train") / f"{path.name.removesuffix('.toml')}.toml"
        if Path(recipe).name != recipe or not path.is_file():
            raise SpecError(
                "no such recipe",
                subject=recipe,
                remedy=f"Name a TOML file, or a shipped one: {', '.join(names('train'))}",
            )
    return RecipeSpec.parse_toml(read_settings(path), path)


@dataclass(frozen=True)
class FoldFolder:
    """One fold's folder.

    Attributes:
        folder: Where it lies; made when something is written.
        key: Of all that decides the fold's weights. What was left under another key is passed over.
    """

    folder: Path
    key: str

    @property
    def checkpoint(self) -> Path:
        """The file of the checkpoint under this key."""
        return self.folder / f"checkpoint-{self.key[:16]}.pt"

    def read_record(self) -> FoldRecord | None:
        """Return the fold's record if it is done under this key and its weights are unchanged; else None."""
        path = self.folder / RECORD
        if not path.is_file():
            return None
        record = FoldRecord.parse_json(read_settings(path), path)
        if record.key != self.key or not (self.folder / MEMBER).is_file():
            return None
        return record if self.member_sha256() == record.sha256 else None

    def read_member(self) -> dict[str, NDArray[np.floating]]:
        """The member's weights as stored, arrays by name, float16."""
        from safetensors.numpy import load

        return dict(load((self.folder / MEMBER).read_bytes()))

    def read_checkpoint(self) -> bytes | None:
        """What the fold goes on from; None at its start."""
        return self.checkpoint.read_bytes() if self.checkpoint.is_file() else None

    def read_metrics(self, until: int | None = None) -> pd.DataFrame:
        """A row per epoch, at most as far as `until`; empty before the first."""
        path = self.folder / METRICS
        if not path.is_file():
            return pd.DataFrame({"epoch": pd.Series(dtype="int64")})
        table = pd.DataFrame({name: _numbers(texts) for name, texts in pd.DataFrame(read_rows(path)).items()})
        return table if until is None else table[table["epoch"] <= until]

    def write_epoch(
        self, metrics: Mapping[str, Any], member: Mapping[str, NDArray[np.floating]], checkpoint: bytes
    ) -> None:
        """Keep an epoch: its metrics, the member as it would be taken now, then the checkpoint, which counts.

        Args:
            metrics: `epoch`, from 1, and whatever was measured.
            member: Weights by name; stored as float16.
            checkpoint: What the next epoch goes on from.

        Raises:
            BundleError: if a weight does not fit float16.
        """
        before = self.read_metrics(until=int(metrics["epoch"]) - 1)
        table = pd.DataFrame([*before.to_dict("records"), metrics]).map(_six_digits)
        write_frame(self.folder / METRICS, table)
        _write_bytes(self.folder / MEMBER, pack_weights(member, str(self.folder / MEMBER)))
        _write_bytes(self.checkpoint, checkpoint)
        for other in self.folder.glob("checkpoint-*.pt"):
            if other != self.checkpoint:
                other.unlink()

    def write_record(self, record: FoldRecord) -> None:
        """Say that the fold is done; its checkpoint is not needed any more."""
        draw_curves(self.read_metrics(), record.fold, self.folder / CURVES)
        write_text(self.folder / RECORD, record.model_dump_json(indent=2) + "\n")
        self.checkpoint.unlink(missing_ok=True)

    def member_sha256(self) -> str:
        """SHA-256 of the member's file."""
        return file_sha256(self.folder / MEMBER)


def _numbers(texts: pd.Series[Any]) -> pd.Series[Any]:
    """A column of `metrics.csv`: numbers, NaN for empty cells; unchanged if a text is not a number."""
    try:
        return pd.to_numeric(texts)
    except ValueError:
        return texts


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class TensorBoard:
    """A fold's metrics as TensorBoard reads them. Use it as a context manager.

    It writes at once, without the thread and queue of tensorboardX's `SummaryWriter`: a signal that comes
    while that one takes its lock leaves a process that never ends.

    Args:
        folder: The fold's; made if needed.
        done: Epochs that earlier runs wrote; what they wrote after those is marked as void.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event = Event
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(file_version="brain.Event:2")
        if done:
            self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()

    def write(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """One point on each curve; `training_total` becomes `training/total`."""
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            side, _, rest = name.partition("_")
            tag = f"{side}/{rest}" if side in {"training", "validation"} else name
            self._write(step=epoch, summary=scalar(tag, value))

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()


def draw_curves(metrics: pd.DataFrame, title: str, path: Path) -> None:
    """Losses of both sides and the validation's scores over the epochs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    looked = metrics[metrics["validation_total"].notna()]
    for side, of_side, style in (("training", metrics, "--"), ("validation", looked, "-")):
        for colour, name in enumerate(("total", "classification", "mask", "pixels")):
            values = of_side[f"{side}_{name}"]
            if values.any():
                losses.plot(of_side["epoch"], values, style, color=f"C{colour}", label=f"{side} {name}")
    for name in ("balanced_accuracy", "auroc"):
        scores.plot(looked["epoch"], looked[f"validation_{name}"], label=name.replace("_", " "))
    losses.set(xlabel="epoch", ylabel="loss", title=title)
    scores.set(xlabel="epoch", ylabel="validation domain", ylim=(0.4, 1.0))
    losses.legend(fontsize="x-small")
    scores.legend(fontsize="small")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))  # type: ignore[no-untyped-call]


def prepare_folder(folder: Path, plan: pd.DataFrame) -> None:
    """Make the folder of a training and keep its plan.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        write_frame(folder / PLAN, plan)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            subject=folder,
            stage="preparing the training",
            remedy=UNWRITABLE,
        ) from error
