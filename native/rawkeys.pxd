"""Series keys as senders write them, numbered: what the decoders find tag sets by without parsing.

The first keys are kept as text, so that the usual few are found by comparing bytes.  Beyond a limit of text only a
fingerprint of each key is kept, 128 bits by SipHash-2-4 under a secret key: two keys have the same with a probability
of 2^-128, and nobody can look for such keys without knowing the secret.  That takes
60 to 80 bytes a series, whatever the length of its text, and 70 ns a line of 160 bytes.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from native.labels cimport (
    LABEL_FULL,
    LABEL_NO_MEMORY,
    LABEL_UNKNOWN,
    MAX_LABELS,
    LabelEntry,
    LabelMap,
    label_map_bytes,
    label_map_free,
    label_map_hash,
    label_map_init,
    label_map_make_room,
    label_map_place,
)


cdef extern from "siphash.h" namespace "tidegauge" nogil:
    void fingerprint(const char *data, size_t length, const uint64_t *key, uint64_t *out) noexcept


cdef extern from "scanning.h" namespace "tidegauge" nogil:
    bint same_bytes(const char *a, const char *b, size_t length) noexcept


cdef enum:
    FINGERPRINTED = 0x80000000  # of an entry's length: its data is the fingerprint of a key of that length
    FINGERPRINT_BYTES = 16  # keys up to this are kept as text always
    KEY_TEXT_BYTES = 8 << 20  # of text a decoder keeps, if not told otherwise


cdef struct RawKeys:
    LabelMap map
    uint64_t secret[2]
    size_t text_bytes
    size_t max_text_bytes


cdef inline void raw_keys_init(RawKeys *keys, const char *random, size_t max_text_bytes) noexcept nogil:
    """Make an empty table; `random`: 24 bytes."""
    cdef uint64_t seed
    memcpy(&seed, random, 8)
    memcpy(keys.secret, random + 8, 16)
    label_map_init(&keys.map, seed)
    keys.text_bytes = 0
    keys.max_text_bytes = max_text_bytes


cdef inline void raw_keys_free(RawKeys *keys) noexcept nogil:
    """Release everything; the table is then empty and usable again."""
    label_map_free(&keys.map)
    keys.text_bytes = 0


cdef inline size_t raw_key_length(const LabelEntry *entry) noexcept nogil:
    return entry.length & ~<uint32_t>FINGERPRINTED


cdef inline bint is_raw_key(const RawKeys *keys, const LabelEntry *entry, const char *data) noexcept nogil:
    """Return whether `data`, which is as long as the key, is the key of the entry."""
    cdef uint64_t found[2]
    if not entry.length & <uint32_t>FINGERPRINTED:
        return same_bytes(data, entry.data, entry.length)
    fingerprint(data, raw_key_length(entry), keys.secret, found)
    return memcmp(found, entry.data, FINGERPRINT_BYTES) == 0


cdef inline int64_t raw_keys_find_hashed(
    const RawKeys *keys, const char *data, size_t length, uint32_t hashed
) noexcept nogil:
    cdef uint64_t at, slot
    cdef const LabelEntry *entry
    if keys.map.slots == NULL:
        return LABEL_UNKNOWN
    at = hashed & keys.map.slot_mask
    while True:
        slot = keys.map.slots[at]
        if slot == 0:
            return LABEL_UNKNOWN
        if slot >> 32 == hashed:
            entry = &keys.map.entries[<uint32_t>slot - 1]
            if raw_key_length(entry) == length and is_raw_key(keys, entry, data):
                return <uint32_t>slot - 1
        at = (at + 1) & keys.map.slot_mask


cdef inline int64_t raw_keys_find(const RawKeys *keys, const char *data, size_t length) noexcept nogil:
    """Return the identifier of the key, or LABEL_UNKNOWN."""
    return raw_keys_find_hashed(keys, data, length, label_map_hash(&keys.map, data, length))


cdef inline int64_t raw_keys_intern(RawKeys *keys, const char *data, size_t length) noexcept nogil:
    """Return the identifier of the key, numbering it when it is new; LABEL_NO_MEMORY or LABEL_FULL otherwise."""
    cdef uint32_t hashed = label_map_hash(&keys.map, data, length)
    cdef int64_t found = raw_keys_find_hashed(keys, data, length, hashed)
    cdef bint as_text = length <= FINGERPRINT_BYTES or keys.text_bytes + length <= keys.max_text_bytes
    cdef size_t kept = length if as_text else FINGERPRINT_BYTES
    cdef char *copy
    cdef LabelEntry *entry
    cdef uint64_t made[2]
    if found >= 0:
        return found
    if keys.map.count >= <uint32_t>MAX_LABELS or length > <size_t>MAX_LABELS:
        return LABEL_FULL
    if not label_map_make_room(&keys.map, kept):
        return LABEL_NO_MEMORY
    copy = <char *>(keys.map.chunk + 1) + keys.map.chunk_used
    entry = &keys.map.entries[keys.map.count]
    entry.data = copy
    entry.hashed = hashed
    if as_text:
        memcpy(copy, data, length)
        entry.length = <uint32_t>length
        keys.text_bytes += length
    else:
        fingerprint(data, length, keys.secret, made)
        memcpy(copy, made, FINGERPRINT_BYTES)
        entry.length = <uint32_t>length | <uint32_t>FINGERPRINTED
    keys.map.chunk_used += kept
    label_map_place(&keys.map, hashed, keys.map.count)
    keys.map.count += 1
    return keys.map.count - 1


cdef inline size_t raw_keys_bytes(const RawKeys *keys) noexcept nogil:
    return label_map_bytes(&keys.map)
