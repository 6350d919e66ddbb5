"""engine.rollups against recomputation from raw samples: late, repeated, interrupted, removed, damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.errors import Bug, Damage, NotFound
from engine.rollups.long import NAMES as LONG_NAMES
from engine.rollups.packs import Packs
from engine.rollups.pairs import Pairs
from engine.rollups.rows import TierRows
from engine.rollups.schema import LAYOUT_VERSION
from engine.rollups.shelf import Shelf
from engine.rollups.store import RollupStore
from engine.rollups.tiers import BASE, TIER_OF_NAME, TIERS, Tier, best_tier, tier_above
from tests.engine.tier_pieces import piece_of
from tests.oracles import rollup as oracle
from tests.oracles.merging import merge_buckets as oracle_merge

Sample = tuple[int, int, int, float]  # tag set, field, time (ns), value
Statement = tuple[str, str]
DAY_NS = 1_700_006_400 * NS_PER_SECOND // NS_PER_DAY * NS_PER_DAY
NAMES = list(LONG_NAMES)
NATIVE = dict(zip(NAMES, oracle.COLUMNS, strict=True))


def connect(path: Path | None = None) -> duckdb.DuckDBPyConnection:
    if path is None:
        return duckdb.connect(":memory:", config={"threads": 1})
    return duckdb.connect(str(path), config={"threads": 1, "storage_compatibility_version": "v1.5.0"})


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    opened = connect()
    yield opened
    opened.close()


@pytest.fixture
def store(connection: duckdb.DuckDBPyConnection) -> RollupStore:
    made = RollupStore(connection)
    made.initialise()
    return made


def to_table(columns: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({name: columns[native] for name, native in NATIVE.items()})


def to_columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {native: table.column(name).to_numpy() for name, native in NATIVE.items()}


def dirty_table(pairs: set[tuple[int, int]]) -> pa.Table:
    listed = list(pairs)
    return pa.table(
        {
            "tagset_id": pa.array([tagset for tagset, _ in listed], pa.int32()),
            "bucket": pa.array([bucket for _, bucket in listed], pa.int64()),
        }
    )


class Raw:
    """De-duplicated raw samples, and what a flush of some of their minutes is handed."""

    def __init__(self) -> None:
        self.samples: dict[tuple[int, int, int], float] = {}

    def arrive(self, samples: list[Sample]) -> set[tuple[int, int]]:
        """Take samples in order of arrival and return the (tag set, minute) pairs that they touch."""
        for tagset, field, time, value in samples:
            self.samples[tagset, field, time] = value
        return {(tagset, BASE.floor(time)) for tagset, _, time, _ in samples}

    def buckets(self, pairs: set[tuple[int, int]]) -> pa.Table:
        """Return the complete 1m rows of ``pairs``."""
        keys = sorted(key for key in self.samples if (key[0], BASE.floor(key[2])) in pairs)
        rows = sorted({(tagset, time) for tagset, _, time in keys})
        fields = sorted({field for _, field, _ in keys})
        values = np.full((len(fields), len(rows)), np.nan)
        position = {row: number for number, row in enumerate(rows)}
        for tagset, field, time in keys:
            values[fields.index(field), position[tagset, time]] = self.samples[tagset, field, time]
        return to_table(
            oracle.aggregate(
                np.array([tagset for tagset, _ in rows], np.int32),
                np.array([time for _, time in rows], np.int64),
                values,
                np.array(fields, np.int32),
                BASE.width_ns,
            )
        )

    def tier(self, width_ns: int) -> list[tuple[Any, ...]]:
        """Return a tier's rows recomputed by polars straight from the samples."""
        frame = pl.DataFrame(
            [((tagset << 16) | field, time, value) for (tagset, field, time), value in self.samples.items()],
            schema={"series_id": pl.Int64, "at": pl.Int64, "value": pl.Float64},
            orient="row",
        ).sort("series_id", "at")
        return (
            frame.with_columns(time=pl.col("at").floordiv(width_ns) * width_ns)
            .group_by("series_id", "time", maintain_order=True)
            .agg(
                pl.len().cast(pl.Int64).alias("count"),
                pl.col("value").sum().alias("sum"),
                pl.col("value").min().alias("min"),
                pl.col("value").max().alias("max"),
                pl.col("value").first().alias("first"),
                pl.col("value").last().alias("last"),
                pl.col("at").first().alias("first_time"),
                pl.col("at").last().alias("last_time"),
            )
            .select(NAMES)
            .rows()
        )


