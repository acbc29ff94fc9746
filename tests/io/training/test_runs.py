"""A fold's folder: what is kept of an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_mitosis.io.training.runs import FoldFolder

MEMBER = {"w": np.ones(2, dtype=np.float32)}


def test_an_epoch_that_is_done_again_takes_the_place_of_what_a_kill_left(tmp_path: Path) -> None:
    """Killed between the second epoch's metrics and its checkpoint, the second is trained again."""
    folder = FoldFolder(tmp_path, "a" * 64)
    folder.write_epoch({"epoch": 1, "loss": 3.0}, MEMBER, b"one")
    folder.write_epoch({"epoch": 2, "loss": 2.0}, MEMBER, b"lost")
    folder.write_epoch({"epoch": 2, "loss": 1.0}, MEMBER, b"two")
    assert folder.read_metrics()[["epoch", "loss"]].values.tolist() == [[1, 3], [2, 1]]
    assert folder.read_checkpoint() == b"two"


def test_a_checkpoint_of_another_key_is_neither_read_nor_kept(tmp_path: Path) -> None:
    FoldFolder(tmp_path, "a" * 64).write_epoch({"epoch": 1}, MEMBER, b"old")
    other = FoldFolder(tmp_path, "b" * 64)
    assert other.read_checkpoint() is None
    other.write_epoch({"epoch": 1}, MEMBER, b"new")
    assert [path.read_bytes() for path in tmp_path.glob("checkpoint-*.pt")] == [b"new"]
