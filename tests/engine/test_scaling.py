"""Scaling decisions: worked examples, what must never happen, the oracle, and what a restart remembers."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_SECOND
from engine.config import ScaleTarget, Signal
from engine.config_units import Duration
from engine.errors import BadConfig, Bug
from engine.scaling.demand import Demand
from engine.scaling.policy import (
    Decision,
    Observed,
    ScaleHistory,
    SignalReading,
    aim_of,
    decide,
    history_after,
)
from engine.scaling.store import ScaleStore, decisions_columns
from tests.oracles.scaling import TargetStory

S = NS_PER_SECOND
T0 = 1_700_000_000 * S


def target_of(*signals: Signal, **changes: Any) -> ScaleTarget:
    values: dict[str, Any] = {"target": "web", "match": {}, "instances": "web_instances", **changes}
    for name in ("cooldown", "stabilisation", "stale_after"):
        if name in values:
            values[name] = Duration(values[name] * S)
    return ScaleTarget(signals=signals or (Signal(kind="cpu"),), **values)


def cpu(value: float | None, *, at_s: int = 0) -> SignalReading:
    return SignalReading("cpu", value, T0 + at_s * S)


class Story:
    """Decisions on one target, one after another, in seconds after T0."""

    def __init__(self, target: ScaleTarget, history: ScaleHistory = ScaleHistory()) -> None:
        self.target, self.history = target, history

    def at(self, now_s: int, current: int | None, *readings: SignalReading | float, silent: int = 0) -> Decision:
        """Decide; a plain number is a CPU reading of this moment."""
        given_readings = tuple(
            reading if isinstance(reading, SignalReading) else cpu(reading, at_s=now_s) for reading in readings
        )
        decision = decide(self.target, Observed(current, given_readings, silent), self.history, T0 + now_s * S)
        self.history = history_after(self.target, self.history, decision)
        return decision


def settled(instances: int) -> ScaleHistory:
    """Return the history of a target that has been at rest: the window knows only what is needed."""
    return ScaleHistory(desired=instances, recommendations=((T0 - 1, 1),))


# ---- worked examples ----


def test_the_horizontal_pod_autoscalers_example() -> None:
    """50 replicas at 90 with a target of 75 become 60 (Kubernetes, Horizontal Pod Autoscaling)."""
    target = target_of(Signal(kind="cpu", up=80.0, down=70.0), max=100)
    assert aim_of(target.signals[0]) == 75.0
    decision = Story(target).at(0, 50, 90.0)
    assert (decision.desired, decision.action, decision.limited_by) == (60, "up", ())
    assert decision.reason == "cpu at 90 is above 80 with 50 instances, 60 would bring it to 75 or below"


@pytest.mark.parametrize(
    ("value", "desired"),
    [(81.0, 50), (82.5, 50), (82.6, 56), (68.0, 50), (67.5, 50), (67.4, 45)],
)
def test_within_a_tenth_of_the_aim_nothing_changes(value: float, desired: int) -> None:
    """|value / aim - 1| <= 0.1 is within the tolerance, as with the Horizontal Pod Autoscaler."""
    story = Story(target_of(Signal(kind="cpu", up=80.0, down=70.0), max=100), settled(50))
    decision = story.at(0, 50, value)
    assert decision.desired == desired
    assert decision.limited_by == (("tolerance",) if desired == 50 else ())


@pytest.mark.parametrize(
    ("kind", "value", "desired"),
    [
        ("cpu", 70.0, 4),
        ("cpu", 70.1, 6),
        ("cpu", 100.0, 8),
        ("cpu", 30.0, 4),
        ("cpu", 29.9, 3),
        ("memory", 80.0, 4),
        ("memory", 90.0, 6),
        ("memory", 49.9, 4),
        ("memory", 30.0, 2),
        ("response_time", 2_000.0, 4),
        ("response_time", 2_500.0, 8),
        ("response_time", 499.0, 2),
        ("queue", 100.0, 4),
        ("queue", 110.0, 8),
        ("queue", 9.0, 2),
        ("error_rate", 5.0, 4),
        ("error_rate", 6.0, 8),
        ("error_rate", 0.9, 2),
    ],
)
def test_the_default_levels(kind: Any, value: float, desired: int) -> None:
    story = Story(target_of(Signal(kind=kind)), settled(4))
    assert story.at(0, 4, SignalReading(kind, value, T0)).desired == desired


def test_fewer_instances_only_as_far_as_every_signal_stays_at_its_aim() -> None:
    story = Story(target_of(Signal(kind="cpu"), Signal(kind="memory")), settled(10))
    decision = story.at(0, 10, 10.0, SignalReading("memory", 45.0, T0))
    assert [found.wanted for found in decision.inputs] == [2, 7]
    assert (decision.desired, decision.action) == (7, "down")
    assert decision.reason == "every signal is below its lower level; memory at 45 still wants 7"


def test_of_several_signals_the_largest_need_wins() -> None:
    story = Story(target_of(Signal(kind="cpu"), Signal(kind="queue"), Signal(kind="memory")))
    decision = story.at(0, 4, 75.0, SignalReading("queue", 165.0, T0), SignalReading("memory", 10.0, T0))
    assert [found.proposes for found in decision.inputs] == ["up", "up", "down"]
    assert [found.wanted for found in decision.inputs] == [6, 12, 1]
    assert decision.desired == 12
    assert decision.reason.startswith("queue at 165 is above 100 with 4 instances")


def test_one_signal_between_its_levels_prevents_scaling_down() -> None:
    story = Story(target_of(Signal(kind="cpu"), Signal(kind="memory")), settled(10))
    decision = story.at(0, 10, 5.0, SignalReading("memory", 50.0, T0))
    assert (decision.desired, decision.action, decision.limited_by) == (10, "hold", ())
    assert decision.reason == "hold at 10: memory at 50 is not below 50"


def test_min_and_max_hold() -> None:
    up = Story(target_of(max=5)).at(0, 4, 100.0)
    assert (up.desired, up.recommended, up.limited_by) == (5, 5, ("max",))
    assert up.reason.endswith("; at most 5 are allowed")
    down = Story(target_of(min=3), settled(4)).at(0, 4, 1.0)
    assert (down.desired, down.limited_by) == (3, ("min",))
    below = Story(target_of(min=3)).at(0, 1, 50.0)
    assert (below.desired, below.action, below.limited_by) == (3, "up", ("min",))


def test_new_bounds_count_at_once_even_without_data() -> None:
    story = Story(target_of(max=5, cooldown=300), ScaleHistory(desired=9, up_ns=T0 - 1))
    decision = story.at(0, 9)
    assert (decision.desired, decision.action) == (5, "down")
    assert story.at(1, 9).action == "hold"


# ---- data that is missing ----


@pytest.mark.parametrize(
    "reading",
    [
        None,
        cpu(None),
        cpu(math.nan),
        cpu(-math.inf),
        cpu(1.0, at_s=-121),
        SignalReading("cpu", 1.0, None),
        SignalReading("cpu", 1.0, T0, stale=True),
    ],
)
def test_without_recent_data_nothing_is_taken_away(reading: SignalReading | None) -> None:
    signals = (Signal(kind="cpu"), Signal(kind="memory"))
    story = Story(target_of(*signals), settled(10))
    low = SignalReading("memory", 1.0, T0)
    decision = story.at(0, 10, low) if reading is None else story.at(0, 10, reading, low)
    assert (decision.desired, decision.action, decision.limited_by) == (10, "hold", ("stale data",))
    assert decision.reason == "hold at 10: no recent data of cpu"
    assert [found.stale for found in decision.inputs] == [True, False]


def test_a_silent_signal_does_not_keep_another_from_scaling_up() -> None:
    story = Story(target_of(Signal(kind="cpu"), Signal(kind="memory")))
    decision = story.at(0, 4, SignalReading("memory", 91.0, T0))
    assert (decision.desired, decision.action, decision.limited_by) == (6, "up", ())


def test_data_is_recent_for_exactly_stale_after() -> None:
    story = Story(target_of(stale_after=120), settled(10))
    assert story.at(120, 10, cpu(1.0, at_s=0)).action == "down"
    assert Story(target_of(stale_after=120), settled(10)).at(121, 10, cpu(1.0, at_s=0)).action == "hold"


def test_an_unknown_count_holds_what_was_asked_for_last() -> None:
    story = Story(target_of(), settled(8))
    for value in (1.0, 99.0):
        decision = story.at(0, None, value)
        assert (decision.desired, decision.action, decision.limited_by) == (8, "hold", ("stale data",))
        assert decision.reason == "hold at 8: the number of instances is unknown"


def test_without_a_count_and_a_past_there_is_no_number_at_all() -> None:
    story = Story(target_of())
    decision = story.at(0, None, 99.0)
    assert (decision.desired, decision.recommended, decision.action) == (None, None, "hold")
    assert decision.reason.startswith("unavailable: ")
    assert story.at(5, 4, 50.0).desired == 4


def test_no_reporting_instance_is_an_unknown_count_unless_a_metric_says_zero() -> None:
    counted = Story(target_of(instances=None), settled(8)).at(0, 0)
    assert (counted.desired, counted.current) == (8, None)
    told = Story(target_of(), settled(8)).at(0, 0, 0.0)
    assert (told.desired, told.current, told.action) == (8, 0, "hold")
    assert Story(target_of()).at(0, 0).desired == 2


def test_instances_that_stopped_reporting_are_not_taken_for_idle() -> None:
    by_data = Story(target_of(instances=None), settled(10)).at(0, 3, 10.0, silent=7)
    assert (by_data.desired, by_data.limited_by) == (10, ("stale data",))
    assert by_data.reason == "hold at 10: only 3 instances report, 7 have fallen silent"
    by_metric = Story(target_of(), settled(10)).at(0, 3, 10.0, silent=7)
    assert (by_metric.desired, by_metric.action) == (2, "down")


def test_instances_that_were_asked_for_and_never_came_do_not_keep_the_rest_from_scaling_down() -> None:
    never_came = Story(target_of(instances=None), settled(10)).at(0, 3, 10.0)
    assert (never_came.desired, never_came.action) == (2, "down")


def test_more_instances_than_asked_for_are_taken_over_once_the_cooldown_is_past() -> None:
    history = ScaleHistory(desired=5, down_ns=T0, recommendations=((T0, 5),))
    story = Story(target_of(), history)
    assert story.at(10, 8, 50.0).desired == 5
    decision = story.at(300, 8, 50.0)
    assert (decision.desired, decision.action) == (8, "hold")
    assert story.at(305, 8, 1.0).limited_by == ("min", "stabilisation")


def test_instances_beyond_max_that_nobody_takes_away_are_no_new_change_each_time() -> None:
    story = Story(target_of(max=20))
    first = story.at(0, 30, 50.0)
    assert (first.desired, first.action, first.limited_by) == (20, "down", ("max",))
    for now_s in (5, 400, 405):
        assert story.at(now_s, 30, 50.0).action == "hold"


# ---- waiting ----


def test_after_a_way_up_the_next_waits_for_the_cooldown() -> None:
    story = Story(target_of(cooldown=300))
    assert story.at(0, 4, 80.0).desired == 7
    waiting = story.at(299, 7, 80.0)
    assert (waiting.desired, waiting.recommended, waiting.limited_by) == (7, 12, ("cooldown",))
    assert waiting.reason.endswith("; the cooldown lasts for another 1 s")
    assert story.at(300, 7, 80.0).desired == 12


def test_a_way_up_does_not_wait_for_the_last_way_down_but_a_way_down_waits_for_both() -> None:
    history = ScaleHistory(desired=10, recommendations=((T0 - 1, 1),))
    story = Story(target_of(cooldown=300, stabilisation=0), history)
    assert story.at(0, 10, 20.0).desired == 4
    assert story.at(10, 4, 20.0).limited_by == ("cooldown",)
    assert story.at(20, 4, 90.0).desired == 8
    assert story.at(310, 8, 20.0).limited_by == ("cooldown",)
    assert story.at(320, 8, 20.0).desired == 4


def test_while_instances_start_the_number_asked_for_stays() -> None:
    story = Story(target_of())
    assert story.at(0, 4, 80.0).desired == 7
    starting = story.at(30, 4, 85.0)
    assert (starting.desired, starting.action, starting.limited_by) == (7, "hold", ())
    assert starting.reason == "hold at 7: cpu at 85 is above 70 with 4 instances, and 7 are asked for already"
    assert story.at(60, 5, 50.0).desired == 7


def test_scaling_down_goes_to_the_highest_need_of_the_window() -> None:
    story = Story(target_of(stabilisation=300, cooldown=0), ScaleHistory(desired=10))
    assert story.at(0, 10, 50.0).desired == 10
    assert story.at(100, 10, 28.0).recommended == 6
    assert story.at(200, 10, 10.0).recommended == 2
    waiting = story.at(300, 10, 10.0)
    assert (waiting.desired, waiting.limited_by) == (10, ("stabilisation",))
    assert waiting.reason.endswith("; 10 were needed within the last 5m")
    # The need of 10, 301 s ago, is out of the window, that of 6 is in it.
    assert story.at(301, 10, 10.0).desired == 6
    assert story.at(401, 6, 10.0).desired == 2


def test_a_window_that_nothing_is_known_of_counts_as_one_of_need() -> None:
    story = Story(target_of(stabilisation=300, cooldown=0))
    assert story.at(0, 10, 10.0).limited_by == ("stabilisation",)
    assert story.at(300, 10, 10.0).desired == 10
    assert story.at(301, 10, 10.0).desired == 2
    # Nobody has looked for an hour.
    assert story.at(4_000, 10, 10.0).desired == 10


def test_a_clock_set_back_costs_one_cooldown_at_most() -> None:
    story = Story(target_of(cooldown=300), ScaleHistory(desired=4, up_ns=T0 + 10**6 * S))
    first = story.at(0, 4, 90.0)
    assert first.limited_by == ("cooldown",)
    assert first.reason.endswith("the cooldown lasts for another 300 s")
    assert story.at(300, 4, 90.0).action == "up"


def test_a_decision_is_valid_until_its_oldest_reading_goes_stale() -> None:
    story = Story(target_of(Signal(kind="cpu"), Signal(kind="memory"), stale_after=120))
    decision = story.at(0, 4, cpu(50.0, at_s=-20), SignalReading("memory", 60.0, T0 - 50 * S))
    assert [found.age_seconds for found in decision.inputs] == [20.0, 50.0]
    assert decision.valid_until_ns == T0 + 70 * S
    assert story.at(1, 4).valid_until_ns == T0 + 121 * S


def test_unusable_settings_and_readings_are_said() -> None:
    for up, down in ((0.0, -1.0), (math.inf, 1.0)):
        with pytest.raises(BadConfig, match="cannot scale by cpu"):
            Story(target_of(Signal(kind="cpu", up=up, down=down))).at(0, 4, 50.0)
    with pytest.raises(Bug, match="got a reading of memory"):
        Story(target_of()).at(0, 4, SignalReading("memory", 1.0, T0))


# ---- what must hold for any load ----

ALL = tuple(Signal(kind=kind) for kind in ("cpu", "memory", "response_time", "queue", "error_rate"))
SHARES = st.integers(0, 16).map(lambda sixteenths: sixteenths / 8)
INSTANCES = st.none() | st.integers(0, 30)
#: Sixteenths, so that fractions are exact; most of the time nothing is known.
LOADS = st.integers(0, 400).map(lambda sixteenths: sixteenths / 16)
DEMANDS = st.none() | st.tuples(LOADS, LOADS).map(lambda loads: Demand(loads[0], loads[0] + loads[1] / 4))


@st.composite
def readings(draw: st.DrawFn, signals: tuple[Signal, ...], now_s: int) -> tuple[SignalReading, ...]:
    """Readings of some of the signals, each up to twice its upper level, some old, in any order."""
    found = []
    for signal in signals:
        value = draw(st.none() | SHARES.map(lambda share, up=signal.up: share * up))
        age_s = draw(st.sampled_from([0, 0, 0, 10, 120, 121]))
        if draw(st.integers(0, 9)):
            found.append(SignalReading(signal.kind, value, T0 + (now_s - age_s) * S, draw(st.integers(0, 9)) == 0))
    return tuple(draw(st.permutations(found)))


@st.composite
def stories(draw: st.DrawFn) -> tuple[ScaleTarget, list[tuple[int, Observed]]]:
    kinds = draw(st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique_by=lambda signal: signal.kind))
    least = draw(st.integers(1, 4))
    target = target_of(
        *kinds,
        min=least,
        max=draw(st.integers(least, 20)),
        cooldown=draw(st.sampled_from([0, 60, 300])),
        stabilisation=draw(st.sampled_from([0, 60, 300])),
        tolerance=draw(st.sampled_from([0.0, 0.125, 0.5])),
        instances=draw(st.sampled_from([None, "web_instances"])),
    )
    now_s, ticks = 0, []
    for step_s in draw(st.lists(st.sampled_from([5, 30, 60, 300, 1_000]), min_size=1, max_size=15)):
        now_s += step_s
        found = draw(readings(target.signals, now_s))
        ticks.append((now_s, Observed(draw(INSTANCES), found, draw(st.integers(0, 2)), draw(DEMANDS))))
    return target, ticks


@settings(deadline=None, max_examples=300)
@given(stories())
def test_decisions_are_those_of_the_oracle(story: tuple[ScaleTarget, list[tuple[int, Observed]]]) -> None:
    target, ticks = story
    oracle, history = TargetStory(target), ScaleHistory()
    for now_s, observed in ticks:
        decision = decide(target, observed, history, T0 + now_s * S)
        assert decision.desired == oracle.tick(observed, T0 + now_s * S), decision
        history = history_after(target, history, decision)


@settings(deadline=None, max_examples=200)
@given(stories(), st.randoms(use_true_random=False))
def test_invariants_of_every_decision(story: tuple[ScaleTarget, list[tuple[int, Observed]]], random: Any) -> None:
    target, ticks = story
    history = ScaleHistory()
    for now_s, observed in ticks:
        now_ns = T0 + now_s * S
        decision = decide(target, observed, history, now_ns)
        assert decision == decide(target, observed, history, now_ns)
        shuffled = list(observed.readings)
        random.shuffle(shuffled)
        assert decision == decide(target, replace(observed, readings=tuple(shuffled)), history, now_ns)
        if decision.desired is None:
            assert history.desired is None
        else:
            assert target.min <= decision.desired <= target.max
            if any(found.stale for found in decision.inputs) and history.desired is not None:
                assert decision.desired >= history.desired
            assert decision.reason
            assert (decision.desired == decision.recommended) or set(decision.limited_by) & {
                "cooldown",
                "stabilisation",
            }
        assert now_ns <= decision.valid_until_ns <= now_ns + target.stale_after
        after = history_after(target, history, decision)
        window = [instances for _, instances in after.recommendations]
        assert window == sorted(set(window), reverse=True)
        history = after


@settings(deadline=None, max_examples=200)
@given(stories(), st.data())
def test_more_load_never_means_fewer_instances(
    story: tuple[ScaleTarget, list[tuple[int, Observed]]], data: st.DataObject
) -> None:
    target, ticks = story
    history = ScaleHistory()
    for now_s, observed in ticks:
        now_ns = T0 + now_s * S
        decision = decide(target, observed, history, now_ns)
        index = data.draw(st.integers(0, max(0, len(observed.readings) - 1)))
        if observed.readings and observed.readings[index].value is not None:
            reading = observed.readings[index]
            more = data.draw(st.floats(1.0, 3.0))
            heavier = SignalReading(
                reading.kind,
                (reading.value or 0.0) * more + data.draw(SHARES),
                reading.time_ns,
                reading.stale,
            )
            changed = (*observed.readings[:index], heavier, *observed.readings[index + 1 :])
            higher = decide(target, replace(observed, readings=changed), history, now_ns)
            assert (higher.desired or 0) >= (decision.desired or 0)
        history = history_after(target, history, decision)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique_by=lambda signal: signal.kind),
    st.lists(st.floats(0.0, 40.0), min_size=3, max_size=3),
    st.integers(1, 40),
)
def test_following_a_decision_under_the_same_load_leads_to_rest(
    signals: list[Signal], loads: list[float], current: int
) -> None:
    """No oscillation.  ``loads``: how many instances at their upper level each signal is worth."""
    target = target_of(*signals, min=1, max=1_000, cooldown=0, stabilisation=0)
    now_s, seen, history = 0, [current], ScaleHistory()
    for _ in range(2):
        now_s += 10
        given_readings = tuple(
            SignalReading(signal.kind, signal.up * load / current, T0 + now_s * S)
            for signal, load in zip(signals, loads, strict=False)
        )
        decision = decide(target, Observed(current, given_readings), history, T0 + now_s * S)
        history = history_after(target, history, decision)
        assert decision.desired is not None
        current = decision.desired
        seen.append(current)
    assert seen[1] == seen[2]
    loads_then = [signal.up * load / current for signal, load in zip(signals, loads, strict=False)]
    if seen[1] != seen[0]:
        pairs = zip(signals, loads_then, strict=True)
        assert all(value <= signal.up for signal, value in pairs)


def test_two_signals_of_one_kind_take_their_readings_in_order() -> None:
    signals = (Signal(kind="queue", metric="a", up=10.0, down=2.0), Signal(kind="queue", metric="b"))
    decision = Story(target_of(*signals)).at(0, 4, SignalReading("queue", 12.0, T0), SignalReading("queue", 50.0, T0))
    assert [(found.metric, found.value, found.proposes) for found in decision.inputs] == [
        ("a", 12.0, "up"),
        ("b", 50.0, "hold"),
    ]


# ---- on disk ----


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlDatabase]:
    database = ControlDatabase(str(tmp_path / "control.db"))
    yield database
    database.close()


def test_the_history_survives_a_restart_exactly(control: ControlDatabase, tmp_path: Path) -> None:
    story = Story(target_of(cooldown=300), ScaleHistory())
    store = ScaleStore(control)
    assert store.history("web") == ScaleHistory()
    for now_s, value in ((0, 50.0), (10, 90.0), (20, 40.0), (30, 20.0), (400, 10.0)):
        decision = story.at(now_s, 4, value)
        store.record([(decision, story.history)])
        assert store.history("web") == story.history
    assert story.history.up_ns == T0 + 10 * S
    assert len(story.history.recommendations) > 1
    control.close()
    again = ControlDatabase(str(tmp_path / "control.db"))
    assert ScaleStore(again).history("web") == story.history
    again.close()


def test_a_decision_is_kept_only_when_it_says_something_new(control: ControlDatabase) -> None:
    store, story = ScaleStore(control), Story(target_of(cooldown=300))
    kept = []
    for now_s, value in ((0, 50.0), (5, 51.0), (10, 90.0), (15, 60.0), (20, 95.0), (25, 99.0)):
        decision = story.at(now_s, 4 if now_s <= 10 else 8, value)
        kept.append(bool(store.record([(decision, story.history)])))
    assert kept == [True, False, True, True, True, False]
    table = store.decisions_table()
    assert list(table) == [name for name, _ in decisions_columns()]
    assert table["action"] == ["hold", "up", "hold", "hold"]
    assert table["desired"] == [4, 8, 8, 8]
    assert table["decided_at"] == [T0, T0 + 10 * S, T0 + 15 * S, T0 + 20 * S]
    assert json.loads(table["limited_by"][3]) == ["cooldown"]
    (found,) = json.loads(table["inputs"][1])
    assert found == {
        "kind": "cpu",
        "metric": "cpu_usage_percent",
        "value": 90.0,
        "up": 70.0,
        "down": 30.0,
        "aim": 50.0,
        "age_seconds": 0.0,
        "stale": False,
        "proposes": "up",
        "wanted": 8,
        "demand": None,
    }


def test_decisions_are_listed_by_target_page_by_page_and_pruned(control: ControlDatabase) -> None:
    store = ScaleStore(control)
    for now_s, name in itertools.product((0, 100), ("web", "db")):
        story = Story(target_of(target=name))
        store.record([(story.at(now_s, 4 + now_s, 50.0), story.history)])
    assert store.decisions()["id"] == [4, 3, 2, 1]
    assert store.decisions("db")["id"] == [4, 2]
    assert store.decisions(before_id=4, limit=2)["id"] == [3, 2]
    assert store.decisions("cache")["id"] == []
    assert store.record([]) == []
    assert store.prune(T0 + 200 * S) == 2
    assert store.decisions()["id"] == [4, 3]


def test_decisions_of_one_tick_are_stored_together_or_not_at_all(control: ControlDatabase) -> None:
    store = ScaleStore(control)
    first, second = Story(target_of(target="a")), Story(target_of(target="b"))
    made = [(story.at(0, 4, 50.0), story.history) for story in (first, second)]
    with control.transaction() as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON decisions WHEN new.target = 'b' "
            "BEGIN SELECT raise(ABORT, 'refused'); END"
        )
    with pytest.raises(Bug, match="refused"):
        store.record(made)
    assert store.history("a") == ScaleHistory()
