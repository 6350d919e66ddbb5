"""Prometheus text exposition to rows of a pooled table, without the GIL.

Source: "Exposition formats", prometheus.io (text format 0.0.4), and "OpenMetrics" 1.0 for what differs: timestamps in
seconds, exemplars behind a value.  One line is one sample:

    name{label="value",...} value [timestamp]           or, for names that need quotes, {"name",label="value",...} ...

Comments (HELP, TYPE, UNIT, EOF) are passed over: what kind a metric is does not change how its samples are stored.
Every function takes a line without its line break, as [at, end), and never reads outside.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memchr, memcmp
from libcpp.vector cimport vector

from native.linegrammar cimport (
    MAX_INT64,
    VALUE_MALFORMED,
    VALUE_NOT_FINITE,
    Tag,
    Text,
    ValueKind,
    is_digit,
    multiply_overflows,
    read_value,
    take_digits,
)
from native.pooledrows cimport (
    POOLED_FINE,
    POOLED_MALFORMED,
    POOLED_NOT_FINITE,
    POOLED_TOO_FAR_IN_FUTURE,
    POOLED_TOO_OLD,
    PooledProblem,
    PooledRows,
)


cdef extern from *:
    """
    #include <limits>
    static constexpr double TIDEGAUGE_NAN = std::numeric_limits<double>::quiet_NaN();
    static constexpr double TIDEGAUGE_INFINITY = std::numeric_limits<double>::infinity();
    """
    const double QUIET_NAN "TIDEGAUGE_NAN"
    const double INFINITY "TIDEGAUGE_INFINITY"


cdef enum:
    NS_PER_MS = 1_000_000
    NS_PER_SECOND = 1_000_000_000
    FRACTION_DIGITS = 9


cdef inline bint is_blank(char byte) noexcept nogil:
    return byte == b" " or byte == b"\t"


cdef inline const char *skip_blanks(const char *at, const char *end) noexcept nogil:
    while at != end and is_blank(at[0]):
        at += 1
    return at


cdef inline bint begins_name(char byte) noexcept nogil:
    return b"a" <= byte <= b"z" or b"A" <= byte <= b"Z" or byte == b"_" or byte == b":"


cdef inline const char *name_end(const char *at, const char *end) noexcept nogil:
    """Return where the name that begins at `at` ends; `at` itself when none begins there."""
    if at == end or not begins_name(at[0]):
        return at
    while at != end and (begins_name(at[0]) or is_digit(at[0])):
        at += 1
    return at


cdef inline const char *quote_end(const char *at, const char *end) noexcept nogil:
    """Return the closing quote of the string whose first byte is at `at`, or NULL."""
    while at != end:
        if at[0] == b'"':
            return at
        at += 2 if at[0] == b"\\" and end - at > 1 else 1
    return NULL


cdef inline const char *series_end(const char *at, const char *end) noexcept nogil:
    """Return where name and labels end as raw text: behind the brace that closes them, or the first blank."""
    while at != end and at[0] != b"{" and not is_blank(at[0]):
        at += 1
    if at == end or is_blank(at[0]):
        if skip_blanks(at, end) == end or skip_blanks(at, end)[0] != b"{":
            return at
    while at != end and at[0] != b"}":
        if at[0] == b'"':
            at = quote_end(at + 1, end)
            if at == NULL:
                return end
        at += 1
    return at + 1 if at != end else end


cdef inline Text unquote(const char *at, const char *end, char **spare) noexcept nogil:
    """Return a quoted text without its escapes, in place or as a copy at `spare`, which is moved on."""
    cdef Text text
    cdef char *out = spare[0]
    text.data = at
    text.length = end - at
    if text.length == 0 or memchr(at, 92, text.length) == NULL:
        return text
    while at != end:
        out[0] = at[0]
        if at[0] == b"\\" and end - at > 1 and (at[1] == b"\\" or at[1] == b'"' or at[1] == b"n"):
            at += 1
            out[0] = 10 if at[0] == b"n" else at[0]
        out += 1
        at += 1
    text.data = spare[0]
    text.length = out - spare[0]
    spare[0] = out
    return text


cdef inline bint same_word(const char *at, const char *end, const char *lower, size_t length) noexcept nogil:
    cdef size_t index
    if <size_t>(end - at) != length:
        return False
    for index in range(length):
        if (at[index] | 0x20) != lower[index]:
            return False
    return True


cdef inline PooledProblem read_number(const char *at, const char *end, double *value) noexcept nogil:
    """Read a whole token as Go's ParseFloat reads decimal numbers, infinities and NaN."""
    cdef const char *rest = at
    cdef ValueKind kind
    cdef bint signed = at != end and (at[0] == b"-" or at[0] == b"+")
    if same_word(at, end, "nan", 3):
        value[0] = QUIET_NAN
        return POOLED_FINE
    if same_word(at + signed, end, "inf", 3) or same_word(at + signed, end, "infinity", 8):
        value[0] = -INFINITY if at[0] == b"-" else INFINITY
        return POOLED_FINE
    if at != end and at[0] == b"+":
        at += 1
        if at != end and at[0] == b"-":
            return POOLED_MALFORMED
    rest = at
    while rest != end:
        if not (is_digit(rest[0]) or rest[0] == b"." or rest[0] == b"-" or rest[0] == b"+" or rest[0] | 0x20 == b"e"):
            return POOLED_MALFORMED
        rest += 1
    if read_value(at, end, &kind, value) != end or kind == VALUE_MALFORMED:
        return POOLED_MALFORMED
    return POOLED_NOT_FINITE if kind == VALUE_NOT_FINITE else POOLED_FINE


