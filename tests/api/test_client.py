"""The client against a server in the test: what it sends, what it makes of answers, which errors it raises."""

from __future__ import annotations

import datetime
import importlib.util
import json
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest

import tidegauge
from api.client import ARROW_STREAM, Client, SqlTable, arrow_stream, connect, json_batch
from api.errors import TooLarge, Unauthorized, UnsupportedMedia
from engine import errors
from tests.recording_server import Answer, RecordingServer, Seen

SERIES = {"series_id": 65536, "metric": "cpu_usage_percent", "labels": {"host": "a"}}


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def asked(answer: Answer, ask: Callable[[Client], Any], *, token: str | None = None) -> tuple[Any, Seen]:
    """Return what a call gives when the server answers so, and the request it made."""
    with RecordingServer(lambda _: answer) as server, connect(server.url, token=token) as client:
        result = ask(client)
    (seen,) = server.seen
    return result, seen


def test_line_protocol_travels_as_it_is() -> None:
    stored = Answer(204, headers={"X-Tidegauge-Rows": "2", "X-Tidegauge-Sequence": "9", "X-Tidegauge-Rounded": "1"})
    result, seen = asked(stored, lambda client: client.write("a b=1\na b=2\n", precision="s"), token="t0")
    assert (seen.method, seen.path, seen.body) == ("POST", "/write?precision=s", b"a b=1\na b=2\n")
    assert seen.headers["authorization"] == "Bearer t0"
    assert (result.rows, result.sequence, result.rounded, result.refused, result.refusals) == (2, 9, 1, {}, ())
    assert asked(stored, lambda client: client.write(b"a b=1\n"))[1].body == b"a b=1\n"


def test_samples_travel_as_a_json_batch() -> None:
    time = datetime.datetime(2026, 1, 2, 3, 4, 5, 600_000, datetime.UTC)
    samples = [
        {"table": "cpu", "tags": {"host": "a"}, "time": 17, "fields": {"usage_user": 1.5}},
        {"table": "cpu", "time": time, "fields": {"up": True}},
    ]
    _, seen = asked(Answer(204), lambda client: client.write(samples))
    assert (seen.path, seen.headers["content-type"]) == ("/v1/ingest", "application/json")
    assert json.loads(seen.body) == {"samples": [samples[0], {**samples[1], "time": "2026-01-02T03:04:05.600000Z"}]}
    with pytest.raises(errors.BadRequest, match="cannot write samples"):
        json_batch([{"table": object()}])


TABLE = pa.table({"time": pa.array([1, 2], pa.timestamp("ns", "UTC")), "host": ["a", "b"], "usage": [1.5, None]})


@pytest.mark.parametrize(
    "data", [TABLE, TABLE.to_batches()[0], polars.from_arrow(TABLE)], ids=["table", "batch", "polars"]
)
def test_columns_travel_as_one_arrow_stream(data: Any) -> None:
    _, seen = asked(Answer(204), lambda client: client.write(data, table="cpu"))
    assert (seen.path, seen.headers["content-type"]) == ("/v1/ingest", ARROW_STREAM)
    with pa.ipc.open_stream(seen.body) as reader:
        received = reader.read_all()
    assert received.schema.metadata[b"tidegauge.table"] == b"cpu"
    frame = polars.from_arrow(received)
    assert isinstance(frame, polars.DataFrame)
    assert frame.equals(polars.from_arrow(TABLE))  # type: ignore[arg-type]


def test_arrow_data_keeps_the_table_it_names() -> None:
    named = TABLE.replace_schema_metadata({"tidegauge.table": "disk", "other": "x"})
    with pa.ipc.open_stream(arrow_stream(named)) as reader:
        assert reader.schema.metadata == {b"tidegauge.table": b"disk", b"other": b"x"}
    with pa.ipc.open_stream(arrow_stream(named, "cpu")) as reader:
        assert reader.schema.metadata == {b"tidegauge.table": b"cpu", b"other": b"x"}


