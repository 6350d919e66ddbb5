"""The checked cursor: the one place in which native decoders test for the end of their input.

A cursor is a pointer, its limits and the first overrun.  ``take`` is the only function that moves it and the only one
that compares with the end.  The fault is sticky: after a read that did not fit, every further read gives zero or NULL
and nothing moves, so a decoder reads a group of fields in a straight line and asks ``overran`` once at the end of it.
Nothing may be done with what was read before that question has been asked.

Multi-byte numbers are little-endian, which is also what the supported machines are (see the check below); ``varint``
is LEB128 (seven bits a byte, least significant group first), ``zigzag`` maps signed numbers to it: 0, -1, 1, -2, ...
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "Tidegauge's formats are read in place and need a little-endian machine"
    #endif
    """

cdef struct Cursor:
    const uint8_t* start    # first byte of the input; offsets in messages count from here
    const uint8_t* at       # next byte to read
    const uint8_t* end      # one past the last byte
    size_t wanted           # bytes asked for by the read that did not fit; 0 while all have fitted


cdef inline Cursor cursor_over(const uint8_t* start, size_t length, size_t offset) noexcept nogil:
    """Return a cursor at ``offset``, which must lie within 0..length."""
    cdef Cursor cursor
    cursor.start = start
    cursor.at = start + offset
    cursor.end = start + length
    cursor.wanted = 0
    return cursor


cdef inline bint overran(const Cursor* cursor) noexcept nogil:
    """Return whether any read so far did not fit."""
    return cursor.wanted != 0


cdef inline size_t left(const Cursor* cursor) noexcept nogil:
    """Return how many bytes have not been read."""
    return <size_t>(cursor.end - cursor.at)


cdef inline size_t position(const Cursor* cursor) noexcept nogil:
    """Return the offset of the next byte, or of the read that did not fit."""
    return <size_t>(cursor.at - cursor.start)


cdef inline const uint8_t* take(Cursor* cursor, size_t size) noexcept nogil:
    """Return a pointer to the next ``size`` bytes and pass them; NULL when they are not there."""
    cdef const uint8_t* taken = cursor.at
    if cursor.wanted != 0:
        return NULL
    if size > left(cursor):
        cursor.wanted = size
        return NULL
    cursor.at += size
    return taken


cdef inline uint8_t read_u8(Cursor* cursor) noexcept nogil:
    cdef const uint8_t* taken = take(cursor, 1)
    return 0 if taken == NULL else taken[0]


cdef inline uint16_t read_u16(Cursor* cursor) noexcept nogil:
    cdef uint16_t value = 0
    cdef const uint8_t* taken = take(cursor, 2)
    if taken != NULL:
        memcpy(&value, taken, 2)
    return value


cdef inline uint32_t read_u32(Cursor* cursor) noexcept nogil:
    cdef uint32_t value = 0
    cdef const uint8_t* taken = take(cursor, 4)
    if taken != NULL:
        memcpy(&value, taken, 4)
    return value


cdef inline uint64_t read_u64(Cursor* cursor) noexcept nogil:
    cdef uint64_t value = 0
    cdef const uint8_t* taken = take(cursor, 8)
    if taken != NULL:
        memcpy(&value, taken, 8)
    return value


cdef inline uint64_t read_varint(Cursor* cursor) noexcept nogil:
    """Read a LEB128 number; bits beyond the 64th are ignored and the tenth byte is always the last."""
    cdef uint64_t value = 0
    cdef int shift
    cdef uint8_t byte
    for shift in range(0, 70, 7):
        byte = read_u8(cursor)
        value |= (<uint64_t>(byte & 0x7F)) << shift
        if byte < 0x80:
            break
    return value


cdef inline int64_t read_zigzag(Cursor* cursor) noexcept nogil:
    cdef uint64_t value = read_varint(cursor)
    return <int64_t>((value >> 1) ^ (~(value & 1) + 1))


cdef inline int refuse_overrun(const Cursor* cursor, str action) except -1:
    """Raise the ValueError of an overrun; ``action`` reads "unpack an int64 column"."""
    raise ValueError(
        f"cannot {action}: got {left(cursor)} bytes, want {cursor.wanted} (offset {position(cursor)})"
    )
