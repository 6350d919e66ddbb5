"""The multivariate detector and the period finder on rows made to show one thing."""

from __future__ import annotations

import numpy as np
import pytest

from engine.detection.multivariate import MultivariateDetector
from engine.detection.periods import day_rows
from engine.errors import BadRequest
from tidegauge import lab


def machine(rows: int, columns: int = 8, seed: int = 0) -> np.ndarray:
    """Columns that follow one load, each in its own unit, and one that never moves."""
    random = np.random.default_rng(seed)
    load = 5 + np.sin(np.arange(rows) * 2 * np.pi / 288) + 0.2 * random.normal(size=rows)
    values = (
        load[:, None] * 10.0 ** np.arange(columns)
        + random.normal(size=(rows, columns)) * 10.0 ** np.arange(columns) / 20
    )
    values[:, -1] = 3.0
    return values


def test_column_that_is_to_blame_contributes_most_and_its_rows_score_highest() -> None:
    values = machine(288 * 8)
    at = slice(288 * 6 + 50, 288 * 6 + 70)
    values[at, 2] *= 2
    score, contribution = lab.score_matrix(values, 288 * 5)
    assert (contribution[at].max(axis=0)).argmax() == 2
    assert score[at].max() == score[288 * 5 :].max() >= 0.5
    assert np.median(score[288 * 5 :]) < 0.45


def test_broken_relation_is_seen_although_each_column_stays_in_its_range() -> None:
    values = machine(288 * 8)
    at = slice(288 * 6 + 72, 288 * 6 + 90)  # at the height of the day, one column is as low as at night
    values[at, 1] = values[288 * 6 + 216 : 288 * 6 + 234, 1]
    score, _ = lab.score_matrix(values, 288 * 5)
    assert score[at].max() > np.quantile(score[288 * 5 :], 0.99)


def test_column_that_never_moved_may_move() -> None:
    values = machine(288 * 6)
    values[288 * 5 + 20 :, -1] = 4.0
    score, contribution = lab.score_matrix(values, 288 * 5)
    assert score[288 * 5 + 20 : 288 * 5 + 40].max() >= 0.5
    assert np.isfinite(contribution).all()


def test_bursts_that_come_every_hour_are_told_between_them_too() -> None:
    random = np.random.default_rng(7)
    values = random.normal(size=(60 * 100, 6))
    hours = np.arange(60 * 80, 60 * 90, 60)
    values[np.add.outer(hours, np.arange(3)).ravel(), 2] += 12
    score, _ = lab.score_matrix(values, 60 * 50)
    quiet = np.add.outer(hours[4:], np.arange(20, 60)).ravel()
    assert np.median(score[quiet]) > np.quantile(score[60 * 50 : 60 * 80], 0.99)


@pytest.mark.parametrize(
    "values",
    [np.zeros((50, 3)), np.full((50, 3), np.nan), np.full((50, 1), np.inf), np.ones((10, 4)) * 1e300],
    ids=["zero", "missing", "infinite", "huge"],
)
def test_nothing_to_learn_from_is_no_error(values: np.ndarray) -> None:
    score, contribution = lab.score_matrix(values, 10)
    assert ((score >= 0) & (score <= 1)).all()
    assert np.isfinite(contribution).all()


def test_later_rows_do_not_change_earlier_scores() -> None:
    values = machine(288 * 5)
    score, contribution = lab.score_matrix(values, 288 * 3)
    prefix, prefix_contribution = lab.score_matrix(values[: 288 * 4], 288 * 3)
    np.testing.assert_allclose(prefix, score[: 288 * 4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(prefix_contribution, contribution[: 288 * 4], rtol=1e-9)


def test_rows_in_blocks_are_judged_as_at_once() -> None:
    values = machine(288 * 5)
    times = 300_000_000_000 * np.arange(len(values), dtype=np.int64)
    detector = MultivariateDetector.fit(values[:1000], times[:1000])
    whole = detector.clone().advance(times[1000:], values[1000:]).scores
    parts = [detector.advance(times[i : i + 37], values[i : i + 37]).scores for i in range(1000, len(values), 37)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)


@pytest.mark.parametrize("day", [24, 144, 288, 1440])
def test_days_are_found(day: int) -> None:
    random = np.random.default_rng(day)
    hours = np.arange(day * 5) % day / day
    shape = np.where((hours > 0.3) & (hours < 0.7), 10.0, 1.0)
    columns = np.column_stack([shape + random.normal(size=len(shape)) * 3, random.normal(size=len(shape))])
    assert day_rows(columns) == day


def test_noise_and_constants_have_no_days() -> None:
    assert day_rows(np.random.default_rng(1).normal(size=(4000, 3))) is None
    assert day_rows(np.ones((4000, 3))) is None
    assert day_rows(np.ones((3, 3))) is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lab.score_series([1.5], [1.0]), "want int64"),
        (lambda: lab.score_series([1, 2], [1.0]), "2 timestamps and 1 values"),
        (lambda: lab.score_series([1], ["a"]), "want float64"),
        (lambda: lab.score_matrix([1.0, 2.0], 1), r"want float64\[n, k\]"),
        (lambda: lab.score_matrix(np.ones((20, 2)), 21), "train_rows 21 of 20 rows"),
        (lambda: lab.score_matrix(np.ones((20, 2)), 5), "got 5 rows, want at least 10"),
        (lambda: lab.score_matrix(np.ones((20, 0)), 10), "no columns"),
        (lambda: lab.score_matrix(np.ones((20, 2)), 10, [1, 2]), "2 timestamps and 20 rows"),
    ],
)
def test_wrong_arrays_are_told(call, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        call()
