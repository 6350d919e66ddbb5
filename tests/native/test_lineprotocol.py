"""native.lineprotocol: the grammar by tables, numbers, times, limits, and what is kept from call to call.

Nearly every call goes through `Twins`, which compares rows, counts, refusals and definitions with the oracle.
"""

from __future__ import annotations

import itertools
import random
import struct
import threading

import numpy as np
import pytest

from native.catalogue import Catalogue
from native.lineprotocol import CAUSES, LineDecoder
from tests.oracles.lineprotocol import Twins, rows_of

T = 1_000  # what Twins uses as default time


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


# -- grammar --

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
    } | {"too_old", "too_far_in_future", "table_limit", "tag_set_limit", "field_limit"}


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


# -- numbers --

FLOATS = [
    "0",
    "-0",
    "0.0",
    "-0.0",
    "1",
    "-1",
    "-1.5",
    "1e10",
    "1.5E-3",
    ".5",
    "-.5",
    "5.",
    "-5.",
    "1e0",
    "1e+5",
    "1E-5",
    "5.e3",
    ".5e3",
    "00001",
    "-0001.50",
    "0000000000000000000000000001.5",
    "1234567",
    "12345678",
    "123456789",
    "1234567.1234567",
    "1234567.12345678",
    "12345678.5",
    "123456789012345678",
    "9007199254740992",
    "9007199254740993",
    "9007199254740994",
    "9007199254740993.0000000000000000000000000000000001",
    "18446744073709551615",
    "18446744073709551616",
    "1e22",
    "1e23",
    "9007199254740992e22",
    "9007199254740993e22",
    "123456789e-22",
    "123456789e-23",
    "0.1",
    "0.2",
    "0.3",
    "2.2250738585072011e-308",
    "2.2250738585072012e-308",
    "2.2250738585072014e-308",
    "4.9406564584124654e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "1e-400",
    "-1e-400",
    "1.7976931348623157e308",
    "1.7976931348623158e308",
    "0e999999999999999999999",
    "0.000e-99999",
    "6929495644600919.5",
    "8.41e21",
    "9.1e22",
    "1e-5",
    "1e-22",
    "3e-22",
    "7.0064923216240854e-46",
    "1.0000000000000002",
    "1.00000000000000011102230246251565",
    "1.000000000000000111022302462515654042363166809082031250001",
    "100000000000000000000000000000000000000000000000000e-50",
]
LONG_FLOATS = [
    "3.2378839133029012895883524125015321748630376694231080599012970495523019706706765657868357"
    "425877995578606157765598382834355143910841531692526891905643964595773946180389283653051434"
    "639551003566966656292020173313440317300443693602052583458034314716600326995807313009548483"
    "639755486900107515300188817581841745696521731104736960227499346384253806233697747365600089"
    "974040609674980283891918789639685754392222064169814626901133425240027243859416510512935526"
    "01421155333430225237291523843322331326138431477823591142408830517116125e-51",
    "0." + "0" * 400 + "1e401",
    "1" + "0" * 400 + "e-400",
]


@pytest.mark.parametrize("text", [*FLOATS, *LONG_FLOATS])
def test_floats_are_the_nearest_double(text: str) -> None:
    twins = Twins()
    line = b"t f=" + text.encode()
    for body in (line, b"\n".join([line + b" 1700000000000000000"] * 5)):
        decoded = twins.decode(body)
        assert {bits(value) for value in decoded.tables[0].values[0]} == {bits(float(text))}


def test_a_hundred_thousand_random_floats_are_the_nearest_doubles() -> None:
    rng = random.Random(20240611)
    texts = []
    for _ in range(20_000):
        anything = struct.unpack("<d", rng.randbytes(8))[0]
        if anything - anything == 0:
            texts.append(repr(anything))
            texts.append(f"{anything:.{rng.randrange(25)}e}")
        texts.append(f"{rng.uniform(-1e6, 1e6):.{rng.randrange(12)}f}")
        texts.append(f"{rng.randrange(10 ** rng.randrange(1, 25))}.{rng.randrange(10 ** rng.randrange(1, 25))}")
        texts.append(f"{rng.randrange(10 ** rng.randrange(1, 20))}e{rng.randrange(-40, 40)}")
    expected = np.array([float(text) for text in texts])
    finite = [text for text, value in zip(texts, expected, strict=True) if np.isfinite(value)]
    body = b"".join(b"t f=%s %d\n" % (text.encode(), index) for index, text in enumerate(finite))
    decoded = decoder().decode(body, **TIMES)
    assert decoded.lines == len(decoded.tables[0].times) == len(finite) > 90_000
    assert decoded.tables[0].values.tobytes() == expected[np.isfinite(expected)].tobytes()


