"""Frames: how a record of any meaning lies in a log file (docs/formats/wal.md, "Frame").

    u32 payload length | u32 crc32c of all that follows | u8 kind | u64 sequence | payload

Framing knows lengths and checksums and nothing of what a payload says.  Three questions are answered here: what are
the bytes of a frame, which frames stand in these bytes and why did the last one end there, and is there any intact
frame further on (which tells a torn tail from damage in the middle).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from native.checksum cimport crc32c_of
from native.cursor cimport Cursor, cursor_over, left, read_u8, read_u32, read_u64, take

cdef enum:
    HEADER_BYTES = 17
    CHECKED_FROM = 8            # offset within a frame of the first byte that the checksum covers
    LARGEST_PAYLOAD = 1 << 28   # a length beyond this is damage, not a frame
    RELEASE_GIL_BYTES = 16384   # smaller work is done before the GIL could be given up and taken back
    FRAMES_AT_ONCE = 256        # frames read between two times of holding the GIL

FRAME_HEADER_BYTES = HEADER_BYTES
MAX_PAYLOAD_BYTES = LARGEST_PAYLOAD

cdef enum Verdict:
    INTACT
    END
    TORN
    BAD_LENGTH
    BAD_CHECKSUM
    MORE

cdef tuple STATUS_NAMES = ("intact", "end", "torn", "bad_length", "bad_checksum", "more")


cdef struct Frame:
    uint8_t kind
    uint64_t sequence
    size_t payload_start
    size_t payload_end


cdef bint only_zeros(const uint8_t* data, size_t length) noexcept nogil:
    cdef size_t index
    for index in range(length):
        if data[index] != 0:
            return False
    return True


cdef Verdict read_frame(const uint8_t* data, size_t length, size_t offset, Frame* frame) noexcept nogil:
    """Read the frame at ``offset`` (within 0..length) into ``frame``, which is whole only when the answer is INTACT."""
    cdef Cursor cursor = cursor_over(data, length, offset)
    cdef uint32_t size, checksum
    cdef const uint8_t* checked
    if left(&cursor) == 0:
        return END
    if left(&cursor) < HEADER_BYTES:
        return TORN
    size = read_u32(&cursor)
    checksum = read_u32(&cursor)
    checked = cursor.at
    frame.kind = read_u8(&cursor)
    frame.sequence = read_u64(&cursor)
    # A file system may have grown the file before the bytes arrived.  Only zeros to the very end say so: zeros with
    # something behind them are damage, and the checksum below finds that (no header of zeros has checksum zero).
    if size == 0 and checksum == 0 and only_zeros(checked, length - offset - CHECKED_FROM):
        return TORN
    if size > LARGEST_PAYLOAD:
        return BAD_LENGTH
    if take(&cursor, size) == NULL:
        return TORN
    if crc32c_of(checked, HEADER_BYTES - CHECKED_FROM + size, 0) != checksum:
        return BAD_CHECKSUM
    frame.payload_start = offset + HEADER_BYTES
    frame.payload_end = frame.payload_start + size
    return INTACT


def encode_frame(int kind, uint64_t sequence, parts):
    """Return the bytes of one frame whose payload is all ``parts`` (buffers) one after the other.

    ``kind``: 0..255; ``sequence``: 0..2**64 - 1.  Raises ValueError when the kind does not fit or the payload exceeds
    MAX_PAYLOAD_BYTES, TypeError when a part is not a buffer, OverflowError when the sequence does not fit.
    """
    cdef list views = [memoryview(part).cast("B") for part in parts]
    cdef size_t payload_bytes = 0
    cdef bytes frame
    cdef uint8_t* start
    cdef uint8_t* at
    cdef uint32_t size, checksum
    cdef uint8_t kind_byte
    cdef Py_buffer view
    if not 0 <= kind <= 255:
        raise ValueError(f"cannot encode a frame: got kind {kind}, want 0..255")
    for part in views:
        payload_bytes += len(part)
    if payload_bytes > LARGEST_PAYLOAD:
        raise ValueError(
            f"cannot encode a frame: got a payload of {payload_bytes} bytes, want at most {LARGEST_PAYLOAD}"
        )
    frame = PyBytes_FromStringAndSize(NULL, HEADER_BYTES + payload_bytes)
    start = <uint8_t*>PyBytes_AS_STRING(frame)
    size = <uint32_t>payload_bytes
    kind_byte = <uint8_t>kind
    memcpy(start, &size, 4)
    memcpy(start + 8, &kind_byte, 1)
    memcpy(start + 9, &sequence, 8)
    at = start + HEADER_BYTES
    for part in views:
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
        if view.len < RELEASE_GIL_BYTES:
            memcpy(at, view.buf, view.len)
        else:
            with nogil:
                memcpy(at, view.buf, view.len)
        at += view.len
        PyBuffer_Release(&view)
    if payload_bytes < RELEASE_GIL_BYTES:
        checksum = crc32c_of(start + CHECKED_FROM, HEADER_BYTES - CHECKED_FROM + payload_bytes, 0)
    else:
        with nogil:
            checksum = crc32c_of(start + CHECKED_FROM, HEADER_BYTES - CHECKED_FROM + payload_bytes, 0)
    memcpy(start + 4, &checksum, 4)
    return frame


def scan_frames(data, offset=0, max_frames=None):
    """Return the intact frames of ``data`` from ``offset`` on: ``(frames, end_offset, status)``.

    Each frame is ``(kind, sequence, payload_start, payload_end)``, offsets into ``data``.  ``end_offset`` is where the
    first byte stands that belongs to none of them, and ``status`` says why:

    - ``"end"``: the data ends exactly there.
    - ``"torn"``: the header or the payload would run past the end of the data, or only zeros follow.
    - ``"bad_length"``: the payload length is larger than any frame's.
    - ``"bad_checksum"``: the frame fits but its checksum does not match.
    - ``"more"``: ``max_frames`` were returned; call again with ``end_offset``.

    Raises ValueError when the offset lies outside the data.
    """
    cdef const uint8_t[::1] view = data
    cdef size_t length = view.shape[0]
    cdef const uint8_t* start = &view[0]
    cdef size_t at = checked_offset(offset, length)
    cdef size_t remaining = length + 1 if max_frames is None else max_frames
    cdef size_t read, index
    cdef Frame[FRAMES_AT_ONCE] batch
    cdef Verdict verdict = INTACT
    cdef list frames = []
    while verdict == INTACT and remaining > 0:
        read = 0
        with nogil:
            while read < FRAMES_AT_ONCE and read < remaining:
                verdict = read_frame(start, length, at, &batch[read])
                if verdict != INTACT:
                    break
                at = batch[read].payload_end
                read += 1
        remaining -= read
        for index in range(read):
            frames.append(
                (batch[index].kind, batch[index].sequence, batch[index].payload_start, batch[index].payload_end)
            )
    if verdict == INTACT:
        verdict = END if at == length else MORE
    return frames, at, STATUS_NAMES[<int>verdict]


def find_frame(data, offset, uint64_t lowest_sequence, uint64_t highest_sequence):
    """Return the offset of the first intact frame at or after ``offset`` whose sequence lies in the range given, or -1.

    This asks whether anything usable stands behind a break; the range keeps chance matches and the number of checksums
    to compute small.  Both ends of the range are included.  Raises ValueError when the offset lies outside the data.
    """
    cdef const uint8_t[::1] view = data
    cdef size_t length = view.shape[0]
    cdef const uint8_t* start = &view[0]
    cdef size_t at = checked_offset(offset, length)
    cdef uint64_t sequence
    cdef Frame frame
    cdef bint found = False
    with nogil:
        while length - at >= HEADER_BYTES:
            memcpy(&sequence, start + at + 9, 8)
            if lowest_sequence <= sequence <= highest_sequence:
                if read_frame(start, length, at, &frame) == INTACT:
                    found = True
                    break
            at += 1
    return at if found else -1


cdef size_t checked_offset(object offset, size_t length) except? 0:
    if not 0 <= offset <= length:
        raise ValueError(f"cannot read frames: got offset {offset}, want 0..{length}")
    return <size_t>offset
