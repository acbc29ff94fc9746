"""Bundles that are calibrated: on domains left out, and on a laboratory's own figures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import bundle, calibration, crop, known_members, recorded, store
from wsi_mitosis.core.calibration import Fit, calibrated, fit_temperature, fit_to_figures
from wsi_mitosis.errors import BundleError, InputError, OutputError
from wsi_mitosis.io.bundles import Bundle, open_bundle
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs.calibrate import (
    OF_EACH_CLASS,
    Gain,
    Rates,
    calibrate,
    calibrate_on_left_out,
    gain_lines,
)
from wsi_mitosis.jobs.evaluate import evaluate

DOMAINS = ("a", "b")
ELSEWHERE = [f"{'f' * 64} a"]
Row = tuple[str, str, int, np.ndarray]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    return known_members(monkeypatch)


def answers(number: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """(number, 2) P(atypical) in percent of two members; every second figure is atypical."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(np.where(np.arange(number) % 2, 1.2, -1.2)[:, None] + offset, 1.2, (number, 2))
    return np.round(1 / (1 + np.exp(-logits)), 2)


def numbered(number: int, pair: tuple[float, ...]) -> np.ndarray:
    """A crop that is unlike those of other numbers."""
    image = crop(0, pair)
    image[4, 4] = number >> 16, number >> 8 & 255, number & 255
    return image


def figures(
    number: int, *, offset: float = 0.0, slides: int = 20, domain: str = "lab", first: int = 0
) -> list[Row]:
    """Figures that members of a KnownEnsemble answer with `answers`, on slides of a laboratory."""
    return [
        (domain, f"{domain}-{index % slides}", index % 2, numbered(first + index, tuple(pair)))
        for index, pair in enumerate(answers(number, offset, first))
    ]


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    return bundle(tmp_path / "parent", DOMAINS, ELSEWHERE)


@pytest.fixture
def own(tmp_path: Path) -> Store:
    """Figures of a laboratory whose P(atypical) is too low: a half is no good threshold."""
    return store(tmp_path / "own.zarr", figures(200, offset=-1.5))


