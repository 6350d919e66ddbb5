"""The univariate detector's weekly profile: what it is for, what must not make it wrong, and that it is left again."""

from __future__ import annotations

import numpy as np
import pytest

from engine.detection import snapshot
from engine.detection.univariate import Judged, UnivariateDetector
from native.kernels import univariate_state as layout
from tests.oracles.univariate import Story

DAY_NS = 86_400_000_000_000
MONDAY_NS = 19_723 * DAY_NS  # 2024-01-01
SATURDAY, SUNDAY = 5, 6
STEPS = 72  # a day


def weekdays(times: np.ndarray) -> np.ndarray:
    return (times // DAY_NS + 3) % 7


def office(weeks: int, *, first_day: int = 0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of a load of 80 from nine to five on weekdays, 20 else, with noise; begins on ``first_day``."""
    count = weeks * 7 * STEPS
    times = MONDAY_NS + first_day * DAY_NS + np.arange(count, dtype=np.int64) * (DAY_NS // STEPS)
    hour = times % DAY_NS / DAY_NS * 24
    busy = (hour >= 9) & (hour < 17) & (weekdays(times) < SATURDAY)
    return times, np.where(busy, 80.0, 20.0) + 2 * np.random.default_rng(seed).normal(size=count)


def judge(times: np.ndarray, values: np.ndarray, detector: UnivariateDetector | None = None) -> Judged:
    return (detector or UnivariateDetector(1)).advance(np.zeros(len(times), np.int64), times, values)


def week_of(times: np.ndarray) -> np.ndarray:
    return (times - times[0]) // (7 * DAY_NS)


def uses_week(detector: UnivariateDetector) -> bool:
    numbers = snapshot.decode("univariate", detector.to_bytes(), "")["numbers"]
    return bool(numbers[0, layout.SAVED.index(layout.SEASON)] >= layout.WEEKLY_STARTS)


def monday_on_sunday(times: np.ndarray, values: np.ndarray, week: int) -> np.ndarray:
    """Return which rows are the Sunday of a week, after its values were made those of the Monday."""
    chosen = week_of(times) == week
    sunday = chosen & (weekdays(times) == SUNDAY)
    values[sunday] = values[chosen & (weekdays(times) == 0)]
    return sunday


@pytest.mark.parametrize("first_day", range(7))
def test_quiet_weekends_are_no_alarm_from_the_third_week(first_day: int) -> None:
    times, values = office(9, first_day=first_day)
    detector = UnivariateDetector(1)
    told = judge(times, values, detector).alarms
    assert uses_week(detector)
    late = told[week_of(times)[told] >= 2]
    assert not (weekdays(times)[late] >= SATURDAY).any()
    assert len(late) <= 1


@pytest.mark.parametrize("first_day", range(7))
@pytest.mark.parametrize("week", [4, 7])
def test_a_sunday_like_a_monday_is_told_with_what_a_sunday_is(first_day: int, week: int) -> None:
    times, values = office(8, first_day=first_day)
    sunday = monday_on_sunday(times, values, week)
    judged = judge(times, values)
    told = np.flatnonzero(sunday[judged.alarms])
    assert len(told) in (1, 2)
    assert judged.causes[told[0]] == layout.CAUSE_SEASON
    assert judged.low[told[0]] < 25
    assert judged.high[told[0]] < judged.seen[told[0]]


def test_one_wrong_sunday_does_not_become_what_is_expected() -> None:
    times, values = office(12)
    monday_on_sunday(times, values, 5)
    again = monday_on_sunday(times, values, 9)
    judged = judge(times, values)
    of_hours = judged.alarms[judged.causes == layout.CAUSE_SEASON]
    assert again[of_hours].any()
    assert not ((week_of(times)[of_hours] > 5) & ~again[of_hours]).any()


def test_weeks_are_learned_through_gaps() -> None:
    times, values = office(9)
    random = np.random.default_rng(4)
    values[random.random(len(values)) < 0.3] = np.nan
    kept = week_of(times) != 2  # a week that nothing is known of
    sunday = monday_on_sunday(times, values, 7)
    judged = judge(times[kept], values[kept])
    told = np.flatnonzero(kept)[judged.alarms]
    assert sunday[told].any()
    assert not ((weekdays(times)[told] >= SATURDAY) & (week_of(times)[told] > 2) & ~sunday[told]).any()


def test_a_level_shift_is_told_once_and_the_week_stays() -> None:
    times, values = office(10)
    at = 5 * 7 * STEPS + STEPS * 2 + 30  # a Wednesday morning
    values[at:] += 50
    sunday = monday_on_sunday(times, values, 9)
    detector = UnivariateDetector(1)
    judged = judge(times, values, detector)
    told = judged.alarms
    assert ((told >= at) & (told < at + 5)).any()
    assert not ((told > at + 3 * STEPS) & (judged.causes == layout.CAUSE_SEASON) & ~sunday[told]).any()
    assert sunday[told].any()
    assert uses_week(detector)


@pytest.mark.parametrize("kind", ["noise", "daily shape", "wandering", "shifts", "constant", "counter"])
def test_without_weeks_the_daily_profile_is_used(kind: str) -> None:
    random = np.random.default_rng(8)
    times, values = office(10)
    noise = random.normal(size=len(times))
    hour = times % DAY_NS / DAY_NS * 24
    match kind:
        case "noise":
            values = noise
        case "daily shape":
            values = np.where((hour >= 9) & (hour < 17), 80.0, 20.0) + noise
        case "wandering":
            values = np.cumsum(noise)
        case "shifts":
            values = 50.0 * (times // (9 * DAY_NS) % 2) + 10 * np.sin(hour / 24 * 2 * np.pi) + noise
        case "constant":
            values = np.full(len(times), 7.25)
        case "counter":
            values = np.cumsum(np.where((hour >= 9) & (hour < 17), 800.0, 200.0) + noise)
    for week in range(2, 10):
        detector = UnivariateDetector(1)
        judge(times[: week * 7 * STEPS], values[: week * 7 * STEPS], detector)
        assert not uses_week(detector)


def test_a_counter_has_weeks_as_well() -> None:
    times, rate = office(9)
    sunday = monday_on_sunday(times, rate, 7)
    told = judge(times, np.cumsum(rate)).alarms
    assert sunday[told].any()


def test_weeks_survive_a_restart() -> None:
    times, values = office(8)
    monday_on_sunday(times, values, 6)
    detector = UnivariateDetector(1)
    cut = 5 * 7 * STEPS + 123
    judge(times[:cut], values[:cut], detector)
    again = UnivariateDetector.from_bytes(detector.to_bytes())
    expected, found = (judge(times[cut:], values[cut:], each) for each in (detector, again))
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert again.to_bytes() == detector.to_bytes()
    assert len(found.alarms)


def test_kernel_does_what_the_slow_twin_does_when_weeks_come_and_go() -> None:
    times, values = office(13)
    times, values = times[::3], values[::3]
    monday_on_sunday(times, values, 5)
    always = week_of(times) >= 7  # then there are no weekends any more
    values[always & (times % DAY_NS > 9 * 3600e9) & (times % DAY_NS < 17 * 3600e9)] = 80.0
    judged = judge(times, values)
    story = Story()
    expected, used = [], []
    for time, value in zip(times.tolist(), values.tolist(), strict=True):
        expected.append(story.advance(time, value))
        used.append(story.week.used)
    assert set(used) == {False, True}
    assert not used[-1], "the weekly profile is left when there are no weeks any more"
    assert dict(zip(judged.alarms.tolist(), judged.causes.tolist(), strict=True)) == {
        row: cause for row, (_, cause) in enumerate(expected) if cause
    }
    np.testing.assert_allclose(judged.scores, [score for score, _ in expected], rtol=2e-4, atol=1e-6)
