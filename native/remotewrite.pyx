"""Prometheus remote write: a decompressed request to rows of a pooled table, without the GIL.

Source: "Prometheus Remote-Write 1.0 specification" and "... 2.0 specification", prometheus.io, and the Protocol Buffers
encoding guide.  The walk follows the wire format itself: fields in any order, unknown ones passed over, of a field set
twice the last one counts.

    WriteRequest  1: TimeSeries*, 3: MetricMetadata* (counted, not stored)
    TimeSeries    1: Label*, 2: Sample*, 3: Exemplar* (counted, not stored), 4: Histogram* (refused)
    Label         1: name, 2: value                      Sample  1: value (double), 2: timestamp (int64, ms)

Version 2 names labels once a request: its series refer to *symbols*, which may stand behind them.

    Request       4: symbols*, 5: TimeSeries*
    TimeSeries    1: label references*, 2: Sample*, 3: Histogram* (refused), 4: Exemplar*, 5: Metadata (counted, not stored)

A request that cannot be walked to its end is refused whole, because nothing says where its next series would begin.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.vector cimport vector

from native.absent cimport ABSENT_BITS
from native.cursor cimport Cursor, cursor_over, left, overran, position, take
from native.labels cimport LabelEntry
from native.linegrammar cimport Tag, Text
from native.pooledrows cimport (
    POOLED_BAD_REFERENCE,
    POOLED_FINE,
    POOLED_HISTOGRAM,
    POOLED_NO_LABELS,
    POOLED_RESERVED_NAN,
    POOLED_TOO_FAR_IN_FUTURE,
    POOLED_TOO_OLD,
    PooledProblem,
    PooledRows,
)
from native.rawkeys cimport is_raw_key, raw_key_length


cdef enum:
    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5
    NS_PER_MS = 1_000_000
    NOT_PROTOBUF = 1  # as the `wanted` of a cursor: what was read is no protobuf
    MAX_FIELD = 0x1FFFFFFF
    MAX_SYMBOLS = 1 << 22  # of one request; 64 MB here
    RETAINED_SYMBOLS = 1 << 16
    SYMBOLS_KEY = 0  # first byte of the raw keys of version 2; those of version 1 begin with a field's key


cdef inline void spoil(Cursor *cursor) noexcept nogil:
    if cursor.wanted == 0:
        cursor.wanted = NOT_PROTOBUF


cdef inline uint64_t read_number(Cursor *cursor) noexcept nogil:
    """Read a varint of at most ten bytes; a longer one spoils the cursor."""
    cdef uint64_t value
    cdef uint8_t byte
    cdef int shift
    if cursor.at != cursor.end and cursor.wanted == 0 and cursor.at[0] < 0x80:
        value = cursor.at[0]
        cursor.at += 1
        return value
    value = 0
    for shift in range(0, 70, 7):
        if cursor.at == cursor.end or cursor.wanted != 0:
            spoil(cursor)
            return 0
        byte = cursor.at[0]
        cursor.at += 1
        value |= (<uint64_t>(byte & 0x7F)) << shift
        if byte < 0x80:
            return value
    spoil(cursor)
    return 0


cdef inline uint64_t read_key(Cursor *cursor) noexcept nogil:
    """Read a field's number and wire type; number 0 and numbers beyond 2^29 - 1 spoil the cursor."""
    cdef uint64_t key = read_number(cursor)
    if not 0 < key >> 3 <= <uint64_t>MAX_FIELD:
        spoil(cursor)
    return key


cdef inline const uint8_t *read_bytes(Cursor *cursor, size_t *length) noexcept nogil:
    cdef uint64_t size = read_number(cursor)
    length[0] = size
    return take(cursor, size)


cdef inline void skip(Cursor *cursor, uint64_t wire_type) noexcept nogil:
    """Pass over a field that means nothing here; groups, which proto3 does not have, spoil the cursor."""
    cdef size_t length
    if wire_type == VARINT:
        read_number(cursor)
    elif wire_type == FIXED64:
        take(cursor, 8)
    elif wire_type == BYTES:
        read_bytes(cursor, &length)
    elif wire_type == FIXED32:
        take(cursor, 4)
    else:
        spoil(cursor)


cdef inline Cursor within(Cursor *outer) noexcept nogil:
    """Return a cursor over the message that comes next in `outer`, which is passed."""
    cdef size_t length = 0
    cdef const uint8_t *content = read_bytes(outer, &length)
    cdef Cursor inner
    if content == NULL:
        inner = cursor_over(outer.at, 0, 0)
        spoil(&inner)
        return inner
    return cursor_over(content, length, 0)


