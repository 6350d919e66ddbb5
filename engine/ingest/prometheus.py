"""Prometheus' two ways in, remote write and text exposition, to batches of the pooled table."""

from __future__ import annotations

from collections.abc import Mapping

from engine.catalog.pooled import PROMETHEUS_TABLE, VALUE_FIELD
from engine.errors import BadRequest
from engine.ingest.admission import TAG_SET_CAUSES, Admission
from engine.ingest.batch import Batch, Refusal
from engine.model.rows import Rows
from native.pooledrows import DecodedSamples
from native.promtext import PromTextDecoder
from native.remotewrite import RemoteWriteDecoder

#: Memory for labels as they were sent, from which tag sets are found again without parsing.  What no longer fits is
#: parsed again; 128 MiB are about two million series.
MAX_KEY_BYTES = 128 << 20


class PooledTable:
    """The table that Prometheus' samples go to, defined by the first of them.  For the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._ids: tuple[int, int] | None = None

    def ids(self) -> tuple[int, int]:
        """Return the numbers of table and field; raises BadRequest when a limit leaves no room for them."""
        if self._ids is None:
            catalog, limits = self.admission.catalog.native, self.admission.ingest
            table_id = catalog.find_table(PROMETHEUS_TABLE.encode())
            if table_id < 0:
                if catalog.table_count >= limits.max_tables:
                    raise BadRequest(
                        f"cannot store Prometheus samples: there are {limits.max_tables} tables already"
                        f" (ingest.max_tables) and {PROMETHEUS_TABLE!r} is not among them"
                    )
                table_id = catalog.table(PROMETHEUS_TABLE.encode())
            field_id = catalog.find_field(table_id, VALUE_FIELD.encode())
            if field_id < 0:
                if len(catalog.fields(table_id)) >= limits.max_fields_per_table:
                    raise BadRequest(
                        f"cannot store Prometheus samples: table {PROMETHEUS_TABLE!r} has"
                        f" {limits.max_fields_per_table} fields already (ingest.max_fields_per_table)"
                    )
                field_id = catalog.field(table_id, VALUE_FIELD.encode())
            self._ids = table_id, field_id
        return self._ids

    def batch(self, decoded: DecodedSamples) -> Batch:
        """Return what was decoded as a batch."""
        table_id, field_id = self.ids()
        count = len(decoded.times)
        batch = Batch([], rows=count, samples=count, dropped=decoded.dropped, refused=dict(decoded.refused_by_cause))
        batch.refusals = [
            Refusal(position, cause, message + (self.admission.offender(table_id) if cause in TAG_SET_CAUSES else ""))
            for position, cause, message in decoded.refusals
        ]
        if count:
            rows = Rows(decoded.tagset_ids, decoded.times, (field_id,), decoded.values.reshape(1, count))
            batch.tables.append((table_id, rows))
        return batch


class RemoteWriteBodies:
    """Decodes remote write requests for one engine; called from the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self._pool = PooledTable(admission)
        self._native = RemoteWriteDecoder(
            admission.catalog.native,
            max_tagsets=2**31 - 1,  # what is in use is limited by the catalogue
            max_refusals=admission.ingest.max_reported_lines,
            max_key_bytes=MAX_KEY_BYTES,
        )

    def decode(self, body: bytes | memoryview, version: int) -> Batch:
        """Decode a decompressed request of version 1 or 2; raises BadRequest when it is none."""
        table_id, _ = self._pool.ids()
        admission = self._pool.admission
        now_ns = admission.clock.now_ns()
        try:
            decoded = self._native.decode(
                body,
                table_id=table_id,
                min_time_ns=admission.oldest_ns(now_ns, table_id),
                max_time_ns=admission.newest_ns(now_ns),
                version=version,
            )
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return self._pool.batch(decoded)


class TextBodies:
    """Decodes text exposition for one engine; called from the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self._pool = PooledTable(admission)
        self._native = PromTextDecoder(
            admission.catalog.native,
            max_tagsets=2**31 - 1,  # what is in use is limited by the catalogue
            max_refusals=admission.ingest.max_reported_lines,
            max_key_bytes=MAX_KEY_BYTES,
        )

    def decode(self, body: bytes | memoryview, *, open_metrics: bool, labels: Mapping[str, str]) -> Batch:
        """Decode a body; samples without a time get the server's, all of one body the same."""
        table_id, _ = self._pool.ids()
        admission = self._pool.admission
        now_ns = admission.clock.now_ns()
        decoded = self._native.decode(
            body,
            table_id=table_id,
            # Whole milliseconds, as every Prometheus sample has them.
            default_time_ns=now_ns // 1_000_000 * 1_000_000,
            min_time_ns=admission.oldest_ns(now_ns, table_id),
            max_time_ns=admission.newest_ns(now_ns),
            open_metrics=open_metrics,
            labels=[(name.encode(), value.encode()) for name, value in labels.items()],
        )
        return self._pool.batch(decoded)
