# A hash set of (series or tag set, time) pairs that numbers them by order of first sight.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc

from native.sorting cimport SeriesRow


cdef struct PairSet:
    SeriesRow* pairs    # by number, which is also their ``row``
    uint32_t* table     # slots of number + 1; 0 = free; at most half of them taken
    Py_ssize_t slots    # a power of two
    Py_ssize_t count


cdef inline int open_pairs(PairSet* known) noexcept nogil:
    """Make an empty set; return 0, or -1 when memory runs out.  Either way it wants close_pairs."""
    known.slots = 4096
    known.count = 0
    known.pairs = <SeriesRow*>malloc(known.slots // 2 * sizeof(SeriesRow))
    known.table = <uint32_t*>calloc(known.slots, sizeof(uint32_t))
    return 0 if known.pairs != NULL and known.table != NULL else -1


cdef inline void close_pairs(PairSet* known) noexcept nogil:
    free(known.pairs)
    free(known.table)


cdef inline Py_ssize_t _slot_of(int64_t series, int64_t time, Py_ssize_t slots) noexcept nogil:
    cdef uint64_t mixed = <uint64_t>time ^ (<uint64_t>series * <uint64_t>0x9E3779B97F4A7C15)
    mixed *= <uint64_t>0xD6E8FEB86659FD93
    mixed ^= mixed >> 32
    mixed *= <uint64_t>0xD6E8FEB86659FD93
    mixed ^= mixed >> 32
    return <Py_ssize_t>(mixed & <uint64_t>(slots - 1))


cdef inline Py_ssize_t number_of_pair(PairSet* known, int64_t series, int64_t time) noexcept nogil:
    """Return the pair's number, by order of first sight; -1 when memory runs out."""
    cdef Py_ssize_t slot = _slot_of(series, time, known.slots)
    cdef SeriesRow* pair
    while known.table[slot]:
        pair = &known.pairs[known.table[slot] - 1]
        if pair.series == series and pair.time == time:
            return <Py_ssize_t>known.table[slot] - 1
        slot = (slot + 1) & (known.slots - 1)
    if known.count == known.slots // 2:
        if _grow_pairs(known) != 0:
            return -1
        slot = _slot_of(series, time, known.slots)
        while known.table[slot]:
            slot = (slot + 1) & (known.slots - 1)
    pair = &known.pairs[known.count]
    pair.series = series
    pair.time = time
    pair.row = <uint32_t>known.count
    known.count += 1
    known.table[slot] = <uint32_t>known.count
    return known.count - 1


cdef inline int _grow_pairs(PairSet* known) noexcept nogil:
    cdef SeriesRow* pairs = <SeriesRow*>realloc(known.pairs, known.slots * sizeof(SeriesRow))
    cdef uint32_t* table
    cdef Py_ssize_t number, slot
    if pairs == NULL:
        return -1
    known.pairs = pairs
    table = <uint32_t*>calloc(2 * known.slots, sizeof(uint32_t))
    if table == NULL:
        return -1
    free(known.table)
    known.table = table
    known.slots *= 2
    for number in range(known.count):
        slot = _slot_of(pairs[number].series, pairs[number].time, known.slots)
        while table[slot]:
            slot = (slot + 1) & (known.slots - 1)
        table[slot] = <uint32_t>(number + 1)
    return 0
