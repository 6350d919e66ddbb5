"""engine.detection: samples a second.

The batch cases take one series with a daily shape through its history, as ``tidegauge.lab`` does, on one core, and 64,
on two; the tick judges one sample of each of 100,000 series, whose state does not fit a cache.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.clock import NS_PER_MINUTE
from engine.detection.multivariate import MultivariateDetector
from engine.detection.univariate import UnivariateDetector

ROWS = 500_000
SERIES = 100_000
START_NS = 1_700_000_000_000_000_000
MACHINE_ROWS, COLUMNS = 4_000, 38

Case = tuple[str, float, str, Callable[[], object]]


def _batch(name: str, series: int) -> Case:
    random = np.random.default_rng(1)
    subjects = np.repeat(np.arange(series), ROWS // series)
    rows = np.arange(len(subjects)) % (ROWS // series)
    times = START_NS + rows * NS_PER_MINUTE
    values = 50 + 10 * np.sin(rows * 2 * np.pi / 1440) + random.normal(size=len(rows))
    return (name, len(rows), "samples", lambda: UnivariateDetector(series).advance(subjects, times, values))


def _tick(name: str, *, quiet: bool) -> Case:
    random = np.random.default_rng(2)
    detector = UnivariateDetector(SERIES)
    subjects = random.permutation(SERIES).astype(np.int64)
    minute = 0

    def tick() -> None:
        nonlocal minute
        minute += 1
        detector.advance(subjects, np.full(SERIES, START_NS + minute * NS_PER_MINUTE), values[minute % len(values)])

    values = np.zeros((16, SERIES)) if quiet else 50 + random.normal(size=(16, SERIES))
    for _ in range(32):
        tick()
    return (name, SERIES, "series", tick)


def _save() -> Case:
    detector = UnivariateDetector(SERIES)
    return ("save-and-load", SERIES, "series", lambda: UnivariateDetector.from_bytes(detector.to_bytes()))


def _machine() -> Case:
    random = np.random.default_rng(3)
    load = np.sin(np.arange(2 * MACHINE_ROWS) * 2 * np.pi / 1440)
    rows = load[:, None] + random.normal(size=(2 * MACHINE_ROWS, COLUMNS))
    times = START_NS + np.arange(len(rows)) * NS_PER_MINUTE
    detector = MultivariateDetector.fit(rows[:MACHINE_ROWS], times[:MACHINE_ROWS])
    later, judged = rows[MACHINE_ROWS:], times[MACHINE_ROWS:]
    return (
        "machine-38-metrics",
        MACHINE_ROWS * COLUMNS,
        "samples",
        lambda: detector.clone().advance(judged, later),
    )


def cases() -> list[Case]:
    """Return the detectors at work."""
    return [
        _batch("batch-one-series", 1),
        _batch("batch-64-series", 64),
        _tick("tick-100k-noisy", quiet=False),
        _tick("tick-100k-constant", quiet=True),
        _save(),
        _machine(),
    ]
