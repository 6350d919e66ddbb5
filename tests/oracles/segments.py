"""Slow obvious twins of engine.segments: classification, row groups, what a Parquet file says, what a plan must be."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine.model.rows import Rows
from engine.segments.layout import SegmentMeta
from engine.segments.plan import SealTask
from native.columns import ABSENT_BITS

Key = tuple[int, int]
Cells = dict[Key, dict[int, int]]  # (tag set, time) -> field number -> bits of the value


def bits_of(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def cells_of(rows: Rows) -> Cells:
    """Return every cell that holds a sample, and every key even without one."""
    cells: Cells = {}
    bits = rows.values.view(np.uint64)
    for index, (tagset_id, time_ns) in enumerate(zip(rows.tagset_ids.tolist(), rows.times.tolist(), strict=True)):
        assert (tagset_id, time_ns) not in cells, "a key occurs twice"
        cells[tagset_id, time_ns] = {
            field_id: int(bits[position, index])
            for position, field_id in enumerate(rows.field_ids)
            if int(bits[position, index]) != ABSENT_BITS
        }
    return cells


def narrowed(
    cells: Cells,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    tagset_ids: Iterable[int] | None = None,
    field_ids: Iterable[int] | None = None,
) -> Cells:
    return {
        (tagset_id, time_ns): {
            field_id: bits for field_id, bits in cell.items() if field_ids is None or field_id in set(field_ids)
        }
        for (tagset_id, time_ns), cell in cells.items()
        if (start_ns is None or time_ns >= start_ns)
        and (end_ns is None or time_ns < end_ns)
        and (tagset_ids is None or tagset_id in set(tagset_ids))
    }


def kind_of(values: Sequence[float]) -> str | None:
    """Return what a column of values is, cell by cell in Python's own arithmetic; None when all are absent."""
    present = [value for value in values if bits_of(value) != ABSENT_BITS]
    if not present:
        return None
    for decimals in range(7):
        if all(_is_decimal(value, decimals) for value in present):
            return f"decimal{decimals}" if decimals else "integer"
    return "double"


def _is_decimal(value: float, decimals: int) -> bool:
    if value != value or abs(value) == float("inf"):
        return False
    scaled = value * 10.0**decimals
    if abs(scaled) > 2**53:
        return False
    return bits_of(float(round(scaled)) / 10.0**decimals) == bits_of(value)


def row_groups(tagset_ids: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Return [begin, end) of each row group: whole tag sets while they fit, a tag set that is too long in parts."""
    ends = [i for i in range(1, len(tagset_ids) + 1) if i == len(tagset_ids) or tagset_ids[i] != tagset_ids[i - 1]]
    groups = []
    begin = 0
    while begin < len(tagset_ids):
        fitting = [end for end in ends if begin < end <= begin + limit]
        end = fitting[-1] if fitting else begin + limit
        groups.append((begin, end))
        begin = end
    return groups


def read_as_anyone(path: str, meta: SegmentMeta) -> Cells:
    """Return a file's samples as a plain Parquet reader gives them, decimals rounded correctly by Python."""
    table = pq.ParquetFile(path).read()
    columns = [(column.field_id, table.column(column.column).to_pylist()) for column in meta.columns]
    keys = zip(table.column("tagset_id").to_pylist(), table.column("time").cast("int64").to_pylist(), strict=True)
    found: Cells = {}
    for index, key in enumerate(keys):
        cells = found[key] = {}
        for field_id, values in columns:
            value = values[index]
            if value is not None and (not isinstance(value, Decimal) or value.is_finite()):
                assert field_id not in cells, "two columns of a field have a value in one row"
                cells[field_id] = bits_of(float(value))
    return found


def check_plan(
    existing: Sequence[SegmentMeta],
    times: Sequence[int],
    tasks: Sequence[SealTask],
    aligned: Callable[[int], bool] = lambda _: True,
) -> None:
    """Assert everything that plan_seal promises, one row and one segment at a time."""
    for earlier, later in itertools.pairwise(tasks):
        assert earlier.end_ns <= later.start_ns, "ranges meet or are out of order"
    for task in tasks:
        assert task.start_ns < task.end_ns
        assert task.new_rows == sum(task.start_ns <= time < task.end_ns for time in times)
        assert task.new_rows or len(task.replaces) > 1, "a task without anything to do"
        for meta in existing:
            inside = task.start_ns <= meta.start_ns and meta.end_ns <= task.end_ns
            apart = meta.end_ns <= task.start_ns or task.end_ns <= meta.start_ns
            assert inside or apart, "a segment is partly in a range"
            assert (meta in task.replaces) == inside
        borders = {border for meta in existing for border in (meta.start_ns, meta.end_ns)}
        assert task.start_ns in borders or aligned(task.start_ns)
        assert task.end_ns in borders or aligned(task.end_ns)
    for time in times:
        assert sum(task.start_ns <= time < task.end_ns for task in tasks) == 1, "a row in no range, or in two"


def apply_plan(existing: Sequence[SegmentMeta], tasks: Sequence[SealTask], make: Callable[..., Any]) -> list[Any]:
    """Return the segments after the tasks were done; ``make(start_ns, end_ns, rows)`` gives a new one."""
    gone = {meta.file for task in tasks for meta in task.replaces}
    made = [make(task.start_ns, task.end_ns, task.new_rows + task.rewritten_rows) for task in tasks]
    return sorted([*(meta for meta in existing if meta.file not in gone), *made], key=lambda meta: meta.start_ns)
