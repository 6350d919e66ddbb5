"""Where the line decoder puts samples: for each table growing vectors of tag sets, times and field values.

A column is known by the raw bytes of its field's name with the '=' that follows it.  Within one call its values are
contiguous from row 0; rows that did not set it are filled with ABSENT when the next row does.  Nothing moves while
lines only repeat what is known.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from native.absent cimport ABSENT_BITS
from native.labels cimport (
    LabelMap,
    label_map_find,
    label_map_free,
    label_map_init,
    label_map_intern,
)


cdef enum:
    HEAD_BYTES = 16  # of a field's name that lie in its column, where comparing costs one load
    FIRST_ROWS = 256
    NO_COLUMN = 0xFFFFFFFF


cdef struct Column:
    char head[16]  # first bytes of `name`
    uint32_t head_mask  # one bit for each byte of `head` that belongs to the name
    uint32_t name_length  # with the '='
    const char *name
    double *values
    uint32_t filled  # rows that have a value or ABSENT; one more than the table's rows while a line is being read
    uint32_t capacity
    uint32_t first_row  # where this call set it first, when that was not row 0
    uint32_t next  # the column whose field followed this one last time
    uint32_t field_id


cdef struct TableRows:
    LabelMap names  # raw field name with '=' -> index in `columns`
    Column *columns
    uint32_t *touched  # columns that the line being read has set, each once
    uint32_t column_capacity
    uint32_t first_column  # the column whose field came first last time
    int32_t *tagset_ids
    int64_t *times
    int32_t *line_numbers
    uint32_t rows
    uint32_t row_capacity
    size_t buffer_bytes  # of rows and values
    size_t counted_bytes  # of those, how many the decoder has counted


cdef inline TableRows *table_rows_new(uint64_t seed) noexcept nogil:
    """Return an empty table; NULL when memory is refused."""
    cdef TableRows *table = <TableRows *>calloc(1, sizeof(TableRows))
    if table != NULL:
        label_map_init(&table.names, seed)
        table.first_column = NO_COLUMN
    return table


cdef inline void table_rows_release_buffers(TableRows *table) noexcept nogil:
    """Give back what rows and values take; the columns stay known."""
    cdef uint32_t index
    for index in range(table.names.count):
        free(table.columns[index].values)
        table.columns[index].values = NULL
        table.columns[index].capacity = 0
        table.columns[index].filled = 0
    free(table.tagset_ids)
    free(table.times)
    free(table.line_numbers)
    table.tagset_ids = NULL
    table.times = NULL
    table.line_numbers = NULL
    table.rows = 0
    table.row_capacity = 0
    table.buffer_bytes = 0
    table.counted_bytes = 0


cdef inline void table_rows_free(TableRows *table) noexcept nogil:
    table_rows_release_buffers(table)
    free(table.columns)
    free(table.touched)
    label_map_free(&table.names)
    free(table)


cdef inline void table_rows_restart(TableRows *table) noexcept nogil:
    """Forget the rows of the last call."""
    cdef uint32_t index
    table.rows = 0
    for index in range(table.names.count):
        table.columns[index].filled = 0
        table.columns[index].first_row = 0


cdef inline bint table_rows_grow(TableRows *table) noexcept nogil:
    """Make room for more rows; False when memory is refused."""
    cdef uint32_t capacity = FIRST_ROWS if table.row_capacity == 0 else table.row_capacity * 2
    cdef void *memory = realloc(table.tagset_ids, capacity * sizeof(int32_t))
    if memory == NULL:
        return False
    table.tagset_ids = <int32_t *>memory
    memory = realloc(table.times, capacity * sizeof(int64_t))
    if memory == NULL:
        return False
    table.times = <int64_t *>memory
    memory = realloc(table.line_numbers, capacity * sizeof(int32_t))
    if memory == NULL:
        return False
    table.line_numbers = <int32_t *>memory
    table.buffer_bytes += (capacity - table.row_capacity) * <size_t>16
    table.row_capacity = capacity
    return True


cdef inline void fill_absent(double *values, uint32_t first, uint32_t last) noexcept nogil:
    cdef uint64_t bits = ABSENT_BITS
    cdef uint32_t row
    for row in range(first, last):
        memcpy(&values[row], &bits, sizeof(bits))


cdef inline bint column_reach(TableRows *table, Column *column) noexcept nogil:
    """Give the column room for the row being read and fill the rows before it; False when memory is refused."""
    cdef void *memory
    if column.capacity <= table.rows:
        memory = realloc(column.values, table.row_capacity * sizeof(double))
        if memory == NULL:
            return False
        column.values = <double *>memory
        table.buffer_bytes += (table.row_capacity - column.capacity) * sizeof(double)
        column.capacity = table.row_capacity
    if column.filled < table.rows:
        if column.filled == 0:
            column.first_row = table.rows
        fill_absent(column.values, column.filled, table.rows)
        column.filled = table.rows
    return True


cdef inline void table_rows_undo(TableRows *table, uint32_t touched) noexcept nogil:
    """Take back the cells of a line that is not kept."""
    cdef uint32_t index
    cdef Column *column
    for index in range(touched):
        column = &table.columns[table.touched[index]]
        # A column that only this line would have set is as if it had never been met.
        column.filled = 0 if column.first_row == table.rows else table.rows
        column.first_row = 0


cdef inline int64_t table_rows_find_column(const TableRows *table, const char *name, size_t length) noexcept nogil:
    """Return the index of the column for a raw name with its '=', or a negative number."""
    return label_map_find(&table.names, name, length)


cdef inline int64_t table_rows_add_column(
    TableRows *table, const char *name, size_t length, uint32_t field_id
) noexcept nogil:
    """Return the index of a new column for a raw name with its '='; negative when memory is refused."""
    cdef uint32_t capacity, head
    cdef void *memory
    cdef int64_t index
    cdef Column *column
    if table.names.count == table.column_capacity:
        capacity = 16 if table.column_capacity == 0 else table.column_capacity * 2
        memory = realloc(table.columns, capacity * sizeof(Column))
        if memory == NULL:
            return -1
        table.columns = <Column *>memory
        memory = realloc(table.touched, capacity * sizeof(uint32_t))
        if memory == NULL:
            return -1
        table.touched = <uint32_t *>memory
        table.column_capacity = capacity
    index = label_map_intern(&table.names, name, length)
    if index < 0:
        return index
    column = &table.columns[index]
    memset(column, 0, sizeof(Column))
    column.name = table.names.entries[index].data
    column.name_length = <uint32_t>length
    head = <uint32_t>min(length, <size_t>HEAD_BYTES)
    memcpy(column.head, column.name, head)
    column.head_mask = (1 << head) - 1
    column.next = NO_COLUMN
    column.field_id = field_id
    return index
