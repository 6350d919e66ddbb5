"""Alerting rules of Prometheus: what each expression becomes, what is refused and why, and that both mean the same."""

from __future__ import annotations

import contextlib
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from api.cli.main import main
from api.promrules.conditions import condition_of
from api.promrules.expressions import Unsupported, parse
from api.promrules.files import import_rules
from api.promrules.templates import converted
from engine.alerting.rules import breaks
from engine.config import Rule
from engine.config_rule_files import read_rules
from engine.errors import BadRequest

SUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("up == 0", {"metric": "up", "op": "inside", "threshold": 0, "upper": 0}),
    ("up != 1", {"metric": "up", "op": "outside", "threshold": 1, "upper": 1}),
    ("5 <= a_b", {"metric": "a_b", "op": ">=", "threshold": 5}),
    ("a_b > 2 * 1024 ^ 2", {"metric": "a_b", "op": ">", "threshold": 2 * 1024**2}),
    ("a_b > -1", {"metric": "a_b", "op": ">", "threshold": -1}),
    ('a{x="1", y!="2", z=~"3.*", w=""} > 1h', {
        "metric": "a", "match": {"x": "1"}, "where": 'y!="2",z=~"3.*",w=""', "op": ">", "threshold": 3600,
    }),
    ('{__name__="a", x=\'q"\'} > 1', {"metric": "a", "match": {"x": 'q"'}, "op": ">", "threshold": 1}),
    ('a{x=~`\\d+`} > 1', {"metric": "a", "where": 'x=~"\\\\d+"', "op": ">", "threshold": 1}),
    ("rate(a[5m]) > 1", {"metric": "a", "aggregate": "rate", "over": "5m", "op": ">", "threshold": 1}),
    ("increase(a[1h30m]) > 1", {"metric": "a", "aggregate": "increase", "over": "90m", "op": ">", "threshold": 1}),
    ("delta(a[5m]) < 0", {"metric": "a", "aggregate": "change", "over": "5m", "op": "<", "threshold": 0}),
    ("max_over_time(a[5m]) < 0", {"metric": "a", "aggregate": "max", "over": "5m", "op": "<", "threshold": 0}),
    ("sum(a) by (x, y) > 1", {"metric": "a", "group_by": ("x", "y"), "group": "sum", "op": ">", "threshold": 1}),
    ("count by (x) (a) > 1", {"metric": "a", "group_by": ("x",), "group": "count", "op": ">", "threshold": 1}),
    ("avg(a * 100) > 1", {"metric": "a", "group_by": (), "group": "avg", "scale": 100, "op": ">", "threshold": 1}),
    ("a / b > 1", {"metric": "a", "divide_by": "b", "op": ">", "threshold": 1}),
    ('a{x="1"} / on(h) group_left() b > 1', {
        "metric": "a", "match": {"x": "1"}, "divide_by": "b", "divide_match": {}, "divide_on": ("h",),
        "op": ">", "threshold": 1,
    }),
    ("sum by (x) (rate(a[5m])) / sum by (x) (rate(b[5m])) * 100 > 5", {
        "metric": "a", "aggregate": "rate", "over": "5m", "group_by": ("x",), "group": "sum", "divide_by": "b",
        "scale": 100, "op": ">", "threshold": 5,
    }),
    ("100 * (1 - a / b) > 90", {"metric": "a", "divide_by": "b", "op": "<", "threshold": 0.1}),
    ("(a / b > 5 and b > 0) and b != 0", {"metric": "a", "divide_by": "b", "op": ">", "threshold": 5}),
    ("1 - a < 0.5", {"metric": "a", "op": ">", "threshold": 0.5}),
    ("-a < -5", {"metric": "a", "scale": -1, "op": "<", "threshold": -5}),
    ("predict_linear(a[1h], 4*3600) < 0", {
        "metric": "a", "forecast": "14400s", "forecast_from": "1h", "op": "<", "threshold": 0,
    }),
    ('absent(up{job="x"})', {
        "metric": "up", "match": {"job": "x"}, "aggregate": "age", "group_by": (), "op": ">", "threshold": 300,
    }),
    ("absent_over_time(up[1h])", {"metric": "up", "aggregate": "age", "group_by": (), "op": ">", "threshold": 3600}),
    ("# a comment\n(a) > (1) # and another", {"metric": "a", "op": ">", "threshold": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SUPPORTED, ids=[text for text, _ in SUPPORTED])
def test_what_an_expression_becomes(text: str, expected: dict[str, Any]) -> None:
    assert condition_of(text).settings == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a", "want a comparison"),
        ("a > b", "a comparison of two series"),
        ("1 > 2", "two numbers"),
        ("a > 1 and b > 2", "joined by and"),
        ("a / b > 1 and c > 0", "joined by and"),
        ("a / b > 1 and b > 1", "joined by and"),
        ("(a or b) > 1", "joined by or"),
        ("a unless b", "joined by unless"),
        ("a > bool 1", "bool"),
        ("a offset 1w > 1", "offset"),
        ("a @ 100 > 1", "@ modifier"),
        ("rate(a[5m:1m]) > 1", "subqueries"),
        ("a[5m] > 1", "a range without a function"),
        ("rate(a) > 1", "selector with a range"),
        ("rate(sum(a)) > 1", "selector with a range"),
        ("time() - a > 1", "time(...) is not supported"),
        ("histogram_quantile(0.9, sum by (le) (rate(a[5m]))) > 1", "histogram_quantile(...) is not supported"),
        ("topk(3, a) > 1", "topk(...) is not supported"),
        ("quantile(0.9, a) > 1", "quantile(...) is not supported"),
        ("sum without (x) (a) > 1", "without(...)"),
        ("a / ignoring(x) b > 1", "ignoring(...)"),
        ("a / on(x) group_left(y) b > 1", "group_left"),
        ("a / on(x) group_right b > 1", "group_right"),
        ("a * b > 1", "* between two series"),
        ("a - b > 1", "- between two series"),
        ("1 / a > 1", "a number / a series"),
        ("sum(a) / b > 1", "two different ways of reading"),
        ("sum by (x) (a / b) > 1", "an aggregation of ratios"),
        ("max(sum by (x) (a)) > 1", "an aggregation of an aggregation"),
        ("max(a + 1) > 1", "arithmetic inside of max"),
        ("(a + 1) / b > 1", "a ratio of sums"),
        ("a / b / c > 1", "a ratio of ratios"),
        ("a * 0 + 1 > 1", "times 0"),
        ("a / 0 > 1", "/ 0 is not supported"),
        ("absent(sum(a))", "only of a selector"),
        ("predict_linear(a, 3600) > 1", "a selector with a range"),
        ('{x="1"} > 1', "the name of one metric"),
        ('{__name__=~"a.*"} > 1', "the name of one metric"),
        ('a{x=~"("} > 1', "no regular expression"),
        ("a > 1 / 0", "cannot calculate"),
        ("a >", "cannot read the expression"),
        ("a{x=1} > 1", "cannot read the matchers"),
        ("a > 1 1", "cannot read the expression from '1'"),
        ("a ? 1", "cannot read the expression at '? 1'"),
        ("a(b", "want ')'"),
        ("", "cannot read the expression"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    with pytest.raises(Unsupported) as refused:
        condition_of(text)
    assert reason in str(refused.value)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab(){}[]<>=!~+-*/^%,.\"'0159emshby \n", max_size=40))
