"""How many instances a target should have now: a pure function of settings, what is observed, and the past.

A signal is taken to be inversely proportional to the number of instances.  Its aim is the middle between its
two levels, and it wants the fewest instances that bring it to the aim or below.  What a signal wants depends
on the load alone, not on the present number of instances, so following a decision never causes the opposite
one. The order of the steps and the reasons for each are in docs/scaling.md.

Where the demand is known, what load to expect while instances start, it decides in place of the CPU signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.clock import NS_PER_SECOND
from engine.config import ScaleTarget, Signal
from engine.errors import BadConfig, Bug
from engine.scaling.demand import Demand

UP = "up"
DOWN = "down"
HOLD = "hold"

BY_MAX = "max"
BY_MIN = "min"
BY_COOLDOWN = "cooldown"
BY_STABILISATION = "stabilisation"
BY_TOLERANCE = "tolerance"
BY_STALE_DATA = "stale data"

# What a division rounds up is not load: 60.00000000000001 instances are 60, and 82.5 is within a tenth of 75.
_ROUNDING = 1e-9
FULL_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class SignalReading:
    """The value of one signal over all instances, and the time of its newest sample; None without any.

    ``stale``: the reader knows it to be out of date, whatever ``time_ns`` says.
    """

    kind: str
    value: float | None
    time_ns: int | None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a target: ``current`` instances (None: unknown) and its signals, in any order.

    ``silent``: instances that have reported before and do so no more; they may be gone, or run unseen.  ``demand``:
    the load now and ahead, None where that is not known.
    """

    current: int | None
    readings: tuple[SignalReading, ...]
    silent: int = 0
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class ScaleHistory:
    """What a target's decisions so far mean for the next one.

    ``desired``: the last number asked for; None before the first.  ``up_ns``, ``down_ns``: when it last went
    up and down.  ``recommendations``: (time, instances), oldest first, of the stabilisation window; one that
    a later one reaches or exceeds is left out, as it can never again be the highest.
    """

    desired: int | None = None
    up_ns: int | None = None
    down_ns: int | None = None
    recommendations: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SignalInput:
    """A configured signal as the decision saw it.

    ``proposes``: "up" above its upper level, "down" below its lower one, "hold" between them or within the
    tolerance of its aim, None where the value is missing or stale.  ``wanted``: how many instances that
    means.  ``demand``: what they follow from in place of the value; None where they follow from that.
    """

    kind: str
    metric: str
    value: float | None
    up: float
    down: float
    aim: float
    age_seconds: float | None
    stale: bool
    proposes: str | None
    wanted: int | None
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer.  ``desired`` None: there has never been enough to decide on, and nothing should be done.

    ``recommended``: what the signals want, within min and max, before stabilisation and cooldown.
    ``limited_by``: what kept the answer from it, or a signal from being heard.  ``valid_until_ns``: without
    a newer decision, do nothing after this time.
    """

    target: str
    desired: int | None
    current: int | None
    recommended: int | None
    action: str
    reason: str
    limited_by: tuple[str, ...]
    inputs: tuple[SignalInput, ...]
    decided_ns: int
    valid_until_ns: int


def aim_of(signal: Signal) -> float:
    """Return the value that scaling brings a signal to: the middle between its levels.

    Raises BadConfig for levels without a positive middle or in the wrong order.
    """
    aim = (signal.up + signal.down) / 2.0
    if not (0.0 < aim < math.inf and signal.down < signal.up):
        raise BadConfig(
            f"cannot scale by {signal.kind}: got up {signal.up:g} and down {signal.down:g}, "
            f"want down below up and both not negative"
        )
    return aim


def instances_for(current: int, value: float, aim: float) -> int:
    """Return the fewest instances that bring ``value``, seen with ``current``, to ``aim`` or below."""
    exact = current * value / aim
    return max(0, math.ceil(exact - _ROUNDING * max(1.0, exact)))


def decide(target: ScaleTarget, observed: Observed, history: ScaleHistory, now_ns: int) -> Decision:
    """Return the decision at ``now_ns``; nothing is remembered here, :func:`history_after` does that.

    Raises BadConfig for a signal without a usable aim, Bug for a reading of a signal that is not configured.
    """
    current = observed.current
    if current == 0 and target.instances is None:
        # Instances are counted by their data then, so none means no data.
        current = None
    limits = _Limits()
    inputs = _inputs(target, observed, current, now_ns, limits)
    base = _base(target, current, history, now_ns)
    if base is None:
        limits.add(BY_STALE_DATA)
        reason = "unavailable: the number of instances is unknown and none has ever been asked for"
        return _decision(target, current, inputs, None, None, HOLD, reason, limits, now_ns)
    held = limits.clamp(target, base)
    wanted, cause = _wanted(target, current, held, observed.silent, inputs, limits)
    recommended = limits.clamp(target, wanted)
    desired = recommended
    if desired < held:
        desired = min(held, max(desired, _highest_need(target, history, held, now_ns)))
        if desired > recommended:
            limits.add(BY_STABILISATION, f"{desired} were needed within the last {target.stabilisation.text}")
    # What was asked for is not in the metrics yet, but the demand's need counts it, so it does not wait.
    at_once = max(held, min(desired, max(target.min, min(target.max, _needed_by_demand(inputs)))))
    if desired not in (held, at_once):
        cooling_ns = _cooling_ns(target, history, desired > held, now_ns)
        if cooling_ns > 0:
            desired = at_once
            limits.add(BY_COOLDOWN, f"the cooldown lasts for another {math.ceil(cooling_ns / NS_PER_SECOND)} s")
    action = UP if desired > base else DOWN if desired < base else HOLD
    reason = f"{cause}; {'; '.join(limits.clauses)}" if limits.clauses else cause
    return _decision(target, current, inputs, recommended, desired, action, reason, limits, now_ns)


def history_after(target: ScaleTarget, history: ScaleHistory, decision: Decision) -> ScaleHistory:
    """Return the history with ``decision`` in it, for the next one."""
    now_ns = decision.decided_ns
    # A clock that was set back must not prolong what was measured with the old one.
    up_ns = None if history.up_ns is None else min(history.up_ns, now_ns)
    down_ns = None if history.down_ns is None else min(history.down_ns, now_ns)
    if decision.desired is None or decision.recommended is None:
        return ScaleHistory(None, up_ns, down_ns)
    starts_ns = now_ns - target.stabilisation
    window = [
        (min(time_ns, now_ns), instances)
        for time_ns, instances in history.recommendations
        if time_ns >= starts_ns and instances > decision.recommended
    ]
    unknown = not any(time_ns >= starts_ns for time_ns, _ in history.recommendations)
    if unknown and decision.desired > decision.recommended:
        # Nothing is known of the window, so what there is counts as recommended.
        window.append((now_ns, decision.desired))
    window.append((now_ns, decision.recommended))
    return ScaleHistory(
        desired=decision.desired,
        up_ns=now_ns if decision.action == UP else up_ns,
        down_ns=now_ns if decision.action == DOWN else down_ns,
        recommendations=tuple(window),
    )


class _Limits:
    """What limits a decision: the names for programs and the clauses for people, each once and in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.clauses: list[str] = []

    def add(self, name: str, clause: str = "") -> None:
        if name not in self.names:
            self.names.append(name)
            if clause:
                self.clauses.append(clause)

    def clamp(self, target: ScaleTarget, instances: int) -> int:
        if instances > target.max:
            self.add(BY_MAX, f"at most {target.max} are allowed")
            return target.max
        if instances < target.min:
            self.add(BY_MIN, f"at least {target.min} are required")
            return target.min
        return instances


