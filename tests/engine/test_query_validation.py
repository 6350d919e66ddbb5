"""Which SQL may run: a table of attacks in every disguise, each refused, and of what analysts write, each accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from engine.errors import BadQuery
from engine.query.extensions import register_all
from engine.query.functions import FUNCTIONS, OPERATORS, PUSHABLE, SIGNATURES, TABLE_FUNCTIONS
from engine.query.macros import create_macros
from engine.query.relations import FIXED_RELATIONS, Relation
from engine.query.syntax import Serialise, explain_error, fold
from engine.query.validation import Statement, check_text, parse
from engine.runtime.engine import SQL_EXTENSIONS

RELATIONS = {
    **FIXED_RELATIONS,
    "cpu": Relation("cpu", "table", 0),
    "mem": Relation("mem", "table", 1),
    "nginx requests": Relation("nginx requests", "table", 2),
}


@pytest.fixture(scope="module")
def serialise() -> Iterator[Serialise]:
    connection = duckdb.connect()
    yield lambda sql: connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()[0][0]
    connection.close()


@pytest.fixture
def check(serialise: Serialise):
    def checked(sql: str) -> Statement:
        return parse(sql, serialise, RELATIONS)

    return checked


ATTACKS = [
    # statements that are no SELECT
    ("INSERT INTO cpu VALUES (1)", "got INSERT"),
    ("UPDATE cpu SET x = 1", "got UPDATE"),
    ("DELETE FROM cpu", "got DELETE"),
    ("TRUNCATE cpu", "got TRUNCATE"),
    ("CREATE TABLE x AS SELECT 1", "got CREATE"),
    ("CREATE OR REPLACE MACRO now() AS 1", "got CREATE"),
    ("CREATE TEMP VIEW cpu AS SELECT 1", "got CREATE"),
    ("DROP TABLE cpu", "got DROP"),
    ("ALTER TABLE cpu ADD COLUMN x INTEGER", "got ALTER"),
    ("COPY cpu TO '/tmp/x.csv'", "got COPY"),
    ("COPY (SELECT 1) TO '/tmp/x.parquet' (FORMAT parquet)", "got COPY"),
    ("EXPORT DATABASE '/tmp/x'", "got EXPORT"),
    ("IMPORT DATABASE '/tmp/x'", "cannot"),
    ("ATTACH '/tmp/x.db' AS x", "got ATTACH"),
    ("DETACH rollups", "got DETACH"),
    ("USE rollups", "got USE"),
    ("INSTALL httpfs", "got INSTALL"),
    ("LOAD '/tmp/x.duckdb_extension'", "got LOAD"),
    ("PRAGMA database_list", "got PRAGMA"),
    ("PRAGMA enable_profiling", "got PRAGMA"),
    ("SET memory_limit = '100GB'", "got SET"),
    ("SET GLOBAL enable_external_access = true", "got SET"),
    ("RESET memory_limit", "got RESET"),
    ("SET VARIABLE x = 1", "got SET"),
    ("CALL pragma_version()", "got CALL"),
    ("CHECKPOINT", "got CHECKPOINT"),
    ("FORCE CHECKPOINT rollups", "got FORCE"),
    ("VACUUM", "got VACUUM"),
    ("BEGIN TRANSACTION", "got BEGIN"),
    ("COMMIT", "got COMMIT"),
    ("PREPARE q AS SELECT 1", "got PREPARE"),
    ("EXECUTE q", "got EXECUTE"),
    ("CREATE SECRET s (TYPE s3)", "got CREATE"),
    ("PIVOT cpu ON host", "FROM (PIVOT"),
    # several statements
    ("SELECT 1; SELECT 2", "2 statements"),
    ("SELECT 1; DROP TABLE cpu", "cannot"),
    ("SELECT 1;; ATTACH 'x'", "cannot"),
    # statements inside WITH
    ("WITH x AS (COPY (SELECT 1) TO '/tmp/x.csv') SELECT 1", ""),
    ("WITH x AS (INSERT INTO cpu VALUES (1) RETURNING *) SELECT * FROM x", ""),
    ("WITH x AS (DELETE FROM cpu RETURNING *) SELECT * FROM x", ""),
    ("WITH x AS (UPDATE cpu SET host = '' RETURNING *) SELECT * FROM x", ""),
    ("SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '/tmp/x.csv') SELECT 1)", ""),
    ("SELECT (WITH x AS (INSERT INTO cpu VALUES (1)) SELECT 1)", ""),
    ("EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '/tmp/x.csv') SELECT 1", ""),
    ("SELECT 1 UNION ALL (WITH x AS (COPY (SELECT 1) TO '/tmp/x') SELECT 1)", ""),
    # files named as relations
    ("SELECT * FROM '/etc/passwd'", "no relation '/etc/passwd'"),
    ("SELECT * FROM 'data/*.parquet'", "no relation"),
    ('SELECT * FROM "file.csv"', "no relation"),
    ("FROM 'https://example.org/x.parquet'", "no relation"),
    ("SELECT * FROM cpu JOIN 'x.parquet' USING (host)", "no relation"),
    ("SELECT * FROM cpu WHERE host IN (SELECT a FROM '/etc/passwd')", "no relation"),
    ("DESCRIBE SELECT * FROM 'x.parquet'", "no relation"),
    ("SUMMARIZE 'x.parquet'", "no relation"),
    ("WITH q AS (SELECT 1) SELECT * FROM q, 'x.csv'", "no relation"),
    # table functions
    ("SELECT * FROM read_csv('/etc/passwd')", "table function 'read_csv'"),
    ("SELECT * FROM read_csv_auto('/etc/passwd')", "table function"),
    ("SELECT * FROM read_text('/etc/passwd')", "table function 'read_text'"),
    ("SELECT * FROM READ_BLOB('/etc/passwd')", "table function 'read_blob'"),
    ("SELECT * FROM \"read_text\"('/etc/passwd')", "table function"),
    ("SELECT * FROM read_parquet('x'), cpu", "table function"),
    ("SELECT * FROM parquet_scan('x')", "table function"),
    ("SELECT * FROM parquet_metadata('x')", "table function"),
    ("SELECT * FROM read_json('x')", "table function"),
    ("SELECT * FROM read_duckdb('x')", "table function"),
    ("SELECT * FROM sniff_csv('x')", "table function"),
    ("SELECT * FROM glob('/**')", "table function 'glob'"),
    ("SELECT * FROM cpu, LATERAL (SELECT * FROM glob('/*')) g", "table function 'glob'"),
    ("SELECT (SELECT string_agg(file) FROM glob('/*'))", "table function 'glob'"),
    ("SELECT 1 UNION SELECT file FROM glob('/*')", "table function 'glob'"),
    ("SELECT host FROM cpu ORDER BY (SELECT max(file) FROM glob('/*'))", "table function 'glob'"),
    ("SELECT host FROM cpu LIMIT (SELECT count(*) FROM glob('/*'))", "table function 'glob'"),
    ("SELECT host FROM cpu GROUP BY host HAVING count(*) > (SELECT count(*) FROM glob('*'))", "table function"),
    ("SELECT * FROM cpu QUALIFY row_number() OVER (ORDER BY (SELECT count(*) FROM glob('*'))) = 1", "table function"),
    ("FROM (PIVOT cpu ON host IN ('a') USING max((SELECT count(*) FROM glob('*'))))", "table function"),
    ("SELECT * FROM query('SELECT 1')", "table function 'query'"),
    ("SELECT * FROM query_table('cpu')", "table function 'query_table'"),
    ("SELECT * FROM duckdb_settings()", "table function"),
    ("SELECT * FROM duckdb_secrets()", "table function"),
    ("SELECT * FROM duckdb_tables()", "table function"),
    ("SELECT * FROM duckdb_functions()", "table function"),
    ("SELECT * FROM duckdb_logs()", "table function"),
    ("SELECT * FROM pragma_table_info('cpu')", "table function"),
    ("SELECT * FROM pragma_version()", "table function"),
    ("SELECT * FROM json_execute_serialized_sql('{}')", "table function"),
    ("SELECT * FROM arrow_scan(1, 2, 3)", "table function 'arrow_scan'"),
    ("SELECT * FROM pandas_scan(1)", "table function"),
    ("SELECT * FROM seq_scan('cpu')", "table function"),
    ("SELECT * FROM which_secret('x', 's3')", "table function"),
    ("SELECT * FROM checkpoint('rollups')", "table function"),
    ("SELECT * FROM histogram(cpu, host)", "table function"),
    ("SELECT * FROM repeat_row(1, num_rows := 1000000000)", "table function"),
    ("SELECT * FROM range(20000000)", "makes 20000000 rows"),
    ("SELECT * FROM generate_series(0, 1000000000000, 10)", "makes"),
    ("SELECT range(200000000)", "makes 200000000 rows"),
    ("SELECT * FROM range(0, -20000000, -1)", "makes 20000000 rows"),
    ("SELECT * FROM time_bucket_gapfill(INTERVAL 1 DAY, getenv('A'), now())", "function 'getenv'"),
    ("SELECT time_bucket_gapfill(INTERVAL 1 DAY, now(), now())", "use it in FROM"),
    ("SELECT * FROM rollups.main.range(1)", "schema or database"),
    ("SELECT * FROM secret.range(1)", "schema or database"),
    # scalar functions
    ("SELECT getenv('HOME')", "function 'getenv'"),
    ("SELECT current_setting('threads')", "function 'current_setting'"),
    ("SELECT Current_Setting('threads')", "function 'current_setting'"),
    ("SELECT \"current_setting\"('threads')", "function 'current_setting'"),
    ("SELECT 'threads'.current_setting()", ""),
    ("SELECT main.current_setting('threads')", "function 'current_setting'"),
    ("SELECT system.main.current_setting('threads')", "schema or database"),
    ("SELECT getvariable('x')", "function 'getvariable'"),
    ("SELECT nextval('s')", "function 'nextval'"),
    ("SELECT setseed(0.5)", "function 'setseed'"),
    ("SELECT tidegauge_rise([])", "function 'tidegauge_rise'"),
    ("SELECT increase(getenv('A'), time) FROM cpu", "function 'getenv'"),
    ("SELECT write_log('x')", "function 'write_log'"),
    ("SELECT sleep_ms(1000000)", "function 'sleep_ms'"),
    ("SELECT pg_sleep(1000)", "function 'pg_sleep'"),
    ("SELECT txid_current()", "function 'txid_current'"),
    ("SELECT json_serialize_sql('SELECT 1')", "function 'json_serialize_sql'"),
    ("SELECT json_deserialize_sql('{}')", "function"),
    ("SELECT finalize('x'::BLOB)", "function 'finalize'"),
    ("SELECT approx_quantile(usage_user, 0.5) EXPORT_STATE FROM cpu", ""),
    ("SELECT list_transform([1], lambda x: getenv('A'))", "function 'getenv'"),
    ("SELECT [getenv(x) FOR x IN ['A']]", "function 'getenv'"),
    ("SELECT CASE WHEN true THEN getenv('A') END", "function 'getenv'"),
    ("SELECT count(*) FILTER (WHERE getenv('A') = '') FROM cpu", "function 'getenv'"),
    ("SELECT sum(1) OVER (PARTITION BY getenv('A')) FROM cpu", "function 'getenv'"),
    ("SELECT * FROM cpu JOIN mem ON getenv('A') = 'x'", "function 'getenv'"),
    ("SELECT * FROM unnest([getenv('A')])", "function 'getenv'"),
    ("SELECT * FROM (VALUES (getenv('A')))", "function 'getenv'"),
    ("SELECT * REPLACE (getenv('A') AS host) FROM cpu", "function 'getenv'"),
    ("SELECT DISTINCT ON (getenv('A')) host FROM cpu", "function 'getenv'"),
    ("SELECT COLUMNS(c -> getenv(c) = '') FROM cpu", ""),
    ("SELECT host FROM cpu WHERE time > now() - to_days(length(getenv('A')))", "function 'getenv'"),
    ("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT getenv('A') FROM t) SELECT * FROM t", "function 'getenv'"),
    # other schemas and internal tables
    ("SELECT * FROM information_schema.tables", "schema or database"),
    ("SELECT * FROM pg_catalog.pg_class", "schema or database"),
    ("SELECT * FROM pg_class", "no relation"),
    ("SELECT * FROM sqlite_master", "no relation"),
    ("SELECT * FROM duckdb_settings", "no relation"),
    ("SELECT * FROM rollups.main.rollup_1m", "schema or database"),
    ("SELECT * FROM main.rollup_1m", "schema or database"),
    ("SELECT * FROM rollup_meta", "no relation"),
    ("SELECT * FROM rollup_store", "no relation"),
    ("SELECT * FROM tidegauge_1", "no relation 'tidegauge_1'"),
    ("SELECT * FROM cpu AT (VERSION => 1)", ""),
    ("SELECT * FROM (WITH secret AS (SELECT 1) SELECT * FROM secret) x, secret", "no relation 'secret'"),
    ("SHOW ALL TABLES", ""),
    ("SHOW DATABASES", "not supported"),
    ("SELECT * FROM (SHOW TABLES)", "not supported"),
    ("SELECT * FROM (DESCRIBE secret)", "no relation"),
    ("SELECT x::main.secret FROM cpu", ""),
    # text that is no statement
    ("", "empty statement"),
    ("-- nothing", "empty statement"),
    ("EXPLAIN", "empty statement"),
    ("EXPLAIN DROP TABLE cpu", "got DROP"),
    ("EXPLAIN SHOW TABLES", "EXPLAIN is followed by"),
    ("SELECT 1\0; DROP TABLE cpu", "NUL"),
    ("SELECT '\ud800'", "Unicode"),
    ("SELEC 1", "syntax error"),
    ("SELECT " + "NOT " * 5000 + "true", "cannot"),
    ("SELECT '" + "x" * (1 << 20) + "'", "at most 1048576"),
]


@pytest.mark.parametrize(("sql", "said"), ATTACKS, ids=[sql[:60] for sql, _ in ATTACKS])
def test_attack_is_refused(check, sql: str, said: str) -> None:
    with pytest.raises(BadQuery) as caught:
        check(sql)
    assert caught.value.message.startswith(("cannot run SQL: ", "cannot parse SQL: "))
    assert said in caught.value.message


LEGITIMATE = [
    "SELECT 1",
    "select 1;",
    "  -- a comment\n/* another */ SELECT 1 -- behind",
    "SELECT count(*) FROM cpu",
    "SELECT * FROM cpu LIMIT 10",
    "FROM cpu",
    "TABLE cpu",
    "FROM cpu SELECT host WHERE usage_user > 90",
    "SELECT * FROM CPU",
    'SELECT * FROM "cpu"',
    'SELECT count(*) FROM "nginx requests"',
    "SELECT host, avg(usage_user) FROM cpu WHERE time > now() - INTERVAL '1 hour' GROUP BY host ORDER BY 2 DESC",
    "SELECT time_bucket(INTERVAL '5 minutes', time) AS t, max(usage_user) FROM cpu GROUP BY ALL ORDER BY ALL",
    "SELECT date_trunc('hour', time), quantile_cont(usage_user, 0.99) FROM cpu GROUP BY 1",
    "SELECT host, approx_quantile(usage_user, [0.5, 0.9]) FROM cpu GROUP BY host HAVING count(*) > 10",
    "SELECT metric, count(*), min(value), max(value) FROM samples GROUP BY metric",
    "SELECT labels['host'] AS host, last(value ORDER BY time) FROM samples WHERE metric = 'cpu_usage_user' GROUP BY 1",
    "SELECT * FROM samples WHERE metric LIKE 'cpu_%' AND labels['host'] IN ('a', 'b') AND value IS NOT NULL",
    "SELECT *, value - lag(value) OVER (PARTITION BY series_id ORDER BY time) AS increase FROM samples",
    "SELECT host, increase(usage_user, time), rate(usage_user, time), delta(usage_user, time) FROM cpu GROUP BY host",
    "SELECT host, latest(usage_user, time), earliest(usage_user, time) FROM cpu GROUP BY host",
    "SELECT bucket, locf(busy, bucket), interpolate(busy, bucket) FROM time_bucket_gapfill(INTERVAL 5 MINUTES,"
    " now() - INTERVAL 1 HOUR, now()) LEFT JOIN (SELECT time_bucket(INTERVAL 5 MINUTES, time) AS bucket,"
    " avg(usage_user) AS busy FROM cpu GROUP BY 1) USING (bucket)",
    "SELECT metric, locf(value, time, series_id), interpolate(value, time, (series_id, metric)) FROM samples",
    "SELECT host, usage_user FROM cpu QUALIFY row_number() OVER (PARTITION BY host ORDER BY time DESC) = 1",
    "SELECT avg(usage_user) OVER w FROM cpu WINDOW w AS (PARTITION BY host ORDER BY time ROWS 5 PRECEDING)",
    "SELECT sum(x) OVER (ORDER BY x RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (SELECT 1 x)",
    "SELECT c.host, c.usage_user, m.used FROM cpu c JOIN mem m USING (host, time)",
    "SELECT * FROM cpu ASOF JOIN mem ON cpu.host = mem.host AND cpu.time >= mem.time",
    "SELECT * FROM cpu LEFT JOIN mem ON cpu.host = mem.host WHERE mem.host IS NULL",
    "SELECT host FROM cpu INTERSECT SELECT host FROM mem",
    "SELECT host FROM cpu UNION ALL BY NAME SELECT host FROM mem ORDER BY host LIMIT 5 OFFSET 2",
    "WITH hot AS (SELECT host FROM cpu WHERE usage_user > 90) SELECT host, count(*) FROM hot GROUP BY host",
    "WITH cpu AS (SELECT * FROM cpu WHERE host = 'a') SELECT count(*) FROM cpu",
    "WITH a AS (SELECT 1 x), b AS (SELECT x + 1 AS y FROM a) SELECT * FROM a, b",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t",
    "SELECT t.time, avg(usage_user) FROM generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-01-02',"
    " INTERVAL 1 HOUR) AS t(time) LEFT JOIN cpu ON cpu.time >= t.time GROUP BY 1",
    "SELECT i, i * i FROM range(100) r(i)",
    "SELECT unnest([1, 2, 3]), unnest(map_keys(labels)) FROM series",
    "SELECT host FROM cpu WHERE EXISTS (SELECT 1 FROM mem WHERE mem.host = cpu.host)",
    "SELECT (SELECT max(usage_user) FROM cpu) - (SELECT min(usage_user) FROM cpu)",
    "SELECT host, count(*) FILTER (WHERE usage_user > 90) / count(*) FROM cpu GROUP BY host",
    "SELECT CASE WHEN usage_user > 90 THEN 'hot' WHEN usage_user IS NULL THEN NULL ELSE 'fine' END FROM cpu",
    "SELECT host, string_agg(DISTINCT region, ',' ORDER BY region) FROM cpu GROUP BY host",
    "SELECT * EXCLUDE (host), COLUMNS('usage_.*') FROM cpu",
    "SELECT CAST(usage_user AS DECIMAL(18, 2)), TRY_CAST(host AS INTEGER), time::DATE FROM cpu",
    "SELECT regexp_extract(host, '([0-9]+)', 1)::INT, upper(host) || '!' FROM cpu WHERE host ILIKE 'web%'",
    "SELECT list_transform([1, 2], lambda x: x + 1), list_sum([1, 2]), [x * 2 FOR x IN [1, 2] IF x > 1]",
    "SELECT {'a': 1, 'b': [1, 2]}.b[1], MAP {'k': 1}['k'], struct_pack(a := 1)",
    "SELECT extract(hour FROM time), strftime(time, '%H:%M'), epoch_ns(time), dayname(time) FROM cpu",
    "SELECT current_timestamp, current_date, now(), today(), ago(INTERVAL 1 DAY)",
    "SELECT * FROM cpu WHERE time BETWEEN ? AND ? AND host = $3",
    "SELECT metric, sum, count FROM rollup_1h WHERE time >= '2026-01-01' AND metric = 'cpu_usage_user'",
    "SELECT measurement, count(*) FROM metrics GROUP BY ROLLUP (measurement)",
    "SELECT a.*, d.* FROM alerts a, decisions d WHERE a.time < d.time",
    "SELECT corr(usage_user, usage_system), regr_slope(usage_user, usage_system), stddev(usage_user) FROM cpu",
    "SELECT arg_max(host, usage_user), max_by(host, usage_user, 3), mode(host), median(usage_user) FROM cpu",
    "FROM (PIVOT cpu ON host IN ('a', 'b') USING avg(usage_user) GROUP BY region)",
    "FROM (UNPIVOT cpu ON usage_user, usage_system INTO NAME field VALUE value)",
    "SELECT * FROM cpu USING SAMPLE 10%",
    "VALUES (1, 'a'), (2, 'b')",
    "DESCRIBE cpu",
    "DESC cpu",
    "SHOW cpu",
    "DESCRIBE SELECT host FROM cpu",
    "SUMMARIZE cpu",
    "SUMMARIZE SELECT usage_user FROM cpu",
    "SHOW TABLES",
    "EXPLAIN SELECT * FROM cpu",
    "explain analyze select count(*) from cpu",
    "SELECT json_extract('{\"a\": 1}', '$.a'), to_json({'a': 1}), '{\"a\": 1}'::JSON ->> 'a'",
    "SELECT coalesce(host, 'x'), ifnull(host, 'x'), nullif(host, 'x'), greatest(1, 2), host COLLATE NOCASE FROM cpu",
    "SELECT host FROM cpu WHERE (host, region) IN (('a', 'b')) OR host = ANY (SELECT host FROM mem)",
    "SELECT TRY(1 / 0), 5 // 2, 5 % 2, 2 ** 3, ~1, 1 << 2, 'a' ^@ 'a', 'abc' SIMILAR TO 'a.*', 1 IS DISTINCT FROM 2",
    "SELECT grouping(host), host FROM cpu GROUP BY GROUPING SETS ((host), ())",
    "SELECT cpu FROM cpu",
    "SELECT #1 FROM (SELECT 1)",
]


@pytest.mark.parametrize("sql", LEGITIMATE, ids=[sql[:60] for sql in LEGITIMATE])
def test_what_analysts_write_is_accepted(check, sql: str) -> None:
    assert check(sql).kind in ("rows", "explain", "show_tables")


def test_lists_are_as_long_as_promised() -> None:
    assert len(ATTACKS) >= 60
    assert len(LEGITIMATE) >= 40


@pytest.mark.parametrize(
    ("sql", "references"),
    [
        ("SELECT * FROM cpu a, cpu b, mem", {"cpu": 2, "mem": 1}),
        ("WITH cpu AS (SELECT 1) SELECT * FROM cpu", {}),
        ("WITH cpu AS (SELECT * FROM cpu) SELECT * FROM cpu", {"cpu": 1}),
        ("SELECT * FROM (WITH cpu AS (SELECT 1) SELECT * FROM cpu), cpu", {"cpu": 1}),
        ("WITH RECURSIVE mem AS (SELECT 1 AS n UNION ALL SELECT n FROM mem) SELECT * FROM mem, cpu", {"cpu": 1}),
        ("WITH a AS (SELECT * FROM mem), mem AS (SELECT 1) SELECT * FROM a, mem", {"mem": 1}),
        ("DESCRIBE CPU", {"cpu": 1}),
        ("SHOW cpu", {"cpu": 1}),
        ("SELECT 1 WHERE 1 IN (SELECT 1 FROM Samples)", {"samples": 1}),
    ],
)
def test_references_are_the_relations_read(check, sql: str, references: dict[str, int]) -> None:
    assert check(sql).references == references


@pytest.mark.parametrize(
    ("sql", "mentions"),
    [
        ("SELECT Host FROM cpu WHERE usage_user > 1", {"host", "usage_user"}),
        ("SELECT count(*) FROM cpu", set()),
        ("SELECT c.host FROM cpu c", {"c", "host"}),
        ("SELECT 1 FROM cpu JOIN mem USING (host)", {"host"}),
        ("SELECT * FROM cpu", None),
        ("SELECT cpu.* FROM cpu", None),
        ("SELECT COLUMNS('u.*') FROM cpu", None),
        ("SELECT cpu FROM cpu", None),
        ("SELECT c FROM cpu AS c", None),
        ("SELECT a FROM cpu AS c(a)", None),
        ("SELECT #1 FROM cpu", None),
        ("SELECT 1 FROM cpu NATURAL JOIN mem", None),
        ("FROM (PIVOT cpu ON host IN ('a') USING avg(usage_user))", None),
        ("SUMMARIZE cpu", None),
    ],
)
def test_mentions_are_the_columns_that_can_matter(check, sql: str, mentions: set[str] | None) -> None:
    assert check(sql).mentions == mentions


def test_explain_keeps_its_word_and_the_statement(check) -> None:
    statement = check("/* plan */ EXPLAIN ANALYZE SELECT 1")
    assert (statement.kind, statement.text) == ("explain", "EXPLAIN ANALYZE  SELECT 1")


def test_position_counts_characters_not_bytes(check) -> None:
    with pytest.raises(BadQuery, match=r"function 'getenv' is not allowed \(at character 14\)"):
        check("SELECT 'äö', getenv('x')")


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ([1], "parameter 2 is list, want text"),
        ({"a": 1}, "parameter 2 is dict, want text"),
        (b"bytes", "parameter 2 is bytes, want text"),
        (1 << 63, "parameter 2 is 9223372036854775808, want at most 64 bits"),
        ("\ud800", "parameter 2 is not valid Unicode"),
    ],
)
def test_a_parameter_that_is_no_scalar_is_refused(parameter: object, said: str) -> None:
    check_text("SELECT ?", ["text", -(1 << 63), 1.5, True, None])
    with pytest.raises(BadQuery, match=said):
        check_text("SELECT ?, ?", [None, parameter])


def test_a_misspelt_relation_is_answered_with_the_near_one(check) -> None:
    with pytest.raises(BadQuery, match="did you mean 'samples'"):
        check("SELECT * FROM sample")


DOCUMENT = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()


def test_the_document_lists_the_functions_that_may_be_called() -> None:
    section = DOCUMENT.split("## Functions")[1].split("\n## ")[0]
    before, table = section.split("|---|---|")
    assert set(re.findall("`([a-z0-9_]+)`", table)) == FUNCTIONS - OPERATORS
    assert set(re.findall("`([a-z0-9_]+)`", before)) == TABLE_FUNCTIONS


def test_examples_of_the_document_may_run(check) -> None:
    blocks = re.findall("```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    statements = [each for block in blocks for each in block.split(";\n") if each.strip()]
    assert len(statements) > 8
    for statement in statements:
        assert check(statement).kind == "rows"


def test_every_function_of_the_list_is_one_of_duckdb_or_its_grammar_or_a_macro() -> None:
    with duckdb.connect() as connection:
        create_macros(connection)
        register_all(connection, SQL_EXTENSIONS)
        known = {
            fold(name) for (name,) in connection.execute("SELECT function_name FROM duckdb_functions()").fetchall()
        }
    # Spelt by the grammar, or new in DuckDB 2.0.
    grammar = {"!", "!=", "->", "<", "<=", "<>", "=", "==", ">", ">=", "__between", "coalesce", "current_time", "if"}
    grammar |= {"current_timestamp", "grouping", "grouping_id", "ifnull", "localtime", "localtimestamp", "try"}
    grammar |= {"lttb", "overlay", "width_bucket", "switch"}
    assert FUNCTIONS - known <= grammar
    assert known >= TABLE_FUNCTIONS
    assert PUSHABLE <= FUNCTIONS
    assert SIGNATURES.keys() <= FUNCTIONS | TABLE_FUNCTIONS


def test_no_function_that_reaches_out_of_the_statement_is_on_a_list() -> None:
    with duckdb.connect() as connection:
        known = {
            fold(name) for (name,) in connection.execute("SELECT function_name FROM duckdb_functions()").fetchall()
        }
    prefixes = (
        "read_",
        "duckdb_",
        "pragma_",
        "parquet_",
        "sniff",
        "pg_",
        "has_",
        "enable_",
        "disable_",
        "icu_",
        "__int",
    )
    words = (
        "setting",
        "secret",
        "query",
        "scan",
        "glob",
        "env",
        "variable",
        "seq",
        "checkpoint",
        "log_",
        "sleep",
        "state",
    )
    reaching = {name for name in known if name.startswith(prefixes) or any(word in name for word in words)}
    assert len(reaching) > 100
    allowed = {"pg_typeof", "pg_size_pretty", "list_unique", "array_unique", "parse_duckdb_log_message"}
    assert reaching & (FUNCTIONS | TABLE_FUNCTIONS) <= allowed


ERRORS = [
    (
        'Binder Error: Referenced column "c" not found in FROM clause!\nCandidate bindings: "a"',
        'cannot run SQL: Referenced column "c" not found in FROM clause! Candidate bindings: "a"',
    ),
    (
        "Conversion Error: Could not convert string 'x' to INT32\n\nLINE 2: FROM cpu\n             ^^^",
        "cannot run SQL: Could not convert string 'x' to INT32 (at character 15)",
    ),
    (
        "Conversion Error: Could not convert\n\nLINE 1: SELECT CAST(x)\n               ^",
        "cannot run SQL: Could not convert",
    ),
    (
        "Binder Error: No function matches '+(A, B)'.\n\tCandidate functions:\n\t+(TINYINT) -> TINYINT\n",
        "cannot run SQL: No function matches '+(A, B)'.",
    ),
    (
        "Binder Error: Cannot compare values of type TIMESTAMP_NS and type TIMESTAMP WITH TIME ZONE",
        "cannot run SQL: Cannot compare values of type TIMESTAMP_NS and type TIMESTAMP WITH TIME ZONE; the column time"
        " is a TIMESTAMP_NS in UTC: cast the other side to TIMESTAMP",
    ),
]


@pytest.mark.parametrize(("raised", "said"), ERRORS)
def test_errors_of_duckdb_become_one_sentence(raised: str, said: str) -> None:
    assert explain_error(duckdb.Error(raised), "SELECT x\nFROM cpu").message == said
