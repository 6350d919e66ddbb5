"""native.lineprotocol: what a decoder keeps from call to call, the memory of results, threads, and misuse."""

from __future__ import annotations

import itertools
import random
import struct
import threading

import pytest

from native.catalogue import Catalogue
from native.lineprotocol import LineDecoder
from tests.oracles.lineprotocol import rows_of

TIMES = {"precision_ns": 1, "default_time_ns": 1_000, "min_time_ns": -(2**63), "max_time_ns": 2**63 - 1}


def decoder(catalogue: Catalogue | None = None) -> LineDecoder:
    return LineDecoder(catalogue or Catalogue(), max_tagsets=10**6, max_tables=100, max_fields=100, max_refusals=100)


def test_whole_bodies_read_as_their_lines_do_one_by_one() -> None:
    rng = random.Random(11)
    lines = []
    for _ in range(300):
        value = rng.choice(
            [b"1i", b"2.5", b"t", b"-7", b"1234567890123i", b"0.12345678901234567", b'"s"', b"nan", b"oops"]
        )
        time = rng.choice([b" 1700000000000000000", b"", b"  17 ", b" -5", b" 1700000000000000000\r"])
        lines.append(b"t,host=%d f=%s,g=1%s\n" % (rng.randrange(4), value, time))
    whole, single = decoder(), decoder()
    together = whole.decode(b"".join(lines), **TIMES)
    rows = rows_of(together)
    alone = []
    for number, line in enumerate(lines, 1):
        alone += [(number, *row[1:]) for row in rows_of(single.decode(line, **TIMES))]
    assert rows == alone
    assert together.refused_by_cause.keys() == {"string_field", "not_finite", "malformed"}


def test_results_own_their_memory() -> None:
    reader = decoder()
    body = bytearray(b"t,h=a f=1 1\nt,h=b f=2 2\n" * 50)
    first = reader.decode(memoryview(body), **TIMES)
    expected = rows_of(first)
    body[:] = b"#" * len(body)
    reader.decode(b"t,h=b f=9 9\n" * 500, **TIMES)
    assert rows_of(first) == expected
    for array in (first.tables[0].times, first.tables[0].values):
        array[...] = 0  # writable


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_reads_any_contiguous_buffer(kind: type) -> None:
    assert decoder().decode(kind(b"t f=1\n"), **TIMES).samples == 1


def test_reads_nothing_beyond_the_end_of_the_body() -> None:
    """Bodies that end anywhere within known lines read as copies of them in memory of their own."""
    body = b"cpu,host=a usage_user=58i,usage_system=2.25,usage_guest_nice=12345678901i 1700000000000000000\n" * 2
    reader, other = decoder(), decoder()
    reader.decode(body * 2, **TIMES)
    for end in range(len(body) + 1):
        inside = reader.decode(memoryview(body)[:end], **TIMES)
        alone = other.decode(bytes(body[:end]), **TIMES)
        assert inside.refused_by_cause == alone.refused_by_cause
        assert [row[3:] for row in rows_of(inside)] == [row[3:] for row in rows_of(alone)]


def test_names_defined_by_others_are_used() -> None:
    catalogue = Catalogue()
    catalogue.table(b"other")
    table_id = catalogue.table(b"t")
    catalogue.field(table_id, b"g")
    catalogue.tagset(0, [])
    tagset_id = catalogue.tagset(table_id, [(b"h", b"a")])
    reader = decoder(catalogue)
    decoded = reader.decode(b"t,h=a f=1,g=2\n", **TIMES)
    (table,) = decoded.tables
    assert (table.table_id, table.tagset_ids.tolist(), table.field_ids) == (table_id, [tagset_id], (0, 1))
    assert table.values.tolist() == [[2.0], [1.0]]
    catalogue.field(table_id, b"z")
    assert reader.decode(b"t,h=a y=1,z=2\n", **TIMES).tables[0].field_ids == (2, 3)


def test_two_decoders_share_a_catalogue() -> None:
    catalogue = Catalogue()
    one, two = decoder(catalogue), decoder(catalogue)
    for number in range(20):
        a = one.decode(b"t,h=%d f%d=1\n" % (number, number), **TIMES).tables[0]
        b = two.decode(b"t,h=%d f%d=1\n" % (number, number), **TIMES).tables[0]
        assert (a.tagset_ids.tolist(), a.field_ids) == (b.tagset_ids.tolist(), b.field_ids)
    assert catalogue.mark() == (1, 20, 20)