def _inputs(
    target: ScaleTarget,
    observed: Observed,
    current: int | None,
    now_ns: int,
    limits: _Limits,
) -> tuple[SignalInput, ...]:
    """Return each configured signal with its reading; two signals of one kind take theirs in order."""
    readings = observed.readings
    given: dict[str, list[SignalReading]] = {}
    for reading in readings:
        given.setdefault(reading.kind, []).append(reading)
    inputs = [
        _input(target, signal, given[signal.kind].pop(0) if given.get(signal.kind) else None, current, now_ns)
        for signal in target.signals
    ]
    if observed.demand is not None and current:
        first = next((index for index, found in enumerate(inputs) if measures_load(target.signals[index])), None)
        if first is not None and inputs[first].proposes is not None:
            inputs[first] = _by_demand(inputs[first], observed.demand, current)
    left = sorted(kind for kind, of_kind in given.items() if of_kind)
    if left:
        raise Bug(f"cannot decide on {target.target}: got a reading of {left[0]}, want configured signals only")
    for found in inputs:
        if (
            found.demand is None
            and found.proposes == HOLD
            and found.value is not None
            and not found.down <= found.value <= found.up
        ):
            limits.add(BY_TOLERANCE)
    return tuple(inputs)


def _input(
    target: ScaleTarget, signal: Signal, reading: SignalReading | None, current: int | None, now_ns: int
) -> SignalInput:
    aim = aim_of(signal)
    value, age_ns, stale = None, None, True
    if reading is not None:
        if reading.value is not None and math.isfinite(reading.value):
            value = reading.value
        if reading.time_ns is not None:
            age_ns = now_ns - reading.time_ns
            stale = value is None or reading.stale or age_ns > target.stale_after
    proposes, wanted = None, None
    if value is not None and not stale and current:
        proposes, wanted = HOLD, current
        if abs(value / aim - 1.0) > target.tolerance + _ROUNDING:
            if value > signal.up:
                proposes, wanted = UP, instances_for(current, value, aim)
            elif value < signal.down:
                proposes, wanted = DOWN, instances_for(current, value, aim)
    return SignalInput(
        kind=signal.kind,
        metric=signal.metric,
        value=value,
        up=signal.up,
        down=signal.down,
        aim=aim,
        age_seconds=None if age_ns is None else age_ns / NS_PER_SECOND,
        stale=stale,
        proposes=proposes,
        wanted=wanted,
    )


