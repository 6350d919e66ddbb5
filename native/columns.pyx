"""Columns of numbers as compact bytes and back (docs/formats/wal.md, "Columns"), and the mark of a cell without sample.

Packing is for the log: one pass decides what a column is, one writes it, and reading it back gives the same bits.  It
is not for long-term storage, where segments compress harder at leisure.  The codecs are ``native/integers.pxd`` and
``native/floats.pxd``; this file checks arrays, owns memory and turns faults into errors.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

import numpy as np

from native.absent cimport ABSENT_BITS as ABSENT_PATTERN
from native.cursor cimport Cursor, cursor_over, position, refuse_overrun
from native.floats cimport (
    CHECK_CELLS,
    MOST_DECIMALS,
    bits_at,
    exact_integer,
    floats_bound,
    gather_present,
    more_decimals,
    pack_floats,
    set_bits,
    to_integers,
    unpack_floats,
)
from native.integers cimport (
    FAULT_MODE,
    FAULT_NONE,
    FAULT_OVERRUN,
    FAULT_PADDING,
    FAULT_RANGE,
    Fault,
    integers_bound,
    pack_integers,
    unpack_integers,
)

cdef enum:
    RELEASE_GIL_BYTES = 16384   # less memory is dealt with before the GIL could be given up and taken back

cdef enum Kind:
    INT64
    INT32
    FLOAT64
    UINT8

cdef tuple KIND_NAMES = ("int64", "int32", "float64", "uint8")


cdef double absent_value() noexcept:
    cdef double value
    set_bits(&value, 0, ABSENT_PATTERN)
    return value


ABSENT_BITS = ABSENT_PATTERN
ABSENT = absent_value()


def is_absent(values):
    """Return a bool array of the shape of ``values`` (float64, any layout): True where a cell holds no sample.

    Raises TypeError for anything but a float64 array.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        raise TypeError(f"cannot look for absent cells: got {described(values)}, want a float64 array")
    return values.view(np.uint64) == ABSENT_BITS


# Arrays and memory


cdef str described(object array):
    if isinstance(array, np.ndarray):
        return f"a {array.ndim}-dimensional array of {array.dtype}"
    return type(array).__name__


cdef int borrow(object array, Py_buffer* view, Kind kind, int dimensions, bint writable) except -1:
    """Fill ``view``, to be released by the caller, with the memory of an array whose rows each lie in one piece.

    Buffers are asked for directly: a typed memoryview costs more than packing a column of ten rows.  Raises TypeError
    for another kind of number, ValueError for another shape or layout.
    """
    cdef const char* number
    cdef bint right
    if not isinstance(array, np.ndarray):
        raise TypeError(f"cannot use a column: got {described(array)}, want an array of {KIND_NAMES[<int>kind]}")
    PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    number = view.format
    if kind == FLOAT64:
        right = number[0] == b"d"
    elif kind == UINT8:
        right = number[0] == b"B"
    else:
        right = (number[0] == b"l" or number[0] == b"q" or number[0] == b"i") and (
            view.itemsize == (8 if kind == INT64 else 4)
        )
    try:
        if <size_t>view.buf % <size_t>view.itemsize != 0 or (
            view.ndim > 1 and view.strides[0] % view.itemsize != 0
        ):
            raise ValueError(f"cannot use a column: got {described(array)} at an odd address, want an aligned one")
        if not right or number[1] != 0:
            raise TypeError(f"cannot use a column: got {described(array)}, want {KIND_NAMES[<int>kind]}")
        if view.ndim != dimensions:
            raise ValueError(f"cannot use a column: got {described(array)}, want {dimensions} dimension(s)")
        if view.shape[dimensions - 1] > 1 and view.strides[dimensions - 1] != view.itemsize:
            raise ValueError(f"cannot use a column: got {described(array)} with gaps, want neighbouring cells")
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


cdef struct Scratch:
    int64_t* integers   # room for rows, and the address to free
    double* present     # room for rows + 1
    uint8_t* out        # room for what is packed


cdef Scratch scratch(size_t rows, size_t out_bytes) except *:
    """Return memory for columns of ``rows`` rows, for the worst case: what is not touched is never real memory."""
    cdef Scratch memory
    memory.integers = <int64_t*>malloc(8 * (2 * rows + 1) + out_bytes)
    if memory.integers == NULL:
        raise MemoryError(f"cannot pack or unpack columns: no memory for {rows} rows")
    memory.present = <double*>(memory.integers + rows)
    memory.out = <uint8_t*>(memory.present + rows + 1)
    return memory


