"""Every path answers mistakes with ``{"error", "message", "details"}`` and a status that says whose mistake it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from engine.clock import ManualClock
from engine.config import Config, Query, ScaleTarget, Server, Token
from engine.runtime import Engine

TOKEN = "correct horse"


def config(**changes: Any) -> Config:
    return Config(query=Query(in_process=True), scale=(ScaleTarget(target="web", match={}),), **changes)


class Caller:
    """Calls the application in process, without a socket."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        return asyncio.run(self._call(method, path, body, headers or {}))

    async def _call(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        where, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": where,
            "raw_path": where.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            + [(b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8433),
            "state": {},
        }
        sent: list[dict[str, Any]] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            # As from a server: behind the body nothing comes until the client goes away.
            return waiting.pop(0) if waiting else await asyncio.Future()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._application(scope, receive, send)
        start = sent[0]
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        return start["status"], {name.decode().lower(): value.decode() for name, value in start["headers"]}, answer


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    path: Path = tmp_path_factory.mktemp("engine") / "data"
    with Engine.open(str(path), config(), clock=ManualClock()) as engine:
        yield Caller(Application(engine, config(server=Server(max_body=4096))))


JSON = {"Content-Type": "application/json"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}

MISTAKES = [
    ("GET", "/nowhere", b"", {}, 404, "not_found"),
    ("GET", "/write", b"", {}, 400, "bad_request"),
    ("POST", "/write?precision=weeks", b"a b=1", {}, 400, "bad_request"),
    ("POST", "/write", b"x" * 5_000, {}, 413, "too_large"),
    ("POST", "/write", b"a b=1", {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
    ("POST", "/write", b"not gzip", {"Content-Encoding": "gzip"}, 400, "bad_request"),
    ("POST", "/v1/ingest", b"{}", {}, 415, "unsupported_media_type"),
    ("POST", "/v1/ingest", b"{}", JSON, 400, "bad_request"),
    ("POST", "/v1/ingest", b"{}", ARROW, 400, "bad_request"),
    ("POST", "/v1/import/prometheus?label=job", b"up 1", {}, 400, "bad_request"),
    ("POST", "/v1/import/prometheus", b"up 1", JSON, 415, "unsupported_media_type"),
    ("POST", "/v1/import/prometheus", b"x" * 5_000, {}, 413, "too_large"),
    ("GET", "/v1/import/prometheus", b"", {}, 400, "bad_request"),
    ("POST", "/v1/rules/reload", b"", {}, 400, "bad_request"),
    ("POST", "/v1/sql", b"", JSON, 400, "bad_request"),
    ("POST", "/v1/sql", b"{}", JSON, 400, "bad_request"),
    ("POST", "/v1/sql", b'{"sql": "SELECT 1", "more": 1}', JSON, 400, "bad_request"),
    ("POST", "/v1/sql", b'{"sql": "SELEC 1"}', JSON, 400, "bad_query"),
    ("POST", "/v1/sql", b'{"sql": "DROP TABLE series"}', JSON, 400, "bad_query"),
    ("POST", "/v1/sql", b'{"sql": "SELECT * FROM nothing"}', JSON, 400, "bad_query"),
    ("POST", "/v1/sql", b'{"sql": "SELECT * FROM audit"}', JSON, 400, "bad_query"),
    ("POST", "/v1/sql", b'{"sql": "SELECT 1"}', JSON | {"Accept": "image/png"}, 400, "bad_request"),
    ("GET", "/v1/sql", b"", {}, 400, "bad_request"),
    ("GET", "/v1/anomalies?limit=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/anomalies?score=2", b"", {}, 400, "bad_request"),
    ("GET", "/v1/anomalies?start=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?state=lost", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?limit=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?start=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?force=perhaps", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?window=10", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?window=1x", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?history=1s", b"", {}, 400, "bad_request"),
    ("GET", "/v1/bottlenecks?history=30d", b"", {}, 400, "bad_request"),
    ("POST", "/v1/bottlenecks", b"", JSON, 400, "bad_request"),
    ("POST", "/v1/bottlenecks", b'{"windows": "5m"}', JSON, 400, "bad_request"),
    ("POST", "/v1/bottlenecks", b'{"graph": [["a"]]}', JSON, 400, "bad_request"),
    ("POST", "/v1/bottlenecks", b'{"changes": [{"service": "a", "time": "soon"}]}', JSON, 400, "bad_request"),
    ("GET", "/v1/deploys?limit=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/deploys?start=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/deploys?match=team", b"", {}, 400, "bad_request"),
    ("POST", "/v1/deploys", b"", JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop"}', JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop", "version": 1}', JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop", "version": " "}', JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop", "version": "1", "time": "2999-01-01"}', JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop", "version": "1", "canary": "v"}', JSON, 400, "bad_request"),
    ("POST", "/v1/deploys", b'{"service": "shop", "version": "1", "author": "me"}', JSON, 400, "bad_request"),
    ("GET", "/v1/deploys/7/verdict", b"", {}, 404, "not_found"),
    ("GET", "/v1/deploys/7/verdict?for=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/deploys/7/verdict?for=30d", b"", {}, 400, "bad_request"),
    ("GET", "/v1/deploys/7/verdict?for=1h&step=1s", b"", {}, 400, "bad_request"),
    ("GET", "/v1/deploys/7/verdict?warm_up=0.5s", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/deploys", b"", {}, 405, "method_not_allowed"),
    ("GET", "/v1/query", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&step=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&step=1x", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&start=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&start=now&end=-1h", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&agg=mode", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&match=host", b"", {}, 400, "bad_request"),
    ("GET", "/v1/query?metric=m&limit=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=nothing", b"", {}, 404, "not_found"),
    ("GET", "/v1/rows?table=m&start=soon", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&start=now&end=-1h", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&match=host", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&where=a", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&where=a%3Ex", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&last=oldest", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&order=a", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&limit=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&shape=square", b"", {}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m", b"", {"Accept": "image/png"}, 400, "bad_request"),
    ("GET", "/v1/rows?table=m&shape=rows", b"", {"Accept": "text/csv"}, 400, "bad_request"),
    ("GET", "/v1/cardinality?top=0", b"", {}, 400, "bad_request"),
    ("GET", "/v1/cardinality?top=many", b"", {}, 400, "bad_request"),
    ("GET", "/v1/series?match=x=~%22(%22", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/series", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/series?match=host=~%22.*%22", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/series?match=host=%22a%22&start=soon", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/series?match=host=%22a%22&start=now&end=-1h", b"", {}, 400, "bad_request"),
    ("DELETE", "/v1/series?match=host=%22a%22&dry_run=perhaps", b"", {}, 400, "bad_request"),
    ("GET", "/v1/alerts?state=lost", b"", {}, 400, "bad_request"),
    ("GET", "/v1/alerts?severity=bad", b"", {}, 400, "bad_request"),
    ("GET", "/v1/alerts?category=weather", b"", {}, 400, "bad_request"),
    ("GET", "/v1/alerts?match=a!=%22b%22", b"", {}, 400, "bad_request"),
    ("GET", "/v1/alerts/7", b"", {}, 404, "not_found"),
    ("POST", "/v1/alerts/7/ack", b'{"by": "me"}', JSON, 404, "not_found"),
    ("POST", "/v1/alerts/7/ack", b'{"by": " "}', JSON, 400, "bad_request"),
    ("POST", "/v1/alerts/7/ack", b"[]", JSON, 400, "bad_request"),
    ("DELETE", "/v1/alerts/7/ack?by=me", b"", {}, 404, "not_found"),
    ("DELETE", "/v1/alerts/7/ack", b"", {}, 400, "bad_request"),
    ("POST", "/v1/alerts/7/close", b'{"by": "me"}', JSON, 404, "not_found"),
    ("POST", "/v1/alerts/7/close", b'{"by": ""}', JSON, 400, "bad_request"),
    ("GET", "/v1/silences?state=lost", b"", {}, 400, "bad_request"),
    ("GET", "/v1/silences?limit=0", b"", {}, 400, "bad_request"),
    ("POST", "/v1/silences", b"{}", JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=", "by": "me", "expires_in": "1h"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "", "by": "me", "expires_in": "1h"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=\\"b\\"", "by": " ", "expires_in": "1h"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=\\"b\\"", "by": "me"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=\\"b\\"", "by": "me", "ends_at": "-1h"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=\\"b\\"", "by": "me", "expires_in": "x"}', JSON, 400, "bad_request"),
    ("POST", "/v1/silences", b'{"match": "a=~\\"(\\"", "by": "me", "expires_in": "1h"}', JSON, 400, "bad_request"),
    ("DELETE", "/v1/silences/7", b"", {}, 404, "not_found"),
    ("PUT", "/v1/silences/7", b"", {}, 405, "method_not_allowed"),
    ("DELETE", "/v1/alerts", b"", {}, 405, "method_not_allowed"),
    ("GET", "/v1/scale/nothing", b"", {}, 404, "not_found"),
    ("GET", "/v1/scale/web/keda", b"", {}, 503, "unavailable"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code"), MISTAKES)
def test_mistakes(
    call: Caller, method: str, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    found, answered, raw = call(method, path, body, headers)
    assert found == status, raw
    answer = json.loads(raw)
    assert set(answer) == {"error", "message", "details"}
    assert answer["error"] == code
    assert answer["message"].startswith("cannot "), answer["message"]
    assert "Traceback" not in answer["message"]
    assert answered["content-type"].startswith("application/json")
    if status in (429, 503):
        assert int(answered["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "told"),
    [
        ("DELETE", "/v1/alerts", b"", {}, "cannot serve DELETE /v1/alerts: want GET"),
        ("PUT", "/v1/alerts/7/ack", b"", {}, "cannot serve PUT /v1/alerts/7/ack: want DELETE or POST"),
        (
            "POST",
            "/v1/alerts/7/ack",
            b"",
            {},
            "cannot serve POST /v1/alerts/7/ack: there is no body, want a JSON object",
        ),
        ("POST", "/v1/sql", b"{}", JSON, "cannot serve POST /v1/sql: body: Object missing required field `sql`"),
        ("GET", "/v1/alerts?limit=0", b"", {}, "cannot serve GET /v1/alerts: limit: Expected `int` >= 1"),
        (
            "GET",
            "/v1/query?metric=m&start=1700000060&end=1700000000",
            b"",
            {},
            "cannot answer query: the end (2023-11-14T22:13:20.000000000Z) is not after the start"
            " (2023-11-14T22:14:20.000000000Z)",
        ),
    ],
)
def test_mistakes_are_told_in_words(
    call: Caller, method: str, path: str, body: bytes, headers: dict[str, str], told: str
) -> None:
    status, answered, raw = call(method, path, body, headers)
    assert json.loads(raw)["message"] == told
    if status == 405:
        wanted = told.rpartition("want ")[2].split(" or ")
        assert set(answered["allow"].split(", ")) - {"OPTIONS"} == set(wanted)


def test_partial_writes_keep_the_good_lines_and_tell_the_others(call: Caller) -> None:
    status, headers, raw = call("POST", "/write", b'shape,host=a x=1\nnonsense\nshape,host=b x=2,y="text"\n')
    answer = json.loads(raw)
    assert (status, headers["x-tidegauge-rows"], answer["stored_rows"]) == (400, "2", 2)
    assert [(each["line_number"], each["original_line"], each["cause"]) for each in answer["data"]] == [
        (2, "nonsense", "malformed"),
        (3, 'shape,host=b x=2,y="text"', "string_field"),
    ]
    status, _, raw = call("POST", "/v1/sql", b'{"sql": "SELECT host, x FROM shape ORDER BY host"}', JSON)
    assert (status, json.loads(raw)["rows"]) == (200, [["a", 1.0], ["b", 2.0]])


def test_a_deletion_says_what_it_would_remove_and_what_it_removed(call: Caller) -> None:
    call("POST", "/write", b"gone,host=a x=1,y=2\ngone,host=b x=1\n")
    path = "/v1/series?match=host=%22a%22&table=gone"
    expected = {"tables": ["gone"], "tag_sets": 1, "series": 2, "rows": 1, "tiers": "done", "problem": None}
    status, _, raw = call("DELETE", f"{path}&dry_run=true")
    answer = json.loads(raw)
    assert (status, answer) == (200, expected | {"sequence": 0, "dry_run": True})
    status, _, raw = call("DELETE", path)
    answer = json.loads(raw)
    assert answer.pop("sequence") > 0
    assert (status, answer) == (200, expected | {"dry_run": False})
    status, _, raw = call("POST", "/v1/sql", b'{"sql": "SELECT host FROM gone"}', JSON)
    assert (status, json.loads(raw)["rows"]) == (200, [["b"]])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"Token {TOKEN}"}, 200),
        ({"X-API-Key": TOKEN}, 200),
    ],
)
def test_tokens_open_what_their_scope_says(tmp_path: Path, header: dict[str, str], expected: int) -> None:
    token = Token(name="analyst", sha256=hashlib.sha256(TOKEN.encode()).hexdigest(), scopes=("read",))
    with Engine.open(str(tmp_path / "data"), config(), clock=ManualClock()) as engine:
        guarded = Caller(Application(engine, config(server=Server(tokens=(token,)))))
        status, _, raw = guarded("GET", "/v1/metrics-names", headers=header)
        assert status == expected, raw
        assert guarded("GET", "/health/live")[0] == 200
        if expected == 200:
            status, _, raw = guarded("POST", "/write", b"a b=1", header)
            assert (status, json.loads(raw)["error"]) == (403, "forbidden")
            status, _, raw = guarded("DELETE", "/v1/series?match=host=%22a%22", b"", header)
            assert (status, json.loads(raw)["error"]) == (403, "forbidden")
        assert TOKEN.encode() not in raw


def test_the_documentation_page_lists_the_typed_paths(call: Caller) -> None:
    status, _, raw = call("GET", "/docs/openapi.json")
    assert status == 200
    assert {"/v1/sql", "/v1/query", "/v1/alerts", "/health/ready", "/metrics"} <= set(json.loads(raw)["paths"])
