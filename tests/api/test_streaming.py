"""Large answers: sent as they come, held up by their reader, ended with it; never a part that looks like a whole."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import api.sql
from api.app import Application
from api.client import Client, SqlTable, _table_of
from api.intake import ABORT_KEY
from engine import errors
from engine.catalog.callers import EVERYONE
from engine.collect.transport import CutOff, Response
from engine.config import Config, Query
from engine.config_units import ByteSize, Duration
from engine.query.deadlines import Stop
from engine.query.parts import PART_BYTES, WINDOW_BYTES
from engine.query.results import render
from engine.runtime import Engine

ENDLESS = "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(j) WHERE (i * j) % 7 = 3"
#: 40,000 rows of every kind of cell, which is more than the window between the processes holds.
ROWS = 40_000
LARGE = (
    f"SELECT i, i / 7 AS x, 'text ' || i AS t, make_timestamp_ns(1700000000000000000 + i * 1000000000) AS at,"
    " CASE WHEN i % 3 = 0 THEN NULL ELSE i::DECIMAL(18, 3) END AS d, [i, NULL] AS l, MAP {'k': i} AS m,"
    f" i % 2 = 0 AS b, INTERVAL (i) SECOND AS v, repeat('-', 40) AS pad FROM range({ROWS}) r(i)"
)
FORMS = {
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}


def configuration(**changes: Any) -> Config:
    settings: dict[str, Any] = {"concurrency": 1, "memory": ByteSize(256 << 20), "timeout": Duration.parse("10m")}
    return Config(query=Query(**(settings | changes)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.open(str(tmp_path_factory.mktemp("stream") / "data"), configuration()) as opened:
        opened.submit_lines(b"cpu,host=a busy=1").result()
        yield opened


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer beyond one batch is sent as it comes."""
    monkeypatch.setattr(api.sql, "WHOLE_BYTES", 1)


class Conversation:
    """One request to the application, whose client reads when it is told to."""

    def __init__(self, application: Application, statement: str, form: str = "json") -> None:
        self._application = application
        body = json.dumps({"sql": statement}).encode()
        self._waiting = [{"type": "http.request", "body": body, "more_body": False}]
        self.scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/v1/sql", "raw_path": b"/v1/sql", "root_path": "", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"accept", FORMS[form].encode()),
                        (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8433), "state": {}, ABORT_KEY: self._abort,
        }  # fmt: skip
        self.gone = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.began = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = self.aborted = False

    def _abort(self) -> None:
        self.aborted = True
        self.gone.set()
        self.reads.set()

    async def _receive(self) -> dict[str, Any]:
        if self._waiting:
            return self._waiting.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
            self.began.set()

    async def run(self) -> Conversation:
        await self._application(self.scope, self._receive, self._send)
        return self


def ask(engine: Engine, statement: str, form: str = "json") -> Conversation:
    async def main() -> Conversation:
        return await Conversation(Application(engine, engine.config), statement, form).run()

    return asyncio.run(main())


def about(told: Any) -> dict[str, Any]:
    """Return what an answer says about itself, without what differs from run to run."""
    return {name: value for name, value in told.items() if name not in ("elapsed_seconds", "fresh_to")}


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("form", FORMS)
def test_a_large_answer_is_the_whole_one(engine: Engine, form: str) -> None:
    whole = engine.sql(LARGE)
    found = ask(engine, LARGE, form)
    assert (found.status, found.complete, found.headers["x-tidegauge-streamed"]) == (200, True, "true")
    raw = bytes(found.body)
    expected = {"rows": ROWS, "tables": [], "tier": None, "files": 0, "rows_read": 0}
    if form == "arrow":
        table = _table_of(raw)
        assert table.equals(whole.table)
        assert about(SqlTable(table).metadata) == expected
    elif form == "parquet":
        file = pq.ParquetFile(pa.BufferReader(raw))
        assert file.read().equals(pq.read_table(pa.BufferReader(render(whole.table, form, {}))))
        assert about(json.loads(file.metadata.metadata[b"tidegauge"])) == expected
    elif form == "csv":
        rows = list(csv.reader(io.StringIO(raw.decode())))
        want = list(csv.reader(io.StringIO(render(whole.table, form, {}).decode())))
        at = want[0].index("at")
        assert [row[:at] + row[at + 1 :] for row in rows] == [row[:at] + row[at + 1 :] for row in want]
        assert [row[at] for row in rows[1:]] == [row[at].replace("Z", ".000000000Z") for row in want[1:]]
    else:
        told, want = json.loads(raw), json.loads(render(whole.table, form, {}))
        at = [column["name"] for column in want["columns"]].index("at")
        for row in want["rows"]:
            row[at] = row[at].replace("Z", ".000000000Z")
        assert told["columns"] == want["columns"]
        assert told["rows"] == want["rows"]
        assert told["row_count"] == ROWS
        assert about({name: told[name] for name in (*expected, "elapsed_seconds") if name != "rows"}) == {
            name: value for name, value in expected.items() if name != "rows"
        }