cdef size_t checked_offset(object offset, Py_buffer* view) except? 0:
    if not 0 <= offset <= view.len:
        raise ValueError(f"cannot unpack a column: got offset {offset}, want 0..{view.len}")
    return <size_t>offset


cdef int refuse(Fault fault, const Cursor* cursor, uint8_t mode) except -1:
    """Raise the ValueError of a fault; the one place where faults get words."""
    if fault == FAULT_OVERRUN:
        refuse_overrun(cursor, "unpack a column")
    if fault == FAULT_MODE:
        complaint = f"got mode 0x{mode:02x}, want one that suits the column and its row count"
    elif fault == FAULT_PADDING:
        complaint = "got presence bits beyond the last row, want zeros there"
    else:
        complaint = "got a number beyond 32 bits, want an int32"
    raise ValueError(f"cannot unpack a column: {complaint} (before offset {position(cursor)})")


# One column


cdef uint8_t* pack_one(
    Kind kind, const void* values, size_t rows, const Scratch* memory, uint8_t* out
) noexcept nogil:
    cdef size_t row
    if kind == FLOAT64:
        return pack_floats(<const double*>values, rows, memory.integers, memory.present, out)
    if kind == INT64:
        return pack_integers(<const int64_t*>values, rows, out)
    for row in range(rows):
        memory.integers[row] = (<const int32_t*>values)[row]
    return pack_integers(memory.integers, rows, out)


cdef Fault unpack_one(
    Kind kind, Cursor* cursor, void* out, size_t rows, const Scratch* memory, uint8_t* mode
) noexcept nogil:
    cdef Fault fault
    cdef size_t row
    cdef int64_t value
    cdef bint fits = True
    if kind == FLOAT64:
        return unpack_floats(cursor, <double*>out, rows, mode)
    if kind == INT64:
        return unpack_integers(cursor, <int64_t*>out, rows, mode)
    fault = unpack_integers(cursor, memory.integers, rows, mode)
    if fault != FAULT_NONE:
        return fault
    for row in range(rows):
        value = memory.integers[row]
        fits &= INT32_MIN <= value <= INT32_MAX
        (<int32_t*>out)[row] = <int32_t>value
    return FAULT_NONE if fits else FAULT_RANGE


cdef bytes pack_column(object values, Kind kind):
    cdef Py_buffer view
    cdef Scratch memory
    cdef size_t rows
    cdef uint8_t* end
    borrow(values, &view, kind, 1, False)
    try:
        rows = view.shape[0]
        memory = scratch(rows, floats_bound(rows))
        try:
            if 8 * rows < RELEASE_GIL_BYTES:
                end = pack_one(kind, view.buf, rows, &memory, memory.out)
            else:
                with nogil:
                    end = pack_one(kind, view.buf, rows, &memory, memory.out)
            return PyBytes_FromStringAndSize(<const char*>memory.out, end - memory.out)
        finally:
            free(memory.integers)
    finally:
        PyBuffer_Release(&view)


cdef size_t unpack_column(object data, object offset, object out, Kind kind) except? 0:
    cdef Py_buffer view, target
    cdef Cursor cursor
    cdef Scratch memory
    cdef uint8_t mode = 0
    cdef Fault fault
    cdef size_t rows
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        cursor = cursor_over(<const uint8_t*>view.buf, view.len, checked_offset(offset, &view))
        borrow(out, &target, kind, 1, True)
        try:
            rows = target.shape[0]
            memory = scratch(rows if kind == INT32 else 0, 0)
            if 8 * rows < RELEASE_GIL_BYTES:
                fault = unpack_one(kind, &cursor, target.buf, rows, &memory, &mode)
            else:
                with nogil:
                    fault = unpack_one(kind, &cursor, target.buf, rows, &memory, &mode)
            free(memory.integers)
        finally:
            PyBuffer_Release(&target)
        if fault != FAULT_NONE:
            refuse(fault, &cursor, mode)
        return position(&cursor)
    finally:
        PyBuffer_Release(&view)


def pack_int64(values):
    """Return int64[n] ``values`` packed as an integer column; n is not stored.  Raises TypeError, ValueError."""
    return pack_column(values, INT64)


