"""Bottlenecks in an engine: a simulated fleet with an incident, from samples to findings and what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from api.demo.fleet import Fleet
from api.demo.incident import Incident
from api.demo.script import INCIDENTS
from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Bottlenecks, Config
from engine.detection.findings import MOST, Finding, FindingStore, Outcome
from engine.errors import BadRequest
from engine.maintenance import bottlenecks
from engine.maintenance.bottlenecks import Question
from engine.query.panels import Panel, Panels
from engine.runtime import Engine

START_NS = 1_790_000_000 * NS_PER_SECOND
STEP_SECONDS = 30


class Site:
    """A fleet that reports to an engine as its clock advances."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.clock, self.fleet, self._path = ManualClock(START_NS), Fleet(3, 10), path
        self.config = Config(bottlenecks=Bottlenecks(**settings))
        self.engine = self._open()
        history = self.fleet.history(START_NS - 70 * NS_PER_MINUTE, START_NS, STEP_SECONDS * NS_PER_SECOND)
        for lines in history:
            self.engine.submit_lines(lines).result()

    def _open(self) -> Engine:
        return Engine(str(self._path), self.config, clock=self.clock, mode="embedded")

    def restart(self) -> None:
        self.engine.close()
        self.engine = self._open()

    def live(self, minutes: int) -> None:
        for _ in range(minutes * 60 // STEP_SECONDS):
            self.engine.submit_lines(self.fleet.lines(self.clock.now_ns())).result()
            self.clock.advance(STEP_SECONDS)
        self.engine.watcher.tick()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "data")
    yield made
    made.engine.close()


def test_an_incident_is_found_explained_and_followed_to_its_end(site: Site) -> None:
    site.live(5)
    assert site.engine.look_for_bottlenecks().findings == ()
    began_ns = site.clock.now_ns() + NS_PER_MINUTE
    site.fleet.incidents = (Incident(began_ns, service="cart", seconds=600.0, ramp_seconds=30.0),)
    site.live(6)
    report = site.engine.look_for_bottlenecks()
    assert report.windows.basis == "alerts"
    assert report.problem is None
    assert (report.services, report.left_out) == (4, 0)
    [found] = report.findings
    assert (found.service, found.resource, found.kind) == ("cart", "cpu", "changed")
    assert found.instance == ""
    assert found.first_moved_ns is not None
    assert abs(found.first_moved_ns - began_ns) <= 2 * NS_PER_MINUTE
    assert found.gain == pytest.approx(found.confidence * found.effect_share)
    assert found.effect_metric.startswith("cart/app_")
    evidence = json.loads(found.evidence)
    assert evidence[0]["strength"] == max(each["strength"] for each in evidence)
    # It is told once, however often it is seen and whatever happens to the server.
    site.restart()
    site.live(2)
    assert site.engine.look_for_bottlenecks().ids == report.ids
    [row] = site.engine.sql("SELECT * FROM bottlenecks").table.to_pylist()
    assert (row["id"], row["times_seen"], row["service"], row["outcome"]) == (report.ids[0], 2, "cart", None)
    assert row["gain"] == found.gain
    # Over: what it brought is held beside what had been said.
    site.live(30)
    assert site.engine.look_for_bottlenecks().findings == ()
    [row] = site.engine.sql("SELECT * FROM bottlenecks").table.to_pylist()
    assert row["outcome"] == "as_expected"
    assert row["outcome_share"] == pytest.approx(row["effect_share"], abs=0.1)
    assert site.engine.bottlenecks.find() == []
    metrics = site.engine.vitals.registry
    assert metrics.get_sample_value("tidegauge_bottleneck_outcomes_total", {"outcome": "as_expected"}) == 1


