"""What every detector owes (engine/detection/detector.py).  A new detector is one more line in DETECTORS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.detection.multivariate import MultivariateDetector
from engine.detection.univariate import UnivariateDetector
from engine.errors import Damage

STEP_NS = 300_000_000_000
START_NS = 1_700_000_000 * 1_000_000_000
SERIES = 3


def single(values: np.ndarray, start: int = 0) -> tuple[np.ndarray, ...]:
    """The samples of a block of rows for the univariate detector, tick by tick: subjects, times, values."""
    rows = len(values)
    times = np.repeat(START_NS + STEP_NS * np.arange(start, start + rows, dtype=np.int64), SERIES)
    return np.tile(np.arange(SERIES, dtype=np.int64), rows), times, np.ascontiguousarray(values, float).ravel()


def together(values: np.ndarray, start: int = 0) -> tuple[np.ndarray, ...]:
    """The same for the multivariate one: times, rows."""
    return START_NS + STEP_NS * np.arange(start, start + len(values), dtype=np.int64), np.ascontiguousarray(
        values, float
    )


def fitted() -> MultivariateDetector:
    rows = 288 * 3
    hour = np.arange(-rows, 0)[:, None] * 2 * np.pi / 288
    normal = 50 + 10 * np.sin(hour) + np.random.default_rng(8).normal(size=(rows, SERIES))
    return MultivariateDetector.fit(normal, START_NS + STEP_NS * np.arange(-rows, 0, dtype=np.int64))


DETECTORS: dict[str, tuple[Callable[[], Any], Callable[..., tuple[np.ndarray, ...]]]] = {
    "univariate": (lambda: UnivariateDetector(SERIES), single),
    "multivariate": (fitted, together),
}

RANDOM = np.random.default_rng(20)
ROWS = 288 * 2 + 100
INPUTS = {
    "noise": RANDOM.normal(size=(ROWS, SERIES)),
    "waves": 40 + 20 * np.sin(np.arange(ROWS * SERIES).reshape(ROWS, SERIES) / 50),
    "missing": np.where(RANDOM.random((ROWS, SERIES)) < 0.4, np.nan, 1.0),
    "nothing but missing": np.full((ROWS, SERIES), np.nan),
    "constant": np.full((ROWS, SERIES), -3.5),
    "zero": np.zeros((ROWS, SERIES)),
    "infinite": np.where(RANDOM.random((ROWS, SERIES)) < 0.1, np.inf, RANDOM.normal(size=(ROWS, SERIES))),
    "counter": np.cumsum(RANDOM.integers(0, 5, (ROWS, SERIES)), axis=0).astype(float),
    "binary": (RANDOM.random((ROWS, SERIES)) < 0.2).astype(float),
    "spiky": np.where(RANDOM.random((ROWS, SERIES)) < 0.005, 1e9, 0.0),
    "largest": np.where(RANDOM.random((ROWS, SERIES)) < 0.5, np.finfo(float).max, -np.finfo(float).max),
    "smallest": RANDOM.random((ROWS, SERIES)) * 5e-324,
}


def score_then_learn(name: str, detector: Any, values: np.ndarray, start: int = 0) -> np.ndarray:
    """Stream rows: each is scored by what came before, then learned."""
    scores = []
    for row in range(len(values)):
        tick = samples(name, values[row : row + 1], start + row)
        scores.append(detector.score(*tick))
        detector.learn(*tick)
    return np.array(scores)


def samples(name: str, values: np.ndarray, start: int = 0) -> tuple[np.ndarray, ...]:
    return DETECTORS[name][1](values, start)


def new(name: str) -> Any:
    return DETECTORS[name][0]()


each = pytest.mark.parametrize("name", sorted(DETECTORS))


@each
@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_any_input_is_answered_within_bounds(name: str, kind: str) -> None:
    scores = score_then_learn(name, new(name), INPUTS[kind])
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


@each
def test_runs_repeat(name: str) -> None:
    first, second = (score_then_learn(name, new(name), INPUTS["waves"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each
@pytest.mark.parametrize("kind", ["noise", "counter", "missing"])
def test_clone_and_saved_one_go_on_like_the_original(name: str, kind: str) -> None:
    original = new(name)
    original.learn(*samples(name, INPUTS[kind][:400]))
    clone = original.clone()
    saved = type(original).from_bytes(original.to_bytes())
    assert saved.to_bytes() == original.to_bytes()
    rest = INPUTS[kind][400:]
    expected = score_then_learn(name, original, rest, 400)
    np.testing.assert_array_equal(score_then_learn(name, clone, rest, 400), expected)
    np.testing.assert_array_equal(score_then_learn(name, saved, rest, 400), expected)
    assert clone.to_bytes() == saved.to_bytes() == original.to_bytes()


@each
def test_clone_is_independent(name: str) -> None:
    original = new(name)
    original.learn(*samples(name, INPUTS["noise"][:300]))
    before = original.to_bytes()
    original.clone().learn(*samples(name, INPUTS["spiky"][:300]))
    assert original.to_bytes() == before


@each
def test_scoring_learns_nothing(name: str) -> None:
    detector = new(name)
    detector.learn(*samples(name, INPUTS["noise"][:400]))
    before = detector.to_bytes()
    detector.score(*samples(name, INPUTS["spiky"][400:401]))
    assert detector.to_bytes() == before


@each
@pytest.mark.parametrize("kind", ["waves", "spiky", "counter"])
def test_later_samples_do_not_change_earlier_scores(name: str, kind: str) -> None:
    values = INPUTS[kind].copy()
    expected = score_then_learn(name, new(name), values)[:450]
    values[450:] = -99.0
    np.testing.assert_array_equal(score_then_learn(name, new(name), values)[:450], expected)


@each
def test_better_than_chance_on_labelled_incidents(name: str) -> None:
    random = np.random.default_rng(31)
    values = 50 + 10 * np.sin(np.arange(288 * 6) * 2 * np.pi / 288)[:, None] + random.normal(size=(288 * 6, SERIES))
    labels = np.zeros(len(values), bool)
    for start in range(288 * 3 + 40, len(values), 431):
        labels[start : start + 8] = True
    values[labels] += 15
    scores = score_then_learn(name, new(name), values).max(axis=1)[288 * 2 :]
    labels = labels[288 * 2 :]
    anomalous, ordinary = scores[labels], scores[~labels]
    # The share of pairs in which the anomalous row scores higher: the area under the ROC curve; 0.5 is chance.
    area = (anomalous[:, None] > ordinary[None, :]).mean()
    assert area > 0.95


@each
def test_what_was_not_saved_by_a_detector_is_damage(name: str) -> None:
    detector = new(name)
    detector.learn(*samples(name, INPUTS["noise"][:50]))
    data = detector.to_bytes()
    for cut in (0, 3, 15, 16, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(Damage):
            type(detector).from_bytes(data[:cut])
    for position in (0, 9, 13, 20, 60, len(data) // 2, len(data) - 1):
        spoiled = bytearray(data)
        spoiled[position] ^= 0x41
        with pytest.raises(Damage):
            type(detector).from_bytes(bytes(spoiled))
    with pytest.raises(Damage):
        type(detector).from_bytes(data + b"\0")