def test_nothing_else_comes_of_any_text(text: str) -> None:
    with contextlib.suppress(Unsupported):
        assert condition_of(text).settings["metric"]


NUMBERS = st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0, 100.0])
COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.tuples(st.sampled_from("+-*/"), NUMBERS, st.booleans()), max_size=5),
    st.sampled_from(sorted(COMPARISONS)),
    st.floats(-100, 100).map(lambda value: round(value, 2)),
    st.booleans(),
    st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=1, max_size=20),
)
def test_solved_arithmetic_judges_like_the_expression(
    steps: list[tuple[str, float, bool]], comparison: str, level: float, mirrored: bool, values: list[float]
) -> None:
    text, results = "a", list(values)
    for sign, number, number_first in steps:
        first = number_first and sign != "/"
        text = f"({number} {sign} {text})" if first else f"({text} {sign} {number})"
        results = [_calculated(sign, number, value) if first else _calculated(sign, value, number) for value in results]
    # Where rounding decides, either may be right.
    assume(all(abs(result - level) > 1e-6 * max(1.0, abs(level), abs(result)) for result in results))
    mirror = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
    found = condition_of(
        f"{level} {mirror[comparison]} {text}" if mirrored else f"{text} {comparison} {level}"
    ).settings
    rule = Rule(name="r", **found)
    judged = breaks(rule, np.array(values) * rule.scale)
    assert judged.tolist() == [COMPARISONS[comparison](result, level) for result in results]


