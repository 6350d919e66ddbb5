"""Arrow IPC streams to a batch: text columns are tags, numeric columns fields, ``time`` the time.

The table's name is in the schema's metadata under ``tidegauge.table`` (or handed in).  Everything is columnar: a
distinct combination of tags is looked up once for as long as the sender repeats its dictionaries, and float64 columns
that lie in the body as a matrix would are used where they are.

NaN and infinities are refused, since senders often mean "no sample" by NaN, unless the schema's metadata says
``tidegauge.not_finite`` = ``keep``: then they are values and keep their bits.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.disk.filesystem import Bytes
from engine.errors import BadRequest
from engine.ingest.admission import Admission
from engine.ingest.batch import Batch, Refusal
from engine.model.rows import Float64Array, Int32Array, Int64Array, Rows, absent_matrix
from native.columns import ABSENT_BITS, is_absent
from native.combinations import KeyNumbers, all_finite, combine
from native.slabs import slab_array

TABLE_KEY = b"tidegauge.table"
#: ``keep`` or ``refuse``: what becomes of NaN and infinities.
NOT_FINITE_KEY = b"tidegauge.not_finite"
TIME_COLUMN = "time"
_UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_MAX_CODES = 1 << 62
#: Sets of dictionaries that are remembered; beyond this all are forgotten and learned again.
_MAX_NUMBERINGS = 256
_LARGEST_INT64 = float(2**63)
_BEYOND = "cannot store Arrow stream: a tag has indices beyond its dictionary"


class ArrowDecoder:
    """Decodes Arrow IPC streams for one engine; called from the decoding thread only."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._known: dict[tuple[int, tuple[str, ...]], dict[tuple[bytes | None, ...], int]] = {}
        #: Fingerprint of dictionaries -> the tag sets that combined codes mean.
        self._numberings: dict[bytes, KeyNumbers] = {}

    def decode(self, body: Bytes, table: str | None = None) -> Batch:
        """Decode one stream; raises BadRequest when it is no Arrow stream or its columns cannot be a table's."""
        try:
            with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
                schema, batches = reader.schema, list(reader)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise BadRequest(f"cannot read Arrow stream: {error}") from None
        name = table or (schema.metadata or {}).get(TABLE_KEY, b"").decode("utf-8", "replace")
        if not name:
            raise BadRequest(
                "cannot store Arrow stream: it names no table; set the schema metadata key 'tidegauge.table'"
                " or the query parameter 'table'"
            )
        kept = (schema.metadata or {}).get(NOT_FINITE_KEY, b"refuse")
        if kept not in (b"keep", b"refuse"):
            told = kept.decode("utf-8", "replace")
            raise BadRequest(
                f"cannot store Arrow stream: metadata key 'tidegauge.not_finite': got {told!r}, want 'keep' or 'refuse'"
            )
        tags, fields = _columns_of(schema)
        admission = self._admission
        batch = Batch([])
        now_ns = admission.clock.now_ns()
        position = 1
        for record_batch in batches:
            if record_batch.num_rows:
                self._add(batch, name, record_batch, tags, fields, position, now_ns, kept == b"keep")
            position += record_batch.num_rows
        return batch

    def _add(
        self,
        batch: Batch,
        name: str,
        record_batch: pa.RecordBatch,
        tags: list[str],
        fields: list[str],
        first_position: int,
        now_ns: int,
        keep_special: bool,
    ) -> None:
        admission = self._admission
        times = self._times(record_batch, now_ns)
        positions: Sequence[int] | Int64Array = range(first_position, first_position + len(times))
        oldest, newest = admission.oldest_ns(now_ns), admission.newest_ns(now_ns)
        # Tested before anything is defined, so that refused rows never fill the catalogue.
        if int(times.min()) < oldest or int(times.max()) > newest:
            positions = np.array(positions, np.int64)
            admitted = (times >= oldest) & (times <= newest)
            self._refuse_times(batch, times, positions, admitted, now_ns)
            record_batch = record_batch.filter(pa.array(admitted))
            times, positions = times[admitted], positions[admitted]
            if not len(times):
                return
        catalog, limits = admission.catalog.native, admission.ingest
        keep = limits.max_reported_lines
        table_id = catalog.find_table(name.encode())
        if table_id < 0:
            if catalog.table_count >= limits.max_tables:
                message = f"cannot store table {name!r}: there are {limits.max_tables} tables already"
                batch.refuse(Refusal(first_position, "table_limit", message), keep=keep, times=len(times))
                return
            table_id = catalog.table(name.encode())
        columns: dict[int, str] = {}
        for field in fields:
            field_id = catalog.find_field(table_id, field.encode())
            if field_id < 0:
                if len(catalog.fields(table_id)) >= limits.max_fields_per_table:
                    message = f"cannot store field {field!r}: {name!r} has {limits.max_fields_per_table} already"
                    batch.refuse(Refusal(first_position, "field_limit", message), keep=keep, times=len(times))
                    continue
                field_id = catalog.field(table_id, field.encode())
            columns[field_id] = field
        tagset_ids = self._tagsets(batch, table_id, record_batch, tags, positions)
        field_ids = tuple(sorted(columns))
        names = [columns[field_id] for field_id in field_ids]
        values = _matrix_in_place([record_batch.column(field) for field in names])
        samples = None
        if values is not None and all_finite(values):
            samples = values.size
        else:
            values = slab_array((len(field_ids), len(times)), np.float64)
            for index, field in enumerate(names):
                values[index] = _numbers(batch, record_batch.column(field), field, positions, keep, keep_special)
        rows = Rows(tagset_ids, times, field_ids, values)
        if len(tagset_ids) and int(tagset_ids.min()) < 0:
            stored = tagset_ids >= 0
            rows, positions, samples = rows.take(stored), np.asarray(positions)[stored], None
        if len(rows) and field_ids:
            admission.add(batch, table_id, rows, positions, now_ns, "row", samples)

    @staticmethod
    def _times(record_batch: pa.RecordBatch, now_ns: int) -> Int64Array:
        column = record_batch.column(TIME_COLUMN) if TIME_COLUMN in record_batch.schema.names else None
        if column is None:
            return np.full(record_batch.num_rows, now_ns, np.int64)
        unit = _UNIT_NS[column.type.unit] if pa.types.is_timestamp(column.type) else 1
        if column.null_count:
            raise BadRequest(f"cannot store Arrow stream: column 'time' has {column.null_count} nulls")
        raw = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        limit = np.iinfo(np.int64).max // unit
        if unit > 1 and len(raw) and (raw.max() > limit or raw.min() < -limit):
            raise BadRequest("cannot store Arrow stream: a time does not fit 64 bits of nanoseconds")
        scaled: Int64Array = raw * unit  # a copy in any case: times outlive the body
        return scaled

    def _refuse_times(
        self, batch: Batch, times: Int64Array, positions: Int64Array, admitted: npt.NDArray[np.bool_], now_ns: int
    ) -> None:
        wanted = self._admission.admitted_text(now_ns)
        for index in np.flatnonzero(~admitted).tolist():
            cause = "too_old" if times[index] < now_ns else "too_far_in_future"
            message = f"cannot store row {int(positions[index])}: got time {int(times[index])}, want {wanted}"
            keep = self._admission.ingest.max_reported_lines
            batch.refuse(Refusal(int(positions[index]), cause, message), keep=keep)

    def _tagsets(
        self,
        batch: Batch,
        table_id: int,
        record_batch: pa.RecordBatch,
        tags: list[str],
        positions: Sequence[int] | Int64Array,
    ) -> Int32Array:
        if not tags:
            combination, inverse = [()], np.zeros(record_batch.num_rows, np.int64)
            return self._numbers_of(batch, table_id, tags, combination, inverse, positions)
        codes: list[npt.NDArray[Any]] = []
        dictionaries: list[pa.Array] = []
        for tag in tags:
            column = record_batch.column(tag)
            encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
            indices = encoded.indices
            if indices.type != pa.int32() or indices.null_count:
                indices = pc.fill_null(indices.cast(pa.int64()), len(encoded.dictionary))
            elif len(indices) and pc.max(indices).as_py() >= len(encoded.dictionary):
                raise BadRequest(_BEYOND)
            codes.append(indices.to_numpy())
            dictionaries.append(encoded.dictionary)
        # One more value than the dictionary has stands for "no tag".
        sizes = [len(dictionary) + 1 for dictionary in dictionaries]
        if functools.reduce(operator.mul, sizes) >= _MAX_CODES:
            for code, size in zip(codes, sizes, strict=True):
                _combined([code], [size])
            _, first, inverse = np.unique(np.stack(codes), axis=1, return_index=True, return_inverse=True)
            combinations = _combinations(codes, dictionaries, first)
            return self._numbers_of(batch, table_id, tags, combinations, inverse.reshape(-1), positions)
        return self._known_or_new(batch, table_id, tags, _combined(codes, sizes), codes, dictionaries, positions)

    def _known_or_new(
        self,
        batch: Batch,
        table_id: int,
        tags: list[str],
        key: Int64Array,
        codes: list[npt.NDArray[Any]],
        dictionaries: list[pa.Array],
        positions: Sequence[int] | Int64Array,
    ) -> Int32Array:
        """Number combinations of codes by what the same dictionaries meant before; look the others up by value.

        A sender repeats its dictionaries from batch to batch, so every combination is known as a rule.
        """
        same = _fingerprint(table_id, tags, dictionaries)
        known = self._numberings.get(same)
        if known is None:
            if len(self._numberings) >= _MAX_NUMBERINGS:
                self._numberings.clear()
            known = self._numberings[same] = KeyNumbers()
        tagset_ids: Int32Array = known.find(key)
        if len(tagset_ids) and int(tagset_ids.min()) < 0:
            new = np.flatnonzero(tagset_ids < 0)
            new_keys, first, inverse = np.unique(key[new], return_index=True, return_inverse=True)
            order = np.argsort(first)  # numbers rise in the order in which tag sets come
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            combinations = _combinations(codes, dictionaries, new[first[order]])
            found = self._numbers_of(batch, table_id, tags, combinations, place[inverse], np.asarray(positions)[new])
            tagset_ids[new] = found
            kept = found[first[order]] >= 0
            known.add(new_keys[order][kept], found[first[order]][kept])
            if sum(map(len, self._numberings.values())) > 2 * self._admission.catalog.native.in_use_count + 65_536:
                self._numberings.clear()
        return tagset_ids

    def _numbers_of(
        self,
        batch: Batch,
        table_id: int,
        tags: list[str],
        combinations: list[tuple[bytes | None, ...]] | list[tuple[()]],
        inverse: Int64Array,
        positions: Sequence[int] | Int64Array,
    ) -> Int32Array:
        catalog, limits = self._admission.catalog.native, self._admission.ingest
        known = self._known.setdefault((table_id, tuple(tags)), {})
        numbers = np.empty(len(combinations), np.int32)
        refusal: tuple[str, str] | None = None
        for index, combination in enumerate(combinations):
            tagset_id = known.get(combination, -1)
            if tagset_id < 0:
                pairs = [(tag.encode(), value) for tag, value in zip(tags, combination, strict=True) if value]
                tagset_id = catalog.find_tagset(table_id, pairs)
                if tagset_id < 0:
                    refusal = self._admission.tag_set_refusal(table_id)
                if tagset_id < 0 and refusal is None:
                    tagset_id = catalog.tagset(table_id, pairs)
                if tagset_id >= 0:
                    known[combination] = tagset_id
            numbers[index] = tagset_id
        if len(known) > 2 * catalog.in_use_count + 65_536:
            known.clear()
        tagset_ids: Int32Array = numbers[inverse]
        refused = int((tagset_ids < 0).sum())
        if refused:
            position = int(positions[np.flatnonzero(tagset_ids < 0)[0]])
            cause, words = refusal or ("tag_set_limit", "its tag set is new and cannot be defined")
            message = f"cannot store row {position}: {words}"
            batch.refuse(Refusal(position, cause, message), keep=limits.max_reported_lines, times=refused)
        return tagset_ids


