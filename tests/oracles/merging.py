"""Slow twin of native.merging: one dictionary entry for each wider bucket."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.oracles.rollup import COLUMNS, as_columns, bucket_start


def merge_buckets(columns: dict[str, npt.NDArray[np.generic]], width_ns: int) -> dict[str, npt.NDArray[np.generic]]:
    narrow = sorted(zip(*(columns[name].tolist() for name in COLUMNS), strict=True), key=lambda row: row[:2])
    merged: dict[tuple[int, int], list[float]] = {}
    for series, time, count, total, smallest, largest, first, last, first_time, last_time in narrow:
        key = (series, bucket_start(time, width_ns))
        row = merged.get(key)
        if row is None:
            merged[key] = [*key, count, total, smallest, largest, first, last, first_time, last_time]
            continue
        row[2] += count
        row[3] += total
        row[4] = smallest if smallest < row[4] else row[4]
        row[5] = largest if largest > row[5] else row[5]
        row[7] = last
        row[9] = last_time
    return as_columns(merged.values(), COLUMNS)
