"""The catalogue of names: tables, the fields of each table, and tag sets over all tables, densely numbered.

Threads.  One thread at a time defines names: it holds `writer` from its first look-up to its last definition, and
may read without further locking because nobody else changes anything.  Each definition is made under `lock`, and
every other thread reads under `lock`.  `lock` is held for single steps that touch no Python object, so a thread may
wait for it with the GIL; `writer` is held for whole batches and must only be waited for without the GIL.

Tag sets.  Those below `frozen` lie in immutable files that are read in place, the newer ones in `tail`, whose labels
are numbered from `frozen`.  `use_files` moves the border: it holds `writer`, `lock` and the GIL, so whoever holds any
of them sees files and tail that belong together; whoever reads longer takes references to the files and the tail.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from native.labels cimport LabelEntry, LabelMap, LabelTable
from native.tagsetview cimport TagsetView


cdef extern from "<mutex>" namespace "std" nogil:
    # libcpp.mutex lets lock() throw, which a function without the GIL could not pass on.
    cdef cppclass Mutex "std::mutex":
        void lock() noexcept
        void unlock() noexcept


cdef enum:
    MAX_TABLE_FIELDS = 1 << 16


cdef enum TagsetVerdict:  # may a tag set be defined that is not known yet?
    TAGSET_FREE
    TAGSETS_EXHAUSTED  # as many are in use as may be
    TABLE_EXHAUSTED  # as many of this table are
    HOUR_EXHAUSTED  # as many have become known within an hour


cdef struct FieldDefinition:
    uint32_t table_id
    uint32_t field_id


cdef class Catalogue:
    cdef Mutex lock
    cdef Mutex writer
    cdef LabelMap tables
    cdef LabelMap *table_fields  # by table
    cdef uint32_t table_fields_capacity
    cdef tuple files  # TagsetFile, ascending and without gaps from 0 to `frozen`
    cdef TagsetView *views  # of the files
    cdef uint32_t view_count
    cdef uint32_t frozen
    cdef LabelTable tail  # canonical keys, see native.tagset_key
    cdef uint32_t *table_tagsets  # by table: how many tag sets it has, those in files included
    cdef uint32_t *table_ceilings  # by table: how many it may come to have
    cdef uint32_t table_tagsets_capacity
    cdef uint32_t idle_tagsets  # how many of the known ones were not in use when that was last told
    cdef uint32_t tagset_ceiling, hour_ceiling  # how many tag sets there may come to be
    cdef readonly uint32_t max_tagsets, max_table_tagsets, max_hourly_tagsets  # what the ceilings come from
    cdef FieldDefinition *field_log  # every field of every table in order of definition
    cdef uint32_t field_count
    cdef uint32_t field_capacity

    # Look-ups by the thread that holds `writer`: the number, or LABEL_UNKNOWN.
    cdef int64_t find_table_id(self, const char *name, size_t length) noexcept nogil
    cdef int64_t find_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil
    cdef int64_t find_tagset_id(self, const char *key, size_t length) noexcept nogil
    cdef uint32_t tagset_total(self) noexcept nogil
    cdef uint64_t tagsets_in_use(self) noexcept nogil  # about
    cdef TagsetVerdict tagset_verdict(self, int64_t table_id) noexcept nogil  # table_id: -1 for one not known yet

    # Definitions by the thread that holds `writer`: the number of the name, which is found first when it is known;
    # LABEL_NO_MEMORY or LABEL_FULL leave everything as it was.  Names are valid: UTF-8, within the limits above.
    cdef int64_t define_table_id(self, const char *name, size_t length) noexcept nogil
    cdef int64_t define_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil
    cdef int64_t define_tagset_id(self, const char *key, size_t length) noexcept nogil

    # Forgets the newest definitions down to these counts.
    cdef void forget_after(self, uint32_t tables, uint32_t fields, uint32_t tagsets) noexcept nogil

    # Under `lock` or `writer`: the file of a tag set, or NULL for one of the tail.
    cdef const TagsetView *view_of(self, uint32_t tagset_id) noexcept nogil
    cdef bint reserve_tables(self, uint32_t tables) noexcept nogil
    cdef void count_tagset(self, const char *key, int change) noexcept nogil

    cdef int checked_table(self, int64_t table_id) except -1
    cdef int checked_tagsets(self, int64_t first, int64_t last) except -1
    cdef int64_t count_of(self, const LabelMap *labels) noexcept nogil
