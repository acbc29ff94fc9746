from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.evaluations import KnownEnsemble, bundle, calibration, crop, known_members, recorded, store
from wsi_mitosis.core.calibration import calibrated, calibration_error, fit_temperature
from wsi_mitosis.core.metrics import RESAMPLES
from wsi_mitosis.core.scoring import EvaluationReport
from wsi_mitosis.errors import InputError, SpecError
from wsi_mitosis.io.training.evaluation import as_markdown
from wsi_mitosis.io.training.stores import Store
from wsi_mitosis.jobs.bundles import write_untrained
from wsi_mitosis.jobs.evaluate import evaluate
from wsi_mitosis.nets import ensembles
from wsi_mitosis.nets.untrained import stained_noise

Ensemble = ensembles.Ensemble
T, A = 0, 1
ROWS = [
    ("a", "a1", A, crop(1, (0.9, 0.8, 0.1))),  # 0: two of three call it atypical, the mean is .6
    ("a", "a2", T, crop(2, (0.6, 0.7, 0.0))),  # 1: atypical by two votes although the mean is .43
    ("a", "a2", T, crop(3, (0.1, 0.2, 0.3))),  # 2
    ("b", "b1", A, crop(4, (0.1, 0.6, 0.2))),  # 3
    ("b", "b1", T, crop(5, (0.2, 0.1, 0.9))),  # 4
    ("b", "b2", T, crop(6, (0.7, 0.9, 0.8))),  # 5
    ("c", "", A, crop(7, (0.9, 0.9, 0.7))),  # 6
    ("c", "", A, crop(8, (0.6, 0.2, 0.4))),  # 7
    ("c", "", T, crop(9, (0.3, 0.8, 0.2))),  # 8
]
DOMAINS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    return known_members(monkeypatch)


@pytest.fixture
def samples(tmp_path: Path) -> Store:
    return store(tmp_path / "s.zarr", ROWS)


