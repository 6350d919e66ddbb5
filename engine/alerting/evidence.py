"""What there is to look at of an alert: links to its series and to what else was noted of it at the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import msgspec

from engine.alerting.alerts import Alert
from engine.clock import NS_PER_HOUR, NS_PER_MINUTE
from engine.config import Rule
from engine.model.matchers import equality_matchers
from engine.model.times import time_text

#: How much of the time before the first breaching sample, and after the end, is shown.
BEFORE_NS = 30 * NS_PER_MINUTE
AFTER_NS = 5 * NS_PER_MINUTE
#: Up to this long a time is shown by the minute.
FINE_NS = 6 * NS_PER_HOUR
#: What a range query can show; a rule that judges anything else is shown by its newest values.
_SHOWN_AS_JUDGED = ("avg", "max", "min", "sum", "count", "increase", "rate", "last")


class Source(msgspec.Struct, frozen=True):
    """What a rule looks at for one series, or one group: ``metric``, its labels, and parts of links, encoded."""

    metric: str
    labels: dict[str, str]
    match: str
    query: str

    @staticmethod
    def read(text: str) -> Source:
        """Return the source that an alert remembers."""
        return msgspec.json.decode(text, type=Source)


class SourceWriter:
    """Writes down for alerts of ``rule`` what it looks at."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        metrics = [rule.metric] if rule.divide_by is None else [rule.metric, rule.divide_by]
        query: dict[str, str | list[str]] = {
            "metric": metrics,
            "agg": "last" if rule.aggregate not in _SHOWN_AS_JUDGED else rule.aggregate,
        }
        if rule.group_by is not None:
            query["by"] = ",".join(rule.group_by)
        self._query = urlencode(query, doseq=True)
        # A series' labels are all it has; those of a group leave open what else the rule wants.
        self._wanted = "" if rule.group_by is None else ",".join(matcher.text for matcher in rule.matchers)

    def text(self, labels: Mapping[str, str]) -> str:
        """Return what an alert of the series, or the group, with these labels remembers."""
        match = ",".join(matcher.text for matcher in equality_matchers(labels))
        if self._wanted:
            match = f"{self._wanted},{match}" if match else self._wanted
        source = Source(self._rule.metric, dict(labels), quote(match, safe=""), self._query)
        return msgspec.json.encode(source).decode()


def span_ns(alert: Alert) -> tuple[int, int | None]:
    """Return the time to look at, from before the first breaching sample; the end is None while the alert is open."""
    return alert.started_ns - BEFORE_NS, None if alert.resolved_ns is None else alert.resolved_ns + AFTER_NS


def service_of(labels: Mapping[str, str], service_labels: Sequence[str]) -> str | None:
    """Return the service that bottlenecks would name something with these labels by, None without one."""
    return next((labels[name] for name in service_labels if labels.get(name)), None)


def evidence_links(alert: Alert, service_labels: Sequence[str]) -> dict[str, str]:
    """Return the paths of the alert's series, its anomalies and its service's bottlenecks; none of an older alert's."""
    if alert.source is None:
        return {}
    source = Source.read(alert.source)
    start_ns, end_ns = span_ns(alert)
    span = f"start={time_text(start_ns)}" + ("" if end_ns is None else f"&end={time_text(end_ns)}")
    step = "1m" if end_ns is not None and end_ns - start_ns <= FINE_NS else "5m"
    links = {
        "query": f"/v1/query?{source.query}&match={source.match}&{span}&step={step}",
        "anomalies": f"/v1/anomalies?metric={quote(source.metric, safe='')}&match={source.match}&{span}",
    }
    service = service_of(source.labels, service_labels)
    if service is not None:
        start = time_text(start_ns)
        links["bottlenecks"] = f"/v1/bottlenecks?state=all&service={quote(service, safe='')}&start={start}"
    return links
