"""``tidegauge rules``: what is listed, and unit tests of every kind of rule that pass, fail and cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.main import main
from engine.config_rule_tests import values_of

CPU = """
[[tests]]
name = "busy"
[[tests.series]]
metric = "cpu_usage_percent"
labels = {host = "web-1"}
values = "50x4 95x4 80x4"
"""


def run(tmp_path: Path, text: str, config: str | None = None) -> int:
    if config is not None:
        (tmp_path / "rules.toml").write_text(config)
        text = 'config = "rules.toml"\n' + text
    (tmp_path / "tests.toml").write_text(text)
    return main(["rules", "test", str(tmp_path / "tests.toml")])


def expect(at: str, *alerts: str) -> str:
    return f'[[tests.expect]]\nat = "{at}"\nalerts = [{", ".join(alerts)}]\n'


def test_a_test_that_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alert = '{rule = "cpu-saturated", labels = {host = "web-1"}, value = 95, summary = "CPU of web-1 at 95 %"}'
    text = CPU + expect("4m", '{rule = "cpu-saturated"}').replace('{rule = "cpu-saturated"}', "")
    text += expect("1m55s") + expect("2m", alert) + expect("3m", '{rule = "cpu-saturated", notified = true}')
    assert run(tmp_path, text) == 0
    assert capsys.readouterr().out == "ok    busy\n1 tests, 0 failed\n"


def test_a_test_that_fails_says_where_and_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CPU + expect("2m", '{rule = "cpu-saturated", value = 96, state = "pending"}') + expect("3m")
    text += expect("4m", '{rule = "probe-down", labels = {host = "a"}}')
    assert run(tmp_path, text) == 1
    file = tmp_path / "tests.toml"
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  busy",
        f'      {file}:8: at 2m: cpu-saturated {{host="web-1"}}: want pending, got firing; want value 96, got 95',
        f'      {file}:11: at 3m: cpu-saturated {{host="web-1"}}: want no such alert, it is firing'
        " (CPU of web-1 at 95 %)",
        f'      {file}:14: at 4m: probe-down {{host="a"}}: want firing, there is no such alert',
        "1 tests, 1 failed",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tests = 5", "tests.toml:1: tests: got 5, want [[tests]] once for each entry"),
        ("a = 5\n" + CPU + expect("1m"), "tests.toml:1: a: unknown setting"),
        (CPU.replace("95x4", "95y4") + expect("1m"), 'tests.toml:7: tests[1].series[1].values: got "95y4", want parts'),
        (CPU.replace("95x4", "1..5x1") + expect("1m"), 'got "1..5x1"'),
        (CPU + 'start = "soon"\n' + expect("1m"), "unknown setting"),
        (CPU.replace('"busy"', '"busy"\nstart = "soon"') + expect("1m"), 'tests.toml:4: tests[1].start: got "soon"'),
        (CPU + expect("1m", '{rule = "nothing"}'), "tests.toml:8: expects 'nothing', which is no rule of the defaults"),
        ('config = "gone.toml"\n' + CPU + expect("1m"), "cannot read configuration"),
        (CPU, "tests[1].expect: missing"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    assert run(tmp_path, text) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_a_configuration_with_mistakes_cannot_be_meant_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, CPU + expect("1m"), "[[rules]]\nname = 'a'") == 2
    assert "rules.toml:1: rules[1].metric: missing" in capsys.readouterr().err


RULE = '[watch]\ndefault_rules = false\n[[rules]]\nname = "r"\nsummary = "at {value:.0f}"\n'
FIRES = '{rule = "r", '


def series(metric: str, values: str, labels: str = "", **more: str) -> str:
    text = f'[[tests.series]]\nmetric = "{metric}"\nvalues = "{values}"\nlabels = {{{labels}}}\n'
    return text + "".join(f'{name} = "{value}"\n' for name, value in more.items())


TEST = '[[tests]]\nname = "t"\n'
KINDS = {
    "band": (
        'metric = "t_x"\nop = "outside"\nthreshold = 10\nupper = 20\nclear = 12\nclear_upper = 18',
        series("t_x", "15x2 5x2 11x2 13x2 21x2"),
        expect("30s") + expect("1m", FIRES + "value = 5}") + expect("2m30s", FIRES + "value = 5}")
        + expect("3m") + expect("4m", FIRES + "value = 21}"),
    ),
    "change": (
        'metric = "t_x"\nop = ">"\nthreshold = 40\naggregate = "change_percent"\nover = "2m"',
        series("t_x", "10x8 10..15x5 15x10"),
        expect("3m30s") + expect("6m", FIRES + 'summary = "at 50"}') + expect("8m30s"),
    ),
    "weeks": (
        'metric = "t_x_total"\nop = "<"\nthreshold = -30\naggregate = "increase"\nover = "10m"\ngroup_by = []\n'
        'group = "sum"\ncompare_with = "weeks"\ncompare_past = 2',
        series("t_x_total", "0..600x61", 'host = "a"', every="1m", before="14d")
        + series("t_x_total", "0..1200x61", 'host = "a"', every="1m", before="7d")
        # 147.5 in 10 minutes are usual; here they are 160, then 80.
        + series("t_x_total", "0..320x21 328..560x30", 'host = "b"', every="1m", before="10m"),
        expect("17m55s") + expect("20m", FIRES + 'labels = {}, summary = "at -35"}'),
    ),
    "forecast": (
        'metric = "disk_used_percent"\nop = ">="\nthreshold = 100\nforecast = "4h"\nforecast_from = "2h"',
        # 6 percent an hour.
        series("disk_used_percent", "40..82x85", every="5m", before="4h"),
        expect("1m") + expect("1h54m") + expect("2h6m", FIRES + 'labels = {}, summary = "at 100"}'),
    ),
    "ratio of groups": (
        'metric = "app_errors_total"\nop = ">"\nthreshold = 5\naggregate = "increase"\nover = "2m"\nscale = 100\n'
        'divide_by = "app_requests_total"\ngroup_by = ["service"]',
        series("app_errors_total", "0..4x5", 'service = "shop", host = "a"')
        + series("app_requests_total", "0..10x5", 'service = "shop", host = "a"')
        + series("app_errors_total", "0x5", 'service = "shop", host = "b"')
        + series("app_requests_total", "0..40x5", 'service = "shop", host = "b"'),
        expect("2m", FIRES + 'labels = {service = "shop"}, summary = "at 8"}'),
    ),
    "absence": (
        'metric = "t_x"\nmatch = {site = "east"}\nop = ">"\nthreshold = 120\naggregate = "age"\ngroup_by = []',
        series("t_x", "1x4 _x8 1x4", 'site = "east", host = "a"') + series("t_x", "1x20", 'site = "west"'),
        expect("3m30s") + expect("3m35s", FIRES + 'labels = {site = "east"}, summary = "at 125"}') + expect("6m"),
    ),
    "nothing ever": (
        'metric = "t_x"\nop = ">"\nthreshold = 60\naggregate = "age"\ngroup_by = []',
        "",
        expect("1m") + expect("1m5s", FIRES + "labels = {}}"),
    ),
    "missing fires": (
        'metric = "t_x"\nop = ">"\nthreshold = 60\nwhen_missing = "firing"',
        series("t_x", "1x2"),
        expect("5m30s") + expect("5m35s", FIRES + "stale = false}"),
    ),
    "missing is ok": (
        'metric = "t_x"\nop = ">"\nthreshold = 60\nwhen_missing = "ok"',
        series("t_x", "90x2"),
        expect("5m30s", '{rule = "r"}') + expect("5m35s"),
    ),
    "late samples": (
        'metric = "t_x"\nop = ">"\nthreshold = 60\nfor = "2m"',
        # The breach lasts since 1m; it is known at 2m.
        series("t_x", "1x2 90x10", late="1m"),
        expect("1m55s") + expect("2m", FIRES + 'state = "pending"}') + expect("3m", FIRES + "notified = true}"),
    ),
    "a name without a table": (
        'metric = "up"\nop = "<"\nthreshold = 1\nfor = "1m"\nlabels = {team = "{job}-people"}',
        series("up", "1 0x5", 'job = "node"'),
        expect("1m", FIRES + 'state = "pending"}')
        + expect("2m", FIRES + 'labels = {job = "node", team = "node-people"}}'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rule_can_be_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    rule, given_series, expected = KINDS[kind]
    code = run(tmp_path, TEST + given_series + expected, RULE + rule)
    assert (code, capsys.readouterr().out) == (0, "ok    t\n1 tests, 0 failed\n")


def test_values_in_all_their_forms() -> None:
    assert values_of("5 -1.5x2 _ _x2 0..10x3 1e3") == [5.0, -1.5, -1.5, None, None, None, 0.0, 5.0, 10.0, 1000.0]
    assert values_of("") == []


@given(st.lists(st.none() | st.floats(-1e9, 1e9), max_size=20))
def test_values_round_trip(values: list[float | None]) -> None:
    text = " ".join("_" if value is None else repr(value) for value in values)
    assert values_of(text) == values


def test_list_shows_every_rule_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(RULE + KINDS["weeks"][0] + "\nenabled = false")
    assert main(["rules", "list", "--config", str(tmp_path / "c.toml")]) == 0
    assert capsys.readouterr().out == (
        "r  warning   percent of sum over all series of increase(t_x_total over 10m) to the median of the same hour of"
        " 2 past weeks < -30  (not enabled)\n"
    )
    assert main(["rules", "list"]) == 0
    assert "cpu-saturated           critical  cpu_usage_percent > 90\n" in capsys.readouterr().out
