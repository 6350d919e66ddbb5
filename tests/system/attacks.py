"""Attacks on SQL, to be added to: what must be refused, in which disguises, and what asks for too much."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tests.engine.test_query_validation import ATTACKS

#: What must not appear in any answer; it is in the server's environment.
CANARY = "canary-7f3a91"
#: Refused by the parser or by the walk over its tree: 400 ``bad_query``.
FORBIDDEN = [
    sql
    for sql, said in ATTACKS
    # Nothing at all is no attack: behind another statement it may stand.
    if said != "empty statement" and "\0" not in sql and "\ud800" not in sql and len(sql) < 10_000
] + [
    f"SELECT getenv('{name}')" for name in ("TIDEGAUGE_CANARY", "HOME", "PATH")
] + [
    "SELECT * FROM read_text('{data}/control.sqlite')",
    "SELECT * FROM '{data}/catalog.log'",
    "COPY (SELECT 1) TO '{data}/written.csv'",
    "COPY (SELECT 1) TO '/proc/self/mem'",
    "EXPORT DATABASE '{data}/written'",
    "ATTACH '{data}/rollups.duckdb' AS mine",
    "WITH x AS MATERIALIZED (COPY (SELECT 1) TO '{data}/written.csv') SELECT * FROM x",
    "WITH RECURSIVE x AS (SELECT 1 UNION ALL (COPY (SELECT 1) TO '{data}/written.csv')) SELECT * FROM x",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{data}/written.csv''')",
    "SELECT * FROM query_table(['cpu', 'mem'])",
    "SELECT * FROM duckdb_settings() WHERE name LIKE '%path%'",
    "SELECT * FROM pragma_database_list()",
    "SELECT current_database(), current_schema(), current_user, current_query()",
    "PREPARE p AS COPY (SELECT 1) TO '{data}/written.csv'",
    "EXECUTE p",
    "DEALLOCATE p",
    "CALL query('SELECT 1')",
    "SET threads = 1000",
    "SET SESSION enable_external_access = true",
    "RESET ALL",
    "PRAGMA memory_limit = '100GB'",
    "LOAD httpfs",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1/'",
    "UPDATE EXTENSIONS",
    "COMMENT ON TABLE cpu IS 'x'",
    "MERGE INTO cpu USING mem ON true WHEN MATCHED THEN DELETE",
    "DESCRIBE read_csv('{data}/control.sqlite')",
    "SUMMARIZE SELECT * FROM read_blob('{data}/*')",
    "SELECT read_text('{data}/control.sqlite')",
    "SELECT content FROM cpu, LATERAL read_text('{data}/control.sqlite')",
    "SELECT * FROM cpu POSITIONAL JOIN glob('/*')",
    "SELECT * FROM cpu ASOF JOIN '{data}/x.parquet' x ON cpu.time >= x.time",
    "FROM cpu SELECT COLUMNS(lambda c: getenv(c) = '')",
    "SELECT list_reduce([1, 2], lambda x, y: getenv('HOME'))",
    "SELECT apply([1], lambda x: current_setting('threads'))",
    "SELECT json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM sql_auto_complete('SEL')",
    "SELECT * FROM test_all_types()",
    "SELECT * FROM icu_calendar_names()",
    "SELECT * FROM storage_info('cpu')",
    "SELECT * FROM pragma_storage_info('cpu')",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_memory()",
    "SELECT * FROM summary((SELECT * FROM glob('/*')))",
    "VALUES (getenv('HOME'))",
    "TABLE duckdb_settings",
    "SELECT CAST('x' AS rollups.main.t)",
    "SELECT pg_get_viewdef(1), pg_get_expr('x', 1)",
    "SELECT in_search_path('a', 'b')",
]  # fmt: skip

# --- disguises: whatever is refused is refused in each of them

_WORD = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[A-Za-z_]+|\s+|.""", re.DOTALL)


def _pieces(sql: str) -> list[str]:
    return _WORD.findall(sql)


def _mixed_case(sql: str, chance: random.Random) -> str:
    return "".join(
        "".join(chance.choice((letter.upper(), letter.lower())) for letter in piece)
        if piece[0].isalpha() and piece[0] not in "'\""
        else piece
        for piece in _pieces(sql)
    )


def _blanks(*blanks: str) -> Callable[[str, random.Random], str]:
    def disguise(sql: str, chance: random.Random) -> str:
        return "".join(chance.choice(blanks) if piece.isspace() else piece for piece in _pieces(sql))

    return disguise


