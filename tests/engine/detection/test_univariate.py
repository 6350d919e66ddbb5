"""The univariate detector: its kernel against the slow twin, and what it says about series made to show one thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.detection import univariate
from engine.detection.univariate import PROFILE_BYTES, STATE_BYTES, UnivariateDetector
from native.kernels import univariate_state as layout
from tests.oracles.univariate import Story

MINUTE_NS = 60_000_000_000
DAY_NS = 1440 * MINUTE_NS
START_NS = 1_700_000_000 * 1_000_000_000


def advance(values, *, step_ns: int = 5 * MINUTE_NS, start_ns: int = START_NS):
    values = np.asarray(values, float)
    times = start_ns + step_ns * np.arange(len(values), dtype=np.int64)
    return UnivariateDetector(1).advance(np.zeros(len(values), np.int64), times, values)


def shaped(kind: str, seed: int, count: int = 1500):
    random = np.random.default_rng(seed)
    noise = random.normal(size=count)
    match kind:
        case "noise":
            return noise
        case "waves":
            return 50 + 20 * np.sin(np.arange(count) * 2 * np.pi / 288) + noise
        case "counter":
            return np.cumsum(random.integers(0, 9, count)).astype(float)
        case "counter that resets":
            total = np.cumsum(random.integers(0, 9, count)).astype(float)
            return np.where(np.arange(count) <= count * 2 // 5, total, total - total[count * 2 // 5])
        case "binary":
            return (noise > 1.5).astype(float)
        case "spiky":
            return np.where(random.random(count) < 0.01, 1000.0 * random.random(count), 0.0)
        case "constant":
            return np.full(count, 7.25)
        case "steps":
            return np.where(np.arange(count) < 600, 5.0, 55.0) + noise
        case "gaps":
            return np.where(random.random(count) < 0.3, np.nan, noise)
        case "huge":
            return noise * 1e300
        case _:
            raise ValueError(kind)


KINDS = ("noise", "waves", "counter", "counter that resets", "binary", "spiky", "constant", "steps", "gaps", "huge")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step_ns", [MINUTE_NS, 5 * MINUTE_NS, 37 * MINUTE_NS + 11])
def test_kernel_does_what_the_slow_twin_does(kind: str, step_ns: int) -> None:
    values = shaped(kind, seed=3)
    judged = advance(values, step_ns=step_ns)
    story = Story()
    expected = [story.advance(START_NS + step_ns * i, value) for i, value in enumerate(values.tolist())]
    assert dict(zip(judged.alarms.tolist(), judged.causes.tolist(), strict=True)) == {
        row: cause for row, (_, cause) in enumerate(expected) if cause
    }
    np.testing.assert_allclose(judged.scores, [score for score, _ in expected], rtol=2e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * DAY_NS),
            st.one_of(st.floats(-100, 100, width=16), st.floats(), st.sampled_from([0.0, 1.0, 1.0, 2.0])),
        ),
        max_size=120,
    )
)
def test_kernel_does_what_the_slow_twin_does_on_anything(samples: list[tuple[int, float]]) -> None:
    times = np.cumsum([gap for gap, _ in samples], dtype=np.int64)
    values = np.array([value for _, value in samples])
    judged = UnivariateDetector(1).advance(np.zeros(len(times), np.int64), times, values)
    assert ((judged.scores >= 0) & (judged.scores <= 1)).all()
    story = Story()
    expected = [story.advance(int(time), float(value)) for time, value in zip(times, values, strict=True)]
    np.testing.assert_allclose(judged.scores, [score for score, _ in expected], rtol=2e-3, atol=1e-4)


def test_state_is_as_small_as_promised() -> None:
    assert STATE_BYTES == 392 < 400
    assert PROFILE_BYTES == 720 + 336


def test_series_do_not_influence_each_other() -> None:
    columns = [shaped(kind, seed=9, count=600) for kind in KINDS]
    together = UnivariateDetector(len(KINDS))
    count = 600
    found = np.array(
        [
            together.advance(
                np.arange(len(KINDS)),
                np.full(len(KINDS), START_NS + i * 5 * MINUTE_NS),
                np.array([column[i] for column in columns]),
            ).scores
            for i in range(count)
        ]
    )
    for index, column in enumerate(columns):
        np.testing.assert_array_equal(found[:, index], advance(column).scores)


def test_level_shift_is_told_at_once_and_becomes_ordinary() -> None:
    random = np.random.default_rng(5)
    values = 100 + random.normal(size=288 * 28)
    values[288 * 7 + 100 :] += 40
    alarms = np.flatnonzero(advance(values).scores >= 0.5)
    assert 288 * 7 + 100 in alarms
    assert len(alarms[(alarms > 288 * 7 + 100) & (alarms < 288 * 14)]) <= 4
    assert len(alarms[alarms >= 288 * 18]) <= 2


def test_value_that_is_ordinary_at_another_hour_is_told_with_what_was_expected_at_this_one() -> None:
    random = np.random.default_rng(6)
    rows = np.arange(288 * 21)
    hour = (rows % 288) / 12
    values = np.where((hour >= 9) & (hour < 17), 80.0, 20.0) + random.normal(size=len(rows))
    at = slice(288 * 20 + 12 * 3, 288 * 20 + 12 * 4)  # three o'clock at night, as high as in the day
    values[at] = 80.0
    judged = advance(values, start_ns=START_NS // DAY_NS * DAY_NS)
    told = np.flatnonzero((judged.alarms >= at.start) & (judged.alarms < at.stop))
    assert layout.CAUSE_SEASON in judged.causes[told]
    first = next(number for number in told if judged.causes[number] == layout.CAUSE_SEASON)
    assert judged.low[first] < 30
    assert judged.high[first] < judged.seen[first]


def test_counter_is_judged_by_its_rate() -> None:
    rate = 50.0 + np.random.default_rng(7).normal(size=288 * 10)
    rate[288 * 8 + 50 : 288 * 8 + 60] = 500.0
    judged = advance(np.cumsum(rate))
    assert judged.scores[288 * 8 + 50] >= 0.5
    assert (judged.scores[288 * 2 : 288 * 8 + 50] >= 0.5).sum() <= 2


def test_missing_values_score_nothing_and_teach_nothing() -> None:
    values = shaped("waves", seed=1)
    holes = np.isin(np.arange(len(values)), np.random.default_rng(2).choice(len(values), 300, replace=False))
    with_holes = np.where(holes, np.inf, values)
    judged = advance(with_holes)
    assert (judged.scores[holes] == 0).all()
    times = START_NS + 5 * MINUTE_NS * np.arange(len(values), dtype=np.int64)
    without = UnivariateDetector(1).advance(np.zeros((~holes).sum(), np.int64), times[~holes], values[~holes])
    np.testing.assert_array_equal(judged.scores[~holes], without.scores)


def test_forgotten_series_starts_over() -> None:
    detector = UnivariateDetector(2)
    values = shaped("waves", seed=4, count=400)
    times = START_NS + 5 * MINUTE_NS * np.arange(400, dtype=np.int64)
    subject = np.ones(400, np.int64)
    first = detector.advance(subject, times, values).scores
    detector.forget(np.array([1]))
    np.testing.assert_array_equal(detector.advance(subject, times, values).scores, first)


@pytest.mark.parametrize("order", ["by series", "by time", "mixed"])
def test_two_threads_say_what_one_says(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    series, rows = 7, 3_000
    subjects = np.repeat(np.arange(series, dtype=np.int64), rows)
    times = np.tile(1_700_000_000 * 10**9 + 60 * 10**9 * np.arange(rows, dtype=np.int64), series)
    values = 40 + random.normal(size=series * rows) + np.where(random.random(series * rows) < 0.001, 30, 0)
    if order != "by series":
        keys = times if order == "by time" else times + random.integers(0, 10**12, len(times))
        chosen = np.argsort(keys, kind="stable")
        subjects, times, values = subjects[chosen], times[chosen], values[chosen]
    one, two = UnivariateDetector(series), UnivariateDetector(series)
    monkeypatch.setattr(univariate, "SHARED_SAMPLES", 10**9)
    want = one.advance(subjects, times, values)
    monkeypatch.setattr(univariate, "SHARED_SAMPLES", 1)
    monkeypatch.setattr(univariate, "_cores", lambda: 2)
    found = two.advance(subjects, times, values)
    for name in ("scores", "alarms", "causes", "seen", "low", "high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
    assert two.to_bytes() == one.to_bytes()
    assert len(want.alarms)
    # A single series cannot be shared.
    alone = UnivariateDetector(series).advance(np.zeros(10, np.int64), times[:10], values[:10])
    assert len(alone.scores) == 10
