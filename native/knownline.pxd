"""Lines that say nothing new, read by comparing bytes with what earlier lines said.

The key is compared with the one that followed the last line's key before, each field name with the one that followed
the last field before; only where that fails are keys and names looked up.  The first byte that is not as expected
ends the attempt, and the line is read again from its start by anyline.pxd.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t

from native.labels cimport LabelEntry
from native.linecolumns cimport (
    NO_COLUMN,
    Column,
    TableRows,
    column_reach,
    table_rows_find_column,
    table_rows_grow,
    table_rows_undo,
)
from native.linegrammar cimport find_unescaped, read_plain_value, same_bytes, same_head, scale_time, take_digits
from native.lineprotocol cimport NO_SERIES, LineDecoder
from native.linestate cimport keep_row
from native.rawkeys cimport is_raw_key, raw_key_length, raw_keys_find


cdef enum:
    FIELD_SLACK = 40  # bytes after a field's name that reading its value in a straight line may look at
    TIME_SLACK = 28  # the same for a space, a timestamp and its line break


cdef inline uint32_t find_series(LineDecoder decoder, const char *line, const char *end) noexcept nogil:
    """Return the series whose key stands at the start of the line, or NO_SERIES."""
    cdef const char *key_end = find_unescaped(line, end, b" ", b"\n")
    cdef int64_t series
    if key_end == end or key_end[0] != b" ":
        return NO_SERIES
    series = raw_keys_find(&decoder.keys, line, key_end - line)
    return <uint32_t>series if series >= 0 else <uint32_t>NO_SERIES


cdef inline bint at_column(const Column *column, const char *at, const char *end) noexcept nogil:
    """Return whether the column's name stands at `at`, with enough after it to read a value in a straight line."""
    if end - at < <Py_ssize_t>column.name_length + FIELD_SLACK:
        return False
    if not same_head(at, column.head, column.head_mask):
        return False
    return column.name_length <= 16 or same_bytes(at + 16, column.name + 16, column.name_length - 16)


cdef inline uint32_t find_column(const TableRows *table, const char *at, const char *end) noexcept nogil:
    """Return the column whose name stands at `at`, as `at_column` has it, or NO_COLUMN."""
    cdef const char *mark = find_unescaped(at, end, b"=", b"\n")
    cdef int64_t index
    if end - mark < 1 + FIELD_SLACK or mark[0] != b"=":
        return NO_COLUMN
    index = table_rows_find_column(table, at, mark + 1 - at)
    return <uint32_t>index if index >= 0 else <uint32_t>NO_COLUMN


cdef inline const char *read_known_time(
    LineDecoder decoder, const char *at, const char *end, int64_t *time
) noexcept nogil:
    """Read what may follow the fields of an ordinary line: one space, a timestamp, a line break."""
    cdef uint64_t size = 0
    cdef const char *digits
    if at[0] == b"\n":
        time[0] = decoder.rules.default_time_ns
        at += 1
    else:
        if at[0] != b" " or end - at < TIME_SLACK:
            return NULL
        digits = at + 1
        at = take_digits(digits, digits + 24, &size)
        if at == digits or at - digits > 19 or size > <uint64_t>INT64_MAX:
            return NULL
        time[0] = <int64_t>size
        if not scale_time(time, &decoder.rules):
            return NULL
        at += at[0] == b"\r"
        if at[0] != b"\n":
            return NULL
        at += 1
    if time[0] < decoder.rules.min_time_ns or time[0] > decoder.rules.max_time_ns:
        return NULL
    return at


cdef inline const char *read_known_line(LineDecoder decoder, const char *at, const char *end) noexcept nogil:
    """Read a line that says nothing new; the start of the next line, or NULL with nothing changed.

    Whatever is read here is accepted by `read_any_line` with the same result.
    """
    cdef uint32_t series = NO_SERIES, index, row, touched = 0, rounded = 0
    cdef uint32_t *expected
    cdef const LabelEntry *key
    cdef TableRows *table
    cdef Column *column
    cdef double value
    cdef size_t length = 0
    cdef int64_t time

    if decoder.last_series != NO_SERIES:
        series = decoder.series[decoder.last_series].next
    if series != NO_SERIES:
        key = &decoder.keys.map.entries[series]
        length = raw_key_length(key)
        if <size_t>(end - at) <= length or at[length] != b" " or not is_raw_key(&decoder.keys, key, at):
            series = NO_SERIES
    if series == NO_SERIES:
        series = find_series(decoder, at, end)
        if series == NO_SERIES:
            return NULL
        length = raw_key_length(&decoder.keys.map.entries[series])
    at += length + 1
    table = decoder.tables[decoder.series[series].table_id]
    row = table.rows
    if row == table.row_capacity and not table_rows_grow(table):
        return NULL

    expected = &table.first_column
    while True:
        index = expected[0]
        if index == NO_COLUMN or not at_column(&table.columns[index], at, end):
            index = find_column(table, at, end)
            if index == NO_COLUMN:
                break
            expected[0] = index
        column = &table.columns[index]
        at = read_plain_value(at + column.name_length, end, &value, &rounded)
        if at == NULL:
            break
        if column.filled != row or column.capacity <= row:
            # A field set twice in a line has filled its cell already.
            if column.filled > row or not column_reach(table, column):
                break
        column.values[row] = value
        column.filled = row + 1
        table.touched[touched] = index
        touched += 1
        if at[0] == b",":
            at += 1
            expected = &column.next
            continue
        at = read_known_time(decoder, at, end, &time)
        if at == NULL:
            break
        table.tagset_ids[row] = decoder.series[series].tagset_id
        table.times[row] = time
        table.line_numbers[row] = <int32_t>decoder.line_number
        keep_row(decoder, table, decoder.series[series].table_id, series)
        decoder.lines += 1
        decoder.samples += touched
        decoder.rounded += rounded
        return at
    table_rows_undo(table, touched)
    return NULL
