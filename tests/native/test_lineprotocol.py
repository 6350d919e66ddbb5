"""native.lineprotocol: the grammar by tables, refusals, rows and limits.

Nearly every call goes through `Twins`, which compares rows, counts, refusals and definitions with the oracle.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from native.lineprotocol import CAUSES
from tests.oracles.lineprotocol import Twins

# The cases of the "Line protocol" pages of the InfluxDB documentation, in names of our own.
DOCUMENTED = [
    (b"sensor,room=hall,site=a t=82 1465839830100400200", b"sensor", [(b"room", b"hall"), (b"site", b"a")], {b"t": 82}),
    (b"sensor t=82 1465839830100400200", b"sensor", [], {b"t": 82}),
    (b"sensor,room=hall t=82,h=71 1465839830100400200", b"sensor", [(b"room", b"hall")], {b"t": 82, b"h": 71}),
    (b"sensor,room=hall t=1", b"sensor", [(b"room", b"hall")], {b"t": 1}),
    (b"sensor t=1.0", b"sensor", [], {b"t": 1}),
    (b"sensor t=1", b"sensor", [], {b"t": 1}),
    (b"sensor t=-1.234456e+78", b"sensor", [], {b"t": -1.234456e78}),
    (b"sensor t=1.0,u=-1.234456e+78", b"sensor", [], {b"t": 1.0, b"u": -1.234456e78}),
    (b"sensor t=1i", b"sensor", [], {b"t": 1}),
    (b"sensor t=12485903i", b"sensor", [], {b"t": 12485903}),
    (b"sensor t=-12485903i", b"sensor", [], {b"t": -12485903}),
    (b"sensor t=1u", b"sensor", [], {b"t": 1}),
    (b"sensor t=12485903u", b"sensor", [], {b"t": 12485903}),
    (
        b"sensor a=true,b=false,c=t,d=f,e=TRUE,g=FALSE",
        b"sensor",
        [],
        {b"a": 1, b"b": 0, b"c": 1, b"d": 0, b"e": 1, b"g": 0},
    ),
    (b"my\\ sensor t=1", b"my sensor", [], {b"t": 1}),
    (b"my\\,sensor t=1", b"my,sensor", [], {b"t": 1}),
    (b"my\\=sensor,a=b t=1", b"my=sensor", [(b"a", b"b")], {b"t": 1}),
    (b"my=sensor,a=b t=1", b"my=sensor", [(b"a", b"b")], {b"t": 1}),
    (b"sensor,my\\ key=a\\ b\\,c\\=d t=1", b"sensor", [(b"my key", b"a b,c=d")], {b"t": 1}),
    (b"sensor,a\\,b\\=c=d t=1", b"sensor", [(b"a,b=c", b"d")], {b"t": 1}),
    (b"sensor f\\ x\\,y\\=z=1", b"sensor", [], {b"f x,y=z": 1}),
    (b'"sensor","room"="hall" "t"=1', b'"sensor"', [(b'"room"', b'"hall"')], {b'"t"': 1}),
    (b"sensor,path=C:\\temp\\x t=1", b"sensor", [(b"path", b"C:\\temp\\x")], {b"t": 1}),
    (b"sensor,path=a\\\\b t=1", b"sensor", [(b"path", b"a\\\\b")], {b"t": 1}),
    (b"sensor,path=a\\\\,b=c t=1", None, None, None),
    (b"sens\\or t=1", b"sens\\or", [], {b"t": 1}),
    (b"\\#sensor t=1", b"\\#sensor", [], {b"t": 1}),
    (
        "caf\u00e9,stra\u00dfe=\u4e00 \U0001f600=1".encode(),
        "caf\u00e9".encode(),
        [("stra\u00dfe".encode(), "\u4e00".encode())],
        {"\U0001f600".encode(): 1},
    ),
    (b"sensor,b=2,a=1 t=1", b"sensor", [(b"a", b"1"), (b"b", b"2")], {b"t": 1}),
    (b"sensor   t=1   5", b"sensor", [], {b"t": 1}),
    (b"   sensor t=1 5  ", b"sensor", [], {b"t": 1}),
    (b"sensor t=1   ", b"sensor", [], {b"t": 1}),
    (b"sensor\tx,a\t=b\t t\t=1", b"sensor\tx", [(b"a\t", b"b\t")], {b"t\t": 1}),
    (b"sensor,a=b,c=d t=1,t=2", b"sensor", [(b"a", b"b"), (b"c", b"d")], {b"t": 2}),
]


@pytest.mark.parametrize(("line", "table", "tags", "values"), DOCUMENTED)
def test_documented_lines(line: bytes, table: bytes | None, tags: object, values: object) -> None:
    rows = Twins().named_rows(line)
    if table is None:
        assert rows == []
        return
    ((got_table, got_tags, _, got_values),) = rows
    assert (got_table, got_tags, got_values) == (table, tags, values)


@pytest.mark.parametrize("line", [line for line, table, _, _ in DOCUMENTED if table is not None])
def test_a_repeated_line_reads_as_it_did_the_first_time(line: bytes) -> None:
    twins = Twins()
    first = twins.named_rows(line)
    # The second and third of four lines have text enough behind them to be read as known lines.
    assert twins.named_rows(b"\n".join([line] * 4) + b"\n") == first * 4


MALFORMED = [
    (b",a=b f=1", "malformed", "got ',a=b', want a measurement before", 1),
    (b"sensor", "malformed", "got the end of the line, want a space and at least one field", 7),
    (b"sensor ", "malformed", "got the end of the line, want a space and at least one field", 8),
    (b"sensor,a=b", "malformed", "got the end of the line, want a space and at least one field", 11),
    (b"sensor\\ f=1", "malformed", "got the end of the line, want a space and at least one field", 12),
    (b"sensor,a f=1", "malformed", "got 'a', want key=value with a value that is not empty", 8),
    (b"sensor,a= f=1", "malformed", "got 'a=', want key=value with a value that is not empty", 8),
    (b"sensor,a=,b=c f=1", "malformed", "got 'a=', want key=value with a value that is not empty", 8),
    (b"sensor,=b f=1", "malformed", "got '=b', want a tag key", 8),
    (b"sensor, f=1", "malformed", "got nothing, want a tag key", 8),
    (b"sensor,,a=b f=1", "malformed", "got ',a=b', want a tag key", 8),
    (b"sensor,a=b, f=1", "malformed", "got nothing, want a tag key", 12),
    (b"sensor,a=b=c f=1", "malformed", "got 'b=c', want a tag value without '='", 10),
    (b"sensor,a==b f=1", "malformed", "got '=b', want a tag value without '='", 10),
    (b"sensor,a=1,b=2,a=3 f=1", "duplicate_tag", "got 'a=3', want each tag key once", 16),
    (b"sensor,a=1,a=1 f=1", "duplicate_tag", "got 'a=1', want each tag key once", 12),
    (b"sensor f", "malformed", "got 'f', want key=value with a value", 8),
    (b"sensor f=", "malformed", "got the end of the line, want key=value with a value", 10),
    (b"sensor f= 5", "malformed", "got nothing, want key=value with a value", 10),
    (b"sensor f=,g=1", "malformed", "got nothing, want key=value with a value", 10),
    (b"sensor f,g=1", "malformed", "got 'f', want key=value with a value", 8),
    (b"sensor =1", "malformed", "got '=1', want a field key", 8),
    (b"sensor ,f=1", "malformed", "got ',f=1', want a field key", 8),
    (b"sensor f=1,", "malformed", "got the end of the line, want a field key", 12),
    (b"sensor f=1,,g=2", "malformed", "got ',g=2', want a field key", 12),
    (b"sensor f=1, g=2", "malformed", "got ' g=2', want a field key", 12),
    (b"sensor f=abc", "malformed", "got 'abc', want a number", 10),
    (b"sensor f=1=2", "malformed", "got '1=2', want a number", 10),
    (b'sensor f="abc', "malformed", "got '\"abc', want a double quote that closes", 10),
    (b'sensor f="abc\\"', "malformed", "want a double quote that closes", 10),
    (b'sensor f="a"b,g=1', "malformed", "got '\"a\"b', want a number", 10),
    (b'sensor f=a"b"', "malformed", "got 'a\"b\"', want a number", 10),
    (b"sensor f=1 x", "malformed", "got 'x', want an integer timestamp", 12),
    (b"sensor f=1 1.5", "malformed", "got '1.5', want an integer timestamp", 12),
    (b"sensor f=1 1e5", "malformed", "got '1e5', want an integer timestamp", 12),
    (b"sensor f=1 +5", "malformed", "got '+5', want an integer timestamp", 12),
    (b"sensor f=1 -", "malformed", "got '-', want an integer timestamp", 12),
    (b"sensor f=1 5i", "malformed", "got '5i', want an integer timestamp", 12),
    (b"sensor f=1 5 6", "malformed", "got '5 6', want an integer timestamp", 12),
    (b"sensor f=1\t5", "malformed", "got '1\t5', want a number", 10),
    (b"sen\xffsor f=1", "not_utf8", "got 'sen\\xffsor', want UTF-8", 1),
    (b"sensor,\xc3=b f=1", "not_utf8", "got '\\xc3', want UTF-8", 8),
    (b"sensor,a=\xed\xa0\x80 f=1", "not_utf8", "want UTF-8", 10),
    (b"sensor f\x80=1", "not_utf8", "got 'f\\x80', want UTF-8", 8),
    (b"sensor,a=\xff,a=b", "malformed", "got the end of the line", 15),
    (b"sensor,a=\xff,b f=1", "not_utf8", "want UTF-8", 10),
    (b"sensor,b,a=\xff f=1", "malformed", "got 'b', want key=value", 8),
    (b"  sensor f=x", "malformed", "got 'x', want a number", 12),
    (b"x" * 65536 + b" f=1", "malformed", "want a name of at most 65535 bytes", 1),
    (b"sensor," + b"x" * 65536 + b"=1 f=1", "malformed", "want a name of at most 65535 bytes", 8),
    (b"sensor " + b"x" * 65536 + b"=1", "malformed", "want a name of at most 65535 bytes", 8),
    (b"sensor,a=" + b"x" * (1 << 20) + b" f=1", "malformed", "at most 1048576 bytes together", 1),
    (b"sensor,a=" + b"x" * (1 << 20) + b"x f=1", "malformed", "want a name of at most 65535 bytes", 10),
]


@pytest.mark.parametrize(("line", "cause", "words", "byte"), MALFORMED, ids=range(len(MALFORMED)))
def test_refused_lines_say_what_is_wrong_and_where(line: bytes, cause: str, words: str, byte: int) -> None:
    twins = Twins()
    decoded = twins.decode(b"\n" + line + b"\nok f=1")
    ((number, got_cause, sentence, original),) = decoded.refusals
    assert (number, got_cause, original) == (2, cause, line[:200])
    assert sentence.startswith("cannot keep the line: got ")
    assert words in sentence
    assert f"(byte {byte}" in sentence
    assert ("cut to 200)" in sentence) == (len(line) > 200)
    assert decoded.refused_by_cause == {cause: 1}
    # The rest of the batch is kept and nothing of the bad line is defined.
    assert twins.catalogue.mark() == (1, 1, 1)
    assert decoded.lines == 2


LONGEST_LINES = [
    b"x" * 65535 + b" f=1",
    b"sensor," + b"x" * 65535 + b"=1 f=1",
    b"sensor " + b"x" * 65535 + b"=1",
    b"sensor," + b"\\ " * 65535 + b"=1 f=1",
    b"sensor,a=" + b"x" * ((1 << 20) - 11) + b" f=1",
]


@pytest.mark.parametrize("line", LONGEST_LINES, ids=range(len(LONGEST_LINES)))
def test_the_longest_names_are_kept(line: bytes) -> None:
    assert Twins().decode(b"\n".join([line] * 3)).samples == 3


FIELD_REFUSALS = [
    (
        b'sensor f="abc",g=1',
        {"string_field": 1},
        "got 'f=\"abc\"', want a number or a boolean; text belongs in a tag",
        8,
    ),
    (b'sensor g=1,f="a,b c=d"', {"string_field": 1}, "got 'f=\"a,b c=d\"'", 12),
    (b'sensor f="",g=1', {"string_field": 1}, "got 'f=\"\"'", 8),
    (b'sensor f="\\"\\\\",g=1', {"string_field": 1}, "want a number or a boolean", 8),
    (b'sensor f="\\x",g=1', {"string_field": 1}, "want a number or a boolean", 8),
    (b'sensor f="\xff",g=1', {"string_field": 1}, "got 'f=\"\\xff\"'", 8),
    (b'sensor f="a",g=1,h="b" 77', {"string_field": 2}, "got 'f=\"a\"'", 8),
    (b"sensor f=NaN,g=1", {"not_finite": 1}, "got 'f=NaN', want a finite number", 8),
    (b"sensor f=nan,g=1,h=-inf,i=+Infinity", {"not_finite": 3}, "got 'f=nan', want a finite number", 8),
    (b"sensor f=1e309,g=1,h=-1e400", {"not_finite": 2}, "got 'f=1e309', want a finite number", 8),
    (b"sensor f=9223372036854775808i,g=1", {"out_of_range": 1}, "want an integer within 64 bits", 8),
    (b"sensor f=-9223372036854775809i,g=1", {"out_of_range": 1}, "want an integer within 64 bits", 8),
    (b"sensor f=18446744073709551616u,g=1", {"out_of_range": 1}, "want an integer within 64 bits", 8),
    (b"sensor f=99999999999999999999i,g=1", {"out_of_range": 1}, "want an integer within 64 bits", 8),
    (b"sensor f=100000000000000000000000000u,g=1", {"out_of_range": 1}, "want an integer within 64 bits", 8),
]


@pytest.mark.parametrize(("line", "causes", "words", "byte"), FIELD_REFUSALS)
def test_a_refused_field_leaves_the_other_fields(line: bytes, causes: dict[str, int], words: str, byte: int) -> None:
    twins = Twins()
    decoded = twins.decode(line)
    assert twins.catalogue.fields(0) == [b"g"]
    assert decoded.samples == 1
    assert decoded.refused_by_cause == causes
    # One description for each cause of a line, however many fields it concerns.
    ((_, _, sentence, _),) = decoded.refusals
    assert sentence.startswith("cannot keep the field: got ")
    assert words in sentence
    assert f"(byte {byte})" in sentence


def test_a_line_without_a_field_left_is_refused_whole() -> None:
    twins = Twins()
    decoded = twins.decode(b'sensor,a=b f="x",g=nan,h="y",i=99999999999999999999i 5\n')
    assert decoded.tables == []
    assert decoded.lines == 1
    assert decoded.refused_by_cause == {"string_field": 2, "not_finite": 1, "out_of_range": 1}
    assert [cause for _, cause, _, _ in decoded.refusals] == ["string_field", "not_finite", "out_of_range"]
    assert twins.catalogue.mark() == (0, 0, 0)


def test_a_refused_line_does_not_report_its_fields_as_well() -> None:
    decoded = Twins().decode(b'sensor f="x",g=1,h=oops')
    assert decoded.refused_by_cause == {"malformed": 1}


def test_every_cause_is_listed() -> None:
    assert set(CAUSES) == {cause for _, cause, _, _ in MALFORMED} | {
        cause for _, causes, _, _ in FIELD_REFUSALS for cause in causes
    } | {"too_old", "too_far_in_future", "table_limit", "field_limit"} | {
        "tag_set_limit",
        "table_tag_set_limit",
        "tag_set_rate_limit",
    }


def test_lines_are_counted_and_numbered_as_an_editor_does() -> None:
    body = b"# comment\n\n  \n   # another\r\n\r\ncpu f=1 1\r\n\ncpu f=2 2\ncpu f=3 3"
    decoded = Twins().decode(body)
    assert decoded.lines == 3
    assert decoded.tables[0].line_numbers.tolist() == [6, 8, 9]
    assert Twins().decode(b"").lines == 0
    assert Twins().decode(b"\n\n").lines == 0
    assert Twins().decode(b"\r").lines == 0
    assert Twins().decode(b"cpu f=1\r\r\n").refused_by_cause == {"malformed": 1}


def test_a_line_break_within_a_string_ends_the_line() -> None:
    twins = Twins()
    decoded = twins.decode(b'cpu f="a\nb",g=1\n')
    assert decoded.lines == 2
    assert decoded.refused_by_cause == {"malformed": 2}


# -- rows --


def test_fields_that_a_line_does_not_set_are_absent() -> None:
    twins = Twins()
    decoded = twins.decode(b"t,h=a f=1,g=2 1\nt,h=a g=3 2\nu x=1 3\nt,h=b z=4,f=5 4\nt,h=a g=6 5\n")
    t, u = decoded.tables
    assert (t.field_ids, u.field_ids) == ((0, 1, 2), (0,))
    assert t.line_numbers.tolist() == [1, 2, 4, 5]
    absent = np.isnan(t.values)
    assert absent.tolist() == [
        [False, True, False, True],
        [False, False, True, False],
        [True, True, False, True],
    ]
    # A table's fields that nothing in this call has set are not there.
    assert twins.decode(b"t,h=a z=1\n").tables[0].field_ids == (2,)


def test_tags_in_any_order_are_one_tag_set() -> None:
    twins = Twins()
    tags = [b"a=1", b"b=2", b"c=3", b"d=4"]
    lines = [b",".join([b"t", *order]) + b" f=1\n" for order in itertools.permutations(tags)]
    decoded = twins.decode(b"".join(lines * 2))
    assert set(decoded.tables[0].tagset_ids.tolist()) == {0}
    assert decoded.samples == 2 * len(lines)


def test_the_same_tags_in_two_tables_are_two_tag_sets() -> None:
    twins = Twins()
    decoded = twins.decode(b"t,a=1 f=1\nu,a=1 f=1\n" * 3)
    assert [table.tagset_ids.tolist() for table in decoded.tables] == [[0] * 3, [1] * 3]


def test_fields_in_changing_order_and_number_are_read_alike() -> None:
    rng = random.Random(7)
    twins = Twins()
    names = [b"f%d" % number for number in range(6)] + [
        b"a_name_of_sixteen",
        b"a_name_of_17_byte",
        b"x" * 40,
        b"a\\ b",
    ]
    lines = []
    for _ in range(400):
        chosen = rng.choices(names, k=rng.randrange(1, 9))
        fields = b",".join(b"%s=%di" % (name, rng.randrange(1000)) for name in chosen)
        lines.append(b"t%d,host=%d %s %d\n" % (rng.randrange(3), rng.randrange(5), fields, rng.randrange(10**18)))
    twins.decode(b"".join(lines))
    twins.decode(b"".join(lines))


def test_what_a_refused_line_began_to_write_is_not_kept() -> None:
    twins = Twins()
    good = b"t,h=a f=1,g=2 1700000000000000000\n"
    twins.decode(good + b"t,h=a z=1 1700000000000000000\n")
    for bad in (b"t,h=a z=9,f=9,g=oops 1700000000000000000\n", b"t,h=a f=9,z=9 170000000000000000x\n"):
        decoded = twins.decode(bad + good + bad + good + bad + b"t,h=a g=2 1700000000000000000\n" + bad + good)
        assert decoded.tables[0].field_ids == (0, 1)
        assert decoded.samples == 7


def test_a_column_that_began_late_in_one_call_may_begin_early_in_the_next() -> None:
    twins = Twins()
    first, later = b"t f=1 1700000000000000000\n", b"t g=1,f=1 1700000000000000000\n"
    twins.decode(first * 3 + later + first)
    # The bad line comes at the very row where g began before, and sets it before it turns out to be bad.
    decoded = twins.decode(later * 3 + b"t g=1,f=x 1700000000000000000\n" + first * 3)
    assert decoded.samples == 9


# -- limits --


def test_the_tag_set_limit_spares_what_is_known() -> None:
    twins = Twins(max_tagsets=2)
    decoded = twins.decode(b"t,h=a f=1\nt,h=b f=1\nt,h=c f=1\nu,h=a g=1\nt,h=a f=1,g=2\n")
    assert decoded.refused_by_cause == {"tag_set_limit": 2}
    assert (
        "got 't,h=c', want one of the tag sets that are known, as 2 are in use, which is the limit (byte 1)"
        in decoded.refusals[0][2]
    )
    assert twins.catalogue.mark() == (1, 2, 2)
    assert decoded.samples == 4


def test_the_table_limit_spares_what_is_known() -> None:
    twins = Twins(max_tables=1)
    decoded = twins.decode(b"t f=1\nu f=1\nt,h=a f=1\n")
    assert decoded.refused_by_cause == {"table_limit": 1}
    assert "got 'u', want one of the 1 measurements that exist" in decoded.refusals[0][2]
    assert twins.catalogue.mark() == (1, 1, 2)


def test_the_field_limit_refuses_only_what_is_new_beyond_it() -> None:
    twins = Twins(max_fields=2)
    decoded = twins.decode(b"t a=1,b=2,c=3,a=4,d=5,c=6\nt c=1,b=7\nt,h=x c=1\nu c=1\n")
    assert decoded.refused_by_cause == {"field_limit": 5}
    assert [(number, cause) for number, cause, _, _ in decoded.refusals] == [(n, "field_limit") for n in (1, 2, 3)]
    assert (
        "cannot keep the field: got 'c=3', want one of the 2 fields that the measurement has" in decoded.refusals[0][2]
    )
    assert twins.catalogue.fields(0) == [b"a", b"b"]
    # The third line had no field left, so that its tag set is not defined.
    assert twins.catalogue.mark() == (2, 3, 2)


def test_limits_of_zero_keep_nothing() -> None:
    assert Twins(max_tables=0).decode(b"t f=1\n").refused_by_cause == {"table_limit": 1}
    assert Twins(max_tagsets=0).decode(b"t f=1\n").refused_by_cause == {"tag_set_limit": 1}
    assert Twins(max_fields=0).decode(b"t f=1\n").refused_by_cause == {"field_limit": 1}


def test_all_refusals_are_counted_and_the_first_are_described() -> None:
    twins = Twins(max_refusals=3)
    decoded = twins.decode(b"bad\n" * 10 + b"t f=1\n" + b't s="x"\n' * 5)
    assert decoded.refused_by_cause == {"malformed": 10, "string_field": 5}
    assert [number for number, _, _, _ in decoded.refusals] == [1, 2, 3]
    assert Twins(max_refusals=0).decode(b"bad\n").refusals == []


def test_long_lines_are_cut_and_the_sentence_says_so() -> None:
    line = b"t," + b"tag=" + b"v" * 300 + b" f=oops"
    ((_, _, sentence, original),) = Twins().decode(line).refusals
    assert original == line[:200]
    assert sentence.endswith(f"(byte 310; the line of {len(line)} bytes is cut to 200)")
    ((_, _, sentence, _),) = Twins().decode(b"t f=" + b"x" * 100).refusals
    assert "got '" + "x" * 60 + "...', want" in sentence