def measures_load(signal: Signal) -> bool:
    """Whether the signal tells the load in instances: CPU, averaged over them."""
    return signal.kind == "cpu" and signal.across == "avg" and 0.0 < signal.up < FULL_PERCENT


def instances_for_demand(demand: Demand, up: float) -> int:
    """Return the fewest instances that the load of now keeps at ``up`` percent or below, and the expected load half-way
    between that and 100."""
    now, high = 100.0 * demand.now / up, 100.0 * demand.high / ((up + FULL_PERCENT) / 2.0)
    return max(0, math.ceil(max(now, high) - _ROUNDING * max(1.0, now, high)))


def _by_demand(found: SignalInput, demand: Demand, current: int) -> SignalInput:
    wanted = instances_for_demand(demand, found.up)
    proposes = UP if wanted > current else DOWN if wanted < current else HOLD
    return replace(found, proposes=proposes, wanted=wanted, demand=demand)


def _base(target: ScaleTarget, current: int | None, history: ScaleHistory, now_ns: int) -> int | None:
    """Return the number of instances that the decision starts from; None when nothing is known.

    It is the number asked for last: while it is being carried out, what is observed lags behind.  When there
    are more than that after the cooldown, somebody else wants them, and taking them away needs the same
    evidence as any scaling down.
    """
    if history.desired is None:
        return current
    if current is None or _cooling_ns(target, history, False, now_ns) > 0:
        return history.desired
    return max(history.desired, min(current, target.max))