def table(of: Store) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and what two members of a KnownEnsemble answer."""
    images = of.images()
    return of.samples["label"].to_numpy(), images[:, 20, 20, :2] / 100


def test_the_temperature_of_domains_left_out(tmp_path: Path) -> None:
    samples = store(
        tmp_path / "s.zarr", [*figures(60, domain="a"), *figures(60, domain="b", first=60, offset=0.5)]
    )
    trained = bundle(tmp_path / "t", DOMAINS, recorded(samples.samples))
    found = calibrate_on_left_out(trained, samples)
    labels, both = table(samples)
    of_member = (samples.samples["domain"] == "b").to_numpy().astype(int)
    expected = fit_temperature(labels, both[np.arange(120), of_member])
    assert abs(expected - 1) > 0.05
    assert found.manifest.calibration is not None
    assert found.manifest.temperature == pytest.approx(expected)
    assert found.manifest.calibration.fitted_on == "domains left out"
    assert (found.manifest.calibration.figures, found.manifest.calibration.atypical) == (120, 60)
    assert found.manifest.calibration.dataset_digest == samples.attributes.digest
    listed = "".join(f"{digest}\n" for digest in sorted(samples.samples["digest"]))
    assert found.manifest.calibration.figures_sha256 == hashlib.sha256(listed.encode()).hexdigest()
    again = open_bundle(trained.folder)
    assert (again.manifest, again.digest) == (found.manifest, found.digest)
    assert again.digest != trained.digest
    assert again.manifest.ensemble == trained.manifest.ensemble
    assert "## Calibration" in again.read_card()
    assert f"{expected:.3f}" in again.read_card()


def test_a_bundle_is_calibrated_from_scratch_each_time(tmp_path: Path) -> None:
    samples = store(tmp_path / "s.zarr", [*figures(60, domain="a"), *figures(60, domain="b", first=60)])
    trained = bundle(tmp_path / "t", DOMAINS, recorded(samples.samples))
    once = calibrate_on_left_out(trained, samples)
    twice = calibrate_on_left_out(once, samples)
    assert twice.manifest.temperature == pytest.approx(once.manifest.temperature, rel=1e-5)
    assert twice.read_card().count("## Calibration") == 1


def test_without_figures_of_both_classes_a_bundle_stays_as_it_is(tmp_path: Path) -> None:
    samples = store(tmp_path / "s.zarr", [row for row in figures(60, domain="a") if row[2]])
    trained = bundle(tmp_path / "t", DOMAINS, recorded(samples.samples))
    assert calibrate_on_left_out(trained, samples) is trained
    assert open_bundle(trained.folder).digest == trained.digest


def test_own_figures_give_a_temperature_and_a_threshold(tmp_path: Path, parent: Bundle, own: Store) -> None:
    found = calibrate(parent, own, tmp_path / "my-bundle", device="cpu")
    expected = fit_to_figures(*table(own), Fit(1.0, 0.5))
    manifest = found.bundle.manifest
    assert manifest.name == "my-bundle"
    assert manifest.temperature == pytest.approx(expected.temperature)
    assert manifest.ensemble.threshold == pytest.approx(expected.threshold)
    assert expected.threshold < 0.35
    assert manifest.calibration is not None
    assert (manifest.calibration.fitted_on, manifest.calibration.figures) == ("own figures", 200)
    assert manifest.calibration.dataset_digest == own.attributes.digest
    assert manifest.parent is not None
    assert (manifest.parent.name, manifest.parent.digest) == ("known", parent.digest)
    assert manifest.member == parent.manifest.member
    assert manifest.input == parent.manifest.input
    for mine, parents in zip(found.bundle.read_members(), parent.read_members(), strict=True):
        np.testing.assert_array_equal(mine["w"], parents["w"])
    assert found.gain.balanced_accuracy > 0.05
    low, high = found.gain.interval
    assert 0 < low < found.gain.balanced_accuracy < high
    assert (found.gain.slides, found.gain.unknown_slides) == (20, 0)
    assert open_bundle(parent.folder).digest == parent.digest


def test_the_gain_is_of_figures_that_were_not_fitted(tmp_path: Path, parent: Bundle) -> None:
    """Of figures that have nothing in common, a threshold gains nothing, however well it fits them."""
    generator = np.random.default_rng(4)
    rows = [
        (
            "lab",
            f"s{index % 10}",
            index % 2,
            numbered(index, tuple(generator.choice([0.3, 0.45, 0.6, 0.8], 2))),
        )
        for index in range(120)
    ]
    found = calibrate(parent, store(tmp_path / "own.zarr", rows), tmp_path / "out", device="cpu")
    labels = np.array([row[2] for row in rows])
    rates = found.gain.before
    assert rates.balanced_accuracy == pytest.approx((rates.sensitivity + rates.specificity) / 2)
    assert abs(found.gain.after.balanced_accuracy - 0.5) < 0.12
    assert not found.gain.is_clear
    assert labels.mean() == 0.5


def test_what_it_was_calibrated_on_is_known_later(
    tmp_path: Path, parent: Bundle, own: Store, known: list[tuple[str, int]]
) -> None:
    derived = calibrate(parent, own, tmp_path / "mine", device="cpu").bundle
    assert derived.read_samples() == {
        **parent.read_samples(),
        **dict.fromkeys(own.samples["digest"], frozenset()),
    }
    known.clear()
    with pytest.raises(InputError, match="all 200 samples were used to train or calibrate 'mine'"):
        evaluate(derived, own, device="cpu")
    report = evaluate(derived, own, device="cpu", allow_overlap=True).report
    assert "TRAINING DATA: the bundle was trained or calibrated on 200 of these 200 samples." in report.notes
    known.clear()
    with pytest.raises(
        InputError,
        match=r"own\.zarr: calibrating: 200 of 200 samples were used to train or calibrate 'mine', such as "
        r"sample \d+\. Build the dataset without them, or take 'known' and all of your figures instead",
    ):
        calibrate(derived, own, tmp_path / "again", device="cpu")
    assert known == []


def test_a_calibrated_bundle_can_be_calibrated_on_other_figures(
    tmp_path: Path, parent: Bundle, own: Store
) -> None:
    first = calibrate(parent, own, tmp_path / "first", device="cpu").bundle
    more = store(tmp_path / "more.zarr", figures(100, offset=-1.5, first=100_000, domain="more"))
    known_before = evaluate(first, more, device="cpu").report.overall
    found = calibrate(first, more, tmp_path / "second", name="named", device="cpu")
    second = found.bundle
    assert known_before is not None
    assert found.gain.before.balanced_accuracy == pytest.approx(known_before.balanced_accuracy)
    assert found.gain.before.sensitivity == pytest.approx(known_before.sensitivity)
    assert second.manifest.name == "named"
    assert second.manifest.parent is not None
    assert (second.manifest.parent.name, second.manifest.parent.digest) == ("first", first.digest)
    kept = Fit(first.manifest.temperature, first.manifest.ensemble.threshold)
    expected = fit_to_figures(*table(more), kept)
    assert second.manifest.ensemble.threshold == pytest.approx(expected.threshold, rel=1e-4)
    assert second.manifest.temperature == pytest.approx(expected.temperature, rel=1e-4)
    assert set(second.read_samples()) == {
        *first.read_samples(),
        *more.samples["digest"],
    }


def test_evaluate_uses_what_was_fitted(tmp_path: Path, parent: Bundle, own: Store) -> None:
    derived = calibrate(parent, own, tmp_path / "mine", device="cpu").bundle
    others = store(tmp_path / "others.zarr", figures(100, offset=-1.5, first=100_000, domain="others"))
    found = evaluate(derived, others, device="cpu")
    labels, drawn = table(others)
    at = calibrated(drawn, derived.manifest.temperature)
    np.testing.assert_allclose(found.predictions[["p_member-0", "p_member-1"]], at)
    assert found.report.threshold == derived.manifest.ensemble.threshold
    before = evaluate(parent, others, device="cpu").report
    assert found.report.overall is not None
    assert before.overall is not None
    assert (found.report.overall.balanced_accuracy or 0) > (before.overall.balanced_accuracy or 1) + 0.03
    assert labels.sum() == 50


def test_the_card_says_what_was_done(tmp_path: Path, parent: Bundle, own: Store) -> None:
    (parent.folder / "CARD.md").write_text("# known\n\n## Figures on x\n\n### Members\n\nfigures\n")
    found = calibrate(parent, own, tmp_path / "mine", device="cpu")
    card = found.bundle.read_card()
    assert card.startswith("# mine\n\n**Research use only.** Tests\n")
    assert "200 figures of a laboratory" in card
    assert parent.digest[:16] in card
    assert f"{found.bundle.manifest.ensemble.threshold:.3f}" in card
    assert all(f"- {line}\n" in card for line in gain_lines(found.gain))
    assert card.endswith("\n## known\n\n### Figures on x\n\n#### Members\n\nfigures\n")


def test_what_is_gained_is_said_in_sentences() -> None:
    rates = Rates(0.8, 0.75, 0.85), Rates(0.82, 0.8, 0.84)
    lines = gain_lines(Gain(*rates, 0.02, (-0.01, 0.05), 12, 3))
    assert lines == [
        "Cross-validation in 5 parts over 12 slides: balanced accuracy 0.800 before, 0.820 after; gain "
        "+0.020, 95 % interval [-0.010, +0.050].",
        "Sensitivity 0.750 before, 0.800 after; specificity 0.850 before, 0.840 after.",
        "The interval includes 0: these figures do not tell whether anything is gained or lost.",
        "The slide of 3 figures is unknown. Each counts as a slide of its own. The interval is too narrow if "
        "several are of one slide.",
    ]
    assert len(gain_lines(Gain(*rates, 0.02, (0.01, 0.05), 12, 0))) == 2
    assert gain_lines(Gain(*rates, -0.02, (-0.05, -0.01), 12, 0))[2:] == [
        "Something is lost: use the bundle that this one was derived from."
    ]


def rows_of(typical: int, atypical: int, slides: int) -> list[Row]:
    of = [row for row in figures(400, slides=slides) if not row[2]][:typical]
    return [*of, *[row for row in figures(400, slides=slides) if row[2]][:atypical]]


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        (rows_of(25, 24, 20), "24 atypical and 25 typical figures are too few to tell what is gained"),
        (rows_of(24, 25, 20), "25 atypical and 24 typical figures are too few"),
        (rows_of(60, 0, 20), "0 atypical and 60 typical figures are too few"),
        (rows_of(30, 30, 4), "30 atypical and 30 typical figures on 4 slides are too few"),
    ],
    ids=["atypical", "typical", "one class", "slides"],
)
def test_too_few_figures_are_refused_with_the_number_that_is_wanted(
    tmp_path: Path, parent: Bundle, rows: list[Row], cause: str, known: list[tuple[str, int]]
) -> None:
    assert OF_EACH_CLASS == 25
    few = store(tmp_path / "few.zarr", rows)
    with pytest.raises(
        InputError,
        match=rf"few\.zarr: calibrating: {cause}.*Label at least 25 figures of each class, from at least 5 ",
    ):
        calibrate(parent, few, tmp_path / "out", device="cpu")
    assert known == []
    assert not (tmp_path / "out").exists()


def test_just_enough_figures_are_taken(tmp_path: Path, parent: Bundle) -> None:
    found = calibrate(parent, store(tmp_path / "s.zarr", rows_of(25, 25, 5)), tmp_path / "out", device="cpu")
    assert found.gain.slides == 5


def test_figures_without_slides_are_slides_of_their_own(tmp_path: Path, parent: Bundle) -> None:
    rows = [(domain, "", label, image) for domain, _, label, image in figures(60)]
    found = calibrate(parent, store(tmp_path / "s.zarr", rows), tmp_path / "out", device="cpu")
    assert (found.gain.slides, found.gain.unknown_slides) == (60, 60)


def test_figures_that_the_bundle_was_trained_on_are_refused(tmp_path: Path, own: Store) -> None:
    trained = bundle(tmp_path / "t", DOMAINS, recorded(own.samples)[:3])
    with pytest.raises(
        InputError,
        match=r"3 of 200 samples were used to train or calibrate 'known', such as sample \d+\. Build",
    ):
        calibrate(trained, own, tmp_path / "out", device="cpu")


def test_figures_of_a_domain_that_all_members_left_out_are_taken_once(tmp_path: Path, own: Store) -> None:
    trained = bundle(tmp_path / "t", ("lab", "lab"), recorded(own.samples))
    derived = calibrate(trained, own, tmp_path / "out", device="cpu").bundle
    assert derived.read_samples() == dict.fromkeys(own.samples["digest"], frozenset())
    with pytest.raises(InputError, match="200 of 200 samples were used to train or calibrate 'out'"):
        calibrate(derived, own, tmp_path / "again", device="cpu")


def test_an_untrained_bundle_is_refused(tmp_path: Path, own: Store) -> None:
    untrained = bundle(tmp_path / "u", DOMAINS, trained=False)
    with pytest.raises(InputError, match=r"known: calibrating: it is untrained.*Take a trained bundle"):
        calibrate(untrained, own, tmp_path / "out", device="cpu")


def test_another_scale_is_refused(tmp_path: Path, parent: Bundle) -> None:
    other = store(tmp_path / "s.zarr", figures(60), mpp=0.5)
    with pytest.raises(InputError, match=r"calibrating: its crops have 0\.5 um/px, but 'known' needs 0\.25"):
        calibrate(parent, other, tmp_path / "out", device="cpu")


def test_an_existing_bundle_is_left_alone(
    tmp_path: Path, parent: Bundle, own: Store, known: list[tuple[str, int]]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"out: writing a bundle: exists already"):
        calibrate(parent, own, tmp_path / "out", device="cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert known == []


def test_a_name_that_no_bundle_can_have_is_refused(
    tmp_path: Path, parent: Bundle, own: Store, known: list[tuple[str, int]]
) -> None:
    with pytest.raises(BundleError, match="--name: checking keys: 'name': String should match"):
        calibrate(parent, own, tmp_path / "out", name="my bundle", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.zarr", "parent"]
    assert known == []


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"fitted_on": "a guess"},
        {"figures": 0},
        {"atypical": -1},
        {"figures_sha256": "0"},
        {"x": 1},
    ],
)
def test_a_calibration_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=f"'{next(iter(changes))}'"):
        bundle(tmp_path / "b", DOMAINS, calibration={**calibration(1.5), **changes})


def test_more_atypical_figures_than_figures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="more figures are atypical than there are"):
        bundle(tmp_path / "b", DOMAINS, calibration={**calibration(1.5), "figures": 3, "atypical": 4})
