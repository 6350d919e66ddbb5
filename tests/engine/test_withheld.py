"""Notifications that are not sent, or not by themselves: counted by cause and told by the alert itself."""

from __future__ import annotations

from pathlib import Path

from engine.alerting.groups import Grouping
from engine.alerting.holding import CAUSES, Flapping
from engine.alerting.silences import SilenceStore
from engine.config import Inhibition
from engine.config_units import Duration
from engine.model.matchers import parse_matchers
from tests.engine.test_alert_store import T0, S, Server, rule_of


def test_every_cause_is_counted_once_for_each_notification_and_told_by_the_alert(tmp_path: Path) -> None:
    server = Server(
        str(tmp_path / "control.db"),
        [rule_of(cooldown=100), rule_of(name="hotter", threshold=97.0)],
        channels=("ops", "few", "grouped"),
        inhibitions=(Inhibition(name="worse", source={"rule": "hotter"}, target={"rule": "cpu"}, equal=("host",)),),
        flapping=Flapping(3, Duration(1_000 * S)),
        budgets={"few": 2},
        groupings={"grouped": Grouping(("rule",), 0, 0)},
    )
    SilenceStore(server.control).add(
        parse_matchers('host="web-1"'), start_ns=T0, end_ns=T0 + 9_000 * S, author="ann", now_ns=T0
    )
    # Silenced; told, with the budget used up by the second.
    server.tick(0, {1: 95.0, 2: 95.0, 3: 95.0, 4: 95.0})
    assert server.watch.take_withheld() == {"silenced": 1, "grouped": 3, "budget": 1}
    assert server.watch.take_withheld() == {}
    # Inhibited by another rule's alert of the same host.
    server.tick(10, {5: 99.0}, "hotter")
    server.tick(20, {2: 95.0, 3: 95.0, 4: 95.0, 5: 99.0})
    assert server.watch.take_withheld() == {"grouped": 1, "budget": 1, "inhibited": 1}
    # Again within the cooldown; then too often.
    server.tick(30, {2: 5.0, 3: 95.0, 4: 95.0})
    server.tick(40, {2: 95.0, 3: 95.0, 4: 95.0})
    assert server.watch.take_withheld() == {"grouped": 1, "budget": 1, "cooldown": 1}
    server.restart()
    alerts = {alert.id: alert.withheld for alert in server.store.find(states=())}
    assert alerts == {
        1: {"silenced": 1},
        2: {"grouped": 2, "budget": 1},
        3: {"grouped": 1},
        4: {"grouped": 1, "budget": 1},
        5: {"grouped": 1, "budget": 1},
        6: {"inhibited": 1},
        7: {"cooldown": 1},
    }
    table = server.store.alerts_table(T0 + 50 * S)
    assert table["withheld"][3] == '{"budget": 1, "grouped": 1}'
    server.tick(150, {2: 95.0})
    server.tick(160, {2: 5.0})
    server.tick(170, {2: 95.0})
    server.tick(280, {2: 95.0})
    counted = server.watch.take_withheld()
    assert counted["flapping"] >= 1
    assert counted.keys() <= set(CAUSES)
    server.control.close()


def test_what_was_not_stored_is_not_counted(tmp_path: Path) -> None:
    server = Server(str(tmp_path / "control.db"), [rule_of()], groupings={"ops": Grouping((), 0, 0)})
    try:
        with server.store._journal(T0) as journal:
            journal.withheld["grouped"] += 1
            raise RuntimeError
    except RuntimeError:
        pass
    assert server.store.take_withheld() == {}
    server.control.close()
