"""Buckets of few series, added up row by row from the sources where the rows lie, without gathering or sorting them.

A grid has a cell for each (field, slot, bucket).  A slot is a series' place, or that of the group it belongs to.  It asks
of its rows only that those of one tag set come in order of time, whichever others lie between them, and none twice.

The interpreter is kept all the while: what is done here takes less time than getting it back from a busy thread.
"""

from libc.math cimport NAN
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libcpp.vector cimport vector

from native.arguments cimport checked_array, same_length

import numpy as np

cdef enum:
    FIELD_ID_BITS = 16
    # Tag sets are looked for by their lowest bits first.
    SIEVE = 4096
    MAX_CELLS = 1 << 28

cdef enum Kind:
    SUM
    MIN
    MAX
    COUNT
    FIRST
    LAST
    AVG
    INCREASE

AGGREGATES = {
    "sum": SUM, "min": MIN, "max": MAX, "count": COUNT, "first": FIRST, "last": LAST, "avg": AVG, "increase": INCREASE,
}
#: Those whose value for a group is found by adding its series' samples to one cell, in whatever order.
MERGED = frozenset(("min", "max", "count"))
#: What :meth:`BucketGrid.take` returns when it has taken nothing because the rows were too many, ...
TOO_MANY = -1
#: ... or one of them has a key that is guarded.
GUARDED = -2

cdef struct Cell:
    int64_t count
    # The sum, the smallest, the largest, the first, the last, or what a counter rose by.
    double value


# What newest samples and increases need beside.
cdef struct Ends:
    int64_t last_time
    double first
    double last


cdef struct Found:
    uint32_t row
    # Of the tag set among those of the grid, and of the first field's cell.
    uint32_t place
    uint32_t cell


