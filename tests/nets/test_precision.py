"""Half precision: what computes in it, what does not, and where it is refused. A CPU can try it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import preact, timm_network
from wsi_mitosis.errors import BundleError, InputError
from wsi_mitosis.io.bundles import Bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets.devices import check_precision
from wsi_mitosis.nets.ensembles import Ensemble
from wsi_mitosis.nets.members import Member
from wsi_mitosis.nets.precision import HALF, in_precision
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.specs import NetworkSpec
from wsi_mitosis.tables import Precision

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("precision") / "b"
    return write_untrained(folder, name="b", patch_px=32, width=4, members=3, tta="none")


@pytest.mark.parametrize("network", [preact(2), timm_network()])
def test_encoders_compute_in_half_and_heads_in_float32(network: NetworkSpec) -> None:
    seen: dict[str, set[torch.dtype]] = {"convolutions": set(), "head": set()}

    def note(part: str) -> object:
        return lambda _, inputs, output: seen[part].update({inputs[0].dtype, output.dtype})

    member = in_precision(Member(network).eval(), "fp16")
    for module in member.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen["convolutions"].add(output.dtype))
    for module in member.head:
        module.register_forward_hook(note("head"))
    with torch.inference_mode():
        logits = member(torch.rand(2, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert seen == {"convolutions": {HALF}, "head": {torch.float32}}
    norms = [m for m in member.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean.dtype == torch.float32 for norm in norms)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu, id="gpu")])
def test_half_precision_is_near_float32(bundle: Bundle, device: str) -> None:
    """Values of 11 bits, whose relative error is 2^-12, and whose errors add up by layer."""
    states, crops = bundle.read_members(), stained_noise(24, 32, seed=3)
    whole = Ensemble(bundle.manifest, states, device="cpu")
    half = Ensemble(bundle.manifest, states, device=device, precision="fp16")
    found = half.predict(crops)
    assert (np.abs(found - whole.predict(crops)) > 1e-4).any(), "more than sums in another order"
    np.testing.assert_allclose(found, whole.predict(crops), atol=0.005)
    assert np.abs(half.explain(crops) - whole.explain(crops)).mean() < 0.05


@pytest.mark.parametrize(
    ("precision", "device"), [("fp32", "cpu"), ("fp32", "cuda"), ("fp16", "cuda:1"), ("bf16", "cpu")]
)
def test_precisions_that_suit_their_device(precision: Precision, device: str) -> None:
    check_precision(precision, device)


def test_each_half_precision_is_refused_where_the_other_is_better() -> None:
    with pytest.raises(InputError, match=r"--precision fp16: .*no faster.*Use --precision fp32"):
        check_precision("fp16", "cpu")
    with pytest.raises(InputError, match=r"--precision bf16: it is for CPUs.*Use --precision fp16"):
        check_precision("bf16", "cuda:1")


def test_fp32_changes_nothing() -> None:
    member = Member(preact(2))
    before = member.backbone
    assert in_precision(member, "fp32").backbone is before


def test_what_overflows_in_fp16_is_refused(bundle: Bundle) -> None:
    """65,504 is its largest value; no label is made of what lies beyond."""
    states = bundle.read_members()
    name = next(n for n in states[0] if n.startswith("backbone") and states[0][n].ndim == 4)
    states[1] = {**states[1], name: np.full_like(states[1][name], 60_000)}
    crops = stained_noise(4, 32, seed=3)
    assert np.isfinite(Ensemble(bundle.manifest, states, device="cpu").predict(crops)).all()
    with pytest.raises(BundleError, match=r"member-1.*not a number.*Use --precision fp32"):
        Ensemble(bundle.manifest, states, device="cpu", precision="fp16").predict(crops)
