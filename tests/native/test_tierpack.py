"""native.tierpack: every number comes back, frozen bytes, and damaged bytes are refused and never read past."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.tierpack import pack_integers, pack_values, unpack_integers, unpack_values

INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-100, 100), st.just(7))
DOUBLES = st.one_of(
    st.integers(-1000, 1000).map(float),
    st.integers(-100_000, 100_000).map(lambda number: number / 100),
    st.floats(allow_nan=False),
    st.just(-0.0),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(INT64, max_size=200), st.booleans(), st.data())
def test_numbers_come_back(numbers: list[int], in_runs: bool, data: st.DataObject) -> None:
    values = np.array(numbers, np.int64)
    starts = None
    if in_runs:
        starts = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values))), np.uint8)
    packed = pack_integers(values, starts)
    out = np.empty(len(values), np.int64)
    assert unpack_integers(b"ab" + packed + b"c", 2, out, starts) == 2 + len(packed)
    assert out.tolist() == numbers


def columns_of(values: list[float], width: int) -> list[np.ndarray]:
    cells = np.array(values[: len(values) // width * width]).reshape(-1, width)
    with np.errstate(invalid="ignore", over="ignore"):
        total = cells[:, 0].copy()
        for column in cells.T[1:]:
            total += column
    return [total, cells.min(axis=1), cells.max(axis=1), cells[:, 0].copy(), cells[:, -1].copy()]


@settings(max_examples=300, deadline=None)
@given(st.one_of(*(st.lists(kind, max_size=300) for kind in (DOUBLES, st.integers(-9, 9).map(lambda n: n / 10)))))
def test_values_come_back_bit_for_bit(values: list[float]) -> None:
    columns = [np.ascontiguousarray(column) for column in columns_of(values, 3)]
    rows = len(columns[0])
    counts = np.full(rows, 3, np.int64)
    starts = (np.arange(rows) % 5 == 0).astype(np.uint8)
    packed = pack_values(counts, *columns, starts)
    out = [np.empty(rows) for _ in columns]
    assert unpack_values(packed, 0, counts, starts, *out) == len(packed)
    for got, want in zip(out, columns, strict=True):
        assert got.view(np.int64).tolist() == want.view(np.int64).tolist()


def test_frozen_bytes() -> None:
    assert pack_integers(np.array([5, 5, 5])).hex() == "000a"
    assert pack_integers(np.array([1, 2, 3, 8])).hex() == "010302" + "88" + "0e"
    starts = np.array([1, 0, 1, 0], np.uint8)
    assert pack_integers(np.array([10, 11, 20, 21]), starts).hex() == "010414a0" + "0002"
    columns = [np.array(each) for each in ([3.0, 4.5], [1.0, 2.0], [2.0, 2.5], [1.0, 2.5], [2.0, 2.0])]
    packed = pack_values(np.array([2, 2]), *columns, starts[:2])
    # Decimals; first minimum, step; what maximum, first, last and sum are above the minimum; units in the last place.
    assert packed.hex() == "010014001401030a05010300280104000a01030a050000"
    counts, out = np.array([2, 2]), [np.empty(2) for _ in range(5)]
    unpack_values(packed, 0, counts, starts[:2], *out)
    assert [each.tolist() for each in out] == [each.tolist() for each in columns]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 200))
def test_any_bytes_are_refused_or_give_numbers(data: bytes, rows: int) -> None:
    starts = (np.arange(rows) % 3 == 0).astype(np.uint8)
    doubles = [np.empty(rows) for _ in range(5)]
    reads: list[Callable[[], int]] = [
        lambda: unpack_integers(data, 0, np.empty(rows, np.int64)),
        lambda: unpack_integers(data, 0, np.empty(rows, np.int64), starts),
        lambda: unpack_values(data, 0, np.ones(rows, np.int64), starts, *doubles),
    ]
    for read in reads:
        with suppress(ValueError):
            assert read() <= len(data)


def test_every_cut_is_refused() -> None:
    packed = pack_integers(np.arange(200) ** 2)
    for end in range(len(packed)):
        with pytest.raises(ValueError, match="cannot unpack"):
            unpack_integers(packed[:end], 0, np.empty(200, np.int64))
    with pytest.raises(ValueError, match="offset"):
        unpack_integers(packed, len(packed) + 1, np.empty(1, np.int64))
