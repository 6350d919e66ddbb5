"""SQL over segments, hot rows, the catalogue and rollups, against plain DuckDB tables of the same rows."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadQuery, Damage, QueryLimit, Unavailable
from engine.query.database import Database, _serialiser
from engine.query.relations import FINDINGS, ROLLUPS, name_columns
from engine.query.scans import SegmentFiles, _condition
from engine.query.scopes import Scope
from engine.query.sources import NeededTable, ParquetFile, SqlLimits, SqlRequest, TableSource
from engine.runtime.engine import SQL_EXTENSIONS
from native.catalogue import Catalogue
from tests.engine.test_query_validation import DOCUMENT, LEGITIMATE
from tests.engine.tier_pieces import piece_of
from tests.oracles.query import Row, World, run_plain

T0 = 1_700_000_000_000_000_000  # 2023-11-14 22:13:20 UTC
SECOND = 1_000_000_000
DECIMAL = pa.decimal128(18, 2)


def small_world() -> World:
    """Three measurements with ragged tags and fields, and a pooled table; sums of all values are exact."""
    draw = random.Random(7)
    world = World(pooled=frozenset({"prometheus"}))
    rows = []
    for index in range(240):
        host = index % 6
        tags = {"host": f"h{host}", "region": "eu" if host % 2 else "us"}
        if host > 3:
            tags["rack"] = f"r{host}"
        values = {"usage_user": draw.randrange(-400, 40_000) / 4, "usage_system": float(draw.randrange(1_000))}
        if index % 3:
            values["load"] = draw.randrange(64) / 8
        rows.append(Row("cpu", tags, T0 + index // 6 * 10 * SECOND, values))
    rows += [
        Row("mem", {"host": f"h{index % 3}"}, T0 + index // 3 * 20 * SECOND, {"used": float(index)})
        for index in range(60)
    ]
    for index in range(40):
        tags = {"job": f"j{index % 5}", "region": "eu"}
        if index % 5 != 4:
            tags["__name__"] = ("up", "go_threads")[index % 2]
        rows.append(Row("prometheus", tags, T0 + index // 5 * 15 * SECOND, {"value": float(index)}))
    world.add(rows)
    return world


def sources_of(world: World, directory: Path) -> tuple[TableSource, ...]:
    """Write each table as two segments of different column types and two hot files, every row once."""
    found = []
    for table in world.tables:
        rows = [row for row in world.rows if row.table == table]
        parts = [rows[start::4] for start in range(4)]
        kinds: list[dict[str, pa.DataType]] = [
            {"usage_user": DECIMAL, "usage_system": pa.int64(), "used": pa.int64()},
            {"usage_system": pa.decimal128(18, 1)},
        ]
        parquet = [
            world.parquet_file(directory / f"{world.tables[table]}-{number}.parquet", part, kind, row_group_size=16)
            for number, (part, kind) in enumerate(zip(parts[:2], kinds, strict=True))
        ]
        arrow = [
            world.arrow_file(directory / f"{world.tables[table]}-{number}.arrow", part)
            for number, part in enumerate(parts[2:])
        ]
        found.append(world.source(table, arrow, parquet))
    return tuple(found)


class Rig:
    """A database over a world, and the plain tables to compare it with."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.sources = sources_of(world, directory)
        self.database = Database(
            None, threads=1, pooled_tables=world.pooled, catalogue=world.catalogue, extensions=SQL_EXTENSIONS
        )
        self.plain = world.plain()

    def close(self) -> None:
        self.database.close()
        self.plain.close()

    def run(self, sql: str, parameters: Sequence[Any] = (), **request: Any) -> pa.Table:
        needed = self.database.needed_relations(sql, parameters)
        # Only what was asked for is handed over, as the main process does it.
        wanted = {table.table_id for table in needed.tables}
        sources = tuple(source for source in self.sources if source.table_id in wanted)
        answer = self.database.sql(SqlRequest(sql=sql, parameters=list(parameters), tables=sources, **request))
        table = pa.ipc.open_stream(answer.stream).read_all()
        assert answer.rows == table.num_rows
        return table

    def check(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        got, want = self.run(sql, parameters), run_plain(self.plain, sql, parameters)
        assert got.column_names == want.column_names
        assert cells(got) == cells(want)


def cells(table: pa.Table) -> list[str]:
    """Return the rows as texts, sorted, with maps in one order: a form that can be compared whatever it holds."""

    def plain(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            return sorted(value)
        return value

    times = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in table.columns]
    columns = [[plain(value) for value in column.to_pylist()] for column in times]
    return sorted(repr(row) for row in zip(*columns, strict=True))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(small_world(), tmp_path_factory.mktemp("sources"))
    yield rig
    rig.close()


STATEMENTS = [
    "SELECT * FROM cpu",
    "SELECT * FROM mem",
    "SELECT * FROM prometheus",
    "SELECT * FROM samples",
    "SELECT * FROM series",
    "SELECT * FROM metrics",
    "SELECT count(*) FROM cpu",
    "SELECT count(*), count(load), sum(usage_user), min(usage_system) FROM cpu",
    "SELECT host, sum(usage_user) FROM cpu GROUP BY host",
    "SELECT usage_user FROM cpu WHERE host = 'h3'",
    "SELECT usage_user FROM cpu WHERE 'h3' = host AND region = 'eu'",
    "SELECT count(*) FROM cpu WHERE host IN ('h1', 'h4', 'nobody')",
    "SELECT count(*) FROM cpu WHERE host <> 'h1'",
    "SELECT count(*) FROM cpu WHERE rack IS NULL",
    "SELECT count(*) FROM cpu WHERE rack IS NOT NULL AND load IS NULL",
    "SELECT count(*) FROM cpu WHERE coalesce(rack, 'none') = 'none'",
    "SELECT count(*) FROM cpu WHERE host LIKE 'h%' AND upper(region) = 'EU'",
    "SELECT count(*) FROM cpu WHERE host = 'h1' OR rack = 'r5'",
    "SELECT count(*) FROM cpu WHERE host IN (SELECT host FROM mem)",
    "SELECT count(*) FROM cpu WHERE regexp_matches(host, '[24]$')",
    "SELECT count(*) FROM cpu WHERE host = 'nobody'",
    "SELECT count(*) FROM cpu WHERE time >= '2023-11-14 22:15:00'",
    "SELECT count(*) FROM cpu WHERE time > TIMESTAMP '2023-11-14 22:15:00' AND time <= '2023-11-14 22:17:00Z'",
    "SELECT count(*) FROM cpu WHERE time BETWEEN '2023-11-14 22:15:00' AND '2023-11-14 22:16:00'",
    "SELECT count(*) FROM cpu WHERE '2023-11-14 22:15:00' > time",
    "SELECT count(*) FROM cpu WHERE time = make_timestamp_ns(1700000100000000000)",
    "SELECT count(*) FROM cpu WHERE time < '2023-11-14 22:15:00' OR time > '2023-11-14 22:18:00'",
    "SELECT count(*) FROM cpu WHERE time < DATE '2023-11-15' AND time >= DATE '2023-11-14' + INTERVAL 1 DAY",
    "SELECT time_bucket(INTERVAL '1 minute', time) AS t, avg(usage_user) FROM cpu GROUP BY t ORDER BY t",
    "SELECT metric, count(*), sum(value) FROM samples GROUP BY metric",
    "SELECT * FROM samples WHERE metric = 'cpu_load'",
    "SELECT * FROM samples WHERE metric IN ('cpu_load', 'up') AND time > '2023-11-14 22:14:00'",
    "SELECT metric, count(*) FROM samples WHERE metric LIKE 'cpu_%' GROUP BY metric",
    "SELECT metric, count(*) FROM samples WHERE metric <> 'up' GROUP BY metric",
    "SELECT count(*) FROM samples WHERE metric = 'up' OR metric = 'mem_used'",
    "SELECT count(*) FROM samples WHERE metric IS NULL",
    "SELECT sum(value) FROM samples WHERE labels['host'] = 'h2'",
    "SELECT metric, sum(value) FROM samples WHERE labels['host'] = 'h2' AND metric LIKE '%use%' GROUP BY metric",
    "SELECT sum(value) FROM samples WHERE labels['host'] IS NULL",
    "SELECT labels['region'], count(*) FROM samples GROUP BY 1",
    "SELECT labels['__name__'], count(*) FROM samples GROUP BY 1",
    "SELECT count(*) FROM samples WHERE labels['__name__'] IS NULL",
    "SELECT labels['region'], metric, sum(value) FROM samples WHERE labels['region'] = 'eu' GROUP BY ALL",
    "SELECT count(*), sum(value) FROM samples WHERE series_id = 65536",
    "SELECT series_id, sum(value) FROM samples WHERE series_id IN (65536, 131073, 5) GROUP BY series_id",
    "SELECT s.metric, count(*) FROM samples s JOIN series c USING (series_id) GROUP BY s.metric",
    "SELECT metric, measurement, field FROM series WHERE labels['host'] = 'h5'",
    "SELECT * FROM series WHERE metric = 'go_threads'",
    "SELECT * FROM metrics WHERE measurement = 'prometheus'",
    "SELECT c.host, c.usage_user, m.used FROM cpu c JOIN mem m USING (host, time) WHERE time >= '2023-11-14 22:15:00'",
    "SELECT c.host, count(*) FROM cpu c LEFT JOIN mem m ON c.host = m.host WHERE m.host IS NULL GROUP BY 1",
    "SELECT c.host, m.used FROM cpu c LEFT JOIN mem m ON c.host = m.host AND c.time = m.time WHERE m.host = 'h1'",
    "SELECT count(*) FROM mem m RIGHT JOIN cpu c ON c.host = m.host WHERE coalesce(m.host, 'none') = 'none'",
    "SELECT count(*) FROM cpu c FULL JOIN mem m ON c.host = m.host AND c.time = m.time WHERE c.region IS NULL",
    "SELECT count(*) FROM cpu c SEMI JOIN mem m ON c.host = m.host WHERE c.region = 'eu'",
    "SELECT count(*) FROM cpu c ANTI JOIN mem m ON c.host = m.host WHERE c.time > '2023-11-14 22:15:00'",
    "SELECT c.time, c.host, m.time FROM cpu c ASOF JOIN mem m ON c.host = m.host AND c.time >= m.time"
    " WHERE m.time > '2023-11-14 22:14:00'",
    "SELECT c.time, m.used FROM cpu c ASOF LEFT JOIN mem m ON c.host = m.host AND c.time >= m.time WHERE c.host = 'h1'",
    "SELECT a.host FROM cpu a, cpu b WHERE a.host = 'h1' AND b.host = 'h2' AND a.time = b.time",
    "SELECT count(*) FROM cpu a, mem b WHERE a.time = b.time AND a.host = 'h1'",
    "WITH cpu AS (SELECT * FROM cpu WHERE host = 'h1') SELECT count(*), min(host) FROM cpu",
    "WITH hot AS (SELECT host, max(usage_user) AS top FROM cpu GROUP BY host) SELECT * FROM hot WHERE host > 'h2'",
    "SELECT host FROM cpu WHERE region = 'eu' UNION SELECT host FROM mem WHERE host = 'h0'",
    "SELECT host FROM cpu WHERE host = 'h1' EXCEPT SELECT host FROM cpu WHERE region = 'us'",
    "SELECT (SELECT max(used) FROM mem WHERE mem.host = cpu.host), host FROM cpu WHERE host = 'h1'",
    "SELECT count(*) FROM cpu WHERE EXISTS (SELECT 1 FROM mem WHERE host = 'h1' AND mem.time = cpu.time)",
    "SELECT 'h1' AS host, sum(usage_user) FROM cpu WHERE host = 'h2' GROUP BY 1",
    "SELECT host AS region, count(*) FROM cpu WHERE region = 'eu' GROUP BY 1",
    "SELECT x.host FROM cpu AS x(time, region, host, rack, a, b, c) WHERE x.host = 'eu'",
    "SELECT cpu.usage_user FROM cpu WHERE cpu.host = 'h1' AND cpu.time > '2023-11-14 22:15:00'",
    "SELECT c FROM cpu c WHERE c.host = 'h1' AND c.load > 7",
    "SELECT * EXCLUDE (time) FROM cpu WHERE load = 0.5",
    "SELECT COLUMNS('usage_.*') FROM cpu WHERE host = 'h0'",
    "SELECT HOST, Usage_User FROM CPU WHERE Host = 'h1'",
    "SELECT * FROM (SELECT host, usage_user FROM cpu) WHERE host = 'h1'",
    "SELECT last_value(usage_user) OVER (PARTITION BY host ORDER BY time), host FROM cpu WHERE region = 'us'",
    "SELECT host, usage_user FROM cpu QUALIFY row_number() OVER (PARTITION BY host ORDER BY time DESC) = 1",
    "FROM (PIVOT (SELECT host, region, usage_system FROM cpu) ON region IN ('eu', 'us') USING sum(usage_system))",
    "FROM (PIVOT cpu ON region IN ('eu', 'us') USING count(*) GROUP BY host)",
    "FROM (UNPIVOT mem ON used INTO NAME field VALUE value)",
    "SELECT count(*) FROM cpu NATURAL JOIN mem",
    "SELECT t.i, count(host) FROM range(3) t(i) LEFT JOIN cpu ON cpu.host = 'h' || t.i GROUP BY 1",
    "SELECT arg_max(host, usage_user), median(usage_system) FROM cpu WHERE usage_user > 10 AND usage_user < 9000.5",
    "SELECT 1 WHERE false",
    "SELECT count(*) FROM cpu WHERE host = 'h1' AND error('not reached') IS NULL AND host = 'h2'",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_answers_are_those_of_plain_tables(rig: Rig, sql: str) -> None:
    rig.check(sql)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT count(*) FROM cpu WHERE host = ?", ["h1"]),
        ("SELECT count(*) FROM cpu WHERE host = $2 AND time >= $1", ["2023-11-14 22:15:00", "h1"]),
        ("SELECT count(*) FROM samples WHERE metric = ? AND labels['host'] IN (?, ?)", ["cpu_load", "h1", "h2"]),
        ("SELECT count(*) FROM cpu WHERE usage_user > ? AND host IS DISTINCT FROM ?", [5_000.5, None]),
        ("SELECT ? + 1, ?, ?, ?", [41, "text", None, True]),
        ("SELECT host FROM cpu ORDER BY host LIMIT ?", [3]),
        (
            "SELECT count(*) FROM cpu WHERE time >= ?::TIMESTAMP AND upper(host) = upper(?)",
            ["2023-11-14 22:15:00", "H1"],
        ),
    ],
)
def test_parameters_have_the_value_they_are_given(rig: Rig, sql: str, parameters: list[Any]) -> None:
    rig.check(sql, parameters)


