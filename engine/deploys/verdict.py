"""What becomes of a verdict when the deployment has just been made."""

from __future__ import annotations

from dataclasses import replace

from engine.clock import NS_PER_SECOND
from engine.deploys.gate import HOLD, PROMOTE, Verdict


def settled(verdict: Verdict, *, age_ns: int, wanted_ns: int) -> Verdict:
    """Return the verdict on a deployment whose samples cover ``age_ns`` so far, of ``wanted_ns``.

    What is bad may be known early; that all is well is not: a promotion is held until the time has passed.
    """
    if verdict.verdict != PROMOTE or age_ns >= wanted_ns:
        return verdict
    reason = (
        f"the new version has been judged over {max(0, age_ns) / NS_PER_SECOND:.0f} s so far,"
        f" want {wanted_ns / NS_PER_SECOND:.0f} s"
    )
    return replace(verdict, verdict=HOLD, reasons=(reason, *verdict.reasons))
