"""The load expected, and the policy for simulations."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_SECOND
from engine.errors import BadRequest
from engine.scaling.demand import DAY, LEAD, LEAST_SLOTS, SLOT_NS, Demand, DemandModel
from engine.scaling.policy import instances_for_demand
from tests.engine.detection.test_bars import SHARED, needs_data, scorer
from tidegauge import lab


def fed(loads: list[float], *, step_ns: int = SLOT_NS) -> list[Demand | None]:
    model = DemandModel()
    return [model.observe(index * step_ns, load) for index, load in enumerate(loads)]


def test_nothing_is_expected_before_enough_has_been_seen() -> None:
    found = fed([2.0] * (LEAST_SLOTS + 1))
    assert found[:LEAST_SLOTS] == [None] * LEAST_SLOTS
    assert found[LEAST_SLOTS] is not None


def test_a_steady_load_is_expected_to_stay() -> None:
    last = fed([2.0] * 2_000)[-1]
    assert last is not None
    assert (last.now, last.lead_seconds) == (2.0, 120.0)
    assert 2.0 <= last.high <= 2.05


def test_a_rising_load_is_expected_to_go_on() -> None:
    loads = [1 + 0.01 * index for index in range(400)]
    last = fed(loads)[-1]
    assert last is not None
    assert last.high >= loads[-1] + 0.01 * (LEAD - 2)


def test_what_happens_every_day_is_expected() -> None:
    jump = 1_000
    loads = [8.0 if jump <= index % DAY < jump + 500 else 2.0 for index in range(6 * DAY + jump)]
    before = fed(loads)[-2]
    assert before is not None
    assert before.now == 2.0
    assert before.high >= 4.0


def test_most_loads_stay_below_what_was_expected() -> None:
    random = np.random.default_rng(1)
    loads = np.exp(np.cumsum(random.normal(0, 0.02, 6_000)) * 0.3 + 1).tolist()
    found = fed(loads)
    below = [
        max(loads[index + LEAD - 3 : index + LEAD + 1]) <= known.high
        for index, known in enumerate(found[:-LEAD])
        if known is not None
    ]
    assert 0.92 <= np.mean(below) <= 0.98


def test_several_looks_within_a_slot_count_once() -> None:
    slow = fed([2.0, 4.0] * 200)
    model = DemandModel()
    quick = [model.observe(index * SLOT_NS // 3, 2.0 + 2.0 * (index // 3 % 2)) for index in range(1_200)]
    assert slow[-1] is not None
    assert quick[-1] is not None
    assert quick[-1].high == pytest.approx(slow[-1].high, rel=1e-9)


def test_a_long_gap_starts_over_and_a_clock_set_back_teaches_nothing() -> None:
    model = DemandModel()
    for index in range(200):
        model.observe(index * SLOT_NS, 2.0)
    assert model.observe(100 * SLOT_NS, 50.0) is not None
    known = model.observe(200 * SLOT_NS, 2.0)
    assert known is not None
    assert known.high < 3.0
    assert model.observe(900 * SLOT_NS, 2.0) is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1e6)), min_size=61, max_size=200))
def test_what_is_expected_is_a_number_at_least_as_large_as_now(steps: list[tuple[int, float]]) -> None:
    model, now_ns = DemandModel(), 0
    for seconds, load in steps:
        now_ns += seconds * NS_PER_SECOND
        found = model.observe(now_ns, load)
        if found is not None:
            assert math.isfinite(found.high)
            assert found.high >= found.now == load


def test_requests_tell_the_load_beyond_the_end_of_cpu() -> None:
    model = DemandModel()
    assert model.load_of(4, 50.0, 200.0, waiting=False) == 2.0
    assert model.load_of(4, 100.0, 900.0, waiting=True) == pytest.approx(9.0)
    assert model.load_of(4, 100.0, None, waiting=True) == 4.0


def test_the_worked_example_of_the_page() -> None:
    assert instances_for_demand(Demand(2.4, 2.4), 70.0) == 4
    assert instances_for_demand(Demand(2.4, 3.5), 70.0) == 5
    assert instances_for_demand(Demand(2.1, 2.55), 70.0) == 3
    assert instances_for_demand(Demand(0.0, 0.0), 70.0) == 0


# ---- the policy for simulations ----


def observation(time: float, **values: Any) -> dict[str, Any]:
    usual = {"cpu": 50.0, "memory": 40.0, "response_time": 0.05, "queue": 0.0, "error_rate": 0.0, "request_rate": 100.0}
    return {"time": time, "ready": 4, "starting": 0, "target": 4, **usual, **values}


def test_the_policy_is_the_servers_decision() -> None:
    policy = lab.ScalingPolicy()
    decision = policy.decide(observation(15, cpu=80.0))
    assert (decision.desired, decision.action) == (7, "up")
    assert decision.reason == "cpu at 80 is above 70 with 4 instances, 7 would bring it to 50 or below"


def test_an_expected_rise_scales_up_before_it_comes_and_without_waiting() -> None:
    policy, asked = lab.ScalingPolicy(), []
    for index in range(200):
        ready = asked[-8] if len(asked) >= 8 else 4
        load = 2.0 + max(0, index - 100) * 0.05
        asked.append(policy.desired(observation(15 * (index + 1), ready=ready, cpu=min(100.0, 100 * load / ready))))
    assert asked[95] == 3
    assert asked[-1] >= 9
    changes = [index for index, (one, other) in enumerate(itertools.pairwise(asked)) if one != other]
    assert any(later - earlier < 20 for earlier, later in itertools.pairwise(changes))


@pytest.mark.parametrize("missing", ["cpu", "memory", "queue", "ready"])
def test_without_a_value_nothing_is_taken_away(missing: str) -> None:
    policy = lab.ScalingPolicy()
    for index in range(300):
        values: dict[str, Any] = {"cpu": 10.0, missing: math.nan if index % 2 else None}
        assert policy.desired(observation(15 * index, **values)) >= 4


def test_fewer_come_once_the_load_expected_is_low_enough() -> None:
    policy = lab.ScalingPolicy()
    found = [policy.desired(observation(15 * index, cpu=40.0, ready=6, target=6)) for index in range(400)]
    assert found[0] == 6
    assert found[-1] == 4


def test_reset_forgets_and_takes_the_bounds() -> None:
    policy = lab.ScalingPolicy()
    first = [policy.desired(observation(15 * index, cpu=90.0)) for index in range(100)]
    policy.reset(SimpleNamespace(min_instances=2, max_instances=20))
    assert [policy.desired(observation(15 * index, cpu=90.0)) for index in range(100)] == first
    policy.reset(SimpleNamespace(min_instances=5, max_instances=6))
    assert policy.desired(observation(0, cpu=99.0)) == 6


@pytest.mark.parametrize(
    ("limits", "sentence"), [({"most": 3}, "want one of"), ({"min_instances": 9, "max_instances": 3}, "in order")]
)
def test_limits_that_cannot_be(limits: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        lab.ScalingPolicy(**limits)


@needs_data
@pytest.mark.parametrize(("trace", "most"), [("nasa-1", 1.30), ("twitter-stream", 2.4)])
def test_recorded_loads(trace: str, most: float) -> None:
    import json

    assert SHARED is not None
    autoscale = scorer("autoscale")
    meta = json.loads((SHARED / "data/load/traces.json").read_text())[trace]
    rate = pl.read_parquet(SHARED / "data/load" / meta["file"])["rate"].cast(pl.Float64).to_numpy()
    rows = int(2 * 86_400 / meta["step_seconds"])
    config = autoscale.Config(capacity=meta["capacity"])
    found = autoscale.simulate(rate[-rows:], float(meta["step_seconds"]), lab.ScalingPolicy(), config)
    reference = autoscale.simulate(rate[-rows:], float(meta["step_seconds"]), autoscale.KubernetesHPA(60.0), config)
    assert found["total_ratio"] <= most
    assert found["total_ratio"] < reference["total_ratio"]
