"""Attacks on a running server: each ends in a clear error within its limits, while writing goes on and others are told.

``make attacks`` tries every statement in every disguise; a bounded choice runs with the other tests.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.system.attacks import BOMBS, CANARY, disguised
from tests.system.program import Program

pytestmark = pytest.mark.attacks

#: How many disguised statements, and with which seed they are chosen.
DISGUISED = int(os.environ.get("TIDEGAUGE_ATTACKS", "400"))
SEED = int(os.environ.get("TIDEGAUGE_ATTACKS_SEED", "1"))
AT_ONCE = 200
CONFIG = """
[query]
timeout = "1s"
memory = "128MiB"
max_rows = 100_000
max_result = "16MiB"
concurrency = 4
queue = 64
concurrency_per_token = 3
queue_per_token = 32
reader_patience = "1s"

[detection]
enabled = false
"""
CLEAR = {
    400: {"bad_query", "bad_request"},
    413: {"too_large"},
    422: {"query_limit"},
    429: {"queue_full"},
    503: {"unavailable", "overload"},
}


def token(name: str, *scopes: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'[[server.tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}\n'


class Asked:
    """Requests of one token."""

    def __init__(self, server: Program, name: str) -> None:
        self._server, self._name = server, name

    def sql(self, statement: str, *parameters: Any) -> tuple[int, dict[str, str], bytes]:
        connection = self._server.connection()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._name}"}
        try:
            connection.request("POST", "/v1/sql", json.dumps({"sql": statement, "parameters": parameters}), headers)
            answer = connection.getresponse()
            try:
                body = answer.read()
            except http.client.IncompleteRead as cut:
                # A large answer that met its limit: never one that looks whole.
                return 422, {}, b'{"error": "query_limit", "message": "cut off"}' + cut.partial[:0]
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body
        finally:
            connection.close()

    def rows(self, statement: str) -> list[Any]:
        """Return an answer's rows, asking again for as long as one is told to come back."""
        while True:
            status, _, body = self.sql(statement)
            if status == 200:
                return list(json.loads(body)["rows"])
            assert status in (422, 429, 503), (status, body)
            time.sleep(0.05)


def checked(status: int, headers: dict[str, str], body: bytes, *, may_succeed: bool) -> str:
    """Return the outcome of an attack; fails unless it is one of those that are allowed."""
    assert CANARY.encode() not in body
    if status == 200:
        assert may_succeed, body[:500]
        return "answered"
    assert status in CLEAR, (status, body[:500])
    told = json.loads(body)
    assert told["error"] in CLEAR[status], told
    assert told["message"].startswith("cannot ") or told["message"] == "cut off", told
    assert "Traceback" not in told["message"]
    assert len(told["message"]) < 2_000, told["message"][:300]
    if status in (429, 503):
        assert int(headers["retry-after"]) >= 1
    return str(told["error"])


class Writer:
    """A process that writes one sample after the other, and how long each took to be acknowledged."""

    def __init__(self, server: Program, name: str) -> None:
        """``name``: of the series it writes."""
        where = urlsplit(server.url)
        self.name = name
        self._arguments = [str(where.hostname), str(where.port), name]
        self.seconds: list[float] = []
        self.failure = ""

    def __enter__(self) -> Writer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.writing", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        said = json.loads(self._process.communicate()[0])
        self.seconds, self.failure = said["seconds"], said["failure"]

    @property
    def sum(self) -> int:
        return sum(range(len(self.seconds)))

    def told(self) -> str:
        quantiles = statistics.quantiles(self.seconds, n=100)
        median, p99 = (quantiles[at] * 1e3 for at in (49, 98))
        return f"{len(self.seconds)} writes acknowledged in p50 {median:.1f} ms, p99 {p99:.1f} ms"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    path = tmp_path_factory.mktemp("attacks")
    os.environ["TIDEGAUGE_CANARY"] = CANARY
    config = CONFIG + token("writer", "write") + token("attacker", "read") + token("analyst", "read")
    try:
        with Program(path / "data", config) as program:
            lines = "\n".join(f"cpu,host=h{host} busy={host}" for host in range(50)) + "\nmem,host=h1 used=1"
            status, body = program.request("POST", "/write", lines, {"Authorization": "Bearer writer"})
            assert status == 204, body
            yield program
            # Everything that was acknowledged is in the tiers, exactly, and on disk.
            assert program.stop() == 0
            assert "Traceback" not in program.said()
    finally:
        del os.environ["TIDEGAUGE_CANARY"]


def written_by_attacks(server: Program) -> list[Path]:
    """Return files with the names that attacks give to what they write."""
    found = [path for path in server.data_dir.rglob("*") if path.name.startswith("written")]
    return found + [path for name in ("x.csv", "x.parquet", "x.db", "x") if (path := Path("/tmp") / name).exists()]


