"""Files of Prometheus alerting rules as files of rules of this engine; what cannot be carried over is told by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from api.promrules.conditions import condition_of
from api.promrules.expressions import Unsupported
from api.promrules.templates import converted
from api.promrules.toml import rule_text
from engine.config_rule_files import read_rules
from engine.config_units import Duration
from engine.errors import BadRequest

_SEVERITIES = {
    **dict.fromkeys(("critical", "page", "error", "emergency", "fatal", "high"), "critical"),
    **dict.fromkeys(("warning", "warn", "ticket", "medium"), "warning"),
    **dict.fromkeys(("info", "informational", "none", "low"), "info"),
}
_SENTENCES = ("summary", "message", "description")
_KNOWN = frozenset(("alert", "expr", "for", "keep_firing_for", "labels", "annotations"))


@dataclass(slots=True)
class Imported:
    """``text``: the rules as TOML.  ``left_out``: rules that are not there; ``notes``: how others differ; sentences."""

    text: str = ""
    rules: int = 0
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_rules(text: str, *, path: str, names: dict[str, int]) -> Imported:
    """Return the alerting rules of a Prometheus rule file.

    ``names``: how often each name has been given so far; kept up to date.

    Raises BadRequest when ``text`` is no such file at all.
    """
    imported = Imported()
    blocks: list[str] = []
    for where, rule in _rules(_groups(text, path), imported):
        try:
            settings, notes = _converted(rule)
            settings["name"] = _unique(settings["name"], names, notes)
            block = rule_text(settings, comment=f"{where}: {rule['expr']}")
            problems = read_rules(block, path=path)[1]
            if problems:
                raise Unsupported("; ".join(f"{problem.key}: {problem.message}" for problem in problems))
        except Unsupported as reason:
            imported.left_out.append(f"{where}: {reason}")
        else:
            blocks.append(block)
            imported.notes += [f"{where}: {note}" for note in notes]
    imported.text = "\n".join(blocks)
    imported.rules = len(blocks)
    return imported


def _groups(text: str, path: str) -> list[Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = path if mark is None else f"{path}:{mark.line + 1}"
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise BadRequest(f"cannot import {place}: not valid YAML: {problem}") from None
    if isinstance(document, dict) and isinstance(document.get("spec"), dict):
        # The same groups in a Kubernetes resource, PrometheusRule.
        document = document["spec"]
    groups = document.get("groups") if isinstance(document, dict) else None
    if not isinstance(groups, list):
        raise BadRequest(f"cannot import {path}: want a file of Prometheus rules, which has a list of groups")
    return groups


def _rules(groups: list[Any], imported: Imported) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, group in enumerate(groups, 1):
        name = str(group.get("name", number)) if isinstance(group, dict) else str(number)
        rules = group.get("rules") if isinstance(group, dict) else None
        if not isinstance(rules, list):
            imported.left_out.append(f"group {name}: want a list of rules")
            continue
        if "interval" in group:
            imported.notes.append(f"group {name}: rules are judged every watch.tick, whatever the group's interval")
        for place, rule in enumerate(rules, 1):
            if isinstance(rule, dict) and "alert" in rule:
                where = f"{name}/{rule['alert']}"
                if isinstance(rule.get("expr"), str | int | float):
                    yield where, {**rule, "expr": str(rule["expr"])}
                else:
                    imported.left_out.append(f"{where}: want an expr")
            elif isinstance(rule, dict) and "record" in rule:
                imported.left_out.append(f"{name}/{rule['record']}: recording rules are not supported")
            else:
                imported.left_out.append(f"{name}/{place}: want an alert")


def _unique(name: str, names: dict[str, int], notes: list[str]) -> str:
    names[name] = names.get(name, 0) + 1
    if names[name] == 1:
        return name
    notes.append(f"is called {name}-{names[name]}, as a name may be given only once")
    return _unique(f"{name}-{names[name]}", names, [])


def _converted(rule: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    unknown = sorted(set(rule) - _KNOWN)
    if unknown:
        raise Unsupported(f"{unknown[0]!r} is not supported")
    condition = condition_of(rule["expr"])
    notes = condition.notes
    settings: dict[str, Any] = {"name": str(rule["alert"]), **condition.settings}
    for key, name in (("for", "for"), ("keep_firing_for", "keep_firing")):
        if rule.get(key) not in (None, 0, "0"):
            settings[name] = _duration(rule[key], key)
    if settings.get("aggregate") != "age":
        # There an alert ends when its series does.
        settings["when_missing"] = "ok"
    labels = _texts(rule, "labels")
    severity = labels.pop("severity", None)
    if severity is not None:
        if severity.lower() in _SEVERITIES:
            settings["severity"] = _SEVERITIES[severity.lower()]
        else:
            notes.append(f"severity {severity!r} is none of critical, warning, info: it is a warning")
    made = {name: template for name, text in labels.items() if (template := _template(name, text, settings, notes))}
    if made:
        settings["labels"] = made
    annotations = _texts(rule, "annotations")
    chosen = next((name for name in _SENTENCES if name in annotations), None)
    if chosen is not None:
        template = _template(chosen, annotations.pop(chosen), settings, notes, numbers=True)
        if template:
            settings["summary"] = template
    further = {
        name: template
        for name, text in annotations.items()
        if (template := _template(name, text, settings, notes, numbers=True))
    }
    if further:
        settings["annotations"] = further
    return settings, notes


def _duration(value: object, key: str) -> str:
    try:
        return Duration.parse(str(value)).text
    except ValueError:
        raise Unsupported(f"{key}: got {value!r}, want a length of time") from None


def _texts(rule: dict[str, Any], key: str) -> dict[str, str]:
    found = rule.get(key) or {}
    if not isinstance(found, dict):
        raise Unsupported(f"{key}: want names and texts")
    return {str(name): "" if value is None else str(value) for name, value in found.items()}


def _template(name: str, text: str, settings: dict[str, Any], notes: list[str], *, numbers: bool = False) -> str | None:
    try:
        template = converted(text)
    except Unsupported as reason:
        notes.append(f"{name} is left out: {reason}")
        return None
    if not numbers and re.search(r"(?<!\{)\{(?:value)[:}]", template):
        notes.append(f"{name} is left out: a label with the value would make another alert of each")
        return None
    if "group_by" in settings:
        kept = {*settings["group_by"], *settings.get("match", {}), "value", "threshold", "metric", "rule"}
        lost = [each for each in re.findall(r"(?<!\{)\{(\w+)", template) if each not in kept]
        if lost:
            notes.append(f"{name} is left out: its alerts have no label {lost[0]!r}")
            return None
    return template
