"""Notifications that wait in the control database, until each has been delivered or given up.

Whoever has something to tell puts a row into the outbox in the transaction of the event itself.  From there
it is delivered at least once: the receiver's answer and the note of it cannot be one atomic step, so a crash
in between sends the same notification again, under the same key.  Those of one alert, and the messages of one
group, come in order.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.delivery.attempt import Attempt, Sender
from engine.delivery.dashboard import DashboardSender
from engine.delivery.senders import sender_of
from engine.errors import BadConfig, BadRequest, NotFound

LOG = logging.getLogger("tidegauge")

NOT_CONFIGURED = "the channel is not configured"
WAITING = "waiting"
DELIVERED = "delivered"
DEAD = "dead"
STATES = (WAITING, DELIVERED, DEAD)

DEFAULT_LIST_LIMIT = 1_000
BATCH = 100

_CONDITIONS = {
    WAITING: "delivered_ns IS NULL AND dead_ns IS NULL",
    DELIVERED: "delivered_ns IS NOT NULL",
    DEAD: "dead_ns IS NOT NULL",
}
_STORED = (
    "id, delivery, channel, alert_id, event, created_ns, attempts, next_attempt_ns, last_attempt_ns, "
    "last_status, last_error, delivered_ns, dead_ns"
)


@dataclass(frozen=True, slots=True)
class Retries:
    """When to try again: waits double from ``first_ns`` to ``longest_ns``, each up to half shorter at random.

    After ``attempts`` failures a notification is given up.  The defaults spread 25 attempts over about two
    hours, the first four retries over the first half minute.
    """

    first_ns: int = 2 * NS_PER_SECOND
    longest_ns: int = 600 * NS_PER_SECOND
    attempts: int = 25

    def wait_ns(self, failures: int, share: float) -> int:
        """Return how long to wait after ``failures`` failures; ``share`` in [0, 1) is the random part."""
        longest = min(self.longest_ns, self.first_ns << min(failures - 1, 62))
        return longest - int(longest * share / 2)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A channel as it is configured, what sends to it, and the lock of whoever sends."""

    channel: Channel
    sender: Sender
    lock: threading.Lock


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification for one channel, without its body."""

    id: int
    delivery: str
    channel: str
    alert_id: int | None
    event: str
    created_ns: int
    attempts: int
    next_attempt_ns: int
    last_attempt_ns: int | None
    last_status: int | None
    last_error: str | None
    delivered_ns: int | None
    dead_ns: int | None

    @property
    def state(self) -> str:
        if self.delivered_ns is not None:
            return DELIVERED
        return WAITING if self.dead_ns is None else DEAD


class Outbox:
    """The outbox of one control database and the senders of its ``channels``, by name.

    ``share``: where the jitter comes from, numbers in [0, 1).  ``sender``: what makes a sender of a channel.
    Methods may be called from any thread; two calls never send to one channel at the same time.  Raises
    BadConfig for a channel that cannot be sent to.
    """

    def __init__(
        self,
        control: ControlDatabase,
        channels: Mapping[str, Channel],
        *,
        share: Callable[[], float] = random.random,
        retries: Retries = Retries(),
        sender: Callable[[Channel], Sender] = sender_of,
    ) -> None:
        self._control = control
        self._share = share
        self._retries = retries
        self._sender = sender
        self._channels: dict[str, Prepared] = {}
        self._unnoted: dict[int, Attempt] = {}
        self._counting = threading.Lock()
        self._given_up = 0
        #: Held while channels are exchanged: what is told to new ones meanwhile is not given up.
        self.exchange = threading.Lock()
        self.take_up(self.prepare(channels))

    def prepare(self, channels: Mapping[str, Channel]) -> dict[str, Prepared]:
        """Return what :meth:`take_up` takes: what sends to each of ``channels``, as before where it is the same.

        Raises BadConfig with every channel that cannot be sent to.
        """
        prepared: dict[str, Prepared] = {}
        problems: list[str] = []
        for name, channel in channels.items():
            known = self._channels.get(name)
            if known is not None and known.channel == channel:
                prepared[name] = known
                continue
            try:
                dashboard = channel.type == "dashboard"
                made = DashboardSender(self._control, channel) if dashboard else self._sender(channel)
            except BadConfig as error:
                problems += error.problems or [error.message]
            else:
                # The lock stays: two sends to one channel never overlap.
                prepared[name] = Prepared(channel, made, threading.Lock() if known is None else known.lock)
        if problems:
            raise BadConfig(f"cannot use the channels: {'; '.join(problems)}", problems)
        return prepared

    def take_up(self, prepared: dict[str, Prepared]) -> None:
        """Send to these channels from now on; what waits for one that has changed goes as it says now."""
        self._channels = prepared

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self._channels)

    @property
    def configured(self) -> dict[str, Channel]:
        return {name: each.channel for name, each in self._channels.items()}

    def deliver_due(self, now_ns: int, channel: str | None = None) -> int:
        """Try what is due by ``now_ns``, at most a batch for each channel; return how many were delivered.

        ``channel``: only this one.  A channel that fails is left alone until the next call, so one that does
        not answer costs one timeout; give each channel a thread of its own, or the others wait for it.
        """
        self.give_up_unknown(now_ns)
        names = self.channels if channel is None else (channel,)
        return sum(self._deliver_to(name, now_ns) for name in names)

    def _deliver_to(self, channel: str, now_ns: int) -> int:
        delivered = 0
        known = self._channels.get(channel)
        if known is None:
            return 0
        with known.lock:
            for notification_id, delivery, body, attempts in self._due(channel, now_ns):
                attempt = self._unnoted.get(notification_id)
                if attempt is None:
                    attempt = known.sender.send(delivery, body.encode(), now_ns)
                # While the disk is full, say, what has been answered must not be sent again and again.
                self._unnoted[notification_id] = attempt
                self._note(notification_id, attempts + 1, attempt, now_ns)
                del self._unnoted[notification_id]
                if not attempt.delivered:
                    break
                delivered += 1
        return delivered

    def _due(self, channel: str, now_ns: int) -> list[tuple[Any, ...]]:
        # What an alert, or a group, has told the channel before goes first, however long that takes.
        waiting = (
            "earlier.channel = this.channel AND earlier.id < this.id "
            "AND earlier.delivered_ns IS NULL AND earlier.dead_ns IS NULL"
        )
        # CROSS JOIN fixes the order: the few rows of one message or one alert first.
        told = "notification_alerts AS told CROSS JOIN notifications AS earlier"
        before = [
            f"SELECT 1 FROM notifications AS earlier WHERE {waiting} AND earlier.alert_id = this.alert_id",
            f"SELECT 1 FROM notifications AS earlier WHERE {waiting} AND earlier.group_id = this.group_id",
            # A channel has begun to group, or no longer does, while something waits for it.
            f"SELECT 1 FROM {told} ON earlier.alert_id = told.alert_id "
            f"WHERE told.notification_id = this.id AND {waiting}",
            f"SELECT 1 FROM {told} ON earlier.id = told.notification_id "
            f"WHERE told.alert_id = this.alert_id AND {waiting}",
        ]
        return self._control.rows(
            "SELECT id, delivery, body, attempts FROM notifications AS this "
            f"WHERE channel = ? AND {_CONDITIONS[WAITING]} AND next_attempt_ns <= ? "
            + "".join(f"AND NOT EXISTS ({statement}) " for statement in before)
            + "ORDER BY id LIMIT ?",
            (channel, now_ns, BATCH),
        )

    def _note(self, notification_id: int, attempts: int, attempt: Attempt, now_ns: int) -> None:
        next_ns = now_ns + max(
            self._retries.wait_ns(attempts, self._share()),
            min(attempt.retry_after_ns or 0, self._retries.longest_ns),
        )
        dead = not attempt.delivered and attempts >= self._retries.attempts
        with self._control.transaction() as connection:
            connection.execute(
                "UPDATE notifications SET attempts = ?, next_attempt_ns = ?, last_attempt_ns = ?, "
                "last_status = ?, last_error = ?, delivered_ns = ?, dead_ns = ? WHERE id = ?",
                (
                    attempts,
                    next_ns,
                    now_ns,
                    attempt.status,
                    attempt.error,
                    now_ns if attempt.delivered else None,
                    now_ns if dead else None,
                    notification_id,
                ),
            )

    def give_up_unknown(self, now_ns: int) -> dict[str, int]:
        """Give up what waits for channels that are no longer configured; return how many of each.

        They are dead, not gone: once their channel is back they may be revived.  None while channels are exchanged.
        """
        if not self.exchange.acquire(blocking=False):
            return {}
        try:
            counts = self._give_up_unknown(now_ns)
        finally:
            self.exchange.release()
        for channel, count in counts.items():
            LOG.warning(
                "%d notifications for the channel %r, which is not configured, were given up; GET"
                " /v1/notifications?state=dead&channel=%s lists them, and with the channel back they can be revived",
                count,
                channel,
                channel,
            )
        with self._counting:
            self._given_up += sum(counts.values())
        return counts

    def _give_up_unknown(self, now_ns: int) -> dict[str, int]:
        known = json.dumps(list(self._channels))
        where = f"{_CONDITIONS[WAITING]} AND channel NOT IN (SELECT value FROM json_each(?))"
        if not self._control.rows(f"SELECT 1 FROM notifications WHERE {where} LIMIT 1", (known,)):
            return {}
        with self._control.transaction() as connection:
            found = connection.execute(
                f"SELECT channel, count(*) FROM notifications WHERE {where} GROUP BY channel ORDER BY channel", (known,)
            ).fetchall()
            connection.execute(
                f"UPDATE notifications SET dead_ns = ?, last_error = ? WHERE {where}", (now_ns, NOT_CONFIGURED, known)
            )
        return dict(found)

    def take_given_up(self) -> int:
        """Return how many were given up for want of their channel since this was last asked."""
        with self._counting:
            count, self._given_up = self._given_up, 0
        return count

    def counts(self) -> dict[str, int]:
        """Return how many notifications are waiting, delivered and dead."""
        columns = ", ".join(f"coalesce(sum({_CONDITIONS[state]}), 0)" for state in STATES)
        (row,) = self._control.rows(f"SELECT {columns} FROM notifications")
        return dict(zip(STATES, row, strict=True))

    def find(
        self,
        *,
        state: str | None = None,
        channel: str | None = None,
        alert_id: int | None = None,
        before_id: int | None = None,
        limit: int = DEFAULT_LIST_LIMIT,
    ) -> list[Notification]:
        """Return notifications, newest first, for which each filter that is given holds.

        Raises BadRequest for a state that does not exist.
        """
        if state is not None and state not in STATES:
            raise BadRequest(f"cannot list notifications: got state {state!r}, want {', '.join(STATES)}")
        conditions = [_CONDITIONS[state]] if state else ["1"]
        parameters: list[Any] = []
        for condition, value in (("channel = ?", channel), ("alert_id = ?", alert_id), ("id < ?", before_id)):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        return self._select(f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*parameters, limit))

    def _select(self, where: str, parameters: Sequence[Any]) -> list[Notification]:
        rows = self._control.rows(f"SELECT {_STORED} FROM notifications {where}", parameters)
        return [Notification(*row) for row in rows]

    def get(self, notification_id: int) -> Notification:
        """Return one notification.  Raises NotFound."""
        found = self._select("WHERE id = ?", (notification_id,))
        if not found:
            raise NotFound(f"cannot show notification {notification_id}: there is no such notification")
        return found[0]

    def body(self, notification_id: int) -> str:
        """Return the JSON text of a notification that there is."""
        ((body,),) = self._control.rows("SELECT body FROM notifications WHERE id = ?", (notification_id,))
        return str(body)

    def alerts_of(self, notification_id: int) -> list[tuple[int, list[str]]]:
        """Return number and told events of every alert that a group's message is about."""
        rows = self._control.rows(
            "SELECT alert_id, events FROM notification_alerts WHERE notification_id = ? ORDER BY alert_id",
            (notification_id,),
        )
        return [(alert_id, events.split(",") if events else []) for alert_id, events in rows]

    def revive(self, notification_id: int, now_ns: int) -> None:
        """Let a dead notification start again, as when its channel has been repaired.

        Raises NotFound for an unknown one, BadRequest for one that is not dead.
        """
        found = self._select("WHERE id = ?", (notification_id,))
        if not found:
            raise NotFound(f"cannot revive notification {notification_id}: there is no such notification")
        if found[0].state != DEAD:
            raise BadRequest(f"cannot revive notification {notification_id}: it is {found[0].state}, want dead")
        with self._control.transaction() as connection:
            connection.execute(
                "UPDATE notifications SET dead_ns = NULL, attempts = 0, next_attempt_ns = ? WHERE id = ?",
                (now_ns, notification_id),
            )
