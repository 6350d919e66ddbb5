"""Any line, read by the whole grammar: its row is kept, or what is wrong with it is counted and described.

A line is judged completely before anything of it is defined in the catalogue, so that refused lines leave no trace.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t

from native.catalogue cimport TABLE_EXHAUSTED, TAGSET_FREE, TAGSETS_EXHAUSTED, TagsetVerdict
from native.labels cimport label_map_find, label_map_free, label_map_intern
from native.linecolumns cimport (
    Column,
    TableRows,
    column_reach,
    table_rows_find_column,
    table_rows_grow,
    table_rows_undo,
)
from native.linegrammar cimport (
    FIELD_LIMIT,
    FINE,
    NO_FIELD_KEY,
    NO_FIELD_VALUE,
    NO_FIELDS,
    NOT_FINITE,
    OUT_OF_RANGE,
    PROBLEMS_END,
    STRING_FIELD,
    TABLE_LIMIT,
    TABLE_TAG_SET_LIMIT,
    TAG_SET_LIMIT,
    TAG_SET_RATE_LIMIT,
    Fault,
    Problem,
    Text,
    canonical_key,
    check_text,
    find_delimiter,
    read_field_value,
    read_key,
    read_timestamp,
    refuse,
    skip_spaces,
    unescape,
)
from native.lineprotocol cimport Field, LineDecoder, Refusal
from native.linestate cimport keep_row, known_table, no_memory, number, reach_column, reach_table, remember_key
from native.rawkeys cimport raw_keys_find
from native.tagset_key cimport MAX_NAME_BYTES


cdef inline int refuse_line(LineDecoder decoder, const char *line, const char *end, const Fault *fault) except -1 nogil:
    cdef Refusal refusal
    decoder.refused[<int>fault.problem] += 1
    if decoder.refusals.size() < decoder.max_refusals:
        refusal.line_number = decoder.line_number
        refusal.line = line
        refusal.line_length = end - line
        refusal.start = fault.at - line
        refusal.end = fault.end - line
        refusal.problem = fault.problem
        decoder.refusals.push_back(refusal)
    return 0


cdef inline int refuse_fields(LineDecoder decoder, const char *line, const char *end) except -1 nogil:
    """Count every refused field, and describe the first of each kind."""
    cdef size_t index
    cdef Fault *fault
    cdef uint32_t described = 0
    for index in range(decoder.field_faults.size()):
        fault = &decoder.field_faults[index]
        if (described >> <int>fault.problem) & 1:
            decoder.refused[<int>fault.problem] += 1
        else:
            described |= <uint32_t>1 << <int>fault.problem
            refuse_line(decoder, line, end, fault)
    decoder.field_faults.clear()
    return 0


cdef inline Problem read_fields(
    LineDecoder decoder,
    const char *at,
    const char *end,
    const TableRows *table,
    char **spare,
    Fault *fault,
    const char **after,
) except? PROBLEMS_END nogil:
    """Read the fields into `fields`, those that alone are refused into `field_faults`; `after` is their end."""
    cdef const char *mark
    cdef Field field
    cdef Problem problem
    while True:
        field.at = at
        mark = find_delimiter(at, end, b"=", b"=")
        field.raw.data = at
        field.raw.length = mark + 1 - at
        field.column = -1
        if mark != end and table != NULL:
            field.column = table_rows_find_column(table, at, field.raw.length)
        if field.column < 0:
            mark = find_delimiter(at, mark, b",", b" ")
            if mark == at:
                return refuse(fault, NO_FIELD_KEY, at, end)
            if mark == end or mark[0] != b"=":
                return refuse(fault, NO_FIELD_VALUE, at, mark)
            field.name = unescape(at, mark, spare)
            if check_text(&field.name, MAX_NAME_BYTES, at, mark, fault) != FINE:
                return fault.problem
        field.rounded = False
        problem = read_field_value(mark + 1, end, &field.value, &field.rounded, &at, fault)
        if problem == FINE:
            field.end = at
            decoder.fields.push_back(field)
        elif problem == STRING_FIELD or problem == NOT_FINITE or problem == OUT_OF_RANGE:
            fault.at = field.at
            decoder.field_faults.push_back(fault[0])
        else:
            return problem
        if at == end or at[0] == b" ":
            after[0] = at
            return FINE
        at += 1


cdef inline bint is_new_field(LineDecoder decoder, int64_t table_id, const Field *field) noexcept nogil:
    """Return whether neither the table nor an earlier field of this line has the name."""
    if field.column >= 0:
        return False
    if table_id >= 0:
        if decoder.catalogue.find_field_id(<uint32_t>table_id, field.name.data, field.name.length) >= 0:
            return False
    return label_map_find(&decoder.fresh_fields, field.name.data, field.name.length) < 0


cdef inline int drop_fields_over_limit(LineDecoder decoder, int64_t table_id) except -1 nogil:
    """Move fields that would be new beyond the limit to `field_faults`."""
    cdef size_t index, kept = 0
    cdef Field *field
    cdef Fault fault
    cdef uint32_t known = decoder.catalogue.table_fields[table_id].count if table_id >= 0 else 0
    label_map_free(&decoder.fresh_fields)
    for index in range(decoder.fields.size()):
        field = &decoder.fields[index]
        if is_new_field(decoder, table_id, field):
            if known + decoder.fresh_fields.count >= decoder.max_fields:
                refuse(&fault, FIELD_LIMIT, field.at, field.end)
                decoder.field_faults.push_back(fault)
                continue
            number(label_map_intern(&decoder.fresh_fields, field.name.data, field.name.length))
        decoder.fields[kept] = field[0]
        kept += 1
    decoder.fields.resize(kept)
    return 0


cdef inline int write_row(
    LineDecoder decoder, uint32_t table_id, int32_t tagset_id, int64_t time, uint32_t series
) except -1 nogil:
    """Write the line's fields as one row; of a field set twice the last value counts."""
    cdef TableRows *table = decoder.tables[table_id]
    cdef uint32_t row = table.rows, touched = 0, rounded = 0
    cdef size_t index
    cdef Field *field
    cdef Column *column
    if row == table.row_capacity and not table_rows_grow(table):
        no_memory()
    for index in range(decoder.fields.size()):
        field = &decoder.fields[index]
        if field.column < 0:
            field.column = reach_column(decoder, table, table_id, field)
    for index in range(decoder.fields.size()):
        field = &decoder.fields[decoder.fields.size() - 1 - index]
        column = &table.columns[field.column]
        if column.filled > row:
            continue
        if not column_reach(table, column):
            table_rows_undo(table, touched)
            no_memory()
        column.values[row] = field.value
        column.filled = row + 1
        table.touched[touched] = <uint32_t>field.column
        touched += 1
        rounded += field.rounded
    table.tagset_ids[row] = tagset_id
    table.times[row] = time
    table.line_numbers[row] = <int32_t>decoder.line_number
    keep_row(decoder, table, table_id, series)
    decoder.samples += touched
    decoder.rounded += rounded
    return 0


