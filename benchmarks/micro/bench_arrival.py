"""native.arrival: a million rows of 1,000 tag sets against what is known of these.

Best case: nothing is late.  Worst: every row is late; tag sets in random order over a million of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from native.arrival import split_late, update_latest

Case = tuple[str, float, str, Callable[[], object]]

ROWS = 1_000_000
TAG_SETS = 1_000
STEP_NS = 10_000_000_000
NEVER = np.iinfo(np.int64).min


def _splitting(name: str, tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64], late: int) -> Case:
    known = int(tagset_ids.max()) + 1

    def split() -> int:
        return split_late(tagset_ids, times, np.full(known, NEVER, np.int64))[0]

    if split() != late:
        raise AssertionError(f"split_late of rows {name} finds {split()} late, want {late}")
    return (f"split late, {name}", ROWS, "rows", split)


def _latest(name: str, tagset_ids: npt.NDArray[np.int32], times: npt.NDArray[np.int64]) -> Case:
    known = int(tagset_ids.max()) + 1
    column = np.random.default_rng(3).random(ROWS)
    latest_values = np.zeros(known)

    def update() -> None:
        update_latest(tagset_ids, times, column, np.full(known, NEVER, np.int64), latest_values)

    update()
    newest = np.full(known, -1)
    order = np.lexsort((np.arange(ROWS), times, tagset_ids))
    newest[tagset_ids[order]] = order  # the last assignment of each tag set stays
    if not np.array_equal(latest_values[newest >= 0], column[newest[newest >= 0]]):
        raise AssertionError(f"update_latest of rows {name} keeps other values")
    return (f"update latest, {name}", ROWS, "rows", update)


def cases() -> list[Case]:
    """Return both functions on rows in order, in reverse and scattered."""
    numbers = np.arange(ROWS)
    tagset_ids = (numbers % TAG_SETS).astype(np.int32)
    times = (numbers // TAG_SETS * STEP_NS).astype(np.int64)
    backwards = times[::-1].copy()
    scattered = np.random.default_rng(1).permutation(ROWS).astype(np.int32)
    return [
        _splitting("in order", tagset_ids, times, 0),
        _splitting("backwards", tagset_ids, backwards, ROWS - TAG_SETS),
        _splitting("a million tag sets", scattered, times, 0),
        _latest("in order", tagset_ids, times),
        _latest("backwards", tagset_ids, backwards),
        _latest("a million tag sets", scattered, times),
    ]
