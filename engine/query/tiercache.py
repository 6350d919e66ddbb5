"""Columns of the tiers' rows that were asked for lately, so that the next question about them asks nobody.

What is kept is a *chunk*: some buckets of one field of one table, all tag sets, sorted by (tag set, bucket), each
column apart.  Whoever changes the tiers says so afterwards; a chunk that was being read meanwhile is not kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS, Int32Array, Int64Array
from engine.rollups.tiers import TIERS, Tier

#: ``rows(tier, start_ns, end_ns, series_ids, names)``: rows of a tier as they are stored, sorted by (series, time).
StoredRows = Callable[[str, int, int, Int64Array, Sequence[str]], pa.Table]
Column = npt.NDArray[Any]

DEFAULT_CACHE_BYTES = 64 << 20
#: Buckets of a chunk, by tier.
CHUNK_BUCKETS = {"rollup_1m": 60, "rollup_5m": 48, "rollup_15m": 48, "rollup_1h": 24, "rollup_1d": 32}
#: Of a table with so many tag sets that a chunk may have more rows, only what is asked for is read, and not kept.
MAX_CHUNK_ROWS = 1 << 18
#: About what a row of a chunk takes: its key and three columns.
ROW_BYTES = 36

#: Tier, table, field, number of the chunk.
_Key = tuple[str, int, int, int]


@dataclass(slots=True)
class TierColumns:
    """Rows of one field, sorted by (tag set, bucket).  ``tagset_ids`` int32[n], ``times`` int64[n] (ns), columns by
    name.  Shared: read only.
    """

    tagset_ids: Int32Array
    times: Int64Array
    columns: dict[str, Column] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.tagset_ids.nbytes + self.times.nbytes + sum(each.nbytes for each in self.columns.values())

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]


class TierCache:
    """Chunks of one engine's tiers, those used last, within a bound on memory; callable from any thread."""

    def __init__(self, rows: StoredRows, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._rows, self._max_bytes = rows, max_bytes
        self._lock = threading.Lock()
        self._chunks: OrderedDict[_Key, TierColumns] = OrderedDict()
        #: How often something has changed: what was read before belongs to another state.
        self._changes = 0
        self.nbytes = 0
        self.hits = 0
        self.misses = 0

    # --- reading

    def knows(self, tier: Tier, table_id: int, field_ids: Sequence[int], start_ns: int, end_ns: int) -> bool:
        """Return whether chunks of all of these buckets are kept."""
        with self._lock:
            return all(
                (tier.name, table_id, field_id, number) in self._chunks
                for number in _numbers(tier, start_ns, end_ns)
                for field_id in field_ids
            )

    def keeps(self, tier: Tier, tagset_count: int, field_count: int, start_ns: int, end_ns: int) -> bool:
        """Return whether the chunks of these buckets of a table with so many tag sets are few enough to be kept."""
        rows = tagset_count * CHUNK_BUCKETS[tier.name]
        chunks = len(_numbers(tier, start_ns, end_ns)) * field_count
        return rows <= MAX_CHUNK_ROWS and rows * chunks * ROW_BYTES <= self._max_bytes // 2

    def read(
        self,
        tier: Tier,
        table_id: int,
        tagset_ids: Int32Array,
        field_ids: Sequence[int],
        start_ns: int,
        end_ns: int,
        names: Sequence[str],
    ) -> Iterator[tuple[int, TierColumns]]:
        """Yield (field, rows of a chunk), chunks in order of time, that hold all buckets of ``[start_ns, end_ns)``.

        ``tagset_ids``: all that the table has.  Buckets outside the range come with them.
        """
        for number in _numbers(tier, start_ns, end_ns):
            yield from self._chunk(tier, table_id, tagset_ids, field_ids, number, names)

    def direct(
        self,
        tier: Tier,
        tagset_ids: Int32Array,
        field_ids: Sequence[int],
        start_ns: int,
        end_ns: int,
        names: Sequence[str],
    ) -> Iterator[tuple[int, TierColumns]]:
        """Do the same for some tag sets, without keeping anything."""
        series_ids = _series(tagset_ids, field_ids)
        table = self._rows(tier.name, start_ns, end_ns, series_ids, ("series_id", "time", *names))
        yield from _by_field(table, field_ids, names).items()

    def _chunk(
        self,
        tier: Tier,
        table_id: int,
        tagset_ids: Int32Array,
        field_ids: Sequence[int],
        number: int,
        names: Sequence[str],
    ) -> Iterator[tuple[int, TierColumns]]:
        keys = {field_id: (tier.name, table_id, field_id, number) for field_id in field_ids}
        found: dict[int, TierColumns] = {}
        lacking = []
        with self._lock:
            changes = self._changes
            for field_id, key in keys.items():
                known = self._chunks.get(key)
                if known is None or any(name not in known.columns for name in names):
                    lacking.append(field_id)
                else:
                    self._chunks.move_to_end(key)
                    found[field_id] = known
            self.hits += len(found)
            self.misses += len(lacking)
        if lacking:
            span_ns = CHUNK_BUCKETS[tier.name] * tier.width_ns
            series_ids = _series(tagset_ids, lacking)
            wanted = ("series_id", "time", *names)
            table = self._rows(tier.name, number * span_ns, (number + 1) * span_ns, series_ids, wanted)
            read = _by_field(table, lacking, names)
            found |= read
            with self._lock:
                if changes == self._changes:
                    for field_id, chunk in read.items():
                        self._keep(keys[field_id], chunk)
        yield from sorted(found.items())

    def _keep(self, key: _Key, chunk: TierColumns) -> None:
        known = self._chunks.pop(key, None)
        if known is not None:
            self.nbytes -= known.nbytes
            if np.array_equal(known.times, chunk.times):
                # The same rows: columns of both belong together.
                chunk = TierColumns(known.tagset_ids, known.times, known.columns | chunk.columns)
        if chunk.nbytes > self._max_bytes // 4:
            return
        self._chunks[key] = chunk
        self.nbytes += chunk.nbytes
        while self.nbytes > self._max_bytes:
            _, dropped = self._chunks.popitem(last=False)
            self.nbytes -= dropped.nbytes

    # --- what changes

    def changed(self, table_id: int, buckets: Int64Array) -> None:
        """Forget the chunks that hold one of these 1m buckets (starts, ns) of a table, or a wider one around it."""
        with self._lock:
            self._changes += 1
            kept = {key[0] for key in self._chunks if key[1] == table_id}
            for tier in TIERS:
                if tier.name in kept:
                    span_ns = CHUNK_BUCKETS[tier.name] * tier.width_ns
                    numbers = set(np.unique(buckets // span_ns).tolist())
                    self._forget(
                        [k for k in self._chunks if k[0] == tier.name and k[1] == table_id and k[3] in numbers]
                    )

    def expired(self, tier: str, before_ns: int) -> None:
        """Forget the chunks of a tier with buckets before a time."""
        with self._lock:
            self._changes += 1
            spans = {each.name: CHUNK_BUCKETS[each.name] * each.width_ns for each in TIERS}
            self._forget([key for key in self._chunks if key[0] == tier and key[3] * spans[tier] < before_ns])

    def clear(self) -> None:
        """Forget everything: buckets have gone."""
        with self._lock:
            self._changes += 1
            self._forget(list(self._chunks))

    def _forget(self, keys: Sequence[_Key]) -> None:
        for key in keys:
            self.nbytes -= self._chunks.pop(key).nbytes


def _numbers(tier: Tier, start_ns: int, end_ns: int) -> range:
    span_ns = CHUNK_BUCKETS[tier.name] * tier.width_ns
    return range(start_ns // span_ns, -(-end_ns // span_ns))


def _series(tagset_ids: Int32Array, field_ids: Sequence[int]) -> Int64Array:
    return ((tagset_ids.astype(np.int64) << FIELD_ID_BITS)[:, None] | np.array(field_ids, np.int64)).ravel()


def _by_field(table: pa.Table, field_ids: Sequence[int], names: Sequence[str]) -> dict[int, TierColumns]:
    """Return the rows of each field; ``table`` is sorted by (series, time)."""
    series_ids = table.column("series_id").to_numpy()
    columns = {name: table.column(name).to_numpy() for name in ("time", *names)}
    numbers = series_ids & (MAX_FIELDS - 1)
    tagset_ids = (series_ids >> FIELD_ID_BITS).astype(np.int32)
    found: dict[int, TierColumns] = {}
    keys: tuple[Int32Array, Int64Array] | None = None
    for field_id in field_ids:
        places = np.flatnonzero(numbers == field_id) if len(field_ids) > 1 else slice(None)
        # Copies, so that no chunk holds on to the memory of others.
        each = {name: np.array(column[places]) for name, column in columns.items()}
        own = np.array(tagset_ids[places]), each.pop("time")
        if keys is None or not (np.array_equal(keys[0], own[0]) and np.array_equal(keys[1], own[1])):
            keys = own
        # Fields that have the same rows, as most do, share their keys.
        found[field_id] = TierColumns(*keys, each)
    return found
