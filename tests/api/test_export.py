"""What is exported and imported again is what was there, bit for bit; and every export goes on where it stopped."""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tidegauge
from api.bulk.csvfile import csv_pieces
from api.bulk.encode import ArrowEncoder, CsvEncoder, Encoder, LineEncoder, PrometheusEncoder, Wide
from api.bulk.export import Exporter, PartialFile, Reader, State
from api.bulk.pieces import Place
from api.bulk.selection import Selection, select
from api.bulk.tables import Columns, arrow_pieces, parquet_pieces
from api.bulk.text import text_pieces
from api.client import SqlTable
from api.exposition import PrometheusText
from engine.clock import ManualClock
from engine.errors import NotFound, QueryLimit, QueueFull
from engine.model.matchers import parse_matchers
from native.columns import ABSENT_BITS

NOW_NS = time.time_ns()
#: Prometheus' mark of a series that has ended.
STALE_BITS = 0x7FF0000000000002
PLAIN_NAN_BITS = 0x7FF8000000000000
NUMBERS = itertools.count()
Samples = dict[tuple[tuple[tuple[str, str], ...], int, str], int]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    one, other = (str(tmp_path_factory.mktemp(name)) for name in ("one", "other"))
    with tidegauge.open(one) as source, tidegauge.open(other) as destination:
        destination.write(PrometheusText(b'up{run="none"} 1\n', {}))
        yield source, destination


def bits(value: float) -> int:
    return int.from_bytes(struct.pack(">d", value))


def of_bits(pattern: int) -> float:
    return float(struct.unpack(">d", pattern.to_bytes(8))[0])


def float64s(values: list[float | None]) -> pa.Array:
    """Return float64 values with their bits: Arrow's own conversion, and Python's arithmetic, may change a NaN's."""
    patterns = pa.array([None if value is None else bits(value) for value in values], pa.uint64())
    return patterns.view(pa.float64())


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    return '"' + "".join(escapes.get(each, each) for each in text) + '"'


def samples_of(db: Any, table: str, run: str = "") -> Samples:
    """Return every sample by tags, time and field, as the bits of its value; ``run``: those with that tag only."""
    found: Samples = {}
    if table not in db.sql("SHOW TABLES")["name"].to_pylist():
        return found
    arrow = db.sql(f'SELECT * FROM "{table}"' + (f" WHERE run = '{run}'" if run else "")).arrow
    tags = [field.name for field in arrow.schema if field.type == pa.string()]
    fields = [field.name for field in arrow.schema if field.type == pa.float64()]
    times = arrow["time"].cast(pa.int64()).to_pylist()
    patterns = {name: arrow[name].combine_chunks().view(pa.uint64()).to_pylist() for name in fields}
    for at, (time_ns, row) in enumerate(zip(times, arrow.select(tags).to_pylist(), strict=True)):
        labels = tuple((name, row[name]) for name in sorted(tags) if row[name] is not None)
        for name in fields:
            if patterns[name][at] is not None:
                found[labels, time_ns, name] = patterns[name][at]
    return found


def export(source: Any, path: Path, form: str, table: str, match: str = "", **options: Any) -> State:
    """Export one measurement to a file, in small windows."""
    file = PartialFile(str(path))
    state = State(options="x")
    selection = select(source, table, parse_matchers(match))
    assert selection is not None
    state.selections = [selection]
    file.open(0)
    exporter = Exporter(
        Reader(source, sleep=lambda _: None),
        file,
        clock=ManualClock(0),
        progressed=lambda _: None,
        target_bytes=options.get("target_bytes", 500),
    )
    exporter.selections(state, lambda chosen: encoder(form, chosen))
    file.finish(parquet=form == "parquet")
    return state


def encoder(form: str, chosen: Selection) -> Encoder:
    wide = Wide(chosen.measurement, chosen.tags, chosen.fields, chosen.pooled)
    match form:
        case "csv":
            return CsvEncoder()
        case "lp":
            return LineEncoder(wide)
        case "prom" | "openmetrics":
            return PrometheusEncoder(wide, open_metrics=form == "openmetrics")
        case _:
            return ArrowEncoder()


