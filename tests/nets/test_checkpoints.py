from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.networks import preact
from wsi_mitosis.errors import InputError
from wsi_mitosis.nets.backbone import Backbone
from wsi_mitosis.nets.checkpoints import load_encoder

WIDTH = 2


@pytest.fixture(scope="module")
def network() -> Backbone:
    torch.manual_seed(1)
    return Backbone(WIDTH)


@pytest.fixture(scope="module")
def published(network: Backbone) -> dict[str, torch.Tensor]:
    """An encoder with what else is in HoVer-Net's files."""
    return {
        **network.state_dict(),
        "conv_bot.weight": torch.zeros(1),
        "decoder.np.u0.conv.bias": torch.zeros(2),
    }


def parallel(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(lambda s: {"desc": s, "optimizer": {"state": {}}}, id="hovernet tar"),
        pytest.param(lambda s: {"desc": parallel(s)}, id="hovernet tar, trained on several GPUs"),
        pytest.param(lambda s: s, id="tiatoolbox pth"),
        pytest.param(
            lambda s: {n: t for n, t in s.items() if "num_batches" not in n}, id="no batch counters"
        ),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_kind_of_file_gives_the_encoder(
    tmp_path: Path, network: Backbone, published: dict[str, Any], wrapped: Any, legacy: bool
) -> None:
    path = tmp_path / "weights.tar"
    torch.save(wrapped(published), path, _use_new_zipfile_serialization=not legacy)
    found = load_encoder(path, preact(WIDTH))
    assert len(found) == 249
    other = Backbone(WIDTH)
    other.load_state_dict(found)
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(other.eval()(images).d3, network.eval()(images).d3)


def test_half_precision_becomes_float32(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    torch.save({name: tensor.half() for name, tensor in published.items()}, tmp_path / "w.pth")
    found = load_encoder(tmp_path / "w.pth", preact(WIDTH))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_missing_tensors_are_counted_and_named(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    torch.save(
        {n: t for n, t in published.items() if not n.startswith("d3.units.2.conv")}, tmp_path / "w.pth"
    )
    with pytest.raises(
        InputError,
        match=r"11 of the encoder's 249 tensors are missing, such as 'd3\.units\.2\.conv1\.weight'",
    ):
        load_encoder(tmp_path / "w.pth", preact(WIDTH))


def test_another_width_is_told_by_its_shapes(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    torch.save(published, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match=r"249 tensors do not fit .* width 4, .*: 'conv0\./\.weight' is \(2, 3, 7, 7\)"
    ):
        load_encoder(tmp_path / "w.pth", preact(4))


class Payload:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "wrap", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data, protocol=2))]
)
def test_code_in_a_pickle_is_not_run(tmp_path: Path, wrap: Any) -> None:
    ran = tmp_path / "ran"
    wrap({"desc": Payload(ran)}, tmp_path / "w.tar")
    with pytest.raises(InputError, match="Nothing in it was run"):
        load_encoder(tmp_path / "w.tar", preact(WIDTH))
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: importing encoder weights"):
        load_encoder(tmp_path / "w.pth", preact(WIDTH))


def test_a_missing_file_and_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_encoder(tmp_path / "none.pth", preact(WIDTH))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="it has no state dict"):
        load_encoder(tmp_path / "list.pth", preact(WIDTH))
