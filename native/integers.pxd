"""The integer column codec (docs/formats/wal.md, "Integer column"): inline C functions without Python objects.

One byte says the mode; the row count is not stored, the reader knows it.  Packing measures a column once (smallest and
largest value and step) and takes the smallest encoding that follows from that.  All arithmetic is modulo 2**64, so
that the extremes of int64 need no special case: an offset or a step is exact as long as its own difference fits.

``native.columns`` is the only user; the functions are inline so that they are compiled into its loops.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from native.cursor cimport Cursor, overran, read_u8, read_varint, read_zigzag, take

cdef enum IntegerMode:
    INTEGER_EMPTY = 0x00        # no rows
    INTEGER_CONSTANT = 0x01     # zigzag value
    INTEGER_PROGRESSION = 0x02  # zigzag first, zigzag step
    INTEGER_PLAIN = 0x08        # 8 bytes a row
    # The modes below are combined with the width of one number in bytes: 1, 2 or 4.
    INTEGER_OFFSETS = 0x10      # zigzag smallest, then value - smallest for each row
    INTEGER_MULTIPLES = 0x20    # zigzag smallest, varint unit, then (value - smallest) / unit for each row
    INTEGER_STEPS = 0x30        # zigzag first, zigzag smallest step, then step - smallest step for each row but one

cdef enum Fault:
    FAULT_NONE
    FAULT_OVERRUN   # the encoding runs past the end of the data; the cursor knows by how much
    FAULT_MODE      # a mode byte that does not exist or does not suit the row count
    FAULT_PADDING   # unused bits of a presence bitmap are not zero
    FAULT_RANGE     # a value that does not fit the array it is for

cdef enum:
    # A mode byte, two ten-byte varints, and a spare byte.
    INTEGER_OVERHEAD_BYTES = 22


cdef inline size_t integers_bound(size_t count) noexcept nogil:
    """Return how many bytes ``pack_integers`` writes at most."""
    return INTEGER_OVERHEAD_BYTES + 8 * count


cdef inline uint8_t* write_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


cdef inline uint8_t* write_zigzag(uint8_t* out, int64_t value) noexcept nogil:
    cdef uint64_t sign = 0 if value >= 0 else <uint64_t>0xFFFFFFFFFFFFFFFF
    return write_varint(out, (<uint64_t>value << 1) ^ sign)


cdef inline int width_of(uint64_t largest) noexcept nogil:
    """Return how many bytes of 1, 2, 4 or 8 hold every number up to ``largest``."""
    if largest <= 0xFF:
        return 1
    if largest <= 0xFFFF:
        return 2
    if largest <= <uint64_t>0xFFFFFFFF:
        return 4
    return 8


cdef struct IntegerShape:
    int64_t smallest
    int64_t largest
    int64_t smallest_step   # steps are differences of neighbours modulo 2**64, seen as signed
    int64_t largest_step


cdef inline IntegerShape shape_of(const int64_t* values, size_t count) noexcept nogil:
    """Measure ``count`` > 0 values; a single one has smallest and largest step 0."""
    cdef IntegerShape shape
    cdef int64_t value, step
    cdef int64_t smallest = values[0], largest = values[0], smallest_step, largest_step
    cdef size_t row
    smallest_step = largest_step = 0
    if count > 1:
        smallest_step = largest_step = <int64_t>(<uint64_t>values[1] - <uint64_t>values[0])
    for row in range(1, count):
        value = values[row]
        step = <int64_t>(<uint64_t>value - <uint64_t>values[row - 1])
        smallest = value if value < smallest else smallest
        largest = value if value > largest else largest
        smallest_step = step if step < smallest_step else smallest_step
        largest_step = step if step > largest_step else largest_step
    shape.smallest = smallest
    shape.largest = largest
    shape.smallest_step = smallest_step
    shape.largest_step = largest_step
    return shape


cdef inline uint64_t unit_of(const int64_t* values, size_t count, IntegerShape shape, int width) noexcept nogil:
    """Return the greatest common divisor of all ``value - smallest``, or 1 once it cannot save a byte of ``width``."""
    cdef uint64_t span = <uint64_t>shape.largest - <uint64_t>shape.smallest
    cdef uint64_t unit = span
    cdef uint64_t offset, remainder
    cdef size_t row
    for row in range(count):
        offset = <uint64_t>values[row] - <uint64_t>shape.smallest
        if offset % unit == 0:
            continue
        while offset != 0:
            remainder = unit % offset
            unit = offset
            offset = remainder
        if width_of(span / unit) >= width:
            return 1
    return unit


cdef inline uint8_t* write_offsets(
    const int64_t* values, size_t count, uint64_t base, int width, uint8_t* out
) noexcept nogil:
    """Write ``value - base`` of each row in ``width`` bytes."""
    cdef size_t row
    cdef uint16_t offset2
    cdef uint32_t offset4
    if width == 1:
        for row in range(count):
            out[row] = <uint8_t>(<uint64_t>values[row] - base)
    elif width == 2:
        for row in range(count):
            offset2 = <uint16_t>(<uint64_t>values[row] - base)
            memcpy(out + 2 * row, &offset2, 2)
    else:
        for row in range(count):
            offset4 = <uint32_t>(<uint64_t>values[row] - base)
            memcpy(out + 4 * row, &offset4, 4)
    return out + width * count


cdef inline uint8_t* write_multiples(
    const int64_t* values, size_t count, uint64_t base, uint64_t unit, int width, uint8_t* out
) noexcept nogil:
    cdef size_t row
    cdef uint64_t multiple
    for row in range(count):
        multiple = (<uint64_t>values[row] - base) / unit
        memcpy(out, &multiple, width)   # little-endian: the low bytes come first
        out += width
    return out


cdef inline uint8_t* write_steps(
    const int64_t* values, size_t count, uint64_t base, int width, uint8_t* out
) noexcept nogil:
    """Write ``value - value before - base`` of each row but the first in ``width`` bytes."""
    cdef size_t row
    cdef uint16_t step2
    cdef uint32_t step4
    if width == 1:
        for row in range(1, count):
            out[row - 1] = <uint8_t>(<uint64_t>values[row] - <uint64_t>values[row - 1] - base)
    elif width == 2:
        for row in range(1, count):
            step2 = <uint16_t>(<uint64_t>values[row] - <uint64_t>values[row - 1] - base)
            memcpy(out + 2 * (row - 1), &step2, 2)
    else:
        for row in range(1, count):
            step4 = <uint32_t>(<uint64_t>values[row] - <uint64_t>values[row - 1] - base)
            memcpy(out + 4 * (row - 1), &step4, 4)
    return out + width * (count - 1)


cdef inline uint8_t* pack_integers(const int64_t* values, size_t count, uint8_t* out) noexcept nogil:
    """Write the column to ``out``, which has room for ``integers_bound(count)``; return the end of what was written."""
    cdef IntegerShape shape
    cdef int offset_width, step_width, width, multiple_width = 8
    cdef uint64_t span, unit = 1
    if count == 0:
        out[0] = INTEGER_EMPTY
        return out + 1
    shape = shape_of(values, count)
    if shape.smallest == shape.largest:
        out[0] = INTEGER_CONSTANT
        return write_zigzag(out + 1, shape.smallest)
    if shape.smallest_step == shape.largest_step:
        out[0] = INTEGER_PROGRESSION
        return write_zigzag(write_zigzag(out + 1, values[0]), shape.smallest_step)
    span = <uint64_t>shape.largest - <uint64_t>shape.smallest
    offset_width = width_of(span)
    step_width = width_of(<uint64_t>shape.largest_step - <uint64_t>shape.smallest_step)
    width = offset_width if offset_width <= step_width else step_width
    if width >= 4:  # what one or two bytes hold is not worth a division for each row
        unit = unit_of(values, count, shape, width)
        if unit > 1:
            multiple_width = width_of(span / unit)
    if multiple_width < width:
        out[0] = <uint8_t>(INTEGER_MULTIPLES | multiple_width)
        out = write_varint(write_zigzag(out + 1, shape.smallest), unit)
        return write_multiples(values, count, <uint64_t>shape.smallest, unit, multiple_width, out)
    if width == 8:
        out[0] = INTEGER_PLAIN
        memcpy(out + 1, values, 8 * count)
        return out + 1 + 8 * count
    if offset_width == width:
        out[0] = <uint8_t>(INTEGER_OFFSETS | width)
        out = write_zigzag(out + 1, shape.smallest)
        return write_offsets(values, count, <uint64_t>shape.smallest, width, out)
    out[0] = <uint8_t>(INTEGER_STEPS | width)
    out = write_zigzag(write_zigzag(out + 1, values[0]), shape.smallest_step)
    return write_steps(values, count, <uint64_t>shape.smallest_step, width, out)


cdef inline void read_offsets(
    const uint8_t* taken, size_t count, uint64_t base, int width, int64_t* out
) noexcept nogil:
    """Fill ``out`` with ``base`` plus the numbers at ``taken``."""
    cdef size_t row
    cdef uint16_t offset2
    cdef uint32_t offset4
    if width == 1:
        for row in range(count):
            out[row] = <int64_t>(base + taken[row])
    elif width == 2:
        for row in range(count):
            memcpy(&offset2, taken + 2 * row, 2)
            out[row] = <int64_t>(base + offset2)
    else:
        for row in range(count):
            memcpy(&offset4, taken + 4 * row, 4)
            out[row] = <int64_t>(base + offset4)


cdef inline Fault unpack_integers(Cursor* cursor, int64_t* out, size_t count, uint8_t* mode) noexcept nogil:
    """Fill ``count`` rows of ``out`` from the column at the cursor; ``mode`` receives its mode byte."""
    cdef uint64_t base, step, running
    cdef const uint8_t* taken
    cdef size_t row
    cdef int form, width
    mode[0] = read_u8(cursor)
    if overran(cursor):
        return FAULT_OVERRUN
    if (mode[0] == INTEGER_EMPTY) != (count == 0):
        return FAULT_MODE
    if mode[0] == INTEGER_EMPTY:
        return FAULT_NONE
    if mode[0] == INTEGER_PLAIN:
        taken = take(cursor, 8 * count)
        if taken == NULL:
            return FAULT_OVERRUN
        memcpy(out, taken, 8 * count)
        return FAULT_NONE
    if mode[0] == INTEGER_CONSTANT or mode[0] == INTEGER_PROGRESSION:
        base = <uint64_t>read_zigzag(cursor)
        step = <uint64_t>read_zigzag(cursor) if mode[0] == INTEGER_PROGRESSION else 0
        if overran(cursor):
            return FAULT_OVERRUN
        for row in range(count):
            out[row] = <int64_t>(base + step * row)
        return FAULT_NONE
    form = mode[0] & 0xF0
    width = mode[0] & 0x0F
    if width != 1 and width != 2 and width != 4:
        return FAULT_MODE
    if form == INTEGER_OFFSETS or form == INTEGER_MULTIPLES:
        base = <uint64_t>read_zigzag(cursor)
        step = read_varint(cursor) if form == INTEGER_MULTIPLES else 1
        taken = take(cursor, width * count)
        if taken == NULL:
            return FAULT_OVERRUN
        if form == INTEGER_OFFSETS:
            read_offsets(taken, count, base, width, out)
        else:
            read_offsets(taken, count, 0, width, out)
            for row in range(count):
                out[row] = <int64_t>(base + step * <uint64_t>out[row])
        return FAULT_NONE
    if form == INTEGER_STEPS:
        running = <uint64_t>read_zigzag(cursor)
        base = <uint64_t>read_zigzag(cursor)
        taken = take(cursor, width * (count - 1))
        if taken == NULL:
            return FAULT_OVERRUN
        out[0] = <int64_t>running
        read_offsets(taken, count - 1, base, width, out + 1)
        for row in range(1, count):
            running += <uint64_t>out[row]
            out[row] = <int64_t>running
        return FAULT_NONE
    return FAULT_MODE