PARTIAL_LINES = json_answer(
    {
        "error": "partial write of line protocol occurred",
        "code": "invalid",
        "message": "line 2: no field (1 rows stored; refused: 1 malformed)",
        "data": [{"original_line": "x", "line_number": 2, "error_message": "line 2: no field", "cause": "malformed"}],
        "stored_rows": 1,
        "refused": {"malformed": 1},
    },
    400,
    X_Tidegauge_Rows="1",
    X_Tidegauge_Sequence="4",
)
PARTIAL_BATCH = json_answer(
    {
        "error": "partial_write",
        "message": "stored 1 rows; refused: 2 too_old",
        "details": {
            "stored_rows": 1,
            "stored_samples": 6,
            "refused": {"too_old": 2},
            "refusals": [{"position": 3, "cause": "too_old", "message": "m"}],
        },
    },
    400,
    X_Tidegauge_Rows="1",
)


def test_a_partial_write_is_a_result_with_its_refusals() -> None:
    result, _ = asked(PARTIAL_LINES, lambda client: client.write("a b=1\nx\n"))
    assert (result.rows, result.sequence, result.refused, result.refused_count) == (1, 4, {"malformed": 1}, 1)
    (refusal,) = result.refusals
    assert (refusal.position, refusal.cause, refusal.message, refusal.original) == (
        2,
        "malformed",
        "line 2: no field",
        "x",
    )
    result, _ = asked(PARTIAL_BATCH, lambda client: client.write([{}]))
    assert (result.rows, result.samples, result.refused) == (1, 6, {"too_old": 2})
    assert [refusal.position for refusal in result.refusals] == [3]


@pytest.mark.parametrize("answer", [PARTIAL_LINES, PARTIAL_BATCH], ids=["lines", "batch"])
def test_strict_turns_a_partial_write_into_an_error(answer: Answer) -> None:
    with pytest.raises(errors.BadRequest, match="refused: ") as caught:
        asked(answer, lambda client: client.write("a", strict=True))
    assert caught.value.details["refused"]


def test_a_write_of_which_nothing_was_stored_is_an_error() -> None:
    answer = json_answer(
        {"error": "nothing_stored", "message": "stored 0 rows", "details": {"refused": {"malformed": 1}}}, 400
    )
    with pytest.raises(errors.BadRequest, match="stored 0 rows"):
        asked(answer, lambda client: client.write([{}]))


def stream_of(table: pa.Table) -> Answer:
    return Answer(200, arrow_stream(table))


def test_sql_gives_an_arrow_table() -> None:
    answer, seen = asked(stream_of(TABLE), lambda client: client.sql("SELECT * FROM cpu WHERE host = ?", "a"))
    assert json.loads(seen.body) == {"sql": "SELECT * FROM cpu WHERE host = ?", "parameters": ["a"]}
    assert (seen.path, seen.headers["accept"]) == ("/v1/sql", ARROW_STREAM)
    assert isinstance(answer, SqlTable)
    assert answer.arrow.equals(TABLE)
    assert (answer.columns, len(answer)) == (["time", "host", "usage"], 2)
    assert answer["host"].to_pylist() == ["a", "b"]
    assert list(answer) == [{"time": 1, "host": "a", "usage": 1.5}, {"time": 2, "host": "b", "usage": None}]
    assert answer.to_polars().equals(polars.from_arrow(TABLE))
    assert repr(answer) == "SqlTable(2 rows: time, host, usage)"


def test_sql_gives_batches_as_they_come() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"n": list(range(10))})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    answers = [Answer(200, sink.getvalue().to_pybytes()), json_answer({"metrics": ["a"]})]
    with RecordingServer(lambda _: answers.pop(0)) as server, connect(server.url) as client:
        with client.sql_stream("SELECT ?", 1) as answer:
            assert answer.schema == table.schema
            assert [batch.num_rows for batch in answer] == [4, 4, 2]
        assert client.metric_names() == ["a"]
    assert json.loads(server.seen[0].body) == {"sql": "SELECT ?", "parameters": [1]}


def test_a_stream_that_is_left_early_costs_only_its_connection() -> None:
    answers = [Answer(200, arrow_stream(TABLE)), Answer(200, arrow_stream(TABLE))]
    with RecordingServer(lambda _: answers.pop(0)) as server, connect(server.url) as client:
        with client.sql_stream("SELECT 1"):
            pass
        assert client.sql("SELECT 1").arrow.equals(TABLE)


