"""Rules over series: the array evaluator against its one-series oracle, and the stories it must tell."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alerting import evaluator
from engine.alerting.evaluator import Transitions, evaluate
from engine.alerting.rules import RuleInput, fingerprint, number_text, render_summary
from engine.alerting.states import EMPTY_STATE, RuleState
from engine.clock import NS_PER_SECOND
from engine.config import Rule
from engine.config_units import Duration
from tests.oracles.alerting import SeriesStory

S = NS_PER_SECOND
T0 = 1_700_000_000 * S
STALE_AFTER_S = 300
NAMES = {
    evaluator.BECAME_FRESH: "fresh",
    evaluator.CANCELLED: "cancelled",
    evaluator.BECAME_PENDING: "pending",
    evaluator.FIRED: "firing",
    evaluator.BEGAN_CLEARING: "clearing",
    evaluator.HELD_AGAIN: "held",
    evaluator.RESOLVED: "resolved",
    evaluator.BECAME_STALE: "stale",
    evaluator.NOTIFY_NOW: "notified",
}


def rule_of(**changes: object) -> Rule:
    settings_of_rule = {"name": "cpu", "metric": "cpu_usage_percent", "op": ">", "threshold": 90.0, **changes}
    for name in ("for_", "keep_firing", "cooldown"):
        settings_of_rule[name] = Duration(settings_of_rule.get(name, 0) * S)
    return Rule(**settings_of_rule)


def input_of(rows: dict[int, tuple[float, int]]) -> RuleInput:
    """Rows: tag set -> (value, sample time in seconds after T0)."""
    ordered = sorted(rows.items())
    return RuleInput(
        np.array([tagset for tagset, _ in ordered], dtype=np.int32),
        np.array([value for _, (value, _) in ordered], dtype=np.float64),
        np.array([T0 + seconds * S for _, (_, seconds) in ordered], dtype=np.int64),
    )


def told(transitions: Transitions) -> list[tuple[int, str, bool]]:
    return [
        (int(tagset), NAMES[int(kind)], bool(notify))
        for tagset, kind, notify in zip(transitions.tagset_ids, transitions.kinds, transitions.notify, strict=True)
    ]


class Story:
    """One series (number 7) of one rule, told tick by tick in seconds after T0."""

    def __init__(self, state: RuleState = EMPTY_STATE, **changes: object) -> None:
        self.rule = rule_of(**changes)
        self.state = state

    def at(self, now_s: int, value: float, sample_s: int | None = None) -> list[tuple[str, bool]]:
        return self.give(now_s, {7: (value, now_s if sample_s is None else sample_s)})

    def give(self, now_s: int, rows: dict[int, tuple[float, int]]) -> list[tuple[str, bool]]:
        self.last = evaluate(self.rule, self.state, input_of(rows), T0 + now_s * S, stale_after_ns=STALE_AFTER_S * S)
        self.state = self.last.next_state
        return [(name, notify) for _, name, notify in told(self.last)]


# ---- against the oracle --------------------------------------------------------------------------

VALUES = st.sampled_from([math.nan, 10.0, 84.0, 85.0, 86.0, 90.0, 91.0, 99.0, math.inf, -math.inf])
SERIES = st.integers(0, 5)
# What a tick gives of one series: value, and the age of its sample in seconds (from the future, too).
ROW = st.tuples(VALUES, st.sampled_from([-20, 0, 0, 0, 3, 30, 299, 300, 301, 900]))
TICKS = st.lists(
    st.tuples(st.sampled_from([5, 5, 10, 30, 60, 400]), st.dictionaries(SERIES, ROW)), min_size=1, max_size=25
)
RULES = st.builds(
    rule_of,
    op=st.sampled_from([">", ">="]),
    threshold=st.just(90.0),
    clear=st.sampled_from([None, 85.0]),
    for_=st.sampled_from([0, 10, 60]),
    confirm=st.booleans(),
    keep_firing=st.sampled_from([0, 10, 60]),
    cooldown=st.sampled_from([0, 30, 300]),
    when_missing=st.sampled_from(["stale", "ok", "firing", "keep"]),
) | st.builds(
    rule_of,
    op=st.sampled_from(["<", "<="]),
    threshold=st.just(85.0),
    clear=st.sampled_from([None, 90.0]),
    for_=st.sampled_from([0, 10]),
    confirm=st.booleans(),
    keep_firing=st.sampled_from([0, 10]),
    cooldown=st.sampled_from([0, 300]),
    when_missing=st.sampled_from(["stale", "ok", "firing", "keep"]),
)
RULES |= st.builds(
    rule_of,
    op=st.just("outside"),
    threshold=st.just(84.0),
    upper=st.just(91.0),
    clear=st.sampled_from([None, 85.0]),
    clear_upper=st.sampled_from([None, 86.0]),
    for_=st.sampled_from([0, 10]),
    keep_firing=st.sampled_from([0, 10]),
)
RULES |= st.builds(
    rule_of,
    op=st.just("inside"),
    threshold=st.just(85.0),
    upper=st.just(86.0),
    clear=st.sampled_from([None, 84.0]),
    clear_upper=st.sampled_from([None, 91.0]),
    for_=st.sampled_from([0, 10]),
    keep_firing=st.sampled_from([0, 10]),
)


@settings(deadline=None, max_examples=400)
@given(RULES, TICKS)
def test_array_evaluation_tells_what_the_oracle_tells(
    rule: Rule, ticks: list[tuple[int, dict[int, tuple[float, int]]]]
) -> None:
    stories = {tagset: SeriesStory(rule, STALE_AFTER_S * S) for tagset in range(6)}
    state, now_s = EMPTY_STATE, 0
    for step_s, rows in ticks:
        now_s += step_s
        now_ns = T0 + now_s * S
        samples = {tagset: (value, now_s - age_s) for tagset, (value, age_s) in rows.items()}
        expected = []
        for tagset, story in stories.items():
            value, sample_s = samples.get(tagset, (math.nan, 0))
            expected += [(tagset, *event) for event in story.tick(value, T0 + sample_s * S, now_ns)]
        found = evaluate(rule, state, input_of(samples), now_ns, stale_after_ns=STALE_AFTER_S * S)
        assert told(found) == expected
        state = found.next_state
        open_series = {tagset for tagset, story in stories.items() if story.state != "inactive"}
        assert set(state.tagset_ids[state.states != 0].tolist()) == open_series


@settings(deadline=None, max_examples=100)
@given(RULES, TICKS)
def test_series_do_not_influence_each_other(rule: Rule, ticks: list[tuple[int, dict[int, tuple[float, int]]]]) -> None:
    def history(only: int | None) -> list[tuple[int, int, str, bool]]:
        state, now_s, events = EMPTY_STATE, 0, []
        for step_s, rows in ticks:
            now_s += step_s
            samples = {
                tagset: (value, now_s - age_s)
                for tagset, (value, age_s) in rows.items()
                if only is None or tagset == only
            }
            found = evaluate(rule, state, input_of(samples), T0 + now_s * S, stale_after_ns=STALE_AFTER_S * S)
            events += [(now_s, *event) for event in told(found)]
            state = found.next_state
        return events

    together = history(None)
    for tagset in range(6):
        assert history(tagset) == [event for event in together if event[1] == tagset]


@settings(deadline=None, max_examples=50)
@given(RULES, TICKS)
def test_evaluation_changes_neither_state_nor_input(
    rule: Rule, ticks: list[tuple[int, dict[int, tuple[float, int]]]]
) -> None:
    state, now_s = EMPTY_STATE, 0
    for step_s, rows in ticks:
        now_s += step_s
        given_rows = input_of({tagset: (value, now_s - age_s) for tagset, (value, age_s) in rows.items()})
        arrays = [given_rows.tagset_ids, given_rows.values, given_rows.times]
        for array in [*arrays, *(getattr(state, name) for name in RuleState.__slots__)]:
            array.setflags(write=False)
        found = evaluate(rule, state, given_rows, T0 + now_s * S, stale_after_ns=STALE_AFTER_S * S)
        for name in RuleState.__slots__:
            for array in arrays:
                assert not np.shares_memory(getattr(found.next_state, name), array)
        state = found.next_state


# ---- stories -------------------------------------------------------------------------------------


def test_silence_ends_an_alert_where_missing_is_ok() -> None:
    story = Story(when_missing="ok", keep_firing=60)
    assert story.at(0, 95.0) == [("firing", True)]
    assert story.at(300, 95.0, 0) == []
    assert story.at(305, 95.0, 0) == [("clearing", False)]
    # It was over once it had been silent for stale_after, at 300.
    assert story.at(359, 95.0, 0) == []
    assert story.at(360, 95.0, 0) == [("resolved", True)]


def test_silence_is_an_alert_where_missing_fires() -> None:
    story = Story(when_missing="firing", for_=60)
    assert story.at(0, 10.0) == []
    assert story.at(300, 10.0, 0) == []
    assert story.at(305, 10.0, 0) == [("pending", False)]
    assert story.last.since_ns.tolist() == [T0 + 300 * S]
    assert story.give(359, {}) == []
    assert story.give(360, {}) == [("firing", True)]
    assert story.give(1_000, {}) == []
    assert story.at(1_005, 10.0) == [("resolved", True)]


def test_silence_changes_nothing_where_what_was_is_kept() -> None:
    story = Story(when_missing="keep", for_=60)
    assert story.at(0, 95.0) == [("pending", False)]
    assert story.give(900, {}) == []
    assert story.at(905, 95.0) == [("firing", True)]
    assert story.give(5_000, {}) == []
    assert not story.state.stale.any()


def test_a_rule_without_a_wait_fires_at_the_first_breaching_sample_and_resolves_below_its_threshold() -> None:
    story = Story()
    assert story.at(0, 90.0) == []
    assert story.at(5, 90.1) == [("firing", True)]
    assert story.at(10, 99.0) == []
    assert story.at(15, 90.0) == [("resolved", True)]
    assert len(story.state) == 0


def test_the_wait_runs_from_the_first_breaching_sample_not_from_the_tick_that_saw_it() -> None:
    story = Story(for_=30)
    assert story.at(12, 95.0, sample_s=3) == [("pending", False)]
    assert story.last.since_ns.tolist() == [T0 + 3 * S]
    assert story.at(32, 95.0, sample_s=31) == []
    assert story.at(33, 95.0, sample_s=31) == [("firing", True)]


def test_one_sample_that_does_not_breach_starts_the_wait_anew() -> None:
    story = Story(for_=30)
    assert story.at(0, 95.0) == [("pending", False)]
    assert story.at(25, 89.0) == [("cancelled", False)]
    assert story.at(26, 95.0) == [("pending", False)]
    assert story.at(50, 95.0) == []
    assert story.at(56, 95.0) == [("firing", True)]


def test_while_pending_the_threshold_counts_and_while_firing_the_clear_level() -> None:
    story = Story(for_=30, clear=85.0)
    assert story.at(0, 95.0) == [("pending", False)]
    assert story.at(5, 88.0) == [("cancelled", False)]
    assert story.at(10, 95.0) == [("pending", False)]
    assert story.at(40, 95.0) == [("firing", True)]
    assert story.at(45, 86.0) == []
    assert story.at(50, 85.0) == [("resolved", True)]


def test_a_rule_to_be_confirmed_fires_at_the_second_reading() -> None:
    story = Story(confirm=True)
    assert story.at(0, 95.0) == [("pending", False)]
    # The same reading again is no second one, however long it stands.
    assert story.at(5, 95.0, 0) == []
    assert story.at(120, 95.0, 0) == []
    assert story.at(125, 40.0) == [("cancelled", False)]
    assert story.at(155, 95.0) == [("pending", False)]
    assert story.at(185, 96.0) == [("firing", True)]
    waiting = Story(confirm=True, for_=60)
    assert waiting.at(0, 95.0) == [("pending", False)]
    assert waiting.at(30, 95.0) == []
    assert waiting.at(60, 95.0, 30) == [("firing", True)]
    # Without another sample lately there is nothing to wait for.
    first = Story(confirm=True)
    given = input_of({7: (95.0, 0), 8: (95.0, 0)})
    lone = RuleInput(given.tagset_ids, given.values, given.times, lambda ids: ids == 7)
    found = evaluate(first.rule, first.state, lone, T0, stale_after_ns=STALE_AFTER_S * S)
    assert told(found) == [(7, "firing", True), (8, "pending", False)]
    silent = Story(confirm=True, when_missing="firing")
    assert silent.at(STALE_AFTER_S + 1, 10.0, 0) == [("firing", True)]


def test_keep_firing_bridges_a_short_recovery() -> None:
    story = Story(keep_firing=60)
    assert story.at(0, 95.0) == [("firing", True)]
    assert story.at(10, 50.0) == [("clearing", False)]
    assert story.at(60, 95.0) == [("held", False)]
    assert story.at(70, 50.0) == [("clearing", False)]
    assert story.at(129, 50.0) == []
    assert story.at(130, 50.0) == [("resolved", True)]


def test_in_the_cooldown_an_alert_opens_silently_and_is_told_when_it_outlasts_it() -> None:
    story = Story(cooldown=300)
    assert story.at(0, 95.0) == [("firing", True)]
    assert story.at(10, 50.0) == [("resolved", True)]
    assert story.at(20, 95.0) == [("firing", False)]
    assert story.last.quiet_until_ns.tolist() == [T0 + 310 * S]
    assert story.at(309, 95.0) == []
    assert story.at(310, 95.0) == [("notified", True)]
    assert story.at(320, 50.0) == [("resolved", True)]


def test_a_silent_alert_resolves_silently_and_does_not_prolong_the_cooldown() -> None:
    story = Story(cooldown=300)
    story.at(0, 95.0)
    story.at(10, 50.0)
    for second in range(20, 300, 20):
        assert story.at(second, 95.0) == [("firing", False)]
        assert story.at(second + 10, 50.0) == [("resolved", False)]
    assert story.at(310, 95.0) == [("firing", True)]


def test_a_series_is_forgotten_when_its_cooldown_is_over() -> None:
    story = Story(cooldown=300)
    story.at(0, 95.0)
    story.at(10, 50.0)
    story.at(309, 50.0)
    assert len(story.state) == 1
    story.at(310, 50.0)
    assert len(story.state) == 0


def test_a_pending_alert_survives_a_gap_and_is_cancelled_by_stale_data() -> None:
    story = Story(for_=600)
    assert story.at(0, 95.0) == [("pending", False)]
    assert story.at(100, math.nan) == []
    assert story.give(200, {}) == []
    assert story.give(300, {}) == []
    assert story.give(301, {}) == [("cancelled", False)]
    assert story.last.stale.tolist() == [True]


def test_a_gap_alone_never_fires_a_pending_alert() -> None:
    story = Story(for_=30)
    story.at(0, 95.0)
    assert story.at(60, math.nan) == []
    assert story.at(65, 95.0) == [("firing", True)]


def test_a_firing_alert_without_data_stays_firing_and_is_marked_stale_until_data_decides() -> None:
    story = Story()
    assert story.at(0, 95.0) == [("firing", True)]
    assert story.at(301, 10.0, sample_s=0) == [("stale", False)]
    assert story.give(100_000, {}) == []
    assert story.state.states.tolist() == [2]
    assert story.at(100_005, 95.0) == [("fresh", False)]
    assert story.give(200_000, {}) == [("stale", False)]
    assert story.at(200_005, 10.0) == [("fresh", False), ("resolved", True)]


def test_old_samples_judge_nothing() -> None:
    story = Story()
    assert story.at(1_000, 95.0, sample_s=699) == []
    assert story.at(1_000, 95.0, sample_s=700) == [("firing", True)]


def test_a_sample_from_the_future_fires_a_rule_without_a_wait_and_makes_another_wait() -> None:
    assert Story().at(0, 95.0, sample_s=100) == [("firing", True)]
    story = Story(for_=30)
    assert story.at(0, 95.0, sample_s=100) == [("pending", False)]
    assert story.at(129, 95.0, sample_s=100) == []
    assert story.at(130, 95.0, sample_s=100) == [("firing", True)]


def test_many_series_at_once_are_told_in_order() -> None:
    story = Story(for_=0, cooldown=300)
    story.give(0, {3: (95.0, 0), 900_000: (95.0, 0), 5: (1.0, 0)})
    assert story.last.firing.tolist() == [3, 900_000]
    assert story.last.firing.dtype == np.int32
    story.give(5, {5: (95.0, 5), 900_000: (1.0, 5)})
    assert story.last.firing.tolist() == [5]
    assert story.last.resolved.tolist() == [900_000]
    assert story.state.tagset_ids.tolist() == [3, 5, 900_000]
    assert story.state.open_count == 2


def test_input_of_the_wrong_shape_is_refused() -> None:
    ids = np.array([1, 2], dtype=np.int32)
    with pytest.raises(ValueError, match="2 tag sets, 1 values and 2 times"):
        RuleInput(ids, np.zeros(1), np.zeros(2, dtype=np.int64))
    for wrong in ([2, 1], [1, 1]):
        with pytest.raises(ValueError, match="ascending"):
            RuleInput(np.array(wrong, dtype=np.int32), np.zeros(2), np.zeros(2, dtype=np.int64))


# ---- names and sentences -------------------------------------------------------------------------


def test_the_fingerprint_is_of_rule_and_labels_alone() -> None:
    texts = [b"cpu", b"host", b"a", b"region", b"b"]
    exact = hashlib.sha256(b"".join(struct.pack("<Q", len(text)) + text for text in texts)).hexdigest()[:32]
    assert fingerprint("cpu", {"host": "a", "region": "b"}) == exact
    assert fingerprint("cpu", {"region": "b", "host": "a"}) == exact
    others = [
        ("cpu", {"host": "ab", "region": ""}),
        ("cpu", {"hosta": "", "region": "b"}),
        ("cpuhost", {"a": "b"}),
    ]
    assert len({exact, *(fingerprint(*other) for other in others)}) == 4


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        ("CPU of {host} at {value} %", "CPU of web-1 at 97.1235 %"),
        ("{value:.1f} over {threshold} ({rule}, {metric})", "97.1 over 90 (cpu, cpu_usage_percent)"),
        ("{service} on {host}", "(no service) on web-1"),
        ("{{literal}} {value:nonsense}", "{literal} 97.1235"),
    ],
)
def test_the_summary_is_filled_in(summary: str, sentence: str) -> None:
    assert render_summary(rule_of(summary=summary), {"host": "web-1"}, 97.123456) == sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5.0, "5"),
        (-0.0, "0"),
        (2_000_000.0, "2000000"),
        (0.1 + 0.2, "0.3"),
        (1e300, "1e+300"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert number_text(value) == text