@pytest.mark.parametrize(
    ("name", "service", "instance", "resources"),
    [
        ("cpu saturation", "search", "search-03", {"cpu"}),
        ("latency regression", "search", "", {"latency", "queue"}),
        ("error burst", "search", "", {"errors"}),
        ("bad deployment", "search", "", {"cpu", "errors", "latency", "queue"}),
        ("agent loss", "", "", set()),
        ("clock skew", "", "", set()),
    ],
)
def test_scripted_incidents_are_found_and_nothing_else_is(
    tmp_path: Path, name: str, service: str, instance: str, resources: set[str]
) -> None:
    kind = next(each.kind for each in INCIDENTS if each.kind.name == name)
    clock, fleet = ManualClock(START_NS), Fleet(5, 10, noisy=True)
    host = "search-03" if kind.scope == "host" else None
    began_ns = START_NS - 8 * NS_PER_MINUTE
    fleet.incidents = (Incident(began_ns, service="search", host=host, seconds=900.0, ramp_seconds=30.0, kind=kind),)
    with Engine(str(tmp_path / "data"), Config(), clock=clock, mode="embedded") as engine:
        for lines in fleet.history(START_NS - 80 * NS_PER_MINUTE, START_NS, NS_PER_MINUTE):
            engine.submit_lines(lines).result()
        found = engine.look_for_bottlenecks().findings
    assert {(each.service, each.instance) for each in found} == ({(service, instance)} if service else set())
    assert {each.resource for each in found} <= resources


def test_one_bad_instance_is_named(site: Site) -> None:
    site.live(2)
    for _ in range(20):
        now_ns = site.clock.now_ns()
        lines = site.fleet.lines(now_ns).decode().splitlines()
        hot = [line.replace("usage_percent=", "usage_percent=99.0,x=") for line in lines if "host=shop-02" in line]
        site.engine.submit_lines(
            "\n".join([*(each for each in lines if each not in lines or "host=shop-02" not in each), *hot]).encode()
        ).result()
        site.clock.advance(STEP_SECONDS)
    found = site.engine.look_for_bottlenecks().findings
    assert {(each.service, each.instance, each.resource) for each in found} == {("shop", "shop-02", "cpu")}


def test_a_question_is_answered_and_nothing_is_kept(site: Site) -> None:
    site.fleet.incidents = (Incident(site.clock.now_ns(), service="cart", seconds=300.0),)
    site.live(5)
    now_ns = site.clock.now_ns()
    by_host = site.engine.look_for_bottlenecks(
        Question(
            window_ns=6 * NS_PER_MINUTE, service_labels=("host",), changes=(("cart-01", now_ns - 310 * NS_PER_SECOND),)
        )
    )
    assert by_host.windows.basis == "asked"
    assert by_host.findings[0].service == "cart-01"
    assert "It was changed" in by_host.findings[0].recommendation
    before = site.engine.look_for_bottlenecks(Question(end_ns=now_ns - 6 * NS_PER_MINUTE))
    assert before.findings == ()
    only = site.engine.look_for_bottlenecks(Question(window_ns=6 * NS_PER_MINUTE, metrics=("cpu_usage_*",)))
    assert {proof["metric"].partition("cpu_usage_")[1] for each in only.findings for proof in json.loads(each.evidence)}
    assert only.series == 10 * 4
    assert site.engine.bottlenecks.find(states=()) == []
    assert site.engine.bottleneck_finder.latest is None
    with pytest.raises(BadRequest, match="no series has samples for the entry 'cart/none', want SERVICE/METRIC"):
        site.engine.look_for_bottlenecks(Question(entry="cart/none"))
    with pytest.raises(BadRequest, match="got a window of 60 s, want at least two steps of 60 s"):
        site.engine.look_for_bottlenecks(Question(window_ns=NS_PER_MINUTE))