@pytest.mark.parametrize("form", FORMS)
def test_a_small_answer_has_its_length_and_all_headers(engine: Engine, form: str) -> None:
    found = ask(engine, "SELECT * FROM cpu", form)
    assert int(found.headers["content-length"]) == len(found.body)
    assert (found.headers["x-tidegauge-rows"], found.headers["x-tidegauge-rows-read"]) == ("1", "1")
    assert "x-tidegauge-streamed" not in found.headers


def test_errors_before_the_first_rows_are_answers(engine: Engine) -> None:
    for statement, status in (
        ("SELECT nothing", 400),
        ("SELECT 1 / (i - 200000) FROM range(10) r(i) WHERE error('x')", 400),
    ):
        assert ask(engine, statement).status == status
    assert ask(engine, "SELECT 1").status == 200


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_breaks_off_is_not_whole_and_says_why(tmp_path: Path, form: str) -> None:
    # The limit is met in the third batch.
    limited = configuration(max_rows=150_000)
    with Engine.open(str(tmp_path / "data"), limited) as engine:
        found = ask(engine, "SELECT i, repeat('x', 100) AS t FROM range(200000) r(i)", form)
        assert (found.status, found.complete) == (200, False)
        if form == "json":
            assert '"message":"cannot run SQL: the answer has more than 150000 rows' in found.body.decode()
            with pytest.raises(json.JSONDecodeError):
                json.loads(found.body)
        if form == "arrow":

            class Cut:
                def request(self, *_: Any) -> Response:
                    raise CutOff("cut", bytes(found.body))

                def close(self) -> None: ...

            with pytest.raises(errors.QueryLimit, match="the answer has more than"):
                Client(Cut(), "http://x").sql("SELECT 1")
        # Its turn is free.
        assert ask(engine, "SELECT 1").status == 200


def counted(engine: Engine, outcome: str) -> float:
    found = engine.vitals.registry.get_sample_value("tidegauge_queries_total", {"path": "sql", "outcome": outcome})
    return found or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until something holds; the test's own time limit is the only one."""
    while not condition():
        await asyncio.sleep(0.002)


@asynccontextmanager
async def talking(
    engine: Engine, statement: str, form: str = "json"
) -> AsyncIterator[tuple[Conversation, asyncio.Task[Any]]]:
    conversation = Conversation(Application(engine, engine.config), statement, form)
    task = asyncio.create_task(conversation.run())
    try:
        yield conversation, task
    finally:
        conversation.gone.set()
        conversation.reads.set()
        await asyncio.wait([task])


def statements(engine: Engine) -> int:
    process = engine.link._supervisor._process  # type: ignore[attr-defined]
    return sum(each.started for each in list(process.pending.values()))


@pytest.mark.usefixtures("streamed")
def test_rows_as_objects_are_streamed_too(engine: Engine) -> None:
    statement = f"SELECT i, 'text' AS t FROM range({ROWS}) r(i)"

    async def main() -> Conversation:
        conversation = Conversation(Application(engine, engine.config), statement)
        conversation.scope["query_string"] = b"shape=rows"
        return await conversation.run()

    found = asyncio.run(main())
    assert found.headers["x-tidegauge-streamed"] == "true"
    assert json.loads(found.body) == [{"i": i, "t": "text"} for i in range(ROWS)]


