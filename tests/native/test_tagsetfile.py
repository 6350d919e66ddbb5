"""Tag-set files: their bytes, damaged ones, and a catalogue that reads them against one that does not."""

from __future__ import annotations

import itertools
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.catalogue import Catalogue
from native.checksum import crc32c
from native.freezing import freeze
from native.tagcolumns import keys_between, members_of, members_with, tables_of, tags_of, values_of
from native.tagsetfile import TagsetFile
from tests.native.test_catalogue import STEPS, ZERO, run, same
from tests.oracles.catalogue import Tags
from tests.oracles.tagsetfile import hash_bytes, tagset_file

#: cpu{host=a, zone=eu}, cpu{}, mem{host=a}; hashes from seed 7.
VECTOR = bytes.fromhex(
    "5447544147534554 01000000 00000000 03000000 04000000 0300000000000000 1000000000000000"
    "0b00000000000000 0700000000000000"
)


def example() -> Catalogue:
    catalogue = Catalogue()
    cpu, mem = catalogue.table(b"cpu"), catalogue.table(b"mem")
    catalogue.tagset(cpu, [(b"zone", b"eu"), (b"host", b"a")])
    catalogue.tagset(cpu, [])
    catalogue.tagset(mem, [(b"host", b"a")])
    return catalogue


def frozen(catalogue: Catalogue, *cuts: int, seed: int = 7) -> None:
    """Move the tag sets up to the last cut into files with borders at the cuts."""
    for first, last in itertools.pairwise((0, *cuts)):
        files = [file for file in catalogue.tagset_files() if file.last <= first]
        catalogue.use_files([*files, TagsetFile(freeze(catalogue, first, last, seed))])


def test_the_bytes_of_a_file() -> None:
    catalogue = example()
    data = freeze(catalogue, 0, 3, 7)
    assert data[: len(VECTOR)] == VECTOR
    assert data == tagset_file(0, [(0, [(b"zone", b"eu"), (b"host", b"a")]), (0, []), (1, [(b"host", b"a")])], 7)
    assert freeze(catalogue, 1, 3, 2**64 - 1) == tagset_file(1, [(0, []), (1, [(b"host", b"a")])], 2**64 - 1)
    file = TagsetFile(data, path="x")
    assert (file.first, file.last, len(file), file.tags, file.seed) == (0, 3, 3, 3, 7)
    assert (file.path, file.nbytes, file.largest_table()) == ("x", len(data), 1)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"", 0x19DD5AB75BFADE57),
        (b"abc", 0x5CBF5FB80180191C),
        (b"abcdefg", 0x4027132B15F5658D),
        (b"abcdefghijk", 0xDE7A7A731FD16B24),
        (bytes(range(40)), 0xCE98AA11EE5CBDF0),
        (bytes(range(200)), 0x835D7FF510DBBBD5),
    ],
)
def test_the_hash_in_files_stays_what_it_is(key: bytes, hashed: int) -> None:
    assert hash_bytes(key, 7) == hashed


@given(st.lists(st.dictionaries(st.binary(min_size=1, max_size=3), st.text(max_size=40), max_size=4), max_size=30))
@settings(max_examples=100, deadline=None)
def test_files_are_written_as_the_oracle_writes_them(sets: list[dict[bytes, str]]) -> None:
    catalogue = Catalogue()
    table = catalogue.table(b"t")
    defined: list[tuple[int, Tags]] = []
    for each in sets:
        tags = [(key.hex().encode(), value.encode()) for key, value in each.items()]
        if catalogue.tagset(table, tags) == len(defined):
            defined.append((table, tags))
    if defined:
        assert freeze(catalogue, 0, len(defined), 99) == tagset_file(0, defined, 99)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.lists(st.integers(1, 100), max_size=4))
