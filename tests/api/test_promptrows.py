"""Rows that are given at once are, to the byte, those of the typed route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.query.rowscan
from api.app import Application
from api.promptrows import ROWS_PATH
from engine.catalog.tokens import digest_of
from engine.config import Config, Query, Server, Token
from tests.api.test_prometheus import Served
from tests.api.test_promptly import taken_apart

T0 = 1_700_000_000
ARROW = (b"accept", b"application/vnd.apache.arrow.stream")
LINES = [
    f"cpu,host={host},team={team} busy={busy + step},idle={99.5 - busy} {(T0 + 60 * step) * 10**9}"
    for step in range(9)
    for host, team, busy in (("a", "pay\\ ments", 10), ("b", "search", 30), ("c\\ é+&", "search", 20))
]
RANGE = f"table=cpu&start={T0}&end={T0 + 600}"
PROMPT = (
    RANGE,
    "table=cpu",
    "table=cpu&last=row",
    f"{RANGE}&last=values&fields=busy&tags=",
    f"{RANGE}&last=1&where=busy%3C35&order=-time",
    f"{RANGE}&match=host%3D%22a%22&where=busy>12,idle>=0&tags=team,host",
    f"{RANGE}&match=host=%22c%20%C3%A9%2B%26%22&order=time&limit=2",
    f"{RANGE}&match=team=%22pay+ments%22&shape=columns",
    f"{RANGE}&where=busy%3E31&shape=rows",
    f"{RANGE}&where=busy%3E1000",
)
OTHERS = (
    "",
    "table=gpu",
    f"{RANGE}&fields=bussy",
    f"{RANGE}&where=busy",
    f"{RANGE}&match=host",
    f"{RANGE}&last=first",
    f"{RANGE}&limit=0",
    f"{RANGE}&limit=²",
    f"{RANGE}&start=-1h",
    f"{RANGE}&step=1m",
    f"{RANGE}&shape=circles",
    f"{RANGE}&match=host=%22%ff%22",
    f"table=cpu&start={T0}&end={T0}",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    opened.clock.set_ns((T0 + 700) * 10**9)
    opened.engine.submit_lines("\n".join(LINES).encode()).result(30)
    yield opened
    opened.engine.close()


def at_once(server: Any, query: str, *headers: tuple[bytes, bytes]) -> bytes | None:
    scope = {"method": "GET", "path": ROWS_PATH, "query_string": query.encode(), "headers": list(headers)}
    found: bytes | None = server.call._application.at_once[ROWS_PATH.encode()](scope)
    return found


def typed(server: Any, query: str, *headers: tuple[bytes, bytes]) -> Any:
    named = {name.decode(): value.decode() for name, value in headers}
    return server.call("GET", f"{ROWS_PATH}?{query}", headers=named)


@pytest.mark.parametrize("headers", [(), (ARROW,)])
@pytest.mark.parametrize("query", PROMPT)
def test_what_is_answered_at_once_is_what_the_typed_route_answers(
    server: Served, query: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    if headers and "shape=rows" in query:
        assert at_once(server, query, *headers) is None
        return
    response = at_once(server, query, *headers)
    assert response is not None
    expected = typed(server, query, *headers)
    assert expected[0] == 200
    assert taken_apart(response) == expected


@pytest.mark.parametrize("query", OTHERS)
def test_everything_else_is_told_by_the_typed_route(server: Served, query: str) -> None:
    assert at_once(server, query) is None
    plain = query.endswith(("start=-1h", "%ff%22"))
    assert typed(server, query)[0] in ((200,) if plain else (400, 404))


def test_other_forms_are_left_to_the_typed_route(server: Served) -> None:
    for kind in (b"text/csv", b"application/vnd.apache.parquet", b"image/png"):
        assert at_once(server, RANGE, (b"accept", kind)) is None


def test_sealed_rows_are_given_at_once_when_their_columns_are_kept(server: Served) -> None:
    server.clock.set_ns((T0 + 86_400) * 10**9)
    server.engine.sealer.seal()
    assert not server.engine.hot.held_rows()
    query = f"{RANGE}&match=host%3D%22a%22&where=busy>12"
    assert at_once(server, query) is None
    expected = typed(server, query)
    response = at_once(server, query)
    assert response is not None
    assert taken_apart(response) == expected
    # Newest values stay known when their rows are sealed.
    assert at_once(server, "table=cpu&last=row") is not None


def test_what_takes_long_is_left_to_a_thread(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine.query.rowscan, "PROMPT_ROWS", len(LINES) - 1)
        assert at_once(server, RANGE) is None
    assert at_once(server, RANGE) is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine.query.rowscan, "FEW_TAGSETS", 2)
        assert at_once(server, RANGE) is None
        assert at_once(server, f"{RANGE}&match=team=%22search%22") is not None
    with monkeypatch.context() as patch:
        patch.setattr("engine.query.wide.PROMPT_CELLS", 5)
        assert at_once(server, "table=cpu&last=row") is None
    with monkeypatch.context() as patch:
        patch.setattr("api.promptrows.MOST_CELLS", {"json": 5 * len(LINES) - 1})
        assert at_once(server, RANGE) is None
    late = f"cpu,host=a,team=pay\\ ments busy=1 {T0 * 10**9}".encode()
    server.engine.submit_lines(late).result(30)
    assert at_once(server, RANGE) is not None
    monkeypatch.setattr(engine.query.rowscan, "PROMPT_LATE_ROWS", 0)
    assert at_once(server, RANGE) is None


def test_nothing_is_answered_before_all_samples_are_back(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(server.engine.recovery), "active", True)
    assert at_once(server, PROMPT[0]) is None


def test_tokens_are_asked_for_and_kept_to(tmp_path: Path) -> None:
    tokens = tuple(
        Token(name=name, sha256=digest_of(name), scopes=(scope,), match=match)
        for name, scope, match in (("reads", "read", ""), ("writes", "write", ""), ("some", "read", 'team="search"'))
    )
    opened = Served(tmp_path)
    opened.clock.set_ns((T0 + 700) * 10**9)
    config = Config(query=Query(in_process=True), server=Server(tokens=tokens))
    opened.call._application = Application(opened.engine, config)
    try:
        opened.engine.submit_lines("\n".join(LINES).encode()).result(30)
        assert at_once(opened, RANGE) is None
        for name, rows in (("reads", 27), ("some", 18), ("writes", 0), ("nobody", 0)):
            said = (b"authorization", f"Bearer {name}".encode())
            response = at_once(opened, RANGE, said)
            assert (response is not None) == (rows > 0)
            if response is not None:
                told = taken_apart(response)
                assert told == typed(opened, RANGE, said)
                assert told[1]["x-tidegauge-rows"] == str(rows)
    finally:
        opened.engine.close()
