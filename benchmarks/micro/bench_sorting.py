"""native.sorting: ordering and merging 65,536 and a million rows of 1,000 tag sets.

Best case: rows that are sorted already.  Ordinary: tag sets interleaved in time order.  Worst: shuffled rows, tag set
numbers too far apart to count, every row there twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from native.sorting import is_strictly_sorted, sort_and_merge, sort_order

Case = tuple[str, float, str, Callable[[], object]]
Keys = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]

SIZES = (("64k", 65_536), ("1M", 1_000_000))
TAG_SETS = 1_000
FIELDS = 10
STEP_NS = 10_000_000_000


def _interleaved(rows: int) -> Keys:
    numbers = np.arange(rows)
    return (numbers % TAG_SETS).astype(np.int32), (numbers // TAG_SETS * STEP_NS).astype(np.int64)


def _keys(rows: int) -> dict[str, Keys]:
    tagset_ids, times = _interleaved(rows)
    order = np.lexsort((times, tagset_ids))
    shuffled = np.random.default_rng(1).permutation(rows)
    late = times.copy()
    late[: rows // 2] += rows // TAG_SETS * STEP_NS  # the first half of the arrivals is the newer one
    return {
        "sorted": (tagset_ids[order], times[order]),
        "interleaved": (tagset_ids, times),
        "late half": (tagset_ids, late),
        "far apart": ((tagset_ids.astype(np.int64) * 2_000_003).astype(np.int32), times),
        "shuffled": (tagset_ids[shuffled], times[shuffled]),
    }


def _ordering(name: str, keys: Keys) -> Case:
    if not np.array_equal(sort_order(*keys), np.lexsort((keys[1], keys[0]))):
        raise AssertionError(f"sort_order of {name} rows is not the stable order")
    return (f"order {name}", len(keys[0]), "rows", lambda: sort_order(*keys))


def _merging(name: str, keys: Keys) -> Case:
    values = np.random.default_rng(2).random((FIELDS, len(keys[0])))
    tagset_ids, times, merged = sort_and_merge(*keys, values)
    order = np.lexsort((keys[1], keys[0]))
    last = np.ones(len(order), np.bool_)
    last[:-1] = (np.diff(keys[0][order]) != 0) | (np.diff(keys[1][order]) != 0)
    if not (is_strictly_sorted(tagset_ids, times) and np.array_equal(merged, values[:, order[last]])):
        raise AssertionError(f"sort_and_merge of {name} rows does not keep the last arrival of each key")
    return (f"merge {name}", values.size, "cells", lambda: sort_and_merge(*keys, values))


def cases() -> list[Case]:
    """Return the ordering of each kind of rows, and the merging of ten columns of some."""
    made: list[Case] = []
    for size, rows in SIZES:
        keys = _keys(rows)
        made += [_ordering(f"{name}, {size}", of_kind) for name, of_kind in keys.items()]
        half = _interleaved(rows // 2)
        keys["each twice"] = (np.tile(half[0], 2), np.tile(half[1], 2))
        made += [
            _merging(f"{name}, {size}", keys[name]) for name in ("sorted", "interleaved", "each twice", "shuffled")
        ]
    return made
