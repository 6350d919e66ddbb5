"""Byte strings numbered densely in order of first sight: the map itself, for every native module that names things.

`LabelMap` is a plain struct used without the GIL.  Keys are copied into an arena whose chunks never move and are
never freed before the map, so a key's address stays valid however the map grows; the tables of slots and entries
do move.  One thread may change a map at a time; see `native.catalogue` for how readers are kept out meanwhile.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset


cdef extern from "hashing.h" namespace "tidegauge" nogil:
    uint64_t hash_bytes(const char *data, size_t length, uint64_t seed) noexcept


cdef enum:
    LABEL_UNKNOWN = -1  # find: no such key
    LABEL_NO_MEMORY = -2  # intern: the allocator refused; the map is unchanged
    LABEL_FULL = -3  # intern: identifiers or key lengths are exhausted; the map is unchanged
    MAX_LABELS = 0x7FFFFFFF
    FIRST_CHUNK_BYTES = 1 << 10
    LAST_CHUNK_BYTES = 1 << 20


cdef struct LabelEntry:
    const char *data
    uint32_t length
    uint32_t hashed  # kept so that growing never reads the keys again


cdef struct LabelChunk:
    LabelChunk *older
    size_t capacity  # bytes that follow this header


cdef struct LabelMap:
    LabelEntry *entries  # by identifier
    uint64_t *slots  # open addressing, linear probing: 0 = free, else hash << 32 | identifier + 1
    LabelChunk *chunk  # newest chunk of the arena
    size_t chunk_used
    size_t arena_bytes
    uint64_t slot_mask  # slots - 1; meaningless while slots is NULL
    uint64_t seed
    uint32_t count
    uint32_t capacity  # of entries


cdef inline void label_map_init(LabelMap *labels, uint64_t seed) noexcept nogil:
    memset(labels, 0, sizeof(LabelMap))
    labels.seed = seed


cdef inline void label_map_free(LabelMap *labels) noexcept nogil:
    """Release everything; the map is then empty and usable again."""
    cdef LabelChunk *chunk = labels.chunk
    cdef LabelChunk *older
    while chunk != NULL:
        older = chunk.older
        free(chunk)
        chunk = older
    free(labels.entries)
    free(labels.slots)
    label_map_init(labels, labels.seed)


cdef inline size_t label_map_bytes(const LabelMap *labels) noexcept nogil:
    cdef size_t slots = labels.slot_mask + 1 if labels.slots != NULL else 0
    return labels.arena_bytes + labels.capacity * sizeof(LabelEntry) + slots * sizeof(uint64_t)


cdef inline uint32_t label_map_hash(const LabelMap *labels, const char *data, size_t length) noexcept nogil:
    return <uint32_t>(hash_bytes(data, length, labels.seed) >> 32)


cdef inline int64_t label_map_find_hashed(
    const LabelMap *labels, const char *data, size_t length, uint32_t hashed
) noexcept nogil:
    cdef uint64_t at, slot
    cdef const LabelEntry *entry
    if labels.slots == NULL:
        return LABEL_UNKNOWN
    at = hashed & labels.slot_mask
    while True:
        slot = labels.slots[at]
        if slot == 0:
            return LABEL_UNKNOWN
        if slot >> 32 == hashed:
            entry = &labels.entries[<uint32_t>slot - 1]
            if entry.length == length and memcmp(entry.data, data, length) == 0:
                return <uint32_t>slot - 1
        at = (at + 1) & labels.slot_mask


cdef inline int64_t label_map_find(const LabelMap *labels, const char *data, size_t length) noexcept nogil:
    """Return the identifier of the key, or LABEL_UNKNOWN."""
    return label_map_find_hashed(labels, data, length, label_map_hash(labels, data, length))


cdef inline void label_map_place(LabelMap *labels, uint32_t hashed, uint32_t identifier) noexcept nogil:
    cdef uint64_t at = hashed & labels.slot_mask
    while labels.slots[at] != 0:
        at = (at + 1) & labels.slot_mask
    labels.slots[at] = (<uint64_t>hashed << 32) | (<uint64_t>identifier + 1)


cdef inline void label_map_place_all(LabelMap *labels) noexcept nogil:
    cdef uint32_t identifier
    memset(labels.slots, 0, (labels.slot_mask + 1) * sizeof(uint64_t))
    for identifier in range(labels.count):
        label_map_place(labels, labels.entries[identifier].hashed, identifier)


cdef inline bint label_map_make_room(LabelMap *labels, size_t length) noexcept nogil:
    """Grow entries, slots and arena so that one more key of `length` bytes fits; False when memory is refused."""
    cdef uint32_t capacity
    cdef uint64_t slots
    cdef size_t chunk_bytes
    cdef void *memory
    cdef uint64_t *old_slots
    if labels.count == labels.capacity:
        capacity = 8 if labels.capacity == 0 else labels.capacity * 2
        memory = realloc(labels.entries, capacity * sizeof(LabelEntry))
        if memory == NULL:
            return False
        labels.entries = <LabelEntry *>memory
        labels.capacity = capacity
    # At most five slots in eight are taken: short probe chains, and always a free slot to stop at.
    if labels.slots == NULL or (<uint64_t>labels.count + 1) * 8 > (labels.slot_mask + 1) * 5:
        slots = 16 if labels.slots == NULL else (labels.slot_mask + 1) * 2
        memory = calloc(slots, sizeof(uint64_t))
        if memory == NULL:
            return False
        old_slots = labels.slots
        labels.slots = <uint64_t *>memory
        labels.slot_mask = slots - 1
        label_map_place_all(labels)
        free(old_slots)
    if labels.chunk == NULL or labels.chunk.capacity - labels.chunk_used < length:
        chunk_bytes = FIRST_CHUNK_BYTES
        if labels.chunk != NULL:
            chunk_bytes = min(labels.arena_bytes, <size_t>LAST_CHUNK_BYTES)
        chunk_bytes = max(chunk_bytes, length)
        memory = malloc(sizeof(LabelChunk) + chunk_bytes)
        if memory == NULL:
            return False
        (<LabelChunk *>memory).older = labels.chunk
        (<LabelChunk *>memory).capacity = chunk_bytes
        labels.chunk = <LabelChunk *>memory
        labels.chunk_used = 0
        labels.arena_bytes += chunk_bytes
    return True


cdef inline int64_t label_map_intern_hashed(
    LabelMap *labels, const char *data, size_t length, uint32_t hashed
) noexcept nogil:
    cdef int64_t found = label_map_find_hashed(labels, data, length, hashed)
    cdef char *copy
    cdef LabelEntry *entry
    if found >= 0:
        return found
    if labels.count >= <uint32_t>MAX_LABELS or length > <size_t>MAX_LABELS:
        return LABEL_FULL
    if not label_map_make_room(labels, length):
        return LABEL_NO_MEMORY
    copy = <char *>(labels.chunk + 1) + labels.chunk_used
    memcpy(copy, data, length)
    labels.chunk_used += length
    entry = &labels.entries[labels.count]
    entry.data = copy
    entry.length = <uint32_t>length
    entry.hashed = hashed
    label_map_place(labels, hashed, labels.count)
    labels.count += 1
    return labels.count - 1


cdef inline int64_t label_map_intern(LabelMap *labels, const char *data, size_t length) noexcept nogil:
    """Return the identifier of the key, numbering it when it is new; LABEL_NO_MEMORY or LABEL_FULL otherwise."""
    return label_map_intern_hashed(labels, data, length, label_map_hash(labels, data, length))


cdef inline void label_map_truncate(LabelMap *labels, uint32_t count) noexcept nogil:
    """Forget every identifier from `count` on; the bytes of their keys stay allocated."""
    if count < labels.count:
        labels.count = count
        label_map_place_all(labels)


cdef class LabelTable:
    cdef LabelMap labels