def tiers_are_exact(server: Program, writer: Writer) -> None:
    analyst = Asked(server, "analyst")
    expected = [[len(writer.seconds), float(writer.sum)]]
    where = f"metric = 'acked_value' AND labels['writer'] = '{writer.name}'"
    assert analyst.rows(f"SELECT count(*), sum(value) FROM samples WHERE {where}") == expected
    for tier in ("rollup_1m", "rollup_1h", "rollup_1d"):
        assert analyst.rows(f"SELECT sum(count)::BIGINT, sum(sum) FROM {tier} WHERE {where}") == expected


def test_what_is_forbidden_is_refused_in_every_disguise(server: Program) -> None:
    attacker = Asked(server, "attacker")
    for name, statement in disguised(SEED, DISGUISED, str(server.data_dir)):
        status, headers, body = attacker.sql(statement)
        assert status == 400, (name, statement[:300], status, body[:300])
        assert checked(status, headers, body, may_succeed=False) == "bad_query"
    assert not written_by_attacks(server)


def test_parameters_are_no_way_in(server: Program) -> None:
    attacker = Asked(server, "attacker")
    for parameters in (["'; COPY x TO '/tmp/x'"], ["cpu"], [{"a": 1}], [[1]], ["\0"], [10**30], ["x" * 2_000_000]):
        status, headers, body = attacker.sql("SELECT $1 AS given", *parameters)
        checked(status, headers, body, may_succeed=True)
    status, headers, body = attacker.sql("SELECT * FROM ?", "/etc/passwd")
    assert checked(status, headers, body, may_succeed=False) == "bad_query"


def test_bombs_end_within_their_limits_while_writing_and_asking_goes_on(
    server: Program, record_property: pytest.RecordProperty
) -> None:
    attacker, analyst = Asked(server, "attacker"), Asked(server, "analyst")
    told: list[tuple[int, dict[str, str], bytes]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            told.append(analyst.sql("SELECT count(*) FROM cpu"))

    with Writer(server, "bombs") as writer, ThreadPoolExecutor(4) as pool:
        asking = threading.Thread(target=ask)
        asking.start()
        found: Counter[str] = Counter()
        try:
            for statement, (status, headers, body) in zip(BOMBS, pool.map(attacker.sql, BOMBS), strict=True):
                try:
                    found[checked(status, headers, body, may_succeed=True)] += 1
                except AssertionError as failure:
                    raise AssertionError(f"{statement[:200]}: {failure}") from None
        finally:
            stop.set()
            asking.join()
    assert not writer.failure
    # Others are answered with the truth, or told of another's bomb.
    for status, _, body in told:
        assert status != 400, body
    answered = Counter(checked(*each, may_succeed=True) for each in told)
    assert {json.loads(body)["rows"][0][0] for status, _, body in told if status == 200} == {50}
    tiers_are_exact(server, writer)
    record_property("writes", writer.told())
    print(f"\n{len(BOMBS)} bombs: {dict(found)}; the analyst: {dict(answered)}; {writer.told()}")


def test_two_hundred_queries_at_once_are_answered_or_told(
    server: Program, record_property: pytest.RecordProperty
) -> None:
    heavy = "SELECT count(*) FROM range(30000) a(i), range(30) b(j) WHERE (i * j) % 7 = 3"
    with Writer(server, "crowd") as writer, ThreadPoolExecutor(AT_ONCE) as pool:
        attacker, analyst = Asked(server, "attacker"), Asked(server, "analyst")
        crowd = [pool.submit(attacker.sql, heavy) for _ in range(AT_ONCE)]
        # Another's crowd does not keep an analyst from being served.
        assert analyst.rows("SELECT count(*) FROM cpu") == [[50]]
        found = Counter(checked(*each.result(), may_succeed=True) for each in crowd)
    assert sum(found.values()) == AT_ONCE
    assert found["answered"] > 0
    assert not writer.failure
    tiers_are_exact(server, writer)
    record_property("writes", writer.told())
    print(f"\n{AT_ONCE} at once: {dict(found)}; {writer.told()}")


def test_readers_that_do_not_read_are_cut_off(server: Program) -> None:
    where = urlsplit(server.url)
    body = json.dumps({"sql": "SELECT i, repeat('x', 150) FROM range(90000) r(i)"}).encode()
    head = (
        f"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer attacker\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    readers = []
    for _ in range(20):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((where.hostname, where.port))
        reader.sendall(head.encode() + body)
        readers.append(reader)
    analyst = Asked(server, "analyst")
    with Writer(server, "readers") as writer:
        for _ in range(20):
            assert analyst.rows("SELECT count(*) FROM cpu") == [[50]]
        server.wait_said("cut off the reader of a large answer")
    for reader in readers:
        reader.close()
    assert not writer.failure


def test_the_server_is_what_it_was(server: Program) -> None:
    assert server.request("GET", "/health/ready")[0] == 200
    assert Asked(server, "analyst").rows("SELECT count(*) FROM cpu") == [[50]]
    assert CANARY not in server.said()
