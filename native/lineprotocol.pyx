"""LineDecoder: line protocol to columns in one pass, without the GIL.

Most lines repeat what earlier lines said: the same series keys in the same order, the same fields in the same order.
`read_known_line` bets on that and compares bytes instead of parsing them.  It changes nothing but cells that can be
taken back, and gives up at the first byte that is not as expected.  `read_any_line` then reads the line from its
start with the whole grammar, says what is wrong with it, and defines what is new; it alone decides what is accepted.

docs/line-protocol.md describes what is accepted, refused and counted.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport free
from libc.string cimport memchr, memcpy, memset

import os

import numpy as np

from native.anyline cimport read_any_line
from native.catalogue cimport MAX_TABLE_FIELDS
from native.knownline cimport read_known_line
from native.labels cimport label_map_free, label_map_init
from native.linecolumns cimport (
    Column,
    fill_absent,
    table_rows_free,
    table_rows_release_buffers,
    table_rows_restart,
)
from native.rawkeys cimport KEY_TEXT_BYTES, raw_keys_bytes, raw_keys_free, raw_keys_init

from native.refusals import CAUSES as CAUSES
from native.refusals import LINE_BYTES, PROBLEMS, sentence, time_text


cdef enum:
    RETAINED_BYTES = 64 << 20  # of row buffers kept from one call to the next
    LONG_LINE_BYTES = 1 << 20  # lines beyond this do not make the scratch memory for lines stay large


cdef class DecodedTable:
    """The rows of one table, in the order of their lines.

    ``tagset_ids`` int32[n], ``times`` int64[n] in nanoseconds, ``line_numbers`` int32[n] from 1, ``field_ids`` the
    numbers of the fields ascending, ``values`` float64[fields, n] with ABSENT where a line did not set the field.
    """

    cdef readonly int table_id
    cdef readonly object tagset_ids, times, line_numbers, values
    cdef readonly tuple field_ids


cdef class DecodedLines:
    """What one call of `LineDecoder.decode` kept and refused (docs/line-protocol.md says what counts as what)."""

    cdef readonly list tables, refusals
    cdef readonly int64_t lines, samples, rounded
    cdef readonly dict refused_by_cause


cdef object _bytes_to_array(const void *data, size_t count, object dtype):
    cdef unsigned char[::1] target
    array = np.empty(count, dtype=dtype)
    target = array.view(np.uint8)
    with nogil:
        memcpy(&target[0], data, target.shape[0])
    return array


cdef object _values_to_array(const TableRows *table, list columns):
    cdef double[:, ::1] target
    cdef Column *column
    cdef uint32_t index
    cdef Py_ssize_t row = 0
    array = np.empty((len(columns), table.rows), dtype=np.float64)
    target = array
    for index in columns:
        column = &table.columns[index]
        with nogil:
            memcpy(&target[row, 0], column.values, column.filled * sizeof(double))
            fill_absent(&target[row, 0], column.filled, table.rows)
        row += 1
    return array


cdef DecodedTable _decoded_table(const TableRows *table, uint32_t table_id):
    cdef DecodedTable decoded = DecodedTable.__new__(DecodedTable)
    cdef uint32_t index
    fields = sorted(
        [(table.columns[index].field_id, index) for index in range(table.names.count) if table.columns[index].filled]
    )
    decoded.table_id = table_id
    decoded.tagset_ids = _bytes_to_array(table.tagset_ids, table.rows, np.int32)
    decoded.times = _bytes_to_array(table.times, table.rows, np.int64)
    decoded.line_numbers = _bytes_to_array(table.line_numbers, table.rows, np.int32)
    decoded.field_ids = tuple([field_id for field_id, _ in fields])
    decoded.values = _values_to_array(table, [position for _, position in fields])
    return decoded


cdef class LineDecoder:
    """Decodes line protocol into rows of the catalogue's tables, defining what is new.

    ``max_tagsets``, ``max_tables`` and ``max_fields`` (per table) bound what the catalogue may come to hold through
    this decoder; what would go beyond is refused.  ``max_refusals`` bounds how many refusals are described; all are
    counted.  ``max_key_text`` bounds the text of series keys that is kept; beyond it fingerprints stand for them, and
    decoding gives the same.  One thread at a time decodes into a catalogue; a second caller waits until the first is done.
    """

    def __cinit__(
        self, Catalogue catalogue not None, *, int64_t max_tagsets, int64_t max_tables, int64_t max_fields,
        int64_t max_refusals, int64_t max_key_text=KEY_TEXT_BYTES
    ):
        cdef bytes random = os.urandom(24)
        raw_keys_init(&self.keys, PyBytes_AS_STRING(random), <size_t>max(max_key_text, 0))
        label_map_init(&self.fresh_fields, self.keys.map.seed + 1)
        self.last_series = NO_SERIES
        self.catalogue = catalogue
        for name, value, most in (
            ("max_tagsets", max_tagsets, 0x7FFFFFFF),
            ("max_tables", max_tables, 0x7FFFFFFF),
            ("max_fields", max_fields, MAX_TABLE_FIELDS),
            ("max_refusals", max_refusals, 0x7FFFFFFF),
            ("max_key_text", max_key_text, 0x7FFFFFFFFFFFFFFF),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"cannot make a line decoder: got {name} {value}, want 0 to {most}")
        self.max_tagsets = <uint32_t>max_tagsets
        self.max_tables = <uint32_t>max_tables
        self.max_fields = <uint32_t>max_fields
        self.max_refusals = <size_t>max_refusals

    def __dealloc__(self):
        cdef uint32_t table_id
        for table_id in range(self.table_capacity):
            if self.tables[table_id] != NULL:
                table_rows_free(self.tables[table_id])
        free(self.tables)
        free(self.used)
        free(self.series)
        raw_keys_free(&self.keys)
        label_map_free(&self.fresh_fields)

    @property
    def key_bytes(self):
        """Bytes allocated for series keys."""
        return raw_keys_bytes(&self.keys)

    def decode(
        self, body, *, int64_t precision_ns, int64_t default_time_ns, int64_t min_time_ns, int64_t max_time_ns
    ):
        """Return the rows, counts and refusals of the lines in ``body``.

        ``precision_ns`` is the unit of the timestamps, 0 to tell it from their size (below 5e9 seconds, 5e12
        milliseconds, 5e15 microseconds, else nanoseconds); lines without a timestamp get ``default_time_ns``.  Rows
        before ``min_time_ns`` or after ``max_time_ns`` are refused.  Raises ValueError for a negative precision or a
        body of 2 GiB and more, MemoryError, and whatever the buffer protocol raises; never for what a line says.
        """
        cdef Py_buffer view
        if precision_ns < 0:
            raise ValueError(f"cannot decode lines: got a precision of {precision_ns} ns, want 0 or more")
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            if view.len > 0x7FFFFFFF:
                raise ValueError(f"cannot decode lines: got a body of {view.len} bytes, want less than 2 GiB")
            with nogil:
                self.catalogue.writer.lock()
            try:
                self.rules.precision_ns = precision_ns
                self.rules.default_time_ns = default_time_ns
                self.rules.min_time_ns = min_time_ns
                self.rules.max_time_ns = max_time_ns
                self.restart()
                with nogil:
                    self.read_lines(<const char *>view.buf, <const char *>view.buf + view.len)
                return self.result()
            finally:
                self.release_large_buffers()
                self.catalogue.writer.unlock()
        finally:
            PyBuffer_Release(&view)

    # -- reading lines --

    cdef int read_lines(self, const char *at, const char *end) except -1 nogil:
        cdef const char *after
        cdef const char *line_end
        while at != end:
            self.line_number += 1
            after = read_known_line(self, at, end)
            if after == NULL:
                line_end = <const char *>memchr(at, 10, end - at)
                if line_end == NULL:
                    line_end = after = end
                else:
                    after = line_end + 1
                if line_end != at and (line_end - 1)[0] == b"\r":
                    line_end -= 1
                read_any_line(self, at, line_end)
            at = after
        return 0

    # -- refusals and results --

    cdef int restart(self) except -1:
        """Forget the rows and counts of the last call."""
        cdef uint32_t index
        for index in range(self.used_count):
            table_rows_restart(self.tables[self.used[index]])
        self.used_count = 0
        self.line_number = self.lines = self.samples = self.rounded = 0
        memset(self.refused, 0, sizeof(self.refused))
        self.refusals.clear()
        return 0

    cdef object result(self):
        cdef DecodedLines decoded = DecodedLines.__new__(DecodedLines)
        cdef uint32_t index
        decoded.tables = [
            _decoded_table(self.tables[self.used[index]], self.used[index]) for index in range(self.used_count)
        ]
        decoded.lines = self.lines
        decoded.samples = self.samples
        decoded.rounded = self.rounded
        decoded.refused_by_cause = {}
        for index in range(<uint32_t>PROBLEMS_END):
            if self.refused[index]:
                cause = PROBLEMS[index][0]
                decoded.refused_by_cause[cause] = decoded.refused_by_cause.get(cause, 0) + self.refused[index]
        decoded.refusals = self.described_refusals()
        return decoded

    cdef list described_refusals(self):
        cdef Refusal refusal
        cdef list described = []
        if self.refusals.empty():
            return described
        limits = {
            "min_time": time_text(self.rules.min_time_ns),
            "max_time": time_text(self.rules.max_time_ns),
            "max_tables": self.max_tables,
            "max_tagsets": min(self.max_tagsets, self.catalogue.max_tagsets),
            "max_table_tagsets": self.catalogue.max_table_tagsets,
            "max_hourly_tagsets": self.catalogue.max_hourly_tagsets,
            "max_fields": self.max_fields,
        }
        for refusal in self.refusals:
            line = refusal.line[: refusal.line_length]
            words = sentence(<int>refusal.problem, line, refusal.start, refusal.end, limits)
            described.append((refusal.line_number, PROBLEMS[<int>refusal.problem][0], words, line[:LINE_BYTES]))
        return described

    cdef int release_large_buffers(self) except -1:
        """Give buffers back after an unusually large call; between ordinary calls they are kept."""
        cdef TableRows *table
        cdef uint32_t index
        for index in range(self.used_count):
            table = self.tables[self.used[index]]
            self.retained_bytes += table.buffer_bytes - table.counted_bytes
            table.counted_bytes = table.buffer_bytes
        if self.retained_bytes > <size_t>RETAINED_BYTES:
            for index in range(self.table_capacity):
                if self.tables[index] != NULL:
                    table_rows_release_buffers(self.tables[index])
            self.used_count = 0
            self.retained_bytes = 0
        # One line may have been as long as a whole body.
        if self.spare.capacity() > <size_t>LONG_LINE_BYTES:
            self.spare.clear()
            self.spare.shrink_to_fit()
            self.fields.clear()
            self.fields.shrink_to_fit()
            self.field_faults.shrink_to_fit()
            self.tags.clear()
            self.tags.shrink_to_fit()
        return 0
