"""What a SQL statement needs and what it is given: plain structures that travel to the query process and back.

The main process asks what a statement touches (:class:`Needed`), prepares the files that hold those rows, and hands
them over with the statement (:class:`SqlRequest`).  Nothing here opens anything.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import pyarrow as pa

from engine.segments.deletions import Hole

JsonScalar = str | int | float | bool | None
#: Matchers as (label, operator, value); without any, every series can be seen.
Visible = tuple[tuple[str, str, str], ...]

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_ROWS = 1_000_000
DEFAULT_MAX_RESULT_BYTES = 256 * 1024 * 1024


class ParquetFile(msgspec.Struct, frozen=True):
    """One sealed segment.  ``columns`` maps field numbers to the file's column names.

    A routed field has several; each row has its value in one of them at most.
    Rows in ``holes`` do not count.
    """

    path: str
    columns: dict[int, tuple[str, ...]]
    holes: tuple[Hole, ...] = ()


class TableSource(msgspec.Struct, frozen=True, kw_only=True):
    """Every row of one table, in files of which no two hold the same key (tag set, time).

    ``parquet``: columns tagset_id INT32, time TIMESTAMP(ns), and the fields as INT64, DECIMAL(18, k) or DOUBLE, each
    file as it likes; other columns are ignored.  ``arrow``: paths of uncompressed Arrow IPC files, mapped rather than
    read, with tagset_id int32, time timestamp[ns] and one nullable float64 column ``f<field number>`` a field.
    ``pooled``: the metric's name is the tag ``__name__`` instead of ``<table>_<field>``.
    ``rows``: an Arrow IPC stream of such columns, of rows that were looked up ahead; ``exact``: all rows are of the tag
    sets and times that the statement can use; ``rows_files``: in how many segments and hot blocks they were found.
    """

    table_id: int
    name: str
    pooled: bool = False
    parquet: tuple[ParquetFile, ...] = ()
    arrow: tuple[str, ...] = ()
    rows: bytes = b""
    rows_files: int = 0
    exact: bool = False


class SqlLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one statement may use.  Beyond any of them it ends with QueryLimit; nothing is ever cut off silently."""

    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_rows: int = DEFAULT_MAX_ROWS
    max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES


class SqlRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One statement with everything it may read.

    ``parameters`` stand for ``?`` or ``$1`` in order.  ``tables`` holds one source for each table of :class:`Needed`;
    a table without a source is taken to be empty.  ``findings`` maps relation names (``alerts``, ``decisions``, ...)
    to Arrow IPC streams, with their schema even when they have no rows.  ``definitions`` are native catalogue
    definitions that the other side may not know yet.  ``visible``: which series there are for the statement.
    ``plan``: that of the :class:`Needed` which this answers; 0 for none.  ``tier``: the rollup relation to read instead
    of samples, as :class:`Needed` offered it.
    """

    sql: str
    parameters: list[JsonScalar] = []
    tables: tuple[TableSource, ...] = ()
    findings: dict[str, bytes] = {}
    definitions: bytes = b""
    visible: Visible = ()
    limits: SqlLimits = SqlLimits()
    plan: int = 0
    tier: str = ""


class SqlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer: ``stream`` is an Arrow IPC stream of ``rows`` rows; never a truncated one.

    ``rows_read``: rows of segments (of the row groups that can matter), hot blocks and tiers that were looked at;
    ``files``: segments, hot blocks and packs of tiers that they are in.
    """

    stream: bytes
    rows: int
    elapsed_seconds: float
    rows_read: int = 0
    files: int = 0


class Sink(Protocol):
    """Takes an answer as it is made, instead of all of it at the end."""

    def write(self, data: bytes | pa.Buffer) -> int:
        """Take the next bytes of an Arrow IPC stream; may wait until there is room."""

    def restart(self) -> bool:
        """Forget what was written, because it comes anew; False when that can no longer be."""


class NeededTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table that a statement reads, and the part of it that can matter: a superset of what it will look at.

    ``field_ids``: the fields it can name, ``None`` for all.  Rows outside ``start_ns <= time < end_ns`` cannot matter
    (``None``: no bound was found).  ``tagset_ids``: the only tag sets that can matter, ascending; ``None`` for all
    or too many to list.  ``once``: the statement mentions no other part of the table.

    ``newest``: of each series no sample but the newest can matter, unless, with ``skips_nan``, that is NaN.
    """

    table_id: int
    name: str
    field_ids: tuple[int, ...] | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    tagset_ids: tuple[int, ...] | None = None
    once: bool = True
    newest: bool = False
    skips_nan: bool = False


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid statement reads: tables to prepare, findings to send, rollup relations to bring up to date.

    ``rollup_tables``: the tables whose rows of these relations can matter, ``None`` for all.  ``plan``: number under
    which the statement is remembered as it was read.  ``tier``: a rollup relation that answers the same where raw
    samples of all of the range are still there, empty for none; it only reads the one table.
    """

    tables: tuple[NeededTable, ...] = ()
    findings: tuple[str, ...] = ()
    rollups: tuple[str, ...] = ()
    rollup_tables: tuple[int, ...] | None = ()
    plan: int = 0
    tier: str = ""
