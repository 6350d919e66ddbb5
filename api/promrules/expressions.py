"""PromQL as far as alerting rules need it: text to a tree, and a reason for what is not understood.

Grammar and precedence: Prometheus, "Querying", "Operators" (prometheus.io/docs/prometheus/latest/querying).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from engine.config_units import Duration
from engine.errors import BadRequest
from engine.model.matchers import Matcher

COMPARISONS = ("==", "!=", "<=", "<", ">=", ">")
AGGREGATIONS = frozenset(
    ("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile")
)
_PRECEDENCE = {
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and", "unless"), 2),
    **dict.fromkeys(COMPARISONS, 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%", "atan2"), 5),
    "^": 6,
}
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
    |(?P<duration>(?:\d+(?:ms|[smhdwy]))+(?![\w.]))
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.]))
    |(?P<word>[A-Za-z_:][\w:.]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],=<>@:])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class Unsupported(Exception):
    """An expression, or a part of a rule, that cannot be carried over; the text says why."""


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Selector:
    """``over``: the range in brackets, None for an instant selector."""

    metric: str
    matchers: tuple[Matcher, ...]
    over: Duration | None = None


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Aggregation:
    name: str
    by: tuple[str, ...]
    inner: Expression


@dataclass(frozen=True, slots=True)
class Binary:
    """``on``: the labels that join both sides, None for all that they have."""

    operator: str
    left: Expression
    right: Expression
    on: tuple[str, ...] | None = None


Expression = Number | Selector | Call | Aggregation | Binary


def parse(text: str) -> Expression:
    """Return the tree of an expression.  Raises Unsupported."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise Unsupported(f"cannot read the expression at {text[at : at + 20]!r}")
            if found.lastgroup is not None:
                self._tokens.append((found.lastgroup, found.group()))
            at = found.end()
        self._at = 0

    # --- tokens

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ("end", "the end")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, text: str) -> bool:
        kind, found = self._peek()
        if kind != "string" and found.lower() == text:
            self._at += 1
            return True
        return False

    def _want(self, text: str) -> None:
        if not self._take(text):
            raise Unsupported(f"cannot read the expression: want {text!r} before {self._peek()[1]!r}")

    # --- grammar

    def whole(self) -> Expression:
        found = self._binary(0)
        if self._peek()[0] != "end":
            raise Unsupported(f"cannot read the expression from {self._peek()[1]!r} on")
        return found

    def _binary(self, least: int) -> Expression:
        left = self._unary()
        while True:
            kind, text = self._peek()
            operator = text.lower()
            strength = _PRECEDENCE.get(operator, 0) if kind != "string" else 0
            if not strength or strength < least:
                return left
            self._at += 1
            if self._take("bool"):
                raise Unsupported("a comparison with bool is not supported: every series would fire or none")
            on = self._matching()
            # ^ binds to the right, all others to the left.
            right = self._binary(strength if operator == "^" else strength + 1)
            left = Binary(operator, left, right, on)

    def _matching(self) -> tuple[str, ...] | None:
        if self._take("ignoring"):
            raise Unsupported("ignoring(...) is not supported: name the labels to join by with on(...)")
        if not self._take("on"):
            return None
        on = self._labels()
        for many in ("group_left", "group_right"):
            if self._take(many) and (many == "group_right" or (self._peek()[1] == "(" and self._labels())):
                raise Unsupported(f"{many} is supported only as group_left without labels of its own")
        return on

    def _labels(self) -> tuple[str, ...]:
        self._want("(")
        names: list[str] = []
        while not self._take(")"):
            kind, text = self._next()
            if kind != "word":
                raise Unsupported(f"cannot read the expression: want a label before {text!r}")
            names.append(text)
            if not self._take(","):
                self._want(")")
                break
        return tuple(names)

    def _unary(self) -> Expression:
        if self._take("-"):
            inner = self._binary(_PRECEDENCE["^"])
            return Number(-inner.value) if isinstance(inner, Number) else Binary("*", Number(-1.0), inner)
        if self._take("+"):
            return self._binary(_PRECEDENCE["^"])
        return self._modified(self._primary())

    def _primary(self) -> Expression:
        if self._take("("):
            inner = self._binary(0)
            self._want(")")
            return inner
        kind, text = self._peek()
        if kind == "number" or (kind == "word" and text.lower() in ("inf", "nan") and self._peek(1)[1] != "("):
            self._at += 1
            return Number(float(int(text, 16)) if text[:2].lower() == "0x" else float(text))
        if kind == "duration":
            # A duration stands for a number of seconds.
            self._at += 1
            return Number(_duration(text).seconds)
        if kind == "sign" and text == "{":
            return self._selector("")
        if kind != "word":
            raise Unsupported(f"cannot read the expression at {text!r}")
        if text.lower() in AGGREGATIONS and self._peek(1)[1].lower() in ("(", "by", "without"):
            return self._aggregation()
        self._at += 1
        if self._take("("):
            arguments: list[Expression] = []
            while not self._take(")"):
                arguments.append(self._binary(0))
                if not self._take(","):
                    self._want(")")
                    break
            return Call(text.lower(), tuple(arguments))
        return self._selector(text)

    def _aggregation(self) -> Expression:
        name = self._next()[1].lower()
        by = self._grouping()
        self._want("(")
        inner = self._binary(0)
        if self._take(","):
            raise Unsupported(f"{name}(...) is not supported, want one of avg, sum, min, max, count")
        self._want(")")
        after = self._grouping()
        if name not in ("avg", "sum", "min", "max", "count"):
            raise Unsupported(f"{name}(...) is not supported, want one of avg, sum, min, max, count")
        return Aggregation(name, by or after or (), inner)

    def _grouping(self) -> tuple[str, ...] | None:
        if self._take("without"):
            raise Unsupported("without(...) is not supported: name the labels to keep with by(...)")
        return self._labels() if self._take("by") else None

    def _selector(self, metric: str) -> Expression:
        matchers: list[Matcher] = []
        if self._take("{"):
            while not self._take("}"):
                kind, label = self._next()
                operator = self._next()[1]
                quoted, text = self._next()
                if kind != "word" or quoted != "string":
                    raise Unsupported(f"cannot read the matchers of {metric or 'the selector'} at {label!r}")
                try:
                    matchers.append(Matcher.of(label, operator, _unquoted(text)))
                except BadRequest as error:
                    raise Unsupported(error.message) from None
                if not self._take(","):
                    self._want("}")
                    break
        names = [matcher for matcher in matchers if matcher.label == "__name__"]
        if not metric and len(names) == 1 and names[0].operator == "=":
            metric = names[0].value
            matchers.remove(names[0])
            names = []
        if not metric or names:
            raise Unsupported("a selector without the name of one metric is not supported")
        return Selector(metric, tuple(matchers))

    def _modified(self, found: Expression) -> Expression:
        while True:
            if self._take("["):
                over = _duration(self._next()[1])
                if self._peek()[1].startswith(":"):
                    raise Unsupported("subqueries are not supported")
                self._want("]")
                if not isinstance(found, Selector) or found.over is not None:
                    raise Unsupported("a range is supported only behind a selector")
                found = Selector(found.metric, found.matchers, over)
            elif self._take("offset"):
                raise Unsupported("offset is not supported; compare_with relates to past days and weeks")
            elif self._take("@"):
                raise Unsupported("the @ modifier is not supported")
            else:
                return found


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError:
        raise Unsupported(f"cannot read the length of time {text!r}") from None


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), text[1:-1])


def folded(expression: Expression) -> Expression:
    """Return an expression in which arithmetic between numbers has been done."""
    if isinstance(expression, Call):
        return Call(expression.name, tuple(folded(each) for each in expression.arguments))
    if isinstance(expression, Aggregation):
        return Aggregation(expression.name, expression.by, folded(expression.inner))
    if not isinstance(expression, Binary):
        return expression
    left, right = folded(expression.left), folded(expression.right)
    if isinstance(left, Number) and isinstance(right, Number):
        value = _calculated(expression.operator, left.value, right.value)
        if value is not None:
            return Number(value)
    return Binary(expression.operator, left, right, expression.on)


def _calculated(operator: str, left: float, right: float) -> float | None:
    try:
        match operator:
            case "+":
                return left + right
            case "-":
                return left - right
            case "*":
                return left * right
            case "/":
                return left / right
            case "%":
                return math.fmod(left, right)
            case "^":
                return float(left**right)
    except (ArithmeticError, ValueError, TypeError):
        raise Unsupported(f"cannot calculate {left:g} {operator} {right:g}") from None
    return None