def test_a_catalogue_reads_the_same_from_files(steps: list[tuple[object, ...]], cuts: list[int]) -> None:
    catalogue, expected, _ = run(steps)
    plain, _, _ = run(steps)
    count = len(expected.tagsets)
    borders = sorted({1 + cut % count for cut in cuts}) if count else []
    frozen(catalogue, *borders)
    assert catalogue.frozen_count == (borders[-1] if borders else 0)
    assert same(catalogue, plain)
    assert catalogue.tagset_counts().tolist() == [
        sum(owner == table_id for owner, _ in expected.tagsets) for table_id in range(len(expected.tables))
    ]
    for tagset_id, (table_id, tags) in enumerate(expected.tagsets):
        assert catalogue.tags(tagset_id) == list(tags)
        assert catalogue.find_tagset(table_id, list(tags)) == tagset_id
        assert catalogue.tagset(table_id, list(tags)) == tagset_id
        assert catalogue.find_tagset(table_id, [*tags, (b"never", b"")]) == -1
    # What another process knows already, in memory, agrees with files it is given later.
    plain.use_files(catalogue.tagset_files())
    assert same(catalogue, plain)
    plain.apply_definitions(catalogue.definitions(ZERO, catalogue.mark()))
    if expected.tables:
        assert catalogue.tagset(0, [(b"new", b"")]) == count


@settings(max_examples=150, deadline=None)
@given(STEPS, st.lists(st.integers(1, 100), max_size=3), st.lists(st.integers(0, 100), max_size=12), st.data())
def test_columns_agree_with_a_scan(
    steps: list[tuple[object, ...]], cuts: list[int], chosen: list[int], data: st.DataObject
) -> None:
    catalogue, expected, _ = run(steps)
    count = len(expected.tagsets)
    frozen(catalogue, *(sorted({1 + cut % count for cut in cuts}) if count else []))
    ids = np.array([each % count for each in chosen] if count else [], np.int32)
    assert tables_of(catalogue, ids).tolist() == [expected.tagsets[i][0] for i in ids]
    for key in (b"cpu", b"a", b"never"):
        codes, offsets, text = values_of(catalogue, key, ids)
        values = [text[offsets[i] : offsets[i + 1]] for i in range(len(offsets) - 1)]
        assert len(set(values)) == len(values)
        assert [values[code] if code >= 0 else None for code in codes] == [
            dict(expected.tagsets[i][1]).get(key) for i in ids
        ]
    starts, keys, codes, key_texts, value_texts = tags_of(catalogue, ids)
    names = [key_texts[1][a:b] for a, b in itertools.pairwise(key_texts[0].tolist())]
    values = [value_texts[1][a:b] for a, b in itertools.pairwise(value_texts[0].tolist())]
    assert [
        tuple((names[keys[at]], values[codes[at]]) for at in range(a, b))
        for a, b in itertools.pairwise(starts.tolist())
    ] == [expected.tagsets[i][1] for i in ids]
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    between = list(enumerate(expected.tagsets))[first:last]
    assert keys_between(catalogue, first, last) == list(
        dict.fromkeys((table_id, key) for _, (table_id, tags) in between for key, _ in tags)
    )
    for table_id in range(len(expected.tables)):
        assert members_of(catalogue, table_id, first, last).tolist() == [i for i, (t, _) in between if t == table_id]
        assert members_with(catalogue, table_id, b"a", b"b", first, last).tolist() == [
            i for i, (t, tags) in between if t == table_id and (b"a", b"b") in tags
        ]


def test_definitions_that_turn_out_bad_leave_no_trace_above_files() -> None:
    catalogue = example()
    good = catalogue.definitions(ZERO, catalogue.mark())
    frozen(catalogue, 2)
    before = catalogue.mark()
    key = struct.pack("<I", 1)
    data = b"\x01" + struct.pack("<IIIIII", 0, 0, 0, 0, 3, 2) + struct.pack("<I", 4) + key + b"\xff"
    with pytest.raises(ValueError, match="runs past the end"):
        catalogue.apply_definitions(data)
    assert catalogue.mark() == before
    assert catalogue.tagset_counts().tolist() == [2, 1]
    assert catalogue.definitions(ZERO, before) == good


