"""Which rows a question is about: the places of rows by tag set and time, found with as little looking as their order
allows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.model.rows import FOREVER_NS, NEVER_NS, Int32Array, Int64Array, Rows

#: Places of rows, ascending: a slice where they are contiguous.
Selection = slice | Int64Array

#: Up to so many tag sets are looked up one by one in sorted rows; for more a mask of all rows is cheaper.
FEW_TAGSETS = 64
_NONE = slice(0, 0)


def find_rows(
    tagset_ids: Int32Array,
    times: Int64Array,
    *,
    start_ns: int = NEVER_NS,
    end_ns: int = FOREVER_NS,
    wanted: Int32Array | None = None,
    in_order: bool,
) -> Selection:
    """Return the places of the rows of ``[start_ns, end_ns)`` with a tag set of ``wanted`` (ascending; None: all).

    ``in_order``: whether the rows ascend by (tag set, time).
    """
    if not len(times) or (wanted is not None and not len(wanted)):
        return _NONE
    if wanted is None:
        return _within(times, start_ns, end_ns)
    if not in_order:
        places = np.flatnonzero(is_member(tagset_ids, wanted))
        return _kept(places, times[places], start_ns, end_ns)
    if len(wanted) <= FEW_TAGSETS:
        return _looked_up(tagset_ids, times, start_ns, end_ns, wanted)
    low = np.searchsorted(tagset_ids, wanted, side="left")
    high = np.searchsorted(tagset_ids, wanted, side="right")
    some = low < high
    # The rows of a tag set begin where those of the one before end, so an edge may be both.
    edges = np.zeros(len(times) + 1, np.int8)
    edges[low[some]] += 1
    edges[high[some]] -= 1
    places = np.flatnonzero(np.cumsum(edges[:-1], dtype=np.int8))
    return _kept(places, times[places], start_ns, end_ns)


def find_indexed(
    tagset_ids: Int32Array,
    times: Int64Array,
    indexed: Int32Array,
    order: Int32Array,
    *,
    start_ns: int = NEVER_NS,
    end_ns: int = FOREVER_NS,
    wanted: Int32Array,
) -> Selection:
    """Return what :func:`find_rows` does for rows in no order, the first ``len(order)`` of which have an index.

    ``order``: their places by tag set, and in each by time; ``indexed``: the tag sets in that order.
    """
    lows = np.searchsorted(indexed, wanted, side="left").tolist()
    highs = np.searchsorted(indexed, wanted, side="right").tolist()
    parts: list[Int64Array] = [order[low:high].astype(np.int64) for low, high in zip(lows, highs, strict=True)]
    count = len(order)
    if count < len(times):
        parts.append(count + np.flatnonzero(is_member(tagset_ids[count:], wanted)))
    if not parts:
        return _NONE
    places = np.concatenate(parts)
    places.sort()
    return _kept(places, times[places], start_ns, end_ns)


def select(
    rows: Rows,
    *,
    start_ns: int = NEVER_NS,
    end_ns: int = FOREVER_NS,
    tagset_ids: Int32Array | None = None,
    field_ids: tuple[int, ...] | None = None,
    in_order: bool = False,
) -> Rows:
    """Return the rows that :func:`find_rows` finds, see :func:`rows_at`."""
    found = find_rows(
        rows.tagset_ids, rows.times, start_ns=start_ns, end_ns=end_ns, wanted=tagset_ids, in_order=in_order
    )
    return rows_at(rows, found, field_ids)


def rows_at(rows: Rows, found: Selection, field_ids: tuple[int, ...] | None) -> Rows:
    """Return the rows at some places, with those of the fields that there are (None: all); views where possible."""
    values, kept = rows.values, rows.field_ids
    if field_ids is not None and kept != field_ids:
        kept = tuple(field for field in kept if field in field_ids)
        index = [rows.field_ids.index(field) for field in kept]
        first = index[0] if index else 0
        if index == list(range(first, first + len(index))):
            values = values[first : first + len(index)]
        elif isinstance(found, slice):
            values = np.stack([values[each, found] for each in index])
            return Rows(rows.tagset_ids[found], rows.times[found], kept, values)
        else:
            values = np.stack([values[each].take(found) for each in index])
            return Rows(rows.tagset_ids[found], rows.times[found], kept, values)
    if isinstance(found, slice):
        if found == slice(0, len(rows)) and kept == rows.field_ids:
            return rows
        return Rows(rows.tagset_ids[found], rows.times[found], kept, values[:, found])
    return Rows(rows.tagset_ids[found], rows.times[found], kept, values.take(found, axis=1))


def is_member(values: Int32Array, sorted_set: Int32Array) -> npt.NDArray[np.bool_]:
    """Return which values (not negative) are among the ascending ``sorted_set``."""
    if len(sorted_set) == 1:
        only: npt.NDArray[np.bool_] = values == sorted_set[0]
        return only
    if not len(sorted_set):
        return np.zeros(len(values), np.bool_)
    wanted = np.zeros(max(int(values.max()), int(sorted_set[-1])) + 1, np.bool_)
    wanted[sorted_set] = True
    chosen: npt.NDArray[np.bool_] = wanted[values]
    return chosen


def _looked_up(tagset_ids: Int32Array, times: Int64Array, start_ns: int, end_ns: int, wanted: Int32Array) -> Selection:
    lows = np.searchsorted(tagset_ids, wanted, side="left").tolist()
    highs = np.searchsorted(tagset_ids, wanted, side="right").tolist()
    spans: list[tuple[int, int]] = []
    for low, high in zip(lows, highs, strict=True):
        if low == high:
            continue
        first, last = low, high
        if times[low] < start_ns:
            first = low + int(np.searchsorted(times[low:high], start_ns))
        if times[high - 1] >= end_ns:
            last = low + int(np.searchsorted(times[low:high], end_ns))
        if first >= last:
            continue
        if spans and spans[-1][1] == first:
            spans[-1] = (spans[-1][0], last)
        else:
            spans.append((first, last))
    if len(spans) <= 1:
        return slice(*spans[0]) if spans else _NONE
    return np.concatenate([np.arange(first, last) for first, last in spans])


def _within(times: Int64Array, start_ns: int, end_ns: int) -> Selection:
    mask: npt.NDArray[np.bool_] | None = None
    if start_ns > NEVER_NS:
        mask = times >= start_ns
    if end_ns < FOREVER_NS:
        before = times < end_ns
        mask = before if mask is None else np.logical_and(mask, before, out=before)
    if mask is None:
        return slice(0, len(times))
    return _together(np.flatnonzero(mask))


def _kept(places: Int64Array, times: Int64Array, start_ns: int, end_ns: int) -> Selection:
    """Return those of the places whose times are in the range."""
    inside = _within(times, start_ns, end_ns)
    return _together(places[inside])


def _together(places: Int64Array) -> Selection:
    if not len(places):
        return _NONE
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last + 1 - first == len(places) else places
