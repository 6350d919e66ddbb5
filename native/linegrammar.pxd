"""The grammar of line protocol, one section of a line at a time, from left to right and without the GIL.

Source: "Line protocol", InfluxDB documentation (v2 and v3), and the behaviour of InfluxDB 1 and 2 where it is silent.
A delimiter is escaped when a backslash stands right before it.  Every function takes a line without its line break, as
[at, end), and never reads outside; what it refuses is described in a Fault.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy
from libcpp.algorithm cimport sort
from libcpp.vector cimport vector

from native.tagset_key cimport MAX_NAME_BYTES, MAX_TAGSET_BYTES, compare_bytes, is_utf8


cdef extern from "scanning.h" namespace "tidegauge" nogil:
    const char *find_either(const char *at, const char *end, char a, char b) noexcept
    const char *find_unescaped(const char *at, const char *end, char wanted, char stop) noexcept
    bint same_head(const char *text, const char *head, uint32_t mask) noexcept
    bint same_bytes(const char *a, const char *b, size_t length) noexcept


cdef extern from "numbers.h" namespace "tidegauge" nogil:
    cdef enum ValueKind:
        VALUE_NUMBER
        VALUE_ROUNDED
        VALUE_NOT_FINITE
        VALUE_OUT_OF_RANGE
        VALUE_MALFORMED
    bint is_digit(char byte) noexcept
    const char *take_digits(const char *at, const char *end, uint64_t *value) noexcept
    const char *read_value(const char *at, const char *end, ValueKind *kind, double *value) noexcept
    const char *read_plain_value(const char *at, const char *end, double *value, uint32_t *rounded) noexcept


cdef extern from *:
    """
    static inline bool tidegauge_multiply_overflows(int64_t a, int64_t b, int64_t *product) {
        return __builtin_mul_overflow(a, b, product);
    }
    """
    bint multiply_overflows "tidegauge_multiply_overflows"(int64_t a, int64_t b, int64_t *product) noexcept nogil


cdef enum:
    MAX_INT64 = 0x7FFFFFFFFFFFFFFF


cdef enum Problem:  # the order is that of PROBLEMS in lineprotocol.pyx
    FINE
    NO_MEASUREMENT
    NO_FIELDS
    NAME_TOO_LONG
    TAGSET_TOO_LARGE
    NO_TAG_KEY
    NO_TAG_VALUE
    EQUALS_IN_TAG_VALUE
    NO_FIELD_KEY
    NO_FIELD_VALUE
    BAD_VALUE
    OPEN_STRING
    BAD_TIMESTAMP
    NOT_UTF8
    DUPLICATE_TAG
    TOO_OLD
    TOO_FAR_IN_FUTURE
    TABLE_LIMIT
    TAG_SET_LIMIT
    TABLE_TAG_SET_LIMIT
    TAG_SET_RATE_LIMIT
    FIELD_LIMIT
    STRING_FIELD
    NOT_FINITE
    OUT_OF_RANGE
    PROBLEMS_END


cdef struct Fault:
    Problem problem
    const char *at  # what was found, within the line
    const char *end


cdef struct TimeRules:
    int64_t precision_ns  # of one unit as written; 0 = told from the size of the number
    int64_t default_time_ns
    int64_t min_time_ns  # rows before this and after `max_time_ns` are refused
    int64_t max_time_ns


cdef struct Text:  # a name or value without its escapes
    const char *data
    size_t length


cdef struct Tag:
    Text name
    Text value
    const char *at  # where it stands in the line
    const char *end


cdef inline Problem refuse(Fault *fault, Problem problem, const char *at, const char *end) noexcept nogil:
    fault.problem = problem
    fault.at = at
    fault.end = end
    return problem


cdef inline Text unescape(const char *at, const char *end, char **spare) noexcept nogil:
    """Return the text without its escapes: the line's own bytes, or a copy that begins at `spare` and moves it on.

    A copy is never longer than what it is made of, so `spare` with room for the whole line is always enough.
    """
    cdef Text text
    cdef char *out = spare[0]
    text.data = at
    text.length = end - at
    if text.length == 0 or memchr(at, 92, text.length) == NULL:
        return text
    while at != end:
        # A backslash that escapes nothing is a backslash.
        if at[0] == b"\\" and end - at > 1 and (at[1] == b"," or at[1] == b"=" or at[1] == b" "):
            at += 1
        out[0] = at[0]
        out += 1
        at += 1
    text.data = spare[0]
    text.length = out - spare[0]
    spare[0] = out
    return text


cdef inline Problem check_text(
    const Text *text, size_t longest, const char *at, const char *end, Fault *fault
) noexcept nogil:
    if text.length > longest:
        return refuse(fault, NAME_TOO_LONG, at, end)
    if not is_utf8(text.data, text.length):
        return refuse(fault, NOT_UTF8, at, end)
    return FINE


cdef inline const char *find_delimiter(const char *at, const char *end, char a, char b) noexcept nogil:
    """Return the first unescaped `a` or `b` in the text, or its end."""
    cdef const char *start = at
    while True:
        at = find_either(at, end, a, b)
        if at == end or at == start or (at - 1)[0] != b"\\":
            return at
        at += 1


cdef inline bint tag_before(const Tag &a, const Tag &b) noexcept nogil:
    cdef int order = compare_bytes(a.name.data, a.name.length, b.name.data, b.name.length)
    # Where it stands decides between equal keys, so that the duplicate named is always the second.
    return order < 0 or (order == 0 and a.at < b.at)


cdef inline Problem read_tag(const char *at, const char *end, Tag *tag, char **spare, Fault *fault) noexcept nogil:
    """Read the tag that begins at `at`; `tag.end` is then the comma after it, or the end of the key."""
    cdef const char *mark = find_delimiter(at, end, b"=", b",")
    tag.at = at
    if mark == at:
        return refuse(fault, NO_TAG_KEY, at, end)
    if mark == end or mark[0] == b",":
        return refuse(fault, NO_TAG_VALUE, at, mark)
    tag.name = unescape(at, mark, spare)
    if check_text(&tag.name, MAX_NAME_BYTES, at, mark, fault) != FINE:
        return fault.problem
    at = mark + 1
    mark = find_delimiter(at, end, b",", b"=")
    if mark == at and (mark == end or mark[0] == b","):
        return refuse(fault, NO_TAG_VALUE, tag.at, mark)
    if mark != end and mark[0] == b"=":
        return refuse(fault, EQUALS_IN_TAG_VALUE, at, end)
    tag.value = unescape(at, mark, spare)
    if check_text(&tag.value, MAX_TAGSET_BYTES, at, mark, fault) != FINE:
        return fault.problem
    tag.end = mark
    return FINE


cdef inline Problem read_key(
    const char *at, const char *end, Text *table, vector[Tag] &tags, char **spare, Fault *fault
) except? PROBLEMS_END nogil:
    """Read measurement and tags, which end before the first unescaped space; `tags` is then sorted by key."""
    cdef const char *start = at
    cdef const char *mark
    cdef Tag tag
    cdef size_t index
    cdef size_t key_bytes = 4
    tags.clear()
    mark = find_delimiter(at, end, b",", b",")
    if mark == at:
        return refuse(fault, NO_MEASUREMENT, at, end)
    table[0] = unescape(at, mark, spare)
    if check_text(table, MAX_NAME_BYTES, at, mark, fault) != FINE:
        return fault.problem
    while mark != end:
        if read_tag(mark + 1, end, &tag, spare, fault) != FINE:
            return fault.problem
        tags.push_back(tag)
        key_bytes += 6 + tag.name.length + tag.value.length
        mark = tag.end
    if key_bytes > <size_t>MAX_TAGSET_BYTES:
        return refuse(fault, TAGSET_TOO_LARGE, start, end)
    sort(tags.begin(), tags.end(), &tag_before)
    for index in range(1, tags.size()):
        if compare_bytes(
            tags[index - 1].name.data, tags[index - 1].name.length, tags[index].name.data, tags[index].name.length
        ) == 0:
            return refuse(fault, DUPLICATE_TAG, tags[index].at, tags[index].end)
    return FINE


cdef inline int canonical_key(uint32_t table_id, const vector[Tag] &tags, vector[char] &key) except -1 nogil:
    """Build the canonical key (native.tagset_key) of sorted tags."""
    cdef size_t length = 4, index
    cdef uint32_t size
    cdef char *out
    for index in range(tags.size()):
        length += 6 + tags[index].name.length + tags[index].value.length
    key.resize(length)
    out = key.data()
    memcpy(out, &table_id, 4)
    out += 4
    for index in range(tags.size()):
        size = <uint32_t>tags[index].name.length
        memcpy(out, &size, 2)  # little-endian: the lower half comes first
        memcpy(out + 2, tags[index].name.data, size)
        out += 2 + size
        size = <uint32_t>tags[index].value.length
        memcpy(out, &size, 4)
        memcpy(out + 4, tags[index].value.data, size)
        out += 4 + size
    return 0


cdef inline const char *skip_spaces(const char *at, const char *end) noexcept nogil:
    while at != end and at[0] == b" ":
        at += 1
    return at


cdef inline const char *string_end(const char *at, const char *end) noexcept nogil:
    """Return the closing quote of the string whose first byte is at `at`, or NULL."""
    while True:
        at = find_either(at, end, b'"', b"\\")
        if at == end:
            return NULL
        if at[0] == b'"':
            return at
        at += 2 if end - at > 1 and (at[1] == b'"' or at[1] == b"\\") else 1


cdef inline bint value_ends(const char *at, const char *end) noexcept nogil:
    return at == end or at[0] == b"," or at[0] == b" "


cdef inline Problem read_field_value(
    const char *at, const char *end, double *value, bint *rounded, const char **after, Fault *fault
) noexcept nogil:
    """Read a field's value.  STRING_FIELD, NOT_FINITE and OUT_OF_RANGE set `after` too: the line can be read on."""
    cdef ValueKind kind
    if value_ends(at, end):
        return refuse(fault, NO_FIELD_VALUE, at, at)
    if at[0] == b'"':
        after[0] = string_end(at + 1, end)
        if after[0] == NULL:
            return refuse(fault, OPEN_STRING, at, end)
        after[0] += 1
        if not value_ends(after[0], end):
            return refuse(fault, BAD_VALUE, at, find_either(after[0], end, b",", b" "))
        return refuse(fault, STRING_FIELD, at, after[0])
    after[0] = read_value(at, end, &kind, value)
    rounded[0] = kind == VALUE_ROUNDED
    if kind == VALUE_NUMBER or kind == VALUE_ROUNDED:
        return FINE
    if kind == VALUE_NOT_FINITE:
        return refuse(fault, NOT_FINITE, at, after[0])
    if kind == VALUE_OUT_OF_RANGE:
        return refuse(fault, OUT_OF_RANGE, at, after[0])
    return refuse(fault, BAD_VALUE, at, after[0])


