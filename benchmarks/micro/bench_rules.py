"""engine.alerting.evaluator: one tick of 20 rules over 10,000 series each.

Best case: nothing breaches.  Ordinary: one series in a hundred breaches, for long.  Worst: every series
fires, and every series changes its state at each tick.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.alerting.evaluator import evaluate
from engine.alerting.rules import RuleInput
from engine.alerting.states import EMPTY_STATE, RuleState
from engine.clock import NS_PER_SECOND
from engine.config import Rule
from engine.config_units import Duration

SERIES = 10_000
RULES = 20
NOW_NS = 1_700_000_000 * NS_PER_SECOND
TICK_NS = 5 * NS_PER_SECOND
STALE_AFTER_NS = 300 * NS_PER_SECOND

Case = tuple[str, float, str, Callable[[], object]]


def _rules(*, wait: str) -> list[Rule]:
    return [
        Rule(
            name=f"rule-{number}",
            metric="cpu_usage_percent",
            op=">",
            threshold=90.0,
            clear=85.0,
            for_=Duration.parse(wait),
        )
        for number in range(RULES)
    ]


def _given(values: np.ndarray[tuple[int], np.dtype[np.float64]], now_ns: int) -> RuleInput:
    # Every other tag set, as when two tables share the numbers.
    tagset_ids = np.arange(0, 2 * SERIES, 2, dtype=np.int32)
    ages_ns = np.random.default_rng(2).integers(0, 30 * NS_PER_SECOND, SERIES)
    return RuleInput(tagset_ids, values, now_ns - ages_ns)


def _values(breaching: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    random = np.random.default_rng(1)
    return np.where(random.random(SERIES) < breaching, 97.0, random.uniform(0.0, 80.0, SERIES))


def _settled(rule: Rule, given: RuleInput) -> RuleState:
    state = EMPTY_STATE
    for tick in range(20, 0, -1):
        state = evaluate(rule, state, given, NOW_NS - tick * TICK_NS, stale_after_ns=STALE_AFTER_NS).next_state
    return state


def _steady(name: str, *, breaching: float, wait: str) -> Case:
    rules = _rules(wait=wait)
    given = _given(_values(breaching), NOW_NS)
    states = [_settled(rule, given) for rule in rules]

    def tick() -> None:
        for rule, state in zip(rules, states, strict=True):
            evaluate(rule, state, given, NOW_NS, stale_after_ns=STALE_AFTER_NS)

    return (name, SERIES * RULES, "series", tick)


def _changing(name: str, *, before: float, now: float) -> Case:
    rules = _rules(wait="0s")
    earlier = _given(_values(before), NOW_NS)
    given = _given(_values(now), NOW_NS)
    states = [_settled(rule, earlier) for rule in rules]

    def tick() -> None:
        for rule, state in zip(rules, states, strict=True):
            evaluate(rule, state, given, NOW_NS, stale_after_ns=STALE_AFTER_NS)

    return (name, SERIES * RULES, "series", tick)


def _input_check() -> Case:
    given = _given(_values(0.01), NOW_NS)

    def build() -> None:
        for _ in range(RULES):
            RuleInput(given.tagset_ids, given.values, given.times)

    return ("input-check", SERIES * RULES, "series", build)


def cases() -> list[Case]:
    """Return one tick of all rules in each situation."""
    return [
        _steady("tick-healthy", breaching=0.0, wait="30s"),
        _steady("tick-1%-firing", breaching=0.01, wait="30s"),
        _steady("tick-1%-pending", breaching=0.01, wait="1h"),
        _steady("tick-half-firing", breaching=0.5, wait="30s"),
        _steady("tick-all-firing", breaching=1.0, wait="30s"),
        _changing("tick-all-fire-at-once", before=0.0, now=1.0),
        _changing("tick-all-resolve-at-once", before=1.0, now=0.0),
        _changing("tick-half-resolve-half-fire", before=0.5, now=0.25),
        _input_check(),
    ]
