"""What must hold between the settings of a rule, beyond the type and the bounds of each."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator
from typing import NamedTuple

from engine.config_rules import BANDS, Rule
from engine.errors import BadRequest
from engine.model.matchers import parse_matchers

#: Placeholders of a summary that are no labels.
NUMBERS = ("value", "threshold")
TEXTS = ("metric", "rule")


class Mistake(NamedTuple):
    """``key``: the setting; ``found``: its value; ``allowed``: what may stand there; ``involved``: other settings."""

    key: str
    found: object
    allowed: str
    involved: tuple[str, ...] = ()


def mistakes(rule: Rule) -> Iterator[Mistake]:
    """Yield what is wrong with a rule whose settings are right one by one."""
    yield from _levels(rule)
    yield from _reading(rule)
    yield from _relation(rule)
    yield from _templates(rule)


def _levels(rule: Rule) -> Iterator[Mistake]:
    if rule.op in BANDS:
        yield from _band(rule)
        return
    for key, value in (("upper", rule.upper), ("clear_upper", rule.clear_upper)):
        if value is not None:
            yield Mistake(key, value, f'no {key} for op = "{rule.op}"', ("op",))
    if rule.clear is not None:
        above = rule.op in (">", ">=")
        if (rule.clear > rule.threshold) if above else (rule.clear < rule.threshold):
            side = "at most" if above else "at least"
            allowed = f'{side} the threshold, {rule.threshold:g}, for op = "{rule.op}"'
            yield Mistake("clear", rule.clear, allowed, ("threshold", "op"))


def _band(rule: Rule) -> Iterator[Mistake]:
    if rule.upper is None:
        yield Mistake("upper", None, f'the upper level for op = "{rule.op}"', ("op",))
        return
    if rule.upper < rule.threshold:
        allowed = f"at least the threshold, {rule.threshold:g}"
        yield Mistake("upper", rule.upper, allowed, ("threshold",))
        return
    # The levels at which a firing alert ends lie on the quiet side of those at which it begins.
    inwards = rule.op == "outside"
    for key, value, level, below in (
        ("clear", rule.clear, rule.threshold, not inwards),
        ("clear_upper", rule.clear_upper, rule.upper, inwards),
    ):
        if value is not None and ((value > level) if below else (value < level)):
            of = "the threshold" if key == "clear" else "upper"
            allowed = f'{"at most" if below else "at least"} {of}, {level:g}, for op = "{rule.op}"'
            yield Mistake(key, value, allowed, ("threshold", "upper", "op"))
    if inwards and rule.clear_level > rule.clear_upper_level:
        yield Mistake("clear", rule.clear_level, f"at most clear_upper, {rule.clear_upper_level:g}", ("clear_upper",))


def _reading(rule: Rule) -> Iterator[Mistake]:
    for key, text in (("where", rule.where), ("divide_where", rule.divide_where or "")):
        try:
            parse_matchers(text)
        except BadRequest as error:
            yield Mistake(key, text, f'matchers such as status=~"5..",host!="a" ({error.message})')
    if rule.divide_by == "":
        yield Mistake("divide_by", rule.divide_by, "the name of a metric")
    for key in ("divide_match", "divide_where", "divide_on"):
        if getattr(rule, key) is not None and rule.divide_by is None:
            yield Mistake(key, getattr(rule, key), "divide_by beside it", ("divide_by",))
    for key in ("divide_on", "group_by"):
        names = getattr(rule, key) or ()
        if "" in names or "__name__" in names or len(set(names)) < len(names):
            yield Mistake(key, list(names), "names of labels, each one once")
    if rule.divide_on is not None and rule.group_by is not None:
        yield Mistake(
            "divide_on", list(rule.divide_on), "no divide_on beside group_by, which joins the two", ("group_by",)
        )
    if rule.group is not None and rule.group_by is None:
        yield Mistake("group", rule.group, "group_by beside it", ("group_by",))


def _relation(rule: Rule) -> Iterator[Mistake]:
    for key in ("compare_with", "forecast"):
        value = getattr(rule, key)
        if value is not None and rule.aggregate in ("change", "change_percent", "age"):
            yield Mistake(key, value, f'no {key} for aggregate = "{rule.aggregate}"', ("aggregate",))
    if rule.divide_by is not None and rule.aggregate == "age":
        yield Mistake("divide_by", rule.divide_by, 'no divide_by for aggregate = "age"', ("aggregate",))
    if rule.compare_with is not None and rule.forecast is not None:
        yield Mistake("forecast", rule.forecast, "no forecast beside compare_with", ("compare_with",))


def _templates(rule: Rule) -> Iterator[Mistake]:
    known = None if rule.group_by is None else {*rule.group_by, *rule.match}
    yield from _template("summary", rule.summary, known, NUMBERS)
    for name, template in rule.annotations.items():
        key = f"annotations.{name}"
        if not name.isidentifier():
            yield Mistake(key, name, "a name of letters, digits and underscores")
        yield from _template(key, template, known, NUMBERS)
    for name, template in rule.labels.items():
        key = f"labels.{name}"
        if not name.isidentifier():
            yield Mistake(key, name, "a name of letters, digits and underscores")
        elif known is not None and name in known:
            yield Mistake(key, name, "no label that group_by or match gives already", ("group_by", "match"))
        yield from _template(key, template, known, ())


def _template(key: str, template: str, known: Collection[str] | None, numbers: Collection[str]) -> Iterator[Mistake]:
    """Yield what is wrong with a template; ``known``: the labels that there can be, None for any."""
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError:
        fields = [("", "", "", None)]
    for _, name, number_format, conversion in fields:
        if not name or not name.isidentifier() or conversion is not None:
            braces = "{label} placeholders; {{ and }} for braces"
            yield Mistake(key, template, f"a text with {'{value} and ' if numbers else ''}{braces}")
        elif name in NUMBERS:
            if name not in numbers:
                # An alert is told apart from others by its labels.
                yield Mistake(key, template, f"no {{{name}}} in a label, or it would change with every value")
            elif not _is_format(number_format or ""):
                yield Mistake(key, template, f'a format of numbers such as "{{{name}:.1f}}"')
        elif number_format:
            yield Mistake(key, template, f"no format for {{{name}}}, which is a text")
        elif known is not None and name not in known and name not in TEXTS:
            allowed = f"labels of group_by and match in braces: {', '.join(sorted(known)) or 'there are none'}"
            yield Mistake(key, template, allowed, ("group_by", "match"))


def _is_format(text: str) -> bool:
    try:
        format(1.0, text)
    except ValueError:
        return False
    return True
