"""The dashboard's notifications: kept in the control database for whoever looks, the newest of each channel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.control import ControlDatabase
from engine.config import Channel
from engine.delivery.attempt import Attempt


class DashboardSender:
    """Keeps the newest notifications of ``channel``, as many as its ``keep``, each delivery once."""

    def __init__(self, control: ControlDatabase, channel: Channel) -> None:
        self._control, self._channel = control, channel

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        """Keep the notification.  Raises what the database raises: then it waits for the next attempt."""
        name = self._channel.name
        with self._control.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO dashboard (delivery, channel, time_ns, event, body) VALUES (?, ?, ?, ?, ?)",
                (delivery, name, now_ns, json.loads(body)["event"], body.decode()),
            )
            connection.execute(
                "DELETE FROM dashboard WHERE channel = ?1 AND id <= "
                "(SELECT id FROM dashboard WHERE channel = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (name, self._channel.keep),
            )
        return Attempt(True)


def kept_notifications(
    control: ControlDatabase,
    *,
    channel: str | None = None,
    event: str | None = None,
    before_id: int | None = None,
    limit: int = 100,
    caller: Caller = EVERYONE,
) -> list[tuple[int, int, dict[str, Any]]]:
    """Return (number, time in ns, notification) of what dashboards keep, newest first.

    A caller limited to series sees what is about one alert of theirs, and nothing that is about many.
    """
    conditions: list[str] = ["1"]
    parameters: list[Any] = []
    for condition, value in (("channel = ?", channel), ("event = ?", event), ("id < ?", before_id)):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    rows: Sequence[tuple[int, int, str]] = control.rows(
        f"SELECT id, time_ns, body FROM dashboard WHERE {' AND '.join(conditions)} ORDER BY id DESC"
        + ("" if caller.limited else " LIMIT ?"),
        parameters if caller.limited else [*parameters, limit],
    )
    found = [(number, time_ns, json.loads(body)) for number, time_ns, body in rows]
    if caller.limited:
        found = [each for each in found if each[2]["alert"] is not None and caller.sees(each[2]["alert"]["labels"])]
    return found[:limit]
