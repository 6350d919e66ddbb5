from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.columns import (
    ABSENT,
    ABSENT_BITS,
    decimals_of,
    is_absent,
    pack_float64,
    pack_int32,
    pack_int64,
    pack_rows,
    scale_to_int64,
    unpack_float64,
    unpack_int32,
    unpack_int64,
    unpack_rows,
)
from tests.oracles import columns as oracle

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
STALE_BITS = 0x7FF0_0000_0000_0002  # Prometheus' stale marker, a signalling NaN
NEGATIVE_NAN_BITS = 0xFFF8_0000_0000_0001

FloatArray = npt.NDArray[np.float64]


def floats(bits: list[int]) -> FloatArray:
    return np.array(bits, dtype=np.uint64).view(np.float64)


def bits(values: FloatArray) -> list[int]:
    return [int(cell) for cell in values.view(np.uint64)]


INT64S = st.integers(INT64_MIN, INT64_MAX)
# Columns as metrics have them (narrow, regular, scaled) and as they do not.
INTEGER_COLUMNS = st.one_of(
    st.lists(INT64S, max_size=40),
    st.lists(st.sampled_from([INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX]), max_size=40),
    st.builds(
        lambda base, unit, multiples: [base + unit * multiple for multiple in multiples],
        st.integers(-(2**61), 2**61),
        st.sampled_from([1, 3, 1000, 10**9, 2**33]),
        st.lists(st.integers(0, 300), max_size=40),
    ),
    st.builds(
        lambda base, steps: [int(value) for value in base + np.cumsum(np.array(steps, dtype=np.int64))],
        st.integers(-(2**61), 2**61),
        st.lists(st.integers(10**10 - 200, 10**10 + 70_000), max_size=40),
    ),
)
DECIMAL_CELLS = st.builds(
    lambda integer, decimals: integer / 10.0**decimals, st.integers(-(10**6), 10**6), st.integers(0, 8)
)
ODD_CELLS = st.sampled_from(
    [
        *(0.0, -0.0, 0.1, 1 / 3, 0.5, -0.5, 5e-324, -2.2e-308, 1e300, float("inf"), float("-inf")),
        *(2.0**52 + 1, 2.0**53 - 1, 2.0**53, 2.0**53 + 2, -(2.0**53)),
        *(4503599627370495.5, 2251799813685247.75, -1125899906842623.875),
    ]
).map(oracle.bits_of)
ANY_CELLS = st.one_of(
    st.integers(0, 2**64 - 1),
    ODD_CELLS,
    st.floats().map(oracle.bits_of),
    st.sampled_from([ABSENT_BITS, STALE_BITS, NEGATIVE_NAN_BITS]),
)
FLOAT_COLUMNS = st.one_of(
    st.lists(ANY_CELLS, max_size=40),
    st.lists(ODD_CELLS | st.just(ABSENT_BITS), max_size=40),
    st.lists(DECIMAL_CELLS.map(oracle.bits_of) | st.just(ABSENT_BITS), max_size=40),
    st.lists(st.integers(0, 100).map(lambda value: oracle.bits_of(float(value))), max_size=40),
    st.builds(lambda cell, rows: [cell] * rows, ANY_CELLS, st.integers(0, 30)),
)

