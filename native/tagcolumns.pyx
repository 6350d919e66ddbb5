"""Tag sets of a catalogue as columns: which ones a condition holds for, and their tags as numbered texts.

Nothing here makes a Python object a tag set.  Texts come back once each, as Arrow keeps strings: int32[m + 1] offsets
into one bytes object.  Tag sets in files are read by their symbols, so that a text is looked at once a file and not
once a tag set; those of the tail are read from their canonical keys.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from libcpp.vector cimport vector

from native.arguments cimport checked_array
from native.catalogue cimport Catalogue
from native.cursor cimport Cursor, cursor_over, left, read_u16, read_u32, take
from native.labels cimport LABEL_UNKNOWN, LabelEntry, LabelMap, LabelTable, label_map_intern
from native.tagsetfile cimport TagsetFile
from native.tagsetview cimport TagsetView, find_symbol, symbol_is, symbol_length, symbol_text

import numpy as np


cdef enum:
    UNSEEN = -1
    MEMO_SHARE = 8  # symbols are remembered when a file has at most this many for each tag set asked for


cdef class _Snapshot:
    """The tag sets of a catalogue at one moment, whatever becomes of the catalogue."""

    cdef tuple files
    cdef LabelTable tail
    cdef vector[TagsetView] views
    cdef vector[LabelEntry] entries  # of the tail, from `entries_first`
    cdef int64_t frozen, total, entries_first

    def __cinit__(self, Catalogue catalogue not None, int64_t first, int64_t last):
        """Take what is needed for the tag sets between ``first`` and ``last``."""
        cdef TagsetFile file
        # With the GIL held these belong together, and the references keep what they point to.
        self.files = catalogue.files
        self.tail = catalogue.tail
        self.frozen = catalogue.frozen
        self.total = catalogue.tagset_count
        for file in self.files:
            self.views.push_back(file.view)
        if not 0 <= first <= last <= self.total:
            raise ValueError(f"cannot use tag sets {first} to {last}: got {self.total} tag sets, want numbers among them")
        self.entries_first = max(first, self.frozen)
        if last > self.entries_first:
            self.entries.resize(last - self.entries_first)
            catalogue.lock.lock()
            memcpy(
                self.entries.data(),
                &self.tail.labels.entries[self.entries_first - self.frozen],
                self.entries.size() * sizeof(LabelEntry),
            )
            catalogue.lock.unlock()

    cdef const TagsetView *view_of(self, int64_t number) noexcept nogil:
        cdef size_t low = 0, high = self.views.size(), middle
        while high - low > 1:
            middle = (low + high) // 2
            if self.views[middle].first <= number:
                low = middle
            else:
                high = middle
        return &self.views[low]

    cdef Cursor tags_at(self, int64_t number, uint32_t *table_id) noexcept nogil:
        """Return a cursor at the tags of a tag set of the tail."""
        cdef const LabelEntry *entry = &self.entries[number - self.entries_first]
        cdef Cursor cursor = cursor_over(<const uint8_t *>entry.data, entry.length, 0)
        table_id[0] = read_u32(&cursor)
        return cursor


cdef _Snapshot _of_ids(Catalogue catalogue, object tagset_ids):
    checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    if not len(tagset_ids):
        return _Snapshot(catalogue, 0, 0)
    return _Snapshot(catalogue, int(tagset_ids.min()), int(tagset_ids.max()) + 1)


cdef tuple _texts(LabelTable labels):
    """Return all texts of a table in the order of their numbers: int32[m + 1] offsets, bytes."""
    cdef LabelMap *texts = &labels.labels
    cdef uint32_t index
    cdef int64_t total = 0
    cdef int32_t[::1] ends
    cdef char *out
    for index in range(texts.count):
        total += texts.entries[index].length
    if total > INT32_MAX:
        raise ValueError(f"cannot list tag values: got {total} bytes of text, want less than 2 GiB")
    offsets = np.zeros(texts.count + 1, np.int32)
    ends = offsets
    data = PyBytes_FromStringAndSize(NULL, total)
    out = PyBytes_AS_STRING(data)
    total = 0
    for index in range(texts.count):
        memcpy(out + total, texts.entries[index].data, texts.entries[index].length)
        total += texts.entries[index].length
        ends[index + 1] = <int32_t>total
    return offsets, data


cdef int _checked(int64_t number) except -1:
    if number < 0:
        raise MemoryError("cannot number tag values: got no memory")
    return 0


cdef inline bint _next_tag(
    Cursor *cursor, const char **key, uint32_t *key_length, const char **value, uint32_t *value_length
) noexcept nogil:
    """Read the next tag of a canonical key; False after the last one."""
    if not left(cursor):
        return False
    key_length[0] = read_u16(cursor)
    key[0] = <const char *>take(cursor, key_length[0])
    value_length[0] = read_u32(cursor)
    value[0] = <const char *>take(cursor, value_length[0])
    return value[0] != NULL or value_length[0] == 0


def tables_of(Catalogue catalogue not None, tagset_ids):
    """Return int32[n]: the table of each tag set.  ``tagset_ids``: int32[n] in any order.

    Raises ValueError for a number that no tag set has, here and below.
    """
    cdef _Snapshot snapshot = _of_ids(catalogue, tagset_ids)
    cdef const int32_t[::1] ids = tagset_ids
    cdef const TagsetView *view = NULL
    cdef int64_t index
    cdef uint32_t table_id
    result = np.empty(len(tagset_ids), np.int32)
    cdef int32_t[::1] tables = result
    with nogil:
        for index in range(ids.shape[0]):
            if ids[index] < snapshot.frozen:
                if view == NULL or not 0 <= ids[index] - <int64_t>view.first < view.count:
                    view = snapshot.view_of(ids[index])
                tables[index] = <int32_t>view.tables[ids[index] - view.first]
            else:
                snapshot.tags_at(ids[index], &table_id)
                tables[index] = <int32_t>table_id
    return result


def members_of(Catalogue catalogue not None, int64_t table_id, int64_t first, int64_t last):
    """Return int32[n], ascending: the tag sets of a table with ``first <= number < last``."""
    cdef _Snapshot snapshot = _Snapshot(catalogue, first, last)
    cdef vector[int32_t] found
    cdef const TagsetView *view = NULL
    cdef int64_t number
    cdef uint32_t table
    with nogil:
        for number in range(first, last):
            if number < snapshot.frozen:
                if view == NULL or number - view.first >= view.count:
                    view = snapshot.view_of(number)
                table = view.tables[number - view.first]
            else:
                snapshot.tags_at(number, &table)
            if table == table_id:
                found.push_back(<int32_t>number)
    return _array(found)


def members_with(Catalogue catalogue not None, int64_t table_id, bytes key not None, bytes value not None,
                 int64_t first, int64_t last):
    """Return int32[n], ascending: those of `members_of` that have the tag ``key`` with the value ``value``."""
    cdef _Snapshot snapshot = _Snapshot(catalogue, first, last)
    cdef vector[int32_t] found
    cdef const TagsetView *view
    cdef const char *wanted_key = PyBytes_AS_STRING(key)
    cdef const char *wanted_value = PyBytes_AS_STRING(value)
    cdef size_t wanted_key_length = PyBytes_GET_SIZE(key), wanted_value_length = PyBytes_GET_SIZE(value)
    cdef const char *name
    cdef const char *text
    cdef uint32_t name_length = 0, text_length = 0, table = 0, place, at, stop
    cdef int64_t number = first, key_symbol, value_symbol
    cdef Cursor cursor
    with nogil:
        while number < min(last, snapshot.frozen):
            view = snapshot.view_of(number)
            place = <uint32_t>(number - view.first)
            stop = <uint32_t>min(<int64_t>view.count, last - view.first)
            number = view.first + stop
            value_symbol = find_symbol(view, wanted_value, wanted_value_length)
            key_symbol = find_symbol(view, wanted_key, wanted_key_length) if value_symbol >= 0 else -1
            if key_symbol < 0:
                continue
            for place in range(place, stop):
                if view.tables[place] != table_id:
                    continue
                for at in range(view.offsets[place], view.offsets[place + 1]):
                    if view.values[at] == value_symbol and view.keys[at] == key_symbol:
                        found.push_back(<int32_t>(view.first + place))
                        break
        for number in range(max(first, snapshot.frozen), last):
            cursor = snapshot.tags_at(number, &table)
            if table != table_id:
                continue
            while _next_tag(&cursor, &name, &name_length, &text, &text_length):
                if name_length == wanted_key_length and memcmp(name, wanted_key, name_length) == 0:
                    if text_length == wanted_value_length and memcmp(text, wanted_value, text_length) == 0:
                        found.push_back(<int32_t>number)
                    break
    return _array(found)


def values_of(Catalogue catalogue not None, bytes key not None, tagset_ids):
    """Return (codes, offsets, data): the value of ``key`` for each tag set, -1 where it has none.

    ``codes``: int32[n], places in the distinct values; ``offsets``: int32[m + 1] and ``data``: the values as text.
    """
    cdef _Snapshot snapshot = _of_ids(catalogue, tagset_ids)
    cdef const int32_t[::1] ids = tagset_ids
    cdef LabelTable values = LabelTable()
    cdef const TagsetView *view = NULL
    cdef const char *wanted = PyBytes_AS_STRING(key)
    cdef size_t wanted_length = PyBytes_GET_SIZE(key)
    cdef const char *name
    cdef const char *text
    cdef uint32_t name_length = 0, text_length = 0, table, at, place, symbol
    cdef int64_t index, code, key_symbol = LABEL_UNKNOWN
    cdef vector[int32_t] memo
    cdef bint remembering = False
    cdef Cursor cursor
    result = np.empty(len(tagset_ids), np.int32)
    cdef int32_t[::1] codes = result
    with nogil:
        for index in range(ids.shape[0]):
            code = UNSEEN
            if ids[index] < snapshot.frozen:
                if view == NULL or not 0 <= ids[index] - <int64_t>view.first < view.count:
                    view = snapshot.view_of(ids[index])
                    remembering = view.symbols <= <uint64_t>ids.shape[0] * MEMO_SHARE
                    if remembering:
                        key_symbol = find_symbol(view, wanted, wanted_length)
                        memo.assign(view.symbols, UNSEEN)
                place = <uint32_t>(ids[index] - view.first)
                for at in range(view.offsets[place], view.offsets[place + 1]):
                    if remembering:
                        if view.keys[at] != key_symbol:
                            continue
                    elif not symbol_is(view, view.keys[at], wanted, wanted_length):
                        continue
                    symbol = view.values[at]
                    if remembering:
                        code = memo[symbol]
                    if code == UNSEEN:
                        code = label_map_intern(&values.labels, symbol_text(view, symbol), symbol_length(view, symbol))
                        if remembering:
                            memo[symbol] = <int32_t>code
                    break
            else:
                cursor = snapshot.tags_at(ids[index], &table)
                while _next_tag(&cursor, &name, &name_length, &text, &text_length):
                    if name_length == wanted_length and memcmp(name, wanted, name_length) == 0:
                        code = label_map_intern(&values.labels, text, text_length)
                        break
            if code < UNSEEN:
                break
            codes[index] = <int32_t>code
    if ids.shape[0] and code < UNSEEN:
        _checked(code)
    offsets, data = _texts(values)
    return result, offsets, data


def tags_of(Catalogue catalogue not None, tagset_ids):
    """Return (offsets, keys, values, key texts, value texts): all tags of each tag set, by ascending key.

    The tags of the i-th tag set stand at ``offsets[i]:offsets[i + 1]`` (int32[n + 1]) of ``keys`` and ``values``
    (int32), which are places in the texts, each (int32 offsets, bytes).
    """
    cdef _Snapshot snapshot = _of_ids(catalogue, tagset_ids)
    cdef const int32_t[::1] ids = tagset_ids
    cdef LabelTable key_texts = LabelTable(), value_texts = LabelTable()
    cdef const TagsetView *view = NULL
    cdef const char *name
    cdef const char *text
    cdef uint32_t name_length = 0, text_length = 0, table, at, place, symbol
    cdef int64_t index, key_code = 0, value_code = 0
    cdef vector[int32_t] keys, values, key_memo, value_memo
    cdef bint remembering = False
    cdef Cursor cursor
    result = np.zeros(len(tagset_ids) + 1, np.int32)
    cdef int32_t[::1] offsets = result
    with nogil:
        for index in range(ids.shape[0]):
            if ids[index] < snapshot.frozen:
                if view == NULL or not 0 <= ids[index] - <int64_t>view.first < view.count:
                    view = snapshot.view_of(ids[index])
                    remembering = view.symbols <= <uint64_t>ids.shape[0] * MEMO_SHARE
                    if remembering:
                        key_memo.assign(view.symbols, UNSEEN)
                        value_memo.assign(view.symbols, UNSEEN)
                place = <uint32_t>(ids[index] - view.first)
                for at in range(view.offsets[place], view.offsets[place + 1]):
                    symbol = view.keys[at]
                    key_code = key_memo[symbol] if remembering else UNSEEN
                    if key_code == UNSEEN:
                        key_code = label_map_intern(
                            &key_texts.labels, symbol_text(view, symbol), symbol_length(view, symbol)
                        )
                        if remembering:
                            key_memo[symbol] = <int32_t>key_code
                    symbol = view.values[at]
                    value_code = value_memo[symbol] if remembering else UNSEEN
                    if value_code == UNSEEN:
                        value_code = label_map_intern(
                            &value_texts.labels, symbol_text(view, symbol), symbol_length(view, symbol)
                        )
                        if remembering:
                            value_memo[symbol] = <int32_t>value_code
                    keys.push_back(<int32_t>key_code)
                    values.push_back(<int32_t>value_code)
            else:
                cursor = snapshot.tags_at(ids[index], &table)
                while _next_tag(&cursor, &name, &name_length, &text, &text_length):
                    key_code = label_map_intern(&key_texts.labels, name, name_length)
                    value_code = label_map_intern(&value_texts.labels, text, text_length)
                    keys.push_back(<int32_t>key_code)
                    values.push_back(<int32_t>value_code)
            if key_code < 0 or value_code < 0 or keys.size() > <size_t>INT32_MAX:
                break
            offsets[index + 1] = <int32_t>keys.size()
    _checked(min(key_code, value_code))
    if keys.size() > <size_t>INT32_MAX:
        raise ValueError(f"cannot list tags: got more than {INT32_MAX}, want fewer tag sets at once")
    return result, _array(keys), _array(values), _texts(key_texts), _texts(value_texts)


def keys_between(Catalogue catalogue not None, int64_t first, int64_t last):
    """Return (table, tag key) of the tag sets with ``first <= number < last``, each once, in order of first sight."""
    cdef _Snapshot snapshot = _Snapshot(catalogue, first, last)
    cdef LabelTable seen = LabelTable()
    cdef const TagsetView *view = NULL
    cdef const char *name
    cdef const char *text
    cdef uint32_t name_length = 0, text_length = 0, table = 0, at, place
    cdef int64_t number, known = 0
    cdef vector[char] pair
    # The last table that each symbol was seen with: most tag sets of a table say nothing new.
    cdef vector[int64_t] memo
    cdef Cursor cursor
    with nogil:
        for number in range(first, last):
            if number < snapshot.frozen:
                if view == NULL or number - view.first >= view.count:
                    view = snapshot.view_of(number)
                    memo.assign(view.symbols, UNSEEN)
                place = <uint32_t>(number - view.first)
                table = view.tables[place]
                for at in range(view.offsets[place], view.offsets[place + 1]):
                    if memo[view.keys[at]] != table:
                        memo[view.keys[at]] = table
                        known = _see(
                            seen, pair, table, symbol_text(view, view.keys[at]), symbol_length(view, view.keys[at])
                        )
            else:
                cursor = snapshot.tags_at(number, &table)
                while _next_tag(&cursor, &name, &name_length, &text, &text_length):
                    known = _see(seen, pair, table, name, name_length)
            if known < 0:
                break
    _checked(known)
    found = []
    for at in range(seen.labels.count):
        memcpy(&table, seen.labels.entries[at].data, 4)
        found.append(
            (table, PyBytes_FromStringAndSize(seen.labels.entries[at].data + 4, seen.labels.entries[at].length - 4))
        )
    return found


cdef int64_t _see(LabelTable seen, vector[char] &pair, uint32_t table, const char *key, size_t length) except? -2 nogil:
    pair.resize(4 + length)
    memcpy(pair.data(), &table, 4)
    memcpy(pair.data() + 4, key, length)
    return label_map_intern(&seen.labels, pair.data(), pair.size())


cdef object _array(const vector[int32_t] &numbers):
    result = np.empty(numbers.size(), np.int32)
    cdef int32_t[::1] out = result
    if numbers.size():
        memcpy(&out[0], numbers.data(), numbers.size() * sizeof(int32_t))
    return result
