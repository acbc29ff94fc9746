"""The time after which no slide is begun, also in the nights in which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_mitosis.core.schedule import deadline
from wsi_mitosis.errors import SpecError
from wsi_mitosis.specs import ScheduleOptions

ROME = ZoneInfo("Europe/Rome")


@pytest.mark.parametrize(
    ("now", "until", "expected"),
    [
        ("2026-11-27T22:00+01:00", "06:30", "2026-11-28T05:30+00:00"),
        ("2026-11-27T06:29+01:00", "06:30", "2026-11-27T05:30+00:00"),
        ("2026-11-27T06:30+01:00", "06:30", "2026-11-28T05:30+00:00"),
        ("2026-11-27T00:10+01:00", "23:59", "2026-11-27T22:59+00:00"),
        # clocks are put back at 03:00 on 25 October 2026, so that this night has 13 hours and not 12
        ("2026-10-24T18:30+02:00", "06:30", "2026-10-25T05:30+00:00"),
        ("2026-10-24T22:00+02:00", "02:30", "2026-10-25T00:30+00:00"),
        ("2026-10-25T02:45+02:00", "02:30", "2026-10-26T01:30+00:00"),
        # clocks are put forward at 02:00 on 29 March 2026, so that this night has 11 hours
        ("2026-03-28T18:30+01:00", "06:30", "2026-03-29T04:30+00:00"),
        ("2026-03-28T22:00+01:00", "02:30", "2026-03-29T01:30+00:00"),
    ],
)
def test_the_next_time_that_a_clock_shows(now: str, until: str, expected: str) -> None:
    found = deadline(until, "Europe/Rome", datetime.fromisoformat(now))
    assert found.moment == datetime.fromisoformat(expected)
    assert found.text == f"{until} Europe/Rome ({found.moment:%Y-%m-%d %H:%M} UTC)"


@pytest.mark.parametrize("timezone", ["Europe/Rome", "America/St_Johns", "Pacific/Apia", "UTC", None])
@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    minute=st.integers(0, 24 * 60 - 1),
)
def test_it_is_always_ahead_and_never_more_than_a_day_with_its_change(
    timezone: str | None, now: datetime, minute: int
) -> None:
    until = f"{minute // 60:02}:{minute % 60:02}"
    found = deadline(until, timezone, now).moment
    assert timedelta(0) < found - now <= timedelta(hours=25)
    zone = ZoneInfo(timezone) if timezone else None
    shown = f"{found.astimezone(zone):%H:%M}"
    local = found.astimezone(zone)
    is_gap = local.replace(fold=0).utcoffset() != (local - timedelta(hours=2)).astimezone(zone).utcoffset()
    assert shown == until or is_gap


@pytest.mark.parametrize("until", ["24:00", "6:30", "06:60", "0630", "06:30:00", "", "-1:00"])
def test_what_is_no_time_of_day_is_refused(until: str) -> None:
    with pytest.raises(SpecError, match="should be an hour and a minute such as 06:30"):
        ScheduleOptions.parse({"until": until}, "night.toml")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "CEST+2"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(SpecError, match="should be a time zone that this machine knows"):
        ScheduleOptions.parse({"timezone": zone}, "night.toml")