def _calculated(sign: str, left: float, right: float) -> float:
    functions = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    return float(functions[sign](left, right))


def test_precedence_is_that_of_prometheus() -> None:
    assert parse("a - 1 - 2 > 3 * 4") == parse("((a - 1) - 2) > (3 * 4)")
    assert parse("2 ^ 3 ^ 2 + a > 1") == parse("((2 ^ (3 ^ 2)) + a) > 1")
    assert parse("-a ^ 2 > 1") == parse("(-(a ^ 2)) > 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ $labels.host }} at {{ $value }}", "{host} at {value}"),
        ("{{$labels.a}}{{ .Labels.b }}", "{a}{b}"),
        ('{{ index $labels "a" }}', "{a}"),
        ("{{ $value | humanize }} {{ humanizePercentage $value }}", "{value} {value:.2%}"),
        ('{{ printf "%.1f" $value }} {{ $value | printf "%.2f%%" }}', "{value:.1f} {value:.2f}%"),
        ("a {brace} \n", "a {{brace}}"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    assert converted(text) == expected


@pytest.mark.parametrize("text", ["{{ range query `up` }}", "{{ $externalURL }}", "{{ $value | humanizeDuration }}"])
def test_templates_without_a_counterpart(text: str) -> None:
    with pytest.raises(Unsupported, match="template action"):
        converted(text)


FILE = r"""
groups:
  - name: node
    interval: 30s
    rules:
      - alert: InstanceDown
        expr: up == 0
        for: 2m
        labels: {severity: page, team: "{{ $labels.job }}", bad: "{{ $value }}"}
        annotations:
          summary: "{{ $labels.instance }} down"
          runbook: here
      - alert: Errors
        expr: sum by (job) (rate(e_total[5m])) / sum by (job) (rate(r_total[5m])) > 0.05
        keep_firing_for: 1h
        annotations: {description: "{{ $labels.instance }}"}
      - alert: InstanceDown
        expr: up{job="b"} == 0
      - alert: Long
        expr: rate(a[2d]) > 1
      - record: a:b
        expr: sum(a)
      - alert: Odd
        expr: a > 1
        query_offset: 1m
      - alert: NoExpression
      - nothing: at all
  - name: empty
"""


def test_a_file_is_imported_rule_by_rule() -> None:
    found = import_rules(FILE, path="f.yml", names={})
    rules, problems = read_rules(found.text, path="o.toml")
    assert problems == []
    assert [rule.name for rule in rules] == ["InstanceDown", "Errors", "InstanceDown-2"]
    down, errors, _ = rules
    assert (down.severity, down.labels, down.summary) == ("critical", {"team": "{job}"}, "{instance} down")
    assert down.annotations == {"runbook": "here"}
    assert (down.for_.seconds, down.when_missing, down.threshold, down.upper) == (120, "ok", 0.0, 0.0)
    assert (errors.keep_firing.seconds, errors.group_by, errors.divide_by) == (3600, ("job",), "r_total")
    assert found.left_out == [
        'node/Long: rules[1].over: got "2d", want a duration such as "30s", from 1s to 1d',
        "node/a:b: recording rules are not supported",
        "node/Odd: 'query_offset' is not supported",
        "node/NoExpression: want an expr",
        "node/8: want an alert",
        "group empty: want a list of rules",
    ]
    assert found.notes == [
        "group node: rules are judged every watch.tick, whatever the group's interval",
        "node/InstanceDown: bad is left out: a label with the value would make another alert of each",
        "node/Errors: rate, increase and delta are not extrapolated to the ends of their window",
        "node/Errors: description is left out: its alerts have no label 'instance'",
        "node/InstanceDown: is called InstanceDown-2, as a name may be given only once",
    ]


@pytest.mark.parametrize("text", ["", "a: 1", "- 1", "groups: 5", "groups: ["])
def test_what_is_no_file_of_rules(text: str) -> None:
    with pytest.raises(BadRequest, match=r"cannot import f\.yml"):
        import_rules(text, path="f.yml", names={})


def test_the_same_groups_in_a_kubernetes_resource() -> None:
    text = "kind: PrometheusRule\nspec:\n" + "".join(f"  {line}\n" for line in FILE.splitlines())
    assert import_rules(text, path="f", names={}).text == import_rules(FILE, path="f", names={}).text


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_texts_make_a_file_that_can_be_read(name: str, label: str, summary: str) -> None:
    import yaml

    rule = {"alert": name, "expr": "a > 1", "labels": {"x": label}, "annotations": {"summary": summary}}
    text = yaml.safe_dump({"groups": [{"name": name, "rules": [rule]}]})
    found = import_rules(text, path="f", names={})
    rules, problems = read_rules(found.text, path="o")
    assert problems == []
    assert len(rules) + len(found.left_out) == 1


def test_imported_rules_are_checked_and_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "alerts.yml").write_text(FILE)
    output = tmp_path / "alerts.toml"
    assert main(["rules", "import", str(tmp_path / "alerts.yml"), "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()[-1]) == ("", "3 rules imported, 6 left out")
    assert f"{tmp_path}/alerts.yml: left out: node/a:b: recording rules are not supported" in captured.err
    assert main(["rules", "check", str(output)]) == 0
    assert capsys.readouterr().out == "3 rules are valid\n"
    (tmp_path / "c.toml").write_text('[watch]\ndefault_rules = false\nrule_files = ["alerts.toml"]\n')
    (tmp_path / "tests.toml").write_text(
        """
        config = "c.toml"
        [[tests]]
        name = "down for two minutes"
        [[tests.series]]
        metric = "up"
        labels = {instance = "a:9100", job = "node"}
        values = "1x2 0x6 1"
        [[tests.expect]]
        at = "2m55s"
        alerts = [{rule = "InstanceDown", state = "pending"}]
        [[tests.expect]]
        at = "3m"
        alerts = [{rule = "InstanceDown", labels = {instance = "a:9100", job = "node", team = "node"}}]
        [[tests.expect]]
        at = "4m"
        alerts = []
        """
    )
    assert main(["rules", "test", str(tmp_path / "tests.toml")]) == 0


def test_importing_what_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "import", str(tmp_path / "gone.yml")]) == 2
    (tmp_path / "a.yml").write_text("a: [")
    assert main(["rules", "import", str(tmp_path / "a.yml")]) == 2
    assert "a.yml:1: not valid YAML" in capsys.readouterr().err


def test_names_are_given_once_over_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('[[rules]]\nname = "a"\nmetric = "m"\nop = ">"\nthreshold = 1\n')
    (tmp_path / "b.toml").write_text((tmp_path / "a.toml").read_text() + 'channels = ["any"]\n')
    assert main(["rules", "check", str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]) == 1
    found = f'rules[1].name: got "a", want a name of its own: {tmp_path}/a.toml has this one already'
    assert capsys.readouterr().out == f"{tmp_path}/b.toml:2: {found}\n"
