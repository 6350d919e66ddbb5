"""What SQL reads: a question about one host and one hour touches little of the store, and the answer says how much."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.runtime import Engine
from engine.segments.layout import ROW_GROUP_ROWS
from tests.engine.test_query_database import Rig, small_world

NOW_NS = 1_700_000_000_000_000_000 // NS_PER_HOUR * NS_PER_HOUR  # 2023-11-14 22:00
HOSTS, HOURS = 120, 72
PER_HOUR = 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """120 hosts, a sample a minute for three days, sealed: 518,400 rows in files of a day."""
    config = Config(retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True))
    path = str(tmp_path_factory.mktemp("store"))
    with Engine.open(path, config, clock=ManualClock(NOW_NS)) as engine:
        for hour in range(HOURS):
            start = NOW_NS - (HOURS - hour) * NS_PER_HOUR
            lines = [
                f"cpu,host=h{host},region={'eu' if host % 2 else 'us'} busy={(host * 7 + minute) % 100} "
                f"{start + minute * NS_PER_MINUTE}"
                for host in range(HOSTS)
                for minute in range(PER_HOUR)
            ]
            engine.submit_lines("\n".join(lines).encode()).result(30)
    with Engine.open(path, config, clock=ManualClock(NOW_NS)) as engine:
        yield engine


HOUR = "time >= '2023-11-13T05:00:00Z' AND time < '2023-11-13T06:00:00Z'"
RAW = [
    (f"SELECT count(*) FROM cpu WHERE host = 'h119' AND {HOUR}", ()),
    (f"SELECT count(busy) FROM cpu WHERE host IN ('h119') AND {HOUR}", ()),
    ("SELECT count(*) FROM cpu WHERE host = $1 AND time >= $2 AND time < $3",
     ("h119", "2023-11-13 05:00", "2023-11-13 06:00")),
    (f"SELECT count(*) FROM samples WHERE metric = 'cpu_busy' AND labels['host'] = 'h119' AND {HOUR}", ()),
    (f"SELECT count(*) FROM samples s JOIN series r USING (series_id) WHERE r.labels['host'] = 'h119' AND s.{HOUR}",
     ()),
    (
        "SELECT count(*) FROM series r JOIN samples s ON s.series_id = r.series_id"
        f" WHERE r.labels['host'] = $1 AND r.metric = 'cpu_busy' AND s.{HOUR}",
        ("h119",),
    ),
    (
        "SELECT count(*) FROM samples WHERE series_id IN"
        f" (SELECT series_id FROM series WHERE labels['host'] = 'h119' AND metric = 'cpu_busy') AND {HOUR}",
        (),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "parameters"), RAW, ids=[str(number) for number in range(len(RAW))])
def test_a_question_about_one_host_and_one_hour_reads_little(
    engine: Engine, sql: str, parameters: tuple[str, ...]
) -> None:
    sql = sql.replace("s." + HOUR, HOUR.replace("time", "s.time"))
    everything = engine.sql("SELECT count(*) FROM cpu")
    assert everything.metadata["rows_read"] == everything.table.column(0)[0].as_py() == HOSTS * HOURS * PER_HOUR
    answer = engine.sql(sql, parameters)
    assert answer.table.column(0)[0].as_py() == PER_HOUR
    said = answer.metadata
    assert (said["tier"], said["files"]) == ("raw", 1)
    # Row groups are the smallest thing that is read; one holds the hour of the host.
    assert PER_HOUR <= said["rows_read"] <= min(ROW_GROUP_ROWS, everything.metadata["rows_read"] // 4)
    assert said["fresh_to"] == NOW_NS - NS_PER_MINUTE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(count) FROM rollup_1m WHERE metric = 'cpu_busy' AND labels['host'] = 'h119' AND {hour}",
        "SELECT sum(count) FROM rollup_1m JOIN series s USING (series_id) WHERE s.labels['host'] = 'h119' AND {hour}",
        "SELECT sum(count) FROM rollup_1m WHERE {hour} AND series_id IN"
        " (SELECT series_id FROM series WHERE labels['host'] = 'h119')",
    ],
)
def test_tiers_are_read_by_the_bucket(engine: Engine, sql: str) -> None:
    hour = HOUR.replace("time", "rollup_1m.time")
    answer = engine.sql(sql.format(hour=hour))
    assert answer.table.column(0)[0].as_py() == PER_HOUR
    assert (answer.metadata["tier"], answer.metadata["rows_read"]) == ("rollup_1m", PER_HOUR)
    assert answer.metadata["files"] >= 1
    assert answer.metadata["fresh_to"] == NOW_NS - NS_PER_MINUTE


def test_what_reads_no_samples_says_so(engine: Engine) -> None:
    said = engine.sql("SELECT count(*) FROM series").metadata
    assert (said["tier"], said["files"], said["rows_read"], said["fresh_to"]) == (None, 0, 0, None)
    nothing = engine.sql("SELECT count(*) FROM cpu WHERE host = 'nobody'").metadata
    assert (nothing["tier"], nothing["files"], nothing["rows_read"]) == ("raw", 0, 0)


# --- what is narrowed through series gives the same answers, and what cannot be is left alone

LINKED = [
    ("SELECT s.time, s.value FROM samples s JOIN series r USING (series_id) WHERE r.labels['host'] = 'h1'", True),
    ("SELECT value FROM samples s, series r WHERE s.series_id = r.series_id AND r.metric = 'cpu_load'", True),
    ("SELECT value FROM samples s JOIN series r ON r.series_id = s.series_id AND r.field = 'load'"
     " WHERE r.labels['region'] = 'eu'", True),
    ("SELECT value FROM samples WHERE series_id IN (SELECT series_id FROM series WHERE labels['host'] = 'h1')", True),
    ("SELECT value FROM samples s WHERE s.series_id IN (SELECT r.series_id FROM series r WHERE r.metric = 'up')", True),
    ("SELECT value FROM samples s LEFT JOIN series r ON r.series_id = s.series_id AND r.metric = 'up'"
     " WHERE r.metric IS NULL OR r.metric = 'up'", False),
    ("SELECT value, r.metric FROM samples s LEFT JOIN series r USING (series_id) WHERE r.metric = 'cpu_load'", False),
    ("SELECT value FROM samples s RIGHT JOIN series r USING (series_id) WHERE r.metric = 'cpu_load'", False),
    ("SELECT value FROM samples WHERE series_id NOT IN (SELECT series_id FROM series WHERE metric = 'up')", False),
    ("SELECT value FROM samples WHERE series_id > 5 OR series_id IN (SELECT series_id FROM series WHERE metric = 'up')",
     False),
    ("SELECT value FROM samples WHERE series_id IN (SELECT series_id + 1 FROM series WHERE metric = 'cpu_load')",
     False),
    ("SELECT value FROM samples s JOIN series r ON s.series_id = r.series_id + 1 WHERE r.metric = 'cpu_load'", False),
    ("SELECT s.value FROM samples s JOIN series r ON s.metric = r.metric WHERE r.metric = 'cpu_load'", False),
    ("SELECT value FROM samples WHERE series_id IN (SELECT series_id FROM series WHERE metric = 'up'"
     " UNION ALL SELECT series_id FROM series WHERE metric = 'cpu_load')", False),
    ("WITH series AS (SELECT 0::BIGINT AS series_id, 'x' AS metric) SELECT value FROM samples s JOIN series r"
     " USING (series_id) WHERE r.metric = 'x'", False),
    ("SELECT a.value FROM samples a JOIN series r USING (series_id) JOIN samples b USING (series_id, time)"
     " WHERE r.metric = 'cpu_load'", False),
]  # fmt: skip


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(small_world(), tmp_path_factory.mktemp("linked"))
    yield rig
    rig.close()


@pytest.mark.parametrize(("sql", "narrowed"), LINKED, ids=[str(number) for number in range(len(LINKED))])
def test_links_with_series_change_no_answer(rig: Rig, sql: str, narrowed: bool) -> None:
    rig.check(sql)
    whole = {table.name: table.tagset_ids for table in rig.database.needed_relations("SELECT * FROM samples").tables}
    needed = {table.name: table.tagset_ids for table in rig.database.needed_relations(sql).tables}
    assert (needed != whole) == narrowed


def test_a_series_may_be_named_by_a_parameter(rig: Rig) -> None:
    series_id = rig.run("SELECT max(series_id) FROM series WHERE metric = 'mem_used'").column(0)[0].as_py()
    sql = "SELECT value FROM samples WHERE series_id IN ($1, $2)"
    rig.check(sql, [series_id, 3])
    listed = {t.name: t.tagset_ids for t in rig.database.needed_relations(sql, [series_id, 3]).tables}
    assert listed["mem"] == (series_id >> 16,)
    # Text is no series number; DuckDB casts it, and so nothing is known ahead.
    rig.check(sql, [str(series_id), 3])