# A statement that is accepted must also run.
@pytest.mark.parametrize("sql", LEGITIMATE, ids=[sql[:60] for sql in LEGITIMATE])
def test_what_analysts_write_runs(rig: Rig, sql: str) -> None:
    schema = pa.schema([("time", pa.timestamp("ns")), ("name", pa.string())])
    findings = {name: stream_of(schema.empty_table()) for name in FINDINGS}
    if "nginx requests" in sql or "SAMPLE" in sql:
        pytest.skip("needs a measurement of that name, or is random")
    parameters = ["2023-11-14 22:13:20", "2023-11-14 22:14:20", "h1"] if "?" in sql else []
    rig.run(sql.replace("host = $3", "host = ?"), parameters, findings=findings)


def test_examples_of_the_document_run(rig: Rig) -> None:
    names = ("rule", "labels", "state", "severity")
    alerts = pa.schema(
        [*((name, pa.string()) for name in names), ("value", pa.float64()), ("started_at", pa.timestamp("ns"))]
    )
    for block in re.findall("```sql\n(.*?)```", DOCUMENT, re.DOTALL):
        for statement in (each for each in block.split(";\n") if each.strip()):
            rig.run(statement, findings={"alerts": stream_of(alerts.empty_table())})


def stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


# --- conditions found ahead never change an answer