def test_a_client_that_goes_away_ends_its_statement(engine: Engine) -> None:
    before, kills = counted(engine, "cancelled"), engine.link.counters().kills

    async def main() -> None:
        async with talking(engine, ENDLESS) as (conversation, task):
            await until(lambda: statements(engine) == 1)
            conversation.gone.set()
            await task
        # There is one turn: the next one gets it.
        async with talking(engine, "SELECT 1") as (after, task):
            await task
            assert after.status == 200

    asyncio.run(main())
    assert counted(engine, "cancelled") == before + 1
    assert (statements(engine), engine.link.counters().kills) == (0, kills)


def test_a_client_that_goes_away_leaves_the_queue(engine: Engine) -> None:
    async def main() -> None:
        async with talking(engine, ENDLESS) as (first, running):
            await until(lambda: statements(engine) == 1)
            async with talking(engine, "SELECT 1") as (second, waiting):
                await until(lambda: engine.sql_turns._waiting == 1)
                second.gone.set()
                await waiting
                assert engine.sql_turns._waiting == 0
            first.gone.set()
            await running

    asyncio.run(main())


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("form", FORMS)
def test_a_client_that_goes_away_in_the_middle_ends_its_statement(engine: Engine, form: str) -> None:
    async def main() -> None:
        async with talking(engine, LARGE.replace(f"range({ROWS})", "range(900000)"), form) as (conversation, task):
            await conversation.began.wait()
            conversation.reads.clear()
            await until(lambda: statements(engine) == 1)
            conversation.gone.set()
            conversation.reads.set()
            await task
            assert not conversation.complete
        async with talking(engine, "SELECT 1") as (after, task):
            await task
            assert after.status == 200

    asyncio.run(main())
    assert statements(engine) == 0


@pytest.mark.usefixtures("streamed")
def test_a_reader_that_stops_holds_the_statement_and_is_cut_off(tmp_path: Path) -> None:
    with Engine.open(str(tmp_path / "data"), configuration(reader_patience=Duration.parse("100ms"))) as engine:

        async def main() -> None:
            async with talking(engine, LARGE, "arrow") as (conversation, task):
                await conversation.began.wait()
                conversation.reads.clear()
                await task
                assert conversation.aborted
                assert not conversation.complete
            async with talking(engine, "SELECT 1") as (after, task):
                await task
                assert after.status == 200

        asyncio.run(main())
        assert statements(engine) == 0


def test_the_window_bounds_what_is_on_its_way(engine: Engine) -> None:
    stop = Stop()
    wide = "SELECT i, repeat('x', 1000) AS t FROM range(200000) r(i)"
    with engine.stream_sql(wide, [], EVERYONE, stop) as stream:
        arriving = stream._parts
        pending = arriving._pending  # type: ignore[attr-defined]
        queue = pending.parts
        pause = threading.Event()

        # The worker goes on until the window is full and then waits: what lies here exceeds it by a part at most.
        while queue.qsize() * PART_BYTES < WINDOW_BYTES // 4:
            pause.wait(0.002)
        assert not pending.done.is_set()
        rows = 0
        for batch in stream.batches():
            rows += batch.num_rows
            assert queue.qsize() <= WINDOW_BYTES // PART_BYTES + 1
        assert rows == 200_000
        assert stream.metadata["rows"] == 200_000


@pytest.mark.usefixtures("streamed")
def test_a_query_process_that_ends_in_the_middle_is_told(tmp_path: Path) -> None:
    with Engine.open(str(tmp_path / "data"), configuration()) as engine:

        async def main() -> Conversation:
            async with talking(engine, LARGE.replace(f"range({ROWS})", "range(900000)")) as (conversation, task):
                await conversation.began.wait()
                conversation.reads.clear()
                os.kill(engine.link.pid or 0, signal.SIGKILL)  # type: ignore[attr-defined]
                await until(lambda: engine.link.counters().deaths == 1)
                conversation.reads.set()
                await task
                return conversation

        found = asyncio.run(main())
        assert not found.complete
        assert b'"error":"unavailable"' in found.body
        assert ask(engine, "SELECT 1").status == 200
