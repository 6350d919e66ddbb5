"""The line decoder's state, and which file works on it.

linegrammar.pxd    what a line may look like; knows nothing of the decoder
linecolumns.pxd    rows and columns of one table
linestate.pxd      what the decoder knows from earlier lines, and how that grows
knownline.pxd      lines that repeat what is known, by comparing bytes
anyline.pxd        all other lines, by the whole grammar; refusals
lineprotocol.pyx   the Python class and its results
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t
from libcpp.vector cimport vector

from native.catalogue cimport Catalogue
from native.labels cimport LabelMap
from native.linecolumns cimport TableRows
from native.linegrammar cimport PROBLEMS_END, Fault, Problem, Tag, Text, TimeRules
from native.rawkeys cimport RawKeys


cdef enum:
    NO_SERIES = 0xFFFFFFFF


cdef struct Series:  # what a raw "measurement,tags" stands for
    uint32_t table_id
    int32_t tagset_id
    uint32_t next  # the key that followed this one last time


cdef struct Field:  # one field of the line that `read_any_line` is reading
    Text raw  # name as written, with the '='
    Text name  # set while `column` is negative
    const char *at
    const char *end
    int64_t column
    double value
    bint rounded


cdef struct Refusal:
    int64_t line_number
    const char *line
    size_t line_length
    size_t start
    size_t end
    Problem problem




@cython.final
cdef class LineDecoder:
    cdef Catalogue catalogue
    cdef uint32_t max_tagsets, max_tables, max_fields
    cdef size_t max_refusals
    # Kept from call to call: raw series keys, and for each table its columns.
    cdef RawKeys keys
    cdef Series *series  # by the identifier of the key
    cdef uint32_t series_capacity
    cdef uint32_t last_series
    cdef TableRows **tables  # by table_id; NULL while this decoder has not met the table
    cdef uint32_t table_capacity
    cdef uint32_t *used  # tables with rows, in the order of their first row
    cdef uint32_t used_count
    cdef size_t retained_bytes  # of the buffers of all tables
    # Of the call that is running.
    cdef TimeRules rules
    cdef int64_t line_number, lines, samples, rounded
    cdef int64_t refused[<int>PROBLEMS_END]
    cdef vector[Refusal] refusals
    # Of the line that is being read by `read_any_line`.
    cdef vector[Tag] tags
    cdef vector[Field] fields
    cdef vector[Fault] field_faults
    cdef vector[char] spare
    cdef vector[char] canonical
    cdef LabelMap fresh_fields

    cdef int read_lines(self, const char *at, const char *end) except -1 nogil
    cdef int restart(self) except -1
    cdef int release_large_buffers(self) except -1
    cdef object result(self)
    cdef list described_refusals(self)
