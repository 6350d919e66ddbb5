"""Label matchers: ``host="a",region=~"us-.*"``, with the meaning Prometheus gives them.

A label that a series does not have equals the empty string; regular expressions are anchored at both ends
(Prometheus, "Querying basics", time series selectors).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from engine.errors import BadRequest

Operator = Literal["=", "!=", "=~", "!~"]
_MATCHER = re.compile(r'\s*(?P<label>[^=!~,"\s{}]+)\s*(?P<operator>=~|!~|!=|=)\s*"(?P<value>(?:[^"\\]|\\.)*)"\s*')
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_ESCAPED = {meant: f"\\{written}" for written, meant in _ESCAPES.items()}
_SPECIAL = re.compile(r"[^\w :/,;=@%&~'\"|-]")
MAX_PATTERN_LENGTH = 1_000


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label."""

    label: str
    operator: Operator
    value: str
    pattern: re.Pattern[str] | None = field(default=None, compare=False, repr=False)
    #: The values that a pattern without special characters, ``a|b|c``, stands for.
    texts: frozenset[str] | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(label: str, operator: str, value: str) -> Matcher:
        """Build a matcher; raises BadRequest for an unknown operator or an unusable regular expression."""
        if operator not in ("=", "!=", "=~", "!~"):
            raise BadRequest(f"cannot match label {label!r}: got operator {operator!r}, want one of = != =~ !~")
        pattern = None
        if operator in ("=~", "!~"):
            if len(value) > MAX_PATTERN_LENGTH:
                raise BadRequest(
                    f"cannot match label {label!r}: the pattern has {len(value)} characters,"
                    f" want at most {MAX_PATTERN_LENGTH}"
                )
            if not _SPECIAL.search(value):
                # Compiling takes longer than most queries, and is not needed for these.
                texts = frozenset(value.split("|"))
                return Matcher(label, cast(Operator, operator), value, None, texts)
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise BadRequest(f"cannot match label {label!r}: {value!r} is no regular expression: {error}") from None
        return Matcher(label, cast(Operator, operator), value, pattern)

    def wanted_texts(self) -> frozenset[str] | None:
        """Return the values of which a selected series has one, None where they cannot be listed."""
        if self.operator == "=":
            return frozenset((self.value,))
        return self.texts if self.operator == "=~" else None

    @property
    def text(self) -> str:
        """The matcher as :func:`parse_matchers` reads it."""
        value = "".join(_ESCAPED.get(character, character) for character in self.value)
        return f'{self.label}{self.operator}"{value}"'

    def accepts(self, value: str) -> bool:
        """Tell whether a series whose label has ``value`` (empty when it has no such label) is selected."""
        if self.texts is not None:
            return (value in self.texts) == (self.operator == "=~")
        if self.pattern is not None:
            found = self.pattern.fullmatch(value) is not None
            return found if self.operator == "=~" else not found
        return (value == self.value) if self.operator == "=" else (value != self.value)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Parse comma-separated matchers, with or without surrounding braces; raises BadRequest naming the place."""
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1].strip()
    matchers: list[Matcher] = []
    at = 0
    while at < len(body):
        found = _MATCHER.match(body, at)
        if found is None:
            raise BadRequest(
                f'cannot read matcher at character {at + 1} of {text!r}: want label="value", with = != =~ or !~'
            )
        value = found["value"]
        if "\\" in value:
            value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape.group(1), escape.group(0)), value)
        matchers.append(Matcher.of(found["label"], found["operator"], value))
        at = found.end()
        if at < len(body):
            if body[at] != ",":
                raise BadRequest(f"cannot read matchers {text!r}: want a comma at character {at + 1}, got {body[at]!r}")
            at += 1
    return tuple(matchers)


def equality_matchers(labels: Mapping[str, str]) -> tuple[Matcher, ...]:
    """Return matchers that want each label to have exactly the given value."""
    return tuple(Matcher.of(label, "=", value) for label, value in sorted(labels.items()))