cdef inline int read_any_line(LineDecoder decoder, const char *line, const char *end) except -1 nogil:
    """Read one line without its line break by the whole grammar: keep its row, or count why not."""
    cdef const char *at = skip_spaces(line, end)
    cdef const char *key_end
    cdef Text name
    cdef Fault fault
    cdef int64_t remembered, table_id, tagset_id = -1, time = 0
    cdef TagsetVerdict verdict
    cdef char *spare
    cdef TableRows *rows
    if at == end or at[0] == b"#":
        return 0
    decoder.lines += 1
    decoder.spare.resize(end - line)
    spare = decoder.spare.data()
    decoder.fields.clear()
    decoder.field_faults.clear()

    key_end = find_delimiter(at, end, b" ", b" ")
    if skip_spaces(key_end, end) == end:
        refuse(&fault, NO_FIELDS, end, end)
        return refuse_line(decoder, line, end, &fault)
    remembered = raw_keys_find(&decoder.keys, at, key_end - at)
    if remembered >= 0:
        table_id = decoder.series[remembered].table_id
        tagset_id = decoder.series[remembered].tagset_id
    else:
        if read_key(at, key_end, &name, decoder.tags, &spare, &fault) != FINE:
            return refuse_line(decoder, line, end, &fault)
        table_id = decoder.catalogue.find_table_id(name.data, name.length)
        canonical_key(<uint32_t>max(table_id, 0), decoder.tags, decoder.canonical)
        if table_id >= 0:
            tagset_id = decoder.catalogue.find_tagset_id(decoder.canonical.data(), decoder.canonical.size())
    rows = known_table(decoder, table_id)
    if read_fields(decoder, skip_spaces(key_end, end), end, rows, &spare, &fault, &at) != FINE:
        return refuse_line(decoder, line, end, &fault)
    if read_timestamp(at, end, &decoder.rules, &time, &fault) != FINE:
        return refuse_line(decoder, line, end, &fault)
    if decoder.fields.empty():
        return refuse_fields(decoder, line, end)

    at = skip_spaces(line, end)
    if table_id < 0 and decoder.catalogue.tables.count >= decoder.max_tables:
        refuse(&fault, TABLE_LIMIT, at, key_end)
        return refuse_line(decoder, line, end, &fault)
    if tagset_id < 0:
        verdict = decoder.catalogue.tagset_verdict(table_id)
        if verdict == TAGSETS_EXHAUSTED or decoder.catalogue.tagset_total() >= decoder.max_tagsets:
            refuse(&fault, TAG_SET_LIMIT, at, key_end)
            return refuse_line(decoder, line, end, &fault)
        if verdict != TAGSET_FREE:
            refuse(
                &fault, TABLE_TAG_SET_LIMIT if verdict == TABLE_EXHAUSTED else TAG_SET_RATE_LIMIT, at, key_end
            )
            return refuse_line(decoder, line, end, &fault)
    drop_fields_over_limit(decoder, table_id)
    refuse_fields(decoder, line, end)
    if decoder.fields.empty():
        return 0

    if table_id < 0:
        table_id = number(decoder.catalogue.define_table_id(name.data, name.length))
        canonical_key(<uint32_t>table_id, decoder.tags, decoder.canonical)
    if tagset_id < 0:
        tagset_id = number(
            decoder.catalogue.define_tagset_id(decoder.canonical.data(), decoder.canonical.size())
        )
    reach_table(decoder, <uint32_t>table_id)
    if remembered < 0:
        remembered = remember_key(decoder, skip_spaces(line, end), key_end, <uint32_t>table_id, <int32_t>tagset_id)
    return write_row(decoder, <uint32_t>table_id, <int32_t>tagset_id, time, <uint32_t>remembered)
