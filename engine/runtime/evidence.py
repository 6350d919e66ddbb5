"""What the engine has found about the series of an alert, around its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from engine.alerting.alerts import Alert
from engine.alerting.evidence import Source, service_of, span_ns
from engine.catalog.callers import Caller
from engine.model.matchers import parse_matchers

if TYPE_CHECKING:
    from engine.runtime.engine import Engine


#: At most so many of each kind are told.
EVIDENCE = 100


def evidence(engine: Engine, alert: Alert, caller: Caller) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return anomalies of the alert's series, and bottlenecks of its service, around its time, newest first.

    At most :data:`EVIDENCE` of each.  A caller limited to series gets no bottlenecks: they come from many.
    """
    if alert.source is None:
        return [], []
    source = Source.read(alert.source)
    start_ns, end_ns = span_ns(alert)
    columns = engine.anomalies.find(
        metric=source.metric,
        since_ns=start_ns,
        until_ns=end_ns,
        matchers=parse_matchers(unquote(source.match)),
        limit=EVIDENCE,
        caller=caller,
    )
    names = ("id", "time", "score", "cause", "value", "expected_low", "expected_high", "reason")
    anomalies = [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]
    service = service_of(source.labels, engine.config.bottlenecks.service_labels)
    if service is None or caller.limited:
        return anomalies, []
    found = engine.bottlenecks.find(states=(), service=service, seen_since_ns=start_ns, until_ns=end_ns, limit=EVIDENCE)
    return anomalies, found
