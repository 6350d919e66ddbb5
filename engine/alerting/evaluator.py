"""One rule judged over all its series at one tick: a pure function of state, input and time, over arrays.

Only series that breach now or have a row in the state are looked at beyond the first comparison, so the cost
of a tick is one comparison for each series and a few dozen operations on the short arrays of those that
matter. The semantics are told in docs/alerting.md; tests/oracles/alerting.py says the same one series at a
time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import numpy as np

from engine.alerting.rules import RuleInput, breaks, holds
from engine.alerting.states import (
    CLEARING,
    EMPTY_STATE,
    FIRING,
    INACTIVE,
    PENDING,
    BoolArray,
    Float64Array,
    Int8Array,
    Int32Array,
    Int64Array,
    RuleState,
)
from engine.config import Rule

_Column = TypeVar("_Column", Int64Array, Float64Array)

# What happened to a series, in the order in which it is told where one tick brings two of them.
BECAME_FRESH = 0
CANCELLED = 1
BECAME_PENDING = 2
FIRED = 3
BEGAN_CLEARING = 4
HELD_AGAIN = 5
RESOLVED = 6
BECAME_STALE = 7
NOTIFY_NOW = 8


@dataclass(frozen=True, slots=True, eq=False)
class Transitions:
    """What changed in one tick of one rule: k changes in ascending order of (tag set, kind).

    ``kinds`` int8[k]: the constants above.  ``tagset_ids`` int32[k].  ``values`` float64[k]: the newest
    value. ``times`` int64[k]: time of the newest sample.  ``since_ns`` int64[k]: time of the first sample of
    the breach. ``quiet_until_ns`` int64[k]: end of the series' cooldown.  ``notify`` bool[k]: a notification
    is due. ``stale`` bool[k]: there is no recent data; for CANCELLED this is the cause.  ``next_state``:
    what the rule remembers once these changes are stored.
    """

    kinds: Int8Array
    tagset_ids: Int32Array
    values: Float64Array
    times: Int64Array
    since_ns: Int64Array
    quiet_until_ns: Int64Array
    notify: BoolArray
    stale: BoolArray
    next_state: RuleState

    def __len__(self) -> int:
        return len(self.kinds)

    def of(self, kind: int) -> Int32Array:
        """Return the tag sets with a change of this kind, ascending."""
        found: Int32Array = self.tagset_ids[self.kinds == kind]
        return found

    @property
    def pending(self) -> Int32Array:
        return self.of(BECAME_PENDING)

    @property
    def firing(self) -> Int32Array:
        return self.of(FIRED)

    @property
    def resolved(self) -> Int32Array:
        return self.of(RESOLVED)

    @property
    def cancelled(self) -> Int32Array:
        return self.of(CANCELLED)


def evaluate(rule: Rule, state: RuleState, given: RuleInput, now_ns: int, *, stale_after_ns: int) -> Transitions:
    """Return what happens to the series of ``rule`` at ``now_ns``; ``state`` and ``given`` stay as they are.

    ``stale_after_ns``: a value whose newest sample is older than this judges nothing.  A series of the state
    that ``given`` does not mention is treated like one with the value NaN.
    """
    tagset_ids, values, times = given.tagset_ids, given.values, given.times
    oldest_ns = now_ns - stale_after_ns
    wanted = breaks(rule, values)
    if rule.when_missing == "firing":
        wanted = np.where(times >= oldest_ns, wanted, ~np.isnan(values))
    elif wanted.any():
        wanted &= times >= oldest_ns
    if len(state) == len(tagset_ids) and np.array_equal(state.tagset_ids, tagset_ids):
        # Copies, because the next state may keep them and the caller may fill its arrays anew.
        return _judge(rule, state, values.copy(), times.copy(), now_ns, oldest_ns, given.alone)
    missing = _NOTHING_MISSING
    if len(state):
        positions = np.searchsorted(tagset_ids, state.tagset_ids)
        absent = _absent(tagset_ids, state.tagset_ids, positions)
        if absent.any():
            missing, positions = state.tagset_ids[absent], positions[~absent]
        wanted[positions] = True
    rows = np.flatnonzero(wanted)
    tagset_ids, values, times = tagset_ids[rows], values[rows], times[rows]
    if len(missing):
        # A row without a value for each series that only the state knows.
        places = np.searchsorted(tagset_ids, missing)
        tagset_ids = np.insert(tagset_ids, places, missing)
        values, times = np.insert(values, places, np.nan), np.insert(times, places, 0)
    if not len(tagset_ids):
        return NOTHING_CHANGED
    if len(tagset_ids) != len(state):
        state = state.spread(np.searchsorted(tagset_ids, state.tagset_ids), tagset_ids)
    return _judge(rule, state, values, times, now_ns, oldest_ns, given.alone)


def _absent(tagset_ids: Int32Array, wanted_ids: Int32Array, positions: Int64Array) -> BoolArray:
    """Return bool[k]: which of ``wanted_ids`` are not among ``tagset_ids``, where they would be at ``positions``."""
    if not len(tagset_ids):
        return np.ones(len(wanted_ids), dtype=np.bool_)
    absent: BoolArray = tagset_ids[np.minimum(positions, len(tagset_ids) - 1)] != wanted_ids
    return absent


def _judge(
    rule: Rule,
    before: RuleState,
    values: Float64Array,
    times: Int64Array,
    now_ns: int,
    oldest_ns: int,
    alone: Callable[[Int32Array], BoolArray] | None,
) -> Transitions:
    """Return the changes of the series in ``before``; ``values`` and ``times`` are aligned with its rows."""
    known = ~np.isnan(values)
    judged = known & (times >= oldest_ns)
    seen_ns = _updated(before.seen_ns, known, np.maximum(times, before.seen_ns))
    overdue = seen_ns < oldest_ns
    breaching = judged & breaks(rule, values)
    released = judged & ~holds(rule, values)
    decided = judged
    if rule.when_missing == "keep":
        overdue = np.zeros(len(overdue), np.bool_)
    elif rule.when_missing != "stale":
        if rule.when_missing == "firing":
            breaching = breaching | overdue
        else:
            released = released | overdue
        decided = judged | overdue
        # What silence decides, it decides when it has become too long.
        times = _updated(times, overdue, seen_ns + (now_ns - oldest_ns))

    inactive = before.states == INACTIVE
    pending = before.states == PENDING
    firing = before.states == FIRING
    clearing = before.states == CLEARING

    begun = inactive & breaching
    since_ns = _updated(before.since_ns, begun, times)
    seen_ns = _updated(seen_ns, begun & judged, times)
    fired = (begun | pending) & breaching & (now_ns - since_ns >= rule.for_)
    if rule.for_ == 0:
        # With a sample from the future, now - since is negative; without a wait it does not matter.
        fired |= (begun | pending) & breaching if rule.confirm else begun
    if rule.confirm:
        # What is silent has no second reading, and with a first one there is nothing to compare.
        confirmed = (times > since_ns) | (overdue & decided)
        if alone is not None and begun.any():
            rows = np.flatnonzero(begun)
            confirmed[rows] |= alone(before.tagset_ids[rows])
        fired &= confirmed
    became_pending = begun & ~fired
    cancelled = pending & (overdue | judged) & ~breaching
    began_clearing = firing & released
    cleared_ns = _updated(before.cleared_ns, began_clearing, times)
    resolved = (began_clearing | (clearing & released)) & (now_ns - cleared_ns >= rule.keep_firing)
    if rule.keep_firing == 0:
        resolved |= began_clearing
    began_clearing &= ~resolved
    held_again = clearing & decided & ~released

    states = before.states.copy()
    states[became_pending] = PENDING
    states[fired | held_again] = FIRING
    states[began_clearing] = CLEARING
    states[cancelled | resolved] = INACTIVE

    was_open = firing | clearing
    became_stale = was_open & overdue & ~decided & ~before.stale
    became_fresh = before.stale & judged
    stale = (before.stale | became_stale) & ~became_fresh

    # The cooldown runs from the last resolve that was told; a silent one does not prolong it, or a flapping
    # series would never be heard of again.
    told_resolve = resolved & before.notified
    may_notify = now_ns >= before.quiet_until_ns
    notify_now = was_open & (states == FIRING) & ~before.notified & may_notify
    told_firing = fired & may_notify
    notified = (before.notified | notify_now | told_firing) & ~resolved
    quiet_until_ns = before.quiet_until_ns
    if told_resolve.any():
        quiet_until_ns = np.where(told_resolve, now_ns + rule.cooldown, quiet_until_ns)

    after = RuleState(
        before.tagset_ids,
        states,
        since_ns,
        seen_ns,
        _updated(before.values, known, values),
        cleared_ns,
        quiet_until_ns,
        notified,
        stale,
    )
    remembered = (states != INACTIVE) | (quiet_until_ns > now_ns)
    next_state = after if remembered.all() else after.where(remembered)
    found = [
        (BECAME_FRESH, became_fresh),
        (CANCELLED, cancelled),
        (BECAME_PENDING, became_pending),
        (FIRED, fired),
        (BEGAN_CLEARING, began_clearing),
        (HELD_AGAIN, held_again),
        (RESOLVED, resolved),
        (BECAME_STALE, became_stale),
        (NOTIFY_NOW, notify_now),
    ]
    if not reduce(operator.or_, (mask for _, mask in found)).any():
        return Transitions(*_NO_CHANGES, next_state)
    return _told(found, after, overdue, told_firing | told_resolve | notify_now, next_state)


def _updated(before: _Column, mask: BoolArray, now: _Column) -> _Column:
    """Return ``before`` with the rows that ``mask`` marks taken from ``now``."""
    if mask.all():
        return now
    return np.where(mask, now, before) if mask.any() else before


def _told(
    found: list[tuple[int, BoolArray]],
    after: RuleState,
    overdue: BoolArray,
    notify: BoolArray,
    next_state: RuleState,
) -> Transitions:
    """Return the changes ``found`` of the rows of ``after``, flattened and in order."""
    rows_of_kind = [(kind, np.flatnonzero(mask)) for kind, mask in found]
    rows = np.concatenate([rows for _, rows in rows_of_kind])
    kinds = np.repeat(
        np.array([kind for kind, _ in rows_of_kind], dtype=np.int8), [len(rows) for _, rows in rows_of_kind]
    )
    # Stable: the kinds of one series stay in their order.
    order = np.argsort(rows, kind="stable")
    rows, kinds = rows[order], kinds[order]
    tells = (kinds == FIRED) | (kinds == RESOLVED) | (kinds == NOTIFY_NOW)
    return Transitions(
        kinds,
        after.tagset_ids[rows],
        after.values[rows],
        after.seen_ns[rows],
        after.since_ns[rows],
        after.quiet_until_ns[rows],
        notify[rows] & tells,
        overdue[rows],
        next_state,
    )


_NO_CHANGES = (
    np.empty(0, dtype=np.int8),
    np.empty(0, dtype=np.int32),
    np.empty(0, dtype=np.float64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.bool_),
    np.empty(0, dtype=np.bool_),
)
NOTHING_CHANGED = Transitions(*_NO_CHANGES, EMPTY_STATE)
_NOTHING_MISSING = np.empty(0, dtype=np.int32)
