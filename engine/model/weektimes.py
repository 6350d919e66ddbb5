"""Times of the week as people write them: ``mon-fri 08:00-18:00``, ``sat,sun``, ``22:00-06:00``."""

from __future__ import annotations

import re
from dataclasses import dataclass

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_DAY = 24 * 60
_MINUTES_OF_WEEK = 7 * MINUTES_OF_DAY
_DAY = "|".join(DAYS)
_TIMES = re.compile(
    rf"(?P<days>(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*)?"
    r"(?:(?:^| )(?P<from>[0-2][0-9]:[0-5][0-9])-(?P<to>[0-2][0-9]:[0-5][0-9]))?"
)


@dataclass(frozen=True, slots=True)
class WeekTimes:
    """Spans of a week: pairs of minutes since Monday 00:00, the first in [0, 10080), the end exclusive and later."""

    spans: tuple[tuple[int, int], ...]

    @staticmethod
    def parse(text: str) -> WeekTimes:
        """Return the times that ``text`` names: days, hours, or days and hours.  Raises ValueError.

        Hours that end before they begin go over midnight and belong to the day on which they begin.
        """
        found = _TIMES.fullmatch(text)
        if found is None or not text:
            raise ValueError(f'cannot read times of the week: got {text!r}, want for example "mon-fri 08:00-18:00"')
        start, end = 0, MINUTES_OF_DAY
        if found["from"] is not None:
            start, end = _minute(found["from"]), _minute(found["to"])
            if start >= MINUTES_OF_DAY or end > MINUTES_OF_DAY or start == end:
                raise ValueError(f"cannot read times of the week: got {text!r}, want two times from 00:00 to 24:00")
            end += MINUTES_OF_DAY if end < start else 0
        days = range(7) if found["days"] is None else _days(found["days"])
        return WeekTimes(tuple((day * MINUTES_OF_DAY + start, day * MINUTES_OF_DAY + end) for day in days))

    def covers(self, weekday: int, minute: int) -> bool:
        """Return whether ``minute`` of the day ``weekday`` (0 is Monday) is among these times."""
        at = weekday * MINUTES_OF_DAY + minute
        return any(start <= at < end or start <= at + _MINUTES_OF_WEEK < end for start, end in self.spans)


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _days(text: str) -> list[int]:
    days: set[int] = set()
    for item in text.split(","):
        first, _, last = item.partition("-")
        day, end = DAYS.index(first), DAYS.index(last or first)
        days.add(day)
        while day != end:
            day = (day + 1) % 7
            days.add(day)
    return sorted(days)
