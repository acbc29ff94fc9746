"""Batches of fixed size: how crops are split, padded and put together again, and graphs where a GPU is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.voting import tally
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.nets import graphs
from wsi_mitosis.nets.graphs import FixedBatches, side_by_side, split
from wsi_mitosis.nets.members import Ensemble
from wsi_mitosis.nets.untrained import stained_noise
from wsi_mitosis.tables import Precision

SIDE, MEMBERS = 4, 3
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SIZES = st.sets(st.integers(1, 300), min_size=1, max_size=4).map(sorted)


@given(number=st.integers(0, 2000), sizes=SIZES)
def test_each_crop_is_in_one_part_and_none_is_larger_than_it_must_be(number: int, sizes: list[int]) -> None:
    parts = list(split(number, sizes))
    rows = [row for part in parts for row in range(part.start, part.stop)]
    assert rows == list(range(number))
    for part in parts:
        crops = part.stop - part.start
        assert 0 < crops <= part.size
        assert part.size in sizes
        assert not [size for size in sizes if crops <= size < part.size]
    assert all(part.stop - part.start == part.size == sizes[-1] for part in parts[:-1])


def sums(pixels: torch.Tensor) -> torch.Tensor:
    """Values of a crop: its sum, times 1, 2 and 3."""
    totals = pixels.flatten(1).double().sum(dim=1)
    return torch.stack([totals * factor for factor in (1, 2, 3)], dim=1)


def numbered(number: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)


def expected(crops: np.ndarray) -> np.ndarray:
    return crops.sum(axis=(1, 2, 3), dtype=np.float64)[:, None] * (1, 2, 3)


def fixed(sizes: tuple[int, ...], compute=sums, device: str = "cpu") -> FixedBatches:  # type: ignore[no-untyped-def]
    return FixedBatches(compute, device=device, crop_px=SIDE, members=MEMBERS, sizes=sizes)


@given(number=st.integers(0, 30), sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3).map(sorted))
def test_values_are_those_of_their_crops(number: int, sizes: list[int]) -> None:
    crops, batches = numbered(number), fixed(tuple(sizes))
    np.testing.assert_array_equal(batches(crops), expected(crops))
    np.testing.assert_array_equal(batches(crops[::-1]), expected(crops[::-1]), "buffers are used again")


def test_the_last_batch_is_padded_with_black() -> None:
    seen = []

    def noted(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.clone().numpy())
        return sums(pixels)

    crops = np.maximum(numbered(11), 1)
    fixed((2, 4), noted)(crops)
    assert [len(batch) for batch in seen] == [4, 4, 4]
    assert not seen[2][3:].any()
    np.testing.assert_array_equal(np.concatenate(seen)[:11], crops)


def test_a_batch_is_sent_before_the_one_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a GPU would wait for each copy. At most two are on their way: there are two buffers."""
    events: list[str] = []
    send, take = graphs._Slot.send, graphs._Slot.take
    monkeypatch.setattr(graphs._Slot, "send", lambda *a: (events.append("send"), send(*a))[1])
    monkeypatch.setattr(graphs._Slot, "take", lambda *a: (events.append("take"), take(*a))[1])
    fixed((4,))(numbered(16))
    assert events == ["send", "send", "take", "send", "take", "send", "take", "take"]


def test_tasks_without_streams_run_in_their_order() -> None:
    order: list[int] = []

    def task(number: int) -> torch.Tensor:
        order.append(number)
        return torch.tensor(number)

    assert [int(one) for one in side_by_side([lambda n=n: task(n) for n in range(3)], [])] == [0, 1, 2]
    assert order == [0, 1, 2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Five members of 16 px with two zooms; 16 px are resampled from 12."""
    folder = tmp_path_factory.mktemp("graphs") / "b"
    write_untrained(folder, name="b", patch_px=16, width=2, members=5, zooms=(1.0, 0.75))
    return open_bundle(folder)


def fixed_members(bundle: Bundle) -> tuple[Ensemble, FixedBatches]:
    ensemble = Ensemble(bundle.manifest, bundle.read_members(), device="cpu")
    return ensemble, FixedBatches(
        ensemble._classify, device="cpu", crop_px=ensemble.read_px, members=5, sizes=(4, 16)
    )


def test_members_give_the_same_in_batches_of_fixed_size(bundle: Bundle) -> None:
    ensemble, batches = fixed_members(bundle)
    crops = stained_noise(19, ensemble.read_px, seed=3)
    with torch.inference_mode():
        found = batches(crops)
    np.testing.assert_allclose(found, ensemble.predict(crops), atol=1e-6)  # float32 sums in another order


@needs_gpu
def test_a_replay_computes_what_it_is_given() -> None:
    crops, batches = numbered(40), fixed((4, 16), device="cuda")
    for rows in (slice(0, 40), slice(7, 9), slice(3, 24)):
        np.testing.assert_array_equal(batches(crops[rows]), expected(crops[rows]))


@needs_gpu
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-4), ("bf16", 0.05), ("fp16", 0.01)])
def test_graphs_give_what_members_give_one_by_one(
    bundle: Bundle, precision: Precision, atol: float, together: bool
) -> None:
    """Half precision changes the probabilities of untrained members by more than float32's sums do."""
    states = bundle.read_members()
    crops = stained_noise(300, 22, seed=3)
    cpu = Ensemble(bundle.manifest, states, device="cpu").predict(crops)
    options = {"device": "cuda", "precision": precision}
    eager = Ensemble(bundle.manifest, states, **options).predict(crops)
    replaying = Ensemble(bundle.manifest, states, **options, graphs=True, together=together)
    replayed = [replaying.predict(part) for part in (crops, crops[:5], crops)]
    np.testing.assert_allclose(eager, cpu, atol=atol)
    np.testing.assert_allclose(replayed[0], cpu, atol=atol)
    np.testing.assert_allclose(replayed[1], cpu[:5], atol=atol)
    np.testing.assert_array_equal(replayed[2], replayed[0])


@needs_gpu
def test_early_votes_do_without_graphs(bundle: Bundle) -> None:
    states, crops = bundle.read_members(), stained_noise(64, 22, seed=3)
    found = Ensemble(bundle.manifest, states, device="cuda", graphs=True, vote="early").predict(crops)
    everyone = Ensemble(bundle.manifest, states, device="cuda", graphs=True).predict(crops)
    assert np.isnan(found).any()
    assert tally(found, 0.5).is_atypical.tolist() == tally(everyone, 0.5).is_atypical.tolist()