TAG = st.sampled_from(["host", "region", "rack"])
VALUE = st.sampled_from(["h0", "h1", "h5", "eu", "r4", "nobody"])
TIME = st.integers(-2, 45).map(lambda step: f"make_timestamp_ns({T0 + step * 10 * SECOND})")
OPERATOR = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])


@st.composite
def conditions(draw: st.DrawFn, alias: str, kind: str) -> str:
    """Return a condition on a relation of one kind, nested by AND, OR and NOT."""
    shape = draw(
        st.sampled_from(["tag", "tag", "in", "null", "time", "between", "value", "and", "or", "not", "coalesce"])
    )
    dot = f"{alias}." if alias else ""
    if kind == "wide":
        column = f"{dot}{draw(TAG)}" if alias != "m" else f"{dot}host"
        value = f"{dot}used" if alias == "m" else f"{dot}load"
    else:
        column = draw(st.sampled_from([f"{dot}metric", f"{dot}labels['{draw(TAG)}']"]))
        value = f"{dot}value"
    texts = st.one_of(VALUE, st.sampled_from(["cpu_load", "up", "mem_used"])).map(lambda text: f"'{text}'")
    if shape == "tag":
        return f"{column} {draw(OPERATOR)} {draw(texts)}"
    if shape == "in":
        return f"{column} IN ({', '.join(draw(st.lists(texts, min_size=1, max_size=3)))})"
    if shape == "null":
        return f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if shape == "coalesce":
        return f"coalesce({column}, 'r4') = {draw(texts)}"
    if shape == "time":
        return f"{dot}time {draw(OPERATOR)} {draw(TIME)}"
    if shape == "between":
        return f"{dot}time BETWEEN {draw(TIME)} AND {draw(TIME)}"
    if shape == "value":
        return f"{value} {draw(OPERATOR)} 3.5"
    one = draw(conditions(alias, kind))
    if shape == "not":
        return f"NOT ({one})"
    return f"({one} {shape.upper()} {draw(conditions(alias, kind))})"


MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(conditions("", "wide"))
def test_conditions_on_a_measurement_mean_what_they_say(rig: Rig, condition: str) -> None:
    rig.check(f"SELECT time, host, usage_user FROM cpu WHERE {condition}")


@MANY
@given(conditions("", "long"))
def test_conditions_on_samples_mean_what_they_say(rig: Rig, condition: str) -> None:
    rig.check(f"SELECT metric, labels['host'], count(*), sum(value) FROM samples WHERE {condition} GROUP BY ALL")


@MANY
@given(
    st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"]),
    conditions("c", "wide"),
    st.one_of(conditions("c", "wide"), conditions("m", "wide")),
)
def test_conditions_around_joins_mean_what_they_say(rig: Rig, join: str, one: str, other: str) -> None:
    if join in ("SEMI JOIN", "ANTI JOIN") and "m." in other:
        other = "true"
    shown = "c.host, c.time" if join in ("SEMI JOIN", "ANTI JOIN") else "c.host, c.time, m.host, m.used"
    rig.check(f"SELECT {shown} FROM cpu c {join} mem m ON c.host = m.host AND c.time = m.time WHERE {one} AND {other}")


@MANY
@given(conditions("", "wide"))
def test_conditions_on_shared_columns_mean_what_they_say(rig: Rig, condition: str) -> None:
    rig.check(f"SELECT host, time, used, load FROM cpu JOIN mem USING (host, time) WHERE {condition}")


# --- what is asked of the main process


def needed_table(rig: Rig, sql: str, parameters: Sequence[Any] = ()) -> NeededTable:
    (table,) = rig.database.needed_relations(sql, parameters).tables
    return table


@pytest.mark.parametrize(
    ("condition", "start", "end"),
    [
        ("true", None, None),
        ("time >= make_timestamp_ns(100)", 100, None),
        ("time > make_timestamp_ns(100)", 101, None),
        ("time < make_timestamp_ns(100)", None, 100),
        ("time <= make_timestamp_ns(100)", None, 101),
        ("time = make_timestamp_ns(100)", 100, 101),
        ("make_timestamp_ns(100) < time", 101, None),
        ("time BETWEEN make_timestamp_ns(-5) AND make_timestamp_ns(5)", -5, 6),
        ("time >= '1970-01-01 00:00:01' AND time < '1970-01-01T00:00:02Z'", SECOND, 2 * SECOND),
        ("time >= '1970-01-01' AND time >= '1970-01-02'", 86_400 * SECOND, None),
        ("time >= DATE '1970-01-02' - INTERVAL 1 DAY", 0, None),
        ("cpu.time >= to_timestamp(1)", SECOND, None),
        ("time > make_timestamp_ns(9223372036854775806)", (1 << 63) - 2, None),
        ("time <= make_timestamp_ns(9223372036854775806)", None, None),
        ("time >= $1", 86_400 * SECOND, None),
        ("time < now()", None, None),
        ("time > now() - INTERVAL 1 DAY AND time < now() - INTERVAL 2 DAY", "clock", None),
        ("time > date_trunc('day', now())", "clock", None),
        ("time > current_timestamp::DATE", "clock", None),
        ("time > current_timestamp - INTERVAL 1 DAY", "clock", None),
        ("time >= current_date - 1", "clock", None),
        ("time > (SELECT time AS current_timestamp)", None, None),
        ("time > TIMESTAMP '2026-01-01' - (now() - TIMESTAMP '2026-01-01')", None, None),
        ("(time >= make_timestamp_ns(100)) IS NOT TRUE", None, None),
        ("time >= make_timestamp_ns(100) OR host = 'h1'", None, None),
        ("time + INTERVAL 1 SECOND >= make_timestamp_ns(100)", None, None),
        ("time >= (SELECT max(time) FROM cpu)", None, None),
        ("time >= make_timestamp_ns(length(host))", None, None),
        ("time >= 'yesterday'", None, None),
        ("time >= NULL", None, None),
        ("time >= make_timestamp_ns((random() * 100)::BIGINT)", None, None),
    ],
)
def test_time_bounds_found_in_conditions(rig: Rig, condition: str, start: int | str | None, end: int | None) -> None:
    parameters = ["1970-01-02"] if "$1" in condition else []
    found = rig.database.needed_relations(f"SELECT host FROM cpu WHERE {condition}", parameters).tables[0]
    if start == "clock":
        assert found.start_ns is not None
        assert found.start_ns > T0
    else:
        assert found.start_ns == start
    assert found.end_ns == end