def flush(store: RollupStore, raw: Raw, samples: list[Sample], sequence: int = 1) -> Any:
    pairs = raw.arrive(samples)
    return store.flush([piece_of(raw.buckets(pairs), dirty_table(pairs))], sequence)


def rows_of(store: RollupStore, tier: str = "rollup_1m", *series_ids: int) -> list[tuple[Any, ...]]:
    table = store.rows(tier, -(2**63), 2**63 - 1, list(series_ids) or None)
    assert table.column_names == NAMES
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def contents(store: RollupStore) -> dict[str, list[tuple[Any, ...]]]:
    return {tier.name: rows_of(store, tier.name) for tier in TIERS}


def check(store: RollupStore, raw: Raw, *, whole_numbers: bool) -> None:
    for tier in TIERS:
        found, want = rows_of(store, tier.name), raw.tier(tier.width_ns)
        if not whole_numbers:
            assert [row[3] for row in found] == pytest.approx([row[3] for row in want], rel=1e-12, abs=1e-9)
            found, want = ([(*row[:3], *row[4:]) for row in rows] for rows in (found, want))
        assert found == want, tier.name
        if tier.source is not None:
            # Exact, whatever the numbers: sums of the tier below, added from left to right in order of time.
            below = to_columns(store.rows(tier.source, -(2**63), 2**63 - 1))
            again = to_table(oracle_merge(below, tier.width_ns))
            assert store.rows(tier.name, -(2**63), 2**63 - 1).to_pydict() == again.to_pydict()


def random_samples(random: np.random.Generator, count: int, *, whole_numbers: bool) -> list[Sample]:
    start_ns = DAY_NS if random.random() < 0.8 else -2 * NS_PER_DAY
    spread_ns = int(random.choice([90 * NS_PER_SECOND, 3 * NS_PER_HOUR, 3 * NS_PER_DAY]))
    values = random.integers(-1000, 1000, count).astype(float) if whole_numbers else random.normal(0, 1e3, count)
    return [
        (int(tagset), int(field), start_ns + int(at), float(value))
        for tagset, field, at, value in zip(
            random.choice([0, 1, 70_000], count),
            random.choice([0, 3, 65_535], count),
            random.integers(0, spread_ns, count) // NS_PER_SECOND * NS_PER_SECOND,
            values,
            strict=True,
        )
    ]


