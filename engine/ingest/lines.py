"""Influx line protocol to a batch: the native decoder's result, held against each table's own retention."""

from __future__ import annotations

import re

from engine.disk.filesystem import Bytes
from engine.errors import BadRequest
from engine.ingest.admission import TAG_SET_CAUSES, Admission
from engine.ingest.batch import Batch, Refusal
from engine.model.rows import Rows
from native.lineprotocol import LineDecoder

_MEASUREMENT = re.compile(rb"(?:[^\\, ]|\\.)+")
#: Names of precisions in the write paths of InfluxDB 1, 2 and 3, in nanoseconds; 0 means "guess from the size".
PRECISIONS_NS = {
    "n": 1, "ns": 1, "nanosecond": 1,
    "u": 1_000, "us": 1_000, "µ": 1_000, "µs": 1_000, "microsecond": 1_000,
    "ms": 1_000_000, "millisecond": 1_000_000,
    "s": 1_000_000_000, "second": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
    "auto": 0,
}  # fmt: skip


def precision_ns(name: str) -> int:
    """Return the length of a precision's unit in nanoseconds; raises BadRequest for an unknown one."""
    try:
        return PRECISIONS_NS[name]
    except KeyError:
        raise BadRequest(
            f"cannot read timestamps: got precision {name!r}, want one of {', '.join(sorted(PRECISIONS_NS))}"
        ) from None


class LinesDecoder:
    """Decodes line protocol for one engine; called from the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        limits = admission.ingest
        self._native = LineDecoder(
            admission.catalog.native,
            max_tagsets=2**31 - 1,  # what is in use is limited by the catalogue
            max_tables=limits.max_tables,
            max_fields=limits.max_fields_per_table,
            max_refusals=limits.max_reported_lines,
        )

    def decode(self, body: Bytes, unit_ns: int) -> Batch:
        """Decode a body whose timestamps count ``unit_ns`` nanoseconds (0: guess)."""
        admission = self._admission
        now_ns = admission.clock.now_ns()
        decoded = self._native.decode(
            body,
            precision_ns=unit_ns,
            default_time_ns=now_ns,
            min_time_ns=admission.oldest_ns(now_ns),
            max_time_ns=admission.newest_ns(now_ns),
        )
        batch = Batch([], rounded=decoded.rounded, refused=dict(decoded.refused_by_cause))
        batch.refusals = [
            Refusal(line, cause, message + self._offender(cause, original), original.decode("utf-8", "replace"))
            for line, cause, message, original in decoded.refusals
        ]
        for table in decoded.tables:
            rows = Rows(table.tagset_ids, table.times, table.field_ids, table.values)
            samples = decoded.samples if len(decoded.tables) == 1 else None
            admission.add(batch, table.table_id, rows, table.line_numbers, now_ns, "line", samples)
        return batch

    def _offender(self, cause: str, line: bytes) -> str:
        if cause not in TAG_SET_CAUSES:
            return ""
        end = _MEASUREMENT.match(line)
        name = re.sub(rb"\\([, ])", rb"\1", end[0]) if end else b""
        return self._admission.offender(self._admission.catalog.native.find_table(name))
