"""Line protocol of points: exact bytes, and a reader that gets back what was written."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.collect.points import Point, encode_lines


def read_line(line: str) -> tuple[str, dict[str, str], dict[str, float], int]:
    """Read one line the slow and obvious way: split at separators without a backslash before them."""

    def split(text: str, separator: str, most: int = -1) -> list[str]:
        return re.split(rf"(?<!\\){separator}", text, maxsplit=max(0, most))

    def plain(text: str) -> str:
        return re.sub(r"\\([, =])", r"\1", text)

    head, fields, time = split(line, " ", 2)
    table, *tags = split(head, ",")
    values: dict[str, float] = {}
    for pair in split(fields, ","):
        name, value = split(pair, "=", 1)
        values[plain(name)] = (
            value == "true" if value in ("true", "false") else int(value[:-1]) if value.endswith("i") else float(value)
        )
    return plain(table), {plain(k): plain(v) for k, v in (split(tag, "=", 1) for tag in tags)}, values, int(time)


def test_exact_bytes() -> None:
    point = Point("disk io", {"path": "/a b,c=d", "host": "h"}, {"used percent": 12.5, "count": 3, "up": True})
    expected = rb"disk\ io,host=h,path=/a\ b\,c\=d used\ percent=12.5,count=3i,up=true 42" + b"\n"
    assert encode_lines([point], 42) == expected


def test_what_the_format_cannot_hold_is_left_out() -> None:
    points = [
        Point("t", {"empty": "", "lines": "a\nb\rc", "tail": "x\\"}, {"a": math.nan, "b": -math.inf, "c": -0.0}),
        Point("t", {}, {"a": math.nan}),
    ]
    assert encode_lines(points, -5) == b"t,lines=a\\ b\\ c,tail=x c=-0.0 -5\n"


@pytest.mark.parametrize("value", [1e22, 1.7976931348623157e308, 5e-324, 0.1])
def test_floats_keep_their_bits(value: float) -> None:
    assert read_line(encode_lines([Point("t", {}, {"v": value})], 0).decode().rstrip())[2] == {"v": value}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\\\n\r", exclude_categories=("Cs",)), min_size=1)
VALUES = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.booleans()


@settings(max_examples=80, deadline=None)
@given(NAMES, st.dictionaries(NAMES, NAMES, max_size=3), st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_what_is_written_reads_back(table: str, tags: dict[str, str], fields: dict[str, float]) -> None:
    line = encode_lines([Point(table, tags, fields)], 7).decode()
    assert line.endswith("\n")
    assert read_line(line[:-1]) == (table, tags, fields, 7)
