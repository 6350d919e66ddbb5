"""DuckDB and ClickHouse (chdb) inside the measuring process; answers are timed to an Arrow table."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

from benchmarks.devops import CPU, TAG_KEYS
from benchmarks.peer_engine import Engine
from benchmarks.queries import Answer, Query, answer_from_arrow
from benchmarks.query_sql import CLICKHOUSE, DUCKDB, sql_of


def module_absent(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} cannot be imported"


class DuckDB(Engine):
    name = "duckdb"
    note = "embedded; Arrow record batches of 100,000 rows, one transaction each, then CHECKPOINT"

    @staticmethod
    def absent() -> str:
        return module_absent("duckdb")

    def prepare(self) -> None:
        import pyarrow as pa

        # The table's type is TIMESTAMP, of microseconds; nanoseconds would cost a cast in every query.
        self._batches = [
            pa.Table.from_batches([batch]).set_column(0, "time", batch.column(0).cast(pa.timestamp("us")))
            for batch in self.load_data.record_batches(CPU)
        ]

    def start(self) -> None:
        import duckdb

        self._database: Any = duckdb.connect(str(self.data / "bench.duckdb"))
        columns = ["time TIMESTAMP", *(f"{key} VARCHAR" for key in TAG_KEYS)]
        columns += [f"{field} DOUBLE" for field in CPU.field_names]
        self._database.execute(f"CREATE TABLE cpu ({', '.join(columns)})")
        self._database.execute("SET TimeZone = 'UTC'")

    def load(self) -> float:
        began = time.perf_counter()
        for batch in self._batches:
            self._database.register("batch", batch)
            self._database.execute("INSERT INTO cpu SELECT * FROM batch")
            self._database.unregister("batch")
        return time.perf_counter() - began

    def settle(self) -> None:
        self._batches = []
        self._database.execute("CHECKPOINT")

    def ask(self, query: Query) -> Any:
        relation = self._database.sql(sql_of(query, DUCKDB))
        return relation.to_arrow_table() if hasattr(relation, "to_arrow_table") else relation.fetch_arrow_table()

    def read(self, query: Query, raw: Any) -> Answer:
        return answer_from_arrow(query, raw)

    def stop(self) -> None:
        database, self._database = getattr(self, "_database", None), None
        if database is not None:
            database.close()


class ClickHouse(Engine):
    name = "clickhouse"
    note = (
        "embedded (chdb); MergeTree ordered by (hostname, time) with its default codecs, one INSERT from one "
        "Arrow file, then OPTIMIZE FINAL"
    )

    @staticmethod
    def absent() -> str:
        return module_absent("chdb")

    def prepare(self) -> None:
        import pyarrow as pa

        self._arrow_path = self.load_data.folder / "cpu.arrow"
        if self._arrow_path.exists():
            return
        writer = None
        for batch in self.load_data.record_batches(CPU):
            writer = writer or pa.ipc.new_file(self._arrow_path, batch.schema)
            writer.write_batch(batch)
        assert writer is not None
        writer.close()

    def start(self) -> None:
        session = importlib.import_module("chdb.session")
        self._session: Any = session.Session(str(self.data))
        self._session.query("CREATE DATABASE bench ENGINE = Atomic")
        columns = ["time DateTime64(6, 'UTC')", *(f"{key} LowCardinality(String)" for key in TAG_KEYS)]
        columns += [f"{field} Float64" for field in CPU.field_names]
        self._session.query(
            f"CREATE TABLE bench.cpu ({', '.join(columns)}) ENGINE = MergeTree ORDER BY (hostname, time) "
            "SETTINGS old_parts_lifetime = 1"
        )

    def load(self) -> float:
        began = time.perf_counter()
        self._session.query(f"INSERT INTO bench.cpu SELECT * FROM file('{self._arrow_path}', 'Arrow')")
        return time.perf_counter() - began

    def settle(self) -> None:
        self._session.query("OPTIMIZE TABLE bench.cpu FINAL")
        parts = "FROM system.parts WHERE database = 'bench' AND table = 'cpu' AND active"
        self._stored_bytes = int(str(self._session.query(f"SELECT sum(bytes_on_disk) {parts}", "TSV")))

    def stored_bytes(self) -> int:
        """Return the bytes of the parts in use; replaced parts leave the disk only some minutes later."""
        return self._stored_bytes

    def ask(self, query: Query) -> bytes:
        answer: bytes = self._session.query(
            f"{sql_of(query, CLICKHOUSE)} SETTINGS use_query_cache = 0", "Arrow"
        ).bytes()
        return answer

    def read(self, query: Query, raw: bytes) -> Answer:
        import pyarrow as pa

        with pa.ipc.open_file(pa.py_buffer(raw)) as reader:
            return answer_from_arrow(query, reader.read_all())

    def stop(self) -> None:
        session, self._session = getattr(self, "_session", None), None
        if session is not None:
            session.close()
