"""native.catalogue against lists: numbering, definitions as bytes, refusals, and readers in other threads."""

from __future__ import annotations

import itertools
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.catalogue import Catalogue
from tests.oracles import catalogue as oracle

ZERO = (0, 0, 0)
NAMES = st.sampled_from([b"cpu", b"mem", b"a", b"b", "temp\u00e9rature".encode(), b"with space", b"\x00"])
TAGS = st.dictionaries(NAMES, NAMES | st.just(b""), max_size=4).map(lambda tags: list(tags.items()))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("table"), NAMES),
        st.tuples(st.just("field"), st.integers(0, 6), NAMES),
        st.tuples(st.just("tagset"), st.integers(0, 6), TAGS),
    ),
    max_size=40,
)


def run(steps: list[tuple[object, ...]]) -> tuple[Catalogue, oracle.Catalogue, list[tuple[int, int, int]]]:
    """Define the same things in both, compare the numbers, and return the marks after every step."""
    catalogue, expected = Catalogue(), oracle.Catalogue()
    marks = [ZERO]
    for method, *arguments in steps:
        if method != "table" and arguments[0] >= len(expected.tables):  # type: ignore[operator]
            continue
        assert getattr(catalogue, str(method))(*arguments) == getattr(expected, str(method))(*arguments)
        assert catalogue.mark() == expected.mark()
        marks.append(catalogue.mark())
    return catalogue, expected, marks


def same(a: Catalogue, b: Catalogue) -> bool:
    return a.mark() == b.mark() and a.definitions(ZERO, a.mark()) == b.definitions(ZERO, b.mark())


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_numbers_as_lists_do(steps: list[tuple[object, ...]]) -> None:
    catalogue, expected, _ = run(steps)
    assert (catalogue.table_count, catalogue.tagset_count) == (len(expected.tables), len(expected.tagsets))
    for table_id, name in enumerate(expected.tables):
        assert catalogue.table_name(table_id) == name
        assert catalogue.find_table(name) == table_id
        assert catalogue.fields(table_id) == expected.fields(table_id)
        for field_id, field in enumerate(expected.fields(table_id)):
            assert catalogue.find_field(table_id, field) == field_id
        assert catalogue.find_field(table_id, b"never") == -1
    for tagset_id, (table_id, tags) in enumerate(expected.tagsets):
        assert catalogue.tags(tagset_id) == list(tags)
        assert catalogue.find_tagset(table_id, list(reversed(tags))) == tagset_id
        assert catalogue.find_tagset(table_id, [*tags, (b"never", b"")]) == -1
    tables = catalogue.tagset_tables(0, catalogue.tagset_count)
    assert tables.dtype == np.int32
    assert tables.tolist() == [table_id for table_id, _ in expected.tagsets]
    assert catalogue.find_table(b"never") == -1


@settings(max_examples=150, deadline=None)
@given(STEPS, st.lists(st.integers(0, 100), max_size=5), st.booleans())
def test_definitions_in_any_batches_give_the_same_numbers(
    steps: list[tuple[object, ...]], cuts: list[int], twice: bool
) -> None:
    catalogue, expected, marks = run(steps)
    stops = sorted({0, len(marks) - 1} | {cut % len(marks) for cut in cuts})
    copy = Catalogue()
    for start, stop in itertools.pairwise(stops):
        data = catalogue.definitions(marks[start], marks[stop])
        assert data == expected.definitions(marks[start], marks[stop])
        copy.apply_definitions(data)
        if twice:
            copy.apply_definitions(bytearray(data))
    assert same(copy, catalogue)
    copy.apply_definitions(catalogue.definitions(ZERO, catalogue.mark()))
    assert same(copy, catalogue)


# Frozen: catalogues on disk hold these bytes.
VECTOR = bytes.fromhex(
    "01"  # version
    "00000000 02000000"  # two tables from 0
    "0300 637075  0400 6d656d21"  # cpu, mem!
    "00000000 03000000"  # three fields from 0
    "00000000 0000 0100 61"  # the first of cpu: a
    "01000000 0000 0100 61"  # the first of mem!: a
    "00000000 0100 0200 6262"  # the second of cpu: bb
    "00000000 02000000"  # two tag sets from 0
    "13000000 00000000 0100 64 00000000 0100 68 01000000 78"  # cpu d="" h=x
    "04000000 01000000"  # mem! without tags
)


