"""From dictionary codes to numbers: which tag set each row of an Arrow batch belongs to.

A batch has one column of codes a tag, and a row's combination of codes stands for a tag set.  Codes are combined into
one key by mixed radix, and keys are looked up in a hash table.  Senders repeat their tag sets in one order, so each
entry remembers which one followed it last time, and a row is found by one comparison as a rule.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from native.arguments cimport checked_array, same_length

import numpy as np

cdef extern from *:
    """
    static constexpr uint64_t TIDEGAUGE_EXPONENT = 0x7FF0000000000000u, TIDEGAUGE_ONE_EXPONENT = 0x0010000000000000u;
    """
    const uint64_t EXPONENT "TIDEGAUGE_EXPONENT"
    const uint64_t ONE_EXPONENT "TIDEGAUGE_ONE_EXPONENT"

cdef enum:
    AT_ONCE = 1_024  # rows whose keys stay in the cache while one column after the other is added
    FIRST_SLOTS = 64
    NO_ENTRY = 0xFFFFFFFF


ctypedef fused Code:
    int32_t
    int64_t


cdef Py_ssize_t add_codes(const Code *codes, Py_ssize_t rows, int64_t size, int64_t *keys) noexcept nogil:
    """Make each key ``key * size + code``; return how many codes are not below ``size``."""
    cdef Py_ssize_t row, wrong = 0
    for row in range(rows):
        wrong += <uint64_t>codes[row] >= <uint64_t>size
        keys[row] = keys[row] * size + codes[row]
    return wrong


def combine(list codes, list sizes):
    """Return int64[n], one key for each combination of codes: the first column counts most.

    ``codes``: one int32[n] or int64[n] a tag, at least one; ``sizes``: how many codes each tag has.  Keys are unique
    while the product of the sizes is below 2^63, which is the caller's to see to.  Raises ValueError for a code that is
    not in 0..size - 1, TypeError or ValueError for other arrays.
    """
    cdef Py_ssize_t rows = len(codes[0])
    cdef Py_ssize_t begin, count, wrong = 0
    cdef size_t column, columns = len(codes)
    cdef vector[const void *] starts
    cdef vector[bint] wide
    cdef vector[int64_t] radix
    cdef const int32_t[::1] narrow_codes
    cdef const int64_t[::1] wide_codes
    for array, size in zip(codes, sizes, strict=True):
        kind = np.int64 if isinstance(array, np.ndarray) and array.dtype == np.int64 else np.int32
        same_length(checked_array(array, "codes", kind, 1), "codes", rows, "the first column")
        if rows == 0:
            continue
        if kind is np.int64:
            wide_codes = array
            starts.push_back(&wide_codes[0])
        else:
            narrow_codes = array
            starts.push_back(&narrow_codes[0])
        wide.push_back(kind is np.int64)
        radix.push_back(size)
    keys = np.zeros(rows, np.int64)
    cdef int64_t[::1] out = keys
    with nogil:
        begin = 0
        while begin < rows:
            count = min(rows - begin, <Py_ssize_t>AT_ONCE)
            for column in range(columns):
                if wide[column]:
                    wrong += add_codes(<const int64_t *>starts[column] + begin, count, radix[column], &out[begin])
                else:
                    wrong += add_codes(<const int32_t *>starts[column] + begin, count, radix[column], &out[begin])
            begin += count
    if wrong:
        raise ValueError(f"cannot combine codes: got {wrong} that no value stands for")
    return keys


cdef struct Entry:
    int64_t key
    int32_t number
    uint32_t next  # the entry that followed this one last time


cdef inline uint64_t mixed(int64_t key) noexcept nogil:
    """Return the key with its bits spread to the top (Fibonacci hashing, Knuth, TAOCP 3, 6.4)."""
    cdef uint64_t bits = <uint64_t>key * <uint64_t>0x9E3779B97F4A7C15
    return bits ^ (bits >> 29)


cdef class KeyNumbers:
    """Numbers by key; keys are added once and never change.  One thread at a time."""

    cdef vector[Entry] entries
    cdef vector[uint32_t] slots  # a power of two, at most half full; NO_ENTRY where empty
    cdef uint32_t last

    def __cinit__(self):
        self.slots.assign(FIRST_SLOTS, NO_ENTRY)
        self.last = NO_ENTRY

    def __len__(self):
        return self.entries.size()

    cdef inline size_t slot_of(self, int64_t key) noexcept nogil:
        """Return the slot that holds the key, or the empty one where it belongs."""
        cdef size_t mask = self.slots.size() - 1
        cdef size_t slot = mixed(key) & mask
        while self.slots[slot] != NO_ENTRY and self.entries[self.slots[slot]].key != key:
            slot = (slot + 1) & mask
        return slot

    def add(self, keys, numbers):
        """Give int64[k] ``keys``, none of them known, their int32[k] ``numbers``; raises TypeError or ValueError."""
        cdef const int64_t[::1] given = checked_array(keys, "keys", np.int64, 1)
        same_length(checked_array(numbers, "numbers", np.int32, 1), "numbers", given.shape[0], "keys")
        cdef const int32_t[::1] meant = numbers
        cdef Py_ssize_t at
        cdef Entry entry
        cdef size_t slot
        entry.next = NO_ENTRY
        for at in range(given.shape[0]):
            slot = self.slot_of(given[at])
            if self.slots[slot] != NO_ENTRY:
                raise ValueError(f"cannot add key: got {given[at]}, which is known")
            entry.key, entry.number = given[at], meant[at]
            self.slots[slot] = <uint32_t>self.entries.size()
            self.entries.push_back(entry)
            if 2 * self.entries.size() > self.slots.size():
                self.grow()

    cdef int grow(self) except -1:
        cdef uint32_t index
        cdef size_t size = 4 * self.slots.size()
        self.slots.assign(size, NO_ENTRY)
        for index in range(self.entries.size()):
            self.slots[self.slot_of(self.entries[index].key)] = index
        return 0

    def find(self, keys):
        """Return int32[n] numbers of int64[n] ``keys``, -1 for those that are not known; raises TypeError, ValueError.
        """
        cdef const int64_t[::1] given = checked_array(keys, "keys", np.int64, 1)
        found = np.empty(given.shape[0], np.int32)
        cdef int32_t[::1] out = found
        cdef Py_ssize_t at
        cdef uint32_t index
        with nogil:
            for at in range(given.shape[0]):
                index = self.entries[self.last].next if self.last != NO_ENTRY else NO_ENTRY
                if index == NO_ENTRY or self.entries[index].key != given[at]:
                    index = self.slots[self.slot_of(given[at])]
                    if index == NO_ENTRY:
                        out[at] = -1
                        continue
                    if self.last != NO_ENTRY:
                        self.entries[self.last].next = index
                out[at] = self.entries[index].number
                self.last = index
        return found


def all_finite(values):
    """Return whether no cell of float64[fields, n] ``values`` is NaN or infinite; each field lies in one piece."""
    cdef const double[:, :] cells = values
    cdef Py_ssize_t field, row
    cdef const uint64_t *column
    cdef uint64_t seen = 0
    if cells.shape[1] == 0:
        return True
    if cells.strides[1] != sizeof(double) and cells.shape[1] > 1:
        raise ValueError("cannot check numbers: got a field with gaps, want neighbouring cells")
    with nogil:
        for field in range(cells.shape[0]):
            column = <const uint64_t *>&cells[field, 0]
            # Only an exponent of all ones carries into the sign when one is added to it.
            for row in range(cells.shape[1]):
                seen |= (column[row] & EXPONENT) + ONE_EXPONENT
    return seen >> 63 == 0
