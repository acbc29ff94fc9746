"""When a run stops to begin slides."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from datetime import tzinfo


class Deadline(NamedTuple):
    """The moment after which no slide is begun.

    Attributes:
        moment: In UTC.
        text: As the user's clock shows it, with the zone, and in UTC.
    """

    moment: datetime
    text: str


def deadline(until: str, timezone: str | None, now: datetime) -> Deadline:
    """Return the next time at which a clock shows `until`.

    In the night in which clocks are put back, a time that they show twice is the first of the two. In the
    night in which they are put forward, a time that they never show is as far from midnight as it would be
    without the change (PEP 495, `fold=0`).

    Args:
        until: Hour and minute, `HH:MM`.
        timezone: Name of the clock's zone, such as `Europe/Rome`; None for this machine's.
        now: The present, with a zone.
    """
    wall, zone = time.fromisoformat(until), ZoneInfo(timezone) if timezone else None
    today = now.astimezone(zone).date()
    days = (_at(today + timedelta(days), wall, zone) for days in range(3))
    local = next(moment for moment in days if moment.astimezone(UTC) > now)
    moment = local.astimezone(UTC)
    return Deadline(moment, f"{until} {timezone or local.tzname()} ({moment:%Y-%m-%d %H:%M} UTC)")


def _at(day: date, wall: time, zone: tzinfo | None) -> datetime:
    """Return a wall time on a day, with its zone; `astimezone` knows the machine's rules for that day."""
    naive = datetime.combine(day, wall)
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
