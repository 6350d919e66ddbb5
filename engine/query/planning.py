"""What a range query reads from where, and the tiers' rows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import pyarrow as pa

from engine.catalog.catalog import Catalog
from engine.model.rows import Int64Array
from engine.query.samples import SampleStore
from engine.query.selected import Selected
from engine.query.split import Interval, Piece, split
from engine.query.tiercache import TierCache, TierColumns
from engine.rollups.tiers import Tier

#: Up to so many raw samples are read rather than a tier that has to be fetched from the query process, ...
RAW_SAMPLES_PREFERRED = 100_000
#: ... or one whose rows are in memory.
RAW_SAMPLES_BESIDE_KEPT = 5_000
#: Up to so many are read rather than flushed into the tiers first.
RAW_SAMPLES_BEFORE_FLUSH = 2_000_000
#: ... unless for a row of a tier at least so many cells of files would have to be decoded.
CELLS_FOR_A_ROW = 16
#: Of fewer than one in so many tag sets the tiers' rows are fetched alone, and not kept, ...
KEPT_SHARE = 16
#: ... unless those of all tag sets are no more than these.
FEW_TIER_ROWS = 100_000
RAW = "raw"


class Tiers(Protocol):
    """The tiers of one engine, as range queries see them."""

    cache: TierCache

    def rows(self, tier: str, start_ns: int, end_ns: int, series_ids: Int64Array, names: Sequence[str]) -> pa.Table:
        """Return columns of a tier's rows, sorted by (series, time), everything visible included."""

    def unflushed(self, table_id: int, start_ns: int, end_ns: int) -> Int64Array | None:
        """Return the starts (ns) of the minutes of a range that the tiers may lack samples of.

        None where that cannot be told, or where the tiers must follow something else first: they must be flushed.
        """

    def flush(self) -> None:
        """Bring the tiers up to date with what is visible."""


class Planner:
    """Plans the reads of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, tiers: Tiers | None) -> None:
        self._catalog, self._samples, self._tiers = catalog, samples, tiers

    def plan(
        self, one: Selected, whole: Interval, step_ns: int, raw_since_ns: int, look_back_ns: int = 0
    ) -> list[Piece]:
        """Return the pieces of a range, and of as much before it, in steps from its start; flushes where that pays.

        ``raw_since_ns``: the oldest time for which raw samples are still kept.
        """
        origin_ns, tiers = whole[0], self._tiers
        whole = (whole[0] - look_back_ns, whole[1])
        if tiers is None or not (whole[0] < raw_since_ns or self.expected(one, [whole]) > RAW_SAMPLES_BESIDE_KEPT):
            return [Piece(None, (whole,))]

        @cache
        def undecoded() -> int:
            return self._samples.undecoded_cells(one.table_id, *whole, one.narrowed, one.field_ids)

        def is_worth(tier: Tier, rest: Sequence[Interval]) -> bool:
            if any(start < raw_since_ns for start, _ in rest):
                return True
            samples = self.expected(one, rest)
            if samples <= RAW_SAMPLES_BESIDE_KEPT:
                return False
            if samples > RAW_SAMPLES_PREFERRED or tiers.cache.knows(
                tier, one.table_id, one.field_ids, rest[0][0], rest[-1][1]
            ):
                return True
            rows = self._tier_row_count(one, tier, rest)
            return rows <= FEW_TIER_ROWS and undecoded() > CELLS_FOR_A_ROW * rows

        unflushed = tiers.unflushed(one.table_id, *whole)
        if unflushed is not None:
            pieces = split(whole, origin_ns, step_ns, unflushed, is_worth)
            if not len(unflushed) or not self._is_too_much(one, pieces, raw_since_ns):
                return pieces
        # From then on everything that was visible when the question came is in the tiers.
        tiers.flush()
        return split(whole, origin_ns, step_ns, np.empty(0, np.int64), is_worth)

    def expected(self, one: Selected, intervals: Sequence[Interval]) -> int:
        """Return about how many raw samples the intervals hold."""
        rows = sum(self._samples.expected_rows(one.table_id, start, end) for start, end in intervals)
        share = 1.0
        if not one.every:
            share = len(one.tagset_ids) / max(1, len(self._catalog.tagset_ids(one.table_id)))
        return round(rows * share * len(one.metrics))

    def tier_rows(self, one: Selected, piece: Piece, names: Sequence[str]) -> Iterator[tuple[int, TierColumns]]:
        """Yield (field, rows) of a piece that is read from a tier; rows that are not asked for come with them."""
        assert self._tiers is not None
        assert piece.tier is not None
        kept_rows, tier = self._tiers.cache, piece.tier
        start_ns, end_ns = piece.intervals[0][0], piece.intervals[-1][1]
        every = self._catalog.tagset_ids(one.table_id)
        few = self._tier_row_count(one, tier, piece.intervals) <= FEW_TIER_ROWS
        kept = kept_rows.knows(tier, one.table_id, one.field_ids, start_ns, end_ns) or (
            (few or len(one.tagset_ids) * KEPT_SHARE >= len(every))
            and kept_rows.keeps(tier, len(every), len(one.field_ids), start_ns, end_ns)
        )
        if kept:
            return kept_rows.read(tier, one.table_id, every, one.field_ids, start_ns, end_ns, names)
        return kept_rows.direct(tier, one.tagset_ids, one.field_ids, start_ns, end_ns, names)

    def _tier_row_count(self, one: Selected, tier: Tier, intervals: Sequence[Interval]) -> int:
        """Return how many rows a tier has at most in these intervals, of all tag sets of the table."""
        buckets = sum(end // tier.width_ns - start // tier.width_ns + 1 for start, end in intervals)
        return buckets * len(self._catalog.tagset_ids(one.table_id)) * len(one.metrics)

    def lacking(self, pieces: Sequence[Piece], raw_since_ns: int) -> Interval | None:
        """Return the time from the first to the last raw sample that is wanted but no longer kept, if there is such."""
        gone = [
            (start_ns, min(end_ns, raw_since_ns))
            for piece in pieces
            if piece.tier is None and self._tiers is not None
            for start_ns, end_ns in piece.intervals
            if start_ns < raw_since_ns
        ]
        return (gone[0][0], gone[-1][1]) if gone else None

    def _is_too_much(self, one: Selected, pieces: Sequence[Piece], raw_since_ns: int) -> bool:
        raw = [interval for piece in pieces if piece.tier is None for interval in piece.intervals]
        lost = any(start < raw_since_ns for start, _ in raw)
        return lost or self.expected(one, raw) > RAW_SAMPLES_BEFORE_FLUSH