def _columns_of(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Return the tag columns, sorted, and the field columns; raises BadRequest for a column that is neither."""
    if len(set(schema.names)) != len(schema.names):
        raise BadRequest("cannot store Arrow stream: two columns have the same name")
    tags, fields = [], []
    for column in schema:
        kind: Any = column.type
        if column.name == TIME_COLUMN:
            if not (pa.types.is_timestamp(kind) or pa.types.is_int64(kind)):
                raise BadRequest(
                    f"cannot store Arrow stream: column 'time' is {kind}, want a timestamp or int64 nanoseconds"
                )
            continue
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_string(value) or pa.types.is_large_string(value):
            tags.append(column.name)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            fields.append(column.name)
        else:
            raise BadRequest(
                f"cannot store Arrow stream: column {column.name!r} is {kind}, want text (a tag) or a number (a field)"
            )
    if not fields:
        raise BadRequest("cannot store Arrow stream: it has no numeric column, so there is nothing to store")
    return sorted(tags), fields


def _combinations(
    codes: list[npt.NDArray[Any]], dictionaries: list[pa.Array], rows: Int64Array
) -> list[tuple[bytes | None, ...]]:
    """Return the tag values of these rows, None for "no tag"."""
    columns = []
    for code, dictionary in zip(codes, dictionaries, strict=True):
        values = [None if value is None else value.encode() for value in dictionary.to_pylist()]
        values.append(None)
        columns.append([values[at] for at in code[rows].tolist()])
    return list(zip(*columns, strict=True))


def _combined(codes: list[npt.NDArray[Any]], sizes: list[int]) -> Int64Array:
    try:
        return combine(codes, sizes)
    except ValueError:
        raise BadRequest(_BEYOND) from None


def _fingerprint(table_id: int, tags: list[str], dictionaries: list[pa.Array]) -> bytes:
    """Return what is equal only for the same table, tags and dictionaries."""
    digest = hashlib.blake2b(repr((table_id, tags)).encode(), digest_size=16)
    for dictionary in dictionaries:
        sink = pa.BufferOutputStream()
        # A slice of a larger array is written as just its values; offsets and bytes then say what they are.
        plain = pa.record_batch([dictionary], names=["v"])
        with pa.ipc.new_stream(sink, plain.schema) as writer:
            writer.write_batch(plain)
        digest.update(sink.getvalue())
    return digest.digest()


def _matrix_in_place(columns: list[pa.Array]) -> Float64Array | None:
    """Return float64[columns, n] over columns that lie at equal distances in one buffer, or None.

    That is how an uncompressed stream holds neighbouring float64 columns without nulls.
    """
    if not columns or any(column.type != pa.float64() or column.null_count for column in columns):
        return None
    first = columns[0].to_numpy()
    places = [first.ctypes.data, *(column.to_numpy().ctypes.data for column in columns[1:])]
    distance = places[1] - places[0] if len(places) > 1 else first.nbytes
    if distance < first.nbytes or distance % 8 or places[0] % 8:
        return None
    if any(after - before != distance for before, after in itertools.pairwise(places)):
        return None
    # They are pieces of one buffer: the whole stream, which `first` keeps alive.
    owners = [column.buffers()[1].parent for column in columns]
    if any(owner is None or owner.address != owners[0].address for owner in owners):
        return None
    return np.lib.stride_tricks.as_strided(first, (len(columns), len(first)), (distance, 8), writeable=False)


def _numbers(
    batch: Batch, column: pa.Array, name: str, positions: Sequence[int] | Int64Array, keep: int, keep_special: bool
) -> Float64Array:
    """Return a column as float64: nulls absent, what cannot be stored refused and absent, wide integers counted.

    ``positions``: where each row stands; ``keep``: refusals that are told one by one; ``keep_special``: NaN and
    infinities are values, but for the one NaN that stands for "no sample".
    """
    kind: Any = column.type
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if pa.types.is_integer(kind):
        whole = column.fill_null(0).to_numpy(zero_copy_only=False)
        values = whole.astype(np.float64)
        if kind.bit_width == 64 and len(whole):
            wide = np.abs(values) >= 2.0**53
            if wide.any():
                inside = wide & (values < (_LARGEST_INT64 if whole.dtype == np.int64 else 2 * _LARGEST_INT64))
                back = np.zeros_like(whole)
                back[inside] = values[inside].astype(whole.dtype)
                batch.rounded += int((wide & ~(inside & (back == whole))).sum())
    else:
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        bad = ~np.isfinite(values)
        cause, why = "not_finite", "it is not a finite number"
        if keep_special:
            bad = is_absent(values) if missing is None else is_absent(values) & ~missing
            cause, why = "reserved_nan", f"it is the NaN {ABSENT_BITS:016x}, which stands for 'no sample' here"
        if bad.any():
            found = np.flatnonzero(bad).tolist()
            # Those that are not told one by one are counted with the last that may be.
            for number, at in enumerate(found[: keep + 1]):
                position = int(positions[at])
                message = f"cannot store field {name!r} of row {position}: {why}"
                times = 1 if number < keep else len(found) - keep
                batch.refuse(Refusal(position, cause, message), keep=keep, times=times)
            missing = bad if missing is None else missing | bad
    if missing is not None:
        absent = absent_matrix(1, len(values))[0]
        values = np.where(missing, absent, values)
    result: Float64Array = np.ascontiguousarray(values, np.float64)
    return result
