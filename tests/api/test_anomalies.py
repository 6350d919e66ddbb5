"""``GET /v1/anomalies``: newest first, with the reason; filters and pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from api.app import Application
from api.auth import needed_scope
from engine.clock import ManualClock
from engine.detection.store import Anomaly
from engine.runtime import Engine
from tests.api.test_error_shape import Caller, config

NOW_NS = 1_700_000_000_000_000_000
FOUND = Anomaly(NOW_NS, 65_536, "cpu_usage", {"host": "a"}, 93.0, 0.75, "value", 41.0, 58.0, "value 93 against …")


def test_anomalies_are_listed(tmp_path: Path) -> None:
    with Engine(str(tmp_path / "data"), config(), clock=ManualClock(NOW_NS)) as engine:
        engine.anomalies.record([FOUND, replace(FOUND, time_ns=NOW_NS + 1, metric="mem_used", score=0.5)])
        call = Caller(Application(engine, config()))

        def ids(query: str) -> list[int]:
            status, _, raw = call("GET", f"/v1/anomalies?{query}", b"", {})
            assert status == 200
            return [anomaly["id"] for anomaly in json.loads(raw)["anomalies"]]

        assert ids("") == [2, 1]
        assert ids("metric=cpu_usage") == [1]
        assert ids("score=0.6") == [1]
        assert ids("before=2") == [1]
        assert ids("limit=1") == [2]
        assert ids("start=now") == [2, 1]
        assert ids("start=2030-01-01T00:00:00Z") == []
        _, _, raw = call("GET", "/v1/anomalies?metric=cpu_usage", b"", {})
        assert json.loads(raw)["anomalies"] == [
            {
                "id": 1,
                "time": "2023-11-14T22:13:20.000000000Z",
                "series_id": 65_536,
                "metric": "cpu_usage",
                "labels": {"host": "a"},
                "value": 93.0,
                "score": 0.75,
                "cause": "value",
                "expected_low": 41.0,
                "expected_high": 58.0,
                "reason": "value 93 against …",
            }
        ]
    assert needed_scope("GET", "/v1/anomalies") == needed_scope("GET", "/v1/alerts")