def test_a_stream_that_ends_early_or_never_begins_raises() -> None:
    cut = arrow_stream(TABLE)[:-40]
    refused = json_answer({"error": "bad_query", "message": "cannot run SQL: no", "details": None}, 400)
    for answer, kind, sentence in (
        (Answer(200, cut), errors.Unavailable, "ended early|cannot read the answer"),
        (Answer(200, b"<html>"), errors.Unavailable, "cannot read the answer"),
        (refused, errors.BadQuery, "cannot run SQL: no"),
    ):
        with (
            RecordingServer(lambda _, answer=answer: answer) as server,
            connect(server.url) as client,
            pytest.raises(kind, match=sentence),
            client.sql_stream("SELECT 1") as stream,
        ):
            list(stream)
    with pytest.raises(errors.Unavailable, match="cannot reach"), connect("http://127.0.0.1:1").sql_stream("SELECT 1"):
        pass


TYPED = pa.table(
    {
        "time": pa.array([1, None], pa.timestamp("ns")),
        "host": ["a", None],
        "v": pa.array([1.5, None], pa.float64()),
        "n": pa.array([2**53 + 1, 3], pa.int64()),
        "labels": pa.array([[("host", "a")], []], pa.map_(pa.string(), pa.string())),
    }
)


def test_types_of_answers_arrive_in_polars() -> None:
    frame = asked(stream_of(TYPED), lambda client: client.sql("SELECT 1"))[0].to_polars()
    assert frame["time"].dtype == polars.Datetime("ns")
    assert frame["time"].cast(polars.Int64).to_list() == [1, None]
    assert frame.drop("time", "labels").rows() == [("a", 1.5, 2**53 + 1), (None, None, 3)]
    # Newer versions of polars have maps.
    assert frame["labels"].to_list() in ([{"host": "a"}, {}], [[{"key": "host", "value": "a"}], []])


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed here")
def test_types_of_answers_arrive_in_pandas() -> None:
    frame = asked(stream_of(TYPED), lambda client: client.sql("SELECT 1"))[0].to_pandas()
    assert str(frame["time"].dtype) == "datetime64[ns]"
    assert frame["time"].isna().tolist() == [False, True]
    assert frame["time"][0].value == 1
    assert frame["n"].tolist() == [2**53 + 1, 3]
    assert frame["labels"].tolist() == [[("host", "a")], []]


@pytest.mark.skipif(importlib.util.find_spec("pandas") is not None, reason="pandas is installed here")
def test_a_pandas_frame_needs_pandas() -> None:
    table = SqlTable(pa.table({"a": [1]}))
    with pytest.raises(errors.Unavailable, match="pandas is not installed"):
        table.to_pandas()


def test_an_answer_that_is_no_arrow_is_unavailable() -> None:
    with pytest.raises(errors.Unavailable, match="cannot read the answer"):
        asked(Answer(200, b"<html>"), lambda client: client.sql("SELECT 1"))
    with pytest.raises(errors.BadRequest, match="parameters"):
        asked(Answer(200), lambda client: client.sql("SELECT ?", object()))


QUERY = {
    "metric": "cpu_usage_percent",
    "aggregate": "avg",
    "step_seconds": 60.0,
    "tier": "raw",
    "rows_read": 12,
    "fresh_to": 120_000_000_000,
    "series_total": 1,
    "truncated": False,
    "series": [{"labels": {"host": "a"}, "times": [0, 60_000_000_000], "values": [1.5, None]}],
}


def test_query_gives_aligned_series() -> None:
    def ask(client: Client) -> Any:
        return client.query(
            "cpu_usage_percent",
            match={"host": 'a"b\\', "region": "eu"},
            start=1_700_000_000_000_000_007,
            end=datetime.datetime(2026, 1, 2),
            by=["host", "region"],
        )

    answer, seen = asked(json_answer(QUERY), ask)
    assert seen.path == (
        "/v1/query?metric=cpu_usage_percent&match=host%3D%22a%5C%22b%5C%5C%22%2Cregion%3D%22eu%22"
        "&start=2023-11-14T22%3A13%3A20.000000007Z&end=2026-01-02T00%3A00%3A00%2B00%3A00&step=1m&agg=avg"
        "&by=host%2Cregion"
    )
    assert (answer.tier, answer.step_ns, answer.rows_read, answer.fresh_to_ns) == ("raw", 60 * 10**9, 12, 120 * 10**9)
    (series,) = answer.series
    assert series.labels == {"host": "a"}
    assert series.times.tolist() == [0, 60_000_000_000]
    np.testing.assert_array_equal(series.values, [1.5, np.nan])


