"""TagsetFile: an immutable file of tag sets, checked once and then read in place (docs/formats/catalogue.md)."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from native.checksum cimport crc32c_of
from native.tagset_key cimport MAX_TAGSET_BYTES, compare_bytes, is_utf8
from native.tagsetview cimport (
    TagsetView,
    canonical_hash,
    canonical_length,
    find_canonical,
    is_canonical,
    symbol_length,
    symbol_text,
)

cdef extern from *:
    """
    static_assert(sizeof(uint32_t) * 6 + sizeof(uint64_t) * 4 + 8 == 64, "the header is 64 bytes");
    """

MAGIC = b"TGTAGSET"
VERSION = TAGSET_FILE_VERSION
LARGEST_NUMBER = 0x7FFFFFFF


cdef enum Fault:
    SOUND
    BAD_TABLES
    BAD_OFFSETS
    BAD_SYMBOLS
    BAD_TEXT
    BAD_TAGS
    BAD_SLOTS


cdef uint64_t section_bytes(uint64_t items, uint64_t width) noexcept nogil:
    """Return how long a section is: a whole number of eight bytes."""
    return (items * width + 7) & ~<uint64_t>7


cdef Fault check_body(const TagsetView *view, uint64_t tags, uint64_t text_bytes) noexcept nogil:
    """Return what is wrong with the sections, so that nothing read through them can lie outside of them."""
    cdef uint32_t place, at, length
    cdef uint64_t slot, taken = 0, number
    if view.symbol_offsets[0] != 0 or view.symbol_offsets[view.symbols] != text_bytes:
        return BAD_SYMBOLS
    for at in range(view.symbols):
        if view.symbol_offsets[at] > view.symbol_offsets[at + 1] or view.symbol_offsets[at + 1] > text_bytes:
            return BAD_SYMBOLS
        if not is_utf8(symbol_text(view, at), symbol_length(view, at)):
            return BAD_TEXT
    if view.offsets[0] != 0 or view.offsets[view.count] != tags:
        return BAD_OFFSETS
    for place in range(view.count):
        if view.tables[place] >= <uint32_t>INT32_MAX:
            return BAD_TABLES
        if view.offsets[place] > view.offsets[place + 1] or view.offsets[place + 1] > tags:
            return BAD_OFFSETS
        for at in range(view.offsets[place], view.offsets[place + 1]):
            if view.keys[at] >= view.symbols or view.values[at] >= view.symbols:
                return BAD_TAGS
            length = <uint32_t>symbol_length(view, view.keys[at])
            if not 0 < length <= 0xFFFF:
                return BAD_TAGS
            if at > view.offsets[place] and compare_bytes(
                symbol_text(view, view.keys[at - 1]), symbol_length(view, view.keys[at - 1]),
                symbol_text(view, view.keys[at]), length,
            ) >= 0:
                return BAD_TAGS
        if canonical_length(view, place) > <size_t>MAX_TAGSET_BYTES:
            return BAD_TAGS
    for number in range(view.slot_mask + 1):
        slot = view.slots[number]
        if slot != 0:
            taken += 1
            if not 0 < <uint32_t>slot <= view.count:
                return BAD_SLOTS
    return SOUND if taken == view.count else BAD_SLOTS


cdef class TagsetFile:
    """Tag sets ``first`` to ``first + len(file)`` of a catalogue, read from a buffer that stays as it is.

    ``data`` is the whole file, for example a memory map; ``path`` is where others find it, if they can.  With ``verify`` the checksum of the body is compared too,
    which reads all of it; what keeps reads within the file is tested in any case.  Raises ValueError for anything but
    a sound file, naming its version when that is another.
    """

    def __cinit__(self, data, *, bint verify=True, str path=""):
        cdef Py_buffer buffer
        cdef TagsetHeader header
        cdef uint64_t at = TAGSET_HEADER_BYTES, wanted
        cdef const char *body
        cdef Fault fault
        view = memoryview(data)
        if not view.c_contiguous:
            raise ValueError("cannot read tag-set file: got a strided buffer, want contiguous bytes")
        self.source = view
        self.path = path
        PyObject_GetBuffer(view, &buffer, PyBUF_SIMPLE)
        # The memoryview keeps the export alive; this one only told the address.
        self.data = <const char *>buffer.buf
        self.length = buffer.len
        PyBuffer_Release(&buffer)
        if self.length < TAGSET_HEADER_BYTES:
            raise ValueError(f"cannot read tag-set file: got {self.length} bytes, want at least {TAGSET_HEADER_BYTES}")
        if <size_t>self.data % 8:
            raise ValueError("cannot read tag-set file: got bytes at an odd address, want a multiple of 8")
        memcpy(&header, self.data, sizeof(header))
        if header.magic[:8] != MAGIC:
            raise ValueError(f"cannot read tag-set file: got {header.magic[:8]!r} at its start, want {MAGIC!r}")
        if header.version != TAGSET_FILE_VERSION:
            raise ValueError(
                f"cannot read tag-set file: got version {header.version}, want version {TAGSET_FILE_VERSION};"
                " was it written by a newer version?"
            )
        if crc32c_of(<const uint8_t *>self.data, TAGSET_HEADER_BYTES - 4, 0) != header.header_checksum:
            raise ValueError("cannot read tag-set file: the checksum of its header does not match")
        if (
            not 0 < header.count <= <uint32_t>LARGEST_NUMBER
            or header.first > <uint32_t>LARGEST_NUMBER - header.count
            or header.tags > 0xFFFFFFFF
            or header.symbols > 2 * header.tags
            or header.text_bytes > 0xFFFFFFFF
            or header.slots > (<uint64_t>1 << 33)
            or header.slots & (header.slots - 1)
            or header.slots <= header.count
        ):
            raise ValueError("cannot read tag-set file: its header has numbers that cannot be")
        body = self.data
        self.tags = header.tags
        self.view.first = header.first
        self.view.count = header.count
        self.view.symbols = header.symbols
        self.view.seed = header.seed
        self.view.slot_mask = header.slots - 1
        self.view.slots = <const uint64_t *>(body + at)
        at += section_bytes(header.slots, 8)
        self.view.tables = <const uint32_t *>(body + at)
        at += section_bytes(header.count, 4)
        self.view.offsets = <const uint32_t *>(body + at)
        at += section_bytes(<uint64_t>header.count + 1, 4)
        self.view.keys = <const uint32_t *>(body + at)
        at += section_bytes(header.tags, 4)
        self.view.values = <const uint32_t *>(body + at)
        at += section_bytes(header.tags, 4)
        self.view.symbol_offsets = <const uint32_t *>(body + at)
        at += section_bytes(<uint64_t>header.symbols + 1, 4)
        self.view.text = body + at
        wanted = at + section_bytes(header.text_bytes, 1)
        if self.length != wanted:
            raise ValueError(f"cannot read tag-set file: got {self.length} bytes, want {wanted} as its header says")
        if verify:
            with nogil:
                wanted = crc32c_of(
                    <const uint8_t *>body + <size_t>TAGSET_HEADER_BYTES, self.length - TAGSET_HEADER_BYTES, 0
                )
            if wanted != header.body_checksum:
                raise ValueError("cannot read tag-set file: the checksum of its body does not match")
        with nogil:
            fault = check_body(&self.view, header.tags, header.text_bytes)
        if fault != SOUND:
            words = {
                BAD_TABLES: "a table beyond those that can be numbered",
                BAD_OFFSETS: "offsets of tags that do not ascend",
                BAD_SYMBOLS: "offsets of texts that do not ascend",
                BAD_TEXT: "a text that is not UTF-8",
                BAD_TAGS: "a tag set that is not canonical",
                BAD_SLOTS: "a look-up table that does not fit",
            }[fault]
            raise ValueError(f"cannot read tag-set file: got {words}")

    def __len__(self):
        return self.view.count

    @property
    def first(self):
        """The number of the first tag set."""
        return self.view.first

    @property
    def last(self):
        """One more than the number of the last tag set."""
        return <uint64_t>self.view.first + self.view.count

    @property
    def seed(self):
        """What the hashes of this file start from."""
        return self.view.seed

    @property
    def nbytes(self):
        """The length of the file."""
        return self.length

    def largest_table(self):
        """Return the largest table number that a tag set of this file has."""
        cdef uint32_t place, largest = 0
        with nogil:
            for place in range(self.view.count):
                largest = max(largest, self.view.tables[place])
        return largest
