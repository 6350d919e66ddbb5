"""Catalogue: the numbers of tables, fields and tag sets (threads and the native interface: catalogue.pxd).

Everything in the engine carries these numbers instead of names.  They are given in order of first sight and never
change, and `definitions` writes down what was given between two marks so that `apply_definitions` can give the same
numbers again in another process or after a restart.  The bytes are laid out in docs/formats/catalogue.md.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int32_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from libcpp.vector cimport vector

import os

import numpy as np

from native.cursor cimport Cursor, cursor_over, left, read_u16, read_u32, take
from native.definitions cimport (
    APPLIED,
    ApplyCode,
    ApplyProblem,
    Sink,
    apply_definitions,
    refuse_definitions,
    write_definitions,
)
from native.labels cimport (
    LABEL_FULL,
    LABEL_NO_MEMORY,
    LabelEntry,
    LabelTable,
    label_map_bytes,
    label_map_find,
    label_map_find_hashed,
    label_map_free,
    label_map_hash,
    label_map_init,
    label_map_intern,
    label_map_intern_hashed,
    label_map_truncate,
)
from native.tagset_key cimport canonical_key, check_name
from native.tagsetfile cimport TagsetFile
from native.tagsetview cimport (
    TagsetView,
    canonical_hash,
    canonical_length,
    find_canonical,
    symbol_length,
    symbol_text,
    write_canonical,
)


cdef int64_t defined(str action, int64_t number) except -1:
    """Return the number a definition gave, or raise what it returned instead."""
    if number == LABEL_NO_MEMORY:
        raise MemoryError(f"cannot {action}: got no memory")
    if number < 0:
        raise ValueError(f"cannot {action}: got one too many, want no more than its identifiers can number")
    return number


cdef Py_ssize_t _file_index(tuple files, uint32_t tagset_id):
    """Return which of the files holds a tag set that one of them holds."""
    cdef Py_ssize_t low = 0, high = len(files), middle
    while high - low > 1:
        middle = (low + high) // 2
        if (<TagsetFile>files[middle]).view.first <= tagset_id:
            low = middle
        else:
            high = middle
    return low


cdef class Catalogue:
    """Tables, the fields of each table, and tag sets, numbered from 0 in order of first sight.

    Readers in any thread may call every method at any time.  Methods that define something new (`table`, `field`,
    `tagset`, `apply_definitions`) and `LineDecoder.decode` take turns: a second caller waits until the first is done.
    """

    def __cinit__(self):
        label_map_init(&self.tables, <uint64_t>int.from_bytes(os.urandom(8), "little"))
        self.files = ()
        self.tail = LabelTable()
        self.max_tagsets = self.max_table_tagsets = self.max_hourly_tagsets = INT32_MAX
        self.tagset_ceiling = self.hour_ceiling = INT32_MAX

    def __dealloc__(self):
        cdef uint32_t table_id
        for table_id in range(self.tables.count):
            label_map_free(&self.table_fields[table_id])
        free(self.table_fields)
        free(self.field_log)
        free(self.views)
        free(self.table_tagsets)
        free(self.table_ceilings)
        label_map_free(&self.tables)

    # -- native interface (catalogue.pxd) --

    cdef int64_t find_table_id(self, const char *name, size_t length) noexcept nogil:
        return label_map_find(&self.tables, name, length)

    cdef int64_t find_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil:
        return label_map_find(&self.table_fields[table_id], name, length)

    cdef int64_t find_tagset_id(self, const char *key, size_t length) noexcept nogil:
        cdef int64_t found = label_map_find(&self.tail.labels, key, length)
        cdef const TagsetView *view
        cdef uint32_t index, hashed = 0
        if found >= 0:
            return self.frozen + found
        # Newest first; files made one after the other share a seed, so that the key is hashed once.
        for index in range(self.view_count, 0, -1):
            view = &self.views[index - 1]
            if index == self.view_count or view.seed != self.views[index].seed:
                hashed = canonical_hash(key, length, view.seed)
            found = find_canonical(view, key, length, hashed)
            if found >= 0:
                return view.first + found
        return found

    cdef uint32_t tagset_total(self) noexcept nogil:
        return self.frozen + self.tail.labels.count

    cdef uint64_t tagsets_in_use(self) noexcept nogil:
        cdef uint32_t total = self.tagset_total()
        return total - min(total, self.idle_tagsets)

    cdef TagsetVerdict tagset_verdict(self, int64_t table_id) noexcept nogil:
        cdef uint32_t total = self.tagset_total()
        if total >= self.tagset_ceiling:
            return TAGSETS_EXHAUSTED
        if table_id >= 0 and self.table_tagsets[table_id] >= self.table_ceilings[table_id]:
            return TABLE_EXHAUSTED
        return HOUR_EXHAUSTED if total >= self.hour_ceiling else TAGSET_FREE

    cdef const TagsetView *view_of(self, uint32_t tagset_id) noexcept nogil:
        cdef uint32_t low = 0, high = self.view_count, middle
        if tagset_id >= self.frozen:
            return NULL
        while high - low > 1:
            middle = (low + high) // 2
            if self.views[middle].first <= tagset_id:
                low = middle
            else:
                high = middle
        return &self.views[low]

    cdef bint reserve_tables(self, uint32_t tables) noexcept nogil:
        """Make room to count the tag sets of that many tables; False when memory is refused."""
        cdef uint32_t capacity = max(<uint32_t>16, self.table_tagsets_capacity)
        cdef void *memory
        cdef uint32_t table_id
        if tables <= self.table_tagsets_capacity:
            return True
        while capacity < tables:
            capacity *= 2
        memory = realloc(self.table_tagsets, capacity * sizeof(uint32_t))
        if memory == NULL:
            return False
        self.table_tagsets = <uint32_t *>memory
        memory = realloc(self.table_ceilings, capacity * sizeof(uint32_t))
        if memory == NULL:
            return False
        self.table_ceilings = <uint32_t *>memory
        for table_id in range(self.table_tagsets_capacity, capacity):
            self.table_tagsets[table_id] = 0
            self.table_ceilings[table_id] = self.max_table_tagsets
        self.table_tagsets_capacity = capacity
        return True

    cdef void count_tagset(self, const char *key, int change) noexcept nogil:
        cdef uint32_t table_id
        memcpy(&table_id, key, 4)
        self.table_tagsets[table_id] += <uint32_t>change

    cdef int64_t define_table_id(self, const char *name, size_t length) noexcept nogil:
        cdef uint32_t known = self.tables.count, capacity
        cdef int64_t table_id = LABEL_NO_MEMORY
        cdef void *memory
        self.lock.lock()
        if known == self.table_fields_capacity:
            capacity = 16 if known == 0 else known * 2
            memory = realloc(self.table_fields, capacity * sizeof(LabelMap))
            if memory != NULL:
                self.table_fields = <LabelMap *>memory
                self.table_fields_capacity = capacity
        if known < self.table_fields_capacity and self.reserve_tables(known + 1):
            table_id = label_map_intern(&self.tables, name, length)
            if self.tables.count > known:
                label_map_init(&self.table_fields[table_id], self.tables.seed + 2 + table_id)
        self.lock.unlock()
        return table_id

    cdef int64_t define_field_id(self, uint32_t table_id, const char *name, size_t length) noexcept nogil:
        cdef LabelMap *fields = &self.table_fields[table_id]
        cdef uint32_t known = fields.count, capacity
        cdef int64_t field_id
        cdef void *memory
        if known == MAX_TABLE_FIELDS:
            field_id = label_map_find(fields, name, length)
            return field_id if field_id >= 0 else LABEL_FULL
        self.lock.lock()
        field_id = LABEL_NO_MEMORY
        if self.field_count == self.field_capacity:
            capacity = 64 if self.field_count == 0 else self.field_count * 2
            memory = realloc(self.field_log, capacity * sizeof(FieldDefinition))
            if memory != NULL:
                self.field_log = <FieldDefinition *>memory
                self.field_capacity = capacity
        if self.field_count < self.field_capacity:
            field_id = label_map_intern(fields, name, length)
            if fields.count > known:
                self.field_log[self.field_count].table_id = table_id
                self.field_log[self.field_count].field_id = known
                self.field_count += 1
        self.lock.unlock()
        return field_id

    cdef int64_t define_tagset_id(self, const char *key, size_t length) noexcept nogil:
        cdef int64_t tagset_id = self.find_tagset_id(key, length)
        if tagset_id >= 0:
            return tagset_id
        if self.tagset_total() >= <uint32_t>INT32_MAX:
            return LABEL_FULL
        self.lock.lock()
        tagset_id = label_map_intern(&self.tail.labels, key, length)
        if tagset_id >= 0:
            tagset_id += self.frozen
            self.count_tagset(key, 1)
        self.lock.unlock()
        return tagset_id

    cdef void forget_after(self, uint32_t tables, uint32_t fields, uint32_t tagsets) noexcept nogil:
        """Forget the newest definitions down to these counts: definitions that turned out to be bad midway."""
        cdef FieldDefinition *last
        cdef uint32_t table_id, number
        self.lock.lock()
        for number in range(tagsets - self.frozen, self.tail.labels.count):
            self.count_tagset(self.tail.labels.entries[number].data, -1)
        label_map_truncate(&self.tail.labels, tagsets - self.frozen)
        while self.field_count > fields:
            self.field_count -= 1
            last = &self.field_log[self.field_count]
            label_map_truncate(&self.table_fields[last.table_id], last.field_id)
        for table_id in range(tables, self.tables.count):
            label_map_free(&self.table_fields[table_id])
        label_map_truncate(&self.tables, tables)
        self.lock.unlock()

    # -- Python interface --

    @property
    def table_count(self):
        """How many tables are defined."""
        return self.count_of(&self.tables)

    @property
    def tagset_count(self):
        """How many tag sets are defined over all tables."""
        cdef int64_t count
        self.lock.lock()
        count = self.tagset_total()
        self.lock.unlock()
        return count

    @property
    def in_use_count(self):
        """How many tag sets are in use: those last told to be, and what has become known since."""
        return self.tagsets_in_use()

    @property
    def frozen_count(self):
        """How many of the tag sets, those with the lowest numbers, lie in files."""
        return self.frozen

    @property
    def memory_bytes(self):
        """Bytes allocated for names, keys and their look-up tables; files are not among them."""
        cdef size_t total
        cdef uint32_t table_id
        self.lock.lock()
        total = label_map_bytes(&self.tables) + label_map_bytes(&self.tail.labels)
        total += self.view_count * sizeof(TagsetView) + 2 * self.table_tagsets_capacity * sizeof(uint32_t)
        total += self.table_fields_capacity * sizeof(LabelMap) + self.field_capacity * sizeof(FieldDefinition)
        for table_id in range(self.tables.count):
            total += label_map_bytes(&self.table_fields[table_id])
        self.lock.unlock()
        return total

    def find_table(self, bytes name not None):
        """Return the number of the table, or -1 when there is none of that name."""
        cdef int64_t table_id
        self.lock.lock()
        table_id = label_map_find(&self.tables, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        self.lock.unlock()
        return table_id

    def table(self, bytes name not None):
        """Return the number of the table, defining it when it is new.

        Raises ValueError for a name that is empty, longer than 65535 bytes or not UTF-8.
        """
        cdef const char *data
        cdef size_t length
        cdef int64_t table_id = self.find_table(name)
        if table_id >= 0:
            return table_id
        check_name("define a table", name)
        data = PyBytes_AS_STRING(name)
        length = PyBytes_GET_SIZE(name)
        with nogil:
            self.writer.lock()
            table_id = self.define_table_id(data, length)
            self.writer.unlock()
        return defined("define a table", table_id)

    def table_name(self, int64_t table_id):
        """Return the name of the table; ValueError when there is no such number."""
        cdef LabelEntry entry
        self.checked_table(table_id)
        self.lock.lock()
        entry = self.tables.entries[table_id]
        self.lock.unlock()
        return PyBytes_FromStringAndSize(entry.data, entry.length)

    def find_field(self, int64_t table_id, bytes name not None):
        """Return the number of the field within its table, or -1; ValueError when there is no such table."""
        cdef int64_t field_id
        self.checked_table(table_id)
        self.lock.lock()
        field_id = label_map_find(&self.table_fields[table_id], PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        self.lock.unlock()
        return field_id

    def field(self, int64_t table_id, bytes name not None):
        """Return the number of the field within its table, defining it when it is new.

        Raises ValueError for an unknown table, the 65537th field of a table, or a name that is empty, longer than
        65535 bytes or not UTF-8.
        """
        cdef const char *data
        cdef size_t length
        cdef int64_t field_id = self.find_field(table_id, name)
        if field_id >= 0:
            return field_id
        check_name("define a field", name)
        data = PyBytes_AS_STRING(name)
        length = PyBytes_GET_SIZE(name)
        with nogil:
            self.writer.lock()
            field_id = self.define_field_id(<uint32_t>table_id, data, length)
            self.writer.unlock()
        return defined("define a field", field_id)

    def fields(self, int64_t table_id):
        """Return the names of the table's fields by number; ValueError when there is no such table."""
        cdef vector[LabelEntry] entries
        cdef LabelEntry entry
        cdef LabelMap *fields
        cdef uint32_t count
        self.checked_table(table_id)
        self.lock.lock()
        count = self.table_fields[table_id].count
        self.lock.unlock()
        entries.resize(count)  # allocated outside the lock, where a failure may raise
        self.lock.lock()
        fields = &self.table_fields[table_id]
        count = min(count, fields.count)
        if count:
            memcpy(entries.data(), fields.entries, count * sizeof(LabelEntry))
        self.lock.unlock()
        entries.resize(count)
        return [PyBytes_FromStringAndSize(entry.data, entry.length) for entry in entries]

    def find_tagset(self, int64_t table_id, tags):
        """Return the number of the tag set of that table, or -1; raises as `tagset` does."""
        cdef bytes key
        cdef int64_t tagset_id
        self.checked_table(table_id)
        key = canonical_key("find a tag set", <uint32_t>table_id, tags)
        self.lock.lock()
        tagset_id = self.find_tagset_id(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        self.lock.unlock()
        return tagset_id

    def tagset(self, int64_t table_id, tags):
        """Return the number of the tag set, a sequence of (key, value) in any order, defining it when it is new.

        Numbers count over all tables; the same tags in two tables are two tag sets.  Raises ValueError for an unknown
        table, a key that comes twice, is empty or longer than 65535 bytes, anything that is not UTF-8, and tags that
        take more than 1 MiB together.
        """
        cdef bytes key
        cdef const char *data
        cdef size_t length
        cdef int64_t tagset_id
        self.checked_table(table_id)
        key = canonical_key("define a tag set", <uint32_t>table_id, tags)
        self.lock.lock()
        tagset_id = self.find_tagset_id(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        self.lock.unlock()
        if tagset_id >= 0:
            return tagset_id
        data = PyBytes_AS_STRING(key)
        length = PyBytes_GET_SIZE(key)
        with nogil:
            self.writer.lock()
            tagset_id = self.define_tagset_id(data, length)
            self.writer.unlock()
        return defined("define a tag set", tagset_id)

    def tags(self, int64_t tagset_id):
        """Return the tags as (key, value) pairs sorted by key; ValueError when there is no such tag set."""
        cdef LabelEntry entry
        cdef Cursor cursor
        cdef const TagsetView *view
        cdef uint32_t length, at, place
        cdef list pairs = []
        cdef bytes name
        # With the GIL held files and tail belong together; these references keep what is read from going away.
        cdef tuple files = self.files
        cdef LabelTable tail = self.tail
        cdef uint32_t frozen = self.frozen
        self.checked_tagsets(tagset_id, tagset_id + 1)
        if tagset_id < frozen:
            view = &(<TagsetFile>files[_file_index(files, <uint32_t>tagset_id)]).view
            place = <uint32_t>tagset_id - view.first
            return [
                (
                    PyBytes_FromStringAndSize(symbol_text(view, view.keys[at]), symbol_length(view, view.keys[at])),
                    PyBytes_FromStringAndSize(symbol_text(view, view.values[at]), symbol_length(view, view.values[at])),
                )
                for at in range(view.offsets[place], view.offsets[place + 1])
            ]
        self.lock.lock()
        entry = tail.labels.entries[tagset_id - frozen]
        self.lock.unlock()
        cursor = cursor_over(<const uint8_t *>entry.data, entry.length, 4)
        while left(&cursor):
            length = read_u16(&cursor)
            name = PyBytes_FromStringAndSize(<const char *>take(&cursor, length), length)
            length = read_u32(&cursor)
            pairs.append((name, PyBytes_FromStringAndSize(<const char *>take(&cursor, length), length)))
        return pairs

    def tagset_tables(self, int64_t first, int64_t last):
        """Return int32[last - first]: the table of each tag set with ``first <= number < last``."""
        cdef int64_t index
        cdef const TagsetView *view
        cdef int32_t[::1] tables
        self.checked_tagsets(first, last)
        result = np.empty(last - first, dtype=np.int32)
        tables = result
        self.lock.lock()
        for index in range(first, last):
            view = self.view_of(<uint32_t>index)
            if view != NULL:
                tables[index - first] = <int32_t>view.tables[<uint32_t>index - view.first]
            else:
                memcpy(&tables[index - first], self.tail.labels.entries[index - self.frozen].data, 4)
        self.lock.unlock()
        return result

    def mark(self):
        """Return (tables, fields of all tables, tag sets) defined so far."""
        cdef uint32_t tables, fields, tagsets
        self.lock.lock()
        tables = self.tables.count
        fields = self.field_count
        tagsets = self.tagset_total()
        self.lock.unlock()
        return tables, fields, tagsets

    def settled_mark(self):
        """Return the mark once nobody is in the middle of defining: nothing below it can be taken back."""
        with nogil:
            self.writer.lock()
            self.writer.unlock()
        return self.mark()

    # -- tag sets in files --

    def tagset_files(self):
        """Return the files in use, in the order of their numbers."""
        return self.files

    def use_files(self, files):
        """Read the tag sets that ``files`` hold from there and drop them from memory; numbers stay as they are.

        ``files``: TagsetFile, ascending and without gaps from number 0 to at least what was in files before; what they
        hold must be what is defined under the same numbers.  They may go beyond what is defined.  Raises ValueError
        for anything else.
        """
        cdef tuple new = tuple(files)
        cdef LabelTable old = self.tail, tail
        cdef TagsetFile file
        cdef TagsetView *views
        cdef TagsetView *replaced
        cdef uint32_t last = 0, index, place, tables = 0, known
        cdef LabelEntry *entry
        for file in new:
            if file.view.first != last:
                raise ValueError(f"cannot use tag-set files: got one from {file.view.first}, want one from {last}")
            last = file.view.first + file.view.count
            tables = max(tables, <uint32_t>file.largest_table() + 1)
        views = <TagsetView *>realloc(NULL, max(len(new), 1) * sizeof(TagsetView))
        if views == NULL:
            raise MemoryError("cannot use tag-set files: got no memory")
        for index, file in enumerate(new):
            views[index] = file.view
        tail = LabelTable()
        with nogil:
            self.writer.lock()
        # Definitions stand still now, but readers go on: what they use is replaced in one step below.
        old = self.tail
        known = self.tagset_total()
        try:
            if last < self.frozen:
                raise ValueError(f"cannot use tag-set files: got {last} tag sets, want the {self.frozen} there were")
            for index in range(max(last, self.frozen) - self.frozen, old.labels.count):
                entry = &old.labels.entries[index]
                defined("keep tag sets", label_map_intern(&tail.labels, entry.data, entry.length))
            self.lock.lock()
            try:
                if not self.reserve_tables(max(tables, self.tables.count)):
                    raise MemoryError("cannot use tag-set files: got no memory")
                for file in new:
                    for index in range(max(known, file.view.first), file.view.first + file.view.count):
                        self.table_tagsets[file.view.tables[index - file.view.first]] += 1
                replaced = self.views
                self.views = views
                views = replaced
                self.view_count = <uint32_t>len(new)
                self.files = new
                self.frozen = last
                self.tail = tail
            finally:
                self.lock.unlock()
        finally:
            self.writer.unlock()
            free(views)

    # -- limits --

    def limit_tagsets(self, *, uint32_t max_tagsets, uint32_t max_table_tagsets, uint32_t max_hourly_tagsets):
        """Bound what decoders may come to define: tag sets in use, in use of one table, and new within an hour.

        Until `settle_tagsets` says otherwise all that are known count as in use, and nothing as new.
        """
        cdef uint32_t table_id
        self.lock.lock()
        self.max_tagsets = self.tagset_ceiling = max_tagsets
        self.max_table_tagsets = max_table_tagsets
        self.max_hourly_tagsets = max_hourly_tagsets
        self.hour_ceiling = <uint32_t>min(<uint64_t>INT32_MAX, <uint64_t>self.tagset_total() + max_hourly_tagsets)
        for table_id in range(self.table_tagsets_capacity):
            self.table_ceilings[table_id] = max_table_tagsets
        self.lock.unlock()

    def settle_tagsets(self, active, uint32_t hour_ago):
        """Tell which tag sets count: ``active`` int64[tables] are in use, ``hour_ago`` were known an hour ago.

        Tables beyond the array have none in use.
        """
        cdef const int64_t[::1] in_use = np.ascontiguousarray(active, np.int64)
        cdef int64_t total = 0, of_table
        cdef uint32_t table_id
        self.lock.lock()
        for table_id in range(self.table_tagsets_capacity):
            of_table = in_use[table_id] if table_id < in_use.shape[0] else 0
            of_table = min(of_table, <int64_t>self.table_tagsets[table_id])
            total += of_table
            self.table_ceilings[table_id] = <uint32_t>min(
                <int64_t>INT32_MAX, self.table_tagsets[table_id] - of_table + self.max_table_tagsets
            )
        self.idle_tagsets = <uint32_t>(self.tagset_total() - total)
        self.tagset_ceiling = <uint32_t>min(<int64_t>INT32_MAX, <int64_t>self.idle_tagsets + self.max_tagsets)
        self.hour_ceiling = <uint32_t>min(<int64_t>INT32_MAX, <int64_t>hour_ago + self.max_hourly_tagsets)
        self.lock.unlock()

    def may_define_tagset(self, int64_t table_id):
        """Return whether one more tag set of that table (-1: a new table) may be defined, else the refusal's cause."""
        cdef TagsetVerdict verdict
        self.lock.lock()
        verdict = self.tagset_verdict(table_id if table_id < <int64_t>self.table_tagsets_capacity else -1)
        self.lock.unlock()
        if verdict == TAGSET_FREE:
            return ""
        return "tag_set_limit" if verdict == TAGSETS_EXHAUSTED else (
            "table_tag_set_limit" if verdict == TABLE_EXHAUSTED else "tag_set_rate_limit"
        )

    def tagset_counts(self):
        """Return int64[tables]: how many tag sets each table has, those in files included."""
        cdef int64_t count = self.count_of(&self.tables)
        cdef int64_t[::1] counts
        cdef uint32_t table_id
        result = np.zeros(count, np.int64)
        counts = result
        self.lock.lock()
        for table_id in range(<uint32_t>min(count, <int64_t>self.table_tagsets_capacity)):
            counts[table_id] = self.table_tagsets[table_id]
        self.lock.unlock()
        return result

    @property
    def tagset_headroom(self):
        """How many more tag sets may be defined: (in use, within the hour)."""
        cdef int64_t total
        self.lock.lock()
        total = self.tagset_total()
        result = max(0, <int64_t>self.tagset_ceiling - total), max(0, <int64_t>self.hour_ceiling - total)
        self.lock.unlock()
        return result

    def definitions(self, since, until):
        """Return what was defined between two marks, as docs/formats/catalogue.md lays it out.

        Nothing between the marks is no bytes at all.  Raises ValueError unless ``since <= until <= mark()`` in each part.
        """
        cdef uint32_t first[3]
        cdef uint32_t last[3]
        cdef Sink sink
        cdef bytes data
        marks = zip(since, until, self.mark(), strict=True)
        for index, (start, stop, most) in enumerate(marks):
            if not 0 <= start <= stop <= most:
                raise ValueError(
                    f"cannot list definitions: got marks {since} and {until}, want ascending ones up to {self.mark()}"
                )
            first[index] = start
            last[index] = stop
        if tuple(since) == tuple(until):
            return b""
        sink.at = NULL
        sink.length = 0
        with nogil:
            write_definitions(self, first, last, &sink)
        data = PyBytes_FromStringAndSize(NULL, sink.length)
        sink.at = PyBytes_AS_STRING(data)
        sink.length = 0
        with nogil:
            write_definitions(self, first, last, &sink)
        return data

    def apply_definitions(self, data):
        """Define everything that ``data``, made by `definitions`, says, with the same numbers.

        Definitions that are known already, with the same numbers, are passed over.  Raises ValueError when the bytes are
        malformed, contradict what is defined, or leave a gap in the numbers; the catalogue is then as it was before.
        """
        cdef Py_buffer view
        cdef ApplyProblem problem
        cdef uint32_t tables, fields, tagsets
        cdef ApplyCode code = APPLIED
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len == 0:
                return
            with nogil:
                self.writer.lock()
                tables = self.tables.count
                fields = self.field_count
                tagsets = self.tagset_total()
                code = apply_definitions(self, <const uint8_t *>view.buf, view.len, &problem)
                if code != APPLIED:
                    self.forget_after(tables, fields, tagsets)
                self.writer.unlock()
        finally:
            PyBuffer_Release(&view)
        if code != APPLIED:
            refuse_definitions(code, &problem)

    cdef int checked_table(self, int64_t table_id) except -1:
        cdef int64_t count = self.count_of(&self.tables)
        if not 0 <= table_id < count:
            raise ValueError(f"cannot use table {table_id}: got {count} tables, want a smaller number")
        return 0

    cdef int checked_tagsets(self, int64_t first, int64_t last) except -1:
        cdef int64_t count = self.tagset_count
        if not 0 <= first <= last <= count:
            raise ValueError(
                f"cannot use tag sets {first} to {last}: got {count} tag sets, want numbers among them"
            )
        return 0

    cdef int64_t count_of(self, const LabelMap *labels) noexcept nogil:
        cdef int64_t count
        self.lock.lock()
        count = labels.count
        self.lock.unlock()
        return count
