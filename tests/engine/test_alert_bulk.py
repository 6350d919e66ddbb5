"""Many alerts in one tick: the same rows as one by one, and no statement that reads for each of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engine.alerting import journal, writes
from engine.alerting.holding import Flapping
from engine.config import Escalation, Inhibition
from engine.config_units import Duration
from tests.engine.test_alert_store import S, Server, rule_of

TABLES = ("alerts", "alert_events", "notifications", "escalations", "withheld")


def server_of(path: Path) -> Server:
    path.mkdir()
    return Server(
        str(path / "control.db"),
        [rule_of(for_=5), rule_of(name="hotter", threshold=97.0, keep_firing=5)],
        channels=("ops", "few"),
        escalation=(Escalation(name="step", after=Duration(10 * S), channels=("boss",)),),
        inhibitions=(Inhibition(name="worse", source={"rule": "hotter"}, target={"rule": "cpu"}, equal=("host",)),),
        flapping=Flapping(3, Duration(90 * S)),
        budgets={"few": 7},
    )


def history(path: Path, seed: int) -> dict[str, list[Any]]:
    """Return every row after a life at random of some series."""
    chance = random.Random(seed)
    server = server_of(path)
    for tick in range(24):
        rows = {series: chance.choice((1.0, 95.0, 99.0)) for series in range(24) if chance.random() < 0.9}
        server.tick(5 * tick, rows, chance.choice(("cpu", "hotter")))
        if tick % 11 == 10:
            server.restart()
    found = {table: server.control.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}
    server.control.close()
    return found


@pytest.mark.parametrize("seed", range(2))
def test_rows_are_the_same_however_many_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    whole = history(tmp_path / "whole", seed)
    monkeypatch.setattr(journal, "RECORDED_AT_ONCE", 1)
    monkeypatch.setattr(writes, "MOST_HELD", 1)
    assert history(tmp_path / "single", seed) == whole
    assert len(whole["alert_events"]) > 200
    assert any("flapping" in str(row) for row in whole["alert_events"])
    assert any("fires (worse)" in str(row) for row in whole["alert_events"])
    assert whole["escalations"]


def test_what_is_read_does_not_grow_with_the_number_of_alerts(tmp_path: Path) -> None:
    reads: list[int] = []
    for count in (10, 500):
        server = server_of(tmp_path / str(count))
        statements: list[str] = []
        server.control._writer.set_trace_callback(statements.append)
        for now_s, value in ((0, 95.0), (5, 95.0), (10, 1.0)):
            server.tick(now_s, dict.fromkeys(range(count), value))
        server.control._writer.set_trace_callback(None)
        server.control.close()
        reads.append(sum(statement.lstrip().startswith("SELECT") for statement in statements))
    assert reads[0] == reads[1]