# One vector for each mode; what was written once must be read for ever.
INTEGER_VECTORS = [
    ([], "00"),
    ([0], "0100"),
    ([-1, -1, -1], "0101"),
    ([INT64_MIN], "01ffffffffffffffffff01"),
    ([INT64_MAX, INT64_MAX], "01feffffffffffffffff01"),
    ([1, 2, 3, 4], "020202"),
    ([INT64_MAX, INT64_MIN], "02feffffffffffffffff0102"),
    ([10, 12, 11, 265], "11" + "14" + "000201ff"),
    ([5, 3, 260], "12" + "06" + "020000000101"),
    ([0, 65536, 5], "14" + "00" + "000000000000010005000000"),
    ([0, 10**10, 3 * 10**10, 5 * 10**9], "21" + "00" + "80e497d012" + "00020601"),
    ([7, 7 + 300 * 10**9, 7 + 10**9], "22" + "0e" + "8094ebdc03" + "00002c010100"),
    ([0, 70_001 * 10**9, 10**9], "24" + "00" + "8094ebdc03" + "000000007111010001000000"),
    ([0, 10**12, 2 * 10**12 + 7], "31" + "00" + "80c0a8ca9a3a" + "0007"),
    ([0, 10**12, 2 * 10**12 + 777], "32" + "00" + "80c0a8ca9a3a" + "00000903"),
    ([0, 10**12, 2 * 10**12 + 70_001], "34" + "00" + "80c0a8ca9a3a" + "0000000071110100"),
    (
        [0, INT64_MAX, INT64_MIN, -3],
        "08" + "0000000000000000" + "ffffffffffffff7f" + "0000000000000080" + "fdffffffffffffff",
    ),
]
FLOAT_VECTORS = [
    ([], "80"),
    ([ABSENT, ABSENT], "80"),
    ([1 / 3, 1 / 3], "81555555555555d53f"),
    ([-0.0], "810000000000000080"),
    ([3.0, 1.0, 2.0], "9011" + "02" + "020001"),
    ([0.5, 0.25, 12.0], "9212" + "32" + "1900" + "0000" + "9704"),
    ([0.000001, 1.0], "9602" + "02" + "fe887a"),
    ([7.0, ABSENT, 9.0], "a0" + "05" + "020e04"),
    ([ABSENT] * 8 + [0.1], "a1" + "0001" + "0102"),
    ([0.5, -0.0], "9f" + "000000000000e03f" + "0000000000000080"),
    ([ABSENT, 1e300], "af" + "02" + "9c7500883ce4377e"),
]


@pytest.mark.parametrize(("values", "want"), INTEGER_VECTORS)
def test_frozen_integer_columns(values: list[Any], want: Any) -> None:
    assert oracle.pack_integers(values).hex() == want
    assert pack_int64(np.array(values, dtype=np.int64)).hex() == want
    out = np.empty(len(values), dtype=np.int64)
    assert unpack_int64(bytes.fromhex(want), 0, out) == len(want) // 2
    assert out.tolist() == values


@pytest.mark.parametrize(("values", "want"), FLOAT_VECTORS)
def test_frozen_float_columns(values: list[Any], want: Any) -> None:
    column = np.array(values, dtype=np.float64)
    assert oracle.pack_floats(values).hex() == want
    assert pack_float64(column).hex() == want
    out = np.empty(len(values))
    assert unpack_float64(bytes.fromhex(want), 0, out) == len(want) // 2
    assert bits(out) == bits(column)


def test_the_vectors_cover_every_mode() -> None:
    integer_modes = {vector[:2] for _, vector in INTEGER_VECTORS}
    assert integer_modes == {"00", "01", "02", "08", "11", "12", "14", "21", "22", "24", "31", "32", "34"}
    float_modes = {vector[:2] for _, vector in FLOAT_VECTORS}
    assert float_modes == {"80", "81", "90", "92", "96", "9f", "a0", "a1", "af"}


def test_the_format_page_shows_bytes_that_are_so() -> None:
    page = Path(__file__).parents[2] / "docs" / "formats" / "wal.md"
    shown = re.findall(r"^    \S.*? {3,}((?:[0-9a-f]{2} )+[0-9a-f]{2})$", page.read_text(), re.MULTILINE)
    assert len(shown) == 7
    assert {example.replace(" ", "") for example in shown} <= {vector for _, vector in INTEGER_VECTORS + FLOAT_VECTORS}


# Packing gives the oracle's bytes, unpacking gives back the bits


