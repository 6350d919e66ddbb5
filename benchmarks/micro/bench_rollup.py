"""native.rollup: aggregating a million rows of ten fields, and finding buckets.

Best case: wide buckets without gaps; a few buckets to select.  Ordinary: 1m buckets of six samples.  Worst: noise of
which every third cell is absent; every row in a bucket of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from native.columns import ABSENT
from native.rollup import aggregate, select_buckets, touched_buckets

Case = tuple[str, float, str, Callable[[], object]]

TAG_SETS = 1_000
ROWS_EACH = 1_000
ROWS = TAG_SETS * ROWS_EACH
FIELDS = 10
STEP_NS = 10_000_000_000
MINUTE_NS = 60_000_000_000


def _aggregating(name: str, values: npt.NDArray[np.float64], width_ns: int) -> Case:
    tagset_ids = np.repeat(np.arange(TAG_SETS, dtype=np.int32), ROWS_EACH)
    times = np.tile(np.arange(ROWS_EACH, dtype=np.int64) * STEP_NS, TAG_SETS)
    field_ids = np.arange(FIELDS, dtype=np.int32)
    found = aggregate(tagset_ids, times, values, field_ids, width_ns)
    present = ~np.isnan(values)
    right = int(found.counts.sum()) == int(present.sum()) and np.isclose(found.sums.sum(), values[present].sum())
    if not (right and found.maxs.max() == values[present].max() and found.mins.min() == values[present].min()):
        raise AssertionError(f"aggregate of {name} loses samples")
    return (name, values.size, "cells", lambda: aggregate(tagset_ids, times, values, field_ids, width_ns))


def _touching(name: str, tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], width_ns: int) -> Case:
    found = touched_buckets(tagset_ids, times, width_ns)
    pairs = np.unique(np.stack([tagset_ids.astype(np.int64), times // width_ns * width_ns]), axis=1)
    if not (np.array_equal(found[0], pairs[0]) and np.array_equal(found[1], pairs[1])):
        raise AssertionError(f"touched_buckets of {name} rows are not the distinct ones")
    return (f"touched buckets, {name}", len(times), "rows", lambda: touched_buckets(tagset_ids, times, width_ns))


def _selecting(name: str, every: int) -> Case:
    tagset_ids = np.repeat(np.arange(TAG_SETS, dtype=np.int32), ROWS_EACH)
    times = np.tile(np.arange(ROWS_EACH, dtype=np.int64) * STEP_NS, TAG_SETS)
    all_ids, all_buckets = touched_buckets(tagset_ids, times, MINUTE_NS)
    wanted_ids, buckets = all_ids[::every].copy(), all_buckets[::every].copy()
    keys = tagset_ids.astype(np.int64) * 10**9 + times // MINUTE_NS
    wanted = wanted_ids.astype(np.int64) * 10**9 + buckets // MINUTE_NS
    if not np.array_equal(select_buckets(tagset_ids, times, MINUTE_NS, wanted_ids, buckets), np.isin(keys, wanted)):
        raise AssertionError(f"select_buckets of {name} selects other rows")
    return (
        f"select {name}",
        ROWS,
        "rows",
        lambda: select_buckets(tagset_ids, times, MINUTE_NS, wanted_ids, buckets),
    )


def cases() -> list[Case]:
    """Return aggregation by kind of value and width, and both searches for buckets."""
    random = np.random.default_rng(1)
    noise = random.random((FIELDS, ROWS))
    absent = noise.copy()
    absent[random.random(noise.shape) < 1 / 3] = ABSENT
    numbers = np.arange(ROWS)
    interleaved = (numbers % TAG_SETS).astype(np.int32), (numbers // TAG_SETS * STEP_NS).astype(np.int64)
    return [
        _aggregating("aggregate by the hour", noise, 60 * MINUTE_NS),
        _aggregating("aggregate by the minute", noise, MINUTE_NS),
        _aggregating("aggregate by the minute, a third absent", absent, MINUTE_NS),
        _aggregating("aggregate, one sample a bucket", noise, STEP_NS),
        _touching("one tag set", np.zeros(ROWS, np.int32), np.arange(ROWS, dtype=np.int64) * 1_000_000, MINUTE_NS),
        _touching("interleaved", *interleaved, MINUTE_NS),
        _touching("all different", *interleaved, STEP_NS),
        _selecting("one bucket in a thousand", 1_000),
        _selecting("every bucket", 1),
    ]
