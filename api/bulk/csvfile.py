"""CSV files cut into pieces of rows.

Every cell is read as text first, so that one bad cell costs that cell and not its whole block: a column is numbers,
booleans or text by what its first cells are, and cells that do not fit are reported with their line and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from api.bulk.pieces import BadRow, Piece, Place
from api.bulk.tables import PIECE_ROWS, Columns, shape, time_column
from api.bulk.text import decompressed
from engine.errors import BadRequest

#: Bytes parsed at a time; a line must be shorter.
BLOCK_BYTES = 4 << 20
_TRUE, _FALSE = ("true", "True", "TRUE", "t", "T"), ("false", "False", "FALSE", "f", "F")
_NUMBERS, _BOOLEANS, _TEXT = "numbers", "booleans", "text"


def csv_pieces(
    path: str, columns: Columns, start: Place, *, delimiter: str = ",", piece_rows: int = PIECE_ROWS
) -> Iterator[Piece]:
    """Yield the rows of a CSV file with a header line, from ``start`` on.  Quoted cells may not hold line breaks."""
    with open(path, "rb", buffering=0) as raw:
        # Rows read so far, bad ones included: row r stands in line r + 2, behind the header.
        at, kinds, bad_lines = start.offset, _Kinds(), _BadLines()
        for batch in _batches(path, raw, delimiter, start.offset, bad_lines):
            table = pa.Table.from_batches([batch])
            lines = bad_lines.lines_of(at, table.num_rows)
            at = lines[-1] - 1 if lines else at
            for first in range(0, table.num_rows, piece_rows):
                part, numbers = table.slice(first, piece_rows), lines[first : first + piece_rows]
                typed, bad = _typed(path, part, columns, kinds, numbers)
                shaped, kept, unreadable = shape(path, typed, columns, numbers)
                last = numbers[-1] - 1
                found = sorted([*bad_lines.take(numbers[-1]), *bad, *unreadable], key=lambda each: each.line)
                yield Piece(shaped, kept, Place(last, last), raw.tell(), tuple(found))
        left = bad_lines.take(None)
        if left:
            yield Piece(pa.table({}), (), Place(at, at), raw.tell(), tuple(left))


def _batches(path: str, raw: Any, delimiter: str, skip: int, bad: _BadLines) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv as pcsv

    try:
        names = _header(path, delimiter)
        reader = pcsv.open_csv(
            decompressed(raw, path),
            pcsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, skip_rows_after_names=skip),
            pcsv.ParseOptions(delimiter=delimiter, invalid_row_handler=bad.note, ignore_empty_lines=False),
            pcsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        yield from reader
    except StopIteration:
        return
    except (pa.ArrowException, OSError) as error:
        if skip and "skip" in str(error).lower():
            return
        raise BadRequest(f"cannot read {path}: {error}") from None


def _header(path: str, delimiter: str) -> list[str]:
    import pyarrow.csv as pcsv

    with open(path, "rb", buffering=0) as raw:
        reader = pcsv.open_csv(
            decompressed(raw, path),
            pcsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            pcsv.ParseOptions(delimiter=delimiter, invalid_row_handler=lambda _: "skip"),
        )
        names = list(reader.schema.names)
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise BadRequest(f"cannot read {path}: its header names column {double!r} twice")
    return names


class _BadLines:
    """Lines with a wrong number of cells, as the parser meets them, which is before their block is handed out."""

    def __init__(self) -> None:
        self._waiting: list[BadRow] = []
        self._numbers: set[int] = set()

    def note(self, row: Any) -> str:
        self._numbers.add(row.number)
        message = f"cannot read the row: got {row.actual_columns} cells, want {row.expected_columns}"
        self._waiting.append(BadRow(row.number, "malformed", message))
        return "skip"

    def lines_of(self, rows_before: int, count: int) -> list[int]:
        """Return the lines of the next ``count`` good rows, of which ``rows_before`` rows come before."""
        lines: list[int] = []
        line = rows_before + 2
        while len(lines) < count:
            if line not in self._numbers:
                lines.append(line)
            line += 1
        return lines

    def take(self, through_line: int | None) -> list[BadRow]:
        """Return, once, the bad lines up to a line; all for None."""
        taken = [bad for bad in self._waiting if through_line is None or bad.line <= through_line]
        self._waiting = [bad for bad in self._waiting if through_line is not None and bad.line > through_line]
        return taken


class _Kinds:
    """What each column holds, decided by the first block in which it has a cell."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def of(self, name: str, cells: pa.ChunkedArray) -> str:
        kind = self._kinds.get(name)
        if kind is None:
            present = cells.drop_null()
            if not len(present):
                return _TEXT
            head = present.slice(0, 1_000)
            numbers, _ = _numbers_of(head)
            if numbers.null_count < len(head) / 2:
                kind = _NUMBERS
            elif pc.all(pc.is_in(head, pa.array([*_TRUE, *_FALSE]))).as_py():
                kind = _BOOLEANS
            else:
                kind = _TEXT
            self._kinds[name] = kind
        return kind