def _around(before: str, after: str = "") -> Callable[[str, random.Random], str]:
    return lambda sql, _: before + sql.rstrip("; ") + after


DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "as it is": lambda sql, _: sql,
    "mixed case": _mixed_case,
    "comments for blanks": _blanks("/**/", "/* SELECT 1 */", " /* ; */ ", " -- x\n"),
    "odd blanks": _blanks("\t", "\n", "\r\n", "\f", "\v", "\u00a0", "\u2003", " \u3000 "),
    "behind a comment": _around("/* nothing\n * to see */ -- here\n"),
    "behind a semicolon": _around(";;; "),
    "in front of a semicolon": _around("", ";"),
    "behind a SELECT": _around("SELECT 1; "),
    "in front of a SELECT": _around("", "; SELECT 1"),
    "explained": _around("EXPLAIN "),
    "analysed": _around("EXPLAIN ANALYZE "),
    "as a subquery": _around("SELECT * FROM (", ") AS t"),
    "as a value": _around("SELECT (", ")"),
    "in a WITH": _around("WITH z AS (", ") SELECT * FROM z"),
    "in a WITH that is not used": _around("WITH z AS (", ") SELECT 1"),
    "in a WITH in a subquery": _around("SELECT * FROM (WITH z AS (", ") SELECT 1 AS one) AS t"),
    "in a union": _around("SELECT 1 UNION ALL (", ")"),
    "in a condition": _around("SELECT 1 WHERE EXISTS (", ")"),
    "in a lambda": _around("SELECT list_transform([1], lambda x: (", "))"),
    "in a limit": _around("SELECT 1 LIMIT (", ")"),
    "summarised": _around("SUMMARIZE "),
    "described": _around("DESCRIBE "),
    "behind a byte order mark": _around("\ufeff"),
    "prepared": _around("PREPARE p AS "),
    "thirty deep": _around("SELECT * FROM (" * 30, ")" * 30),
}

# --- statements that ask for too much: they end within the limits, or fit into them

