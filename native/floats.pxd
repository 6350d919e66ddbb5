"""The float64 column codec (docs/formats/wal.md, "Float column"): inline C functions without Python objects.

A column is packed as integers when each of its values is one, if need be after multiplying by a power of ten that
dividing takes back bit for bit; otherwise as it lies in memory.  Cells without a sample become zeros of a bitmap.
What is packed comes back with the same bits: -0.0, infinities and every NaN fail the test for integers.

``native.columns`` is the only user; the functions are inline so that they are compiled into its loops.
"""

from libc.math cimport copysign, fabs
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from native.absent cimport ABSENT_BITS
from native.cursor cimport Cursor, overran, read_u8, read_u64, take
from native.integers cimport (
    FAULT_MODE,
    FAULT_NONE,
    FAULT_OVERRUN,
    FAULT_PADDING,
    Fault,
    integers_bound,
    pack_integers,
    unpack_integers,
)

cdef extern from *:
    """
    static const double TIDEGAUGE_POWERS_OF_TEN[16] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    static constexpr double TIDEGAUGE_LARGEST_EXACT = 9007199254740992.0;   // 2**53
    static constexpr double TIDEGAUGE_FRACTION_LIMIT = 4503599627370496.0;  // 2**52: doubles from here on are whole
    """
    const double[16] POWERS_OF_TEN "TIDEGAUGE_POWERS_OF_TEN"
    const double LARGEST_EXACT "TIDEGAUGE_LARGEST_EXACT"
    const double FRACTION_LIMIT "TIDEGAUGE_FRACTION_LIMIT"

cdef enum FloatMode:
    FLOAT_ABSENT = 0x80     # no cell holds a sample
    FLOAT_CONSTANT = 0x81   # 8 bytes: the bits of every cell
    # Each of these is the mode when every cell holds a sample; with FLOAT_SPARSE added a presence bitmap comes first.
    FLOAT_DECIMALS = 0x90   # + decimals 0..6: an integer column of value * 10**decimals
    FLOAT_PLAIN = 0x9F      # 8 bytes a present cell
    FLOAT_SPARSE = 0x10

cdef enum:
    PACKED_DECIMALS = 6     # most decimals that packing tries
    MOST_DECIMALS = 15      # larger powers of ten leave too few of a double's digits before the point to matter
    CHECK_CELLS = 256       # cells between two looks at whether all so far were exact


cdef inline uint64_t bits_at(const double* values, size_t index) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, values + index, 8)
    return bits


cdef inline void set_bits(double* values, size_t index, uint64_t bits) noexcept nogil:
    memcpy(values + index, &bits, 8)


# Classifying values


cdef inline bint exact_integer(double value, int decimals, int64_t* integer) noexcept nogil:
    """Set ``integer`` to value * 10**decimals rounded; return whether dividing it gives ``value`` back bit for bit."""
    cdef double scaled = value * POWERS_OF_TEN[decimals]
    cdef double shift, back
    cdef bint fits = fabs(scaled) <= LARGEST_EXACT  # not so for NaN and infinity, which must not be converted
    scaled = scaled if fits else 0.0
    # Adding and taking away 2**52 rounds half to even as rint() does, without the call that rint() is here.
    shift = copysign(FRACTION_LIMIT, scaled) if fabs(scaled) < FRACTION_LIMIT else 0.0
    integer[0] = <int64_t>((scaled + shift) - shift)
    back = <double>integer[0] / POWERS_OF_TEN[decimals]
    return fits and bits_at(&back, 0) == bits_at(&value, 0)


cdef inline bint exact_whole(double value, int64_t* integer) noexcept nogil:
    """The same for no decimals, where truncation does for rounding and nothing needs dividing."""
    cdef double back
    cdef bint fits = fabs(value) <= LARGEST_EXACT
    integer[0] = <int64_t>(value if fits else 0.5)  # an integer that is not what any value that does not fit equals
    back = <double>integer[0]
    return bits_at(&back, 0) == bits_at(&value, 0)


cdef inline size_t to_integers(const double* values, size_t count, int decimals, int64_t* out) noexcept nogil:
    """Fill ``out`` until a cell is not exact; return that cell's index, ``count`` when all are.  No cell is absent."""
    cdef size_t row = 0, until
    cdef bint exact = True
    while row < count:
        until = row + CHECK_CELLS if count - row > CHECK_CELLS else count
        if decimals == 0:
            for row in range(row, until):
                exact &= exact_whole(values[row], out + row)
        else:
            for row in range(row, until):
                exact &= exact_integer(values[row], decimals, out + row)
        row = until
        if not exact:
            row = until - 1 - (until - 1) % CHECK_CELLS
            while exact_integer(values[row], decimals, out + row):
                row += 1
            return row
    return count


cdef inline int more_decimals(double value, int decimals, int most) noexcept nogil:
    """Return the smallest number of decimals above ``decimals`` and up to ``most`` that suits ``value``, or -1."""
    cdef int64_t integer
    for decimals in range(decimals + 1, most + 1):
        if exact_integer(value, decimals, &integer):
            return decimals
    return -1


cdef inline int find_decimals(const double* values, size_t count, int most, int64_t* out) noexcept nogil:
    """Return the smallest number of decimals 0..most exact for every cell, with ``out`` filled; -1 for none.

    A cell that is not exact says what it needs; more decimals are then tried from the first cell on.  Numbers of
    decimals in between are ruled out by that cell.  A column that is not decimal shows it in its first cells.
    """
    cdef int decimals = 0
    cdef size_t exact
    while True:
        exact = to_integers(values, count, decimals, out)
        if exact == count:
            return decimals
        decimals = more_decimals(values[exact], decimals, most)
        if decimals < 0:
            return -1


