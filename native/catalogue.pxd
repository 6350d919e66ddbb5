"""The catalogue of names: tables, the fields of each table, and tag sets over all tables, densely numbered.

Threads.  One thread at a time defines names: it holds `writer` from its first look-up to its last definition, and
may read without further locking because nobody else changes anything.  Each definition is made under `lock`, and
every other thread reads under `lock`.  `lock` is held for single steps that touch no Python object, so a thread may
wait for it with the GIL; `writer` is held for whole batches and must only be waited for without the GIL.
"""

from libc.stdint cimport int64_t, uint32_t

from native.labels cimport LabelMap


cdef extern from "<mutex>" namespace "std" nogil:
    # libcpp.mutex lets lock() throw, which a function without the GIL could not pass on.
    cdef cppclass Mutex "std::mutex":
        void lock() noexcept
        void unlock() noexcept


cdef enum:
    MAX_TABLE_FIELDS = 1 << 16


cdef struct FieldDefinition:
    uint32_t table_id
    uint32_t field_id


cdef class Catalogue:
    cdef Mutex lock
    cdef Mutex writer
    cdef LabelMap tables
    cdef LabelMap *table_fields  # by table
    cdef uint32_t table_fields_capacity
    cdef LabelMap tagsets  # canonical keys, see native.tagset_key
    cdef FieldDefinition *field_log  # every field of every table in order of definition
    cdef uint32_t field_count
    cdef uint32_t field_capacity

    # Look-ups by the thread that holds `writer`: the number, or LABEL_UNKNOWN.
    cdef int64_t find_table_id(self, const char *name, size_t length) noexcept nogil
    cdef int64_t find_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil
    cdef int64_t find_tagset_id(self, const char *key, size_t length) noexcept nogil

    # Definitions by the thread that holds `writer`: the number of the name, which is found first when it is known;
    # LABEL_NO_MEMORY or LABEL_FULL leave everything as it was.  Names are valid: UTF-8, within the limits above.
    cdef int64_t define_table_id(self, const char *name, size_t length) noexcept nogil
    cdef int64_t define_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil
    cdef int64_t define_tagset_id(self, const char *key, size_t length) noexcept nogil

    # Forgets the newest definitions down to these counts.
    cdef void forget_after(self, uint32_t tables, uint32_t fields, uint32_t tagsets) noexcept nogil

    cdef int checked_table(self, int64_t table_id) except -1
    cdef int checked_tagsets(self, int64_t first, int64_t last) except -1
    cdef int64_t count_of(self, const LabelMap *labels) noexcept nogil