def test_recorded_deployments_are_changes(site: Site) -> None:
    site.fleet.incidents = (Incident(site.clock.now_ns() + NS_PER_MINUTE, service="cart", seconds=600.0),)
    began_ns, record = site.clock.now_ns(), site.engine.deploys.record
    site.live(6)
    now_ns = site.clock.now_ns()
    # Long before, of another service, and of what reports nothing.
    record("cart", "7", time_ns=began_ns - 60 * NS_PER_MINUTE, now_ns=now_ns)
    record("search", "3", time_ns=began_ns - 40 * NS_PER_MINUTE, now_ns=now_ns)
    record("elsewhere", "1", time_ns=began_ns, now_ns=now_ns)
    unaware = site.engine.look_for_bottlenecks(Question())
    assert unaware.findings[0].service == "cart"
    assert "changed" not in unaware.findings[0].recommendation
    record("cart", "8", time_ns=began_ns, now_ns=now_ns)
    [found, *_] = site.engine.look_for_bottlenecks().findings
    assert found.service == "cart"
    assert found.recommendation.startswith("It was changed ")
    assert found.confidence > unaware.findings[0].confidence


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    with Engine(str(tmp_path / "data"), Config(), clock=clock, mode="embedded") as engine:
        assert engine.look_for_bottlenecks().problem == "no series of the time looked at belongs to a service"
        engine.submit_lines(b"cpu,host=a usage=1").result()
        clock.advance(60)
        assert engine.look_for_bottlenecks().problem == "only 0 normal steps have samples, want at least 5"


def test_the_worst_instance_is_the_one_that_is_left() -> None:
    panel = Panel("shop", "cpu", False, ("a",), np.full((8, 1), 3.0))
    table = bottlenecks._table([panel])
    assert bottlenecks._present(table, "shop/max(cpu)") == bottlenecks._present(table, "shop/cpu") == 3.0
    assert bottlenecks._present(table, "shop/max(memory)") is None


def test_series_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    site = Site(tmp_path / "data", max_series=25)
    with site.engine:
        report = site.engine.look_for_bottlenecks()
        assert report.series == 24
        assert report.series + report.left_out == 138


# --- panels


def panels_of(engine: Engine, metrics: list[str], labels: tuple[str, ...], limit: int = 100) -> Panels:
    reader = engine.bottleneck_finder._panels
    end_ns = START_NS + 5 * NS_PER_MINUTE
    return reader.read(
        metrics,
        lambda name: name.endswith("_total"),
        labels=labels,
        start_ns=START_NS,
        end_ns=end_ns,
        step_ns=NS_PER_MINUTE,
        max_series=limit,
    )


