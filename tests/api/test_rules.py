"""``GET /v1/rules``: what each rule says, every setting of it, and how it stands."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from api.app import Application
from engine.clock import ManualClock
from engine.config import Config, Query, Rule, Watch
from engine.config_units import Duration
from engine.runtime import Engine
from tests.api.test_error_shape import Caller

RULES = (
    Rule(name="plain", metric="cpu_x", op=">", threshold=90.0),
    Rule(
        name="ratio",
        metric="app_errors",
        where='path!="/health"',
        op="outside",
        threshold=1.0,
        upper=5.0,
        for_=Duration.parse("2m"),
        keep_firing=Duration.parse("3m"),
        aggregate="increase",
        over=Duration.parse("5m"),
        divide_by="app_requests",
        divide_match={"kind": "all"},
        scale=100.0,
        group_by=("service",),
        compare_with="weeks",
        compare_past=3,
        when_missing="ok",
        labels={"team": "{service}s"},
        annotations={"runbook": "look at {service}"},
        channels=(),
    ),
    Rule(name="ahead", metric="disk_x", op=">", threshold=97.0, forecast=Duration.parse("4h")),
    Rule(name="off", metric="cpu_x", op=">", threshold=1.0, enabled=False),
)
#: Settings that are shown as lengths of time in seconds.
SECONDS = {"for", "over", "keep_firing", "cooldown", "forecast", "forecast_from"}


def shown(tmp_path: Path) -> dict[str, dict[str, object]]:
    config = Config(query=Query(in_process=True), watch=Watch(default_rules=False), rules=RULES)
    with Engine.open(str(tmp_path / "data"), config, clock=ManualClock()) as engine:
        status, _, raw = Caller(Application(engine, config))("GET", "/v1/rules")
        assert status == 200
        return {rule["name"]: rule for rule in json.loads(raw)["rules"]}


def test_every_setting_of_a_rule_is_shown(tmp_path: Path) -> None:
    rules = shown(tmp_path)
    assert list(rules) == ["plain", "ratio", "ahead"]
    settings = {field.encode_name for field in msgspec.structs.fields(Rule)} - {"enabled"}
    for rule in rules.values():
        assert {f"{name}_seconds" if name in SECONDS else name for name in settings} <= set(rule)


def test_settings_are_shown_as_they_count(tmp_path: Path) -> None:
    rules = shown(tmp_path)
    ratio = rules["ratio"]
    assert ratio["condition"] == (
        'percent of sum by (service) of increase(app_errors{path!="/health"} over 5m)'
        ' / increase(app_requests{kind="all",path!="/health"} over 5m) x 100'
        " to the median of the same hour of 3 past weeks outside 1..5 for 2m"
    )
    wanted = {
        "match": {},
        "where": 'path!="/health"',
        "over_seconds": 300.0,
        "divide_by": "app_requests",
        "divide_match": {"kind": "all"},
        "divide_where": None,
        "group_by": ["service"],
        "group": "sum",
        "compare_past": 3,
        "compare_as": "percent",
        "for_seconds": 120.0,
        "confirm": False,
        "keep_firing_seconds": 180.0,
        "clear": 1.0,
        "clear_upper": 5.0,
        "when_missing": "ok",
        "labels": {"team": "{service}s"},
        "annotations": {"runbook": "look at {service}"},
        "forecast_seconds": None,
        "problem": None,
    }
    assert {name: ratio[name] for name in wanted} == wanted
    plain, ahead = rules["plain"], rules["ahead"]
    assert (plain["condition"], plain["over_seconds"], plain["group"], plain["compare_past"]) == (
        "cpu_x > 90",
        None,
        None,
        None,
    )
    assert (ahead["forecast_seconds"], ahead["forecast_from_seconds"]) == (14_400.0, 21_600.0)
