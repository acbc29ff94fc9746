"""Where the points, lines and labels of a control chart are drawn, and how its values are written."""

from __future__ import annotations

import math
from datetime import date, timedelta

import pytest

from tests.trend_files import made_at
from wsi_mitosis.core.control_charts import Fit, Sample, Verdict
from wsi_mitosis.core.trends import QUANTITIES, Bundle, Chart, Point, Quantity, Series
from wsi_mitosis.io.pages.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    draw,
    slides_text,
    status_text,
    summary,
    table,
    value_text,
)

QUANTITY = {quantity.name: quantity for quantity in QUANTITIES}
SHARE, COUNT, SCORE = (QUANTITY[name] for name in ("atypical_fraction", "figures", "mean_agreement"))
BUNDLE = Bundle("abcdef0123" * 7, "nano", trained=True)


def point(index: int, events: int, verdict: Verdict | None = "inside", **others: object) -> Point:
    low, high = (0.2, 0.6) if verdict is not None else (None, None)
    return Point(
        (f"s{index}.svs",),
        made_at(index),
        date(2026, 1, 1) + timedelta(index),
        Sample(10, events, events),
        low=low,
        high=high,
        verdict=verdict,
        **others,  # type: ignore[arg-type]
    )


def series(*points: Point, fitted: bool = True) -> Series:
    fit = Fit("share", 0.4, 0.24, 0.0, 0.4) if fitted else None
    return Series(BUNDLE, points, fit, "" if fitted else "limits need 20 points, and there are 3")


def chart_of(*each: Series, quantity: Quantity = SHARE) -> Chart:
    return Chart(quantity, each)


def test_points_and_lines_are_where_their_values_are() -> None:
    """Values from 0.2 to 0.8, so that the axis has 0.036 more at both ends: 0.4 is 0.236 of 0.672 up."""
    drawing = draw(chart_of(series(point(0, 4), point(1, 8, "above"), point(2, 3, None), point(3, 4))))
    step = (WIDTH - LEFT - RIGHT) / 4
    assert [mark.x for mark in drawing.marks] == pytest.approx([LEFT + step * (n + 0.5) for n in range(4)])
    up = (HEIGHT - TOP - BOTTOM) * 0.236 / 0.672
    assert drawing.marks[0].y == pytest.approx(HEIGHT - BOTTOM - up)
    assert [mark.shape for mark in drawing.marks] == ["inside", "outside", "unjudged", "inside"]
    y = f"{HEIGHT - BOTTOM - up:.1f}"
    edges = [f"{LEFT + step * n:.1f}" for n in range(5)]
    assert drawing.centres == [f"M{edges[0]} {y}H{edges[1]}" + "".join(f"V{y}H{edge}" for edge in edges[2:])]
    low, high = drawing.limits
    assert low.startswith(f"M{edges[0]} ")
    assert low.count("M") == 2  # there is no limit at the third point
    assert f"M{edges[3]} " in high
    assert [(tick.text, round(tick.at, 3)) for tick in drawing.ticks][:1] == [
        ("20 %", round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * 0.036 / 0.672, 3))
    ]
    assert [tick.text for tick in drawing.ticks] == ["20 %", "30 %", "40 %", "50 %", "60 %", "70 %", "80 %"]


def test_bundles_stand_beside_each_other_with_a_break_between_them() -> None:
    first, second = series(point(0, 4), point(1, 4)), series(point(5, 4), fitted=False)
    drawing = draw(chart_of(first, second))
    step = (WIDTH - LEFT - RIGHT) / 3
    assert [(label.text, label.at) for label in drawing.breaks] == [
        ("nano abcdef01", LEFT),
        ("nano abcdef01", pytest.approx(LEFT + 2 * step)),
    ]
    assert len(drawing.lines) == 2
    assert len(drawing.centres) == 1
    assert draw(chart_of(first)).breaks == []


def test_the_reference_period_goes_from_its_first_point_to_its_last() -> None:
    points = [point(n, 4, None if n == 2 else "inside", in_reference=n in {1, 3}) for n in range(5)]
    ((left, width),) = draw(chart_of(series(*points))).references
    step = (WIDTH - LEFT - RIGHT) / 5
    assert (left, width) == (pytest.approx(LEFT + step), pytest.approx(3 * step))


def test_counts_are_on_a_logarithmic_scale() -> None:
    counts = [Sample(1, math.log1p(n), math.log1p(n) ** 2) for n in (3, 60)]
    points = [Point(("a",), made_at(n), date(2026, 1, 1), sample) for n, sample in enumerate(counts)]
    drawing = draw(chart_of(series(*points, fitted=False), quantity=COUNT))
    assert [tick.text for tick in drawing.ticks] == ["5", "10", "20", "50"]
    gaps = [drawing.ticks[n].at - drawing.ticks[n + 1].at for n in (1, 2)]
    assert gaps[0] / gaps[1] == pytest.approx(math.log(21 / 11) / math.log(51 / 21))


@pytest.mark.parametrize(
    ("quantity", "value", "expected"),
    [
        (COUNT, math.log1p(40), "40"),
        (COUNT, math.log1p(4.26), "4.3"),
        (COUNT, math.log1p(1234.4), "1,234"),
        (COUNT, -1.0, "0"),
        (SHARE, 0.2071, "20.7 %"),
        (SCORE, 0.91234, "0.912"),
        (SCORE, None, "–"),
    ],
)
def test_values_are_written_as_readers_know_them(
    quantity: Quantity, value: float | None, expected: str
) -> None:
    assert value_text(quantity, value) == expected


def test_the_words_of_a_chart() -> None:
    chart = chart_of(
        series(point(0, 4, in_reference=True), point(1, 8, "above"), point(2, 1, "below"), point(3, 3, None))
    )
    assert status_text(chart) == "2 outside"
    assert summary(chart) == (
        "Atypical fraction: 4 points from 2026-01-01 to 2026-01-04, 2 outside. Last value 30.0 %; "
        "centre line 40.0 %, last limits 20.0 % to 60.0 %."
    )
    assert [line.remark for line in table(chart)] == [
        "reference",
        "above the upper limit",
        "below the lower limit",
        "not judged",
    ]
    assert [line.high for line in table(chart)] == ["60.0 %", "60.0 %", "60.0 %", "–"]
    without = chart_of(series(point(0, 4, None), fitted=False))
    assert status_text(without) == "no limits"
    assert summary(without).endswith("Last value 40.0 %; limits need 20 points, and there are 3.")
    assert status_text(chart_of(series(point(0, 4)))) == "in control"


def test_many_slides_of_a_night_are_counted() -> None:
    assert slides_text(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