def test_panels_hold_what_was_reported(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    lines = []
    for second in range(0, 300, 20):
        at = START_NS + second * NS_PER_SECOND
        for instance, level in (("a", 1.0), ("b", 5.0)):
            if instance == "b" and second >= 120:
                continue
            lines.append(f"app,service=shop,host={instance},core=0 level={level},done_total={second * level} {at}")
            lines.append(f"app,service=shop,host={instance},core=1 level={level + 2.0} {at}")
        lines.append(f"app,host=c level=7 {at}")
        lines.append(f"app,zone=z level=7 {at}")
        lines.append(
            f"call,job=web seconds_sum={second * 3.0},seconds_count={second * 2.0},seconds_bucket={second} {at}"
        )
    with Engine(str(tmp_path / "data"), Config(), clock=clock, mode="embedded") as engine:
        clock.advance(600)
        engine.submit_lines("\n".join(lines).encode()).result()
        found = panels_of(engine, engine.catalog.metric_names(), ("service", "job", "host"))
        by_name = {(each.service, each.metric): each for each in found.panels}
        assert set(by_name) == {
            ("shop", "app_level"),
            ("c", "app_level"),
            ("shop", "app_done_total"),
            ("web", "call_seconds_mean"),
            ("web", "call_seconds_count"),
        }
        level = by_name["shop", "app_level"]
        assert level.instances == ("a", "b")
        assert np.array_equal(level.values[:, 0], [2.0] * 5)
        assert np.array_equal(level.values[:, 1], [6.0, 6.0, np.nan, np.nan, np.nan], equal_nan=True)
        done = by_name["shop", "app_done_total"]
        assert done.counted
        assert done.values[1:, 0] == pytest.approx([1.0] * 4)
        assert by_name["c", "app_level"].instances == ("",)
        assert by_name["web", "call_seconds_mean"].values[1:, 0] == pytest.approx([1.5] * 4)
        # The series of a zone belongs to no service.
        assert found.left_out == 1


def test_one_bad_instance_among_scraped_ones_is_found(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    with Engine(str(tmp_path / "data"), Config(), clock=clock, mode="embedded") as engine:
        rng = np.random.default_rng(5)
        busy, count, seconds = dict[str, float](), dict[str, float](), dict[str, float]()
        for minute in range(75, 0, -1):
            lines = []
            for job in ("api", "db", "web"):
                for host in ("1", "2", "3"):
                    key, labels = job + host, f'job="{job}",instance="{host}"'
                    hot, slow = minute <= 8 and key == "db2", minute <= 8 and key in ("db2", "web1", "web2", "web3")
                    busy[key] = busy.get(key, 0.0) + 60 * (0.9 if hot else 0.3) + rng.normal()
                    asked = float(rng.integers(290, 310))
                    count[key] = count.get(key, 0.0) + asked
                    seconds[key] = seconds.get(key, 0.0) + asked * (0.5 if slow else 0.1) * rng.uniform(0.9, 1.1)
                    lines += [
                        f"process_cpu_seconds_total{{{labels}}} {busy[key]}",
                        f"request_seconds_count{{{labels}}} {count[key]}",
                        f"request_seconds_sum{{{labels}}} {seconds[key]}",
                        f'request_seconds_bucket{{{labels},le="+Inf"}} {count[key]}',
                    ]
            at = (START_NS - minute * NS_PER_MINUTE) // 10**6
            body = "".join(f"{line} {at}\n" for line in lines)
            engine.submit_prometheus_text(body.encode()).result()
        report = engine.look_for_bottlenecks(Question(graph=(("web", "db"), ("web", "api"))))
        first = report.findings[0]
        assert (first.service, first.instance, first.resource) == ("db", "2", "cpu")
        assert first.effect_metric == "db/max(request_seconds_mean)"
        assert (first.value, first.expected) == pytest.approx((0.8 * 0.9 + 0.2 * 0.3, 0.3), rel=0.1)
        assert report.series == 9 * 3


# --- store

STATED = Finding(
    time_ns=START_NS,
    last_seen_ns=START_NS,
    first_moved_ns=None,
    kind="changed",
    service="shop",
    instance="",
    resource="cpu",
    aspect="utilisation",
    metric="shop/cpu_percent",
    value=90.0,
    expected=40.0,
    basis="recent",
    confidence=0.8,
    gain=0.4,
    effect_metric="shop/latency",
    effect_share=0.5,
    effect_from=200.0,
    effect_to=100.0,
    effect_by="symptom",
    reason="cpu_percent 90 against 40",
    recommendation="profile it",
    evidence="[]",
)


def test_one_finding_is_open_for_a_resource_of_a_service(tmp_path: Path) -> None:
    control = ControlDatabase(str(tmp_path / "control.sqlite"))
    store = FindingStore(control)
    again = replace(STATED, last_seen_ns=START_NS + 5, gain=0.9)
    other = replace(STATED, resource="memory")
    assert store.record([STATED]) == [1]
    assert store.record([again, other]) == [1, 2]
    [newest, first] = store.find()
    assert newest["resource"] == "memory"
    assert (first["gain"], first["times_seen"], first["last_seen"]) == (0.4, 2, START_NS + 5)
    assert store.record([], [Outcome(1, "less", START_NS + 9, 0.1)]) == []
    assert store.record([again]) == [3]
    assert [each["id"] for each in store.find(states=("closed",))] == [1]
    assert [each["id"] for each in store.find(states=())] == [3, 2, 1]
    assert [each["id"] for each in store.find(states=(), before_id=3, limit=1)] == [2]
    assert [each["id"] for each in store.find(service="nobody")] == []
    assert [each["id"] for each in store.find(since_ns=START_NS + 1)] == []
    assert store.table()["outcome"] == ["less", None, None]
    assert store.prune(START_NS + 1) == 1
    assert [each["id"] for each in store.find(states=())] == [3, 1]
    store.record([replace(STATED, service=str(number), last_seen_ns=START_NS + 5) for number in range(MOST)])
    assert store.prune(START_NS + 1) == 2
    control.close()
