"""``tidegauge.open(path, read_only=True)``: the state as of opening, beside a server that goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import tidegauge
from api.cli.main import main
from engine.errors import Unavailable
from engine.maintenance.snapshot import take
from tests.system.program import Program

T0 = time.time_ns() // 3_600_000_000_000 * 3_600_000_000_000 - 7_200_000_000_000
COUNTS = "SELECT count(*) AS n, sum(v) AS total, max(time) AS newest FROM load"
TIERS = "SELECT time, metric, count, sum, max FROM rollup_1m ORDER BY ALL"


def rows(first: int, count: int, step_ns: int = 10**9) -> str:
    return "\n".join(f"load,host=h{at % 3} v={at} {T0 + at * step_ns}" for at in range(first, first + count))


def contents(root: Path) -> dict[str, tuple[str, int]]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(root))] = (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_mtime_ns,
            )
    return found


def test_beside_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with Program(data) as server:
        server.write(rows(0, 1_000))
        with tidegauge.open(str(data), read_only=True) as db:
            server.write(rows(1_000, 500))
            first = db.sql(COUNTS).rows()[0]
            assert (first["n"], first["total"]) == (1_000, 499_500.0)
            expected = server.sql(TIERS)
            assert len(db.sql(TIERS)) < len(expected)
            with tidegauge.open(str(data), read_only=True) as later:
                assert later.sql(COUNTS).rows()[0]["n"] == 1_500
                tiers = later.sql(TIERS).rows()
                assert [(row["metric"], row["count"], row["sum"], row["max"]) for row in tiers] == [
                    (metric, count, total, highest) for _, metric, count, total, highest in expected
                ]
                answer = later.query("load_v", start=T0, end=T0 + 1_500 * 10**9, agg="count", step="1h", by=[])
                assert sum(line.values.sum() for line in answer.series) == 1_500
            assert main(["sql", "--data", str(data), "--format", "csv", "SELECT count(*) AS n FROM load"]) == 0
            assert capsys.readouterr().out.splitlines()[1] == "1500"
            assert main(["export", "--data", str(data), "--table", "load", "--output", str(tmp_path / "x.csv")]) == 0
            assert len((tmp_path / "x.csv").read_text().splitlines()) == 1_501
            # The server goes on as if nobody had looked, and may even remove everything.
            server.write(rows(1_500, 1))
            assert server.sql("SELECT count(*) FROM load") == [(1_501,)]
            assert server.stop() == 0
            shutil.rmtree(data)
            assert db.sql(COUNTS).rows()[0] == first
            with pytest.raises(tidegauge.BadRequest, match="read-only"):
                db.write("load v=1")


def test_nothing_is_written_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with Program(data) as server:
        server.write(rows(0, 5_000))
        server.sql(TIERS)
        server.kill()
    # Younger than the clock of the file system tells times apart, a database may still be changing.
    before = contents(data)
    descriptors = len(os.listdir("/proc/self/fd"))
    with tidegauge.open(str(data), read_only=True) as db:
        assert db.sql(COUNTS).rows()[0]["n"] == 5_000
        assert db.sql("SELECT sum(count) AS n FROM rollup_1h").rows()[0]["n"] == 5_000
        assert db.sql("SELECT count(*) AS n FROM alerts").rows()[0]["n"] == 0
    assert contents(data) == before
    assert os.listdir(temporary) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def test_each_opening_sees_a_prefix_of_what_is_written(tmp_path: Path) -> None:
    """With sealing, log files and flushes in between: everything acknowledged before, nothing with a hole in it."""
    data = tmp_path / "data"
    config = tmp_path / "small.toml"
    config.write_text('[storage]\nhot_limit = "4MiB"\nwal_segment = "1MiB"\n')
    acknowledged = 2_000
    stop = threading.Event()
    with tidegauge.open(str(data), config=str(config)) as writer:
        writer.write(rows(0, acknowledged, 10**5))

        def write() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                assert writer.write(rows(acknowledged, 2_000, 10**5)).rows == 2_000
                acknowledged += 2_000
                if acknowledged % 40_000 == 0:
                    writer.engine.sealer.seal()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(4):
                known = acknowledged
                with tidegauge.open(str(data), read_only=True) as db:
                    row = db.sql("SELECT count(*) AS n, sum(v) AS total, max(v) AS highest FROM load").rows()[0]
                    tier = db.sql("SELECT sum(count) AS n, sum(sum) AS total FROM rollup_1m").rows()[0]
                assert row["n"] >= known
                assert row["n"] % 2_000 == 0
                assert row["highest"] == row["n"] - 1
                assert row["total"] == row["n"] * (row["n"] - 1) / 2
                assert (tier["n"], tier["total"]) == (row["n"], row["total"])
        finally:
            stop.set()
            thread.join()


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(tidegauge.NotFound, match="No such file"):
        tidegauge.open(str(tmp_path / "no"), read_only=True)
    with pytest.raises(tidegauge.NotFound, match="it is no data directory"):
        tidegauge.open(str(tmp_path), read_only=True)


def test_a_directory_that_never_rests(tmp_path: Path) -> None:
    (tmp_path / "catalog.log").touch()

    def change(_: float) -> None:
        (tmp_path / "rollups.duckdb").write_bytes(b"x")

    change(0)
    with pytest.raises(Unavailable, match="change too fast"):
        take(str(tmp_path), sleep=change, attempts=3)
