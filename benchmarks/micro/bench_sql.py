"""engine.query: statements over one million rows of ten fields, answers in their forms, the way to the query process.

Data: 100 tag sets of 10,000 rows at 10 s, once as a hot Arrow file of doubles, once as a segment of DECIMAL(18, 2).
Best case: an aggregate of one tag set, where row groups are skipped.  Worst: all samples of all fields with labels.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import Query
from engine.query.database import Database
from engine.query.link import ProcessLink
from engine.query.results import render
from engine.query.sources import ParquetFile, SqlLimits, SqlRequest, TableSource
from native.catalogue import Catalogue

Case = tuple[str, float, str, Callable[[], object]]

HOSTS = 100
ROWS_A_HOST = 10_000
ROWS = HOSTS * ROWS_A_HOST
FIELDS = 10
ANSWER_ROWS = 100_000
START_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000_000_000
LIMITS = SqlLimits(timeout_seconds=120.0)

ALL_HOSTS = "SELECT host, avg(usage_0), max(usage_1) FROM cpu GROUP BY host"
ONE_HOST = "SELECT avg(usage_0) FROM cpu WHERE host = 'host_42'"
ONE_METRIC = "SELECT labels['host'], max(value) FROM samples WHERE metric = 'cpu_usage_3' GROUP BY 1"
ALL_SAMPLES = "SELECT metric, labels['host'], count(*) FROM samples GROUP BY ALL"


def _catalogue() -> Catalogue:
    catalogue = Catalogue()
    table_id = catalogue.table(b"cpu")
    for field in range(FIELDS):
        catalogue.field(table_id, b"usage_%d" % field)
    for host in range(HOSTS):
        catalogue.tagset(table_id, [(b"host", b"host_%d" % host), (b"region", b"region_%d" % (host % 4))])
    return catalogue


def _sources(directory: Path) -> tuple[TableSource, TableSource]:
    """Write the rows twice; return them as a hot and as a sealed source."""
    draw = np.random.default_rng(1)
    keys = {
        "tagset_id": np.repeat(np.arange(HOSTS, dtype=np.int32), ROWS_A_HOST),
        "time": pa.array(START_NS + np.tile(np.arange(ROWS_A_HOST), HOSTS) * STEP_NS, pa.timestamp("ns")),
    }
    numbers = [draw.integers(0, 1_000_000, ROWS) for _ in range(FIELDS)]
    hot = pa.table({**keys, **{f"f{field}": column / 100 for field, column in enumerate(numbers)}})
    hot_path = str(directory / "hot.arrow")
    with pa.OSFile(hot_path, "wb") as sink, pa.ipc.new_file(sink, hot.schema) as writer:
        writer.write_table(hot)
    sealed = pa.table({**keys, **{f"usage_{field}": _decimals(column) for field, column in enumerate(numbers)}})
    sealed_path = str(directory / "sealed.parquet")
    pq.write_table(
        sealed,
        sealed_path,
        row_group_size=131_072,
        compression="zstd",
        use_dictionary=False,
        column_encoding=dict.fromkeys(sealed.column_names, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
        store_decimal_as_integer=True,
    )
    columns: dict[int, tuple[str, ...]] = {field: (f"usage_{field}",) for field in range(FIELDS)}
    return (
        TableSource(table_id=0, name="cpu", arrow=(hot_path,)),
        TableSource(table_id=0, name="cpu", parquet=(ParquetFile(sealed_path, columns),)),
    )


def _decimals(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    wide = np.zeros(2 * len(numbers), np.int64)
    wide[::2] = numbers
    return pa.Array.from_buffers(pa.decimal128(18, 2), len(numbers), [None, pa.py_buffer(wide)])


def cases() -> list[Case]:
    """Return statements over hot and sealed rows, trivial ones, and the rendering of an answer."""
    directory = tempfile.TemporaryDirectory(prefix="tidegauge-bench-")
    atexit.register(directory.cleanup)
    catalogue = _catalogue()
    hot, sealed = _sources(Path(directory.name))
    database = Database(None, catalogue=catalogue)
    atexit.register(database.close)
    link = ProcessLink(None, Query(), catalogue)
    atexit.register(link.close)
    link.watermark()

    def statement(sql: str, *sources: TableSource) -> Callable[[], object]:
        request = SqlRequest(sql=sql, tables=sources, limits=LIMITS)
        return lambda: database.sql(request)

    def passing(sql: str) -> Callable[[], object]:
        request = SqlRequest(sql=sql, limits=LIMITS)
        return lambda: link.sql(request)

    answer = database.sql(SqlRequest(sql=f"SELECT * FROM samples LIMIT {ANSWER_ROWS}", tables=(hot,), limits=LIMITS))
    table = pa.ipc.open_stream(answer.stream).read_all()
    return [
        ("aggregate all hot", ROWS, "rows", statement(ALL_HOSTS, hot)),
        ("aggregate all sealed", ROWS, "rows", statement(ALL_HOSTS, sealed)),
        ("aggregate one hot", ROWS_A_HOST, "rows", statement(ONE_HOST, hot)),
        ("aggregate one sealed", ROWS_A_HOST, "rows", statement(ONE_HOST, sealed)),
        ("samples of one metric hot", ROWS, "samples", statement(ONE_METRIC, hot)),
        ("samples of one metric sealed", ROWS, "samples", statement(ONE_METRIC, sealed)),
        ("samples of all metrics hot", ROWS * FIELDS, "samples", statement(ALL_SAMPLES, hot)),
        ("trivial statement", 1, "statements", statement("SELECT 1")),
        ("trivial round trip", 1, "statements", passing("SELECT 1")),
        ("check a statement", 1, "statements", lambda: database.needed_relations(ONE_HOST)),
        ("100 MB answer round trip", 1e8, "bytes", passing("SELECT repeat('x', 1000) FROM range(100000)")),
        ("render JSON", ANSWER_ROWS, "rows", lambda: render(table, "json", {})),
        ("render CSV", ANSWER_ROWS, "rows", lambda: render(table, "csv", {})),
        ("render Arrow", ANSWER_ROWS, "rows", lambda: render(table, "arrow", {})),
    ]