def test_decoders_in_two_threads_take_turns() -> None:
    catalogue = Catalogue()
    bodies = [b"".join(b"t,h=%d f%d=1 %d\n" % (n % 300, n % 40, n) for n in range(k, 900, 3)) for k in range(3)]
    results: dict[int, list[object]] = {}

    def read(index: int) -> None:
        reader = decoder(catalogue)
        results[index] = [reader.decode(body, **TIMES) for body in bodies * 3]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        mark = catalogue.mark()
        assert [len(catalogue.tags(number)) for number in range(mark[2])] == [1] * mark[2]
    assert catalogue.mark() == (1, 40, 300)
    assert [rows_of(decoded) for decoded in results[0]] == [rows_of(decoded) for decoded in results[1]]  # type: ignore[arg-type]


def test_remembered_keys_are_dropped_when_far_more_than_tag_sets() -> None:
    catalogue = Catalogue()
    reader = decoder(catalogue)
    tags = [b"%c=%c" % (letter, letter) for letter in b"abcdefghi"]
    orders = itertools.islice(itertools.permutations(tags), 150_000)
    keys = [b",".join([b"t", *order]) for order in orders]
    body = b"".join(key + b" f=1 1700000000000000000\n" for key in keys)
    for _ in range(2):
        decoded = reader.decode(body + body[:100_000], **TIMES)
        assert not decoded.refused_by_cause
        assert decoded.samples == decoded.lines >= 150_000
        assert not decoded.tables[0].tagset_ids.any()
    assert catalogue.tagset_count == 1


def test_large_calls_give_their_buffers_back_and_change_nothing() -> None:
    reader = decoder()
    line = b"t,h=a " + b",".join(b"f%d=%di" % (number, number) for number in range(40)) + b" 5\n"
    small = rows_of(reader.decode(line * 3, **TIMES))
    large = reader.decode(line * 250_000, **TIMES)
    assert large.samples == 10_000_000
    assert large.tables[0].values.sum(axis=1).tolist() == [250_000.0 * number for number in range(40)]
    assert rows_of(reader.decode(line * 3, **TIMES)) == small


def test_a_very_long_line_changes_nothing_for_later_lines() -> None:
    reader = decoder()
    usual = b"t,h=a f=1,g\\ h=2 5\nt,h=a\\ b f=1,g=oops 5\n"
    long = b"t,h=a " + b",".join(b"f%d=%d" % (number % 50, number) for number in range(300_000))
    expected = rows_of(reader.decode(usual, **TIMES))
    (row,) = rows_of(reader.decode(long + b" 7\n", **TIMES))
    assert [struct.unpack("<d", bits)[0] for _, bits in row[4]] == list(range(299_950, 300_000))
    assert rows_of(reader.decode(usual, **TIMES)) == expected
    assert reader.decode(long + b" oops\n", **TIMES).refused_by_cause == {"malformed": 1}
    assert rows_of(reader.decode(usual, **TIMES)) == expected


@pytest.mark.parametrize("name", ["max_tagsets", "max_tables", "max_fields", "max_refusals"])
@pytest.mark.parametrize("value", [-1, 2**31])
def test_refuses_impossible_limits(name: str, value: int) -> None:
    limits = {"max_tagsets": 1, "max_tables": 1, "max_fields": 1, "max_refusals": 1} | {name: value}
    with pytest.raises(ValueError, match=f"got {name} {value}, want 0 to"):
        LineDecoder(Catalogue(), **limits)


def test_refuses_a_field_limit_that_field_numbers_cannot_reach() -> None:
    LineDecoder(Catalogue(), max_tagsets=1, max_tables=1, max_fields=65536, max_refusals=1)
    with pytest.raises(ValueError, match="got max_fields 65537, want 0 to 65536"):
        LineDecoder(Catalogue(), max_tagsets=1, max_tables=1, max_fields=65537, max_refusals=1)


def test_refuses_what_is_no_body() -> None:
    reader = decoder()
    for body in ("t f=1", None, 7, memoryview(b"t f=1 1")[::2]):
        with pytest.raises((TypeError, BufferError)):
            reader.decode(body, **TIMES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got a precision of -1 ns, want 0 or more"):
        reader.decode(b"t f=1", **{**TIMES, "precision_ns": -1})
    with pytest.raises(TypeError):
        LineDecoder(None, max_tagsets=1, max_tables=1, max_fields=1, max_refusals=1)  # type: ignore[arg-type]
    # A call that was refused leaves the decoder and the catalogue free.
    assert reader.decode(b"t f=1\n", **TIMES).samples == 1
