"""native.lineprotocol: numbers are the nearest doubles, timestamps the nanoseconds they say."""

from __future__ import annotations

import itertools
import random
import struct

import numpy as np
import pytest

from native.catalogue import Catalogue
from native.lineprotocol import LineDecoder
from tests.oracles.lineprotocol import Twins

T = 1_000  # what Twins uses as default time


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


# -- numbers --

FLOATS = """
0 -0 0.0 -0.0 1 -1 -1.5 1e10 1.5E-3 .5 -.5 5. -5. 1e0 1e+5 1E-5 5.e3 .5e3 00001 -0001.50
0000000000000000000000000001.5 1234567 12345678 123456789 1234567.1234567 1234567.12345678
12345678.5 123456789012345678 9007199254740992 9007199254740993 9007199254740994
9007199254740993.0000000000000000000000000000000001 18446744073709551615 18446744073709551616 1e22
1e23 9007199254740992e22 9007199254740993e22 123456789e-22 123456789e-23 0.1 0.2 0.3
2.2250738585072011e-308 2.2250738585072012e-308 2.2250738585072014e-308 4.9406564584124654e-324
2.4703282292062327e-324 2.4703282292062328e-324 1e-400 -1e-400 1.7976931348623157e308
1.7976931348623158e308 0e999999999999999999999 0.000e-99999 6929495644600919.5 8.41e21 9.1e22 1e-5
1e-22 3e-22 7.0064923216240854e-46 1.0000000000000002 1.00000000000000011102230246251565
1.000000000000000111022302462515654042363166809082031250001
100000000000000000000000000000000000000000000000000e-50
"""
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


@pytest.mark.parametrize("text", [*FLOATS.split(), *LONG_FLOATS])
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
    decoder = LineDecoder(Catalogue(), max_tagsets=1, max_tables=1, max_fields=1, max_refusals=1)
    decoded = decoder.decode(body, precision_ns=1, default_time_ns=0, min_time_ns=0, max_time_ns=len(finite))
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


def test_the_integer_minus_zero_is_zero() -> None:
    decoded = Twins().decode(b"t f=-0i,g=-0,h=-000i 1700000000000000000\n" * 4)
    assert {bits(value) for value in decoded.tables[0].values[[0, 2]].flat} == {bits(0.0)}
    assert {bits(value) for value in decoded.tables[0].values[1]} == {bits(-0.0)}


def test_the_largest_unsigned_integer() -> None:
    decoded = Twins().decode(b"t f=18446744073709551615u,g=18446744073709549568u,h=9223372036854775808u")
    assert decoded.rounded == 1
    assert decoded.tables[0].values[:, 0].tolist() == [2.0**64, 2.0**64 - 2048, 2.0**63]


def test_a_rounded_value_that_is_replaced_is_not_counted() -> None:
    assert Twins().decode(b"t f=9007199254740993i,f=1i").rounded == 0
    assert Twins().decode(b"t f=1i,f=9007199254740993i").rounded == 1


NO_NUMBERS = """
+1 1.2.3 1e 1e+ e5 . - -. --1 1- 1_0 0x10 1i0 1ii i u -i 1.0i 1e3i -1u -0u tr truex tRUE TRue yes
nane infinit 1f 1d 1e5.5 '1' ++inf in na
"""


@pytest.mark.parametrize("text", [*NO_NUMBERS.split(), "1 ", "\u0661"])
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
