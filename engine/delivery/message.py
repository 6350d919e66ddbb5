"""A notification in words: the templates of channels that people read, filled in from the notification's JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from typing import Any

#: What a message says where its channel has no ``text``, by the channel's type.
DEFAULT_TEXTS = {
    "slack": "*{event}* {summary}\n{severity} {category} | {rule} | {labels}\nsince {started_at}",
    "email": (
        "{summary}\n\n{event}: {rule} ({severity}, {category})\n{labels}\nvalue {value}, threshold {threshold}\n"
        "started {started_at}, fired {fired_at}, resolved {resolved_at}\nalert {id}, delivery {delivery}\n"
    ),
    "sms": "{event}: {summary} [{severity}]",
}
_ALONE = "{event}: {summary}"
_ALERT_FIELDS = (
    *("id", "rule", "severity", "category", "state", "value", "threshold", "summary"),
    *("started_at", "fired_at", "resolved_at"),
)


class Message:
    """The fields of one notification.

    Beside those of the alert, its labels and all of them as ``labels``, there are ``event``, ``channel`` and
    ``delivery``, the key that stays the same at every attempt.  A label with the name of a field is only in
    ``labels``.  Control characters become spaces: a label's value cannot add a line or a header.
    """

    def __init__(self, body: bytes) -> None:
        notification: dict[str, Any] = json.loads(body)
        alert: Mapping[str, Any] | None = notification.get("alert")
        self.about_alert = alert is not None
        known = alert or {"summary": notification.get("message", "")}
        labels: Mapping[str, str] = known.get("labels", {})
        values: dict[str, Any] = dict(labels)
        values |= {name: known.get(name) for name in _ALERT_FIELDS}
        values["labels"] = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
        values |= {name: notification.get(name) for name in ("event", "channel", "delivery")}
        self.fields = {name: _clean(value) for name, value in values.items()}

    def fill(self, template: str | None, kind: str, *, escape: Callable[[str], str] = str) -> str:
        """Return ``template``, or the default text of ``kind``, filled in; ``escape`` is for the values alone.

        A field that there is not reads "(no field)", with its name.  A notification that is not about an
        alert has no use for a template and says its sentence.
        """
        if not self.about_alert:
            template = _ALONE
        return self._filled(DEFAULT_TEXTS[kind] if template is None else template, escape, {})

    def fill_payload(self, templates: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
        """Return a payload with its values filled in; ``extra`` fields win over the message's own."""
        return {name: self._filled(template, str, extra) for name, template in templates.items()}

    def _filled(self, template: str, escape: Callable[[str], str], extra: Mapping[str, str]) -> str:
        parts: list[str] = []
        for literal, name, _, _ in string.Formatter().parse(template):
            parts.append(literal)
            if name is not None:
                value = extra[name] if name in extra else self.fields.get(name, f"(no {name})")
                parts.append(escape(value))
        return "".join(parts)


def _clean(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        value = f"{value:.6g}"
    return "".join(character if character.isprintable() else " " for character in str(value))
