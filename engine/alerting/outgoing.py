"""The outbox as one transaction writes it: notifications under their keys, budgets, digests, signs of life."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from engine.alerting.alerts import DIGEST, GROUP, HEARTBEAT, content_body
from engine.alerting.budgets import Budgets
from engine.alerting.digests import digest_content
from engine.alerting.holding import Read
from engine.alerting.notifying import Notifying
from engine.alerting.writes import Writes

_DELIVERY_DIGITS = 32
#: So many kinds of withheld notifications are named when they are summed up.
DIGEST_LINES = 10
#: Where all alerts of a group's message, and all that fire, are listed.
GROUP_LIST, FIRING_LIST = "/v1/notifications/{number}", "/v1/alerts?state=firing&limit=10000"


class Outgoing:
    """Writes through ``writes`` and reads by ``read`` within an open transaction, as of ``now_ns``.

    ``instance``: identity of the database, which makes the keys of two servers differ.  ``notifying``: has the budgets
    of channels and what links begin with.
    """

    def __init__(self, read: Read, writes: Writes, instance: str, notifying: Notifying, now_ns: int) -> None:
        self._read, self._writes, self._instance, self._now_ns = read, writes, instance, now_ns
        self._budgets, self._base_url = Budgets(read, notifying.budgets, now_ns), notifying.base_url

    def has_room(self, channel: str) -> bool:
        """Return whether the channel's budget allows for another notification about alerts."""
        return not self._budgets.used_up(channel)

    def put(
        self,
        channel: str,
        event: str,
        content: Mapping[str, Any],
        *,
        key: str,
        alert_id: int | None = None,
        group_id: int | None = None,
        list_path: str | None = None,
    ) -> int:
        """Put a notification into the outbox and return its number.

        ``content``: see :func:`engine.alerting.alerts.content_body`.  ``list_path``: where everything that it tells of
        is listed, with ``{number}`` for its own number.  ``key``: tells it from all others that
        the channel is sent as of the same time.
        """
        text = f"{self._instance}\0{key}\0{self._now_ns}\0{channel}"
        delivery = hashlib.sha256(text.encode()).hexdigest()[:_DELIVERY_DIGITS]
        number = self._writes.number("notifications")
        if list_path is not None:
            content = {**content, "list": self._base_url + list_path.format(number=number)}
        body = content_body(event, content, delivery=delivery, channel=channel)
        if alert_id is not None or group_id is not None:
            self._budgets.spend(channel)
        self._writes.add(
            *("notifications", number, delivery, channel, alert_id, group_id, event, body, self._now_ns, self._now_ns)
        )
        return number

    def put_group(self, channel: str, group_id: int, content: Mapping[str, Any]) -> int:
        """Put the message of a group into the outbox and return its number."""
        return self.put(channel, GROUP, content, key=f"{GROUP}\0{group_id}", group_id=group_id, list_path=GROUP_LIST)

    def withhold(self, channel: str, rule: str, event: str) -> None:
        """Take note of a notification that the budget does not allow for; the first time the channel is told so."""
        if self._budgets.begins_to_withhold(channel):
            most = self._budgets.most(channel)
            self._say(channel, DIGEST, f"{most} notifications within an hour are the budget; what follows is summed up")
        self._writes.add("withheld", channel, rule, event)

    def sum_up(self, channel: str) -> None:
        """Sum up what the budget of ``channel`` has withheld, once there is room again."""
        if not self.has_room(channel):
            return
        rows = self._read(
            "SELECT rule, event, count(*) FROM withheld WHERE channel = ? GROUP BY rule, event ORDER BY 3 DESC, 1, 2",
            (channel,),
        )
        if not rows:
            return
        shown = ", ".join(f"{count} x {rule} {event}" for rule, event, count in rows[:DIGEST_LINES])
        more = f" and {len(rows) - DIGEST_LINES} other kinds" if len(rows) > DIGEST_LINES else ""
        self._writes.execute("DELETE FROM withheld WHERE channel = ?", (channel,))
        self._say(channel, DIGEST, f"{sum(count for *_, count in rows)} notifications were withheld: {shown}{more}")

    def send_digest(self, channel: str) -> None:
        """Send what has happened since the channel's last digest; the first time only note that it begins here."""
        last = self._read("SELECT sent_ns, event_id FROM digests WHERE channel = ?", (channel,))
        if last:
            ((since_ns, since_event),) = last
            content = digest_content(self._read, since_event, since_ns, self._now_ns)
            self.put(channel, DIGEST, content, key=f"{DIGEST}\0{since_event}\0{since_ns}", list_path=FIRING_LIST)
        ((newest,),) = self._read("SELECT coalesce(max(id), 0) FROM alert_events", ())
        self._writes.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (channel, self._now_ns, newest))

    def beat(self, channel: str, message: str) -> None:
        """Put a heartbeat for ``channel`` into the outbox in place of the last one, delivered or not."""
        self._writes.execute("DELETE FROM notifications WHERE channel = ? AND event = ?", (channel, HEARTBEAT))
        self._say(channel, HEARTBEAT, message)

    def _say(self, channel: str, event: str, message: str) -> None:
        ((number,),) = self._read("SELECT coalesce(max(id), 0) FROM notifications", ())
        self.put(channel, event, {"alert": None, "message": message}, key=f"{event}\0{number}")
