from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import preact
from wsi_mitosis.core.calibration import calibrated
from wsi_mitosis.core.voting import tally
from wsi_mitosis.errors import BundleError, InputError
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets import devices, eager
from wsi_mitosis.nets.devices import resolve_device
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.members import Member, cpu_threads, load_member, member_state
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.nets.views import to_input, views, zoomed
from wsi_mitosis.specs import BundleManifest, CalibrationSpec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Five members of 16 px with two zooms; their batch norms have statistics, as trained ones have."""
    folder = tmp_path_factory.mktemp("members") / "b"
    return write_untrained(folder, name="b", patch_px=16, width=2, members=5, zooms=(1.0, 0.75))


@pytest.fixture(scope="module")
def crops(bundle: Bundle) -> np.ndarray:
    return stained_noise(24, 22, seed=3)


def test_the_head_has_the_papers_three_layers() -> None:
    linear = [layer for layer in Member(preact(64)).head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (2048, 512),
        (512, 128),
        (128, 2),
    ]


def test_dropout_changes_no_name() -> None:
    dropping = Member(preact(2), dropout=0.5)
    assert set(member_state(dropping)) == set(member_state(Member(preact(2))))
    assert sum(isinstance(layer, nn.Dropout) and layer.p == 0.5 for layer in dropping.modules()) == 2


def test_p_atypical_is_the_mean_softmax_over_zooms_and_views(bundle: Bundle, crops: np.ndarray) -> None:
    """By hand with unfolded members: float32 sums in another order, so not to the last digit."""
    expected = np.empty((len(crops), 5))
    for index, state in enumerate(bundle.read_members()):
        member = load_member(state, preact(2), "by hand")
        with torch.inference_mode():
            batch = to_input(crops, 255)
            seen = [v for zoom in (1.0, 0.75) for v in views(zoomed(batch, zoom, 16), "flips")]
            shares = [torch.exp(z)[:, 1] / torch.exp(z).sum(1) for z in (member(v).double() for v in seen)]
        expected[:, index] = torch.stack(shares).mean(0).numpy()
    assert len(seen) == 6
    found = Ensemble(bundle.manifest, bundle.read_members(), device="cpu").predict(crops)
    assert found.dtype == np.float64
    assert expected.std(axis=0).min() > 0.01, "members that see nothing test nothing"
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_folding_keeps_what_batch_norm_does() -> None:
    torch.manual_seed(0)
    member = Member(preact(2)).eval()
    for layer in member.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.bias, 0, 0.3)
    folded = eager.folded(copy.deepcopy(member))
    norms = [sum(isinstance(layer, nn.BatchNorm2d) for layer in m.modules()) for m in (member, folded)]
    assert norms == [49, 16], "conv0's and two in each of 16 units are folded"
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), member(images), rtol=1e-4, atol=1e-5)


def test_a_cpu_computes_few_crops_at_a_time(
    bundle: Bundle, crops: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 crops: 16 px at width 2 have a largest feature map of 8 KiB."""
    sizes, states = [], bundle.read_members()
    forward = Member.forward

    def counted(self: Member, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return forward(self, images)

    whole = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    monkeypatch.setattr(Member, "forward", counted)
    monkeypatch.setattr(eager, "CACHED_BYTES", 10 * 8 * 2**10)
    ensemble = Ensemble(bundle.manifest, states, device="cpu")
    sizes.clear()  # of the images by which an ensemble finds out how its networks are built
    np.testing.assert_allclose(ensemble.predict(crops), whole, atol=1e-6)
    assert sizes == [10, 10, 4] * 5 * 6, "five members, six views"
    monkeypatch.setattr(eager, "CACHED_BYTES", 1)
    ensemble = Ensemble(bundle.manifest, states, device="cpu")
    sizes.clear()
    ensemble.predict(crops[:3])
    assert sizes == [1] * 3 * 5 * 6


def test_each_member_computes_as_many_crops_at_a_time_as_its_network_allows(
    bundle: Bundle, crops: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second member is four times as wide as the first, and so is its largest feature map."""
    sizes: list[int] = []
    forward = Member.forward

    def counted(self: Member, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return forward(self, images)

    wide = bundle.manifest.member[1].model_copy(update={"network": preact(8)})
    ensemble = bundle.manifest.ensemble.model_copy(update={"tta": "none", "zooms": (1.0,)})
    update = {"member": (bundle.manifest.member[0], wide), "ensemble": ensemble}
    manifest = bundle.manifest.model_copy(update=update)
    monkeypatch.setattr(Member, "forward", counted)
    monkeypatch.setattr(eager, "CACHED_BYTES", 12 * 8 * 2**10)
    mixed = Ensemble(manifest, [bundle.read_members()[0], member_state(Member(preact(8)))], device="cpu")
    sizes.clear()
    mixed.predict(crops[:, 3:-3, 3:-3])
    assert sizes == [12, 12] + [3] * 8


def test_tta_can_be_chosen(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    found = {tta: Ensemble(bundle.manifest, states, device="cpu", tta=tta) for tta in ("none", "flips", "d4")}
    results = {tta: ensemble.predict(crops) for tta, ensemble in found.items()}
    default = Ensemble(bundle.manifest, states, device="cpu")
    assert default.tta == "flips"
    np.testing.assert_array_equal(default.predict(crops), results["flips"])
    for one, other in itertools.combinations(results.values(), 2):
        assert not np.allclose(one, other, atol=1e-6)
    turned = np.rot90(crops, axes=(1, 2))
    np.testing.assert_allclose(found["d4"].predict(turned), results["d4"], atol=2e-5)


def at(bundle: Bundle, temperature: float, threshold: float) -> BundleManifest:
    calibration = CalibrationSpec(
        temperature=temperature,
        fitted_on="own figures",
        figures=1,
        atypical=1,
        figures_sha256="0" * 64,
        dataset_digest="",
    )
    ensemble = bundle.manifest.ensemble.model_copy(update={"threshold": threshold})
    return bundle.manifest.model_copy(update={"calibration": calibration, "ensemble": ensemble})


def test_p_atypical_is_at_the_temperature_of_the_bundle(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    plain = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    sharper = Ensemble(at(bundle, 0.5, 0.5), states, device="cpu").predict(crops)
    odds = plain / (1 - plain)
    np.testing.assert_allclose(sharper, odds**2 / (1 + odds**2), rtol=1e-6)
    assert np.abs(sharper - plain).max() > 0.01


def test_early_votes_are_counted_at_the_temperature_of_the_bundle(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    plain = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    threshold = float(np.quantile(calibrated(plain, 0.1), 0.3))
    assert (plain >= threshold).all(axis=1).any(), "where P(atypical) as it was would end the vote too early"
    manifest = at(bundle, 0.1, threshold)
    everyone = Ensemble(manifest, states, device="cpu").predict(crops)
    early = Ensemble(manifest, states, device="cpu", vote="early").predict(crops)
    assert np.isnan(early).any()
    labels = tally(everyone, threshold).is_atypical
    assert tally(early, threshold).is_atypical.tolist() == labels.tolist()
    assert 0 < labels.sum() < len(labels)


def test_early_gives_the_labels_of_all_and_asks_less(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    everyone = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    early = Ensemble(bundle.manifest, states, device="cpu", vote="early").predict(crops)
    asked = ~np.isnan(early)
    assert asked[:, :3].all(), "three votes are the fewest that can be a majority of five"
    assert not asked.all()
    assert (np.diff(asked.astype(int), axis=1) <= 0).all(), "members are asked in their order"
    np.testing.assert_allclose(early[asked], everyone[asked], atol=2e-5)
    assert tally(early, 0.5).is_atypical.tolist() == tally(everyone, 0.5).is_atypical.tolist()
    undecided_after_three = ~np.isin((everyone[:, :3] >= 0.5).sum(axis=1), [0, 3])
    np.testing.assert_array_equal(asked[:, 3], undecided_after_three)


def test_no_crops_give_no_probabilities(bundle: Bundle) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    assert ensemble.predict(np.empty((0, 22, 22, 3), dtype=np.uint8)).shape == (0, 5)


def test_crops_of_another_size_are_a_bug(bundle: Bundle) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    assert ensemble.read_px == 22
    with pytest.raises(ValueError, match="22"):
        ensemble.predict(np.zeros((1, 16, 16, 3), dtype=np.uint8))


def test_the_callers_precision_survives(bundle: Bundle, crops: np.ndarray) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    before = torch.get_float32_matmul_precision()
    seen = []
    ensemble._members.networks[0].register_forward_pre_hook(
        lambda *_: seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    )
    torch.set_float32_matmul_precision("high")
    try:
        ensemble.predict(crops)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {("highest", False)}


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_the_callers_threads_are_restored(bundle: Bundle, crops: np.ndarray, threads: int | None) -> None:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu", threads=threads)
    before, seen = torch.get_num_threads(), []
    ensemble._members.networks[0].register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        ensemble.predict(crops)
        assert torch.get_num_threads() == 2
        assert set(seen) == {threads or 2}
        with pytest.raises(RuntimeError), cpu_threads(5):
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: _without(s, "head.fc2.bias"), "'head.fc2.bias' is missing"),
        (lambda s: {**s, "decoder.x": np.zeros(1, np.float16)}, "'decoder.x' is unknown"),
        (
            lambda s: {**s, "head.fc3.bias": np.zeros(3, np.float16)},
            r"'head.fc3.bias' has shape \(3,\), not \(2,\)",
        ),
        (lambda s: {**s, "head.fc3.bias": np.zeros(2, np.int64)}, "'head.fc3.bias' has data type int64"),
        (
            lambda s: {**s, "head.fc3.bias": np.array([0, np.nan], np.float16)},
            "'head.fc3.bias' is not finite",
        ),
    ],
    ids=["missing", "unknown", "shape", "kind", "not finite"],
)
def test_weights_that_do_not_fit_are_refused(bundle: Bundle, spoil: Any, told: str) -> None:
    states = bundle.read_members()
    states[1] = spoil(states[1])
    with pytest.raises(BundleError, match=f"b/member-1.safetensors: loading weights: {told}"):
        Ensemble(bundle.manifest, states, device="cpu")


def test_a_member_that_gives_no_number_is_named(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    name = "backbone.d0.blk_bna.bn.running_var"
    states[2] = {**states[2], name: np.full_like(states[2][name], -1)}
    with pytest.raises(BundleError, match="member-2"):
        Ensemble(bundle.manifest, states, device="cpu").predict(crops)


def test_float32_weights_are_taken_too(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    wide = [{name: array.astype(np.float32) for name, array in state.items()} for state in states]
    halves = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    np.testing.assert_array_equal(Ensemble(bundle.manifest, wide, device="cpu").predict(crops), halves)


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:", "cuda:x", "cpu:0", "CUDA", ""])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(InputError, match="auto, cpu, cuda or cuda:N"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("gpus", "asked", "found"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (0, "cpu", "cpu"),
        (2, "cuda:1", "cuda:1"),
        (1, "cuda", "cuda"),
    ],
)
def test_devices_that_exist(monkeypatch: pytest.MonkeyPatch, gpus: int, asked: str, found: str) -> None:
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(asked) == found


@pytest.mark.parametrize(
    ("library", "device_file", "there"),
    [("libc.so.6", "none", True), ("none.so", "self", True), ("none.so", "none", False)],
)
def test_a_driver_is_looked_for_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch, library: str, device_file: str, there: bool
) -> None:
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", library)
    monkeypatch.setattr(devices, "AMD_DRIVER", Path("/proc") / device_file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == ("cuda" if there else "cpu")
    assert resolve_device("cuda") == "cuda", "torch is asked for a device by name"


@pytest.mark.parametrize(("gpus", "asked"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1")])
def test_a_missing_gpu_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, gpus: int, asked: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=rf"--device {asked}: torch finds {gpus} GPUs.*--device cpu"):
        resolve_device(asked)


def test_both_labels_occur_in_untrained_members(tmp_path: Path) -> None:
    folder = tmp_path / "u"
    write_untrained(folder, patch_px=32, members=3)
    bundle = open_bundle(folder)
    found = Ensemble(bundle.manifest, bundle.read_members(), device="cpu").predict(
        stained_noise(64, 32, seed=9)
    )
    shares = (found >= 0.5).mean(axis=0)
    assert ((shares > 0.1) & (shares < 0.9)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_figures(bundle: Bundle, crops: np.ndarray) -> None:
    states = bundle.read_members()
    cpu = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    gpu = Ensemble(bundle.manifest, states, device="cuda").predict(crops)
    np.testing.assert_allclose(gpu, cpu, atol=1e-4)  # float32 sums in another order
