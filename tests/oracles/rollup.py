"""Slow twins of native.rollup: one dictionary entry for each bucket, filled sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

FIELD_ID_BITS = 16
#: Columns of a bucket row, in order, without the increases.
COLUMNS = (
    "series_ids",
    "times",
    "counts",
    "sums",
    "mins",
    "maxs",
    "firsts",
    "lasts",
    "first_times",
    "last_times",
)
FLOAT_COLUMNS = ("sums", "mins", "maxs", "firsts", "lasts", "increases")


def bucket_start(time: int, width: int, origin: int = 0) -> int:
    return origin + (time - origin) // width * width


def rise(value: float, previous: float) -> float:
    return value if value < previous else value - previous


def as_columns(rows: Iterable[Sequence[float]], names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    listed = list(rows)
    return {
        name: np.array([row[position] for row in listed], dtype=np.float64 if name in FLOAT_COLUMNS else np.int64)
        for position, name in enumerate(names)
    }


def aggregate(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    field_ids: npt.NDArray[np.int32],
    width_ns: int,
    origin_ns: int = 0,
) -> dict[str, npt.NDArray[np.generic]]:
    buckets: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
    for row, (tagset, time) in enumerate(zip(tagset_ids.tolist(), times.tolist(), strict=True)):
        for field, column in zip(field_ids.tolist(), values, strict=True):
            value = float(column[row])
            if not math.isnan(value):
                key = (tagset, field, bucket_start(time, width_ns, origin_ns))
                buckets.setdefault(key, []).append((time, value))
    rows = []
    for (tagset, field, bucket), samples in sorted(buckets.items()):
        total = smallest = largest = previous = samples[0][1]
        increase = 0.0
        for _, value in samples[1:]:
            total += value
            smallest = value if value < smallest else smallest
            largest = value if value > largest else largest
            increase += rise(value, previous)
            previous = value
        rows.append(
            (
                (tagset << FIELD_ID_BITS) | field,
                bucket,
                len(samples),
                total,
                smallest,
                largest,
                samples[0][1],
                samples[-1][1],
                samples[0][0],
                samples[-1][0],
                increase,
            )
        )
    return as_columns(rows, (*COLUMNS, "increases"))


def touched_buckets(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], width_ns: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    pairs = sorted(
        {
            (tagset, bucket_start(time, width_ns))
            for tagset, time in zip(tagset_ids.tolist(), times.tolist(), strict=True)
        }
    )
    return (
        np.array([tagset for tagset, _ in pairs], dtype=np.int32),
        np.array([bucket for _, bucket in pairs], dtype=np.int64),
    )


def select_buckets(
    row_tagset_ids: npt.NDArray[np.int32],
    row_times: npt.NDArray[np.int64],
    width_ns: int,
    tagset_ids: npt.NDArray[np.int32],
    buckets: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    wanted = set(zip(tagset_ids.tolist(), buckets.tolist(), strict=True))
    return np.array(
        [
            (tagset, bucket_start(time, width_ns)) in wanted
            for tagset, time in zip(row_tagset_ids.tolist(), row_times.tolist(), strict=True)
        ],
        dtype=np.bool_,
    )


def same_columns(got: object, want: dict[str, np.ndarray]) -> None:
    """Compare every column bit for bit, except that one NaN (of inf - inf) is as good as another."""
    for name, column in want.items():
        array = getattr(got, name)
        assert array.dtype == column.dtype, name
        assert array.shape == column.shape, name
        if array.dtype == np.float64:
            both_nan = np.isnan(array) & np.isnan(column)
            same = array.view(np.uint64) == column.view(np.uint64)
            assert (same | both_nan).all(), (name, array, column)
        else:
            assert array.tolist() == column.tolist(), name
