"""What a rule is given, how a series is named over restarts, and the sentence that an alert says."""

from __future__ import annotations

import hashlib
import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.alerting.states import BoolArray, Float64Array, Int32Array, Int64Array
from engine.config import Rule

_FINGERPRINT_BYTES = 16

#: Tag set number -> its labels, None where there is no such tag set.
LabelsOf = Callable[[int], Mapping[str, str] | None]
#: Gives a group of series the number by which a rule's input will know it.
GroupNumber = Callable[[Mapping[str, str]], int]

COMPARISONS: dict[str, Callable[[Float64Array, float], BoolArray]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}


def breaks(rule: Rule, values: Float64Array) -> BoolArray:
    """Return bool[n]: which values break the rule; NaN never does."""
    return _on_side(rule.op, values, rule.threshold, rule.upper_level)


def holds(rule: Rule, values: Float64Array) -> BoolArray:
    """Return bool[n]: which values keep an alert that fires already; NaN never does."""
    return _on_side(rule.op, values, rule.clear_level, rule.clear_upper_level)


def _on_side(op: str, values: Float64Array, low: float, high: float) -> BoolArray:
    if op == "outside":
        return (values < low) | (values > high)
    if op == "inside":
        return (values >= low) & (values <= high)
    return COMPARISONS[op](values, low)


def level_of(rule: Rule, value: float) -> float:
    """Return the level that ``value`` has crossed: ``upper`` above a band, the threshold elsewhere."""
    return rule.upper_level if rule.op == "outside" and value > rule.upper_level else rule.threshold


@dataclass(frozen=True, slots=True)
class RuleInput:
    """The values a rule judges at one tick, one row for each series that the rule's metric and labels select.

    ``tagset_ids`` int32[n], ascending and distinct; negative ones are groups of series.  ``values`` float64[n]: what
    is compared with the threshold, NaN where there is no value.  ``times`` int64[n]: nanoseconds since 1970 of the
    newest sample behind each value; of no meaning where the value is NaN.  ``alone``: which of some series have had no
    other sample lately, for rules that want to be confirmed; None: none of them.
    """

    tagset_ids: Int32Array
    values: Float64Array
    times: Int64Array
    alone: Callable[[Int32Array], BoolArray] | None = None

    def __post_init__(self) -> None:
        if not len(self.tagset_ids) == len(self.values) == len(self.times):
            raise ValueError(
                f"cannot judge series: got {len(self.tagset_ids)} tag sets, {len(self.values)} values and "
                f"{len(self.times)} times, want as many of each"
            )
        if len(self.tagset_ids) > 1 and not bool((self.tagset_ids[1:] > self.tagset_ids[:-1]).all()):
            raise ValueError("cannot judge series: want tag sets in ascending order, each one once")


def fingerprint(rule_name: str, labels: Mapping[str, str]) -> str:
    """Return 32 hex digits that name a rule and a series, whatever number the series' tag set has."""
    digest = hashlib.sha256()
    for text in (rule_name, *(part for pair in sorted(labels.items()) for part in pair)):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()[:_FINGERPRINT_BYTES].hex()


def number_text(value: float) -> str:
    """Return ``value`` as people read it: at most six significant digits, whole numbers in full."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"


def render_summary(rule: Rule, labels: Mapping[str, str], value: float) -> str:
    """Return the rule's summary with its placeholders filled in.

    They are ``{value}``, ``{threshold}``, ``{metric}``, ``{rule}`` and the series' labels.  A format after a
    colon counts for the two numbers (``{value:.1f}``).  A label that the series does not have reads "(no
    label)", with the label's name.
    """
    return _rendered(rule.summary, rule, labels, {"value": value, "threshold": level_of(rule, value)})


def rule_annotations(rule: Rule, labels: Mapping[str, str], value: float) -> dict[str, str]:
    """Return the rule's annotations with their placeholders filled in like those of the summary."""
    if not rule.annotations:
        return {}
    numbers = {"value": value, "threshold": level_of(rule, value)}
    return {name: _rendered(template, rule, labels, numbers) for name, template in rule.annotations.items()}


def rule_labels(rule: Rule, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that the rule gives to the alert of a series with ``labels``; empty ones are left out."""
    rendered = {name: _rendered(template, rule, labels, {}, absent="") for name, template in rule.labels.items()}
    return {name: text for name, text in rendered.items() if text}


def own_labels(rule: Rule, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of an alert of a group without those that the rule has given it."""
    return {name: text for name, text in labels.items() if name not in rule.labels}


def may_be_of(rule: Rule, subject_id: int, labels: Mapping[str, str]) -> bool:
    """Return whether an alert with this number and these labels can be of what the rule judges, series or groups."""
    if rule.group_by is None:
        return subject_id >= 0
    return subject_id < 0 and own_labels(rule, labels).keys() <= {*rule.group_by, *rule.match}


def _rendered(
    template: str,
    rule: Rule,
    labels: Mapping[str, str],
    numbers: Mapping[str, float],
    *,
    absent: str | None = None,
) -> str:
    texts = {"metric": rule.metric, "rule": rule.name}
    parts: list[str] = []
    for literal, name, number_format, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is None:
            continue
        if name in numbers:
            parts.append(_formatted(numbers[name], number_format or ""))
        elif name in texts:
            parts.append(texts[name])
        else:
            parts.append(labels.get(name, f"(no {name})" if absent is None else absent))
    return "".join(parts)


def _formatted(value: float, number_format: str) -> str:
    if not number_format:
        return number_text(value)
    try:
        return format(value, number_format)
    except ValueError:
        return number_text(value)
