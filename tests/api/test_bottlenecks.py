"""``/v1/bottlenecks``: what has been found, looking now, and with a call graph and changes of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from api.auth import needed_scope
from api.demo.fleet import Fleet
from api.demo.incident import Incident
from engine.clock import NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.runtime import Engine
from tests.api.test_error_shape import JSON, Caller, config

NOW_NS = 1_790_000_000 * NS_PER_SECOND


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    path: Path = tmp_path_factory.mktemp("engine") / "data"
    fleet = Fleet(3, 10)
    fleet.incidents = (Incident(NOW_NS - 6 * NS_PER_MINUTE, service="billing", seconds=900.0),)
    with Engine(str(path), config(), clock=ManualClock(NOW_NS)) as engine:
        for lines in fleet.history(NOW_NS - 80 * NS_PER_MINUTE, NOW_NS, 30 * NS_PER_SECOND):
            engine.submit_lines(lines).result()
        yield Caller(Application(engine, config()))


def answer(call: Caller, method: str, path: str, body: object = None) -> dict[str, Any]:
    status, _, raw = call(method, path, b"" if body is None else json.dumps(body).encode(), JSON if body else {})
    assert status == 200, raw
    found: dict[str, Any] = json.loads(raw)
    return found


def test_what_is_found_is_listed_until_it_is_over(call: Caller) -> None:
    assert answer(call, "GET", "/v1/bottlenecks") == {"analysis": None, "bottlenecks": []}
    found = answer(call, "GET", "/v1/bottlenecks?force=true")
    assert answer(call, "GET", "/v1/bottlenecks") == found
    analysis, [first] = found["analysis"], found["bottlenecks"]
    assert analysis == {
        "analysed_at": "2026-09-21T14:13:20.000000000Z",
        "basis": "recent",
        "normal_start": "2026-09-21T13:03:00.000000000Z",
        "start": "2026-09-21T14:03:00.000000000Z",
        "end": "2026-09-21T14:13:00.000000000Z",
        "entry": None,
        "services": 4,
        "series": 138,
        "left_out": 0,
        "problem": None,
    }
    assert (first["id"], first["state"], first["service"], first["resource"]) == (1, "open", "billing", "queue")
    assert first["outcome"] is None
    assert set(first["effect"]) == {"metric", "share", "from", "to", "by"}
    assert set(first["evidence"][0]) == {"metric", "value", "expected", "first_moved", "strength"}
    assert first["first_moved"] in ("2026-09-21T14:07:00.000000000Z", "2026-09-21T14:08:00.000000000Z")
    for query, ids in (
        ("state=closed", []),
        ("state=all", [1]),
        ("state=open,closed", [1]),
        ("service=shop", []),
        ("service=billing&limit=1", [1]),
        ("before=1", []),
        ("start=now", [1]),
        ("start=2030-01-01T00:00:00Z", []),
    ):
        assert [each["id"] for each in answer(call, "GET", f"/v1/bottlenecks?{query}")["bottlenecks"]] == ids, query


def test_a_question_has_its_own_window_labels_graph_and_changes(call: Caller) -> None:
    by_host = answer(call, "GET", "/v1/bottlenecks?window=7m&history=30m&label=host")
    assert by_host["analysis"]["basis"] == "asked"
    assert by_host["analysis"]["services"] == 10
    assert {each["service"] for each in by_host["bottlenecks"]} == {"billing-04", "billing-09"}
    body = {
        "window": "8m",
        "graph": [["shop", "billing"]],
        "entry": "shop/app_response_time_ms",
        "changes": [{"service": "billing", "time": "-7m"}],
    }
    asked = answer(call, "POST", "/v1/bottlenecks", body)
    [first, *_] = asked["bottlenecks"]
    assert asked["analysis"]["entry"] == "shop/app_response_time_ms"
    assert (first["id"], first["state"], first["service"]) == (None, "open", "billing")
    assert first["recommendation"].startswith("It was changed ")
    assert set(first) == set(answer(call, "GET", "/v1/bottlenecks?force=true")["bottlenecks"][0])
    calm = answer(call, "POST", "/v1/bottlenecks", {"end": "-10m"})
    assert calm["bottlenecks"] == []


def test_an_entry_that_is_not_there_is_told(call: Caller) -> None:
    status, _, raw = call("POST", "/v1/bottlenecks", b'{"entry": "shop/nothing"}', JSON)
    assert status == 400
    assert (
        "no series has samples for the entry 'shop/nothing', want SERVICE/METRIC such as '"
        in json.loads(raw)["message"]
    )


def test_reading_is_enough() -> None:
    assert needed_scope("GET", "/v1/bottlenecks") == needed_scope("POST", "/v1/bottlenecks") == "read"
