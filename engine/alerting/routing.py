"""Which channels an alert takes: the first route that accepts it, or every channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from engine.clock import NS_PER_SECOND
from engine.config import Route, Rule
from engine.model.matchers import Matcher, parse_matchers
from engine.model.weektimes import WeekTimes


@dataclass(frozen=True, slots=True)
class _Compiled:
    route: Route
    matchers: tuple[Matcher, ...]
    times: tuple[WeekTimes, ...]
    zone: ZoneInfo

    def accepts(self, values: Mapping[str, str], now_ns: int) -> bool:
        route = self.route
        return (
            (not route.severity or values["severity"] in route.severity)
            and (not route.category or values["category"] in route.category)
            and all(matcher.accepts(values.get(matcher.label, "")) for matcher in self.matchers)
            and (not self.times or self._in_time(now_ns))
        )

    def _in_time(self, now_ns: int) -> bool:
        local = datetime.fromtimestamp(now_ns // NS_PER_SECOND, self.zone)
        return any(times.covers(local.weekday(), local.hour * 60 + local.minute) for times in self.times)


class Router:
    """``routes``: in the order in which they are asked.  ``everything``: the channels where none accepts an alert."""

    def __init__(self, routes: Sequence[Route], everything: Sequence[str]) -> None:
        self._routes = [
            _Compiled(
                route,
                parse_matchers(route.match),
                tuple(WeekTimes.parse(text) for text in route.times),
                ZoneInfo(route.timezone),
            )
            for route in routes
        ]
        self._everything = tuple(everything)

    def routes_of(self, values: Mapping[str, str], now_ns: int) -> list[Route]:
        """Return the routes that an alert takes at ``now_ns``; none where no route accepts it.

        ``values``: its labels, with ``rule``, ``severity`` and ``category``.
        """
        taken: list[Route] = []
        for each in self._routes:
            if each.accepts(values, now_ns):
                taken.append(each.route)
                if not each.route.continue_:
                    break
        return taken

    def channels_of(self, rule: Rule, labels: Mapping[str, str], now_ns: int) -> tuple[str, ...]:
        """Return the channels of an alert that fires now, each once: those of its rule, of its routes, or all."""
        if rule.channels:
            return rule.channels
        if not self._routes:
            return self._everything
        values = {**labels, "rule": rule.name, "severity": rule.severity, "category": rule.category}
        taken = self.routes_of(values, now_ns)
        if not taken:
            return self._everything
        return tuple(dict.fromkeys(channel for route in taken for channel in route.channels))