def unpack_int64(data, offset, out):
    """Fill int64[n] ``out`` from the integer column of n rows at ``offset`` of ``data``; return the offset after it.

    Raises ValueError when the data ends too early or holds no such column; ``out`` then holds anything.
    """
    return unpack_column(data, offset, out, INT64)


def pack_int32(values):
    """Return int32[n] ``values`` packed as an integer column; n is not stored.  Raises TypeError, ValueError."""
    return pack_column(values, INT32)


def unpack_int32(data, offset, out):
    """As ``unpack_int64`` for int32[n] ``out``; raises ValueError as well when a number does not fit."""
    return unpack_column(data, offset, out, INT32)


def pack_float64(values):
    """Return float64[n] ``values`` packed as a float column; n is not stored.  Raises TypeError, ValueError."""
    return pack_column(values, FLOAT64)


def unpack_float64(data, offset, out):
    """As ``unpack_int64`` for float64[n] ``out``; every cell gets back the bits that were packed."""
    return unpack_column(data, offset, out, FLOAT64)


# All columns of a table


def pack_rows(tagset_ids, times, values):
    """Return the columns of n rows one after the other: tag sets, times, then each field; n is not stored.

    ``tagset_ids``: int32[n]; ``times``: int64[n]; ``values``: float64[fields, n], each field in one piece (a slice of
    rows of a larger matrix will do).  Raises TypeError or ValueError for other arrays.
    """
    cdef Py_buffer ids_view, times_view, values_view
    cdef Scratch memory
    cdef size_t rows, fields, field
    cdef uint8_t* end
    borrow(tagset_ids, &ids_view, INT32, 1, False)
    try:
        borrow(times, &times_view, INT64, 1, False)
        try:
            borrow(values, &values_view, FLOAT64, 2, False)
            try:
                rows = ids_view.shape[0]
                fields = values_view.shape[0]
                same_rows(rows, &times_view, &values_view)
                memory = scratch(rows, floats_bound(rows) * (fields + 2))
                try:
                    with nogil:
                        end = pack_one(INT32, ids_view.buf, rows, &memory, memory.out)
                        end = pack_one(INT64, times_view.buf, rows, &memory, end)
                        for field in range(fields):
                            end = pack_one(FLOAT64, row_of(&values_view, field), rows, &memory, end)
                    return PyBytes_FromStringAndSize(<const char*>memory.out, end - memory.out)
                finally:
                    free(memory.integers)
            finally:
                PyBuffer_Release(&values_view)
        finally:
            PyBuffer_Release(&times_view)
    finally:
        PyBuffer_Release(&ids_view)


def unpack_rows(data, offset, tagset_ids, times, values):
    """Fill int32[n] ``tagset_ids``, int64[n] ``times`` and float64[fields, n] ``values`` from what ``pack_rows`` gave.

    Returns the offset after it.  Raises ValueError when the data ends too early or holds no such columns; the arrays
    then hold anything.
    """
    cdef Py_buffer values_view
    cdef Cursor cursor
    cdef uint8_t mode = 0
    cdef Fault fault = FAULT_NONE
    cdef size_t field
    cdef Py_buffer view
    offset = unpack_column(data, offset, tagset_ids, INT32)
    offset = unpack_column(data, offset, times, INT64)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        cursor = cursor_over(<const uint8_t*>view.buf, view.len, checked_offset(offset, &view))
        borrow(values, &values_view, FLOAT64, 2, True)
        try:
            if not values_view.shape[1] == len(times) == len(tagset_ids):
                raise ValueError(
                    f"cannot use columns: got {len(tagset_ids)}, {len(times)} and {values_view.shape[1]} rows, want"
                    " the same number"
                )
            with nogil:
                for field in range(<size_t>values_view.shape[0]):
                    fault = unpack_floats(
                        &cursor, <double*>row_of(&values_view, field), values_view.shape[1], &mode
                    )
                    if fault != FAULT_NONE:
                        break
        finally:
            PyBuffer_Release(&values_view)
        if fault != FAULT_NONE:
            refuse(fault, &cursor, mode)
        return position(&cursor)
    finally:
        PyBuffer_Release(&view)


cdef void* row_of(Py_buffer* matrix, Py_ssize_t row) noexcept nogil:
    return <char*>matrix.buf + row * matrix.strides[0]


