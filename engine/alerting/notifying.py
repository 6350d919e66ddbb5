"""Who is told of alerts, when and how: everything that the configuration says about that, replaced as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.alerting.groups import Grouping
from engine.alerting.holding import NEVER, Flapping
from engine.alerting.routing import Router
from engine.alerting.steps import Steps
from engine.config import Config, Inhibition


@dataclass(frozen=True, slots=True)
class Notifying:
    """``router``: which channels an alert takes.  By channel: ``budgets``, most notifications within an hour;
    ``groupings``; ``digests_ns`` and ``heartbeats_ns``, intervals.  ``base_url``: what links begin with, or empty."""

    router: Router
    inhibitions: tuple[Inhibition, ...] = ()
    flapping: Flapping = NEVER
    steps: Steps = field(default_factory=lambda: Steps(()))
    budgets: Mapping[str, int] = field(default_factory=dict)
    groupings: Mapping[str, Grouping] = field(default_factory=dict)
    digests_ns: Mapping[str, int] = field(default_factory=dict)
    heartbeats_ns: Mapping[str, int] = field(default_factory=dict)
    base_url: str = ""

    @staticmethod
    def configured(config: Config) -> Notifying:
        """Return what ``config`` says."""
        channels = {channel.name: channel for channel in config.channels}
        return Notifying(
            router=Router(config.effective_routes, tuple(channels)),
            inhibitions=config.inhibit,
            flapping=Flapping(config.watch.flap_changes, config.watch.flap_window),
            steps=Steps(config.effective_escalation),
            budgets={name: each.budget for name, each in channels.items() if each.budget is not None},
            groupings={
                name: Grouping(each.group_by, each.group_wait, each.group_interval, each.group_repeat)
                for name, each in channels.items()
                if each.group_by is not None
            },
            digests_ns={name: int(each.digest) for name, each in channels.items() if each.digest is not None},
            heartbeats_ns={name: int(each.heartbeat) for name, each in channels.items() if each.heartbeat is not None},
            base_url=(config.server.public_url or "").rstrip("/"),
        )
