"""The prompt's commands, its pager, completion of label values, and statements that are cancelled."""

from __future__ import annotations

import io
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import tidegauge
from api.cli.prompt import SqlNames, new_session
from api.cli.render import render_vertical
from api.cli.shell import Pager, Shell
from api.cli.sql import _answer
from api.cli.waiting import Stopwatch, waited
from api.client import connect
from engine.errors import BadRequest, Cancelled, TidegaugeError, Unavailable
from tests.recording_server import Answer, RecordingServer

SLOW = "SELECT a.range FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 70000007 = 3"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with tidegauge.open(str(tmp_path_factory.mktemp("shell") / "data")) as db:
        db.write("cpu,host=web1,zone=it's usage=1\ncpu,host=web2 usage=2\ncpu,host=db1 usage=3\nmem,host=other used=1")
        yield db


def said(db: Any, *lines: str) -> str:
    written: list[str] = []
    shell = Shell(
        db, answer=lambda sql, form, timing: _answer(db, sql, form, timing=timing).decode(), write=written.append
    )
    for line in lines:
        assert shell.run(line)
    return "".join(written)


def test_relations_columns_and_values_are_listed(db: Any) -> None:
    assert "cpu" in said(db, "\\d")
    assert said(db, "\\d cpu").splitlines()[2:6] == [
        "time         TIMESTAMP_NS",
        "host         VARCHAR",
        "zone         VARCHAR",
        "usage        DOUBLE",
    ]
    assert said(db, '\\d "cpu"').splitlines()[:6] == said(db, "\\d cpu").splitlines()[:6]
    assert said(db, "\\l host").splitlines()[2:6] == ["db1", "other", "web1", "web2"]
    assert "histogram_quantile(histogram, q)" in said(db, "\\df QUANTILE")
    assert "\\timing" in said(db, "\\?")


