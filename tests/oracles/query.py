"""Slow, obvious twin of engine.query's relations: every row in plain DuckDB tables, read without any pruning.

A :class:`World` holds rows as Python values.  It can be written as the files that the engine reads, and built as plain
tables with the columns that docs/sql.md promises, to run the same statement over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from engine.query.sources import ParquetFile, TableSource
from native.catalogue import Catalogue


@dataclass(slots=True)
class Row:
    table: str
    tags: dict[str, str]
    time_ns: int
    values: dict[str, float]


@dataclass(slots=True)
class World:
    """Rows with distinct keys (table, tags, time), and the catalogue that numbers them in order of first sight."""

    rows: list[Row] = field(default_factory=list)
    pooled: frozenset[str] = frozenset()
    catalogue: Catalogue = field(default_factory=Catalogue)
    tables: dict[str, int] = field(default_factory=dict)
    fields: dict[str, list[str]] = field(default_factory=dict)
    tagsets: dict[tuple[str, tuple[tuple[str, str], ...]], int] = field(default_factory=dict)

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.rows.append(row)
            table_id = self.catalogue.table(row.table.encode())
            self.tables[row.table] = table_id
            names = self.fields.setdefault(row.table, [])
            for name in row.values:
                self.catalogue.field(table_id, name.encode())
                if name not in names:
                    names.append(name)
            pairs = [(key.encode(), value.encode()) for key, value in row.tags.items()]
            key = (row.table, tuple(sorted(row.tags.items())))
            self.tagsets[key] = self.catalogue.tagset(table_id, pairs)

    def tagset_id(self, row: Row) -> int:
        return self.tagsets[(row.table, tuple(sorted(row.tags.items())))]

    # --- as files

    def arrow_file(self, path: Path, rows: Sequence[Row]) -> str:
        """Write rows of one table as the engine exports hot rows."""
        table = rows[0].table
        columns = self._keys(rows)
        for field_id, name in enumerate(self.fields[table]):
            if any(name in row.values for row in rows):
                columns[f"f{field_id}"] = pa.array([row.values.get(name) for row in rows], pa.float64())
        data = pa.table(columns)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, data.schema) as writer:
            writer.write_table(data)
        return str(path)

    def parquet_file(
        self, path: Path, rows: Sequence[Row], kinds: dict[str, pa.DataType], **options: Any
    ) -> ParquetFile:
        """Write rows of one table as a segment, sorted; ``kinds`` gives the types of fields that are not DOUBLE."""
        rows = sorted(rows, key=lambda row: (self.tagset_id(row), row.time_ns))
        table = rows[0].table
        columns = self._keys(rows)
        names = {}
        for field_id, name in enumerate(self.fields[table]):
            if not any(name in row.values for row in rows):
                continue
            kind = kinds.get(name, pa.float64())
            cells = [_stored(row.values.get(name), kind) for row in rows]
            columns[f"column of {name}"] = pa.array(cells, kind)
            names[field_id] = (f"column of {name}",)
        pq.write_table(pa.table(columns), path, **options)
        return ParquetFile(str(path), names)

    def _keys(self, rows: Sequence[Row]) -> dict[str, pa.Array]:
        return {
            "tagset_id": pa.array([self.tagset_id(row) for row in rows], pa.int32()),
            "time": pa.array([row.time_ns for row in rows], pa.timestamp("ns")),
        }

    def source(self, table: str, arrow: Sequence[str] = (), parquet: Sequence[ParquetFile] = ()) -> TableSource:
        return TableSource(
            table_id=self.tables[table],
            name=table,
            pooled=table in self.pooled,
            arrow=tuple(arrow),
            parquet=tuple(parquet),
        )

    # --- as plain tables

    def tag_keys(self, table: str) -> list[str]:
        """Return the tag keys of a table in order of first sight; within one tag set they are sorted."""
        keys: dict[str, None] = {}
        for (owner, pairs), _ in sorted(self.tagsets.items(), key=lambda item: item[1]):
            if owner == table:
                keys.update(dict.fromkeys(key for key, _ in pairs))
        return list(keys)

    def labels(self, table: str, tags: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in tags.items() if not (table in self.pooled and key == "__name__")}

    def metric(self, table: str, tags: dict[str, str], name: str) -> str:
        return tags["__name__"] if table in self.pooled and "__name__" in tags else f"{table}_{name}"

    def plain(self) -> duckdb.DuckDBPyConnection:
        """Return a connection with every relation as an ordinary table."""
        connection = duckdb.connect(config={"threads": 1})
        connection.execute("SET TimeZone = 'UTC'")
        for table in self.tables:
            _create(connection, table, self._wide(table))
        samples = [
            {
                "time": row.time_ns,
                "metric": self.metric(row.table, row.tags, name),
                "labels": sorted(self.labels(row.table, row.tags).items()),
                "value": value,
                "series_id": self.tagset_id(row) * 65_536 + self.fields[row.table].index(name),
            }
            for row in self.rows
            for name, value in row.values.items()
        ]
        labels = pa.map_(pa.string(), pa.string())
        types = [pa.timestamp("ns"), pa.string(), labels, pa.float64(), pa.int64()]
        names = ["time", "metric", "labels", "value", "series_id"]
        _create(connection, "samples", _table(samples, dict(zip(names, types, strict=True))))
        series = [
            {
                "series_id": tagset_id * 65_536 + field_id,
                "metric": self.metric(table, dict(pairs), name),
                "measurement": table,
                "field": name,
                "labels": sorted(self.labels(table, dict(pairs)).items()),
            }
            for (table, pairs), tagset_id in self.tagsets.items()
            for field_id, name in enumerate(self.fields[table])
        ]
        types = [pa.int64(), pa.string(), pa.string(), pa.string(), labels]
        names = ["series_id", "metric", "measurement", "field", "labels"]
        _create(connection, "series", _table(series, dict(zip(names, types, strict=True))))
        connection.execute(
            "CREATE TABLE metrics AS SELECT metric, measurement, field, count(*) AS series_count"
            " FROM series GROUP BY ALL"
        )
        return connection

    def _wide(self, table: str) -> pa.Table:
        rows = [row for row in self.rows if row.table == table]
        columns = {"time": pa.array([row.time_ns for row in rows], pa.timestamp("ns"))}
        for key in self.tag_keys(table):
            columns[key] = pa.array([row.tags.get(key) for row in rows], pa.string())
        for name in self.fields[table]:
            columns[name] = pa.array([row.values.get(name) for row in rows], pa.float64())
        return pa.table(columns)


def _stored(value: float | None, kind: pa.DataType) -> Any:
    if value is None or pa.types.is_floating(kind):
        return value
    if pa.types.is_decimal(kind):
        return Decimal(round(value * 10**kind.scale)).scaleb(-kind.scale)
    return int(value)


def _table(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})


def _create(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("incoming", table)
    quoted = '"' + name.replace('"', '""') + '"'
    connection.execute(f"CREATE TABLE {quoted} AS SELECT * FROM incoming")
    connection.unregister("incoming")


def run_plain(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    return connection.sql(sql, params=list(parameters) or None).to_arrow_table()
