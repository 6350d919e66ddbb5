"""How many notifications about alerts a channel has had within the hour, as of one transaction."""

from __future__ import annotations

from collections.abc import Mapping

from engine.alerting.holding import Read
from engine.clock import NS_PER_HOUR


class Budgets:
    """Reads within an open transaction by ``read``, as of ``now_ns``, and counts what it adds.

    ``budgets``: most notifications within an hour, by channel; a channel that is not there has no limit.
    """

    def __init__(self, read: Read, budgets: Mapping[str, int], now_ns: int) -> None:
        self._read, self._budgets, self._now_ns = read, budgets, now_ns
        self._spent: dict[str, int] = {}
        self._withholds: dict[str, bool] = {}

    def most(self, channel: str) -> int | None:
        return self._budgets.get(channel)

    def used_up(self, channel: str) -> bool:
        """Return whether there is no room for another notification."""
        most = self._budgets.get(channel)
        if most is None:
            return False
        if channel not in self._spent:
            ((self._spent[channel],),) = self._read(
                "SELECT count(*) FROM notifications WHERE channel = ? AND created_ns > ? "
                "AND (alert_id IS NOT NULL OR group_id IS NOT NULL)",
                (channel, self._now_ns - NS_PER_HOUR),
            )
        return self._spent[channel] >= most

    def spend(self, channel: str) -> None:
        """Take note of one notification more."""
        if channel in self._spent:
            self._spent[channel] += 1

    def begins_to_withhold(self, channel: str) -> bool:
        """Return whether nothing has been withheld from the channel before; true once."""
        if channel not in self._withholds:
            self._withholds[channel] = bool(self._read("SELECT 1 FROM withheld WHERE channel = ? LIMIT 1", (channel,)))
        begins = not self._withholds[channel]
        self._withholds[channel] = True
        return begins
