"""Series of a pooled table, routed by what kind of numbers they hold (docs/formats/segment.md, "Routed fields").

The one field of a pooled table mixes counters, gauges, durations and flags; no single column suits them.  Each series'
run of cells goes to one of several columns of the field, so that a row has a value in exactly one of them.  What column
that is depends on the run alone, so a segment that is written in parts routes as one that is written at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import Bug
from engine.model.rows import Float64Array, Int64Array, absent_matrix
from engine.segments.classify import DELTA, DICTIONARY, DICTIONARY_PAGE_BYTES, PLAIN, SPLIT, ColumnPlan
from engine.segments.layout import DECIMAL_PREFIX, DOUBLE, INTEGER, MAX_ROUTED_DECIMALS, ROUTED_ROWS
from native.columns import is_absent
from native.routing import classify_runs

_CELL_BY_CELL = -2
Int8Array = npt.NDArray[np.int8]

#: Classes besides the numbers of decimals 0..9.
LEVELS = 100  # a few values that come again and again: constants, flags, sizes that rarely change
NOTHING = -2  # no sample at all
NOISE = -1  # no short decimals
#: A run counts as levels when it has at most this many values, and 16 cells for each of them.
MAX_LEVELS = 32
CELLS_A_LEVEL = 16
#: A number of decimals that fewer than this share of the cells have is stored with the next larger one that occurs:
#: each further column costs about 300 bytes a row group.
SMALL_SHARE = 0.02
#: Cells of each class that encodings are tried on, in whole runs.
SAMPLED_CELLS = 65_536
MAX_INT32 = 2**31 - 1
MAX_DECIMAL32 = 10**9 - 1
MAX_EXACT = 2**53


def classes_of(values: Float64Array, starts: Int64Array) -> tuple[Int8Array, Float64Array]:
    """Return the class of each run (first cells ``starts``) and its largest magnitude."""
    decimals, levels, largest = classify_runs(values, starts, MAX_ROUTED_DECIMALS, MAX_LEVELS)
    lengths = np.diff(np.append(starts, len(values)))
    few = (levels == 1) | ((levels <= MAX_LEVELS) & (levels * CELLS_A_LEVEL <= lengths))
    decimals[few & (decimals != NOTHING)] = LEVELS
    return decimals, largest


@dataclass(frozen=True, slots=True)
class RoutedPlan:
    """How a routed field is stored: its columns, and which of them takes each class."""

    columns: tuple[ColumnPlan, ...]
    column_of_class: Mapping[int, int]

    def split(self, values: Float64Array, starts: Int64Array) -> Float64Array:
        """Return float64[columns, n]: each run's cells in the row of its column, all others absent."""
        classes, _ = classes_of(values, starts)
        lengths = np.diff(np.append(starts, len(values)))
        column_of_run = np.full(len(classes), -1, np.int16)
        for kind in np.unique(classes).tolist():
            if kind == NOTHING:
                continue
            column_of_run[classes == kind] = self.column_of_class.get(kind, _CELL_BY_CELL)
        column_of_cell = np.repeat(column_of_run, lengths)
        # A series that was surveyed in pieces may be of another class as a whole.  Each of its cells has a column.
        rest = np.flatnonzero((column_of_cell == _CELL_BY_CELL) & ~is_absent(values))
        for index, plan in sorted(enumerate(self.columns), key=lambda item: item[1].kind == DOUBLE):
            fits = plan.holds(values[rest])
            column_of_cell[rest[fits]] = index
            rest = rest[~fits]
        if len(rest):
            raise Bug(f"cannot write segment: got the value {values[rest[0]]!r}, want one of a kind that was surveyed")
        routed = absent_matrix(len(self.columns), len(values))
        for index in range(len(self.columns)):
            mine = column_of_cell == index
            routed[index, mine] = values[mine]
        return routed


