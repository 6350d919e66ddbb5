"""Alerts on disk: state, history and notifications change together; a restart forgets and repeats nothing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alerting.alerts import alert_events_columns, alerts_columns
from engine.alerting.groups import Grouping
from engine.alerting.holding import NEVER, Flapping
from engine.alerting.notifying import Notifying
from engine.alerting.routing import Router
from engine.alerting.rules import RuleInput, fingerprint
from engine.alerting.steps import Steps
from engine.alerting.store import AlertStore
from engine.alerting.watch import RuleWatch
from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_SECOND
from engine.config import Escalation, Inhibition, Route, Rule
from engine.config_units import Duration
from engine.errors import BadRequest, NotFound

S = NS_PER_SECOND
T0 = 1_700_000_000 * S
STALE_AFTER_S = 300


def labels_of(tagset_id: int) -> Mapping[str, str] | None:
    return {"host": f"web-{tagset_id}"}


def rule_of(**changes: Any) -> Rule:
    values: dict[str, Any] = {
        "name": "cpu",
        "category": "system",
        "severity": "critical",
        "metric": "cpu_usage_percent",
        "op": ">",
        "threshold": 90.0,
        "summary": "CPU of {host} at {value} %",
        **changes,
    }
    for name in ("for_", "keep_firing", "cooldown"):
        values[name] = Duration(values.get(name, 0) * S)
    return Rule(**values)


class Server:
    """A database file, and the store and the rules of a server that can be stopped and started."""

    def __init__(
        self,
        path: str,
        rules: list[Rule],
        channels: tuple[str, ...] = ("ops",),
        escalation: tuple[Escalation, ...] = (),
        inhibitions: tuple[Inhibition, ...] = (),
        heartbeats_ns: Mapping[str, int] | None = None,
        flapping: Flapping = NEVER,
        budgets: Mapping[str, int] | None = None,
        groupings: Mapping[str, Grouping] | None = None,
        routes: tuple[Route, ...] = (),
        digests_ns: Mapping[str, int] | None = None,
    ) -> None:
        self.digests_ns = digests_ns
        self.flapping, self.budgets, self.groupings, self.routes = flapping, budgets, groupings, routes
        self.inhibitions, self.heartbeats_ns = inhibitions, heartbeats_ns
        self.path, self.rules, self.channels, self.escalation = path, rules, channels, escalation
        self.labels_of = labels_of
        self.now_s = 0
        self.start()

    def start(self) -> None:
        self.control = ControlDatabase(self.path, random_bytes=random.Random(1).randbytes)
        self.store = AlertStore(
            self.control,
            Notifying(
                Router(self.routes, self.channels),
                inhibitions=self.inhibitions,
                flapping=self.flapping,
                steps=Steps(self.escalation),
                budgets=self.budgets or {},
                groupings=self.groupings or {},
                digests_ns=self.digests_ns or {},
                heartbeats_ns=self.heartbeats_ns or {},
            ),
        )
        self.watch = RuleWatch(
            self.rules,
            self.store,
            stale_after_ns=STALE_AFTER_S * S,
        )
        self.watch.restore(self.labels_of, T0 + self.now_s * S)

    def restart(self) -> None:
        """Go down without a word, as after kill -9: nothing is handed over but the file."""
        self.control.close()
        self.start()

    def tick(self, now_s: int, rows: dict[int, float], rule: str = "cpu") -> list[str]:
        """Judge samples taken right now; return the events told."""
        self.now_s = now_s
        ordered = sorted(rows.items())
        given_rows = RuleInput(
            np.array([tagset for tagset, _ in ordered], dtype=np.int32),
            np.array([value for _, value in ordered], dtype=np.float64),
            np.full(len(ordered), T0 + now_s * S, dtype=np.int64),
        )
        events = self.watch.tick({rule: given_rows}, self.labels_of, T0 + now_s * S)
        return [event.event for event in events]

    def notifications(self) -> list[tuple[str, str, int | None]]:
        return [
            (channel, event, alert_id)
            for channel, event, alert_id in self.control.rows(
                "SELECT channel, event, alert_id FROM notifications ORDER BY id"
            )
        ]

    def history(self, alert_id: int) -> list[tuple[str, str]]:
        events = self.store.events(alert_id)
        return list(zip(events["event"], events["detail"], strict=True))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.db")


@pytest.fixture
def server(path: str) -> Iterator[Server]:
    running = Server(path, [rule_of(for_=10, cooldown=300, clear=85.0)])
    yield running
    running.control.close()


# ---- groups ----


def test_a_group_keeps_its_alert_and_its_cooldown_over_restarts_whatever_its_number(path: str) -> None:
    from engine.query.groups import GroupNumbers

    server = Server(path, [rule_of(group_by=("zone",), cooldown=300, summary="{zone} at {value}")])
    for start, zones in enumerate((["x", "y"], ["other", "y", "x"], ["y", "x"])):
        # Each process numbers the groups as it meets them.
        groups = GroupNumbers()
        for zone in zones:
            groups.number({"zone": zone})
        server.labels_of = groups.labels
        server.watch.restore(groups.labels, T0 + server.now_s * S, groups.number)
        x, y = groups.number({"zone": "x"}), groups.number({"zone": "y"})
        if start == 0:
            assert server.tick(0, {x: 95.0, y: 96.0}) == ["firing", "firing"]
            assert server.tick(5, {x: 50.0, y: 96.0}) == ["resolved"]
        elif start == 1:
            assert server.tick(10, {x: 50.0, y: 96.0}) == []
            assert server.tick(15, {x: 99.0, y: 50.0}) == ["firing", "resolved"]
        else:
            assert server.tick(20, {x: 99.0, y: 50.0}) == []
            assert [(alert.labels, alert.summary) for alert in server.store.find()] == [({"zone": "x"}, "x at 99")]
            server.watch.close(server.store.find()[0].id, by="ann", now_ns=T0 + 21 * S)
            assert server.tick(25, {x: 50.0, y: 50.0}) == []
        server.restart()
    firings = [detail for alert_id in (1, 2, 3) for event, detail in server.history(alert_id) if event == "firing"]
    assert ["cooldown" in detail for detail in firings] == [False, False, True]
    server.control.close()


def test_labels_of_a_rule_are_the_alerts_and_make_no_other_alert(path: str) -> None:
    from engine.query.groups import GroupNumbers

    groups = GroupNumbers()
    team = {"team": "shop", "room": "{zone}", "none": "{missing}"}
    server = Server(path, [rule_of(group_by=("zone",), labels=team, summary="at {value}")])
    server.labels_of = groups.labels
    x = groups.number({"zone": "x"})
    assert server.tick(0, {x: 95.0}) == ["firing"]
    (alert,) = server.store.find()
    assert alert.labels == {"zone": "x", "team": "shop", "room": "x"}
    assert alert.fingerprint == fingerprint("cpu", {"zone": "x"})
    groups = GroupNumbers()
    groups.number({"zone": "other"})
    server.labels_of = groups.labels
    server.watch.restore(groups.labels, T0, groups.number)
    assert server.tick(5, {groups.number({"zone": "x"}): 50.0}) == ["resolved"]
    server.control.close()


def test_annotations_are_filled_in_and_told(path: str) -> None:
    annotations = {"runbook": "https://example.org/{rule}", "detail": "{host}: {value} > {threshold}"}
    server = Server(path, [rule_of(for_=10, annotations=annotations)])
    server.tick(0, {7: 95.0})
    server.restart()
    server.tick(10, {7: 97.0})
    (alert,) = server.store.find()
    assert alert.annotations == {"runbook": "https://example.org/cpu", "detail": "web-7: 97 > 90"}
    assert json.loads(server.store.alerts_table(T0)["annotations"][0]) == alert.annotations
    ((body,),) = server.control.rows("SELECT body FROM notifications")
    assert json.loads(body)["alert"]["annotations"] == alert.annotations
    server.control.close()


def test_what_silence_has_decided_is_told(path: str) -> None:
    rules = [rule_of(when_missing="ok"), rule_of(name="gone", when_missing="firing")]
    server = Server(path, rules)

    def tick(now_s: int, value: float, sample_s: int) -> list[str]:
        rows = RuleInput(np.array([7], np.int32), np.array([value]), np.array([T0 + sample_s * S], np.int64))
        events = server.watch.tick({"cpu": rows, "gone": rows}, labels_of, T0 + now_s * S)
        return [
            f"{event.alert.rule} {event.event} {event.detail.removesuffix('notifies ops').removesuffix('; ')}"
            for event in events
        ]

    assert tick(0, 95.0, 0) == ["cpu firing ", "gone firing "]
    assert tick(5, 50.0, 5) == ["cpu resolved ", "gone resolved "]
    assert tick(10, 95.0, 10) == ["cpu firing ", "gone firing "]
    since = "no data since 2023-11-14T22:13:30.000000000Z"
    assert tick(400, 95.0, 10) == [f"cpu resolved {since}"]
    assert tick(500, 50.0, 500) == ["gone resolved "]
    assert tick(900, 50.0, 500)[0].startswith("gone firing no data since 2023-11-14T22:21:40")
    server.control.close()


# ---- one alert's life ----


def test_an_alert_that_is_released_escalates_with_the_time_that_was_left(path: str) -> None:
    step = Escalation(name="boss", after=Duration(60 * S), channels=("boss",))
    server = Server(path, [rule_of()], escalation=(step,))
    server.tick(0, {7: 95.0})
    server.store.ack(1, by="ann", expires_ns=T0 + 9_000 * S, now_ns=T0 + 20 * S)
    server.tick(500, {7: 95.0})
    server.store.release(1, by="bob", note="on leave", now_ns=T0 + 520 * S)
    assert server.history(1)[-1] == ("unacknowledged", "by bob: on leave")
    assert not server.store.get(1).acknowledged(T0 + 520 * S)
    with pytest.raises(BadRequest, match="cannot release alert 1: nobody has acknowledged it"):
        server.store.release(1, by="bob", now_ns=T0 + 521 * S)
    server.tick(559, {7: 95.0})
    assert server.notifications() == [("ops", "firing", 1)]
    server.tick(560, {7: 95.0})
    assert server.notifications()[1:] == [("boss", "escalated", 1)]
    server.control.close()


def test_an_alert_from_pending_to_resolved(server: Server) -> None:
    assert server.tick(0, {7: 95.0}) == ["pending"]
    (alert,) = server.store.find()
    assert alert.state == "pending"
    assert server.notifications() == []
    assert server.tick(10, {7: 96.5}) == ["firing"]
    assert server.tick(20, {7: 99.0}) == []
    assert server.tick(30, {7: 42.0}) == ["resolved"]
    assert server.store.find() == []
    (alert,) = server.store.find(states=["resolved"])
    assert alert == server.store.get(1)
    assert alert.fingerprint == fingerprint("cpu", {"host": "web-7"})
    assert (alert.rule, alert.severity, alert.category) == ("cpu", "critical", "system")
    assert alert.labels == {"host": "web-7"}
    assert alert.summary == "CPU of web-7 at 96.5 %"
    assert (alert.value, alert.threshold) == (42.0, 90.0)
    assert [t and (t - T0) // S for t in (alert.started_ns, alert.fired_ns, alert.resolved_ns)] == [0, 10, 30]
    assert (alert.cause_time_ns - T0) // S == 30
    assert server.history(1) == [
        ("pending", ""),
        ("firing", "notifies ops"),
        ("resolved", "notifies ops"),
    ]
    assert server.notifications() == [("ops", "firing", 1), ("ops", "resolved", 1)]


def test_a_cancelled_alert_stays_in_the_history_and_tells_nobody(server: Server) -> None:
    server.tick(0, {7: 95.0})
    assert server.tick(5, {7: 50.0}) == ["cancelled"]
    assert server.store.get(1).state == "cancelled"
    assert server.history(1)[1] == ("cancelled", "the condition no longer holds")
    server.tick(10, {7: 95.0})
    assert server.tick(400, {}) == ["cancelled"]
    assert server.history(2)[1] == ("cancelled", "no data since 2023-11-14T22:13:30.000000000Z")
    assert server.notifications() == []


def test_the_history_says_why_a_firing_was_not_told(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.tick(20, {7: 50.0})
    server.tick(30, {7: 95.0})
    assert server.tick(40, {7: 95.0}) == ["firing"]
    until = "2023-11-14T22:18:40.000000000Z"
    assert server.history(2)[1] == (
        "firing",
        f"not notified: in the cooldown of the last alert until {until}",
    )
    assert len(server.notifications()) == 2
    assert server.tick(320, {7: 95.0}) == ["notified"]
    assert server.notifications()[2:] == [("ops", "firing", 2)]
    assert server.tick(330, {7: 50.0}) == ["resolved"]
    assert server.notifications()[3:] == [("ops", "resolved", 2)]


def test_a_firing_alert_without_data_is_marked_stale(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    assert server.tick(400, {}) == ["stale"]
    assert server.store.get(1).stale
    assert server.store.get(1).state == "firing"
    assert server.history(1)[2] == ("stale", "no data since 2023-11-14T22:13:30.000000000Z")
    assert server.tick(405, {7: 95.0}) == ["fresh"]
    assert not server.store.get(1).stale


def test_keep_firing_is_part_of_the_history(path: str) -> None:
    server = Server(path, [rule_of(keep_firing=60)])
    assert server.tick(0, {7: 95.0}) == ["firing"]
    assert server.tick(10, {7: 50.0}) == ["clearing"]
    assert server.tick(20, {7: 95.0}) == ["held"]
    assert server.tick(30, {7: 50.0}) == ["clearing"]
    server.restart()
    assert server.tick(89, {7: 50.0}) == []
    assert server.tick(90, {7: 50.0}) == ["resolved"]
    server.control.close()


def test_series_and_rules_have_alerts_of_their_own(path: str) -> None:
    server = Server(path, [rule_of(), rule_of(name="hot", threshold=50.0)])
    rows = RuleInput(np.array([3, 7], dtype=np.int32), np.array([95.0, 97.0]), np.full(2, T0, dtype=np.int64))
    events = server.watch.tick({"cpu": rows, "hot": rows}, labels_of, T0)
    assert [(event.alert.rule, event.alert.labels["host"]) for event in events] == [
        ("cpu", "web-3"),
        ("cpu", "web-7"),
        ("hot", "web-3"),
        ("hot", "web-7"),
    ]
    assert len({event.alert.fingerprint for event in events}) == 4
    server.control.close()


# ---- notifications ----


def test_a_notification_tells_the_alert_as_it_was(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 96.5})
    server.tick(20, {7: 50.0})
    (delivery, text), (other, later) = server.control.rows("SELECT delivery, body FROM notifications ORDER BY id")
    assert json.loads(text) == {
        "version": 1,
        "delivery": delivery,
        "event": "firing",
        "channel": "ops",
        "alert": {
            "id": 1,
            "fingerprint": fingerprint("cpu", {"host": "web-7"}),
            "rule": "cpu",
            "severity": "critical",
            "category": "system",
            "state": "firing",
            "labels": {"host": "web-7"},
            "value": 96.5,
            "threshold": 90.0,
            "summary": "CPU of web-7 at 96.5 %",
            "annotations": {},
            "stale": False,
            "started_at": "2023-11-14T22:13:20.000000000Z",
            "fired_at": "2023-11-14T22:13:30.000000000Z",
            "resolved_at": None,
        },
    }
    assert json.loads(later)["event"] == "resolved"
    assert json.loads(later)["alert"]["resolved_at"] == "2023-11-14T22:13:40.000000000Z"
    assert len(delivery) == 32
    assert delivery != other


@pytest.mark.parametrize(
    ("of_rule", "configured", "told"),
    [((), ("ops", "chat"), ["ops", "chat"]), (("chat",), ("ops", "chat"), ["chat"]), ((), (), [])],
)
def test_the_rules_channels_are_told_or_all(
    path: str, of_rule: tuple[str, ...], configured: tuple[str, ...], told: list[str]
) -> None:
    server = Server(path, [rule_of(channels=of_rule)], configured)
    server.tick(0, {7: 95.0})
    assert [channel for channel, _, _ in server.notifications()] == told
    if not told:
        assert server.history(1) == [("firing", "notifies nobody: no channel is configured")]
    server.control.close()


def test_a_value_json_cannot_say_is_null(path: str) -> None:
    server = Server(path, [rule_of()])
    server.tick(0, {7: math.inf})
    ((text,),) = server.control.rows("SELECT body FROM notifications")
    assert json.loads(text)["alert"]["value"] is None
    assert server.store.get(1).value == math.inf
    server.control.close()


def test_delivery_keys_differ_between_servers_and_after_going_back_to_a_backup(tmp_path: Path) -> None:
    keys: list[str] = []
    for number in range(2):
        server = Server(str(tmp_path / f"{number}.db"), [rule_of()])
        server.control.close()
        server.control = ControlDatabase(str(tmp_path / f"fresh-{number}.db"))
        server.store = AlertStore(server.control, Notifying(Router((), ("ops",))))
        server.watch = RuleWatch(server.rules, server.store, stale_after_ns=STALE_AFTER_S * S)
        backup = str(tmp_path / f"backup-{number}.db")
        server.control.backup(backup)
        server.tick(0, {7: 95.0})
        keys += [key for (key,) in server.control.rows("SELECT delivery FROM notifications")]
        server.control.close()
        restored = Server(backup, [rule_of()])
        restored.tick(60, {7: 95.0})
        keys += [key for (key,) in restored.control.rows("SELECT delivery FROM notifications")]
        restored.control.close()
    assert len(set(keys)) == len(keys) == 4


# ---- failures and restarts ----


def test_when_storing_fails_nothing_is_stored_and_the_next_tick_finds_it_again(server: Server) -> None:
    server.tick(0, {7: 95.0})
    with server.control.transaction() as connection:
        connection.execute("ALTER TABLE notifications RENAME TO away")
    with pytest.raises(Exception, match="no such table: notifications"):
        server.tick(10, {7: 95.0})
    assert server.store.get(1).state == "pending"
    assert server.history(1) == [("pending", "")]
    with server.control.transaction() as connection:
        connection.execute("ALTER TABLE away RENAME TO notifications")
    assert server.tick(15, {7: 95.0}) == ["firing"]
    assert server.notifications() == [("ops", "firing", 1)]


def test_recording_the_same_transitions_twice_changes_nothing(path: str) -> None:
    """As when the commit reached the disk but its caller was told otherwise."""
    server = Server(path, [rule_of(for_=10)])
    for now_s, value in ((0, 95.0), (10, 95.0), (20, 50.0)):
        states = dict(server.watch._states)
        first = server.tick(now_s, {7: value})
        server.watch._states = states
        assert len(first) == 1
        assert server.tick(now_s, {7: value}) == []
    assert [event for event, _ in server.history(1)] == ["pending", "firing", "resolved"]
    assert [event for _, event, _ in server.notifications()] == ["firing", "resolved"]
    server.control.close()


def test_after_a_restart_a_firing_alert_stays_firing_and_is_not_told_again(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.restart()
    assert server.tick(20, {7: 95.0}) == []
    server.restart()
    assert server.tick(30, {}) == []
    assert server.tick(35, {7: 86.0}) == []
    assert server.tick(40, {7: 50.0}) == ["resolved"]
    assert server.notifications() == [("ops", "firing", 1), ("ops", "resolved", 1)]


def test_after_a_restart_a_pending_alert_keeps_its_start(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.restart()
    assert server.tick(9, {7: 95.0}) == []
    server.restart()
    assert server.tick(10, {7: 95.0}) == ["firing"]


def test_after_a_restart_the_cooldown_goes_on(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.tick(20, {7: 50.0})
    server.restart()
    server.tick(100, {7: 95.0})
    assert server.tick(110, {7: 95.0}) == ["firing"]
    assert len(server.notifications()) == 2
    server.restart()
    assert server.tick(319, {7: 95.0}) == []
    assert server.tick(320, {7: 95.0}) == ["notified"]


def test_after_a_restart_a_told_firing_still_starts_a_cooldown_and_a_silent_one_does_not(server: Server) -> None:
    def fire_and_resolve(start_s: int) -> None:
        server.tick(start_s, {7: 95.0})
        server.tick(start_s + 10, {7: 95.0})
        server.restart()
        server.tick(start_s + 20, {7: 50.0})

    fire_and_resolve(0)
    fire_and_resolve(100)
    assert server.history(2)[1:] == [
        ("firing", "not notified: in the cooldown of the last alert until 2023-11-14T22:18:40.000000000Z"),
        ("resolved", "not notified: nor was the firing"),
    ]
    assert len(server.notifications()) == 2
    server.restart()
    fire_and_resolve(310)
    assert server.notifications()[2:] == [("ops", "firing", 3), ("ops", "resolved", 3)]


def test_after_a_restart_a_stale_alert_is_still_stale(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    assert server.tick(400, {}) == ["stale"]
    server.restart()
    assert server.tick(405, {}) == []
    assert server.tick(410, {7: 95.0}) == ["fresh"]


def test_after_a_restart_data_has_time_to_come_in_again(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.now_s = 100_000
    server.restart()
    assert server.tick(100_300, {}) == []
    assert server.tick(100_301, {}) == ["stale"]


TICKS = st.lists(
    st.tuples(
        st.sampled_from([5, 10, 60, 400]),
        st.dictionaries(st.integers(0, 2), st.sampled_from([50.0, 87.0, 95.0])),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=30)
@given(TICKS)
def test_restarts_change_no_notification_and_no_state(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[tuple[int, dict[int, float], bool]]
) -> None:
    """A server restarted at arbitrary ticks tells exactly what one that runs on tells."""
    rules = [rule_of(for_=10, cooldown=60, clear=85.0, keep_firing=30)]
    directory = tmp_path_factory.mktemp("restarts")
    steady, restarted = Server(str(directory / "a.db"), rules), Server(str(directory / "b.db"), rules)
    now_s = 0
    for step_s, values, restarts in ticks:
        now_s += step_s
        # Every series has a value, so that the grace after a restart makes no difference.
        rows = dict.fromkeys(range(3), 50.0) | values
        restarted.now_s = now_s - step_s
        if restarts:
            restarted.restart()
        assert steady.tick(now_s, rows) == restarted.tick(now_s, rows)
    assert steady.notifications() == restarted.notifications()
    assert steady.store.find(states=()) == restarted.store.find(states=())
    steady.control.close()
    restarted.control.close()


def test_alerts_of_a_rule_that_is_gone_are_ended_and_their_end_is_told(path: str) -> None:
    server = Server(path, [rule_of(), rule_of(name="slow", for_=60, threshold=50.0)])
    rows = RuleInput(np.array([7], dtype=np.int32), np.array([95.0]), np.full(1, T0, dtype=np.int64))
    server.watch.tick({"cpu": rows, "slow": rows}, labels_of, T0)
    server.rules = []
    server.restart()
    assert [alert.state for alert in server.store.find(states=())] == ["cancelled", "resolved"]
    assert server.history(1)[-1] == ("resolved", "the rule is no longer configured; notifies ops")
    assert server.notifications() == [("ops", "firing", 1), ("ops", "resolved", 1)]
    server.control.close()


def test_a_disabled_rule_is_not_judged_and_its_alerts_end(path: str) -> None:
    server = Server(path, [rule_of()])
    server.tick(0, {7: 95.0})
    server.rules = [rule_of(enabled=False)]
    server.restart()
    assert server.store.get(1).state == "resolved"
    assert server.tick(5, {7: 95.0}) == []
    server.control.close()


def test_an_alert_whose_series_is_gone_from_the_catalogue_is_never_taken_for_another(path: str) -> None:
    server = Server(path, [rule_of()])
    server.tick(0, {7: 95.0})
    server.labels_of = lambda tagset_id: {"host": "other"} if tagset_id == 7 else {"host": "web-7"}
    server.restart()
    server.restart()
    assert server.store.get(1).stale
    assert server.history(1)[1:] == [("stale", "the series is no longer in the catalogue")]
    assert server.tick(10, {7: 50.0, 8: 50.0}) == []
    assert server.store.get(1).state == "firing"
    # The series is back under another number: the alert goes on, and is not told twice.
    assert server.tick(15, {8: 95.0}) == []
    assert server.tick(20, {8: 50.0}) == ["resolved"]
    assert [event for _, event, _ in server.notifications()] == ["firing", "resolved"]
    server.control.close()


# ---- acknowledging and closing ----


def test_an_acknowledgement_names_who_and_until_when(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    event = server.store.ack(1, by="ann", note="on it", expires_ns=T0 + 100 * S, now_ns=T0 + 20 * S)
    assert (event.event, event.detail) == (
        "acknowledged",
        "by ann until 2023-11-14T22:15:00.000000000Z: on it",
    )
    alert = server.store.get(1)
    assert (alert.acknowledged_by, alert.acknowledged_note) == ("ann", "on it")
    assert [alert.acknowledged(T0 + second * S) for second in (20, 99, 100)] == [True, True, False]


def test_an_expired_acknowledgement_notifies_again_while_the_alert_fires(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.store.ack(1, by="ann", expires_ns=T0 + 100 * S, now_ns=T0 + 20 * S)
    assert server.tick(99, {7: 95.0}) == []
    assert server.tick(100, {7: 95.0}) == ["unacknowledged"]
    assert server.tick(105, {7: 95.0}) == []
    assert server.notifications() == [("ops", "firing", 1), ("ops", "firing", 1)]
    assert server.history(1)[-1][1] == "the acknowledgement by ann has expired; notifies ops"


def test_an_acknowledgement_without_an_expiry_stays(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.store.ack(1, by="ann", now_ns=T0 + 20 * S)
    assert server.tick(200, {7: 95.0}) == []
    assert server.store.get(1).acknowledged(T0 + 10**6 * S)


def test_what_cannot_be_acknowledged_says_why(server: Server) -> None:
    server.tick(0, {7: 95.0})
    with pytest.raises(NotFound, match="cannot acknowledge alert 99"):
        server.store.ack(99, by="ann", now_ns=T0)
    with pytest.raises(BadRequest, match="want who"):
        server.store.ack(1, by="", now_ns=T0)
    with pytest.raises(BadRequest, match="want a time after"):
        server.store.ack(1, by="ann", expires_ns=T0, now_ns=T0)
    server.tick(5, {7: 50.0})
    with pytest.raises(BadRequest, match="it is cancelled, want pending or firing"):
        server.store.ack(1, by="ann", now_ns=T0)


def test_an_alert_closed_by_hand_is_resolved_told_and_in_cooldown(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    event = server.watch.close(1, by="ann", note="host retired", now_ns=T0 + 15 * S)
    assert event.detail == "closed by ann: host retired; notifies ops"
    assert server.store.get(1).state == "resolved"
    server.tick(20, {7: 95.0})
    assert server.tick(30, {7: 95.0}) == ["firing"]
    assert server.history(2)[1][1].startswith("not notified: in the cooldown")
    with pytest.raises(BadRequest, match="cannot close alert 1: it is resolved"):
        server.watch.close(1, by="ann", now_ns=T0)


# ---- reading ----


def test_alerts_are_found_by_each_filter_and_page_by_page(path: str) -> None:
    server = Server(path, [rule_of(), rule_of(name="hot", severity="info", category="custom", threshold=50.0)])
    rows = RuleInput(np.arange(4, dtype=np.int32), np.array([95.0, 95.0, 60.0, 10.0]), np.full(4, T0, dtype=np.int64))
    server.watch.tick({"cpu": rows, "hot": rows}, labels_of, T0)

    def ids(**filters: Any) -> list[int]:
        return [alert.id for alert in server.store.find(**filters)]

    assert ids() == [5, 4, 3, 2, 1]
    assert ids(rule="cpu") == [2, 1]
    assert ids(severity="info") == ids(category="custom") == [5, 4, 3]
    assert ids(labels={"host": "web-1"}) == [4, 2]
    assert ids(labels={"host": "web-1"}, limit=1) == [4]
    assert ids(labels={"rack": "web-1"}) == []
    assert ids(limit=2) == [5, 4]
    assert ids(limit=2, before_id=4) == [3, 2]
    assert ids(states=["pending"]) == []
    with pytest.raises(BadRequest, match="got state 'open', want pending, firing, resolved, cancelled"):
        ids(states=["open"])
    server.control.close()


def test_the_columns_for_sql_have_the_fixed_schema(server: Server) -> None:
    server.tick(0, {7: 95.0})
    server.tick(10, {7: 95.0})
    server.store.ack(1, by="ann", now_ns=T0 + 20 * S)
    alerts = server.store.alerts_table(T0 + 30 * S)
    assert list(alerts) == [name for name, _ in alerts_columns()]
    assert alerts["labels"] == ['{"host": "web-7"}']
    assert alerts["started_at"] == [T0]
    assert alerts["acknowledged"] == [True]
    events = server.store.alert_events_table()
    assert list(events) == [name for name, _ in alert_events_columns()]
    assert events["event"] == ["pending", "firing", "acknowledged"]
    assert events["time"] == [T0, T0 + 10 * S, T0 + 20 * S]
    python_types = {
        "BIGINT": int,
        "VARCHAR": str,
        "DOUBLE": float,
        "BOOLEAN": bool,
        "TIMESTAMP_NS": int,
    }
    for table, columns in ((alerts, alerts_columns()), (events, alert_events_columns())):
        for name, sql_type in columns:
            assert all(value is None or type(value) is python_types[sql_type] for value in table[name])


def test_the_status_tells_rules_without_input(path: str) -> None:
    server = Server(path, [rule_of(), rule_of(name="hot")])
    assert [status.series for status in server.watch.status()] == [None, None]
    server.tick(0, {1: 95.0, 2: 10.0, 3: math.nan})
    cpu, hot = server.watch.status()
    assert (cpu.series, cpu.pending, cpu.firing, cpu.stale, cpu.judged_ns) == (2, 0, 1, 0, T0)
    assert (hot.series, hot.firing) == (0, 0)
    server.control.close()


def test_pruning_forgets_only_what_is_over_and_told(server: Server) -> None:
    for start in (0, 1_000):
        server.tick(start, {7: 95.0})
        server.tick(start + 10, {7: 95.0})
        server.tick(start + 20, {7: 50.0})
    server.tick(2_000, {7: 95.0})
    assert server.store.prune(T0 + 500 * S) == 0
    with server.control.transaction() as connection:
        connection.execute("UPDATE notifications SET delivered_ns = ?", (T0,))
    assert server.store.prune(T0 + 500 * S) == 1
    assert [alert.id for alert in server.store.find(states=())] == [3, 2]
    assert set(server.store.alert_events_table()["alert_id"]) == {2, 3}
    assert {alert_id for _, _, alert_id in server.notifications()} == {2}


def test_alerts_of_a_version_that_did_not_note_what_rules_look_at_are_carried_once(path: str) -> None:
    server = Server(path, [rule_of()])
    assert server.tick(0, {7: 95.0}) == ["firing"]
    with server.control.transaction() as connection:
        connection.execute("DELETE FROM rules_in_force")
    server.rules = [rule_of(match={"host": "web-7"})]
    server.restart()
    assert [alert.state for alert in server.store.find()] == ["firing"]
    server.rules = [rule_of(match={"host": "web-8"})]
    server.restart()
    assert server.store.find() == []
    server.control.close()


# ---- what a tick costs ---------------------------------------------------------------------------


def steps_of_a_quiet_tick(path: str, *, over: int, acknowledged: int) -> int:
    """Return how many instructions SQLite runs for a tick that changes nothing.

    ``over``: how many alerts are, after an acknowledgement.  ``acknowledged``: how many others fire.
    """
    server = Server(path, [rule_of(cooldown=10)], heartbeats_ns={"ops": 30 * S})
    rows = dict.fromkeys(range(acknowledged), 95.0)
    server.tick(0, {**rows, **dict.fromkeys(range(1_000, 1_000 + over), 95.0)})
    for alert in server.store.find():
        server.store.ack(alert.id, by="ann", expires_ns=T0 + 60 * S + (alert.tagset_id < 1_000), now_ns=T0 + 1 * S)
    server.tick(20, {**rows, **dict.fromkeys(range(1_000, 1_000 + over), 10.0)})
    server.tick(50, rows)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    server.control._reader.set_progress_handler(count, 1)
    assert server.tick(60, rows) == []
    counted = steps
    assert server.tick(61, rows) == ["unacknowledged"] * acknowledged
    server.control.close()
    return counted


@pytest.mark.parametrize("kind", ["over", "acknowledged"])
def test_a_quiet_tick_costs_the_same_however_many_alerts_there_are(tmp_path: Path, kind: str) -> None:
    few, many = (
        steps_of_a_quiet_tick(str(tmp_path / f"{count}.db"), **{"over": 2, "acknowledged": 2, kind: count})
        for count in (3, 60)
    )
    assert few == many


def test_a_rule_of_groups_takes_up_no_cooldown_of_single_series(path: str) -> None:
    server = Server(path, [rule_of(cooldown=300)])
    server.tick(0, {7: 95.0})
    assert server.tick(5, {7: 50.0}) == ["resolved"]
    assert len(server.store.restore(server.rules[0], labels_of, T0 + 10 * S)) == 1
    grouped = rule_of(group_by=("zone",), cooldown=300)
    assert len(server.store.restore(grouped, labels_of, T0 + 10 * S, lambda labels: -1)) == 0
    server.control.close()