@pytest.mark.parametrize(
    ("sql", "field_ids", "hosts"),
    [
        ("SELECT * FROM cpu WHERE host = 'h1'", None, {"h1"}),
        ("SELECT usage_user FROM cpu WHERE host IN ('h1', 'h2') AND region = 'eu'", (0,), {"h1"}),
        ("SELECT load FROM cpu WHERE host = 'h1' UNION ALL SELECT load FROM cpu WHERE host = 'h2'", (2,), {"h1", "h2"}),
        ("SELECT load FROM cpu WHERE host = 'h1' UNION ALL SELECT load FROM cpu", (2,), None),
        ("SELECT count(*) FROM cpu WHERE host = 'nobody'", (), set()),
        ("SELECT count(*) FROM cpu WHERE host = 'h1' OR region = 'eu'", (), None),
        ("SELECT count(*) FROM cpu TABLESAMPLE 50% WHERE host = 'h1'", (), None),
        ("SELECT value FROM samples WHERE metric = 'cpu_load' AND labels['host'] = 'h3'", (2,), {"h3"}),
        ("SELECT value FROM samples WHERE metric LIKE 'cpu_usage_%' AND labels['rack'] = 'r5'", (0, 1), {"h5"}),
        ("SELECT value FROM samples WHERE series_id = 65537 AND metric LIKE 'cpu%'", (0, 1, 2), {"h1"}),
        ("SELECT m.used FROM mem m ASOF JOIN cpu c ON m.time >= c.time WHERE c.host = 'h1'", None, None),
    ],
)
def test_fields_and_tag_sets_found_in_statements(
    rig: Rig, sql: str, field_ids: tuple[int, ...] | None, hosts: set[str] | None
) -> None:
    tables = {table.name: table for table in rig.database.needed_relations(sql).tables}
    table = tables["cpu"]
    if "ASOF" not in sql:
        assert list(tables) == ["cpu"]
        assert table.field_ids == field_ids
    ids = {dict(pairs)["host"]: tagset_id for (owner, pairs), tagset_id in rig.world.tagsets.items() if owner == "cpu"}
    assert table.tagset_ids == (None if hosts is None else tuple(sorted(ids[host] for host in hosts)))


def test_only_tables_that_can_match_are_needed(rig: Rig) -> None:
    def names(sql: str) -> set[str]:
        return {table.name for table in rig.database.needed_relations(sql).tables}

    assert names("SELECT * FROM samples") == {"cpu", "mem", "prometheus"}
    assert names("SELECT * FROM samples WHERE metric = 'up'") == {"prometheus"}
    assert names("SELECT * FROM samples WHERE labels['job'] = 'j1'") == {"prometheus"}
    assert names("SELECT * FROM samples WHERE metric = 'nothing'") == set()
    assert names("SELECT * FROM samples WHERE metric = 'up' OR value > 3") == {"cpu", "mem", "prometheus"}
    assert names("SELECT * FROM series, metrics, alerts") == set()
    needed = rig.database.needed_relations("SELECT * FROM alerts, rollup_1h, ROLLUP_1D, decisions")
    assert needed.findings == ("alerts", "decisions")
    assert set(needed.rollups) == {"rollup_1h", "rollup_1d"}


def test_needed_refuses_what_sql_refuses(rig: Rig) -> None:
    with pytest.raises(BadQuery, match="no relation 'secret'"):
        rig.database.needed_relations("SELECT * FROM secret")


# --- segments


def test_filters_reach_the_row_groups(rig: Rig, tmp_path: Path) -> None:
    world = rig.world
    rows = [row for row in world.rows if row.table == "cpu"]
    file = world.parquet_file(tmp_path / "x.parquet", rows, {}, row_group_size=20)
    files = SegmentFiles()
    relation = rig.database._relations.by_name()["cpu"]
    ids = np.array([2], np.int32)
    scope = Scope(relation, T0 + 100 * SECOND, T0 + 200 * SECOND, ids)
    (scan,) = files.scans([file], None, scope)
    assert scan.filtered
    assert scan.data.count_rows() == 10
    # Rows are sorted by tag set, 40 of each: of 12 row groups two hold tag set 2.
    fragment = files._fragment(file.path)
    assert len(fragment.row_groups) == 12
    assert len(fragment.subset(_condition(scope)).row_groups) == 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=40), st.integers(1, 6))
def test_decimals_come_back_as_the_very_double(tmp_path: Path, numbers: list[int], places: int) -> None:
    kept = [number for number in numbers if abs(number) < 10**18]
    world = World()
    values = [number / 10**places for number in kept]
    world.add(Row("t", {"i": str(index)}, index, {"v": value}) for index, value in enumerate(values))
    digits = pa.array(kept, pa.int64()).cast(pa.decimal128(19, 0))
    scaled = pa.Array.from_buffers(pa.decimal128(18, places), len(kept), digits.buffers())
    table = pa.table(
        {
            "tagset_id": pa.array(range(len(kept)), pa.int32()),
            "time": pa.array(range(len(kept)), pa.timestamp("ns")),
            "v": scaled,
        }
    )
    path = tmp_path / "decimals.parquet"
    pq.write_table(table, path)
    database = Database(None, threads=1, catalogue=world.catalogue)
    try:
        source = world.source("t", parquet=[ParquetFile(str(path), {0: ("v",)})])
        answer = database.sql(SqlRequest(sql="SELECT v FROM t ORDER BY time", tables=(source,)))
    finally:
        database.close()
    got = pa.ipc.open_stream(answer.stream).read_all().column("v").to_numpy()
    assert got.view(np.uint64).tolist() == np.array(values).view(np.uint64).tolist()


ODD = [1.0, float("nan"), -0.0, 0.0, float("inf"), float("-inf"), 95.0, 5.0]


