"""Which weights which optimiser moves, and how far."""

from __future__ import annotations

import math

import pytest
import torch

from tests.training_files import tiny_recipe
from wsi_mitosis.nets import training
from wsi_mitosis.nets.decoders import TrainedNetwork
from wsi_mitosis.nets.optimisers import MuonWithAdamW, build_optimiser
from wsi_mitosis.nets.training import build_network
from wsi_mitosis.recipes import OptimiserSpec

RATE = 2e-3
AUXILIARY = ("classify", "conv0")


def spec(**changes: object) -> OptimiserSpec:
    settings = {"learning_rate": RATE, "weight_decay": 0.25, "batch": 8, "epochs": 1, "warm_up": 0.1}
    return OptimiserSpec.model_validate({**settings, "schedule": "constant", "name": "muon", **changes})


def network() -> TrainedNetwork:
    built = build_network(tiny_recipe(network={"width": 4})).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():  # nothing at zero: a decay is seen everywhere
        for parameter in built.parameters():
            parameter.add_(0.1)
    generator = torch.Generator().manual_seed(3)
    for parameter in built.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).contiguous(
            memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        )
    result: TrainedNetwork = built
    return result


def moved(optimiser_spec: OptimiserSpec) -> dict[str, torch.Tensor]:
    """What one step adds to each weight."""
    trained = network()
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    build_optimiser(trained, optimiser_spec).step()
    return {name: parameter.detach() - before[name] for name, parameter in trained.named_parameters()}


def hidden(name: str, step: torch.Tensor) -> bool:
    return step.ndim == 4 and not any(part in name for part in AUXILIARY)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("muon", MuonWithAdamW)]
)
def test_the_optimiser_is_the_recipes(name: str, kind: type) -> None:
    optimiser = build_optimiser(network(), spec(name=name))
    assert type(optimiser) is kind
    assert optimiser.defaults["weight_decay"] == 0.25
    assert optimiser.defaults["lr"] == RATE


def test_muon_moves_a_hidden_convolution_as_far_in_every_direction_as_adamw_would() -> None:
    steps = {name: step for name, step in moved(spec(weight_decay=0.0)).items() if hidden(name, step)}
    assert len(steps) > 60
    for name, step in steps.items():
        matrix = step.flatten(1)
        wanted = 0.2 * RATE * math.sqrt(max(matrix.shape))
        values = torch.linalg.svdvals(matrix) / wanted
        # Newton-Schulz with its usual coefficients leaves singular values between .7 and 1.2, those of the
        # smallest gradients aside.
        assert 0.6 < values.median() < 1.3, name
        assert values.max() < 1.4, name


def test_everything_else_is_adamws() -> None:
    plain, joined = moved(spec(name="adamw")), moved(spec(name="muon"))
    others = [name for name, step in plain.items() if not hidden(name, step)]
    assert any("conv0" in name for name in others)
    assert sum("classify.weight" in name for name in others) == 2
    assert all(torch.equal(plain[name], joined[name]) for name in others)
    assert not any(torch.equal(plain[name], joined[name]) for name in set(plain) - set(others))


def test_both_decay() -> None:
    free, decayed = moved(spec(weight_decay=0.0)), moved(spec(weight_decay=0.5))
    before = dict(network().named_parameters())
    for name, step in decayed.items():
        wanted = -RATE * 0.5 * before[name].detach()
        assert (step - free[name]).numpy() == pytest.approx(wanted.numpy(), abs=1e-6), name


def test_a_schedule_reaches_both() -> None:
    trained = network()
    optimiser = build_optimiser(trained, spec(weight_decay=0.0))
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    optimiser.param_groups[0]["lr"] = 0.0
    optimiser.step()
    assert all(torch.equal(before[name], parameter) for name, parameter in trained.named_parameters())


def test_no_gradient_outlives_its_step() -> None:
    trained = network()
    optimiser = build_optimiser(trained, spec())
    optimiser.zero_grad()
    assert [name for name, parameter in trained.named_parameters() if parameter.grad is not None] == []


def test_weights_that_it_could_not_reach_are_refused() -> None:
    with pytest.raises(RuntimeError, match="view"):
        build_optimiser(build_network(tiny_recipe()), spec())


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_head_and_decoders_can_have_a_rate_of_their_own(name: str) -> None:
    plain, faster = (moved(spec(name=name, weight_decay=0.0, head_rate=rate)) for rate in (1.0, 3.0))
    for weight, step in faster.items():
        factor = 1.0 if weight.startswith("member.backbone.") else 3.0
        torch.testing.assert_close(step, factor * plain[weight], rtol=1e-3, atol=1e-7)
    assert any(not weight.startswith("member.backbone.") for weight in faster)


def test_the_schedule_keeps_the_rates_of_head_and_encoder_apart() -> None:
    recipe = tiny_recipe(optimiser={"name": "adamw", "head_rate": 3.0, "schedule": "one-cycle"})
    optimiser = build_optimiser(network(), recipe.optimiser)
    schedule = training._schedule(optimiser, recipe, 20)
    rates = []
    for _ in range(20):
        optimiser.step()
        schedule.step()
        rates.append(schedule.get_last_lr())
    assert max(rate for rate, _ in rates) == pytest.approx(recipe.optimiser.learning_rate, rel=0.01)
    for encoder, heads in rates:
        assert heads == pytest.approx(3 * encoder)


def test_muon_has_one_rate() -> None:
    with pytest.raises(ValueError, match="head_rate"):
        spec(head_rate=2.0)
