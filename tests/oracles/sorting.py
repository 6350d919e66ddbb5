"""Slow twins of native.sorting: Python's own stable sort and dictionaries."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

ABSENT_BITS = 0x7FF8_5449_4445_4741


def is_strictly_sorted(tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64]) -> bool:
    keys = list(zip(tagset_ids.tolist(), times.tolist(), strict=True))
    return all(before < after for before, after in itertools.pairwise(keys))


def sort_order(tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    keys = list(zip(tagset_ids.tolist(), times.tolist(), strict=True))
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def sort_and_merge(
    tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    cells = values.view(np.uint64)
    merged: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(tagset_ids.tolist(), times.tolist(), strict=True)):
        kept = merged.setdefault(key, [ABSENT_BITS] * len(cells))
        for field, column in enumerate(cells):
            if int(column[row]) != ABSENT_BITS:
                kept[field] = int(column[row])
    keys = sorted(merged)
    out = np.empty((len(cells), len(keys)), np.uint64)
    for position, key in enumerate(keys):
        for field in range(len(cells)):
            out[field, position] = merged[key][field]
    return (
        np.array([tagset for tagset, _ in keys], dtype=np.int32),
        np.array([time for _, time in keys], dtype=np.int64),
        out.view(np.float64),
    )