@dataclass(slots=True)
class RouteSurvey:
    """What must be known of a routed field before its first cell is written; its cells may come in parts."""

    cells: dict[int, int] = field(default_factory=dict)
    largest: dict[int, float] = field(default_factory=dict)
    samples: dict[int, list[Float64Array]] = field(default_factory=dict)
    _sampled: dict[int, int] = field(default_factory=dict)

    def add(self, values: Float64Array, starts: Int64Array) -> None:
        """Take in the next cells; ``starts`` are the first cells of their series."""
        values = np.ascontiguousarray(values)
        classes, largest = classes_of(values, starts)
        lengths = np.diff(np.append(starts, len(values)))
        for kind in np.unique(classes).tolist():
            if kind == NOTHING:
                continue
            runs = np.flatnonzero(classes == kind)
            self.cells[kind] = self.cells.get(kind, 0) + int(lengths[runs].sum())
            self.largest[kind] = max(self.largest.get(kind, 0.0), float(largest[runs].max()))
            wanted = SAMPLED_CELLS - self._sampled.get(kind, 0)
            chosen = runs[: max(0, int(np.searchsorted(np.cumsum(lengths[runs]), wanted)))] if wanted > 0 else runs[:0]
            if wanted > 0 and not len(chosen):
                chosen = runs[:1]
            for run in chosen.tolist():
                cells = values[starts[run] : starts[run] + min(int(lengths[run]), SAMPLED_CELLS)]
                self.samples.setdefault(kind, []).append(cells[~is_absent(cells)])
                self._sampled[kind] = self._sampled.get(kind, 0) + len(cells)

    def plan(self) -> RoutedPlan | None:
        """Return how the field is stored, or None when every cell was absent."""
        if not self.cells:
            return None
        target = self._folded()
        plans: list[ColumnPlan] = []
        column_of_class: dict[int, int] = {}
        for kind in sorted(set(target.values()), key=lambda kind: (kind != LEVELS, kind)):
            members = [each for each, into in target.items() if into == kind]
            sample = np.concatenate([part for each in members for part in self.samples.get(each, [])])
            plan = _column_plan(kind, sample, max(self.largest[each] for each in members))
            # Two classes that come out stored alike share a column.
            if plan not in plans or plan.kind != DOUBLE:
                plans.append(plan)
            for each in members:
                column_of_class[each] = plans.index(plan)
        return RoutedPlan(tuple(plans), column_of_class)

    def _folded(self) -> dict[int, int]:
        """Return the class that each class is stored as."""
        total = sum(self.cells.values())
        decimals = sorted(kind for kind in self.cells if 0 <= kind <= MAX_ROUTED_DECIMALS)
        target = {kind: kind for kind in self.cells}
        for kind, larger in pairwise(decimals):
            fits = max(self.largest[each] for each in decimals if each <= kind) * 10.0**larger <= MAX_EXACT
            if kind > 0 and self.cells[kind] < SMALL_SHARE * total and fits:
                for each, into in target.items():
                    if into == kind:
                        target[each] = larger
        return target


def _column_plan(kind: int, sample: Float64Array, largest: float) -> ColumnPlan:
    """Return the column of one class, with the encoding that is smallest on the sample."""
    if kind in (LEVELS, NOISE):
        choices = (DICTIONARY, SPLIT) if kind == LEVELS else (SPLIT, PLAIN)
        sizes = {encoding: encoded_size(pa.array(sample), encoding) for encoding in choices}
        return ColumnPlan(DOUBLE, 0, 64, min(sizes, key=lambda encoding: sizes[encoding]))
    scale = 10.0**kind
    narrow = np.rint(largest * scale) <= (MAX_DECIMAL32 if kind else MAX_INT32)
    bits = 32 if narrow else 64
    integers = pa.array(np.rint(sample * scale).astype(np.int32 if narrow else np.int64))
    sizes = {encoding: encoded_size(integers, encoding) for encoding in (DELTA, PLAIN)}
    best = min(sizes, key=lambda encoding: sizes[encoding])
    # Split bytes of whole numbers as doubles often beat deltas, which pay for each step from one series to the next.
    # (DuckDB 1.5 does not read split bytes of integers.)
    if encoded_size(pa.array(sample), SPLIT) < sizes[best]:
        return ColumnPlan(DOUBLE, 0, 64, SPLIT)
    return ColumnPlan(f"{DECIMAL_PREFIX}{kind}" if kind else INTEGER, kind, bits, best)


def encoded_size(column: pa.Array, encoding: str) -> int:
    """Return how many bytes a column takes as a segment stores it."""
    table = pa.table({"column": column})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3,
        data_page_version="2.0",
        write_statistics=False,
        use_dictionary=encoding == DICTIONARY,
        column_encoding=None if encoding == DICTIONARY else {"column": encoding},
        dictionary_pagesize_limit=DICTIONARY_PAGE_BYTES,
        max_rows_per_page=ROUTED_ROWS,
    )
    return int(pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0).column(0).total_compressed_size)


def time_encoding(times: Int64Array) -> str:
    """Return the encoding of a routed segment's times: plain where series share irregular instants, which zstd sees."""
    sample = pa.array(times[:ROUTED_ROWS])
    return min((DELTA, PLAIN), key=lambda encoding: encoded_size(sample, encoding))


def routed_names(main: str, plans: Sequence[ColumnPlan]) -> list[str]:
    """Return the wished name of each column of a routed field: the field's own, then with the kind behind it."""
    return [main if index == 0 else f"{main}_{plan.kind}" for index, plan in enumerate(plans)]