@given(values=INTEGER_COLUMNS, before=st.binary(max_size=3))
@settings(max_examples=400, deadline=None)
def test_int64_round_trip(values: list[Any], before: bytes) -> None:
    packed = pack_int64(np.array(values, dtype=np.int64))
    assert packed == oracle.pack_integers(values)
    assert len(packed) <= 22 + 8 * len(values)
    out = np.empty(len(values), dtype=np.int64)
    assert unpack_int64(before + packed + b"more", len(before), out) == len(before) + len(packed)
    assert out.tolist() == values
    assert oracle.unpack_integers(oracle.Source(packed), len(values)) == values


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 300), max_size=40))
@settings(max_examples=100, deadline=None)
def test_int32_round_trip(values: list[Any]) -> None:
    column = np.array(values, dtype=np.int32)
    packed = pack_int32(column)
    assert packed == pack_int64(column.astype(np.int64))
    out = np.empty_like(column)
    assert unpack_int32(packed, 0, out) == len(packed)
    assert out.tolist() == values


@given(cells=FLOAT_COLUMNS, before=st.binary(max_size=3))
@settings(max_examples=500, deadline=None)
def test_float64_round_trip(cells: list[int], before: bytes) -> None:
    column = floats(cells)
    packed = pack_float64(column)
    assert packed == oracle.pack_floats(column.tolist())
    out = np.empty(len(cells))
    assert unpack_float64(before + packed + b"more", len(before), out) == len(before) + len(packed)
    assert bits(out) == cells
    assert oracle.unpack_floats(oracle.Source(packed), len(cells)) == cells


@pytest.mark.parametrize("position", [0, 1, 254, 255, 256, 257, 511, 512, 4095, 4999])
@pytest.mark.parametrize("cell", [0.5, 0.0625, 1 / 3, -0.0, ABSENT, float("nan")])
def test_one_odd_cell_in_a_long_column(position: int, cell: float) -> None:
    column = np.arange(5000, dtype=np.float64) % 97
    column[position] = cell
    packed = pack_float64(column)
    assert packed == oracle.pack_floats(column.tolist())
    out = np.empty_like(column)
    unpack_float64(packed, 0, out)
    assert bits(out) == bits(column)


def test_long_columns_without_the_gil() -> None:
    rng = np.random.default_rng(20_240_101)
    times = 1_700_000_000_000_000_000 + np.repeat(np.arange(500, dtype=np.int64) * 10**10, 100)
    packed = pack_int64(times)
    assert len(packed) < 2 * len(times) + 30
    out = np.empty_like(times)
    assert unpack_int64(packed, 0, out) == len(packed)
    assert np.array_equal(out, times)
    for column in (rng.integers(0, 101, 50_000) / 100, rng.random(50_000), rng.normal(size=50_000).round(3)):
        column[rng.random(50_000) < 0.3] = ABSENT
        unpacked = np.empty_like(column)
        unpack_float64(pack_float64(column), 0, unpacked)
        assert bits(unpacked) == bits(column)


@given(
    rows=st.integers(0, 12),
    fields=st.integers(0, 4),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_rows_are_the_columns_one_after_the_other(rows: int, fields: int, data: st.DataObject) -> None:
    ids = np.array(data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=rows, max_size=rows)), dtype=np.int32)
    times = np.array(data.draw(st.lists(INT64S, min_size=rows, max_size=rows)), dtype=np.int64)
    cells = data.draw(st.lists(ANY_CELLS, min_size=rows * fields, max_size=rows * fields))
    values = floats(cells).reshape(fields, rows)
    packed = pack_rows(ids, times, values)
    assert packed == pack_int32(ids) + pack_int64(times) + b"".join(pack_float64(column) for column in values)
    got = (np.empty_like(ids), np.empty_like(times), np.empty_like(values))
    assert unpack_rows(b"--" + packed + b"--", 2, *got) == len(packed) + 2
    assert np.array_equal(got[0], ids)
    assert np.array_equal(got[1], times)
    assert np.array_equal(got[2].view(np.uint64), values.view(np.uint64))


def test_rows_of_a_larger_matrix_are_packed_in_place() -> None:
    matrix = np.arange(60, dtype=np.float64).reshape(6, 10)
    part = matrix[::2, 3:8]
    ids, times = np.arange(5, dtype=np.int32), np.arange(5, dtype=np.int64)
    packed = pack_rows(ids, times, part)
    assert packed == pack_rows(ids, times, np.ascontiguousarray(part))
    out = np.zeros((6, 10))
    unpack_rows(packed, 0, ids, times, out[::2, 3:8])
    assert np.array_equal(out[::2, 3:8], part)
    assert out.sum() == part.sum()


