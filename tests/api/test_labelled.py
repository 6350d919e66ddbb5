"""The labelled replay: scripts with room between incidents, a fair judge, a short day that is played."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.main import main
from api.demo.fleet import DailyLoad, Fleet
from api.demo.incident import Incident
from api.demo.labelled import TAIL_NS, Judgement, judge, rehearse, render
from api.demo.script import INCIDENTS, RESTART, Labelled, Script, script
from api.demo.traces import TraceLoad
from api.demo.weather import _FIRST_WEEKDAY, WeekLoad
from engine.alerting.alerts import Alert
from engine.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND
from engine.config import Config, Detection, Watch
from engine.config_units import Duration

NOW = 1_790_000_000 * NS_PER_SECOND
QUICK = tuple(each for each in INCIDENTS if each.kind.name in ("cpu saturation", "flapping probe", "error burst"))
CPU = next(each for each in INCIDENTS if each.kind.name == "cpu saturation").kind


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_scripts_leave_room_between_incidents(seed: int) -> None:
    plan = script(seed, Fleet(seed, 10))
    assert plan == script(seed, Fleet(seed, 10))
    assert {each.incident.kind.name for each in plan.labelled} == {each.kind.name for each in INCIDENTS}
    quick = sorted(
        (each for each in plan.labelled if each.incident.seconds < 3_600), key=lambda each: each.incident.start_ns
    )
    assert len(quick) == 16
    for one, other in itertools.pairwise(quick):
        assert other.incident.start_ns - one.incident.end_ns >= 20 * NS_PER_MINUTE
    for each in plan.labelled:
        assert plan.start_ns < each.incident.start_ns < each.deadline_ns < each.incident.end_ns < plan.end_ns
    for harmless in plan.harmless:
        for each in plan.labelled:
            same = harmless.service == each.incident.service
            apart = harmless.end_ns < each.incident.start_ns or harmless.start_ns > each.incident.end_ns
            assert harmless.kind.name == "backup" or not same or apart


def alert_of(rule: str, fired_ns: int, host: str) -> Alert:
    return Alert(
        id=1,
        fingerprint="f",
        rule=rule,
        tagset_id=0,
        severity="critical",
        category="system",
        labels={"host": host, "service": "shop"},
        channels=(),
        state="firing",
        value=97.0,
        threshold=90.0,
        summary="",
        stale=False,
        started_ns=fired_ns,
        cause_time_ns=fired_ns,
        fired_ns=fired_ns,
        notified_ns=fired_ns,
    )


def test_the_judge() -> None:
    incident = Incident(NOW, "shop", 1_200, 10.0, kind=CPU, host="shop-00")
    plan = Script(
        NOW - 60 * NS_PER_MINUTE, NOW + 80 * NS_PER_MINUTE, (Labelled(incident, NOW + 3 * NS_PER_MINUTE),), ()
    )
    metric_of = {"cpu-saturated": "cpu_usage_percent", "probe-down": "probe_up"}
    for after, host, rule, right, caught in (
        (2, "shop-00", "cpu-saturated", True, True),
        (4, "shop-00", "cpu-saturated", True, False),
        (-1, "shop-00", "cpu-saturated", False, False),
        (2, "shop-02", "cpu-saturated", False, False),
        (2, "shop-00", "probe-down", False, False),
        (24, "shop-00", "cpu-saturated", True, False),
        (26, "shop-00", "cpu-saturated", False, False),
    ):
        found = judge(plan, [alert_of(rule, NOW + after * NS_PER_MINUTE, host)], metric_of)
        assert (found.right.total(), found.wrong.total()) == ((1, 0) if right else (0, 1)), after
        assert found.outcomes[0].caught == caught
    assert found.quiet_hours == pytest.approx(60 / 60 + (80 - 20 - TAIL_NS / NS_PER_MINUTE) / 60)
    nothing = judge(plan, [], metric_of)
    assert (nothing.right_share, nothing.caught_share, nothing.good_enough) == (1.0, 0.0, False)


def test_a_short_day_is_judged_right() -> None:
    config = Config(watch=Watch(tick=Duration.parse("15s")), detection=Detection(enabled=False))
    found = rehearse(3, config, kinds=QUICK, times=1, learn_days=0)
    assert found.caught_share == 1.0
    assert found.right_share == 1.0
    assert {"cpu-saturated", "probe-down", "error-rate-high"} <= found.right.keys()
    assert "100.0 % of 3 incidents are caught in time" in render(found)
    # Without any rule nothing is caught, and nothing is wrong either.
    none = Config(watch=Watch(tick=Duration.parse("60s"), default_rules=False), detection=Detection(enabled=False))
    blind = rehearse(3, none, kinds=QUICK[:1], times=1, learn_days=0)
    assert (blind.caught_share, blind.right_share, blind.good_enough) == (0.0, 1.0, False)


def test_judgements_add_up() -> None:
    one = Judgement(quiet_hours=1.0, days=1, anomalies=2)
    one.right["a"] += 3
    total = Judgement()
    total.add(one)
    total.add(one)
    assert (total.right["a"], total.quiet_hours, total.days, total.anomalies) == (6, 2.0, 2, 4)


def test_counters_begin_anew_after_a_restart_and_nothing_is_said_before() -> None:
    fleet = Fleet(1, 1)
    restart = Incident(NOW, "shop", 60.0, 12.0, kind=RESTART, host="shop-00")
    fleet.incidents = (restart,)
    assert fleet.lines(NOW + 30 * NS_PER_SECOND) == b""
    requests = []
    for second in (-30, 60, 90):
        points = list(fleet.instances[0].points(NOW + second * NS_PER_SECOND, fleet.incidents))
        requests += [point.fields["requests_total"] for point in points if point.table == "app"]
    assert requests[0] > 1_000_000
    assert requests[1] == 0
    assert 30 * 10 < requests[2] < 30 * 100


def test_a_clock_that_is_off_dates_the_readings() -> None:
    kind = next(each for each in INCIDENTS if each.kind.clock_seconds).kind
    fleet = Fleet(1, 2)
    fleet.incidents = (Incident(NOW, "shop", 600.0, 10.0, kind=kind, host="shop-00", size=-2.0),)
    times = {line.split(b" ")[-1] for line in fleet.lines(NOW + 60 * NS_PER_SECOND).splitlines()}
    assert {int(time) - NOW for time in times} == {60 * NS_PER_SECOND, (60 - 1_800) * NS_PER_SECOND}


def test_lost_requests_are_lost() -> None:
    kind = next(each for each in INCIDENTS if each.kind.lost).kind
    fleet, quiet = Fleet(2, 1), Fleet(2, 1)
    fleet.incidents = (Incident(NOW, "shop", 1_200.0, 10.0, kind=kind),)

    def gained(which: Fleet, start: int, end: int) -> float:
        counts = []
        for second in (start, end):
            points = which.instances[0].points(NOW + second * NS_PER_SECOND, which.incidents)
            counts += [point.fields["requests_total"] for point in points if point.table == "app"]
        return counts[1] - counts[0]

    assert gained(fleet, 0, 1_200) == pytest.approx(0.15 * gained(quiet, 0, 1_200), abs=2)
    assert gained(fleet, 1_200, 2_400) == pytest.approx(gained(quiet, 1_200, 2_400), abs=2)


def test_rough_weather_has_heavy_tails_lost_readings_and_comes_again_alike() -> None:
    times = range(NOW, NOW + NS_PER_DAY, 30 * NS_PER_SECOND)
    fleet, calm = Fleet(3, 1, noisy=True, rough=True), Fleet(3, 1, noisy=True)
    assert fleet.lines(NOW) == Fleet(3, 1, noisy=True, rough=True).lines(NOW)
    rough, tame = (
        [
            point.fields["response_time_ms"]
            for time_ns in times
            for point in each.instances[0].points(time_ns)
            if point.table == "app"
        ]
        for each in (fleet, calm)
    )
    assert len(tame) == len(times)
    # Two in a hundred readings are lost, and some more while a region is out of reach.
    assert 0.94 * len(times) < len(rough) < 0.99 * len(times)
    assert max(tame) < 2 * np.median(tame)
    assert max(rough) > 5 * np.median(rough)
    assert np.mean(np.array(rough) > 2 * np.median(rough)) < 0.02


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.floats(0, 3e8), st.floats(0, 3e5))
def test_the_integral_of_a_week(seed: int, start: float, length: float) -> None:
    load = WeekLoad(seed)
    edges = np.linspace(start, start + length, 8_001)
    total = sum(load.at(second) for second in (edges[1:] + edges[:-1]) / 2) * length / 8_000
    assert load.integral(start + length) - load.integral(start) == pytest.approx(total, rel=1e-3, abs=100.0)


def test_weekends_are_quieter() -> None:
    monday = next(day for day in range(7) if (_FIRST_WEEKDAY + day) % 7 == 0)
    days = [
        WeekLoad(1).integral((day + 1) * 86_400.0) - WeekLoad(1).integral(day * 86_400.0)
        for day in range(monday, monday + 7)
    ]
    assert min(days[:5]) > 1.3 * max(days[5:])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1_000))
def test_rough_scripts_keep_clear_of_incidents(seed: int) -> None:
    fleet = Fleet(seed, 10)
    plan, rough = script(seed, fleet), script(seed, fleet, rough=True)
    assert (rough.labelled, rough.harmless[: len(plan.harmless)]) == (plan.labelled, plan.harmless)
    together = rough.harmless[len(plan.harmless) :]
    assert together
    for harmless in together:
        for each in plan.labelled:
            apart = harmless.end_ns < each.incident.start_ns or harmless.start_ns > each.incident.end_ns
            assert harmless.service != each.incident.service or apart


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.lists(st.integers(5, 60), min_size=2, max_size=10), st.booleans())
def test_noisy_counters_never_fall(seed: int, gaps: list[int], rough: bool) -> None:
    fleet = Fleet(seed, 1, noisy=True, rough=rough)
    time_ns, before = NOW, -1.0
    for gap in gaps:
        time_ns += gap * NS_PER_SECOND
        if not fleet.lines(time_ns):
            continue
        (app,) = (point for point in fleet.instances[0].points(time_ns) if point.table == "app")
        assert app.fields["requests_total"] >= before
        before = app.fields["requests_total"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=3, max_size=30),
    st.floats(0, 1e5),
    st.floats(0, 3e4),
    st.floats(0, 1e4),
)
def test_the_integral_of_a_trace(rates: list[float], offset: float, start: float, length: float) -> None:
    load = TraceLoad("t", np.array(rates), 60.0, offset)
    edges = np.linspace(start, start + length, 4_001)
    total = sum(load.at(second) for second in (edges[1:] + edges[:-1]) / 2) * length / 4_000
    assert load.integral(start + length) - load.integral(start) == pytest.approx(total, abs=60.0)
    assert DailyLoad().integral(60.0) == pytest.approx(60 * DailyLoad().at(30.0), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--labelled", "--from", "now-1h"], "cannot use --from with --labelled"),
        (["--seeds", "1", "--from", "now-1h"], "cannot use --seeds without --labelled"),
        (["--rough", "--from", "now-1h"], "cannot use --rough without --labelled"),
        (["--labelled", "--seeds", "one"], "want whole numbers"),
        (["--labelled", "--loads", "/nowhere"], "cannot read traces"),
    ],
)
def test_wrong_use(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_incidents_can_be_resized() -> None:
    incident = Incident(NOW, "shop", 100.0, 10.0, fall_seconds=40.0, kind=CPU)
    assert incident.full_seconds(incident.end_ns) == pytest.approx(5 + 50 + 20)
    assert replace(incident, fall_seconds=None).full_seconds(incident.end_ns) == pytest.approx(90.0)
