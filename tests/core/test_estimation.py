"""What the labels of a sample say of all figures: values by hand, published formulas, and coverage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from tests.sample_figures import Kind, figures_of, random_figures
from wsi_mitosis.core.estimation import (
    METHODS,
    Estimate,
    Estimates,
    Sample,
    estimate_all,
    estimate_slides,
    estimates_of,
)
from wsi_mitosis.core.sampling import choose, draw, stratify
from wsi_mitosis.core.summary import wilson
from wsi_mitosis.errors import InputError

Array = np.ndarray


def sample(
    sizes: list[int], labels: list[str], p_atypical: Array | None = None, weights: list[float] | None = None
) -> Sample:
    """A sample of cells of some sizes; `labels` has a letter per labelled figure: a, t or n, by cell."""
    cells = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.concatenate(
        [start + np.arange(len(of_cell)) for start, of_cell in zip(starts, labels, strict=True)]
    )
    letters = np.array(list("".join(labels)))
    return Sample(
        cells,
        np.full(len(cells), 0.5) if p_atypical is None else p_atypical,
        rows,
        np.ones(len(rows)) if weights is None else np.array(weights),
        (letters == "a").astype(float),
        (letters != "n").astype(float),
    )


def one(found: tuple[Estimate, ...], quantity: str, method: str = "stratified") -> Estimate:
    return next(e for e in found if (e.quantity, e.method) == (quantity, method))


class Spread(NamedTuple):
    """How an estimate varies, by hand."""

    variance: float
    skew: float
    labels: float
    freedom: float


def assert_interval(estimate: Estimate, value: float, spread: Spread, figures: int = 1) -> None:
    """At both ends, (end - value)^2 is t^2 times the variance that the estimate has if the end is true."""
    variance, skew, labels, freedom = spread
    square = student.ppf(0.975, freedom) ** 2
    assert estimate.value == pytest.approx(figures * value)
    assert estimate.low is not None
    assert estimate.high is not None
    for end in (estimate.low / figures, estimate.high / figures):
        away = end - value
        assert away**2 == pytest.approx(square * (variance + skew * away - away**2 / labels), rel=1e-4)
    assert estimate.low < figures * value < estimate.high


# By hand


def test_two_strata_by_hand() -> None:
    found = estimates_of(sample([60, 40], ["attttt", "aaat"]))
    # 60 * 1/6 + 40 * 3/4
    assert one(found, "atypical").value == pytest.approx(40)
    # A label of the whole sample, .4 atypical, joins: 1.4 / 7 = .2 and 3.4 / 5 = .68. Variances .2 * .8 *
    # 7/6 = .186667 and .68 * .32 * 5/4 = .272, third moments .16 * .6 = .096 and .2176 * -.36 = -.078336.
    # Factors .36 * .9 / 6 = .054 and .16 * .9 / 4 = .036. Variance of the mean .01008 + .009792 = .019872;
    # skew (.054^2 / .6 * .096 - .036^2 / .4 * .078336) / .019872 = .010706; labels .24 * 10/9 / .019872 =
    # 13.419; degrees of freedom .019872^2 / (.01008^2 / 6 + .009792^2 / 4) = 9.654
    spread = Spread(0.019872, 0.0107061, 13.4192, 9.6539)
    assert_interval(one(found, "atypical_fraction"), 0.4, spread)
    assert_interval(one(found, "atypical"), 0.4, spread, 100)


def test_one_stratum_by_hand() -> None:
    # 10 of 100: factor (1 - .1) / 10 = .09; variance .3 * .7 * 11/10 = .231, third moment .21 * .4 = .084
    found = estimates_of(sample([100], ["aaattttttt"]))
    spread = Spread(0.09 * 0.231, 0.09**2 * 0.084 / 0.02079, 0.21 * 10 / 9 / 0.02079, 10)
    assert_interval(one(found, "atypical_fraction"), 0.3, spread)


def test_one_stratum_with_many_labels_is_wilsons_interval() -> None:
    found = one(estimates_of(sample([10**6], ["a" * 300 + "t" * 700])), "atypical_fraction")
    low, high = wilson(300, 1000) or (0, 0)
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))


def test_a_fraction_of_the_mitotic_figures_by_hand() -> None:
    # Of ten labels two are no mitotic figures: 3 of 8. With d = atypical - 3/8 mitosis: variance
    # .8 * 3/8 * 5/8 = .1875, third moment .1875 * (5/8 - 3/8) = .046875; all is divided by .8, twice, once,
    # by 1 / .8.
    found = estimates_of(sample([100], ["aaatttttnn"]))
    variance = 0.09 * 0.1875 * 1.1
    spread = Spread(variance / 0.64, 0.0081 * 0.046875 / variance / 0.8, 0.1875 * 10 / 9 / variance * 0.8, 10)
    assert_interval(one(found, "atypical_fraction"), 3 / 8, spread)
    variance = 0.09 * 0.16 * 1.1
    spread = Spread(variance, 0.0081 * 0.16 * -0.6 / variance, 0.16 * 10 / 9 / variance, 10)
    assert_interval(one(found, "mitoses"), 0.8, spread, 100)
    assert one(found, "atypical").value == pytest.approx(30)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_are_all_alike_still_leave_an_interval(method: str) -> None:
    found = estimates_of(sample([600, 400], ["tttttt", "tttt"], np.linspace(0, 1, 1000)))
    fraction = one(found, "atypical_fraction", method)
    # 1 / (.36 * .99 / 6 + .16 * .99 / 4) = 1 / .099 labels; degrees of freedom
    # .099^2 / (.0594^2 / 6 + .0396^2 / 4) = 10; t^2 / (labels + t^2) = 4.9646 / (10.1010 + 4.9646)
    assert (fraction.value, fraction.low) == (0, 0)
    assert fraction.high == pytest.approx(0.32953, abs=1e-4)
    mitoses = one(found, "mitoses", method)
    assert mitoses.value == pytest.approx(1000)
    assert mitoses.high == pytest.approx(1000)
    assert mitoses.low == pytest.approx(1000 * (1 - 0.32953), abs=0.1)


def test_no_interval_goes_beyond_what_the_other_figures_can_change() -> None:
    # 11 of 12 are labelled: 3 or 4 are atypical
    atypical = one(estimates_of(sample([12], ["aaatttttttt"])), "atypical")
    assert atypical.low == pytest.approx(3)
    assert atypical.high == pytest.approx(4)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_all_figures_give_the_exact_value_without_width(method: str) -> None:
    labels = ["aaattn", "ttttan"]
    found = estimates_of(sample([6, 6], labels, np.linspace(0, 1, 12)))
    for quantity, value in (("atypical_fraction", 4 / 10), ("atypical", 4), ("mitoses", 10)):
        estimate = one(found, quantity, method)
        assert estimate.value == pytest.approx(value)
        assert estimate.low == estimate.high == estimate.value
        assert estimate.width == 0


def test_without_mitotic_figures_the_fraction_is_undefined() -> None:
    found = estimates_of(sample([100], ["n" * 10]))
    assert one(found, "atypical_fraction") == Estimate("stratified", "atypical_fraction", None, None, None)
    assert one(found, "atypical_fraction").width is None
    assert one(found, "mitoses").value == 0


# Prediction-powered inference


def test_one_stratum_is_the_published_estimator() -> None:
    """PPI++ (arXiv 2311.01453), where the unlabelled data are the figures without a label."""
    generator = np.random.default_rng(5)
    p_atypical = generator.random(200)
    truth = (generator.random(200) < p_atypical).astype(float)
    labels = "".join("a" if value else "t" for value in truth[:40])
    found = estimates_of(sample([200], [labels], p_atypical))
    y, f, f_unlabelled = truth[:40], p_atypical[:40], p_atypical[40:]
    power = np.cov(y, f)[0, 1] / ((1 + 40 / 160) * p_atypical.var(ddof=1))
    expected = power * f_unlabelled.mean() + (y - power * f).mean()
    assert 0.2 < power < 1
    assert one(found, "atypical_fraction", "prediction-powered").value == pytest.approx(expected)
    # The difference of the two estimates is the prediction's alone.
    plain = one(found, "atypical_fraction").value
    assert plain == pytest.approx(y.mean())


def test_the_value_is_that_of_ppi_python() -> None:
    """`ppi_mean_pointestimate` of ppi-python 0.2.3 gives .39667605 with the power 0.22159679 of PPI++.

    The package itself computes the power with the covariance divided by n instead of n - 1.
    """
    labelled = [0.9, 0.2, 0.7, 0.4, 0.1, 0.6, 0.5, 0.3, 0.8, 0.65]
    p_atypical = np.array([*labelled, *np.linspace(0.05, 0.95, 30)])
    found = estimates_of(sample([40], ["atttaattta"], p_atypical))
    powered = one(found, "atypical_fraction", "prediction-powered")
    assert powered.value == pytest.approx(0.39667605, abs=1e-8)


def test_a_slope_by_hand() -> None:
    # One stratum, labels a t t t ... and P(atypical) of 0 or 1 in half of all figures: the slope is
    # covariance / variance in the population. 10 labels: P 1 for 4 of them, of which 3 are atypical; one of
    # the 6 others is. Covariance (3 - 4 * 4 / 10) / 9 = .15556; variance of 50 of 100: .25 * 100/99 = .25253;
    # slope .616. Estimate .4 + .616 * (.5 - .4) = .4616.
    p_atypical = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0] + [1] * 46 + [0] * 44, float)
    found = estimates_of(sample([100], ["aaatattttt"], p_atypical))
    powered = one(found, "atypical_fraction", "prediction-powered")
    # Ten residuals y - .616 f have squares of 1.585894 and cubes of .169105 in all about their mean, .1536. A
    # label joins: variance (1.585894 + .24) / 10 = .182589, third moment (.169105 + .048) / 11 = .019737. The
    # slope costs 10/8: variance of the mean .09 * .182589 * 10/8 = .020541.
    spread = Spread(0.0205413, 0.0081 * 0.0197369 / 0.0205413, 0.24 * 10 / 9 / 0.0205413, 10)
    assert_interval(powered, 0.4616, spread)


def test_a_machine_that_says_the_opposite_is_not_used() -> None:
    p_atypical = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1] + [1] * 46 + [0] * 44, float)
    found = estimates_of(sample([100], ["aaatattttt"], p_atypical))
    for quantity in ("atypical_fraction", "atypical", "mitoses"):
        powered, plain = one(found, quantity, "prediction-powered"), one(found, quantity)
        assert (powered.value, powered.low, powered.high) == (plain.value, plain.low, plain.high)


def test_a_machine_that_was_right_each_time_leaves_an_interval() -> None:
    p_atypical = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0] + [1] * 27 + [0] * 63, float)
    powered = one(
        estimates_of(sample([100], ["aaattttttt"], p_atypical)), "atypical_fraction", "prediction-powered"
    )
    assert powered.width is not None
    assert powered.width > 0.1


def test_predictions_make_the_interval_narrower() -> None:
    population = synthetic(400, wrong=0.05)
    rows = choose(np.zeros(400, np.int64), 80, 0)
    found = estimates_of(drawn_sample(population, np.zeros(400, np.int64), rows))
    powered, plain = (one(found, "atypical_fraction", method).width for method in METHODS)
    assert powered is not None
    assert plain is not None
    assert powered < 0.75 * plain


# Any sample


@settings(max_examples=60)
@given(st.data())
def test_values_and_intervals_are_possible(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(10, 40), min_size=1, max_size=4))
    labels = [data.draw(st.text("atn", min_size=5, max_size=10)) for _ in sizes]
    p_atypical = np.random.default_rng(data.draw(st.integers(0, 99))).random(sum(sizes))
    weights = data.draw(
        st.lists(st.floats(1, 3), min_size=len("".join(labels)), max_size=len("".join(labels)))
    )
    drawn = sample(sizes, labels, p_atypical, weights)
    rest = sum(sizes) - len(drawn.rows)
    for estimate in estimates_of(drawn):
        if estimate.value is None:
            assert not drawn.mitosis.any()
            continue
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
        known = drawn.atypical.sum() if estimate.quantity == "atypical" else drawn.mitosis.sum()
        least, most = (0, 1) if estimate.quantity == "atypical_fraction" else (known, known + rest)
        assert least - 1e-9 <= estimate.low
        assert estimate.high <= most + 1e-9


# From verdicts


def table_of(strata: list[tuple[str, int]], labels: list[str]) -> pd.DataFrame:
    """A drawn table of strata (slide, figures), of which the first figures are drawn, one per letter."""
    rows = [
        {"slide": slide, "stratum": number, "drawn": row < len(labels[number])}
        for number, (slide, figures) in enumerate(strata)
        for row in range(figures)
    ]
    table = pd.DataFrame(rows)
    return table.assign(figure_id=[f"f{row:03}" for row in range(len(rows))], label="typical", p_atypical=0.3)


VERDICTS = {"a": "atypical", "t": "typical", "n": "none", "u": "unsure", "=": "tie"}


def verdicts_of(table: pd.DataFrame, letters: str) -> dict[tuple[str, str], str]:
    """Verdicts of the drawn figures in their order; `.` is none."""
    drawn = table[table["drawn"]]
    names = zip(drawn["slide"], drawn["figure_id"], strict=True)
    return {name: VERDICTS[letter] for name, letter in zip(names, letters, strict=True) if letter in VERDICTS}


def value(found: Estimates, quantity: str = "atypical") -> float | None:
    return one(found.each, quantity).value


def test_figures_without_a_label_are_left_out_of_their_stratum() -> None:
    table = table_of([("s", 60), ("s", 40)], ["atttttt", "aaatt"])
    found = estimate_all(table, verdicts_of(table, "attttt.aaa=t"))
    assert (found.figures, found.drawn, found.labels) == (100, 12, 10)
    assert (found.undecided, found.missing) == (1, 1)
    assert value(found) == pytest.approx(60 / 6 + 40 * 3 / 4)


def test_a_stratum_without_labels_is_joined_to_the_next() -> None:
    # The strata of 30 and 20 have one label, and are one of 50 with it and the five of the last one.
    table = table_of([("s", 50), ("s", 30), ("s", 20)], ["aatttt", "t", "attt"])
    found = estimate_all(table, verdicts_of(table, "aattttt" + "attt"))
    # Labels stand for 30, and for 20 / 4 figures each: (1 * 5) / (30 + 20) of 50
    assert value(found) == pytest.approx(50 * 2 / 6 + 50 * 5 / 50)
    joined = sample([50, 50], ["aatttt", "tattt"], np.full(100, 0.3), [50 / 6] * 6 + [30] + [5] * 4)
    assert found.each == estimates_of(joined)


def test_a_last_stratum_with_one_label_is_joined_to_the_one_before() -> None:
    table = table_of([("s", 50), ("s", 50)], ["aaattttttt", "t"])
    found = estimate_all(table, verdicts_of(table, "aaatttttttt"))
    assert value(found) == pytest.approx(100 * 15 / 100)
    joined = sample([100], ["aaatttttttt"], np.full(100, 0.3), [5] * 10 + [50])
    assert found.each == estimates_of(joined)


def test_verdicts_of_other_figures_are_ignored() -> None:
    table = table_of([("s", 100)], ["aaattttttt"])
    verdicts = verdicts_of(table, "aaattttttt")
    others = {("s", name): "atypical" for name in table.loc[~table["drawn"], "figure_id"]}
    assert estimate_all(table, verdicts | others) == estimate_all(table, verdicts)


def test_the_same_figure_id_on_two_slides_is_two_figures() -> None:
    table = table_of([("a", 50), ("b", 50)], ["tttttt", "tttttt"])
    table["figure_id"] = [f"f{row % 50}" for row in range(100)]
    found = estimate_all(table, verdicts_of(table, "ttttttaaaaaa"))
    assert value(found) == pytest.approx(50)


@pytest.mark.parametrize(
    ("letters", "cause"),
    [
        ("aaattttttu.=", "3 of the 12 figures of the sample have no label. Review them"),
        ("aattttttt", "9 labels are too few for an estimate. Label at least 10"),
    ],
)
def test_too_few_labels_are_refused(letters: str, cause: str) -> None:
    table = table_of([("s", 100)], [letters])
    with pytest.raises(InputError, match=cause):
        estimate_all(table, verdicts_of(table, letters))


def test_a_fifth_without_a_label_is_allowed() -> None:
    table = table_of([("s", 100)], ["t" * 15])
    assert estimate_all(table, verdicts_of(table, "t" * 12 + "uu.")).labels == 12


def test_all_of_a_few_figures_are_enough() -> None:
    table = table_of([("s", 4)], ["attn"])
    found = estimate_all(table, verdicts_of(table, "attn"))
    assert value(found, "atypical_fraction") == pytest.approx(1 / 3)
    assert one(found.each, "mitoses").width == 0


# Slides


def test_labels_of_a_slide_are_weighed_as_in_the_sample() -> None:
    # Slide b is in two strata: 8 labels for 16 figures each of 2, and 4 labels of 5 each.
    table = table_of(
        [("b", 10), ("a", 6), ("b", 15), ("a", 5)],
        ["aaaatttt", "", "attt", ""],
    )
    table["stratum"] = table["stratum"] // 2
    found = estimate_slides(table, verdicts_of(table, "aaaatttt" + "attt"))
    # (4 * 2 + 1 * 5) / (8 * 2 + 4 * 5)
    assert value(found["b"], "atypical_fraction") == pytest.approx(13 / 36)
    assert (found["b"].figures, found["b"].labels) == (25, 12)
    assert found["a"].each == ()


def test_a_slide_with_strata_of_its_own_keeps_them() -> None:
    table = table_of([("a", 60), ("a", 40), ("b", 50)], ["attttt", "aaat", "tttttttttt"])
    verdicts = verdicts_of(table, "attttt" + "aaat" + "tttttttttt")
    found = estimate_slides(table, verdicts)
    assert value(found["a"]) == pytest.approx(60 / 6 + 40 * 3 / 4)
    alone = table[table["slide"] == "a"]
    assert found["a"] == estimate_all(alone, verdicts)


def test_the_labels_of_the_machine_are_cells_of_a_slide() -> None:
    # One stratum of two slides; of a, 20 figures are called atypical and 30 typical.
    table = table_of([("a", 50), ("b", 50)], ["aaaattttat" + "tttttttttt", "t"])
    table["stratum"] = 0
    called = np.array(["atypical"] * 5 + ["typical"] * 30 + ["atypical"] * 15 + ["typical"] * 50)
    table["label"] = called
    # 20 labels: 5 called atypical (4 are), 15 called typical (1 is)
    found = estimate_slides(table, verdicts_of(table, "aaaat" + "tttat" + "t" * 10 + "t"))
    assert value(found["a"]) == pytest.approx(20 * 4 / 5 + 30 * 1 / 15)


def test_a_slide_with_many_undecided_figures_has_no_estimate() -> None:
    table = table_of([("a", 50), ("b", 100)], ["t" * 13, "t" * 30])
    found = estimate_slides(table, verdicts_of(table, "t" * 10 + "uuu" + "t" * 30))
    assert found["a"].each == ()
    assert found["b"].each != ()


# Coverage


def synthetic(number: int, wrong: float) -> tuple[pd.DataFrame, Array]:
    """Figures of which a quarter are atypical, and a machine that is wrong about a share of them."""
    generator = np.random.default_rng(3)
    truth = (np.arange(number) % 4 == 0).astype(float)
    said = np.where(generator.random(number) < wrong, 1 - truth, truth)
    p_atypical = np.clip(said + (1 - 2 * said) * 0.3 * generator.random(number), 0, 1)
    votes = np.round(5 * p_atypical).astype(int)
    kinds = [Kind(f"s{row % 3}", 1, vote) for row, vote in enumerate(votes.tolist())]
    return figures_of(*kinds).assign(p_atypical=p_atypical), truth


def drawn_sample(population: tuple[pd.DataFrame, Array], strata: Array, drawn: Array) -> Sample:
    figures, truth = population
    rows = np.flatnonzero(drawn)
    return Sample(
        strata,
        figures["p_atypical"].to_numpy(),
        rows,
        np.ones(len(rows)),
        truth[rows],
        np.ones(len(rows)),
    )


@pytest.mark.parametrize("wrong", [0.02, 0.2, 1.0])
def test_intervals_cover_the_truth(wrong: float) -> None:
    """300 draws of 30 of 300. With 95 % coverage, fewer than 91.2 % is below three standard deviations.

    A machine that is nearly always right is the hard case: most samples show no error of it.
    """
    population = synthetic(300, wrong)
    strata, truth = stratify(population[0], 30), population[1].mean()
    covered = dict.fromkeys(METHODS, 0)
    for seed in range(300):
        found = estimates_of(drawn_sample(population, strata, choose(strata, 30, seed)))
        for method in METHODS:
            fraction = one(found, "atypical_fraction", method)
            assert fraction.low is not None
            assert fraction.high is not None
            covered[method] += fraction.low <= truth <= fraction.high
    least = 300 * (0.95 - 3 * math.sqrt(0.95 * 0.05 / 300))
    assert all(number >= least for number in covered.values()), covered


def test_the_sample_of_draw_gives_the_truth_on_average() -> None:
    figures = random_figures(200, 4, 2)
    truth = (np.random.default_rng(1).random(200) < figures["p_atypical"]).to_numpy()
    names = zip(figures["slide"], figures["figure_id"], strict=True)
    verdicts = dict(zip(names, np.where(truth, "atypical", "typical"), strict=True))
    found = [estimate_all(draw(figures, 40, seed), verdicts) for seed in range(60)]
    for method in METHODS:
        values = np.array([one(each.each, "atypical_fraction", method).value for each in found], float)
        assert values.mean() == pytest.approx(truth.mean(), abs=4 * values.std() / math.sqrt(60))
