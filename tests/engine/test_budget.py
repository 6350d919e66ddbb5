"""Budgets: a channel gets so many notifications an hour, is told that there were more, and then of which kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.test_alert_store import T0, S, Server, rule_of


def said(server: Server, channel: str) -> list[tuple[str, str | None]]:
    rows = server.control.rows("SELECT event, body FROM notifications WHERE channel = ? ORDER BY id", (channel,))
    return [(event, json.loads(body).get("message")) for event, body in rows]


@pytest.mark.parametrize("restart", [False, True])
def test_beyond_the_budget_there_is_one_word_at_once_and_one_digest_later(tmp_path: Path, restart: bool) -> None:
    server = Server(str(tmp_path / "control.db"), [rule_of()], channels=("ops", "all"), budgets={"ops": 3})
    hot = dict.fromkeys(range(5), 95.0)
    server.tick(0, hot)
    used_up = ("digest", "3 notifications within an hour are the budget; what follows is summed up")
    assert said(server, "ops") == [("firing", None)] * 3 + [used_up]
    assert said(server, "all") == [("firing", None)] * 5
    if restart:
        server.restart()
    server.tick(10, dict.fromkeys(range(5), 10.0))
    server.tick(3_599, {})
    assert len(said(server, "ops")) == 4
    if restart:
        server.restart()
    server.tick(3_600, {})
    server.tick(3_605, {})
    assert said(server, "ops")[4:] == [
        ("digest", "7 notifications were withheld: 5 x cpu resolved, 2 x cpu firing"),
    ]
    assert len(said(server, "all")) == 10
    server.tick(3_610, {0: 95.0})
    assert said(server, "ops")[5:] == [("firing", None)]
    keys = [key for (key,) in server.control.rows("SELECT delivery FROM notifications")]
    assert len(keys) == len(set(keys))
    server.control.close()


def test_old_digests_are_forgotten_once_delivered(tmp_path: Path) -> None:
    server = Server(str(tmp_path / "control.db"), [rule_of()], budgets={"ops": 1})
    server.tick(0, {1: 95.0, 2: 95.0})
    server.store.prune(T0 + 10**6 * S)
    assert [event for event, _ in said(server, "ops")] == ["firing", "digest"]
    with server.control.transaction() as connection:
        connection.execute("UPDATE notifications SET delivered_ns = ?", (T0,))
    server.store.prune(T0 + 10**6 * S)
    assert [event for event, _ in said(server, "ops")] == ["firing"]
    server.control.close()
