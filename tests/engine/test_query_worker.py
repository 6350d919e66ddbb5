"""The query process: started, asked, killed at the worst moment, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine import errors
from engine.config import Query
from engine.errors import BadQuery, Bug, Damage, QueryLimit, TidegaugeError, Unavailable
from engine.query import process, wire
from engine.query.deadlines import Deadlines
from engine.query.instances import reserved_bytes
from engine.query.link import LocalLink, ProcessLink, QueryLink
from engine.query.sources import Needed, NeededTable, SqlLimits, SqlRequest
from tests.engine.test_query_database import SECOND, T0, bucket_rows, cells, small_world, sources_of
from tests.engine.tier_pieces import piece_of
from tests.oracles.query import Row, World, run_plain

MEMORY = 256 << 20
SETTINGS = Query(memory=type(Query().memory)(MEMORY))
LONG = SqlLimits(timeout_seconds=600.0)
ENDLESS = "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(j) WHERE (i * j) % 7 = 3"


def new_link(path: Path | None, world: World, **options: Any) -> ProcessLink:
    where = None if path is None else str(path)
    return ProcessLink(where, SETTINGS, world.catalogue, pooled_tables=world.pooled, threads=1, **options)


@pytest.fixture(scope="module")
def world() -> World:
    return small_world()


@pytest.fixture
def link(tmp_path: Path, world: World) -> Iterator[ProcessLink]:
    link = new_link(tmp_path / "rollups.duckdb", world)
    yield link
    link.close()


@pytest.fixture(scope="module")
def calm(world: World) -> Iterator[ProcessLink]:
    """A link whose worker nobody harms."""
    link = new_link(None, world)
    yield link
    link.close()


@pytest.fixture
def calls() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or process does; the test's own time limit is the only one."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.002)


def rows_of(link: QueryLink, sql: str, **request: Any) -> list[dict[str, Any]]:
    return pa.ipc.open_stream(link.sql(SqlRequest(sql=sql, **request)).stream).read_all().to_pylist()


def flush_all(link: QueryLink, world: World, sequence: int) -> int:
    rows = bucket_rows(world, 60 * SECOND)
    integers = ("series_id", "time", "count", "first_time", "last_time")
    columns = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
    assert all(columns[name].type == pa.int64() for name in integers)
    pairs = sorted({(row["series_id"] >> 16, row["time"]) for row in rows})
    dirty = {
        "tagset_id": pa.array([tagset_id for tagset_id, _ in pairs], pa.int32()),
        "bucket": pa.array([bucket for _, bucket in pairs], pa.int64()),
    }
    link.flush_rollups([piece_of(pa.table(columns), pa.table(dirty))], sequence)
    return len(rows)


def pending(link: ProcessLink) -> int:
    current = link._supervisor._process
    return 0 if current is None else len(current.pending)


def running(link: ProcessLink) -> int:
    current = link._supervisor._process
    return 0 if current is None else sum(each.started for each in list(current.pending.values()))


def stop(link: ProcessLink) -> int:
    """Stop the worker, so that whatever is sent to it stays unanswered; return its process number."""
    link.watermark()
    assert link.pid is not None
    os.kill(link.pid, signal.SIGSTOP)
    return link.pid


# --- answers


def test_statements_give_what_they_give_in_process(calm: ProcessLink, world: World, tmp_path: Path) -> None:
    sources = sources_of(world, tmp_path)
    local = LocalLink(None, SETTINGS, world.catalogue, pooled_tables=world.pooled)
    plain = world.plain()
    try:
        for sql in (
            "SELECT host, sum(usage_user) FROM cpu WHERE region = 'eu' GROUP BY host",
            "SELECT metric, labels['host'], count(*) FROM samples GROUP BY ALL",
            "SELECT * FROM series",
        ):
            want = cells(run_plain(plain, sql))
            for each in (calm, local):
                answer = each.sql(SqlRequest(sql=sql, tables=sources))
                assert cells(pa.ipc.open_stream(answer.stream).read_all()) == want
            assert calm.needed(sql) == local.needed(sql)
    finally:
        plain.close()
        local.close()


def test_definitions_reach_the_worker_before_what_needs_them() -> None:
    world = World()
    link = new_link(None, world)
    try:
        for number in range(3):
            world.add([Row(f"table{number}", {"host": f"h{number}"}, number, {"v": float(number)})])
            needed = link.needed(f"SELECT * FROM table{number} WHERE host = 'h{number}'")
            want = NeededTable(table_id=number, name=f"table{number}", tagset_ids=(number,))
            assert needed == Needed(tables=(want,), plan=needed.plan)
        os.kill(link.pid or 0, signal.SIGKILL)
        assert len(rows_of(link, "SELECT * FROM metrics")) == 3
    finally:
        link.close()


def test_parameters_and_large_answers_pass_the_socket(calm: ProcessLink) -> None:
    assert rows_of(calm, "SELECT ? AS a, $2 AS b", parameters=["x", 5]) == [{"a": "x", "b": 5}]
    (row,) = rows_of(calm, "SELECT repeat('é', 3000000) AS text")
    assert row["text"] == "é" * 3_000_000


def test_what_cannot_be_sent_is_refused_here(calm: ProcessLink) -> None:
    for sql, parameters in (("SELECT '\ud800'", []), ("SELECT ?", [[1]]), ("SELECT ?", [1 << 70])):
        with pytest.raises(BadQuery):
            calm.needed(sql, parameters)
        with pytest.raises(BadQuery):
            calm.sql(SqlRequest(sql=sql, parameters=parameters))
    assert calm.counters().starts == 1


def test_many_statements_at_once(calm: ProcessLink, calls: ThreadPoolExecutor) -> None:
    found = calls.map(
        lambda number: rows_of(calm, f"SELECT {number} AS n, sum(i) AS s FROM range(1000) t(i)"), range(40)
    )
    assert [row["n"] for (row,) in found] == list(range(40))
    assert calm.counters().starts == 1


def world_tagsets(link: ProcessLink) -> int:
    return int(rows_of(link, "SELECT max(series_id >> 16) + 1 AS n FROM rollup_1m")[0]["n"])


def test_rollups_are_kept_over_a_kill(link: ProcessLink, world: World) -> None:
    count = flush_all(link, world, 7)
    for _ in range(2):
        assert link.watermark() == 7
        rows = link.rollup_rows("rollup_1m", T0 - 3_600 * SECOND, T0 + 3_600 * SECOND)
        assert rows.num_rows == count
        assert link.rollup_rows("rollup_1m", T0 - 3_600 * SECOND, T0 + 3_600 * SECOND, [65536]).num_rows < count
        assert rows_of(link, "SELECT count(*) AS n FROM rollup_1m") == [{"n": count}]
        os.kill(link.pid or 0, signal.SIGKILL)
    ids = np.arange(world_tagsets(link), dtype=np.int32)
    forgotten = link.forget_rollups("rollup_1m", 0, ids[:1], T0 + 86_400 * SECOND)
    deleted = link.delete_rollups(0, ids[1:], T0 - 3_600 * SECOND, T0 + 86_400 * SECOND)
    assert 0 < forgotten < count
    assert forgotten + deleted == count
    assert rows_of(link, "SELECT count(*) AS n FROM rollup_1m") == [{"n": 0}]
    # Forgetting is one tier's, deleting all tiers'.
    assert rows_of(link, "SELECT count(*) > 0 AS n FROM rollup_1d") == [{"n": True}]
    link.delete_rollups(0, ids, T0 - 86_400 * SECOND, T0 + 86_400 * SECOND)
    assert rows_of(link, "SELECT count(*) AS n FROM rollup_1d") == [{"n": 0}]
    flush_all(link, world, 8)
    assert link.retain({"rollup_1m": T0 + 86_400 * SECOND}) == count


@pytest.mark.parametrize(
    ("sql", "error", "said"),
    [
        ("DROP TABLE cpu", BadQuery, "only SELECT"),
        ("SELECT error('boom')", BadQuery, "boom"),
        ("SELECT * FROM range(5)", QueryLimit, "more than 3 rows"),
        ("SELECT * FROM alerts", Unavailable, "not available"),
    ],
)
def test_errors_are_those_of_the_other_side(
    calm: ProcessLink, sql: str, error: type[TidegaugeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        calm.sql(SqlRequest(sql=sql, limits=SqlLimits(max_rows=3)))


# --- the worker ends


def test_a_statement_whose_worker_is_killed_fails_and_the_next_one_runs(
    link: ProcessLink, calls: ThreadPoolExecutor
) -> None:
    statement = calls.submit(rows_of, link, ENDLESS, limits=LONG)
    until(lambda: running(link) == 1)
    os.kill(link.pid or 0, signal.SIGKILL)
    with pytest.raises(Unavailable, match=r"ended while the statement ran \(signal SIGKILL\)"):
        statement.result()
    assert rows_of(link, "SELECT 2 AS two") == [{"two": 2}]
    counters = link.counters()
    assert (counters.starts, counters.deaths, counters.kills, counters.repeated) == (2, 1, 0, 0)


def test_a_statement_that_had_not_started_is_repeated(link: ProcessLink, calls: ThreadPoolExecutor) -> None:
    pid = stop(link)
    statement = calls.submit(rows_of, link, "SELECT 1 AS one", limits=LONG)
    until(lambda: pending(link) == 1)
    os.kill(pid, signal.SIGKILL)
    assert statement.result() == [{"one": 1}]
    assert link.counters().repeated == 1


def test_of_several_running_statements_each_gets_one_more_chance(link: ProcessLink, calls: ThreadPoolExecutor) -> None:
    statements = [calls.submit(rows_of, link, ENDLESS, limits=LONG) for _ in range(2)]
    for deaths in range(1, 3):
        until(lambda: running(link) == 2)
        os.kill(link.pid or 0, signal.SIGKILL)
        until(lambda: link.counters().deaths == deaths)  # noqa: B023
    for statement in statements:
        with pytest.raises(Unavailable, match="ended 2 times during the call"):
            statement.result()
    assert link.counters().repeated == 2


def test_a_statement_that_cannot_be_interrupted_is_killed_and_others_are_repeated(
    world: World, calls: ThreadPoolExecutor
) -> None:
    link = new_link(None, world, grace_seconds=0.0)
    try:
        stop(link)
        others: list[Future[Any]] = [calls.submit(rows_of, link, f"SELECT {n} AS n", limits=LONG) for n in range(3)]
        until(lambda: pending(link) == 3)
        with pytest.raises(QueryLimit, match=r"longer than 0\.01 s and could not be interrupted"):
            rows_of(link, "SELECT 'guilty'", limits=SqlLimits(timeout_seconds=0.01))
        assert [other.result() for other in others] == [[{"n": n}] for n in range(3)]
        counters = link.counters()
        assert (counters.starts, counters.deaths, counters.kills, counters.repeated) == (2, 0, 1, 3)
    finally:
        link.close()


def test_rollup_work_is_repeated_after_a_kill(link: ProcessLink, world: World, calls: ThreadPoolExecutor) -> None:
    pid = stop(link)
    flush = calls.submit(flush_all, link, world, 3)
    until(lambda: pending(link) == 1)
    os.kill(pid, signal.SIGKILL)
    count = flush.result()
    assert link.watermark() == 3
    assert rows_of(link, "SELECT count(*) AS n FROM rollup_1m") == [{"n": count}]
    assert link.counters().repeated == 1


BOMBS = [
    "SELECT repeat('x', 2000000000)",
    "SELECT length(list_transform(range((SELECT 200000000)), lambda x: x + 1))",
    "SELECT list(i) FROM range((SELECT 300000000)) t(i)",
    "SELECT string_agg(repeat('x', 100000), '') FROM range(1000000)",
    "SELECT count(DISTINCT i) FROM range((SELECT 400000000)) t(i)",
    "WITH RECURSIVE t(x) AS (SELECT 'x' UNION ALL SELECT x || x FROM t) SELECT max(length(x)) FROM t",
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    "SELECT lpad('', 2000000000, 'x') || rpad('', 2000000000, 'x')",
    "SELECT count(*) FROM range(10000000) a, range(10000000) b, range(10000000) c",
]


def test_a_bomb_ends_within_its_limits(world: World, tmp_path: Path) -> None:
    link = new_link(tmp_path / "rollups.duckdb", world, grace_seconds=0.2)
    try:
        for sequence, sql in enumerate(BOMBS, start=1):
            with pytest.raises((QueryLimit, Unavailable)):
                link.sql(SqlRequest(sql=sql, limits=SqlLimits(timeout_seconds=1.0)))
            assert flush_all(link, world, sequence) > 0
            assert link.watermark() == sequence
            assert rows_of(link, "SELECT 1 AS one") == [{"one": 1}]
    finally:
        link.close()


def test_rollups_are_flushed_while_bombs_run(world: World, tmp_path: Path, calls: ThreadPoolExecutor) -> None:
    link = new_link(tmp_path / "rollups.duckdb", world, grace_seconds=0.2)
    try:
        bombs = [
            calls.submit(link.sql, SqlRequest(sql=sql, limits=SqlLimits(timeout_seconds=1.0))) for sql in BOMBS[1:6]
        ]
        for sequence in range(1, 6):
            flush_all(link, world, sequence)
            assert link.watermark() == sequence
        for bomb in bombs:
            assert isinstance(bomb.exception(), (QueryLimit, Unavailable))
    finally:
        link.close()


def test_a_worker_that_cannot_open_its_database_says_why(world: World, tmp_path: Path) -> None:
    path = tmp_path / "rollups.duckdb"
    link = new_link(path, world)
    try:
        assert link.watermark() == 0
    finally:
        link.close()
    # One that cannot be read would be set aside and made anew; a newer one is nobody's to touch.
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE rollup_store SET layout_version = 99")
    link = new_link(path, world)
    try:
        for _ in range(2):
            with pytest.raises(Damage, match="written by a newer version") as caught:
                link.watermark()
            assert caught.value.path == str(path)
        path.unlink()
        assert link.watermark() == 0
    finally:
        link.close()


@pytest.mark.parametrize(("program", "said"), [("/bin/false", "ended at once"), ("/nowhere/python", "cannot start")])
def test_a_worker_that_does_not_start_is_unavailable(
    world: World, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(process.sys, "executable", program)
    link = new_link(None, world)
    try:
        with pytest.raises(Unavailable, match=said):
            link.watermark()
        monkeypatch.undo()
        assert rows_of(link, "SELECT 1 AS one") == [{"one": 1}]
    finally:
        link.close()


# --- the process itself


def test_the_worker_has_limits_and_no_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    link = new_link(None, world)
    try:
        link.watermark()
        proc = Path(f"/proc/{link.pid}")
        limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()[1:]}
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
        virtual = int(status["VmSize"].split()[0]) * 1024
        assert link.pid is not None
        own = os.getpriority(os.PRIO_PROCESS, 0)
        for thread in (proc / "task").iterdir():
            assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) == min(19, own + SETTINGS.nice)
            assert os.sched_getscheduler(int(thread.name)) == os.SCHED_BATCH
        assert limits["Max core file size"] == "0"
        # The memory for statements, the instances' own and the margin on top of what the process has already.
        reserved = reserved_bytes(SETTINGS.concurrency, os.cpu_count() or 1)
        assert MEMORY < int(limits["Max address space"]) <= virtual + MEMORY + reserved + (1 << 30) + (64 << 20)
        assert status["NoNewPrivs"].strip() == "1"
        assert b"hunter2" not in (proc / "environ").read_bytes()
        assert (proc / "oom_score_adj").read_text().strip() == "500"
    finally:
        link.close()


def test_the_worker_leaves_signals_to_its_parent(calm: ProcessLink) -> None:
    calm.watermark()
    pid = calm.pid
    assert pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert rows_of(calm, "SELECT 1 AS one") == [{"one": 1}]
    assert calm.pid == pid


PARENT = """
import sys
from engine.config import Query
from engine.query.link import ProcessLink
from native.catalogue import Catalogue
link = ProcessLink(None, Query(), Catalogue(), threads=1)
link.watermark()
print(link.pid, flush=True)
sys.stdin.read()
"""


def test_the_worker_dies_with_its_parent() -> None:
    home = Path(engine.__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    heavy = ("pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "polars", "numba", "litestar", "pandas")
    code = f"import sys, engine.query.worker; print([name for name in {heavy!r} if name in sys.modules])"
    home = Path(engine.__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- closing


def test_closing_ends_the_process_and_the_calls(world: World, calls: ThreadPoolExecutor) -> None:
    link = new_link(None, world)
    link.watermark()
    pid = link.pid
    statement = calls.submit(rows_of, link, ENDLESS, limits=LONG)
    until(lambda: running(link) == 1)
    link.close()
    with pytest.raises(Unavailable, match="closed"):
        statement.result()
    assert pid is not None
    assert not is_alive(pid)
    link.close()
    with pytest.raises(Unavailable, match="closed"):
        link.sql(SqlRequest(sql="SELECT 1"))
    with pytest.raises(Unavailable, match="closed"):
        link.start()


def test_closing_what_was_never_started(world: World) -> None:
    link = new_link(None, world)
    link.close()
    assert link.counters().starts == 0
    started = new_link(None, world)
    started.start()
    started.close()


def test_a_local_link_is_closed_for_good(world: World) -> None:
    link = LocalLink(None, SETTINGS, world.catalogue)
    assert flush_all(link, world, 4) > 0
    assert link.watermark() == 4
    link.close()
    link.close()
    with pytest.raises(Unavailable, match="closed"):
        link.watermark()


# --- frames


def every_error() -> list[TidegaugeError]:
    plain = [errors.BadQuery, errors.QueryLimit, errors.Unavailable, errors.Bug, errors.NotFound, errors.DiskFull]
    found: list[TidegaugeError] = [kind("a sentence", details={"a": [1]}) for kind in plain]
    found.append(errors.QueueFull("full", retry_after_seconds=9))
    found.append(errors.BadConfig("bad", ["one", "two"]))
    found.append(errors.Damage("cannot read", path="/x", offset=5))
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_an_error_is_the_same_on_the_other_side(error: TidegaugeError) -> None:
    reply = wire.REPLIES.decode(wire.encode(wire.failed(3, error)))
    assert isinstance(reply, wire.Failed)
    again = wire.error_of(reply)
    assert type(again) is type(error)
    assert (again.message, again.details, str(again)) == (error.message, error.details, str(error))
    for name in ("retry_after_seconds", "path", "offset"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_an_error_of_unknown_code_is_a_bug() -> None:
    assert isinstance(wire.error_of(wire.Failed(1, "from the future", "x")), Bug)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.binary(max_size=70_000)), max_size=4), st.data())
def test_frames_come_out_as_they_went_in(frames: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for message, attachment in frames:
            at = data.draw(st.integers(0, len(attachment)))
            wire.send(ours, message, attachment[:at], attachment[at:])
        ours.close()
        assert [wire.receive(theirs, bytearray) for _ in frames] == [
            (bytearray(one), bytearray(two)) for one, two in frames
        ]
        assert wire.receive(theirs, bytearray) is None


@pytest.mark.parametrize("kept", range(1, 20))
def test_a_frame_that_ends_early_is_no_frame(kept: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            whole = b"\x05\0\0\0\x07\0\0\0" + b"hello" + b"goodbye"
            assert len(whole) == 20
            ours.sendall(whole[:kept])
        assert wire.receive(theirs, bytearray) is None


# --- deadlines


class Interrupted:
    def __init__(self) -> None:
        self.times = 0

    def interrupt(self) -> None:
        self.times += 1


def test_a_statement_is_interrupted_until_it_ends() -> None:
    deadlines = Deadlines()
    late, early = Interrupted(), Interrupted()
    with deadlines.watch(early, 3_600.0) as other:
        with deadlines.watch(late, 0.0) as watch:
            until(lambda: late.times >= 3)
            assert watch.expired
        times = late.times
        assert (early.times, other.expired) == (0, False)
        deadlines.expire_all()
        until(lambda: early.times >= 1)
        assert other.expired
    assert late.times == times
    deadlines.close()


def test_functions_over_series_are_the_same_in_the_locked_process(calm: ProcessLink, world: World) -> None:
    given = "(SELECT now() + to_seconds(i) AS t, [1.0, 4.0, 2.0, NULL, 6.0][i] AS v FROM range(1, 6) r(i))"
    assert rows_of(calm, f"SELECT increase(v, t) a, rate(v, t) b, delta(v, t) c, latest(v, t) d FROM {given}") == [
        {"a": 9.0, "b": 2.25, "c": 5.0, "d": 6.0}
    ]
    assert rows_of(calm, f"SELECT locf(v, t) a, interpolate(v, t) b FROM {given} ORDER BY t LIMIT 1 OFFSET 3") == [
        {"a": 2.0, "b": 4.0}
    ]
    buckets = "SELECT count(*) AS n FROM time_bucket_gapfill(INTERVAL '5 minutes', '2026-01-01', '2026-01-02')"
    assert rows_of(calm, buckets) == [{"n": 288}]
    answer = calm.sql(SqlRequest(sql="SELECT sum(count) FROM rollup_1h"))
    assert (answer.rows_read, answer.files) == (0, 0)
