"""What remote write and text exposition decode to: rows of one pooled table (the native interface is pooledrows.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcpy, memset
from libcpp.algorithm cimport sort

import os

import numpy as np

from native.catalogue cimport TABLE_EXHAUSTED, TAGSET_FREE, TAGSETS_EXHAUSTED, TagsetVerdict
from native.linegrammar cimport canonical_key, tag_before
from native.rawkeys cimport (
    KEY_TEXT_BYTES,
    raw_keys_bytes,
    raw_keys_find,
    raw_keys_free,
    raw_keys_init,
    raw_keys_intern,
)
from native.tagset_key cimport MAX_NAME_BYTES, MAX_TAGSET_BYTES, compare_bytes, is_utf8

from native.refusals import FOUND_CHARACTERS, time_text


cdef enum:
    LONGEST_REMEMBERED_KEY = 4_096
    RETAINED_ROWS = 1 << 21  # row buffers beyond this are given back after a call
    FOUND_BYTES = 200

#: Cause, what it is counted in, and the wanted thing, by the numbers of ``PooledProblem``.
PROBLEMS = (
    ("", ""),
    ("malformed", "name{{label=\"value\",...}} value [timestamp]"),
    ("malformed", "at least one label in each series"),
    ("malformed", "a label name of 1 to 65535 bytes"),
    ("malformed", "labels of at most 1048576 bytes together"),
    ("not_utf8", "UTF-8"),
    ("duplicate_tag", "each label name once"),
    ("too_old", "a time from {min_time} on"),
    ("too_far_in_future", "a time up to {max_time}"),
    ("tag_set_limit", "one of the series that are known, as {max_tagsets} are in use, which is the limit"),
    (
        "table_tag_set_limit",
        "one of the series that are known, as {max_table_tagsets} of the table are in use, which is the limit",
    ),
    (
        "tag_set_rate_limit",
        "one of the series that are known, as {max_hourly_tagsets} are new within an hour, which is the limit",
    ),
    ("not_finite", "a value within the range of float64"),
    ("reserved_nan", "any other NaN than 7ff8544944454741, which stands for 'no sample' here"),
    ("histogram", "float samples; native histograms are not stored"),
    ("malformed", "an even number of label references, each to a symbol of the request"),
)

#: Every cause that ``refused_by_cause`` may hold.
CAUSES = tuple(dict.fromkeys(problem[0] for problem in PROBLEMS[1:]))


cdef class DecodedSamples:
    """The rows of one pooled table, in the order of the request, and what was refused.

    ``tagset_ids`` int32[n], ``times`` int64[n] in nanoseconds, ``values`` float64[n] with the bits that were sent.
    ``refused_by_cause`` counts samples, ``refusals`` describes the first of them: (position, cause, sentence).
    ``dropped`` counts exemplars and metadata, which are not stored.
    """

    cdef readonly object tagset_ids, times, values
    cdef readonly dict refused_by_cause
    cdef readonly list refusals
    cdef readonly int64_t dropped


cdef object _copied(const void *data, size_t count, object dtype):
    cdef unsigned char[::1] target
    array = np.empty(count, dtype=dtype)
    if count:
        target = array.view(np.uint8)
        with nogil:
            memcpy(&target[0], data, target.shape[0])
    return array


cdef class PooledRows:
    """What both decoders share.  One thread at a time decodes into a catalogue; others wait.

    ``max_tagsets`` bounds what the catalogue may come to hold, ``max_refusals`` how many refusals are described, and
    ``max_key_bytes`` the memory of raw keys, of which ``max_key_text`` is text (native/rawkeys.pxd).
    """

    def __cinit__(
        self, Catalogue catalogue not None, *, int64_t max_tagsets, int64_t max_refusals, int64_t max_key_bytes,
        int64_t max_key_text=KEY_TEXT_BYTES
    ):
        cdef bytes random = os.urandom(24)
        raw_keys_init(&self.keys, PyBytes_AS_STRING(random), <size_t>max(max_key_text, 0))
        self.catalogue = catalogue
        for name, value in (
            ("max_tagsets", max_tagsets), ("max_refusals", max_refusals), ("max_key_bytes", max_key_bytes),
            ("max_key_text", max_key_text),
        ):
            if value < 0 or (value > 0x7FFFFFFF and name not in ("max_key_bytes", "max_key_text")):
                raise ValueError(f"cannot make a decoder: got {name} {value}, want 0 to 2147483647")
        self.last_key = NO_KEY
        self.max_tagsets = <uint32_t>max_tagsets
        self.max_refusals = <size_t>max_refusals
        self.max_key_bytes = <size_t>max_key_bytes

    def __dealloc__(self):
        raw_keys_free(&self.keys)

    @property
    def key_bytes(self):
        """Bytes allocated for raw keys."""
        return raw_keys_bytes(&self.keys)

    cdef int64_t known_tagset(self, const char *key, size_t length) noexcept nogil:
        cdef int64_t known = raw_keys_find(&self.keys, key, length)
        if known < 0:
            self.last_key = NO_KEY
            return -1
        if self.last_key != <uint32_t>NO_KEY:
            self.next_key[self.last_key] = <uint32_t>known
        self.last_key = <uint32_t>known
        return self.tagset_of_key[known]

    cdef const LabelEntry *expected_key(self) noexcept nogil:
        cdef uint32_t expected
        if self.last_key == <uint32_t>NO_KEY:
            return NULL
        expected = self.next_key[self.last_key]
        if expected == <uint32_t>NO_KEY:
            return NULL
        return &self.keys.map.entries[expected]

    cdef int64_t expected_tagset(self) noexcept nogil:
        self.last_key = self.next_key[self.last_key]
        return self.tagset_of_key[self.last_key]

    cdef int64_t define_tagset(self, const char *key, size_t length, PooledProblem *problem) except -2 nogil:
        cdef size_t index, total = 4
        cdef int64_t tagset_id
        cdef TagsetVerdict verdict
        for index in range(self.tags.size()):
            if not 0 < self.tags[index].name.length <= <size_t>MAX_NAME_BYTES:
                problem[0] = POOLED_NO_LABEL_NAME
                return -1
            if not is_utf8(self.tags[index].name.data, self.tags[index].name.length) or not is_utf8(
                self.tags[index].value.data, self.tags[index].value.length
            ):
                problem[0] = POOLED_NOT_UTF8
                return -1
            total += 6 + self.tags[index].name.length + self.tags[index].value.length
        if total > <size_t>MAX_TAGSET_BYTES:
            problem[0] = POOLED_TAGSET_TOO_LARGE
            return -1
        sort(self.tags.begin(), self.tags.end(), &tag_before)
        for index in range(1, self.tags.size()):
            if compare_bytes(
                self.tags[index - 1].name.data, self.tags[index - 1].name.length,
                self.tags[index].name.data, self.tags[index].name.length,
            ) == 0:
                problem[0] = POOLED_DUPLICATE_TAG
                return -1
        # An empty value says that the label is not there (Prometheus, "Data model").
        total = 0
        for index in range(self.tags.size()):
            if self.tags[index].value.length:
                self.tags[total] = self.tags[index]
                total += 1
        self.tags.resize(total)
        if total == 0:
            problem[0] = POOLED_NO_LABELS
            return -1
        canonical_key(self.table_id, self.tags, self.canonical)
        tagset_id = self.catalogue.find_tagset_id(self.canonical.data(), self.canonical.size())
        if tagset_id < 0:
            verdict = self.catalogue.tagset_verdict(self.table_id)
            if verdict == TAGSETS_EXHAUSTED or self.catalogue.tagset_total() >= self.max_tagsets:
                problem[0] = POOLED_TAG_SET_LIMIT
                return -1
            if verdict != TAGSET_FREE:
                problem[0] = POOLED_TABLE_TAG_SET_LIMIT if verdict == TABLE_EXHAUSTED else POOLED_TAG_SET_RATE_LIMIT
                return -1
            tagset_id = self.catalogue.define_tagset_id(self.canonical.data(), self.canonical.size())
            if tagset_id < 0:
                with gil:
                    raise MemoryError("cannot decode samples: got no memory")
        if length <= <size_t>LONGEST_REMEMBERED_KEY:
            if raw_keys_bytes(&self.keys) > self.max_key_bytes:
                raw_keys_free(&self.keys)
                self.tagset_of_key.clear()
                self.next_key.clear()
                self.last_key = NO_KEY
            if raw_keys_intern(&self.keys, key, length) == <int64_t>self.tagset_of_key.size():
                self.tagset_of_key.push_back(<int32_t>tagset_id)
                self.next_key.push_back(<uint32_t>NO_KEY)
        return tagset_id

    cdef int add(self, int64_t time_ns, double value) except -1 nogil:
        self.times.push_back(time_ns)
        self.values.push_back(value)
        return 0

    cdef int close_series(self, size_t first, int32_t tagset_id) except -1 nogil:
        self.tagset_ids.resize(self.times.size(), tagset_id)
        return 0

    cdef int refuse(self, PooledProblem problem, int64_t samples, const char *at, size_t length) except -1 nogil:
        cdef PooledRefusal refusal
        self.refused[<int>problem] += samples
        if self.refusals.size() < self.max_refusals:
            refusal.problem = problem
            refusal.position = self.position
            refusal.at = at
            refusal.length = min(length, <size_t>FOUND_BYTES)
            self.refusals.push_back(refusal)
        return 0

    cdef int refuse_series(self, PooledProblem problem, size_t first, const char *at, size_t length) except -1 nogil:
        self.refuse(problem, self.times.size() - first, at, length)
        self.times.resize(first)
        self.values.resize(first)
        return 0

    cdef int begin(self, int64_t table_id, int64_t min_time_ns, int64_t max_time_ns) except -1:
        self.catalogue.checked_table(table_id)
        self.table_id = <uint32_t>table_id
        self.min_time_ns = min_time_ns
        self.max_time_ns = max_time_ns
        self.min_time_ms = -(-int(min_time_ns) // 1_000_000)
        self.max_time_ms = int(max_time_ns) // 1_000_000
        self.tagset_ids.clear()
        self.times.clear()
        self.values.clear()
        self.refusals.clear()
        self.position = self.dropped = 0
        memset(self.refused, 0, sizeof(self.refused))
        return 0

    cdef object result(self):
        cdef DecodedSamples decoded = DecodedSamples.__new__(DecodedSamples)
        cdef PooledRefusal refusal
        cdef int index
        cdef dict counts = {}
        decoded.tagset_ids = _copied(self.tagset_ids.data(), self.tagset_ids.size(), np.int32)
        decoded.times = _copied(self.times.data(), self.times.size(), np.int64)
        decoded.values = _copied(self.values.data(), self.values.size(), np.float64)
        decoded.dropped = self.dropped
        for index in range(<int>POOLED_PROBLEMS_END):
            if self.refused[index]:
                cause = PROBLEMS[index][0]
                counts[cause] = counts.get(cause, 0) + self.refused[index]
        decoded.refused_by_cause = counts
        decoded.refusals = []
        if not self.refusals.empty():
            limits = {
                "min_time": time_text(self.min_time_ns),
                "max_time": time_text(self.max_time_ns),
                "max_tagsets": min(self.max_tagsets, self.catalogue.max_tagsets),
                "max_table_tagsets": self.catalogue.max_table_tagsets,
                "max_hourly_tagsets": self.catalogue.max_hourly_tagsets,
            }
            for refusal in self.refusals:
                cause, wanted = PROBLEMS[<int>refusal.problem]
                found = refusal.at[: refusal.length].decode("utf-8", "backslashreplace")
                found = found[:FOUND_CHARACTERS] + ("..." if len(found) > FOUND_CHARACTERS else "")
                found = "".join([char if char.isprintable() else " " for char in found]).strip()
                got = f"got '{found}', " if found else ""
                words = f"cannot keep the sample: {got}want {wanted.format_map(limits)}"
                decoded.refusals.append((refusal.position, cause, words))
        return decoded

    cdef int release_large_buffers(self) except -1:
        """Give buffers back after an unusually large call; between ordinary calls they are kept."""
        self.refusals.clear()
        if self.times.capacity() > <size_t>RETAINED_ROWS:
            self.tagset_ids.clear()
            self.tagset_ids.shrink_to_fit()
            self.times.clear()
            self.times.shrink_to_fit()
            self.values.clear()
            self.values.shrink_to_fit()
        return 0
