"""native.merging: 240,000 buckets of an hour merged into days of 10,000 series.

Best case: by series.  Ordinary: as flushes leave them, hour by hour.  Worst: shuffled.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from native.merging import merge_buckets

Case = tuple[str, float, str, Callable[[], object]]

SERIES = 10_000
HOURS = 24
ROWS = SERIES * HOURS
HOUR_NS = 3_600_000_000_000
COLUMNS = ("series_ids", "times", "counts", "sums", "mins", "maxs", "firsts", "lasts", "first_times", "last_times")


def _case(name: str, order: npt.NDArray[np.int64]) -> Case:
    series_ids = np.tile(np.arange(SERIES, dtype=np.int64) << 16, HOURS)
    times = np.repeat(np.arange(HOURS, dtype=np.int64) * HOUR_NS, SERIES)
    counts = np.full(ROWS, 360, np.int64)
    values = np.random.default_rng(1).integers(0, 100, (5, ROWS)).astype(np.float64)
    columns = dict(zip(COLUMNS, (series_ids, times, counts, *values, times, times + HOUR_NS - 1), strict=True))
    given = {column: array[order] for column, array in columns.items()}
    found = merge_buckets(**given, width_ns=HOURS * HOUR_NS)
    if not np.array_equal(found.sums, values[0].reshape(HOURS, SERIES).sum(axis=0)):
        raise AssertionError(f"merge_buckets of buckets {name} gives other sums")
    return (f"merge buckets {name}", ROWS, "buckets", lambda: merge_buckets(**given, width_ns=HOURS * HOUR_NS))


def cases() -> list[Case]:
    """Return the merging of the same buckets in three orders."""
    numbers = np.arange(ROWS)
    return [
        _case("by series", numbers.reshape(HOURS, SERIES).T.ravel().copy()),
        _case("hour by hour", numbers),
        _case("shuffled", np.random.default_rng(2).permutation(ROWS)),
    ]
