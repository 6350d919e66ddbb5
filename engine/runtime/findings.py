"""The engine's own findings as relations of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.alerting.alerts import alert_events_columns, alerts_columns
from engine.alerting.silences import silences_columns
from engine.catalog.callers import Caller
from engine.deploys.store import deploys_columns
from engine.detection.findings import bottlenecks_columns
from engine.detection.store import anomalies_columns
from engine.errors import BadQuery, Forbidden
from engine.query.exports import arrow_of_columns
from engine.scaling.store import decisions_columns

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

#: The relations of the engine's own findings that this version fills.
FINDINGS = ("alerts", "alert_events", "silences", "anomalies", "bottlenecks", "decisions", "deploys")


def finding(engine: Engine, name: str, caller: Caller) -> bytes:
    """Return what exists for the caller of one of the engine's own relations, as an Arrow IPC stream."""
    match name:
        case "alerts":
            columns, table = alerts_columns(), engine.alerts.alerts_table(engine.clock.now_ns(), caller)
        case "alert_events":
            columns, table = alert_events_columns(), engine.alerts.alert_events_table(caller)
        case "silences":
            columns, table = silences_columns(), engine.silences.table(engine.clock.now_ns(), caller)
        case "anomalies":
            columns, table = anomalies_columns(), engine.anomalies.anomalies_table(caller)
        case "deploys":
            columns, table = deploys_columns(), engine.deploys.table(caller)
        case _ if caller.limited:
            # What is decided from many series has no labels to go by.
            raise Forbidden(
                f"cannot query relation {name!r}: its rows have no labels, and the token {caller.name!r} is limited"
                " to series by their labels"
            )
        case "bottlenecks":
            columns, table = bottlenecks_columns(), engine.bottlenecks.table()
        case "decisions":
            columns, table = decisions_columns(), engine.decisions.decisions_table()
        case _:
            raise BadQuery(f"cannot query relation {name!r}: nothing in this version fills it")
    return arrow_of_columns(columns, table)
