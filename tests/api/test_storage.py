"""`GET /v1/storage` and the tiers on `/metrics`: rows and bytes, as the tiers really are."""

from __future__ import annotations

import json
from pathlib import Path

from api.app import Application
from engine.clock import ManualClock
from engine.runtime import Engine
from tests.api.test_error_shape import Caller, config

T0 = 1_700_000_000_000_000_000
MINUTE_NS = 60_000_000_000


def test_rows_and_bytes_of_each_tier(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Engine.open(str(data), config(), clock=ManualClock(T0)) as engine:
        call = Caller(Application(engine, config()))
        assert engine.recovery.wait(30)
        lines = "\n".join(f"t,host={host} x=1,y=2 {T0 - n * MINUTE_NS}" for host in "abc" for n in range(60))
        engine.submit_lines(lines.encode()).result(30)
        engine.flush_rollups()
        status, _, body = call("GET", "/v1/storage")
        assert status == 200
        told = json.loads(body)
        tiers = {each["tier"]: each for each in told["tiers"]}
        assert list(tiers) == ["rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d"]
        for name, each in tiers.items():
            assert each["rows"] == engine.sql(f"SELECT count(*) AS n FROM {name}").table["n"][0].as_py()
        assert tiers["rollup_1m"]["rows"] == 60 * 6
        packed = sum(path.stat().st_size - 8 for path in (data / "rollups").glob("*.pack"))
        assert 0 < sum(each["bytes"] for each in tiers.values()) <= packed
        assert told["rollup_pending_rows"] == 0
        _, _, metrics = call("GET", "/metrics")
        text = metrics.decode()
        for name, each in tiers.items():
            assert f"tidegauge_{name}_rows {float(each['rows'])}" in text
            assert f"tidegauge_{name}_bytes {float(each['bytes'])}" in text
