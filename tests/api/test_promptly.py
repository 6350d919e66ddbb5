"""Answers that are given at once are, to the byte, those of the typed route."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from api.promptly import QUERY_PATH, PromptQueries
from engine.catalog.tokens import digest_of
from engine.config import Config, Query, Server, Token
from tests.api.test_prometheus import Served

T0 = 1_700_000_000
LINES = "\n".join(
    f"cpu,host={host},team={team} busy={busy + step},idle={99.5 - busy} {(T0 + 60 * step) * 10**9}"
    for step in range(3)
    for host, team, busy in (("a", "pay\\ ments", 10), ("b", "search", 30), ("c\\ é+&", "search", 20))
)
RANGE = f"start={T0}&end={T0 + 180}"
#: What is answered at once.
PROMPT = (
    f"metric=cpu_busy&{RANGE}",
    f"metric=cpu_busy&metric=cpu_idle&{RANGE}&step=2m&agg=max&by=",
    f"metric=cpu_idle&metric=cpu_busy&metric=cpu_idle&{RANGE}&step=range&agg=min&by=team,host",
    f"metric=cpu_busy&{RANGE}&match=host%3D%22a%22&agg=rate&step=1m",
    f"metric=cpu_busy&{RANGE}&match=host=%22c%20%C3%A9%2B%26%22",
    f"metric=cpu_busy&{RANGE}&match=team=%22pay+ments%22,host!=%22b%22&shape=columns",
    f"metric=cpu_busy&{RANGE}&agg=last&limit=2",
    f"metric=cpu_busy&{RANGE}&agg=count&topk=1",
    f"metric=cpu_busy&{RANGE}&agg=sum&bottomk=2&step=1m30s",
    "metric=cpu_busy&start=-10m&end=now",
    "metric=cpu_busy",
    f"metric=cpu_busy&start={T0}.5&end=2023-11-14T22:15:20Z",
)
#: What is left to the typed route, most of it because there is a mistake to be told.
OTHERS = (
    "",
    f"{RANGE}",
    f"metric=&{RANGE}",
    f"metric=cpu_bussy&{RANGE}",
    f"metric=cpu_busy&metric=cpu_none&{RANGE}",
    f"metric=cpu_busy&{RANGE}&agg=median",
    f"metric=cpu_busy&{RANGE}&agg=p90",
    f"metric=cpu_busy&{RANGE}&step=0",
    f"metric=cpu_busy&{RANGE}&step=soon",
    f"metric=cpu_busy&{RANGE}&steps=1m",
    f"metric=cpu_busy&{RANGE}&match=host",
    f"metric=cpu_busy&{RANGE}&match=host=~%22(%22",
    f"metric=cpu_busy&{RANGE}&match=host%3D%22b%22&match=team%3D%22search%22",
    f"metric=cpu_busy&{RANGE}&match=host=%22%ff%22",
    f"metric=cpu_busy&{RANGE}&topk=0",
    f"metric=cpu_busy&{RANGE}&topk=1&bottomk=1",
    f"metric=cpu_busy&{RANGE}&limit=10001",
    f"metric=cpu_busy&{RANGE}&limit=-1",
    f"metric=cpu_busy&{RANGE}&limit=²",
    f"metric=cpu_busy&{RANGE}&shape=rows",
    f"metric=cpu_busy&{RANGE}&shape=circles",
    f"metric=cpu_busy&start={T0 + 180}&end={T0}",
    f"metric=cpu_busy&start=yesterday&end={T0}",
    f"metric=cpu_busy&start={'9' * 30}&end={'9' * 31}",
    f"metric=cpu_busy&start={T0 - 7200}&end={T0 - 3600}",
    f"metric=cpu_busy&{RANGE}&topk",
    f"metric=cpu_busy&{RANGE}&by",
    f"metric=cpu_busy&&{RANGE}",
    f"metric=cpu_busy;{RANGE}",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    opened.clock.set_ns((T0 + 200) * 10**9)
    opened.engine.submit_lines(LINES.encode()).result(30)
    yield opened
    opened.engine.close()


def typed(server: Any, query: str, headers: dict[str, str] | None = None) -> Any:
    """Return what the typed route answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptQueries, "found", lambda *_: None)
        return server.call("GET", f"{QUERY_PATH}?{query}", headers=headers)


def at_once(server: Any, query: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> bytes | None:
    scope = {"method": "GET", "path": QUERY_PATH, "query_string": query.encode(), "headers": list(headers)}
    found: bytes | None = server.call._application.at_once[QUERY_PATH.encode()](scope)
    return found


def taken_apart(response: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize("query", PROMPT)
def test_what_is_answered_at_once_is_what_the_typed_route_answers(server: Served, query: str) -> None:
    expected = typed(server, query)
    assert expected[0] == 200
    assert b'"series":[{' in expected[2]
    assert server.call("GET", f"{QUERY_PATH}?{query}") == expected
    response = at_once(server, query)
    assert response is not None
    assert taken_apart(response) == expected


@pytest.mark.parametrize("query", OTHERS)
def test_everything_else_is_told_by_the_typed_route(server: Served, query: str) -> None:
    assert at_once(server, query) is None
    assert server.call("GET", f"{QUERY_PATH}?{query}") == typed(server, query)


def test_what_a_header_cannot_hold_is_escaped_as_elsewhere(server: Served) -> None:
    server.engine.submit_lines(f"é\\ busy,host=a x=1 {T0 * 10**9}".encode()).result(30)
    query = f"metric=%C3%A9+busy_x&{RANGE}"
    response = at_once(server, query)
    assert response is not None
    assert taken_apart(response) == typed(server, query)


def test_tokens_are_asked_for_and_kept_to(tmp_path: Path) -> None:
    secrets = {"reads": "", "writes": "", "limited": 'team="search"'}
    tokens = tuple(
        Token(name=name, sha256=digest_of(name), scopes=("write",) if name == "writes" else ("read",), match=match)
        for name, match in secrets.items()
    )
    opened = Served(tmp_path)
    opened.clock.set_ns((T0 + 200) * 10**9)
    config = Config(query=Query(in_process=True), server=Server(tokens=tokens))
    opened.call._application = Application(opened.engine, config)
    try:
        opened.engine.submit_lines(LINES.encode()).result(30)
        query = f"metric=cpu_busy&{RANGE}"
        assert at_once(opened, query) is None
        assert opened.call("GET", f"{QUERY_PATH}?{query}")[0] == 401
        for name, lines in (("reads", 3), ("limited", 2), ("writes", 0), ("nobody", 0)):
            said = f"Bearer {name}"
            response = at_once(opened, query, ((b"authorization", said.encode()),))
            assert (response is not None) == (lines > 0)
            expected = typed(opened, query, {"authorization": said})
            assert opened.call("GET", f"{QUERY_PATH}?{query}", headers={"authorization": said}) == expected
            if response is not None:
                assert taken_apart(response) == expected
                assert response.count(b'"labels"') == lines
    finally:
        opened.engine.close()


def test_nothing_is_answered_before_all_samples_are_back(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(server.engine.recovery), "active", True)
    assert at_once(server, PROMPT[0]) is None
