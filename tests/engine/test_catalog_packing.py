"""Packed definitions in ``catalog.log``: exact bytes, damage, and that both versions are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.catalog import FRAME_DEFINITIONS, Catalog
from engine.catalog.packing import pack_definitions, unpack_definitions
from engine.errors import Damage, NewerFormat
from native.frames import encode_frame
from tests.filesystems import MemoryFileSystem

PATH = "data/catalog.log"


@given(st.binary(max_size=300) | st.binary(max_size=3).map(lambda part: b"\x01" + part * 200))
def test_what_is_packed_comes_back_and_never_grows(tail: bytes) -> None:
    definitions = b"\x01" + tail
    packed = pack_definitions(definitions)
    assert bytes(unpack_definitions(packed)) == definitions
    assert len(packed) <= len(definitions)


def test_bytes_of_version_2() -> None:
    frozen = bytes.fromhex("0240000000789c6364a00c000000800002")
    assert pack_definitions(b"\x01" + bytes(63))[:5] == frozen[:5]
    assert bytes(unpack_definitions(frozen)) == b"\x01" + bytes(63)


@pytest.mark.parametrize(
    "payload",
    [b"\x02", b"\x02\x40\x00\x00\x00", b"\x02\x40\x00\x00\x00nonsense"],
)
def test_what_is_no_packing_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="packed definitions"):
        unpack_definitions(payload)


def test_other_lengths_and_tails_are_refused() -> None:
    made = pack_definitions(b"\x01" + bytes(63))
    for changed in (made[:1] + b"\x3f" + made[2:], made[:1] + b"\x41" + made[2:], made + b"x", made[:-1]):
        with pytest.raises(ValueError, match="packed definitions"):
            unpack_definitions(changed)


def catalog_of(payload: bytes) -> Catalog:
    fs = MemoryFileSystem()
    fs.makedirs("data")
    fs.write_atomic(PATH, [encode_frame(FRAME_DEFINITIONS, 1, [payload])])
    catalog = Catalog(fs, PATH)
    catalog.load()
    return catalog


def test_both_versions_are_read_and_newer_ones_refused_by_name() -> None:
    source = Catalog()
    table_id = source.native.table(b"prometheus")
    for number in range(50):
        source.native.tagset(table_id, [(b"__name__", b"node_metric_%d" % number), (b"job", b"node")])
    definitions = source.native.definitions((0, 0, 0), source.native.mark())
    packed = pack_definitions(definitions)
    assert len(packed) < len(definitions) // 4
    for payload in (definitions, packed):
        assert catalog_of(payload).native.mark() == source.native.mark()
    with pytest.raises(NewerFormat, match="got version 3, want at most 2"):
        catalog_of(b"\x03" + packed[1:])
    with pytest.raises(Damage, match="packed definitions"):
        catalog_of(packed[:-3])


def test_what_is_persisted_is_packed_and_loads_again() -> None:
    fs = MemoryFileSystem()
    fs.makedirs("data")
    catalog = Catalog(fs, PATH)
    catalog.load()
    table_id = catalog.native.table(b"prometheus")
    for number in range(50):
        catalog.native.tagset(table_id, [(b"__name__", b"node_metric_%d" % number)])
    catalog.persist()
    again = Catalog(fs, PATH)
    again.load()
    assert again.native.mark() == catalog.native.mark()
    assert fs.size(PATH) < len(catalog.native.definitions((0, 0, 0), catalog.native.mark())) // 3