ODD_CONDITIONS = [
    "v > 90",
    "v >= 90",
    "v = 0",
    "v <> 1",
    "v IN (0, 1)",
    "v < 'nan'::DOUBLE",
    "v = 'nan'::DOUBLE",
    "NOT v > 0",
    "isnan(v)",
    "v BETWEEN 0 AND 'nan'::DOUBLE",
    "v > 90 OR v < -5",
    "v IS NOT NULL",
    "signbit(v)",
]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_odd_doubles_compare_as_in_duckdb(tmp_path: Path, kind: str) -> None:
    world = World()
    world.add(Row("t", {"i": "x"}, index, {"v": value}) for index, value in enumerate(ODD))
    if kind == "parquet":
        source = world.source("t", parquet=[world.parquet_file(tmp_path / "x", world.rows, {}, row_group_size=2)])
    else:
        source = world.source("t", [world.arrow_file(tmp_path / "x", world.rows)])
    database = Database(None, threads=1, catalogue=world.catalogue)
    plain = world.plain()
    try:
        for condition in ODD_CONDITIONS:
            sql = f"SELECT time, v FROM t WHERE {condition}"
            answer = database.sql(SqlRequest(sql=sql, tables=(source,)))
            assert cells(pa.ipc.open_stream(answer.stream).read_all()) == cells(run_plain(plain, sql)), condition
    finally:
        plain.close()
        database.close()


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, Unavailable, "ask again"),
        (b"", Damage, "cannot read"),
        (b"PAR1 nonsense PAR1", Damage, "cannot read"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_that_cannot_be_read_is_named(
    rig: Rig, tmp_path: Path, kind: str, content: bytes | None, error: type[Exception], said: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    files: dict[str, Any] = {"arrow": (str(path),)} if kind == "arrow" else {"parquet": (ParquetFile(str(path), {}),)}
    source = TableSource(table_id=0, name="cpu", **files)
    with pytest.raises(error, match=said) as caught:
        rig.database.sql(SqlRequest(sql="SELECT count(*) FROM cpu", tables=(source,)))
    assert str(path) in str(caught.value)


def test_a_statement_that_finds_no_room_for_its_sources_is_run_again_and_then_told(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "rows.arrow")
    rows = {
        "tagset_id": pa.array([], pa.int32()),
        "time": pa.array([], pa.timestamp("ns")),
        "f0": pa.array([], pa.float64()),
    }
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, pa.table(rows).schema) as writer:
        writer.write_table(pa.table(rows))
    request = SqlRequest(
        sql="SELECT count(*) AS n FROM cpu", tables=(TableSource(table_id=0, name="cpu", arrow=(path,)),)
    )
    failures = 1
    map_file = pa.memory_map

    def memory_map(*arguments: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("Memory mapping file failed: Cannot allocate memory")
        return map_file(*arguments)

    monkeypatch.setattr(pa, "memory_map", memory_map)
    answer = rig.database.sql(request)
    assert (failures, pa.ipc.open_stream(answer.stream).read_all().to_pylist()) == (0, [{"n": 0}])
    failures = 2
    with pytest.raises(QueryLimit, match="needs more memory"):
        rig.database.sql(request)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tagset_id": pa.array([1], pa.int64())}, "tagset_id"),
        ({"time": pa.array([1], pa.timestamp("us"))}, "time"),
        ({"v": pa.array(["x"])}, "want a number"),
        ({"v": None}, "no column 'v'"),
    ],
)
def test_a_segment_of_another_shape_is_damage(rig: Rig, tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    good = {"tagset_id": pa.array([1], pa.int32()), "time": pa.array([1], pa.timestamp("ns")), "v": pa.array([1.0])}
    table = pa.table({name: array for name, array in (good | columns).items() if array is not None})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    source = TableSource(table_id=0, name="cpu", parquet=(ParquetFile(str(path), {0: ("v",)}),))
    with pytest.raises(Damage, match=said):
        rig.database.sql(SqlRequest(sql="SELECT usage_user FROM cpu", tables=(source,)))


def test_a_page_that_was_changed_on_disk_gives_no_number(tmp_path: Path) -> None:
    world = World()
    world.add(Row("t", {"i": "x"}, index, {"v": index / 7}) for index in range(1_000))
    path = tmp_path / "x.parquet"
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    file = world.parquet_file(path, world.rows, {}, **options)
    data = bytearray(path.read_bytes())
    position = data.index(np.float64(500 / 7).tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    database = Database(None, threads=1, catalogue=world.catalogue)
    try:
        with pytest.raises(Damage, match="CRC") as caught:
            database.sql(SqlRequest(sql="SELECT sum(v) FROM t", tables=(world.source("t", parquet=[file]),)))
        assert caught.value.path == str(path)
    finally:
        database.close()


def test_explain_takes_parameters(rig: Rig) -> None:
    (row,) = rig.run("EXPLAIN SELECT * FROM cpu WHERE host = ?", ["h1"]).to_pylist()
    assert "tagset_id" in row["explain_value"]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    world = World()
    world.add(Row("t", {"i": "x"}, index, {"v": float(index)}) for index in range(4))
    database = Database(None, threads=1, catalogue=world.catalogue)
    try:
        for rows in (world.rows[:1], world.rows):
            file = world.parquet_file(tmp_path / "x.parquet", rows, {})
            request = SqlRequest(sql="SELECT count(*) FROM t", tables=(world.source("t", parquet=[file]),))
            answer = database.sql(request)
            assert pa.ipc.open_stream(answer.stream).read_all().to_pylist() == [{"count_star()": len(rows)}]
    finally:
        database.close()


# --- names


@pytest.mark.parametrize(
    ("fields", "keys", "names"),
    [
        ([b"a", b"b"], [b"host"], ["host", "a", "b"]),
        ([b"host"], [b"host"], ["host_tag", "host"]),
        ([b"Host"], [b"hoST"], ["hoST_tag", "Host"]),
        ([b"time"], [b"Time"], ["Time_tag", "time_field"]),
        ([b"a", b"A"], [b"k", b"K", b"K"], ["k", "K_2", "K_3", "a", "A_2"]),
        ([b"x", b"x_tag"], [b"x"], ["x_tag_2", "x", "x_tag"]),
        ([b"\xc3\x84"], [b"\xc3\xa4"], ["ä", "Ä"]),
        ([b"a\0b"], [], ["a\ufffdb"]),
    ],
)
def test_columns_whose_names_clash(fields: list[bytes], keys: list[bytes], names: list[str]) -> None:
    assert [column.name for column in name_columns(fields, keys)] == names


AWKWARD = ["select", 'with "quotes"', "with 'single'", "a b", "Größe", "日本", ";", "--", "a.b", "$1", "tab\there"]


def test_any_name_can_be_used(tmp_path: Path) -> None:
    world = World()
    for number, name in enumerate(AWKWARD):
        world.add([Row(name, {f"tag {name}": f"it's {name}"}, 5, {name: float(number)})])
    database = Database(None, threads=1, catalogue=world.catalogue)
    plain = world.plain()
    try:
        sources = tuple(
            world.source(name, [world.arrow_file(tmp_path / str(number), [world.rows[number]])])
            for number, name in enumerate(AWKWARD)
        )
        for name in AWKWARD:
            quoted = '"' + name.replace('"', '""') + '"'
            tag = '"tag ' + name.replace('"', '""') + '"'
            sql = f"SELECT * FROM {quoted} WHERE {tag} = ? AND {quoted} >= 0"
            answer = database.sql(SqlRequest(sql=sql, parameters=[f"it's {name}"], tables=sources))
            got = pa.ipc.open_stream(answer.stream).read_all()
            assert (got.num_rows, cells(got)) == (1, cells(run_plain(plain, sql, [f"it's {name}"])))
        answer = database.sql(SqlRequest(sql="SELECT * FROM samples", tables=sources))
        assert cells(pa.ipc.open_stream(answer.stream).read_all()) == cells(run_plain(plain, "SELECT * FROM samples"))
    finally:
        plain.close()
        database.close()


def test_measurements_whose_names_clash(tmp_path: Path) -> None:
    world = World()
    names = ["samples", "Series", "cpu", "CPU", "cpu_2", "tidegauge_1", "alerts", "alerts_table"]
    for number, name in enumerate(names):
        world.add([Row(name, {}, 5, {"v": float(number)})])
    database = Database(None, threads=1, catalogue=world.catalogue)
    try:
        sources = tuple(
            world.source(name, [world.arrow_file(tmp_path / str(number), [world.rows[number]])])
            for number, name in enumerate(names)
        )
        shown = [
            "samples_table",
            "Series_table",
            "cpu",
            "CPU_2",
            "cpu_2_2",
            "tidegauge_1",
            "alerts_table",
            "alerts_table_2",
        ]
        for number, name in enumerate(shown):
            answer = database.sql(SqlRequest(sql=f"SELECT v FROM {name}", tables=sources))
            assert pa.ipc.open_stream(answer.stream).read_all().to_pylist() == [{"v": float(number)}]
        answer = database.sql(SqlRequest(sql="SHOW TABLES"))
        listed = pa.ipc.open_stream(answer.stream).read_all().to_pylist()
        assert {row["name"] for row in listed if row["kind"] == "measurement"} == set(shown)
        assert len(listed) == len(shown) + 3 + len(ROLLUPS) + len(FINDINGS)
    finally:
        database.close()


def test_names_of_with_queries_do_not_reach_into_views(rig: Rig) -> None:
    got = rig.run("WITH tidegauge_1 AS (SELECT 1), tidegauge_2 AS (SELECT 2) SELECT count(*) AS n FROM cpu")
    assert got.to_pylist() == [{"n": 240}]


def test_an_empty_database_has_all_relations() -> None:
    database = Database(None, threads=1)
    try:
        for name in ("samples", "series", "metrics", *ROLLUPS):
            answer = database.sql(SqlRequest(sql=f"SELECT * FROM {name}"))
            table = pa.ipc.open_stream(answer.stream).read_all()
            assert table.num_rows == 0
            assert table.num_columns >= 4
        answer = database.sql(SqlRequest(sql="SELECT count(*) AS n FROM samples WHERE metric = 'x' AND time > now()"))
        assert pa.ipc.open_stream(answer.stream).read_all().to_pylist() == [{"n": 0}]
    finally:
        database.close()


def test_columns_have_the_promised_types(rig: Rig) -> None:
    def described(name: str) -> dict[str, str]:
        rows = rig.run(f"DESCRIBE {name}").to_pylist()
        return {row["column_name"]: row["column_type"] for row in rows}

    labels = "MAP(VARCHAR, VARCHAR)"
    assert described("cpu") == {
        "time": "TIMESTAMP_NS",
        "host": "VARCHAR",
        "region": "VARCHAR",
        "rack": "VARCHAR",
        "usage_user": "DOUBLE",
        "usage_system": "DOUBLE",
        "load": "DOUBLE",
    }
    assert list(described("cpu")) == ["time", "host", "region", "rack", "usage_user", "usage_system", "load"]
    assert described("samples") == {
        "time": "TIMESTAMP_NS",
        "metric": "VARCHAR",
        "labels": labels,
        "value": "DOUBLE",
        "series_id": "BIGINT",
    }
    values = dict.fromkeys(["sum", "min", "max", "first", "last"], "DOUBLE")
    assert described("rollup_1m") == {
        "time": "TIMESTAMP_NS",
        "series_id": "BIGINT",
        "metric": "VARCHAR",
        "labels": labels,
        "count": "BIGINT",
        **values,
        "first_time": "TIMESTAMP_NS",
        "last_time": "TIMESTAMP_NS",
        "increase": "DOUBLE",
        "histogram": "MAP(INTEGER, BIGINT)",
    }
    assert described("series") == {
        "series_id": "BIGINT",
        "metric": "VARCHAR",
        "measurement": "VARCHAR",
        "field": "VARCHAR",
        "labels": labels,
    }
    assert described("metrics") == {
        "metric": "VARCHAR",
        "measurement": "VARCHAR",
        "field": "VARCHAR",
        "series_count": "BIGINT",
    }


def test_clock_functions_are_comparable_with_time(rig: Rig) -> None:
    rows = rig.run(
        "SELECT typeof(now()), typeof(current_timestamp), typeof(to_timestamp(0)), typeof(ago(INTERVAL 1 DAY))"
    )
    assert set(rows.to_pylist()[0].values()) == {"TIMESTAMP"}
    assert rig.run(
        "SELECT count(*) AS n FROM cpu WHERE time < now() AND time > now() - INTERVAL 200 YEAR"
    ).to_pylist() == [{"n": 240}]


def test_the_catalogue_may_grow_between_statements(tmp_path: Path) -> None:
    world = World()
    world.add([Row("t", {"a": "1"}, 0, {"v": 1.0})])
    database = Database(None, threads=1)
    mark = (0, 0, 0)
    try:
        for number, row in enumerate([None, Row("t", {"b": "2"}, 1, {"w": 2.0}), Row("u", {"a": "1"}, 2, {"v": 3.0})]):
            if row is not None:
                world.add([row])
            definitions = world.catalogue.definitions(mark, world.catalogue.mark())
            mark = world.catalogue.mark()
            sources = tuple(
                world.source(name, [world.arrow_file(tmp_path / f"{number}-{name}", rows)])
                for name in world.tables
                if (rows := [each for each in world.rows if each.table == name])
            )
            plain = world.plain()
            for position, sql in enumerate(("SELECT * FROM t", "SELECT * FROM samples", "SELECT * FROM series")):
                request = SqlRequest(sql=sql, tables=sources, definitions=b"" if position else definitions)
                got = pa.ipc.open_stream(database.sql(request).stream).read_all()
                assert cells(got) == cells(run_plain(plain, sql))
            plain.close()
    finally:
        database.close()


def test_a_source_may_say_that_a_table_is_pooled(rig: Rig) -> None:
    database = Database(None, threads=1, catalogue=rig.world.catalogue)
    try:
        sql = "SELECT metric, count(*) FROM samples WHERE metric IN ('up', 'go_threads') GROUP BY metric"
        answer = database.sql(SqlRequest(sql=sql, tables=rig.sources))
        assert cells(pa.ipc.open_stream(answer.stream).read_all()) == cells(run_plain(rig.plain, sql))
    finally:
        database.close()


def test_many_fields_at_once_are_read_as_one_by_one(tmp_path: Path) -> None:
    world = World()
    for index in range(5):
        values = {f"f{number}": float(index * 100 + number) for number in range(index, 70)}
        world.add([Row("wide", {"host": f"h{index}"}, index, values)])
    database = Database(None, threads=1, catalogue=world.catalogue)
    plain = world.plain()
    try:
        source = world.source("wide", [world.arrow_file(tmp_path / "x", world.rows)])
        for sql in (
            "SELECT * FROM samples",
            "SELECT metric, sum(value) FROM samples WHERE metric > 'wide_f3' GROUP BY 1",
        ):
            answer = database.sql(SqlRequest(sql=sql, tables=(source,)))
            assert cells(pa.ipc.open_stream(answer.stream).read_all()) == cells(run_plain(plain, sql))
    finally:
        plain.close()
        database.close()


def test_samples_of_too_many_measurements_are_refused() -> None:
    catalogue = Catalogue()
    for number in range(501):
        table_id = catalogue.table(f"t{number}".encode())
        catalogue.field(table_id, b"v")
        catalogue.tagset(table_id, [])
    database = Database(None, threads=1, catalogue=catalogue)
    try:
        with pytest.raises(BadQuery, match="samples of 501 measurements would be read, want at most 500; restrict"):
            database.needed_relations("SELECT count(*) FROM samples")
        needed = database.needed_relations("SELECT count(*) FROM samples WHERE metric IN ('t7_v', 't500_v')")
        assert [table.name for table in needed.tables] == ["t7", "t500"]
    finally:
        database.close()


# --- findings and limits


def test_findings_are_relations(rig: Rig) -> None:
    table = pa.table(
        {"id": pa.array([1, 2]), "rule": pa.array(["a", None]), "time": pa.array([0, 1], pa.timestamp("ns"))}
    )
    got = rig.run("SELECT rule, id FROM alerts WHERE id > 1", findings={"alerts": stream_of(table)})
    assert got.to_pylist() == [{"rule": None, "id": 2}]
    empty = stream_of(table.slice(0, 0))
    assert rig.run("SELECT * FROM alerts", findings={"alerts": empty}).column_names == ["id", "rule", "time"]
    with pytest.raises(Unavailable, match="relation 'decisions' is not available here"):
        rig.run("SELECT * FROM decisions", findings={"alerts": empty})


def test_only_findings_that_there_are_can_be_asked_for() -> None:
    database = Database(None, threads=1, findings=("alerts",))
    try:
        answer = database.sql(SqlRequest(sql="SHOW TABLES"))
        listed = pa.ipc.open_stream(answer.stream).read_all().to_pylist()
        assert [row["name"] for row in listed if row["kind"] == "finding"] == ["alerts"]
        with pytest.raises(BadQuery, match="no relation 'anomalies'"):
            database.needed_relations("SELECT * FROM anomalies")
    finally:
        database.close()


def test_too_many_rows_are_an_error_not_a_part(rig: Rig) -> None:
    assert rig.run("SELECT * FROM range(100)", limits=SqlLimits(max_rows=100)).num_rows == 100
    with pytest.raises(QueryLimit, match="more than 99 rows; aggregate, restrict or add LIMIT"):
        rig.run("SELECT * FROM range(100)", limits=SqlLimits(max_rows=99))


def test_too_many_bytes_are_an_error_not_a_part(rig: Rig) -> None:
    with pytest.raises(QueryLimit, match="larger than 1000 bytes"):
        rig.run("SELECT repeat('x', 100) FROM range(100)", limits=SqlLimits(max_result_bytes=1_000))


def test_a_statement_that_takes_too_long_is_interrupted(rig: Rig) -> None:
    endless = "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(j) WHERE (i * j) % 7 = 3"
    with pytest.raises(QueryLimit, match=r"longer than 0\.05 s"):
        rig.run(endless, limits=SqlLimits(timeout_seconds=0.05))
    assert rig.run("SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize("error", [duckdb.OutOfMemoryException, duckdb.InterruptException])
def test_memory_that_others_have_taken_is_no_mistake_of_the_statement(error: type[Exception]) -> None:
    class Full:
        def execute(self, *_: object) -> None:
            raise error("failed to allocate data of size 32.0 KiB (128.0 MiB/128.0 MiB used)")

    with pytest.raises(error):
        _serialiser(Full())("SELECT 1")


def test_memory_for_statements_is_limited() -> None:
    database = Database(None, threads=1, memory_limit_bytes=64 << 20)
    try:
        with pytest.raises(QueryLimit, match="needs more memory than the 32 MiB that one statement may use"):
            database.sql(
                SqlRequest(sql="SELECT i, count(*) FROM range(10000000) r(i) GROUP BY i ORDER BY i DESC LIMIT 1")
            )
    finally:
        database.close()


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nothing FROM cpu", 'Referenced column "nothing" not found'),
        ("SELECT host + 1 FROM cpu", "cannot run SQL"),
        ("SELECT error('boom') FROM cpu", "cannot run SQL: boom"),
        ("SELECT host FROM cpu WHERE time > 5", "make_timestamp_ns"),
        ("SELECT host FROM cpu WHERE time > TIMESTAMPTZ '2026-01-01 00:00:00Z'", "cast the other side to TIMESTAMP"),
        ("SELECT ?", "cannot run SQL"),
        ("SELECT host, count(*) FROM cpu", "GROUP BY"),
    ],
)
def test_a_statement_that_fails_says_why(rig: Rig, sql: str, said: str) -> None:
    with pytest.raises(BadQuery) as caught:
        rig.run(sql)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


# --- the second line: what DuckDB itself is told, in case something passes the first


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{}/x.csv'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "ATTACH '{}/x.db'",
        "INSTALL httpfs",
        "LOAD '{}/x'",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET lock_configuration = false",
        "EXPORT DATABASE '{}/x'",
        "SELECT * FROM secret_table",
        "INSERT INTO rollups.main.rollup_1m SELECT * FROM rollups.main.rollup_1m",
        "CREATE TABLE rollups.main.x AS SELECT 1",
        "DROP TABLE rollups.main.rollup_1m",
    ],
)
def test_duckdb_itself_is_locked_down(rig: Rig, tmp_path: Path, sql: str) -> None:
    secret_table = pa.table({"x": [1]})
    assert secret_table.num_rows == 1
    cursor = rig.database._root.cursor()
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        with pytest.raises(duckdb.Error):
            cursor.execute(sql.replace("{}", str(tmp_path))).fetchall()
    finally:
        cursor.close()
    assert list(tmp_path.iterdir()) == []


