from libc.stdint cimport uint32_t, uint64_t

from native.tagsetview cimport TagsetView


cdef enum:
    TAGSET_FILE_VERSION = 1
    TAGSET_HEADER_BYTES = 64


cdef struct TagsetHeader:  # the first bytes of a file, all little-endian
    char magic[8]
    uint32_t version
    uint32_t first
    uint32_t count
    uint32_t symbols
    uint64_t tags
    uint64_t slots
    uint64_t text_bytes
    uint64_t seed
    uint32_t body_checksum
    uint32_t header_checksum


cdef uint64_t section_bytes(uint64_t items, uint64_t width) noexcept nogil

cdef class TagsetFile:
    cdef readonly object source  # memoryview, keeps the bytes mapped
    cdef readonly str path
    cdef const char *data
    cdef size_t length
    cdef TagsetView view
    cdef readonly uint64_t tags
