"""``tidegauge sql``: where statements come from, where answers go, and the prompt."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pyarrow import parquet

import tidegauge
from api.cli.main import main
from api.cli.prompt import SqlNames, new_session, run_prompt
from api.cli.shell import Shell
from api.cli.statements import is_finished, split_statements
from api.client import SqlTable, arrow_stream
from engine.errors import BadQuery, Unavailable
from tests.recording_server import Answer, RecordingServer, Seen

ROWS = pa.table({"host": ["a", "b"], "n": [1, 22]})
TEXT = "host   n\n----  --\na      1\nb     22\n2 rows ("


def answer_sql(request: Seen) -> Answer:
    if b"broken" in request.body:
        error = {"error": "bad_query", "message": "cannot run SQL: syntax error", "details": None}
        return Answer(400, json.dumps(error).encode())
    return Answer(200, arrow_stream(ROWS))


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer(answer_sql) as server:
        yield server


def statements_seen(server: RecordingServer) -> list[str]:
    return [json.loads(seen.body)["sql"] for seen in server.seen]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_statement_is_answered_as_a_table(server: RecordingServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--url", server.url, "--token", "t0", "SELECT 1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(TEXT)
    assert (statements_seen(server), captured.err) == (["SELECT 1"], "")
    assert server.seen[0].headers["authorization"] == "Bearer t0"


@pytest.mark.parametrize(
    ("form", "expected"),
    [("csv", '"host","n"\n"a",1\n"b",22\n'), ("json", '[{"host":"a","n":1},\n {"host":"b","n":22}]\n')],
)
def test_other_formats(form: str, expected: str, server: RecordingServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--url", server.url, "--format", form, "SELECT 1"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("suffix", ["csv", "json", "arrow", "parquet"])
def test_the_format_follows_the_suffix_of_the_file(suffix: str, server: RecordingServer, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    assert main(["sql", "--url", server.url, "--output", str(path), "SELECT 1"]) == 0
    data = path.read_bytes()
    assert os.listdir(tmp_path) == [f"out.{suffix}"]
    if suffix == "csv":
        assert data.startswith(b'"host","n"\n')
    elif suffix == "json":
        assert json.loads(data)[1] == {"host": "b", "n": 22}
    elif suffix == "arrow":
        assert pa.ipc.open_stream(data).read_all() == ROWS
    else:
        assert parquet.read_table(io.BytesIO(data)) == ROWS


def test_a_file_that_cannot_be_written_is_one_sentence(
    server: RecordingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no" / "out.csv"
    assert main(["sql", "--url", server.url, "--output", str(path), "SELECT 1"]) == 2
    assert capsys.readouterr().err == f"tidegauge sql: cannot write {path}: No such file or directory\n"


def test_a_failed_statement_leaves_the_old_file(server: RecordingServer, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    assert main(["sql", "--url", server.url, "--output", str(path), "broken"]) == 1
    assert path.read_text() == "old"


def test_statements_from_a_pipe_run_in_order(
    server: RecordingServer, piped: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    piped("SELECT ';' -- one;\n; SELECT 2;\n-- end\n")
    assert main(["sql", "--url", server.url]) == 0
    assert statements_seen(server) == ["SELECT ';' -- one;", "SELECT 2"]
    assert capsys.readouterr().out.count(TEXT) == 2


def test_the_first_statement_that_fails_ends_it(
    server: RecordingServer, piped: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    piped("broken; SELECT 2")
    assert main(["sql", "--url", server.url]) == 1
    assert capsys.readouterr().err == "tidegauge sql: cannot run SQL: syntax error\n"
    assert statements_seen(server) == ["broken"]


@pytest.mark.parametrize(
    ("words", "stdin", "sentence"),
    [
        (["  "], "", "cannot run SQL: the statement is empty"),
        ([], " -- nothing\n;", "cannot run SQL: got no statement, want one as an argument or on standard input"),
        (["--format", "arrow"], "SELECT 1; SELECT 2", "cannot write 2 answers as arrow: want one statement"),
        (["--data", "/no/such", "SELECT 1"], "", "cannot open data directory /no/such: there is none"),
        (["--data", ".", "--token", "t", "SELECT 1"], "", "cannot use --token with --data"),
    ],
)
def test_wrong_use(
    words: list[str],
    stdin: str,
    sentence: str,
    piped: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    piped(stdin)
    assert main(["sql", *words]) == 2
    assert capsys.readouterr().err.startswith(f"tidegauge sql: {sentence}")


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_binary_answers_are_kept_from_a_terminal(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["sql", "--format", form, "SELECT 1"]) == 2
    assert capsys.readouterr().err == f"tidegauge sql: cannot write {form} to a terminal: use --output FILE\n"


class Embedded:
    """Stands in for an open data directory."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False

    def sql(self, statement: str, *parameters: Any) -> SqlTable:
        self.asked.append(statement)
        if statement == "SHOW TABLES":
            return SqlTable(pa.table({"name": ["cpu", "Disk", "samples"]}))
        if statement == 'DESCRIBE "cpu"':
            return SqlTable(pa.table({"column_name": ["time", "host", "usage_user"], "type": ["a", "b", "c"]}))
        if "broken" in statement:
            raise BadQuery("cannot run SQL: broken")
        return SqlTable(ROWS)

    def cancel(self) -> None:
        raise AssertionError("nobody has cancelled anything")

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def test_a_data_directory_is_opened_and_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded, opened = Embedded(), []
    monkeypatch.setattr(tidegauge, "open", lambda path, read_only: opened.append((path, read_only)) or embedded)
    assert main(["sql", "--data", str(tmp_path), "SELECT 1"]) == 0
    assert (opened, embedded.closed) == ([(str(tmp_path), True)], True)
    assert capsys.readouterr().out.startswith(TEXT)


