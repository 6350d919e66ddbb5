"""The decision of ``/v1/scale`` for somebody's own observations, one after another: ``tidegauge.lab.ScalingPolicy``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.clock import NS_PER_SECOND
from engine.config import DEFAULT_SIGNALS, ScaleTarget
from engine.config_units import Duration
from engine.errors import BadRequest
from engine.scaling.demand import DemandModel
from engine.scaling.policy import Decision, Observed, ScaleHistory, SignalReading, decide, history_after

#: Names of an observation, and what makes the unit of the default signals of them.
_SIGNALS = (
    ("cpu", "cpu", 1.0),
    ("memory", "memory", 1.0),
    ("response_time", "response_time", 1000.0),
    ("queue", "queue", 1.0),
    ("error_rate", "error_rate", 100.0),
)
_SECONDS = ("cooldown", "stabilisation", "stale_after")
_LIMITS = {"min_instances": "min", "max_instances": "max"}


class ScalingPolicy:
    """Decides like ``/v1/scale`` with the default signals, and learns from what it has been asked.

    ``limits``: ``min_instances``, ``max_instances``, ``cooldown``, ``stabilisation`` and ``stale_after`` (seconds),
    ``tolerance``, ``predict``; what is left out is as in the server.  Raises BadRequest for others.
    """

    def __init__(self, **limits: Any) -> None:
        self._limits = limits
        self._target = _target(limits)
        self._history = ScaleHistory()
        self._model = DemandModel()

    def reset(self, config: Any = None) -> None:
        """Forget everything; take ``min_instances`` and ``max_instances`` of ``config`` where it has them."""
        given = {name: getattr(config, name) for name in _LIMITS if hasattr(config, name)}
        self._target = _target({**given, **self._limits})
        self._history = ScaleHistory()
        self._model = DemandModel()

    def desired(self, observation: Mapping[str, Any]) -> int:
        """Return how many instances there should be after one more observation.

        ``observation``: ``time`` (s), ``ready``, ``target`` (asked for before this policy was), and any of ``cpu``,
        ``memory`` (%), ``response_time`` (s), ``queue``, ``error_rate`` (0 to 1) and ``request_rate`` (1/s); one that
        is left out, None or NaN is missing.
        """
        decision = self.decide(observation)
        if decision.desired is not None:
            return decision.desired
        return min(max(int(observation.get("target") or self._target.min), self._target.min), self._target.max)

    def decide(self, observation: Mapping[str, Any]) -> Decision:
        """Return the same decision with its reasons."""
        now_ns = round(float(observation["time"]) * NS_PER_SECOND)
        values = {kind: _number(observation.get(name), scale) for kind, name, scale in _SIGNALS}
        readings = tuple(
            SignalReading(kind, value, now_ns if value is not None else None) for kind, value in values.items()
        )
        ready = _number(observation.get("ready"), 1.0)
        current = None if ready is None else int(ready)
        if self._history.desired is None and observation.get("target") is not None:
            self._history = ScaleHistory(desired=int(observation["target"]))
        demand = None
        cpu = values["cpu"]
        if self._target.predict and cpu is not None and current:
            waiting = (values["queue"] or 0.0) > 0.0
            load = self._model.load_of(current, cpu, _number(observation.get("request_rate"), 1.0), waiting)
            demand = self._model.observe(now_ns, load)
        decision = decide(self._target, Observed(current, readings, demand=demand), self._history, now_ns)
        self._history = history_after(self._target, self._history, decision)
        return decision


def _target(limits: Mapping[str, Any]) -> ScaleTarget:
    settings: dict[str, Any] = {}
    for name, value in limits.items():
        if name in _SECONDS:
            settings[name] = Duration(round(float(value) * NS_PER_SECOND))
        elif name in _LIMITS:
            settings[_LIMITS[name]] = int(value)
        elif name in ("min", "max", "tolerance", "predict"):
            settings[name] = value
        else:
            known = ", ".join((*_LIMITS, *_SECONDS, "tolerance", "predict"))
            raise BadRequest(f"cannot use the limit {name!r}: want one of {known}")
    target = ScaleTarget(target="lab", match={}, instances="ready", signals=DEFAULT_SIGNALS, **settings)
    if not 1 <= target.min <= target.max:
        raise BadRequest(f"cannot use the limits: got {target.min} to {target.max} instances, want 1 or more, in order")
    return target


def _number(value: Any, scale: float) -> float | None:
    if value is None:
        return None
    number = float(value) * scale
    return number if math.isfinite(number) else None
