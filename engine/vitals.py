"""What the engine counts about itself, kept in one registry and shown on ``/metrics``.

Names follow the Prometheus naming conventions (prometheus.io, "Metric and label naming"): base units, ``_total`` on
counters, ``tidegauge_`` in front.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Vitals:
    """All self-metrics of one engine."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.rows_accepted = self._counter("ingest_rows", "Rows acknowledged", "protocol")
        self.samples_accepted = self._counter("ingest_samples", "Samples acknowledged", "protocol")
        self.bytes_received = self._counter("ingest_bytes", "Body bytes received, decompressed", "protocol")
        self.refused = self._counter("ingest_refused", "Lines, rows or fields refused, by cause", "protocol", "cause")
        self.rounded = self._counter("ingest_rounded", "Integers stored as the nearest float64", "protocol")
        self.dropped = self._counter("ingest_dropped", "Exemplars and metadata, which are not stored", "protocol")
        self.overloaded = self._counter("ingest_overloaded", "Writes turned away whole, by reason", "reason")
        self.late_rows = self._counter("ingest_late_rows", "Rows not newer than their tag set's newest")
        self.ack_seconds = Histogram(
            "tidegauge_ingest_ack_seconds",
            "Time from the complete body to its durable acknowledgement",
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.commits = self._counter("wal_commits", "Group commits, each one write and one sync")
        self.wal_bytes = self._counter("wal_written_bytes", "Bytes written to the log")
        self.rollup_flushes = self._counter("rollup_flushes", "Flushes of recomputed buckets", "outcome")
        self.rollup_buckets = self._counter("rollup_buckets", "1m bucket rows recomputed")
        self.seals = self._counter("seals", "Segments written by sealing", "outcome")
        self.sealed_samples = self._counter("sealed_samples", "Samples written into segments, rewrites included")
        self.segment_rows = self._counter(
            "segment_written_rows",
            "Rows written into segments; all of them divided by those with cause sealed is the write amplification",
            "cause",
        )
        self.segment_bytes = self._counter("segment_written_bytes", "Bytes written into segments", "cause")
        self.compactions = self._counter("compactions", "Merges of segments, by outcome", "outcome")
        self.deletions = self._counter("deletions", "Deletions of series, one for each table that was touched")
        self.deleted_rows = self._counter("deleted_rows", "Rows that deletions removed")
        self.retained = self._counter("retention_removed", "Things removed by retention", "what")
        self.queries = self._counter("queries", "Queries answered, by path and outcome", "path", "outcome")
        self.query_seconds = Histogram(
            "tidegauge_query_seconds",
            "Time to answer a query",
            ("path",),
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.query_turns = self._counter(
            "query_turns", "Turns of queries by token: granted, refused, left while waiting", "path", "token", "outcome"
        )
        self.query_turn_seconds = self._counter("query_turn_seconds", "Time that turns have taken", "path", "token")
        self.query_running = self._gauge("query_running", "Queries that have their turn", "path", "token")
        self.query_waiting = self._gauge("query_waiting", "Queries that wait for their turn", "path", "token")
        self.rule_tick_seconds = Histogram(
            "tidegauge_rule_tick_seconds",
            "Time to evaluate all rules once",
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.rule_reloads = self._counter("rule_reloads", "Times that changed rules were read, by outcome", "outcome")
        self.rules_current = self._gauge("rules_current", "1 when the rules in force are those of the file, else 0")
        self.detection_tick_seconds = Histogram(
            "tidegauge_detection_tick_seconds",
            "Time to judge what is new of every series once",
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.detection_samples = self._counter("detection_samples", "Samples judged against their series' past")
        self.detection_lost = self._counter("detection_lost", "Times that what detection had learned was unreadable")
        self.anomalies = self._counter("anomalies", "Anomalies noted")
        self.anomalies_dropped = self._counter("anomalies_dropped", "Anomalies beyond what one tick notes")
        self.bottleneck_seconds = Histogram(
            "tidegauge_bottleneck_seconds",
            "Time to look for bottlenecks once",
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.bottlenecks = self._counter("bottlenecks", "Bottlenecks found, each counted once")
        self.bottleneck_outcomes = self._counter("bottleneck_outcomes", "What became of bottlenecks", "outcome")
        self.alert_transitions = self._counter("alert_transitions", "Alert state changes", "to")
        self.notifications_withheld = self._counter(
            "notifications_withheld", "Notifications that were not sent, or not by themselves, by cause", "cause"
        )
        self.notifications = self._counter("notifications", "Notification attempts by outcome", "outcome")
        self.decisions = self._counter("scale_decisions", "Scaling decisions answered", "action")
        self.job_failures = self._counter("job_failures", "Background jobs that raised", "job")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tidegauge_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"tidegauge_{name}", text, labels, registry=self.registry)

    def wrote(self, cause: str, rows: int, written_bytes: int) -> None:
        """Count what went into a segment: rows "sealed" for the first time, "rewritten" by sealing, or "compacted"."""
        self.segment_rows.labels(cause).inc(rows)
        self.segment_bytes.labels(cause).inc(written_bytes)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a gauge whose value is asked for at each scrape."""
        Gauge(f"tidegauge_{name}", text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)
