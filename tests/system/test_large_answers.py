"""Large answers over a socket: memory stays where it was, a client that hangs up frees its turn."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.system.program import Program

CONFIG = '[query]\nconcurrency = 1\nqueue = 1\nmemory = "256MiB"\nmax_result = "256MiB"\ntimeout = "10m"\n'
ROWS = 1_000_000
STATEMENT = f"SELECT i, repeat('x', 150) AS pad FROM range({ROWS}) r(i)"
#: What both processes together may grow by while an answer of 160 MB or more goes through them.
GROWTH_BYTES = 96 << 20
ENDLESS = "SELECT count(*) FROM range(10000000) a(i), range(10000000) b(j) WHERE (i * j) % 7 = 3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program(tmp_path_factory.mktemp("large") / "data", CONFIG) as program:
        program.write("cpu,host=a busy=1")
        program.sql("SELECT * FROM cpu")
        yield program


def processes(server: Program) -> list[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    return [pid, *sorted({int(child) for child in children})]


def memory(pid: int, line: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(f"{line}:")[2].split()[0]) << 10


def requested(server: Program, statement: str, accept: str) -> http.client.HTTPConnection:
    connection = server.connection()
    headers = {"Content-Type": "application/json", "Accept": accept}
    connection.request("POST", "/v1/sql", json.dumps({"sql": statement}), headers)
    return connection


@pytest.mark.parametrize("accept", ["application/vnd.apache.arrow.stream", "text/csv", "application/json"])
def test_memory_does_not_grow_with_the_answer(server: Program, accept: str) -> None:
    pids = processes(server)
    assert len(pids) == 2
    for pid in pids:
        # Peaks are counted from here on.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = sum(memory(pid, "VmRSS") for pid in pids)
    size = 0
    connection = requested(server, STATEMENT, accept)
    response = connection.getresponse()
    while chunk := response.read(1 << 20):
        size += len(chunk)
    connection.close()
    grown = sum(memory(pid, "VmHWM") for pid in pids) - before
    assert size > 150 * ROWS
    assert grown < GROWTH_BYTES, f"{grown >> 20} MiB for an answer of {size >> 20} MiB"


@pytest.mark.parametrize("statement", [ENDLESS, STATEMENT])
def test_a_client_that_hangs_up_frees_its_turn(server: Program, statement: str) -> None:
    where = urlsplit(server.url)
    body = json.dumps({"sql": statement}).encode()
    head = f"POST /v1/sql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(head.encode() + body)
        if statement == STATEMENT:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    # There is one turn; who hung up has left it, or would keep it for ten minutes.
    assert server.sql("SELECT 1") == [(1,)]


def test_the_server_says_nothing_of_clients_that_hang_up(server: Program) -> None:
    assert "Traceback" not in server.said()
