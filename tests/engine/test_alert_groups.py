"""Grouping: one message for many alerts, when it goes, whom it lists, and each event in exactly one of them."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.alerting.groups import MOST_LISTED, Grouping
from engine.alerting.silences import SilenceStore
from engine.config import Channel
from engine.delivery.attempt import Attempt
from engine.delivery.message import MOST_LINES, Message
from engine.delivery.outbox import Outbox
from engine.model.matchers import parse_matchers
from tests.engine.test_alert_store import T0, S, Server, rule_of

BY_RULE = Grouping(("rule",), wait_ns=30 * S, interval_ns=300 * S)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(str(tmp_path / "control.db"), [rule_of()], groupings={"ops": BY_RULE})
    yield running
    running.control.close()


def messages(server: Server) -> list[tuple[int, dict[str, Any]]]:
    """Return when each notification was made, in seconds, and its body."""
    rows = server.control.rows("SELECT created_ns, body FROM notifications ORDER BY id")
    return [((created_ns - T0) // S, json.loads(body)) for created_ns, body in rows]


def told(body: dict[str, Any]) -> list[tuple[int, list[str]]]:
    return [(alert["id"], alert["events"]) for alert in body["alerts"]]


def test_a_group_waits_once_and_then_keeps_its_interval(server: Server) -> None:
    server.tick(0, {1: 95.0})
    assert server.history(1) == [("firing", "notifies ops, with its group")]
    server.tick(20, {1: 95.0, 2: 95.0})
    assert messages(server) == []
    server.tick(30, {1: 95.0, 2: 95.0})
    ((at, body),) = messages(server)
    assert at == 30
    assert told(body) == [(1, ["firing"]), (2, ["firing"])]
    assert (body["event"], body["alert"], body["group"]) == ("group", None, {"rule": "cpu"})
    assert (body["message"], body["total"], body["firing"]) == ("2 alerts fire (rule=cpu)", 2, 2)
    server.tick(40, {1: 5.0, 2: 95.0, 3: 95.0})
    server.tick(329, {1: 5.0, 2: 95.0, 3: 95.0})
    assert len(messages(server)) == 1
    server.tick(330, {2: 95.0, 3: 95.0})
    assert told(messages(server)[1][1]) == [(3, ["firing"]), (1, ["resolved"])]
    assert messages(server)[1][1]["message"] == "1 alert fires, 1 is resolved (rule=cpu)"
    # After a quiet time longer than the interval it is the wait that counts.
    server.tick(1_000, {2: 5.0, 3: 95.0})
    server.tick(1_029, {3: 95.0})
    assert len(messages(server)) == 2
    server.tick(1_030, {3: 95.0})
    assert told(messages(server)[2][1]) == [(2, ["resolved"])]
    assert messages(server)[2][1]["message"] == "1 alert is resolved (rule=cpu)"
    rows = server.control.rows("SELECT notification_id, alert_id, events FROM notification_alerts ORDER BY 1, 2")
    assert rows == [(1, 1, "firing"), (1, 2, "firing"), (2, 1, "resolved"), (2, 3, "firing"), (3, 2, "resolved")]


def test_what_comes_and_goes_before_the_message_is_in_it_once_with_both_events(server: Server) -> None:
    server.tick(0, {1: 95.0})
    server.tick(10, {1: 5.0})
    server.tick(30, {1: 5.0})
    ((_, body),) = messages(server)
    assert told(body) == [(1, ["firing", "resolved"])]
    assert body["alerts"][0]["state"] == "resolved"


def test_labels_that_differ_make_groups_and_a_group_without_alerts_is_forgotten(tmp_path: Path) -> None:
    by_host = replace(BY_RULE, by=("host", "nowhere"))
    server = Server(str(tmp_path / "control.db"), [rule_of()], groupings={"ops": by_host})
    server.tick(0, {1: 95.0, 2: 95.0})
    server.tick(30, {1: 95.0, 2: 95.0})
    server.tick(40, {1: 5.0, 2: 95.0})
    assert [body["group"] for _, body in messages(server)] == [
        {"host": "web-1", "nowhere": ""},
        {"host": "web-2", "nowhere": ""},
    ]
    server.tick(330, {2: 95.0})
    assert len(messages(server)) == 3
    assert len(server.control.rows("SELECT * FROM alert_groups")) == 2
    server.tick(630, {2: 95.0})
    assert [labels for (labels,) in server.control.rows("SELECT labels FROM alert_groups")] == [
        '{"host": "web-2", "nowhere": ""}'
    ]
    server.control.close()


def test_a_group_says_again_what_still_fires_unless_somebody_has_it_in_hand(tmp_path: Path) -> None:
    grouping = replace(BY_RULE, repeat_ns=600 * S)
    server = Server(str(tmp_path / "control.db"), [rule_of()], groupings={"ops": grouping})
    hot = dict.fromkeys((1, 2, 3), 95.0)
    server.tick(0, hot)
    server.tick(30, hot)
    server.store.ack(1, by="ann", now_ns=T0 + 40 * S)
    SilenceStore(server.control).add(
        parse_matchers('host="web-2"'), start_ns=T0, end_ns=T0 + 700 * S, author="ann", now_ns=T0 + 40 * S
    )
    server.tick(629, hot)
    assert len(messages(server)) == 1
    server.tick(630, hot)
    assert told(messages(server)[1][1]) == [(3, [])]
    assert messages(server)[1][1]["message"] == "1 alert still fires (rule=cpu)"
    server.tick(1_230, hot)
    assert told(messages(server)[2][1]) == [(2, []), (3, [])]
    server.tick(1_240, dict.fromkeys((1, 2, 3), 5.0))
    server.tick(3_000, {})
    assert told(messages(server)[3][1]) == [(1, ["resolved"]), (2, ["resolved"]), (3, ["resolved"])]
    server.tick(9_000, {})
    assert len(messages(server)) == 4
    assert server.control.rows("SELECT * FROM alert_groups") == []
    server.control.close()


def test_a_used_up_budget_lets_a_group_wait_and_loses_nothing(tmp_path: Path) -> None:
    grouping = Grouping(("host",), 0, S)
    path = str(tmp_path / "control.db")
    server = Server(path, [rule_of()], groupings={"ops": grouping}, budgets={"ops": 2})
    hot = dict.fromkeys(range(4), 95.0)
    server.tick(0, hot)
    assert len(messages(server)) == 2
    server.tick(3_599, dict.fromkeys(range(4), 5.0))
    assert len(messages(server)) == 2
    server.tick(3_600, {})
    server.tick(7_200, {})
    assert [told(body) for _, body in messages(server)[2:]] == [
        [(1, ["resolved"])],
        [(2, ["resolved"])],
        [(3, ["firing", "resolved"])],
        [(4, ["firing", "resolved"])],
    ]
    server.control.close()


def test_a_channel_that_no_longer_groups_is_told_at_once_of_what_waits(server: Server) -> None:
    server.tick(0, {1: 95.0})
    server.groupings = {}
    server.restart()
    server.tick(5, {1: 95.0})
    ((_, body),) = messages(server)
    assert told(body) == [(1, ["firing"])]
    assert server.control.rows("SELECT * FROM alert_groups") == []
    server.tick(10, {1: 5.0})
    assert messages(server)[1][1]["event"] == "resolved"


def test_a_message_lists_the_first_alerts_and_counts_all(server: Server) -> None:
    count = MOST_LISTED + 7
    hot = dict.fromkeys(range(count), 95.0)
    server.tick(0, hot)
    server.tick(30, hot)
    ((_, body),) = messages(server)
    assert (len(body["alerts"]), body["total"], body["firing"]) == (MOST_LISTED, count, count)
    assert server.control.rows("SELECT count(*) FROM notification_alerts") == [(count,)]
    lines = Message(json.dumps(body).encode()).fields["alerts"].split("\n")
    assert len(lines) == MOST_LINES + 1
    assert lines[0] == "firing: CPU of web-0 at 95 % [critical] host=web-0"
    assert lines[-1] == f"and {count - MOST_LINES} more: GET /v1/notifications/1"
    assert (body["more"], body["list"]) == (7, "/v1/notifications/1")


@pytest.mark.parametrize("seed", range(4))
def test_every_event_is_in_exactly_one_message_and_messages_keep_their_distance(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    grouping = Grouping(("host",), 20 * S, 60 * S, chance.choice((None, 300 * S)))
    server = Server(str(tmp_path / "control.db"), [rule_of()], ("ops", "plain"), groupings={"ops": grouping})
    now_s = 0
    for _ in range(60):
        now_s += chance.choice((5, 10, 50))
        server.tick(now_s, {series: chance.choice((5.0, 95.0)) for series in range(4)})
        if chance.random() < 0.2:
            server.restart()
    for _ in range(20):
        now_s += 10
        server.tick(now_s, {})
    expected = Counter(
        server.control.rows("SELECT alert_id, event FROM notifications WHERE channel = 'plain' ORDER BY id")
    )
    found: Counter[tuple[int, str]] = Counter()
    sent_s: dict[str, list[int]] = {}
    for at, body in messages(server):
        if body["event"] == "group":
            sent_s.setdefault(body["group"]["host"], []).append(at)
            found.update((alert["id"], event) for alert in body["alerts"] for event in alert["events"])
    assert found == expected
    assert expected
    assert all(later - earlier >= 60 for times in sent_s.values() for earlier, later in itertools.pairwise(times))
    server.control.close()


@pytest.mark.parametrize("grouped_first", [False, True])
def test_an_alert_is_told_in_order_also_when_its_channel_begins_or_ends_to_group(
    tmp_path: Path, grouped_first: bool
) -> None:
    first, then = ({"ops": Grouping((), 0, 0)}, {}) if grouped_first else ({}, {"ops": Grouping((), 0, 0)})
    server = Server(str(tmp_path / "control.db"), [rule_of()], groupings=first)
    server.tick(0, {1: 95.0})
    answers = [Attempt(False, 503), Attempt(True, 204), Attempt(True, 204)]
    received: list[bytes] = []

    class Receiver:
        def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
            received.append(body)
            return answers.pop(0)

    outbox = Outbox(
        server.control, {"ops": Channel(name="ops", url="http://127.0.0.1/")}, sender=lambda channel: Receiver()
    )
    outbox.deliver_due(T0)
    server.groupings = then
    server.restart()
    server.tick(1, {1: 5.0})
    outbox = Outbox(
        server.control, {"ops": Channel(name="ops", url="http://127.0.0.1/")}, sender=lambda channel: Receiver()
    )
    # What has failed waits for its next attempt, and what comes after it waits for that.
    assert outbox.deliver_due(T0 + S) == 0
    assert outbox.deliver_due(T0 + 60 * S) == 1
    assert outbox.deliver_due(T0 + 60 * S) == 1
    assert received[0] == received[1]
    assert b"firing" in received[1]
    assert b'"resolved"' in received[2]
    server.control.close()
