"""TIAToolbox's networks and their weights. Importing it takes tens of seconds."""

from __future__ import annotations

import hashlib
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.checkpoints import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def quietly() -> Iterator[None]:
    """An import of TIAToolbox that changes nothing for others.

    It gives the root logger handlers where it has none, one of them on stdout, turns warnings into log
    lines, and its dependencies warn of one another.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)


def fetch_weights(model: str, stage: str, remedy: str) -> Path:
    """TIAToolbox's weights from its hub, or from where it put them before; this goes online.

    Args:
        model: Its name for them.
        stage: What is being done, for messages.
        remedy: What to give instead, for messages.

    Raises:
        InputError: where they cannot be had.
    """
    with quietly():
        from huggingface_hub.errors import EntryNotFoundError
        from tiatoolbox.models import architecture
    try:
        return Path(architecture.fetch_pretrained_weights(model))
    except (OSError, EntryNotFoundError) as error:  # the hub's other errors are OSErrors
        cause = f"cannot be fetched ({type(error).__name__}): {str(error).partition(chr(10))[0][:200]}"
        raise InputError(cause, subject=f"{model}.pth", stage=stage, remedy=remedy) from error


def with_weights(
    network: nn.Module, path: Path, stage: str, remedy: str, *, assign: bool = False
) -> nn.Module:
    """A network with a file's weights.

    TIAToolbox's own loader would unpickle the file with torch's defaults; ours never runs code.

    Args:
        network: Is given them.
        path: A checkpoint.
        stage: What is being done, for messages.
        remedy: What to give instead, for messages.
        assign: Take the file's tensors instead of copying them: for a network without memory of its own.

    Raises:
        InputError: where the file cannot be read, holds code, or does not fit the network.
    """
    state = read_state_dict(path, stage, remedy)
    try:
        nn.Module.load_state_dict(network, state, assign=assign)
    except RuntimeError as error:
        cause = f"does not fit the network: {' '.join(str(error).split())[:200]}"
        raise InputError(cause, subject=path, stage=stage, remedy=remedy) from error
    return network


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
