"""NuClick's inputs and outputs, with weights made up here; TIAToolbox's network and clean-up are its own."""

from __future__ import annotations

import hashlib
import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_mitosis.core.masks import MaskProvider
from wsi_mitosis.errors import DatasetError, InputError
from wsi_mitosis.nets import nuclick
from wsi_mitosis.nets.nuclick import NuClick

NOBODY = np.empty((0, 2))


def made_up(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a network, one number per output channel: 267 MB of them take a few kB."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros((), dtype=tensor.dtype)
            continue
        positive = name.endswith("running_var")
        numbers = (torch.rand(len(tensor)) + (0.5 if positive else -0.5)) / max(1, tensor[0].numel()) ** 0.5
        state[name] = numbers.reshape(-1, *[1] * (tensor.ndim - 1)).expand(tensor.shape)
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.device("meta"):
        network = nuclick._architecture()(num_input_channels=5, num_output_channels=1)
    return made_up(network)


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nuclick") / "nuclick.pth"
    torch.save(state, path)
    assert path.stat().st_size < 10**6
    return path


@pytest.fixture(scope="module")
def provider(weights: Path) -> NuClick:
    return NuClick(weights)


def crops_of(number: int, size_px: int) -> NDArray[np.uint8]:
    shape = (number, size_px, size_px, 3)
    return np.random.default_rng(size_px).integers(0, 256, shape, dtype=np.uint8)


class Drawn(nn.Module):
    """In the network's place: sees its batches, and answers with the objects drawn, one mask per window."""

    def __init__(self, *drawn: NDArray[np.bool_]) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.drawn = list(drawn)

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.clone())
        answers = [self.drawn.pop(0) for _ in batch]
        return torch.from_numpy(np.stack(answers)[:, None] * 8.0 - 4.0)


@pytest.fixture
def provider_of(monkeypatch: pytest.MonkeyPatch, weights: Path) -> Callable[..., tuple[NuClick, Drawn]]:
    def stubbed(*drawn: NDArray[np.bool_]) -> tuple[NuClick, Drawn]:
        network = Drawn(*drawn)
        monkeypatch.setattr(nuclick, "_network", lambda _: network)
        return NuClick(weights), network

    return stubbed


def disc(radius: float, y: float = 64, x: float = 64) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:128, :128]
    return np.asarray(np.hypot(rows - y, columns - x) <= radius)


def nothing() -> NDArray[np.bool_]:
    return np.zeros((128, 128), dtype=bool)


# -- weights


