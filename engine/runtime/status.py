"""How an engine stands, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.alerting.conditions import condition
from engine.maintenance.rebuild import set_aside_files

if TYPE_CHECKING:
    from engine.config import Rule
    from engine.runtime.engine import Engine


def rules_status(engine: Engine) -> list[dict[str, Any]]:
    """Return how each rule stands, with what it says."""
    return [
        {
            **_settings(status.rule),
            "series": status.series,
            "pending": status.pending,
            "firing": status.firing,
            "stale": status.stale,
            "judged_ns": status.judged_ns,
            "problem": engine.watcher.inputs.problems.get(status.rule.name),
        }
        for status in engine.rule_watch.status()
    ]


def _settings(rule: Rule) -> dict[str, Any]:
    """Return every setting of a rule under its name; lengths of time in seconds, what is not set as what counts."""
    return {
        "name": rule.name,
        "condition": condition(rule),
        "metric": rule.metric,
        "match": rule.match,
        "where": rule.where,
        "aggregate": rule.aggregate,
        "over_seconds": None if rule.aggregate in ("last", "age") else rule.over.seconds,
        "divide_by": rule.divide_by,
        "divide_match": rule.divide_match,
        "divide_where": rule.divide_where,
        "divide_on": rule.divide_on,
        "scale": rule.scale,
        "group_by": rule.group_by,
        "group": None if rule.group_by is None else rule.group_aggregate,
        "compare_with": rule.compare_with,
        "compare_past": None if rule.compare_with is None else rule.compare_past,
        "compare_by": None if rule.compare_with is None else rule.compare_by,
        "compare_as": None if rule.compare_with is None else rule.compare_as,
        "forecast_seconds": None if rule.forecast is None else rule.forecast.seconds,
        "forecast_from_seconds": None if rule.forecast is None else rule.forecast_from.seconds,
        "op": rule.op,
        "threshold": rule.threshold,
        "upper": rule.upper,
        "clear": rule.clear_level,
        "clear_upper": None if rule.upper is None else rule.clear_upper_level,
        "severity": rule.severity,
        "category": rule.category,
        "for_seconds": rule.for_.seconds,
        "confirm": rule.confirm,
        "keep_firing_seconds": rule.keep_firing.seconds,
        "cooldown_seconds": rule.cooldown.seconds,
        "when_missing": rule.when_missing,
        "labels": rule.labels,
        "summary": rule.summary,
        "annotations": rule.annotations,
        "channels": rule.channels,
    }


def storage_status(engine: Engine) -> dict[str, Any]:
    """Return what takes how much of the disk."""
    segments = engine.samples.segments()
    return {
        "tiers": [{"tier": each.tier, "rows": each.rows, "bytes": each.bytes} for each in engine.tier_stats()],
        "rollup_pending_rows": engine.dirty.pending_rows,
        "segments": {
            "files": len(segments),
            "rows": sum(meta.rows for meta in segments),
            "bytes": sum(meta.bytes for meta in segments),
        },
        "wal": {"bytes": engine.wal.bytes_on_disk},
        "free_bytes": engine.fs.free_bytes(engine.root),
    }


def readiness_status(engine: Engine) -> dict[str, Any]:
    """Return whether writes and queries are served, how far recovery is, and what it found."""
    recovery = engine.recovery
    disk = engine.guard.state()
    low = disk["state"] == "low"
    state = "recovering" if recovery.active else "disk_low" if low else "ready"
    state = "closing" if engine.closed else state
    return {
        "ready": state == "ready",
        "state": state,
        "writes": not engine.closed and not low,
        "queries": state in ("ready", "disk_low"),
        "disk": disk,
        "recovery": recovery.progress(),
        "recovered_rows": recovery.rows_replayed,
        "log_findings": recovery.log.sentences(),
        "storage_findings": [
            *(f"{finding.message} ({finding.path})" for finding in engine.manifest.findings),
            *set_aside_files(engine.fs, engine.root),
        ],
    }
