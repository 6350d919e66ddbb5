# The bit pattern of a cell without a sample, for native modules that look at cells.
# native.columns.ABSENT_BITS is the public name of the same number; tests/native/test_sorting.py holds both together.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <cstdint>
    static constexpr uint64_t TIDEGAUGE_ABSENT_BITS = 0x7FF8544944454741ULL;
    """
    const uint64_t ABSENT_BITS "TIDEGAUGE_ABSENT_BITS"
