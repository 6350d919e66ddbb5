"""Bottlenecks from arrays: names, effects, what counts as one, and what is kept silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.detection import effects
from engine.detection.advice import recommend
from engine.detection.bottlenecks import find_bottlenecks
from engine.detection.resources import read_resource, utilisation
from engine.detection.semantics import read_metric
from engine.detection.windows import choose_windows, recent_windows

Matrix = np.ndarray[Any, np.dtype[np.float64]]
SERVICES = ("web", "shop", "stock")
METRICS = ("cpu_percent", "memory_used_bytes", "response_time_ms", "errors_total", "requests_total", "queue_length")
LEVELS = (40.0, 2e9, 100.0, 0.2, 50.0, 4.0)
COLUMNS = [f"{service}/{metric}" for service in SERVICES for metric in METRICS]
GRAPH = [("web", "shop"), ("shop", "stock")]


def quiet(rows: int, seed: int) -> Matrix:
    rng = np.random.default_rng(seed)
    level = np.tile(LEVELS, len(SERVICES))
    return level * (1.0 + 0.08 * rng.standard_normal((rows, len(COLUMNS))))


def incident(factors: dict[str, float], seed: int = 1) -> Matrix:
    values = quiet(12, seed)
    for column, factor in factors.items():
        values[2:, COLUMNS.index(column)] *= factor
    return values


# --- names


@pytest.mark.parametrize(
    ("name", "resource", "aspect"),
    [
        ("cpu_usage_percent", "cpu", "utilisation"),
        ("node_load1", "cpu", "saturation"),
        ("container_cpu_cfs_throttled_seconds_total", "cpu", "saturation"),
        ("memory_used_percent", "memory", "utilisation"),
        ("jvm_gc_pause_seconds", "memory", "saturation"),
        ("disk_io_time", "disk", "saturation"),
        ("db_connections_active", "connections", "utilisation"),
        ("hikari_pool_pending", "connections", "saturation"),
        ("net_bytes_recv", "network", "utilisation"),
        ("net_errors_total", "network", "errors"),
        ("app_queue_length", "queue", "saturation"),
        ("app_response_time_ms", "latency", "latency"),
        ("availability_Average", "errors", "errors"),
        ("app_errors_total", "errors", "errors"),
        ("requests_total", "traffic", "load"),
        ("temperature", "other", "other"),
    ],
)
def test_names_tell_resource_and_aspect(name: str, resource: str, aspect: str) -> None:
    found = read_resource(read_metric(f"shop/{name}"))
    assert (found.name, found.aspect) == (resource, aspect)


@pytest.mark.parametrize(
    ("name", "values", "share"),
    [
        ("cpu_usage_percent", [50.0, 95.0], [0.5, 0.95]),
        ("cpu_utilization", [0.5, 0.95], [0.5, 0.95]),
        ("cpu_utilization", [50.0, 95.0], [0.5, 0.95]),
        ("cpu_usage_idle_percent", [50.0, 95.0], None),
        ("memory_free_percent", [50.0], None),
        ("memory_used_bytes", [50.0], None),
        ("cpu_percent", [250.0], None),
        ("cpu_percent", [float("nan")], None),
        ("response_time_percent", [50.0], None),
    ],
)
def test_only_a_share_of_a_resource_is_a_utilisation(name: str, values: list[float], share: list[float] | None) -> None:
    found = utilisation(read_metric(f"shop/{name}"), np.array(values))
    assert (None if found is None else found.tolist()) == share


# --- effects


def test_effect_on_a_symptom_is_the_excess_times_what_moves_together() -> None:
    latency, cpu = read_metric("a/latency"), np.array([1.0] * 20 + [3.0] * 5)
    effect = effects.by_symptom(latency, np.array([100.0] * 20 + [400.0] * 5), cpu, 20)
    assert (effect.share, effect.now, effect.then) == pytest.approx((0.75, 400.0, 100.0))
    apart = np.array([1.0, 3.0] * 10 + [1.0, 3.0, 2.0, 1.0, 3.0])
    seen = np.array([100.0] * 20 + [400.0] * 5)
    expected = 0.75 * np.corrcoef(seen, apart)[0, 1] ** 2
    assert effects.by_symptom(latency, seen, apart, 20).share == pytest.approx(expected)


def test_effect_on_a_success_rate_is_told_in_failures() -> None:
    success = read_metric("a/success_rate")
    seen = effects.badness(success, np.array([0.99] * 10 + [0.90] * 5))
    effect = effects.by_symptom(success, seen, seen, 10)
    assert (effect.now, effect.then) == pytest.approx((10.0, 1.0))


@pytest.mark.parametrize(("now", "then"), [(0.9, 0.5), (0.8, 0.7), (0.5, 0.9), (1.0, 0.7)])
def test_queueing_effect_is_that_of_one_server(now: float, then: float) -> None:
    waits = [1.0 / (1.0 - min(share, effects.BUSIEST)) for share in (now, then)]
    effect = effects.by_queueing("a/cpu", now, then)
    assert effect.share == pytest.approx(max(0.0, 1.0 - waits[1] / waits[0]))
    assert effect.now == pytest.approx(waits[0])


@pytest.mark.parametrize(
    ("expected", "outcome", "verdict"),
    [
        (0.5, 0.5, "as_expected"),
        (0.5, 0.25, "as_expected"),
        (0.5, 0.2, "less"),
        (0.5, 0.04, "no_effect"),
        (0.5, -0.2, "worse"),
        (0.2, 0.5, "more"),
    ],
)
def test_verdicts(expected: float, outcome: float, verdict: str) -> None:
    assert effects.verdict(expected, outcome) == verdict


def test_a_metric_is_back_when_half_of_its_deviation_has_gone() -> None:
    assert [effects.is_gone(90.0, 40.0, now) for now in (90.0, 66.0, 65.0, 40.0, 10.0)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert [effects.is_gone(0.5, 1.0, now) for now in (0.5, 0.8, 2.0)] == [False, True, True]


# --- what is found


@pytest.mark.parametrize("seed", range(20))
def test_quiet_services_have_no_bottleneck(seed: int) -> None:
    assert find_bottlenecks(COLUMNS, quiet(60, seed), quiet(10, 1_000 + seed), graph=GRAPH) == []


def test_a_busy_cpu_that_slows_its_callers_is_found_with_its_effect() -> None:
    factors = {"stock/cpu_percent": 2.2, "stock/response_time_ms": 6.0, "shop/response_time_ms": 4.0}
    [first, *rest] = find_bottlenecks(COLUMNS, quiet(60, 0), incident(factors), graph=GRAPH)
    assert (first.kind, first.service, first.resource, first.aspect) == ("changed", "stock", "cpu", "utilisation")
    assert first.metric == "stock/cpu_percent"
    assert first.first_row == 2
    assert first.value == pytest.approx(88.0, rel=0.1)
    assert first.expected == pytest.approx(40.0, rel=0.1)
    assert (first.effect.metric, first.effect.how) == ("stock/response_time_ms", "symptom")
    assert first.effect.share == pytest.approx(5 / 6, abs=0.1)
    assert first.gain == first.confidence * first.effect.share
    assert all(first.gain >= each.gain for each in rest)
    assert [proof.column for proof in first.evidence[:2]] == ["stock/response_time_ms", "stock/cpu_percent"]
    assert first.recommendation.startswith("stock needs more CPU for no more load")


def test_advice_follows_load_and_changes() -> None:
    more_load = {"shop/cpu_percent": 2.2, "shop/requests_total": 2.0, "shop/response_time_ms": 3.0}
    [first, *_] = find_bottlenecks(COLUMNS, quiet(60, 0), incident(more_load))
    assert first.recommendation.startswith("CPU of shop is short (its load is up by ")
    slow = incident({"shop/response_time_ms": 5.0})
    [first, *_] = find_bottlenecks(COLUMNS, quiet(60, 0), slow, changes=[("shop", -30.0)])
    assert (first.resource, first.aspect) == ("latency", "latency")
    assert first.recommendation.startswith("It was changed 30 s before this began: roll that back first if it can be.")


def test_a_resource_that_is_always_full_is_found_though_nothing_has_changed() -> None:
    normal, now = quiet(60, 0), quiet(10, 1)
    at = COLUMNS.index("shop/cpu_percent")
    normal[:, at], now[:, at] = 50.0, 91.0
    normal[40:, at] = 90.0
    normal[[3, 50], at] = np.nan
    full = [each for each in find_bottlenecks(COLUMNS, normal, now) if each.service == "shop"]
    assert [(each.kind, each.resource, each.first_row) for each in full] == [("saturated", "cpu", -20)]
    assert (full[0].effect.metric, full[0].effect.how) == ("shop/cpu_percent", "queueing")
    assert full[0].gain == pytest.approx(1 - 0.09 / 0.3)
    assert (full[0].value, full[0].expected) == pytest.approx((91.0, 70.0))


def test_a_resource_that_has_been_full_for_a_moment_is_not_saturated() -> None:
    normal, now = quiet(60, 0), quiet(10, 1)
    at = COLUMNS.index("shop/cpu_percent")
    normal[:, at], now[:, at] = np.nan, np.nan
    now[6:, at] = 95.0
    assert find_bottlenecks(COLUMNS, normal, now) == []
    now[4:, at] = 95.0
    [found] = find_bottlenecks(COLUMNS, normal, now)
    assert (found.kind, found.first_row) == ("saturated", 4)


@pytest.mark.parametrize(
    ("metric", "load", "saturated", "said"),
    [
        ("cpu_percent", 0.4, False, "CPU of shop is short (its load is up by 40%): add instances of it"),
        ("cpu_percent", None, False, "shop needs more CPU: profile it"),
        ("cpu_percent", None, True, "CPU of shop is short: add instances of it"),
        ("queue_length", 0.0, False, "shop has more in its queues for no more load: find out why"),
        ("queue_length", 0.5, False, "The queues of shop are long (its load is up by 50%): add consumers"),
        ("db_connections", 0.0, False, "shop needs more connections for no more load: find who holds connections"),
        ("errors_total", -0.3, False, "Read the log of shop for errors from that time on (its load is down by 30%);"),
        ("net_errors_total", None, False, "Read the log of shop for errors of network from that time on;"),
        ("response_time_ms", 0.4, False, "shop is slower under more load (its load is up by 40%): add instances"),
        ("response_time_ms", 0.0, False, "No resource of shop explains its latency: look at traces"),
        ("requests_total", -0.5, False, "Less reaches shop (its load is down by 50%): look at what calls it"),
        ("requests_total", 0.5, False, "More reaches shop (its load is up by 50%): see who sends it"),
        ("temperature", None, False, "Find out what moves this metric of shop; its name does not tell."),
    ],
)
def test_advice_is_a_sentence_that_one_can_follow(metric: str, load: float | None, saturated: bool, said: str) -> None:
    resource = read_resource(read_metric(f"shop/{metric}"))
    assert recommend("shop", resource, 90.0, 40.0, load, saturated=saturated).startswith(said)


def test_what_brings_less_is_left_out() -> None:
    factors = {"stock/cpu_percent": 2.2, "stock/response_time_ms": 6.0}
    found = find_bottlenecks(COLUMNS, quiet(60, 0), incident(factors))
    assert found
    assert find_bottlenecks(COLUMNS, quiet(60, 0), incident(factors), least_gain=found[0].gain + 1e-9) == []


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(st.sampled_from([0.0, 1.0, 99.0, -5.0, float("nan"), 1e300]), min_size=7 * 6, max_size=7 * 6),
    changed=st.lists(st.tuples(st.sampled_from(["a", "nobody"]), st.floats(-1e6, 1e6)), max_size=2),
    entry=st.sampled_from([None, "a/latency"]),
)
def test_whatever_comes_in_findings_are_sound(
    cells: list[float], changed: list[tuple[str, float]], entry: str | None
) -> None:
    columns = ["a/cpu_percent", "a/latency", "a/success", "b/memory_used_percent", "b/sent[a>b]", "b/queue_length"]
    values = np.array(cells).reshape(7, 6)
    found = find_bottlenecks(columns, values[:4], values[4:], entry=entry, changes=changed, graph=[("a", "b")])
    assert len({(each.service, each.resource) for each in found}) == len(found)
    for each in found:
        assert 0.1 <= each.gain <= 1.0
        assert np.isfinite([each.value, each.expected, each.effect.now, each.effect.then]).all()
        assert each.effect.then <= each.effect.now
        assert each.first_row is None or -4 <= each.first_row < 3
        assert each.metric in columns
        assert each.recommendation


# --- windows

MINUTE = 60
SETTINGS: dict[str, Any] = {"window_ns": 10 * MINUTE, "history_ns": 60 * MINUTE, "step_ns": MINUTE}


def test_windows_follow_the_newest_incident() -> None:
    def chosen(alerts: list[int], anomalies: list[int]) -> tuple[int, int, str]:
        found = choose_windows(200 * MINUTE + 7, alerts_ns=alerts, anomalies_ns=anomalies, **SETTINGS)
        assert found.start_ns - found.normal_start_ns == 60 * MINUTE
        assert found.end_ns == 200 * MINUTE
        return found.start_ns // MINUTE, found.end_ns // MINUTE, found.basis

    assert chosen([], []) == (190, 200, "recent")
    assert chosen([195 * MINUTE], []) == (193, 200, "alerts")
    # Of the same incident, and one before it.
    assert chosen([195 * MINUTE, 188 * MINUTE + 3, 160 * MINUTE], []) == (186, 200, "alerts")
    # Too old to say where the present trouble began.
    assert chosen([100 * MINUTE], []) == (190, 200, "recent")
    assert chosen([100 * MINUTE], [197 * MINUTE, 189 * MINUTE]) == (187, 200, "anomalies")
    assert chosen([], [180 * MINUTE]) == (190, 200, "recent")


@given(
    now=st.integers(10**6, 10**7),
    alerts=st.lists(st.integers(0, 10**7), max_size=5),
    anomalies=st.lists(st.integers(0, 10**7), max_size=5),
    step=st.integers(1, 500),
)
def test_windows_are_whole_steps_in_order(now: int, alerts: list[int], anomalies: list[int], step: int) -> None:
    for found in (
        choose_windows(now, alerts_ns=alerts, anomalies_ns=anomalies, window_ns=600, history_ns=7 * step, step_ns=step),
        recent_windows(now, window_ns=600, history_ns=7 * step, step_ns=step),
    ):
        assert found.normal_start_ns < found.start_ns < found.end_ns
        assert found.start_ns % step == found.end_ns % step == (found.start_ns - found.normal_start_ns) % step == 0
