"""The page for Grafana: the requests that it shows, filled in as Grafana does, give the answers that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_prometheus import JSON, Served

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "grafana.md").read_text()
FROM_S = 1_700_000_000 // 60 * 60
LINES = f"""\
cpu,host=a,region=eu usage_user=1 {FROM_S}
cpu,host=a,region=eu usage_user=3 {FROM_S + 30}
cpu,host=a,region=eu usage_user=4 {FROM_S + 60}
cpu,host=b,region=eu usage_user=5 {FROM_S + 1}
cpu,host=c,region=us usage_user=6 {FROM_S + 1}
"""
VARIABLES = {
    "${__from}": str(FROM_S * 1_000),
    "${__to}": str((FROM_S + 120) * 1_000),
    "${__from:date:iso}": "2023-11-14T22:13:00.000Z",
    "${__to:date:iso}": "2023-11-14T22:15:00.000Z",
    "${__interval}": "1m",
    "${region:raw}": "eu",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    opened = Served(tmp_path_factory.mktemp("grafana"))
    opened.clock.set_ns((FROM_S + 200) * 10**9)
    assert not opened.engine.submit_lines(LINES.encode(), 10**9).result(30).refused
    yield opened
    opened.engine.close()


def filled(text: str) -> str:
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    assert "${" not in text, "a variable that the test does not know"
    return text


def blocks(kind: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(rf"```json {kind}\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize(
    ("query", "answer"), list(zip(blocks("infinity"), blocks("answer"), strict=True)), ids=["sql", "series", "values"]
)
def test_what_the_page_shows_is_what_comes(server: Served, query: dict[str, Any], answer: list[Any]) -> None:
    options = query["url_options"]
    body = filled(options.get("data", "")).encode()
    status, headers, raw = server.call(options["method"], filled(query["url"]), body, JSON)
    assert (status, headers["content-type"].partition(";")[0]) == (200, "application/json"), raw
    rows = json.loads(raw)
    assert rows == answer
    for column in query["columns"]:
        kinds = {"timestamp": str, "string": str, "number": float}
        assert all(isinstance(row[column["selector"]], kinds[column["type"]]) for row in rows)


def test_rows_keep_what_columns_keep(server: Served) -> None:
    body = json.dumps({"sql": "SELECT 1 AS a, 'nan'::DOUBLE AS b, NULL AS c, map(['x'], [1]) AS d"}).encode()
    status, headers, raw = server.call("POST", "/v1/sql?shape=rows", body, JSON)
    assert (status, json.loads(raw)) == (200, [{"a": 1, "b": "NaN", "c": None, "d": {"x": 1}}])
    assert headers["x-tidegauge-rows"] == "1"
    status, _, raw = server.call("GET", "/v1/sql?shape=rows&q=SELECT%201%20WHERE%20false")
    assert (status, raw) == (200, b"[]")


def test_an_answer_without_rows_says_why_in_its_headers(server: Served) -> None:
    target = "/v1/query?shape=rows&metric=cpu_usage_uzer%C3%A9%0A"
    status, headers, raw = server.call("GET", target)
    assert (status, raw) == (200, b"[]")
    assert headers["x-tidegauge-reason"] == (
        "there is no metric 'cpu_usage_uzer\\xe9\\n'; did you mean 'cpu_usage_user'?"
    )
    assert headers["x-tidegauge-series-total"] == "0"
    wanted = f"metric=cpu_usage_user&start={FROM_S}&end={FROM_S + 120}"
    _, headers, _ = server.call("GET", f"/v1/query?shape=rows&{wanted}")
    assert "x-tidegauge-reason" not in headers
    _, same, raw = server.call("GET", f"/v1/query?{wanted}")
    body = json.loads(raw)
    for name in ("metric", "aggregate", "step_seconds", "tier", "rows_read", "fresh_to", "series_total"):
        told = headers[f"x-tidegauge-{name.replace('_', '-')}"]
        assert told == same[f"x-tidegauge-{name.replace('_', '-')}"] == str(body[name])
    long = server.call("GET", f"/v1/query?metric={'m' * 3_000}")[1]
    assert len(long["x-tidegauge-reason"]) == 1_000


@pytest.mark.parametrize(
    ("target", "accept", "status", "sentence"),
    [
        (
            "/v1/sql?shape=rows&q=SELECT%201%20AS%20a,%202%20AS%20a",
            "application/json",
            400,
            "two columns are called 'a'",
        ),
        ("/v1/sql?shape=rows&q=SELECT%201", "text/csv", 400, "cannot answer with shape=rows as text/csv"),
        ("/v1/sql?shape=round&q=SELECT%201", "application/json", 400, "shape"),
        (f"/v1/query?shape=rows&metric=cpu_usage_user&start={FROM_S}&limit=1", "application/json", 422, "3 series"),
    ],
)
def test_what_rows_cannot_hold(server: Served, target: str, accept: str, status: int, sentence: str) -> None:
    got, _, raw = server.call("GET", target, b"", {"Accept": accept})
    answer = json.loads(raw)
    assert sentence in f"{answer['message']} {answer.get('details')}"
    assert got == status
