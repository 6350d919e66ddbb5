"""Buckets for what depends on the order of samples: first, last, increase and rate.

Each series' buckets are put in order of time, whichever sources they come from, and merged into steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.model.rows import FIELD_ID_BITS, Int64Array
from engine.query.buckets import Buckets, buckets_of_rows, merge_buckets, take_buckets, with_boundaries
from engine.query.planning import RAW, Planner
from engine.query.samples import SampleStore
from engine.query.selected import Selected
from engine.query.split import Interval, Piece
from engine.query.tiercache import TierColumns
from engine.rollups.long import INCREASE
from native.folding import locate_cells

COUNTED = ("increase", "rate")
ORDERED = ("first", "last", *COUNTED)
_NAMES = ("count", "first", "last", "last_time")


class SequenceReader:
    """Reads sequences of one engine; callable from any thread."""

    def __init__(self, samples: SampleStore, planner: Planner) -> None:
        self._samples, self._planner = samples, planner

    def read(
        self, one: Selected, aggregate: str, whole: Interval, step_ns: int, raw_since_ns: int, look_back_ns: int
    ) -> tuple[Buckets, dict[str, int]] | None:
        """Return the buckets of each series, and how many samples or rows were read of each source.

        ``look_back_ns``: how far before the range the sample may be from which an increase counts.  None where that
        is another's: raw samples of some of it are no longer kept, or a tier does not have the increases.
        Sums, minima and maxima are not filled in.
        """
        counted = aggregate in COUNTED
        back_ns = look_back_ns if counted else 0
        if aggregate not in ORDERED or whole[0] - back_ns < raw_since_ns:
            return None
        names = (*_NAMES, INCREASE) if counted else _NAMES
        deletions = self._samples.deletions
        while True:
            parts: list[Buckets] = []
            rows: dict[str, int] = {}
            for piece in self._planner.plan(one, whole, step_ns, raw_since_ns, back_ns):
                found = self._of_piece(one, piece, whole[0], step_ns, names)
                if piece.tier is None:
                    rows[RAW] = sum(int(part.counts[part.times >= whole[0]].sum()) for part in found)
                else:
                    rows[piece.tier.name] = sum(len(part.times) for part in found)
                parts += found
            if deletions is self._samples.deletions:
                break
            # What was deleted meanwhile may have been left out of one source only.
            deletions = self._samples.deletions
        if not parts:
            parts = [_of_tier(one, None, whole, 0)]
        together = _concat(parts)
        if counted and np.isnan(together.increases).any():
            return None
        order = np.lexsort((together.times, together.series_ids))
        if (order[1:] < order[:-1]).any():
            together = take_buckets(together, order)
        if counted:
            together = with_boundaries(together, whole[0])
        into = whole[0] + (together.times - whole[0]) // step_ns * step_ns
        merged = merge_buckets(together, together.series_ids, into)
        return merged, {name: count for name, count in rows.items() if count}

    def _of_piece(
        self, one: Selected, piece: Piece, origin_ns: int, step_ns: int, names: Sequence[str]
    ) -> list[Buckets]:
        if piece.tier is not None:
            whole = (piece.intervals[0][0], piece.intervals[-1][1])
            return [
                _of_tier(one, rows, whole, field_id, piece.bounds)
                for field_id, rows in self._planner.tier_rows(one, piece, names)
            ]
        parts = []
        for start_ns, end_ns in piece.intervals:
            rows = self._samples.collect(one.table_id, start_ns, end_ns, one.narrowed, one.field_ids)
            found = buckets_of_rows(rows, step_ns, origin_ns)
            # Two intervals may lie in one step, with buckets of a tier between them.
            np.maximum(found.times, start_ns, out=found.times)
            parts.append(found)
        return parts


def _of_tier(
    one: Selected, rows: TierColumns | None, whole: Interval, field_id: int, bounds: Int64Array | None = None
) -> Buckets:
    """Return the rows of a chunk that are asked for."""
    if rows is None or bounds is None:
        rows, chosen = TierColumns(np.empty(0, np.int32), np.empty(0, np.int64)), np.empty(0, np.int64)
    else:
        lowest = int(one.tagset_ids[0])
        places = np.full(int(one.tagset_ids[-1]) - lowest + 1, -1, np.int32)
        places[one.tagset_ids - lowest] = 0
        span_ns = whole[1] - whole[0]
        located = locate_cells(rows.tagset_ids, rows.times, places, lowest, bounds, whole[0], span_ns, 1)
        chosen = np.flatnonzero(located >= 0)
    zeros = np.zeros(len(chosen), np.float64)

    def column(name: str) -> np.ndarray:
        return rows[name][chosen] if name in rows.columns else zeros

    return Buckets(
        (rows.tagset_ids[chosen].astype(np.int64) << FIELD_ID_BITS) | field_id,
        rows.times[chosen],
        column("count").astype(np.int64, copy=False),
        zeros,
        zeros,
        zeros,
        column("first"),
        column("last"),
        column("last_time").astype(np.int64, copy=False),
        column(INCREASE),
    )


def _concat(parts: Sequence[Buckets]) -> Buckets:
    if len(parts) == 1:
        return parts[0]
    return Buckets(*(np.concatenate([getattr(part, name) for part in parts]) for name in Buckets.__slots__))
