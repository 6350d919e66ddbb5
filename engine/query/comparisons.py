"""Conditions on fields: ``usage_user>90,usage_idle<=5``, all of which a row has to satisfy.

A field that a row does not have, and NaN, satisfy no comparison, ``!=`` included.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import BadRequest
from engine.model.rows import Float64Array

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
}
_COMPARISON = re.compile(
    r'\s*(?:"(?P<quoted>(?:[^"\\]|\\.)+)"|(?P<plain>[^<>=!,"\s]+))\s*'
    r"(?P<operator>>=|<=|!=|==|=|>|<)\s*(?P<number>[^\s,]+)\s*"
)
#: Conditions of one question.
MAX_COMPARISONS = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a field with a number."""

    field: str
    operator: str
    number: float

    def accepts(self, values: Float64Array) -> npt.NDArray[np.bool_]:
        """Return which of the values satisfy it."""
        # NaN, which stands for a missing value too, is unequal to everything and else compares as False.
        accepted: npt.NDArray[np.bool_] = _OPERATORS[self.operator](values, self.number)
        if self.operator == "!=":
            accepted &= values == values
        return accepted

    def excludes(self, low: float, high: float) -> bool:
        """Return whether no value from ``low`` to ``high`` satisfies it; nothing is between NaN and NaN."""
        if math.isnan(low):
            return True
        if self.operator == "!=":
            return low == high == self.number
        if self.operator == "=":
            return not low <= self.number <= high
        return not _OPERATORS[self.operator](high if self.operator in (">", ">=") else low, self.number)

    @property
    def text(self) -> str:
        return f"{self.field}{self.operator}{self.number:g}"


def parse_comparisons(text: str) -> tuple[Comparison, ...]:
    """Parse comparisons with commas between; raises BadRequest naming the place.

    A name with other characters than letters and the like stands in double quotes, with \\ before quotes in it.
    """
    found: list[Comparison] = []
    at = 0
    while text[at:].strip():
        match = _COMPARISON.match(text, at)
        if match is None:
            raise BadRequest(
                f"cannot read condition at character {at + 1} of {text!r}: want field>number, with > >= < <= = or !="
            )
        try:
            number = float(match["number"])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise BadRequest(f"cannot read condition {match[0].strip()!r}: got {match['number']!r}, want a number")
        name = match["plain"] or re.sub(r"\\(.)", r"\1", match["quoted"])
        found.append(Comparison(name, match["operator"].replace("==", "="), number))
        at = match.end()
        if at < len(text):
            if text[at] != ",":
                raise BadRequest(f"cannot read conditions {text!r}: want a comma at character {at + 1}")
            at += 1
    if len(found) > MAX_COMPARISONS:
        raise BadRequest(f"cannot compare: got {len(found)} conditions, want at most {MAX_COMPARISONS}")
    return tuple(found)


def bounds_of(values: Float64Array) -> tuple[float, float]:
    """Return the lowest and the highest value, NaN and NaN where there is none."""
    if not len(values):
        return math.nan, math.nan
    return float(np.fmin.reduce(values)), float(np.fmax.reduce(values))


def names_of(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Return the fields that are compared, each once."""
    return tuple(dict.fromkeys(comparison.field for comparison in comparisons))
