"""Large pieces of memory that are used again: bodies on their way in, blocks of recent rows.

The system clears every page that it hands out, and a virtual machine may first have to get it from its host: filling
memory for the first time costs up to ten times what filling it again does.  A slab gives its memory back to this module
when nobody refers to it any more, and the next slab of about that size takes it over.  How much is kept while nobody
uses it is bounded; what was kept longest goes first.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stddef cimport size_t
from libcpp.vector cimport vector

import numpy as np

cdef extern from *:
    """
    #include <cstdlib>

    // Memory for `size` bytes; NULL when there is none.  Huge pages would be cleared all at once, 2 MiB for each column of
    // a new block of rows, and whoever waits for an acknowledgement just then would wait 30 ms longer.
    static void *tidegauge_slab_new(size_t size) {
        void *memory = nullptr;
        return posix_memalign(&memory, 64, size) == 0 ? memory : nullptr;
    }
    """
    void *tidegauge_slab_new(size_t size) nogil
    void free(void *memory) nogil

cdef enum:
    GRAIN_BYTES = 65_536  # sizes are multiples of this
    LARGEST_BYTES = 0x7FFFFFFF
    SLACK_SHARE = 4  # a kept piece serves a slab that is up to a quarter smaller


cdef struct Piece:
    void *memory
    size_t size


# Everything below runs with the GIL held.
cdef vector[Piece] kept
cdef size_t kept_total = 0
cdef size_t kept_limit = 128 << 20


cdef void forget_oldest(size_t limit) noexcept:
    global kept_total
    cdef size_t gone = 0
    while kept_total > limit:
        kept_total -= kept[gone].size
        free(kept[gone].memory)
        gone += 1
    kept.erase(kept.begin(), kept.begin() + gone)


cdef class Slab:
    """``size`` bytes of writable memory as a buffer, with what the last user left in it.  Raises MemoryError."""

    cdef Piece piece
    cdef size_t length

    def __cinit__(self, size_t size):
        global kept_total
        cdef size_t index = kept.size()
        cdef size_t wanted
        if size > LARGEST_BYTES:
            raise MemoryError(f"cannot get memory: got none for {size} bytes")
        wanted = (max(size, <size_t>1) + GRAIN_BYTES - 1) // GRAIN_BYTES * GRAIN_BYTES
        self.length = size
        while index > 0:  # what was given back last is most likely still in the cache
            index -= 1
            if wanted <= kept[index].size <= wanted + wanted // SLACK_SHARE:
                self.piece = kept[index]
                kept.erase(kept.begin() + index)
                kept_total -= self.piece.size
                return
        self.piece.memory = tidegauge_slab_new(wanted)
        if self.piece.memory == NULL:
            raise MemoryError(f"cannot get memory: got none for {size} bytes")
        self.piece.size = wanted

    def __dealloc__(self):
        global kept_total
        if self.piece.memory == NULL:
            return
        if self.piece.size > kept_limit:
            free(self.piece.memory)
            return
        kept.push_back(self.piece)
        kept_total += self.piece.size
        forget_oldest(kept_limit)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.piece.memory, self.length, 0, flags)

    def __len__(self):
        return self.length


def slab_array(tuple shape, dtype):
    """Return an uninitialised C-contiguous array on a slab of its own.  Raises MemoryError."""
    kind = np.dtype(dtype)
    cdef size_t size = kind.itemsize
    for extent in shape:
        size *= extent
    return np.ndarray(shape, kind, Slab(size))


def keep_at_most(size_t limit):
    """Keep up to ``limit`` bytes of memory that nobody uses; the rest goes back to the system."""
    global kept_limit
    kept_limit = limit
    forget_oldest(limit)


def kept_bytes():
    """Return how many bytes are kept that nobody uses."""
    return kept_total