# --- rollups


def bucket_rows(world: World, width_ns: int) -> list[dict[str, Any]]:
    """Return the rollup rows of a world, in an obvious way."""
    groups: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for row in sorted(world.rows, key=lambda each: each.time_ns):
        for name, value in row.values.items():
            series_id = world.tagset_id(row) * 65_536 + world.fields[row.table].index(name)
            groups.setdefault((series_id, row.time_ns // width_ns * width_ns), []).append((row.time_ns, value))
    return [
        {
            "series_id": series_id,
            "time": start,
            "count": len(points),
            "sum": sum(value for _, value in points),
            "min": min(value for _, value in points),
            "max": max(value for _, value in points),
            "first": points[0][1],
            "last": points[-1][1],
            "first_time": points[0][0],
            "last_time": points[-1][0],
        }
        for (series_id, start), points in sorted(groups.items())
    ]


def flush(database: Database, rows: list[dict[str, Any]], sequence: int) -> None:
    kinds = {name: pa.int64() for name in ("series_id", "time", "count", "first_time", "last_time")}
    names = ("series_id", "time", "count", "sum", "min", "max", "first", "last", "first_time", "last_time")
    buckets = pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.float64())) for name in names})
    pairs = sorted({(row["series_id"] >> 16, row["time"]) for row in rows})
    dirty = pa.table(
        {
            "tagset_id": pa.array([tagset_id for tagset_id, _ in pairs], pa.int32()),
            "bucket": pa.array([bucket for _, bucket in pairs], pa.int64()),
        }
    )
    database.flush_rollups([piece_of(buckets, dirty)], sequence)