def vector_catalogue() -> Catalogue:
    catalogue = Catalogue()
    cpu, mem = catalogue.table(b"cpu"), catalogue.table(b"mem!")
    catalogue.field(cpu, b"a")
    catalogue.field(mem, b"a")
    catalogue.field(cpu, b"bb")
    catalogue.tagset(cpu, [(b"h", b"x"), (b"d", b"")])
    catalogue.tagset(mem, [])
    return catalogue


def test_frozen_definitions() -> None:
    catalogue = vector_catalogue()
    assert catalogue.definitions(ZERO, catalogue.mark()) == VECTOR
    copy = Catalogue()
    copy.apply_definitions(VECTOR)
    assert same(copy, catalogue)
    assert catalogue.definitions((2, 1, 2), (2, 2, 2)) == bytes.fromhex(
        "01 02000000 00000000 01000000 01000000 01000000 0000 0100 61 02000000 00000000"
    )


def test_the_format_page_shows_the_frozen_definitions() -> None:
    page = Path(__file__).parents[2] / "docs/formats/catalogue.md"
    example = page.read_text().partition("## Example")[2].partition("## Applying")[0]
    lines = [line.strip() for line in example.splitlines() if line.startswith("    ")]
    assert bytes.fromhex("".join(re.split("  +", line)[0] for line in lines)) == VECTOR


def test_no_definitions_are_no_bytes() -> None:
    catalogue = vector_catalogue()
    assert catalogue.definitions(catalogue.mark(), catalogue.mark()) == b""
    catalogue.apply_definitions(b"")
    assert catalogue.mark() == (2, 3, 2)


@pytest.mark.parametrize("end", range(1, len(VECTOR)))
def test_cut_definitions_are_refused_and_leave_nothing(end: int) -> None:
    catalogue = Catalogue()
    with pytest.raises(ValueError, match=r"cannot apply definitions: .* \(offset \d+\)"):
        catalogue.apply_definitions(VECTOR[:end])
    assert catalogue.mark() == ZERO
    catalogue.apply_definitions(VECTOR)
    assert same(catalogue, vector_catalogue())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(VECTOR) - 1), st.integers(1, 255), st.booleans())
def test_damaged_definitions_never_crash_and_never_half_apply(at: int, flip: int, onto_known: bool) -> None:
    data = bytearray(VECTOR)
    data[at] ^= flip
    catalogue = vector_catalogue() if onto_known else Catalogue()
    before = catalogue.mark()
    try:
        catalogue.apply_definitions(data)
    except ValueError:
        assert catalogue.mark() == before
    else:
        assert catalogue.definitions(ZERO, catalogue.mark())[:1] == b"\x01"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80).map(lambda tail: b"\x01" + tail) | st.binary(max_size=40))
def test_garbage_is_refused_or_applies_whole(data: bytes) -> None:
    catalogue = Catalogue()
    try:
        catalogue.apply_definitions(data)
    except ValueError:
        assert catalogue.mark() == ZERO


