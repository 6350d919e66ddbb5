"""CRC-32C (Castagnoli), the checksum of every frame and file header (docs/formats/wal.md).

Reflected polynomial 0x82F63B78, initial value and final XOR 0xFFFFFFFF, as in RFC 3720 appendix B.4: the checksum of
``b"123456789"`` is 0xE3069283.  Processors with SSE4.2 compute it in one instruction for eight bytes; whether this one
has it is asked once, at import, so that the build needs no machine-specific flags.  Others use eight tables of 256
entries (slicing by eight), which are filled at import.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <cstdint>
    #include <cstring>

    #if defined(__x86_64__) && defined(__GNUC__)
    static int crc32c_instruction_present(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2");
    }
    __attribute__((target("sse4.2")))
    static uint32_t crc32c_by_instruction(const uint8_t* data, size_t length, uint32_t crc) {
        uint64_t state = crc;
        for (; length >= 8; data += 8, length -= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            state = __builtin_ia32_crc32di(state, word);
        }
        uint32_t narrow = (uint32_t)state;
        for (; length > 0; ++data, --length)
            narrow = __builtin_ia32_crc32qi(narrow, *data);
        return narrow;
    }
    #else
    static int crc32c_instruction_present(void) { return 0; }
    static uint32_t crc32c_by_instruction(const uint8_t*, size_t, uint32_t crc) { return crc; }
    #endif
    """
    bint crc32c_instruction_present() nogil
    uint32_t crc32c_by_instruction(const uint8_t* data, size_t length, uint32_t crc) nogil

cdef enum:
    RELEASE_GIL_BYTES = 16384   # less is dealt with before the GIL could be given up and taken back

cdef uint32_t TABLES[8][256]
cdef bint BY_INSTRUCTION = crc32c_instruction_present()


cdef void fill_tables() noexcept:
    """Fill ``TABLES[k][b]``: the effect of byte b that still has k bytes behind it."""
    cdef uint32_t crc
    cdef int byte, bit, behind
    for byte in range(256):
        crc = <uint32_t>byte
        for bit in range(8):
            crc = (crc >> 1) ^ (<uint32_t>0x82F63B78 if crc & 1 else <uint32_t>0)
        TABLES[0][byte] = crc
    for behind in range(1, 8):
        for byte in range(256):
            crc = TABLES[behind - 1][byte]
            TABLES[behind][byte] = (crc >> 8) ^ TABLES[0][crc & 0xFF]


fill_tables()


cdef uint32_t crc32c_by_tables(const uint8_t* data, size_t length, uint32_t crc) noexcept nogil:
    cdef uint64_t word
    while length >= 8:
        memcpy(&word, data, 8)
        word ^= crc
        crc = (
            TABLES[7][word & 0xFF]
            ^ TABLES[6][(word >> 8) & 0xFF]
            ^ TABLES[5][(word >> 16) & 0xFF]
            ^ TABLES[4][(word >> 24) & 0xFF]
            ^ TABLES[3][(word >> 32) & 0xFF]
            ^ TABLES[2][(word >> 40) & 0xFF]
            ^ TABLES[1][(word >> 48) & 0xFF]
            ^ TABLES[0][word >> 56]
        )
        data += 8
        length -= 8
    while length > 0:
        crc = (crc >> 8) ^ TABLES[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return crc


cdef uint32_t crc32c_of(const uint8_t* data, size_t length, uint32_t crc) noexcept nogil:
    """Return the checksum of ``length`` bytes that follow bytes whose checksum is ``crc`` (0 for none)."""
    if BY_INSTRUCTION:
        return crc32c_by_instruction(data, length, crc ^ <uint32_t>0xFFFFFFFF) ^ <uint32_t>0xFFFFFFFF
    return crc32c_by_tables(data, length, crc ^ <uint32_t>0xFFFFFFFF) ^ <uint32_t>0xFFFFFFFF


def crc32c(data, uint32_t crc=0):
    """Return the CRC-32C of ``data`` (any contiguous buffer), continuing from ``crc``.

    ``crc32c(a + b) == crc32c(b, crc32c(a))``.  Raises TypeError when ``data`` is not a buffer, BufferError when it is
    not contiguous, OverflowError when ``crc`` does not fit 32 bits.
    """
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < RELEASE_GIL_BYTES:
            result = crc32c_of(<const uint8_t*>view.buf, view.len, crc)
        else:
            with nogil:
                result = crc32c_of(<const uint8_t*>view.buf, view.len, crc)
    finally:
        PyBuffer_Release(&view)
    return result


def crc32c_portable(data, uint32_t crc=0):
    """Return the same by tables alone, so that this path is tested on machines that have the instruction."""
    cdef const uint8_t[::1] view = data
    return crc32c_by_tables(&view[0], view.shape[0], crc ^ <uint32_t>0xFFFFFFFF) ^ <uint32_t>0xFFFFFFFF