def load(destination: Any, path: Path, form: str, selection: Selection) -> None:
    tags = tuple(column for column, _ in selection.tags)
    columns = Columns(selection.measurement, tags=tags if form == "csv" else ())
    readers = {"csv": csv_pieces, "parquet": parquet_pieces, "arrow": arrow_pieces}
    pieces = readers[form](str(path), columns, Place()) if form in readers else text_pieces(str(path), Place())
    for piece in pieces:
        assert not piece.bad
        data: Any = piece.data
        if form in ("prom", "openmetrics"):
            data = PrometheusText(data, {}, open_metrics=form == "openmetrics")
        if len(data.body if isinstance(data, PrometheusText) else data):
            result = destination.offer(data)
            assert not result.refused, result.refusals


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=6)
FINITE = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 0.0, 2.0**60, 1e300, 5e-324])
)
TIMES = st.integers(NOW_NS - 3_000 * 10**9, NOW_NS)
TAGS = st.dictionaries(st.sampled_from(["host", "a b", "key=", "zone", "01"]), TEXTS, max_size=3)
#: Every bit pattern of a float64 but the one that stands for "no sample", those of NaNs more often than chance has it.
NAN_BITS = st.one_of(
    st.sampled_from([0x7FF8000000000000, 0xFFF8000000000000, STALE_BITS, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF]),
    st.integers(0x7FF0000000000001, 0x7FFFFFFFFFFFFFFF).filter(lambda each: each != ABSENT_BITS),
)
VALUES = st.one_of(FINITE, st.sampled_from([math.inf, -math.inf]), NAN_BITS.map(lambda each: of_bits(each)))
FIELDS = st.dictionaries(st.sampled_from(["v", "w x", "other", "2"]), VALUES, min_size=1, max_size=3)
ROWS = st.lists(st.tuples(TAGS, TIMES, FIELDS), min_size=1, max_size=12)


def held_by(form: str, samples: Samples) -> Samples:
    """Return the samples that a format can hold, told without its encoder."""
    kept = {}
    for (labels, time_ns, field), value in samples.items():
        tags = [text for _, text in labels]
        number = struct.unpack(">d", value.to_bytes(8))[0]
        if form == "lp" and (any("\n" in tag or tag.endswith("\\") for tag in tags) or not math.isfinite(number)):
            continue
        if form == "csv" and any("\n" in tag or "\r" in tag for tag in tags):
            continue
        if form == "prom" and time_ns % 1_000_000:
            continue
        # Of a NaN a text has no more than the name.
        plain = form in ("csv", "prom", "openmetrics") and math.isnan(number)
        kept[labels, time_ns, field] = PLAIN_NAN_BITS if plain else value
    return kept


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "lp"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_what_is_imported_again_is_the_same(
    databases: tuple[Any, Any], tmp_path: Path, form: str, rows: list[tuple[dict[str, str], int, dict[str, float]]]
) -> None:
    source, destination = databases
    table = f"{form}_{next(NUMBERS)}"
    batch = {"time": pa.array([at for _, at, _ in rows], pa.int64())}
    for tag in {name for tags, _, _ in rows for name in tags}:
        batch[tag] = pa.array([tags.get(tag) for tags, _, _ in rows], pa.string())
    for name in {name for _, _, fields in rows for name in fields}:
        batch[name] = float64s([fields.get(name) for _, _, fields in rows])
    kept = pa.table(batch).replace_schema_metadata({"tidegauge.not_finite": "keep"})
    assert not source.write(kept, table=table).refused
    path = tmp_path / f"{table}.{form}"
    state = export(source, path, form, table)
    load(destination, path, form, state.selections[0])
    before = samples_of(source, table)
    expected = held_by(form, before)
    assert samples_of(destination, table) == expected
    assert bool(state.left_out) == (expected != before)
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(table)) == [path.name]