def entries(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything in a report that holds figures."""
    for value in report.values():
        if isinstance(value, dict):
            if "sensitivity" in value and "n" in value:
                yield value
            yield from entries(value)


def test_unseen_samples_are_scored_by_all(tmp_path: Path, samples: Store) -> None:
    other = bundle(tmp_path / "b", DOMAINS, [f"{'f' * 64} a"])
    report = evaluate(other, samples, device="cpu").report.as_json()
    assert (report["scope"], report["trained_on"], report["training_data"]) == ("all samples", 0, False)
    overall = report["overall"]
    assert (overall["n"], overall["atypical"]) == (9, 4)
    assert overall["confusion"] == {
        "atypical_as_atypical": 2,
        "atypical_as_typical": 2,
        "typical_as_typical": 3,
        "typical_as_atypical": 2,
    }
    assert overall["sensitivity"] == pytest.approx(2 / 4)
    assert overall["specificity"] == pytest.approx(3 / 5)
    assert overall["balanced_accuracy"] == pytest.approx(0.55)
    mean = np.array([1.8, 1.3, 0.6, 0.9, 1.2, 2.4, 2.5, 1.2, 1.3]) / 3
    labels = np.array([row[2] for row in ROWS])
    assert overall["auroc"] == pytest.approx(roc_auc_score(labels, mean.round(9)))
    assert list(report["domains"]) == ["a", "b", "c"]
    assert [entry["n"] for entry in report["domains"].values()] == [3, 3, 3]
    assert [entry["sensitivity"] for entry in report["domains"].values()] == [1.0, 0.0, 0.5]
    assert [entry["specificity"] for entry in report["domains"].values()] == [0.5, 0.5, 1.0]
    by_member = report["members"]
    assert list(by_member) == ["member-0", "member-1", "member-2"]
    assert [entry["n"] for entry in by_member.values()] == [9, 9, 9]
    assert by_member["member-2"]["sensitivity"] == pytest.approx(1 / 4)
    assert by_member["member-2"]["specificity"] == pytest.approx(3 / 5)
    assert by_member["member-2"]["test_domain"] == "c"
    assert report["lodo"] is report["unseen"] is report["distinct"] is report["single_view"] is None


def test_intervals_are_drawn_over_slides_where_they_are_known(tmp_path: Path, samples: Store) -> None:
    report = evaluate(bundle(tmp_path / "b", DOMAINS), samples, device="cpu").report.as_json()
    drawn = {name: entry["resampled"] for name, entry in report["domains"].items()}
    assert {name: (one["unit"], one["units"]) for name, one in drawn.items()} == {
        "a": ("slides", 2),
        "b": ("slides", 2),
        "c": ("samples", 3),
    }
    assert report["overall"]["resampled"]["unit"] == "slides and single samples"
    assert report["overall"]["resampled"]["units"] == 7
    for entry in entries(report):
        assert entry["resampled"]["resamples"] + entry["resampled"]["skipped"] == RESAMPLES
        low, high = entry["sensitivity_ci95"]
        assert low <= entry["sensitivity"] <= high


def test_training_samples_are_scored_by_the_member_that_never_saw_them(
    tmp_path: Path, samples: Store, known: list[tuple[str, int]]
) -> None:
    trained = bundle(tmp_path / "b", DOMAINS, recorded(samples.samples))
    found = evaluate(trained, samples, device="cpu")
    report = found.report.as_json()
    assert (report["scope"], report["trained_on"], report["training_data"]) == ("own test domains", 9, False)
    assert report["overall"] is report["domains"] is report["unseen"] is None
    assert sorted(known) == [
        *(("member-0.safetensors", number) for number in (1, 2, 3)),
        *(("member-1.safetensors", number) for number in (4, 5, 6)),
        *(("member-2.safetensors", number) for number in (7, 8, 9)),
    ], "nobody is asked about what it was trained on"
    by_member = report["members"]
    assert [entry["n"] for entry in by_member.values()] == [3, 3, 3]
    assert [entry["test_domain"] for entry in by_member.values()] == ["a", "b", "c"]
    assert [entry["sensitivity"] for entry in by_member.values()] == [1.0, 1.0, 0.5]
    assert [entry["specificity"] for entry in by_member.values()] == [0.5, 0.5, 1.0]
    lodo = report["lodo"]
    assert lodo["members"] == 3
    assert lodo["balanced_accuracy"] == pytest.approx({"mean": 0.75, "sd": 0.0, "n": 3})
    assert lodo["sensitivity"] == pytest.approx({"mean": 2.5 / 3, "sd": np.std([1, 1, 0.5], ddof=1), "n": 3})
    assert lodo["validation_balanced_accuracy"] == pytest.approx({"mean": 0.9, "sd": 0.1, "n": 3})
    assert found.predictions["vote"].eq("").all()
    assert found.predictions["p_atypical"].isna().all()
    assert [curve.name for curve in found.curves] == [
        "member-0 on a",
        "member-1 on b",
        "member-2 on c",
    ]
    assert any("trained on 9 of these 9 samples" in note for note in report["notes"])


def test_no_ensemble_is_scored_on_seen_and_unseen_samples_at_once(
    tmp_path: Path, samples: Store, known: list[tuple[str, int]]
) -> None:
    """The bundle knows domain a, and one figure of b; its members were tested on a and on something else."""
    lines = recorded(samples.samples)[:4]
    trained = bundle(tmp_path / "b", ("a", "z"), lines)
    found = evaluate(trained, samples, device="cpu")
    report = found.report.as_json()
    assert report["overall"] is report["domains"] is None
    assert report["unseen"]["overall"]["n"] == 5
    assert {name: entry["n"] for name, entry in report["unseen"]["domains"].items()} == {"b": 2, "c": 3}
    by_member = report["members"]
    assert [entry["n"] for entry in by_member.values()] == [3, 0]
    assert by_member["member-1"]["balanced_accuracy"] is by_member["member-1"]["auroc_ci95"] is None
    assert report["lodo"]["members"] == 1
    assert report["lodo"]["balanced_accuracy"] == {"mean": 0.75, "sd": None, "n": 1}
    asked = {member: {number for who, number in known if who == member} for member, _ in known}
    assert asked == {
        "member-0.safetensors": {1, 2, 3, 5, 6, 7, 8, 9},
        "member-1.safetensors": {5, 6, 7, 8, 9},
    }
    assert found.predictions["vote"].ne("").tolist() == [False] * 4 + [True] * 5
    assert found.predictions["trained_on"].tolist() == [True] * 4 + [False] * 5
    assert [curve.name for curve in found.curves] == ["ensemble, unseen samples", "member-0 on a"]


def test_a_member_has_unrecorded_samples_of_its_test_domain_too(tmp_path: Path, samples: Store) -> None:
    lines = recorded(samples.samples)
    trained = bundle(tmp_path / "b", DOMAINS, [*lines[1:6], lines[6]])
    report = evaluate(trained, samples, device="cpu").report.as_json()
    assert [entry["n"] for entry in report["members"].values()] == [3, 3, 3]
    assert report["unseen"]["overall"]["n"] == 3


def test_without_own_samples_there_is_no_leaving_one_domain_out(tmp_path: Path, samples: Store) -> None:
    trained = bundle(tmp_path / "b", ("y", "z"), recorded(samples.samples)[:3])
    report = evaluate(trained, samples, device="cpu").report.as_json()
    assert report["lodo"] is report["overall"] is None
    assert [entry["n"] for entry in report["members"].values()] == [0, 0]
    assert report["unseen"]["overall"]["n"] == 6


@pytest.mark.parametrize("lines", ["other domains", "no domains", "two domains"])
def test_nothing_unseen_is_refused(
    tmp_path: Path, samples: Store, lines: str, known: list[tuple[str, int]]
) -> None:
    digests = samples.samples["digest"]
    written = {
        "other domains": [f"{digest} z" for digest in digests],
        "no domains": list(digests),
        "two domains": [f"{digest} {domain}" for digest in digests for domain in ("a", "b")],
    }
    trained = bundle(tmp_path / "b", DOMAINS, written[lines])
    with pytest.raises(InputError, match=r"s\.zarr: evaluating: .*all 9 samples.*--allow-overlap"):
        evaluate(trained, samples, device="cpu")
    assert known == []


def test_training_data_is_scored_when_asked_and_every_figure_says_so(tmp_path: Path, samples: Store) -> None:
    trained = bundle(tmp_path / "b", DOMAINS, recorded(samples.samples)[:4], ensemble=views("flips"))
    report = evaluate(trained, samples, device="cpu", allow_overlap=True).report.as_json()
    plain = evaluate(
        bundle(tmp_path / "o", DOMAINS, ensemble=views("flips")), samples, device="cpu"
    ).report.as_json()
    assert report["training_data"] is True
    assert report["scope"] == "all samples, training data among them"
    found = list(entries(report))
    assert len(found) == 2 * (1 + 3 + 3)
    assert all(entry["training_data"] is True for entry in found)
    assert report["overall"]["training_samples"] == 4
    assert [entry["training_samples"] for entry in report["domains"].values()] == [3, 1, 0]
    assert report["overall"]["confusion"] == plain["overall"]["confusion"]
    assert not any(entry["training_data"] for entry in entries(plain))
    assert any(note.startswith("TRAINING DATA") for note in report["notes"])


def test_allowing_an_overlap_that_is_none_changes_nothing(tmp_path: Path, samples: Store) -> None:
    other = bundle(tmp_path / "b", DOMAINS, [f"{'f' * 64} a"])
    asked, not_asked = (
        evaluate(other, samples, device="cpu", allow_overlap=allow) for allow in (True, False)
    )
    assert asked.report == not_asked.report


def views(tta: str, zooms: tuple[float, ...] = (1.0,)) -> dict[str, Any]:
    return {"vote": "majority", "threshold": 0.5, "tta": tta, "zooms": list(zooms)}


def test_a_single_view_stands_beside_the_bundles(tmp_path: Path) -> None:
    samples = store(
        tmp_path / "s.zarr",
        [
            ("a", "1", A, crop(1, (0.9, 0.9), single=(0.1, 0.2))),
            ("a", "2", T, crop(2, (0.1, 0.1), single=(0.3, 0.9))),
        ],
    )
    flips = bundle(tmp_path / "b", ("a", "b"), ensemble=views("flips"))
    report = evaluate(flips, samples, device="cpu").report.as_json()
    assert (report["tta"], report["overall"]["balanced_accuracy"]) == ("flips", 1.0)
    assert report["single_view"]["overall"]["balanced_accuracy"] == 0.0
    assert report["single_view"]["members"]["member-0"]["specificity"] == 1.0
    assert report["single_view"]["domains"]["a"]["n"] == 2
    asked = evaluate(flips, samples, device="cpu", tta="none").report.as_json()
    assert (asked["tta"], asked["overall"]["balanced_accuracy"], asked["single_view"]) == ("none", 0.0, None)


def test_zooms_are_extra_views(tmp_path: Path) -> None:
    samples = store(tmp_path / "s.zarr", [("a", "1", A, crop(1, (0.9,), single=(0.1,)))])
    zoomed = bundle(tmp_path / "b", ("a",), ensemble=views("none", (1.0, 1.3)))
    report = evaluate(zoomed, samples, device="cpu").report.as_json()
    assert report["overall"]["sensitivity"] == 1.0
    assert report["single_view"]["overall"]["sensitivity"] == 0.0


def test_byte_equal_samples_are_counted_and_the_distinct_ones_stand_beside(tmp_path: Path) -> None:
    right, wrong, both = crop(1, (0.9,)), crop(2, (0.1,)), crop(3, (0.8,))
    samples = store(
        tmp_path / "s.zarr",
        [
            ("a", "1", A, right),
            ("a", "2", A, wrong),
            ("a", "3", A, wrong),
            ("a", "4", T, crop(4, (0.2,))),
            ("b", "5", T, both),
            ("b", "6", A, both),
        ],
    )
    report = evaluate(bundle(tmp_path / "b", ("a",)), samples, device="cpu").report.as_json()
    overall = report["overall"]
    assert (overall["n"], overall["sensitivity"], overall["specificity"]) == (6, 0.5, 0.5)
    assert report["distinct"] == overall["distinct"]
    distinct = report["distinct"]
    assert (distinct["n"], distinct["sensitivity"], distinct["specificity"]) == (4, 0.5, 0.5)
    assert distinct["contradictory"] == 1
    assert distinct["confusion"]["typical_as_atypical"] == 1, "the first in the store's order stands"
    assert report["domains"]["a"]["distinct"]["sensitivity"] == 0.5
    assert report["domains"]["a"]["sensitivity"] == pytest.approx(1 / 3)
    assert report["domains"]["a"]["distinct"]["contradictory"] == 0
    assert report["members"]["member-0"]["distinct"]["n"] == 4


def test_predictions_say_what_each_member_said(tmp_path: Path, samples: Store) -> None:
    table = evaluate(bundle(tmp_path / "b", DOMAINS), samples, device="cpu").predictions
    assert list(table.columns) == [
        *("source_id", "slide", "domain", "digest", "trained_on", "label"),
        *("p_member-0", "p_member-1", "p_member-2", "p_atypical", "vote"),
    ]
    assert table["source_id"].tolist() == samples.samples["source_id"].tolist()
    assert table["p_member-1"].tolist() == [0.8, 0.7, 0.2, 0.6, 0.1, 0.9, 0.9, 0.2, 0.8]
    assert table["label"].tolist()[:3] == ["atypical", "typical", "typical"]
    assert table["vote"].tolist()[:3] == ["atypical", "atypical", "typical"]
    assert table["p_atypical"][1] == pytest.approx(1.3 / 3)


def test_probabilities_are_at_the_temperature_of_the_bundle(tmp_path: Path, samples: Store) -> None:
    at_2 = bundle(tmp_path / "b", DOMAINS, [f"{'f' * 64} a"], calibration=calibration(2.0))
    found = evaluate(at_2, samples, device="cpu")
    drawn = np.array([0.8, 0.7, 0.2, 0.6, 0.1, 0.9, 0.9, 0.2, 0.8])
    roots = np.sqrt(drawn / (1 - drawn))
    np.testing.assert_allclose(found.predictions["p_member-1"], roots / (1 + roots))
    plain = evaluate(bundle(tmp_path / "p", DOMAINS, [f"{'f' * 64} a"]), samples, device="cpu")
    assert (found.report.temperature, plain.report.temperature) == (2.0, 1.0)
    assert found.predictions["vote"].tolist() == plain.predictions["vote"].tolist()
    for mine, others in zip(found.report.members.values(), plain.report.members.values(), strict=True):
        assert (mine.auroc, mine.confusion) == (others.auroc, others.confusion)
        assert mine.brier != others.brier


def test_an_ensemble_is_scored_before_and_after_its_own_temperature(tmp_path: Path, samples: Store) -> None:
    at_2 = bundle(tmp_path / "b", DOMAINS, [f"{'f' * 64} a"], calibration=calibration(2.0))
    found, plain = (
        evaluate(one, samples, device="cpu").report
        for one in (at_2, bundle(tmp_path / "p", DOMAINS, [f"{'f' * 64} a"]))
    )
    assert list(found.reliability) == list(plain.reliability) == ["ensemble"]
    mine, others = found.reliability["ensemble"], plain.reliability["ensemble"]
    assert (mine.fitted_on, mine.temperatures) == ("the bundle's", dict.fromkeys(DOMAINS, 2.0))
    assert (others.calibrated, others.temperatures) == (None, {})
    assert found.overall is not None
    assert plain.overall is not None
    assert mine.calibrated is not None
    assert mine.calibrated.brier == pytest.approx(found.overall.brier)
    assert mine.before.brier == pytest.approx(plain.overall.brier)
    assert mine.before.brier == pytest.approx(others.before.brier)
    assert mine.calibrated.bins == found.calibration["ensemble"]
    mean = evaluate(bundle(tmp_path / "m", DOMAINS), samples, device="cpu").predictions["p_atypical"]
    labels = np.array([row[2] for row in ROWS])
    assert others.before.calibration_error == pytest.approx(calibration_error(labels, mean.to_numpy()))


VOTES = [(3, 3), (1, 3), (0, 3), (2, 3), (0, 3), (1, 3), (2, 2), (1, 1), (0, 0)]
"""Of ROWS. The experts of the last two are too few to agree or not."""


def test_the_vote_is_compared_with_the_experts(tmp_path: Path) -> None:
    voted = store(tmp_path / "v.zarr", ROWS, votes=VOTES)
    other = bundle(tmp_path / "b", DOMAINS, [f"{'f' * 64} a"])
    report = evaluate(other, voted, device="cpu").report
    assert list(report.experts) == ["ensemble"]
    found = report.experts["ensemble"]
    # Called atypical: rows 0, 1, 5 and 6. Votes for atypical: 3 1 0 2 0 1 2; for typical: 0 2 3 1 3 2 0.
    assert found.classifier.sensitivity == pytest.approx(7 / 9)
    assert found.classifier.specificity == pytest.approx(7 / 11)
    # The other experts: 3 + 0 + 1 + 0 + 2 of the votes for atypical, 1 + 3 + 0 + 3 + 1 of those for typical.
    assert found.another_expert.sensitivity == pytest.approx(6 / 9)
    assert found.another_expert.specificity == pytest.approx(8 / 11)
    assert (found.unanimous.n, found.unanimous.atypical) == (4, 2)
    assert (found.unanimous.sensitivity, found.unanimous.specificity) == (1.0, 1.0)
    assert (found.divided.n, found.divided.atypical) == (3, 1)
    assert (found.divided.sensitivity, found.divided.specificity) == (0.0, 0.0)
    assert EvaluationReport.parse(report.as_json(), "report") == report


def test_members_on_domains_left_out_are_compared_with_the_experts(tmp_path: Path) -> None:
    voted = store(tmp_path / "v.zarr", ROWS, votes=VOTES)
    # At temperature 4 row 1 has .6 ** .25 / (.6 ** .25 + .4 ** .25) = .53 by member 0, and is typical at .55.
    ensemble = {"vote": "majority", "threshold": 0.55, "tta": "none", "zooms": [1.0]}
    lines = recorded(voted.samples)
    trained = bundle(tmp_path / "b", DOMAINS, lines, calibration=calibration(4.0), ensemble=ensemble)
    report = evaluate(trained, voted, device="cpu").report
    assert list(report.experts) == ["members on domains left out"]
    found = report.experts["members on domains left out"]
    # Called atypical: row 0 by member 0, row 5 by member 1 and row 6, with .55, by member 2.
    assert found.classifier.sensitivity == pytest.approx((3 + 2 + 1) / 9)
    assert found.classifier.specificity == pytest.approx((2 + 3 + 1 + 3) / 11)


def test_experts_beside_training_data_are_marked(tmp_path: Path) -> None:
    voted = store(tmp_path / "v.zarr", ROWS, votes=VOTES)
    trained = bundle(tmp_path / "b", DOMAINS, recorded(voted.samples))
    report = evaluate(trained, voted, device="cpu", allow_overlap=True).report
    assert list(report.experts) == ["ensemble"]
    beside = as_markdown(report).split("## Beside the experts")[1].split("## Calibration")[0]
    marked = [line for line in beside.splitlines() if line.startswith("| ensemble")]
    assert len(marked) == 3
    assert all(line.startswith("| ensemble, training data") for line in marked)


def test_labels_without_experts_are_compared_with_none(tmp_path: Path, samples: Store) -> None:
    alone = store(tmp_path / "one.zarr", ROWS, votes=[(row[2], 1) for row in ROWS])
    for of in (samples, alone):
        report = evaluate(bundle(tmp_path / of.folder.stem, DOMAINS), of, device="cpu").report
        assert report.experts == {}
        assert "experts" not in as_markdown(report)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_domains_left_out_are_scored_at_a_temperature_of_the_others(
    tmp_path: Path, temperature: float
) -> None:
    """Of domains that want other temperatures, none gets its own, whatever the bundle's is."""
    shares = {"a": (0.9, 0.8), "b": (0.7, 0.7), "c": (0.6, 0.9)}
    rows = []
    for index, (domain, (p, right)) in enumerate(shares.items()):
        for number in range(20):
            label = number % 2
            towards = label if number < 20 * right else 1 - label
            answer = [0.5, 0.5, 0.5]
            answer[index] = p if towards else 1 - p
            rows.append((domain, f"{domain}{number}", label, crop(20 * index + number, tuple(answer))))
    samples = store(tmp_path / "s.zarr", rows)
    fitted = bundle(tmp_path / "b", DOMAINS, recorded(samples.samples), calibration=calibration(temperature))
    report = evaluate(fitted, samples, device="cpu").report
    found = report.reliability["members on domains left out"]
    assert (found.n, found.fitted_on) == (60, "the other domains")
    assert found.calibrated is not None
    labels = np.array([row[2] for row in rows])
    drawn = np.array([row[3][20, 20, "abc".index(row[0])] / 100 for row in rows])
    domains = np.array([row[0] for row in rows])
    after = drawn.copy()
    for domain in DOMAINS:
        of, others = domains == domain, domains != domain
        expected = fit_temperature(labels[others], drawn[others])
        assert found.temperatures[domain] == pytest.approx(expected, rel=1e-4)
        assert abs(fit_temperature(labels[of], drawn[of]) / expected - 1) > 0.05
        after[of] = calibrated(drawn[of], expected)
    assert found.before.brier == pytest.approx(np.mean((drawn - labels) ** 2))
    assert found.calibrated.brier == pytest.approx(np.mean((after - labels) ** 2), rel=1e-5)
    assert found.before.calibration_error == pytest.approx(calibration_error(labels, drawn))


def test_a_temperature_wants_two_domains_with_both_classes(tmp_path: Path, samples: Store) -> None:
    only_typical = [row for row in ROWS if row[0] != "a" or row[2] == T]
    both = store(tmp_path / "both.zarr", [*(row for row in ROWS if row[0] == "b"), *only_typical[:2]])
    for name, of in (("one", samples), ("two", both)):
        lines = recorded(of.samples)
        domains = ("a",) if name == "one" else ("a", "b")
        found = evaluate(bundle(tmp_path / name, domains, lines), of, device="cpu").report
        compared = found.reliability["members on domains left out"]
        assert (compared.temperatures, compared.calibrated) == ({}, None)


def test_crops_too_small_are_refused_by_the_stores_name(tmp_path: Path) -> None:
    small = store(tmp_path / "s.zarr", [("a", "1", A, crop(1, (0.5,))[:31, :31])])
    with pytest.raises(InputError, match=r"s\.zarr: cutting crops: .*31 x 31 px, smaller than the 32 px"):
        evaluate(bundle(tmp_path / "b", ("a",)), small, device="cpu")


@pytest.mark.parametrize(
    ("mpp", "fits"), [(0.25, True), (0.27, True), (0.23, True), (0.28, False), (0.5, False)]
)
def test_another_scale_is_refused(tmp_path: Path, mpp: float, fits: bool) -> None:
    samples = store(tmp_path / "s.zarr", ROWS, mpp=mpp)
    trained = bundle(tmp_path / "b", DOMAINS)
    if fits:
        notes = evaluate(trained, samples, device="cpu").report.notes
        assert not any("um/px" in note for note in notes)
        return
    with pytest.raises(InputError, match=f"its crops have {mpp} um/px, but 'known' needs 0.25 um/px"):
        evaluate(trained, samples, device="cpu")


def test_what_a_reader_must_know_is_noted(tmp_path: Path, samples: Store) -> None:
    unlisted = evaluate(bundle(tmp_path / "b", DOMAINS), samples, device="cpu").report.as_json()
    assert unlisted["notes"] == [
        "The bundle does not list what it was trained on: these samples may be among it.",
        "The dataset states no um/px; it is taken to be the bundle's 0.25.",
    ]
    untrained = evaluate(
        bundle(tmp_path / "u", DOMAINS, trained=False), samples, device="cpu"
    ).report.as_json()
    assert untrained["trained"] is False
    assert untrained["notes"] == [
        "'known' is UNTRAINED: these figures mean nothing.",
        "The dataset states no um/px; it is taken to be the bundle's 0.25.",
    ]
    assert "Research use only" in untrained["use"]
    unseen = evaluate(
        bundle(tmp_path / "r", DOMAINS, ["f" * 64 + " elsewhere"]), samples, device="cpu"
    ).report
    assert unseen.scope == "all samples"
    assert unseen.notes[0].startswith("The bundle lists neither the places nor the looks of its figures,")


def test_the_report_is_plain_json_and_the_same_again(tmp_path: Path, samples: Store) -> None:
    trained = bundle(tmp_path / "b", DOMAINS, recorded(samples.samples), ensemble=views("d4"))
    first, second = (evaluate(trained, samples, device="cpu").report for _ in range(2))
    text = json.dumps(first.as_json(), allow_nan=False)
    assert json.loads(text) == first.as_json()
    assert EvaluationReport.parse(json.loads(text), "text") == first == second


def test_the_reports_schema_is_closed(tmp_path: Path, samples: Store) -> None:
    trained = bundle(tmp_path / "b", DOMAINS, recorded(samples.samples), ensemble=views("d4"))
    report = evaluate(trained, samples, device="cpu").report.as_json()
    entry = report["members"]["member-0"]
    for part in (
        report,
        report["single_view"],
        entry,
        entry["confusion"],
        entry["resampled"],
        report["lodo"],
    ):
        part["stray"] = 1
        with pytest.raises(SpecError, match=r"unknown key '[^']*stray'|Unexpected keyword argument"):
            EvaluationReport.parse(report, "text")
        del part["stray"]
    assert EvaluationReport.parse(report, "text").as_json() == report


def test_progress_is_reported_by_member(tmp_path: Path, samples: Store) -> None:
    calls: list[tuple[str, int, int]] = []
    trained = bundle(tmp_path / "b", ("a", "z"), recorded(samples.samples))
    evaluate(trained, samples, device="cpu", on_progress=lambda *line: calls.append(line))
    assert calls == [("member-0", 0, 3), ("member-0", 3, 3)]


def test_a_device_that_does_not_exist_is_refused(tmp_path: Path, samples: Store) -> None:
    with pytest.raises(InputError, match="no such device"):
        evaluate(bundle(tmp_path / "b", DOMAINS), samples, device="abacus")


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_report_says_what_computed_it(
    tmp_path: Path, samples: Store, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    built = []

    class Noted(KnownEnsemble):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            built.append(options["backend"])

    monkeypatch.setattr(ensembles, "Ensemble", Noted)
    report = evaluate(bundle(tmp_path / "b", DOMAINS), samples, device="cpu", backend=backend).report
    assert set(built) == {backend}
    assert report.backend == backend
    assert report.computed_by == f"{report.program}, cpu, {backend}"
    assert f"{report.program}, cpu, {backend}" in as_markdown(report)
    before = report.model_copy(update={"backend": ""})  # of a version that did not state it
    assert before.computed_by == f"{report.program}, cpu"


def test_networks_are_asked_as_the_whole_ensemble_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back from disk, cut to the window of all zooms, with and without the extra views."""
    monkeypatch.setattr(ensembles, "Ensemble", Ensemble)
    crops = stained_noise(70, 48, seed=3)
    samples = store(tmp_path / "s.zarr", [("a", "1", row % 2, image) for row, image in enumerate(crops)])
    zoomed = write_untrained(
        tmp_path / "b", name="b", patch_px=32, width=2, members=2, tta="flips", zooms=(1.0, 0.8)
    )
    found = evaluate(zoomed, samples, device="cpu")
    whole = Ensemble(zoomed.manifest, zoomed.read_members(), device="cpu")
    assert whole.read_px == 40
    expected = whole.predict(crops[:, 4:44, 4:44])
    # Batches of another size sum in another order.
    np.testing.assert_allclose(found.predictions[["p_member-0", "p_member-1"]], expected, atol=2e-5)
    plain = write_untrained(tmp_path / "p", name="p", patch_px=32, width=2, members=2, tta="none")
    single = evaluate(plain, samples, device="cpu").report
    for name, entry in single.members.items():
        beside = found.report.single_view.members[name]
        assert beside.brier == pytest.approx(entry.brier, abs=2e-5)
        assert beside.confusion == entry.confusion
    assert single.overall.brier != pytest.approx(found.report.overall.brier, abs=1e-3)
