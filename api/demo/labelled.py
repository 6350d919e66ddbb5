"""How often alerts are right: scripted days of a simulated fleet, judged by the server's rules and detection.

Before its day each fleet reports for some days in which nothing happens, so that detection and rules that look back
know what is ordinary.  Every reading goes the way of a write: line protocol, the limits on old and future times, the
newest values; only the disk is left out.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from api.demo.fleet import Fleet, Load
from api.demo.script import INCIDENTS, Labelled, Script, Scripted, script
from engine.alerting.alerts import Alert
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND
from engine.config import Config
from engine.ingest.admission import Admission
from engine.ingest.lines import LinesDecoder
from engine.maintenance.replay.rehearsal import Rehearsal
from engine.model.times import time_text

#: Fleets that rules and detectors were chosen with, and those that only judge the choice.
DEVELOPMENT_SEEDS = (1, 2, 3)
HELD_OUT_SEEDS = (11, 12, 13, 14, 15)
INSTANCES = 10
STEP_NS = 30 * NS_PER_SECOND
LEARN_STEP_NS = 5 * NS_PER_MINUTE
LEARN_DAYS = 15
#: An alert may come so long after an incident is over and still be about it: windows look back.
TAIL_NS = 5 * NS_PER_MINUTE
LEAST_RIGHT = 0.98
LEAST_CAUGHT = 0.95

Progress = Callable[[int, int], None]


def ignore(_done: int, _total: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one incident: how long (ns) until the first right alert, None without one."""

    labelled: Labelled
    noticed_ns: int | None

    @property
    def caught(self) -> bool:
        return self.noticed_ns is not None and self.noticed_ns <= self.labelled.deadline_ns

    @property
    def late(self) -> bool:
        return self.noticed_ns is not None and not self.caught


@dataclass(slots=True)
class Judgement:
    """The confusion table of some days.  ``right`` and ``wrong`` count alerts by rule."""

    outcomes: list[Outcome] = field(default_factory=list)
    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    wrong_alerts: list[Alert] = field(default_factory=list)
    anomalies: int = 0
    anomalies_during_incidents: int = 0
    quiet_hours: float = 0.0
    days: int = 0

    def add(self, other: Judgement) -> None:
        self.outcomes += other.outcomes
        self.right += other.right
        self.wrong += other.wrong
        self.wrong_alerts += other.wrong_alerts
        self.anomalies += other.anomalies
        self.anomalies_during_incidents += other.anomalies_during_incidents
        self.quiet_hours += other.quiet_hours
        self.days += other.days

    @property
    def right_share(self) -> float:
        """Return which share of the alerts was about an incident; 1 without an alert."""
        raised = self.right.total() + self.wrong.total()
        return self.right.total() / raised if raised else 1.0

    @property
    def caught_share(self) -> float:
        return sum(each.caught for each in self.outcomes) / max(1, len(self.outcomes))

    @property
    def good_enough(self) -> bool:
        return self.right_share >= LEAST_RIGHT and self.caught_share >= LEAST_CAUGHT


def rehearse(
    seed: int,
    config: Config,
    *,
    load: Load | None = None,
    kinds: Sequence[Scripted] = INCIDENTS,
    times: int = 2,
    learn_days: int = LEARN_DAYS,
    rough: bool = False,
    progress: Progress = ignore,
) -> Judgement:
    """Play the day of ``seed`` and judge what was said of it.  ``rough``: in the weather of ``api/demo/weather.py``."""
    fleet = Fleet(seed, INSTANCES, load=load, noisy=True, rough=rough)
    plan = script(seed, fleet, kinds=kinds, times=times, rough=rough)
    fleet.incidents = plan.incidents
    began_ns = plan.start_ns - learn_days * NS_PER_DAY
    catalog = Catalog()
    with (
        tempfile.TemporaryDirectory(prefix="tidegauge-replay-") as directory,
        Rehearsal(config, catalog, directory, start_ns=began_ns) as rehearsal,
    ):
        decoder = LinesDecoder(Admission(catalog, config.ingest, config.retention, rehearsal.clock))
        for start_ns, end_ns, step_ns, judging in (
            (began_ns, plan.start_ns, LEARN_STEP_NS, False),
            (plan.start_ns, plan.end_ns, STEP_NS, True),
        ):
            if judging:
                rehearsal.begin(start_ns)
            for time_ns in range(start_ns, end_ns, step_ns):
                rehearsal.advance(time_ns, judging=judging)
                for table_id, rows in decoder.decode(fleet.lines(time_ns), 1).tables:
                    rehearsal.give(table_id, rows, np.full(len(rows), time_ns, np.int64))
                progress(time_ns - began_ns, plan.end_ns - began_ns)
            rehearsal.advance(end_ns, judging=judging)
        told = [alert for alert in rehearsal.alerts() if alert.notified_ns is not None]
        anomalies = rehearsal.anomalies(plan.start_ns)
    metric_of = {rule.name: rule.metric for rule in config.effective_rules}
    judged = judge(plan, told, metric_of)
    judged.anomalies = len(anomalies)
    judged.anomalies_during_incidents = sum(
        any(_during(each, row["time"]) for each in plan.labelled) for row in anomalies
    )
    return judged