cdef int same_rows(Py_ssize_t rows, Py_buffer* times, Py_buffer* values) except -1:
    if times.shape[0] != rows or values.shape[1] != rows:
        raise ValueError(
            f"cannot use columns: got {rows}, {times.shape[0]} and {values.shape[1]} rows, want the same number"
        )
    return 0


# Columns as scaled integers, for storage that keeps decimals


def decimals_of(values, int max_decimals=6):
    """Return the smallest k in 0..``max_decimals`` at which every cell of float64[n] ``values`` is exact, else -1.

    Exact means: with i = value * 10**k rounded half to even, |i| <= 2**53 and i / 10**k has the very bits of the value
    (so -0.0, infinities and NaN are never exact).  Absent cells do not count; 0 when all are absent.  Raises ValueError
    for ``max_decimals`` beyond 0..15, TypeError or ValueError for other arrays.
    """
    cdef Py_buffer view
    cdef int decimals
    if not 0 <= max_decimals <= MOST_DECIMALS:
        raise ValueError(f"cannot look for decimals: got at most {max_decimals}, want 0..{MOST_DECIMALS}")
    borrow(values, &view, FLOAT64, 1, False)
    try:
        with nogil:
            decimals = find_sparse_decimals(<const double*>view.buf, view.shape[0], max_decimals)
        return decimals
    finally:
        PyBuffer_Release(&view)


cdef int find_sparse_decimals(const double* values, size_t count, int most) noexcept nogil:
    """As ``find_decimals`` with absent cells left out, block by block so that no memory is needed."""
    cdef double[CHECK_CELLS + 1] present
    cdef uint8_t[CHECK_CELLS] bitmap
    cdef int64_t[CHECK_CELLS] integers
    cdef size_t row = 0, block, held, exact
    cdef int decimals = 0
    while row < count:
        block = CHECK_CELLS if count - row > CHECK_CELLS else count - row
        held = gather_present(values + row, block, present, bitmap)
        exact = to_integers(present, held, decimals, integers)
        if exact == held:
            row += block
            continue
        decimals = more_decimals(present[exact], decimals, most)
        if decimals < 0:
            return -1
        row = 0
    return decimals


def scale_to_int64(values, int decimals, out, valid):
    """Fill int64[n] ``out`` with value * 10**decimals rounded and uint8[n] ``valid`` with 1; 0 and 0 where absent.

    ``values``: float64[n]; ``decimals``: what ``decimals_of`` returned for them.  Raises ValueError when a cell is not
    exact at that many decimals (``out`` and ``valid`` then hold anything), for other lengths, and for ``decimals``
    beyond 0..15; TypeError or ValueError for other arrays.
    """
    cdef Py_buffer view, out_view, valid_view
    cdef size_t inexact
    if not 0 <= decimals <= MOST_DECIMALS:
        raise ValueError(f"cannot scale a column: got {decimals} decimals, want 0..{MOST_DECIMALS}")
    borrow(values, &view, FLOAT64, 1, False)
    try:
        borrow(out, &out_view, INT64, 1, True)
        try:
            borrow(valid, &valid_view, UINT8, 1, True)
            try:
                if not view.shape[0] == out_view.shape[0] == valid_view.shape[0]:
                    raise ValueError(
                        f"cannot scale a column: got {view.shape[0]} values, room for {out_view.shape[0]} integers and"
                        f" {valid_view.shape[0]} marks, want the same number"
                    )
                with nogil:
                    inexact = scale_present(
                        <const double*>view.buf, view.shape[0], decimals, <int64_t*>out_view.buf,
                        <uint8_t*>valid_view.buf,
                    )
                if inexact < <size_t>view.shape[0]:
                    raise ValueError(
                        f"cannot scale a column: got {(<const double*>view.buf)[inexact]!r} at row {inexact}, want a"
                        f" value with at most {decimals} decimals"
                    )
            finally:
                PyBuffer_Release(&valid_view)
        finally:
            PyBuffer_Release(&out_view)
    finally:
        PyBuffer_Release(&view)


cdef size_t scale_present(
    const double* values, size_t count, int decimals, int64_t* out, uint8_t* valid
) noexcept nogil:
    """Fill ``out`` and ``valid``; return the row of the first inexact cell, ``count`` when there is none."""
    cdef size_t row
    for row in range(count):
        if bits_at(values, row) == ABSENT_PATTERN:
            out[row] = 0
            valid[row] = 0
        elif exact_integer(values[row], decimals, out + row):
            valid[row] = 1
        else:
            return row
    return count
