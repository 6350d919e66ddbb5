"""Deletions: gone at once, everywhere, through every crash; what is written again afterwards is new."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.errors import BadRequest, Unavailable
from engine.model.matchers import parse_matchers
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.runtime import Engine
from engine.segments.deletions import Deletion, Hole, ids_of, ranges_of, surviving, without_holes
from tests.engine.test_engine_rollups import CONFIG, NOW_NS, Twin, check, random_batch

START_NS = NOW_NS - 3 * NS_PER_DAY


def forget(twin: Twin, host: str, table: str | None, start_ns: int, end_ns: int) -> None:
    twin.sent = [
        sample
        for sample in twin.sent
        if not (sample[1] == host and table in (None, sample[0]) and start_ns <= sample[2] < end_ns)
    ]


def stored_rows(twin: Twin, host: str, table: str | None, start_ns: int, end_ns: int) -> int:
    return len(
        {
            sample[:3]
            for sample in twin.sent
            if sample[1] == host and table in (None, sample[0]) and start_ns <= sample[2] < end_ns
        }
    )


def random_range(rng: np.random.Generator) -> tuple[int, int]:
    match int(rng.integers(4)):
        case 0:
            return NEVER_NS, FOREVER_NS
        case 1:
            return START_NS + int(rng.integers(0, 26 * 3_600)) * NS_PER_SECOND + 1, FOREVER_NS
        case 2:
            return NEVER_NS, START_NS + int(rng.integers(0, 26 * 3_600)) * NS_PER_SECOND
        case _:
            start = START_NS + int(rng.integers(0, 20 * 3_600)) * NS_PER_SECOND
            return start, start + int(rng.integers(1, 6 * 3_600)) * NS_PER_SECOND


@pytest.mark.parametrize("seed", range(6))
def test_samples_and_tiers_equal_the_model(tmp_path: Path, seed: int) -> None:
    """Writes, late writes, corrections, deletions, seals, compactions, restarts and kills in any order."""
    rng = np.random.default_rng(1_000 + seed)
    clock, twin = ManualClock(NOW_NS), Twin()
    data = tmp_path / "0"
    engine = Engine.open(str(data), CONFIG, clock=clock)
    try:
        for step in range(22):
            match int(rng.integers(9)):
                case 0 | 1 | 2:
                    engine.submit_lines(random_batch(rng, START_NS, twin)).result(30)
                case 3 | 4:
                    host, table = f"h{int(rng.integers(3))}", (None, "cpu", "disk")[int(rng.integers(3))]
                    start_ns, end_ns = random_range(rng)
                    rows = stored_rows(twin, host, table, start_ns, end_ns)
                    dry = bool(rng.integers(4) == 0)
                    done = engine.delete_series(
                        parse_matchers(f'host="{host}"'), table=table, start_ns=start_ns, end_ns=end_ns, dry_run=dry
                    )
                    assert (done.rows, done.dry_run, done.tiers) == (rows, dry, True)
                    if not dry:
                        forget(twin, host, table, start_ns, end_ns)
                case 5:
                    engine.sealer.seal(patient=bool(rng.integers(2)))
                case 6:
                    engine.sealer.seal()
                    clock.advance(float(rng.integers(1, 9)) * 3_600)
                    engine.compactor.run()
                case 7:
                    # What the disk holds at this moment is what a kill -9 would leave behind.
                    copy = tmp_path / str(step + 1)
                    shutil.copytree(data, copy)
                    engine.close()
                    data = copy
                    engine = Engine.open(str(data), CONFIG, clock=clock)
                case _:
                    check(engine, twin)
        check(engine, twin)
        engine.sealer.seal()
        engine.compactor.run()
        check(engine, twin)
        assert engine.deleter.waiting_segments() == 0
        engine.close()
        engine = Engine.open(str(data), CONFIG, clock=clock)
        check(engine, twin)
        assert engine.manifest.current.deletions == ()
    finally:
        engine.close()


def opened(path: Path, clock: ManualClock) -> tuple[Engine, Twin]:
    engine, twin = Engine.open(str(path), CONFIG, clock=clock), Twin()
    rng = np.random.default_rng(5)
    for _ in range(3):
        engine.submit_lines(random_batch(rng, START_NS, twin)).result(30)
        engine.sealer.seal()
    engine.flush_rollups()
    engine.submit_lines(random_batch(rng, START_NS, twin)).result(30)
    return engine, twin


def stop_at_flush(engine: Engine) -> None:
    def refuse(*_: object) -> int:
        raise Unavailable("cannot reach the query process: it is gone")

    engine.deleter._delete_rollups = refuse


def stop_after_tiers(engine: Engine) -> None:
    def refuse(*_: object) -> None:
        raise Unavailable("cannot reach the query process: it is gone")

    engine.link.flush_rollups = refuse  # type: ignore[method-assign]


def stop_before_record(engine: Engine) -> None:
    engine.deleter.tiers_have_followed = lambda deletions: None  # type: ignore[method-assign]


@pytest.mark.parametrize("stop", [stop_at_flush, stop_after_tiers, stop_before_record])
def test_a_crash_after_the_deletion_is_durable_completes_it(tmp_path: Path, stop: Callable[[Engine], None]) -> None:
    clock = ManualClock(NOW_NS)
    engine, twin = opened(tmp_path / "data", clock)
    stop(engine)
    done = engine.delete_series(parse_matchers('host="h1"'), start_ns=START_NS + NS_PER_HOUR + 7)
    forget(twin, "h1", None, START_NS + NS_PER_HOUR + 7, FOREVER_NS)
    assert done.tiers is (stop is stop_before_record)
    assert done.sequence == 4
    engine.submit_lines(f"cpu,host=h1 x=5i {START_NS + 3 * NS_PER_HOUR}".encode()).result(30)
    twin.sent.append(("cpu", "h1", START_NS + 3 * NS_PER_HOUR, "x", 5.0))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    engine.close()
    with Engine.open(str(tmp_path / "copy"), CONFIG, clock=clock) as engine:
        check(engine, twin)
        assert all(deletion.tiers for deletion in engine.manifest.current.deletions)


def test_a_damaged_newest_manifest_does_not_undo_a_deletion(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    engine, twin = opened(tmp_path / "data", clock)
    stop_before_record(engine)
    engine.delete_series(parse_matchers('host="h0"'))
    forget(twin, "h0", None, NEVER_NS, FOREVER_NS)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    engine.close()
    newest = max((tmp_path / "copy").glob("manifest-*.json"))
    newest.write_bytes(newest.read_bytes()[:-9])
    with Engine.open(str(tmp_path / "copy"), CONFIG, clock=clock) as engine:
        assert "fallback" in {finding.kind for finding in engine.manifest.findings}
        check(engine, twin)


def test_the_latest_values_of_deleted_series_are_gone(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=clock) as engine:
        for host, seconds, value in (("a", 30, 1), ("a", 20, 2), ("b", 30, 3)):
            line = f"cpu,host={host} x={value} {NOW_NS - seconds * NS_PER_SECOND}"
            engine.submit_lines(line.encode()).result(30)

        def latest() -> dict[str, float]:
            seen = engine.observer.values("cpu_x", (), NOW_NS)
            hosts = [engine.catalog.tags(each)["host"] for each in seen.tagset_ids.tolist()]
            return dict(zip(hosts, seen.values.tolist(), strict=True))

        assert latest() == {"a": 2.0, "b": 3.0}
        engine.delete_series(parse_matchers('host="a"'), start_ns=NOW_NS - 25 * NS_PER_SECOND)
        assert latest() == {"a": 1.0, "b": 3.0}
        engine.delete_series(parse_matchers('host="a"'))
        assert latest() == {"b": 3.0}
        engine.submit_lines(f"cpu,host=a x=9 {NOW_NS - NS_PER_MINUTE}".encode()).result(30)
        assert latest() == {"a": 9.0, "b": 3.0}


@pytest.mark.parametrize(
    ("match", "table", "words"),
    [
        ("", None, "every series"),
        ('host=~".*"', None, "every series"),
        ('host!="a"', None, "every series"),
        ('__name__="cpu_x"', None, "one of 3 fields"),
    ],
)
def test_what_is_not_deleted(tmp_path: Path, match: str, table: str | None, words: str) -> None:
    clock = ManualClock(NOW_NS)
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=clock) as engine:
        engine.submit_lines(f"cpu,host=a x=1,y=2,z=3 {NOW_NS}\nmem x=2 {NOW_NS}".encode()).result(30)
        with pytest.raises(BadRequest, match=words):
            engine.delete_series(parse_matchers(match), table=table)
        assert engine.delete_series((), table="nothing").rows == 0
        assert engine.delete_series(parse_matchers('__name__="mem_x"')).rows == 1
        assert engine.delete_series((), table="cpu").rows == 1
        assert engine.sql("SELECT count(*) AS n FROM samples").table["n"][0].as_py() == 0


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 60)), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=40))
def test_holes_hold_what_they_say(tagsets: set[int], keys: list[tuple[int, int]]) -> None:
    ranges = ranges_of(np.array(sorted(tagsets), np.int32))
    assert ids_of(ranges).tolist() == sorted(tagsets)
    rows = Rows(
        np.array([key[0] for key in keys], np.int32),
        np.array([key[1] for key in keys], np.int64),
        (),
        np.empty((0, len(keys))),
    )
    left = without_holes(rows, [Hole(3, 6, ranges), Hole(8, 9)])
    expected = [key for key in keys if not (key[0] in tagsets and 3 <= key[1] < 6) and key[1] != 8]
    assert list(zip(left.tagset_ids.tolist(), left.times.tolist(), strict=True)) == expected
    deletion = Deletion(table_id=1, tagsets=ranges, start_ns=3, end_ns=6, through=7, before_file=1, created_ns=0)
    assert len(surviving([deletion], 1, rows, 8)) == len(surviving([deletion], 2, rows, 7)) == len(rows)
    assert len(surviving([deletion], 1, rows, 7)) == len(without_holes(rows, [deletion.hole]))
