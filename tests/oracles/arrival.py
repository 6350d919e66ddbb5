"""Slow twins of native.arrival: one row at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ABSENT_BITS = 0x7FF8_5449_4445_4741


def split_late(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], last_times: npt.NDArray[np.int64]
) -> tuple[int, npt.NDArray[np.bool_] | None]:
    mask = np.zeros(len(times), np.bool_)
    for row, (tagset, time) in enumerate(zip(tagset_ids.tolist(), times.tolist(), strict=True)):
        if time <= last_times[tagset]:
            mask[row] = True
        else:
            last_times[tagset] = time
    return int(mask.sum()), mask if mask.any() else None


def newest_rows(tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64]) -> list[int]:
    newest: dict[int, int] = {}
    for row, (tagset, time) in enumerate(zip(tagset_ids.tolist(), times.tolist(), strict=True)):
        if tagset not in newest or time >= times[newest[tagset]]:
            newest[tagset] = row
    return list(newest.values())


def touched_rows(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], bucket_ns: int, last: dict[int, int]
) -> list[tuple[int, int]]:
    touched: list[tuple[int, int]] = []
    for tagset, time in zip(tagset_ids.tolist(), times.tolist(), strict=True):
        start = time // bucket_ns * bucket_ns
        if last.get(tagset) != start:
            touched.append((tagset, start))
        last[tagset] = start
    return touched


def update_latest(
    tagset_ids: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    column: npt.NDArray[np.float64],
    latest_times: npt.NDArray[np.int64],
    latest_values: npt.NDArray[np.float64],
) -> None:
    cells = column.view(np.uint64)
    out = latest_values.view(np.uint64)
    for row, (tagset, time) in enumerate(zip(tagset_ids.tolist(), times.tolist(), strict=True)):
        if int(cells[row]) != ABSENT_BITS and time >= latest_times[tagset]:
            latest_times[tagset] = time
            out[tagset] = cells[row]
