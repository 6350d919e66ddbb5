"""From evidence by metric to suspicion by service, along the call graph.

What a service uses that it did not use before, unless its callers just ask for less; symptoms that the services it
calls do not explain; calls that go wrong, charged to the end whose other calls go wrong too; and what callers wait
for, charged to the service that best explains who waits and who does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.detection.evidence import Evidence
from engine.detection.semantics import SYMPTOMS, Metric, is_address

Calls = Mapping[str, Sequence[str]]

#: A service's evidence is its strongest metric and a little of the next two: many columns are no more than one.
SHARES = (1.0, 0.3, 0.15)
#: How much of a symptom the strongest symptom of a callee explains, and what an explained symptom still counts.
EXPLAINED, LEFT_OVER = 0.8, 0.25
#: What symptoms count when no call is known: any of them may be somebody else's.
UNEXPLAINABLE = 0.5
#: What waiting callers count for the service that they wait for.
AWAITED = 1.5
#: How much of what a service uses less its caller explains that uses less too.
LESS_ASKED = 0.5
#: What counts for names that are addresses.
ADDRESS = 0.5

_ByService = dict[str, list[float]]


def suspect(metrics: Sequence[Metric], evidence: Evidence, services: Sequence[str], callees: Calls) -> dict[str, float]:
    """Return the suspicion of each service, 0 or more and without a unit."""
    symptoms, awaited, more, less = (_nothing(services) for _ in range(4))
    calls: dict[tuple[str, str], list[float]] = {}
    falls = (evidence.found < evidence.expected).tolist()
    for metric, strength, falling in zip(metrics, evidence.strength.tolist(), falls, strict=True):
        if metric.kind not in SYMPTOMS:
            (less if falling else more)[metric.service].append(strength)
        elif metric.call is not None and metric.call[0] in symptoms and metric.call[1] in symptoms:
            calls.setdefault(metric.call, []).append(strength)
        else:
            (awaited if metric.outgoing else symptoms)[metric.service].append(strength)
    _charge_calls(symptoms, {call: _together(strengths) for call, strengths in calls.items()})
    symptom = {service: _together(symptoms[service]) for service in services}
    waiting = {service: _together(awaited[service]) for service in services}
    callers = _callers(services, callees)
    usage = _usage(services, more, less, callers)
    waited_for = _waited_for(services, waiting, callers, callees)
    known = any(callees.values())
    suspicion = {}
    for service in services:
        felt = _unexplained(service, symptom, waiting, callees) + LEFT_OVER * symptom[service]
        suspicion[service] = felt * (1.0 if known else UNEXPLAINABLE) + usage[service] + waited_for[service]
    return suspicion


def _nothing(services: Sequence[str]) -> _ByService:
    return {service: [] for service in services}


def _callers(services: Sequence[str], callees: Calls) -> dict[str, list[str]]:
    callers: dict[str, list[str]] = {service: [] for service in services}
    for caller in services:
        for callee in callees[caller]:
            callers[callee].append(caller)
    return callers


def _unexplained(service: str, symptom: Mapping[str, float], waiting: Mapping[str, float], callees: Calls) -> float:
    """Return what is left of a service's symptom beside those of its callees, and beside what it waits for."""
    if not callees[service]:
        return symptom[service]
    explained = max(symptom[callee] * (ADDRESS if is_address(callee) else 1.0) for callee in callees[service])
    return max(0.0, symptom[service] - EXPLAINED * max(explained, waiting[service]))


def _usage(services: Sequence[str], more: _ByService, less: _ByService, callers: Calls) -> dict[str, float]:
    """Return how unlike before each service uses its resources; less use is in part its callers' doing."""
    falling = {service: _together(less[service]) for service in services}
    usage = {}
    for service in services:
        due = LESS_ASKED * max((falling[caller] for caller in callers[service]), default=0.0)
        own = [max(0.0, strength - due) for strength in less[service]]
        usage[service] = _together([*more[service], *own])
    return usage


def _waited_for(
    services: Sequence[str], waiting: Mapping[str, float], callers: Calls, callees: Calls
) -> dict[str, float]:
    """Return how well each service explains who waits: all of its callers do, nobody else does, and it does not itself.

    The product of the two shares is what spectrum-based fault localisation rates a statement by: how many of its runs
    fail, and how many of the failing runs it is in (Jones, Harrold, Stasko, ICSE 2002).
    """
    everyone = sum(waiting[service] for service in services if callees[service])
    found = dict.fromkeys(services, 0.0)
    for service in services:
        waits = [waiting[caller] for caller in callers[service]]
        most = max(waits, default=0.0)
        if most > 0:
            all_of_them, nobody_else = sum(waits) / (len(waits) * most), sum(waits) / everyone
            passed_on = min(1.0, waiting[service] / most) if callees[service] else 0.0
            found[service] = AWAITED * most * all_of_them * nobody_else * (1.0 - passed_on)
    return found


def _charge_calls(symptoms: dict[str, list[float]], calls: Mapping[tuple[str, str], float]) -> None:
    """Divide each call's evidence between its ends, by how the other calls of each end fare."""
    for (caller, callee), strength in calls.items():
        of_caller = [other for (a, b), other in calls.items() if a == caller and b != callee]
        of_callee = [other for (a, b), other in calls.items() if b == callee and a != caller]
        caller_blame = float(np.mean(of_caller)) if of_caller else 0.0
        # Nobody else calls it: it is believed to be the cause a little less than when others say so too.
        callee_blame = float(np.mean(of_callee)) if of_callee else 0.3 * strength
        total = caller_blame**2 + callee_blame**2
        share = callee_blame**2 / total if total > 0 else 1.0
        if not of_caller:
            share = max(share, 0.5)
        symptoms[callee].append(strength * share)
        symptoms[caller].append(strength * (1.0 - share))


def _together(strengths: Sequence[float]) -> float:
    strongest = sorted(strengths, reverse=True)
    return sum(strength * share for strength, share in zip(strongest, SHARES, strict=False))
