"""Delivery of notifications: a job for each channel, which come and go with the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from engine.alerting.watch import Changes
from engine.clock import Clock
from engine.config import Channel
from engine.delivery.outbox import Outbox, Prepared
from engine.maintenance.scheduler import Job, Scheduler
from engine.vitals import Vitals

DELIVER_SECONDS = 0.5
GIVE_UP_SECONDS = 5.0


class Deliverer:
    """Delivers what waits in the ``outbox``."""

    def __init__(self, outbox: Outbox, *, vitals: Vitals, clock: Clock) -> None:
        self._outbox, self._vitals, self._clock = outbox, vitals, clock
        self._scheduler: Scheduler | None = None

    def start(self, scheduler: Scheduler) -> None:
        """Begin to deliver."""
        self._scheduler = scheduler
        # Where no channel is left no delivery would find what waits for those that there were.
        scheduler.start(Job("undeliverable", GIVE_UP_SECONDS, self.give_up))
        for channel in self._outbox.channels:
            self._start(channel)

    def _start(self, channel: str) -> None:
        if self._scheduler is not None:
            self._scheduler.start(Job(f"deliver-{channel}", DELIVER_SECONDS, partial(self.deliver, channel)))

    def deliver(self, channel: str) -> None:
        """Deliver what is due to one channel."""
        delivered = self._outbox.deliver_due(self._clock.now_ns(), channel)
        self._vitals.notifications.labels("delivered").inc(delivered)
        self._count_given_up()

    def give_up(self) -> dict[str, int]:
        """Give up what waits for channels that are not configured; return how many of each."""
        given_up = self._outbox.give_up_unknown(self._clock.now_ns())
        self._count_given_up()
        return given_up

    def _count_given_up(self) -> None:
        self._vitals.notifications.labels("no_channel").inc(self._outbox.take_given_up())

    def prepare(self, channels: Mapping[str, Channel]) -> dict[str, Prepared]:
        """Return what :meth:`take_up` takes; raises BadConfig with every channel that cannot be sent to."""
        return self._outbox.prepare(channels)

    def take_up(self, prepared: dict[str, Prepared]) -> Changes:
        """Deliver to these channels from now on."""
        before, after = self._outbox.configured, {name: each.channel for name, each in prepared.items()}
        changes = Changes.between(before, after)
        self._outbox.take_up(prepared)
        for channel in changes.removed:
            if self._scheduler is not None:
                self._scheduler.stop(f"deliver-{channel}")
        for channel in changes.added:
            self._start(channel)
        return changes