ROLLUP_STATEMENTS = [
    "SELECT * EXCLUDE (metric, labels) FROM {}",
    "SELECT * FROM {}",
    "SELECT count(*), sum(sum) FROM {}",
    "SELECT time, max FROM {} WHERE series_id = 65536",
    "SELECT metric, sum(count) FROM {} WHERE metric LIKE 'cpu_%' GROUP BY metric",
    "SELECT metric, labels['host'], sum(sum) FROM {} WHERE labels['host'] = 'h1' GROUP BY ALL",
    "SELECT labels['job'], sum(sum) FROM {} WHERE metric = 'up' AND time >= '2023-11-14 22:14:00' GROUP BY ALL",
    "SELECT count(*) FROM {} WHERE metric = 'nothing'",
    "SELECT r.time, r.last, r.last_time FROM {} r JOIN series s USING (series_id) WHERE s.metric = 'mem_used'",
]


def test_rollups_are_those_of_plain_rows(rig: Rig) -> None:
    database = Database(None, threads=1, pooled_tables=rig.world.pooled, catalogue=rig.world.catalogue)
    plain = rig.world.plain()
    try:
        flush(database, bucket_rows(rig.world, 60 * SECOND), 9)
        assert database.watermark() == 9
        for name, width_ns in (("rollup_1m", 60 * SECOND), ("rollup_1h", 3_600 * SECOND)):
            rows = bucket_rows(rig.world, width_ns)
            columns = {key: pa.array([row[key] for row in rows]) for key in rows[0]}
            for key in ("time", "first_time", "last_time"):
                columns[key] = columns[key].cast(pa.timestamp("ns"))
            plain.register("rows", pa.table(columns))
            plain.execute(
                f"CREATE TABLE {name} AS SELECT r.time, r.series_id, s.metric, s.labels, r.* EXCLUDE (time, series_id),"
                " NULL::DOUBLE AS increase, NULL::MAP(INTEGER, BIGINT) AS histogram"
                " FROM rows r JOIN series s USING (series_id)"
            )
            for statement in (each.replace("{}", name) for each in ROLLUP_STATEMENTS):
                answer = database.sql(SqlRequest(sql=statement))
                got = pa.ipc.open_stream(answer.stream).read_all()
                want = run_plain(plain, statement)
                assert got.column_names == want.column_names
                assert cells(got) == cells(want), statement
    finally:
        plain.close()
        database.close()