@pytest.mark.parametrize("whole_numbers", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_tiers_equal_their_recomputation(tmp_path: Path, seed: int, whole_numbers: bool) -> None:
    random = np.random.default_rng(seed)
    path, raw, sent = tmp_path / "rollups.duckdb", Raw(), []
    for sequence in range(1, 7):
        samples = random_samples(random, int(random.integers(1, 100)), whole_numbers=whole_numbers)
        # Some samples come once more, with the same value or with another one.
        for _ in range(min(len(sent), 20)):
            tagset, field, time, value = sent[int(random.integers(len(sent)))]
            samples.append((tagset, field, time, float(random.choice([value, 7.0]))))
        random.shuffle(samples)
        sent += samples
        connection = connect(path)
        store = RollupStore(
            connection, Packs(str(tmp_path / "rollups")), cells_at_a_time=int(random.choice([200, 10**6]))
        )
        store.initialise()
        flush(store, raw, samples, sequence)
        if random.random() < 0.5:
            store.checkpoint()
        check(store, raw, whole_numbers=whole_numbers)
        assert store.watermark() == sequence
        connection.close()


def test_a_day_grows_by_its_newest_hours_alone(store: RollupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, random = Raw(), np.random.default_rng(5)
    asked: list[int] = []
    inside = Shelf.inside

    def noted(self: Shelf, tier: Tier, table_id: int, pairs: Pairs, width_ns: int) -> Iterator[TierRows]:
        if tier.name == "rollup_1h":
            asked.extend((pairs.buckets - DAY_NS) // width_ns)
        return inside(self, tier, table_id, pairs, width_ns)

    monkeypatch.setattr(Shelf, "inside", noted)
    hours = [*range(22, 31), 3, 31]
    for hour in hours:
        asked.clear()
        # One field comes only now and then, one tag set is late in the end.
        flush(
            store,
            raw,
            [
                (tagset, field, DAY_NS + hour * NS_PER_HOUR + minute * NS_PER_MINUTE, float(random.normal()))
                for tagset in ((0, 1) if hour != 3 else (1,))
                for field in ((0, 3) if hour % 3 == 1 else (0,))
                for minute in (0, 7, 55)
            ],
        )
        check(store, raw, whole_numbers=False)
        if hour not in (22, 24, 3):
            # Hours are looked up among the changed ones alone, never a day's.
            assert set(asked) == {hour}
    assert len(rows_of(store, "rollup_1d", 0)) == 2


class Killed(BaseException):
    """What a process that is killed does not live to see; no handler of ordinary errors may catch it."""


class Faulty:
    """A connection that fails at its n-th statement, as when the process is killed there."""

    def __init__(self, inner: duckdb.DuckDBPyConnection, fail_at: int | None = None) -> None:
        self._inner, self.fail_at = inner, fail_at
        self.statements: list[str] = []

    def _count(self, sql: str) -> None:
        if len(self.statements) == self.fail_at:
            self.fail_at = None
            raise Killed
        self.statements.append(sql)

    def execute(self, sql: str, parameters: Any = None) -> Any:
        self._count(sql)
        return self._inner.execute(sql, parameters) if parameters else self._inner.execute(sql)

    def sql(self, sql: str) -> Any:
        self._count(sql)
        return self._inner.sql(sql)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


LATE = [(0, 0, DAY_NS + minute * NS_PER_MINUTE, 1.0) for minute in (0, 7, 700)]
EARLIER = [(tagset, 0, DAY_NS + minute * NS_PER_MINUTE + 5, 2.0) for tagset in (0, 1) for minute in (0, 7, 12, 650)]


def test_a_flush_interrupted_at_any_statement_changes_nothing_and_can_be_repeated(
    connection: duckdb.DuckDBPyConnection, store: RollupStore
) -> None:
    earlier, raw = Raw(), Raw()
    all_pairs = earlier.arrive(EARLIER) | raw.arrive(EARLIER)
    late_pairs = raw.arrive(LATE)
    all_pairs |= late_pairs
    late = [piece_of(raw.buckets(late_pairs), dirty_table(late_pairs))]
    store.flush([piece_of(earlier.buckets(all_pairs), dirty_table(all_pairs))], 1)
    before = contents(store)
    sequence, fail_at, interrupted = 1, 0, True
    while interrupted:
        interrupted = False
        faulty = Faulty(connection, fail_at)
        failing = RollupStore(faulty, store._packs)
        try:
            failing.flush(late, sequence + 1)
        except Killed:
            interrupted = True
            assert contents(store) == before
            assert store.watermark() == sequence
            failing.flush(late, sequence + 1)
        if fail_at == 0:
            check(store, raw, whole_numbers=True)
            after = contents(store)
        assert contents(store) == after
        # Back to where it was: the late samples are taken out again, by the store that knows of them.
        sequence += 2
        faulty.fail_at = None
        failing.flush([piece_of(earlier.buckets(all_pairs), dirty_table(all_pairs))], sequence)
        assert contents(store) == before
        fail_at += 1
    assert fail_at > 4  # every statement of a flush had its turn


def test_closing_without_commit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    raw, path = Raw(), tmp_path / "rollups.duckdb"
    packs = str(tmp_path / "rollups")
    connection = connect(path)
    store = RollupStore(connection, Packs(packs))
    store.initialise()
    flush(store, raw, EARLIER, 1)
    before = contents(store)
    connection.close()

    class NeverCommits(Faulty):
        def execute(self, sql: str, parameters: Any = None) -> Any:
            if sql in ("COMMIT", "ROLLBACK"):
                raise Killed
            return super().execute(sql, parameters)

    connection = connect(path)
    pairs = raw.arrive(LATE)
    given_rows = [piece_of(raw.buckets(pairs), dirty_table(pairs))], 2
    with pytest.raises(Killed):
        RollupStore(NeverCommits(connection), Packs(packs)).flush(*given_rows)
    connection.close()
    connection = connect(path)
    store = RollupStore(connection, Packs(packs))
    store.initialise()
    assert contents(store) == before
    # What the other one has written is not named by anything, and has been removed.
    assert set(Packs(packs).sizes()) == {part.pack for part in store.parts()}
    store.flush(*given_rows)
    check(store, raw, whole_numbers=True)
    connection.close()


def test_flushing_twice_is_flushing_once(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, EARLIER, 4)
    once = contents(store)
    pairs = raw.arrive(EARLIER)
    report = store.flush([piece_of(raw.buckets(pairs), dirty_table(pairs))], 4)
    assert contents(store) == once
    assert report.removed == report.inserted == {name: len(rows) for name, rows in once.items()}


def test_rows_and_whole_buckets_disappear(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, [(1, 0, DAY_NS, 1.0), (1, 1, DAY_NS, 2.0), (2, 0, DAY_NS, 3.0)])
    del raw.samples[1, 1, DAY_NS], raw.samples[2, 0, DAY_NS]
    pairs = {(1, DAY_NS), (2, DAY_NS)}
    store.flush([piece_of(raw.buckets(pairs), dirty_table(pairs))], 2)
    check(store, raw, whole_numbers=True)
    assert [row[0] for row in rows_of(store, "rollup_1d")] == [1 << 16]


def test_other_series_of_the_same_bucket_stay(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, [(tagset, 0, DAY_NS + tagset, float(tagset)) for tagset in range(6)])
    flush(store, raw, [(3, 0, DAY_NS + 9, 50.0)])
    check(store, raw, whole_numbers=True)


def test_new_buckets_leave_parts_alone(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, [(1, 0, DAY_NS, 1.0)])
    first = {part.number for part in store.parts()}
    flush(store, raw, [(1, 0, DAY_NS + NS_PER_DAY, 1.0)])
    second = {part.number for part in store.parts()}
    assert first < second
    flush(store, raw, [(1, 0, DAY_NS + NS_PER_DAY + 6 * NS_PER_MINUTE, 1.0)])
    # The minute and its 5m bucket are new; the open 15m, 1h and 1d buckets are replaced.
    kept = {part.number for part in store.parts()}
    gone = second - kept
    assert len(gone) == 3
    assert first <= kept
    check(store, raw, whole_numbers=True)


@pytest.mark.parametrize("cells_at_a_time", [1, 300])
def test_a_large_flush_in_parts_is_the_same(store: RollupStore, cells_at_a_time: int) -> None:
    raw = Raw()
    samples = [
        (tagset, field, DAY_NS + minute * NS_PER_MINUTE, float(minute))
        for tagset in range(3) for field in range(2) for minute in (0, 1, 6, 20, 59, 61, 1_500)
    ]  # fmt: skip
    flush(store, raw, samples)
    whole = contents(store)
    other = connect()
    parted = RollupStore(other, cells_at_a_time=cells_at_a_time)
    parted.initialise()
    flush(parted, Raw(), samples)
    assert contents(parted) == whole
    other.close()


def test_the_watermark_never_goes_back(store: RollupStore) -> None:
    assert store.watermark() == 0
    store.flush([], 2**64 - 1)
    store.flush([piece_of(Raw().buckets(set()), dirty_table(set()))], 5)
    assert store.watermark() == 2**64 - 1


def test_infinities_and_their_sum(store: RollupStore) -> None:
    raw = Raw()
    inf = float("inf")
    flush(store, raw, [(1, 0, DAY_NS, inf), (1, 0, DAY_NS + NS_PER_MINUTE, -inf)])
    ((_, _, count, total, smallest, largest, first, last, _, _),) = rows_of(store, "rollup_5m")
    assert np.isnan(total)
    assert (count, smallest, largest, first, last) == (2, -inf, inf, inf, -inf)


# --- retention


def test_retention_keeps_what_wider_buckets_are_made_from(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, [(1, 0, DAY_NS + minute * NS_PER_MINUTE, 1.0) for minute in range(60)])
    hourly = contents(store)["rollup_1h"]
    # Of the 5m bucket at minute 30 nothing goes, though the cutoff lies inside it.
    assert store.retain({"rollup_1m": DAY_NS + 34 * NS_PER_MINUTE}) == 0  # their part holds newer rows as well
    assert rows_of(store)[0][1] == DAY_NS + 30 * NS_PER_MINUTE
    assert store.retain({"rollup_1m": DAY_NS + 34 * NS_PER_MINUTE, "rollup_1d": DAY_NS}) == 0
    # A late sample of what is left is carried up in full; one of what is gone replaces nothing.
    report = flush(store, raw, [(1, 0, DAY_NS + 31 * NS_PER_MINUTE + 7, 1.0), (1, 0, DAY_NS + 3, 1.0)])
    assert report.expired_pairs == {name: int(name == "rollup_1m") for name in TIER_OF_NAME}
    assert rows_of(store)[0][1] == DAY_NS + 30 * NS_PER_MINUTE
    assert [row[2] for row in hourly] == [60]
    assert [row[2] for row in rows_of(store, "rollup_1h")] == [61]
    assert [row[2] for row in rows_of(store, "rollup_5m")] == [5, 5, 5, 5, 5, 5, 6, 5, 5, 5, 5, 5]


def test_a_wider_tier_that_is_gone_is_not_made_again(store: RollupStore) -> None:
    raw = Raw()
    flush(store, raw, [(1, 0, DAY_NS, 1.0)])
    assert store.retain({"rollup_5m": DAY_NS + NS_PER_HOUR, "rollup_15m": DAY_NS + NS_PER_HOUR}) == 2
    report = flush(store, raw, [(1, 0, DAY_NS + 1, 1.0)])
    assert report.expired_pairs["rollup_5m"] == 1
    assert [len(rows) for rows in contents(store).values()] == [1, 0, 0, 1, 1]
    assert [row[2] for row in rows_of(store, "rollup_1d")] == [1]


def test_retention_survives_reopening(tmp_path: Path) -> None:
    raw = Raw()
    for attempt in range(2):
        connection = connect(tmp_path / "rollups.duckdb")
        store = RollupStore(connection, Packs(str(tmp_path / "rollups")))
        store.initialise()
        report = flush(store, raw, [(1, 0, DAY_NS + attempt, 1.0)])
        assert report.expired_pairs["rollup_1m"] == attempt
        store.retain({"rollup_1m": DAY_NS + NS_PER_HOUR})
        assert rows_of(store) == []
        connection.close()


def test_retaining_an_unknown_tier_removes_nothing(store: RollupStore) -> None:
    flush(store, Raw(), [(1, 0, DAY_NS, 1.0)])
    with pytest.raises(NotFound, match="got 'rollup_2m', want one of rollup_1m"):
        store.retain({"rollup_1m": DAY_NS + NS_PER_DAY, "rollup_2m": 0})
    assert len(rows_of(store)) == 1


# --- reading


def test_rows_are_chosen_by_time_and_series(store: RollupStore) -> None:
    flush(store, Raw(), [(t, 0, DAY_NS + m * NS_PER_MINUTE, 1.0) for t in range(4) for m in range(4)])
    table = store.rows("rollup_1m", DAY_NS + NS_PER_MINUTE, DAY_NS + 3 * NS_PER_MINUTE, [3 << 16, 1 << 16, 9])
    got = list(zip(*(table.column(name).to_pylist() for name in ("series_id", "time")), strict=True))
    assert got == [(tagset << 16, DAY_NS + minute * NS_PER_MINUTE) for tagset in (1, 3) for minute in (1, 2)]
    assert [row[0] for row in rows_of(store, "rollup_1d", 2 << 16)] == [2 << 16]
    for start, end, series in ((DAY_NS, DAY_NS, None), (DAY_NS, DAY_NS + 1, []), (DAY_NS + 1, DAY_NS, [1 << 16])):
        empty = store.rows("rollup_1m", start, end, series)
        assert empty.num_rows == 0
        assert empty.schema == table.schema
    with pytest.raises(NotFound, match="got 'minutes'"):
        store.rows("minutes", 0, 1)


def test_a_reader_on_its_own_cursor_sees_whole_flushes(
    connection: duckdb.DuckDBPyConnection, store: RollupStore
) -> None:
    reader = RollupStore(connection.cursor(), store._packs)
    raw = Raw()
    flush(store, raw, [(1, 0, DAY_NS, 1.0)], 3)
    assert reader.watermark() == 3
    check(reader, raw, whole_numbers=True)


def test_stats_count_rows_and_bytes(tmp_path: Path) -> None:
    connection, packs = connect(), Packs(str(tmp_path / "rollups"))
    store = RollupStore(connection, packs)
    store.initialise()
    flush(store, Raw(), [(t, 0, DAY_NS + m * NS_PER_MINUTE, 1.0) for t in range(10) for m in range(60)])
    stats = store.stats()
    assert [(one.tier, one.rows) for one in stats] == list(zip(TIER_OF_NAME, [600, 120, 40, 10, 10], strict=True))
    assert all(one.bytes > 0 for one in stats)
    assert sum(one.bytes for one in stats) == sum(size - 8 for size in packs.sizes().values())
    connection.close()


# --- what is refused


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


ONE_ROW = Raw()
ONE_PAIR = ONE_ROW.arrive([(1, 0, DAY_NS, 1.0)])
ROW, PAIR = ONE_ROW.buckets(ONE_PAIR), dirty_table(ONE_PAIR)


@pytest.mark.parametrize(
    ("rows", "pairs", "sentence"),
    [
        (ROW, dirty_table({(2, DAY_NS)}), "rows of buckets that are not among the dirty pairs"),
        (ROW, dirty_table(set()), "rows of buckets that are not among the dirty pairs"),
        (replaced(ROW, "time", pa.array([DAY_NS + 1])), PAIR, "got a row between bucket starts"),
        (ROW, dirty_table({(1, DAY_NS + 1)}), f"got dirty bucket {DAY_NS + 1} ns, want a multiple"),
    ],
)
def test_contradictory_input_is_refused_and_changes_nothing(
    store: RollupStore, rows: pa.Table, pairs: pa.Table, sentence: str
) -> None:
    flush(store, Raw(), [(7, 0, DAY_NS, 1.0)], 3)
    before = contents(store)
    with pytest.raises(Bug, match=sentence):
        store.flush([piece_of(rows, pairs)], 4)
    assert contents(store) == before
    assert store.watermark() == 3


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (f"UPDATE rollup_store SET layout_version = {LAYOUT_VERSION + 1}", "written by a newer version"),
        ("UPDATE rollup_store SET layout_version = 0", f"got layout 0, want {LAYOUT_VERSION}"),
        ("UPDATE rollup_store SET layout_version = 1", "got table rollup_1m with columns None"),
        ("DELETE FROM rollup_store", "got 0 layout versions, want one"),
        ("INSERT INTO rollup_store VALUES (1, 0)", "got 2 layout versions, want one"),
        ("DROP TABLE rollup_store", "tables without a layout version"),
        ("ALTER TABLE rollup_store RENAME layout_version TO version", "tables without a layout version"),
        ("DROP TABLE rollup_parts", "got table rollup_parts with columns None"),
        ("ALTER TABLE rollup_parts DROP bytes", "got table rollup_parts with columns"),
        ("ALTER TABLE rollup_parts ALTER runs TYPE INTEGER", "got table rollup_parts with columns"),
        ("ALTER TABLE rollup_parts ADD COLUMN p99 DOUBLE", "got table rollup_parts with columns"),
        ("DELETE FROM rollup_kept WHERE tier = 'rollup_1d'", "got retention of tiers"),
    ],
)
def test_another_layout_is_refused_by_name(tmp_path: Path, damage: str, sentence: str) -> None:
    path = tmp_path / "rollups.duckdb"
    connection = connect(path)
    RollupStore(connection).initialise()
    RollupStore(connection).initialise()  # its own layout is welcome
    connection.execute(damage)
    connection.close()
    connection = connect(path)
    with pytest.raises(Damage, match=sentence) as refused:
        RollupStore(connection).initialise()
    assert refused.value.path == str(path)
    connection.close()


# --- parts of a flush, and tiers


@settings(max_examples=150, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(-(10**6), 10**6)), max_size=60), st.integers(1, 20))
def test_chunks_hold_every_pair_once(chosen: set[tuple[int, int]], most: int) -> None:
    listed = sorted(chosen)
    pairs = Pairs(
        np.array([tagset for tagset, _ in listed], np.int32),
        np.array([bucket * NS_PER_HOUR for _, bucket in listed], np.int64),
    )
    chunks = list(pairs.chunks(most))
    got = [pair for part in chunks for pair in zip(part.tagset_ids.tolist(), part.buckets.tolist(), strict=True)]
    assert got == [(tagset, bucket * NS_PER_HOUR) for tagset, bucket in listed]
    assert all(1 <= len(part) <= most for part in chunks)


