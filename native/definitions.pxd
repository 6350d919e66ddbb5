"""The bytes of a catalogue's definitions, written and applied without the GIL (layout: docs/formats/catalogue.md)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from native.catalogue cimport Catalogue, FieldDefinition
from native.cursor cimport Cursor, cursor_over, left, overran, position, read_u8, read_u16, read_u32, take
from native.labels cimport LABEL_FULL, LABEL_NO_MEMORY, LabelEntry
from native.tagset_key cimport KEY_CANONICAL, check_tagset_key, is_utf8
from native.tagsetview cimport TagsetView, canonical_length, write_canonical


cdef enum:
    DEFINITIONS_VERSION = 1

cdef enum ApplyCode:
    APPLIED
    TRUNCATED
    WRONG_VERSION
    GAP
    CONTRADICTION
    BAD_NAME
    UNKNOWN_TABLE
    BAD_TAGSET
    TRAILING_BYTES
    NO_MEMORY
    FULL

cdef enum Kind:
    TABLE
    FIELD
    TAGSET
    KINDS


cdef struct ApplyProblem:
    size_t offset  # of the item that is wrong
    uint32_t found
    uint32_t expected


cdef struct Item:  # one definition as it was read
    size_t length
    const char *name  # or the canonical key of a tag set
    uint32_t table_id  # of a field
    uint32_t field_id


cdef struct Sink:
    char *at  # NULL to count only
    size_t length


cdef inline void emit(Sink *sink, const void *data, size_t length) noexcept nogil:
    if sink.at != NULL:
        memcpy(sink.at + sink.length, data, length)
    sink.length += length


cdef inline void emit_u16(Sink *sink, uint16_t number) noexcept nogil:
    emit(sink, &number, sizeof(number))


cdef inline void emit_u32(Sink *sink, uint32_t number) noexcept nogil:
    emit(sink, &number, sizeof(number))


cdef inline void write_definitions(
    Catalogue catalogue, const uint32_t *since, const uint32_t *until, Sink *sink
) noexcept nogil:
    """Write, or count, what lies between two marks; what is defined meanwhile changes nothing about that."""
    cdef uint32_t number, length
    cdef const TagsetView *view
    cdef LabelEntry *entry
    cdef FieldDefinition *field
    cdef uint8_t version = DEFINITIONS_VERSION
    emit(sink, &version, 1)
    catalogue.lock.lock()
    emit_u32(sink, since[<int>TABLE])
    emit_u32(sink, until[<int>TABLE] - since[<int>TABLE])
    for number in range(since[<int>TABLE], until[<int>TABLE]):
        entry = &catalogue.tables.entries[number]
        emit_u16(sink, <uint16_t>entry.length)
        emit(sink, entry.data, entry.length)
    emit_u32(sink, since[<int>FIELD])
    emit_u32(sink, until[<int>FIELD] - since[<int>FIELD])
    for number in range(since[<int>FIELD], until[<int>FIELD]):
        field = &catalogue.field_log[number]
        entry = &catalogue.table_fields[field.table_id].entries[field.field_id]
        emit_u32(sink, field.table_id)
        emit_u16(sink, <uint16_t>field.field_id)
        emit_u16(sink, <uint16_t>entry.length)
        emit(sink, entry.data, entry.length)
    emit_u32(sink, since[<int>TAGSET])
    emit_u32(sink, until[<int>TAGSET] - since[<int>TAGSET])
    for number in range(since[<int>TAGSET], until[<int>TAGSET]):
        view = catalogue.view_of(number)
        if view != NULL:
            length = <uint32_t>canonical_length(view, number - view.first)
            emit_u32(sink, length)
            if sink.at != NULL:
                write_canonical(view, number - view.first, sink.at + sink.length)
            sink.length += length
        else:
            entry = &catalogue.tail.labels.entries[number - catalogue.frozen]
            emit_u32(sink, entry.length)
            emit(sink, entry.data, entry.length)
    catalogue.lock.unlock()


cdef inline uint32_t count_defined(Catalogue catalogue, int kind) noexcept nogil:
    if kind == TABLE:
        return catalogue.tables.count
    if kind == FIELD:
        return catalogue.field_count
    return catalogue.tagset_total()


cdef inline ApplyCode read_item(Cursor *cursor, int kind, Item *item) noexcept nogil:
    item.table_id = 0
    item.field_id = 0
    if kind == FIELD:
        item.table_id = read_u32(cursor)
        item.field_id = read_u16(cursor)
    item.length = read_u32(cursor) if kind == TAGSET else read_u16(cursor)
    item.name = <const char *>take(cursor, item.length)
    if overran(cursor):
        return TRUNCATED
    if kind == TAGSET:
        return APPLIED if check_tagset_key(item.name, item.length, &item.table_id) == KEY_CANONICAL else BAD_TAGSET
    return APPLIED if item.length > 0 and is_utf8(item.name, item.length) else BAD_NAME


cdef inline int64_t define_item(Catalogue catalogue, int kind, const Item *item, uint64_t number) noexcept nogil:
    """Define the item and return the number it has now among its kind, or what the catalogue returned instead."""
    cdef uint32_t known
    cdef int64_t field_id
    cdef FieldDefinition *field
    if kind == TABLE:
        return catalogue.define_table_id(item.name, item.length)
    if kind == TAGSET:
        return catalogue.define_tagset_id(item.name, item.length)
    known = catalogue.field_count
    field_id = catalogue.define_field_id(item.table_id, item.name, item.length)
    if field_id < 0:
        return field_id
    # A field's place in the log is not looked up by name: it is the next one, or the log has it at `number` already.
    if field_id == item.field_id:
        if catalogue.field_count > known:
            return known
        if number < known:
            field = &catalogue.field_log[number]
            if field.table_id == item.table_id and field.field_id == item.field_id:
                return <int64_t>number
    return <int64_t>number + 1  # anything but `number` says that it contradicts


cdef inline ApplyCode apply_definitions(
    Catalogue catalogue, const uint8_t *data, size_t length, ApplyProblem *problem
) noexcept nogil:
    """Define what `data` says; APPLIED, or what is wrong with it after part of it may have been defined."""
    cdef Cursor cursor = cursor_over(data, length, 0)
    cdef uint64_t number, first, count
    cdef int64_t given
    cdef int kind
    cdef Item item
    cdef ApplyCode code
    problem.offset = 0
    problem.found = read_u8(&cursor)
    problem.expected = DEFINITIONS_VERSION
    if problem.found != problem.expected:
        return WRONG_VERSION
    for kind in range(<int>KINDS):
        problem.offset = position(&cursor)
        first = read_u32(&cursor)
        count = read_u32(&cursor)
        if overran(&cursor):
            return TRUNCATED
        if first > count_defined(catalogue, kind):
            problem.found = <uint32_t>first
            problem.expected = count_defined(catalogue, kind)
            return GAP
        for number in range(first, first + count):
            problem.offset = position(&cursor)
            code = read_item(&cursor, kind, &item)
            if code != APPLIED:
                return code
            if kind != TABLE and item.table_id >= catalogue.tables.count:
                problem.found = item.table_id
                problem.expected = catalogue.tables.count
                return UNKNOWN_TABLE
            problem.found = <uint32_t>number
            problem.expected = count_defined(catalogue, kind)
            if number > problem.expected:
                return GAP
            given = define_item(catalogue, kind, &item, number)
            if given == LABEL_NO_MEMORY:
                return NO_MEMORY
            if given == LABEL_FULL:
                return FULL
            if <uint64_t>given != number:
                return CONTRADICTION
    problem.offset = position(&cursor)
    return APPLIED if left(&cursor) == 0 else TRAILING_BYTES


cdef inline int refuse_definitions(ApplyCode code, const ApplyProblem *problem) except -1:
    """Raise what `apply_definitions` returned instead of APPLIED."""
    if code == NO_MEMORY:
        raise MemoryError("cannot apply definitions: got no memory")
    if code == FULL:
        raise ValueError("cannot apply definitions: got more items than identifiers can number")
    if code == TRUNCATED:
        words = "an item that runs past the end, want it whole"
    elif code == WRONG_VERSION:
        words = f"version {problem.found}, want version {problem.expected}"
    elif code == GAP:
        words = f"item {problem.found} of its kind next, want {problem.expected} or one already defined"
    elif code == CONTRADICTION:
        words = f"item {problem.found} that contradicts the name or number already defined, want the same again"
    elif code == BAD_NAME:
        words = "a name that is empty or not UTF-8, want 1 to 65535 bytes of UTF-8"
    elif code == UNKNOWN_TABLE:
        words = f"a reference to table {problem.found}, want one of the {problem.expected} tables defined"
    elif code == BAD_TAGSET:
        words = "a tag set that is not canonical, want unique tag keys in ascending order, UTF-8, within 1 MiB"
    else:
        words = "bytes after the last item, want none"
    raise ValueError(f"cannot apply definitions: got {words} (offset {problem.offset})")
