"""Deployments: recorded durably, listed, judged; over HTTP, in SQL, on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from api.app import Application
from api.auth import needed_scope
from api.cli.main import main
from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_DAY, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.deploys.gate import Verdict
from engine.deploys.store import MOST, DeployStore
from engine.deploys.verdict import settled
from engine.errors import BadRequest, NotFound
from engine.model.matchers import parse_matchers
from engine.runtime import Engine
from tests.api.test_error_shape import JSON, Caller, config
from tests.recording_server import Answer, RecordingServer
from tests.system.program import Program

NOW_NS = 1_700_000_000 * NS_PER_SECOND


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeployStore]:
    control = ControlDatabase(str(tmp_path / "control.sqlite"))
    yield DeployStore(control)
    control.close()


def record(store: DeployStore, service: str, version: str, at_ns: int = NOW_NS, **more: Any) -> int:
    return store.record(service, version, time_ns=at_ns, now_ns=NOW_NS, **more)[0].id


# --- what is stored


def test_the_same_deployment_is_recorded_once(store: DeployStore) -> None:
    first, new = store.record("shop", "1", time_ns=NOW_NS, now_ns=NOW_NS, author="ann", labels={"b": "2", "a": "1"})
    again, anew = store.record("shop", "1", time_ns=NOW_NS, now_ns=NOW_NS + 5, author="bob")
    assert (new, anew, again) == (True, False, first)
    assert store.get(first.id) == first
    assert record(store, "shop", "1", NOW_NS - 1) == first.id + 1
    with pytest.raises(NotFound, match="there is no such deployment"):
        store.get(99)


def test_every_problem_is_told_at_once(store: DeployStore) -> None:
    with pytest.raises(BadRequest) as told:
        store.record(
            " ", "v" * 201, time_ns=NOW_NS + 2 * NS_PER_MINUTE, now_ns=NOW_NS, baseline="track", canary='a!="b"',
            labels={"service": "x", "": "y"}, note="n" * 2_001,
        )  # fmt: skip
    problems = told.value.details
    assert [problem.partition(" ")[0].strip(":") for problem in problems] == [
        "service", "version", "baseline", "canary", "got", "label", "note", "got",
    ]  # fmt: skip
    assert all(problem in told.value.message for problem in problems)
    with pytest.raises(BadRequest, match="baseline and canary are the same"):
        record(store, "shop", "1", baseline='a="b"', canary='a="b"')
    assert store.find() == []


def test_lists_are_narrowed_and_paged(store: DeployStore) -> None:
    for version in range(6):
        at_ns = NOW_NS - (5 - version) * NS_PER_MINUTE
        record(store, ("shop", "cart")[version % 2], str(version), at_ns, labels={"team": f"t{version % 3}"})

    def versions(**wanted: Any) -> list[str]:
        return [each.version for each in store.find(**wanted)]

    assert versions() == ["5", "4", "3", "2", "1", "0"]
    assert versions(limit=2) == ["5", "4"]
    assert versions(limit=2, before_id=store.find(limit=2)[-1].id) == ["3", "2"]
    assert versions(service="cart") == ["5", "3", "1"]
    assert versions(version="4") == ["4"]
    assert versions(since_ns=NOW_NS - 2 * NS_PER_MINUTE, until_ns=NOW_NS) == ["4", "3"]
    assert versions(matchers=parse_matchers('team=~"t[01]"'), limit=2) == ["4", "3"]
    assert versions(matchers=parse_matchers('service="shop",team="t2"')) == ["2"]
    assert store.changes(NOW_NS - NS_PER_MINUTE, NOW_NS) == [("shop", NOW_NS - NS_PER_MINUTE)]


def test_the_version_before_is_another_one_of_the_same_service(store: DeployStore) -> None:
    for at, (service, version) in enumerate([("shop", "1"), ("cart", "7"), ("shop", "2"), ("shop", "2")]):
        record(store, service, version, NOW_NS - 10 + at)
    # Recorded late: what counts is when it was.
    record(store, "shop", "0", NOW_NS - 20)
    newest = store.get(4)
    before = store.before(newest)
    assert before is not None
    assert (before.service, before.version) == ("shop", "1")
    first = store.before(before)
    assert first is not None
    assert first.version == "0"
    assert store.before(first) is None


def test_old_ones_are_forgotten(store: DeployStore) -> None:
    record(store, "shop", "1", NOW_NS - NS_PER_DAY)
    record(store, "shop", "2", NOW_NS)
    assert store.prune(NOW_NS - 1) == 1
    assert [each.version for each in store.find()] == ["2"]
    assert MOST >= 100_000


# --- over HTTP


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


@pytest.fixture
def engine(tmp_path: Path, clock: ManualClock) -> Iterator[Engine]:
    running = Engine(str(tmp_path / "data"), config(), clock=clock)
    yield running
    running.close()


class Asked:
    def __init__(self, engine: Engine) -> None:
        self._call = Caller(Application(engine, config()))

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        raw_body, headers = (b"", {}) if body is None else (json.dumps(body).encode(), JSON)
        status, _, raw = self._call(method, path, raw_body, headers)
        return status, json.loads(raw)


def test_a_recorded_deployment_is_listed_seen_by_sql_and_survives_a_kill(
    engine: Engine, clock: ManualClock, tmp_path: Path
) -> None:
    asked = Asked(engine)
    body = {
        "service": "shop", "version": "1.5", "time": "2023-11-14T22:00:00Z", "canary": 'track="canary"',
        "labels": {"team": "payments"}, "by": "ci", "note": "build 812",
    }  # fmt: skip
    shown = body | {
        "id": 1, "time": "2023-11-14T22:00:00.000000000Z", "baseline": "",
        "recorded_at": "2023-11-14T22:13:20.000000000Z",
    }  # fmt: skip
    assert asked("POST", "/v1/deploys", body) == (201, shown)
    # A process that is killed now leaves these files.
    (tmp_path / "killed").mkdir()
    for file in (tmp_path / "data").glob("control.sqlite*"):
        shutil.copy(file, tmp_path / "killed")
    left = ControlDatabase(str(tmp_path / "killed" / "control.sqlite"))
    assert [each.version for each in DeployStore(left).find()] == ["1.5"]
    left.close()
    clock.advance(60.0)
    assert asked("POST", "/v1/deploys", body) == (200, shown)
    status, second = asked("POST", "/v1/deploys", {"service": "shop", "version": "1.6"})
    assert (status, second["time"], second["labels"]) == (201, "2023-11-14T22:14:20.000000000Z", {})
    assert asked("GET", "/v1/deploys") == (200, {"deploys": [second, shown]})
    for query, ids in (
        ("limit=1", [2]),
        ("before=2", [1]),
        ("version=1.5", [1]),
        ("start=-5m", [2]),
        ("end=-5m", [1]),
        ("match=" + quote('team="payments"'), [1]),
        ("service=cart", []),
    ):
        assert [each["id"] for each in asked("GET", f"/v1/deploys?{query}")[1]["deploys"]] == ids, query
    rows = engine.sql("SELECT * FROM deploys ORDER BY id").table.to_pylist()
    assert [list(row) for row in rows[:1]] == [
        ["id", "time", "service", "version", "baseline", "canary", "labels", "author", "note", "recorded_at"]
    ]
    assert [(row["version"], row["labels"], row["author"]) for row in rows] == [
        ("1.5", '{"team": "payments"}', "ci"),
        ("1.6", "{}", ""),
    ]


def test_deployments_are_there_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    with Engine(str(tmp_path / "data"), config(), clock=clock) as first:
        made = Asked(first)("POST", "/v1/deploys", {"service": "shop", "version": "1"})[1]
    with Engine(str(tmp_path / "data"), config(), clock=clock) as again:
        assert Asked(again)("GET", "/v1/deploys") == (200, {"deploys": [made]})


def fill(engine: Engine, minutes: int, **slower: float) -> None:
    """Let two hosts of version 1 and two of version 2 report every five seconds until now."""
    random = np.random.default_rng(1)
    now_ns, lines = engine.clock.now_ns(), []
    for step in range(minutes * 12):
        at_ns = now_ns - step * 5 * NS_PER_SECOND
        for version in ("1", "2"):
            for host in ("a", "b"):
                latency = 100 * slower.get(f"v{version}", 1.0) * np.exp(0.1 * random.normal())
                lines.append(f"app,app=shop,version={version},host={host}{version} latency_ms={latency} {at_ns}")
    engine.submit_lines("\n".join(lines).encode()).result()


def test_a_verdict_compares_the_versions_since_the_deployment(engine: Engine, clock: ManualClock) -> None:
    asked = Asked(engine)
    for version, minutes in (("1", 600), ("2", 3)):
        asked("POST", "/v1/deploys", {"service": "shop", "version": version, "time": f"-{minutes}m"})
    status, first = asked("GET", "/v1/deploys/1/verdict")
    assert (status, first["verdict"], first["baseline"]) == (200, "hold", "")
    assert "no earlier version of shop is recorded" in first["reasons"][0]
    _, nothing = asked("GET", "/v1/deploys/2/verdict")
    assert nothing["reasons"] == ['no series satisfies the baseline service="shop",version="1"']
    fill(engine, 10)
    status, good = asked("GET", "/v1/deploys/2/verdict")
    assert (status, good["verdict"]) == (200, "promote")
    # The label that names services here is found.
    assert (good["baseline"], good["canary"]) == ('app="shop",version="1"', 'app="shop",version="2"')
    assert (good["start"], good["end"]) == ("2023-11-14T22:11:20.000000000Z", "2023-11-14T22:13:20.000000000Z")
    assert good["deploy"]["version"] == "2"
    assert [(each["metric"], each["canary_samples"]) for each in good["metrics"]] == [("app_latency_ms", 24)]
    _, held = asked("GET", "/v1/deploys/2/verdict?for=5m")
    assert (held["verdict"], held["reasons"][0]) == (
        "hold",
        "the new version has been judged over 180 s so far, want 300 s",
    )
    assert held["start"] == "2023-11-14T22:10:25.000000000Z"
    _, held = asked("GET", "/v1/deploys/2/verdict?warm_up=2m")
    assert held["verdict"] == "hold"
    _, held = asked("GET", "/v1/deploys/2/verdict?metric=app_latency_ms&metric=app_missing")
    assert (held["verdict"], held["metrics"][1]["finding"]) == ("hold", "no data")
    _, sided = asked("GET", "/v1/deploys/2/verdict?metric=app_latency_ms=left")
    assert sided["error"] == "bad_request"
    _, past = asked("GET", "/v1/deploys/2/verdict?end=-4m")
    assert (past["verdict"], past["metrics"][0]["canary_samples"]) == ("hold", 0)


def test_what_is_bad_is_known_before_the_time_is_over(engine: Engine, clock: ManualClock) -> None:
    asked = Asked(engine)
    selectors = {"baseline": 'version="1"', "canary": 'version="2"'}
    asked("POST", "/v1/deploys", {"service": "shop", "version": "next", "time": "-2m"} | selectors)
    fill(engine, 2, v2=3.0)
    _, told = asked("GET", "/v1/deploys/1/verdict?for=10m&step=10s")
    assert told["verdict"] == "roll back"
    assert told["reasons"][0].startswith("app_latency_ms is ")
    assert "above the baseline's" in told["reasons"][0]


def test_a_promotion_alone_is_held_while_young() -> None:
    for verdict in ("hold", "roll back"):
        same = Verdict(verdict, ("because",), ())
        assert settled(same, age_ns=0, wanted_ns=NS_PER_MINUTE) is same
    good = Verdict("promote", ("none of 1 metrics is worse",), ())
    assert settled(good, age_ns=NS_PER_MINUTE, wanted_ns=NS_PER_MINUTE) is good
    assert settled(good, age_ns=NS_PER_SECOND, wanted_ns=NS_PER_MINUTE).reasons == (
        "the new version has been judged over 1 s so far, want 60 s",
        "none of 1 metrics is worse",
    )


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [("GET", "/v1/deploys", "read"), ("POST", "/v1/deploys", "write"), ("GET", "/v1/deploys/1/verdict", "read")],
)
def test_who_may_what(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


# --- on the command line


def test_the_command_records_lists_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Program(tmp_path / "data") as server:
        at = ["--url", server.url]
        for version, when in (("1", "now-1h"), ("2", "now-3m")):
            more = ["--time", when, "--label", "team=payments", "--by", "ci", "--note", f"build {version}"]
            assert main(["deploy", "record", "--service", "shop", "--version", version, *more, *at]) == 0
        assert capsys.readouterr().out == "1\n2\n"
        server.kill()
    with Program(tmp_path / "data") as server:
        at = ["--url", server.url]
        assert main(["deploy", "list", "--match", 'team="payments"', "--start", "now-2h", *at]) == 0
        listed = capsys.readouterr().out.splitlines()
        assert [line[:3] for line in listed] == ["2  ", "1  "]
        assert listed[0].endswith("Z  shop 2  team=payments, by ci, build 2")
        assert main(["deploy", "list", "--service", "cart", *at]) == 0
        assert "there are no deployments" in capsys.readouterr().err
        assert main(["deploy", "verdict", "2", *at]) == 3
        assert capsys.readouterr().out.startswith('hold\n  no series satisfies the baseline service="shop"')
        assert main(["deploy", "verdict", "2", "--format", "json", "--for", "10m", *at]) == 3
        assert json.loads(capsys.readouterr().out)["deploy"]["version"] == "2"
        assert main(["deploy", "verdict", "7", *at]) == 2
        assert main(["deploy", "verdict", "2", "--for", "soon", *at]) == 2
        assert main(["deploy", "record", "--service", "shop", "--version", "3", "--label", "x", *at]) == 2


def test_a_server_that_cannot_say_means_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingServer(lambda _: Answer(503, b'{"error": "recovering", "message": "not yet"}')) as server:
        assert main(["deploy", "verdict", "1", "--url", server.url]) == 3
    assert "hold: not yet" in capsys.readouterr().err
