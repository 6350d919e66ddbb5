"""From an alert to its evidence: every link is answered by this server and shows the series of the alert."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from api.app import Application
from engine.catalog.callers import Caller as Asker
from engine.clock import NS_PER_MINUTE, ManualClock
from engine.config import Config, Query, Rule, Watch
from engine.detection.findings import Finding
from engine.detection.store import Anomaly
from engine.model.matchers import parse_matchers
from engine.runtime import Engine
from tests.api.test_error_shape import Caller

M = NS_PER_MINUTE
NOW_NS = 1_700_000_000_000_000_000
#: A label's value that every separator of a link and of matchers is in.
ODD = 'a&b="c\\d",e f'


def rules() -> tuple[Rule, ...]:
    return (
        Rule(name="hot", metric="cpu_usage_percent", op=">", threshold=90.0, labels={"team": "of the rule"}),
        Rule(
            name="failing",
            metric="app_errors_total",
            op=">",
            threshold=0.5,
            aggregate="increase",
            divide_by="app_requests_total",
            group_by=("service",),
            where='zone!="test"',
        ),
    )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    config = Config(rules=rules(), query=Query(in_process=True), watch=Watch(default_rules=False))
    running = Engine(str(tmp_path / "data"), config, clock=ManualClock(NOW_NS))
    yield running
    running.close()


def odd(text: str) -> str:
    """Return a tag's value as line protocol writes it; a backslash before nothing special is itself."""
    return text.replace(" ", "\\ ").replace(",", "\\,").replace("=", "\\=")


def anomaly(time_ns: int, metric: str = "cpu_usage_percent", **labels: str) -> Anomaly:
    return Anomaly(
        time_ns=time_ns, series_id=1, metric=metric, labels=labels, value=97.0, score=0.9, cause="spike",
        expected_low=0.0, expected_high=50.0, reason="far above",
    )  # fmt: skip


def finding(time_ns: int, service: str) -> Finding:
    return Finding(
        time_ns=time_ns, last_seen_ns=time_ns + M, first_moved_ns=None, kind="saturated", service=service, instance="",
        resource="cpu", aspect="utilisation", metric="cpu_usage_percent", value=97.0, expected=50.0, basis="history",
        confidence=0.9, gain=0.3, effect_metric="m", effect_share=0.3, effect_from=1.0, effect_to=0.7, effect_by="x",
        reason=f"the CPU of {service} is full", recommendation="more", evidence="[]",
    )  # fmt: skip


def filled(engine: Engine) -> None:
    lines = []
    for minute in range(20):
        at = NOW_NS - (20 - minute) * M
        lines += [
            f"cpu,host={odd(ODD)},service=shop usage_percent={97 if minute > 14 else 20 + minute} {at}",
            f"cpu,host=other,service=shop usage_percent=10 {at}",
            f"app,host=a,service=shop,zone=one errors_total={minute},requests_total={minute} {at}",
            f"app,host=b,service=shop,zone=test errors_total={900 * minute},requests_total=1 {at}",
        ]
    lines += [
        f"cpu,host={odd(ODD)},service=shop usage_percent=97 {NOW_NS}",
        f"app,host=a,service=shop,zone=one errors_total=30,requests_total=30 {NOW_NS}",
    ]
    assert not engine.submit_lines("\n".join(lines).encode()).result().refused
    engine.anomalies.record(
        [
            anomaly(NOW_NS - 10 * M, host=ODD, service="shop"),
            anomaly(NOW_NS - 40 * M, host=ODD, service="shop"),
            anomaly(NOW_NS - 10 * M, host="other", service="shop"),
            anomaly(NOW_NS - 10 * M, "app_errors_total", host="a", service="shop", zone="one"),
            anomaly(NOW_NS - 10 * M, "app_errors_total", host="b", service="shop", zone="test"),
        ]
    )
    engine.bottlenecks.record([finding(NOW_NS - 15 * M, "shop")])
    engine.bottlenecks.record([finding(NOW_NS - 15 * M, "cart")])
    engine.watcher.tick()


def test_an_alert_leads_to_its_series_and_to_what_was_noted_of_it(engine: Engine) -> None:
    filled(engine)
    call = Caller(Application(engine, engine.config))

    def got(path: str) -> Any:
        status, _, raw = call("GET", path, b"", {})
        assert status == 200, (path, raw)
        return json.loads(raw)

    listed = {alert["rule"]: alert for alert in got("/v1/alerts")["alerts"]}
    assert set(listed) == {"hot", "failing"}
    hot = listed["hot"]["evidence"]
    assert set(hot) == {"query", "anomalies", "bottlenecks"}
    answer = got(hot["query"])
    assert (answer["metric"], answer["aggregate"], answer["step_seconds"]) == ("cpu_usage_percent", "last", 300.0)
    (line,) = answer["series"]
    assert line["labels"] == {"host": ODD, "service": "shop"}
    assert line["values"][-1] == 97.0
    assert [each["time"] for each in got(hot["anomalies"])["anomalies"]] == ["2023-11-14T22:03:20.000000000Z"]
    assert [each["service"] for each in got(hot["bottlenecks"])["bottlenecks"]] == ["shop"]
    # The link of a group says what its rule wants, and has both metrics of the ratio.
    failing = parse_qs(urlsplit(listed["failing"]["evidence"]["query"]).query)
    assert failing["metric"] == ["app_errors_total", "app_requests_total"]
    assert (failing["agg"], failing["by"], failing["match"]) == (
        ["increase"],
        ["service"],
        ['zone!="test",service="shop"'],
    )
    assert {line["metric"] for line in got(listed["failing"]["evidence"]["query"])["series"]} == set(failing["metric"])
    assert [each["labels"]["zone"] for each in got(listed["failing"]["evidence"]["anomalies"])["anomalies"]] == ["one"]
    found = got(f"/v1/alerts/{listed['hot']['id']}")["evidence"]["found"]
    assert [each["reason"] for each in found["anomalies"]] == ["far above"]
    assert [each["reason"] for each in found["bottlenecks"]] == ["the CPU of shop is full"]
    # The same links are in SQL.
    rows = engine.sql("SELECT rule, evidence FROM alerts").table.to_pylist()
    assert {row["rule"]: json.loads(row["evidence"]) for row in rows} == {
        rule: alert["evidence"] for rule, alert in listed.items()
    }
    limited = Asker("ann", parse_matchers('service="shop"'))
    anomalies, bottlenecks = engine.evidence_of(engine.alerts.get(listed["hot"]["id"]), limited)
    assert (len(anomalies), bottlenecks) == (1, [])


def test_an_alert_that_is_over_is_shown_until_shortly_after_its_end(engine: Engine) -> None:
    filled(engine)
    hot = next(alert for alert in engine.alerts.find() if alert.rule == "hot")
    engine.rule_watch.close(hot.id, by="ann", now_ns=NOW_NS + 60 * M)
    link = parse_qs(urlsplit(engine.alerts.evidence_links(engine.alerts.get(hot.id))["query"]).query)
    assert (link["start"], link["end"], link["step"]) == (
        ["2023-11-14T21:43:20.000000000Z"],
        ["2023-11-14T23:18:20.000000000Z"],
        ["1m"],
    )
    with engine.control.transaction() as connection:
        connection.execute("UPDATE alerts SET source = NULL")
    old = engine.alerts.get(hot.id)
    assert engine.alerts.evidence_links(old) == {}
    assert engine.evidence_of(old) == ([], [])
