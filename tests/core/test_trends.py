"""Slides become points, series and groups; a shift is found, and chance alone gives few alarms."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import slide_record
from tests.trend_files import Night, figures_of, laboratory, made_at
from wsi_mitosis.core.control_charts import REFERENCE, Sample, fit, judge
from wsi_mitosis.core.sharpness import SlideSharpness
from wsi_mitosis.core.summary import count
from wsi_mitosis.core.trends import (
    MOST_SLIDE_POINTS,
    Bundle,
    Chart,
    Group,
    TrendSlide,
    night_of,
    samples_of,
    short_names,
    signals,
    trends_of,
)


def slide_of(slide: Night, number: int = 0) -> TrendSlide:
    figures = figures_of(slide, number)
    record = slide_record(slide.name, counts=count(figures)).model_copy(
        update={"sharpness": SlideSharpness(value=slide.sharpness, lowest=0.5)}
    )
    assert slide.made is not None
    bundle = Bundle(slide.digest, "nano", trained=True)
    samples = samples_of(record, figures)
    return TrendSlide(
        slide.made, slide.name, bundle, night_of(slide.made), slide.scanner, slide.folder, samples
    )


def slides_of(nights: list[Night]) -> list[TrendSlide]:
    return [slide_of(slide, number) for number, slide in enumerate(nights)]


def chart(group: Group, name: str) -> Chart:
    return next(one for one in group.charts if one.quantity.name == name)


# --- values


def test_a_slide_has_the_values_that_are_counted_by_hand() -> None:
    """5 figures, one of them atypical, of which 2 have 4 of 5 votes; 15 excluded candidates."""
    night = Night("a.svs", made_at(0), figures=5, atypical=1, excluded=15, disagreeing=2, sharpness=0.4)
    samples = slide_of(night).samples
    assert samples["figures"].mean == pytest.approx(np.log(6))
    assert samples["atypical_fraction"] == Sample(5, 1, 1)
    assert samples["mean_agreement"].mean == pytest.approx((1 + 1 + 1 + 0.8 + 0.8) / 5)
    assert samples["mean_p_atypical"].mean == pytest.approx(figures_of(night)["p_atypical"].mean())
    assert samples["low_sharpness"] == Sample(1, 1, 1)
    assert samples["excluded"] == Sample(20, 15, 15)


def test_a_slide_without_figures_has_a_count_and_no_means() -> None:
    night = Night("a.svs", made_at(0), figures=0, atypical=0, excluded=0, disagreeing=0, sharpness=None)
    samples = slide_of(night).samples
    assert samples["figures"] == Sample(1, 0.0, 0.0)
    assert {name for name, sample in samples.items() if sample.number} == {"figures"}


@pytest.mark.parametrize(
    ("hour", "night"),
    [(0, date(2026, 1, 4)), (11, date(2026, 1, 4)), (12, date(2026, 1, 5)), (23, date(2026, 1, 5))],
)
def test_a_night_begins_at_noon_and_has_the_date_of_its_evening(hour: int, night: date) -> None:
    assert night_of(datetime(2026, 1, 5, hour, 59, tzinfo=timezone(timedelta(hours=9)))) == night


def test_names_are_as_short_as_they_can_be_distinct() -> None:
    paths = ["/data/a/slides", "/data/b/slides", "/mnt/scans", "slides"]
    assert short_names(paths) == {
        "/data/a/slides": "a/slides",
        "/data/b/slides": "b/slides",
        "/mnt/scans": "scans",
        "slides": "slides",
    }


# --- groups, series and points


def test_slides_are_grouped_by_scanner_and_without_one_by_folder() -> None:
    nights = [
        Night("a.svs", made_at(0)),
        Night("b.svs", made_at(1), scanner="Aperio SS2"),
        Night("c.svs", made_at(2), scanner=None, folder="/data/x/slides"),
        Night("d.svs", made_at(3), scanner=None, folder="/data/y/slides"),
        Night("e.svs", made_at(4)),
    ]
    groups = trends_of(slides_of(nights)).groups
    names = ["Aperio SS1", "Aperio SS2", "folder x/slides", "folder y/slides"]
    assert [(group.name, group.slides) for group in groups] == list(zip(names, [2, 1, 1, 1], strict=True))
    groups = trends_of(slides_of(nights), by="folder").groups
    assert {group.name: group.slides for group in groups} == {
        "folder one": 3,
        "folder x/slides": 1,
        "folder y/slides": 1,
    }


def test_another_bundle_begins_a_series_with_limits_of_its_own() -> None:
    before = laboratory(REFERENCE)
    after = [
        replace(one, digest="e" * 64, made=made_at(100 + index), name=f"e{one.name}")
        for index, one in enumerate(laboratory(REFERENCE - 1, seed=1))
    ]
    (group,) = trends_of(slides_of(before + after)).groups
    first, second = chart(group, "atypical_fraction").series
    assert (first.bundle.digest, second.bundle.digest) == ("d" * 64, "e" * 64)
    assert first.fitted is not None
    assert second.fitted is None
    assert second.no_limits == "limits need 20 points, and there are 19"
    assert all(point.verdict is None for point in second.points)


def test_limits_are_of_the_first_points_or_of_the_nights_that_are_named() -> None:
    slides = slides_of(laboratory(60))
    first = chart(trends_of(slides).groups[0], "atypical_fraction").series[0]
    assert [point.in_reference for point in first.points] == [True] * 20 + [False] * 40
    assert first.fitted == fit("share", [slide.samples["atypical_fraction"] for slide in slides[:20]])
    nights = slides[30].night, slides[54].night
    later = chart(trends_of(slides, reference=nights).groups[0], "atypical_fraction").series[0]
    assert [point.in_reference for point in later.points] == [30 <= index <= 54 for index in range(60)]
    few = trends_of(slides, reference=(slides[0].night, slides[18].night)).groups[0]
    text = "limits need 20 points, and there are 19 in the reference period"
    assert chart(few, "atypical_fraction").series[0].no_limits == text


def test_a_mean_over_few_figures_is_drawn_and_not_judged() -> None:
    nights = laboratory(30)
    nights[3] = replace(nights[3], figures=9, atypical=9, disagreeing=9)
    group = trends_of(slides_of(nights)).groups[0]
    series = chart(group, "mean_agreement").series[0]
    assert len(series.points) == 30
    assert (series.points[3].verdict, series.points[3].in_reference) == (None, False)
    assert [point.in_reference for point in series.points].index(False, 4) == 21
    assert chart(group, "atypical_fraction").series[0].points[3].verdict == "above"


def test_points_are_nights_when_asked_or_when_there_are_many_slides() -> None:
    slides = slides_of(laboratory(60, per_night=2))
    trends = trends_of(slides, per="night")
    points = chart(trends.groups[0], "excluded").series[0].points
    assert trends.of_night
    assert [point.slides for point in points[:2]] == [("s0000.svs", "s0001.svs"), ("s0002.svs", "s0003.svs")]
    assert points[0].sample.total == sum(slide.samples["excluded"].total for slide in slides[:2])
    trends = trends_of(slides)
    assert not trends.of_night
    assert len(chart(trends.groups[0], "excluded").points) == 60
    assert len(chart(trends.groups[0], "low_sharpness").points) == 30
    many = [replace(slides[0], name=f"{n}", night=date(2026, 1, 1) + timedelta(n // 10)) for n in range(201)]
    assert len(many) == MOST_SLIDE_POINTS + 1
    assert trends_of(many).of_night
    assert not trends_of(many[1:]).of_night
    assert not trends_of([replace(slide, night=date(2026, 1, 1)) for slide in many]).of_night


def test_slides_without_a_value_have_no_point() -> None:
    nights = [replace(one, sharpness=None, excluded=0) for one in laboratory(3)]
    group = trends_of(slides_of(nights)).groups[0]
    assert "low_sharpness" not in [one.quantity.name for one in group.charts]
    assert len(chart(group, "excluded").points) == 3


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_slides_changes_nothing(seed: int) -> None:
    slides = SHUFFLED[:]
    random.Random(seed).shuffle(slides)
    assert trends_of(slides) == EXPECTED


SHUFFLED = slides_of(laboratory(30, per_night=3, scanners=("Aperio SS1", None)))
EXPECTED = trends_of(SHUFFLED)


# --- alarms


def test_a_doubled_atypical_fraction_is_found() -> None:
    """From slide 40 on it is 40 % in place of 20 %. Hardly any slide before it is an alarm."""
    for seed in range(5):
        found = signals(trends_of(slides_of(laboratory(60, shift_at=40, seed=seed))).groups)
        of_it = [one for one in found if one.quantity.name == "atypical_fraction"]
        shifted = [one for one in of_it if one.point.slides[0] >= "s0040.svs"]
        assert shifted[0].text == "above the upper limit"
        assert shifted[0].point.slides[0] <= "s0044.svs"
        assert any("points in a row above the centre line" in one.text for one in shifted)
        assert len(of_it) - len(shifted) <= 1


def test_a_run_is_one_signal_that_names_its_ninth_slide() -> None:
    nights = [Night(f"s{n:02}.svs", made_at(n), atypical=(7, 9)[n % 2]) for n in range(20)]
    nights += [Night(f"s{n:02}.svs", made_at(n), atypical=10) for n in range(20, 31)]
    found = [
        one
        for one in signals(trends_of(slides_of(nights)).groups)
        if one.quantity.name == "atypical_fraction"
    ]
    (run,) = found
    assert run.point.slides == ("s27.svs",)  # slide 19, with 9 of 40, is the first of them
    assert run.text == "12 points in a row above the centre line, 2026-01-20 to 2026-01-31"
    assert run.as_data()["value"] == 0.25
    assert run.as_data()["centre"] == pytest.approx(0.2)


def test_without_a_shift_there_are_few_alarms() -> None:
    """30 series of 200 nights of each kind, of which no night differs from the others.

    Beyond known limits there are 0.27 % of the points of a normal distribution. With a standard deviation of
    20 points, which is that of a chi-squared distribution with about 12 degrees of freedom for moving ranges
    (Montgomery, section 6.4), there are about 0.9 %. Counts are of a distribution to which the logarithm
    only comes near.
    """
    generator = np.random.default_rng(1)
    beyond, in_runs = Counter[str](), Counter[str]()
    for _ in range(30):
        counts = generator.negative_binomial(2, 2 / 62, 200)
        figures = generator.integers(10, 300, 200)
        atypical = generator.binomial(figures, generator.beta(40, 160, 200))
        series = {
            "normal": [Sample(1, value, value**2) for value in generator.normal(0, 1, 200)],
            "count": [Sample(1, value, value**2) for value in np.log1p(counts)],
            "share": [Sample(int(n), int(x), int(x)) for x, n in zip(atypical, figures, strict=True)],
        }
        for name, samples in series.items():
            fitted = fit("share" if name == "share" else "mean", samples[:REFERENCE])
            assert fitted is not None
            verdicts = Counter(judge(fitted, samples))
            beyond[name] += verdicts["above"] + verdicts["below"]
            in_runs[name] += verdicts["run above"] + verdicts["run below"]
    shares = {name: number / 6000 for name, number in beyond.items()}
    assert max(shares["normal"], shares["share"]) < 0.013
    assert shares["count"] < 0.02
    assert min(shares.values()) > 0.001  # limits that are far too wide would find nothing
    assert max(in_runs.values()) / 6000 < 0.03
