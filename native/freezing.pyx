"""Tag sets of a catalogue as the bytes of a tag-set file (docs/formats/catalogue.md; read by native.tagsetfile)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp.vector cimport vector

from native.catalogue cimport Catalogue
from native.checksum cimport crc32c_of
from native.cursor cimport Cursor, cursor_over, left, read_u16, read_u32, take
from native.labels cimport LABEL_NO_MEMORY, LabelEntry, LabelTable, label_map_intern
from native.tagsetfile cimport TAGSET_FILE_VERSION, TAGSET_HEADER_BYTES, TagsetHeader, section_bytes
from native.tagsetview cimport TagsetView, canonical_hash, canonical_length, write_canonical

from native.tagsetfile import MAGIC


cdef extern from * nogil:
    """
    static inline void put_section(char **at, const void *data, size_t bytes) {
        const size_t padded = (bytes + 7) & ~size_t{7};
        if (bytes) std::memcpy(*at, data, bytes);
        std::memset(*at + bytes, 0, padded - bytes);
        *at += padded;
    }
    """
    void put_section(char **at, const void *data, size_t bytes) noexcept



cdef uint64_t MOST = 0xFFFFFFFF


cdef uint64_t slots_for(uint64_t count) noexcept nogil:
    """Return the smallest power of two of which ``count`` slots are at most five in eight."""
    cdef uint64_t slots = 16
    while count * 8 > slots * 5:
        slots *= 2
    return slots


def freeze(Catalogue catalogue not None, int64_t first, int64_t last, uint64_t seed):
    """Return a file of the tag sets with ``first <= number < last``, whose hashes start from ``seed``.

    The tag sets must be settled (`Catalogue.settled_mark`); others may be defined meanwhile, but `use_files` must not
    be called.  Raises ValueError for an empty range or one that is not defined, and for more than a file can number
    (2^32 tags, 4 GiB of text).
    """
    cdef vector[LabelEntry] entries  # of the tail
    cdef vector[uint32_t] tables, offsets, keys, values, symbol_offsets
    cdef vector[uint64_t] slots
    cdef vector[char] canonical
    cdef LabelTable symbols = LabelTable()
    # Keys stay where they are as long as their table does.
    cdef LabelTable tail = catalogue.tail
    cdef tuple files = catalogue.files
    cdef const TagsetView *view
    cdef const char *key
    cdef size_t length
    cdef int64_t number, symbol = 0
    cdef uint64_t text_bytes = 0, mask, at
    cdef uint32_t place, hashed, frozen, name_length
    cdef Cursor cursor
    cdef TagsetHeader header
    cdef char *start
    cdef char *out
    catalogue.checked_tagsets(first, last)
    if first == last:
        raise ValueError(f"cannot freeze tag sets {first} to {last}: got none, want at least one")
    frozen = catalogue.frozen
    if last > frozen:
        entries.resize(last - max(first, <int64_t>frozen))
        catalogue.lock.lock()
        memcpy(
            entries.data(), &tail.labels.entries[max(first, <int64_t>frozen) - frozen], entries.size() * sizeof(LabelEntry)
        )
        catalogue.lock.unlock()
    mask = slots_for(last - first) - 1
    slots.resize(mask + 1)
    tables.reserve(last - first)
    offsets.reserve(last - first + 1)
    offsets.push_back(0)
    with nogil:
        for number in range(first, last):
            if number < frozen:
                view = catalogue.view_of(<uint32_t>number)
                length = canonical_length(view, <uint32_t>number - view.first)
                canonical.resize(length)
                write_canonical(view, <uint32_t>number - view.first, canonical.data())
                key = canonical.data()
            else:
                place = <uint32_t>(number - max(first, <int64_t>frozen))
                key = entries[place].data
                length = entries[place].length
            cursor = cursor_over(<const uint8_t *>key, length, 0)
            tables.push_back(read_u32(&cursor))
            while left(&cursor):
                name_length = read_u16(&cursor)
                symbol = label_map_intern(&symbols.labels, <const char *>take(&cursor, name_length), name_length)
                if symbol < 0:
                    break
                keys.push_back(<uint32_t>symbol)
                name_length = read_u32(&cursor)
                symbol = label_map_intern(&symbols.labels, <const char *>take(&cursor, name_length), name_length)
                if symbol < 0:
                    break
                values.push_back(<uint32_t>symbol)
            if symbol < 0 or keys.size() > <size_t>MOST:
                break
            offsets.push_back(<uint32_t>keys.size())
            hashed = canonical_hash(key, length, seed)
            at = hashed & mask
            while slots[at] != 0:
                at = (at + 1) & mask
            slots[at] = (<uint64_t>hashed << 32) | (<uint64_t>(number - first) + 1)
        symbol_offsets.reserve(symbols.labels.count + 1)
        symbol_offsets.push_back(0)
        for place in range(symbols.labels.count):
            text_bytes += symbols.labels.entries[place].length
            symbol_offsets.push_back(<uint32_t>text_bytes)
    if symbol == LABEL_NO_MEMORY:
        raise MemoryError(f"cannot freeze tag sets {first} to {last}: got no memory")
    if symbol < 0 or keys.size() > <size_t>MOST or text_bytes > <uint64_t>MOST:
        raise ValueError(
            f"cannot freeze tag sets {first} to {last}: got {keys.size()} tags and {text_bytes} bytes, want fewer than 2^32"
        )
    length = TAGSET_HEADER_BYTES + section_bytes(slots.size(), 8) + section_bytes(tables.size(), 4)
    length += section_bytes(offsets.size(), 4) + 2 * section_bytes(keys.size(), 4)
    length += section_bytes(symbol_offsets.size(), 4) + section_bytes(text_bytes, 1)
    result = PyBytes_FromStringAndSize(NULL, length)
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, PyBytes_AS_STRING(MAGIC), 8)
    header.version = TAGSET_FILE_VERSION
    header.first = <uint32_t>first
    header.count = <uint32_t>(last - first)
    header.symbols = symbols.labels.count
    header.tags = keys.size()
    header.slots = slots.size()
    header.text_bytes = text_bytes
    header.seed = seed
    start = PyBytes_AS_STRING(result)
    out = start + <size_t>TAGSET_HEADER_BYTES
    with nogil:
        put_section(&out, slots.data(), slots.size() * 8)
        put_section(&out, tables.data(), tables.size() * 4)
        put_section(&out, offsets.data(), offsets.size() * 4)
        put_section(&out, keys.data(), keys.size() * 4)
        put_section(&out, values.data(), values.size() * 4)
        put_section(&out, symbol_offsets.data(), symbol_offsets.size() * 4)
        # The text is put together in place: it may be the largest section.
        memset(out, 0, section_bytes(text_bytes, 1))
        for place in range(symbols.labels.count):
            memcpy(out, symbols.labels.entries[place].data, symbols.labels.entries[place].length)
            out += symbols.labels.entries[place].length
        out = start
        header.body_checksum = crc32c_of(
            <const uint8_t *>out + <size_t>TAGSET_HEADER_BYTES, length - TAGSET_HEADER_BYTES, 0
        )
        header.header_checksum = crc32c_of(<const uint8_t *>&header, TAGSET_HEADER_BYTES - 4, 0)
        memcpy(out, &header, sizeof(header))
    return result