INTEGERS = [
    (0, 0),
    (1, 0),
    (-1, 0),
    (2**53, 0),
    (-(2**53), 0),
    (2**53 + 1, 1),
    (2**53 + 2, 0),
    (-(2**53) - 1, 1),
    (2**62, 0),
    (2**63 - 1, 1),
    (-(2**63), 0),
    (-(2**63) + 1, 1),
    (9999999, 0),
    (10000000, 0),
    (99999999, 0),
    (100000000, 0),
    (10**15, 0),
    (10**16 + 1, 1),
    (123456789012345678, 1),
    (10**18, 0),
]


@pytest.mark.parametrize(("number", "rounded"), INTEGERS)
def test_integers_are_kept_or_rounded_and_counted(number: int, rounded: int) -> None:
    twins = Twins()
    suffixes = "iu" if number >= 0 else "i"
    for suffix, zeros in itertools.product(suffixes, ("", "000")):
        text = str(number).replace("-", "-" + zeros) if number < 0 else zeros + str(number)
        line = f"t f={text}{suffix} 1700000000000000000\n".encode()
        decoded = twins.decode(line * 4)
        assert decoded.rounded == 4 * rounded
        assert {bits(value) for value in decoded.tables[0].values[0]} == {bits(float(number))}


def test_the_largest_unsigned_integer() -> None:
    decoded = Twins().decode(b"t f=18446744073709551615u,g=18446744073709549568u,h=9223372036854775808u")
    assert decoded.rounded == 1
    assert decoded.tables[0].values[:, 0].tolist() == [2.0**64, 2.0**64 - 2048, 2.0**63]


def test_a_rounded_value_that_is_replaced_is_not_counted() -> None:
    assert Twins().decode(b"t f=9007199254740993i,f=1i").rounded == 0
    assert Twins().decode(b"t f=1i,f=9007199254740993i").rounded == 1


NO_NUMBERS = [
    "+1",
    "1.2.3",
    "1e",
    "1e+",
    "e5",
    ".",
    "-",
    "-.",
    "--1",
    "1-",
    "1_0",
    "0x10",
    "1i0",
    "1ii",
    "i",
    "u",
    "-i",
    "1.0i",
    "1e3i",
    "-1u",
    "-0u",
    "tr",
    "truex",
    "tRUE",
    "TRue",
    "yes",
    "nane",
    "infinit",
    "1f",
    "1d",
    "1e5.5",
    "'1'",
    "++inf",
    "in",
    "na",
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1 ", "\u0661"])
def test_what_is_no_number_is_malformed(text: str) -> None:
    twins = Twins()
    good = b"t f=1,g=2 1700000000000000000\n"
    line = b"t f=" + text.encode() + b",g=2 1700000000000000000\n"
    decoded = twins.decode(good + line + good * 3)
    assert decoded.refused_by_cause == {"malformed": 1}
    assert decoded.tables[0].line_numbers.tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, 1.0) for text in ("t", "T", "true", "True", "TRUE")]
    + [(text, 0.0) for text in ("f", "F", "false", "False", "FALSE")],
)
def test_booleans_are_one_and_zero(text: str, value: float) -> None:
    decoded = Twins().decode(f"t f={text} 1700000000000000000\n".encode() * 4)
    assert decoded.tables[0].values.tolist() == [[value] * 4]


