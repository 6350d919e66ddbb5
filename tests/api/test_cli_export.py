"""``tidegauge export``: what is selected, in which format, and every mistake in one sentence."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidegauge
from api.cli.main import main
from api.client import arrow_stream
from tests.recording_server import Answer, RecordingServer, Seen

NOW_NS = time.time_ns() // 60_000_000_000 * 60_000_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("export") / "data")
    with tidegauge.open(directory) as db:
        db.write("".join(f"cpu,host=h{at % 3},rack=0{at % 2} v={at}i {NOW_NS - at * 10**9}\n" for at in range(120)))
        db.write(f"mem,host=h0 used=1.5 {NOW_NS}\n")
    return directory


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "lp", "lp.gz", "csv.gz", "lp.zst", "csv.zst"])
def test_a_table_goes_out_and_comes_in(
    data: str, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / f"out.{suffix}"
    assert main(["export", "--data", data, "--table", "cpu", "--output", str(path)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("wrote 120 rows in ")
    if not suffix.startswith("lp"):
        command = said.partition("load it with: tidegauge ")[2].strip()
        assert command.startswith(f"import {path} --format {suffix.partition('.')[0]}")
        assert command.endswith("--table cpu --tag host --tag rack") == suffix.startswith("csv")
    else:
        command = f"import {path}"
    copy = str(tmp_path / "copy")
    assert main([*command.split(" "), "--data", copy]) == 0
    statement = "SELECT time, host, rack, v FROM cpu ORDER BY time"
    with tidegauge.open(data) as before, tidegauge.open(copy) as after:
        assert before.sql(statement).arrow.equals(after.sql(statement).arrow)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("out")] == [path.name]


def test_everything_goes_to_standard_output_as_line_protocol(
    data: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["export", "--data", data, "--format", "lp"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == 121
    assert f"mem,host=h0 used=1.5 {NOW_NS}".encode() in lines
    assert main(["export", "--data", data, "--format", "lp", "--match", 'host="h0"', "--start", "now-1d"]) == 0
    assert len(capfdbinary.readouterr().out.splitlines()) == 41


def test_the_answer_of_a_statement(data: str, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    query = "SELECT host, max(v) AS v, map(['a'], [1]) AS m FROM cpu GROUP BY host ORDER BY host"
    assert main(["export", "--data", data, "--output", str(path), "--query", query]) == 0
    assert pq.read_table(path).to_pydict()["v"] == [117.0, 118.0, 119.0]
    assert main(["export", "--data", data, "--output", str(tmp_path / "out.csv"), "--query", query]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["host,v,m", 'h0,117.0,"{""a"":1}"']


def test_a_statement_is_asked_once_for_each_window(data: str, tmp_path: Path) -> None:
    path = tmp_path / "out.lp"
    query = (
        "SELECT time_bucket(INTERVAL '1 minute', time) AS time, host, count(*) AS n FROM cpu"
        " WHERE time >= $1 AND time < $2 GROUP BY ALL ORDER BY ALL"
    )
    bounds = ["--start", str(NOW_NS - 180 * 10**9), "--end", str(NOW_NS), "--step", "1m"]
    assert main(["export", "--data", data, "--output", str(path), "--query", query, "--as", "counts", *bounds]) == 0
    expected = [f"counts,host=h{host} n=20 {NOW_NS - minute * 60 * 10**9}" for minute in (2, 1) for host in range(3)]
    written = [line for line in path.read_text().splitlines() if " n=20 " in line]
    assert written[-3:] == expected[-3:]


def test_every_measurement_gets_a_file_in_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data, directory = str(tmp_path / "data"), tmp_path / "dump"
    with tidegauge.open(data) as db:
        db.write(f"cpu,host=a v=1 {NOW_NS}\na/b,host=a v=2 {NOW_NS}\n")
    words = ["export", "--data", data, "--format", "parquet", "--output", f"{directory}/"]
    assert main(words) == 0
    assert sorted(each.name for each in directory.iterdir()) == ["a%2Fb.parquet", "cpu.parquet"]
    assert f"import {directory}/a%2Fb.parquet --format parquet\n" in capsys.readouterr().err
    copy = str(tmp_path / "copy")
    assert main(["import", *map(str, directory.iterdir()), "--data", copy]) == 0
    with tidegauge.open(copy) as db:
        assert db.sql("SELECT metric FROM metrics ORDER BY metric")["metric"].to_pylist() == ["a/b_v", "cpu_v"]
    capsys.readouterr()
    assert pq.read_table(directory / "a%2Fb.parquet")["v"].to_pylist() == [2.0]
    # As an interrupted export leaves it: what is done is not done again.
    (directory / "cpu.parquet").write_bytes(b"kept")
    from api.cli.export import _Done, _options
    from api.cli.main import build_parser

    parser, _ = build_parser("export")
    done = _Done(f"{directory}/", _options(parser.parse_args(words), "parquet"), restart=False)
    done.add("cpu")
    assert main(words) == 0
    assert "cpu: written already" in capsys.readouterr().err
    assert (directory / "cpu.parquet").read_bytes() == b"kept"
    assert main([*words, "--restart"]) == 0
    assert pq.read_table(directory / "cpu.parquet")["v"].to_pylist() == [1.0]
    assert not (directory / "export.progress").exists()


def test_a_terminal_shows_how_far_it_is(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["export", "--data", data, "--table", "cpu", "--output", str(tmp_path / "out.parquet")]) == 0
    shown = capsys.readouterr().err
    assert "out.parquet" in shown
    assert "100%" in shown
    assert "120 rows, " in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--table", "nothing"], "there is no such measurement"),
        (["--query", "SELECT nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_exported(
    data: str, tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--data", data, "--output", str(tmp_path / "out.csv"), *words]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "cannot write all measurements as csv"),
        (["--format", "parquet", "--table", "cpu"], "cannot write parquet to standard output"),
        (["--table", "cpu", "--step", "1m"], "cannot use --step without --query"),
        (["--query", "SELECT 1", "--match", 'a="b"'], "cannot use --match with --query"),
        (["--query", "SELECT 1", "--format", "lp"], "say the name of the measurement with --as"),
        (["--query", "SELECT $1, $2"], "want --start, --end and --step"),
        (["--query", "SELECT 1", "--start", "now-1d"], "want $1 and $2 in the statement"),
        (["--table", "cpu", "--match", "nonsense"], "cannot read matcher"),
        (["--table", "cpu", "--start", "tomorrow"], "cannot read time"),
        (["--table", "cpu", "--start", "now", "--end", "now-1h"], "the end is not behind the start"),
        (["--query", "SELECT $1, $2", "--start", "now-1d", "--end", "now", "--step", "0s"], "cannot use --step 0s"),
        (["--table", "cpu", "--output", "x.parquet.gz"], "cannot compress parquet"),
        (["--output", "/tmp/"], "cannot tell the format of files"),
        (["--output", "/tmp/", "--format", "csv", "--query", "SELECT 1"], "which is a directory"),
        (["--table", "cpu", "--delimiter", "::"], "want one character"),
        (["--table", "cpu", "--token", "t"], "cannot use --token with --data"),
    ],
)
def test_wrong_use_is_one_sentence(
    data: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--data", data, *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "lp", "openmetrics"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--match", 'host="z"'], 'nothing matched: no sample of cpu has labels host="z"'),
        (["--match", 'zone="z"'], 'nothing matched: no sample of cpu has labels zone="z"'),
        (["--match", '__name__="cpu_w"'], 'nothing matched: no sample of cpu has labels __name__="cpu_w"'),
        (["--start", "2030-01-01"], "nothing matched: no sample of cpu from 2030-01-01 on"),
        (["--end", "1980-01-01"], "nothing matched: no sample of cpu before 1980-01-01"),
    ],
)
def test_nothing_that_matches_is_said(
    data: str, tmp_path: Path, suffix: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"out.{suffix}"
    assert main(["export", "--data", data, "--table", "cpu", "--output", str(path), *words]) == 0
    told = capsys.readouterr().err
    if suffix == "openmetrics":
        told = told.partition("--format lp keeps measurements\n")[2]
    assert told == f"{said}; {path} holds none\n"
    # A file of its format all the same, with the columns where the format has them.
    if suffix == "parquet":
        assert pq.read_table(path).schema.names == ["time", "host", "rack", "v"]
    elif suffix == "arrow":
        assert pa.ipc.open_stream(path.read_bytes()).read_all().num_rows == 0
    else:
        assert path.read_text() == {"csv": "time,host,rack,v\n", "lp": "", "openmetrics": "# EOF\n"}[suffix]


def test_nothing_at_all_or_from_a_statement(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.lp"
    assert main(["export", "--data", data, "--match", 'zone="z"', "--output", str(path)]) == 0
    assert capsys.readouterr().err == (
        f'nothing matched: no sample of any measurement has labels zone="z"; {path} holds none\n'
    )
    assert path.read_bytes() == b""
    assert main(["export", "--data", data, "--query", "SELECT 1 AS a WHERE false"]) == 0
    assert capsys.readouterr() == ("a\n", "the answer of the statement has no rows\n")


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--data", str(tmp_path / "no"), "--table", "cpu"]) == 2
    assert "there is none" in capsys.readouterr().err


def test_a_server_that_stops_answering_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written before a failure is kept, and the next run asks only for the rest."""
    broken = True
    asked: list[bytes] = []

    def answer(request: Seen) -> Answer:
        asked.append(request.body)
        if b'"1970-01-02' in request.body.split(b'"parameters"')[1].split(b",")[0] and broken:
            return Answer(400, b'{"error": "bad_query", "message": "cannot run SQL: broken", "details": null}')
        return Answer(200, arrow_stream(pa.table({"n": [len(asked)]})))

    path = tmp_path / "out.csv"
    words = ["export", "--query", "SELECT $1, $2", "--start", "0", "--end", "1970-01-03", "--step", "12h"]
    with RecordingServer(answer) as server:
        words += ["--url", server.url, "--output", str(path)]
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "broken; the same command goes on from where it stopped" in said
        assert not path.exists()
        broken, before = False, len(asked)
        assert main(words) == 0
        assert "going on behind 2 rows" in capsys.readouterr().err
        assert len(asked) - before == 2
        assert path.read_text() == "n\n1\n2\n4\n5\n"
        assert main([*words, "--restart"]) == 0
        assert path.read_text() == "n\n6\n7\n8\n9\n"
