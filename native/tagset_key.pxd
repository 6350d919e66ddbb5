"""The canonical key of a tag set: u32 table_id, then for each tag by ascending key u16 length, key, u32 length, value.

Two tag sets are the same exactly when their keys are the same bytes.  Keys are unique and not empty, values may be
empty, both are UTF-8; a whole key takes at most MAX_TAGSET_BYTES.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from native.cursor cimport Cursor, cursor_over, left, overran, read_u16, read_u32, take


cdef extern from "utf8.h" namespace "tidegauge" nogil:
    bint is_utf8(const char *data, size_t length) noexcept


cdef enum:
    MAX_NAME_BYTES = 0xFFFF  # of a table, a field or a tag key
    MAX_TAGSET_BYTES = 1 << 20

cdef enum KeyVerdict:
    KEY_CANONICAL
    KEY_NOT_CANONICAL


cdef inline int compare_bytes(const char *a, size_t a_length, const char *b, size_t b_length) noexcept nogil:
    """Order byte strings as Python does: negative, zero or positive."""
    cdef int order = memcmp(a, b, min(a_length, b_length))
    if order != 0:
        return order
    return (a_length > b_length) - (a_length < b_length)


cdef inline KeyVerdict check_tagset_key(const char *key, size_t length, uint32_t *table_id) noexcept nogil:
    """Return whether `key` is canonical, and the table it names, known or not."""
    cdef Cursor cursor = cursor_over(<const uint8_t *>key, length, 0)
    cdef const char *previous = NULL
    cdef size_t previous_length = 0, name_length, value_length
    cdef const char *name
    cdef const char *value
    table_id[0] = read_u32(&cursor)
    if overran(&cursor) or length > <size_t>MAX_TAGSET_BYTES:
        return KEY_NOT_CANONICAL
    while left(&cursor):
        name_length = read_u16(&cursor)
        name = <const char *>take(&cursor, name_length)
        value_length = read_u32(&cursor)
        value = <const char *>take(&cursor, value_length)
        if overran(&cursor) or name_length == 0:
            return KEY_NOT_CANONICAL
        if previous != NULL and compare_bytes(previous, previous_length, name, name_length) >= 0:
            return KEY_NOT_CANONICAL
        if not is_utf8(name, name_length) or not is_utf8(value, value_length):
            return KEY_NOT_CANONICAL
        previous = name
        previous_length = name_length
    return KEY_CANONICAL


cdef inline int check_name(str action, bytes name) except -1:
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise ValueError(f"cannot {action}: got a name of {len(name)} bytes, want 1 to {MAX_NAME_BYTES}")
    if not is_utf8(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
        raise ValueError(f"cannot {action}: got the name {name[:100]!r}, want UTF-8")
    return 0


cdef inline bytes canonical_key(str action, uint32_t table_id, object tags):
    """Return the canonical key of a tag set; ValueError for what no tag set may hold."""
    cdef list ordered = sorted(tags)
    cdef Py_ssize_t length = 4
    cdef bytes name, value, previous = None, key
    cdef char *at
    cdef uint16_t name_length
    cdef uint32_t value_length
    for name, value in ordered:
        if name is None or value is None:
            raise TypeError(f"cannot {action}: got None in a tag, want bytes")
        check_name(f"{action}, tag key", name)
        if name == previous:
            raise ValueError(f"cannot {action}: got the tag key {name!r} twice, want each tag key once")
        if not is_utf8(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)):
            raise ValueError(f"cannot {action}: got the value {value[:100]!r} for tag {name!r}, want UTF-8")
        previous = name
        length += 6 + len(name) + len(value)
    if length > MAX_TAGSET_BYTES:
        raise ValueError(f"cannot {action}: got {length} bytes of tags, want at most {MAX_TAGSET_BYTES}")
    key = PyBytes_FromStringAndSize(NULL, length)
    at = PyBytes_AS_STRING(key)
    memcpy(at, &table_id, 4)
    at += 4
    for name, value in ordered:
        name_length = <uint16_t>len(name)
        value_length = <uint32_t>len(value)
        memcpy(at, &name_length, 2)
        memcpy(at + 2, PyBytes_AS_STRING(name), name_length)
        at += 2 + name_length
        memcpy(at, &value_length, 4)
        memcpy(at + 4, PyBytes_AS_STRING(value), value_length)
        at += 4 + value_length
    return key
