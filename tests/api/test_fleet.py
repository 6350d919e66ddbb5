"""The simulated fleet: a pure function of seed and time, counters that never fall, an incident with a known course."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.demo.fleet import Fleet
from api.demo.incident import Incident
from engine.clock import NS_PER_HOUR, NS_PER_SECOND
from engine.collect.points import Point

NOW = 1_790_000_000 * NS_PER_SECOND
TIMES = st.integers(1_700_000_000, 2_000_000_000).map(lambda seconds: seconds * NS_PER_SECOND)
COUNTERS = ("requests_total", "errors_total", "orders_total", "revenue_total")


def fields_of(fleet: Fleet, time_ns: int) -> dict[tuple[str, str], float]:
    """Return every value by (host, table_field)."""
    return {
        (point.tags["host"], f"{point.table}_{name}"): value
        for instance in fleet.instances
        for point in instance.points(time_ns, fleet.incidents)
        for name, value in point.fields.items()
    }


def test_exact_lines_of_one_instance() -> None:
    assert Fleet(1, 1).lines(NOW) == (
        b"cpu,host=shop-00,region=eu-north,service=shop usage_percent=50.53,usage_user=40.42,usage_system=10.11,"
        b"usage_idle=49.47,load1=2.02 1790000000000000000\n"
        b"memory,host=shop-00,region=eu-north,service=shop used_percent=67.78 1790000000000000000\n"
        b"disk,host=shop-00,path=/,region=eu-north,service=shop used_percent=48.72 1790000000000000000\n"
        b"app,host=shop-00,region=eu-north,service=shop requests_total=3801834266i,errors_total=15207337i,"
        b"response_time_ms=143.0,queue_length=6i,in_flight=4i 1790000000000000000\n"
        b"probe,host=shop-00,region=eu-north,service=shop up=1i 1790000000000000000\n"
        b"business,host=shop-00,region=eu-north,service=shop orders_total=76036685i,revenue_total=2502839896.62"
        b" 1790000000000000000\n"
    )


def test_the_same_seed_and_time_give_the_same_bytes() -> None:
    one, other = Fleet(7, 20), Fleet(7, 20)
    one.lines(NOW - NS_PER_HOUR)
    assert one.lines(NOW) == other.lines(NOW)
    assert Fleet(8, 20).lines(NOW) != other.lines(NOW)


def test_history_is_every_step_of_the_range() -> None:
    fleet = Fleet(1, 2)
    step = 30 * NS_PER_SECOND
    start = NOW - 7 * step
    batches = list(fleet.history(start, NOW, step, steps_a_batch=3))
    assert len(batches) == 3
    assert b"".join(batches) == b"".join(fleet.lines(start + number * step) for number in range(7))


def test_twenty_instances_of_four_services() -> None:
    fleet = Fleet(1, 20)
    hosts = [instance.tags["host"] for instance in fleet.instances]
    assert len(set(hosts)) == 20
    services = [instance.service for instance in fleet.instances]
    assert {service: services.count(service) for service in services} == {
        "shop": 8,
        "cart": 4,
        "search": 4,
        "billing": 4,
    }
    tables: dict[str, set[str]] = {}
    for instance in fleet.instances:
        for point in instance.points(NOW):
            assert point.tags.keys() - {"path"} == {"host", "service", "region"}
            tables.setdefault(point.table, set()).add(instance.service)
    assert tables.keys() == {"app", "cpu", "memory", "disk", "business", "probe"}
    assert tables["business"] == {"shop"}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1_000), TIMES, st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 30))
def test_counters_never_fall(seed: int, start_ns: int, gaps: list[int], incident_after: int) -> None:
    fleet = Fleet(seed, 3)
    fleet.incidents = (Incident(start_ns + incident_after * NS_PER_SECOND),)
    time_ns = start_ns
    before = fields_of(fleet, time_ns)
    for gap in gaps:
        time_ns += gap * NS_PER_SECOND + 1
        now = fields_of(fleet, time_ns)
        for key, value in now.items():
            if key[1].endswith("_total"):
                assert value >= before[key], key
        before = now


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1_000), TIMES, st.none() | st.integers(-30, 5))
def test_gauges_stay_where_they_can_be(seed: int, time_ns: int, incident_after: int | None) -> None:
    fleet = Fleet(seed, 5)
    if incident_after is not None:
        fleet.incidents = (Incident(time_ns + incident_after * NS_PER_SECOND),)
    for (host, metric), value in fields_of(fleet, time_ns).items():
        assert math.isfinite(value)
        assert value >= 0, (host, metric)
        assert not metric.endswith("percent") or value <= 100, (host, metric)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), TIMES)
def test_without_an_incident_nothing_asks_for_more(seed: int, time_ns: int) -> None:
    values = fields_of(Fleet(seed, 20), time_ns)
    shop = {key: value for key, value in values.items() if key[0].startswith("shop")}
    cpu = [value for (_, metric), value in shop.items() if metric == "cpu_usage_percent"]
    assert sum(cpu) / len(cpu) < 70
    assert max(cpu) < 85
    assert max(value for (_, metric), value in values.items() if metric == "app_response_time_ms") < 500
    assert max(value for (_, metric), value in values.items() if metric == "app_queue_length") < 10


def test_the_incident_breaks_the_demo_rules_for_its_service_alone() -> None:
    fleet = Fleet(1, 20)
    fleet.incidents = (Incident(NOW),)
    quiet = Fleet(1, 20)
    before, during = fields_of(fleet, NOW), fields_of(fleet, NOW + 15 * NS_PER_SECOND)
    for (host, metric), value in during.items():
        if not host.startswith("shop"):
            assert value == fields_of(quiet, NOW + 15 * NS_PER_SECOND)[host, metric]
        elif metric == "cpu_usage_percent":
            assert value > 90
        elif metric == "app_response_time_ms":
            assert value > 2_000
        elif metric == "app_queue_length":
            assert value > 100
        elif metric == "app_errors_total":
            requests = (host, "app_requests_total")
            assert 100 * (value - before[host, metric]) / (during[requests] - before[requests]) > 5


def test_before_and_after_the_incident_only_counters_remember_it() -> None:
    fleet, quiet = Fleet(1, 5), Fleet(1, 5)
    fleet.incidents = (Incident(NOW),)
    assert fleet.lines(NOW) == quiet.lines(NOW)
    after = NOW + 60 * NS_PER_SECOND
    differing = {
        metric
        for (host, metric), value in fields_of(fleet, after).items()
        if value != fields_of(quiet, after)[host, metric]
    }
    assert differing == {"app_requests_total", "app_errors_total"}


@pytest.mark.parametrize("ramp", [0.5, 2.0, 10.0])
def test_full_seconds_are_the_integral_of_the_level(ramp: float) -> None:
    incident = Incident(NOW, seconds=20.0, ramp_seconds=ramp)
    step_ns = NS_PER_SECOND // 1_000
    total = 0.0
    for number in range(-1_000, 22_000):
        total += incident.level(NOW + number * step_ns + step_ns // 2) / 1_000
        if number % 500 == 0:
            assert incident.full_seconds(NOW + (number + 1) * step_ns) == pytest.approx(total, abs=1e-6)
    assert incident.full_seconds(incident.end_ns + NS_PER_HOUR) == pytest.approx(20.0 - ramp)
    assert incident.level(incident.end_ns) == 0.0


def test_points_are_points() -> None:
    assert all(isinstance(point, Point) for point in Fleet(1, 1).instances[0].points(NOW))
