"""A decision as it is answered: JSON for people and programs, one number for KEDA."""

from __future__ import annotations

from typing import Any

from engine.model.times import time_text
from engine.scaling.policy import Decision
from engine.scaling.store import input_json


def decision_json(decision: Decision, now_ns: int) -> dict[str, Any]:
    """Return the answer of ``/v1/scale/{target}`` (docs/scaling.md)."""
    return {
        "target": decision.target,
        "desired": decision.desired,
        "current": decision.current,
        "action": decision.action,
        "reason": decision.reason,
        "limited_by": list(decision.limited_by),
        "recommended": decision.recommended,
        "inputs": [input_json(found) for found in decision.inputs],
        "decided_at": time_text(decision.decided_ns),
        "age_seconds": max(0.0, (now_ns - decision.decided_ns) / 1e9),
        "valid_until": time_text(decision.valid_until_ns),
    }