def judge(plan: Script, told: Sequence[Alert], metric_of: dict[str, str]) -> Judgement:
    """Hold the alerts that somebody was told of against a script.

    Those of a flapping series, in a cooldown or held back are not told again and do not count.  An alert is right when
    an incident of its host or service is under way (or just over) that moves its metric.  An incident is caught when
    the first such alert comes by its deadline.
    """
    found = Judgement(days=1, quiet_hours=_quiet_ns(plan) / 3.6e12)
    noticed: dict[int, int] = {}
    for alert in told:
        told_ns = alert.notified_ns
        assert told_ns is not None
        about = [
            number
            for number, each in enumerate(plan.labelled)
            if _during(each, told_ns) and _is_about(each, alert, metric_of[alert.rule])
        ]
        for number in about:
            noticed[number] = min(noticed.get(number, told_ns), told_ns)
        if about:
            found.right[alert.rule] += 1
        else:
            found.wrong[alert.rule] += 1
            found.wrong_alerts.append(alert)
    found.outcomes = [Outcome(each, noticed.get(number)) for number, each in enumerate(plan.labelled)]
    return found


def _during(each: Labelled, time_ns: int) -> bool:
    return each.incident.start_ns <= time_ns < each.incident.end_ns + TAIL_NS


def _is_about(each: Labelled, alert: Alert, metric: str) -> bool:
    incident, labels = each.incident, alert.labels
    if metric not in incident.kind.metrics or labels.get("service", incident.service) != incident.service:
        return False
    return incident.host is None or labels.get("host", incident.host) == incident.host


def _quiet_ns(plan: Script) -> int:
    """Return how long nothing was wrong."""
    quiet, until_ns = 0, plan.start_ns
    for each in sorted(plan.labelled, key=lambda each: each.incident.start_ns):
        quiet += max(0, each.incident.start_ns - until_ns)
        until_ns = max(until_ns, each.incident.end_ns + TAIL_NS)
    return quiet + max(0, plan.end_ns - until_ns)


def render(found: Judgement) -> str:
    """Return the confusion table as people read it."""
    lines = [f"{'incident':20} {'all':>5} {'caught':>7} {'late':>5} {'missed':>7} {'median':>9} {'deadline':>9}"]
    for kind in dict.fromkeys(each.labelled.incident.kind.name for each in found.outcomes):
        mine = [each for each in found.outcomes if each.labelled.incident.kind.name == kind]
        delays = [(each.noticed_ns - each.labelled.incident.start_ns) / 1e9 for each in mine if each.noticed_ns]
        allowed = [(each.labelled.deadline_ns - each.labelled.incident.start_ns) / 1e9 for each in mine]
        lines.append(
            f"{kind:20} {len(mine):5} {sum(each.caught for each in mine):7} {sum(each.late for each in mine):5}"
            f" {sum(each.noticed_ns is None for each in mine):7} {_span(median(delays)) if delays else '-':>9}"
            f" {_span(median(allowed)):>9}"
        )
    lines.append("")
    lines.append(f"{'rule':28} {'alerts':>7} {'right':>6} {'wrong':>6}")
    for rule in sorted(found.right.keys() | found.wrong.keys()):
        right, wrong = found.right[rule], found.wrong[rule]
        lines.append(f"{rule:28} {right + wrong:7} {right:6} {wrong:6}")
    lines.append("")
    alerts, caught = found.right.total() + found.wrong.total(), sum(each.caught for each in found.outcomes)
    lines += [
        f"{'':28} {'incident':>9} {'quiet':>7}",
        f"{'alert':28} {found.right.total():9} {found.wrong.total():7}",
        f"{'no alert in time':28} {len(found.outcomes) - caught:9} {'-':>7}",
        "",
        f"{100 * found.right_share:.1f} % of {alerts} alerts are right (want {100 * LEAST_RIGHT:.0f} %), "
        f"{100 * found.caught_share:.1f} % of {len(found.outcomes)} incidents are caught in time "
        f"(want {100 * LEAST_CAUGHT:.0f} %); {found.days} days, {found.quiet_hours:.0f} hours without an incident",
        f"{found.anomalies} anomalies noted, {found.anomalies_during_incidents} of them during an incident",
    ]
    return "\n".join(lines) + "\n"


def as_json(found: Judgement, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the same for programs; delays in seconds from an incident's beginning."""
    return {
        "seeds": list(seeds),
        "right_share": found.right_share,
        "caught_share": found.caught_share,
        "good_enough": found.good_enough,
        "quiet_hours": found.quiet_hours,
        "anomalies": found.anomalies,
        "anomalies_during_incidents": found.anomalies_during_incidents,
        "rules": {
            rule: {"right": found.right[rule], "wrong": found.wrong[rule]}
            for rule in sorted(found.right.keys() | found.wrong.keys())
        },
        "incidents": [
            {
                "kind": incident.kind.name,
                "service": incident.service,
                "host": incident.host,
                "start": time_text(incident.start_ns),
                "end": time_text(incident.end_ns),
                "deadline_seconds": (each.labelled.deadline_ns - incident.start_ns) / 1e9,
                "noticed_seconds": None if each.noticed_ns is None else (each.noticed_ns - incident.start_ns) / 1e9,
                "caught": each.caught,
            }
            for each in found.outcomes
            for incident in (each.labelled.incident,)
        ],
        "wrong_alerts": [
            {
                "rule": alert.rule,
                "labels": alert.labels,
                "value": alert.value,
                "notified_at": time_text(alert.notified_ns),
            }
            for alert in found.wrong_alerts
        ],
    }


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02d} h"
