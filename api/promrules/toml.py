"""Rules as text of a TOML file."""

from __future__ import annotations

import json
import re
from typing import Any

_ORDER = ("name", "metric", "match", "where", "op", "threshold", "upper", "severity")


def rule_text(settings: dict[str, Any], *, comment: str = "") -> str:
    """Return a ``[[rules]]`` entry with these settings, under a comment."""
    names = [*(name for name in _ORDER if name in settings), *(name for name in settings if name not in _ORDER)]
    lines = [f"# {_printable(comment)}"] if comment else []
    lines += ["[[rules]]", *(f"{name} = {_value(settings[name])}" for name in names)]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        pairs = [f"{_key(name)} = {_value(each)}" for name, each in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    # A text of JSON is one of TOML too, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _printable(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