def test_formats_and_timing_are_switched(db: Any) -> None:
    text = said(db, "\\format csv", "SELECT 1 AS a;", "\\format vertical", "SELECT 2 AS bb, 'x' AS c;")
    assert text.startswith('the format is csv\n"a"\n1\nthe format is vertical\n-[ row 1 ]-\nbb | 2\nc  | x\n1 row (')
    timed = said(db, "\\timing", "SELECT count(*) FROM cpu;", "\\timing off")
    assert timed.startswith("timing is on\n")
    assert "3 rows read from 1 files, tier raw\ntiming is off\n" in timed
    assert " ms in the query, " in timed


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("\\nonsense", "there is no such command"),
        ("\\format parquet", "want one of table, vertical, csv, json"),
        ("\\timing maybe", "want on or off"),
        ("\\l", "want its name"),
    ],
)
def test_commands_that_cannot_be_meant(db: Any, line: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        said(db, line)


def test_wide_rows_stand_upright() -> None:
    table = pa.table({"name": ["a\nb", None], "value": [1.5, 2.0]})
    text = render_vertical(table, seconds=0.25, max_rows=1)
    assert text == (
        "-[ row 1 ]-\nname  | a\n      | b\nvalue | 1.5\n"
        "1 of 2 rows shown (250 ms); another --format gives all of them\n"
    )


def test_long_answers_go_through_the_pager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "page"
    program.write_text(f"#!/bin/sh\ncat > {seen}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PAGER", str(program))
    written: list[str] = []
    pager = Pager(written.append, size=lambda: (20, 5))
    pager.show("short\n")
    pager.show("long\n" * 6)
    assert (written, seen.read_text()) == (["short\n"], "long\n" * 6)
    pager.show("w" * 21)
    assert seen.read_text() == "w" * 21
    pager.on = False
    pager.show("w" * 22)
    monkeypatch.setenv("PAGER", str(tmp_path / "nothing"))
    pager.on = True
    pager.show("w" * 23)
    assert written[1:] == ["w" * 22, "w" * 23], "what cannot be paged is written"


@pytest.mark.parametrize(
    ("before", "typed", "offered"),
    [
        ("SELECT * FROM cpu WHERE host = '", "", ["db1", "other", "web1", "web2"]),
        ("SELECT * FROM cpu WHERE host = 'we", "we", ["web1", "web2"]),
        ('SELECT * FROM cpu WHERE "host" <> \'d', "d", ["db1"]),
        ("SELECT * FROM cpu WHERE host IN ('web1', 'web", "web", ["web1", "web2"]),
        ("SELECT * FROM cpu WHERE host NOT LIKE 'o", "o", ["other"]),
        ("SELECT * FROM samples WHERE labels['host'] = 'w", "w", ["web1", "web2"]),
        ("SELECT * FROM samples WHERE metric = 'cpu", "cpu", ["cpu_usage"]),
        ("SELECT * FROM metrics WHERE measurement = '", "", ["cpu", "mem"]),
        ("SELECT labels['", "", ["host", "zone"]),
        ("SELECT labels['z", "z", ["zone"]),
        ("SELECT * FROM cpu WHERE zone = 'it''", "it'", ["it's"]),
        ("SELECT * FROM cpu WHERE nothing = '", "", []),
    ],
)
def test_values_are_completed_between_quotes(db: Any, before: str, typed: str, offered: list[str]) -> None:
    assert SqlNames(db).values(before) == (typed, offered)


@pytest.mark.parametrize("before", ["SELECT ", "SELECT host FROM cpu WHERE host = 'web1' AND ", "SELECT 'a"])
def test_elsewhere_names_are_completed(db: Any, before: str) -> None:
    assert SqlNames(db).values(before) is None


def test_a_completed_value_is_escaped(db: Any) -> None:
    with create_pipe_input() as pipe:
        completer = new_session(db, input=pipe, output=DummyOutput()).completer
        assert completer is not None
        text = "SELECT * FROM cpu WHERE zone = 'i"
        (found,) = completer.get_completions(Document(text), CompleteEvent(completion_requested=True))
        assert (found.text, found.start_position) == ("it''s", -1)


# --- waiting


def interrupt_when(started: threading.Event) -> None:
    def wait() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt: a shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_what_runs() -> None:
    started, cancelled = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        cancelled.wait()

    interrupt_when(started)
    with pytest.raises(KeyboardInterrupt):
        waited(call, cancelled.set, lambda _: None)
    assert cancelled.is_set()
    assert waited(lambda: 5, cancelled.clear, lambda _: None) == 5
    with pytest.raises(Unavailable):
        waited(lambda: connect("http://127.0.0.1:1").sql("x"), cancelled.clear, lambda _: None)


def test_a_statement_in_this_process_is_cancelled(db: Any) -> None:
    started = threading.Event()
    failures: list[TidegaugeError] = []

    def call() -> None:
        started.set()
        try:
            db.sql(SLOW)
        except TidegaugeError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    started.wait()
    while thread.is_alive():
        db.cancel()
        thread.join(0.05)
    assert [type(error) for error in failures] == [Cancelled]
    assert db.sql("SELECT 1 AS a").rows() == [{"a": 1}]


def test_a_client_gives_up_its_request_and_goes_on() -> None:
    asked, release = threading.Event(), threading.Event()

    def answer(_: Any) -> Answer:
        if not asked.is_set():
            asked.set()
            release.wait()
        return Answer(200, b'{"metrics": []}')

    with RecordingServer(answer) as server, connect(server.url) as client:
        failures: list[TidegaugeError] = []

        def call() -> None:
            try:
                client.metric_names()
            except TidegaugeError as error:
                failures.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        asked.wait()
        client.cancel()
        thread.join()
        assert isinstance(failures[0], Unavailable)
        release.set()
        assert len(server.seen) == 1, "it is not sent again"
        assert client.metric_names() == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_how_long_a_statement_runs_is_shown_and_erased() -> None:
    terminal = Terminal()
    with Stopwatch(terminal) as stopwatch:
        stopwatch(0.5)
        assert terminal.getvalue() == ""
        stopwatch(1.2)
        stopwatch(1.4)
        stopwatch(2.6)
    text = "running for {} s; Ctrl-C cancels"
    assert terminal.getvalue() == f"\r{text.format(1)}\r{text.format(3)}\r{' ' * len(text.format(3))}\r"
    silent = io.StringIO()
    with Stopwatch(silent) as stopwatch:
        stopwatch(5)
    assert silent.getvalue() == ""