def test_tiers_are_made_of_whole_buckets() -> None:
    for tier in TIERS[1:]:
        below = TIER_OF_NAME[str(tier.source)]
        assert tier.width_ns % below.width_ns == 0
        assert tier_above(below) is tier
    assert tier_above(TIERS[-1]) is None
    assert [TIERS[1].floor(time_ns) for time_ns in (-1, 0, 5 * NS_PER_MINUTE - 1)] == [-5 * NS_PER_MINUTE, 0, 0]


@pytest.mark.parametrize(
    ("step_ns", "name"),
    [
        (NS_PER_MINUTE, "rollup_1m"),
        (7 * NS_PER_MINUTE, "rollup_1m"),
        (10 * NS_PER_MINUTE, "rollup_5m"),
        (2 * NS_PER_HOUR, "rollup_1h"),
        (7 * NS_PER_DAY, "rollup_1d"),
        (NS_PER_SECOND, None),
        (90 * NS_PER_SECOND, None),
        (0, None),
        (-NS_PER_DAY, None),
    ],
)
def test_the_best_tier_makes_up_the_step_exactly(step_ns: int, name: str | None) -> None:
    best = best_tier(step_ns)
    assert (best.name if best else None) == name
    assert best_tier(step_ns, among=TIERS[:1]) in (None, TIERS[0])
