"""Rows of tiers kept in memory: bounded, never of another state than that after the last change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE
from engine.model.rows import Int64Array
from engine.query.tiercache import CHUNK_BUCKETS, TierCache
from engine.rollups.tiers import TIER_OF_NAME

HOURS, MINUTES = TIER_OF_NAME["rollup_1h"], TIER_OF_NAME["rollup_1m"]
DAY_NS = CHUNK_BUCKETS["rollup_1h"] * NS_PER_HOUR
ALL = np.arange(3, dtype=np.int32)


class Stored:
    """A tier with a row for each bucket of each series, whose sum is ``version``."""

    def __init__(self) -> None:
        self.version, self.asked = 0.0, 0

    def __call__(self, tier: str, start_ns: int, end_ns: int, series_ids: Int64Array, names: Sequence[str]) -> pa.Table:
        self.asked += 1
        times = np.arange(start_ns, end_ns, TIER_OF_NAME[tier].width_ns)
        columns = {"series_id": np.repeat(np.sort(series_ids), len(times)), "time": np.tile(times, len(series_ids))}
        values = np.full(len(columns["time"]), self.version)
        return pa.table(columns | {name: values for name in names if name not in columns})

    def sums(self, cache: TierCache, field_ids: Sequence[int], start_ns: int, end_ns: int) -> set[float]:
        found = set()
        for field_id, rows in cache.read(HOURS, 1, ALL, field_ids, start_ns, end_ns, ("sum",)):
            assert set(rows.tagset_ids.tolist()) == set(ALL.tolist())
            assert field_id in field_ids
            found |= set(rows["sum"].tolist())
        return found


def test_what_is_kept_is_not_asked_for_again_until_it_changes() -> None:
    stored = Stored()
    cache = TierCache(stored)
    assert stored.sums(cache, (1, 2), 0, 2 * DAY_NS) == {0.0}
    assert (stored.asked, cache.misses) == (2, 4)
    stored.version = 1.0
    assert stored.sums(cache, (1, 2), 0, 2 * DAY_NS) == {0.0}
    assert (stored.asked, cache.hits) == (2, 4)
    cache.changed(2, np.array([0], np.int64))
    assert stored.sums(cache, (1,), 0, DAY_NS) == {0.0}
    cache.changed(1, np.array([DAY_NS - NS_PER_MINUTE], np.int64))
    assert stored.sums(cache, (1,), 0, DAY_NS) == {1.0}
    assert stored.sums(cache, (1,), DAY_NS, 2 * DAY_NS) == {0.0}
    cache.expired("rollup_1m", 10 * DAY_NS)
    assert cache.knows(HOURS, 1, (1,), 0, 2 * DAY_NS)
    cache.expired("rollup_1h", DAY_NS + 1)
    assert not cache.knows(HOURS, 1, (2,), 0, 1)
    assert not cache.knows(HOURS, 1, (1,), DAY_NS, DAY_NS + 1)
    cache.clear()
    assert cache.nbytes == 0


def test_further_columns_are_added_to_what_is_kept() -> None:
    stored = Stored()
    cache = TierCache(stored)
    stored.sums(cache, (1,), 0, 1)
    [(_, rows)] = cache.read(HOURS, 1, ALL, (1,), 0, 1, ("max",))
    assert "max" in rows.columns
    assert stored.asked == 2
    [(_, rows)] = cache.read(HOURS, 1, ALL, (1,), 0, 1, ("max", "sum"))
    assert stored.asked == 2
    assert cache.nbytes == rows.nbytes


def test_what_was_read_while_something_changed_is_not_kept() -> None:
    stored = Stored()

    def changing(*given: object) -> pa.Table:
        table = stored(*given)  # type: ignore[arg-type]
        cache.changed(1, np.array([0], np.int64))
        return table

    cache = TierCache(changing)
    assert stored.sums(cache, (1,), 0, 1) == {0.0}
    assert not cache.knows(HOURS, 1, (1,), 0, 1)
    assert cache.nbytes == 0


def test_memory_is_bounded() -> None:
    stored = Stored()
    cache = TierCache(stored, 20_000)
    for day in range(30):
        stored.sums(cache, (1,), day * DAY_NS, day * DAY_NS + 1)
        assert 0 < cache.nbytes <= 20_000
    assert cache.knows(HOURS, 1, (1,), 29 * DAY_NS, 30 * DAY_NS)
    assert not cache.knows(HOURS, 1, (1,), 0, DAY_NS)
    assert TierCache(stored, 0).nbytes == 0
    assert stored.sums(TierCache(stored, 0), (1,), 0, 1) == {0.0}
    assert not cache.keeps(MINUTES, 10**6, 1, 0, 1)
    assert not cache.keeps(HOURS, 3, 1, 0, 100 * DAY_NS)
    assert cache.keeps(HOURS, 3, 1, 0, DAY_NS)


def test_series_asked_for_directly_are_not_kept() -> None:
    stored = Stored()
    cache = TierCache(stored)
    [(field_id, rows)] = cache.direct(HOURS, np.array([2], np.int32), (5,), 0, NS_PER_HOUR, ("sum",))
    assert (field_id, rows.tagset_ids.tolist(), rows.times.tolist()) == (5, [2], [0])
    assert cache.nbytes == 0
