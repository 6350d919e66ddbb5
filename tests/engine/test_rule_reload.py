"""Rules taken up while the server runs: what stays, what ends, and that a bad file changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, check_file, load_config
from engine.errors import BadConfig, BadRequest
from engine.runtime import Engine

S = NS_PER_SECOND
HEAD = '[watch]\ndefault_rules = false\ntick = "5m"\n[query]\nin_process = true\n'


def rule(name: str, threshold: float = 90, **more: Any) -> str:
    text = f'[[rules]]\nname = "{name}"\nmetric = "cpu_x"\nop = ">"\nthreshold = {threshold}\n'
    return text + "".join(f"{key.rstrip('_')} = {value}\n" for key, value in more.items())


class Running:
    """An engine over a configuration file, without jobs of its own in time."""

    def __init__(self, tmp_path: Path, text: str) -> None:
        self.file = tmp_path / "c.toml"
        self.write(text)
        self.clock = ManualClock()
        config = load_config(str(self.file))
        self.engine = Engine.open(
            str(tmp_path / "data"), config, clock=self.clock, mode="embedded", config_path=str(self.file)
        )
        self._written = 1

    def write(self, text: str, name: str | None = None) -> None:
        file = self.file if name is None else self.file.parent / name
        file.write_text(text)
        # Whatever the file system's clock: the file looks otherwise than before.
        self._written = getattr(self, "_written", 0) + 1
        os.utime(file, ns=(self._written * S, self._written * S))

    def tick(self, seconds: int = 5, **values: float) -> None:
        self.clock.advance(seconds)
        lines = "".join(f"cpu,host={host} x={value} {self.clock.now_ns()}\n" for host, value in values.items())
        self.engine.submit_lines(lines.encode()).result()
        self.engine.watcher.tick()

    def open_alerts(self) -> list[tuple[str, str, str]]:
        return sorted((each.rule, each.labels.get("host", ""), each.state) for each in self.engine.alerts.find())

    def reasons(self) -> list[str]:
        return [
            text.removesuffix("; notifies nobody: no channel is configured")
            for text in self.engine.alerts.alert_events_table()["detail"]
            if "rule" in text
        ]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.engine.vitals.registry.get_sample_value(name, labels)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    running: list[Running] = []

    def start(text: str) -> Running:
        running.append(Running(tmp_path, text))
        return running[-1]

    yield start
    for each in running:
        each.engine.close()


def test_unchanged_rules_remember_changed_ones_judge_anew_and_gone_ones_end(make: Any) -> None:
    run = make(HEAD + rule("same", for_='"1m"') + rule("raised") + rule("gone") + rule("elsewhere"))
    run.tick(a=95, b=99)
    assert len(run.open_alerts()) == 8
    run.tick(30, a=95, b=99)
    run.write(
        HEAD + rule("same", for_='"1m"') + rule("raised", 97) + rule("elsewhere", group_by="[]") + rule("new", 98)
    )
    run.engine.reloader.poll()
    assert run.open_alerts() == [
        ("raised", "a", "firing"),
        ("raised", "b", "firing"),
        ("same", "a", "pending"),
        ("same", "b", "pending"),
    ]
    assert run.reasons() == ["the rule is no longer configured"] * 2 + ["the rule looks at other series now"] * 2
    # The minute of "same" has gone on; "raised" ends for what is below its new threshold.
    run.tick(30, a=95, b=99)
    assert run.open_alerts() == [
        ("elsewhere", "", "firing"),
        ("new", "b", "firing"),
        ("raised", "b", "firing"),
        ("same", "a", "firing"),
        ("same", "b", "firing"),
    ]
    assert run.metric("tidegauge_rule_reloads_total", outcome="done") == 1


def test_what_has_not_changed_is_not_read_again(make: Any) -> None:
    run = make(HEAD + rule("a"))
    for _ in range(3):
        run.engine.reloader.poll()
    assert run.metric("tidegauge_rule_reloads_total", outcome="done") is None
    changes = run.engine.reloader.reload().rules
    assert (changes.kept, changes.sentence) == (("a",), "0 added, 0 changed, 0 removed, 1 kept")


def test_a_bad_file_changes_nothing_and_says_why_until_it_is_good(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = make(HEAD + rule("a"))
    run.tick(a=95)
    run.write(HEAD + rule("a", 97).replace("threshold", "treshold"))
    run.engine.reloader.poll()
    assert "treshold" in caplog.text
    problem = run.engine.reloader.source.problem
    assert problem is not None
    assert f"{run.file}:10: rules[1].treshold: unknown setting; did you mean 'threshold'?" in problem
    assert (run.metric("tidegauge_rules_current"), run.metric("tidegauge_rule_reloads_total", outcome="failed")) == (
        0,
        1,
    )
    caplog.clear()
    run.engine.reloader.poll()
    assert not caplog.text
    run.tick(a=95)
    assert run.open_alerts() == [("a", "a", "firing")]
    run.file.unlink()
    run.engine.reloader.poll()
    assert "cannot read configuration" in caplog.text
    with pytest.raises(BadConfig, match="cannot read configuration"):
        run.engine.reloader.reload()
    run.write(HEAD + rule("a", 97))
    run.engine.reloader.poll()
    assert (run.engine.reloader.source.problem, run.metric("tidegauge_rules_current")) == (None, 1)
    run.tick(a=95)
    assert run.open_alerts() == []


def test_other_parts_wait_for_a_start(make: Any) -> None:
    run = make(HEAD + rule("a"))
    run.write(HEAD + "[ingest]\nmax_tables = 7\n" + rule("a", 97))
    run.engine.reloader.reload()
    assert run.engine.reloader.source.waiting == ("ingest",)


def test_rule_files_are_read_with_the_configuration_and_watched(make: Any, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "one.toml").write_text(rule("one"))
    head = HEAD.replace("[query]", 'rule_files = ["rules/*.toml"]\n[query]')
    run = make(head + rule("own"))
    assert [each.name for each in run.engine.rule_watch.rules] == ["own", "one"]
    run.write(rule("two"), "rules/two.toml")
    run.engine.reloader.poll()
    assert [each.name for each in run.engine.rule_watch.rules] == ["own", "one", "two"]
    run.write(rule("own") + "[watch]\n", "rules/two.toml")
    run.engine.reloader.poll()
    problem = run.engine.reloader.source.problem or ""
    assert f'two.toml:2: rules[1].name: got "own", want a name of its own: {run.file} has this one already' in problem
    assert "two.toml:6: watch: unknown setting" in problem
    (tmp_path / "rules" / "two.toml").unlink()
    run.engine.reloader.poll()
    assert [each.name for each in run.engine.rule_watch.rules] == ["own", "one"]


def test_a_rule_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[watch]\nrule_files = ["gone.toml"]')
    (problem,) = check_file(str(file))[1]
    assert problem.sentence.startswith(f"{file}: watch.rule_files: cannot read rules {tmp_path}/gone.toml")


def test_without_a_file_there_is_nothing_to_reload(tmp_path: Path) -> None:
    with Engine.open(str(tmp_path / "data"), Config(query=Query(in_process=True)), mode="embedded") as engine:
        engine.reloader.poll()
        with pytest.raises(BadRequest, match="without a configuration file"):
            engine.reloader.reload()


def test_groups_that_a_rule_no_longer_makes_end_at_the_next_start_too(tmp_path: Path) -> None:
    first = Running(tmp_path, HEAD + rule("r", group_by='["host"]'))
    first.tick(a=95)
    first.write(HEAD + rule("r"))
    first.engine.close()
    second = Running(tmp_path, HEAD + rule("r"))
    assert second.open_alerts() == []
    assert second.reasons() == ["the rule looks at other series now"]
    second.engine.close()


ELSEWHERE = "the rule looks at other series now"
LOOKING: dict[str, tuple[dict[str, str], list[tuple[str, str, str]], list[str]]] = {
    "other labels": ({"match": '{host = "a"}'}, [("r", "a", "firing")], [ELSEWHERE] * 2),
    "other matchers": ({"where": "'host!=\"a\"'"}, [("r", "b", "firing")], [ELSEWHERE] * 2),
    "another metric": ({"metric": '"cpu_y"'}, [], [ELSEWHERE] * 2),
    "groups": ({"group_by": '["host"]'}, [("r", "a", "firing"), ("r", "b", "firing")], [ELSEWHERE] * 2),
    "another level": ({"threshold": "97"}, [("r", "b", "firing")], []),
    "another sentence": ({"summary": '"hot"'}, [("r", "a", "firing"), ("r", "b", "firing")], []),
    "the same": ({}, [("r", "a", "firing"), ("r", "b", "firing")], []),
}


@pytest.mark.parametrize("restarts", [False, True], ids=["reload", "restart"])
@pytest.mark.parametrize("change", LOOKING)
def test_a_restart_takes_a_changed_rule_up_as_a_reload_does(tmp_path: Path, change: str, restarts: bool) -> None:
    settings, after, reasons = LOOKING[change]
    kept = {"name": '"r"', "metric": '"cpu_x"', "op": '">"', "threshold": "90", **settings}
    text = HEAD + "[[rules]]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items())
    run = Running(tmp_path, HEAD + rule("r"))
    run.tick(a=95, b=99)
    assert run.open_alerts() == [("r", "a", "firing"), ("r", "b", "firing")]
    if restarts:
        now_ns = run.clock.now_ns()
        run.engine.close()
        run = Running(tmp_path, text)
        run.clock.set_ns(now_ns)
    else:
        run.write(text)
        run.engine.reloader.reload()
    assert run.reasons() == reasons
    ended = run.metric("tidegauge_alert_transitions_total", to="resolved")
    assert (ended or 0) == len(reasons)
    run.tick(a=95, b=99)
    assert run.open_alerts() == after
    # As often as one likes.
    run.engine.close()
    run = Running(tmp_path, text)
    assert run.open_alerts() == after
    assert run.reasons() == reasons
    run.engine.close()
