"""Rows in columns: the one shape in which samples travel from the decoder to the segment.

A :class:`Rows` holds n rows of one table.  ``values`` is a float64 matrix of shape (fields, n) in which each field is
one contiguous column; the columns of rows just decoded may lie apart, all others form a C-contiguous matrix.  A cell
without a sample holds the bit pattern :data:`native.columns.ABSENT`, which is a quiet NaN that no protocol produces;
every other NaN is a value and keeps its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from native.columns import ABSENT_BITS, is_absent
from native.sorting import is_strictly_sorted, sort_and_merge

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
_Number = TypeVar("_Number", np.int32, np.int64)

#: Before and after every time there can be.
NEVER_NS = int(np.iinfo(np.int64).min)
FOREVER_NS = int(np.iinfo(np.int64).max)

FIELD_ID_BITS = 16
MAX_FIELDS = 1 << FIELD_ID_BITS


def series_id_of(tagset_id: int, field_id: int) -> int:
    """Return the series identifier: the tag set's number and the field's number within its table, in one int64."""
    return (tagset_id << FIELD_ID_BITS) | field_id


def absent_matrix(fields: int, rows: int) -> Float64Array:
    """Return a (fields, rows) matrix in which every cell is absent."""
    matrix = np.empty((fields, rows), dtype=np.uint64)
    matrix.fill(ABSENT_BITS)
    return matrix.view(np.float64)


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows of one table, in no particular order unless a function says so.

    ``tagset_ids``: int32[n]; ``times``: int64[n], nanoseconds since 1970 UTC; ``field_ids``: the table's field
    numbers, ascending; ``values``: float64[len(field_ids), n].
    """

    tagset_ids: Int32Array
    times: Int64Array
    field_ids: tuple[int, ...]
    values: Float64Array

    def __len__(self) -> int:
        return len(self.times)

    @property
    def nbytes(self) -> int:
        return self.tagset_ids.nbytes + self.times.nbytes + self.values.nbytes

    def sample_count(self) -> int:
        """Return how many cells hold a sample."""
        return int(self.values.size - sum(int(is_absent(column).sum()) for column in self.values))

    def take(self, selector: npt.NDArray[np.bool_] | slice) -> Rows:
        """Return the selected rows; a slice gives views, a mask gives copies."""
        if isinstance(selector, slice):
            return Rows(self.tagset_ids[selector], self.times[selector], self.field_ids, self.values[:, selector])
        index = np.flatnonzero(selector)
        # Not ``values[:, index]``: that lays out column after column, which the native loops refuse and is slower.
        values = self.values.take(index, axis=1)
        return Rows(self.tagset_ids[index], self.times[index], self.field_ids, values)

    def between(self, start_ns: int, end_ns: int) -> Rows:
        """Return the rows with ``start_ns <= time < end_ns``; the same object when that is all of them."""
        if not len(self):
            return self
        mask = (self.times >= start_ns) & (self.times < end_ns)
        count = int(np.count_nonzero(mask))
        if count == len(self):
            return self
        first = int(mask.argmax())
        # Rows mostly come in order of time; then those of a range lie together and need not be copied.
        together = count > 0 and bool(mask[first : first + count].all())
        return self.take(slice(first, first + count) if together else mask)

    @staticmethod
    def empty(field_ids: tuple[int, ...] = ()) -> Rows:
        return Rows(np.empty(0, np.int32), np.empty(0, np.int64), field_ids, np.empty((len(field_ids), 0), np.float64))


def distinct(values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Return the distinct values, ascending; ascending input, the usual case, is neither sorted nor hashed."""
    if len(values) < 2:
        return values
    new = values[1:] != values[:-1]
    if (values[1:] < values[:-1]).any():
        return np.unique(values)
    return values if new.all() else values[np.concatenate(([True], new))]


def concat(parts: Sequence[Rows]) -> Rows:
    """Return all rows of ``parts`` in the order given, over the union of their fields."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Rows.empty()
    if len(parts) == 1:
        return parts[0]
    field_ids = tuple(sorted({field for part in parts for field in part.field_ids}))
    position = {field: index for index, field in enumerate(field_ids)}
    total = sum(len(part) for part in parts)
    same_fields = all(part.field_ids == field_ids for part in parts)
    values = np.empty((len(field_ids), total), np.float64) if same_fields else absent_matrix(len(field_ids), total)
    at = 0
    for part in parts:
        end = at + len(part)
        if same_fields:
            values[:, at:end] = part.values
        else:
            for index, field in enumerate(part.field_ids):
                values[position[field], at:end] = part.values[index]
        at = end
    return Rows(
        np.concatenate([part.tagset_ids for part in parts]),
        np.concatenate([part.times for part in parts]),
        field_ids,
        values,
    )


def sort_merge(rows: Rows) -> Rows:
    """Return rows sorted by (tag set, time); of equal keys the later row wins field by field."""
    values = np.ascontiguousarray(rows.values)
    if is_strictly_sorted(rows.tagset_ids, rows.times):
        return Rows(rows.tagset_ids, rows.times, rows.field_ids, values)
    tagset_ids, times, values = sort_and_merge(rows.tagset_ids, rows.times, values)
    return Rows(tagset_ids, times, rows.field_ids, values)
