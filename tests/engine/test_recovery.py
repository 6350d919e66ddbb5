"""Recovery: writes go on while the log is replayed, nobody reads half of it, and a kill in it is one like others."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, ScaleTarget, Signal, Storage
from engine.config_units import ByteSize, Duration
from engine.disk.real import RealFileSystem
from engine.errors import Recovering, TidegaugeError
from engine.maintenance import recover
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query.range import RangeQuery
from engine.runtime import Engine
from engine.wal.layout import list_files
from engine.wal.reader import WalReport
from engine.wal.tail import WalTail
from engine.wal.writer import WalWriter
from native.frames import encode_frame
from tests.filesystems import FailingFileSystem, MemoryFileSystem, SlowFileSystem, broken_disk

NOW_NS = 1_700_000_000 * NS_PER_SECOND
TARGET = ScaleTarget(target="web", match={}, signals=(Signal(kind="cpu", metric="t_x"),))
CONFIG = Config(
    retention=Retention(raw=Duration.parse("30d")),
    query=Query(in_process=True),
    scale=(TARGET,),
    storage=Storage(hot_limit=ByteSize.parse("1MiB"), wal_segment=ByteSize.parse("1MiB")),
)
RANGE = RangeQuery("t_x", NOW_NS, NOW_NS + 60 * NS_PER_SECOND, 60 * NS_PER_SECOND, "last", (), None)


def opened(data: Path, **options: Any) -> Engine:
    return Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS), **options)


def write(engine: Engine, text: str) -> int:
    result = engine.submit_lines(text.encode()).result(30)
    assert not result.refused
    return result.sequence


def values(engine: Engine, table: str = "t") -> dict[tuple[str, int], float]:
    """Return what is stored of the field x: (host, second) -> value; fails when a key is there twice."""
    table_id = engine.catalog.table_id(table)
    if table_id is None:
        return {}
    rows = engine.samples.collect(table_id, NEVER_NS, FOREVER_NS)
    hosts = [engine.catalog.tags(tagset)["host"] for tagset in rows.tagset_ids.tolist()]
    seconds = ((rows.times - NOW_NS) // NS_PER_SECOND).tolist()
    keys = list(zip(hosts, seconds, strict=True))
    assert len(set(keys)) == len(keys)
    [x] = [field.field_id for field in engine.catalog.fields(engine.catalog.table_id(table) or 0) if field.name == "x"]
    return dict(zip(keys, rows.values[rows.field_ids.index(x)].tolist(), strict=True))


def line(host: str, second: int, value: float, table: str = "t") -> str:
    return f"{table},host={host} x={value} {NOW_NS + second * NS_PER_SECOND}\n"


def killed(engine: Engine, data: Path, copy: Path) -> Path:
    """Return a copy of what kill -9 would leave behind at this moment, and end the engine."""
    shutil.copytree(data, copy)
    engine.close()
    return copy


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A directory that was killed with three batches in the log; the second corrects the first."""
    data = tmp_path / "data"
    engine = opened(data)
    write(engine, line("a", 0, 1) + line("b", 0, 2))
    write(engine, line("a", 0, 3))
    write(engine, line("a", 1, 4, "u"))
    return killed(engine, data, tmp_path / "killed")


def test_writes_are_taken_and_nothing_is_read_while_the_log_is_replayed(log: Path) -> None:
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    with opened(log, fs=fs, wait=False) as engine:
        fs.wait_held()
        assert write(engine, line("b", 0, 5) + line("new", 0, 6)) == 4
        assert write(engine, line("a", 0, 7)) == 5
        state = engine.readiness()
        assert (state["ready"], state["state"], state["writes"], state["queries"]) == (False, "recovering", True, False)
        assert (state["recovery"]["frames_done"], state["recovery"]["frames_total"]) == (0, 5)
        assert 0 == state["recovery"]["bytes_done"] < state["recovery"]["bytes_total"]
        with pytest.raises(Recovering, match=r"cannot query: the log is being recovered \(0 of \d+ bytes") as raised:
            engine.query(RANGE)
        assert raised.value.details["frames_total"] == 5
        assert raised.value.retry_after_seconds >= 1
        for statement in ("SELECT * FROM samples", "SELECT count(*) FROM t", "SELECT * FROM rollup_1m"):
            with pytest.raises(Recovering, match="cannot run SQL"):
                engine.sql(statement)
        assert engine.sql("SELECT * FROM alerts").table.num_rows == 0
        assert engine.hot.held_rows() == 0
        decision = engine.scale("web")
        assert (decision.action, decision.desired) == ("hold", None)
        assert decision.reason.endswith("samples are still being recovered from the log")
        fs.release()
        assert engine.recovery.wait(30)
        assert values(engine) == {("a", 0): 7, ("b", 0): 5, ("new", 0): 6}
        assert values(engine, "u") == {("a", 1): 4}
        assert write(engine, line("a", 0, 8)) == 6
        assert values(engine)["a", 0] == 8
        state = engine.readiness()
        assert (state["ready"], state["recovery"]["frames_done"], state["recovered_rows"]) == (True, 5, 7)
        assert engine.sql("SELECT sum(count) AS n FROM rollup_1m").table["n"].to_pylist() == [4]
        assert engine.hot.applied_sequence == 6
    with opened(log) as engine:
        assert values(engine) == {("a", 0): 8, ("b", 0): 5, ("new", 0): 6}