# --- statements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "statements", "finished"),
    [
        ("", [], False),
        (";", [], True),
        ("SELECT 1", ["SELECT 1"], False),
        ("SELECT 1;", ["SELECT 1"], True),
        ("SELECT 1; -- done", ["SELECT 1"], True),
        ("SELECT 1; /* done */ \n", ["SELECT 1"], True),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"], False),
        ("SELECT 'a;''b;'", ["SELECT 'a;''b;'"], False),
        ('SELECT "a;""b;";', ['SELECT "a;""b;"'], True),
        ("SELECT $$a;b$$; x", ["SELECT $$a;b$$", "x"], False),
        ("SELECT $t$a;$$b$t$;", ["SELECT $t$a;$$b$t$"], True),
        ("SELECT $1; x", ["SELECT $1", "x"], False),
        ("SELECT 1 -- a;b\n; x", ["SELECT 1 -- a;b", "x"], False),
        ("SELECT 1 /* ; */ + 1;", ["SELECT 1 /* ; */ + 1"], True),
        ("SELECT 4/2-1; x", ["SELECT 4/2-1", "x"], False),
        ("SELECT 'open; ", ["SELECT 'open;"], False),
        ("SELECT 1 /* open; ", ["SELECT 1 /* open;"], False),
        ("-- only a comment\n/* and another */;", [], True),
    ],
)
def test_statements_end_at_their_semicolons(text: str, statements: list[str], finished: bool) -> None:
    assert split_statements(text) == statements
    assert is_finished(text) is finished


PARTS = st.sampled_from(["SELECT a", "';'", '";"', "--;\n", "/*;*/", "$$;$$", " ", "+", "''"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(PARTS, max_size=5), max_size=4))
def test_a_semicolon_in_quotes_or_comments_never_ends_a_statement(parts: list[list[str]]) -> None:
    texts = [" x " + " ".join(each) for each in parts]
    assert split_statements(";".join(texts)) == [text.strip() for text in texts]


# --- prompt -----------------------------------------------------------------------------------------------