BOMBS = [
    # memory
    "SELECT repeat('x', 2000000000)",
    "SELECT length(repeat(repeat('x', 100000), 100000))",
    "SELECT lpad('', 2000000000, 'x') || rpad('', 2000000000, 'x')",
    "SELECT printf('%1000000000d', 1)",
    "SELECT format('{:1000000000}', 1)",
    "SELECT bar(1, 0, 1, 1000000000)",
    "SELECT list_resize([1], 2000000000)",
    "SELECT string_agg(repeat('x', 100000), '') FROM range(1000000)",
    "SELECT array_agg(i) FROM range(10000000) a(i), range(1000) b",
    "SELECT list_transform(range(10000000), lambda x: repeat('x', 1000))",
    "SELECT list_transform(range(100000), lambda x: list_transform(range(100000), lambda y: x * y))",
    "SELECT range(i * 1000000000) FROM range(1, 10) r(i)",
    "SELECT count(*) FROM range(10) a(i), LATERAL (SELECT unnest(range(i * 1000000000))) t",
    "SELECT generate_series(0, i * 1000000000000) FROM range(1, 3) r(i)",
    "SELECT map_from_entries(list_transform(range(10000000), lambda x: (x, repeat('y', 100))))",
    "SELECT histogram(repeat('x', 10000) || i) FROM range(1000000) r(i)",
    "SELECT DISTINCT repeat('x', 1000) || i FROM range(10000000) r(i)",
    "SELECT i, repeat('x', 1000) AS t FROM range(10000000) r(i) ORDER BY t || i DESC",
    "SELECT json_group_array(repeat('x', 10000)) FROM range(1000000)",
    "SELECT json_pretty(repeat('[', 1000000))",
    "SELECT flatten(list_transform(range(10000), lambda x: range(100000)))",
    "SELECT list_sort(list_transform(range(10000000), lambda x: random()))",
    "SELECT to_base64(encode(repeat('x', 1000000000)))",
    "SELECT url_encode(repeat('%', 1000000000))",
    "SELECT array_to_string(list_transform(range(10000000), lambda x: repeat('x', 100)), ',')",
    # time
    "SELECT count(*) FROM range(10000000) a, range(10000000) b, range(10000000) c",
    "SELECT count(*) FROM cpu a, cpu b, cpu c, cpu d, cpu e, cpu f, cpu g, cpu h, cpu i, cpu j",
    "SELECT max(a.i ^ b.i) FROM range(10000000) a(i), range(10000000) b(i)",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM t) SELECT max(length(x)) FROM t",
    "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x FROM t, range(10)) SELECT count(*) FROM t",
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    "SELECT damerau_levenshtein(repeat('ab', 50000), repeat('ba', 50000))",
    "SELECT sum(levenshtein(repeat('a', 2000), repeat('b', 2000) || i)) FROM range(1000000) r(i)",
    "SELECT jaro_winkler_similarity(repeat('ab', 500000), repeat('ba', 500000))",
    "SELECT regexp_matches(repeat('a', 1000000), '(a*)*(a*)*(a*)*b')",
    "SELECT regexp_replace(repeat('a', 10000000), '(.{1,500}){1,2}x?', 'y', 'g')",
    "SELECT regexp_matches('a', '((((((a{1,30}){1,30}){1,30}){1,30}){1,30}){1,30}')",
    "SELECT count(*) FROM range(1000000) r(i) WHERE regexp_matches(repeat('ab', 10000) || i, '(ab)*(a|b)*c')",
    "SELECT sum(i) OVER (ORDER BY random() ROWS BETWEEN 900000 PRECEDING AND CURRENT ROW) FROM range(5000000) r(i)",
    "SELECT median(i) OVER (ORDER BY i ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW) FROM range(5000000) r(i)",
    "SELECT quantile_cont(random(), 0.5) OVER (ROWS BETWEEN 50000 PRECEDING AND CURRENT ROW) FROM range(5000000)",
    "SELECT list_reduce(range(10000000), lambda x, y: x + y)",
    "SELECT count(DISTINCT md5(i::VARCHAR || j::VARCHAR)) FROM range(100000) a(i), range(100000) b(j)",
    "SELECT factorial(33)::DOUBLE ^ factorial(20)",
    "SELECT count(*) FROM time_bucket_gapfill(INTERVAL '1 microsecond', now() - INTERVAL '1 year', now())",
    "SELECT forecast(i, make_timestamp_ns(i * 60000000000), 100000000) FROM range(1000) r(i)",
    "SELECT forecast(i, make_timestamp_ns(i * 60000000000), 90, 1000000) FROM range(2000000) r(i)",
    "SELECT forecast(i, make_timestamp_ns(i * 60000000000), 90) FROM range(100000) r(i) GROUP BY i // 5",
    "SELECT anomaly_score(i, make_timestamp_ns(i * 60000000000)) FROM range(5000000) r(i)",
    "SELECT anomaly_score(i, make_timestamp_ns(i * 60000000000)) FROM range(400000) r(i) GROUP BY i // 3",
    # size of the answer
    "SELECT i, repeat('x', 1000) FROM range(10000000) r(i)",
    "SELECT * FROM range(9999999)",
    "SELECT repeat('x', 7000000) FROM range(2)",
    # shape
    "SELECT " + ", ".join(["1"] * 100_000),
    "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(50_000)),
    "SELECT " + "+".join(["1"] * 100_000),
    "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
    "SELECT * FROM cpu WHERE host IN (" + ", ".join(f"'{i}'" for i in range(90_000)) + ")",
    "SELECT " + "[" * 900 + "1" + "]" * 900,
    " UNION ALL ".join(["SELECT 1"] * 20_000),
    "SELECT * FROM " + ", ".join(f"range(10) t{i}" for i in range(60)),
    "SELECT CASE " + " ".join(f"WHEN 1 = {i} THEN {i}" for i in range(1, 20_000)) + " END",
    "WITH " + ", ".join(f"t{i} AS (SELECT * FROM {f't{i - 1} a, t{i - 1} b' if i else 'range(10)'})" for i in range(20))
    + " SELECT count(*) FROM t19",
]  # fmt: skip


def disguised(seed: int, count: int, data: str) -> list[tuple[str, str]]:
    """Return (disguise, statement) of forbidden statements: some of all there are, the same for the same seed."""
    chance = random.Random(seed)
    all_of_them = [(name, sql) for name in DISGUISES for sql in FORBIDDEN]
    chosen = all_of_them if count >= len(all_of_them) else chance.sample(all_of_them, count)
    return [(name, DISGUISES[name](sql.replace("{data}", data), chance)) for name, sql in chosen]
