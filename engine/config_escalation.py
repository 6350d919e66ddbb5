"""Who is told more, and who less: the steps of an escalation, and alerts that others explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from engine.config_base import Category, Name, Settings, Severity, Wait
from engine.config_channels import Channel, ChannelType
from engine.config_units import Duration


class Escalation(Settings, frozen=True, kw_only=True):
    """One step.  It concerns alerts of ``category`` and ``severity``, of every one for None.

    ``after``: counted from the first notification, without the time during which the alert was acknowledged.
    """

    name: Name
    after: Wait
    channels: Annotated[tuple[str, ...], Meta(min_length=1)]
    category: Category | None = None
    severity: Severity | None = None


class Inhibition(Settings, frozen=True, kw_only=True):
    """While an alert with the labels ``source`` fires, those with the labels ``target`` notify nobody.

    Both must have the same values of the labels ``equal``.  ``rule``, ``severity`` and ``category`` count as
    labels.
    """

    name: Name
    source: dict[str, str]
    target: dict[str, str]
    equal: tuple[str, ...] = ()


# Business and custom alerts have none.
_DEFAULTS: tuple[tuple[str, Category, Severity | None, str, tuple[ChannelType, ...]], ...] = (
    ("system-critical", "system", "critical", "5m", ("slack", "email", "sms")),
    ("performance", "performance", None, "15m", ("slack", "email")),
    ("security", "security", None, "0s", ("slack", "email", "sms")),
    ("integration", "integration", None, "10m", ("slack", "email")),
)


def default_escalation(channels: Sequence[Channel]) -> tuple[Escalation, ...]:
    """Return the built-in steps, each to those of ``channels`` that have its types; none without such channels."""
    steps: list[Escalation] = []
    for name, category, severity, after, types in _DEFAULTS:
        reached = tuple(channel.name for channel in channels if channel.type in types)
        if reached:
            steps.append(
                Escalation(
                    name=name, after=Duration.parse(after), channels=reached, category=category, severity=severity
                )
            )
    return tuple(steps)