@pytest.mark.parametrize("form", ["prom", "openmetrics"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS, TAGS, TIMES, st.floats()), min_size=1, max_size=12), whole=st.booleans())
def test_prometheus_text_comes_back(
    databases: tuple[Any, Any], tmp_path: Path, form: str, rows: list[Any], whole: bool
) -> None:
    source, destination = databases
    run = f"{form}{next(NUMBERS)}"
    text = ""
    for name, tags, at, value in rows:
        labels = [quoted(name), *(f"{quoted(key)}={quoted(tag)}" for key, tag in {**tags, "run": run}.items())]
        seconds = Decimal(at // 10**6 * 10**6 if whole else at) / 10**9
        text += f"{{{','.join(labels)}}} {value!r} {seconds:.9f}\n"
    assert not source.write(PrometheusText(text.encode(), {}, open_metrics=True)).refused
    path = tmp_path / f"{run}.{form}"
    state = export(source, path, form, "prometheus", f'run="{run}"')
    load(destination, path, form, state.selections[0])
    before, after = (samples_of(db, "prometheus", run) for db in (source, destination))
    expected = held_by(form, before)
    assert after == expected
    assert bool(state.left_out) == (expected != before)


SPECIAL = [math.inf, -math.inf, of_bits(PLAIN_NAN_BITS), of_bits(STALE_BITS), of_bits(0xFFF8000000000001), -0.0, 1.5]


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "lp", "prom"])
@pytest.mark.parametrize("table", ["special", "prometheus"])
def test_numbers_that_are_none(databases: tuple[Any, Any], tmp_path: Path, table: str, form: str) -> None:
    source, destination = databases
    run, count = f"special{next(NUMBERS)}", len(SPECIAL)
    columns = {
        "time": pa.array([NOW_NS // 10**9 * 10**9 - at * 10**9 for at in range(count)], pa.int64()),
        "run": [run] * count,
        "value": float64s([*SPECIAL]),
    }
    if table == "prometheus":
        columns["__name__"] = ["up"] * count
    kept = pa.table(columns).replace_schema_metadata({"tidegauge.not_finite": "keep"})
    assert not source.write(kept, table=table).refused
    name = f"{run}.{form}"
    state = export(source, tmp_path / name, form, table, f'run="{run}"')
    before = samples_of(source, table, run)
    assert sorted(before.values()) == sorted(bits(value) for value in SPECIAL)
    lost = (
        {"NaN or an infinity": 5}
        if form == "lp"
        else {"a NaN of special bits (a stale marker, say), written as NaN": 2}
    )
    assert state.left_out == ({} if form in ("parquet", "arrow") else lost)
    if form == "csv":
        cells = [line.rpartition(",")[2] for line in (tmp_path / name).read_text().splitlines()[1:]]
        assert sorted(cells) == sorted(["+Inf", "-Inf", "NaN", "NaN", "NaN", "-0.0", "1.5"])
    if form == "prom" and table != "prometheus":
        return
    load(destination, tmp_path / name, form, state.selections[0])
    assert samples_of(destination, table, run) == held_by(form, before)


class Interrupted(Exception):
    pass


class Flaky:
    """A source that ends with an error after so many answers."""

    def __init__(self, db: Any, answers: int) -> None:
        self._db, self._left = db, answers

    def sql(self, statement: str, *parameters: Any) -> SqlTable:
        if not self._left:
            raise Interrupted
        self._left -= 1
        answer: SqlTable = self._db.sql(statement, *parameters)
        return answer


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow", "lp"])
def test_an_export_goes_on_where_it_stopped(databases: tuple[Any, Any], tmp_path: Path, form: str) -> None:
    source, _ = databases
    table = f"resumed_{form}"
    rows = "".join(f"{table},host=h{at % 3} v={at},w={at / 7} {NOW_NS - at * 10**9}\n" for at in range(600))
    source.write(rows)
    whole = tmp_path / f"whole.{form}"
    export(source, whole, form, table, target_bytes=2_000)
    selection = select(source, table, ())
    assert selection is not None
    path = tmp_path / f"resumed.{form}"
    stops = 0
    for answers in itertools.count(3):
        file = PartialFile(str(path))
        state = file.found("x") or State(options="x", selections=[selection])
        assert file.found("other") is None
        file.open(state.bytes)
        exporter = Exporter(
            Reader(Flaky(source, answers), sleep=lambda _: None),
            file,
            clock=ManualClock(0),
            progressed=lambda _: None,
            target_bytes=2_000,
        )
        try:
            exporter.selections(state, lambda chosen: encoder(form, chosen))
        except Interrupted:
            stops += 1
            file.append(b"torn")
            file.save()
            file.close()
            continue
        file.finish(parquet=form == "parquet")
        break
    assert stops > 1
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, whole.name]


def test_matchers_select_as_the_engine_does(databases: tuple[Any, Any], tmp_path: Path) -> None:
    source, _ = databases
    hosts = ["web1", "web2", "db'1", None]
    times = [NOW_NS - at for at in range(4)]
    source.write(
        pa.table(
            {"time": pa.array(times, pa.int64()), "host": hosts, "v": [0.0, 1.0, 2.0, 3.0], "w": [1.0, None, 2.0, None]}
        ),
        table="matched",
    )
    for match in (
        'host="web1"',
        'host!="web1"',
        'host=~"web.*"',
        'host!~"web.*"',
        'host=""',
        'host="db\'1"',
        'other=""',
        'host=~"|web1"',
    ):
        matchers = parse_matchers(match)
        path = tmp_path / "out.csv"
        export(source, path, "csv", "matched", match)
        expected = [
            host for host in hosts if all(m.accepts((host or "") if m.label == "host" else "") for m in matchers)
        ]
        lines = path.read_text().splitlines()[1:]
        assert sorted(line.split(",")[1] for line in lines) == sorted(host or "" for host in expected), match
    assert select(source, "matched", parse_matchers('other="x"')).impossible
    assert select(source, "matched", parse_matchers('__name__="matched_u"')).impossible
    export(source, tmp_path / "w.csv", "csv", "matched", '__name__="matched_w"')
    header, *lines = (tmp_path / "w.csv").read_text().splitlines()
    assert header == "time,host,w"
    assert len(lines) == 2
    with pytest.raises(NotFound, match="no such measurement"):
        select(source, "nothing", ())


def test_names_that_clash_keep_their_own_in_line_protocol(databases: tuple[Any, Any], tmp_path: Path) -> None:
    source, destination = databases
    source.write(f"clash,host=a,time=b,Zone=c,zone=d host=1,time=2,v=3,V=4 {NOW_NS}")
    path = tmp_path / "clash.lp"
    state = export(source, path, "lp", "clash")
    assert path.read_text() == f"clash,Zone=c,host=a,time=b,zone=d host=1.0,time=2.0,v=3.0,V=4.0 {NOW_NS}\n"
    load(destination, path, "lp", state.selections[0])
    assert samples_of(destination, "clash") == samples_of(source, "clash")


class Limited:
    """A source whose answers hold so many rows at most, and which is busy every third time."""

    def __init__(self, db: Any, most: int) -> None:
        self._db, self._most, self._asked = db, most, 0

    def sql(self, statement: str, *parameters: Any) -> SqlTable:
        self._asked += 1
        if self._asked % 3 == 0:
            raise QueueFull("busy", retry_after_seconds=2)
        answer: SqlTable = self._db.sql(statement, *parameters)
        if len(answer) > self._most:
            raise QueryLimit("too many rows")
        return answer


def test_windows_shrink_to_what_an_answer_holds(
    databases: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = databases
    monkeypatch.setattr("api.bulk.export.PAGE_ROWS", 10)
    lines = [f"dense,host=h{at} v={at} {NOW_NS - at // 25}" for at in range(100)]
    source.write("\n".join(lines))
    selection = select(source, "dense", ())
    assert selection is not None
    file = PartialFile(str(tmp_path / "dense.lp"))
    file.open(0)
    slept: list[float] = []
    progress: list[Any] = []
    exporter = Exporter(
        Reader(Limited(source, 20), sleep=slept.append), file, clock=ManualClock(0), progressed=progress.append
    )
    exporter.selections(State(options="x", selections=[selection]), lambda chosen: encoder("lp", chosen))
    file.finish()
    written = (tmp_path / "dense.lp").read_text().splitlines()
    assert sorted(written) == sorted(line.replace(f"v={at}", f"v={at}.0") for at, line in enumerate(lines))
    assert slept
    assert dataclasses.astuple(progress[-1]) == (100, 100, 100)