# Malformed input


def unpack_both(data: bytes, rows: int, kind: str) -> None:
    """Unpack with the native code and the oracle: the same values, or ValueError from both."""
    source = oracle.Source(data)
    want: list[int] | None
    try:
        want = oracle.unpack_floats(source, rows) if kind == "float64" else oracle.unpack_integers(source, rows)
        if kind == "int32" and any(not -(2**31) <= value < 2**31 for value in want):
            want = None
    except ValueError:
        want = None
    out = np.empty(rows, dtype=kind)
    function: Callable[[bytes, int, Any], int] = {
        "float64": unpack_float64,
        "int64": unpack_int64,
        "int32": unpack_int32,
    }[kind]  # type: ignore[assignment]
    if want is None:
        with pytest.raises(ValueError, match=r"cannot unpack a column: got .*, want .* \((before )?offset \d+\)"):
            function(data, 0, out)
    else:
        assert function(data, 0, out) == source.offset
        assert (bits(out) if kind == "float64" else out.tolist()) == want


@pytest.mark.parametrize("kind", ["float64", "int64", "int32"])
@given(
    mode=st.sampled_from([int(vector[:2], 16) for _, vector in INTEGER_VECTORS + FLOAT_VECTORS]) | st.integers(0, 255),
    rest=st.binary(max_size=80),
    rows=st.integers(0, 20),
)
@settings(max_examples=400, deadline=None)
def test_random_bytes_decode_as_the_oracle_or_are_refused(kind: str, mode: int, rest: bytes, rows: int) -> None:
    unpack_both(bytes([mode]) + rest, rows, kind)


@given(cells=FLOAT_COLUMNS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_float_columns_decode_as_the_oracle_or_are_refused(cells: list[int], data: st.DataObject) -> None:
    packed = bytearray(pack_float64(floats(cells)))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    rows = max(0, len(cells) + data.draw(st.integers(-2, 2)))
    unpack_both(bytes(packed[: data.draw(st.integers(0, len(packed)))]), rows, "float64")
    unpack_both(bytes(packed), rows, "float64")


@given(values=INTEGER_COLUMNS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_integer_columns_decode_as_the_oracle_or_are_refused(values: list[Any], data: st.DataObject) -> None:
    packed = bytearray(pack_int64(np.array(values, dtype=np.int64)))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    rows = max(0, len(values) + data.draw(st.integers(-2, 2)))
    unpack_both(bytes(packed), rows, data.draw(st.sampled_from(["int64", "int32"])))


@pytest.mark.parametrize(("values", "packed"), [vector for vector in INTEGER_VECTORS if len(vector[1]) > 2])
def test_integer_columns_cut_at_every_byte(values: list[Any], packed: str) -> None:
    data = bytes.fromhex(packed)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r"got \d+ bytes, want \d+ \(offset \d+\)"):
            unpack_int64(data[:cut], 0, np.empty(len(values), dtype=np.int64))


@pytest.mark.parametrize(("values", "packed"), FLOAT_VECTORS)
def test_float_columns_cut_at_every_byte(values: list[Any], packed: str) -> None:
    data = bytes.fromhex(packed)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r"got \d+ bytes, want \d+ \(offset \d+\)"):
            unpack_float64(data[:cut], 0, np.empty(len(values)))