def _wanted(
    target: ScaleTarget,
    current: int | None,
    held: int,
    silent_instances: int,
    inputs: Sequence[SignalInput],
    limits: _Limits,
) -> tuple[int, str]:
    """Return how many instances the signals want and why; ``held`` where they want nothing else."""
    if current is None:
        limits.add(BY_STALE_DATA)
        return held, f"hold at {held}: the number of instances is unknown"
    if current == 0:
        return held, f"hold at {held}: no instance runs, so no signal says how many are needed"
    # Of equal needs the first kind by name is told, so that the order of the readings does not matter.
    needs = sorted(inputs, key=lambda found: (-(found.wanted or 0), found.kind))
    raising = [found for found in needs if found.proposes == UP]
    if raising:
        wanted = max(held, raising[0].wanted or 0)
        demand = raising[0].demand
        if demand is not None:
            cause = _expected(demand, raising[0].wanted or 0)
            if wanted == held:
                return wanted, f"hold at {held}: {cause}, and {held} are asked for already"
            return wanted, cause
        cause = f"{_told(raising[0])} is above {_text(raising[0].up)} with {current} instances"
        if wanted == held:
            return wanted, f"hold at {held}: {cause}, and {held} are asked for already"
        return wanted, f"{cause}, {wanted} would bring it to {_text(raising[0].aim)} or below"
    holding = [found for found in needs if found.proposes == HOLD]
    if holding:
        demand = holding[0].demand
        if demand is not None:
            return held, f"hold at {held}: {_expected(demand, holding[0].wanted or 0)}"
        return held, f"hold at {held}: {_told(holding[0])} is not below {_text(holding[0].down)}"
    silent = [found.kind for found in needs if found.proposes is None]
    if silent:
        limits.add(BY_STALE_DATA)
        return held, f"hold at {held}: no recent data of {', '.join(silent)}"
    wanted = min(held, needs[0].wanted or 0)
    if wanted < held and current < held and silent_instances and target.instances is None:
        # The silent instances may carry load that no signal shows.
        limits.add(BY_STALE_DATA)
        return held, f"hold at {held}: only {current} instances report, {silent_instances} have fallen silent"
    if needs[0].demand is not None:
        return wanted, f"no signal wants more; {_expected(needs[0].demand, needs[0].wanted or 0)}"
    return wanted, f"every signal is below its lower level; {_told(needs[0])} still wants {wanted}"


def _needed_by_demand(inputs: Sequence[SignalInput]) -> int:
    return max((found.wanted or 0 for found in inputs if found.demand is not None), default=0)


def _expected(demand: Demand, wanted: int) -> str:
    return (
        f"load is {_text(demand.now)} full instances and at most {_text(demand.high)} expected"
        f" within {demand.lead_seconds:g} s, which takes {wanted}"
    )


def _told(found: SignalInput) -> str:
    return f"{found.kind} at {_text(found.value or 0.0)}"


def _text(value: float) -> str:
    return f"{value:.4g}"


def _highest_need(target: ScaleTarget, history: ScaleHistory, held: int, now_ns: int) -> int:
    """Return the highest recommendation of the stabilisation window; ``held`` where it has none."""
    starts_ns = now_ns - target.stabilisation
    window = [instances for time_ns, instances in history.recommendations if time_ns >= starts_ns]
    if target.stabilisation == 0:
        return 0
    return max(window, default=held)


def _cooling_ns(target: ScaleTarget, history: ScaleHistory, going_up: bool, now_ns: int) -> int:
    """Return for how long a change is not allowed yet; a way up does not wait for the last way down."""
    changes = [history.up_ns] if going_up else [history.up_ns, history.down_ns]
    ends = [min(change_ns, now_ns) + target.cooldown for change_ns in changes if change_ns is not None]
    return max(ends, default=now_ns) - now_ns


def _decision(
    target: ScaleTarget,
    current: int | None,
    inputs: tuple[SignalInput, ...],
    recommended: int | None,
    desired: int | None,
    action: str,
    reason: str,
    limits: _Limits,
    now_ns: int,
) -> Decision:
    fresh_ns = [
        round(found.age_seconds * NS_PER_SECOND)
        for found in inputs
        if found.proposes is not None and found.age_seconds is not None
    ]
    oldest_ns = max(0, max(fresh_ns, default=0))
    return Decision(
        target=target.target,
        desired=desired,
        current=current,
        recommended=recommended,
        action=action,
        reason=reason,
        limited_by=tuple(limits.names),
        inputs=inputs,
        decided_ns=now_ns,
        valid_until_ns=now_ns + target.stale_after - min(oldest_ns, int(target.stale_after)),
    )