def test_the_files_weights_are_taken(provider: NuClick, weights: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what TIAToolbox's dependencies warn of while they are imported
        from tiatoolbox.models.architecture import get_pretrained_model
    theirs, _ = get_pretrained_model(nuclick.MODEL, pretrained_weights=weights)
    batch = torch.rand(2, 5, 128, 128)
    found = provider._predict(batch)
    assert found.shape == (2, 128, 128)
    assert found.std() > 0
    assert np.array_equal(found, theirs.infer_batch(theirs, batch, device="cpu"))


def test_masks_come_out_of_the_real_network(provider: NuClick) -> None:
    found = provider.segment(crops_of(2, 160), [NOBODY, np.array([[70.0, 80.0]])])
    assert [mask.mask.shape for mask in found] == [(160, 160)] * 2
    assert {mask.mask.dtype for mask in found} == {np.dtype(np.uint8)}
    assert {mask.flag for mask in found} <= {
        "ok",
        "empty",
        "border",
        "too_small",
        "too_large",
        "missed_click",
    }
    assert all((mask.flag == "ok") == mask.mask.any() for mask in found)


def test_it_is_a_provider_whose_version_names_its_weights(
    provider: NuClick, weights: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    held: MaskProvider = provider
    assert held.name == "nuclick"
    assert held.version == f"1-{hashlib.sha256(weights.read_bytes()).hexdigest()[:12]}"
    torch.save({**state, "conv_block_3.conv_bn_relu.0.weight": torch.ones(1, 32, 1, 1)}, tmp_path / "w.pth")
    assert NuClick(tmp_path / "w.pth").version != held.version


@pytest.mark.parametrize("hub", [False, True])
def test_either_a_file_or_the_hub(weights: Path, hub: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nuclick, "fetch_weights", lambda *_: pytest.fail("nothing is fetched unless said"))
    with pytest.raises(InputError, match=r"loading NuClick: .*--nuclick-weights PATH.*hub") as caught:
        NuClick(weights if hub else None, hub=hub)
    assert ("the hub were given" if hub else "weights are missing") in str(caught.value)


def test_the_hubs_file_is_read_like_any_other(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiatoolbox.models import architecture

    asked = []
    monkeypatch.setattr(
        architecture, "fetch_pretrained_weights", lambda name: asked.append(name) or str(weights)
    )
    assert NuClick(None, hub=True).version == NuClick(weights).version
    assert asked == ["nuclick_original-pannuke"]


def test_no_network_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from tiatoolbox.models import architecture

    for error in (LocalEntryNotFoundError("offline"), EntryNotFoundError("gone"), ConnectionError("refused")):

        def fail(name: str, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(architecture, "fetch_pretrained_weights", fail)
        with pytest.raises(InputError, match=r"cannot be downloaded \(.*Error\).*--masks haematoxylin"):
            NuClick(None, hub=True)


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrapped", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, wrapped: bool) -> None:
    path, ran = tmp_path / "w.pth", tmp_path / "ran"
    if wrapped:
        torch.save({"conv_block_1": Code(ran)}, path)
    else:
        path.write_bytes(pickle.dumps(Code(ran), protocol=2))
    with pytest.raises(InputError, match=r"w\.pth: loading NuClick: .*Nothing in it was run"):
        NuClick(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("conv_block_3.conv_bn_relu.0.weight"), r"Missing key.*conv_block_3\.conv_bn_relu"),
        (lambda s: s.update(more=torch.zeros(1)), r'Unexpected key.*"more"'),
        (lambda s: s.update({"conv_block_3.conv_bn_relu.0.weight": torch.zeros(2)}), "size mismatch"),
        (lambda s: s.update({"conv_block_3.conv_bn_relu.0.weight": 3}), "expected torch.Tensor"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, state: dict[str, Tensor], change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    other: dict[str, Any] = dict(state)
    change(other)
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth: loading NuClick: does not fit the network: .*{told}"):
        NuClick(tmp_path / "w.pth")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth: loading NuClick: cannot be read"):
        NuClick(tmp_path / "none.pth")


# -- devices


def test_a_gpu_is_one_gpu(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    """Weights and windows go to the device asked for; TIAToolbox would spread them over both."""
    moved, asked, tf32 = [], [], []

    class Architecture:
        @staticmethod
        def infer_batch(model: nn.Module, batch: Tensor, *, device: str) -> NDArray[np.float32]:
            asked.append((model, device))
            tf32.append(torch.backends.cudnn.allow_tf32)
            return np.zeros((len(batch), 128, 128), dtype=np.float32)

    architecture = nuclick._architecture()
    Architecture.postproc = staticmethod(architecture.postproc)  # type: ignore[attr-defined]
    with torch.device("meta"):
        network = architecture(num_input_channels=5, num_output_channels=1)
    monkeypatch.setattr(nuclick, "_network", lambda _: network)
    monkeypatch.setattr(nuclick, "_architecture", lambda: Architecture)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(nn.Module, "to", lambda self, device, **_: moved.append(str(device)) or self)
    provider = NuClick(weights, device="cuda:1")
    provider.segment(crops_of(1, 128), [NOBODY])
    assert provider.device == "cuda:1"
    assert moved == ["cuda:1"]
    assert asked == [(network, "cuda:1")]
    assert tf32 == [False]


def test_devices_are_resolved_and_checked(
    monkeypatch: pytest.MonkeyPatch, provider_of: Any, weights: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    provider_of()
    assert NuClick(weights, device="auto").device == "cpu"
    with pytest.raises(InputError, match="0 GPUs"):
        NuClick(weights, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_predicts_what_a_cpu_does(weights: Path, provider: NuClick) -> None:
    batch = torch.rand(2, 5, 128, 128)
    found = NuClick(weights, device="cuda")._predict(batch)
    np.testing.assert_allclose(found, provider._predict(batch), atol=1e-4)  # sums in another order


# -- what the network sees


def test_the_five_channels(provider_of: Any) -> None:
    provider, network = provider_of(nothing(), nothing())
    crops = crops_of(2, 128)
    others = [np.array([[10.4, 20.5], [127.4, 0.0]]), NOBODY]
    provider.segment(crops, others)
    (batch,) = network.seen
    assert (batch.dtype, tuple(batch.shape)) == (torch.float32, (2, 5, 128, 128))
    assert np.array_equal(batch[:, :3].numpy(), crops.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert batch[:, 3].nonzero().tolist() == [[0, 64, 64], [1, 64, 64]]
    assert batch[:, 4].nonzero().tolist() == [[0, 0, 127], [0, 21, 10]]
    assert batch[:, 3:].max() == 1


@pytest.mark.parametrize(("size_px", "first"), [(129, 0), (130, 1), (131, 1), (160, 16)])
def test_of_larger_crops_the_centre_is_seen_and_the_mask_put_back(
    provider_of: Any, size_px: int, first: int
) -> None:
    provider, network = provider_of(disc(9, 60, 66))
    crops = crops_of(1, size_px)
    inside, outside = [[5, 7]], [[-1, 50], [50, -1], [128, 50], [50, 128]]
    others = np.array(inside + outside, dtype=np.float64) + first
    (found,) = provider.segment(crops, [others])
    (batch,) = network.seen
    window = crops[0, first : first + 128, first : first + 128]
    assert np.array_equal(batch[0, :3].numpy(), window.transpose(2, 0, 1).astype(np.float32) / 255)
    assert batch[0, 3].nonzero().tolist() == [[size_px // 2 - first] * 2] == [[64, 64]]
    assert batch[0, 4].nonzero().tolist() == [[7, 5]], "figures outside the window are not seen"
    expected = np.zeros((size_px, size_px), dtype=np.uint8)
    expected[first : first + 128, first : first + 128] = disc(9, 60, 66)
    assert found.flag == "ok"
    assert np.array_equal(found.mask, expected)


def test_the_figure_does_not_exclude_itself(provider_of: Any) -> None:
    provider, network = provider_of(nothing())
    provider.segment(crops_of(1, 128), [np.array([[64.2, 63.8], [64.0, 66.0]])])
    assert network.seen[0][0, 4].nonzero().tolist() == [[66, 64]]


def test_smaller_crops_are_refused(provider_of: Any) -> None:
    provider, network = provider_of()
    with pytest.raises(DatasetError, match=r"128 px, but they have 126 px\. .*--masks haematoxylin"):
        provider.segment(crops_of(1, 126), [NOBODY])
    assert network.seen == []


def test_crops_go_in_batches_and_come_back_in_order(
    provider_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuclick, "BATCH", 2)
    drawn = [disc(radius) for radius in (6, 8, 10, 12, 14)]
    provider, network = provider_of(*drawn)
    others = [np.array([[float(i), 3.0]]) for i in range(5)]
    found = provider.segment(crops_of(5, 128), others)
    assert [len(batch) for batch in network.seen] == [2, 2, 1]
    assert torch.cat(network.seen)[:, 4].nonzero()[:, 2].tolist() == [0, 1, 2, 3, 4]
    assert all(np.array_equal(mask.mask, shape) for mask, shape in zip(found, drawn, strict=True))


def test_no_crops_no_masks(provider_of: Any) -> None:
    provider, _ = provider_of()
    assert provider.segment(np.empty((0, 128, 128, 3), dtype=np.uint8), []) == []


# -- what becomes of its answer


def test_only_the_object_at_the_click_is_kept_and_its_holes_are_filled(provider_of: Any) -> None:
    figure = disc(10)
    provider, _ = provider_of((figure & ~disc(2, 68, 68)) | disc(8, 64, 90) | disc(1, 20, 20))
    (found,) = provider.segment(crops_of(1, 128), [NOBODY])
    assert found.flag == "ok"
    assert np.array_equal(found.mask, figure)


def test_objects_of_one_patch_do_not_reach_into_the_next(provider_of: Any) -> None:
    """Cleaned up as one block, specks at the same place in four patches would be large enough to stay."""
    provider, _ = provider_of(*[disc(1)] * 4)
    assert [found.flag for found in provider.segment(crops_of(4, 128), [NOBODY] * 4)] == ["empty"] * 4


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        (nothing(), "empty"),
        (disc(10, 64, 90), "missed_click"),
        (disc(10) & ~disc(6), "missed_click"),
        (disc(3), "too_small"),
        (disc(30), "too_large"),
        (disc(3, 64, 64) | ((disc(80)) & (np.indices((128, 128))[0] == 64)), "border"),
    ],
)
def test_reasons(
    provider_of: Any, caplog: pytest.LogCaptureFixture, answer: NDArray[np.bool_], flag: str
) -> None:
    provider, _ = provider_of(answer)
    with caplog.at_level(logging.DEBUG):
        (found,) = provider.segment(crops_of(1, 128), [NOBODY])
    assert found.flag == flag
    assert not found.mask.any()
    assert caplog.records == [], "the flag says it; TIAToolbox's log line does not name the figure"


# -- TIAToolbox as a guest


def test_its_import_leaves_logging_warnings_and_stdout_alone() -> None:
    script = """
import logging, sys, warnings
import wsi_mitosis.nets.nuclick as nuclick
assert "tiatoolbox" not in sys.modules, "imported too early"
root, shown, added = logging.getLogger(), warnings.showwarning, []
before = (root.level, root.handlers[:])
add, logging.Logger.addHandler = logging.Logger.addHandler, lambda self, handler: (
    added.append(handler) if self is root else None, add(self, handler))
nuclick._architecture()
assert "tiatoolbox" in sys.modules
assert (root.level, root.handlers[:]) == before, root.handlers
assert not [handler for handler in added if isinstance(handler, logging.StreamHandler)], "for a while"
assert warnings.showwarning is shown
logging.captureWarnings(True)
assert warnings.showwarning is not shown, "others can turn it on still"
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