def test_an_answer_cut_short_is_an_error_not_a_short_answer() -> None:
    cut = {**QUERY, "truncated": True, "series_total": 20_000}
    with pytest.raises(errors.QueryLimit, match="got 20000 series, want at most 1"):
        asked(json_answer(cut), lambda client: client.query("m"))
    with pytest.raises(errors.QueryLimit, match="got more than 1"):
        asked(json_answer({"series": [SERIES], "truncated": True}), lambda client: client.series())


def test_the_other_verbs() -> None:
    listed, seen = asked(
        json_answer({"series": [SERIES], "truncated": False}), lambda client: client.series('host="a"', metric="m")
    )
    assert (listed, seen.path) == ([SERIES], "/v1/series?match=host%3D%22a%22&limit=10000&metric=m")
    alerts, seen = asked(json_answer({"alerts": [{"id": 1}]}), lambda client: client.alerts(state="all"))
    assert (alerts, seen.path) == ([{"id": 1}], "/v1/alerts?state=all")
    decision, seen = asked(json_answer({"desired": 3}), lambda client: client.scale("a/b"))
    assert (decision, seen.path) == ({"desired": 3}, "/v1/scale/a%2Fb")
    names, seen = asked(json_answer({"metrics": ["m"]}), lambda client: client.metric_names())
    assert (names, seen.path) == (["m"], "/v1/metrics-names")
    assert asked(Answer(200, b"{}"), lambda client: client.ready())[0] is True
    assert asked(Answer(503, b"{}"), lambda client: client.ready())[0] is False


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_query", errors.BadQuery),
        (400, "bad_request", errors.BadRequest),
        (400, "something new", errors.BadRequest),
        (401, "unauthorized", Unauthorized),
        (403, "forbidden", errors.Forbidden),
        (404, "not_found", errors.NotFound),
        (404, "", errors.NotFound),
        (413, "too_large", TooLarge),
        (415, "unsupported_media_type", UnsupportedMedia),
        (422, "query_limit", errors.QueryLimit),
        (429, "queue_full", errors.QueueFull),
        (429, "", errors.Overload),
        (500, "damage", errors.TidegaugeError),
        (500, "internal", errors.TidegaugeError),
        (503, "disk_full", errors.DiskFull),
        (503, "recovering", errors.Recovering),
        (503, "unavailable", errors.Unavailable),
        (503, "", errors.Overload),
    ],
)
def test_errors_are_those_the_server_raised(status: int, code: str, kind: type[errors.TidegaugeError]) -> None:
    answer = json_answer({"error": code, "message": "the reason", "details": [1]}, status, Retry_After="7")
    with pytest.raises(errors.TidegaugeError) as caught:
        asked(answer, lambda client: client.sql("SELECT 1"))
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.details) == ("the reason", [1])
    if kind in (errors.QueueFull, errors.DiskFull, errors.Recovering, errors.Overload):
        assert isinstance(caught.value, errors.Overload)
        assert caught.value.retry_after_seconds == 7
    with pytest.raises(kind):
        asked(answer, lambda client: client.write("x"))


@pytest.mark.parametrize("body", [b"", b"<h1>Bad\nGateway</h1>", b"[1]", b'"x"'])
def test_an_error_without_the_error_body_still_has_a_sentence(body: bytes) -> None:
    with pytest.raises(errors.TidegaugeError, match="the server answered with status 502: "):
        asked(Answer(502, body), lambda client: client.alerts())


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with tidegauge.connect(url) as client:
        for ask in (lambda: client.sql("SELECT 1"), lambda: client.write("x"), client.ready):
            with pytest.raises(errors.Unavailable, match=f"cannot reach {url}: Connection refused"):
                ask()


def test_a_server_that_does_not_answer_in_time_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            tidegauge.connect(url, timeout=0.01) as client,
            pytest.raises(errors.Unavailable, match="no answer in time"),
        ):
            client.alerts()


def test_an_address_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="cannot use server address"):
        connect("localhost:8433")
