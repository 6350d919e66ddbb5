"""What a tag-set file holds, read in place (layout: docs/formats/catalogue.md, "Tag-set files").

A `TagsetView` is pointers into bytes that `native.tagsetfile` has checked once: every offset, symbol number and slot
lies within its section, so that the loops below need no check of their own.  A tag set is named by its place in the
file, `number - view.first`.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from native.labels cimport LABEL_UNKNOWN, hash_bytes


cdef struct TagsetView:
    const uint32_t *tables  # by tag set
    const uint32_t *offsets  # by tag set, and one more: where its tags start among keys and values
    const uint32_t *keys  # symbol of each tag's key
    const uint32_t *values  # symbol of each tag's value
    const uint32_t *symbol_offsets  # by symbol, and one more: where its text starts
    const uint64_t *slots  # as in native.labels: 0 = free, else hash << 32 | place + 1
    const char *text
    uint64_t slot_mask
    uint64_t seed
    uint32_t first
    uint32_t count
    uint32_t symbols


cdef inline size_t symbol_length(const TagsetView *view, uint32_t symbol) noexcept nogil:
    return view.symbol_offsets[symbol + 1] - view.symbol_offsets[symbol]


cdef inline const char *symbol_text(const TagsetView *view, uint32_t symbol) noexcept nogil:
    return view.text + view.symbol_offsets[symbol]


cdef inline bint symbol_is(const TagsetView *view, uint32_t symbol, const char *text, size_t length) noexcept nogil:
    return symbol_length(view, symbol) == length and memcmp(symbol_text(view, symbol), text, length) == 0


cdef inline int64_t find_symbol(const TagsetView *view, const char *text, size_t length) noexcept nogil:
    """Return the symbol with that text, or LABEL_UNKNOWN.  Compares lengths first: four bytes a symbol are read."""
    cdef uint32_t symbol
    for symbol in range(view.symbols):
        if symbol_is(view, symbol, text, length):
            return symbol
    return LABEL_UNKNOWN


cdef inline size_t canonical_length(const TagsetView *view, uint32_t place) noexcept nogil:
    """Return how long the tag set's canonical key is (native.tagset_key)."""
    cdef size_t length = 4
    cdef uint32_t at
    for at in range(view.offsets[place], view.offsets[place + 1]):
        length += 6 + symbol_length(view, view.keys[at]) + symbol_length(view, view.values[at])
    return length


cdef inline void write_canonical(const TagsetView *view, uint32_t place, char *key) noexcept nogil:
    """Write the tag set's canonical key to `key`, which has room for `canonical_length`."""
    cdef uint32_t at, value_length
    cdef uint16_t name_length
    memcpy(key, &view.tables[place], 4)
    key += 4
    for at in range(view.offsets[place], view.offsets[place + 1]):
        name_length = <uint16_t>symbol_length(view, view.keys[at])
        value_length = <uint32_t>symbol_length(view, view.values[at])
        memcpy(key, &name_length, 2)
        memcpy(key + 2, symbol_text(view, view.keys[at]), name_length)
        key += 2 + name_length
        memcpy(key, &value_length, 4)
        memcpy(key + 4, symbol_text(view, view.values[at]), value_length)
        key += 4 + value_length


cdef inline bint is_canonical(const TagsetView *view, uint32_t place, const char *key, size_t length) noexcept nogil:
    """Return whether `key` is the tag set's canonical key."""
    cdef const char *end = key + length
    cdef uint32_t at, value_length
    cdef uint16_t name_length
    cdef size_t size
    if length < 4 or memcmp(key, &view.tables[place], 4) != 0:
        return False
    key += 4
    for at in range(view.offsets[place], view.offsets[place + 1]):
        size = symbol_length(view, view.keys[at])
        name_length = <uint16_t>size
        if <size_t>(end - key) < 6 + size or memcmp(key, &name_length, 2) != 0:
            return False
        if memcmp(key + 2, symbol_text(view, view.keys[at]), size) != 0:
            return False
        key += 2 + size
        size = symbol_length(view, view.values[at])
        value_length = <uint32_t>size
        if <size_t>(end - key) < 4 + size or memcmp(key, &value_length, 4) != 0:
            return False
        if memcmp(key + 4, symbol_text(view, view.values[at]), size) != 0:
            return False
        key += 4 + size
    return key == end


cdef inline int64_t find_canonical(
    const TagsetView *view, const char *key, size_t length, uint32_t hashed
) noexcept nogil:
    """Return the place of the tag set with that canonical key, whose hash by the view's seed is `hashed`."""
    cdef uint64_t at = hashed & view.slot_mask, slot
    while True:
        slot = view.slots[at]
        if slot == 0:
            return LABEL_UNKNOWN
        if slot >> 32 == hashed and is_canonical(view, <uint32_t>slot - 1, key, length):
            return <uint32_t>slot - 1
        at = (at + 1) & view.slot_mask


cdef inline uint32_t canonical_hash(const char *key, size_t length, uint64_t seed) noexcept nogil:
    return <uint32_t>(hash_bytes(key, length, seed) >> 32)
