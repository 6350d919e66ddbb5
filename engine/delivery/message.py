"""A notification in words: the templates of channels that people read, filled in from the notification's JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: What a message says where its channel has no ``text``, by the channel's type.
DEFAULT_TEXTS = {
    "slack": "*{event}* {summary}\n{severity} {category} | {rule} | {labels}\nsince {started_at}",
    "email": (
        "{summary}\n\n{event}: {rule} ({severity}, {category})\n{labels}\nvalue {value}, threshold {threshold}\n"
        "started {started_at}, fired {fired_at}, resolved {resolved_at}\nalert {id}, delivery {delivery}\n"
    ),
    "sms": "{event}: {summary} [{severity}]",
    "apprise": "{rule} ({severity}, {category})\n{labels}\nvalue {value}, threshold {threshold}\nsince {started_at}",
}
#: The same for a message about a group of alerts, where its channel has no ``group_text``.
DEFAULT_GROUP_TEXTS = {
    "slack": "*{event}* {summary}\n{alerts}",
    "email": "{summary}\n\n{alerts}\n\ndelivery {delivery}\n",
    "sms": "{summary}",
    "apprise": "{alerts}",
}
#: ``{alerts}`` has so many lines; how many alerts more there are is said in another one.
MOST_LINES = 25
#: What stands for a field that there is not.
NOTHING = "-"
_ALONE = "{event}: {summary}"
_ALERT_FIELDS = (
    *("id", "rule", "severity", "category", "state", "value", "threshold", "summary"),
    *("started_at", "fired_at", "resolved_at"),
)


class Message:
    """The fields of one notification.

    Beside those of the alert, its annotations, its labels and all of them as ``labels``, there are ``event``,
    ``channel`` and ``delivery``, the key that stays the same at every attempt.  Of a group there are its labels,
    ``summary``, ``total``, ``firing``, ``list``, where all are listed, and ``alerts``, a line for each of the first.  A
    label with the name of a field is only in ``labels``.  Control characters become spaces: a label's value cannot add
    a line or a header.
    """

    def __init__(self, body: bytes) -> None:
        notification: dict[str, Any] = json.loads(body)
        alert: Mapping[str, Any] | None = notification.get("alert")
        group: Mapping[str, str] | None = notification.get("group")
        self.about_alert, self.about_group = alert is not None, group is not None
        known = alert or {"summary": notification.get("message", ""), "labels": group or {}}
        labels: Mapping[str, str] = known.get("labels", {})
        values: dict[str, Any] = {**known.get("annotations", {}), **labels}
        values |= {name: known.get(name) for name in _ALERT_FIELDS}
        values["labels"] = _labels_text(labels)
        values |= {name: notification.get(name) for name in ("event", "channel", "delivery")}
        if group is not None:
            values |= {name: notification[name] for name in ("total", "firing")}
            # Of a message that an earlier version has made there is no list.
            values["list"] = _asked(notification.get("list"))
        self.fields = {name: _clean(value) for name, value in values.items()}
        if group is not None:
            self.fields["alerts"] = _lines(notification["alerts"], notification["total"], self.fields["list"])

    def fill(
        self, template: str | None, kind: str, *, group_template: str | None = None, escape: Callable[[str], str] = str
    ) -> str:
        """Return ``template``, or the default text of ``kind``, filled in; ``escape`` is for the values alone.

        ``group_template``: in place of it for a group.  A field that there is not reads "(no field)", with its
        name.  A notification that is about neither has no use for a template and says its sentence.
        """
        if self.about_group:
            template = DEFAULT_GROUP_TEXTS[kind] if group_template is None else group_template
        elif not self.about_alert:
            template = _ALONE
        return self._filled(DEFAULT_TEXTS[kind] if template is None else template, escape, {})

    def subject(self, template: str) -> str:
        """Return the subject of a mail."""
        return self._filled(template if self.about_alert or self.about_group else _ALONE, str, {})

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


def _labels_text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _asked(address: str | None) -> str | None:
    """Return an address as a link, a path as what to ask the server."""
    return f"GET {address}" if address is not None and address.startswith("/") else address


def _lines(alerts: Sequence[Mapping[str, Any]], total: int, listed_at: str) -> str:
    """Return a line for each of the first alerts of a group: what it is told to have done, and its sentence."""
    shown = alerts[:MOST_LINES]
    lines = []
    for alert in shown:
        what = ", ".join(alert["events"]) or f"still {alert['state']}"
        lines.append(_clean(f"{what}: {alert['summary']} [{alert['severity']}] {_labels_text(alert['labels'])}"))
    if total > len(shown):
        lines.append(f"and {total - len(shown)} more" + ("" if listed_at == NOTHING else f": {listed_at}"))
    return "\n".join(lines)


def _clean(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float):
        value = f"{value:.6g}"
    return "".join(character if character.isprintable() else " " for character in str(value))
