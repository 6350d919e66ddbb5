"""Which channels an alert takes: the routes of a file, and the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.config_base import Category, Name, Settings, Severity
from engine.config_channels import Channel, ChannelType


class Route(Settings, frozen=True, kw_only=True):
    """Alerts that ``match`` accepts, of these severities and categories and at these times, go to ``channels``.

    ``match``: label matchers, beside the alert's labels over ``rule``, ``severity`` and ``category``.  Empty
    lists take every severity, category and time.  ``times``: of the week, by the clock of ``timezone``.
    ``continue_``: look at the routes after this one as well.
    """

    name: Name
    channels: tuple[str, ...]
    match: str = ""
    severity: tuple[Severity, ...] = ()
    category: tuple[Category, ...] = ()
    times: tuple[str, ...] = ()
    timezone: str = "UTC"
    continue_: bool = msgspec.field(default=False, name="continue")


# What is kept for everybody to look at, or has a reader of its own, is told of everything.
_ALWAYS: tuple[ChannelType, ...] = ("webhook", "apprise", "dashboard")
_DEFAULTS: tuple[tuple[str, tuple[Category, ...], tuple[Severity, ...], tuple[ChannelType, ...]], ...] = (
    ("system-critical", ("system",), ("critical",), ("slack", "email", "sms")),
    ("system", ("system",), (), ("slack", "email")),
    ("performance", ("performance",), (), ("slack", "email")),
    ("security", ("security",), (), ("slack", "email", "sms")),
    ("integration", ("integration",), (), ("slack", "email")),
    ("business", ("business",), (), ("slack",)),
)


def default_routes(channels: Sequence[Channel]) -> tuple[Route, ...]:
    """Return the built-in routes to those of ``channels`` that have their types; none to no channel."""
    routes: list[Route] = []
    for name, categories, severities, types in _DEFAULTS:
        reached = tuple(channel.name for channel in channels if channel.type in (*types, *_ALWAYS))
        if reached:
            routes.append(Route(name=name, channels=reached, category=categories, severity=severities))
    return tuple(routes)