cdef class BucketGrid:
    """See the module.  ``samples``: how many have been added; ``newest_ns``: the newest of them."""

    cdef Cell* _cells
    cdef Ends* _ends
    cdef int _kind
    cdef Py_ssize_t _fields, _slots, _buckets, _before
    cdef int64_t _start, _end, _width
    cdef vector[int32_t] _tagsets, _slot_of
    cdef vector[uint8_t] _present
    cdef uint8_t _sieve[SIEVE]
    cdef vector[Found] _found
    # Of each tag set the ascending times of keys that are not to be taken: from one place to the next.
    cdef vector[int64_t] _guarded
    cdef vector[Py_ssize_t] _guarded_from
    cdef int _refused
    # The columns of the source that is being taken from, how long they are, and what holds them.
    cdef vector[const double*] _columns
    cdef Py_ssize_t _rows
    cdef object _holder
    cdef readonly int64_t samples, newest_ns

    def __cinit__(
        self, str aggregate, tagset_ids, slots, Py_ssize_t slot_count, Py_ssize_t fields, start_ns, end_ns, width_ns
    ):
        """``tagset_ids`` int32[n] ascending; ``slots`` int32[n], each 0..``slot_count`` - 1, each another one unless the
        aggregate is of MERGED.  Buckets begin at ``start_ns`` and are ``width_ns`` wide.  Raises KeyError for an unknown
        aggregate, TypeError or ValueError for other input, MemoryError when there is no room.
        """
        cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
        cdef Py_ssize_t count = ids.shape[0], at, cells
        same_length(checked_array(slots, "slots", np.int32, 1), "slots", count, "tagset_ids")
        cdef const int32_t[::1] given = slots
        self._kind = AGGREGATES[aggregate]
        self._start, self._end, self._width = start_ns, end_ns, width_ns
        if self._width <= 0 or self._end <= self._start or fields < 0 or slot_count < 0:
            raise ValueError(f"cannot make buckets of {width_ns} ns from {start_ns} to {end_ns}")
        self._fields, self._slots = fields, slot_count
        # A bucket in front, for the samples before the start from which the first step counts.
        self._before = 1 if self._kind == INCREASE else 0
        self._buckets = (self._end - self._start - 1) // self._width + 1 + self._before
        if <double>fields * slot_count * self._buckets > MAX_CELLS:
            raise ValueError(f"cannot make {fields} x {slot_count} x {self._buckets} buckets: want at most {MAX_CELLS}")
        self._tagsets.reserve(count)
        self._slot_of.reserve(count)
        for at in range(count):
            if ids[at] < 0 or given[at] < 0 or given[at] >= slot_count or (at and ids[at] <= ids[at - 1]):
                raise ValueError("cannot make buckets: want ascending tag sets, each with a slot")
            self._tagsets.push_back(ids[at])
            self._slot_of.push_back(given[at])
            self._sieve[ids[at] & (SIEVE - 1)] = 1
        self._present.resize(count)
        self.newest_ns = INT64_MIN
        cells = fields * slot_count * self._buckets
        self._cells = <Cell*>calloc(max(1, cells), sizeof(Cell))
        if self._kind == LAST or self._kind == INCREASE:
            self._ends = <Ends*>calloc(max(1, cells), sizeof(Ends))
        if self._cells == NULL or (self._ends == NULL and (self._kind == LAST or self._kind == INCREASE)):
            raise MemoryError("cannot make buckets: got no memory for them")

    def __dealloc__(self):
        free(self._cells)
        free(self._ends)

    @staticmethod
    def size(fields, slot_count, start_ns, end_ns, width_ns):
        """Return how many cells a grid has."""
        return fields * slot_count * ((end_ns - start_ns - 1) // width_ns + 2)

    def use(self, columns):
        """Take values from these columns from now on: float64[n] for each field, None where there are no samples of it.

        NaN is no sample.  Raises TypeError or ValueError for other input.
        """
        cdef const double[::1] column
        cdef Py_ssize_t rows = -1
        if len(columns) != self._fields:
            raise ValueError(f"cannot add rows: got {len(columns)} columns, want {self._fields}")
        self._columns.clear()
        for each in columns:
            if each is None:
                self._columns.push_back(NULL)
                continue
            column = checked_array(each, "a column", np.float64, 1)
            if rows >= 0:
                same_length(each, "a column", rows, "the others")
            rows = column.shape[0]
            self._columns.push_back(&column[0])
        self._holder, self._rows = list(columns), rows

    def use_matrix(self, values, places):
        """Do the same with rows of a float64[k, n] matrix, each contiguous: that of each field, -1 where it has none."""
        cdef const double[:, :] matrix = values
        cdef const double* column
        cdef Py_ssize_t place
        if len(places) != self._fields:
            raise ValueError(f"cannot add rows: got {len(places)} columns, want {self._fields}")
        if matrix.shape[1] > 1 and matrix.strides[1] != sizeof(double):
            raise ValueError("cannot use values: want each of their rows contiguous")
        self._columns.clear()
        for place in places:
            if place >= matrix.shape[0]:
                raise ValueError(f"cannot use row {place} of {matrix.shape[0]}")
            column = NULL
            if place >= 0:
                column = &matrix[place, 0]
            self._columns.push_back(column)
        self._holder, self._rows = values, matrix.shape[1]

    def guard(self, tagset_ids, times):
        """Take no row with one of these keys: int32[n] and int64[n], ascending by (tag set, time), of the grid's tag sets."""
        cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
        cdef Py_ssize_t count = ids.shape[0], at = 0, place
        same_length(checked_array(times, "times", np.int64, 1), "times", count, "tagset_ids")
        cdef const int64_t[::1] given = times
        self._guarded.clear()
        self._guarded_from.clear()
        if count == 0:
            return
        for place in range(<Py_ssize_t>self._tagsets.size()):
            self._guarded_from.push_back(at)
            while at < count and ids[at] == self._tagsets[place]:
                if at and ids[at - 1] == ids[at] and given[at - 1] >= given[at]:
                    break
                self._guarded.push_back(given[at])
                at += 1
        self._guarded_from.push_back(at)
        if at < count:
            self._guarded_from.clear()
            raise ValueError("cannot guard keys: want ascending ones of the grid's tag sets")

    def take(self, tagset_ids, times, Py_ssize_t first, start_ns, end_ns, bint in_order, Py_ssize_t most):
        """Add the samples of the grid's tag sets with ``start_ns <= time < end_ns``; return how many rows they were in.

        ``tagset_ids`` int32[n]; ``times`` int64[n] ns, of the rows of the columns in use; those before ``first`` are
        left out.  ``in_order``: rows ascend by (tag set, time).  With more than ``most`` cells to look at, or a guarded
        key, nothing is added, and the answer is TOO_MANY or GUARDED.  Raises TypeError or ValueError for other input.
        """
        cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
        cdef Py_ssize_t rows = ids.shape[0], limit
        same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
        cdef const int64_t[::1] at = times
        cdef int64_t low = start_ns, high = end_ns
        cdef bint fits
        self._check(low, high, rows)
        if first < 0 or first >= rows or low == high or self._tagsets.empty():
            return 0
        limit = most // max(1, self._fields)
        self._found.clear()
        if in_order:
            fits = self._look_up(&ids[0], &at[0], first, rows, low, high, limit)
        else:
            fits = self._look_through(&ids[0], &at[0], first, rows, low, high, limit)
        return self._add_all(&at[0]) if fits else self._refused

    def take_indexed(self, sorted_ids, order, times, start_ns, end_ns, Py_ssize_t most):
        """Add samples as :meth:`take` does, of rows that an index finds.

        ``order`` int32[m]: places of rows in ``times`` and the columns, in each tag set by time; ``sorted_ids``
        int32[m], ascending: the tag set of each.
        """
        cdef const int32_t[::1] ids = checked_array(sorted_ids, "sorted_ids", np.int32, 1)
        cdef const int32_t[::1] places = checked_array(order, "order", np.int32, 1)
        cdef const int64_t[::1] at = checked_array(times, "times", np.int64, 1)
        cdef Py_ssize_t count = ids.shape[0], rows = at.shape[0], limit, place, first = 0
        cdef int64_t low = start_ns, high = end_ns
        same_length(order, "order", count, "sorted_ids")
        self._check(low, high, rows)
        if count == 0 or low == high:
            return 0
        limit = most // max(1, self._fields)
        self._found.clear()
        for place in range(<Py_ssize_t>self._tagsets.size()):
            first = first_of(&ids[0], first, count, self._tagsets[place])
            while first < count and ids[first] == self._tagsets[place]:
                if not 0 <= places[first] < rows:
                    raise ValueError(f"cannot add rows: got row {places[first]} of {rows} in the order")
                if low <= at[places[first]] < high and not self._note(places[first], place, at[places[first]], limit):
                    return self._refused
                first += 1
            if first == count:
                break
        return self._add_all(&at[0]) if rows else 0

    cdef int _check(self, int64_t low, int64_t high, Py_ssize_t rows) except -1:
        if <Py_ssize_t>self._columns.size() != self._fields or (self._rows >= 0 and self._rows != rows):
            raise ValueError(f"cannot add {rows} rows: got columns of {self._rows}")
        if low > high or high > self._end or (low < self._start and not self._before):
            raise ValueError(f"cannot add rows: got times from {low} to {high}, want times of the buckets")
        if rows > 0xFFFFFFFF:
            raise ValueError(f"cannot add {rows} rows: want fewer")
        return 0

    cdef Py_ssize_t _add_all(self, const int64_t* times):
        """Add the rows found; return how many they are."""
        cdef Py_ssize_t field
        for field in range(self._fields):
            if self._columns[field] != NULL:
                self._add(self._columns[field], times, field)
        return self._found.size()

    cdef bint _look_up(
        self, const int32_t* ids, const int64_t* times, Py_ssize_t row, Py_ssize_t rows, int64_t low, int64_t high,
        Py_ssize_t limit,
    ) noexcept:
        cdef Py_ssize_t place
        for place in range(<Py_ssize_t>self._tagsets.size()):
            row = first_row(ids, times, row, rows, self._tagsets[place], low)
            while row < rows and ids[row] == self._tagsets[place] and times[row] < high:
                if not self._note(row, place, times[row], limit):
                    return False
                row += 1
            if row == rows:
                break
        return True

    cdef bint _look_through(
        self, const int32_t* ids, const int64_t* times, Py_ssize_t row, Py_ssize_t rows, int64_t low, int64_t high,
        Py_ssize_t limit,
    ) noexcept:
        cdef Py_ssize_t count = <Py_ssize_t>self._tagsets.size(), place, end
        cdef const int32_t* wanted = self._tagsets.data()
        cdef int32_t only, first = wanted[0], last = wanted[count - 1]
        cdef bint dense = <int64_t>last - first + 1 == count
        cdef int any
        if count == 1:
            only = first
            while row < rows:
                # Sixteen at a time, most of which are other tag sets' rows.
                end = row + 16
                if end <= rows:
                    any = 0
                    for place in range(row, end):
                        any |= ids[place] == only
                    if not any:
                        row = end
                        continue
                else:
                    end = rows
                for row in range(row, end):
                    if ids[row] == only and low <= times[row] and times[row] < high:
                        if not self._note(row, 0, times[row], limit):
                            return False
                row = end
            return True
        for row in range(row, rows):
            if not self._sieve[ids[row] & (SIEVE - 1)] or times[row] < low or times[row] >= high:
                continue
            if ids[row] < first or ids[row] > last:
                continue
            place = ids[row] - first if dense else place_of(wanted, count, ids[row])
            if place >= 0 and not self._note(row, place, times[row], limit):
                return False
        return True

    cdef inline bint _note(self, Py_ssize_t row, Py_ssize_t place, int64_t time, Py_ssize_t limit) noexcept:
        """Note a row of the tag set at ``place``; return False when there are too many, or it has a guarded key."""
        cdef Py_ssize_t bucket = 0
        cdef Found found
        if <Py_ssize_t>self._found.size() >= limit:
            self._refused = TOO_MANY
            return False
        if not self._guarded_from.empty() and self._is_guarded(place, time):
            self._refused = GUARDED
            return False
        if time >= self._start:
            bucket = <Py_ssize_t>(<uint64_t>(time - self._start) // <uint64_t>self._width) + self._before
        found.row = <uint32_t>row
        found.place = <uint32_t>place
        found.cell = <uint32_t>(self._slot_of[place] * self._buckets + bucket)
        self._found.push_back(found)
        return True

    cdef bint _is_guarded(self, Py_ssize_t place, int64_t time) noexcept:
        cdef Py_ssize_t low = self._guarded_from[place], end = self._guarded_from[place + 1], last = end, middle
        while low < end:
            middle = (low + end) // 2
            if self._guarded[middle] < time:
                low = middle + 1
            else:
                end = middle
        return low < last and self._guarded[low] == time

    cdef void _add(self, const double* column, const int64_t* times, Py_ssize_t field) noexcept:
        cdef Py_ssize_t first = field * self._slots * self._buckets
        cdef Cell* cells = self._cells + first
        cdef const Found* found = self._found.data()
        cdef const Found* end = found + self._found.size()
        # One loop for each, so that none asks for every sample what it is for.
        if self._kind == MAX:
            fold(column, found, end, cells, MAX)
        elif self._kind == MIN:
            fold(column, found, end, cells, MIN)
        elif self._kind == SUM or self._kind == AVG:
            fold(column, found, end, cells, SUM)
        elif self._kind == COUNT:
            fold(column, found, end, cells, COUNT)
        elif self._kind == FIRST:
            fold(column, found, end, cells, FIRST)
        else:
            fold_ends(column, times, found, end, cells, self._ends + first, self._kind)
        self._note_samples(column, times)

    cdef void _note_samples(self, const double* column, const int64_t* times) noexcept:
        """Note of the rows found which have a sample in the column."""
        cdef const Found* found = self._found.data()
        cdef const Found* end = found + self._found.size()
        cdef uint8_t* present = self._present.data()
        cdef int64_t start = self._start, samples = 0, newest = self.newest_ns, time
        while found < end:
            time = times[found.row]
            if time >= start and column[found.row] == column[found.row]:
                samples += 1
                present[found.place] = 1
                if time > newest:
                    newest = time
            found += 1
        self.samples += samples
        self.newest_ns = newest

    def present(self):
        """Return a list of bools: which of the tag sets have had a sample at or after the start."""
        return [bool(one) for one in self._present]

    def lines(self):
        """Return (lines, buckets, values, newest times) of all (slot, bucket) that have samples, field by field.

        Lines: a list of (field, slot, first, end), where the line's buckets are in the arrays; ``buckets`` int64[m]: their
        numbers; ``values`` float64[m]; the newest times int64[m] ns of the aggregate last, else None.
        """
        cdef Py_ssize_t most = self._fields * self._slots * (self._buckets - self._before)
        cdef Py_ssize_t field, slot, bucket, at = 0, found = 0, first
        cdef bint timed = self._kind == LAST
        buckets, values = np.empty(most, np.int64), np.empty(most, np.float64)
        newest = np.empty(most if timed else 0, np.int64)
        cdef int64_t[::1] numbers = buckets
        cdef int64_t[::1] times = newest
        cdef double[::1] out = values
        cdef double previous
        lines = []
        for field in range(self._fields):
            for slot in range(self._slots):
                first = found
                previous = NAN
                for bucket in range(self._buckets):
                    if self._cells[at].count:
                        if bucket >= self._before:
                            numbers[found] = bucket - self._before
                            if timed:
                                times[found] = self._ends[at].last_time
                            out[found] = self._value(at, previous)
                            found += 1
                        if self._kind == INCREASE:
                            previous = self._ends[at].last
                    at += 1
                if found > first:
                    lines.append((field, slot, first, found))
        return lines, buckets, values, newest if timed else None

    cdef inline double _value(self, Py_ssize_t at, double previous) noexcept:
        """Return the value of a cell; ``previous``: the series' last sample before, NaN where none is known."""
        cdef double first, step
        if self._kind == AVG:
            return self._cells[at].value / <double>self._cells[at].count
        if self._kind == COUNT:
            return <double>self._cells[at].count
        if self._kind != INCREASE:
            return self._cells[at].value
        first = self._ends[at].first
        # What a series counted before its very first sample is not known.
        step = 0.0 if previous != previous else first - previous if first >= previous else first
        return self._cells[at].value + step


cdef inline void fold(const double* column, const Found* found, const Found* end, Cell* cells, int kind) noexcept:
    cdef Cell cell
    cdef uint32_t at
    cdef double value
    while found < end:
        # Rows of one cell often come together.
        at = found.cell
        cell = cells[at]
        while found < end and found.cell == at:
            value = column[found.row]
            found += 1
            if value != value:
                continue
            if cell.count == 0:
                cell.value = value
            elif kind == MAX:
                cell.value = value if value > cell.value else cell.value
            elif kind == MIN:
                cell.value = value if value < cell.value else cell.value
            elif kind == SUM:
                cell.value += value
            cell.count += 1
        cells[at] = cell


cdef inline void fold_ends(
    const double* column, const int64_t* times, const Found* found, const Found* end, Cell* cells, Ends* ends, int kind
) noexcept:
    cdef Cell* cell
    cdef Ends* known
    cdef double value
    while found < end:
        value = column[found.row]
        if value == value:
            cell = cells + found.cell
            known = ends + found.cell
            if kind == LAST:
                cell.value = value
            elif cell.count == 0:
                known.first = value
            else:
                # A fall is a reset to zero.
                cell.value += value if value < known.last else value - known.last
            known.last = value
            known.last_time = times[found.row]
            cell.count += 1
        found += 1


cdef inline Py_ssize_t first_row(
    const int32_t* ids, const int64_t* times, Py_ssize_t row, Py_ssize_t rows, int32_t wanted, int64_t low
) noexcept:
    """Return the first of the rows from ``row`` on that is not before (wanted, low)."""
    cdef Py_ssize_t end = rows, middle
    while row < end:
        middle = row + (end - row) // 2
        if ids[middle] < wanted or (ids[middle] == wanted and times[middle] < low):
            row = middle + 1
        else:
            end = middle
    return row


cdef inline Py_ssize_t first_of(const int32_t* ids, Py_ssize_t row, Py_ssize_t rows, int32_t wanted) noexcept:
    """Return the first of the rows from ``row`` on whose tag set is not below ``wanted``."""
    cdef Py_ssize_t end = rows, middle
    while row < end:
        middle = row + (end - row) // 2
        if ids[middle] < wanted:
            row = middle + 1
        else:
            end = middle
    return row


cdef inline Py_ssize_t place_of(const int32_t* ids, Py_ssize_t count, int32_t wanted) noexcept:
    cdef Py_ssize_t low = 0, end = count, middle
    while low < end:
        middle = (low + end) // 2
        if ids[middle] < wanted:
            low = middle + 1
        else:
            end = middle
    return low if low < count and ids[low] == wanted else -1