def name(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text


def definitions(
    tables: list[bytes] = [],  # noqa: B006
    fields: list[tuple[int, int, bytes]] = [],  # noqa: B006
    tagsets: list[bytes] = [],  # noqa: B006
    first: tuple[int, int, int] = ZERO,
) -> bytes:
    return b"".join(
        [
            b"\x01",
            struct.pack("<II", first[0], len(tables)),
            *map(name, tables),
            struct.pack("<II", first[1], len(fields)),
            *(struct.pack("<IH", table, field) + name(text) for table, field, text in fields),
            struct.pack("<II", first[2], len(tagsets)),
            *(struct.pack("<I", len(key)) + key for key in tagsets),
        ]
    )


KEY = oracle.tagset_key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x02" + VECTOR[1:], "got version 2, want version 1"),
        (VECTOR + b"\x00", "bytes after the last item"),
        (definitions([b"cpu", b"cpu"]), "item 1 that contradicts"),
        (definitions([b"mem!", b"cpu"]), "item 0 that contradicts"),
        (definitions([b"disk"], first=(1, 0, 0)), "item 1 that contradicts"),
        (definitions([b"disk"], first=(3, 0, 0)), "got item 3 of its kind next, want 2"),
        (definitions([b"cpu"], first=(2, 0, 0)), "item 2 that contradicts"),
        (definitions([b"disk", b""], first=(2, 0, 0)), "a name that is empty"),
        (definitions([b"disk", b"\xff"], first=(2, 0, 0)), "not UTF-8"),
        (definitions(fields=[(0, 2, b"c")], first=(0, 4, 0)), "got item 4 of its kind next, want 3"),
        (definitions(fields=[(0, 3, b"c")], first=(0, 3, 0)), "item 3 that contradicts"),
        (definitions(fields=[(0, 0, b"a")], first=(0, 3, 0)), "item 3 that contradicts"),
        (definitions(fields=[(0, 1, b"bb")]), "item 0 that contradicts"),
        (definitions(fields=[(0, 0, b"b")]), "item 0 that contradicts"),
        (definitions(fields=[(0, 1, b"a")]), "item 0 that contradicts"),
        (definitions(fields=[(2, 0, b"a")], first=(0, 3, 0)), "table 2, want one of the 2"),
        (definitions(fields=[(0, 2, b"")], first=(0, 3, 0)), "a name that is empty"),
        (definitions(tagsets=[KEY(0, [])], first=(0, 0, 3)), "got item 3 of its kind next, want 2"),
        (definitions(tagsets=[KEY(1, [])], first=(0, 0, 2)), "item 2 that contradicts"),
        (definitions(tagsets=[KEY(0, [])]), "item 0 that contradicts"),
        (definitions(tagsets=[KEY(2, [])], first=(0, 0, 2)), "table 2, want one of the 2"),
        (definitions(tagsets=[b"\0\0\0"], first=(0, 0, 2)), "not canonical"),
        (definitions(tagsets=[KEY(0, [(b"", b"x")])], first=(0, 0, 2)), "not canonical"),
        (definitions(tagsets=[KEY(0, [(b"a", b"\x80")])], first=(0, 0, 2)), "not canonical"),
        (definitions(tagsets=[KEY(0, [(b"a", b"x"), (b"a", b"y")])], first=(0, 0, 2)), "not canonical"),
        (
            definitions(tagsets=[KEY(0, [(b"b", b"")]) + KEY(0, [(b"a", b"")])[4:]], first=(0, 0, 2)),
            "not canonical",
        ),
        (definitions(tagsets=[KEY(0, [(b"a", b"xy")])[:-1]], first=(0, 0, 2)), "not canonical"),
        (definitions(tagsets=[KEY(0, [(b"a", b"x" * (1 << 20))])], first=(0, 0, 2)), "not canonical"),
        # New things before the fault go as well.
        (definitions([b"disk"], [(2, 0, b"x"), (2, 2, b"y")], first=(2, 3, 0)), "item 4 that contradicts"),
        (
            definitions([b"disk"], [(2, 0, b"x"), (0, 2, b"y")], [KEY(2, []), KEY(9, [])], (2, 3, 2)),
            "table 9",
        ),
    ],
)
def test_contradictions_and_gaps_are_refused_whole(data: bytes, message: str) -> None:
    catalogue = vector_catalogue()
    with pytest.raises(ValueError, match=message):
        catalogue.apply_definitions(data)
    assert same(catalogue, vector_catalogue())
    # The numbers given next are as if nothing had happened.
    assert catalogue.table(b"disk") == 2
    assert catalogue.field(2, b"y") == 0
    assert catalogue.field(0, b"c") == 2
    assert catalogue.tagset(2, []) == 2


