"""What each rule in force looks at, on disk: a start notices what the configuration has changed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.catalog.control import ControlDatabase
from engine.config import Rule


def looks_at(rule: Rule) -> str:
    """Return as text what decides for which series or groups a rule has alerts."""
    return json.dumps([rule.metric, sorted(rule.match.items()), rule.where, rule.group_by])


class RulesInForce:
    """The rules that were last in force in one control database."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def moved(self, rules: Sequence[Rule]) -> set[str]:
        """Return the names of those of ``rules`` that looked at other series or groups when they were last in force."""
        before = self._stored()
        return {rule.name for rule in rules if before.get(rule.name, looks_at(rule)) != looks_at(rule)}

    def remember(self, rules: Sequence[Rule]) -> None:
        """Take note that ``rules`` are in force, and no others."""
        now = {rule.name: looks_at(rule) for rule in rules}
        if now == self._stored():
            return
        with self._control.transaction() as connection:
            connection.execute("DELETE FROM rules_in_force")
            connection.executemany("INSERT INTO rules_in_force (name, looks_at) VALUES (?, ?)", now.items())

    def _stored(self) -> dict[str, str]:
        return dict(self._control.rows("SELECT name, looks_at FROM rules_in_force"))