def test_completion_offers_columns_of_the_relations_mentioned_then_relations_then_keywords() -> None:
    source = Embedded()
    names = SqlNames(source)
    assert names.candidates("s", "s")[:5] == ["samples", "select", "sum", "show", "second"]
    assert names.candidates("d", "SELECT d")[:5] == ["Disk", "distinct", "desc", "describe", "delta"]
    assert names.candidates("US", "SELECT US FROM cpu") == ["usage_user", "USING"]
    assert names.candidates("INCR", "SELECT INCR") == ["INCREASE"]
    assert names.candidates("time_b", "SELECT time_b") == ["time_bucket_gapfill", "time_bucket"]
    assert names.candidates("", "SELECT  FROM CPU")[:4] == ["time", "host", "usage_user", "cpu"]
    assert source.asked == ["SHOW TABLES", 'DESCRIBE "cpu"'], "each is asked once"


def test_completion_never_gets_in_the_way() -> None:
    class Away:
        def sql(self, statement: str, *parameters: Any) -> SqlTable:
            raise Unavailable("cannot reach it")

    assert SqlNames(Away()).candidates("sele", "sele") == ["select"]


def prompted(typed: str, source: Embedded, answer: Callable[[str], str]) -> str:
    """Return what a session writes when a user types ``typed``."""
    written: list[str] = []
    with create_pipe_input() as pipe:
        pipe.send_text(typed)
        session = new_session(source, input=pipe, output=DummyOutput())
        shell = Shell(source, answer=lambda statement, form, timing: answer(statement), write=written.append)
        run_prompt(shell, session, write=written.append)
    return "".join(written[1:])


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_prompt_runs_finished_statements_and_remembers_them(state_home: Path) -> None:
    text = prompted("SELECT 1;\rSELECT\r2; SELECT 3;\r\\q\r", Embedded(), lambda statement: f"<{statement}>")
    assert text == "<SELECT 1><SELECT\n2><SELECT 3>"
    history = state_home / "tidegauge" / "sql-history"
    assert "+SELECT 1;" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("leaving", ["\\q\r", "exit\r", "quit;\r", "\x04"])
def test_the_prompt_is_left_in_the_usual_ways(leaving: str) -> None:
    assert prompted(leaving, Embedded(), lambda statement: "!") == ""


def test_a_mistake_is_told_and_the_prompt_goes_on() -> None:
    def answer(statement: str) -> str:
        if statement == "broken":
            raise BadQuery("cannot run SQL: broken")
        return "fine"

    assert prompted("broken;\rSELECT 1;\r\x04", Embedded(), answer) == "cannot run SQL: broken\nfine"


def test_an_interrupted_statement_and_a_forgotten_line_lead_back_to_the_prompt() -> None:
    def answer(statement: str) -> str:
        if statement == "slow":
            raise KeyboardInterrupt
        return "fine"

    assert prompted("slow;\rSELECT half\x03SELECT 1;\r\x04", Embedded(), answer) == "\n\nfine"


@pytest.mark.parametrize(
    ("before", "after", "asked_for", "offered"),
    [
        ("SELECT usage_u", " FROM cpu", False, [("usage_user", -7)]),
        ("SELECT ", " FROM cpu", False, []),
        ("SELECT * FROM Di", "", True, [("Disk", -2), ("DISTINCT", -2)]),
    ],
)
def test_the_word_before_the_cursor_is_completed(
    before: str, after: str, asked_for: bool, offered: list[tuple[str, int]]
) -> None:
    with create_pipe_input() as pipe:
        completer = new_session(Embedded(), input=pipe, output=DummyOutput()).completer
        assert completer is not None
        event = CompleteEvent(completion_requested=asked_for)
        found = completer.get_completions(Document(before + after, len(before)), event)
        assert [(completion.text, completion.start_position) for completion in found] == offered


def test_without_a_state_directory_there_is_still_a_prompt(state_home: Path) -> None:
    state_home.write_text("a file where a directory should be")
    assert prompted("SELECT 1;\r\x04", Embedded(), str) == "SELECT 1"