def test_rollups_stay_in_the_file(tmp_path: Path, rig: Rig) -> None:
    path = str(tmp_path / "rollups.duckdb")
    rows = bucket_rows(rig.world, 60 * SECOND)
    database = Database(path, threads=1)
    flush(database, rows, 5)
    database.close()
    database.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rollups", "rollups.duckdb"]
    database = Database(path, threads=1)
    try:
        assert database.watermark() == 5
        assert database.rollup_rows("rollup_1m", T0 - 3_600 * SECOND, T0 + 3_600 * SECOND).num_rows == len(rows)
        wanted = database.rollup_rows("rollup_1m", T0 - 3_600 * SECOND, T0 + 3_600 * SECOND, [rows[0]["series_id"]])
        assert set(wanted.column("series_id").to_pylist()) == {rows[0]["series_id"]}
        assert database.retain({"rollup_1m": T0 + 86_400 * SECOND}) == len(rows)
        with pytest.raises(Unavailable, match="another process has it open"):
            other_process_opens(path)
    finally:
        database.close()


def other_process_opens(path: str) -> None:
    """Open a database as another process would: DuckDB's lock is one between processes."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(open_and_close, (path,))


def open_and_close(path: str) -> None:
    Database(path, threads=1).close()


def test_a_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "rollups.duckdb"
    path.write_bytes(b"this is no database" * 1_000)
    with pytest.raises(Damage) as caught:
        Database(str(path))
    assert caught.value.path == str(path)


def test_statements_run_while_rollups_are_flushed(rig: Rig) -> None:
    database = Database(None, threads=2, pooled_tables=rig.world.pooled, catalogue=rig.world.catalogue)
    rows = bucket_rows(rig.world, 60 * SECOND)
    done = threading.Event()
    counts: list[int] = []

    def read() -> None:
        while not done.is_set():
            sql = "SELECT count(*) AS n, (SELECT count(*) FROM cpu) AS m FROM rollup_1m"
            answer = database.sql(SqlRequest(sql=sql, tables=rig.sources))
            (row,) = pa.ipc.open_stream(answer.stream).read_all().to_pylist()
            counts.append(row["n"])
            assert row["m"] == 240

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for sequence in range(1, 16):
            flush(database, rows, sequence)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    try:
        assert database.watermark() == 15
        # Each statement saw all of a flush or nothing of it.
        assert set(counts) <= {0, len(rows)}
    finally:
        database.close()


def test_a_closed_database_says_so() -> None:
    database = Database(None, threads=1)
    database.close()
    with pytest.raises(Unavailable, match="closed"):
        database.sql(SqlRequest(sql="SELECT 1"))
    with pytest.raises(Unavailable, match="closed"):
        database.watermark()


@pytest.mark.parametrize(("raised", "kind"), [(MemoryError(), QueryLimit), (RuntimeError("gone"), Unavailable)])
def test_a_source_that_cannot_be_opened_is_not_the_statements_fault(
    rig: Rig, raised: Exception, kind: type[Exception]
) -> None:
    class Source:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            raise raised

        def __arrow_c_schema__(self) -> object:
            return pa.schema([("x", pa.int64())]).__arrow_c_schema__()

    with duckdb.connect() as connection:
        connection.register("source", Source())
        with pytest.raises((duckdb.Error, MemoryError, RuntimeError)) as caught:
            connection.execute("SELECT count(*) FROM source").fetchall()
    watch: Any = SimpleNamespace(expired=False, cancelled=False)
    told = rig.database._translated(caught.value, "SELECT count(*) FROM source", 1.0, watch)
    assert isinstance(told, kind), (told.message, caught.value)