REFUSED: list[tuple[Callable[[Catalogue], object], str]] = [
    (lambda c: c.table(b""), "got a name of 0 bytes"),
    (lambda c: c.table(b"x" * 65536), "got a name of 65536 bytes, want 1 to 65535"),
    (lambda c: c.table(b"\xed\xa0\x80"), "want UTF-8"),
    (lambda c: c.field(0, b""), "got a name of 0 bytes"),
    (lambda c: c.field(0, b"\xc3"), "want UTF-8"),
    (lambda c: c.field(2, b"a"), "cannot use table 2"),
    (lambda c: c.fields(-1), "cannot use table -1"),
    (lambda c: c.find_field(7, b"a"), "cannot use table 7"),
    (lambda c: c.table_name(2), "cannot use table 2"),
    (lambda c: c.tagset(2, []), "cannot use table 2"),
    (lambda c: c.tagset(0, [(b"a", b"1"), (b"b", b""), (b"a", b"2")]), "tag key b'a' twice"),
    (lambda c: c.tagset(0, [(b"", b"1")]), "got a name of 0 bytes"),
    (lambda c: c.tagset(0, [(b"a", b"\xff")]), "want UTF-8"),
    (lambda c: c.tagset(0, [(b"a", b"x" * (1 << 20))]), "want at most 1048576"),
    (lambda c: c.find_tagset(0, [(b"a", b"1"), (b"a", b"1")]), "tag key b'a' twice"),
    (lambda c: c.tags(2), "cannot use tag sets 2 to 3"),
    (lambda c: c.tags(-1), "cannot use tag sets -1 to 0"),
    (lambda c: c.tagset_tables(1, 0), "cannot use tag sets 1 to 0"),
    (lambda c: c.tagset_tables(0, 3), "cannot use tag sets 0 to 3"),
    (lambda c: c.definitions((1, 0, 0), (0, 0, 0)), "cannot list definitions"),
    (lambda c: c.definitions((0, 0, 0), (0, 0, 3)), "cannot list definitions"),
    (lambda c: c.definitions((-1, 0, 0), (0, 0, 0)), "cannot list definitions"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refuses_what_cannot_be_named(call: Callable[[Catalogue], object], message: str) -> None:
    catalogue = vector_catalogue()
    with pytest.raises(ValueError, match=message):
        call(catalogue)
    assert same(catalogue, vector_catalogue())


def test_refuses_the_65537th_field() -> None:
    catalogue = Catalogue()
    catalogue.table(b"wide")
    for number in range(1 << 16):
        catalogue.field(0, b"%d" % number)
    with pytest.raises(ValueError, match="one too many"):
        catalogue.field(0, b"more")
    assert catalogue.field(0, b"65535") == 65535
    copy = Catalogue()
    copy.apply_definitions(catalogue.definitions(ZERO, catalogue.mark()))
    assert same(copy, catalogue)


@pytest.mark.parametrize("tags", [[("a", b"")], [(b"a", None)], [(b"a",)], None, 7])
def test_refuses_tags_of_other_types(tags: object) -> None:
    catalogue = vector_catalogue()
    with pytest.raises((TypeError, ValueError)):
        catalogue.tagset(0, tags)  # type: ignore[arg-type]
    assert same(catalogue, vector_catalogue())


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=1, max_size=12)
    | st.text(min_size=1, max_size=6).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_utf8_is_what_python_decodes(text: bytes) -> None:
    catalogue = Catalogue()
    try:
        text.decode()
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="UTF-8"):
            catalogue.table(text)
    else:
        assert catalogue.table(text) == 0


def test_every_two_byte_lead_is_judged_as_python_does() -> None:
    catalogue = Catalogue()
    for lead in range(0x80, 0x100):
        for second in (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF):
            for tail in (b"", b"\x80", b"\x80\x80", b"\xbf\xbf\xbf", b"\x80a"):
                text = b"12345678" + bytes([lead, second]) + tail
                try:
                    text.decode()
                    valid = True
                except UnicodeDecodeError:
                    valid = False
                try:
                    catalogue.table(text)
                    accepted = True
                except ValueError:
                    accepted = False
                assert accepted == valid, text


def test_readers_in_other_threads_see_whole_definitions() -> None:
    source = Catalogue()
    source.table(b"cpu")
    marks = [source.mark()]
    for number in range(4000):
        source.tagset(0, [(b"host", b"%d" % number), (b"zone", b"x" * (number % 50))])
        source.field(0, b"field%d" % number)
        marks.append(source.mark())
    catalogue = Catalogue()
    catalogue.apply_definitions(source.definitions(ZERO, marks[1]))
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            last = catalogue.tagset_count - 1
            if catalogue.tags(last) != source.tags(last) or catalogue.find_tagset(0, source.tags(last)) != last:
                wrong.append(last)
            tables, fields, tagsets = catalogue.mark()
            if catalogue.fields(0)[:fields] != source.fields(0)[:fields]:
                wrong.append(fields)
            mark = (tables, fields, tagsets)
            if catalogue.definitions(ZERO, mark) != source.definitions(ZERO, mark):
                wrong.append(mark)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for start, stop in zip(marks[1::100], [*marks[101::100], marks[-1]], strict=False):
            catalogue.apply_definitions(source.definitions(start, stop))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert same(catalogue, source)


def test_memory_bytes_grows_with_what_is_defined() -> None:
    catalogue = Catalogue()
    empty = catalogue.memory_bytes
    catalogue.table(b"cpu")
    for number in range(1000):
        catalogue.tagset(0, [(b"host", b"%050d" % number)])
    assert catalogue.memory_bytes - empty > 1000 * (4 + 6 + 4 + 50)
