"""Control charts, against limits that were computed by hand and against the binomial distribution itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.control_charts import (
    REFERENCE,
    TAIL,
    Fit,
    Sample,
    between_points,
    fit,
    judge,
    pooled,
    runs,
)


def values(*each: float) -> Sample:
    return Sample(len(each), sum(each), sum(value**2 for value in each))


def events(number: int, of: int) -> Sample:
    return Sample(of, number, number)


def limits(fitted: Fit | None, number: int) -> tuple[float, float]:
    assert fitted is not None
    low, high = fitted.limits(np.array([number]))
    return float(low[0]), float(high[0])


def binomial(least: int, of: int, share: float) -> float:
    """P(X >= least)."""
    return sum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(least, of + 1))


# --- limits


def test_single_values_have_the_limits_of_a_chart_of_individuals() -> None:
    """Moving ranges of 2: 11 -+ 3 * 2 / 1.128."""
    found = fit("mean", [values(10.0), values(12.0)] * 10)
    assert found is not None
    assert found.centre == pytest.approx(11)
    assert limits(found, 1) == pytest.approx((11 - 6 / 1.1284, 11 + 6 / 1.1284), abs=1e-3)


def test_the_example_of_the_nist_handbook() -> None:
    """NIST/SEMATECH 6.3.2.2, flow rates of ten batches: 50.81, and limits of 45.8159 and 55.8041 by 1.128."""
    rates = [49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1]
    found = fit("mean", [values(rate) for rate in rates])
    assert found is not None
    assert found.centre == pytest.approx(50.81)
    assert limits(found, 1) == pytest.approx((45.8159, 55.8041), abs=3e-3)


def test_shares_that_vary_by_chance_have_the_limits_of_a_p_chart() -> None:
    """9 and 11 of 50 differ by less than chance: p is 0.2, its standard deviation 0.05657."""
    found = fit("share", [events(9, 50), events(11, 50)] * 10)
    assert found is not None
    assert (found.centre, found.between) == (pytest.approx(0.2), 0)
    low, high = limits(found, 50)
    assert low == pytest.approx(0.2 - 3 * 0.0565685, abs=1e-6)
    assert binomial(19 + 1, 50, 0.2) <= TAIL < binomial(19, 50, 0.2)
    assert high == 19 / 50  # the third of 0.3697 would be passed by 19 of 50 too often
    low, high = limits(found, 5)
    assert (low, high) == (0.0, 0.8)
    assert binomial(5, 5, 0.2) <= TAIL < binomial(4, 5, 0.2)


def test_shares_of_equal_numbers_that_vary_more_have_laneys_limits() -> None:
    """5 and 15 of 50: z is -+ 1.7678, the mean moving range of z 3.5355, and sigma of z 3.5355 / 1.128."""
    found = fit("share", [events(5, 50), events(15, 50)] * 10)
    sigma_z = 3.5355 / 1.1284
    assert limits(found, 50) == pytest.approx((0.0, 0.2 + 3 * sigma_z * 0.0565685), abs=1e-4)


def test_what_points_vary_beyond_chance_does_not_depend_on_their_numbers() -> None:
    """With 5,000 figures chance is 0.0057, and the points still vary by 0.17: limits hardly come nearer."""
    found = fit("share", [events(5, 50), events(15, 50)] * 10)
    assert found is not None
    assert found.between == pytest.approx(math.sqrt((0.2 / 1.1284) ** 2 - 0.2 * 0.8 / 50), abs=1e-4)
    assert limits(found, 5000)[1] == pytest.approx(0.2 + 3 * math.hypot(found.between, 0.0056569), abs=1e-4)


def test_a_mean_of_many_values_has_narrower_limits_than_one_of_few() -> None:
    """Values -+ 1 around a mean of 5: variance 4 * 4 / (4 * 3) within, nothing between equal means."""
    found = fit("mean", [values(4.0, 6.0, 4.0, 6.0)] * 20)
    assert found is not None
    assert (found.centre, found.within, found.between) == (5, pytest.approx(4 / 3), 0)
    assert limits(found, 100) == pytest.approx((5 - 3 * math.sqrt(4 / 300), 5 + 3 * math.sqrt(4 / 300)))
    assert limits(found, 4) == pytest.approx((5 - math.sqrt(3), 5 + math.sqrt(3)))
    wide = 3 * math.sqrt(4 / 3)
    assert found.limits(np.array([1, 4, 100]))[1] == pytest.approx([5 + wide, 5 + wide / 2, 5 + wide / 10])
    assert judge(found, [Sample(4, 26.0, 0.0), Sample(100, 650.0, 0.0)]) == ["inside", "above"]  # both 6.5


def test_a_share_without_an_event_has_limits_by_jeffreys_prior() -> None:
    """None of 2,000: p is 0.5 / 2,001, and of 100 candidates 1 is not outside, but 2 are."""
    found = fit("share", [events(0, 100)] * 20)
    assert found is not None
    assert (found.centre, found.share) == (pytest.approx(0, abs=1e-9), 0.5 / 2001)
    assert judge(found, [events(0, 100), events(1, 100), events(2, 100)]) == ["inside", "inside", "above"]
    of_all = fit("share", [events(100, 100)] * 20)
    assert of_all is not None
    assert judge(of_all, [events(99, 100), events(98, 100)]) == ["inside", "below"]


@pytest.mark.parametrize("equal", [values(3.0), values(0.8, 0.8, 0.8), values(0.1 + 0.2)])
def test_equal_points_have_no_limits(equal: Sample) -> None:
    assert fit("mean", [equal] * REFERENCE) is None


def test_many_figures_weigh_more_where_chance_decides() -> None:
    found = fit("share", [events(2, 10), events(19, 100)] * 10)
    assert found is not None
    assert found.centre == pytest.approx(210 / 1100)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 50)), min_size=3, max_size=30))
def test_the_steps_have_the_size_that_the_variances_explain(points: list[tuple[int, int]]) -> None:
    means = np.array([value / 100 for value, _ in points])
    variances = np.array([0.2 / number for _, number in points])
    between = between_points(means, variances)
    steps = np.abs(np.diff(means)) / np.sqrt(2 * between**2 + variances[1:] + variances[:-1])
    if between:
        assert steps.mean() == pytest.approx(math.sqrt(2 / math.pi), rel=1e-6)
    else:
        assert steps.mean() <= math.sqrt(2 / math.pi)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(30, 300)), min_size=20, max_size=30))
def test_limits_of_a_share_are_shares_and_hold_the_centre(points: list[tuple[int, int]]) -> None:
    found = fit("share", [events(*point) for point in points])
    assert found is not None
    low, high = found.limits(np.array([1, 7, 40, 3000]))
    assert ((low >= 0) & (low <= found.centre + 1e-12) & (found.centre <= high + 1e-12) & (high <= 1)).all()


def test_samples_are_added_up() -> None:
    assert pooled([values(1.0, 3.0), values(5.0)]) == values(1.0, 3.0, 5.0)
    assert pooled([values(1.0, 3.0), values(5.0)]).mean == 3


# --- verdicts


def test_points_beyond_the_limits_are_named_by_side() -> None:
    found = Fit("mean", centre=0.0, within=0.0, between=1.0)
    points = [values(value) for value in (0.0, 3.0, 3.01, -3.01)]
    assert judge(found, points) == ["inside", "inside", "above", "below"]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([1] * 8, []),
        ([1] * 9, [(0, 9)]),
        ([-1] * 4 + [1] * 11, [(4, 15)]),
        ([1] * 5 + [0] + [1] * 8, []),
        ([0] * 20, []),
        ([1] * 9 + [-1] * 10, [(0, 9), (9, 19)]),
    ],
)
def test_nine_points_on_one_side_are_a_run(sides: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(runs(sides)) == expected


def test_a_run_is_named_from_its_ninth_point_on() -> None:
    found = Fit("mean", centre=0.0, within=0.0, between=1.0)
    points = [values(value) for value in (-1.0, *[0.5] * 10, 0.0, -0.5)]
    assert judge(found, points) == [*["inside"] * 9, "run above", "run above", "inside", "inside"]
    points = [values(value) for value in [-0.5] * 8 + [-4.0] + [-0.5]]
    assert judge(found, points) == [*["inside"] * 8, "below", "run below"]


def test_nights_without_a_rare_event_are_no_run() -> None:
    found = fit("share", [events(1, 10), *[events(0, 10)] * 19])
    assert found is not None
    assert judge(found, [events(0, 10)] * 30) == ["inside"] * 30
