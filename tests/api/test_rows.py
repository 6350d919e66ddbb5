"""``GET /v1/rows``: each form of an answer beside the SQL that means the same, whole and in pieces."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import api.sql
from api.app import Application
from api.client import Client
from api.embedded import Embedded
from engine.clock import NS_PER_SECOND, ManualClock
from engine.collect.transport import Response
from engine.config import Config, Query
from engine.errors import BadRequest, NotFound
from engine.runtime import Engine
from tests.api.test_error_shape import Caller

NOW_NS = 1_700_000_000 * NS_PER_SECOND
ARROW = "application/vnd.apache.arrow.stream"
#: Rows of three hours, shuffled: late ones, repeated ones, and such as come in two parts.
STEPS, HOSTS = 300, 7


def lines() -> list[list[str]]:
    """Return batches of lines."""
    draw = random.Random(7)
    every = []
    for step in range(STEPS):
        for host in range(HOSTS):
            head = f"cpu,host=h{host}" + (",rack=r1" if host == 3 else "")
            time_ns = NOW_NS - (STEPS - step) * 36 * NS_PER_SECOND
            fields = [f"user={draw.randint(0, 100)}", f"system={draw.random() * 50:.2f}", f"idle={draw.random()}"]
            part = draw.choice([1, 2, 3, 3])
            every.append(f"{head} {','.join(fields[:part])} {time_ns}")
            if part < 3 and draw.random() < 0.7:
                every.append(f"{head} {','.join(fields[part:])} {time_ns}")
            if draw.random() < 0.1:
                every.append(f"{head} user={draw.randint(0, 100)} {time_ns}")
    some = every[: len(every) * 2 // 3]
    draw.shuffle(some)
    rest = every[len(every) * 2 // 3 :] + draw.sample(some, 50)
    # The order of columns is that of first sight.
    some.insert(0, f"cpu,host=h0 user=1,system=1,idle=1 {NOW_NS - 3 * 3_600 * NS_PER_SECOND}")
    return [some, rest[:-50], rest[-50:]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    config = Config(query=Query(in_process=True))
    with Engine.open(str(tmp_path_factory.mktemp("rows") / "data"), config, clock=ManualClock(NOW_NS)) as opened:
        first, second, third = lines()
        opened.submit_lines("\n".join(first).encode()).result()
        opened.sealer.seal()
        for batch in (second, third):
            opened.submit_lines("\n".join(batch).encode()).result()
        assert opened.samples.segments()
        assert opened.hot.held_rows()
        yield opened


@pytest.fixture(scope="module")
def call(engine: Engine) -> Caller:
    return Caller(Application(engine, engine.config))


def target(**parameters: Any) -> str:
    return f"/v1/rows?{urlencode({'table': 'cpu', 'start': '-4h'} | parameters)}"


def asked(call: Caller, accept: str = ARROW, **parameters: Any) -> tuple[dict[str, str], bytes]:
    status, headers, body = call("GET", target(**parameters), b"", {"Accept": accept})
    assert status == 200, body
    return headers, body


def table_of(body: bytes) -> pa.Table:
    with pa.ipc.open_stream(body) as reader:
        return reader.read_all()


QUESTIONS = [
    ({}, "SELECT * FROM cpu"),
    ({"where": "user>90"}, "SELECT * FROM cpu WHERE user > 90"),
    ({"where": "user>=50,system<25.5,idle!=0", "fields": "idle,user"},
     "SELECT time, host, rack, idle, user FROM cpu WHERE user >= 50 AND system < 25.5 AND idle <> 0"),
    ({"match": 'host="h3"', "tags": "rack", "where": "user<=10"}, "SELECT time, rack, user, system, idle FROM cpu"
     " WHERE host = 'h3' AND user <= 10"),
    ({"match": 'host=~"h1|h5",rack=""', "start": "-2h", "end": "-30m", "tags": ""},
     f"SELECT time, user, system, idle FROM cpu WHERE host IN ('h1', 'h5')"
     f" AND epoch_ns(time) >= {NOW_NS - 7_200 * NS_PER_SECOND} AND epoch_ns(time) < {NOW_NS - 1_800 * NS_PER_SECOND}"),
    ({"last": "row"}, "SELECT DISTINCT ON (host) * FROM cpu ORDER BY host, time DESC"),
    ({"last": "values"}, "SELECT max(time) AS time, host, any_value(rack) AS rack, arg_max(user, time) AS user,"
     " arg_max(system, time) AS system, arg_max(idle, time) AS idle FROM cpu GROUP BY host"),
    ({"last": "1", "where": "user=42", "fields": "user"},
     "SELECT DISTINCT ON (host) time, host, rack, user FROM cpu WHERE user = 42 ORDER BY host, time DESC"),
    ({"last": "row", "end": "-1h", "match": 'host!="h0"'}, "SELECT DISTINCT ON (host) * FROM cpu WHERE host <> 'h0'"
     f" AND epoch_ns(time) < {NOW_NS - 3_600 * NS_PER_SECOND} ORDER BY host, time DESC"),
]  # fmt: skip


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("parameters", "statement"), QUESTIONS)
def test_rows_are_those_of_sql(
    engine: Engine, call: Caller, parameters: dict[str, str], statement: str, pieces: bool, monkeypatch: Any
) -> None:
    if pieces:
        monkeypatch.setattr(api.sql, "WHOLE_BYTES", 0)
    headers, body = asked(call, **parameters)
    found, wanted = table_of(body), engine.sql(statement).table
    assert found.schema.names == wanted.schema.names
    assert found.schema.field("time").type == wanted.schema.field("time").type
    assert sorted(map(repr, found.to_pylist())) == sorted(map(repr, wanted.to_pylist()))
    assert found.num_rows
    assert ("x-tidegauge-streamed" in headers) == pieces


@pytest.mark.parametrize("pieces", [False, True])
def test_each_form_has_the_same_rows(call: Caller, pieces: bool, monkeypatch: Any) -> None:
    if pieces:
        monkeypatch.setattr(api.sql, "WHOLE_BYTES", 0)
    parameters = {"where": "user>80", "order": "-time", "fields": "user,system"}
    _, body = asked(call, **parameters)
    rows = table_of(body).to_pylist()
    assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
    _, body = asked(call, "application/json", **parameters)
    answer = json.loads(body)
    assert [each["name"] for each in answer["columns"]] == ["time", "host", "rack", "user", "system"]
    assert [each["type"] for each in answer["columns"]] == ["TIMESTAMP_NS", "VARCHAR", "VARCHAR", "DOUBLE", "DOUBLE"]
    assert [row[1:] for row in answer["rows"]] == [list(row.values())[1:] for row in rows]
    assert [row[0][:19] for row in answer["rows"]] == [f"{row['time']:%Y-%m-%dT%H:%M:%S}" for row in rows]
    _, body = asked(call, "application/json", shape="rows", **parameters)
    assert [{**each, "time": None} for each in json.loads(body)] == [{**row, "time": None} for row in rows]
    _, body = asked(call, "text/csv", **parameters)
    read = list(csv.reader(io.StringIO(body.decode())))
    assert read[0] == ["time", "host", "rack", "user", "system"]
    assert [(row[1], row[2], float(row[3])) for row in read[1:]] == [
        (row["host"], row["rack"] or "", row["user"]) for row in rows
    ]
    _, body = asked(call, "application/vnd.apache.parquet", **parameters)
    stored = pq.read_table(pa.BufferReader(body)).to_pylist()
    assert [{**row, "time": None} for row in stored] == [{**row, "time": None} for row in rows]


def test_an_answer_says_where_it_comes_from(engine: Engine, call: Caller) -> None:
    headers, body = asked(call, "application/json", limit=5, order="-time")
    answer = json.loads(body)
    assert (answer["row_count"], answer["rows_read"] > 0, answer["tier"], answer["tables"]) == (5, True, "raw", ["cpu"])
    assert (answer["truncated"], headers["x-tidegauge-truncated"]) == (True, "true")
    assert answer["fresh_to"] == engine.samples.newest_time_ns(0) == int(headers["x-tidegauge-fresh-to"])
    _, body = asked(call, "application/json", where="user>1000")
    answer = json.loads(body)
    assert (answer["rows"], answer["truncated"]) == ([], False)
    assert answer["reason"].startswith("there is no row of 'cpu' that satisfies user>1000 from 2023-11-14")


def test_without_times_it_is_the_last_hour_or_with_last_all_of_time(call: Caller) -> None:
    status, _, body = call("GET", "/v1/rows?table=cpu&order=time", b"", {"Accept": ARROW})
    assert status == 200
    times = table_of(body).column("time").cast("int64").to_pylist()
    assert times[0] == NOW_NS - 3_600 * NS_PER_SECOND
    status, _, body = call("GET", "/v1/rows?table=cpu&last=1", b"", {"Accept": ARROW})
    assert table_of(body).num_rows == HOSTS


def test_metrics_count_it_as_its_own_path(engine: Engine, call: Caller) -> None:
    def answered() -> float:
        return float(engine.vitals.queries.labels("rows", "answered")._value.get())

    before = answered()
    asked(call)
    assert answered() == before + 1


def test_python_asks_the_same(engine: Engine, call: Caller) -> None:
    class Wire:
        """Hands the requests of a client to the application."""

        def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
            status, told, answer = call(method, path, body or b"", dict(headers))
            return Response(status, told, answer)

    client = Client(cast("Any", Wire()), "http://server")
    embedded = Embedded.__new__(Embedded)
    embedded.engine = engine
    questions: list[dict[str, Any]] = [
        {"start": "-2h", "fields": ["idle"], "tags": [], "where": "user>50", "order": "time"},
        {"match": {"host": "h1"}, "last": "row"},
        {"start": NOW_NS - 600 * NS_PER_SECOND, "end": "now", "order": "-time", "limit": 7},
    ]
    for question in questions:
        told, same = client.rows("cpu", **question), embedded.rows("cpu", **question)
        assert told.rows() == same.rows()
        assert told.columns == same.columns
        assert told.metadata["truncated"] == same.metadata["truncated"] == ("limit" in question)
        assert len(told)
    for ask in (client.rows, embedded.rows):
        with pytest.raises(NotFound, match="no table 'gpu'"):
            ask("gpu")
        with pytest.raises(BadRequest, match="got last='first', want 'row' or 'values'"):
            ask("cpu", last="first")