cdef class RemoteWriteDecoder(PooledRows):
    """Decodes remote write requests into rows of a table of the catalogue, defining tag sets that are new."""

    cdef vector[Text] symbols  # of a request of version 2
    cdef vector[uint32_t] references  # of the series that is being read
    cdef vector[char] gathered  # labels that do not lie side by side, as one raw key

    def decode(self, body, *, int64_t table_id, int64_t min_time_ns, int64_t max_time_ns, int version=1):
        """Return the rows, counts and refusals (by series, from 1) of one decompressed request of version 1 or 2.

        Samples before ``min_time_ns`` or after ``max_time_ns`` are refused.  Raises ValueError for bytes that are no
        WriteRequest (nothing is kept then) and for an unknown table, and MemoryError.
        """
        cdef Py_buffer view
        cdef Cursor cursor
        if version != 1 and version != 2:
            raise ValueError(f"cannot read the remote write request: got version {version}, want 1 or 2")
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                self.catalogue.writer.lock()
            try:
                self.begin(table_id, min_time_ns, max_time_ns)
                cursor = cursor_over(<const uint8_t *>view.buf, view.len, 0)
                with nogil:
                    if version == 1:
                        self.read_request(&cursor)
                    else:
                        self.read_request_2(&cursor)
                if overran(&cursor):
                    raise ValueError(
                        f"cannot read the remote write request: got bytes that are no protobuf at offset"
                        f" {position(&cursor)} of {view.len}, in time series {self.position}"
                    )
                return self.result()
            finally:
                self.release_large_buffers()
                self.symbols.clear()
                if self.symbols.capacity() > <size_t>RETAINED_SYMBOLS:
                    self.symbols.shrink_to_fit()
                self.catalogue.writer.unlock()
        finally:
            PyBuffer_Release(&view)

    cdef int read_request(self, Cursor *cursor) except -1 nogil:
        cdef uint64_t key
        cdef Cursor inner
        while left(cursor) and not overran(cursor):
            key = read_key(cursor)
            if overran(cursor):
                return 0
            if key == (1 << 3 | BYTES):
                self.position += 1
                inner = within(cursor)
                if not overran(cursor):
                    self.read_series(&inner)
                    if overran(&inner):
                        cursor.at = inner.at
                        spoil(cursor)
            else:
                self.dropped += key == (3 << 3 | BYTES)
                skip(cursor, key & 7)
        return 0

    cdef int read_series(self, Cursor *cursor) except -1 nogil:
        """Read one series: its samples into rows, then its labels into their tag set."""
        cdef const uint8_t *began
        cdef const uint8_t *labels = NULL
        cdef const uint8_t *labels_end = NULL
        cdef bint side_by_side = True
        cdef size_t length, first = self.times.size()
        cdef int64_t histograms = 0, tagset_id = -1
        cdef uint64_t key
        cdef Cursor inner
        # Senders repeat their series in one order: most labels are those that came here after the same ones last time.
        cdef const LabelEntry *expected = self.expected_key()
        cdef bint as_expected = (
            expected != NULL
            and raw_key_length(expected) < left(cursor)
            and cursor.at[raw_key_length(expected)] != (1 << 3 | BYTES)
            and is_raw_key(&self.keys, expected, <const char *>cursor.at)
        )
        if as_expected:
            labels = cursor.at
            cursor.at += raw_key_length(expected)
            labels_end = cursor.at
        while left(cursor):
            began = cursor.at
            key = read_key(cursor)
            if overran(cursor):
                return 0
            if key == (1 << 3 | BYTES):
                read_bytes(cursor, &length)
                side_by_side &= labels == NULL or labels_end == began
                if labels == NULL:
                    labels = began
                labels_end = cursor.at
            elif key == (2 << 3 | BYTES):
                inner = within(cursor)
                if not overran(cursor):
                    self.read_sample(&inner)
                    if overran(&inner):
                        cursor.at = inner.at
                        spoil(cursor)
            else:
                self.dropped += key == (3 << 3 | BYTES)
                histograms += key == (4 << 3 | BYTES)
                skip(cursor, key & 7)
            if overran(cursor):
                return 0
        if histograms:
            self.refuse(POOLED_HISTOGRAM, histograms, <const char *>cursor.start, 0)
        if self.times.size() == first:
            return 0
        if labels == NULL:
            return self.refuse_series(POOLED_NO_LABELS, first, <const char *>cursor.start, 0)
        if not side_by_side:
            self.gather_labels(cursor)
            labels = <const uint8_t *>self.gathered.data()
            labels_end = labels + self.gathered.size()
        if as_expected and labels_end - labels == <Py_ssize_t>raw_key_length(expected) and side_by_side:
            return self.close_series(first, <int32_t>self.expected_tagset())
        tagset_id = self.known_tagset(<const char *>labels, labels_end - labels)
        if tagset_id < 0:
            tagset_id = self.new_labels(cursor, labels, labels_end, first)
            if tagset_id < 0:
                return 0
        return self.close_series(first, <int32_t>tagset_id)

    cdef int read_request_2(self, Cursor *cursor) except -1 nogil:
        """Read the symbols, then the series that refer to them."""
        cdef Cursor symbols = cursor[0]
        cdef uint64_t key
        cdef size_t length
        cdef Text text
        cdef Cursor inner
        while left(&symbols):
            key = read_key(&symbols)
            if key == (4 << 3 | BYTES):
                text.data = <const char *>read_bytes(&symbols, &length)
                text.length = length
                if self.symbols.size() == <size_t>MAX_SYMBOLS:
                    spoil(&symbols)
                self.symbols.push_back(text)
            else:
                skip(&symbols, key & 7)
            if overran(&symbols):
                cursor[0] = symbols
                return 0
        while left(cursor) and not overran(cursor):
            key = read_key(cursor)
            if key == (5 << 3 | BYTES):
                self.position += 1
                inner = within(cursor)
                if not overran(cursor):
                    self.read_series_2(&inner)
                    if overran(&inner):
                        cursor.at = inner.at
                        spoil(cursor)
            else:
                skip(cursor, key & 7)
        return 0

    cdef int read_series_2(self, Cursor *cursor) except -1 nogil:
        cdef size_t first = self.times.size()
        cdef int64_t histograms = 0, tagset_id
        cdef uint64_t key
        cdef Cursor inner
        cdef PooledProblem problem = POOLED_FINE
        self.references.clear()
        while left(cursor):
            key = read_key(cursor)
            if key == (1 << 3 | BYTES):
                inner = within(cursor)
                while left(&inner) and not overran(&inner):
                    self.references.push_back(reference(read_number(&inner)))
                if overran(&inner):
                    spoil(cursor)
            elif key == (1 << 3 | VARINT):
                self.references.push_back(reference(read_number(cursor)))
            elif key == (2 << 3 | BYTES):
                inner = within(cursor)
                if not overran(cursor):
                    self.read_sample(&inner)
                    if overran(&inner):
                        cursor.at = inner.at
                        spoil(cursor)
            else:
                self.dropped += key == (4 << 3 | BYTES) or key == (5 << 3 | BYTES)
                histograms += key == (3 << 3 | BYTES)
                skip(cursor, key & 7)
            if overran(cursor):
                return 0
        if histograms:
            self.refuse(POOLED_HISTOGRAM, histograms, <const char *>cursor.start, 0)
        if self.times.size() == first:
            return 0
        if not self.resolve_references():
            return self.refuse_series(POOLED_BAD_REFERENCE, first, <const char *>cursor.start, 0)
        tagset_id = self.known_tagset(self.gathered.data(), self.gathered.size())
        if tagset_id < 0:
            tagset_id = self.define_tagset(self.gathered.data(), self.gathered.size(), &problem)
            if tagset_id < 0:
                return self.refuse_series(problem, first, <const char *>cursor.start, 0)
        return self.close_series(first, <int32_t>tagset_id)

    cdef bint resolve_references(self) except -1 nogil:
        """Make the labels that are referred to `tags`, and one raw key; False when a reference leads nowhere."""
        cdef size_t index
        cdef uint32_t size
        cdef Text *text
        cdef Tag tag
        if self.references.size() & 1:
            return False
        self.tags.clear()
        self.gathered.clear()
        self.gathered.push_back(SYMBOLS_KEY)
        for index in range(self.references.size()):
            if self.references[index] >= self.symbols.size():
                return False
            text = &self.symbols[self.references[index]]
            size = <uint32_t>text.length
            self.gathered.insert(self.gathered.end(), <const char *>&size, <const char *>&size + 4)
            self.gathered.insert(self.gathered.end(), text.data, text.data + text.length)
            if index & 1:
                tag.value = text[0]
                tag.end = text.data + text.length
                self.tags.push_back(tag)
            else:
                tag.name = text[0]
                tag.at = text.data
        return True

    cdef int gather_labels(self, const Cursor *series) except -1 nogil:
        """Copy the label fields of a series that was walked before, one after another."""
        cdef Cursor cursor = cursor_over(series.start, series.end - series.start, 0)
        cdef const uint8_t *began
        cdef uint64_t key
        self.gathered.clear()
        while left(&cursor):
            began = cursor.at
            key = read_key(&cursor)
            skip(&cursor, key & 7)
            if overran(&cursor):
                return 0
            if key == (1 << 3 | BYTES):
                self.gathered.insert(self.gathered.end(), <const char *>began, <const char *>cursor.at)
        return 0

    cdef int64_t new_labels(
        self, Cursor *series, const uint8_t *labels, const uint8_t *labels_end, size_t first
    ) except -2 nogil:
        """Return the tag set of labels not met before; -1 when the series is refused or the request spoilt."""
        cdef Cursor cursor = cursor_over(labels, labels_end - labels, 0)
        cdef Cursor inner
        cdef PooledProblem problem = POOLED_FINE
        cdef int64_t tagset_id
        cdef Tag tag
        self.tags.clear()
        while left(&cursor):
            read_key(&cursor)
            inner = within(&cursor)
            read_label(&inner, &tag)
            if overran(&inner) or overran(&cursor):
                series.at = inner.at if side_of(series, inner.at) else series.start
                spoil(series)
                return -1
            self.tags.push_back(tag)
        tagset_id = self.define_tagset(<const char *>labels, labels_end - labels, &problem)
        if tagset_id < 0:
            # Refusals are described when the whole request has been read: only its own bytes are still there then.
            if side_of(series, labels):
                self.refuse_series(problem, first, <const char *>labels, labels_end - labels)
            else:
                self.refuse_series(problem, first, <const char *>series.start, 0)
        return tagset_id

    cdef int read_sample(self, Cursor *cursor) except -1 nogil:
        cdef uint64_t key, bits = 0
        cdef int64_t time_ms = 0
        cdef double value
        cdef const uint8_t *taken
        while left(cursor):
            key = read_key(cursor)
            if key == (1 << 3 | FIXED64):
                taken = take(cursor, 8)
                if taken != NULL:
                    memcpy(&bits, taken, 8)
            elif key == (2 << 3 | VARINT):
                time_ms = <int64_t>read_number(cursor)
            else:
                skip(cursor, key & 7)
            if overran(cursor):
                return 0
        if time_ms < self.min_time_ms:
            return self.refuse(POOLED_TOO_OLD, 1, <const char *>cursor.start, 0)
        if time_ms > self.max_time_ms:
            return self.refuse(POOLED_TOO_FAR_IN_FUTURE, 1, <const char *>cursor.start, 0)
        if bits == ABSENT_BITS:
            return self.refuse(POOLED_RESERVED_NAN, 1, <const char *>cursor.start, 0)
        memcpy(&value, &bits, 8)
        return self.add(time_ms * NS_PER_MS, value)


cdef inline uint32_t reference(uint64_t number) noexcept nogil:
    """Return a label reference; one beyond 32 bits leads nowhere, as no request has so many symbols."""
    return <uint32_t>number if number < <uint64_t>0xFFFFFFFF else <uint32_t>0xFFFFFFFF


cdef inline bint side_of(const Cursor *series, const uint8_t *at) noexcept nogil:
    """Whether `at` points into the series itself and not into gathered labels."""
    return series.start <= at and at <= series.end


cdef inline void read_label(Cursor *cursor, Tag *tag) noexcept nogil:
    cdef uint64_t key
    cdef size_t length
    tag.name.data = tag.value.data = tag.at = <const char *>cursor.at
    tag.name.length = tag.value.length = 0
    tag.end = <const char *>cursor.end
    while left(cursor) and not overran(cursor):
        key = read_key(cursor)
        if key == (1 << 3 | BYTES):
            tag.name.data = <const char *>read_bytes(cursor, &length)
            tag.name.length = length
        elif key == (2 << 3 | BYTES):
            tag.value.data = <const char *>read_bytes(cursor, &length)
            tag.value.length = length
        else:
            skip(cursor, key & 7)