def test_the_watch_waits_until_every_sample_is_back(log: Path) -> None:
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    with opened(log, fs=fs, wait=False) as engine:
        engine._once_recovered(engine.watcher.tick)
        assert [rule["judged_ns"] for rule in engine.rules()] == [None] * len(engine.rules())
        fs.release()
        assert engine.recovery.wait(30)
        engine._once_recovered(engine.watcher.tick)
        assert [rule["judged_ns"] for rule in engine.rules()] == [NOW_NS] * len(engine.rules())


def test_writers_that_outrun_the_replay_are_turned_away_until_it_has_caught_up(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "ALLOWANCE_BYTES", 100)
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    with opened(log, fs=fs, wait=False) as engine:
        taken = 0
        while engine.wal.appended_bytes <= 100:
            write(engine, line("late", -taken, taken))
            taken += 1
        with pytest.raises(Recovering, match="writes come faster than the log is recovered"):
            write(engine, line("late", -1000, 1))
        assert b'tidegauge_ingest_overloaded_total{reason="recovering"} 1.0' in engine.vitals.render()
        assert engine.readiness()["state"] == "recovering"
        fs.release()
        assert engine.recovery.wait(30)
        write(engine, line("late", -1000, 1))
        assert len(values(engine)) == 2 + taken + 1


def test_memory_stays_at_the_limit_however_long_the_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    large = Config(retention=CONFIG.retention, query=CONFIG.query)
    engine = Engine.open(str(data), large, clock=ManualClock(NOW_NS))
    for batch in range(40):
        write(engine, "".join(line(f"h{host}", -batch * 600 + host, host) for host in range(300)) * 10)
    copy = killed(engine, data, tmp_path / "killed")
    held: list[int] = []
    apply = recover.Replay._apply

    def apply_and_look(replay: recover.Replay, frame: Any) -> None:
        apply(replay, frame)
        held.append(replay._hot.nbytes)

    monkeypatch.setattr(recover.Replay, "_apply", apply_and_look)
    with opened(copy) as engine:
        assert len(values(engine)) == 40 * 300
        assert engine.samples.segments()
    assert len(held) == 40
    assert sum(before > after for before, after in pairwise(held)) > 1, "it sealed on the way"
    # A frame comes on top of the limit, in a block that grows by four.
    assert max(held) < 3 * int(CONFIG.storage.hot_limit)
    with opened(copy) as engine:
        assert len(values(engine)) == 40 * 300


def test_an_orderly_stop_in_the_middle_loses_nothing(log: Path) -> None:
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    engine = opened(log, fs=fs, wait=False)
    write(engine, line("b", 0, 5))
    engine.recovery._stop.set()
    fs.release()
    engine.close()
    with opened(log) as engine:
        assert values(engine) == {("a", 0): 3, ("b", 0): 5}


def test_a_disk_that_cannot_be_read_for_a_while_only_delays(log: Path) -> None:
    failures: list[OSError] = [broken_disk(), broken_disk()]
    fs = FailingFileSystem(
        RealFileSystem(), lambda operation, _: failures.pop() if operation == "read_range" and failures else None
    )
    problems: list[str | None] = []

    with opened(log, fs=fs, wait=False) as engine:
        engine.recovery._wait = lambda seconds: problems.append(engine.readiness()["recovery"]["problem"]) or False
        assert engine.recovery.wait(30)
        assert values(engine) == {("a", 0): 3, ("b", 0): 2}
        assert engine.readiness()["recovery"]["problem"] is None
    assert all("cannot read log: got 'Input/output error', want a working disk" in str(each) for each in problems)


