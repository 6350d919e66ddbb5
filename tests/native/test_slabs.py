"""Memory that is used again: only when nobody can see it any more, and never more than the limit is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.slabs import Slab, keep_at_most, kept_bytes, slab_array

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    keep_at_most(0)
    keep_at_most(4 * MIB)
    yield
    keep_at_most(0)
    keep_at_most(128 * MIB)


def test_memory_is_taken_over_only_when_the_last_view_has_gone() -> None:
    array = slab_array((4, 32_768), np.float64)
    place, tail = array.ctypes.data, array[3, 100:]
    del array
    assert kept_bytes() == 0
    other = slab_array((4, 32_768), np.float64)
    assert other.ctypes.data != place
    del tail
    assert kept_bytes() == MIB
    assert slab_array((130_000,), np.float64).ctypes.data == place


def test_much_smaller_slabs_do_not_take_a_large_one() -> None:
    del (large := [Slab(MIB)])[0]
    assert not large
    small = Slab(MIB // 2)
    assert (len(small), kept_bytes()) == (MIB // 2, MIB)


def test_what_was_kept_longest_goes_first() -> None:
    slabs = [Slab(size * MIB) for size in (1, 2, 3)]
    while slabs:
        del slabs[0]
    assert kept_bytes() == 3 * MIB
    del (huge := [Slab(5 * MIB)])[0]
    assert not huge
    assert kept_bytes() == 3 * MIB
    keep_at_most(MIB)
    assert kept_bytes() == 0


def test_arrays_are_writable_and_aligned() -> None:
    array = slab_array((3, 5), np.int32)
    array[:] = 7
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert int(array.sum()) == 105
    assert len(memoryview(Slab(0))) == 0


def test_what_cannot_be_had_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="cannot get memory"):
        Slab(1 << 32)
    with pytest.raises(MemoryError, match="cannot get memory"):
        slab_array((1 << 40, 8), np.float64)


@given(sizes=st.lists(st.integers(0, 2 * MIB), max_size=20), drop=st.lists(st.integers(0, 19), max_size=20))
def test_no_two_live_slabs_share_memory(sizes: list[int], drop: list[int]) -> None:
    live: dict[int, np.ndarray] = {}
    for number, size in enumerate(sizes):
        live[number] = slab_array((size,), np.uint8)
        live[number][:] = number
        for gone in drop[number : number + 1]:
            live.pop(gone, None)
        assert all((array == number).all() for number, array in live.items())
        assert kept_bytes() <= 4 * MIB
