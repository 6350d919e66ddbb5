from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.checksum import crc32c, crc32c_portable
from tests.oracles import checksum as oracle

BOTH = pytest.mark.parametrize("function", [crc32c, crc32c_portable], ids=["dispatched", "tables"])

# RFC 3720, appendix B.4, and the check value of the CRC catalogue.
VECTORS = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]


@BOTH
@pytest.mark.parametrize(("data", "want"), VECTORS)
def test_published_vectors(function: Callable[..., int], data: bytes, want: int) -> None:
    assert function(data) == want


@BOTH
@given(data=st.binary(max_size=300), start=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_equals_the_definition(function: Callable[..., int], data: bytes, start: int) -> None:
    assert function(data, start) == oracle.crc32c(data, start)


@BOTH
@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_continues(function: Callable[..., int], data: bytes, cut: int) -> None:
    assert function(data[cut:], function(data[:cut])) == function(data)


@given(start=st.integers(0, 9), length=st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_any_alignment(start: int, length: int) -> None:
    data = bytes(range(60))
    assert crc32c(memoryview(data)[start : start + length]) == oracle.crc32c(data[start : start + length])


def test_large_input_without_the_gil_gives_the_same() -> None:
    data = bytes(range(256)) * 4096
    assert crc32c(data) == crc32c_portable(data)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=lambda wrap: wrap.__name__)
def test_accepts_any_buffer(wrap: type) -> None:
    assert crc32c(wrap(b"123456789")) == 0xE3069283


def test_accepts_a_map() -> None:
    with mmap.mmap(-1, 9) as memory:
        memory.write(b"123456789")
        assert crc32c(memory) == 0xE3069283


def test_refuses_what_is_not_a_buffer() -> None:
    with pytest.raises(TypeError):
        crc32c("text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        crc32c(memoryview(bytes(9))[::2])
    with pytest.raises(OverflowError):
        crc32c(b"", -1)
    with pytest.raises(OverflowError):
        crc32c(b"", 1 << 32)
