"""``tidegauge import``: from files to answers, with every mistake said in one sentence."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidegauge
from api.cli.main import main
from tests.recording_server import Answer, RecordingServer, Seen

NOW_S = int(time.time()) // 60 * 60


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def rows_of(data: str, statement: str) -> list[tuple[object, ...]]:
    with tidegauge.open(data) as db:
        return [tuple(row.values()) for row in db.sql(statement)]


@pytest.mark.parametrize("suffix", ["prom", "openmetrics"])
def test_prometheus_text_arrives_with_labels(
    tmp_path: Path, data: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = 1 if suffix == "openmetrics" else 1000
    lines = [f'up{{host="h{at % 2}"}} {at} {(NOW_S - at) * unit}' for at in range(100)]
    file = tmp_path / f"scrape.{suffix}"
    file.write_text("\n".join(["# TYPE up gauge", *lines, "nonsense", "# EOF", ""]))
    assert main(["import", str(file), "--data", data, "--label", "job=node"]) == 1
    said = capsys.readouterr().err
    assert f"{file}:102: malformed" in said
    assert "stored 100 rows, 100 samples in " in said
    statement = (
        "SELECT metric, labels['host'], labels['job'], count(*), sum(value) FROM samples GROUP BY ALL ORDER BY 2"
    )
    assert rows_of(data, statement) == [("up", "h0", "node", 50, 2450.0), ("up", "h1", "node", 50, 2500.0)]


def test_prometheus_text_goes_to_its_own_path(tmp_path: Path) -> None:
    seen: list[Seen] = []

    def answer(request: Seen) -> Answer:
        seen.append(request)
        return Answer(204, headers={"X-Tidegauge-Rows": "1", "X-Tidegauge-Samples": "1"})

    (tmp_path / "a.prom").write_text("up 1\n")
    with RecordingServer(answer) as server:
        assert main(["import", str(tmp_path / "a.prom"), "--url", server.url, "--label", "job=a b"]) == 0
    assert [(request.path, request.body) for request in seen] == [("/v1/import/prometheus?label=job%3Da+b", b"up 1\n")]


@pytest.mark.parametrize("label", ["job", "=x", "job=1 job=2"])
def test_labels_that_are_none(tmp_path: Path, label: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.prom").write_text("up 1\n")
    words = [word for text in label.split(" ") for word in ("--label", text)]
    assert main(["import", str(tmp_path / "a.prom"), *words]) == 2
    assert "cannot add label" in capsys.readouterr().err


def test_every_format_arrives_whole(tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    count = 400
    lines = "".join(f"lp,host=h{at % 3} v={at}i {NOW_S - at}\n" for at in range(count))
    (tmp_path / "lp.lp").write_text(lines)
    (tmp_path / "more.lp.gz").write_bytes(gzip.compress(lines.replace("lp,", "packed,").encode()))
    cells = "".join(f"{NOW_S - at},h{at % 3},{at}\n" for at in range(count))
    (tmp_path / "csv.csv").write_text(f"ts,host,v\n{cells}")
    table = pa.table(
        {
            "time": pa.array([NOW_S - at for at in range(count)], pa.timestamp("s")),
            "host": [f"h{at % 3}" for at in range(count)],
            "v": list(range(count)),
        }
    )
    pq.write_table(table, tmp_path / "pq.parquet")
    with pa.OSFile(str(tmp_path / "ar.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    files = [str(tmp_path / name) for name in ("lp.lp", "more.lp.gz", "csv.csv", "pq.parquet", "ar.arrow")]
    assert main(["import", *files, "--data", data, "--precision", "s", "--unit", "s"]) == 0
    assert f"stored {5 * count} rows, {5 * count} samples in " in capsys.readouterr().err
    expected = [(f"h{host}", len(range(host, count, 3)), float(sum(range(host, count, 3)))) for host in range(3)]
    for name in ("lp", "packed", "csv", "pq", "ar"):
        assert rows_of(data, f"SELECT host, count(*), sum(v) FROM {name} GROUP BY host ORDER BY host") == expected


def test_refused_rows_are_named_by_file_and_line_and_the_others_kept(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"cpu,host=a v=1 {NOW_S}\nnonsense\ncpu,host=b v=2 {NOW_S}\n# note\ncpu,host=c v=3 17\n"
    (tmp_path / "x.lp").write_text(text)
    assert main(["import", str(tmp_path / "x.lp"), "--data", data, "--precision", "s"]) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path}/x.lp:2: malformed: " in said
    assert f"{tmp_path}/x.lp:5: too_old: " in said
    assert "stored 2 rows, 2 samples" in said
    assert "refused 2 (malformed 1, too_old 1)" in said
    assert "raise it to load history" in said
    assert rows_of(data, "SELECT host FROM cpu ORDER BY host") == [("a",), ("b",)]


def test_a_load_that_stored_nothing_does_not_speak_of_what_it_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("time,host\n2026-01-01,a\n")
    assert main(["import", str(tmp_path / "x.csv"), "--data", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.endswith("it has no column of numbers (host hold text, which makes tags)\n")


def test_a_file_of_nothing_but_refused_rows_ends_with_a_count(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.lp").write_text("nonsense\n" * 30)
    assert main(["import", str(tmp_path / "x.lp"), "--data", data, "--errors", "2"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "refused 30 (malformed 30); 28 of them not shown" in said[-1]


@pytest.fixture
def flaky() -> Iterator[RecordingServer]:
    """A server that takes two requests and then forbids the others."""
    taken = 0

    def answer(request: Seen) -> Answer:
        nonlocal taken
        taken += 1
        if taken == 3:
            body = {"error": "forbidden", "message": "cannot write: the token has expired", "details": None}
            return Answer(403, json.dumps(body).encode())
        rows = request.body.count(b"\n")
        return Answer(204, b"", {"X-Tidegauge-Rows": str(rows), "X-Tidegauge-Samples": str(rows)})

    with RecordingServer(answer) as server:
        yield server


def test_an_interrupted_load_goes_on_where_it_stopped(
    tmp_path: Path, flaky: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"cpu v={at} {at:019d}\n" for at in range(150_000)]
    (tmp_path / "x.lp").write_text("".join(lines))
    command = ["import", str(tmp_path / "x.lp"), "--url", flaky.url]
    assert main(command) == 1
    assert "the token has expired; what was loaded is stored, and the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "going on from line " in said
    stored = [seen.body for at, seen in enumerate(flaky.seen) if at != 2]
    assert b"".join(stored) == "".join(lines).encode()
    flaky.seen.clear()
    assert main(command) == 0
    assert b"".join(seen.body for seen in flaky.seen) == "".join(lines).encode(), "a complete load is forgotten"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.lp"], "cannot load absent.lp: there is no such file"),
        (["{file}", "--format", "xml"], "invalid choice: 'xml'"),
        (["{file}", "--precision", "y"], "cannot read timestamps: got precision 'y'"),
        (["{file}", "--delimiter", ";;"], "cannot use delimiter ';;': want one character"),
        (["{file}", "--errors", "-1"], "cannot print -1 refused rows"),
        (["{file}", "--data", "d", "--token", "t"], "cannot use --token with --data"),
        (["{file}", "--config", "c.toml"], "cannot use --config without --data"),
        ([], "the following arguments are required: FILE"),
    ],
)
def test_wrong_use_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "x.lp").write_text("cpu v=1\n")
    assert main(["import", *(each.format(file=tmp_path / "x.lp") for each in arguments)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