def _typed(
    path: str, table: pa.Table, columns: Columns, kinds: _Kinds, lines: list[int]
) -> tuple[pa.Table, list[BadRow]]:
    """Return the text cells as what their columns hold, and the cells that are none of it."""
    arrays, bad = {}, []
    time = time_column(path, table, columns)
    for name in table.column_names:
        cells = table.column(name)
        kind = _TEXT if name == time or name in columns.tags else kinds.of(name, cells)
        if kind == _TEXT:
            # An empty column is nothing yet: text without a cell is no tag and costs nothing.
            arrays[name] = cells
            continue
        typed, wrong = _numbers_of(cells) if kind == _NUMBERS else _booleans_of(cells)
        if pa.types.is_floating(typed.type):
            typed, beyond = _within_range(cells, typed)
            want = "a number within the range of float64"
            bad += [
                BadRow(lines[at], "not_finite", f"cannot read {name}: got {cells[at].as_py()!r}, want {want}")
                for at in beyond
            ]
        arrays[name] = typed
        for at in wrong:
            cell = cells[at].as_py()
            bad.append(BadRow(lines[at], "malformed", f"cannot read {name}: got {cell!r}, want {kind}"))
    return pa.table(arrays), bad


def _numbers_of(cells: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return int64 where all cells are whole, else float64; and which cells are no number."""
    for kind in (pa.int64(), pa.float64()):
        try:
            return cells.cast(kind), []
        except pa.ArrowInvalid:
            continue
    values: list[float | None] = []
    wrong: list[int] = []
    for at, cell in enumerate(cells.to_pylist()):
        try:
            values.append(None if cell is None else _number(cell))
        except ValueError:
            values.append(None)
            wrong.append(at)
    return pa.chunked_array([pa.array(values, pa.float64())]), wrong


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError("digits with underscores between them are Python's")
    return float(cell)


def _within_range(cells: pa.ChunkedArray, numbers: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return the numbers without those that are infinite only because they are too large, and which these are."""
    infinite = pc.is_inf(numbers)
    if not pc.any(infinite, min_count=0).as_py():
        return numbers, []
    named = pc.match_substring_regex(cells, r"(?i)^\s*[+-]?inf(inity)?\s*$")
    beyond = pc.fill_null(pc.and_(infinite, pc.invert(named)), False)
    return pc.if_else(beyond, None, numbers), pc.indices_nonzero(beyond).to_pylist()


def _booleans_of(cells: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    yes, no = pc.is_in(cells, pa.array(_TRUE)), pc.is_in(cells, pa.array(_FALSE))
    known = pc.or_(yes, no)
    wrong = pc.and_(pc.invert(known), cells.is_valid())
    return pc.if_else(known, yes, None), pc.indices_nonzero(wrong).to_pylist()
