"""What ``GET /v1/query`` takes: several metrics, the highest series, one bucket over all of a range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tidegauge
from tests.api.test_prometheus import Served

T0 = 1_700_000_000
LINES = "\n".join(
    f"cpu,host={host} busy={busy + step},idle={100 - busy} {(T0 + 60 * step) * 10**9}"
    for host, busy in (("a", 10), ("b", 30), ("c", 20))
    for step in range(3)
)
RANGE = f"start={T0}&end={T0 + 180}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    opened.clock.set_ns((T0 + 200) * 10**9)
    opened.engine.submit_lines(LINES.encode()).result(30)
    yield opened
    opened.engine.close()


def test_several_metrics_come_in_the_order_asked(server: Served) -> None:
    answer = server.json(f"/v1/query?metric=cpu_idle&metric=cpu_busy&{RANGE}&step=range&agg=max&match=host!=%22b%22")
    assert [(line["metric"], line["labels"]["host"], line["values"]) for line in answer["series"]] == [
        ("cpu_idle", "a", [90.0]),
        ("cpu_idle", "c", [80.0]),
        ("cpu_busy", "a", [12.0]),
        ("cpu_busy", "c", [22.0]),
    ]
    assert (answer["metric"], answer["step_seconds"]) == ("cpu_idle", 180.0)
    assert {tuple(line["times"]) for line in answer["series"]} == {(T0 * 10**9,)}


def test_the_highest_and_the_lowest_series(server: Served) -> None:
    top = server.json(f"/v1/query?metric=cpu_busy&{RANGE}&step=1m&topk=1")["series"]
    assert [(line["labels"]["host"], line["values"]) for line in top] == [("b", [30.0, 31.0, 32.0])]
    bottom = server.json(f"/v1/query?metric=cpu_busy&{RANGE}&step=1m&bottomk=2")["series"]
    assert [line["labels"]["host"] for line in bottom] == ["a", "c"]
    status, _, raw = server.call("GET", f"/v1/query?metric=cpu_busy&{RANGE}&topk=1&bottomk=1")
    assert (status, b"one of them" in raw) == (400, True)


def test_an_embedded_engine_takes_the_same(tmp_path: Path) -> None:
    (tmp_path / "tidegauge.toml").write_text('[retention]\nraw = "30y"\n')
    with tidegauge.open(str(tmp_path / "data"), config=str(tmp_path / "tidegauge.toml")) as db:
        db.write(LINES)
        span = {"start": T0 * 10**9, "end": (T0 + 180) * 10**9, "step": "range"}
        answer = db.query(["cpu_busy", "cpu_idle"], agg="min", topk=2, **span)
        assert [(line.metric, line.labels["host"]) for line in answer.series] == [("cpu_idle", "a"), ("cpu_idle", "c")]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("metric=cpu_bussy", "there is no metric 'cpu_bussy'; did you mean 'cpu_busy'?"),
        ("metric=cpu_busy&metric=cpu_idle", None),
        ("metric=zzz", "there is no metric 'zzz'; GET /v1/metrics-names lists them"),
        (
            'metric=cpu_busy&match=host=~"x.*",rack="1"',
            'none of the 3 series of \'cpu_busy\' satisfies host=~"x.*",rack="1"',
        ),
        (
            f"metric=cpu_busy&start={T0 - 60}&end={T0}",
            "no series of 'cpu_busy' that was asked for has a value of 'avg'"
            " from 2023-11-14T22:12:20.000000000Z to 2023-11-14T22:13:20.000000000Z",
        ),
    ],
)
def test_an_empty_answer_says_why(server: Served, asked: str, told: str | None) -> None:
    span = "" if "start" in asked else f"&{RANGE}"
    asked = asked.replace('"', "%22")
    answer = server.json(f"/v1/query?{asked}{span}")
    assert (bool(answer["series"]), answer["reason"]) == (told is None, told)


def test_a_metric_among_others_that_is_not_there_is_told(server: Served) -> None:
    answer = server.json(f"/v1/query?metric=cpu_busy&metric=cpu_idel&{RANGE}")
    assert {line["metric"] for line in answer["series"]} == {"cpu_busy"}
    assert answer["reason"] == "there is no metric 'cpu_idel'; did you mean 'cpu_idle'?"


def test_a_forecast_of_a_metric_that_is_not_there_says_so(server: Served) -> None:
    answer = server.json("/v1/forecast?metric=cpu_bussy")
    assert (answer["series"], answer["skipped"]) == ([], [])
    assert answer["reason"] == "there is no metric 'cpu_bussy'; did you mean 'cpu_busy'?"
