"""What the line decoder knows from earlier lines: series keys, tables and their columns.

A raw key, the bytes of "measurement,tags" as written, stands for a tag set of a table.  Keys are dropped all at once
when there are far more of them than tag sets; nothing but time is lost by that.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from native.linecolumns cimport TableRows, table_rows_add_column, table_rows_find_column, table_rows_new
from native.lineprotocol cimport NO_SERIES, Field, LineDecoder, Series
from native.rawkeys cimport raw_keys_free, raw_keys_intern


cdef enum:
    SPARE_KEYS = 65_536  # remembered beyond two for each tag set
    LONGEST_REMEMBERED_KEY = 4_096


cdef inline int no_memory() except -1 nogil:
    with gil:
        raise MemoryError("cannot decode lines: got no memory")


cdef inline int64_t number(int64_t given) except -1 nogil:
    """Return the number a definition gave; MemoryError when it gave none."""
    if given < 0:
        no_memory()
    return given


cdef inline TableRows *known_table(LineDecoder decoder, int64_t table_id) noexcept nogil:
    """Return the rows of the table, or NULL while this decoder has not met it."""
    if table_id < 0 or table_id >= decoder.table_capacity:
        return NULL
    return decoder.tables[table_id]


cdef inline int reach_table(LineDecoder decoder, uint32_t table_id) except -1 nogil:
    """Make sure that the table has rows to write to."""
    cdef uint32_t capacity
    cdef void *memory
    if table_id >= decoder.table_capacity:
        capacity = max(decoder.catalogue.tables.count, decoder.table_capacity * 2)
        memory = realloc(decoder.used, capacity * sizeof(uint32_t))
        if memory == NULL:
            no_memory()
        decoder.used = <uint32_t *>memory
        memory = realloc(decoder.tables, capacity * sizeof(void *))
        if memory == NULL:
            no_memory()
        decoder.tables = <TableRows **>memory
        memset(decoder.tables + decoder.table_capacity, 0, (capacity - decoder.table_capacity) * sizeof(void *))
        decoder.table_capacity = capacity
    if decoder.tables[table_id] == NULL:
        decoder.tables[table_id] = table_rows_new(decoder.keys.map.seed + 2 + table_id)
        if decoder.tables[table_id] == NULL:
            no_memory()
    return 0


cdef inline int64_t reach_column(
    LineDecoder decoder, TableRows *table, uint32_t table_id, const Field *field
) except -1 nogil:
    """Return the column of a field that had none when the line was read, defining the field when it is new."""
    cdef int64_t column = table_rows_find_column(table, field.raw.data, field.raw.length)
    cdef int64_t field_id
    if column >= 0:
        return column
    field_id = number(decoder.catalogue.define_field_id(table_id, field.name.data, field.name.length))
    return number(table_rows_add_column(table, field.raw.data, field.raw.length, <uint32_t>field_id))


cdef inline int64_t remember_key(
    LineDecoder decoder, const char *key, const char *key_end, uint32_t table_id, int32_t tagset_id
) except -1 nogil:
    """Return the series of a raw key; NO_SERIES for one too long to be worth remembering."""
    cdef uint32_t capacity
    cdef void *memory
    cdef int64_t series
    if key_end - key > LONGEST_REMEMBERED_KEY:
        return NO_SERIES
    if decoder.keys.map.count > decoder.catalogue.tagsets_in_use() * 5 // 4 + SPARE_KEYS:
        raw_keys_free(&decoder.keys)
        decoder.last_series = NO_SERIES
    if decoder.keys.map.count == decoder.series_capacity:
        capacity = 64 if decoder.series_capacity == 0 else decoder.series_capacity * 2
        memory = realloc(decoder.series, capacity * sizeof(Series))
        if memory == NULL:
            no_memory()
        decoder.series = <Series *>memory
        decoder.series_capacity = capacity
    series = number(raw_keys_intern(&decoder.keys, key, key_end - key))
    decoder.series[series].table_id = table_id
    decoder.series[series].tagset_id = tagset_id
    decoder.series[series].next = NO_SERIES
    return series


cdef inline void keep_row(LineDecoder decoder, TableRows *table, uint32_t table_id, uint32_t series) noexcept nogil:
    """Make the row that was just written count, and remember which key came after which."""
    if table.rows == 0:
        decoder.used[decoder.used_count] = table_id
        decoder.used_count += 1
    table.rows += 1
    if decoder.last_series != NO_SERIES:
        decoder.series[decoder.last_series].next = series
    decoder.last_series = series
