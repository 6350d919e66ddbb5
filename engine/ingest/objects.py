"""JSON batches: ``{"samples": [{"table": "cpu", "tags": {…}, "time": …, "fields": {…}}, …]}``.

One element that cannot be used is refused by its place in the list; the others are kept.
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import numpy as np

from engine.clock import NS_PER_SECOND
from engine.disk.filesystem import Bytes
from engine.errors import BadRequest
from engine.ingest.admission import Admission
from engine.ingest.batch import Batch, Refusal
from engine.model.rows import Rows, absent_matrix
from engine.spelling import unknown_field

_EXACT_INTEGER = 1 << 53
_RFC3339_FRACTION = 9


class SampleObject(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a JSON batch.  ``time``: integer nanoseconds or RFC 3339 text; the server's clock when left out."""

    table: str
    fields: dict[str, Any]
    tags: dict[str, str] = {}
    time: int | str | None = None


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    samples: list[msgspec.Raw]


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_SAMPLE = msgspec.json.Decoder(SampleObject)


def parse_time_ns(text: str) -> int:
    """Parse RFC 3339 text to nanoseconds since 1970 UTC, keeping all nine decimals; raises ValueError."""
    cleaned = text.strip()
    fraction_ns = 0
    if "." in cleaned:
        head, _, tail = cleaned.partition(".")
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        if not digits or len(digits) > _RFC3339_FRACTION:
            raise ValueError(f"{text!r} has no readable fraction of a second")
        fraction_ns = int(digits.ljust(_RFC3339_FRACTION, "0"))
        cleaned = head + tail[len(digits) :]
    moment = datetime.datetime.fromisoformat(cleaned)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    since = moment - epoch
    return (since.days * 86_400 + since.seconds) * NS_PER_SECOND + fraction_ns


class ObjectsDecoder:
    """Decodes JSON batches for one engine; called from the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def decode(self, body: Bytes) -> Batch:
        """Decode a body; raises BadRequest when it is not a batch at all."""
        try:
            elements = _ENVELOPE.decode(body).samples
        except msgspec.DecodeError as error:
            told = unknown_field(str(error), _Envelope.__struct_fields__)
            raise BadRequest(f'cannot read JSON batch: {told}; want {{"samples": [{{…}}, …]}}') from None
        admission, limits = self._admission, self._admission.ingest
        now_ns = admission.clock.now_ns()
        batch = Batch([])
        rows: dict[int, list[tuple[int, int, int, dict[int, float]]]] = {}
        for position, element in enumerate(elements, 1):
            try:
                sample = _SAMPLE.decode(element)
                self._add(batch, rows, sample, position, now_ns)
            except msgspec.DecodeError as error:
                told = unknown_field(str(error), SampleObject.__struct_fields__)
                refusal = Refusal(position, "malformed", f"cannot read sample {position}: {told}")
                batch.refuse(refusal, keep=limits.max_reported_lines)
            except _Refused as error:
                refusal = Refusal(position, error.cause, f"cannot store sample {position}: {error}")
                batch.refuse(refusal, keep=limits.max_reported_lines)
        for table_id, found in rows.items():
            field_ids = tuple(sorted({field for *_, fields in found for field in fields}))
            column = {field: index for index, field in enumerate(field_ids)}
            values = absent_matrix(len(field_ids), len(found))
            for at, (*_, fields) in enumerate(found):
                for field, value in fields.items():
                    values[column[field], at] = value
            tagset_ids = np.array([row[0] for row in found], np.int32)
            times = np.array([row[1] for row in found], np.int64)
            positions = [row[2] for row in found]
            admission.add(batch, table_id, Rows(tagset_ids, times, field_ids, values), positions, now_ns, "sample")
        return batch

    def _add(
        self,
        batch: Batch,
        rows: dict[int, list[tuple[int, int, int, dict[int, float]]]],
        sample: SampleObject,
        position: int,
        now_ns: int,
    ) -> None:
        admission = self._admission
        catalog, limits = admission.catalog.native, admission.ingest
        if not sample.table:
            raise _Refused("malformed", "the table has no name")
        time_ns = now_ns
        if isinstance(sample.time, int):
            time_ns = sample.time
        elif sample.time is not None:
            try:
                time_ns = parse_time_ns(sample.time)
            except ValueError as error:
                message = f"got time {sample.time!r}, want RFC 3339 or nanoseconds ({error})"
                raise _Refused("malformed", message) from None
        if not admission.oldest_ns(now_ns) <= time_ns <= admission.newest_ns(now_ns):
            # Tested before anything is defined, so that refused rows never fill the catalogue.
            cause = "too_old" if time_ns < now_ns else "too_far_in_future"
            raise _Refused(cause, f"got time {time_ns}, want {admission.admitted_text(now_ns)}")
        fields: dict[str, float] = {}
        for name, value in sample.fields.items():
            try:
                fields[name] = self._number(batch, name, value)
            except _Refused as error:
                refusal = Refusal(position, error.cause, f"cannot store sample {position}: {error}")
                batch.refuse(refusal, keep=limits.max_reported_lines)
        if not fields:
            raise _Refused("no_field", "it has no field that can be stored")
        table_id = catalog.find_table(sample.table.encode())
        if table_id < 0:
            if catalog.table_count >= limits.max_tables:
                raise _Refused("table_limit", f"there are {limits.max_tables} tables already")
            table_id = catalog.table(sample.table.encode())
        tags = [(key.encode(), value.encode()) for key, value in sample.tags.items() if value]
        tagset_id = catalog.find_tagset(table_id, tags)
        if tagset_id < 0:
            refused = admission.tag_set_refusal(table_id)
            if refused is not None:
                raise _Refused(*refused)
            tagset_id = catalog.tagset(table_id, tags)
        numbered: dict[int, float] = {}
        for name, value in fields.items():
            field_id = catalog.find_field(table_id, name.encode())
            if field_id < 0:
                if len(catalog.fields(table_id)) >= limits.max_fields_per_table:
                    message = f"table {sample.table!r} has {limits.max_fields_per_table} fields already"
                    refusal = Refusal(position, "field_limit", f"cannot store field {name!r}: {message}")
                    batch.refuse(refusal, keep=limits.max_reported_lines)
                    continue
                field_id = catalog.field(table_id, name.encode())
            numbered[field_id] = value
        if numbered:
            rows.setdefault(table_id, []).append((tagset_id, time_ns, position, numbered))

    @staticmethod
    def _number(batch: Batch, name: str, value: Any) -> float:
        if isinstance(value, bool):
            return 1.0 if value else 0.0
        if isinstance(value, int):
            if abs(value) > _EXACT_INTEGER:
                try:
                    nearest = float(value)
                except OverflowError:
                    raise _Refused("not_finite", f"field {name!r} is beyond float64's range") from None
                if int(nearest) != value:
                    batch.rounded += 1
                return nearest
            return float(value)
        if isinstance(value, float):
            if not np.isfinite(value):
                raise _Refused("not_finite", f"field {name!r} is not a finite number")
            return value
        if isinstance(value, str):
            raise _Refused("string_field", f"field {name!r} holds text; want a number, or put the text into a tag")
        raise _Refused("unsupported_field", f"field {name!r} is neither a number nor a boolean")


class _Refused(Exception):
    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
