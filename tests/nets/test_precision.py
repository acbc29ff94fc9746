"""Half precision: what computes in it, what does not, and that a CPU can try it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import preact, timm_network
from wsi_mitosis.errors import BundleError
from wsi_mitosis.io.bundles import Bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets.members import Ensemble, Member
from wsi_mitosis.nets.precision import HALVES, in_precision
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.specs import NetworkSpec
from wsi_mitosis.tables import Precision


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("precision") / "b"
    return write_untrained(folder, name="b", patch_px=32, width=4, members=3, tta="none")


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("network", [preact(2), timm_network()])
def test_encoders_compute_in_half_and_heads_in_float32(network: NetworkSpec, precision: Precision) -> None:
    seen: dict[str, set[torch.dtype]] = {"convolutions": set(), "head": set()}

    def note(part: str) -> object:
        return lambda _, inputs, output: seen[part].update({inputs[0].dtype, output.dtype})

    member = in_precision(Member(network).eval(), precision)
    for module in member.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: seen["convolutions"].add(output.dtype))
    for module in member.head:
        module.register_forward_hook(note("head"))
    with torch.inference_mode():
        logits = member(torch.rand(2, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert seen == {"convolutions": {HALVES[precision]}, "head": {torch.float32}}
    norms = [m for m in member.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean.dtype == torch.float32 for norm in norms)


@pytest.mark.parametrize(("precision", "atol"), [("bf16", 0.05), ("fp16", 0.005)])
def test_half_precision_is_near_float32(bundle: Bundle, precision: Precision, atol: float) -> None:
    """Values of 8 and 11 bits, whose relative errors are 2^-9 and 2^-12, and whose errors add up by layer."""
    states, crops = bundle.read_members(), stained_noise(24, 32, seed=3)
    whole = Ensemble(bundle.manifest, states, device="cpu")
    half = Ensemble(bundle.manifest, states, device="cpu", precision=precision)
    found = half.predict(crops)
    assert (found != whole.predict(crops)).any()
    np.testing.assert_allclose(found, whole.predict(crops), atol=atol)
    assert np.abs(half.explain(crops) - whole.explain(crops)).mean() < 10 * atol


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
    with pytest.raises(BundleError, match=r"member-1.*not a number"):
        Ensemble(bundle.manifest, states, device="cpu", precision="fp16").predict(crops)