cdef inline bint scale_time(int64_t *time, const TimeRules *rules) noexcept nogil:
    """Turn a timestamp as written into nanoseconds; False when it does not fit."""
    cdef int64_t unit = rules.precision_ns
    cdef int64_t size
    if unit == 1:
        return True
    if unit == 0:
        size = time[0] if time[0] >= 0 else -time[0]
        if size < <int64_t>5_000_000_000:
            unit = 1_000_000_000
        elif size < <int64_t>5_000_000_000_000:
            unit = 1_000_000
        elif size < <int64_t>5_000_000_000_000_000:
            unit = 1_000
        else:
            unit = 1
    return not multiply_overflows(time[0], unit, time)


cdef inline Problem read_timestamp(
    const char *at, const char *end, const TimeRules *rules, int64_t *time, Fault *fault
) noexcept nogil:
    """Read the timestamp that may follow the fields, in nanoseconds, and hold it against the allowed range."""
    cdef const char *start
    cdef const char *digits
    cdef const char *significant
    cdef uint64_t size = 0
    cdef bint negative, fits
    at = skip_spaces(at, end)
    start = at
    if at == end:
        time[0] = rules.default_time_ns
    else:
        negative = at[0] == b"-"
        at += negative
        digits = at
        while at != end and at[0] == b"0":
            at += 1
        significant = at
        at = take_digits(at, end, &size)
        # Up to 19 digits fit an unsigned number, which then tells whether they fit a signed one.
        fits = at - significant <= 19 and size <= <uint64_t>MAX_INT64
        if at == digits or skip_spaces(at, end) != end:
            return refuse(fault, BAD_TIMESTAMP, start, end)
        if fits:
            time[0] = -<int64_t>size if negative else <int64_t>size
            fits = scale_time(time, rules)
        if not fits:
            return refuse(fault, TOO_OLD if negative else TOO_FAR_IN_FUTURE, start, at)
    if time[0] < rules.min_time_ns:
        return refuse(fault, TOO_OLD, start, at)
    if time[0] > rules.max_time_ns:
        return refuse(fault, TOO_FAR_IN_FUTURE, start, at)
    return FINE
