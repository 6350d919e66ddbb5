"""A replay over a stopped data directory says what the server said while the samples came in."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.alerting.alerts import labels_json
from engine.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Channel, Config, Detection, Query, Rule, ScaleTarget, Watch
from engine.config_units import Duration
from engine.errors import Damage, Unavailable
from engine.maintenance.replay.history import History
from engine.maintenance.replay.stored import Replayed, replay
from engine.runtime import Engine

START_NS = 1_790_000_000 * NS_PER_SECOND // NS_PER_DAY * NS_PER_DAY
STEP_NS = 30 * NS_PER_SECOND
CONFIG = Config(
    query=Query(in_process=True),
    watch=Watch(tick=Duration.parse("30s")),
    detection=Detection(enabled=False),
    rules=(
        Rule(
            name="errors-many",
            metric="app_errors_total",
            divide_by="app_requests_total",
            op=">",
            threshold=5.0,
            clear=3.0,
            aggregate="increase",
            over=Duration.parse("2m"),
            scale=100.0,
            for_=Duration.parse("1m"),
        ),
    ),
    scale=(ScaleTarget(target="web", match={"service": "web"}),),
)


def lines_at(index: int) -> bytes:
    """Two hosts: the CPU of one saturates now and then, the other's requests fail for a while."""
    time_ns = START_NS + index * STEP_NS
    cpu = 97.0 if index % 60 in (20, 21, 22) else 50 + 5 * math.sin(index)
    errors = 3 * max(0, min(index, 90) - 60)
    return (
        f"cpu,host=a,service=web usage_percent={cpu} {time_ns}\n"
        f"cpu,host=b,service=web usage_percent=40 {time_ns}\n"
        f"app,host=b,service=web requests_total={20 * index}i,errors_total={errors}i {time_ns}\n"
    ).encode()


def live(path: Path, config: Config, rows: int) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return alerts and decisions of an engine that is judged after every step."""
    clock = ManualClock(START_NS)
    with Engine.open(str(path), config, clock=clock, mode="embedded") as engine:
        for index in range(rows):
            clock.set_ns(START_NS + index * STEP_NS)
            engine.submit_lines(lines_at(index)).result(30)
            if index:
                engine.watcher.tick()
                engine.decider.tick()
        alerts = engine.alerts.alerts_table(clock.now_ns())
        decisions = engine.decisions.decisions_table()
    names = ("rule", "labels", "state", "value", "started_at", "fired_at", "resolved_at")
    asked = [action != "hold" for action in decisions["action"]]
    found = list(zip(decisions["target"], decisions["decided_at"], decisions["desired"], strict=True))
    return (
        sorted(zip(*(alerts[name] for name in names), strict=True), key=str),
        [row for row, wanted in zip(found, asked, strict=True) if wanted],
    )


def replayed(path: Path, config: Config, rows: int, **given: int) -> Replayed:
    end_ns = START_NS + (rows - 1) * STEP_NS
    with History(str(path)) as history:
        return replay(history, config, **{"start_ns": START_NS, "end_ns": end_ns, "learn_ns": 0, **given})


def test_the_same_alerts_and_decisions_as_live(tmp_path: Path) -> None:
    rows = 200
    alerts, decisions = live(tmp_path / "data", CONFIG, rows)
    again = replayed(tmp_path / "data", CONFIG, rows)
    assert again.ticks == rows - 1
    found = [
        (
            alert.rule,
            labels_json(alert.labels),
            alert.state,
            alert.value,
            alert.started_ns,
            alert.fired_ns,
            alert.resolved_ns,
        )
        for alert in again.alerts
    ]
    assert sorted(found, key=str) == alerts
    assert {alert.rule for alert in again.alerts} == {"cpu-saturated", "error-rate-high", "errors-many"}
    assert [(row["target"], row["decided_at"], row["desired"]) for row in again.decisions] == decisions


def test_a_replay_changes_nothing_and_reads_the_log(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    engine = Engine.open(str(tmp_path / "data"), CONFIG, clock=clock, mode="embedded")
    for index in range(40):
        clock.set_ns(START_NS + index * STEP_NS)
        engine.submit_lines(lines_at(index)).result(30)
    with pytest.raises(Unavailable):
        History(str(tmp_path / "data"))
    # What a crash leaves: everything is in the log, nothing is sealed.
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in sorted((tmp_path / "data").rglob("*")):
        target = copy / file.relative_to(tmp_path / "data")
        if file.is_dir():
            target.mkdir(exist_ok=True)
        elif file.name != "LOCK":
            target.write_bytes(file.read_bytes())
    engine.close()
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    found = replayed(copy, CONFIG, 40)
    assert [alert.rule for alert in found.alerts] == ["cpu-saturated"]
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and file.name != "LOCK"} == before


def test_detection_learns_from_before(tmp_path: Path) -> None:
    config = with_detection(CONFIG)
    clock = ManualClock(START_NS)
    values = 40 + np.random.default_rng(1).normal(size=4 * 288)
    values[-10] = 95.0
    step_ns = 5 * NS_PER_MINUTE
    with Engine.open(str(tmp_path / "data"), config, clock=clock, mode="embedded") as engine:
        clock.set_ns(START_NS + len(values) * step_ns)
        lines = [f"queue,host=a length={value} {START_NS + i * step_ns}" for i, value in enumerate(values.tolist())]
        engine.submit_lines("\n".join(lines).encode()).result(30)
    given = {"start_ns": START_NS + 3 * NS_PER_DAY, "end_ns": START_NS + 4 * NS_PER_DAY}
    with History(str(tmp_path / "data")) as history:
        found = replay(history, config, learn_ns=3 * NS_PER_DAY, **given)
        assert [row["value"] for row in found.anomalies if row["score"] > 0.9] == [95.0]
        assert found.learned_from_ns == START_NS
        assert all(row["time"] >= given["start_ns"] for row in found.anomalies)


def with_detection(config: Config) -> Config:
    five_minutes = Duration.parse("5m")
    return msgspec.structs.replace(config, detection=Detection(interval=five_minutes), watch=Watch(tick=five_minutes))


def test_notifications_are_counted_and_not_sent(tmp_path: Path) -> None:
    live(tmp_path / "data", CONFIG, 50)
    channel = Channel(name="ops", url="http://127.0.0.1:9/none")
    found = replayed(tmp_path / "data", msgspec.structs.replace(CONFIG, channels=(channel,)), 50)
    assert found.notifications == [("ops", "firing", 1), ("ops", "resolved", 1)]


def test_a_damaged_directory_is_refused(tmp_path: Path) -> None:
    live(tmp_path / "data", CONFIG, 5)
    manifest = next((tmp_path / "data").glob("manifest-*.json"))
    for each in (tmp_path / "data").glob("manifest-*.json"):
        each.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(Damage, match="tidegauge verify"):
        History(str(tmp_path / "data"))


def test_rules_see_only_what_has_arrived(tmp_path: Path) -> None:
    """The newest value of a later time must not be looked at: a replay up to then is the beginning of a longer one."""
    live(tmp_path / "data", CONFIG, 110)
    whole, part = (replayed(tmp_path / "data", CONFIG, rows) for rows in (110, 60))
    end_ns = part.end_ns
    fired = [(a.rule, a.labels["host"], a.fired_ns) for a in whole.alerts if a.fired_ns and a.fired_ns <= end_ns]
    assert fired == [(alert.rule, alert.labels["host"], alert.fired_ns) for alert in part.alerts if alert.fired_ns]
