"""Points and their line protocol: how sensors hand over what they read, and how it travels.

Reference: InfluxData, "Line protocol" (element order, escapes, types).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_NAME_ESCAPES = str.maketrans({",": "\\,", " ": "\\ "})
_KEY_ESCAPES = str.maketrans({",": "\\,", " ": "\\ ", "=": "\\="})
_LINE_BREAKS = str.maketrans({"\n": " ", "\r": " "})


@dataclass(frozen=True, slots=True)
class Point:
    """One row of one table at a time given elsewhere.  Integers travel as integers, booleans as booleans."""

    table: str
    tags: Mapping[str, str]
    fields: Mapping[str, float]


def encode_lines(points: Iterable[Point], time_ns: int) -> bytes:
    """Return one line for each point that has a finite field, all at ``time_ns``.

    The format cannot hold NaN and infinities, empty tag values, line breaks in names, or a backslash at the
    end of one: fields and tags of the first two kinds are left out, line breaks become spaces, final
    backslashes are cut.
    """
    suffix = f" {time_ns}\n"
    lines: list[str] = []
    for point in points:
        fields = ",".join(
            f"{_escaped(name, _KEY_ESCAPES)}={_number(value)}"
            for name, value in point.fields.items()
            if math.isfinite(value)
        )
        if not fields:
            continue
        head = _escaped(point.table, _NAME_ESCAPES)
        for key, value in sorted(point.tags.items()):
            text = _escaped(value, _KEY_ESCAPES)
            if text:
                head += f",{_escaped(key, _KEY_ESCAPES)}={text}"
        lines.append(f"{head} {fields}{suffix}")
    return "".join(lines).encode()


def _escaped(text: str, escapes: dict[int, str]) -> str:
    return text.translate(_LINE_BREAKS).rstrip("\\").translate(escapes)


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    return repr(float(value))
