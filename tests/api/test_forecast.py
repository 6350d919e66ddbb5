"""``GET /v1/forecast`` and ``forecast()``: what is stored goes on, limits are reached, wrong questions are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.app import Application
from api.embedded import Embedded
from engine.clock import NS_PER_DAY, ManualClock
from engine.config import KEEP_ALL
from engine.errors import BadRequest, QueryLimit
from engine.forecasting.crossing import crossing
from engine.forecasting.forecast import Forecast
from engine.runtime import Engine
from tests.api.test_error_shape import Caller, config
from tidegauge import lab

DAYS = 120
TODAY_NS = 20_000 * NS_PER_DAY
NOW_NS = TODAY_NS + 5 * 3_600_000_000_000


def used(day: int) -> float:
    return 40.0 + 0.25 * day + (3.0 if day % 7 < 2 else 0.0)


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with Engine(str(tmp_path / "data"), config(retention=KEEP_ALL), clock=ManualClock(NOW_NS)) as opened:
        lines = [f"disk,host=a used={used(day)} {TODAY_NS + (day - DAYS) * NS_PER_DAY + 60}" for day in range(DAYS + 1)]
        lines += [f"disk,host=b used=7 {TODAY_NS - NS_PER_DAY}", f"young,host=c used=7 {TODAY_NS + 60}"]
        opened.submit_lines("\n".join(lines).encode(), 1).result(30)
        yield opened


def asked(engine: Engine, query: str) -> tuple[int, dict[str, Any]]:
    status, _, raw = Caller(Application(engine, config()))("GET", f"/v1/forecast?{query}", b"", {})
    return status, json.loads(raw)


def test_what_is_stored_goes_on(engine: Engine) -> None:
    status, answer = asked(engine, "metric=disk_used&horizon=30,90&limit=80,60&path=true")
    assert status == 200
    assert (answer["season"], answer["step_seconds"], answer["from"]) == (7, 86_400.0, "2024-10-04T00:00:00.000000000Z")
    (line,) = answer["series"]
    # The day that is not over does not count.
    expected = lab.forecast([used(day) for day in range(DAYS)], 90)
    assert line["labels"] == {"host": "a"}
    assert line["history"] == {"from": "2024-06-06T00:00:00.000000000Z", "values": DAYS, "missing": 0}
    assert line["last"] == used(DAYS - 1)
    assert [point["days"] for point in line["points"]] == [30.0, 90.0]
    assert line["points"][0]["time"] == "2024-11-02T00:00:00.000000000Z"
    for name in ("mean", "lo80", "hi80", "lo95", "hi95"):
        assert line["points"][1][name] == pytest.approx(expected[name][89], rel=1e-12)
        assert line["path"][name] == pytest.approx(expected[name].tolist(), rel=1e-12)
    assert line["path"]["times"][0] == TODAY_NS
    eighty, sixty = line["limits"]
    first = int(np.argmax(expected["mean"] >= 80.0))
    assert eighty["direction"] == "up"
    assert eighty["expected"][:10] == str(np.datetime64("2024-10-04") + first)
    assert eighty["earliest"] <= eighty["earliest80"] <= eighty["expected"] <= eighty["latest80"]
    # 70 is behind it: it would have to fall.
    assert (sixty["direction"], sixty["expected"]) == ("down", None)
    assert answer["skipped"] == [
        {"labels": {"host": "b"}, "reason": "it has 1 values in steps that are over, want 3 or more"}
    ]


def test_a_series_that_began_today_is_told_of(engine: Engine) -> None:
    status, answer = asked(engine, "metric=young_used")
    assert (status, answer["series"]) == (200, [])
    assert answer["skipped"] == [
        {"labels": {"host": "c"}, "reason": "it has 0 values in steps that are over, want 3 or more"}
    ]


def test_series_are_matched_and_merged(engine: Engine) -> None:
    assert [line["labels"] for line in asked(engine, "metric=disk_used&match=host=%22a%22")[1]["series"]] == [
        {"host": "a"}
    ]
    merged = asked(engine, "metric=disk_used&by=&agg=max&horizon=30")[1]
    assert [line["labels"] for line in merged["series"]] == [{}]
    assert asked(engine, "metric=disk_used&step=12h&horizon=1")[1]["series"][0]["history"]["missing"] == DAYS
    assert asked(engine, "metric=nothing")[1]["series"] == []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("horizon=30", "metric"),
        ("metric=disk_used&horizon=", "got no horizon"),
        ("metric=disk_used&horizon=30,soon", "cannot read horizon 'soon'"),
        ("metric=disk_used&horizon=0", "want more than 0"),
        ("metric=disk_used&horizon=365&step=1m", "at most 6.94444"),
        ("metric=disk_used&step=1s", "want 60 s or more"),
        ("metric=disk_used&step=1m&horizon=1", "got season 1440"),
        ("metric=disk_used&season=0", "got season 0"),
        ("metric=disk_used&limit=much", "cannot read limit 'much'"),
        ("metric=disk_used&limit=" + ",".join("1" * 21), "at most 20"),
        ("metric=disk_used&agg=best", "cannot aggregate"),
    ],
)
def test_wrong_questions_are_told(engine: Engine, query: str, sentence: str) -> None:
    status, answer = asked(engine, query)
    assert status == 400, answer
    assert sentence in answer["message"]


def test_too_many_series_are_refused(engine: Engine) -> None:
    lines = [f"many,host=h{host} v=1 {TODAY_NS - NS_PER_DAY}" for host in range(201)]
    engine.submit_lines("\n".join(lines).encode(), 1).result(30)
    status, answer = asked(engine, "metric=many_v")
    assert (status, answer["error"]) == (422, "query_limit")
    assert "201 series" in answer["message"]


def test_the_same_in_python(engine: Engine) -> None:
    embedded = Embedded.__new__(Embedded)
    embedded.engine = engine
    found = embedded.forecast("disk_used", match={"host": "a"}, horizon=(30, 90), limit=80)
    told = asked(engine, "metric=disk_used&match=host=%22a%22&horizon=30,90&limit=80")[1]
    assert found == told
    with pytest.raises(BadRequest):
        embedded.forecast("disk_used", horizon=())
    assert issubclass(QueryLimit, Exception)


def test_a_limit_is_reached_from_either_side() -> None:
    rising = np.arange(10.0)
    ahead = Forecast(rising, rising - 1, rising + 1, rising - 2, rising + 2)
    up = crossing(ahead, 0.0, 5.0)
    assert (up.direction, up.earliest, up.earliest80, up.expected, up.latest80, up.latest) == ("up", 4, 5, 6, 7, 8)
    falling = Forecast(-rising, -rising - 1, -rising + 1, -rising - 2, -rising + 2)
    down = crossing(falling, 0.0, -8.0)
    assert (down.direction, down.earliest, down.expected, down.latest80, down.latest) == ("down", 7, 9, 10, None)
