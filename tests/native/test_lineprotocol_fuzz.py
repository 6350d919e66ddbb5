"""native.lineprotocol on generated lines: what is written is what is read, and both twins agree on anything."""

from __future__ import annotations

import math
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.lineprotocol import Twins, rows_of

Point = tuple[bytes, dict[bytes, bytes], dict[bytes, tuple[str, float]], int | None]

# Names over the bytes that mean something to the grammar, and some that do not.
CHARACTERS = st.sampled_from([*"ab=,= \\\\\"'#\t\0\u00e9\u4e00\U0001f600.1", "usage_", "x" * 17])


def escaped(name: bytes) -> bytes:
    for delimiter in (b",", b"=", b" "):
        name = name.replace(delimiter, b"\\" + delimiter)
    return name


# A name that ends in a backslash cannot be written: it would escape what follows.
NAMES = (
    st.lists(CHARACTERS, min_size=1, max_size=5)
    .map(lambda parts: "".join(parts).encode())
    .filter(lambda name: not name.endswith(b"\\"))
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(
    FLOATS.map(lambda value: (repr(value), value)),
    FLOATS.map(lambda value: (f"{value:.17E}", value)),
    st.decimals(-(10**9), 10**9, places=3).map(lambda value: (str(value), float(value))),
    st.integers(-(10**20), 10**20).map(lambda value: (str(value), float(value))),
    st.integers(-(10**9), 10**9).map(lambda value: (f"{value}.", float(value))),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: (f"{value}i", float(value))),
    st.integers(0, 2**64 - 1).map(lambda value: (f"{value}u", float(value))),
    st.sampled_from(["t", "T", "true", "True", "TRUE"]).map(lambda text: (text, 1.0)),
    st.sampled_from(["f", "F", "false", "False", "FALSE"]).map(lambda text: (text, 0.0)),
)
POINTS = st.tuples(
    NAMES.filter(lambda name: not name.startswith(b"#")),
    st.dictionaries(NAMES, NAMES, max_size=3),
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=4),
    st.none() | st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(0, 2 * 10**18),
)


def written(point: Point, spaces: int = 1, end: bytes = b"\n") -> bytes:
    measurement, tags, fields, time = point
    line = escaped(measurement)
    for name, value in tags.items():
        line += b"," + escaped(name) + b"=" + escaped(value)
    line += b" " * spaces
    line += b",".join(escaped(name) + b"=" + text.encode() for name, (text, _) in fields.items())
    if time is not None:
        line += b" " * spaces + b"%d" % time
    return line + end


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[Point], bytes]:
    """Return points in an order with repetitions, and their lines."""
    pool = draw(st.lists(POINTS, min_size=1, max_size=4))
    points = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=12))
    ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n# note\n"])
    lines = [written(point, draw(st.sampled_from([1, 1, 1, 2])), draw(ends)) for point in points]
    return points, b"".join(lines)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@settings(max_examples=250, deadline=None)
@given(bodies(), st.booleans())
def test_what_is_written_is_what_is_read(generated: tuple[list[Point], bytes], cut: bool) -> None:
    points, body = generated
    if cut:
        body = body.rstrip(b"\r\n")
    twins = Twins()
    for _ in range(2):
        rows = twins.named_rows(body, default_time_ns=77)
        assert len(rows) == len(points)
        for (table, tags, time, values), point in zip(rows, points, strict=True):
            assert table == point[0]
            assert tags == sorted(point[1].items())
            assert time == (77 if point[3] is None else point[3])
            assert {name: bits(value) for name, value in values.items()} == {
                name: bits(value) for name, (_, value) in point[2].items()
            }


@settings(max_examples=100, deadline=None)
@given(bodies(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 5))
def test_limits_hold_for_any_lines(
    generated: tuple[list[Point], bytes], tagsets: int, tables: int, fields: int, refusals: int
) -> None:
    _, body = generated
    twins = Twins(max_tagsets=tagsets, max_tables=tables, max_fields=fields, max_refusals=refusals)
    for _ in range(2):
        twins.decode(body)
        assert twins.catalogue.table_count <= tables
        assert twins.catalogue.tagset_count <= tagsets
        assert all(len(twins.catalogue.fields(table)) <= fields for table in range(twins.catalogue.table_count))


@settings(max_examples=100, deadline=None)
@given(
    bodies(),
    st.sampled_from([0, 1, 10**3, 10**6, 10**9]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
def test_times_hold_for_any_lines(generated: tuple[list[Point], bytes], precision: int, one: int, other: int) -> None:
    _, body = generated
    lowest, highest = min(one, other), max(one, other)
    twins = Twins()
    for _ in range(2):
        decoded = twins.decode(body, precision_ns=precision, min_time_ns=lowest, max_time_ns=highest)
        assert all(lowest <= row[3] <= highest for row in rows_of(decoded))


TOKENS = st.sampled_from([bytes([byte]) for byte in b' ,=\\"\n#-+.eiutab\x00\t\xff\xc3']) | st.sampled_from(
    b"nan|0|17|1700000000000000000|9223372036854775807|18446744073709551616|1e400|1e-400|\xc3\xa9|cpu|host=a| f=1"
    b'|f=1i,|"text"|\\,|\\ |\r\n'.split(b"|")
)
GOOD_LINES = [
    b"cpu,host=a,region=b usage_user=58i,usage_system=2.25,usage_guest_nice=61i 1700000000000000000\n",
    b"cpu,host=b,region=b usage_user=58i,usage_system=-0.5,usage_guest_nice=t 1700000000000000001\n",
    b'net,host=a\\ b in=1e3,out="text",drop=18014398509481985i 1700000000000000002\n',
    b"x f=1\n",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(TOKENS, max_size=40).map(b"".join), st.integers(0, 3))
def test_twins_agree_on_any_tokens(noise: bytes, lines: int) -> None:
    good = b"".join(GOOD_LINES[: lines + 1])
    twins = Twins()
    twins.decode(good)
    twins.decode(noise + b"\n" + good + noise)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_twins_agree_on_any_bytes(noise: bytes) -> None:
    twins = Twins()
    twins.decode(noise)
    twins.decode(GOOD_LINES[0] + noise + b"\n" + GOOD_LINES[0])


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["insert", "replace", "delete", "cut"]), TOKENS),
    min_size=1,
    max_size=3,
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(GOOD_LINES), min_size=2, max_size=6).map(b"".join), EDITS)
def test_twins_agree_on_damaged_lines(body: bytes, edits: list[tuple[float, str, bytes]]) -> None:
    twins = Twins()
    twins.decode(b"".join(GOOD_LINES))
    for place, kind, token in edits:
        at = math.floor(place * len(body))
        if kind == "insert":
            body = body[:at] + token + body[at:]
        elif kind == "replace":
            body = body[:at] + token + body[at + len(token) :]
        elif kind == "delete":
            body = body[:at] + body[at + 1 :]
        else:
            body = body[:at]
    twins.decode(body + GOOD_LINES[0])
    # Whatever was learnt from damaged lines must not change what good lines mean.
    twins.decode(b"".join(GOOD_LINES))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.from_regex(rb"\A[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,4})?[iu]?\Z")
        | st.from_regex(rb"\A[-+]?[0-9.eEiunatfINFTRU]{1,12}\Z"),
        min_size=4,
        max_size=12,
    )
)
def test_twins_agree_on_anything_like_a_number(texts: list[bytes]) -> None:
    twins = Twins()
    body = b"".join(b"t f=%s 1700000000000000000\n" % text for text in texts)
    twins.decode(body)
    twins.decode(body)
