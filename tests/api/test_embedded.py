"""``tidegauge.open``: the engine in the caller's process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import tidegauge
from engine.errors import Cancelled

T0 = 1_700_000_000_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tidegauge.toml"
    path.write_text(
        '[retention]\nraw = "30y"\n'
        '[[scale]]\ntarget = "web"\nmatch = {}\nmin = 1\n[[scale.signals]]\nkind = "cpu"\nmetric = "room_cpu"\n'
    )
    return str(path)


def test_everything_exported_is_there() -> None:
    assert all(hasattr(tidegauge, name) for name in tidegauge.__all__)


def test_prometheus_text_is_told_apart_by_its_type(tmp_path: Path, config: str) -> None:
    with tidegauge.open(str(tmp_path / "data"), config=config) as db:
        text = tidegauge.PrometheusText(b"up 1 %d\n" % (T0 // 10**6), {"job": "node"})
        assert db.write(text).samples == 1
        assert db.sql("SELECT metric, labels['job'] AS job, value FROM samples").rows() == [
            {"metric": "up", "job": "node", "value": 1.0}
        ]


def test_write_and_ask_in_every_form(tmp_path: Path, config: str) -> None:
    with tidegauge.open(str(tmp_path / "data"), config=config) as db:
        assert db.write(f"room,name=attic temperature=21.5 {T0}").rows == 1
        assert db.write(f"room,name=attic temperature=22.5 {T0 // 10**9 + 60}", precision="s").rows == 1
        table = pa.table({"time": pa.array([T0], pa.timestamp("ns")), "name": ["cellar"], "temperature": [12.0]})
        assert db.write(table, table="room").samples == 1
        object_ = {"table": "room", "tags": {"name": "hall"}, "time": T0, "fields": {"temperature": 18}}
        assert db.write([object_]).rows == 1
        rows = db.sql("SELECT name, avg(temperature) AS mean FROM room GROUP BY name ORDER BY name").rows()
        assert rows == [
            {"name": "attic", "mean": 22.0},
            {"name": "cellar", "mean": 12.0},
            {"name": "hall", "mean": 18.0},
        ]
        assert db.sql("SELECT count(*) AS n FROM samples WHERE value > ?", 20).to_polars()["n"].to_list() == [2]
        answer = db.query("room_temperature", match={"name": "attic"}, start=T0, end=T0 + 120 * 10**9, agg="max")
        assert [line.values.tolist() for line in answer.series] == [[21.5, 22.5]]
        assert [series["labels"] for series in db.series('name=~"a.*"')] == [{"name": "attic"}]
        assert db.scale("web")["desired"] is None
        with pytest.raises(tidegauge.NotFound):
            db.scale("nothing")
        with pytest.raises(tidegauge.BadQuery):
            db.sql("DROP TABLE room")
        refused = db.write('room temperature="warm"')
        assert refused.rows == 0
        assert refused.refused == {"string_field": 1}


def test_a_directory_is_one_process_at_a_time_and_keeps_its_data(tmp_path: Path, config: str) -> None:
    path = str(tmp_path / "data")
    with tidegauge.open(path, config=config) as db:
        db.write(f"room,name=attic temperature=21.5 {T0}")
        with pytest.raises(tidegauge.Unavailable, match="in use by process"):
            tidegauge.open(path, config=config)
    with tidegauge.open(path, config=config) as db:
        assert db.sql("SELECT temperature FROM room").rows() == [{"temperature": 21.5}]
        assert db.sql("SELECT sum(count) AS n FROM rollup_1d").rows() == [{"n": 1}]


def test_a_configuration_that_cannot_be_used_is_told_whole(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[query]\nmax_rows = 0\n[storage]\npartition = "5 parsecs"\n')
    with pytest.raises(tidegauge.BadConfig) as refused:
        tidegauge.open(str(tmp_path / "data"), config=str(path))
    assert len(refused.value.problems) == 2


SLOW = "SELECT a.range FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 70000007 = 3"


class Asking(threading.Thread):
    """A thread with one statement."""

    def __init__(self, db: tidegauge.Embedded, stream: bool = False) -> None:
        super().__init__()
        self.db, self.stream = db, stream
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            if self.stream:
                with self.db.sql_stream(SLOW) as answer:
                    list(answer)
            else:
                self.db.sql(SLOW)
        except tidegauge.TidegaugeError as error:
            self.error = error

    def cancelled(self) -> bool:
        """Cancel it until it has ended; a statement is not there to be cancelled as soon as its thread is."""
        while self.is_alive():
            self.db.cancel(self.ident)
            self.join(0.02)
        return isinstance(self.error, Cancelled) and "it was cancelled" in str(self.error)


def until(held: Callable[[], bool]) -> None:
    while not held():
        threading.Event().wait(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_one_statement_is_cancelled_and_no_other(tmp_path: Path, config: str, stream: bool) -> None:
    with tidegauge.open(str(tmp_path / "data"), config=config) as db:
        one, other = Asking(db, stream), Asking(db)
        running = db.engine.vitals.query_running.labels("sql", "")
        until(lambda: running._value.get() == 2)
        db.cancel(0)
        assert one.cancelled()
        assert other.is_alive()
        assert other.error is None
        assert db.sql("SELECT 1 AS a").rows() == [{"a": 1}]
        db.cancel()
        assert other.cancelled()


def test_one_that_waits_for_its_turn_is_cancelled(tmp_path: Path, config: str) -> None:
    with Path(config).open("a") as file:
        file.write("[query]\nconcurrency = 1\n")
    with tidegauge.open(str(tmp_path / "data"), config=config) as db:
        running, waiting = (
            getattr(db.engine.vitals, name).labels("sql", "") for name in ("query_running", "query_waiting")
        )
        first = Asking(db)
        until(lambda: running._value.get() == 1)
        second = Asking(db)
        until(lambda: waiting._value.get() == 1)
        assert second.cancelled()
        assert first.is_alive()
        assert first.cancelled()
        assert running._value.get() == waiting._value.get() == 0
        assert db.sql("SELECT 1 AS a").rows() == [{"a": 1}]