cdef inline size_t count_absent(const double* values, size_t count) noexcept nogil:
    cdef size_t row, absent = 0
    for row in range(count):
        absent += bits_at(values, row) == ABSENT_BITS
    return absent


cdef inline bint same_bits(const double* values, size_t count) noexcept nogil:
    cdef size_t row
    for row in range(1, count):
        if bits_at(values, row) != bits_at(values, 0):
            return False
    return True


cdef inline size_t gather_present(const double* values, size_t count, double* present, uint8_t* bitmap) noexcept nogil:
    """Copy the cells that hold a sample to ``present`` (room for count + 1) and set their bits; return how many."""
    cdef size_t row, found = 0
    cdef uint64_t bits
    cdef bint holds
    memset(bitmap, 0, (count + 7) // 8)
    for row in range(count):
        bits = bits_at(values, row)
        holds = bits != ABSENT_BITS
        set_bits(present, found, bits)
        bitmap[row >> 3] |= <uint8_t>(holds << (row & 7))
        found += holds
    return found


# Packing and unpacking float64 columns


cdef inline size_t floats_bound(size_t count) noexcept nogil:
    """Return how many bytes ``pack_floats`` writes at most: mode, bitmap, integers or doubles."""
    return 1 + (count + 7) // 8 + integers_bound(count)


cdef inline uint8_t* pack_floats(
    const double* values, size_t count, int64_t* integers, double* present, uint8_t* out
) noexcept nogil:
    """Write the column to ``out``; ``integers`` and ``present`` are scratch for count and count + 1 numbers."""
    cdef size_t absent = count_absent(values, count)
    cdef int decimals, sparse = 0
    cdef uint8_t* mode = out
    out += 1
    if absent == count:  # also when there are no rows
        mode[0] = FLOAT_ABSENT
        return out
    if absent > 0:
        sparse = FLOAT_SPARSE
        gather_present(values, count, present, out)
        out += (count + 7) // 8
        values = present
        count -= absent
    decimals = find_decimals(values, count, PACKED_DECIMALS, integers)
    if decimals >= 0:
        mode[0] = <uint8_t>(FLOAT_DECIMALS + decimals + sparse)
        return pack_integers(integers, count, out)
    if sparse == 0 and same_bits(values, count):
        mode[0] = FLOAT_CONSTANT
        memcpy(out, values, 8)
        return out + 8
    mode[0] = <uint8_t>(FLOAT_PLAIN + sparse)
    memcpy(out, values, 8 * count)
    return out + 8 * count


cdef inline size_t count_bits(const uint8_t* bitmap, size_t count) noexcept nogil:
    cdef size_t row, found = 0
    for row in range(count):
        found += (bitmap[row >> 3] >> (row & 7)) & 1
    return found


cdef inline void spread_present(const uint8_t* bitmap, double* values, size_t count, size_t present) noexcept nogil:
    """Move the first ``present`` cells to where their bits stand, from the last on, and fill the rest with ABSENT."""
    cdef size_t row = count
    while row > 0:
        row -= 1
        if (bitmap[row >> 3] >> (row & 7)) & 1:
            present -= 1
            set_bits(values, row, bits_at(values, present))
        else:
            set_bits(values, row, ABSENT_BITS)


cdef inline Fault unpack_decimals(
    Cursor* cursor, double* out, size_t count, int decimals, uint8_t* mode
) noexcept nogil:
    """Fill ``out`` from an integer column, which is unpacked in place: both kinds of number take 8 bytes."""
    cdef Fault fault = unpack_integers(cursor, <int64_t*>out, count, mode)
    cdef size_t row
    cdef double scale = POWERS_OF_TEN[decimals]
    if fault != FAULT_NONE:
        return fault
    for row in range(count):
        out[row] = <double><int64_t>bits_at(out, row) / scale
    return FAULT_NONE


cdef inline Fault unpack_floats(Cursor* cursor, double* out, size_t count, uint8_t* mode) noexcept nogil:
    cdef size_t row, present = count, bitmap_bytes = (count + 7) // 8
    cdef const uint8_t* bitmap = NULL
    cdef const uint8_t* taken
    cdef uint64_t bits
    cdef Fault fault = FAULT_NONE
    cdef int form
    mode[0] = read_u8(cursor)
    if overran(cursor):
        return FAULT_OVERRUN
    if mode[0] == FLOAT_ABSENT or mode[0] == FLOAT_CONSTANT:
        bits = ABSENT_BITS if mode[0] == FLOAT_ABSENT else read_u64(cursor)
        for row in range(count):
            set_bits(out, row, bits)
        return FAULT_OVERRUN if overran(cursor) else FAULT_NONE
    form = mode[0]
    if FLOAT_DECIMALS + FLOAT_SPARSE <= form <= FLOAT_PLAIN + FLOAT_SPARSE:
        form -= FLOAT_SPARSE
        bitmap = take(cursor, bitmap_bytes)
        if bitmap == NULL:
            return FAULT_OVERRUN
        if count % 8 != 0 and bitmap[bitmap_bytes - 1] >> (count % 8) != 0:
            return FAULT_PADDING
        present = count_bits(bitmap, count)
    if FLOAT_DECIMALS <= form <= FLOAT_DECIMALS + PACKED_DECIMALS:
        fault = unpack_decimals(cursor, out, present, form - FLOAT_DECIMALS, mode)
    elif form == FLOAT_PLAIN:
        taken = take(cursor, 8 * present)
        if taken == NULL:
            return FAULT_OVERRUN
        memcpy(out, taken, 8 * present)
    else:
        return FAULT_MODE
    if fault == FAULT_NONE and bitmap != NULL:
        spread_present(bitmap, out, count, present)
    return fault
