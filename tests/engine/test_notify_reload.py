"""Channels, routes, escalation and inhibition taken up while the server runs: all or nothing, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from engine.catalog.control import ControlDatabase
from engine.config import Channel, load_config
from engine.delivery.attempt import Attempt
from engine.delivery.outbox import NOT_CONFIGURED, Outbox
from engine.errors import BadConfig
from engine.maintenance.scheduler import Job, Scheduler
from engine.vitals import Vitals
from tests.api.test_error_shape import Caller
from tests.engine.test_delivery import T0, channel_of, put
from tests.engine.test_rule_reload import HEAD, Running, rule

RULES = rule("hot") + rule("hotter", 97)


def board(name: str, **more: str) -> str:
    """Return a channel that the server keeps itself."""
    settings = "".join(f"{key} = {text}\n" for key, text in more.items())
    return f'[[channels]]\nname = "{name}"\ntype = "dashboard"\n{settings}'


def nowhere(name: str) -> str:
    """Return a channel behind which nobody listens."""
    return f'[[channels]]\nname = "{name}"\nurl = "http://127.0.0.1:9/"\n'


def step(name: str, after: str, channel: str) -> str:
    return f'[[escalation]]\nname = "{name}"\nafter = "{after}"\nchannels = ["{channel}"]\n'


def route(name: str, channel: str, match: str) -> str:
    return f'[[routes]]\nname = "{name}"\nmatch = \'{match}\'\nchannels = ["{channel}"]\n'


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    running: list[Running] = []

    def start(text: str) -> Running:
        running.append(Running(tmp_path, text))
        return running[-1]

    yield start
    for each in running:
        each.engine.close()


def told(run: Running) -> list[tuple[str, str, int | None]]:
    """Return channel, event and alert of every notification, in order."""
    return run.engine.control.rows("SELECT channel, event, alert_id FROM notifications ORDER BY id")  # type: ignore[return-value]


def test_new_alerts_take_new_channels_and_routes_and_firing_ones_keep_theirs(make: Any) -> None:
    run = make(HEAD + board("a") + rule("hot"))
    run.tick(x=95)
    run.write(HEAD + board("a") + board("b") + route("east", "b", 'host="y"') + rule("hot"))
    run.engine.reloader.poll()
    assert run.engine.outbox.channels == ("a", "b")
    run.tick(x=95, y=95)
    run.tick(x=10, y=10)
    assert told(run) == [
        ("a", "firing", 1), ("b", "firing", 2), ("a", "resolved", 1), ("b", "resolved", 2),
    ]  # fmt: skip
    assert run.engine.reloader.source.waiting == ()


def test_a_reload_says_what_it_has_changed(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = make(HEAD + board("a") + board("b") + board("c") + rule("hot"))
    caplog.set_level("INFO")
    run.write(HEAD + board("a") + board("b", budget="5") + board("d") + step("boss", "1m", "d") + rule("hot", 91))
    status, _, raw = Caller(Application(run.engine, run.engine.config))("POST", "/v1/rules/reload")
    assert (status, json.loads(raw)) == (
        200,
        {
            "added": [], "changed": ["hot"], "removed": [], "kept": [],
            "channels": {"added": ["d"], "changed": ["b"], "removed": ["c"], "kept": ["a"]},
            "parts": ["escalation"], "given_up": {}, "waiting": [],
        },
    )  # fmt: skip
    assert "channels: 1 added (d), 1 changed (b), 1 removed (c), 1 kept; escalation changed" in caplog.text
    assert run.engine.reloader.reload().parts == ()


def test_what_waits_for_a_removed_channel_is_told_counted_and_kept(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = make(HEAD + board("a") + nowhere("gone") + rule("hot"))
    run.tick(x=95, y=95)
    run.write(HEAD + board("a") + rule("hot"))
    reloaded = run.engine.reloader.reload()
    assert (reloaded.channels.removed, reloaded.given_up) == (("gone",), {"gone": 2})
    assert "2 notifications for gone were given up" in reloaded.sentence
    assert "2 notifications for the channel 'gone', which is not configured, were given up" in caplog.text
    assert run.metric("tidegauge_notifications_total", outcome="no_channel") == 2
    dead = run.engine.outbox.find(state="dead")
    assert [(each.channel, each.last_error) for each in dead] == [("gone", NOT_CONFIGURED)] * 2
    # Whoever was told hears of the end, and that it reaches nobody there is counted too.
    run.tick(x=10, y=95)
    run.engine._deliverer.give_up()
    assert run.metric("tidegauge_notifications_total", outcome="no_channel") == 3
    # With the channel back they may be revived.
    run.write(HEAD + board("a") + board("gone") + rule("hot"))
    run.engine.reloader.reload()
    for each in run.engine.outbox.find(state="dead"):
        run.engine.outbox.revive(each.id, run.clock.now_ns())
    while run.engine.outbox.deliver_due(run.clock.now_ns()):
        pass
    assert run.engine.outbox.counts()["dead"] == 0
    kept = run.engine.kept_notifications(channel="gone", limit=10)
    assert [body["event"] for _, _, body in kept] == ["resolved", "firing", "firing"]


def test_without_any_channel_left_what_waits_is_told_too(make: Any) -> None:
    run = make(HEAD + nowhere("gone") + rule("hot"))
    run.tick(x=95)
    run.engine.close()
    again = make(HEAD + rule("hot"))
    assert again.engine._deliverer.give_up() == {"gone": 1}


def test_a_file_with_mistakes_in_channels_and_routes_changes_nothing_and_has_them_all(make: Any) -> None:
    run = make(HEAD + board("a") + rule("hot"))
    run.tick(x=95)
    run.write(
        HEAD + board("b") + route("east", "nobody", 'host="y"') + step("boss", "soon", "b")
        + rule("hot", 97, channels='["elsewhere"]')
    )  # fmt: skip
    with pytest.raises(BadConfig) as error:
        run.engine.reloader.reload()
    assert [part for part in ("nobody", "soon", "elsewhere") if part not in str(error.value.problems)] == []
    assert run.engine.outbox.channels == ("a",)
    run.tick(x=95)
    assert run.open_alerts() == [("hot", "x", "firing")]
    assert run.metric("tidegauge_rules_current") == 0


def test_channels_that_cannot_be_sent_to_are_all_told_and_change_nothing(make: Any, monkeypatch: Any) -> None:
    run = make(HEAD + board("a") + rule("hot"))

    def refuse(channel: Channel) -> Any:
        raise BadConfig(f"cannot notify channel {channel.name!r}: refused")

    monkeypatch.setattr(run.engine.outbox, "_sender", refuse)
    run.write(HEAD + board("a") + nowhere("b") + nowhere("c") + rule("hot", 97))
    with pytest.raises(BadConfig) as error:
        run.engine.reloader.reload()
    assert error.value.problems == ("cannot notify channel 'b': refused", "cannot notify channel 'c': refused")
    assert run.engine.reloader.source.problem == "; ".join(error.value.problems)
    assert [each.threshold for each in run.engine.rule_watch.rules] == [90]
    assert run.engine.outbox.channels == ("a",)


def test_steps_of_escalation_are_taken_up_for_what_fires(make: Any) -> None:
    run = make(HEAD + board("a") + board("b") + step("boss", "10m", "b") + rule("hot", channels='["a"]'))
    run.tick(x=95)
    run.write(HEAD + board("a") + board("b") + step("boss", "1m", "b") + rule("hot", channels='["a"]'))
    run.engine.reloader.reload()
    run.tick(59, x=95)
    assert told(run) == [("a", "firing", 1)]
    run.tick(1, x=95)
    assert told(run)[1:] == [("b", "escalated", 1)]


def test_links_begin_with_the_public_url(make: Any) -> None:
    group = board("a", group_by='["rule"]', group_wait='"0s"')
    run = make(HEAD + group + rule("hot"))
    run.tick(x=95)
    run.write('[server]\npublic_url = "https://tide.example.org/"\n' + HEAD + group + rule("hot"))
    run.engine.reloader.reload()
    assert run.engine.reloader.source.waiting == ()
    run.tick(3_600, x=10)
    bodies = [json.loads(body) for (body,) in run.engine.control.rows("SELECT body FROM notifications ORDER BY id")]
    assert [body["list"] for body in bodies] == [
        "/v1/notifications/1",
        "https://tide.example.org/v1/notifications/2",
    ]


def test_inhibition_is_taken_up_and_given_up(make: Any) -> None:
    inhibit = '[[inhibit]]\nname = "worse"\nsource = { rule = "hotter" }\ntarget = { rule = "hot" }\nequal = ["host"]\n'
    run = make(HEAD + board("a") + RULES + inhibit)
    run.tick(x=98)
    assert told(run) == [("a", "firing", 1)]
    assert run.engine.alerts.get(1).rule == "hotter"
    run.write(HEAD + board("a") + RULES)
    run.engine.reloader.reload()
    run.tick(x=98)
    assert told(run)[1:] == [("a", "firing", 2)]
    run.write(HEAD + board("a") + RULES + inhibit)
    run.engine.reloader.reload()
    run.tick(x=98, y=98)
    assert [alert for _, _, alert in told(run)[2:]] == [3]
    assert run.engine.alerts.get(3).rule == "hotter"


@pytest.mark.parametrize("restarts", [False, True], ids=["reload", "restart"])
def test_a_restart_takes_up_who_is_told_as_a_reload_does(tmp_path: Path, restarts: bool) -> None:
    everyone = 'host=~".+"'
    before = board("a") + board("b") + step("boss", "10m", "b") + route("all", "a", everyone)
    after = board("b") + board("c") + step("boss", "2m", "c") + step("owner", "5m", "b") + route("all", "c", everyone)
    run = Running(tmp_path, HEAD + before + rule("hot"))
    run.tick(x=95, y=95)
    run.engine.alerts.ack(2, by="ann", now_ns=run.clock.now_ns())
    if restarts:
        now_ns = run.clock.now_ns()
        run.engine.close()
        run = Running(tmp_path, HEAD + after + rule("hot"))
        run.clock.set_ns(now_ns)
    else:
        run.write(HEAD + after + rule("hot"))
        run.engine.reloader.reload()
    run.tick(119, x=95, y=95)
    run.tick(1, x=95, y=95, z=95)
    run.tick(180, x=95, y=95, z=95)
    run.tick(5, x=10, y=10, z=10)
    assert told(run) == [
        *[("a", "firing", 1), ("a", "firing", 2)],
        *[("c", "firing", 3), ("c", "escalated", 1), ("c", "escalated", 3), ("b", "escalated", 1)],
        # Whoever was told hears of the end, those that are gone among them.
        *[("a", "resolved", 1), ("c", "resolved", 1), ("b", "resolved", 1)],
        *[("a", "resolved", 2), ("c", "resolved", 3)],
    ]
    run.engine.close()


# --- the outbox and the jobs


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlDatabase]:
    database = ControlDatabase(str(tmp_path / "control.sqlite"))
    yield database
    database.close()


class Recorder:
    """Sends nowhere, and notes what it would have sent to which address."""

    sent: list[tuple[str, str]]

    def __init__(self, channel: Channel) -> None:
        self._url = channel.url or ""

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        Recorder.sent.append((self._url, delivery))
        return Attempt(True, 204)


def test_what_waits_for_a_changed_channel_goes_where_it_is_now(control: ControlDatabase) -> None:
    Recorder.sent = []
    outbox = Outbox(control, {"ops": channel_of("http://old/"), "same": channel_of("http://same/")}, sender=Recorder)
    same = outbox.prepare({"same": channel_of("http://same/")})["same"]
    put(control, "key-1")
    outbox.take_up(outbox.prepare({"ops": channel_of("http://new/"), "same": channel_of("http://same/")}))
    assert outbox.prepare({"same": channel_of("http://same/")})["same"] is same
    assert outbox.deliver_due(T0) == 1
    assert Recorder.sent == [("http://new/", "key-1")]


def test_nothing_is_given_up_while_channels_are_exchanged(control: ControlDatabase) -> None:
    outbox = Outbox(control, {}, sender=Recorder)
    with outbox.exchange:
        put(control, "key-1", channel="coming")
        assert outbox.give_up_unknown(T0) == {}
        outbox.take_up(outbox.prepare({"coming": channel_of("http://new/", name="coming")}))
    assert outbox.give_up_unknown(T0) == {}
    assert outbox.find(state="waiting") != []


def test_a_job_that_is_stopped_does_not_run_again_and_its_name_is_free() -> None:
    scheduler, ran = Scheduler(Vitals()), []
    scheduler.start(Job("one", 3_600.0, lambda: ran.append("one")))
    scheduler.stop("one")
    scheduler.start(Job("one", 3_600.0, lambda: ran.append("another")))
    scheduler.close()
    # Closed: nothing begins any more.
    scheduler.start(Job("two", 0.0, lambda: ran.append("two")))
    scheduler.close()
    assert ran == []


def test_built_in_rules_may_be_confirmed(tmp_path: Path) -> None:
    run = Running(tmp_path, "[query]\nin_process = true\n")
    before = {each.name for each in run.engine.rule_watch.rules if each.confirm}
    run.write("[watch]\nconfirm = true\n[query]\nin_process = true\n")
    changed = run.engine.reloader.reload().rules.changed
    after = {each.name for each in run.engine.rule_watch.rules if each.confirm}
    run.engine.close()
    assert before == {"response-slow"}
    assert set(changed) == after - before == {"cpu-saturated", "memory-exhausted", "probe-down"}


def test_default_routes_and_escalation_follow_the_channels(tmp_path: Path) -> None:
    run = Running(tmp_path, HEAD + board("a") + rule("hot"))
    assert run.engine.alerts._notifying.steps == ()
    slack = '[[channels]]\nname = "chat"\ntype = "slack"\nurl = "http://127.0.0.1:9/"\n'
    run.write(HEAD + board("a") + slack + rule("hot"))
    run.engine.reloader.reload()
    steps = run.engine.alerts._notifying.steps
    assert [each.name for each in steps] == ["security", "system-critical", "integration", "performance"]
    assert set(steps) == set(load_config(str(run.file)).effective_escalation)
    run.engine.close()