# -- times --

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("precision", "written", "time"),
    [
        (1, "1700000000123456789", NOW * 10**9 + 123456789),
        (10**3, "1700000000123456", NOW * 10**9 + 123456000),
        (10**6, "1700000000123", NOW * 10**9 + 123000000),
        (10**9, "1700000000", NOW * 10**9),
        (60 * 10**9, "28333333", 28333333 * 60 * 10**9),
        (3600 * 10**9, "472222", 472222 * 3600 * 10**9),
        (1, "-5", -5),
        (10**9, "-5", -5 * 10**9),
        (1, "-0", 0),
        (1, "0000000000000000000000005", 5),
        (0, "1700000000", NOW * 10**9),
        (0, "1700000000123", NOW * 10**9 + 123000000),
        (0, "1700000000123456", NOW * 10**9 + 123456000),
        (0, "1700000000123456789", NOW * 10**9 + 123456789),
        (0, "4999999999", 4999999999 * 10**9),
        (0, "5000000000", 5000000000 * 10**6),
        (0, "4999999999999", 4999999999999 * 10**6),
        (0, "5000000000000", 5000000000000 * 10**3),
        (0, "4999999999999999", 4999999999999999 * 10**3),
        (0, "5000000000000000", 5000000000000000),
        (0, "-5000000000000000", -5000000000000000),
        (0, "-4999999999", -4999999999 * 10**9),
        (0, "0", 0),
        (1, "9223372036854775807", 2**63 - 1),
        (1, "-9223372036854775807", -(2**63) + 1),
        (10**9, "9223372036", 9223372036 * 10**9),
        (1, None, T),
        (10**9, None, T),
        (0, None, T),
    ],
)
def test_timestamps_in_every_precision(precision: int, written: str | None, time: int) -> None:
    line = b"t f=1\n" if written is None else f"t f=1 {written}\n".encode()
    decoded = Twins().decode(line * 40, precision_ns=precision)
    assert set(decoded.tables[0].times.tolist()) == {time}
    assert len(decoded.tables[0].times) == 40


@pytest.mark.parametrize(
    ("precision", "written", "cause"),
    [
        (1, "9223372036854775808", "too_far_in_future"),
        (1, "-9223372036854775808", "too_old"),
        (1, "99999999999999999999", "too_far_in_future"),
        (1, "18446744073709551621", "too_far_in_future"),
        (1, "-" + "9" * 100, "too_old"),
        (10**9, "9223372037", "too_far_in_future"),
        (10**9, "-9223372037", "too_old"),
        (10**9, "1700000000000000000", "too_far_in_future"),
    ],
)
def test_timestamps_beyond_64_bits_are_refused_as_their_sign_says(precision: int, written: str, cause: str) -> None:
    twins = Twins()
    line = f"t f=1 {written}\n".encode()
    assert twins.decode(line, precision_ns=precision).refused_by_cause == {cause: 1}
    assert twins.catalogue.mark() == (0, 0, 0)
    twins.decode(b"t f=1 5\n", precision_ns=1)
    assert twins.decode(line * 4, precision_ns=precision).refused_by_cause == {cause: 4}


def test_rows_outside_the_allowed_range_are_refused_before_anything_is_defined() -> None:
    twins = Twins()
    span = {"min_time_ns": 100, "max_time_ns": 200, "default_time_ns": 150}
    body = b"".join(b"t%d,tag=%d f%d=1 %d\n" % (time, time, time, time) for time in (99, 100, 200, 201))
    decoded = twins.decode(body + b"t,tag=x f=1\n", **span)
    assert [table.times.tolist() for table in decoded.tables] == [[100], [200], [150]]
    assert decoded.refused_by_cause == {"too_old": 1, "too_far_in_future": 1}
    assert twins.catalogue.mark() == (3, 3, 3)
    old, far = (sentence for _, _, sentence, _ in decoded.refusals)
    assert "got '99', want a time from 1970-01-01T00:00:00.000000100Z on" in old
    assert "got '201', want a time up to 1970-01-01T00:00:00.000000200Z" in far
    assert old.endswith("in the precision of the request (byte 18)")
    # The same for lines that are known by now.
    known = b"".join(b"t100,tag=100 f100=1 %d\n" % time for time in [99, 100, 101, 200, 201] * 3)
    assert twins.decode(known, **span).refused_by_cause == {"too_old": 3, "too_far_in_future": 3}


def test_a_default_time_outside_the_range_is_refused_too() -> None:
    decoded = Twins().decode(b"t f=1\n" * 3, default_time_ns=99, min_time_ns=100)
    assert decoded.refused_by_cause == {"too_old": 3}
    assert "got the end of the line" in decoded.refusals[0][2]


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
    assert "got 't,h=c', want one of the 2 tag sets that exist, which is the limit (byte 1)" in decoded.refusals[0][2]
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


# -- from call to call --

TIMES = {"precision_ns": 1, "default_time_ns": T, "min_time_ns": -(2**63), "max_time_ns": 2**63 - 1}


def decoder(catalogue: Catalogue | None = None) -> LineDecoder:
    return LineDecoder(catalogue or Catalogue(), max_tagsets=10**6, max_tables=100, max_fields=100, max_refusals=100)


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


# -- misuse --


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
