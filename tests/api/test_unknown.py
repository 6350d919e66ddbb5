"""Parameters and keys of bodies that a path does not know are refused on our own paths, and told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.access import RULES
from api.app import Application
from api.unknown import is_own
from engine.clock import ManualClock
from engine.runtime import Engine
from tests.api.test_error_shape import JSON, Caller, config

#: What raw handlers take, which are not in the OpenAPI description.
RAW = {
    ("POST", "/v1/ingest"): ["table"],
    ("POST", "/v1/import/prometheus"): ["label"],
    ("GET", "/v1/scale/{target}"): [],
}
PEERS = {"/write", "/api/v2/write", "/api/v3/write_lp", "/api/v1/write", "/ping", "/health"}


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    path: Path = tmp_path_factory.mktemp("engine") / "data"
    with Engine.open(str(path), config(), clock=ManualClock()) as engine:
        yield Caller(Application(engine, config()))


@pytest.fixture(scope="module")
def described(call: Caller) -> dict[str, Any]:
    paths: dict[str, Any] = json.loads(call("GET", "/docs/openapi.json")[2])["paths"]
    return paths


def known_of(method: str, path: str, described: dict[str, Any]) -> list[str]:
    """Return the parameters of a route by the description that users read."""
    if (method, path) in RAW:
        return RAW[method, path]
    parameters = described[path][method.lower()].get("parameters", [])
    return sorted(each["name"] for each in parameters if each["in"] == "query")


def asked(path: str) -> str:
    return re.sub(r"\{[a-z_]*id\}", "7", path).replace("{target}", "web").replace("{name}", "ann")


@pytest.mark.parametrize(("method", "path"), sorted(RULES))
def test_every_route_refuses_unknown_parameters_or_is_a_peers(
    call: Caller, described: dict[str, Any], method: str, path: str
) -> None:
    status, _, raw = call(method, f"{asked(path)}?metrc=cpu&zzz=")
    if path in PEERS:
        assert not is_own(path)
        assert b"metrc" not in raw
        return
    known = known_of(method, path, described)
    body = json.loads(raw)
    assert (status, body["error"]) == (400, "bad_request")
    assert f"cannot {'serve'} {method} {asked(path)}: there is no parameter 'metrc'" in body["message"]
    assert body["details"] == {"unknown": ["metrc", "zzz"], "known": known}
    assert ("did you mean 'metric'?" in body["message"]) is ("metric" in known)
    assert (f"known here: {', '.join(known)}" if known else "no parameter is known here") in body["message"]


@pytest.mark.parametrize(("method", "path"), sorted(RULES))
def test_what_is_described_is_known(call: Caller, described: dict[str, Any], method: str, path: str) -> None:
    if path not in PEERS:
        for name in known_of(method, path, described):
            assert b"there is no parameter" not in call(method, f"{asked(path)}?{name}=1")[2]


@pytest.mark.parametrize(
    "path", ["/write?precision=s&u=me&p=secret&consistency=one", "/api/v2/write?org=o&bucket=b&precision=s"]
)
def test_peers_clients_send_more(call: Caller, path: str) -> None:
    assert call("POST", path, b"cpu,host=a usage=1 1700000000")[0] == 204


BODIES = [
    ("/v1/sql", {"sql": "SELECT 1", "parameter": []}, "body", "parameter", "parameters"),
    ("/v1/bottlenecks", {"windw": "5m"}, "body", "windw", "window"),
    (
        "/v1/bottlenecks",
        {"changes": [{"service": "a", "time": "now", "servce": "b"}]},
        "changes[0]",
        "servce",
        "service",
    ),
    ("/v1/deploys", {"service": "a", "versio": "1"}, "body", "versio", "version"),
    ("/v1/silences", {"match": 'a="b"', "by": "ann", "nte": ""}, "body", "nte", "note"),
    ("/v1/alerts/7/ack", {"by": "ann", "expires": "2h"}, "body", "expires", "expires_in"),
    ("/v1/alerts/7/close", {"by": "ann", "not": ""}, "body", "not", "note"),
    ("/v1/tokens", {"name": "x", "scope": [], "scopes": []}, "body", "scope", "scopes"),
    ("/v1/ingest", {"sample": []}, "cannot read JSON batch", "sample", "samples"),
]


@pytest.mark.parametrize(("path", "body", "place", "unknown", "meant"), BODIES)
def test_unknown_keys_of_bodies_are_told(
    call: Caller, path: str, body: dict[str, Any], place: str, unknown: str, meant: str
) -> None:
    status, _, raw = call("POST", path, json.dumps(body).encode(), JSON)
    message = json.loads(raw)["message"]
    assert status == 400
    assert f"{place}: there is no key {unknown!r}; did you mean {meant!r}? (known here: " in message


def test_every_body_of_ours_stands_above(described: dict[str, Any]) -> None:
    taking = {asked(path) for path, methods in described.items() for one in methods.values() if "requestBody" in one}
    assert taking == {path for path, *_ in BODIES} - {"/v1/ingest"}


def test_unknown_keys_of_one_sample_refuse_that_one(call: Caller) -> None:
    samples = [{"table": "a", "fields": {"x": 1}}, {"table": "a", "fields": {"x": 1}, "tag": {}}]
    status, _, raw = call("POST", "/v1/ingest", json.dumps({"samples": samples}).encode(), JSON)
    told = json.loads(raw)["details"]
    assert (status, told["stored_rows"]) == (400, 1)
    assert told["refusals"][0]["message"].startswith(
        "cannot read sample 2: there is no key 'tag'; did you mean 'tags'? (known here: fields, table, tags, time)"
    )


def test_a_table_beside_samples_that_name_theirs_is_refused(call: Caller) -> None:
    status, _, raw = call("POST", "/v1/ingest?table=a", b'{"samples": []}', JSON)
    assert status == 400
    assert "each of its samples names its own 'table'" in json.loads(raw)["message"]


def test_long_names_are_cut(call: Caller) -> None:
    raw = call("GET", f"/v1/query?{'m' * 5000}=1")[2]
    assert "m" * 100 + "…" in json.loads(raw)["message"]
