"""Expressions that a rule can say, as the settings of that rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from api.promrules.expressions import (
    COMPARISONS,
    Aggregation,
    Binary,
    Call,
    Expression,
    Number,
    Selector,
    Unsupported,
    folded,
    parse,
)
from engine.model.matchers import Matcher

_FUNCTIONS = {
    "rate": "rate",
    "increase": "increase",
    "delta": "change",
    "avg_over_time": "avg",
    "sum_over_time": "sum",
    "min_over_time": "min",
    "max_over_time": "max",
    "count_over_time": "count",
}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
#: Prometheus takes a series for gone that has had no sample for so long.
LOOKBACK_SECONDS = 300.0
#: Thresholds that have been calculated are rounded to so many digits.
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Reading:
    """One number: what ``settings`` of a rule read, times ``factor``, plus ``offset``."""

    settings: dict[str, Any]
    factor: float = 1.0
    offset: float = 0.0


@dataclass(slots=True)
class Condition:
    """The settings of a rule that say what an expression says, and in what it differs: sentences."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def condition_of(text: str) -> Condition:
    """Return what a rule must say to fire when the expression ``text`` has results.  Raises Unsupported."""
    expression, unguarded = _unguarded(folded(parse(text)))
    condition = _condition(expression)
    if unguarded:
        condition.notes.append("the guard against a divisor of zero is not needed: such a ratio has no value here")
    return condition


def _unguarded(expression: Expression) -> tuple[Expression, bool]:
    """Return an expression without conditions that only keep a divisor in it from being 0, and whether it had some."""
    found = False
    while isinstance(expression, Binary) and expression.operator == "and":
        guard = expression.right
        divisors = set(_divisors(expression.left))
        if not (isinstance(guard, Binary) and guard.operator in (">", "!=") and guard.right == Number(0.0)):
            break
        if guard.left not in divisors:
            break
        expression, found = expression.left, True
    return expression, found


def _divisors(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, Binary):
        yield from _divisors(expression.left)
        yield from _divisors(expression.right)
        if expression.operator == "/":
            yield expression.right


def _condition(expression: Expression) -> Condition:
    if isinstance(expression, Call) and expression.name in ("absent", "absent_over_time"):
        return _absent(expression)
    if isinstance(expression, Binary) and expression.operator in ("and", "or", "unless"):
        raise Unsupported(f"conditions joined by {expression.operator} are not supported")
    if not isinstance(expression, Binary) or expression.operator not in COMPARISONS:
        raise Unsupported("want a comparison with a number, or absent(...)")
    left, right, operator = expression.left, expression.right, expression.operator
    if isinstance(left, Number):
        left, right, operator = right, left, _MIRRORED.get(operator, operator)
    if not isinstance(right, Number):
        raise Unsupported("a comparison of two series is not supported, want one with a number")
    return _compared(_reading(left), operator, right.value)


def _absent(call: Call) -> Condition:
    inner = call.arguments[0] if len(call.arguments) == 1 else None
    if not isinstance(inner, Selector):
        raise Unsupported(f"{call.name}(...) is supported only of a selector")
    seconds = LOOKBACK_SECONDS if inner.over is None else inner.over.seconds
    settings = _selected(inner) | {"aggregate": "age", "group_by": (), "op": ">", "threshold": seconds}
    return Condition(settings, [f"{call.name} is judged by the age of the newest sample, more than {seconds:g} s"])


def _compared(reading: Reading, operator: str, level: float) -> Condition:
    settings = dict(reading.settings)
    notes: list[str] = []
    if reading.offset == 0:
        if reading.factor != 1:
            settings["scale"] = _rounded(reading.factor)
    else:
        if reading.factor == 0:
            raise Unsupported("a number times 0 is not supported")
        level = (level - reading.offset) / reading.factor
        if reading.factor < 0:
            operator = _MIRRORED.get(operator, operator)
        level = _rounded(level)
        notes.append(f"the sum is solved for what is read: value {operator} {level:g}; {{value}} is that number")
    if operator in ("==", "!="):
        settings |= {"op": "inside" if operator == "==" else "outside", "threshold": level, "upper": level}
    else:
        settings |= {"op": operator, "threshold": level}
    if settings.get("aggregate") in ("rate", "increase", "change"):
        notes.append("rate, increase and delta are not extrapolated to the ends of their window")
    if "forecast" in settings:
        notes.append("the trend is the median of slopes, from the newest value on, not a least-squares line")
    return Condition(settings, notes)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _reading(expression: Expression) -> Reading:
    if isinstance(expression, Selector):
        if expression.over is not None:
            raise Unsupported("a range without a function over it is not supported")
        return Reading(_selected(expression))
    if isinstance(expression, Call):
        return Reading(_called(expression))
    if isinstance(expression, Aggregation):
        return _aggregated(expression)
    if isinstance(expression, Binary):
        return _calculated(expression)
    raise Unsupported("a comparison of two numbers is not supported")


