"""``tidegauge verify``: exit codes, both formats, one sentence for wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.main import main
from engine.config import Config, Query
from engine.runtime import Engine


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    with Engine.open(str(path), Config(query=Query(in_process=True))) as engine:
        engine.submit_lines(b"cpu,host=a usage=1i\ncpu,host=b usage=2.5").result(30)
    return path


def test_a_sound_directory(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--data", str(data)]) == 0
    captured = capsys.readouterr()
    assert "2 segment rows" in captured.out
    assert captured.out.splitlines()[-1].startswith("nothing stored is wrong, 0 notices;")
    assert captured.err == ""


def test_damage_is_told_with_what_will_happen(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = next(data.glob("segments/cpu/*.parquet"))
    body = bytearray(segment.read_bytes())
    body[10] ^= 1
    segment.write_bytes(body)
    (data / "wal" / "notes.txt").write_text("?")
    assert main(["verify", "--data", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"damage: segment_damaged: {segment.relative_to(data)}"
    assert lines[1].startswith("    found cannot verify segment: got checksum ")
    assert lines[2].startswith("    next start: The engine opens; ")
    assert lines[3] == "notice: log_stray: wal/notes.txt"
    assert lines[-1].startswith("1 findings of damage, 1 notices;")

    assert main(["verify", "--data", str(data), "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] is False
    assert report["counts"] == {"log_stray": 1, "segment_damaged": 1}
    assert {finding["kind"]: finding["severity"] for finding in report["findings"]} == {
        "log_stray": "notice",
        "segment_damaged": "damage",
    }


def test_notices_alone_are_no_failure(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "manifest-00000000000000ff.json.tmp").write_text("half")
    assert main(["verify", "--data", str(data)]) == 0
    assert "notice: temporary: manifest-00000000000000ff.json.tmp" in capsys.readouterr().out


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--data", str(tmp_path / "none")]) == 2
    assert "there is no such directory" in capsys.readouterr().err
    assert main(["verify", "--data", str(tmp_path)]) == 2
    assert "it is no data directory of tidegauge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.open(str(data), Config(query=Query(in_process=True))):
        assert main(["verify", "--data", str(data)]) == 1
    assert "it is in use by process" in capsys.readouterr().err
