"""Silences: nothing is sent while one is in force, what still matters is sent once after, over any restart."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alerting.silences import MOST_MATCHERS, MOST_SILENCES, Silence, SilenceStore
from engine.errors import BadRequest, NotFound
from engine.model.matchers import Matcher, parse_matchers
from tests.engine.test_alert_store import T0, S, Server, rule_of

HOT, COOL = {7: 95.0}, {7: 10.0}


def silence(server: Server, match: str, start_s: int, end_s: int) -> Silence:
    return SilenceStore(server.control).add(
        parse_matchers(match), start_ns=T0 + start_s * S, end_ns=T0 + end_s * S, author="ann", now_ns=T0 + start_s * S
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(str(tmp_path / "control.db"), [rule_of(cooldown=300)])
    yield running
    running.control.close()


@pytest.fixture
def store(server: Server) -> SilenceStore:
    return SilenceStore(server.control)


def sent(server: Server) -> list[str]:
    return [event for _, event, _ in server.notifications()]


@pytest.mark.parametrize("restart", [False, True])
def test_what_fires_under_a_silence_is_told_once_when_it_ends(server: Server, restart: bool) -> None:
    held = silence(server, 'host="web-7"', 0, 60)
    assert server.tick(0, HOT) == ["firing"]
    for now_s in (5, 30, 59):
        if restart:
            server.restart()
        assert server.tick(now_s, HOT) == []
    assert sent(server) == []
    alert = server.store.get(1)
    assert (alert.state, alert.notified_ns, alert.owed) == ("firing", None, "firing")
    assert server.store.count_owed() == 1
    assert held.covers(alert)
    if restart:
        server.restart()
    assert server.tick(60, HOT) == ["unsilenced"]
    assert server.store.count_owed() == 0
    assert server.tick(65, HOT) == []
    assert sent(server) == ["firing"]
    assert server.store.get(1).notified_ns == T0 + 60 * S
    assert server.history(1) == [
        ("firing", "not notified: silence 1 by ann until 2023-11-14T22:14:20.000000000Z"),
        ("unsilenced", "nothing holds it back any more; notifies ops"),
    ]
    assert server.tick(70, COOL) == ["resolved"]
    assert sent(server) == ["firing", "resolved"]


def test_what_comes_and_goes_under_a_silence_is_never_told_and_begins_no_cooldown(server: Server) -> None:
    silence(server, 'host="web-7"', 0, 60)
    server.tick(0, HOT)
    assert server.tick(10, COOL) == ["resolved"]
    assert server.history(1)[-1] == ("resolved", "not notified: it was held back")
    assert server.tick(60, COOL) == []
    assert server.tick(65, HOT) == ["firing"]
    assert server.notifications() == [("ops", "firing", 2)]


def test_an_end_within_a_silence_is_told_after_it_to_those_who_heard_of_the_firing(server: Server) -> None:
    server.tick(0, HOT)
    silence(server, 'severity="critical"', 5, 60)
    assert server.tick(10, COOL) == ["resolved"]
    assert sent(server) == ["firing"]
    server.restart()
    assert server.store.prune(T0 + 10**6 * S) == 0
    assert server.tick(60, COOL) == ["unsilenced"]
    assert server.tick(65, COOL) == []
    assert sent(server) == ["firing", "resolved"]


def test_ending_a_silence_early_is_as_good_as_its_end(server: Server, store: SilenceStore) -> None:
    silence(server, 'host="web-7"', 0, 1_000)
    server.tick(0, HOT)
    assert store.end(1, T0 + 10 * S).state(T0 + 10 * S) == "expired"
    assert server.tick(10, HOT) == ["unsilenced"]
    with pytest.raises(BadRequest, match="cannot end silence 1: it ended at"):
        store.end(1, T0 + 11 * S)
    with pytest.raises(NotFound, match="cannot end silence 2: there is no such silence"):
        store.end(2, T0)


def test_a_second_silence_goes_on_holding_back(server: Server) -> None:
    silence(server, 'host="web-7"', 0, 60)
    silence(server, 'category="system"', 0, 90)
    server.tick(0, HOT)
    assert server.tick(60, HOT) == []
    assert server.tick(90, HOT) == ["unsilenced"]
    assert sent(server) == ["firing"]


def test_an_acknowledgement_that_expires_under_a_silence_is_told_after_it(server: Server) -> None:
    server.tick(0, HOT)
    server.store.ack(1, by="bob", expires_ns=T0 + 20 * S, now_ns=T0 + S)
    silence(server, 'rule="cpu"', 10, 60)
    assert server.tick(20, HOT) == ["unacknowledged"]
    assert sent(server) == ["firing"]
    assert server.tick(60, HOT) == ["unsilenced"]
    assert sent(server) == ["firing", "firing"]


@pytest.mark.parametrize(
    ("match", "covered"),
    [
        ('host="web-7"', True),
        ('host="web-8"', False),
        ('host!="web-8",rule="cpu"', True),
        ('host=~"web-.*",severity=~"critical|warning"', True),
        ('host=~"web"', False),
        ('host!~"web-.*",rule="cpu"', False),
        ('category="system",severity="info"', False),
        ('region="",rule="cpu"', True),
        ('region="eu"', False),
    ],
)
def test_which_alerts_a_silence_covers(server: Server, match: str, covered: bool) -> None:
    silence(server, match, 0, 60)
    server.tick(0, HOT)
    assert (sent(server) == []) is covered


def test_states_and_pages(server: Server, store: SilenceStore) -> None:
    for start_s, end_s in ((0, 10), (0, 60), (30, 60)):
        silence(server, 'a="b"', start_s, end_s)
    now_ns = T0 + 20 * S

    def ids(**filters: Any) -> list[int]:
        return [each.id for each in store.find(now_ns, **filters)]

    assert ids() == [3, 2]
    assert ids(states=("expired",)) == [1]
    assert ids(states=("active",)) == [2]
    assert ids(states=()) == [3, 2, 1]
    assert ids(states=(), limit=1) == [3]
    assert [each.state(now_ns) for each in store.find(now_ns, states=())] == ["pending", "active", "expired"]
    with pytest.raises(BadRequest, match="got state 'lost'"):
        ids(states=("lost",))
    # One that has not begun never was.
    assert store.end(3, now_ns).state(now_ns) == "expired"
    assert store.prune(T0 + 15 * S) == 1
    assert ids(states=()) == [3, 2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"author": " "}, "'by' is empty"),
        ({"matchers": ()}, "every alert"),
        ({"matchers": parse_matchers('a=~".*",b!="x"')}, "every alert"),
        ({"matchers": (Matcher.of("a", "=", "b"),) * (MOST_MATCHERS + 1)}, "want at most 50"),
        ({"end_ns": T0}, "after the start and after now"),
        ({"start_ns": T0 + 100 * S}, "after the start and after now"),
        ({"start_ns": T0 - 9 * S, "end_ns": T0 - S}, "after the start and after now"),
    ],
)
def test_what_is_refused(store: SilenceStore, changes: dict[str, Any], sentence: str) -> None:
    values = {"matchers": parse_matchers('a="b"'), "start_ns": T0, "end_ns": T0 + 60 * S, "author": "ann"} | changes
    with pytest.raises(BadRequest, match=sentence):
        store.add(values.pop("matchers"), now_ns=T0, **values)
    assert store.find(T0, states=()) == []


def test_there_is_an_end_to_silences(server: Server, store: SilenceStore) -> None:
    with server.control.transaction() as connection:
        connection.executemany(
            "INSERT INTO silences (matchers, start_ns, end_ns, author, note, created_ns) "
            "VALUES ('[]', 0, ?, '', '', 0)",
            [(T0 + S,)] * MOST_SILENCES,
        )
    with pytest.raises(BadRequest, match="there are 1000 silences, want fewer than 1000"):
        silence(server, 'a="b"', 0, 60)
    assert silence(server, 'a="b"', 1, 60).id == MOST_SILENCES + 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([10.0, 95.0]), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 10),
    st.integers(1, 8),
)
def test_nothing_is_sent_within_a_silence_and_restarts_change_nothing(
    steps: list[tuple[float, bool]], start: int, length: int
) -> None:
    def run(directory: str, *, restarting: bool) -> list[tuple[str, int]]:
        server = Server(f"{directory}/{restarting}.db", [rule_of(cooldown=25)])
        silence(server, 'host="web-7"', start * 10, (start + length) * 10)
        for number, (value, restart) in enumerate([*steps, (steps[-1][0], False), (steps[-1][0], False)]):
            if restart and restarting:
                server.restart()
            server.tick(number * 10, {7: value})
        found = server.control.rows("SELECT event, created_ns FROM notifications ORDER BY id")
        server.control.close()
        return [(event, (created_ns - T0) // S // 10) for event, created_ns in found]

    with tempfile.TemporaryDirectory() as directory:
        sent_at = run(directory, restarting=False)
        assert run(directory, restarting=True) == sent_at
    assert not [at for _, at in sent_at if start <= at < start + length]
    events = [event for event, _ in sent_at]
    assert events == ["firing", "resolved"] * (len(events) // 2) + ["firing"] * (len(events) % 2)


def test_matchers_are_written_as_they_are_read() -> None:
    text = 'a="x",b!="y\\"\\\\z",c=~"p|q\\n",d!~""'
    matchers = parse_matchers(text)
    assert ",".join(matcher.text for matcher in matchers) == text
    assert parse_matchers(",".join(matcher.text for matcher in matchers)) == matchers
