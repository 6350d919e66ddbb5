"""Templates of labels and annotations: ``{{ $labels.host }}`` becomes ``{host}``, ``{{ $value }}`` ``{value}``."""

from __future__ import annotations

import re

from api.promrules.expressions import Unsupported

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_LABEL = re.compile(r"(?:\$labels|\.Labels)\.([A-Za-z_]\w*)|index \$labels [\"']([A-Za-z_]\w*)[\"']")
_VALUE = r"(?:\$value|\.Value)"
_PRINTF = re.compile(
    rf"(?:printf\s+[\"']%(\.\d+)?([fgev])(%%)?[\"']\s+{_VALUE}"
    rf"|{_VALUE}\s*\|\s*printf\s+[\"']%(\.\d+)?([fgev])(%%)?[\"'])"
)
_FORMATS = {"": "{value}", "humanize": "{value}", "humanize1024": "{value}", "humanizePercentage": "{value:.2%}"}


def converted(text: str) -> str:
    """Return a template of ours that says the same.  Raises Unsupported for what has no counterpart."""
    parts: list[str] = []
    at = 0
    for action in _ACTION.finditer(text):
        parts += (_literal(text[at : action.start()]), _placeholder(action[1]))
        at = action.end()
    parts.append(_literal(text[at:]))
    return "".join(parts).strip()


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _placeholder(action: str) -> str:
    label = _LABEL.fullmatch(action)
    if label is not None:
        return f"{{{label[1] or label[2]}}}"
    value = re.fullmatch(rf"{_VALUE}(?:\s*\|\s*(\w+))?", action)
    if value is not None and (value[1] or "") in _FORMATS:
        return _FORMATS[value[1] or ""]
    swapped = re.fullmatch(rf"(\w+)\s+{_VALUE}", action)
    if swapped is not None and swapped[1] in _FORMATS:
        return _FORMATS[swapped[1]]
    printed = _PRINTF.fullmatch(action)
    if printed is not None:
        digits, kind = (printed[1], printed[2]) if printed[2] else (printed[4], printed[5])
        percent = "%" if printed[3] or printed[6] else ""
        return f"{{value:{digits or ''}{'g' if kind == 'v' else kind}}}{percent}"
    raise Unsupported(f"the template action {{{{ {action} }}}} is not supported")
