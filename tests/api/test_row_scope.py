"""A token limited by labels is told what an engine would tell it that had never seen the rest.

Two engines get the same series of team "payments"; one of them also gets those of another team, whose every name says
"secret".  A limited token at that one and everyone at the other must be told the same, by every route and relation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.access import RULES, rule_of
from api.app import Application
from engine.catalog.callers import Caller as Asker
from engine.catalog.callers import caller_of_token
from engine.catalog.tokens import digest_of
from engine.clock import ManualClock
from engine.config import Config, Query, Rule, ScaleTarget, Server, Token
from engine.detection.store import Anomaly
from engine.errors import Forbidden
from engine.model.matchers import parse_matchers
from engine.query.relations import FIXED_RELATIONS
from engine.runtime import FINDINGS, Engine
from tests.api.test_error_shape import JSON, Caller

NOW_NS = 1_700_000_000_000_000_000
MINUTE_NS = 60_000_000_000
LIMIT = 'team="payments"'
RULES_OF_THE_TEST = (Rule(name="busy", metric="cpu_usage", op=">", threshold=50.0),)

#: What each relation of SQL is for a limited caller.  A new one fails the test until it stands here.
RELATIONS = {
    **dict.fromkeys(("samples", "series", "metrics", "alerts", "alert_events", "anomalies", "silences"), "filtered"),
    "deploys": "filtered",
    **dict.fromkeys(("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d"), "filtered"),
    "bottlenecks": "refused",
    "decisions": "refused",
    # A reserved name that nothing fills yet.
    "audit": "absent",
}


def line(table: str, team: str, host: str, fields: str, minute: int, more: str = "") -> str:
    return f"{table},host={host}{more},team={team} {fields} {NOW_NS - (30 - minute) * MINUTE_NS}"


def payments() -> list[str]:
    lines = []
    for minute in range(30):
        lines += [
            line("cpu", "payments", "a", f"usage={minute},idle=1", minute),
            line("cpu", "payments", "b", f"usage={60 + minute}", minute, ",rack=r1"),
            line("orders", "payments", "a", f"count={minute}", minute),
        ]
    return lines


def secret() -> list[str]:
    lines = []
    for minute in range(30):
        lines += [
            line("cpu", "secret", "secret-host", f"usage={99 + minute}", minute, ",secret_rack=secret-9"),
            # The same host name in another team, and samples without a team.
            line("cpu", "secret", "a", f"usage={1000 + minute}", minute),
            f"cpu,host=secret-lone usage={minute} {NOW_NS - (30 - minute) * MINUTE_NS}",
            line("secret_table", "secret", "secret-host", f"secret_field={minute}", minute),
        ]
    return lines


PROM_PAYMENTS = "\n".join(
    f'http_requests_total{{team="payments",code="{code}"}} {code} {(NOW_NS - MINUTE_NS) // 1_000_000}'
    for code in (200, 500)
)
PROM_SECRET = 'http_requests_total{team="secret",code="secret-code"} 7\nsecret_metric{team="secret"} 9'


def anomaly(series_id: int, **labels: str) -> Anomaly:
    return Anomaly(
        time_ns=NOW_NS, series_id=series_id, metric="cpu_usage", labels=labels, value=1.0, score=0.9, cause="spike",
        expected_low=0.0, expected_high=1.0, reason=f"{labels}",
    )  # fmt: skip


def configuration(tokens: tuple[Token, ...] = ()) -> Config:
    return Config(
        query=Query(in_process=True),
        rules=RULES_OF_THE_TEST,
        scale=(ScaleTarget(target="web", match={}),),
        server=Server(tokens=tokens),
    )


def filled(path: Path, *, with_secrets: bool) -> Engine:
    engine = Engine.open(str(path), configuration(), clock=ManualClock(NOW_NS))
    for lines in (secret() if with_secrets else [], payments()):
        if lines:
            assert not engine.submit_lines("\n".join(lines).encode()).result().refused
    for text in (PROM_SECRET, PROM_PAYMENTS) if with_secrets else (PROM_PAYMENTS,):
        engine.submit_prometheus_text(text.encode()).result()
    if with_secrets:
        engine.anomalies.record([anomaly(1, team="secret", host="secret-host"), anomaly(2, host="secret-lone")])
        engine.deploys.record("cpu", "secret-2", time_ns=NOW_NS, now_ns=NOW_NS, labels={"team": "secret"})
        engine.deploys.record("secret-service", "1", time_ns=NOW_NS, now_ns=NOW_NS)
    engine.anomalies.record([anomaly(3, team="payments", host="a")])
    engine.deploys.record("cpu", "2", time_ns=NOW_NS - MINUTE_NS, now_ns=NOW_NS, labels={"team": "payments"})
    engine.watcher.tick()
    engine.decider.tick()
    # Half of what the questions read is in segments.
    engine.sealer.seal()
    for lines in (secret()[-4:] if with_secrets else [], payments()[-3:]):
        if lines:
            engine.submit_lines("\n".join(lines).encode()).result()
    return engine


TOKENS = (
    Token(name="limited", sha256="", scopes=("read", "ack", "admin"), match=LIMIT),
    Token(name="all", sha256="", scopes=("admin",)),
)


def _tokens() -> tuple[Token, ...]:
    return tuple(
        Token(name=each.name, sha256=digest_of(each.name), scopes=each.scopes, match=each.match) for each in TOKENS
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    path = tmp_path_factory.mktemp("scope")
    with filled(path / "all", with_secrets=True) as whole, filled(path / "one", with_secrets=False) as part:
        yield whole, part


@pytest.fixture(scope="module")
def asked(engines: tuple[Engine, Engine]) -> Any:
    whole, part = (Caller(Application(each, configuration(_tokens()))) for each in engines)

    def ask(method: str, path: str, body: Any = None) -> tuple[tuple[int, str], tuple[int, str]]:
        raw = b"" if body is None else json.dumps(body).encode()
        answers = []
        for call, name in ((whole, "limited"), (part, "all")):
            status, _, answer = call(method, path, raw, {"Authorization": f"Bearer {name}"} | (JSON if body else {}))
            answers.append((status, answer.decode()))
        return answers[0], answers[1]

    return ask


@pytest.fixture(scope="module")
def limited() -> Asker:
    return caller_of_token(_tokens()[0])


STATEMENTS = [
    "SHOW TABLES",
    "DESCRIBE cpu",
    "DESCRIBE samples",
    "SELECT * FROM cpu ORDER BY ALL",
    "SELECT count(*) FROM cpu",
    "SELECT max(usage) FROM cpu",
    "SELECT usage FROM cpu WHERE host LIKE '%a%' ORDER BY ALL",
    "SELECT host, avg(usage) FROM cpu WHERE team <> 'payments' OR true GROUP BY host ORDER BY ALL",
    "SELECT host, count(*) FROM cpu WHERE host = 'a' GROUP BY ALL",
    "SELECT * FROM orders ORDER BY ALL",
    "SELECT time, metric, labels, value FROM samples ORDER BY ALL",
    "SELECT metric, count(*) FROM samples GROUP BY ALL ORDER BY ALL",
    "SELECT sum(value) FROM samples WHERE metric = 'http_requests_total'",
    "SELECT count(*) FROM samples WHERE labels['team'] IS NULL",
    "SELECT metric, measurement, field, labels FROM series ORDER BY ALL",
    "SELECT count(*) FROM series",
    "SELECT * FROM metrics ORDER BY ALL",
    "SELECT metric, labels, count, sum, min, max FROM rollup_1m ORDER BY ALL",
    "SELECT count(*), sum(sum) FROM rollup_5m",
    "SELECT max(max) FROM rollup_15m",
    "SELECT sum(count) FROM rollup_1h",
    "SELECT sum(count) FROM rollup_1d WHERE metric = 'cpu_usage'",
    "SELECT s.metric, max(v.value) FROM samples v JOIN series s USING (series_id) GROUP BY ALL ORDER BY ALL",
    "SELECT max(value) FROM samples WHERE series_id IN (SELECT series_id FROM series WHERE metric LIKE 'cpu%')",
    "WITH x AS (SELECT * FROM cpu) SELECT count(*), max(usage) FROM x",
    "SELECT (SELECT max(usage) FROM cpu), (SELECT count(*) FROM series)",
    "SELECT count(*) FROM cpu a LEFT JOIN orders b ON a.host = b.host",
    "SELECT count(*) FROM cpu FULL JOIN samples ON false",
    "SUMMARIZE cpu",
    "FROM (PIVOT cpu ON host IN ('a', 'b') USING max(usage) GROUP BY team) ORDER BY ALL",
    "SELECT DISTINCT ON (host) host, time, usage FROM cpu ORDER BY host, time DESC",
    "SELECT host, max(time), arg_max(usage, time) FROM cpu GROUP BY host ORDER BY host",
    "SELECT host, latest(usage, time) FROM cpu GROUP BY host ORDER BY host",
    "SELECT host, arg_max(usage, time) FROM cpu WHERE host IN ('a', 'secret-host') GROUP BY host ORDER BY host",
    "SELECT arg_max(usage, time), max(time) FROM cpu",
    "SELECT rule, labels, state, value FROM alerts ORDER BY ALL",
    "SELECT event, value FROM alert_events ORDER BY ALL",
    "SELECT metric, labels, reason FROM anomalies ORDER BY ALL",
]


#: Statements to which the rest makes no difference.
UNCHANGED = {"DESCRIBE samples", "SELECT * FROM orders ORDER BY ALL"}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_sql_is_answered_as_if_nothing_else_was_there(
    engines: tuple[Engine, Engine], limited: Asker, statement: str
) -> None:
    whole, part = engines
    told = whole.sql(statement, caller=limited).table
    assert told.to_pylist() == part.sql(statement).table.to_pylist()
    assert told.num_rows
    assert "secret" not in str(told.to_pylist())
    # Everyone is told of the rest, or the test would prove nothing.
    if "FULL JOIN" not in statement and statement not in UNCHANGED:
        assert whole.sql(statement).table.to_pylist() != told.to_pylist()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT host, avg(usage), max(usage), count(usage) FROM cpu WHERE {bounds} GROUP BY host ORDER BY host",
        "SELECT time_bucket(INTERVAL '5 minutes', time) AS t, sum(usage) FROM cpu WHERE {bounds} GROUP BY t ORDER BY t",
        "SELECT max(usage) FROM cpu WHERE host = 'a' AND {bounds}",
    ],
)
def test_statements_that_are_rewritten_to_a_tier_see_no_more(
    engines: tuple[Engine, Engine], limited: Asker, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runtime.analyst.RAW_ROWS_PREFERRED_IN_SQL", -1)
    whole, part = engines
    statement = statement.format(
        bounds="time >= TIMESTAMP '2023-11-14 21:00:00' AND time < TIMESTAMP '2023-11-14 23:00:00'"
    )
    told = whole.sql(statement, caller=limited)
    assert str(told.metadata["tier"]).startswith("rollup_")
    assert told.table.to_pylist() == part.sql(statement).table.to_pylist() != whole.sql(statement).table.to_pylist()


@pytest.mark.parametrize("name", sorted(FIXED_RELATIONS))
def test_every_relation_has_a_decision(engines: tuple[Engine, Engine], limited: Asker, name: str) -> None:
    whole, _ = engines
    decision = RELATIONS[name]
    if decision == "refused":
        with pytest.raises(Forbidden, match="its rows have no labels"):
            whole.sql(f"SELECT * FROM {name}", caller=limited)
    elif decision == "absent":
        assert name not in FINDINGS
    else:
        for match in (f'{LIMIT},host="none"', 'team="secret",host="none"') if name == "silences" else ():
            matchers = parse_matchers(match)
            made = whole.silences.add(matchers, start_ns=NOW_NS, end_ns=NOW_NS + 1, author="ann", now_ns=NOW_NS)
            # What is over disturbs no other test.
            whole.silences.end(made.id, NOW_NS)
        told, everything = (whole.sql(f"SELECT * FROM {name}", caller=who).table for who in (limited, Asker()))
        assert 0 < told.num_rows < everything.num_rows
        assert "secret" in str(everything.to_pylist()) or name == "alert_events"
        assert "secret" not in str(told.to_pylist())


@pytest.mark.parametrize("statement", ["SELECT * FROM secret_table", "SELECT secret_rack FROM cpu"])
def test_names_of_others_do_not_exist(engines: tuple[Engine, Engine], limited: Asker, statement: str) -> None:
    whole, part = engines
    whole.sql(statement)
    errors = []
    for engine, caller in ((whole, limited), (part, Asker())):
        with pytest.raises(Exception, match="secret") as caught:
            engine.sql(statement, caller=caller)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_parameters_and_late_conditions_reach_nothing_else(engines: tuple[Engine, Engine], limited: Asker) -> None:
    whole, _ = engines
    for statement, parameters in (
        ("SELECT count(*) AS n FROM cpu WHERE team = ?", ["secret"]),
        ("SELECT count(*) AS n FROM cpu WHERE host IN ($1, $2)", ["secret-host", "secret-lone"]),
        ("SELECT count(*) AS n FROM samples WHERE labels['team'] = $1", ["secret"]),
        ("SELECT count(*) AS n FROM rollup_1m WHERE labels['team'] = $1", ["secret"]),
    ):
        assert whole.sql(statement, parameters, limited).table.to_pylist() == [{"n": 0}]
        assert whole.sql(statement, parameters).table.to_pylist()[0]["n"] > 0
    ids = [
        row["series_id"]
        for row in whole.sql("SELECT series_id FROM series WHERE labels['team'] = 'secret'").table.to_pylist()
    ]
    listed = ", ".join(map(str, ids))
    for relation in ("samples", "rollup_1m", "series"):
        statement = f"SELECT count(*) AS n FROM {relation} WHERE series_id IN ({listed})"
        assert whole.sql(statement, caller=limited).table.to_pylist() == [{"n": 0}]


@pytest.mark.parametrize("match", ['team!="payments"', 'team=~"pay.*",host="a"', 'team!~"payments|secret"', 'host=""'])
def test_other_matchers_see_what_the_catalogue_finds(engines: tuple[Engine, Engine], match: str) -> None:
    whole, _ = engines
    caller = caller_of_token(Token(name="x", sha256="0" * 64, scopes=("read",), match=match))
    expected = sorted(
        (series.metric, sorted(series.labels.items())) for series in whole.catalog.series(None, caller.matchers)
    )
    told = whole.sql("SELECT metric, labels FROM series", caller=caller).table.to_pylist()
    assert sorted((row["metric"], sorted(dict(row["labels"]).items())) for row in told) == expected
    samples = whole.sql("SELECT DISTINCT metric, labels FROM samples", caller=caller).table.to_pylist()
    assert {(row["metric"], str(sorted(row["labels"]))) for row in samples} <= {
        (m, str(labels)) for m, labels in expected
    }


# --- over HTTP


def served(application: Application) -> set[tuple[str, str]]:
    """Return every (method, path) that the application answers, paths as litestar writes them without types."""
    found = set(application._raw) | {("GET", f"{prefix}{{target}}") for prefix, _ in application._prefixed}
    for route in application._routes.routes:
        path = "/".join(
            "{" + part.strip("{}").partition(":")[0] + "}" if part.startswith("{") else part
            for part in route.path_format.split("/")
        )
        for handler in getattr(route, "route_handlers", []):
            found |= {(str(method), path) for method in handler.http_methods}
    return {(method, path) for method, path in found if not path.startswith("/docs") and method != "OPTIONS"}


def test_every_route_has_a_decision(engines: tuple[Engine, Engine]) -> None:
    assert served(Application(engines[0], configuration())) == set(RULES)


@pytest.mark.parametrize(("method", "path"), sorted(RULES))
def test_refused_routes_refuse(asked: Any, method: str, path: str) -> None:
    values = {"alert_id": "1", "silence_id": "1", "deploy_id": "1", "target": "web", "name": "x"}
    concrete = path.format(**values, notification_id="1")
    rule = RULES[method, path]
    assert rule_of(method, concrete) == rule
    if rule != "refused":
        return
    (status, answer), _ = asked(method, concrete, {} if method == "POST" else None)
    assert status == 403, answer
    assert "is limited to series by their labels" in answer


def test_unknown_routes_are_refused() -> None:
    assert rule_of("GET", "/v1/something/new") == "refused"
    assert rule_of("PUT", "/v1/series") == "refused"
    assert rule_of("GET", "/v1/alerts/1/other") == "refused"


FILTERED = [
    *(f"/v1/query?metric={metric}&start=-1h&step=10m&agg={agg}" for metric in ("cpu_usage", "http_requests_total")
      for agg in ("avg", "sum", "count", "max", "p50")),
    "/v1/query?metric=cpu_usage&start=-1h&step=10m&by=",
    "/v1/query?metric=cpu_usage&start=-1h&step=10m&by=host",
    "/v1/query?metric=cpu_usage&start=-1h&step=10m&match=team!=%22payments%22",
    "/v1/query?metric=secret_table_secret_field&start=-1h",
    "/v1/query?metric=secret_metric&start=-1h",
    *(f"/v1/rows?table={table}&start=-1h&order=time&{more}" for table in ("cpu", "orders", "prometheus")
      for more in ("", "tags=team&limit=3", "last=row", "last=values&start=-2h")),
    "/v1/rows?table=cpu&where=usage%3E50&order=-time",
    "/v1/rows?table=cpu&match=team!=%22payments%22",
    "/v1/forecast?metric=cpu_usage&horizon=1&step=5m&season=1",
    "/v1/forecast?metric=cpu_usage&horizon=1&step=5m&season=1&by=host&limit=50&path=true",
    "/v1/metrics-names",
    "/v1/labels",
    "/v1/labels?label=team",
    "/v1/labels?label=host",
    "/v1/labels?label=secret_rack",
    "/v1/labels?label=code",
]  # fmt: skip


@pytest.mark.parametrize("path", FILTERED)
def test_routes_answer_as_if_nothing_else_was_there(asked: Any, path: str) -> None:
    (status, told), (_, expected) = asked("GET", path)
    assert status == 200
    assert "secret" not in told.replace("secret_table_secret_field", "").replace("secret_metric", "")
    mine, whole = json.loads(told), json.loads(expected)
    if path.startswith("/v1/rows"):
        # The newest row of a table may be another's; how much was read differs.
        for answer in (mine, whole):
            for name in ("elapsed_seconds", "fresh_to", "rows_read", "files"):
                answer.pop(name)
    assert mine == whole


def test_tables_and_tags_of_others_are_not_there_for_rows(asked: Any) -> None:
    for path in ("/v1/rows?table=secret_table", "/v1/rows?table=cpu&tags=secret_rack"):
        (status, told), (_, expected) = asked("GET", path)
        assert (status in (400, 404), told) == (True, expected)


def test_series_are_listed_without_the_others(asked: Any) -> None:
    for path in ("/v1/series", "/v1/series?metric=cpu_usage", "/v1/series?match=host=%22a%22"):
        (_, told), (_, expected) = asked("GET", path)
        without_ids = [
            [(each["metric"], each["labels"]) for each in json.loads(text)["series"]] for text in (told, expected)
        ]
        assert sorted(map(str, without_ids[0])) == sorted(map(str, without_ids[1]))
        assert "secret" not in told


def test_cardinality_counts_its_own(asked: Any) -> None:
    (_, told), (_, expected) = asked("GET", "/v1/cardinality")
    mine, whole = json.loads(told), json.loads(expected)
    for part in ("top", "growth", "tables"):
        assert mine[part] == whole[part]
    assert mine["tag_sets"] == {name: whole["tag_sets"][name] for name in mine["tag_sets"]}
    assert set(mine) == {"tag_sets", "tables", "top", "growth"}


def test_alerts_of_others_are_not_there(asked: Any, engines: tuple[Engine, Engine]) -> None:
    (_, told), (_, expected) = asked("GET", "/v1/alerts?state=all")
    mine, theirs = json.loads(told)["alerts"], json.loads(expected)["alerts"]
    assert [each["labels"] for each in mine] == [each["labels"] for each in theirs] != []
    others = [each.id for each in engines[0].alerts.find() if each.labels.get("team") != "payments"]
    assert others
    for method, path, body in (
        ("GET", f"/v1/alerts/{others[0]}", None),
        ("POST", f"/v1/alerts/{others[0]}/ack", {"by": "eve"}),
    ):
        (status, answer), _ = asked(method, path, body)
        assert (status, "there is no such alert" in answer) == (404, True)
    assert engines[0].alerts.get(others[0]).acknowledged_by is None
    assert asked("GET", f"/v1/alerts/{mine[0]['id']}")[0][0] == 200
    assert asked("POST", f"/v1/alerts/{mine[0]['id']}/ack", {"by": "ann"})[0][0] == 200


def test_anomalies_of_others_are_not_there(asked: Any) -> None:
    (_, told), (_, expected) = asked("GET", "/v1/anomalies?limit=1")
    mine, theirs = json.loads(told)["anomalies"], json.loads(expected)["anomalies"]
    assert (
        [each["labels"] for each in mine] == [each["labels"] for each in theirs] == [{"host": "a", "team": "payments"}]
    )


def test_deployments_of_others_are_not_there(asked: Any, engines: tuple[Engine, Engine]) -> None:
    (_, told), (_, expected) = asked("GET", "/v1/deploys?limit=1")
    mine, theirs = json.loads(told)["deploys"], json.loads(expected)["deploys"]
    assert [each["version"] for each in mine] == [each["version"] for each in theirs] == ["2"]
    others = [each.id for each in engines[0].deploys.find() if each.labels.get("team") != "payments"]
    assert len(others) == 2
    for deploy in others:
        (status, answer), _ = asked("GET", f"/v1/deploys/{deploy}/verdict")
        assert (status, "there is no such deployment" in answer) == (404, True)
    query = "metric=cpu_usage&for=20m"
    (status, told), _ = asked("GET", f"/v1/deploys/{mine[0]['id']}/verdict?{query}")
    _, (_, expected) = asked("GET", f"/v1/deploys/{theirs[0]['id']}/verdict?{query}")
    assert status == 200
    assert "secret" not in told
    assert json.loads(told)["metrics"] == json.loads(expected)["metrics"]


def test_silences_stay_within_the_limit(asked: Any, engines: tuple[Engine, Engine]) -> None:
    whole = engines[0]
    (status, made), _ = asked("POST", "/v1/silences", {"match": 'host=~".*"', "by": "ann", "expires_in": "1h"})
    assert status == 201
    silence = json.loads(made)
    assert {"label": "team", "operator": "=", "value": "payments"} in silence["matchers"]
    assert not any(
        whole.silences.get(silence["id"]).covers(alert)
        for alert in whole.alerts.find()
        if alert.labels.get("team") != "payments"
    )
    other = whole.silences.add(
        parse_matchers('host="secret-host"'), start_ns=NOW_NS, end_ns=NOW_NS + MINUTE_NS, author="bob", now_ns=NOW_NS
    )
    listed = json.loads(asked("GET", "/v1/silences")[0][1])["silences"]
    assert [each["id"] for each in listed] == [silence["id"]]
    assert asked("DELETE", f"/v1/silences/{other.id}")[0][0] == 404
    assert asked("DELETE", f"/v1/silences/{silence['id']}")[0][0] == 200


def test_deletions_stay_within_the_limit(asked: Any) -> None:
    for query in ("match=host=%22a%22", "table=cpu", "table=secret_table", "match=team=%22secret%22"):
        (_, told), (_, expected) = asked("DELETE", f"/v1/series?{query}&dry_run=true")
        mine, theirs = json.loads(told), json.loads(expected)
        assert (mine["tables"], mine["tag_sets"], mine["series"], mine["rows"]) == (
            theirs["tables"], theirs["tag_sets"], theirs["series"], theirs["rows"],
        )  # fmt: skip
    (status, answer), _ = asked("DELETE", "/v1/series")
    assert (status, "would select every series" in answer) == (400, True)
