"""Flapping: told once, then silence until it settles, and then how it stands; over any restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.alerting.holding import Flapping
from engine.config_units import Duration
from tests.engine.test_alert_store import S, Server, rule_of

HOT, COOL = {7: 95.0}, {7: 10.0}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(str(tmp_path / "control.db"), [rule_of()], flapping=Flapping(4, Duration(100 * S)))
    yield running
    running.control.close()


def flip(server: Server, *times_s: int, first_hot: bool = True, restart: bool = False) -> None:
    for number, now_s in enumerate(times_s):
        if restart:
            server.restart()
        server.tick(now_s, HOT if (number % 2 == 0) == first_hot else COOL)


def sent(server: Server) -> list[str]:
    return [event for _, event, _ in server.notifications()]


@pytest.mark.parametrize("restart", [False, True])
def test_it_is_told_once_and_again_when_it_settles_resolved(server: Server, restart: bool) -> None:
    flip(server, 0, 10, 20, 30, restart=restart)
    assert sent(server) == ["firing", "resolved"] * 2
    flip(server, 40, 50, 60, 70, restart=restart)
    assert sent(server)[4:] == ["flapping"]
    history = server.history(3)
    assert [event for event, _ in history] == ["firing", "flapping", "resolved"]
    assert history[1][1] == "flapping: more than 4 changes within 100s; notifies ops"
    # The changes at 40 and before leave the window; three are left.
    assert server.tick(129, COOL) == []
    if restart:
        server.restart()
    assert server.tick(141, COOL) == ["unsilenced"]
    assert server.tick(145, COOL) == []
    assert sent(server)[4:] == ["flapping", "resolved"]


def test_it_settles_firing(server: Server) -> None:
    flip(server, 0, 10, 20, 30, 40, 50, 60)
    assert server.tick(200, HOT) == ["unsilenced"]
    assert sent(server)[4:] == ["flapping", "firing"]
    assert server.tick(300, COOL) == ["resolved"]
    assert sent(server)[4:] == ["flapping", "firing", "resolved"]


def test_no_change_after_the_word_of_flapping_is_told_too(server: Server) -> None:
    flip(server, 0, 10, 20, 30, 40)
    assert server.tick(200, HOT) == ["unsilenced"]
    assert sent(server)[4:] == ["flapping", "firing"]


def test_a_slow_series_does_not_flap(server: Server) -> None:
    flip(server, *range(0, 1_000, 25))
    assert set(sent(server)) == {"firing", "resolved"}
    assert len(sent(server)) == 40


def test_what_goes_on_flapping_is_told_once_a_window(server: Server) -> None:
    flip(server, *range(0, 1_000, 5))
    assert sent(server)[:4] == ["firing", "resolved"] * 2
    assert set(sent(server)[4:]) == {"flapping"}
    assert 9 <= len(sent(server)[4:]) <= 11


def test_other_series_are_told(server: Server) -> None:
    flip(server, 0, 10, 20, 30, 40)
    server.tick(45, {7: 95.0, 8: 95.0})
    assert sent(server)[4:] == ["flapping", "firing"]