@pytest.mark.parametrize(
    ("packed", "rows", "message"),
    [
        ("00", 1, "got mode 0x00, want one that suits the column and its row count (before offset 1)"),
        ("0100", 0, "got mode 0x01, want one that suits the column and its row count (before offset 1)"),
        ("1300", 2, "got mode 0x13, want one that suits the column and its row count (before offset 1)"),
        ("4100", 2, "got mode 0x41, want one that suits the column and its row count (before offset 1)"),
        ("120600", 3, "got 1 bytes, want 6 (offset 2)"),
        ("0180808080" + "20", 2, "got a number beyond 32 bits, want an int32 (before offset 6)"),
    ],
)
def test_integer_complaints_say_what_and_where(packed: str, rows: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        unpack_int32(bytes.fromhex(packed), 0, np.empty(rows, dtype=np.int32))
    assert str(caught.value) == f"cannot unpack a column: {message}"


@pytest.mark.parametrize(
    ("packed", "rows", "message"),
    [
        ("97", 1, "got mode 0x97, want one that suits the column and its row count (before offset 1)"),
        ("a008" + "0102", 3, "got presence bits beyond the last row, want zeros there (before offset 2)"),
        ("a0", 9, "got 0 bytes, want 2 (offset 1)"),
        ("b0" + "07", 3, "got mode 0xb0, want one that suits the column and its row count (before offset 1)"),
        ("9000", 3, "got mode 0x00, want one that suits the column and its row count (before offset 2)"),
    ],
)
def test_float_complaints_say_what_and_where(packed: str, rows: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        unpack_float64(bytes.fromhex(packed), 0, np.empty(rows))
    assert str(caught.value) == f"cannot unpack a column: {message}"


def test_rows_complaints() -> None:
    ids, times, values = np.zeros(3, np.int32), np.zeros(3, np.int64), np.zeros((2, 3))
    packed = pack_rows(ids, times, values)
    for cut in range(len(packed)):
        with pytest.raises(ValueError, match="cannot unpack a column"):
            unpack_rows(packed[:cut], 0, ids, times, values)
    with pytest.raises(ValueError, match=r"offset 99, want 0..13"):
        unpack_rows(packed.ljust(13, b"-"), 99, ids, times, values)
    with pytest.raises(ValueError, match="got 3, 3 and 4 rows, want the same number"):
        unpack_rows(packed, 0, ids, times, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="got 3, 2 and 3 rows, want the same number"):
        pack_rows(ids, times[:2], values)


# Arrays that do not fit


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def test_reads_read_only_arrays_and_writes_none() -> None:
    column = read_only(np.array([1.0, 2.5]))
    packed = pack_float64(column)
    assert unpack_float64(memoryview(packed), 0, np.empty(2)) == len(packed)
    with pytest.raises(ValueError, match="read-only"):
        unpack_float64(packed, 0, column)


def at_odd_address(rows: int) -> FloatArray:
    return np.zeros(8 * rows + 1, dtype=np.uint8)[1:].view(np.float64)


@pytest.mark.parametrize(
    ("function", "array", "error", "message"),
    [
        (pack_float64, [1.0], TypeError, "got list, want an array of float64"),
        (pack_float64, np.zeros(3, np.float32), TypeError, "array of float32, want float64"),
        (pack_float64, np.zeros(3, ">f8"), TypeError, "array of >f8, want float64"),
        (
            pack_float64,
            np.zeros((2, 3)),
            ValueError,
            "got a 2-dimensional array of float64, want 1 dimension",
        ),
        (pack_float64, np.zeros(6)[::2], ValueError, "with gaps, want neighbouring cells"),
        (pack_float64, at_odd_address(4), ValueError, "at an odd address, want an aligned one"),
        (pack_int64, np.zeros(3, np.uint64), TypeError, "array of uint64, want int64"),
        (pack_int64, np.zeros(3, np.int32), TypeError, "array of int32, want int64"),
        (pack_int64, np.zeros(3, "M8[ns]"), ValueError, "dtype"),
        (pack_int32, np.zeros(3, np.int64), TypeError, "array of int64, want int32"),
        (decimals_of, np.zeros(3, np.int64), TypeError, "array of int64, want float64"),
        (is_absent, np.zeros(3, np.int64), TypeError, "array of int64, want a float64 array"),
        (is_absent, 1.0, TypeError, "got float, want a float64 array"),
    ],
)
def test_refuses_arrays_of_another_shape_or_kind(
    function: Callable[[Any], object], array: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(array)


def test_accepts_every_name_of_int64() -> None:
    for kind in (np.int64, np.longlong, "<i8", "l", "q"):
        assert pack_int64(np.array([5, 5], dtype=kind)).hex() == "010a"


# Absence and decimals


def test_absent_is_one_bit_pattern_and_a_nan() -> None:
    assert ABSENT != ABSENT
    assert ABSENT_BITS == oracle.ABSENT_BITS == bits(np.array([ABSENT]))[0]
    cells = floats([ABSENT_BITS, STALE_BITS, NEGATIVE_NAN_BITS, ABSENT_BITS | 1 << 63, oracle.bits_of(float("nan"))])
    assert is_absent(cells).tolist() == [True, False, False, False, False]


def test_absent_cells_are_found_in_any_layout() -> None:
    matrix = np.arange(12, dtype=np.float64).reshape(3, 4)
    matrix[1, 2] = ABSENT
    assert is_absent(matrix).tolist() == (np.arange(12) == 6).reshape(3, 4).tolist()
    assert is_absent(matrix[:, 2]).tolist() == [False, True, False]
    assert is_absent(matrix[::2]).sum() == 0
    assert is_absent(np.empty(0)).shape == (0,)
    assert is_absent(read_only(matrix)).sum() == 1


@given(cells=FLOAT_COLUMNS, most=st.integers(0, 15))
@settings(max_examples=300, deadline=None)
def test_decimals_as_the_oracle(cells: list[int], most: int) -> None:
    column = floats(cells)
    assert decimals_of(column, most) == oracle.decimals_of(column.tolist(), most)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([], 0),
        ([ABSENT], 0),
        ([1.0, 2.0**53, -(2.0**53)], 0),
        ([2.0**53 + 2], -1),
        ([2.0**53, 0.5], -1),
        ([1.5, ABSENT, 3.0], 1),
        ([1.5, 0.000001], 6),
        ([0.0000001], -1),
        ([-0.0], -1),
        ([float("nan")], -1),
        ([float("inf")], -1),
        ([0.1 + 0.2], -1),
    ],
)
def test_decimals(values: list[Any], want: Any) -> None:
    assert decimals_of(np.array(values, dtype=np.float64)) == want


@pytest.mark.parametrize("position", [0, 255, 256, 600])
def test_decimals_of_a_long_column_with_absent_cells(position: int) -> None:
    column = np.arange(601, dtype=np.float64)
    column[::3] = ABSENT
    column[position] = 0.25
    assert decimals_of(column) == 2
    column[position] = 1e-9
    assert decimals_of(column) == -1


@given(cells=FLOAT_COLUMNS)
@settings(max_examples=200, deadline=None)
def test_scaling(cells: list[int]) -> None:
    column = floats(cells)
    decimals = decimals_of(column)
    scaled = np.full(len(cells), 99, dtype=np.int64)
    valid = np.full(len(cells), 9, dtype=np.uint8)
    if decimals < 0:
        with pytest.raises(ValueError, match=r"cannot scale a column: got .* at row \d+, want a value with at most 6"):
            scale_to_int64(column, 6, scaled, valid)
        return
    scale_to_int64(column, decimals, scaled, valid)
    assert valid.tolist() == (~is_absent(column)).astype(int).tolist()
    want = [0 if cell == ABSENT_BITS else oracle.exact_integer(oracle.value_of(cell), decimals) for cell in cells]
    assert scaled.tolist() == want


def test_scaling_refuses_what_does_not_fit_together() -> None:
    column = np.array([1.0, 2.0])
    integers, valid = np.empty(2, np.int64), np.empty(2, np.uint8)
    with pytest.raises(ValueError, match="got 2 values, room for 2 integers and 1 marks, want the same number"):
        scale_to_int64(column, 0, integers, valid[:1])
    with pytest.raises(ValueError, match=r"got 16 decimals, want 0..15"):
        scale_to_int64(column, 16, integers, valid)
    with pytest.raises(ValueError, match=r"got at most 16, want 0..15"):
        decimals_of(column, 16)
    with pytest.raises(TypeError, match="array of bool, want uint8"):
        scale_to_int64(column, 0, integers, valid.view(np.bool_))