cdef class PromTextDecoder(PooledRows):
    """Decodes text exposition into rows of a table of the catalogue, defining tag sets that are new."""

    cdef bint open_metrics
    cdef bint exemplar  # whether the line that is being read has one
    cdef vector[Tag] extra  # labels given with the request
    cdef vector[char] extra_key  # the same as the head of every raw key
    cdef vector[char] raw_key
    cdef vector[char] spare

    def decode(
        self, body, *, int64_t table_id, int64_t default_time_ns, int64_t min_time_ns, int64_t max_time_ns,
        bint open_metrics=False, labels=()
    ):
        """Return the rows, counts and refusals (by line, from 1) of the lines in ``body``.

        ``labels``: (name, value) pairs of bytes that every sample gets in place of what it says itself.  Timestamps are
        milliseconds, or seconds with a fraction when ``open_metrics``; lines without one get ``default_time_ns``.
        Samples before ``min_time_ns`` or after ``max_time_ns`` are refused.  Raises ValueError for an unknown table or
        a body of 2 GiB and more, and MemoryError; never for what a line says.
        """
        cdef Py_buffer view
        cdef Tag tag
        cdef bytes name, value
        pairs = [(bytes(name), bytes(value)) for name, value in labels]
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            if view.len > 0x7FFFFFFF:
                raise ValueError(f"cannot decode lines: got a body of {view.len} bytes, want less than 2 GiB")
            with nogil:
                self.catalogue.writer.lock()
            try:
                self.begin(table_id, min_time_ns, max_time_ns)
                self.open_metrics = open_metrics
                self.extra.clear()
                self.extra_key.clear()
                for name, value in pairs:
                    tag.name.data = tag.at = name
                    tag.name.length = len(name)
                    tag.value.data = tag.end = value
                    tag.value.length = len(value)
                    self.extra.push_back(tag)
                # No line begins with NUL, so keys with and without a head never meet.
                for letter in repr(pairs).encode() if pairs else b"":
                    self.extra_key.push_back(<char><int>letter)
                if pairs:
                    self.extra_key.insert(self.extra_key.begin(), 0)
                    self.extra_key.push_back(0)
                with nogil:
                    self.read_lines(<const char *>view.buf, <const char *>view.buf + view.len, default_time_ns)
                return self.result()
            finally:
                self.release_large_buffers()
                self.extra.clear()
                if self.spare.capacity() > 1 << 20:
                    self.spare.clear()
                    self.spare.shrink_to_fit()
                self.catalogue.writer.unlock()
        finally:
            PyBuffer_Release(&view)

    cdef int read_lines(self, const char *at, const char *end, int64_t default_time_ns) except -1 nogil:
        cdef const char *line_end
        cdef const char *after
        cdef PooledProblem problem
        while at != end:
            self.position += 1
            line_end = <const char *>memchr(at, 10, end - at)
            if line_end == NULL:
                line_end = after = end
            else:
                after = line_end + 1
            if line_end != at and (line_end - 1)[0] == 13:
                line_end -= 1
            at = skip_blanks(at, line_end)
            if at != line_end and at[0] != b"#":
                problem = self.read_line(at, line_end, default_time_ns)
                if problem != POOLED_FINE:
                    self.refuse(problem, 1, at, line_end - at)
            at = after
        return 0

    cdef PooledProblem read_line(self, const char *line, const char *end, int64_t time_ns) except? POOLED_MALFORMED nogil:
        """Read one line: its value and time first, so that a line that is refused defines nothing."""
        cdef const char *key_end = series_end(line, end)
        cdef const char *at = skip_blanks(key_end, end)
        cdef const char *mark = at
        cdef const char *key = line
        cdef size_t key_length = key_end - line
        cdef double value = 0.0
        cdef int64_t tagset_id
        cdef PooledProblem problem
        cdef size_t first = self.times.size()
        while mark != end and not is_blank(mark[0]):
            mark += 1
        if mark == at:
            return POOLED_MALFORMED
        problem = read_number(at, mark, &value)
        if problem != POOLED_FINE:
            return problem
        problem = self.read_time(skip_blanks(mark, end), end, &time_ns)
        if problem != POOLED_FINE:
            return problem
        if not self.extra.empty():
            self.raw_key.assign(self.extra_key.begin(), self.extra_key.end())
            self.raw_key.insert(self.raw_key.end(), line, key_end)
            key = self.raw_key.data()
            key_length = self.raw_key.size()
        tagset_id = self.known_tagset(key, key_length)
        if tagset_id < 0:
            problem = self.read_labels(line, key_end)
            if problem == POOLED_FINE:
                tagset_id = self.define_tagset(key, key_length, &problem)
            if tagset_id < 0:
                return problem
        self.dropped += self.exemplar
        self.add(time_ns, value)
        self.close_series(first, <int32_t>tagset_id)
        return POOLED_FINE

    cdef PooledProblem read_time(self, const char *at, const char *end, int64_t *time_ns) except? POOLED_MALFORMED nogil:
        """Read the timestamp that may follow the value, and pass over an exemplar; `time_ns` stays when there is none."""
        cdef const char *digits
        cdef uint64_t whole = 0, fraction = 0
        cdef int64_t place = NS_PER_SECOND
        cdef bint negative, fits
        self.exemplar = False
        if at != end and at[0] != b"#":
            negative = at[0] == b"-"
            at += negative
            digits = at
            while at != end and at[0] == b"0":
                at += 1
            fits = True
            while at != end and is_digit(at[0]):
                fits &= whole <= <uint64_t>(MAX_INT64 // 10 - 9)
                if fits:
                    whole = whole * 10 + <uint64_t>(at[0] - 48)
                at += 1
            if at == digits:
                return POOLED_MALFORMED
            if self.open_metrics and at != end and at[0] == b".":
                at += 1
                while at != end and is_digit(at[0]):
                    if place > 1:
                        place //= 10
                        fraction += <uint64_t>(at[0] - 48) * <uint64_t>place
                    at += 1
            if at != end and not is_blank(at[0]):
                return POOLED_MALFORMED
            time_ns[0] = <int64_t>whole
            fits = fits and not multiply_overflows(
                time_ns[0], NS_PER_SECOND if self.open_metrics else NS_PER_MS, time_ns
            )
            fits = fits and time_ns[0] <= MAX_INT64 - NS_PER_SECOND
            # What does not fit 64 bits is beyond every limit; the rest of the line still has to be readable.
            time_ns[0] = time_ns[0] + <int64_t>fraction if fits else MAX_INT64
            if negative:
                time_ns[0] = -time_ns[0]
            at = skip_blanks(at, end)
        if at != end:
            if at[0] != b"#":
                return POOLED_MALFORMED
            self.exemplar = True
        if time_ns[0] < self.min_time_ns:
            return POOLED_TOO_OLD
        if time_ns[0] > self.max_time_ns:
            return POOLED_TOO_FAR_IN_FUTURE
        return POOLED_FINE

    cdef PooledProblem read_labels(self, const char *at, const char *end) except? POOLED_MALFORMED nogil:
        """Read name and labels into `tags`, together with the labels of the request."""
        cdef const char *mark = name_end(at, end)
        cdef char *spare
        cdef Tag tag
        cdef Text text
        cdef bint named = mark != at, quoted
        cdef size_t index
        self.spare.resize(end - at)
        spare = self.spare.data()
        self.tags.clear()
        for index in range(self.extra.size()):
            self.tags.push_back(self.extra[index])
        if named:
            name_tag(&tag, at, mark)
            self.add_tag(tag)
        at = skip_blanks(mark, end)
        if at == end:
            return POOLED_FINE if named else POOLED_MALFORMED
        if at[0] != b"{":
            return POOLED_MALFORMED
        at = skip_blanks(at + 1, end)
        while at != end and at[0] != b"}":
            quoted = at[0] == b'"'
            tag.at = at
            if quoted:
                mark = quote_end(at + 1, end)
                if mark == NULL:
                    return POOLED_MALFORMED
                text = unquote(at + 1, mark, &spare)
                mark += 1
            else:
                mark = name_end(at, end)
                text.data = at
                text.length = mark - at
                if mark == at:
                    return POOLED_MALFORMED
            at = skip_blanks(mark, end)
            if at != end and at[0] == b"=":
                at = skip_blanks(at + 1, end)
                if at == end or at[0] != b'"':
                    return POOLED_MALFORMED
                mark = quote_end(at + 1, end)
                if mark == NULL:
                    return POOLED_MALFORMED
                tag.name = text
                tag.value = unquote(at + 1, mark, &spare)
                at = skip_blanks(mark + 1, end)
            elif quoted and not named:
                named = True
                name_tag(&tag, text.data, text.data + text.length)
            else:
                return POOLED_MALFORMED
            tag.end = at
            self.add_tag(tag)
            if at != end and at[0] == b",":
                at = skip_blanks(at + 1, end)
            elif at == end or at[0] != b"}":
                return POOLED_MALFORMED
        if at == end or at + 1 != end or not named:
            return POOLED_MALFORMED
        return POOLED_FINE

    cdef int add_tag(self, Tag tag) except -1 nogil:
        """Add a tag of the line unless the request gives it."""
        cdef size_t index
        for index in range(self.extra.size()):
            if self.extra[index].name.length == tag.name.length and memcmp(
                self.extra[index].name.data, tag.name.data, tag.name.length
            ) == 0:
                return 0
        self.tags.push_back(tag)
        return 0


cdef inline void name_tag(Tag *tag, const char *at, const char *end) noexcept nogil:
    """Make the metric's name a tag."""
    tag.name.data = "__name__"
    tag.name.length = 8
    tag.value.data = tag.at = at
    tag.value.length = end - at
    tag.end = end
