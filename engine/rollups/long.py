"""Tier rows the long way, one for each (series, bucket), as SQL and range queries see them; and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS, Float64Array
from engine.rollups.bins import Bins
from engine.rollups.rows import TierRows

Columns = dict[str, npt.NDArray[Any]]

#: Column and its line in :class:`TierRows`, in the order in which they are shown.
INTEGERS = ("series_id", "time", "count", "first_time", "last_time")
LINES = {
    "count": "counts",
    "sum": "sums",
    "min": "mins",
    "max": "maxs",
    "first": "firsts",
    "last": "lasts",
    "first_time": "first_times",
    "last_time": "last_times",
}
NAMES = ("series_id", "time", *LINES)
#: What a row may have besides: NaN and an empty histogram where it has not.
INCREASE, HISTOGRAM = "increase", "histogram"
_BINS_TYPE = pa.map_(pa.int32(), pa.int64())


def long_table(
    parts: Iterable[TierRows], names: Sequence[str] = NAMES, field_ids: Sequence[int] | None = None
) -> pa.Table:
    """Return the (series, bucket) rows of all parts as an Arrow table with int64 times, in no particular order."""
    tables = [_table(rows, place, names) for rows in parts for place in range(len(rows.field_ids))]
    return pa.concat_tables(tables) if tables else empty_table(names)


def empty_table(names: Sequence[str] = NAMES) -> pa.Table:
    return pa.table({name: pa.array([], _type(name)) for name in names})


def _type(name: str) -> pa.DataType:
    return _BINS_TYPE if name == HISTOGRAM else pa.int64() if name in INTEGERS else pa.float64()


def _table(rows: TierRows, place: int, names: Sequence[str]) -> pa.Table:
    number = rows.field_ids[place]
    present = rows.line("counts", place) > 0
    whole = bool(present.all())

    def chosen(line: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return line if whole else line[present]

    columns: dict[str, Any] = {}
    for name in names:
        match name:
            case "series_id":
                columns[name] = (chosen(rows.tagset_ids).astype(np.int64) << FIELD_ID_BITS) | number
            case "time":
                columns[name] = chosen(rows.times)
            case "increase":
                columns[name] = chosen(increase_of(rows, number))
            case "histogram":
                columns[name] = _maps(rows, number, present)
            case _:
                columns[name] = chosen(rows.line(LINES[name], place))
    return pa.table(columns)


def increase_of(rows: TierRows, number: int) -> Float64Array:
    """Return a field's increases, NaN where they are not known."""
    if number in rows.counters:
        line: Float64Array = rows.increases[rows.counters.index(number)]
        return line
    return np.full(len(rows), np.nan)


def _maps(rows: TierRows, number: int, present: npt.NDArray[np.bool_]) -> pa.Array:
    """Return the histograms that are complete as maps from bin to count; NULL where there is none."""
    bins = rows.histograms.get(number, Bins.empty(len(rows))).take(np.flatnonzero(present))
    count = rows.line("counts", rows.field_ids.index(number))[present]
    held = np.zeros(len(count), np.int64)
    np.add.at(held, np.repeat(np.arange(len(count)), bins.lengths()), bins.counts)
    offsets = pa.array(bins.offsets.astype(np.int32), mask=np.r_[held != count, False])
    return pa.MapArray.from_arrays(offsets, pa.array(bins.bins), pa.array(bins.counts)).cast(_BINS_TYPE)


def columns_of(table: pa.Table) -> Columns:
    """Return the columns of :data:`NAMES` as numpy arrays."""
    return {name: table.column(name).to_numpy() for name in NAMES}


def rows_of_long(columns: Columns, increases: Float64Array | None = None) -> TierRows:
    """Return long rows of one table as tier rows; ``increases`` makes every field a counter."""
    series_ids, times = columns["series_id"].astype(np.int64), columns["time"].astype(np.int64)
    if not len(times):
        return TierRows.empty()
    tagset_ids = series_ids >> FIELD_ID_BITS
    field_ids, places = np.unique(series_ids & (MAX_FIELDS - 1), return_inverse=True)
    keys, rows = np.unique(np.stack([tagset_ids, times]), axis=1, return_inverse=True)
    rows = rows.ravel()
    shape = (len(field_ids), keys.shape[1])
    lines: dict[str, Any] = {}
    for name, line in LINES.items():
        matrix = np.zeros(shape, np.int64 if name in INTEGERS else np.float64)
        matrix[places, rows] = columns[name]
        lines[line] = matrix
    numbers = tuple(field_ids.tolist())
    counted = np.zeros((0 if increases is None else len(numbers), shape[1]), np.float64)
    if increases is not None:
        counted[places, rows] = increases
    return TierRows(
        keys[0].astype(np.int32),
        np.ascontiguousarray(keys[1]),
        numbers,
        counters=() if increases is None else numbers,
        increases=counted,
        **lines,
    )