def _selected(selector: Selector) -> dict[str, Any]:
    match: dict[str, str] = {}
    where: list[Matcher] = []
    for matcher in selector.matchers:
        if matcher.operator == "=" and matcher.value and matcher.label not in match:
            match[matcher.label] = matcher.value
        else:
            where.append(matcher)
    settings: dict[str, Any] = {"metric": selector.metric}
    if match:
        settings["match"] = match
    if where:
        settings["where"] = ",".join(f"{each.label}{each.operator}{_quoted(each.value)}" for each in where)
    return settings


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _called(call: Call) -> dict[str, Any]:
    if call.name == "predict_linear":
        if len(call.arguments) == 2:
            selector, ahead = call.arguments
            if isinstance(selector, Selector) and selector.over is not None and isinstance(ahead, Number):
                return _selected(selector) | {"forecast": f"{round(ahead.value)}s", "forecast_from": selector.over.text}
        raise Unsupported("predict_linear is supported only of a selector with a range, and a number of seconds")
    aggregate = _FUNCTIONS.get(call.name)
    argument = call.arguments[0] if len(call.arguments) == 1 else None
    if aggregate is None:
        known = ", ".join((*_FUNCTIONS, "predict_linear", "absent"))
        raise Unsupported(f"{call.name}(...) is not supported, want one of {known}")
    if not isinstance(argument, Selector) or argument.over is None:
        raise Unsupported(f"{call.name}(...) is supported only of a selector with a range")
    return _selected(argument) | {"aggregate": aggregate, "over": argument.over.text}


def _aggregated(aggregation: Aggregation) -> Reading:
    inner = _reading(aggregation.inner)
    if "group_by" in inner.settings:
        raise Unsupported("an aggregation of an aggregation is not supported")
    if "divide_by" in inner.settings:
        raise Unsupported("an aggregation of ratios is not supported; a ratio of aggregations is")
    if (inner.factor, inner.offset) != (1.0, 0.0) and (aggregation.name not in ("sum", "avg") or inner.offset):
        raise Unsupported(f"arithmetic inside of {aggregation.name}(...) is not supported")
    return replace(inner, settings=inner.settings | {"group_by": aggregation.by, "group": aggregation.name})


def _calculated(expression: Binary) -> Reading:
    operator, left, right = expression.operator, expression.left, expression.right
    if operator in COMPARISONS:
        raise Unsupported("a comparison inside of an expression is not supported")
    if operator in ("and", "or", "unless"):
        raise Unsupported(f"conditions joined by {operator} are not supported")
    if isinstance(right, Number):
        return _with_number(_reading(left), operator, right.value)
    if isinstance(left, Number):
        reading = _reading(right)
        if operator in ("+", "*"):
            return _with_number(reading, operator, left.value)
        if operator == "-":
            return Reading(reading.settings, -reading.factor, left.value - reading.offset)
        raise Unsupported(f"a number {operator} a series is not supported")
    above, below = _reading(left), _reading(right)
    if operator != "/":
        raise Unsupported(f"{operator} between two series is not supported; / is")
    return _ratio(above, below, expression.on)


def _with_number(reading: Reading, operator: str, number: float) -> Reading:
    match operator:
        case "+":
            return replace(reading, offset=reading.offset + number)
        case "-":
            return replace(reading, offset=reading.offset - number)
        case "*":
            return Reading(reading.settings, reading.factor * number, reading.offset * number)
        case "/" if number != 0:
            return Reading(reading.settings, reading.factor / number, reading.offset / number)
    raise Unsupported(f"{operator} {number:g} is not supported")


def _ratio(above: Reading, below: Reading, on: tuple[str, ...] | None) -> Reading:
    one, other = above.settings, below.settings
    if above.offset or below.offset:
        raise Unsupported("a ratio of sums is not supported")
    if "divide_by" in one or "divide_by" in other:
        raise Unsupported("a ratio of ratios is not supported")
    if "forecast" in one or "forecast" in other:
        raise Unsupported("a ratio of forecasts is not supported")
    for name in ("aggregate", "over", "group_by", "group"):
        if one.get(name) != other.get(name):
            raise Unsupported(f"a ratio of two different ways of reading is not supported ({name})")
    settings = one | {"divide_by": other["metric"]}
    if one.get("match", {}) != other.get("match", {}):
        settings["divide_match"] = other.get("match", {})
    if one.get("where", "") != other.get("where", ""):
        settings["divide_where"] = other.get("where", "")
    if on is not None:
        if "group_by" not in one:
            settings["divide_on"] = on
        elif set(on) != set(one["group_by"]):
            raise Unsupported("on(...) with other labels than the aggregations keep is not supported")
    return Reading(settings, above.factor / below.factor)