def test_a_frame_that_cannot_be_decoded_is_set_aside_and_reported(tmp_path: Path) -> None:
    data = tmp_path / "data"
    engine = opened(data)
    write(engine, line("a", 0, 1))
    engine.wal.append([encode_frame(1, 2, [bytes(4), b"\x01\x00\x00\x00 not a table"])])
    write(engine, line("b", 0, 2))
    copy = killed(engine, data, tmp_path / "killed")
    with opened(copy) as engine:
        assert values(engine) == {("a", 0): 1, ("b", 0): 2}
        [first, second] = engine.readiness()["log_findings"]
        assert "a frame is intact but what it holds cannot be decoded" in first
        assert "wal.damaged" in first
        assert second == "log frames missing: sequences 2 to 2"
    assert [path.name for path in (copy / "wal").glob("*.damaged")]


def test_damage_in_the_middle_is_set_aside_while_writes_go_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    engine = opened(data)
    write(engine, line("a", 0, 1) + line("b", 0, 1) + line("c", 0, 1))
    engine.wal.roll()
    for second in range(1, 4):
        write(engine, line("a", second, second))
    engine.wal.roll()
    write(engine, line("c", 5, 5))
    copy = killed(engine, data, tmp_path / "killed")
    second_file = Path(list_files(RealFileSystem(), str(copy / "wal"))[1].path)
    damaged = bytearray(second_file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    second_file.write_bytes(damaged)
    with opened(copy, wait=False) as engine:
        write(engine, line("b", 9, 9))
        assert engine.recovery.wait(30)
        found = values(engine)
        assert found["a", 0] == 1
        assert found["c", 5] == 5
        assert found["b", 9] == 9
        said = engine.readiness()["log_findings"]
        assert any("checksum does not match" in sentence for sentence in said)
        assert any("log frames missing" in sentence for sentence in said)


def test_what_segments_hold_is_not_undone_by_a_log_that_lacks_the_correction(tmp_path: Path) -> None:
    data = tmp_path / "data"
    engine = opened(data)
    write(engine, line("a", 0, 1))
    engine.wal.roll()
    write(engine, line("a", 0, 2))
    engine.sealer.seal()
    copy = killed(engine, data, tmp_path / "killed")
    second_file = Path(list_files(RealFileSystem(), str(copy / "wal"))[1].path)
    damaged = bytearray(second_file.read_bytes())
    damaged[-1] ^= 1
    second_file.write_bytes(damaged)
    with opened(copy) as engine:
        assert engine.recovery.rows_already_sealed == 1
        assert values(engine) == {("a", 0): 2}


def test_lost_frames_never_give_their_numbers_to_others_once_the_tiers_have_them(tmp_path: Path) -> None:
    """Tiers know sequence 3 and the log ends at 1: what is written next must not be taken for rolled up."""
    data = tmp_path / "data"
    engine = opened(data)
    write(engine, line("a", 0, 1))
    first = killed(engine, data, tmp_path / "first")
    engine = opened(first)
    write(engine, line("a", 60, 1))
    write(engine, line("a", 120, 1))
    engine.flush_rollups()
    second = killed(engine, first, tmp_path / "second")
    for file in list_files(RealFileSystem(), str(second / "wal"))[1:]:
        damaged = bytearray(Path(file.path).read_bytes())
        damaged[30] ^= 1
        Path(file.path).write_bytes(damaged)
    engine = opened(second)
    assert write(engine, line("b", 0, 1)) > 3
    third = killed(engine, second, tmp_path / "third")
    with opened(third) as engine:
        found = engine.sql("SELECT sum(count) AS n FROM rollup_1m WHERE labels['host'] = 'b'").table
        assert found["n"].to_pylist() == [1]


@pytest.mark.parametrize("seed", range(6))
def test_kills_during_recovery_lose_nothing_and_double_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrections before and after what is sealed, replays ended after any frame, seals and flushes in between."""
    random = Random(seed)
    expected: dict[tuple[str, int], float] = {}
    value = 0
    apply = recover.Replay._apply
    frames_left = [1 << 30]

    def apply_some(replay: recover.Replay, frame: Any) -> None:
        if frames_left[0] == 0:
            replay._stop.set()
            return
        frames_left[0] -= 1
        apply(replay, frame)

    monkeypatch.setattr(recover.Replay, "_apply", apply_some)

    def write_some(engine: Engine) -> None:
        nonlocal value
        for _ in range(random.randrange(1, 4)):
            text = ""
            for _ in range(random.randrange(1, 30)):
                value += 1
                host, second = random.choice("abc"), random.choice([0, 60, 3_600, 7_200, 20_000]) + random.randrange(5)
                text += line(host, -second, value)
                expected[host, -second] = value
            write(engine, text)

    def tidy_some(engine: Engine) -> None:
        if random.random() < 0.4:
            engine.sealer.seal(NOW_NS - random.choice([0, 3_600, 7_200]) * NS_PER_SECOND)
        if random.random() < 0.4:
            engine.flush_rollups()
        if random.random() < 0.4:
            engine.sealer.trim_log()

    engine, data, copies = opened(tmp_path / "0"), tmp_path / "0", iter(range(1, 1000))
    for step in range(8):
        write_some(engine)
        tidy_some(engine)
        for _ in range(random.randrange(3)):
            data = killed(engine, data, tmp_path / str(next(copies)))
            frames_left[0] = random.randrange(12)
            engine = opened(data, wait=False)
            engine.recovery._thread.join()
            if random.random() < 0.5:
                write_some(engine)
            tidy_some(engine)
        frames_left[0] = 1 << 30
        data = killed(engine, data, tmp_path / str(next(copies)))
        engine = opened(data)
        assert values(engine) == expected, f"seed {seed}, step {step}"
        tier = engine.sql("SELECT sum(count) AS n, sum(sum) AS s FROM rollup_1m").table.to_pylist()
        assert tier == [{"n": len(expected), "s": sum(expected.values())}], f"seed {seed}, step {step}"
    engine.close()


# Following the log


def frame_of(sequence: int, size: int = 10) -> bytes:
    return encode_frame(1, sequence, [b"%d " % sequence + bytes(size)])


def append(writer: WalWriter, count: int, size: int = 10) -> None:
    first = writer.next_sequence
    writer.append([frame_of(sequence, size) for sequence in range(first, first + count)])


def follow(tail: WalTail) -> list[int]:
    found = []
    while frames := tail.read():
        for frame in frames:
            assert bytes(frame.payload).split(b" ")[0] == b"%d" % frame.sequence
            found.append(frame.sequence)
    return found


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 5), st.integers(0, 300)),
            st.tuples(st.sampled_from(["roll", "read", "drop", "fail", "fail badly"]), st.just(0), st.just(0)),
        ),
        max_size=40,
    ),
    after=st.integers(0, 10),
    chunk_bytes=st.integers(1, 200),
)
@settings(max_examples=200, deadline=None)
def test_a_tail_gives_every_frame_once_in_order(steps: Any, after: int, chunk_bytes: int) -> None:
    broken: set[str] = set()
    fs = FailingFileSystem(
        MemoryFileSystem(),
        lambda operation, _: broken_disk() if operation in broken else None,
        written_before_failing=lambda size: size // 2,
    )
    writer, report = WalWriter(fs, "wal", next_sequence=1, segment_bytes=400), WalReport()
    tail = WalTail(fs, writer, after_sequence=after, report=report, chunk_bytes=chunk_bytes)
    found: list[int] = []
    for step, count, size in steps:
        match step:
            case "append":
                append(writer, count, size)
            case "roll":
                writer.roll()
            case "read":
                found += [frame.sequence for frame in tail.read()]
            case "drop":
                writer.drop_through(tail.next_sequence - 1)
            case _:
                broken |= {"write", "truncate", "remove"} if step == "fail badly" else {"sync"}
                with pytest.raises(TidegaugeError):
                    append(writer, 2)
                broken.clear()
    found += follow(tail)
    assert found == list(range(after + 1, writer.next_sequence))
    assert report.clean


def test_a_tail_passes_over_numbers_that_no_file_holds() -> None:
    fs = MemoryFileSystem()
    writer = WalWriter(fs, "wal", next_sequence=5)
    append(writer, 2)
    writer.close()
    writer, report = WalWriter(fs, "wal", next_sequence=10), WalReport()
    tail = WalTail(fs, writer, after_sequence=0, report=report)
    assert follow(tail) == [5, 6]
    append(writer, 1)
    assert follow(tail) == [10]
    assert report.clean


def test_a_file_that_changes_while_it_is_followed_is_set_aside_and_the_rest_goes_on() -> None:
    fs = MemoryFileSystem()
    writer, report = WalWriter(fs, "wal", next_sequence=1), WalReport()
    tail = WalTail(fs, writer, after_sequence=0, report=report, chunk_bytes=40)
    append(writer, 4)
    assert [frame.sequence for frame in tail.read()] == [1]
    path = list_files(fs, "wal")[0].path
    fs._files[path].data[70] ^= 1
    assert follow(tail) == []
    assert [str(each) for each in report.damage] == [
        f"log damaged: the file does not read as it did when it was checked ({path}, offset 49); a copy is kept in"
        f" {path}.damaged"
    ]
    assert report.missing == [(2, 4)]
    append(writer, 2)
    assert follow(tail) == [5, 6]
    assert tail.read() == []