def test_every_damaged_byte_is_found() -> None:
    data = freeze(example(), 0, 3, 7)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(ValueError, match="tag-set file"):
            TagsetFile(damaged)
    for end in range(0, len(data), 8):
        with pytest.raises(ValueError, match="tag-set file"):
            TagsetFile(data[:end])
    with pytest.raises(ValueError, match="bytes, want"):
        TagsetFile(data + bytes(8))


def test_another_version_is_named() -> None:
    data = bytearray(freeze(example(), 0, 3, 7))
    data[8] = 2
    with pytest.raises(ValueError, match=r"got version 2, want version 1.*newer version"):
        TagsetFile(data)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_file_that_is_accepted_can_be_read_whatever_it_says(changes: list[tuple[int, int]], in_header: bool) -> None:
    """Checksums made to fit: nothing that a file says may lead a reader out of it."""
    data = bytearray(freeze(example(), 0, 3, 7))
    for at, value in changes:
        data[12 + at % 44 if in_header else 64 + at % (len(data) - 64)] = value
    data[56:60] = struct.pack("<I", crc32c(data[64:]))
    data[60:64] = struct.pack("<I", crc32c(data[:60]))
    try:
        file = TagsetFile(data)
    except ValueError:
        return
    catalogue = Catalogue()
    if file.first:
        return
    if file.largest_table() > 1_000_000:
        return
    catalogue.use_files([file])
    for tagset_id in range(len(file)):
        tags = catalogue.tags(tagset_id)
        assert tags == sorted(tags)
    ids = np.arange(len(file), dtype=np.int32)
    tags_of(catalogue, ids)
    values_of(catalogue, b"host", ids)
    keys_between(catalogue, 0, len(file))
    freeze(catalogue, 0, len(file), 1)


def test_files_must_follow_each_other_and_never_take_back() -> None:
    catalogue = example()
    first, second = TagsetFile(freeze(catalogue, 0, 2, 7)), TagsetFile(freeze(catalogue, 2, 3, 7))
    with pytest.raises(ValueError, match="got one from 2, want one from 0"):
        catalogue.use_files([second])
    catalogue.use_files([first, second])
    with pytest.raises(ValueError, match="got 2 tag sets, want the 3 there were"):
        catalogue.use_files([first])
    assert catalogue.tagset_files() == (first, second)
    with pytest.raises(ValueError, match="cannot freeze tag sets 1 to 1"):
        freeze(catalogue, 1, 1, 7)
    with pytest.raises(ValueError, match="cannot use tag sets 0 to 4"):
        freeze(catalogue, 0, 4, 7)


def test_a_large_catalogue_is_found_through_several_files() -> None:
    numbers = random.Random(5)
    catalogue = Catalogue()
    table = catalogue.table(b"t")
    sets = [[(b"n", b"%d" % n), (b"x", b"y" * numbers.randrange(60))] for n in range(5_000)]
    assert [catalogue.tagset(table, tags) for tags in sets] == list(range(5_000))
    held = catalogue.memory_bytes
    frozen(catalogue, 1_000, 1_001, 4_000)
    assert catalogue.memory_bytes < held / 3
    assert [catalogue.find_tagset(table, tags) for tags in sets] == list(range(5_000))
    merged = TagsetFile(freeze(catalogue, 0, 4_500, 8))
    catalogue.use_files([merged])
    assert [catalogue.find_tagset(table, tags) for tags in sets] == list(range(5_000))
    assert catalogue.tagset(table, [(b"n", b"5000")]) == 5_000


def test_columns_refuse_numbers_that_no_tag_set_has() -> None:
    catalogue = example()
    for ids in ([3], [-1], [0, 7]):
        with pytest.raises(ValueError, match="cannot use tag sets"):
            values_of(catalogue, b"host", np.array(ids, np.int32))
    with pytest.raises(TypeError, match="int64"):
        tags_of(catalogue, np.array([1], np.int64))
    with pytest.raises(ValueError, match="cannot use tag sets 0 to 4"):
        members_of(catalogue, 0, 0, 4)
