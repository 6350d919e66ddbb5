"""How an engine stands, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.maintenance.rebuild import set_aside_files

if TYPE_CHECKING:
    from engine.runtime.engine import Engine


def rules_status(engine: Engine) -> list[dict[str, Any]]:
    """Return how each rule stands."""
    return [
        {
            "name": status.rule.name,
            "metric": status.rule.metric,
            "op": status.rule.op,
            "threshold": status.rule.threshold,
            "upper": status.rule.upper,
            "clear": status.rule.clear_level,
            "clear_upper": None if status.rule.upper is None else status.rule.clear_upper_level,
            "group_by": status.rule.group_by,
            "severity": status.rule.severity,
            "category": status.rule.category,
            "for_seconds": status.rule.for_.seconds,
            "cooldown_seconds": status.rule.cooldown.seconds,
            "series": status.series,
            "pending": status.pending,
            "firing": status.firing,
            "stale": status.stale,
            "judged_ns": status.judged_ns,
            "problem": engine.watcher.inputs.problems.get(status.rule.name),
        }
        for status in engine.rule_watch.status()
    ]


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
