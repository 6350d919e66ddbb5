"""Packing the columns of tier rows into a few bits a value (docs/formats/rollups.md).

A *stream* holds n whole numbers, n being known from elsewhere: u8 kind, then for kind 0 (all equal) the number as a
zigzag varint, for kind 1 groups of 64 numbers: u8 width w, the smallest number as a zigzag varint, then each number
minus the smallest in w bits, lowest bit first, padded to a whole byte.  All arithmetic is modulo 2^64.

Columns of doubles become whole numbers by a power of ten that gives every value back bit for bit; where none does, their
bit patterns are packed.  Everything that is unpacked is checked against the end of the data: damage is a ValueError.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_FromStringAndSize

from native.arguments cimport checked_array, checked_output, same_length

import numpy as np

cdef enum:
    GROUP = 64
    # Kind, and for each group: width, the longest varint, 64 numbers of 64 bits.
    WORST_GROUP = 11 + 8 * GROUP
    MAX_DECIMALS = 6
    NO_DECIMALS = 255

cdef double[7] POWERS
POWERS[:] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]

cdef extern from * nogil:
    """
    #include <cstdint>
    #include <cstring>
    static inline int tidegauge_bits(uint64_t span) { return span ? 64 - __builtin_clzll(span) : 0; }
    static inline int64_t tidegauge_bits_of(double value) {
        int64_t bits; std::memcpy(&bits, &value, sizeof bits); return bits;
    }
    static inline double tidegauge_double_of(int64_t bits) {
        double value; std::memcpy(&value, &bits, sizeof value); return value;
    }
    // The whole number nearest to value * power; the caller sees to it that it fits.
    static inline int64_t tidegauge_scaled(double value, double power) {
        double product = value * power;
        return static_cast<int64_t>(product + (product < 0.0 ? -0.5 : 0.5));
    }
    // Whether value is that number divided by power, bit for bit; false for NaN, infinities and -0.0.
    static inline bool tidegauge_exact(double value, double power, int64_t* out) {
        double product = value * power;
        if (!(product < 9007199254740992.0 && product > -9007199254740992.0)) return false;
        int64_t scaled = tidegauge_scaled(value, power);
        *out = scaled;
        return tidegauge_bits_of(static_cast<double>(scaled) / power) == tidegauge_bits_of(value);
    }
    """
    int bits_needed "tidegauge_bits" (uint64_t span) noexcept
    int64_t bits_of "tidegauge_bits_of" (double value) noexcept
    double double_of "tidegauge_double_of" (int64_t bits) noexcept
    int64_t scaled "tidegauge_scaled" (double value, double power) noexcept
    bint exact "tidegauge_exact" (double value, double power, int64_t* out) noexcept


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end


def pack_integers(values, starts=None):
    """Return int64[n] packed.  With ``starts`` (uint8[n], 1 where a run begins) the first number of each run is one
    stream and the steps inside the runs another; without it the numbers are one stream.
    """
    cdef const int64_t[::1] numbers = checked_array(values, "values", np.int64, 1)
    cdef Py_ssize_t rows = numbers.shape[0]
    cdef const uint8_t[::1] begins
    if starts is not None:
        same_length(checked_array(starts, "starts", np.uint8, 1), "starts", rows, "values")
        begins = starts
    cdef uint8_t* out = <uint8_t*>malloc(_room(rows, 2))
    cdef int64_t* scratch = <int64_t*>malloc((rows + 1) * sizeof(int64_t))
    cdef uint8_t* end = out
    try:
        if out == NULL or scratch == NULL:
            raise MemoryError(f"cannot pack {rows} numbers: got no memory")
        with nogil:
            if starts is None:
                end = _put_stream(out, &numbers[0], rows)
            else:
                end = _put_runs(out, &numbers[0], &begins[0], rows, scratch)
        return PyBytes_FromStringAndSize(<char*>out, end - out)
    finally:
        free(out)
        free(scratch)


def unpack_integers(data, Py_ssize_t offset, out, starts=None):
    """Fill ``out`` (int64[n]) from what :func:`pack_integers` made; return the offset behind it.

    Raises ValueError when the data ends too early or is no stream.
    """
    cdef const uint8_t[::1] packed = data
    cdef int64_t[::1] numbers = checked_output(out, "out", np.int64, 1)
    cdef Py_ssize_t rows = numbers.shape[0]
    cdef const uint8_t[::1] begins
    if starts is not None:
        same_length(checked_array(starts, "starts", np.uint8, 1), "starts", rows, "out")
        begins = starts
    cdef Reader reader = _reader(packed, offset)
    cdef int64_t* scratch = <int64_t*>malloc((rows + 1) * sizeof(int64_t))
    cdef bint whole
    try:
        if scratch == NULL:
            raise MemoryError(f"cannot unpack {rows} numbers: got no memory")
        with nogil:
            if starts is None:
                whole = _get_stream(&reader, &numbers[0], rows)
            else:
                whole = _get_runs(&reader, &numbers[0], &begins[0], rows, scratch)
    finally:
        free(scratch)
    if not whole:
        raise ValueError("cannot unpack numbers: the data ends too early or is damaged")
    return reader.at - &packed[0]


def pack_values(counts, sums, mins, maxs, firsts, lasts, starts):
    """Return one field's values packed.

    ``counts``: int64[n]; the others: float64[n]; ``starts``: uint8[n], 1 where the rows of another tag set begin.
    Minima are kept by the steps between them; maxima, firsts and lasts by what they are above the minimum; sums by
    what they are above count times minimum, and by how many units in the last place they differ from that.
    """
    cdef const int64_t[::1] many = checked_array(counts, "counts", np.int64, 1)
    cdef Py_ssize_t rows = many.shape[0]
    for name, array in (("sums", sums), ("mins", mins), ("maxs", maxs), ("firsts", firsts), ("lasts", lasts)):
        same_length(checked_array(array, name, np.float64, 1), name, rows, "counts")
    same_length(checked_array(starts, "starts", np.uint8, 1), "starts", rows, "counts")
    cdef const double[::1] total = sums
    cdef const double[::1] low = mins
    cdef const double[::1] high = maxs
    cdef const double[::1] first = firsts
    cdef const double[::1] last = lasts
    cdef const uint8_t[::1] begins = starts
    cdef uint8_t* out = <uint8_t*>malloc(_room(rows, 8))
    cdef int64_t* scratch = <int64_t*>malloc((rows * 7 + 1) * sizeof(int64_t))
    cdef uint8_t* end = out
    try:
        if out == NULL or scratch == NULL:
            raise MemoryError(f"cannot pack {rows} rows: got no memory")
        with nogil:
            end = _put_values(
                out, &many[0], &total[0], &low[0], &high[0], &first[0], &last[0], &begins[0], rows, scratch
            )
        return PyBytes_FromStringAndSize(<char*>out, end - out)
    finally:
        free(out)
        free(scratch)


def unpack_values(data, Py_ssize_t offset, counts, starts, sums, mins, maxs, firsts, lasts):
    """Fill the columns (float64[n]) from what :func:`pack_values` made; return the offset behind it.

    ``counts``, ``starts``: as they were given.  Raises ValueError when the data ends too early or is damaged.
    """
    cdef const uint8_t[::1] packed = data
    cdef const int64_t[::1] many = checked_array(counts, "counts", np.int64, 1)
    cdef Py_ssize_t rows = many.shape[0]
    same_length(checked_array(starts, "starts", np.uint8, 1), "starts", rows, "counts")
    for name, array in (("sums", sums), ("mins", mins), ("maxs", maxs), ("firsts", firsts), ("lasts", lasts)):
        same_length(checked_output(array, name, np.float64, 1), name, rows, "counts")
    cdef const uint8_t[::1] begins = starts
    cdef double[::1] total = sums
    cdef double[::1] low = mins
    cdef double[::1] high = maxs
    cdef double[::1] first = firsts
    cdef double[::1] last = lasts
    cdef Reader reader = _reader(packed, offset)
    cdef int64_t* scratch = <int64_t*>malloc((rows * 7 + 1) * sizeof(int64_t))
    cdef bint whole
    try:
        if scratch == NULL:
            raise MemoryError(f"cannot unpack {rows} rows: got no memory")
        with nogil:
            whole = _get_values(
                &reader, &many[0], &total[0], &low[0], &high[0], &first[0], &last[0], &begins[0], rows, scratch
            )
    finally:
        free(scratch)
    if not whole:
        raise ValueError("cannot unpack values: the data ends too early or is damaged")
    return reader.at - &packed[0]


cdef Reader _reader(const uint8_t[::1] packed, Py_ssize_t offset) except *:
    cdef Reader reader
    if offset < 0 or offset > packed.shape[0]:
        raise ValueError(f"cannot unpack: got offset {offset}, want 0 to {packed.shape[0]}")
    reader.at = &packed[0] + offset
    reader.end = &packed[0] + packed.shape[0]
    return reader


cdef size_t _room(Py_ssize_t rows, int streams) noexcept nogil:
    return <size_t>streams * (16 + (rows // GROUP + 2) * WORST_GROUP) + 16


# --- streams

cdef uint8_t* _put_varint(uint8_t* out, int64_t number) noexcept nogil:
    cdef uint64_t rest = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    while rest >= 0x80:
        out[0] = <uint8_t>(rest | 0x80)
        out += 1
        rest >>= 7
    out[0] = <uint8_t>rest
    return out + 1


cdef bint _get_varint(Reader* reader, int64_t* out) noexcept nogil:
    cdef uint64_t rest = 0
    cdef uint64_t byte
    cdef int shift = 0
    while reader.at < reader.end and shift < 70:
        byte = reader.at[0]
        reader.at += 1
        rest |= (byte & 0x7F) << shift if shift < 64 else 0
        if byte < 0x80:
            out[0] = <int64_t>((rest >> 1) ^ (0 - (rest & 1)))
            return True
        shift += 7
    return False


cdef uint8_t* _put_stream(uint8_t* out, const int64_t* numbers, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t start, at, end
    cdef int64_t low, high
    cdef bint equal = True
    if rows == 0:
        return out
    for at in range(1, rows):
        if numbers[at] != numbers[0]:
            equal = False
            break
    if equal:
        out[0] = 0
        return _put_varint(out + 1, numbers[0])
    out[0] = 1
    out += 1
    start = 0
    while start < rows:
        end = start + GROUP if start + GROUP < rows else rows
        low = high = numbers[start]
        for at in range(start + 1, end):
            low = numbers[at] if numbers[at] < low else low
            high = numbers[at] if numbers[at] > high else high
        out[0] = <uint8_t>bits_needed(<uint64_t>high - <uint64_t>low)
        out = _put_group(_put_varint(out + 1, low), numbers + start, end - start, low, out[0])
        start = end
    return out


cdef uint8_t* _put_group(
    uint8_t* out, const int64_t* numbers, Py_ssize_t rows, int64_t low, int width
) noexcept nogil:
    cdef uint64_t held = 0
    cdef uint64_t number
    cdef int used = 0
    cdef Py_ssize_t at
    if width == 0:
        return out
    for at in range(rows):
        number = <uint64_t>numbers[at] - <uint64_t>low
        held |= number << used
        used += width
        if used >= 64:
            memcpy(out, &held, 8)
            out += 8
            used -= 64
            # A shift by 64 is undefined; nothing is left over then.
            held = number >> (width - used) if used else 0
    memcpy(out, &held, 8)
    return out + (used + 7) // 8


cdef bint _get_stream(Reader* reader, int64_t* numbers, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t start, at, end, size
    cdef int64_t low
    cdef int width, kind
    # One word more than the widest group, because numbers are read eight bytes at a time.
    cdef uint8_t[8 * GROUP + 16] words
    if rows == 0:
        return True
    if reader.at == reader.end:
        return False
    kind = reader.at[0]
    reader.at += 1
    if kind == 0:
        if not _get_varint(reader, &low):
            return False
        for at in range(rows):
            numbers[at] = low
        return True
    if kind != 1:
        return False
    start = 0
    while start < rows:
        end = start + GROUP if start + GROUP < rows else rows
        if reader.at == reader.end:
            return False
        width = reader.at[0]
        reader.at += 1
        if width > 64 or not _get_varint(reader, &low):
            return False
        size = ((end - start) * width + 7) // 8
        if reader.end - reader.at < size:
            return False
        if reader.end - reader.at >= size + 16:
            _get_group(reader.at, numbers + start, end - start, low, width)
        else:
            memset(words, 0, sizeof(words))
            memcpy(words, reader.at, size)
            _get_group(words, numbers + start, end - start, low, width)
        reader.at += size
        start = end
    return True


cdef void _get_group(
    const uint8_t* words, int64_t* numbers, Py_ssize_t rows, int64_t low, int width
) noexcept nogil:
    cdef Py_ssize_t at
    cdef Py_ssize_t bit = 0
    cdef uint64_t held
    cdef uint64_t mask = <uint64_t>-1 if width == 64 else (<uint64_t>1 << width) - 1
    cdef int shift
    for at in range(rows):
        memcpy(&held, words + (bit >> 3), 8)
        shift = bit & 7
        held >>= shift
        if width + shift > 64:
            held |= <uint64_t>words[(bit >> 3) + 8] << (64 - shift)
        numbers[at] = <int64_t>((held & mask) + <uint64_t>low)
        bit += width


cdef uint8_t* _put_runs(
    uint8_t* out, const int64_t* numbers, const uint8_t* starts, Py_ssize_t rows, int64_t* scratch
) noexcept nogil:
    cdef Py_ssize_t at
    cdef Py_ssize_t begun = 0
    cdef Py_ssize_t stepped = 0
    for at in range(rows):
        if starts[at] or at == 0:
            scratch[begun] = numbers[at]
            begun += 1
    out = _put_stream(out, scratch, begun)
    for at in range(1, rows):
        scratch[stepped] = <int64_t>(<uint64_t>numbers[at] - <uint64_t>numbers[at - 1])
        if not starts[at]:
            stepped += 1
    return _put_stream(out, scratch, stepped)


cdef bint _get_runs(
    Reader* reader, int64_t* numbers, const uint8_t* starts, Py_ssize_t rows, int64_t* scratch
) noexcept nogil:
    cdef Py_ssize_t at
    cdef Py_ssize_t begun = 0
    cdef Py_ssize_t stepped = 0
    for at in range(rows):
        if starts[at] or at == 0:
            begun += 1
    if not _get_stream(reader, scratch, begun) or not _get_stream(reader, scratch + begun, rows - begun):
        return False
    stepped = begun
    begun = 0
    for at in range(rows):
        if starts[at] or at == 0:
            numbers[at] = scratch[begun]
            begun += 1
        else:
            numbers[at] = <int64_t>(<uint64_t>numbers[at - 1] + <uint64_t>scratch[stepped])
            stepped += 1
    return True


# --- values of a field

cdef int _common_decimals(
    const double* low, const double* high, const double* first, const double* last, const double* total,
    Py_ssize_t rows, int64_t* scaled_out,
) noexcept nogil:
    """Return the fewest decimals that give all four columns back, and fill ``scaled_out`` with them; or NO_DECIMALS."""
    cdef int decimals
    cdef Py_ssize_t at
    cdef double power
    for decimals in range(MAX_DECIMALS + 1):
        power = POWERS[decimals]
        for at in range(rows):
            if not (
                exact(low[at], power, scaled_out + at)
                and exact(high[at], power, scaled_out + rows + at)
                and exact(first[at], power, scaled_out + 2 * rows + at)
                and exact(last[at], power, scaled_out + 3 * rows + at)
                and -9e15 < total[at] * power < 9e15
            ):
                break
        else:
            return decimals
    return NO_DECIMALS


cdef uint8_t* _put_values(
    uint8_t* out, const int64_t* many, const double* total, const double* low, const double* high, const double* first,
    const double* last, const uint8_t* starts, Py_ssize_t rows, int64_t* scratch,
) noexcept nogil:
    cdef int64_t* lows = scratch
    cdef int64_t* others = scratch + rows
    cdef int64_t* sums = scratch + 4 * rows
    cdef int64_t* units = scratch + 5 * rows
    cdef int decimals = _common_decimals(low, high, first, last, total, rows, scratch)
    cdef double power
    cdef Py_ssize_t at, column
    cdef int64_t whole
    out[0] = <uint8_t>decimals
    out += 1
    if decimals == NO_DECIMALS:
        for at in range(rows):
            lows[at] = bits_of(low[at])
            others[at] = bits_of(high[at])
            others[rows + at] = bits_of(first[at])
            others[2 * rows + at] = bits_of(last[at])
            sums[at] = bits_of(total[at])
    else:
        power = POWERS[decimals]
        for at in range(rows):
            whole = scaled(total[at], power)
            sums[at] = <int64_t>(<uint64_t>whole - <uint64_t>many[at] * <uint64_t>lows[at])
            units[at] = <int64_t>(<uint64_t>bits_of(total[at]) - <uint64_t>bits_of(<double>whole / power))
    for column in range(3):
        for at in range(rows):
            others[column * rows + at] = <int64_t>(<uint64_t>others[column * rows + at] - <uint64_t>lows[at])
    out = _put_runs(out, lows, starts, rows, scratch + 6 * rows)
    for column in range(3):
        out = _put_stream(out, others + column * rows, rows)
    out = _put_stream(out, sums, rows)
    return out if decimals == NO_DECIMALS else _put_stream(out, units, rows)


cdef bint _get_values(
    Reader* reader, const int64_t* many, double* total, double* low, double* high, double* first, double* last,
    const uint8_t* starts, Py_ssize_t rows, int64_t* scratch,
) noexcept nogil:
    cdef int64_t* lows = scratch
    cdef int64_t* others = scratch + rows
    cdef int64_t* sums = scratch + 4 * rows
    cdef int64_t* units = scratch + 5 * rows
    cdef int decimals
    cdef double power
    cdef Py_ssize_t at, column
    if reader.at == reader.end:
        return False
    decimals = reader.at[0]
    reader.at += 1
    if decimals > MAX_DECIMALS and decimals != NO_DECIMALS:
        return False
    if not _get_runs(reader, lows, starts, rows, scratch + 6 * rows):
        return False
    for column in range(3):
        if not _get_stream(reader, others + column * rows, rows):
            return False
    if not _get_stream(reader, sums, rows):
        return False
    for column in range(3):
        for at in range(rows):
            others[column * rows + at] = <int64_t>(<uint64_t>others[column * rows + at] + <uint64_t>lows[at])
    if decimals == NO_DECIMALS:
        for at in range(rows):
            low[at] = double_of(lows[at])
            high[at] = double_of(others[at])
            first[at] = double_of(others[rows + at])
            last[at] = double_of(others[2 * rows + at])
            total[at] = double_of(sums[at])
        return True
    if not _get_stream(reader, units, rows):
        return False
    power = POWERS[decimals]
    for at in range(rows):
        low[at] = <double>lows[at] / power
        high[at] = <double>others[at] / power
        first[at] = <double>others[rows + at] / power
        last[at] = <double>others[2 * rows + at] / power
        sums[at] = <int64_t>(<uint64_t>sums[at] + <uint64_t>many[at] * <uint64_t>lows[at])
        total[at] = double_of(<int64_t>(<uint64_t>bits_of(<double>sums[at] / power) + <uint64_t>units[at]))
    return True
