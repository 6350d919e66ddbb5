"""Tokens from their making to their end: on the command line, over HTTP, hashed on disk."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from api.cli.main import main
from engine.catalog.control import ControlDatabase
from engine.catalog.tokens import TokenStore, digest_of
from engine.clock import ManualClock
from engine.config import Server, Token
from engine.errors import BadConfig, BadRequest, NotFound
from engine.runtime import Engine
from tests.api.test_error_shape import JSON, Caller, config

NOW_NS = 1_700_000_000_000_000_000


def settings(name: str = "agents", *scopes: str, match: str = "") -> Token:
    return Token(name=name, sha256="0" * 64, scopes=scopes or ("read",), match=match)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(ControlDatabase(str(tmp_path / "control.sqlite")), random_bytes=lambda count: b"\x07" * count)


def test_a_token_is_kept_as_its_hash_alone(tmp_path: Path, store: TokenStore) -> None:
    secret = store.create(settings("agents", "write"), NOW_NS)
    assert secret == "tg_" + "07" * 32
    assert [(each.name, each.sha256, each.scopes) for each in store.valid()] == [
        ("agents", digest_of(secret), ("write",))
    ]
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in raw
    assert "07" * 32 not in repr(store.valid())


def test_names_are_unique_among_the_valid_ones(tmp_path: Path) -> None:
    store = TokenStore(ControlDatabase(str(tmp_path / "control.sqlite")))
    store.create(settings(), NOW_NS)
    with pytest.raises(BadRequest, match="there is one of that name"):
        store.create(settings(), NOW_NS)
    assert store.revoke("agents", NOW_NS + 1).revoked_ns == NOW_NS + 1
    with pytest.raises(NotFound):
        store.revoke("agents", NOW_NS + 2)
    store.create(settings(), NOW_NS + 3)
    assert [each.revoked_ns for each in store.list()] == [NOW_NS + 1, None]
    assert len(store.valid()) == 1


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (settings("a", "read", match="team"), "cannot read matcher"),
        (settings("a", "write", match='team="x"'), "does not write"),
        (settings("a", "read", match='__name__="x"'), "metrics are not limited"),
    ],
)
def test_limits_that_cannot_be_kept_to_are_refused(store: TokenStore, token: Token, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        store.create(token, NOW_NS)
    assert not store.used


def test_another_process_is_noticed(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sqlite")
    here, there = TokenStore(ControlDatabase(path)), TokenStore(ControlDatabase(path))
    there.create(settings(), NOW_NS)
    assert not here.valid()
    here.refresh()
    first = here.valid()
    assert [each.name for each in first] == ["agents"]
    here.refresh()
    assert here.valid() is first
    there.revoke("agents", NOW_NS)
    here.refresh()
    assert (here.valid(), here.used) == ((), True)


def test_tokens_over_http(tmp_path: Path) -> None:
    with Engine.open(str(tmp_path / "data"), config(), clock=ManualClock(NOW_NS)) as engine:
        call = Caller(Application(engine, config()))

        def asked(method: str, path: str, secret: str = "", body: Any = None) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {secret}"} if secret else {}
            raw = b"" if body is None else json.dumps(body).encode()
            status, _, answer = call(method, path, raw, headers | (JSON if body else {}))
            return status, json.loads(answer)

        assert asked("GET", "/v1/tokens")[0] == 200
        made = asked("POST", "/v1/tokens", body={"name": "root", "scopes": ["admin"]})
        assert made[0] == 201
        root = made[1]["token"]
        # From the first token on, everything wants one.
        assert asked("GET", "/v1/labels")[0] == 401
        status, reader = asked("POST", "/v1/tokens", root, {"name": "r", "scopes": ["read"], "match": 'team="a"'})
        assert status == 201
        assert asked("GET", "/v1/labels", reader["token"])[0] == 200
        assert asked("GET", "/v1/tokens", reader["token"])[0] == 403
        listed = asked("GET", "/v1/tokens", root)[1]["tokens"]
        assert [(each["name"], each["scopes"], each["match"]) for each in listed] == [
            ("root", ["admin"], ""),
            ("r", ["read"], 'team="a"'),
        ]
        shown = {"name", "scopes", "match", "weight", "concurrency", "queue", "timeout", "created_at", "revoked_at"}
        assert all(set(each) == shown for each in listed)
        assert asked("DELETE", "/v1/tokens/r", root)[0] == 200
        assert asked("GET", "/v1/labels", reader["token"])[0] == 401
        assert asked("DELETE", "/v1/tokens/root", root)[0] == 200
        # A server that has had tokens does not open by itself.
        assert asked("GET", "/v1/labels")[0] == 401
        assert asked("POST", "/v1/tokens", root, {"name": "x", "scopes": ["read"]})[0] == 401


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "scopes": ["read"]},
        {"name": "a", "scopes": ["root"]},
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["read"], "weight": 0},
        {"name": "a", "scopes": ["read"], "timeout": "soon"},
    ],
)
def test_settings_a_token_cannot_have(tmp_path: Path, body: dict[str, Any]) -> None:
    with Engine.open(str(tmp_path / "data"), config(), clock=ManualClock(NOW_NS)) as engine:
        status, _, answer = Caller(Application(engine, config()))("POST", "/v1/tokens", json.dumps(body).encode(), JSON)
    assert status == 400
    assert json.loads(answer)["message"].startswith("cannot create token")


def test_a_server_that_requires_tokens_is_closed_without_any(tmp_path: Path) -> None:
    settings = config(server=Server(require_token=True))
    with Engine.open(str(tmp_path / "data"), settings, clock=ManualClock(NOW_NS)) as engine:
        call = Caller(Application(engine, settings))
        assert call("GET", "/v1/labels")[0] == 401
        assert call("GET", "/health/live")[0] == 200
        secret = engine.tokens.create(Token(name="a", sha256="0" * 64, scopes=("read",)), NOW_NS)
        assert call("GET", "/v1/labels", headers={"X-API-Key": secret})[0] == 200


def test_a_configured_token_with_an_unusable_limit_keeps_the_server_from_starting(tmp_path: Path) -> None:
    wrong = config(server=Server(tokens=(settings("a", "write", match='team="x"'),)))
    with (
        Engine.open(str(tmp_path / "data"), config(), clock=ManualClock(NOW_NS)) as engine,
        pytest.raises(BadConfig, match=r"server\.tokens: a: match: "),
    ):
        Application(engine, wrong)


def test_the_command_makes_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")
    assert main(["token", "list", "--data", data]) == 2
    assert "has no control.sqlite" in capsys.readouterr().err
    made = ["token", "create", "pay", "--scope", "read,ack", "--match", 'team="payments"', "--data", data]
    made += ["--weight", "3", "--queue", "5", "--timeout", "10s"]
    assert main(made) == 0
    secret = capsys.readouterr().out.strip()
    assert main(made) == 1
    assert "there is one of that name" in capsys.readouterr().err
    assert main(["token", "list", "--data", data]) == 0
    assert capsys.readouterr().out.startswith(
        'pay: read,ack, only team="payments", weight 3, queue 5, timeout 10s, created 2'
    )
    assert main(["token", "create", "x", "--scope", "root", "--data", data]) == 2
    assert "want read, write, ack, admin" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "data" / "control.sqlite") as connection:
        assert connection.execute("SELECT sha256 FROM tokens").fetchall() == [(digest_of(secret),)]
    assert main(["token", "revoke", "pay", "--data", data]) == 0
    assert main(["token", "revoke", "pay", "--data", data]) == 1
    assert "no valid token" in capsys.readouterr().err
